/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The seam to the crate wamr-sys, which declares the same by hand; seam.c and wamr-sys/src/seam.rs
 * compare the two. Where a function fills `error`, the text is NUL-terminated and cut to `error_len`
 * bytes.
 */

#ifndef PROPLET_WAMR_SHIM_H
#define PROPLET_WAMR_SHIM_H

#include "wasm_export.h"

struct WASMExecEnv;
struct WASMModule;
struct WASMModuleInstance;

/* Arena bytes, block headers and rounding included. */
typedef struct wamr_account {
    intptr_t held;
    intptr_t peak;
} wamr_account;

typedef struct wamr_memory_info {
    uint32_t total;
    uint32_t free;
    uint32_t min_free;
    uint32_t largest_free;
    /* Bytes that running guests may take: the free ones without the reserve and the promises. */
    uint32_t spare;
    /* Pages of linear memory that all guests hold. */
    uint32_t pages;
} wamr_memory_info;

/* Arena bytes that a linear memory takes. Upper bounds where data segments are not in the order of their
   addresses. */
typedef struct wamr_memory_need {
    /* When its instance is made: its tables, the pages that data segments write to, and the first page of the
       guest's own stack, where the module has one. */
    uint32_t made;
    /* With all that it has at first. */
    uint32_t committed;
} wamr_memory_need;

#define WAMR_NO_FUNCTION UINT32_MAX

/* Function indexes are WAMR_NO_FUNCTION where the module has none. */
typedef struct wamr_module_info {
    uint32_t start;
    uint32_t constructors;
    uint32_t post_instantiate;
    uint32_t memories;
    /* Wasm pages of the memory at first, and at the most. */
    uint32_t initial_pages;
    uint32_t maximum_pages;
    /* Bytes of stack that a call can keep when it is left, its first frame not counted, as far as it
       is known. */
    uint32_t stack_need;
    /* Slice credit for a unit of work of this module's code. */
    uint32_t credit_per_unit;
    /* Functions that it imports. */
    uint32_t imports;
} wamr_module_info;

/* The common part of all instances of a module, zero where it has no instance. The first one makes
   it, the last one frees it; the functions that take it lock it. */
typedef struct wamr_tables {
    uint32_t users;
    void *functions;
    void *imports;
    void *exports;
    void *globals;
} wamr_tables;

/* One WebAssembly value type byte for each parameter, then for each result. */
typedef struct wamr_function_type {
    const uint8_t *types;
    uint32_t params;
    uint32_t results;
} wamr_function_type;

/* Sizes of WAMR's structures in this build, in bytes: what an estimate is made of. */
typedef struct wamr_sizes {
    uint32_t pointer;
    /* A module's; `function_type` and `table_instance` without their trailing arrays. */
    uint32_t module;
    uint32_t function_type;
    uint32_t import;
    uint32_t function;
    uint32_t table;
    uint32_t memory;
    uint32_t global;
    uint32_t export;
    uint32_t element_segment;
    uint32_t element;
    uint32_t data_segment;
    /* An instance's. */
    uint32_t instance;
    uint32_t instance_extra;
    uint32_t memory_instance;
    uint32_t table_instance;
    uint32_t table_slot;
    uint32_t table_slots_default;
    uint32_t bitmap;
    uint32_t global_instance;
    uint32_t function_instance;
    uint32_t export_function;
    /* Bytes of the pages that linear memories are made of; 0 where they are one block. */
    uint32_t small_page;
} wamr_sizes;

typedef enum wamr_init_result {
    WAMR_INIT_OK = 0,
    WAMR_INIT_AGAIN = 1,
    WAMR_INIT_NO_ROOM = 2,
} wamr_init_result;

/* Largest number of arguments of a host function that waits. */
#define WAMR_BLOCKING_ARGS 8

/* Bytes of the header of a block of the arena, and a divisor of the block's size with it. */
#define WAMR_BLOCK_HEADER 4
#define WAMR_BLOCK_ALIGN 8

/* wamr_call.phase where there is no call; the others are worker.c's. */
#define WAMR_NO_CALL 0

/* The exception of a call that was to do more work than it may. */
#define WAMR_OUT_OF_WORK_TEXT "work budget exhausted"

/*
 * A call of an instance's function, or none: what is kept of it while it is not on a worker's stack.
 * `instance` and the bounds are its owner's to set while there is no call; the rest is worker.c's.
 */
typedef struct wamr_call {
    struct WASMModuleInstance *instance;
    /* A block of the arena: the call's first frame and arguments, what it left on the stack, or its
       results. */
    uint8_t *kept;
    /* The host function that it waits for. */
    const void *waiting;
    /* Where the stack was that the addresses in its frames mean. */
    uintptr_t base;
    /* Bytes on the stack; of the arguments beyond them, before the function has begun. */
    uint32_t top;
    uint32_t beyond;
    /* Offset of the frame that ran. */
    uint32_t frame;
    uint32_t function;
    /* Bytes of a worker's stack that it may use. */
    uint32_t stack_max;
    uint32_t per_unit;
    /* Slice credit that was used and not granted yet. */
    uint32_t debt;
    /* WAMR_NO_CALL, or another. */
    uint8_t phase;
    /* Bytes kept behind the stack's: arguments of what it waits for, or the rest of an operation. */
    uint8_t tail;
    /* On a worker's stack; only there is what is true of the call. */
    uint8_t entered;
    /* Units of work that were done, and that may be. */
    uint64_t work;
    uint64_t work_left;
} wamr_call;

typedef enum wamr_outcome {
    WAMR_FINISHED = 0,
    WAMR_OUT_OF_FUEL = 1,
    WAMR_BLOCKED = 2,
    WAMR_TRAPPED = 3,
} wamr_outcome;

uint32_t
wamr_init(void *arena, uint32_t arena_len);

void
wamr_memory(wamr_memory_info *info);

/* Bytes of the arena that guests and promises leave free: for the host's own. */
void
wamr_set_reserve(uint32_t bytes);

/* Has guests leave `bytes` free beside the reserve, until wamr_promise_end, for what this thread is going to
   take. False where they are not free. One thread at a time has a promise; others wait, and so
   would this one: it runs no guest meanwhile. */
bool
wamr_promise(uint32_t bytes);

void
wamr_promise_end(void);

/* 8-aligned, or NULL. */
void *
wamr_alloc(uint32_t size);

/* `block` with room for `size` bytes, where it was if it shrinks or what is behind is free, or moved; what
   it had stays, what is new has any value. NULL where there is no room: the block is as before then. */
void *
wamr_realloc(void *block, uint32_t size);

void
wamr_free(void *block);

/* Arena bytes that `block` takes. */
uint32_t
wamr_block_bytes(const void *block);

/* Makes `account` the one that this thread's allocations go to; returns the one before. */
wamr_account *
wamr_account_swap(wamr_account *account);

void
wamr_count_up(uint32_t *count);

/* The count after. */
uint32_t
wamr_count_down(uint32_t *count);

/* `symbols` is kept, and sorted. */
bool
wamr_register(const char *module_name, NativeSymbol *symbols, uint32_t count);

/* `wasm` is kept and rewritten until wamr_unload. */
struct WASMModule *
wamr_load(uint8_t *wasm, uint32_t wasm_len, wamr_module_info *info, char *error,
          uint32_t error_len);

void
wamr_unload(struct WASMModule *module);

void
wamr_get_sizes(wamr_sizes *sizes);

/* Arena bytes that an instance will take, its linear memory and the tables not counted. */
uint32_t
wamr_instance_needs(const struct WASMModule *module);

void
wamr_memory_needs(const struct WASMModule *module, wamr_memory_need *need);

/* Arena bytes of the tables, which the first instance makes. */
uint32_t
wamr_tables_need(const struct WASMModule *module);

/* Arena bytes that making a further instance takes for the time being. */
uint32_t
wamr_copy_needs(const struct WASMModule *module);

/* Bytes of the frame that a call begins with, which takes its results. */
uint32_t
wamr_first_frame_bytes(uint32_t result_cells);

/* The index of the function that is exported by this name, and its type. */
uint32_t
wamr_find_function(const struct WASMModule *module, const char *name, uint32_t name_len,
                   wamr_function_type *type);

/* Runs no guest code. `memory_max` bounds the bytes of pages that the linear memory holds, or of all of it
   where memories are flat. With `commit` all of its pages are taken at once, and when it grows: its guest
   never finds that there are none. */
struct WASMModuleInstance *
wamr_instantiate(struct WASMModule *module, wamr_tables *tables, uint64_t memory_max, bool commit,
                 char *error, uint32_t error_len);

void
wamr_deinstantiate(struct WASMModuleInstance *instance, wamr_tables *tables);

/* Arena bytes of a worker with such a stack. */
uint32_t
wamr_worker_bytes(uint32_t stack_len);

/* A thread's means to run guests, with their stack; NULL without room. For the calling thread alone. */
struct wamr_worker *
wamr_worker_new(uint32_t stack_len);

/* No call is on it. */
void
wamr_worker_delete(struct wamr_worker *worker);

/* For host functions that are called outside of a guest's. */
struct WASMExecEnv *
wamr_worker_env(struct wamr_worker *worker);

/* Begins a call, without running anything; `argv` holds the argument cells. `reserve` bytes are kept
   for it, for when it is left. False where the arena has no room for them. */
bool
wamr_begin(wamr_call *call, uint32_t index, uint32_t argc, const uint32_t *argv,
           uint32_t reserve);

/* The cells of the results of a call that has finished. */
void
wamr_results(const wamr_call *call, uint32_t *cells, uint32_t count);

/* Gives back what is kept of a call. */
void
wamr_drop(wamr_call *call);

/* Puts a call on the worker's stack, which is empty. False where that is too small for it. */
bool
wamr_enter(struct wamr_worker *worker, wamr_call *call);

/* Takes the call off the stack. False where the arena has no room for what it has there: it has
   ended, then. */
bool
wamr_leave(struct wamr_worker *worker);

/* Ends the call that is on the stack, without a result. */
void
wamr_give_up(struct wamr_worker *worker);

/* Begins a step of the call on the stack, with `fuel` units of slice credit, which first pay its
   debt. False where nothing is left. `run` is the user data of host functions. */
bool
wamr_fuel(struct wamr_worker *worker, uint32_t fuel, void *run);

/* Runs the call on the stack until it ends, waits, or has used the step's credit. A wamr_outcome. */
uint32_t
wamr_run(struct wamr_worker *worker);

/* From a host function that waits: its guest is left when it returns, and has its result by
   wamr_unblock. False where the guest can't be left now. */
bool
wamr_block(struct WASMExecEnv *env, const void *function, const uint64_t *args, uint32_t count);

/* The arguments of the host function that the call on the stack waits for; how many. */
uint32_t
wamr_blocked_args(const struct wamr_worker *worker, uint64_t *args);

/* That one waits on, with these arguments. False where it has charged more than its call may do: that
   is to be run, and traps. */
bool
wamr_wait(struct wamr_worker *worker, const uint64_t *args, uint32_t count);

/* Gives that one its result, of `cells` cells. */
void
wamr_unblock(struct wamr_worker *worker, uint64_t result, uint32_t cells);

/* Counts `units` of work for what a host function does. */
void
wamr_host_charge(struct WASMExecEnv *env, uint32_t units);

/* NULL where nothing is pending. */
const char *
wamr_exception(struct WASMModuleInstance *instance);

void
wamr_throw(struct WASMModuleInstance *instance, const char *text);

struct WASMModuleInstance *
wamr_instance_of(struct WASMExecEnv *exec_env);

/* Whether `len` bytes are a guest's memory; else false with the exception set. */
bool
wamr_guest_check(struct WASMModuleInstance *instance, uint32_t offset, uint32_t len);

/* Copy them; false with the exception set, and nothing is copied. Writing is for host functions: it takes
   absent pages, which spends the slice credit of the call that called. */

bool
wamr_guest_read(struct WASMModuleInstance *instance, uint32_t offset, uint8_t *to, uint32_t len);

bool
wamr_guest_write(struct WASMExecEnv *env, uint32_t offset, const uint8_t *from, uint32_t len);

/* By the guest's own exported malloc, 0 on failure. What it does is counted as the call's that is
   running, which it can't leave: beyond 65,536 units it traps. */
uint32_t
wamr_guest_malloc(struct WASMExecEnv *exec_env, uint32_t len);

/* Bytes that the bounds check allows. */
uint64_t
wamr_guest_memory_len(struct WASMModuleInstance *instance);

/* Pages that the linear memory holds; 0 where memories are flat. */
uint32_t
wamr_guest_pages(struct WASMModuleInstance *instance);

/* Calls a function without the hook, from its beginning to its end: nothing stops it. Only builds with
   plain_interp.c have it, for benchmarks. */
bool
wamr_call_plain(struct wamr_worker *worker, struct WASMModuleInstance *instance, uint32_t index,
                uint32_t argc, uint32_t *argv);

#endif
