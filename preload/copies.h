// The connected UDP sockets that the session has a descriptor of, too (protocol.h, SP_CONNECT). copies.c.
#ifndef STEPIN_COPIES_H
#define STEPIN_COPIES_H

#include "core.h"

// sp_may_copy tells whether a descriptor may be handed to the session.
bool sp_may_copy(int fd);

// sp_copied notes that it has been.
void sp_copied(int fd);

// sp_closing has the session close its own of those that are about to be closed, or their ports would stay taken.
void sp_closing(unsigned first, unsigned last);

// sp_copies_forked is called in the child of a real fork: it is its parent's to say when they are closed.
void sp_copies_forked(void);

#endif
