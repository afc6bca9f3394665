// Where a path leads: to the host's file, to the pod's (another path, or the session's answer), or nowhere.
//
// How a wrapper is written:
//
//	SP_WRAP(int, stat, (const char *path, struct stat *s))
//	{
//		struct sp_where p;
//		if (sp_path(&p, AT_FDCWD, path, SP_READS))
//			return sp_path_failed(&p);
//		return SP_NEXT(stat)(p.use, s);
//	}
//
// p.use is the program's own pointer unless the path is the pod's; then it is absolute, so that a directory descriptor
// beside it has no meaning. A path that stays on the host costs one look at each of its bytes.
//
// The table's prefixes are compared with the path as it is written, after "..", "." and "//". Symbolic links of the host
// are not followed: where one leads to a covered path, the session puts both paths into the table. Those of the pod are
// the kernel's to follow, within the session's mount: an absolute one must lead there by its text, and is turned back
// by readlink.
#ifndef STEPIN_PATHS_H
#define STEPIN_PATHS_H

#include <fcntl.h>

#include "core.h"

// What a call does to its path, for rules with a write_error.
enum sp_how {
	SP_READS,
	SP_CHANGES, // what must be there: chmod, truncate, utime
	SP_REMOVES, // unlink, rmdir, rename
	SP_CREATES, // what must not be there: mkdir, symlink, link
};

struct sp_where {
	const char *use;
	const struct sp_rule *rule;  // NULL: the host's, or what the kernel finds by itself
	int error;
	char buffer[SP_PATH_MAX];    // not touched for a host path
};

// sp_path_near tells whether a path may be the pod's; paths.c's, for sp_path only.
bool sp_path_near(int dirfd, const char *path, enum sp_how how);
int sp_path_find(struct sp_where *p, int dirfd, const char *path, enum sp_how how);

// sp_path fills p and returns 0, or the errno that the call must end with.
static inline int sp_path(struct sp_where *p, int dirfd, const char *path, enum sp_how how)
{
	p->use = path;
	p->rule = NULL;
	p->error = 0;
	if (!sp_serves(SP_SERVE_FILES) || !sp_path_near(dirfd, path, how))
		return 0;
	return sp_path_find(p, dirfd, path, how);
}

// sp_path_failed is -1 with the errno that sp_path returned.
static inline int sp_path_failed(const struct sp_where *p) { return sp_fail(p->error); }

// sp_path_fetched tells that the session answers for this path: there is no FUSE.
static inline bool sp_path_fetched(const struct sp_where *p) { return p->rule && p->rule->action == SP_PATH_FETCH; }

// sp_path_fetches tells whether there are such paths at all, and sp_path_stood whether a path of the kernel's leads to a
// directory that stands for one.
bool sp_path_fetches(void);
bool sp_path_stood(const char *path);

// sp_path_back turns a path of the kernel's into the pod's where it lies in the session's mount: in place, with a NUL.
// Likewise that of a directory that stands for the pod's. Returns its length, the unchanged one if it is none of those, or
// -1 if there is no room.
long sp_path_back(char *path, size_t length, size_t room);

// sp_path_here is the working directory as the program shall see it; -errno. With a NUL.
long sp_path_here(char *here, size_t room);

// sp_path_moved is called before and after what changes the working directory.
void sp_path_moved(void);

// sp_path_forked is called in a fork child: the memory is its own.
void sp_path_forked(void);

// sp_path_rooted is called when the program has changed its root: no path of ours leads anywhere then.
void sp_path_rooted(void);

// The system calls of these names, for libc's syscall(); -1 with errno.
struct sp_open_how;
long sp_openat2(int dirfd, const char *path, const struct sp_open_how *how, size_t size);
long sp_getcwd(char *out, size_t room);

#endif
