// mkstemp and its family, which make a file inside libc.
#include <stdlib.h>
#include <string.h>

#include "paths.h"

// named copies the name that was made into the program's template: both end with it.
static void named(char *template, const char *use)
{
	size_t n = strlen(strrchr(use, '/') + 1);
	memcpy(template + strlen(template) - n, use + strlen(use) - n, n);
}

// Of a fetched path nothing can be made. failed is the call's own.
#define SP_MAKES(type, name, failed, params, ...)                                                  \
	SP_WRAP(type, name, params)                                                                \
	{                                                                                          \
		struct sp_where p;                                                                  \
		if (!sp_path(&p, AT_FDCWD, template, SP_CREATES) && sp_path_fetched(&p))           \
			p.error = EROFS;                                                           \
		if (p.error)                                                                       \
			return sp_path_failed(&p), failed;                                         \
		type made = SP_NEXT(name)(__VA_ARGS__);                                            \
		if (made != failed && p.use == p.buffer)                                           \
			named(template, p.use);                                                    \
		return made;                                                                       \
	}

#define USE ((char *)(uintptr_t)p.use)

SP_MAKES(int, mkstemp, -1, (char *template), USE)
SP_MAKES(int, mkostemp, -1, (char *template, int flags), USE, flags)
SP_MAKES(int, mkstemps, -1, (char *template, int suffix), USE, suffix)
SP_MAKES(int, mkostemps, -1, (char *template, int suffix, int flags), USE, suffix, flags)
#ifdef __GLIBC__
SP_MAKES(int, mkstemp64, -1, (char *template), USE)
SP_MAKES(int, mkostemp64, -1, (char *template, int flags), USE, flags)
SP_MAKES(int, mkstemps64, -1, (char *template, int suffix), USE, suffix)
SP_MAKES(int, mkostemps64, -1, (char *template, int suffix, int flags), USE, suffix, flags)
#endif

SP_WRAP(char *, mkdtemp, (char *template))
{
	struct sp_where p;
	if (!sp_path(&p, AT_FDCWD, template, SP_CREATES) && sp_path_fetched(&p))
		p.error = EROFS;
	if (p.error || !SP_NEXT(mkdtemp)(USE))
		return p.error ? sp_path_failed(&p), NULL : NULL;
	if (p.use == p.buffer)
		named(template, p.use);
	return template;
}
