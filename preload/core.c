// The core: the next functions, the greeting, the questions. core.h says how it is used, protocol.h what is said.
#include "core.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>

// Those of glibc 2.34, in libc itself, would keep the library from older systems.
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
__asm__(".symver dladdr, dladdr@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver dlsym, dlsym@GLIBC_2.17");
__asm__(".symver dladdr, dladdr@GLIBC_2.17");
#endif

struct sp_state sp;

enum { UNKNOWN = 0, BEGINNING, READY, INERT };

// What the variable says, and the connection: its number in the upper half and the lower half of its inode's number in
// the lower, so that both change at once; 0: none. Socket inode numbers have 32 bits (get_next_ino).
static struct {
	const char *token;
	const char *path;
	bool host_without; // flag h
	_Atomic uint64_t connection;
	_Atomic uint32_t owner; // the process whose memory this is: only it may change `connection`
} own;

#define FAILED 125 // the exit status of stepin's own errors

// ---- Next functions.

// The linker makes these of the section.
extern struct sp_slot __start_sp_slots[], __stop_sp_slots[];

void *sp_next(struct sp_slot *slot)
{
	void *next = atomic_load_explicit(&slot->next, memory_order_acquire);
	if (!next) {
		int saved = errno;
		next = dlsym(RTLD_NEXT, slot->name);
		errno = saved;
		if (next)
			atomic_store_explicit(&slot->next, next, memory_order_release);
	}
	return next;
}

// ---- Our descriptor.

static uint32_t process(void) { return (uint32_t)sp_sys0(SYS_getpid); }

// identity returns what `connection` would be if fd were it; 0: it is no socket.
static uint64_t identity(int fd)
{
	struct stat st;
	if (sp_sys2(SYS_fstat, fd, &st) < 0 || !S_ISSOCK(st.st_mode))
		return 0;
	return (uint64_t)(uint32_t)fd << 32 | (uint32_t)st.st_ino;
}

int sp_descriptor(void)
{
	uint64_t c = atomic_load(&own.connection);
	return c && identity((int)(c >> 32)) == c ? (int)(c >> 32) : -1;
}

bool sp_owns(int fd)
{
	uint64_t c = atomic_load(&own.connection);
	return c && (int)(c >> 32) == fd && identity(fd) == c;
}

void sp_forked(void) { atomic_store(&own.owner, process()); }

bool sp_own_memory(void) { return atomic_load(&own.owner) == process(); }

// raised moves a descriptor to a number that programs do not count on, and that costs no large table: the kernel's
// table of descriptors has an entry for each number up to the highest.
static int raised(int fd)
{
	struct rlimit limit = {0, 0};
	long from = 960, moved;
	if (sp_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit) == 0 && limit.rlim_cur < 1024)
		from = limit.rlim_cur > 16 ? (long)limit.rlim_cur - 8 : 3;
	moved = sp_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, from);
	if (moved < 0)
		return fd;
	sp_sys1(SYS_close, fd);
	return (int)moved;
}

// ---- Sending and receiving.

union control { // room for two descriptors, aligned
	struct cmsghdr header;
	char bytes[CMSG_SPACE(2 * sizeof(int))];
};

// put sends one packet, with a descriptor if it is not -1, and behind it the one that goes along.
static long put(int fd, const struct sp_question *q, int passed)
{
	struct iovec parts[2] = {{q->body, q->size}, {(void *)(uintptr_t)q->tail, q->tail_size}};
	union control control = {0};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = q->tail_size ? 2 : 1};
	long n;
	if (passed >= 0) {
		int all[2] = {passed, q->along};
		size_t size = q->flags & SP_ALONG ? sizeof all : sizeof all[0];
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(size);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(size);
		memcpy(CMSG_DATA(&control.header), all, size);
	}
	do
		n = sp_sys3(SYS_sendmsg, fd, &message, MSG_NOSIGNAL);
	while (n == -EINTR);
	return n;
}

// get receives the answer from a pair, which it closes unless interrupted.
static int get(int pair, struct sp_question *q)
{
	struct sp_head none = {0}, *head = q->answer ? q->answer : &none;
	struct iovec part = {head, q->answer ? q->room : sizeof none};
	union control control = {0};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	long n;
	q->pair = -1;
	do
		n = sp_sys3(SYS_recvmsg, pair, &message, MSG_CMSG_CLOEXEC);
	while (n == -EINTR && !(q->flags & SP_INTERRUPTIBLE));
	// A session that closes without having read our SP_LATER resets the pair, but its answer is there.
	if (n == -ECONNRESET)
		n = sp_sys3(SYS_recvmsg, pair, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n == -EINTR) {
		q->pair = pair;
		return -EINTR;
	}
	sp_sys1(SYS_close, pair);
	if (n > 0 && message.msg_controllen >= CMSG_LEN(sizeof(int)) && control.header.cmsg_type == SCM_RIGHTS)
		memcpy(&q->descriptor, CMSG_DATA(&control.header), sizeof(int));
	if (n <= 0)
		return SP_GONE;
	if ((size_t)n < sizeof *head || (message.msg_flags & MSG_TRUNC) || head->kind != (q->kind | SP_ANSWER) || head->size != n)
		n = -EPROTO;
	else if (head->error)
		n = head->error > 0 && head->error < 4096 ? -head->error : -EPROTO;
	if (n < 0 && q->descriptor >= 0) {
		sp_sys1(SYS_close, q->descriptor);
		q->descriptor = -1;
	}
	if (n >= 0 && q->answer && n < q->need)
		memset((char *)q->answer + n, 0, q->need - n);
	return (int)n;
}

// send_on sends the question with one end of a new pair and returns the other; -errno.
static long send_on(int fd, struct sp_question *q)
{
	int pair[2] = {-1, -1};
	struct sp_head *head = q->body;
	long n;
	*head = (struct sp_head){SP_VERSION, q->kind, q->size + q->tail_size, process(), 0};
	if (!(q->flags & SP_ONE_WAY)) {
		n = sp_sys4(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
		if (n < 0)
			return n;
	}
	n = put(fd, q, pair[1]);
	if (pair[1] >= 0)
		sp_sys1(SYS_close, pair[1]);
	if (n < 0 && pair[0] >= 0)
		sp_sys1(SYS_close, pair[0]);
	return n < 0 ? n : pair[0];
}

// connected opens the way to the session; -errno.
static long connected(void)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	struct timeval limit = {SP_GREETING_MS / 1000, SP_GREETING_MS % 1000 * 1000};
	size_t length = strlen(own.path);
	long fd, n;
	if (length >= sizeof at.sun_path)
		return -ENAMETOOLONG;
	memcpy(at.sun_path, own.path, length);
	fd = sp_sys3(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	sp_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); // a full queue of a stopped session
	do
		n = sp_sys3(SYS_connect, fd, &at, sizeof at);
	while (n == -EINTR);
	if (n < 0) {
		sp_sys1(SYS_close, fd);
		return n;
	}
	limit = (struct timeval){0, 0};
	sp_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	return fd;
}

// greet says SP_HELLO; the result is send_on's.
static long greet(int fd, struct sp_hello *hello, uint32_t flags, const char *program, uint32_t length)
{
	struct sp_question q = {.kind = SP_HELLO, .body = hello, .size = sizeof *hello, .tail = program, .tail_size = length, .descriptor = -1};
	memcpy(hello->token, own.token, SP_TOKEN);
#ifndef __GLIBC__
	flags |= SP_HELLO_MUSL;
#endif
	hello->flags = flags;
	hello->parent = (uint32_t)sp_sys0(SYS_getppid);
	return send_on(fd, &q);
}

// reconnected makes a connection for this one question, and for later ones where this process owns the memory. It waits
// for no greeting: a session that refuses it closes the connection, and the question's pair with it.
static long reconnected(bool *keep)
{
	struct sp_hello hello;
	uint64_t old = atomic_load(&own.connection), new;
	long fd = connected(), pair;
	*keep = false;
	if (fd < 0)
		return fd;
	pair = greet((int)fd, &hello, SP_HELLO_BRIEF, NULL, 0);
	if (pair < 0) {
		sp_sys1(SYS_close, fd);
		return pair;
	}
	sp_sys1(SYS_close, pair);
	if (sp_own_memory()) {
		fd = raised((int)fd);
		new = identity((int)fd);
		*keep = atomic_compare_exchange_strong(&own.connection, &old, new);
	}
	return fd;
}

int sp_ask(struct sp_question *q)
{
	int fd = sp_descriptor();
	long pair = fd >= 0 ? send_on(fd, q) : -EPIPE;
	q->descriptor = q->pair = -1;
	if (pair == -EPIPE || pair == -ECONNRESET || pair == -ENOTCONN || pair == -EBADF) {
		bool keep;
		long other = reconnected(&keep);
		if (other < 0)
			return other == -EMFILE || other == -ENFILE ? (int)other : SP_GONE;
		pair = send_on((int)other, q);
		if (!keep)
			sp_sys1(SYS_close, other);
		if (pair == -EPIPE || pair == -ECONNRESET)
			return SP_GONE;
	}
	if (pair < 0)
		return q->flags & SP_ONE_WAY ? 0 : (int)pair;
	return get((int)pair, q);
}

int sp_later(struct sp_question *q)
{
	struct sp_head head = {SP_VERSION, SP_LATER, sizeof head, process(), 0};
	struct sp_question later = {.body = &head, .size = sizeof head};
	int pair = q->pair;
	put(pair, &later, -1); // if it fails, the answer is there or nobody will give one: get tells
	q->flags &= (uint16_t)~SP_INTERRUPTIBLE;
	return get(pair, q);
}

void sp_drop(struct sp_question *q)
{
	if (q->pair >= 0)
		sp_sys1(SYS_close, q->pair);
	q->pair = -1;
}

void sp_notice(enum sp_notice_what what, const char *text)
{
	struct sp_notice notice = {.what = (uint32_t)what};
	size_t length = strlen(text);
	if (length <= SP_MESSAGE_MAX - sizeof notice)
		sp_ask(&(struct sp_question){.kind = SP_NOTICE, .flags = SP_ONE_WAY, .body = &notice, .size = sizeof notice,
					     .tail = text, .tail_size = (uint32_t)length});
}

bool sp_readable(const void *from, size_t length)
{
	// The kernel reads the set before it finds fault with `how` (rt_sigprocmask(2): EFAULT, EINVAL).
	uintptr_t first = (uintptr_t)from & ~(uintptr_t)7, last = ((uintptr_t)from + (length ? length - 1 : 0)) & ~(uintptr_t)7;
	return sp_sys4(SYS_rt_sigprocmask, -1, first, NULL, 8) != -EFAULT &&
	       (last >> 12 == first >> 12 || sp_sys4(SYS_rt_sigprocmask, -1, last, NULL, 8) != -EFAULT);
}

// ---- The greeting.

static void say(const char *text) { sp_sys3(SYS_write, 2, text, strlen(text)); }

// refused ends a program that would run without the pod and not know it.
static void refused(const char *why)
{
	if (own.host_without)
		return;
	say("stepin: this program was to run as in the pod, but ");
	say(why);
	say("\nhint: the stepin that started it must still be running; start it again\n");
	sp_sys1(SYS_exit_group, FAILED);
}

// understood takes the variable apart: VERSION:FLAGS:TOKEN:PATH.
static bool understood(const char *value)
{
	const char *flags, *token;
	size_t n = strlen(value);
	if (n >= sizeof sp.variable - sizeof SP_VARIABLE || strncmp(value, "1:", 2) != 0)
		return false;
	memcpy(sp.variable, SP_VARIABLE "=", sizeof SP_VARIABLE);
	memcpy(sp.variable + sizeof SP_VARIABLE, value, n + 1);
	flags = sp.variable + sizeof SP_VARIABLE + 2;
	token = strchr(flags, ':');
	if (!token || strlen(token + 1) < SP_TOKEN + 3 || token[1 + SP_TOKEN] != ':' || token[SP_TOKEN + 2] != '/')
		return false;
	own.host_without = memchr(flags, 'h', (size_t)(token - flags)) != NULL;
	own.token = token + 1;
	own.path = token + SP_TOKEN + 2;
	return true;
}

// within waits until the pair has something, or closes.
static bool within(int pair, long ms)
{
	struct pollfd one = {.fd = pair, .events = POLLIN};
	struct timespec limit = {ms / 1000, ms % 1000 * 1000000}; // the kernel subtracts what has passed (ppoll(2), NOTES)
	long n;
	do
		n = sp_sys5(SYS_ppoll, &one, 1, &limit, NULL, 0);
	while (n == -EINTR);
	return n != 0;
}

// table maps what came with the greeting.
static const struct sp_table *table(int fd, uint32_t size)
{
	const struct sp_table *t;
	if (fd < 0 || size < sizeof *t)
		return NULL;
	t = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (t == MAP_FAILED)
		return NULL;
	return t->magic == SP_TABLE_MAGIC && t->size <= size && t->count <= (size - sizeof *t) / sizeof(struct sp_rule) ? t : NULL;
}

// library remembers this library's path, for a child's environment.
static void library(void)
{
	Dl_info info;
	size_t n, prefix = sizeof "LD_PRELOAD=" - 1;
	if (!dladdr(&sp, &info) || !info.dli_fname)
		return;
	n = strlen(info.dli_fname);
	if (n + prefix >= sizeof sp.library)
		return;
	memcpy(sp.library, "LD_PRELOAD=", prefix);
	memcpy(sp.library + prefix, info.dli_fname, n + 1);
}

// greeted is the constructor's work; false: the process is none of ours.
static bool greeted(void)
{
	const char *value = getenv(SP_VARIABLE);
	char program[SP_PATH_MAX];
	struct sp_hello hello;
	struct sp_hello_answer answer;
	struct sp_question q = {.kind = SP_HELLO, .answer = &answer, .room = sizeof answer, .need = sizeof answer, .descriptor = -1, .pair = -1};
	long fd, length, pair;
	int n;
	if (!value || !*value)
		return false;
	if (!understood(value))
		return refused(SP_VARIABLE " is not what this version of its library understands"), false;
	fd = connected();
	if (fd < 0)
		return refused("nobody answers at the socket of its session"), false;
	fd = raised((int)fd);
	length = sp_sys4(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", program, sizeof program);
	pair = greet((int)fd, &hello, 0, program, length > 0 ? (uint32_t)length : 0);
	if (pair < 0 || !within((int)pair, SP_GREETING_MS)) {
		sp_sys1(SYS_close, fd);
		return refused("its session did not answer the greeting within 2 seconds"), false;
	}
	n = get((int)pair, &q);
	if (n < 0) {
		sp_sys1(SYS_close, fd);
		return refused(n == -EPROTONOSUPPORT ? "its session is of another version than its library"
			       : n == -EACCES	     ? "its session does not know it"
						     : "its session closed the connection at the greeting"),
		       false;
	}
	sp.table = table(q.descriptor, answer.table);
	if (q.descriptor >= 0)
		sp_sys1(SYS_close, q.descriptor);
	if ((answer.serve & SP_SERVE_FILES) && !sp.table) {
		sp_sys1(SYS_close, fd);
		return refused("its session gave no table of paths"), false;
	}
	sp.serve = answer.serve;
	sp.lost = answer.lost;
	memcpy(sp.hostname, answer.hostname, sizeof sp.hostname - 1);
	atomic_store(&own.connection, identity((int)fd));
	if (!answer.serve)
		sp_sys1(SYS_close, fd);
	return answer.serve != 0;
}

static void begin(void)
{
	uint32_t unknown = UNKNOWN;
	if (!atomic_compare_exchange_strong(&sp.phase, &unknown, BEGINNING))
		return;
	int saved = errno;
	atomic_store(&own.owner, process());
	library();
	// cppcheck-suppress comparePointers
	for (struct sp_slot *s = __start_sp_slots; s < __stop_sp_slots; s++)
		sp_next(s);
	atomic_store(&sp.phase, greeted() ? READY : INERT);
	errno = saved;
}

__attribute__((constructor)) static void start(void) { begin(); }

uint32_t sp_serves(uint32_t what)
{
	uint32_t phase = atomic_load_explicit(&sp.phase, memory_order_acquire);
	if (phase == UNKNOWN) { // another library's constructor came first
		begin();
		phase = atomic_load(&sp.phase);
	}
	return phase == READY ? sp.serve & what : 0;
}
