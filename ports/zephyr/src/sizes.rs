//! The capacities that Kconfig says.

use core::time::Duration;
use zephyr::kconfig as k;

pub const SLOTS: usize = k::CONFIG_PROPLET_SLOTS as usize;
/// Threads that run guests.
pub const WORKERS: usize = k::CONFIG_PROPLET_WORKERS as usize;
pub const DEPLOYMENTS: usize = k::CONFIG_PROPLET_DEPLOYMENTS as usize;
pub const FETCHES: usize = k::CONFIG_PROPLET_FETCHES as usize;
pub const MODULES: usize = k::CONFIG_PROPLET_MODULES as usize;
/// With those of answers to commands that are not acknowledged.
pub const OUTBOX: usize = k::CONFIG_PROPLET_OUTBOX as usize + proplet::agent::RECEIVE_MAXIMUM;
/// Of the inputs and the environment in one message.
pub const TEXT: usize = k::CONFIG_PROPLET_TEXT_SIZE as usize;
/// Of what is read at once of the broker's packets.
pub const RX: usize = 512;
/// Of packets that go to the broker in one write.
pub const OUTPUT: usize = 512;
pub const TX: usize = k::CONFIG_PROPLET_TX_BUFFER_SIZE as usize;
/// Of the head of an HTTP request or response.
pub const HTTP: usize = k::CONFIG_PROPLET_HTTP_BUFFER_SIZE as usize;
/// Of a page of the store's flash.
#[cfg(CONFIG_PROPLET_STORE)]
pub const STORE_PAGE: usize = k::CONFIG_PROPLET_STORE_PAGE_SIZE as usize;
#[cfg(CONFIG_PROPLET_STORE)]
pub const STORE_MODULES: usize = k::CONFIG_PROPLET_STORE_MODULES as usize;
#[cfg(CONFIG_PROPLET_STORE)]
pub const STORE_NOTES: usize = k::CONFIG_PROPLET_STORE_NOTES as usize;
/// Of about 1 KiB each.
#[cfg(CONFIG_PROPLET_STORE)]
pub const STORE_PIECES: usize = k::CONFIG_PROPLET_STORE_PIECES as usize;
/// Without a sign of life for so long, the watchdog resets the device.
#[cfg(CONFIG_PROPLET_WATCHDOG)]
pub const WATCHDOG: Duration = Duration::from_millis(k::CONFIG_PROPLET_WATCHDOG_TIMEOUT_MS as u64);
#[cfg(not(CONFIG_PROPLET_WATCHDOG))]
pub const WATCHDOG: Duration = Duration::MAX;
/// Of the control thread.
pub const CONTROL_STACK: usize = k::CONFIG_MAIN_STACK_SIZE as usize;
/// Stack of the control thread beside the futures that it waits with: the frames of all that they call. 19.4 KB were
/// used at most, 19.0 on the ESP32-C3, and 23.3 where signatures are verified (docs/memory.md); the
/// kilobyte above is for what was not met then.
pub const CONTROL_FRAMES: usize = if cfg!(CONFIG_PROPLET_SIGNATURES) {
    24 * 1024
} else {
    20 * 1024
};
/// 128 bytes and the proplet's id.
pub const WILL: usize = 256;
/// Bytes of a certificate or a key, without its NUL.
#[cfg(CONFIG_PROPLET_TLS)]
pub const PEM: usize = k::CONFIG_PROPLET_TLS_CREDENTIAL_SIZE as usize;
#[cfg(not(CONFIG_PROPLET_TLS))]
pub const PEM: usize = 0;

const _: () = assert!(
    k::CONFIG_PROPLET_GUEST_STACK_SIZE_MAX >= k::CONFIG_PROPLET_GUEST_STACK_SIZE,
    "CONFIG_PROPLET_GUEST_STACK_SIZE_MAX is smaller than CONFIG_PROPLET_GUEST_STACK_SIZE"
);
