package session

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/preload"
)

// writeLibrary writes the library to where the debuggee can load it, and returns its path. That is the session's own
// directory; but root's debuggee may become another user (su, nginx, gunicorn), who must find library and socket there, too:
// they are in a directory of their own, which everybody may pass through and nobody else may list. The socket asks for the
// token, which only the debuggee's environment has. The pod's files stay root's.
func writeLibrary(private string, image []byte, everybody bool) (path string, err error) {
	dir, mode := private, os.FileMode(0o500)
	if everybody {
		if dir, err = os.MkdirTemp(filepath.Dir(private), "stepin-open-"); err != nil {
			return "", fmt.Errorf("session: making a directory for the library: %w", err)
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			return "", errors.Join(fmt.Errorf("session: making a directory for the library: %w", err), os.RemoveAll(dir))
		}
		mode = 0o555
	}
	path = filepath.Join(dir, preload.LibraryName)
	if err = loadable(dir); err == nil {
		err = os.WriteFile(path, image, mode)
	}
	if err == nil {
		err = os.Chmod(path, mode) // whatever the umask
	}
	if err != nil && everybody {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return path, err
}

// loadable says why nothing can be loaded from a directory.
func loadable(dir string) error {
	if strings.ContainsAny(dir, ": ") { // what LD_PRELOAD is split at (ld.so(8))
		return fail.New(fail.PreloadForbidden, "let TMPDIR name a directory without blanks and colons",
			"no library can be loaded from %q", dir)
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_NOEXEC != 0 {
		return fail.New(fail.PreloadForbidden, "let TMPDIR name a directory on a file system without noexec",
			"no library can be loaded from %s: its file system is mounted noexec", dir)
	}
	return nil
}
