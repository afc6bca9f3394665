// Files that the session is asked for: see fetch.h.
#include "fetch.h"

#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

// answered is the errno where the session is: EIO, as of a file system whose server has ended; ENOENT where all is the host's.
static int answered(int n) { return n == SP_GONE ? (sp_goes_on() ? -ENOENT : -EIO) : n; }

// ask asks SP_STAT, SP_LINK or SP_LIST.
static int ask(uint16_t kind, const char *path, uint32_t flags, void *answer, uint32_t room, uint32_t need, int *descriptor)
{
	struct sp_path question = {.flags = flags};
	struct sp_question q = {.kind = kind, .body = &question, .size = sizeof question, .tail = path, .tail_size = (uint32_t)strlen(path),
				.answer = answer, .room = room, .need = need};
	int n = answered(sp_ask(&q));
	if (descriptor)
		*descriptor = q.descriptor;
	else if (q.descriptor >= 0)
		sp_sys1(SYS_close, q.descriptor);
	return n;
}

static int asked_stat(const char *path, bool nofollow, struct sp_stat_answer *answer)
{
	return ask(SP_STAT, path, nofollow ? SP_NOFOLLOW : 0, answer, sizeof *answer, sizeof *answer, NULL);
}

void sp_fetch_link(char *link, int fd)
{
	static const char where[] = "/proc/self/fd/";
	size_t n = sizeof where - 1;
	memcpy(link, where, n);
	for (int scale = 1000000000; scale; scale /= 10)
		if (fd >= scale || scale == 1)
			link[n++] = (char)('0' + fd / scale % 10);
	link[n] = 0;
}

long sp_fetch_named(char *link, long length, uint64_t *inode)
{
	static const char before[] = "/memfd:" SP_MEMORY, after[] = " (deleted)"; // memfd_create(2)
	enum { FRONT = sizeof before - 1, END = sizeof after - 1, DIGITS = 16 };
	uint64_t number = 0;
	if (length < FRONT + DIGITS + END || memcmp(link, before, FRONT) != 0)
		return length;
	for (const char *c = link + FRONT; c < link + FRONT + DIGITS; c++)
		number = number << 4 | (uint64_t)(*c <= '9' ? *c - '0' : *c - 'a' + 10);
	if (inode)
		*inode = number;
	if (length < FRONT + DIGITS + 2 + END || link[FRONT + DIGITS] != ':')
		return length;
	length -= FRONT + DIGITS + 1 + END;
	memmove(link, link + FRONT + DIGITS + 1, (size_t)length);
	link[length] = 0;
	return length;
}

// text reads where a descriptor leads: the length, with a NUL behind; -errno.
static long text(int fd, char *path)
{
	char link[32];
	long n;
	sp_fetch_link(link, fd);
	n = sp_sys4(SYS_readlinkat, AT_FDCWD, link, path, SP_PATH_MAX - 1);
	if (n >= 0)
		path[n] = 0;
	return n;
}

bool sp_fetch_directory(int fd, char *path)
{
	long n = fd < 0 ? -1 : text(fd, path);
	return n > 0 && sp_path_stood(path) && sp_path_back(path, (size_t)n, SP_PATH_MAX) > 0;
}

static int opened(const char *path, int flags, uint32_t what)
{
	struct sp_fetch question = {.flags = (uint32_t)flags, .what = what};
	struct sp_head answer;
	struct sp_question q = {.kind = SP_FETCH, .body = &question, .size = sizeof question, .tail = path,
				.tail_size = (uint32_t)strlen(path), .answer = &answer, .room = sizeof answer, .need = sizeof answer};
	int n = answered(sp_ask(&q));
	long fd;
	if (n < 0)
		return sp_fail(n);
	if (q.descriptor < 0)
		return sp_fail(EIO);
	// The question had descriptors of its own: this one is to have the lowest number, as open(2) gives it.
	fd = sp_sys3(SYS_fcntl, q.descriptor, flags & O_CLOEXEC ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
	sp_sys1(SYS_close, q.descriptor);
	return (int)sp_result(fd);
}

int sp_fetch_open(const char *path, int flags) { return opened(path, flags, SP_FETCH_OPEN); }

int sp_fetch_watch(const char *path, int flags) { return opened(path, flags | O_CLOEXEC, SP_FETCH_WATCH); }

bool sp_fetch_place(const char *path, char *at)
{
	int fd = sp_fetch_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n = fd < 0 ? -1 : text(fd, at);
	if (fd >= 0) {
		sp_sys1(SYS_close, fd);
		if (n < 0)
			sp_fail(n);
	}
	return n >= 0;
}

#define SP_FILL(type)                                                                              \
	int sp_fetch_##type(const char *path, bool nofollow, struct type *s)                       \
	{                                                                                          \
		struct sp_stat_answer a;                                                           \
		int error = asked_stat(path, nofollow, &a);                                        \
		if (error < 0)                                                                     \
			return sp_fail(error);                                                     \
		*s = (struct type){.st_dev = a.device, .st_ino = a.inode, .st_mode = a.mode, .st_nlink = a.links, .st_uid = a.uid, \
				   .st_gid = a.gid, .st_size = (off_t)a.size, .st_blksize = 4096, .st_blocks = (blkcnt_t)a.blocks, \
				   .st_atim = {a.atime_sec, a.atime_nsec}, .st_mtim = {a.mtime_sec, a.mtime_nsec}, \
				   .st_ctim = {a.ctime_sec, a.ctime_nsec}};                        \
		return 0;                                                                          \
	}

SP_FILL(stat)
#ifdef __GLIBC__
SP_FILL(stat64)
#endif

#ifdef __GLIBC__
int sp_fetch_statx(const char *path, bool nofollow, struct statx *s)
{
	struct sp_stat_answer a;
	int error = asked_stat(path, nofollow, &a);
	if (error < 0)
		return sp_fail(error);
	*s = (struct statx){.stx_mask = STATX_BASIC_STATS, .stx_blksize = 4096, .stx_nlink = a.links, .stx_uid = a.uid, .stx_gid = a.gid,
			    .stx_mode = (uint16_t)a.mode, .stx_ino = a.inode, .stx_size = a.size, .stx_blocks = a.blocks,
			    .stx_atime = {.tv_sec = a.atime_sec, .tv_nsec = a.atime_nsec},
			    .stx_mtime = {.tv_sec = a.mtime_sec, .tv_nsec = a.mtime_nsec},
			    .stx_ctime = {.tv_sec = a.ctime_sec, .tv_nsec = a.ctime_nsec},
			    .stx_dev_major = major(a.device), .stx_dev_minor = minor(a.device)};
	return 0;
}
#endif

// memory returns the number of the pod's inode for a copy in memory, else 0. It has no link, which spares all other files the
// question whose they are.
static uint64_t memory(int fd, mode_t mode, uint64_t links)
{
	char path[SP_PATH_MAX];
	uint64_t inode = 0;
	long n = S_ISREG(mode) && !links ? text(fd, path) : -1;
	if (n > 0)
		sp_fetch_named(path, n, &inode);
	return inode;
}

// FETCHED is for the structures of stat and stat64. A copy's size is its own, however long the pod's file may be by now; a
// directory that the pod has no more is what the kernel says.
#define FETCHED(type)                                                                              \
	int sp_fetched_##type(int fd, struct type *s)                                              \
	{                                                                                          \
		char path[SP_PATH_MAX];                                                            \
		int saved = errno;                                                                 \
		uint64_t inode = memory(fd, s->st_mode, s->st_nlink);                              \
		if (inode) {                                                                       \
			s->st_dev = 0;                                                             \
			s->st_ino = inode;                                                         \
			s->st_nlink = 1;                                                           \
		} else if (S_ISDIR(s->st_mode) && sp_fetch_directory(fd, path) && sp_fetch_##type(path, false, s)) { \
			errno = saved;                                                             \
		}                                                                                  \
		return 0;                                                                          \
	}

FETCHED(stat)
#ifdef __GLIBC__
FETCHED(stat64)

int sp_fetched_statx(int fd, struct statx *s)
{
	char path[SP_PATH_MAX];
	int saved = errno;
	uint64_t inode = memory(fd, s->stx_mode, s->stx_nlink);
	if (inode) {
		s->stx_dev_major = s->stx_dev_minor = 0;
		s->stx_ino = inode;
		s->stx_nlink = 1;
	} else if (S_ISDIR(s->stx_mode) && sp_fetch_directory(fd, path) && sp_fetch_statx(path, false, s)) {
		errno = saved;
	}
	return 0;
}
#endif

// The session shows each file as the user's own, so that the owner's bits decide.
int sp_fetch_access(const char *path, int mode)
{
	struct sp_stat_answer a;
	int error = asked_stat(path, false, &a);
	if (error < 0)
		return sp_fail(error);
	if (((mode & R_OK) && !(a.mode & 0444)) || ((mode & X_OK) && !(a.mode & 0111)))
		return sp_fail(EACCES);
	return 0;
}

long sp_fetch_readlink(const char *path, bool real, char *out, size_t room)
{
	struct {
		struct sp_head head;
		char text[SP_PATH_MAX];
	} answer;
	int n = ask(SP_LINK, path, real ? SP_REAL : 0, &answer, sizeof answer, sizeof answer.head, NULL);
	size_t length;
	if (n < 0)
		return sp_fail(n);
	length = (size_t)n - sizeof answer.head;
	if (length > room)
		length = room;
	memcpy(out, answer.text, length);
	return (long)length;
}

int sp_fetch_list(const char *path, uint32_t *count)
{
	struct sp_list_answer answer;
	int fd, n = ask(SP_LIST, path, 0, &answer, sizeof answer, sizeof answer, &fd);
	if (n < 0)
		return n;
	*count = answer.count;
	return fd < 0 ? -EIO : fd;
}
