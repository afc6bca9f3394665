/* names: getaddrinfo, getnameinfo and gethostbyname with the pod's resolver, search list and hosts file. */
#define _GNU_SOURCE
#include "conform.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { most = 8 };

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

static const char *lookup_error(int e)
{
	switch (e) {
	case EAI_NONAME: return "EAI_NONAME";
#ifdef EAI_NODATA
	case EAI_NODATA: return "EAI_NONAME"; /* which of the two a libc says is its own choice */
#endif
	case EAI_AGAIN: return "EAI_AGAIN";
	case EAI_FAIL: return "EAI_FAIL";
	default: return "EAI of another kind";
	}
}

static void lookup(const char *name, int family, const char *service)
{
	char what[128], list[most][INET6_ADDRSTRLEN + 8], all[512] = "";
	struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM}, *found = NULL;
	snprintf(what, sizeof what, "%s %s", family == AF_INET ? "v4" : family == AF_INET6 ? "v6" : "any", name);
	int error = getaddrinfo(name, service, &hints, &found), n = 0;
	if (error) {
		say(what, "%s", lookup_error(error));
		return;
	}
	for (struct addrinfo *a = found; a && n < most; a = a->ai_next) {
		struct sockaddr_storage s = {0};
		memcpy(&s, a->ai_addr, a->ai_addrlen);
		snprintf(list[n++], sizeof list[0], "%s", address(&s, 0));
	}
	freeaddrinfo(found);
	qsort(list, n, sizeof list[0], by_text);
	for (int i = 0; i < n; i++) {
		strcat(all, " ");
		strcat(all, list[i]);
	}
	say(what, "ok%s", all);
}

static void reverse(const char *ip)
{
	struct sockaddr_storage a;
	socklen_t n = at(&a, ip, 80);
	char host[256], what[64];
	snprintf(what, sizeof what, "numeric %s", ip);
	int error = getnameinfo((struct sockaddr *)&a, n, host, sizeof host, NULL, 0, NI_NUMERICHOST);
	say(what, "%s", error ? lookup_error(error) : host);
}

void names_subject(void)
{
	static const char *const names[] = {"server", "server.shop", "server.shop.svc.cluster.local", "external.example", "alias.example",
	                                    "absent", "absent.example.", "localhost", "orders-0", "203.0.113.7"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		lookup(names[i], AF_INET, NULL);
		lookup(names[i], AF_INET6, NULL);
	}
	lookup("server", AF_UNSPEC, "80");
	lookup("external.example", AF_UNSPEC, NULL);
	reverse("203.0.113.7");
	reverse("2001:db8:7::7");
	struct hostent *h = gethostbyname("server");
	struct sockaddr_storage a = {.ss_family = AF_INET};
	if (h && h->h_addrtype == AF_INET)
		memcpy(&((struct sockaddr_in *)&a)->sin_addr, h->h_addr_list[0], 4);
	say("gethostbyname server", "%s %s", h ? "ok" : "none", h ? address(&a, 0) : "");
	h = gethostbyname("absent");
	say("gethostbyname absent", "%s", h ? "found" : "none");
}
