// open, openat, creat and fopen, in all their names. The descriptor is the kernel's own: of the host's file, of the pod's
// in the session's mount, or of a copy in memory where there is no such mount.
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fetch.h"
#include "paths.h"

// how says what open's flags do to a path. O_CREAT without O_EXCL may find the file; that is looked at in opened.
static enum sp_how how(int flags)
{
	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return SP_CREATES;
	if ((flags & O_PATH) != O_PATH && ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC)))
		return flags & O_CREAT ? SP_REMOVES : SP_CHANGES;
	return SP_READS;
}

// there tells whether O_CREAT makes nothing.
static bool there(const char *path)
{
	struct stat s;
	return sp_sys4(SYS_newfstatat, AT_FDCWD, path, &s, 0) == 0;
}

// opened tells whether the call ends here, with fd.
static bool opened(struct sp_where *p, int flags, int *fd)
{
	if (sp_path_fetched(p)) {
		*fd = sp_fetch_open(p->use, flags);
		return true;
	}
	// What is only read may be named with O_CREAT, too; a file that would come to be is refused.
	if ((flags & (O_CREAT | O_EXCL)) == O_CREAT && p->rule && p->rule->write_error && !there(p->use)) {
		*fd = sp_fail(p->rule->write_error);
		return true;
	}
	return false;
}

static mode_t mode_of(int flags, va_list args)
{
	return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, mode_t) : 0;
}

#define SP_OPEN(name)                                                                              \
	SP_WRAP(int, name, (const char *path, int flags, ...))                                     \
	{                                                                                          \
		struct sp_where p;                                                                  \
		va_list args;                                                                      \
		mode_t mode;                                                                       \
		int fd;                                                                            \
		va_start(args, flags);                                                             \
		mode = mode_of(flags, args);                                                       \
		va_end(args);                                                                      \
		if (sp_path(&p, AT_FDCWD, path, how(flags)))                                       \
			return sp_path_failed(&p);                                                 \
		if (p.rule && opened(&p, flags, &fd))                                              \
			return fd;                                                                 \
		return SP_NEXT(name)(p.use, flags, mode);                                          \
	}

#define SP_OPENAT(name)                                                                            \
	SP_WRAP(int, name, (int dirfd, const char *path, int flags, ...))                          \
	{                                                                                          \
		struct sp_where p;                                                                  \
		va_list args;                                                                      \
		mode_t mode;                                                                       \
		int fd;                                                                            \
		va_start(args, flags);                                                             \
		mode = mode_of(flags, args);                                                       \
		va_end(args);                                                                      \
		if (sp_path(&p, dirfd, path, how(flags)))                                          \
			return sp_path_failed(&p);                                                 \
		if (p.rule && opened(&p, flags, &fd))                                              \
			return fd;                                                                 \
		return SP_NEXT(name)(dirfd, p.use, flags, mode);                                   \
	}

#define SP_CREAT(name)                                                                             \
	SP_WRAP(int, name, (const char *path, mode_t mode))                                        \
	{                                                                                          \
		struct sp_where p;                                                                  \
		if (sp_path(&p, AT_FDCWD, path, SP_REMOVES))                                       \
			return sp_path_failed(&p);                                                 \
		return SP_NEXT(name)(p.use, mode);                                                 \
	}

// Those of _FORTIFY_SOURCE: without a mode.
#define SP_OPEN_2(name)                                                                            \
	SP_WRAP(int, name, (const char *path, int flags))                                          \
	{                                                                                          \
		struct sp_where p;                                                                  \
		int fd;                                                                            \
		if (sp_path(&p, AT_FDCWD, path, how(flags)))                                       \
			return sp_path_failed(&p);                                                 \
		if (p.rule && opened(&p, flags, &fd))                                              \
			return fd;                                                                 \
		return SP_NEXT(name)(p.use, flags);                                                \
	}

#define SP_OPENAT_2(name)                                                                          \
	SP_WRAP(int, name, (int dirfd, const char *path, int flags))                               \
	{                                                                                          \
		struct sp_where p;                                                                  \
		int fd;                                                                            \
		if (sp_path(&p, dirfd, path, how(flags)))                                          \
			return sp_path_failed(&p);                                                 \
		if (p.rule && opened(&p, flags, &fd))                                              \
			return fd;                                                                 \
		return SP_NEXT(name)(dirfd, p.use, flags);                                         \
	}

// fopen's mode, as flags of open (fopen(3)).
static int mode_flags(const char *mode)
{
	bool both = strchr(mode, '+') != NULL, exclusive = strchr(mode, 'x') != NULL;
	int flags = both ? O_RDWR : *mode == 'r' ? O_RDONLY : O_WRONLY;
	flags |= strchr(mode, 'e') ? O_CLOEXEC : 0;
	return flags | (*mode == 'r' ? 0 : O_CREAT | (exclusive ? O_EXCL : 0) | (*mode == 'w' ? O_TRUNC : O_APPEND));
}

// stream is fdopen of a fetched file.
static FILE *stream(int fd, const char *mode)
{
	FILE *f = fd < 0 ? NULL : fdopen(fd, mode);
	if (!f && fd >= 0)
		sp_sys1(SYS_close, fd);
	return f;
}

#define SP_FOPEN(name)                                                                             \
	SP_WRAP(FILE *, name, (const char *path, const char *mode))                                \
	{                                                                                          \
		struct sp_where p;                                                                  \
		int fd, flags;                                                                     \
		if (!sp_serves(SP_SERVE_FILES) || !sp_path_near(AT_FDCWD, path, SP_CHANGES))       \
			return SP_NEXT(name)(path, mode);                                          \
		flags = mode_flags(mode);                                                          \
		if (sp_path(&p, AT_FDCWD, path, how(flags)))                                       \
			return sp_path_failed(&p), NULL;                                           \
		if (p.rule && opened(&p, flags, &fd))                                              \
			return stream(fd, mode);                                                   \
		return SP_NEXT(name)(p.use, mode);                                                 \
	}

#define SP_FREOPEN(name)                                                                           \
	SP_WRAP(FILE *, name, (const char *path, const char *mode, FILE *stream))                  \
	{                                                                                          \
		struct sp_where p;                                                                  \
		char link[32];                                                                     \
		int fd, flags;                                                                     \
		if (!path || !sp_serves(SP_SERVE_FILES) || !sp_path_near(AT_FDCWD, path, SP_CHANGES)) \
			return SP_NEXT(name)(path, mode, stream);                                  \
		flags = mode_flags(mode);                                                          \
		if (sp_path(&p, AT_FDCWD, path, how(flags)))                                       \
			return sp_path_failed(&p), NULL;                                           \
		if (!p.rule || !opened(&p, flags, &fd))                                            \
			return SP_NEXT(name)(p.use, mode, stream);                                 \
		if (fd < 0)                                                                        \
			return NULL;                                                               \
		sp_fetch_link(link, fd);                                                           \
		stream = SP_NEXT(name)(link, mode, stream);                                        \
		sp_sys1(SYS_close, fd);                                                            \
		return stream;                                                                     \
	}

SP_OPEN(open)
SP_OPENAT(openat)
SP_CREAT(creat)
SP_FOPEN(fopen)
SP_FREOPEN(freopen)
#ifdef __GLIBC__
SP_OPEN(open64)
SP_OPENAT(openat64)
SP_CREAT(creat64)
SP_OPEN_2(__open_2)
SP_OPEN_2(__open64_2)
SP_OPENAT_2(__openat_2)
SP_OPENAT_2(__openat64_2)
SP_FOPEN(fopen64)
SP_FREOPEN(freopen64)
#endif

// openat2's structure and two of its flags (openat2(2)): musl comes without the kernel's headers.
struct sp_open_how {
	uint64_t flags, mode, resolve;
};
enum { BENEATH = 0x08, IN_ROOT = 0x10 };

// Who holds a path to a directory (BENEATH, IN_ROOT) is about the program's own tree, and left alone.
long sp_openat2(int dirfd, const char *path, const struct sp_open_how *wanted, size_t size)
{
	struct sp_where p;
	int fd;
	p.use = path;
	if (size >= sizeof *wanted && sp_readable(wanted, sizeof *wanted) && !(wanted->resolve & (BENEATH | IN_ROOT))) {
		if (sp_path(&p, dirfd, path, how((int)wanted->flags)))
			return sp_path_failed(&p);
		if (p.rule && opened(&p, (int)wanted->flags, &fd))
			return fd;
	}
	return sp_result(sp_sys4(SYS_openat2, dirfd, p.use, wanted, size));
}
