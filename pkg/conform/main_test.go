package conform

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

func TestMain(m *testing.M) {
	podlet.Hook() // this binary is the pod's own processes, too
	if order := os.Getenv(placeEnv); order != "" {
		fmt.Fprintln(os.Stderr, "conform: taking the native place:", enter(order))
		os.Exit(1)
	}
	status := m.Run()
	if status == 0 && *all && os.Getuid() == 0 {
		status = runAsOther()
	}
	if madeDir != "" {
		os.RemoveAll(madeDir)
	}
	os.Exit(status)
}

// otherUser is the ordinary user as which root runs all programs once more: nobody's, with no rights at all.
const otherUser = 65534

// madeEnv tells the ordinary user's run where the compiled programs are.
const madeEnv = "STEPIN_TEST_MADE"

// runAsOther runs this binary's tests as an ordinary user, who gets device nodes of his own (distributions have them for
// everybody) and copies of what he may not read where it is.
func runAsOther() int {
	dir, err := os.MkdirTemp("", "stepin-conform-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = furnish(dir)
	}
	if err != nil {
		fmt.Println("FAIL: preparing the ordinary user's run:", err)
		return 1
	}
	fmt.Printf("=== the same as uid %d\n", otherUser)
	cmd := exec.Command(dir+"/conform.test", os.Args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir+"/tree", os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "HOME="+dir+"/home", "TMPDIR="+dir+"/home", "XDG_RUNTIME_DIR=", "STEPIN_BINARY="+dir+"/stepin",
		"STEPIN_TUN="+dir+"/tun", "STEPIN_FUSE="+dir+"/fuse", madeEnv+"="+madeDir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	if err := cmd.Run(); err != nil {
		fmt.Printf("FAIL: as uid %d: %v\n", otherUser, err)
		return 1
	}
	return 0
}

func furnish(dir string) error {
	binary := os.Getenv("STEPIN_BINARY")
	if binary == "" {
		binary = "../../bin/stepin"
	}
	return errors.Join(
		os.Chmod(dir, 0o755),
		unix.Mknod(dir+"/tun", unix.S_IFCHR, int(unix.Mkdev(10, 200))),
		unix.Mknod(dir+"/fuse", unix.S_IFCHR, int(unix.Mkdev(10, 229))),
		os.Chmod(dir+"/tun", 0o666),
		os.Chmod(dir+"/fuse", 0o666),
		exec.Command("cp", "-L", fmt.Sprintf("/proc/%d/exe", os.Getpid()), dir+"/conform.test").Run(),
		exec.Command("cp", "-L", binary, dir+"/stepin").Run(),
		os.CopyFS(dir+"/tree/programs", os.DirFS("programs")),
		os.Mkdir(dir+"/home", 0o700),
		os.Chown(dir+"/home", otherUser, otherUser),
	)
}

// placeEnv makes the test's binary take a native program's place, as JSON of place.
const placeEnv = "STEPIN_TEST_PLACE"

// place is where a native program runs: in the pod's network and with its host name, with this machine's files, and with
// a copy of the pod's volumes at their paths. A bind mount of the volumes themselves is not to be had, since they are in
// another mount namespace (mount(2), EINVAL).
type place struct {
	PID  int
	Argv []string
	Dir  string
}

// newRoot is any directory that every machine has and nothing here needs.
const newRoot = "/mnt"

// enter becomes the program. It returns on failure only.
func enter(order string) error {
	var p place
	if err := json.Unmarshal([]byte(order), &p); err != nil {
		return err
	}
	os.Unsetenv(placeEnv)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount(/, MS_PRIVATE): %w", err)
	}
	if err := unix.Mount("root", newRoot, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount(tmpfs): %w", err)
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := show(e.Name(), e); err != nil {
			return fmt.Errorf("/%s: %w", e.Name(), err)
		}
	}
	for _, v := range Volumes() {
		if out, err := exec.Command("cp", "-a", fmt.Sprintf("/proc/%d/root%s", p.PID, v), newRoot+v).CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
		for _, flags := range []uintptr{unix.MS_BIND, unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY} {
			if err := unix.Mount(newRoot+v, newRoot+v, "", flags, ""); err != nil {
				return fmt.Errorf("mount(%s): %w", v, err)
			}
		}
	}
	if err := errors.Join(unix.Chroot(newRoot), unix.Chdir(p.Dir)); err != nil {
		return err
	}
	return unix.Exec(p.Argv[0], p.Argv, os.Environ())
}

// show makes one of this machine's top-level entries be there.
func show(name string, e os.DirEntry) error {
	from, to := "/"+name, filepath.Join(newRoot, name)
	switch {
	case from == newRoot:
		return os.Mkdir(to, 0o755)
	case e.Type()&os.ModeSymlink != 0:
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(link, to)
	case e.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
	}
	return nil // a file at the top is nobody's business
}

// madeDir holds what make compiles, until the end of this process.
var madeDir string

var makeOnce = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv(madeEnv); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "stepin-conform-")
	if err != nil {
		return "", err
	}
	madeDir = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	c, err := filepath.Glob("programs/c/*.c")
	if err != nil {
		return "", err
	}
	commands := [][]string{
		{"CGO_ENABLED=0", "go", "build", "-trimpath", "-o", dir + "/go-static", "./programs/go"},
		append([]string{"", "gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread", "-o", dir + "/c"}, c...),
	}
	if *all {
		commands = append(commands, []string{"CGO_ENABLED=1", "go", "build", "-trimpath", "-o", dir + "/go-cgo", "./programs/go"},
			append([]string{"", "gcc", "-static", "-std=gnu11", "-O1", "-pthread", "-o", dir + "/c-static"}, c...))
		if _, err := exec.LookPath("javac"); err == nil {
			commands = append(commands, []string{"", "javac", "-d", dir, "programs/java/Conform.java"})
		}
	}
	for _, c := range commands {
		cmd := exec.Command(c[1], c[2:]...)
		cmd.Env = append(os.Environ(), "GOFLAGS=", c[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(c, " "), err, out)
		}
	}
	return dir, nil
})

// programs compiles the programs once and returns their directory.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := makeOnce()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
