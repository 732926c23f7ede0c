//! Many tasks: what they cost, how they are found, and their ends all at once.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const MANY: Room = Room {
    slots: 4096,
    deployments: 256,
    modules: 64,
    outbox: 64,
    arena: 4 << 20,
};

fn with_room(room: Room) -> Bench {
    online(config(), room)
}

fn ids(results: &[Json]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for result in results {
        let id = result["task_id"].as_str().unwrap();
        *count.entry(id.into()).or_default() += 1;
    }
    count
}

#[test]
fn a_task_that_runs_on_after_its_end_is_told_in_the_metrics() {
    let mut bench = Bench::online();
    bench.start(with(
        task("a"),
        json!({"env": {"PROPLET_DEADLINE_MS": "500"}}),
    ));
    let overdue = |bench: &mut Bench, until: u64| {
        let out = bench.run_until(until);
        let metrics = out
            .into_iter()
            .filter(|(_, topic, _)| topic.ends_with("/metrics"));
        metrics
            .map(|(_, _, body)| body["overdue_tasks"].as_u64())
            .collect::<Vec<_>>()
    };
    // Its deadline is at 1,500 ms, and it is late from 3,500 ms on.
    assert_eq!(
        bench.agent.next_deadline(Instant::from_millis(1000)),
        Some(Instant::from_millis(1100))
    );
    bench.run_until(1500);
    bench.handle(Event::Disconnected);
    let next = |bench: &Bench| bench.agent.next_deadline(bench.now).map(Instant::as_millis);
    assert_eq!(next(&bench), Some(3500));
    bench.at(3500);
    assert_eq!(next(&bench), Some(13_500));
    bench.handle(Event::Connected);
    assert_eq!(overdue(&mut bench, 14_000), [Some(1)]);
    bench.exit_interrupted();
    assert_eq!(overdue(&mut bench, 24_000), [None]);
    assert!(bench.arena_is_free());
}

#[test]
fn one_that_has_ended_and_waits_for_the_outbox_is_not_late() {
    let mut bench = with_room(Room {
        outbox: 1,
        ..Room::SMALL
    });
    for id in ["a", "b"] {
        bench.start(with(
            quiet(id),
            json!({"env": {"PROPLET_DEADLINE_MS": "500"}}),
        ));
    }
    bench.handle(Event::Disconnected);
    bench.exit(0, Ok(None));
    bench.exit(1, Ok(None));
    assert_eq!(bench.agent.tasks().next().unwrap().stage, Stage::Reporting);
    bench.at(60_000);
    assert_eq!(bench.agent.supervisor.tasks.overdue(), 0);
    assert_eq!(bench.agent.next_deadline(bench.now), None);
    bench.handle(Event::Connected);
    assert_eq!(bench.results_until(61_000).len(), 2);
}

#[test]
fn ids_of_one_byte_and_of_the_longest_are_found() {
    let longest = "x".repeat(64);
    let mut bench = Bench::online();
    bench.start(task("1"));
    bench.start(task(&longest));
    // The same again, and one that differs in its last byte alone.
    bench.start(task(&longest));
    bench.start(task(&format!("{}y", &longest[1..])));
    assert_eq!(bench.agent.status().running, 3);
    for id in ["1", &longest] {
        bench.send("control/manager/stop", json!({"id": id, "proplet_id": ID}));
    }
    let stopped = [Slot(0), Slot(1)];
    assert_eq!(bench.agent.engine().interrupted, stopped);
    bench.exit_interrupted();
    assert_eq!(ids(&bench.results_until(2000)).len(), 2);
    bench.exit(2, Ok(None));
    bench.results_until(3000);
    assert!(bench.arena_is_free());
}

#[test]
fn a_stop_of_a_deployment_stops_its_invocations_and_no_others() {
    let mut bench = with_room(MANY);
    for id in ["a", "b"] {
        bench.start(with(task(id), json!({"latent": true})));
    }
    for n in 0..40 {
        let id = if n % 2 == 0 { "a" } else { "b" };
        bench.invoke(&format!("i{n}"), json!({"id": id}));
    }
    // Two of them end before.
    bench.exit(4, Ok(None));
    bench.exit(0, Ok(None));
    bench.send("control/manager/stop", json!({"id": "a", "proplet_id": ID}));
    let interrupted = &bench.agent.engine().interrupted;
    let expected: Vec<_> = (0..20)
        .map(|n| Slot(2 * n))
        .filter(|s| s.0 != 0 && s.0 != 4)
        .collect();
    assert_eq!(*interrupted, expected);
    bench.exit_interrupted();
    bench.run_until(2000);
    assert_eq!(bench.agent.status().running, 20);
    bench.send("control/manager/stop", json!({"id": "b", "proplet_id": ID}));
    bench.exit_interrupted();
    bench.run_until(3000);
    assert!(bench.arena_is_free());
}

#[test]
fn four_thousand_tasks_that_end_at_one_instant_are_all_told() {
    let mut bench = with_room(MANY);
    for n in 0..4096 {
        bench.start(quiet(&format!("task-{n}")));
    }
    assert_eq!(bench.agent.status().running, 4096);
    for slot in 0..4096 {
        bench.agent.engine_mut().exit(Slot(slot), Ok(None));
    }
    let results = ids(&bench.results_until(60_000));
    assert_eq!(results.len(), 4096);
    assert!(results.values().all(|count| *count == 1));
    assert!(bench.arena_is_free());
}

#[test]
fn ten_thousand_rounds_leave_the_arena_as_it_was() {
    let mut bench = Bench::online();
    for n in 0..10_000 {
        bench.start(task(&format!("task-{n}")));
        bench.exit(0, Ok(None));
        bench.now = Instant::from_millis(bench.now.as_millis() + 250);
        assert_eq!(
            bench
                .drain()
                .iter()
                .filter(|(t, _)| t.ends_with("/results"))
                .count(),
            1
        );
        assert!(bench.arena_is_free());
    }
}

/// More starts than the arena and the slots hold, with stops, ends and breaks of the link between
/// them, for an hour.
#[test]
fn an_hour_of_starts_and_stops_answers_each_start_once() {
    let room = Room {
        slots: 64,
        arena: 4000,
        outbox: 8,
        ..MANY
    };
    let (mut bench, mut numbers) = (with_room(room), Numbers(7));
    let (mut started, mut results, mut refused) = (BTreeSet::new(), Vec::new(), 0);
    let end = 3_600_000;
    while bench.now.as_millis() < end {
        match numbers.below(10) {
            0..=3 if bench.agent.supervisor.outbox.room() > 1 => {
                let id = format!("task-{}", started.len());
                let deadline = 1 + numbers.below(5000);
                let env = json!({"PROPLET_DEADLINE_MS": deadline.to_string(), "X": "y".repeat(deadline as usize % 200)});
                bench.start(with(task(&id), json!({"env": env})));
                let runs = bench.agent.supervisor.tasks.find_task(&id).is_some();
                refused += usize::from(!runs);
                started.insert(id);
            }
            4 if !started.is_empty() => {
                let id = format!("task-{}", numbers.below(started.len() as u64));
                bench.send("control/manager/stop", json!({"id": id, "proplet_id": ID}));
            }
            5 | 6 if !bench.agent.engine().running.is_empty() => {
                let index = numbers.below(bench.agent.engine().running.len() as u64) as usize;
                let slot = bench.agent.engine().running[index].slot;
                bench
                    .agent
                    .engine_mut()
                    .interrupted
                    .retain(|of| *of != slot);
                bench.exit(slot.0, Ok(Some(Value::I32(1))));
            }
            7 => bench.exit_interrupted(),
            8 if numbers.below(20) == 0 => {
                bench.handle(Event::Disconnected);
                bench.at(bench.now.as_millis() + numbers.below(3000));
                bench.handle(Event::Connected);
            }
            _ => {}
        }
        results.extend(bench.results_until(bench.now.as_millis() + numbers.below(400)));
    }
    while !bench.agent.engine().running.is_empty() {
        bench.agent.engine_mut().interrupted.clear();
        let slot = bench.agent.engine().running[0].slot;
        bench.exit(slot.0, Ok(None));
        results.extend(bench.results_until(bench.now.as_millis() + 400));
    }
    results.extend(bench.results_until(bench.now.as_millis() + 60_000));
    let told = ids(&results);
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), started);
    assert!(told.values().all(|count| *count == 1));
    assert!(
        started.len() > 5000 && refused > 100,
        "{} starts, {refused} refused",
        started.len()
    );
    assert!(bench.arena_is_free());
    assert_eq!(
        (
            bench.agent.supervisor.tasks.taken(),
            bench.agent.supervisor.tasks.overdue()
        ),
        (0, 0)
    );
}

/// A walk over all slots, modules or deployments would make the larger one a hundred times slower.
#[test]
fn no_event_costs_more_where_there_are_more_slots() {
    let time = |room: Room| {
        let mut bench = with_room(room);
        for n in 0..20 {
            bench.start(with(quiet(&format!("d{n}")), json!({"latent": true})));
        }
        for n in 0..24 {
            bench.start(with(
                quiet(&format!("task-{n}")),
                json!({"env": {"PROPLET_DEADLINE_MS": "3600000"}}),
            ));
        }
        bench.drain();
        let round = |bench: &mut Bench| {
            let began = processor_time();
            for n in 0..200 {
                bench.invoke(&format!("i{n}"), json!({"id": "d7"}));
                bench.exit(24, Ok(None));
                bench.drain();
                let _ = bench.agent.next_deadline(bench.now);
                let _ = (bench.agent.status(), bench.agent.is_drained());
            }
            processor_time() - began
        };
        (0..10).map(|_| round(&mut bench)).min().unwrap()
    };
    let small = time(Room {
        slots: 25,
        deployments: 20,
        modules: 2,
        ..MANY
    });
    let large = time(Room {
        slots: 65_000,
        deployments: 256,
        modules: 65_000,
        ..MANY
    });
    assert!(large < 3 * small, "{large:?} against {small:?}");
}
