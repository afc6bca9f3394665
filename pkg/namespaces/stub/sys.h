/*
 * sys.h: what stub.c, keeper.c and the agent's boot.c need instead of a libc: system calls, the entry point and a few
 * words about strings. It must never need a header of the machine it is built on (cross compilers come without them),
 * allocate, or grow beyond what those three programs call.
 */
#ifndef STEPIN_SYS_H
#define STEPIN_SYS_H

typedef unsigned long ulong;

/* Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (arm64 uses the generic ones). */
#if defined(__x86_64__)
enum {
	NR_read = 0, NR_write = 1, NR_close = 3, NR_rt_sigprocmask = 14, NR_nanosleep = 35, NR_getpid = 39, NR_execve = 59, NR_fcntl = 72,
	NR_getcwd = 79, NR_chdir = 80, NR_setsid = 112, NR_capget = 125, NR_capset = 126, NR_prctl = 157, NR_getdents64 = 217,
	NR_exit_group = 231, NR_openat = 257, NR_unlinkat = 263, NR_readlinkat = 267, NR_ppoll = 271, NR_dup3 = 292,
	NR_setns = 308, NR_memfd_create = 319, NR_execveat = 322, NR_pidfd_send_signal = 424, NR_pidfd_open = 434, NR_close_range = 436,
	O_DIRECTORY = 0x10000, O_NOFOLLOW = 0x20000,
};
#elif defined(__aarch64__)
enum {
	NR_read = 63, NR_write = 64, NR_close = 57, NR_rt_sigprocmask = 135, NR_nanosleep = 101, NR_execve = 221, NR_fcntl = 25,
	NR_getcwd = 17, NR_chdir = 49, NR_setsid = 157, NR_getpid = 172, NR_capget = 90, NR_capset = 91, NR_prctl = 167, NR_getdents64 = 61,
	NR_exit_group = 94, NR_openat = 56, NR_unlinkat = 35, NR_readlinkat = 78, NR_ppoll = 73, NR_dup3 = 24,
	NR_setns = 268, NR_memfd_create = 279, NR_execveat = 281, NR_pidfd_send_signal = 424, NR_pidfd_open = 434, NR_close_range = 436,
	O_DIRECTORY = 0x4000, O_NOFOLLOW = 0x8000,
};
#else
#error "stepin runs on x86-64 and aarch64 only"
#endif

enum { O_RDWR = 2, O_CLOEXEC = 0x80000, AT_FDCWD = -100, AT_REMOVEDIR = 0x200 };
enum { EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, E2BIG = 7, ENOEXEC = 8, EACCES = 13, ENOTDIR = 20, EINVAL = 22 };

/* sys makes one system call and returns its result, or minus the errno. */
#if defined(__x86_64__)
static inline long sys(long n, ulong a, ulong b, ulong c, ulong d, ulong e)
{
	long r;
	register ulong r10 __asm__("r10") = d;
	register ulong r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(r) : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
}
/* The kernel starts us with argc at the stack pointer; start gets its address and an aligned stack. */
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
#else
static inline long sys(long n, ulong a, ulong b, ulong c, ulong d, ulong e)
{
	register long x8 __asm__("x8") = n;
	register ulong x0 __asm__("x0") = a;
	register ulong x1 __asm__("x1") = b;
	register ulong x2 __asm__("x2") = c;
	register ulong x3 __asm__("x3") = d;
	register ulong x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory", "cc");
	return (long)x0;
}
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl start\n");
#endif

#define SYS0(n) sys(n, 0, 0, 0, 0, 0)
#define SYS1(n, a) sys(n, (ulong)(a), 0, 0, 0, 0)
#define SYS2(n, a, b) sys(n, (ulong)(a), (ulong)(b), 0, 0, 0)
#define SYS3(n, a, b, c) sys(n, (ulong)(a), (ulong)(b), (ulong)(c), 0, 0)
#define SYS4(n, a, b, c, d) sys(n, (ulong)(a), (ulong)(b), (ulong)(c), (ulong)(d), 0)
#define SYS5(n, a, b, c, d, e) sys(n, (ulong)(a), (ulong)(b), (ulong)(c), (ulong)(d), (ulong)(e))

/* start is the program; sp points to argc, argv, NULL, envp, NULL. */
__attribute__((noreturn, used)) void start(ulong *sp);

static inline __attribute__((noreturn)) void quit(int status)
{
	for (;;)
		SYS1(NR_exit_group, status);
}

/* put copies s to p, not beyond end - 1, ends it with a zero and returns where that is. */
static char *put(char *p, const char *end, const char *s)
{
	while (*s && p < end - 1)
		*p++ = *s++;
	*p = 0;
	return p;
}

/* number reads the decimal digits of s; stop, if not null, gets where they end. Overflow wraps: callers pass kernel numbers. */
static __attribute__((unused)) ulong number(const char *s, const char **stop)
{
	ulong n = 0;
	for (; *s >= '0' && *s <= '9'; s++)
		n = n * 10 + (ulong)(*s - '0');
	if (stop)
		*stop = s;
	return n;
}

#endif
