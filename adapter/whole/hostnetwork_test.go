package whole

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// inOneNetwork runs a plain server and, in its place, another program, and asks before, while and after that runs.
const inOneNetwork = `
ip link set lo up
ask() { "$3" -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:8080/who", timeout=60).read().decode())'; }
"$3" -m http.server 8080 --bind 127.0.0.1 --directory "$2" >"$2/served" 2>&1 & pod=$!
until ask "$@" 2>/dev/null; do kill -0 $pod; sleep 0.05; done
sed "s/PID/$pod/" "$2/launch.json" >"$2/pod.json"
"$1" exec --config "$2/pod.json" -- "$3" "$4" 8080 2>"$2/said" & session=$!
until grep -qs "tcp port 8080 of the pod now sends its new connections" "$2/said"; do kill -0 $session; sleep 0.05; done
ask "$@"
kill $session
wait $session || true
ask "$@"
kill $pod`

// TestHostNetwork: where it is meant a process in the machine's own network is a pod like any other, with each front end,
// though the debuggee listens on the same port. The machine's network is one made for the test.
func TestHostNetwork(t *testing.T) {
	for _, frontEnd := range []string{"preload", "namespaces"} {
		t.Run(frontEnd, func(t *testing.T) {
			dir := t.TempDir()
			configuration, err := json.Marshal(map[string]any{"target": "local/PID", "frontEnd": frontEnd, "agent": map[string]any{"hostNetwork": true},
				"incoming": map[string]any{"mode": "steal", "ports": []int{8080}}})
			if err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string][]byte{"launch.json": configuration, "who": []byte("the pod")} {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{"--net"}
			if os.Getuid() != 0 {
				args = append(args, "--map-root-user")
			}
			cmd := exec.CommandContext(limit(t), "unshare", append(args, "sh", "-euc", inOneNetwork, "sh", stepin(t), dir, python(t),
				filepath.Join(source(t, "preload"), "serve.py"))...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			out, err := cmd.CombinedOutput()
			answers := strings.Split(strings.TrimSpace(string(out)), "\n")
			if err != nil || len(answers) != 3 || answers[0] != "the pod" || !strings.Contains(answers[1], `"who": "debuggee"`) ||
				!strings.Contains(answers[1], `"peer": "127.0.0.1"`) || answers[2] != "the pod" {
				said, _ := os.ReadFile(filepath.Join(dir, "said"))
				t.Errorf("%v\n%s\n%s", err, out, said)
			}
		})
	}
}
