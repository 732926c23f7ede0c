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
