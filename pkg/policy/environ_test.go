package policy

import (
	"maps"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/pkg/config"
)

func ptr(s string) *string { return &s }

func names(left []Left) []string {
	var out []string
	for _, l := range left {
		out = append(out, l.Name)
	}
	return out
}

// TestEnvironOrder holds the precedence: each row adds one source and says what becomes of V.
func TestEnvironOrder(t *testing.T) {
	tests := []struct {
		name string
		in   EnvInput
		want []string
		left []string
	}{
		{"host alone", EnvInput{Host: []string{"V=host"}}, []string{"V=host"}, nil},
		{"pod over host", EnvInput{Host: []string{"V=host"}, Pod: []string{"V=pod"}}, []string{"V=pod"}, nil},
		{"file over pod", EnvInput{Pod: []string{"V=pod"}, File: map[string]string{"V": "file"}}, []string{"V=file"}, nil},
		{"override over file", EnvInput{File: map[string]string{"V": "file"}, Config: config.Env{Override: map[string]string{"V": "o"}}}, []string{"V=o"}, nil},
		{"unset over override", EnvInput{Host: []string{"V=h"}, Config: config.Env{Override: map[string]string{"V": "o"}, Unset: []string{"V"}}}, []string{}, nil},
		{"launch over unset", EnvInput{Config: config.Env{Unset: []string{"V"}}, Launch: map[string]*string{"V": ptr("l")}}, []string{"V=l"}, nil},
		{"launch null", EnvInput{Pod: []string{"V=pod"}, Launch: map[string]*string{"V": nil}}, []string{}, nil},
		{"launch null of nothing", EnvInput{Launch: map[string]*string{"V": nil}}, []string{}, nil},
		{"exclude leaves the host's", EnvInput{Host: []string{"V=host"}, Pod: []string{"V=pod"}, Config: config.Env{Exclude: []string{"V"}}}, []string{"V=host"}, nil},
		{"exclude pattern", EnvInput{Pod: []string{"AB=1", "BA=2"}, Config: config.Env{Exclude: []string{"A*"}}}, []string{"BA=2"}, nil},
		{"include over exclude", EnvInput{Pod: []string{"AB=1", "BA=2"}, Config: config.Env{Exclude: []string{"*"}, Include: []string{"A*"}}}, []string{"AB=1"}, nil},
		{"a bare * includes nothing", EnvInput{Pod: []string{"LD_PRELOAD=x", "PATH=y"}, Config: config.Env{Include: []string{"*", "**"}}}, []string{}, []string{"LD_PRELOAD", "PATH"}},
		{"include by name", EnvInput{Host: []string{"PATH=h"}, Pod: []string{"LD_PRELOAD=x", "PATH=y"}, Config: config.Env{Include: []string{"LD_PRE*", "PATH"}}}, []string{"LD_PRELOAD=x", "PATH=y"}, nil},
		{"host's own stays", EnvInput{Host: []string{"PATH=h", "LD_PRELOAD=h"}, Pod: []string{"PATH=p", "LD_PRELOAD=p"}}, []string{"LD_PRELOAD=h", "PATH=h"}, []string{"LD_PRELOAD", "PATH"}},
		{"host's lie goes, the pod's truth comes", EnvInput{Host: []string{"HTTPS_PROXY=h", "AWS_PROFILE=h"}, Pod: []string{"HTTPS_PROXY=p"}}, []string{"HTTPS_PROXY=p"}, nil},
		{"the launch brings a lie back", EnvInput{Host: []string{"AWS_PROFILE=h"}, Launch: map[string]*string{"AWS_PROFILE": ptr("dev")}}, []string{"AWS_PROFILE=dev"}, nil},
		{"the first of two counts", EnvInput{Pod: []string{"V=1", "V=2"}}, []string{"V=1"}, nil},
		{"no variables", EnvInput{Pod: []string{"", "=x", "novalue", "E="}}, []string{"E="}, nil},
		{"values are bytes", EnvInput{Pod: []string{"V=a=b\n\xff"}}, []string{"V=a=b\n\xff"}, nil},
		{"ENV as a word", EnvInput{Pod: []string{"ENV=production"}}, []string{"ENV=production"}, nil},
		{"ENV as a file", EnvInput{Pod: []string{"ENV=/app/.shrc"}}, []string{}, []string{"ENV"}},
		{"ENV as code", EnvInput{Pod: []string{"ENV=$(id)"}}, []string{}, []string{"ENV"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env, left := Environ(tt.in)
			if !slices.Equal(env, tt.want) {
				t.Errorf("environment %q, want %q", env, tt.want)
			}
			if !slices.Equal(names(left), tt.left) {
				t.Errorf("left out %q, want %q", names(left), tt.left)
			}
			for _, l := range left {
				if l.Why == "" {
					t.Errorf("%s is left out without a reason", l.Name)
				}
			}
		})
	}
}

// TestEnvironNames says of each name where its value comes from when both sides have one. It is written by hand, not
// taken from the tables: a row lost there fails here.
func TestEnvironNames(t *testing.T) {
	const both, hosts = "pod", "host" // who wins when both have it
	tests := map[string]string{       // name: winner
		"PATH": hosts, "HOME": hosts, "PWD": hosts, "OLDPWD": hosts, "TMPDIR": hosts, "SHELL": hosts, "USER": hosts, "LOGNAME": hosts,
		"TERM": hosts, "XDG_RUNTIME_DIR": hosts, "XDG_CONFIG_HOME": hosts, "DISPLAY": hosts, "WAYLAND_DISPLAY": hosts, "SSH_AUTH_SOCK": hosts,
		"GOPATH": hosts, "GOROOT": hosts, "GOCACHE": hosts, "GOMODCACHE": hosts, "NVM_DIR": hosts, "PYENV_ROOT": hosts, "JAVA_HOME": hosts,
		"CARGO_HOME": hosts, "VIRTUAL_ENV": hosts, "npm_config_prefix": hosts,
		"LD_PRELOAD": hosts, "LD_LIBRARY_PATH": hosts, "LD_AUDIT": hosts, "DYLD_INSERT_LIBRARIES": hosts, "PYTHONSTARTUP": hosts, "PYTHONPATH": hosts,
		"PYTHONHOME": hosts, "NODE_OPTIONS": hosts, "NODE_PATH": hosts, "JAVA_TOOL_OPTIONS": hosts, "_JAVA_OPTIONS": hosts, "JDK_JAVA_OPTIONS": hosts,
		"BASH_ENV": hosts, "PROMPT_COMMAND": hosts, "PERL5LIB": hosts, "PERL5OPT": hosts, "RUBYOPT": hosts, "RUBYLIB": hosts,
		"GIT_SSH_COMMAND": hosts, "GIT_SSH": hosts, "GIT_ASKPASS": hosts, "GIT_CONFIG_COUNT": hosts, "GIT_EXEC_PATH": hosts, "GCONV_PATH": hosts,
		"EDITOR": hosts, "VISUAL": hosts, "PAGER": hosts, "IFS": hosts, "BASH_FUNC_ls%%": hosts, "GOFLAGS": hosts, "DOTNET_STARTUP_HOOKS": hosts,
		"CORECLR_PROFILER_PATH": hosts, "GLIBC_TUNABLES": hosts, "OPENSSL_CONF": hosts, "LUA_INIT": hosts, "STEPIN_LOG": hosts, "CLASSPATH": hosts,

		"HOSTNAME": both, "LANG": both, "LC_ALL": both, "TZ": both, "GOMEMLIMIT": both, "GOGC": both, "GOMAXPROCS": both, "GODEBUG": both,
		"GOTRACEBACK": both, "KUBERNETES_SERVICE_HOST": both, "KUBERNETES_PORT": both, "HTTP_PROXY": both, "https_proxy": both, "NO_PROXY": both,
		"AWS_REGION": both, "AWS_ROLE_ARN": both, "AWS_WEB_IDENTITY_TOKEN_FILE": both, "GOOGLE_APPLICATION_CREDENTIALS": both, "AZURE_CLIENT_ID": both,
		"KUBECONFIG": both, "DATABASE_URL": both, "PORT": both, "GIT_COMMIT": both, "UV_THREADPOOL_SIZE": both, "NODE_ENV": both, "GOLANG_VERSION": both,
		"RES_OPTIONS": both, "SSL_CERT_FILE": both, "VK_API_KEY": both, "PYTHONUNBUFFERED": both, "PYTHONDONTWRITEBYTECODE": both, "ORDERS_PATH": both,
		"Path": both, "path": both,
	}
	for name, winner := range tests {
		env, _ := Environ(EnvInput{Host: []string{name + "=host"}, Pod: []string{name + "=pod"}})
		if want := []string{name + "=" + winner}; !slices.Equal(env, want) {
			t.Errorf("both have %s: %q, want %q", name, env, want)
		}
		env, left := Environ(EnvInput{Pod: []string{name + "=pod"}})
		if got := len(env) == 1; got != (winner == both) || (len(left) == 1) == got {
			t.Errorf("the pod alone has %s: %q, left out %q", name, env, names(left))
		}
		env, left = Environ(EnvInput{Pod: []string{name + "=pod"}, Config: config.Env{Include: []string{name}}})
		if len(env) != 1 || len(left) != 0 {
			t.Errorf("%s is included by name: %q, left out %q", name, env, names(left))
		}
	}
	lies := []string{"HTTP_PROXY", "http_proxy", "all_proxy", "KUBECONFIG", "KUBERNETES_SERVICE_HOST", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "GOOGLE_CLOUD_PROJECT",
		"AZURE_TENANT_ID", "CLOUDSDK_CONFIG", "RES_OPTIONS", "SSL_CERT_DIR", "DEBUGINFOD_URLS"}
	for _, name := range lies {
		if env, _ := Environ(EnvInput{Host: []string{name + "=host"}}); len(env) != 0 {
			t.Errorf("the host's %s comes through", name)
		}
	}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "EDITOR", "GOFLAGS", "LANG", "MY_VAR", "GOPROXY", "SSH_AUTH_SOCK"} {
		if env, _ := Environ(EnvInput{Host: []string{name + "=host"}}); len(env) != 1 {
			t.Errorf("the host's %s is lost", name)
		}
	}
}

// TestTables: a pattern in two reasons for the same fate is a slip, and one that is no name never matches.
func TestTables(t *testing.T) {
	for name, table := range map[string]rows{"hostLies": hostLies, "hostOwn and podCode": slices.Concat(podCode, hostOwn)} {
		seen := map[string]bool{}
		for _, row := range table {
			if row.why == "" || len(row.patterns) == 0 {
				t.Errorf("%s: a row without reason or patterns", name)
			}
			for _, p := range row.patterns {
				if seen[p] || strings.ContainsAny(p, "= ") || strings.Trim(p, "*") == "" {
					t.Errorf("%s: %q twice, or no pattern", name, p)
				}
				seen[p] = true
			}
		}
	}
}

// TestDelta: base with the delta applied is env, whatever the two are. A real process is the judge.
func TestDelta(t *testing.T) {
	tests := []struct{ base, env []string }{
		{nil, nil},
		{[]string{"A=1"}, nil},
		{nil, []string{"A=1"}},
		{[]string{"A=1", "B=2", "C="}, []string{"A=1", "B=3", "D="}},
		{[]string{"A=1", "A=2"}, []string{"A=1"}},
	}
	for _, tt := range tests {
		delta := Delta(tt.base, tt.env)
		vars := variables(tt.base)
		for name, value := range delta {
			if value == nil {
				delete(vars, name)
			} else {
				vars[name] = *value
			}
		}
		if want := variables(tt.env); !maps.Equal(vars, want) {
			t.Errorf("from %q by %v: %q, want %q", tt.base, delta, vars, want)
		}
	}
	if d := Delta([]string{"A=1"}, []string{"A=1"}); len(d) != 0 {
		t.Errorf("equal environments differ by %v", d)
	}
}

func TestDebuggerEnviron(t *testing.T) {
	host := []string{"PATH=/bin", "DEBUGINFOD_URLS=https://x", "HTTPS_PROXY=p", "GOFLAGS=-mod=mod"}
	want := []string{"GOFLAGS=-mod=mod", "HTTPS_PROXY=p", "PATH=/bin"}
	if have := DebuggerEnviron(host); !slices.Equal(have, want) {
		t.Errorf("%q, want %q", have, want)
	}
}

// TestEnvironIsExecutable hands a hostile environment to a real process: what Environ returns is what it has.
func TestEnvironIsExecutable(t *testing.T) {
	if os.Getenv("POLICY_TEST_CHILD") != "" {
		os.Stdout.WriteString(strings.Join(os.Environ(), "\x00"))
		os.Exit(0)
	}
	env, _ := Environ(EnvInput{
		Host: []string{"POLICY_TEST_CHILD=1", "A=1"},
		Pod:  []string{"A=2", "=x", "B", "C=\xff\n", "LD_PRELOAD=/evil.so", "D.e-f=g"},
	})
	cmd := exec.Command(os.Args[0], "-test.run=^TestEnvironIsExecutable$")
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if have := strings.Split(string(out), "\x00"); !reflect.DeepEqual(have, []string{"A=2", "C=\xff\n", "D.e-f=g", "POLICY_TEST_CHILD=1"}) {
		t.Errorf("the process has %q", have)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"A", "A", true}, {"A", "a", false}, {"A", "AB", false}, {"A*", "A", true}, {"A*", "AB", true}, {"*A", "BA", true}, {"*A", "AB", false},
		{"A*C", "ABC", true}, {"A*C", "AC", true}, {"A*C", "ACB", false}, {"*B*", "ABC", true}, {"*", "", true}, {"", "", true}, {"", "A", false},
		{"A**B", "AB", true}, {"*AB", "AAB", true}, {"*a*a*a*a*a*a*b", strings.Repeat("a", 5000), false},
	} {
		if have := match(tt.pattern, tt.name); have != tt.want {
			t.Errorf("match(%q, %.20q) = %v", tt.pattern, tt.name, have)
		}
	}
}
