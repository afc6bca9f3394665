// What libc does with a path inside itself, where nobody can stand between, and what has no meaning for the pod's files: for a
// path of the pod's it ends in ENOSYS and a line, since it would see this machine's file of that name.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "paths.h"

#ifdef __GLIBC__
#include <fts.h>
#include <ftw.h>
#include <sys/fanotify.h>

// refused tells whether a path is the pod's, and says so.
static bool refused(const char *call, int dirfd, const char *path)
{
	static const char after[] = " does not see the pod's files: it was refused";
	struct sp_where p;
	char line[32 + sizeof after];
	if (sp_path(&p, dirfd, path, SP_READS) || !p.rule)
		return false;
	memcpy(line, call, strlen(call));
	memcpy(line + strlen(call), after, sizeof after);
	sp_notice(SP_NOTICE_ERROR, line);
	errno = ENOSYS;
	return true;
}

#define SP_REFUSE(type, name, failed, params, dirfd, path, ...)                                    \
	SP_WRAP(type, name, params)                                                                \
	{                                                                                          \
		return refused(#name, dirfd, path) ? failed : SP_NEXT(name)(__VA_ARGS__);          \
	}

#define HERE AT_FDCWD

SP_REFUSE(int, nftw, -1, (const char *path, __nftw_func_t each, int fds, int flags), HERE, path, path, each, fds, flags)
SP_REFUSE(int, nftw64, -1, (const char *path, __nftw64_func_t each, int fds, int flags), HERE, path, path, each, fds, flags)
SP_REFUSE(int, ftw, -1, (const char *path, __ftw_func_t each, int fds), HERE, path, path, each, fds)
SP_REFUSE(int, ftw64, -1, (const char *path, __ftw64_func_t each, int fds), HERE, path, path, each, fds)
SP_REFUSE(int, name_to_handle_at, -1, (int dirfd, const char *path, struct file_handle *handle, int *mount, int flags), dirfd, path, dirfd, path,
	  handle, mount, flags)
SP_REFUSE(int, fanotify_mark, -1, (int fd, unsigned flags, uint64_t mask, int dirfd, const char *path), dirfd, path, fd, flags, mask, dirfd, path)

typedef int compares(const FTSENT **, const FTSENT **);
typedef int compares64(const FTSENT64 **, const FTSENT64 **);

SP_WRAP(FTS *, fts_open, (char *const *paths, int options, compares *compare))
{
	for (char *const *p = paths; p && *p; p++)
		if (refused("fts_open", HERE, *p))
			return NULL;
	return SP_NEXT(fts_open)(paths, options, compare);
}

SP_WRAP(FTS64 *, fts64_open, (char *const *paths, int options, compares64 *compare))
{
	for (char *const *p = paths; p && *p; p++)
		if (refused("fts_open", HERE, *p))
			return NULL;
	return SP_NEXT(fts64_open)(paths, options, compare);
}
#endif
