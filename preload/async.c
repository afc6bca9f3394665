// getaddrinfo_a: since glibc 2.34 it calls libc's insides. The names are asked for before it returns, also with GAI_NOWAIT:
// its callers may be told as early as that, and the answer is the pod's. gai_suspend, gai_cancel and gai_error then find
// what is done.
#include "core.h"

#ifdef __GLIBC__
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

// A thread is made by what the program itself has for that: this library needs none.
static struct sp_slot creates = {"pthread_create", NULL}, detaches = {"pthread_detach", NULL};
typedef int create_type(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
typedef int detach_type(pthread_t);

struct telling {
	void (*function)(union sigval);
	union sigval value;
};

static void *tells(void *context)
{
	struct telling t = *(struct telling *)context;
	free(context);
	t.function(t.value);
	return NULL;
}

static void in_thread(const struct sigevent *how)
{
	create_type *create = (create_type *)sp_next(&creates);
	detach_type *detach = (detach_type *)sp_next(&detaches);
	struct telling *t = create && detach ? malloc(sizeof *t) : NULL;
	pthread_t thread;
	if (!t)
		return;
	*t = (struct telling){how->sigev_notify_function, how->sigev_value};
	if (create(&thread, how->sigev_notify_attributes, tells, t) == 0)
		detach(thread);
	else
		free(t);
}

// told tells the caller as it wants (sigevent(3type)).
static void told(const struct sigevent *how)
{
	siginfo_t info = {.si_signo = how->sigev_signo, .si_code = SI_ASYNCNL};
	if (how->sigev_notify == SIGEV_THREAD)
		in_thread(how);
	if (how->sigev_notify != SIGEV_SIGNAL)
		return;
	info.si_pid = (pid_t)sp_sys0(SYS_getpid);
	info.si_uid = (uid_t)sp_sys0(SYS_getuid);
	info.si_value = how->sigev_value;
	sp_sys3(SYS_rt_sigqueueinfo, info.si_pid, how->sigev_signo, &info);
}

SP_WRAP(int, getaddrinfo_a, (int mode, struct gaicb *list[], int count, struct sigevent *how))
{
	if (!sp_serves(SP_SERVE_NAMES) || (mode != GAI_WAIT && mode != GAI_NOWAIT) || !list)
		return SP_NEXT(getaddrinfo_a) ? SP_NEXT(getaddrinfo_a)(mode, list, count, how) : EAI_SYSTEM;
	for (int i = 0; i < count; i++)
		if (list[i])
			list[i]->__return = getaddrinfo(list[i]->ar_name, list[i]->ar_service, list[i]->ar_request, &list[i]->ar_result);
	if (mode == GAI_NOWAIT && how)
		told(how);
	return 0;
}
#endif
