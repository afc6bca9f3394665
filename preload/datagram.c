// The names of datagrams. Each destination in the pod has a relay of the session's on loopback; what comes from a relay
// comes from him it stands for.
#include "datagram.h"

#include "remember.h"

int sp_outgoing(int fd, const struct sockaddr *to, socklen_t size, union sp_name *name, socklen_t *length)
{
	struct sp_datagram d = {0};
	struct sp_connect_answer answer;
	struct sp_memo memo;
	struct sp_socket s;
	int n;
	*length = 0;
	if (!sp_name_of(to, size, &d.to) || !(d.inode = sp_inode(fd)))
		return 0;
	memo = sp_recall(SP_SENDS, d.inode, &d.to);
	if (memo.known) {
		if (memo.address.family)
			*length = sp_name_for(&memo.address, to->sa_family, name);
		return 0;
	}
	s = sp_socket_of(fd);
	if (s.network != SP_UDP || (s.family == AF_INET && d.to.family != AF_INET))
		return 0;
	d.flags = s.v6only ? SP_CONNECT_V6ONLY : 0;
	d.local = sp_local(fd);
	n = SP_ASK(SP_DATAGRAM, d, answer);
	if (n == SP_GONE)
		return sp_goes_on() ? 0 : -SP_UNREACHABLE;
	if (n < 0)
		return n;
	// A relay is reached by the socket's own family, whatever that of the destination.
	if (answer.to.family && !(*length = sp_name_for(&answer.to, s.family, name)))
		return -EAFNOSUPPORT;
	if (!answer.to.family || answer.to.family == to->sa_family)
		sp_remember(SP_SENDS, d.inode, &d.to, &answer.to, answer.ttl);
	return 0;
}

void sp_incoming(int fd, struct sockaddr *from, socklen_t *length, socklen_t size, socklen_t room)
{
	struct sp_address peer, local;
	struct sp_who_answer who;
	union sp_name name;
	struct sp_socket s;
	struct sp_memo memo;
	uint64_t inode;
	socklen_t n;
	if (!size || size > room || !sp_name_of(from, size, &peer) || !sp_loopback(&peer) || !(inode = sp_inode(fd)))
		return;
	memo = sp_recall(SP_COMES, inode, &peer);
	if (!memo.known) {
		struct sp_who question = {.network = SP_UDP, .peer = peer};
		s = sp_socket_of(fd);
		if (s.network != SP_UDP)
			return;
		question.local = local = sp_local(fd);
		if (SP_ASK(SP_WHO, question, who) < 0)
			return;
		memo.address = who.peer;
		sp_remember(SP_COMES, inode, &peer, &who.peer, who.ttl);
	}
	n = memo.address.family ? sp_name_for(&memo.address, from->sa_family, &name) : 0;
	if (n)
		sp_write_name(from, length, room, &name, n);
}
