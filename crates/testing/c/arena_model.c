/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * hook/arena.c from the inside, against what its head comment promises: a program of its own, since it
 * may have another pointer width than the test that builds it. Before an operation the blocks are
 * walked for where its result must be; after it, for whether every header, footer, list, tree and
 * figure is as it must be.
 *
 *   model random SEED OPERATIONS   mallocs, reallocs and frees at random, then all is freed
 *   model holes                    fills to the last 8 bytes, and again from holes of 8
 *   model deep                     as many nodes below each other as there can be
 *   model large                    an arena of 4 GiB less a byte; 64 bits alone
 *   model steps BLOCKS             how many steps of its loops an operation takes, at the most, beside
 *                                  as many blocks held and as many free
 *
 * Prints one line of key=value; exits with 1 and a reason where anything is not as it must be.
 */

#include <inttypes.h>
#include <stdint.h>

static uint32_t steps;

#define ARENA_STEP() (++steps)
#include "arena.c"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA (2u << 20)
#define HELD_MOST 4096

/* One thread, and none of WAMR's platform is linked. */
int
os_mutex_lock(korp_mutex *mutex)
{
    (void)mutex;
    return 0;
}

int
os_mutex_unlock(korp_mutex *mutex)
{
    (void)mutex;
    return 0;
}

struct held {
    uint8_t *payload;
    /* Of the payload: all that a guest can write. */
    uint32_t len;
    uint8_t pattern;
    mem_alloc_usage_t usage;
};

static struct held held[HELD_MOST];
static uint32_t held_count;
static uint32_t total;
static wamr_account account;

/* For each 8 bytes of the arena: in which check they were the start of a block. */
static uint32_t *starts, checks;
static uint64_t random_state;

static void
fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("model: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

#define MUST(condition)                                   \
    do {                                                  \
        if (!(condition))                                 \
            fail("line %d: not %s", __LINE__, #condition); \
    } while (0)

/* xorshift64* */
static uint32_t
below(uint32_t bound)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 0x2545f4914f6cdd1d) >> 33) % bound;
}

static wamr_memory_info
memory(void)
{
    wamr_memory_info info;

    wamr_memory(&info);
    return info;
}

static uint32_t
place(const void *block)
{
    return (uint32_t)((uintptr_t)block - (uintptr_t)first);
}

/* Blocks of one list; `head` is not counted where it is a tree's node. */
static uint32_t
check_list(uint32 next, uint32 before, uint32_t size)
{
    uint32_t count = 0;

    for (; next; next = next_of(linked(next)), count++) {
        header *block = linked(next);

        MUST(starts[place(block) / 8] == checks && is_free(block));
        MUST(size_of(block) == size && previous_of(block) == before);
        before = next;
    }
    return count;
}

/* Blocks of a tree, of which all sizes have the `known` highest bits of `prefix`. */
static uint32_t
check_tree(uint32 tree, uint32 parent, uint32_t prefix, uint32_t known)
{
    header *node;
    uint32_t count, i;

    if (!tree)
        return 0;
    node = linked(tree);
    MUST(known <= 29);
    MUST(starts[place(node) / 8] == checks && is_free(node));
    MUST(size_of(node) >> (32 - known) == prefix && node[PARENT] == parent && !node[PREVIOUS]);
    count = 1 + check_list(node[NEXT], tree, size_of(node));
    for (i = 0; i < 2; i++)
        count += check_tree(node[CHILDREN + i], tree, prefix << 1 | i, known + 1);
    return count;
}

static uint32_t
check_lists_and_trees(void)
{
    uint32_t count = 0, i;

    MUST(!lists[0]);
    for (i = 0; i < LISTS; i++) {
        count += check_list(lists[i], 0, i * 8);
        MUST(!lists[i] == !(list_map & 1u << i));
    }
    for (i = TREES_FROM_BIT; i < 32; i++) {
        uint32 tree = trees[i - TREES_FROM_BIT];

        count += check_tree(tree, 0, 1, 32 - i);
        MUST(!tree == !(tree_map & 1u << i));
    }
    return count;
}

static void
check(void)
{
    uint32_t free_blocks = 0, free_bytes = 0, used_blocks = 0, largest = 0, taken = 0, i;
    uint32_t previous = PREVIOUS_IN_USE;
    wamr_memory_info info = memory();
    header *block;

    checks++;
    for (block = first; block != last; block = following(block)) {
        MUST(block < last && size_of(block) >= 8 && size_of(block) % 8 == 0);
        MUST((*block & PREVIOUS_IN_USE) == previous);
        starts[place(block) / 8] = checks;
        previous = is_free(block) ? 0 : PREVIOUS_IN_USE;
        if (!is_free(block)) {
            used_blocks++;
            continue;
        }
        MUST(*block & PREVIOUS_IN_USE);
        MUST(free_before(following(block)) == block);
        free_blocks++;
        free_bytes += size_of(block);
        if (size_of(block) > largest)
            largest = size_of(block);
    }
    MUST(*last == (IN_USE | previous));
    MUST(check_lists_and_trees() == free_blocks);
    MUST(info.total == total && info.free == free_bytes && info.largest_free == largest);
    for (i = 0; i < held_count; i++) {
        MUST(starts[place(block_of(held[i].payload)) / 8] == checks);
        MUST(!is_free(block_of(held[i].payload)));
        MUST(payload_len(block_of(held[i].payload)) == held[i].len);
        taken += wamr_bytes_for(held[i].len);
    }
    MUST(used_blocks == held_count && taken == total - free_bytes);
    MUST(account.held == (intptr_t)taken && account.peak == (intptr_t)(total - info.min_free));
}

/* The size of the smallest free block that holds `size`; 0 for none. */
static uint32_t
best_size(uint32_t size)
{
    header *block;
    uint32_t best = 0;

    for (block = first; block != last; block = following(block)) {
        if (is_free(block) && size_of(block) >= size && (!best || size_of(block) < best))
            best = size_of(block);
    }
    return best;
}

/* The free block that has the byte at `where`, before anything was taken. */
static header *
free_block_at(const uint32_t *free_places, uint32_t where)
{
    while (free_places[1] <= where)
        free_places++;
    return at(first, *free_places);
}

/* Places of all free blocks, and the end. */
static void
list_free(uint32_t *places, uint32_t *sizes)
{
    header *block;

    for (block = first; block != last; block = following(block)) {
        if (is_free(block)) {
            *places++ = place(block);
            *sizes++ = size_of(block);
        }
    }
    *places = UINT32_MAX;
}

static uint32_t free_places[ARENA / 16 + 2], free_sizes[ARENA / 16 + 2];

/* That a new block is where it must be: in a smallest one that holds it, at its bottom or top. */
static void
check_place(const header *block, uint32_t size, uint32_t best, bool top)
{
    header *was = free_block_at(free_places, place(block));
    uint32_t i = 0;

    while (free_places[i] != place(was))
        i++;
    MUST(free_sizes[i] == best);
    MUST(place(block) == place(was) + (top ? best - size : 0));
}

static void
check_bytes(const struct held *one)
{
    uint32_t i;

    for (i = 0; i < one->len; i++)
        MUST(one->payload[i] == one->pattern);
}

/* From `old` on, where linear memories are zero. */
static void
fill(struct held *one, uint32_t old)
{
    uint32_t i;

    for (i = old; one->usage == Alloc_For_LinearMemory && i < one->len; i++)
        MUST(!one->payload[i]);
    memset(one->payload + old, one->pattern, one->len - old);
}

/* False where there is no room. */
static bool
hold(uint32_t len, mem_alloc_usage_t usage)
{
    struct held *one = &held[held_count];
    uint32_t size = wamr_bytes_for(len), best = size ? best_size(size) : 0;

    MUST(held_count < HELD_MOST);
    list_free(free_places, free_sizes);
    one->payload = wamr_arena_malloc(usage, len);
    MUST(!one->payload == !best);
    if (!one->payload)
        return false;
    MUST((uintptr_t)one->payload % 8 == 0);
    check_place(block_of(one->payload), size, best, usage == Alloc_For_LinearMemory);
    one->len = size - (uint32)HEADER;
    one->usage = usage;
    one->pattern = (uint8_t)(1 + below(255));
    held_count++;
    fill(one, 0);
    return true;
}

enum grown { IN_PLACE, DOWN, MOVED, REFUSED, KEPT, SHRUNK, WAYS };

/* Grows a block by a realloc, which must go the way that the free blocks beside it say. */
static enum grown
grow(struct held *one, uint32_t len)
{
    bool top = one->usage == Alloc_For_LinearMemory;
    header *block = block_of(one->payload), *low = block;
    uint32_t old = size_of(block), size = wamr_bytes_for(len), whole = old, best, to = place(block);
    enum grown way = MOVED;
    uint8_t *payload;

    if (is_free(following(block)))
        whole += size_of(following(block));
    if (!(*block & PREVIOUS_IN_USE))
        low = free_before(block);
    best = size ? best_size(size) : 0;
    if (size && size < old && !top)
        way = SHRUNK;
    else if (size && size <= old)
        way = KEPT;
    else if (size && size <= whole)
        way = IN_PLACE;
    else if (size && size <= whole + (place(block) - place(low)))
        way = DOWN;
    else if (!best)
        way = REFUSED;
    whole += place(block) - place(low);
    if (way == DOWN)
        to = place(low) + (top ? whole - size : 0);

    list_free(free_places, free_sizes);
    payload = wamr_arena_realloc(one->usage, false, one->payload, len);
    MUST(!payload == (way == REFUSED));
    if (way == REFUSED)
        return way;
    if (way == MOVED)
        check_place(block_of(payload), size, best, top);
    else
        MUST(place(block_of(payload)) == to);
    one->payload = payload;
    if (way == SHRUNK)
        one->len = size - (uint32)HEADER;
    check_bytes(one);
    if (way != KEPT && way != SHRUNK) {
        one->len = size - (uint32)HEADER;
        fill(one, old - (uint32)HEADER);
    }
    return way;
}

static void
let_go(uint32_t i)
{
    check_bytes(&held[i]);
    wamr_arena_free(held[i].usage, held[i].payload);
    held[i] = held[--held_count];
}

static void
let_all_go(void)
{
    while (held_count) {
        let_go(below(held_count));
        check();
    }
    MUST(memory().free == total && memory().largest_free == total);
}

static void
begin(void *arena, uint32_t len)
{
    MUST(wamr_arena_init(arena, len));
    total = memory().total;
    MUST(total <= len - 8 && total >= (len - 15) / 8 * 8);
    MUST(memory().free == total && memory().largest_free == total);
    account.held = account.peak = 0;
    wamr_account_swap(&account);
    starts = calloc(total / 8 + 1, sizeof(*starts));
    MUST(starts);
}

/* `offset` bytes into what malloc gives, and what is there is not 0. */
static void
begin_small(uint32_t len, uint32_t offset)
{
    uint8_t *arena = malloc(len + offset);

    MUST(arena);
    memset(arena, 0xa5, len + offset);
    begin(arena + offset, len);
}

/* Mostly small, up to 64 KiB, and 0 among them. */
static uint32_t
some_len(void)
{
    return below(2u << below(16));
}

static void
run_random(uint32_t seed, uint32_t operations)
{
    uint32_t ways[WAYS] = { 0 }, refused = 0, i;

    random_state = 0x9e3779b97f4a7c15 + seed;
    /* Some in arenas so small that there is always too little room. */
    begin_small(seed % 2 ? ARENA : 40000, seed % 8);
    for (i = 0; i < operations; i++) {
        uint32_t one = held_count ? below(held_count) : 0;
        mem_alloc_usage_t usage = below(4) ? Alloc_For_Runtime : Alloc_For_LinearMemory;

        if (held_count && below(300) < held_count)
            let_go(one);
        else if (held_count && !below(3))
            ways[grow(&held[one], below(4) ? held[one].len + some_len() : some_len())]++;
        else
            refused += !hold(some_len(), usage);
        check();
    }
    for (i = 0; i < held_count; i++)
        check_bytes(&held[i]);
    let_all_go();
    printf("in_place=%" PRIu32 " down=%" PRIu32 " moved=%" PRIu32 " grow_refused=%" PRIu32
           " refused=%" PRIu32 "\n",
           ways[IN_PLACE], ways[DOWN], ways[MOVED], ways[REFUSED], refused);
}

static void
run_holes(void)
{
    uint32_t i, pass;

    random_state = 1;
    begin_small(8 * 2001, 0);
    for (i = 0; i < total / 8; i++)
        MUST(hold(1 + i % 4, i % 3 ? Alloc_For_Runtime : Alloc_For_LinearMemory));
    MUST(!hold(1, Alloc_For_Runtime) && memory().free == 0 && memory().largest_free == 0);
    for (pass = 0; pass < 2; pass++) {
        uint32_t holes = 0;
        enum grown way;

        /* Every second block. */
        for (i = held_count; i-- > 0;) {
            if (place(block_of(held[i].payload)) / 8 % 2 == pass) {
                let_go(i);
                holes++;
                check();
            }
        }
        MUST(memory().largest_free == 8 && memory().free == 8 * holes);
        MUST(!hold(5, Alloc_For_Runtime) && !hold(5, Alloc_For_LinearMemory));
        /* A realloc takes the hole beside. */
        way = grow(&held[0], 12);
        MUST(way == IN_PLACE || way == DOWN);
        check();
        let_go(0);
        MUST(hold(4, Alloc_For_Runtime));
        check();
        while (hold(4, pass ? Alloc_For_LinearMemory : Alloc_For_Runtime))
            check();
        MUST(memory().free == 0 && held_count == total / 8);
    }
    let_all_go();
    printf("blocks=%" PRIu32 "\n", total / 8);
}

/* Frees blocks whose sizes each branch off one bit later than the one before. */
static void
run_deep(void)
{
    uint32_t most = 0, i;

    random_state = 1;
    begin_small(ARENA, 0);
    for (i = 0; i < 15; i++) {
        MUST(hold((1u << 16) + (i < 14 ? 1u << (16 - 1 - i) : 0) - 4, Alloc_For_Runtime));
        MUST(hold(4, Alloc_For_Runtime));
    }
    /* From the last on, where block 2 * i is of the i-th size: let_go puts the last in its place. */
    for (i = 0; i < 15; i++) {
        struct held *one = &held[2 * i];

        check_bytes(one);
        wamr_arena_free(one->usage, one->payload);
        one->payload = NULL;
    }
    for (i = 0; i < 15; i++)
        held[i] = held[2 * i + 1];
    held_count = 15;
    check();
    for (i = 0; i < 14; i++) {
        steps = 0;
        MUST(hold((1u << 16) - 4, Alloc_For_Runtime));
        most = steps > most ? steps : most;
        check();
    }
    let_all_go();
    printf("steps=%" PRIu32 "\n", most);
}

/* Its bytes are not touched: there may be less memory than that. */
static uint8_t *
hold_large(uint32_t len)
{
    struct held *one = &held[held_count++];

    one->payload = wamr_alloc(len);
    MUST(one->payload && wamr_block_bytes(one->payload) == wamr_bytes_for(len));
    one->len = payload_len(block_of(one->payload));
    check();
    return one->payload;
}

static void
let_large_go(const uint8_t *payload)
{
    uint32_t i = 0;

    while (held[i].payload != payload)
        i++;
    wamr_free(held[i].payload);
    held[i] = held[--held_count];
    check();
}

static void
run_large(void)
{
    uint8_t *payloads[4], *end;
    void *arena = MAP_FAILED;
    uint32_t i;

    if (sizeof(void *) > 4)
        arena = mmap(NULL, UINT32_MAX, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) {
        printf("skipped=1\n");
        return;
    }
    begin(arena, UINT32_MAX);
    MUST(total == UINT32_MAX - 15);
    for (i = 0; i < 11; i++)
        MUST(!wamr_bytes_for(UINT32_MAX - i) && !wamr_alloc(UINT32_MAX - i));
    MUST(!wamr_alloc(total - 3));
    end = hold_large(total - 4);
    MUST(memory().free == 0);
    let_large_go(end);
    for (i = 0; i < 4; i++)
        payloads[i] = hold_large((1u << 30) - 100 - i * 8);
    end = hold_large(8);
    /* Two in one tree, and then what is between. */
    let_large_go(payloads[1]);
    let_large_go(payloads[3]);
    MUST(!wamr_alloc(1u << 30));
    MUST(!wamr_realloc(payloads[2], UINT32_MAX - 11));
    let_large_go(payloads[2]);
    MUST(memory().largest_free > (3u << 30) - 1000);
    let_large_go(payloads[0]);
    let_large_go(end);
    MUST(memory().largest_free == total);
    munmap(arena, UINT32_MAX);
    printf("total=%" PRIu32 "\n", total);
}

/* The most that an operation takes: also of those that are refused, and of what asks for the figures. */
static void
note(uint32_t *most)
{
    if (steps > *most)
        *most = steps;
    steps = 0;
}

static void
run_steps(uint32_t blocks)
{
    uint32_t most = 0, i, n = 2 * blocks;
    uint8_t **payloads = calloc(n, sizeof(*payloads));
    uint32_t len = n * 900 + (4u << 20);

    MUST(payloads);
    random_state = 1;
    begin_small(len, 0);
    for (i = 0; i < n; i++)
        MUST(payloads[i] = wamr_alloc(1 + below(below(2) ? 200 : 1500)));
    steps = 0;
    for (i = 0; i < n; i += 2) {
        wamr_free(payloads[i]);
        payloads[i] = NULL;
        note(&most);
    }
    for (i = 0; i < 200000; i++) {
        uint8_t **one = &payloads[below(n)];
        uint32_t bytes = 1 + below(below(4) ? 1500 : 1u << 20);

        if (!*one) {
            *one = wamr_arena_malloc(below(4) ? Alloc_For_Runtime : Alloc_For_LinearMemory, bytes);
        }
        else if (below(3)) {
            wamr_free(*one);
            *one = NULL;
        }
        else {
            uint8_t *moved = wamr_realloc(*one, bytes);

            *one = moved ? moved : *one;
        }
        note(&most);
        (void)memory();
        note(&most);
    }
    for (i = 0; i < n; i++)
        wamr_free(payloads[i]);
    MUST(memory().largest_free == total);
    printf("steps=%" PRIu32 "\n", most);
}

static uint32_t
number(const char *text)
{
    return (uint32_t)strtoul(text, NULL, 10);
}

int
main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "random"))
        run_random(number(argv[2]), number(argv[3]));
    else if (argc == 2 && !strcmp(argv[1], "holes"))
        run_holes();
    else if (argc == 2 && !strcmp(argv[1], "deep"))
        run_deep();
    else if (argc == 2 && !strcmp(argv[1], "large"))
        run_large();
    else if (argc == 3 && !strcmp(argv[1], "steps"))
        run_steps(number(argv[2]));
    else
        fail("usage: model random SEED OPERATIONS | holes | deep | large | steps BLOCKS");
    return 0;
}
