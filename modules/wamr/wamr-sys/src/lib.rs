//! What `hook/shim.h` offers of the WebAssembly Micro Runtime (WAMR), declared by hand.
//!
//! The shim is C because it reads WAMR's own structures. It is the whole boundary: no function
//! here takes or returns a float, none unwinds, and every pointer is either opaque or to one of the
//! `repr(C)` types below. The safe crate `wamr` is its one user.
#![no_std]

use core::ffi::{CStr, c_char, c_void};

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

/// What an instance runs on: the operand stack and the count of the slice.
#[repr(C)]
pub struct ExecEnv {
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
}

/// Stands for "the module has no such function".
pub const NO_FUNCTION: u32 = u32::MAX;

/// What loading finds out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ModuleInfo {
    /// The start function.
    pub start: u32,
    /// `_initialize`, or else `__wasm_call_ctors`.
    pub constructors: u32,
    /// `__post_instantiate`.
    pub post_instantiate: u32,
    /// Bytes in a page; smaller than 64 KiB where WAMR shrank the memory; 0 without a memory.
    pub page_bytes: u32,
    /// Pages at the start.
    pub initial_pages: u32,
    /// Pages that the memory can grow to.
    pub maximum_pages: u32,
}

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

/// Sizes of WAMR's structures in this build, in bytes: what an estimate is made of.
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
    /// Without the operand stack.
    pub exec_env: u32,
    /// Linear memories are multiples of it.
    pub memory_unit: u32,
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
    /// What [`wasm_runtime_get_function_attachment`] gives back.
    pub attachment: *const c_void,
}

/// Takes one `u64` for each argument, and leaves its result in the first.
pub type RawFunction = unsafe extern "C" fn(*mut ExecEnv, *mut u64);

/// Asked on the guest's thread when a slice is spent, with the run of [`wamr_call`]. Returns the
/// length of the next slice, or 0 to stop the guest.
pub type SliceFn = unsafe extern "C" fn(*mut c_void) -> u32;

/// [`wamr_init`] succeeded.
pub const INIT_OK: u32 = 0;
/// The runtime was already started.
pub const INIT_AGAIN: u32 = 1;
/// The arena is too small.
pub const INIT_NO_ROOM: u32 = 2;

unsafe extern "C" {
    /// Starts the runtime, once; `arena` is its own from then on.
    pub fn wamr_init(arena: *mut c_void, arena_len: u32, on_slice: SliceFn) -> u32;
    /// The state of the arena.
    pub fn wamr_memory(info: *mut MemoryInfo);
    /// An 8-aligned block, or null.
    pub fn wamr_alloc(size: u32) -> *mut c_void;
    /// A block of `size` bytes with what `block` had, where it was if the arena has room behind it;
    /// or null, and `block` is as before. What is new has any value.
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
    /// Arena bytes that an instance will take, linear memory and execution environment not counted.
    pub fn wamr_instance_needs(module: *const Module) -> u32;
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
        memory_max: u64,
        error: *mut c_char,
        error_len: u32,
    ) -> *mut Instance;
    /// Gives an instance back. It must have no execution environment left.
    pub fn wamr_deinstantiate(instance: *mut Instance);
    /// An execution environment with an operand stack of `stack_len` bytes, or null.
    pub fn wamr_exec_env_new(instance: *mut Instance, stack_len: u32) -> *mut ExecEnv;
    /// Gives an execution environment back.
    pub fn wamr_exec_env_delete(exec_env: *mut ExecEnv);

    /// Calls a function by its index. `argv` has room for the argument cells and for the result
    /// cells; `slice` is at least 1. False on a trap.
    pub fn wamr_call(
        exec_env: *mut ExecEnv,
        index: u32,
        argc: u32,
        argv: *mut u32,
        slice: u32,
        run: *mut c_void,
    ) -> bool;
    /// Units left of the slice, the one that ends it not counted.
    pub fn wamr_slice_left(exec_env: *const ExecEnv) -> u32;
    /// Counts `units` more of the slice that is running; what exceeds it is not counted.
    pub fn wamr_slice_charge(exec_env: *mut ExecEnv, units: u32);
    /// The pending exception, or null.
    pub fn wamr_exception(instance: *mut Instance) -> *const c_char;
    /// Raises an exception, cut to WAMR's 128 bytes.
    pub fn wamr_throw(instance: *mut Instance, text: *const c_char);
    /// The instance that an execution environment belongs to.
    pub fn wamr_instance_of(exec_env: *mut ExecEnv) -> *mut Instance;
    /// The address of `len` bytes of guest memory, or null with the exception set.
    pub fn wamr_guest_bytes(instance: *mut Instance, offset: u64, len: u64) -> *mut u8;
    /// Allocates by the guest's own exported `malloc`, metered as the running call; 0 on failure.
    pub fn wamr_guest_malloc(exec_env: *mut ExecEnv, len: u32) -> u32;
    /// Bytes of linear memory.
    pub fn wamr_guest_memory_len(instance: *mut Instance) -> u64;

    /// As [`wamr_call`], without the slice hook: nothing stops it.
    #[cfg(feature = "plain")]
    pub fn wamr_call_plain(exec_env: *mut ExecEnv, index: u32, argc: u32, argv: *mut u32) -> bool;

    /// WAMR's own: prepares the calling thread.
    pub fn wasm_runtime_init_thread_env() -> bool;
    /// WAMR's own: undoes [`wasm_runtime_init_thread_env`].
    pub fn wasm_runtime_destroy_thread_env();
    /// WAMR's own: the attachment of the host function that is running.
    pub fn wasm_runtime_get_function_attachment(exec_env: *mut ExecEnv) -> *mut c_void;
    /// WAMR's own: the run of [`wamr_call`].
    pub fn wasm_runtime_get_user_data(exec_env: *mut ExecEnv) -> *mut c_void;
}

/// What the C part was compiled from, for tests and benchmarks that compile it once more.
#[cfg(not(target_os = "none"))]
pub mod sources {
    /// The folder of this crate.
    pub const CRATE: &str = env!("CARGO_MANIFEST_DIR");
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
