// Package shell is what the developer's shell would give a real debugger: programs on PATH, variables, env files,
// folders. The packages that prepare real debuggers share it. It must never look at this process's own environment or
// working directory: the editor's are handed in.
package shell

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// LookPath finds a program on the environment's PATH; unlike exec.LookPath not on ours.
func LookPath(name string, environ []string) (string, error) {
	for _, dir := range filepath.SplitList(Lookup(environ, "PATH")) {
		if path := filepath.Join(dir, name); filepath.IsAbs(dir) && Executable(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("shell: looking for %s: %w", name, exec.ErrNotFound)
}

// Executable says whether a path is a program that can be run.
func Executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Workspace is the nearest folder upwards that looks like the developer's: that holds one of the marks, in their order of
// preference; else the folder itself.
func Workspace(folder string, marks ...string) string {
	for _, mark := range marks {
		if found := Upwards(folder, mark); found != "" {
			return found
		}
	}
	return folder
}

// Upwards is the nearest folder from dir upwards that holds name, or "".
func Upwards(dir, name string) string {
	for {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// Absolute is path as seen from dir.
func Absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// IsDir says whether a path is a folder.
func IsDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// CompareVersions orders paths by the numbers in them: x-1.10 comes after x-1.9.
func CompareVersions(a, b string) int {
	for a != "" && b != "" {
		x, y := number(a), number(b)
		if x > 0 && y > 0 {
			if d := cmp.Or(cmp.Compare(len(strings.TrimLeft(a[:x], "0")), len(strings.TrimLeft(b[:y], "0"))), cmp.Compare(a[:x], b[:y])); d != 0 {
				return d
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// number is the length of the number that s begins with.
func number(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }
