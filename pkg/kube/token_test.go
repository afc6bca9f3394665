package kube

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

func TestTokens(t *testing.T) {
	token, hash := newToken()
	other, _ := newToken()
	if len(token) != 32 || token == other || len(hash) != 64 || hash == token || tokenHash(token) != hash {
		t.Errorf("%q %q", token, hash)
	}
}

func TestTickets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stepin")
	store, err := openTickets(dir)
	if err != nil {
		t.Fatal(err)
	}
	key := ticketKey("https://a", "uid")
	if key == ticketKey("https://b", "uid") || key == ticketKey("https://a", "uid2") {
		t.Error("two agents share a ticket")
	}
	if _, ok := store.load(key); ok {
		t.Error("a ticket from nowhere")
	}
	want := ticket{Token: "secret", Namespace: "shop", Pod: "p", Container: "c", Target: "orders", Port: 7071, Rung: "pod"}
	if err := store.save(key, want); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, key))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	if got, ok := store.load(key); !ok || got != want {
		t.Errorf("%+v", got)
	}
	if err := store.drop(key, "somebody else's"); err != nil {
		t.Error(err)
	}
	if _, ok := store.load(key); !ok {
		t.Error("a ticket was dropped by whom it does not belong to")
	}
	if err := store.drop(key, "secret"); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// A file that is not a ticket is as good as none.
func TestTicketsRefuse(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := openTickets(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"empty": "", "text": "hello", "half": `{"token":"x"`, "lacking": `{"token":"x"}`, "large": `{"token":"` + strings.Repeat("x", maxTicket) + `"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := store.load(name); ok {
			t.Errorf("%s is a ticket", name)
		}
	}
	good := []byte(`{"token":"x","pod":"p","port":1}`)
	if err := os.WriteFile(filepath.Join(dir, "elsewhere"), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, ok := store.load("link"); ok {
		t.Error("a link was followed")
	}
	if _, ok := store.load("elsewhere"); !ok {
		t.Error("the good one is none")
	}
}

func TestTicketDirectory(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{open, link} {
		if _, err := openTickets(dir); fail.CodeOf(err) != fail.AgentStart || fail.Hint(err) == "" {
			t.Errorf("%s: %v", dir, err)
		}
	}
	home := t.TempDir()
	env := func(set map[string]string) func(string) string { return func(k string) string { return set[k] } }
	for _, test := range []struct {
		set  map[string]string
		want string
	}{
		{map[string]string{"XDG_RUNTIME_DIR": home, "HOME": "/nowhere"}, home + "/stepin"},
		{map[string]string{"XDG_RUNTIME_DIR": "/no/such", "XDG_STATE_HOME": home}, home + "/stepin"},
		{map[string]string{"XDG_RUNTIME_DIR": "relative", "HOME": home}, home + "/.local/state/stepin"},
		{nil, ""},
	} {
		got, err := ticketDir(env(test.set))
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%v: %q, %v", test.set, got, err)
		}
	}
}

func TestTicketsOfOld(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old" + suffix: 2 * oldTicket, "new" + suffix: 0, "not ours": 2 * oldTicket} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Now(), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openTickets(dir); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("%v %v", left, err)
	}
}

func TestUploadParts(t *testing.T) {
	boot := []byte("boot")
	for _, size := range []int{0, 1, maxPart - len(boot), maxPart - len(boot) + 1, 3*maxPart + 5} {
		frame := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
		u := newUpload(boot, frame)
		var back []byte
		for i := range u.names {
			m := u.configMap(i, "shop", nil)
			total := 0
			for key, b := range m.BinaryData {
				total += len(b)
				if key != "boot" {
					back = append(back, b...)
				}
			}
			if total > maxPart || !*m.Immutable || len(m.OwnerReferences) > 0 {
				t.Errorf("%d bytes in part %d, %+v", total, i, m.ObjectMeta)
			}
		}
		if !bytes.Equal(back, frame) || string(u.data[0]["boot"]) != "boot" {
			t.Errorf("%d bytes became %d", size, len(back))
		}
		if again := newUpload(boot, frame); again.hash != u.hash {
			t.Error("the same agent has two names")
		}
		if other := newUpload([]byte("boo!"), frame); other.hash == u.hash {
			t.Error("two agents have the same name")
		}
	}
}
