// A table without locks: each entry is guarded by a counter, odd while somebody writes. A reader who meets a writer, and
// a writer who meets another, do without. A fork in between leaves one entry odd, which is then unused.
#include "remember.h"

#include <string.h>
#include <time.h>

enum {
	SETS = 128, // a power of two
	WAYS = 4,   // entries of 80 bytes in a set. A resolver or a QUIC client has a dozen peers; a busy UDP server some hundred
	WORDS = 9,
};

struct record {
	uint64_t until; // ms, monotonic
	uint64_t inode;
	struct sp_address of, is;
	uint64_t what;
};
_Static_assert(sizeof(struct record) == WORDS * 8, "a record is copied by words");

static struct entry {
	_Atomic uint64_t turn;
	_Atomic uint64_t word[WORDS];
} sets[SETS][WAYS];

static uint64_t now(void)
{
	struct timespec t = {0, 0};
	clock_gettime(CLOCK_MONOTONIC_COARSE, &t); // to some ms, and without a system call
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static struct entry *set_of(enum sp_memory what, uint64_t inode, const struct sp_address *of)
{
	uint64_t words[3], h = inode * 31 + what;
	memcpy(words, of, sizeof words);
	for (int i = 0; i < 3; i++) {
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15u; // Fibonacci hashing, Knuth 6.4
		h ^= h >> 32;                             // a product carries upwards only
	}
	return sets[h % SETS];
}

// load copies an entry; false: it is empty, or somebody is writing it.
static bool load(struct entry *e, struct record *r)
{
	uint64_t words[WORDS], turn = atomic_load_explicit(&e->turn, memory_order_acquire);
	if (turn & 1 || !turn)
		return false;
	for (int i = 0; i < WORDS; i++)
		words[i] = atomic_load_explicit(&e->word[i], memory_order_relaxed);
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&e->turn, memory_order_relaxed) != turn)
		return false;
	memcpy(r, words, sizeof *r);
	return true;
}

static bool about(const struct record *r, enum sp_memory what, uint64_t inode, const struct sp_address *of)
{
	return r->what == what && r->inode == inode && memcmp(&r->of, of, sizeof r->of) == 0;
}

struct sp_memo sp_recall(enum sp_memory what, uint64_t inode, const struct sp_address *of)
{
	struct entry *set = set_of(what, inode, of);
	struct record r;
	for (int i = 0; i < WAYS; i++)
		if (load(&set[i], &r) && about(&r, what, inode, of) && r.until > now())
			return (struct sp_memo){r.is, true};
	return (struct sp_memo){0};
}

void sp_remember(enum sp_memory what, uint64_t inode, const struct sp_address *of, const struct sp_address *is, uint32_t ttl)
{
	struct entry *set = set_of(what, inode, of), *e = set;
	struct record r, old;
	uint64_t words[WORDS], turn, oldest = UINT64_MAX;
	if (!ttl)
		return;
	// Its own entry, else an unused one, else the one that would have ended first.
	for (int i = 0; i < WAYS; i++) {
		if (atomic_load_explicit(&set[i].turn, memory_order_relaxed) & 1)
			continue;
		bool used = load(&set[i], &old);
		uint64_t until = used ? old.until : 0;
		if (used && about(&old, what, inode, of)) {
			e = &set[i];
			break;
		}
		if (until < oldest) {
			oldest = until;
			e = &set[i];
		}
	}
	turn = atomic_load_explicit(&e->turn, memory_order_relaxed);
	if (turn & 1 || !atomic_compare_exchange_strong(&e->turn, &turn, turn + 1))
		return;
	r = (struct record){now() + ttl, inode, *of, *is, what};
	memcpy(words, &r, sizeof words);
	atomic_thread_fence(memory_order_release);
	for (int i = 0; i < WORDS; i++)
		atomic_store_explicit(&e->word[i], words[i], memory_order_relaxed);
	atomic_store_explicit(&e->turn, turn + 2, memory_order_release);
}
