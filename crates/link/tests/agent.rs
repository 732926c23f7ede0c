//! An hour of a proplet: the agent on the link, with guests that run for a while, in virtual time.

mod support;

use embassy_futures::select::{Either3, select3};
use proplet::engine::{Slot, Value};
use proplet_link::{Buffers, LinkConfig, LinkStatus, Signal, gate::BUFFER_MIN, run};
use std::convert::Infallible;
use support::{
    Cut, Dial, Net, Seen, Signals, after, at, now, parks,
    proplet::{CONFIG, Guests, ID, agent, result_of, start_json, topic},
    simulate,
};

fn start(net: &Net, id: &str) {
    let json = start_json(id, "endless", None);
    net.publish(&topic("control/manager/start"), json.as_bytes());
}

/// Ends all runs, each with this value.
fn end_all(guests: &Guests, value: i32) {
    let mut agent = guests.agent.borrow_mut();
    let engine = agent.engine_mut();
    let slots: Vec<Slot> = engine.running.iter().map(|run| run.slot).collect();
    for slot in slots {
        engine.exit(slot, Ok(Some(Value::I32(value))));
    }
}

/// Ids of the results that came, in order.
fn results(net: &Net) -> Vec<String> {
    let mut ids: Vec<_> = net.with(|w| {
        let seen = w.seen.iter().filter_map(|(_, seen)| result_of(seen));
        seen.map(|(id, _)| id.to_owned()).collect()
    });
    ids.sort();
    ids
}

#[test]
fn an_hour_of_the_agent_with_losses() {
    let (net, signals) = (Net::new(), Signals::default());
    net.with(|w| w.write_most = 7);
    let guests = Guests::new(agent(CONFIG), &signals);
    let config = LinkConfig {
        host: "192.0.2.1",
        proplet_id: ID,
        seed: 3,
        ..LinkConfig::DEFAULT
    };
    let mut rx = [0; BUFFER_MIN];
    let (mut tx, mut will) = ([0; 4096], [0; 256]);
    let buffers = Buffers {
        rx: &mut rx,
        output: &mut [0; 64],
        tx: &mut tx,
        will: &mut will,
        http: [],
    };
    let status = LinkStatus::new();
    let script = async || -> Infallible {
        net.dials(&[Dial::Refuse, Dial::Never, Dial::Mute]);
        let mut started = 0;
        for minute in 1..60 {
            at(minute * 60_000).await;
            for _ in 0..3 {
                started += 1;
                start(&net, &format!("task-{started}"));
            }
            match minute % 5 {
                1 => {
                    // Results are in flight when the connection goes.
                    net.with(|w| w.hold_acks = true);
                    after(300).await;
                    net.cut(Cut::Reset);
                    net.with(|w| w.hold_acks = false);
                }
                2 => {
                    net.dials(&[Dial::Refuse, Dial::MuteAfterConnack]);
                    after(50).await;
                    net.cut(Cut::Eof);
                }
                3 => {
                    after(200).await;
                    net.mute();
                }
                4 => net.publish(&topic("registry/server"), &[b'x'; 10_000]),
                _ => {}
            }
            after(100).await;
            end_all(&guests, 42);
            signals.send(Signal::Work);
        }
        at(3_600_000).await;
        start(&net, "endless");
        after(1_000).await;
        signals.send(Signal::Shutdown);
        after(60_000).await;
        panic!("it did not end");
    };
    let started = std::time::Instant::now();
    simulate(async {
        let signal = async || signals.next().await;
        let link = run(&net, &guests.agent, &config, buffers, signal, &status);
        match select3(link, script(), guests.run()).await {
            Either3::First(ended) => assert_eq!(ended, Ok(())),
            Either3::Second(never) | Either3::Third(never) => match never {},
        }
    });
    assert!(now() < 3_602_000, "{}", now());
    println!("{} parks in {:?}", parks(), started.elapsed());

    let mut expected: Vec<_> = (1..=177).map(|i| format!("task-{i}")).collect();
    expected.push("endless".into());
    expected.sort();
    let mut ids = results(&net);
    ids.dedup();
    assert_eq!(ids, expected);
    assert!(guests.agent.borrow().is_drained());
    let new: Vec<_> = net.published(&topic("control/proplet/results"));
    assert!(new.len() <= 178, "none came twice as if new");
    assert_eq!(net.published(&topic("control/proplet/create")).len(), 1);
    assert_eq!(net.times(|s| matches!(s, Seen::Subscribe(_))).len(), 4);
    assert!(matches!(
        net.with(|w| w.seen.last().cloned()),
        Some((_, Seen::Disconnect(Some(0))))
    ));

    // Heartbeats: at once on each connection, then every four seconds; on the first, one more
    // after the first second.
    let alive = net.sent(&topic("control/proplet/alive"));
    let connects = net.times(|s| matches!(s, Seen::Connect { .. }));
    let losses = net.times(|s| matches!(s, Seen::Closed));
    let gaps: Vec<_> = alive.windows(2).map(|w| (w[0], w[1] - w[0])).collect();
    assert_eq!(gaps[0].1, 1_000);
    for (from, gap) in &gaps[1..] {
        let interrupted = losses
            .iter()
            .any(|loss| (*from..from + gap + 1).contains(loss));
        assert!(*gap == 4_000 || interrupted, "{gap} ms after {from}");
    }
    // One connection in twelve minutes is mute from its CONNACK on.
    let greeted = connects.iter().filter(|at| alive.contains(at)).count();
    assert_eq!(greeted + 12, connects.len());
}

/// The link lies in the stack of the thread that polls it.
#[test]
fn the_future_of_the_link_is_small() {
    let (net, signals) = (Net::new(), Signals::default());
    let agent = agent(CONFIG);
    let config = LinkConfig {
        host: "192.0.2.1",
        proplet_id: ID,
        ..LinkConfig::DEFAULT
    };
    let status = LinkStatus::new();
    let mut rx = [0; 64];
    let (mut tx, mut will, mut http) = ([0; 64], [0; 64], [0; 64]);
    let signal = async || signals.next().await;
    let buffers = Buffers {
        rx: &mut rx,
        output: &mut [0; 64],
        tx: &mut tx,
        will: &mut will,
        http: [],
    };
    let without = size_of_val(&run(&net, &agent, &config, buffers, signal, &status));
    let buffers = Buffers {
        rx: &mut rx,
        output: &mut [0; 64],
        tx: &mut tx,
        will: &mut will,
        http: [&mut http],
    };
    let with = size_of_val(&run(&net, &agent, &config, buffers, signal, &status));
    println!("{without} bytes, and {} with HTTP", with - without);
    assert!(without <= 4_320, "{without} bytes");
    assert!(with <= 5_584, "{with} bytes");
}
