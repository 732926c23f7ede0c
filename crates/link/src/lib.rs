//! What both ports of the proplet share above sockets: the MQTT session of one proplet, HTTP
//! exchanges, and the reactor that drives them.
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
pub mod http;
mod link;
pub mod reactor;
mod settings;
mod stack;
mod status;

pub use application::Application;
pub use link::{Signal, run};
pub use settings::{Buffers, Settings, SetupError};
pub use stack::{Stack, TlsError};
pub use status::{State, Status, Trouble};

/// A duration in ticks; what is too long for those is as good as for ever.
fn ticks(duration: core::time::Duration) -> embassy_time::Duration {
    duration.try_into().unwrap_or(embassy_time::Duration::MAX)
}
