// What the session said about a destination of datagrams, or about their sender, for as long as it said: datagrams are
// too many to ask about each. remember.c.
#ifndef STEPIN_REMEMBER_H
#define STEPIN_REMEMBER_H

#include "core.h"

enum sp_memory { SP_SENDS = 1, SP_COMES = 2 }; // a destination and its relay; a relay and whom it stands for

struct sp_memo {
	struct sp_address address; // family 0: as it is
	bool known;
};

// sp_recall finds what was remembered of an address for a socket.
struct sp_memo sp_recall(enum sp_memory what, uint64_t inode, const struct sp_address *of);

// sp_remember keeps it for ttl ms; 0: not at all. Something older gives way.
void sp_remember(enum sp_memory what, uint64_t inode, const struct sp_address *of, const struct sp_address *is, uint32_t ttl);

#endif
