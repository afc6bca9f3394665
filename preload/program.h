// What becomes of a program that is about to be executed: the session says it, since a program that this library cannot
// serve (static, Go, setuid) is started in namespaces, and a host program without the library.
#ifndef STEPIN_PROGRAM_H
#define STEPIN_PROGRAM_H

#include "core.h"

// How the call goes on: with the path, arguments and environment that it should have. changed: this is not the program
// that was asked for, but what wraps it.
typedef int sp_runs(void *context, const char *path, char *const argv[], char *const env[], bool changed);

// sp_program asks about a program and calls run, whose result it returns; -1 with errno if it comes to none. dirfd and path
// are as for openat; an empty path is the descriptor itself. It keeps to the stack: it is called in vfork children.
int sp_program(int dirfd, const char *path, char *const argv[], char *const env[], sp_runs *run, void *context);

// sp_program_found looks for a name in PATH as execvp does: each(context, candidate) until one returns another errno than
// those for which the search goes on.
int sp_program_found(const char *name, int (*each)(void *context, const char *candidate), void *context);

// sp_carried tells whether an environment has this library and its variable.
bool sp_carried(char *const env[]);

#endif
