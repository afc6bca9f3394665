package namespaces

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Canonical resolves the symbolic links of the directories on the way to p (/var/run/x is /run/x), as far as they exist. The
// last name stays: a link in the place of a covered path is replaced, not followed.
func Canonical(p string) string {
	rest := filepath.Base(p)
	for dir := filepath.Dir(p); ; dir = filepath.Dir(dir) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(real, rest)
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}

// below says whether p is in dir, at any depth.
func below(p, dir string) bool { return dir == "/" && p != "/" || strings.HasPrefix(p, dir+"/") }

// shared says whether a directory is one in which other programs of the user make files at any time: /tmp and the like, and
// what belongs to the user himself. Such a one stays the host's own, and a covered path in it is mounted over; every other
// directory on the way to a covered path becomes a read-only copy of its entries. To the holder of a user nobody (65534) all
// that is root's looks like his own, since that is the id of those who have none; so he must be able to write as well.
func shared(path string, st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.IsDir() {
		return false
	}
	uid := os.Geteuid()
	return st.Mode()&fs.ModeSticky != 0 && st.Mode().Perm()&0o002 != 0 || uid != 0 && int(sys.Uid) == uid && unix.Access(path, unix.W_OK) == nil
}

// sharedAbove returns the topmost shared directory on the way to the canonical path p, or "".
func sharedAbove(p string) string {
	dir := ""
	for _, name := range strings.Split(strings.TrimPrefix(filepath.Dir(p), "/"), "/") {
		dir += "/" + name
		if st, err := os.Lstat(dir); err != nil {
			return ""
		} else if shared(dir, st) {
			return dir
		}
	}
	return ""
}

// makeMountPoints makes, on the host, the directories that covered paths in shared directories are to be mounted on and that
// do not exist, and returns them, parents first. They are removed when all has ended, if they are still empty.
func makeMountPoints(cover []string) (made []string, err error) {
	for _, p := range cover {
		p = Canonical(p)
		top := sharedAbove(p)
		if top == "" {
			continue
		}
		var missing []string
		for q := p; q != top; q = filepath.Dir(q) {
			if _, err := os.Lstat(q); err == nil {
				break
			}
			missing = append(missing, q)
		}
		slices.Reverse(missing)
		for _, q := range missing {
			if err := os.Mkdir(q, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				removeMountPoints(made)
				return nil, fmt.Errorf("namespaces: making the mount point %s: %w", q, err)
			} else if err == nil {
				made = append(made, q)
			}
		}
	}
	return made, nil
}

// removeMountPoints undoes makeMountPoints; a directory that is no longer empty belongs to somebody.
func removeMountPoints(made []string) {
	for _, p := range slices.Backward(made) {
		syscall.Rmdir(p)
	}
}
