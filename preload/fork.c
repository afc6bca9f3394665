// fork: the child's memory is its own from there on. vfork is not wrapped: its child returns through the frame of the call.
#include <unistd.h>

#include "copies.h"
#include "paths.h"

static pid_t forked(pid_t pid)
{
	if (pid == 0 && sp_serves(~0u)) {
		sp_forked();
		sp_path_forked();
		sp_copies_forked();
	}
	return pid;
}

SP_WRAP(pid_t, fork, (void)) { return forked(SP_NEXT(fork)()); }

#ifdef __GLIBC__
SP_WRAP(pid_t, _Fork, (void)) { return SP_NEXT(_Fork) ? forked(SP_NEXT(_Fork)()) : sp_fail(ENOSYS); }
#endif
