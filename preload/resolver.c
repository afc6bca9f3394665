// res_query, res_search, res_send and their forms: programs that want records, not addresses (MX, SRV, TXT).
//
// resolv.h is left out: it gives some of these names others, according to the version of glibc, and both are in use.
#include <arpa/inet.h>
#include <netdb.h>
#include <string.h>

#include "core.h"

enum { // of a DNS message (RFC 1035, 4.1.1)
	HEAD = 12,
	NAME_MAX_WIRE = 255,
	LABEL_MAX = 63,
	QUERY_MAX = HEAD + NAME_MAX_WIRE + 4,
	RECURSE = 1,   // in the third byte: RD
	TRUNCATED = 2, // there: TC
	OK = 0,
	SERVER_FAILED = 2,
	NO_SUCH_NAME = 3,
};

#define NEXT_ONE (-2) // what `resolved` and its like return where the next function is to be called

// encoded writes a question and returns its length; 0: no name that DNS could have.
static size_t encoded(const char *name, int class, int type, unsigned char *to)
{
	uint16_t id = (uint16_t)(sp_sys0(SYS_gettid) * 40503u);
	size_t at = HEAD, label;
	memset(to, 0, HEAD);
	to[0] = (unsigned char)(id >> 8);
	to[1] = (unsigned char)id;
	to[2] = RECURSE;
	to[5] = 1; // questions
	while (*name) {
		for (label = 0; name[label] && name[label] != '.'; label++)
			;
		if ((!label && name[1]) || label > LABEL_MAX || at + label + 2 > HEAD + NAME_MAX_WIRE)
			return 0;
		if (!label) // the root alone
			break;
		to[at++] = (unsigned char)label;
		memcpy(to + at, name, label);
		at += label;
		name += label + (name[label] == '.');
	}
	to[at++] = 0;
	to[at++] = (unsigned char)(type >> 8);
	to[at++] = (unsigned char)type;
	to[at++] = (unsigned char)(class >> 8);
	to[at++] = (unsigned char)class;
	return at;
}

static int failed(int error)
{
	h_errno = error;
	return -1;
}

// resolved has the session ask; the answer's whole length, though no more than room is copied. -1: h_errno.
static int resolved(const unsigned char *query, size_t size, uint32_t flags, unsigned char *to, int room)
{
	union {
		struct sp_resolve_answer head;
		unsigned char bytes[SP_MESSAGE_MAX];
	} answer;
	struct sp_resolve r = {.flags = flags};
	struct sp_question q = {.kind = SP_RESOLVE, .body = &r, .size = sizeof r, .tail = query, .tail_size = (uint32_t)size,
				.answer = &answer, .room = sizeof answer, .need = sizeof answer.head};
	int n;
	if (!sp_serves(SP_SERVE_NAMES))
		return NEXT_ONE;
	if (!size || size > SP_MESSAGE_MAX - sizeof r || room < HEAD)
		return failed(NO_RECOVERY);
	n = sp_ask(&q);
	if (n == SP_GONE && sp_goes_on())
		return NEXT_ONE;
	if (n < 0 || answer.head.result == SP_TRY_AGAIN)
		return failed(TRY_AGAIN);
	if (answer.head.result == SP_ASK_HOST)
		return NEXT_ONE;
	n -= (int)sizeof answer.head;
	if (answer.head.result != SP_FOUND || n < HEAD)
		return failed(answer.head.result == SP_NO_NAME ? HOST_NOT_FOUND : answer.head.result == SP_NO_DATA ? NO_DATA : NO_RECOVERY);
	memcpy(to, answer.bytes + sizeof answer.head, (size_t)(n < room ? n : room));
	if (n > room)
		to[2] |= TRUNCATED;
	return n;
}

// queried is res_query's: an answer without records is an error.
static int queried(const char *name, int class, int type, uint32_t flags, unsigned char *to, int room)
{
	unsigned char query[QUERY_MAX];
	int saved = errno, n = resolved(query, encoded(name, class, type, query), flags, to, room);
	errno = saved;
	if (n < 0)
		return n;
	switch (to[3] & 15) {
	case OK:
		return to[6] || to[7] ? n : failed(NO_DATA);
	case NO_SUCH_NAME:
		return failed(HOST_NOT_FOUND);
	case SERVER_FAILED:
		return failed(TRY_AGAIN);
	}
	return failed(NO_RECOVERY);
}

// joined is res_querydomain's.
static int joined(const char *name, const char *domain, int class, int type, unsigned char *to, int room)
{
	char whole[NAME_MAX_WIRE + 1];
	size_t n = strnlen(name, sizeof whole), d = domain ? strnlen(domain, sizeof whole) : 0;
	if (n && name[n - 1] == '.')
		n--;
	if (n + d + 2 > sizeof whole)
		return failed(NO_RECOVERY);
	memcpy(whole, name, n);
	if (d) {
		whole[n++] = '.';
		memcpy(whole + n, domain, d);
	}
	whole[n + d] = 0;
	return queried(whole, class, type, 0, to, room);
}

// sent is res_send's: any answer will do.
static int sent(const unsigned char *query, int size, unsigned char *to, int room)
{
	return size < HEAD ? failed(NO_RECOVERY) : resolved(query, (size_t)size, 0, to, room);
}

// either calls the next function where the session has no say.
#define EITHER(name, result, ...)                                                                  \
	do {                                                                                       \
		int n = (result);                                                                  \
		if (n != NEXT_ONE)                                                                 \
			return n;                                                                  \
		return SP_NEXT(name) ? SP_NEXT(name)(__VA_ARGS__) : failed(NO_RECOVERY);           \
	} while (0)

SP_WRAP(int, res_query, (const char *name, int class, int type, unsigned char *to, int room))
{
	EITHER(res_query, queried(name, class, type, 0, to, room), name, class, type, to, room);
}

SP_WRAP(int, res_search, (const char *name, int class, int type, unsigned char *to, int room))
{
	EITHER(res_search, queried(name, class, type, SP_RESOLVE_SEARCH, to, room), name, class, type, to, room);
}

SP_WRAP(int, res_querydomain, (const char *name, const char *domain, int class, int type, unsigned char *to, int room))
{
	EITHER(res_querydomain, joined(name, domain, class, type, to, room), name, domain, class, type, to, room);
}

SP_WRAP(int, res_send, (const unsigned char *query, int size, unsigned char *to, int room))
{
	EITHER(res_send, sent(query, size, to, room), query, size, to, room);
}

#ifdef __GLIBC__
SP_WRAP(int, __res_query, (const char *name, int class, int type, unsigned char *to, int room))
{
	EITHER(__res_query, queried(name, class, type, 0, to, room), name, class, type, to, room);
}

SP_WRAP(int, __res_search, (const char *name, int class, int type, unsigned char *to, int room))
{
	EITHER(__res_search, queried(name, class, type, SP_RESOLVE_SEARCH, to, room), name, class, type, to, room);
}

SP_WRAP(int, __res_querydomain, (const char *name, const char *domain, int class, int type, unsigned char *to, int room))
{
	EITHER(__res_querydomain, joined(name, domain, class, type, to, room), name, domain, class, type, to, room);
}

SP_WRAP(int, __res_send, (const unsigned char *query, int size, unsigned char *to, int room))
{
	EITHER(__res_send, sent(query, size, to, room), query, size, to, room);
}

// With a state of the caller's, whose name servers are the host's or those of the pod's file: the answer is the pod's in
// either case.
SP_WRAP(int, res_nquery, (void *state, const char *name, int class, int type, unsigned char *to, int room))
{
	EITHER(res_nquery, queried(name, class, type, 0, to, room), state, name, class, type, to, room);
}

SP_WRAP(int, res_nsearch, (void *state, const char *name, int class, int type, unsigned char *to, int room))
{
	EITHER(res_nsearch, queried(name, class, type, SP_RESOLVE_SEARCH, to, room), state, name, class, type, to, room);
}

SP_WRAP(int, res_nquerydomain, (void *state, const char *name, const char *domain, int class, int type, unsigned char *to, int room))
{
	EITHER(res_nquerydomain, joined(name, domain, class, type, to, room), state, name, domain, class, type, to, room);
}

SP_WRAP(int, res_nsend, (void *state, const unsigned char *query, int size, unsigned char *to, int room))
{
	EITHER(res_nsend, sent(query, size, to, room), state, query, size, to, room);
}

SP_WRAP(int, __res_nquery, (void *state, const char *name, int class, int type, unsigned char *to, int room))
{
	EITHER(__res_nquery, queried(name, class, type, 0, to, room), state, name, class, type, to, room);
}

SP_WRAP(int, __res_nsearch, (void *state, const char *name, int class, int type, unsigned char *to, int room))
{
	EITHER(__res_nsearch, queried(name, class, type, SP_RESOLVE_SEARCH, to, room), state, name, class, type, to, room);
}

SP_WRAP(int, __res_nquerydomain, (void *state, const char *name, const char *domain, int class, int type, unsigned char *to, int room))
{
	EITHER(__res_nquerydomain, joined(name, domain, class, type, to, room), state, name, domain, class, type, to, room);
}

SP_WRAP(int, __res_nsend, (void *state, const unsigned char *query, int size, unsigned char *to, int room))
{
	EITHER(__res_nsend, sent(query, size, to, room), state, query, size, to, room);
}
#endif
