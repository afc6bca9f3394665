// named NAME...: looks each name up in every way that libc has.
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <resolv.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

static void info(const char *label, const char *name, const char *service, const struct addrinfo *hints)
{
	struct addrinfo *list = NULL;
	int error = getaddrinfo(name, service, hints, &list);
	printf("%s %s:", label, name);
	if (error)
		printf(" %s", gai_strerror(error));
	for (struct addrinfo *a = list; a && !error; a = a->ai_next) {
		char host[NI_MAXHOST], port[NI_MAXSERV];
		getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
		printf(" %s %s %d/%d", host, port, a->ai_socktype, a->ai_protocol);
		if (a->ai_canonname)
			printf(" (%s)", a->ai_canonname);
	}
	printf("\n");
	if (!error)
		freeaddrinfo(list);
}

static void host(const char *label, const char *name, const struct hostent *h, int error)
{
	printf("%s %s:", label, name);
	if (!h)
		printf(" %s", hstrerror(error));
	else
		printf(" %s", h->h_name);
	for (char **a = h ? h->h_addr_list : NULL; a && *a; a++) {
		char text[INET6_ADDRSTRLEN];
		printf(" %s", inet_ntop(h->h_addrtype, *a, text, sizeof text));
	}
	printf("\n");
}

static void reentrant(const char *name)
{
	struct hostent h, *result = NULL;
	char room[512];
	int error = 0, status = gethostbyname_r(name, &h, room, 8, &result, &error);
	printf("gethostbyname_r in 8 bytes: %s\n", status ? "too few" : "enough");
	status = gethostbyname_r(name, &h, room + 1, sizeof room - 1, &result, &error);
	host("gethostbyname_r", name, status ? NULL : result, error);
}

static void raw(const char *label, const char *name, int type, int search)
{
	unsigned char answer[4096];
	int n = search ? res_search(name, C_IN, type, answer, sizeof answer) : res_query(name, C_IN, type, answer, sizeof answer);
	if (n < 1)
		printf("%s %s: %s\n", label, name, hstrerror(h_errno));
	else
		printf("%s %s: %d answers, last byte %d\n", label, name, answer[6] << 8 | answer[7], answer[n - 1]);
}

#ifdef __GLIBC__
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t called = PTHREAD_COND_INITIALIZER;
static int value;

static void notified(union sigval v)
{
	pthread_mutex_lock(&lock);
	value = v.sival_int;
	pthread_cond_signal(&called);
	pthread_mutex_unlock(&lock);
}

// two looks a name and one without an address up at once, and waits in each way that there is.
static void two(const char *name)
{
	struct gaicb one = {.ar_name = name, .ar_service = "80"}, none = {.ar_name = "nowhere"}, *both[] = {&one, NULL, &none};
	struct sigevent thread = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = notified, .sigev_value.sival_int = 7};
	struct sigevent signal = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 8};
	siginfo_t info = {0};
	sigset_t usr1;
	char host[NI_MAXHOST] = "";
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	for (int way = 0; way < 3; way++) {
		struct sigevent *how = way == 0 ? NULL : way == 1 ? &thread : &signal;
		int error = getaddrinfo_a(way ? GAI_NOWAIT : GAI_WAIT, both, 3, how);
		if (way == 1) {
			pthread_mutex_lock(&lock);
			while (!value)
				pthread_cond_wait(&called, &lock);
			pthread_mutex_unlock(&lock);
		} else if (way == 2) {
			sigwaitinfo(&usr1, &info);
		}
		while (gai_error(&one) == EAI_INPROGRESS || gai_error(&none) == EAI_INPROGRESS)
			gai_suspend((const struct gaicb *const *)both, 3, NULL);
		if (!gai_error(&one)) {
			getnameinfo(one.ar_result->ai_addr, one.ar_result->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST);
			freeaddrinfo(one.ar_result);
		}
		printf("getaddrinfo_a %s: %d %d %s; nowhere: %s\n", name, error, gai_error(&one), host, gai_strerror(gai_error(&none)));
	}
	printf("told %d by a thread, %d by a signal from itself: %d\n", value, info.si_value.sival_int, info.si_pid == getpid());
}
#else
static void two(const char *name) { (void)name; }
#endif

int main(int argc, char **argv)
{
	struct addrinfo stream = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME}, v6 = stream;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(80)};
	char own[128], name[NI_MAXHOST];
	struct utsname u;
	v6.ai_family = AF_INET6;
	for (int i = 1; i < argc; i++) {
		info("any", argv[i], NULL, NULL);
		info("stream", argv[i], "443", &stream);
		info("v6", argv[i], "http", &v6);
		struct hostent *h = gethostbyname(argv[i]);
		host("gethostbyname", argv[i], h, h_errno);
		h = gethostbyname2(argv[i], AF_INET6);
		host("gethostbyname2", argv[i], h, h_errno);
		reentrant(argv[i]);
		raw("res_query", argv[i], T_A, 0);
		raw("res_search", argv[i], T_A, 1);
		raw("res_search txt", argv[i], T_TXT, 1);
	}
	two(argv[1]);
	info("number", "127.0.0.1", "80", &stream);
	inet_pton(AF_INET, "10.96.7.8", &a.sin_addr);
	int error = getnameinfo((struct sockaddr *)&a, sizeof a, name, sizeof name, NULL, 0, 0);
	printf("getnameinfo: %s\n", error ? gai_strerror(error) : name);
	host("gethostbyaddr", "10.96.7.8", gethostbyaddr(&a.sin_addr, 4, AF_INET), h_errno);
	inet_pton(AF_INET, "10.96.7.9", &a.sin_addr);
	error = getnameinfo((struct sockaddr *)&a, sizeof a, name, sizeof name, NULL, 0, 0);
	printf("getnameinfo of one without a name: %s\n", error ? gai_strerror(error) : name);
	error = getnameinfo((struct sockaddr *)&a, sizeof a, name, sizeof name, NULL, 0, NI_NAMEREQD);
	printf("and with NI_NAMEREQD: %s\n", error ? gai_strerror(error) : name);
	gethostname(own, sizeof own);
	uname(&u);
	printf("host %s %s\n", own, u.nodename);
	return 0;
}
