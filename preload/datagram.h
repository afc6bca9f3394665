// Names of datagrams, for the calls that send and those that receive. datagram.c.
#ifndef STEPIN_DATAGRAM_H
#define STEPIN_DATAGRAM_H

#include "sockets.h"

// sp_outgoing finds where a datagram for this name goes. It returns 0 and leaves *length 0: where it was meant to; or
// fills *name and *length; or a negative errno for the program.
int sp_outgoing(int fd, const struct sockaddr *to, socklen_t size, union sp_name *name, socklen_t *length);

// sp_incoming corrects the sender's name that the kernel wrote to `from`; size is what it gave as its length, room what
// the program had.
void sp_incoming(int fd, struct sockaddr *from, socklen_t *length, socklen_t size, socklen_t room);

#endif
