package dap_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/pkg/config"
)

// FuzzServe has a whole conversation with an editor that sends anything: a line is a message's body, unless it begins
// with a "!": then the rest goes out as it is. Serve must end by itself.
func FuzzServe(f *testing.F) {
	for _, s := range []string{
		`{"seq":1,"type":"request","command":"initialize","arguments":{"supportsProgressReporting":true}}` + "\n" +
			`{"seq":2,"type":"request","command":"launch","arguments":{"target":"local/1","debugger":{"type":"go"}}}` + "\n" +
			`{"seq":3,"type":"request","command":"disconnect"}`,
		`{"seq":1,"type":"request","command":"cancel","arguments":{"requestId":1}}`,
		`{"seq":1,"type":"request","command":"setBreakpoints","arguments":{"source":{"path":"x"}}}`,
		`{"seq":1,"type":"response","command":"runInTerminal","request_seq":1,"success":true}`,
		`{"seq":1,"type":"request","command":"restart","arguments":{"arguments":null}}`,
		"!POST / HTTP/1.1",
	} {
		f.Add(s)
	}
	o := dap.Options{
		Parse: parse,
		Debuggers: map[string]dap.NewDebugger{"go": func(*config.Launch, bool, dap.Place) (dap.Debugger, error) {
			return scripted{}, nil
		}},
		Start: func(context.Context, *config.Launch, dap.Hints, dap.Hooks) (dap.Runner, error) {
			return nil, errors.New("no pod")
		},
		Log: slog.New(slog.DiscardHandler),
	}
	f.Fuzz(func(t *testing.T, lines string) {
		var in []byte
		for line := range strings.Lines(lines) {
			if raw, ok := strings.CutPrefix(line, "!"); ok {
				in = append(in, raw...)
			} else {
				in = dap.AppendFrame(in, []byte(line))
			}
		}
		out := &answers{Reader: strings.NewReader(string(in)), t: t}
		if err := dap.Serve(t.Context(), out, o); err != nil && !strings.Contains(err.Error(), "not the Debug Adapter Protocol") {
			t.Error(err)
		}
	})
}

// answers checks that what goes to the editor is a message with the next number.
type answers struct {
	io.Reader
	t   *testing.T
	seq int
}

func (a *answers) Write(p []byte) (int, error) {
	_, body, _ := strings.Cut(string(p), "\r\n\r\n")
	var m struct{ Seq int }
	if err := json.Unmarshal([]byte(body), &m); err != nil || m.Seq != a.seq+1 {
		a.t.Errorf("%d after %d: %v in %s", m.Seq, a.seq, err, body)
	}
	a.seq = m.Seq
	return len(p), nil
}

func (a *answers) Close() error { return nil }
