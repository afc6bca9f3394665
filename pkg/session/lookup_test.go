package session

import (
	"errors"
	"testing"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/mux"
)

// TestLookupWithoutAgent: names are the developer's where onLost says so, and else nobody's.
func TestLookupWithoutAgent(t *testing.T) {
	s := &Session{link: &link{}, config: &config.Launch{OnLost: "host"}}
	garbage := [][]byte{{0}} // which no name server is asked: what counts is who refuses it
	if _, err := s.lookup(t.Context(), garbage, []bool{false}); errors.Is(err, mux.ErrLost) {
		t.Error("host:", err)
	}
	s.config.OnLost = "fail"
	if _, err := s.lookup(t.Context(), garbage, []bool{false}); !errors.Is(err, mux.ErrLost) {
		t.Error("fail:", err)
	}
}
