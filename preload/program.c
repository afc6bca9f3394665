// The environment and the wrapping of programs: see program.h.
#include "program.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fetch.h"

#define LD "LD_PRELOAD="
#define LD_SIZE (sizeof LD - 1)
#define OURS SP_VARIABLE "="
#define OURS_SIZE (sizeof OURS - 1)

enum { WORDS_ROOM = 3072 }; // bytes of the words that wrap a program: some paths and numbers

// span is the length of the first entry of a list in LD_PRELOAD (ld.so(8): colons or spaces between).
static size_t span(const char *list) { return strcspn(list, ": "); }

static const char *library(void) { return sp.library + LD_SIZE; }

// listed tells whether the library is in a list.
static bool listed(const char *list)
{
	size_t n = strlen(library());
	for (;;) {
		if (span(list) == n && !memcmp(list, library(), n))
			return true;
		list += span(list);
		if (!*list++)
			return false;
	}
}

bool sp_carried(char *const env[])
{
	bool library = false, variable = false;
	for (; env && *env; env++) {
		library = library || (!strncmp(*env, LD, LD_SIZE) && listed(*env + LD_SIZE));
		variable = variable || !strcmp(*env, sp.variable);
	}
	return library && variable;
}

// others copies a list without the library, behind what is at out; returns the end.
static char *others(char *out, const char *list, bool comma)
{
	size_t own = strlen(library());
	for (;;) {
		size_t n = span(list);
		if (n && !(n == own && !memcmp(list, library(), n))) {
			if (comma)
				*out++ = ':';
			memcpy(out, list, n);
			out += n;
			comma = true;
		}
		list += n;
		if (!*list++)
			break;
	}
	*out = 0;
	return out;
}

// environment makes the program's: with the library and its variable in front of what else is preloaded, or without
// both. made has room for two entries more than env, list for all of LD_PRELOAD and the library.
static void environment(char **made, char *list, char *const env[], bool with)
{
	char **at = made;
	const char *found = NULL;
	for (; env && *env; env++) {
		if (!strncmp(*env, OURS, OURS_SIZE))
			continue;
		if (!strncmp(*env, LD, LD_SIZE))
			found = *env + LD_SIZE; // the last one, if there are more
		else
			*at++ = *env;
	}
	memcpy(list, LD, LD_SIZE + 1);
	if (with) {
		memcpy(list, sp.library, strlen(sp.library) + 1);
		*at++ = sp.variable;
	}
	if (found)
		others(list + strlen(list), found, with);
	if (list[LD_SIZE])
		*at++ = list;
	*at = NULL;
}

static size_t count(char *const list[])
{
	size_t n = 0;
	while (list && list[n])
		n++;
	return n;
}

// preloaded is how long the longest LD_PRELOAD is.
static size_t preloaded(char *const env[])
{
	size_t longest = 0;
	for (; env && *env; env++)
		if (!strncmp(*env, LD, LD_SIZE) && strlen(*env) > longest)
			longest = strlen(*env);
	return longest;
}

// wrapped makes the arguments: the session's words, the program, its own arguments but the first.
static void wrapped(char **made, char *words, size_t n, const char *path, char *const argv[])
{
	for (; n; n--) {
		*made++ = words;
		words += strlen(words) + 1;
	}
	*made++ = (char *)(uintptr_t)path;
	if (argv && argv[0])
		for (argv++; *argv; argv++)
			*made++ = *argv;
	*made = NULL;
}

// absolute makes the path that the session can look at; false: it cannot be told, and the kernel will say why.
static bool absolute(struct sp_where *p, int dirfd)
{
	char link[32], *end = p->buffer;
	long n;
	size_t length = strlen(p->use);
	if (*p->use == '/')
		return true;
	if (dirfd == AT_FDCWD) {
		n = sp_sys2(SYS_getcwd, p->buffer, SP_PATH_MAX) - 1;
	} else {
		sp_fetch_link(link, dirfd);
		n = sp_sys4(SYS_readlinkat, AT_FDCWD, link, p->buffer, SP_PATH_MAX - 1);
	}
	if (n <= 0 || *p->buffer != '/' || (size_t)n + length + 2 > SP_PATH_MAX)
		return false;
	end += n;
	if (length) {
		*end++ = '/';
		memcpy(end, p->use, length);
	}
	end[length] = 0;
	p->use = p->buffer;
	return true;
}

struct answer {
	struct sp_exec_answer head;
	char words[WORDS_ROOM];
};

// asked fills the answer; 0, or the errno that the call must end with.
static int asked(const char *path, struct answer *a)
{
	struct sp_exec question = {.flags = 0};
	struct sp_question q = {.kind = SP_EXEC, .body = &question, .size = sizeof question, .tail = path, .tail_size = (uint32_t)strlen(path),
				.answer = a, .room = sizeof *a, .need = sizeof a->head};
	int n = sp_ask(&q);
	size_t words = 0;
	if (n == SP_GONE) { // the program itself will say so
		a->head.verdict = SP_EXEC_SAME;
		return 0;
	}
	if (n < 0)
		return -n;
	n -= (int)sizeof a->head;
	for (int i = 0; i < n; i++)
		words += !a->words[i];
	return a->head.verdict == SP_EXEC_WRAP && (!words || words != a->head.count || a->words[n - 1]) ? EPROTO : 0;
}

// refused says on the console why a program of the debuggee's is not started; -1 with errno.
static int refused(const char *path, const char *why)
{
	const char *name = strrchr(path, '/');
	char line[NAME_MAX + 256];
	size_t n = strnlen(name ? name + 1 : path, NAME_MAX);
	memcpy(line, name ? name + 1 : path, n);
	memcpy(line + n, why, strlen(why) + 1);
	sp_notice(SP_NOTICE_ERROR, line);
	return sp_fail(EPERM);
}

#define APART " cannot be run in the pod's place: "

// apart tells why a program that this process executes would leave the pod's place without a word, and refuses it: 0 where
// it would not. The loader takes no library where real and effective ids differ (ld.so(8), secure execution), and finds
// none that another user or another root directory keeps it from.
static int apart(const char *path, const char *needs)
{
	long fd;
	if (sp_sys0(SYS_getuid) != sp_sys0(SYS_geteuid) || sp_sys0(SYS_getgid) != sp_sys0(SYS_getegid))
		return refused(path, APART "its process has the rights of another user than its own, and no library is loaded then");
	fd = sp_sys4(SYS_openat, AT_FDCWD, needs, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return refused(path, APART "its process has changed its root directory or its user, and has lost stepin's files by that");
	sp_sys1(SYS_close, fd);
	return 0;
}

// fetched makes a program of the pod's be executable where there is no mount; -1 with errno.
static int fetched(struct sp_where *p)
{
	int fd = sp_fetch_open(p->use, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	sp_fetch_link(p->buffer, fd);
	p->use = p->buffer;
	return fd;
}

// decided is the second half of sp_program, in a frame of its own for what is as long as the environment.
static int decided(struct sp_where *p, struct answer *a, char *const argv[], char *const env[], sp_runs *run, void *context)
{
	uint32_t verdict = a->head.verdict;
	bool with = verdict == SP_EXEC_SAME;
	size_t words = verdict == SP_EXEC_WRAP ? a->head.count : 0;
	char *made[count(env) + 3], list[preloaded(env) + strlen(sp.library) + 2], *arguments[words + (words ? count(argv) : 0) + 2];
	if (!with || !sp_carried(env)) {
		environment(made, list, env, with);
		env = made;
	}
	if (!words)
		return run(context, p->use, argv, env, false);
	wrapped(arguments, a->words, words, p->use, argv);
	return run(context, a->words, arguments, env, true);
}

// served executes a program that is no script of the pod's.
static int served(int dirfd, const char *path, char *const argv[], char *const env[], sp_runs *run, void *context)
{
	struct sp_where p;
	struct answer a;
	int error, fd = -1, result;
	if (sp_path(&p, dirfd, path, SP_READS))
		return sp_path_failed(&p);
	a.head.verdict = SP_EXEC_SAME;
	if (sp_path_fetched(&p)) {
		fd = fetched(&p);
		if (fd < 0)
			return -1;
	}
	if (sp_serves(SP_SERVE_EXEC) && (!*path || sp_sys3(SYS_faccessat, dirfd, p.use, X_OK) == 0)) {
		const char *use = p.use;
		if (absolute(&p, dirfd)) {
			error = asked(p.use, &a);
			if (error) {
				result = sp_fail(error);
				goto end;
			}
		}
		if (a.head.verdict != SP_EXEC_WRAP)
			p.use = use;
		if (a.head.verdict != SP_EXEC_HOST && apart(path, a.head.verdict == SP_EXEC_WRAP ? a.words : library()) < 0) {
			result = -1;
			goto end;
		}
	}
	result = decided(&p, &a, argv, env, run, context);
end:
	if (fd >= 0) // a spawned child has executed it by now
		sp_sys1(SYS_close, fd);
	return result;
}

// A script's first line, of which the kernel looks at as many bytes (execve(2), Interpreter scripts).
struct script {
	char line[256 + 1];
	const char *interpreter, *argument; // argument: NULL if there is none
};

static bool blank(char c) { return c == ' ' || c == '\t'; }

// understood takes the line apart as the kernel does; false: it is none, or one that the kernel shall refuse.
static bool understood(struct script *s)
{
	char *at = s->line + 2, *end;
	if (memcmp(s->line, "#!", 2) != 0)
		return false;
	end = at + strcspn(at, "\n");
	while (end > at && blank(end[-1]))
		end--;
	*end = 0;
	at += strspn(at, " \t");
	s->interpreter = at;
	at += strcspn(at, " \t");
	s->argument = *at ? at + strspn(at, " \t") : NULL;
	*at = 0;
	return *s->interpreter;
}

// script tells whether a path is that of a script of the pod's. The kernel would look for its interpreter on this machine,
// and tell it a path that is not the pod's, or none at all.
static __attribute__((noinline)) bool script(int dirfd, const char *path, struct script *s)
{
	struct sp_where p;
	long fd;
	char link[32];
	memset(s, 0, sizeof *s);
	if ((dirfd != AT_FDCWD && *path != '/') || !sp_serves(SP_SERVE_FILES) || sp_path(&p, dirfd, path, SP_READS) || !p.rule)
		return false;
	if (sp_path_fetched(&p))
		fd = sp_fetch_open(p.use, O_RDONLY | O_CLOEXEC);
	else
		fd = sp_sys4(SYS_openat, dirfd, p.use, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
	if (fd < 0)
		return false;
	sp_fetch_link(link, (int)fd);
	if (sp_sys3(SYS_faccessat, AT_FDCWD, link, X_OK) == 0)
		sp_sys4(SYS_pread64, fd, s->line, sizeof s->line - 1, 0);
	sp_sys1(SYS_close, fd);
	return understood(s);
}

// program is sp_program; turns are the scripts whose interpreters are scripts.
static int program(int turns, int dirfd, const char *path, char *const argv[], char *const env[], sp_runs *run, void *context)
{
	struct script s;
	if (!script(dirfd, path, &s))
		return served(dirfd, path, argv, env, run, context);
	if (!turns)
		return sp_fail(ELOOP);
	{
		char *made[count(argv) + 4], **at = made;
		*at++ = (char *)(uintptr_t)s.interpreter;
		if (s.argument)
			*at++ = (char *)(uintptr_t)s.argument;
		*at++ = (char *)(uintptr_t)path;
		if (argv && argv[0])
			for (argv++; *argv; argv++)
				*at++ = *argv;
		*at = NULL;
		return program(turns - 1, AT_FDCWD, s.interpreter, made, env, run, context);
	}
}

int sp_program(int dirfd, const char *path, char *const argv[], char *const env[], sp_runs *run, void *context)
{
	enum { NESTED = 4 }; // execve(2), ELOOP
	if (!sp_serves(~0u))
		return run(context, path, argv, env, false);
	return program(NESTED, dirfd, path, argv, env, run, context);
}

int sp_program_found(const char *name, int (*each)(void *context, const char *candidate), void *context)
{
	const char *path = getenv("PATH"), *end;
	size_t length = strlen(name);
	bool forbidden = false;
	if (!length)
		return sp_fail(ENOENT);
	if (strchr(name, '/'))
		return each(context, name);
	if (length > NAME_MAX)
		return sp_fail(ENAMETOOLONG);
	if (!path)
		path = "/bin:/usr/bin"; // confstr(_CS_PATH)
	for (;; path = end + 1) {
		size_t n;
		end = strchr(path, ':');
		if (!end)
			end = path + strlen(path);
		n = (size_t)(end - path);
		if (n + length + 2 <= SP_PATH_MAX) {
			char candidate[n + length + 2];
			int result;
			memcpy(candidate, path, n);
			if (n)
				candidate[n++] = '/';
			memcpy(candidate + n, name, length + 1);
			result = each(context, candidate);
			if (result != -1)
				return result;
			switch (errno) {
			case EACCES:
				forbidden = true;
				break;
			case ENOENT:
			case ESTALE:
			case ENOTDIR:
			case ENODEV:
			case ETIMEDOUT:
				break;
			default:
				return -1;
			}
		}
		if (!*end)
			return sp_fail(forbidden ? EACCES : ENOENT);
	}
}
