package dap

import (
	"encoding/json"
	"slices"
)

// maxRemembered bounds the requests kept for a restart; a source file with breakpoints is one.
const maxRemembered = 4096

// memory is what a restart tells the new real debugger: the last of each configuration request, in the order in which
// their kinds and files first came. It is guarded by conversation.mu.
type memory struct {
	runs       int
	configured bool // configurationDone has come
	entries    []*remembered
	highest    int // the highest breakpoint id that the editor has seen
}

type remembered struct {
	key, command string
	arguments    json.RawMessage
	ids          []int // as the editor knows them, in the order of the request's breakpoints
}

func (m *memory) init() { *m = memory{runs: m.runs} }

func (m *memory) find(key string) *remembered {
	i := slices.IndexFunc(m.entries, func(e *remembered) bool { return e.key == key })
	if i < 0 {
		return nil
	}
	return m.entries[i]
}

// remember keeps a configuration request and returns the key under which its answer is learnt.
func (c *conversation) remember(m *Message) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Command == "configurationDone" {
		c.memory.configured = true
		return ""
	}
	key := m.Command
	if m.Command == "setBreakpoints" {
		var args struct {
			Source struct {
				Path string `json:"path"`
				Name string `json:"name"`
			} `json:"source"`
		}
		if decode(m.Field("arguments"), &args) != nil {
			return ""
		}
		key += "\x00" + args.Source.Path + "\x00" + args.Source.Name
	}
	e := c.memory.find(key)
	if e == nil {
		if len(c.memory.entries) >= maxRemembered {
			return ""
		}
		e = &remembered{key: key, command: m.Command}
		c.memory.entries = append(c.memory.entries, e)
	}
	e.arguments = m.Field("arguments")
	return key
}

// learn reads the breakpoint ids of an answer that goes to the editor, after giving them ids it can tell apart.
func (c *conversation) learn(r *run, key string, m *Message) {
	if key == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := c.memory.answer(r.ids, m, nil)
	if e := c.memory.find(key); e != nil {
		e.ids = ids
	}
}

// answer translates the ids in an answer's breakpoints and returns them. known are the ids that the editor has for
// the same breakpoints from the run before.
func (mem *memory) answer(t *translation, m *Message, known []int) []int {
	body := fields(m, "body")
	var list []map[string]json.RawMessage
	if decode(body["breakpoints"], &list) != nil {
		return nil
	}
	ids := make([]int, len(list))
	for i, b := range list {
		var id int
		if decode(b["id"], &id) != nil || id == 0 {
			continue // not set: it has none
		}
		if t != nil {
			if i < len(known) && known[i] != 0 {
				t.seen[id] = known[i]
			} else if t.seen[id] == 0 {
				mem.highest++
				t.seen[id] = mem.highest
			}
			id = t.seen[id]
			b["id"] = number(id)
		}
		ids[i] = id
		mem.highest = max(mem.highest, id)
	}
	if t != nil {
		body["breakpoints"] = mustRaw(list)
		m.raw["body"] = mustRaw(body)
	}
	return ids
}

// translation is from a later run's breakpoint ids to the editor's: every real debugger counts from 1 again, and the
// editor still shows the first one's. nil changes nothing. Only the run's reader uses it, under conversation.mu where
// it is written.
type translation struct{ seen map[int]int }

func newTranslation() *translation { return &translation{seen: map[int]int{}} }

// stopped translates a stopped event's hitBreakpointIds.
func (t *translation) stopped(m *Message) {
	body := fields(m, "body")
	var ids []int
	if t == nil || decode(body["hitBreakpointIds"], &ids) != nil || len(ids) == 0 {
		return
	}
	for i, id := range ids {
		if to, ok := t.seen[id]; ok {
			ids[i] = to
		}
	}
	body["hitBreakpointIds"] = mustRaw(ids)
	m.raw["body"] = mustRaw(body)
}

// breakpoint translates a breakpoint event's id.
func (t *translation) breakpoint(m *Message) {
	body := fields(m, "body")
	var b map[string]json.RawMessage
	var id int
	if t == nil || decode(body["breakpoint"], &b) != nil || decode(b["id"], &id) != nil {
		return
	}
	if to, ok := t.seen[id]; ok {
		b["id"] = number(to)
		body["breakpoint"] = mustRaw(b)
		m.raw["body"] = mustRaw(body)
	}
}
