/* tcp, udp and listen: calls out in each way of waiting, own and peer address, being called. The servers' side is in
   ../../pod.go: port 7000 tells whom it sees and echoes, 7001 is nobody's, 7002 echoes datagrams. */
#define _GNU_SOURCE
#include "conform.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#define SERVER "203.0.113.7"
#define SERVER6 "2001:db8:7::7"
#define SILENT "192.0.2.1"
#define FAR "192.0.2.193"
#define NO_ROUTE "198.51.100.1"

enum { patience = 700, long_patience = 20000 }; /* ms: for what never answers, and for what does */

enum way { blocking, by_poll, by_select, by_epoll, by_epoll_first };
static const char *const ways[] = {"blocking", "poll", "select", "epoll", "epoll before"};

/* wait_writable waits as told; 1, or 0 at its end. */
static int wait_writable(int fd, enum way way, int epoll, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	fd_set set;
	struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	struct epoll_event event = {.events = EPOLLOUT};
	switch (way) {
	case by_poll:
		return poll(&p, 1, ms);
	case by_select:
		FD_ZERO(&set);
		FD_SET(fd, &set);
		return select(fd + 1, NULL, &set, NULL, &limit);
	case by_epoll:
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
		return epoll_wait(epoll, &event, 1, ms);
	default:
		/* A new socket is writable and hung up: events of before connect were there before. */
		return epoll_wait(epoll, &event, 1, ms);
	}
}

static int connected(int fd)
{
	struct sockaddr_storage peer;
	socklen_t n = sizeof peer;
	return getpeername(fd, (struct sockaddr *)&peer, &n) == 0;
}

/* dial connects and returns the errno that it ends with, 0, or -1 for no answer. */
static int dial(int fd, enum way way, const struct sockaddr_storage *to, socklen_t n, int ms)
{
	if (way == blocking)
		return connect(fd, (const struct sockaddr *)to, n) ? errno : 0;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	int epoll = epoll_create1(0), error = 0;
	struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
	if (way == by_epoll_first) {
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
		epoll_wait(epoll, &event, 1, 0);
	}
	if (connect(fd, (const struct sockaddr *)to, n)) {
		error = errno;
		if (error == EINPROGRESS) {
			socklen_t size = sizeof error;
			/* Of an ICMP message the kernel wakes us before it has set the error (tcp_v4_err since Linux 5.15: first the
			   error queue): a socket without error and without a peer is still connecting. */
			do {
				error = -1;
				if (wait_writable(fd, way, epoll, ms) > 0)
					getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
			} while (!error && !connected(fd));
		}
	}
	close(epoll);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return error;
}

static void addresses(int fd, const char *what)
{
	char line[128];
	struct sockaddr_storage a = {0}, b = {0};
	socklen_t n = sizeof a;
	int own = getsockname(fd, (struct sockaddr *)&a, &n);
	snprintf(line, sizeof line, "%s, own address", what);
	say(line, "%s %s length %d", result(own), address(&a, 0), (int)n);
	n = sizeof b;
	int peer = getpeername(fd, (struct sockaddr *)&b, &n);
	snprintf(line, sizeof line, "%s, peer address", what);
	if (peer)
		say(line, "%s", result(peer));
	else
		say(line, "%s length %d", address(&b, ntohs(((struct sockaddr_in *)&b)->sin_port) < 32768), (int)n);
}

static void call(enum way way, const char *ip, int port, int ms)
{
	char what[100], text[200];
	struct sockaddr_storage to;
	socklen_t n = at(&to, ip, port);
	int fd = socket(to.ss_family, SOCK_STREAM, 0), error = dial(fd, way, &to, n, ms);
	snprintf(what, sizeof what, "%s %s %d", ways[way], ip, port);
	say(what, "%s", error < 0 ? "no answer" : error ? errno_name(error) : "ok");
	if (!error) {
		ssize_t got = read(fd, text, sizeof text - 1); /* the server's first line: whom it sees */
		text[got < 1 ? 0 : got - 1] = 0;
		say(what, "%s", text);
		if (write(fd, "echo", 4) == 4 && read(fd, text, sizeof text) == 4)
			say(what, "%.4s", text);
		addresses(fd, what);
		shutdown(fd, SHUT_WR);
		say(what, "end %s", read(fd, text, sizeof text) == 0 ? "ok" : "missing");
		say(what, "again %s", connect(fd, (struct sockaddr *)&to, n) ? errno_name(errno) : "ok");
	}
	close(fd);
}

void tcp_subject(void)
{
	for (enum way w = blocking; w <= by_epoll_first; w++) {
		call(w, SERVER, 7000, long_patience);
		call(w, SERVER6, 7000, long_patience);
		call(w, SERVER, 7001, long_patience);
		call(w, SERVER6, 7001, long_patience);
		call(w, FAR, 80, long_patience);
		if (w != blocking)
			call(w, SILENT, 80, patience);
	}
	struct timeval limit = {.tv_sec = 1};
	struct sockaddr_storage to;
	socklen_t n = at(&to, SILENT, 80);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	say("blocking with SO_SNDTIMEO", "%s", result(connect(fd, (struct sockaddr *)&to, n)));
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	addresses(fd, "before connect");
	struct sockaddr_storage own;
	socklen_t m = at(&own, "10.244.1.9", 0);
	say("bind to the pod's address", "%s", result(bind(fd, (struct sockaddr *)&own, m)));
	addresses(fd, "bound to the pod's address");
	n = at(&to, SERVER, 7000);
	say("connect when bound", "%s", result(connect(fd, (struct sockaddr *)&to, n)));
	addresses(fd, "connected when bound");
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	m = at(&own, "192.0.2.99", 0);
	say("bind to another's address", "%s", result(bind(fd, (struct sockaddr *)&own, m)));
	close(fd);
	call(blocking, NO_ROUTE, 80, long_patience);
}

static void answered(int fd, const char *what)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char text[100] = "";
	struct sockaddr_storage from = {0};
	socklen_t n = sizeof from;
	if (poll(&p, 1, long_patience) <= 0) {
		say(what, "no answer");
		return;
	}
	ssize_t got = recvfrom(fd, text, sizeof text - 1, 0, (struct sockaddr *)&from, &n);
	if (got < 0)
		say(what, "%s", errno_name(errno));
	else
		say(what, "%s from %s", text, address(&from, 1));
}

static void datagrams(const char *ip)
{
	char what[100], text[8];
	struct sockaddr_storage to;
	socklen_t n = at(&to, ip, 7002);
	int fd = socket(to.ss_family, SOCK_DGRAM, 0);
	snprintf(what, sizeof what, "sendto %s", ip);
	say(what, "%s", result(sendto(fd, "one", 3, 0, (struct sockaddr *)&to, n)));
	answered(fd, what);
	struct iovec part = {.iov_base = "two", .iov_len = 3};
	struct msghdr message = {.msg_name = &to, .msg_namelen = n, .msg_iov = &part, .msg_iovlen = 1};
	snprintf(what, sizeof what, "sendmsg %s", ip);
	say(what, "%s", result(sendmsg(fd, &message, 0)));
	answered(fd, what);
	snprintf(what, sizeof what, "connected %s", ip);
	say(what, "%s", result(connect(fd, (struct sockaddr *)&to, n)));
	say(what, "%s", result(send(fd, "three", 5, 0)));
	answered(fd, what);
	addresses(fd, what);
	close(fd);
	fd = socket(to.ss_family, SOCK_DGRAM, 0);
	n = at(&to, ip, 7003);
	snprintf(what, sizeof what, "refused %s", ip);
	if (connect(fd, (struct sockaddr *)&to, n) || send(fd, "x", 1, 0) != 1)
		say(what, "%s", errno_name(errno));
	struct pollfd p = {.fd = fd, .events = POLLIN};
	poll(&p, 1, patience);
	say(what, "%s", result(recv(fd, text, sizeof text, MSG_DONTWAIT)));
	close(fd);
}

void udp_subject(void)
{
	datagrams(SERVER);
	datagrams(SERVER6);
}

/* serve answers one caller, whom the test sends when it reads "call ready PORT". */
static void serve(const char *what, const char *ip, int port)
{
	char line[100], text[64] = "";
	struct sockaddr_storage own, from = {0};
	socklen_t n = at(&own, ip, port), m = sizeof from;
	int fd = socket(own.ss_family, SOCK_STREAM, 0), on = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	int bound = bind(fd, (struct sockaddr *)&own, n);
	say(what, "bind %s", result(bound));
	if (bound) {
		close(fd);
		return;
	}
	say(what, "listen %s", result(listen(fd, 16)));
	m = sizeof own;
	getsockname(fd, (struct sockaddr *)&own, &m);
	say(what, "listens on %s", address(&own, 1));
	say(what, "call ready %d", port);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, long_patience) <= 0) {
		say(what, "nobody called");
		close(fd);
		return;
	}
	m = sizeof from;
	int got = accept4(fd, (struct sockaddr *)&from, &m, SOCK_CLOEXEC);
	say(what, "accept %s from %s length %d", result(got), address(&from, 0), (int)m);
	struct sockaddr_storage here = {0}, there = {0};
	m = sizeof here;
	getsockname(got, (struct sockaddr *)&here, &m);
	m = sizeof there;
	getpeername(got, (struct sockaddr *)&there, &m);
	snprintf(line, sizeof line, "%s, accepted", what);
	say(line, "own %s, peer %s", address(&here, 1), address(&there, 0));
	ssize_t k = read(got, text, sizeof text - 1);
	say(line, "%.*s", k > 0 ? (int)k : 0, text);
	if (write(got, "answer", 6) != 6)
		say(line, "%s", errno_name(errno));
	close(got);
	close(fd);
}

/* itself calls a listener of this program's own, by loopback and by the pod's address. */
static void itself(const char *ip)
{
	char what[64];
	struct sockaddr_storage own, from = {0}, mine = {0};
	socklen_t n = at(&own, "0.0.0.0", 8093), m = sizeof from;
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1, out = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&own, n) || listen(fd, 4)) {
		say(ip, "%s", errno_name(errno));
		return;
	}
	n = at(&own, ip, 8093);
	snprintf(what, sizeof what, "itself %s", ip);
	say(what, "connect %s", result(connect(out, (struct sockaddr *)&own, n)));
	int got = accept(fd, (struct sockaddr *)&from, &m);
	m = sizeof mine;
	getsockname(out, (struct sockaddr *)&mine, &m);
	say(what, "from %s, the caller's own %s", address(&from, 0), address(&mine, 0));
	addresses(got, what);
	close(got);
	close(out);
	close(fd);
}

void listen_subject(void)
{
	serve("any", "0.0.0.0", 8090);
	serve("any v6", "::", 8091);
	serve("pod's address", "10.244.1.9", 8092);
	serve("low port", "0.0.0.0", 81);
	serve("another's address", "192.0.2.99", 8094);
	itself("127.0.0.1");
	itself("10.244.1.9");
}
