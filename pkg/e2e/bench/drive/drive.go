// Package drive asks HTTP servers as fast as they answer and tells how fast that was: the one client of all of the
// bench's rows, on the machine, in a pod and under stepin. It must never know who is behind an address; what an answer
// has to contain is told to it, so that nobody measures the wrong server.
package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Order is one measurement.
type Order struct {
	URL    string
	At     int           // how many requests are under way at a time, each on a connection of its own, kept alive
	For    time.Duration // no request begins later; those under way are waited for and count
	Upload int64         // bytes of each request's body; 0 is a GET
	Bytes  int64         // that each answer has, if they are to be counted and not looked at
	Pause  time.Duration // after each request
	Fresh  bool          // a connection per request
	Expect string        // in each answer that is looked at
	Slow   bool          // Brake times as long as it took is slept after each request: a row broken on purpose
}

// Report is what came of an order.
type Report struct {
	Err      string        `json:",omitempty"` // the first request that went wrong; then nothing else holds
	Requests int           // answered
	Took     time.Duration // from the first's beginning to the last's end
	P50, P99 time.Duration // of one request
}

const (
	// patience bounds one request.
	patience = 30 * time.Second

	// Brake makes a rate a tenth of what it was: less than any floor, however fast the row is.
	Brake = 9

	// chunk is what is written of a body at a time.
	chunk = 64 << 10
)

// Serve carries out orders, one line of JSON each, until they end, and reports each in a line.
func Serve(in io.Reader, out io.Writer) error {
	orders, reports := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o Order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("drive: reading an order: %w", err)
		}
		// No more connections than are asked for: a request that waits for its own takes another's, if that is free first.
		transport := &http.Transport{MaxConnsPerHost: o.At, MaxIdleConnsPerHost: o.At, DisableCompression: true, WriteBufferSize: chunk, ReadBufferSize: chunk}
		report := do(&http.Client{Transport: transport, Timeout: patience}, o)
		transport.CloseIdleConnections()
		if err := reports.Encode(report); err != nil {
			return fmt.Errorf("drive: reporting: %w", err)
		}
	}
}

// do first has each worker make one request that does not count: it opens the connection.
//
// Goroutines: one per request under way; all have ended when it returns.
func do(client *http.Client, o Order) Report {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var opened, all sync.WaitGroup
	opened.Add(o.At)
	begin := make(chan struct{})
	times := make([][]time.Duration, o.At)
	var end time.Time
	for worker := range o.At {
		all.Go(func() {
			w := asker{client: client, order: o}
			err := w.ask(ctx)
			opened.Done()
			<-begin
			for err == nil && ctx.Err() == nil && time.Now().Before(end) {
				begun := time.Now()
				if err = w.ask(ctx); err == nil {
					if o.Slow {
						time.Sleep(Brake * time.Since(begun))
					}
					times[worker] = append(times[worker], time.Since(begun))
					time.Sleep(o.Pause)
				}
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	opened.Wait()
	begun := time.Now()
	end = begun.Add(o.For)
	close(begin)
	all.Wait()
	took := time.Since(begun)
	if err := context.Cause(ctx); err != nil {
		return Report{Err: err.Error()}
	}
	return sum(slices.Concat(times...), took)
}

func sum(times []time.Duration, took time.Duration) Report {
	if len(times) == 0 {
		return Report{Err: "no request was answered in time"}
	}
	slices.Sort(times)
	return Report{Requests: len(times), Took: took, P50: times[len(times)/2], P99: times[len(times)*99/100]}
}

// asker is one worker; its buffers are used again.
type asker struct {
	client *http.Client
	order  Order
	answer bytes.Buffer
}

func (a *asker) ask(ctx context.Context) error {
	method, body := http.MethodGet, io.Reader(nil)
	if a.order.Upload > 0 {
		method, body = http.MethodPost, io.LimitReader(zeros{}, a.order.Upload)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.order.URL, body)
	if err != nil {
		return err
	}
	request.ContentLength, request.Close = a.order.Upload, a.order.Fresh
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", a.order.URL, response.Status)
	}
	if a.order.Bytes > 0 {
		n, err := io.Copy(io.Discard, response.Body)
		if err == nil && n != a.order.Bytes {
			err = fmt.Errorf("%s: %d bytes, not %d", a.order.URL, n, a.order.Bytes)
		}
		return err
	}
	a.answer.Reset()
	if _, err := a.answer.ReadFrom(response.Body); err != nil {
		return err
	}
	if !strings.Contains(a.answer.String(), a.order.Expect) {
		return fmt.Errorf("%s: %.200q does not contain %q", a.order.URL, a.answer.String(), a.order.Expect)
	}
	return nil
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
