//! Messages of guests and for them, and results that they publish.

use super::*;

fn running() -> Bench {
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench
}

fn add(topic: &str) -> Option<Subscription> {
    let topic = TopicName::try_from(format!("m/t/c/c/{topic}").as_str()).unwrap();
    Some(Subscription::Add(topic))
}

#[test]
fn what_a_guest_says_is_the_result() {
    let mut bench = running();
    let said = "a \"quoted\" word";
    let engine = bench.agent.engine_mut();
    engine.exit_with(Slot(0), Ok(Some(Value::I32(1))), Some(said));
    assert_eq!(bench.results_until(1300), [result("a", said)]);
    assert!(bench.arena_is_free(), "the letter gives it back");
}

#[test]
fn a_trap_is_told_whatever_was_said_before() {
    let mut bench = running();
    let trap = Err(bench.agent.engine().trap("unreachable"));
    bench
        .agent
        .engine_mut()
        .exit_with(Slot(0), trap, Some("all is well"));
    assert_eq!(bench.results_until(1300), [failure("a", "unreachable")]);
    assert!(bench.arena_is_free());
}

#[test]
fn a_result_that_the_link_refuses_is_an_error_result() {
    let mut bench = running();
    let engine = bench.agent.engine_mut();
    engine.exit_with(Slot(0), Ok(None), Some("too large for the link"));
    bench.at(1300);
    let (publication, topic, _) = loop {
        let next = bench.poll().unwrap();
        if next.1.ends_with("/results") {
            break next;
        }
    };
    assert_eq!(topic, "control/proplet/results");
    bench.handle(Event::Published(publication.token, Delivery::TooLarge));
    assert!(bench.arena_is_free());
    assert_eq!(
        bench.results_until(7000),
        [failure(
            "a",
            "the result of 22 bytes is too large for the link or the broker"
        )]
    );
}

#[test]
fn a_result_that_the_broker_refuses_is_tried_whole_before_it_is_an_error() {
    let refuse = |bench: &mut Bench, ms: u64| loop {
        bench.at(ms);
        let (publication, topic, body) = bench.poll().unwrap();
        let delivery = match topic.ends_with("/results") {
            true => Delivery::Refused,
            false => Delivery::Done,
        };
        bench.handle(Event::Published(publication.token, delivery));
        if delivery == Delivery::Refused {
            break body;
        }
    };
    let mut bench = running();
    let engine = bench.agent.engine_mut();
    engine.exit_with(Slot(0), Ok(None), Some("said"));
    assert_eq!(refuse(&mut bench, 1300)["results"], "said");
    assert_eq!(refuse(&mut bench, 6300)["results"], "said");
    assert!(bench.arena_is_free());
    assert_eq!(
        bench.results_until(11_300),
        [failure(
            "a",
            "the result of 4 bytes was refused by the broker"
        )]
    );
}

#[test]
fn messages_go_out_below_the_channel_and_survive_the_task() {
    let mut bench = running();
    bench.handle(Event::Disconnected);
    bench
        .agent
        .engine_mut()
        .publish(Slot(0), "sensors/1", br#"{"t":20}"#);
    bench.handle(Event::Tick);
    bench.exit(0, Ok(Some(Value::I32(42))));
    bench.handle(Event::Connected);
    let out = bench.run_until(1300);
    let said: Vec<_> = out.iter().filter(|(_, t, _)| t == "sensors/1").collect();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].2, json!({"t": 20}));
    assert!(bench.arena_is_free());
}

#[test]
fn guests_fill_half_of_the_outbox_and_results_have_the_rest() {
    let mut bench = running();
    bench.handle(Event::Disconnected);
    for n in 0..20 {
        bench
            .agent
            .engine_mut()
            .publish(Slot(0), &format!("t/{n}"), b"1");
    }
    bench.handle(Event::Tick);
    assert_eq!(bench.agent.supervisor.outbox.room(), 4);
    bench.handle(Event::Connected);
    let mut said = Vec::new();
    for ms in 1..10 {
        said.extend(
            bench
                .run_until(1000 + ms)
                .into_iter()
                .map(|(_, topic, _)| topic),
        );
        bench.handle(Event::Tick);
    }
    let said: Vec<_> = said.iter().filter(|t| t.starts_with("t/")).collect();
    let all: Vec<_> = (0..20).map(|n| format!("t/{n}")).collect();
    assert_eq!(said, all.iter().collect::<Vec<_>>(), "in order, none lost");
}

#[test]
fn the_last_word_of_a_guest_goes_before_its_result() {
    // As many as the outbox has room for, fewer than guests may fill, and more.
    for count in [8, 3, 12] {
        let mut bench = running();
        bench.handle(Event::Disconnected);
        let engine = bench.agent.engine_mut();
        for n in 0..count {
            engine.publish(Slot(0), &format!("t/{n}"), b"1");
        }
        bench.exit(0, Ok(Some(Value::I32(42))));
        bench.handle(Event::Connected);
        let out = bench.run_until(3000);
        let topics = out.iter().map(|(_, topic, _)| topic.as_str());
        let said: Vec<_> = topics
            .filter(|t| t.starts_with("t/") || t.ends_with("results"))
            .collect();
        let mut all: Vec<_> = (0..count).map(|n| format!("t/{n}")).collect();
        all.push("control/proplet/results".into());
        assert_eq!(said, all);
        assert!(bench.arena_is_free());
    }
}

#[test]
fn what_guests_say_offline_leaves_room_in_the_arena() {
    let mut bench = running();
    bench.handle(Event::Disconnected);
    for n in 0..5 {
        let engine = bench.agent.engine_mut();
        engine.publish(Slot(0), &format!("t/{n}"), format!("{n:900}").as_bytes());
    }
    bench.handle(Event::Tick);
    // Of the arena's 10,000 bytes a quarter is full with the third.
    assert_eq!(bench.agent.supervisor.outbox.room(), 5);
    bench.handle(Event::Connected);
    let mut said = 0;
    for ms in 1..5 {
        let out = bench.run_until(1000 + ms);
        said += out.iter().filter(|(_, t, _)| t.starts_with("t/")).count();
        bench.handle(Event::Tick);
    }
    assert_eq!(said, 5);
}

#[test]
fn a_topic_of_a_guest_fits_behind_any_prefix() {
    let id: &str = "x".repeat(64).leak();
    let mut bench = Bench::with_config(Config {
        proplet_id: ID,
        tenant: id,
        channel: id,
        ..Config::DEFAULT
    });
    bench.handle(Event::Connected);
    bench.handle(Event::Message {
        topic: &format!("m/{id}/c/{id}/control/manager/start"),
        payload: task("a").to_string().as_bytes(),
    });
    bench.drain();
    let said = "t".repeat(crate::wire::GUEST_TOPIC_MAX);
    bench.agent.engine_mut().publish(Slot(0), &said, b"1");
    bench.handle(Event::Tick);
    let out = bench.drain();
    assert!(
        out.iter()
            .any(|(topic, _)| *topic == format!("m/{id}/c/{id}/{said}")),
        "{out:?}"
    );
}

#[test]
fn a_guest_hears_a_message_once() {
    let mut bench = running();
    for filter in ["news/+", "news/#", "news/a", "other/#"] {
        bench.agent.engine_mut().subscribe(Slot(0), filter);
    }
    bench.handle(Event::Tick);
    bench.handle(Event::Message {
        topic: "m/t/c/c/news/a",
        payload: b"1",
    });
    assert_eq!(bench.agent.engine().delivered.len(), 1);
}

#[test]
fn who_listens_too_is_subscribed_when_the_first_goes_before_the_link_asks() {
    let mut bench = running();
    bench.start(task("b"));
    bench.handle(Event::Disconnected);
    for slot in [0, 1] {
        bench.agent.engine_mut().subscribe(Slot(slot), "news");
    }
    bench.handle(Event::Tick);
    bench.exit(0, Ok(None));
    // The broker has kept the session: no NewSession.
    bench.handle(Event::Connected);
    assert_eq!(bench.agent.poll_subscribe(), add("news"));
    assert_eq!(bench.agent.poll_subscribe(), None);
}

#[test]
fn a_subscription_lasts_as_long_as_its_task() {
    let mut bench = running();
    bench.agent.engine_mut().subscribe(Slot(0), "news/+");
    bench.handle(Event::Tick);
    assert_eq!(bench.agent.poll_subscribe(), add("news/+"));
    assert_eq!(bench.agent.poll_subscribe(), None);
    for (topic, payload) in [("news/a", "1"), ("news/a/b", "2"), ("other", "3")] {
        let topic = format!("m/t/c/c/{topic}");
        bench.handle(Event::Message {
            topic: &topic,
            payload: payload.as_bytes(),
        });
    }
    let delivered = &bench.agent.engine().delivered;
    assert_eq!(delivered, &[(Slot(0), "news/a".into(), b"1".to_vec())]);

    bench.handle(Event::Disconnected);
    assert_eq!(
        bench.agent.poll_subscribe(),
        None,
        "not without a connection"
    );
    bench.handle(Event::Connected);
    assert_eq!(
        bench.agent.poll_subscribe(),
        None,
        "the session is the same"
    );
    bench.handle(Event::NewSession);
    assert_eq!(bench.agent.poll_subscribe(), add("news/+"));

    bench.exit(0, Ok(None));
    let topic = TopicName::try_from("m/t/c/c/news/+").unwrap();
    assert_eq!(
        bench.agent.poll_subscribe(),
        Some(Subscription::Remove(topic))
    );
    assert_eq!(bench.agent.poll_subscribe(), None);
    bench.run_until(1300);
    assert!(bench.arena_is_free());
}

#[test]
fn two_tasks_share_a_subscription() {
    let mut bench = running();
    bench.start(task("b"));
    for slot in [0, 1, 1] {
        bench.agent.engine_mut().subscribe(Slot(slot), "news");
    }
    bench.handle(Event::Tick);
    assert_eq!(bench.agent.poll_subscribe(), add("news"));
    assert_eq!(bench.agent.poll_subscribe(), None);
    bench.handle(Event::Message {
        topic: "m/t/c/c/news",
        payload: b"1",
    });
    assert_eq!(bench.agent.engine().delivered.len(), 2);
    bench.exit(0, Ok(None));
    assert_eq!(
        bench.agent.poll_subscribe(),
        None,
        "the other one listens on"
    );
    bench.handle(Event::Message {
        topic: "m/t/c/c/news",
        payload: b"2",
    });
    assert_eq!(bench.agent.engine().delivered.len(), 3);
    bench.exit(1, Ok(None));
    assert!(matches!(
        bench.agent.poll_subscribe(),
        Some(Subscription::Remove(_))
    ));
}

fn boot(store: &FakeStore) -> Bench {
    let store = Box::leak(Box::new(store.clone()));
    let mut bench = Bench::with_store(config(), Some(store));
    bench.agent.restore(bench.now);
    bench
}

#[test]
fn a_note_of_the_session_that_is_damaged_is_made_anew_of_all_that_is_in_force() {
    let store = FakeStore::default();
    let mut bench = boot(&store);
    bench.handle(Event::NewSession);
    bench.handle(Event::Connected);
    bench.start(task("a"));
    for topic in ["one", "two"] {
        bench.agent.engine_mut().subscribe(Slot(0), topic);
        bench.handle(Event::Tick);
        assert_eq!(bench.agent.poll_subscribe(), add(topic));
        if topic == "one" {
            store.kept().notes[0].1 = std::vec![9];
        }
    }
    let mut bench = boot(&store);
    bench.handle(Event::Connected);
    let stale = std::iter::from_fn(|| bench.agent.poll_subscribe());
    assert_eq!(stale.count(), 2);
}

/// The note says to what the session may be subscribed: an earlier boot may have ended that, or not begun it.
#[test]
fn a_filter_of_an_earlier_boot_is_subscribed_to_again_by_a_guest() {
    let store = FakeStore::default();
    let mut bench = boot(&store);
    bench.handle(Event::NewSession);
    bench.handle(Event::Connected);
    bench.start(task("a"));
    bench.agent.engine_mut().subscribe(Slot(0), "news");
    bench.handle(Event::Tick);
    assert_eq!(bench.agent.poll_subscribe(), add("news"));
    bench.exit(0, Ok(None));
    let ended = bench.agent.poll_subscribe();
    assert!(matches!(ended, Some(Subscription::Remove(_))));

    // A command that has waited for the reboot's end comes before the link asks.
    let mut bench = boot(&store);
    bench.handle(Event::Connected);
    bench.start(task("b"));
    bench.agent.engine_mut().subscribe(Slot(0), "news");
    bench.handle(Event::Tick);
    assert_eq!(bench.agent.poll_subscribe(), add("news"));
    assert_eq!(bench.agent.poll_subscribe(), None);
}

#[test]
fn subscriptions_are_bounded() {
    let mut bench = running();
    for n in 0..20 {
        bench
            .agent
            .engine_mut()
            .subscribe(Slot(0), &format!("t/{n}"));
    }
    bench.handle(Event::Tick);
    let count = std::iter::from_fn(|| bench.agent.poll_subscribe()).count();
    assert_eq!(count, SUBSCRIPTIONS_MAX);
    bench.exit(0, Ok(None));
    bench.handle(Event::NewSession);
    assert_eq!(
        bench.agent.poll_subscribe(),
        None,
        "nobody is left to listen"
    );
    bench.run_until(1300);
    assert!(bench.arena_is_free());
}

#[test]
fn a_task_has_the_capabilities_that_it_asks_for() {
    let mut bench = Bench::online();
    bench.start(with(task("a"), json!({"env": {"PROPLET_CAPS": "time"}})));
    bench.start(task("b"));
    use crate::task::caps::{Cap, Caps};
    assert!(bench.agent.engine().run(Slot(0)).data.caps.has(Cap::Time));
    assert_eq!(bench.agent.engine().run(Slot(1)).data.caps, Caps::NONE);
}
