package quiet

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lines is what was written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// take returns the lines since the last time that hold text.
func (l *lines) take(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	l.buf.Reset()
	return found
}

func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lines
		log := slog.New(New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))).With("part", "child")
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				for range 100 {
					log.Warn("refused a stranger", "uid", i)
				}
			})
		}
		all.Wait()
		log.Warn("something else")
		log.Error("something worse")
		if got := out.take(""); len(got) != maxLines+2 {
			t.Errorf("%d lines: %q", len(got), got)
		}
		time.Sleep(window)
		synctest.Wait()
		want := fmt.Sprintf("part=child omitted=%d", 100*100-maxLines)
		if got := out.take(""); len(got) != 1 || !strings.Contains(got[0], want) || !strings.Contains(got[0], "refused a stranger") {
			t.Errorf("%q", got)
		}
		for range 2 * maxLines {
			log.Warn("refused a stranger")
		}
		if got := out.take("stranger"); len(got) != maxLines {
			t.Errorf("%d lines in the next window", len(got))
		}
		time.Sleep(2 * window)
		synctest.Wait()
		if got := out.take("omitted=10"); len(got) != 1 {
			t.Errorf("%q", got)
		}
		for range maxLines { // now and then is never too often
			time.Sleep(window / maxLines)
			log.Warn("refused a stranger")
		}
		for range 1000 {
			log.Debug("dial")
		}
		if got := out.take(""); len(got) != maxLines+1000 {
			t.Errorf("%d lines", len(got))
		}
		for i := range 2 * maxKinds { // what cannot be told apart is written
			log.Warn(fmt.Sprint(i))
		}
		if got := out.take(""); len(got) != 2*maxKinds {
			t.Errorf("%d lines", len(got))
		}
	})
}
