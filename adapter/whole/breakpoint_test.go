package whole

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// servicePod is a pod that runs programs/service on port 8080.
func servicePod(t *testing.T, more podlet.Spec) *podlet.Pod {
	t.Helper()
	more.Files = append(more.Files, podlet.File{Path: "/service", Host: program(t, "service"), Mode: 0o755})
	more.Main.Argv = []string{"/service"}
	more.Main.Env = append(more.Main.Env, "WHO=pod")
	p := pod(t, more)
	if err := p.WaitListening(limit(t), netip.AddrPortFrom(p.Addr(false), 8080)); err != nil {
		t.Fatal(err)
	}
	return p
}

// reply is what programs/service answers.
type reply struct{ Who, Hostname, Client, Local, Path string }

// get asks the service from the outside of the pod.
func get(ctx context.Context, c *http.Client, url string) (reply, error) {
	var r reply
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return r, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(body, &r)
}

// answers polls until who answers at the pod's address.
func answers(t *testing.T, p *podlet.Pod, who string, within time.Duration) {
	t.Helper()
	eventually(t, within, who+" answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c := p.Outside.HTTP(netip.Addr{})
		defer c.CloseIdleConnections()
		r, err := get(ctx, c, "http://"+netip.AddrPortFrom(p.Addr(false), 8080).String()+"/")
		return err == nil && r.Who == who
	})
}

// TestBreakpoint is the main job: F5, a request to the pod stops at the breakpoint, that caller is answered by the
// debuggee, and after the end the pod answers again.
func TestBreakpoint(t *testing.T) {
	p := servicePod(t, podlet.Spec{Hostname: "orders-7d9f"})
	file := filepath.Join(source(t, "service"), "main.go")
	a := dap(t)
	a.launch(debugging(t, p, "service", map[string]any{"env": map[string]any{"override": map[string]any{"WHO": "debuggee"}}}),
		file, lineOf(t, file, "the breakpoint of the tests"))
	if err := a.WaitOutput(limit(t), "stdout", "listening on"); err != nil {
		t.Fatal(err)
	}
	if err := a.WaitOutput(limit(t), "console", "tcp port 8080"); err != nil {
		t.Fatal(err)
	}
	type got struct {
		reply
		err error
	}
	done := make(chan got, 1)
	c := p.Outside.HTTP(netip.Addr{})
	go func() {
		r, err := get(limit(t), c, "http://"+netip.AddrPortFrom(p.Addr(false), 8080).String()+"/orders/7")
		done <- got{r, err}
	}()
	thread, frame, _ := a.stopped()
	if path := a.evaluate(frame, "r.URL.Path"); !strings.Contains(path, "/orders/7") {
		t.Errorf("r.URL.Path = %s", path)
	}
	a.goOn(thread)
	g := <-done
	if g.err != nil || g.Who != "debuggee" || g.Hostname != "orders-7d9f" {
		t.Errorf("%+v", g)
	}
	gateway := podlet.Gateway(podlet.DefaultAddrs[0]).String()
	if !strings.HasPrefix(g.Client, gateway+":") || g.Local != netip.AddrPortFrom(p.Addr(false), 8080).String() {
		t.Errorf("the debuggee saw %s calling %s", g.Client, g.Local)
	}
	a.disconnect()
	answers(t, p, "pod", time.Second)
}
