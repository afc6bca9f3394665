package namespaces

import (
	"io/fs"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// fillHoles mounts what is the host's, or nothing, over parts of what is covered. The mount needs something of its kind
// to go on, and nothing can be made in the pod's tree: a hole at a path that the pod does not have is noted and left
// out. Parents come first: a hole may lie in a hole.
func (b *builder) fillHoles() error {
	for _, p := range slices.Sorted(maps.Keys(b.holes)) {
		dst, err := os.Lstat(b.root + p)
		if err != nil || dst.Mode()&fs.ModeSymlink != 0 {
			b.h.note("%s: there is nothing of the pod's to mount on", p)
			continue
		}
		from := p
		switch b.holes[p] {
		case hidden:
			from = b.empty(dst.IsDir())
		case covered:
			from = b.pod + p
		}
		src, err := os.Lstat(from)
		if err != nil || src.IsDir() != dst.IsDir() || src.Mode()&fs.ModeSymlink != 0 {
			b.h.note("%s: this machine's is not of the pod's kind", p)
			continue
		}
		if err := unix.Mount(from, b.root+p, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return failedStep(stepRoot, err, "mount(%s, MS_BIND)", p)
		}
		b.h.mounts++
	}
	return nil
}
