//! As many guests as there are numbers for.

use proplet::{
    engine::{Engine as _, Failure, ModuleId, Slot, Value},
    time::Duration,
};
use proplet_testing::engine::{Bench, LIMITS, bench_of};
use std::{
    sync::{MutexGuard, atomic::Ordering},
    thread,
};

const SLOTS: u16 = 65_534;

fn bench() -> MutexGuard<'static, Bench> {
    bench_of(SLOTS.into(), 160 << 20)
}

#[test]
fn ten_thousand_loops_are_all_preempted_and_stopped() {
    const LOOPS: u16 = 10_000;
    let mut bench = bench();
    let before = bench.free();
    bench
        .load(0, r#"(module (func (export "main") (loop (br 0))))"#)
        .unwrap();
    for slot in 0..LOOPS {
        bench.spawn(slot, &[], LIMITS);
    }
    let platform = bench.workers.platform();
    let slices = || platform.slices.load(Ordering::SeqCst);
    // From when all are there on, each has its turns, and none more than one more than another.
    let first = slices();
    while slices() < first + 3 * usize::from(LOOPS) {
        thread::sleep(Duration::from_millis(10));
    }
    let held = platform.hold_step();
    let work: Vec<u64> = (0..LOOPS).map(|slot| bench.usage(slot).work).collect();
    drop(held);
    assert!(work.iter().all(|work| *work > 0));
    for n in 0..200_u16 {
        let slot = Slot(n * 47);
        let before = slices();
        bench.engine.interrupt(slot);
        let is_sure = slices() <= before + 1;
        while bench.engine.exited().is_none() {
            std::hint::spin_loop();
        }
        let took = loop {
            let notified = platform.notified.load(Ordering::SeqCst);
            if let Some(took) = notified.checked_sub(before) {
                break took;
            }
        };
        assert!(!is_sure || took <= 2, "{took} slices");
        let exit = bench.engine.take_exit(slot).unwrap();
        assert_eq!(exit.result, Err(Failure::Interrupted));
        bench.spawn(slot.0, &[], LIMITS);
    }
    bench.stop_all(0..LOOPS);
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn all_slots_that_there_may_be() {
    let mut bench = bench();
    let before = bench.free();
    let wat = r#"(module (import "env" "sleep_ms" (func $sleep (param i32)))
        (func (export "main") (param i32) (call $sleep (local.get 0))))"#;
    bench.load(0, wat).unwrap();
    let mut data = bench.data("time", &[], &[]);
    for slot in 0..SLOTS {
        let next = bench.data("time", &[], &[]);
        let data = std::mem::replace(&mut data, next);
        let ms = if slot % 2 == 0 {
            -1
        } else {
            i32::from(slot % 500)
        };
        bench.spawn_with(slot, &[Value::I32(ms)], LIMITS, data);
    }
    drop(data);
    for slot in (0..SLOTS).rev() {
        if slot % 2 == 0 {
            bench.engine.interrupt(Slot(slot));
        }
    }
    let mut ended = vec![false; SLOTS.into()];
    for _ in 0..SLOTS {
        let exit = bench.exit();
        let stopped = exit.slot.0.is_multiple_of(2);
        assert_eq!(exit.result == Err(Failure::Interrupted), stopped);
        assert!(!std::mem::replace(&mut ended[exit.slot.index()], true));
    }
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}
