package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// Waits of the story. Each is far beyond what a slow machine needs.
const (
	stealWait = 30 * time.Second // from the debuggee's start to its taking the pod's requests
	askWait   = 30 * time.Second // for one answer
	backWait  = 10 * time.Second // for the pod to answer again
	backEvery = 20 * time.Millisecond
)

// pressF5 starts the debuggee and waits until the pod's requests come to it.
func (d *demo) pressF5(ctx context.Context) (err error) {
	d.story.chapter("Press F5: the same source under Delve, in the pod's place")
	line, err := breakpoint(sourceName, "//")
	if err != nil {
		return err
	}
	if d.editor, err = startEditor(d.Environ, d.source()); err != nil {
		return err
	}
	file := filepath.Join(d.source(), "main.go")
	if err := d.editor.launch(ctx, json.RawMessage(launchJSON(strconv.Itoa(d.pod.MainPID()), d.source())), file, line); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, stealWait)
	defer cancel()
	port := fmt.Sprintf("tcp port %d of the pod", service.Port())
	refused := fmt.Sprintf("tcp port %d is not taken from the pod", service.Port())
	for !strings.Contains(d.editor.Output("console"), port) {
		if said := d.editor.Output("console"); strings.Contains(said, refused) {
			return fail.New(fail.AgentRefused, "`stepin doctor` says what this machine forbids", "the pod's requests cannot be taken: %s", strings.TrimSpace(said))
		}
		if _, err := d.editor.Event(wait, "output"); err != nil {
			return d.editor.explain(err)
		}
	}
	d.story.done()
	d.story.line("breakpoint", fmt.Sprintf("main.go:%d", line))
	for _, l := range d.editor.lines() {
		if text, ok := strings.CutPrefix(l, "stepin: "); ok {
			d.story.line("stepin", text)
		}
	}
	return nil
}

// answered is the reply of a request that is under way.
type answered struct {
	reply
	err error
}

// second asks again: the breakpoint is hit while the customer waits.
func (d *demo) second(ctx context.Context) error {
	d.story.chapter("The customer asks again, and the breakpoint is hit")
	d.asking = make(chan answered, 1)
	wait, cancel := context.WithTimeout(ctx, askWait)
	d.endAsking = cancel
	go func() {
		r, err := d.ask(wait)
		d.asking <- answered{r, err}
	}()
	var err error
	if d.stop, err = d.editor.stopped(wait); err != nil {
		return err
	}
	locals, err := d.editor.locals(ctx, d.stop.frame)
	if err != nil {
		return err
	}
	d.story.done()
	d.story.line("stopped", fmt.Sprintf("%s, %s:%d", d.stop.function, d.stop.file, d.stop.line))
	text, err := sources.ReadFile(sourceName)
	if err != nil {
		return fmt.Errorf("demo: reading the source: %w", err)
	}
	d.story.code(string(text), d.stop.line, 1)
	return d.show(locals)
}

// show prints the variables, each with where only the pod could have it from.
func (d *demo) show(locals map[string]string) error {
	file := "a file of the pod: /etc/orders/greeting"
	if _, err := os.Lstat("/etc/orders"); errors.Is(err, fs.ErrNotExist) {
		file += ", which this machine does not have"
	}
	variables := []struct{ name, want, origin string }{
		{"customer", customer.String(), "the caller's true address"},
		{"greeting", "Good morning!", file},
		{"currency", "EUR", "a variable of the pod"},
		{"warehouse", warehouse.String(), "a name that only the pod's resolver knows"},
		{"stock", "7", fmt.Sprintf("from the sidecar on the pod's own %v", sidecar)},
	}
	if os.Geteuid() == 0 {
		variables = append(variables, struct{ name, want, origin string }{"key", fmt.Sprint(len(secretKey)),
			fmt.Sprintf("bytes of a Secret that only group %d may read", secretGID)})
	}
	for _, v := range variables {
		value, ok := locals[v.name]
		if !ok || !strings.Contains(value, v.want) {
			return fmt.Errorf("demo: at the breakpoint %s is %q, not %q", v.name, value, v.want)
		}
		d.story.variable(v.name, value, v.origin)
	}
	return nil
}

// goOn lets the debuggee answer.
func (d *demo) goOn(ctx context.Context) error {
	d.story.chapter("Continue: that very customer gets the debuggee's answer")
	if err := d.editor.do(ctx, "continue", map[string]any{"threadId": d.stop.thread}, nil); err != nil {
		return err
	}
	a := <-d.asking // within askWait
	d.endAsking()
	if a.err != nil {
		return fmt.Errorf("demo: the customer's request: %w", a.err)
	}
	d.story.done()
	d.story.answer(a.text)
	return right(a.reply, true)
}

// end stops the session, and the pod has its requests back.
func (d *demo) end(ctx context.Context) error {
	d.story.chapter("Stop: the session ends, and the pod answers again")
	if err := d.editor.do(ctx, "disconnect", map[string]any{"terminateDebuggee": true}, nil); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, backWait)
	defer cancel()
	var r reply
	for {
		var err error
		if r, err = d.ask(wait); err == nil && !r.fromDesk() {
			break
		}
		select {
		case <-time.After(backEvery):
		case <-wait.Done():
			return fmt.Errorf("demo: the pod does not answer again: %q, %w", r.text, errors.Join(err, wait.Err()))
		}
	}
	d.story.done()
	d.story.answer(r.text)
	if err := right(r, false); err != nil {
		return err
	}
	d.editor.close()
	d.editor = nil
	return nil
}
