package dap_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap"
	"github.com/stepin-dev/stepin/pkg/config"
)

// scriptEnv makes the test's binary a real debugger with a script: it does what Delve does not, and others do.
const scriptEnv = "STEPIN_TEST_SCRIPT"

// script is the real debugger's side: reverse requests, cancel, other capabilities, sudden death.
func script(socket string) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Println(err)
		return
	}
	send := func(m map[string]any) {
		b, _ := json.Marshal(m)
		conn.Write(dap.AppendFrame(nil, b))
	}
	r := bufio.NewReader(conn)
	for {
		b, err := dap.ReadFrame(r)
		if err != nil {
			return
		}
		var m struct {
			Seq, RequestSeq int
			Type, Command   string
			Request_Seq     int
			Arguments, Body json.RawMessage
		}
		json.Unmarshal(b, &m)
		if m.Type == "response" {
			send(map[string]any{"seq": 9, "type": "event", "event": "answered", "body": map[string]any{"to": m.Request_Seq, "body": m.Body}})
			continue
		}
		answer := map[string]any{"seq": 1, "type": "response", "command": m.Command, "request_seq": m.Seq, "success": true}
		switch m.Command {
		case "initialize":
			answer["body"] = map[string]any{"supportsCancelRequest": true, "supportsStepBack": true, "supportsConfigurationDoneRequest": true}
		case "launch":
			send(map[string]any{"seq": 1, "type": "event", "event": "initialized"})
		case "ask":
			send(map[string]any{"seq": 77, "type": "request", "command": "startDebugging", "arguments": map[string]any{"configuration": nil}})
		case "hang":
			continue
		case "cancel":
			send(map[string]any{"seq": 1, "type": "event", "event": "asked to cancel", "body": m.Arguments})
		case "lie": // an answer to nothing
			send(map[string]any{"seq": 1, "type": "response", "command": "x", "request_seq": 4711, "success": true})
		case "die":
			fmt.Fprintln(os.Stderr, "last words")
			os.Exit(3)
		case "garble":
			conn.Write([]byte("garbage\r\n\r\n"))
			continue
		}
		send(answer)
		if m.Command == "disconnect" {
			return
		}
	}
}

// scripted is the real debugger above.
type scripted struct{ dap.Debugger }

func (scripted) Name() string         { return "script" }
func (scripted) Hints() dap.Hints     { return dap.Hints{} }
func (scripted) Console() dap.Console { return dap.InternalConsole }
func (scripted) Close() error         { return nil }
func (scripted) Build(context.Context, string, func(string, string)) (string, error) {
	return "", nil
}
func (scripted) Command(socket string) dap.Command {
	return dap.Command{Argv: []string{"/proc/self/exe"}, Env: []string{scriptEnv + "=" + socket}, Dir: "/"}
}
func (scripted) Arguments(dap.Launching) (json.RawMessage, error) { return json.RawMessage("{}"), nil }
func (scripted) Log(line string) (string, bool)                   { return line, false }

func startScripted(t *testing.T) *adapter {
	a := startAdapter(t, "/", func(o *dap.Options) {
		o.Debuggers["go"] = func(*config.Launch, bool, dap.Place) (dap.Debugger, error) { return scripted{}, nil }
	})
	a.Reverse = func(command string, _ json.RawMessage) (any, error) { return map[string]string{"did": command}, nil }
	begin(t, a.Client, launchArgs(map[string]any{}))
	return a
}

// TestBothWays checks what passes between an editor and a debugger that number their messages as they like.
func TestBothWays(t *testing.T) {
	a := startScripted(t)
	c := a.Client
	var changed struct{ Capabilities map[string]any }
	body(t, event(t, c, "capabilities").Body, &changed)
	if changed.Capabilities["supportsStepBack"] != true || changed.Capabilities["supportsLogPoints"] != false ||
		changed.Capabilities["supportsRestartRequest"] != nil || changed.Capabilities["supportsConfigurationDoneRequest"] != nil {
		t.Errorf("capabilities: %v", changed)
	}
	must(t, c, "lie", nil)
	must(t, c, "ask", nil)
	if got := string(event(t, c, "answered").Body); !strings.Contains(got, `"to":77`) || !strings.Contains(got, "startDebugging") {
		t.Errorf("the reverse request is answered %s", got)
	}
	seq, answer, err := c.Send("hang", nil)
	if err != nil {
		t.Fatal(err)
	}
	must(t, c, "cancel", map[string]any{"requestId": seq, "later": nil})
	var asked map[string]any
	body(t, event(t, c, "asked to cancel").Body, &asked)
	if asked["requestId"] == float64(seq) || asked["requestId"] == nil {
		t.Errorf("requestId %v, the editor's own is %d", asked["requestId"], seq)
	}
	if _, ok := asked["later"]; !ok {
		t.Errorf("unknown fields are lost: %v", asked)
	}
	m := refused(t, c, "die", nil)
	if got := m.Err().Error(); !strings.Contains(got, "exit status 3") || !strings.Contains(got, "last words") {
		t.Errorf("the request under way is answered %q", got)
	}
	if m := <-answer; m == nil || m.Success {
		t.Errorf("the older request is answered %v", m)
	}
	event(t, c, "terminated")
	must(t, c, "disconnect", nil)
}

// TestGarbledDebugger ends a conversation with a real debugger that stops talking the protocol.
func TestGarbledDebugger(t *testing.T) {
	a := startScripted(t)
	refused(t, a.Client, "garble", nil)
	event(t, a.Client, "terminated")
}

// TestLongPath cannot make a socket, and says why.
func TestLongPath(t *testing.T) {
	a := startAdapter(t, program(t, "hello"))
	a.place.dir = a.place.dir + "/" + strings.Repeat("x", 100)
	if err := os.Mkdir(a.place.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, a.Client, "initialize", initialize)
	m := refused(t, a.Client, "launch", launchArgs(map[string]any{"program": "."}))
	if !strings.Contains(m.Err().Error(), "107 bytes") || !strings.Contains(m.Err().Error(), "hint: ") {
		t.Error(m.Err())
	}
}
