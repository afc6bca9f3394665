package demo

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// askEvery is how often the customer asks while the pod stays.
const askEvery = 2 * time.Second

// stay keeps the pod for the reader's own editor until ctx ends, while the customer goes on asking.
func (d *demo) stay(ctx context.Context) error {
	pid := strconv.Itoa(d.pod.MainPID())
	fmt.Fprintf(d.Out, "\n%s\n   Open %s in your editor, set a breakpoint in order(), and start this:\n\n%s\n%s\n\n%s\n",
		d.story.style(bold, "The pod stays until Ctrl-C. Your turn"), d.source(),
		d.story.style(green, launchJSON(pid, d.source())), howToStart(d.self()),
		d.story.style(bold, fmt.Sprintf("The customer asks every %v", askEvery)))
	for {
		begin := time.Now()
		r, err := d.ask(ctx)
		if ctx.Err() != nil {
			d.story.say("\nThe pod is gone.")
			return nil
		}
		if err != nil {
			r.text = err.Error()
		}
		d.story.line(since(begin), r.text)
		select {
		case <-ctx.Done():
		case <-time.After(askEvery):
		}
	}
}
