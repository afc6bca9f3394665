/* processes: children by every way to make one, and each errno of exec. */
#define _GNU_SOURCE
#include "conform.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void ended(const char *what, pid_t pid)
{
	int status = 0;
	if (pid < 0) {
		say(what, "%s", errno_name(errno));
		return;
	}
	if (waitpid(pid, &status, 0) != pid)
		say(what, "lost: %s", errno_name(errno));
	else if (WIFEXITED(status))
		say(what, "status %d", WEXITSTATUS(status));
	else
		say(what, "signal %d", WTERMSIG(status));
}

static void spawned(const char *what, int by_path, const char *file, char **env, ...)
{
	char *argv[] = {(char *)file, "child", (char *)what, NULL};
	pid_t pid = -1;
	int e = (by_path ? posix_spawnp : posix_spawn)(&pid, file, NULL, NULL, argv, env);
	if (e)
		say(what, "%s", errno_name(e));
	else
		ended(what, pid);
}

/* vforked runs a program in a vforked child; the errno of a failure comes back in the shared memory. */
static void vforked(const char *what, const char *file, char **env)
{
	char *argv[] = {(char *)file, "child", (char *)what, NULL};
	volatile int failed = 0;
	pid_t pid = vfork();
	if (pid == 0) {
		execve(file, argv, env);
		failed = errno;
		_exit(99);
	}
	if (failed)
		say(what, "%s", errno_name(failed));
	ended(what, pid);
}

enum exec_way { by_execv, by_execvp, by_execvpe, by_execl, by_execle, by_execlp, by_fexecve };

static void forked(const char *what, enum exec_way way)
{
	char *argv[] = {(char *)self, "child", (char *)what, NULL};
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		switch (way) {
		case by_execv: execv(self, argv); break;
		case by_execvp: execvp(self, argv); break;
		case by_execvpe: execvpe(self, argv, environ); break;
		case by_execl: execl(self, self, "child", what, (char *)NULL); break;
		case by_execle: execle(self, self, "child", what, (char *)NULL, environ); break;
		case by_execlp: execlp(self, self, "child", what, (char *)NULL); break;
		case by_fexecve: fexecve(open(self, O_RDONLY | O_CLOEXEC), argv, environ); break;
		}
		_exit(98);
	}
	ended(what, pid);
}

static void *forks(void *unused)
{
	(void)unused;
	forked("fork in a thread, execv", by_execv);
	pid_t pid = fork();
	if (pid == 0) { /* lives on without exec, as prefork servers do */
		FILE *f = fopen("/data/plain", "r");
		say("fork in a thread, in the child", "%s", f ? "ok" : errno_name(errno));
		_exit(0);
	}
	ended("fork in a thread", pid);
	return NULL;
}

static void through_shell(void)
{
	char command[4096], line[256];
	snprintf(command, sizeof command, "'%s' child system", self);
	fflush(stdout);
	int status = system(command);
	say("system", "status %d", WEXITSTATUS(status));
	snprintf(command, sizeof command, "'%s' child popen", self);
	FILE *f = popen(command, "r");
	say("popen", "%s", f && fgets(line, sizeof line, f) ? strtok(line, "\n") : errno_name(errno));
	if (f)
		say("popen", "status %d", WEXITSTATUS(pclose(f)));
}

static void script(const char *what, const char *first)
{
	char path[] = "/tmp/conform-XXXXXX";
	int fd = mkstemp(path);
	dprintf(fd, "%s\nexec '%s' child script\n", first, self);
	fchmod(fd, 0700);
	close(fd);
	vforked(what, path, environ);
	unlink(path);
}

void processes_subject(void)
{
	char *none[] = {NULL}, *one[] = {"GREETING=another", NULL};
	spawned("posix_spawn", 0, self, environ);
	spawned("posix_spawnp", 1, self, environ);
	spawned("posix_spawn without environment", 0, self, none);
	spawned("posix_spawn absent", 0, "/absent/program", environ);
	spawned("posix_spawnp absent", 1, "no-such-program-anywhere", environ);
	vforked("vfork", self, environ);
	vforked("vfork without environment", self, none);
	vforked("vfork with another environment", self, one);
	vforked("exec absent", "/absent/program", environ);
	vforked("exec of a directory", "/tmp", environ);
	vforked("exec of a file", "/etc/passwd", environ);
	vforked("exec below a file", "/etc/passwd/x", environ);
	vforked("exec of the pod's file", "/data/plain", environ);
	forked("execv", by_execv);
	forked("execvp", by_execvp);
	forked("execvpe", by_execvpe);
	forked("execl", by_execl);
	forked("execle", by_execle);
	forked("execlp", by_execlp);
	forked("fexecve", by_fexecve);
	pthread_t thread;
	if (pthread_create(&thread, NULL, forks, NULL) == 0)
		pthread_join(thread, NULL);
	through_shell();
	script("script", "#!/bin/sh");
	script("script, no interpreter", "#!/absent/interpreter");
	if (*static_program) {
		vforked("a static program", static_program, environ);
		vforked("a static program without environment", static_program, none);
		spawned("a static program by posix_spawn", 0, static_program, environ);
	}
}
