package parent

import (
	"testing"
	"time"

	"github.com/stepin-dev/stepin/agent/lease"
	"github.com/stepin-dev/stepin/agent/pair"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// Who asks an agent about its sessions neither prolongs its life nor ends it under his own feet.
func TestAskingKeepsNobody(t *testing.T) {
	began := time.Now().Add(-time.Minute)
	hash := make([]byte, 32)
	p := &Parent{Options: Options{TTL: time.Hour}, table: lease.New(), began: began, tokens: tokens{[32]byte{}: began}}
	join := func(id string) uint64 {
		t.Helper()
		l, err := p.hello(pair.Hello{Session: id, Who: "ada@laptop", TokenHash: hash})
		if err != nil {
			t.Fatal(err)
		}
		return l.Generation
	}
	ends := func(when string) (until time.Time) {
		t.Helper()
		until, ok := p.deadline()
		if !ok {
			t.Fatal("no end, ", when)
		}
		return until
	}
	stays := func(when string) {
		t.Helper()
		if until, ok := p.deadline(); ok {
			t.Errorf("it ends at %v, %s", until, when)
		}
	}
	const tool = wire.ToolPrefix + "x"
	first := ends("before the first session")
	g := join(tool)
	stays("while it is asked")
	p.table.Bye(tool, g)
	if got := ends("after it was asked"); got != first {
		t.Errorf("the first session is waited for until %v, and was until %v", got, first)
	}
	g = join("session")
	stays("while it is used")
	p.table.Bye("session", g)
	last := ends("after its last session")
	g = join(tool)
	stays("while it is asked")
	p.table.Bye(tool, g)
	if got := ends("after it was asked"); got != last {
		t.Errorf("it ends at %v, and did at %v", got, last)
	}
	g = join(tool)
	join("session")
	p.table.Bye(tool, g)
	stays("while it is used")
}
