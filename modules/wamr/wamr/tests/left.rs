//! Calls that are left: what they keep, and what they must not depend on.

mod common;

use std::mem::forget;
use std::task::Poll;

use common::{alone, load, runtime_in};
use wamr::{
    Buffer, Caller, HostError, HostFunction, Instance, InstanceConfig, Module, ResumableCall,
    Runtime, ThreadEnv, TrapKind, Value, Worker,
};

const ARENA: usize = 16 * 1024 * 1024;

static HOST: [HostFunction; 3] = [
    HostFunction {
        module: c"env",
        name: c"wait",
        signature: c"(i)i",
        call: wait,
    },
    HostFunction {
        module: c"env",
        name: c"give",
        signature: c"(i)i",
        call: give,
    },
    HostFunction {
        module: c"env",
        name: c"once",
        signature: c"(i)i",
        call: once,
    },
];

/// Waits as often as its argument says, and works for 100 units each time that it is asked.
fn wait(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    caller.charge(100);
    if args[0] == 0 {
        return Poll::Ready(Ok(()));
    }
    args[0] -= 1;
    Poll::Pending
}

/// Works for 100 units and waits, once.
fn once(caller: &mut Caller<'_>, _: &mut [u64]) -> Poll<Result<(), HostError>> {
    if caller.is_asked_again() {
        return Poll::Ready(Ok(()));
    }
    caller.charge(100);
    Poll::Pending
}

fn give(caller: &mut Caller<'_>, args: &mut [u64]) -> Poll<Result<(), HostError>> {
    args[0] = caller.alloc_in_guest(args[0] as u32)?.into();
    Poll::Ready(Ok(()))
}

fn rt() -> Runtime {
    runtime_in(ARENA, &HOST)
}

fn thread() -> ThreadEnv {
    ThreadEnv::enter(rt()).unwrap()
}

fn instance(module: &Module) -> Instance {
    Instance::new(module, &InstanceConfig::default()).unwrap()
}

/// To its end, leaving at each step's.
fn finish(instance: &mut Instance, worker: &mut Worker<'_>, fuel: u32) -> Result<(), TrapKind> {
    loop {
        match instance.resume(worker, fuel, &()) {
            Ok(ResumableCall::Finished) => return Ok(()),
            Ok(_) => {}
            Err(trap) => return Err(trap.kind()),
        }
    }
}

/// The same without leaving.
fn stay(instance: &mut Instance, worker: &mut Worker<'_>, fuel: u32) -> Result<(), TrapKind> {
    let mut active = worker.enter(instance).unwrap();
    loop {
        match active.step(fuel, &()) {
            Ok(ResumableCall::Finished) => return Ok(()),
            Ok(_) => {}
            Err(trap) => return Err(trap.kind()),
        }
    }
}

fn result(instance: &Instance) -> (usize, Value) {
    let mut results = [Value::I64(-1)];
    (instance.results(&mut results), results[0])
}

/// Nothing after the host function's call is a branch, and nothing of it may be run.
#[test]
fn who_waits_has_no_more_work_than_who_does_not() {
    let _one = alone();
    let env = thread();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let called = load(
        rt(),
        r#"(module (import "env" "wait" (func $wait (param i32) (result i32)))
        (global $after (mut i32) (i32.const 0))
        (func (export "after") (result i32) (global.get $after))
        (func (export "run") (param i32) (result i32)
            (call $wait (local.get 0)) (global.set $after (i32.const 1))))"#,
    );
    let direct = load(
        rt(),
        r#"(module (import "env" "wait" (func $wait (param i32) (result i32)))
        (func (export "after") (result i32) (i32.const 0)) (export "run" (func $wait)))"#,
    );
    for module in [called.unwrap(), direct.unwrap()] {
        for (waits, limit) in [(0, 50), (1, 150), (3, 101), (3, 250), (3, 399)] {
            for go in [finish, stay] {
                let mut guest = instance(&module);
                guest.set_work_left(limit);
                guest.call("run", &[Value::I32(waits)]).unwrap();
                let end = go(&mut guest, &mut worker, 1000);
                assert_eq!(end, Err(TrapKind::OutOfWork), "{waits} {limit}");
                guest.set_work_left(10);
                guest.call("after", &[]).unwrap();
                assert_eq!(finish(&mut guest, &mut worker, 1000), Ok(()));
                assert_eq!(result(&guest), (1, Value::I32(0)));
            }
        }
    }
}

/// A module may export a host function, which the host then calls without any code of the guest's.
#[test]
fn a_host_function_that_is_called_directly_has_no_more_work() {
    let _one = alone();
    let env = thread();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let module = load(
        rt(),
        r#"(module (import "env" "once" (func $once (param i32) (result i32)))
        (export "run" (func $once)))"#,
    )
    .unwrap();
    for (limit, expected) in [(99, Err(TrapKind::OutOfWork)), (100, Ok(()))] {
        for go in [finish, stay] {
            let mut guest = instance(&module);
            guest.set_work_left(limit);
            guest.call("run", &[Value::I32(7)]).unwrap();
            assert_eq!(go(&mut guest, &mut worker, 1000), expected);
        }
    }
}

/// All of the arena but small pieces.
fn fill() -> Vec<Buffer> {
    let mut taken = Vec::new();
    for size in (3..24).rev().map(|shift| 1 << shift) {
        while let Ok(buffer) = rt().buffer(size) {
            taken.push(buffer);
        }
    }
    taken
}

const DEEP: &str = r#"(module (func $f (export "run") (param i32) (result i32)
    (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1) (call $f (i32.sub (local.get 0) (i32.const 1)))))
        (else (i32.const 0)))))"#;

#[test]
fn a_call_that_there_was_no_room_for_has_no_results() {
    let _one = alone();
    let env = thread();
    let mut worker = Worker::new(&env, 16_384).unwrap();
    let module = load(rt(), DEEP).unwrap();
    let mut guest = instance(&module);
    // No room to leave.
    guest.call("run", &[Value::I32(100)]).unwrap();
    let mut active = worker.enter(&mut guest).unwrap();
    assert_eq!(active.step(50, &()), Ok(ResumableCall::OutOfFuel));
    let taken = fill();
    assert_eq!(active.leave().unwrap_err().kind(), TrapKind::OutOfMemory);
    assert_eq!(result(&guest).0, 0);
    // No room to begin.
    drop(taken);
    let mut guest = instance(&module);
    let taken = fill();
    let trap = guest.call("run", &[Value::I32(3)]).unwrap_err();
    assert_eq!(trap.kind(), TrapKind::OutOfMemory);
    assert_eq!(result(&guest).0, 0);
    drop(taken);
    guest.call("run", &[Value::I32(3)]).unwrap();
    assert_eq!(finish(&mut guest, &mut worker, 1), Ok(()));
    assert_eq!(result(&guest), (1, Value::I32(3)));
}

/// How far a guest's own `malloc` may go does not depend on the lists that its neighbours walked.
#[test]
fn a_callback_ends_where_it_ends_alone() {
    let _one = alone();
    // Jumps that WAMR keeps a list of: those with a label above 255.
    let jump = format!(
        "{} (br_table 259 0 (i32.const 0)) {}",
        "(block ".repeat(260),
        ")".repeat(260)
    );
    let again = "(br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))";
    let wat = format!(
        r#"(module (import "env" "give" (func $give (param i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "malloc") (param i32) (result i32) (loop $again {jump} {again}) (i32.const 8))
        (func (export "walk") (param i32) (loop $again {jump} {again}))
        (func (export "third") {jump})
        (func (export "free") (param i32))
        (func (export "run") (param i32) (result i32) (call $give (local.get 0))))"#
    );
    let module = load(rt(), &wat).unwrap();
    // What a neighbour on the same worker walks before.
    let ends = |walks, runs: core::ops::RangeInclusive<i32>| {
        let env = thread();
        let mut worker = Worker::new(&env, 32_768).unwrap();
        let mut neighbour = instance(&module);
        neighbour.call("walk", &[Value::I32(walks)]).unwrap();
        assert_eq!(finish(&mut neighbour, &mut worker, u32::MAX), Ok(()));
        let end = |n| {
            let mut guest = instance(&module);
            guest.call("run", &[Value::I32(n)]).unwrap();
            finish(&mut guest, &mut worker, u32::MAX)
        };
        runs.map(end).collect::<Vec<_>>()
    };
    // The first that is too long, when the neighbour walked once.
    let (mut low, mut high) = (1, 40_000);
    while low < high {
        let middle = (low + high) / 2;
        match ends(1, middle..=middle)[0] {
            Ok(()) => low = middle + 1,
            Err(_) => high = middle,
        }
    }
    let near = low - 3..=low + 3;
    for walks in [2, 3, 5, 8, 13, 21, 31, 32] {
        assert_eq!(ends(walks, near.clone()), ends(1, near.clone()), "{walks}");
    }
}

/// Nor on where in a step the host function was called.
#[test]
fn a_callback_ends_where_it_ends_in_any_step() {
    let _one = alone();
    let env = thread();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let module = load(
        rt(),
        r#"(module (import "env" "give" (func $give (param i32) (result i32)))
        (memory (export "memory") 1) (func $nothing)
        (func $repeat (param i32)
            (loop (call $nothing)
                (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
        (func (export "malloc") (param i32) (result i32)
            (call $repeat (local.get 0)) (i32.const 8))
        (func (export "free") (param i32))
        (func (export "run") (param i32) (result i32)
            (call $repeat (i32.const 700)) (call $give (local.get 0))))"#,
    )
    .unwrap();
    let mut end = |fuel, n| {
        let mut guest = instance(&module);
        guest.call("run", &[Value::I32(n)]).unwrap();
        finish(&mut guest, &mut worker, fuel)
    };
    // 65,536 units are worth two for each turn, and the third for its return.
    for n in (20_000..34_000).step_by(100) {
        let expected = end(u32::MAX, n);
        for fuel in [1, 333, 1000] {
            assert_eq!(end(fuel, n), expected, "{n} {fuel}");
        }
    }
}

/// Nor on whether its memory can grow where it is.
#[test]
fn a_callback_may_grow_its_memory_wherever_that_is() {
    let _one = alone();
    let env = thread();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let module = load(
        rt(),
        r#"(module (import "env" "give" (func $give (param i32) (result i32)))
        (memory (export "memory") 64 65)
        (func (export "malloc") (param i32) (result i32)
            (drop (memory.grow (i32.const 1))) (i32.const 8))
        (func (export "free") (param i32))
        (func (export "run") (param i32) (result i32) (call $give (local.get 0))))"#,
    )
    .unwrap();
    let mut works = Vec::new();
    for fenced in [false, true] {
        let mut guest = instance(&module);
        let _fence: Vec<_> = (0..if fenced { 64 } else { 0 })
            .map(|_| rt().buffer(16))
            .collect();
        guest.call("run", &[Value::I32(9)]).unwrap();
        assert_eq!(
            finish(&mut guest, &mut worker, u32::MAX),
            Ok(()),
            "{fenced}"
        );
        assert_eq!(guest.memory_len(), 65 * 65_536);
        works.push(guest.work());
    }
    assert_eq!(works[0], works[1]);
}

#[test]
fn a_call_before_its_time_starts_nothing_anew() {
    let _one = alone();
    let env = thread();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let module = load(
        rt(),
        r#"(module (global $starts (mut i32) (i32.const 0)) (start $start)
        (func $start (global.set $starts (i32.add (global.get $starts) (i32.const 1))))
        (func (export "_initialize"))
        (func (export "run") (result i32) (global.get $starts)))"#,
    )
    .unwrap();
    let mut guest = instance(&module);
    assert_eq!(guest.initialise(), Ok(true));
    assert_eq!(finish(&mut guest, &mut worker, 10), Ok(()));
    assert_eq!(
        guest.call("run", &[]).unwrap_err().kind(),
        TrapKind::BadCall
    );
    while guest.initialise().unwrap() {
        assert_eq!(finish(&mut guest, &mut worker, 10), Ok(()));
    }
    guest.call("run", &[]).unwrap();
    assert_eq!(finish(&mut guest, &mut worker, 10), Ok(()));
    assert_eq!(result(&guest), (1, Value::I32(1)));
}

/// Forgetting is safe Rust: the call is lost, and nothing else.
#[test]
fn a_call_that_is_forgotten_on_the_stack_is_lost() {
    let _one = alone();
    let env = thread();
    let mut worker = Worker::new(&env, 16_384).unwrap();
    let module = load(rt(), DEEP).unwrap();
    for fuel in [0, 50, 1000] {
        let mut guest = instance(&module);
        guest.call("run", &[Value::I32(100)]).unwrap();
        let mut active = worker.enter(&mut guest).unwrap();
        let _ = active.step(fuel, &()).unwrap();
        forget(active);
        let mut other = instance(&module);
        other.call("run", &[Value::I32(7)]).unwrap();
        assert_eq!(finish(&mut other, &mut worker, 1), Ok(()));
        assert_eq!(result(&other), (1, Value::I32(7)));
        let trap = guest.resume(&mut worker, 10, &()).unwrap_err();
        assert_eq!(trap.kind(), TrapKind::BadCall);
    }
}

/// Whether it would have been cut into pieces or not.
#[test]
fn what_is_too_much_work_is_not_begun() {
    let _one = alone();
    let env = thread();
    let mut worker = Worker::new(&env, 4096).unwrap();
    let module = load(
        rt(),
        r#"(module (memory 2 3)
        (func (export "fill") (memory.fill (i32.const 0) (i32.const 1) (i32.const 131072)))
        (func (export "copy") (memory.copy (i32.const 0) (i32.const 65532) (i32.const 65540)))
        (func (export "grow") (drop (memory.grow (i32.const 1))))
        (func (export "seen") (result i32) (i32.add (memory.size) (i32.load (i32.const 0))))
        (data (i32.const 65532) "abcd"))"#,
    )
    .unwrap();
    for name in ["fill", "copy", "grow"] {
        for fuel in [1, 1000, u32::MAX] {
            let mut guest = instance(&module);
            guest.set_work_left(16);
            guest.call(name, &[]).unwrap();
            let end = finish(&mut guest, &mut worker, fuel);
            assert_eq!(end, Err(TrapKind::OutOfWork), "{name}");
            guest.call("seen", &[]).unwrap();
            assert_eq!(finish(&mut guest, &mut worker, fuel), Ok(()));
            assert_eq!(result(&guest), (1, Value::I32(2)), "{name} {fuel}");
        }
    }
}
