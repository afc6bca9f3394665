// dlopen of a library of the pod's. The loader searches for its caller, whom it knows by where it returns to: so all but the
// pod's go on by a jump, as if nobody had been here.
#include <dlfcn.h>
#include <string.h>

#include "paths.h"

// The slot by hand: SP_WRAP defines a C function, and this one is below.
typedef void *sp_type_dlopen(const char *, int);
static struct sp_slot SP_SLOT(dlopen);

static void *mounted(const char *path, int flags)
{
	struct sp_where p;
	if (sp_path(&p, AT_FDCWD, path, SP_READS) || sp_path_fetched(&p)) {
		sp_notice(SP_NOTICE_ERROR, "a library of the pod's cannot be loaded without FUSE: this machine's is looked for");
		p.use = path;
	}
	return SP_NEXT(dlopen)(p.use, flags);
}

// sp_loads returns what dlopen shall be for this path. A name without a slash is searched for on this machine.
__attribute__((used, visibility("hidden"))) void *sp_loads(const char *path)
{
	struct sp_where p;
	if (path && strchr(path, '/') && (sp_path(&p, AT_FDCWD, path, SP_READS) || p.rule))
		return (void *)mounted;
	return (void *)SP_NEXT(dlopen);
}

// SP_WRAP(void *, dlopen, (const char *path, int flags)), which saves the registers of its arguments around sp_loads.
#if defined(__x86_64__)
__asm__(".text\n"
	".globl dlopen\n"
	".type dlopen,@function\n"
	"dlopen:\n"
	"	endbr64\n"
	"	push %rdi\n	push %rsi\n"
	"	sub $8,%rsp\n" // aligns
	"	call sp_loads\n"
	"	add $8,%rsp\n"
	"	pop %rsi\n	pop %rdi\n"
	"	jmp *%rax\n"
	".size dlopen,.-dlopen\n");
#elif defined(__aarch64__)
__asm__(".text\n"
	".globl dlopen\n"
	".type dlopen,%function\n"
	"dlopen:\n"
	"	stp x29, x30, [sp, #-32]!\n"
	"	mov x29, sp\n"
	"	stp x0, x1, [sp, #16]\n"
	"	bl sp_loads\n"
	"	mov x16, x0\n"
	"	ldp x0, x1, [sp, #16]\n"
	"	ldp x29, x30, [sp], #32\n"
	"	br x16\n"
	".size dlopen,.-dlopen\n");
#endif
