package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// pressF5 starts the debuggee under debugpy.
func (p *plain) pressF5(ctx context.Context) (err error) {
	p.story.chapter("Press F5: the same source under debugpy, in the pod's place")
	line, err := breakpoint(pythonSource, "#")
	if err != nil {
		return err
	}
	if p.editor, err = startEditor(p.Environ, filepath.Dir(p.script())); err != nil {
		return err
	}
	if err := p.editor.launch(ctx, json.RawMessage(p.configuration(true)), p.script(), line); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, stealWait)
	defer cancel()
	err = p.editor.WaitOutput(wait, "stdout", listens)
	if err == nil {
		err = p.editor.WaitOutput(wait, "console", p.ready())
	}
	if err != nil {
		return p.editor.explain(err)
	}
	return p.inPlace(p.editor.lines())
}

// run starts the program without a debugger.
func (p *plain) run(ctx context.Context) (err error) {
	p.story.chapter("stepin exec: the same source in the pod's place")
	file := filepath.Join(p.dir, "launch.json")
	if err := os.WriteFile(file, []byte(p.configuration(false)), 0o600); err != nil {
		return fmt.Errorf("demo: writing the configuration: %w", err)
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"exec", "--config", file, "--", p.python, p.script()}, p.arguments()...)...)
	cmd.Args[0] = "stepin"
	cmd.Env, cmd.Dir = p.Environ, filepath.Dir(p.script())
	if p.command, err = startBeside(cmd, syscall.SIGTERM); err != nil {
		p.command = nil
		return fmt.Errorf("demo: starting stepin: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, stealWait)
	defer cancel()
	err = p.command.wait(wait, &p.command.out, listens)
	if err == nil {
		err = p.command.wait(wait, &p.command.err, p.ready())
	}
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return p.inPlace(strings.Split(p.command.err.String(), "\n"))
}

// second asks again. Of a mirrored request the program gets a copy, while the pod answers; else the program itself is asked.
func (p *plain) second(ctx context.Context) error {
	if p.unheard == nil {
		p.story.chapter("The customer asks again: the pod answers, and a copy comes")
		return p.askPod(ctx)
	}
	p.story.chapter("Ask the program itself")
	p.asking = make(chan answered, 1)
	go func() {
		r, err := p.ask(ctx, p.real)
		p.asking <- answered{r, err}
	}()
	p.story.done()
	p.story.line("asks", fmt.Sprintf("GET http://%v/orders/%d", p.real, order))
	return nil
}

// atPoint shows where the request stands, and lets it go on.
func (p *plain) atPoint(ctx context.Context) error {
	p.story.chapter("It stands at the breakpoint")
	wait, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	at, err := p.editor.stopped(wait)
	if err != nil {
		return err
	}
	locals, err := p.editor.locals(wait, at.frame)
	if err != nil {
		return err
	}
	p.story.done()
	p.story.line("stopped", fmt.Sprintf("%s, %s:%d", at.function, at.file, at.line))
	text, err := sources.ReadFile(pythonSource)
	if err != nil {
		return fmt.Errorf("demo: reading the source: %w", err)
	}
	p.story.code(string(text), at.line, 1)
	caller := "whoever asked"
	if p.unheard == nil {
		caller = "the caller's true address"
	}
	for _, v := range []struct{ name, want, origin string }{
		{"customer", p.caller(), caller},
		{"greeting", "Good morning!", fmt.Sprintf("%s/greeting, which only the pod's directory has", folder)},
		{"currency", "EUR", "a variable of the pod"},
		{"stock", "7", fmt.Sprintf("from %v, called by the agent beside the pod", p.stock.Addr())},
	} {
		value, ok := locals[v.name]
		if !ok || !strings.Contains(value, v.want) {
			return fmt.Errorf("demo: at the breakpoint %s is %q, not %q", v.name, value, v.want)
		}
		p.story.variable(v.name, strings.Trim(value, "'"), v.origin)
	}
	return p.editor.do(ctx, "continue", map[string]any{"threadId": at.thread}, nil)
}

// caller is what the program must take its caller for, as far as that is known yet.
func (p *plain) caller() string {
	if p.unheard == nil {
		return p.asked.from.String()
	}
	return "127.0.0.1:"
}

// printed is what the program says of the request: to a copy nobody hears its answer.
func (p *plain) printed(ctx context.Context) error {
	p.story.chapter("The program has done its work")
	wait, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	if p.unheard != nil {
		a := <-p.asking // within askWait
		if a.err != nil {
			return fmt.Errorf("demo: asking the program: %w", a.err)
		}
		p.asked = a.reply
	}
	said := fmt.Sprintf("to %v)", p.asked.from)
	var err error
	var text string
	if p.command != nil {
		err = p.command.wait(wait, &p.command.out, said)
		text = p.command.out.String()
	} else {
		if err = p.editor.WaitOutput(wait, "stdout", said); err != nil {
			err = p.editor.explain(err)
		}
		text = p.editor.Output("stdout")
	}
	if err != nil {
		return err
	}
	p.story.done()
	for line := range strings.Lines(text) {
		if strings.Contains(line, said) {
			p.asked.text = strings.TrimSpace(line)
		}
	}
	if p.unheard == nil {
		p.story.line("prints", p.asked.text)
	} else {
		p.story.answer(p.asked.text)
	}
	return right(p.asked, true)
}

// end stops the session; the pod has answered all the time.
func (p *plain) end(ctx context.Context) error {
	p.story.chapter("Stop: the session ends, and the pod is as it was")
	if p.command != nil {
		p.command.end(syscall.SIGTERM)
	} else if err := p.editor.do(ctx, "disconnect", map[string]any{"terminateDebuggee": true}, nil); err != nil {
		return err
	}
	return p.askPod(ctx)
}

// notShown names what a pod has and this one could not, each with the call that was refused.
func (p *plain) notShown(context.Context) error {
	lines := strings.Split(p.said(), "\n")
	p.close()
	p.command = nil
	p.story.say("\n" + p.story.style(bold, "Not shown here, and why"))
	const stolen = "stepin: incoming traffic cannot be stolen: "
	steal := "not tried: the pod's ports are this machine's own"
	for _, l := range lines {
		if why, ok := strings.CutPrefix(l, stolen); ok {
			steal = strings.TrimPrefix(why, "steal: ")
		}
	}
	namespaces := fmt.Sprint(p.missing[0].Err)
	p.story.line("steal", steal)
	p.story.line("address", "the pod has this machine's, not one of its own: "+namespaces)
	p.story.line("host name", "likewise: "+namespaces)
	if p.unheard != nil {
		p.story.line("mirror", p.unheard.Error())
	}
	if p.noPoint != nil {
		p.story.line("breakpoint", fmt.Sprintf("%v: python3 -m pip install debugpy", p.noPoint))
	}
	p.story.tryPlain(p.self(), cures(p.missing))
	return nil
}

// said is all that stepin has said.
func (p *plain) said() string {
	if p.command != nil {
		return p.command.err.String()
	}
	return strings.Join(p.editor.lines(), "\n")
}
