package e2e

import (
	"flag"
	"os"
	"testing"
)

// together is how many parallel subtests run at once unless -parallel says otherwise: they wait for the cluster for most
// of the time; with more, those that measure would measure each other.
const together = "6"

func TestMain(m *testing.M) {
	given := false
	flag.Parse()
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", together); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
