//! The proplet's Wasm engine: what both ports share above threads.
//!
//! [`WamrEngine`] is the agent's [`Engine`](proplet::engine::Engine), on the control thread. A
//! port gives each slot a worker thread that calls [`Workers::run`] and stays there; the two meet
//! in [`Workers`]. Locks are critical sections around a copy, never around a guest.
#![no_std]
#![forbid(unsafe_code)]

mod engine;
mod guest;
mod worker;

pub use engine::{ModuleState, WamrEngine};
pub use guest::host_functions;
pub use worker::{Job, Platform, SlotState, Workers};
