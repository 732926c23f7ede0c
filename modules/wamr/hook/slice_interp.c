/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * WAMR's classic interpreter with the slice hook, compiled in place of wasm_interp_classic.c: here
 * with a count, and by flag_interp.c with a flag.
 *
 * With the thread manager, that file looks at the exec env's suspend flags at every branch, at
 * every call and at every function's entry. The thread manager itself stays off: all headers are
 * read first, with it off, so every structure keeps its size; then only the checks are switched
 * on. What they find there is ours.
 *
 * What the checks cover is what can repeat: a loop needs a branch back and a recursion a call.
 * From one to the next is therefore bounded work, but not constant work: it can span a function's
 * straight-line code, one bulk operation over all of the memory, or a scan of the function's body
 * for the end of a block.
 */

#include "wasm_interp.h"
#include "bh_log.h"
#include "wasm_runtime.h"
#include "wasm_opcode.h"
#include "wasm_loader.h"
#include "wasm_memory.h"
#include "../common/wasm_exec_env.h"

#include "interp.h"

#ifdef WAMR_INTERP_FLAGGED
#define WAMR_INTERP_WANTED WAMR_FLAGGED
#else
#define WAMR_INTERP_WANTED WAMR_COUNTED
#endif

#if WAMR_INTERP_WANTED

#if WASM_ENABLE_THREAD_MGR != 0 || WASM_ENABLE_DEBUG_INTERP != 0 || WASM_ENABLE_SHARED_MEMORY != 0
#error "the slice hook stands in for the thread manager"
#endif

/* Each is true when the guest must stop, with the exception set. */
#ifdef WAMR_INTERP_FLAGGED

/* Somebody raised the flag. Reading it costs less than counting. */
static inline bool
slice_step(WASMExecEnv *exec_env)
{
    const wamr_running *running = exec_env->user_data;

    return __builtin_expect(*running->flag != 0, 0) && !wamr_slice_ended(exec_env);
}

#define wasm_interp_call_wasm wamr_interp_flagged

#else

/*
 * One more unit of work; the suspend flags, which nothing else uses, hold what is left of the
 * slice. A fresh exec env has 0, so a call that nobody supervises asks at its first unit, and is
 * stopped.
 */
static inline bool
slice_step(WASMExecEnv *exec_env)
{
    return __builtin_expect(exec_env->suspend_flags.flags-- == 0, 0)
           && !wamr_slice_ended(exec_env);
}

#define wasm_interp_call_wasm wamr_interp_counted

#endif

/*
 * True where the file asks "!= 0" and also where it asks "== 0": the checks come in, while the
 * linear memory's size stays in a local, as without threads.
 */
#undef WASM_ENABLE_THREAD_MGR
#define WASM_ENABLE_THREAD_MGR 1 | 0

/* CHECK_SUSPEND_FLAGS: `if (GET & TERMINATE) return; while (GET & SUSPEND) wait` */
#undef WASM_SUSPEND_FLAGS_GET
#undef WASM_SUSPEND_FLAGS_LOCK
#undef WASM_SUSPEND_FLAGS_UNLOCK
#undef WASM_SUSPEND_FLAG_TERMINATE
#undef WASM_SUSPEND_FLAG_SUSPEND
#define WASM_SUSPEND_FLAGS_GET(flags) 1
#define WASM_SUSPEND_FLAGS_LOCK(lock) (void)0
#define WASM_SUSPEND_FLAGS_UNLOCK(lock) (void)0
#define WASM_SUSPEND_FLAG_TERMINATE slice_step(exec_env)
#define WASM_SUSPEND_FLAG_SUSPEND 0
#define os_mutex_lock(mutex) (void)0
#define os_mutex_unlock(mutex) (void)0
#define os_cond_wait(cond, mutex) (void)0

#include "wasm_interp_classic.c"

#endif
