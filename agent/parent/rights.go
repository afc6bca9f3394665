package parent

// What an agent outside of the pod (a Job on the target's node, as uid 0, with hostPID) needs of capabilities(7), and for
// what. TestCapabilities in agent/cmd/stepin-agent takes each away and sees what fails, and so does the one in pkg/e2e with
// the Job on a real node; pkg/kube has the list that it asks for.
//
//	SYS_PTRACE    /proc/PID/{root,environ,mountinfo,exe,ns/*} of another user's process (ptrace(2), PTRACE_MODE_READ);
//	              /proc/1/ns/net, to know the node's own network
//	SYS_ADMIN     setns(2) to the pod's network and UTS namespace; CLONE_NEWPID for the child
//	DAC_OVERRIDE  /proc/PID/environ, which is its owner's alone; and, where the target has it itself, the files that it
//	              reads by it (the child keeps it then)
//	SYS_CHROOT    the child's empty root directory: without it a child that was taken over would see the node's /proc
//	SETUID        the child takes the target's user
//	SETGID        the child takes the target's group and supplementary groups (a Secret's fsGroup)
//	KILL          ending a child, which is of another user, that hangs
//	NET_ADMIN     ending connections already open (SOCK_DESTROY); nftables, where the kernel has no sk_lookup
//	NET_RAW       mirroring; answering stolen datagrams from the address that they were sent to
//
// BPF is not among them: SYS_ADMIN includes what maps, program and link of sk_lookup need.
//
// An ephemeral container shares network, UTS and process namespace with the target. Without any capability it gets
// variables and files of a target of its own user, names and outgoing connections; of a target of another user with
// SETUID and SETGID; it mirrors with NET_RAW, and steals with NET_ADMIN and BPF, UDP with NET_RAW as well.
