package talk

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/adapter/dap/client"
)

// Environ is the test's own environment, with a dlv on PATH wherever the machine has it, and with UNSET_ME.
func Environ(t testing.TB) []string {
	dlv := FindDlv(t)
	return append(os.Environ(), "PATH="+filepath.Dir(dlv)+":"+os.Getenv("PATH"), "UNSET_ME=1")
}

// FindDlv is dlv's path.
func FindDlv(t testing.TB) string {
	home, _ := os.UserHomeDir()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), os.Getenv("GOBIN"), filepath.Join(home, "go", "bin")) {
		if path := filepath.Join(dir, "dlv"); dir != "" {
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	t.Fatal("dlv is neither on PATH nor in ~/go/bin: ./just test installs it")
	return ""
}

// Bare is Delve by itself, as the adapter would start it, its standard streams captured.
func Bare(t testing.TB, dir string) (c *client.Client, stdout, stderr *Buffer) {
	private, err := os.MkdirTemp("", "s") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(private) })
	l, err := net.Listen("unix", filepath.Join(private, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stdout, stderr = &Buffer{}, &Buffer{}
	cmd := exec.Command(FindDlv(t), "dap", "--client-addr=unix:"+l.Addr().String())
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, stdout, stderr, Environ(t)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c = client.New(conn)
	t.Cleanup(func() { c.Close(); _ = cmd.Wait() })
	return c, stdout, stderr
}
