package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// askEvery is how often the customer asks while the pod stays.
const askEvery = 2 * time.Second

// stay keeps the pod for the reader's own editor until ctx ends, while the customer goes on asking.
func (d *demo) stay(ctx context.Context) error {
	text, err := json.MarshalIndent(configuration(d.pod.MainPID(), d.source()), "   ", "  ")
	if err != nil {
		return fmt.Errorf("demo: writing the configuration: %w", err)
	}
	fmt.Fprintf(d.Out, `
%s
   Open %s in your editor, set a breakpoint in order(), and start this:

   %s

   The editor starts "%s dap" for it, or connects to "%s dap --listen 127.0.0.1:4711":
   with "debugServer": 4711 in the configuration VS Code does that, once it has an extension for the type stepin.

%s
`, d.story.style(bold, "The pod stays until Ctrl-C. Your turn"), d.source(), text, d.self(), d.self(),
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
