/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * WAMR's classic interpreter with the slice hook, compiled in place of wasm_interp_classic.c.
 *
 * With the thread manager, that file looks at the exec env's suspend flags at every branch, at
 * every call and at every function's entry. The thread manager itself stays off: all headers are
 * read first, with it off, so every structure keeps its size; then only the checks are switched
 * on, and made to count a slice down. The suspend flags, which nothing else uses, hold the count.
 *
 * What the checks cover is what can repeat: a loop needs a branch back and a recursion a call.
 * One unit of the count is therefore bounded work, but not constant work: it can span a function's
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

#include "shim.h"

#if WASM_ENABLE_THREAD_MGR != 0 || WASM_ENABLE_DEBUG_INTERP != 0 || WASM_ENABLE_SHARED_MEMORY != 0
#error "the slice hook stands in for the thread manager"
#endif

/* One more unit of work: true when the guest must stop, with the exception set. `check` is the
   number of the check in the file. */
static inline __attribute__((always_inline)) bool
slice_step(WASMExecEnv *exec_env, unsigned check);

enum { slice_checks_before = __COUNTER__ };

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
#define WASM_SUSPEND_FLAG_TERMINATE slice_step(exec_env, __COUNTER__)
#define WASM_SUSPEND_FLAG_SUSPEND 0
#define os_mutex_lock(mutex) (void)0
#define os_mutex_unlock(mutex) (void)0
#define os_cond_wait(cond, mutex) (void)0

#include "wasm_interp_classic.c"

enum { slice_checks_end = __COUNTER__ };

/* br, br_if, br_table, its cached form, call, call_indirect, and the entry of a function. If WAMR
   gets others, the function below must be thought over. */
_Static_assert(slice_checks_end - slice_checks_before - 1 == 7, "WAMR has other checks");

static inline bool
slice_step(WASMExecEnv *exec_env, unsigned check)
{
    /* The last one is at a function's entry, and counts nothing: who called has counted the call,
       and counting twice would make calls dearer by a twentieth. */
    if (check == slice_checks_end - 1)
        return false;
    /* A fresh exec env has a count of 0, so what nobody supervises asks at its first unit, and is
       stopped. */
    return __builtin_expect(exec_env->suspend_flags.flags-- == 0, 0)
           && !wamr_slice_ended(exec_env);
}
