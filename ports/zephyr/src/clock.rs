//! Time since boot.

use crate::ffi;
use core::task::Waker;
use embassy_time_driver::Driver;
use proplet::time::Instant;
use proplet_link::reactor::Alarm;

/// The alarm of the control thread's one task.
pub static ALARM: Alarm = Alarm::new();

struct Clock;

impl Driver for Clock {
    /// embassy-time counts microseconds unless a feature says otherwise, and none does.
    fn now(&self) -> u64 {
        ffi::uptime_us()
    }

    fn schedule_wake(&self, at: u64, _: &Waker) {
        ALARM.schedule(at);
    }
}

embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock);

/// The present moment, as the core counts it.
pub fn now() -> Instant {
    Instant::from_millis(ffi::uptime_us() / 1000)
}
