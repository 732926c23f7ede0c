/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * WAMR's platform for Zephyr, in place of its zephyr_platform.c. That one takes over the C
 * library's standard output, by a hook that not every library has, and allocates with malloc.
 * Here nothing is printed, and the arena is the only memory.
 */

#include "platform_api_vmcore.h"
#include "platform_api_extension.h"

int
os_thread_sys_init(void);

void
os_thread_sys_destroy(void);

int
bh_platform_init(void)
{
    return os_thread_sys_init();
}

void
bh_platform_destroy(void)
{
    os_thread_sys_destroy();
}

/* Asked only by a runtime that was started without an allocator; ours never is. */
void *
os_malloc(unsigned size)
{
    ARG_UNUSED(size);
    return NULL;
}

void *
os_realloc(void *block, unsigned size)
{
    ARG_UNUSED(block);
    ARG_UNUSED(size);
    return NULL;
}

void
os_free(void *block)
{
    ARG_UNUSED(block);
}

int
os_printf(const char *format, ...)
{
    ARG_UNUSED(format);
    return 0;
}

int
os_vprintf(const char *format, va_list args)
{
    ARG_UNUSED(format);
    ARG_UNUSED(args);
    return 0;
}
