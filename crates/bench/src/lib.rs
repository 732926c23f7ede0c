//! The proplet's own bench, on any port: how many instances the arena holds, what they cost, how
//! fast they are, how fair their shares are and how soon one that is interrupted is dead.
//!
//! It takes the proplet's way: an instance is a run in a slot, of a module that is parsed once. A
//! run that has ended is started again at once, in a fresh instance, so that a step of n instances
//! has n all the time.
//!
//! - [`run`]: the bench, as [`Mode`] and [`Options`] say, on an engine and what a [`Port`] gives.
//! - [`Report`]: where the figures go; [`Console`] writes them as text.
//! - [`Workload`]: what is run.
#![no_std]
#![forbid(unsafe_code)]

mod bench;
mod console;
mod fairness;
mod ladder;
mod report;
mod stats;
#[cfg(test)]
mod tests;
mod workload;

pub use bench::{Lane, Mode, Options, run};
pub use console::Console;
pub use report::{Event, Fairness, Part, Report, Row, Share, Start, Step, Summary, Table, Wall};
pub use stats::{Evenness, Spread, Tally, evenness};
pub use workload::{DIVERSE, SET_MAX, SINGLE, Workload};

use proplet::time::Duration;

/// A port's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Its name on that system.
    pub name: &'static str,
    /// The least time that it tells apart.
    pub resolution: Duration,
}

/// The services of a port for the bench.
pub trait Port {
    /// Name of the clock that [`now`](Self::now) reads.
    fn clock(&self) -> Clock;

    /// Time since a moment that stays the same. Finer than the core's `Instant`, which counts
    /// milliseconds: an iteration may be over in less.
    fn now(&self) -> Duration;

    /// Waits until that time has come or a run has ended, or less long.
    fn wait(&mut self, until: Duration);
}
