// A program built with AddressSanitizer refuses to start where a library comes before the sanitizer's, unless it is told
// not to look. Ours calls nothing that would have to be wrapped by then. The program's own word, in ASAN_OPTIONS or by a
// function of this name, goes before.
#include "core.h"

SP_WRAP(const char *, __asan_default_options, (void)) { return "verify_asan_link_order=0"; }
