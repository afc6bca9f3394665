package session

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/podfs"
	"github.com/stepin-dev/stepin/pkg/policy"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// maxDir bounds one directory's listing: a directory that is larger is refused rather than kept in memory.
const maxDir = 64 << 20

// files is the pod's file system by way of the agent, by the debuggee's paths.
type files struct {
	link    *link
	plan    *policy.FilesPlan
	entered *atomic.Bool         // false: nothing runs inside yet, so whatever is asked is the session's own doing
	attrs   map[string]wire.Attr // of the pod's paths, known before that; read only
}

// path is what is asked of the agent for one of the debuggee's paths.
func (f files) path(path string) wire.Path {
	return wire.Path{Path: wire.Name(f.plan.PodPath(path)), Own: !f.entered.Load()}
}

var _ podfs.Source = files{}

func (f files) Lstat(ctx context.Context, path string) (a wire.Attr, err error) {
	if a, known := f.attrs[f.plan.PodPath(path)]; known && !f.entered.Load() {
		return a, nil
	}
	return a, fileErr(f.link.ask(ctx, wire.KindLstat, f.path(path), &a))
}

func (f files) ReadLink(ctx context.Context, path string) (string, error) {
	var l wire.Link
	err := f.link.ask(ctx, wire.KindReadlink, f.path(path), &l)
	return string(l.Target), fileErr(err)
}

func (f files) ReadDir(ctx context.Context, path string) (list []wire.DirEntry, err error) {
	stream, err := f.link.open(ctx, wire.KindReaddir, f.path(path), nil)
	if err != nil {
		return nil, fileErr(err)
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Reset(syscall.ECANCELED) })
	defer stop()
	d := json.NewDecoder(io.LimitReader(stream, maxDir))
	for {
		var e wire.DirEntry
		if err := d.Decode(&e); err == io.EOF {
			return list, nil
		} else if err != nil {
			return nil, fileErr(err)
		}
		list = append(list, e)
	}
}

func (f files) Open(ctx context.Context, path string) (podfs.File, error) {
	var o wire.Opened
	stream, err := f.link.open(ctx, wire.KindOpen, f.path(path), &o)
	if err != nil {
		return nil, fileErr(err)
	}
	stop := context.AfterFunc(ctx, func() { stream.Reset(syscall.ECANCELED) })
	defer stop()
	if o.Head > wire.HeadLen {
		stream.Close()
		return nil, syscall.EIO
	}
	file := &podFile{stream: stream, attr: o.Attr, head: make([]byte, o.Head)}
	if _, err := io.ReadFull(stream, file.head); err != nil {
		stream.Close()
		return nil, fileErr(err)
	}
	stream.Settle() // a file may stay open for hours and be read no more
	file.chunks = wire.NewChunkReader(stream)
	return file, nil
}

// podFile is an open file of the pod: a stream that reads are asked on, one at a time.
type podFile struct {
	stream *mux.Stream
	attr   wire.Attr
	head   []byte

	mu     sync.Mutex
	chunks *wire.ChunkReader
	broken error // a read was given up midway: what comes next cannot be told apart
}

func (f *podFile) Attr() wire.Attr { return f.attr }
func (f *podFile) Head() []byte    { return f.head }
func (f *podFile) Close() error    { return f.stream.Close() }

// ReadAt reads at most wire.MaxRead bytes, fewer than len(p) only with an error.
func (f *podFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return 0, f.broken
	}
	stop := context.AfterFunc(ctx, func() { f.stream.Reset(syscall.ECANCELED) })
	defer stop()
	defer f.stream.Settle()
	req := wire.ReadRequest{Off: off, Len: uint32(len(p))}
	if _, err := f.stream.Write(req.Append(nil)); err != nil {
		return 0, f.give(err)
	}
	answer := wire.NewDataReader(f.chunks)
	n, err := io.ReadFull(answer, p)
	if err == nil { // the empty chunk behind it
		var one [1]byte
		if m, end := answer.Read(one[:]); m != 0 || end != io.EOF {
			return 0, f.give(errors.Join(errors.New("session: more bytes than asked for"), end))
		}
		return n, nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		if f.stream.Context().Err() != nil {
			return 0, f.give(err)
		}
		return n, io.EOF
	}
	var no syscall.Errno
	if errors.As(err, &no) && f.stream.Context().Err() == nil {
		return n, no // the pod's own errno: the stream goes on
	}
	return 0, f.give(err)
}

func (f *podFile) give(err error) error {
	f.broken = fileErr(err)
	return f.broken
}

// fileErr makes an errno of what went wrong, as a network file system would.
func fileErr(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	}
	return errno(err, syscall.EIO)
}

// earlyWatch is a watch of small volumes that was asked for before it was decided which of them come from the pod. What
// comes waits within the channel's budget until somebody reads it.
type earlyWatch struct {
	paths  []string
	conn   *mux.Conn
	done   chan struct{} // closed when stream or err is there
	stream *mux.Stream
	err    error
}

// watchEarly asks for the volumes that would come whole.
func (s *Session) watchEarly(volumes []wire.Volume) *earlyWatch {
	paths := small(volumes)
	conn, _ := s.link.current()
	if len(paths) == 0 || conn == nil {
		return nil
	}
	e := &earlyWatch{paths: paths, conn: conn, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		e.stream, e.err = s.watch(s.ctx, conn, paths)
	}()
	return e
}

// take is the stream, if it is one of this channel and for just these paths; else it is closed.
func (e *earlyWatch) take(conn *mux.Conn, paths []string) *mux.Stream {
	if e == nil {
		return nil
	}
	<-e.done // it ends with the session
	if e.err == nil && e.conn == conn && slices.Equal(e.paths, paths) {
		return e.stream
	}
	if e.err == nil {
		e.stream.Close()
	}
	return nil
}

func (s *Session) watch(ctx context.Context, conn *mux.Conn, paths []string) (*mux.Stream, error) {
	s.link.opened.Add(1)
	defer s.link.traced(wire.KindWatch)()
	return conn.Open(ctx, wire.KindWatch, wire.Watch{Paths: paths}, nil)
}

// watchVolumes keeps the small volumes current for as long as ctx lasts. The first round of snapshots closes ready.
func (s *Session) watchVolumes(ctx context.Context, paths []string, ready func()) {
	early := s.early
	if len(paths) == 0 {
		early.take(nil, nil)
		ready()
		return
	}
	s.link.keep(ctx, volumeRetry, func(conn *mux.Conn) (err error) {
		stream := early.take(conn, paths)
		if early = nil; stream == nil {
			if stream, err = s.watch(ctx, conn, paths); err != nil {
				return err
			}
		}
		defer stream.Close()
		stop := context.AfterFunc(ctx, func() { stream.Close() })
		defer stop()
		for seen := 1; ; seen++ {
			if err := s.readSnapshot(stream); err != nil {
				return err
			}
			if seen == len(paths) {
				ready()
			}
		}
	}, func(err error) { s.log.Debug("small volumes", "err", err) })
}

func (s *Session) readSnapshot(r io.Reader) error {
	kind, body, err := wire.Read(r)
	if err != nil {
		return err
	}
	var snap wire.Snapshot
	if err := wire.Decode(body, &snap); err != nil {
		return err
	}
	if kind != wire.KindWatch {
		return errors.New("session: not a snapshot")
	}
	if snap.Errno != 0 { // each of its files is asked for then, and has its own errno
		s.trees.set(s.seen(snap.Path), nil)
		s.log.Debug("volume not sent whole", "path", snap.Path, "err", wire.Errno(snap.Errno))
		return nil
	}
	data := wire.NewDataReader(wire.NewChunkReader(r))
	tree, err := podfs.ReadTar(data)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, data); err != nil {
		return err
	}
	s.trees.set(s.seen(snap.Path), tree)
	return nil
}

// seen is where the debuggee's look at a volume ends up, through this machine's links.
func (s *Session) seen(volume string) string {
	if at, ok := s.aliases[volume]; ok {
		return at
	}
	return volume
}
