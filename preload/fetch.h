// The pod's files where there is no mount of the session's: each is asked for. A file that is opened is a sealed copy in
// memory, as new as the open; a directory that is opened is a file in memory, too, whose name says which one it is, so
// that it can be duplicated, passed on and inherited, and names be found beneath it.
#ifndef STEPIN_FETCH_H
#define STEPIN_FETCH_H

#include <sys/stat.h>

#include "paths.h"

// As open; flags are open's. -1 with errno.
int sp_fetch_open(const struct sp_where *p, int flags);

// sp_fetch_link writes the path of a descriptor, for calls that want a path; at least 32 bytes.
void sp_fetch_link(char *link, int fd);

// sp_fetch_directory tells whether a text of /proc/self/fd is that of a directory opened here, and makes it the path.
long sp_fetch_directory(char *link, long length);

// sp_fetch_folders tells whether this process has opened a directory here.
bool sp_fetch_folders(void);

// As the calls of these names. 0, or -1 with errno.
int sp_fetch_stat(const struct sp_where *p, bool nofollow, struct stat *s);
#ifdef __GLIBC__
int sp_fetch_stat64(const struct sp_where *p, bool nofollow, struct stat64 *s);
#endif
#ifdef __GLIBC__
int sp_fetch_statx(const struct sp_where *p, bool nofollow, struct statx *s);
#endif
int sp_fetch_access(const struct sp_where *p, int mode);

// As readlink.
long sp_fetch_readlink(const struct sp_where *p, char *out, size_t room);

// sp_fetch_list returns a descriptor with the directory's records (struct sp_entry), and how many; -errno.
int sp_fetch_list(const char *path, uint32_t *count);

#endif
