//! Workers: a slot's thread, and what it shares with the control thread.

use crate::{
    engine::{from_wamr, to_wamr},
    exchange::{Exchange, Incoming},
    platform::Platform,
};
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use critical_section::Mutex;
use proplet::{
    engine::{
        Call, Exit, Failure, GuestLimits, Limits, Message, PARAMS_MAX, Preemption, RunUsage,
        Schedule, Slot, TaskData, Value, text,
    },
    task::budget,
    time::Duration,
    wire::NAME_MAX,
};
use wamr::{
    Buffer, Caller, ErrorKind, HostError, Instance, InstanceConfig, Module, Runtime, Supervisor,
    ThreadEnv, Trap, TrapKind, Verdict,
};

/// Name of the export that a run calls.
type Name = heapless::String<NAME_MAX>;

/// What the device gives all guests.
#[derive(Debug, Clone, Copy)]
pub struct DeviceConfig {
    /// The proplet's id.
    pub proplet_id: &'static str,
    /// Bounds on what a guest says and gets.
    pub limits: GuestLimits,
}

/// What to run in a slot. It goes to and fro by reference: on a worker's small stack it would stay
/// for the whole run.
#[derive(Debug)]
pub struct Job {
    module: Option<Module>,
    export: Name,
    args: heapless::Vec<wamr::Value, PARAMS_MAX>,
    limits: Limits,
    data: TaskData<Buffer>,
}

impl Job {
    /// Nothing to run.
    pub const NONE: Self = Self {
        module: None,
        export: Name::new(),
        args: heapless::Vec::new(),
        limits: Limits {
            stack: 0,
            memory_cap: None,
            memory_max: None,
            work: None,
            schedule: Schedule::DEFAULT,
        },
        data: TaskData::NONE,
    };

    /// Gives back what it holds of the arena.
    #[inline(never)]
    fn clear(&mut self) {
        self.module = None;
        // The call has taken it, if it began.
        self.data = TaskData::NONE;
    }
}

/// Memory of one slot.
#[derive(Debug)]
pub struct SlotState {
    /// The slot's job, while nothing runs.
    idle: Mutex<RefCell<Option<&'static mut Job>>>,
    /// The same, from the start of a run until the worker takes it.
    job: Mutex<RefCell<Option<&'static mut Job>>>,
    exit: Mutex<RefCell<Option<Exit<Buffer>>>>,
    /// Whether there is an exit: spares the control thread a lock for each slot.
    exited: AtomicBool,
    exchange: Exchange,
    progress: Mutex<Cell<Progress>>,
    interrupted: AtomicBool,
    /// Arena bytes promised to a run that has not taken them yet.
    promised: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    usage: RunUsage,
    work_limit: Option<u64>,
    /// Work left of the guest's turn.
    turn: u64,
    /// Processor time of the thread when the run began, while it lasts.
    cpu_before: Option<Duration>,
}

impl Default for SlotState {
    fn default() -> Self {
        Self::new()
    }
}

impl SlotState {
    /// A slot without work.
    pub const fn new() -> Self {
        Self {
            idle: Mutex::new(RefCell::new(None)),
            job: Mutex::new(RefCell::new(None)),
            exit: Mutex::new(RefCell::new(None)),
            exited: AtomicBool::new(false),
            exchange: Exchange::new(),
            progress: Mutex::new(Cell::new(Progress::NONE)),
            interrupted: AtomicBool::new(false),
            promised: AtomicUsize::new(0),
        }
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) -> Progress {
        critical_section::with(|cs| {
            let cell = self.progress.borrow(cs);
            let mut progress = cell.get();
            change(&mut progress);
            cell.set(progress);
            progress
        })
    }

    /// Counts something that was dropped.
    fn count_dropped(&self) {
        self.update(|progress| {
            progress.usage.dropped = progress.usage.dropped.saturating_add(1);
        });
    }
}

impl Progress {
    const NONE: Self = Self {
        usage: RunUsage {
            cpu: Duration::ZERO,
            memory: 0,
            work: 0,
            dropped: 0,
        },
        work_limit: None,
        turn: 0,
        cpu_before: None,
    };
}

/// A pool of slots. It lives for ever: worker threads borrow it.
#[derive(Debug)]
pub struct Workers<P: 'static> {
    platform: P,
    slots: &'static [SlotState],
    /// Branches and calls between two looks at the interrupt, and those of a turn of the usual
    /// weight.
    slice: AtomicU32,
    config: DeviceConfig,
}

impl<P: Platform> Workers<P> {
    /// At most 256 slots are used, each with one of as many `jobs`. `slice` is the work between two
    /// looks at a run, and that of a turn of [`Schedule::WEIGHT`]; in branches and calls,
    /// at least 1.
    pub fn new(
        platform: P,
        slots: &'static [SlotState],
        jobs: &'static mut [Job],
        slice: u32,
        config: DeviceConfig,
    ) -> Self {
        debug_assert_eq!(slots.len(), jobs.len());
        for (slot, job) in slots.iter().zip(jobs) {
            critical_section::with(|cs| slot.idle.borrow_ref_mut(cs).replace(job));
        }
        Self {
            platform,
            slots,
            slice: AtomicU32::new(slice),
            config,
        }
    }

    /// What the port gave.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// Changes the length of a slice; guests that run take it over with their next turn.
    pub fn set_slice(&self, slice: u32) {
        self.slice.store(slice.max(1), Ordering::Relaxed);
    }

    fn slot(&self, slot: Slot) -> &SlotState {
        &self.slots[usize::from(slot.0)]
    }

    pub(crate) fn promised(&self) -> usize {
        let promised = |slot: &SlotState| slot.promised.load(Ordering::Acquire);
        self.slots.iter().map(promised).sum()
    }

    /// A block of the arena beside those of runs; `None` if what is free is promised to a run that
    /// has not started yet.
    fn buffer(&self, runtime: Runtime, len: usize) -> Option<Buffer> {
        let free = (runtime.memory().free as usize).saturating_sub(self.promised());
        if len > free {
            return None;
        }
        runtime.try_buffer(len)
    }

    pub(crate) fn spawn(
        &self,
        slot: Slot,
        module: Module,
        call: &Call<'_>,
        data: TaskData<Buffer>,
        bytes: usize,
    ) {
        let state = self.slot(slot);
        let Some(job) = critical_section::with(|cs| state.idle.borrow_ref_mut(cs).take()) else {
            debug_assert!(false, "slot {} is busy", slot.0);
            return;
        };
        job.module = Some(module);
        job.export = Name::try_from(call.export).unwrap_or_default();
        job.args = call.args.iter().copied().map(to_wamr).collect();
        job.limits = call.limits;
        job.data = data;
        state.exchange.open();
        state.promised.store(bytes, Ordering::Release);
        state.interrupted.store(false, Ordering::Release);
        state.update(|progress| {
            *progress = Progress {
                work_limit: call.limits.work,
                ..Progress::NONE
            };
        });
        critical_section::with(|cs| state.job.borrow_ref_mut(cs).replace(job));
        self.platform.wake(slot);
    }

    pub(crate) fn interrupt(&self, slot: Slot) {
        self.slot(slot).interrupted.store(true, Ordering::Release);
        // It may sleep. In this order: a port's wake may end what hurry began.
        self.platform.wake(slot);
        self.platform.hurry(slot);
    }

    /// Work and memory are what they were at the end of the last slice.
    pub(crate) fn usage(&self, slot: Slot) -> RunUsage {
        let state = self.slot(slot);
        let Progress {
            mut usage,
            cpu_before,
            ..
        } = state.update(|_| {});
        if let Some(before) = cpu_before {
            usage.cpu = self.platform.thread_time(slot).saturating_sub(before);
        }
        usage
    }

    pub(crate) fn poll_exit(&self) -> Option<Exit<Buffer>> {
        let mut slots = self.slots.iter();
        let slot = slots.find(|slot| slot.exited.load(Ordering::Acquire))?;
        slot.exited.store(false, Ordering::Relaxed);
        critical_section::with(|cs| slot.exit.borrow_ref_mut(cs).take())
    }

    pub(crate) fn poll_message(&self, slot: Slot) -> Option<Message<Buffer>> {
        self.slot(slot).exchange.take_message()
    }

    pub(crate) fn deliver(&self, runtime: Runtime, slot: Slot, topic: &str, payload: &[u8]) {
        let state = self.slot(slot);
        let Some(has_room) = state.exchange.has_room() else {
            return;
        };
        let is_small = topic.len() + payload.len() <= self.config.limits.message_bytes as usize;
        let size = Incoming::size(topic, payload).filter(|_| has_room && is_small);
        match size.and_then(|size| self.buffer(runtime, size)) {
            Some(buffer) => {
                let message = Incoming::new(buffer, topic, payload);
                state.exchange.deliver(message);
            }
            None => state.count_dropped(),
        }
    }

    /// The life of a slot's thread.
    ///
    /// # Panics
    /// If the thread can't be prepared to run guests.
    pub fn run(&'static self, slot: Slot, runtime: Runtime) -> ! {
        let env = ThreadEnv::enter(runtime).unwrap_or_else(|e| panic!("worker {}: {e}", slot.0));
        loop {
            self.wait(slot);
            self.serve(slot, &env);
        }
    }

    /// Waits until a slot has something to run, and returns how it is to run. For a port whose
    /// threads do more than [`run`](Self::run).
    pub fn wait(&self, slot: Slot) -> Schedule {
        let state = self.slot(slot);
        loop {
            let schedule = critical_section::with(|cs| {
                let job = state.job.borrow_ref(cs);
                job.as_ref().map(|job| job.limits.schedule)
            });
            match schedule {
                Some(schedule) => return schedule,
                None => self.platform.wait(slot),
            }
        }
    }

    // What is below the interpreter stays on a worker's stack for the whole run: what is only
    // needed before or after it is in frames of its own.
    /// Runs what a slot has to run, if anything.
    #[inline(never)]
    pub fn serve(&'static self, slot: Slot, env: &ThreadEnv) {
        let state = self.slot(slot);
        let Some(job) = critical_section::with(|cs| state.job.borrow_ref_mut(cs).take()) else {
            return;
        };
        self.platform.schedule(slot, job.limits.schedule);
        let cpu = self.platform.thread_time(slot);
        state.update(|progress| progress.cpu_before = Some(cpu));
        let result = self.call(slot, env, job);
        job.clear();
        critical_section::with(|cs| state.idle.borrow_ref_mut(cs).replace(job));
        self.end(slot, result);
    }

    #[inline(never)]
    fn end(&'static self, slot: Slot, result: Result<Option<Value>, Failure>) {
        let state = self.slot(slot);
        let output = state.exchange.close().filter(|_| result.is_ok());
        // All arena bytes of the run are free by now, but for its output and its last message:
        // whoever reads the exit may rely on it.
        self.platform.end_turn(slot);
        state.promised.store(0, Ordering::Release);
        let cpu = self.usage(slot).cpu;
        let Progress { usage, .. } = state.update(|progress| {
            progress.usage.cpu = cpu;
            progress.cpu_before = None;
        });
        critical_section::with(|cs| {
            state.exit.borrow_ref_mut(cs).replace(Exit {
                slot,
                result,
                output,
                usage,
            });
        });
        state.exited.store(true, Ordering::Release);
        self.platform.notify();
    }

    #[inline(never)]
    fn call(
        &'static self,
        slot: Slot,
        env: &ThreadEnv,
        job: &mut Job,
    ) -> Result<Option<Value>, Failure> {
        let mut instance = self.instantiate(slot, env, job)?;
        let state = self.slot(slot);
        state.promised.store(0, Ordering::Release);
        let held = instance.usage().held as usize;
        state.update(|progress| progress.usage.memory = held);
        let supervisor = Turns {
            workers: self,
            slot,
            schedule: job.limits.schedule,
            data: core::mem::replace(&mut job.data, TaskData::NONE),
        };
        let mut result = [wamr::Value::I32(0)];
        let called = instance.call(&job.export, &job.args, &mut result, &supervisor);
        let (peak, work) = (instance.usage().peak as usize, instance.work());
        state.update(|progress| {
            progress.usage.memory = peak;
            progress.usage.work = work;
        });
        match called {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(from_wamr(result[0]))),
            Err(e) => Err(self.failure(slot, job, &e)),
        }
    }

    /// Makes the job's instance. Its bytes are promised, but while others make and end theirs what is
    /// free may be in pieces: a run must not fail for a moment like that.
    #[inline(never)]
    fn instantiate<'t>(
        &self,
        slot: Slot,
        env: &'t ThreadEnv,
        job: &Job,
    ) -> Result<Instance<'t>, Failure> {
        /// How often to try, a millisecond apart.
        const TRIES: u32 = 20;
        const PAUSE: Duration = Duration::from_millis(1);
        let config = InstanceConfig {
            stack_bytes: job.limits.stack,
            memory_bytes_max: job.limits.memory_cap.or(job.limits.memory_max),
        };
        // A job that was spawned has a module.
        let module = job.module.as_ref().ok_or(Failure::Interrupted)?;
        let mut tries = 1;
        loop {
            match Instance::new(env, module, &config) {
                Err(e) if e.kind() == ErrorKind::OutOfMemory && tries < TRIES => tries += 1,
                made => return made.map_err(|e| trap(&e)),
            }
            self.platform.sleep(slot, PAUSE);
            if self.slot(slot).interrupted.load(Ordering::Acquire) {
                return Err(Failure::Interrupted);
            }
        }
    }

    #[inline(never)]
    fn failure(&self, slot: Slot, job: &Job, error: &Trap) -> Failure {
        match error.kind() {
            TrapKind::Interrupted => self.interruption(slot, job),
            TrapKind::OperandStackOverflow => {
                let (bytes, variable) = (job.limits.stack, budget::STACK_BYTES);
                trap(&format_args!(
                    "{error}: it has {bytes} bytes, see {variable}"
                ))
            }
            _ => trap(error),
        }
    }

    /// Why a run that the supervisor ended was ended.
    #[inline(never)]
    fn interruption(&self, slot: Slot, job: &Job) -> Failure {
        match job.limits.work {
            Some(limit) if self.slot(slot).update(|_| {}).usage.work >= limit => trap(
                &format_args!("work budget of {limit} branches and calls exhausted"),
            ),
            _ => Failure::Interrupted,
        }
    }
}

#[inline(never)]
fn trap(error: &dyn core::fmt::Display) -> Failure {
    Failure::Trap(text(format_args!("{error}")))
}

/// The supervisor of one run.
pub(crate) struct Turns<P: 'static> {
    workers: &'static Workers<P>,
    slot: Slot,
    schedule: Schedule,
    data: TaskData<Buffer>,
}

impl<P: Platform> Turns<P> {
    pub(crate) const fn slot(&self) -> Slot {
        self.slot
    }

    pub(crate) const fn config(&self) -> &DeviceConfig {
        &self.workers.config
    }

    pub(crate) const fn platform(&self) -> &P {
        &self.workers.platform
    }

    pub(crate) const fn data(&self) -> &TaskData<Buffer> {
        &self.data
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.workers.slot(self.slot).exchange
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        let interrupted = &self.workers.slot(self.slot).interrupted;
        interrupted.load(Ordering::Acquire)
    }

    pub(crate) fn count_dropped(&self) {
        self.workers.slot(self.slot).count_dropped();
    }

    /// Arena bytes for what the guest says; `None` if there is no room.
    pub(crate) fn buffer(&self, runtime: Runtime, len: usize) -> Option<Buffer> {
        self.workers.buffer(runtime, len)
    }

    /// Sleeps until that time since boot, or ends the call if the run is interrupted.
    pub(crate) fn sleep_until(
        &self,
        caller: &Caller<'_>,
        until: Duration,
    ) -> Result<(), HostError> {
        loop {
            if self.is_interrupted() {
                return Err(caller.interrupted());
            }
            match until.checked_sub(self.platform().now()) {
                Some(left) if !left.is_zero() => self.platform().sleep(self.slot, left),
                _ => return Ok(()),
            }
        }
    }
}

impl<P: Platform> Supervisor for Turns<P> {
    fn slice(&self, work: u32, held: u32) -> Verdict {
        let (workers, slot) = (self.workers, self.slot);
        let state = workers.slot(slot);
        workers.platform.worked(work);
        let slice = workers.slice.load(Ordering::Relaxed);
        let mut is_over = false;
        let progress = state.update(|progress| {
            progress.usage.work += u64::from(work);
            progress.usage.memory = held as usize;
            progress.turn = progress.turn.saturating_sub(work.into());
            is_over = progress.turn == 0;
            if is_over {
                progress.turn = self.schedule.turn(slice);
            }
        });
        let done = progress.usage.work;
        let left = progress.work_limit.map(|limit| limit.saturating_sub(done));
        if left == Some(0) {
            return Verdict::Interrupt;
        }
        let interrupted = || state.interrupted.load(Ordering::Acquire);
        if !interrupted() {
            workers.platform.give_way(slot);
        }
        if is_over && self.schedule.preemption == Preemption::Fuel {
            workers.platform.take_turn(slot, interrupted());
        }
        if interrupted() {
            return Verdict::Interrupt;
        }
        let next = progress.turn.min(slice.into());
        let next = left.map_or(next, |left| left.min(next));
        Verdict::Continue(u32::try_from(next).unwrap_or(u32::MAX))
    }
}
