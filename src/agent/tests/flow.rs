//! Commands that come faster than their answers go, come again, or do not end.

use super::*;

/// A start that is refused: it names no module.
fn bad(id: &str) -> Json {
    json!({"id": id, "name": "x", "proplet_id": ID})
}

#[test]
fn a_flood_is_answered_once_each_and_in_order() {
    let mut bench = Bench::online();
    bench.start(quiet("runs"));
    let ids: Vec<String> = (0..500).map(|n| format!("bad{n}")).collect();
    for id in &ids {
        bench.start(bad(id));
        let outbox = &bench.agent.supervisor.outbox;
        assert!(outbox.room() >= 4, "half of it is for results");
    }
    assert_eq!(bench.broker.unacknowledged.len(), RECEIVE_MAXIMUM);
    bench.exit(0, Ok(Some(Value::I32(7))));
    let results = bench.results_until(60_000);
    let seen: Vec<_> = results
        .iter()
        .map(|r| r["task_id"].as_str().unwrap())
        .collect();
    assert_eq!(
        seen.iter().position(|id| *id == "runs"),
        Some(12),
        "before all the others"
    );
    let refused: Vec<_> = seen.into_iter().filter(|id| *id != "runs").collect();
    assert_eq!(refused, ids);
    assert!(bench.broker.unacknowledged.is_empty());
}

#[test]
fn a_start_behind_a_flood_is_read_when_its_turn_comes() {
    let mut bench = Bench::online();
    for n in 0..100 {
        bench.start(bad(&format!("bad{n}")));
    }
    bench.start(task("last"));
    assert_eq!(bench.agent.status().running, 0);
    bench.run_until(10_000);
    assert_eq!(bench.agent.status().running, 1);
}

#[test]
fn heartbeats_go_on_while_commands_wait() {
    let mut bench = Bench::online();
    for n in 0..100 {
        bench.start(bad(&format!("bad{n}")));
    }
    // Nothing is acknowledged by the broker, so nothing by the proplet.
    let mut beats = 0;
    for second in 1..=60 {
        bench.at(second * 1000);
        while let Some((publication, topic, _)) = bench.poll() {
            if topic.ends_with("/alive") {
                beats += 1;
                bench.handle(Event::Published(publication.token, Delivery::Done));
            }
        }
    }
    assert!(beats >= 14, "{beats}");
    assert_eq!(bench.broker.queued.len(), 100 - 4 - RECEIVE_MAXIMUM);
}

#[test]
fn at_qos_0_an_answer_without_room_is_lost_and_others_are_not() {
    let mut bench = Bench::online();
    for n in 0..10 {
        bench.handle(Event::Message {
            topic: "m/t/c/c/control/manager/start",
            payload: bad(&format!("bad{n}")).to_string().as_bytes(),
        });
    }
    assert_eq!(bench.results_until(2000).len(), 4, "half of the outbox");
}

#[test]
fn a_stop_of_a_deployment_is_answered_through_a_full_outbox() {
    let mut bench = Bench::online();
    bench.start(with(task("a"), json!({"latent": true})));
    let deployed = bench.agent.status().deployed;
    fill_outbox(&mut bench);
    bench.send("control/manager/stop", json!({"id": "a"}));
    assert_eq!((deployed, bench.agent.status().deployed), (1, 0));
    assert_eq!(bench.broker.unacknowledged.len(), 1);
    bench.handle(Event::Connected);
    let results = bench.results_until(2000);
    let of: Vec<_> = results.iter().filter(|r| r["task_id"] == "a").collect();
    assert_eq!(of, [&failure("a", "task stopped")]);
    assert!(bench.broker.unacknowledged.is_empty());
}

#[test]
fn a_deployment_that_fails_while_the_outbox_is_full_is_told_later() {
    let mut bench = Bench::online();
    let image = json!({"latent": true, "file": null, "image_url": "app/a"});
    bench.start(with(task("a"), image));
    fill_outbox(&mut bench);
    bench.chunk("app/a", 0, 1, b"nonsense");
    // It is the same start until the answer is delivered.
    bench.start(with(task("a"), json!({"latent": true})));
    assert_eq!(bench.agent.status().deployed, 0);
    bench.handle(Event::Connected);
    let results = bench.results_until(2000);
    let of: Vec<_> = results.iter().filter(|r| r["task_id"] == "a").collect();
    assert!(of.len() == 1 && of[0]["error"] != "", "{results:?}");
    assert!(bench.arena_is_free());
}

#[test]
fn a_daemon_whose_module_comes_while_the_outbox_is_full_succeeds_later() {
    let mut bench = Bench::online();
    let image = json!({"daemon": true, "file": null, "image_url": "app/a"});
    bench.start(with(task("a"), image));
    fill_outbox(&mut bench);
    bench.chunk("app/a", 0, 1, ADD.as_bytes());
    assert_eq!(bench.agent.status().running, 1);
    bench.handle(Event::Connected);
    let results = bench.results_until(2000);
    assert_eq!(results.iter().filter(|r| **r == result("a", "")).count(), 1);
    assert_eq!(bench.agent.status().running, 1);
}

#[test]
fn a_daemon_that_ends_before_its_success_is_told_has_succeeded() {
    let mut bench = Bench::online();
    fill_outbox(&mut bench);
    bench.start(with(task("a"), json!({"daemon": true})));
    bench.exit(0, Ok(None));
    bench.handle(Event::Connected);
    let results = bench.results_until(2000);
    assert_eq!(results.iter().filter(|r| **r == result("a", "")).count(), 1);
    assert_eq!(bench.agent.status().running, 0);
    assert!(bench.arena_is_free());
}

#[test]
fn a_retained_command_is_not_acted_upon() {
    let mut bench = Bench::online();
    let payload = task("a").to_string();
    let head = MessageHead {
        topic: "m/t/c/c/control/manager/start",
        len: payload.len(),
        qos: Qos::AtLeastOnce,
        is_retained: true,
        is_duplicate: false,
    };
    for event in [
        Event::MessageBegin(head),
        Event::MessageBytes(payload.as_bytes()),
        Event::MessageEnd,
    ] {
        bench.agent.handle(event, bench.now);
    }
    assert!(bench.agent.take_acknowledgement());
    assert_eq!(bench.agent.status().running, 0);
}

#[test]
fn a_message_that_is_cut_off_leaves_nothing_and_comes_again() {
    let mut bench = Bench::online();
    let long = format!("{ADD}{}", " ".repeat(3000));
    bench.broker.is_gone = true;
    bench.start(with(task("a"), json!({"file": file(&long)})));
    bench.lose_broker();
    assert!(bench.arena_is_free());
    bench.find_broker();
    assert_eq!(bench.agent.status().running, 1);
}

#[test]
fn a_message_at_which_three_connections_ended_is_given_up() {
    let mut bench = Bench::online();
    bench.broker.is_gone = true;
    let mut start = task("a");
    start["proplet_id"] = json!(ID);
    bench.start(start);
    for _ in 0..3 {
        bench.lose_broker();
    }
    // The fourth connection ends there, too: it was acknowledged before.
    let command = bench.broker.queued[0].clone();
    bench.deliver(&command, command.payload.len() - 1);
    assert!(bench.agent.take_acknowledgement());
    assert!(!bench.agent.take_acknowledgement());
    bench.agent.handle(Event::MessagesCut, bench.now);
    let results = bench.results_until(2000);
    let reason = "the message was given up: 3 connections have ended while it came in";
    assert_eq!(results, [failure("a", reason)]);
    // One that comes whole at the fourth connection is refused as well, and then begins anew.
    bench.find_broker();
    assert_eq!(bench.results_until(3000), [failure("a", reason)]);
    bench.start(task("a"));
    assert_eq!(bench.agent.status().running, 1);
    assert!(bench.broker.unacknowledged.is_empty());
}

#[test]
fn a_start_that_comes_again_after_its_results_does_not_run_again() {
    let mut bench = Bench::online();
    let again = |bench: &mut Bench, is_duplicate| {
        bench.broker.queued.push_back(Command {
            topic: "m/t/c/c/control/manager/start".into(),
            payload: task("a").to_string().into_bytes(),
            is_duplicate,
        });
        bench.pump();
        bench.agent.status().running
    };
    assert_eq!(again(&mut bench, false), 1);
    bench.exit(0, Ok(None));
    assert_eq!(bench.results_until(2000).len(), 1);
    assert_eq!(again(&mut bench, true), 0);
    for n in 0..63 {
        bench.start(bad(&format!("bad{n}")));
    }
    bench.results_until(60_000);
    assert_eq!(again(&mut bench, true), 0);
    bench.start(bad("one more"));
    bench.results_until(70_000);
    assert_eq!(again(&mut bench, true), 1, "it is not among the last 64");
    bench.exit(0, Ok(None));
    bench.results_until(80_000);
    assert_eq!(again(&mut bench, false), 1, "the manager starts it again");
}

#[test]
fn an_answer_withheld_over_the_end_of_a_connection_is_sent_once() {
    let mut bench = Bench::online();
    for n in 0..20 {
        bench.start(bad(&format!("bad{n}")));
    }
    bench.lose_broker();
    bench.find_broker();
    let results = bench.results_until(20_000);
    assert_eq!(results.len(), 20);
    assert!(bench.broker.unacknowledged.is_empty());
}

#[test]
fn what_is_wrong_with_a_file_is_told_to_its_task_wherever_the_id_stands() {
    let mut bench = Bench::online();
    let wrong = format!(
        r#"{{"file":"{}=A","name":"add","proplet_id":"{ID}","id":"bad"}}"#,
        "A".repeat(2000)
    );
    let large = format!(
        r#"{{"file":"{}","name":"add","proplet_id":"{ID}","id":"large"}}"#,
        "A".repeat(200_000)
    );
    for payload in [wrong, large] {
        bench.broker.queued.push_back(Command {
            topic: "m/t/c/c/control/manager/start".into(),
            payload: payload.into_bytes(),
            is_duplicate: false,
        });
        bench.pump();
    }
    let results = bench.results_until(2000);
    assert_eq!(results[0]["task_id"], "bad");
    let error = results[0]["error"].as_str().unwrap();
    assert!(error.starts_with("field \"file\": "), "{error}");
    assert_eq!(
        results[1],
        failure(
            "large",
            "out of memory: the module's bytes need 150000 bytes, 9992 are free"
        )
    );
    assert!(bench.arena_is_free());
}

/// A module that is loaded needs no room for its bytes again.
#[test]
fn a_module_that_is_loaded_runs_though_its_bytes_find_no_room() {
    let mut bench = Bench::online();
    let long = format!("{ADD}{}", " ".repeat(6000));
    for id in ["a", "b"] {
        bench.start(with(task(id), json!({"file": file(&long)})));
    }
    let status = bench.agent.status();
    assert_eq!((status.running, status.parses), (2, 1));
}

/// Results, by the second at which they are sent.
fn told(out: &[(u64, String, Json)]) -> Vec<(u64, &str)> {
    let results = out
        .iter()
        .filter(|(_, topic, _)| topic.ends_with("/results"));
    results
        .map(|(ms, _, body)| (ms / 1000, body["task_id"].as_str().unwrap()))
        .collect()
}

#[test]
fn results_that_end_while_the_manager_is_away_are_told_when_it_is_back() {
    let mut bench = Bench::online();
    for id in ["a", "b"] {
        bench.start(quiet(id));
    }
    bench.broker.is_deserted = true;
    bench.exit(0, Ok(Some(Value::I32(1))));
    bench.exit(1, Ok(Some(Value::I32(2))));
    let out = bench.run_until(50_000);
    assert_eq!(
        told(&out),
        [(1, "a"), (1, "b"), (3, "a"), (7, "a"), (15, "a"), (31, "a")]
    );
    // The manager is back, and says so by a command.
    bench.broker.is_deserted = false;
    bench.start(quiet("c"));
    assert_eq!(told(&bench.run_until(51_000)), [(50, "a"), (50, "b")]);
    assert_eq!(told(&bench.run_until(200_000)), []);
}

#[test]
fn results_that_nobody_heard_are_tried_on_the_next_connection() {
    let mut bench = Bench::online();
    bench.start(quiet("a"));
    bench.broker.is_deserted = true;
    bench.exit(0, Ok(None));
    assert_eq!(told(&bench.run_until(40_000)).last(), Some(&(31, "a")));
    bench.handle(Event::Disconnected);
    assert!(bench.run_until(100_000).is_empty());
    bench.broker.is_deserted = false;
    bench.handle(Event::Connected);
    assert_eq!(told(&bench.run_until(100_500)), [(100, "a")]);
}

#[test]
fn a_start_of_a_task_whose_results_nobody_heard_runs_it_again() {
    let mut bench = Bench::online();
    bench.start(quiet("a"));
    bench.broker.is_deserted = true;
    bench.exit(0, Ok(Some(Value::I32(1))));
    bench.run_until(2_000);
    bench.broker.is_deserted = false;
    bench.start(quiet("a"));
    assert_eq!(bench.agent.status().running, 1);
    bench.exit(0, Ok(Some(Value::I32(2))));
    assert_eq!(bench.results_until(60_000), [result("a", "2")]);
}

#[test]
fn a_discovery_message_that_nobody_heard_is_sent_again() {
    let mut bench = Bench::offline();
    bench.broker.is_deserted = true;
    bench.handle(Event::Connected);
    let seconds = |out: Vec<(u64, String, Json)>| -> Vec<u64> {
        let created = out
            .iter()
            .filter(|(_, topic, _)| topic.ends_with("/create"));
        created.map(|(ms, ..)| ms / 1000).collect()
    };
    assert_eq!(seconds(bench.run_until(20_000)), [0, 2, 6, 14]);
    bench.broker.is_deserted = false;
    assert_eq!(seconds(bench.run_until(200_000)), [30]);
}

#[test]
fn a_shutdown_does_not_wait_for_a_listener() {
    let mut bench = Bench::online();
    bench.start(quiet("a"));
    bench.broker.is_deserted = true;
    bench.handle(Event::Shutdown);
    bench.exit_interrupted();
    bench.run_until(1_500);
    assert!(bench.agent.is_drained());
}

/// A proplet with results of "a" of 400 bytes that reached nobody.
fn with_unheard_results() -> Bench {
    let mut bench = Bench::online();
    bench.start(quiet("a"));
    let trap = bench.agent.engine().trap(&"x".repeat(400));
    bench.exit(0, Err(trap));
    bench.broker.is_deserted = true;
    bench.run_until(1_500);
    bench
}

/// Results that wait for a listener keep no task from its memory.
#[test]
fn results_that_nobody_heard_give_way_to_a_task_that_needs_their_memory() {
    let mut bench = with_unheard_results();
    assert!(bench.agent.supervisor.outbox.holds_results("a"));
    // All of the arena that is free, but for less than a task needs.
    let mut held = Vec::new();
    while let Ok(block) = bench.agent.engine().allocate(100) {
        held.push(block);
    }
    bench.start(quiet("b"));
    assert!(!bench.agent.supervisor.outbox.holds_results("a"));
}

#[test]
fn results_that_nobody_heard_do_not_give_way_in_vain() {
    let mut bench = with_unheard_results();
    let supervisor = &mut bench.agent.supervisor;
    let more = supervisor.engine.arena().total + 1;
    supervisor
        .make_room(more, crate::memory::Purpose::Record)
        .unwrap_err();
    assert!(supervisor.outbox.holds_results("a"));
}

/// Results that wait for a listener keep no module from its memory, either.
#[test]
fn results_that_nobody_heard_give_way_to_a_module() {
    let mut bench = with_unheard_results();
    // A module that fits, were it not for the results.
    let mut held = Vec::new();
    while bench.agent.engine().arena().free > LOAD + INSTANCE + 30 {
        held.push(bench.agent.engine().allocate(10).unwrap());
    }
    bench.start(quiet("b"));
    assert_eq!(bench.agent.status().running, 1);
    assert!(!bench.agent.supervisor.outbox.holds_results("a"));
}
