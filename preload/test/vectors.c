// Prints each message with a distinct value in every field, one line each: its name and its bytes in hexadecimal.
// pkg/preload/protocol_test.go makes the same of the Go structures.
#include <stdio.h>
#include <string.h>

#include "../protocol.h"

static unsigned next; // the last value given to a field of an address

static void print(const char *name, const void *bytes, size_t size)
{
	const unsigned char *p = bytes;
	printf("%s ", name);
	for (size_t i = 0; i < size; i++)
		printf("%02x", p[i]);
	printf("\n");
	next = 0;
}

static struct sp_head head(unsigned kind, size_t size)
{
	return (struct sp_head){SP_VERSION, (uint16_t)kind, (uint32_t)size, 77, -5};
}

static unsigned n(void) { return ++next; }

static struct sp_address address(void)
{
	struct sp_address a = {10, (uint16_t)n(), n(), {0}};
	for (int i = 0; i < 16; i++)
		a.ip[i] = (uint8_t)(0xa0 + i);
	return a;
}

#define PRINT(type, kind, ...) \
	do { \
		struct type m = {head(kind, sizeof m), __VA_ARGS__}; \
		print(#type, &m, sizeof m); \
	} while (0)


int main(void)
{
	struct sp_hello hello = {.head = head(SP_HELLO, sizeof hello), .flags = SP_HELLO_MUSL | SP_HELLO_BRIEF, .parent = 9};
	memset(hello.token, 'f', sizeof hello.token);
	print("sp_hello", &hello, sizeof hello);

	struct sp_hello_answer answer = {.head = head(SP_HELLO | SP_ANSWER, sizeof answer),
					 .serve = SP_SERVE_TCP | SP_SERVE_UDP | SP_SERVE_NAMES | SP_SERVE_HOSTNAME |
						  SP_SERVE_FILES | SP_SERVE_EXEC,
					 .lost = SP_LOST_HOST, .table = 3, .reserved = 4, .hostname = "orders-0"};
	print("sp_hello_answer", &answer, sizeof answer);

	struct sp_table table = {SP_TABLE_MAGIC, 2, 3, 4};
	print("sp_table", &table, sizeof table);
	struct sp_rule rule = {1, 2, 3, 4, SP_PATH_HIDDEN, 6, 30};
	print("sp_rule", &rule, sizeof rule);

	struct sp_address a = address(), b = address();
	PRINT(sp_connect, SP_CONNECT, SP_UDP, SP_LATE_MS, SP_CONNECT_NONBLOCK | SP_CONNECT_V6ONLY, 4, 5, a, b);
	PRINT(sp_connect_answer, SP_CONNECT | SP_ANSWER, SP_LATER_PLACE, 2, a);
	PRINT(sp_why, SP_WHY, 1);
	PRINT(sp_why_answer, SP_WHY | SP_ANSWER, 113, 2);
	PRINT(sp_closing, SP_CLOSING, 1);
	PRINT(sp_bind, SP_BIND, SP_TCP, SP_BIND_TAKEN | SP_BIND_V6ONLY | SP_BIND_REUSEPORT, 98, 4, 5, a);
	PRINT(sp_bind_answer, SP_BIND | SP_ANSWER, SP_POD, 2, a);
	PRINT(sp_bound, SP_BOUND, SP_TCP, 2, 3, a, b);
	PRINT(sp_listen, SP_LISTEN, SP_TCP, 128, 3, a);
	PRINT(sp_who, SP_WHO, SP_TCP, 2, a, b);
	PRINT(sp_who_answer, SP_WHO | SP_ANSWER, 1, 2, a, b);
	PRINT(sp_datagram, SP_DATAGRAM, 1, 2, 3, a, b);
	PRINT(sp_lookup, SP_LOOKUP, 2, SP_LOOKUP_CANONICAL | SP_LOOKUP_CONFIGURED);
	PRINT(sp_lookup_answer, SP_LOOKUP | SP_ANSWER, SP_ASK_HOST, 2, 3, 4);
	PRINT(sp_reverse, SP_REVERSE, a);
	PRINT(sp_resolve, SP_RESOLVE, SP_RESOLVE_SEARCH, 2);
	PRINT(sp_resolve_answer, SP_RESOLVE | SP_ANSWER, SP_TRY_AGAIN, 2);
	PRINT(sp_fetch, SP_FETCH, 1, 2);
	PRINT(sp_path, SP_STAT, SP_NOFOLLOW, 2);
	PRINT(sp_stat_answer, SP_STAT | SP_ANSWER, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	PRINT(sp_list_answer, SP_LIST | SP_ANSWER, 1, 2);
	struct sp_entry entry = {1, 2, 3, {4, 5, 6, 7, 8}};
	print("sp_entry", &entry, sizeof entry);
	PRINT(sp_exec, SP_EXEC, 1, 2);
	PRINT(sp_exec_answer, SP_EXEC | SP_ANSWER, SP_EXEC_HOST, 2);
	PRINT(sp_notice, SP_NOTICE, SP_NOTICE_ERROR, 2);
	PRINT(sp_lookup, SP_LINK, 0, 0);
	PRINT(sp_lookup, SP_LIST, 0, 0);
	struct sp_head later = head(SP_LATER, sizeof later);
	print("sp_head", &later, sizeof later);
	return 0;
}
