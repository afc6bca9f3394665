package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// Lost is a request that was not answered with 200 by a Who, printed as one line of JSON when it is lost.
type Lost struct {
	Number int
	At     time.Time
	After  time.Duration
	Why    string
}

// Sum is the last line.
type Sum struct {
	Asked, Lost int
	By          map[string]int // how many each Who@Host has answered
	Slowest     time.Duration
}

// inFlight bounds the requests that wait for an answer; what would be more waits for its turn, and shows in Slowest.
const inFlight = 512

// load asks a URL at a pace, whether or not answers come.
//
// Goroutines: one per request, ended by its time-out at the latest; load waits for all.
func load(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	rate := flags.Int("rate", 200, "requests per second")
	last := flags.Duration("for", 10*time.Second, "how long; SIGTERM ends it, too")
	fresh := flags.Bool("fresh", false, "a connection per request")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || *rate < 1 {
		return errors.New("load: one URL and a rate of at least 1")
	}
	ctx, cancel := context.WithTimeout(ctx, *last)
	defer cancel()
	r := &driver{url: flags.Arg(0), sum: Sum{By: map[string]int{}}, lines: json.NewEncoder(os.Stdout)}
	r.client = &http.Client{Timeout: patience, Transport: &http.Transport{
		MaxIdleConnsPerHost: inFlight, DisableKeepAlives: *fresh,
	}}
	r.all(ctx, time.Second/time.Duration(*rate))
	return r.lines.Encode(r.sum)
}

// driver is one load: what it has seen so far.
type driver struct {
	url    string
	client *http.Client

	mu    sync.Mutex
	sum   Sum
	lines *json.Encoder
}

func (r *driver) all(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	slots := make(chan struct{}, inFlight)
	var wg sync.WaitGroup
	defer wg.Wait()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := time.Now()
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			who, err := r.ask(n)
			r.note(n, due, who, err)
		})
	}
}

// ask does one request; it is not cut short by the load's end.
func (r *driver) ask(n int) (string, error) {
	response, err := r.client.Get(fmt.Sprintf("%s?n=%d", r.url, n))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, biggest))
	if err != nil {
		return "", err
	}
	var a Answer
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %.200q", response.StatusCode, text)
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Who == "" || a.Query != fmt.Sprintf("n=%d", n) {
		return "", fmt.Errorf("not the answer to this request: %.200q", text)
	}
	return a.Who + "@" + a.Host, nil
}

func (r *driver) note(n int, due time.Time, who string, err error) {
	took := time.Since(due)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Asked++
	r.sum.Slowest = max(r.sum.Slowest, took)
	if err == nil {
		r.sum.By[who]++
		return
	}
	r.sum.Lost++
	_ = r.lines.Encode(Lost{n, due, took, err.Error()}) // standard output's end is noticed at the last line
}
