package policy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestBlank(t *testing.T) {
	want := []string{"/usr/bin/debuginfod-find", "/a/debuginfod-find"}
	if got := Blank("/usr/bin:bin::.:/a/:"); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestIsHostProgram(t *testing.T) {
	tests := []struct {
		line string // exe, then the command line after argv[0]
		want bool
	}{
		{"/usr/local/go/bin/go build ./...", true},
		{"/usr/local/go/pkg/tool/linux_amd64/compile -p main", true},
		{"/home/dev/go/pkg/mod/golang.org/toolchain@v0.0.1-go1.26.0.linux-amd64/pkg/tool/linux_amd64/link", true},
		{"/srv/compile", false}, {"/srv/link", false}, // services may be called so
		{"/home/me/go/bin/dlv exec /x", true}, {"/home/me/go/bin/gopls", true},
		{"/usr/bin/git fetch", true}, {"/usr/lib/git-core/git-remote-https origin", true}, {"/srv/gitea", false},
		{"/usr/bin/debuginfod-find debuginfo x", true}, {"/usr/bin/gdb", true}, {"/usr/lib/llvm-19/bin/lldb-server", true},
		{"/usr/lib/gcc/x86_64-linux-gnu/12/cc1", true}, {"/usr/bin/ld.gold", true}, {"/usr/bin/clang", true}, {"/home/me/.cargo/bin/cargo", true},
		{"/usr/bin/apt-get", true}, {"/usr/bin/docker", true}, {"/usr/local/bin/kubectl", true}, {"/usr/bin/go (deleted)", true},
		{"/usr/bin/ssh", false}, {"/usr/bin/curl http://x", false}, {"/usr/bin/make", false}, {"/home/me/go/bin/air", false}, {"/usr/bin/bash", false},
		{"/usr/bin/node server.js", false}, {"/usr/bin/node /usr/bin/npm install", true}, {"/usr/bin/node /usr/lib/node_modules/npm/bin/npm-cli.js i", true},
		{"/usr/bin/node --no-warnings /usr/bin/npx x", true}, {"/usr/bin/node .yarn/releases/yarn-4.1.0.cjs", true}, {"/usr/bin/node yarn-server.txt", false},
		{"/usr/bin/node go.js", false}, {"/usr/bin/node -e npm", false}, {"/usr/bin/node", false}, {"/usr/bin/node server.js npm", false}, {"/usr/bin/node git", false},
		{"/usr/bin/python3.12 -m pip install x", true}, {"/usr/bin/python3 /usr/bin/pip3 install", true}, {"/usr/bin/python3 /usr/bin/pip3.12 x", true},
		{"/usr/bin/python3 -m http.server", false}, {"/usr/bin/python3 -c pip", false}, {"/usr/bin/python3 pip_service.py", false}, {"/usr/bin/python3 /home/me/.local/bin/poetry install", true},
		{"/usr/bin/python3 -u app.py", false}, {"/usr/bin/ruby3.1 /usr/bin/bundle install", true}, {"/bin/sh ./gradlew build", true}, {"/bin/sh run.sh", false},
		{"/usr/lib/jvm/java -cp /x/plexus-classworlds.jar org.codehaus.plexus.classworlds.launcher.Launcher package", true},
		{"/usr/lib/jvm/bin/java -cp x org.codehaus.plexus.classworlds.launcher.Launcher package", true},
		{"/usr/lib/jvm/bin/java org.gradle.launcher.daemon.bootstrap.GradleDaemon 8", true}, {"/usr/lib/jvm/bin/java -jar app.jar", false},
		{"/srv/orders npm", false}, {"", false}, {"/", false},
		{"/opt/tools/fetch", true}, {"/elsewhere/fetch", false}, {"/anywhere/mine", true}, {"/usr/bin/python3 /x/mine", true}, {"/usr/bin/python3 /x/other", false},
	}
	extra := []string{"/opt/tools/fetch", "mine"}
	for _, tt := range tests {
		args := strings.Fields(tt.line)
		exe := ""
		if len(args) > 0 {
			exe = args[0]
		}
		if strings.HasSuffix(tt.line, " (deleted)") {
			exe, args = tt.line, args[:1]
		}
		if have := IsHostProgram(exe, args, extra); have != tt.want {
			t.Errorf("%s: %v", tt.line, have)
		}
	}
}

// TestSecret prints a secret in every way there is.
func TestSecret(t *testing.T) {
	const canary = "canary-9c2e"
	s := Secret(canary)
	var b strings.Builder
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("x", "v", s, "in", struct{ V Secret }{s}, "list", []Secret{s}, "p", &s)
	}
	for _, verb := range []string{"%s", "%v", "%+v", "%#v", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&b, verb+verb+verb, s, &s, map[string]Secret{"k": s})
	}
	raw, err := json.Marshal(map[string]Secret{"v": s})
	if err != nil {
		t.Fatal(err)
	}
	b.Write(raw)
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprintf("%d", []byte(canary))} {
		if strings.Contains(b.String(), form) {
			t.Errorf("the secret is said: %s", b.String())
		}
	}
	if !strings.Contains(b.String(), "(11 bytes)") || string(s) != canary {
		t.Errorf("neither length nor value: %s", b.String())
	}
}
