//! Tasks that a restart interrupts.

use super::*;

const INTERRUPTED: &str = "interrupted by a restart of the proplet";

/// A device that boots with what `store` holds, and is not connected yet.
fn boot_with(store: &FakeStore, config: Config<'static>, room: Room) -> Bench {
    let store = Box::leak(Box::new(store.clone()));
    let mut bench = Bench::with_room(config, Some(store), room);
    bench.agent.restore(bench.now);
    bench
}

/// A device that has room for many tasks and is connected, with all that it has to say acknowledged.
fn boot(store: &FakeStore) -> (Bench, Vec<Json>) {
    let mut bench = boot_with(store, config(), LARGE);
    bench.handle(Event::Connected);
    let told = results(&mut bench);
    (bench, told)
}

const LARGE: Room = Room {
    slots: 64,
    outbox: 64,
    arena: 100_000,
    ..Room::SMALL
};

/// Results that are due now, each acknowledged.
fn results(bench: &mut Bench) -> Vec<Json> {
    let out = bench.drain().into_iter();
    out.filter(|(t, _)| t.ends_with("/results"))
        .map(|(_, body)| body)
        .collect()
}

fn ids(results: &[Json]) -> Vec<&str> {
    let interrupted = |body: &Json| {
        assert_eq!(body["error"], INTERRUPTED, "{body}");
        assert_eq!(body["proplet_id"], ID);
    };
    results.iter().for_each(interrupted);
    results
        .iter()
        .map(|body| body["task_id"].as_str().unwrap())
        .collect()
}

/// The next results to publish; what comes before them is acknowledged.
fn poll_results(bench: &mut Bench) -> (Publication, Json) {
    loop {
        let (publication, topic, body) = bench.poll().expect("there are results");
        if topic.ends_with("/results") {
            return (publication, body);
        }
        bench.handle(Event::Published(publication.token, Delivery::Done));
    }
}

fn notes(store: &FakeStore) -> usize {
    store.kept().notes.len()
}

#[test]
fn a_task_that_has_run_for_a_second_is_reported_after_a_kill() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    bench.at(5000).start(task("a"));
    bench.run_until(5999);
    assert_eq!(store.kept().note_writes, 0);
    assert!(boot(&store).1.is_empty(), "it ran for 0.999 s");
    assert_eq!(
        bench.agent.next_deadline(bench.now),
        Some(Instant::from_millis(6000))
    );
    bench.at(6000);
    assert_eq!(notes(&store), 1);
    bench.run_until(60_000);
    assert_eq!(store.kept().note_writes, 1, "it is noted once");

    let (_, told) = boot(&store);
    assert_eq!(ids(&told), ["a"]);
    assert_eq!(notes(&store), 0);
    assert!(boot(&store).1.is_empty(), "it was told");
}

#[test]
fn a_task_is_in_its_note_until_its_results_are_delivered() {
    for fate in [None, Some(Delivery::Lost), Some(Delivery::Done)] {
        let store = FakeStore::default();
        let (mut bench, _) = boot(&store);
        bench.start(task("a"));
        bench.at(1500);
        bench.exit(0, Ok(None));
        let (publication, body) = poll_results(&mut bench);
        assert_eq!(body["error"], Json::Null);
        if let Some(fate) = fate {
            bench.handle(Event::Published(publication.token, fate));
        }
        let (_, told) = boot(&store);
        let expected: &[&str] = if fate == Some(Delivery::Done) {
            &[]
        } else {
            &["a"]
        };
        assert_eq!(ids(&told), expected, "{fate:?}");
    }
}

#[test]
fn results_that_are_given_up_take_the_note_with_them() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    bench.start(task("a"));
    bench.at(1500);
    bench.drain();
    bench.exit(0, Ok(None));
    for attempt in 0..3 {
        bench.at(10_000 * (attempt + 1));
        while let Some((publication, topic, _)) = bench.poll() {
            let fate = match topic.ends_with("/results") {
                true => Delivery::Refused,
                false => Delivery::Done,
            };
            bench.handle(Event::Published(publication.token, fate));
        }
    }
    assert_eq!(notes(&store), 0);
}

/// The report is owed until it is delivered, however many boots that takes.
#[test]
fn a_kill_before_the_report_is_delivered_has_it_reported_again() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    bench.start(task("a"));
    bench.at(1000);
    for _ in 0..3 {
        let mut bench = boot_with(&store, config(), LARGE);
        bench.handle(Event::Connected);
        let topics = core::iter::from_fn(|| bench.poll()).map(|(_, topic, _)| topic);
        assert_eq!(topics.filter(|t| t.ends_with("/results")).count(), 1);
    }
    assert_eq!(ids(&boot(&store).1), ["a"]);
    assert!(boot(&store).1.is_empty());
}

#[test]
fn daemons_deployments_and_invocations_are_not_noted_and_all_other_tasks_are() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    bench.start(with(task("daemon"), json!({"daemon": true})));
    bench.start(with(task("latent"), json!({"latent": true})));
    bench.send(
        "control/manager/invoke",
        json!({"id": "latent", "invocation_id": "i", "proplet_id": ID, "inputs": null, "broadcast": false}),
    );
    bench.run_until(5000);
    assert_eq!(notes(&store), 0);
    assert_eq!(bench.agent.status().running, 2);

    // They wait, for the module and for the model.
    bench.start(with(
        task("fetch"),
        json!({"file": null, "image_url": "http://host/x"}),
    ));
    bench.start(with(
        task("round"),
        json!({"env": {"ROUND_ID": "r", "MODEL_URI": "m_v1", "MODEL_REGISTRY_URL": "http://host", "MANAGER_COORDINATOR_URL": "http://host"}}),
    ));
    bench.run_until(6000);
    let (_, told) = boot(&store);
    assert_eq!(ids(&told), ["fetch", "round"]);
}

/// Starts as many tasks, with ids as managers make them, and lets a second pass.
fn run_tasks(bench: &mut Bench, count: usize) -> Vec<String> {
    let ids: Vec<_> = (0..count)
        .map(|n| format!("{n:08}-0000-4000-8000-000000000000"))
        .collect();
    for id in &ids {
        bench.start(task(id));
    }
    let now = bench.now.as_millis();
    bench.run_until(now + 1000);
    assert_eq!(bench.agent.status().running, count);
    ids
}

#[test]
fn tasks_that_are_noted_together_are_written_together() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    let all = run_tasks(&mut bench, 30);
    assert_eq!(store.kept().note_writes, 3, "13, 13 and 4");
    for slot in 0..30 {
        bench.exit(slot, Ok(None));
    }
    assert_eq!(results(&mut bench).len(), all.len());
    assert_eq!(store.kept().note_writes, 33);
    assert_eq!(notes(&store), 0);
}

/// Reports wait in the store for room in the outbox, of which they leave half to others.
#[test]
fn more_reports_than_the_outbox_has_room_for_follow_one_another() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    let all = run_tasks(&mut bench, 30);

    let mut bench = boot_with(&store, config(), Room::SMALL);
    bench.handle(Event::Connected);
    assert_eq!(bench.agent.supervisor.outbox.room(), 4);
    // Others find room meanwhile, and the store is not read for nothing.
    bench.start(task("new"));
    bench.exit(0, Ok(None));
    let mut told = Vec::new();
    for _ in 0..100 {
        let now = bench.now.as_millis() + 500;
        bench.at(now);
        while let Some((publication, topic, body)) = bench.poll() {
            if topic.ends_with("/results") {
                told.push(body);
            }
            // That one's results and last sample.
            assert!(bench.agent.supervisor.outbox.room() >= 2);
            bench.handle(Event::Published(publication.token, Delivery::Done));
        }
    }
    let (new, old): (Vec<_>, Vec<_>) = told.into_iter().partition(|body| body["task_id"] == "new");
    assert_eq!(new.len(), 1);
    let mut old = ids(&old);
    old.sort_unstable();
    assert_eq!(old, all);
    assert_eq!(notes(&store), 0);
}

#[test]
fn a_start_that_comes_again_is_answered_by_the_report_and_not_run() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    let all = run_tasks(&mut bench, 20);

    for is_duplicate in [false, true] {
        let mut bench = boot_with(&store, config(), Room::SMALL);
        bench.handle(Event::Connected);
        // One whose report is posted, and one whose report is not.
        let outbox = &bench.agent.supervisor.outbox;
        assert!(outbox.holds_results(&all[0]) && !outbox.holds_results(&all[1]));
        for id in [&all[0], &all[1]] {
            bench.broker.queued.push_back(Command {
                topic: "m/t/c/c/control/manager/start".into(),
                payload: task(id).to_string().into_bytes(),
                is_duplicate,
            });
            bench.pump();
        }
        assert!(bench.broker.unacknowledged.is_empty());
        assert_eq!(bench.agent.status().running, 0);
    }
    let (mut bench, told) = boot(&store);
    assert_eq!(told.len(), 20);
    // From then on it is a start as any other.
    bench.start(task(&all[1]));
    assert_eq!(bench.agent.status().running, 1);
    bench.run_until(2000);
    assert_eq!(ids(&boot(&store).1), [&all[1]]);
}

#[test]
fn a_stopped_task_may_be_started_anew_before_its_report_is_delivered() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    bench.start(task("a"));
    bench.at(1000);
    let mut bench = boot_with(&store, config(), LARGE);
    bench.handle(Event::Connected);
    bench.send("control/manager/stop", json!({"id": "a", "proplet_id": ID}));
    bench.start(task("a"));
    assert_eq!(bench.agent.status().running, 1);
    bench.at(1000);
    assert_eq!(ids(&results(&mut bench)), ["a"], "of the first one");
    assert_eq!(ids(&boot(&store).1), ["a"], "of the second one");
}

#[test]
fn tasks_that_find_no_room_in_the_notes_run_on() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    let all = run_tasks(&mut bench, 60);
    assert_eq!(store.kept().note_writes, 3);
    let (_, told) = boot(&store);
    assert_eq!(ids(&told).len(), 39, "13 in each of 3 notes");
    assert_eq!(store.kept().notes, []);
    for slot in 0..60 {
        bench.exit(slot, Ok(None));
    }
    assert_eq!(results(&mut bench).len(), all.len());
}

#[test]
fn a_store_that_fails_costs_reports_only() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    store.kept().fails = true;
    run_tasks(&mut bench, 2);
    store.kept().fails = false;
    assert_eq!(notes(&store), 0);
    bench.exit(0, Ok(None));
    assert_eq!(results(&mut bench).len(), 1);

    // What can't be removed is told again after the next restart.
    bench.start(task("a"));
    let now = bench.now.as_millis();
    bench.run_until(now + 1000);
    store.kept().fails = true;
    bench.exit(0, Ok(None));
    assert_eq!(results(&mut bench).len(), 1);
    let (mut bench, told) = boot(&store);
    assert_eq!(ids(&told), ["a"]);
    bench.start(task("a"));
    assert_eq!(bench.agent.status().running, 1, "it was told in this boot");
    store.kept().fails = false;
    assert_eq!(ids(&boot(&store).1), ["a"]);
    assert_eq!(notes(&store), 0);
}

#[test]
fn nothing_is_noted_without_a_store_or_if_a_setting_says_so() {
    let store = FakeStore::default();
    let off = Config {
        note_after: Duration::ZERO,
        ..config()
    };
    let mut bench = boot_with(&store, off, LARGE);
    bench.handle(Event::Connected);
    run_tasks(&mut bench, 2);
    assert_eq!(store.kept().note_writes, 0);
    let mut bench = Bench::online();
    bench.start(task("a"));
    assert_eq!(bench.agent.supervisor.tasks.next_deadline(), None);
    // What was noted before is told all the same.
    let (mut bench, _) = boot(&store);
    bench.start(task("a"));
    bench.at(1000);
    let mut bench = boot_with(&store, off, LARGE);
    bench.handle(Event::Connected);
    assert_eq!(ids(&results(&mut bench)), ["a"]);
}

#[test]
fn a_shutdown_leaves_those_whose_results_were_not_delivered() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    let all = run_tasks(&mut bench, 3);
    bench.handle(Event::Shutdown);
    bench.exit_interrupted();
    let (publication, body) = poll_results(&mut bench);
    assert_eq!(body["error"], "proplet is shutting down");
    bench.handle(Event::Published(publication.token, Delivery::Done));
    let (_, told) = boot(&store);
    let mut told = ids(&told);
    told.sort_unstable();
    let left = all.iter().filter(|id| body["task_id"] != ***id);
    assert_eq!(told, left.collect::<Vec<_>>());
    assert_eq!(notes(&store), 0);
}

/// Kills the proplet after each of its steps, over and over: each task that had run for a second has results, and
/// none is told as interrupted after its results were delivered.
#[test]
fn a_kill_at_any_moment_leaves_no_task_of_a_second_untold() {
    for kill in 0..40 {
        let store = FakeStore::default();
        let mut steps = 0;
        let mut killed = || {
            steps += 1;
            steps > kill
        };
        let (mut bench, _) = boot(&store);
        let mut noted: Vec<String> = Vec::new();
        let mut told: Vec<String> = Vec::new();
        'life: for n in 0..10_u64 {
            let id = format!("task{n}");
            bench.start(task(&id));
            let now = bench.now.as_millis();
            bench.at(now + 1000);
            noted.push(id);
            if killed() {
                break;
            }
            if n % 3 > 0 {
                let slot = bench.agent.engine().running[0].slot;
                bench.exit(slot.0, Ok(None));
                if killed() {
                    break;
                }
                while let Some((publication, topic, body)) = bench.poll() {
                    if killed() {
                        break 'life;
                    }
                    bench.handle(Event::Published(publication.token, Delivery::Done));
                    if topic.ends_with("/results") {
                        told.push(body["task_id"].as_str().unwrap().into());
                    }
                }
            }
        }
        // The next boot is killed, too, in the midst of its reports.
        let mut bench = boot_with(&store, config(), LARGE);
        bench.handle(Event::Connected);
        for _ in 0..kill % 5 {
            let Some((publication, topic, body)) = bench.poll() else {
                break;
            };
            bench.handle(Event::Published(publication.token, Delivery::Done));
            if topic.ends_with("/results") {
                let id = body["task_id"].as_str().unwrap().to_string();
                assert!(!told.contains(&id), "{id} is told twice");
                told.push(id);
            }
        }
        for id in ids(&boot(&store).1) {
            assert!(!told.contains(&id.to_string()), "{id} is told twice");
            told.push(id.into());
        }
        told.sort();
        noted.sort();
        assert_eq!(told, noted, "killed after {kill} steps");
        assert_eq!(notes(&store), 0);
    }
}

/// The note goes with results that are given up, too: they would be denied after the next restart.
#[test]
fn results_that_nobody_heard_are_in_their_note_until_they_are_given_up() {
    let store = FakeStore::default();
    let (mut bench, _) = boot(&store);
    for id in ["a", "b"] {
        bench.start(quiet(id));
    }
    bench.at(1000);
    bench.broker.is_deserted = true;
    bench.exit(0, Ok(None));
    bench.exit(1, Ok(None));
    bench.run_until(10_000);
    // As long as they may be told, a restart has them reported.
    assert_eq!(ids(&boot(&store.copy()).1), ["a", "b"]);
    bench.start(quiet("a"));
    assert_eq!(ids(&boot(&store.copy()).1), ["b"], "a runs anew");
    bench.at(11_000);
    assert_eq!(ids(&boot(&store.copy()).1), ["b", "a"]);
    let wait = config().listener_wait.as_millis() as u64;
    bench.run_until(20_000 + wait);
    assert_eq!(ids(&boot(&store.copy()).1), ["a"], "b is given up");
}

#[test]
fn results_that_give_way_leave_their_notes() {
    let store = FakeStore::default();
    let mut bench = boot_with(&store, config(), Room { outbox: 3, ..LARGE });
    bench.handle(Event::Connected);
    bench.drain();
    let all = run_tasks(&mut bench, 40);
    bench.broker.is_deserted = true;
    for slot in 0..40 {
        bench.exit(slot, Ok(None));
        let ms = bench.now.as_millis() + 1;
        bench.run_until(ms);
    }
    let told = boot(&store).1;
    let mut told = ids(&told);
    told.sort_unstable();
    assert_eq!(told, all[37..]);
}
