package child

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/wire"
)

const (
	// settle is the wait after a change: a volume's switch is several events.
	settle = 50 * time.Millisecond
	// recheck is how often volumes are looked at where inotify cannot be had (its instances are counted per user).
	recheck = time.Second
	// maxWatched bounds the volumes of one watch.
	maxWatched = 256
)

// watch sends small volumes whole, and again after each change.
//
// Goroutines: watchAll and one that reads inotify, one that waits for the stream's end; both end with it.
func (c *Child) watch(r *mux.Request) {
	var w wire.Watch
	if !decode(r, &w) {
		return
	}
	if len(w.Paths) > maxWatched {
		r.Refuse(syscall.E2BIG)
		return
	}
	stream, err := r.Accept(nil)
	if err != nil {
		return
	}
	defer stream.Close()
	d := &dirty{volumes: map[string]bool{}, kick: make(chan struct{}, 1)}
	ended := make(chan struct{})
	go func() {
		_ = untilEnd(stream)
		close(ended)
	}()
	go c.watchAll(stream.Context(), w.Paths, ended, d.add) // it begins before the first reading, so that no change is missed
	last := map[string][]byte{}
	for _, v := range w.Paths {
		d.add(v)
	}
	for {
		for _, v := range d.take() {
			c.trace.note("volume", v, true)
			if last[v], err = c.send(stream, v, last[v]); err != nil {
				return
			}
		}
		select {
		case <-ended:
			return
		case <-d.kick:
		}
		select {
		case <-ended:
			return
		case <-time.After(settle):
		}
	}
}

// dirty gathers what has changed.
type dirty struct {
	mu      sync.Mutex
	volumes map[string]bool
	kick    chan struct{} // capacity 1
}

func (d *dirty) add(volume string) {
	d.mu.Lock()
	d.volumes[volume] = true
	d.mu.Unlock()
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

func (d *dirty) take() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for v := range d.volumes {
		all = append(all, v)
	}
	clear(d.volumes)
	return all
}

// watchAll watches volumes until ended is closed, and again when the container has restarted. The ended container's are not
// looked at, so it lets them stand as they are.
func (c *Child) watchAll(ctx context.Context, volumes []string, ended <-chan struct{}, changed func(string)) {
	for {
		root, over, err := c.view.wait(ctx)
		if err == nil {
			stop := make(chan struct{})
			watching := make(chan struct{})
			go func() {
				defer close(watching)
				if err := root.Watch(volumes, stop, changed); err != nil {
					c.log.Debug("volumes are polled", "err", err)
					poll(volumes, stop, changed)
				}
			}()
			for _, v := range volumes {
				changed(v)
			}
			select {
			case <-ended:
			case <-over:
			}
			close(stop)
			<-watching
		}
		retry := time.After(0)
		if err != nil {
			retry = time.After(recheck)
		}
		select {
		case <-ended:
			return
		case <-retry:
		}
	}
}

func poll(volumes []string, ended <-chan struct{}, changed func(string)) {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			for _, v := range volumes {
				changed(v)
			}
		}
	}
}

// send sends one snapshot unless it equals the last one, whose digest it returns.
func (c *Child) send(stream *mux.Stream, volume string, last []byte) ([]byte, error) {
	var raw []byte
	root, over, err := c.view.wait(stream.Context())
	if err == nil {
		err = c.onFiles(stream.Context(), func() (err error) { raw, err = root.Snapshot(volume); return err })
	}
	if err != nil && last != nil {
		select {
		case <-over: // it was read while the container ended
			return last, nil
		default:
		}
		if errors.Is(err, syscall.EIO) && c.view.now() == nil {
			return last, nil // away
		}
	}
	digest := digestOf(raw, err)
	if bytes.Equal(digest, last) {
		return last, nil
	}
	s := wire.Snapshot{Path: volume}
	if err != nil {
		s.Errno = uint16(wire.ErrnoOf(err, syscall.EIO))
	}
	if err := wire.Write(stream, wire.KindWatch, s); err != nil || s.Errno != 0 {
		return digest, err
	}
	return digest, wire.WriteData(stream, raw, true)
}

// digestOf tells snapshots apart without keeping them.
func digestOf(raw []byte, err error) []byte {
	if err != nil {
		raw = []byte(err.Error())
	}
	sum := sha256.Sum256(raw)
	return sum[:]
}
