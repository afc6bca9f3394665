package cli_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stepin-dev/stepin/adapter/cli"
)

// TestMain makes the test's binary stepin itself for the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"stepin": func() { os.Exit(cli.Main("", os.Args[1:])) }})
}

// TestScripts runs the scripts of testdata: each is one behaviour as a user sees it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true, Setup: shortDir,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exists-soon": existsSoon, "stop": stop},
	})
}

// shortDir gives each script a directory $RUN of its own that is short enough to hold sockets, which $WORK may not be.
func shortDir(env *testscript.Env) error {
	dir, err := os.MkdirTemp("/tmp", "run")
	env.Defer(func() { os.RemoveAll(dir) })
	env.Setenv("RUN", dir)
	return err
}

// existsSoon waits until a file exists.
func existsSoon(ts *testscript.TestScript, _ bool, args []string) {
	for range 500 {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s does not come", args[0])
}

// stop sends SIGTERM to the script's background commands.
func stop(ts *testscript.TestScript, _ bool, _ []string) {
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(syscall.SIGTERM))
	}
}
