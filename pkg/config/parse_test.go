package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// TestParse reads whole configurations and looks at what differs from the default.
func TestParse(t *testing.T) {
	tests := []struct {
		name, in string
		want     func(l *Launch)
	}{
		{"least", `{"target":"local/1"}`, func(l *Launch) {}},
		{"editor keys", `{"target":"local/1","type":"stepin","request":"launch","name":"x","__sessionId":"1","noDebug":true,"presentation":{"hidden":false}}`, func(l *Launch) {}},
		{"null is default", `{"target":"local/1","dns":null,"incoming":null,"env":{"include":null}}`, func(l *Launch) {}},
		{"everything", `{"target":"local/1","incoming":{"mode":"off","ports":[80,65535],"map":{"80":8080},"existing":"keep","probes":"pod","whilePaused":"hold","log":false},
			"outgoing":{"tcp":false,"udp":false,"loopback":"pod","pod":["db"],"host":["*"]},"dns":false,"hostname":false,
			"env":{"include":["LD_*"],"exclude":["A*"],"override":{"A":"","b":"="},"unset":["C"],"file":"/x"},
			"files":{"mode":"off","pod":["/a"],"readOnly":["/b"],"host":["/c/"],"hidden":["/d"],"map":{"/e":"/f"}},
			"frontEnd":"namespaces","hostPrograms":["air","/opt/x"],"onLost":"host","agent":{"mode":"auto","ttl":"5m"}}`,
			func(l *Launch) {
				l.Incoming = Incoming{"off", []Port{80, 65535}, map[Port]Port{80: 8080}, "keep", "pod", "hold", false}
				l.Outgoing = Outgoing{false, false, "pod", []string{"db"}, []string{"*"}}
				l.DNS, l.Hostname, l.FrontEnd, l.OnLost = false, false, "namespaces", "host"
				l.Env = Env{[]string{"LD_*"}, []string{"A*"}, map[string]string{"A": "", "b": "="}, []string{"C"}, "/x"}
				l.Files = Files{"off", []string{"/a"}, []string{"/b"}, []string{"/c/"}, []string{"/d"}, map[string]string{"/e": "/f"}}
				l.HostPrograms = []string{"air", "/opt/x"}
				l.Agent.TTL = Duration(5 * time.Minute)
			}},
		{"integers as JSON has them", `{"target":"local/1","incoming":{"ports":[8080.0,8e1]}}`, func(l *Launch) { l.Incoming.Ports = []Port{8080, 80} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			have, err := Parse([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			have.Editor, have.written = nil, nil
			want := Default()
			want.Target = "local/1"
			tt.want(want)
			if !reflect.DeepEqual(have, want) {
				t.Errorf("have %+v\nwant %+v", have, want)
			}
		})
	}
}

func TestDebuggerKeysStayRaw(t *testing.T) {
	l, err := Parse([]byte(`{"target":"local/1","noDebug":true,"debugger":{"type":"go","env":{"A":null,"B":"x"},"buildFlags":["-tags", "y"],"new":{"z":1.50}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]json.RawMessage{"env": json.RawMessage(`{"A":null,"B":"x"}`),
		"buildFlags": json.RawMessage(`["-tags","y"]`), "new": json.RawMessage(`{"z":1.50}`)}
	if l.Debugger.Type != "go" || !reflect.DeepEqual(l.Debugger.Keys, want) {
		t.Errorf("have %+v", l.Debugger)
	}
	if string(l.Editor["noDebug"]) != "true" || len(l.Editor) != 1 {
		t.Errorf("the editor's keys: %s", l.Editor)
	}
	back, err := json.Marshal(l.Debugger)
	if err != nil || string(back) != `{"buildFlags":["-tags","y"],"env":{"A":null,"B":"x"},"new":{"z":1.50},"type":"go"}` {
		t.Errorf("written back: %s, %v", back, err)
	}
	if err := l.NeedDebugger(); err != nil {
		t.Error(err)
	}
	if l.Debugger = (Debugger{}); fail.CodeOf(l.NeedDebugger()) != fail.ConfigValue {
		t.Error("a launch without a debugger passes")
	}
}

// TestRefused holds every sentence that a user can meet.
func TestRefused(t *testing.T) {
	const target = `"target":"local/1"`
	tests := []struct {
		in   string // the keys beside the target
		code fail.Code
		want string // the beginning of the sentence
	}{
		{`"incoming":{"prots":[80]}`, fail.ConfigUnknownKey, `incoming.prots: unknown key; did you mean "ports"?`},
		{`"Incoming":{}`, fail.ConfigUnknownKey, `Incoming: unknown key; did you mean "incoming"?`},
		{`"ports":[80]`, fail.ConfigUnknownKey, `ports: unknown key; did you mean "incoming.ports"?`},
		{`"program":"."`, fail.ConfigUnknownKey, `program: unknown key; did you mean "debugger.program"?`},
		{`"args":[]`, fail.ConfigUnknownKey, `args: unknown key; did you mean "debugger.args"?`},
		{`"incoming":{"dns":true}`, fail.ConfigUnknownKey, `incoming.dns: unknown key; it belongs at the top, beside "incoming"`},
		{`"env":{"FOO":"x"}`, fail.ConfigUnknownKey, `env.FOO: unknown key`},
		{`"zzzzzzz":1`, fail.ConfigUnknownKey, `zzzzzzz: unknown key`},
		{`"a b":1`, fail.ConfigUnknownKey, `"a b": unknown key`},
		{`"namespace":"Shop"`, fail.ConfigValue, `namespace: "Shop" is no name of a namespace`},
		{`"kubeconfig":"dev"`, fail.ConfigValue, `kubeconfig: "dev" is no path of a file`},
		{`"kubeconfig":"/a:/b"`, fail.ConfigValue, `kubeconfig: "/a:/b" is no path of a file`},
		{`"agent":{"imagePullSecret":"x"}`, fail.ConfigUnknownKey, `agent.imagePullSecret: unknown key; did you mean "imagePullSecrets"?`},
		{`"agent":{"tolerations":[{"effect":"NoExec"}]}`, fail.ConfigValue, `agent.tolerations[0].effect: "NoExec" is not known; did you mean "NoExecute"?`},
		{`"agent":{"resources":{"limits":{"cpu":1}}}`, fail.ConfigValue, `agent.resources.limits.cpu: must be a string, not a number`},
		{`"incoming":{"filter":{}}`, fail.ConfigLater, `incoming.filter: the key does not exist in this version`},
		{`"incoming":{"whilePaused":"pod"}`, fail.ConfigLater, `incoming.whilePaused: "pod" does not exist in this version`},
		{`"request":"attach"`, fail.ConfigLater, `request: "attach" does not exist in this version`},
		{`"request":"lunch"`, fail.ConfigValue, `request: "lunch" is not known; did you mean "launch"?`},
		{`"debugger":{"type":"lldb"}`, fail.ConfigLater, `debugger.type: "lldb" does not exist in this version`},
		{`"debugger":{"type":"none"}`, fail.ConfigLater, `debugger.type: "none" does not exist in this version`},
		{`"debugger":"go"`, fail.ConfigValue, `debugger: must be an object, not a string`},
		{`"frontEnd":"namespace"`, fail.ConfigValue, `frontEnd: "namespace" is not known; did you mean "namespaces"?`},
		{`"files":{"mode":"write"}`, fail.ConfigLater, `files.mode: "write" does not exist in this version`},
		{`"incoming":{"mode":"stael"}`, fail.ConfigValue, `incoming.mode: "stael" is not known; did you mean "steal"?`},
		{`"incoming":{"mode":false}`, fail.ConfigValue, `incoming.mode: must be a string, not true or false`},
		{`"incoming":{"probes":"debuggee"}`, fail.ConfigValue, `incoming.probes: "debuggee" is not known`},
		{`"incoming":[]`, fail.ConfigValue, `incoming: must be an object, not a list`},
		{`"incoming":{"ports":[0]}`, fail.ConfigValue, `incoming.ports[0]: 0 is no port`},
		{`"incoming":{"ports":[80,70000]}`, fail.ConfigValue, `incoming.ports[1]: 70000 is no port`},
		{`"incoming":{"ports":[80.5]}`, fail.ConfigValue, `incoming.ports[0]: 80.5 is no port`},
		{`"incoming":{"ports":[-1]}`, fail.ConfigValue, `incoming.ports[0]: -1 is no port`},
		{`"incoming":{"ports":[1e999]}`, fail.ConfigValue, `incoming.ports[0]: 1e999 is no port`},
		{`"incoming":{"ports":["80"]}`, fail.ConfigValue, `incoming.ports[0]: must be a number, not a string`},
		{`"incoming":{"ports":[null]}`, fail.ConfigValue, `incoming.ports[0]: must not be null`},
		{`"incoming":{"ports":80}`, fail.ConfigValue, `incoming.ports: must be a list, not a number`},
		{`"incoming":{"map":{"0":80}}`, fail.ConfigValue, `incoming.map.0: "0" is no port`},
		{`"incoming":{"map":{"080":80}}`, fail.ConfigValue, `incoming.map.080: "080" is no port`},
		{`"incoming":{"map":{"80":70000}}`, fail.ConfigValue, `incoming.map.80: 70000 is no port`},
		{`"incoming":{"map":{"80":1,"81":1}}`, fail.ConfigValue, `incoming.map: ports 80 and 81 both stand for the pod's port 1`},
		{`"incoming":{"ports":[81],"map":{"80":1}}`, fail.ConfigValue, `incoming.map: port 80 is not among incoming.ports`},
		{`"outgoing":{"unix":[]}`, fail.ConfigLater, `outgoing.unix: the key does not exist in this version`},
		{`"outgoing":{"tcp":"yes"}`, fail.ConfigValue, `outgoing.tcp: must be true or false, not a string`},
		{`"outgoing":{"host":["http://x"]}`, fail.ConfigValue, `outgoing.host[0]: "http://" is neither tcp:// nor udp://`},
		{`"outgoing":{"host":["10.0.0.0/40"]}`, fail.ConfigValue, `outgoing.host[0]: "10.0.0.0/40" is no name`},
		{`"outgoing":{"pod":["db"]}`, fail.ConfigValue, `outgoing.pod: it names exceptions to outgoing.host, which is empty`},
		{`"outgoing":{"pod":["db"],"host":["DB."]}`, fail.ConfigValue, `outgoing: "DB." stands under pod and under host`},
		{`"env":{"override":{"A":1}}`, fail.ConfigValue, `env.override.A: must be a string, not a number`},
		{`"env":{"override":{"A":null}}`, fail.ConfigValue, `env.override.A: must not be null`},
		{`"env":{"override":{"A=":"x"}}`, fail.ConfigValue, `env.override.A=: this is no name of a variable`},
		{`"env":{"include":["A=b"]}`, fail.ConfigValue, `env.include[0]: "A=b" is no name of a variable`},
		{`"env":{"include":["a\u0000"]}`, fail.ConfigValue, `env.include[0]: holds a NUL byte`},
		{`"files":{"pod":["etc"]}`, fail.ConfigValue, `files.pod[0]: "etc" is not absolute`},
		{`"files":{"pod":["/etc/../.."]}`, fail.ConfigValue, `files.pod[0]: "/etc/../.." would be every file`},
		{`"files":{"pod":["/etc/../usr"]}`, fail.ConfigValue, `files.pod[0]: "/etc/../usr" has .. in it`},
		{`"files":{"map":{"a":"/b"}}`, fail.ConfigValue, `files.map.a: "a" is not absolute`},
		{`"files":{"pod":["/a/"],"host":["/a"]}`, fail.ConfigValue, `files: "/a" stands under pod and under host`},
		{`"hostPrograms":["./x"]`, fail.ConfigValue, `hostPrograms[0]: "./x" is no program`},
		{`"agent":{"ttl":5}`, fail.ConfigValue, `agent.ttl: must be a string, not a number`},
		{`"agent":{"ttl":"-5m"}`, fail.ConfigValue, `agent.ttl: "-5m" is no duration`},
		{`"agent":{"mode":"ephemerel"}`, fail.ConfigValue, `agent.mode: "ephemerel" is not known; did you mean "ephemeral"?`},
		{`"dns":true,"dns":true`, fail.ConfigSyntax, `dns: the key stands here twice`},
		{`"debugger":{"env":{"A":"1","A":"2"}}`, fail.ConfigSyntax, `debugger.env.A: the key stands here twice`},
	}
	for _, tt := range tests {
		_, err := Parse([]byte(`{` + target + `,` + tt.in + `}`))
		refused(t, tt.in, err, tt.code, tt.want)
	}
	for in, want := range map[string]string{
		``:             `the launch configuration is not JSON: line 1, column 1: it is empty`,
		"{\n \"a\" 1}": `the launch configuration is not JSON: line 2, column 6: invalid character '1' after object key`,
		`{} {}`:        `the launch configuration is not JSON: line 1, column 4: invalid character '{' after top-level value`,
	} {
		_, err := Parse([]byte(in))
		refused(t, in, err, fail.ConfigSyntax, want)
	}
	for in, want := range map[string]string{
		`[]`: `the configuration must be an object, not a list`,
		`{}`: `target: it is missing`,
	} {
		_, err := Parse([]byte(in))
		refused(t, in, err, fail.ConfigValue, want)
	}
}

func refused(t *testing.T, in string, err error, code fail.Code, want string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: accepted", in)
		return
	}
	if !strings.HasPrefix(err.Error(), want) || fail.CodeOf(err) != code {
		t.Errorf("%s:\nhave %d %s\nwant %d %s", in, fail.CodeOf(err), err, code, want)
	}
	if fail.Hint(err) == "" {
		t.Errorf("%s: no hint with %q", in, err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: more than one line: %q", in, err)
	}
}

func TestAllProblemsInOrder(t *testing.T) {
	_, err := Parse([]byte(`{"zzzzzzz":1,"dns":3,"incoming":{"ports":[0]}}`))
	const want = `zzzzzzz: unknown key; also dns: must be true or false, not a number; also incoming.ports[0]: 0 is no port`
	refused(t, "three problems", err, fail.ConfigUnknownKey, want)
	if _, err := Parse([]byte(`{"incoming":{"ports":[` + strings.Repeat("0,", 5000) + `0]}}`)); len(err.Error()) > 1000 {
		t.Errorf("%d bytes of problems", len(err.Error()))
	}
}

// TestNoValueInMessages: what a variable is set to may be a secret.
func TestNoValueInMessages(t *testing.T) {
	const canary = "canary-7d1f"
	for _, in := range []string{
		`{"env":{"override":{"A":["` + canary + `"]}}}`,
		`{"env":{"override":{"A=":"` + canary + `"}}}`,
		`{"env":{"override":{"A":"` + canary + `\u0000"}}}`,
		`{"env":{"A":"` + canary + `"}}`,
	} {
		if _, err := Parse([]byte(in)); err == nil || strings.Contains(err.Error()+fail.Hint(err), canary) {
			t.Errorf("%s: %v", in, err)
		}
	}
	if _, err := ParseEnvFile([]byte("A=1\nB='" + canary)); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("env file: %v", err)
	}
}

func TestTarget(t *testing.T) {
	for in, pid := range map[string]int{"local/1": 1, "local/4711": 4711, "local/4194304": 4194304} {
		if have, err := ParseTarget(in); err != nil || have.PID != pid {
			t.Errorf("%s: %v, %v", in, have, err)
		}
	}
	for in, code := range map[string]fail.Code{
		"": fail.TargetSyntax, "local": fail.TargetSyntax, "local/": fail.TargetSyntax, "local/0": fail.TargetSyntax,
		"local/01": fail.TargetSyntax, "local/-1": fail.TargetSyntax, "local/+1": fail.TargetSyntax,
		"local/4194305": fail.TargetSyntax, "local/99999999999999999999": fail.TargetSyntax, "local/x": fail.TargetSyntax,
		"local/1/container/x": fail.TargetSyntax, "4711": fail.TargetSyntax, "locl/4711": fail.TargetSyntax,
		"none": fail.ConfigLater, "rollout/orders": fail.ConfigLater, "rollouts/orders": fail.ConfigLater,
		"pod": fail.TargetSyntax, "pod/": fail.TargetSyntax, "pod/Orders": fail.TargetSyntax, "pod/shop/orders": fail.TargetSyntax,
		"pod/-x": fail.TargetSyntax, "pod/x/container/": fail.TargetSyntax, "pod/x/container": fail.TargetSyntax,
		"pod/x/container/A": fail.TargetSyntax, "pod/x/container/a.b": fail.TargetSyntax, "pod/x/contaner/a": fail.TargetSyntax,
		"deploymnt/orders": fail.TargetSyntax, "label/": fail.TargetSyntax, "label/app": fail.TargetSyntax,
		"label/app=x,": fail.TargetSyntax, "label/app=x y": fail.TargetSyntax, "labels/app=x": fail.TargetSyntax,
		"pod/" + strings.Repeat("x", 254): fail.TargetSyntax,
	} {
		_, err := ParseTarget(in)
		refused(t, in, err, code, "target: ")
	}
	for in, want := range map[string]Target{
		"pod/orders-0":                      {Kind: "pod", Name: "orders-0"},
		"PO/orders.v2":                      {Kind: "pod", Name: "orders.v2"},
		"deployments/orders":                {Kind: "deployment", Name: "orders"},
		"deploy/orders/container/app":       {Kind: "deployment", Name: "orders", Container: "app"},
		"sts/x":                             {Kind: "statefulset", Name: "x"},
		"ds/x":                              {Kind: "daemonset", Name: "x"},
		"rs/x":                              {Kind: "replicaset", Name: "x"},
		"jobs/x":                            {Kind: "job", Name: "x"},
		"cj/x":                              {Kind: "cronjob", Name: "x"},
		"svc/x":                             {Kind: "service", Name: "x"},
		"label/app=x":                       {Kind: "label", Name: "app=x"},
		"label/a.io/name=x,t!=/container/c": {Kind: "label", Name: "a.io/name=x,t!=", Container: "c"},
	} {
		have, err := ParseTarget(in)
		if err != nil || have != want {
			t.Errorf("%s: %+v, %v", in, have, err)
		}
		if again, err := ParseTarget(have.String()); err != nil || again != have {
			t.Errorf("%s is written as %s, which reads as %+v, %v", in, have, again, err)
		}
	}
	_, err := Parse([]byte(`{"target":"rollout/orders"}`))
	refused(t, "through Parse", err, fail.ConfigLater, `target: "rollout/orders" does not exist in this version`)
}

func TestNearest(t *testing.T) {
	keys := []string{"ports", "map", "mode", "existing"}
	for in, want := range map[string]string{"prots": "ports", "PORTS": "ports", "port": "ports", "mod": "mode",
		"existng": "existing", "x": "", "": "", "something": "", "mpa": "map", strings.Repeat("m", 1000): ""} {
		if have := nearest(in, keys); have != want {
			t.Errorf("nearest(%q) = %q, want %q", in, have, want)
		}
	}
}

func TestParseEnvFile(t *testing.T) {
	have, err := ParseEnvFile([]byte("# c\n\nA=1\nexport B = two words \nC='$x \\n'\nD=\"a\\nb\\$\\q\" # c\nE=\nF=x#y #z\nG=#\r\nH==\n"))
	want := map[string]string{"A": "1", "B": "two words", "C": `$x \n`, "D": "a\nb$\\q", "E": "", "F": "x#y", "G": "", "H": "="}
	if err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("have %q, %v", have, err)
	}
	for _, bad := range []string{"A", "=x", "A='x", `A="x\"`, "A='x'y", "a b=c", "A=\x00"} {
		if _, err := ParseEnvFile([]byte(bad)); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}
