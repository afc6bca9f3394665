package whole

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// otherUser is the ordinary user as which root runs all tests once more: nobody's, with no rights at all.
const otherUser = 65534

// onlyEnv, set to "root", leaves the ordinary user's run out while one works on a test.
const onlyEnv = "STEPIN_TEST_ONLY"

func TestMain(m *testing.M) {
	podlet.Hook() // this binary is the pod's own processes, too
	if os.Getenv(networkEnv) != "" {
		os.Exit(networkMain())
	}
	if where := os.Getenv(strangerEnv); where != "" {
		os.Exit(strangerMain(where))
	}
	if err := bringJSDebug(); err != nil {
		fmt.Println("FAIL:", err)
		os.Exit(1)
	}
	status := m.Run()
	if status == 0 && os.Getuid() == 0 && os.Getenv(onlyEnv) != "root" && !listing() {
		status = runAsOther()
	}
	os.Exit(status)
}

// jsDebugEnv names js-debug to stepin.
const jsDebugEnv = "STEPIN_JS_DEBUG"

// bringJSDebug has the stepins of the tests find the js-debug that ./just fetches.
func bringJSDebug() error {
	if os.Getenv(jsDebugEnv) != "" {
		return nil
	}
	path, err := filepath.Abs(filepath.Join("..", "..", ".tools", "js-debug"))
	if err != nil {
		return err
	}
	return os.Setenv(jsDebugEnv, path)
}

func listing() bool {
	f := flag.Lookup("test.list")
	return f != nil && f.Value.String() != ""
}

// runAsOther runs this binary's tests as an ordinary user, who gets device nodes of his own (distributions have them
// for everybody), a copy of the binaries and of the programs, and no rights.
func runAsOther() int {
	dir, err := os.MkdirTemp("", "stepin-whole-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = furnish(dir)
	}
	if err != nil {
		fmt.Println("FAIL: preparing the ordinary user's run:", err)
		return 1
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.coverprofile") && !strings.HasPrefix(a, "-test.gocoverdir") && !strings.HasPrefix(a, "-test.testlogfile") {
			args = append(args, a)
		}
	}
	fmt.Printf("=== the same as uid %d\n", otherUser)
	cmd := exec.Command(filepath.Join(dir, "whole.test"), args...)
	cmd.Dir = filepath.Join(dir, "work")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	home := filepath.Join(dir, "home")
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "GOCACHE="+userCache(home), "GOPATH="+filepath.Join(home, "go"),
		"STEPIN_TUN="+filepath.Join(dir, "tun"), "STEPIN_FUSE="+filepath.Join(dir, "fuse"), "STEPIN_BINARY="+filepath.Join(dir, "stepin"),
		"PATH="+dir+":"+os.Getenv("PATH"), "XDG_RUNTIME_DIR=", jsDebugEnv+"="+filepath.Join(dir, "js-debug"), "GOFLAGS=", "GOTOOLCHAIN=local")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	if err := cmd.Run(); err != nil {
		fmt.Printf("FAIL: as uid %d: %v\n", otherUser, err)
		return 1
	}
	return 0
}

// userCache is the ordinary user's Go build cache: kept from run to run beside our own tools, since a cold one costs half
// a minute, or, where he cannot reach that place, a fresh one.
func userCache(home string) string {
	fresh := filepath.Join(home, "cache")
	kept, err := filepath.Abs(filepath.Join("..", "..", ".tools", fmt.Sprintf("cache-%d", otherUser)))
	if err != nil || os.MkdirAll(kept, 0o755) != nil || os.Chown(kept, otherUser, otherUser) != nil {
		return fresh
	}
	reach := exec.Command("test", "-w", kept)
	reach.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	if reach.Run() != nil {
		return fresh
	}
	return kept
}

func furnish(dir string) error {
	dlv, err := exec.LookPath("dlv")
	if err != nil {
		return fmt.Errorf("no dlv on PATH: %w", err)
	}
	binary := os.Getenv("STEPIN_BINARY")
	if binary == "" {
		binary = filepath.Join("..", "..", "bin", "stepin")
	}
	work := filepath.Join(dir, "work")
	for _, err := range []error{
		os.Chmod(dir, 0o755),
		unix.Mknod(filepath.Join(dir, "tun"), unix.S_IFCHR, int(unix.Mkdev(10, 200))),
		unix.Mknod(filepath.Join(dir, "fuse"), unix.S_IFCHR, int(unix.Mkdev(10, 229))),
		os.Chmod(filepath.Join(dir, "tun"), 0o666),
		os.Chmod(filepath.Join(dir, "fuse"), 0o666),
		exec.Command("cp", "-L", fmt.Sprintf("/proc/%d/exe", os.Getpid()), filepath.Join(dir, "whole.test")).Run(),
		exec.Command("cp", "-L", binary, filepath.Join(dir, "stepin")).Run(),
		exec.Command("cp", "-L", dlv, filepath.Join(dir, "dlv")).Run(),
		os.CopyFS(work, os.DirFS(".")),
		os.CopyFS(filepath.Join(dir, "js-debug"), os.DirFS(os.Getenv(jsDebugEnv))),
		os.CopyFS(filepath.Join(dir, "dap", "testdata"), os.DirFS(filepath.Join("..", "dap", "testdata"))), // where it is from work
		os.WriteFile(filepath.Join(work, "go.mod"), []byte("module github.com/stepin-dev/stepin/adapter/whole\n\ngo 1.26.0\n"), 0o644),
		os.Mkdir(filepath.Join(dir, "home"), 0o700),
		os.Chown(filepath.Join(dir, "home"), otherUser, otherUser),
		exec.Command("chown", "-R", fmt.Sprint(otherUser), work).Run(),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}
