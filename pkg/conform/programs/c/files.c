/* files and places: the pod's files by every way to name one. /data and /config are volumes, /data read-only; see
   ../../pod.go. */
#define _GNU_SOURCE
#include "conform.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* readdir_r, which older programs call */

static const char *kind(mode_t mode)
{
	return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "directory" : S_ISLNK(mode) ? "link" : "other";
}

static void stats(const char *path)
{
	char what[PATH_MAX + 32];
	struct stat s;
	int e = stat(path, &s);
	snprintf(what, sizeof what, "stat %s", path);
	if (e)
		say(what, "%s", errno_name(errno));
	else
		say(what, "%s %04o %lld", kind(s.st_mode), s.st_mode & 0222, S_ISREG(s.st_mode) ? (long long)s.st_size : 0LL);
	e = lstat(path, &s);
	snprintf(what, sizeof what, "lstat %s", path);
	say(what, "%s", e ? errno_name(errno) : kind(s.st_mode));
	e = fstatat(AT_FDCWD, path, &s, AT_SYMLINK_NOFOLLOW);
	snprintf(what, sizeof what, "fstatat %s", path);
	say(what, "%s", e ? errno_name(errno) : kind(s.st_mode));
	struct statx x;
	e = statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &x);
	snprintf(what, sizeof what, "statx %s", path);
	say(what, "%s", e ? errno_name(errno) : kind(x.stx_mode));
	snprintf(what, sizeof what, "access %s", path);
	say(what, "%s %s %s", result(access(path, F_OK)), result(access(path, R_OK)), result(faccessat(AT_FDCWD, path, R_OK, 0)));
}

/* itself compares what is said of a descriptor with what is said of its path. */
static void itself(const char *path, int flags)
{
	char what[PATH_MAX + 32], link[64], text[PATH_MAX];
	struct stat s, f = {0}, e = {0};
	struct statx x = {0};
	int fd = open(path, flags | O_CLOEXEC), e1, e2, e3;
	stat(path, &s);
	e1 = fstat(fd, &f);
	e2 = fstatat(fd, "", &e, AT_EMPTY_PATH);
	e3 = statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x);
	int same = f.st_dev == s.st_dev && f.st_ino == s.st_ino && f.st_mode == s.st_mode && f.st_nlink == s.st_nlink && f.st_uid == s.st_uid &&
	           (S_ISDIR(s.st_mode) || f.st_size == s.st_size) && f.st_mtim.tv_sec == s.st_mtim.tv_sec && f.st_mtim.tv_nsec == s.st_mtim.tv_nsec;
	snprintf(what, sizeof what, "fstat %s", path);
	say(what, "%s, %s", result(e1), same ? "the same" : "another");
	snprintf(what, sizeof what, "fstatat %s, the descriptor", path);
	say(what, "%s, %s", result(e2), e.st_dev == s.st_dev && e.st_ino == s.st_ino ? "the same" : "another");
	snprintf(what, sizeof what, "statx %s, the descriptor", path);
	say(what, "%s, %s", result(e3), x.stx_ino == s.st_ino && x.stx_mode == s.st_mode ? "the same" : "another");
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, text, sizeof text - 1);
	text[n < 0 ? 0 : n] = 0;
	snprintf(what, sizeof what, "readlink /proc/self/fd of %s", path);
	say(what, "%s", strstr(text, "/..2") ? "within a version" : text);
	close(fd);
}

static void contents(const char *what, int fd)
{
	char text[100] = "";
	if (fd < 0) {
		say(what, "%s", errno_name(errno));
		return;
	}
	ssize_t n = read(fd, text, sizeof text - 1);
	if (n < 0)
		say(what, "%s", errno_name(errno));
	else
		say(what, "\"%.*s\"", (int)n, text);
	close(fd);
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void list(const char *what, DIR *d)
{
	char *names[64], all[2048] = "";
	int n = 0;
	if (!d) {
		say(what, "%s", errno_name(errno));
		return;
	}
	for (struct dirent *e; n < 64 && (e = readdir(d));)
		/* The folder that kubelet names by the time is another in each pod. */
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strncmp(e->d_name, "..2", 3))
			names[n++] = strdup(e->d_name);
	qsort(names, n, sizeof *names, by_text);
	for (int i = 0; i < n; i++) {
		strncat(all, " ", sizeof all - strlen(all) - 1);
		strncat(all, names[i], sizeof all - strlen(all) - 1);
		free(names[i]);
	}
	say(what, "%d:%s", n, all);
	struct stat s;
	say(what, "the descriptor is a %s", fstat(dirfd(d), &s) ? errno_name(errno) : kind(s.st_mode));
	closedir(d);
}

static void resolve(const char *path)
{
	char what[PATH_MAX + 32], link[PATH_MAX];
	char *real = realpath(path, NULL);
	snprintf(what, sizeof what, "realpath %s", path);
	say(what, "%s", real ? strstr(real, "/..2") ? "within a version" : real : errno_name(errno));
	free(real);
	ssize_t n = readlink(path, link, sizeof link - 1);
	snprintf(what, sizeof what, "readlink %s", path);
	link[n < 0 ? 0 : n] = 0;
	say(what, "%s", n < 0 ? errno_name(errno) : strncmp(link, "..2", 3) ? link : "a version");
}

/* raw lists a directory as the kernel says it, with little room. */
static void raw(const char *path)
{
	char what[PATH_MAX + 32], buffer[80];
	int fd = open(path, O_RDONLY | O_DIRECTORY), entries = 0, files = 0;
	ssize_t n;
	while ((n = getdents64(fd, buffer, sizeof buffer)) > 0)
		for (char *at = buffer; at < buffer + n; at += ((struct dirent64 *)at)->d_reclen) {
			entries++;
			files += ((struct dirent64 *)at)->d_type == DT_REG;
		}
	snprintf(what, sizeof what, "getdents64 %s", path);
	say(what, "%s, %d entries, %d files", result(n), entries, files);
	say(what, "%s", result(getdents64(fd, buffer, 8)));
	lseek(fd, 0, SEEK_SET);
	say(what, "%s", result(syscall(SYS_getdents64, fd, buffer, 8)));
	close(fd);
}

static void maps(const char *path)
{
	int fd = open(path, O_RDONLY);
	char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0), *q = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	say("mmap private", "%s", p == MAP_FAILED ? errno_name(errno) : strndupa(p, 8));
	say("mmap shared", "%s", q == MAP_FAILED ? errno_name(errno) : strndupa(q, 8));
	close(fd);
}

static void changes(void)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_NOW}};
	say("open to write", "%s", result(open("/data/plain", O_WRONLY)));
	say("open to truncate", "%s", result(open("/data/plain", O_RDONLY | O_TRUNC)));
	say("open to create", "%s", result(open("/data/new", O_CREAT | O_WRONLY, 0600)));
	say("open, exclusive, there", "%s", result(open("/data/plain", O_CREAT | O_EXCL | O_WRONLY, 0600)));
	say("creat", "%s", result(creat("/data/new", 0600)));
	say("fopen w", "%s", fopen("/data/new", "w") ? "ok" : errno_name(errno));
	say("rename", "%s", result(rename("/data/plain", "/data/other")));
	say("rename from here", "%s", result(rename("/tmp", "/data/other")));
	say("unlink", "%s", result(unlink("/data/plain")));
	say("unlink absent", "%s", result(unlink("/data/absent")));
	say("mkdir", "%s", result(mkdir("/data/new", 0700)));
	say("mkdir there", "%s", result(mkdir("/data/sub", 0700)));
	say("rmdir", "%s", result(rmdir("/data/sub")));
	say("symlink", "%s", result(symlink("x", "/data/new")));
	say("link", "%s", result(link("/data/plain", "/data/new")));
	say("chmod", "%s", result(chmod("/data/plain", 0600)));
	say("truncate", "%s", result(truncate("/data/plain", 0)));
	say("utimensat", "%s", result(utimensat(AT_FDCWD, "/data/plain", times, 0)));
	say("access W_OK", "%s", result(access("/data/plain", W_OK)));
	say("mkstemp", "%s", result(mkstemp(strcpy((char[32]){0}, "/data/newXXXXXX"))));
	say("mkstemps", "%s", result(mkstemps(strcpy((char[32]){0}, "/data/newXXXXXX.txt"), 4)));
	say("mkstemp, no directory", "%s", result(mkstemp(strcpy((char[32]){0}, "/data/absent/newXXXXXX"))));
	say("mkdtemp", "%s", mkdtemp(strcpy((char[32]){0}, "/data/newXXXXXX")) ? "ok" : errno_name(errno));
}

static void matches(const char *pattern, int flags)
{
	char what[PATH_MAX + 32], all[2048] = "";
	glob_t g = {0};
	int e = glob(pattern, flags, NULL, &g);
	for (size_t i = 0; !e && i < g.gl_pathc; i++) {
		strncat(all, " ", sizeof all - strlen(all) - 1);
		strncat(all, g.gl_pathv[i], sizeof all - strlen(all) - 1);
	}
	snprintf(what, sizeof what, "glob %s", pattern);
	say(what, "%s%s", e == GLOB_NOMATCH ? "no match" : e ? "fails" : "", all);
	if (!e)
		globfree(&g);
}

static void watches(void)
{
	char events[1000];
	int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), dir = inotify_add_watch(watch, "/data", IN_CREATE | IN_MODIFY);
	say("inotify", "%s %s", result(dir), result(inotify_add_watch(watch, "/data/absent", IN_CREATE)));
	int file = inotify_add_watch(watch, "/data/plain", IN_MODIFY | IN_ATTRIB), by_link = inotify_add_watch(watch, "/data/link", IN_MODIFY);
	say("inotify of a file", "%s, by its link %s", result(file), file == by_link ? "the same" : "another");
	say("inotify again", "%s", inotify_add_watch(watch, "/data/", IN_CREATE) == dir ? "the same" : "another");
	say("inotify of a file as a directory", "%s", result(inotify_add_watch(watch, "/data/plain", IN_MODIFY | IN_ONLYDIR)));
	say("inotify below", "%s", result(inotify_add_watch(watch, "/data/sub", IN_CREATE)));
	close(open("/data/sub/deep", O_RDONLY | O_DIRECTORY));
	say("inotify, events", "%s", result(read(watch, events, sizeof events)));
	say("inotify, removed", "%s", result(inotify_rm_watch(watch, file)));
	close(watch);
}

void files_subject(void)
{
	static const char *const paths[] = {"/data", "/data/plain", "/data/sub", "/data/sub/deep/file", "/data/link", "/data/dangling",
	                                    "/data/loop", "/data/absent", "/data/plain/x", "/config", "/config/greeting", "/config/absent",
	                                    "/config/../data/./plain", "//data//sub/../plain", "/data/", "/data/folder/deep/file", "/data/short/../deep/file",
	                                    "/data/folder/", "/data/plain/", "/data/plain/..", "/data/folder/../link"};
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		stats(paths[i]);
		resolve(paths[i]);
	}
	contents("open", open("/data/plain", O_RDONLY));
	int low = dup(1), opened = (close(low), open("/data/plain", O_RDONLY));
	say("open, lowest", "%s", opened == low ? "yes" : "no");
	close(opened);
	contents("open64", open64("/data/sub/deep/file", O_RDONLY | O_CLOEXEC));
	contents("open a link", open("/data/link", O_RDONLY));
	contents("open a link, not followed", open("/data/link", O_RDONLY | O_NOFOLLOW));
	contents("open a loop", open("/data/loop", O_RDONLY));
	contents("open absent", open("/data/absent", O_RDONLY));
	contents("open a ConfigMap's", open("/config/greeting", O_RDONLY));
	contents("open a directory to read", open("/data/sub", O_RDONLY));
	contents("open a file as a directory", open("/data/plain", O_RDONLY | O_DIRECTORY));
	FILE *f = fopen("/config/greeting", "re");
	contents("fopen", f ? dup(fileno(f)) : -1);
	f = f ? freopen("/data/plain", "r", f) : NULL;
	contents("freopen", f ? dup(fileno(f)) : -1);
	if (f)
		fclose(f);
	f = fopen("/data/plain", "re");
	say("fopen, close-on-exec", "%d", f ? fcntl(fileno(f), F_GETFD) : -1);
	if (f)
		fclose(f);
	f = fopen("/data/plain", "r");
	say("fopen, kept", "%d", f ? fcntl(fileno(f), F_GETFD) : -1);
	if (f)
		fclose(f);
	raw("/data");
	raw("/data/sub");
	list("opendir /data", opendir("/data"));
	list("opendir /config", opendir("/config"));
	list("opendir absent", opendir("/data/absent"));
	list("opendir a file", opendir("/data/plain"));
	struct dirent **entries;
	int n = scandir("/data", &entries, NULL, alphasort);
	say("scandir", "%d %s", n, n > 2 ? entries[2]->d_name : "");
	DIR *d = opendir("/data/sub");
	struct dirent into, *one = NULL;
	int e = d ? readdir_r(d, &into, &one) : -1;
	say("readdir_r", "%d %s", e, one && *one->d_name ? "an entry" : "none");
	if (d)
		closedir(d);
	for (int i = 0; i < n; i++)
		free(entries[i]);
	itself("/data/plain", O_RDONLY);
	itself("/data/sub", O_RDONLY | O_DIRECTORY);
	itself("/config/greeting", O_RDONLY);
	matches("/data/*", 0);
	matches("/data/s*/d*", GLOB_MARK);
	matches("/data/{json,absent,plain}", GLOB_BRACE);
	matches("/data/absent*", 0);
	maps("/data/plain");
	changes();
	watches();
	struct statfs s;
	struct statvfs v;
	say("statfs", "%s", result(statfs("/data/plain", &s)));
	int there = statvfs("/data/plain", &v);
	say("statvfs", "%s %s", result(there), v.f_flag & ST_RDONLY ? "read-only" : "writable");
	char value[100];
	say("getxattr", "%s", result(getxattr("/data/plain", "user.none", value, sizeof value)));
}

/* descends names files from a directory descriptor. */
static void descends(const char *path)
{
	char what[PATH_MAX + 32], link[PATH_MAX], at[64];
	struct stat s;
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(what, sizeof what, "openat %s, plain", path);
	contents(what, openat(dir, "plain", O_RDONLY));
	snprintf(what, sizeof what, "openat %s, data/plain", path);
	contents(what, openat(dir, "data/plain", O_RDONLY));
	snprintf(what, sizeof what, "openat %s, absolute", path);
	contents(what, openat(dir, "/data/plain", O_RDONLY));
	snprintf(what, sizeof what, "fstatat %s, sub/../plain", path);
	say(what, "%s", result(fstatat(dir, "sub/../plain", &s, 0)));
	snprintf(what, sizeof what, "fstatat %s, the descriptor itself", path);
	say(what, "%s", result(fstatat(dir, "", &s, AT_EMPTY_PATH)));
	snprintf(what, sizeof what, "faccessat %s, plain", path);
	say(what, "%s", result(faccessat(dir, "plain", R_OK, 0)));
	ssize_t n = readlinkat(dir, "link", link, sizeof link);
	snprintf(what, sizeof what, "readlinkat %s, link", path);
	say(what, "%s %.*s", result(n), n > 0 ? (int)n : 0, link);
	snprintf(at, sizeof at, "/proc/self/fd/%d", dir);
	n = readlink(at, link, sizeof link);
	snprintf(what, sizeof what, "/proc/self/fd of %s", path);
	say(what, "%.*s", n > 0 ? (int)n : 0, link);
	snprintf(what, sizeof what, "fdopendir %s", path);
	if (strcmp(path, "/"))
		list(what, fdopendir(dir));
	else
		close(dir);
}

static void stands(const char *path)
{
	char what[PATH_MAX + 32], here[PATH_MAX];
	snprintf(what, sizeof what, "chdir %s", path);
	say(what, "%s", result(chdir(path)));
	say("getcwd", "%s", getcwd(here, sizeof here) ? here : errno_name(errno));
	contents("open plain", open("plain", O_RDONLY));
	contents("open ./sub/deep/file", open("./sub/deep/file", O_RDONLY));
	contents("open ../data/plain", open("../data/plain", O_RDONLY));
	contents("open ../config/greeting", open("../config/greeting", O_RDONLY));
	contents("open data/plain", open("data/plain", O_RDONLY));
	stats("plain");
	resolve("link");
	list("opendir .", strcmp(path, "/") ? opendir(".") : NULL);
	struct dirent **entries;
	int n = strcmp(path, "/") ? scandirat(AT_FDCWD, ".", &entries, NULL, alphasort) : -1;
	say("scandirat .", "%d %s", n, n > 2 ? entries[2]->d_name : "");
	while (n > 0)
		free(entries[--n]);
	if (n >= 0)
		free(entries);
}

void places_subject(void)
{
	char here[PATH_MAX], before[PATH_MAX];
	if (!getcwd(before, sizeof before))
		strcpy(before, "/");
	stands("/");
	stands("/data");
	stands("sub");
	say("chdir absent", "%s", result(chdir("/data/absent")));
	say("chdir to a file", "%s", result(chdir("/data/plain")));
	say("chdir up", "%s", result(chdir("..")));
	say("getcwd", "%s", getcwd(here, sizeof here) ? here : errno_name(errno));
	int dir = open("/data/sub", O_RDONLY | O_DIRECTORY);
	say("fchdir", "%s", result(fchdir(dir)));
	say("getcwd", "%s", getcwd(here, sizeof here) ? here : errno_name(errno));
	char *allocated = getcwd(NULL, 0);
	say("getcwd, allocated", "%s", allocated ? allocated : errno_name(errno));
	free(allocated);
	contents("open deep/file", open("deep/file", O_RDONLY));
	close(dir);
	say("chdir home", "%s", result(chdir(before)));
	contents("open /data/plain", open("/data/plain", O_RDONLY));
	descends("/data");
	descends("/");
}

static int shorter(const void *a, const void *b)
{
	const long long *x = a, *y = b;
	return *x < *y ? -1 : *x > *y;
}

/* What a file that is none of the pod's costs: calls as an interpreter makes them when it looks for its modules. The median
   of many turns of less than a millisecond: what else the machine does falls into few of them. */
void cost_subject(void)
{
	static const char *const paths[] = {"/usr/lib/os-release", "/etc/passwd", "/usr/share/absent/module.py", "/bin/sh", "/usr/lib"};
	enum { turns = 400, rounds = 50, paths_count = sizeof paths / sizeof *paths };
	static long long took[turns];
	struct timespec from, to;
	struct stat s;
	for (int t = 0; t < turns; t++) {
		clock_gettime(CLOCK_MONOTONIC, &from);
		for (int i = 0; i < rounds; i++)
			for (int k = 0; k < paths_count; k++) {
				int fd = open(paths[k], O_RDONLY | O_CLOEXEC);
				stat(paths[k], &s);
				if (fd >= 0)
					close(fd);
			}
		clock_gettime(CLOCK_MONOTONIC, &to);
		took[t] = (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec;
	}
	qsort(took, turns, sizeof *took, shorter);
	say("nanoseconds", "%lld", took[turns / 2] / (2 * rounds * paths_count));
}
