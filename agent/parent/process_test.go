package parent

import (
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/agent/lease"
	"github.com/stepin-dev/stepin/agent/pair"
)

// TestBrokenChild: a child that lives and whose end of the pair is of no use any more is ended, and the parent with it.
func TestBrokenChild(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, theirs *os.File){
		"malformed": func(t *testing.T, theirs *os.File) {
			if _, err := unix.Write(int(theirs.Fd()), []byte("{")); err != nil {
				t.Fatal(err)
			}
		},
		"closed": func(t *testing.T, theirs *os.File) { theirs.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			conn, theirs, err := pair.New()
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			cmd := exec.Command("sleep", "1000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			child := newChildProcess(cmd, conn, slog.New(slog.DiscardHandler))
			t.Cleanup(child.end)
			if err := child.begin(pair.Start{}, nil); err != nil {
				t.Fatal(err)
			}
			p := &Parent{Options: Options{Log: child.log}, table: lease.New(), child: child}
			p.began = p.began.AddDate(9000, 0, 0) // it waits for its first session
			spoil(t, theirs)
			if err := p.loop(t.Context()); err == nil || !strings.Contains(err.Error(), "child ended (signal: killed)") {
				t.Error(err)
			}
		})
	}
}
