// Names asked of the session, for the families that look up. lookup.c.
#ifndef STEPIN_LOOKUP_H
#define STEPIN_LOOKUP_H

#include "sockets.h"

// What was found. It is on the caller's stack whole: up to 16 KiB, of which libc's own functions take more.
struct sp_found {
	uint32_t result; // enum sp_lookup_result; SP_ASK_HOST: call the next function
	uint32_t count;
	const struct sp_address *address;
	uint32_t length;
	const char *name; // length bytes, not terminated; the canonical one
	_Alignas(8) char room[SP_MESSAGE_MAX];
};

// sp_find looks up a name; family 0: any.
void sp_find(const char *name, uint32_t family, uint32_t flags, struct sp_found *to);

// sp_find_name looks up the name of an address.
void sp_find_name(const struct sp_address *address, struct sp_found *to);

#endif
