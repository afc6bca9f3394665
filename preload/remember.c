// A table without locks: each entry is guarded by a counter, odd while somebody writes. A reader who meets a writer, and
// a writer who meets another, do without. A fork in between leaves one entry odd, which is then unused.
#include "remember.h"

#include <string.h>
#include <time.h>

enum {
	ENTRIES = 512, // of 80 bytes. A resolver or a QUIC client has a dozen peers; a busy UDP server some hundred
	WORDS = 9,
};

struct record {
	uint64_t until; // ms, monotonic
	uint64_t inode;
	struct sp_address of, is;
	uint64_t what;
};
_Static_assert(sizeof(struct record) == WORDS * 8, "a record is copied by words");

static struct {
	_Atomic uint64_t turn;
	_Atomic uint64_t word[WORDS];
} entries[ENTRIES];

static uint64_t now(void)
{
	struct timespec t = {0, 0};
	clock_gettime(CLOCK_MONOTONIC_COARSE, &t); // to some ms, and without a system call
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static unsigned place(enum sp_memory what, uint64_t inode, const struct sp_address *of)
{
	uint64_t words[3], h = inode * 31 + what;
	memcpy(words, of, sizeof words);
	for (int i = 0; i < 3; i++)
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15u; // Fibonacci hashing, Knuth 6.4
	return (unsigned)(h >> 32) % ENTRIES;
}

struct sp_memo sp_recall(enum sp_memory what, uint64_t inode, const struct sp_address *of)
{
	unsigned at = place(what, inode, of);
	uint64_t words[WORDS], turn = atomic_load_explicit(&entries[at].turn, memory_order_acquire);
	struct record r;
	struct sp_memo none = {0};
	if (turn & 1 || !turn)
		return none;
	for (int i = 0; i < WORDS; i++)
		words[i] = atomic_load_explicit(&entries[at].word[i], memory_order_relaxed);
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&entries[at].turn, memory_order_relaxed) != turn)
		return none;
	memcpy(&r, words, sizeof r);
	if (r.what != what || r.inode != inode || memcmp(&r.of, of, sizeof r.of) != 0 || r.until <= now())
		return none;
	return (struct sp_memo){r.is, true};
}

void sp_remember(enum sp_memory what, uint64_t inode, const struct sp_address *of, const struct sp_address *is, uint32_t ttl)
{
	unsigned at = place(what, inode, of);
	struct record r = {now() + ttl, inode, *of, *is, what};
	uint64_t words[WORDS], turn = atomic_load_explicit(&entries[at].turn, memory_order_relaxed);
	if (!ttl || turn & 1 || !atomic_compare_exchange_strong(&entries[at].turn, &turn, turn + 1))
		return;
	memcpy(words, &r, sizeof words);
	atomic_thread_fence(memory_order_release);
	for (int i = 0; i < WORDS; i++)
		atomic_store_explicit(&entries[at].word[i], words[i], memory_order_relaxed);
	atomic_store_explicit(&entries[at].turn, turn + 2, memory_order_release);
}
