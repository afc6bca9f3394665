package requests

import (
	"fmt"
	"sync"
	"time"
)

// maxLines bounds the lines of a second: a console shows some 40, and what else is said there should be seen.
const maxLines = 20

// Lines prints a line for each request, and of those that are too many how many they were.
//
// Goroutines: the timer's, while such a count is yet to be printed.
type Lines struct {
	print func(line string)

	mu    sync.Mutex
	since time.Time
	shown int
	more  uint64 // not shown
	later *time.Timer
}

// NewLines calls print with each line, without its end.
func NewLines(print func(line string)) *Lines { return &Lines{print: print} }

// Tell is for NewFeed.
func (l *Lines) Tell(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.since) >= time.Second {
		l.rest()
		l.since, l.shown = now, 0
	}
	l.more += r.Skipped
	if l.shown < maxLines {
		l.shown++
		l.print(r.Line())
	} else {
		l.more++
	}
	if l.more > 0 && l.later == nil {
		l.later = time.AfterFunc(l.since.Add(time.Second).Sub(now), l.Flush)
	}
}

// Flush prints what is yet to be said.
func (l *Lines) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest()
}

func (l *Lines) rest() {
	if l.later != nil {
		l.later.Stop()
		l.later = nil
	}
	switch l.more {
	case 0:
	case 1:
		l.print("… and 1 more request")
	default:
		l.print(fmt.Sprintf("… and %d more requests", l.more))
	}
	l.more = 0
}
