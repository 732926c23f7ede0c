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

void proplet_workers_start(proplet_worker_fn run)
{
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

void proplet_worker_sleep(uint32_t slot, uint32_t us)
{
	(void)k_sem_take(&doors[slot], K_USEC(us));
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
	k_yield();
}

#ifdef CONFIG_TIMESLICE_PER_THREAD
/* Of each worker; 0 where the clock does not preempt it. */
static uint8_t weights[CONFIG_PROPLET_SLOTS];
/* Its processor time when its turn began, in nanoseconds. */
static uint64_t turns[CONFIG_PROPLET_SLOTS];
static uint32_t slice_ms = CONFIG_PROPLET_SLICE_MS;

static uint64_t turn_ns(uint32_t slot)
{
	return (uint64_t)slice_ms * weights[slot] * NSEC_PER_MSEC / 10;
}

/*
 * The kernel begins a thread's slice anew whenever it resumes the thread: where others wake up more
 * often than that, it never ends. So a worker yields by its own processor time, and the kernel's
 * slice, twice as long, is for what does not come to look.
 */
static void set_slice(uint32_t slot)
{
	const uint64_t ticks = k_ns_to_ticks_ceil64(2 * turn_ns(slot));

	k_thread_time_slice_set(&workers[slot],
				weights[slot] > 0 ? CLAMP(ticks, 1, INT32_MAX) : 0, NULL, NULL);
}

void proplet_worker_weigh(uint32_t slot, uint32_t weight)
{
	weights[slot] = weight;
	turns[slot] = proplet_thread_time(slot);
	set_slice(slot);
}

void proplet_worker_look(uint32_t slot)
{
	uint64_t now;

	if (weights[slot] == 0) {
		return;
	}
	now = proplet_thread_time(slot);
	if (now - turns[slot] >= turn_ns(slot)) {
		turns[slot] = now;
		k_yield();
	}
}

void proplet_workers_set_slice_ms(uint32_t ms)
{
	slice_ms = ms;
	for (uint32_t slot = 0; slot < CONFIG_PROPLET_SLOTS; slot++) {
		set_slice(slot);
	}
}
#else
void proplet_worker_weigh(uint32_t slot, uint32_t weight)
{
	ARG_UNUSED(slot);
	ARG_UNUSED(weight);
}

void proplet_worker_look(uint32_t slot)
{
	ARG_UNUSED(slot);
}

void proplet_workers_set_slice_ms(uint32_t ms)
{
	ARG_UNUSED(ms);
}
#endif

#ifdef CONFIG_ARCH_POSIX
void proplet_worker_worked(uint32_t units)
{
	/* Nanoseconds that were worked and have not passed. Only a worker that runs gets here, and
	   until it waits no other does. */
	static uint64_t owed;

	owed += (uint64_t)units * CONFIG_PROPLET_NATIVE_SLICE_US * NSEC_PER_USEC /
		CONFIG_PROPLET_SLICE;
	if (owed >= NSEC_PER_USEC) {
		const uint32_t us = owed / NSEC_PER_USEC;

		owed %= NSEC_PER_USEC;
		k_busy_wait(us);
	}
}
#endif

uint64_t proplet_thread_time(uint32_t slot)
{
	k_thread_runtime_stats_t stats;

	if (k_thread_runtime_stats_get(&workers[slot], &stats) != 0) {
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
