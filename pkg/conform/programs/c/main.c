/* conform SUBJECT...: prints what each subject finds. `conform child` is what the processes subject starts. */
#define _GNU_SOURCE
#include "conform.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

const char *self, *static_program;
static const char *subject;

void say(const char *what, const char *format, ...)
{
	printf("%s %s: ", subject, what);
	va_list args;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	puts("");
	fflush(stdout);
}

const char *errno_name(int number)
{
	static const struct {
		int number;
		const char *name;
	} names[] = {
	    {EPERM, "EPERM"}, {ENOENT, "ENOENT"}, {EIO, "EIO"}, {ENOEXEC, "ENOEXEC"}, {EBADF, "EBADF"}, {EAGAIN, "EAGAIN"},
	    {EACCES, "EACCES"}, {EEXIST, "EEXIST"}, {EXDEV, "EXDEV"}, {ENOTDIR, "ENOTDIR"}, {EISDIR, "EISDIR"}, {EINVAL, "EINVAL"},
	    {EROFS, "EROFS"}, {ELOOP, "ELOOP"}, {ENODATA, "ENODATA"}, {ENOTSUP, "ENOTSUP"}, {ENOSYS, "ENOSYS"},
	    {EPIPE, "EPIPE"}, {ENOTEMPTY, "ENOTEMPTY"}, {EADDRINUSE, "EADDRINUSE"}, {EADDRNOTAVAIL, "EADDRNOTAVAIL"},
	    {ENETUNREACH, "ENETUNREACH"}, {ECONNRESET, "ECONNRESET"}, {EISCONN, "EISCONN"}, {ENOTCONN, "ENOTCONN"},
	    {ETIMEDOUT, "ETIMEDOUT"}, {ECONNREFUSED, "ECONNREFUSED"}, {EHOSTUNREACH, "EHOSTUNREACH"}, {EINPROGRESS, "EINPROGRESS"},
	};
	static char other[16];
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (names[i].number == number)
			return names[i].name;
	snprintf(other, sizeof other, "errno %d", number);
	return other;
}

const char *result(long value) { return value >= 0 ? "ok" : errno_name(errno); }

const char *address(const struct sockaddr_storage *a, int with_port)
{
	static char text[2][80];
	static int turn;
	char *out = text[turn ^= 1], ip[INET6_ADDRSTRLEN] = "?";
	int port = 0;
	if (a->ss_family == AF_INET) {
		inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, ip, sizeof ip);
		port = ntohs(((const struct sockaddr_in *)a)->sin_port);
	} else if (a->ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)a)->sin6_addr, ip, sizeof ip);
		port = ntohs(((const struct sockaddr_in6 *)a)->sin6_port);
	}
	if (with_port)
		snprintf(out, sizeof text[0], "%s port %d", ip, port);
	else
		snprintf(out, sizeof text[0], "%s%s", ip, port ? " port" : "");
	return out;
}

socklen_t at(struct sockaddr_storage *a, const char *ip, int port)
{
	memset(a, 0, sizeof *a);
	struct sockaddr_in *four = (struct sockaddr_in *)a;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)a;
	if (inet_pton(AF_INET, ip, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		return sizeof *four;
	}
	inet_pton(AF_INET6, ip, &six->sin6_addr);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	return sizeof *six;
}

void environment_subject(void)
{
	static const char *const names[] = {"GREETING", "TWO_WORDS", "EMPTY", "ABSENT", "HTTP_PROXY", "KUBERNETES_SERVICE_HOST"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const char *value = getenv(names[i]);
		say(names[i], "%s%s%s", value ? "\"" : "", value ? value : "unset", value ? "\"" : "");
	}
	char name[256] = "";
	say("gethostname", "%s %s", result(gethostname(name, sizeof name)), name);
	struct utsname system;
	say("uname", "%s %s", result(uname(&system)), system.nodename);
	say("gethostname, too short", "%s", result(gethostname(name, 3)));
}

/* child is started in many ways and says where it is. */
static void child(int argc, char **argv)
{
	char name[256] = "?", line[64] = "?";
	const char *value = getenv("GREETING");
	gethostname(name, sizeof name);
	FILE *f = fopen("/data/plain", "r");
	if (f) {
		if (!fgets(line, sizeof line, f))
			strcpy(line, "empty");
		fclose(f);
	} else
		snprintf(line, sizeof line, "%s", errno_name(errno));
	printf("child %s: host %s, file %s, GREETING %s\n", argc > 2 ? argv[2] : "", name, line, value ? value : "unset");
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} subjects[] = {
	    {"environment", environment_subject}, {"names", names_subject},   {"tcp", tcp_subject},
	    {"udp", udp_subject},                 {"listen", listen_subject}, {"files", files_subject},
	    {"places", places_subject},           {"processes", processes_subject}, {"cost", cost_subject},
	};
	self = argv[0];
	static_program = getenv("CONFORM_STATIC");
	if (!static_program)
		static_program = "";
	if (argc > 1 && !strcmp(argv[1], "child")) {
		child(argc, argv);
		return 7;
	}
	for (int i = 1; i < argc; i++)
		for (size_t j = 0; j < sizeof subjects / sizeof *subjects; j++)
			if (!strcmp(argv[i], subjects[j].name)) {
				subject = subjects[j].name;
				subjects[j].run();
			}
	return 0;
}
