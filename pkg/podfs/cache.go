package podfs

import (
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// maxCached bounds the cache, in names: 64 Ki of some 300 bytes are 20 MB. A directory larger than a quarter of it
// is not cached, or it would push out everything else.
const maxCached = 64 << 10

// cached is what the Source said of a path.
type cached struct {
	attr      wire.Attr
	target    string // of a symlink
	hasTarget bool
	missing   syscall.Errno // ENOENT or ENOTDIR; 0 where the path exists
	at        time.Time     // when it was asked
}

// cache remembers what the Source said for a short time (FS.ttl, given with each look), so that a walk over a
// directory, and the kernel's own questions about what it has just been told, cost one round trip.
type cache struct {
	mu    sync.Mutex
	paths map[string]cached
	lists map[string]time.Time // directories whose every entry is in paths: what is not there does not exist
}

// get returns what is known of p and is younger than ttl.
func (c *cache) get(p string, ttl time.Duration) (cached, bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.paths[p]; ok && now.Sub(e.at) < ttl {
		return e, true
	}
	if at, ok := c.lists[path.Dir(p)]; ok && now.Sub(at) < ttl && p != "/" {
		return cached{missing: syscall.ENOENT, at: at}, true
	}
	return cached{}, false
}

func (c *cache) put(p string, e cached, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room(1, ttl)
	c.paths[p] = e
}

// putList enters a whole directory that was asked for at the time at.
func (c *cache) putList(dir string, list []wire.DirEntry, at time.Time, ttl time.Duration) {
	if len(list) > maxCached/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room(len(list), ttl)
	for _, e := range list {
		c.paths[join(dir, string(e.Name))] = cached{attr: e.Attr, target: string(e.Target), hasTarget: e.Target != "", at: at}
	}
	c.lists[dir] = at
}

// room makes room for n names: what is too old goes first, then everything.
func (c *cache) room(n int, ttl time.Duration) {
	if c.paths == nil {
		c.paths, c.lists = map[string]cached{}, map[string]time.Time{}
	}
	if len(c.paths)+n <= maxCached && len(c.lists) <= maxCached/4 {
		return
	}
	now := time.Now()
	for d, at := range c.lists { // first: a list promises that its entries are there
		if now.Sub(at) >= ttl {
			delete(c.lists, d)
		}
	}
	for p, e := range c.paths {
		if now.Sub(e.at) >= ttl {
			delete(c.paths, p)
		}
	}
	if len(c.paths)+n > maxCached || len(c.lists) > maxCached/4 {
		clear(c.paths)
		clear(c.lists)
	}
}

// join joins a clean absolute directory and a name.
func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}
