// Package config reads what a user writes: launch.json's arguments and stepin.yaml, which have the same keys. One Go
// struct, Launch, is the source of the reader's checks, of the JSON schema and of docs/configuration.md. Whatever it
// returns has been checked; nobody downstream needs to do it again.
//
// It must never do anything with a value (no path is opened, no name resolved) and reads nothing from the machine
// but stepin.yaml. Unknown keys are errors, never ignored.
package config

import "encoding/json"

// Launch is one launch configuration. The descriptions in the tags are the documentation: they must be in the
// binary, because `stepin config schema` and the editors' help have no source at hand, so they stand there and not in
// comments. A key or a value of the design that does not exist yet is in later.go instead, and not in the schema.
type Launch struct {
	Target       string   `json:"target" jsonschema:"pattern=^(local/[1-9][0-9]*|[a-zA-Z]+/[^/].*)$,example=deployment/orders" jsonschema_description:"What the program takes the place of: pod/NAME, deployment/NAME, statefulset/NAME, daemonset/NAME, replicaset/NAME, job/NAME, cronjob/NAME (the job that runs now), service/NAME (the pods behind it) or label/app=orders; all its ready pods. /container/NAME may follow; else it is the pod's default container, or its first that is no service mesh's. local/PID is any process on this machine, in its namespaces."`
	Namespace    string   `json:"namespace,omitempty" jsonschema:"example=shop" jsonschema_description:"The namespace of the target. Empty: that of the context, else default."`
	Context      string   `json:"context,omitempty" jsonschema:"example=dev" jsonschema_description:"The kubeconfig's context to use. Empty: its current one."`
	Kubeconfig   string   `json:"kubeconfig,omitempty" jsonschema_description:"The kubeconfig to read, absolute or from ~/ on. Empty: what KUBECONFIG lists, else ~/.kube/config."`
	Debugger     Debugger `json:"debugger,omitzero" jsonschema_description:"The debugger to use, and its own keys as it knows them."`
	Incoming     Incoming `json:"incoming,omitzero" jsonschema_description:"What happens to the requests that the pod gets."`
	Outgoing     Outgoing `json:"outgoing,omitzero" jsonschema_description:"Which of the program's connections leave from the pod and which from this machine."`
	DNS          bool     `json:"dns" jsonschema:"default=true" jsonschema_description:"Names are resolved by the pod's resolver. false: by this machine's."`
	Env          Env      `json:"env,omitzero" jsonschema_description:"Which of the pod's variables the program gets. In patterns * stands for any characters."`
	Files        Files    `json:"files,omitzero" jsonschema_description:"Which files the program sees from the pod. Rules are path prefixes, the longest wins."`
	Hostname     bool     `json:"hostname" jsonschema:"default=true" jsonschema_description:"The program sees the pod's host name."`
	FrontEnd     string   `json:"frontEnd,omitempty" jsonschema:"enum=auto,enum=preload,enum=namespaces,default=auto" jsonschema_description:"How the program is made to see the pod. namespaces gives it user, mount, UTS and network namespaces of its own, and serves every program. preload loads a library into it, which needs nothing of this machine and serves programs that go through libc: Python, Node, Java, Ruby, C, C++, Rust; not Go, nor what is statically linked. auto: namespaces where this machine allows them, else preload."`
	HostPrograms []string `json:"hostPrograms,omitempty" jsonschema_description:"Programs that keep this machine's network and names although the program starts them: file names or absolute paths. Debuggers, compilers and package managers are known already."`
	OnLost       string   `json:"onLost,omitempty" jsonschema:"enum=fail,enum=host,default=fail" jsonschema_description:"What new connections and look-ups do when the pod cannot be reached any more: fail, or go from this machine."`
	Agent        Agent    `json:"agent,omitzero" jsonschema_description:"Our process on the pod's side."`

	// Editor holds the keys of launch.json's arguments that are not ours, untouched: noDebug, console, __restart …
	Editor map[string]json.RawMessage `json:"-"`

	written *node                    // what was written, before the defaults
	origin  func(path string) string // where a value was written; nil where it is launch arguments
}

// Wrote says whether a key was written: a wish of the user's weighs more than a default.
func (l *Launch) Wrote(path ...string) bool {
	n := l.written
	for _, key := range path {
		n = n.get(key)
	}
	return n != nil && n.kind != null
}

// Debugger names the real debugger. Keys holds every other key of the object untouched, null values included: they
// belong to the real debugger, and a typed map would lose what only it understands.
type Debugger struct {
	Type string                     // "go", or "" when no debugger was written (stepin exec)
	Keys map[string]json.RawMessage // the real debugger's own keys, without "type"
}

// Port is a TCP or UDP port, 1 to 65535.
type Port uint16

// Incoming says what happens to requests to the pod.
type Incoming struct {
	Mode        string        `json:"mode,omitempty" jsonschema:"enum=mirror,enum=steal,enum=off,default=mirror" jsonschema_description:"mirror: the pod answers as always, and the program gets a copy of what its clients send; what it answers is dropped, but its own calls happen. TCP only. steal: the program answers in the pod's place. off: the pod answers, the program gets nothing."`
	Ports       []Port        `json:"ports,omitempty" jsonschema_description:"The ports of the program that take part. Empty: every port it listens on."`
	Map         map[Port]Port `json:"map,omitempty" jsonschema_description:"From a port the program listens on to the port of the pod, where they differ."`
	Existing    string        `json:"existing,omitempty" jsonschema:"enum=close,enum=keep,default=close" jsonschema_description:"Connections that are open already when the program starts to listen. close: they are ended, so that clients connect anew and reach the program. keep: they stay with the pod."`
	Probes      string        `json:"probes,omitempty" jsonschema:"enum=pod,default=pod" jsonschema_description:"Who answers the pod's health probes."`
	WhilePaused string        `json:"whilePaused,omitempty" jsonschema:"enum=hold,default=hold" jsonschema_description:"What requests do while the program stands at a breakpoint. hold: they wait."`
	Log         bool          `json:"log" jsonschema:"default=true" jsonschema_description:"Each request of HTTP/1 or h2c that the program has answered is one line in the debug console: method, path, status, time, from where; of another protocol each connection, with its bytes; at most 20 lines a second. false: none. For stepin exec only where it is written (or --requests): its standard error is the program's, too."`
}

// Outgoing says where the program's own connections leave from.
type Outgoing struct {
	TCP      bool     `json:"tcp" jsonschema:"default=true" jsonschema_description:"TCP connections leave from the pod. false: all from this machine."`
	UDP      bool     `json:"udp" jsonschema:"default=true" jsonschema_description:"UDP leaves from the pod. false: all from this machine."`
	Loopback string   `json:"loopback,omitempty" jsonschema:"enum=auto,enum=host,enum=pod,default=auto" jsonschema_description:"Where 127.0.0.1 and ::1 lead for ports that the program does not listen on itself. auto: this machine's, and where that refuses, the pod's."`
	Pod      []string `json:"pod,omitempty" jsonschema_description:"Exceptions to host that leave from the pod all the same."`
	Host     []string `json:"host,omitempty" jsonschema_description:"What leaves from this machine: a name, *.suffix, an address, a CIDR or *, each with :port behind and tcp:// or udp:// before it if need be. The most exact rule wins."`
}

// Env says which variables the program gets.
type Env struct {
	Include  []string          `json:"include,omitempty" jsonschema_description:"Variables of the pod to take although they would be left out: those that belong to this machine (PATH, HOME) and those that make a loader or interpreter run code (LD_PRELOAD). A bare * does not bring those."`
	Exclude  []string          `json:"exclude,omitempty" jsonschema_description:"Variables of the pod to leave out."`
	Override map[string]string `json:"override,omitempty" jsonschema_description:"Variables to set, whatever the pod has."`
	Unset    []string          `json:"unset,omitempty" jsonschema_description:"Variables to remove, the pod's and this machine's."`
	File     string            `json:"file,omitempty" jsonschema_description:"A file of NAME=value lines that go over the pod's variables. In stepin.yaml it is relative to that file."`
}

// Files says which files the program sees from the pod. Every path is absolute and clean.
type Files struct {
	Mode     string            `json:"mode,omitempty" jsonschema:"enum=volumes,enum=off,default=volumes" jsonschema_description:"volumes: what is mounted into the pod, its resolv.conf, hosts, hostname and TLS trust store, and every top-level directory that this machine does not have; but nothing where this machine's programs and libraries are, such as /usr/local/bin or /lib64, unless files.pod names it. off: only what the rules name. resolv.conf and hosts follow dns, hostname follows hostname."`
	Pod      []string          `json:"pod,omitempty" jsonschema_description:"Paths that come from the pod."`
	ReadOnly []string          `json:"readOnly,omitempty" jsonschema_description:"Paths that come from the pod and are read-only in every mode."`
	Host     []string          `json:"host,omitempty" jsonschema_description:"Paths that stay on this machine."`
	Hidden   []string          `json:"hidden,omitempty" jsonschema_description:"Paths that the program finds empty."`
	Map      map[string]string `json:"map,omitempty" jsonschema_description:"From a path as the program opens it to the path in the pod that it gets."`
}

// Agent configures our process on the pod's side. For local/PID only TTL and HostNetwork mean anything: that agent is a
// process here.
type Agent struct {
	Mode             string            `json:"mode,omitempty" jsonschema:"enum=auto,enum=pod,enum=ephemeral,default=auto" jsonschema_description:"How the agent reaches the pod. pod: a Job on its node, which can do everything. ephemeral: a container in the pod itself, which can do what the namespace admits. auto: the first of these that the cluster admits."`
	Image            string            `json:"image,omitempty" jsonschema_description:"An image that holds the agent (stepin agent image push). Empty: none is needed, the agent travels through the API server and runs in the pod's own image."`
	Namespace        string            `json:"namespace,omitempty" jsonschema_description:"Where the agent's Job goes. Empty: the pod's namespace."`
	TTL              Duration          `json:"ttl,omitzero" jsonschema:"type=string,example=5m" jsonschema_description:"How long the agent stays when its last session has ended, so that the next start is faster. Default: 5m in a cluster; for local/PID it goes at once."`
	HostNetwork      bool              `json:"hostNetwork,omitempty" jsonschema_description:"For local/PID: a process in this machine's own network is meant, whose ports and addresses are this machine's. Without it such a process is refused, and so is a pod of a cluster with hostNetwork in any case."`
	Labels           map[string]string `json:"labels,omitempty" jsonschema_description:"Labels for the agent's Job and pod, as a policy of the cluster may want them."`
	Annotations      map[string]string `json:"annotations,omitempty" jsonschema_description:"Annotations likewise."`
	Tolerations      []Toleration      `json:"tolerations,omitempty" jsonschema_description:"What the agent's pod tolerates, each with key, operator, value and effect as in a pod's spec. Empty: every taint, since it must go to the pod's node."`
	Resources        Resources         `json:"resources,omitzero" jsonschema_description:"Requests and limits of the agent's container, over its own: requests of 10m cpu and 32Mi memory, limits of 1 cpu and 256Mi memory."`
	ServiceAccount   string            `json:"serviceAccount,omitempty" jsonschema_description:"The service account of the agent's pod, where a policy goes by it. Its token is never mounted."`
	ImagePullSecrets []string          `json:"imagePullSecrets,omitempty" jsonschema_description:"Secrets to pull the image with, beside the pod's own."`
}

// Toleration is one of a pod's tolerations, as Kubernetes has them.
type Toleration struct {
	Key      string `json:"key,omitempty" jsonschema_description:"The taint's key. Empty, with Exists: every taint."`
	Operator string `json:"operator,omitempty" jsonschema:"enum=Exists,enum=Equal,default=Equal" jsonschema_description:"Exists: whatever the value."`
	Value    string `json:"value,omitempty" jsonschema_description:"The taint's value."`
	Effect   string `json:"effect,omitempty" jsonschema:"enum=NoSchedule,enum=PreferNoSchedule,enum=NoExecute" jsonschema_description:"The taint's effect. Empty: all."`
}

// Resources are a container's requests and limits, as Kubernetes writes quantities: "100m", "64Mi".
type Resources struct {
	Requests map[string]string `json:"requests,omitempty" jsonschema_description:"What is set aside on the node: cpu, memory and others."`
	Limits   map[string]string `json:"limits,omitempty" jsonschema_description:"What it may use at most."`
}

// Default returns the configuration of somebody who wrote nothing. It has no target.
func Default() *Launch {
	return &Launch{
		DNS: true, Hostname: true, FrontEnd: "auto", OnLost: "fail",
		Incoming: Incoming{Mode: "mirror", Existing: "close", Probes: "pod", WhilePaused: "hold", Log: true},
		Outgoing: Outgoing{TCP: true, UDP: true, Loopback: "auto"},
		Files:    Files{Mode: "volumes"},
		Agent:    Agent{Mode: "auto"},
	}
}
