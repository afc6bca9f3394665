// pair is both programs of TestMuslPod. "serve" is the pod's: it has a neighbour on its loopback. "ask" is the debuggee: it
// prints what it sees of the pod, a line each. It must never know anything of stepin but the name of its library.
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PORT = 9000, NOBODYS = 9 };

static struct sockaddr_in loopback(int port) {
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static int serve(void) {
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in at = loopback(PORT);
	if (s < 0 || bind(s, (struct sockaddr *)&at, sizeof at) < 0 || listen(s, 8) < 0) {
		perror("serve");
		return 1;
	}
	for (;;) {
		int c = accept(s, NULL, NULL);
		if (c < 0)
			continue;
		const char text[] = "hello from the pod";
		ssize_t n = write(c, text, sizeof text - 1);
		(void)n; // a caller that has gone has no use for it
		close(c);
	}
}

static void call(int port) {
	char text[64] = "";
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in at = loopback(port);
	if (s < 0 || connect(s, (struct sockaddr *)&at, sizeof at) < 0)
		snprintf(text, sizeof text, "errno %d", errno);
	else if (read(s, text, sizeof text - 1) < 0)
		snprintf(text, sizeof text, "read: errno %d", errno);
	printf("call %d: %s\n", port, text);
	if (s >= 0)
		close(s);
}

static void line(const char *path) {
	char text[64] = "";
	FILE *f = fopen(path, "r");
	if (f == NULL || fgets(text, sizeof text, f) == NULL)
		snprintf(text, sizeof text, "errno %d\n", errno);
	printf("file %s: %s", path, text);
	if (f != NULL)
		fclose(f);
}

static void list(const char *path) {
	struct stat st = {0};
	printf("folder %s: %s", path, stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? "there:" : "absent");
	DIR *d = opendir(path);
	for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
		if (e->d_name[0] != '.')
			printf(" %s", e->d_name);
	putchar('\n');
	if (d != NULL)
		closedir(d);
}

static void loaded(void) {
	char text[512];
	bool found = false, libc = false;
	FILE *f = fopen("/proc/self/maps", "r");
	while (f != NULL && fgets(text, sizeof text, f) != NULL) {
		found = found || strstr(text, "libstepin") != NULL;
		libc = libc || strstr(text, "ld-musl") != NULL;
	}
	if (f != NULL)
		fclose(f);
	printf("loaded: library %d, musl %d\n", found, libc);
}

int main(int argc, char **argv) {
	if (argc > 1 && strcmp(argv[1], "serve") == 0)
		return serve();
	loaded();
	const char *currency = getenv("CURRENCY");
	printf("variable: %s\n", currency ? currency : "absent");
	line("/etc/orders/greeting");
	list("/etc/orders");
	call(PORT);
	call(NOBODYS);
	return 0;
}
