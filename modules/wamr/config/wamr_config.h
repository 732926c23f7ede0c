/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The settings of WAMR, force-included into every file that sources.list names, by the host
 * build and by the Zephyr build alike. What a build may tune is in an #ifndef.
 */

#ifndef PROPLET_WAMR_CONFIG_H
#define PROPLET_WAMR_CONFIG_H

/* Without it, the host's libc declares neither pthread_getattr_np nor strtok_r. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

/* The classic interpreter alone: it runs the module's own bytes and compiles nothing. */
#define WASM_ENABLE_INTERP 1
#define WASM_ENABLE_FAST_INTERP 0
#define WASM_ENABLE_AOT 0
#define WASM_ENABLE_JIT 0
#define WASM_ENABLE_FAST_JIT 0
#define WASM_ENABLE_MINI_LOADER 0
#define WASM_ENABLE_QUICK_AOT_ENTRY 0

/*
 * Features that clang and rustc emit for wasm32 by default. Mutable globals, sign extension, multi-value
 * and saturating conversions have no switch: WAMR always takes them. LLVM 20 writes table indexes
 * as five-byte LEBs, hence OVERLONG. memory.copy and memory.fill fail to load without _OPT.
 */
#define WASM_ENABLE_BULK_MEMORY 1
#define WASM_ENABLE_BULK_MEMORY_OPT 1
#define WASM_ENABLE_REF_TYPES 1
#define WASM_ENABLE_CALL_INDIRECT_OVERLONG 1

/*
 * Off, each for a reason. EXTENDED_CONST_EXPR: mutated modules crash its loader. THREAD_MGR: it
 * costs a cluster and a lock for each instance, and the slice hook does its work without it.
 * SHARED_MEMORY: one thread owns an instance. TAIL_CALL, SIMD, exceptions, GC: no default
 * toolchain emits them.
 */
#define WASM_ENABLE_EXTENDED_CONST_EXPR 0
#define WASM_ENABLE_SHARED_MEMORY 0
#define WASM_ENABLE_TAIL_CALL 0
#define WASM_ENABLE_SIMD 0
#define WASM_ENABLE_GC 0
#define WASM_ENABLE_MEMORY64 0
#define WASM_ENABLE_MULTI_MEMORY 0
#define WASM_ENABLE_MULTI_MODULE 0
#ifndef WASM_ENABLE_THREAD_MGR
#define WASM_ENABLE_THREAD_MGR 0
#endif

/* Host functions are the crate's alone: no WASI, no libc, no application heap. */
#define WASM_ENABLE_LIBC_WASI 0
#define WASM_ENABLE_LIBC_BUILTIN 0
#define WASM_ENABLE_MODULE_INST_CONTEXT 0

/* Bounds are checked by comparison, not by page faults and signal handlers. */
#define WASM_DISABLE_HW_BOUND_CHECK 1
#define WASM_DISABLE_STACK_HW_BOUND_CHECK 1
#define WASM_DISABLE_WAKEUP_BLOCKING_OP 1
#define WASM_DISABLE_WRITE_GS_BASE 1

/* Linear memories come from the arena, by our allocator, in the size that modules declare. */
#define WASM_MEM_ALLOC_WITH_USAGE 1
#define WASM_MEM_ALLOC_WITH_USER_DATA 0
#define WASM_ENABLE_SHRUNK_MEMORY 0

/* WAMR's own helpers allocate from the arena too. */
#define BH_MALLOC wasm_runtime_malloc
#define BH_FREE wasm_runtime_free

/* WAMR's log goes nowhere: what matters comes back as an error or a trap. */
#define BH_LOG wamr_discard_log

/* zephyr/minimal_math.c says why. */
#ifdef CONFIG_MINIMAL_LIBC
#define sqrt wamr_sqrt
#define sqrtf wamr_sqrtf
#endif

/*
 * The cache of where blocks end, one for all guests of a worker: a line has three addresses of each of
 * two blocks, so 24 bytes on a 32-bit machine and 48 on a 64-bit one. wamr-sys/benches/capacity.rs has
 * measured what more lines are worth. A power of two.
 */
#ifndef BLOCK_ADDR_CACHE_SIZE
#define BLOCK_ADDR_CACHE_SIZE 64
#endif
#if BLOCK_ADDR_CACHE_SIZE & (BLOCK_ADDR_CACHE_SIZE - 1)
#error "BLOCK_ADDR_CACHE_SIZE: not a power of two"
#endif

/*
 * Linear memories are made of pages of this many bytes, taken when they are first written to: a power of
 * two from 512 to 4096. 0: a linear memory is one block, as large as it is declared.
 */
#ifndef PROPLET_PAGE_BYTES
#define PROPLET_PAGE_BYTES 1024
#endif

/*
 * Bytes of native stack kept free below the interpreter for host functions and for raising the
 * trap. A host build's Rust is not always optimised.
 */
#ifndef WASM_STACK_GUARD_SIZE
#if defined(__unix__) || defined(__APPLE__)
#define WASM_STACK_GUARD_SIZE (16 * 1024)
#else
#define WASM_STACK_GUARD_SIZE 1024
#endif
#endif

#endif
