// The exec family. glibc's functions call each other inside libc, where nobody can stand between, so each is wrapped on
// its own. All run in vfork children, too: stack only.
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

extern char **environ;

typedef int sp_execve(const char *path, char *const argv[], char *const env[]);
static int next_execve(const char *path, char *const argv[], char *const env[]);

static int execute(void *context, const char *path, char *const argv[], char *const env[], bool changed)
{
	(void)context, (void)changed;
	return next_execve(path, argv, env);
}

static int executed(const char *path, char *const argv[], char *const env[])
{
	return sp_program(AT_FDCWD, path, argv, env, execute, NULL);
}

SP_WRAP(int, execve, (const char *path, char *const argv[], char *const env[])) { return executed(path, argv, env); }

static int next_execve(const char *path, char *const argv[], char *const env[]) { return SP_NEXT(execve)(path, argv, env); }

SP_WRAP(int, execv, (const char *path, char *const argv[])) { return executed(path, argv, environ); }

struct searched {
	char *const *argv;
	char *const *env;
};

// A file that the kernel does not know is a script for the shell (execvp(3)).
static int each(void *context, const char *candidate)
{
	struct searched *s = context;
	int result = executed(candidate, s->argv, s->env);
	size_t n = 0;
	if (errno != ENOEXEC)
		return result;
	while (s->argv[n])
		n++;
	{
		char *argv[n + 3];
		argv[0] = (char *)(uintptr_t) "/bin/sh";
		argv[1] = (char *)(uintptr_t)candidate;
		for (size_t i = 1; i <= n; i++)
			argv[i + 1] = s->argv[i];
		if (!n)
			argv[2] = NULL;
		return executed(argv[0], argv, s->env);
	}
}

SP_WRAP(int, execvp, (const char *file, char *const argv[]))
{
	struct searched s = {argv, environ};
	return sp_serves(~0u) ? sp_program_found(file, each, &s) : SP_NEXT(execvp)(file, argv);
}

SP_WRAP(int, execvpe, (const char *file, char *const argv[], char *const env[]))
{
	struct searched s = {argv, env};
	return sp_serves(~0u) ? sp_program_found(file, each, &s) : SP_NEXT(execvpe)(file, argv, env);
}

// LIST gathers the arguments of an execl function into argv, and leaves args behind the NULL.
#define LIST(first)                                                                                \
	va_list args;                                                                              \
	size_t n = 1;                                                                            \
	va_start(args, first);                                                                     \
	while (va_arg(args, const char *))                                                         \
		n++;                                                                               \
	va_end(args);                                                                              \
	char *argv[n + 1];                                                                         \
	va_start(args, first);                                                                     \
	argv[0] = (char *)(uintptr_t)first;                                                        \
	for (size_t i = 1; i <= n; i++)                                                            \
		argv[i] = va_arg(args, char *)

SP_WRAP(int, execl, (const char *path, const char *first, ...))
{
	LIST(first);
	va_end(args);
	return executed(path, argv, environ);
}

SP_WRAP(int, execle, (const char *path, const char *first, ...))
{
	LIST(first);
	char *const *env = va_arg(args, char *const *);
	va_end(args);
	return executed(path, argv, env);
}

SP_WRAP(int, execlp, (const char *file, const char *first, ...))
{
	LIST(first);
	va_end(args);
	struct searched s = {argv, environ};
	return sp_program_found(file, each, &s);
}

struct descriptor {
	int fd;
	const char *path;
	int flags;
};

static int execute_at(void *context, const char *path, char *const argv[], char *const env[], bool changed)
{
	struct descriptor *d = context;
	if (changed)
		return next_execve(path, argv, env);
	// An absolute path is the pod's, or was: then the descriptor has no meaning.
	return (int)sp_result(sp_sys5(SYS_execveat, d->fd, *path == '/' ? path : d->path, argv, env, d->flags));
}

SP_WRAP(int, fexecve, (int fd, char *const argv[], char *const env[]))
{
	struct descriptor d = {fd, "", AT_EMPTY_PATH};
	return sp_serves(~0u) ? sp_program(fd, "", argv, env, execute_at, &d) : SP_NEXT(fexecve)(fd, argv, env);
}

SP_WRAP(int, execveat, (int dirfd, const char *path, char *const argv[], char *const env[], int flags))
{
	struct descriptor d = {dirfd, path, flags};
	return sp_program(dirfd, path, argv, env, execute_at, &d);
}
