//! Tasks: their arguments, their limits, and what is measured of them.
//!
//! - [`args`]: inputs to Wasm values by the export's signature, and results to text.
//! - [`budget`]: the limits that a task's environment asks for, within the device's.
//! - [`caps`]: what a guest may call.
//! - [`learning`]: tasks of a federated round.
//! - [`monitor`]: samples and aggregates of a run.

pub mod args;
pub mod budget;
pub mod caps;
pub mod learning;
pub mod monitor;
