//! Findings of a bench.

use crate::{
    Clock, Options,
    stats::{Evenness, Spread, Tally},
    workload::Workload,
};
use proplet::{engine::ArenaUsage, text::Text, time::Duration};

/// Where the figures go, as they come.
pub trait Report {
    /// Takes one event.
    fn report(&mut self, event: &Event<'_>);
}

/// A ladder is `Start`, `Step`s, `Wall`, `Row`s, `End`; fairness is `Start`, perhaps `Wall`,
/// `Share`s, `Fairness`, `End`. Before the first of several comes its `Table`.
/// [`Mode::All`](crate::Mode::All) ends with `All`.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The modules are loaded.
    Start(&'a Start<'a>),
    /// The lines of that table follow.
    Table(Table),
    /// A step of the ladder is done.
    Step(&'a Step),
    /// The number of instances that are held, and why there can't be more.
    Wall(usize, &'a Wall),
    /// Work of a slot.
    Row(&'a Row),
    /// Share of a loop.
    Share(&'a Share),
    /// Fairness of the shares, and latency of stops.
    Fairness(&'a Fairness),
    /// All runs have ended, and the modules are unloaded.
    End(&'a Summary),
    /// All that there was.
    All(&'a [Summary]),
}

/// Tables of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Of [`Event::Step`].
    Steps,
    /// Of [`Event::Row`].
    Rows,
    /// Of [`Event::Share`].
    Shares,
}

/// A set of modules is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The preemption that was asked for.
    pub options: &'a Options<'a>,
    /// The clock of all times but the processor's.
    pub clock: Clock,
    /// Slots that there are.
    pub slots: usize,
    /// The arena before the modules were loaded.
    pub before: ArenaUsage,
    /// The arena with the modules in it.
    pub loaded: ArenaUsage,
    /// The modules.
    pub parts: &'a [Part],
}

/// A loaded module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub workload: &'static Workload,
    /// Arena bytes that it takes, its buffer included, as the difference of free bytes.
    pub loaded: usize,
    /// Arena bytes that each instance takes, as the engine says; of one that writes to its memory, the most
    /// that a run held.
    pub instance: usize,
}

/// A step of the ladder. Runs that ended between two polls, such as during a report, are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Instances held all the time.
    pub instances: usize,
    /// Bytes of the arena that were free with all of them held: the least of some samples after the
    /// step.
    pub free: usize,
    /// The least that was ever not in use, since boot.
    pub free_min: usize,
    /// Arena bytes of all instances, as the engine said before.
    pub said: usize,
    /// Arena bytes of all instances, as the difference of free bytes.
    pub measured: usize,
    /// Iterations of which the engine's account had other bytes than it said before.
    pub strays: u64,
    /// Processor time of the whole proplet, user and system.
    pub cpu: Duration,
    /// Duration of the step.
    pub wall: Duration,
    /// Iterations that ended in the step.
    pub tally: Tally,
}

impl Step {
    /// Whether the engine's word and all measures of an instance's bytes agree.
    pub const fn agrees(&self) -> bool {
        self.said == self.measured && self.strays == 0
    }
}

/// Bound on the number of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    /// The next set needs more bytes of the arena than are free.
    Arena {
        /// Bytes that it needs.
        need: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// A whole set more has no slots.
    Slots(usize),
    /// A whole set more is beyond what was asked for.
    Asked(usize),
}

impl Wall {
    /// Its name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Arena { .. } => "arena",
            Self::Slots(_) => "slots",
            Self::Asked(_) => "asked",
        }
    }
}

/// Work of a slot in all steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The slot.
    pub id: u16,
    /// Name of the workload.
    pub task: &'static str,
    /// Its iterations.
    pub tally: Tally,
}

/// Share of the processor that a loop had while all of them ran.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Its slot.
    pub id: u16,
    /// Its weight.
    pub weight: u8,
    /// Share that it is due by its weight, from 0 to 1.
    pub due: f64,
    /// Work it did, in branches and calls.
    pub work: u64,
    /// Its part of all work, from 0 to 1.
    pub work_share: f64,
    /// Processor time of its thread.
    pub cpu: Duration,
    /// Its part of all processor time, from 0 to 1.
    pub cpu_share: f64,
}

/// Fairness of the shares, and latency of stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fairness {
    /// Loops.
    pub instances: usize,
    /// Time for which they shared the processor.
    pub wall: Duration,
    /// Evenness of the work; `None` if there was none.
    pub work: Option<Evenness>,
    /// Evenness of the processor time; `None` if there was none.
    pub cpu: Option<Evenness>,
    /// From the interrupt of a loop, all others running, until its end was known. Each is stopped
    /// once.
    pub stops: Spread,
}

/// Its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Name of the workload, or of the mode if there are several.
    pub name: &'static str,
    /// Most instances that were held.
    pub instances: usize,
    /// Arena bytes of one set of instances, as the engine says.
    pub set_bytes: usize,
    /// The bound on their number; `None` if all the loops of a fairness bench were there.
    pub wall: Option<Wall>,
    /// Runs of all slots that did not end as they should.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<Text>,
    /// Bytes of the arena that were free before.
    pub free_before: usize,
    /// Bytes of the arena that are free now.
    pub free_after: usize,
}

impl Summary {
    /// Whether the arena is as before, to the byte.
    pub const fn is_exact(&self) -> bool {
        self.free_before == self.free_after
    }

    /// Whether the arena is as before and no run failed.
    pub const fn is_good(&self) -> bool {
        self.is_exact() && self.errors == 0
    }
}
