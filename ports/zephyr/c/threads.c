/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The workers: one thread a slot, below every other thread of the firmware.
 */

#include "proplet.h"

#include <stdlib.h>

#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

BUILD_ASSERT(CONFIG_PROPLET_ARENA_SIZE >= CONFIG_PROPLET_SLOTS * CONFIG_PROPLET_SLOT_ARENA_BYTES,
	     "CONFIG_PROPLET_ARENA_SIZE is too small for CONFIG_PROPLET_SLOTS instances");
BUILD_ASSERT(CONFIG_PROPLET_WORKER_PRIORITY > CONFIG_MAIN_THREAD_PRIORITY + 1,
	     "workers must have a lower priority (a higher number) than the control thread");
BUILD_ASSERT(CONFIG_PROPLET_WORKER_PRIORITY < CONFIG_NUM_PREEMPT_PRIORITIES,
	     "CONFIG_PROPLET_WORKER_PRIORITY is beyond CONFIG_NUM_PREEMPT_PRIORITIES");

/* A worker that is to stop runs before those that are not. */
#define HURRIED_PRIORITY (CONFIG_PROPLET_WORKER_PRIORITY - 1)

/* In .noinit: neither cleared at boot nor part of the arena. */
K_THREAD_STACK_ARRAY_DEFINE(proplet_worker_stacks, CONFIG_PROPLET_SLOTS,
			    CONFIG_PROPLET_WORKER_STACK_SIZE);
static struct k_thread workers[CONFIG_PROPLET_SLOTS];
static struct k_sem doors[CONFIG_PROPLET_SLOTS];

static void worker(void *run, void *slot, void *unused)
{
	ARG_UNUSED(unused);
	((proplet_worker_fn)run)(POINTER_TO_UINT(slot));
}

#ifdef CONFIG_ARCH_POSIX
/* Code takes no simulated time: a slice takes this. */
static uint32_t slice_us;

static void measure_slice(uint32_t slice)
{
	slice_us = MAX(1, (uint64_t)CONFIG_PROPLET_NATIVE_SLICE_US * slice / CONFIG_PROPLET_SLICE);
}
#else
static void measure_slice(uint32_t slice)
{
	ARG_UNUSED(slice);
}
#endif

void proplet_workers_start(proplet_worker_fn run, uint32_t slice)
{
	measure_slice(slice);
	for (uint32_t slot = 0; slot < CONFIG_PROPLET_SLOTS; slot++) {
		char name[CONFIG_THREAD_MAX_NAME_LEN];
		k_tid_t thread;

		k_sem_init(&doors[slot], 0, 1);
		thread = k_thread_create(&workers[slot], proplet_worker_stacks[slot],
					 K_THREAD_STACK_SIZEOF(proplet_worker_stacks[slot]), worker,
					 (void *)run, UINT_TO_POINTER(slot), NULL,
					 CONFIG_PROPLET_WORKER_PRIORITY, 0, K_NO_WAIT);
		snprintk(name, sizeof(name), "worker-%u", slot);
		(void)k_thread_name_set(thread, name);
	}
}

void proplet_worker_wait(uint32_t slot)
{
	(void)k_sem_take(&doors[slot], K_FOREVER);
}

/*
 * The priority comes down only here, when the slot gets new work: until its exit has been read, a
 * worker that was stopped goes before the others.
 */
void proplet_worker_wake(uint32_t slot)
{
	k_thread_priority_set(&workers[slot], CONFIG_PROPLET_WORKER_PRIORITY);
	k_sem_give(&doors[slot]);
}

void proplet_worker_hurry(uint32_t slot)
{
	k_thread_priority_set(&workers[slot], HURRIED_PRIORITY);
}

void proplet_worker_yield(void)
{
#ifdef CONFIG_ARCH_POSIX
	k_busy_wait(slice_us);
#endif
#ifdef CONFIG_PROPLET_PREEMPTION_FUEL
	k_yield();
#endif
}

uint64_t proplet_thread_time(void)
{
	k_thread_runtime_stats_t stats;

	if (k_thread_runtime_stats_get(k_current_get(), &stats) != 0) {
		return 0;
	}
	return k_cyc_to_ns_floor64(stats.execution_cycles);
}

void *proplet_arena(uint32_t *len)
{
	/* The allocator's own records take less than the step. */
	const uint32_t step = 64;

	for (uint32_t size = CONFIG_PROPLET_ARENA_SIZE; size > step; size -= step) {
		void *arena = malloc(size);

		if (arena != NULL) {
			*len = size;
			return arena;
		}
	}
	*len = 0;
	return NULL;
}
