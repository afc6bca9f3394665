// inotify_add_watch and extended attributes. The pod's files can be watched, but a change in the pod gives no event, as under
// namespaces: the kernel knows of what is done here only. That is said.
#include <errno.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/xattr.h>

#include "fetch.h"
#include "paths.h"

// Of a fetched path there are none: ENOTSUP, as of a file system without them.
static int named(struct sp_where *p, const char *path, enum sp_how how)
{
	if (!sp_path(p, AT_FDCWD, path, how) && sp_path_fetched(p))
		p->error = ENOTSUP;
	return p->error;
}

SP_WRAP(int, inotify_add_watch, (int fd, const char *path, uint32_t mask))
{
	struct sp_where p;
	char link[32];
	int result, at = -1;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p);
	if (sp_path_fetched(&p)) {
		at = sp_fetch_watch(p.use, (mask & IN_ONLYDIR ? O_DIRECTORY : 0) | (mask & IN_DONT_FOLLOW ? O_NOFOLLOW : 0));
		if (at < 0)
			return -1;
		sp_fetch_link(link, at);
		p.use = link;
		mask &= ~(uint32_t)IN_DONT_FOLLOW;
	}
	result = SP_NEXT(inotify_add_watch)(fd, p.use, mask);
	if (at >= 0)
		sp_sys1(SYS_close, at);
	if (result >= 0 && p.rule) // the session says each text once
		sp_notice(SP_NOTICE_TEXT, "the program watches the pod's files by inotify: what changes in the pod gives no event here");
	return result;
}

#define ATTRIBUTE(type, name, how, params, ...)                                                    \
	SP_WRAP(type, name, params)                                                                \
	{                                                                                          \
		struct sp_where p;                                                                  \
		if (named(&p, path, how))                                                          \
			return sp_path_failed(&p);                                                 \
		return SP_NEXT(name)(p.use, __VA_ARGS__);                                          \
	}

ATTRIBUTE(ssize_t, getxattr, SP_READS, (const char *path, const char *name, void *value, size_t size), name, value, size)
ATTRIBUTE(ssize_t, lgetxattr, SP_READS, (const char *path, const char *name, void *value, size_t size), name, value, size)
ATTRIBUTE(ssize_t, listxattr, SP_READS, (const char *path, char *list, size_t size), list, size)
ATTRIBUTE(ssize_t, llistxattr, SP_READS, (const char *path, char *list, size_t size), list, size)
ATTRIBUTE(int, setxattr, SP_CHANGES, (const char *path, const char *name, const void *value, size_t size, int flags), name, value, size, flags)
ATTRIBUTE(int, lsetxattr, SP_CHANGES, (const char *path, const char *name, const void *value, size_t size, int flags), name, value, size, flags)
ATTRIBUTE(int, removexattr, SP_CHANGES, (const char *path, const char *name), name)
ATTRIBUTE(int, lremovexattr, SP_CHANGES, (const char *path, const char *name), name)
