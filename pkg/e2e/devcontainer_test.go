package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The arguments of docs/remote.md: what `docker run` makes of them in a container's OCI specification.
const (
	tunArg     = "--device=/dev/net/tun"
	fuseArg    = "--device=/dev/fuse"
	seccompArg = "--security-opt=seccomp=unconfined"
	pathsArg   = "--security-opt=systempaths=unconfined"
)

var runArgs = map[string]func(*devSpec){
	tunArg:     func(s *devSpec) { s.device("/dev/net/tun", 10, 200) },
	fuseArg:    func(s *devSpec) { s.device("/dev/fuse", 10, 229) },
	seccompArg: func(s *devSpec) { delete(s.linux, "seccomp") },
	pathsArg:   func(s *devSpec) { delete(s.linux, "maskedPaths"); delete(s.linux, "readonlyPaths") },
}

// TestDevContainer: in a container as runc gets it from containerd's defaults (seccomp filter, capabilities, masked paths, no
// devices), with the runArgs of docs/remote.md a static Go program takes the pod's place; without any one of them it does
// not, and doctor and the refusal name just that one. AppArmor's and SELinux's are not tried: this kernel has neither.
func TestDevContainer(t *testing.T) {
	c := Up(t)
	n := c.Node(t)
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "remote.md"))
	if err != nil {
		t.Fatal(err)
	}
	needed := []string{seccompArg, tunArg, fuseArg} // in doctor's order
	if !strings.Contains(string(page), `"runArgs": ["`+strings.Join(needed, `", "`)+`"]`) {
		t.Errorf("docs/remote.md has other runArgs than %q", needed)
	}
	ns := c.Namespace(t, "")
	c.Apply(t, ns, Web("web", 1))
	d := c.devContainer(t, ns)
	c.Ready(t, ns, "deployment/web")
	for _, uid := range []int{0, 1000} {
		t.Run(fmt.Sprintf("uid %d", uid), func(t *testing.T) {
			d.t, d.uid = t, uid
			home := n.Path(d.root + d.home())
			if err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, uid, uid)); err != nil {
				t.Fatal(err)
			}
			d.works(needed)
			for i, dropped := range needed {
				d.refused(slices.Delete(slices.Clone(needed), i, i+1), []string{dropped})
			}
			d.refused(nil, needed)
		})
	}
}

// works says that the program is in the pod's place, and has the developer's own localhost, too.
func (d *devContainer) works(args []string) {
	d.t.Helper()
	low := d.uid == 0
	d.cures(args, map[bool][]string{false: {pathsArg}}[low])
	d.visit(args, low)
	if !low { // an ordinary user's ports below 1024 take one more
		more := append(slices.Clone(args), pathsArg)
		d.cures(more, nil)
		d.visit(more, true)
	}
}

func (d *devContainer) visit(args []string, low bool) {
	d.t.Helper()
	const token = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	said, stepin, status := d.run(args, d.exec("http://web/", "http://127.0.0.1:8123/", token, ":80")...)
	want := map[string]string{"http://web/": `"Who":"web"`, "http://127.0.0.1:8123/": `"Who":"desk"`, token: d.ns, ":80": "listens"}
	if !low {
		want[":80"] = "permission denied"
	}
	got := map[string]string{}
	for line := range strings.Lines(said) {
		what, result, _ := strings.Cut(strings.TrimSpace(line), "\t")
		got[what] = result
	}
	for what, result := range want {
		if status != 0 || !strings.Contains(got[what], result) {
			d.t.Errorf("uid %d with %q: status %d, %s is %q, want %s\n%s", d.uid, args, status, what, got[what], result, stepin)
		}
	}
}

// refused says that it does not work, and that what is missing is named, and nothing else.
func (d *devContainer) refused(args, missing []string) {
	d.t.Helper()
	d.cures(args, missing)
	_, stepin, status := d.run(args, d.exec(":8080")...)
	if status != 125 || !strings.Contains(stepin, d.cure(missing)) {
		d.t.Errorf("uid %d with %q: status %d, want the hint %q:\n%s", d.uid, args, status, d.cure(missing), stepin)
	}
}

func (d *devContainer) cure(missing []string) string {
	return `add "` + strings.Join(missing, `", "`) + `" to "runArgs" in devcontainer.json`
}

// cures compares what doctor would have added to the runArgs; the debuggers, of which the image has none, are not looked at.
func (d *devContainer) cures(args, missing []string) {
	d.t.Helper()
	said, stepin, _ := d.run(args, "/stepin", "doctor", "-o", "json")
	var checks []struct {
		Name, Cure   string
		OK, Optional bool
	}
	if err := json.Unmarshal([]byte(said), &checks); err != nil {
		d.t.Fatalf("doctor: %v: %s%s", err, said, stepin)
	}
	var got []string
	for _, check := range checks {
		if strings.HasPrefix(check.Name, "preload") || strings.HasSuffix(check.Name, "debugger") {
			continue
		}
		if check.Cure != "" && !slices.Contains(got, check.Cure) {
			got = append(got, check.Cure)
		}
	}
	if len(missing) == 0 && len(got) == 0 {
		return
	}
	if len(missing) == 0 || len(got) != 1 || !strings.Contains(got[0], d.cure(missing)) {
		d.t.Errorf("uid %d with %q: doctor says %q, want %q to be missing", d.uid, args, got, missing)
	}
}

// devContainer runs containers as Docker's defaults make them: by the specification that containerd has made for a plain
// pod's container, in that pod's network, where a server of the developer's listens on the loopback.
type devContainer struct {
	c    *Cluster
	t    *testing.T
	ns   string
	spec []byte
	root string // of the image, on the node
	uid  int
	runs int
}

// devSpec is an OCI runtime specification that is being changed.
type devSpec struct{ all, process, linux map[string]any }

func (c *Cluster) devContainer(t *testing.T, ns string) *devContainer {
	t.Helper()
	c.Apply(t, ns, fmt.Sprintf(plainPod, "dev", "stepin.test/shell:1", `["/workload", "serve", "-name=desk", "-http=127.0.0.1:8123"]`, "{}"))
	c.Ready(t, ns, "pod/dev")
	pod, err := c.Client.CoreV1().Pods(ns).Get(Limit(t), "dev", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	bundle := "/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + id
	d := &devContainer{c: c, t: t, ns: ns, root: bundle + "/rootfs"}
	if d.spec, err = os.ReadFile(c.Node(t).Path(bundle + "/config.json")); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"stepin": Binary(t), "visitor": program(t, "visitor"), "kubeconfig": c.Kubeconfig, ".dockerenv": os.DevNull} {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(c.Node(t).Path(d.root), name), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *devContainer) home() string { return fmt.Sprintf("/home-%d", d.uid) }

// exec is the developer's command, in the place of the deployment.
func (d *devContainer) exec(look ...string) []string {
	return append([]string{"/stepin", "exec", "--kubeconfig", "/kubeconfig", "-n", d.ns, "-t", "deployment/web", "--", "/visitor"}, look...)
}

// run runs a command in a container of its own that has been started with those arguments.
func (d *devContainer) run(args []string, command ...string) (stdout, stderr string, status int) {
	d.t.Helper()
	d.runs++
	n, name := d.c.Node(d.t), fmt.Sprintf("dev-%s-%d", d.ns, d.runs)
	s := d.edited(name, command)
	for _, arg := range args {
		runArgs[arg](s)
	}
	text, err := json.Marshal(s.all)
	if err != nil {
		d.t.Fatal(err)
	}
	bundle := "/run/" + name
	if err := errors.Join(os.Mkdir(n.Path(bundle), 0o700), os.WriteFile(n.Path(bundle+"/config.json"), text, 0o600)); err != nil {
		d.t.Fatal(err)
	}
	defer os.RemoveAll(n.Path(bundle))
	cmd := exec.CommandContext(Limit(d.t), "nsenter", "--target", strconv.Itoa(n.pid), "--all", "--",
		"runc", "--root", "/run/stepin-e2e-runc", "run", "--bundle", bundle, name)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// edited is containerd's specification for another command and user, without what makes it a pod's.
func (d *devContainer) edited(name string, command []string) *devSpec {
	var s devSpec
	if err := json.Unmarshal(d.spec, &s.all); err != nil {
		d.t.Fatal(err)
	}
	s.process, s.linux = s.all["process"].(map[string]any), s.all["linux"].(map[string]any)
	s.process["args"], s.process["user"] = command, map[string]any{"uid": d.uid, "gid": d.uid}
	s.process["env"] = []string{"HOME=" + d.home()}
	if d.uid != 0 { // an ordinary user has them in his bounding set only
		s.process["capabilities"] = map[string]any{"bounding": s.process["capabilities"].(map[string]any)["bounding"]}
	}
	s.all["root"] = map[string]any{"path": d.root}
	delete(s.all, "annotations")
	s.linux["cgroupsPath"] = path.Join(path.Dir(s.linux["cgroupsPath"].(string)), name)
	return &s
}

// device is --device: the node, as a usual machine has it, and the cgroup's leave.
func (s *devSpec) device(path string, major, minor int) {
	add := func(to map[string]any, key string, what map[string]any) {
		list, _ := to[key].([]any)
		to[key] = append(list, what)
	}
	add(s.linux, "devices", map[string]any{"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0})
	add(s.linux["resources"].(map[string]any), "devices", map[string]any{"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"})
}
