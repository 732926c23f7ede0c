//! The one `block_on` of a port: no executor, no heap, no thread of its own.
//!
//! A port has one task, the [`link`](crate::run). Whenever that is pending, all its timers have
//! just been polled and have told their moments to the time driver, and all its sockets have
//! told the port what they wait for. So an [`Alarm`], which is one number, is queue enough for
//! the driver, and the port sleeps in one `poll` over its sockets and its wake-up descriptor.
//!
//! A port writes itself, because this crate forbids `unsafe` and has no clock:
//!
//! ```ignore
//! static ALARM: Alarm = Alarm::new();
//!
//! struct Clock;
//! impl embassy_time_driver::Driver for Clock {
//!     fn now(&self) -> u64 { /* ticks since boot: microseconds */ }
//!     fn schedule_wake(&self, at: u64, _: &core::task::Waker) { ALARM.schedule(at) }
//! }
//! embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock);
//!
//! block_on(&ALARM, &waker, link, |deadline| {
//!     // 1. poll {wake-up descriptor, every (socket, events) that a future has registered}
//!     //    until `deadline`; 2. empty the wake-up descriptor; 3. forget what was registered.
//! });
//! ```
//!
//! and an implementation of `critical-section`.

use core::{
    cell::Cell,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};
use critical_section::Mutex;
use embassy_time::Instant;

/// The next moment that any timer of the one task waits for: the core of a time driver.
#[derive(Debug)]
pub struct Alarm(Mutex<Cell<u64>>);

impl Default for Alarm {
    fn default() -> Self {
        Self::new()
    }
}

impl Alarm {
    /// An alarm that is not set.
    pub const fn new() -> Self {
        Self(Mutex::new(Cell::new(u64::MAX)))
    }

    /// Sets the alarm to `at`, in ticks of embassy-time, unless it is set to an earlier moment:
    /// `embassy_time_driver::Driver::schedule_wake`. There is one task, so there is no waker to
    /// keep.
    pub fn schedule(&self, at: u64) {
        critical_section::with(|cs| {
            let next = self.0.borrow(cs);
            next.set(next.get().min(at));
        });
    }

    fn clear(&self) {
        critical_section::with(|cs| self.0.borrow(cs).set(u64::MAX));
    }

    fn next(&self) -> Option<Instant> {
        let at = critical_section::with(|cs| self.0.borrow(cs).get());
        (at != u64::MAX).then(|| Instant::from_ticks(at))
    }
}

/// Runs `future` to its end.
///
/// Whenever it is pending, `park` is called with the moment at which the task must be polled
/// again at the latest: one that has passed means at once, `None` that only a socket or `waker`
/// can end the wait. `park` may return early for any reason. `waker` must end it, also if called
/// before it begins, from within the task or from another thread: let it signal the wake-up
/// descriptor that `park` polls.
///
/// A future that keeps a timer must poll it each time that it is polled itself, as `select` and
/// `join` do. Combinators that poll only what was woken (`FuturesUnordered`) don't.
pub fn block_on<F: Future>(
    alarm: &Alarm,
    waker: &Waker,
    future: F,
    mut park: impl FnMut(Option<Instant>),
) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(waker);
    loop {
        alarm.clear();
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        park(alarm.next());
    }
}
