// datagrams ADDRESS: sends datagrams to two ports of an address in every way, and prints what comes back and from whom.
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { MANY = 40 }; // more than one batch of the library's

static struct sockaddr_storage to[2];
static socklen_t size;
static int family;

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static void print(const char *what, const char *bytes, ssize_t n, const struct sockaddr_storage *from, socklen_t length)
{
	char host[NI_MAXHOST] = "nobody", port[NI_MAXSERV] = "";
	if (n < 0)
		die(what);
	if (from && length)
		getnameinfo((const struct sockaddr *)from, length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
	printf("%s: %.*s from %s %s (%u)\n", what, (int)n, bytes, host, port, (unsigned)length);
}

static int fresh(void)
{
	int fd = socket(family, SOCK_DGRAM, 0);
	struct timeval limit = {5, 0};
	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	return fd;
}

static void unconnected(void)
{
	struct sockaddr_storage from;
	socklen_t length;
	char bytes[128];
	int fd = fresh();
	for (int i = 0; i < 4; i++) {
		if (sendto(fd, "one", 3, 0, (struct sockaddr *)&to[i % 2], size) != 3)
			die("sendto");
		length = sizeof from;
		ssize_t n = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &length);
		print("sendto", bytes, n, &from, length);
	}
	if (sendto(fd, "two", 3, 0, (struct sockaddr *)&to[0], size) != 3)
		die("sendto");
	print("without a name", bytes, recvfrom(fd, bytes, sizeof bytes, 0, NULL, NULL), NULL, 0);
	close(fd);
}

static void messages(void)
{
	struct sockaddr_storage from;
	char bytes[128], control[CMSG_SPACE(sizeof(struct in_pktinfo))] = {0};
	struct iovec out = {"three", 5}, in = {bytes, sizeof bytes};
	struct msghdr m = {.msg_name = &to[1], .msg_namelen = size, .msg_iov = &out, .msg_iovlen = 1};
	int fd = fresh();
	if (family == AF_INET) { // from the pod's own address, as name servers do
		struct cmsghdr *c = (struct cmsghdr *)(void *)control;
		c->cmsg_level = IPPROTO_IP;
		c->cmsg_type = IP_PKTINFO;
		c->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
		inet_pton(AF_INET, "10.1.2.3", &((struct in_pktinfo *)(void *)CMSG_DATA(c))->ipi_spec_dst);
		m.msg_control = control;
		m.msg_controllen = sizeof control;
	}
	if (sendmsg(fd, &m, 0) != 5)
		die("sendmsg");
	m = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &in, .msg_iovlen = 1};
	ssize_t n = recvmsg(fd, &m, 0);
	print("sendmsg", bytes, n, &from, m.msg_namelen);
	close(fd);
}

static void many(void)
{
	static char texts[MANY][16], bytes[MANY][128];
	static struct sockaddr_storage from[MANY];
	struct mmsghdr out[MANY] = {0}, in[MANY] = {0};
	struct iovec o[MANY], i[MANY];
	int fd = fresh(), got = 0;
	for (int k = 0; k < MANY; k++) {
		o[k] = (struct iovec){texts[k], (size_t)snprintf(texts[k], sizeof texts[k], "m%d", k)};
		out[k].msg_hdr = (struct msghdr){.msg_name = &to[k % 2], .msg_namelen = size, .msg_iov = &o[k], .msg_iovlen = 1};
	}
	if (sendmmsg(fd, out, MANY, 0) != MANY)
		die("sendmmsg");
	printf("sendmmsg: lengths %u %u\n", out[0].msg_len, out[MANY - 1].msg_len);
	while (got < MANY) {
		for (int k = got; k < MANY; k++) {
			i[k] = (struct iovec){bytes[k], sizeof bytes[k]};
			in[k].msg_hdr = (struct msghdr){.msg_name = &from[k], .msg_namelen = sizeof from[k], .msg_iov = &i[k], .msg_iovlen = 1};
		}
		int n = recvmmsg(fd, in + got, (unsigned)(MANY - got), MSG_WAITFORONE, NULL);
		if (n <= 0)
			die("recvmmsg");
		got += n;
	}
	// From two relays they come in no certain order.
	for (int want = 0; want < MANY; want++)
		for (int k = 0; k < MANY; k++) {
			char end[16];
			int n = snprintf(end, sizeof end, " m%d", want);
			if ((int)in[k].msg_len > n && !memcmp(bytes[k] + in[k].msg_len - n, end, (size_t)n) && (want < 2 || want == MANY - 1))
				print("recvmmsg", bytes[k], in[k].msg_len, &from[k], in[k].msg_hdr.msg_namelen);
		}
	close(fd);
}

static void connected(void)
{
	struct sockaddr_storage from;
	socklen_t length = sizeof from;
	char bytes[128];
	int fd = fresh();
	if (connect(fd, (struct sockaddr *)&to[0], size) < 0)
		die("connect");
	if (send(fd, "four", 4, 0) != 4)
		die("send");
	ssize_t n = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &length);
	print("connected", bytes, n, &from, length);
	length = sizeof from;
	if (getpeername(fd, (struct sockaddr *)&from, &length) < 0)
		die("getpeername");
	print("getpeername", "", 0, &from, length);
	if (connect(fd, (struct sockaddr *)&to[1], size) < 0) // a resolver that goes on to its next server
		die("connect");
	if (write(fd, "five", 4) != 4)
		die("write");
	n = read(fd, bytes, sizeof bytes);
	print("connected again", bytes, n, NULL, 0);
	close(fd);
}

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_DGRAM}, *list;
	if (argc != 2)
		return 2;
	for (int i = 0; i < 2; i++) {
		if (getaddrinfo(argv[1], i ? "7001" : "7000", &hints, &list))
			return 2;
		memcpy(&to[i], list->ai_addr, list->ai_addrlen);
		size = list->ai_addrlen;
		family = list->ai_family;
		freeaddrinfo(list);
	}
	unconnected();
	messages();
	many();
	connected();
	return 0;
}
