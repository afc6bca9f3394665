package podfs

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clientMain carries out orders from standard input.
func clientMain() {
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var o order
		if in.Decode(&o) != nil {
			os.Exit(0)
		}
		var a answer
		start := time.Now()
		if err := carryOut(o, &a); err != nil {
			a.Err = err.Error()
			if !errors.As(err, &a.Errno) {
				a.Errno = syscall.EDOM // an errno that nothing here returns
			}
		}
		a.Seconds = time.Since(start).Seconds()
		out.Encode(a)
	}
}

func carryOut(o order, a *answer) (err error) {
	switch o.Op {
	case "pid":
		a.N = int64(os.Getpid())
	case "stat", "lstat", "fstat":
		var st unix.Stat_t
		switch o.Op {
		case "stat":
			err = unix.Stat(o.Path, &st)
		case "lstat":
			err = unix.Lstat(o.Path, &st)
		default:
			err = unix.Fstat(o.Fd, &st)
		}
		a.Mode, a.Size, a.Ino, a.Uid, a.Mtime = st.Mode, st.Size, st.Ino, st.Uid, st.Mtim.Nano()
	case "readlink":
		var s string
		s, err = os.Readlink(o.Path)
		a.Data = []byte(s)
	case "readdir":
		a.Names, err = names(o.Path)
	case "read":
		a.Data, err = os.ReadFile(o.Path)
	case "readall": // many files, in one order
		for i := range o.N {
			var b []byte
			if b, err = os.ReadFile(fmt.Sprintf(o.Path, i)); err != nil {
				return err
			}
			a.N += int64(len(b))
		}
	case "walk":
		err = filepath.WalkDir(o.Path, func(_ string, d fs.DirEntry, err error) error {
			if err == nil {
				a.N++
				_, err = d.Info()
			}
			return err
		})
	case "open":
		var fd int
		fd, err = unix.Open(o.Path, o.Flags|unix.O_CLOEXEC, 0o644)
		a.N = int64(fd)
	case "pread":
		b := make([]byte, o.N)
		var n int
		n, err = unix.Pread(o.Fd, b, o.Off)
		a.Data = b[:max(0, n)]
	case "close":
		err = unix.Close(o.Fd)
	case "sum":
		err = sum(o, a)
	case "mapsum":
		err = mapSum(o, a)
	case "exec":
		a.Data, err = exec.Command(o.Path).CombinedOutput()
	case "access":
		err = unix.Access(o.Path, uint32(o.Flags))
	case "consistent":
		err = consistent(o)
	default:
		err = change(o)
	}
	return err
}

func change(o order) error {
	switch o.Op {
	case "mkdir":
		return unix.Mkdir(o.Path, 0o755)
	case "rmdir":
		return unix.Rmdir(o.Path)
	case "unlink":
		return unix.Unlink(o.Path)
	case "rename":
		return unix.Rename(o.Path, o.To)
	case "link":
		return unix.Link(o.Path, o.To)
	case "symlink":
		return unix.Symlink("x", o.Path)
	case "mknod":
		return unix.Mknod(o.Path, unix.S_IFIFO|0o644, 0)
	case "chmod":
		return unix.Chmod(o.Path, 0o600)
	case "truncate":
		return unix.Truncate(o.Path, 0)
	case "utimes":
		return unix.Utimes(o.Path, make([]unix.Timeval, 2))
	case "setxattr":
		return unix.Setxattr(o.Path, "user.x", []byte("x"), 0)
	}
	return fmt.Errorf("no such order: %s", o.Op)
}

// names returns a directory's entries, each followed by the letter of its type.
func names(p string) ([]string, error) {
	list, err := os.ReadDir(p)
	var out []string
	for _, e := range list {
		kind := "f"
		switch {
		case e.IsDir():
			kind = "d"
		case e.Type()&fs.ModeSymlink != 0:
			kind = "l"
		}
		out = append(out, e.Name()+":"+kind)
	}
	sort.Strings(out)
	return out, err
}

// sum reads a file in order, o.N bytes a time.
func sum(o order, a *answer) error {
	f, err := os.Open(o.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	a.N, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, o.N))
	a.Data = h.Sum(nil)
	return err
}

// mapSum maps a file with o.Flags and reads it through the mapping.
func mapSum(o order, a *answer) error {
	f, err := os.Open(o.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, o.Flags)
	if err != nil {
		return err
	}
	f.Close() // the mapping keeps the file
	s := sha256.Sum256(b)
	a.N, a.Data = st.Size(), s[:]
	return unix.Munmap(b)
}

// consistent reads two files that always have the same content through one directory descriptor, o.N times.
func consistent(o order) error {
	for range o.N {
		fd, err := unix.Open(o.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		for range 3 { // a client that was not scheduled for many versions
			if err == unix.ENOENT {
				fd, err = unix.Open(o.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
		}
		if err != nil {
			return fmt.Errorf("opening %s: %w", o.Path, err)
		}
		var got [2][]byte
		for i, name := range []string{"a", "b"} {
			f, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("opening %s: %w", name, err)
			}
			file := os.NewFile(uintptr(f), name)
			got[i], err = io.ReadAll(file)
			file.Close()
			if err != nil {
				return fmt.Errorf("reading %s: %w", name, err)
			}
		}
		unix.Close(fd)
		if !bytes.Equal(got[0], got[1]) || len(got[0]) == 0 {
			return fmt.Errorf("torn: %.20q (%d) and %.20q (%d)", got[0], len(got[0]), got[1], len(got[1]))
		}
	}
	return nil
}
