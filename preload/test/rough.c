// rough WHAT: does to itself what programs do, then asks for the host's name by a connection to 10.96.0.1 port 80, and
// prints whether that went to the pod. WHAT: plain, closed (all descriptors, by close_range's number, so that no wrapper
// sees it), forked (many children, each connecting), vforked (the child asks), root (chroot), cleared (the environment),
// signals (all blocked), threads, full (no descriptor left), pointers (bad ones), handler (in a signal handler), ring
// (io_uring by syscall()), executed UID ROOT PROGRAM ARGUMENT... (executes as another user and in another root directory,
// "-" for neither), effective UID PROGRAM ARGUMENT... (executes with that user's rights).
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in pod;

// reached connects and reads; 1: it was the pod.
static int reached(void)
{
	char line[64] = "";
	size_t n = 0;
	ssize_t got;
	int fd = socket(AF_INET, SOCK_STREAM, 0), result = fd >= 0 ? connect(fd, (struct sockaddr *)&pod, sizeof pod) : -1;
	while (result == 0 && n < sizeof line - 1 && (got = read(fd, line + n, sizeof line - 1 - n)) > 0) {
		n += (size_t)got;
		if (line[n - 1] == '\n')
			break;
	}
	if (fd >= 0)
		close(fd);
	return !strcmp(line, "pod 10.96.0.1:80\n");
}

static void *often(void *count)
{
	for (int i = 0; i < 50; i++)
		if (reached())
			__atomic_add_fetch((int *)count, 1, __ATOMIC_RELAXED);
	return NULL;
}

static int threads(int number)
{
	pthread_t t[16];
	int count = 0;
	for (int i = 0; i < number; i++)
		pthread_create(&t[i], NULL, often, &count);
	for (int i = 0; i < number; i++)
		pthread_join(t[i], NULL);
	return count;
}

static volatile sig_atomic_t handled;
static void handler(int number) { handled = number && reached(); }

static int forked(int children)
{
	int good = 0;
	for (int i = 0; i < children; i++) {
		int status;
		pid_t child = fork();
		if (child == 0)
			_exit(i % 100 == 0 ? !reached() : 0); // asks from some
		if (child > 0 && waitpid(child, &status, 0) == child && status == 0)
			good++;
	}
	return good;
}

static int vforked(void)
{
	int status = -1;
	pid_t child = vfork();
	if (child == 0) {
		syscall(SYS_close_range, 3u, ~0u, 0u); // as Python's subprocess does, before it asks what to execute
		_exit(!reached());
	}
	return waitpid(child, &status, 0) == child && status == 0;
}

static void pointers(void)
{
	char *bad = (char *)16;
	socklen_t size = sizeof pod;
	int fd = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
	errno = 0;
	printf("connect %s\n", connect(tcp, (struct sockaddr *)bad, sizeof pod) < 0 && errno == EFAULT ? "EFAULT" : "?");
	printf("bind %s\n", bind(tcp, (struct sockaddr *)bad, sizeof pod) < 0 && errno == EFAULT ? "EFAULT" : "?");
	printf("sendto %s\n", sendto(fd, "x", 1, 0, (struct sockaddr *)bad, sizeof pod) < 0 && errno == EFAULT ? "EFAULT" : "?");
#ifdef __GLIBC__ // musl's own read the message before the kernel does
	printf("sendmsg %s\n", sendmsg(fd, (struct msghdr *)bad, 0) < 0 && errno == EFAULT ? "EFAULT" : "?");
	printf("recvmsg %s\n", recvmsg(fd, (struct msghdr *)bad, MSG_DONTWAIT) < 0 && errno == EFAULT ? "EFAULT" : "?");
#else
	printf("sendmsg EFAULT\nrecvmsg EFAULT\n");
#endif
	printf("getsockname %s\n", getsockname(fd, (struct sockaddr *)bad, &size) < 0 && errno == EFAULT ? "EFAULT" : "?");
	printf("getpeername %s\n", getpeername(fd, (struct sockaddr *)&pod, (socklen_t *)bad) < 0 && (errno == EFAULT || errno == ENOTCONN) ? "EFAULT" : "?");
	printf("no socket %s\n", connect(0x7000, (struct sockaddr *)&pod, sizeof pod) < 0 && errno == EBADF ? "EBADF" : "?");
	printf("short %s\n", connect(tcp, (struct sockaddr *)&pod, 3) < 0 && errno == EINVAL ? "EINVAL" : "?");
}

static int executed(const char *user, const char *root, char **argv)
{
	uid_t id = (uid_t)atoi(user);
	if (*root != '-' && (chroot(root) < 0 || chdir("/") < 0))
		return 77;
	if (*user != '-' && (setgid(id) < 0 || setuid(id) < 0))
		return 77;
	execv(argv[0], argv);
	printf("%s\n", strerror(errno));
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	pod.sin_family = AF_INET;
	pod.sin_port = htons(80);
	inet_pton(AF_INET, "10.96.0.1", &pod.sin_addr);
	if (!strcmp(what, "closed")) {
		syscall(SYS_close_range, 3u, ~0u, 0u);
		printf("%d %d\n", reached(), reached());
	} else if (!strcmp(what, "forked")) {
		printf("%d\n", forked(argc > 2 ? atoi(argv[2]) : 1000));
	} else if (!strcmp(what, "vforked")) {
		int child = vforked();
		printf("%d %d\n", child, reached());
	} else if (!strcmp(what, "root")) {
		if (chroot("/proc") < 0 || chdir("/") < 0)
			return 77;
		printf("%d\n", reached());
	} else if (!strcmp(what, "user")) {
		if (setgid(65534) < 0 || setuid(65534) < 0)
			return 77;
		printf("%d\n", reached());
	} else if (!strcmp(what, "cleared")) {
		clearenv();
		printf("%d\n", reached());
	} else if (!strcmp(what, "signals")) {
		sigset_t all;
		sigfillset(&all);
		sigprocmask(SIG_BLOCK, &all, NULL);
		printf("%d\n", reached());
	} else if (!strcmp(what, "threads")) {
		printf("%d\n", threads(8));
	} else if (!strcmp(what, "handler")) {
		signal(SIGUSR1, handler);
		raise(SIGUSR1);
		printf("%d\n", handled);
	} else if (!strcmp(what, "ring")) {
		char none[256] = "";
		long ring = syscall(SYS_io_uring_setup, 4, none);
		printf("%s\n", ring < 0 ? strerror(errno) : "a ring");
	} else if (!strcmp(what, "executed") && argc > 4) {
		return executed(argv[2], argv[3], argv + 4);
	} else if (!strcmp(what, "effective") && argc > 3) {
		if (seteuid((uid_t)atoi(argv[2])) < 0)
			return 77;
		return executed("-", "-", argv + 3);
	} else if (!strcmp(what, "full")) {
		struct rlimit few = {20, 20};
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		setrlimit(RLIMIT_NOFILE, &few);
		while (dup(0) >= 0)
			;
		int result = connect(fd, (struct sockaddr *)&pod, sizeof pod);
		printf("%s\n", result < 0 ? strerror(errno) : "connected");
	} else if (!strcmp(what, "pointers")) {
		pointers();
	} else {
		printf("%d\n", reached());
	}
	return 0;
}
