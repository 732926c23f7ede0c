//! Host functions that are pending: their guest is left, and they are asked again.

mod common;
mod stepping;

use std::thread;

use common::{alone, load, runtime};
use stepping::{
    Between, EVERYWHERE, HOST, Left, Outcome, dropped_at_each_step, make, results, run,
    same_however_cut, step, worker,
};
use wamr::{ResumableCall, Runtime, ThreadEnv, TrapKind, Value};

fn rt() -> Runtime {
    runtime(&HOST)
}

const IMPORTS: &str = r#"
    (import "env" "wait" (func $wait (param i32)))
    (import "env" "wait_i" (func $wait_i (param i32) (result i32)))
    (import "env" "wait_I" (func $wait_I (param i32 i64) (result i64)))
    (import "env" "wait_F" (func $wait_F (param i32 f64) (result f64)))
    (import "env" "wait_sum" (func $wait_sum (param i32 i64 f32 f64 i32 i32 i32 i32) (result i64)))
    (import "env" "wait_nine" (func $wait_nine (param i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "env" "wait_and_refuse" (func $wait_and_refuse (param i32)))
    (import "env" "wait_and_charge" (func $wait_and_charge (param i32 i32)))
    (import "env" "charge_and_wait" (func $charge_and_wait (param i32 i32)))
    (import "env" "give" (func $give (param i32 i32) (result i32)))"#;

fn module(code: &str) -> String {
    format!("(module {IMPORTS} {code})")
}

fn trap_text(wat: &str) -> (TrapKind, String) {
    let (outcome, _) = same_however_cut(rt(), wat, wat, &[]);
    outcome.end.unwrap_err()
}

/// Of every type of result; at each place where a host function is called.
#[test]
fn a_result_comes_late() {
    let _one = alone();
    for (call, ty, gives) in [
        ("(call $wait (local.get 0))", "", vec![]),
        ("(call $wait_i (local.get 0))", "i32", vec![Value::I32(41)]),
        (
            "(call $wait_I (local.get 0) (i64.const -5000000000))",
            "i64",
            vec![Value::I64(-5_000_000_000)],
        ),
        (
            "(call $wait_F (local.get 0) (f64.const 0.1))",
            "f64",
            vec![Value::F64(0.1)],
        ),
    ] {
        let direct = format!(r#"(func (export "run") (param i32) (result {ty}) {call})"#);
        let nested = format!(
            r#"(func $in (param i32 i64) (result {ty}) {call})
            (func $mid (param i32) (result {ty}) (local f64) (call $in (local.get 0) (i64.const 1)))
            (func (export "run") (param i32) (result {ty}) (call $mid (local.get 0)))"#
        );
        let twice = format!(
            r#"(func $again (param i32) (result i32) {call} {} (i32.const 0))
            (func (export "run") (param i32) (result {ty}) (drop (call $again (local.get 0))) {call})"#,
            if ty.is_empty() { "" } else { "(drop)" }
        );
        for (code, waits) in [(direct, 1), (nested, 1), (twice, 2)] {
            for n in 0..4 {
                let wat = module(&code);
                let (outcome, left) = same_however_cut(rt(), &code, &wat, &[Value::I32(n)]);
                assert_eq!(outcome.end.as_ref(), Ok(&gives), "{code}");
                assert_eq!(left.blocked, waits * n.unsigned_abs(), "{code}");
            }
        }
    }
}

/// Without any code of the guest's around it.
#[test]
fn an_export_that_is_a_host_function_waits() {
    let _one = alone();
    for (name, ty, args, gives) in [
        ("wait", "(param i32)", vec![], vec![]),
        (
            "wait_i",
            "(param i32) (result i32)",
            vec![],
            vec![Value::I32(41)],
        ),
        (
            "wait_I",
            "(param i32 i64) (result i64)",
            vec![Value::I64(i64::MIN)],
            vec![Value::I64(i64::MIN)],
        ),
        (
            "wait_F",
            "(param i32 f64) (result f64)",
            vec![Value::F64(-1e300)],
            vec![Value::F64(-1e300)],
        ),
    ] {
        let wat =
            format!(r#"(module (import "env" "{name}" (func $f {ty})) (export "run" (func $f)))"#);
        for n in 0..4 {
            let args: Vec<_> = [Value::I32(n)].into_iter().chain(args.clone()).collect();
            let (outcome, left) = same_however_cut(rt(), name, &wat, &args);
            assert_eq!(
                outcome,
                Outcome {
                    end: Ok(gives.clone()),
                    work: 0
                },
                "{name}"
            );
            assert_eq!(
                left,
                Left {
                    out_of_fuel: 0,
                    blocked: n.unsigned_abs()
                }
            );
            dropped_at_each_step(rt(), name, &wat, &args);
        }
    }
}

#[test]
fn what_is_run_first_waits() {
    let _one = alone();
    let wat = module(
        r#"(global $g (mut i32) (i32.const 0))
        (func $add (global.set $g (i32.add (global.get $g) (call $wait_i (i32.const 2)))))
        (start $add) (export "_initialize" (func $add)) (export "__post_instantiate" (func $add))
        (func (export "run") (result i32) (global.get $g))"#,
    );
    let (outcome, left) = same_however_cut(rt(), "start", &wat, &[]);
    assert_eq!(
        outcome,
        Outcome {
            end: Ok(vec![Value::I32(123)]),
            work: 3
        }
    );
    assert_eq!(left.blocked, 6);
    dropped_at_each_step(rt(), "start", &wat, &[]);
}

/// Eight arguments, each other one each time that the function is asked.
const SUM: &str = r#"(func $in (result i64) (i64.add (i64.const 1) (call $wait_sum (i32.const 5)
        (i64.const 0) (f32.const 0) (f64.const 0) (i32.const 1) (i32.const 2) (i32.const 3)
        (i32.const 4))))
    (func (export "run") (result i64) (i64.add (call $in) (i64.const 1)))"#;

#[test]
fn arguments_are_as_they_were_left() {
    let _one = alone();
    let (outcome, left) = same_however_cut(rt(), "sum", &module(SUM), &[]);
    // Six times one to each of seven.
    assert_eq!(outcome.end, Ok(vec![Value::I64(10 + 42 + 2)]));
    assert_eq!(left.blocked, 5);
    dropped_at_each_step(rt(), "sum", &module(SUM), &[]);
}

#[test]
fn a_waiting_guest_goes_from_thread_to_thread() {
    let _one = alone();
    let module = load(rt(), &module(SUM)).unwrap();
    let mut instance = make(&module);
    instance.call("run", &[]).unwrap();
    let mut ends = Vec::new();
    while ends.last() != Some(&ResumableCall::Finished) {
        let stack = 1024 + 128 * ends.len() as u32;
        let go = move || {
            let env = ThreadEnv::enter(rt()).unwrap();
            let ended = step(&mut instance, &mut worker(&env, stack), 1000).unwrap();
            (instance, ended)
        };
        let (back, ended) = thread::spawn(go).join().unwrap();
        instance = back;
        ends.push(ended);
    }
    assert_eq!(ends.len(), 6);
    assert_eq!(results(&instance), [Value::I64(54)]);
}

#[test]
fn where_a_host_function_cannot_wait_it_traps() {
    let _one = alone();
    let nine = module(
        r#"(func (export "run") (call $wait_nine (i32.const 1) (i32.const 1) (i32.const 1)
        (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1)))"#,
    );
    // A guest's malloc that waits, called by a host function: at once, and asked again.
    let malloc = |n| {
        module(&format!(
            r#"(memory 1 1)
            (func (export "malloc") (param i32) (result i32) (call $wait (i32.const 1)) (i32.const 8))
            (func (export "free") (param i32))
            (func (export "run") (drop (call $give (i32.const {n}) (i32.const 0))))"#
        ))
    };
    for wat in [nine, malloc(0), malloc(3)] {
        let expected = (
            TrapKind::Host,
            String::from("a host function can't wait here"),
        );
        assert_eq!(trap_text(&wat), expected);
        dropped_at_each_step(rt(), "no wait", &wat, &[]);
    }
}

#[test]
fn a_host_function_waits_and_then_refuses() {
    let _one = alone();
    for n in 0..3 {
        let wat = module(&format!(
            r#"(func (export "run") (call $wait_and_refuse (i32.const {n})))"#
        ));
        assert_eq!(
            trap_text(&wat),
            (TrapKind::Host, String::from("not even later"))
        );
        let (_, left) = same_however_cut(rt(), "refuse", &wat, &[]);
        assert_eq!(left.blocked, n);
    }
}

/// Each time that it is asked; what the step has not is a debt of the next.
#[test]
fn a_waiting_host_function_charges() {
    let _one = alone();
    for (n, units) in [(0, 30), (1, 30), (4, 30), (3, 5000), (2, 0)] {
        let wat = module(&format!(
            r#"(func (export "run") (call $wait_and_charge (i32.const {n}) (i32.const {units}))
                (loop (br_if 0 (i32.const 0))))"#
        ));
        let (outcome, left) = same_however_cut(rt(), "charge", &wat, &[]);
        assert_eq!(
            outcome,
            Outcome {
                end: Ok(vec![]),
                work: 2 + (n + 1) * units
            }
        );
        assert_eq!(u64::from(left.blocked), n);
        // With a fuel of 1 each unit is a step.
        let steps = u64::from(left.out_of_fuel + left.blocked) + 1;
        let most = outcome.work + n + 1;
        assert!((outcome.work..=most).contains(&steps), "{left:?}");
    }
}

/// It ends the guest when it has no work left, on the stack or in the arena.
#[test]
fn a_waiting_host_function_uses_the_work_up() {
    let _one = alone();
    for (name, needs) in [("wait_and_charge", 31), ("charge_and_wait", 21)] {
        let wat = module(&format!(
            r#"(func (export "run") (result i32) (call ${name} (i32.const 2) (i32.const 10))
                (i32.const 3))"#
        ));
        let module = load(rt(), &wat).unwrap();
        for work in 0..40 {
            let outcome = |fuel, between| {
                let mut instance = make(&module);
                instance.set_work_left(work);
                run(&mut instance, &[], fuel, between, rt()).0
            };
            let whole = outcome(1000, Between::Stays);
            let ended = whole.end.as_ref().map_err(|trap| trap.0);
            if work >= needs {
                assert_eq!(ended, Ok(&vec![Value::I32(3)]), "{name}, {work}");
            } else {
                assert_eq!(ended, Err(TrapKind::OutOfWork), "{name}, {work}");
            }
            for fuel in [1, 7, 1000] {
                for between in EVERYWHERE {
                    let outcome = outcome(fuel, between);
                    assert_eq!(outcome, whole, "{name}, {work}, fuel {fuel}, {between:?}");
                }
            }
        }
    }
}

/// The state with which it waits stays as it was, whatever the guest does when it is called meanwhile.
#[test]
fn a_function_that_waits_allocates_in_the_guest() {
    let _one = alone();
    let bump = r#"(memory 1 1) (global $top (mut i32) (i32.const 64))
        (func (export "malloc") (param i32) (result i32)
            (global.set $top (i32.add (global.get $top) (local.get 0))) (global.get $top))
        (func (export "free") (param i32))
        (func (export "run") (param i32 i32) (result i32 i32)
            (i32.load (call $give (local.get 0) (local.get 1))) (global.get $top))"#;
    let given = Value::I32(i32::from_le_bytes(*b"give"));
    for (n, when, times) in [(0, 0, 1), (3, 0, 1), (3, 1, 2), (3, 2, 3), (5, 3, 6)] {
        let args = [Value::I32(n), Value::I32(when)];
        let (outcome, left) = same_however_cut(rt(), "bump", &module(bump), &args);
        assert_eq!(outcome.end, Ok(vec![given, Value::I32(64 + 16 * times)]));
        assert_eq!(left.blocked, n.unsigned_abs());
    }
}

/// `malloc` takes a page: the first one is a memory in another place.
#[test]
fn a_function_that_waits_lets_the_guest_grow() {
    let _one = alone();
    let growing = r#"(memory 0 2)
        (func (export "malloc") (param i32) (result i32)
            (i32.add (i32.const 8) (i32.mul (memory.grow (i32.const 1)) (i32.const 65536))))
        (func (export "free") (param i32))
        (func (export "run") (param i32 i32) (result i32 i32)
            (i32.load (call $give (local.get 0) (local.get 1))) (memory.size))"#;
    let loaded = load(rt(), &module(growing)).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, 2048);
    let given = Value::I32(i32::from_le_bytes(*b"give"));
    for (n, when, pages) in [(2, 0, 1), (1, 1, 2), (2, 2, 2)] {
        for fuel in [1, 1000] {
            let mut instance = make(&loaded);
            instance
                .call("run", &[Value::I32(n), Value::I32(when)])
                .unwrap();
            let mut blocked = 0;
            loop {
                match step(&mut instance, &mut worker, fuel).unwrap() {
                    ResumableCall::Finished => break,
                    ResumableCall::Blocked => blocked += 1,
                    ResumableCall::OutOfFuel => {}
                }
            }
            assert_eq!(blocked, n);
            assert_eq!(results(&instance), [given, Value::I32(pages)]);
        }
    }
}
