package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/requests"
	"github.com/stepin-dev/stepin/pkg/session"
)

func execCommand(version string) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command as if inside a pod, without a debugger",
		Long: "Run a command as if inside a pod, without a debugger. The exit status is the command's own, 128 and the\n" +
			"signal's number if one ended it, 125 if stepin itself failed.",
		Example: "  stepin exec -t deployment/orders -n shop -- curl http://payment\n" +
			"  stepin exec -t deployment/orders --steal 8080 -- ./orders\n" +
			"  stepin exec -t local/4711 -- env",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fail.New(fail.ConfigValue, "stepin exec -t deployment/orders -- COMMAND", "no command to run")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runExec(cmd, version, f, args) },
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // the command's own flags are its own
	flags.StringVarP(&f.target, "target", "t", "", "whose place the command takes: deployment/NAME, pod/NAME …, or local/PID")
	f.cluster.add(cmd)
	flags.StringVarP(&f.file, "config", "c", "", "a launch configuration (JSON, or a stepin.yaml) instead of the stepin.yaml found upwards")
	flags.Var(&f.steal, "steal", "ports whose requests the command answers in the pod's place, as in 8080,9090; without it the pod answers, and the command gets copies")
	flags.BoolVar(&f.requests, "requests", false, "say each request that the command has answered in a line on standard error")
	return cmd
}

type execFlags struct {
	target, file string
	cluster      clusterFlags
	steal        ports
	requests     bool
}

// ports are numbers with commas between them. Which of them are ports the configuration's checks say.
type ports []uint

// String is what help shows as the default: nothing.
func (p *ports) String() string { return "" }

// Type is what help calls the value.
func (p *ports) Type() string { return "ports" }

// Set adds to what is there: the flag may be repeated.
func (p *ports) Set(text string) error {
	for _, part := range strings.Split(text, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 32)
		if err != nil {
			return fmt.Errorf("%q is no port: write its number, as in --steal 8080", part)
		}
		*p = append(*p, uint(n))
	}
	return nil
}

// config is the configuration that the flags make, over --config or the stepin.yaml upwards from dir.
func (f execFlags) config(dir string) (*config.Launch, error) {
	file, launch := (*config.File)(nil), map[string]json.RawMessage{}
	var err error
	switch {
	case f.file == "":
		file, err = config.Load(dir)
	case isYAML(f.file):
		file, err = readYAML(f.file)
	default:
		var raw []byte
		if raw, err = readFile(f.file); err == nil {
			raw = config.WithoutComments(raw)
			if json.Unmarshal(raw, &launch) != nil {
				_, err = config.Parse(raw) // which says what is wrong
			}
		}
	}
	if err != nil {
		return nil, err
	}
	set := func(name string, v any) {
		if raw, merr := json.Marshal(v); merr == nil {
			launch[name] = raw
		}
	}
	for name, written := range map[string]string{"target": f.target, "namespace": f.cluster.namespace,
		"context": f.cluster.context, "kubeconfig": f.cluster.kubeconfig} {
		if written != "" {
			set(name, written)
		}
	}
	if len(f.steal) > 0 || f.requests {
		in := map[string]any{}
		if launch["incoming"] != nil {
			if err := json.Unmarshal(launch["incoming"], &in); err != nil {
				return nil, fail.Wrap(fail.ConfigValue, err, "", "incoming")
			}
		}
		if len(f.steal) > 0 {
			in["mode"], in["ports"] = "steal", f.steal
		}
		if f.requests {
			in["log"] = true
		}
		set("incoming", in)
	}
	raw, err := json.Marshal(launch)
	if err != nil {
		return nil, fmt.Errorf("cli: writing the configuration: %w", err)
	}
	return config.Merge(file, raw)
}

// forgotten says that the command is a target, with no -t before it.
func (f execFlags) forgotten(args []string) error {
	_, err := config.ParseTarget(args[0])
	if _, missing := os.Stat(args[0]); f.target != "" || err != nil || missing == nil {
		return nil
	}
	return fail.New(fail.ConfigValue, "stepin exec -t "+args[0]+" -- COMMAND", "%s is a target and no command", args[0])
}

func runExec(cmd *cobra.Command, version string, f execFlags, args []string) error {
	dir, err := os.Getwd()
	if err != nil {
		return fail.Wrap(fail.Internal, err, "start it in an existing directory", "the working directory is gone")
	}
	if err := f.forgotten(args); err != nil {
		return err
	}
	c, err := f.config(dir)
	if err != nil {
		return err
	}
	program, err := findProgram(args[0], dir)
	if err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	starting, cancel := untilSignal(cmd.Context())
	defer cancel()
	say := func(line string) { fmt.Fprintln(stderr, "stepin: "+printable(line)) }
	lines := requests.NewLines(say)
	s, err := start(starting, version, session.Options{
		Config: c, Log: logger(stderr), Notice: say, Requests: logged(c, lines),
		Place: session.Place{Program: here(program), Workdir: dir, Workspace: dir, Environ: os.Environ()},
	})
	if err != nil {
		if starting.Err() != nil {
			return errStopped()
		}
		return err
	}
	status, err := runInside(cmd.Context(), starting, s, append([]string{program}, args[1:]...), dir, stderr)
	if cerr := s.Close(); cerr != nil && err == nil {
		err = cerr
	}
	lines.Flush()
	if err != nil {
		return err
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// logged is who hears of requests: nobody, unless the user has said so, for standard error is the command's, too.
func logged(c *config.Launch, lines *requests.Lines) func(requests.Request) {
	if !c.Incoming.Log || !c.Wrote("incoming", "log") {
		return nil
	}
	return lines.Tell
}

func errStopped() error { return fail.New(fail.Internal, "", "stopped before the command began") }

// runInside runs the command with stepin's own streams and returns its status; not if a signal has ended starting.
func runInside(ctx, starting context.Context, s *session.Session, argv []string, dir string, stderr io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = s.Environ(nil), dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	defer signal.Stop(signals)
	if starting.Err() != nil { // by a signal from before signals had them
		return 0, errStopped()
	}
	if err := s.Begin(cmd); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	lost := s.Done()
	for {
		select {
		case sig := <-signals:
			if !fromTerminal(sig) {
				cmd.Process.Signal(sig) // it may have ended: then ended says so
			}
		case <-lost:
			if err := s.Err(); err != nil {
				Status(err, stderr)
			}
			cmd.Process.Kill()
			<-ended
			return exitOurs, nil
		case err := <-ended:
			return statusOf(cmd, err)
		}
	}
}

// statusOf is the exit status that a shell would show.
func statusOf(cmd *exec.Cmd, err error) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fail.Wrap(fail.Internal, err, "", "waiting for %s", cmd.Path)
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// fromTerminal says that the terminal has sent the signal to the command, too: it goes to the whole foreground group
// (termios(3), ISIG), and we are in it.
func fromTerminal(sig os.Signal) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT && sig != syscall.SIGWINCH {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// here is the program's path if this machine has it: what only the pod has stays the pod's.
func here(program string) string {
	if _, err := os.Stat(program); err != nil {
		return ""
	}
	return program
}

// findProgram makes a command's name absolute. A path that does not exist here may exist in the pod, if its folder
// does not exist here either; whether it does is seen when it is run.
func findProgram(name, dir string) (string, error) {
	if !strings.Contains(name, "/") {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fail.New(fail.ProgramMissing, "name it with its path", "%s is not on PATH", name)
		}
		return filepath.Abs(path)
	}
	path := within(dir, name)
	info, err := os.Stat(path)
	_, above := os.Stat(filepath.Dir(path))
	switch {
	case err == nil && (info.IsDir() || info.Mode()&0o111 == 0):
		return "", fail.New(fail.ProgramMissing, "chmod +x, or run it by its interpreter", "%s is not a program", path)
	case err != nil && above == nil:
		return "", fail.New(fail.ProgramMissing, "a name without / is looked for on PATH", "%s: no such program", path)
	}
	return path, nil
}
