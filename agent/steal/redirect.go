package steal

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Values of the kernel's include/uapi/linux/netfilter/nf_tables.h, as far as x/sys/unix lacks them.
const (
	tableOwner = 2 // NFT_TABLE_F_OWNER (5.12): the table goes when the netlink socket closes

	nftaRedirProtoMin = 1
	nftaFibDreg       = 1
	nftaFibResult     = 2
	nftaFibFlags      = 3
	fibAddrType       = 3 // NFT_FIB_RESULT_ADDRTYPE
	fibDaddr          = 2 // NFTA_FIB_F_DADDR
	register          = unix.NFT_REG_1

	hookPrerouting = 0
	hookOutput     = 3
	priorityDstNat = -100 // NF_IP_PRI_NAT_DST

	ip4Daddr = 16 // offset in the IPv4 header
	ip6Daddr = 24 // offset in the IPv6 header
	portDest = 2  // offset in the TCP and UDP header
)

const tableName = "stepin"

var chains = []struct {
	name string
	hook uint32
}{{"prerouting", hookPrerouting}, {"output", hookOutput}}

// redirect is the steal where BPF is refused: rules in a table that the kernel removes when this process ends, because
// its netlink socket owns it. google/nftables cannot ask for that (it always sends flags of zero), so the messages are
// our own. The table stays when nothing is stolen, with a redirect that nothing reaches: with the last redirect of a
// network namespace the kernel ends its connection tracking, about 0.1 s later, and with it the translation of stolen
// connections that are still open (measured).
type redirect struct {
	nl   *netlink
	mark uint32 // of the agent's own connections
	made bool   // the table exists
}

// target is one rule's content: a port and the sockets that get it.
type target struct {
	port     Port
	loopback bool
	to       [2]uint16 // local ports of the IPv4 and IPv6 sockets; 0 for none
}

// newRedirect makes the table and, as a probe, a rule of each kind. It must be called in the pod's network namespace.
func newRedirect(mark uint32) (*redirect, error) {
	nl, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("steal: nftables: %w", err)
	}
	r := &redirect{nl: nl, mark: mark}
	probe := target{port: Port{"tcp", 1}, to: [2]uint16{1, 1}, loopback: true}
	if err := r.set([]target{probe}); err != nil {
		nl.close()
		return nil, fmt.Errorf("steal: nftables: %w", err)
	}
	if err := r.set(nil); err != nil {
		nl.close()
		return nil, fmt.Errorf("steal: nftables: %w", err)
	}
	return r, nil
}

func (r *redirect) close() { r.nl.close() } // and the kernel removes the table

// set replaces all rules in one transaction.
func (r *redirect) set(targets []target) error {
	b, _ := r.nl.message(nil, unix.NFNL_MSG_BATCH_BEGIN, 0, generic(unix.NFNL_SUBSYS_NFTABLES))
	var last uint32
	add := func(kind, flags uint16, attrs ...[]byte) {
		body := generic(0)
		for _, a := range attrs {
			body = append(body, a...)
		}
		b, last = r.nl.message(b, unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags|unix.NLM_F_ACK, body)
	}
	if !r.made {
		add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, text(unix.NFTA_TABLE_NAME, tableName), number(unix.NFTA_TABLE_FLAGS, tableOwner))
	}
	const priority = 1<<32 + priorityDstNat // negative, in 32 bits
	for _, c := range chains {
		table, chain := text(unix.NFTA_RULE_TABLE, tableName), text(unix.NFTA_RULE_CHAIN, c.name)
		if r.made {
			add(unix.NFT_MSG_DELRULE, 0, table, chain)
		} else {
			add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, text(unix.NFTA_CHAIN_TABLE, tableName), text(unix.NFTA_CHAIN_NAME, c.name),
				nest(nil, unix.NFTA_CHAIN_HOOK, number(unix.NFTA_HOOK_HOOKNUM, c.hook), number(unix.NFTA_HOOK_PRIORITY, priority)),
				text(unix.NFTA_CHAIN_TYPE, "nat"))
		}
		for _, rule := range r.rules(targets) {
			add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, table, chain, nest(nil, unix.NFTA_RULE_EXPRESSIONS, rule...))
		}
	}
	b, _ = r.nl.message(b, unix.NFNL_MSG_BATCH_END, 0, generic(unix.NFNL_SUBSYS_NFTABLES))
	if err := r.nl.send(b); err != nil {
		return err
	}
	if err := r.nl.acked(last); err != nil {
		return fmt.Errorf("sendto(NETLINK_NETFILTER): %w", err)
	}
	r.made = true
	return nil
}

// rules are the same for both hooks: the agent's own connections pass, then each port goes to its socket. The second
// rule is the redirect that nothing reaches.
func (r *redirect) rules(targets []target) (rules [][][]byte) {
	mark := binary.NativeEndian.AppendUint32(nil, r.mark)
	own := [][]byte{meta(unix.NFT_META_MARK), equal(mark)}
	rules = append(rules, append(slices.Clone(own), accept()), append(own, redir(1)...))
	for _, t := range targets {
		for i, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
			if t.to[i] != 0 {
				rules = append(rules, t.rule(family, t.to[i]))
			}
		}
	}
	return rules
}

// rule takes what is for an address of the pod itself: what merely leaves it for the same port elsewhere passes.
func (t target) rule(family byte, to uint16) [][]byte {
	port := binary.BigEndian.AppendUint16(nil, t.port.Number)
	rule := [][]byte{
		meta(unix.NFT_META_NFPROTO), equal([]byte{family}),
		expr("fib", number(nftaFibFlags, fibDaddr), number(nftaFibResult, fibAddrType), number(nftaFibDreg, register)),
		equal(binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)),
		meta(unix.NFT_META_L4PROTO), equal([]byte{t.port.protocol()}),
		payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, portDest, 2), equal(port),
	}
	if t.loopback && family == unix.NFPROTO_IPV4 {
		rule = append(rule, payload(unix.NFT_PAYLOAD_NETWORK_HEADER, ip4Daddr, 1), equal([]byte{127}))
	} else if t.loopback {
		loop := make([]byte, 16)
		loop[15] = 1
		rule = append(rule, payload(unix.NFT_PAYLOAD_NETWORK_HEADER, ip6Daddr, 16), equal(loop))
	}
	return append(rule, redir(to)...)
}

// redir sends to a local port.
func redir(to uint16) [][]byte {
	return [][]byte{
		expr("immediate", number(unix.NFTA_IMMEDIATE_DREG, register),
			nest(nil, unix.NFTA_IMMEDIATE_DATA, attr(nil, unix.NFTA_DATA_VALUE, binary.BigEndian.AppendUint16(nil, to)))),
		expr("redir", number(nftaRedirProtoMin, register)),
	}
}

// generic is struct nfgenmsg: family, version, resource.
func generic(resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0}, resource)
}

func expr(name string, attrs ...[]byte) []byte {
	return nest(nil, unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, name), nest(nil, unix.NFTA_EXPR_DATA, attrs...))
}

func meta(key uint32) []byte {
	return expr("meta", number(unix.NFTA_META_KEY, key), number(unix.NFTA_META_DREG, register))
}

func payload(base, offset, length uint32) []byte {
	return expr("payload", number(unix.NFTA_PAYLOAD_DREG, register), number(unix.NFTA_PAYLOAD_BASE, base),
		number(unix.NFTA_PAYLOAD_OFFSET, offset), number(unix.NFTA_PAYLOAD_LEN, length))
}

func equal(value []byte) []byte {
	return expr("cmp", number(unix.NFTA_CMP_SREG, register), number(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ),
		nest(nil, unix.NFTA_CMP_DATA, attr(nil, unix.NFTA_DATA_VALUE, value)))
}

func accept() []byte {
	return expr("immediate", number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		nest(nil, unix.NFTA_IMMEDIATE_DATA, nest(nil, unix.NFTA_DATA_VERDICT, number(unix.NFTA_VERDICT_CODE, 1 /* NF_ACCEPT */))))
}
