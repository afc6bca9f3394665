// The host's name: uname, gethostname.
#include "core.h"

#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

SP_WRAP(int, uname, (struct utsname *to))
{
	int result = SP_NEXT(uname)(to);
	if (result == 0 && sp_serves(SP_SERVE_HOSTNAME)) {
		memset(to->nodename, 0, sizeof to->nodename);
		memcpy(to->nodename, sp.hostname, strnlen(sp.hostname, sizeof to->nodename - 1));
	}
	return result;
}

// POSIX leaves open what happens where there is no room: glibc says ENAMETOOLONG after it filled the buffer, musl cuts.
SP_WRAP(int, gethostname, (char *to, size_t room))
{
	size_t length;
	if (!sp_serves(SP_SERVE_HOSTNAME))
		return SP_NEXT(gethostname)(to, room);
	length = strlen(sp.hostname) + 1;
	memcpy(to, sp.hostname, length < room ? length : room);
	if (length <= room)
		return 0;
#ifdef __GLIBC__
	return sp_fail(ENAMETOOLONG);
#else
	if (room)
		to[room - 1] = 0;
	return 0;
#endif
}

#ifdef __GLIBC__
// What gethostname is in a program compiled with _FORTIFY_SOURCE.
SP_WRAP(int, __gethostname_chk, (char *to, size_t room, size_t size))
{
	if (room > size) // libc's way of ending the program
		return SP_NEXT(__gethostname_chk)(to, room, size);
	return gethostname(to, room);
}
#endif
