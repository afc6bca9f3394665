package dap_test

import (
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
)

// TestTenConfigurations holds the same conversation with Delve alone and through the adapter.
func TestTenConfigurations(t *testing.T) {
	for _, c := range talk.Configurations() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c := c.Lay(t, "testdata")
			want := c.HoldBare(t)
			a := startAdapter(t, c.Dir)
			got := c.Hold(t, a.Client, c.Args("local/1"))
			must(t, a.Client, "disconnect", nil)
			<-a.ended
			c.Compare(t, got, want)
		})
	}
}
