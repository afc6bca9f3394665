package kube

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/stepin-dev/stepin/pkg/fail"
)

const (
	// shellTimeout bounds the question to the login shell: people have slow ones, but not this slow.
	shellTimeout = 5 * time.Second
	// maxLine bounds a line of a plugin's stderr; longer ones come in pieces.
	maxLine = 4 << 10
	// lastLines are kept for the sentence when a plugin fails.
	lastLines = 5
)

// plugin is an exec plugin whose stderr comes to us. client-go gives it the process's own, where an editor's user sees
// nothing of it; and it may hold the address of a sign-in page.
//
// Goroutines: one reads the pipe, as long as the process lives, because client-go caches what runs plugins as long.
type plugin struct {
	name     string // as the kubeconfig has it
	hint     string // the kubeconfig's installHint
	provider *clientcmdapi.ExecConfig
	worked   atomic.Bool // it has been run with success
	write    *os.File    // our end of the pipe, which the plugin opens anew by its path in /proc

	mu     sync.Mutex
	last   []string
	marks  int           // how many marks have been read
	marked chan struct{} // closed and replaced at each
}

// mark is a line that no plugin writes; we write it to know that all before it has been read.
const mark = "\x00stepin\x00"

// newPlugin finds the plugin and wraps it in a shell that leads its stderr to our pipe.
func newPlugin(provider *clientcmdapi.ExecConfig, said func(string)) (*plugin, error) {
	p := &plugin{name: provider.Command, hint: strings.TrimSpace(provider.InstallHint), marked: make(chan struct{})}
	path, env, err := findPlugin(provider)
	if err != nil {
		hint := p.hint
		if hint == "" {
			hint = "install it, or add its directory to PATH; kubectl needs it, too"
		}
		return nil, fail.New(fail.ClusterCredentials, firstLine(hint), "the kubeconfig's exec plugin %q is not installed", p.name)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("kube: a pipe for %s: %w", p.name, err)
	}
	p.write = write
	p.provider = provider.DeepCopy()
	p.provider.Command = "/bin/sh"
	p.provider.Args = append([]string{"-c", `exec "$@" 2>>"$0"`, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), write.Fd()), path}, provider.Args...)
	p.provider.Env = append(p.provider.Env, env...)
	p.provider.StdinUnavailable = true
	p.provider.StdinUnavailableMessage = "a debug adapter has none"
	go p.listen(read, said)
	return p, nil
}

// findPlugin returns the plugin's path and what its environment needs besides. An editor that a desktop started often
// has not the PATH that the user's shell has.
func findPlugin(provider *clientcmdapi.ExecConfig) (string, []clientcmdapi.ExecEnvVar, error) {
	path, err := exec.LookPath(provider.Command)
	if err == nil {
		return path, nil, nil
	}
	if strings.Contains(provider.Command, "/") {
		return "", nil, err
	}
	login := loginPath()
	for _, dir := range filepath.SplitList(login) {
		if path, err := exec.LookPath(filepath.Join(dir, provider.Command)); err == nil && filepath.IsAbs(path) {
			return path, []clientcmdapi.ExecEnvVar{{Name: "PATH", Value: login + ":" + os.Getenv("PATH")}}, nil
		}
	}
	return "", nil, err
}

// loginPath asks the login shell for its PATH; "" where there is none.
func loginPath() string {
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	ctx, cancel := context.WithTimeout(context.Background(), shellTimeout)
	defer cancel()
	const begin, end = "<stepin:", ":stepin>" // profiles print things
	cmd := exec.CommandContext(ctx, shell, "-lc", `printf '%s%s%s' '`+begin+`' "$PATH" '`+end+`'`)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(out), begin)
	path, _, found := strings.Cut(rest, end)
	if !found {
		return ""
	}
	return path
}

func (p *plugin) listen(r io.Reader, said func(string)) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		raw, _, err := lines.ReadLine()
		if err != nil {
			return
		}
		line := strings.TrimRight(string(raw), " \t\r")
		p.mu.Lock()
		if before, found := strings.CutSuffix(line, mark); found {
			p.marks++
			close(p.marked)
			p.marked = make(chan struct{})
			line = before // a last line without an end
		}
		if line != "" {
			p.last = append(p.last, line)
			p.last = p.last[max(0, len(p.last)-lastLines):]
		}
		p.mu.Unlock()
		if line != "" {
			said(line)
		}
	}
}

// words are the last that a failed plugin said.
func (p *plugin) words() string {
	p.mu.Lock()
	next := p.marked
	p.mu.Unlock()
	if _, err := p.write.WriteString(mark + "\n"); err == nil {
		select {
		case <-next:
		case <-time.After(time.Second):
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.last, "; ")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimSpace(line)
}
