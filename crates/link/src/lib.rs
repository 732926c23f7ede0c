//! The part of a proplet that both ports share above sockets: the MQTT session, HTTP exchanges, and
//! the reactor that drives them.
//!
//! ```text
//! port: sockets, clock, wake-up descriptor, and the cell of the agent
//!   └ reactor::block_on ─ one task
//!       ├ run ─ link: one session after the other
//!       │   ├ dial ─ resolve ▸ connect ▸ TLS ▸ CONNECT
//!       │   ├ subscriptions, publishing, liveness ─ the state of the session
//!       │   ├ driver ─ the agent's ticks, signals and shutdown, while the link waits
//!       │   ├ http_client ─ http: the agent's requests
//!       │   └ minimq ─ gate::Gate ─ the port's TCP connection
//!       └ whatever else the port does with the agent, beside the link
//! ```
//!
//! `link` conducts; the parts below it do not know each other. Nothing here allocates, keeps global
//! state, or blocks other than by being pending.

#![no_std]
#![forbid(unsafe_code)]

mod config;
mod dial;
mod driver;
mod error;
pub mod gate;
pub mod http;
mod http_client;
mod inbox;
mod link;
mod liveness;
mod publishing;
pub mod reactor;
mod resumption;
mod run;
mod session;
mod stack;
mod status;
mod subscriptions;
mod time;

pub use config::{Buffers, LinkConfig, SetupError};
pub use driver::Signal;
pub use error::ConnectionError;
pub use run::run;
pub use stack::{Stack, TlsError};
pub use status::{LinkState, LinkStatus};
