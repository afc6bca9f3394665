package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/embedded"
	"github.com/stepin-dev/stepin/pkg/session"
)

// parts are the programs inside this binary.
func parts(version string) session.Parts {
	return session.Parts{
		Version: version,
		Agent:   func() ([]byte, error) { return embedded.Agent(runtime.GOARCH) },
		Stub:    embedded.Stub,
		Keeper:  embedded.Keeper,
		Preload: embedded.Preload,
		Packed:  embedded.Packed,
		Boot:    embedded.Boot,
	}
}

// starter makes sessions for the adapter.
func starter(version string, place dap.Place, log *slog.Logger) dap.Starter {
	return func(ctx context.Context, c *config.Launch, h dap.Hints, k dap.Hooks) (dap.Runner, error) {
		s, err := start(ctx, version, session.Options{
			Config: c, Log: log, Progress: k.Progress, Notice: k.Notice, Requests: k.Request, Dir: k.Dir,
			Place: session.Place{Program: h.Program, Runtime: h.Runtime, Debugger: h.Debugger, Workdir: h.Cwd, Workspace: h.Workspace, Environ: place.Environ},
		})
		if err != nil {
			return nil, err // not s: a nil *Session in an interface is not nil
		}
		return runner{s}, nil
	}
}

// runner is a session as the adapter sees it.
type runner struct{ *session.Session }

func (r runner) State() (any, <-chan struct{})    { return r.Session.State() }
func (r runner) Sessions(ctx context.Context) any { return r.Session.Sessions(ctx) }

// traceEnv names a file that the agent lists its dials, look-ups and opens in, for the tests.
const traceEnv = "STEPIN_TRACE"

func start(ctx context.Context, version string, o session.Options) (*session.Session, error) {
	o.Parts = parts(version)
	o.TunPath, o.FusePath = os.Getenv(tunEnv), os.Getenv(fuseEnv)
	if path := os.Getenv(traceEnv); path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening the file of %s: %w", traceEnv, err)
		}
		defer f.Close() // the agent has its own descriptor once it runs
		o.Trace = f
	}
	return session.Start(ctx, o)
}

// tunEnv and fuseEnv name other device nodes than /dev/net/tun and /dev/fuse: machines where those are not for
// everyone may have private ones.
const (
	tunEnv  = "STEPIN_TUN"
	fuseEnv = "STEPIN_FUSE"
)
