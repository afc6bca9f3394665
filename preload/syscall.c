// libc's syscall(): Node's statx and others' newer calls go through it. The row of a number is called in place of libc's,
// with the very same arguments; a number without a row goes to libc's as if nobody had been here (a jump, not a call: a
// child of SYS_vfork or SYS_clone would return through a frame that its parent still needs).
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"
#include "sockets.h"

#ifndef __GLIBC__
int close_range(unsigned first, unsigned last, int flags); // close.c's; musl has none
#endif

typedef long row(long number, long a, long b, long c, long d, long e, long f);

// A row does what libc's function of that name does, by calling it: this library's own.
#define ROW(name, call)                                                                            \
	static long name(long number, long a, long b, long c, long d, long e, long f)              \
	{                                                                                          \
		(void)number, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;                \
		return call;                                                                       \
	}

ROW(row_connect, connect((int)a, (const struct sockaddr *)b, (socklen_t)c))
ROW(row_bind, bind((int)a, (const struct sockaddr *)b, (socklen_t)c))
ROW(row_listen, listen((int)a, (int)b))
ROW(row_accept, accept((int)a, (struct sockaddr *)b, (socklen_t *)c))
ROW(row_accept4, accept4((int)a, (struct sockaddr *)b, (socklen_t *)c, (int)d))
ROW(row_getpeername, getpeername((int)a, (struct sockaddr *)b, (socklen_t *)c))
ROW(row_getsockname, getsockname((int)a, (struct sockaddr *)b, (socklen_t *)c))
ROW(row_getsockopt, getsockopt((int)a, (int)b, (int)c, (void *)d, (socklen_t *)e))
ROW(row_sendto, sendto((int)a, (const void *)b, (size_t)c, (int)d, (const struct sockaddr *)e, (socklen_t)f))
ROW(row_recvfrom, recvfrom((int)a, (void *)b, (size_t)c, (int)d, (struct sockaddr *)e, (socklen_t *)f))
ROW(row_sendmsg, sendmsg((int)a, (const struct msghdr *)b, (int)c))
ROW(row_recvmsg, recvmsg((int)a, (struct msghdr *)b, (int)c))
ROW(row_sendmmsg, sendmmsg((int)a, (struct mmsghdr *)b, (unsigned)c, (sp_flags)d))
ROW(row_recvmmsg, recvmmsg((int)a, (struct mmsghdr *)b, (unsigned)c, (sp_flags)d, (struct timespec *)e))

// Of the files: those that programs make past libc, and what libc's own functions of that name do not do.
#ifdef __x86_64__ // the other architectures have them with a directory only
ROW(row_open, open((const char *)a, (int)b, (mode_t)c))
ROW(row_stat, stat((const char *)a, (struct stat *)b))
ROW(row_lstat, lstat((const char *)a, (struct stat *)b))
ROW(row_access, access((const char *)a, (int)b))
ROW(row_readlink, readlink((const char *)a, (char *)b, (size_t)c))
#endif
ROW(row_openat, openat((int)a, (const char *)b, (int)c, (mode_t)d))
ROW(row_openat2, sp_openat2((int)a, (const char *)b, (const struct sp_open_how *)c, (size_t)d))
ROW(row_newfstatat, fstatat((int)a, (const char *)b, (struct stat *)c, (int)d))
ROW(row_faccessat, faccessat((int)a, (const char *)b, (int)c, 0))
ROW(row_faccessat2, faccessat((int)a, (const char *)b, (int)c, (int)d))
ROW(row_readlinkat, readlinkat((int)a, (const char *)b, (char *)c, (size_t)d))
ROW(row_chdir, chdir((const char *)a))
ROW(row_fchdir, fchdir((int)a))
ROW(row_getcwd, sp_getcwd((char *)a, (size_t)b))
ROW(row_unlinkat, unlinkat((int)a, (const char *)b, (int)c))
ROW(row_mkdirat, mkdirat((int)a, (const char *)b, (mode_t)c))
ROW(row_close, close((int)a))
ROW(row_dup3, dup3((int)a, (int)b, (int)c))
ROW(row_execve, execve((const char *)a, (char *const *)b, (char *const *)c))

// A ring connects, opens and executes past this library. Who is told that there is none does without: libuv, Netty and
// their like have another way. Those that make the call by machine code of their own (liburing) cannot be told.
static long no_ring(void)
{
	sp_notice(SP_NOTICE_ERROR, "a program wanted io_uring, which would lead past the pod, and was told that this machine has none; "
				   "if it cannot do without: \"frontEnd\": \"namespaces\"");
	return sp_fail(ENOSYS);
}

ROW(row_io_uring_setup, no_ring())
ROW(row_close_range, close_range((unsigned)a, (unsigned)b, (int)c))
#ifdef __GLIBC__
ROW(row_statx, statx((int)a, (const char *)b, (int)c, (unsigned)d, (struct statx *)e))
ROW(row_getdents64, getdents64((int)a, (void *)b, (size_t)c))
ROW(row_renameat2, renameat2((int)a, (const char *)b, (int)c, (const char *)d, (unsigned)e))
ROW(row_execveat, execveat((int)a, (const char *)b, (char *const *)c, (char *const *)d, (int)e))
#endif

static const struct {
	long number;
	row *call;
} rows[] = {
	{SYS_connect, row_connect},
	{SYS_bind, row_bind},
	{SYS_listen, row_listen},
	{SYS_accept, row_accept},
	{SYS_accept4, row_accept4},
	{SYS_getpeername, row_getpeername},
	{SYS_getsockname, row_getsockname},
	{SYS_getsockopt, row_getsockopt},
	{SYS_sendto, row_sendto},
	{SYS_recvfrom, row_recvfrom},
	{SYS_sendmsg, row_sendmsg},
	{SYS_recvmsg, row_recvmsg},
	{SYS_sendmmsg, row_sendmmsg},
	{SYS_recvmmsg, row_recvmmsg},
#ifdef __x86_64__ // as above
	{SYS_open, row_open},
	{SYS_stat, row_stat},
	{SYS_lstat, row_lstat},
	{SYS_access, row_access},
	{SYS_readlink, row_readlink},
#endif
	{SYS_openat, row_openat},
	{SYS_openat2, row_openat2},
	{SYS_newfstatat, row_newfstatat},
	{SYS_faccessat, row_faccessat},
	{SYS_faccessat2, row_faccessat2},
	{SYS_readlinkat, row_readlinkat},
	{SYS_chdir, row_chdir},
	{SYS_fchdir, row_fchdir},
	{SYS_getcwd, row_getcwd},
	{SYS_unlinkat, row_unlinkat},
	{SYS_mkdirat, row_mkdirat},
	{SYS_close, row_close},
	{SYS_close_range, row_close_range},
	{SYS_dup3, row_dup3},
	{SYS_execve, row_execve},
	{SYS_io_uring_setup, row_io_uring_setup},
#ifdef __GLIBC__
	{SYS_statx, row_statx},
	{SYS_getdents64, row_getdents64},
	{SYS_renameat2, row_renameat2},
	{SYS_execveat, row_execveat},
#endif
};

// The slot by hand: SP_WRAP defines a C function, and this one is below.
typedef long sp_type_syscall(long, ...);
static struct sp_slot SP_SLOT(syscall);

// sp_row returns what syscall shall be for this number.
__attribute__((used, visibility("hidden"))) void *sp_row(long number)
{
	if (sp_serves(~0u))
		for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
			if (rows[i].number == number)
				return (void *)rows[i].call;
	return (void *)SP_NEXT(syscall);
}

// SP_WRAP(long, syscall, (long number, ...)), which saves the registers of its arguments around sp_row.
#if defined(__x86_64__)
__asm__(".text\n"
	".globl syscall\n"
	".type syscall,@function\n"
	"syscall:\n"
	"	endbr64\n"
	"	push %rdi\n	push %rsi\n	push %rdx\n	push %rcx\n	push %r8\n	push %r9\n"
	"	sub $8,%rsp\n" // aligns
	"	call sp_row\n"
	"	add $8,%rsp\n"
	"	pop %r9\n	pop %r8\n	pop %rcx\n	pop %rdx\n	pop %rsi\n	pop %rdi\n"
	"	jmp *%rax\n" // the seventh argument lies where it lay
	".size syscall,.-syscall\n");
#elif defined(__aarch64__)
__asm__(".text\n"
	".globl syscall\n"
	".type syscall,%function\n"
	"syscall:\n"
	"	stp x29, x30, [sp, #-80]!\n"
	"	mov x29, sp\n"
	"	stp x0, x1, [sp, #16]\n"
	"	stp x2, x3, [sp, #32]\n"
	"	stp x4, x5, [sp, #48]\n"
	"	str x6, [sp, #64]\n"
	"	bl sp_row\n"
	"	mov x16, x0\n"
	"	ldp x0, x1, [sp, #16]\n"
	"	ldp x2, x3, [sp, #32]\n"
	"	ldp x4, x5, [sp, #48]\n"
	"	ldr x6, [sp, #64]\n"
	"	ldp x29, x30, [sp], #80\n"
	"	br x16\n"
	".size syscall,.-syscall\n");
#endif
