// getpeername and getsockname: as the pod would tell them.
#include "sockets.h"

// told corrects what the kernel has written about one end.
static void told(int fd, bool own, struct sockaddr *to, socklen_t *length, socklen_t room)
{
	struct sp_who_answer who;
	struct sp_address local = sp_local(fd), peer, end;
	union sp_name name;
	socklen_t size;
	struct sp_socket s;
	if (!room || !local.family || !local.port)
		return;
	peer = sp_peer(fd);
	if (peer.family ? !sp_loopback(&peer) : !own)
		return;
	s = sp_socket_of(fd);
	if (!s.network || !sp_who(s.network, &local, &peer, &who))
		return;
	end = own ? who.local : who.peer;
	size = end.family ? sp_name_for(&end, s.family, &name) : 0;
	if (size)
		sp_write_name(to, length, room, &name, size);
}

SP_WRAP(int, getpeername, (int fd, struct sockaddr *to, socklen_t *length))
{
	socklen_t room = sp_serves(SP_SERVE_TCP | SP_SERVE_UDP) ? sp_room(to, length) : 0;
	int result = SP_NEXT(getpeername)(fd, to, length);
	if (result == 0 && room)
		told(fd, false, to, length, room);
	return result;
}

SP_WRAP(int, getsockname, (int fd, struct sockaddr *to, socklen_t *length))
{
	socklen_t room = sp_serves(SP_SERVE_TCP | SP_SERVE_UDP) ? sp_room(to, length) : 0;
	int result = SP_NEXT(getsockname)(fd, to, length);
	if (result == 0 && room)
		told(fd, true, to, length, room);
	return result;
}
