/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The workers: the threads that run guests, below every other thread of the firmware.
 */

#include "proplet.h"

#include <stdlib.h>

#include <zephyr/kernel.h>
#include <zephyr/sys/atomic.h>
#include <zephyr/sys/printk.h>

BUILD_ASSERT(CONFIG_PROPLET_WORKER_PRIORITY > CONFIG_MAIN_THREAD_PRIORITY,
	     "workers must have a lower priority (a higher number) than the control thread");
BUILD_ASSERT(CONFIG_PROPLET_WORKER_PRIORITY < CONFIG_NUM_PREEMPT_PRIORITIES,
	     "CONFIG_PROPLET_WORKER_PRIORITY is beyond CONFIG_NUM_PREEMPT_PRIORITIES");

/* In .noinit: neither cleared at boot nor part of the arena. */
K_THREAD_STACK_ARRAY_DEFINE(proplet_worker_stacks, CONFIG_PROPLET_WORKERS,
			    CONFIG_PROPLET_WORKER_STACK_SIZE);
static struct k_thread workers[CONFIG_PROPLET_WORKERS];
/* Each time that it is given lets one worker through that waits. */
static K_SEM_DEFINE(door, 0, K_SEM_MAX_LIMIT);
/* Workers that have begun or have failed to, and how many have begun. */
static K_SEM_DEFINE(known, 0, CONFIG_PROPLET_WORKERS);
static atomic_t begun;

static void worker(void *run, void *index, void *unused)
{
	ARG_UNUSED(unused);
	((proplet_worker_fn)run)(POINTER_TO_UINT(index));
	/* It comes back only where it could not begin. */
	k_sem_give(&known);
}

bool proplet_workers_start(proplet_worker_fn run)
{
	for (uint32_t i = 0; i < CONFIG_PROPLET_WORKERS; i++) {
		char name[CONFIG_THREAD_MAX_NAME_LEN];
		k_tid_t thread;

		thread = k_thread_create(&workers[i], proplet_worker_stacks[i],
					 K_THREAD_STACK_SIZEOF(proplet_worker_stacks[i]), worker,
					 (void *)run, UINT_TO_POINTER(i), NULL,
					 CONFIG_PROPLET_WORKER_PRIORITY, 0, K_NO_WAIT);
		snprintk(name, sizeof(name), "worker-%u", i);
		(void)k_thread_name_set(thread, name);
	}
	for (uint32_t i = 0; i < CONFIG_PROPLET_WORKERS; i++) {
		(void)k_sem_take(&known, K_FOREVER);
	}
	return atomic_get(&begun) == CONFIG_PROPLET_WORKERS;
}

void proplet_worker_begun(void)
{
	(void)atomic_inc(&begun);
	k_sem_give(&known);
}

void proplet_worker_wait(uint32_t us)
{
	(void)k_sem_take(&door, us == PROPLET_FOREVER ? K_FOREVER : K_USEC(us));
}

void proplet_worker_wake(void)
{
	k_sem_give(&door);
}

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
