package session

import (
	"sync"

	"github.com/stepin-dev/stepin/pkg/podfs"
)

// trees are the pod's files as they are mounted: once, or twice where a program of the debuggee's needs another front end.
// The small volumes are in each.
type trees struct {
	mu      sync.Mutex
	all     []*podfs.FS
	volumes map[string]*podfs.Tree
}

// add has a tree show the small volumes.
func (t *trees) add(fs *podfs.FS) *podfs.FS {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, fs)
	for path, tree := range t.volumes {
		fs.SetVolume(path, tree)
	}
	return fs
}

// set shows a small volume's newest content; nil: its files are asked for one by one.
func (t *trees) set(path string, tree *podfs.Tree) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.volumes == nil {
		t.volumes = map[string]*podfs.Tree{}
	}
	t.volumes[path] = tree
	for _, fs := range t.all {
		fs.SetVolume(path, tree)
	}
}

func (t *trees) close() (stats []podfs.Stats) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, fs := range t.all {
		stats = append(stats, fs.Stats())
		fs.Close()
	}
	return stats
}
