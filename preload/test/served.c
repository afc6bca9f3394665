// served ADDRESS PORT: binds, listens, accepts three connections, and prints each name the sockets have.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static void print(const char *what, const struct sockaddr_in *a, socklen_t size)
{
	char name[INET_ADDRSTRLEN];
	printf("%s %s %d (%u)\n", what, inet_ntop(AF_INET, &a->sin_addr, name, sizeof name), ntohs(a->sin_port), (unsigned)size);
}

static int bound(const struct sockaddr_in *at)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (const struct sockaddr *)at, sizeof *at) < 0)
		die("bind");
	return fd;
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t size = sizeof a;
	char byte;
	int fd, one;
	if (argc != 3)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	a.sin_port = htons((uint16_t)atoi(argv[2]));
	inet_pton(AF_INET, argv[1], &a.sin_addr);
	fd = bound(&a);
	if (listen(fd, 8) < 0)
		die("listen");
	if (getsockname(fd, (struct sockaddr *)&a, &size) < 0)
		die("getsockname");
	print("listening at", &a, size);
	for (int round = 0; round < 3; round++) {
		struct sockaddr_in peer = {0};
		size = round == 1 ? 4 : sizeof peer; // too little room: cut, and its full length told
		one = round == 0   ? accept(fd, (struct sockaddr *)&peer, &size)
		      : round == 1 ? accept4(fd, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC)
				   : (int)syscall(SYS_accept4, fd, &peer, &size, 0);
		if (one < 0)
			die("accept");
		print("accepted", &peer, size);
		size = sizeof peer;
		if (getpeername(one, (struct sockaddr *)&peer, &size) < 0)
			die("getpeername");
		print("peer", &peer, size);
		size = sizeof peer;
		if (getsockname(one, (struct sockaddr *)&peer, &size) < 0)
			die("getsockname");
		print("own", &peer, size);
		if (read(one, &byte, 1) != 1 || write(one, &byte, 1) != 1)
			die("echo");
		close(one);
	}
	return 0;
}
