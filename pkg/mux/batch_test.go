package mux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// slowly is a connection that takes a write only when it is told to, and notes each.
type slowly struct {
	io.Reader
	begun, take chan struct{}
	writes      [][]byte
	err         error
}

func (s *slowly) Write(p []byte) (int, error) {
	s.begun <- struct{}{}
	<-s.take
	s.writes = append(s.writes, bytes.Clone(p))
	return len(p), s.err
}

func (s *slowly) Close() error { return nil }

// TestBatch: a header goes with its body, and what comes while the connection is busy goes in one write.
func TestBatch(t *testing.T) {
	conn := &slowly{begun: make(chan struct{}), take: make(chan struct{})}
	b := newBatch(conn)
	defer b.Close()
	header := []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 12}
	window := []byte{0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9} // of another kind: nothing follows
	write := func(p []byte) {
		t.Helper()
		if n, err := b.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	write(header)
	select {
	case <-b.written(): // nothing that could be written is pending
	case <-conn.begun:
		t.Fatal("a header was written without its body")
	}
	first := make(chan error)
	go func() { // alone, hence written at once
		_, err := b.Write(header) // the body, although it looks like a header
		first <- err
	}()
	<-conn.begun
	write(window)
	write(header)
	write([]byte("hello, world"))
	write(header) // waits for its body
	all := b.written()
	select {
	case <-all:
		t.Fatal("not all has been written")
	default:
	}
	conn.take <- struct{}{}
	if err := <-first; err != nil {
		t.Error(err)
	}
	<-conn.begun
	conn.take <- struct{}{}
	<-all
	want := [][]byte{
		bytes.Join([][]byte{header, header}, nil),
		bytes.Join([][]byte{window, header, []byte("hello, world")}, nil),
	}
	if len(conn.writes) != 2 || !bytes.Equal(conn.writes[0], want[0]) || !bytes.Equal(conn.writes[1], want[1]) {
		t.Errorf("%q", conn.writes)
	}
}

// TestBatchFails: the error of a write reaches the next, and nobody waits for ever.
func TestBatchFails(t *testing.T) {
	conn := &slowly{begun: make(chan struct{}), take: make(chan struct{}), err: io.ErrShortWrite}
	b := newBatch(conn)
	first := make(chan error)
	go func() {
		_, err := b.Write([]byte("one"))
		first <- err
	}()
	<-conn.begun
	if _, err := b.Write(make([]byte, maxPending)); err != nil {
		t.Fatal(err)
	}
	full := make(chan error)
	go func() {
		_, err := b.Write([]byte("too much"))
		full <- err
	}()
	all := b.written()
	conn.take <- struct{}{}
	for _, failed := range []chan error{first, full} {
		if err := <-failed; !errors.Is(err, io.ErrShortWrite) {
			t.Error(err)
		}
	}
	<-all
	<-b.written()

	b = newBatch(conn)
	b.Close()
	if _, err := b.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
