// What the families of sockets share. sockets.c.
#ifndef STEPIN_SOCKETS_H
#define STEPIN_SOCKETS_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "core.h"

#ifdef __GLIBC__
typedef int sp_flags; // of sendmmsg and recvmmsg
#else
typedef unsigned sp_flags;
#endif

union sp_name { // a socket's name, of the families that concern us
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage storage;
};

// sp_name_of reads a program's socket name; false: it is none of IP, too short, or not readable: the kernel's to judge.
bool sp_name_of(const struct sockaddr *from, socklen_t length, struct sp_address *to);

// sp_name_for writes an address as a socket of that family (AF_INET, AF_INET6) takes it and returns its length; 0: it
// cannot.
socklen_t sp_name_for(const struct sp_address *from, int family, union sp_name *to);

// sp_local and sp_peer ask the kernel for a socket's own name; family 0: it has none, or none of IP.
struct sp_address sp_local(int fd);
struct sp_address sp_peer(int fd);

// sp_loopback: 127.0.0.0/8, ::1, ::ffff:127.0.0.0/104: only from there does the session speak to the debuggee.
bool sp_loopback(const struct sp_address *a);

// sp_inode returns a socket's inode number; 0: fd is no socket.
uint64_t sp_inode(int fd);

struct sp_socket {
	uint32_t network; // enum sp_network; 0: none of ours
	int family;
	bool v6only;
};

// sp_socket_of tells what a descriptor is.
struct sp_socket sp_socket_of(int fd);

// sp_write_name puts a name into a program's buffer as accept and its like do: cut to `room`, with its full length in
// *length.
void sp_write_name(struct sockaddr *to, socklen_t *length, socklen_t room, const union sp_name *name, socklen_t size);

// sp_room reads a program's length field of a name before a call; 0 where the kernel will find fault with it.
socklen_t sp_room(const struct sockaddr *to, const socklen_t *length);

// sp_why returns the errno with which the pod ended a connect that the kernel says was refused.
int sp_why(int fd);

// sp_who asks for a socket's two ends as the pod would tell them. False: as the kernel says.
bool sp_who(uint32_t network, const struct sp_address *local, const struct sp_address *peer, struct sp_who_answer *to);

// sp_lost is the result of a call that needed the session, when there is none any more. Only after !sp_goes_on().
#define SP_UNREACHABLE EHOSTUNREACH

#endif
