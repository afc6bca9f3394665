package preload

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mapperEnv names the library that this binary is to map, as a program of the debuggee's.
const mapperEnv = "STEPIN_TEST_MAPS"

func init() {
	path := os.Getenv(mapperEnv)
	if path == "" {
		return
	}
	f, err := os.Open(path)
	if err == nil {
		_, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	}
	child := exec.Command("sleep", "1000") // which has not
	if err == nil {
		err = child.Start()
	}
	fmt.Println(child.Process.Pid, err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// TestTidy ends the processes that have mapped a session's library, and theirs, nobody else; and removes the directory.
func TestTidy(t *testing.T) {
	dir, err := os.MkdirTemp("", "stepin-p-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	start := func(dir string) (*exec.Cmd, int) {
		library := filepath.Join(dir, LibraryName)
		if err := os.WriteFile(library, make([]byte, 4096), 0o500); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), mapperEnv+"="+library)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var child int
		if _, err := fmt.Sscanf(line, "%d <nil>", &child); err != nil {
			t.Fatal(line, err)
		}
		t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })
		return cmd, child
	}
	other, _ := start(t.TempDir()) // of another session's
	cmd, child := start(dir)
	if got := Processes(dir); len(got) != 2 || !slices.Contains(got, cmd.Process.Pid) || !slices.Contains(got, child) {
		t.Fatalf("%v, not %d and %d", got, cmd.Process.Pid, child)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- KeeperMain(r, []string{dir}) }()
	w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-ended
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("the directory:", err)
	}
	if err := unix.Kill(other.Process.Pid, 0); err != nil {
		t.Error("another session's program:", err)
	}
	for _, bad := range []string{"", "/", "relative", "/tmp", "/tmp/stepin-x/../y", "/home"} {
		if KeeperMain(strings.NewReader(""), []string{bad}) == nil {
			t.Errorf("%q is taken for a session's directory", bad)
		}
	}
}
