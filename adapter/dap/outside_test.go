package dap

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKillTree ends a process with its children and theirs.
func TestKillTree(t *testing.T) {
	cmd := exec.Command("sh", "-c", `sh -c 'sleep 600 & echo $!; wait' & sleep 600 & echo $!; wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text [64]byte
	said := ""
	for strings.Count(said, "\n") < 2 { // both have started
		n, err := out.Read(text[:])
		if err != nil {
			t.Fatal(err)
		}
		said += string(text[:n])
	}
	killTree(cmd.Process)
	cmd.Wait()
	for pid := range strings.FieldsSeq(said) {
		for range 500 { // whoever reaps them has to come to it
			stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
			if err != nil || strings.Contains(string(stat), ") Z ") {
				pid = ""
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if pid != "" {
			t.Errorf("process %s lives", pid)
		}
	}
}

// dirOnly is a session of which only the directory matters.
type dirOnly struct {
	Runner
	dir string
}

func (d dirOnly) Dir() string { return d.dir }

// TestAdopt checks what the editor gets to know of a child session: how it comes back, and nothing of the pod's.
func TestAdopt(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const conf = `{"type":"debugpy","name":"child","subProcessId":7,"env":{"SECRET":"x"},"python":["/stub","1"],"connect":{"host":"127.0.0.1","port":9}}`
	for _, how := range []struct{ startDebugging, extension bool }{{startDebugging: true}, {startDebugging: true, extension: true}, {}} {
		startDebugging := how.startDebugging
		ours, theirs := net.Pipe()
		log := slog.New(slog.DiscardHandler)
		c := &conversation{log: log, ctx: context.Background(), editor: newLink("editor", ours, log), kind: "mine", client: client{Children: startDebugging, extension: extension{OwnChildren: how.extension}}}
		read := make(chan []byte, 1)
		go func() {
			l := newLink("test", theirs, log)
			l.read(func(m *Message) {
				if m.Event == childEvent {
					read <- m.Field("body")
				} else if !how.extension {
					read <- m.Field("arguments")
				}
			})
			close(read)
		}()
		r := &run{c: c, name: "test", way: Streams, socket: filepath.Join(dir, "dap1"), session: &live{runner: dirOnly{dir: dir}}}
		event := newEvent("debugpyAttach", json.RawMessage(conf))
		fate := r.onAttachEvent(event)
		var got string
		if startDebugging {
			got = string(<-read)
			for _, want := range []string{`"type":"mine"`, `"request":"attach"`, `"subProcessId":7`, filepath.Join(dir, "dap1c")} {
				if !strings.Contains(got, want) {
					t.Errorf("%s lacks %s", got, want)
				}
			}
		} else {
			got = string(event.Field("body"))
			if strings.Contains(got, `"port":9}`) || !strings.Contains(got, `"subProcessId":7`) {
				t.Errorf("the child does not come back: %s", got)
			}
		}
		if strings.Contains(got, "SECRET") || strings.Contains(got, "stub") || (fate == drop) != startDebugging {
			t.Errorf("%d %s", fate, got)
		}
		r.closeRelays()
		if _, err := r.relayOn("tcp6", "tcp", "127.0.0.1:1"); err == nil {
			t.Error("a child of a debugger that has ended")
		}
		c.editor.close()
		io.Copy(io.Discard, theirs)
		c.wg.Wait()
	}
}
