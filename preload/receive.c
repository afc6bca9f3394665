// recvfrom, recvmsg and recvmmsg: a datagram from a relay is from him it stands for.
#include "datagram.h"

SP_WRAP(ssize_t, recvfrom, (int fd, void *bytes, size_t n, int flags, struct sockaddr *from, socklen_t *length))
{
	socklen_t room = from && sp_serves(SP_SERVE_UDP) ? sp_room(from, length) : 0;
	ssize_t result = SP_NEXT(recvfrom)(fd, bytes, n, flags, from, length);
	if (result >= 0 && room)
		sp_incoming(fd, from, length, *length, room);
	return result;
}

#ifdef __GLIBC__
// What recvfrom is in a program compiled with _FORTIFY_SOURCE.
SP_WRAP(ssize_t, __recvfrom_chk, (int fd, void *bytes, size_t n, size_t size, int flags, struct sockaddr *from, socklen_t *length))
{
	if (n > size) // libc's way of ending the program
		return SP_NEXT(__recvfrom_chk)(fd, bytes, n, size, flags, from, length);
	return recvfrom(fd, bytes, n, flags, from, length);
}
#endif

SP_WRAP(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags))
{
	socklen_t room = 0;
	ssize_t result;
	if (sp_serves(SP_SERVE_UDP) && message && sp_readable(message, sizeof *message) && message->msg_name)
		room = message->msg_namelen;
	result = SP_NEXT(recvmsg)(fd, message, flags);
	if (result >= 0 && room)
		sp_incoming(fd, message->msg_name, &message->msg_namelen, message->msg_namelen, room);
	return result;
}

enum { MESSAGES_MAX = 1024 }; // the kernel takes no more (UIO_MAXIOV)

SP_WRAP(int, recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, sp_flags flags, struct timespec *limit))
{
	uint8_t rooms[MESSAGES_MAX]; // what the programs had; the kernel overwrites it. No name of IP is longer than 28
	unsigned n = count < MESSAGES_MAX ? count : MESSAGES_MAX;
	int result;
	if (!sp_serves(SP_SERVE_UDP) || !messages || !n || !sp_readable(messages, n * sizeof *messages))
		return SP_NEXT(recvmmsg)(fd, messages, count, flags, limit);
	for (unsigned i = 0; i < n; i++) {
		const struct msghdr *m = &messages[i].msg_hdr;
		rooms[i] = !m->msg_name ? 0 : m->msg_namelen < UINT8_MAX ? (uint8_t)m->msg_namelen : UINT8_MAX;
	}
	result = SP_NEXT(recvmmsg)(fd, messages, count, flags, limit);
	for (int i = 0; i < result && i < MESSAGES_MAX; i++) {
		struct msghdr *m = &messages[i].msg_hdr;
		if (rooms[i])
			sp_incoming(fd, m->msg_name, &m->msg_namelen, m->msg_namelen, rooms[i]);
	}
	return result;
}
