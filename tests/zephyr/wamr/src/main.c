/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * WAMR and the slice hook on a Zephyr kernel. After every test the arena is as it was before, to
 * the byte. Lines that begin with "memory," and "native_stack," are figures to be read by machine.
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

/* The default of CONFIG_PROPLET_GUEST_STACK_SIZE. */
#define GUEST_STACK_SIZE 1536
#define NO_BOUND UINT64_MAX

static uint8_t arena[ARENA_SIZE] __aligned(8);

struct guest {
	struct WASMModule *module;
	uint8_t *buffer;
	wamr_module_info info;
};

/* One call, as the slice hook sees it. */
struct run {
	uint32_t slice;
	/* 0 is none. */
	uint32_t budget;
	atomic_t stop;
	uint32_t done;
	uint32_t slices;
};

struct worker {
	struct k_thread thread;
	struct run run;
	struct WASMModuleInstance *instance;
	struct WASMExecEnv *exec_env;
	uint32_t function;
	uint32_t cells[2];
	bool ok;
};

static struct worker workers[WORKERS];
static K_THREAD_STACK_ARRAY_DEFINE(worker_stacks, WORKERS, WORKER_STACK_SIZE);

static struct worker small_worker;
static K_THREAD_STACK_DEFINE(small_stack, CONFIG_PROPLET_WAMR_STACK_GUARD_SIZE);

static uint32_t next_slice(struct run *run)
{
	return run->budget ? MIN(run->slice, run->budget - run->done) : run->slice;
}

static uint32_t slice_ended(void *arg)
{
	struct run *run = arg;

	run->done += next_slice(run);
	run->slices++;
	if (atomic_get(&run->stop) || (run->budget && run->done >= run->budget)) {
		return 0;
	}
	/* Code takes no simulated time. */
	if (IS_ENABLED(CONFIG_ARCH_POSIX)) {
		k_busy_wait(1000);
	}
	k_yield();
	return next_slice(run);
}

static struct guest load(const uint8_t *wasm, uint32_t len)
{
	struct guest guest;
	char error[96] = "";

	guest.buffer = wamr_alloc(len);
	zassert_not_null(guest.buffer);
	memcpy(guest.buffer, wasm, len);
	guest.module = wamr_load(guest.buffer, len, &guest.info, error, sizeof(error));
	zassert_not_null(guest.module, "%s", error);
	return guest;
}

#define LOAD(name) load(name##_wasm, sizeof(name##_wasm))

static wamr_memory_info memory_before;

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

static uint32_t function(const struct guest *guest, const char *name)
{
	wamr_function_type type;
	uint32_t index = wamr_find_function(guest->module, name, strlen(name), &type);

	zassert_not_equal(index, WAMR_NO_FUNCTION, "no function %s", name);
	return index;
}

static bool instantiate(const struct guest *guest, uint32_t stack, uint64_t memory_max,
			struct WASMModuleInstance **instance, struct WASMExecEnv **exec_env)
{
	char error[96] = "";

	*instance = wamr_instantiate(guest->module, memory_max, error, sizeof(error));
	if (!*instance) {
		zassert_not_equal(error[0], '\0', "refused without a reason");
		return false;
	}
	*exec_env = wamr_exec_env_new(*instance, stack);
	if (!*exec_env) {
		wamr_deinstantiate(*instance);
		return false;
	}
	return true;
}

static void tear_down(struct WASMModuleInstance *instance, struct WASMExecEnv *exec_env)
{
	wamr_exec_env_delete(exec_env);
	wamr_deinstantiate(instance);
}

/* On this thread, with a budget that all guests that end stay in. */
static bool call(struct WASMExecEnv *exec_env, uint32_t index, uint32_t argc, uint32_t *cells)
{
	struct run run = {.slice = 1000, .budget = 1000000};

	return wamr_call(exec_env, index, argc, cells, next_slice(&run), &run);
}

static void assert_trap(struct WASMModuleInstance *instance, const char *text)
{
	const char *exception = wamr_exception(instance);

	zassert_not_null(exception);
	zassert_not_null(strstr(exception, text), "%s", exception);
}

static void work(void *arg, void *unused1, void *unused2)
{
	struct worker *worker = arg;

	ARG_UNUSED(unused1);
	ARG_UNUSED(unused2);
	wasm_runtime_init_thread_env();
	worker->ok = wamr_call(worker->exec_env, worker->function, 0, worker->cells,
			       next_slice(&worker->run), &worker->run);
	wasm_runtime_destroy_thread_env();
}

static void prepare(struct worker *worker, const struct guest *guest, const char *name,
		    uint32_t stack)
{
	zassert_true(instantiate(guest, stack, NO_BOUND, &worker->instance, &worker->exec_env));
	worker->function = function(guest, name);
	worker->run = (struct run){.slice = 1000};
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

static void stop(struct worker *worker)
{
	atomic_set(&worker->run.stop, 1);
	zassert_ok(k_thread_join(&worker->thread, K_SECONDS(5)));
	zassert_false(worker->ok);
	assert_trap(worker->instance, "interrupted");
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

static NativeSymbol host_functions[] = {
	{"reenter", reenter, "(i)i", NULL},
};

static void *set_up(void)
{
	zassert_equal(wamr_init(arena, sizeof(arena), slice_ended), WAMR_INIT_OK);
	zassert_equal(wamr_init(arena, sizeof(arena), slice_ended), WAMR_INIT_AGAIN);
	zassert_true(wamr_register("host", host_functions, ARRAY_SIZE(host_functions)));
	return NULL;
}

static void before(void *fixture)
{
	ARG_UNUSED(fixture);
	wamr_memory(&memory_before);
}

ZTEST_SUITE(wamr, NULL, set_up, before, NULL, NULL);

ZTEST(wamr, test_one_module_has_many_instances)
{
	struct WASMModuleInstance *instances[8];
	struct WASMExecEnv *exec_envs[8];
	struct guest guest = LOAD(addition);
	uint32_t add = function(&guest, "add");
	wamr_memory_info one, all;

	for (uint32_t i = 0; i < ARRAY_SIZE(instances); i++) {
		zassert_true(instantiate(&guest, GUEST_STACK_SIZE, NO_BOUND, &instances[i],
					 &exec_envs[i]));
		if (i == 0) {
			wamr_memory(&one);
		}
	}
	wamr_memory(&all);
	/* All cost the same. */
	zassert_equal((one.free - all.free) % (ARRAY_SIZE(instances) - 1), 0);
	for (uint32_t i = 0; i < ARRAY_SIZE(instances); i++) {
		uint32_t cells[2] = {i, 1000};

		zassert_true(call(exec_envs[i], add, 2, cells));
		zassert_equal(cells[0], i + 1000);
	}
	for (uint32_t i = 0; i < ARRAY_SIZE(instances); i++) {
		tear_down(instances[i], exec_envs[i]);
	}
	unload(&guest);
}

ZTEST(wamr, test_results)
{
	struct guest guest = LOAD(fib);
	struct WASMModuleInstance *instance;
	struct WASMExecEnv *exec_env;
	uint32_t cells[2] = {20};

	zassert_true(instantiate(&guest, 4 * GUEST_STACK_SIZE, NO_BOUND, &instance, &exec_env));
	zassert_true(call(exec_env, function(&guest, "run"), 1, cells));
	zassert_equal(cells[0], 6765);
	tear_down(instance, exec_env);
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
	struct WASMModuleInstance *instance;
	struct WASMExecEnv *exec_env;

	zassert_true(instantiate(&guest, GUEST_STACK_SIZE, NO_BOUND, &instance, &exec_env));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint32_t cells[2];
		uint64_t result;

		memcpy(cells, &cases[i].argument, sizeof(cells));
		zassert_true(call(exec_env, function(&guest, cases[i].name), 2, cells));
		memcpy(&result, cells, sizeof(result));
		zassert_equal(result, cases[i].result, "%s: %llx", cases[i].name, result);
	}
	tear_down(instance, exec_env);
	unload(&guest);
}

ZTEST(wamr, test_a_loop_stops_within_a_slice)
{
	struct guest guest = LOAD(count);
	struct worker *worker = &workers[0];
	uint32_t slices;

	prepare(worker, &guest, "main", GUEST_STACK_SIZE);
	start(0);
	k_msleep(50);
	slices = worker->run.slices;
	zassert_true(slices > 0);
	stop(worker);
	zassert_true(worker->run.slices <= slices + 1);
	print_native_stack("loop", worker);
	tear_down(worker->instance, worker->exec_env);
	unload(&guest);
}

ZTEST(wamr, test_loops_take_turns)
{
	struct guest guest = LOAD(count);
	uint32_t least = UINT32_MAX, most = 0;

	for (size_t i = 0; i < WORKERS; i++) {
		prepare(&workers[i], &guest, "main", GUEST_STACK_SIZE);
	}
	for (size_t i = 0; i < WORKERS; i++) {
		start(i);
	}
	k_msleep(200);
	for (size_t i = 0; i < WORKERS; i++) {
		least = MIN(least, workers[i].run.slices);
		most = MAX(most, workers[i].run.slices);
	}
	for (size_t i = 0; i < WORKERS; i++) {
		stop(&workers[i]);
		tear_down(workers[i].instance, workers[i].exec_env);
	}
	zassert_true(least > 1, "%u slices", least);
	zassert_true(most - least <= 1, "%u to %u slices", least, most);
	unload(&guest);
}

ZTEST(wamr, test_a_share_is_a_slice_s_length)
{
	struct guest guest = LOAD(count);
	uint32_t small, large;

	prepare(&workers[0], &guest, "main", GUEST_STACK_SIZE);
	prepare(&workers[1], &guest, "main", GUEST_STACK_SIZE);
	workers[0].run.slice = 100;
	workers[1].run.slice = 300;
	start(0);
	start(1);
	k_msleep(200);
	small = workers[0].run.done;
	large = workers[1].run.done;
	for (size_t i = 0; i < 2; i++) {
		stop(&workers[i]);
		tear_down(workers[i].instance, workers[i].exec_env);
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

	prepare(worker, &guest, "main", GUEST_STACK_SIZE);
	worker->run.budget = 10050;
	start(0);
	zassert_ok(k_thread_join(&worker->thread, K_SECONDS(5)));
	zassert_false(worker->ok);
	assert_trap(worker->instance, "interrupted");
	zassert_equal(worker->run.done, 10050);
	zassert_equal(worker->run.slices, 11);
	/* One unit is each round's branch. */
	zassert_true(call(worker->exec_env, function(&guest, "rounds"), 0, cells));
	zassert_equal(cells[0], 10050);
	tear_down(worker->instance, worker->exec_env);
	unload(&guest);
}

ZTEST(wamr, test_recursion_fills_the_operand_stack)
{
	struct guest guest = LOAD(recurse);
	struct worker *worker = &workers[0];

	prepare(worker, &guest, "main", GUEST_STACK_SIZE);
	start(0);
	zassert_ok(k_thread_join(&worker->thread, K_SECONDS(5)));
	zassert_false(worker->ok);
	assert_trap(worker->instance, "operand stack overflow");
	print_native_stack("recursion", worker);
	tear_down(worker->instance, worker->exec_env);
	unload(&guest);
}

ZTEST(wamr, test_recursion_by_the_host_stops_at_the_guard)
{
	struct guest guest = LOAD(reenter);
	struct worker *worker = &workers[0];

	prepare(worker, &guest, "main", 16384);
	start(0);
	zassert_ok(k_thread_join(&worker->thread, K_SECONDS(5)));
	zassert_false(worker->ok);
	assert_trap(worker->instance, "stack overflow");
	print_native_stack("host_recursion", worker);
	tear_down(worker->instance, worker->exec_env);
	unload(&guest);
}

ZTEST(wamr, test_a_stack_no_larger_than_the_guard_runs_nothing)
{
	struct guest guest;

	/* There, threads run on the host's stacks. */
	Z_TEST_SKIP_IFDEF(CONFIG_ARCH_POSIX);
	guest = LOAD(count);
	prepare(&small_worker, &guest, "main", GUEST_STACK_SIZE);
	start_on(&small_worker, small_stack, K_THREAD_STACK_SIZEOF(small_stack));
	zassert_ok(k_thread_join(&small_worker.thread, K_SECONDS(5)));
	zassert_false(small_worker.ok);
	assert_trap(small_worker.instance, "native stack overflow");
	zassert_equal(small_worker.run.slices, 0);
	tear_down(small_worker.instance, small_worker.exec_env);
	unload(&guest);
}

#define MOST 192

static struct WASMModuleInstance *all_instances[MOST];
static struct WASMExecEnv *all_exec_envs[MOST];

static uint32_t fill(const struct guest *guest, uint32_t stack, uint64_t memory_max)
{
	uint32_t count = 0;

	while (count < MOST && instantiate(guest, stack, memory_max, &all_instances[count],
					   &all_exec_envs[count])) {
		count++;
	}
	zassert_true(count < MOST);
	return count;
}

ZTEST(wamr, test_a_full_arena_refuses_and_recovers)
{
	struct guest guest = LOAD(addition);
	uint32_t add = function(&guest, "add");
	uint32_t count = fill(&guest, GUEST_STACK_SIZE, NO_BOUND);

	/* Upstream's benchmark has 24, of any size; a 64-bit machine takes more for each. */
	zassert_true(count >= (IS_ENABLED(CONFIG_64BIT) ? 32 : 64), "%u instances", count);
	for (uint32_t round = 0; round < 3; round++) {
		/* Every third one goes and comes again. */
		for (uint32_t i = round; i < count; i += 3) {
			tear_down(all_instances[i], all_exec_envs[i]);
		}
		for (uint32_t i = round; i < count; i += 3) {
			uint32_t cells[2] = {i, round};

			zassert_true(instantiate(&guest, GUEST_STACK_SIZE, NO_BOUND,
						 &all_instances[i], &all_exec_envs[i]));
			zassert_true(call(all_exec_envs[i], add, 2, cells));
			zassert_equal(cells[0], i + round);
		}
	}
	while (count-- > 0) {
		tear_down(all_instances[count], all_exec_envs[count]);
	}
	unload(&guest);
}

ZTEST(wamr, test_growth_is_refused_where_the_arena_ends)
{
	struct guest guest = LOAD(grow);
	uint32_t grow = function(&guest, "grow");
	struct WASMModuleInstance *instance;
	struct WASMExecEnv *exec_env;
	uint32_t cells[2] = {1};

	zassert_true(instantiate(&guest, GUEST_STACK_SIZE, NO_BOUND, &instance, &exec_env));
	zassert_true(call(exec_env, grow, 1, cells));
	zassert_equal(cells[0], 0);
	cells[0] = 3;
	zassert_true(call(exec_env, grow, 1, cells));
	zassert_equal(cells[0], UINT32_MAX);
	zassert_equal(wamr_guest_memory_len(instance), 65536);
	tear_down(instance, exec_env);
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
	/* Holes of about 12 KiB, for memories of one or two units. */
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

static void assert_bound(const struct guest *guest, struct WASMModuleInstance *instance,
			 struct WASMExecEnv *exec_env, uint32_t len)
{
	static const uint32_t beyond[] = {0, 1, 7, 8, 4095, 60000};
	uint32_t store = function(guest, "store");
	uint32_t last[2] = {len - 1, 0xff};

	zassert_equal(wamr_guest_memory_len(instance), len);
	zassert_true(wamr_block_bytes(wamr_guest_bytes(instance, 0, len)) >= len);
	zassert_true(call(exec_env, store, 2, last));
	for (size_t i = 0; i < ARRAY_SIZE(beyond); i++) {
		uint32_t cells[2] = {len + beyond[i], 0xff};

		zassert_false(call(exec_env, store, 2, cells));
		assert_trap(instance, "out of bounds memory access");
	}
}

ZTEST(wamr, test_a_shrunk_memory_cannot_be_left)
{
	struct guest guest = LOAD(shrinking);
	struct WASMModuleInstance *instance;
	struct WASMExecEnv *exec_env;

	zassert_equal(guest.info.page_bytes, 1280);
	canaries_set();
	zassert_true(instantiate(&guest, GUEST_STACK_SIZE, NO_BOUND, &instance, &exec_env));
	assert_bound(&guest, instance, exec_env, 4096);

	uint32_t whole[3] = {0, 0xff, 4096};
	uint32_t one_more[3] = {0, 0xff, 4097};

	zassert_true(call(exec_env, function(&guest, "fill"), 3, whole));
	zassert_false(call(exec_env, function(&guest, "fill"), 3, one_more));
	assert_trap(instance, "out of bounds memory access");
	tear_down(instance, exec_env);
	canaries_check();
	unload(&guest);
}

ZTEST(wamr, test_a_bounded_memory_cannot_be_left)
{
	struct guest guest = LOAD(page);
	struct WASMModuleInstance *instance;
	struct WASMExecEnv *exec_env;

	canaries_set();
	zassert_true(instantiate(&guest, GUEST_STACK_SIZE, 4096 + 4095, &instance, &exec_env));
	assert_bound(&guest, instance, exec_env, 4096);
	tear_down(instance, exec_env);
	canaries_check();
	unload(&guest);
}

static uint32_t taken(uint32_t *free)
{
	wamr_memory_info memory;
	uint32_t before = *free;

	wamr_memory(&memory);
	*free = memory.free;
	return before - memory.free;
}

static void measure(const char *name, const uint8_t *wasm, uint32_t len, uint32_t stack,
		    uint64_t memory_max)
{
	struct WASMModuleInstance *instance;
	struct WASMExecEnv *exec_env;
	wamr_account account = {0};
	uint32_t free, loaded, instantiated, enveloped, linear, count;
	char error[96] = "";

	(void)taken(&free);
	struct guest guest = load(wasm, len);

	loaded = taken(&free);
	wamr_account *none = wamr_account_swap(&account);

	instance = wamr_instantiate(guest.module, memory_max, error, sizeof(error));
	zassert_not_null(instance, "%s", error);
	instantiated = taken(&free);
	exec_env = wamr_exec_env_new(instance, stack);
	zassert_not_null(exec_env);
	enveloped = taken(&free);
	zassert_equal(wamr_account_swap(none), &account);
	zassert_equal(account.held, instantiated + enveloped);

	linear = wamr_guest_memory_len(instance)
			 ? wamr_block_bytes(wamr_guest_bytes(instance, 0, 1))
			 : 0;
	zassert_equal(wamr_instance_needs(guest.module), instantiated - linear);
	tear_down(instance, exec_env);

	count = fill(&guest, stack, memory_max);
	TC_PRINT("memory,%s,%u,%s,%u,%u,%u,%u,%u,%u\n", CONFIG_BOARD_TARGET,
		 CONFIG_PROPLET_WAMR_BLOCK_ADDR_CACHE_SIZE, name, stack, loaded,
		 instantiated - linear, enveloped, linear, count);
	while (count-- > 0) {
		tear_down(all_instances[count], all_exec_envs[count]);
	}
	unload(&guest);
}

ZTEST(wamr, test_bytes_of_an_instance)
{
	static const uint32_t stacks[] = {4096, 2048, 1024, 512};

	TC_PRINT("memory,board,cache_lines,guest,stack,load,instance,exec_env,linear_memory,"
		 "fit_in_192_kib\n");
	for (size_t i = 0; i < ARRAY_SIZE(stacks); i++) {
		measure("addition", addition_wasm, sizeof(addition_wasm), stacks[i], NO_BOUND);
		measure("page", page_wasm, sizeof(page_wasm), stacks[i], NO_BOUND);
		measure("shrinking", shrinking_wasm, sizeof(shrinking_wasm), stacks[i], NO_BOUND);
		measure("page_bounded_to_4096", page_wasm, sizeof(page_wasm), stacks[i], 4096);
	}
}
