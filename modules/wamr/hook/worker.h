/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Shared by interp.c, worker.c and bulk.c: a worker, and the meter of the call on its stack.
 */

#ifndef PROPLET_WAMR_WORKER_H
#define PROPLET_WAMR_WORKER_H

#include "pages.h"
#include "shim.h"

#include "bh_platform.h"
#include "wasm_interp.h"
#include "wasm_runtime.h"
#include "wasm_exec_env.h"

/* Bytes that a bulk operation does for a unit of work, and of slice credit. */
#define BULK_UNIT 64
/* The same for elements of tables, whose size is that of a pointer: 16 of them. */
#define ELEMENTS_UNIT (16 * (uint32)sizeof(table_elem_type_t))
/* Bulk operations up to this many bytes run whole, whatever is left of the slice. */
#define BULK_WHOLE (64 * 1024)

/* Code that is scanned for a block's end, bytes for a unit of slice credit. */
#define SCAN_UNIT 32

/* Work that a host function's call back into the guest may do. */
#define CALLBACK_WORK 65536
/* Bytes of code that such a call may scan for the ends of blocks. */
#define CALLBACK_SCAN (16 * 1024 * 1024)

#if PAGED

/*
 * Lines in which a worker finds pages of its guest's memory, before it asks the tables: as many as a task
 * may hold by default in an arena of 256 KiB, and more where memory is no matter. A page can be in one line
 * alone: those next to each other are in different ones, and so are those that are as many apart as there
 * are lines, as arrays often are. It is (page + page / lines) % lines, in as few instructions as may be. A
 * switch clears them.
 */
#if UINTPTR_MAX > UINT32_MAX
#define PAGE_LINES_BITS 8
#else
#define PAGE_LINES_BITS 6
#endif
#define PAGE_LINES (1u << PAGE_LINES_BITS)

static inline uint32
page_line(uint32 at)
{
#if defined(__x86_64__) || defined(__i386__)
    return (at >> SMALL_SHIFT) * ((PAGE_LINES + 1) << (32 - 2 * PAGE_LINES_BITS))
           >> (32 - PAGE_LINES_BITS);
#else
    return ((at >> SMALL_SHIFT) + (at >> SMALL_SHIFT >> PAGE_LINES_BITS)) % PAGE_LINES;
#endif
}

/* Slice credit for taking a page. */
#define TOUCH_COST (1 + SMALL_PAGE / BULK_UNIT)

#endif

/* BULK_EXTEND zeroes what a flat memory is to have behind it, BULK_GROW makes all of it elsewhere.
   BULK_INIT moves what is not of the memory into it. */
enum bulk_kind {
    BULK_NONE,
    BULK_FILL,
    BULK_FILL_ELEMENTS,
    BULK_MOVE,
    BULK_INIT,
    BULK_MOVE_ELEMENTS,
    BULK_EXTEND,
    BULK_GROW,
};

/* A bulk operation whose bounds were checked, and of which `left` bytes are still to be done before
   its guest goes on. */
struct bulk {
    /* Where it is in a paged memory is the guest's address, no pointer. */
    uint8 *to;
    /* All that move, and BULK_GROW. */
    uint8 *from;
    uint32 left;
    /* Bytes for a unit of credit. */
    uint32 unit;
    /* BULK_FILL: the byte; BULK_FILL_ELEMENTS: the element; BULK_GROW: the bytes to be moved, the
       rest being zeroed. */
    uint32 value;
    /* BULK_EXTEND and BULK_GROW: the memory's size, and its pages, once it is done. Till then it is
       as before, so that what was not zeroed is never seen. */
    uint32 size;
    uint32 pages;
    uint32 kind;
};

/* Why a call is on no stack, or what it does on one. */
enum phase {
    /* No call. */
    PHASE_NONE = WAMR_NO_CALL,
    /* Its first frame and arguments are kept; the function has not begun. */
    PHASE_DUE,
    /* In the interpreter. */
    PHASE_RUNNING,
    /* Left, to be gone on with. */
    PHASE_LEFT,
};

/*
 * One for each thread that runs guests. Guests run on its one operand stack, at one address: a call
 * that is left and followed by another is copied away and back, so that its pointers stay good.
 */
struct wamr_worker {
    /* On the stack now, or NULL. */
    wamr_call *call;

    /*
     * The meter. The interpreter counts down env.suspend_flags, a unit of work for each check;
     * `loaded` is what it began at. Slice credit is what else a step costs: a unit takes
     * call->per_unit of it.
     */
    uint32 loaded;
    uint32 credit;
    /* Where the guest goes on, while the interpreter is on its way to `leave_code`. */
    uint8 *next_ip;
    /* The synthetic frame of a resumed call has not returned yet. */
    bool resuming;
    /* The interpreter returned without an end: the call was left. */
    bool left;
    /* More work was charged than the call may do. */
    bool over;
    /* In a call of a host function into the guest, which can't be left. */
    bool nested;
    /* Returns from functions until the ways behind them are charged. */
    uint32 returns;
    /* Nodes of the list of br_tables that were passed; bytes of code scanned by a nested call. */
    uint32 walked;
    uint32 scanned;
    /* Slice credit for what a nested call's growth takes: it depends on where there is room, so its
       end must not. */
    uint32 deferred;

#if PAGED
    /*
     * Pages that are present in the memory of the call on the stack: where each begins, as the guest
     * and as the host sees it. A page stays where it is while its instance lives, so a line is good
     * until another call is entered. What is absent is never in a line.
     */
    uintptr_t line_starts[PAGE_LINES];
    uint8 *line_pages[PAGE_LINES];
    /* Where the guest goes on after a store that asked. */
    uint8 *store_ip;
    /* A value that was loaded from two pages; a store to two ends here, unread. */
    uint64 bounce;
#endif

    /* The blocks' ends in `env` are of modules that were loaded then. */
    uint32 generation;
    uint32 stack_len;

    /* Data of a left call beside its frames: a host function's arguments, or the rest of a bulk
       operation. */
    union {
        uint64 args[WAMR_BLOCKING_ARGS];
        struct bulk bulk;
    } tail;

    /* Last: the operand stack is behind it. */
    WASMExecEnv env;
};

_Static_assert(sizeof(((struct wamr_worker *)0)->tail) <= UINT8_MAX, "the call notes its length");

static inline struct wamr_worker *
worker_of(WASMExecEnv *env)
{
    return (struct wamr_worker *)((uint8 *)env - offsetof(struct wamr_worker, env));
}

/* Incremented whenever a module is unloaded. */
extern uint32 wamr_unloads;

/* Cold: what they are called from stays as fast as without them. */

/* Settles: the counts since the last time go to the call's totals. */
void
wamr_settle(struct wamr_worker *worker);

/* Counts `work` and `cost`, units of work and of slice credit; what is not left of the credit is a
   debt of the next steps. */
void
wamr_charge(struct wamr_worker *worker, uint64 work, uint64 cost) __attribute__((cold));

/* Counts slice credit for growing a memory. */
void
wamr_charge_growth(struct wamr_worker *worker, uint64 cost) __attribute__((cold));

/* At a check that found the count at 0. True to return from the interpreter: the call is left, or
   has trapped. */
bool
wamr_slice_ended(WASMExecEnv *env) __attribute__((cold));

/* Before a scan whose cost is not in the code that was paid for: true to leave here, for want of
   credit. */
bool
wamr_leaves_before_scan(WASMExecEnv *env) __attribute__((cold));

/* After the last of worker->returns, to a frame that goes on: the ways behind them were not charged. */
void
wamr_charge_returns(struct wamr_worker *worker, WASMInterpFrame *to) __attribute__((cold));

/* The slice ends at the next instruction, which is at `ip`. Returns where to go until then. */
uint8 *
wamr_leave_at(struct wamr_worker *worker, uint8 *ip);

/* Where the interpreter goes on after a charge: at `ip`, unless the slice is used up. */
static inline uint8 *
ip_after_charge(struct wamr_worker *worker, uint8 *ip)
{
    return worker->env.suspend_flags.flags ? ip : wamr_leave_at(worker, ip);
}

/* The bulk operations; each charges itself, and returns where the interpreter goes on. */

uint8 *
wamr_bulk_fill(WASMExecEnv *env, uint8 *ip, uint8 *to, uint32 value, uint32 len);

uint8 *
wamr_bulk_move(WASMExecEnv *env, uint8 *ip, enum bulk_kind kind, void *to, void *from,
               uint32 len);

uint8 *
wamr_bulk_fill_elements(WASMExecEnv *env, uint8 *ip, table_elem_type_t *to, uint32 value,
                        uint32 count);

/* memory.grow and table.grow, as WAMR's own; the caller asks ip_after_charge. */

bool
wamr_grow_memory(WASMExecEnv *env, uint32 pages, uint32 index);

bool
wamr_grow_table(WASMExecEnv *env, uint32 index, uint32 count, uint32 value);

#if PAGED

/* A scalar access of a paged memory whose page is in no line. Where its bytes are, be it a copy; NULL
   with the exception set. A store takes what is absent, and notes in store_ip where to go on. */

uint8 *
wamr_page_load(WASMExecEnv *env, uint64 at, uint32 bytes);

uint8 *
wamr_page_store(WASMExecEnv *env, uint64 at, uint32 bytes, const uint32 *value, uint8 *ip);

/* Another call is on the stack. */
void
wamr_forget_pages(struct wamr_worker *worker);

/* Charges slice credit for the pages that the call's memory has beyond `before`. */
void
wamr_charge_touches(struct wamr_worker *worker, uint32 before);

#endif

/* Does as much of what the tail has left as `units` of credit pay, or all of it. */
void
wamr_bulk_go_on(struct wamr_worker *worker, uint32 units, bool all);

/* Gives up what a call that ends in the middle of an operation holds. */
void
wamr_bulk_drop(const struct bulk *bulk);

/* In interp.c. */

/* Calls `function`, whose arguments are where its caller, the frame on top, put them. */
void
wamr_interp_call(struct wamr_worker *worker, WASMFunctionInstance *function);

/* Goes on in the frame on top. */
void
wamr_interp_resume(struct wamr_worker *worker);

/* Bytes of the operand stack beyond a guest's own that going on takes. */
uint32
wamr_interp_reserve(void);

#endif
