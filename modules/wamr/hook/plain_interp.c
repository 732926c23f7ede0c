/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The classic interpreter without the hook, beside the hooked one, for the benchmark alone:
 * everything else in the process is the same, to the operand stack and the module.
 */

#define wasm_interp_call_wasm plain_interp_call_wasm
#include "wasm_interp_classic.c"

#include "worker.h"

bool
wamr_call_plain(struct wamr_worker *worker, struct WASMModuleInstance *instance, uint32_t index,
                uint32_t argc, uint32_t *argv);

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
    plain_interp_call_wasm(instance, env, instance->e->functions + index, argc, argv);
    return !wasm_copy_exception(instance, NULL);
}
