// accept and accept4: the peer is the true client, whom the session's connection stands for.
#include "sockets.h"

// told corrects a peer's name that the kernel has written. Only the session connects from loopback for others.
static void told(int fd, struct sockaddr *to, socklen_t *length, socklen_t room)
{
	struct sp_who_answer who;
	struct sp_address peer, local;
	union sp_name name;
	socklen_t size;
	struct sp_socket s;
	peer = sp_peer(fd);
	if (!room || !sp_loopback(&peer))
		return;
	s = sp_socket_of(fd);
	local = sp_local(fd);
	if (!s.network || !sp_who(s.network, &local, &peer, &who) || !who.peer.family)
		return;
	size = sp_name_for(&who.peer, s.family, &name);
	if (size)
		sp_write_name(to, length, room, &name, size);
}

SP_WRAP(int, accept, (int fd, struct sockaddr *to, socklen_t *length))
{
	socklen_t room = sp_serves(SP_SERVE_TCP) ? sp_room(to, length) : 0;
	int result = SP_NEXT(accept)(fd, to, length);
	if (result >= 0 && room)
		told(result, to, length, room);
	return result;
}

SP_WRAP(int, accept4, (int fd, struct sockaddr *to, socklen_t *length, int flags))
{
	socklen_t room = sp_serves(SP_SERVE_TCP) ? sp_room(to, length) : 0;
	int result = SP_NEXT(accept4)(fd, to, length, flags);
	if (result >= 0 && room)
		told(result, to, length, room);
	return result;
}
