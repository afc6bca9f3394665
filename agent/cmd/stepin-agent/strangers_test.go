package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// descriptors counts those of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestStrangersAreBounded: whoever can dial the agent and has no token cannot fill it, and keeps no session out.
func TestStrangersAreBounded(t *testing.T) {
	const (
		strangers      = 400
		maxDescriptors = 64 + 16        // package child's maxWaiting, and some
		maxMemory      = 64 * 512 << 10 // what each may make it hold is a fraction of this
	)
	p := servePod(t)
	a := startAgent(t, p.pid)
	s := a.join("one", "")
	s.mustSteal(tcp(8080))
	if got := p.ask("tcp", podIP+":8080", true); !strings.HasPrefix(got, "session ") {
		t.Fatal(got)
	}
	child := a.childPid()
	memory, files := anonymous(t, child), descriptors(t, child)
	for i := range strangers {
		conn, err := a.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		switch i % 3 {
		case 0: // says nothing
		case 1:
			go manyStreams(conn)
		case 2:
			go manyBytes(conn)
		}
	}
	mostMemory, mostFiles := 0, 0
	for range 20 {
		mostMemory, mostFiles = max(mostMemory, anonymous(t, child)-memory), max(mostFiles, descriptors(t, child)-files)
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%d strangers: %d KiB and %d descriptors more", strangers, mostMemory>>10, mostFiles)
	if mostMemory > maxMemory || mostFiles > maxDescriptors {
		t.Error("that is too much")
	}
	if got := p.ask("tcp", podIP+":8080", true); !strings.HasPrefix(got, "session ") {
		t.Errorf("the session that was there: %q", got)
	}
	two := a.join("two", "")
	if two.describe().Hostname != podName {
		t.Error("a session that comes now is told nothing")
	}
}

func unlogged() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	return c
}

func manyStreams(conn net.Conn) {
	session, err := yamux.Client(conn, unlogged())
	if err != nil {
		return
	}
	defer session.Close()
	for {
		stream, err := session.Open()
		if err != nil {
			return
		}
		go stream.Write(make([]byte, 256<<10))
	}
}

func manyBytes(conn net.Conn) {
	session, err := yamux.Client(conn, unlogged())
	if err != nil {
		return
	}
	defer session.Close()
	stream, err := session.Open()
	if err != nil {
		return
	}
	_ = wire.Write(stream, wire.KindHello, wire.Hello{Session: "stranger", Token: "guessed"})
	_, _ = io.Copy(stream, endless{})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
