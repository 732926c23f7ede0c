//! What brokers do that are not as the specification has it, and what outlives a reboot.

mod support;

use ::proplet::{config::Config, testing::FakeStore};
use proplet_link::{ConnectionError, LinkState, LinkStatus, Signal};
use support::{
    Cut, Dial, Net, Seen, at, now,
    proplet::{CONFIG, agent_of, agent_with},
    setup::{CREATE, RESULTS, START, Setup, World, is_drained, results},
    warnings,
};

/// Whether each CONNECT asked for a new session, in their order.
fn clean_starts(net: &Net) -> Vec<bool> {
    net.with(|w| {
        let connects = w.seen.iter().filter_map(|(_, seen)| match seen {
            Seen::Connect { clean, .. } => Some(*clean),
            _ => None,
        });
        connects.collect()
    })
}

fn has_warned(text: &str) -> bool {
    warnings().iter().any(|(_, warning)| warning.contains(text))
}

/// Results of the invocations or tasks that have been acknowledged with a listener.
fn heard(net: &Net) -> Vec<u64> {
    net.with(|w| {
        let results = w.acknowledged.iter().filter(|(_, topic)| topic == RESULTS);
        results.map(|(at, _)| *at).collect()
    })
}

#[test]
fn a_broker_that_hates_strangers_gets_a_new_session_after_two_closes() {
    let setup = Setup::new();
    let (net, agent) = (setup.world.net.clone(), setup.world.agent());
    setup.run(async |world| {
        let net = &world.net;
        net.with(|w| w.hates_strangers = true);
        at(10_000).await;
        // It restarts without a memory.
        net.with(|w| w.hold_acks = true);
        world.start("a");
        at(10_500).await;
        net.forget();
        net.cut(Cut::Eof);
        net.with(|w| w.hold_acks = false);
        at(30_000).await;
        assert_eq!(world.status.state(), LinkState::Connected);
        assert!(has_warned(
            "the broker closed the connection behind our CONNECT"
        ));
        assert!(has_warned("asks for a new one"));
        world.start("b");
        at(40_000).await;
    });
    assert_eq!(clean_starts(&net), [true, false, false, true]);
    assert_eq!(results(&net), ["a", "a", "b"]);
    assert!(is_drained(&agent));
}

/// Commands that the broker has kept are there after failures that say nothing of the session.
#[test]
fn a_cut_during_connect_loses_no_command() {
    let eof = Dial::Say(b"");
    for dials in [
        &[eof][..],
        &[eof, Dial::Break, eof],
        &[Dial::Break; 5],
        &[eof, Dial::Mute, eof],
        &[eof, Dial::Refuse, eof, Dial::Never, eof],
        &[Dial::Login(0x88), Dial::Login(0x89), Dial::Login(0x97)],
        // A byte says that somebody is there.
        &[Dial::Say(b"\x20"); 4],
    ] {
        let setup = Setup::new();
        let (net, agent) = (setup.world.net.clone(), setup.world.agent());
        setup.run(async |world| {
            at(10_000).await;
            world.net.dials(dials);
            world.net.cut(Cut::Reset);
            world.start("kept");
            at(200_000).await;
        });
        assert_eq!(results(&net), ["kept"], "{dials:?}");
        assert!(!clean_starts(&net)[1..].contains(&true), "{dials:?}");
        assert!(is_drained(&agent));
    }
}

/// The next connection takes up a session that the broker has and the proplet does not know of.
#[test]
fn a_new_session_whose_begin_was_cut_is_subscribed_to_all() {
    let setup = Setup::new();
    let (net, agent) = (setup.world.net.clone(), setup.world.agent());
    setup.run(async |world| {
        at(10_000).await;
        world
            .net
            .dials(&[Dial::Say(b""), Dial::Say(b""), Dial::Lose]);
        world.net.cut(Cut::Reset);
        at(60_000).await;
        assert_eq!(world.status.state(), LinkState::Connected);
        world.start("a");
        at(70_000).await;
    });
    // Those that were closed without an answer are not among them.
    assert_eq!(clean_starts(&net), [true, true, false]);
    assert_eq!(results(&net), ["a"]);
    assert!(is_drained(&agent));
}

#[test]
fn a_refusal_that_may_mean_the_session_is_answered_by_a_new_one() {
    for (code, clean) in [
        (0x80, true),
        (0x83, true),
        (0x85, true),
        (0x86, false),
        (0x87, false),
    ] {
        let setup = Setup::new();
        let net = setup.world.net.clone();
        setup.run(async |world| {
            at(10_000).await;
            world.net.dials(&[Dial::Login(code)]);
            world.net.cut(Cut::Reset);
            at(40_000).await;
            assert_eq!(world.status.state(), LinkState::Connected);
        });
        assert_eq!(clean_starts(&net), [true, false, clean], "{code:#x}");
    }
}

#[test]
fn results_that_nobody_is_subscribed_to_are_told_when_somebody_is() {
    let setup = Setup::new();
    let (net, agent) = (setup.world.net.clone(), setup.world.agent());
    setup.run(async |world| {
        at(10_000).await;
        world.net.with(|w| w.deserted = Some("/results"));
        for id in ["a", "b", "c", "d", "e"] {
            world.start(id);
        }
        at(70_000).await;
        assert_eq!(heard(&world.net), []);
        // Other messages go on, and the manager is back by a command.
        world.net.with(|w| w.deserted = None);
        world.start("f");
        at(72_000).await;
    });
    // All five, as soon as the sixth says that somebody listens; that one after its delay.
    let expected = [70_000, 70_000, 70_000, 70_000, 70_000, 70_250];
    assert_eq!(heard(&net), expected);
    assert!(is_drained(&agent));
}

#[test]
fn a_create_that_nobody_is_subscribed_to_is_sent_again() {
    let setup = Setup::new();
    let net = setup.world.net.clone();
    setup.run(async |world| {
        world.net.with(|w| w.deserted = Some("/create"));
        at(20_000).await;
        world.net.with(|w| w.deserted = None);
        at(100_000).await;
    });
    let acknowledged = net.with(|w| {
        let all = w.acknowledged.iter().filter(|(_, topic)| topic == CREATE);
        all.map(|(at, _)| *at).collect::<Vec<_>>()
    });
    assert_eq!(acknowledged, [30_000]);
}

/// While nobody listens, an outbox of two takes the newest results, and commands go on.
#[test]
fn messages_without_a_listener_hold_nothing_back() {
    let setup = Setup::of(agent_with(CONFIG, 2));
    let (net, agent) = (setup.world.net.clone(), setup.world.agent());
    setup.run(async |world| {
        at(10_000).await;
        world.net.with(|w| w.deserted = Some("/results"));
        for n in 0..50 {
            world.start(&format!("task-{n}"));
        }
        at(60_000).await;
        assert_eq!(
            world.net.with(|w| w.acked.len()),
            50,
            "each command is acknowledged"
        );
        assert_eq!(agent.borrow().status().running, 0);
        world.net.with(|w| w.deserted = None);
        at(130_000).await;
    });
    assert_eq!(heard(&net).len(), 2);
}

/// Runs a proplet from its boot to its shutdown, with this store.
fn boot(
    net: &Net,
    store: &FakeStore,
    config: Config<'static>,
    script: impl AsyncFnOnce(&World),
) -> &'static LinkStatus {
    let mut setup = Setup::of(agent_of(config, store));
    setup.world.net = net.clone();
    setup.config.proplet_id = config.proplet_id;
    let status = setup.world.status;
    net.with(|w| w.seen.clear());
    let ended = setup.run(async |world| {
        script(&world).await;
        world.signals.send(Signal::Shutdown);
        at(now() + 10_000).await;
    });
    assert!(ended);
    status
}

/// A command that comes while the proplet is off.
fn publish_offline(net: &Net, id: &str) {
    let json = support::proplet::start_json(id, "main", None);
    net.publish(START, json.as_bytes());
}

#[test]
fn commands_of_a_reboot_are_answered_after_it() {
    let (net, store) = (Net::new(), FakeStore::default());
    for round in 0..3 {
        boot(&net, &store, CONFIG, async |_| at(5_000).await);
        let goodbye = net.with(|w| w.seen.last().cloned());
        assert_eq!(goodbye, Some((5_000, Seen::Disconnect(None))));
        for n in 0..60 {
            publish_offline(&net, &format!("{round}-{n}"));
        }
        net.with(|w| w.acked.clear());
        boot(&net, &store, CONFIG, async |_| at(30_000).await);
        let mut told = results(&net);
        told.sort();
        told.dedup();
        assert_eq!(told.len(), 60);
        assert_eq!(clean_starts(&net), [false]);
        assert_eq!(net.times(|s| matches!(s, Seen::Subscribe(_))).len(), 4);
    }
    let writes = store.kept().note_writes;
    assert_eq!(writes, 1, "a session is noted once");
}

#[test]
fn without_a_store_a_shutdown_ends_the_session() {
    let setup = Setup::new();
    let net = setup.world.net.clone();
    setup.run(async |world| {
        at(5_000).await;
        world.signals.send(Signal::Shutdown);
        at(20_000).await;
    });
    assert_eq!(clean_starts(&net), [true]);
    let goodbye = net.with(|w| w.seen.last().cloned());
    assert_eq!(goodbye, Some((5_000, Seen::Disconnect(Some(0)))));
}

#[test]
fn a_session_that_must_not_be_kept_is_ended_with_a_store_too() {
    let store = FakeStore::default();
    let mut setup = Setup::of(agent_of(CONFIG, &store));
    setup.config.session_expiry = 0;
    let net = setup.world.net.clone();
    setup.run(async |world| {
        at(5_000).await;
        world.signals.send(Signal::Shutdown);
        at(20_000).await;
    });
    let goodbye = net.with(|w| w.seen.last().cloned());
    assert_eq!(goodbye, Some((5_000, Seen::Disconnect(Some(0)))));
}

#[test]
fn another_identity_starts_clean() {
    for other in [
        Config {
            tenant: "t2",
            ..CONFIG
        },
        Config {
            channel: "c2",
            ..CONFIG
        },
        Config {
            proplet_id: "other",
            ..CONFIG
        },
        Config {
            broker_host: "other",
            ..CONFIG
        },
        Config {
            broker_port: 1,
            ..CONFIG
        },
    ] {
        let (net, store) = (Net::new(), FakeStore::default());
        boot(&net, &store, CONFIG, async |_| at(1_000).await);
        publish_offline(&net, "of-before");
        boot(&net, &store, other, async |_| at(5_000).await);
        assert_eq!(clean_starts(&net), [true]);
        assert_eq!(results(&net), [""; 0]);
        // That one is kept from now on.
        boot(&net, &store, other, async |_| at(5_000).await);
        assert_eq!(clean_starts(&net), [false]);
    }
}

#[test]
fn a_session_that_the_broker_has_forgotten_starts_anew() {
    for hates_strangers in [false, true] {
        let (net, store) = (Net::new(), FakeStore::default());
        boot(&net, &store, CONFIG, async |_| at(1_000).await);
        net.forget();
        net.with(|w| w.hates_strangers = hates_strangers);
        boot(&net, &store, CONFIG, async |world| {
            at(20_000).await;
            world.start("a");
            at(25_000).await;
        });
        let expected = match hates_strangers {
            false => vec![false],
            true => vec![false, false, true],
        };
        assert_eq!(clean_starts(&net), expected);
        assert_eq!(results(&net), ["a"]);
    }
}

#[test]
fn damaged_notes_of_a_session_start_clean() {
    let whole = {
        let (net, store) = (Net::new(), FakeStore::default());
        boot(&net, &store, CONFIG, async |_| at(1_000).await);
        let kept = store.kept();
        let (index, note) = &kept.notes[0];
        assert_eq!(*index, 0);
        note.clone()
    };
    let mut notes: Vec<Vec<u8>> = (0..whole.len()).map(|len| whole[..len].to_vec()).collect();
    notes.extend([0, 1, 16].map(|at| {
        let mut note = whole.clone();
        note[at] ^= 1;
        note
    }));
    // A filter that is cut off, and one that is no text.
    notes.push([&whole[..], b"\x05\x00abc"].concat());
    notes.push([&whole[..], b"\x02\x00\xff\xff"].concat());
    notes.push(vec![0xff; 512]);
    for note in notes {
        let (net, store) = (Net::new(), FakeStore::default());
        store.kept().notes.push((0, note.clone()));
        boot(&net, &store, CONFIG, async |_| at(1_000).await);
        assert_eq!(clean_starts(&net), [true], "{note:?}");
        assert_eq!(store.kept().notes[0].1, whole);
    }
    let (net, store) = (Net::new(), FakeStore::default());
    store.kept().notes.push((0, whole));
    boot(&net, &store, CONFIG, async |_| at(1_000).await);
    assert_eq!(clean_starts(&net), [false]);
}

#[test]
fn a_store_that_fails_leaves_a_session_of_this_boot() {
    let (net, store) = (Net::new(), FakeStore::default());
    store.kept().fails = true;
    boot(&net, &store, CONFIG, async |_| at(1_000).await);
    assert_eq!(clean_starts(&net), [true]);
    let goodbye = net.with(|w| w.seen.last().cloned());
    assert_eq!(goodbye, Some((1_000, Seen::Disconnect(Some(0)))));
}

/// Filters of guests that the session has and no guest: they are unsubscribed from after the reboot.
#[test]
fn stale_filters_are_unsubscribed_from_after_a_reboot() {
    let (net, store) = (Net::new(), FakeStore::default());
    let subscribe = |world: &World, filter: &str| {
        let mut agent = world.guests.agent.borrow_mut();
        agent
            .engine_mut()
            .subscribe(::proplet::engine::Slot(0), filter);
        world.signals.send(Signal::Work);
    };
    boot(&net, &store, CONFIG, async |world| {
        world.net.with(|w| w.hold_acks = false);
        at(1_000).await;
        world.start_endless("guest", None);
        at(2_000).await;
        for filter in ["one", "two/#", "three"] {
            subscribe(world, filter);
        }
        at(3_000).await;
    });
    // The guest is in the first slot again, and wants one of them.
    boot(&net, &store, CONFIG, async |world| {
        at(1_000).await;
        world.start_endless("guest", None);
        at(2_000).await;
        subscribe(world, "two/#");
        at(3_000).await;
    });
    assert_eq!(clean_starts(&net), [false]);
    let unsubscribed = net.with(|w| {
        let all = w.seen.iter().filter_map(|(_, seen)| match seen {
            Seen::Unsubscribe(filter) => Some(filter.clone()),
            _ => None,
        });
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    });
    assert_eq!(
        unsubscribed[..3],
        ["m/t/c/c/one", "m/t/c/c/three", "m/t/c/c/two/#"]
    );
    assert!(
        !net.times(|s| matches!(s, Seen::Subscribe(f) if f == "m/t/c/c/two/#"))
            .is_empty()
    );
}

#[test]
fn a_session_for_a_stranger_is_not_taken() {
    let setup = Setup::new();
    let (net, status) = (setup.world.net.clone(), setup.world.status);
    net.dials(&[Dial::Present; 3]);
    setup.run(async |world| {
        at(500).await;
        assert_eq!(
            world.status.last_error(),
            Some(ConnectionError::SessionPresent)
        );
        at(60_000).await;
    });
    assert_eq!(clean_starts(&net), [true; 4]);
    assert_eq!((status.failures(), status.connects()), (3, 1));
}

#[test]
fn a_broker_that_forgets_sessions_again_and_again_is_served() {
    let setup = Setup::new();
    let (net, agent) = (setup.world.net.clone(), setup.world.agent());
    setup.run(async |world| {
        for n in 0..40 {
            at(20_000 * (n + 1)).await;
            world.start(&format!("task-{n}"));
            at(20_000 * (n + 1) + 240 + n).await;
            if n % 3 != 0 {
                world.net.forget();
            }
            world.net.cut([Cut::Eof, Cut::Reset][n as usize % 2]);
        }
        at(900_000).await;
    });
    let mut told = results(&net);
    told.sort();
    told.dedup();
    // A task whose start had not been answered may be gone with the session.
    assert_eq!(told.len(), 40);
    assert!(is_drained(&agent));
}

#[test]
fn a_session_taken_over_in_a_loop_is_fought_over_ever_more_slowly() {
    let setup = Setup::new();
    let (net, status) = (setup.world.net.clone(), setup.world.status);
    setup.run(async |world| {
        loop {
            at(now() + 100).await;
            if world.net.is_connected() {
                world.net.kick(0x8e);
            }
            if now() > 600_000 {
                break;
            }
        }
    });
    let dials = net.times(|s| *s == Seen::Dial);
    assert!(
        (12..20).contains(&dials.len()),
        "{} dials in 10 minutes",
        dials.len()
    );
    assert_eq!(
        status.last_error(),
        Some(ConnectionError::Closed(Some(0x8e)))
    );
    assert!(has_warned("another client uses the same proplet id"));
}

#[test]
fn a_second_connack_ends_the_connection() {
    let setup = Setup::new();
    let status = setup.world.status;
    setup.run(async |world| {
        at(10_000).await;
        world.net.inject(&[0x20, 3, 0, 0, 0]);
        at(20_000).await;
        assert_eq!(world.status.state(), LinkState::Connected);
    });
    assert_eq!(status.last_error(), Some(ConnectionError::Protocol));
    assert_eq!((status.connects(), status.losses()), (2, 1));
}

#[test]
fn a_broker_without_qos_1_is_joined_with_a_will_of_qos_0() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log());
    net.with(|w| w.maximum_qos = Some(0));
    setup.run(async |world| {
        at(20_000).await;
        world.start("a");
        at(25_000).await;
        world.net.cut(Cut::Reset);
        at(40_000).await;
    });
    let will = net.with(|w| w.login.as_ref().and_then(|login| login.will));
    assert_eq!(will, Some(0));
    assert!(has_warned("the last will is left at QoS 0"));
    assert_eq!(log.borrow().connected.len(), 2, "one refusal in all");
    assert_eq!(results(&net), ["a"]);
}

#[test]
fn a_refused_publication_is_named_with_its_reason() {
    let setup = Setup::new();
    setup.run(async |world| {
        at(10_000).await;
        world
            .net
            .with(|w| w.refuse_publish = Some(("results", 0x87)));
        world.start("a");
        at(11_000).await;
    });
    assert!(has_warned(
        "the broker refuses a publication to m/t/c/c/control/proplet/results: not authorised"
    ));
}
