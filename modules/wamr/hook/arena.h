/*
 * SPDX-License-Identifier: Apache-2.0
 */

#ifndef PROPLET_WAMR_ARENA_H
#define PROPLET_WAMR_ARENA_H

#include "shim.h"

/* False where the arena is too small to hold anything. */
bool
wamr_arena_init(void *start, uint32_t len);

/* Arena bytes for a block of `len` bytes; 0 for none. */
uint32_t
wamr_bytes_for(uint32_t len);

/* WAMR's allocator, as WASM_MEM_ALLOC_WITH_USAGE shapes it. Linear memories are zeroed. */
void *
wamr_arena_malloc(mem_alloc_usage_t usage, unsigned int len);

void *
wamr_arena_realloc(mem_alloc_usage_t usage, bool full_size_mmaped, void *payload,
                   unsigned int len);

void
wamr_arena_free(mem_alloc_usage_t usage, void *payload);

/* A block for a linear memory, of any content. A guest that runs takes it of what is spare: neither of the
   reserve nor of what is promised. */
void *
wamr_arena_linear(uint32_t len, bool of_spare);

/* Makes a running guest's block `len` bytes long where it is, of what is spare; what is new has any content.
   False where what is behind it is in use or too small. */
bool
wamr_arena_extend(void *payload, uint32_t len);

/* Waits for the end of a start that has a promise; false if no start has one. Then more may be spare than
   before. Not for the thread that makes the start. */
bool
wamr_arena_await_start(void);

/* Counts pages of linear memory that were taken, or given back. */
void
wamr_count_pages(int32_t more);

/* Takes a block off the thread's account, as if it had never been on it. */
void
wamr_unbook(const void *payload);

/*
 * For tests: a thread that has sealed the arena and then allocates or reallocates, be it in vain,
 * aborts the process with a line on stderr. To free and to ask is allowed. Returns the thread's state
 * before; a thread begins unsealed. Only builds with PROPLET_ARENA_SEALS have it.
 */
#ifdef PROPLET_ARENA_SEALS
bool
wamr_arena_seal(bool sealed);
#else
static inline bool
wamr_arena_seal(bool sealed)
{
    (void)sealed;
    return false;
}
#endif

#endif
