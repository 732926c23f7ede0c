//! The proplet as a Zephyr application: what the portable crates need of the kernel.
//!
//! ```text
//! main thread (control) ── block_on ─┬─ link::run ─┬─ agent ── engine
//!                                    │             └─ Network ── sockets, dialer thread
//!                                    ├─ report::answer ── agent, for the shell
//!                                    └─ wifi::run ── net_mgmt
//! worker-0 …           ── Workers::run
//! board ── Workers::measure, where the board has sensors
//! shell, log, network ── Zephyr's own threads, all above the workers
//! ```
//!
//! No heap: statics, whose sizes are Kconfig's, hold all that lives as long as the firmware. The malloc
//! arena is WAMR's alone.
#![no_std]
#![deny(unsafe_code)]

#[cfg(CONFIG_PROPLET_BENCH)]
mod bench;
mod boot;
mod clock;
mod exports;
mod ffi;
mod header;
mod logger;
mod net;
mod platform;
mod report;
mod settings;
mod sizes;
#[cfg(CONFIG_PROPLET_STORE)]
mod store;
#[cfg(CONFIG_PROPLET_WIFI)]
mod wifi;
