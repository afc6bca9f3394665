/* leaderless: a debuggee whose first thread ends while another goes on. It must never end by itself. */
#include <pthread.h>
#include <unistd.h>

static void *stay(void *unused)
{
	for (;;)
		pause();
	return unused;
}

int main(void)
{
	pthread_t other;
	pthread_create(&other, 0, stay, 0);
	pthread_exit(0);
}
