//! Declarations of `hook/shim.h`, the seam to the WebAssembly Micro Runtime (WAMR).
//!
//! They are written by hand, so that a build needs no libclang, and compared with the header by the tests of
//! this crate. The shim is C because it reads WAMR's own structures. It is the whole boundary: no function
//! here takes or returns a float, none unwinds, and every pointer is either opaque or to one of the
//! `repr(C)` types below. The safe crate `wamr` is its one user.
#![no_std]

use core::ffi::{CStr, c_char, c_void};
use core::ptr;

#[cfg(test)]
mod seam;

/// A loaded module.
#[repr(C)]
pub struct Module {
    _opaque: [u8; 0],
}

/// A module's instance: its memory, globals and tables.
#[repr(C)]
pub struct Instance {
    _opaque: [u8; 0],
}

/// WAMR's own of a worker: what host functions know their guest by.
#[repr(C)]
pub struct ExecEnv {
    _opaque: [u8; 0],
}

/// A thread's means to run guests, with the operand stack that they run on.
#[repr(C)]
pub struct Worker {
    _opaque: [u8; 0],
}

/// Arena bytes that a run holds and has held, block headers and rounding included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// Bytes held now. Negative where the run freed what another allocated.
    pub held: isize,
    /// The most that was held at once.
    pub peak: isize,
}

/// The state of the arena, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryInfo {
    /// Size.
    pub total: u32,
    /// Not allocated.
    pub free: u32,
    /// The least that `free` has ever been.
    pub min_free: u32,
    /// The largest free block.
    pub largest_free: u32,
    /// Bytes that running guests may take.
    pub spare: u32,
    /// Pages of linear memory that all guests hold.
    pub pages: u32,
}

/// Arena bytes that a linear memory takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryNeed {
    /// When its instance is made.
    pub made: u32,
    /// With all that it has at first.
    pub committed: u32,
}

/// Stands for "the module has no such function".
pub const NO_FUNCTION: u32 = u32::MAX;

/// Findings of loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ModuleInfo {
    /// The start function.
    pub start: u32,
    /// `_initialize`, or else `__wasm_call_ctors`.
    pub constructors: u32,
    /// `__post_instantiate`.
    pub post_instantiate: u32,
    /// Linear memories: one or none.
    pub memories: u32,
    /// Wasm pages at the start.
    pub initial_pages: u32,
    /// Wasm pages that the memory can grow to.
    pub maximum_pages: u32,
    /// Bytes of stack that a call can keep when it is left, its first frame not counted, as far as it
    /// is known.
    pub stack_need: u32,
    /// Slice credit for a unit of work of this module's code.
    pub credit_per_unit: u32,
    /// Functions that it imports.
    pub imports: u32,
}

impl ModuleInfo {
    /// The functions that are run first, in their order; [`NO_FUNCTION`] without one.
    #[must_use]
    pub const fn initialisers(&self) -> [u32; 3] {
        [self.start, self.constructors, self.post_instantiate]
    }
}

/// The common part of all instances of a module; made by the first, freed by the last.
#[repr(C)]
#[derive(Debug)]
pub struct Tables {
    /// Instances.
    pub users: u32,
    functions: *mut c_void,
    imports: *mut c_void,
    exports: *mut c_void,
    globals: *mut c_void,
}

impl Tables {
    /// None yet.
    pub const NONE: Self = Self {
        users: 0,
        functions: ptr::null_mut(),
        imports: ptr::null_mut(),
        exports: ptr::null_mut(),
        globals: ptr::null_mut(),
    };
}

/// Largest number of arguments of a host function that waits.
pub const BLOCKING_ARGS: usize = 8;

/// [`Call::is_some`] is false: there is no call.
const NO_CALL: u8 = 0;

/// Bytes of the header of a block of the arena.
pub const BLOCK_HEADER: u32 = 4;
/// Divides the size of a block with its header, in bytes.
pub const BLOCK_ALIGN: u32 = 8;

/// A call of an instance's function, or none. Its owner sets `instance` and the bounds between
/// calls; the rest is C's.
#[repr(C)]
#[derive(Debug)]
pub struct Call {
    /// Whose function it calls.
    pub instance: *mut Instance,
    kept: *mut u8,
    /// The host function that it waits for, or null.
    pub waiting: *const c_void,
    base: usize,
    top: u32,
    beyond: u32,
    frame: u32,
    function: u32,
    /// Bytes of a worker's stack that it may use.
    pub stack_max: u32,
    /// Slice credit for a unit of work.
    pub per_unit: u32,
    debt: u32,
    phase: u8,
    tail: u8,
    entered: u8,
    /// Units of work that were done.
    pub work: u64,
    /// Units of work that may be done.
    pub work_left: u64,
}

impl Call {
    /// None, of an instance whose code takes so much slice credit for a unit of work.
    #[must_use]
    pub const fn new(instance: *mut Instance, per_unit: u32, stack_max: u32) -> Self {
        Self {
            instance,
            kept: ptr::null_mut(),
            waiting: ptr::null(),
            base: 0,
            top: 0,
            beyond: 0,
            frame: 0,
            function: 0,
            stack_max,
            per_unit,
            debt: 0,
            phase: NO_CALL,
            tail: 0,
            entered: 0,
            work: 0,
            work_left: u64::MAX,
        }
    }

    /// Whether there is a call.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.phase != NO_CALL
    }

    /// Whether it is on a worker's stack.
    #[must_use]
    pub const fn is_entered(&self) -> bool {
        self.entered != 0
    }

    /// Bytes of the arena in which the call is kept.
    #[must_use]
    pub fn kept_bytes(&self) -> u32 {
        if self.kept.is_null() {
            return 0;
        }
        // SAFETY: what is not null is a block of the arena.
        unsafe { wamr_block_bytes(self.kept.cast()) }
    }
}

/// [`wamr_run`]: the function has returned.
pub const FINISHED: u32 = 0;
/// [`wamr_run`]: the step's credit is used.
pub const OUT_OF_FUEL: u32 = 1;
/// [`wamr_run`]: a host function waits.
pub const BLOCKED: u32 = 2;
/// [`wamr_run`]: an exception is pending.
pub const TRAPPED: u32 = 3;

/// A function's type, in memory that the module owns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FunctionType {
    /// One WebAssembly value type byte for each parameter, then for each result.
    pub types: *const u8,
    /// Parameters.
    pub params: u32,
    /// Results.
    pub results: u32,
}

/// Sizes of WAMR's structures in this build, in bytes, of which an estimate is made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(
    missing_docs,
    reason = "each is the size of the structure that it is named after"
)]
pub struct Sizes {
    pub pointer: u32,
    pub module: u32,
    pub function_type: u32,
    pub import: u32,
    pub function: u32,
    pub table: u32,
    pub memory: u32,
    pub global: u32,
    pub export: u32,
    pub element_segment: u32,
    pub element: u32,
    pub data_segment: u32,
    pub instance: u32,
    pub instance_extra: u32,
    pub memory_instance: u32,
    pub table_instance: u32,
    pub table_slot: u32,
    /// Slots of a table that can grow and says no maximum.
    pub table_slots_default: u32,
    pub bitmap: u32,
    pub global_instance: u32,
    pub function_instance: u32,
    pub export_function: u32,
    /// Bytes of the pages that linear memories are made of; 0 where they are one block.
    pub small_page: u32,
}

/// A host function as WAMR registers it. WAMR sorts the array that it is in.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NativeSymbol {
    /// The name that guests import.
    pub symbol: *const c_char,
    /// A [`RawFunction`].
    pub function: *const c_void,
    /// As in `(ii)i`.
    pub signature: *const c_char,
    /// Result of [`wasm_runtime_get_function_attachment`].
    pub attachment: *const c_void,
}

/// Takes one `u64` for each argument, and leaves its result in the first.
pub type RawFunction = unsafe extern "C" fn(*mut ExecEnv, *mut u64);

/// [`wamr_init`] succeeded.
pub const INIT_OK: u32 = 0;
/// The runtime was already started.
pub const INIT_AGAIN: u32 = 1;
/// The arena is too small.
pub const INIT_NO_ROOM: u32 = 2;

unsafe extern "C" {
    /// Starts the runtime, once; `arena` is its own from then on.
    pub fn wamr_init(arena: *mut c_void, arena_len: u32) -> u32;
    /// The state of the arena.
    pub fn wamr_memory(info: *mut MemoryInfo);
    /// Bytes of the arena that guests leave free when they take pages.
    pub fn wamr_set_reserve(bytes: u32);
    /// Has guests leave `bytes` more free until [`wamr_promise_end`]. False where they are not free.
    pub fn wamr_promise(bytes: u32) -> bool;
    /// Ends this thread's promise.
    pub fn wamr_promise_end();
    /// An 8-aligned block, or null.
    pub fn wamr_alloc(size: u32) -> *mut c_void;
    /// A block of `size` bytes with what `block` had, where it was if the arena has room behind it;
    /// or null, and `block` is as before. New bytes have any value.
    pub fn wamr_realloc(block: *mut c_void, size: u32) -> *mut c_void;
    /// Gives a block back.
    pub fn wamr_free(block: *mut c_void);
    /// Arena bytes that a block takes.
    pub fn wamr_block_bytes(block: *const c_void) -> u32;
    /// Books this thread's allocations to `account` or, when null, to none. Returns the account
    /// before.
    pub fn wamr_account_swap(account: *mut Account) -> *mut Account;
    /// Adds one, atomically.
    pub fn wamr_count_up(count: *mut u32);
    /// Takes one away, atomically; returns what is left.
    pub fn wamr_count_down(count: *mut u32) -> u32;
    /// Registers `count` symbols under a module's name, and keeps the array.
    pub fn wamr_register(
        module_name: *const c_char,
        symbols: *mut NativeSymbol,
        count: u32,
    ) -> bool;

    /// Loads a module, whose bytes it rewrites and keeps until [`wamr_unload`]. Null on failure,
    /// with a text in `error`.
    pub fn wamr_load(
        wasm: *mut u8,
        wasm_len: u32,
        info: *mut ModuleInfo,
        error: *mut c_char,
        error_len: u32,
    ) -> *mut Module;
    /// The sizes of this build. Needs no runtime.
    pub fn wamr_get_sizes(sizes: *mut Sizes);
    /// Arena bytes that an instance will take, linear memory and tables not counted.
    pub fn wamr_instance_needs(module: *const Module) -> u32;
    /// Arena bytes that its linear memory takes, without a bound.
    pub fn wamr_memory_needs(module: *const Module, need: *mut MemoryNeed);
    /// Arena bytes of the tables, which the first instance makes.
    pub fn wamr_tables_need(module: *const Module) -> u32;
    /// Arena bytes that making a further instance takes for the time being.
    pub fn wamr_copy_needs(module: *const Module) -> u32;
    /// Bytes of the frame that a call begins with.
    pub fn wamr_first_frame_bytes(result_cells: u32) -> u32;
    /// Gives a module back. It must have no instance left.
    pub fn wamr_unload(module: *mut Module);
    /// The index of an exported function, or [`NO_FUNCTION`].
    pub fn wamr_find_function(
        module: *const Module,
        name: *const c_char,
        name_len: u32,
        function_type: *mut FunctionType,
    ) -> u32;

    /// Instantiates without running guest code. Null on failure, with a text in `error`.
    pub fn wamr_instantiate(
        module: *mut Module,
        tables: *mut Tables,
        memory_max: u64,
        commit: bool,
        error: *mut c_char,
        error_len: u32,
    ) -> *mut Instance;
    /// Gives an instance back. Nothing of a call of it is kept.
    pub fn wamr_deinstantiate(instance: *mut Instance, tables: *mut Tables);

    /// Arena bytes of a worker with such a stack.
    pub fn wamr_worker_bytes(stack_len: u32) -> u32;
    /// A worker, for the calling thread alone; null without room.
    pub fn wamr_worker_new(stack_len: u32) -> *mut Worker;
    /// Gives a worker back. No call is on it.
    pub fn wamr_worker_delete(worker: *mut Worker);
    /// For host functions that are called outside of a guest's.
    pub fn wamr_worker_env(worker: *mut Worker) -> *mut ExecEnv;
    /// Begins a call, without running anything, and keeps `reserve` bytes for it. False where the
    /// arena has no room.
    pub fn wamr_begin(
        call: *mut Call,
        index: u32,
        argc: u32,
        argv: *const u32,
        reserve: u32,
    ) -> bool;
    /// The cells of the results of a call that has finished.
    pub fn wamr_results(call: *const Call, cells: *mut u32, count: u32);
    /// Gives back what is kept of a call.
    pub fn wamr_drop(call: *mut Call);
    /// Puts a call on the worker's empty stack. False where that is too small.
    pub fn wamr_enter(worker: *mut Worker, call: *mut Call) -> bool;
    /// Takes the call off the stack. False where the arena has no room for it: it has ended, then.
    pub fn wamr_leave(worker: *mut Worker) -> bool;
    /// Ends the call that is on the stack.
    pub fn wamr_give_up(worker: *mut Worker);
    /// Begins a step of the call on the stack. False where its debt takes all the fuel.
    pub fn wamr_fuel(worker: *mut Worker, fuel: u32, run: *mut c_void) -> bool;
    /// Runs the call on the stack; how that ended.
    pub fn wamr_run(worker: *mut Worker) -> u32;
    /// From a host function that waits. False where the guest can't be left now.
    pub fn wamr_block(
        exec_env: *mut ExecEnv,
        function: *const c_void,
        args: *const u64,
        count: u32,
    ) -> bool;
    /// The arguments of the host function that is waited for; how many. There is room for
    /// [`BLOCKING_ARGS`].
    pub fn wamr_blocked_args(worker: *const Worker, args: *mut u64) -> u32;
    /// That one waits on. False where it has used its call's work up: that traps when it is run.
    pub fn wamr_wait(worker: *mut Worker, args: *const u64, count: u32) -> bool;
    /// Gives that one its result, of `cells` cells.
    pub fn wamr_unblock(worker: *mut Worker, result: u64, cells: u32);
    /// Counts `units` of work for what a host function does.
    pub fn wamr_host_charge(exec_env: *mut ExecEnv, units: u32);
    /// The pending exception, or null.
    pub fn wamr_exception(instance: *mut Instance) -> *const c_char;
    /// Raises an exception, cut to WAMR's 128 bytes.
    pub fn wamr_throw(instance: *mut Instance, text: *const c_char);
    /// The instance that an execution environment belongs to.
    pub fn wamr_instance_of(exec_env: *mut ExecEnv) -> *mut Instance;
    /// Whether `len` bytes are the guest's memory; else false with the exception set.
    pub fn wamr_guest_check(instance: *mut Instance, offset: u32, len: u32) -> bool;
    /// Copies them; false with the exception set, and nothing is copied.
    pub fn wamr_guest_read(instance: *mut Instance, offset: u32, to: *mut u8, len: u32) -> bool;
    /// Writes those of the guest that called a host function; the same.
    pub fn wamr_guest_write(exec_env: *mut ExecEnv, offset: u32, from: *const u8, len: u32)
    -> bool;
    /// Allocates by the guest's own exported `malloc`, whose work is bounded; 0 on failure.
    pub fn wamr_guest_malloc(exec_env: *mut ExecEnv, len: u32) -> u32;
    /// Bytes of linear memory.
    pub fn wamr_guest_memory_len(instance: *mut Instance) -> u64;
    /// Pages that it holds.
    pub fn wamr_guest_pages(instance: *mut Instance) -> u32;

    /// Calls a function without the hook, from its beginning to its end: nothing stops it.
    #[cfg(feature = "plain")]
    pub fn wamr_call_plain(
        worker: *mut Worker,
        instance: *mut Instance,
        index: u32,
        argc: u32,
        argv: *mut u32,
    ) -> bool;

    /// WAMR's own: prepares the calling thread.
    pub fn wasm_runtime_init_thread_env() -> bool;
    /// WAMR's own: undoes [`wasm_runtime_init_thread_env`].
    pub fn wasm_runtime_destroy_thread_env();
    /// WAMR's own: the attachment of the host function that is running.
    pub fn wasm_runtime_get_function_attachment(exec_env: *mut ExecEnv) -> *mut c_void;
    /// WAMR's own: the run of [`wamr_fuel`].
    pub fn wasm_runtime_get_user_data(exec_env: *mut ExecEnv) -> *mut c_void;
}

/// Origin of the C part, for tests and benchmarks that compile it once more.
#[cfg(not(target_os = "none"))]
pub mod sources {
    /// The folder of WAMR.
    pub const WAMR: &str = env!("PROPLET_WAMR_CORE");
    /// The target.
    pub const TARGET: &str = env!("PROPLET_WAMR_TARGET");
}

/// The text of a buffer that C filled, without what is not UTF-8.
#[must_use]
pub fn error_text(buffer: &[u8]) -> &str {
    let bytes = CStr::from_bytes_until_nul(buffer).map_or(buffer, CStr::to_bytes);
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => bytes
            .get(..e.valid_up_to())
            .and_then(|valid| core::str::from_utf8(valid).ok())
            .unwrap_or_default(),
    }
}
