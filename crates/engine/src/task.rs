//! A task in its slot: one block of the arena, from its start until its exit is taken.

use crate::{
    guest::Guest,
    mailbox::Mailbox,
    value::{from_wamr, to_wamr},
};
use core::{
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering},
};
use critical_section::{CriticalSection, Mutex};
use proplet::{
    engine::{Call, Exit, Failure, PARAMS_MAX, RunUsage, Slot, Value, Weight},
    time::Duration,
    wire::NAME_MAX,
};
use wamr::{Boxed, Buffer, ErrorKind, Instance, Runtime, Trap, TrapKind};

/// Memory of one slot, beside its [`QueueEntry`](crate::QueueEntry).
pub struct SlotState<P: 'static> {
    /// Taken and put back within a critical section.
    task: Mutex<Cell<Option<Boxed<Task<P>>>>>,
    /// The task is to end. A worker reads it after each step.
    pub(crate) interrupted: AtomicBool,
}

impl<P> Default for SlotState<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> core::fmt::Debug for SlotState<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SlotState")
            .field("interrupted", &self.interrupted)
            .finish_non_exhaustive()
    }
}

impl<P> SlotState<P> {
    /// A slot without a task.
    pub const fn new() -> Self {
        Self {
            task: Mutex::new(Cell::new(None)),
            interrupted: AtomicBool::new(false),
        }
    }

    /// Changes the task; `None` for a free slot.
    pub(crate) fn with<R>(
        &self,
        cs: CriticalSection<'_>,
        change: impl FnOnce(&mut Task<P>) -> R,
    ) -> Option<R> {
        let cell = self.task.borrow(cs);
        let mut task = cell.take()?;
        let result = change(&mut task);
        cell.set(Some(task));
        Some(result)
    }

    /// Changes the task's mailbox; `None` for a task without one.
    pub(crate) fn mailbox<R>(
        &self,
        cs: CriticalSection<'_>,
        change: impl FnOnce(&mut Mailbox) -> R,
    ) -> Option<R> {
        self.with(cs, |task| task.mailbox.as_deref_mut().map(change))?
    }

    /// Puts a task into the slot, which is free.
    pub(crate) fn put(&self, cs: CriticalSection<'_>, task: Boxed<Task<P>>) {
        self.interrupted.store(false, Ordering::Release);
        self.task.borrow(cs).set(Some(task));
    }

    /// Takes the task out of the slot.
    pub(crate) fn take(&self, cs: CriticalSection<'_>) -> Option<Boxed<Task<P>>> {
        self.task.borrow(cs).take()
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Counts something that was dropped.
    pub(crate) fn count_dropped(&self) {
        critical_section::with(|cs| self.mailbox(cs, Mailbox::count_dropped));
    }
}

/// A task. It is touched in critical sections only.
#[derive(Debug)]
pub(crate) struct Task<P: 'static> {
    pub(crate) stage: Stage<P>,
    /// Nanoseconds of processor time.
    pub(crate) cpu: u64,
    /// Of a module that imports functions.
    pub(crate) mailbox: Option<Boxed<Mailbox>>,
}

/// Stage of a task.
#[derive(Debug)]
pub(crate) enum Stage<P: 'static> {
    /// It waits for its next turn.
    Parked(Job<P>),
    /// A worker has its job, which had this at the end of its last step.
    Running(Usage),
    /// It has ended, and had this.
    Ended(Outcome, Usage),
}

/// Arena bytes and work of an instance.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    work: u64,
    /// At the end the most that it ever had.
    bytes: u32,
    /// Of linear memory.
    pages: u32,
}

impl Usage {
    pub(crate) fn by(instance: &Instance) -> Self {
        Self {
            work: instance.work(),
            bytes: instance.usage().held,
            pages: instance.pages(),
        }
    }

    pub(crate) fn at_the_end(instance: &Instance) -> Self {
        Self {
            bytes: instance.usage().peak,
            ..Self::by(instance)
        }
    }
}

/// The part of a task that a worker takes for a turn.
#[derive(Debug)]
pub(crate) struct Job<P: 'static> {
    /// Until the run has ended.
    pub(crate) instance: Option<Instance>,
    /// Of a module that imports functions.
    pub(crate) guest: Option<Boxed<Guest<P>>>,
    /// The call itself, while what the module wants run first is not done.
    pub(crate) deferred: Option<Boxed<DeferredCall>>,
    /// The rest of its turn, in tenths of a unit of work or in nanoseconds; below 0 its debt, which its next
    /// turns pay.
    pub(crate) turn: i64,
    pub(crate) weight: Weight,
}

/// A call that is to be begun.
#[derive(Debug)]
pub(crate) struct DeferredCall {
    export: heapless::String<NAME_MAX>,
    args: Args,
}

type Args = heapless::Vec<wamr::Value, PARAMS_MAX>;

fn args_of(call: &Call<'_>) -> Args {
    call.args.iter().copied().map(to_wamr).collect()
}

impl<P> Job<P> {
    /// Of an instance that was made for `call`, whose module wants something run first or not.
    ///
    /// # Errors
    /// The initialiser or the call can't be begun, or the arena has no room.
    pub(crate) fn new(
        runtime: Runtime,
        mut instance: Instance,
        guest: Option<Boxed<Guest<P>>>,
        call: &Call<'_>,
    ) -> Result<Self, Refused> {
        instance.set_work_left(call.limits.work.unwrap_or(u64::MAX));
        let deferred = match instance.initialise()? {
            true => {
                let export = heapless::String::try_from(call.export).unwrap_or_default();
                let args = args_of(call);
                Some(runtime.boxed(DeferredCall { export, args })?)
            }
            false => {
                instance.call(call.export, &args_of(call))?;
                None
            }
        };
        Ok(Self {
            instance: Some(instance),
            guest,
            deferred,
            turn: 0,
            weight: call.limits.weight,
        })
    }

    /// Begins what comes after a call that has finished; false where that was the last.
    ///
    /// # Errors
    /// It can't be begun.
    pub(crate) fn go_on(&mut self) -> Result<bool, Trap> {
        let Some(instance) = &mut self.instance else {
            return Ok(false);
        };
        if instance.initialise()? {
            return Ok(true);
        }
        let Some(deferred) = self.deferred.take() else {
            return Ok(false);
        };
        instance.call(&deferred.export, &deferred.args)?;
        Ok(true)
    }

    /// The first result of the call that has finished, if it has any.
    pub(crate) fn result(&self) -> Option<Value> {
        let mut result = [wamr::Value::I32(0)];
        let count = self.instance.as_ref()?.results(&mut result);
        (count > 0).then(|| from_wamr(result[0]))
    }
}

/// End of a run.
#[derive(Debug)]
pub(crate) enum Outcome {
    Returned(Option<Value>),
    Interrupted,
    /// With the reason, UTF-8, where the arena had room for it.
    Trapped(Option<Buffer>),
}

impl<P> Task<P> {
    /// Arena bytes of a task beside its instance.
    pub(crate) const fn bytes(has_imports: bool) -> usize {
        match has_imports {
            true => Boxed::<Self>::BYTES + Boxed::<Mailbox>::BYTES + Boxed::<Guest<P>>::BYTES,
            false => Boxed::<Self>::BYTES,
        }
    }

    /// Arena bytes of a call while what its module wants run first is not done.
    pub(crate) const DEFERRED_BYTES: usize = Boxed::<DeferredCall>::BYTES;

    /// With a job that waits for its first turn.
    pub(crate) fn new(job: Job<P>, mailbox: Option<Boxed<Mailbox>>) -> Self {
        Self {
            stage: Stage::Parked(job),
            cpu: 0,
            mailbox,
        }
    }

    fn held(&self) -> Usage {
        match &self.stage {
            Stage::Parked(job) => job.instance.as_ref().map(Usage::by).unwrap_or_default(),
            Stage::Running(held) | Stage::Ended(_, held) => *held,
        }
    }

    /// Takes the job, if it is parked.
    pub(crate) fn take_job(&mut self) -> Option<Job<P>> {
        let running = Stage::Running(self.held());
        match core::mem::replace(&mut self.stage, running) {
            Stage::Parked(job) => Some(job),
            _ => None,
        }
    }

    /// Ends the run, whose job is taken.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.stage = Stage::Ended(outcome, self.held());
    }

    /// Its usage so far.
    pub(crate) fn usage(&self) -> RunUsage {
        let held = self.held();
        RunUsage {
            cpu: Duration::from_nanos(self.cpu),
            memory: Self::bytes(self.mailbox.is_some()) + held.bytes as usize,
            pages: held.pages,
            work: held.work,
            dropped: self.mailbox.as_ref().map_or(0, |e| e.dropped),
        }
    }

    /// The exit of a task that has ended; what else it holds is given back.
    pub(crate) fn exit(self, slot: Slot) -> Exit<Buffer> {
        let usage = self.usage();
        let result = match self.stage {
            Stage::Ended(Outcome::Returned(value), _) => Ok(value),
            Stage::Ended(Outcome::Trapped(reason), _) => Err(Failure::Trap(reason)),
            Stage::Ended(Outcome::Interrupted, _) | Stage::Parked(_) | Stage::Running(_) => {
                Err(Failure::Interrupted)
            }
        };
        Exit {
            slot,
            result,
            output: self.mailbox.and_then(|mut e| e.output.take()),
            usage,
        }
    }
}

/// Refusal of a task.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The slot has a task.
    Taken,
    /// No piece of the arena is large enough for a part of it.
    NoRoom,
    Error(wamr::Error),
    Trap(Trap),
}

/// The beginning of an error that names the bound that was met, which need not be the arena.
const OUT_OF_MEMORY: &str = "out of memory: ";

impl From<wamr::Error> for Refused {
    fn from(error: wamr::Error) -> Self {
        match error.kind() {
            ErrorKind::OutOfMemory if !error.text().starts_with(OUT_OF_MEMORY) => Self::NoRoom,
            _ => Self::Error(error),
        }
    }
}

impl From<Trap> for Refused {
    fn from(trap: Trap) -> Self {
        match trap.kind() {
            TrapKind::OutOfMemory => Self::NoRoom,
            _ => Self::Trap(trap),
        }
    }
}

/// Bytes of a slot and a task on 32 bits, without the arena's 4 for a block.
#[cfg(target_pointer_width = "32")]
const _: () = {
    assert!(size_of::<SlotState<()>>() == 8);
    assert!(size_of::<Task<()>>() <= 120);
    assert!(size_of::<Mailbox>() <= 112);
    assert!(size_of::<Guest<()>>() <= 56);
};

/// The same on 64 bits.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<SlotState<()>>() == 16);
    assert!(size_of::<Task<()>>() <= 184);
    assert!(size_of::<Mailbox>() <= 176);
    assert!(size_of::<Guest<()>>() <= 96);
};
