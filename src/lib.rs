//! The portable core of a proplet: the worker of a Propeller network, which runs WebAssembly
//! tasks that a manager hands out over MQTT.
//!
//! No IO, no clock, no threads, no allocator: a port brings those. From the outside in:
//!
//! - [`agent`]: the proplet. Events in, publications out, with the time passed in.
//! - [`wire`]: topics, commands as they come in, reports as they go out.
//! - [`module`]: the shared-module instance table, and modules that come in chunks.
//! - [`task`]: arguments, limits and the monitor of a run.
//! - [`engine`]: the seam to the Wasm engine of a port.
//! - [`wifi`]: bring-up of the network, where that is the port's to do.
//! - [`store`]: the seam to storage that survives a reboot.
//! - [`collections`]: lists, heaps and hash chains over memory of their user.
//! - [`retry`]: how long to wait between two attempts.
//! - [`config`], [`settings`], [`time`]: what a port passes in.
#![no_std]
#![forbid(unsafe_code)]

pub mod agent;
pub mod collections;
pub mod config;
pub mod engine;
pub mod http;
pub mod memory;
pub mod module;
pub mod retry;
pub mod settings;
pub mod store;
pub mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod time;
pub mod wifi;
pub mod wire;
