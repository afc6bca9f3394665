// readlink and realpath. What they answer is the pod's: a path within the session's mount is turned back.
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fetch.h"
#include "paths.h"

// answer copies what the kernel said, turned back, as readlink does: cut off where there is no room, without a NUL.
static ssize_t answer(char *text, long n, char *out, size_t room)
{
	if (n < 0)
		return sp_fail(n);
	n = sp_fetch_named(text, n, NULL);
	n = sp_path_back(text, (size_t)n, SP_PATH_MAX);
	if (n < 0)
		return sp_fail(ENAMETOOLONG);
	if ((size_t)n > room)
		n = (long)room;
	memcpy(out, text, (size_t)n);
	return n;
}

static ssize_t linked(int dirfd, const char *path, char *out, size_t room)
{
	struct sp_where p;
	char text[SP_PATH_MAX];
	if (sp_path(&p, dirfd, path, SP_READS))
		return sp_path_failed(&p);
	if (!room)
		return sp_fail(EINVAL);
	if (sp_path_fetched(&p))
		return sp_fetch_readlink(p.use, false, out, room);
	return answer(text, sp_sys4(SYS_readlinkat, dirfd, p.use, text, sizeof text - 1), out, room);
}

SP_WRAP(ssize_t, readlink, (const char *path, char *out, size_t room))
{
	if (!sp_serves(SP_SERVE_FILES))
		return SP_NEXT(readlink)(path, out, room);
	return linked(AT_FDCWD, path, out, room);
}

SP_WRAP(ssize_t, readlinkat, (int dirfd, const char *path, char *out, size_t room))
{
	if (!sp_serves(SP_SERVE_FILES))
		return SP_NEXT(readlinkat)(dirfd, path, out, room);
	return linked(dirfd, path, out, room);
}

// real is realpath for a path that may be the pod's.
static char *real(const char *path, char *out);

SP_WRAP(char *, realpath, (const char *path, char *out))
{
	if (!path || !sp_serves(SP_SERVE_FILES))
		return SP_NEXT(realpath)(path, out);
	return real(path, out);
}

static char *real(const char *path, char *out)
{
	struct sp_where p;
	char *found;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p), NULL;
	if (sp_path_fetched(&p)) {
		char text[SP_PATH_MAX];
		long n = sp_fetch_readlink(p.use, true, text, sizeof text - 1);
		found = n < 0 ? NULL : out ? out : malloc((size_t)n + 1);
		if (found) {
			memcpy(found, text, (size_t)n);
			found[n] = 0;
		}
		return found;
	}
	found = SP_NEXT(realpath)(p.use, out);
	if (found && sp_path_back(found, strlen(found), out ? PATH_MAX : strlen(found) + 1) < 0) {
		if (!out) { // the pod's path is longer than this memory
			char *more = realloc(found, PATH_MAX);
			if (more && sp_path_back(more, strlen(more), PATH_MAX) >= 0)
				return more;
			free(more ? more : found);
		}
		errno = ENAMETOOLONG;
		return NULL;
	}
	return found;
}

#ifdef __GLIBC__
SP_WRAP(char *, canonicalize_file_name, (const char *path))
{
	if (!sp_serves(SP_SERVE_FILES))
		return SP_NEXT(canonicalize_file_name)(path);
	return real(path, NULL);
}

// Those of _FORTIFY_SOURCE end the program where the buffer is known to be too small: theirs to say.
SP_WRAP(char *, __realpath_chk, (const char *path, char *out, size_t size))
{
	if (!path || size < PATH_MAX || !sp_serves(SP_SERVE_FILES))
		return SP_NEXT(__realpath_chk)(path, out, size);
	return real(path, out);
}

SP_WRAP(ssize_t, __readlink_chk, (const char *path, char *out, size_t room, size_t size))
{
	if (size < room || !sp_serves(SP_SERVE_FILES))
		return SP_NEXT(__readlink_chk)(path, out, room, size);
	return linked(AT_FDCWD, path, out, room);
}

SP_WRAP(ssize_t, __readlinkat_chk, (int dirfd, const char *path, char *out, size_t room, size_t size))
{
	if (size < room || !sp_serves(SP_SERVE_FILES))
		return SP_NEXT(__readlinkat_chk)(dirfd, path, out, room, size);
	return linked(dirfd, path, out, room);
}
#endif
