// opendir and its family. Within the session's mount a stream is libc's own. A directory that the session is asked for has
// a stream of ours: one mapping of memory, which its address tells from libc's (malloc gives no start of a page).
#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fetch.h"
#include "paths.h"

struct stream {
	uint64_t magic;
	size_t size;         // of the mapping, bytes
	uint32_t count, at;  // records; the next one
	const char *next;    // where that is
	const char *records;
	const char *path;
	_Atomic int fd;      // dirfd; -1: not asked for yet
	struct dirent entry; // the one that was read last
};

#define MAGIC 0x73746570696e4431ull

_Static_assert(sizeof(struct stream) < 4096, "one page in front of the records");

static struct stream *ours(DIR *d)
{
	struct stream *s = (struct stream *)(void *)d;
	return d && ((uintptr_t)d & 4095) == 0 && s->magic == MAGIC ? s : NULL;
}

// streamed opens a stream of a fetched directory; fd is its dirfd, or -1, and the stream's if that is made.
static struct stream *streamed(const char *path, int fd)
{
	uint32_t count;
	struct stat size;
	struct stream *s;
	size_t length = strlen(path) + 1;
	int list = sp_fetch_list(path, &count);
	long at, n = list < 0 ? list : sp_sys2(SYS_fstat, list, &size);
	if (n < 0)
		return sp_fail(n), NULL;
	at = sp_sys6(SYS_mmap, 0, 4096 + size.st_size + (long)length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	n = at < 0 && at > -4096 ? at : sp_sys4(SYS_pread64, list, at + 4096, size.st_size, 0);
	sp_sys1(SYS_close, list);
	if (n != size.st_size)
		return sp_fail(n < 0 ? n : EIO), NULL;
	s = (struct stream *)at; // NOLINT
	s->magic = MAGIC;
	s->size = 4096 + (size_t)size.st_size + length;
	s->records = s->next = (char *)s + 4096;
	s->count = count;
	s->fd = fd;
	s->path = memcpy((char *)s + 4096 + size.st_size, path, length);
	return s;
}

static void ended(struct stream *s)
{
	if (s->fd >= 0)
		sp_sys1(SYS_close, s->fd);
	sp_sys2(SYS_munmap, s, s->size);
}

SP_WRAP(DIR *, opendir, (const char *path))
{
	struct sp_where p;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p), NULL;
	return sp_path_fetched(&p) ? (DIR *)(void *)streamed(p.use, -1) : SP_NEXT(opendir)(p.use);
}

SP_WRAP(DIR *, fdopendir, (int fd))
{
	char path[SP_PATH_MAX];
	if (!sp_path_fetches() || !sp_fetch_directory(fd, path))
		return SP_NEXT(fdopendir)(fd);
	return (DIR *)(void *)streamed(path, fd);
}

SP_WRAP(int, closedir, (DIR * d))
{
	struct stream *s = ours(d);
	if (!s)
		return SP_NEXT(closedir)(d);
	ended(s);
	return 0;
}

// descriptor opens the directory for who wants more of it than its names.
static int descriptor(struct stream *s)
{
	int fd, none = -1;
	if (s->fd >= 0)
		return s->fd;
	fd = sp_fetch_open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && !atomic_compare_exchange_strong(&s->fd, &none, fd)) {
		sp_sys1(SYS_close, fd);
		fd = s->fd;
	}
	return fd;
}

SP_WRAP(int, dirfd, (DIR * d)) { return ours(d) ? descriptor(ours(d)) : SP_NEXT(dirfd)(d); }

static struct dirent *entry(struct stream *s)
{
	struct sp_entry e;
	const char *end = (char *)s + s->size;
	if (s->at >= s->count || end - s->next < (long)sizeof e)
		return NULL;
	memcpy(&e, s->next, sizeof e);
	if (e.length >= sizeof s->entry.d_name || end - s->next - (long)sizeof e < e.length)
		return NULL;
	s->entry.d_ino = e.inode;
	s->entry.d_off = ++s->at;
	s->entry.d_reclen = sizeof s->entry;
	s->entry.d_type = e.type;
	memcpy(s->entry.d_name, s->next + sizeof e, e.length);
	s->entry.d_name[e.length] = 0;
	s->next += sizeof e + e.length;
	return &s->entry;
}

SP_WRAP(struct dirent *, readdir, (DIR * d)) { return ours(d) ? entry(ours(d)) : SP_NEXT(readdir)(d); }

// read_r is the way of another time (readdir_r(3)): an end is no entry and no error.
static int read_r(struct stream *s, struct dirent *into, struct dirent **result)
{
	struct dirent *e = entry(s);
	*result = e ? memcpy(into, e, sizeof *e) : NULL;
	return 0;
}

SP_WRAP(int, readdir_r, (DIR * d, struct dirent *into, struct dirent **result))
{
	return ours(d) ? read_r(ours(d), into, result) : SP_NEXT(readdir_r)(d, into, result);
}

SP_WRAP(void, rewinddir, (DIR * d))
{
	struct stream *s = ours(d);
	if (!s) {
		SP_NEXT(rewinddir)(d);
		return;
	}
	s->at = 0;
	s->next = s->records;
}

SP_WRAP(long, telldir, (DIR * d)) { return ours(d) ? (long)ours(d)->at : SP_NEXT(telldir)(d); }

SP_WRAP(void, seekdir, (DIR * d, long at))
{
	struct stream *s = ours(d);
	if (!s) {
		SP_NEXT(seekdir)(d, at);
		return;
	}
	s->at = 0;
	s->next = s->records;
	while (s->at < (uint32_t)at && entry(s))
		;
}

#ifdef __GLIBC__
// records fills a buffer as the kernel does (getdents64(2)), from the entry on that the descriptor's position says.
static ssize_t records(struct stream *s, int fd, char *out, size_t room)
{
	enum { HEAD = offsetof(struct dirent, d_name), ALIGN = 8 };
	long from = sp_sys3(SYS_lseek, fd, 0, SEEK_CUR);
	size_t used = 0;
	struct dirent *e;
	bool full = false;
	while ((e = entry(s)) && !full) {
		size_t n = (HEAD + strlen(e->d_name) + 1 + ALIGN - 1) / ALIGN * ALIGN;
		if (e->d_off <= from)
			continue;
		full = used + n > room;
		if (full)
			break;
		e->d_reclen = (unsigned short)n;
		memcpy(out + used, e, n);
		used += n;
		sp_sys3(SYS_lseek, fd, e->d_off, SEEK_SET);
	}
	ended(s);
	return full && !used ? sp_fail(EINVAL) : (ssize_t)used;
}

SP_WRAP(ssize_t, getdents64, (int fd, void *out, size_t room))
{
	char path[SP_PATH_MAX];
	struct stream *s;
	if (!sp_path_fetches() || !sp_fetch_directory(fd, path))
		return SP_NEXT(getdents64) ? SP_NEXT(getdents64)(fd, out, room) : sp_result(sp_sys3(SYS_getdents64, fd, out, room));
	s = streamed(path, -1);
	return s ? records(s, fd, out, room) : -1;
}
#endif

typedef int chooses(const struct dirent *);
typedef int orders(const struct dirent **, const struct dirent **);

// dropped frees a list that is not finished.
static int dropped(struct stream *s, struct dirent **all, int n)
{
	ended(s);
	while (n)
		free(all[--n]);
	free(all);
	return sp_fail(ENOMEM);
}

// scanned is scandir of one of our streams, which it ends; libc's own reads past us.
static int scanned(struct stream *s, struct dirent ***list, chooses *choose, orders *order)
{
	struct dirent **all, *e;
	int n = 0;
	if (!s)
		return -1;
	all = malloc((s->count + 1) * sizeof *all);
	if (!all)
		return dropped(s, NULL, 0);
	while ((e = entry(s))) {
		if (choose && !choose(e))
			continue;
		all[n] = malloc(sizeof *e);
		if (!all[n])
			return dropped(s, all, n);
		memcpy(all[n++], e, sizeof *e);
	}
	ended(s);
	if (order)
		qsort(all, (size_t)n, sizeof *all, (int (*)(const void *, const void *))(void *)order);
	*list = all;
	return n;
}

SP_WRAP(int, scandir, (const char *path, struct dirent ***list, chooses *choose, orders *order))
{
	struct sp_where p;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p);
	if (!sp_path_fetched(&p))
		return SP_NEXT(scandir)(p.use, list, choose, order);
	return scanned(streamed(p.use, -1), list, choose, order);
}

#ifdef __GLIBC__
SP_WRAP(int, scandirat, (int dirfd, const char *path, struct dirent ***list, chooses *choose, orders *order))
{
	struct sp_where p;
	if (sp_path(&p, dirfd, path, SP_READS))
		return sp_path_failed(&p);
	if (!sp_path_fetched(&p))
		return SP_NEXT(scandirat)(dirfd, p.use, list, choose, order);
	return scanned(streamed(p.use, -1), list, choose, order);
}

// On both architectures struct dirent64 is struct dirent, with another name.
_Static_assert(sizeof(struct dirent) == sizeof(struct dirent64), "one structure");

typedef int chooses64(const struct dirent64 *);
typedef int orders64(const struct dirent64 **, const struct dirent64 **);

SP_WRAP(struct dirent64 *, readdir64, (DIR * d))
{
	return ours(d) ? (struct dirent64 *)(void *)entry(ours(d)) : SP_NEXT(readdir64)(d);
}

SP_WRAP(int, readdir64_r, (DIR * d, struct dirent64 *into, struct dirent64 **result))
{
	if (!ours(d))
		return SP_NEXT(readdir64_r)(d, into, result);
	return read_r(ours(d), (struct dirent *)(void *)into, (struct dirent **)(void *)result);
}

SP_WRAP(int, scandirat64, (int dirfd, const char *path, struct dirent64 ***list, chooses64 *choose, orders64 *order))
{
	return scandirat(dirfd, path, (struct dirent ***)(void *)list, (chooses *)(void *)choose, (orders *)(void *)order);
}

SP_WRAP(int, scandir64, (const char *path, struct dirent64 ***list, chooses64 *choose, orders64 *order))
{
	struct sp_where p;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p);
	if (!sp_path_fetched(&p))
		return SP_NEXT(scandir64)(p.use, list, choose, order);
	return scanned(streamed(p.use, -1), (struct dirent ***)(void *)list, (chooses *)(void *)choose, (orders *)(void *)order);
}
#endif
