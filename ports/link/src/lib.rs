//! What both ports of the proplet share above sockets: the MQTT session of one proplet, and the
//! reactor that drives it.
//!
//! ```text
//! port: sockets, clock, wake-up descriptor
//!   └ reactor::block_on ─ one task
//!       └ run ─ resolve ▸ dial ▸ CONNECT ▸ subscribe ▸ serve ▸ back off ▸ …
//!           ├ Application: the agent, events in and publications out
//!           └ minimq ─ bounded::Bounded ─ the port's TCP connection
//! ```
//!
//! Nothing here allocates, keeps global state, or blocks other than by being pending.

#![no_std]
#![forbid(unsafe_code)]

mod application;
pub mod bounded;
mod courier;
mod link;
pub mod reactor;
mod settings;
mod stack;
mod status;

pub use application::Application;
pub use link::{Signal, run};
pub use settings::{Buffers, Settings, SetupError};
pub use stack::Stack;
pub use status::{State, Status, Trouble};
