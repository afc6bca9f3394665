/*
 * boot [ARG...]
 *
 * Becomes the agent inside a container that has none. In a Job's container, whatever its image, this is one of the files
 * mounted at /stepin, and it reads the others: /stepin/agent.0, agent.1 … until there is no next one (each came in a
 * ConfigMap of its own), which together are one LZ4 frame (`cat agent.* | lz4 -d` shows what is in it). In an ephemeral
 * container there is no /stepin: the frame follows in this program's own file, behind the program.
 *
 * It decodes the frame into a memfd and executes that in place: same pid, same arguments but for the name, same environment.
 * Where the node forbids to execute a memfd (vm.memfd_noexec, kernel 6.3) it is a file in /stepin-tmp, an emptyDir, that has
 * lost its name before it runs.
 *
 * What goes wrong is one line on standard error, and exit status 1.
 *
 * It must never trust what it reads, fork, print anything when all goes well, leave a file, or need anything of the
 * image it runs in.
 */
#include "../../pkg/namespaces/stub/sys.h"
#include "lz4.h"

#ifndef STEPIN_PARTS /* tests have them elsewhere */
#define STEPIN_PARTS "/stepin/agent."
#define STEPIN_TMP "/stepin-tmp/"
#endif

/* Three times what today's agent takes. Only pages that are used cost memory: the container's limit is the agent's own. */
enum { MAX_PACKED = 16 << 20, MAX_IMAGE = 64 << 20 };

enum { O_WRONLY = 1, O_CREAT = 0x40, O_EXCL = 0x80, AT_EMPTY_PATH = 0x1000 };
enum { MFD_CLOEXEC = 1, MFD_EXEC = 0x10 }; /* include/uapi/linux/memfd.h */

static uchar packed[MAX_PACKED], image[MAX_IMAGE];

static char *decimal(char *p, const char *end, ulong n)
{
	char digits[24], *d = digits + sizeof digits - 1;
	*d = 0;
	do
		*--d = (char)('0' + n % 10);
	while (n /= 10);
	return put(p, end, d);
}

/* die says what failed, on what, with which errno (0: none), and ends. */
static __attribute__((noreturn)) void die(const char *what, const char *on, long err)
{
	char line[512], *p = line, *end = line + sizeof line - 1;
	p = put(put(put(p, end, "stepin boot: "), end, what), end, on);
	if (err)
		p = decimal(put(p, end, ": errno "), end, (ulong)err);
	*p++ = '\n';
	SYS3(NR_write, 2, line, p - line);
	quit(1);
}

/* gather reads all parts, one after the other, and returns how many bytes they have; own is this program's file. */
static ulong gather(const char *own)
{
	ulong used = 0;
	for (ulong i = 0;; i++) {
		char path[256], *end = path + sizeof path;
		decimal(put(path, end, STEPIN_PARTS), end, i);
		long fd = SYS4(NR_openat, AT_FDCWD, path, O_CLOEXEC, 0), n;
		if (fd == -ENOENT && i)
			return used;
		if (fd == -ENOENT && own) { /* the next round finds no agent.1 */
			put(path, end, own);
			fd = SYS4(NR_openat, AT_FDCWD, path, O_CLOEXEC, 0);
		}
		if (fd < 0)
			die("opening ", path, -fd);
		while ((n = SYS3(NR_read, fd, packed + used, sizeof packed - used)) > 0)
			used += (ulong)n;
		if (n < 0)
			die("reading ", path, -n);
		if (used == sizeof packed)
			die("there is more than an agent takes: ", path, 0);
		SYS1(NR_close, fd);
	}
}

/* decode finds the frame in what was gathered: at its beginning, or behind a program. What only looks like one, such as the
 * number in this program's own code, does not decode. */
static long decode(ulong n)
{
	for (ulong at = 0; at + 4 <= n; at++) {
		if (le32(packed + at) != 0x184D2204)
			continue;
		long size = lz4(packed + at, n - at, image, sizeof image);
		if (size >= 0)
			return size;
	}
	return -1;
}

static void fill(long fd, ulong size, const char *what)
{
	for (ulong done = 0; done < size;) {
		long n = SYS3(NR_write, fd, image + done, size - done);
		if (n <= 0)
			die("writing the agent to ", what, -n);
		done += (ulong)n;
	}
}

/* file returns a descriptor of a file in /stepin-tmp that holds the image, nobody writes and has no name. */
static long file(ulong size, long why)
{
	char path[256], *end = path + sizeof path;
	decimal(put(path, end, STEPIN_TMP), end, (ulong)SYS0(NR_getpid)); /* `boot join` may run beside the first */
	SYS3(NR_unlinkat, AT_FDCWD, path, 0);
	long w = SYS4(NR_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
	if (w < 0)
		die("this node forbids to execute from memory, and there is no " STEPIN_TMP, "", why);
	fill(w, size, path);
	SYS1(NR_close, w); /* the kernel executes nothing that somebody may write to (ETXTBSY) */
	long fd = SYS4(NR_openat, AT_FDCWD, path, O_CLOEXEC, 0);
	SYS3(NR_unlinkat, AT_FDCWD, path, 0);
	if (fd < 0)
		die("opening ", path, -fd);
	return fd;
}

void start(ulong *sp)
{
	long argc = (long)sp[0], size, e;
	char **v = (char **)(sp + 1), **env = v + argc + 1;
	if (!argc)
		die("no arguments, not even a name", "", 0);
	size = decode(gather(v[0]));
	if (size < 0)
		die("the agent's parts are damaged, or not all there", "", 0);
	v[0] = "stepin-agent";
	long fd = SYS2(NR_memfd_create, v[0], MFD_CLOEXEC | MFD_EXEC);
	if (fd == -EINVAL) /* kernels before 6.3 do not know the second flag, and need it not */
		fd = SYS2(NR_memfd_create, v[0], MFD_CLOEXEC);
	e = fd;
#ifdef STEPIN_TEST_NOEXEC
	e = fd = -EACCES;
#endif
	if (fd >= 0) {
		fill(fd, (ulong)size, "memory");
		e = SYS5(NR_execveat, fd, "", v, env, AT_EMPTY_PATH);
	}
	if (e != -EACCES && e != -EPERM) /* of the sysctl; of a security module */
		die("executing the agent from memory", "", -e);
	fd = file((ulong)size, -e);
	e = SYS5(NR_execveat, fd, "", v, env, AT_EMPTY_PATH);
	die("executing the agent from " STEPIN_TMP, "", -e);
}
