package session

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/preload"
)

// The front ends, as config.Launch.FrontEnd names them. The third is auto.
const (
	frontPreload    = "preload"
	frontNamespaces = "namespaces"
)

// newFront makes the front end that the configuration names. Auto takes the namespaces, which serve every program; where
// this machine forbids them, the library serves those that go through libc.
func (s *Session) newFront(ctx context.Context) (frontEnd, error) {
	program, why := s.inspect()
	if s.config.FrontEnd == frontPreload {
		if why != "" {
			return nil, fail.New(fail.PreloadForbidden, `write "frontEnd": "namespaces", or leave it out`,
				"%s cannot be run with frontEnd preload: %s", program.Path, why)
		}
		return newPreloaded(ctx, s, program.Musl())
	}
	front, err := newNamespaced(ctx, s, s.dir)
	if err == nil {
		return front, nil
	}
	var refused *fail.Error
	if s.config.FrontEnd == frontNamespaces || !errors.As(err, &refused) || !forbidden(refused.Code) || ctx.Err() != nil {
		return nil, err
	}
	if why != "" {
		s.notice(fmt.Sprintf("%s needs namespaces: %s", program.Path, why))
		return nil, err
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) { // namespaces that fail leave nothing
		return nil, fmt.Errorf("session: making a private directory: %w", err)
	}
	s.notice(fmt.Sprintf("front end preload, because %v", err))
	return newPreloaded(ctx, s, program.Musl())
}

// forbidden says that it is the machine that has no namespaces to give.
func forbidden(c fail.Code) bool {
	return c == fail.NamespacesForbidden || c == fail.NoTun || c == fail.NoFuse
}

// inspect looks at what will be run, and says why the library cannot serve it: "" where it can, or where that is not
// known yet, as of sources. Then the library says itself whether it has been loaded.
func (s *Session) inspect() (p preload.Program, why string) {
	place := s.options.Place
	path := place.Program
	if place.Runtime != "" {
		path = place.Runtime
	}
	if place.Debugger != "" && s.config.Debugger.Type == "go" {
		return preload.Program{Path: path}, preload.Program{Go: true}.Why()
	}
	p, err := preload.Inspect(path, variable(place.Environ, "PATH"), preload.Self())
	switch {
	case err != nil, p.Other && place.Debugger != "":
		return p, ""
	}
	return p, p.Why()
}
