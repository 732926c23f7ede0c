/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The classic interpreter without the hook, beside the hooked one, for the benchmark alone:
 * everything else in the process is the same, to the operand stack and the module.
 */

#define wasm_interp_call_wasm plain_interp_call_wasm
#include "wasm_interp_classic.c"

#include "shim.h"

bool
wamr_call_plain(struct WASMExecEnv *exec_env, uint32_t index, uint32_t argc, uint32_t *argv);

bool
wamr_call_plain(struct WASMExecEnv *exec_env, uint32_t index, uint32_t argc, uint32_t *argv)
{
    WASMModuleInstance *instance = (WASMModuleInstance *)exec_env->module_inst;

    wasm_runtime_clear_exception(exec_env->module_inst);
    wasm_exec_env_set_thread_info(exec_env);
    instance->cur_exec_env = exec_env;
    plain_interp_call_wasm(instance, exec_env, instance->e->functions + index, argc, argv);
    return !wasm_copy_exception(instance, NULL);
}
