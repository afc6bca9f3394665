package delve

import (
	"slices"
	"sort"
	"strings"
	"sync"
)

// scrubber blots out the pod's values in dlv's own log.
type scrubber struct {
	mu     sync.Mutex
	values []string // longest first, so that none leaves a tail of another
}

func newScrubber() *scrubber { return &scrubber{} }

// shortest is the length below which a value is no secret, and blotting it out would make the log unreadable: "1",
// "true", "8080".
const shortest = 6

// learn takes the values that the user did not write himself. dlv logs them as JSON and as Go strings: both forms.
func (s *scrubber) learn(env, own map[string]*string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, v := range env {
		if v == nil || len(*v) < shortest || own[name] != nil && *own[name] == *v {
			continue
		}
		s.values = append(s.values, *v)
		for part := range strings.FieldsFuncSeq(*v, func(r rune) bool { return strings.ContainsRune("\n\r\t\"\\<>&", r) }) {
			if len(part) >= shortest && part != *v {
				s.values = append(s.values, part)
			}
		}
	}
	slices.Sort(s.values)
	s.values = slices.Compact(s.values)
	sort.SliceStable(s.values, func(i, j int) bool { return len(s.values[i]) > len(s.values[j]) })
}

func (s *scrubber) scrub(line string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.values {
		line = strings.ReplaceAll(line, v, "•••")
	}
	return line
}
