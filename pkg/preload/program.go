package preload

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Program is what decides whether the library can serve a program.
type Program struct {
	Path   string // of the executable itself: of a script, its interpreter's
	Loader string // the dynamic loader it asks for; "" is none: static
	Go     bool   // made by Go's compiler: it makes system calls itself, with cgo or without
	SetUID bool   // it gets rights that who runs it has not: the loader ignores LD_PRELOAD (ld.so(8), secure execution)
	Alien  bool   // for another machine, as 32-bit programs are
	Other  bool   // nothing that the kernel runs by itself
}

// Musl says whether its libc is musl.
func (p Program) Musl() bool { return strings.Contains(filepath.Base(p.Loader), "musl") }

// Why says in words why the library cannot serve it; "" where it can.
func (p Program) Why() string {
	switch {
	case p.Other:
		return "it is no program"
	case p.Alien:
		return "it is for another kind of machine"
	case p.Go:
		return "it is a Go program, which makes its system calls itself"
	case p.Loader == "":
		return "it is statically linked"
	case p.SetUID:
		return "it is a setuid program, or has capabilities"
	}
	return ""
}

// maxScripts is how many interpreters may be scripts themselves (the kernel's own limit, BINPRM_MAX_RECURSION).
const maxScripts = 5

// Who is the user and group that runs a program.
type Who struct{ UID, GID uint32 }

// Self is whoever runs this.
func Self() Who { return Who{uint32(os.Getuid()), uint32(os.Getgid())} }

// Inspect looks at the program that running path would run: scripts lead to their interpreters, env(1) to what it looks
// up in search, a PATH.
func Inspect(path, search string, who Who) (Program, error) {
	for range maxScripts {
		f, err := os.Open(path)
		if err != nil {
			return Program{Path: path}, fmt.Errorf("preload: looking at a program: %w", err)
		}
		next, err := interpreterOf(f, search)
		if err != nil || next == "" {
			defer f.Close()
			if err != nil {
				return Program{Path: path}, err
			}
			return inspectELF(path, f, who)
		}
		f.Close()
		path = next
	}
	return Program{Path: path, Other: true}, nil
}

// interpreterOf reads the first line of a script (execve(2)); "" where the file is none.
func interpreterOf(f *os.File, search string) (string, error) {
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(errors.New("preload: it is no file"), err)
	}
	const longest = 256 // BINPRM_BUF_SIZE
	line, err := bufio.NewReader(io.LimitReader(f, longest)).ReadBytes('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("preload: looking at a program: %w", err)
	}
	line, script := bytes.CutPrefix(line, []byte("#!"))
	if !script {
		return "", nil
	}
	words := strings.Fields(string(line))
	if len(words) == 0 {
		return "", nil
	}
	if filepath.Base(words[0]) != "env" {
		return words[0], nil
	}
	for _, w := range words[1:] {
		if !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
			return lookUp(w, search), nil
		}
	}
	return words[0], nil
}

func lookUp(name, search string) string {
	if strings.Contains(name, "/") {
		return name
	}
	for _, dir := range filepath.SplitList(search) {
		if p := filepath.Join(dir, name); filepath.IsAbs(p) {
			if found, err := exec.LookPath(p); err == nil {
				return found
			}
		}
	}
	return name
}

func inspectELF(path string, file *os.File, who Who) (Program, error) {
	p := Program{Path: path}
	f, err := elf.NewFile(file)
	if err != nil {
		p.Other = true // a text without #!, which shells run; or a kind that binfmt_misc knows
		return p, nil
	}
	p.Alien = f.Machine != machine()
	for _, ph := range f.Progs {
		if ph.Type != elf.PT_INTERP {
			continue
		}
		loader := make([]byte, min(ph.Filesz, PathMax))
		if n, err := ph.ReadAt(loader, 0); err != nil && n < len(loader) {
			return p, fmt.Errorf("preload: looking at a program: %w", err)
		}
		p.Loader = strings.TrimRight(string(loader), "\x00")
	}
	p.Go = f.Section(".go.buildinfo") != nil || f.Section(".note.go.buildid") != nil
	if info, err := file.Stat(); err == nil {
		owner := info.Sys().(*syscall.Stat_t)
		p.SetUID = info.Mode()&os.ModeSetuid != 0 && owner.Uid != who.UID || info.Mode()&os.ModeSetgid != 0 && owner.Gid != who.GID
	}
	var caps [64]byte
	if n, err := syscall.Getxattr(path, "security.capability", caps[:]); err == nil && n > 0 && who.UID != 0 { // root has them already
		p.SetUID = true
	}
	return p, nil
}

// machine is that of this very program.
func machine() elf.Machine {
	if f, err := elf.Open("/proc/self/exe"); err == nil {
		defer f.Close()
		return f.Machine
	}
	return elf.EM_NONE
}
