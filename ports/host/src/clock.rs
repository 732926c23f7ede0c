//! Time since the process began.

use embassy_time_driver::Driver;
use proplet::time::{Duration, Instant};
use proplet_link::reactor::Alarm;
use std::{
    sync::LazyLock,
    task::Waker,
    time::{self, SystemTime, UNIX_EPOCH},
};

static BEGAN: LazyLock<time::Instant> = LazyLock::new(time::Instant::now);

/// The alarm of this process's one task.
pub static ALARM: Alarm = Alarm::new();

struct Clock;

impl Driver for Clock {
    /// embassy-time counts microseconds unless a feature says otherwise, and none does.
    fn now(&self) -> u64 {
        BEGAN.elapsed().as_micros() as u64
    }

    fn schedule_wake(&self, at: u64, _: &Waker) {
        ALARM.schedule(at);
    }
}

embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock);

/// Time since the process began, or since it first asked.
pub fn uptime() -> Duration {
    BEGAN.elapsed()
}

/// The present moment, as the agent counts it.
pub fn now() -> Instant {
    Instant::from_millis(uptime().as_millis() as u64)
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
