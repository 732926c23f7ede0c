//! The kernel, as the engine's platform.

use crate::{ffi, header};
use core::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use proplet::{agent::Agent, engine::ProcessUsage};
use proplet_engine::{BoardError, Channel, PinMode, Platform, WamrEngine};

/// The agent of this port.
pub type ZephyrAgent = Agent<'static, WamrEngine<Zephyr>>;

/// The kernel.
#[derive(Debug)]
pub struct Zephyr;

/// Longest wait at once, in microseconds: a worker looks again then.
const WAIT_MAX: u32 = 60_000_000;

/// A run has ended, or a guest has a message, that was not looked at yet.
static NOTIFIED: AtomicBool = AtomicBool::new(false);

/// A restart was asked for.
static SHUTDOWN: AtomicBool = AtomicBool::new(false);

/// Whether `flag` was set; it is not, afterwards. For flags that one thread alone clears: what
/// sets it between the two steps had its effect before them.
fn take(flag: &AtomicBool) -> bool {
    // Not `swap`: not every target has it.
    let set = flag.load(Ordering::Acquire);
    if set {
        flag.store(false, Ordering::Release);
    }
    set
}

/// Whether a run has ended, or a guest has had a message, since the last call.
pub fn take_notified() -> bool {
    take(&NOTIFIED)
}

/// Whether a restart was asked for since the last call.
pub fn take_shutdown() -> bool {
    take(&SHUTDOWN)
}

/// Asks the control thread to say goodbye and restart the device.
#[cfg(CONFIG_SHELL)]
pub fn ask_shutdown() {
    SHUTDOWN.store(true, Ordering::Release);
    ffi::net_wake();
}

impl Platform for Zephyr {
    fn wait(&self, until: Option<Duration>) {
        let left = until.map(|until| {
            let left = until.saturating_sub(self.now()).as_micros();
            u32::try_from(left).unwrap_or(WAIT_MAX).clamp(1, WAIT_MAX)
        });
        ffi::worker_wait(left);
    }

    fn wake(&self) {
        ffi::worker_wake();
    }

    #[cfg(CONFIG_ARCH_POSIX)]
    fn worked(&self, units: u32) {
        ffi::worker_worked(units);
    }

    fn notify(&self) {
        NOTIFIED.store(true, Ordering::Release);
        ffi::net_wake();
    }

    fn thread_time(&self) -> Duration {
        Duration::from_nanos(ffi::thread_time())
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage {
            user: Duration::from_nanos(ffi::busy_time()),
            system: Duration::ZERO,
            rss: ffi::ram().0.into(),
            ..ProcessUsage::default()
        }
    }

    fn now(&self) -> Duration {
        Duration::from_micros(ffi::uptime_us())
    }

    fn random(&self, to: &mut [u8]) {
        ffi::random_fill(to);
    }

    fn gpio_configure(&self, pin: u32, mode: PinMode) -> Result<(), BoardError> {
        let mode = match mode {
            PinMode::Input => header::PROPLET_PIN_INPUT,
            PinMode::InputPullUp => header::PROPLET_PIN_PULL_UP,
            PinMode::InputPullDown => header::PROPLET_PIN_PULL_DOWN,
            PinMode::Output => header::PROPLET_PIN_OUTPUT,
        };
        ffi::gpio_configure(pin, mode).map_err(board_error)
    }

    fn gpio_write(&self, pin: u32, is_high: bool) -> Result<(), BoardError> {
        ffi::gpio_write(pin, is_high).map_err(board_error)
    }

    fn gpio_read(&self, pin: u32) -> Result<bool, BoardError> {
        ffi::gpio_read(pin).map_err(board_error)
    }

    fn wake_board(&self) -> bool {
        ffi::board_wake()
    }

    fn sensor_read(&self, sensor: u32, channel: Channel) -> Result<i64, BoardError> {
        let channel = match channel {
            Channel::AmbientTemperature => header::PROPLET_CHANNEL_TEMPERATURE,
            Channel::Humidity => header::PROPLET_CHANNEL_HUMIDITY,
            Channel::Pressure => header::PROPLET_CHANNEL_PRESSURE,
            Channel::Light => header::PROPLET_CHANNEL_LIGHT,
            Channel::AccelerationX => header::PROPLET_CHANNEL_ACCELERATION_X,
            Channel::AccelerationY => header::PROPLET_CHANNEL_ACCELERATION_Y,
            Channel::AccelerationZ => header::PROPLET_CHANNEL_ACCELERATION_Z,
            Channel::Voltage => header::PROPLET_CHANNEL_VOLTAGE,
        };
        ffi::sensor_read(sensor, channel).map_err(board_error)
    }
}

fn board_error(errno: ffi::Errno) -> BoardError {
    match errno {
        ffi::Errno::NO_DEVICE => BoardError::Absent,
        _ => BoardError::Failed,
    }
}
