package podlet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is the warden and, where an owner is to be killed, the owner. Run by root, every test is run once more
// by an ordinary user. What runs in the pods is testdata/probe.
const (
	otherUser = 65534
	probeEnv  = "STEPIN_TEST_PROBE"
)

func TestMain(m *testing.M) {
	Hook()
	if len(os.Args) > 1 && os.Args[1] == "owner" {
		ownerMain()
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(probeEnv) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "stepin-podlet-test-")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	probe := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-trimpath", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		log.Printf("%v\n%s", err, out)
		return 1
	}
	os.Setenv(probeEnv, probe)
	code := m.Run()
	if os.Geteuid() != 0 || code != 0 {
		return code
	}
	return runAsOther(dir)
}

// runAsOther runs this binary's tests as an ordinary user.
func runAsOther(dir string) int {
	bin := filepath.Join(dir, "podlet.test")
	for _, err := range []error{
		os.Chmod(dir, 0o755),
		os.Mkdir(filepath.Join(dir, "tmp"), 0o777),
		os.Chmod(filepath.Join(dir, "tmp"), 0o777),
		exec.Command("cp", fmt.Sprintf("/proc/%d/exe", os.Getpid()), bin).Run(),
		os.Chmod(bin, 0o755),
	} {
		if err != nil {
			log.Print("preparing the ordinary user's run: ", err)
			return 1
		}
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.coverprofile") && !strings.HasPrefix(a, "-test.gocoverdir") && !strings.HasPrefix(a, "-test.testlogfile") {
			args = append(args, a)
		}
	}
	fmt.Printf("=== the same as uid %d\n", otherUser)
	cmd := exec.Command(bin, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"), "HOME="+filepath.Join(dir, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	if err := cmd.Run(); err != nil {
		log.Printf("as uid %d: %v", otherUser, err)
		return 1
	}
	return 0
}

func root() bool { return os.Geteuid() == 0 }

// probe is the image's file that the tests run.
func probe() File { return File{Path: "/app/probe", Host: os.Getenv(probeEnv), Mode: 0o755} }

// limit bounds a test's waits.
func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// start makes a pod that ends with the test, and checks then that nothing is left.
func start(t testing.TB, s Spec) *Pod {
	t.Helper()
	p, err := Start(limit(t), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, note := range p.Notes() {
		t.Log("note:", note)
	}
	pid, warden := p.MainPID(), p.warden.Process.Pid
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		gone(t, pid)
		gone(t, warden)
	})
	return p
}

func gone(t testing.TB, pid int) {
	t.Helper()
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("process %d is left: %v", pid, err)
	}
}

// in runs the probe in the pod and returns what it printed.
func in(t testing.TB, p *Pod, args ...string) string {
	t.Helper()
	out, _ := p.Exec(limit(t), append([]string{"/app/probe"}, args...)...)
	return out
}

// ownerMain makes a pod, prints its process ids, and waits to be killed.
func ownerMain() {
	p, err := Start(context.Background(), Spec{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.MainPID(), p.warden.Process.Pid)
	select {}
}
