package parent

import (
	"crypto/sha256"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestParsePod(t *testing.T) {
	const uid, container = "0f5b1c9e-7a41-4d5f-9d39-6f2f3a1b2c4d", "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339cabcd"
	if p, err := parsePod("local/42"); p != (place{local: 42}) || p.String() != "local/42" || err != nil {
		t.Error(p, err)
	}
	if p, err := parsePod("kube/" + uid + "/" + container); p != (place{uid: uid, container: container}) || p.String() != "kube/"+uid+"/4c01db0b339c" || err != nil {
		t.Error(p, err)
	}
	for _, bad := range []string{"", "42", "local/", "local/0", "local/-1", "local/x", "local/1/2", "pod/orders", "kube/" + uid, "kube//" + container,
		"kube/" + uid + "/4c01", "kube/" + uid + "/containerd://" + container, "kube/../" + container} {
		if _, err := parsePod(bad); err == nil || !strings.Contains(err.Error(), " hint: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOpenTarget(t *testing.T) {
	own, err := openTarget(place{local: os.Getpid()}, process{pid: os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	defer own.close()
	if !own.alive() || !own.same(os.Getpid()) || own.status.UID != os.Geteuid() || !own.userns || own.String() == "" || !own.like(own) || own.start == 0 || own.start > ticks() {
		t.Errorf("%+v", own)
	}
	if _, err := openTarget(place{}, process{pid: 1 << 30}); err == nil {
		t.Error("a process that cannot be")
	}
	again, err := openTarget(place{}, own.process)
	if err != nil {
		t.Fatal(err)
	}
	again.close()
	// It has ended since it was found, and its number is another's.
	if _, err := openTarget(place{}, process{pid: own.pid, start: own.start - 1}); err == nil || !strings.Contains(err.Error(), "there is no process") {
		t.Errorf("another of the same number: %v", err)
	}
}

func TestTokens(t *testing.T) {
	all := tokens{}
	nobody := func([32]byte) bool { return false }
	first := all.mint(nobody)
	hash := sha256.Sum256([]byte(first))
	if first == "" || !all.know(hash[:]) || all.know(hash[1:]) || all.know(make([]byte, 32)) {
		t.Error("a token")
	}
	for len(all) < maxTokens {
		all.mint(nobody)
	}
	if all.mint(func([32]byte) bool { return true }) != "" || !all.know(hash[:]) {
		t.Error("more than there may be")
	}
	if all.mint(nobody) == "" || all.know(hash[:]) || len(all) != maxTokens {
		t.Error("the oldest makes room")
	}
}

// FuzzLock: what holds the lock may be anything.
func FuzzLock(f *testing.F) {
	f.Add("agent 1 by a@b since 2026-11-23T12:00:00Z\n")
	f.Add("\x1b[31m\xff\n")
	f.Fuzz(func(t *testing.T, s string) {
		line, err := readLock(strings.NewReader(s))
		if err != nil {
			return
		}
		if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || len(line) > maxLockLine {
			t.Errorf("%q", line)
		}
	})
}
