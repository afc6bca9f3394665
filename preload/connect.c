// connect, TCP and UDP: made in place, to a listener or relay of the session on loopback, when the pod-side dial has
// succeeded. protocol.h, SP_CONNECT, has the ways it can go.
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include "copies.h"
#include "sockets.h"

enum { TCP_CLOSED = 7 }; // TCP_CLOSE of include/net/tcp_states.h

// fresh tells whether a TCP socket may be connected at all: the kernel answers for the others without looking at the
// address (EALREADY, EISCONN, success after EINPROGRESS).
static bool fresh(int fd)
{
	uint8_t state = TCP_CLOSED; // the first byte of struct tcp_info
	socklen_t length = sizeof state;
	sp_sys5(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &state, &length);
	return state == TCP_CLOSED;
}

// patience returns how long the caller means to wait, in ms; 0: as long as it takes (socket(7), SO_SNDTIMEO).
static uint32_t patience(int fd, bool nonblock)
{
	struct timeval limit = {0, 0};
	socklen_t length = sizeof limit;
	uint64_t ms;
	if (nonblock)
		return SP_LATE_MS;
	sp_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, &length);
	ms = (uint64_t)limit.tv_sec * 1000 + ((uint64_t)limit.tv_usec + 999) / 1000;
	return ms < UINT32_MAX ? (uint32_t)ms : 0;
}

// place connects to the session's own address.
static int place(int fd, int family, const struct sp_address *to)
{
	union sp_name name;
	socklen_t length = sp_name_for(to, family, &name);
	long result = length ? sp_sys3(SYS_connect, fd, &name, length) : -EAFNOSUPPORT;
	// Of the connect before this one, if the program asks for its end by connecting again.
	return (int)sp_result(result == -ECONNREFUSED ? -sp_why(fd) : result);
}

// later leaves the socket connecting to a listener that does not answer yet; EINPROGRESS.
static int later(int fd, int family, const struct sp_address *to, bool nonblock)
{
	long flags = nonblock ? 0 : sp_sys2(SYS_fcntl, fd, F_GETFL);
	int result, error;
	if (!nonblock)
		sp_sys3(SYS_fcntl, fd, F_SETFL, flags | O_NONBLOCK);
	result = place(fd, family, to);
	error = errno;
	if (!nonblock)
		sp_sys3(SYS_fcntl, fd, F_SETFL, flags);
	errno = error;
	return result;
}

SP_WRAP(int, connect, (int fd, const struct sockaddr *to, socklen_t length))
{
	struct sp_connect c = {0};
	struct sp_connect_answer answer;
	struct sp_question q = {.kind = SP_CONNECT, .flags = SP_INTERRUPTIBLE, .body = &c, .size = sizeof c,
				.answer = &answer, .room = sizeof answer, .need = sizeof answer};
	struct sp_socket s;
	bool nonblock, interrupted;
	int n, saved = errno;

	if (!sp_serves(SP_SERVE_TCP | SP_SERVE_UDP) || !sp_name_of(to, length, &c.to))
		return SP_NEXT(connect)(fd, to, length);
	s = sp_socket_of(fd);
	if (!s.network || (s.network == SP_TCP && !fresh(fd)) || (s.family == AF_INET && c.to.family != AF_INET))
		return SP_NEXT(connect)(fd, to, length);

	nonblock = sp_sys2(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK;
	c.network = s.network;
	c.wait = patience(fd, nonblock);
	c.flags = (nonblock ? SP_CONNECT_NONBLOCK : 0) | (s.v6only ? SP_CONNECT_V6ONLY : 0);
	c.inode = sp_inode(fd);
	c.local = sp_local(fd);
	if (s.network == SP_UDP && sp_may_copy(fd)) {
		q.flags |= SP_ALONG;
		q.along = fd;
	}
	n = sp_ask(&q);
	interrupted = n == -EINTR;
	if (interrupted)
		n = sp_later(&q);
	if (n == SP_GONE)
		return sp_goes_on() ? SP_NEXT(connect)(fd, to, length) : sp_fail(SP_UNREACHABLE);
	if (n < 0)
		return sp_fail(n);
	errno = saved;
	switch (answer.verdict) {
	case SP_POD:
		if (q.flags & SP_ALONG)
			sp_copied(fd);
		return place(fd, s.family, &answer.to);
	case SP_LATER_PLACE:
		n = later(fd, s.family, &answer.to, nonblock);
		return n < 0 && errno == EINPROGRESS && interrupted ? sp_fail(EINTR) : n;
	}
	return answer.to.family ? place(fd, s.family, &answer.to) : SP_NEXT(connect)(fd, to, length);
}
