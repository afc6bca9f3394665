// One bit for each descriptor, so that a close of any other costs nothing. A dup has none: the session lets go with the first.
#include "copies.h"

#include "sockets.h"

enum { DESCRIPTORS = 65536, BITS = 64 }; // 8 KiB; a higher one is not handed out

static _Atomic uint64_t copied[DESCRIPTORS / BITS];

bool sp_may_copy(int fd) { return fd >= 0 && fd < DESCRIPTORS && sp_own_memory(); }

void sp_copied(int fd) { atomic_fetch_or(&copied[fd / BITS], (uint64_t)1 << fd % BITS); }

static void let_go(int fd)
{
	struct sp_closing closing = {.inode = sp_inode(fd)};
	struct sp_head answer;
	if (closing.inode) // 0: closed past this library, and the number is another's
		SP_ASK(SP_CLOSING, closing, answer);
}

void sp_closing(unsigned first, unsigned last)
{
	if (last >= DESCRIPTORS)
		last = DESCRIPTORS - 1;
	for (unsigned at = first; at <= last; at = (at / BITS + 1) * BITS) {
		_Atomic uint64_t *word = &copied[at / BITS];
		uint64_t mine = ~(uint64_t)0 << at % BITS;
		if (last / BITS == at / BITS)
			mine &= ~(uint64_t)0 >> (BITS - 1 - last % BITS);
		if (!(atomic_load_explicit(word, memory_order_relaxed) & mine))
			continue;
		if (!sp_own_memory())
			return;
		for (mine &= atomic_fetch_and(word, ~mine); mine; mine &= mine - 1)
			let_go((int)(at / BITS * BITS) + __builtin_ctzll(mine));
	}
}

void sp_copies_forked(void)
{
	for (int i = 0; i < DESCRIPTORS / BITS; i++)
		if (atomic_load_explicit(&copied[i], memory_order_relaxed))
			atomic_store_explicit(&copied[i], 0, memory_order_relaxed);
}
