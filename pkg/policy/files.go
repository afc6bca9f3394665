package policy

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/stepin-dev/stepin/pkg/config"
)

// FilesInput is all that decides which paths come from the pod. Paths are absolute; "" is none.
type FilesInput struct {
	Volumes         []string // where something is mounted in the pod
	HostTop, PodTop []string // names of the top-level directories: "app"
	Present         []string // those of Probes that the pod has

	Program, Workdir, Workspace, Interpreter, Home string

	Own      []string // what stepin itself needs in its place: the session's directory, TMPDIR, the debugger's socket
	DNS      bool     // config.Launch.DNS: resolv.conf and hosts are the pod's
	Hostname bool     // config.Launch.Hostname: /etc/hostname is the pod's
	Config   config.Files
}

// Kept is a path that stays on the host although a rule or the default would take it from the pod; it is to be said.
type Kept struct{ Path, Why string }

// FilesPlan says which paths come from the pod. Mount in the order of the paths, parents first: an entry of Host or
// Hide may lie below one of Cover, and the other way round.
type FilesPlan struct {
	Cover    []string          // from the pod: sorted, none below another unless something else lies between them
	Host     []string          // below a covered or hidden path and yet the host's, sorted
	Hide     []string          // covered with nothing, sorted; what the host does not have needs no cover
	HostView []string          // covered paths (or below one) that host programs see as the host has them, sorted
	Map      map[string]string // from a covered path to the pod's path that it shows, where they differ
	Kept     []Kept            // sorted by path

	rules map[string]place
}

// place is what a rule makes of a path and of everything below it, up to the next longer rule.
type place uint8

const (
	onHost place = iota
	inPod
	hidden
)

// kernelTrees are file systems of the kernel's: they describe the process that reads them, and the pod's describe
// another one. Volumes below them (/dev/termination-log, /dev/shm) stay in the pod without a word.
var kernelTrees = []string{"/proc", "/sys", "/dev"}

var (
	resolverFiles = []string{"/etc/resolv.conf", "/etc/hosts"}
	hostnameFile  = "/etc/hostname"
)

// trustStores are where TLS libraries look for certificates (the lists of Go's crypto/x509 and of OpenSSL's
// distributors), and where the links in those places lead.
var trustStores = []string{
	"/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", // Debian, Alpine, SUSE
	"/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust", // Fedora, RHEL
	"/etc/ca-certificates/extracted",   // Arch
	"/usr/share/ca-certificates",       // Debian: what /etc/ssl/certs links to
	"/usr/local/share/ca-certificates", // Debian, Alpine: the administrator's own
	"/var/lib/ca-certificates",         // SUSE: what /etc/ssl/certs links to
}

// binaries are where this machine's programs are found and what its loader reads (ld.so(8); musl's ldso/dynlink.c): what
// lies there decides which code runs as the developer, in every child of the debuggee's. All that is below counts.
var binaries = []string{
	"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/etc/alternatives",
	"/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.cache", "/etc/ld.so.conf.d",
	"/etc/ld-musl-x86_64.path", "/etc/ld-musl-aarch64.path",
}

// libraries are where loaders look without being told (FHS 3.0, 4.7 to 4.10; Debian's multiarch directories are right
// below). Only what lies directly in them counts: deeper are the data of single programs.
var libraries = []string{
	"/lib", "/lib32", "/lib64", "/libx32", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec",
	"/usr/local/lib", "/usr/local/lib64",
}

// programsThere says whether s is, contains or is among what this machine's programs are started from.
func programsThere(s string) bool {
	for _, b := range binaries {
		if below(b, s) || below(s, b) {
			return true
		}
	}
	for _, l := range libraries {
		dir := path.Dir(s)
		if below(l, s) || dir == l || path.Dir(dir) == l && strings.Contains(path.Base(dir), "-linux-") {
			return true
		}
	}
	return false
}

// nameServices are sockets by which libc asks a service of the host's for names, past resolv.conf: nscd (glibc),
// systemd-resolved (nss-resolve) and Avahi (nss-mdns).
var nameServices = []string{
	"/run/nscd", "/run/systemd/resolve/io.systemd.Resolve", "/run/systemd/resolve/io.systemd.Resolve.Monitor",
	"/run/avahi-daemon",
}

// Probes returns the paths to look for in the pod before Cover is asked.
func Probes() []string {
	return slices.Concat(resolverFiles, []string{hostnameFile}, trustStores)
}

// Cover decides which paths come from the pod. The default by mode comes first, the user's rules override it at the
// same path, and of all rules the longest prefix of a path decides. A path from the pod (or hidden) that is or
// contains what must stay on the host is dropped and reported in Kept; rules below it hold all the same. Where this
// machine's programs and their loader are, the default takes nothing: else a pod's volume could run code as the developer.
func Cover(in FilesInput) FilesPlan {
	p := FilesPlan{Map: map[string]string{}, rules: map[string]place{}}
	for _, path := range in.defaults() {
		p.rules[path] = inPod
	}
	if in.DNS {
		for _, path := range nameServices {
			p.rules[path] = hidden
		}
	}
	for _, set := range []struct {
		paths []string
		to    place
	}{{in.Config.Pod, inPod}, {in.Config.ReadOnly, inPod}, {in.Config.Host, onHost}, {in.Config.Hidden, hidden}} {
		for _, s := range set.paths {
			p.rules[path.Clean(s)] = set.to
		}
	}
	for from, to := range in.Config.Map {
		from, to = path.Clean(from), path.Clean(to)
		if p.rules[from] = inPod; from != to {
			p.Map[from] = to
		}
	}
	p.keep(in)
	p.reduce()
	for _, s := range slices.Concat(resolverFiles, trustStores) {
		if p.Covered(s) && slices.Contains(in.Present, s) {
			p.HostView = append(p.HostView, s)
		}
	}
	slices.Sort(p.HostView)
	return p
}

// defaults returns what comes from the pod when the user wrote no rules.
func (in FilesInput) defaults() []string {
	var paths []string
	present := func(list ...string) {
		for _, s := range list {
			if slices.Contains(in.Present, s) {
				paths = append(paths, s)
			}
		}
	}
	if in.DNS {
		present(resolverFiles...)
	}
	if in.Hostname {
		present(hostnameFile)
	}
	if in.Config.Mode == "off" {
		return paths
	}
	present(trustStores...)
	skip := map[string]bool{"/etc/resolv.conf": true, "/etc/hosts": true, hostnameFile: true} // decided above
	for _, v := range in.Volumes {
		if v = path.Clean(v); path.IsAbs(v) && v != "/" && !skip[v] {
			paths = append(paths, v)
		}
	}
	for _, name := range in.PodTop {
		if !slices.Contains(in.HostTop, name) && topLevel(name) && !programsThere("/"+name) {
			paths = append(paths, "/"+name)
		}
	}
	return slices.DeleteFunc(paths, func(s string) bool {
		return slices.ContainsFunc(kernelTrees, func(tree string) bool { return below(s, tree) })
	})
}

// topLevel says whether name is that of a directory; lost+found is its file system's business.
func topLevel(name string) bool {
	return name != "" && name != "." && name != ".." && name != "lost+found" && !strings.Contains(name, "/")
}

// keep drops the rules that would take away what must stay.
func (p *FilesPlan) keep(in FilesInput) {
	type stay struct{ path, why string }
	stays := []stay{
		{in.Program, "the program is there"}, {in.Workdir, "the working directory is there"},
		{in.Workspace, "the workspace is there"}, {in.Interpreter, "the interpreter is there"},
		{in.Home, "the home directory is there"}, {"/tmp", "temporary files are there"},
	}
	for _, own := range in.Own {
		stays = append(stays, stay{own, "stepin needs what is there"})
	}
	for _, tree := range kernelTrees {
		stays = append(stays, stay{tree, "it belongs to this machine's kernel"})
	}
	for _, rule := range slices.Sorted(maps.Keys(p.rules)) {
		if p.rules[rule] == onHost {
			continue
		}
		why := ""
		if p.rules[rule] == inPod && programsThere(rule) && !in.named(rule) {
			why = "this machine's programs or libraries are there; to see the pod's, name it in files.pod"
		}
		for _, s := range stays {
			if s.path != "" && s.path != "/" && below(real(s.path), real(rule)) {
				why = s.why
				break
			}
		}
		if slices.ContainsFunc(kernelTrees, func(tree string) bool { return below(rule, tree) }) {
			why = "it belongs to this machine's kernel"
		}
		if why != "" {
			delete(p.rules, rule)
			delete(p.Map, rule)
			p.Kept = append(p.Kept, Kept{rule, why})
		}
	}
}

// named says whether the user took s, or what contains it, from the pod.
func (in FilesInput) named(s string) bool {
	contains := func(rule string) bool { return below(s, path.Clean(rule)) }
	if slices.ContainsFunc(in.Config.Pod, contains) || slices.ContainsFunc(in.Config.ReadOnly, contains) {
		return true
	}
	return slices.ContainsFunc(slices.Collect(maps.Keys(in.Config.Map)), contains)
}

// reduce drops rules that say what the next shorter one says already, and sorts the rest into the plan.
func (p *FilesPlan) reduce() {
	for _, rule := range slices.Sorted(maps.Keys(p.rules)) { // a parent sorts before what lies below it
		parent, above := p.longest(path.Dir(rule))
		to := p.rules[rule]
		same := to == above
		if to == inPod && above == inPod {
			same = p.PodPath(rule) == p.through(parent, rule)
		}
		if same {
			delete(p.rules, rule)
			delete(p.Map, rule)
			continue
		}
		switch to {
		case inPod:
			p.Cover = append(p.Cover, rule)
		case onHost:
			p.Host = append(p.Host, rule)
		case hidden:
			p.Hide = append(p.Hide, rule)
		}
	}
}

// longest returns the longest rule that is s or above it, and its place; "" and onHost without one.
func (p *FilesPlan) longest(s string) (rule string, to place) {
	for {
		if to, ok := p.rules[s]; ok {
			return s, to
		}
		if s == "/" || s == "." || s == "" {
			return "", onHost
		}
		s = path.Dir(s)
	}
}

// through returns the pod's path of s as the rule shows it.
func (p *FilesPlan) through(rule, s string) string {
	if to, ok := p.Map[rule]; ok {
		return to + strings.TrimPrefix(s, rule)
	}
	return s
}

// Covered says whether a clean absolute path comes from the pod.
func (p *FilesPlan) Covered(s string) bool {
	_, to := p.longest(s)
	return to == inPod
}

// PodPath returns the pod's path that a covered path shows; a path that is not covered is returned as it is.
func (p *FilesPlan) PodPath(s string) string {
	rule, to := p.longest(s)
	if to != inPod {
		return s
	}
	return p.through(rule, s)
}

// Alias has a covered path's rule hold at another path, too: there this machine's links lead to it.
func (p *FilesPlan) Alias(at, covered string) {
	rule, to := p.longest(covered)
	if to != inPod || at == covered {
		return
	}
	p.rules[at], p.Map[at] = inPod, p.through(rule, covered)
}

// real resolves the one link that every distribution has between places that matter here (FHS 3.0, section 5.13).
func real(s string) string {
	s = path.Clean(s)
	if below(s, "/var/run") {
		return strings.TrimPrefix(s, "/var")
	}
	return s
}

// below says whether s is tree or lies below it; both clean.
func below(s, tree string) bool {
	return s == tree || strings.HasPrefix(s, strings.TrimSuffix(tree, "/")+"/")
}
