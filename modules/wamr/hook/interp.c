/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * WAMR's classic interpreter, made to count, to be left and to be gone on with. Compiled in place
 * of wasm_interp_classic.c, which it includes unchanged.
 *
 * With the thread manager, that file looks at the exec env's suspend flags at every branch, at
 * every call and at every function's entry. The thread manager itself stays off: all headers are
 * read first, with it off, so every structure keeps its size; then only the checks are switched
 * on, and made to count a slice down. The suspend flags, which nothing else uses, hold the count.
 *
 * All that a guest is lies on its operand stack, but for three locals of the interpreter. A check
 * that finds the count at 0 stores them in the frame, as they were before its instruction, and
 * returns. To go on, the interpreter is called for a synthetic function whose caller is the frame
 * that was left: its return recovers the rest.
 *
 * Work without a check on its way is charged when it happens: bulk operations by their size, scans for
 * the ends of blocks by what they read, returns from functions by their number. A charge that uses
 * the slice up sends the interpreter to `leave_code`, whose branch is a check, and so ends it in a
 * line of code without a branch, too.
 */

#include "wasm_interp.h"
#include "bh_log.h"
#include "wasm_runtime.h"
#include "wasm_opcode.h"
#include "wasm_loader.h"
#include "wasm_memory.h"
#include "../common/wasm_exec_env.h"

#include "arena.h"
#include "pages.h"
#include "worker.h"

#if WASM_ENABLE_THREAD_MGR != 0 || WASM_ENABLE_DEBUG_INTERP != 0 || WASM_ENABLE_SHARED_MEMORY != 0
#error "the checks stand in for the thread manager's"
#endif

/* A branch to be met, and what it would branch to if it were not left at. */
static uint8 leave_code[] = { WASM_OP_BR, 0, WASM_OP_END };

uint8 *
wamr_leave_at(struct wamr_worker *worker, uint8 *ip)
{
    wamr_settle(worker);
    worker->loaded = worker->env.suspend_flags.flags = 0;
    worker->next_ip = ip;
    return leave_code;
}

static bool
is_cached(const WASMExecEnv *exec_env, const uint8 *start)
{
    const BlockAddr *line =
        exec_env->block_addr_cache[(uintptr_t)start & (BLOCK_ADDR_CACHE_SIZE - 1)];

    return line[0].start_addr == start || line[1].start_addr == start;
}

static __attribute__((noinline)) bool
find_end(WASMExecEnv *exec_env, uint8 *start, uint8 label_type, uint8 **else_addr,
         uint8 **end_addr)
{
    struct wamr_worker *worker = worker_of(exec_env);
    bool cached = is_cached(exec_env, start);

    if (!wasm_loader_find_block_addr(exec_env, (BlockAddr *)exec_env->block_addr_cache, start,
                                     (uint8 *)-1, label_type, else_addr, end_addr))
        return false;
    if (!cached) {
        uint32 scanned = (uint32)(*end_addr - start);

        if (worker->nested)
            worker->scanned += scanned;
        else if (scanned >= SCAN_UNIT)
            wamr_charge(worker, 0, scanned / SCAN_UNIT);
    }
    /* More than any allocator scans, and the one way in which it may end otherwise than by its
       work. */
    return worker->scanned <= CALLBACK_SCAN;
}

/* Where the `if` with a block type begins whose immediate, `type`, ends before `ip`. */
static uint8 *
extended_if(uint8 *ip, uint32 type)
{
    uint32 len;

    for (len = 1; len < 5; len++) {
        uint32 offset = 0;

        if (*(ip - len - 1) == EXT_OP_IF) {
            uint64 value = 0;

            do
                value |= (uint64)(ip[(int)offset - (int)len] & 0x7f) << (7 * offset);
            while (ip[(int)offset++ - (int)len] & 0x80 && offset < len);
            if (offset == len && value == type)
                break;
        }
    }
    return ip - len - 1;
}

static void *
next_br_table(WASMExecEnv *exec_env, void *node)
{
    struct wamr_worker *worker = worker_of(exec_env);

    if (++worker->walked % SCAN_UNIT == 0)
        wamr_charge(worker, 0, 1);
    return bh_list_elem_next(node);
}

/* No check lies on the way behind a call, whose length counts where many frames return. */
static inline void
returned(WASMExecEnv *exec_env, WASMInterpFrame *to)
{
    struct wamr_worker *worker = worker_of(exec_env);

    exec_env->cur_frame = to;
    if (__builtin_expect(--worker->returns == 0, 0))
        wamr_charge_returns(worker, to);
}

static bool
call_host(WASMExecEnv *exec_env, void *function, const WASMFuncType *type, const char *signature,
          void *attachment, uint32 *argv, uint32 argc, uint32 *argv_ret)
{
    struct wamr_worker *worker = worker_of(exec_env);
    WASMInterpFrame *caller = exec_env->cur_frame->prev_frame;
    bool sealed = wamr_arena_seal(false);
    bool ok = wasm_runtime_invoke_native_raw(exec_env, function, type, signature, attachment,
                                             argv, argc, argv_ret);

    (void)wamr_arena_seal(sealed);
    /* It charged the rest of the slice, or waits. A host function that the host calls has no
       caller with code. */
    if (ok && caller->ip && (worker->call->waiting || !exec_env->suspend_flags.flags))
        caller->ip = wamr_leave_at(worker, caller->ip);
    return ok;
}

/*
 * True where the file asks "!= 0" and also where it asks "== 0": the checks come in, while the
 * linear memory's size stays in a local, as without threads.
 */
#undef WASM_ENABLE_THREAD_MGR
#define WASM_ENABLE_THREAD_MGR 1 | 0

/*
 * br, br_if, br_table, its cached form, call and call_indirect; the last check is at a function's
 * entry, and counts nothing: who called has counted the call, and counting twice would make calls
 * dearer by a twentieth. All stand directly behind their opcode, but for the last.
 */
#define CHECKS_COUNTED 6

enum { checks_before = __COUNTER__ };

/* CHECK_SUSPEND_FLAGS: `if (GET & TERMINATE) return; while (GET & SUSPEND) wait` */
#undef WASM_SUSPEND_FLAGS_GET
#undef WASM_SUSPEND_FLAGS_LOCK
#undef WASM_SUSPEND_FLAGS_UNLOCK
#undef WASM_SUSPEND_FLAG_TERMINATE
#undef WASM_SUSPEND_FLAG_SUSPEND
#define WASM_SUSPEND_FLAGS_GET(flags) 1
#define WASM_SUSPEND_FLAGS_LOCK(lock) (void)0
#define WASM_SUSPEND_FLAGS_UNLOCK(lock) (void)0
#define WASM_SUSPEND_FLAG_TERMINATE                                                            \
    (__COUNTER__ - checks_before - 1 < CHECKS_COUNTED                                          \
     && __builtin_expect(exec_env->suspend_flags.flags-- == 0, 0)                              \
     && (frame->ip = frame_ip - 1, frame->sp = frame_sp, frame->csp = frame_csp,               \
         wamr_slice_ended(exec_env)))
#define WASM_SUSPEND_FLAG_SUSPEND 0
#define os_mutex_lock(mutex) (void)0
#define os_mutex_unlock(mutex) (void)0
#define os_cond_wait(cond, mutex) (void)0

/* The end of a block is looked for at a branch out of it, and at an `if`, which is no check: there
   the call is left before the instruction. */
#define wasm_loader_find_block_addr(env, cache, start, code_end, label, else_addr, end_addr) \
    FIND_##label(start, else_addr, end_addr)
#define FIND_LABEL_TYPE_BLOCK(start, else_addr, end_addr) \
    find_end(exec_env, start, LABEL_TYPE_BLOCK, else_addr, end_addr)
#define FIND_LABEL_TYPE_IF(start, else_addr, end_addr)                                         \
    ({                                                                                         \
        if (wamr_leaves_before_scan(exec_env)) {                                               \
            frame->ip = frame_ip[-2] == WASM_OP_IF ? frame_ip - 2                              \
                                                   : extended_if(frame_ip, type_index);        \
            frame->sp = frame_sp;                                                              \
            frame->csp = frame_csp;                                                            \
            return;                                                                            \
        }                                                                                      \
        find_end(exec_env, start, LABEL_TYPE_IF, else_addr, end_addr);                         \
    })
#define bh_list_elem_next(node) next_br_table(exec_env, node)

/* memory.fill, told by its pointer from the zeroing of locals; memory.copy; memory.init;
   table.copy. */
#undef bh_memcpy_s
#undef bh_memmove_s
#define memset(to, value, len)                                                                 \
    _Generic((to),                                                                             \
        uint8 *: (void)(frame_ip =                                                             \
                            wamr_bulk_fill(exec_env, frame_ip, (uint8 *)(to), value, len)),    \
        default: (void)(memset)(to, value, len))
#define memmove(to, from, len) MOVE(BULK_MOVE, to, from, len)
#define bh_memcpy_s(to, room, from, len) MOVE(BULK_INIT, to, from, len)
#define bh_memmove_s(to, room, from, len) MOVE(BULK_MOVE_ELEMENTS, to, from, len)
#define MOVE(kind, to, from, len) \
    (frame_ip = wamr_bulk_move(exec_env, frame_ip, kind, to, from, len))

#define wasm_enlarge_memory_with_idx(module, pages, index)           \
    ({                                                               \
        bool grown = wamr_grow_memory(exec_env, pages, index);       \
        frame_ip = ip_after_charge(worker_of(exec_env), frame_ip);   \
        grown;                                                       \
    })
#define wasm_enlarge_table(module, index, count, value)              \
    ({                                                               \
        bool grown = wamr_grow_table(exec_env, index, count, value); \
        frame_ip = ip_after_charge(worker_of(exec_env), frame_ip);   \
        grown;                                                       \
    })

/*
 * table.init and table.fill are loops in the file; their bounds checks are where the count is
 * known. The second check of table.init charges it, and leaves the loop nothing to do where that is
 * too much; the check of table.fill does all of it, and leaves the loop nothing in any case. Its
 * value was popped, and is still the second cell above the operands.
 */
#define offset_len_out_of_bounds(offset, len, size)            \
    ((offset_len_out_of_bounds)(offset, len, size)             \
     || TABLE_CHECK(__COUNTER__ - checks_before - 1, offset, len, &(size)))
#define TABLE_CHECK(check, offset, len, size)                                                  \
    ({                                                                                         \
        const int check_ = check;                                                              \
        if (check_ == table_init_check) {                                                      \
            uint64 units = 1 + (uint64)(len) * sizeof(table_elem_type_t) / ELEMENTS_UNIT;      \
            wamr_charge(worker_of(exec_env), units, units);                                    \
            if (worker_of(exec_env)->over)                                                     \
                n = 0;                                                                         \
            frame_ip = ip_after_charge(worker_of(exec_env), frame_ip);                         \
        }                                                                                      \
        else if (check_ == table_fill_check) {                                                 \
            WASMTableInstance *table =                                                         \
                (WASMTableInstance *)((uint8 *)(size) - offsetof(WASMTableInstance, cur_size)); \
            frame_ip = wamr_bulk_fill_elements(exec_env, frame_ip, table->elems + (offset),    \
                                               frame_sp[1], len);                              \
            n = 0;                                                                             \
        }                                                                                      \
        false;                                                                                 \
    })

#if PAGED

/*
 * In place of a scalar access's bounds check: `at` is what the file has as a 64-bit sum of two 32-bit
 * numbers. A line that has its page has a byte of the memory, and all of the access is in that page.
 * Else a function looks, which knows from the place in the file whether it is a load. A store that
 * crosses pages is done by that function, from the operand, which still lies above the operands that
 * are left; what the file does then goes nowhere. `bytes` is a number there, and a name, of two, at
 * bulk operations, where the file's own check is the right one.
 */
#undef CHECK_SHARED_HEAP_OVERFLOW
#define CHECK_SHARED_HEAP_OVERFLOW(at, bytes, native) ACCESS_##bytes(at, native)
#define ACCESS_1(at, native) ACCESS(at, 1, native)
#define ACCESS_2(at, native) ACCESS(at, 2, native)
#define ACCESS_4(at, native) ACCESS(at, 4, native)
#define ACCESS_8(at, native) ACCESS(at, 8, native)
#define ACCESS_bytes(at, native)
#define ACCESS_len(at, native)
#define ACCESS(at, bytes, native)                                                              \
    if (true) {                                                                                \
        const int access_ = __COUNTER__ - checks_before - 1;                                   \
        struct wamr_worker *const worker_ = worker_of(exec_env);                               \
        const uint32 line_ = page_line((uint32)(at));                                          \
        const uintptr_t past_ = (uintptr_t)(at) - worker_->line_starts[line_];                 \
        if (__builtin_expect(past_ <= SMALL_PAGE - (bytes) && FITS_POINTER(at), 1)) {          \
            native = worker_->line_pages[line_] + past_;                                       \
        }                                                                                      \
        else if (access_ < first_store) {                                                      \
            native = wamr_page_load(exec_env, at, bytes);                                      \
            if (!native)                                                                       \
                goto got_exception;                                                            \
        }                                                                                      \
        else {                                                                                 \
            native = wamr_page_store(exec_env, at, bytes, frame_sp + 1, frame_ip);             \
            if (!native)                                                                       \
                goto got_exception;                                                            \
            frame_ip = worker_->store_ip;                                                      \
        }                                                                                      \
    }                                                                                          \
    else
#if UINTPTR_MAX > UINT32_MAX
#define FITS_POINTER(at) true
#else
#define FITS_POINTER(at) ((at) >> 32 == 0)
#endif

#endif

#define wasm_runtime_invoke_native_raw call_host

/* To a function's frame at its entry, and back to its caller's. */
#define wasm_exec_env_set_cur_frame(env, to) SET_##to(env, to)
#define SET_frame(env, to) (void)((env)->cur_frame = (to))
#define SET_prev_frame(env, to) returned(env, to)

/* The checks of the file in its order: six at branches and calls; of paged memories twelve loads and
   seven stores; five of tables, and the one at a function's entry. If WAMR gets others, all this must
   be thought over. */
enum {
    first_load = CHECKS_COUNTED,
    first_store = first_load + 12 * PAGED,
    tables_first = first_store + 7 * PAGED,
    table_init_check = tables_first + 1,
    table_fill_check = tables_first + 4,
    checks_expected = tables_first + 6,
};

#include "wasm_interp_classic.c"

#undef memset
#undef memmove
#undef wasm_exec_env_set_cur_frame

_Static_assert(__COUNTER__ - checks_before - 1 == checks_expected, "WAMR has other checks");

/*
 * The function that a resumed call seems to come from: `br 0`, whose check ends the synthetic frame's
 * privileges, and `end`.
 */
static WASMFuncType resume_type;
static WASMFunction resume_code = {
    .func_type = &resume_type,
    .max_block_num = 1,
    .code = leave_code,
    .code_size = sizeof(leave_code),
};
static WASMFunctionInstance resume_function = { .u.func = &resume_code };

uint32
wamr_interp_reserve(void)
{
    /* WAMR asks for each frame's size twice. */
    return 2 * wasm_interp_interp_frame_size(sizeof(WASMBranchBlock) / sizeof(uint32));
}

void
wamr_interp_call(struct wamr_worker *worker, WASMFunctionInstance *function)
{
    WASMExecEnv *env = &worker->env;
    WASMModuleInstance *instance = (WASMModuleInstance *)env->module_inst;
    WASMInterpFrame *caller = env->cur_frame;

    if (function->is_import_func)
        wasm_interp_call_func_native(instance, env, function, caller);
    else
        wasm_interp_call_func_bytecode(instance, env, function, caller);
}

void
wamr_interp_resume(struct wamr_worker *worker)
{
    wamr_interp_call(worker, &resume_function);
}
