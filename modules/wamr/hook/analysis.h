/*
 * SPDX-License-Identifier: Apache-2.0
 */

#ifndef PROPLET_WAMR_ANALYSIS_H
#define PROPLET_WAMR_ANALYSIS_H

#include "shim.h"

#include "bh_platform.h"
#include "wasm.h"

/*
 * Slice credit for a unit of work of the module's code: 1, or more where its code runs longer than
 * 128 instructions without a check, or a call makes more than 1,024 cells of locals. It bounds the
 * time of a slice: the code behind a call passes no checks either, and is charged when calls return.
 */
uint32
wamr_credit_per_unit(const WASMModule *module);

/*
 * Bytes of stack that a call can keep when it is left, the most of all exported functions and of the
 * initialisers; the first frame of a call is not in it. Of a function whose calls are recursive or
 * indirect its own frame is all that is known. Takes 12 bytes of the arena for each function
 * meanwhile, 16 on a 64-bit machine; without those, the same holds for all.
 */
uint32
wamr_stack_need(const WASMModule *module, const uint32 *initialisers, uint32 initialiser_count,
                uint32 bulk_bytes);

#endif
