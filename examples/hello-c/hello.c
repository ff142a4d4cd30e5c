/* Greets whoever is named, or the shore. */
#include "greeting.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    char line[256];
    const char *name = argc > 1 ? argv[1] : "shore";

    if (greeting(line, sizeof line, name) >= (int)sizeof line) {
        fprintf(stderr, "hello: the name is too long\n");
        return EXIT_FAILURE;
    }
    return puts(line) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
