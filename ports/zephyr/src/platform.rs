//! What Zephyr gives the workers.

use crate::{ffi, sizes::SLOTS};
use core::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use proplet::engine::{Preemption, ProcessUsage, Schedule, Slot};
use proplet_engine::Platform;

/// The kernel.
#[derive(Debug)]
pub struct Zephyr;

/// Whether a slot's next turn is its run's first. That is free: the worker has just been put at
/// the end of the line.
static FRESH: [AtomicBool; SLOTS] = [const { AtomicBool::new(false) }; SLOTS];

/// A run has ended and nobody has looked yet.
static EXITED: AtomicBool = AtomicBool::new(false);

/// Somebody wants the device restarted.
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

/// Whether a run has ended since the last call.
pub fn take_exited() -> bool {
    take(&EXITED)
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
    fn wait(&self, slot: Slot) {
        ffi::worker_wait(slot.0.into());
    }

    fn wake(&self, slot: Slot) {
        FRESH[usize::from(slot.0)].store(true, Ordering::Release);
        ffi::worker_wake(slot.0.into());
    }

    #[cfg(CONFIG_ARCH_POSIX)]
    fn worked(&self, units: u32) {
        ffi::worker_worked(units);
    }

    fn schedule(&self, slot: Slot, schedule: Schedule) {
        let weight = match schedule.preemption {
            Preemption::Fuel => 0,
            Preemption::Time => schedule.weight,
        };
        ffi::worker_weigh(slot.0.into(), weight);
    }

    fn take_turn(&self, slot: Slot, interrupted: bool) {
        if !take(&FRESH[usize::from(slot.0)]) && !interrupted {
            ffi::worker_yield();
        }
    }

    /// A hurried guest has gone first by its priority.
    fn give_way(&self, slot: Slot) {
        ffi::worker_look(slot.0.into());
    }

    fn end_turn(&self, _: Slot) {}

    fn hurry(&self, slot: Slot) {
        ffi::worker_hurry(slot.0.into());
    }

    fn exited(&self) {
        EXITED.store(true, Ordering::Release);
        ffi::net_wake();
    }

    fn thread_time(&self, slot: Slot) -> Duration {
        Duration::from_nanos(ffi::thread_time(slot.0.into()))
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage {
            user: Duration::from_nanos(ffi::busy_time()),
            system: Duration::ZERO,
            rss: ffi::ram().0.into(),
        }
    }
}
