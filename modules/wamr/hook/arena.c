/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The one arena that all of WAMR's memory comes from, linear memories included.
 *
 * Blocks lie end to end. A block is a 4-byte header, then a payload that is 8-aligned; the header
 * holds the block's size, a multiple of 8, and flags. So a block for n bytes takes n + 4, rounded up
 * to 8, whatever the arena's state. A free block repeats its size in its last 4 bytes, the footer, and
 * has links to other free blocks between the two. Both are read only in blocks whose flags say that
 * they are free: so no byte that a guest can write is ever taken for the arena's own. Two free blocks
 * are never neighbours.
 *
 * Everything takes the smallest free block that holds it, and nothing is refused while there is one.
 * Linear memories are carved from its top and all else from its bottom: what is large and what is
 * small don't break each other's room.
 *
 * How a free block is found: below 256 bytes there is a list for each size. From 256 on there is a
 * tree for each power of two, branching by the bits of the size below the highest; in it one block of
 * each size is a node, and the others of the same size are in a list behind that one. Two bitmaps say
 * which lists and which trees have blocks.
 *
 * Costs: time does not depend on how many blocks are held or free. Nothing walks a list; a
 * tree is as deep as its sizes have bits below the highest and above the lowest three, so at most 29
 * nodes (15 in an arena of 256 KiB), and an operation goes down seven times at the most. Moving and
 * zeroing a payload is extra. In static RAM: 232 bytes for the lists, trees and bitmaps.
 *
 * Why not WAMR's own pool: its realloc, when a block exactly swallows the free one behind it,
 * leaves the third marked as if free space came before; freeing that one then reads the last bytes
 * of the grown block, which may be a guest's memory, as a size. Its figures are wrong after any
 * growth in place, too. Nor TLSF's lists, which have sizes of a range in one: the smallest or the
 * largest of them, or the one that still fits, takes a walk.
 */

#include "arena.h"

#include "bh_platform.h"

#ifdef PROPLET_ARENA_SEALS
#include <stdio.h>
#include <stdlib.h>
#endif

/* A test that includes this file counts the steps of its loops by it. */
#ifndef ARENA_STEP
#define ARENA_STEP() ((void)0)
#endif

#define IN_USE 1u
#define PREVIOUS_IN_USE 2u
/* Free, and of 8 bytes: header and footer have links in the place of the size. */
#define TINY 4u
#define FLAGS 7u
#define HEADER sizeof(uint32)
_Static_assert(HEADER == WAMR_BLOCK_HEADER && FLAGS == WAMR_BLOCK_ALIGN - 1, "as shim.h says");
#define TINY_SIZE 8u

typedef uint32 header;

/*
 * A link to a free block: its distance from `first` in bytes, plus 8, so that 0 stands for none. It is
 * a multiple of 8 and fits 32 bits, since the arena itself does and no block begins in its last 8.
 */
typedef uint32 offset;

/*
 * Where a free block of more than 8 bytes has its links, in words from its header: to its neighbours
 * in the list of its size, and, where it is a node of a tree, to those. What is in no list but a node
 * has a PREVIOUS of 0, as the first of a list has. A free block's own PREVIOUS_IN_USE is always set.
 */
#define NEXT 1
#define PREVIOUS 2
#define CHILDREN 3
#define PARENT 5

/* Sizes from here on are in trees: such a block has room for what a node has. */
#define TREES_FROM_BIT 8
#define TREES_FROM (1u << TREES_FROM_BIT)
#define LISTS (TREES_FROM / 8)
#define TREES (32 - TREES_FROM_BIT)

static header *first;
/* A header of size 0, in use, ends the arena. */
static header *last;
static uint32 used;
static uint32 most_used;

/* Pages of linear memory that are held. */
static uint32 pages_held;

/* Bytes that running guests leave free: the reserve, and the promise to a start. */
static uint32 reserve;
static uint32 promised;

/* The list of size n is lists[n / 8], and bit n / 8 of list_map is set while it has blocks. */
static offset lists[LISTS];
static uint32 list_map;
/* The tree of sizes from 1 << n is trees[n - TREES_FROM_BIT], and its bit in tree_map is n. */
static offset trees[TREES];
static uint32 tree_map;

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

/* `start_lock` is held while a start has a promise. A thread takes `lock` last. */
#if defined(OS_THREAD_MUTEX_INITIALIZER)
static korp_mutex lock = OS_THREAD_MUTEX_INITIALIZER;
static korp_mutex start_lock = OS_THREAD_MUTEX_INITIALIZER;
#elif defined(BH_PLATFORM_ZEPHYR)
static K_MUTEX_DEFINE(lock);
static K_MUTEX_DEFINE(start_lock);
#else
#error "how does this platform define a mutex?"
#endif

static uint32
size_of(const header *block)
{
    return *block & TINY ? TINY_SIZE : *block & ~FLAGS;
}

static header *
at(header *block, uint32 bytes)
{
    return (header *)((uint8 *)block + bytes);
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

/* The block before, which must be free: only then is its footer one. */
static header *
free_before(header *block)
{
    uint32 footer = block[-1];

    return (header *)((uint8 *)block - (footer & TINY ? TINY_SIZE : footer));
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

/* Which bit is the highest of a number that is not 0. */
static uint32
highest_bit(uint32 number)
{
    return 31 - (uint32)__builtin_clz(number);
}

static uint32
lowest_bit(uint32 number)
{
    return (uint32)__builtin_ctz(number);
}

/* An arena has less than 4 GiB: the cast loses nothing. */
static offset
link_to(const header *block)
{
    return (offset)((uintptr_t)block - (uintptr_t)first) + 8;
}

static header *
linked(offset to)
{
    return at(first, to - 8);
}

static offset
next_of(const header *block)
{
    return *block & TINY ? *block & ~FLAGS : block[NEXT];
}

static offset
previous_of(const header *block)
{
    return *block & TINY ? block[1] & ~FLAGS : block[PREVIOUS];
}

static void
set_next(header *block, offset next)
{
    if (*block & TINY)
        *block = next | (*block & FLAGS);
    else
        block[NEXT] = next;
}

static void
set_previous(header *block, offset previous)
{
    if (*block & TINY)
        block[1] = previous | TINY;
    else
        block[PREVIOUS] = previous;
}

static void
put_in_list(header *block, uint32 size)
{
    offset *head = &lists[size / 8];

    set_next(block, *head);
    set_previous(block, 0);
    if (*head)
        set_previous(linked(*head), link_to(block));
    *head = link_to(block);
    list_map |= 1u << (size / 8);
}

static void
take_from_list(header *block, uint32 size)
{
    offset next = next_of(block), previous = previous_of(block);

    if (next)
        set_previous(linked(next), previous);
    if (previous)
        set_next(linked(previous), next);
    else
        lists[size / 8] = next;
    if (!lists[size / 8])
        list_map &= ~(1u << (size / 8));
}

/* Behind the node of its size: the tree stays as it is. */
static void
put_behind(header *node, header *block)
{
    block[NEXT] = node[NEXT];
    block[PREVIOUS] = link_to(node);
    if (node[NEXT])
        linked(node[NEXT])[PREVIOUS] = link_to(block);
    node[NEXT] = link_to(block);
}

static offset *
tree_of(uint32 size)
{
    return &trees[highest_bit(size) - TREES_FROM_BIT];
}

/* The bits of a size by which its tree branches, the first of them highest. */
static uint32
branches(uint32 size)
{
    return size << (31 - highest_bit(size)) << 1;
}

/*
 * A node n levels below the root has the first n branches of all that is below it. So below a node of
 * which all bits are branched by there is nothing, and the loop ends.
 */
static void
put_in_tree(header *block, uint32 size)
{
    offset *place = tree_of(size), parent = 0;
    uint32 bits = branches(size);

    for (; *place; bits <<= 1) {
        header *node = linked(*place);

        ARENA_STEP();
        if (size_of(node) == size) {
            put_behind(node, block);
            return;
        }
        parent = *place;
        place = &node[CHILDREN + (bits >> 31)];
    }
    *place = link_to(block);
    block[NEXT] = block[PREVIOUS] = 0;
    block[CHILDREN] = block[CHILDREN + 1] = 0;
    block[PARENT] = parent;
    tree_map |= 1u << highest_bit(size);
}

/* Where the link to a node is. */
static offset *
place_of(header *node)
{
    header *parent;

    if (!node[PARENT])
        return tree_of(size_of(node));
    parent = linked(node[PARENT]);
    return &parent[CHILDREN + (parent[CHILDREN + 1] == link_to(node))];
}

/* The node that can stand in a node's place: the next of its size, or any leaf below, cut off here; or NULL. */
static header *
heir_of(header *node)
{
    header *leaf = node;

    if (node[NEXT]) {
        linked(node[NEXT])[PREVIOUS] = 0;
        return linked(node[NEXT]);
    }
    while (leaf[CHILDREN] || leaf[CHILDREN + 1]) {
        ARENA_STEP();
        leaf = linked(leaf[CHILDREN] ? leaf[CHILDREN] : leaf[CHILDREN + 1]);
    }
    if (leaf == node)
        return NULL;
    *place_of(leaf) = 0;
    return leaf;
}

static void
take_node(header *node)
{
    offset *place = place_of(node);
    header *heir = heir_of(node);
    int i;

    *place = heir ? link_to(heir) : 0;
    if (!heir) {
        if (!node[PARENT])
            tree_map &= ~(1u << highest_bit(size_of(node)));
        return;
    }
    heir[PARENT] = node[PARENT];
    for (i = CHILDREN; i < CHILDREN + 2; i++) {
        heir[i] = node[i];
        if (heir[i])
            linked(heir[i])[PARENT] = link_to(heir);
    }
}

/* Out of its list or tree; its header and footer stay. */
static void
unlink_free(header *block)
{
    uint32 size = size_of(block);

    if (size < TREES_FROM) {
        take_from_list(block, size);
    }
    else if (block[PREVIOUS]) {
        linked(block[PREVIOUS])[NEXT] = block[NEXT];
        if (block[NEXT])
            linked(block[NEXT])[PREVIOUS] = block[PREVIOUS];
    }
    else {
        take_node(block);
    }
}

/* The block before is in use: its caller has merged it, or knows. */
static void
make_free(header *block, uint32 size)
{
    if (size == TINY_SIZE) {
        *block = TINY | PREVIOUS_IN_USE;
    }
    else {
        *block = size | PREVIOUS_IN_USE;
        *at(block, size - (uint32)HEADER) = size;
    }
    *at(block, size) &= ~PREVIOUS_IN_USE;
    if (size < TREES_FROM)
        put_in_list(block, size);
    else
        put_in_tree(block, size);
}

/* Of bytes that are no free block any more. */
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

    unlink_free(block);
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

/* The smaller of two blocks, of which `b` may be NULL. */
static header *
smaller(header *a, header *b)
{
    return !b || size_of(a) < size_of(b) ? a : b;
}

/* The smallest of a tree's blocks and `best`; what is left of a node is smaller than what is right. */
static header *
smallest(offset tree, header *best)
{
    while (tree) {
        header *node = linked(tree);

        ARENA_STEP();
        best = smaller(node, best);
        tree = node[CHILDREN] ? node[CHILDREN] : node[CHILDREN + 1];
    }
    return best;
}

static uint32
largest_size(void)
{
    uint32 size = 0;
    offset tree;

    if (!tree_map)
        return list_map ? highest_bit(list_map) * 8 : 0;
    tree = trees[highest_bit(tree_map) - TREES_FROM_BIT];
    while (tree) {
        header *node = linked(tree);

        ARENA_STEP();
        if (size_of(node) > size)
            size = size_of(node);
        tree = node[CHILDREN + 1] ? node[CHILDREN + 1] : node[CHILDREN];
    }
    return size;
}

/*
 * The smallest block that holds `size`, of the tree that `size` itself would be in; NULL for none. On
 * the way to where `size` would be, whatever is right of the way is larger than `size`, and the lower
 * the smaller: so the smallest is a node on the way, or of the last tree that was right of it.
 */
static header *
find_in_tree(uint32 size)
{
    offset tree = *tree_of(size), larger = 0;
    uint32 bits = branches(size);
    header *best = NULL;

    for (; tree; bits <<= 1) {
        header *node = linked(tree);

        ARENA_STEP();
        if (size_of(node) == size)
            return node;
        if (size_of(node) > size)
            best = smaller(node, best);
        if (!(bits >> 31) && node[CHILDREN + 1])
            larger = node[CHILDREN + 1];
        tree = node[CHILDREN + (bits >> 31)];
    }
    return smallest(larger, best);
}

/* The smallest free block that holds `size`; of equal ones, the last that became free. */
static header *
find(uint32 size)
{
    uint32 map = tree_map;
    header *node;

    if (size < TREES_FROM) {
        uint32 fit = list_map & (UINT32_MAX << (size / 8));

        if (fit)
            return linked(lists[lowest_bit(fit)]);
    }
    else {
        node = find_in_tree(size);
        if (node)
            return node[NEXT] ? linked(node[NEXT]) : node;
        map &= UINT32_MAX << highest_bit(size) << 1;
    }
    if (!map)
        return NULL;
    node = smallest(trees[lowest_bit(map) - TREES_FROM_BIT], NULL);
    /* Behind a node a block is taken without a change to the tree. */
    return node[NEXT] ? linked(node[NEXT]) : node;
}

/* Gives a block's bytes to its free neighbours. */
static void
release(header *block)
{
    header *next = following(block);
    uint32 size = size_of(block);

    if (is_free(next)) {
        size += size_of(next);
        unlink_free(next);
    }
    if (!(*block & PREVIOUS_IN_USE)) {
        block = free_before(block);
        size += size_of(block);
        unlink_free(block);
    }
    make_free(block, size);
}

#ifdef PROPLET_ARENA_SEALS

static _Thread_local bool thread_sealed;

bool
wamr_arena_seal(bool sealed)
{
    bool before = thread_sealed;

    thread_sealed = sealed;
    return before;
}

static void
abort_if_sealed(void)
{
    if (!thread_sealed)
        return;
    fputs("arena: an allocation by a thread that has sealed it\n", stderr);
    abort();
}

#else

static void
abort_if_sealed(void)
{
}

#endif

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
    memset(lists, 0, sizeof(lists));
    memset(trees, 0, sizeof(trees));
    list_map = tree_map = 0;
    make_free(first, size);
    used = most_used = 0;
    return true;
}

/* Called with the lock held. */
static uint32
arena_size(void)
{
    return (uint32)((uint8 *)last - (uint8 *)first);
}

/* Free bytes beyond `kept`. Called with the lock held. */
static uint32
free_beyond(uint32 kept)
{
    uint32 unused = arena_size() - used;

    return unused > kept ? unused - kept : 0;
}

/* Called with the lock held. */
static uint32
spare(void)
{
    return free_beyond(reserve + promised);
}

void
wamr_memory(wamr_memory_info *info)
{
    os_mutex_lock(&lock);
    info->total = arena_size();
    info->free = info->total - used;
    info->spare = spare();
    info->pages = pages_held;
    info->min_free = info->total - most_used;
    info->largest_free = largest_size();
    os_mutex_unlock(&lock);
}

void
wamr_set_reserve(uint32_t bytes)
{
    os_mutex_lock(&lock);
    reserve = bytes;
    os_mutex_unlock(&lock);
}

bool
wamr_promise(uint32_t bytes)
{
    bool fits;

    os_mutex_lock(&start_lock);
    os_mutex_lock(&lock);
    fits = bytes <= free_beyond(reserve);
    promised = fits ? bytes : 0;
    os_mutex_unlock(&lock);
    if (!fits)
        os_mutex_unlock(&start_lock);
    return fits;
}

void
wamr_promise_end(void)
{
    os_mutex_lock(&lock);
    promised = 0;
    os_mutex_unlock(&lock);
    os_mutex_unlock(&start_lock);
}

void
wamr_count_pages(int32_t more)
{
    os_mutex_lock(&lock);
    pages_held += (uint32)more;
    os_mutex_unlock(&lock);
}

bool
wamr_arena_await_start(void)
{
    bool awaited;

    os_mutex_lock(&lock);
    awaited = promised != 0;
    os_mutex_unlock(&lock);
    if (awaited) {
        os_mutex_lock(&start_lock);
        os_mutex_unlock(&start_lock);
    }
    return awaited;
}

/*
 * WAMR cuts sizes to 32 bits on their way here: a linear memory of 4 GiB arrives as 0. No
 * caller means 0 bytes, so 0 is refused.
 */
static header *
take(uint32 len, bool linear, bool of_spare)
{
    uint32 size = wamr_bytes_for(len);
    header *block = NULL;

    abort_if_sealed();
    os_mutex_lock(&lock);
    if (size && (!of_spare || size <= spare()) && (block = find(size))) {
        block = carve(block, size, linear);
        book(size_of(block));
    }
    os_mutex_unlock(&lock);
    return block;
}

void *
wamr_arena_malloc(mem_alloc_usage_t usage, unsigned int len)
{
    bool linear = usage == Alloc_For_LinearMemory;
    header *block = take(len, linear, false);

    if (!block)
        return NULL;
    if (linear)
        memset(payload_of(block), 0, payload_len(block));
    return payload_of(block);
}

void *
wamr_arena_linear(uint32_t len, bool of_spare)
{
    header *block = take(len, true, of_spare);

    return block ? payload_of(block) : NULL;
}

/* Where the free block behind suffices: no byte moves. */
static void
regrow_in_place(header *block, uint32 size, uint32 whole)
{
    uint32 previous = *block & PREVIOUS_IN_USE;

    unlink_free(following(block));
    make_used(block, size, previous);
    if (whole > size)
        make_free(at(block, size), whole - size);
}

/*
 * Into the room of the free block before, of the block itself and of what is free behind:
 * `whole` bytes from `low` on. The free blocks are unlinked before the payload moves onto their
 * links, and it moves before any header is written; all headers, links and sizes then lie outside of
 * it.
 */
static header *
regrow_down(header *low, header *block, uint32 size, uint32 whole, bool top)
{
    header *next = following(block);
    uint32 rest = whole - size;
    uint32 kept = payload_len(block);
    header *to = top ? at(low, rest) : low;

    unlink_free(low);
    if (is_free(next))
        unlink_free(next);
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
    header *next = following(block), *low;
    uint32 whole = size_of(block) + (is_free(next) ? size_of(next) : 0);

    if (whole >= size) {
        regrow_in_place(block, size, whole);
        return block;
    }
    if (*block & PREVIOUS_IN_USE)
        return NULL;
    low = free_before(block);
    if ((uint64)whole + size_of(low) < size)
        return NULL;
    return regrow_down(low, block, size, whole + size_of(low), top);
}

/* Gives back what a block has above `size`. */
static void
shrink(header *block, uint32 size)
{
    uint32 rest = size_of(block) - size;

    if (!rest)
        return;
    make_used(block, size, *block & PREVIOUS_IN_USE);
    make_used(at(block, size), rest, PREVIOUS_IN_USE);
    release(at(block, size));
}

void *
wamr_arena_realloc(mem_alloc_usage_t usage, bool full_size_mmaped, void *payload,
                   unsigned int len)
{
    bool linear = usage == Alloc_For_LinearMemory;
    uint32 size = wamr_bytes_for(len), old, old_len;
    header *block, *grown;

    (void)full_size_mmaped;
    abort_if_sealed();
    if (!payload)
        return wamr_arena_malloc(usage, len);
    block = block_of(payload);
    old = size_of(block);
    old_len = payload_len(block);
    if (!size)
        return NULL;
    /* A linear memory never shrinks. */
    if (size == old || (linear && size < old))
        return payload;

    os_mutex_lock(&lock);
    if (size < old) {
        shrink(block, size);
        book((int64)size - old);
        os_mutex_unlock(&lock);
        return payload;
    }
    grown = regrow(block, size, linear);
    if (grown) {
        book((int64)size_of(grown) - old);
    }
    else if ((grown = find(size))) {
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

bool
wamr_arena_extend(void *payload, uint32_t len)
{
    header *block = block_of(payload), *next;
    uint32 size = wamr_bytes_for(len), old = size_of(block), whole;

    abort_if_sealed();
    if (!size || size <= old)
        return size != 0;
    os_mutex_lock(&lock);
    next = following(block);
    whole = old;
    if (is_free(next) && size - old <= spare())
        whole += size_of(next);
    if (whole >= size) {
        regrow_in_place(block, size, whole);
        book((int64)size - old);
    }
    os_mutex_unlock(&lock);
    return whole >= size;
}

void
wamr_unbook(const void *payload)
{
    wamr_account *account = account_of_thread();
    intptr_t bytes = payload ? (intptr_t)size_of(block_of(payload)) : 0;

    if (account) {
        account->held -= bytes;
        account->peak -= bytes;
    }
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
