//! Four workers, and slots that are used again at once: nothing of one task is another's.

use proplet::{
    engine::{Engine as _, Failure, Limits, Message, ModuleId, Preemption, Slot, Value, Weight},
    time::Duration,
};
use proplet_testing::engine::{Bench, LIMITS, STUCK, bench_of};
use std::{sync::Once, thread, time::Instant};

/// Its parameters say what it does, which sensor it reads, and what it is called.
const ANY: &str = r#"(module
    (import "env" "sleep_ms" (func $sleep (param i32)))
    (import "env" "timer_start" (func $start (param i32)))
    (import "env" "timer_wait" (func $wait (result i32)))
    (import "env" "sensor_read" (func $read (param i32 i32 i32) (result i32)))
    (import "env" "random" (func $random (param i32 i32)))
    (import "env" "publish" (func $publish (param i32 i32 i32 i32) (result i32)))
    (import "env" "publish_result" (func $result (param i32 i32)))
    (memory 1 1) (data (i32.const 0) "topic")
    (func (export "main") (param $what i32) (param $sensor i32) (param $name i32) (result i32)
        (local $n i32)
        (i32.store (i32.const 16) (local.get $name))
        (call $result (i32.const 0) (i32.const 5))
        (block $7 (block $6 (block $5 (block $4 (block $3 (block $2 (block $1 (block $0
            (br_table $0 $1 $2 $3 $4 $5 $6 $7 (local.get $what)))
        (loop (br 0)))
        (call $sleep (i32.const -1)))
        (call $start (i32.const 1)) (loop (drop (call $wait)) (br 0)))
        ;; Measures, and looks whether it is its own measurement.
        (local.set $n (i32.const 20))
        (loop
            (i64.store (i32.const 8) (i64.const 0))
            (drop (call $read (local.get $sensor) (i32.const 0) (i32.const 8)))
            (if (i64.ne (i64.load (i32.const 8))
                    (select (i64.const -1250001) (i64.const 9) (i32.eqz (local.get $sensor))))
                (then (unreachable)))
            (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (return (local.get $name)))
        (loop (call $random (i32.const 64) (i32.const 2048)) (br 0)))
        (loop (drop (call $publish (i32.const 0) (i32.const 5) (i32.const 16) (i32.const 4))) (br 0)))
        (drop (call $publish (i32.const 0) (i32.const 5) (i32.const 16) (i32.const 4)))
        (return (local.get $name)))
        (loop (call $sleep (i32.const 0)) (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 50))))
        (local.get $name)))"#;

const STATES: u32 = 8;

fn with_workers(bench: &Bench, more: usize) {
    static ONCE: Once = Once::new();
    let workers = bench.workers;
    ONCE.call_once(|| {
        for _ in 0..more {
            let (has_begun, begun) = std::sync::mpsc::channel();
            thread::spawn(move || workers.run(|made| has_begun.send(made).unwrap()));
            begun.recv().unwrap().unwrap();
        }
    });
}

fn storm(preemption: Preemption, seconds: u64) {
    const GUESTS: u32 = 24;
    let mut bench = bench_of(64, 4 << 20);
    with_workers(&bench, 3);
    bench.workers.set_preemption(preemption);
    bench.workers.set_slice_ms(1);
    let before = bench.free();
    bench.load(0, ANY).unwrap();
    let mut random = 0x2545_f491_u32;
    let mut next = |below: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % below
    };
    let mut runs: [Option<(u32, i32, bool)>; GUESTS as usize] = [None; GUESTS as usize];
    let (mut name, mut ends) = (1, [0; STATES as usize]);
    let heard = |runs: &[Option<(u32, i32, bool)>], slot: Slot, message: Message<wamr::Buffer>| {
        let Message::Publish { bytes, topic_len } = message else {
            panic!("it does not subscribe");
        };
        let name = i32::from_le_bytes(bytes[topic_len..].try_into().unwrap());
        let (_, expected, _) = runs[slot.index()].expect("it is there");
        assert_eq!(name, expected, "a message of the one before");
    };
    let began = Instant::now();
    let mut ending = false;
    loop {
        let slot = Slot::at(next(GUESTS) as usize);
        match (next(9), runs[slot.index()]) {
            (0 | 1, None) if !ending => {
                let what = next(STATES);
                let sensor = if next(2) == 0 { 0 } else { STUCK as i32 };
                let limits = Limits {
                    weight: Weight(1 + next(100) as u8),
                    ..LIMITS
                };
                let data = bench.data(
                    "time,timer,random,sensor,publish",
                    &["an input"],
                    &[("KEY", "value")],
                );
                name += 1;
                bench.spawn_with(
                    slot.0,
                    &[
                        Value::I32(what as i32),
                        Value::I32(sensor),
                        Value::I32(name),
                    ],
                    limits,
                    data,
                );
                runs[slot.index()] = Some((what, name, false));
            }
            (2, Some(run)) => {
                bench.engine.interrupt(slot);
                runs[slot.index()] = Some((run.0, run.1, true));
            }
            (2, None) => bench.engine.interrupt(slot),
            (3, _) => {
                if let Some((slot, message)) = bench.engine.poll_message() {
                    heard(&runs, slot, message);
                }
            }
            (4, _) => {
                if let Some(message) = bench.engine.take_message(slot) {
                    heard(&runs, slot, message);
                }
            }
            (5, _) => bench.engine.deliver(slot, "topic", &[7; 50]),
            (6 | 7, _) => {
                if let Some(slot) = bench.engine.exited() {
                    let exit = bench.engine.take_exit(slot).unwrap();
                    let (what, name, was_stopped) = runs[slot.index()].take().unwrap();
                    match &exit.result {
                        Ok(value) => assert_eq!(*value, Some(Value::I32(name)), "{what}"),
                        Err(Failure::Interrupted) => {
                            assert!(was_stopped, "{what}: nobody stopped it")
                        }
                        Err(e) => panic!("{what}: {e:?}"),
                    }
                    assert!(exit.result.is_err() || exit.output.is_some());
                    ends[what as usize] += 1;
                }
            }
            _ => {
                let step = bench
                    .workers
                    .longest_step(began.elapsed() + Duration::from_secs(0));
                assert!(step < Duration::from_secs(30), "{step:?}");
            }
        }
        if next(200) == 0 {
            bench.workers.set_slice([1, 7, 100, 1000][next(4) as usize]);
            thread::sleep(Duration::from_micros(300));
        }
        if began.elapsed() > Duration::from_secs(seconds) && !ending {
            ending = true;
            for slot in 0..GUESTS as u16 {
                bench.engine.interrupt(Slot(slot));
                if let Some(run) = &mut runs[usize::from(slot)] {
                    run.2 = true;
                }
            }
        }
        if ending && runs.iter().all(Option::is_none) {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(seconds + 20),
            "stuck: {runs:?}"
        );
    }
    println!("{ends:?}");
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
    assert!(ends.iter().all(|n| *n > 10), "{ends:?}");
}

#[test]
fn a_storm_by_work() {
    storm(Preemption::Fuel, 4);
}

#[test]
fn a_storm_by_time() {
    storm(Preemption::Time, 4);
}
