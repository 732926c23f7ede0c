//! The worst guests that we could write: how long a step of theirs takes, and a deadline.

mod common;
mod stepping;

use std::time::{Duration, Instant};

use common::{alone, load_bytes, runtime_in};
use proplet_testing::worst::{Guest, guests};
use rustix::time::{ClockId, clock_gettime};
use stepping::{HOST, make, worker};
use wamr::{Instance, Module, ResumableCall, Runtime, ThreadEnv, Trap};

fn rt() -> Runtime {
    runtime_in(48 << 20, &HOST)
}

/// A worker's operand stack: more than a device's, as a host may have.
const STACK: u32 = 1 << 20;

fn begun(module: &Module) -> Instance {
    let mut instance = make(module);
    instance.call("run", &[]).expect("it begins");
    instance
}

/// This thread's, whatever else the machine does.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a time since the thread began")
}

/// Steps of 1,000 units.
const STEPS: usize = 300;

/// How long each of them takes, the least of some runs, which all go the same way; and their work.
fn times(module: &Module) -> (Vec<Duration>, u64) {
    let env = ThreadEnv::enter(rt()).unwrap();
    let (mut times, mut work) = (vec![Duration::MAX; STEPS], 0);
    for _ in 0..3 {
        let mut worker = worker(&env, STACK);
        let mut instance = begun(module);
        let mut active = worker.enter(&mut instance).unwrap();
        for time in &mut times {
            let start = processor_time();
            let ended = active.step(1000, &());
            *time = (processor_time() - start).min(*time);
            assert_eq!(ended, Ok(ResumableCall::OutOfFuel));
        }
        work = active.instance().work();
    }
    (times, work)
}

/// The longest step of 1,000 units, and what a unit takes in the mean. A unit is 128 instructions,
/// some 0.2 to 0.4 µs; but a line of code without a check is not cut, and a megabyte of it takes a
/// millisecond.
#[test]
fn a_step_of_a_thousand_units() {
    let _one = alone();
    for guest in guests() {
        let before = rt().memory().free;
        let module = loaded(&guest);
        let (times, work) = times(&module);
        // Their scans alone take more than this.
        assert!(
            work > 5 || guest.name.starts_with("ifs"),
            "{}: {work}",
            guest.name
        );
        let longest = times.iter().max().unwrap();
        let all: Duration = times.iter().sum();
        let unit = all.as_secs_f64() * 1e9 / (STEPS * 1000) as f64;
        let (name, micros) = (guest.name, longest.as_secs_f64() * 1e6);
        println!("{name:>30}: longest step {micros:>7.1} µs, {unit:>6.1} ns a unit");
        assert!(*longest < Duration::from_millis(10), "{name}: {longest:?}");
        assert!(unit < 2000.0, "{name}: {unit} ns a unit");
        drop(module);
        assert_eq!(rt().memory().free, before);
    }
}

fn loaded(guest: &Guest) -> Module {
    load_bytes(rt(), &guest.wasm).unwrap_or_else(|e| panic!("{}: {e}", guest.name))
}

/// Steps of 100,000 units until the time is over: how long in all, and the longest.
fn until(deadline: Duration, module: &Module) -> Result<(Duration, Duration), Trap> {
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, STACK);
    let mut instance = begun(module);
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    while start.elapsed() < deadline {
        let step = Instant::now();
        let _ = instance.resume(&mut worker, 100_000, &())?;
        longest = longest.max(step.elapsed());
    }
    Ok((start.elapsed(), longest))
}

/// A deadline is met within two steps of 100,000 units, of 50 ms each.
#[test]
fn a_deadline_of_200_ms() {
    let _one = alone();
    let names = [
        "a megabyte of divisions",
        "60 blocks left in turn",
        "br_tables beyond 255 blocks",
        "returns through 10 KB",
        "returns through 1 MB",
        "page by page",
        "30,000 locals",
    ];
    let deadline = Duration::from_millis(200);
    for guest in guests().iter().filter(|guest| names.contains(&guest.name)) {
        let module = loaded(guest);
        // The machine may have been busy with something else.
        let tries = (0..5).map(|_| until(deadline, &module).unwrap());
        let met = |&(all, longest): &(Duration, Duration)| {
            println!("{:>30}: {all:.1?}, longest step {longest:.1?}", guest.name);
            all < deadline + 2 * Duration::from_millis(50)
        };
        assert!(tries.into_iter().any(|ended| met(&ended)), "{}", guest.name);
    }
}
