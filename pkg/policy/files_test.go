package policy

import (
	"maps"
	"path"
	"slices"
	"testing"

	"github.com/stepin-dev/stepin/pkg/config"
)

func TestCover(t *testing.T) {
	volumes := config.Files{Mode: "volumes"}
	tests := []struct {
		name string
		in   FilesInput
		want FilesPlan // Cover, Host, Hide, HostView, Map, Kept
	}{
		{"nothing", FilesInput{Config: volumes}, FilesPlan{}},
		{"volumes", FilesInput{Config: volumes, Volumes: []string{"/etc/app", "/var/run/secrets/token", "/etc/app/deeper"}},
			FilesPlan{Cover: []string{"/etc/app", "/var/run/secrets/token"}}},
		{"volumes unclean", FilesInput{Config: volumes, Volumes: []string{"/etc/app/", "//data", "/", "relative", ""}},
			FilesPlan{Cover: []string{"/data", "/etc/app"}}},
		{"a neighbour of that name is no child", FilesInput{Config: volumes, Volumes: []string{"/etc/app", "/etc/app2"}},
			FilesPlan{Cover: []string{"/etc/app", "/etc/app2"}}},
		{"kernel trees", FilesInput{Config: volumes, Volumes: []string{"/dev/termination-log", "/dev/shm", "/proc/x", "/sys/fs", "/device"}},
			FilesPlan{Cover: []string{"/device"}}},
		{"resolver files", FilesInput{Config: volumes, DNS: true, Hostname: true, Present: Probes()[:3]},
			FilesPlan{Cover: []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}, Hide: nameServices2, HostView: []string{"/etc/hosts", "/etc/resolv.conf"}}},
		{"resolver files without dns", FilesInput{Config: volumes, Hostname: true, Present: Probes()[:3], Volumes: []string{"/etc/resolv.conf", "/etc/hosts"}},
			FilesPlan{Cover: []string{"/etc/hostname"}}},
		{"resolver files that the pod lacks", FilesInput{Config: volumes, DNS: true, Hostname: true}, FilesPlan{Hide: nameServices2}},
		{"hostname off", FilesInput{Config: volumes, Present: []string{"/etc/hostname"}, Volumes: []string{"/etc/hostname"}}, FilesPlan{}},
		{"trust store", FilesInput{Config: volumes, Present: []string{"/etc/ssl/certs", "/usr/share/ca-certificates"}},
			FilesPlan{Cover: []string{"/etc/ssl/certs", "/usr/share/ca-certificates"}, HostView: []string{"/etc/ssl/certs", "/usr/share/ca-certificates"}}},
		{"top-level", FilesInput{Config: volumes, HostTop: []string{"usr", "app2"}, PodTop: []string{"usr", "app", "app2", "proc", "dev", "lost+found", "..", "a/b", ""}},
			FilesPlan{Cover: []string{"/app"}}},
		{"a volume inside such a directory", FilesInput{Config: volumes, PodTop: []string{"app"}, Volumes: []string{"/app/config"}},
			FilesPlan{Cover: []string{"/app"}}},
		{"off", FilesInput{Config: config.Files{Mode: "off", Pod: []string{"/data"}}, Volumes: []string{"/etc/app"}, PodTop: []string{"app"}, Present: Probes(), DNS: true},
			FilesPlan{Cover: []string{"/data", "/etc/hosts", "/etc/resolv.conf"}, Hide: nameServices2, HostView: []string{"/etc/hosts", "/etc/resolv.conf"}}},
		{"the longest rule wins", FilesInput{Volumes: []string{"/etc/app"}, Config: config.Files{Mode: "volumes",
			Host: []string{"/etc/app/local"}, ReadOnly: []string{"/etc/app/local/not"}, Hidden: []string{"/etc/app/gone", "/opt/x"}, Pod: []string{"/opt/x/y"}}},
			FilesPlan{Cover: []string{"/etc/app", "/etc/app/local/not", "/opt/x/y"}, Host: []string{"/etc/app/local"}, Hide: []string{"/etc/app/gone", "/opt/x"}}},
		{"a rule on a default's own path", FilesInput{Volumes: []string{"/a", "/b"}, Config: config.Files{Mode: "volumes", Host: []string{"/a/"}, Hidden: []string{"/b"}}},
			FilesPlan{Hide: []string{"/b"}}},
		{"a rule against the resolver's files", FilesInput{DNS: true, Present: []string{"/etc/hosts"}, Config: config.Files{Host: []string{"/etc/hosts"}}},
			FilesPlan{Hide: nameServices2}},
		{"rules without effect", FilesInput{Config: config.Files{Host: []string{"/usr"}, Pod: []string{"/a", "/a/b"}, Hidden: []string{"/h", "/h/i"}}},
			FilesPlan{Cover: []string{"/a"}, Hide: []string{"/h"}}},
		{"map", FilesInput{Config: config.Files{Pod: []string{"/a"}, Map: map[string]string{"/a/x": "/b/y", "/c": "/c", "/d/": "/e/", "/d/f": "/e/f"}}},
			FilesPlan{Cover: []string{"/a", "/a/x", "/c", "/d"}, Map: map[string]string{"/a/x": "/b/y", "/d": "/e"}}},
		{"a volume below a mapped path shows another place", FilesInput{Volumes: []string{"/d/v"}, Config: config.Files{Mode: "volumes", Map: map[string]string{"/d": "/e"}}},
			FilesPlan{Cover: []string{"/d", "/d/v"}, Map: map[string]string{"/d": "/e"}}},
		{"kept: program, working directory, workspace, interpreter, home, tmp",
			FilesInput{Config: volumes, Volumes: []string{"/p/bin/x", "/w", "/ws", "/nix/lib", "/home", "/tmp", "/ws/config", "/tmp/cache", "/home/me/.aws"},
				Program: "/p/bin/x", Workdir: "/w/sub", Workspace: "/ws", Interpreter: "/nix/lib/ld.so", Home: "/home/me"},
			FilesPlan{Cover: []string{"/home/me/.aws", "/tmp/cache", "/ws/config"}, Kept: []Kept{
				{"/home", "the home directory is there"}, {"/nix/lib", "the interpreter is there"}, {"/p/bin/x", "the program is there"},
				{"/tmp", "temporary files are there"}, {"/w", "the working directory is there"}, {"/ws", "the workspace is there"}}}},
		{"kept: stepin's own, through /var/run", FilesInput{Config: volumes, Volumes: []string{"/var/run"}, Own: []string{"/run/user/1000/stepin"}},
			FilesPlan{Kept: []Kept{{"/var/run", "stepin needs what is there"}}}},
		{"kept against the user's rules", FilesInput{Workspace: "/ws", Config: config.Files{Pod: []string{"/ws"}, Hidden: []string{"/dev/null"}, Map: map[string]string{"/proc": "/x"}, Host: []string{"/dev"}}},
			FilesPlan{Kept: []Kept{{"/dev/null", "it belongs to this machine's kernel"}, {"/proc", "it belongs to this machine's kernel"}, {"/ws", "the workspace is there"}}}},
		{"kept: where programs and libraries are",
			FilesInput{Config: volumes, PodTop: []string{"lib64"}, Volumes: []string{"/usr/local/bin", "/usr/bin/go", "/bin", "/lib64", "/usr/lib/libc.so.6",
				"/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/app/config", "/etc/ld.so.preload", "/etc/ld.so.conf.d/x.conf", "/etc", "/usr/local", "/usr/share/app", "/etc/ld"}},
			FilesPlan{Cover: []string{"/etc/ld", "/usr/lib/app/config", "/usr/share/app"}, Kept: []Kept{{"/bin", programsWhy}, {"/etc", programsWhy}, {"/etc/ld.so.conf.d/x.conf", programsWhy},
				{"/etc/ld.so.preload", programsWhy}, {"/lib64", programsWhy}, {"/usr/bin/go", programsWhy}, {"/usr/lib/libc.so.6", programsWhy},
				{"/usr/lib/x86_64-linux-gnu/libc.so.6", programsWhy}, {"/usr/local", programsWhy}, {"/usr/local/bin", programsWhy}}}},
		{"where programs are, by the user's own word", FilesInput{Volumes: []string{"/opt/local/bin", "/usr/local/bin", "/usr/local/lib", "/bin"}, HostTop: []string{"lib64"},
			Config: config.Files{Mode: "volumes", Pod: []string{"/usr/local"}, ReadOnly: []string{"/bin"}, Map: map[string]string{"/sbin": "/x"}}},
			FilesPlan{Cover: []string{"/bin", "/opt/local/bin", "/sbin", "/usr/local"}, Map: map[string]string{"/sbin": "/x"}}},
		{"kept: the debugger", FilesInput{Config: volumes, Volumes: []string{"/opt/dlv"}, Own: []string{"/opt/dlv/bin/dlv"}},
			FilesPlan{Kept: []Kept{{"/opt/dlv", "stepin needs what is there"}}}},
		{"a root that is nobody's", FilesInput{Config: volumes, Volumes: []string{"/a"}, Workdir: "/", Home: "/", Workspace: ""}, FilesPlan{Cover: []string{"/a"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			have := Cover(tt.in)
			for what, pair := range map[string][2][]string{"Cover": {have.Cover, tt.want.Cover}, "Host": {have.Host, tt.want.Host},
				"Hide": {have.Hide, tt.want.Hide}, "HostView": {have.HostView, tt.want.HostView}} {
				if !slices.Equal(pair[0], pair[1]) {
					t.Errorf("%s %q, want %q", what, pair[0], pair[1])
				}
			}
			if !maps.Equal(have.Map, tt.want.Map) {
				t.Errorf("Map %q, want %q", have.Map, tt.want.Map)
			}
			if !slices.Equal(have.Kept, tt.want.Kept) {
				t.Errorf("Kept %q, want %q", have.Kept, tt.want.Kept)
			}
		})
	}
}

const programsWhy = "this machine's programs or libraries are there; to see the pod's, name it in files.pod"

// nameServices2 is what dns hides, written by hand.
var nameServices2 = []string{"/run/avahi-daemon", "/run/nscd", "/run/systemd/resolve/io.systemd.Resolve", "/run/systemd/resolve/io.systemd.Resolve.Monitor"}

func TestCoveredAndPodPath(t *testing.T) {
	p := Cover(FilesInput{Volumes: []string{"/etc/app", "/d/v"}, Config: config.Files{Mode: "volumes",
		Host: []string{"/etc/app/local"}, Hidden: []string{"/etc/app/gone"}, Pod: []string{"/etc/app/local/in"}, Map: map[string]string{"/d": "/e"}}})
	for s, pod := range map[string]string{ // "" = not covered
		"/": "", "/etc": "", "/etc/app": "/etc/app", "/etc/app/x/y": "/etc/app/x/y", "/etc/apple": "", "/etc/app/local": "", "/etc/app/local/a": "",
		"/etc/app/local/in": "/etc/app/local/in", "/etc/app/local/in/b": "/etc/app/local/in/b", "/etc/app/gone/c": "",
		"/d": "/e", "/d/x": "/e/x", "/d/v": "/d/v", "/d/v/z": "/d/v/z", "/da": "",
	} {
		if have := p.Covered(s); have != (pod != "") {
			t.Errorf("Covered(%s) = %v", s, have)
		}
		if have := p.PodPath(s); pod != "" && have != pod || pod == "" && have != s {
			t.Errorf("PodPath(%s) = %s, want %s", s, have, pod)
		}
	}
	var none FilesPlan
	if none.Covered("/x") || none.Covered("") || none.Covered("relative") || none.PodPath("/x") != "/x" {
		t.Error("an empty plan covers something")
	}
}

// FuzzCover: whatever the input, the plan's lists agree with Covered, nothing that must stay is taken, and no list
// says what its parent says.
func FuzzCover(f *testing.F) {
	f.Add("/etc/app", "/etc/app/local", "/opt", "/home/me", "/d", "/e")
	f.Fuzz(func(t *testing.T, volume, host, hide, home, from, to string) {
		for _, s := range []string{host, hide, from, to} { // config has refused all others
			if !path.IsAbs(s) || path.Clean(s) == "/" {
				return
			}
		}
		p := Cover(FilesInput{Volumes: []string{volume}, Home: home, Config: config.Files{Mode: "volumes", Host: []string{host}, Hidden: []string{hide}, Map: map[string]string{from: to}}})
		for _, s := range p.Cover {
			if !p.Covered(s) || s != path.Clean(s) || !path.IsAbs(s) {
				t.Fatalf("%q in Cover and not covered", s)
			}
		}
		for _, s := range slices.Concat(p.Host, p.Hide, kernelTrees, []string{"/tmp"}) {
			if p.Covered(s) {
				t.Fatalf("%q is covered", s)
			}
		}
		if path.IsAbs(home) && path.Clean(home) != "/" {
			for _, s := range slices.Concat(p.Cover, p.Hide) {
				if below(path.Clean(home), s) {
					t.Fatalf("%q takes the home directory %q", s, home)
				}
			}
		}
	})
}

// A volume at a path that a link of this machine leads elsewhere.
func TestAlias(t *testing.T) {
	p := Cover(FilesInput{Volumes: []string{"/var/run/secrets/token", "/data"}, HostTop: []string{"var", "data"}, Config: config.Default().Files})
	p.Alias("/run/secrets/token", "/var/run/secrets/token")
	p.Alias("/elsewhere", "/etc/passwd") // which is not covered
	for path, want := range map[string]string{
		"/run/secrets/token/ca.crt": "/var/run/secrets/token/ca.crt", "/var/run/secrets/token/ca.crt": "/var/run/secrets/token/ca.crt",
		"/data/a": "/data/a", "/elsewhere": "/elsewhere",
	} {
		if got := p.PodPath(path); got != want || p.Covered(path) != (path != "/elsewhere") {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
