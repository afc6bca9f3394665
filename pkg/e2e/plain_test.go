package e2e

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
	"github.com/stepin-dev/stepin/pkg/e2e/oci"
)

// plainPod is a container as most are: the runtime's own seccomp filter, its default capabilities, no devices.
const plainPod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers:
    - {name: main, image: %q, imagePullPolicy: Never, command: %s, securityContext: %s}
`

// TestDemoInPlainContainer: where namespaces cannot be made the demo shows what it can, and names the rest with the calls
// that were refused.
func TestDemoInPlainContainer(t *testing.T) {
	c := Up(t)
	image := c.give(t, pythonImage(t))
	ns := c.Namespace(t, "")
	const refused = ": operation not permitted"
	shown := []string{
		"(the pod, to 127.0.0.1:", "Press F5: the same source under debugpy", "do_GET, orders.py:", "(the program on your desk, to 127.0.0.1:",
		"greeting   Good morning!", "only the pod's directory has", "currency   EUR", "stock      7 ", "called by the agent beside the pod",
		"there is no FUSE to be had here", "The pod and its files are gone.",
	}
	named := []string{`address    the pod has this machine's, not one of its own: clone\(.*\)` + refused, `host name  likewise: clone\(.*\)` + refused}
	const stock = "Order 42: 7 in stock, 12.50 EUR each."
	copied := []string{"the pod answers, and a copy comes", "the caller's true address", "prints     Good morning! " + stock}
	asked := []string{"Ask the program itself", "answer     Good morning! " + stock + " (the program"}
	deaf := []string{`mirror +socket\(AF_PACKET\)` + refused, `steal +setsockopt SO_MARK` + refused}
	for _, p := range []struct {
		name, rights string
		shown, named []string
	}{
		{"default", "{}", copied, []string{`steal .*bpf\(BPF_MAP_CREATE\)` + refused + `.*sendto\(NETLINK_NETFILTER\)` + refused}},
		{"without-net-raw", "{capabilities: {drop: [NET_RAW]}}", asked, deaf},
		{"ordinary-user", "{runAsUser: 1000, runAsGroup: 1000}", asked, deaf},
	} {
		t.Run(p.name, func(t *testing.T) { // one after the other: debugpy gives its parts seconds to start
			c.Apply(t, ns, fmt.Sprintf(plainPod, p.name, image, `["/stepin", "demo"]`, p.rights))
			text, status := c.ended(t, ns, p.name)
			if status != 0 {
				t.Fatalf("status %d:\n%s", status, text)
			}
			for _, want := range slices.Concat(shown, p.shown) {
				if !strings.Contains(text, want) {
					t.Errorf("not shown: %q", want)
				}
			}
			for _, want := range slices.Concat(named, p.named) {
				if !regexp.MustCompile("(?m)^ +" + want).MatchString(text) {
					t.Errorf("not named: %s", want)
				}
			}
			t.Log(text)
		})
	}
}

// ended waits for the end of a pod, and returns what it has printed and its status.
func (c *Cluster) ended(t *testing.T, ns, name string) (printed string, status int32) {
	t.Helper()
	Eventually(t, Patience, name+" has ended", func() bool {
		p, err := c.Client.CoreV1().Pods(ns).Get(Limit(t), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Terminated == nil {
			return false
		}
		status = p.Status.ContainerStatuses[0].State.Terminated.ExitCode
		return true
	})
	raw, err := c.Client.CoreV1().Pods(ns).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(Limit(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw), status
}

// TestMuslPod: libstepin's build for musl is loaded by a program in an image that has no other libc, and serves it.
func TestMuslPod(t *testing.T) {
	c := Up(t)
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "pair")
	out, err := exec.CommandContext(Limit(t), "musl-gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program,
		filepath.Join(root, "pkg", "e2e", "programs", "pair", "pair.c")).CombinedOutput()
	if err != nil {
		t.Fatalf("musl-gcc (package musl-tools): %v: %s", err, out)
	}
	configuration, err := json.Marshal(map[string]any{"target": "local/1", "frontEnd": "preload", "agent": map[string]any{"hostNetwork": true},
		"files": map[string]any{"map": map[string]string{"/etc/orders": "/own"}}, "outgoing": map[string]any{"loopback": "pod"}})
	if err != nil {
		t.Fatal(err)
	}
	loader := interpreter(t, program)
	image := c.give(t, oci.Image{Name: "stepin.test/musl", Env: []string{"PATH=/"}, Files: []oci.File{
		stepinFile(t), {Path: "pair", Mode: 0o755, From: program}, {Path: strings.TrimPrefix(loader, "/"), Mode: 0o755, From: loader}, {Path: "tmp/", Mode: 0o1777},
		{Path: "own/greeting", Mode: 0o644, Data: []byte("Good morning!\n")}, {Path: "launch.json", Mode: 0o644, Data: configuration},
	}})
	ns := c.Namespace(t, "")
	c.Apply(t, ns, fmt.Sprintf(strings.Replace(plainPod, "securityContext: %s", "securityContext: %s, env: [{name: CURRENCY, value: EUR}]", 1),
		"musl", image, `["/pair", "serve"]`, "{}"))
	c.Ready(t, ns, "pod/musl")
	said, stepin, err := c.Run(Limit(t), ns, "musl", "", nil, "/stepin", "exec", "--config", "/launch.json", "--", "/pair", "ask")
	if err != nil {
		t.Fatalf("%v: %s%s", err, said, stepin)
	}
	want := `loaded: library 1, musl 1
variable: EUR
file /etc/orders/greeting: Good morning!
folder /etc/orders: there: greeting
call 9000: hello from the pod
call 9: errno 111
`
	if said != want {
		t.Errorf("the program prints\n%snot\n%sstepin says\n%s", said, want, stepin)
	}
	t.Logf("%s%s", said, stepin)
}

func stepinFile(t *testing.T) oci.File {
	return oci.File{Path: "stepin", Mode: 0o755, From: Binary(t)}
}

// interpreter is the loader that a program asks for.
func interpreter(t *testing.T, program string) string {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := f.Section(".interp").Data()
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimRight(text, "\x00"))
}

// give makes an image, names it by its content, and gives it to the node.
func (c *Cluster) give(t *testing.T, image oci.Image) (name string) {
	t.Helper()
	c.NeedsNode(t, "giving an image to the node")
	sum := sha256.New()
	name = image.Name
	if err := image.Write(sum); err != nil {
		t.Fatal(err)
	}
	image.Name = fmt.Sprintf("%s:%.16x", name, sum.Sum(nil))
	archive := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(image.Write(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	c.images(t, "import", archive)
	t.Cleanup(func() { c.images(t, "rm", image.Name) }) // one with Python has 150 MB
	return image.Name
}

// images runs a command for the node's images.
func (c *Cluster) images(t *testing.T, command ...string) {
	t.Helper()
	root, err := c.own.Root()
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--address", root + node.ContainerdAPI, "--namespace", "k8s.io", "images"}, command...)
	if text, err := exec.CommandContext(Limit(t), "ctr", args...).CombinedOutput(); err != nil {
		t.Fatalf("ctr images %s: %v: %s", command[0], err, text)
	}
}

// unneeded are folders of Python's that no program here imports.
var unneeded = []string{"__pycache__", "test", "idlelib", "lib2to3", "ensurepip", "pip", "setuptools", "pkg_resources", "tkinter", "turtledemo"}

// pythonImage has stepin and this machine's Python, with its debugpy: the files of its folders, and the libraries that it
// and its modules are linked with.
func pythonImage(t *testing.T) oci.Image {
	t.Helper()
	const ask = "import sys, os, debugpy; print(os.path.realpath(sys.executable)); print(*[p for p in sys.path if os.path.isdir(p)], sep='\\n')"
	out, err := exec.CommandContext(Limit(t), "/usr/bin/python3", "-I", "-c", ask).Output()
	if err != nil {
		t.Fatalf("Python with debugpy (package python3-debugpy): %v", err)
	}
	python, folders, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	files := map[string]oci.File{}
	add := func(path string, mode fs.FileMode) {
		name := strings.TrimPrefix(path, "/")
		files[name] = oci.File{Path: name, Mode: int64(mode.Perm()), From: path}
	}
	linked := []string{python}
	for _, folder := range strings.Split(folders, "\n") {
		err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case e.IsDir() && (slices.Contains(unneeded, e.Name()) || strings.HasPrefix(e.Name(), "config-")):
				return fs.SkipDir
			case strings.HasSuffix(path, ".so"):
				linked = append(linked, path)
			}
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() { // of a link what it leads to
				add(path, info.Mode())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(python, 0o755)
	files["usr/bin/python3"] = oci.File{Path: "usr/bin/python3", To: python}
	libraries, err := exec.CommandContext(Limit(t), "ldd", linked...).Output()
	if err != nil {
		t.Fatalf("ldd: %v", err)
	}
	for _, m := range regexp.MustCompile(`(?m)(?:=> |^\s+)(/\S+) \(0x`).FindAllStringSubmatch(string(libraries), -1) {
		add(m[1], 0o755)
		if dir, name := filepath.Split(m[1]); name == "libc.so.6" { // with it every image has these
			for _, other := range []string{"libdl.so.2", "libpthread.so.0"} {
				add(filepath.Join(dir, other), 0o755)
			}
		}
	}
	image := oci.Image{Name: "stepin.test/python", Env: []string{"PATH=/usr/bin"}, Files: []oci.File{stepinFile(t), {Path: "tmp/", Mode: 0o1777}}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		image.Files = append(image.Files, files[name])
	}
	return image
}
