// bind and listen: on the host, at the port asked for or at another one; the session says where.
#include "sockets.h"

static bool has_port(const struct sp_address *a) { return a->port != 0; }

// everywhere: the addresses that every host has, so that a bind to any port there needs no question.
static bool everywhere(const struct sp_address *a)
{
	for (int i = 0; i < 16; i++)
		if (a->ip[i])
			return sp_loopback(a);
	return true;
}

// bound tells the session what came of it.
static void bound(const struct sp_bind *bind, int fd)
{
	struct sp_bound b = {.network = bind->network, .flags = bind->flags, .inode = bind->inode, .asked = bind->asked};
	struct sp_head answer;
	b.got = sp_local(fd);
	SP_ASK(SP_BOUND, b, answer);
}

SP_WRAP(int, bind, (int fd, const struct sockaddr *at, socklen_t length))
{
	struct sp_bind b = {0};
	struct sp_bind_answer answer;
	struct sp_socket s;
	int result, asked, on = 0, saved = errno;
	socklen_t size = sizeof on;

	if (!sp_serves(SP_SERVE_TCP | SP_SERVE_UDP) || !sp_name_of(at, length, &b.asked))
		return SP_NEXT(bind)(fd, at, length);
	s = sp_socket_of(fd);
	if (!s.network || (!has_port(&b.asked) && everywhere(&b.asked)))
		return SP_NEXT(bind)(fd, at, length);

	sp_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_REUSEPORT, &on, &size);
	b.network = s.network;
	b.flags = (s.v6only ? SP_BIND_V6ONLY : 0) | (on ? SP_BIND_REUSEPORT : 0);
	b.inode = sp_inode(fd);
	for (int round = 0;; round++) {
		union sp_name name;
		socklen_t n;
		asked = SP_ASK(SP_BIND, b, answer);
		if (asked == SP_GONE)
			return sp_goes_on() ? SP_NEXT(bind)(fd, at, length) : sp_fail(EADDRNOTAVAIL);
		if (asked < 0)
			return sp_fail(asked);
		n = answer.verdict == SP_POD ? sp_name_for(&answer.at, s.family, &name) : 0;
		result = n ? SP_NEXT(bind)(fd, &name.any, n) : SP_NEXT(bind)(fd, at, length);
		if (result == 0)
			break;
		if (round || (errno != EADDRINUSE && errno != EADDRNOTAVAIL && errno != EACCES))
			return result;
		b.reason = errno;
		b.flags |= SP_BIND_TAKEN;
	}
	bound(&b, fd);
	errno = saved;
	return 0;
}

SP_WRAP(int, listen, (int fd, int backlog))
{
	int result = SP_NEXT(listen)(fd, backlog);
	if (result == 0 && sp_serves(SP_SERVE_TCP)) {
		struct sp_socket s = sp_socket_of(fd);
		struct sp_listen l = {.network = s.network, .backlog = (uint32_t)backlog, .inode = sp_inode(fd)};
		struct sp_head answer;
		l.at = sp_local(fd);
		if (s.network)
			SP_ASK(SP_LISTEN, l, answer);
	}
	return result;
}
