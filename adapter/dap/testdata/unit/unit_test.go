package unit

import (
	"os"
	"testing"
)

func TestDouble(t *testing.T) {
	dir, _ := os.Getwd()
	got := Double(21)
	t.Log("in", dir) // stop here
	if got != 42 {
		t.Fatal(got)
	}
}
