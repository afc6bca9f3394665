package pair

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// both makes a pair within this process.
func both(t *testing.T) (*Conn, *Conn) {
	t.Helper()
	a, f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestFiles(t *testing.T) {
	a, b := both(t)
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Send(Message{Op: "x"}, f, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	m, files, err := b.Recv()
	if err != nil || m.Op != "x" || len(files) != 2 {
		t.Fatal(m, files, err)
	}
	if got, err := io.ReadAll(files[1]); string(got) != "content" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	CloseAll(files)
	if err := a.Send(Message{Body: json.RawMessage(`"` + strings.Repeat("a", maxMessage) + `"`)}); err == nil {
		t.Error("a message without end was sent")
	}
	a.Close()
	if _, _, err := b.Recv(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestCaller(t *testing.T) {
	a, b := both(t)
	events := make(chan Message, 1)
	c := NewCaller(a, func(m Message, _ []*os.File) { events <- m })
	go func() { // answers in pairs, the second first
		for {
			first, _, err := b.Recv()
			if err != nil {
				return
			}
			second, _, err := b.Recv()
			if err != nil {
				return
			}
			for _, m := range []Message{second, first} {
				var err error
				if m.Op == "refuse" {
					err = &wire.Refusal{Errno: syscall.EADDRINUSE, Message: "taken"}
				}
				_ = b.Send(Answer(m, m.Body, err))
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var got int
			if _, err := c.Call("echo", i, &got); err != nil || got != i {
				t.Errorf("%d: %d, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	wg.Go(func() { _, _ = c.Call("echo", 0, nil) })
	if _, err := c.Call("refuse", nil, nil); !errors.Is(err, syscall.EADDRINUSE) || err.Error() != "taken" {
		t.Error(err)
	}
	wg.Wait()
	if err := b.Send(Message{Op: "event"}); err != nil {
		t.Fatal(err)
	}
	if m := <-events; m.Op != "event" {
		t.Errorf("%+v", m)
	}
	wg.Go(func() {
		if _, err := c.Call("alone", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
	b.Close()
	wg.Wait()
	<-c.Done()
}

// FuzzRecv: the child is not trusted; whatever it sends, the parent gets a message, or an error and no files.
func FuzzRecv(f *testing.F) {
	f.Add([]byte(`{"id":1,"op":"steal","body":{"network":"tcp"}}`), uint8(2))
	f.Add([]byte(`{`), uint8(1))
	f.Add(make([]byte, maxMessage+1), uint8(0))
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { null.Close() })
	f.Fuzz(func(t *testing.T, raw []byte, descriptors uint8) {
		mine, theirs, err := New()
		if err != nil {
			t.Fatal(err)
		}
		defer mine.Close()
		other, err := Open(theirs)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		var oob []byte
		if n := int(descriptors) % (maxFiles + 8); n > 0 {
			fds := make([]int, n)
			for i := range fds {
				fds[i] = int(null.Fd())
			}
			oob = unix.UnixRights(fds...)
		}
		if _, _, err := other.uc.WriteMsgUnix(raw, oob, nil); err != nil {
			return // larger than the socket takes
		}
		_, files, err := mine.Recv()
		if err != nil && len(files) > 0 || len(files) > maxFiles {
			t.Errorf("%d files, %v", len(files), err)
		}
		CloseAll(files)
	})
}
