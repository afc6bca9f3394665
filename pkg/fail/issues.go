package fail

// Issue is what docs/known-issues.md says about one number; the page is written from these by this package's test.
type Issue struct {
	Code  Code
	Title string
	See   []string // what a person reads, with … for what differs; pkg/house looks for each in the source
	Why   string
	Do    string
}

// Issues returns one entry for each number, in their order.
func Issues() []Issue {
	return append(append(configurationIssues(), targetIssues()...), append(clusterIssues(), machineIssues()...)...)
}

func configurationIssues() []Issue {
	return []Issue{
		{Internal, "an error without a number", []string{"the working directory is gone", "stopped before the command began"},
			"Something that no other number covers. Where it is not your own doing (Ctrl-C, a folder that was removed), it is a mistake of stepin's.",
			"start again; if it comes back, run with `STEPIN_LOG=debug` and report what is printed."},
		{ConfigSyntax, "a configuration that cannot be read",
			[]string{"this is not JSON: …", "the launch configuration is not JSON: line …, column …: …", "a second document begins here", "… belongs to uid …, not to you (uid …), and could run programs in your name"},
			"`launch.json` is JSON with comments, `stepin.yaml` is YAML 1.1; the place is named. A `stepin.yaml` of somebody else's is refused, and not skipped, since it can name programs to run.",
			"`stepin config check` names every mistake at once."},
		{ConfigUnknownKey, "a key that does not exist", []string{`unknown key; did you mean "…"?`, `unknown key; it belongs at the top, beside "…"`},
			"A key that is ignored in silence would leave you with a session other than you think, so each unknown key is an error. The debugger's own keys (`program`, `args`, `env` …) belong into `debugger`.",
			"take the suggestion, or look the key up in [configuration.md](configuration.md)."},
		{ConfigValue, "a value that cannot be", []string{"must be …, not …", `"…" is not known`, "it is missing: stepin does not know which pod's place to take", `port … is not among incoming.ports`},
			"A value of the wrong type or out of range, two values that contradict each other, or a flag that the command does not have.",
			"the hint names what is possible; `stepin config show` shows what is in force and where it was written."},
		{ConfigLater, "not in this version", []string{`"…" does not exist in this version`, "the key does not exist in this version", "attach does not exist yet"},
			"It is planned, and does not exist yet. It is refused because ignoring it would be worse.",
			"the hint says what to do meanwhile."},
	}
}

func targetIssues() []Issue {
	return []Issue{
		{TargetSyntax, "a target that cannot be read", []string{`target: "…" is no target`, `target: "…" does not name a process`, `target: "…" is no label and its value`},
			"A target is `KIND/NAME`, `label/KEY=VALUE` or `local/PID`; `/container/NAME` may follow. The namespace has a key of its own.",
			"`stepin targets -n NAMESPACE` lists what can be written."},
		{TargetMissing, "no such process", []string{"target: there is no process …"},
			"`local/PID` names a process of this machine that does not run (any more).", "take a number from `ps -e`."},
		{TargetForeign, "a process that is no pod, or not yours", []string{"target: process … shares this machine's own network, so it is no pod", "target: process … is not yours to enter"},
			"`local/PID` takes a process in namespaces of its own: one in a container, or the one that `stepin demo` makes. Other users' processes only root may enter.",
			"take another process, or for this machine's own ports write `\"agent\": {\"hostNetwork\": true}`."},
		{AgentStart, "the agent does not start",
			[]string{"the agent did not start: …", "the agent did not start in time: …", "the agent's Job is refused: …", "the agent for pod … is not there", "the agent did not answer within …",
				"the agent cannot be brought into the image of container …", "there is no place for the agent's token", "this session has added … agents to pod …"},
			"The cluster took the agent's pod, but it did not get going: a quota, a policy, an image that cannot be pulled, a full node, an image without `sh`; or this machine has no private directory for its token. The sentence quotes what the cluster says.",
			"`stepin doctor -t TARGET` says which ways are open and what each lacks; `\"agent\": {\"mode\": …}` and `\"agent\": {\"image\": …}` choose others. [cluster.md](cluster.md) has the whole of it."},
		{AgentRefused, "the agent refuses this session", []string{"the agent refuses this session: …", "the pod has an agent already, which …", "requests cannot be mirrored here: the agent lacks the capability NET_RAW", "the pod's agent lacks the right to … requests", "the agent that runs for this pod gave no token"},
			"A pod has one agent, which all share. It may be of another version of stepin, be for another container, or lack what the configuration asks for.",
			"wait until it is gone (5 minutes after its last session) or ask who is named; people who share pods should have the same stepin."},
		{AgentLost, "the agent has gone", []string{"the agent was lost while the session started", "the agent of pod … was lost before it had stopped the session", "asking the agent about the pod"},
			"The connection ended before the session had begun: the pod went, a node was drained, somebody deleted the Job.",
			"start again. A session that runs already reconnects by itself."},
		{StealConflict, "the port is somebody else's", []string{"port … is held by … since …"},
			"Somebody else steals that port of that pod, and only one can answer a request. It is a line in the console: your program runs on, and gets the port when the other session ends.",
			"ask them, take another port by `incoming.ports`, or write `\"incoming\": {\"mode\": \"mirror\"}`: any number may mirror. `stepin sessions list` shows everybody."},
	}
}

func clusterIssues() []Issue {
	return []Issue{
		{ClusterConfig, "no kubeconfig that can be used", []string{"there is no kubeconfig: … names no cluster", "the kubeconfig's current context \"…\" does not exist", "the kubeconfig … cannot be found"},
			"stepin reads the same files as kubectl: `kubeconfig`, else what `KUBECONFIG` lists, else `~/.kube/config`. An editor that was started from the desktop may not have the terminal's `KUBECONFIG`.",
			"write `\"kubeconfig\": \"/path/to/it\"`; `kubectl config view` shows what is there."},
		{ClusterContext, "no such context", []string{`the kubeconfig has no context "…"`, "the kubeconfig has no current context"},
			"`context` is misspelled, or nothing is chosen.", "take one that the hint offers."},
		{ClusterUnreachable, "no answer from the cluster", []string{"the cluster … does not answer", "the cluster … cannot be reached: …", "the cluster … cannot be reached: its name cannot be resolved", "the certificate of the cluster … is not trusted: …"},
			"The API server cannot be reached from here: no VPN, a cluster that is switched off, a firewall, an address of a kind cluster that was made anew.",
			"`kubectl get pods` has to work first; for a kind cluster `kind export kubeconfig` writes the address anew."},
		{ClusterForbidden, "a right is missing", []string{"… is forbidden: the right to … is missing", "requests cannot be … here: the cluster admits no more than …", "the pod's agent is somebody else's, and to join it the right to create pods/exec is missing"},
			"Your account may not do what the session needs, or PodSecurity forbids what the configuration asks for.",
			"`stepin doctor -t TARGET` prints the Role to ask for; with fewer rights much works still: see [cluster.md](cluster.md#rights)."},
		{ClusterCredentials, "not logged in", []string{"the cluster … no longer accepts the credentials of context \"…\": they have expired or are wrong", "no credentials for context \"…\": …",
			"the kubeconfig's exec plugin \"…\" failed: …", "the kubeconfig's exec plugin \"…\" is not installed", "the kubeconfig's exec plugin \"…\" wants to ask something, and there is no terminal"},
			"A token has expired, or the program that fetches one (`aws`, `gcloud`, `kubelogin` …) failed or is not on the login shell's PATH.",
			"log in as for kubectl, in a terminal: `kubectl get pods`. Then start again."},
		{ClusterProxy, "a proxy on the way", []string{"the proxy… on the way to the cluster wants a login (407)", "the proxy… on the way to the cluster failed: …", "the proxy… on the way to the cluster refuses to lead there: …"},
			"`proxy-url` of the kubeconfig, else `HTTPS_PROXY`, leads through a proxy that does not let this through.", "mend the address, or name the cluster in `NO_PROXY`."},
		{ClusterFailed, "the cluster failed", []string{"… failed: the API server is overloaded: …"},
			"The API server answered, with an error of its own.", "try again in a minute; `kubectl get pods` shows whether it is well."},
		{TargetUnknown, "no such object", []string{"there is no … … in namespace …", "there is no … …: namespace … has no … at all", "there is no namespace …", "service … in namespace … has no selector, so no pods can be told from it"},
			"The name is wrong, or it is in another namespace or cluster than you think: both are in the sentence.", "`stepin targets -A` lists all; `namespace` and `context` choose."},
		{TargetNotReady, "no pod is ready", []string{"… has no pod that is ready: pod …: …", "pod … is not ready: …", "… in namespace … has no pod", "no pod in namespace … has the labels … (…)", "cronjob … has no job running now"},
			"A pod that starts, crashes or goes has no environment or files to show. The reason is in the sentence.",
			"mend or wait for the pod: `kubectl describe pod`. If your own change has broken it, take the place of a pod of the version before."},
		{TargetContainer, "no such container", []string{"pod … has no container \"…\""},
			"`/container/NAME` names none of the pod's containers.", "the hint lists them."},
		{TargetHostNetwork, "a pod in the node's network", []string{"pod … has the node's own network (hostNetwork): taking its place would take the whole node's traffic"},
			"All ports of the node are that pod's ports.", "debug another workload."},
		{TargetSandboxed, "a sandboxed pod", []string{"pod … runs in a sandbox (runtimeClassName: …): its processes cannot be reached from the node"},
			"Under gVisor or Kata the node has no process of the pod's that could be entered.", "run one replica without the runtime class."},
	}
}

func machineIssues() []Issue {
	return []Issue{
		{NamespacesForbidden, "this machine forbids namespaces", []string{"this machine does not let stepin make namespaces (…)", "this machine does not let stepin do it (…)", "the debuggee's namespaces are gone"},
			"The front end `namespaces` needs unprivileged user namespaces. Default containers forbid them until they get [three `runArgs`](remote.md#dev-containers), and so does Ubuntu since 23.10 (AppArmor) until it has a profile for stepin.",
			"`stepin doctor` names the call that is refused and the line that mends it. Programs that go through libc (Python, Node, Java, C …) do without: `\"frontEnd\": \"auto\"` takes [preload](preload.md) there."},
		{NoTun, "no /dev/net/tun", []string{"there is no TUN device to be had"},
			"The pod's network is shown to the program by a TUN device.", "`sudo modprobe tun`; in a container [`--device=/dev/net/tun`](remote.md#dev-containers)."},
		{NoFuse, "no /dev/fuse", []string{"there is no FUSE device to be had", "FUSE cannot be mounted"},
			"The pod's files are shown by FUSE.", "`sudo modprobe fuse`; in a container [`--device=/dev/fuse`](remote.md#dev-containers)."},
		{NotBuiltIn, "a stepin without its parts", []string{"this stepin was built without its …"},
			"`go build` and `go install` make a stepin without the agent, the stub and the library.", "`./just build` makes a whole one."},
		{PreloadForbidden, "the library cannot serve this program", []string{"… cannot be run with frontEnd preload: …", "… does not load stepin's library, and … on this machine instead of in the pod's place", "no library can be loaded from …: its file system is mounted noexec"},
			"Go programs, static ones and those that gain rights (setuid) load no library, so under `preload` they would run on this machine in silence.",
			"write `\"frontEnd\": \"namespaces\"`, where this machine allows them; [preload.md](preload.md) has the table."},
		{DebuggerMissing, "the real debugger is not there", []string{"dlv, the Go debugger, is neither on PATH nor in …", "the interpreter … has no debugpy", "there is no node on PATH", "js-debug, the debugger of Node programs, is not installed", "the virtual environment … is broken: …"},
			"stepin drives Delve, debugpy or js-debug and brings none of them; the VS Code extension brings js-debug, and takes debugpy from the Python Debugger extension.",
			"Go: `go install github.com/go-delve/delve/cmd/dlv@latest`. Python: `pip install debugpy`. The hint names the interpreter that is meant."},
		{DebuggerFailed, "the real debugger failed", []string{"… does not start", "… did not connect within …", "… did not listen within …", "… has ended", "the editor did not open a terminal: …"},
			"The debugger did not start, died, or was killed (out of memory?). Its own words are in the Debug Console.",
			"start again; see whether it runs by itself (`dlv version`, `python -m debugpy --version`), and `stepin doctor`."},
		{BuildFailed, "the program does not build", []string{"the program does not build", "the go command is not on PATH"},
			"stepin builds Go programs itself; the compiler's text is in the Debug Console. At a restart the old run stays.",
			"mend the program; or put Go on the editor's PATH."},
		{ProgramMissing, "no such program", []string{"program …: no such file", "…: no such program in the pod's place", "… is not on PATH", "… is not a program"},
			"`program` does not exist, or is no executable of this machine. Relative paths start at the folder that the hint names.", "write `${workspaceFolder}/…`."},
		{SessionStopped, "stopped by its owner", []string{"this session was stopped by its owner, with stepin sessions stop"},
			"You, or somebody with your token, have stopped it from elsewhere. The pod serves itself again.", "start again."},
		{SessionUnknown, "no such session", []string{`there is no session "…"`, "there is no session yet, or no more", "both session … and session … begin with \"…\""},
			"It has ended meanwhile, or is on a pod that was not asked about.", "`stepin sessions list` shows those that run, and takes the first letters of an id."},
	}
}
