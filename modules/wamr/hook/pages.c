/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Linear memories by the page. A memory costs a pointer for each Wasm page, a table for each Wasm page
 * that was written to, and the small pages that were: whatever it declares.
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

#include <stdio.h>

_Static_assert((SMALL_PAGE & (SMALL_PAGE - 1)) == 0 && SMALL_PAGE >= 512 && SMALL_PAGE <= 4096,
               "PROPLET_PAGE_BYTES: not a power of two from 512 to 4096");

static uint32
tables_for(uint64 bytes)
{
    return (uint32)((bytes + WASM_PAGE - 1) >> WASM_PAGE_SHIFT);
}

static uint64
head_bytes(uint32 wasm_pages)
{
    return offsetof(struct wamr_pages, tables) + (uint64)wasm_pages * sizeof(uint8 **);
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

/* Bytes of a memory as it is declared: WAMR rounds them up, so that small pages are whole. */
static uint64
declared_bytes(const WASMMemory *memory)
{
    uint64 bytes = (uint64)memory->num_bytes_per_page * memory->init_page_count;

    return (bytes + 4095) & ~(uint64)4095;
}

static bool
throw_out_of_pages(WASMModuleInstance *instance, uint32 at, uint32 held)
{
    wamr_memory_info info;
    char text[100];

    wamr_memory(&info);
    snprintf(text, sizeof(text),
             "out of memory: page %lu of linear memory, %lu taken, %lu bytes free",
             (unsigned long)(at >> SMALL_SHIFT), (unsigned long)held, (unsigned long)info.free);
    wasm_set_exception(instance, text);
    return false;
}

static uint8 **
take_table(void)
{
    uint32 size = SMALL_IN_WASM_PAGE * (uint32)sizeof(uint8 *);
    uint8 **table = wamr_arena_malloc(Alloc_For_Runtime, size);

    if (table)
        memset(table, 0, size);
    return table;
}

static uint8 *
take(struct wamr_pages *pages, uint32 at)
{
    uint8 ***table = &pages->tables[at >> WASM_PAGE_SHIFT];
    uint8 *page;

    if (!*table && !(*table = take_table()))
        return NULL;
    page = wamr_arena_linear(SMALL_PAGE);
    if (!page)
        return NULL;
    memset(page, 0, SMALL_PAGE);
    (*table)[at >> SMALL_SHIFT & (SMALL_IN_WASM_PAGE - 1)] = page;
    pages->count++;
    return page;
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
    page = take(pages, at);
    (void)wamr_arena_seal(sealed);
    if (!page)
        throw_out_of_pages(instance, at, pages->count);
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

bool
wamr_pages_extend(WASMMemoryInstance *memory, uint32 wasm_pages)
{
    struct wamr_pages *pages = pages_of(memory);
    uint64 size = head_bytes(wasm_pages);
    uint32 had = pages->tables_len;

    if (wasm_pages <= had)
        return true;
    pages = size <= UINT32_MAX ? wamr_realloc(pages, (uint32)size) : NULL;
    if (!pages)
        return false;
    memset(pages->tables + had, 0, (wasm_pages - had) * sizeof(pages->tables[0]));
    pages->tables_len = wasm_pages;
    memory->heap_data = memory->heap_data_end = (uint8 *)pages;
    return true;
}

static uint32
offset_of(const WASMModuleInstance *instance, const WASMDataSeg *segment)
{
    const InitializerExpression *at = &segment->base_offset;

    return at->init_expr_type == INIT_EXPR_TYPE_GET_GLOBAL
               ? (uint32)instance->e->globals[at->u.unary.v.global_index].initial_value.i32
               : (uint32)at->u.unary.v.i32;
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
        at = offset_of(instance, segment);
        if ((uint64)at + segment->data_length > size) {
            snprintf(error, error_len, "out of bounds memory access");
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

bool
wamr_pages_make(WASMModuleInstance *instance, const WASMMemory *declared, char *error,
                uint32 error_len)
{
    const WASMModule *module = instance->module;
    WASMMemoryInstance *memory = memory_of(instance);
    uint64 bytes = declared_bytes(declared);
    uint32 wasm_pages = tables_for(bytes);
    struct wamr_pages *pages;

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
    pages->tables_len = wasm_pages;
    memory->heap_data = memory->heap_data_end = (uint8 *)pages;
    memory->num_bytes_per_page = declared->num_bytes_per_page;
    memory->cur_page_count = declared->init_page_count;
    memory->max_page_count = declared->max_page_count;
    SET_LINEAR_MEMORY_SIZE(memory, bytes);
    return write_segments(instance, module, error, error_len);
}

void
wamr_pages_free(WASMModuleInstance *instance)
{
    WASMMemoryInstance *memory = instance->memory_count ? memory_of(instance) : NULL;
    struct wamr_pages *pages = memory ? pages_of(memory) : NULL;
    uint32 i, j;

    if (!pages)
        return;
    for (i = 0; i < pages->tables_len; i++) {
        uint8 **table = pages->tables[i];

        for (j = 0; table && j < SMALL_IN_WASM_PAGE; j++)
            wamr_arena_free(Alloc_For_LinearMemory, table[j]);
        wamr_free(table);
    }
    wamr_free(pages);
    memory->heap_data = memory->heap_data_end = NULL;
}

/* Pages of one size that the active segments write to, each counted once where it was the last one of
   the segment before; no more than all. */
static uint32
pages_of_segments(const WASMModule *module, uint64 bytes, uint32 shift)
{
    uint64 all = (bytes + (1u << shift) - 1) >> shift, count = 0, last = UINT64_MAX;
    uint32 i;

    for (i = 0; i < module->data_seg_count; i++) {
        const WASMDataSeg *segment = module->data_segments[i];
        uint64 from = (uint32)segment->base_offset.u.unary.v.i32, to;

        if (segment->is_passive || !segment->data_length)
            continue;
        to = (from + segment->data_length - 1) >> shift;
        from >>= shift;
        count += to - from + (from != last);
        last = to;
    }
    return (uint32)(count < all ? count : all);
}

uint32_t
wamr_pages_need(const WASMModule *module)
{
    uint64 bytes, need;

    if (!module->memory_count || !module->memories[0].num_bytes_per_page)
        return 0;
    bytes = declared_bytes(&module->memories[0]);
    need = wamr_bytes_for((uint32)head_bytes(tables_for(bytes)))
           + (uint64)pages_of_segments(module, bytes, WASM_PAGE_SHIFT)
                 * wamr_bytes_for(SMALL_IN_WASM_PAGE * (uint32)sizeof(uint8 *))
           + (uint64)pages_of_segments(module, bytes, SMALL_SHIFT) * wamr_bytes_for(SMALL_PAGE);
    return need < UINT32_MAX ? (uint32)need : UINT32_MAX;
}

#endif
