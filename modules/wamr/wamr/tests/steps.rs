//! Calls that are left and resumed: at every kind of place, in every way, and dropped on the way.

mod common;
mod stepping;

use std::thread;

use common::{alone, load, runtime};
use stepping::{
    Between, HOST, Outcome, STACK, dropped_at_each_step, make, results, run, same_however_cut,
    step, with_stack, worker,
};
use wamr::{Instance, ResumableCall, Runtime, ThreadEnv, TrapKind, Value};

fn rt() -> Runtime {
    runtime(&HOST)
}

fn free() -> u32 {
    rt().memory().free
}

/// A module whose function `run` is `code`, with the helpers that the places below want.
fn module(head: &str, code: &str) -> String {
    format!(
        r#"(module (type $v (func)) (type $ii (func (param i32) (result i32)))
        (import "env" "twice" (func $twice (param i32) (result i32)))
        (import "env" "nothing" (func $nothing))
        (import "env" "charge" (func $charge (param i32)))
        (memory 1 1) (table 4 funcref) (elem (i32.const 0) $inc $fact $twice $inc)
        (func $inc (type $ii) (i32.add (local.get 0) (i32.const 1)))
        (func $fact (type $ii)
            (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1)) (else (i32.mul (local.get 0)
                (call $fact (i32.sub (local.get 0) (i32.const 1)))))))
        {head}
        (func $run (export "run") {code}))"#
    )
}

/// Name, module, what its `run` gives, and its work.
fn places() -> Vec<(&'static str, String, Vec<Value>, u64)> {
    let of =
        |name, code: &str, gives: &[Value], work| (name, module("", code), gives.to_vec(), work);
    let wide = format!(
        "(result i32) (local i32) (block (loop (br_table {} 1 (local.get 0))))
            (i32.const 5)",
        "1 ".repeat(300)
    );
    let deep = format!(
        "(result i32) {} (br_table 259 300 256 {} (i32.const 2)) {} (i32.const 6)",
        "(block ".repeat(301),
        "0 ".repeat(300),
        ")".repeat(301)
    );
    let nested = format!(
        "(result i32) {} (br 199) {} (i32.const 8)",
        "(block ".repeat(200),
        ")".repeat(200)
    );
    vec![
        of("br", "(result i32) (block (br 0)) (loop (block (br 0))) (i32.const 1)", &[Value::I32(1)], 2),
        of(
            "br_if",
            "(result i32) (local i32) (loop (br_if 0 (i32.lt_u
                (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 5)))) (local.get 0)",
            &[Value::I32(5)],
            5,
        ),
        of("br with a value", "(result i64) (block (result i64) (br 0 (i64.const -3)))", &[Value::I64(-3)], 1),
        of(
            "br over values",
            "(result i32 f64) (block (result i32 f64) (i64.const 1) (i32.const 2) (f32.const 3)
                (br 0 (i32.const 4) (f64.const 5.5)))",
            &[Value::I32(4), Value::F64(5.5)],
            1,
        ),
        of(
            "br_table",
            "(result i32) (local i32) (loop (block (block (br_table 1 0 1 2
                (local.tee 0 (i32.add (local.get 0) (i32.const 1))))) (br 1))) (local.get 0)",
            &[Value::I32(2)],
            3,
        ),
        ("br_table of 300", module("", &wide), vec![Value::I32(5)], 1),
        ("br_table beyond 255 blocks", module("", &deep), vec![Value::I32(6)], 1),
        ("200 blocks", module("", &nested), vec![Value::I32(8)], 1),
        of("call", "(result i32) (call $inc (call $inc (i32.const 1)))", &[Value::I32(3)], 2),
        of(
            "call_indirect",
            "(result i32) (call_indirect (type $ii)
                (call_indirect (type $ii) (i32.const 4) (i32.const 1)) (i32.const 0))",
            &[Value::I32(25)],
            6,
        ),
        of(
            "return",
            "(result i32 i64) (i64.const 7) (call $inc (i32.const 1)) (i64.const 8) (return)",
            &[Value::I32(2), Value::I64(8)],
            1,
        ),
        of("host function", "(result i32) (call $twice (call $twice (i32.const 3)))", &[Value::I32(12)], 2),
        of(
            "host function by the table",
            "(result i32) (call_indirect (type $ii) (i32.const 3) (i32.const 2)) (call $nothing)",
            &[Value::I32(6)],
            2,
        ),
        of(
            "return of a host function",
            "(result i32) (i32.const 9) (call $charge (i32.const 10)) (call $charge (i32.const 0))",
            &[Value::I32(9)],
            12,
        ),
        of(
            "values below a call",
            "(result i64 f64 i32) (i64.const 0x123456789abcdef) (f64.const -0.1) (call $fact (i32.const 5))",
            &[Value::I64(0x0123_4567_89ab_cdef), Value::F64(-0.1), Value::I32(120)],
            6,
        ),
        of("recursion", "(result i32) (call $fact (i32.const 12))", &[Value::I32(479_001_600)], 13),
    ]
    .into_iter()
    .chain(blocks_of_several())
    .collect()
}

/// Blocks, loops and `if`s that take and give more than a value.
fn blocks_of_several() -> Vec<(&'static str, String, Vec<Value>, u64)> {
    let head = "(type $up (func (param i64 i32) (result i64 i32)))
        (type $swap (func (param i32 i64) (result i64 i32)))
        (func $swapped (type $swap) (local.get 1) (local.get 0))";
    let code = "(result i64 i32)
        (i64.const 1) (i32.const 0)
        (loop (type $up)
            (i32.add (i32.const 1))
            (block (type $up) (br 0))
            (call $swap_back)
            (br_if 0 (i32.lt_u (global.get $n) (i32.const 4))))
        (if (type $up) (i32.const 1) (then (br 0)) (else (unreachable)))
        (if (type $up) (i32.const 0) (then (unreachable)) (else (br 0)))";
    let helper = "(global $n (mut i32) (i32.const 0))
        (func $swap_back (type $up) (local i64 i32)
            (global.set $n (i32.add (global.get $n) (i32.const 1)))
            (call $swapped (local.get 1) (i64.mul (local.get 0) (i64.const 3))))";
    vec![(
        "several values",
        module(&format!("{head} {helper}"), code),
        vec![Value::I64(81), Value::I32(4)],
        // A loop of a br, two calls and a br_if, four times; two ifs.
        18,
    )]
}

#[test]
fn every_place_comes_to_the_same() {
    let _one = alone();
    for (name, wat, gives, work) in places() {
        let (outcome, left) = same_however_cut(rt(), name, &wat, &[]);
        assert_eq!(outcome.end, Ok(gives), "{name}");
        // It is left before each unit but the first, and for scans besides.
        assert!(u64::from(left.out_of_fuel) + 1 >= work, "{name}: {left:?}");
        assert_eq!(left.blocked, 0, "{name}");
        assert_eq!(outcome.work, work, "{name}");
    }
}

#[test]
fn every_place_can_be_dropped_at() {
    let _one = alone();
    for (name, wat, ..) in places() {
        dropped_at_each_step(rt(), name, &wat, &[]);
    }
}

/// Functions that are run first, by name, are cut as others.
#[test]
fn initialisers_are_left_and_resumed() {
    let _one = alone();
    let push = |digit| {
        format!(
            "(call $push (i32.const {digit}))
            (block (br_if 0 (i32.const 1)) (unreachable)) (call $push (i32.const {digit}))"
        )
    };
    for (name, digits) in [("__wasm_call_ctors", 223_344), ("_initialize", 223_344)] {
        let wat = format!(
            r#"(module (global $g (mut i32) (i32.const 0)) (start $start)
            (func $push (param i32)
                (global.set $g (i32.add (i32.mul (global.get $g) (i32.const 10)) (local.get 0))))
            (func $start {})
            (func (export "{name}") {})
            (func (export "__post_instantiate") {})
            (func (export "run") (result i32) (global.get $g)))"#,
            push(2),
            push(3),
            push(4)
        );
        let (outcome, left) = same_however_cut(rt(), name, &wat, &[]);
        assert_eq!(outcome.end, Ok(vec![Value::I32(digits)]), "{name}");
        assert_eq!(outcome.work, 9);
        assert_eq!(left.out_of_fuel, 6);
        dropped_at_each_step(rt(), name, &wat, &[]);
    }
}

#[test]
fn a_trap_is_met_at_the_same_place() {
    let _one = alone();
    for (name, code, kind, work) in [
        (
            "unreachable",
            "(result i32) (drop (call $fact (i32.const 4))) (unreachable)",
            TrapKind::Unreachable,
            5,
        ),
        (
            "division",
            "(result i32) (i32.div_u (i32.const 1) (call $inc (i32.const -1)))",
            TrapKind::IntegerDivideByZero,
            1,
        ),
        (
            "memory",
            "(result i32) (i32.load (call $fact (i32.const 10)))",
            TrapKind::MemoryOutOfBounds,
            11,
        ),
        (
            "table",
            "(result i32) (call_indirect (type $ii) (i32.const 1) (call $fact (i32.const 3)))",
            TrapKind::UndefinedElement,
            5,
        ),
        (
            "recursion",
            "(result i32) (drop (call $run)) (i32.const 1)",
            TrapKind::OperandStackOverflow,
            0,
        ),
    ] {
        let wat = module("", code);
        let (outcome, _) = same_however_cut(rt(), name, &wat, &[]);
        assert_eq!(outcome.end.map_err(|(kind, _)| kind), Err(kind), "{name}");
        if work > 0 {
            assert_eq!(outcome.work, work, "{name}");
        }
        dropped_at_each_step(rt(), name, &wat, &[]);
    }
}

/// An export that is an import has no code to be left in.
#[test]
fn an_export_may_be_a_host_function() {
    let _one = alone();
    let exported = |name: &str, ty: &str| {
        format!(r#"(module (import "env" "{name}" (func $f {ty})) (export "run" (func $f)))"#)
    };
    let twice = exported("twice", "(param i32) (result i32)");
    let (outcome, _) = same_however_cut(rt(), "twice", &twice, &[Value::I32(21)]);
    assert_eq!(
        outcome,
        Outcome {
            end: Ok(vec![Value::I32(42)]),
            work: 0
        }
    );
    let charge = exported("charge", "(param i32)");
    let (outcome, _) = same_however_cut(rt(), "charge", &charge, &[Value::I32(21)]);
    assert_eq!(
        outcome,
        Outcome {
            end: Ok(vec![]),
            work: 21
        }
    );
    dropped_at_each_step(rt(), "twice", &twice, &[Value::I32(21)]);
    // What it charged and the step had not is a debt of the instance's next call.
    let module = load(rt(), &charge).unwrap();
    let mut instance = make(&module);
    let (_, left) = run(&mut instance, &[Value::I32(21)], 1, Between::Leaves, rt());
    assert_eq!(left.out_of_fuel, 0);
    let (_, left) = run(&mut instance, &[Value::I32(0)], 1, Between::Leaves, rt());
    assert_eq!(left.out_of_fuel, 20);
}

const DEEP: &str = r#"(module
    (func $walk (export "run") (param i32 i64) (result i64)
        (if (result i64) (local.get 0)
            (then (i64.add (local.get 1) (call $walk (i32.sub (local.get 0) (i32.const 1))
                (i64.add (local.get 1) (i64.const 1)))))
            (else (loop $more (br_if $more (i64.ne (local.tee 1
                (i64.sub (local.get 1) (i64.const 1))) (i64.const 0)))) (local.get 1)))))"#;

fn deep(depth: i32) -> [Value; 2] {
    [Value::I32(depth), Value::I64(1)]
}

#[test]
fn ten_thousand_rounds_of_make_step_drop() {
    let _one = alone();
    let before = free();
    let wasm = wat::parse_str(DEEP).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, STACK);
    let held = free();
    let mut random = 1_u32;
    for round in 0..10_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let module = common::load_bytes(rt(), &wasm).unwrap();
        let mut instance = make(&module);
        instance.call("run", &deep(20)).unwrap();
        let (steps, fuel) = (random >> 28, 1 + (random >> 25) % 4);
        for _ in 0..steps {
            if step(&mut instance, &mut worker, fuel) != Ok(ResumableCall::OutOfFuel) {
                break;
            }
        }
        if round % 2 == 0 {
            drop(module);
            drop(instance);
        } else {
            drop(instance);
            drop(module);
        }
        assert_eq!(free(), held, "round {round}");
    }
    drop(worker);
    assert_eq!(free(), before);
}

#[test]
fn each_step_on_another_thread() {
    let _one = alone();
    let before = free();
    let module = load(rt(), DEEP).unwrap();
    let mut instance = make(&module);
    instance.call("run", &deep(10)).unwrap();
    let mut threads = 0;
    loop {
        let go = move || {
            let env = ThreadEnv::enter(rt()).unwrap();
            let ended = step(
                &mut instance,
                &mut worker(&env, 4096 + 64 * (threads % 7)),
                1,
            )
            .unwrap();
            (instance, ended)
        };
        let (back, ended) = thread::spawn(go).join().unwrap();
        instance = back;
        threads += 1;
        if ended == ResumableCall::Finished {
            break;
        }
    }
    // 10 calls, 11 times round the loop, and the scan of each of 11 `if`s.
    assert_eq!(instance.work(), 21);
    assert_eq!(threads, 32);
    assert_eq!(results(&instance), [Value::I64(55)]);
    drop((instance, module));
    assert_eq!(free(), before);
}

/// A worker whose stack is too small refuses the call, or runs it within its own bytes.
#[test]
fn a_smaller_stack_refuses_or_fits() {
    let _one = alone();
    let params = "i32 ".repeat(60);
    let many = (0..60).fold(String::new(), |all, i| format!("{all} (i32.const {i})"));
    let wat = format!(
        r#"(module (func $many (param {params}) (result i32) (local.get 59))
        (func $walk (param i32) (result i32)
            (loop (br_if 0 (i32.const 0)))
            (if (local.get 0) (then (drop (call $walk (i32.sub (local.get 0) (i32.const 1))))))
            (call $many {many}))
        (func (export "run") (result i32) (call $walk (i32.const 2))))"#
    );
    let module = load(rt(), &wat).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut large = worker(&env, STACK);
    let (mut refused, mut overflowed, mut fitted) = (0, 0, 0);
    for stack in (0..4000).step_by(4) {
        let mut instance = make(&module);
        instance.call("run", &[]).unwrap();
        for _ in 0..5 {
            assert_eq!(
                step(&mut instance, &mut large, 1),
                Ok(ResumableCall::OutOfFuel)
            );
        }
        let mut small = worker(&env, stack);
        // What lies behind the worker's stack.
        let mut behind = rt().buffer(2000).unwrap();
        behind.fill(0x5a);
        let ended = step(&mut instance, &mut small, 1_000_000);
        assert!(behind.iter().all(|&byte| byte == 0x5a), "stack {stack}");
        match ended {
            Ok(ended) => {
                assert_eq!(ended, ResumableCall::Finished);
                fitted += 1;
            }
            Err(trap) => {
                assert_eq!(trap.kind(), TrapKind::OperandStackOverflow);
                // Where it was refused it goes on on the larger one.
                match step(&mut instance, &mut large, 1_000_000) {
                    Ok(_) => refused += 1,
                    Err(_) => overflowed += 1,
                }
            }
        }
        if stack >= 3000 {
            assert_eq!(results(&instance), [Value::I32(59)]);
        }
    }
    println!("refused {refused}, overflowed {overflowed}, fitted {fitted}");
    assert!(refused > 100 && fitted > 100);
}

fn hoard() -> Vec<wamr::Buffer> {
    let mut all = Vec::new();
    for size in [16_384, 1024, 64, 8, 1] {
        while let Some(buffer) = rt().try_buffer(size) {
            all.push(buffer);
        }
    }
    all
}

#[test]
fn leaving_without_room_is_a_trap() {
    let _one = alone();
    let before = free();
    let module = load(rt(), DEEP).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, STACK);
    let mut instance = make(&module);
    let made = free();
    instance.call("run", &deep(30)).unwrap();
    let mut active = worker.enter(&mut instance).unwrap();
    assert_eq!(active.step(25, &()), Ok(ResumableCall::OutOfFuel));
    let full = hoard();
    let trap = active.leave().unwrap_err();
    assert_eq!(trap.kind(), TrapKind::OutOfMemory);
    assert!(
        trap.to_string()
            .starts_with("out of memory: no room for what the guest has on the stack")
    );
    // It has ended: it has no results, and can't be gone on with.
    assert_eq!(results(&instance).len(), 0);
    assert_eq!(
        step(&mut instance, &mut worker, 1).unwrap_err().kind(),
        TrapKind::BadCall
    );
    // A call that can't begin says why, and leaves nothing behind.
    let full_again = hoard();
    let trap = instance.call("run", &deep(0)).unwrap_err();
    assert_eq!(trap.kind(), TrapKind::OutOfMemory);
    assert_eq!(results(&instance).len(), 0);
    drop((full, full_again));
    assert_eq!(free(), made);
    // With room, it is called again.
    instance.call("run", &deep(3)).unwrap();
    assert_eq!(
        step(&mut instance, &mut worker, 1000),
        Ok(ResumableCall::Finished)
    );
    assert_eq!(results(&instance), [Value::I64(6)]);
    drop((instance, worker, module));
    assert_eq!(free(), before);
}

#[test]
fn a_call_that_trapped_has_no_results() {
    let _one = alone();
    let module = load(
        rt(),
        r#"(module (func (export "run") (param i32) (result i32)
        (i32.div_u (i32.const 6) (local.get 0))))"#,
    )
    .unwrap();
    let mut instance = make(&module);
    let (outcome, _) = run(&mut instance, &[Value::I32(2)], 9, Between::Leaves, rt());
    assert_eq!(outcome.end, Ok(vec![Value::I32(3)]));
    let (outcome, _) = run(&mut instance, &[Value::I32(0)], 9, Between::Leaves, rt());
    assert!(outcome.end.is_err());
    assert_eq!(results(&instance).len(), 0);
}

/// Without recursion and indirect calls, what a call needs to be left is reserved when it begins.
#[test]
fn what_is_known_to_be_needed_is_there() {
    let _one = alone();
    // What the guest writes to is there, too.
    let touched: String = (0..65_536)
        .step_by(512)
        .map(|at| format!("(data (i32.const {at}) \"x\")"))
        .collect();
    let wat = r#"(module
        (import "env" "wait_sum" (func $wait (param i32 i64 f32 f64 i32 i32 i32 i32) (result i64)))
        (memory 1 1) TOUCHED (table 9000 funcref)
        (func $leaf (param i32) (local i64 i64 i64) (loop (br_if 0
            (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
        (func $inner (param f64 f64) (local i64) (local.set 2 (i64.const 5))
            (call $leaf (i32.const 3))
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))
            (table.fill 0 (i32.const 0) (ref.null func) (i32.const 9000))
            (drop (call $wait (i32.const 2) (i64.const 0) (f32.const 0) (f64.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const 0))))
        (func $outer (param i32 i32 i32 i32) (call $inner (f64.const 1) (f64.const 2)))
        (func (export "run") (result i32)
            (call $outer (i32.const 1) (i32.const 2) (i32.const 3) (i32.const 4)) (i32.const 7)))"#;
    let module = load(rt(), &wat.replace("TOUCHED", &touched)).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, 2048);
    let mut instance = make(&module);
    instance.call("run", &[]).unwrap();
    let kept = instance.kept_bytes();
    let full = hoard();
    let mut left = 0;
    while step(&mut instance, &mut worker, 7).unwrap() != ResumableCall::Finished {
        left += 1;
        assert_eq!(instance.kept_bytes(), kept);
    }
    assert!(left > 100, "{left}");
    drop(full);
    assert_eq!(results(&instance), [Value::I32(7)]);
    println!("{kept} bytes kept for 4 frames and a wait of 8 arguments");
}

/// Where the operand stack ends does not depend on where the call was left.
#[test]
fn the_stack_ends_at_the_same_place() {
    let _one = alone();
    let chain = r#"(module (func $a (param i32) (result i32) (call $b (local.get 0) (i64.const 1)))
        (func $b (param i32 i64) (result i32) (block (br 0)) (call $c (local.get 0)))
        (func $c (param i32) (result i32) (local f64 f64 f64) (call $d) (local.get 0))
        (func $d (local i64 i64) (loop (br_if 0 (i32.const 0))))
        (func (export "run") (param i32 i64) (result i32) (call $a (local.get 0))))"#;
    let env = ThreadEnv::enter(rt()).unwrap();
    for (wat, args) in [(DEEP, deep(6)), (chain, deep(1))] {
        let module = load(rt(), wat).unwrap();
        let mut ends = [0; 2];
        for stack in (64..=2000).step_by(4) {
            let outcome = |fuel, moves: bool| {
                let mut instance = with_stack(&module, stack).unwrap();
                let mut large = worker(&env, STACK);
                let mut exact = worker(&env, stack);
                instance.call("run", &args).unwrap();
                let mut steps = 0;
                loop {
                    let place = if !moves || steps % 2 == 0 {
                        &mut exact
                    } else {
                        &mut large
                    };
                    steps += 1;
                    match step(&mut instance, place, fuel) {
                        Ok(ResumableCall::Finished) => {
                            break (Ok(results(&instance)), instance.work());
                        }
                        Ok(_) => {}
                        Err(trap) => break (Err(trap.to_string()), instance.work()),
                    }
                }
            };
            let whole = outcome(1_000_000, false);
            assert_eq!(outcome(1, false), whole, "{stack} bytes");
            assert_eq!(outcome(1, true), whole, "{stack} bytes, two workers");
            ends[usize::from(whole.0.is_ok())] += 1;
        }
        assert!(ends[0] > 20 && ends[1] > 20, "{ends:?}");
    }
}

#[test]
fn a_step_without_fuel_does_nothing() {
    let _one = alone();
    let module = load(rt(), DEEP).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, STACK);
    let mut instance = make(&module);
    instance.call("run", &deep(3)).unwrap();
    for _ in 0..3 {
        assert_eq!(
            step(&mut instance, &mut worker, 0),
            Ok(ResumableCall::OutOfFuel)
        );
        assert_eq!(instance.work(), 0);
    }
    assert_eq!(
        step(&mut instance, &mut worker, 1),
        Ok(ResumableCall::OutOfFuel)
    );
    assert_eq!(
        step(&mut instance, &mut worker, 0),
        Ok(ResumableCall::OutOfFuel)
    );
    assert_eq!(instance.work(), 0);
    assert_eq!(
        step(&mut instance, &mut worker, 1),
        Ok(ResumableCall::OutOfFuel)
    );
    assert_eq!(instance.work(), 1);
}

/// One worker's place that is forgotten, not dropped, loses its call and nothing else.
#[test]
fn a_forgotten_place_on_the_stack() {
    let _one = alone();
    let before = free();
    let module = load(rt(), DEEP).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, STACK);
    let forget = |worker: &mut wamr::Worker<'_>, steps| -> Instance {
        let mut instance = make(&module);
        instance.call("run", &deep(40)).unwrap();
        let mut active = worker.enter(&mut instance).unwrap();
        assert_eq!(active.step(steps, &()), Ok(ResumableCall::OutOfFuel));
        std::mem::forget(active);
        instance
    };
    let mut lost = forget(&mut worker, 38);
    // Another guest on the same stack is not touched by it.
    let mut other = make(&module);
    let (outcome, _) = run(&mut other, &deep(9), 1, Between::Leaves, rt());
    assert_eq!(outcome.end, Ok(vec![Value::I64(45)]));
    other.call("run", &deep(9)).unwrap();
    while step(&mut other, &mut worker, 1) == Ok(ResumableCall::OutOfFuel) {}
    assert_eq!(results(&other), [Value::I64(45)]);
    let trap = step(&mut lost, &mut worker, 1).unwrap_err();
    assert_eq!(trap.kind(), TrapKind::BadCall);
    let another = forget(&mut worker, 20);
    drop((lost, other, another, worker, module));
    assert_eq!(free(), before);
}
