//! A small safe wrapper of the WebAssembly Micro Runtime's classic interpreter, for Zephyr and for
//! hosts alike: `no_std`, and without a Rust heap.
//!
//! Everything that WAMR allocates comes from one arena of fixed size, which [`Runtime::init`] takes.
//! A [`Module`] is loaded once and shared by any number of [`Instance`]s. An instance is data: it
//! begins a call, and a thread's [`Worker`] goes on with it in steps, as long as each step's fuel
//! lasts. Between steps the call is left, wherever it is, and may be gone on with by another worker,
//! on another thread; a host function that has to wait leaves it, too ([`ResumableCall`]).
//!
//! ```
//! # use wamr::{Instance, InstanceConfig, Module, ResumableCall, Runtime, ThreadEnv, Value, Worker};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let arena = Box::leak(Box::new_uninit_slice(64 * 1024));
//! let runtime = Runtime::init(arena, &[])?;
//! # let wasm = wat::parse_str(
//! #     "(module (func $fib (export \"fib\") (param i32) (result i32)
//! #         (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0)) (else
//! #             (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
//! #                      (call $fib (i32.sub (local.get 0) (i32.const 2))))))))",
//! # )?;
//! let mut buffer = runtime.buffer(wasm.len())?;
//! buffer.copy_from_slice(&wasm);
//! let module = Module::load(buffer)?;
//!
//! let mut guests = Vec::new();
//! for n in 10..20 {
//!     let mut instance = Instance::new(&module, &InstanceConfig::default())?;
//!     instance.call("fib", &[Value::I32(n)])?;
//!     guests.push(instance);
//! }
//! let thread = ThreadEnv::enter(runtime)?;
//! let mut worker = Worker::new(&thread, 4096)?;
//! let mut sum = 0;
//! while let Some(mut instance) = guests.pop() {
//!     match instance.resume(&mut worker, 100, &())? {
//!         ResumableCall::Finished => {
//!             let mut result = [Value::I32(0)];
//!             instance.results(&mut result);
//!             let [Value::I32(n)] = result else { unreachable!("`fib` gives an i32") };
//!             sum += n;
//!         }
//!         ResumableCall::OutOfFuel | ResumableCall::Blocked => guests.insert(0, instance),
//!     }
//! }
//! assert_eq!(sum, 10_857);
//! # Ok(())
//! # }
//! ```
//!
//! One unit of work is a branch or a call that the guest executes: every loop and every recursion
//! passes one. Bulk operations count by their size, host functions as they say. So work is the guest's
//! own: the same however it is cut into steps. Fuel pays for work, and besides for what the
//! interpreter does on the way: scans of code for the end of a block, the zeroing of memory, returns
//! from calls. Nothing that a guest does escapes it, neither its start function nor a `malloc` that a
//! host function calls, nor code without branches: a module whose code runs long without one pays more
//! for each unit.
//!
//! The time of a step of n units is that of n + 1,024 times 128 instructions at most, and of what can't
//! be cut: the code behind two checks or returns, one scan of a function's code, one pass over a
//! segment of elements, one bulk operation of 64 KiB, the move of a linear memory into the room before
//! it, and a host function's call back into the guest, of at most 65,536 units.
#![no_std]

#[cfg(not(target_endian = "little"))]
compile_error!("argument cells are laid out for little-endian machines");

mod arena;
mod boxed;
mod error;
mod estimate;
mod host;
mod instance;
mod module;
mod proposals;
mod runtime;
mod value;
mod worker;

pub use boxed::{Boxed, Bytes, Record};
pub use error::{Error, ErrorKind, Trap, TrapKind};
pub use estimate::{MemoryNeeds, Needs, estimate, page_bytes};
pub use host::{Caller, HostCall, HostError, HostFunction};
pub use instance::{Instance, InstanceConfig, Usage};
pub use module::{Memory, Module};
pub use proposals::PROPOSALS;
pub use runtime::{Buffer, MemoryInfo, Promise, Runtime, ThreadEnv};
pub use value::{MAX_PARAMS, MAX_RESULTS, Signature, ValType, Value};
pub use worker::{Active, ResumableCall, Worker};
