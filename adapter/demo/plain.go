package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/adapter/debugpy"
	"github.com/stepin-dev/stepin/adapter/shell"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/namespaces"
)

// plain is the telling where namespaces cannot be made. A process beside the debuggee, in the same network and with the same
// root, stands for the pod; what it has of its own are its variables, a directory, and the way by which the agent calls out.
// The front end is preload. Where there is no debugpy the program runs without a breakpoint, and says itself what it knows.
//
// Goroutines: the pod's and the program's (beside.go); the service's that knows the stock, and one a request of it; the
// customer's, while a breakpoint holds his request, at most askWait.
type plain struct {
	*demo
	missing []namespaces.Step // the steps of making them that fail
	python  string            // an interpreter
	noPoint error             // why there is no breakpoint; nil if there is
	unheard error             // why nothing is mirrored; nil if it is

	stock   net.Listener
	orders  *beside // the pod
	port    uint16  // its
	command *beside // the program in its place, where there is no breakpoint
	real    netip.AddrPort
	asked   reply // the last request
}

const pythonSource = "orders/orders.py"

// listens is what the service says when it does.
const listens = "orders listens on port "

// folder is where the service looks for its files. Only the pod's own place has them.
const folder = "/etc/orders"

func newPlain(d *demo, missing []namespaces.Step) (*plain, error) {
	p := &plain{demo: d, missing: missing}
	var err error
	if p.python, err = shell.LookPath("python3", d.Environ); err != nil {
		return nil, forbidden(missing)
	}
	_, p.noPoint = debugpy.Find(d.dir, d.Environ)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	} else {
		p.unheard = fmt.Errorf("socket(AF_PACKET): %w", err)
	}
	return p, nil
}

func (p *plain) chapters() []chapter {
	if p.Stay {
		return []chapter{p.startPod, p.first, p.stay}
	}
	if p.noPoint != nil {
		return []chapter{p.startPod, p.first, p.run, p.second, p.printed, p.end, p.notShown}
	}
	return []chapter{p.startPod, p.first, p.pressF5, p.second, p.atPoint, p.printed, p.end, p.notShown}
}

func (p *plain) close() {
	if p.command != nil {
		p.command.end(syscall.SIGTERM)
	}
	if p.editor != nil {
		p.editor.close()
		p.editor = nil
	}
	if p.orders != nil {
		p.orders.end(syscall.SIGKILL)
	}
	if p.stock != nil {
		p.stock.Close()
	}
}

// own is the pod's directory: what the service finds at folder.
func (p *plain) own() string { return filepath.Join(p.dir, "pod") }

func (p *plain) script() string { return filepath.Join(p.dir, pythonSource) }

func (p *plain) startPod(ctx context.Context) (err error) {
	p.story.say("Namespaces cannot be made here, so a plain process stands for the pod, and a library in the\n" +
		"program shows it. What that cannot show is named at the end, and nothing of it is left.")
	p.story.chapter("Run orders, a service in Python: the pod")
	text, err := sources.ReadFile(pythonSource)
	if err != nil {
		return fmt.Errorf("demo: reading the source: %w", err)
	}
	for file, data := range map[string][]byte{p.script(): text, filepath.Join(p.own(), "greeting"): []byte("Good morning!\n")} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o644)); err != nil {
			return fmt.Errorf("demo: writing the service: %w", err)
		}
	}
	if p.stock, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return fmt.Errorf("demo: listening: %w", err)
	}
	go p.serveStock()
	cmd := exec.Command(p.python, p.script(), "0", p.own(), "the pod")
	cmd.Dir = "/"
	cmd.Env = []string{"CURRENCY=EUR", fmt.Sprintf("STOCK=http://%v/stock/%d", p.stock.Addr(), order), "PATH=" + shell.Lookup(p.Environ, "PATH")}
	if p.orders, err = startBeside(cmd, syscall.SIGKILL); err != nil {
		p.orders = nil
		return fmt.Errorf("demo: starting the service: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	if err := p.orders.wait(wait, &p.orders.out, listens); err != nil {
		return fmt.Errorf("demo: starting the service: %w", err)
	}
	_, number, _ := strings.Cut(p.orders.out.String(), listens)
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 16)
	if err != nil {
		return fmt.Errorf("demo: the service listens on %q", number)
	}
	p.port = uint16(n)
	p.story.done()
	p.story.line("pod", fmt.Sprintf("process %d, at %v", p.orders.cmd.Process.Pid, p.address()))
	p.story.line("its files", p.own())
	p.story.line("nearby", fmt.Sprintf("a service at %v, which knows the stock", p.stock.Addr()))
	return nil
}

// serveStock answers until the listener is closed.
func (p *plain) serveStock() {
	for {
		c, err := p.stock.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(askWait))
			serveStock(c)
		}()
	}
}

// address is the pod's.
func (p *plain) address() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.port)
}

// ask asks the pod, or whatever else listens at an address.
func (p *plain) ask(ctx context.Context, at netip.AddrPort) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	return ask(ctx, fmt.Sprintf("http://%v/orders/%d", at, order), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", at.String())
	})
}

func (p *plain) first(ctx context.Context) error {
	p.story.chapter("A customer asks it")
	return p.askPod(ctx)
}

// askPod asks the pod, which must answer, and ends the chapter's title.
func (p *plain) askPod(ctx context.Context) (err error) {
	if p.asked, err = p.ask(ctx, p.address()); err != nil {
		return fmt.Errorf("demo: asking the pod: %w", err)
	}
	p.story.done()
	p.story.answer(p.asked.text)
	return right(p.asked, false)
}

// configuration is what puts the service in the pod's place; the debugger is the editor's only.
func (p *plain) configuration(debugger bool) string {
	mode := "mirror"
	if p.unheard != nil {
		mode = "off"
	}
	lines := []string{`"type": "stepin", "request": "launch", "name": "orders, in its pod's place"`,
		fmt.Sprintf(`"target": "local/%d", "agent": { "hostNetwork": true }, "frontEnd": "preload"`, p.orders.cmd.Process.Pid)}
	if debugger {
		args, _ := json.Marshal(p.arguments()) // strings are always written
		lines = append(lines, fmt.Sprintf(`"debugger": { "type": "python", "program": %q, "args": %s }`, p.script(), args))
	}
	lines = append(lines, fmt.Sprintf(`"incoming": { "mode": %q, "ports": [%d] }, "outgoing": { "loopback": "pod" }`, mode, p.port),
		fmt.Sprintf(`"files": { "map": { %q: %q } }`, folder, p.own()))
	return "   {\n     " + strings.Join(lines, ",\n     ") + "\n   }"
}

// arguments are the debuggee's: it looks for its files where the pod's are not.
func (p *plain) arguments() []string {
	return []string{strconv.Itoa(int(p.port)), folder, "the program on your desk"}
}

// moved is stepin's word that the debuggee, which wants the pod's own port of the network that they share, has another.
var moved = regexp.MustCompile(`tcp port \d+ cannot be had on this machine: the program listens on (\d+) instead`)

// ready are stepin's words that the program is where requests come to.
func (p *plain) ready() string {
	if p.unheard != nil {
		return "the program listens on "
	}
	return fmt.Sprintf("tcp port %d of the pod now sends copies", p.port)
}

// inPlace tells what stepin has said, and remembers where the program is to be found.
func (p *plain) inPlace(lines []string) error {
	p.story.done()
	for _, l := range lines {
		if text, ok := strings.CutPrefix(l, "stepin: "); ok {
			p.story.line("stepin", text)
		}
		if at := moved.FindStringSubmatch(l); at != nil {
			n, err := strconv.ParseUint(at[1], 10, 16)
			if err != nil {
				return fmt.Errorf("demo: %s", l)
			}
			p.real = netip.AddrPortFrom(p.address().Addr(), uint16(n))
		}
	}
	if !p.real.IsValid() {
		return fail.New(fail.Internal, "please report what is printed above", "the program listens nowhere")
	}
	return nil
}
