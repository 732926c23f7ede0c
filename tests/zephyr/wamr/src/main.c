/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * WAMR, and calls that are left and resumed, on a Zephyr kernel. After every test the arena is as it
 * was before, to the byte. Lines that begin with "memory,", "worker,", "switch," and "native_stack,"
 * are figures to be read by machine.
 */

#include <zephyr/kernel.h>
#include <zephyr/ztest.h>

#include <shim.h>

#include "guests.h"

/* What a device with 512 KiB of RAM has for guests. */
#define ARENA_SIZE (192 * 1024)

#define WORKERS 4
#define WORKER_STACK_SIZE 2048
#define WORKER_PRIORITY 10

/* The one operand stack of all guests of a thread. */
#define OPERAND_STACK_SIZE 4096
#define NO_BOUND UINT64_MAX

static uint8_t arena[ARENA_SIZE] __aligned(8);

struct guest {
	struct WASMModule *module;
	uint8_t *buffer;
	wamr_module_info info;
	wamr_tables tables;
};

struct instance {
	struct guest *guest;
	wamr_call call;
};

/* A thread, and what it runs. */
struct worker {
	struct k_thread thread;
	struct guest *guest;
	struct instance instance;
	/* Fuel of a step. */
	uint32_t slice;
	atomic_t stop;
	/* Steps that ended for want of fuel, and the work until then. */
	uint32_t slices;
	uint32_t done;
	uint32_t outcome;
	bool has_stack;
};

static struct worker workers[WORKERS];
static K_THREAD_STACK_ARRAY_DEFINE(worker_stacks, WORKERS, WORKER_STACK_SIZE);

static struct worker small_worker;
static K_THREAD_STACK_DEFINE(small_stack, CONFIG_PROPLET_WAMR_STACK_GUARD_SIZE);

/* The test's own thread's. */
static struct wamr_worker *own;

static wamr_memory_info memory_before;

static struct guest load(const uint8_t *wasm, uint32_t len)
{
	struct guest guest = {0};
	char error[96] = "";

	guest.buffer = wamr_alloc(len);
	zassert_not_null(guest.buffer);
	memcpy(guest.buffer, wasm, len);
	guest.module = wamr_load(guest.buffer, len, &guest.info, error, sizeof(error));
	zassert_not_null(guest.module, "%s", error);
	return guest;
}

#define LOAD(name) load(name##_wasm, sizeof(name##_wasm))

/* The module is the last thing that a test holds of the arena. */
static void unload(struct guest *guest)
{
	wamr_memory_info memory;

	wamr_unload(guest->module);
	wamr_free(guest->buffer);
	wamr_memory(&memory);
	zassert_equal(memory.free, memory_before.free);
	zassert_equal(memory.largest_free, memory_before.largest_free);
}

static bool instantiate_with(struct guest *guest, uint64_t memory_max, bool commit,
			     struct instance *instance)
{
	char error[128] = "";

	*instance = (struct instance){
		.guest = guest,
		.call = {
			.instance = wamr_instantiate(guest->module, &guest->tables, memory_max,
						     commit, error, sizeof(error)),
			.stack_max = UINT32_MAX,
			.per_unit = guest->info.credit_per_unit,
			.work_left = UINT64_MAX,
		},
	};
	zassert_true(instance->call.instance || error[0], "refused without a reason");
	return instance->call.instance != NULL;
}

static bool instantiate(struct guest *guest, uint64_t memory_max, struct instance *instance)
{
	return instantiate_with(guest, memory_max, false, instance);
}

static void tear_down(struct instance *instance)
{
	wamr_drop(&instance->call);
	wamr_deinstantiate(instance->call.instance, &instance->guest->tables);
}

/* Without running anything; false where there is no room. */
static bool begin(struct instance *instance, const char *name, uint32_t argc, const uint32_t *cells)
{
	struct guest *guest = instance->guest;
	wamr_function_type type;
	uint32_t index, keep;

	index = wamr_find_function(guest->module, name, strlen(name), &type);
	zassert_not_equal(index, WAMR_NO_FUNCTION, "no function %s", name);
	keep = guest->info.stack_need + wamr_first_frame_bytes(2 * type.results);
	return wamr_begin(&instance->call, index, argc, cells, keep);
}

/* A step of the call, which is on no stack before and after. */
static uint32_t step(struct wamr_worker *stack, struct instance *instance, uint32_t fuel)
{
	uint32_t outcome = WAMR_OUT_OF_FUEL;

	zassert_true(wamr_enter(stack, &instance->call));
	if (wamr_fuel(stack, fuel, NULL)) {
		outcome = wamr_run(stack);
	}
	zassert_true(wamr_leave(stack), "no room to leave");
	return outcome;
}

/* Steps of this much fuel until it has ended; true with its results in `cells`. */
static bool finish(struct instance *instance, uint32_t fuel, uint32_t *cells, uint32_t results)
{
	uint32_t outcome;

	do {
		outcome = step(own, instance, fuel);
	} while (outcome == WAMR_OUT_OF_FUEL);
	if (outcome == WAMR_TRAPPED) {
		return false;
	}
	zassert_equal(outcome, WAMR_FINISHED);
	wamr_results(&instance->call, cells, results);
	return true;
}

/* On this thread, within work that all guests that end stay in. Two cells of results, or fewer. */
static bool call(struct instance *instance, const char *name, uint32_t argc, uint32_t *cells)
{
	zassert_true(begin(instance, name, argc, cells));
	instance->call.work_left = 1000000;
	return finish(instance, 1000, cells, 2);
}

static void assert_trap(struct instance *instance, const char *text)
{
	const char *exception = wamr_exception(instance->call.instance);

	zassert_not_null(exception);
	zassert_not_null(strstr(exception, text), "%s", exception);
}

/* Nothing is on this small stack that is only needed before or after. */
static uint32_t run(struct worker *worker, struct wamr_worker *stack)
{
	wamr_call *call = &worker->instance.call;
	uint32_t outcome = WAMR_OUT_OF_FUEL;

	if (!wamr_enter(stack, call)) {
		return WAMR_TRAPPED;
	}
	while (outcome == WAMR_OUT_OF_FUEL && !atomic_get(&worker->stop)) {
		if (wamr_fuel(stack, worker->slice, NULL)) {
			outcome = wamr_run(stack);
		}
		worker->done = call->work;
		worker->slices += outcome == WAMR_OUT_OF_FUEL;
		/* Code takes no simulated time. */
		if (IS_ENABLED(CONFIG_ARCH_POSIX)) {
			k_busy_wait(1000);
		}
		k_yield();
	}
	return wamr_leave(stack) ? outcome : WAMR_TRAPPED;
}

static void work(void *arg, void *unused1, void *unused2)
{
	struct worker *worker = arg;
	struct wamr_worker *stack;

	ARG_UNUSED(unused1);
	ARG_UNUSED(unused2);
	wasm_runtime_init_thread_env();
	stack = wamr_worker_new(OPERAND_STACK_SIZE);
	worker->has_stack = stack != NULL;
	if (stack) {
		worker->outcome = run(worker, stack);
		wamr_worker_delete(stack);
	}
	wasm_runtime_destroy_thread_env();
}

static void prepare(struct worker *worker, struct guest *guest)
{
	zassert_true(instantiate(guest, NO_BOUND, &worker->instance));
	zassert_true(begin(&worker->instance, "main", 0, NULL));
	worker->slice = 1000;
	worker->slices = worker->done = 0;
	atomic_clear(&worker->stop);
}

static void start_on(struct worker *worker, k_thread_stack_t *stack, size_t size)
{
	k_thread_create(&worker->thread, stack, size, work, worker, NULL, NULL, WORKER_PRIORITY, 0,
			K_NO_WAIT);
}

static void start(size_t i)
{
	start_on(&workers[i], worker_stacks[i], K_THREAD_STACK_SIZEOF(worker_stacks[i]));
}

static void join(struct worker *worker, uint32_t outcome)
{
	zassert_ok(k_thread_join(&worker->thread, K_SECONDS(5)));
	zassert_true(worker->has_stack);
	zassert_equal(worker->outcome, outcome, "%u", worker->outcome);
}

/* It is left in the middle. */
static void stop(struct worker *worker)
{
	atomic_set(&worker->stop, 1);
	join(worker, WAMR_OUT_OF_FUEL);
}

/* The host's stack is not Zephyr's to measure on native_sim. */
static void print_native_stack(const char *what, struct worker *worker)
{
#if !defined(CONFIG_ARCH_POSIX)
	size_t unused;

	zassert_ok(k_thread_stack_space_get(&worker->thread, &unused));
	zassert_true(unused > 0);
	TC_PRINT("native_stack,%s,%s,%zu,%zu\n", CONFIG_BOARD_TARGET, what,
		 worker->thread.stack_info.size, worker->thread.stack_info.size - unused);
#else
	ARG_UNUSED(what);
	ARG_UNUSED(worker);
#endif
}

/* The guest's malloc calls this function again. */
static void reenter(wasm_exec_env_t exec_env, uint64_t *args)
{
	args[0] = wamr_guest_malloc(exec_env, (uint32_t)args[0]);
}

/* Its answer comes later. */
static void ask(wasm_exec_env_t exec_env, uint64_t *args)
{
	zassert_true(wamr_block(exec_env, (const void *)ask, args, 1));
}

static NativeSymbol host_functions[] = {
	{"ask", ask, "(i)i", NULL},
	{"reenter", reenter, "(i)i", NULL},
};

static wamr_memory_info memory_at_start;

static void *set_up(void)
{
	zassert_equal(wamr_init(arena, sizeof(arena)), WAMR_INIT_OK);
	zassert_equal(wamr_init(arena, sizeof(arena)), WAMR_INIT_AGAIN);
	zassert_true(wamr_register("host", host_functions, ARRAY_SIZE(host_functions)));
	wamr_memory(&memory_at_start);
	return NULL;
}

static void before(void *fixture)
{
	ARG_UNUSED(fixture);
	wamr_memory(&memory_before);
	zassert_equal(memory_before.free, memory_at_start.free);
	zassert_equal(memory_before.largest_free, memory_at_start.largest_free);
	own = wamr_worker_new(OPERAND_STACK_SIZE);
	zassert_not_null(own);
	wamr_memory(&memory_before);
	zassert_equal(memory_at_start.free - memory_before.free,
		      wamr_worker_bytes(OPERAND_STACK_SIZE));
}

static void after(void *fixture)
{
	ARG_UNUSED(fixture);
	wamr_worker_delete(own);
}

ZTEST_SUITE(wamr, NULL, set_up, before, after, NULL);

ZTEST(wamr, test_one_module_has_many_instances)
{
	struct instance instances[8];
	struct guest guest = LOAD(addition);
	wamr_memory_info loaded, one, all;

	wamr_memory(&loaded);
	for (uint32_t i = 0; i < ARRAY_SIZE(instances); i++) {
		zassert_true(instantiate(&guest, NO_BOUND, &instances[i]));
		if (i == 0) {
			wamr_memory(&one);
		}
	}
	wamr_memory(&all);
	/* All cost the same, and the first one made what they share. */
	zassert_equal(one.free - all.free,
		      (ARRAY_SIZE(instances) - 1) * wamr_instance_needs(guest.module));
	zassert_equal(loaded.free - one.free,
		      wamr_instance_needs(guest.module) + wamr_tables_need(guest.module));
	for (uint32_t i = 0; i < ARRAY_SIZE(instances); i++) {
		uint32_t cells[2] = {i, 1000};

		zassert_true(call(&instances[i], "add", 2, cells));
		zassert_equal(cells[0], i + 1000);
	}
	for (uint32_t i = 0; i < ARRAY_SIZE(instances); i++) {
		tear_down(&instances[i]);
	}
	unload(&guest);
}

ZTEST(wamr, test_results)
{
	struct guest guest = LOAD(fib);
	struct instance instance;
	uint32_t cells[2] = {20};

	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	zassert_true(call(&instance, "run", 1, cells));
	zassert_equal(cells[0], 6765);
	tear_down(&instance);
	unload(&guest);
}

ZTEST(wamr, test_arithmetic_of_the_libraries)
{
	static const struct {
		const char *name;
		uint64_t argument, result;
	} cases[] = {
		{"nearest", 0x4004000000000000 /* 2.5 */, 0x4000000000000000},
		{"floor", 0xbff8000000000000 /* -1.5 */, 0xc000000000000000},
		{"ceil", 0xbff8000000000000, 0xbff0000000000000},
		{"trunc", 0xbff8000000000000, 0xbff0000000000000},
		{"sqrt", 0x4000000000000000 /* 2 */, 0x3ff6a09e667f3bcd},
		{"to_integer", 0xc1e0000000200000 /* -2147483649 */, (uint64_t)-2147483649},
		{"from_integer", 0xffffffffffffffff, 0x43f0000000000000},
		{"nearest32", 0x40200000 /* 2.5 */, 0x40000000},
		{"floor32", 0xbfc00000 /* -1.5 */, 0xc0000000},
		{"ceil32", 0xbfc00000, 0xbf800000},
		{"trunc32", 0xbfc00000, 0xbf800000},
		{"sqrt32", 0x40400000 /* 3 */, 0x3fddb3d7},
		{"third", (uint64_t)-7000000000, (uint64_t)-2333333333},
		{"shift", 0xfedcba9876543210, 0x7f6e5d4c},
	};
	struct guest guest = LOAD(numbers);
	struct instance instance;

	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint32_t cells[2];
		uint64_t result;

		memcpy(cells, &cases[i].argument, sizeof(cells));
		zassert_true(call(&instance, cases[i].name, 2, cells));
		memcpy(&result, cells, sizeof(result));
		zassert_equal(result, cases[i].result, "%s: %llx", cases[i].name, result);
	}
	tear_down(&instance);
	unload(&guest);
}

/* fib(12) in steps of `fuel`, with another guest on the stack between two of them. */
static uint32_t fib_in_steps(struct guest *guest, uint32_t fuel, struct instance *other,
			     uint64_t *work)
{
	struct instance instance;
	uint32_t cells[2] = {12}, steps = 0, outcome;

	zassert_true(instantiate(guest, NO_BOUND, &instance));
	zassert_true(begin(&instance, "run", 1, cells));
	do {
		outcome = step(own, &instance, fuel);
		steps++;
		zassert_equal(step(own, other, 3), WAMR_OUT_OF_FUEL);
	} while (outcome == WAMR_OUT_OF_FUEL);
	zassert_equal(outcome, WAMR_FINISHED);
	wamr_results(&instance.call, cells, 1);
	zassert_equal(cells[0], 144);
	*work = instance.call.work;
	tear_down(&instance);
	return steps;
}

ZTEST(wamr, test_a_guest_is_left_at_every_unit_and_resumed)
{
	struct guest guest = LOAD(fib), loop = LOAD(count);
	struct instance other;
	uint64_t whole, parts;
	uint32_t steps;

	zassert_true(instantiate(&loop, NO_BOUND, &other));
	zassert_true(begin(&other, "main", 0, NULL));
	zassert_equal(fib_in_steps(&guest, UINT32_MAX, &other, &whole), 1);
	steps = fib_in_steps(&guest, 1, &other, &parts);
	zassert_equal(parts, whole);
	zassert_true(steps >= whole, "%u steps", steps);
	TC_PRINT("fib(12): %u units of work, left %u times\n", (uint32_t)whole, steps - 1);
	tear_down(&other);
	wamr_unload(loop.module);
	wamr_free(loop.buffer);
	unload(&guest);
}

/* Compiled code has a stack of its own, which WAMR watches: each module's begins elsewhere. */
ZTEST(wamr, test_two_guests_in_turn_on_one_worker)
{
	struct guest guests[2] = {LOAD(low), LOAD(high)};
	struct instance instances[2];
	uint32_t outcomes[2], cells[2][2] = {{100}, {50}};

	for (size_t i = 0; i < 2; i++) {
		zassert_true(instantiate(&guests[i], NO_BOUND, &instances[i]));
		zassert_true(begin(&instances[i], "run", 1, cells[i]));
	}
	do {
		for (size_t i = 0; i < 2; i++) {
			outcomes[i] = instances[i].call.phase ? step(own, &instances[i], 1)
							      : WAMR_FINISHED;
			zassert_not_equal(outcomes[i], WAMR_TRAPPED, "%s",
					  wamr_exception(instances[i].call.instance));
		}
	} while (outcomes[0] != WAMR_FINISHED || outcomes[1] != WAMR_FINISHED);
	for (size_t i = 0; i < 2; i++) {
		wamr_results(&instances[i].call, cells[i], 1);
	}
	zassert_equal(cells[0][0], 5050);
	zassert_equal(cells[1][0], 1275);
	tear_down(&instances[1]);
	tear_down(&instances[0]);
	wamr_unload(guests[1].module);
	wamr_free(guests[1].buffer);
	unload(&guests[0]);
}

/* Another thread, which does a step whenever it is asked. */
static struct {
	struct k_thread thread;
	struct k_sem asked, answered;
	struct instance *instance;
	uint32_t outcome;
} other;

static void step_when_asked(void *arg1, void *arg2, void *arg3)
{
	struct wamr_worker *stack;

	ARG_UNUSED(arg1);
	ARG_UNUSED(arg2);
	ARG_UNUSED(arg3);
	wasm_runtime_init_thread_env();
	stack = wamr_worker_new(OPERAND_STACK_SIZE);
	zassert_not_null(stack);
	while (k_sem_take(&other.asked, K_FOREVER) == 0 && other.instance) {
		other.outcome = step(stack, other.instance, 7);
		k_sem_give(&other.answered);
	}
	wamr_worker_delete(stack);
	wasm_runtime_destroy_thread_env();
}

ZTEST(wamr, test_a_guest_goes_on_on_another_thread)
{
	struct guest guest = LOAD(fib);
	struct instance instance;
	uint32_t cells[2] = {12}, outcome = WAMR_OUT_OF_FUEL, moves = 0;
	uintptr_t base;

	k_sem_init(&other.asked, 0, 1);
	k_sem_init(&other.answered, 0, 1);
	k_thread_create(&other.thread, worker_stacks[0], K_THREAD_STACK_SIZEOF(worker_stacks[0]),
			step_when_asked, NULL, NULL, NULL, WORKER_PRIORITY, 0, K_NO_WAIT);
	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	zassert_true(begin(&instance, "run", 1, cells));
	while (outcome == WAMR_OUT_OF_FUEL) {
		outcome = step(own, &instance, 5);
		base = instance.call.base;
		if (outcome == WAMR_OUT_OF_FUEL) {
			other.instance = &instance;
			k_sem_give(&other.asked);
			zassert_ok(k_sem_take(&other.answered, K_SECONDS(5)));
			outcome = other.outcome;
			/* Its addresses are those of another stack now. */
			moves += instance.call.base != base;
		}
	}
	zassert_equal(outcome, WAMR_FINISHED);
	wamr_results(&instance.call, cells, 1);
	zassert_equal(cells[0], 144);
	zassert_true(moves > 10, "%u moves", moves);
	other.instance = NULL;
	k_sem_give(&other.asked);
	zassert_ok(k_thread_join(&other.thread, K_SECONDS(5)));
	tear_down(&instance);
	unload(&guest);
}

ZTEST(wamr, test_a_host_function_waits_without_a_thread)
{
	struct guest guest = LOAD(ask), loop = LOAD(count);
	struct instance instance, other;
	uint32_t cells[2] = {41};
	uint64_t args[WAMR_BLOCKING_ARGS];

	zassert_true(instantiate(&loop, NO_BOUND, &other));
	zassert_true(begin(&other, "main", 0, NULL));
	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	zassert_true(begin(&instance, "main", 1, cells));
	zassert_equal(step(own, &instance, 100), WAMR_BLOCKED);
	zassert_equal_ptr(instance.call.waiting, ask);
	zassert_equal(step(own, &other, 100), WAMR_OUT_OF_FUEL);

	zassert_true(wamr_enter(own, &instance.call));
	zassert_equal(wamr_blocked_args(own, args), 1);
	zassert_equal(args[0], 41);
	wamr_unblock(own, 2 * args[0], 1);
	zassert_true(wamr_leave(own));
	zassert_true(finish(&instance, 1, cells, 1));
	zassert_equal(cells[0], 83);
	tear_down(&instance);
	tear_down(&other);
	wamr_unload(loop.module);
	wamr_free(loop.buffer);
	unload(&guest);
}

static uint32_t sum(struct instance *instance, uint32_t from, uint32_t len)
{
	uint32_t cells[2] = {from, len};

	zassert_true(begin(instance, "sum", 2, cells));
	zassert_true(finish(instance, UINT32_MAX, cells, 1));
	return cells[0];
}

static uint8_t byte_at(struct instance *instance, uint32_t at)
{
	uint8_t byte;

	zassert_true(wamr_guest_read(instance->call.instance, at, &byte, 1));
	return byte;
}

#define BULK_LEN 100000

ZTEST(wamr, test_a_bulk_operation_in_pieces)
{
	struct guest guest = LOAD(bulk);
	struct instance instance;
	uint32_t cells[3] = {2, BULK_LEN}, steps = 0, outcome;

	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	zassert_true(begin(&instance, "fill", 2, cells));
	do {
		outcome = step(own, &instance, 100);
		/* Each step does what it pays for; pages that were touched are paid behind it. */
		zassert_true(!instance.call.tail || byte_at(&instance, BULK_LEN) == 0);
		steps++;
	} while (outcome == WAMR_OUT_OF_FUEL);
	zassert_equal(outcome, WAMR_FINISHED);
	zassert_true(steps >= BULK_LEN / 64 / 100, "%u steps", steps);
	zassert_equal(byte_at(&instance, 0), 0);
	zassert_equal(byte_at(&instance, BULK_LEN + 1), 0);
	zassert_equal(sum(&instance, 0, 2 * 65536), 2 * BULK_LEN);

	/* Over itself, and back. */
	cells[0] = 7, cells[1] = 1;
	zassert_true(begin(&instance, "fill", 2, cells));
	zassert_true(finish(&instance, 10, cells, 0));
	cells[0] = 1001, cells[1] = 1, cells[2] = BULK_LEN;
	zassert_true(begin(&instance, "move", 3, cells));
	zassert_true(finish(&instance, 10, cells, 0));
	zassert_equal(byte_at(&instance, 1001), 7);
	zassert_equal(sum(&instance, 0, 2 * 65536), 7 + 2 * 999 + 7 + 2 * (BULK_LEN - 1));
	cells[0] = 1, cells[1] = 1001, cells[2] = BULK_LEN;
	zassert_true(begin(&instance, "move", 3, cells));
	zassert_true(finish(&instance, 10, cells, 0));
	zassert_equal(sum(&instance, 0, BULK_LEN + 1), 7 + 2 * (BULK_LEN - 1));

	/* Dropped in the middle. */
	cells[0] = 9, cells[1] = BULK_LEN;
	zassert_true(begin(&instance, "fill", 2, cells));
	zassert_equal(step(own, &instance, 100), WAMR_OUT_OF_FUEL);
	zassert_equal(step(own, &instance, 100), WAMR_OUT_OF_FUEL);
	zassert_true(instance.call.tail > 0);
	tear_down(&instance);
	unload(&guest);
}

ZTEST(wamr, test_two_modules_at_one_address)
{
	struct guest guest = LOAD(early);
	uint8_t *place = guest.buffer;
	struct instance instance;
	uint32_t cells[2];

	zassert_equal(sizeof(early_wasm), sizeof(late_wasm));
	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	zassert_true(call(&instance, "main", 0, cells));
	zassert_equal(cells[0], 1);
	tear_down(&instance);
	unload(&guest);

	guest = LOAD(late);
	zassert_equal_ptr(guest.buffer, place);
	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	zassert_true(call(&instance, "main", 0, cells));
	zassert_equal(cells[0], 0);
	tear_down(&instance);
	unload(&guest);
}

ZTEST(wamr, test_a_loop_stops_within_a_slice)
{
	struct guest guest = LOAD(count);
	struct worker *worker = &workers[0];
	uint32_t slices;

	prepare(worker, &guest);
	start(0);
	k_msleep(50);
	slices = worker->slices;
	zassert_true(slices > 0);
	stop(worker);
	zassert_true(worker->slices <= slices + 1);
	print_native_stack("loop", worker);
	tear_down(&worker->instance);
	unload(&guest);
}

ZTEST(wamr, test_loops_take_turns)
{
	struct guest guest = LOAD(count);
	uint32_t least = UINT32_MAX, most = 0;

	for (size_t i = 0; i < WORKERS; i++) {
		prepare(&workers[i], &guest);
	}
	for (size_t i = 0; i < WORKERS; i++) {
		start(i);
	}
	k_msleep(200);
	for (size_t i = 0; i < WORKERS; i++) {
		least = MIN(least, workers[i].slices);
		most = MAX(most, workers[i].slices);
	}
	for (size_t i = 0; i < WORKERS; i++) {
		stop(&workers[i]);
		tear_down(&workers[i].instance);
	}
	zassert_true(least > 1, "%u slices", least);
	zassert_true(most - least <= 1, "%u to %u slices", least, most);
	unload(&guest);
}

ZTEST(wamr, test_a_share_is_a_slice_s_length)
{
	struct guest guest = LOAD(count);
	uint32_t small, large;

	prepare(&workers[0], &guest);
	prepare(&workers[1], &guest);
	workers[0].slice = 100;
	workers[1].slice = 300;
	start(0);
	start(1);
	k_msleep(200);
	small = workers[0].done;
	large = workers[1].done;
	for (size_t i = 0; i < 2; i++) {
		stop(&workers[i]);
		tear_down(&workers[i].instance);
	}
	zassert_true(small > 100);
	zassert_true(large >= 3 * small - 300 && large <= 3 * small + 300, "%u and %u", small,
		     large);
	unload(&guest);
}

ZTEST(wamr, test_a_budget_is_exact)
{
	struct guest guest = LOAD(count);
	struct worker *worker = &workers[0];
	uint32_t cells[2];

	prepare(worker, &guest);
	worker->instance.call.work_left = 10050;
	start(0);
	join(worker, WAMR_TRAPPED);
	assert_trap(&worker->instance, WAMR_OUT_OF_WORK_TEXT);
	zassert_equal(worker->done, 10050);
	zassert_equal(worker->slices, 10);
	/* One unit is each round's branch; the one that has begun can't end. */
	zassert_true(call(&worker->instance, "rounds", 0, cells));
	zassert_equal(cells[0], 10051, "%u", cells[0]);
	tear_down(&worker->instance);
	unload(&guest);
}

ZTEST(wamr, test_recursion_fills_the_operand_stack)
{
	struct guest guest = LOAD(recurse);
	struct worker *worker = &workers[0];

	prepare(worker, &guest);
	start(0);
	join(worker, WAMR_TRAPPED);
	assert_trap(&worker->instance, "operand stack overflow");
	print_native_stack("recursion", worker);

	/* No more than its owner allows, on a stack that has more. */
	zassert_true(begin(&worker->instance, "main", 0, NULL));
	worker->instance.call.stack_max = 512;
	zassert_false(finish(&worker->instance, UINT32_MAX, NULL, 0));
	assert_trap(&worker->instance, "operand stack overflow");
	tear_down(&worker->instance);
	unload(&guest);
}

ZTEST(wamr, test_recursion_by_the_host_stops_at_the_guard)
{
	struct guest guest = LOAD(reenter);
	struct worker *worker = &workers[0];

	prepare(worker, &guest);
	start(0);
	join(worker, WAMR_TRAPPED);
	assert_trap(&worker->instance, "stack overflow");
	print_native_stack("host_recursion", worker);
	tear_down(&worker->instance);
	unload(&guest);
}

ZTEST(wamr, test_a_stack_no_larger_than_the_guard_runs_nothing)
{
	struct guest guest;

	/* There, threads run on the host's stacks. */
	Z_TEST_SKIP_IFDEF(CONFIG_ARCH_POSIX);
	guest = LOAD(count);
	prepare(&small_worker, &guest);
	start_on(&small_worker, small_stack, K_THREAD_STACK_SIZEOF(small_stack));
	join(&small_worker, WAMR_TRAPPED);
	assert_trap(&small_worker.instance, "native stack overflow");
	zassert_equal(small_worker.done, 0);
	tear_down(&small_worker.instance);
	unload(&guest);
}

#define MOST 512

static struct instance all[MOST];

/* With a call, that has begun. */
static bool make(struct guest *guest, const char *name, struct instance *instance)
{
	static const uint32_t cells[2];

	if (!instantiate(guest, NO_BOUND, instance)) {
		return false;
	}
	if (!begin(instance, name, 2, cells)) {
		tear_down(instance);
		return false;
	}
	return true;
}

static uint32_t fill(struct guest *guest, const char *name)
{
	uint32_t count = 0;

	while (count < MOST && make(guest, name, &all[count])) {
		count++;
	}
	zassert_true(count < MOST);
	return count;
}

/* Left in the middle, each of them. */
ZTEST(wamr, test_a_full_arena_refuses_and_recovers)
{
	struct guest guest = LOAD(count);
	uint32_t count = fill(&guest, "main");
	wamr_memory_info full;

	/* Upstream's benchmark has 24, of any size; a 64-bit machine takes more for each. */
	zassert_true(count >= (IS_ENABLED(CONFIG_64BIT) ? 200 : 300), "%u instances", count);
	wamr_memory(&full);
	for (uint32_t i = 0; i < count; i++) {
		zassert_equal(step(own, &all[i], 10 + i), WAMR_OUT_OF_FUEL);
	}
	for (uint32_t round = 0; round < 3; round++) {
		/* Every third one goes and comes again. */
		for (uint32_t i = round; i < count; i += 3) {
			tear_down(&all[i]);
		}
		for (uint32_t i = round; i < count; i += 3) {
			zassert_true(make(&guest, "main", &all[i]));
			zassert_equal(step(own, &all[i], 20 + i), WAMR_OUT_OF_FUEL);
		}
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t cells[2];
		wamr_memory_info memory;

		wamr_memory(&memory);
		zassert_equal(memory.free, full.free);
		zassert_true(call(&all[i], "rounds", 0, cells));
		zassert_equal(cells[0], 21 + i);
	}
	while (count-- > 0) {
		tear_down(&all[count]);
	}
	unload(&guest);
}

ZTEST(wamr, test_growth_is_refused_where_the_arena_ends)
{
	struct guest guest = LOAD(grow);
	struct instance instance;
	uint32_t cells[2] = {1};

	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	zassert_true(call(&instance, "grow", 1, cells));
	zassert_equal(cells[0], 0);
	/* A flat memory takes its bytes, a paged one a place for a table a page. */
	cells[0] = CONFIG_PROPLET_WAMR_PAGE_BYTES ? 60000 : 3;
	zassert_true(call(&instance, "grow", 1, cells));
	zassert_equal(cells[0], UINT32_MAX);
	zassert_equal(wamr_guest_memory_len(instance.call.instance), 65536);
	tear_down(&instance);
	unload(&guest);
}

ZTEST(wamr, test_a_growth_is_dropped_in_the_middle)
{
	if (CONFIG_PROPLET_WAMR_PAGE_BYTES) {
		/* It grows at once. */
		ztest_test_skip();
	}

	struct guest guest = LOAD(grow);
	struct instance instance;
	uint32_t cells[2] = {2};

	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	zassert_true(begin(&instance, "grow", 1, cells));
	zassert_equal(step(own, &instance, 100), WAMR_OUT_OF_FUEL);
	zassert_equal(step(own, &instance, 100), WAMR_OUT_OF_FUEL);
	zassert_true(instance.call.tail > 0);
	tear_down(&instance);
	unload(&guest);
}

/* Bytes of `pattern` in front of and behind every block that may come to lie next to a memory. */
#define CANARIES 64
#define CANARY_LEN 1500
#define PATTERN 0x5a

static uint8_t *canaries[CANARIES];

static void canaries_set(void)
{
	for (size_t i = 0; i < CANARIES; i++) {
		canaries[i] = wamr_alloc(CANARY_LEN);
		zassert_not_null(canaries[i]);
		memset(canaries[i], PATTERN, CANARY_LEN);
	}
	/* Holes of about 12 KiB. */
	for (size_t i = 0; i < CANARIES; i++) {
		if ((i / 8) % 2) {
			wamr_free(canaries[i]);
			canaries[i] = NULL;
		}
	}
}

static void canaries_check(void)
{
	for (size_t i = 0; i < CANARIES; i++) {
		for (size_t j = 0; canaries[i] && j < CANARY_LEN; j++) {
			zassert_equal(canaries[i][j], PATTERN);
		}
		wamr_free(canaries[i]);
	}
}

static void assert_bound(struct instance *instance, uint32_t len)
{
	static const uint32_t beyond[] = {0, 1, 7, 8, 4095, 60000};
	uint32_t last[2] = {len - 1, 0xff};

	zassert_equal(wamr_guest_memory_len(instance->call.instance), len);
	zassert_true(call(instance, "store", 2, last));
	for (size_t i = 0; i < ARRAY_SIZE(beyond); i++) {
		uint32_t cells[2] = {len + beyond[i], 0xff};

		zassert_false(call(instance, "store", 2, cells));
		assert_trap(instance, "out of bounds memory access");
	}
}

ZTEST(wamr, test_a_memory_has_its_declared_size)
{
	struct guest guest = LOAD(compiled);
	struct instance instance;

	zassert_equal(guest.info.initial_pages, 2);
	canaries_set();
	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	assert_bound(&instance, 2 * 65536);

	uint32_t last[3] = {2 * 65536 - 9000, 0xff, 9000};
	uint32_t one_more[3] = {2 * 65536 - 9000, 0xff, 9001};

	zassert_true(call(&instance, "fill", 3, last));
	zassert_false(call(&instance, "fill", 3, one_more));
	assert_trap(&instance, "out of bounds memory access");
	tear_down(&instance);
	canaries_check();
	unload(&guest);
}

#define PAGE CONFIG_PROPLET_WAMR_PAGE_BYTES

static bool store(struct instance *instance, uint32_t at)
{
	uint32_t cells[2] = {at, 0xff};

	return call(instance, "store", 2, cells);
}

#if PAGE > 0

ZTEST(wamr, test_a_bound_is_one_on_pages)
{
	struct guest guest = LOAD(page);
	struct instance instance;

	canaries_set();
	zassert_true(instantiate(&guest, 3 * PAGE + PAGE - 1, &instance));
	zassert_equal(wamr_guest_memory_len(instance.call.instance), 65536);
	zassert_true(store(&instance, 65535));
	zassert_true(store(&instance, 0));
	zassert_true(store(&instance, 5 * PAGE));
	zassert_true(store(&instance, 6 * PAGE - 1));
	zassert_false(store(&instance, 6 * PAGE));
	assert_trap(&instance, "out of memory: page 6 of linear memory, 3 taken, the task may hold 3");
	zassert_equal(wamr_guest_pages(instance.call.instance), 3);
	tear_down(&instance);
	canaries_check();
	unload(&guest);
}

ZTEST(wamr, test_a_guest_without_a_page_disturbs_no_other)
{
	struct guest guest = LOAD(compiled);
	struct instance greedy, other;
	uint32_t cells[3] = {0, 7, 5000}, pages = 0;
	wamr_memory_info memory;

	zassert_true(instantiate(&guest, NO_BOUND, &other));
	zassert_true(call(&other, "fill", 3, cells));
	zassert_true(instantiate(&guest, NO_BOUND, &greedy));
	wamr_set_reserve(100 * 1024);
	while (pages * PAGE < 2 * 65536 && store(&greedy, pages * PAGE)) {
		pages++;
	}
	assert_trap(&greedy, "out of memory: page ");
	wamr_memory(&memory);
	zassert_between_inclusive(memory.free, 100 * 1024, 100 * 1024 + 2 * PAGE + 600);
	wamr_set_reserve(0);
	zassert_equal(wamr_guest_pages(greedy.call.instance), pages);
	zassert_true(store(&greedy, 0));
	for (uint32_t i = 0; i < 5000; i++) {
		zassert_equal(byte_at(&other, i), 7);
	}
	zassert_equal(byte_at(&other, 5000), 0);
	tear_down(&greedy);
	tear_down(&other);
	wamr_memory(&memory);
	zassert_equal(memory.pages, memory_before.pages);
	unload(&guest);
}

ZTEST(wamr, test_what_is_committed_is_there)
{
	struct guest guest = LOAD(page);
	struct instance instance;
	wamr_memory_need need;
	wamr_memory_info loaded, made, used;

	wamr_memory_needs(guest.module, &need);
	wamr_memory(&loaded);
	zassert_false(instantiate_with(&guest, 65535, true, &instance));
	zassert_true(instantiate_with(&guest, 65536, true, &instance));
	wamr_memory(&made);
	zassert_equal(loaded.free - made.free, wamr_tables_need(guest.module)
						       + wamr_instance_needs(guest.module)
						       + need.committed);
	for (uint32_t at = 0; at < 65536; at += 512) {
		zassert_true(store(&instance, at));
	}
	wamr_memory(&used);
	zassert_equal(made.free - used.free, wamr_block_bytes(instance.call.kept));
	tear_down(&instance);
	unload(&guest);
}

#endif

static uint32_t taken(uint32_t *free)
{
	wamr_memory_info memory;
	uint32_t before = *free;

	wamr_memory(&memory);
	*free = memory.free;
	return before - memory.free;
}

/* Each to the end of its call, so that it has all the pages that it writes to. */
static uint32_t fill_and_finish(struct guest *guest, const char *name)
{
	uint32_t count = 0, results[2];

	while (count < MOST && make(guest, name, &all[count])) {
		if (!finish(&all[count], 1000, results, 2)) {
			tear_down(&all[count]);
			break;
		}
		count++;
	}
	zassert_true(count < MOST);
	return count;
}

/* `name` takes two cells. */
static void measure(const char *guest_name, const uint8_t *wasm, uint32_t len, const char *name)
{
	static const uint32_t cells[2];
	uint32_t results[2];
	wamr_memory_need need;
	wamr_account account = {0};
	struct instance first, instance;
	uint32_t free, loaded, tables, instantiated, kept, linear, count;

	(void)taken(&free);
	struct guest guest = load(wasm, len);

	loaded = taken(&free);
	zassert_true(instantiate(&guest, NO_BOUND, &first));
	tables = taken(&free);
	tear_down(&first);
	(void)taken(&free);

	wamr_account *none = wamr_account_swap(&account);

	zassert_true(instantiate(&guest, NO_BOUND, &instance));
	instantiated = taken(&free) - wamr_tables_need(guest.module);
	zassert_equal(tables - instantiated, wamr_tables_need(guest.module));
	tables -= instantiated;
	zassert_true(begin(&instance, name, 2, cells));
	kept = taken(&free);
	zassert_equal(wamr_account_swap(none), &account);
	zassert_equal(account.held, instantiated + kept);

	wamr_memory_needs(guest.module, &need);
	zassert_equal(wamr_instance_needs(guest.module), instantiated - need.made);
	(void)finish(&instance, 1000, results, 2);
	linear = need.made + taken(&free);
	tear_down(&instance);

	count = fill_and_finish(&guest, name);
	TC_PRINT("memory,%s,%s,%u,%u,%u,%u,%u,%u\n", CONFIG_BOARD_TARGET, guest_name, loaded, tables,
		 instantiated - need.made, kept, linear, count);
	while (count-- > 0) {
		tear_down(&all[count]);
	}
	unload(&guest);
}

ZTEST(wamr, test_bytes_of_an_instance)
{
	static const uint32_t stacks[] = {16384, 4096, 1536, 1024};

	TC_PRINT("memory,board,guest,load,tables,instance,kept,memory_of_one_page,fit_in_192_kib\n");
	measure("addition", addition_wasm, sizeof(addition_wasm), "add");
	measure("page", page_wasm, sizeof(page_wasm), "store");
	measure("compiled", compiled_wasm, sizeof(compiled_wasm), "store");
	TC_PRINT("worker,board,cache_lines,stack,beside_it,record_of_a_call\n");
	for (size_t i = 0; i < ARRAY_SIZE(stacks); i++) {
		TC_PRINT("worker,%s,%u,%u,%u,%zu\n", CONFIG_BOARD_TARGET,
			 CONFIG_PROPLET_WAMR_BLOCK_ADDR_CACHE_SIZE, stacks[i],
			 wamr_worker_bytes(stacks[i]) - stacks[i], sizeof(wamr_call));
	}
}

/* After so many steps of `fuel`. */
static void measure_switch(const char *what, struct guest *guest, const char *name, uint32_t argument,
			   uint32_t fuel, uint32_t steps)
{
	struct instance instance;

	zassert_true(instantiate(guest, NO_BOUND, &instance));
	zassert_true(begin(&instance, name, 1, &argument));
	for (; steps > 0; steps--) {
		zassert_equal(step(own, &instance, fuel), WAMR_OUT_OF_FUEL);
	}
	TC_PRINT("switch,%s,%s,%u,%u,%u\n", CONFIG_BOARD_TARGET, what, instance.call.top,
		 instance.call.tail, wamr_block_bytes(instance.call.kept));
	tear_down(&instance);
}

ZTEST(wamr, test_bytes_of_a_switch)
{
	struct guest loop = LOAD(count), fib = LOAD(fib), low = LOAD(low), bulk = LOAD(bulk);
	struct instance instance;
	uint32_t cells[2] = {2, BULK_LEN};

	TC_PRINT("switch,board,guest,on_the_stack,beside_it,block\n");
	measure_switch("loop", &loop, "main", 0, 100, 1);
	measure_switch("compiled", &low, "run", 1000, 100, 1);
	measure_switch("fib 10 deep", &fib, "run", 12, 10, 1);
	measure_switch("fib 20 deep", &fib, "run", 22, 20, 1);
	zassert_true(instantiate(&bulk, NO_BOUND, &instance));
	zassert_true(begin(&instance, "fill", 2, cells));
	zassert_equal(step(own, &instance, 100), WAMR_OUT_OF_FUEL);
	TC_PRINT("switch,%s,fill,%u,%u,%u\n", CONFIG_BOARD_TARGET, instance.call.top,
		 instance.call.tail, wamr_block_bytes(instance.call.kept));
	tear_down(&instance);
	wamr_unload(bulk.module);
	wamr_free(bulk.buffer);
	wamr_unload(low.module);
	wamr_free(low.buffer);
	wamr_unload(fib.module);
	wamr_free(fib.buffer);
	unload(&loop);
}
