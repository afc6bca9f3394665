package child

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/stepin-dev/stepin/agent/files"
	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// path reads a request for a file and notes it.
func (c *Child) path(op string, r *mux.Request) (string, bool) {
	var p wire.Path
	if !decode(r, &p) {
		return "", false
	}
	c.trace.note(op, string(p.Path), p.Own)
	return string(p.Path), true
}

// tell answers a request whose answer is all in the reply.
func tell(r *mux.Request, body any, err error) {
	if err != nil {
		r.Refuse(err)
		return
	}
	if stream, err := r.Accept(body); err == nil {
		stream.Close()
	}
}

// bare is err's errno alone: a file's error needs no words, and names stay out of them.
func bare(err error) error {
	if err == nil {
		return nil
	}
	return wire.ErrnoOf(err, syscall.EIO)
}

// onRoot is onFiles for paths.
func (c *Child) onRoot(ctx context.Context, f func(root *files.Root) error) error {
	root, _, err := c.view.wait(ctx)
	if err != nil {
		return err
	}
	return c.onFiles(ctx, func() error { return f(root) })
}

// onFiles runs f, which makes system calls on files and nothing that may wait for a session, when there is a slot for it.
func (c *Child) onFiles(ctx context.Context, f func() error) error {
	select {
	case c.fileOps <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.fileOps }()
	return f()
}

func (c *Child) lstat(r *mux.Request) {
	if name, ok := c.path("lstat", r); ok {
		var a wire.Attr
		err := c.onRoot(r.Context(), func(root *files.Root) (err error) { a, err = root.Lstat(name); return err })
		tell(r, a, bare(err))
	}
}

func (c *Child) readlink(r *mux.Request) {
	if name, ok := c.path("readlink", r); ok {
		var to string
		err := c.onRoot(r.Context(), func(root *files.Root) (err error) { to, err = root.Readlink(name); return err })
		tell(r, wire.Link{Target: wire.Name(to)}, bare(err))
	}
}

// readdir accepts with the first name, so that a directory that cannot be read is a refusal.
func (c *Child) readdir(r *mux.Request) {
	name, ok := c.path("readdir", r)
	if !ok {
		return
	}
	var stream *mux.Stream
	var line []byte
	const batch = 32 << 10 // bytes gathered for one write
	accept := func() (err error) {
		if stream == nil {
			stream, err = r.Accept(nil)
		}
		return err
	}
	flush := func() error {
		if err := accept(); err != nil {
			return err
		}
		_, err := stream.Write(line)
		line = line[:0]
		return err
	}
	err := c.onRoot(r.Context(), func(root *files.Root) error {
		return root.Readdir(name, func(e wire.DirEntry) error {
			raw, err := json.Marshal(e)
			if err != nil {
				return err
			}
			if line = append(append(line, raw...), '\n'); len(line) <= batch {
				return nil
			}
			<-c.fileOps // a session that does not read holds no slot
			err = flush()
			c.fileOps <- struct{}{}
			return err
		})
	})
	switch {
	case err != nil && stream == nil:
		r.Refuse(bare(err))
		return
	case err == nil:
		err = flush()
	}
	if stream == nil {
		return
	}
	if err != nil {
		stream.Reset(wire.ErrnoOf(err, syscall.EIO))
	}
	stream.Close()
}

// open answers with the file's beginning and then serves reads until the session closes.
func (c *Child) open(r *mux.Request) {
	name, ok := c.path("open", r)
	if !ok {
		return
	}
	var f *os.File
	var attr wire.Attr
	var head []byte
	err := c.onRoot(r.Context(), func(root *files.Root) (err error) {
		if f, attr, err = root.Open(name); err == nil {
			head, err = files.Head(f, attr)
		}
		return err
	})
	if f != nil {
		defer f.Close()
	}
	if err != nil {
		r.Refuse(bare(err))
		return
	}
	stream, err := r.Accept(wire.Opened{Attr: attr, Head: uint32(len(head))})
	if err != nil {
		return
	}
	defer stream.Close()
	if _, err := stream.Write(head); err != nil {
		return
	}
	head = nil // an open file may live for long
	var b [wire.ReadRequestLen]byte
	for {
		if _, err := io.ReadFull(stream, b[:]); err != nil {
			return
		}
		req, ok := wire.ParseReadRequest(b[:])
		if !ok {
			stream.Reset(syscall.EINVAL)
			return
		}
		if err := c.part(stream, f, req); err != nil {
			return
		}
	}
}

// partLen is large enough that a read of 1 MiB is few chunks.
const partLen = 60 << 10

// part answers one ReadRequest.
func (c *Child) part(stream *mux.Stream, f *os.File, req wire.ReadRequest) error {
	buf, ok := c.parts.Get().(*[]byte)
	if !ok {
		b := make([]byte, partLen)
		buf = &b
	}
	defer c.parts.Put(buf)
	for off, left := req.Off, int64(req.Len); left > 0; {
		var n int
		err := c.onFiles(stream.Context(), func() (err error) {
			n, err = f.ReadAt((*buf)[:min(left, int64(len(*buf)))], off)
			return err
		})
		if n > 0 {
			if err := wire.WriteData(stream, (*buf)[:n], false); err != nil {
				return err
			}
			off, left = off+int64(n), left-int64(n)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			_, err = stream.Write(wire.AppendErrno(nil, wire.ErrnoOf(err, syscall.EIO)))
			return err
		}
	}
	return wire.WriteData(stream, nil, true)
}
