package session

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/stepin-dev/stepin/pkg/namespaces"
	"github.com/stepin-dev/stepin/pkg/policy"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// planFiles decides which paths come from the pod.
func (s *Session) planFiles() {
	in := policy.FilesInput{PodTop: s.pod.Top, Program: s.options.Place.Program, Workdir: s.options.Place.Workdir,
		Workspace: s.options.Place.Workspace, Home: variable(s.options.Place.Environ, "HOME"),
		Interpreter: interpreter(s.options.Place.Program), Own: s.own(), DNS: s.config.DNS, Hostname: s.config.Hostname, Config: s.config.Files}
	for _, v := range s.pod.Volumes {
		in.Volumes = append(in.Volumes, v.Path)
	}
	if top, err := os.ReadDir("/"); err == nil {
		for _, e := range top {
			in.HostTop = append(in.HostTop, e.Name())
		}
	}
	for _, p := range policy.Probes() {
		if _, has := s.attrs[p]; has {
			in.Present = append(in.Present, p)
		}
	}
	s.plan = policy.Cover(in)
	s.aliases = map[string]string{}
	for _, v := range s.pod.Volumes { // /var/run is a link to /run on most machines, and in few images
		if at := namespaces.Canonical(v.Path); at != v.Path && s.plan.Covered(v.Path) {
			s.plan.Alias(at, v.Path)
			s.aliases[v.Path] = at
		}
	}
	for _, k := range s.plan.Kept {
		s.notice(fmt.Sprintf("%s stays this machine's: %s", k.Path, k.Why))
	}
}

// own is what must stay in its place for stepin and for what it starts, by each of its names: the pod's file under the
// debugger's path would be run as the developer.
func (s *Session) own() []string {
	own := []string{s.dir, os.TempDir()}
	for _, file := range []string{s.options.Place.Debugger, s.options.Place.Program} {
		if file == "" {
			continue
		}
		own = append(own, file)
		if behind, err := filepath.EvalSymlinks(file); err == nil && behind != file {
			own = append(own, behind)
		}
		if loader := interpreter(file); loader != "" {
			own = append(own, loader)
		}
	}
	return own
}

// interpreter is the loader that an ELF program asks for (elf(5), PT_INTERP), "" where it is none or needs none.
func interpreter(program string) string {
	if info, err := os.Stat(program); err != nil || !info.Mode().IsRegular() {
		return "" // opening a FIFO would wait
	}
	f, err := elf.Open(program)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		const longest = 4096 // PATH_MAX
		path := make([]byte, min(p.Filesz, longest))
		if n, err := p.ReadAt(path, 0); err != nil && n < len(path) {
			return ""
		}
		return strings.TrimRight(string(path), "\x00")
	}
	return ""
}

// probe asks about paths of the pod's, in one round trip, and keeps what there is of them in attrs.
func (s *Session) probe(ctx context.Context, paths []string) {
	attrs := make([]*wire.Attr, len(paths))
	var wg sync.WaitGroup
	for i, p := range paths {
		wg.Go(func() {
			var a wire.Attr
			if s.link.ask(ctx, wire.KindLstat, wire.Path{Path: wire.Name(p), Own: true}, &a) == nil {
				attrs[i] = &a
			}
		})
	}
	wg.Wait()
	for i, p := range paths {
		if attrs[i] != nil {
			s.attrs[p] = *attrs[i]
		}
	}
}

// unknown are the pod's paths that are about to be mounted and were not asked about yet: one by one, each would cost a
// round trip.
func (s *Session) unknown() []string {
	var paths []string
	for _, p := range s.plan.Cover {
		if p = s.plan.PodPath(p); s.attrs[p] == (wire.Attr{}) {
			paths = append(paths, p)
		}
	}
	return paths
}

// blank lists the programs of this machine that must not run inside. Few directories have one.
func (s *Session) blank() []string {
	return slices.DeleteFunc(policy.Blank(variable(s.options.Place.Environ, "PATH")), func(file string) bool {
		_, err := os.Stat(file)
		return err != nil
	})
}

// smallVolumes lists the volumes that come whole.
func (s *Session) smallVolumes() []string {
	return slices.DeleteFunc(small(s.pod.Volumes), func(path string) bool { return !s.plan.Covered(path) })
}

// small lists the volumes that may come whole.
func small(volumes []wire.Volume) []string {
	var paths []string
	for _, v := range volumes {
		if v.Small && !v.File {
			paths = append(paths, v.Path)
		}
	}
	return paths
}
