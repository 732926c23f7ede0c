//! Workers: a slot's thread, and what it shares with the control thread.

use crate::{
    engine::{from_wamr, to_wamr},
    exchange::{Exchange, Incoming},
    platform::{BoardError, Channel, Platform},
};
use core::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    task::Poll,
};
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
    Active, Buffer, ErrorKind, Instance, InstanceConfig, Module, ResumableCall, Runtime, ThreadEnv,
    Trap, TrapKind, Worker,
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
    measurement: Mutex<Cell<Measurement>>,
    progress: Mutex<Cell<Progress>>,
    interrupted: AtomicBool,
    /// Arena bytes promised to a run that has not taken them yet.
    promised: AtomicUsize,
}

/// What a slot's guest wants to know of a sensor. The board's thread measures, while the guest waits.
#[derive(Debug, Clone, Copy)]
enum Measurement {
    None,
    Wanted(Wanted),
    /// The board's thread is about it.
    Made,
    /// The same, for a guest that has ended; another wants this one.
    MadeForOther(Wanted),
    Done(Result<i64, BoardError>),
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    sensor: u32,
    /// As the guest says it.
    channel: u32,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    usage: RunUsage,
    /// Work left of the guest's turn; below 0 what it did beyond, which its next turns pay.
    turn: i64,
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
            measurement: Mutex::new(Cell::new(Measurement::None)),
            progress: Mutex::new(Cell::new(Progress::NONE)),
            interrupted: AtomicBool::new(false),
            promised: AtomicUsize::new(0),
        }
    }

    /// Changes the measurement; returns that before.
    fn measurement(&self, change: impl FnOnce(Measurement) -> Measurement) -> Measurement {
        critical_section::with(|cs| {
            let cell = self.measurement.borrow(cs);
            let before = cell.get();
            cell.set(change(before));
            before
        })
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
        turn: 0,
        cpu_before: None,
    };
}

/// A pool of slots. It lives for ever: worker threads borrow it.
#[derive(Debug)]
pub struct Workers<P: 'static> {
    platform: P,
    slots: &'static [SlotState],
    /// Fuel between two looks at the interrupt, and the work of a turn of the usual weight.
    slice: AtomicU32,
    config: DeviceConfig,
}

impl<P: Platform> Workers<P> {
    /// At most 256 slots are used, each with one of as many `jobs`. `slice` is the fuel between two
    /// looks at a run, and the work of a turn of [`Schedule::WEIGHT`]; at least 1.
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
        state.update(|progress| *progress = Progress::NONE);
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

    /// Measures for one guest that waits for it; false where none does. For the board's thread.
    pub fn measure(&self) -> bool {
        let take = |before| match before {
            Measurement::Wanted(_) => Measurement::Made,
            other => other,
        };
        for (slot, state) in (0..).map(Slot).zip(self.slots) {
            let Measurement::Wanted(wanted) = state.measurement(take) else {
                continue;
            };
            let result = match Channel::from_number(wanted.channel) {
                Some(channel) => self.platform.sensor_read(wanted.sensor, channel),
                None => Err(BoardError::Absent),
            };
            state.measurement(|now| match now {
                Measurement::MadeForOther(wanted) => Measurement::Wanted(wanted),
                _ => Measurement::Done(result),
            });
            self.platform.wake(slot);
            return true;
        }
        false
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
        let (mut instance, mut worker) = self.instantiate(slot, env, job)?;
        let state = self.slot(slot);
        state.promised.store(0, Ordering::Release);
        if let Some(limit) = job.limits.work {
            instance.set_work_left(limit);
        }
        let guest = Guest {
            workers: self,
            slot,
            schedule: job.limits.schedule,
            data: core::mem::replace(&mut job.data, TaskData::NONE),
            wake: Cell::new(None),
        };
        let called = self.run_all(&mut instance, &mut worker, job, &guest);
        let (peak, work) = (instance.usage().peak as usize, instance.work());
        state.update(|progress| {
            progress.usage.memory = peak;
            progress.usage.work = work;
        });
        called?;
        let mut result = [wamr::Value::I32(0)];
        Ok((instance.results(&mut result) > 0).then(|| from_wamr(result[0])))
    }

    /// What the module wants run first, and then the job's function.
    fn run_all(
        &self,
        instance: &mut Instance,
        worker: &mut Worker<'_>,
        job: &Job,
        guest: &Guest<P>,
    ) -> Result<(), Failure> {
        while instance.initialise().map_err(|e| trap(&e))? {
            self.run_to_end(instance, worker, job, guest)?;
        }
        let begun = instance.call(&job.export, &job.args);
        begun.map_err(|e| trap(&e))?;
        self.run_to_end(instance, worker, job, guest)
    }

    fn run_to_end(
        &self,
        instance: &mut Instance,
        worker: &mut Worker<'_>,
        job: &Job,
        guest: &Guest<P>,
    ) -> Result<(), Failure> {
        let mut active = worker.enter(instance).map_err(|e| self.failure(job, &e))?;
        loop {
            let fuel = guest.next_fuel(&active)?;
            match active
                .step(fuel, guest)
                .map_err(|e| self.failure(job, &e))?
            {
                ResumableCall::Finished => return Ok(()),
                ResumableCall::OutOfFuel => {}
                ResumableCall::Blocked => guest.wait()?,
            }
        }
    }

    /// Makes the job's instance, and what it runs on. Its bytes are promised, but while others make and
    /// end theirs what is free may be in pieces: a run must not fail for a moment like that.
    #[inline(never)]
    fn instantiate<'t>(
        &self,
        slot: Slot,
        env: &'t ThreadEnv,
        job: &Job,
    ) -> Result<(Instance, Worker<'t>), Failure> {
        /// How often to try, a millisecond apart.
        const TRIES: u32 = 20;
        const PAUSE: Duration = Duration::from_millis(1);
        let config = InstanceConfig {
            stack_bytes: job.limits.stack,
            memory_bytes_max: job.limits.memory_cap.or(job.limits.memory_max),
        };
        // A job that was spawned has a module.
        let module = job.module.as_ref().ok_or(Failure::Interrupted)?;
        let make = || {
            Ok((
                Instance::new(module, &config)?,
                Worker::new(env, job.limits.stack)?,
            ))
        };
        let mut tries = 1;
        loop {
            match make() {
                Err(e) if wamr::Error::kind(&e) == ErrorKind::OutOfMemory && tries < TRIES => {
                    tries += 1
                }
                made => return made.map_err(|e| trap(&e)),
            }
            self.platform.sleep(slot, PAUSE);
            if self.slot(slot).interrupted.load(Ordering::Acquire) {
                return Err(Failure::Interrupted);
            }
        }
    }

    #[inline(never)]
    fn failure(&self, job: &Job, error: &Trap) -> Failure {
        match (error.kind(), job.limits.work) {
            (TrapKind::OutOfWork, Some(limit)) => trap(&format_args!(
                "work budget of {limit} branches and calls exhausted"
            )),
            (TrapKind::OperandStackOverflow, _) => {
                let (bytes, variable) = (job.limits.stack, budget::STACK_BYTES);
                trap(&format_args!(
                    "{error}: it has {bytes} bytes, see {variable}"
                ))
            }
            _ => trap(error),
        }
    }
}

#[inline(never)]
fn trap(error: &dyn core::fmt::Display) -> Failure {
    Failure::Trap(text(format_args!("{error}")))
}

/// A guest that runs: the context of its host functions.
pub(crate) struct Guest<P: 'static> {
    workers: &'static Workers<P>,
    slot: Slot,
    schedule: Schedule,
    data: TaskData<Buffer>,
    /// Until when its host function waits; `None` is until it is woken.
    wake: Cell<Option<Duration>>,
}

impl<P: Platform> Guest<P> {
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
        &self.state().exchange
    }

    fn state(&self) -> &'static SlotState {
        self.workers.slot(self.slot)
    }

    fn is_interrupted(&self) -> bool {
        self.state().interrupted.load(Ordering::Acquire)
    }

    pub(crate) fn count_dropped(&self) {
        self.state().count_dropped();
    }

    /// Arena bytes for what the guest says; `None` if there is no room.
    pub(crate) fn buffer(&self, runtime: Runtime, len: usize) -> Option<Buffer> {
        self.workers.buffer(runtime, len)
    }

    /// Pending until that time since boot, or somewhat less: who waits looks again.
    pub(crate) fn wait_until<T>(&self, until: Duration) -> Poll<T> {
        self.wake.set(Some(until));
        Poll::Pending
    }

    /// Has a sensor's channel measured, of the number that the guest gave.
    pub(crate) fn measure(&self, sensor: u32, channel: u32) {
        let wanted = Wanted { sensor, channel };
        self.state().measurement(|before| match before {
            Measurement::Made | Measurement::MadeForOther(_) => Measurement::MadeForOther(wanted),
            _ => Measurement::Wanted(wanted),
        });
        if !self.platform().wake_board() {
            let absent = Measurement::Done(Err(BoardError::Absent));
            self.state().measurement(|_| absent);
        }
    }

    /// What was measured, once it was.
    pub(crate) fn measured(&self) -> Poll<Result<i64, BoardError>> {
        let take = |before| match before {
            Measurement::Done(_) => Measurement::None,
            other => other,
        };
        match self.state().measurement(take) {
            Measurement::Done(result) => Poll::Ready(result),
            _ => {
                self.wake.set(None);
                Poll::Pending
            }
        }
    }

    /// Waits for what its host function waits for.
    ///
    /// # Errors
    /// It is to end.
    fn wait(&self) -> Result<(), Failure> {
        /// As long as nobody would wait; it looks again then.
        const LONG: Duration = Duration::from_secs(3600);
        if self.is_interrupted() {
            return Err(Failure::Interrupted);
        }
        let left = match self.wake.get() {
            Some(until) => until.saturating_sub(self.platform().now()).min(LONG),
            None => LONG,
        };
        if !left.is_zero() {
            self.platform().sleep(self.slot, left);
        }
        match self.is_interrupted() {
            true => Err(Failure::Interrupted),
            false => Ok(()),
        }
    }

    /// Notes what the guest did since the last time, lets others have their turn, and returns the
    /// fuel of its next step.
    ///
    /// # Errors
    /// It is to end.
    fn next_fuel(&self, active: &Active<'_>) -> Result<u32, Failure> {
        let (workers, slot) = (self.workers, self.slot);
        let slice = workers.slice.load(Ordering::Relaxed);
        let (total, held) = (active.instance().work(), active.instance().usage().held);
        let (mut work, mut is_over) = (0, false);
        let progress = self.state().update(|progress| {
            work = total - progress.usage.work;
            progress.usage.work = total;
            progress.usage.memory = held as usize;
            progress.turn = progress
                .turn
                .saturating_sub(i64::try_from(work).unwrap_or(i64::MAX));
            is_over = progress.turn <= 0;
            if is_over {
                progress.turn += self.schedule.turn(slice) as i64;
            }
        });
        workers
            .platform
            .worked(u32::try_from(work).unwrap_or(u32::MAX));
        if !self.is_interrupted() {
            workers.platform.give_way(slot);
        }
        if is_over && self.schedule.preemption == Preemption::Fuel {
            workers.platform.take_turn(slot, self.is_interrupted());
        }
        if self.is_interrupted() {
            return Err(Failure::Interrupted);
        }
        Ok(u32::try_from(progress.turn)
            .ok()
            .filter(|left| (1..slice).contains(left))
            .unwrap_or(slice))
    }
}
