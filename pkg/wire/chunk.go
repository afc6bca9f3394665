package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"syscall"
)

// A chunk carries one datagram, one piece of a mirrored flow or one answer:
//
//	0  1  type
//	1  1  0
//	2  2  length of what follows, big-endian
//	4  .  data; for ChunkErrno 2 bytes errno; for ChunkGap 8 bytes count of lost bytes
const (
	ChunkData  = 0
	ChunkErrno = 1 // the sender's kernel reported an errno: the flow goes on
	ChunkGap   = 2 // bytes of a mirrored flow were lost
)

// MaxChunk bounds a chunk's data; a UDP datagram has at most 65,507 bytes.
const MaxChunk = 65535

const chunkHeaderLen = 4

// Chunk is one chunk. Data is valid until the next Read.
type Chunk struct {
	Type  uint8
	Data  []byte
	Errno syscall.Errno
	Gap   uint64
}

// ChunkReader reads chunks from a stream. It grows to the largest chunk seen.
type ChunkReader struct {
	r   io.Reader
	buf []byte
}

// NewChunkReader reads from r.
func NewChunkReader(r io.Reader) *ChunkReader { return &ChunkReader{r: r} }

// Read reads the next chunk. A clean end before it is io.EOF. A type this version does not know is returned as it is,
// for the caller to skip.
func (c *ChunkReader) Read() (Chunk, error) {
	var h [chunkHeaderLen]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return Chunk{}, err
	}
	n := int(binary.BigEndian.Uint16(h[2:]))
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	data := c.buf[:n]
	if _, err := io.ReadFull(c.r, data); err != nil {
		return Chunk{}, noEOF(err)
	}
	switch h[0] {
	case ChunkErrno:
		if n != 2 {
			return Chunk{}, fmt.Errorf("wire: an errno of %d bytes", n)
		}
		return Chunk{Type: h[0], Errno: Errno(binary.BigEndian.Uint16(data))}, nil
	case ChunkGap:
		if n != 8 {
			return Chunk{}, fmt.Errorf("wire: a gap of %d bytes", n)
		}
		return Chunk{Type: h[0], Gap: binary.BigEndian.Uint64(data)}, nil
	}
	return Chunk{Type: h[0], Data: data}, nil
}

// AppendData appends a ChunkData to b. It panics where data is longer than MaxChunk: only the caller can know how to
// divide it.
func AppendData(b, data []byte) []byte {
	if len(data) > MaxChunk {
		panic("wire: chunk longer than MaxChunk")
	}
	b = append(b, ChunkData, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// AppendErrno appends a ChunkErrno to b.
func AppendErrno(b []byte, errno syscall.Errno) []byte {
	b = append(b, ChunkErrno, 0, 0, 2)
	return binary.BigEndian.AppendUint16(b, uint16(errno))
}

// AppendGap appends a ChunkGap to b.
func AppendGap(b []byte, lost uint64) []byte {
	b = append(b, ChunkGap, 0, 0, 8)
	return binary.BigEndian.AppendUint64(b, lost)
}

// WriteData writes data, however long, as chunks, and an empty one as its end where end is set.
func WriteData(w io.Writer, data []byte, end bool) error {
	for len(data) > 0 {
		n := min(len(data), MaxChunk)
		if _, err := w.Write(AppendData(make([]byte, 0, n+chunkHeaderLen), data[:n])); err != nil {
			return err
		}
		data = data[n:]
	}
	if end {
		_, err := w.Write(AppendData(nil, nil))
		return err
	}
	return nil
}

// DataReader turns the chunks of one answer back into bytes: it ends with io.EOF at an empty ChunkData, with the
// errno at a ChunkErrno.
type DataReader struct {
	c    *ChunkReader
	rest []byte
	err  error
}

// NewDataReader reads one answer from c.
func NewDataReader(c *ChunkReader) *DataReader { return &DataReader{c: c} }

func (d *DataReader) Read(p []byte) (int, error) {
	for len(d.rest) == 0 && d.err == nil {
		ch, err := d.c.Read()
		switch {
		case err != nil:
			d.err = noEOF(err)
		case ch.Type == ChunkErrno:
			d.err = ch.Errno
		case ch.Type == ChunkData && len(ch.Data) == 0:
			d.err = io.EOF
		case ch.Type == ChunkData:
			d.rest = ch.Data
		}
	}
	if len(d.rest) == 0 {
		return 0, d.err
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}
