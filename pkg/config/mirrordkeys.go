package config

const (
	notNeeded = "not needed here"
	notHere   = "there is nothing like it here"
)

// mirrordKeys is what becomes of each key of mirrord's; an object that is not among them is opened.
func mirrordKeys() map[string]taken {
	mode, hosts := taken{into: (*migration).mode}, taken{into: (*migration).hosts}
	return map[string]taken{
		"target": {into: (*migration).target}, "kubeconfig": to("kubeconfig"), "kube_context": to("context"),
		"skip_processes": hosts, "skip_extra_build_tools": hosts,
		"feature.env": mode, "feature.env.include": {into: (*migration).include}, "feature.env.exclude": texts("env.exclude"),
		"feature.env.override": to("env.override"), "feature.env.unset": texts("env.unset"), "feature.env.env_file": to("env.file"),
		"feature.env.mapping":           {why: notHere + "; env.override sets single variables"},
		"feature.env.load_from_process": {why: notNeeded},
		"feature.fs":                    mode, "feature.fs.mode": mode,
		"feature.fs.read_only": paths("files.readOnly"), "feature.fs.local": paths("files.host"), "feature.fs.not_found": paths("files.hidden"),
		"feature.fs.read_write":           {why: "the pod's files are read-only in this version"},
		"feature.fs.mapping":              {why: "patterns are not read; files.map has pairs of paths"},
		"feature.fs.readonly_file_buffer": {why: notNeeded},
		"feature.network":                 mode, "feature.network.incoming": mode, "feature.network.incoming.mode": mode,
		"feature.network.incoming.ports": to("incoming.ports"), "feature.network.incoming.port_mapping": {into: (*migration).portMapping},
		"feature.network.incoming.http_filter":         {why: "filters do not exist in this version: all requests to the port reach the program"},
		"feature.network.incoming.ignore_ports":        {why: "name the ports that take part in incoming.ports"},
		"feature.network.incoming.listen_ports":        {why: notNeeded + ": the program's ports are its own"},
		"feature.network.incoming.ignore_localhost":    {why: "a program that listens on 127.0.0.1 gets the pod's own loopback callers only"},
		"feature.network.incoming.on_concurrent_steal": {why: "a port has one session at a time; the second is told who has it"},
		"feature.network.incoming.tls_delivery":        {why: notHere}, "feature.network.incoming.https_delivery": {why: notHere},
		"feature.network.outgoing": mode, "feature.network.outgoing.tcp": to("outgoing.tcp"), "feature.network.outgoing.udp": to("outgoing.udp"),
		"feature.network.outgoing.ignore_localhost": when("outgoing.loopback", "host"), "feature.network.outgoing.filter": {into: (*migration).filter},
		"feature.network.outgoing.unix_streams": {why: "unix sockets are this machine's in this version"},
		"feature.network.dns":                   mode, "feature.network.dns.enabled": to("dns"),
		"feature.network.dns.filter": {why: "names under outgoing.host are resolved on this machine"},
		"feature.network.ipv6":       {why: notNeeded}, "feature.hostname": to("hostname"), "feature.magic": {why: notNeeded},
		"feature.copy_target": {why: notHere}, "feature.split_queues": {why: notHere}, "feature.db_branches": {why: notHere}, "feature.preview": {why: notHere},
		"agent.namespace": to("agent.namespace"), "agent.ephemeral": when("agent.mode", "ephemeral"), "agent.labels": to("agent.labels"),
		"agent.annotations": to("agent.annotations"), "agent.tolerations": to("agent.tolerations"), "agent.resources": to("agent.resources"),
		"agent.service_account": to("agent.serviceAccount"), "agent.image_pull_secrets": {into: (*migration).pullSecrets},
		"agent.image":                 {why: "the agent is another: leave it out, or make an image by stepin agent image push"},
		"agent.ttl":                   {why: "agent.ttl is how long the agent waits for the next session, 5m by default"},
		"agent":                       {into: (*migration).agent},
		"accept_invalid_certificates": {why: "the kubeconfig says that (insecure-skip-tls-verify)"}, "use_proxy": {why: "unset HTTPS_PROXY, or see proxy-url in the kubeconfig"},
		"telemetry": {why: "there is none"}, "operator": {why: notHere}, "profile": {why: notHere}, "multi_cluster": {why: notHere}, "key": {why: notHere},
		"ci": {why: notHere}, "traceparent": {why: notHere}, "baggage": {why: notHere}, "api": {why: notNeeded}, "startup_retry": {why: notNeeded},
		"internal_proxy": {why: notNeeded}, "external_proxy": {why: notNeeded}, "container": {why: notHere}, "experimental": {why: notNeeded},
		"sip_binaries": {why: notNeeded}, "skip_sip": {why: notNeeded}, "skip_build_tools": {why: "compilers and package managers are always this machine's"},
	}
}
