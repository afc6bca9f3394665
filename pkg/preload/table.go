package preload

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Rule is one line of the path table: what becomes of Prefix and of all beneath it. Paths are absolute and clean, "/" is
// the root.
type Rule struct {
	Prefix     string
	Action     uint16        // PathHost, PathTranslate, PathFetch, PathHidden
	To         string        // of PathTranslate; of PathFetch beneath Config.Stand
	WriteError syscall.Errno // of every call that would write there; 0: allowed
}

// maxRules bounds the table: the library searches it at each path, and a pod with more volumes is not known.
const maxRules = 4096

// Table makes the path table's bytes.
func Table(rules []Rule) ([]byte, error) {
	if len(rules) > maxRules {
		return nil, fmt.Errorf("preload: %d rules for paths, at most %d", len(rules), maxRules)
	}
	rules = slices.Clone(rules)
	for i := range rules {
		rules[i].Prefix = strings.TrimSuffix(rules[i].Prefix, "/")
		rules[i].To = strings.TrimSuffix(rules[i].To, "/")
		if len(rules[i].Prefix) >= PathMax || len(rules[i].To) >= PathMax || strings.ContainsRune(rules[i].Prefix+rules[i].To, 0) {
			return nil, fmt.Errorf("preload: %q is no path", rules[i].Prefix)
		}
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.Prefix, b.Prefix) })
	head, each := binary.Size(TableHead{}), binary.Size(TableRule{})
	at := head + each*len(rules)
	var strs []byte
	put := func(s string) uint32 {
		where := uint32(at + len(strs))
		strs = append(append(strs, s...), 0)
		return where
	}
	lines := make([]TableRule, len(rules))
	for i, r := range rules {
		lines[i] = TableRule{Prefix: put(r.Prefix), Length: uint32(len(r.Prefix)), Action: r.Action, WriteError: int32(r.WriteError)}
		if r.To != "" {
			lines[i].To, lines[i].ToLength = put(r.To), uint32(len(r.To))
		}
	}
	out, err := binary.Append(nil, binary.LittleEndian, TableHead{Magic: TableMagic, Count: uint32(len(rules)), Size: uint32(at + len(strs))})
	if err == nil {
		out, err = binary.Append(out, binary.LittleEndian, lines)
	}
	if err != nil {
		return nil, fmt.Errorf("preload: making the path table: %w", err)
	}
	return append(out, strs...), nil
}

// tableFile is the table in a sealed memfd: programs map it, none can change another's.
func tableFile(rules []Rule) (*os.File, int, error) {
	raw, err := Table(rules)
	if err != nil {
		return nil, 0, err
	}
	f, err := memfd("paths", raw)
	return f, len(raw), err
}

// memfd is a sealed file of the content in memory.
func memfd(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("preload: making a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("preload: filling a file in memory: %w", err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		f.Close()
		return nil, fmt.Errorf("preload: sealing a file in memory: %w", err)
	}
	return f, nil
}
