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
	todo := fmt.Sprintf("Open %s in your editor, set a breakpoint in order(), and start this:", d.source())
	return d.until(ctx, todo, launchJSON(strconv.Itoa(d.pod.MainPID()), d.source()), d.ask)
}

func (p *plain) stay(ctx context.Context) error {
	todo := fmt.Sprintf("Open %s in your editor, set a breakpoint in do_GET(), and start this:", p.script())
	return p.until(ctx, todo, p.configuration(true), func(ctx context.Context) (reply, error) { return p.ask(ctx, p.address()) })
}

// until tells what to do, and asks until ctx ends.
func (d *demo) until(ctx context.Context, todo, configuration string, ask func(context.Context) (reply, error)) error {
	fmt.Fprintf(d.Out, "\n%s\n   %s\n\n%s\n%s\n\n%s\n",
		d.story.style(bold, "The pod stays until Ctrl-C. Your turn"), todo, d.story.style(green, configuration), howToStart(d.self()),
		d.story.style(bold, fmt.Sprintf("The customer asks every %v", askEvery)))
	for {
		begin := time.Now()
		r, err := ask(ctx)
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
