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

/* Of what is not in the guest's memory, or in a flat one. */
static void
native_piece(struct bulk *bulk, uint32 bytes)
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
        case BULK_GROW:
            grow_piece(bulk, bytes);
            break;
        default:
            move_piece(bulk, bytes);
            break;
    }
}

#if PAGED

/* False where the arena has no page left, with the exception set. */
static bool
paged_piece(WASMModuleInstance *instance, struct bulk *bulk, uint32 bytes)
{
    uint32 to = (uint32)(uintptr_t)bulk->to, from = (uint32)(uintptr_t)bulk->from;
    bool down = to > from;

    if (bulk->kind == BULK_MOVE && down) {
        uint32 rest = bulk->left - bytes;

        return wamr_pages_move(instance, to + rest, from + rest, bytes, true);
    }
    bulk->to += bytes;
    if (bulk->kind == BULK_FILL)
        return wamr_pages_fill(instance, to, (uint8)bulk->value, bytes);
    if (bulk->kind == BULK_MOVE) {
        bulk->from += bytes;
        return wamr_pages_move(instance, to, from, bytes, false);
    }
    bulk->from += bytes;
    return wamr_pages_write(instance, to, bulk->from - bytes, bytes);
}

static bool
is_paged(const struct bulk *bulk)
{
    return bulk->kind == BULK_FILL || bulk->kind == BULK_MOVE || bulk->kind == BULK_INIT;
}

#endif

/* False where the call has trapped. */
static bool
piece(struct wamr_worker *worker, struct bulk *bulk, uint32 bytes)
{
    bool done = true;

#if PAGED
    if (is_paged(bulk)) {
        WASMModuleInstance *instance = (WASMModuleInstance *)worker->env.module_inst;
        uint32 before = pages_of(instance->memories[0])->count;

        done = paged_piece(instance, bulk, bytes);
        wamr_charge_touches(worker, before);
    }
    else
#endif
        native_piece(bulk, bytes);
    bulk->left -= bytes;
    return done;
}

#if !PAGED

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

/* A memory takes its new size only once all of the growth is there. */
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

#else

static void
finish(struct wamr_worker *worker, const struct bulk *bulk)
{
    (void)worker;
    (void)bulk;
}

#endif

/* Ends the slice: the interpreter's next check returns. */
static void
stop(struct wamr_worker *worker)
{
    wamr_settle(worker);
    worker->loaded = worker->env.suspend_flags.flags = 0;
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
        if (piece(worker, &whole, whole.left))
            finish(worker, &whole);
        else
            stop(worker);
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
wamr_bulk_move(WASMExecEnv *env, uint8 *ip, enum bulk_kind kind, void *to, void *from, uint32 len)
{
    struct wamr_worker *worker = worker_of(env);
    uint32 unit = kind == BULK_MOVE_ELEMENTS ? ELEMENTS_UNIT : BULK_UNIT;

    charge_and_perform(worker, &(struct bulk){ .kind = kind, .to = to, .from = from,
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
    /* Elements that are not filled yet, or never, are null. */
    if (!worker->over)
        table->cur_size += count;
    return true;
}

/* Work that a page takes, whatever the memory is made of. */
#define PAGE_WORK 16

#if PAGED

/* Takes room for the tables' places, and all pages of a memory that is committed. What that moves and zeroes is
   slice credit, and done at once. */
static bool
grow(struct wamr_worker *worker, WASMMemoryInstance *memory, uint32 pages, uint64 size)
{
    WASMModuleInstance *instance = (WASMModuleInstance *)worker->env.module_inst;
    uint32 more = pages - memory->cur_page_count;
    const struct wamr_pages *held = pages_of(memory);
    uint32 touched;
    bool extended = wamr_pages_extend(instance, pages, &touched);

    if (touched)
        wamr_charge_growth(worker, (uint64)touched * TOUCH_COST);
    if (!extended)
        return false;
    wamr_charge_growth(worker, (uint64)(pages_of(memory) == held ? more : pages)
                                   * sizeof(void *) / BULK_UNIT);
    if (charge(worker, (uint64)more * PAGE_WORK, (uint64)more * PAGE_WORK, 0) == PAY_NEVER)
        return true;
    memory->cur_page_count = pages;
    SET_LINEAR_MEMORY_SIZE(memory, size);
    return true;
}

#else

/* The same for a memory's growth: what that costs depends on where there is room. */
static enum pay
charge_growth(struct wamr_worker *worker, uint64 work, uint64 bytes)
{
    enum pay pay = charge(worker, work, 0, 0);
    bool waits = bytes / BULK_UNIT > worker->credit && bytes > BULK_WHOLE && !worker->nested;

    wamr_charge_growth(worker, bytes / BULK_UNIT);
    return pay == PAY_NOW && waits ? PAY_LATER : pay;
}

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
grow(struct wamr_worker *worker, WASMMemoryInstance *memory, uint32 pages, uint64 bytes)
{
    uint32 old = (uint32)memory->memory_data_size, size = (uint32)bytes;
    uint8 *to;

    if (memory->memory_data && wamr_arena_extend(memory->memory_data, size)) {
        extend(worker, memory, pages, size, 0);
        return true;
    }
    to = wamr_arena_linear(size, true);
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

#endif

/* The largest memory: a flat one's size has 32 bits. */
#define MEMORY_MAX (PAGED ? (uint64)1 << 32 : UINT32_MAX)

bool
wamr_grow_memory(WASMExecEnv *env, uint32 pages, uint32 index)
{
    struct wamr_worker *worker = worker_of(env);
    WASMMemoryInstance *memory = ((WASMModuleInstance *)env->module_inst)->memories[index];
    uint64 total = (uint64)memory->cur_page_count + pages;
    uint64 size = total * memory->num_bytes_per_page;
    bool sealed, grown;

    wamr_charge(worker, 1, 1);
    if (total > memory->max_page_count || size > MEMORY_MAX) {
#if PAGED
        wamr_pages_note_refusal(pages_of(memory), pages, LIMIT_OF_MODULE);
#endif
        return false;
    }
    if (!pages)
        return true;
    sealed = wamr_arena_seal(false);
    grown = grow(worker, memory, (uint32)total, size);
    (void)wamr_arena_seal(sealed);
    return grown;
}

void
wamr_bulk_go_on(struct wamr_worker *worker, uint32 units, bool all)
{
    struct bulk *bulk = &worker->tail.bulk;
    uint64 bytes = (uint64)units * bulk->unit;
    bool done = piece(worker, bulk, all || bytes > bulk->left ? bulk->left : (uint32)bytes);

    if (done && bulk->left && !all)
        return;
    worker->call->tail = 0;
    if (done)
        finish(worker, bulk);
}

void
wamr_bulk_drop(const struct bulk *bulk)
{
    if (bulk->kind == BULK_GROW)
        wamr_arena_free(Alloc_For_LinearMemory, bulk->to);
}

#if PAGED

static const uint64 zeroes;

void
wamr_forget_pages(struct wamr_worker *worker)
{
    uint32 line;

    /* The start of a page that can't be in this line: no access is behind it by less than a page. */
    for (line = 0; line < PAGE_LINES; line++)
        worker->line_starts[line] = (uintptr_t)(line ^ 1) << SMALL_SHIFT;
}

static void
note_page(struct wamr_worker *worker, uint32 at, uint8 *page)
{
    uint32 line = page_line(at);

    worker->line_starts[line] = at & ~(SMALL_PAGE - 1);
    worker->line_pages[line] = page;
}

static uint8 *
out_of_bounds(WASMModuleInstance *instance)
{
    wasm_set_exception(instance, "out of bounds memory access");
    return NULL;
}

uint8 *
wamr_page_load(WASMExecEnv *env, uint64 at, uint32 bytes)
{
    struct wamr_worker *worker = worker_of(env);
    WASMModuleInstance *instance = (WASMModuleInstance *)env->module_inst;
    const WASMMemoryInstance *memory = instance->memories[0];
    uint32 in_page = (uint32)at & (SMALL_PAGE - 1);
    uint8 *page;

    if (at + bytes > memory->memory_data_size)
        return out_of_bounds(instance);
    if (in_page + bytes > SMALL_PAGE) {
        wamr_pages_read(instance, (uint32)at, (uint8 *)&worker->bounce, bytes);
        return (uint8 *)&worker->bounce;
    }
    page = page_at(pages_of(memory), (uint32)at);
    if (!page)
        return (uint8 *)&zeroes;
    note_page(worker, (uint32)at, page);
    return page + in_page;
}

void
wamr_charge_touches(struct wamr_worker *worker, uint32 before)
{
    const WASMModuleInstance *instance = (WASMModuleInstance *)worker->env.module_inst;
    uint32 touched = pages_of(instance->memories[0])->count - before;

    if (touched)
        wamr_charge_growth(worker, (uint64)touched * TOUCH_COST);
}

/* Takes the absent pages of a store: at most two. Returns the first. */
static uint8 *
touch(struct wamr_worker *worker, uint32 at, uint32 bytes)
{
    WASMModuleInstance *instance = (WASMModuleInstance *)worker->env.module_inst;
    uint32 before = pages_of(instance->memories[0])->count;
    uint8 *page = wamr_pages_touch(instance, at);

    if (page && !wamr_pages_touch(instance, at + bytes - 1))
        page = NULL;
    if (pages_of(instance->memories[0])->count == before)
        return page;
    wamr_charge_touches(worker, before);
    if (!worker->nested)
        worker->store_ip = ip_after_charge(worker, worker->store_ip);
    return page;
}

uint8 *
wamr_page_store(WASMExecEnv *env, uint64 at, uint32 bytes, const uint32 *value, uint8 *ip)
{
    struct wamr_worker *worker = worker_of(env);
    WASMModuleInstance *instance = (WASMModuleInstance *)env->module_inst;
    uint32 in_page = (uint32)at & (SMALL_PAGE - 1);
    uint8 *page;

    worker->store_ip = ip;
    if (at + bytes > instance->memories[0]->memory_data_size)
        return out_of_bounds(instance);
    page = touch(worker, (uint32)at, bytes);
    if (!page)
        return NULL;
    if (in_page + bytes > SMALL_PAGE) {
        /* The operand's bytes are in the memory's order: WAMR's classic interpreter, as this, is for
           processors of that one. */
        (void)wamr_pages_write(instance, (uint32)at, (const uint8 *)value, bytes);
        return (uint8 *)&worker->bounce;
    }
    note_page(worker, (uint32)at, page);
    return page + in_page;
}

#endif
