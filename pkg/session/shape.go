package session

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/stepin-dev/stepin/pkg/policy"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// planFiles decides which paths come from the pod.
func (s *Session) planFiles(ctx context.Context) {
	in := policy.FilesInput{PodTop: s.pod.Top, Program: s.options.Place.Program, Workdir: s.options.Place.Workdir,
		Workspace: s.options.Place.Workspace, Home: variable(s.options.Place.Environ, "HOME"),
		Own: []string{s.dir, os.TempDir()}, DNS: s.config.DNS, Hostname: s.config.Hostname, Config: s.config.Files}
	for _, v := range s.pod.Volumes {
		in.Volumes = append(in.Volumes, v.Path)
	}
	if top, err := os.ReadDir("/"); err == nil {
		for _, e := range top {
			in.HostTop = append(in.HostTop, e.Name())
		}
	}
	in.Present = s.present(ctx, policy.Probes())
	s.plan = policy.Cover(in)
	for _, k := range s.plan.Kept {
		s.notice(fmt.Sprintf("%s stays this machine's: %s", k.Path, k.Why))
	}
}

// present returns those of the paths that the pod has, in one round trip.
func (s *Session) present(ctx context.Context, paths []string) []string {
	have := make([]bool, len(paths))
	var wg sync.WaitGroup
	for i, p := range paths {
		wg.Go(func() { have[i] = s.link.ask(ctx, wire.KindLstat, wire.Path{Path: p, Own: true}, nil) == nil })
	}
	wg.Wait()
	var out []string
	for i, p := range paths {
		if have[i] {
			out = append(out, p)
		}
	}
	return out
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
	var small []string
	for _, v := range s.pod.Volumes {
		if v.Small && !v.File && s.plan.Covered(v.Path) {
			small = append(small, v.Path)
		}
	}
	return small
}
