// glob, which walks directories inside libc: it is told to do so by this library's functions (glob(3), GLOB_ALTDIRFUNC).
// musl's knows no such thing.
#include <dirent.h>
#include <glob.h>
#include <sys/stat.h>

#include "core.h"

#ifdef __GLIBC__

typedef int sp_glob_error(const char *path, int error);

static void *opened(const char *path) { return opendir(path); }

static struct dirent *next(void *d) { return readdir(d); }

static void closed(void *d) { closedir(d); }

static int status(const char *restrict path, struct stat *restrict s) { return stat(path, s); }

static int link_status(const char *restrict path, struct stat *restrict s) { return lstat(path, s); }

SP_WRAP(int, glob, (const char *pattern, int flags, sp_glob_error *failed, glob_t *found))
{
	int result;
	if (!found || flags & GLOB_ALTDIRFUNC || !sp_serves(SP_SERVE_FILES))
		return SP_NEXT(glob)(pattern, flags, failed, found);
	found->gl_opendir = opened;
	found->gl_readdir = next;
	found->gl_closedir = closed;
	found->gl_stat = status;
	found->gl_lstat = link_status;
	result = SP_NEXT(glob)(pattern, flags | GLOB_ALTDIRFUNC, failed, found);
	found->gl_flags &= ~GLOB_ALTDIRFUNC;
	return result;
}

// On both architectures it is glob by another name, in glibc as well.
_Static_assert(sizeof(glob_t) == sizeof(glob64_t), "one structure");

SP_WRAP(int, glob64, (const char *pattern, int flags, sp_glob_error *failed, glob64_t *found))
{
	return glob(pattern, flags, failed, (glob_t *)(void *)found);
}
#endif
