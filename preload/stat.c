// stat and access, in all their names: those of the time before glibc 2.33 are in most programs that exist.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fetch.h"
#include "paths.h"

// The three shapes: PATH only, with flags, and after a version number. Each gives its answer through fill, which knows
// the structure.
#define SP_STAT(name, type, nofollow)                                                              \
	SP_WRAP(int, name, (const char *path, struct type *s))                                     \
	{                                                                                          \
		struct sp_where p;                                                                 \
		if (sp_path(&p, AT_FDCWD, path, SP_READS))                                         \
			return sp_path_failed(&p);                                                 \
		if (sp_path_fetched(&p))                                                           \
			return sp_fetch_##type(p.use, nofollow, s);                                \
		return SP_NEXT(name)(p.use, s);                                                    \
	}

// The descriptor itself, by AT_EMPTY_PATH: it is corrected as fstat's answer is. path has been read by the kernel.
static bool empty(const char *path, int flags) { return flags & AT_EMPTY_PATH && (!path || !*path); }

#define SP_STATAT(name, type)                                                                      \
	SP_WRAP(int, name, (int dirfd, const char *path, struct type *s, int flags))               \
	{                                                                                          \
		struct sp_where p;                                                                 \
		if (sp_path(&p, dirfd, path, SP_READS))                                            \
			return sp_path_failed(&p);                                                 \
		if (sp_path_fetched(&p))                                                           \
			return sp_fetch_##type(p.use, flags & AT_SYMLINK_NOFOLLOW, s);             \
		int result = SP_NEXT(name)(dirfd, p.use, s, flags);                                \
		return result == 0 && empty(path, flags) && sp_path_fetches() ? sp_fetched_##type(dirfd, s) : result; \
	}

#define SP_FSTAT(name, type)                                                                       \
	SP_WRAP(int, name, (int fd, struct type *s))                                               \
	{                                                                                          \
		int result = SP_NEXT(name) ? SP_NEXT(name)(fd, s) : (int)sp_result(sp_sys2(SYS_fstat, fd, s)); \
		return result == 0 && sp_path_fetches() ? sp_fetched_##type(fd, s) : result;       \
	}

#define SP_FXSTAT(name, type)                                                                      \
	SP_WRAP(int, name, (int version, int fd, struct type *s))                                  \
	{                                                                                          \
		int result = SP_NEXT(name)(version, fd, s);                                        \
		return result == 0 && sp_path_fetches() ? sp_fetched_##type(fd, s) : result;       \
	}

#define SP_XSTAT(name, type, nofollow)                                                             \
	SP_WRAP(int, name, (int version, const char *path, struct type *s))                        \
	{                                                                                          \
		struct sp_where p;                                                                 \
		if (sp_path(&p, AT_FDCWD, path, SP_READS))                                         \
			return sp_path_failed(&p);                                                 \
		if (sp_path_fetched(&p))                                                           \
			return sp_fetch_##type(p.use, nofollow, s);                                \
		return SP_NEXT(name)(version, p.use, s);                                           \
	}

#define SP_XSTATAT(name, type)                                                                     \
	SP_WRAP(int, name, (int version, int dirfd, const char *path, struct type *s, int flags))  \
	{                                                                                          \
		struct sp_where p;                                                                 \
		if (sp_path(&p, dirfd, path, SP_READS))                                            \
			return sp_path_failed(&p);                                                 \
		if (sp_path_fetched(&p))                                                           \
			return sp_fetch_##type(p.use, flags & AT_SYMLINK_NOFOLLOW, s);             \
		return SP_NEXT(name)(version, dirfd, p.use, s, flags);                             \
	}

SP_STAT(stat, stat, false)
SP_STAT(lstat, stat, true)
SP_STATAT(fstatat, stat)
SP_FSTAT(fstat, stat)
#ifdef __GLIBC__
SP_STAT(stat64, stat64, false)
SP_STAT(lstat64, stat64, true)
SP_STATAT(fstatat64, stat64)
SP_XSTAT(__xstat, stat, false)
SP_XSTAT(__lxstat, stat, true)
SP_XSTATAT(__fxstatat, stat)
SP_XSTAT(__xstat64, stat64, false)
SP_XSTAT(__lxstat64, stat64, true)
SP_XSTATAT(__fxstatat64, stat64)
SP_FSTAT(fstat64, stat64)
SP_FXSTAT(__fxstat, stat)
SP_FXSTAT(__fxstat64, stat64)
#endif

#ifdef __GLIBC__ // musl before 1.2.4 has none, nor have its programs
SP_WRAP(int, statx, (int dirfd, const char *path, int flags, unsigned mask, struct statx *s))
{
	struct sp_where p;
	int result;
	if (sp_path(&p, dirfd, path, SP_READS))
		return sp_path_failed(&p);
	if (sp_path_fetched(&p))
		return sp_fetch_statx(p.use, flags & AT_SYMLINK_NOFOLLOW, s);
	result = SP_NEXT(statx) ? SP_NEXT(statx)(dirfd, p.use, flags, mask, s)
				: (int)sp_result(sp_sys5(SYS_statx, dirfd, p.use, flags, mask, s));
	return result == 0 && empty(path, flags) && sp_path_fetches() ? sp_fetched_statx(dirfd, s) : result;
}
#endif

// allowed is the answer for a path with a write_error: as of a read-only file system (access(2), EROFS).
static int allowed(const struct sp_where *p, int mode, int result)
{
	if (result == 0 && (mode & W_OK) && p->rule && p->rule->write_error)
		return sp_fail(p->rule->write_error);
	return result;
}

#define SP_ACCESS(name)                                                                            \
	SP_WRAP(int, name, (const char *path, int mode))                                           \
	{                                                                                          \
		struct sp_where p;                                                                 \
		if (sp_path(&p, AT_FDCWD, path, SP_READS))                                         \
			return sp_path_failed(&p);                                                 \
		if (sp_path_fetched(&p))                                                           \
			return allowed(&p, mode, sp_fetch_access(p.use, mode));                    \
		return allowed(&p, mode, SP_NEXT(name)(p.use, mode));                              \
	}

SP_ACCESS(access)
SP_ACCESS(euidaccess)
SP_ACCESS(eaccess)

SP_WRAP(int, faccessat, (int dirfd, const char *path, int mode, int flags))
{
	struct sp_where p;
	if (sp_path(&p, dirfd, path, SP_READS))
		return sp_path_failed(&p);
	if (sp_path_fetched(&p))
		return allowed(&p, mode, sp_fetch_access(p.use, mode));
	return allowed(&p, mode, SP_NEXT(faccessat)(dirfd, p.use, mode, flags));
}

// Of a fetched path, the root's: nobody reads more from it than that there is room.
#define SP_STATFS(name, type, flags)                                                               \
	SP_WRAP(int, name, (const char *path, struct type *s))                                     \
	{                                                                                          \
		struct sp_where p;                                                                 \
		struct stat there;                                                                 \
		if (sp_path(&p, AT_FDCWD, path, SP_READS))                                         \
			return sp_path_failed(&p);                                                 \
		if (sp_path_fetched(&p))                                                           \
			p.use = sp_fetch_stat(p.use, false, &there) ? NULL : "/";                  \
		if (!p.use || SP_NEXT(name)(p.use, s))                                             \
			return -1;                                                                 \
		if (p.rule && p.rule->write_error)                                                 \
			s->flags |= ST_RDONLY;                                                     \
		return 0;                                                                          \
	}

SP_STATFS(statfs, statfs, f_flags)
SP_STATFS(statvfs, statvfs, f_flag)
#ifdef __GLIBC__
SP_STATFS(statfs64, statfs64, f_flags)
SP_STATFS(statvfs64, statvfs64, f_flag)
#endif

SP_WRAP(long, pathconf, (const char *path, int name))
{
	struct sp_where p;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p);
	return SP_NEXT(pathconf)(sp_path_fetched(&p) ? "/" : p.use, name);
}
