// sendto, sendmsg and sendmmsg: a datagram's destination becomes its relay. What has no destination, and what is no
// datagram, passes untouched.
#include <string.h>

#include "datagram.h"

SP_WRAP(ssize_t, sendto, (int fd, const void *bytes, size_t n, int flags, const struct sockaddr *to, socklen_t size))
{
	union sp_name name;
	socklen_t length;
	int error;
	if (!to || !sp_serves(SP_SERVE_TCP | SP_SERVE_UDP))
		return SP_NEXT(sendto)(fd, bytes, n, flags, to, size);
	if ((flags & MSG_FASTOPEN) && sp_socket_of(fd).network == SP_TCP)
		return sp_fail(EOPNOTSUPP); // what a kernel without it says; programs then call connect
	error = sp_outgoing(fd, to, size, &name, &length);
	if (error)
		return sp_fail(error);
	return length ? SP_NEXT(sendto)(fd, bytes, n, flags, &name.any, length) : SP_NEXT(sendto)(fd, bytes, n, flags, to, size);
}

enum { CONTROL_MAX = 512 }; // bytes of control messages that are copied; programs send one or two

// without_source copies control messages but for the source address, which is the pod's and none of this machine's
// (IP_PKTINFO, ip(7); IPV6_PKTINFO, RFC 3542). False: there is none, or there are too many.
static bool without_source(struct msghdr *m, char *copy)
{
	struct msghdr out = *m;
	size_t used = 0;
	bool found = false;
	if (!m->msg_control || m->msg_controllen < sizeof(struct cmsghdr) || m->msg_controllen > CONTROL_MAX ||
	    !sp_readable(m->msg_control, m->msg_controllen))
		return false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&out); c; c = CMSG_NXTHDR(&out, c)) {
		size_t length = c->cmsg_len, space = CMSG_SPACE(length - CMSG_LEN(0));
		if (length < sizeof *c || (char *)c + length > (char *)m->msg_control + m->msg_controllen || used + space > CONTROL_MAX)
			return false;
		if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) ||
		    (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)) {
			found = true;
			continue;
		}
		memcpy(copy + used, c, length);
		used += space;
	}
	if (!found)
		return false;
	m->msg_control = used ? copy : NULL;
	m->msg_controllen = used;
	return true;
}

SP_WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags))
{
	_Alignas(struct cmsghdr) char control[CONTROL_MAX];
	struct msghdr m;
	union sp_name name;
	socklen_t length;
	int error;
	if (!sp_serves(SP_SERVE_TCP | SP_SERVE_UDP) || !message || !sp_readable(message, sizeof *message) || !message->msg_name)
		return SP_NEXT(sendmsg)(fd, message, flags);
	if ((flags & MSG_FASTOPEN) && sp_socket_of(fd).network == SP_TCP)
		return sp_fail(EOPNOTSUPP);
	error = sp_outgoing(fd, message->msg_name, message->msg_namelen, &name, &length);
	if (error)
		return sp_fail(error);
	if (!length)
		return SP_NEXT(sendmsg)(fd, message, flags);
	m = *message;
	m.msg_name = &name;
	m.msg_namelen = length;
	without_source(&m, control);
	return SP_NEXT(sendmsg)(fd, &m, flags);
}

enum { BATCH = 16 }; // messages whose names are rewritten at once: 1.5 KiB of stack

SP_WRAP(int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, sp_flags flags))
{
	struct mmsghdr batch[BATCH];
	union { // sp_name without room for other families
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} names[BATCH];
	unsigned done = 0;
	if (!sp_serves(SP_SERVE_UDP) || !messages || !count || !sp_readable(messages, sizeof *messages) || !messages->msg_hdr.msg_name ||
	    sp_socket_of(fd).network != SP_UDP)
		return SP_NEXT(sendmmsg)(fd, messages, count, flags);
	while (done < count) {
		unsigned n = count - done < BATCH ? count - done : BATCH;
		int sent = 0;
		if (!sp_readable(messages + done, n * sizeof *messages))
			return done ? (int)done : sp_fail(EFAULT);
		for (unsigned i = 0; i < n; i++) {
			union sp_name name;
			socklen_t length;
			int error;
			batch[i] = messages[done + i];
			if (!batch[i].msg_hdr.msg_name)
				continue;
			error = sp_outgoing(fd, batch[i].msg_hdr.msg_name, batch[i].msg_hdr.msg_namelen, &name, &length);
			if (error && !i)
				return done ? (int)done : sp_fail(error);
			if (error) { // the ones before it go; the next call meets it
				n = i;
				break;
			}
			if (length) {
				memcpy(&names[i], &name, length);
				batch[i].msg_hdr.msg_name = &names[i];
				batch[i].msg_hdr.msg_namelen = length;
			}
		}
		sent = SP_NEXT(sendmmsg)(fd, batch, n, flags);
		if (sent <= 0)
			return done ? (int)done : sent;
		for (int i = 0; i < sent; i++)
			messages[done + (unsigned)i].msg_len = batch[i].msg_len;
		done += (unsigned)sent;
		if ((unsigned)sent < n)
			break;
	}
	return (int)done;
}
