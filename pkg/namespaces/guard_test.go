package namespaces

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A guard removes the directory when its pipe ends, as it does with the session, and nothing once it is dismissed.
func TestGuard(t *testing.T) {
	_, image := images(t)
	for _, dismissed := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "session")
		if err := os.MkdirAll(filepath.Join(dir, "build"), 0o700); err != nil {
			t.Fatal(err)
		}
		g, err := NewGuard(dir, image)
		if err != nil {
			t.Fatal(err)
		}
		if dismissed {
			g.Dismiss()
			g.Dismiss()
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 1 {
				t.Errorf("dismissed, it leaves %v %v", left, err)
			}
			continue
		}
		g.keeper.ours.Close()
		g.keeper.cmd.Wait()
		for end := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the directory is left")
			}
		}
	}
	(*Guard)(nil).Dismiss()
}
