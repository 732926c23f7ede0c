//! The bench on an engine of numbers, in time that only passes while it waits.

extern crate std;

use crate::{workload::ENDLESS, *};
use proplet::{
    engine::{
        ArenaUsage, Call, Engine, EngineError, Exit, Failure, InstanceNeeds, Limits, Message,
        ModuleId, Needs, Params, Preemption, ProcessUsage, Record, RunUsage, Slot, TaskData, Value,
        Weight,
    },
    memory::Shortage,
    text::Text,
};
use std::{cell::Cell, format, rc::Rc, string::String, vec, vec::Vec};

const ARENA: usize = 10_000;

/// Bytes that the fake takes for parsing, beyond the module's.
const LOAD: usize = 10;

/// Bytes that the fake takes for an instance.
const INSTANCE: usize = 300;

/// How long a run takes.
const RUN: Duration = Duration::from_millis(3);

/// How long a run takes to end when it is interrupted.
const STOP: Duration = Duration::from_micros(1500);

/// End of a fake run.
type Outcome = Result<Option<Value>, Failure<Vec<u8>>>;

struct Running {
    module: ModuleId,
    weight: u8,
    since: Duration,
    until: Option<Duration>,
    is_interrupted: bool,
}

/// Runs end when their time has come; each may be made to fail by its number.
struct Fake {
    now: Rc<Cell<Duration>>,
    modules: Vec<(ModuleId, Vec<u8>)>,
    runs: Vec<Option<Running>>,
    ended: u64,
    /// Result of the run that ends as the n-th.
    result: fn(u64, i32) -> Outcome,
    /// Bytes that each instance really takes.
    instance: usize,
    /// Whether runs go on when they are interrupted.
    is_deaf: bool,
    /// Bytes lost with each module.
    leak: usize,
    lost: usize,
}

struct FakePort(Rc<Cell<Duration>>);

impl Port for FakePort {
    fn clock(&self) -> Clock {
        Clock {
            name: "fake",
            resolution: Duration::from_micros(500),
        }
    }

    fn now(&self) -> Duration {
        self.0.get()
    }

    /// To the next half of a millisecond at most: runs begin and end on those.
    fn wait(&mut self, until: Duration) {
        let next = (self.0.get().as_micros() / 500 + 1) * 500;
        self.0.set(until.min(Duration::from_micros(next as u64)));
    }
}

fn right(_: u64, result: i32) -> Outcome {
    Ok(Some(Value::I32(result)))
}

impl Fake {
    fn new(slots: usize) -> Self {
        Self {
            now: Rc::default(),
            modules: Vec::new(),
            runs: (0..slots).map(|_| None).collect(),
            ended: 0,
            result: right,
            instance: INSTANCE,
            is_deaf: false,
            leak: 0,
            lost: 0,
        }
    }

    fn wasm(&self, module: ModuleId) -> &[u8] {
        let found = self.modules.iter().find(|(id, _)| *id == module);
        &found.expect("the module is loaded").1
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.runs.iter().flatten()
    }
}

/// No record is ever made.
enum NoRecord {}

impl<T> Record<T> for NoRecord {
    type Bytes = Vec<u8>;

    fn value(&self) -> &T {
        match *self {}
    }

    fn value_mut(&mut self) -> &mut T {
        match *self {}
    }

    fn bytes(&self) -> &[u8] {
        match *self {}
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match *self {}
    }

    fn share(&mut self) -> Vec<u8> {
        match *self {}
    }
}

impl Engine for Fake {
    type Buffer = Vec<u8>;

    type Bytes = Vec<u8>;

    type Record<T> = NoRecord;

    fn arena(&self) -> ArenaUsage {
        let modules: usize = self.modules.iter().map(|(_, wasm)| wasm.len() + LOAD).sum();
        let free = ARENA - modules - self.running().count() * self.instance - self.lost;
        ArenaUsage {
            total: ARENA,
            free,
            free_min: free,
            reserve: 0,
            pages: 0,
            page_bytes: 0,
        }
    }

    fn allocate(&self, len: usize) -> Result<Vec<u8>, Shortage> {
        Ok(vec![0; len])
    }

    fn record<T>(&self, _: T, _: usize) -> Result<NoRecord, Shortage> {
        unreachable!("the bench keeps no records")
    }

    fn record_bytes<T>(_: usize) -> usize {
        0
    }

    fn resize(&self, buffer: &mut Vec<u8>, len: usize) -> Result<(), Shortage> {
        buffer.resize(len, 0);
        Ok(())
    }

    fn estimate(&self, _: &[u8], _: &Limits) -> Result<Needs, EngineError<Vec<u8>>> {
        Ok(Needs {
            load: LOAD,
            instance: INSTANCE,
        })
    }

    fn load(&mut self, module: ModuleId, bytes: Vec<u8>) -> Result<(), EngineError<Vec<u8>>> {
        self.modules.push((module, bytes));
        Ok(())
    }

    fn unload(&mut self, module: ModuleId) {
        assert!(self.running().all(|run| run.module != module), "it runs");
        self.modules.retain(|(id, _)| *id != module);
        self.lost += self.leak;
    }

    fn instance_needs(
        &self,
        module: ModuleId,
        limits: &Limits,
    ) -> Result<InstanceNeeds, EngineError<Vec<u8>>> {
        self.wasm(module);
        if limits.memory_max == Some(0) {
            return Err(self.words(format_args!("0 bytes of memory are too few")));
        }
        Ok(InstanceNeeds {
            own: INSTANCE,
            memory: 0,
            shared: 0,
        })
    }

    fn params(&self, _: ModuleId, _: &str) -> Result<Option<Params>, EngineError<Vec<u8>>> {
        Ok(Some(Params::new()))
    }

    fn spawn(
        &mut self,
        slot: Slot,
        call: &Call<'_>,
        _: TaskData<Vec<u8>, Vec<u8>>,
    ) -> Result<(), EngineError<Vec<u8>>> {
        let since = self.now.get();
        let is_endless = self.wasm(call.module) == ENDLESS[0].wasm;
        let run = &mut self.runs[slot.index()];
        assert!(run.is_none(), "slot {} is busy", slot.0);
        *run = Some(Running {
            module: call.module,
            weight: call.limits.weight.0,
            since,
            until: (!is_endless).then_some(since + RUN),
            is_interrupted: false,
        });
        Ok(())
    }

    fn interrupt(&mut self, slot: Slot) {
        let now = self.now.get();
        if self.is_deaf {
            return;
        }
        if let Some(run) = &mut self.runs[slot.index()] {
            run.is_interrupted = true;
            run.until = Some(now + STOP);
        }
    }

    fn usage(&self, slot: Slot) -> RunUsage {
        let run = self.runs[slot.index()].as_ref();
        run.map_or_else(RunUsage::default, |run| {
            let ran = self.now.get() - run.since;
            RunUsage {
                cpu: ran * run.weight.into(),
                memory: self.instance,
                work: ran.as_micros() as u64 * u64::from(run.weight),
                pages: 0,
                dropped: 0,
            }
        })
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage {
            user: self.now.get() / 2,
            system: self.now.get() / 4,
            ..ProcessUsage::default()
        }
    }

    fn exited(&mut self) -> Option<Slot> {
        let mut slots = (0..self.runs.len()).map(Slot::at);
        slots.find(|slot| self.has_exited(*slot))
    }

    fn has_exited(&self, slot: Slot) -> bool {
        let until = self.runs[slot.index()].as_ref().and_then(|run| run.until);
        until.is_some_and(|until| until <= self.now.get())
    }

    fn take_exit(&mut self, slot: Slot) -> Option<Exit<Vec<u8>>> {
        let run = self.runs[slot.index()].take()?;
        let wasm = self.wasm(run.module);
        let expected = Workload::all().find(|w| w.wasm == wasm).map(|w| w.result);
        self.ended += 1;
        Some(Exit {
            slot,
            result: match expected {
                Some(expected) if !run.is_interrupted => (self.result)(self.ended, expected),
                _ => Err(Failure::Interrupted),
            },
            output: None,
            usage: RunUsage {
                memory: self.instance,
                ..RunUsage::default()
            },
        })
    }

    fn poll_message(&mut self) -> Option<(Slot, Message<Vec<u8>>)> {
        None
    }

    fn take_message(&mut self, _: Slot) -> Option<Message<Vec<u8>>> {
        None
    }

    fn deliver(&mut self, _: Slot, _: &str, _: &[u8]) {
        unreachable!("the bench has no channel");
    }

    fn drop_message(&mut self, _: Slot) {
        unreachable!("the bench has no channel");
    }
}

const OPTIONS: Options<'_> = Options {
    limits: Limits {
        stack: 4096,
        memory_max: None,
        work: None,
        weight: Weight::DEFAULT,
    },
    preemption: Preemption::Fuel,
    weights: &[],
    max: None,
    step: Duration::from_millis(30),
};

/// All events, and the text of the console.
#[derive(Default)]
struct Seen {
    steps: Vec<Step>,
    wall: Option<(usize, Wall)>,
    rows: Vec<Row>,
    shares: Vec<Share>,
    fairness: Option<Fairness>,
    ends: Vec<Summary>,
    text: String,
}

impl Report for Seen {
    fn report(&mut self, event: &Event<'_>) {
        Console(&mut self.text).report(event);
        match event {
            Event::Step(step) => self.steps.push(**step),
            Event::Wall(held, wall) => self.wall = Some((*held, **wall)),
            Event::Row(row) => self.rows.push(**row),
            Event::Share(share) => self.shares.push(**share),
            Event::Fairness(fairness) => self.fairness = Some(**fairness),
            Event::End(summary) => self.ends.push((*summary).clone()),
            Event::Start(_) | Event::Table(_) | Event::All(_) => {}
        }
    }
}

impl Seen {
    fn ladder(&self) -> Vec<usize> {
        self.steps.iter().map(|step| step.instances).collect()
    }
}

fn bench(fake: &mut Fake, mode: Mode, options: &Options<'_>) -> (Result<bool, Text>, Seen) {
    let mut port = FakePort(fake.now.clone());
    let mut lanes = vec![Lane::VACANT; fake.runs.len()];
    let mut seen = Seen::default();
    let result = run(fake, &mut port, &mut lanes, mode, options, &mut seen);
    for line in seen.text.lines() {
        assert!(line.chars().count() <= 80, "too long: {line}");
    }
    (result, seen)
}

fn shared() -> Mode {
    Mode::Shared(Workload::named("cpu").expect("there is one"))
}

/// Free bytes with cpu loaded.
fn room() -> usize {
    ARENA - LOAD - SINGLE[0].wasm.len()
}

#[test]
fn the_ladder_ends_at_what_the_arena_holds() {
    let (result, seen) = bench(&mut Fake::new(256), shared(), &OPTIONS);
    assert_eq!(result, Ok(true), "{}", seen.text);
    let held = room() / INSTANCE;
    assert_eq!(seen.ladder(), [1, 2, 4, 8, 16, 24, held]);
    let wall = Wall::Arena {
        need: INSTANCE,
        free: room() % INSTANCE,
    };
    assert_eq!(seen.wall, Some((held, wall)));
    for step in &seen.steps {
        assert!(step.agrees(), "{step:?}");
        assert_eq!(step.free, room() - step.instances * INSTANCE);
        assert_eq!(step.wall, OPTIONS.step);
        assert_eq!(step.cpu, OPTIONS.step * 3 / 4);
        // 10 runs of each instance fit the step, but for one begun before it.
        let runs = step.tally.latency.count;
        assert!(
            (9..=10).contains(&(runs / step.instances as u64)),
            "{step:?}"
        );
        assert_eq!(step.tally.latency.mean(), RUN);
    }
    assert_eq!(seen.rows.len(), held);
    let counted = |tallies: &mut dyn Iterator<Item = Tally>| -> u64 {
        tallies.map(|tally| tally.iterations()).sum()
    };
    assert_eq!(
        counted(&mut seen.rows.iter().map(|row| row.tally)),
        counted(&mut seen.steps.iter().map(|step| step.tally))
    );
}

#[test]
fn a_number_on_the_ladder_is_stepped_on_once() {
    for (slots, max, wall) in [(8, None, Wall::Slots(8)), (256, Some(8), Wall::Asked(8))] {
        let options = Options { max, ..OPTIONS };
        let (result, seen) = bench(&mut Fake::new(slots), shared(), &options);
        assert_eq!(result, Ok(true));
        assert_eq!(seen.ladder(), [1, 2, 4, 8]);
        assert_eq!(seen.wall, Some((8, wall)));
    }
}

#[test]
fn between_two_steps_the_exact_number_is_the_last() {
    let options = Options {
        max: Some(11),
        ..OPTIONS
    };
    let (_, seen) = bench(&mut Fake::new(256), shared(), &options);
    assert_eq!(seen.ladder(), [1, 2, 4, 8, 11]);
}

#[test]
fn diverse_grows_in_whole_sets() {
    let (result, seen) = bench(&mut Fake::new(23), Mode::Diverse, &OPTIONS);
    assert_eq!(result, Ok(true), "{}", seen.text);
    assert_eq!(seen.ladder(), [5, 10, 15, 20]);
    assert_eq!(seen.wall, Some((20, Wall::Slots(23))));
    let tasks: Vec<&str> = seen.rows[5..10].iter().map(|row| row.task).collect();
    assert_eq!(tasks, ["add", "mul", "fib", "checksum", "popcount"]);
    assert_eq!(seen.ends[0].set_bytes, 5 * INSTANCE);
}

#[test]
fn all_takes_one_after_the_other_and_sums_up() {
    let (result, seen) = bench(&mut Fake::new(4), Mode::All, &OPTIONS);
    assert_eq!(result, Ok(true), "{}", seen.text);
    let names: Vec<&str> = seen.ends.iter().map(|end| end.name).collect();
    assert_eq!(names, ["cpu", "mem", "msg"]);
    assert_eq!(seen.ladder(), [1, 2, 4, 1, 2, 4, 1, 2, 4]);
    let (_, table) = seen.text.split_once("workload").expect("a summary");
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[test]
fn wrong_results_and_traps_are_counted_and_the_first_is_told() {
    let mut fake = Fake::new(2);
    fake.result = |n, result| match n {
        3 => Ok(Some(Value::I32(result - 1))),
        4 => Err(Failure::Trap(Some(b"unreachable".into()))),
        5 => Ok(None),
        _ => right(n, result),
    };
    let (result, seen) = bench(&mut fake, shared(), &OPTIONS);
    assert_eq!(result, Ok(false));
    let end = &seen.ends[0];
    assert_eq!((end.errors, end.is_exact()), (3, true));
    let expected = format!("expected {}", SINGLE[0].result);
    let first = end.first_error.as_ref().expect("there are some");
    assert!(
        first.starts_with("slot 0, cpu: returned") && first.ends_with(&expected),
        "{first}"
    );
    let errors: u64 = seen.steps.iter().map(|step| step.tally.errors).sum();
    assert_eq!(errors, 3);
}

#[test]
fn an_estimate_that_is_wrong_is_told() {
    for instance in [INSTANCE - 8, INSTANCE + 8] {
        let mut fake = Fake::new(4);
        fake.instance = instance;
        let (result, seen) = bench(&mut fake, shared(), &OPTIONS);
        assert_eq!(result, Ok(true));
        for step in &seen.steps {
            assert!(!step.agrees(), "{step:?}");
            assert_eq!(step.said, step.instances * INSTANCE);
            assert_eq!(step.measured, step.instances * instance);
            assert_eq!(step.strays, step.tally.latency.count);
        }
        assert!(seen.text.contains("differs"), "{}", seen.text);
    }
}

#[test]
fn an_arena_that_is_not_as_before_is_an_error() {
    let mut fake = Fake::new(4);
    fake.leak = 8;
    let (result, seen) = bench(&mut fake, shared(), &OPTIONS);
    assert_eq!(result, Ok(false));
    assert_eq!(seen.ends[0].free_before - seen.ends[0].free_after, 8);
    assert!(seen.text.contains("ERROR: after teardown"), "{}", seen.text);
}

#[test]
fn what_does_not_fit_the_limits_is_refused_and_unloaded() {
    let mut fake = Fake::new(4);
    let mut options = OPTIONS;
    options.limits.memory_max = Some(0);
    let (result, _) = bench(&mut fake, Mode::Diverse, &options);
    let error = result.unwrap_err();
    assert_eq!(error, "add: 0 bytes of memory are too few");
    assert_eq!(fake.arena().free, ARENA);
}

#[test]
fn loops_are_shared_by_weight_and_each_is_stopped_once() {
    let mut fake = Fake::new(8);
    let options = Options {
        weights: &[1, 2, 4, 8],
        max: Some(8),
        ..OPTIONS
    };
    let (result, seen) = bench(&mut fake, Mode::Fairness, &options);
    assert_eq!(result, Ok(true), "{}", seen.text);
    let weights: Vec<u8> = seen.shares.iter().map(|share| share.weight).collect();
    assert_eq!(weights, [1, 2, 4, 8, 1, 2, 4, 8]);
    assert!((seen.shares[3].due - 8.0 / 30.0).abs() < 1e-12);
    assert_eq!(seen.shares[3].work, 30_000 * 8);
    let fairness = seen.fairness.expect("it was measured");
    assert_eq!(fairness.wall, OPTIONS.step);
    for evenness in [fairness.work, fairness.cpu] {
        let Evenness { jain, error } = evenness.expect("it was counted");
        assert!(jain > 0.999_999 && error < 1e-9, "{jain} {error}");
    }
    assert_eq!(fairness.stops.count, 8);
    assert_eq!((fairness.stops.least, fairness.stops.most), (STOP, STOP));
    assert_eq!(fake.running().count(), 0);
}

#[test]
fn a_loop_that_does_not_end_is_given_up_and_keeps_its_module() {
    let mut fake = Fake::new(4);
    fake.is_deaf = true;
    let (result, _) = bench(&mut fake, Mode::Fairness, &OPTIONS);
    let error = result.unwrap_err();
    assert!(
        error.starts_with("4 of 4 runs have not ended 10s"),
        "{error}"
    );
    assert_eq!(fake.modules.len(), 1);
}

#[test]
fn fewer_loops_than_were_asked_for_have_a_wall() {
    let (result, seen) = bench(&mut Fake::new(4), Mode::Fairness, &OPTIONS);
    assert_eq!(result, Ok(true));
    assert_eq!(seen.wall, Some((4, Wall::Slots(4))));
    assert_eq!(seen.shares.len(), 4);
}
