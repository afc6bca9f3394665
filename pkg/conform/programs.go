package conform

import (
	"net/netip"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/pkg/podlet"
)

// The pod's outside, as the programs know it: a server, and destinations that fail.
var (
	server  = []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:7::7")}
	resolve = netip.MustParseAddr("10.96.0.10")
	silent  = netip.MustParsePrefix("192.0.2.0/26")
	far     = netip.MustParsePrefix("192.0.2.192/26")
)

// The server's ports: one tells its caller whom it sees and echoes, one is nobody's, one echoes datagrams, one speaks HTTP.
const (
	tellPort = 7000
	echoPort = 7002
	httpPort = 8000
)

// Pod is the pod that all programs run in, and in whose place they run.
func Pod() podlet.Spec {
	const domain = "svc.cluster.local"
	return podlet.Spec{
		Hostname: "orders-0",
		Outside:  server,
		Routes:   []podlet.Route{{To: silent, Fate: podlet.Silent}, {To: far, Fate: podlet.Unreachable, Own: true}},
		Main:     podlet.Main{Env: []string{"GREETING=hello from the pod", "TWO_WORDS=one two", "EMPTY=", "KUBERNETES_SERVICE_HOST=10.96.0.1"}},
		Resolver: &podlet.Resolver{
			Addr: resolve, TTL: time.Minute, Search: []string{"shop." + domain, domain, "cluster.local"},
			Zone:  map[string][]netip.Addr{"server.shop." + domain: server, "external.example": server[:1]},
			Alias: map[string]string{"alias.example": "external.example"},
		},
		Volumes: []podlet.Volume{
			{Path: "/config", Files: map[string]string{"greeting": "hello", "colour": "blue"}},
			{Path: "/data", Plain: true,
				Files: map[string]string{"plain": "a plain file", "sub/deep/file": "a deep file", "json": `{"key": "value"}`},
				Links: map[string]string{"link": "plain", "dangling": "absent", "loop": "loop", "folder": "sub", "short": "sub/deep"}},
		},
	}
}

// Volumes are the paths that the pod has and the developer's machine does not.
func Volumes() (paths []string) {
	for _, v := range Pod().Volumes {
		paths = append(paths, v.Path)
	}
	return paths
}

// Program is one of programs/.
type Program struct {
	Name string
	Make string   // the program that has to be there to make it; "" = none
	Argv []string // of the run; {C}, {STATIC}, {CGO}, {JAVA}, {SOURCE}, {SCRATCH}, {PYTHON} are paths
	Fast bool     // part of ./just test
	// NoFUSE is Argv where FUSE is forbidden: the subjects that files have a part in; nil = Argv.
	NoFUSE []string
	// NoPreload says why preload cannot serve it; it must refuse then, in words.
	NoPreload string
}

// Programs are all of them.
func Programs() []Program {
	subjects := strings.Fields("environment names tcp udp listen files places processes")
	const static = "linked statically: there is no libc to stand before"
	return []Program{
		{Name: "c", Make: "gcc", Argv: append([]string{"{C}"}, subjects...), Fast: true,
			NoFUSE: []string{"{C}", "environment", "files", "places", "processes"}},
		{Name: "c-static", Make: "gcc", Argv: append([]string{"{C}-static"}, subjects...), NoPreload: static},
		{Name: "go-static", Argv: []string{"{STATIC}"}, Fast: true, NoPreload: static},
		{Name: "go-cgo", Make: "gcc", Argv: []string{"{CGO}"}, NoPreload: "Go makes its system calls itself, even with cgo"},
		{Name: "python", Make: "python3", Argv: []string{"{PYTHON}", "{SOURCE}/python/conform.py"}, Fast: true,
			NoFUSE: []string{"{PYTHON}", "{SOURCE}/python/conform.py", "environment", "files", "processes"}},
		{Name: "node", Make: "node", Argv: []string{"node", "{SOURCE}/node/conform.js"},
			NoFUSE: []string{"node", "{SOURCE}/node/conform.js", "environment", "files", "processes"}},
		{Name: "java", Make: "javac", Argv: []string{"java", "-Xshare:auto", "-cp", "{JAVA}", "Conform"}},
		{Name: "curl", Make: "curl", Argv: []string{"sh", "-c", curl}},
		{Name: "nginx", Make: "nginx", Argv: []string{"sh", "-c", nginx}},
	}
}

// curl calls by name, address and both families, and reads a pod's file.
const curl = `
get() { echo "get $*"; curl -sS --noproxy '' -m 20 -w '%{http_code} %{remote_ip} %{local_ip} %{exitcode}\n' "$@" 2>&1; }
get http://server:8000/where
get -6 http://server:8000/where
get http://203.0.113.7:8000/where
get http://203.0.113.7:7001/ | sed 's/after [0-9]* ms/after a while/'
get http://absent.example/
get --data-binary @/data/plain http://server:8000/body
get file:///config/greeting
`

// nginx serves a pod's files with two workers, and passes on to a Service. The test's end of the pipe says when to leave.
// Its workers stay the same user: nobody else may read the pod's files, which FUSE sees to.
const nginx = `
user=
[ "$(id -u)" != 0 ] || user="user root;"
mkdir -p {SCRATCH}/logs
cat >{SCRATCH}/nginx.conf <<END
worker_processes 2; $user
daemon off;
pid {SCRATCH}/pid;
error_log stderr crit;
events {}
http {
	access_log off;
	client_body_temp_path {SCRATCH}/body; proxy_temp_path {SCRATCH}/proxy; fastcgi_temp_path {SCRATCH}/fast;
	uwsgi_temp_path {SCRATCH}/uwsgi; scgi_temp_path {SCRATCH}/scgi;
	server {
		listen 8090;
		location / { root /data; }
		location = /caller { return 200 "\$remote_addr \$server_addr \$server_port\n"; }
		location = /where { proxy_pass http://203.0.113.7:8000/where; }
		location = /refused { proxy_pass http://203.0.113.7:7001/; }
	}
}
END
nginx -p {SCRATCH} -c {SCRATCH}/nginx.conf &
echo "nginx ready 8090"
read -r word <{SCRATCH}/leave
kill -QUIT $!
wait $!
echo "nginx ended with $?"
`
