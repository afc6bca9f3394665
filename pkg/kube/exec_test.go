package kube

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	gwebsocket "github.com/gorilla/websocket"

	"github.com/stepin-dev/stepin/pkg/fail"
)

const execPath = "/api/v1/namespaces/shop/pods/orders/exec"

// command is a container that answers by channels of the v5 protocol: 1 is stdout, 2 stderr, 3 the status.
func command(t *testing.T, stdout, stderr, result string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if !slices.Equal(q["command"], []string{"/stepin/boot", "join"}) || q.Get("container") != "app" || q.Get("stdin") != "" {
			t.Errorf("asked for %v", q)
		}
		speaking(t, stdout, stderr, result)(w, r)
	}
}

// speaking is command, whatever the command.
func speaking(t *testing.T, stdout, stderr, result string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		up := gwebsocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		for _, m := range []string{"\x01" + stdout, "\x02" + stderr, "\x03" + result} {
			if err := ws.WriteMessage(gwebsocket.BinaryMessage, []byte(m)); err != nil {
				t.Error(err)
			}
		}
		_ = ws.WriteControl(gwebsocket.CloseMessage, gwebsocket.FormatCloseMessage(gwebsocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
		_, _, _ = ws.NextReader()
	}
}

// Results of commands.
const (
	execGood = `{"metadata":{},"status":"Success"}`
	execBad  = `{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}`
)

func TestExec(t *testing.T) {
	run := func(h http.HandlerFunc) (string, error) {
		handlers := map[string]http.HandlerFunc{}
		if h != nil {
			handlers["GET "+execPath] = h
		}
		out, err := open(t, newServer(t, handlers)).Exec(within(t, 10*time.Second), "shop", "orders", "app", []string{"/stepin/boot", "join"})
		return string(out), err
	}
	if out, err := run(command(t, "token\n", "a word", execGood)); err != nil || out != "token\n" {
		t.Errorf("%q, %v", out, err)
	}
	var exit *ExitError
	if out, err := run(command(t, "half", "no such session\n", execBad)); !errors.As(err, &exit) || exit.Status != 3 || exit.Stderr != "no such session" || out != "half" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := run(command(t, strings.Repeat("x", maxOutput), "y", execGood)); err != nil {
		t.Errorf("as much as is allowed: %v", err)
	}
	if _, err := run(command(t, strings.Repeat("x", maxOutput+1), "", execGood)); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("too much: %v", err)
	}
	if _, err := run(nil); !errors.Is(err, ErrPodGone) {
		t.Errorf("gone: %v", err)
	}
	_, err := run(func(w http.ResponseWriter, _ *http.Request) { status(w, 500, "InternalError", "container not found") })
	if !errors.Is(err, ErrNotYet) || !strings.Contains(err.Error(), "container not found") {
		t.Errorf("not yet: %v", err)
	}
	_, err = run(forbid("get", "pods/exec")) // and by POST there is nothing
	if err == nil || !errors.Is(err, ErrPodGone) {
		t.Errorf("forbidden by GET, missing by POST: %v", err)
	}
	s := newServer(t, map[string]http.HandlerFunc{"GET " + execPath: forbid("get", "pods/exec"), "POST " + execPath: forbid("create", "pods/exec")})
	_, err = open(t, s).Exec(within(t, 10*time.Second), "shop", "orders", "app", []string{"/stepin/boot", "join"})
	refused(t, err, fail.ClusterForbidden, "running a command in pod orders is forbidden: the right to create pods/exec in namespace shop is missing")
}
