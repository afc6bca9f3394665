// getsockopt: SO_ERROR of a connect that has ended late (protocol.h, SP_WHY).
#include <string.h>

#include "sockets.h"

SP_WRAP(int, getsockopt, (int fd, int level, int name, void *value, socklen_t *length))
{
	int result = SP_NEXT(getsockopt)(fd, level, name, value, length), error;
	if (result != 0 || level != SOL_SOCKET || name != SO_ERROR || !sp_serves(SP_SERVE_TCP) || *length != sizeof error)
		return result;
	memcpy(&error, value, sizeof error);
	if (error == ECONNREFUSED) {
		error = sp_why(fd);
		memcpy(value, &error, sizeof error);
	}
	return result;
}
