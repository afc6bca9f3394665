/* lookup: a debuggee in C that resolves names by getaddrinfo(3): each line of standard input is lookup=NAME, answered by
   one line with the addresses, sorted. It must never remember anything itself. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { most = 512, shown = 8 };

static char list[most][INET6_ADDRSTRLEN];

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

static void lookup(const char *name)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
	int error = getaddrinfo(name, NULL, &hints, &found);
	if (error == EAI_NONAME) {
		puts("not found");
		return;
	}
	if (error) {
		printf("error: %s\n", gai_strerror(error));
		return;
	}
	int n = 0;
	for (struct addrinfo *a = found; a && n < most; a = a->ai_next)
		getnameinfo(a->ai_addr, a->ai_addrlen, list[n++], sizeof list[0], NULL, 0, NI_NUMERICHOST);
	freeaddrinfo(found);
	qsort(list, n, sizeof list[0], by_text);
	if (n > shown) {
		printf("%d addresses\n", n);
		return;
	}
	for (int i = 0; i < n; i++)
		printf("%s%s", i ? " " : "", list[i]);
	puts("");
}

int main(void)
{
	char line[1024];
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		printf("%s: ", line);
		const char *name = strchr(line, '=');
		if (name)
			lookup(name + 1);
		else
			puts("no such step");
	}
	return 0;
}
