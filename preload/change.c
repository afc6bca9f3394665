// What changes a tree: rename, unlink, mkdir, link, symlink, chmod, chown, truncate, times. Beneath a rule that is not to be
// written it ends with that rule's errno; else the session's mount decides.
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

#include "paths.h"

// Of a fetched path nothing can be changed: there is no file of the kernel's.
static int fixed(struct sp_where *p, int dirfd, const char *path, enum sp_how how)
{
	if (!sp_path(p, dirfd, path, how) && sp_path_fetched(p))
		p->error = EROFS;
	return p->error;
}

// apart is the errno for two paths: a file system of the pod's is another one than the host's, which the kernel looks at
// before it asks whether one may be written (rename(2), EXDEV).
static int apart(const struct sp_where *p, const struct sp_where *q)
{
	if (p->rule != q->rule && (!p->error || p->error == EROFS) && (!q->error || q->error == EROFS))
		return EXDEV;
	return p->error ? p->error : q->error;
}

#define ONE(name, how, params, dirfd, path, ...)                                                   \
	SP_WRAP(int, name, params)                                                                 \
	{                                                                                          \
		struct sp_where p;                                                                  \
		if (fixed(&p, dirfd, path, how))                                                   \
			return sp_path_failed(&p);                                                 \
		return SP_NEXT(name)(__VA_ARGS__);                                                 \
	}

#define TWO(name, how1, how2, params, dirfd1, path1, dirfd2, path2, ...)                           \
	SP_WRAP(int, name, params)                                                                 \
	{                                                                                          \
		struct sp_where p, q;                                                               \
		int error;                                                                         \
		fixed(&p, dirfd1, path1, how1);                                                    \
		fixed(&q, dirfd2, path2, how2);                                                    \
		error = apart(&p, &q);                                                             \
		if (error)                                                                         \
			return sp_fail(error);                                                     \
		return SP_NEXT(name)(__VA_ARGS__);                                                 \
	}

#define HERE AT_FDCWD
typedef unsigned int sp_renames; // renameat2's flags

ONE(unlink, SP_REMOVES, (const char *path), HERE, path, p.use)
ONE(unlinkat, SP_REMOVES, (int dirfd, const char *path, int flags), dirfd, path, dirfd, p.use, flags)
ONE(rmdir, SP_REMOVES, (const char *path), HERE, path, p.use)
ONE(remove, SP_REMOVES, (const char *path), HERE, path, p.use)
ONE(mkdir, SP_CREATES, (const char *path, mode_t mode), HERE, path, p.use, mode)
ONE(mkdirat, SP_CREATES, (int dirfd, const char *path, mode_t mode), dirfd, path, dirfd, p.use, mode)
ONE(mknod, SP_CREATES, (const char *path, mode_t mode, dev_t dev), HERE, path, p.use, mode, dev)
ONE(mknodat, SP_CREATES, (int dirfd, const char *path, mode_t mode, dev_t dev), dirfd, path, dirfd, p.use, mode, dev)
ONE(mkfifo, SP_CREATES, (const char *path, mode_t mode), HERE, path, p.use, mode)
ONE(mkfifoat, SP_CREATES, (int dirfd, const char *path, mode_t mode), dirfd, path, dirfd, p.use, mode)
ONE(symlink, SP_CREATES, (const char *text, const char *path), HERE, path, text, p.use)
ONE(symlinkat, SP_CREATES, (const char *text, int dirfd, const char *path), dirfd, path, text, dirfd, p.use)
ONE(chmod, SP_CHANGES, (const char *path, mode_t mode), HERE, path, p.use, mode)
ONE(lchmod, SP_CHANGES, (const char *path, mode_t mode), HERE, path, p.use, mode)
ONE(fchmodat, SP_CHANGES, (int dirfd, const char *path, mode_t mode, int flags), dirfd, path, dirfd, p.use, mode, flags)
ONE(chown, SP_CHANGES, (const char *path, uid_t uid, gid_t gid), HERE, path, p.use, uid, gid)
ONE(lchown, SP_CHANGES, (const char *path, uid_t uid, gid_t gid), HERE, path, p.use, uid, gid)
ONE(fchownat, SP_CHANGES, (int dirfd, const char *path, uid_t uid, gid_t gid, int flags), dirfd, path, dirfd, p.use, uid, gid, flags)
ONE(truncate, SP_CHANGES, (const char *path, off_t size), HERE, path, p.use, size)
ONE(utime, SP_CHANGES, (const char *path, const struct utimbuf *times), HERE, path, p.use, times)
ONE(utimes, SP_CHANGES, (const char *path, const struct timeval times[2]), HERE, path, p.use, times)
ONE(lutimes, SP_CHANGES, (const char *path, const struct timeval times[2]), HERE, path, p.use, times)
ONE(futimesat, SP_CHANGES, (int dirfd, const char *path, const struct timeval times[2]), dirfd, path, dirfd, p.use, times)
ONE(utimensat, SP_CHANGES, (int dirfd, const char *path, const struct timespec times[2], int flags), dirfd, path, dirfd, p.use, times, flags)
TWO(rename, SP_REMOVES, SP_REMOVES, (const char *from, const char *to), HERE, from, HERE, to, p.use, q.use)
TWO(renameat, SP_REMOVES, SP_REMOVES, (int fromfd, const char *from, int tofd, const char *to), fromfd, from, tofd, to, fromfd, p.use, tofd,
    q.use)
TWO(link, SP_READS, SP_CREATES, (const char *from, const char *to), HERE, from, HERE, to, p.use, q.use)
TWO(linkat, SP_READS, SP_CREATES, (int fromfd, const char *from, int tofd, const char *to, int flags), fromfd, from, tofd, to, fromfd, p.use,
    tofd, q.use, flags)
#ifdef __GLIBC__
TWO(renameat2, SP_REMOVES, SP_REMOVES, (int fromfd, const char *from, int tofd, const char *to, sp_renames flags), fromfd, from, tofd, to,
    fromfd, p.use, tofd, q.use, flags)
ONE(truncate64, SP_CHANGES, (const char *path, off64_t size), HERE, path, p.use, size)
ONE(__xmknod, SP_CREATES, (int version, const char *path, mode_t mode, dev_t *dev), HERE, path, version, p.use, mode, dev)
ONE(__xmknodat, SP_CREATES, (int version, int dirfd, const char *path, mode_t mode, dev_t *dev), dirfd, path, version, dirfd, p.use, mode, dev)
#endif
