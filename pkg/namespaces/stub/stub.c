/*
 * stub [-u] [-r] PID PROGRAM [ARG...]
 *
 * Enters the namespaces of the process PID and becomes PROGRAM there: same pid, same descriptors, same working
 * directory by name, same environment. It is how the debuggee and the real debugger come into the holder's namespaces; Go
 * cannot do it, since a process of several threads may not change its user namespace (setns(2)).
 *
 * Without -u it joins the user, mount, UTS and network namespaces, with one call. Entering a user namespace gives all
 * capabilities in it, and execve takes them from everyone but its uid 0 (capabilities(7)), so an ordinary debuggee ends
 * up with none, and root with those that reach no further than the namespaces.
 * With -u it joins the user namespace only and keeps the capabilities, as ambient ones: so an ordinary user's agent
 * may open what belongs to a pod of his own.
 * With -r the line that says why PROGRAM does not run goes to descriptor 3 instead of standard error. PROGRAM does not get
 * that descriptor, so its end without a line says that PROGRAM runs.
 *
 * PROGRAM without a slash is looked up in PATH, as seen inside. Exit status: PROGRAM's own; 125 wrong use or the
 * namespaces cannot be entered, 126 PROGRAM cannot be run, 127 there is none. `stub -h` says how to use it and ends with 0.
 *
 * It must never fork, allocate, print anything when all goes well, or stay.
 */
#include "sys.h"

enum { CLONE_NEWNS = 0x20000, CLONE_NEWUTS = 0x4000000, CLONE_NEWUSER = 0x10000000, CLONE_NEWNET = 0x40000000 };
enum { F_SETFD = 2, FD_CLOEXEC = 1 };
enum { PR_CAP_AMBIENT = 47, PR_CAP_AMBIENT_RAISE = 2, CAP_VERSION_3 = 0x20080522 };

static const char *errname(long e)
{
	switch (e) {
	case EPERM: return "EPERM";
	case ENOENT: return "ENOENT";
	case ESRCH: return "ESRCH";
	case E2BIG: return "E2BIG";
	case ENOEXEC: return "ENOEXEC";
	case EACCES: return "EACCES";
	case ENOTDIR: return "ENOTDIR";
	case EINVAL: return "EINVAL";
	}
	return "errno";
}

static int report = 2; /* where die writes */

/* die says what failed, on what, with which errno (0: none), and ends. */
static __attribute__((noreturn)) void die(int status, const char *what, const char *on, long err)
{
	char line[512], digits[4], *p = line, *end = line + sizeof line - 1;
	p = put(p, end - 40, "stepin stub: ");
	p = put(p, end - 40, what);
	p = put(p, end - 40, on); /* a long path is cut: the errno must stay readable */
	if (err) {
		p = put(p, end, ": ");
		p = put(p, end, errname(err));
		digits[0] = (char)('0' + err / 100 % 10);
		digits[1] = (char)('0' + err / 10 % 10);
		digits[2] = (char)('0' + err % 10);
		digits[3] = 0;
		p = put(p, end, " (");
		p = put(p, end, digits + (err < 10 ? 2 : err < 100));
		p = put(p, end, ")");
	}
	*p++ = '\n';
	SYS3(NR_write, report, line, p - line);
	quit(status);
}

/* keep makes every permitted capability inheritable and ambient, so that execve leaves them. */
static void keep(void)
{
	unsigned head[2] = { CAP_VERSION_3, 0 };
	unsigned set[6]; /* effective, permitted, inheritable of capabilities 0-31, then of 32-63 (capget(2)) */
	long e = SYS2(NR_capget, head, set);
	if (e)
		die(125, "capget", "", -e);
	set[2] = set[1];
	set[5] = set[4];
	e = SYS2(NR_capset, head, set);
	if (e)
		die(125, "capset", "", -e);
	for (int i = 0; i < 64; i++)
		if (set[i / 32 * 3 + 1] >> i % 32 & 1)
			SYS5(NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0); /* fails only where securebits forbid it: then the agent says what it lacks */
}

/* enter joins the namespaces. Our own user namespace cannot be joined again (EINVAL): then the others only. */
static void enter(const char *pid, int userOnly)
{
	const char *stop;
	ulong n = number(pid, &stop);
	if (stop == pid || *stop)
		die(125, "not a process id: ", pid, 0);
	long fd = SYS2(NR_pidfd_open, n, 0);
	if (fd < 0)
		die(125, "pidfd_open of the holder ", pid, -fd);
	long rest = userOnly ? 0 : CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET;
	long e = SYS2(NR_setns, fd, CLONE_NEWUSER | rest);
	if (e == -EINVAL)
		e = rest ? SYS2(NR_setns, fd, rest) : 0;
	if (e)
		die(125, "setns to the namespaces of ", pid, -e);
	SYS1(NR_close, fd);
}

/* run executes v[0]; it returns only the errno, ENOENT's place taken by a better one that PATH's walk met. */
static long run(char **v, char **env)
{
	const char *name = v[0], *path = "/usr/local/bin:/usr/bin:/bin";
	for (const char *p = name; *p; p++)
		if (*p == '/')
			return -SYS3(NR_execve, name, v, env);
	if (!*name)
		return ENOENT;
	for (char **p = env; *p; p++)
		if ((*p)[0] == 'P' && (*p)[1] == 'A' && (*p)[2] == 'T' && (*p)[3] == 'H' && (*p)[4] == '=')
			path = *p + 5;
	long best = ENOENT;
	for (;;) {
		char file[4096], *q = file, *end = file + sizeof file - 1;
		while (*path && *path != ':' && q < end)
			*q++ = *path++;
		if (q != file) /* an empty entry is the working directory (execvp(3)) */
			*q++ = '/';
		put(q, file + sizeof file, name);
		long e = -SYS3(NR_execve, file, v, env);
		if (e == EACCES)
			best = e;
		else if (e != ENOENT && e != ENOTDIR)
			return e;
		while (*path && *path != ':')
			path++;
		if (!*path++)
			return best;
	}
}

static int option(const char *arg, char letter)
{
	return arg && arg[0] == '-' && arg[1] == letter && !arg[2];
}

void start(ulong *sp)
{
	long argc = (long)sp[0];
	char **v = (char **)(sp + 1), **env = v + argc + 1, cwd[4096];
	if (!argc)
		quit(125);
	int userOnly = option(v[1], 'u');
	v += 1 + userOnly;
	int help = option(*v, 'h'), told = option(*v, 'r');
	v += told;
	if (help || !v[0] || !v[1])
		die(help ? 0 : 125, "usage: stub [-u] [-r] PID PROGRAM [ARG...]", "", 0);
	if (told && !SYS3(NR_fcntl, 3, F_SETFD, FD_CLOEXEC))
		report = 3;
	if (SYS2(NR_getcwd, cwd, sizeof cwd) < 0 || cwd[0] != '/')
		put(cwd, cwd + 2, "/"); /* a deleted directory, or one out of our root: there is no name to come back to */
	enter(v[0], userOnly);
	if (userOnly) {
		keep();
	} else {
		long e = SYS1(NR_chdir, cwd); /* setns to a mount namespace goes to its root */
		if (e)
			die(126, "the working directory is not to be had inside: chdir ", cwd, -e);
	}
	v++;
	long e = run(v, env);
	die(e == ENOENT || e == ENOTDIR ? 127 : 126, "exec ", v[0], e);
}
