/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The classic interpreter without the hook, beside the hooked one, for the benchmark alone:
 * everything else in the process is the same, to the operand stack and the module.
 */

#define wasm_interp_call_wasm plain_interp_call_wasm
#include "wasm_interp_classic.c"

#include "arena.h"
#include "worker.h"

#if PAGED

/* The interpreter without the hook knows flat memory alone: it runs in a copy, which is lost then. */
static bool
flatten(WASMModuleInstance *instance)
{
    WASMMemoryInstance *memory = instance->memories[0];
    uint32 size = (uint32)memory->memory_data_size;

    if (!size)
        return true;
    memory->memory_data = wamr_arena_linear(size, false);
    if (!memory->memory_data)
        return false;
    wamr_pages_read(instance, 0, memory->memory_data, size);
    memory->memory_data_end = memory->memory_data + size;
    return true;
}

static bool
call_flat(WASMExecEnv *env, WASMFunctionInstance *function, uint32 argc, uint32 *argv)
{
    WASMModuleInstance *instance = (WASMModuleInstance *)env->module_inst;
    WASMMemoryInstance paged, *memory = instance->memory_count ? instance->memories[0] : NULL;

    if (memory) {
        paged = *memory;
        if (!flatten(instance))
            return false;
    }
    plain_interp_call_wasm(instance, env, function, argc, argv);
    if (memory) {
        wamr_arena_free(Alloc_For_LinearMemory, memory->memory_data);
        *memory = paged;
    }
    return true;
}

#else

static bool
call_flat(WASMExecEnv *env, WASMFunctionInstance *function, uint32 argc, uint32 *argv)
{
    plain_interp_call_wasm((WASMModuleInstance *)env->module_inst, env, function, argc, argv);
    return true;
}

#endif

bool
wamr_call_plain(struct wamr_worker *worker, struct WASMModuleInstance *instance, uint32_t index,
                uint32_t argc, uint32_t *argv)
{
    WASMExecEnv *env = &worker->env;

    instance->cur_exception[0] = '\0';
    instance->cur_exec_env = env;
    env->module_inst = (WASMModuleInstanceCommon *)instance;
    env->aux_stack_bottom = (uintptr_t)instance->module->aux_stack_bottom;
    env->aux_stack_boundary = env->aux_stack_bottom - instance->module->aux_stack_size;
    env->wasm_stack.top = env->wasm_stack.bottom;
    env->wasm_stack.top_boundary = env->wasm_stack.bottom + worker->stack_len;
    env->cur_frame = NULL;
    return call_flat(env, instance->e->functions + index, argc, argv)
           && !wasm_copy_exception(instance, NULL);
}
