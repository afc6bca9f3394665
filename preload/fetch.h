// The pod's files where there is no mount of the session's: each is asked for. A file that is opened is a sealed copy in
// memory, as new as the open. A directory that is opened or stood in is an empty one of the session's in its place, so that
// it can be duplicated, passed on and inherited; names beneath it are asked for again.
#ifndef STEPIN_FETCH_H
#define STEPIN_FETCH_H

#include <sys/stat.h>

#include "paths.h"

// As open; flags are open's. -1 with errno.
int sp_fetch_open(const char *path, int flags);

// sp_fetch_watch opens what inotify can be pointed at (O_PATH); flags are O_DIRECTORY and O_NOFOLLOW. -1 with errno.
int sp_fetch_watch(const char *path, int flags);

// sp_fetch_link writes the path of a descriptor, for calls that want a path; at least 32 bytes.
void sp_fetch_link(char *link, int fd);

// sp_fetch_named turns a text of /proc/self/fd, if it is that of a file opened here, into the file's path, and returns its
// length; else the unchanged one. inode may be NULL.
long sp_fetch_named(char *link, long length, uint64_t *inode);

// sp_fetch_directory tells whether a descriptor is of a directory opened here, whose path it writes: SP_PATH_MAX bytes.
bool sp_fetch_directory(int fd, char *path);

// sp_fetch_place writes the kernel's path of the directory that stands for one of the pod's (SP_PATH_MAX bytes); false with
// errno. path may be within at.
bool sp_fetch_place(const char *path, char *at);

// As the calls of these names. 0, or -1 with errno.
int sp_fetch_stat(const char *path, bool nofollow, struct stat *s);
#ifdef __GLIBC__
int sp_fetch_stat64(const char *path, bool nofollow, struct stat64 *s);
int sp_fetch_statx(const char *path, bool nofollow, struct statx *s);
#endif
int sp_fetch_access(const char *path, int mode);

// sp_fetched_stat corrects what the kernel said of a descriptor, and returns 0: it must be what the path's says.
int sp_fetched_stat(int fd, struct stat *s);
#ifdef __GLIBC__
int sp_fetched_stat64(int fd, struct stat64 *s);
int sp_fetched_statx(int fd, struct statx *s);
#endif

// As readlink; real: as realpath, without a NUL.
long sp_fetch_readlink(const char *path, bool real, char *out, size_t room);

// sp_fetch_list returns a descriptor with the directory's records (struct sp_entry), and how many; -errno.
int sp_fetch_list(const char *path, uint32_t *count);

#endif
