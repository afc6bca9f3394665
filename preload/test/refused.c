// refused ADDRESS: what a connected UDP socket hears of a pod that refuses its datagrams, and whose its port is afterwards. Of
// ADDRESS ports 7009 and 7006 refuse all, 7008 the first, 7007 the first and what comes within it; 7000 answers.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE = 10000 }; // ms

static const char *address;

static void say(const char *what, const char *how)
{
	printf("%s: %s\n", what, how);
	fflush(stdout);
}

static void die(const char *what)
{
	say(what, strerror(errno));
	exit(1);
}

static const char *result(ssize_t n) { return n < 0 ? strerror(errno) : "ok"; }

// joined is a new socket that is connected to a port.
static int joined(const char *port, int flags)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_DGRAM}, *list;
	struct timeval limit = {PATIENCE / 1000, 0};
	int fd;
	if (getaddrinfo(address, port, &hints, &list))
		exit(2);
	fd = socket(list->ai_family, SOCK_DGRAM | flags, 0);
	if (fd < 0 || connect(fd, list->ai_addr, list->ai_addrlen) < 0)
		die("connect");
	freeaddrinfo(list);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	return fd;
}

static void put(int fd)
{
	if (send(fd, "x", 1, 0) != 1)
		die("send");
}

static const char *got(int fd)
{
	char bytes[64];
	return result(recv(fd, bytes, sizeof bytes, 0));
}

static unsigned port_of(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} own;
	socklen_t n = sizeof own;
	if (getsockname(fd, &own.any, &n) < 0)
		die("getsockname");
	return ntohs(own.any.sa_family == AF_INET ? own.v4.sin_port : own.v6.sin6_port);
}

static void told(void)
{
	struct pollfd one;
	int fd = joined("7006", 0), error = 0;
	socklen_t n = sizeof error;
	for (int i = 0; i < 2; i++) {
		put(fd);
		say("recv", got(fd));
	}
	close(fd);
	fd = joined("7009", 0);
	for (int i = 0; i < 2; i++) {
		put(fd);
		say("recv", got(fd));
	}
	put(fd);
	one = (struct pollfd){.fd = fd, .events = POLLIN};
	error = poll(&one, 1, PATIENCE);
	printf("poll: %d %d\n", error, (one.revents & POLLERR) != 0);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n);
	say("SO_ERROR", strerror(error));
	put(fd);
	one.events = 0;
	poll(&one, 1, PATIENCE);
	say("send", result(send(fd, "x", 1, 0)));
	close(fd);
	for (int i = 0; i < 2; i++) { // a pod that has come up meanwhile
		fd = joined(i ? "7007" : "7008", SOCK_NONBLOCK);
		one = (struct pollfd){.fd = fd, .events = POLLIN};
		put(fd);
		poll(&one, 1, PATIENCE);
		say("first", got(fd));
		// One that is sent at once may meet the relay while it is still deaf.
		for (int k = 0; k < 100 && (send(fd, "x", 1, 0) < 0 || poll(&one, 1, PATIENCE) < 1 || got(fd)[0] != 'o'); k++)
			usleep(1000);
		put(fd);
		poll(&one, 1, PATIENCE);
		say("later", got(fd));
		close(fd);
	}
}

static void shared(void)
{
	int fd = joined("7009", 0), two;
	pid_t child;
	fflush(stdout);
	if ((child = fork()) == 0) {
		put(fd);
		say("child", got(fd));
		close(fd);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	put(fd);
	say("parent", got(fd));
	if ((child = vfork()) == 0) {
		close(fd);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	put(fd);
	say("after vfork", got(fd));
	close(fd);
	fd = joined("7000", 0);
	two = dup(fd);
	close(fd);
	put(two);
	say("dup", got(two));
	close(two);
}

static void by_close(int fd) { close(fd); }
static void by_syscall(int fd) { syscall(SYS_close, fd); }
static void by_dup2(int fd)
{
	dup2(0, fd);
	close(fd);
}
static void by_dup3(int fd)
{
	dup3(0, fd, O_CLOEXEC);
	close(fd);
}
static void by_range(int fd)
{
	syscall(SYS_close_range, fd, fd, 0);
	close(fd);
}

// closed: the port is anybody's at once; who reads this tries.
static void closed(void)
{
	static const struct {
		const char *name;
		void (*how)(int);
	} ways[] = {{"close", by_close}, {"syscall", by_syscall}, {"dup2", by_dup2}, {"dup3", by_dup3}, {"close_range", by_range}};
	for (size_t i = 0; i < sizeof ways / sizeof ways[0];) {
		int fd = joined("7000", 0);
		unsigned port = port_of(fd);
		put(fd);
		got(fd);
		ways[i].how(fd);
		printf("%s %u\n", ways[i].name, port);
		fflush(stdout);
		if (getchar() != 'a') // again: somebody else was given that port
			i++;
	}
}

// ended: so it is to the debuggee when the socket's process has ended, or executes another program.
static void ended(char *self, bool executes)
{
	int out[2];
	unsigned port = 0;
	struct sockaddr_in at = {.sin_family = AF_INET};
	pid_t child;
	if (pipe(out))
		die("pipe");
	fflush(stdout);
	if ((child = fork()) == 0) {
		int fd = joined("7000", SOCK_CLOEXEC);
		char text[16];
		port = port_of(fd);
		snprintf(text, sizeof text, "%u", port);
		if (executes)
			execl(self, self, address, text, (char *)NULL);
		if (write(out[1], &port, sizeof port) != sizeof port)
			_exit(1);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	if (executes)
		return;
	if (read(out[0], &port, sizeof port) != sizeof port)
		die("read");
	at.sin_port = htons((uint16_t)port);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	say("bind after exit", result(bind(fd, (struct sockaddr *)&at, sizeof at)));
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	address = argv[1];
	if (argc > 2) {
		struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
		int fd = socket(AF_INET, SOCK_DGRAM, 0);
		say("bind after exec", result(bind(fd, (struct sockaddr *)&at, sizeof at)));
		return 0;
	}
	told();
	shared();
	for (int i = 0; i < 5; i++) {
		ended(argv[0], false);
		ended(argv[0], true);
	}
	closed();
	for (int i = 0; i < 2100; i++) // more than the session has relays
		close(joined("7000", 0));
	return 0;
}
