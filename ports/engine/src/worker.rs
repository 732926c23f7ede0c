//! Workers: the threads that run guests, and what the control thread and they share.
//!
//! A guest is data: an instance, what it left on the stack, and a slot's [`Job`]. It is in the
//! [`Queue`] while it can run, and a worker steps it for a turn: deficit round robin, by the work that
//! it does or by the time that it takes. So with one worker who runs when depends on the guests alone.

use crate::{
    engine::{from_wamr, to_wamr},
    exchange::{Exchange, Incoming},
    platform::{BoardError, Channel, Platform},
    queue::{Place, Queue},
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
    /// Bytes of each worker's operand stack, which all its guests use in turn.
    pub stack_bytes: u32,
}

/// What to run in a slot, and how far it is. It goes to and fro by reference.
#[derive(Debug)]
pub struct Job<P: 'static> {
    module: Option<Module>,
    export: Name,
    args: heapless::Vec<wamr::Value, PARAMS_MAX>,
    limits: Limits,
    /// From the first turn on.
    instance: Option<Instance>,
    /// From its start to its end.
    guest: Option<Guest<P>>,
    /// Whether the function itself was called: before, it is what the module wants run first.
    called: bool,
    /// How often its instance found no room.
    tries: u8,
    /// What is left of its turn, in units of work or in nanoseconds; below 0 what it took beyond,
    /// which its next turns pay.
    turn: i64,
}

impl<P> Job<P> {
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
        instance: None,
        guest: None,
        called: false,
        tries: 0,
        turn: 0,
    };

    /// Gives back what it holds of the arena.
    #[inline(never)]
    fn clear(&mut self) {
        self.instance = None;
        self.module = None;
        self.guest = None;
    }
}

/// Memory of one slot.
#[derive(Debug)]
pub struct SlotState<P: 'static> {
    /// The slot's job, unless a worker has it.
    job: Mutex<RefCell<Option<&'static mut Job<P>>>>,
    exit: Mutex<RefCell<Option<Exit<Buffer>>>>,
    /// Whether there is an exit: spares the control thread a lock for each slot.
    exited: AtomicBool,
    exchange: Exchange,
    measurement: Mutex<Cell<Measurement>>,
    usage: Mutex<Cell<RunUsage>>,
    /// From the start of a run to its end.
    is_busy: AtomicBool,
    interrupted: AtomicBool,
    /// It was woken while a worker had it: it does not wait then.
    woken: AtomicBool,
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

/// Nothing used.
const UNUSED: RunUsage = RunUsage {
    cpu: Duration::ZERO,
    memory: 0,
    work: 0,
    dropped: 0,
};

impl<P> Default for SlotState<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> SlotState<P> {
    /// A slot without work.
    pub const fn new() -> Self {
        Self {
            job: Mutex::new(RefCell::new(None)),
            exit: Mutex::new(RefCell::new(None)),
            exited: AtomicBool::new(false),
            exchange: Exchange::new(),
            measurement: Mutex::new(Cell::new(Measurement::None)),
            usage: Mutex::new(Cell::new(UNUSED)),
            is_busy: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            promised: AtomicUsize::new(0),
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
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

    fn usage(&self, change: impl FnOnce(&mut RunUsage)) -> RunUsage {
        critical_section::with(|cs| {
            let cell = self.usage.borrow(cs);
            let mut usage = cell.get();
            change(&mut usage);
            cell.set(usage);
            usage
        })
    }

    /// Counts something that was dropped.
    fn count_dropped(&self) {
        self.usage(|usage| usage.dropped = usage.dropped.saturating_add(1));
    }
}

/// How a guest's turn ended.
enum After {
    /// It can go on.
    Again,
    /// It can go on at once: its turn was cut short for one that is to end.
    First,
    /// It waits until a time, or until it is woken.
    Waits(Option<Duration>),
    /// How is in its slot.
    Ended,
}

/// The slots, the queue and the workers' settings. It lives for ever: worker threads borrow it.
#[derive(Debug)]
pub struct Workers<P: 'static> {
    platform: P,
    slots: &'static [SlotState<P>],
    queue: Mutex<RefCell<Queue>>,
    /// Fuel between two looks at the interrupt, and the work of a turn of the usual weight.
    slice: AtomicU32,
    /// Milliseconds of a turn of the usual weight, where it is by time.
    slice_ms: AtomicU32,
    config: DeviceConfig,
}

impl<P: Platform> Workers<P> {
    /// At most 256 slots are used, each with one of as many `jobs` and `places`. `slice` is the fuel
    /// between two looks at a run, and the work of a turn of [`Schedule::WEIGHT`]; at least 1.
    /// `slice_ms` is the time of such a turn for guests that [`Preemption::Time`] preempts.
    pub fn new(
        platform: P,
        slots: &'static [SlotState<P>],
        jobs: &'static mut [Job<P>],
        places: &'static mut [Place],
        (slice, slice_ms): (u32, u32),
        config: DeviceConfig,
    ) -> Self {
        debug_assert_eq!((slots.len(), slots.len()), (jobs.len(), places.len()));
        for (slot, job) in slots.iter().zip(jobs) {
            critical_section::with(|cs| slot.job.borrow_ref_mut(cs).replace(job));
        }
        Self {
            platform,
            slots,
            queue: Mutex::new(RefCell::new(Queue::new(places))),
            slice: AtomicU32::new(slice),
            slice_ms: AtomicU32::new(slice_ms),
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

    /// Changes the milliseconds of a turn; guests that run take it over with their next.
    pub fn set_slice_ms(&self, slice_ms: u32) {
        self.slice_ms.store(slice_ms.max(1), Ordering::Relaxed);
    }

    fn slot(&self, slot: Slot) -> &SlotState<P> {
        &self.slots[usize::from(slot.0)]
    }

    fn queue<R>(&self, change: impl FnOnce(&mut Queue) -> R) -> R {
        critical_section::with(|cs| change(&mut self.queue.borrow_ref_mut(cs)))
    }

    pub(crate) fn promised(&self) -> usize {
        let promised = |slot: &SlotState<P>| slot.promised.load(Ordering::Acquire);
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
        &'static self,
        slot: Slot,
        module: Module,
        call: &Call<'_>,
        data: TaskData<Buffer>,
        bytes: usize,
    ) {
        let state = self.slot(slot);
        let job = match state.is_busy.load(Ordering::Acquire) {
            true => None,
            false => critical_section::with(|cs| state.job.borrow_ref_mut(cs).take()),
        };
        let Some(job) = job else {
            debug_assert!(false, "slot {} is busy", slot.0);
            return;
        };
        let guest = Guest {
            workers: self,
            slot,
            data,
            wake: Cell::new(None),
        };
        *job = Job {
            module: Some(module),
            export: Name::try_from(call.export).unwrap_or_default(),
            args: call.args.iter().copied().map(to_wamr).collect(),
            limits: call.limits,
            guest: Some(guest),
            ..Job::NONE
        };
        state.exchange.open();
        state.promised.store(bytes, Ordering::Release);
        state.is_busy.store(true, Ordering::Release);
        state.interrupted.store(false, Ordering::Release);
        state.woken.store(false, Ordering::Release);
        state.usage(|usage| *usage = UNUSED);
        let has_idle = critical_section::with(|cs| {
            state.job.borrow_ref_mut(cs).replace(job);
            let mut queue = self.queue.borrow_ref_mut(cs);
            queue.push(slot);
            queue.has_idle()
        });
        self.call(has_idle);
    }

    /// Lets a worker look that waits. Whether there is one is known where the queue was changed: one
    /// that looks later sees the change.
    fn call(&self, has_idle: bool) {
        if has_idle {
            self.platform.wake();
        }
    }

    /// Only while a worker has the job it is neither in the queue nor parked: then the worker sees
    /// that it is to end.
    pub(crate) fn interrupt(&self, slot: Slot) {
        let state = self.slot(slot);
        if !state.is_busy.load(Ordering::Acquire) {
            return;
        }
        state.interrupted.store(true, Ordering::Release);
        self.enqueue(slot, Queue::push_urgent);
    }

    /// Lets a guest look again that waits for something.
    fn wake(&self, slot: Slot) {
        self.slot(slot).woken.store(true, Ordering::Release);
        self.enqueue(slot, Queue::wake);
    }

    fn enqueue(&self, slot: Slot, push: impl FnOnce(&mut Queue, Slot)) {
        let state = self.slot(slot);
        let has_idle = critical_section::with(|cs| {
            let is_parked = state.job.borrow_ref(cs).is_some();
            let mut queue = self.queue.borrow_ref_mut(cs);
            if is_parked && state.is_busy.load(Ordering::Acquire) {
                push(&mut queue, slot);
            }
            queue.has_idle()
        });
        self.call(has_idle);
    }

    /// Work and memory are what they were at the end of the last slice, and so is the time.
    pub(crate) fn usage(&self, slot: Slot) -> RunUsage {
        self.slot(slot).usage(|_| {})
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
            self.wake(slot);
            return true;
        }
        false
    }

    /// The life of a worker's thread. `begun` hears that it has what it needs: from then on it does not
    /// return. Where the thread can't be prepared, or the arena has no room for the stack, `begun`
    /// hears that instead.
    pub fn run(&'static self, runtime: Runtime, begun: impl FnOnce(Result<(), wamr::Error>)) {
        let env = match ThreadEnv::enter(runtime) {
            Ok(env) => env,
            Err(e) => return begun(Err(e)),
        };
        let mut worker = match Worker::new(&env, self.config.stack_bytes) {
            Ok(worker) => worker,
            Err(e) => return begun(Err(e)),
        };
        begun(Ok(()));
        loop {
            match self.next() {
                Ok((slot, job)) => self.serve(slot, job, &mut worker),
                Err(until) => {
                    self.platform.wait(until);
                    self.queue(Queue::end_idle);
                }
            }
        }
    }

    /// The next guest to run; or until when there is none, and the worker is to wait.
    fn next(&self) -> Result<(Slot, &'static mut Job<P>), Option<Duration>> {
        let now = micros(self.platform.now());
        critical_section::with(|cs| {
            let mut queue = self.queue.borrow_ref_mut(cs);
            let until = queue.wake_due(now).map(Duration::from_micros);
            let next = queue.pop().and_then(|slot| {
                // What is in the queue is parked.
                let job = self.slot(slot).job.borrow_ref_mut(cs).take()?;
                Some((slot, job))
            });
            if next.is_none() {
                queue.begin_idle();
            }
            next.ok_or(until)
        })
    }

    // What is below the interpreter stays on a worker's stack for the whole turn: what is only needed
    // before or after it is in frames of its own.
    #[inline(never)]
    fn serve(&'static self, slot: Slot, job: &'static mut Job<P>, worker: &mut Worker<'_>) {
        match self.turn(slot, job, worker) {
            After::Ended => self.end(slot, job),
            After::Again => self.park(slot, job, Queue::push),
            After::First => self.park(slot, job, Queue::push_first),
            After::Waits(until) => {
                // What it had left of its turn is lost, what it took beyond is not.
                job.turn = job.turn.min(0);
                self.park(slot, job, |queue, slot| {
                    if let Some(until) = until {
                        queue.sleep(slot, micros(until));
                    }
                });
            }
        }
    }

    /// Puts a job where it waits for its next turn. What came while the worker had it comes first.
    fn park(&self, slot: Slot, job: &'static mut Job<P>, place: impl FnOnce(&mut Queue, Slot)) {
        let state = self.slot(slot);
        let has_idle = critical_section::with(|cs| {
            let mut queue = self.queue.borrow_ref_mut(cs);
            let was_woken = state.woken.load(Ordering::Acquire);
            state.woken.store(false, Ordering::Release);
            place(&mut queue, slot);
            if state.is_interrupted() {
                queue.push_urgent(slot);
            } else if was_woken {
                queue.wake(slot);
            }
            state.job.borrow_ref_mut(cs).replace(job);
            queue.has_idle()
        });
        self.call(has_idle);
    }

    /// Keeps how a run has ended until its end is made known. It has a text, which is not to be in
    /// the frames that the interpreter is above.
    #[inline(never)]
    fn ended(&self, slot: Slot, result: Result<Option<Value>, Failure>) -> After {
        let exit = Exit {
            slot,
            result,
            output: None,
            usage: UNUSED,
        };
        critical_section::with(|cs| {
            self.slot(slot).exit.borrow_ref_mut(cs).replace(exit);
        });
        After::Ended
    }

    #[inline(never)]
    fn end(&self, slot: Slot, job: &'static mut Job<P>) {
        let state = self.slot(slot);
        if let Some(instance) = &job.instance {
            let (peak, work) = (instance.usage().peak as usize, instance.work());
            state.usage(|usage| {
                usage.memory = peak;
                usage.work = work;
            });
        }
        job.clear();
        let has_result = critical_section::with(|cs| {
            let exit = state.exit.borrow_ref(cs);
            exit.as_ref().is_some_and(|exit| exit.result.is_ok())
        });
        let output = state.exchange.close().filter(|_| has_result);
        // All arena bytes of the run are free by now, but for its output and its last message:
        // whoever reads the exit may rely on it.
        state.promised.store(0, Ordering::Release);
        let usage = state.usage(|_| {});
        critical_section::with(|cs| {
            if let Some(exit) = state.exit.borrow_ref_mut(cs).as_mut() {
                exit.output = output;
                exit.usage = usage;
            }
            state.job.borrow_ref_mut(cs).replace(job);
            state.is_busy.store(false, Ordering::Release);
        });
        state.exited.store(true, Ordering::Release);
        self.platform.notify();
    }

    /// One turn of a guest.
    fn turn(&'static self, slot: Slot, job: &mut Job<P>, worker: &mut Worker<'_>) -> After {
        let mut clock = Clock {
            state: self.slot(slot),
            last: self.platform.thread_time(),
        };
        if clock.state.is_interrupted() {
            return self.interrupted(slot);
        }
        if job.turn <= 0 {
            job.turn += self.turn_of(job.limits.schedule);
        }
        loop {
            let made = match job.instance {
                Some(_) => Ok(()),
                None => self.instantiate(slot, job),
            };
            let begun = made.and_then(|()| self.begin(slot, job));
            if let Err(after) = begun.and_then(|()| self.steps(slot, &mut clock, job, worker)) {
                return after;
            }
        }
    }

    /// A turn of a run, in its own measure.
    fn turn_of(&self, schedule: Schedule) -> i64 {
        let of = |usual| i64::try_from(schedule.turn(usual)).unwrap_or(i64::MAX);
        match schedule.preemption {
            Preemption::Fuel => of(self.slice.load(Ordering::Relaxed)),
            Preemption::Time => of(self.slice_ms.load(Ordering::Relaxed)) * 1_000_000,
        }
    }

    /// Makes the job's instance. Its bytes are promised, but while others make and end theirs what is
    /// free may be in pieces: a run must not fail for a moment like that, and is queued again.
    #[inline(never)]
    fn instantiate(&self, slot: Slot, job: &mut Job<P>) -> Result<(), After> {
        /// How often to try, a millisecond apart.
        const TRIES: u8 = 20;
        const PAUSE: Duration = Duration::from_millis(1);
        // Whoever reads the usage knows by it that the instance is being made.
        self.slot(slot)
            .usage(|usage| usage.cpu = usage.cpu.max(Duration::from_nanos(1)));
        let config = InstanceConfig {
            stack_bytes: job.limits.stack,
            memory_bytes_max: job.limits.memory_cap.or(job.limits.memory_max),
        };
        // A job that was spawned has a module.
        let Some(module) = &job.module else {
            return Err(self.interrupted(slot));
        };
        match Instance::new(module, &config) {
            Ok(instance) => {
                let instance = job.instance.insert(instance);
                instance.set_work_left(job.limits.work.unwrap_or(u64::MAX));
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::OutOfMemory && job.tries < TRIES => {
                job.tries += 1;
                Err(After::Waits(Some(self.platform.now() + PAUSE)))
            }
            Err(e) => Err(self.trapped(slot, &e)),
        }
    }

    /// Begins the next call of the job's instance, if none is on its way. The run ends where all are
    /// done.
    #[inline(never)]
    fn begin(&self, slot: Slot, job: &mut Job<P>) -> Result<(), After> {
        let state = self.slot(slot);
        let Job {
            instance: Some(instance),
            export,
            args,
            called,
            ..
        } = job
        else {
            return Err(self.interrupted(slot));
        };
        if instance.is_called() {
            return Ok(());
        }
        let mut begun = match instance.initialise() {
            Ok(begun) => begun,
            Err(e) => return Err(self.trapped(slot, &e)),
        };
        if !begun && !*called {
            *called = true;
            begun = true;
            if let Err(e) = instance.call(export, args) {
                return Err(self.trapped(slot, &e));
            }
        }
        let held = instance.usage().held as usize;
        critical_section::with(|_| {
            // With room for its call, it has all that it was promised.
            state.promised.store(0, Ordering::Release);
            state.usage(|usage| usage.memory = held);
        });
        match begun {
            true => Ok(()),
            false => Err(self.returned(slot, job)),
        }
    }

    /// Steps the call until it has finished, or else its turn is over.
    fn steps(
        &self,
        slot: Slot,
        clock: &mut Clock<'_, P>,
        job: &mut Job<P>,
        worker: &mut Worker<'_>,
    ) -> Result<(), After> {
        let Job {
            instance: Some(instance),
            guest: Some(guest),
            limits,
            turn,
            ..
        } = job
        else {
            return Ok(());
        };
        let mut active = match worker.enter(instance) {
            Ok(active) => active,
            Err(e) => return Err(self.failed(slot, limits, &e)),
        };
        let mut burnt = 0;
        loop {
            let fuel = self.fuel(limits.schedule, *turn);
            let outcome = active.step(fuel, guest);
            // Also where it trapped.
            let (work, time) = clock.count(&self.platform, &active);
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(e) => return Err(self.failed(slot, limits, &e)),
            };
            *turn -= match limits.schedule.preemption {
                Preemption::Fuel => i64::from(work),
                Preemption::Time => time,
            };
            if clock.state.is_interrupted() {
                return Err(self.interrupted(slot));
            }
            let after = match outcome {
                ResumableCall::Finished => return Ok(()),
                ResumableCall::Blocked => After::Waits(guest.wake.get()),
                ResumableCall::OutOfFuel => {
                    burnt += i64::from(fuel);
                    match self.goes_on(limits.schedule, turn, burnt) {
                        None => continue,
                        Some(after) => after,
                    }
                }
            };
            return Err(match active.leave() {
                Ok(()) => after,
                Err(e) => self.failed(slot, limits, &e),
            });
        }
    }

    /// Fuel of a step: what is left of the turn, if that is by work. Fuel pays for more than work: at
    /// the end of a turn steps would get ever shorter. It goes beyond instead, which the next turn pays.
    fn fuel(&self, schedule: Schedule, turn: i64) -> u32 {
        let slice = self.slice.load(Ordering::Relaxed);
        match schedule.preemption {
            Preemption::Fuel => {
                let least = (slice / 16).max(1);
                u32::try_from(turn).unwrap_or(slice).clamp(least, slice)
            }
            Preemption::Time => slice,
        }
    }

    /// Whether a guest whose slice is over leaves the worker, and how. One that alone can run keeps it.
    /// `burnt` is the fuel of its turn so far.
    fn goes_on(&self, schedule: Schedule, turn: &mut i64, burnt: i64) -> Option<After> {
        /// So many times the fuel that its work would take is a guest's turn at most: what it has left of
        /// its work then is the next turn's.
        const BURNT_MAX: i64 = 8;
        let now = micros(self.platform.now());
        let (is_alone, is_pressed, has_idle) = self.queue(|queue| {
            let _ = queue.wake_due(now);
            (!queue.has_any(), queue.has_urgent(), queue.has_idle())
        });
        self.call(!is_alone && has_idle);
        let whole = self.turn_of(schedule);
        let is_hot = schedule.preemption == Preemption::Fuel && burnt / BURNT_MAX >= whole;
        if !is_alone && (*turn <= 0 || is_hot) {
            return Some(After::Again);
        }
        if *turn <= 0 {
            *turn += whole;
        }
        is_pressed.then_some(After::First)
    }

    #[inline(never)]
    fn failed(&self, slot: Slot, limits: &Limits, error: &Trap) -> After {
        match (error.kind(), limits.work) {
            (TrapKind::OutOfWork, Some(limit)) => self.trapped(
                slot,
                &format_args!("work budget of {limit} branches and calls exhausted"),
            ),
            (TrapKind::OperandStackOverflow, _) => {
                let bytes = limits.stack.min(self.config.stack_bytes);
                let variable = budget::STACK_BYTES;
                self.trapped(
                    slot,
                    &format_args!("{error}: it has {bytes} bytes, see {variable}"),
                )
            }
            _ => self.trapped(slot, error),
        }
    }

    #[inline(never)]
    fn trapped(&self, slot: Slot, error: &dyn core::fmt::Display) -> After {
        self.ended(slot, Err(Failure::Trap(text(format_args!("{error}")))))
    }

    #[inline(never)]
    fn interrupted(&self, slot: Slot) -> After {
        self.ended(slot, Err(Failure::Interrupted))
    }

    #[inline(never)]
    fn returned(&self, slot: Slot, job: &Job<P>) -> After {
        self.ended(slot, Ok(result_of(job)))
    }
}

fn result_of<P>(job: &Job<P>) -> Option<Value> {
    let mut result = [wamr::Value::I32(0)];
    let count = job.instance.as_ref()?.results(&mut result);
    (count > 0).then(|| from_wamr(result[0]))
}

/// Microseconds since boot: 2^64 of them take longer than any device lives.
pub(crate) fn micros(time: Duration) -> u64 {
    time.as_secs() * 1_000_000 + u64::from(time.subsec_micros())
}

/// Counts what a guest uses in a turn.
struct Clock<'a, P: 'static> {
    state: &'a SlotState<P>,
    /// The thread's time at the end of the last slice.
    last: Duration,
}

impl<P: Platform> Clock<'_, P> {
    /// The work and the nanoseconds since the last time.
    fn count(&mut self, platform: &P, active: &Active<'_>) -> (u32, i64) {
        let instance = active.instance();
        let (total, held) = (instance.work(), instance.usage().held);
        let mut work = 0;
        self.state.usage(|usage| {
            work = total - usage.work;
            usage.work = total;
            usage.memory = held as usize;
        });
        let work = u32::try_from(work).unwrap_or(u32::MAX);
        // A simulator's time passes here, and it is this guest's.
        platform.worked(work);
        let now = platform.thread_time();
        let time = now.saturating_sub(core::mem::replace(&mut self.last, now));
        self.state.usage(|usage| usage.cpu += time);
        (work, i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// A guest that runs: the context of its host functions.
#[derive(Debug)]
pub(crate) struct Guest<P: 'static> {
    workers: &'static Workers<P>,
    slot: Slot,
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

    fn state(&self) -> &'static SlotState<P> {
        self.workers.slot(self.slot)
    }

    pub(crate) fn count_dropped(&self) {
        self.state().count_dropped();
    }

    /// Arena bytes for what the guest says; `None` if there is no room.
    pub(crate) fn buffer(&self, runtime: Runtime, len: usize) -> Option<Buffer> {
        self.workers.buffer(runtime, len)
    }

    /// Pending until that time since boot.
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

    /// What was measured, once it was; the guest is woken then.
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
}
