// late HOW ADDRESS PORT: connects, waits for the result in one of the ways that programs have, and prints it with what
// the other side says first. HOW: block, interrupt (a signal while connecting), limit (SO_SNDTIMEO), poll, select, epoll
// (registered before), again (a second connect instead of SO_ERROR), uring (a poll of io_uring's registered before).
// "waiting" is printed where nothing came within WAIT_MS.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#if __has_include(<linux/io_uring.h>) // musl's compiler has none of the kernel's headers
#include <linux/io_uring.h>
#endif

enum { WAIT_MS = 1500 }; // a refusal takes up to a second: the next SYN's

static const char *how;
static int before = -1; // epoll or ring, made before the connect

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static void nothing(int number) { (void)number; }

#ifdef IORING_OFF_SQES
static struct {
	struct io_uring_params params;
	char *sq, *cq;
} ring;

static unsigned *at(char *base, unsigned offset) { return (unsigned *)(void *)(base + offset); }

// libcs is libc's own syscall(): as programs call the kernel that have liburing's machine code.
static long (*libcs(void))(long, ...)
{
	void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
	return libc ? (long (*)(long, ...))dlsym(libc, "syscall") : NULL;
}

// completed is how many polls have come to something.
static unsigned completed(void) { return __atomic_load_n(at(ring.cq, ring.params.cq_off.tail), __ATOMIC_ACQUIRE); }

// uring_start polls for POLLOUT for good. A socket that was never connected is ready at once, as in epoll (POLLHUP): so
// there is one completion before the connect.
static void uring_start(int fd)
{
	struct io_uring_sqe *sqes;
	long (*call)(long, ...) = libcs();
	before = call ? (int)call(SYS_io_uring_setup, 4, &ring.params) : -1;
	if (before < 0) {
		printf("no io_uring: %s\n", strerror(errno));
		exit(77);
	}
	ring.sq = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, before, IORING_OFF_SQ_RING);
	ring.cq = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, before, IORING_OFF_CQ_RING);
	sqes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, before, (off_t)IORING_OFF_SQES);
	if (ring.sq == MAP_FAILED || ring.cq == MAP_FAILED || sqes == MAP_FAILED)
		die("mmap");
	memset(&sqes[0], 0, sizeof sqes[0]);
	sqes[0].opcode = IORING_OP_POLL_ADD;
	sqes[0].fd = fd;
	sqes[0].poll32_events = POLLOUT;
	sqes[0].len = IORING_POLL_ADD_MULTI;
	*at(ring.sq, ring.params.sq_off.array) = 0;
	__atomic_store_n(at(ring.sq, ring.params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (call(SYS_io_uring_enter, before, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1 || completed() != 1)
		die("io_uring_enter");
}

static int uring_wait(void)
{
	for (int ms = 0; ms < WAIT_MS; ms += 10) {
		if (completed() > 1)
			return 1;
		nanosleep(&(struct timespec){0, 10000000}, NULL);
	}
	return 0;
}

#else
static void uring_start(int fd) { (void)fd, exit(77); }
static int uring_wait(void) { return 0; }
#endif

// ready waits for the socket; 0: nothing came.
static int ready(int fd)
{
	if (!strcmp(how, "select")) {
		struct timeval limit = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
		fd_set set;
		FD_ZERO(&set);
		FD_SET(fd, &set);
		return select(fd + 1, NULL, &set, NULL, &limit);
	}
	if (!strcmp(how, "epoll")) {
		struct epoll_event event;
		return epoll_wait(before, &event, 1, WAIT_MS);
	}
	if (!strcmp(how, "uring"))
		return uring_wait();
	struct pollfd one = {fd, POLLOUT, 0};
	return poll(&one, 1, WAIT_MS);
}

static void said(int fd)
{
	char line[128];
	ssize_t n = read(fd, line, sizeof line - 1);
	if (n <= 0)
		die("read");
	line[n] = 0;
	printf("%s", line);
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr *to;
	socklen_t size;
	int fd, error = 0, result;
	if (argc != 4)
		return 2;
	how = argv[1];
	if (inet_pton(AF_INET, argv[2], &v4.sin_addr) == 1) {
		v4.sin_port = htons((uint16_t)atoi(argv[3]));
		to = (struct sockaddr *)&v4, size = sizeof v4;
	} else if (inet_pton(AF_INET6, argv[2], &v6.sin6_addr) == 1) {
		v6.sin6_port = htons((uint16_t)atoi(argv[3]));
		to = (struct sockaddr *)&v6, size = sizeof v6;
	} else {
		return 2;
	}
	fd = socket(to->sa_family, SOCK_STREAM, 0);
	if (fd < 0)
		die("socket");
	if (!strcmp(how, "interrupt")) {
		struct sigaction action = {.sa_handler = nothing};
		struct itimerval soon = {{0, 0}, {0, 50000}};
		sigaction(SIGALRM, &action, NULL);
		setitimer(ITIMER_REAL, &soon, NULL);
	} else if (!strcmp(how, "limit")) {
		struct timeval limit = {0, 50000};
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	} else if (strcmp(how, "block") != 0) {
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	}
	if (!strcmp(how, "epoll")) {
		struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
		before = epoll_create1(0);
		if (epoll_ctl(before, EPOLL_CTL_ADD, fd, &event) < 0 || epoll_wait(before, &event, 1, 0) < 0) // the first edge: HUP
			die("epoll");
	}
	if (!strcmp(how, "uring"))
		uring_start(fd);
	result = connect(fd, to, size);
	error = result < 0 ? errno : 0;
	printf("connect: %s\n", result < 0 ? strerror(error) : "done");
	if (error == EINPROGRESS || error == EINTR) {
		socklen_t length = sizeof error;
		if (ready(fd) <= 0) {
			printf("waiting\n");
			return 0;
		}
		if (!strcmp(how, "again"))
			error = connect(fd, to, size) < 0 && errno != EISCONN ? errno : 0;
		else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
			die("getsockopt");
	}
	if (error) {
		printf("%s\n", strerror(error));
		return 0;
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	said(fd);
	char name[INET6_ADDRSTRLEN];
	size = sizeof v6;
	if (getpeername(fd, (struct sockaddr *)&v6, &size) < 0)
		die("getpeername");
	if (v6.sin6_family == AF_INET)
		memcpy(&v4, &v6, sizeof v4);
	printf("peer %s %d\n",
	       inet_ntop(v6.sin6_family, v6.sin6_family == AF_INET ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr, name, sizeof name),
	       ntohs(v6.sin6_port));
	return 0;
}
