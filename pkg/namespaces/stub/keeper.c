/*
 * keeper DIR [MOUNTPOINT...]
 *
 * Outlives the session and the holder, and tidies up when both are gone. Descriptors 3 and 4 are the read ends of two
 * pipes whose write ends only the session and only the holder have; the kernel closes those however the two die. The session
 * writes the holder's process id, in decimal and with a newline, into descriptor 3. The keeper then opens the holder's mount
 * and network namespaces: the kernel gives a namespace's number to the next one as soon as nobody holds it, and a new
 * session's processes must not be taken for ours.
 *
 * When both are at their end: kill every process in one of these namespaces, again and again until there is none; remove
 * the mount points that were made for the session where they are empty directories; remove what is in DIR and in the
 * directories in DIR; remove DIR. Then exit. It has its own session (setsid) and blocks every signal, so nothing that
 * is aimed at a process group or a terminal reaches it.
 *
 * It must never follow a symbolic link out of DIR, touch a process outside those namespaces, write anything, or stay for
 * longer than ROUNDS * PAUSE after the two have gone.
 */
#include "sys.h"

enum { POLLIN = 1, SIGKILL = 9 };
enum { ROUNDS = 2000, PAUSE = 5000000 }; /* ten seconds: a process that hangs in the kernel that long is not ours to wait for */

struct pollfd { int fd; short events, revents; };
struct dirent { ulong ino; long off; unsigned short len; unsigned char type; char name[]; };

static ulong mnt, net; /* inode numbers of the holder's namespaces; 0 = it never got so far, so there is nobody to kill */

/* ns reads the namespace that the link says, "mnt:[4026531841]"; 0 when it cannot be read. */
static ulong ns(const char *dir, const char *kind)
{
	char path[96], to[64];
	put(put(path, path + sizeof path, dir), path + sizeof path, kind);
	long n = SYS4(NR_readlinkat, AT_FDCWD, path, to, sizeof to - 1);
	if (n < 6)
		return 0;
	to[n] = 0;
	return number(to + 5, 0);
}

static int inside(const char *dir)
{
	return ns(dir, "/ns/mnt") == mnt || ns(dir, "/ns/net") == net;
}

/* each calls f with fd, the directory's path and each name in it, and returns how often f said 1. */
static int each(int at, const char *dir, int (*f)(int fd, const char *dir, const char *name))
{
	__attribute__((aligned(8))) char buf[4096];
	int found = 0;
	long n, fd = SYS4(NR_openat, at, dir, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	while ((n = SYS3(NR_getdents64, fd, buf, sizeof buf)) > 0)
		for (long i = 0; i < n;) {
			struct dirent *d = (struct dirent *)(buf + i);
			i += d->len;
			if (d->name[0] != '.' || (d->name[1] && (d->name[1] != '.' || d->name[2])))
				found += f((int)fd, dir, d->name);
		}
	SYS1(NR_close, fd);
	return found;
}

/* A process whose first thread has ended shows its namespaces in its other threads only. */
static int thread(int fd, const char *dir, const char *name)
{
	char path[96], *end = path + sizeof path;
	(void)fd;
	put(put(put(path, end, dir), end, "/"), end, name);
	return inside(path);
}

static int process(int fd, const char *dir, const char *name)
{
	char path[96], *end = path + sizeof path;
	(void)fd;
	ulong pid = number(name, 0);
	if (!pid)
		return 0;
	char *p = put(put(put(path, end, dir), end, "/"), end, name);
	long pidfd = SYS2(NR_pidfd_open, pid, 0); /* first, so that what is looked at is what is killed */
	if (pidfd < 0)
		return 0;
	int ours = inside(path);
	if (!ours && !ns(path, "/ns/mnt")) {
		put(p, end, "/task");
		ours = each(AT_FDCWD, path, thread) != 0;
	}
	if (ours)
		SYS4(NR_pidfd_send_signal, pidfd, SIGKILL, 0, 0);
	SYS1(NR_close, pidfd);
	return ours;
}

static int removeFile(int fd, const char *dir, const char *name)
{
	(void)dir;
	if (SYS3(NR_unlinkat, fd, name, 0))
		SYS3(NR_unlinkat, fd, name, AT_REMOVEDIR);
	return 0;
}

static int removeEntry(int fd, const char *dir, const char *name)
{
	(void)dir;
	if (SYS3(NR_unlinkat, fd, name, 0)) {
		each(fd, name, removeFile);
		SYS3(NR_unlinkat, fd, name, AT_REMOVEDIR);
	}
	return 0;
}

/* hold opens both namespaces of the holder, for good, and notes their numbers. */
static void hold(const char *pid)
{
	char path[64], *end = path + sizeof path, *p = put(put(path, end, "/proc/"), end, pid);
	put(p, end, "/ns/mnt");
	long m = SYS4(NR_openat, AT_FDCWD, path, O_CLOEXEC, 0);
	put(p, end, "/ns/net");
	long n = SYS4(NR_openat, AT_FDCWD, path, O_CLOEXEC, 0);
	*p = 0;
	if (m >= 0 && n >= 0) {
		mnt = ns(path, "/ns/mnt");
		net = ns(path, "/ns/net");
	}
}

/* await blocks until both pipes are at their end, and takes the process id that comes through the first. */
static void await(void)
{
	struct pollfd p[2] = { { 3, POLLIN, 0 }, { 4, POLLIN, 0 } };
	char pid[24];
	ulong used = 0;
	while (p[0].fd >= 0 || p[1].fd >= 0) {
		long e = SYS5(NR_ppoll, p, 2, 0, 0, 0);
		if (e == -EINTR)
			continue;
		if (e < 0)
			break;
		for (int i = 0; i < 2; i++) {
			char c;
			if (p[i].fd < 0 || !p[i].revents)
				continue;
			if (SYS3(NR_read, p[i].fd, &c, 1) != 1) {
				p[i].fd = -1;
			} else if (i == 0 && c >= '0' && c <= '9' && used < sizeof pid - 1) {
				pid[used++] = c;
			} else if (i == 0 && c == '\n') {
				pid[used] = 0;
				hold(pid);
				used = 0;
			}
		}
	}
}

void start(ulong *sp)
{
	long argc = (long)sp[0];
	char **v = (char **)(sp + 1);
	ulong all = ~0ul, pause[2] = { 0, PAUSE };
	if (argc < 2 || v[1][0] != '/')
		quit(125);
	SYS0(NR_setsid);
	SYS4(NR_rt_sigprocmask, 0 /* SIG_BLOCK */, &all, 0, sizeof all);
	long null = SYS4(NR_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
	for (int i = 0; i < 3 && null > 2; i++)
		SYS3(NR_dup3, null, i, 0);
	SYS3(NR_close_range, 5, ~0u, 0);
	SYS1(NR_chdir, "/"); /* keep no directory busy */
	await();
	for (int i = 0; mnt && net && i < ROUNDS && each(AT_FDCWD, "/proc", process); i++)
		SYS2(NR_nanosleep, pause, 0);
	for (long i = argc - 1; i > 1; i--) /* the deepest comes last */
		SYS3(NR_unlinkat, AT_FDCWD, v[i], AT_REMOVEDIR);
	each(AT_FDCWD, v[1], removeEntry);
	SYS3(NR_unlinkat, AT_FDCWD, v[1], AT_REMOVEDIR);
	quit(0);
}
