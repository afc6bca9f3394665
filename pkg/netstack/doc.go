// Package netstack is the far end of the TUN device in the debuggee's namespaces: it turns the packets that the
// kernel routes there into TCP flows and UDP associations, and asks two handlers what to do with each. It is the only
// package that imports gvisor. It must never hold policy, dial anything, or know of pods and agents.
//
// # How a connect is answered
//
// A SYN is held while Config.TCP runs: the debuggee's socket stays in SYN_SENT (EINPROGRESS, no event), exactly as if
// the network were slow. Then the handshake is completed, or the handler's errno is told in the way the kernel tells it
// of a real network. What the debuggee reads from connect(2) or SO_ERROR (Linux: icmp_err_convert in
// net/ipv4/icmp.c, icmpv6_err_convert in net/ipv6/icmp.c; each line is tested):
//
//	handler's errno    answer on the TUN                          TCP, IPv4      TCP, IPv6
//	ECONNREFUSED       RST                                        ECONNREFUSED   ECONNREFUSED
//	ECONNRESET         RST                                        ECONNREFUSED   ECONNREFUSED
//	EHOSTUNREACH       ICMP 3/1, ICMPv6 1/3                       EHOSTUNREACH   EHOSTUNREACH
//	ENETUNREACH        ICMP 3/0, ICMPv6 1/0                       ENETUNREACH    ENETUNREACH
//	EACCES, EPERM      ICMP 3/13, ICMPv6 1/1 (prohibited)         EHOSTUNREACH   EACCES
//	EHOSTDOWN          ICMP 3/7, ICMPv6 1/3                       EHOSTDOWN      EHOSTUNREACH
//	ENONET             ICMP 3/8, ICMPv6 1/3                       ENONET         EHOSTUNREACH
//	EPROTO             ICMP 12/0, ICMPv6 4/0 (bad parameter)      EPROTO         EPROTO
//	ETIMEDOUT          nothing; the SYN is forgotten              ETIMEDOUT      ETIMEDOUT (the kernel's own, ~130 s)
//	others             as EHOSTUNREACH
//
// IPv4 has no ICMP code that becomes EACCES, and no packet makes a connecting socket say ECONNRESET: there the protocol
// ends. A refusal can be a second late when it meets the debuggee's thread inside connect(2): the kernel then keeps it
// as a soft error, sends the SYN again, and is refused again.
//
// UDP is refused by ICMP alone. The kernel hands a plain connected socket only what it calls hard errors, so the IPv4
// codes differ from TCP's: ECONNREFUSED 3/3 and 1/4, ENETUNREACH 3/6, EHOSTUNREACH 3/10 (these two are soft, so unseen
// without IPV6_RECVERR, over IPv6), EACCES as above, ETIMEDOUT nothing. An unconnected socket hears of none, as ever.
//
// # What is not carried
//
// ICMP from the debuggee is dropped, echo too: an answer from here would say that a host lives when nobody knows.
// Multicast, broadcast, and transport protocols other than TCP and UDP are dropped. Every packet is checked for shape
// before gVisor sees it (packet.go), and the whole way in is fuzzed.
//
// # Memory
//
// A flow starts with small buffers (floorReceive, floorSend) and gets larger ones from a fixed bank once it has shown
// that it moves data; a thousand that stand still cost the floors only. window.go has the rules and the sums.
package netstack
