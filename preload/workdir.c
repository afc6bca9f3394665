// The working directory and the root. The kernel's is within the session's mount when the program is in a directory of
// the pod's, or a directory that stands for it; the program is told the pod's path.
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fetch.h"
#include "paths.h"

// stood goes to the directory that stands for one of the pod's.
static long stood(const char *path)
{
	int fd = sp_fetch_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n;
	if (fd < 0)
		return -errno;
	n = sp_sys1(SYS_fchdir, fd);
	sp_sys1(SYS_close, fd);
	return n;
}

SP_WRAP(int, chdir, (const char *path))
{
	struct sp_where p;
	int result;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p);
	sp_path_moved();
	result = sp_path_fetched(&p) ? (int)sp_result(stood(p.use)) : SP_NEXT(chdir)(p.use);
	sp_path_moved();
	return result;
}

SP_WRAP(int, fchdir, (int fd))
{
	int result;
	sp_path_moved();
	result = SP_NEXT(fchdir)(fd);
	sp_path_moved();
	return result;
}

SP_WRAP(int, chroot, (const char *path))
{
	struct sp_where p;
	int result;
	if (sp_path(&p, AT_FDCWD, path, SP_READS))
		return sp_path_failed(&p);
	if (sp_path_fetched(&p))
		return sp_fail(EPERM); // there is nothing beneath it
	result = SP_NEXT(chroot)(p.use);
	if (result == 0 && sp_serves(SP_SERVE_FILES)) {
		sp_notice(SP_NOTICE_TEXT, "the program has changed its root: it sees no files of the pod's from there");
		sp_path_rooted();
	}
	return result;
}

// sp_getcwd is the system call: the length with the NUL.
long sp_getcwd(char *out, size_t room)
{
	char text[SP_PATH_MAX];
	long n = sp_path_here(text, sizeof text);
	if (n <= 0)
		return sp_fail(n ? n : ENOENT);
	if ((size_t)n + 1 > room)
		return sp_fail(room ? ERANGE : EINVAL);
	memcpy(out, text, (size_t)n + 1);
	return n + 1;
}

// where is getcwd for a directory that may be the pod's; NULL with errno. Without memory of the program's it makes some.
static char *where(char *out, size_t room)
{
	char text[SP_PATH_MAX], *made;
	long n;
	if (out)
		return sp_getcwd(out, room) < 0 ? NULL : out;
	n = sp_getcwd(text, room && room < sizeof text ? room : sizeof text);
	made = n < 0 ? NULL : malloc(room ? room : (size_t)n);
	if (made)
		memcpy(made, text, (size_t)n);
	return made;
}

SP_WRAP(char *, getcwd, (char *out, size_t room))
{
	return sp_serves(SP_SERVE_FILES) ? where(out, room) : SP_NEXT(getcwd)(out, room);
}

SP_WRAP(char *, get_current_dir_name, (void))
{
	char *named = SP_NEXT(get_current_dir_name)(); // $PWD, where that is right
	long n;
	if (!named || !sp_serves(SP_SERVE_FILES))
		return named;
	n = sp_path_back(named, strlen(named), strlen(named) + 1);
	if (n >= 0)
		return named;
	free(named);
	return where(NULL, 0);
}

#ifdef __GLIBC__
SP_WRAP(char *, getwd, (char *out))
{
	return sp_serves(SP_SERVE_FILES) ? where(out, PATH_MAX) : SP_NEXT(getwd)(out);
}

SP_WRAP(char *, __getcwd_chk, (char *out, size_t room, size_t size))
{
	return size >= room && sp_serves(SP_SERVE_FILES) ? where(out, room) : SP_NEXT(__getcwd_chk)(out, room, size);
}
#endif
