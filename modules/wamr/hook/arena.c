/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The one arena that all of WAMR's memory comes from, linear memories included.
 *
 * Blocks lie end to end. A block is a 4-byte header, then a payload that is 8-aligned; the header
 * holds the block's size, a multiple of 8, and two flags. So a block for n bytes takes n + 4, rounded
 * up to 8, whatever the arena's state. A free block repeats its size in its last 4 bytes, which are read only when the next header says that the block before is free: so no byte
 * that a guest can write is ever taken for the arena's own. Two free blocks are never neighbours.
 *
 * Linear memories are carved from the top and all else, best fit, from the bottom: what is large
 * and what is small don't break each other's room. Every operation walks the blocks, of which
 * there are about ten for each instance.
 *
 * Why not WAMR's own pool: its realloc, when a block exactly swallows the free one behind it,
 * leaves the third marked as if free space came before; freeing that one then reads the last bytes
 * of the grown block, which may be a guest's memory, as a size. Its figures are wrong after any
 * growth in place, too.
 */

#include "arena.h"

#include "bh_platform.h"

#define IN_USE 1u
#define PREVIOUS_IN_USE 2u
#define FLAGS 7u
#define HEADER sizeof(uint32)

typedef uint32 header;

static header *first;
/* A header of size 0, in use, ends the arena. */
static header *last;
static uint32 used;
static uint32 most_used;

/*
 * The account of the thread that asks. Not every toolchain for Zephyr has thread-local storage;
 * where one has none, zephyr/Kconfig reserves the thread's custom data.
 */
#ifdef CONFIG_PROPLET_WAMR_CUSTOM_DATA

static wamr_account *
account_of_thread(void)
{
    return k_thread_custom_data_get();
}

static void
account_set(wamr_account *account)
{
    k_thread_custom_data_set(account);
}

#else

static _Thread_local wamr_account *thread_account;

static wamr_account *
account_of_thread(void)
{
    return thread_account;
}

static void
account_set(wamr_account *account)
{
    thread_account = account;
}

#endif

#if defined(OS_THREAD_MUTEX_INITIALIZER)
static korp_mutex lock = OS_THREAD_MUTEX_INITIALIZER;
#elif defined(BH_PLATFORM_ZEPHYR)
static K_MUTEX_DEFINE(lock);
#else
#error "how does this platform define a mutex?"
#endif

static uint32
size_of(const header *block)
{
    return *block & ~FLAGS;
}

static header *
at(header *block, uint32 offset)
{
    return (header *)((uint8 *)block + offset);
}

static header *
following(header *block)
{
    return at(block, size_of(block));
}

static bool
is_free(const header *block)
{
    return !(*block & IN_USE);
}

static header *
block_of(const void *payload)
{
    return (header *)((uint8 *)payload - HEADER);
}

static void *
payload_of(header *block)
{
    return (uint8 *)block + HEADER;
}

static uint32
payload_len(const header *block)
{
    return size_of(block) - (uint32)HEADER;
}

uint32_t
wamr_bytes_for(uint32_t len)
{
    uint32 size = (len + (uint32)HEADER + FLAGS) & ~FLAGS;

    return len == 0 || size < len ? 0 : size;
}

/* What lies before is in use: its caller has merged it, or knows. */
static void
make_free(header *block, uint32 size)
{
    *block = size | PREVIOUS_IN_USE;
    *at(block, size - (uint32)HEADER) = size;
    *at(block, size) &= ~PREVIOUS_IN_USE;
}

static void
make_used(header *block, uint32 size, uint32 previous)
{
    *block = size | IN_USE | previous;
    *at(block, size) |= PREVIOUS_IN_USE;
}

/* Takes `size` bytes off a free block, at its bottom or at its top. */
static header *
carve(header *block, uint32 size, bool top)
{
    uint32 rest = size_of(block) - size;

    if (rest == 0) {
        make_used(block, size, PREVIOUS_IN_USE);
        return block;
    }
    if (top) {
        make_free(block, rest);
        block = at(block, rest);
        make_used(block, size, 0);
        return block;
    }
    make_used(block, size, PREVIOUS_IN_USE);
    make_free(at(block, size), rest);
    return block;
}

/* The highest free block that holds `size`, or else the smallest. */
static header *
find(uint32 size, bool top)
{
    header *block, *best = NULL;

    for (block = first; block != last; block = following(block)) {
        if (is_free(block) && size_of(block) >= size
            && (top || !best || size_of(block) < size_of(best)))
            best = block;
    }
    return best;
}

/* Gives a block's bytes to its free neighbours; returns the free block that results. */
static header *
release(header *block)
{
    header *next = following(block);
    uint32 size = size_of(block);

    if (is_free(next))
        size += size_of(next);
    if (!(*block & PREVIOUS_IN_USE)) {
        uint32 before = *(block - 1);

        block = (header *)((uint8 *)block - before);
        size += before;
    }
    make_free(block, size);
    return block;
}

/* Called with the lock held. */
static void
book(int64 bytes)
{
    wamr_account *account = account_of_thread();

    used = (uint32)(used + bytes);
    if (used > most_used)
        most_used = used;
    if (account) {
        account->held += (intptr_t)bytes;
        if (account->held > account->peak)
            account->peak = account->held;
    }
}

bool
wamr_arena_init(void *start, uint32_t len)
{
    uintptr_t low = ((uintptr_t)start + FLAGS) & ~(uintptr_t)FLAGS;
    uint32 lost = (uint32)(low - (uintptr_t)start) + 2 * (uint32)HEADER;
    uint32 size;

    if (len <= lost + FLAGS)
        return false;
    size = (len - lost) & ~FLAGS;
    first = (header *)(low + HEADER);
    last = at(first, size);
    *last = IN_USE;
    make_free(first, size);
    used = most_used = 0;
    return true;
}

void
wamr_memory(wamr_memory_info *info)
{
    header *block;

    os_mutex_lock(&lock);
    info->total = (uint32)((uint8 *)last - (uint8 *)first);
    info->free = info->total - used;
    info->min_free = info->total - most_used;
    info->largest_free = 0;
    for (block = first; block != last; block = following(block)) {
        if (is_free(block) && size_of(block) > info->largest_free)
            info->largest_free = size_of(block);
    }
    os_mutex_unlock(&lock);
}

/*
 * WAMR cuts sizes to 32 bits on their way here: a linear memory of 4 GiB arrives as 0. Nobody
 * means 0 bytes, so 0 is refused.
 */
void *
wamr_arena_malloc(mem_alloc_usage_t usage, unsigned int len)
{
    bool linear = usage == Alloc_For_LinearMemory;
    uint32 size = wamr_bytes_for(len);
    header *block = NULL;

    os_mutex_lock(&lock);
    if (size && (block = find(size, linear))) {
        block = carve(block, size, linear);
        book(size_of(block));
    }
    os_mutex_unlock(&lock);
    if (!block)
        return NULL;
    if (linear)
        memset(payload_of(block), 0, payload_len(block));
    return payload_of(block);
}

/* Where the free block behind suffices: no byte moves. */
static void
regrow_in_place(header *block, uint32 size, uint32 whole)
{
    uint32 previous = *block & PREVIOUS_IN_USE;

    make_used(block, size, previous);
    if (whole > size)
        make_free(at(block, size), whole - size);
}

/*
 * Into the room of the free block before, of the block itself and of what is free behind:
 * `whole` bytes from `low` on. The payload moves before any header is written, and all headers
 * and sizes then lie outside of it.
 */
static header *
regrow_down(header *low, header *block, uint32 size, uint32 whole, bool top)
{
    uint32 rest = whole - size;
    uint32 kept = payload_len(block);
    header *to = top ? at(low, rest) : low;

    memmove(payload_of(to), payload_of(block), kept);
    make_used(to, size, to == low ? PREVIOUS_IN_USE : 0);
    if (rest)
        make_free(top ? low : at(low, size), rest);
    return to;
}

/* Grows a block with the help of its free neighbours; NULL where they are too small. */
static header *
regrow(header *block, uint32 size, bool top)
{
    header *next = following(block), *low = block;
    uint32 whole = size_of(block) + (is_free(next) ? size_of(next) : 0);

    if (whole >= size) {
        regrow_in_place(block, size, whole);
        return block;
    }
    if (*block & PREVIOUS_IN_USE)
        return NULL;
    low = (header *)((uint8 *)block - *(block - 1));
    if ((uint64)whole + size_of(low) < size)
        return NULL;
    return regrow_down(low, block, size, whole + size_of(low), top);
}

void *
wamr_arena_realloc(mem_alloc_usage_t usage, bool full_size_mmaped, void *payload,
                   unsigned int len)
{
    bool linear = usage == Alloc_For_LinearMemory;
    uint32 size = wamr_bytes_for(len), old, old_len;
    header *block, *grown;

    (void)full_size_mmaped;
    if (!payload)
        return wamr_arena_malloc(usage, len);
    block = block_of(payload);
    old = size_of(block);
    old_len = payload_len(block);
    if (!size)
        return NULL;
    if (size <= old)
        return payload;

    os_mutex_lock(&lock);
    grown = regrow(block, size, linear);
    if (grown) {
        book((int64)size_of(grown) - old);
    }
    else if ((grown = find(size, linear))) {
        grown = carve(grown, size, linear);
        /* Both are held while the bytes are copied. */
        book(size_of(grown));
        memcpy(payload_of(grown), payload, old_len);
        release(block);
        book(-(int64)old);
    }
    os_mutex_unlock(&lock);
    if (!grown)
        return NULL;
    if (linear)
        memset((uint8 *)payload_of(grown) + old_len, 0, payload_len(grown) - old_len);
    return payload_of(grown);
}

void
wamr_arena_free(mem_alloc_usage_t usage, void *payload)
{
    (void)usage;
    if (!payload)
        return;
    os_mutex_lock(&lock);
    book(-(int64)size_of(block_of(payload)));
    release(block_of(payload));
    os_mutex_unlock(&lock);
}

void *
wamr_alloc(uint32_t size)
{
    return wamr_arena_malloc(Alloc_For_Runtime, size);
}

void *
wamr_realloc(void *payload, uint32_t size)
{
    return payload ? wamr_arena_realloc(Alloc_For_Runtime, false, payload, size) : NULL;
}

void
wamr_free(void *payload)
{
    wamr_arena_free(Alloc_For_Runtime, payload);
}

uint32_t
wamr_block_bytes(const void *payload)
{
    return size_of(block_of(payload));
}

wamr_account *
wamr_account_swap(wamr_account *next)
{
    wamr_account *before = account_of_thread();

    account_set(next);
    return before;
}

void
wamr_count_up(uint32_t *count)
{
    os_mutex_lock(&lock);
    ++*count;
    os_mutex_unlock(&lock);
}

uint32_t
wamr_count_down(uint32_t *count)
{
    uint32_t left;

    os_mutex_lock(&lock);
    left = --*count;
    os_mutex_unlock(&lock);
    return left;
}
