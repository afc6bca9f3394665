package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

func TestFiles(t *testing.T) {
	p := newPod(t)
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	read := func(name string) (string, error) {
		var o wire.Opened
		stream, err := s.open(wire.KindOpen, wire.Path{Path: wire.Name(name)}, &o)
		if err != nil {
			return "", err
		}
		defer stream.Close()
		head := make([]byte, o.Head)
		_, err = io.ReadFull(stream, head)
		return string(head), err
	}
	if got, err := read("/app/file"); got != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := read("/secret/key"); got != "canary" || err != nil {
		t.Errorf("the group's Secret: %q, %v", got, err)
	}
	for name, want := range map[string]error{"/app/absolute": syscall.ELOOP, "/app/relative": syscall.ELOOP, "/data/dir/file": nil, "/data/fifo": syscall.ENXIO,
		"/data": syscall.EISDIR, "/nowhere": syscall.ENOENT, "relative": syscall.EINVAL, "/a/../b": syscall.EINVAL, "/app/file/x": syscall.ENOTDIR} {
		if _, err := read(name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if _, err := read("/secret/root"); !ordinary() && !errors.Is(err, syscall.EACCES) {
		t.Errorf("root's Secret: %v", err)
	}
	// A directory behind a link that leads to the machine's /etc is the pod's /etc.
	var attr wire.Attr
	if _, err := s.open(wire.KindLstat, wire.Path{Path: "/etc/passwd"}, &attr); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("the machine's /etc/passwd: %v", err)
	}
	var link wire.Link
	s.mustOpen(wire.KindReadlink, wire.Path{Path: "/config/..data"}, &link)
	if link.Target != "..v1" {
		t.Errorf("..data → %q", link.Target)
	}
	entries := map[wire.Name]wire.DirEntry{}
	d := json.NewDecoder(s.mustOpen(wire.KindReaddir, wire.Path{Path: "/config"}, nil))
	for {
		var e wire.DirEntry
		if err := d.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		entries[e.Name] = e
	}
	if len(entries) != 1002 || entries["key7"].Target != "..data/key7" {
		t.Errorf("%d entries", len(entries))
	}
	// A large file, by parts.
	var o wire.Opened
	stream := s.mustOpen(wire.KindOpen, wire.Path{Path: "/data/large"}, &o)
	if o.Head != wire.HeadLen || o.Attr.Size != 320000 {
		t.Fatalf("%+v", o)
	}
	if _, err := io.CopyN(io.Discard, stream, int64(o.Head)); err != nil {
		t.Fatal(err)
	}
	chunks := wire.NewChunkReader(stream)
	for _, part := range []struct{ off, length, want int }{{16, 4, 4}, {310000, 100000, 10000}, {400000, 10, 0}, {0, 320000, 320000}} {
		if _, err := stream.Write(wire.ReadRequest{Off: int64(part.off), Len: uint32(part.length)}.Append(nil)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(wire.NewDataReader(chunks))
		if err != nil || len(got) != part.want {
			t.Errorf("%+v: %d bytes, %v", part, len(got), err)
		}
	}
	for _, w := range []string{"canary", "value 1"} {
		if strings.Contains(a.err.String(), w) {
			t.Errorf("content %q is in the log", w)
		}
	}
}

func TestWatch(t *testing.T) {
	p := newPod(t)
	s := startAgent(t, p.pid).join("one", "")
	stream := s.mustOpen(wire.KindWatch, wire.Watch{Paths: []string{"/config"}}, nil)
	next := func() (files map[string]string) {
		t.Helper()
		kind, body, err := wire.Read(stream)
		if err != nil || kind != wire.KindWatch {
			t.Fatal(kind, err)
		}
		var snap wire.Snapshot
		if err := wire.Decode(body, &snap); err != nil || snap.Errno != 0 || snap.Path != "/config" {
			t.Fatalf("%+v %v", snap, err)
		}
		files = map[string]string{}
		data := wire.NewDataReader(wire.NewChunkReader(stream))
		r := tar.NewReader(data)
		for {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, _ := io.ReadAll(r)
			files[h.Name] = string(content) + h.Linkname
		}
		_, _ = io.Copy(io.Discard, data)
		return files
	}
	files := next()
	if files["..data"] != "..v1" || files["..v1/key3"] != "value 1" || files["key3"] != "..data/key3" || len(files) != 2003 {
		t.Fatalf("%d files", len(files))
	}
	p.do(command{Do: "switch", Text: "2", N: 1000})
	until(t, 5*time.Second, "the switch is seen", func() bool {
		files = next()
		return files["..data"] == "..v2" && files["..v2/key3"] == "value 2"
	})
	// What is not there is said for its path alone.
	gone := s.mustOpen(wire.KindWatch, wire.Watch{Paths: []string{"/nowhere"}}, nil)
	_, body, err := wire.Read(gone)
	var snap wire.Snapshot
	if err != nil || wire.Decode(body, &snap) != nil || syscall.Errno(snap.Errno) != syscall.ENOENT {
		t.Errorf("%+v %v", snap, err)
	}
}
