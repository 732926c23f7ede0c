//! Parts that guests share: a worker's stack and its cache of their code, and their module's tables.

mod common;
mod stepping;

use std::fmt::Write as _;
use std::sync::Barrier;
use std::thread;

use common::{alone, load, runtime_in};
use stepping::{Between, HOST, make, results, run, step, worker};
use wamr::{Instance, Module, ResumableCall, Runtime, ThreadEnv, Value, Worker};

fn rt() -> Runtime {
    runtime_in(1 << 20, &HOST)
}

fn free() -> u32 {
    rt().memory().free
}

fn finish(instance: &mut Instance, worker: &mut Worker<'_>, fuel: u32) -> Vec<Value> {
    while instance.initialise().unwrap() {
        while step(instance, worker, fuel).unwrap() != ResumableCall::Finished {}
    }
    instance.call("run", &[]).unwrap();
    while step(instance, worker, fuel).unwrap() != ResumableCall::Finished {}
    results(instance)
}

/// A module whose code is as long for each shape: where the blocks end is the difference.
fn shaped(shape: usize) -> String {
    let add = "(global.set $g (i32.add (global.get $g) (i32.const 1)))";
    let code = match shape {
        0 => format!("(block (br 0) {add} {add}) {add}"),
        1 => format!("(block (br 0) {add}) {add} {add}"),
        2 => format!("(block (br 0)) {add} {add} {add}"),
        3 => format!("(if (global.get $g) (then {add} {add}) (else {add} (nop) (nop)))"),
        _ => format!("(if (global.get $g) (then {add}) (else {add} {add} (nop) (nop)))"),
    };
    format!(
        r#"(module (global $g (mut i32) (i32.const 0))
        (func (export "run") (result i32) {code} (global.get $g)))"#
    )
}

/// One module after the other at one address: the ends of the first one's blocks are forgotten.
#[test]
fn modules_at_one_address() {
    let _one = alone();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, 4096);
    let before = free();
    let mut at = [None; 2];
    for round in 0..4 {
        for (shape, gives) in [
            (0, 1),
            (1, 2),
            (2, 3),
            (1, 2),
            (0, 1),
            (3, 1),
            (4, 2),
            (3, 1),
        ] {
            let wasm = wat::parse_str(shaped(shape)).unwrap();
            let mut buffer = rt().buffer(wasm.len()).unwrap();
            buffer.copy_from_slice(&wasm);
            // As long as each other, so at one address: else this would show nothing.
            let place = &mut at[shape / 3];
            assert_eq!(
                *place.get_or_insert(buffer.as_ptr() as usize),
                buffer.as_ptr() as usize
            );
            let module = Module::load(buffer).unwrap();
            let mut instance = make(&module);
            assert_eq!(
                finish(&mut instance, &mut worker, 1),
                [Value::I32(gives)],
                "shape {shape}"
            );
            let unload = move || drop((instance, module));
            match round % 2 {
                0 => unload(),
                _ => thread::scope(|scope| scope.spawn(unload).join().unwrap()),
            }
            assert_eq!(free(), before);
        }
    }
}

/// Uses all of the stack in its memory, from `sp` down to the end of its data.
fn with_sp(data_end: i32, sp: i32) -> String {
    format!(
        r#"(module (memory (export "memory") 2)
        (global $sp (mut i32) (i32.const {sp}))
        (global (export "__data_end") i32 (i32.const {data_end}))
        (global (export "__heap_base") i32 (i32.const {sp}))
        (func $down (param i32) (result i32) (local i32)
            (global.set $sp (local.tee 1 (i32.sub (global.get $sp) (i32.const 16))))
            (i32.store (local.get 1) (local.get 0))
            (if (i32.gt_u (local.get 1) (i32.const {}))
                (then (drop (call $down (i32.add (local.get 0) (i32.const 1))))))
            (global.set $sp (i32.add (local.get 1) (i32.const 16)))
            (i32.load (local.get 1)))
        (func (export "run") (result i32) (i32.add (global.get $sp) (call $down (i32.const 7)))))"#,
        data_end + 16
    )
}

/// Their bounds are the module's that is on the worker's stack now.
#[test]
fn modules_with_other_stacks_in_turn() {
    let _one = alone();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = worker(&env, 16 * 1024);
    let modules: Vec<(i32, Module)> = [(2000, 2320), (64, 400), (1024, 2000), (8192, 9000)]
        .map(|(data_end, sp)| (sp, load(rt(), &with_sp(data_end, sp)).unwrap()))
        .into();
    let plain = load(rt(), &shaped(2)).unwrap();
    for rounds in 0..3 {
        let mut guests: Vec<_> = modules
            .iter()
            .cycle()
            .take(4 + rounds)
            .map(|(sp, module)| (sp + 7, make(module)))
            .chain([(3, make(&plain))])
            .collect();
        for (_, guest) in &mut guests {
            guest.call("run", &[]).unwrap();
        }
        let mut turns = 0;
        while !guests.is_empty() {
            guests.retain_mut(|(gives, guest)| {
                turns += 1;
                let ended = step(guest, &mut worker, 1).unwrap();
                if ended == ResumableCall::Finished {
                    assert_eq!(results(guest), [Value::I32(*gives)]);
                }
                ended != ResumableCall::Finished
            });
        }
        assert!(turns > 100, "{turns}");
    }
}

const ALLOCATES: &str = r#"(module
    (import "env" "spend" (func $spend (param i32 i32) (result i32)))
    (memory 1 1) (global $top (mut i32) (i32.const 64))
    (func (export "malloc") (param i32) (result i32)
        (global.set $top (i32.add (global.get $top) (local.get 0))) (global.get $top))
    (func (export "free") (param i32))
    (func (export "run") (result i32) (call $spend (i32.const 3) (i32.const 16))))"#;

/// A host function finds the guest's `malloc` when the instance that made the tables is gone, and
/// its place is another's.
#[test]
fn callbacks_after_the_first_instance() {
    let _one = alone();
    let before = free();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut on = worker(&env, 2048);
    let module = load(rt(), ALLOCATES).unwrap();
    let first = make(&module);
    let mut second = make(&module);
    drop(first);
    let mut spoilt = Vec::new();
    for size in [4096, 256, 64, 16, 1] {
        while let Some(mut buffer) = rt().try_buffer(size) {
            buffer.fill(0x5a);
            spoilt.push(buffer);
        }
    }
    // What a call takes is free again.
    spoilt.truncate(spoilt.len() / 2);
    for n in 1..4 {
        assert_eq!(finish(&mut second, &mut on, 1), [Value::I32(64 + 16 * n)]);
    }
    drop(spoilt);
    let mut third = make(&module);
    drop(second);
    assert_eq!(finish(&mut third, &mut on, 1000), [Value::I32(80)]);
    drop((third, module, on));
    assert_eq!(free(), before);
}

/// All the orders in which some things can be dropped.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    shorter
        .iter()
        .flat_map(|order| {
            (0..count).map(|at| {
                let mut order = order.clone();
                order.insert(at, count - 1);
                order
            })
        })
        .collect()
}

#[test]
fn tables_go_with_the_last_in_any_order() {
    let _one = alone();
    let before = free();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut on = worker(&env, 2048);
    let wat = ALLOCATES.replace("(memory 1 1)", "(memory 0)");
    // Three instances, and their module as the fourth.
    for order in orders(4) {
        let module = load(rt(), &wat).unwrap();
        let mut instances: Vec<_> = (0..3).map(|_| Some(make(&module))).collect();
        let mut module = Some(module);
        for what in order {
            match instances.get_mut(what) {
                Some(instance) => *instance = None,
                None => module = None,
            }
            for instance in instances.iter_mut().flatten() {
                let given = finish(instance, &mut on, 2);
                assert!(matches!(given[..], [Value::I32(80..)]));
            }
        }
        assert!(module.is_none());
        // And made again by the next, while the module lives.
        let module = load(rt(), &wat).unwrap();
        for _ in 0..2 {
            assert!(!module.is_shared());
            assert_eq!(finish(&mut make(&module), &mut on, 2), [Value::I32(80)]);
        }
    }
    drop(on);
    assert_eq!(free(), before);
}

#[test]
fn tables_are_made_and_freed_by_many_threads() {
    const THREADS: usize = 6;
    let _one = alone();
    let before = free();
    let module = load(rt(), &ALLOCATES.replace("(memory 1 1)", "(memory 0)")).unwrap();
    let loaded = free();
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for t in 0..THREADS {
            let (module, barrier) = (&module, &barrier);
            scope.spawn(move || {
                let env = ThreadEnv::enter(rt()).unwrap();
                let mut on = worker(&env, 2048);
                barrier.wait();
                for round in 0..150 {
                    let mut one = make(module);
                    assert_eq!(finish(&mut one, &mut on, 1), [Value::I32(80)]);
                    let mut two = ((round + t) % 3 == 0).then(|| make(module));
                    drop(one);
                    if let Some(two) = &mut two {
                        assert_eq!(finish(two, &mut on, 3), [Value::I32(80)]);
                    }
                }
            });
        }
    });
    assert_eq!(free(), loaded);
    drop(module);
    assert_eq!(free(), before);
}

/// A module of `count` functions, of which `run` is left in the last.
fn of_functions(count: usize) -> String {
    let mut wat = String::from("(module (memory 0) (global $g (mut i32) (i32.const 0))");
    for i in 1..count {
        write!(wat, "(func (param i32) (result i32) (i32.const {i}))").unwrap();
    }
    wat.push_str(r#"(func (export "run") (loop (br 0))))"#);
    wat
}

#[test]
fn an_instance_costs_the_same_of_any_number_of_functions() {
    let _one = alone();
    let before = free();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut on = worker(&env, 2048);
    let mut costs = Vec::new();
    for count in [1, 50, 1000] {
        let module = load(rt(), &of_functions(count)).unwrap();
        let loaded = free();
        let mut instances = Vec::new();
        let mut each = Vec::new();
        for _ in 0..3 {
            let made = free();
            let mut instance = make(&module);
            instance.call("run", &[]).unwrap();
            assert_eq!(
                step(&mut instance, &mut on, 5),
                Ok(ResumableCall::OutOfFuel)
            );
            each.push((
                made - free(),
                instance.usage().held,
                instance.usage().peak,
                instance.kept_bytes(),
            ));
            instances.push(instance);
        }
        println!(
            "{count} functions: module {}, tables and first instance {}, each further {:?} (held, peak, kept)",
            module.load_bytes(),
            each[0].0,
            each[1]
        );
        // The books have the instance alone, as the arena has from the second on.
        assert_eq!(u64::from(each[0].0 - each[0].1), module.needs().tables);
        assert_eq!(each[1].0, each[1].1);
        assert_eq!(each[1], each[2]);
        assert_eq!(each[0].1, each[1].1);
        costs.push(each[1]);
        drop(instances);
        assert_eq!(free(), loaded);
    }
    assert_eq!(costs[0], costs[1]);
    assert_eq!(costs[0], costs[2]);
    drop(on);
    assert_eq!(free(), before);
}

/// A hundred guests of one module, each left in the middle, in turn on one stack.
#[test]
fn a_hundred_guests_on_one_stack() {
    let _one = alone();
    let before = free();
    let wat = r#"(module (func $fib (export "run") (param i32) (result i32)
        (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0)) (else
            (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                (call $fib (i32.sub (local.get 0) (i32.const 2))))))))"#;
    let module = load(rt(), wat).unwrap();
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut on = worker(&env, 8192);
    let fibonacci = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    let mut guests: Vec<_> = (0..100).map(|n| (n % 12, make(&module))).collect();
    for (n, guest) in &mut guests {
        guest.call("run", &[Value::I32(*n)]).unwrap();
    }
    let mut fuel = 0;
    while !guests.is_empty() {
        guests.retain_mut(|(n, guest)| {
            fuel = fuel % 5 + 1;
            let ended = step(guest, &mut on, fuel).unwrap() == ResumableCall::Finished;
            if ended {
                assert_eq!(results(guest), [Value::I32(fibonacci[*n as usize])]);
            }
            !ended
        });
    }
    let mut alone = make(&module);
    let (outcome, _) = run(&mut alone, &[Value::I32(11)], 1, Between::Overwritten, rt());
    assert_eq!(outcome.end, Ok(vec![Value::I32(89)]));
    drop((alone, guests, on, module));
    assert_eq!(free(), before);
}
