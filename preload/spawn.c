// posix_spawn and posix_spawnp, whose child is libc's own: what it is to execute is decided before.
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fetch.h"
#include "paths.h"
#include "program.h"

struct spawning {
	pid_t *pid;
	const posix_spawn_file_actions_t *actions;
	const posix_spawnattr_t *attributes;
	bool search;
	bool ran;
	const char *found; // in PATH
};

static int next_spawn(struct spawning *s, const char *path, char *const argv[], char *const env[]);

static int spawn(void *context, const char *path, char *const argv[], char *const env[], bool changed)
{
	struct spawning *s = context;
	(void)changed;
	s->ran = true;
	return next_spawn(s, path, argv, env);
}

// spawned returns an errno, as posix_spawn does, and leaves errno alone.
static int spawned(struct spawning *s, const char *path, char *const argv[], char *const env[])
{
	int saved = errno, result = sp_program(AT_FDCWD, path, argv, env, spawn, s);
	if (!s->ran)
		result = errno;
	errno = saved;
	return result;
}

SP_WRAP(int, posix_spawn, (pid_t * pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
			   char *const argv[], char *const env[]))
{
	struct spawning s = {.pid = pid, .actions = actions, .attributes = attributes};
	return spawned(&s, path, argv, env);
}

// candidate takes the first file that can be executed; libc will say what is wrong where there is none.
static int candidate(void *context, const char *path)
{
	struct spawning *s = context;
	struct sp_where p;
	struct stat st;
	long n;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p);
	n = sp_sys3(SYS_faccessat, AT_FDCWD, p.use, X_OK);
	if (n == 0)
		n = sp_sys4(SYS_newfstatat, AT_FDCWD, p.use, &st, 0);
	if (n == 0 && S_ISDIR(st.st_mode))
		n = -EACCES;
	if (n < 0)
		return sp_fail(n);
	s->ran = true;
	return 0;
}

struct wanted {
	struct spawning *s;
	char *const *argv;
	char *const *env;
	int result;
};

static int each(void *context, const char *path)
{
	struct wanted *w = context;
	int result = candidate(w->s, path);
	if (result == 0) {
		w->s->ran = false;
		w->result = spawned(w->s, path, w->argv, w->env);
	}
	return result;
}

SP_WRAP(int, posix_spawnp, (pid_t * pid, const char *file, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
			    char *const argv[], char *const env[]))
{
	struct spawning s = {.pid = pid, .actions = actions, .attributes = attributes, .search = true};
	struct wanted w = {&s, argv, env, 0};
	int saved = errno, found;
	if (!sp_serves(~0u))
		return next_spawn(&s, file, argv, env);
	found = sp_program_found(file, each, &w);
	errno = saved;
	return found == 0 ? w.result : next_spawn(&s, file, argv, env);
}

static int next_spawn(struct spawning *s, const char *path, char *const argv[], char *const env[])
{
	if (s->search)
		return SP_NEXT(posix_spawnp)(s->pid, path, s->actions, s->attributes, argv, env);
	return SP_NEXT(posix_spawn)(s->pid, path, s->actions, s->attributes, argv, env);
}

// What libc's child will open and where it will go is told beforehand, and copied. A fetched file has no path to give.
SP_WRAP(int, posix_spawn_file_actions_addopen,
	(posix_spawn_file_actions_t * actions, int fd, const char *path, int flags, mode_t mode))
{
	struct sp_where p;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return p.error;
	if (sp_path_fetched(&p)) {
		sp_notice(SP_NOTICE_ERROR, "posix_spawn cannot open a file of the pod's without FUSE: it was refused");
		return ENOSYS;
	}
	return SP_NEXT(posix_spawn_file_actions_addopen)(actions, fd, p.use, flags, mode);
}

SP_WRAP(int, posix_spawn_file_actions_addchdir_np, (posix_spawn_file_actions_t * actions, const char *path))
{
	struct sp_where p;
	int saved = errno;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return p.error;
	if (!SP_NEXT(posix_spawn_file_actions_addchdir_np))
		return ENOSYS;
	if (sp_path_fetched(&p) && !sp_fetch_place(p.use, p.buffer)) {
		int error = errno;
		errno = saved;
		return error;
	}
	return SP_NEXT(posix_spawn_file_actions_addchdir_np)(actions, sp_path_fetched(&p) ? p.buffer : p.use);
}
