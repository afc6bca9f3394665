package namespaces

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// errClosed is what everything says once the namespaces are closed.
var errClosed = errors.New("namespaces: closed")

// Namespaces is the session's hold on a holder and its namespaces. Its methods may be called from any goroutine.
//
// Goroutines: one waits for the holder's end, then ends every process inside and closes Done; one of os/exec reads what the holder
// says on stderr, until its end. Descriptors: all those that the
// holder sent, the control socket, the keeper's pipe and the pins are owned here and closed by Close.
type Namespaces struct {
	log    *slog.Logger
	stub   string // path of the stub's executable
	in     inodes
	pins   []*os.File // the holder's namespaces, held open so that their numbers stay theirs
	holder *exec.Cmd
	keeper *keeper
	ports  *stepError // why the debuggee cannot bind to ports below 1024

	tun   *os.File
	loop6 *os.File     // nil where ::1 is native
	ipv6  bool         // the kernel has it
	addrs []netip.Addr // the pod's
	route *kernelSocket
	diag  *kernelSocket

	mu     sync.Mutex
	own    map[ownPort]bool
	recent []int // processes that asked last, for Owner

	poolMu  sync.Mutex    // guards control after the start, and pool
	pool    map[int][]int // transparent sockets by address family, nil = closed
	control control

	ended   chan struct{} // closed when the holder has gone and nobody is left inside
	endErr  error         // read after ended
	closing atomic.Bool
	close   sync.Once
}

// Tun is the TUN device, not blocking, one IP packet per read and write. It stays owned here.
func (n *Namespaces) Tun() *os.File { return n.tun }

// Loopback6 takes whole IPv6 packets, one per write, that are to come in by the namespaces' lo: the answers from ::1, which
// the kernel does not accept from the TUN device. What the debuggee sends to a ::1 port that is not its own arrives at Tun. It
// is nil where ::1 is native. It stays owned here.
func (n *Namespaces) Loopback6() *os.File { return n.loop6 }

// HolderPid is the holder's process id.
func (n *Namespaces) HolderPid() int { return n.holder.Process.Pid }

// Wrap returns the command line that runs argv inside, as the same process. Argv[0] is a path as seen inside, or a name to look
// up in PATH.
func (n *Namespaces) Wrap(argv []string) []string {
	return append([]string{n.stub, strconv.Itoa(n.HolderPid())}, argv...)
}

// Processes lists the processes inside, without the holder. It costs a few microseconds per process of the machine.
func (n *Namespaces) Processes() ([]int, error) { return n.in.processes(n.HolderPid()) }

// Done is closed when the holder has ended and every process inside with it, whoever ended it.
func (n *Namespaces) Done() <-chan struct{} { return n.ended }

// Err says why the holder ended when nobody asked it to; nil before Done and after Close.
func (n *Namespaces) Err() error {
	select {
	case <-n.ended:
		return n.endErr
	default:
		return nil
	}
}

// Bounds of Close. The holder needs reapTime at most; the keeper has only the directory left to remove.
const (
	holderTime = reapTime + 500*time.Millisecond
	keeperTime = 2 * time.Second
)

// Close ends every process inside and the holder, closes what the namespaces own and removes Plan.Dir. It returns an error when a
// process could not be ended in time. Again, it does nothing.
func (n *Namespaces) Close() error {
	n.close.Do(n.shut)
	<-n.ended
	return n.endErr
}

func (n *Namespaces) shut() {
	n.closing.Store(true)
	n.control.Close() // the holder sees the end, reaps and exits
	select {
	case <-n.ended:
	case <-time.After(holderTime):
		n.holder.Process.Kill()
		<-n.ended
	}
	n.poolMu.Lock()
	for _, fds := range n.pool {
		closeAll(fds)
	}
	n.pool = nil
	n.poolMu.Unlock()
	n.tun.Close()
	if n.loop6 != nil {
		n.loop6.Close()
	}
	n.route.close()
	n.diag.close()
	n.keeper.end()
	for _, f := range n.pins {
		f.Close()
	}
}

// wait is the goroutine that follows the holder.
func (n *Namespaces) wait(stderr *tail) {
	err := n.holder.Wait()
	left := n.in.reap()
	switch {
	case n.closing.Load():
		n.endErr = left
	case err == nil:
		n.endErr = errors.Join(errors.New("namespaces: the holder has ended"), left)
	default:
		n.endErr = errors.Join(fmt.Errorf("namespaces: the holder has ended: %w%s", err, stderr.text()), left)
	}
	if n.endErr != nil {
		n.log.Warn("namespaces ended", "err", n.endErr)
	}
	close(n.ended)
}

// keeper is the small process that tidies up when session and holder have died. The write end of one pipe is ours, that of the
// other the holder's.
type keeper struct {
	cmd    *exec.Cmd
	ours   *os.File // write end: the holder's number goes in, and our end is its end
	theirs *os.File // write end, nil once the holder has it
}

// startKeeper runs it before there is anything to keep. Points are the mount points that it removes.
func startKeeper(image, dir string, points []string) (*keeper, error) {
	r1, w1, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("namespaces: making the keeper's pipes: %w", err)
	}
	defer r1.Close()
	r2, w2, err := os.Pipe()
	if err != nil {
		w1.Close()
		return nil, fmt.Errorf("namespaces: making the keeper's pipes: %w", err)
	}
	defer r2.Close()
	cmd := exec.Command(image, append([]string{dir}, points...)...)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.ExtraFiles = []*os.File{r1, r2}
	k := &keeper{cmd: cmd, ours: w1, theirs: w2}
	if err := cmd.Start(); err != nil {
		w1.Close()
		w2.Close()
		return nil, fmt.Errorf("namespaces: starting the keeper: %w", err)
	}
	return k, nil
}

// watch tells it whose namespaces it keeps.
func (k *keeper) watch(pid int) error {
	k.theirs.Close()
	k.theirs = nil
	if _, err := fmt.Fprintln(k.ours, pid); err != nil {
		return fmt.Errorf("namespaces: telling the keeper: %w", err)
	}
	return nil
}

// end lets it do its work and waits for it. The holder must be gone.
func (k *keeper) end() {
	if k.theirs != nil {
		k.theirs.Close()
	}
	k.ours.Close()
	stop := time.AfterFunc(keeperTime, func() { k.cmd.Process.Kill() })
	defer stop.Stop()
	k.cmd.Wait()
}

// maxTail bounds what is kept of the holder's stderr: a Go stack's beginning.
const maxTail = 4 << 10

// tail keeps the beginning of what the holder writes to stderr, which is nothing unless it crashes.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[:min(len(p), maxTail-len(t.buf))]...)
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) == 0 {
		return ""
	}
	return ": " + string(t.buf)
}

// openPins opens the namespaces of a process and reads their numbers.
func openPins(pid int) ([]*os.File, inodes, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	in, err := inodesOf(dir)
	if err != nil {
		return nil, in, fmt.Errorf("namespaces: reading the holder's namespaces: %w", err)
	}
	own, err := inodesOf("/proc/self")
	if err != nil || own.mnt == in.mnt || own.net == in.net {
		return nil, in, errors.Join(errors.New("namespaces: the holder has no namespaces of its own"), err)
	}
	var pins []*os.File
	for _, name := range []string{"mnt", "net"} {
		f, err := os.OpenFile(dir+"/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			for _, p := range pins {
				p.Close()
			}
			return nil, in, fmt.Errorf("namespaces: holding the holder's namespaces: %w", err)
		}
		pins = append(pins, f)
	}
	return pins, in, nil
}

// untilDone makes every use of the control socket end when ctx does; stop undoes it.
func untilDone(ctx context.Context, c control) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
}
