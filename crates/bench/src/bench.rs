//! Runs of a set of modules in the slots of an engine.

use crate::{
    Part, Port, Report, SET_MAX, Start, Summary, Wall, Workload,
    report::Event,
    stats::Tally,
    workload::{DIVERSE, ENDLESS, SINGLE},
};
use core::slice;
use proplet::{
    engine::{
        ArenaUsage, Call, Engine, Exit, Failure, InstanceNeeds, Limits, ModuleId, Preemption,
        RunUsage, Slot, TaskData, Value, Weight,
    },
    text::{Text, text},
    time::Duration,
};

/// Time for which the bench waits for runs to begin, or to end when they are interrupted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Loops of a fairness bench that names no number.
const LOOPS: usize = 24;

/// Kinds of benches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A ladder of instances of one module: 1, 2, 4, 8, 16, 24 and so on by 8.
    Shared(&'static Workload),
    /// A ladder of [`DIVERSE`] in sets: 1, 2, 3 and so on.
    Diverse,
    /// A ladder for each of [`SINGLE`].
    All,
    /// Endless loops: their shares, and how soon one is stopped.
    Fairness,
}

/// Settings of a bench.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Limits of each run.
    pub limits: Limits,
    /// Preemption on the engine's device.
    pub preemption: Preemption,
    /// Weights of the slots, from 1 to [`Weight::MAX`], over and over. Without any, each has
    /// that of the limits.
    pub weights: &'a [u8],
    /// Most instances; `None` is as many as there can be, or 24 loops in a fairness bench.
    pub max: Option<usize>,
    /// Duration of a step, and of the loops that share the processor.
    pub step: Duration,
}

/// Verdict on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// With its workload's result.
    Right,
    /// It found no page of memory, of a module that does when it runs alone: at the wall the arena may be in
    /// pieces for a moment, as for a start. No error.
    Starved,
    /// Otherwise.
    Wrong,
}

/// Memory of one slot's bench.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// When its run was started, while it lasts.
    pub(crate) since: Option<Duration>,
    /// Its iterations.
    pub(crate) tally: Tally,
    /// Resources that its loop used while they shared; until that is over, those that it had used before.
    pub(crate) used: RunUsage,
}

impl Lane {
    /// A slot without a run.
    pub const VACANT: Self = Self {
        since: None,
        tally: Tally::NONE,
        used: RunUsage {
            cpu: Duration::ZERO,
            memory: 0,
            pages: 0,
            work: 0,
            dropped: 0,
        },
    };
}

/// Measures, on an engine that runs nothing, has a slot for each of the `lanes`, and room
/// in its module table for [`SET_MAX`]. Returns whether every run ended as it should and the arena
/// is as it was, to the byte.
///
/// # Errors
/// The reason as text: the modules don't fit the arena or the limits, or runs did not begin or end
/// within 10 s.
pub fn run<E: Engine, P: Port>(
    engine: &mut E,
    port: &mut P,
    lanes: &mut [Lane],
    mode: Mode,
    options: &Options<'_>,
    report: &mut impl Report,
) -> Result<bool, Text> {
    let mut on =
        |set: &'static [Workload]| Bench::new(engine, port, lanes, set, options).run(mode, report);
    match mode {
        Mode::Shared(workload) => Ok(on(slice::from_ref(workload))?.is_good()),
        Mode::Diverse => Ok(on(&DIVERSE)?.is_good()),
        Mode::Fairness => Ok(on(&ENDLESS)?.is_good()),
        Mode::All => {
            let mut all = heapless::Vec::<Summary, { SINGLE.len() }>::new();
            for set in SINGLE.chunks(1) {
                // There is room for each of them.
                let _ = all.push(on(set)?);
            }
            report.report(&Event::All(&all));
            Ok(all.iter().all(Summary::is_good))
        }
    }
}

/// A set of modules in the engine, and its instances: the first `held` slots have them, in the
/// set's order over and over.
pub(crate) struct Bench<'a, E, P> {
    pub(crate) engine: &'a mut E,
    pub(crate) port: &'a mut P,
    pub(crate) lanes: &'a mut [Lane],
    pub(crate) options: &'a Options<'a>,
    pub(crate) parts: heapless::Vec<Part, SET_MAX>,
    pub(crate) set: &'static [Workload],
    pub(crate) held: usize,
    /// Free bytes of the arena with the modules in it and nothing running.
    pub(crate) room: usize,
    /// Bytes that the instances of all modules share, while there are any.
    shared: usize,
    /// A module writes to its memory, and ended well when it ran alone.
    starves: bool,
    /// Starts that were refused, and not tried again since; the last of them.
    refused: usize,
    refusal: Option<(usize, Text)>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<Text>,
}

impl<'a, E: Engine, P: Port> Bench<'a, E, P> {
    fn new(
        engine: &'a mut E,
        port: &'a mut P,
        lanes: &'a mut [Lane],
        set: &'static [Workload],
        options: &'a Options<'a>,
    ) -> Self {
        lanes.fill(Lane::VACANT);
        Self {
            room: engine.arena().free,
            engine,
            port,
            lanes,
            options,
            parts: heapless::Vec::new(),
            set,
            held: 0,
            shared: 0,
            starves: false,
            refused: 0,
            refusal: None,
            errors: 0,
            first_error: None,
        }
    }

    fn run(mut self, mode: Mode, report: &mut impl Report) -> Result<Summary, Text> {
        let before = self.engine.arena();
        let loaded = self.load(mode);
        let measured = loaded.and_then(|()| self.measure(mode, before, report));
        let wall = self.tear_down(measured)?;
        let summary = self.summary(before.free, wall);
        report.report(&Event::End(&summary));
        Ok(summary)
    }

    fn measure(
        &mut self,
        mode: Mode,
        before: ArenaUsage,
        report: &mut impl Report,
    ) -> Result<Option<Wall>, Text> {
        report.report(&Event::Start(&Start {
            options: self.options,
            clock: self.port.clock(),
            slots: self.lanes.len(),
            before,
            loaded: self.loaded(),
            parts: &self.parts,
        }));
        match mode {
            Mode::Fairness => self.fairness(self.options.max.unwrap_or(LOOPS), report),
            Mode::Shared(_) | Mode::Diverse | Mode::All => Ok(Some(self.ladder(report))),
        }
    }

    /// The arena with all modules and what their instances share, which is there while there are any.
    fn loaded(&self) -> ArenaUsage {
        let arena = self.engine.arena();
        ArenaUsage {
            free: arena.free.saturating_sub(self.shared),
            ..arena
        }
    }

    /// Loads the modules as the agent does, and runs those that end once, each alone: only then is it known
    /// what one takes that writes to its memory.
    fn load(&mut self, mode: Mode) -> Result<(), Text> {
        let named = |workload: &Workload, e| text(format_args!("{}: {e}", workload.name));
        for (id, workload) in (0..).map(ModuleId).zip(self.set) {
            let part = self
                .load_one(id, workload)
                .map_err(|e| named(workload, e))?;
            // A set has at most SET_MAX.
            let _ = self.parts.push(part);
        }
        if !matches!(mode, Mode::Fairness) {
            for (slot, workload) in self.set.iter().enumerate().take(self.lanes.len()) {
                let usage = self.run_alone(slot).map_err(|e| named(workload, e))?;
                let part = &mut self.parts[slot];
                if usage.pages > 0 {
                    self.starves = true;
                    part.instance = part.instance.max(usage.memory);
                }
            }
        }
        self.room = self.loaded().free;
        Ok(())
    }

    fn load_one(&mut self, id: ModuleId, workload: &'static Workload) -> Result<Part, Text> {
        let (len, free) = (workload.wasm.len(), self.engine.arena().free);
        fits(len, free, "its bytes")?;
        let mut bytes = self.engine.allocate(len).map_err(words)?;
        bytes.copy_from_slice(workload.wasm);
        let needs = self.engine.estimate(&bytes, &self.options.limits);
        let needs = needs.map_err(words)?;
        fits(needs.load, self.engine.arena().free, "parsing it")?;
        self.engine.load(id, bytes).map_err(words)?;
        let needs = self.engine.instance_needs(id, &self.options.limits);
        let InstanceNeeds { own, shared, .. } = needs.map_err(words)?;
        self.shared += shared;
        Ok(Part {
            workload,
            loaded: free - self.engine.arena().free + shared,
            instance: own,
        })
    }

    /// Runs the module of a slot of the first set.
    fn run_alone(&mut self, slot: usize) -> Result<RunUsage, Text> {
        self.start(slot);
        if let Some((_, reason)) = self.refusal.take() {
            self.refused = 0;
            return Err(reason);
        }
        let mut ended = None;
        self.wait_until(|bench| {
            ended = bench.poll();
            ended.is_some()
        });
        match ended {
            // One that fails does so in the ladder, too, where that counts.
            Some((exit, _)) if exit.result.is_err() => Ok(RunUsage::default()),
            Some((exit, _)) => Ok(exit.usage),
            None => Err(text(format_args!("it has not ended in {PATIENCE:?}"))),
        }
    }

    fn part(&self, slot: usize) -> Part {
        self.parts[slot % self.parts.len()]
    }

    pub(crate) fn weight(&self, slot: usize) -> u8 {
        let weights = self.options.weights;
        match weights.len() {
            0 => self.options.limits.weight.0,
            len => weights[slot % len],
        }
    }

    /// Arena bytes of the instances that are held, as the engine says.
    pub(crate) fn said(&self) -> usize {
        (0..self.held).map(|slot| self.part(slot).instance).sum()
    }

    fn set_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.instance).sum()
    }

    /// The wall that one more set would meet. The agent's admission, but on what would be free if every
    /// run were in the middle: what the arena says while runs begin and end is now more, now less.
    fn wall(&self) -> Option<Wall> {
        let (need, free) = (self.set_bytes(), self.room - self.said());
        let free = free.saturating_sub(self.engine.arena().reserve);
        let held = self.held + self.set.len();
        match self.options.max {
            Some(max) if held > max => Some(Wall::Asked(max)),
            _ if held > self.lanes.len() => Some(Wall::Slots(self.lanes.len())),
            _ if need > free => Some(Wall::Arena { need, free }),
            _ => None,
        }
    }

    /// Starts sets until `count` are held, or up to the wall.
    pub(crate) fn grow(&mut self, sets: usize) -> Option<Wall> {
        while self.held < sets * self.set.len() {
            let wall = self.wall();
            if wall.is_some() {
                return wall;
            }
            for _ in 0..self.set.len() {
                self.start(self.held);
                self.held += 1;
            }
        }
        None
    }

    /// Starts a run in a slot, or has it [tried again](Self::start_refused): at the wall the arena may
    /// be in pieces for a moment, until others have come and gone.
    pub(crate) fn start(&mut self, slot: usize) {
        let call = Call {
            // There are at most SET_MAX modules.
            module: ModuleId((slot % self.set.len()) as u16),
            export: "main",
            args: &[],
            limits: Limits {
                weight: Weight(self.weight(slot)),
                ..self.options.limits
            },
        };
        let now = self.port.now();
        match self.engine.spawn(Slot::at(slot), &call, TaskData::NONE) {
            Ok(()) => self.lanes[slot].since = Some(now),
            Err(reason) => {
                self.refused += 1;
                self.refusal = Some((slot, words(reason)));
            }
        }
    }

    /// Tries again to start what could not be started.
    pub(crate) fn start_refused(&mut self) {
        if self.refused == 0 {
            return;
        }
        self.refused = 0;
        for slot in 0..self.held {
            if self.lanes[slot].since.is_none() {
                self.start(slot);
            }
        }
    }

    /// Counts the starts that are still refused, but for those that find no room: at the wall the arena
    /// may stay in pieces.
    pub(crate) fn note_refused(&mut self) {
        if self.refused > 0
            && let Some((slot, reason)) = self.refusal.take()
            && !reason.starts_with("out of memory")
        {
            self.fail(slot, |_| reason);
        }
    }

    /// The next run that has ended: its exit, and how long it took until now.
    pub(crate) fn poll(&mut self) -> Option<(Exit<E::Buffer>, Duration)> {
        let slot = self.engine.exited()?;
        let exit = self.engine.take_exit(slot)?;
        let since = self.lanes[slot.index()].since.take();
        let now = self.port.now();
        Some((exit, now.saturating_sub(since.unwrap_or(now))))
    }

    /// Verdict on the end of a run; an error is counted.
    pub(crate) fn judge(&mut self, exit: &Exit<E::Buffer>) -> Verdict {
        let expected = self.part(exit.slot.index()).workload.result;
        if matches!(exit.result, Ok(Some(Value::I32(value))) if value == expected) {
            return Verdict::Right;
        }
        if self.is_starved(exit) {
            return Verdict::Starved;
        }
        self.note(exit);
        Verdict::Wrong
    }

    fn is_starved(&self, exit: &Exit<E::Buffer>) -> bool {
        let Err(Failure::Trap(Some(words))) = &exit.result else {
            return false;
        };
        self.starves && words.starts_with(b"out of memory")
    }

    /// Counts a run that did not end as it should.
    pub(crate) fn note(&mut self, exit: &Exit<E::Buffer>) {
        self.fail(exit.slot.index(), |expected| match &exit.result {
            Ok(value) => text(format_args!("returned {value:?}, expected {expected}")),
            Err(Failure::Interrupted) => text(format_args!("interrupted by nobody")),
            Err(trap) => text(format_args!("{trap}")),
        });
    }

    /// Counts a run that failed in a slot, for a reason that may name the result that was expected.
    fn fail(&mut self, slot: usize, reason: impl FnOnce(i32) -> Text) {
        self.errors += 1;
        let Workload { name, result, .. } = *self.part(slot).workload;
        self.first_error
            .get_or_insert_with(|| text(format_args!("slot {slot}, {name}: {}", reason(result))));
    }

    pub(crate) fn is_as_said(&self, exit: &Exit<E::Buffer>) -> bool {
        exit.usage.memory == self.part(exit.slot.index()).instance
    }

    /// Waits until `done`, at most [`PATIENCE`]. Returns whether it came.
    pub(crate) fn wait_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        /// Interval at which anything but the end of a run is polled.
        const LOOK: Duration = Duration::from_millis(1);
        let until = self.port.now() + PATIENCE;
        loop {
            if done(self) {
                return true;
            }
            let now = self.port.now();
            if now >= until {
                return false;
            }
            self.port.wait(now + LOOK);
        }
    }

    /// Ends all runs and unloads the modules, and passes on what was measured. If a run does not
    /// end its module stays.
    fn tear_down<T>(&mut self, measured: Result<T, Text>) -> Result<T, Text> {
        for (slot, lane) in (0..).map(Slot::at).zip(self.lanes.iter()) {
            if lane.since.is_some() {
                self.engine.interrupt(slot);
            }
        }
        let running = |bench: &Self| bench.lanes.iter().filter(|l| l.since.is_some()).count();
        let ended = self.wait_until(|bench| {
            while bench.poll().is_some() {}
            running(bench) == 0
        });
        if !ended {
            return Err(text(format_args!(
                "{} of {} runs have not ended {PATIENCE:?} after they were interrupted",
                running(self),
                self.held
            )));
        }
        for (id, _) in (0..).map(ModuleId).zip(self.set) {
            self.engine.unload(id);
        }
        measured
    }

    fn summary(&mut self, free_before: usize, wall: Option<Wall>) -> Summary {
        Summary {
            name: match self.set {
                [one] => one.name,
                _ => "diverse",
            },
            instances: self.held,
            set_bytes: self.set_bytes(),
            wall,
            errors: self.errors,
            first_error: self.first_error.take(),
            free_before,
            free_after: self.engine.arena().free,
        }
    }
}

/// A refusal as text.
pub(crate) fn words(refusal: impl core::fmt::Display) -> Text {
    text(format_args!("{refusal}"))
}

fn fits(need: usize, free: usize, what: &str) -> Result<(), Text> {
    if need <= free {
        return Ok(());
    }
    Err(text(format_args!(
        "out of memory: {what} needs {need} bytes, {free} are free"
    )))
}
