package main

import (
	"encoding/json"
	"io"
	"slices"
	"testing"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// TestNotUTF8: variables, names and links are bytes, and come as they are.
func TestNotUTF8(t *testing.T) {
	p := newPod(t, "LATIN1=\xe4\xf6\xfc", "\xff=name")
	s := startAgent(t, p.pid).join("one", "")
	env := s.describe().Env
	for _, want := range []wire.Name{"LATIN1=\xe4\xf6\xfc", "\xff=name"} {
		if !slices.Contains(env, want) {
			t.Errorf("the environment lacks %q", want)
		}
	}
	targets := map[wire.Name]wire.Name{}
	d := json.NewDecoder(s.mustOpen(wire.KindReaddir, wire.Path{Path: "/data"}, nil))
	for {
		var e wire.DirEntry
		if err := d.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		targets[e.Name] = e.Target
	}
	if _, ok := targets[latin1]; !ok || targets[latin1Link] != latin1 {
		t.Errorf("names %q", targets)
	}
	var link wire.Link
	if s.mustOpen(wire.KindReadlink, wire.Path{Path: "/data/" + latin1Link}, &link); link.Target != latin1 {
		t.Errorf("the link leads to %q", link.Target)
	}
	var o wire.Opened
	stream := s.mustOpen(wire.KindOpen, wire.Path{Path: "/data/" + latin1}, &o)
	head := make([]byte, o.Head)
	if _, err := io.ReadFull(stream, head); err != nil || string(head) != "latin-1" {
		t.Errorf("%q, %v", head, err)
	}
}
