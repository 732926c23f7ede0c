//! Calls that are cut into steps in every way, and what each comes to.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::task::Poll;

use wamr::{
    Caller, Error, HostError, HostFunction, Instance, InstanceConfig, Module, ResumableCall,
    Runtime, ThreadEnv, Trap, TrapKind, Value, Worker,
};

/// A worker's operand stack, where a test does not say.
pub const STACK: u32 = 24 * 1024;

/// End of a call. Equal for equal guests, however they were cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub end: Result<Vec<Value>, (TrapKind, String)>,
    pub work: u64,
}

/// How often a call was left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub out_of_fuel: u32,
    pub blocked: u32,
}

/// Where a call is between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// On the stack.
    Stays,
    /// In the arena, and back on the same worker.
    Leaves,
    /// In the arena, while another guest uses the stack.
    Overwritten,
    /// On two workers in turn.
    Moves,
}

pub const EVERYWHERE: [Between; 4] = [
    Between::Stays,
    Between::Leaves,
    Between::Overwritten,
    Between::Moves,
];

pub fn make(module: &Module) -> Instance {
    with_stack(module, u32::MAX).expect("the instance is made")
}

pub fn with_stack(module: &Module, stack_bytes: u32) -> Result<Instance, Error> {
    let config = InstanceConfig {
        stack_bytes,
        memory_bytes_max: None,
        memory_commit: false,
    };
    Instance::new(module, &config)
}

/// One step from the arena and back.
pub fn step(
    instance: &mut Instance,
    worker: &mut Worker<'_>,
    fuel: u32,
) -> Result<ResumableCall, Trap> {
    instance.resume(worker, fuel, &())
}

/// Initialises the instance, calls `run` and steps both to their end.
pub fn run(
    instance: &mut Instance,
    args: &[Value],
    fuel: u32,
    between: Between,
    runtime: Runtime,
) -> (Outcome, Left) {
    let mut left = Left::default();
    let env = ThreadEnv::enter(runtime).expect("the thread enters");
    let mut workers = [worker(&env, STACK), worker(&env, STACK)];
    let before = instance.work();
    let end = run_on(instance, args, fuel, between, &mut workers, &mut left);
    let work = instance.work() - before;
    let end = end.map_err(|trap| (trap.kind(), trap.to_string()));
    (Outcome { end, work }, left)
}

pub fn worker(env: &ThreadEnv, stack: u32) -> Worker<'_> {
    Worker::new(env, stack).expect("the arena has room for a worker")
}

fn run_on(
    instance: &mut Instance,
    args: &[Value],
    fuel: u32,
    between: Between,
    workers: &mut [Worker<'_>; 2],
    left: &mut Left,
) -> Result<Vec<Value>, Trap> {
    while instance.initialise()? {
        finish(instance, fuel, between, workers, left)?;
    }
    instance.call("run", args)?;
    finish(instance, fuel, between, workers, left)?;
    Ok(results(instance))
}

pub fn results(instance: &Instance) -> Vec<Value> {
    let mut results = [Value::I32(0); 4];
    let count = instance.results(&mut results);
    results[..count].to_vec()
}

fn finish(
    instance: &mut Instance,
    fuel: u32,
    between: Between,
    workers: &mut [Worker<'_>; 2],
    left: &mut Left,
) -> Result<(), Trap> {
    if between == Between::Stays {
        let mut active = workers[0].enter(instance)?;
        while !ended(active.step(fuel, &())?, left) {}
        return active.leave();
    }
    let mut overwriter = match between {
        Between::Overwritten => Some(overwriter()),
        _ => None,
    };
    loop {
        let place = match between {
            Between::Moves => (left.out_of_fuel + left.blocked) as usize % 2,
            _ => 0,
        };
        if ended(step(instance, &mut workers[place], fuel)?, left) {
            return Ok(());
        }
        if let Some(other) = &mut overwriter {
            assert_eq!(
                step(other, &mut workers[0], 40),
                Ok(ResumableCall::OutOfFuel)
            );
        }
    }
}

fn ended(outcome: ResumableCall, left: &mut Left) -> bool {
    match outcome {
        ResumableCall::Finished => return true,
        ResumableCall::OutOfFuel => left.out_of_fuel += 1,
        ResumableCall::Blocked => left.blocked += 1,
    }
    false
}

/// A guest that fills a kilobyte and more of the stack with ones, without end.
fn overwriter() -> Instance {
    let wat = r#"(module (func $down (param i32 i64 i64)
        (if (local.get 0) (then (call $down (i32.sub (local.get 0) (i32.const 1))
            (i64.const -1) (i64.const -1)))))
        (func (export "run") (loop (call $down (i32.const 15) (i64.const -1) (i64.const -1)) (br 0))))"#;
    let module = super::common::load(super::rt(), wat).expect("it loads");
    let mut instance = make(&module);
    instance.call("run", &[]).expect("it begins");
    instance
}

/// Runs a module's `run` in every way, and checks that each comes to the same. Returns what, with
/// how often it was left when stepped with one unit of fuel.
pub fn same_however_cut(
    runtime: Runtime,
    name: &str,
    wat: &str,
    args: &[Value],
) -> (Outcome, Left) {
    let before = runtime.memory().free;
    let module = super::common::load(runtime, wat).unwrap_or_else(|e| panic!("{name}: {e}"));
    let go = |fuel, between| {
        let mut instance = make(&module);
        run(&mut instance, args, fuel, between, runtime)
    };
    let (whole, _) = go(1_000_000, Between::Stays);
    let mut left = Left::default();
    for fuel in [1, 2, 7] {
        for between in EVERYWHERE {
            let (outcome, times) = go(fuel, between);
            assert_eq!(outcome, whole, "{name}: fuel {fuel}, {between:?}");
            if fuel == 1 {
                left = times;
            }
        }
    }
    drop(module);
    assert_eq!(runtime.memory().free, before, "{name}");
    (whole, left)
}

/// Drops a call of `run` after each number of steps of one unit that it can have, and the module
/// with the instance or before it; the arena is as before, to the byte.
pub fn dropped_at_each_step(runtime: Runtime, name: &str, wat: &str, args: &[Value]) {
    dropped_after(runtime, name, wat, args, 0..);
}

/// The same after some numbers of steps, up to the first with which the call ends.
pub fn dropped_after(
    runtime: Runtime,
    name: &str,
    wat: &str,
    args: &[Value],
    numbers: impl Iterator<Item = u32>,
) {
    let before = runtime.memory().free;
    let env = ThreadEnv::enter(runtime).expect("the thread enters");
    for steps in numbers {
        let mut spare = worker(&env, STACK);
        let module = super::common::load(runtime, wat).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut instance = make(&module);
        let module = (steps % 2 == 0).then_some(module);
        let ended = stepped(&mut instance, args, &mut spare, steps);
        drop((instance, spare, module));
        assert_eq!(runtime.memory().free, before, "{name}: {steps} steps");
        if ended {
            return;
        }
    }
}

/// Whether `run`, and what is run before it, ends in `steps` steps of one unit.
fn stepped(instance: &mut Instance, args: &[Value], worker: &mut Worker<'_>, steps: u32) -> bool {
    let mut initialised = false;
    let mut busy = false;
    for _ in 0..=steps {
        if !busy {
            match instance.initialise() {
                Ok(true) => {}
                Ok(false) if initialised => return true,
                Ok(false) => {
                    instance.call("run", args).expect("it begins");
                    initialised = true;
                }
                Err(_) => return true,
            }
        }
        match step(instance, worker, 1) {
            Ok(ResumableCall::Finished) => busy = false,
            Ok(_) => busy = true,
            Err(_) => return true,
        }
    }
    initialised && !busy
}

/// The host functions of these tests.
pub static HOST: [HostFunction; 15] = [
    function(c"nothing", c"()", |_, _| Poll::Ready(Ok(()))),
    function(c"twice", c"(i)i", twice),
    function(c"charge", c"(i)", charge),
    function(c"hash", c"(ii)I", hash),
    function(c"wait", c"(i)", |_, args| waited(args, |_| ())),
    function(c"wait_i", c"(i)i", |_, args| {
        waited(args, |args| args[0] = 41)
    }),
    function(c"wait_I", c"(iI)I", |_, args| {
        waited(args, |args| args[0] = args[1])
    }),
    function(c"wait_F", c"(iF)F", |_, args| {
        waited(args, |args| args[0] = args[1])
    }),
    function(c"wait_sum", c"(iIfFiiii)I", wait_sum),
    function(c"wait_nine", c"(iiiiiiiii)", |_, args| waited(args, |_| ())),
    function(c"wait_and_refuse", c"(i)", wait_and_refuse),
    function(c"wait_and_charge", c"(ii)", wait_and_charge),
    function(c"charge_and_wait", c"(ii)", charge_and_wait),
    function(c"give", c"(ii)i", give),
    function(c"spend", c"(ii)i", spend),
];

const fn function(
    name: &'static std::ffi::CStr,
    signature: &'static std::ffi::CStr,
    call: fn(&mut Caller<'_>, &mut [u64]) -> Polled,
) -> HostFunction {
    HostFunction {
        module: c"env",
        name,
        signature,
        call,
    }
}

type Polled = Poll<Result<(), HostError>>;

/// Pending as often as the first argument says, which it counts down.
fn waited(args: &mut [u64], give: impl FnOnce(&mut [u64])) -> Polled {
    if args[0] > 0 {
        args[0] -= 1;
        return Poll::Pending;
    }
    give(args);
    Poll::Ready(Ok(()))
}

fn twice(_: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    args[0] = u64::from((args[0] as u32).wrapping_mul(2));
    Poll::Ready(Ok(()))
}

fn charge(caller: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    caller.charge(args[0] as u32);
    Poll::Ready(Ok(()))
}

/// FNV-1a of guest memory.
fn hash(caller: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    caller.check(args[0] as u32, args[1] as u32)?;
    let mut bytes = vec![0; args[1] as usize];
    caller.read(args[0] as u32, &mut bytes)?;
    args[0] = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Poll::Ready(Ok(()))
}

/// Adds one to every other argument each time it is asked, and gives their sum.
fn wait_sum(caller: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    assert_eq!(args.len(), 8);
    assert_eq!(caller.is_asked_again(), args[1] > 0);
    for arg in &mut args[1..] {
        *arg += 1;
    }
    waited(args, |args| args[0] = args[1..].iter().sum())
}

fn wait_and_refuse(_: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    waited(args, |_| ()).map(|_| Err(HostError::new(c"not even later")))
}

/// Charges the second argument each time it is asked.
fn wait_and_charge(caller: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    caller.charge(args[1] as u32);
    waited(args, |_| ())
}

/// As that, but not the last time.
fn charge_and_wait(caller: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    if args[0] > 0 {
        caller.charge(args[1] as u32);
    }
    waited(args, |_| ())
}

/// Allocates in the guest once it has waited, and on the way where the second argument says: 1 when
/// it is called, 2 when it is asked again, 3 both.
fn give(caller: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    let when = 1 + u64::from(caller.is_asked_again());
    if args[1] & when != 0 || args[0] == 0 {
        let offset = caller.alloc_in_guest(16)?;
        caller.write(offset, b"given")?;
        return waited(args, |args| args[0] = u64::from(offset));
    }
    waited(args, |_| ())
}

/// Charges the first argument, and then allocates in the guest.
fn spend(caller: &mut Caller<'_>, args: &mut [u64]) -> Polled {
    caller.charge(args[0] as u32);
    args[0] = u64::from(caller.alloc_in_guest(args[1] as u32)?);
    Poll::Ready(Ok(()))
}
