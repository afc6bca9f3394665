// close and dup. Our descriptor is none of the program's: to these calls it is not open, so that a program that closes all
// goes on seeing the pod.
#include <unistd.h>

#include "copies.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif

typedef unsigned int sp_number;

SP_WRAP(int, close, (int fd))
{
	if (sp_owns(fd))
		return sp_fail(EBADF);
	sp_closing((sp_number)fd, (sp_number)fd);
	return SP_NEXT(close)(fd);
}

SP_WRAP(int, dup, (int fd)) { return sp_owns(fd) ? sp_fail(EBADF) : SP_NEXT(dup)(fd); }

// Nor can its number be taken: EBADF is what a number beyond the limit gives, too (dup(2)).
SP_WRAP(int, dup2, (int from, int to))
{
	if (sp_owns(from) || sp_owns(to))
		return sp_fail(EBADF);
	if (from != to)
		sp_closing((sp_number)to, (sp_number)to);
	return SP_NEXT(dup2)(from, to);
}

SP_WRAP(int, dup3, (int from, int to, int flags))
{
	if (sp_owns(from) || sp_owns(to))
		return sp_fail(EBADF);
	if (from != to)
		sp_closing((sp_number)to, (sp_number)to);
	return SP_NEXT(dup3)(from, to, flags);
}

// ranged closes a range but for our descriptor, which is close-on-exec already.
static int ranged(sp_number first, sp_number last, int flags)
{
	int own = sp_descriptor();
	long n = 0;
	if (!(flags & CLOSE_RANGE_CLOEXEC))
		sp_closing(first, last);
	if (first > last || own < 0 || (sp_number)own < first || (sp_number)own > last)
		return (int)sp_result(sp_sys3(SYS_close_range, first, last, flags));
	if ((sp_number)own > first)
		n = sp_sys3(SYS_close_range, first, own - 1, flags);
	if (n == 0 && (sp_number)own < last)
		n = sp_sys3(SYS_close_range, own + 1, last, flags);
	return (int)sp_result(n);
}

SP_WRAP(int, close_range, (sp_number first, sp_number last, int flags))
{
	if (!sp_serves(~0u) && SP_NEXT(close_range))
		return SP_NEXT(close_range)(first, last, flags);
	return ranged(first, last, flags);
}

#ifdef __GLIBC__
SP_WRAP(void, closefrom, (int first))
{
	long limit;
	if (!sp_serves(~0u) && SP_NEXT(closefrom)) {
		SP_NEXT(closefrom)(first);
		return;
	}
	if (ranged(first < 0 ? 0 : (sp_number)first, ~0u, 0) == 0)
		return;
	limit = sysconf(_SC_OPEN_MAX); // a kernel before 5.9 has no close_range
	for (int fd = first < 0 ? 0 : first; fd < limit; fd++)
		if (!sp_owns(fd))
			sp_sys1(SYS_close, fd);
}
#endif
