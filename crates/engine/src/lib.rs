//! The proplet's Wasm engine: what both ports share above threads.
//!
//! [`WamrEngine`] is the agent's [`Engine`](proplet::engine::Engine), on the control thread. A
//! port has one worker thread or more that call [`Workers::run`] and stay there: they step all guests
//! in turn, from one queue. The two meet in [`Workers`]. Locks are critical sections around a move,
//! never around a guest. A slot takes 32 bytes of static memory on 32 bits; a task is in the arena.
//!
//! [`host_functions`] are those that guests may call; docs/host-api.md is their reference.
#![no_std]
#![forbid(unsafe_code)]

mod engine;
mod guest;
mod mailbox;
mod platform;
mod run_queue;
mod task;
mod value;
mod worker;

pub use engine::{ModuleState, Record, WamrEngine, memory_least, with_memory};
pub use guest::{HOST_FUNCTIONS, host_functions};
pub use platform::{BoardError, Channel, PinMode, Platform};
pub use run_queue::QueueEntry;
pub use task::SlotState;
pub use worker::{DeviceConfig, Workers};
