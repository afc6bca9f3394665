// Package demo is `stepin demo`: the whole of stepin on one machine, told as a story. A small service runs in a pod made of
// namespaces; a copy of it runs under Delve in the pod's place, driven with the messages of an editor through a real
// `stepin dap`; a request to the pod hits the breakpoint, and that very caller is answered by the debuggee.
// Where namespaces cannot be made, as in most containers, a plain process stands for the pod, and a service in Python is
// shown as much of it as the library can (plain.go); what it cannot is named.
//
// It must never do what an editor could not do with the same binary: everything shown here has come over DAP or over the pod's
// own network. Nor may it leave anything behind.
package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/adapter/delve"
	"github.com/stepin-dev/stepin/pkg/embedded"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/namespaces"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// Options say where the demo is told.
type Options struct {
	Out       io.Writer
	Colors    bool
	Environ   []string // the developer's
	Tun, Fuse string   // device nodes; "" the usual ones
	Stay      bool     // only the pod, until ctx ends, for the reader's own editor
}

// What the pod is like.
const (
	hostname   = "orders-7d4b9c"
	secretUser = 1000 // as root: whom the service runs as
	secretGID  = 2000 // as root: the only group that may read the secret
	secretKey  = "k3y-0f-the-0rders-service-in-here"
	order      = 42
)

var (
	customer  = netip.MustParseAddr("192.0.2.7") // documentation's own network (RFC 5737)
	nameAddr  = netip.MustParseAddr("10.96.0.10")
	warehouse = netip.MustParseAddr("10.96.0.20")
	sidecar   = netip.MustParseAddrPort("127.0.0.1:9000")
	service   = netip.AddrPortFrom(podlet.DefaultAddrs[0].Addr(), 8080)
)

// demo is one telling. Goroutines: the customer's, while he waits for an answer, at most askWait; the pod's and the editor's,
// which end with close.
type demo struct {
	Options
	story  *story
	dir    string            // private, removed at the end
	guard  *namespaces.Guard // removes it when this process is killed
	pod    *podlet.Pod
	editor *editor

	asking    chan answered // the customer's request that the breakpoint holds
	endAsking context.CancelFunc
	stop      stop // where it is held
}

// Run tells the whole story, or with Stay keeps the pod until ctx ends. Errors are for a person to read.
func Run(ctx context.Context, o Options) error {
	d := &demo{Options: o, story: newStory(o.Out, o.Colors)}
	defer d.close()
	missing, err := d.machine(ctx)
	if err != nil {
		return err
	}
	chapters := []chapter{d.tools, d.build, d.startPod, d.first, d.pressF5, d.second, d.goOn, d.end, d.tryIt}
	if o.Stay {
		chapters = []chapter{d.tools, d.build, d.startPod, d.first, d.stay}
	}
	if len(missing) > 0 {
		p, err := newPlain(d, missing)
		if err != nil {
			return err
		}
		defer p.close()
		chapters = p.chapters()
	}
	for _, chapter := range chapters {
		if err := chapter(ctx); err != nil {
			d.story.endLine()
			if ctx.Err() != nil {
				return fail.New(fail.Internal, "run it again", "the demo was interrupted")
			}
			return err
		}
	}
	return nil
}

// chapter is one part of the story.
type chapter func(context.Context) error

func (d *demo) tryIt(context.Context) error {
	d.story.tryIt(d.self())
	return nil
}

func (d *demo) close() {
	if d.editor != nil {
		d.editor.close()
	}
	if d.pod != nil {
		d.pod.Close()
	}
	d.guard.Dismiss()
	if d.dir != "" {
		os.RemoveAll(d.dir)
	}
}

// self is how the reader calls this program: by the shorter of its paths.
func (d *demo) self() string {
	path, err := os.Executable()
	if err != nil {
		return "stepin"
	}
	if dir, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(dir, path); err == nil && len(rel) < len(path) && strings.Contains(rel, "/") {
			return rel
		}
	}
	return path
}

// machine looks first whether namespaces can be made here, and returns the steps that fail.
func (d *demo) machine(ctx context.Context) (failed []namespaces.Step, err error) {
	if d.dir, err = os.MkdirTemp("", "stepin-demo-"); err != nil {
		return nil, fail.Wrap(fail.Internal, errors.Unwrap(err), "let TMPDIR name a directory that you may write to", "the demo has no room in %s", os.TempDir())
	}
	stub, err := embedded.Stub()
	if err != nil {
		return nil, err
	}
	keeper, err := embedded.Keeper()
	if err != nil {
		return nil, err
	}
	if d.guard, err = namespaces.NewGuard(d.dir, keeper); err != nil {
		d.guard = nil // then neither can there be namespaces, and the next step says why
	}
	for _, s := range namespaces.Probe(ctx, namespaces.Plan{TunPath: d.Tun, FusePath: d.Fuse}, namespaces.Options{Stub: stub, Keeper: keeper}) {
		if s.Err != nil && s.Err != namespaces.ErrNotTried && !s.Optional {
			failed = append(failed, s)
		}
	}
	return failed, nil
}

// tools looks whether Go and Delve are here before anything is shown.
func (d *demo) tools(context.Context) error {
	if _, err := goCommand(d.Environ); err != nil {
		return err
	}
	_, err := delve.Find(d.Environ)
	return err
}

// forbidden makes one error of the steps that failed, each with its call and errno; the first one's cure is the hint, and so
// are the others' where they differ.
func forbidden(failed []namespaces.Step) error {
	return fail.Wrap(fail.NamespacesForbidden, quiet{failed[0].Err}, cures(failed)+"\n  or install python3: the demo then goes without",
		"this machine does not let stepin do it (%s)", whatFailed(failed))
}

func whatFailed(failed []namespaces.Step) string {
	var what []string
	for _, s := range failed {
		what = append(what, fmt.Sprintf("%s: %v", s.Name, s.Err))
	}
	return strings.Join(what, "; ")
}

func cures(failed []namespaces.Step) string {
	var all []string
	for _, s := range failed {
		if s.Cure != "" && !strings.Contains(strings.Join(all, "\n"), s.Cure) {
			all = append(all, s.Cure)
		}
	}
	return strings.Join(all, "\n  then: ")
}

// quiet is an error that has been said already.
type quiet struct{ error }

func (quiet) Error() string   { return "see `stepin doctor`" }
func (q quiet) Unwrap() error { return q.error }

// build compiles the service as the pod runs it. The flags are those for debugging, so that the debuggee's build finds
// all packages compiled.
func (d *demo) build(ctx context.Context) error {
	if !d.Stay {
		d.story.say("A breakpoint in a pod's place, on this machine alone. At the end nothing of it is left.")
	}
	d.story.chapter("Build orders, a service of one file")
	if err := unpack(d.source()); err != nil {
		return err
	}
	if err := compile(ctx, d.Environ, d.source(), d.program()); err != nil {
		return err
	}
	d.story.done()
	d.story.line("source", filepath.Join(d.source(), "main.go"))
	return nil
}

func (d *demo) source() string  { return filepath.Join(d.dir, "orders") }
func (d *demo) program() string { return filepath.Join(d.dir, "orders-of-the-pod") }

// spec is the pod. Only root can give a program other groups, so only his pod has a secret that takes one.
func (d *demo) spec() podlet.Spec {
	s := podlet.Spec{
		Hostname: hostname,
		Outside:  []netip.Addr{customer, warehouse},
		Files:    []podlet.File{{Path: "/app/orders", Host: d.program(), Mode: 0o755}},
		Volumes:  []podlet.Volume{{Path: "/etc/orders", Files: map[string]string{"greeting": "Good morning!\n"}}},
		Resolver: &podlet.Resolver{Addr: nameAddr, Origin: "cluster.local",
			Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"},
			Zone:   map[string][]netip.Addr{"warehouse.shop.svc.cluster.local": {warehouse}}},
		Sidecars: []podlet.Sidecar{{Network: "tcp", Addr: sidecar, Serve: serveStock}},
		Main:     podlet.Main{Argv: []string{"/app/orders"}, Env: []string{"CURRENCY=EUR", "PATH=/app"}},
	}
	if os.Geteuid() == 0 {
		s.Volumes = append(s.Volumes, podlet.Volume{Path: "/var/run/secrets/orders", Mode: 0o440, GID: secretGID, Files: map[string]string{"key": secretKey}})
		s.Main.UID, s.Main.GID, s.Main.Groups = secretUser, secretUser, []int{secretGID}
	}
	return s
}

// serveStock is the sidecar: it knows how many are left. It answers one request a connection.
func serveStock(c net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	w := bufio.NewWriter(c)
	resp := &http.Response{StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: req, Close: true,
		Body: io.NopCloser(strings.NewReader("7\n"))}
	if resp.Write(w) == nil {
		_ = w.Flush() // a caller that has gone has no use for it
	}
}

func (d *demo) startPod(ctx context.Context) (err error) {
	d.story.chapter("Run it in a pod, made of namespaces")
	if d.pod, err = podlet.Start(ctx, d.spec()); err != nil {
		return err
	}
	if err := d.pod.WaitListening(ctx, service); err != nil {
		return err
	}
	d.story.done()
	var addrs []string
	for _, p := range podlet.DefaultAddrs {
		addrs = append(addrs, p.Addr().String())
	}
	d.story.line("pod", fmt.Sprintf("%s, process %d on this machine, at %s", hostname, d.pod.MainPID(), strings.Join(addrs, " and ")))
	d.story.line("mounted", "/etc/orders, its configuration")
	if os.Geteuid() == 0 {
		d.story.line("", fmt.Sprintf("/var/run/secrets/orders, readable by group %d only", secretGID))
	}
	d.story.line("nearby", fmt.Sprintf("a name server at %v, and a sidecar on the pod's own %v", nameAddr, sidecar))
	for _, note := range d.pod.Notes() {
		d.story.line("note", note)
	}
	return nil
}

// reply is what a customer got, and from which address he asked.
type reply struct {
	text string
	from netip.AddrPort
}

// fromDesk says whether the debuggee wrote it, and not the pod's own program.
func (r reply) fromDesk() bool { return strings.Contains(r.text, "on your desk") }

// ask asks the pod as a customer does.
func (d *demo) ask(ctx context.Context) (reply, error) {
	return ask(ctx, url(), func(ctx context.Context) (net.Conn, error) {
		return d.pod.DialClient(ctx, "tcp", netip.AddrPortFrom(customer, 0), service)
	})
}

// ask asks on a connection of its own.
func ask(ctx context.Context, url string, dial func(context.Context) (net.Conn, error)) (r reply, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dial(ctx)
			if err == nil {
				r.from = netip.MustParseAddrPort(c.LocalAddr().String())
			}
			return c, err
		}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return r, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	const most = 4 << 10 // bytes; the answer has 100
	_, err = io.Copy(&text, io.LimitReader(resp.Body, most))
	r.text = strings.TrimSpace(text.String())
	return r, err
}

func url() string { return fmt.Sprintf("http://%v/orders/%d", service, order) }

// first asks the pod as it is.
func (d *demo) first(ctx context.Context) error {
	d.story.chapter(fmt.Sprintf("A customer at %v asks it", customer))
	r, err := d.ask(ctx)
	if err != nil {
		return fmt.Errorf("demo: asking the pod: %w", err)
	}
	d.story.done()
	d.story.line("asks", "GET "+url())
	d.story.answer(r.text)
	return right(r, false)
}

// right checks that the right program answered, and that it saw the true caller. Otherwise the demo has failed, however
// well it looks.
func right(r reply, desk bool) error {
	switch {
	case r.fromDesk() != desk:
		return fmt.Errorf("demo: the wrong program has answered: %s", r.text)
	case !strings.Contains(r.text, "to "+r.from.String()+")"):
		return fmt.Errorf("demo: the caller was %v, and the program took him for another: %s", r.from, r.text)
	case strings.Contains(r.text, "?"):
		return fmt.Errorf("demo: the program lacks something that its pod has: %s", r.text)
	}
	return nil
}

// terminal says whether w shows colours; see no-color.org.
func terminal(w io.Writer, environ []string) bool {
	for _, e := range environ {
		if name, value, _ := strings.Cut(e, "="); name == "NO_COLOR" && value != "" || e == "TERM=dumb" {
			return false
		}
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// since is a time as the story tells it.
func since(begin time.Time) string {
	t := time.Since(begin)
	if t < 100*time.Millisecond {
		return fmt.Sprintf("%d ms", max(1, t.Milliseconds()))
	}
	return fmt.Sprintf("%.1f s", t.Seconds())
}
