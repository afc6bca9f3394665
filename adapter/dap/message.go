package dap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Message is one DAP message as it came, or one of ours. Every field that is not named here stays in raw, byte by
// byte: unknown fields, nulls and large numbers pass through.
type Message struct {
	Type       string // request, response or event
	Command    string // of a request or response
	Event      string // of an event
	Seq        int    // the sender's number; not to be trusted to be unique or ascending
	RequestSeq int    // of a response: the number of the request it answers
	Success    bool   // of a response

	raw map[string]json.RawMessage
}

// ParseMessage reads a body. It fails on anything that is not an object with a known type.
func ParseMessage(body []byte) (*Message, error) {
	m := &Message{}
	if err := json.Unmarshal(body, &m.raw); err != nil || m.raw == nil {
		return nil, fmt.Errorf("dap: reading a message: not a JSON object")
	}
	for _, f := range []struct {
		name string
		into any
	}{{"type", &m.Type}, {"command", &m.Command}, {"event", &m.Event}, {"seq", &m.Seq},
		{"request_seq", &m.RequestSeq}, {"success", &m.Success}} {
		if v, ok := m.raw[f.name]; ok {
			if err := json.Unmarshal(v, f.into); err != nil {
				return nil, fmt.Errorf("dap: reading a message: field %s has the wrong type", f.name)
			}
		}
	}
	switch {
	case m.Type == "request" && m.Command != "", m.Type == "response", m.Type == "event" && m.Event != "":
		return m, nil
	}
	return nil, fmt.Errorf("dap: reading a message: neither request, response nor event")
}

// Field returns a top-level field as it came: "arguments" of a request, "body" of a response or event. It is nil when
// the field is missing.
func (m *Message) Field(name string) json.RawMessage { return m.raw[name] }

// String describes the message for the log, without its content.
func (m *Message) String() string {
	switch m.Type {
	case "event":
		return "event " + m.Event
	case "response":
		return "response " + m.Command + " to " + strconv.Itoa(m.RequestSeq)
	}
	return "request " + m.Command + " " + strconv.Itoa(m.Seq)
}

// named gives an answer the name of its request where the peer has left it out, as Delve does when it catches a panic of
// its own.
func (m *Message) named(command string) {
	if m.Command == "" {
		m.Command, m.raw["command"] = command, mustRaw(command)
	}
}

// encode returns the body with the given sequence number.
func (m *Message) encode(seq int) ([]byte, error) {
	m.Seq = seq
	m.raw["seq"] = number(seq)
	if m.Type == "response" {
		m.raw["request_seq"] = number(m.RequestSeq)
	}
	return marshal(m.raw)
}

// marshal is json.Marshal without the escapes for HTML, which would change what passes through.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func number(n int) json.RawMessage { return json.RawMessage(strconv.Itoa(n)) }

// mustRaw encodes one of our own values. They are structs and strings of ours: failing is a bug.
func mustRaw(v any) json.RawMessage {
	if r, ok := v.(json.RawMessage); ok {
		return r
	}
	b, err := marshal(v)
	if err != nil {
		panic("dap: encoding a message of our own: " + err.Error())
	}
	return b
}

// newRequest makes a request of ours; nil arguments are left out.
func newRequest(command string, arguments any) *Message {
	m := &Message{Type: "request", Command: command, raw: map[string]json.RawMessage{
		"type": mustRaw("request"), "command": mustRaw(command)}}
	if r, ok := arguments.(json.RawMessage); arguments != nil && (!ok || r != nil) {
		m.raw["arguments"] = mustRaw(arguments)
	}
	return m
}

// newEvent makes an event of ours; a nil body is left out.
func newEvent(event string, body any) *Message {
	m := &Message{Type: "event", Event: event, raw: map[string]json.RawMessage{
		"type": mustRaw("event"), "event": mustRaw(event)}}
	if body != nil {
		m.raw["body"] = mustRaw(body)
	}
	return m
}

// newResponse makes a successful answer to the request with the peer's number seq; a nil body is left out.
func newResponse(seq int, command string, body any) *Message {
	m := &Message{Type: "response", Command: command, RequestSeq: seq, Success: true, raw: map[string]json.RawMessage{
		"type": mustRaw("response"), "command": mustRaw(command), "success": mustRaw(true)}}
	if body != nil {
		m.raw["body"] = mustRaw(body)
	}
	return m
}

// errorBody is the body of a failed response (DAP: ErrorResponse).
type errorBody struct {
	Error struct {
		ID       int    `json:"id"`
		Format   string `json:"format"`
		ShowUser bool   `json:"showUser"`
	} `json:"error"`
}

// newFailure makes a failed answer.
func newFailure(seq int, command, message string, id int, format string, show bool) *Message {
	var body errorBody
	body.Error.ID, body.Error.Format, body.Error.ShowUser = id, format, show
	m := newResponse(seq, command, body)
	m.Success = false
	m.raw["success"] = mustRaw(false)
	m.raw["message"] = mustRaw(message)
	return m
}
