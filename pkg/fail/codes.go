package fail

// Code numbers a user-visible error. The hundreds say whose domain it is: 1 configuration, 2 target and agent,
// 3 front end and machine, 4 debugger and build, 5 session. DAP responses carry it as the message's id.
type Code int

// The numbers. They are documented and never reused: append only.
const (
	Internal Code = 100 // an error of ours that has no number

	ConfigSyntax     Code = 101 // not JSON or YAML
	ConfigUnknownKey Code = 102 // a key that does not exist
	ConfigValue      Code = 103 // a value out of range or of the wrong type
	ConfigLater      Code = 104 // a value that a later version will know

	TargetSyntax  Code = 201 // a target that cannot be read
	TargetMissing Code = 202 // no such process
	TargetForeign Code = 203 // not ours to enter
	AgentStart    Code = 210 // the agent did not start
	AgentRefused  Code = 211 // the agent refuses this session
	AgentLost     Code = 212 // the agent or the way to it has gone
	StealConflict Code = 213 // the port is somebody else's

	ClusterConfig      Code = 220 // no kubeconfig, or one that cannot be read
	ClusterContext     Code = 221 // a context that the kubeconfig does not have
	ClusterUnreachable Code = 222 // the API server does not answer, or its certificate is not trusted
	ClusterForbidden   Code = 223 // a right is missing
	ClusterCredentials Code = 224 // not logged in: a token that has expired, an exec plugin that failed
	ClusterProxy       Code = 225 // a proxy on the way refused
	ClusterFailed      Code = 226 // the API server failed at a request
	TargetUnknown      Code = 227 // no such object
	TargetNotReady     Code = 228 // it has no pod that is ready
	TargetContainer    Code = 229 // no such container
	TargetHostNetwork  Code = 230 // the pod has the node's network
	TargetSandboxed    Code = 231 // the pod has no process that its node could see

	NamespacesForbidden Code = 301 // the kernel or a policy forbids a step
	NoTun               Code = 302 // /dev/net/tun
	NoFuse              Code = 303 // /dev/fuse
	NotBuiltIn          Code = 304 // this stepin lacks a part that `./just build` puts in
	PreloadForbidden    Code = 305 // the library cannot serve this program, or not here

	DebuggerMissing Code = 401 // dlv not found
	DebuggerFailed  Code = 402 // dlv did not start or died
	BuildFailed     Code = 403 // the compiler's text follows
	ProgramMissing  Code = 404 // no such program

	SessionStopped Code = 501 // its owner has stopped it by stepin sessions stop
	SessionUnknown Code = 502 // no such session
)
