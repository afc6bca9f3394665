package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/session"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// TestPrintSessions: a line each, and what others chose cannot break it.
func TestPrintSessions(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	list := []session.Used{
		{ID: "4f3a90c2aaaaaaaa", Namespace: "shop", Target: "deployment/orders", Pod: "orders-1", Who: "ann@desk", Since: since, Mine: true, Paused: true, Mode: "mirror",
			Ports: []wire.Port{{Network: "tcp", Port: 80}, {Network: "udp", Port: 53}}},
		{ID: "00", Namespace: "shop", Target: "pod/x", Pod: "x", Who: "bob\x1b[2J\n@desk", Since: since, Lost: true},
		{Namespace: "shop", Pod: "y", Who: "eve@desk", Note: "it does not answer"},
	}
	var out, errs bytes.Buffer
	cmd := New("", &out, &errs)
	if err := printSessions(cmd, true, list); err != nil {
		t.Fatal(err)
	}
	want := `NAMESPACE  ID        TARGET             POD       WHO            SINCE                MODE    PORTS      NOTE
shop       4f3a90c2  deployment/orders  orders-1  ann@desk       2026-01-02 03:04:05  mirror  80,53/udp  yours, at a breakpoint
shop       00        pod/x              x         bob?[2J @desk  2026-01-02 03:04:05  -       -          reconnecting
shop       -         -                  y         eve@desk       -                    -       -          it does not answer
`
	if out.String() != want || errs.Len() > 0 {
		t.Errorf("%s%s", out.String(), errs.String())
	}
	out.Reset()
	if err := printSessions(cmd, false, nil); err != nil || out.Len() > 0 || errs.String() != "stepin: there are no sessions\n" {
		t.Errorf("%q, %q, %v", out.String(), errs.String(), err)
	}
}
