/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The two interpreters, and what they know of a run. Read after WAMR's own headers.
 */

#ifndef PROPLET_WAMR_INTERP_H
#define PROPLET_WAMR_INTERP_H

#include "../common/wasm_exec_env.h"
#include "wasm_runtime.h"

/* What an exec env's user data points to while it runs. */
typedef struct wamr_running {
    /* NULL where the guest is counted. */
    const volatile uint32_t *flag;
    void *run;
} wamr_running;

/* True for the guest to go on. */
bool
wamr_slice_ended(WASMExecEnv *exec_env);

void
wamr_interp_counted(WASMModuleInstance *instance, WASMExecEnv *exec_env,
                    WASMFunctionInstance *function, uint32 argc, uint32 *argv);

void
wamr_interp_flagged(WASMModuleInstance *instance, WASMExecEnv *exec_env,
                    WASMFunctionInstance *function, uint32 argc, uint32 *argv);

#endif
