package conform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// all runs every program, not only the fast ones.
var all = flag.Bool("conform.all", false, "run every program, not only the fast ones")

// patience bounds one run of one program on a busy machine.
const patience = 90 * time.Second

// caller is the address that the pod is called from.
var caller = netip.AddrPortFrom(server[0], 0)

func TestConform(t *testing.T) {
	binary := stepin(t)
	for _, p := range Programs() {
		if !p.Fast && !*all {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			if p.Make != "" {
				if _, err := exec.LookPath(p.Make); err != nil {
					t.Skipf("not here: %v", err)
				}
			}
			pod := start(t)
			r := &run{t: t, pod: pod, program: p, scratch: t.TempDir()}
			native := r.native()
			if len(native) < 5 {
				t.Fatalf("natively it says no more than this:\n%s", strings.Join(native, "\n"))
			}
			compare(t, Namespaces, p, native, r.inPlace(binary, Namespaces))
			if p.NoPreload != "" {
				r.refused(binary)
				return
			}
			if mounts() { // who cannot is without FUSE in any case
				compare(t, Preload, p, native, r.inPlace(binary, Preload))
			}
			if p.NoFUSE != nil {
				r.program.Argv = p.NoFUSE
			}
			r.noStatic = true // its place is namespaces, which are not to be had
			compare(t, NoFUSE, p, r.native(), r.inPlace(binary, NoFUSE))
		})
	}
}

// mounts tells whether this user may mount FUSE on the machine itself.
func mounts() bool {
	_, err := exec.LookPath("fusermount3")
	return os.Getuid() == 0 || err == nil
}

func compare(t *testing.T, f FrontEnd, p Program, native, got []string) {
	t.Helper()
	differences, used := Compare(f, p.Name, native, got)
	for _, d := range differences {
		t.Errorf("%s under %s:\n%s", p.Name, f, d)
	}
	t.Logf("%s under %s: %d lines, %d exceptions", p.Name, f, len(native), len(used))
}

// stepin is the binary under test, as ./just build leaves it.
func stepin(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "stepin"))
	if p := os.Getenv("STEPIN_BINARY"); p != "" {
		path, err = p, nil
	}
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("no stepin to test: %v (run ./just build)", err)
	}
	tun := os.Getenv("STEPIN_TUN")
	if tun == "" {
		tun = "/dev/net/tun"
	}
	if err := unix.Access(tun, unix.R_OK|unix.W_OK); err != nil {
		t.Skipf("namespaces need %s: %v", tun, err)
	}
	return path
}

// start makes the pod with its servers.
func start(t *testing.T) *podlet.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := podlet.Start(ctx, Pod())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error("the pod:", err)
		}
	})
	for _, a := range server {
		tell, err := p.Outside.Listen(ctx, "tcp", netip.AddrPortFrom(a, tellPort))
		if err != nil {
			t.Fatal(err)
		}
		go tellAll(tell)
		echo, err := p.Outside.ListenPacket(ctx, "udp", netip.AddrPortFrom(a, echoPort))
		if err != nil {
			t.Fatal(err)
		}
		go echoAll(echo)
		web, err := p.Outside.Listen(ctx, "tcp", netip.AddrPortFrom(a, httpPort))
		if err != nil {
			t.Fatal(err)
		}
		go http.Serve(web, http.HandlerFunc(answer))
	}
	return p
}

// tellAll tells each caller whom it sees, then echoes.
func tellAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			ip, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "I see %s\n", ip)
			io.Copy(c, c)
		}()
	}
}

func echoAll(c net.PacketConn) {
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			c.WriteTo(b[:n], from)
		}
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	fmt.Fprintf(w, "%s %s from %s, %d bytes\n", r.Method, r.URL.Path, ip, len(body))
}

// run is a program that runs in each way with one pod.
type run struct {
	t        *testing.T
	pod      *podlet.Pod
	program  Program
	scratch  string
	noStatic bool // there is no static program to start
}

// lines takes what a program prints. When it says that it is ready at a port, it is called there.
type lines struct {
	run *run
	ctx context.Context

	mu    sync.Mutex
	part  []byte
	all   []string
	calls []string
	wg    sync.WaitGroup
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, b...)
	for {
		line, rest, found := bytes.Cut(l.part, []byte("\n"))
		if !found {
			return len(b), nil
		}
		l.part = rest
		l.all = append(l.all, string(line))
		var port uint16
		words := strings.Fields(string(line))
		if n := len(words); n > 2 && words[n-2] == "ready" {
			fmt.Sscan(words[n-1], &port)
			l.wg.Go(func() { l.call(words[n-3], port) })
		}
	}
}

// finish returns all lines, the callers' last.
func (l *lines) finish() []string {
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.all = append(l.all, string(l.part))
	}
	slices.Sort(l.calls)
	return append(l.all, l.calls...)
}

func (l *lines) heard(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, fmt.Sprintf(format, args...))
}

// call is a client of the pod's. The port is the pod's own until the session has taken it, so a refusal is not yet the answer.
func (l *lines) call(how string, port uint16) {
	six := port == 8091 // the C program's listener for IPv6
	src, dst := caller, netip.AddrPortFrom(l.run.pod.Addr(six), port)
	if six {
		src = netip.AddrPortFrom(server[1], 0)
	}
	if how == "nginx:" || how == "nginx" || how == "http" {
		l.browse(how, src.Addr(), dst)
		return
	}
	c, err := l.dial(src, dst)
	if err != nil {
		l.heard("caller of %d: %v", port, err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "hello")
	b := make([]byte, 100)
	n, err := c.Read(b)
	l.heard("caller of %d: %q %v", port, b[:n], err)
}

func (l *lines) dial(src, dst netip.AddrPort) (net.Conn, error) {
	for {
		c, err := l.run.pod.DialClient(l.ctx, "tcp", src, dst)
		if !errors.Is(err, unix.ECONNREFUSED) {
			return c, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-l.ctx.Done():
			return nil, err
		}
	}
}

// browse asks for pages.
func (l *lines) browse(how string, src netip.Addr, dst netip.AddrPort) {
	client := l.run.pod.Outside.HTTP(src)
	client.Transport.(*http.Transport).DisableKeepAlives = true
	if c, err := l.dial(netip.AddrPortFrom(src, 0), dst); err == nil {
		c.Close()
	}
	paths := []string{"/page"}
	if strings.HasPrefix(how, "nginx") {
		paths = []string{"/plain", "/sub/deep/file", "/absent", "/caller", "/where", "/refused"}
		defer os.WriteFile(filepath.Join(l.run.scratch, "leave"), []byte("leave\n"), 0)
	}
	for _, path := range paths {
		request, err := http.NewRequestWithContext(l.ctx, "GET", "http://"+dst.String()+path, nil)
		if err != nil {
			l.heard("caller of %s: %v", path, err)
			continue
		}
		r, err := client.Do(request)
		if err != nil {
			l.heard("caller of %s: %v", path, err)
			continue
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode >= 400 {
			body = nil // nginx's own page
		}
		l.heard("caller of %s: %d %q", path, r.StatusCode, body)
	}
}

// prepare returns the program's arguments and variables.
func (r *run) prepare() (argv, env []string) {
	made := programs(r.t)
	source, err := filepath.Abs("programs")
	if err != nil {
		r.t.Fatal(err)
	}
	os.Remove(filepath.Join(r.scratch, "leave"))
	if err := unix.Mkfifo(filepath.Join(r.scratch, "leave"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	paths := strings.NewReplacer("{C}", made+"/c", "{STATIC}", made+"/go-static", "{CGO}", made+"/go-cgo", "{JAVA}", made,
		"{SOURCE}", source, "{SCRATCH}", r.scratch, "{PYTHON}", python())
	for _, a := range r.program.Argv {
		argv = append(argv, paths.Replace(a))
	}
	if argv[0], err = exec.LookPath(argv[0]); err != nil {
		r.t.Fatal(err)
	}
	static := made + "/go-static"
	if r.noStatic {
		static = ""
	}
	return argv, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.scratch, "TMPDIR=" + os.TempDir(), "LC_ALL=C.UTF-8",
		"CONFORM_C=" + made + "/c", "CONFORM_STATIC=" + static, "GODEBUG=netdns=" + resolver(r.program.Name)}
}

// resolver makes Go with cgo look up names by libc.
func resolver(program string) string {
	if program == "go-cgo" {
		return "cgo"
	}
	return "go"
}

// python is the system's, which every user can read, where there is one.
func python() string {
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		return "/usr/bin/python3"
	}
	return "python3"
}

// native runs the program in the pod itself.
func (r *run) native() []string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	argv, env := r.prepare()
	order, err := json.Marshal(place{PID: r.pod.MainPID(), Argv: argv, Dir: r.scratch})
	if err != nil {
		r.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	out, errs := &lines{run: r, ctx: ctx}, &lines{run: r, ctx: ctx}
	p, err := r.pod.Start(ctx, podlet.Command{
		Argv: []string{exe}, Host: true, Stdout: out, Stderr: errs,
		Env: append(append(env, Pod().Main.Env...), placeEnv+"="+string(order)),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := p.Ended(ctx); err != nil {
		p.Signal(unix.SIGKILL)
		r.t.Fatalf("natively: %v\n%s", err, strings.Join(append(out.finish(), errs.finish()...), "\n"))
	}
	if err := p.Err(); err != nil {
		r.t.Errorf("natively: %v\n%s", err, strings.Join(errs.finish(), "\n"))
	}
	return out.finish()
}

// inPlace runs the program under a front end.
func (r *run) inPlace(binary string, f FrontEnd) []string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, errs, err := r.begin(ctx, binary, f)
	if err != nil {
		r.t.Errorf("under %s: %v\n%s", f, err, strings.Join(errs, "\n"))
	}
	return out
}

// begin runs stepin with the program to its end and returns what both outputs said.
func (r *run) begin(ctx context.Context, binary string, f FrontEnd) (said, complained []string, err error) {
	r.t.Helper()
	argv, env := r.prepare()
	env = append(env, carried()...)
	if f == NoFUSE {
		f, env = Preload, append(env, "STEPIN_FUSE=/no/fuse")
	}
	text, err := json.Marshal(map[string]any{
		"target": fmt.Sprintf("local/%d", r.pod.MainPID()), "incoming": map[string]any{"mode": "steal"}, "frontEnd": f,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(r.scratch, "stepin.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		r.t.Fatal(err)
	}
	out, errs := &lines{run: r, ctx: ctx}, &lines{run: r, ctx: ctx}
	cmd := exec.CommandContext(ctx, binary, append([]string{"exec", "--config", file, "--"}, argv...)...)
	cmd.Env = append(env, "HTTP_PROXY=http://this.machine:3128", "GREETING=this machine's")
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.scratch, out, errs
	err = cmd.Run()
	return out.finish(), errs.finish(), err
}

// refused holds that preload does not begin a program that it cannot serve.
func (r *run) refused(binary string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, errs, err := r.begin(ctx, binary, Preload)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 125 || len(out) > 0 {
		r.t.Errorf("under preload, which cannot serve it (%s): %v\n%s", r.program.NoPreload, err, strings.Join(append(out, errs...), "\n"))
	}
}

// carried are the variables of the tests that stepin itself reads.
func carried() (env []string) {
	for _, name := range []string{"STEPIN_TUN", "STEPIN_FUSE", "XDG_RUNTIME_DIR", "STEPIN_LOG"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
