//! Workers: the threads that run guests, and what the control thread and they share.
//!
//! A guest is data: an instance, what it left on the stack, and a slot's [`Task`]. It is in the
//! [`RunQueue`] while it can run, and a worker steps it for a turn: deficit round robin, by the work that
//! it does or by the time that it takes. By work and with one worker, the order of turns depends on the
//! guests alone.
//!
//! A worker reads two clocks after each step, the time of its thread and the time since boot. A step's
//! end is the next one's beginning: what a worker does between steps is the next guest's time. After a
//! wait both are read again.

use crate::{
    guest::Guest,
    mailbox::{Incoming, Mailbox, Measurement, Wanted, micros, millis},
    platform::{BoardError, Channel, Platform},
    run_queue::{QueueEntry, RunQueue, Yield},
    task::{Job, Outcome, Refused, SlotState, Stage, Task, Usage},
};
use core::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};
use critical_section::Mutex;
use proplet::{
    engine::{Call, Exit, GuestLimits, Message, Preemption, RunUsage, Slot, TaskData, Weight},
    task::budget,
    text::words,
    time::Duration,
};
use wamr::{
    Active, Buffer, Bytes, Instance, InstanceConfig, Module, ResumableCall, Runtime, ThreadEnv,
    Trap, TrapKind, Worker,
};

/// Settings of the device for all guests.
#[derive(Debug, Clone, Copy)]
pub struct DeviceConfig {
    /// The proplet's id.
    pub proplet_id: &'static str,
    /// Bounds on what a guest says and gets.
    pub limits: GuestLimits,
    /// Bytes of each worker's operand stack, which all its guests use in turn.
    pub stack_bytes: u32,
    /// Preemption of guests.
    pub preemption: Preemption,
    /// All of a linear memory is taken at its guest's start, and when it grows.
    pub memory_commit: bool,
}

/// A step that takes more processor time is logged and counted.
const SLOW: Duration = Duration::from_secs(1);

/// Bytes of an arena of `total` that tasks leave to the proplet, for its own messages and for reasons.
pub(crate) const fn reserve(total: u32) -> u32 {
    const LEAST: u32 = 1024;
    let share = total / 128;
    if share > LEAST { share } else { LEAST }
}

/// Parts of a unit of work that turns are counted in: of each weight a turn is a whole number of them.
const UNIT: u64 = Weight::DEFAULT.0 as u64;

/// The slots, the queue and the workers' settings. It is never dropped: worker threads borrow it.
#[derive(Debug)]
pub struct Workers<P: 'static> {
    pub(crate) runtime: Runtime,
    platform: P,
    slots: &'static [SlotState<P>],
    queue: Mutex<RefCell<RunQueue>>,
    /// Fuel between two looks at the interrupt, and the work of a turn of the usual weight.
    slice: AtomicU32,
    /// Milliseconds of a turn of the usual weight, where it is by time.
    slice_ms: AtomicU32,
    is_timed: AtomicBool,
    pub(crate) config: DeviceConfig,
    /// One for each worker, the last that began first.
    step_clocks: Mutex<Cell<Option<&'static StepClock>>>,
    slow_steps: AtomicU32,
}

/// When a worker's present step began: milliseconds since boot modulo 2^32, 0 while it waits.
#[derive(Debug)]
struct StepClock {
    began: AtomicU32,
    next: Option<&'static StepClock>,
}

/// A worker's clocks, as it last read them.
struct WorkerClocks {
    clock: &'static StepClock,
    /// Time of the thread.
    thread: Duration,
    /// Since boot.
    now: Duration,
}

impl WorkerClocks {
    /// Begins a step at `now`.
    fn begin(&mut self, now: Duration) {
        // 0 says that the worker waits.
        let began = (millis(now) as u32).max(1);
        self.now = now;
        self.clock.began.store(began, Ordering::Relaxed);
    }
}

impl<P: Platform> Workers<P> {
    /// As many slots as `entries`, 65,534 at most. `slice` is the fuel between two looks at a run, and
    /// the work of a turn of [`Weight::DEFAULT`]; at least 1. `slice_ms` is the time of such a turn
    /// where the device preempts by [`Preemption::Time`].
    pub fn new(
        runtime: Runtime,
        platform: P,
        slots: &'static [SlotState<P>],
        entries: &'static mut [QueueEntry],
        (slice, slice_ms): (u32, u32),
        config: DeviceConfig,
    ) -> Self {
        debug_assert_eq!(slots.len(), entries.len());
        runtime.set_reserve(reserve(runtime.memory().total));
        Self {
            runtime,
            platform,
            slots,
            queue: Mutex::new(RefCell::new(RunQueue::new(entries))),
            slice: AtomicU32::new(slice),
            slice_ms: AtomicU32::new(slice_ms),
            is_timed: AtomicBool::new(config.preemption == Preemption::Time),
            config,
            step_clocks: Mutex::new(Cell::new(None)),
            slow_steps: AtomicU32::new(0),
        }
    }

    /// The port's threads, clocks and board.
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

    /// Changes what ends a turn. Not while guests run: what they have left of a turn has a unit.
    pub fn set_preemption(&self, preemption: Preemption) {
        let is_timed = preemption == Preemption::Time;
        self.is_timed.store(is_timed, Ordering::Relaxed);
    }

    fn is_timed(&self) -> bool {
        self.is_timed.load(Ordering::Relaxed)
    }

    /// Steps since boot that took more than a second of processor time.
    pub fn slow_steps(&self) -> u32 {
        self.slow_steps.load(Ordering::Relaxed)
    }

    /// The time since the step began, of those that workers are in at `now`, that began first; to the
    /// millisecond.
    pub fn longest_step(&self, now: Duration) -> Duration {
        let now = millis(now) as u32;
        let mut longest = 0;
        let mut next = critical_section::with(|cs| self.step_clocks.borrow(cs).get());
        while let Some(clock) = next {
            let began = clock.began.load(Ordering::Relaxed);
            // A step that began after `now` was read is no old one.
            let age = now.wrapping_sub(began).cast_signed().max(0);
            longest = longest.max(if began == 0 { 0 } else { age });
            next = clock.next;
        }
        Duration::from_millis(u64::from(longest.unsigned_abs()))
    }

    pub(crate) fn slot(&self, slot: Slot) -> &SlotState<P> {
        &self.slots[slot.index()]
    }

    pub(crate) fn queue<R>(&self, change: impl FnOnce(&mut RunQueue) -> R) -> R {
        critical_section::with(|cs| change(&mut self.queue.borrow_ref_mut(cs)))
    }

    /// Arena bytes that a task of `module` takes beside its instance.
    pub(crate) fn task_bytes(module: &Module) -> usize {
        let deferred = usize::from(module.has_initialisers()) * Task::<P>::DEFERRED_BYTES;
        Task::<P>::bytes(module.has_imports()) + deferred
    }

    /// Makes the task of a call in a free slot.
    ///
    /// # Errors
    /// The reason; all that was made is given back.
    pub(crate) fn spawn(
        &'static self,
        slot: Slot,
        module: &Module,
        call: &Call<'_>,
        data: TaskData<Buffer, Bytes>,
    ) -> Result<(), Refused> {
        if !self.queue(|queue| queue.is_free(slot)) {
            return Err(Refused::Taken);
        }
        let config = InstanceConfig {
            stack_bytes: call.limits.stack,
            memory_bytes_max: call.limits.memory_max,
            memory_commit: self.config.memory_commit,
        };
        let instance = Instance::new(module, &config)?;
        let has_imports = module.has_imports();
        let guest = has_imports.then(|| self.runtime.boxed(Guest::new(self, slot, data)));
        let mailbox = has_imports.then(|| self.runtime.boxed(Mailbox::NEW));
        let job = Job::new(self.runtime, instance, guest.transpose()?, call)?;
        let task = self.runtime.boxed(Task::new(job, mailbox.transpose()?))?;
        let has_idle = critical_section::with(|cs| {
            self.slot(slot).put(cs, task);
            let mut queue = self.queue.borrow_ref_mut(cs);
            queue.begin(slot);
            queue.take_idle()
        });
        self.call(has_idle);
        Ok(())
    }

    /// Lets a worker look that waits, if the queue has picked one: where it was changed, for one that looks
    /// later sees the change.
    fn call(&self, has_idle: bool) {
        if has_idle {
            self.platform.wake();
        }
    }

    /// A worker that has the task sees that it is to end; else its slot goes before all others.
    pub(crate) fn interrupt(&self, slot: Slot) {
        let has_idle = self.queue(|queue| {
            if !queue.is_free(slot) {
                let interrupted = &self.slot(slot).interrupted;
                interrupted.store(true, Ordering::Release);
            }
            queue.make_urgent(slot);
            queue.take_idle()
        });
        self.call(has_idle);
    }

    /// Work and memory are what they were at the end of the last step, and so is the time.
    pub(crate) fn usage(&self, slot: Slot) -> RunUsage {
        let usage = |task: &mut Task<P>| task.usage();
        critical_section::with(|cs| self.slot(slot).with(cs, usage)).unwrap_or_default()
    }

    pub(crate) fn take_exit(&self, slot: Slot) -> Option<Exit<Buffer>> {
        let task = critical_section::with(|cs| {
            let mut queue = self.queue.borrow_ref_mut(cs);
            if !queue.has_ended(slot) {
                return None;
            }
            let task = self.slot(slot).take(cs)?;
            if task.mailbox.as_ref().is_some_and(|e| e.message.is_some()) {
                queue.clear_message(slot);
            }
            queue.free(slot);
            Some(task)
        })?;
        Some(task.into_inner().exit(slot))
    }

    pub(crate) fn poll_message(&self) -> Option<(Slot, Message<Buffer>)> {
        let slot = self.queue(|queue| queue.next_message())?;
        Some((slot, self.take_message(slot)?))
    }

    pub(crate) fn take_message(&self, slot: Slot) -> Option<Message<Buffer>> {
        critical_section::with(|cs| {
            let taken = self.slot(slot).mailbox(cs, |e| e.message.take());
            let message = taken.flatten()?;
            self.queue.borrow_ref_mut(cs).clear_message(slot);
            Some(message)
        })
    }

    /// For a guest whose message before was taken.
    pub(crate) fn say(&self, slot: Slot, message: Message<Buffer>) {
        let before = critical_section::with(|cs| {
            let say = |e: &mut Mailbox| e.message.replace(message);
            let before = self.slot(slot).mailbox(cs, say)?;
            self.queue.borrow_ref_mut(cs).set_message(slot);
            before
        });
        debug_assert!(before.is_none(), "the message before has been taken");
        self.platform.notify();
    }

    pub(crate) fn drop_message(&self, slot: Slot) {
        self.slot(slot).count_dropped();
    }

    pub(crate) fn deliver(&self, slot: Slot, topic: &str, payload: &[u8]) {
        let state = self.slot(slot);
        let Some(has_room) = self.if_it_runs(slot, |e| e.has_room()) else {
            return;
        };
        let is_small = topic.len() + payload.len() <= self.config.limits.message_bytes as usize;
        let size = Incoming::size(topic, payload).filter(|_| has_room && is_small);
        match size.and_then(|size| self.runtime.try_buffer(size)) {
            Some(buffer) => {
                let message = Incoming::new(buffer, topic, payload);
                // Dropped where the run has ended meanwhile.
                let refused = self.if_it_runs(slot, |e| e.deliver(message));
                drop(refused);
            }
            None => state.count_dropped(),
        }
    }

    /// Changes the mailbox of a run that has not ended.
    fn if_it_runs<R>(&self, slot: Slot, change: impl FnOnce(&mut Mailbox) -> R) -> Option<R> {
        critical_section::with(|cs| {
            let change = |task: &mut Task<P>| match task.stage {
                Stage::Ended(..) => None,
                _ => task.mailbox.as_deref_mut().map(change),
            };
            self.slot(slot).with(cs, change)?
        })
    }

    /// Measures for the guest that has waited for it for the longest time; false where none does. For
    /// the board's thread, which is one.
    pub fn measure(&self) -> bool {
        self.measure_by(|wanted| match Channel::from_number(wanted.channel) {
            Some(channel) => self.platform.sensor_read(wanted.sensor, channel),
            None => Err(BoardError::Absent),
        })
    }

    fn measure_by(&self, read: impl FnOnce(Wanted) -> Result<i64, BoardError>) -> bool {
        let next = critical_section::with(|cs| {
            let slot = self.queue.borrow_ref_mut(cs).pop_measuring()?;
            let wanted = self.slot(slot).mailbox(cs, Mailbox::begin_measurement);
            Some((slot, wanted.flatten()))
        });
        let Some((slot, wanted)) = next else {
            return false;
        };
        let result = wanted.map_or(Err(BoardError::Absent), read);
        let has_idle = critical_section::with(|cs| {
            let end = |e: &mut Mailbox| e.end_measurement(result);
            let is_its = self.slot(slot).mailbox(cs, end) == Some(true);
            let mut queue = self.queue.borrow_ref_mut(cs);
            if is_its {
                queue.wake(slot);
            }
            queue.take_idle()
        });
        self.call(has_idle);
        true
    }

    /// The life of a worker's thread. `begun` hears that it has what it needs: from then on it does not
    /// return. Where the thread can't be prepared, or the arena has no room for the stack, `begun`
    /// hears that instead.
    pub fn run(&'static self, begun: impl FnOnce(Result<(), wamr::Error>)) {
        let env = match ThreadEnv::enter(self.runtime) {
            Ok(env) => env,
            Err(e) => return begun(Err(e)),
        };
        let prepared = Worker::new(&env, self.config.stack_bytes)
            .and_then(|worker| Ok((worker, self.clock()?)));
        let (mut worker, clock) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => return begun(Err(e)),
        };
        begun(Ok(()));
        let mut clocks = WorkerClocks {
            clock,
            thread: self.platform.thread_time(),
            now: self.platform.now(),
        };
        loop {
            match self.next(micros(clocks.now)) {
                Ok((slot, job)) => self.serve(slot, job, &mut worker, &mut clocks),
                Err(until) => {
                    clock.began.store(0, Ordering::Relaxed);
                    self.platform.wait(until);
                    self.queue(RunQueue::end_idle);
                    clocks.thread = self.platform.thread_time();
                    clocks.begin(self.platform.now());
                }
            }
        }
    }

    /// A worker's clock; it is never given back.
    fn clock(&self) -> Result<&'static StepClock, wamr::Error> {
        let clock = self.runtime.boxed(StepClock {
            began: AtomicU32::new(0),
            next: None,
        })?;
        let clock = clock.leak();
        Ok(critical_section::with(move |cs| {
            let clocks = self.step_clocks.borrow(cs);
            clock.next = clocks.get();
            let clock: &'static StepClock = clock;
            clocks.set(Some(clock));
            clock
        }))
    }

    /// The next guest to run; or the time until which the worker must wait.
    fn next(&self, now: u64) -> Result<(Slot, Job<P>), Option<Duration>> {
        critical_section::with(|cs| {
            let mut queue = self.queue.borrow_ref_mut(cs);
            let until = queue.wake_due(now).map(Duration::from_micros);
            while let Some(slot) = queue.pop() {
                // A slot in line has a task whose job is parked.
                if let Some(Some(job)) = self.slot(slot).with(cs, Task::take_job) {
                    return Ok((slot, job));
                }
            }
            queue.begin_idle();
            Err(until)
        })
    }

    // Frames below the interpreter stay on a worker's stack for the whole turn: work that comes before or
    // after it has frames of its own.
    #[inline(never)]
    fn serve(
        &'static self,
        slot: Slot,
        job: Job<P>,
        worker: &mut Worker<'_>,
        clocks: &mut WorkerClocks,
    ) {
        let mut job = job;
        match self.turn(slot, &mut job, worker, clocks) {
            Ok(place) => self.park(slot, job, place),
            Err(outcome) => self.end(slot, outcome),
        }
    }

    /// Puts a job where it waits for its next turn.
    #[inline(never)]
    fn park(&self, slot: Slot, mut job: Job<P>, place: Yield) {
        if !matches!(place, Yield::Last | Yield::First) {
            // The rest of its turn is lost; a debt is not.
            job.turn = job.turn.min(0);
        }
        let state = self.slot(slot);
        let place = critical_section::with(|cs| {
            let wants = |e: &mut Mailbox| matches!(e.measurement, Measurement::Wanted(_));
            let place = match place {
                Yield::Block if state.mailbox(cs, wants) == Some(true) => Yield::Measure,
                other => other,
            };
            let _ = state.with(cs, |task| task.stage = Stage::Parked(job));
            let mut queue = self.queue.borrow_ref_mut(cs);
            queue.park(slot, place, state.is_interrupted());
            // This worker looks next: it need call no other.
            place
        });
        if place == Yield::Measure && !self.platform.wake_board() {
            while self.measure_by(|_| Err(BoardError::Absent)) {}
        }
    }

    /// Makes the end of a run known. By then all its arena bytes are free but for those of its task, its
    /// mailbox, its output and its last message.
    #[inline(never)]
    fn end(&self, slot: Slot, outcome: Outcome) {
        let has_result = matches!(outcome, Outcome::Returned(_));
        let left = critical_section::with(|cs| {
            self.slot(slot).with(cs, |task| {
                task.end(outcome);
                task.mailbox.as_deref_mut().map(|e| e.close(has_result))
            })
        });
        drop(left);
        self.queue(|queue| queue.end(slot));
        self.platform.notify();
    }

    /// One turn of a guest.
    fn turn(
        &self,
        slot: Slot,
        job: &mut Job<P>,
        worker: &mut Worker<'_>,
        clocks: &mut WorkerClocks,
    ) -> Result<Yield, Outcome> {
        if self.slot(slot).is_interrupted() {
            return Err(self.interrupted(slot, job));
        }
        if job.turn <= 0 {
            let whole = self.turn_of(job.weight);
            job.turn += whole;
            if job.turn <= 0 {
                // It pays, and others go on; without others none has lost anything. In a round in
                // which all pay there is no step, and time passes all the same.
                if self.queue(|queue| queue.has_any()) {
                    clocks.begin(self.platform.now());
                    return Ok(Yield::Last);
                }
                job.turn = whole;
            }
        }
        loop {
            if let Some(place) = self.steps(slot, job, worker, clocks)? {
                return Ok(place);
            }
            self.go_on(slot, job)?;
        }
    }

    /// A turn of a run, in its own measure.
    fn turn_of(&self, weight: Weight) -> i64 {
        let usual = match self.is_timed() {
            false => u64::from(self.slice.load(Ordering::Relaxed)) * UNIT,
            true => u64::from(self.slice_ms.load(Ordering::Relaxed)) * 1_000_000,
        };
        i64::try_from(weight.turn(usual)).unwrap_or(i64::MAX)
    }

    /// Begins the next call of the job's instance. The run ends where all are done.
    #[inline(never)]
    fn go_on(&self, slot: Slot, job: &mut Job<P>) -> Result<(), Outcome> {
        match job.go_on() {
            Ok(true) => Ok(()),
            Ok(false) => {
                let result = job.result();
                self.release(slot, job);
                Err(Outcome::Returned(result))
            }
            Err(e) => Err(self.trapped(slot, job, &e)),
        }
    }

    /// Steps the call until it has finished, or else its turn is over.
    fn steps(
        &self,
        slot: Slot,
        job: &mut Job<P>,
        worker: &mut Worker<'_>,
        clocks: &mut WorkerClocks,
    ) -> Result<Option<Yield>, Outcome> {
        let (Some(instance), guest) = (&mut job.instance, job.guest.as_deref()) else {
            return Err(Outcome::Interrupted);
        };
        // A guest that imports nothing calls nothing.
        let context: &dyn core::any::Any = guest.map_or(&(), |guest| guest);
        let mut burnt = 0;
        let failed = 'entered: {
            let mut active = match worker.enter(instance) {
                Ok(active) => active,
                Err(e) => break 'entered e,
            };
            let place = loop {
                let fuel = self.fuel(job.turn);
                let before = active.instance().work();
                let outcome = active.step(fuel, context);
                // Also where it trapped.
                let (work, time) = self.count(slot, clocks, &active, before);
                let outcome = match outcome {
                    Ok(outcome) => outcome,
                    Err(e) => break 'entered e,
                };
                job.turn -= if self.is_timed() {
                    time
                } else {
                    i64::from(work) * UNIT as i64
                };
                if self.slot(slot).is_interrupted() {
                    drop(active);
                    return Err(self.interrupted(slot, job));
                }
                match outcome {
                    ResumableCall::Finished => return Ok(None),
                    ResumableCall::Blocked => break guest.map_or(Yield::Block, Guest::waits),
                    ResumableCall::OutOfFuel => burnt += i64::from(fuel),
                }
                let whole = self.turn_of(job.weight);
                let now = micros(clocks.now);
                if let Some(place) = self.goes_on(now, &mut job.turn, whole, burnt) {
                    break place;
                }
            };
            match active.leave() {
                Ok(()) => return Ok(Some(place)),
                Err(e) => e,
            }
        };
        Err(self.failed(slot, job, &failed))
    }

    /// Counts a step that has ended, of a run that had done `before`: its units of work, and the
    /// nanoseconds since the step before.
    fn count(
        &self,
        slot: Slot,
        clocks: &mut WorkerClocks,
        active: &Active<'_>,
        before: u64,
    ) -> (u32, i64) {
        let instance = active.instance();
        let held = Usage::by(instance);
        let work = u32::try_from(instance.work() - before).unwrap_or(u32::MAX);
        // A simulator's time passes here, and it is this guest's.
        self.platform.worked(work);
        let thread = self.platform.thread_time();
        let took = thread.saturating_sub(core::mem::replace(&mut clocks.thread, thread));
        let nanos = took.as_secs() * 1_000_000_000 + u64::from(took.subsec_nanos());
        critical_section::with(|cs| {
            self.slot(slot).with(cs, |task| {
                task.stage = Stage::Running(held);
                task.cpu += nanos;
            })
        });
        clocks.begin(self.platform.now());
        if took > SLOW {
            self.count_slow(slot, took, work);
        }
        (work, nanos.cast_signed())
    }

    #[cold]
    #[inline(never)]
    fn count_slow(&self, slot: Slot, took: Duration, work: u32) {
        // Not every target can add at once.
        critical_section::with(|_| {
            let steps = self.slow_steps.load(Ordering::Relaxed);
            self.slow_steps
                .store(steps.saturating_add(1), Ordering::Relaxed);
        });
        log::warn!(
            "slot {}: a step took {} ms of processor time, for {work} of work",
            slot.0,
            took.as_millis()
        );
    }

    /// Fuel of a step: what is left of the turn, if that is by work. Fuel pays for more than work: at
    /// the end of a turn steps would get ever shorter. It goes beyond instead, which the next turn pays.
    fn fuel(&self, turn: i64) -> u32 {
        let slice = self.slice.load(Ordering::Relaxed);
        match self.is_timed() {
            false => {
                let least = (slice / 16).max(1);
                u32::try_from(turn / UNIT as i64)
                    .unwrap_or(slice)
                    .clamp(least, slice)
            }
            true => slice,
        }
    }

    /// Whether a guest whose slice is over leaves the worker, and how. One that alone can run keeps it.
    /// `whole` is its turn, and `burnt` the fuel of it so far.
    fn goes_on(&self, now: u64, turn: &mut i64, whole: i64, burnt: i64) -> Option<Yield> {
        /// A guest's turn is at most this many times the fuel that its work would take: what it has
        /// left of its work then is the next turn's.
        const BURNT_MAX: i64 = 8;
        let (is_alone, is_pressed, has_idle) = self.queue(|queue| {
            let _ = queue.wake_due(now);
            let is_alone = !queue.has_any();
            (is_alone, queue.has_urgent(), !is_alone && queue.take_idle())
        });
        self.call(has_idle);
        let is_hot = !self.is_timed() && burnt * UNIT as i64 / BURNT_MAX >= whole;
        if !is_alone && (*turn <= 0 || is_hot) {
            return Some(Yield::Last);
        }
        if *turn <= 0 {
            *turn = whole;
        }
        is_pressed.then_some(Yield::First)
    }

    #[inline(never)]
    fn failed(&self, slot: Slot, job: &mut Job<P>, error: &Trap) -> Outcome {
        match error.kind() {
            TrapKind::OutOfWork => {
                // All that it was allowed is done.
                let limit = job.instance.as_ref().map_or(0, Instance::work);
                let words = format_args!("work budget of {limit} branches and calls exhausted");
                self.trapped(slot, job, &words)
            }
            TrapKind::OperandStackOverflow => {
                let stack = job.instance.as_ref().map_or(0, Instance::stack_bytes);
                let bytes = stack.min(self.config.stack_bytes);
                let variable = budget::STACK_BYTES;
                let words = format_args!("{error}: it has {bytes} bytes, see {variable}");
                self.trapped(slot, job, &words)
            }
            _ => self.trapped(slot, job, error),
        }
    }

    /// Ends a run for a reason, which is kept in the room that it leaves.
    #[inline(never)]
    fn trapped(&self, slot: Slot, job: &mut Job<P>, reason: &dyn core::fmt::Display) -> Outcome {
        self.release(slot, job);
        let kept = |len| self.runtime.try_buffer(len);
        Outcome::Trapped(words(format_args!("{reason}"), kept))
    }

    #[inline(never)]
    fn interrupted(&self, slot: Slot, job: &mut Job<P>) -> Outcome {
        self.release(slot, job);
        Outcome::Interrupted
    }

    /// Gives back what a run holds of the arena, and keeps what it has used.
    #[inline(never)]
    fn release(&self, slot: Slot, job: &mut Job<P>) {
        if let Some(instance) = job.instance.take() {
            let held = Usage::at_the_end(&instance);
            drop(instance);
            let note = |task: &mut Task<P>| task.stage = Stage::Running(held);
            critical_section::with(|cs| self.slot(slot).with(cs, note));
        }
        job.guest = None;
        job.deferred = None;
    }
}
