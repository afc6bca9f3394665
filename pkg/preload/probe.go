package preload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/mux"
)

// Probed is what works of this front end on this machine.
type Probed struct {
	Loads error // nil: a program loads the library, which finds its session
	Mount error // nil: the pod's files can be mounted; else they are fetched one by one
}

// probeTime bounds the probe, which takes some 20 ms.
const probeTime = 10 * time.Second

// Probe does what a session does: it has a shell load the library and greet, and mounts FUSE in a directory of its own.
// device is "" or another node than /dev/fuse.
func Probe(ctx context.Context, library []byte, device string) (p Probed, err error) {
	dir, err := os.MkdirTemp("", "stepin-probe-")
	if err != nil {
		return p, fmt.Errorf("preload: making a directory to try in: %w", err)
	}
	defer os.RemoveAll(dir)
	p.Loads = probeLibrary(ctx, library, dir)
	at := filepath.Join(dir, MountName)
	if err := os.Mkdir(at, 0o700); err != nil {
		return p, fmt.Errorf("preload: making a directory to try in: %w", err)
	}
	f, err := Mount(at, device)
	if p.Mount = err; err == nil {
		f.Close() // nobody serves it: who looks at it reads ENOTCONN
		return p, unmount(at)
	}
	return p, nil
}

func probeLibrary(ctx context.Context, library []byte, dir string) error {
	s, err := New(Config{Dir: dir, Handler: nobody{}})
	if err != nil {
		return err
	}
	defer s.Close()
	path := filepath.Join(dir, LibraryName)
	if err := os.WriteFile(path, library, 0o500); err != nil {
		return fmt.Errorf("preload: writing the library: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", ":")
	cmd.Env = []string{"LD_PRELOAD=" + path, Variable + "=" + s.Value()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("preload: a shell with the library: %w: %s", err, out)
	}
	select {
	case <-s.First():
		return nil
	default:
		return errors.New("preload: a shell did not load the library")
	}
}

// nobody is asked by programs that do nothing.
type nobody struct{}

func (nobody) Greet(int, string) bool { return true }
func (nobody) Route(string, netip.AddrPort) (bool, netip.AddrPort, error) {
	return false, netip.AddrPort{}, syscall.ENETUNREACH
}
func (nobody) DialTCP(context.Context, netip.AddrPort, netip.AddrPort) (func(mux.End), error) {
	return nil, syscall.ENETUNREACH
}
func (nobody) ServeUDP(context.Context, *Association)                 {}
func (nobody) Own(a netip.Addr) netip.Addr                            { return a }
func (nobody) Lookup(context.Context, string, uint32) Found           { return Found{Result: LookupNoName} }
func (nobody) Reverse(context.Context, netip.Addr) Found              { return Found{Result: LookupNoName} }
func (nobody) Resolve(context.Context, []byte, bool) ([]byte, uint32) { return nil, LookupNoRecovery }
func (nobody) Exec(int, string) (uint32, []string, error)             { return ExecSame, nil, nil }
func (nobody) Notice(string)                                          {}
func (nobody) Moved(_ string, _, _ netip.AddrPort)                    {}
