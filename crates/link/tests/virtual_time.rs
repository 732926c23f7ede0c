//! The link with the agent, against a model of a broker, in virtual time.

mod support;

use ::proplet::{
    agent::Event,
    config::Config,
    engine::Slot,
    time::{Duration, Instant},
    wire::TOPIC_MAX,
};
use embassy_futures::yield_now;
use proplet_link::{
    Buffers, ConnectionError, LinkConfig, LinkState, LinkStatus, SetupError, Signal,
    gate::BUFFER_MIN, run,
};
use proptest::prelude::*;
use std::cell::RefCell;
use support::{
    Cut, Dial, Login, Net, Seen, Signals, after, at, now, parks,
    proplet::{CONFIG, ID, Log, agent, agent_with, result_of, start_json},
    setup::{ALIVE, CHUNKS, CREATE, LINK, RESULTS, START, STOP, Setup, World, is_drained, results},
    simulate, warnings,
};

/// When the results of a task have come as they were first sent.
fn arrivals(net: &Net, id: &str) -> Vec<u64> {
    net.times(|seen| {
        matches!(seen, Seen::Publish { dup: false, .. })
            && result_of(seen).is_some_and(|(of, _)| of == id)
    })
}

/// Tasks of the results that have come, with repetitions.
fn all_results(net: &Net) -> Vec<String> {
    net.with(|w| {
        let seen = w.seen.iter().filter_map(|(_, seen)| result_of(seen));
        seen.map(|(id, _)| id.to_owned()).collect()
    })
}

/// Tasks of results that came marked as repetitions.
fn repeated(net: &Net) -> Vec<String> {
    net.with(|w| {
        let repeats = w
            .seen
            .iter()
            .filter(|(_, s)| matches!(s, Seen::Publish { dup: true, .. }));
        let seen = repeats.filter_map(|(_, seen)| result_of(seen));
        seen.map(|(id, _)| id.to_owned()).collect()
    })
}

/// New sessions.
fn sessions(net: &Net) -> usize {
    net.times(|s| matches!(s, Seen::Connect { present: false, .. }))
        .len()
}

/// At once and then every four seconds, while connected; and one second after a connection that was
/// made before the discovery was acknowledged, at `discovered`.
fn heartbeats(log: &Log, discovered: u64, end: u64) -> Vec<u64> {
    let mut expected = Vec::new();
    for (i, &from) in log.connected.iter().enumerate() {
        let to = log.disconnected.get(i).copied().unwrap_or(end);
        let next = if from <= discovered { 1000 } else { 4000 };
        expected.push(from);
        expected.extend((from + next..to).step_by(4000));
    }
    expected
}

/// When the discovery was acknowledged.
fn discoveries(net: &Net) -> Vec<u64> {
    net.with(|w| {
        let acknowledged = w.acknowledged.iter().filter(|(_, topic)| topic == CREATE);
        acknowledged.map(|(at, _)| *at).collect()
    })
}

/// The heartbeats were sent when they were due, up to `end`.
#[track_caller]
fn assert_heartbeats(net: &Net, log: &Log, end: u64) {
    assert_eq!(net.published(CREATE).len(), 1);
    let expected = heartbeats(log, discoveries(net)[0], end);
    assert_eq!(net.written(ALIVE), expected);
}

#[test]
fn an_hour_with_every_kind_of_fault() {
    let started = std::time::Instant::now();
    let setup = Setup::new();
    setup.world.net.with(|w| {
        w.write_most = 7;
        w.read_most = 5;
        w.lazy = true;
    });
    let deadlines: Vec<u64> = (60_500..3_600_000).step_by(60_000).collect();
    let net = setup.world.net.clone();
    let log = setup.world.log();
    setup.run(async |world| {
        let net = &world.net;
        net.dials(&[
            Dial::Refuse,
            Dial::Never,
            Dial::Mute,
            Dial::MuteAfterConnack,
        ]);
        // A task ends at each of these moments, connected or not.
        at(50_000).await;
        for due in &deadlines {
            world.start_endless(&format!("task-{due}"), Some(due - now()));
        }
        let mut started = 0;
        for minute in 1..60 {
            at(minute * 60_000).await;
            for _ in 0..3 {
                started += 1;
                world.start(&format!("start-{started}"));
            }
            match minute % 10 {
                1 => {
                    // Results are due at 250 ms; those of this minute are in flight then.
                    net.with(|w| w.hold_acks = true);
                    after(400).await;
                    net.cut(Cut::Reset);
                    net.with(|w| w.hold_acks = false);
                }
                2 => {
                    net.dials(&[Dial::Refuse, Dial::Refuse, Dial::Refuse]);
                    net.cut(Cut::Eof);
                }
                3 => net.mute(),
                4 => {
                    net.dials(&[Dial::Never]);
                    net.cut(Cut::Reset);
                }
                5 => {
                    net.dials(&[Dial::Login(0x88), Dial::Mute, Dial::MuteAfterConnack]);
                    net.cut(Cut::Reset);
                }
                6 => net.kick(0x8e),
                7 => {
                    net.with(|w| w.hold_acks = true);
                    after(400).await;
                    net.cut(Cut::Eof);
                    net.forget();
                    net.with(|w| w.hold_acks = false);
                }
                _ => {}
            }
        }
        at(3_600_000).await;
    });

    let log = log.borrow();
    assert_eq!(log.interrupted, deadlines, "none was served late");
    assert_heartbeats(&net, &log, 3_600_000);
    let arrived = net.sent(ALIVE);
    // From there to the next dial nothing arrives, though the link can't know it.
    let (mutes, dials) = (
        net.with(|w| w.mutes.clone()),
        net.times(|s| *s == Seen::Dial),
    );
    let muted = |at: &u64| {
        mutes.iter().any(|from| {
            let to = dials.iter().find(|to| *to > from).unwrap();
            (from..to).contains(&at)
        })
    };
    let mut expected = net.written(ALIVE);
    expected.retain(|at| !muted(at));
    assert_eq!(arrived, expected);
    assert!(
        log.connected.len() > 40,
        "{} connections",
        log.connected.len()
    );

    // Every result came. The broker lost its session six times with three results in flight,
    // which it had taken but not acknowledged: those came twice as if new. What else came again
    // was marked as a repetition.
    let mut texts = all_results(&net);
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 59 * 3 + 59);
    let mut texts = results(&net);
    let new = texts.len();
    texts.sort();
    texts.dedup();
    assert_eq!(new - texts.len(), 6 * 3);
    assert!(started.elapsed().as_secs() < 5);
    println!("{} parks, {} connections", parks(), log.connected.len());
}

#[test]
fn a_resumed_session_delivers_once_and_keeps_commands() {
    let setup = Setup::new();
    let (net, agent) = (setup.world.net.clone(), setup.world.agent());
    setup.run(async |world| {
        let net = &world.net;
        at(10_000).await;
        net.with(|w| w.hold_acks = true);
        world.start("a");
        at(10_500).await;
        assert_eq!(results(net), ["a"]);
        net.cut(Cut::Reset);
        // A command in the time without a connection.
        world.start("b");
        net.with(|w| w.hold_acks = false);
        at(20_000).await;
    });
    assert_eq!(results(&net), ["a", "b"]);
    assert_eq!(
        net.times(|s| matches!(s, Seen::Publish { dup: true, .. }))
            .len(),
        1,
        "minimq repeats what was in flight"
    );
    assert_eq!(net.times(|s| matches!(s, Seen::Subscribe(_))).len(), 4);
    // Had one been told as lost, it would have come anew.
    assert!(is_drained(&agent));
    let connects: Vec<_> = net.with(|w| {
        let seen = w.seen.iter();
        seen.filter(|(_, s)| matches!(s, Seen::Connect { .. }))
            .map(|(_, s)| s.clone())
            .collect()
    });
    assert_eq!(
        connects,
        [
            Seen::Connect {
                clean: true,
                present: false
            },
            Seen::Connect {
                clean: false,
                present: true
            },
        ]
    );
}

#[test]
fn a_lost_session_is_subscribed_again_and_in_flight_results_repeated() {
    let setup = Setup::new();
    let (net, agent) = (setup.world.net.clone(), setup.world.agent());
    setup.run(async |world| {
        let net = &world.net;
        at(10_000).await;
        net.with(|w| w.hold_acks = true);
        world.start("a");
        at(10_500).await;
        net.cut(Cut::Reset);
        net.forget();
        net.with(|w| w.hold_acks = false);
        at(15_000).await;
        world.start("b");
        at(20_000).await;
    });
    // The broker had the first "a"; only it can know.
    assert_eq!(results(&net), ["a", "a", "b"]);
    assert_eq!(net.times(|s| matches!(s, Seen::Subscribe(_))).len(), 8);
    // It was told as lost once, and then as delivered: as the other was.
    assert_eq!(repeated(&net), Vec::<String>::new());
    assert!(is_drained(&agent));
}

#[test]
fn a_publication_cut_off_in_the_middle_is_delivered_once() {
    // Each write takes a byte and a turn: the cut meets the publication at every point.
    let mut cuts = std::collections::BTreeSet::new();
    for point in 0..120 {
        let setup = Setup::new();
        setup.world.net.with(|w| {
            w.write_most = 1;
            w.lazy = true;
        });
        let (net, agent) = (setup.world.net.clone(), setup.world.agent());
        setup.run(async |world| {
            let net = &world.net;
            at(10_000).await;
            world.start("a");
            at(10_249).await;
            after(1).await;
            for _ in 0..point {
                embassy_futures::yield_now().await;
            }
            net.cut(Cut::Reset);
            at(20_000).await;
        });
        assert!(is_drained(&agent), "point {point}");
        assert!(!all_results(&net).is_empty(), "point {point}");
        // Whatever comes more than once is marked as a repetition.
        assert_eq!(results(&net), ["a"], "point {point}");
        cuts.insert((all_results(&net).len(), results(&net).len()));
    }
    println!("{cuts:?}");
}

#[test]
fn a_message_of_any_size_is_read() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    setup.run(async |world| {
        at(10_000).await;
        world.net.publish(CHUNKS, &vec![b'x'; 10_000_000]);
        world.start("a");
        let large = start_json("b", "main", None);
        let large = large.replacen(
            '{',
            &format!("{{\"other\":\"{}\",", "x".repeat(5_000_000)),
            1,
        );
        world.net.publish(START, large.as_bytes());
        world.net.publish(START, b"");
        at(20_000).await;
    });
    let log = log.borrow();
    assert_eq!(log.connected.len(), 1);
    let [(10_000, chunk), (10_000, start)] = &warnings()[..] else {
        panic!("{:?}", warnings());
    };
    assert!(chunk.starts_with("chunk refused: "), "{chunk}");
    assert!(start.starts_with("start refused: "), "{start}");
    assert_eq!(log.running[0], (10_000, 1));
    assert_eq!(arrivals(&net, "a"), [10_250]);
    assert_eq!(arrivals(&net, "b"), [10_250]);
    assert_eq!(net.times(|s| *s == Seen::Acked).len(), 4);
    assert_heartbeats(&net, &log, 20_000);
}

/// Sends `count` starts at once of which every other can't run, and one that can; returns the milliseconds until all
/// were answered, each once.
fn flood(config: Config<'static>, count: usize, floods: bool) -> u64 {
    let setup = Setup::of(agent_with(config, 12));
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    let mut took = 0;
    setup.run(async |world| {
        world.net.with(|w| w.floods = floods);
        at(10_000).await;
        for n in 0..count {
            let id = format!("start{n}");
            match n % 2 {
                0 => {
                    let bad = format!(r#"{{"id":"{id}","name":"main","proplet_id":"{ID}"}}"#);
                    world.net.publish(START, bad.as_bytes());
                }
                _ => world.start(&id),
            }
        }
        world.start("good");
        while results(&world.net).len() <= count && now() < 600_000 {
            after(10).await;
        }
        took = now() - 10_000;
    });
    let mut expected: Vec<_> = (0..count).map(|n| format!("start{n}")).collect();
    expected.push("good".into());
    expected.sort();
    let mut answered = results(&net);
    answered.sort();
    assert_eq!(answered, expected);
    assert_eq!(repeated(&net), Vec::<String>::new());
    assert_heartbeats(&net, &log.borrow(), 10_000 + took);
    took
}

#[test]
fn a_flood_is_answered_whole_by_an_outbox_of_twelve() {
    let took = flood(CONFIG, 500, false);
    println!("500 starts with a result delay of 250 ms: {took} ms");
    let at_once = Config {
        result_delay: Duration::ZERO,
        ..CONFIG
    };
    let took = flood(at_once, 10_000, false);
    println!("10,000 without: {took} ms");
}

#[test]
fn a_broker_that_knows_no_receive_maximum_has_all_answered_too() {
    let took = flood(CONFIG, 200, true);
    println!("200 starts: {took} ms");
}

/// minimq does not know of messages at QoS 0: the link acts on each all the same, before the next.
#[test]
fn messages_at_qos_0_are_acted_on_at_once() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    let mut bytes = Vec::new();
    for id in ["a", "b", "c"] {
        let json = start_json(id, "endless", None);
        bytes.extend(support::publish_packet(0x30, START, None, json.as_bytes()));
    }
    let refused = start_json("d", "endless", None).replace("bWFp", "@@@@");
    bytes.extend(support::publish_packet(
        0x30,
        START,
        None,
        refused.as_bytes(),
    ));
    setup.run(async |world| {
        at(10_000).await;
        world.net.inject(&bytes);
        at(11_000).await;
    });
    assert_eq!(
        log.borrow().running,
        [(10_000, 1), (10_000, 2), (10_000, 3)]
    );
    let refusal = arrivals(&net, "d");
    assert_eq!(refusal.len(), 1);
    assert!((10_000..10_300).contains(&refusal[0]), "{refusal:?}");
    assert_eq!(net.times(|s| *s == Seen::Acked), []);
}

#[test]
fn the_broker_is_told_the_maximum_packet_size_that_is_set() {
    let mut setup = Setup::new();
    setup.config.max_packet = Some(4_321);
    let net = setup.world.net.clone();
    setup.run(async |_| at(1_000).await);
    let login = net.with(|w| w.login.clone()).unwrap();
    assert_eq!(login.largest_packet, 4_321);
}

#[test]
fn a_message_with_too_long_a_topic_is_skipped_and_acknowledged() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    setup.run(async |world| {
        at(10_000).await;
        let topic = "t".repeat(TOPIC_MAX + 1);
        for (first, id) in [(0x30, None), (0x32, Some(7))] {
            let packet = support::publish_packet(first, &topic, id, &[0; 2000]);
            world.net.inject(&packet);
        }
        world.start("a");
        at(20_000).await;
    });
    assert_eq!(log.borrow().connected.len(), 1);
    // They wait a millisecond for something to go with.
    assert_eq!(net.times(|s| *s == Seen::Acked), [10_001; 2]);
    assert_eq!(arrivals(&net, "a"), [10_250]);
    let text = format!("topic of {} bytes", TOPIC_MAX + 1);
    let skipped = warnings();
    assert_eq!(skipped.len(), 2);
    assert!(
        skipped.iter().all(|(_, warning)| warning.contains(&text)),
        "{skipped:?}"
    );
}

#[test]
fn refused_credentials_are_tried_again_at_growing_intervals() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    let status = setup.world.status;
    setup.run(async |world| {
        world.net.dials(&[Dial::Login(0x86); 8]);
        world.net.with(|w| w.seen.clear());
        at(100_000).await;
        assert_eq!(
            world.status.last_error(),
            Some(ConnectionError::Refused(0x86))
        );
        at(200_000).await;
    });
    let dials = net.times(|s| *s == Seen::Dial);
    let delays: Vec<_> = dials.windows(2).map(|w| w[1] - w[0]).collect();
    for (nominal, delay) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().zip(&delays) {
        assert!(
            (nominal * 800..=nominal * 1200).contains(delay),
            "{delays:?}"
        );
    }
    assert_eq!(delays.len(), 8);
    assert_eq!(log.borrow().connected.len(), 1);
    assert_eq!(
        (status.connects(), status.failures(), status.losses()),
        (1, 8, 0)
    );
    let login = net.with(|w| w.login.clone()).unwrap();
    let expected = Login {
        client: ID.into(),
        user: Some(ID.into()),
        password: Some("secret".into()),
        session_expiry: 300,
        largest_packet: 268_435_455,
        will: Some(1),
    };
    assert_eq!(login, expected);
}

#[test]
fn without_a_network_nothing_is_dialled_and_its_return_is_not_slept_through() {
    let setup = Setup::new();
    let net = setup.world.net.clone();
    net.with(|w| w.up = false);
    setup.run(async |world| {
        at(50_000).await;
        assert_eq!(world.net.times(|s| *s == Seen::Dial), []);
        assert_eq!(world.status.state(), LinkState::Waiting);
        world.net.with(|w| w.up = true);
        at(80_000).await;
        assert_eq!(world.status.state(), LinkState::Connected);
        world.net.with(|w| w.up = false);
        world.net.cut(Cut::Eof);
        at(200_000).await;
        world.net.with(|w| w.up = true);
        at(200_010).await;
        assert_eq!(world.status.state(), LinkState::Connected);
    });
    let dials = net.times(|s| *s == Seen::Dial);
    assert_eq!(dials, [50_000, 200_000]);
}

#[test]
fn the_delay_starts_again_after_a_connection_that_held() {
    let setup = Setup::new();
    let net = setup.world.net.clone();
    setup.run(async |world| {
        world.net.dials(&[Dial::Refuse; 5]);
        at(100_000).await;
        world.net.cut(Cut::Eof);
        at(110_000).await;
    });
    let again = net.times(|s| *s == Seen::Dial).last().copied().unwrap();
    assert!((100_800..=101_200).contains(&again), "{again}");
}

#[test]
fn a_3_1_1_broker_is_named() {
    for answer in [
        &[0x20, 2, 0, 1][..],
        &[0x20, 2, 0, 5],
        &[0x20, 3, 0, 0x84, 0],
    ] {
        let setup = Setup::new();
        let status = setup.world.status;
        setup.run(async |world| {
            world.net.dials(&[Dial::Say(answer)]);
            at(100).await;
        });
        let trouble = status.last_error().unwrap();
        assert_eq!(trouble, ConnectionError::Refused(answer[3]));
        assert!(trouble.to_string().contains("MQTT 5"), "{trouble}");
    }
}

#[test]
fn garbage_from_the_network_is_survived() {
    for answer in [
        &[0x20, 0xff, 0xff, 0xff, 0xff, 0xff][..],
        &[0x20, 0],
        &[0x20, 1, 0],
        &[0x00, 0],
        &[0xff; 64],
        &[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 0],
        &[0x30, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff],
        &[0x36, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a', 0],
        &[0xe0, 1, 0x8e],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let setup = Setup::new();
        let log = setup.world.log();
        setup.run(async |world| {
            world.net.dials(&[Dial::Say(answer)]);
            at(10_000).await;
            world.net.inject(answer);
            at(40_000).await;
            assert!(world.net.is_connected() || answer[0] == 0x30, "{answer:x?}");
        });
        assert!(!log.borrow().connected.is_empty(), "{answer:x?}");
    }
}

#[test]
fn refused_subscriptions_count_as_no_connection() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    let status = setup.world.status;
    setup.run(async |world| {
        world.net.with(|w| w.refuse_subscribe = Some(0x87));
        at(10_000).await;
        assert_eq!(
            world.status.last_error(),
            Some(ConnectionError::Subscription(0x87))
        );
        assert!(world.status.failures() >= 3);
        assert_eq!(world.status.connects(), 0);
        world.net.with(|w| w.refuse_subscribe = None);
        at(40_000).await;
    });
    // The session was resumed, but has the subscriptions only now.
    assert_eq!(log.borrow().connected.len(), 1);
    assert_eq!(status.connects(), 1);
    assert!(net.times(|s| matches!(s, Seen::Subscribe(_))).len() > 4);
}

#[test]
fn a_broker_mute_after_connack_does_not_use_up_the_session() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    setup.run(async |world| {
        world.net.dials(&[Dial::MuteAfterConnack; 12]);
        at(1_200_000).await;
        world.start("a");
        after(1_000).await;
    });
    assert_eq!(log.borrow().connected.len(), 1);
    assert_eq!(results(&net), ["a"]);
}

#[test]
fn shutdown_drains_results_and_says_goodbye() {
    let setup = Setup::with(Config {
        result_delay: Duration::ZERO,
        ..CONFIG
    });
    let (net, agent) = (setup.world.net.clone(), setup.world.agent());
    let ended = setup.run(async |world| {
        at(10_000).await;
        for i in 0..12 {
            world.start_endless(&i.to_string(), None);
        }
        at(10_010).await;
        world.signals.send(Signal::Shutdown);
        at(60_000).await;
    });
    assert!(ended);
    assert_eq!(now(), 10_010);
    assert_eq!(results(&net).len(), 12);
    let last: Vec<_> = net.with(|w| w.seen[w.seen.len() - 1..].to_vec());
    assert_eq!(last, [(10_010, Seen::Disconnect(Some(0)))], "and no will");
    assert!(is_drained(&agent));
}

#[test]
fn shutdown_ends_after_the_grace_period_or_the_second_signal() {
    for (second, end) in [(None, 12_000), (Some(500), 10_500)] {
        let setup = Setup::new();
        let net = setup.world.net.clone();
        let ended = setup.run(async |world| {
            at(9_000).await;
            world.net.with(|w| w.hold_acks = true);
            world.start("a");
            at(10_000).await;
            world.signals.send(Signal::Shutdown);
            if let Some(second) = second {
                after(second).await;
                world.signals.send(Signal::Shutdown);
            }
            at(60_000).await;
        });
        assert!(ended);
        assert_eq!(now(), end);
        assert_eq!(net.times(|s| matches!(s, Seen::Disconnect(_))), [end]);
    }
}

#[test]
fn shutdown_before_the_subscriptions_are_made_says_goodbye_too() {
    let setup = Setup::new();
    let net = setup.world.net.clone();
    let ended = setup.run(async |world| {
        world.net.with(|w| w.hold_acks = true);
        at(500).await;
        assert!(
            !world
                .net
                .times(|s| matches!(s, Seen::Subscribe(_)))
                .is_empty()
        );
        world.signals.send(Signal::Shutdown);
        at(60_000).await;
    });
    assert!(ended);
    assert_eq!(now(), 500);
    let last = net.with(|w| w.seen.last().cloned());
    assert_eq!(last, Some((500, Seen::Disconnect(Some(0)))), "and no will");
}

#[test]
fn shutdown_within_a_heartbeat_says_goodbye_behind_it() {
    for point in 0..120 {
        let setup = Setup::new();
        setup.world.net.with(|w| {
            w.write_most = 1;
            w.lazy = true;
        });
        let net = setup.world.net.clone();
        let ended = setup.run(async |world| {
            at(5_000).await;
            for _ in 0..point {
                yield_now().await;
            }
            world.signals.send(Signal::Shutdown);
            at(60_000).await;
        });
        assert!(ended);
        assert_eq!(now(), 5_000);
        let last = net.with(|w| w.seen.last().cloned());
        let goodbye = (5_000, Seen::Disconnect(Some(0)));
        assert_eq!(last, Some(goodbye), "point {point}");
    }
}

#[test]
fn shutdown_without_a_connection_ends_at_once() {
    for dial in [Dial::Refuse, Dial::Never, Dial::Mute] {
        let setup = Setup::new();
        let ended = setup.run(async |world| {
            world.net.dials(&[dial]);
            at(500).await;
            world.signals.send(Signal::Shutdown);
            at(60_000).await;
        });
        assert!(ended);
        assert_eq!(now(), 500);
    }
}

#[test]
fn a_broker_that_stops_reading_is_dropped() {
    let setup = Setup::new();
    let deadlines: Vec<u64> = (10_100..30_000).step_by(100).collect();
    let log = setup.world.log();
    let status = setup.world.status;
    setup.run(async |world| {
        at(9_000).await;
        for due in &deadlines {
            world.start_endless(&format!("task-{due}"), Some(due - now()));
        }
        at(10_000).await;
        world.net.jam();
        at(30_000).await;
    });
    let log = log.borrow();
    // The next write was at 10.1 s; task deadlines were served all along.
    assert_eq!(log.interrupted, deadlines);
    assert_eq!(log.disconnected, [20_100]);
    assert_eq!(status.last_error(), Some(ConnectionError::Stalled));
    assert_eq!(log.connected.len(), 2);
}

#[test]
fn an_acknowledgement_that_hangs_is_not_forgotten_over_ticks() {
    let setup = Setup::new();
    let log = setup.world.log();
    setup.run(async |world| {
        // Two seconds before the next heartbeat.
        at(11_000).await;
        world.net.jam();
        world.net.publish(STOP, b"x");
        while now() < 30_000 {
            after(100).await;
            world.signals.send(Signal::Work);
        }
    });
    assert_eq!(log.borrow().disconnected, [21_001]);
}

#[test]
fn a_broker_gone_silent_is_dropped() {
    let setup = Setup::new();
    let log = setup.world.log();
    let status = setup.world.status;
    setup.run(async |world| {
        at(100_000).await;
        assert_eq!(world.status.connects(), 1);
        world.net.mute();
        at(150_000).await;
    });
    let log = log.borrow();
    assert_eq!(status.last_error(), Some(ConnectionError::Silent));
    assert!(
        (115_000..140_000).contains(&log.disconnected[0]),
        "{:?}",
        log.disconnected
    );
    assert_eq!(log.connected.len(), 2);
}

#[test]
fn a_quiet_connection_is_kept() {
    for maximum in [None, Some(0)] {
        let setup = Setup::new();
        let net = setup.world.net.clone();
        let log = setup.world.log();
        setup.run(async |world| {
            world.net.with(|w| w.maximum_qos = maximum);
            at(3_600_000).await;
        });
        let log = log.borrow();
        assert_eq!(log.connected.len(), 1);
        assert_eq!(log.disconnected.len(), 0);
        // A broker of QoS 0 acknowledges nothing: the discovery is done when it is written.
        assert_eq!(
            net.sent(ALIVE),
            heartbeats(&log, log.connected[0], 3_600_000)
        );
    }
}

#[test]
fn a_broker_is_probed_again_on_a_connection_that_acknowledges() {
    let setup = Setup::new();
    let status = setup.world.status;
    setup.run(async |world| {
        world.net.with(|w| w.maximum_qos = Some(0));
        at(100_000).await;
        world.net.with(|w| w.maximum_qos = None);
        world.net.cut(Cut::Eof);
        at(200_000).await;
        world.net.mute();
        at(250_000).await;
    });
    assert_eq!(status.last_error(), Some(ConnectionError::Silent));
    assert_eq!(status.losses(), 2);
}

#[test]
fn the_reason_for_a_loss_is_that_of_its_connection() {
    let setup = Setup::new();
    setup.run(async |world| {
        let last = || world.status.last_error().unwrap();
        at(10_000).await;
        world.net.dials(&[Dial::Say(&[0x20, 0]), Dial::Accept]);
        world.net.kick(0x8e);
        after(1).await;
        assert_eq!(last(), ConnectionError::Closed(Some(0x8e)));
        // The answer to the next CONNECT is not one, and says nothing of a reason.
        while world.status.failures() == 0 {
            after(1).await;
        }
        assert_eq!(last(), ConnectionError::Protocol);
        at(20_000).await;
        world.net.cut(Cut::Eof);
        after(1).await;
        assert_eq!(last(), ConnectionError::Closed(None));
    });
}

#[test]
fn a_full_window_holds_back_no_heartbeat() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    setup.run(async |world| {
        at(10_000).await;
        world.net.with(|w| w.hold_acks = true);
        for i in 0..20 {
            world.start(&i.to_string());
        }
        at(24_000).await;
        assert_eq!(results(&world.net).len(), 8);
        world.net.cut(Cut::Reset);
        world.net.with(|w| w.hold_acks = false);
        at(40_000).await;
    });
    let log = log.borrow();
    assert_heartbeats(&net, &log, 40_000);
    let mut texts = results(&net);
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 20);
    assert_eq!(results(&net).len(), 20);
}

#[test]
fn a_full_send_buffer_delays_and_only_a_result_too_large_is_refused() {
    let setup = Setup::new();
    setup.world.guests.output.set(700);
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    setup.run(async |world| {
        at(10_000).await;
        for i in 0..10 {
            world.start(&i.to_string());
        }
        at(10_001).await;
        world.guests.output.set(980);
        world.start("10");
        at(20_000).await;
    });
    assert_eq!(results(&net).len(), 11);
    assert_eq!(arrivals(&net, "10"), [10_251]);
    assert_eq!(log.borrow().disconnected.len(), 0);

    let setup = Setup::new();
    setup.world.guests.output.set(3000);
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    setup.run(async |world| {
        at(10_000).await;
        world.start("a");
        at(20_000).await;
    });
    // It was told as too large at 10,250 ms: five seconds later the agent says so much.
    let [(at, said)] = &net.published(RESULTS)[..] else {
        panic!("{:?}", results(&net));
    };
    let words = "the result of 3000 bytes is too large for the link or the broker";
    assert!(*at == 15_250 && said.contains(words), "{at} ms: {said}");
    let log = log.borrow();
    assert_heartbeats(&net, &log, 20_000);
}

#[test]
fn a_publication_that_the_broker_ends_connections_for_is_given_up_and_no_other() {
    let setup = Setup::new();
    let (net, log, agent) = (
        setup.world.net.clone(),
        setup.world.log(),
        setup.world.agent(),
    );
    setup.run(async |world| {
        let net = &world.net;
        net.with(|w| w.poison = Some(r#""task_id":"b""#));
        at(10_000).await;
        for id in ["a", "b", "c", "d"] {
            world.start(id);
        }
        while world.status.losses() < 3 {
            after(1).await;
        }
        net.with(|w| w.poison = None);
        at(100_000).await;
        world.start("e");
        at(110_000).await;
    });
    let log = log.borrow();
    let came = results(&net);
    for id in ["a", "c", "d", "e"] {
        assert_eq!(came.iter().filter(|r| *r == id).count(), 1, "{came:?}");
    }
    assert_eq!(log.disconnected.len(), 3);
    assert_eq!(sessions(&net), 1, "the broker's session stays");
    // The one was told as refused, for which it has to wait, and the others as lost.
    let again = log.connected[3];
    assert_eq!(arrivals(&net, "b"), [10_250, again + 5_000]);
    for id in ["c", "d"] {
        assert_eq!(arrivals(&net, id), [again]);
    }
    assert!(is_drained(&agent));
}

/// The guest in the first slot subscribes.
fn subscribe(world: &World, filter: &str) {
    let mut agent = world.guests.agent.borrow_mut();
    agent.engine_mut().subscribe(Slot(0), filter);
    world.signals.send(Signal::Work);
}

#[test]
fn a_guests_subscription_waits_for_room_in_the_send_buffer() {
    let filter = format!("m/t/c/c/{}", "x".repeat(110));
    for padding in (300..900).step_by(50) {
        let setup = Setup::new();
        setup.world.guests.output.set(padding);
        let net = setup.world.net.clone();
        setup.run(async |world| {
            let net = &world.net;
            at(9_000).await;
            world.start_endless("guest", None);
            at(10_000).await;
            net.with(|w| w.hold_acks = true);
            for id in ["a", "b", "c", "d", "e", "f"] {
                world.start(id);
            }
            at(12_000).await;
            subscribe(&world, &"x".repeat(110));
            // The broker is slow; it acknowledges all when the session is resumed.
            at(13_500).await;
            net.with(|w| w.hold_acks = false);
            net.cut(Cut::Reset);
            at(40_000).await;
        });
        let asked = net.times(|s| matches!(s, Seen::Subscribe(f) if *f == filter));
        assert!(!asked.is_empty(), "results of {padding} bytes");
    }
}

#[test]
fn a_guests_subscription_survives_a_cut() {
    for point in 0..60 {
        let setup = Setup::new();
        setup.world.net.with(|w| {
            w.write_most = 1;
            w.lazy = true;
        });
        let net = setup.world.net.clone();
        setup.run(async |world| {
            at(9_000).await;
            world.start_endless("guest", None);
            at(12_000).await;
            subscribe(&world, "guest");
            world.start("a");
            for _ in 0..point {
                yield_now().await;
            }
            world.net.cut(Cut::Reset);
            at(60_000).await;
        });
        let asked = net.times(|s| matches!(s, Seen::Subscribe(f) if f == "m/t/c/c/guest"));
        assert!(!asked.is_empty(), "cut at {point}");
    }
}

#[test]
fn guests_subscriptions_are_made_one_after_the_other() {
    let setup = Setup::new();
    let net = setup.world.net.clone();
    setup.run(async |world| {
        at(9_000).await;
        world.start_endless("guest", None);
        at(12_000).await;
        world.net.with(|w| w.hold_acks = true);
        subscribe(&world, "one");
        subscribe(&world, "two");
        at(13_500).await;
        world.net.with(|w| w.hold_acks = false);
        world.net.cut(Cut::Reset);
        at(20_000).await;
    });
    let asked = |topic: &str| net.times(|s| matches!(s, Seen::Subscribe(f) if f == topic));
    let (one, two) = (asked("m/t/c/c/one"), asked("m/t/c/c/two"));
    // The second waits for the answer to the first, which the session repeats.
    assert_eq!((one[0], one.len()), (12_000, 2));
    assert_eq!(two, one[1..]);
}

#[test]
fn a_refused_publication_is_told_as_refused() {
    let setup = Setup::new();
    let (net, log, agent) = (
        setup.world.net.clone(),
        setup.world.log(),
        setup.world.agent(),
    );
    setup.run(async |world| {
        at(10_000).await;
        world
            .net
            .with(|w| w.refuse_publish = Some(("results", 0x97)));
        world.start("a");
        at(10_500).await;
        world.net.with(|w| w.refuse_publish = None);
        world.start("b");
        at(20_000).await;
    });
    let log = log.borrow();
    assert_eq!(log.connected.len(), 1);
    // The agent waits five seconds after a refusal, and after nothing else.
    assert_eq!(arrivals(&net, "a"), [10_250, 15_250]);
    assert_eq!(arrivals(&net, "b"), [10_750]);
    assert!(is_drained(&agent));
}

#[test]
fn names_and_address_literals() {
    for (host, resolves, connected) in [
        ("broker.test", true, true),
        ("broker.test", false, false),
        ("192.0.2.7", false, true),
        ("2001:db8::1", false, true),
        ("[2001:db8::1]", false, true),
    ] {
        let mut setup = Setup::new();
        setup.config.host = host;
        let status = setup.world.status;
        setup.run(async |world| {
            world.net.with(|w| w.resolves = resolves);
            at(100).await;
        });
        assert_eq!(status.connects() == 1, connected, "{host}");
        if !connected {
            assert_eq!(status.last_error(), Some(ConnectionError::Resolve));
        }
    }
}

#[test]
fn tls_is_for_the_name_that_is_set() {
    for (host, tls, name) in [
        ("broker.test", true, Some("broker.test")),
        ("[2001:db8::1]", true, Some("2001:db8::1")),
        ("broker.test", false, None),
    ] {
        let mut setup = Setup::new();
        setup.config.host = host;
        setup.config.tls = tls;
        let (status, net) = (setup.world.status, setup.world.net.clone());
        net.with(|w| w.has_tls = true);
        setup.run(async |_| at(100).await);
        assert_eq!(status.connects(), 1, "{host}");
        let hosts = net.with(|w| w.tls_hosts.clone());
        assert_eq!(hosts, Vec::from_iter(name), "{host}");
    }
    let mut setup = Setup::new();
    setup.config.tls = true;
    let (status, net) = (setup.world.status, setup.world.net.clone());
    net.with(|w| w.has_tls = true);
    net.dials(&[Dial::Impostor]);
    setup.run(async |world| {
        at(100).await;
        assert_eq!(world.status.last_error(), Some(ConnectionError::Tls));
        // It tries again.
        at(5_000).await;
    });
    assert_eq!(status.connects(), 1);
}

#[test]
fn no_key_no_user_and_no_will() {
    let mut setup = Setup::new();
    setup.config.api_key = "";
    setup.config.will = false;
    let net = setup.world.net.clone();
    setup.run(async |world| {
        at(1_000).await;
        world.net.cut(Cut::Reset);
        at(1_100).await;
    });
    let login = net.with(|w| w.login.clone()).unwrap();
    assert_eq!((login.user, login.password), (None, None));
    assert!(net.times(|s| matches!(s, Seen::Will(_))).is_empty());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    static LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123+";
    for (host, tls, id, max_packet, rx, error) in [
        ("", false, "id", None, BUFFER_MIN, SetupError::Host),
        ("h", true, "id", None, BUFFER_MIN, SetupError::Tls),
        ("h", false, "", None, BUFFER_MIN, SetupError::PropletId),
        ("h", false, LONG, None, BUFFER_MIN, SetupError::PropletId),
        ("h", false, "id", Some(0), BUFFER_MIN, SetupError::MaxPacket),
        (
            "h",
            false,
            "id",
            None,
            BUFFER_MIN - 1,
            SetupError::ReceiveBuffer,
        ),
    ] {
        let config = LinkConfig {
            host,
            tls,
            proplet_id: id,
            max_packet,
            ..LINK
        };
        let (net, signals, status) = (Net::new(), Signals::default(), LinkStatus::new());
        let mut rx = vec![0; rx];
        let (mut tx, mut will) = ([0; 64], [0; 64]);
        let buffers = Buffers {
            rx: &mut rx,
            output: &mut [0; 64],
            tx: &mut tx,
            will: &mut will,
            http: [],
        };
        let result = simulate(run(
            &net,
            &agent(CONFIG),
            &config,
            buffers,
            async || signals.next().await,
            &status,
        ));
        assert_eq!(result, Err(error));
    }
}

#[test]
fn a_send_buffer_too_small_is_told() {
    let mut setup = Setup::new();
    setup.tx = 64;
    let status = setup.world.status;
    setup.run(async |_| at(1_000).await);
    assert_eq!(status.last_error(), Some(ConnectionError::Buffer));
}

#[test]
fn a_worker_is_served_at_once_whatever_the_link_does() {
    for dial in [Dial::Accept, Dial::Refuse, Dial::Never, Dial::Mute] {
        let setup = Setup::new();
        let log = setup.world.log();
        let start = start_json("a", "endless", None);
        let start = Event::Message {
            topic: START,
            payload: start.as_bytes(),
        };
        let agent = setup.world.agent();
        agent.borrow_mut().handle(start, Instant::BOOT);
        setup.run(async |world| {
            world.net.dials(&[dial]);
            at(321).await;
            agent.borrow_mut().engine_mut().exit(Slot(0), Ok(None));
            world.signals.send(Signal::Work);
            at(400).await;
        });
        assert_eq!(log.borrow().running, [(0, 1), (321, 0)], "{dial:?}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Cut(Cut),
    Mute,
    Jam,
    Kick,
    Forget,
    Dial(Dial),
    HoldAcks(bool),
    Start(u8),
    Large,
}

fn cases() -> u32 {
    let cases = std::env::var("PROPTEST_CASES");
    cases.map_or(50, |cases| cases.parse().unwrap())
}

fn any_fault() -> impl Strategy<Value = (u64, Fault)> {
    let dial = prop_oneof![
        Just(Dial::Refuse),
        Just(Dial::Never),
        Just(Dial::Mute),
        Just(Dial::MuteAfterConnack),
        Just(Dial::Login(0x88)),
    ];
    let fault = prop_oneof![
        2 => prop_oneof![Just(Cut::Eof), Just(Cut::Reset)].prop_map(Fault::Cut),
        1 => Just(Fault::Mute),
        1 => Just(Fault::Jam),
        1 => Just(Fault::Kick),
        2 => dial.prop_map(Fault::Dial),
        1 => any::<bool>().prop_map(Fault::HoldAcks),
        6 => (1u8..12).prop_map(Fault::Start),
        1 => Just(Fault::Large),
        1 => Just(Fault::Forget),
    ];
    // Often at the very moment of the one before, or when its results are due.
    let pause = prop_oneof![Just(0), Just(250), Just(251), 0u64..2_000, 0u64..60_000];
    (pause, fault)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn any_faults_leave_every_heartbeat_in_time_and_every_result_told_once(
        faults in proptest::collection::vec(any_fault(), 1..40),
        write_most in prop_oneof![Just(1usize), Just(7), Just(usize::MAX)],
        read_most in prop_oneof![Just(1usize), Just(5), Just(usize::MAX)],
        lazy in any::<bool>(),
        turns in 0usize..40,
    ) {
        let setup = Setup::new();
        setup.world.net.with(|w| {
            (w.write_most, w.read_most, w.lazy) = (write_most, read_most, lazy);
        });
        let (net, log, agent) =
            (setup.world.net.clone(), setup.world.log(), setup.world.agent());
        let forgets = faults.iter().any(|(_, fault)| matches!(fault, Fault::Forget));
        // A fault that finds no connection does nothing, nor a start without a session.
        let mut started = 0;
        let jams = RefCell::new(Vec::new());
        let ended = setup.run(async |world| {
            let net = &world.net;
            for (pause, fault) in &faults {
                after(*pause).await;
                for _ in 0..turns {
                    embassy_futures::yield_now().await;
                }
                match *fault {
                    Fault::Dial(dial) => net.dials(&[dial]),
                    Fault::HoldAcks(hold) => net.with(|w| w.hold_acks = hold),
                    Fault::Start(count) => for _ in 0..count {
                        started += 1;
                        world.start(&started.to_string());
                    },
                    Fault::Large => net.publish(CHUNKS, &[0; 5_000]),
                    Fault::Forget => { net.cut(Cut::Reset); net.forget(); }
                    _ if !net.is_connected() => {}
                    Fault::Cut(cut) => net.cut(cut),
                    Fault::Mute => net.mute(),
                    Fault::Jam => { jams.borrow_mut().push(now()); net.jam(); }
                    Fault::Kick => net.kick(0x98),
                }
            }
            net.with(|w| { w.hold_acks = false; w.dials.clear(); });
            // All that is out of order is noticed, and retried.
            after(180_000).await;
            assert!(world.net.is_connected());
            world.signals.send(Signal::Shutdown);
            after(10_000).await;
        });
        prop_assert!(ended);
        let log = log.borrow();
        // A write that hangs holds back what would be written after it.
        let jammed = |at: &u64| jams.borrow().iter().any(|from| {
            let to = log.disconnected.iter().find(|to| *to > from).unwrap();
            (from..=to).contains(&at)
        });
        // At the moment of a loss either may come first.
        let unsure = |at: &u64| jammed(at) || log.disconnected.contains(at);
        let mut alive = net.written(ALIVE);
        alive.retain(|at| !unsure(at));
        // An acknowledgement of the discovery may have been lost with the connection.
        let discovered = discoveries(&net).into_iter();
        let mut expected = discovered.map(|discovered| {
            let mut expected = heartbeats(&log, discovered, now() + 1);
            expected.retain(|at| !unsure(at));
            expected
        });
        prop_assert!(expected.any(|expected| alive == expected), "{alive:?}");
        // Each result that there was has arrived, and was told as delivered.
        prop_assert!(is_drained(&agent));
        let mut arrived = all_results(&net);
        arrived.sort();
        arrived.dedup();
        prop_assert_eq!(arrived.len(), log.ended);
        // New to the broker only once each, unless it has forgotten something.
        let mut new = results(&net);
        let count = new.len();
        new.sort();
        new.dedup();
        prop_assert!(forgets || count == new.len(), "{:?}", new);
    }
}
