// Files that the session is asked for: see fetch.h.
#include "fetch.h"

#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

// What makes the name of a file in memory a directory's. The kernel shows "/memfd:NAME (deleted)" (memfd_create(2)).
#define SP_FOLDER "stepin-folder:"
static const char before[] = "/memfd:" SP_FOLDER, after[] = " (deleted)";

enum { NAME_ROOM = 249 - sizeof SP_FOLDER }; // memfd_create(2): at most 249 bytes

// gone is the errno where the session is: EIO, as of a file system whose server has ended; ENOENT where all is the host's.
static int answered(int n) { return n == SP_GONE ? (sp_goes_on() ? -ENOENT : -EIO) : n; }

// ask asks SP_STAT, SP_LINK or SP_LIST.
static int ask(uint16_t kind, const char *path, bool nofollow, void *answer, uint32_t room, uint32_t need, int *descriptor)
{
	struct sp_path question = {.flags = nofollow ? SP_NOFOLLOW : 0};
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
	return ask(SP_STAT, path, nofollow, answer, sizeof *answer, sizeof *answer, NULL);
}

static _Atomic bool opened; // a directory, in this process

bool sp_fetch_folders(void) { return atomic_load_explicit(&opened, memory_order_relaxed); }

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

long sp_fetch_directory(char *link, long length)
{
	long front = sizeof before - 1, end = sizeof after - 1;
	if (length < front + end || memcmp(link, before, (size_t)front) != 0)
		return length;
	length -= front + end;
	memmove(link, link + front, (size_t)length);
	return length;
}

// folder opens a directory: it must be one.
static int folder(const struct sp_where *p, int flags)
{
	struct sp_stat_answer answer;
	char name[sizeof SP_FOLDER + NAME_ROOM];
	size_t n = strlen(p->use);
	int error = asked_stat(p->use, false, &answer);
	if (error < 0)
		return sp_fail(error);
	if (!S_ISDIR(answer.mode))
		return sp_fail(ENOTDIR);
	if (n >= NAME_ROOM)
		return sp_fail(ENAMETOOLONG);
	memcpy(name, SP_FOLDER, sizeof SP_FOLDER - 1);
	memcpy(name + sizeof SP_FOLDER - 1, p->use, n + 1);
	atomic_store(&opened, true);
	return (int)sp_result(sp_sys2(SYS_memfd_create, name, flags & O_CLOEXEC ? 1 : 0));
}

int sp_fetch_open(const struct sp_where *p, int flags)
{
	struct sp_fetch question = {.flags = (uint32_t)flags};
	struct sp_head answer;
	struct sp_question q = {.kind = SP_FETCH, .body = &question, .size = sizeof question, .tail = p->use,
				.tail_size = (uint32_t)strlen(p->use), .answer = &answer, .room = sizeof answer, .need = sizeof answer};
	int n;
	if (flags & O_DIRECTORY)
		return folder(p, flags);
	if (flags & O_NOFOLLOW) {
		struct sp_stat_answer s;
		n = asked_stat(p->use, true, &s);
		if (n < 0 || S_ISLNK(s.mode))
			return sp_fail(n < 0 ? n : ELOOP);
	}
	n = answered(sp_ask(&q));
	if (n == -EISDIR && (flags & O_ACCMODE) == O_RDONLY)
		return folder(p, flags);
	if (n < 0)
		return sp_fail(n);
	if (q.descriptor < 0)
		return sp_fail(EIO);
	if (!(flags & O_CLOEXEC))
		sp_sys3(SYS_fcntl, q.descriptor, F_SETFD, 0);
	return q.descriptor;
}

#define SP_FILL(type)                                                                              \
	int sp_fetch_##type(const struct sp_where *p, bool nofollow, struct type *s)                \
	{                                                                                          \
		struct sp_stat_answer a;                                                           \
		int error = asked_stat(p->use, nofollow, &a);                                      \
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
int sp_fetch_statx(const struct sp_where *p, bool nofollow, struct statx *s)
{
	struct sp_stat_answer a;
	int error = asked_stat(p->use, nofollow, &a);
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

// The session shows each file as the user's own, so that the owner's bits decide.
int sp_fetch_access(const struct sp_where *p, int mode)
{
	struct sp_stat_answer a;
	int error = asked_stat(p->use, false, &a);
	if (error < 0)
		return sp_fail(error);
	if (((mode & R_OK) && !(a.mode & 0444)) || ((mode & X_OK) && !(a.mode & 0111)))
		return sp_fail(EACCES);
	return 0;
}

long sp_fetch_readlink(const struct sp_where *p, char *out, size_t room)
{
	struct {
		struct sp_head head;
		char text[SP_PATH_MAX];
	} answer;
	int n = ask(SP_LINK, p->use, true, &answer, sizeof answer, sizeof answer.head, NULL);
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
	int fd, n = ask(SP_LIST, path, false, &answer, sizeof answer, sizeof answer, &fd);
	if (n < 0)
		return n;
	*count = answer.count;
	return fd < 0 ? -EIO : fd;
}
