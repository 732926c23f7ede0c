/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What an arena of a given size holds in the build that this file is compiled with, whether every
 * byte of it comes back, and how long a call takes. Only the shim is used, as the crate wamr uses
 * it; that crate's own block for each loaded module, 56 to 72 bytes, is not in the figures.
 *
 *   capacity ARENA STACK CAP MODULE            fill the arena with instances, tear them down
 *   capacity ARENA STACK CAP MODULE rounds=N   N instances replaced in a full arena, then N rounds
 *                                              from loading to unloading
 *   capacity ARENA STACK CAP MODULE time=N     `run(N)`, TURNS times
 *
 * ARENA, STACK and CAP are bytes; a CAP of 0 is none. The first two call `main`, which takes
 * nothing and gives at most one result; what does not end is stopped. Prints one line of
 * key=value; exits with 1 and a reason where anything is not as it must be.
 */

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shim.h"

/* Units in a slice, and slices after which a call of `main` is stopped. */
#define SLICE 1000
#define SLICES 3

#define TURNS 3

struct guest {
    uint8_t *buffer;
    struct WASMModule *module;
    uint32_t function;
};

struct instance {
    struct WASMModuleInstance *handle;
    struct WASMExecEnv *exec_env;
};

static uint32_t arena_len, stack_len;
static uint64_t memory_max = UINT64_MAX;

static uint8_t *wasm;
static uint32_t wasm_len;

static void
fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("capacity: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static uint32_t
slice_ended(void *run)
{
    uint32_t *slices_left = run;

    return --*slices_left ? SLICE : 0;
}

static wamr_memory_info
memory(void)
{
    wamr_memory_info info;

    wamr_memory(&info);
    return info;
}

/* Bytes that were taken since `*free_bytes` were free, which are counted anew. */
static uint32_t
taken(uint32_t *free_bytes)
{
    uint32_t before = *free_bytes;

    *free_bytes = memory().free;
    return before - *free_bytes;
}

static void
must_equal(const char *what, uint32_t is, uint32_t should)
{
    if (is != should)
        fail("%s: %" PRIu32 ", not %" PRIu32, what, is, should);
}

static void
must_be_as(const wamr_memory_info *before)
{
    must_equal("free bytes", memory().free, before->free);
    must_equal("the largest free block", memory().largest_free, before->largest_free);
}

static struct guest
load(const char *name, uint32_t params)
{
    struct guest guest;
    wamr_module_info info;
    wamr_function_type type;
    char error[128] = "";

    guest.buffer = wamr_alloc(wasm_len);
    if (!guest.buffer)
        fail("the module's %" PRIu32 " bytes do not fit", wasm_len);
    memcpy(guest.buffer, wasm, wasm_len);
    guest.module = wamr_load(guest.buffer, wasm_len, &info, error, sizeof(error));
    if (!guest.module)
        fail("%s", error);
    guest.function = wamr_find_function(guest.module, name, (uint32_t)strlen(name), &type);
    if (guest.function == WAMR_NO_FUNCTION || type.params != params || type.results > 1)
        fail("no export `%s` of %" PRIu32 " parameters and at most one result", name, params);
    return guest;
}

static void
unload(const struct guest *guest)
{
    wamr_unload(guest->module);
    wamr_free(guest->buffer);
}

/* False where the arena is full. */
static bool
create(const struct guest *guest, struct instance *instance)
{
    char error[128] = "";

    instance->handle = wamr_instantiate(guest->module, memory_max, error, sizeof(error));
    if (!instance->handle)
        return false;
    instance->exec_env = wamr_exec_env_new(instance->handle, stack_len);
    if (!instance->exec_env)
        wamr_deinstantiate(instance->handle);
    return instance->exec_env != NULL;
}

static void
destroy(const struct instance *instance)
{
    wamr_exec_env_delete(instance->exec_env);
    wamr_deinstantiate(instance->handle);
}

/* Runs `main` to its end or until it is stopped; its result, or 0 where there is none. */
static uint32_t
call(const struct guest *guest, const struct instance *instance)
{
    uint32_t cells[2] = { 0, 0 }, slices_left = SLICES;

    if (!wamr_call(instance->exec_env, guest->function, 0, cells, SLICE, &slices_left)
        && slices_left)
        fail("%s", wamr_exception(instance->handle));
    return cells[0];
}

/*
 * Fills the arena. Each instance is called when it is made, and once more when all are: what they
 * give is the same for all, so no state is shared or lost.
 */
static uint32_t
fill(const struct guest *guest, struct instance *instances)
{
    uint32_t count = 0, first = 0, second = 0, i;

    while (create(guest, &instances[count])) {
        uint32_t result = call(guest, &instances[count]);

        if (count == 0)
            first = result;
        must_equal("the first call's result", result, first);
        count++;
    }
    for (i = 0; i < count; i++) {
        uint32_t result = call(guest, &instances[i]);

        if (i == 0)
            second = result;
        must_equal("the second call's result", result, second);
    }
    if (count == 0)
        fail("not one instance fits");
    return count;
}

/* An instance takes more than 256 bytes in every build, so no more than this fit. */
static struct instance *
most_instances(void)
{
    struct instance *instances = calloc(arena_len / 256 + 1, sizeof(*instances));

    if (!instances)
        fail("out of memory");
    return instances;
}

static void
count_instances(void)
{
    struct instance *instances = most_instances();
    wamr_memory_info before = memory(), wall;
    uint32_t free_bytes = before.free, load_bytes, instance_bytes, exec_env_bytes, linear = 0;
    uint32_t count, i;
    struct guest guest = load("main", 0);
    char error[128] = "";

    load_bytes = taken(&free_bytes);
    instances[0].handle = wamr_instantiate(guest.module, memory_max, error, sizeof(error));
    if (!instances[0].handle)
        fail("%s", error);
    instance_bytes = taken(&free_bytes);
    instances[0].exec_env = wamr_exec_env_new(instances[0].handle, stack_len);
    if (!instances[0].exec_env)
        fail("not one execution environment fits");
    exec_env_bytes = taken(&free_bytes);
    if (wamr_guest_memory_len(instances[0].handle))
        linear = wamr_block_bytes(wamr_guest_bytes(instances[0].handle, 0, 1));
    must_equal("wamr_instance_needs", wamr_instance_needs(guest.module), instance_bytes - linear);
    destroy(&instances[0]);

    count = fill(&guest, instances);
    wall = memory();
    for (i = 0; i < count; i++)
        destroy(&instances[i]);
    unload(&guest);
    must_be_as(&before);
    printf("pointer=%zu cache_lines=%d stack=%" PRIu32 " load=%" PRIu32 " instance=%" PRIu32
           " exec_env=%" PRIu32 " linear=%" PRIu32 " count=%" PRIu32 " free_before=%" PRIu32
           " free_wall=%" PRIu32 " largest_wall=%" PRIu32 " free_after=%" PRIu32
           " largest_after=%" PRIu32 "\n",
           sizeof(void *), BLOCK_ADDR_CACHE_SIZE, stack_len, load_bytes, instance_bytes - linear,
           exec_env_bytes, linear, count, before.free, wall.free, wall.largest_free,
           memory().free, memory().largest_free);
    free(instances);
}

/* xorshift32 */
static uint32_t
next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Takes one away at random and makes it again: it always fits, and no byte goes astray. */
static void
replace(const struct guest *guest, struct instance *instances, uint32_t count, uint32_t rounds)
{
    uint32_t random = 0x9e3779b9, full = memory().free;

    for (; rounds > 0; rounds--) {
        struct instance *one = &instances[next_random(&random) % count];

        destroy(one);
        if (!create(guest, one))
            fail("an instance's room does not take it again");
        (void)call(guest, one);
        must_equal("free bytes of a full arena", memory().free, full);
    }
}

static void
run_rounds(uint32_t rounds)
{
    struct instance *instances = most_instances();
    wamr_memory_info before = memory();
    struct guest guest = load("main", 0);
    uint32_t random = 0x2545f491, count = fill(&guest, instances), left, i;

    replace(&guest, instances, count, rounds);
    for (left = count; left > 0; left--) {
        struct instance *one = &instances[next_random(&random) % left];

        destroy(one);
        *one = instances[left - 1];
    }
    unload(&guest);
    must_be_as(&before);

    for (i = 0; i < rounds; i++) {
        guest = load("main", 0);
        if (!create(&guest, &instances[0]))
            fail("not one instance fits");
        (void)call(&guest, &instances[0]);
        destroy(&instances[0]);
        unload(&guest);
        must_be_as(&before);
    }
    printf("rounds=%" PRIu32 " count=%" PRIu32 " free_before=%" PRIu32 " free_after=%" PRIu32
           " largest_after=%" PRIu32 "\n",
           rounds, count, before.free, memory().free, memory().largest_free);
    free(instances);
}

/* Of the processor's time: what else runs on the machine is not in it. */
static uint64_t
nanoseconds(void)
{
    struct timespec now;

    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now))
        fail("no clock of the process");
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int
ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void
time_calls(uint32_t n)
{
    struct guest guest = load("run", 1);
    struct instance instance;
    uint64_t turns[TURNS];
    uint32_t result = 0, i;

    if (!create(&guest, &instance))
        fail("not one instance fits");
    for (i = 0; i < TURNS; i++) {
        uint32_t cells[2] = { n, 0 }, slices_left = UINT32_MAX;
        uint64_t start = nanoseconds();

        if (!wamr_call(instance.exec_env, guest.function, 1, cells, SLICE, &slices_left))
            fail("%s", wamr_exception(instance.handle));
        turns[i] = nanoseconds() - start;
        result = cells[0];
    }
    qsort(turns, TURNS, sizeof(turns[0]), ascending);
    printf("pointer=%zu cache_lines=%d result=%" PRIu32 " best_ns=%" PRIu64 " median_ns=%" PRIu64
           "\n",
           sizeof(void *), BLOCK_ADDR_CACHE_SIZE, result, turns[0], turns[TURNS / 2]);
    destroy(&instance);
    unload(&guest);
}

static uint32_t
number(const char *text)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || value > UINT32_MAX)
        fail("not a number of 32 bits: %s", text);
    return (uint32_t)value;
}

static void
read_module(const char *path)
{
    FILE *file = fopen(path, "rb");
    long len;

    if (!file || fseek(file, 0, SEEK_END) || (len = ftell(file)) <= 0 || len > INT32_MAX)
        fail("%s: no file, or an empty one", path);
    rewind(file);
    wasm_len = (uint32_t)len;
    wasm = malloc(wasm_len);
    if (!wasm || fread(wasm, 1, wasm_len, file) != wasm_len)
        fail("%s: cannot be read", path);
    fclose(file);
}

int
main(int argc, char **argv)
{
    const char *mode = argc == 6 ? argv[5] : "";
    void *arena;

    if (argc != 5 && argc != 6)
        fail("usage: capacity ARENA STACK CAP MODULE [rounds=N | time=N]");
    arena_len = number(argv[1]);
    stack_len = number(argv[2]);
    if (number(argv[3]))
        memory_max = number(argv[3]);
    read_module(argv[4]);
    arena = malloc(arena_len);
    if (!arena || wamr_init(arena, arena_len, slice_ended) != WAMR_INIT_OK)
        fail("the runtime does not start in %" PRIu32 " bytes", arena_len);
    if (!*mode)
        count_instances();
    else if (!strncmp(mode, "rounds=", 7))
        run_rounds(number(mode + 7));
    else if (!strncmp(mode, "time=", 5))
        time_calls(number(mode + 5));
    else
        fail("neither rounds=N nor time=N: %s", mode);
    free(wasm);
    free(arena);
    return 0;
}
