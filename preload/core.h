// The core of libstepin.so, for the families of calls, of which each has its file.
//
// How a family is written:
//
//	SP_WRAP(int, connect, (int fd, const struct sockaddr *to, socklen_t length))
//	{
//		if (!sp_serves(SP_SERVE_TCP))
//			return SP_NEXT(connect)(fd, to, length);
//		...
//	}
//
// SP_WRAP makes the exported function, and what SP_NEXT needs to reach the next one (libc's). A test compares the SP_WRAP
// lines of all files with the symbols of the built library: nothing else is exported.
//
// The rules, for every line in here:
//  - It never crashes and never slows the program. First line: sp_serves; what is not for the session goes to SP_NEXT at
//    once, with the program's own arguments. Bad pointers are the kernel's to refuse: read a program's buffer only where
//    the call itself would have (and after it succeeded, where that can be).
//  - errno is the program's: it is set by sp_fail, or by SP_NEXT, by nothing else. Use sp_sysN of sys.h, not libc, for
//    system calls of our own: those set no errno and are not intercepted.
//  - No malloc, no stdio, no locale, no locks; no static buffers that are written after the constructor, but through
//    atomics of one word. So signal handlers, threads and fork need no care.
//  - vfork: what runs between vfork and exec shares the parent's memory: write to the stack only. sp_ask keeps to that.
//  - Stack: some threads have 16 KiB. At most 4 KiB per frame, but for names and paths.
//  - What waits, waits in sp_ask or in the kernel, in the program's thread, with its signals as they are.
//  - SP_NEXT may be NULL where libc has no such function (another libc, an older one): then use sp_sysN, or ENOSYS.
#ifndef STEPIN_CORE_H
#define STEPIN_CORE_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"
#include "sys.h"

// ---- The next function of a name.

struct sp_slot {
	const char *name;
	_Atomic(void *) next; // what dlsym(RTLD_NEXT) gave
};

// sp_next fills the slot at its first use. The constructor fills them all, since dlsym is not for signal handlers.
void *sp_next(struct sp_slot *slot);

#define SP_SLOT(name) __attribute__((used, section("sp_slots"))) sp_slot_##name = {#name, NULL}

#define SP_WRAP(type, name, params)                                                                \
	typedef type sp_type_##name params;                                                        \
	static struct sp_slot SP_SLOT(name);                                                       \
	__attribute__((visibility("default"))) type name params

#define SP_NEXT(name) ((sp_type_##name *)sp_next(&sp_slot_##name))

// ---- What this process is.

// sp_serves tells which of these (enum sp_serve) the session wants to be asked about: 0 in a process that is not the
// debuggee, or before it is known. The first call in a process greets the session, if the constructor has not yet.
uint32_t sp_serves(uint32_t what);

// The session's answer to SP_HELLO. Valid once sp_serves has returned something.
struct sp_state {
	_Atomic uint32_t phase;        // core.c's
	uint32_t serve;
	uint32_t lost;                 // enum sp_lost
	const struct sp_table *table;  // mapped for the process's life, NULL: none
	char hostname[72];
	char variable[128 + SP_PATH_MAX]; // "STEPIN_PRELOAD=…" as it was found: an exec with an empty environment puts it back
	char library[sizeof "LD_PRELOAD=" + SP_PATH_MAX]; // "LD_PRELOAD=" and this library's own path, likewise
};
extern struct sp_state sp;

// ---- Asking.

enum sp_ask_flags {
	SP_INTERRUPTIBLE = 1, // a signal whose handler asks for no restart ends the wait: -EINTR (SP_CONNECT: see sp_later)
	SP_ONE_WAY = 2,       // SP_NOTICE
	SP_ALONG = 4,         // the descriptor `along` goes with the question
};

struct sp_question {
	uint16_t kind;       // enum sp_kind
	uint16_t flags;      // enum sp_ask_flags
	void *body;          // the question's structure; its head is filled in by sp_ask
	uint32_t size;       // of it
	uint32_t tail_size;
	const void *tail;    // what follows it, or NULL
	void *answer;        // the answer's structure and tail
	uint32_t room;       // bytes there
	int along;           // with SP_ALONG
	uint32_t need;       // bytes without which an answer is none (its structure); what is missing is 0
	int descriptor;      // out: one that came with the answer (close-on-exec), or -1
	int pair;            // out, after -EINTR: where the answer will come; give it to sp_later or sp_drop. Else -1
};

// SP_GONE: no session any more; beyond every errno. See sp_goes_on.
#define SP_GONE (-4096)

// sp_ask returns the answer's length in bytes (at least need), a negative errno that the session gave (or -EINTR), or
// SP_GONE. It makes the connection anew where that was closed. Safe in every thread, signal handler, fork and vfork child.
int sp_ask(struct sp_question *q);

// sp_later goes on with an interrupted SP_CONNECT: the session is told that nobody waits, and answers at once.
int sp_later(struct sp_question *q);

// sp_drop gives an interrupted question up.
void sp_drop(struct sp_question *q);

// SP_ASK: the usual case, for variables of a question's and an answer's structure.
#define SP_ASK(number, question, reply)                                                            \
	sp_ask(&(struct sp_question){.kind = (number), .body = &(question), .size = sizeof(question), \
				     .answer = &(reply), .room = sizeof(reply), .need = sizeof(reply)})

// sp_goes_on tells what SP_GONE means: true: carry on as on the host (onLost: host), false: fail.
static inline bool sp_goes_on(void) { return sp.lost == SP_LOST_HOST; }

// sp_notice sends one line to the console; text without a pod's values.
void sp_notice(enum sp_notice_what what, const char *text);

// ---- Our own descriptor. The connection lives at a high number. It is close-on-exec; a process that closes it gets a
// new one at the next question, so nothing depends on it. But the number must not be handed to the program's calls:
// close and dup2 of it answer as if it were not open, close_range leaves it out.
bool sp_owns(int fd);
int sp_descriptor(void); // -1: none

// sp_forked is called in the child of a real fork (not vfork) by what wraps it: its questions need no getpid then.
void sp_forked(void);

// sp_own_memory tells whether this process's memory is its own: a child of vfork writes to its parent's.
bool sp_own_memory(void);

// ---- Small things.

// sp_fail sets errno and returns -1; takes an errno of either sign.
static inline int sp_fail(long error)
{
	errno = (int)(error < 0 ? -error : error);
	return -1;
}

// sp_result turns what sp_sysN returned into what libc's wrapper would return.
static inline long sp_result(long result) { return result < 0 && result > -4096 ? sp_fail(result) : result; }

// sp_readable tells whether a program's pointer may be read: a wrapper that looks at an argument before the kernel has
// must let the kernel refuse a bad one. Its first and its last page are tried; costs a system call each.
bool sp_readable(const void *from, size_t length);

#endif
