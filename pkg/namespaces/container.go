package namespaces

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// What a container's start must be given so that namespaces can be made in it, as devcontainer.json's runArgs and `docker
// run` take it. Which of them a default container needs is proved by pkg/e2e's TestDevContainer, all but AppArmor's and
// SELinux's.
const (
	argDevice   = "--device="
	argSeccomp  = "--security-opt=seccomp=unconfined"
	argAppArmor = "--security-opt=apparmor=unconfined"
	argSELinux  = "--security-opt=label=disable"
	argPaths    = "--security-opt=systempaths=unconfined"
)

const (
	cureRunArgs = `add %s to "runArgs" in devcontainer.json and rebuild the container; docker run takes the same`
	curePod     = "this is a pod: its container needs seccompProfile Unconfined and, by a device plugin, /dev/net/tun and /dev/fuse; privileged brings all of it"
)

// container says whether we are in one, by the marks that Docker, Podman, Kubernetes and VS Code leave.
func (m machine) container() bool {
	return m.exists("/.dockerenv") || m.exists("/run/.containerenv") || inPod() ||
		os.Getenv("REMOTE_CONTAINERS") != "" || os.Getenv("CODESPACES") != ""
}

// inPod says whether Kubernetes has started us.
func inPod() bool { return os.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// cureContainer names what the container's start is to be given for a step, and for the devices, which come later; "" where
// that would mend nothing.
func (m machine) cureContainer(e *stepError, p Plan) string {
	if !m.container() {
		return ""
	}
	args := append(m.missingRights(e), m.missingDevices(e, p)...)
	switch {
	case len(args) == 0:
		return ""
	case inPod():
		return curePod
	}
	return fmt.Sprintf(cureRunArgs, `"`+strings.Join(args, `", "`)+`"`)
}

// missingRights are those that stand between us and a step that opens no device, by what the kernel says of our confinement.
func (m machine) missingRights(e *stepError) (args []string) {
	switch {
	case e.Step == stepTun || e.Step == stepFuse:
		return nil
	case e.Step == stepPorts && e.Errno == unix.EROFS:
		return []string{argPaths}
	}
	status, _ := os.ReadFile(m.root + "/proc/self/status") // proc_pid_status(5): 2 is a filter
	if strings.Contains(string(status), "\nSeccomp:\t2\n") && (e.Errno == unix.EPERM || e.Errno == unix.ENOSYS) {
		args = append(args, argSeccomp)
	}
	switch label := m.label(); {
	case strings.HasSuffix(label, " (enforce)"):
		args = append(args, argAppArmor)
	case strings.Contains(label, ":container_t:") && e.Errno == unix.EACCES:
		args = append(args, argSELinux)
	}
	return args
}

// label is what a security module calls us: "docker-default (enforce)" is AppArmor's form, four words with colons SELinux's.
// Kernels before 5.8 have no directory for AppArmor alone.
func (m machine) label() string {
	text, err := os.ReadFile(m.root + "/proc/self/attr/apparmor/current")
	if err != nil {
		text, _ = os.ReadFile(m.root + "/proc/self/attr/current")
	}
	return strings.TrimRight(string(text), "\n\x00")
}

// missingDevices are those that are not there, or that the container's cgroup forbids (EPERM). One that this user may not
// open (EACCES) is there.
func (m machine) missingDevices(e *stepError, p Plan) (args []string) {
	if e.Step == stepPorts {
		return nil
	}
	for _, d := range []struct{ step, path, usual string }{{stepTun, p.TunPath, usualTun}, {stepFuse, p.FusePath, usualFuse}} {
		if d.path != d.usual {
			continue
		}
		err := opens(m.root + d.path)
		if e.Step == d.step {
			err = e.Errno
		}
		if err != nil && !errors.Is(err, unix.EACCES) {
			args = append(args, argDevice+d.path)
		}
	}
	return args
}
