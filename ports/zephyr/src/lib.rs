//! The proplet as a Zephyr application: what the portable crates need of the kernel.
//!
//! ```text
//! main thread (control) ── block_on ── link::run ─┬─ Device ── agent ── engine
//!                      │                          └─ Network ── sockets, dialer thread
//!                      └─ wifi::run ── net_mgmt
//! worker-0 …           ── Workers::run
//! board ── Workers::measure, where the board has sensors
//! shell, log, network ── Zephyr's own threads, all above the workers
//! ```
//!
//! No heap: what lives as long as the firmware lies in statics whose sizes are Kconfig's. The
//! malloc arena is WAMR's alone.
#![no_std]
#![deny(unsafe_code)]

#[cfg(CONFIG_PROPLET_BENCH)]
mod bench;
mod boot;
mod clock;
mod ffi;
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

/// The entry point that zephyr-lang-rust's `main` calls, on the control thread.
// SAFETY: no other item of this name is linked.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn rust_main() {
    boot::run();
}
