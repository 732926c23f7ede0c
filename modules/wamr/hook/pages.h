/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Linear memories by the page: small pages of the arena, taken when they are first written to.
 */

#ifndef PROPLET_WAMR_PAGES_H
#define PROPLET_WAMR_PAGES_H

#include "shim.h"

#include "bh_platform.h"
#include "wasm_runtime.h"

#if PROPLET_PAGE_BYTES != 0
#define PAGED 1
#else
#define PAGED 0
#endif

#if PAGED

#define SMALL_PAGE ((uint32)PROPLET_PAGE_BYTES)
#define SMALL_SHIFT ((uint32)__builtin_ctz(PROPLET_PAGE_BYTES))

/* A page of Wasm, the small pages in it, and the leaves in which those are. */
#define WASM_PAGE_SHIFT 16
#define WASM_PAGE (1u << WASM_PAGE_SHIFT)
#define SMALL_IN_WASM_PAGE (WASM_PAGE / SMALL_PAGE)
#define LEAF_PAGES 8u
#define LEAF_SHIFT (SMALL_SHIFT + 3)
#define BRANCH_LEAVES (SMALL_IN_WASM_PAGE / LEAF_PAGES)

#define WASM_PAGES_MAX (1u << 16)

/* NULL where nothing was written to. */
struct wamr_leaf {
    uint8 *pages[LEAF_PAGES];
};

struct wamr_branch {
    struct wamr_leaf *leaves[BRANCH_LEAVES];
};

enum pages_limit {
    LIMIT_OF_MODULE,
    LIMIT_OF_TASK,
    LIMIT_OF_ARENA,
};

/*
 * A memory's pages, a block of the arena; the memory's `heap_data` is its address. `memory_data` is
 * NULL: what WAMR computes as the native address of a guest's byte is the byte's own address.
 */
struct wamr_pages {
    /* Small pages held, and how many may be; the branches' places count as pages, as many as they would
       fill. */
    uint32 count;
    uint32 count_max;
    /* All Wasm pages of the memory. */
    uint32 branches_len;
    /* Wasm pages by which the last memory.grow was to grow it, if that failed, or WASM_PAGES_MAX + 1 for more
       than there can be; 0 if it did not fail. */
    uint32 refused : 28;
    /* By what: an enum pages_limit. */
    uint32 refused_by : 2;
    /* All pages are taken with the memory, and with its growth. */
    uint32 commit : 1;
    /* The instance is being made: what it takes was admitted. */
    uint32 starting : 1;
    /* For each Wasm page; NULL where nothing was written to. */
    struct wamr_branch *branches[];
};

static inline struct wamr_pages *
pages_of(const WASMMemoryInstance *memory)
{
    return (struct wamr_pages *)memory->heap_data;
}

static inline uint8 *
page_at(const struct wamr_pages *pages, uint32 at)
{
    const struct wamr_branch *branch = pages->branches[at >> WASM_PAGE_SHIFT];
    const struct wamr_leaf *leaf =
        branch ? branch->leaves[at >> LEAF_SHIFT & (BRANCH_LEAVES - 1)] : NULL;

    return leaf ? leaf->pages[at >> SMALL_SHIFT & (LEAF_PAGES - 1)] : NULL;
}

/* wamr_memory_needs, for the kind of memory that there is. */
void
wamr_pages_need(const WASMModule *module, wamr_memory_need *need);

/* Gives a new instance, which has a memory of no bytes, the one that its module declares, and writes the
   active data segments. It may hold pages of so many bytes. False with a text: the instance is to be given
   back. */
bool
wamr_pages_make(WASMModuleInstance *instance, uint64 bytes_max, bool commit, char *error,
                uint32 error_len);

void
wamr_pages_free(WASMModuleInstance *instance);

/* Makes room for this many Wasm pages; false where the arena has none, or no more may be held. `touched` gets the
   pages that were taken for it, be they given back. */
bool
wamr_pages_extend(WASMModuleInstance *instance, uint32 wasm_pages, uint32 *touched);

/* Notes that memory.grow failed. */
void
wamr_pages_note_refusal(struct wamr_pages *pages, uint32 wasm_pages, enum pages_limit by);

/* Adds to the exception of a guest that ended itself what may be the cause: memory.grow has failed. */
void
wamr_pages_explain(WASMModuleInstance *instance);

/* Where the small page of a byte is; it is taken if it is absent. NULL where there is no room, with the
   exception set. */
uint8 *
wamr_pages_touch(WASMModuleInstance *instance, uint32 at);

/* The ranges below lie within the memory: callers have checked. Functions that take pages return false where
   the arena has none left, with the exception set. */

void
wamr_pages_read(const WASMModuleInstance *instance, uint32 at, uint8 *to, uint32 len);

bool
wamr_pages_write(WASMModuleInstance *instance, uint32 at, const uint8 *from, uint32 len);

/* Takes nothing for zeroes. */
bool
wamr_pages_fill(WASMModuleInstance *instance, uint32 at, uint8 value, uint32 len);

/* As memmove; from the end on if `down`. Takes nothing for what was never written. */
bool
wamr_pages_move(WASMModuleInstance *instance, uint32 to, uint32 from, uint32 len, bool down);

#endif

#endif
