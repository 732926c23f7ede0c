//! Thousands of guests on one worker: their ends, their order and their shares.

mod any;

use any::{ANY, PUBLISHES_ONCE, SLEEPS, STATES};
use proplet::{
    engine::{Engine as _, Exit, Failure, Limits, Message, ModuleId, Slot, Value, Weight},
    time::Duration,
};
use proplet_testing::engine::{Bench, LIMITS, STUCK, bench_of, trap};
use std::{
    sync::{MutexGuard, atomic::Ordering},
    thread,
    time::Instant,
};
use wamr::Buffer;

const SLOTS: usize = 4096;
const ARENA: usize = 16 << 20;

const ENDLESS: &str = r#"(module (func (export "main") (loop (br 0))))"#;
const QUICK: &str = r#"(module (func (export "main") (result i32) (i32.const 7)))"#;

fn bench() -> MutexGuard<'static, Bench> {
    bench_of(SLOTS, ARENA)
}

#[test]
fn thousands_end_at_one_instant() {
    let mut bench = bench();
    let before = bench.free();
    let wat = r#"(module (import "env" "sleep_ms" (func $sleep (param i32)))
        (import "env" "now_ms" (func $now (result i64)))
        (func (export "main") (param i64) (result i32)
            (call $sleep (i32.wrap_i64 (i64.sub (local.get 0) (call $now))))
            (i32.const 1)))"#;
    bench.load(0, wat).unwrap();
    let slots = 4000;
    let platform = bench.workers.platform();
    let until = proplet_engine::Platform::now(platform) + Duration::from_millis(1500);
    let args = [Value::I64(until.as_millis() as i64)];
    for slot in 0..slots {
        let data = bench.data("time", &[], &[]);
        bench.spawn_with(slot, &args, LIMITS, data);
    }
    assert!(
        proplet_engine::Platform::now(platform) < until,
        "all are there before"
    );
    let mut ended = vec![false; slots.into()];
    for _ in 0..slots {
        let exit = bench.exit();
        assert_eq!(exit.result, Ok(Some(Value::I32(1))));
        assert!(!std::mem::replace(&mut ended[exit.slot.index()], true));
    }
    assert_eq!(bench.engine.exited(), None);
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn thousands_that_sleep_are_stopped() {
    let mut bench = bench();
    let before = bench.free();
    bench.load(0, ANY).unwrap();
    // As many as the arena holds with 4 KiB of memory each.
    let slots = 2000;
    for slot in 0..slots {
        let data = any::data(&mut bench);
        bench.spawn_with(slot, &any::args(SLEEPS, 0, 9), LIMITS, data);
    }
    bench.stop_all(0..slots);
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

/// Guests come and go next to each other in every state.
#[test]
fn neighbours_are_torn_down_in_every_state() {
    const GUESTS: u32 = 48;
    let mut bench = bench();
    let before = bench.free();
    bench.load(0, ANY).unwrap();
    let mut next = any::random();
    let mut runs = [None; GUESTS as usize];
    let (mut ends, mut stops) = ([0; STATES as usize], 0);
    let mut check = |what: u32, exit: &Exit<Buffer>| {
        let expected = [Err(Failure::Interrupted), Ok(Some(Value::I32(9)))];
        assert!(expected.contains(&exit.result), "{what}: {exit:?}");
        assert_eq!(exit.result.is_ok(), exit.output.is_some());
        assert!(
            what >= PUBLISHES_ONCE || exit.result.is_err(),
            "it has no end"
        );
        ends[what as usize] += 1;
    };
    for step in 0..6000_u32 {
        let slot = Slot::at(next(GUESTS) as usize);
        match (next(8), runs[slot.index()]) {
            (0 | 1, None) => {
                let what = next(STATES);
                let data = any::data(&mut bench);
                bench.spawn_with(slot.0, &any::args(what, 0, 9), LIMITS, data);
                runs[slot.index()] = Some(what);
            }
            (2, _) => {
                bench.engine.interrupt(slot);
                stops += 1;
            }
            (3, _) => drop(bench.engine.poll_message()),
            (4, _) => drop(bench.engine.take_message(slot)),
            (5, _) => bench.engine.deliver(slot, "topic", &[7; 50]),
            (6, Some(what)) => {
                if let Some(exit) = bench.engine.take_exit(slot) {
                    check(what, &exit);
                    runs[slot.index()] = None;
                }
            }
            (7, _) => {
                if let Some(slot) = bench.engine.exited() {
                    assert!(bench.engine.has_exited(slot));
                    let exit = bench.engine.take_exit(slot).unwrap();
                    check(runs[slot.index()].take().unwrap(), &exit);
                }
            }
            _ => assert_eq!(bench.usage(slot.0).memory > 0, runs[slot.index()].is_some()),
        }
        match step % 500 {
            0 => bench.workers.set_slice([1, 7, 1000][next(3) as usize]),
            _ if next(50) == 0 => thread::sleep(Duration::from_micros(300)),
            _ => {}
        }
    }
    for slot in 0..GUESTS as u16 {
        bench.engine.interrupt(Slot(slot));
    }
    while runs.iter().any(Option::is_some) {
        let exit = bench.exit();
        check(runs[exit.slot.index()].take().unwrap(), &exit);
    }
    assert!(
        stops > 100 && ends.iter().all(|count| *count > 10),
        "{ends:?}"
    );
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn who_waits_for_a_measurement_for_ever_is_stopped() {
    let mut bench = bench();
    let before = bench.free();
    let wat = r#"(module (import "env" "sensor_read" (func $read (param i32 i32 i32) (result i32)))
        (memory 1 1)
        (func (export "main") (param i32) (result i64)
            (drop (call $read (local.get 0) (i32.const 0) (i32.const 8)))
            (i64.load (i32.const 8))))"#;
    bench.load(0, wat).unwrap();
    let platform = bench.workers.platform();
    let stuck = platform.stick();
    let spawn = |bench: &mut Bench, slot: u16, sensor: u32| {
        let data = bench.data("sensor", &[], &[]);
        bench.spawn_with(slot, &[Value::I32(sensor as i32)], LIMITS, data);
        let slices = platform.slices.load(Ordering::SeqCst);
        while platform.slices.load(Ordering::SeqCst) == slices && bench.usage(slot).work == 0 {
            thread::yield_now();
        }
    };
    // The board is about the first, and the others are in line for it.
    for (slot, sensor) in [(0, STUCK), (1, STUCK), (2, 0), (3, 0)] {
        spawn(&mut bench, slot, sensor);
        thread::sleep(Duration::from_millis(10));
    }
    for slot in [0, 2] {
        bench.engine.interrupt(Slot(slot));
        let exit = bench.exit();
        assert_eq!(
            (exit.slot, exit.result),
            (Slot(slot), Err(Failure::Interrupted))
        );
    }
    // A measurement for the one that was stopped is not the next one's in its slot.
    spawn(&mut bench, 0, 0);
    assert_eq!(bench.engine.exited(), None);
    drop(stuck);
    let mut results = [(); 3].map(|()| {
        let exit = bench.exit();
        (exit.slot.0, exit.result)
    });
    results.sort_by_key(|(slot, _)| *slot);
    let temperature = || Ok(Some(Value::I64(-1_250_001)));
    assert_eq!(results[0], (0, temperature()));
    assert_eq!(results[1], (1, Ok(Some(Value::I64(9)))));
    assert_eq!(results[2], (3, temperature()));
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn slices_of_one_change_nothing_but_the_time() {
    let mut bench = bench();
    let wat = r#"(module (func (export "main") (param i32) (result i32) (local i32)
        (loop (local.set 1 (i32.add (local.get 1) (local.get 0)))
            (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
        (local.get 1)))"#;
    bench.load(0, wat).unwrap();
    let mut seen = Vec::new();
    for slice in [1, 1000] {
        bench.workers.set_slice(slice);
        for slot in 0..50 {
            bench.spawn(slot, &[Value::I32(100 + i32::from(slot))], LIMITS);
        }
        let mut ends: Vec<_> = (0..50)
            .map(|_| bench.exit())
            .map(|exit| (exit.slot.0, exit.result, exit.usage.work))
            .collect();
        ends.sort_by_key(|(slot, ..)| *slot);
        seen.push(ends);
    }
    assert_eq!(seen[0], seen[1]);
    let sum = |n: i32| n * (n + 1) / 2;
    assert_eq!(seen[0][7], (7, Ok(Some(Value::I32(sum(107)))), 107));
    bench.engine.unload(ModuleId(0));
}

#[test]
fn ten_thousand_rounds_leave_the_arena_as_it_was() {
    let mut bench = bench();
    bench.load(0, QUICK).unwrap();
    bench.load(1, ANY).unwrap();
    let before = bench.free();
    for round in 0..10_000_u32 {
        let slot = (round * 7 % SLOTS as u32) as u16;
        if round % 4 == 0 {
            let data = any::data(&mut bench);
            let call = proplet::engine::Call {
                module: ModuleId(1),
                export: "main",
                args: &any::args(PUBLISHES_ONCE, 0, 9),
                limits: LIMITS,
            };
            bench.engine.spawn(Slot(slot), &call, data).unwrap();
        } else {
            bench.spawn(slot, &[], LIMITS);
        }
        let exited = loop {
            if let Some(slot) = bench.engine.exited() {
                break slot;
            }
            std::hint::spin_loop();
        };
        let exit = bench.engine.take_exit(exited).unwrap();
        assert!(
            matches!(exit.result, Ok(Some(Value::I32(7 | 9)))),
            "{exit:?}"
        );
        drop(exit);
        assert_eq!(bench.free(), before, "round {round}");
    }
    bench.engine.unload(ModuleId(0));
    bench.engine.unload(ModuleId(1));
}

#[test]
fn a_stop_takes_two_slices_at_most() {
    const LOOPS: u16 = 200;
    let mut bench = bench();
    bench.workers.set_slice(20_000);
    bench.load(0, ENDLESS).unwrap();
    for slot in 0..LOOPS {
        bench.spawn(slot, &[], LIMITS);
    }
    let platform = bench.workers.platform();
    let slices = || platform.slices.load(Ordering::SeqCst);
    let (mut longest, mut stops) = (0, 0);
    while stops < 1000 {
        let slot = Slot((stops * 7 % usize::from(LOOPS)) as u16);
        let before = slices();
        bench.engine.interrupt(slot);
        let is_sure = slices() <= before + 1;
        while bench.engine.exited().is_none() {
            std::hint::spin_loop();
        }
        // It is notified of after it is there.
        let took = loop {
            let notified = platform.notified.load(Ordering::SeqCst);
            if let Some(took) = notified.checked_sub(before) {
                break took;
            }
        };
        let exit = bench.engine.take_exit(slot).expect("it alone has ended");
        assert_eq!(exit.result, Err(Failure::Interrupted));
        bench.spawn(slot.0, &[], LIMITS);
        // Where this thread was held up between the two, it counts others' slices.
        if is_sure {
            longest = longest.max(took);
            stops += 1;
        }
    }
    for slot in 0..LOOPS {
        bench.engine.interrupt(Slot(slot));
        bench.exit();
    }
    bench.engine.unload(ModuleId(0));
    assert!(longest <= 2, "{longest} slices");
}

#[test]
fn shares_of_work_are_those_of_the_weights() {
    let mut bench = bench();
    bench.load(0, ENDLESS).unwrap();
    let weights = [1, 2, 4, 8];
    let platform = bench.workers.platform();
    // All are there before the second step of the first.
    let held = platform.hold();
    for slot in 0..16_u16 {
        let limits = Limits {
            weight: Weight(weights[usize::from(slot) % 4]),
            ..LIMITS
        };
        bench.spawn(slot, &[], limits);
    }
    drop(held);
    let work = loop {
        thread::sleep(Duration::from_millis(50));
        let held = platform.hold_step();
        let work: Vec<u64> = (0..16).map(|slot| bench.usage(slot).work).collect();
        drop(held);
        if work.iter().sum::<u64>() > 30_000_000 {
            break work;
        }
    };
    let all: u64 = work.iter().sum();
    for (slot, work) in work.iter().enumerate() {
        let due = f64::from(weights[slot % 4]) / 60.0;
        let error = (*work as f64 / all as f64 / due - 1.0).abs();
        assert!(error <= 0.001, "slot {slot}: {error}");
    }
    for slot in 0..16 {
        bench.engine.interrupt(Slot(slot));
        bench.exit();
    }
    bench.engine.unload(ModuleId(0));
}

#[test]
fn exits_and_messages_come_in_their_order() {
    let mut bench = bench();
    let before = bench.free();
    bench.load(0, ANY).unwrap();
    let order: Vec<u16> = (0..300_u16).map(|n| n * 77 % 300).collect();
    for slot in &order {
        let data = any::data(&mut bench);
        bench.spawn_with(*slot, &any::args(PUBLISHES_ONCE, 0, 9), LIMITS, data);
    }
    while !bench.engine.has_exited(Slot(*order.last().unwrap())) {
        thread::yield_now();
    }
    // From the middle, too.
    let (odd, even): (Vec<u16>, Vec<u16>) = order.iter().partition(|slot| **slot % 2 == 1);
    for slot in odd.iter().rev().skip(100) {
        let said = bench.engine.take_message(Slot(*slot));
        assert!(matches!(said, Some(Message::Publish { topic_len: 5, .. })));
    }
    let left = odd[50..].iter().chain(&even);
    let mut left: Vec<u16> = left.copied().collect();
    left.sort_by_key(|slot| order.iter().position(|s| s == slot));
    let heard: Vec<u16> = std::iter::from_fn(|| bench.engine.poll_message())
        .map(|(slot, _)| slot.0)
        .collect();
    assert_eq!(heard, left);
    for slot in odd.iter().rev() {
        assert!(bench.engine.take_exit(Slot(*slot)).is_some());
        assert!(bench.engine.take_exit(Slot(*slot)).is_none());
    }
    let ends: Vec<u16> = (0..even.len()).map(|_| bench.exit().slot.0).collect();
    assert_eq!(ends, even);
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn a_trap_says_why_though_the_arena_is_full() {
    let mut bench = bench();
    let before = bench.free();
    let wat = r#"(module (import "env" "gpio_read" (func $read (param i32) (result i32)))
        (func (export "main") (result i32)
            (loop (br_if 0 (i32.eqz (call $read (i32.const 0)))))
            (unreachable)))"#;
    bench.load(0, wat).unwrap();
    let platform = bench.workers.platform();
    let mode = proplet_engine::PinMode::Output;
    proplet_engine::Platform::gpio_configure(platform, 0, mode).unwrap();
    let data = bench.data("gpio", &[], &[]);
    bench.spawn_with(0, &[], LIMITS, data);
    let mut hoard = Vec::new();
    for len in [4096, 256, 4] {
        while let Ok(taken) = bench.engine.allocate(len) {
            hoard.push(taken);
        }
    }
    proplet_engine::Platform::gpio_write(platform, 0, true).unwrap();
    assert_eq!(trap(&bench.exit()), "unreachable");
    drop(hoard);
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn long_steps_are_seen_and_counted() {
    let mut bench = bench();
    let platform = bench.workers.platform();
    bench.load(0, ENDLESS).unwrap();
    let second = Duration::from_secs(1);
    platform.set_clock(Some(100 * second));
    let slow = bench.workers.slow_steps();
    // A worker that waits for a guest is in no step.
    let rests = |bench: &Bench| {
        let longest = || bench.workers.longest_step(500 * second);
        let began = Instant::now();
        while longest() > Duration::ZERO && began.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(longest(), Duration::ZERO);
    };
    rests(&bench);
    bench.spawn(0, &[], LIMITS);
    let mut held = platform.hold_step();
    for (passes, expected) in [(second, 0), (3 * second, 1)] {
        let now = proplet_engine::Platform::now(platform) + passes;
        platform.set_clock(Some(now));
        assert_eq!(bench.engine.process().longest_step, passes);
        let steps = || platform.slices.load(Ordering::SeqCst);
        let before = steps();
        drop(held);
        // At the end of the next step that one is counted.
        while steps() == before {
            thread::sleep(Duration::from_millis(1));
        }
        held = platform.hold_step();
        assert_eq!(bench.workers.slow_steps(), slow + expected);
        assert_eq!(bench.workers.longest_step(now), Duration::ZERO);
    }
    drop(held);
    bench.engine.interrupt(Slot(0));
    bench.exit();
    rests(&bench);
    bench.engine.unload(ModuleId(0));
}
