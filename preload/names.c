// getaddrinfo, getnameinfo, and what frees: libc's own resolver calls libc's insides, where nothing can be intercepted.
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "lookup.h"

// The analyzer loses sight of an entry that is reached by its inner part.
#pragma GCC diagnostic ignored "-Wpragmas" // other compilers know nothing of it
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"

#ifndef EAI_NODATA
#define EAI_NODATA (-5)
#endif

// One entry of a result. glibc frees an entry by free() of it and of its canonical name, as made here. musl's are parts
// of a counted array, so there freeaddrinfo must know ours: by the two words before the entry, where an allocator has
// its own.
struct entry {
#ifndef __GLIBC__
	struct entry *self;
	uint64_t ours;
#endif
	struct addrinfo info;
	union {
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} name;
};

#ifndef __GLIBC__
#define OURS 0x53706e616d657331u

SP_WRAP(void, freeaddrinfo, (struct addrinfo *list))
{
	while (list) {
		struct entry *e = (struct entry *)(void *)((char *)list - offsetof(struct entry, info));
		struct addrinfo *next = list->ai_next;
		if (e->self != e || e->ours != OURS) {
			SP_NEXT(freeaddrinfo)(list);
			return;
		}
		free(list->ai_canonname);
		free(e);
		list = next;
	}
}
#endif

static int error_of(uint32_t result)
{
	switch (result) {
	case SP_FOUND:
		return 0;
	case SP_NO_NAME:
		return EAI_NONAME;
	case SP_NO_DATA:
		return EAI_NODATA;
	case SP_TRY_AGAIN:
		return EAI_AGAIN;
	}
	return EAI_FAIL;
}

// made makes the entry of an address and a kind of socket; NULL: no memory, or (`none` set) no such form of the address.
static struct entry *made(const struct sp_address *address, int family, const struct addrinfo *kind, bool *none)
{
	union sp_name name;
	struct sp_address at = *address;
	struct entry *e;
	socklen_t length;
	at.port = kind->ai_addr ? ntohs(((const struct sockaddr_in *)(const void *)kind->ai_addr)->sin_port) : 0;
	length = sp_name_for(&at, family, &name);
	*none = !length;
	e = length ? calloc(1, sizeof *e) : NULL;
	if (!e)
		return NULL;
#ifndef __GLIBC__
	e->self = e;
	e->ours = OURS;
#endif
	memcpy(&e->name, &name, length);
	e->info = (struct addrinfo){.ai_family = family, .ai_socktype = kind->ai_socktype, .ai_protocol = kind->ai_protocol,
				    .ai_addrlen = length, .ai_addr = (struct sockaddr *)&e->name};
	return e;
}

// listed makes the result: each address for each kind of socket that the service is of.
static int listed(const struct sp_found *f, const char *node, const struct addrinfo *hints, const struct addrinfo *kinds,
		  struct addrinfo **result)
{
	struct addrinfo *first = NULL, *last = NULL;
	for (uint32_t i = 0; i < f->count; i++) {
		int family = hints->ai_family == AF_INET6 ? AF_INET6 : f->address[i].family;
		for (const struct addrinfo *kind = kinds; kind; kind = kind->ai_next) {
			bool none;
			struct entry *e = made(&f->address[i], family, kind, &none);
			if (none)
				continue;
			if (!e) {
				freeaddrinfo(first);
				return EAI_MEMORY;
			}
			if (last)
				last->ai_next = &e->info;
			else
				first = &e->info;
			last = &e->info;
		}
	}
	if (!first)
		return EAI_NODATA;
	if (hints->ai_flags & AI_CANONNAME) {
		first->ai_canonname = f->length ? strndup(f->name, f->length) : strdup(node);
		if (!first->ai_canonname) {
			freeaddrinfo(first);
			return EAI_MEMORY;
		}
	}
	*result = first;
	return 0;
}

// looked_up asks the session, twice for the IPv6 forms of IPv4 addresses (RFC 3493, 6.1: AI_V4MAPPED).
static void looked_up(const char *node, const struct addrinfo *hints, struct sp_found *f)
{
	uint32_t flags = (hints->ai_flags & AI_CANONNAME ? SP_LOOKUP_CANONICAL : 0) |
			 (hints->ai_flags & AI_ADDRCONFIG ? SP_LOOKUP_CONFIGURED : 0);
	bool mapped = hints->ai_family == AF_INET6 && (hints->ai_flags & AI_V4MAPPED);
	sp_find(node, mapped && (hints->ai_flags & AI_ALL) ? 0 : (uint32_t)hints->ai_family, flags, f);
	if (mapped && !(hints->ai_flags & AI_ALL) && (f->result == SP_NO_DATA || f->result == SP_NO_NAME))
		sp_find(node, AF_INET, flags, f);
}

typedef int libcs(const char *, const char *, const struct addrinfo *, struct addrinfo **);

// asked looks a name up that is no number. The service's ports and kinds of sockets are libc's to tell.
static int asked(libcs *next, const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result,
		 bool *host)
{
	struct addrinfo *kinds = NULL;
	struct sp_found f;
	int error;
	looked_up(node, hints, &f);
	*host = f.result == SP_ASK_HOST;
	if (*host || f.result != SP_FOUND)
		return error_of(f.result);
	struct addrinfo which = {.ai_family = AF_INET, .ai_socktype = hints->ai_socktype, .ai_protocol = hints->ai_protocol,
				 .ai_flags = hints->ai_flags & AI_NUMERICSERV};
	error = next(NULL, service ? service : "0", &which, &kinds);
	if (!error)
		error = listed(&f, node, hints, kinds, result);
	if (kinds)
		freeaddrinfo(kinds);
	return error;
}

SP_WRAP(int, getaddrinfo, (const char *restrict node, const char *restrict service, const struct addrinfo *restrict hints,
			   struct addrinfo **restrict result))
{
	struct addrinfo want = {.ai_flags = AI_V4MAPPED | AI_ADDRCONFIG}, number; // what no hints mean (getaddrinfo(3))
	int error, saved = errno;
	bool host;
	if (!sp_serves(SP_SERVE_NAMES) || !node || !*node)
		return SP_NEXT(getaddrinfo)(node, service, hints, result);
	if (hints)
		want = *hints;
	number = want;
	number.ai_flags |= AI_NUMERICHOST; // numbers, and what is wrong with the hints, are libc's
	error = SP_NEXT(getaddrinfo)(node, service, &number, result);
	if (error != EAI_NONAME || (want.ai_flags & AI_NUMERICHOST) || (want.ai_family != AF_INET && want.ai_family != AF_INET6 && want.ai_family))
		return error;
	error = asked(SP_NEXT(getaddrinfo), node, service, &want, result, &host);
	errno = saved;
	return host ? SP_NEXT(getaddrinfo)(node, service, hints, result) : error;
}

SP_WRAP(int, getnameinfo, (const struct sockaddr *restrict of, socklen_t size, char *restrict host, socklen_t host_room,
			   char *restrict service, socklen_t service_room, int flags))
{
	struct sp_address address;
	struct sp_found f;
	int error;
	if (!sp_serves(SP_SERVE_NAMES) || !host || !host_room || (flags & NI_NUMERICHOST) || !sp_name_of(of, size, &address))
		return SP_NEXT(getnameinfo)(of, size, host, host_room, service, service_room, flags);
	sp_find_name(&address, &f);
	if (f.result == SP_ASK_HOST)
		return SP_NEXT(getnameinfo)(of, size, host, host_room, service, service_room, flags);
	if (f.result != SP_FOUND || !f.length) {
		if (flags & NI_NAMEREQD)
			return f.result == SP_FOUND || f.result == SP_NO_DATA ? EAI_NONAME : error_of(f.result);
		return SP_NEXT(getnameinfo)(of, size, host, host_room, service, service_room, flags | NI_NUMERICHOST);
	}
	if (service && service_room) {
		error = SP_NEXT(getnameinfo)(of, size, NULL, 0, service, service_room, flags & ~NI_NAMEREQD);
		if (error)
			return error;
	}
	if (f.length >= host_room)
		return EAI_OVERFLOW;
	memcpy(host, f.name, f.length);
	host[f.length] = 0;
	return 0;
}
