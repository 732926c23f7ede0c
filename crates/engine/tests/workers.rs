//! Four workers, and slots that are used again at once: nothing of one task is another's.

mod any;

use any::{ANY, STATES};
use proplet::{
    engine::{Engine as _, Failure, Limits, Message, ModuleId, Preemption, Slot, Value, Weight},
    time::Duration,
};
use proplet_testing::engine::{Bench, LIMITS, STUCK, bench_of};
use std::{sync::Once, thread, time::Instant};

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
    let mut next = any::random();
    let mut runs: [Option<(u32, i32, bool)>; GUESTS as usize] = [None; GUESTS as usize];
    let (mut name, mut ends) = (1, [0; STATES as usize]);
    let heard = |runs: &[Option<(u32, i32, bool)>], slot: Slot, message: Message<wamr::Buffer>| {
        let Message::Publish { bytes, topic_len } = message else {
            panic!("it does not subscribe");
        };
        let payload: [u8; 100] = bytes[topic_len..].try_into().unwrap();
        let name = i32::from_le_bytes(payload[..4].try_into().unwrap());
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
                let sensor = if next(2) == 0 { 0 } else { STUCK };
                let limits = Limits {
                    weight: Weight(1 + next(100) as u8),
                    ..LIMITS
                };
                let data = any::data(&mut bench);
                name += 1;
                bench.spawn_with(slot.0, &any::args(what, sensor, name), limits, data);
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
                            assert!(was_stopped, "{what}: it was not stopped")
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
