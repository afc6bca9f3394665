package parent

import (
	"crypto/rand"
	"crypto/sha256"
	"time"
)

// maxTokens bounds the tokens of one agent; the next takes the place of the oldest one that no session has.
const maxTokens = 256

// tokens are those that this agent accepts, as hashes: what reads this process's memory cannot join. They belong to
// the parent's loop.
type tokens map[[sha256.Size]byte]time.Time // since when

// know says whether hash is of a token. That hashes are compared without care for time tells nobody a token.
func (t tokens) know(hash []byte) bool {
	if len(hash) != sha256.Size {
		return false
	}
	_, ok := t[[sha256.Size]byte(hash)]
	return ok
}

// mint makes a token; "" where there are too many in use.
func (t tokens) mint(uses func(hash [sha256.Size]byte) bool) string {
	if len(t) >= maxTokens {
		var oldest *[sha256.Size]byte
		for h, since := range t {
			if !uses(h) && (oldest == nil || since.Before(t[*oldest])) {
				oldest = &h
			}
		}
		if oldest == nil {
			return ""
		}
		delete(t, *oldest)
	}
	token := rand.Text()
	t[sha256.Sum256([]byte(token))] = time.Now()
	return token
}
