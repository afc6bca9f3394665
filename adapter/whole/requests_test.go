package whole

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// told is the body of stepin.request, as far as it is looked at.
type told struct {
	Pod, Protocol, Method, Path, From, Mode, Error string
	Port, Status                                   int
	MS                                             float64
	BytesIn, BytesOut                              int
	At                                             time.Time
}

func (a *adapter) request() (r told) {
	a.t.Helper()
	if err := a.until("stepin.request").Decode(&r); err != nil {
		a.t.Fatal(err)
	}
	return r
}

// TestRequests: the editor is told of each request that the debuggee has answered, and not before.
func TestRequests(t *testing.T) {
	for _, mode := range []string{"steal", "mirror"} {
		t.Run(mode, func(t *testing.T) { requestsTold(t, mode) })
	}
	t.Run("exec", requestsOfExec)
}

func requestsTold(t *testing.T, mode string) {
	p := servicePod(t, podlet.Spec{})
	at := netip.AddrPortFrom(p.Addr(false), 8080)
	file := filepath.Join(source(t, "service"), "main.go")
	a := dap(t)
	a.launch(debugging(t, p, "service", map[string]any{"incoming": map[string]any{"mode": mode}, "env": map[string]any{"override": map[string]any{"WHO": "debuggee"}}}), file, lineOf(t, file, "the breakpoint of the tests"))
	if err := a.WaitOutput(limit(t), "console", "tcp port 8080 of the pod now sends"); err != nil {
		t.Fatal(err)
	}
	c := p.Outside.HTTP(netip.Addr{})
	answered := make(chan error, 1)
	go func() {
		r, err := get(limit(t), c, "http://"+at.String()+"/orders?id=7")
		if err == nil && r.Who != map[string]string{"steal": "debuggee", "mirror": "pod"}[mode] {
			err = fmt.Errorf("%q has answered", r.Who)
		}
		answered <- err
	}()
	thread, frame, _ := a.stopped()
	client := strings.Trim(a.evaluate(frame, "r.RemoteAddr"), `"`)
	for _, e := range a.Events() {
		if e.Event == "stepin.request" {
			t.Errorf("told while the debuggee stands: %s", e.Body)
		}
	}
	a.goOn(thread)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	r := a.request()
	want := told{Pod: fmt.Sprintf("local/%d", p.MainPID()), Port: 8080, Protocol: "HTTP/1.1", Method: "GET", Path: "/orders?id=7", From: client, Status: 200, Mode: mode,
		MS: r.MS, BytesIn: r.BytesIn, BytesOut: r.BytesOut, At: r.At}
	if r != want || r.MS <= 0 || r.BytesIn < 50 || r.BytesOut < 100 || time.Since(r.At) < time.Duration(r.MS)*time.Millisecond {
		t.Errorf("told %+v, want %+v", r, want)
	}
	line := regexp.MustCompile(`(?m)^GET /orders\?id=7  200  [0-9.]+ m?s  from ` + regexp.QuoteMeta(client) + `$`)
	eventually(t, patience, "the line is shown", func() bool { return line.MatchString(a.Output("console")) })
	c.CloseIdleConnections()

	// What is not HTTP is told at its end.
	raw, err := p.Outside.Dial(limit(t), "tcp", netip.AddrPort{}, at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write([]byte("\x16\x03\x01 this is no HTTP\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, raw)
	from := raw.LocalAddr().String()
	raw.Close()
	if r := a.request(); r.Protocol != "TCP" || r.From != from || r.BytesIn != 23 || r.BytesOut == 0 || r.Method+r.Path != "" {
		t.Errorf("told %+v", r)
	}
	a.disconnect()
}

// requestsOfExec: standard error is the command's, so its requests are shown only where the user says so.
func requestsOfExec(t *testing.T) {
	p := servicePod(t, podlet.Spec{})
	for _, written := range []bool{false, true} {
		incoming := map[string]any{"mode": "steal"}
		if written {
			incoming["log"] = true
		}
		cmd := command(t, p, map[string]any{"incoming": incoming, "env": map[string]any{"override": map[string]any{"WHO": "debuggee"}}}, program(t, "service"))
		var said talk.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		answers(t, p, "debuggee", patience)
		shown := func() bool { return strings.Contains(said.String(), "stepin: GET /  200  ") }
		if written {
			eventually(t, patience, "the line is shown", shown)
		}
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if !written && shown() {
			t.Errorf("shown although nobody has asked for it: %s", said.String())
		}
	}
}
