/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Bulk operations: charged by their size after their bounds check. What the slice can pay, and what
 * is small, is done at once. Of the rest the call is left in the middle, and each step does as much
 * as it pays, before the interpreter goes on.
 *
 * A call that can't be left does all at once: its work is bounded.
 */

#include "worker.h"
#include "arena.h"

#include "wasm_memory.h"

/* How an operation is paid. */
enum pay {
    /* At once. */
    PAY_NOW,
    /* In steps; each does as much as it pays. */
    PAY_LATER,
    /* Not at all: its call may not do so much. Nothing is done, however long the steps are. */
    PAY_NEVER,
};

static enum pay
charge(struct wamr_worker *worker, uint64 work, uint64 cost, uint64 bytes)
{
    bool waits;

    wamr_settle(worker);
    waits = cost > worker->credit && bytes > BULK_WHOLE && !worker->nested;
    wamr_charge(worker, work, cost);
    if (worker->over)
        return PAY_NEVER;
    return waits ? PAY_LATER : PAY_NOW;
}

/* The same for a memory's growth: what that costs depends on where there is room. */
static enum pay
charge_growth(struct wamr_worker *worker, uint64 work, uint64 bytes)
{
    enum pay pay = charge(worker, work, 0, 0);
    bool waits = bytes / BULK_UNIT > worker->credit && bytes > BULK_WHOLE && !worker->nested;

    wamr_charge_growth(worker, bytes / BULK_UNIT);
    return pay == PAY_NOW && waits ? PAY_LATER : pay;
}

static void
fill_elements(table_elem_type_t *to, uint32 value, uint32 count)
{
    uint32 i;

    for (i = 0; i < count; i++)
        to[i] = value;
}

/* The next `bytes` of it. */
static void
grow_piece(struct bulk *bulk, uint32 bytes)
{
    uint32 done = bulk->size - bulk->left;
    uint32 copied = done < bulk->value ? bulk->value - done : 0;

    if (copied > bytes)
        copied = bytes;
    if (copied)
        memcpy(bulk->to + done, bulk->from + done, copied);
    memset(bulk->to + done + copied, 0, bytes - copied);
}

/* From that end on which nothing is written that is still to be read. */
static void
move_piece(struct bulk *bulk, uint32 bytes)
{
    if (bulk->to > bulk->from) {
        memmove(bulk->to + bulk->left - bytes, bulk->from + bulk->left - bytes, bytes);
        return;
    }
    memmove(bulk->to, bulk->from, bytes);
    bulk->to += bytes;
    bulk->from += bytes;
}

static void
piece(struct bulk *bulk, uint32 bytes)
{
    switch (bulk->kind) {
        case BULK_FILL:
        case BULK_EXTEND:
            memset(bulk->to, (uint8)bulk->value, bytes);
            bulk->to += bytes;
            break;
        case BULK_FILL_ELEMENTS:
            fill_elements((table_elem_type_t *)bulk->to, bulk->value,
                          bytes / (uint32)sizeof(table_elem_type_t));
            bulk->to += bytes;
            break;
        case BULK_MOVE:
            move_piece(bulk, bytes);
            break;
        default:
            grow_piece(bulk, bytes);
            break;
    }
    bulk->left -= bytes;
}

static void
set_memory(WASMMemoryInstance *memory, uint8 *data, uint32 pages, uint32 size)
{
    memory->heap_data = data + (memory->heap_data - memory->memory_data);
    memory->heap_data_end = memory->heap_data;
    memory->memory_data = data;
    memory->memory_data_end = data + size;
    memory->cur_page_count = pages;
    SET_LINEAR_MEMORY_SIZE(memory, size);
}

/* What a memory becomes, it becomes when all of it is there. */
static void
finish(struct wamr_worker *worker, const struct bulk *bulk)
{
    WASMModuleInstance *instance = (WASMModuleInstance *)worker->env.module_inst;
    WASMMemoryInstance *memory;

    if (bulk->kind != BULK_GROW && bulk->kind != BULK_EXTEND)
        return;
    memory = instance->memories[0];
    set_memory(memory, bulk->kind == BULK_GROW ? bulk->to : memory->memory_data, bulk->pages,
               bulk->size);
    if (bulk->kind == BULK_GROW)
        wamr_arena_free(Alloc_For_LinearMemory, bulk->from);
}

/* Not by way of the tail where it is done at once: a host function that waits may have called what
   does it, and has its arguments there. */
static void
perform(struct wamr_worker *worker, const struct bulk *bulk, enum pay pay)
{
    struct bulk whole = *bulk;

    if (pay == PAY_LATER) {
        worker->tail.bulk = *bulk;
        worker->call->tail = sizeof(*bulk);
    }
    else if (pay == PAY_NOW && bulk->left) {
        piece(&whole, whole.left);
        finish(worker, &whole);
    }
}

static void
charge_and_perform(struct wamr_worker *worker, const struct bulk *bulk)
{
    uint64 units = 1 + bulk->left / bulk->unit;

    perform(worker, bulk, charge(worker, units, units, bulk->left));
}

uint8 *
wamr_bulk_fill(WASMExecEnv *env, uint8 *ip, uint8 *to, uint32 value, uint32 len)
{
    struct wamr_worker *worker = worker_of(env);

    charge_and_perform(worker, &(struct bulk){ .kind = BULK_FILL, .to = to, .left = len,
                                               .value = value, .unit = BULK_UNIT });
    return ip_after_charge(worker, ip);
}

uint8 *
wamr_bulk_move(WASMExecEnv *env, uint8 *ip, void *to, void *from, uint32 len, uint32 unit)
{
    struct wamr_worker *worker = worker_of(env);

    charge_and_perform(worker, &(struct bulk){ .kind = BULK_MOVE, .to = to, .from = from,
                                               .left = len, .unit = unit });
    return ip_after_charge(worker, ip);
}

static void
charge_and_fill_elements(struct wamr_worker *worker, table_elem_type_t *to, uint32 value,
                         uint32 count)
{
    charge_and_perform(worker, &(struct bulk){ .kind = BULK_FILL_ELEMENTS, .to = (uint8 *)to,
                                               .left = count * (uint32)sizeof(*to),
                                               .value = value, .unit = ELEMENTS_UNIT });
}

uint8 *
wamr_bulk_fill_elements(WASMExecEnv *env, uint8 *ip, table_elem_type_t *to, uint32 value,
                        uint32 count)
{
    struct wamr_worker *worker = worker_of(env);

    charge_and_fill_elements(worker, to, value, count);
    return ip_after_charge(worker, ip);
}

bool
wamr_grow_table(WASMExecEnv *env, uint32 index, uint32 count, uint32 value)
{
    struct wamr_worker *worker = worker_of(env);
    WASMTableInstance *table =
        wasm_get_table_inst((WASMModuleInstance *)env->module_inst, index);
    table_elem_type_t *end = table->elems + table->cur_size;

    if (count > table->max_size - table->cur_size) {
        wamr_charge(worker, 1, 1);
        return false;
    }
    charge_and_fill_elements(worker, end, value, count);
    /* What is not filled yet, or never, is null. */
    if (!worker->over)
        table->cur_size += count;
    return true;
}

/* Work that a page takes, whatever the memory is made of. */
#define PAGE_WORK 16

/* Zeroes what is to be behind a memory, where there is room for it, and makes it the memory's. `moved`
   bytes were moved for that. */
static void
extend(struct wamr_worker *worker, WASMMemoryInstance *memory, uint32 pages, uint32 size,
       uint32 moved)
{
    uint32 old = (uint32)memory->memory_data_size, more = size - old;
    uint64 work = (uint64)(pages - memory->cur_page_count) * PAGE_WORK;
    enum pay pay = charge_growth(worker, work, more + (uint64)moved);

    perform(worker,
            &(struct bulk){ .kind = BULK_EXTEND, .to = memory->memory_data + old, .left = more,
                            .size = size, .pages = pages, .unit = BULK_UNIT },
            pay);
}

/* To another place, with both held meanwhile. */
static void
move(struct wamr_worker *worker, WASMMemoryInstance *memory, uint8 *to, uint32 pages,
     uint32 size)
{
    uint64 work = (uint64)(pages - memory->cur_page_count) * PAGE_WORK;
    enum pay pay = charge_growth(worker, work, size);

    perform(worker,
            &(struct bulk){ .kind = BULK_GROW, .to = to, .from = memory->memory_data,
                            .left = size, .value = (uint32)memory->memory_data_size,
                            .size = size, .pages = pages, .unit = BULK_UNIT },
            pay);
    if (pay == PAY_NEVER)
        wamr_arena_free(Alloc_For_LinearMemory, to);
}

static bool
grow(struct wamr_worker *worker, WASMMemoryInstance *memory, uint32 pages, uint32 size)
{
    uint32 old = (uint32)memory->memory_data_size;
    uint8 *to;

    if (memory->memory_data && wamr_arena_extend(memory->memory_data, size)) {
        extend(worker, memory, pages, size, 0);
        return true;
    }
    to = wamr_arena_linear(size);
    if (to) {
        move(worker, memory, to, pages, size);
        return true;
    }
    /* Into the room before it and its own; a move that can't be cut. */
    to = memory->memory_data
             ? wamr_arena_realloc(Alloc_For_LinearMemory, false, memory->memory_data, size)
             : NULL;
    if (!to)
        return false;
    set_memory(memory, to, memory->cur_page_count, old);
    extend(worker, memory, pages, size, old);
    return true;
}

bool
wamr_grow_memory(WASMExecEnv *env, uint32 pages, uint32 index)
{
    struct wamr_worker *worker = worker_of(env);
    WASMMemoryInstance *memory = ((WASMModuleInstance *)env->module_inst)->memories[index];
    uint64 total = (uint64)memory->cur_page_count + pages;
    uint64 size = total * memory->num_bytes_per_page;
    bool sealed, grown;

    wamr_charge(worker, 1, 1);
    if (total > memory->max_page_count || size > UINT32_MAX)
        return false;
    if (!pages)
        return true;
    sealed = wamr_arena_seal(false);
    grown = grow(worker, memory, (uint32)total, (uint32)size);
    (void)wamr_arena_seal(sealed);
    return grown;
}

void
wamr_bulk_go_on(struct wamr_worker *worker, uint32 units, bool all)
{
    struct bulk *bulk = &worker->tail.bulk;
    uint64 bytes = (uint64)units * bulk->unit;

    piece(bulk, all || bytes > bulk->left ? bulk->left : (uint32)bytes);
    if (bulk->left && !all)
        return;
    worker->call->tail = 0;
    finish(worker, bulk);
}

void
wamr_bulk_drop(const struct bulk *bulk)
{
    if (bulk->kind == BULK_GROW)
        wamr_arena_free(Alloc_For_LinearMemory, bulk->to);
}
