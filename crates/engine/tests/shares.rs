//! Shares of guests that owe work, room at each level of the arena, and slots that are used again at once.

use proplet::{
    engine::{
        Call, Engine as _, Failure, Limits, ModuleId, Preemption, Slot, TaskData, Value, Weight,
    },
    time::Duration,
};
use proplet_testing::engine::{Bench, LIMITS, bench_of, trap};
use std::{sync::MutexGuard, thread, time::Instant};

const SLOTS: usize = 512;
const ARENA: usize = 8 << 20;

const ENDLESS: &str = r#"(module (func (export "main") (loop (br 0))))"#;

/// Measures as often as it is told, and then spins.
const MEASURES: &str = r#"(module
    (import "env" "sensor_read" (func $read (param i32 i32 i32) (result i32)))
    (memory 1 1)
    (func (export "main") (param i32)
        (loop
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 8)))
            (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
        (loop (br 0))))"#;

fn bench() -> MutexGuard<'static, Bench> {
    let bench = bench_of(SLOTS, ARENA);
    bench.workers.set_slice_ms(10);
    bench
}

fn weighed(weight: u8) -> Limits {
    Limits {
        weight: Weight(weight),
        ..LIMITS
    }
}

/// Work of slots from a moment on, until they have done so much together.
fn shares(bench: &Bench, slots: &[u16], least: u64) -> Vec<f64> {
    let platform = bench.workers.platform();
    let work = || {
        let held = platform.hold_step();
        let work: Vec<u64> = slots.iter().map(|slot| bench.usage(*slot).work).collect();
        drop(held);
        work
    };
    let before = work();
    let began = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(50));
        let done: Vec<u64> = work().iter().zip(&before).map(|(a, b)| a - b).collect();
        let all: u64 = done.iter().sum();
        if all >= least || began.elapsed() > Duration::from_secs(20) {
            return done.iter().map(|work| *work as f64 / all as f64).collect();
        }
    }
}

fn stop_all(bench: &mut Bench, slots: &[u16]) {
    for slot in slots {
        bench.engine.interrupt(Slot(*slot));
    }
    for _ in slots {
        bench.exit();
    }
    bench.engine.unload(ModuleId(0));
    bench.engine.unload(ModuleId(1));
}

fn spawn_of(bench: &mut Bench, module: u16, slot: u16, args: &[Value], limits: Limits, caps: &str) {
    let data = bench.data(caps, &[], &[]);
    let call = Call {
        module: ModuleId(module),
        export: "main",
        args,
        limits,
    };
    bench.engine.spawn(Slot(slot), &call, data).unwrap();
}

/// One that has measured owes work. It must pay that, and not have whole slices without end.
#[test]
fn one_of_little_weight_that_owes_work_has_no_more_than_its_share() {
    let mut bench = bench();
    bench.workers.set_slice(1000);
    bench.load(0, ENDLESS).unwrap();
    bench.load(1, MEASURES).unwrap();
    for slot in 0..2 {
        bench.spawn(slot, &[], weighed(10));
    }
    spawn_of(&mut bench, 1, 2, &[Value::I32(1)], weighed(1), "sensor");
    thread::sleep(Duration::from_millis(100));
    let shares = shares(&bench, &[0, 1, 2], 20_000_000);
    stop_all(&mut bench, &[0, 1, 2]);
    assert!(
        (shares[2] * 21.0 - 1.0).abs() < 0.05,
        "1 of 21 is due, it has {:.2} of 21",
        shares[2] * 21.0
    );
}

/// By work, the same guests, but the smallest slice that Kconfig allows.
#[test]
fn shares_with_small_slices_are_those_of_the_weights() {
    let mut bench = bench();
    for slice in [1, 5, 16, 100] {
        bench.workers.set_slice(slice);
        bench.load(0, ENDLESS).unwrap();
        let weights = [1, 2, 4, 8];
        for (slot, weight) in (0..).zip(weights) {
            bench.spawn(slot, &[], weighed(weight));
        }
        thread::sleep(Duration::from_millis(50));
        let shares = shares(&bench, &[0, 1, 2, 3], 1_000_000);
        stop_all(&mut bench, &[0, 1, 2, 3]);
        for (share, weight) in shares.iter().zip(weights) {
            let error = (share * 15.0 / f64::from(weight) - 1.0).abs();
            println!("slice {slice} weight {weight}: {:.3}", share * 15.0);
            assert!(error < 0.02, "slice {slice}, weight {weight}: {error:.3}");
        }
    }
}

/// All weights there are, at the usual slices.
#[test]
fn weights_one_and_a_hundred() {
    let mut bench = bench();
    bench.workers.set_slice(2000);
    bench.load(0, ENDLESS).unwrap();
    bench.spawn(0, &[], weighed(1));
    bench.spawn(1, &[], weighed(100));
    thread::sleep(Duration::from_millis(50));
    let shares = shares(&bench, &[0, 1], 40_000_000);
    stop_all(&mut bench, &[0, 1]);
    let error = (shares[0] * 101.0 - 1.0).abs();
    assert!(error < 0.02, "{error}");
}

/// A slice of work takes longer than the turn of the smallest: it owes time, which it is to pay.
#[test]
fn shares_of_time_where_a_slice_is_longer_than_a_turn() {
    shares_of_time(2_000_000, 10);
}

/// The shortest turns that Kconfig and the command line allow.
#[test]
fn shares_of_time_with_turns_of_a_millisecond() {
    shares_of_time(100, 1);
}

fn shares_of_time(slice: u32, slice_ms: u32) {
    let mut bench = bench();
    bench.workers.set_preemption(Preemption::Time);
    bench.workers.set_slice(slice);
    bench.workers.set_slice_ms(slice_ms);
    bench.load(0, ENDLESS).unwrap();
    let weights = [1, 2, 4, 8];
    for (slot, weight) in (0..).zip(weights) {
        bench.spawn(slot, &[], weighed(weight));
    }
    thread::sleep(Duration::from_millis(3000));
    let cpu: Vec<f64> = (0..4)
        .map(|slot| bench.usage(slot).cpu.as_secs_f64())
        .collect();
    stop_all(&mut bench, &[0, 1, 2, 3]);
    let all: f64 = cpu.iter().sum();
    for (cpu, weight) in cpu.iter().zip(weights) {
        println!("weight {weight}: {:.2} of 15", cpu / all * 15.0);
    }
    for (cpu, weight) in cpu.iter().zip(weights) {
        let error = (cpu / all * 15.0 / f64::from(weight) - 1.0).abs();
        assert!(error < 0.1, "weight {weight}: {error:.3}");
    }
}

/// Modules of all parts: imports, a start function, initialisers, data, tables.
const PARTS: &str = r#"(module
    (import "env" "now_ms" (func $now (result i64)))
    (memory 1 2) (data (i32.const 0) "data")
    (table 10 funcref) (elem (i32.const 0) $start $init)
    (global $g (mut i32) (i32.const 7))
    (func $start (global.set $g (i32.const 8)))
    (func $init (export "_initialize") (drop (call $now)))
    (start $start)
    (func (export "main") (param i32) (result i32) (global.get $g)))"#;

/// The arena filled to each level: nothing is lost by a refusal, and what fits by the need fits.
#[test]
fn a_spawn_at_each_level_of_the_arena() {
    let mut bench = bench();
    for (wat, caps) in [(ENDLESS, ""), (MEASURES, "sensor"), (PARTS, "time")] {
        let before = bench.free();
        bench.load(0, wat).unwrap();
        let has_param = wat != ENDLESS;
        let args: &[Value] = if has_param { &[Value::I32(1)] } else { &[] };
        let needs = bench
            .engine
            .instance_needs(ModuleId(0), &LIMITS)
            .unwrap()
            .total();
        let loaded = bench.free();
        let (mut refused, mut made) = (0, 0);
        let mut left = 0;
        let mut odd = std::collections::BTreeSet::new();
        while made < 20 {
            // All but about `left` bytes in one piece.
            let mut hoard = vec![bench.engine.allocate(loaded - left - 4096).unwrap()];
            for len in [256, 64, 16, 8] {
                while bench.free() > left + len {
                    match bench.engine.allocate(len) {
                        Ok(taken) => hoard.push(taken),
                        Err(_) => break,
                    }
                }
            }
            let full = bench.free();
            let mut data = TaskData::NONE;
            data.caps = proplet::task::caps::Caps::parse(caps).unwrap();
            match bench.call(0, "main", args, LIMITS, data) {
                Err(reason) => {
                    refused += 1;
                    assert_eq!(bench.free(), full, "{left}: {reason}");
                    if !reason.starts_with("out of memory: ") {
                        odd.insert(reason.to_string());
                    }
                    let reserve = bench.engine.arena().reserve;
                    assert!(
                        full < needs + reserve + 64,
                        "{full} are free, {needs} needed: {reason}"
                    );
                }
                Ok(()) => {
                    made += 1;
                    bench.engine.interrupt(Slot(0));
                    bench.exit();
                    assert_eq!(bench.free(), full, "{left}");
                }
            }
            drop(hoard);
            assert_eq!(bench.free(), loaded);
            left += 24;
        }
        println!("{needs} needed, {refused} refused, made from {left}");
        assert!(refused > 10);
        assert!(odd.is_empty(), "an arena without room is called {odd:?}");
        bench.engine.unload(ModuleId(0));
        assert_eq!(bench.free(), before);
    }
}

/// In a slot that is used again at once, nothing of the one before.
#[test]
fn a_slot_used_again_at_once_has_nothing_of_the_one_before() {
    let mut bench = bench();
    let before = bench.free();
    let wat = r#"(module
        (import "env" "publish" (func $publish (param i32 i32 i32 i32) (result i32)))
        (memory 1 1) (data (i32.const 0) "topic")
        (func (export "main") (param i32) (result i32)
            (if (local.get 0) (then
                (drop (call $publish (i32.const 0) (i32.const 5) (i32.const 0) (i32.const 100)))))
            (local.get 0)))"#;
    bench.load(0, wat).unwrap();
    for n in 0..3000 {
        let says = n % 2;
        let data = bench.data("publish", &[], &[]);
        bench.spawn_with(3, &[Value::I32(says)], LIMITS, data);
        if n % 5 == 0 {
            bench.engine.interrupt(Slot(3));
        }
        let exit = bench.exit();
        assert!(
            matches!(exit.result, Ok(Some(Value::I32(v))) if v == says)
                || exit.result == Err(Failure::Interrupted)
        );
        assert!(bench.engine.poll_message().is_none());
    }
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn no_watch_is_deceived_by_the_wrap_of_the_clock() {
    let mut bench = bench();
    let platform = bench.workers.platform();
    bench.load(0, ENDLESS).unwrap();
    let wrap = Duration::from_millis(1 << 32);
    for begins in [
        wrap - Duration::from_millis(1),
        wrap,
        wrap + Duration::from_millis(1),
    ] {
        platform.set_clock(Some(begins));
        bench.spawn(0, &[], LIMITS);
        let held = platform.hold_step();
        for later in [0, 1, 2, 999, 60_000] {
            let now = begins + Duration::from_millis(later);
            let step = bench.workers.longest_step(now).as_millis() as u64;
            assert!(step.abs_diff(later) <= 1, "{begins:?} + {later}: {step}");
        }
        drop(held);
        bench.engine.interrupt(Slot(0));
        bench.exit();
    }
    bench.engine.unload(ModuleId(0));
    let _ = trap;
}
