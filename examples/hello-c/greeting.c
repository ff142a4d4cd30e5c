#include "greeting.h"

#include <stdio.h>

int greeting(char *buffer, size_t size, const char *name)
{
    return snprintf(buffer, size, "Hello, %s! Built and run where Longshore put me.", name);
}
