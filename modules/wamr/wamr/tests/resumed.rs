//! Effects of a guest, and the work that it takes, are the same however its calls are cut into steps,
//! whoever runs between them, and on whichever worker and thread.
//!
//! Each sample's functions are called with random arguments: in one step each; in steps of random
//! fuel among other guests on one worker; the same on workers of several threads; and without leaving
//! the stack. Ends, globals, tables, memory and work must be equal in all. Another engine gives
//! the expected results and memory. `RESUMED` is a number of samples, `RESUMED_SEED` the first seed.

mod common;
mod samples;

/// Samples, and the two engines that run them.
mod resumed {
    pub(crate) mod generate;
    pub(crate) mod host;
    pub(crate) mod memory;
    pub(crate) mod observed;
    pub(crate) mod oracle;
}

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use common::{alone, load_bytes, runtime_in};
use resumed::host::{HOST, Seen};
use resumed::oracle::{End, Oracle, Other};
use resumed::{generate, memory, observed};
use samples::{Random, setting};
use wamr::{
    Buffer, Instance, InstanceConfig, Module, ResumableCall, Runtime, ThreadEnv, Trap, TrapKind,
    Value, Worker,
};

/// Two dozens of guests, of four pages each at most.
const ARENA: usize = 32 * 1024 * 1024;
/// Bytes of linear memory that a guest may grow to.
const MEMORY: u64 = 8 * 65_536;
/// Work that a call may do.
const WORK: u64 = 20_000;
/// Samples whose guests share a worker at a time.
const TOGETHER: usize = 4;
/// Of each sample.
const GUESTS: usize = 2;
const CALLS: usize = 4;
const THREADS: usize = 2;

fn rt() -> Runtime {
    runtime_in(ARENA, &HOST)
}

fn thread() -> ThreadEnv {
    ThreadEnv::enter(rt()).expect("the thread enters")
}

/// A module, the calls that are made of it, and the names of its observers.
struct Case {
    wasm: Vec<u8>,
    module: Module,
    stack_bytes: u32,
    observers: Vec<String>,
    calls: Vec<Call>,
    /// The work that each call may do, what runs first included.
    limits: Vec<u64>,
}

#[derive(Debug)]
struct Call {
    name: String,
    args: Vec<Value>,
    /// A host function that the module exports.
    is_import: bool,
}

/// Everything known after a call.
#[derive(Clone, PartialEq, Debug)]
struct Outcome {
    end: Result<Vec<u64>, (TrapKind, String)>,
    work: u64,
    observed: Vec<Result<Vec<u64>, TrapKind>>,
    memory: (u64, u64),
}

/// An instance on its way through its case's calls.
struct Run<'c> {
    case: &'c Case,
    instance: Instance,
    /// Calls that have begun; the first is what the module wants run first.
    begun: usize,
    /// Work before the call.
    before: u64,
    outcomes: Vec<Outcome>,
    steps: u64,
    /// Something behind the instance in the arena, so that its memory can't grow in place.
    _fence: Option<Buffer>,
}

impl<'c> Run<'c> {
    fn new(case: &'c Case, random: &mut Random) -> Option<Self> {
        let config = InstanceConfig {
            stack_bytes: case.stack_bytes,
            memory_bytes_max: Some(MEMORY),
            // A memory that could grow to more is bounded here as there; others take a page when it is
            // written to.
            memory_commit: case
                .module
                .memory()
                .is_some_and(|memory| u64::from(memory.maximum_pages) * 65_536 > MEMORY),
        };
        let instance = Instance::new(&case.module, &config).ok()?;
        Some(Self {
            case,
            instance,
            begun: 0,
            before: 0,
            outcomes: Vec::new(),
            steps: 0,
            _fence: match random.below(2) {
                0 => rt().buffer(8 << random.below(6)).ok(),
                _ => None,
            },
        })
    }

    /// Begins the next call, unless one is on its way. False where all have ended.
    fn begin(&mut self, worker: &mut Worker<'_>) -> bool {
        while self.outcomes.len() == self.begun {
            let Some(limit) = self.case.limits.get(self.begun) else {
                return false;
            };
            self.instance.set_work_left(*limit);
            self.before = self.instance.work();
            let begun = match self.begun.checked_sub(1) {
                None => self.instance.initialise(),
                Some(call) => {
                    let Call { name, args, .. } = &self.case.calls[call];
                    self.instance.call(name, args).map(|()| true)
                }
            };
            self.begun += 1;
            match begun {
                Ok(true) => {}
                Ok(false) => self.ended(worker, Ok(vec![])),
                Err(trap) => self.ended(worker, Err(trap)),
            }
        }
        true
    }

    /// A step's end. What a module wants run first may be several functions: they are one call here.
    fn stepped(&mut self, worker: &mut Worker<'_>, end: Result<ResumableCall, Trap>) {
        match end {
            Ok(ResumableCall::OutOfFuel | ResumableCall::Blocked) => {}
            Ok(ResumableCall::Finished) if self.begun == 1 => match self.instance.initialise() {
                Ok(true) => {}
                Ok(false) => self.ended(worker, Ok(vec![])),
                Err(trap) => self.ended(worker, Err(trap)),
            },
            Ok(ResumableCall::Finished) => {
                let results = results(&self.instance);
                self.ended(worker, Ok(results));
            }
            Err(trap) => self.ended(worker, Err(trap)),
        }
    }

    fn ended(&mut self, worker: &mut Worker<'_>, end: Result<Vec<u64>, Trap>) {
        let work = self.instance.work() - self.before;
        self.instance.set_work_left(u64::MAX);
        let observed = self.case.observers.iter();
        let observed = observed
            .map(|name| ask(&mut self.instance, worker, name, &Seen::default()))
            .collect();
        let seen = Seen::default();
        let len = self.instance.memory_len();
        seen.len.set(len as u32);
        let _ = ask(&mut self.instance, worker, observed::MEMORY, &seen);
        self.outcomes.push(Outcome {
            end: end.map_err(|trap| (trap.kind(), trap.to_string())),
            work,
            observed,
            memory: (len, seen.sum.get()),
        });
    }

    /// One stay on the worker's stack. False where all calls have ended.
    fn advance(&mut self, worker: &mut Worker<'_>, random: &mut Random) -> bool {
        if !self.begin(worker) {
            return false;
        }
        let (seen, stays) = (Seen::default(), random.below(8));
        self.steps += 1;
        assert!(self.steps < 10_000_000, "no progress");
        let end = if stays > 2 {
            self.instance.resume(worker, fuel(random), seen.context())
        } else {
            self.stay(worker, random, 1 + stays)
        };
        self.stepped(worker, end);
        true
    }

    /// Some steps, without leaving between them.
    fn stay(
        &mut self,
        worker: &mut Worker<'_>,
        random: &mut Random,
        steps: usize,
    ) -> Result<ResumableCall, Trap> {
        let seen = Seen::default();
        let mut active = worker.enter(&mut self.instance)?;
        for _ in 0..steps {
            let end = active.step(fuel(random), seen.context());
            self.steps += 1;
            if !matches!(end, Ok(ResumableCall::OutOfFuel | ResumableCall::Blocked)) {
                return end;
            }
        }
        // Dropped or left: the same.
        if random.below(2) > 0 {
            active.leave()?;
        }
        Ok(ResumableCall::OutOfFuel)
    }
}

/// Mostly so few that a call is cut often.
fn fuel(random: &mut Random) -> u32 {
    match random.below(32) {
        0 => 0,
        1 => 5000,
        2 => u32::MAX,
        3..8 => 1,
        _ => 1 + random.below(50) as u32,
    }
}

fn bits(value: &Value) -> u64 {
    match *value {
        Value::I32(n) => u64::from(n as u32),
        Value::I64(n) => n as u64,
        Value::F32(n) => n.to_bits().into(),
        Value::F64(n) => n.to_bits(),
    }
}

fn results(instance: &Instance) -> Vec<u64> {
    let mut results = [Value::I32(0); 4];
    let count = instance.results(&mut results);
    results[..count].iter().map(bits).collect()
}

/// Calls in one step, as far as that goes.
fn ask(
    instance: &mut Instance,
    worker: &mut Worker<'_>,
    name: &str,
    seen: &Seen,
) -> Result<Vec<u64>, TrapKind> {
    instance.call(name, &[]).map_err(|trap| trap.kind())?;
    finish(instance, worker, seen).map_err(|trap| trap.kind())?;
    Ok(results(instance))
}

/// In steps of all the fuel there is. A step ends also where a host function waits.
fn finish(instance: &mut Instance, worker: &mut Worker<'_>, seen: &Seen) -> Result<(), Trap> {
    while instance.resume(worker, u32::MAX, seen.context())? != ResumableCall::Finished {}
    Ok(())
}

/// In steps of all the fuel there is.
fn uninterrupted(
    worker: &mut Worker<'_>,
    case: &Case,
    random: &mut Random,
) -> Option<Vec<Outcome>> {
    let mut run = Run::new(case, random)?;
    while run.begin(worker) {
        let end = finish(&mut run.instance, worker, &Seen::default());
        run.stepped(worker, end.map(|()| ResumableCall::Finished));
    }
    Some(run.outcomes)
}

/// Guests of all cases in turn, each copied away before the next runs.
fn interleaved<'c>(
    worker: &mut Worker<'_>,
    cases: &'c [Case],
    random: &mut Random,
) -> Vec<Run<'c>> {
    let mut runs = guests(cases, random);
    let mut ended = Vec::new();
    while !runs.is_empty() {
        let at = random.below(runs.len());
        if !runs[at].advance(worker, random) {
            ended.push(runs.swap_remove(at));
        }
    }
    ended
}

fn guests<'c>(cases: &'c [Case], random: &mut Random) -> Vec<Run<'c>> {
    let all = cases.iter().flat_map(|case| [case; GUESTS]);
    all.filter_map(|case| Run::new(case, random)).collect()
}

/// The same with a worker on each of several threads: each stay is on any of them.
fn on_threads<'c>(cases: &'c [Case], random: &mut Random) -> Vec<Run<'c>> {
    let runs = Mutex::new(guests(cases, random));
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for i in 0..THREADS {
            let mut random = Random(random.next() | 1);
            let (runs, ended) = (&runs, &ended);
            scope.spawn(move || {
                let env = thread();
                let mut worker = Worker::new(&env, [8192, 16_384][i]).unwrap();
                let take = |random: &mut Random| {
                    let mut runs = runs.lock().unwrap();
                    let at = random.below(runs.len());
                    (!runs.is_empty()).then(|| runs.swap_remove(at))
                };
                while let Some(mut run) = take(&mut random) {
                    let goes_on =
                        (0..=random.below(4)).all(|_| run.advance(&mut worker, &mut random));
                    let to = if goes_on { runs } else { ended };
                    to.lock().unwrap().push(run);
                }
            });
        }
    });
    ended.into_inner().unwrap()
}

/// On the stack from each call's beginning to its end.
fn staying<'c>(case: &'c Case, random: &mut Random) -> Option<Run<'c>> {
    let env = thread();
    let mut worker = Worker::new(&env, 16_384).unwrap();
    let mut run = Run::new(case, random)?;
    while run.begin(&mut worker) {
        let end = run.stay(&mut worker, random, usize::MAX);
        run.stepped(&mut worker, end);
    }
    Some(run)
}

#[derive(Default, Debug)]
struct Figures {
    samples: u64,
    loaded: u64,
    calls: u64,
    steps: u64,
    work: u64,
    compared: u64,
    ends: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
}

impl Figures {
    fn refuse(&mut self, why: &str) {
        let why: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
        *self.refused.entry(why).or_default() += 1;
    }
}

fn case(random: &mut Random, wasm: &[u8], figures: &mut Figures) -> Option<Case> {
    figures.samples += 1;
    let observed = observed::observed(wasm);
    let is_valid = observed.is_some();
    let (wasm, observers) = observed.unwrap_or_else(|| (wasm.to_vec(), vec![]));
    let module = match load_bytes(rt(), &wasm) {
        Ok(module) => module,
        Err(error) => {
            let valid = if is_valid { "valid" } else { "invalid" };
            figures.refuse(&format!("{valid}: {error}"));
            return None;
        }
    };
    let too_large = |memory: wamr::Memory| u64::from(memory.initial_pages) * 65_536 > MEMORY;
    if module.memory().is_some_and(too_large) {
        figures.refuse("too much memory");
        return None;
    }
    let mut names = exported(&wasm);
    names.retain(|(name, _)| !name.starts_with('~') && module.function(name).is_ok());
    let imported = imported(&wasm);
    let mut calls = Vec::new();
    for i in 0..CALLS.min(names.len() * 2) {
        let (name, index) = &names[(i + random.below(2)) % names.len()];
        let signature = module.function(name).unwrap();
        calls.push(Call {
            name: name.clone(),
            args: generate::arguments(random, &signature),
            is_import: *index < imported,
        });
    }
    figures.loaded += 1;
    Some(Case {
        module,
        stack_bytes: [1024, 4096, 8192][random.below(3)],
        observers,
        limits: vec![WORK; calls.len() + 1],
        calls,
        wasm,
    })
}

/// Exported functions, as far as the module can be read: their names and indexes.
fn exported(wasm: &[u8]) -> Vec<(String, u32)> {
    let mut names = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let Ok(wasmparser::Payload::ExportSection(exports)) = payload {
            let functions = exports.into_iter().flatten();
            let functions = functions.filter(|e| e.kind == wasmparser::ExternalKind::Func);
            names.extend(functions.map(|export| (export.name.to_owned(), export.index)));
        }
    }
    names
}

/// How many functions a module imports.
fn imported(wasm: &[u8]) -> u32 {
    let mut count = 0;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let Ok(wasmparser::Payload::ImportSection(imports)) = payload {
            let types = imports.into_imports().flatten().map(|import| import.ty);
            count += types
                .filter(|ty| matches!(ty, wasmparser::TypeRef::Func(_)))
                .count();
        }
    }
    count as u32
}

/// Where a module lies that made a test fail.
fn keep(wasm: &[u8]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resumed.wasm");
    fs::write(&path, wasm).expect("the module can be written");
    path.display().to_string()
}

fn must_equal(case: &Case, expected: &[Outcome], run: &Run<'_>, how: &str) {
    for (i, (expected, outcome)) in expected.iter().zip(&run.outcomes).enumerate() {
        if expected != outcome {
            let call = i.checked_sub(1).map(|i| &case.calls[i]);
            panic!(
                "{how}: {} {call:?}, limit {}, stack {}: {outcome:?}, not {expected:?}",
                keep(&case.wasm),
                case.limits[i],
                case.stack_bytes,
            );
        }
    }
    assert_eq!(expected.len(), run.outcomes.len());
}

/// A call that did so much work does as with more, may it do that; else it traps at its bound.
fn limits_hold(case: &Case, free: &[Outcome], limited: &[Outcome]) {
    for (i, (free, limited)) in free.iter().zip(limited).enumerate() {
        let limit = case.limits[i];
        if free.work <= limit {
            assert_eq!(
                free,
                limited,
                "{} call {i}, limit {limit}",
                keep(&case.wasm)
            );
        } else {
            let kind = limited.end.as_ref().map_err(|(kind, _)| *kind);
            let text = (keep(&case.wasm), i, free, limited);
            assert_eq!(
                kind.err(),
                Some(TrapKind::OutOfWork),
                "limit {limit}: {text:?}"
            );
            // Later calls would begin elsewhere.
            return;
        }
    }
}

/// Whether it is more than WebAssembly says.
fn is_other_here(case: &Case) -> bool {
    // Functions that run first by their names alone.
    let firsts = ["_initialize", "__wasm_call_ctors", "__post_instantiate"];
    firsts.iter().any(|name| case.module.function(name).is_ok())
}

/// The same calls in the other engine, as far as both come to an end.
fn as_elsewhere(oracle: &Oracle, case: &Case, outcomes: &[Outcome]) -> u64 {
    let mut compared = 0;
    if is_other_here(case) {
        return 0;
    }
    let mut other = match (oracle.instantiate(&case.wasm), &outcomes[0].end) {
        (Some(Ok(other)), Ok(_)) => other,
        (Some(Err(End::Trap(kind))), end) => {
            same_trap(case, 0, end, kind);
            return 1;
        }
        _ => return 0,
    };
    for (i, outcome) in outcomes.iter().enumerate() {
        if i > 0 {
            let Call {
                name,
                args,
                is_import,
            } = &case.calls[i - 1];
            // There it would find no guest.
            if *is_import {
                return compared;
            }
            match other.call(name, args) {
                Some(End::Results(results)) if outcome.end.is_ok() => {
                    let text = (
                        keep_if(case, outcome.end != Ok(results.clone())),
                        &case.calls[i - 1],
                    );
                    assert_eq!(outcome.end, Ok(results), "{text:?}");
                }
                Some(End::Trap(kind)) if !is_bound(&outcome.end) => {
                    same_trap(case, i, &outcome.end, kind);
                }
                Some(End::Results(results)) if !is_bound(&outcome.end) => {
                    panic!(
                        "{} call {i}: {outcome:?}, not {results:?}",
                        keep(&case.wasm)
                    )
                }
                _ => return compared,
            }
        }
        compared += 1;
        same_state(case, i, outcome, &mut other);
    }
    compared
}

fn keep_if(case: &Case, differs: bool) -> String {
    if differs {
        keep(&case.wasm)
    } else {
        String::new()
    }
}

/// Ended by what is ours alone.
fn is_bound(end: &Result<Vec<u64>, (TrapKind, String)>) -> bool {
    use TrapKind::{OperandStackOverflow, OutOfMemory, OutOfWork, StackOverflow};
    matches!(
        end,
        Err((
            OutOfWork | OperandStackOverflow | StackOverflow | OutOfMemory,
            _
        ))
    )
}

fn same_trap(case: &Case, i: usize, end: &Result<Vec<u64>, (TrapKind, String)>, kind: TrapKind) {
    use TrapKind::{TableOutOfBounds, UndefinedElement};
    if is_bound(end) {
        return;
    }
    let ours = end.as_ref().map_err(|(kind, _)| *kind).err();
    let same = ours == Some(kind)
        // An indirect call beyond the table's end has one of two names.
        || kind == TableOutOfBounds && ours == Some(UndefinedElement);
    assert!(same, "{} call {i}: {end:?}, not {kind:?}", keep(&case.wasm));
}

fn same_state(case: &Case, i: usize, outcome: &Outcome, other: &mut Other) {
    for (name, value) in case.observers.iter().zip(&outcome.observed) {
        let Some(End::Results(theirs)) = other.call(name, &[]) else {
            continue;
        };
        let text = (keep_if(case, *value != Ok(theirs.clone())), i, name);
        assert_eq!(*value, Ok(theirs), "{text:?}");
    }
    if let Some((len, sum)) = other.memory() {
        let same = outcome.memory == (len.into(), sum);
        let text = keep_if(case, !same);
        assert!(
            same,
            "{text} call {i}: {:?}, not {:?}",
            outcome.memory,
            (len, sum)
        );
    }
}

/// All ways of the same cases against what each does alone.
fn all_ways(
    worker: &mut Worker<'_>,
    cases: &[Case],
    expected: &[Vec<Outcome>],
    random: &mut Random,
    figures: &mut Figures,
) {
    let at = |run: &Run<'_>| {
        cases
            .iter()
            .position(|case| core::ptr::eq(case, run.case))
            .unwrap()
    };
    let ways = [
        ("interleaved", interleaved(worker, cases, random)),
        ("on threads", on_threads(cases, random)),
        (
            "staying",
            cases
                .iter()
                .filter_map(|case| staying(case, random))
                .collect(),
        ),
    ];
    for (how, runs) in ways {
        for run in runs {
            figures.calls += run.outcomes.len() as u64;
            figures.steps += run.steps;
            figures.work += run.instance.work();
            must_equal(run.case, &expected[at(&run)], &run, how);
        }
    }
}

/// Half of the times what the call needs, else less.
fn limit(random: &mut Random, free: &Outcome) -> u64 {
    let work = free.work.min(WORK);
    match random.below(2) {
        0 => work,
        _ => random.below(work as usize + 1) as u64,
    }
}

fn batch(
    worker: &mut Worker<'_>,
    samples: Vec<Vec<u8>>,
    random: &mut Random,
    oracle: &Oracle,
    figures: &mut Figures,
) {
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    for wasm in samples {
        let Some(case) = case(random, &wasm, figures) else {
            continue;
        };
        let Some(outcomes) = uninterrupted(worker, &case, random) else {
            let is_taken = matches!(oracle.instantiate(&case.wasm), Some(Ok(_)));
            let is_wrong = is_taken && !is_other_here(&case);
            assert!(!is_wrong, "{} is refused", keep(&case.wasm));
            figures.refuse("instance");
            continue;
        };
        for outcome in &outcomes {
            let end = match &outcome.end {
                Ok(_) => "finished".to_owned(),
                Err((kind, text)) => format!(
                    "{kind:?} {}",
                    if *kind == TrapKind::Other { text } else { "" }
                ),
            };
            *figures.ends.entry(end).or_default() += 1;
        }
        figures.compared += as_elsewhere(oracle, &case, &outcomes);
        cases.push(case);
        expected.push(outcomes);
    }
    all_ways(worker, &cases, &expected, random, figures);
    for (case, free) in cases.iter_mut().zip(&mut expected) {
        case.limits = free.iter().map(|outcome| limit(random, outcome)).collect();
        let limited = uninterrupted(worker, case, random).unwrap();
        limits_hold(case, free, &limited);
        *free = limited;
    }
    all_ways(worker, &cases, &expected, random, figures);
}

/// Batches of samples, `first` and then those that `next` makes, `count` at least. Each leaves the
/// arena as it was.
fn all_of(
    first: &[Vec<u8>],
    count: u64,
    mut next: impl FnMut(&mut Random, &Figures) -> Vec<u8>,
) -> Figures {
    let _one = alone();
    let seed = setting("RESUMED_SEED", 1);
    let oracle = Oracle::new();
    // One for all samples: what it remembers of one's code must not be taken for another's.
    let env = thread();
    let mut worker = Worker::new(&env, 16_384).unwrap();
    let free = rt().memory().free;
    let mut figures = Figures::default();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut first = first.chunks(TOGETHER);
    while figures.samples < count {
        let samples = match first.next() {
            Some(samples) => samples.to_vec(),
            None => (0..TOGETHER).map(|_| next(&mut random, &figures)).collect(),
        };
        batch(&mut worker, samples, &mut random, &oracle, &mut figures);
        assert_eq!(rt().memory().free, free);
    }
    println!("{figures:#?}");
    figures
}

#[test]
fn steps_change_nothing() {
    let corpus = generate::corpus();
    let count = setting("RESUMED", 200) + corpus.len() as u64;
    let figures = all_of(&corpus, count, |random, figures| match random.below(4) {
        0 => generate::mutant(random, &corpus),
        1 if figures.samples.is_multiple_of(5) => corpus[random.below(corpus.len())].clone(),
        _ => generate::generated(random),
    });
    assert!(figures.loaded > figures.samples / 2);
}

/// Modules that access memory and do little else. `RESUMED_MEMORY` says how many.
#[test]
fn memories_are_as_elsewhere() {
    let count = setting("RESUMED_MEMORY", 200);
    let figures = all_of(&[], count, |random, _| memory::generated(random));
    assert!(figures.loaded > figures.samples * 9 / 10);
    assert!(figures.compared > figures.samples * 3);
}
