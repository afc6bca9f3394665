package whole

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/adapter/dap/talk"
	"github.com/stepin-dev/stepin/pkg/podlet"
)

// TestProcesses: under preload, children are in the pod's place however they are made, workers that share a listener are
// called by the pod's clients, and a failed exec fails as everywhere.
func TestProcesses(t *testing.T) {
	p := preloadPod(t)
	t.Run("children", func(t *testing.T) { processesChildren(t, p) })
	serve := filepath.Join(source(t, "preload"), "prefork.py")
	t.Run("prefork", func(t *testing.T) {
		processesServe(t, p, func(port uint16) []string { return []string{python(t), serve, fmt.Sprint(port)} })
	})
	t.Run("gunicorn", func(t *testing.T) {
		processesServe(t, p, func(port uint16) []string {
			argv := []string{"/usr/bin/gunicorn", "--workers=3", fmt.Sprintf("--bind=0.0.0.0:%d", port), "--chdir=" + filepath.Dir(serve), "--worker-tmp-dir=" + openDir(t)}
			if os.Getuid() == 0 {
				argv = append(argv, "--user=65534", "--group=65534")
			}
			return append(argv, "prefork:app")
		})
	})
	t.Run("nginx", func(t *testing.T) {
		processesServe(t, p, func(port uint16) []string {
			file := filepath.Join(openDir(t), "nginx.conf")
			text := fmt.Sprintf(nginxConf, port, `{"who": "debuggee", "client": "$remote_addr", "path": "$pid", "hostname": "$hostname"}`)
			if os.Getuid() == 0 {
				text = "user nobody nogroup;\n" + text
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			return []string{"/usr/sbin/nginx", "-p", filepath.Dir(file), "-c", file, "-e", "stderr"}
		})
	})
}

const nginxConf = `daemon off;
worker_processes 3;
pid nginx.pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	server {
		listen 0.0.0.0:%d;
		location / { default_type application/json; return 200 '%s'; }
	}
}
`

// openDir is a directory that other users may use, too: root's servers become such ones.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "w-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func processesChildren(t *testing.T, p *podlet.Pod) {
	var out, errs bytes.Buffer
	cmd := command(t, p, preloading, python(t), filepath.Join(source(t, "preload"), "processes.py"), errnoServer[0], program(t, "steps"), t.TempDir())
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	said := map[string]string{}
	for line := range strings.Lines(out.String()) {
		var pair [2]json.RawMessage
		var step string
		if json.Unmarshal([]byte(line), &pair) == nil && json.Unmarshal(pair[0], &step) == nil {
			said[step] = string(pair[1])
		}
	}
	sees := fmt.Sprintf(`"orders-7d9f hello %s"`, p.Addr(false))
	want := map[string]string{
		"vfork": "[true, " + sees + "]", "fork": sees, "posix_spawn by subprocess": "[true, " + sees + "]", "posix_spawn": sees, "new session": sees,
		"threads": "[30, 0]",
		"static":  `"env=WHO: pod\ncat=/etc/config/colour: green\n"`,
		"system":  "7", "absent": `"ENOENT"`, "directory": `"EACCES"`, "not executable": `"EACCES"`, "no program": `"ENOEXEC"`,
	}
	if os.Getuid() == 0 {
		want["another user"], want["su"] = sees, `"orders-7d9f\n65534\n"`
	}
	for step, w := range want {
		if said[step] != w {
			t.Errorf("%s: %s, not %s", step, said[step], w)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v\n%s%s", err, out.String(), errs.String())
	}
}

// processesServe has a server with several workers answer the pod's clients, by more than one of them.
func processesServe(t *testing.T, p *podlet.Pod, argv func(port uint16) []string) {
	port := free(t)
	line := argv(port)
	if _, err := exec.LookPath(line[0]); err != nil {
		t.Fatalf("%v (./just test brings it)", err)
	}
	cmd := command(t, p, merge(map[string]any{"incoming": map[string]any{"map": map[string]any{fmt.Sprint(port): 8080}}}, preloading), line...)
	cmd.Stderr = &talk.Buffer{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("stderr:\n%s", cmd.Stderr)
		}
	})
	url, client := "http://"+netip.AddrPortFrom(p.Addr(false), 8080).String()+"/", caller(p)
	gateway, workers := podlet.Gateway(podlet.DefaultAddrs[0]).String(), map[string]bool{}
	eventually(t, patience, "two workers answer", func() bool {
		r, err := get(limit(t), client, url)
		if err != nil || r.Who != "debuggee" {
			return false
		}
		if r.Client != gateway || r.Hostname != "orders-7d9f" {
			t.Fatalf("%+v, not from %s", r, gateway)
		}
		workers[r.Path] = true
		return len(workers) > 1
	})
}
