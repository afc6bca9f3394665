// What the families of sockets share.
#include "sockets.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/stat.h>

bool sp_name_of(const struct sockaddr *from, socklen_t length, struct sp_address *to)
{
	union sp_name name;
	if (!from || length < sizeof name.v4 || !sp_readable(from, length < sizeof name.v6 ? length : sizeof name.v6))
		return false;
	memset(&name, 0, sizeof name.v6);
	memcpy(&name, from, length < sizeof name.v6 ? length : sizeof name.v6);
	memset(to, 0, sizeof *to);
	to->family = name.any.sa_family;
	if (name.any.sa_family == AF_INET) {
		to->port = ntohs(name.v4.sin_port);
		memcpy(to->ip, &name.v4.sin_addr, 4);
		return true;
	}
	if (name.any.sa_family == AF_INET6 && length >= offsetof(struct sockaddr_in6, sin6_scope_id)) { // SIN6_LEN_RFC2133
		to->port = ntohs(name.v6.sin6_port);
		to->scope = name.v6.sin6_scope_id;
		memcpy(to->ip, &name.v6.sin6_addr, 16);
		return true;
	}
	return false;
}

socklen_t sp_name_for(const struct sp_address *from, int family, union sp_name *to)
{
	memset(to, 0, sizeof to->v6);
	if (family == AF_INET && from->family == AF_INET) {
		to->v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(from->port)};
		memcpy(&to->v4.sin_addr, from->ip, 4);
		return sizeof to->v4;
	}
	to->v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(from->port), .sin6_scope_id = from->scope};
	if (family == AF_INET6 && from->family == AF_INET6) {
		memcpy(&to->v6.sin6_addr, from->ip, 16);
		return sizeof to->v6;
	}
	if (family == AF_INET6 && from->family == AF_INET) { // RFC 4291, 2.5.5.2
		memset(to->v6.sin6_addr.s6_addr + 10, 0xff, 2);
		memcpy(to->v6.sin6_addr.s6_addr + 12, from->ip, 4);
		return sizeof to->v6;
	}
	return 0;
}

static struct sp_address own_name(long call, int fd)
{
	struct sp_address a = {0};
	union sp_name name;
	socklen_t length = sizeof name;
	if (sp_sys3(call, fd, &name, &length) < 0 || !sp_name_of(&name.any, length, &a))
		memset(&a, 0, sizeof a);
	return a;
}

struct sp_address sp_local(int fd) { return own_name(SYS_getsockname, fd); }
struct sp_address sp_peer(int fd) { return own_name(SYS_getpeername, fd); }

bool sp_loopback(const struct sp_address *a)
{
	static const uint8_t one[16] = {[15] = 1}, mapped[13] = {[10] = 0xff, 0xff, 127};
	return a->family == AF_INET ? a->ip[0] == 127
				    : a->family == AF_INET6 && (!memcmp(a->ip, one, sizeof one) || !memcmp(a->ip, mapped, sizeof mapped));
}

uint64_t sp_inode(int fd)
{
	struct stat st;
	return sp_sys2(SYS_fstat, fd, &st) == 0 && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t length = sizeof value;
	return sp_sys5(SYS_getsockopt, fd, level, name, &value, &length) == 0 ? value : -1;
}

struct sp_socket sp_socket_of(int fd)
{
	struct sp_socket s = {0, option(fd, SOL_SOCKET, SO_DOMAIN), false};
	int type, protocol;
	if (s.family != AF_INET && s.family != AF_INET6)
		return s;
	type = option(fd, SOL_SOCKET, SO_TYPE);
	protocol = option(fd, SOL_SOCKET, SO_PROTOCOL);
	if (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == 262 /* IPPROTO_MPTCP */))
		s.network = SP_TCP;
	else if (type == SOCK_DGRAM && protocol == IPPROTO_UDP)
		s.network = SP_UDP;
	if (s.network && !sp_serves(s.network == SP_TCP ? SP_SERVE_TCP : SP_SERVE_UDP))
		s.network = 0;
	s.v6only = s.network && s.family == AF_INET6 && option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 1;
	return s;
}

void sp_write_name(struct sockaddr *to, socklen_t *length, socklen_t room, const union sp_name *name, socklen_t size)
{
	memcpy(to, name, room < size ? room : size);
	*length = size;
}

socklen_t sp_room(const struct sockaddr *to, const socklen_t *length)
{
	return to && length && sp_readable(length, sizeof *length) ? *length : 0;
}

int sp_why(int fd)
{
	struct sp_why why = {.inode = sp_inode(fd)};
	struct sp_why_answer answer = {.reason = 0};
	return why.inode && SP_ASK(SP_WHY, why, answer) >= 0 && answer.reason > 0 ? answer.reason : ECONNREFUSED;
}

bool sp_who(uint32_t network, const struct sp_address *local, const struct sp_address *peer, struct sp_who_answer *to)
{
	struct sp_who who = {.network = network, .local = *local, .peer = *peer};
	return SP_ASK(SP_WHO, who, *to) >= 0 && (to->local.family || to->peer.family);
}
