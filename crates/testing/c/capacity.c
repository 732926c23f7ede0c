/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * How many instances an arena of a given size holds in the build that this file is compiled with,
 * whether every byte of it comes back, and how long a call takes. Only the shim is used, as the crate wamr uses
 * it; that crate's own block for each loaded module, 56 to 96 bytes, is not in the figures, nor is
 * the record of each instance's call, whose size is.
 *
 *   capacity ARENA STACK MODULE count=N     the most instances of which each runs `main(N)` to its end,
 *                                           which it must have, while all of them live, switched at
 *                                           every step
 *   capacity ARENA STACK MODULE rounds=N    N instances replaced in a full arena, then N rounds from
 *                                           loading to unloading
 *   capacity ARENA STACK MODULE time=N      `run(N)`, TURNS times, each in a new instance
 *   capacity ARENA STACK MODULE switches=N  N switches between 100 guests of `main`, and the same work
 *                                           without any
 *   capacity ARENA STACK MODULE hook=N      `run(N)` once, in steps of HOOK_SLICE, for an instruction
 *                                           counter around it; `main(N)` without a `run`
 *   capacity ARENA STACK MODULE plain=N     the same by WAMR's classic interpreter as it is
 *   capacity ARENA STACK MODULE make=N      N instances made, called, left and torn down
 *
 * ARENA and STACK are bytes; STACK is the one operand stack of all. A function takes at most two
 * parameters, the second of which is SECOND, and gives at most one result; `main` is given 0 where no
 * N is said to be its argument. Prints one line of key=value; exits with 1 and a reason where anything
 * is not as it must be.
 */

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shim.h"

/* Fuel of a step. */
#define SLICE 50

#define HOOK_SLICE 10000
/* The second argument of a function that takes two. */
#define SECOND 16

#define TURNS 3
#define GUESTS 100

struct guest {
    uint8_t *buffer;
    struct WASMModule *module;
    wamr_tables tables;
    wamr_module_info info;
    uint32_t function;
    uint32_t params;
    uint32_t results;
    /* The first argument of a call. */
    uint32_t argument;
    /* Bytes that are reserved for a call of it. */
    uint32_t reserve;
};

/* What an instance's owner has of it. */
typedef wamr_call instance;

static struct wamr_worker *worker;

static uint32_t arena_len, stack_len;

bool
wamr_call_plain(struct wamr_worker *worker, struct WASMModuleInstance *instance, uint32_t index,
                uint32_t argc, uint32_t *argv);

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

/* Arena bytes of a new instance's linear memory. */
static uint32_t
linear_bytes(const struct guest *guest)
{
    wamr_memory_need need;

    wamr_memory_needs(guest->module, &need);
    return need.made;
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

static uint32_t
find(const struct guest *guest, const char *name, wamr_function_type *type)
{
    return wamr_find_function(guest->module, name, (uint32_t)strlen(name), type);
}

static void
load(struct guest *guest, const char *name, uint32_t params, uint32_t argument)
{
    wamr_function_type type;
    char error[128] = "";

    memset(guest, 0, sizeof(*guest));
    guest->buffer = wamr_alloc(wasm_len);
    if (!guest->buffer)
        fail("the module's %" PRIu32 " bytes do not fit", wasm_len);
    memcpy(guest->buffer, wasm, wasm_len);
    guest->module = wamr_load(guest->buffer, wasm_len, &guest->info, error, sizeof(error));
    if (!guest->module)
        fail("%s", error);
    guest->function = find(guest, name, &type);
    if (guest->function == WAMR_NO_FUNCTION)
        guest->function = find(guest, "main", &type);
    if (guest->function == WAMR_NO_FUNCTION || type.params < params || type.params > 2
        || type.results > 1)
        fail("no export `%s` of %" PRIu32 " to 2 parameters and at most one result", name, params);
    guest->params = type.params;
    guest->results = type.results;
    guest->argument = argument;
    guest->reserve = guest->info.stack_need + wamr_first_frame_bytes(2 * type.results);
}

static void
unload(struct guest *guest)
{
    wamr_unload(guest->module);
    wamr_free(guest->buffer);
}

/* Without a call. False where the arena is full. */
static bool
make(struct guest *guest, instance *one)
{
    char error[128] = "";

    memset(one, 0, sizeof(*one));
    one->instance = wamr_instantiate(guest->module, &guest->tables, UINT64_MAX, false, error,
                                     sizeof(error));
    one->per_unit = guest->info.credit_per_unit;
    one->stack_max = UINT32_MAX;
    return one->instance != NULL;
}

static void
destroy(struct guest *guest, instance *one)
{
    wamr_drop(one);
    wamr_deinstantiate(one->instance, &guest->tables);
}

static bool
begin(struct guest *guest, instance *one)
{
    const uint32_t cells[] = { guest->argument, SECOND };

    one->work_left = UINT64_MAX;
    return wamr_begin(one, guest->function, guest->params, cells, guest->reserve);
}

/* With a call. False where the arena is full. */
static bool
create(struct guest *guest, instance *one)
{
    if (!make(guest, one))
        return false;
    if (begin(guest, one))
        return true;
    destroy(guest, one);
    return false;
}

/* A step of a call, which is left then. WAMR_TRAPPED where the arena has no room for what it touches
   or keeps; any other trap is an error. */
static uint32_t
outcome_of_step(instance *one, uint32_t fuel)
{
    uint32_t outcome = WAMR_OUT_OF_FUEL;
    const char *exception;

    if (!wamr_enter(worker, one))
        fail("a stack of %" PRIu32 " bytes is too small", stack_len);
    if (wamr_fuel(worker, fuel, NULL))
        outcome = wamr_run(worker);
    if (!wamr_leave(worker))
        return WAMR_TRAPPED;
    exception = outcome == WAMR_TRAPPED ? wamr_exception(one->instance) : NULL;
    if (exception && !strstr(exception, "out of memory"))
        fail("%s", exception);
    return outcome;
}

/* True where it has ended. */
static bool
step(instance *one, uint32_t fuel)
{
    uint32_t outcome = outcome_of_step(one, fuel);

    if (outcome == WAMR_TRAPPED)
        fail("no room for what a guest touches or keeps");
    return outcome == WAMR_FINISHED;
}

/* The result of a call that has ended; 0 where it has none. */
static uint32_t
result_of(const struct guest *guest, const instance *one)
{
    uint32_t cells[2] = { 0, 0 };

    wamr_results(one, cells, guest->results);
    return cells[0];
}

static uint32_t
call(const struct guest *guest, instance *one)
{
    while (!step(one, SLICE * 100))
        ;
    return result_of(guest, one);
}

/* Fills the arena with instances that have run to their end: each holds all that it ever touches, and
   the room that its call was left in. The first that can't is none of them. */
static uint32_t
fill(struct guest *guest, instance *all)
{
    uint32_t count = 0, outcome;

    while (create(guest, &all[count])) {
        do
            outcome = outcome_of_step(&all[count], SLICE);
        while (outcome == WAMR_OUT_OF_FUEL);
        if (outcome == WAMR_TRAPPED) {
            destroy(guest, &all[count]);
            break;
        }
        count++;
    }
    if (count == 0)
        fail("not one instance fits");
    return count;
}

/* Makes so many instances, and runs all in turn until all have ended; what one holds when it has ended,
   it still holds then. True with the arena as it is then where none lacked room; all have the
   result and the work of a run alone then: no state is shared or lost. All are gone afterwards. */
static bool
run_together(struct guest *guest, instance *all, uint32_t count, uint32_t result, uint64_t work,
             wamr_memory_info *wall)
{
    uint32_t made = 0, ended = 0, free_bytes, i;
    bool fit;

    while (made < count && create(guest, &all[made]))
        made++;
    fit = made == count;
    for (free_bytes = memory().free; fit && ended < count; free_bytes = wall->free) {
        for (i = ended = 0; fit && i < count; i++) {
            if (all[i].phase)
                fit = outcome_of_step(&all[i], SLICE) != WAMR_TRAPPED;
            ended += !all[i].phase;
        }
        *wall = memory();
        if (fit && wall->free > free_bytes)
            fail("a guest that runs has given something back");
    }
    for (i = 0; i < made; i++) {
        if (fit) {
            must_equal("a result", result_of(guest, &all[i]), result);
            must_equal("work", (uint32_t)all[i].work, (uint32_t)work);
        }
        destroy(guest, &all[i]);
    }
    return fit;
}

/* An instance takes more than 256 bytes in every build, so no more than this fit. */
static instance *
most_instances(void)
{
    instance *instances = calloc(arena_len / 256 + 1, sizeof(*instances));

    if (!instances)
        fail("out of memory");
    return instances;
}

static void
count_instances(uint32_t argument, uint32_t worker_bytes)
{
    instance *all = most_instances(), alone;
    wamr_memory_info before = memory(), wall;
    uint32_t free_bytes = before.free, load_bytes, tables, bytes, kept, linear, result, count, i;
    struct guest guest;

    load(&guest, "main", 0, argument);
    load_bytes = taken(&free_bytes);
    if (!make(&guest, &alone))
        fail("not one instance fits");
    linear = linear_bytes(&guest);
    bytes = wamr_instance_needs(guest.module);
    tables = wamr_tables_need(guest.module);
    must_equal("an instance, its memory and the tables", taken(&free_bytes),
               bytes + linear + tables);
    if (!begin(&guest, &alone))
        fail("not one call fits");
    result = call(&guest, &alone);
    kept = wamr_block_bytes(alone.kept);
    linear += taken(&free_bytes) - kept;
    destroy(&guest, &alone);
    must_equal("the tables of no instance", memory().free, before.free - load_bytes);

    count = fill(&guest, all);
    for (i = 0; i < count; i++)
        destroy(&guest, &all[i]);
    for (count++; !run_together(&guest, all, count, result, alone.work, &wall); count--)
        ;
    unload(&guest);
    must_be_as(&before);
    printf("pointer=%zu cache_lines=%d stack=%" PRIu32 " worker=%" PRIu32 " load=%" PRIu32
           " tables=%" PRIu32 " instance=%" PRIu32 " kept=%" PRIu32 " record=%zu linear=%" PRIu32
           " count=%" PRIu32 " result=%" PRIu32 " free_before=%" PRIu32 " free_wall=%" PRIu32
           " largest_wall=%" PRIu32 " free_after=%" PRIu32 " largest_after=%" PRIu32 "\n",
           sizeof(void *), BLOCK_ADDR_CACHE_SIZE, stack_len, worker_bytes, load_bytes, tables,
           bytes, kept, sizeof(wamr_call), linear, count, result, before.free, wall.free,
           wall.largest_free, memory().free, memory().largest_free);
    free(all);
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

/* Takes one away at random, makes it again and runs it: it always fits, and no byte goes astray. */
static void
replace(struct guest *guest, instance *all, uint32_t count, uint32_t rounds)
{
    uint32_t random = 0x9e3779b9, full = memory().free;

    for (; rounds > 0; rounds--) {
        instance *one = &all[next_random(&random) % count];

        destroy(guest, one);
        if (!create(guest, one))
            fail("an instance's room does not take it again");
        (void)call(guest, one);
        must_equal("free bytes of a full arena", memory().free, full);
    }
}

static void
run_rounds(uint32_t rounds)
{
    instance *all = most_instances();
    wamr_memory_info before = memory();
    struct guest guest;
    uint32_t random = 0x2545f491, count, left, i;

    load(&guest, "main", 0, 0);
    count = fill(&guest, all);
    replace(&guest, all, count, rounds);
    for (left = count; left > 0; left--) {
        instance *one = &all[next_random(&random) % left];

        destroy(&guest, one);
        *one = all[left - 1];
    }
    unload(&guest);
    must_be_as(&before);

    for (i = 0; i < rounds; i++) {
        load(&guest, "main", 0, 0);
        if (!create(&guest, &all[0]))
            fail("not one instance fits");
        /* Dropped in the middle. */
        (void)step(&all[0], 1 + i % SLICE);
        destroy(&guest, &all[0]);
        unload(&guest);
        must_be_as(&before);
    }
    printf("rounds=%" PRIu32 " count=%" PRIu32 " free_before=%" PRIu32 " free_after=%" PRIu32
           " largest_after=%" PRIu32 "\n",
           rounds, count, before.free, memory().free, memory().largest_free);
    free(all);
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
    struct guest guest;
    instance one;
    uint64_t turns[TURNS];
    uint32_t result = 0, i;

    load(&guest, "run", 1, n);
    for (i = 0; i < TURNS; i++) {
        uint64_t start;

        if (!create(&guest, &one))
            fail("not one instance fits");
        start = nanoseconds();
        result = call(&guest, &one);
        turns[i] = nanoseconds() - start;
        destroy(&guest, &one);
    }
    qsort(turns, TURNS, sizeof(turns[0]), ascending);
    printf("pointer=%zu cache_lines=%d result=%" PRIu32 " best_ns=%" PRIu64 " median_ns=%" PRIu64
           "\n",
           sizeof(void *), BLOCK_ADDR_CACHE_SIZE, result, turns[0], turns[TURNS / 2]);
    unload(&guest);
}

static void
call_once(uint32_t n, bool plain)
{
    struct guest guest;
    instance one;
    uint32_t cells[2] = { n, SECOND };

    load(&guest, "run", 1, n);
    if (!make(&guest, &one))
        fail("not one instance fits");
    if (plain) {
        if (!wamr_call_plain(worker, one.instance, guest.function, guest.params, cells))
            fail("%s", wamr_exception(one.instance));
    }
    else {
        if (!begin(&guest, &one) || !wamr_enter(worker, &one))
            fail("no room for a call");
        while (!wamr_fuel(worker, HOOK_SLICE, NULL) || wamr_run(worker) == WAMR_OUT_OF_FUEL)
            ;
        (void)wamr_leave(worker);
        cells[0] = result_of(&guest, &one);
    }
    printf("result=%" PRIu32 "\n", cells[0]);
    destroy(&guest, &one);
    unload(&guest);
}

/* Guests that are switched between at every step of two units, against as many steps of one. */
static uint64_t
time_steps(struct guest *guest, instance *all, uint32_t count, uint32_t steps)
{
    uint64_t start;
    uint32_t i;

    for (i = 0; i < count; i++) {
        if (!create(guest, &all[i]))
            fail("%" PRIu32 " guests do not fit", count);
    }
    start = nanoseconds();
    if (count == 1) {
        if (!wamr_enter(worker, &all[0]))
            fail("the stack is too small");
        for (i = 0; i < steps; i++)
            if (wamr_fuel(worker, 2, NULL) && wamr_run(worker) != WAMR_OUT_OF_FUEL)
                fail("`main` has ended");
        (void)wamr_leave(worker);
    }
    else {
        for (i = 0; i < steps; i++)
            if (step(&all[i % count], 2))
                fail("`main` has ended");
    }
    start = nanoseconds() - start;
    for (i = 0; i < count; i++)
        destroy(guest, &all[i]);
    return start;
}

static void
time_switches(uint32_t switches)
{
    instance *all = most_instances();
    struct guest guest;
    uint64_t apart[TURNS], alone[TURNS];
    uint32_t i;

    load(&guest, "main", 0, 0);
    for (i = 0; i < TURNS; i++) {
        apart[i] = time_steps(&guest, all, GUESTS, switches);
        alone[i] = time_steps(&guest, all, 1, switches);
    }
    qsort(apart, TURNS, sizeof(apart[0]), ascending);
    qsort(alone, TURNS, sizeof(alone[0]), ascending);
    printf("switches=%" PRIu32 " apart_ns=%" PRIu64 " alone_ns=%" PRIu64 "\n", switches, apart[0],
           alone[0]);
    unload(&guest);
    free(all);
}

static void
time_making(uint32_t count)
{
    instance *all = calloc(count, sizeof(*all));
    struct guest guest;
    uint64_t start, made;
    uint32_t i;

    load(&guest, "main", 0, 0);
    start = nanoseconds();
    for (i = 0; i < count; i++)
        if (!all || !create(&guest, &all[i]))
            fail("%" PRIu32 " instances do not fit", count);
    made = nanoseconds();
    for (i = 0; i < count; i++)
        (void)step(&all[i], SLICE);
    for (i = 0; i < count; i++)
        destroy(&guest, &all[i]);
    printf("count=%" PRIu32 " made_ns=%" PRIu64 " whole_ns=%" PRIu64 "\n", count, made - start,
           nanoseconds() - start);
    unload(&guest);
    free(all);
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
    const char *mode = argc == 5 ? argv[4] : "";
    uint32_t worker_bytes;
    void *arena;

    if (argc != 5)
        fail("usage: capacity ARENA STACK MODULE MODE=N");
    arena_len = number(argv[1]);
    stack_len = number(argv[2]);
    read_module(argv[3]);
    arena = malloc(arena_len);
    if (!arena || wamr_init(arena, arena_len) != WAMR_INIT_OK)
        fail("the runtime does not start in %" PRIu32 " bytes", arena_len);
    worker_bytes = memory().free;
    worker = wamr_worker_new(stack_len);
    if (!worker)
        fail("no room for a worker with a stack of %" PRIu32 " bytes", stack_len);
    worker_bytes -= memory().free;
    must_equal("wamr_worker_bytes", wamr_worker_bytes(stack_len), worker_bytes);
    if (!strncmp(mode, "count=", 6))
        count_instances(number(mode + 6), worker_bytes);
    else if (!strncmp(mode, "rounds=", 7))
        run_rounds(number(mode + 7));
    else if (!strncmp(mode, "time=", 5))
        time_calls(number(mode + 5));
    else if (!strncmp(mode, "switches=", 9))
        time_switches(number(mode + 9));
    else if (!strncmp(mode, "hook=", 5))
        call_once(number(mode + 5), false);
    else if (!strncmp(mode, "plain=", 6))
        call_once(number(mode + 6), true);
    else if (!strncmp(mode, "make=", 5))
        time_making(number(mode + 5));
    else
        fail("no such mode: %s", mode);
    wamr_worker_delete(worker);
    free(wasm);
    free(arena);
    return 0;
}
