/* What there is to say, and to whom. */
#ifndef GREETING_H
#define GREETING_H

#include <stddef.h>

/* Writes a greeting for `name` into `buffer` of `size` bytes, cut if it does not fit.
 * Returns the length it would have had, without the final NUL. */
int greeting(char *buffer, size_t size, const char *name);

#endif
