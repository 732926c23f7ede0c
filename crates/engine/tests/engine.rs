//! The engine with real guests and real threads, and the test as the agent.
//!
//! WAMR is one for a process, and the arena's figures are compared: so this is one test.

use proplet::{
    engine::{Call, Engine, Failure, Limits, ModuleId, Preemption, Slot, TaskData, Value, Weight},
    task::caps::Caps,
    time::Duration,
};
use proplet_testing::engine::{Bench, LIMITS, SLOTS, bench, trap};
use std::{sync::atomic::Ordering, thread, time::Instant};

#[test]
fn guests_run_end_and_leave_nothing_behind() {
    let mut bench = bench();
    let bench = &mut *bench;
    let before = bench.free();

    for preemption in [Preemption::Time, Preemption::Fuel] {
        bench.workers.set_preemption(preemption);
        results(bench);
        memories(bench);
        interrupts(bench);
    }
    budgets(bench);
    slices(bench);
    shares(bench);
    hot_turns(bench);
    greed(bench);
    starts(bench);
    floods(bench);
    buffers(bench);
    holes(bench);
    needs(bench);
    refusals(bench);

    assert_eq!(bench.free(), before, "the arena is as before, to the byte");
}

fn results(bench: &mut Bench) {
    let limits = LIMITS;
    let add = r#"(module (func (export "main") (param i64 f64) (result f64)
        (f64.add (f64.convert_i64_s (local.get 0)) (local.get 1))))"#;
    let exit = bench.run(add, &[Value::I64(-40), Value::F64(0.5)], limits);
    assert_eq!(exit.result, Ok(Some(Value::F64(-39.5))));
    assert!(
        (400..4096).contains(&exit.usage.memory),
        "itself and what is kept of its call: {:?}",
        exit.usage
    );
    let none = r#"(module (func (export "main")))"#;
    assert_eq!(bench.run(none, &[], limits).result, Ok(None));
    let initialised = r#"(module (global $g (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $g (i32.const 7)))
        (func (export "main") (result i32) (global.get $g)))"#;
    let exit = bench.run(initialised, &[], limits);
    assert_eq!(exit.result, Ok(Some(Value::I32(7))));
    let recursion = r#"(module (func $f (export "main") (call $f)))"#;
    assert!(trap(&bench.run(recursion, &[], limits)).contains("stack overflow"));
}

fn budgets(bench: &mut Bench) {
    let limits = Limits {
        work: Some(12_345),
        ..LIMITS
    };
    let main = r#"(module (func (export "main") (loop (br 0))))"#;
    let start = r#"(module (func $s (loop (br 0))) (start $s) (func (export "main")))"#;
    let initialize =
        r#"(module (func (export "_initialize") (loop (br 0))) (func (export "main")))"#;
    // The only step, which ends in the trap.
    bench.workers.set_slice(20_000);
    for wat in [main, start, initialize] {
        let exit = bench.run(wat, &[], limits);
        assert_eq!(
            trap(&exit),
            "work budget of 12345 branches and calls exhausted"
        );
        assert_eq!(exit.usage.work, 12_345, "the budget is kept to the branch");
        assert!(exit.usage.cpu > Duration::from_micros(5), "{exit:?}");
    }
    bench.workers.set_slice(1000);
}

fn memories(bench: &mut Bench) {
    let limits = LIMITS;
    let store = r#"(module (memory 1 1) (func (export "main") (param i32)
        (i32.store (local.get 0) (i32.const 1))))"#;
    let small = Limits {
        memory_max: Some(4096),
        ..limits
    };
    let ok = bench.run(store, &[Value::I32(65_532)], small);
    assert_eq!((ok.result, ok.usage.pages), (Ok(None), 1));
    assert!(ok.usage.memory < 3000, "{:?}", ok.usage);
    let beyond = bench.run(store, &[Value::I32(65_533)], small);
    assert!(trap(&beyond).contains("out of bounds"));
    let fill = r#"(module (memory 1 1) (func (export "main") (param i32)
        (memory.fill (i32.const 0) (i32.const 1) (local.get 0))))"#;
    let all = bench.run(fill, &[Value::I32(4096)], small);
    assert_eq!((all.result, all.usage.pages), (Ok(None), 4));
    let free = bench.engine.arena().free;
    let beyond = bench.run(fill, &[Value::I32(4097)], small);
    let text = "out of memory: page 4 of linear memory, 4 taken, the task may hold 4";
    assert!(trap(&beyond).starts_with(text), "{}", trap(&beyond));
    assert_eq!(beyond.usage.pages, 4);
    drop(beyond);
    assert_eq!(bench.engine.arena().free, free);
    let data = r#"(module (memory 1) (data (i32.const 0) "a") (data (i32.const 5000) "b")
        (func (export "main")))"#;
    bench.load(0, data).unwrap();
    let less = Limits {
        memory_max: Some(1024),
        ..limits
    };
    let refused = bench
        .call(0, "main", &[], less, TaskData::NONE)
        .unwrap_err();
    let text = "out of memory: page 4 of linear memory, 1 taken, the task may hold 1";
    assert!(refused.starts_with(text), "{refused}");
    bench.engine.unload(ModuleId(0));
}

fn interrupts(bench: &mut Bench) {
    let limits = LIMITS;
    let endless = r#"(module (func (export "main") (loop (br 0))))"#;
    bench.load(0, endless).unwrap();
    for slot in 0..SLOTS as u16 {
        bench.spawn(slot, &[], limits);
    }
    for (slot, slice) in [5, 0, 7, 2, 1, 3, 6, 4]
        .into_iter()
        .zip([1, 7, 100, 1_000_000].into_iter().cycle())
    {
        // While they run.
        bench.workers.set_slice(slice);
        thread::sleep(Duration::from_millis(2));
        bench.engine.interrupt(Slot(slot));
        bench.engine.interrupt(Slot(slot));
        let exit = bench.exit();
        assert_eq!(
            (exit.slot, &exit.result),
            (Slot(slot), &Err(Failure::Interrupted))
        );
        assert_eq!(exit.usage.cpu > Duration::ZERO, exit.usage.work > 0);
    }
    bench.workers.set_slice(1000);
    bench.engine.unload(ModuleId(0));
    let start = r#"(module (func $s (loop (br 0))) (start $s) (func (export "main")))"#;
    bench.load(0, start).unwrap();
    bench.spawn(0, &[], limits);
    bench.engine.interrupt(Slot(0));
    assert_eq!(bench.exit().result, Err(Failure::Interrupted));
    // An interrupt does not outlive its run.
    bench.engine.unload(ModuleId(0));
    let quick = r#"(module (func (export "main")))"#;
    assert_eq!(bench.run(quick, &[], limits).result, Ok(None));
}

/// A slice ends a step, and so does a turn that is shorter; also when the slice changes in the middle.
fn slices(bench: &mut Bench) {
    let count = r#"(module (func (export "main") (param i32)
        (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    let weighed = |weight| Limits {
        weight: Weight(weight),
        ..LIMITS
    };
    for (preemption, limits, slice, expected) in [
        (Preemption::Time, weighed(10), 1000, 100),
        (Preemption::Fuel, weighed(10), 1000, 100),
        (Preemption::Fuel, weighed(20), 1000, 100),
        (Preemption::Fuel, weighed(1), 1000, 1000),
        (Preemption::Fuel, weighed(40), 1, 99_999),
    ] {
        bench.workers.set_preemption(preemption);
        bench.workers.set_slice(slice);
        let before = bench.workers.platform().slices.load(Ordering::SeqCst);
        let exit = bench.run(count, &[Value::I32(99_999)], limits);
        let slices = bench.workers.platform().slices.load(Ordering::SeqCst) - before;
        assert_eq!((exit.result, exit.usage.work), (Ok(None), 99_999));
        assert_eq!(slices, expected, "{limits:?}, slice {slice}");
    }
    bench.workers.set_slice(1000);
}

/// Waits until a guest has done the work of a hundred turns.
fn until_work(bench: &Bench, slot: u16) {
    let began = Instant::now();
    while bench.engine.usage(Slot(slot)).work < 100_000 {
        assert!(began.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(1));
    }
}

/// A guest whose fuel goes to code without branches, and hardly any to work, has turns that end.
fn hot_turns(bench: &mut Bench) {
    let nops = "nop ".repeat(20_000);
    let hot = format!(r#"(module (func (export "main") (loop {nops} (br 0))))"#);
    bench.load(0, &hot).unwrap();
    bench
        .load(1, r#"(module (func (export "main") (loop (br 0))))"#)
        .unwrap();
    let call = Call {
        module: ModuleId(1),
        export: "main",
        args: &[],
        limits: LIMITS,
    };
    let platform = bench.workers.platform();
    let held = platform.hold();
    bench.spawn(0, &[], LIMITS);
    bench.engine.spawn(Slot(1), &call, TaskData::NONE).unwrap();
    drop(held);
    until_work(bench, 1);
    let held = platform.hold_step();
    let usage = [0, 1].map(|slot| bench.engine.usage(Slot(slot)));
    drop(held);
    for slot in [0, 1] {
        bench.engine.interrupt(Slot(slot));
        assert_eq!(bench.exit().result, Err(Failure::Interrupted));
    }
    // Of the fuel it has eight times as much.
    assert!(usage[0].work * 5 < usage[1].work, "{usage:?}");
    bench.engine.unload(ModuleId(0));
    bench.engine.unload(ModuleId(1));
}

/// Two that share a worker do work in proportion to their weights, to the turn; also where one does
/// its work by the bulk.
fn shares(bench: &mut Bench) {
    let endless = r#"(module (memory 1) (func (export "main") (param i32)
        (loop (memory.fill (i32.const 0) (i32.const 7) (local.get 0)) (br 0))))"#;
    bench.load(0, endless).unwrap();
    for (weight, bytes) in [(10, 0), (30, 0), (10, 65_536), (100, 20_000)] {
        let mut limits = LIMITS;
        let platform = bench.workers.platform();
        // Both are there before the second step of the first.
        let held = platform.hold();
        bench.spawn(0, &[Value::I32(0)], limits);
        limits.weight = Weight(weight);
        bench.spawn(1, &[Value::I32(bytes)], limits);
        drop(held);
        until_work(bench, 0);
        let held = platform.hold_step();
        let work = |slot| bench.engine.usage(Slot(slot)).work;
        let (first, other) = (work(0), work(1));
        drop(held);
        for slot in [0, 1] {
            bench.engine.interrupt(Slot(slot));
            bench.exit();
        }
        let ratio = other as f64 / first as f64 * 10.0 / f64::from(weight);
        assert!(
            (0.9..1.2).contains(&ratio),
            "weight {weight}, {bytes} bytes: {ratio}"
        );
    }
    bench.engine.unload(ModuleId(0));
}

/// A guest that asks for more than there is gets less, or traps, and leaves nothing behind.
fn greed(bench: &mut Bench) {
    let grow = r#"(module (memory 0) (func (export "main") (result i32)
        (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (memory.size)))"#;
    // A page of Wasm takes a place for a table, until it is written to: they end where the arena has no
    // room for all their places.
    let before = bench.engine.arena().free;
    let Ok(Some(Value::I32(pages))) = bench.run(grow, &[], LIMITS).result else {
        panic!("memory.grow trapped");
    };
    assert!((1000..65_536).contains(&pages), "{pages}");
    assert_eq!(bench.engine.arena().free, before);
    let touches = r#"(module (memory 4) (func (export "main") (local i32)
        (loop (i32.store8 (local.get 0) (i32.const 1))
            (local.set 0 (i32.add (local.get 0) (i32.const 512))) (br 0))))"#;
    let trap = bench.run(touches, &[], LIMITS).result;
    let trap = trap.unwrap_err().to_string();
    assert!(trap.contains("out of memory: page "), "{trap}");
    assert_eq!(bench.engine.arena().free, before);
    let segment = r#"(module (memory 1 1) (data (i32.const 65530) "too far out")
        (func (export "main")))"#;
    assert!(bench.refusal(segment).contains("out of bounds"));
    let large = r#"(module (memory 65536) (func (export "main")))"#;
    assert!(bench.refusal(large).contains("memory"));
    assert_eq!(bench.engine.arena().free, before);
}

/// However full the arena is: what starts finds the first page of its stack, and the reserve is left.
fn starts(bench: &mut Bench) {
    let data = "x".repeat(20_000);
    let wat = format!(
        r#"(module (memory 17) (global $sp (mut i32) (i32.const 1048576))
        (data (i32.const 1048576) "{data}")
        (func (export "main") (result i32)
            (i32.store (i32.sub (global.get $sp) (i32.const 16)) (i32.const 7))
            (i32.load (i32.const 1048560))))"#
    );
    let before = bench.engine.arena().free;
    bench.load(0, &wat).unwrap();
    let (mut made, mut refused) = (0, 0);
    for left in (20_000..30_000).step_by(100) {
        let hoard = bench.engine.allocate(bench.free() - left).unwrap();
        match bench.call(0, "main", &[], LIMITS, TaskData::NONE) {
            Ok(()) => {
                let reserve = bench.engine.arena().reserve;
                assert!(bench.free() >= reserve, "{left}");
                assert_eq!(bench.exit().result, Ok(Some(Value::I32(7))), "{left}");
                made += 1;
            }
            Err(reason) => {
                assert!(
                    reason.contains(" bytes of linear memory at first, need "),
                    "{reason}"
                );
                refused += 1;
            }
        }
        drop(hoard);
    }
    assert!(made > 10 && refused > 10, "{made} made, {refused} refused");
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.engine.arena().free, before);
}

/// Guests that write until the arena is full, again and again, beside others that have the pages that they
/// need and must not notice; starts between them are made or refused, and nothing is lost.
fn floods(bench: &mut Bench) {
    const NEIGHBOURS: u16 = 4;
    let wat = r#"(module (memory 4)
        (func $flood (local $at i32)
            (loop $next (i32.store8 (local.get $at) (i32.const 1))
                (local.set $at (i32.add (local.get $at) (i32.const 512))) (br $next)))
        (func $sum (result i32) (local $at i32) (local $sum i32)
            (loop $next
                (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31))
                    (i32.load (local.get $at))))
                (i32.store (local.get $at) (local.get $sum))
                (br_if $next (i32.lt_u
                    (local.tee $at (i32.add (local.get $at) (i32.const 4))) (i32.const 8192))))
            (local.get $sum))
        (func (export "main") (param $rounds i32) (result i32) (local $sum i32)
            (if (i32.eqz (local.get $rounds)) (then (call $flood)))
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 8192))
            (loop $next (local.set $sum (call $sum))
                (br_if $next (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))
            (local.get $sum)))"#;
    let before = bench.engine.arena();
    bench.load(0, wat).unwrap();
    let rounds = [Value::I32(300)];
    bench.spawn(0, &rounds, LIMITS);
    let alone = bench.exit();
    assert_eq!(alone.usage.pages, 8);

    for slot in 0..NEIGHBOURS {
        bench.spawn(slot, &rounds, LIMITS);
    }
    // They have their pages.
    while (0..NEIGHBOURS).any(|slot| bench.usage(slot).pages < 8) {
        thread::sleep(Duration::from_millis(1));
    }
    let (mut ended, mut full, mut flooding) = (0, 0, SLOTS as u16 - NEIGHBOURS);
    for slot in NEIGHBOURS..SLOTS as u16 {
        bench.spawn(slot, &[Value::I32(0)], LIMITS);
    }
    while ended < NEIGHBOURS {
        let exit = bench.exit();
        if exit.slot.0 < NEIGHBOURS {
            assert_eq!(exit.result, alone.result);
            let (usage, expected) = (exit.usage, alone.usage);
            assert_eq!((usage.work, usage.pages), (expected.work, expected.pages));
            ended += 1;
            continue;
        }
        let text = trap(&exit);
        assert!(text.starts_with("out of memory: page "), "{text}");
        full += 1;
        // It has no room, or it floods anew.
        let args = [Value::I32(0)];
        if let Err(refused) = bench.call(exit.slot.0, "main", &args, LIMITS, TaskData::NONE) {
            assert!(refused.starts_with("out of memory: "), "{refused}");
            flooding -= 1;
        }
    }
    assert!(full > 20, "{full} floods");
    for slot in NEIGHBOURS..SLOTS as u16 {
        bench.engine.interrupt(Slot(slot));
    }
    for _ in 0..flooding {
        drop(bench.exit());
    }
    bench.engine.unload(ModuleId(0));
    let after = bench.engine.arena();
    assert_eq!((after.free, after.pages), (before.free, before.pages));
}

/// Blocks of the agent's own, beside those of modules and runs.
fn buffers(bench: &mut Bench) {
    let before = bench.free();
    let mut buffer = bench.engine.allocate(100).unwrap();
    assert_eq!(buffer[..], [0; 100]);
    buffer.fill(1);
    bench.engine.resize(&mut buffer, 150).unwrap();
    assert_eq!(buffer[..], [[1; 100].as_slice(), &[0; 50]].concat());
    let free = bench.free();
    let error = bench.engine.resize(&mut buffer, before).unwrap_err();
    let expected = format!("{before} bytes asked, {free} free");
    assert_eq!(error.to_string(), expected);
    assert_eq!(bench.engine.allocate(before).unwrap_err(), error);
    assert_eq!(buffer.len(), 150);
    drop(buffer);
    assert_eq!(bench.free(), before);
}

/// A task for which there is no room is refused, with the same words wherever the arena ends, and
/// leaves nothing behind.
fn holes(bench: &mut Bench) {
    let quick = r#"(module (func (export "main") (result i32) (i32.const 7)))"#;
    let before = bench.free();
    bench.load(0, quick).unwrap();
    let mut refusals = 0;
    for left in (0..4000).step_by(8) {
        let mut taken = Vec::new();
        let mut hole = bench.engine.allocate(left.max(1)).unwrap();
        for len in [1000, 100, 4] {
            while let Ok(buffer) = bench.engine.allocate(len) {
                taken.push(buffer);
            }
        }
        drop(std::mem::replace(&mut hole, taken.pop().unwrap()));
        let free = bench.free();
        match bench.call(0, "main", &[], LIMITS, TaskData::NONE) {
            Ok(()) => {
                drop(taken);
                assert_eq!(bench.exit().result, Ok(Some(Value::I32(7))));
            }
            Err(reason) => {
                let is_known = ["memory", "asked", "room"]
                    .iter()
                    .any(|w| reason.contains(w));
                assert!(is_known, "{reason}");
                assert_eq!(bench.free(), free);
                refusals += 1;
            }
        }
    }
    assert!((10..400).contains(&refusals), "{refusals}");
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

/// A task takes what the engine says, to the byte, while it lives.
fn needs(bench: &mut Bench) {
    let quiet = r#"(module (memory 1) (global (mut i32) (i32.const 1))
        (func (export "main") (loop (br 0))))"#;
    let speaks = r#"(module (import "env" "sleep_ms" (func $sleep (param i32))) (memory 1)
        (func (export "main") (loop (call $sleep (i32.const 1)) (br 0))))"#;
    let initialised = r#"(module (func $s (loop (br 0))) (start $s) (func (export "main")))"#;
    let limits = LIMITS;
    for wat in [quiet, speaks, initialised] {
        bench.load(0, wat).unwrap();
        let needs = bench.engine.instance_needs(ModuleId(0), &limits).unwrap();
        let before = bench.free();
        let mut data = TaskData::NONE;
        data.caps = Caps::parse("time").unwrap();
        bench.spawn_with(0, &[], limits, data);
        assert_eq!(before - bench.free(), needs.total());
        thread::sleep(Duration::from_millis(5));
        let second = bench.engine.instance_needs(ModuleId(0), &limits).unwrap();
        assert_eq!((second.own, second.shared), (needs.own, 0));
        let used = bench.usage(0).memory;
        bench.engine.interrupt(Slot(0));
        let exit = bench.exit();
        if wat != initialised {
            assert_eq!((used, exit.usage.memory), (needs.own, needs.own));
        }
        drop(exit);
        assert_eq!(bench.free(), before);
        bench.engine.unload(ModuleId(0));
    }
}

fn refusals(bench: &mut Bench) {
    let import = r#"(module (import "env" "foo" (func)) (func (export "main")))"#;
    let error = bench.load(0, import).unwrap_err();
    assert!(error.contains("env") && error.contains("foo"), "{error}");
    let other = r#"(module (import "env" "get_proplet_id" (func (param i64) (result i32))))"#;
    assert!(bench.load(0, other).is_err());
    bench.load(0, "(module (func (export \"main\")))").unwrap();
    let missing = bench.engine.params(ModuleId(0), "other");
    assert_eq!(missing, Ok(None));
    bench.engine.unload(ModuleId(0));
}
