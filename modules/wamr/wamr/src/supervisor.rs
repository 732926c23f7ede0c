//! How guests are kept on a leash.

use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arena::Shared;
use crate::error::Error;

/// Hears, on the guest's thread, of every slice that a guest has used up.
///
/// It may block or yield there: the guest waits meanwhile. It must not panic: guests are called
/// through C, across which nothing unwinds, so a panic aborts.
pub trait Supervisor: Any + Sync {
    /// The guest did `work` units since the last time, and its instance holds `held` bytes of the
    /// arena. The first time in each call `work` is 0, and no guest code has run yet.
    fn slice(&self, work: u32, held: u32) -> Verdict;
}

/// What happens at the end of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on, for this many units of work; 0 counts as 1.
    Continue(u32),
    /// Trap with [`TrapKind::Interrupted`](crate::TrapKind::Interrupted).
    Interrupt,
}

/// Interrupts one instance from any thread. It may outlive the instance.
#[derive(Clone)]
pub struct InterruptHandle(Shared<AtomicBool>);

impl InterruptHandle {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self(Shared::new(AtomicBool::new(false))?))
    }

    /// Interrupts the call that is running at the end of its slice; without one, the next call
    /// before it starts. One interrupt stops one call.
    pub fn interrupt(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was pending; no longer. Not a swap: some targets have none, and only the
    /// instance's thread clears the flag. An interrupt in between is one with the pending one.
    pub(crate) fn take(&self) -> bool {
        let pending = self.0.load(Ordering::Acquire);
        if pending {
            self.0.store(false, Ordering::Release);
        }
        pending
    }
}
