/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What the crate wamr-sys declares. Where a function fills `error`, the text is NUL-terminated
 * and cut to `error_len` bytes.
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
} wamr_memory_info;

#define WAMR_NO_FUNCTION UINT32_MAX

/* Function indexes are WAMR_NO_FUNCTION where the module has none. Without a memory,
   `page_bytes` is 0. */
typedef struct wamr_module_info {
    uint32_t start;
    uint32_t constructors;
    uint32_t post_instantiate;
    uint32_t page_bytes;
    uint32_t initial_pages;
    uint32_t maximum_pages;
} wamr_module_info;

/* One WebAssembly value type byte for each parameter, then for each result. */
typedef struct wamr_function_type {
    const uint8_t *types;
    uint32_t params;
    uint32_t results;
} wamr_function_type;

/* Sizes of WAMR's structures in this build, in bytes: what an estimate is made of. */
typedef struct wamr_sizes {
    uint32_t pointer;
    /* A module's; `type` and `table_instance` without their trailing arrays. */
    uint32_t module;
    uint32_t type;
    uint32_t import;
    uint32_t function;
    uint32_t table;
    uint32_t memory;
    uint32_t global;
    uint32_t export_;
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
    /* Without the operand stack. */
    uint32_t exec_env;
    /* Linear memories are multiples of it. */
    uint32_t memory_unit;
} wamr_sizes;

/* Asked on the guest's thread when a slice is spent, with the exec env's user data.
   Returns the length of the next slice, or 0 to stop the guest. */
typedef uint32_t (*wamr_slice_fn)(void *run);

typedef enum wamr_init_result {
    WAMR_INIT_OK = 0,
    WAMR_INIT_AGAIN = 1,
    WAMR_INIT_NO_ROOM = 2,
} wamr_init_result;

/* For the hook: true to go on. Cold: what it is called from stays as fast as without it. */
bool
wamr_slice_ended(struct WASMExecEnv *exec_env) __attribute__((cold));

uint32_t
wamr_init(void *arena, uint32_t arena_len, wamr_slice_fn on_slice);

void
wamr_memory(wamr_memory_info *info);

/* 8-aligned, or NULL. */
void *
wamr_alloc(uint32_t size);

/* `block` with room for `size` bytes, where it was if what is behind is free, or moved; what it had
   stays, what is new has any value. NULL where there is no room: the block is as before then. */
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

/* Arena bytes that an instance will take, its linear memory and exec env not counted. */
uint32_t
wamr_instance_needs(const struct WASMModule *module);

/* The index of the function that is exported by this name, and its type. */
uint32_t
wamr_find_function(const struct WASMModule *module, const char *name, uint32_t name_len,
                   wamr_function_type *type);

/* Runs no guest code. `memory_max` bounds the linear memory, in bytes: above its initial size it
   bounds growth; below, the memory has only that many whole units of 4096 bytes. */
struct WASMModuleInstance *
wamr_instantiate(struct WASMModule *module, uint64_t memory_max, char *error,
                 uint32_t error_len);

void
wamr_deinstantiate(struct WASMModuleInstance *instance);

struct WASMExecEnv *
wamr_exec_env_new(struct WASMModuleInstance *instance, uint32_t stack_len);

void
wamr_exec_env_delete(struct WASMExecEnv *exec_env);

/* Calls function `index`; `argv` holds the argument cells and then takes the result cells.
   `slice`, at least 1, is the first slice. False on a trap, whose text wamr_exception gives. */
bool
wamr_call(struct WASMExecEnv *exec_env, uint32_t index, uint32_t argc, uint32_t *argv,
          uint32_t slice, void *run);

/* Units left of the current slice, the unit that ends it not counted. */
uint32_t
wamr_slice_left(const struct WASMExecEnv *exec_env);

/* Counts `units` more of the slice that is running; what exceeds it is not counted. */
void
wamr_slice_charge(struct WASMExecEnv *exec_env, uint32_t units);

/* NULL where nothing is pending. */
const char *
wamr_exception(struct WASMModuleInstance *instance);

void
wamr_throw(struct WASMModuleInstance *instance, const char *text);

struct WASMModuleInstance *
wamr_instance_of(struct WASMExecEnv *exec_env);

/* The native address of `len` bytes of guest memory, or NULL with the exception set. */
uint8_t *
wamr_guest_bytes(struct WASMModuleInstance *instance, uint64_t offset, uint64_t len);

/* By the guest's own exported malloc, metered as the call that is running; 0 on failure. */
uint32_t
wamr_guest_malloc(struct WASMExecEnv *exec_env, uint32_t len);

/* Bytes that the bounds check allows. */
uint64_t
wamr_guest_memory_len(struct WASMModuleInstance *instance);

#endif
