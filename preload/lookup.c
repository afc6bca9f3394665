// Names asked of the session.
#include "lookup.h"

#include <string.h>

// found reads an answer; n is what sp_ask said.
static void found(int n, struct sp_found *to)
{
	struct sp_lookup_answer head;
	size_t rest;
	to->count = to->length = 0;
	to->address = (const struct sp_address *)(const void *)(to->room + sizeof head);
	to->name = "";
	if (n < 0) {
		to->result = n == SP_GONE && sp_goes_on() ? SP_ASK_HOST : SP_TRY_AGAIN;
		return;
	}
	memcpy(&head, to->room, sizeof head);
	to->result = head.result;
	rest = (size_t)n > sizeof head ? (size_t)n - sizeof head : 0;
	if (head.count > SP_ADDRESSES_MAX || head.count * sizeof *to->address > rest ||
	    head.canonical > rest - head.count * sizeof *to->address || head.canonical > SP_NAME_MAX) {
		to->result = SP_NO_RECOVERY;
		return;
	}
	to->count = head.count;
	to->length = head.canonical;
	to->name = (const char *)(to->address + head.count);
}

void sp_find(const char *name, uint32_t family, uint32_t flags, struct sp_found *to)
{
	struct sp_lookup l = {.family = family, .flags = flags};
	struct sp_question q = {.kind = SP_LOOKUP, .body = &l, .size = sizeof l, .tail = name,
				// cppcheck-suppress ctuuninitvar
				.answer = to->room, .room = sizeof to->room, .need = sizeof(struct sp_lookup_answer)};
	size_t length = strnlen(name, SP_NAME_MAX + 2); // with a dot at its end
	if (length > SP_NAME_MAX + 1) {
		*(struct sp_lookup_answer *)(void *)to->room = (struct sp_lookup_answer){.result = SP_NO_NAME};
		found(sizeof(struct sp_lookup_answer), to);
		return;
	}
	q.tail_size = (uint32_t)length;
	found(sp_ask(&q), to);
}

void sp_find_name(const struct sp_address *address, struct sp_found *to)
{
	struct sp_reverse r = {.address = *address};
	struct sp_question q = {.kind = SP_REVERSE, .body = &r, .size = sizeof r,
				// cppcheck-suppress ctuuninitvar
				.answer = to->room, .room = sizeof to->room, .need = sizeof(struct sp_lookup_answer)};
	found(sp_ask(&q), to);
}
