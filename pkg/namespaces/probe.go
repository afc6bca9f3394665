package namespaces

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/stepin-dev/stepin/pkg/fail"
	"golang.org/x/sys/unix"
)

// Step is one step of making the namespaces, as doctor shows it.
type Step struct {
	Name string // what it is for
	Call string // the call that failed; "" where all went well or nothing was tried
	Err  error  // its errno; nil = works
	Cure string // what to do
	// Optional says that a session does without.
	Optional bool
}

// ErrNotTried is the Err of steps behind one that failed.
var ErrNotTried = errors.New("not tried, since a step before it failed")

// Probe makes namespaces as Start does, enters them, and ends them again, and says for each step whether it works here. The
// plan gives the device paths only; the images come from the options.
func Probe(ctx context.Context, p Plan, o Options) []Step {
	result := make([]Step, len(steps))
	for i, name := range steps {
		result[i] = Step{Name: name, Optional: name == stepPorts}
	}
	set := func(e *stepError, cure string) {
		at := slices.Index(steps, e.Step)
		for i := at + 1; i < len(result); i++ {
			result[i].Err = ErrNotTried
		}
		result[at].Call, result[at].Err, result[at].Cure = e.Call, e, cure
	}
	without, err := probe(ctx, p, o)
	p, _ = p.checked()
	var e *stepError
	switch {
	case err == nil && without == nil:
	case err == nil:
		set(without, machine{}.cure(without, p))
	case !errors.As(err, &e):
		set(&stepError{Step: stepClone, Call: "starting", Text: err.Error()}, fail.Hint(err))
	default:
		m := machine{}
		first := m.cure(e, p)
		set(e, first)
		// Both devices are missing in many containers: say so at once.
		for step, path := range map[string]string{stepTun: p.TunPath, stepFuse: p.FusePath} {
			i, err := slices.Index(steps, step), opens(path)
			if result[i].Err != ErrNotTried || err == nil {
				continue
			}
			later := failedStep(step, err, "open(%s)", path).(*stepError)
			cure := m.cure(later, p)
			if first == m.cureContainer(e, p) && cure == m.cureContainer(later, p) {
				cure = first // which names all of it
			}
			result[i].Call, result[i].Err, result[i].Cure = later.Call, later, cure
		}
	}
	return result
}

// opens says whether a device can be opened, which does nothing yet.
func opens(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// probe does the real thing, with an empty plan: without a covered path nobody looks at the FUSE tree, so nobody need serve it.
// It also says what a session has to do without.
func probe(ctx context.Context, p Plan, o Options) (without *stepError, err error) {
	dir, err := os.MkdirTemp("", "stepin-doctor-")
	if err != nil {
		return nil, fmt.Errorf("namespaces: probing: %w", err)
	}
	defer os.RemoveAll(dir)
	var device *os.File
	defer func() {
		if device != nil {
			device.Close()
		}
	}()
	o.ServeFUSE = func(fd *os.File) error { device = fd; return nil }
	n, err := Start(ctx, Plan{Hostname: "stepin-doctor", Dir: dir, TunPath: p.TunPath, FusePath: p.FusePath}, o)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	argv := n.Wrap([]string{n.stub, "-h"})
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		return nil, &stepError{Step: stepEnter, Call: "stub", Text: text + " (" + err.Error() + ")"}
	}
	return n.ports, nil
}

// machine knows what may be in the way on Linux machines, and how to mend it. Root is before every path that it looks at: ""
// but in tests.
type machine struct{ root string }

// Cures, by what is in the way.
const (
	cureClone   = "as root: sysctl -w kernel.unprivileged_userns_clone=1"
	cureMax     = "as root: sysctl -w user.max_user_namespaces=15000"
	cureProfile = `give stepin a profile, once, on the machine itself: write the line
    abi <abi/4.0>, include <tunables/global>, profile stepin %s flags=(unconfined) { userns, }
  to /etc/apparmor.d/stepin and run, as root: apparmor_parser -r /etc/apparmor.d/stepin`
	cureSELinux = "see `ausearch -m avc -ts recent`: a policy of this machine forbids it"
	cureLoad    = "as root: modprobe %s"
	cureOpen    = "as root: chmod 0666 %s"
	cureNode    = "unset STEPIN_%s, or let it name a device node that exists"
	cureUnknown = "this is no matter of rights: please report what `stepin doctor` says"
	cureOther   = "ask whoever runs this machine which security policy forbids it"
)

// cure says what to do about a step's failure, by its errno and what the machine says of itself.
func (m machine) cure(e *stepError, p Plan) string {
	switch e.Step {
	case stepTun, stepFuse:
		path, module := p.TunPath, "tun"
		if e.Step == stepFuse {
			path, module = p.FusePath, "fuse"
		}
		return m.cureDevice(e, p, path, module)
	case stepClone:
		switch {
		case m.sysctl("kernel/unprivileged_userns_clone", "0"):
			return cureClone
		case m.sysctl("user/max_user_namespaces", "0"), e.Errno == unix.ENOSPC || e.Errno == unix.EUSERS:
			return cureMax
		}
	}
	if e.Errno != unix.EPERM && e.Errno != unix.EACCES && e.Errno != unix.EROFS && e.Errno != unix.ENOSYS && e.Errno != unix.ENODEV {
		return cureUnknown
	}
	if cure := m.cureContainer(e, p); cure != "" {
		return cure
	}
	switch {
	case m.sysctl("kernel/apparmor_restrict_unprivileged_userns", "1") && (os.Geteuid() != 0 || m.container()):
		exe, err := os.Executable()
		if err != nil {
			exe = "/PATH/stepin"
		}
		return fmt.Sprintf(cureProfile, exe)
	case m.exists("/sys/fs/selinux/enforce"):
		return cureSELinux
	}
	return cureOther
}

// cureDevice says what to do about a device that cannot be opened.
func (m machine) cureDevice(e *stepError, p Plan, path, module string) string {
	missing := e.Errno == unix.ENOENT || e.Errno == unix.ENODEV || e.Errno == unix.ENXIO || e.Errno == unix.ENOTDIR
	node, err := os.Stat(m.root + path)
	open := err == nil && node.Mode().Perm()&0o006 == 0o006
	switch {
	case strings.HasPrefix(e.Call, "ioctl"): // opened, so the device is not what is in the way
		return cureUnknown
	case missing && path != usualTun && path != usualFuse:
		return fmt.Sprintf(cureNode, strings.ToUpper(module))
	case e.Errno == unix.EACCES && !open: // what keeps a container from a device is EPERM (cgroups(7))
		return fmt.Sprintf(cureOpen, path)
	}
	if cure := m.cureContainer(e, p); cure != "" {
		return cure
	}
	if missing {
		return fmt.Sprintf(cureLoad, module)
	}
	return fmt.Sprintf(cureOpen, path)
}

// sysctl says whether the setting has that value; one that does not exist has none.
func (m machine) sysctl(name, value string) bool {
	b, err := os.ReadFile(m.root + "/proc/sys/" + name)
	return err == nil && strings.TrimSpace(string(b)) == value
}

func (m machine) exists(path string) bool {
	_, err := os.Stat(m.root + path)
	return err == nil
}
