/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Linear memories by the page. A memory costs a pointer for each Wasm page, a branch for each Wasm page
 * that was written to, a leaf for each eight small pages of which one was, and the small pages that were:
 * whatever it declares. What is near each other is in few tables, and a guest's stack and data are so.
 *
 * A small page is a block of the arena, of 8 bytes more: taking and freeing one takes the arena's
 * time, which doesn't depend on how many there are. They are carved from the top of the smallest free
 * block, as linear memories are, so that the room below stays in one piece. A page is zeroed when it
 * is taken, and lives until its instance goes. All is booked to the thread's account, which is the
 * running instance's.
 */

#include "pages.h"

#if PAGED

#include "arena.h"

#include "bh_bitmap.h"
#include "wasm_memory.h"

#include <inttypes.h>
#include <stdio.h>

_Static_assert((SMALL_PAGE & (SMALL_PAGE - 1)) == 0 && SMALL_PAGE >= 512 && SMALL_PAGE <= 4096,
               "PROPLET_PAGE_BYTES: not a power of two from 512 to 4096");

static uint32
wasm_pages_of(uint64 bytes)
{
    return (uint32)(bytes >> WASM_PAGE_SHIFT);
}

static uint64
head_bytes(uint32 wasm_pages)
{
    return offsetof(struct wamr_pages, branches)
           + (uint64)wasm_pages * sizeof(struct wamr_branch *);
}

/* Bytes of a small page from `at` on, of `len` at the most. */
static uint32
in_page(uint32 at, uint32 len)
{
    uint32 room = SMALL_PAGE - at % SMALL_PAGE;

    return len < room ? len : room;
}

/* The same before `end`, which is an address past them. */
static uint32
in_page_before(uint64 end, uint32 len)
{
    uint32 room = (uint32)((end - 1) % SMALL_PAGE) + 1;

    return len < room ? len : room;
}

static WASMMemoryInstance *
memory_of(const WASMModuleInstance *instance)
{
    return instance->memories[0];
}

static uint64
declared_bytes(const WASMMemory *memory)
{
    return (uint64)memory->num_bytes_per_page * memory->init_page_count;
}

/* Pages that the places of branches count as. Those of a memory that is committed are of no use without
   pages, which are counted. */
static uint64
held_by_places(const struct wamr_pages *pages, uint64 wasm_pages)
{
    return pages->commit ? 0 : wasm_pages * sizeof(struct wamr_branch *) / SMALL_PAGE;
}

/* Whether it may hold `count` pages, with places for `wasm_pages`. */
static bool
may_hold(const struct wamr_pages *pages, uint64 count, uint64 wasm_pages)
{
    return count + held_by_places(pages, wasm_pages) <= pages->count_max;
}

static void
throw_out_of_pages(WASMModuleInstance *instance, uint32 at, const struct wamr_pages *pages)
{
    uint32 places = (uint32)held_by_places(pages, pages->branches_len);
    wamr_memory_info info;
    char limit[56], text[116];

    wamr_memory(&info);
    if (may_hold(pages, (uint64)pages->count + 1, pages->branches_len))
        snprintf(limit, sizeof(limit), "the arena has %" PRIu32 " bytes left", info.spare);
    else if (places)
        snprintf(limit, sizeof(limit), "the task may hold %" PRIu32 ", %" PRIu32 " for tables",
                 pages->count_max, places);
    else
        snprintf(limit, sizeof(limit), "the task may hold %" PRIu32, pages->count_max);
    snprintf(text, sizeof(text),
             "out of memory: page %" PRIu32 " of linear memory, %" PRIu32 " taken, %s",
             at >> SMALL_SHIFT, pages->count, limit);
    wasm_set_exception(instance, text);
}

/* For tables, which begin with nothing in them. */
static void *
take_zeroed(uint32 size, bool of_spare)
{
    void *block = wamr_arena_linear(size, of_spare);

    if (block)
        memset(block, 0, size);
    return block;
}

/* Where the pointer to the page of a byte is; its branch and its leaf are taken if they are absent. */
static uint8 **
take_place(struct wamr_pages *pages, uint32 at)
{
    struct wamr_branch **branch = &pages->branches[at >> WASM_PAGE_SHIFT];
    bool of_spare = !pages->starting;
    struct wamr_leaf **leaf;

    if (!*branch && !(*branch = take_zeroed(sizeof(**branch), of_spare)))
        return NULL;
    leaf = &(*branch)->leaves[at >> LEAF_SHIFT & (BRANCH_LEAVES - 1)];
    if (!*leaf && !(*leaf = take_zeroed(sizeof(**leaf), of_spare)))
        return NULL;
    return &(*leaf)->pages[at >> SMALL_SHIFT & (LEAF_PAGES - 1)];
}

/* Tables without a page stay for the next try. */
static uint8 *
take(struct wamr_pages *pages, uint32 at)
{
    uint8 **place;

    if (!may_hold(pages, (uint64)pages->count + 1, pages->branches_len))
        return NULL;
    place = take_place(pages, at);
    if (!place || !(*place = take_zeroed(SMALL_PAGE, !pages->starting)))
        return NULL;
    pages->count++;
    wamr_count_pages(1);
    return *place;
}

static bool
await_start(const struct wamr_pages *pages)
{
    return !pages->starting && wamr_arena_await_start();
}

uint8 *
wamr_pages_touch(WASMModuleInstance *instance, uint32 at)
{
    struct wamr_pages *pages = pages_of(memory_of(instance));
    uint8 *page = page_at(pages, at);
    bool sealed;

    if (page)
        return page;
    sealed = wamr_arena_seal(false);
    do
        page = take(pages, at);
    while (!page && await_start(pages));
    (void)wamr_arena_seal(sealed);
    if (!page)
        throw_out_of_pages(instance, at, pages);
    return page;
}

void
wamr_pages_read(const WASMModuleInstance *instance, uint32 at, uint8 *to, uint32 len)
{
    const struct wamr_pages *pages = pages_of(memory_of(instance));

    while (len) {
        uint32 bytes = in_page(at, len);
        const uint8 *page = page_at(pages, at);

        if (page)
            memcpy(to, page + at % SMALL_PAGE, bytes);
        else
            memset(to, 0, bytes);
        at += bytes;
        to += bytes;
        len -= bytes;
    }
}

bool
wamr_pages_write(WASMModuleInstance *instance, uint32 at, const uint8 *from, uint32 len)
{
    while (len) {
        uint32 bytes = in_page(at, len);
        uint8 *page = wamr_pages_touch(instance, at);

        if (!page)
            return false;
        memcpy(page + at % SMALL_PAGE, from, bytes);
        at += bytes;
        from += bytes;
        len -= bytes;
    }
    return true;
}

bool
wamr_pages_fill(WASMModuleInstance *instance, uint32 at, uint8 value, uint32 len)
{
    const struct wamr_pages *pages = pages_of(memory_of(instance));

    while (len) {
        uint32 bytes = in_page(at, len);
        uint8 *page = value ? wamr_pages_touch(instance, at) : page_at(pages, at);

        if (page)
            memset(page + at % SMALL_PAGE, value, bytes);
        else if (value)
            return false;
        at += bytes;
        len -= bytes;
    }
    return true;
}

/* Within a small page at both ends. */
static bool
move_bytes(WASMModuleInstance *instance, uint32 to, uint32 from, uint32 bytes)
{
    const struct wamr_pages *pages = pages_of(memory_of(instance));
    const uint8 *source = page_at(pages, from);
    uint8 *target = source ? wamr_pages_touch(instance, to) : page_at(pages, to);

    if (!target)
        return !source;
    if (source)
        memmove(target + to % SMALL_PAGE, source + from % SMALL_PAGE, bytes);
    else
        memset(target + to % SMALL_PAGE, 0, bytes);
    return true;
}

bool
wamr_pages_move(WASMModuleInstance *instance, uint32 to, uint32 from, uint32 len, bool down)
{
    while (len) {
        uint32 bytes;

        if (down) {
            bytes = in_page_before((uint64)to + len, len);
            bytes = in_page_before((uint64)from + len, bytes);
            len -= bytes;
            if (!move_bytes(instance, to + len, from + len, bytes))
                return false;
            continue;
        }
        bytes = in_page(from, in_page(to, len));
        if (!move_bytes(instance, to, from, bytes))
            return false;
        to += bytes;
        from += bytes;
        len -= bytes;
    }
    return true;
}

static uint32
drop_leaf(struct wamr_leaf *leaf)
{
    uint32 i, count = 0;

    for (i = 0; leaf && i < LEAF_PAGES; i++) {
        count += leaf->pages[i] != NULL;
        wamr_free(leaf->pages[i]);
    }
    wamr_free(leaf);
    return count;
}

/* Gives back all from a Wasm page on. */
static void
drop_from(struct wamr_pages *pages, uint32 wasm_page)
{
    uint32 i, j, count = 0;

    for (i = wasm_page; i < pages->branches_len; i++) {
        struct wamr_branch *branch = pages->branches[i];

        for (j = 0; branch && j < BRANCH_LEAVES; j++)
            count += drop_leaf(branch->leaves[j]);
        wamr_free(branch);
        pages->branches[i] = NULL;
    }
    pages->count -= count;
    wamr_count_pages(-(int32)count);
}

/* Arena bytes of `wasm_pages` that are written to throughout. */
static uint64
committed_bytes(uint64 wasm_pages)
{
    return wasm_pages
           * (wamr_bytes_for(sizeof(struct wamr_branch))
              + (uint64)BRANCH_LEAVES * wamr_bytes_for(sizeof(struct wamr_leaf))
              + (uint64)SMALL_IN_WASM_PAGE * wamr_bytes_for(SMALL_PAGE));
}

static bool
has_spare(uint64 bytes)
{
    wamr_memory_info info;

    wamr_memory(&info);
    return bytes <= info.spare;
}

/* Takes all pages of the places from one on. False where there is no room for all. */
static bool
commit_from(struct wamr_pages *pages, uint32 wasm_page)
{
    uint64 at, end = (uint64)pages->branches_len << WASM_PAGE_SHIFT;

    for (at = (uint64)wasm_page << WASM_PAGE_SHIFT; at < end; at += SMALL_PAGE) {
        while (!take(pages, (uint32)at)) {
            if (!await_start(pages))
                return false;
        }
    }
    return true;
}

/* The same places and more, where they were if what is behind is free. */
static struct wamr_pages *
move_places(WASMMemoryInstance *memory, uint32 size)
{
    struct wamr_pages *pages = pages_of(memory), *moved;

    if (wamr_arena_extend(pages, size))
        return pages;
    moved = wamr_arena_linear(size, true);
    if (!moved)
        return NULL;
    memcpy(moved, pages, head_bytes(pages->branches_len));
    wamr_free(pages);
    return moved;
}

bool
wamr_pages_extend(WASMModuleInstance *instance, uint32 wasm_pages, uint32 *touched)
{
    WASMMemoryInstance *memory = memory_of(instance);
    struct wamr_pages *pages = pages_of(memory);
    uint64 size = head_bytes(wasm_pages), count = pages->count;
    uint32 had = pages->branches_len, held;
    bool committed;

    *touched = 0;
    if (wasm_pages <= had)
        return true;
    if (pages->commit)
        count += (uint64)(wasm_pages - had) * SMALL_IN_WASM_PAGE;
    if (size > UINT32_MAX || !may_hold(pages, count, wasm_pages)) {
        wamr_pages_note_refusal(pages, wasm_pages - had, LIMIT_OF_TASK);
        return false;
    }
    wamr_pages_note_refusal(pages, wasm_pages - had, LIMIT_OF_ARENA);
    /* Seen before anything is moved or taken, but where the arena is in pieces or others take of it. */
    while (pages->commit && !has_spare(committed_bytes(wasm_pages - had)))
        if (!wamr_arena_await_start())
            return false;
    do
        pages = move_places(memory, (uint32)size);
    while (!pages && wamr_arena_await_start());
    if (!pages)
        return false;
    memset(pages->branches + had, 0, (wasm_pages - had) * sizeof(pages->branches[0]));
    pages->branches_len = wasm_pages;
    memory->heap_data = memory->heap_data_end = (uint8 *)pages;
    held = pages->count;
    committed = !pages->commit || commit_from(pages, had);
    *touched = pages->count - held;
    if (!committed) {
        drop_from(pages, had);
        pages->branches_len = had;
        return false;
    }
    pages->refused = 0;
    return true;
}

void
wamr_pages_note_refusal(struct wamr_pages *pages, uint32 wasm_pages, enum pages_limit by)
{
    pages->refused = wasm_pages <= WASM_PAGES_MAX ? wasm_pages : WASM_PAGES_MAX + 1;
    pages->refused_by = by;
}

void
wamr_pages_explain(WASMModuleInstance *instance)
{
    const WASMMemoryInstance *memory = instance->memory_count ? memory_of(instance) : NULL;
    const struct wamr_pages *pages = memory ? pages_of(memory) : NULL;
    const char *more;
    char limit[48], text[116];

    if (!pages || !pages->refused || strcmp(instance->cur_exception, "Exception: unreachable"))
        return;
    if (pages->refused_by == LIMIT_OF_MODULE)
        snprintf(limit, sizeof(limit), "its maximum is %" PRIu32, memory->max_page_count);
    else if (pages->refused_by == LIMIT_OF_TASK)
        snprintf(limit, sizeof(limit), "the task may hold %" PRIu64 " bytes",
                 (uint64)pages->count_max << SMALL_SHIFT);
    else
        snprintf(limit, sizeof(limit), "the arena has no room");
    more = pages->refused > WASM_PAGES_MAX ? "more than " : "";
    snprintf(text, sizeof(text),
             "unreachable, after memory.grow from %" PRIu32 " by %s%" PRIu32 " pages failed: %s",
             memory->cur_page_count, more, pages->refused - (*more != 0), limit);
    wasm_set_exception(instance, text);
}

/* A constant: WAMR takes imported globals alone besides, and modules that import any are refused. */
static uint32
offset_of(const WASMDataSeg *segment)
{
    return (uint32)segment->base_offset.u.unary.v.i32;
}

/* Writes the active ones, in their order. Only reads the module, which others run. */
static bool
write_segments(WASMModuleInstance *instance, const WASMModule *module, char *error,
               uint32 error_len)
{
    uint64 size = memory_of(instance)->memory_data_size;
    uint32 i;

    for (i = 0; i < module->data_seg_count; i++) {
        const WASMDataSeg *segment = module->data_segments[i];
        uint32 at;

        if (segment->is_passive)
            continue;
        at = offset_of(segment);
        if ((uint64)at + segment->data_length > size) {
            snprintf(error, error_len,
                     "out of bounds memory access: data segment %" PRIu32 " ends at %" PRIu64
                     ", the memory at %" PRIu64,
                     i, (uint64)at + segment->data_length, size);
            return false;
        }
        if (!wamr_pages_write(instance, at, segment->data, segment->data_length)) {
            snprintf(error, error_len, "%s", instance->cur_exception);
            return false;
        }
    }
    return true;
}

/* Which segments memory.init has no more. */
static bool
note_dropped(WASMModuleInstance *instance, const WASMModule *module)
{
    bh_bitmap *dropped = NULL;
    uint32 i;

    if (module->data_seg_count && !(dropped = bh_bitmap_new(0, module->data_seg_count)))
        return false;
    for (i = 0; i < module->data_seg_count; i++)
        if (!module->data_segments[i]->is_passive)
            bh_bitmap_set_bit(dropped, i);
    instance->e->common.data_dropped = dropped;
    return true;
}

/* A bound of less than a page is one of one page. */
static uint32
pages_in(uint64 bytes)
{
    uint64 count = bytes >> SMALL_SHIFT;

    return count == 0 ? 1 : count < UINT32_MAX ? (uint32)count : UINT32_MAX;
}

/*
 * The global that compilers keep the guest's own stack pointer in: the first one, mutable, with an address
 * that is a multiple of 16 at first; 0 without one.
 */
static uint32
stack_pointer(const WASMModule *module, uint64 bytes)
{
    const WASMGlobal *global = module->globals;
    uint32 at;

    if (!module->global_count || global->type.val_type != VALUE_TYPE_I32 || !global->type.is_mutable
        || global->init_expr.init_expr_type != INIT_EXPR_TYPE_I32_CONST)
        return 0;
    at = (uint32)global->init_expr.u.unary.v.i32;
    return at % 16 == 0 && at <= bytes ? at : 0;
}

/* The tables, all pages if they are to be committed, what segments write to, and the first page of the guest's
   own stack. */
static bool
make(WASMModuleInstance *instance, struct wamr_pages *pages, char *error, uint32 error_len)
{
    const WASMModule *module = instance->module;
    uint32 wasm_pages = pages->branches_len;
    uint32 stack = stack_pointer(module, memory_of(instance)->memory_data_size);

    if (!may_hold(pages, 0, wasm_pages)) {
        snprintf(error, error_len,
                 "out of memory: the tables of %" PRIu32 " Wasm pages fill %" PRIu32
                 " pages, the task may hold %" PRIu32,
                 wasm_pages, (uint32)held_by_places(pages, wasm_pages), pages->count_max);
        return false;
    }
    if (pages->commit && !commit_from(pages, 0))
        throw_out_of_pages(instance, pages->count << SMALL_SHIFT, pages);
    else if (!write_segments(instance, module, error, error_len))
        return false;
    else if (!stack || wamr_pages_touch(instance, stack - 1))
        return true;
    snprintf(error, error_len, "%s", instance->cur_exception);
    return false;
}

bool
wamr_pages_make(WASMModuleInstance *instance, uint64 bytes_max, bool commit, char *error,
                uint32 error_len)
{
    const WASMModule *module = instance->module;
    const WASMMemory *declared = module->memories;
    WASMMemoryInstance *memory = memory_of(instance);
    uint64 bytes = declared_bytes(declared);
    uint32 wasm_pages = wasm_pages_of(bytes);
    struct wamr_pages *pages;
    bool made;

    if (!note_dropped(instance, module)) {
        snprintf(error, error_len, "failed to allocate bitmaps");
        return false;
    }
    pages = wamr_alloc((uint32)head_bytes(wasm_pages));
    if (!pages) {
        snprintf(error, error_len, "allocate linear memory failed");
        return false;
    }
    memset(pages, 0, head_bytes(wasm_pages));
    pages->branches_len = wasm_pages;
    pages->count_max = pages_in(bytes_max);
    pages->commit = commit;
    pages->starting = true;
    memory->heap_data = memory->heap_data_end = (uint8 *)pages;
    memory->num_bytes_per_page = declared->num_bytes_per_page;
    memory->cur_page_count = declared->init_page_count;
    memory->max_page_count = declared->max_page_count;
    SET_LINEAR_MEMORY_SIZE(memory, bytes);
    made = make(instance, pages, error, error_len);
    pages->starting = false;
    return made;
}

void
wamr_pages_free(WASMModuleInstance *instance)
{
    WASMMemoryInstance *memory = instance->memory_count ? memory_of(instance) : NULL;
    struct wamr_pages *pages = memory ? pages_of(memory) : NULL;

    if (!pages)
        return;
    drop_from(pages, 0);
    wamr_free(pages);
    memory->heap_data = memory->heap_data_end = NULL;
}

/* Pages of one size that are written to from some byte to another, in the order of the calls. */
struct touched {
    uint32 shift;
    uint64 count;
    /* The last one. */
    uint64 last;
};

/* A page counts once where it was the last one before. */
static void
note_written(struct touched *pages, uint64 from, uint64 len)
{
    uint64 first = from >> pages->shift, end;

    if (!len)
        return;
    end = (from + len - 1) >> pages->shift;
    pages->count += end - first + (first != pages->last);
    pages->last = end;
}

/* Of pages, leaves and branches that are written to. */
struct written {
    struct touched branches, leaves, pages;
};

static void
note_segment(struct written *written, uint64 from, uint64 len)
{
    note_written(&written->branches, from, len);
    note_written(&written->leaves, from, len);
    note_written(&written->pages, from, len);
}

/* Of a memory of `all` bytes. */
static uint64
bytes_of(const struct touched *touched, uint64 all, uint32 block)
{
    uint64 most = all >> touched->shift;

    return (touched->count < most ? touched->count : most) * wamr_bytes_for(block);
}

static uint64
bytes_written(const struct written *written, uint64 all)
{
    return bytes_of(&written->branches, all, sizeof(struct wamr_branch))
           + bytes_of(&written->leaves, all, sizeof(struct wamr_leaf))
           + bytes_of(&written->pages, all, SMALL_PAGE);
}

static uint32
at_most_32_bits(uint64 bytes)
{
    return bytes < UINT32_MAX ? (uint32)bytes : UINT32_MAX;
}

void
wamr_pages_need(const WASMModule *module, wamr_memory_need *need)
{
    struct written written = {
        .branches = { .shift = WASM_PAGE_SHIFT, .last = UINT64_MAX },
        .leaves = { .shift = LEAF_SHIFT, .last = UINT64_MAX },
        .pages = { .shift = SMALL_SHIFT, .last = UINT64_MAX },
    };
    uint64 bytes, head;
    uint32 stack, i;

    *need = (wamr_memory_need){ 0 };
    if (!module->memory_count)
        return;
    bytes = declared_bytes(module->memories);
    head = wamr_bytes_for(at_most_32_bits(head_bytes(wasm_pages_of(bytes))));
    for (i = 0; i < module->data_seg_count; i++) {
        const WASMDataSeg *segment = module->data_segments[i];

        if (!segment->is_passive)
            note_segment(&written, offset_of(segment), segment->data_length);
    }
    stack = stack_pointer(module, bytes);
    if (stack)
        note_segment(&written, stack - 1, 1);
    need->made = at_most_32_bits(head + bytes_written(&written, bytes));
    need->committed = at_most_32_bits(head + committed_bytes(wasm_pages_of(bytes)));
}

#endif
