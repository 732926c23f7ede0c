/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Calls that can be left and resumed, on one operand stack for each thread, and their meter.
 *
 * A left call keeps the content of its stack, and its tail. All in it that is an address of
 * the stack is in the frames, which `rebase` walks; the rest are numbers, cells and addresses of the
 * module's code and the instance's memory.
 */

#include "worker.h"
#include "arena.h"

#include "bh_log.h"
#include "wasm_runtime_common.h"

uint32 wamr_unloads;

/* The frame that a call begins with, which takes its results. */
static uint32
first_frame_size(uint32 results)
{
    return wasm_interp_interp_frame_size(results > 2 ? results : 2);
}

uint32_t
wamr_first_frame_bytes(uint32_t result_cells)
{
    return first_frame_size(result_cells);
}

static uint32
worker_size(uint32 stack_len)
{
    return (uint32)(offsetof(struct wamr_worker, env) + offsetof(WASMExecEnv, wasm_stack_u.bottom))
           + stack_len + wamr_interp_reserve();
}

uint32_t
wamr_worker_bytes(uint32_t stack_len)
{
    return wamr_bytes_for(worker_size(stack_len));
}

struct wamr_worker *
wamr_worker_new(uint32_t stack_len)
{
    uint32 size = worker_size(stack_len);
    struct wamr_worker *worker = size > stack_len ? wamr_alloc(size) : NULL;

    if (!worker)
        return NULL;
    memset(worker, 0, size);
    worker->stack_len = stack_len;
    worker->generation = __atomic_load_n(&wamr_unloads, __ATOMIC_RELAXED);
    worker->env.wasm_stack.bottom = worker->env.wasm_stack_u.bottom;
    worker->env.wasm_stack_size = stack_len;
    wasm_exec_env_set_thread_info(&worker->env);
    return worker;
}

void
wamr_worker_delete(struct wamr_worker *worker)
{
    wamr_free(worker);
}

struct WASMExecEnv *
wamr_worker_env(struct wamr_worker *worker)
{
    return &worker->env;
}

/* The meter. */

static void
add_debt(wamr_call *call, uint64 units)
{
    uint64 debt = call->debt + units;

    call->debt = debt < UINT32_MAX ? (uint32)debt : UINT32_MAX;
}

static void
take_credit(struct wamr_worker *worker, uint64 cost)
{
    if (cost > worker->credit) {
        add_debt(worker->call, cost - worker->credit);
        worker->credit = 0;
    }
    else {
        worker->credit -= (uint32)cost;
    }
}

void
wamr_settle(struct wamr_worker *worker)
{
    uint32 spent = worker->loaded - worker->env.suspend_flags.flags;
    uint64 cost = (uint64)spent * worker->call->per_unit;

    worker->loaded = worker->env.suspend_flags.flags;
    worker->call->work += spent;
    worker->call->work_left -= spent;
    take_credit(worker, cost);
}

/* As many units as the credit pays, one at least where there is any, whose rest is a debt then, and no
   more than the call may do. */
static void
load_slice(struct wamr_worker *worker)
{
    uint32 units = worker->credit / worker->call->per_unit;

    if (!units && worker->credit)
        units = 1;
    if (units > worker->call->work_left)
        units = (uint32)worker->call->work_left;
    worker->loaded = worker->env.suspend_flags.flags = units;
}

void
wamr_charge(struct wamr_worker *worker, uint64 work, uint64 cost)
{
    wamr_call *call = worker->call;

    wamr_settle(worker);
    worker->over |= work > call->work_left;
    /* Work beyond it is not done: the call traps with all of its work. */
    if (work > call->work_left)
        work = call->work_left;
    call->work += work;
    call->work_left -= work;
    take_credit(worker, cost);
    load_slice(worker);
}

void
wamr_charge_growth(struct wamr_worker *worker, uint64 cost)
{
    if (worker->nested)
        worker->deferred += cost < UINT32_MAX - worker->deferred ? (uint32)cost
                                                                 : UINT32_MAX - worker->deferred;
    else
        wamr_charge(worker, 0, cost);
}

static void
throw(struct wamr_worker *worker, const char *text)
{
    wasm_set_exception((WASMModuleInstance *)worker->env.module_inst, text);
}

static bool
trapped(const struct wamr_worker *worker)
{
    return ((WASMModuleInstance *)worker->env.module_inst)->cur_exception[0] != '\0';
}

bool
wamr_slice_ended(WASMExecEnv *env)
{
    struct wamr_worker *worker = worker_of(env);
    bool charged = worker->next_ip != NULL;

    /* The check has counted on from 0. */
    env->suspend_flags.flags = 0;
    if (worker->resuming) {
        worker->resuming = false;
        env->wasm_stack.top_boundary -= wamr_interp_reserve();
        load_slice(worker);
        return false;
    }
    wamr_settle(worker);
    if (charged) {
        env->cur_frame->ip = worker->next_ip;
        worker->next_ip = NULL;
    }
    if (trapped(worker))
        return true;
    if (worker->over || (!charged && !worker->call->work_left))
        throw(worker, WAMR_OUT_OF_WORK_TEXT);
    else if (worker->nested)
        throw(worker, "the guest's function that the host called did too much work");
    else
        worker->left = true;
    return true;
}

bool
wamr_leaves_before_scan(WASMExecEnv *env)
{
    struct wamr_worker *worker = worker_of(env);

    wamr_settle(worker);
    if (worker->credit || worker->nested)
        return false;
    worker->left = true;
    return true;
}

/* Returns that are charged at once: 1,024 units of credit, or the ways behind two of them. */
static uint32
returns_at_once(const wamr_call *call)
{
    return 1024 / call->per_unit + 1;
}

void
wamr_charge_returns(struct wamr_worker *worker, WASMInterpFrame *to)
{
    worker->returns = returns_at_once(worker->call);
    wamr_charge(worker, 0, (uint64)worker->returns * worker->call->per_unit);
    /* To no code, or by way of a branch already. */
    if (to && to->ip && !worker->next_ip)
        to->ip = ip_after_charge(worker, to->ip);
}

void
wamr_host_charge(struct WASMExecEnv *env, uint32_t units)
{
    wamr_charge(worker_of(env), units, units);
}

uint32_t
wamr_guest_malloc(struct WASMExecEnv *env, uint32_t len)
{
    struct wamr_worker *worker = worker_of(env);
    bool sealed, outermost = !worker->nested;
    uint32 credit, returns = worker->returns, granted = CALLBACK_WORK;
    uint32 offset;

    wamr_settle(worker);
    credit = worker->credit;
    if (outermost) {
        worker->scanned = worker->walked = worker->deferred = 0;
        worker->returns = returns_at_once(worker->call);
        worker->nested = true;
        worker->credit = granted * (uint64)worker->call->per_unit < UINT32_MAX
                             ? granted * worker->call->per_unit
                             : UINT32_MAX;
        granted = worker->credit;
    }
    load_slice(worker);
    sealed = wamr_arena_seal(true);
    offset = (uint32)wasm_runtime_module_malloc_internal(env->module_inst, env, len, NULL);
    (void)wamr_arena_seal(sealed);
    if (!outermost)
        return offset;
    wamr_settle(worker);
    granted -= worker->credit;
    worker->credit = credit;
    worker->nested = false;
    worker->scanned = 0;
    worker->returns = returns;
    wamr_charge(worker, 0, (uint64)granted + worker->deferred);
    return offset;
}

/* Waiting. */

bool
wamr_block(struct WASMExecEnv *env, const void *function, const uint64_t *args, uint32_t count)
{
    struct wamr_worker *worker = worker_of(env);

    if (worker->nested || count > WAMR_BLOCKING_ARGS)
        return false;
    memcpy(worker->tail.args, args, count * sizeof(uint64));
    worker->call->tail = (uint8_t)(count * sizeof(uint64));
    worker->call->waiting = function;
    return true;
}

uint32_t
wamr_blocked_args(const struct wamr_worker *worker, uint64_t *args)
{
    memcpy(args, worker->tail.args, worker->call->tail);
    return worker->call->tail / (uint32)sizeof(uint64);
}

bool
wamr_wait(struct wamr_worker *worker, const uint64_t *args, uint32_t count)
{
    if (worker->over)
        return false;
    memcpy(worker->tail.args, args, count * sizeof(uint64));
    wamr_settle(worker);
    worker->env.user_data = NULL;
    return true;
}

void
wamr_unblock(struct wamr_worker *worker, uint64_t result, uint32_t cells)
{
    WASMInterpFrame *caller = worker->env.cur_frame;

    memcpy(caller->sp - cells, &result, cells * sizeof(uint32));
    worker->call->waiting = NULL;
    worker->call->tail = 0;
}

/* The kept part of a call. */

static WASMInterpFrame *
moved(WASMInterpFrame *frame, uintptr_t by)
{
    return frame ? (WASMInterpFrame *)((uintptr_t)frame + by) : NULL;
}

#define MOVE(pointer) ((pointer) = (void *)((uintptr_t)(pointer) + by))

/* Moves what is an address of the stack in the frames from `frame` on down by the same distance as
   their bytes were. A frame without a function has nothing but `sp`. */
static void
rebase(WASMInterpFrame *frame, uintptr_t by)
{
    for (; frame; frame = frame->prev_frame) {
        WASMBranchBlock *block;

        frame->prev_frame = moved(frame->prev_frame, by);
        MOVE(frame->sp);
        if (!frame->function)
            continue;
        MOVE(frame->sp_bottom);
        MOVE(frame->sp_boundary);
        MOVE(frame->csp_bottom);
        MOVE(frame->csp_boundary);
        MOVE(frame->csp);
        for (block = frame->csp_bottom; block < frame->csp; block++)
            MOVE(block->frame_sp);
    }
}

/* At least `size` bytes to keep a call in; what it had kept is lost. False without room. */
static bool
keep_room(wamr_call *call, uint32 size)
{
    if (call->kept && wamr_block_bytes(call->kept) >= wamr_bytes_for(size))
        return true;
    wamr_free(call->kept);
    call->kept = wamr_alloc(size);
    return call->kept != NULL;
}

bool
wamr_begin(wamr_call *call, uint32_t index, uint32_t argc, const uint32_t *argv,
           uint32_t reserve)
{
    WASMModuleInstance *instance = call->instance;
    uint32 results = instance->e->functions[index].ret_cell_num;
    uint32 first = first_frame_size(results);
    uint32 size = first + (uint32)offsetof(WASMInterpFrame, lp) + argc * (uint32)sizeof(uint32);
    WASMInterpFrame *frame;

    instance->cur_exception[0] = '\0';
    call->phase = PHASE_NONE;
    call->entered = false;
    if (!keep_room(call, size > reserve ? size : reserve))
        return false;
    frame = (WASMInterpFrame *)call->kept;
    memset(frame, 0, first);
    frame->sp = frame->lp;
    memcpy(((WASMInterpFrame *)(call->kept + first))->lp, argv, argc * sizeof(uint32));
    call->base = (uintptr_t)call->kept;
    call->top = first;
    call->beyond = size - first;
    call->frame = 0;
    call->function = index;
    call->phase = PHASE_DUE;
    return true;
}

void
wamr_results(const wamr_call *call, uint32_t *cells, uint32_t count)
{
    memcpy(cells, ((WASMInterpFrame *)call->kept)->lp, count * sizeof(uint32));
}

static void
forget_unloaded(struct wamr_worker *worker)
{
    uint32 now = __atomic_load_n(&wamr_unloads, __ATOMIC_RELAXED);

    if (worker->generation == now)
        return;
    worker->generation = now;
    memset(worker->env.block_addr_cache, 0, sizeof(worker->env.block_addr_cache));
}

static uint32
stack_end(const struct wamr_worker *worker, const wamr_call *call)
{
    return call->stack_max < worker->stack_len ? call->stack_max : worker->stack_len;
}

/*
 * Whether each frame has as much room behind it as it is large. WAMR has asked for that when it made
 * the frame, on the stack where the call was then, and puts the arguments of further calls there
 * without asking again.
 */
static bool
frames_fit(const wamr_call *call, uint32 len)
{
    uint32 at = call->frame;

    for (;;) {
        const WASMInterpFrame *frame = (const WASMInterpFrame *)(call->kept + at);

        if (frame->function) {
            uint32 end = (uint32)((uintptr_t)frame->csp_boundary - call->base);

            if (end + (end - at) > len)
                return false;
        }
        if (!frame->prev_frame)
            return true;
        at = (uint32)((uintptr_t)frame->prev_frame - call->base);
    }
}

bool
wamr_enter(struct wamr_worker *worker, wamr_call *call)
{
    WASMExecEnv *env = &worker->env;
    WASMModuleInstance *instance = call->instance;
    uint8 *bottom = env->wasm_stack.bottom;
    uint32 len = call->top + call->beyond;

    if (len > worker->stack_len || !frames_fit(call, stack_end(worker, call)))
        return false;
    forget_unloaded(worker);
#if PAGED
    wamr_forget_pages(worker);
#endif
    worker->call = call;
    worker->over = false;
    env->module_inst = (WASMModuleInstanceCommon *)instance;
    env->aux_stack_bottom = (uintptr_t)instance->module->aux_stack_bottom;
    env->aux_stack_boundary = env->aux_stack_bottom - instance->module->aux_stack_size;
    env->wasm_stack.top_boundary = bottom + stack_end(worker, call);
    env->wasm_stack.top = bottom + call->top;
    env->cur_frame = (WASMInterpFrame *)(bottom + call->frame);
    memcpy(bottom, call->kept, len);
    memcpy(&worker->tail, call->kept + len, call->tail);
    if (call->base != (uintptr_t)bottom)
        rebase(env->cur_frame, (uintptr_t)bottom - call->base);
    call->base = (uintptr_t)bottom;
    instance->cur_exec_env = env;
    call->entered = true;
    return true;
}

bool
wamr_leave(struct wamr_worker *worker)
{
    wamr_call *call = worker->call;
    bool kept = true;

    call->entered = false;
    if (call->phase >= PHASE_DUE) {
        uint32 len = call->top + call->beyond;

        kept = keep_room(call, len + call->tail);
        if (kept) {
            memcpy(call->kept, worker->env.wasm_stack.bottom, len);
            memcpy(call->kept + len, &worker->tail, call->tail);
        }
        else {
            wamr_give_up(worker);
        }
    }
    call->instance->cur_exec_env = NULL;
    worker->call = NULL;
    worker->env.module_inst = NULL;
    return kept;
}

void
wamr_give_up(struct wamr_worker *worker)
{
    wamr_call *call = worker->call;

    if (call->tail && !call->waiting)
        wamr_bulk_drop(&worker->tail.bulk);
    call->phase = PHASE_NONE;
    call->tail = 0;
    call->waiting = NULL;
}

void
wamr_drop(wamr_call *call)
{
    /* A tail forgotten on a stack is lost with it. */
    if (call->tail && !call->waiting && !call->entered) {
        struct bulk bulk;

        memcpy(&bulk, call->kept + call->top + call->beyond, sizeof(bulk));
        wamr_bulk_drop(&bulk);
    }
    wamr_free(call->kept);
    call->kept = NULL;
    call->tail = 0;
    call->entered = false;
    call->waiting = NULL;
    call->phase = PHASE_NONE;
}

/* A step. */

bool
wamr_fuel(struct wamr_worker *worker, uint32_t fuel, void *run)
{
    wamr_call *call = worker->call;
    uint32 paid = fuel < call->debt ? fuel : call->debt;

    call->debt -= paid;
    worker->credit = fuel - paid;
    worker->env.user_data = run;
    worker->loaded = worker->env.suspend_flags.flags = 0;
    if (call->tail && !call->waiting)
        wamr_bulk_go_on(worker, paid, !call->debt);
    return worker->credit > 0;
}

/* Ends a call that has done more work than it may and passes no further check: a host function that waited,
   or that the host called directly. */
static void
end_if_over(struct wamr_worker *worker)
{
    if (worker->over && !trapped(worker))
        throw(worker, WAMR_OUT_OF_WORK_TEXT);
}

static void
begin(struct wamr_worker *worker)
{
    WASMExecEnv *env = &worker->env;
    wamr_call *call = worker->call;
    const WASMFunctionInstance *function = call->instance->e->functions + call->function;
    uint8 *arguments_end = env->wasm_stack.top + call->beyond;

    if (arguments_end > env->wasm_stack.top_boundary) {
        throw(worker, "wasm operand stack overflow");
        return;
    }
    call->beyond = 0;
    load_slice(worker);
    wamr_interp_call(worker, (WASMFunctionInstance *)function);
}

static void
go_on(struct wamr_worker *worker)
{
    worker->resuming = true;
    worker->env.wasm_stack.top_boundary += wamr_interp_reserve();
    wamr_interp_resume(worker);
}

static uint32
note_left(struct wamr_worker *worker)
{
    const WASMExecEnv *env = &worker->env;
    wamr_call *call = worker->call;

    call->phase = PHASE_LEFT;
    call->top = (uint32)(env->wasm_stack.top - env->wasm_stack.bottom);
    call->frame = (uint32)((uint8 *)env->cur_frame - env->wasm_stack.bottom);
    return call->waiting ? WAMR_BLOCKED : WAMR_OUT_OF_FUEL;
}

static uint32
note_end(struct wamr_worker *worker)
{
    WASMExecEnv *env = &worker->env;
    wamr_call *call = worker->call;
    uint32 results = call->instance->e->functions[call->function].ret_cell_num;

    call->phase = PHASE_NONE;
    env->wasm_stack.top = env->wasm_stack.bottom;
    env->cur_frame = NULL;
    if (trapped(worker)) {
#if PAGED
        wamr_pages_explain(call->instance);
#endif
        wamr_give_up(worker);
        return WAMR_TRAPPED;
    }
    memcpy(call->kept, env->wasm_stack.bottom, first_frame_size(results));
    return WAMR_FINISHED;
}

uint32_t
wamr_run(struct wamr_worker *worker)
{
    wamr_call *call = worker->call;
    bool due = call->phase == PHASE_DUE, sealed;

    worker->left = worker->resuming = false;
    worker->next_ip = NULL;
    /* The first one of a call that goes on is from no function of its own. */
    worker->returns = returns_at_once(call) + !due;
    worker->loaded = worker->env.suspend_flags.flags = 0;
    end_if_over(worker);
    if (!trapped(worker) && wasm_runtime_detect_native_stack_overflow(&worker->env)) {
        call->phase = PHASE_RUNNING;
        sealed = wamr_arena_seal(true);
        if (due)
            begin(worker);
        else
            go_on(worker);
        (void)wamr_arena_seal(sealed);
        wamr_settle(worker);
    }
    worker->env.user_data = NULL;
    end_if_over(worker);
    /* A host function that the host called directly waits without a check. */
    if (!trapped(worker) && (worker->left || call->waiting))
        return note_left(worker);
    return note_end(worker);
}
