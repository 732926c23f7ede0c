/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * C's half of the comparison of shim.h with wamr-sys: sizes, offsets and numbers by their names, for
 * the test in wamr-sys/src/seam.rs. Only hosts compile it.
 */

#include "arena.h"
#include "shim.h"
#include "worker.h"

struct wamr_seam {
    const char *name;
    /* An offset and a size of a field; 0 and the size of a struct; 0 and a number. */
    uint32_t offset;
    uint32_t value;
};

extern const struct wamr_seam wamr_seam[];
extern const uint32_t wamr_seam_len;

#define STRUCT(type) { #type, 0, sizeof(type) }
#define FIELD(type, field) { #type "." #field, offsetof(type, field), sizeof(((type *)0)->field) }
#define NUMBER(name) { #name, 0, (uint32_t)(name) }

const struct wamr_seam wamr_seam[] = {
    STRUCT(wamr_account),
    FIELD(wamr_account, held),
    FIELD(wamr_account, peak),
    STRUCT(wamr_memory_info),
    FIELD(wamr_memory_info, total),
    FIELD(wamr_memory_info, free),
    FIELD(wamr_memory_info, min_free),
    FIELD(wamr_memory_info, largest_free),
    FIELD(wamr_memory_info, spare),
    FIELD(wamr_memory_info, pages),
    STRUCT(wamr_memory_need),
    FIELD(wamr_memory_need, made),
    FIELD(wamr_memory_need, committed),
    STRUCT(wamr_module_info),
    FIELD(wamr_module_info, start),
    FIELD(wamr_module_info, constructors),
    FIELD(wamr_module_info, post_instantiate),
    FIELD(wamr_module_info, memories),
    FIELD(wamr_module_info, initial_pages),
    FIELD(wamr_module_info, maximum_pages),
    FIELD(wamr_module_info, stack_need),
    FIELD(wamr_module_info, credit_per_unit),
    FIELD(wamr_module_info, imports),
    STRUCT(wamr_tables),
    FIELD(wamr_tables, users),
    FIELD(wamr_tables, functions),
    FIELD(wamr_tables, imports),
    FIELD(wamr_tables, exports),
    FIELD(wamr_tables, globals),
    STRUCT(wamr_function_type),
    FIELD(wamr_function_type, types),
    FIELD(wamr_function_type, params),
    FIELD(wamr_function_type, results),
    STRUCT(wamr_sizes),
    FIELD(wamr_sizes, pointer),
    FIELD(wamr_sizes, module),
    FIELD(wamr_sizes, function_type),
    FIELD(wamr_sizes, import),
    FIELD(wamr_sizes, function),
    FIELD(wamr_sizes, table),
    FIELD(wamr_sizes, memory),
    FIELD(wamr_sizes, global),
    FIELD(wamr_sizes, export),
    FIELD(wamr_sizes, element_segment),
    FIELD(wamr_sizes, element),
    FIELD(wamr_sizes, data_segment),
    FIELD(wamr_sizes, instance),
    FIELD(wamr_sizes, instance_extra),
    FIELD(wamr_sizes, memory_instance),
    FIELD(wamr_sizes, table_instance),
    FIELD(wamr_sizes, table_slot),
    FIELD(wamr_sizes, table_slots_default),
    FIELD(wamr_sizes, bitmap),
    FIELD(wamr_sizes, global_instance),
    FIELD(wamr_sizes, function_instance),
    FIELD(wamr_sizes, export_function),
    FIELD(wamr_sizes, small_page),
    STRUCT(wamr_call),
    FIELD(wamr_call, instance),
    FIELD(wamr_call, kept),
    FIELD(wamr_call, waiting),
    FIELD(wamr_call, base),
    FIELD(wamr_call, top),
    FIELD(wamr_call, beyond),
    FIELD(wamr_call, frame),
    FIELD(wamr_call, function),
    FIELD(wamr_call, stack_max),
    FIELD(wamr_call, per_unit),
    FIELD(wamr_call, debt),
    FIELD(wamr_call, phase),
    FIELD(wamr_call, tail),
    FIELD(wamr_call, entered),
    FIELD(wamr_call, work),
    FIELD(wamr_call, work_left),
    STRUCT(NativeSymbol),
    FIELD(NativeSymbol, symbol),
    FIELD(NativeSymbol, func_ptr),
    FIELD(NativeSymbol, signature),
    FIELD(NativeSymbol, attachment),
    NUMBER(WAMR_NO_FUNCTION),
    NUMBER(WAMR_BLOCKING_ARGS),
    NUMBER(WAMR_NO_CALL),
    NUMBER(WAMR_BLOCK_HEADER),
    NUMBER(WAMR_BLOCK_ALIGN),
    NUMBER(WAMR_INIT_OK),
    NUMBER(WAMR_INIT_AGAIN),
    NUMBER(WAMR_INIT_NO_ROOM),
    NUMBER(WAMR_FINISHED),
    NUMBER(WAMR_OUT_OF_FUEL),
    NUMBER(WAMR_BLOCKED),
    NUMBER(WAMR_TRAPPED),
};

const uint32_t wamr_seam_len = sizeof(wamr_seam) / sizeof(wamr_seam[0]);

/* WAMR's own functions that wamr-sys declares. */
#define IS(function, type)                                                                         \
    _Static_assert(__builtin_types_compatible_p(__typeof__(function), type), #function)

typedef bool init_thread_env(void);
typedef void destroy_thread_env(void);
typedef void *of_exec_env(struct WASMExecEnv *);

IS(wasm_runtime_init_thread_env, init_thread_env);
IS(wasm_runtime_destroy_thread_env, destroy_thread_env);
IS(wasm_runtime_get_function_attachment, of_exec_env);
IS(wasm_runtime_get_user_data, of_exec_env);
