//! A small safe wrapper of the WebAssembly Micro Runtime's classic interpreter, for Zephyr and for
//! hosts alike: `no_std`, and without a Rust heap.
//!
//! Everything that WAMR allocates comes from one arena of fixed size, which [`Runtime::init`] takes.
//! A [`Module`] is loaded once and shared by any number of [`Instance`]s. An instance belongs to
//! the thread that made it, under that thread's [`ThreadEnv`]. Guest code runs in slices: at the
//! end of each, a [`Supervisor`] on the guest's own thread hears of it and lets the guest go on or
//! interrupts it. Nothing that a guest does escapes this, neither its start function nor a `malloc`
//! that a host function calls; a guest that is interrupted, or that traps, leaves an instance that
//! can be dropped and even called again.
//!
//! One unit of work is a branch or a call that the guest executes: every loop and every
//! recursion passes one. A unit has a bound and not a fixed cost: the longest are a
//! `memory.fill` or `memory.copy` over the whole linear memory.
#![no_std]

#[cfg(not(target_endian = "little"))]
compile_error!("argument cells are laid out for little-endian machines");

mod arena;
mod error;
mod estimate;
mod host;
mod instance;
mod module;
mod runtime;
mod supervisor;
mod value;

pub use error::{Error, ErrorKind, Trap, TrapKind};
pub use estimate::{Needs, estimate};
pub use host::{Caller, HostError, HostFunction};
pub use instance::{Instance, InstanceConfig, Usage};
pub use module::{Memory, Module};
pub use runtime::{Buffer, MemoryInfo, Runtime, ThreadEnv};
pub use supervisor::{InterruptHandle, Supervisor, Verdict};
pub use value::{MAX_PARAMS, MAX_RESULTS, Signature, ValType, Value};
