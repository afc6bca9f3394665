package kube

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	if kept, err := store.save(key, want); err != nil || kept != want {
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
	store, err := openTickets(dir)
	if err != nil {
		t.Fatal(err)
	}
	store.sweep()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("%v %v", left, err)
	}
}

// What is in use stays, however old; of the rest only the newest, and those not for long.
func TestTicketsSwept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stepin")
	store, err := openTickets(dir)
	if err != nil {
		t.Fatal(err)
	}
	aged := func(key string, age time.Duration) {
		t.Helper()
		if _, err := store.save(key, ticket{Token: "x", Pod: key, Port: 1}); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, key), when, when); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 * maxTickets {
		aged(ticketKey("many", strconv.Itoa(i)), time.Duration(i)*time.Second)
	}
	old := ticketKey("old", "")
	aged(old, 3*oldTicket)
	held := store.hold(old)
	if held == nil {
		t.Fatal("it cannot be held")
	}
	there := func() int {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	store.sweep()
	if _, ok := store.read(old); !ok || there() != maxTickets+1 {
		t.Errorf("%d are left; the one in use: %v", there(), ok)
	}
	if _, ok := store.read(ticketKey("many", "0")); !ok {
		t.Error("the newest is gone")
	}
	held.Close()
	store.sweep()
	if _, ok := store.read(old); ok || there() != maxTickets {
		t.Errorf("%d are left; the old one: %v", there(), ok)
	}
}

// Sessions that begin at the same moment have one token.
func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stepin")
	key := ticketKey("https://a", "uid")
	const starts = 20
	tokens := make([]string, starts)
	var all sync.WaitGroup
	for i := range starts {
		all.Go(func() {
			store, err := openTickets(dir)
			if err == nil {
				tokens[i], err = store.claim(key)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if slices.Sort(tokens); len(tokens[0]) != 32 || tokens[0] != tokens[starts-1] {
		t.Errorf("%q", tokens)
	}
	store, err := openTickets(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := store.load(key); ok {
		t.Error("what is claimed is taken for an agent")
	}
	agent := ticket{Token: tokens[0], Namespace: "shop", Pod: "p", Container: "c", Target: "orders", Port: 7071, Rung: "pod"}
	other := agent
	other.Token = "another of that agent"
	for _, step := range []struct{ save, want ticket }{{agent, agent}, {other, agent}} {
		if got, err := store.save(key, step.save); err != nil || got != step.want {
			t.Errorf("%+v, %v", got, err)
		}
	}
	other.Pod = "q"
	if got, err := store.save(key, other); err != nil || got != other {
		t.Errorf("%+v, %v", got, err)
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
