// gethostbyname, gethostbyaddr and their forms: older than getaddrinfo, and still in use (Java's InetAddress of old,
// Python's socket.gethostbyname, nginx for its upstreams).
#include <arpa/inet.h>
#include <netdb.h>
#include <string.h>

#include "lookup.h"

#ifndef NETDB_INTERNAL // musl: ERANGE says it all
#define NETDB_INTERNAL (-1)
#define NETDB_SUCCESS 0
#endif

// What a caller of a reentrant form hands over, and what it gets back.
struct want {
	struct hostent *host;
	char *room;
	size_t size;
	struct hostent **result;
	int *error;
};

// Those of the forms that are not reentrant, which answer in memory of the library's.
static struct hostent shared;
static char shared_room[16384]; // bytes: SP_ADDRESSES_MAX addresses, pointers to them, and a name

static int error_of(uint32_t result)
{
	switch (result) {
	case SP_NO_NAME:
		return HOST_NOT_FOUND;
	case SP_NO_DATA:
		return NO_DATA;
	case SP_TRY_AGAIN:
		return TRY_AGAIN;
	}
	return NO_RECOVERY;
}

static int none(const struct want *w, int error)
{
	*w->result = NULL;
	*w->error = error;
	return error == NETDB_INTERNAL ? ERANGE : 0;
}

// filled lays the answer out in the caller's room: pointers, addresses, the name.
static int filled(const struct want *w, const struct sp_address *addresses, uint32_t count, int family, const char *name, size_t length)
{
	size_t size = family == AF_INET ? 4 : 16, skip = -(uintptr_t)w->room & (sizeof(char *) - 1), n = 0;
	char **list, *at;
	for (uint32_t i = 0; i < count; i++)
		n += addresses[i].family == family;
	if (w->size < skip + (n + 2) * sizeof(char *) + n * size + length + 1)
		return none(w, NETDB_INTERNAL);
	if (!n)
		return none(w, NO_DATA);
	list = (char **)(void *)(w->room + skip);
	at = (char *)(list + n + 2);
	*w->host = (struct hostent){.h_addrtype = family, .h_length = (int)size, .h_addr_list = list, .h_aliases = list + n + 1};
	for (uint32_t i = 0; i < count; i++) {
		if (addresses[i].family != family)
			continue;
		*list++ = memcpy(at, addresses[i].ip, size);
		at += size;
	}
	list[0] = list[1] = NULL; // the end of the addresses; no aliases
	memcpy(at, name, length);
	at[length] = 0;
	w->host->h_name = at;
	*w->result = w->host;
	*w->error = NETDB_SUCCESS;
	return 0;
}

// numeric: names that are addresses, which libc reads itself.
static bool numeric(const char *name)
{
	unsigned char to[16];
	return inet_aton(name, (struct in_addr *)(void *)to) || inet_pton(AF_INET6, name, to) == 1;
}

// by_name answers, or leaves it to libc (false).
static bool by_name(const char *name, int family, const struct want *w, int *status)
{
	struct sp_found f;
	int saved = errno;
	if (!sp_serves(SP_SERVE_NAMES) || !name || !*name || (family != AF_INET && family != AF_INET6) || numeric(name))
		return false;
	sp_find(name, (uint32_t)family, SP_LOOKUP_CANONICAL, &f);
	if (f.result == SP_ASK_HOST)
		return false;
	if (f.result != SP_FOUND)
		*status = none(w, error_of(f.result));
	else
		*status = filled(w, f.address, f.count, family, f.length ? f.name : name, f.length ? f.length : strlen(name));
	errno = saved;
	return true;
}

static bool by_address(const void *address, socklen_t size, int family, const struct want *w, int *status)
{
	struct sp_address a = {.family = (uint16_t)family};
	struct sp_found f;
	int saved = errno;
	if (!sp_serves(SP_SERVE_NAMES) || !address || !(family == AF_INET ? size == 4 : family == AF_INET6 && size == 16))
		return false;
	memcpy(a.ip, address, size);
	sp_find_name(&a, &f);
	if (f.result == SP_ASK_HOST)
		return false;
	if (f.result != SP_FOUND || !f.length)
		*status = none(w, f.result == SP_FOUND ? HOST_NOT_FOUND : error_of(f.result));
	else
		*status = filled(w, &a, 1, family, f.name, f.length);
	errno = saved;
	return true;
}

SP_WRAP(int, gethostbyname2_r, (const char *restrict name, int family, struct hostent *restrict host, char *restrict room, size_t size,
				struct hostent **restrict result, int *restrict error))
{
	int status;
	if (by_name(name, family, &(struct want){host, room, size, result, error}, &status))
		return status;
	return SP_NEXT(gethostbyname2_r)(name, family, host, room, size, result, error);
}

SP_WRAP(int, gethostbyname_r, (const char *restrict name, struct hostent *restrict host, char *restrict room, size_t size,
			       struct hostent **restrict result, int *restrict error))
{
	int status;
	if (by_name(name, AF_INET, &(struct want){host, room, size, result, error}, &status))
		return status;
	return SP_NEXT(gethostbyname_r)(name, host, room, size, result, error);
}

SP_WRAP(struct hostent *, gethostbyname2, (const char *name, int family))
{
	struct hostent *result;
	int status;
	if (by_name(name, family, &(struct want){&shared, shared_room, sizeof shared_room, &result, &h_errno}, &status))
		return result;
	return SP_NEXT(gethostbyname2)(name, family);
}

SP_WRAP(struct hostent *, gethostbyname, (const char *name))
{
	struct hostent *result;
	int status;
	if (by_name(name, AF_INET, &(struct want){&shared, shared_room, sizeof shared_room, &result, &h_errno}, &status))
		return result;
	return SP_NEXT(gethostbyname)(name);
}

SP_WRAP(int, gethostbyaddr_r, (const void *restrict address, socklen_t length, int family, struct hostent *restrict host,
			       char *restrict room, size_t size, struct hostent **restrict result, int *restrict error))
{
	int status;
	if (by_address(address, length, family, &(struct want){host, room, size, result, error}, &status))
		return status;
	return SP_NEXT(gethostbyaddr_r)(address, length, family, host, room, size, result, error);
}

SP_WRAP(struct hostent *, gethostbyaddr, (const void *address, socklen_t length, int family))
{
	struct hostent *result;
	int status;
	if (by_address(address, length, family, &(struct want){&shared, shared_room, sizeof shared_room, &result, &h_errno}, &status))
		return result;
	return SP_NEXT(gethostbyaddr)(address, length, family);
}
