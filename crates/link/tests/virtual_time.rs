//! The link against a model of a broker, in virtual time.

mod support;

use embassy_futures::{
    select::{Either, select},
    yield_now,
};
use proplet::{
    agent::{Delivery, Event, Qos, Subscription},
    time::Instant,
    wire::{TOPIC_MAX, TopicName},
};
use proplet_link::{
    Application, Buffers, Settings, SetupError, Signal, State, Status, Trouble, run,
};
use proptest::prelude::*;
use std::{cell::RefCell, collections::VecDeque, future::Future, rc::Rc};
use support::{Cut, Dial, Login, Net, Seen, Signals, after, at, now, parks, simulate};

const ALIVE: &str = "m/t/c/c/control/proplet/alive";
const CREATE: &str = "m/t/c/c/control/proplet/create";
const RESULTS: &str = "m/t/c/c/control/proplet/results";
const START: &str = "m/t/c/c/control/manager/start";
const STOP: &str = "m/t/c/c/control/manager/stop";
const INVOKE: &str = "m/t/c/c/control/manager/invoke";
const CHUNKS: &str = "m/t/c/c/registry/server";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Create,
    Alive,
    Result(usize),
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Phase {
    Waiting,
    Given,
    Settled(Delivery),
}

/// What a proplet does, without any of how it does it.
#[derive(Default)]
struct Log {
    sessions: Vec<u64>,
    connected: Vec<u64>,
    disconnected: Vec<u64>,
    alive: Vec<u64>,
    messages: Vec<(u64, String, usize)>,
    oversized: Vec<(u64, String, usize)>,
    settled: Vec<(u64, Token, Delivery)>,
    ticks: Vec<u64>,
}

struct Fake {
    log: Rc<RefCell<Log>>,
    online: bool,
    created: bool,
    creating: bool,
    next_alive: u64,
    again: bool,
    /// Results: text, when it is due, and where it is.
    results: Vec<(String, u64, Phase)>,
    shutdown: bool,
    /// Extra bytes of each result.
    padding: usize,
    /// A task ends at each of these moments, connected or not.
    deadlines: VecDeque<u64>,
    /// Filters that a guest asks for, each from that moment on.
    wanted: VecDeque<(u64, TopicName)>,
}

impl Fake {
    fn new(log: &Rc<RefCell<Log>>) -> Self {
        Self {
            log: log.clone(),
            online: false,
            created: false,
            creating: false,
            next_alive: u64::MAX,
            again: false,
            results: Vec::new(),
            shutdown: false,
            padding: 0,
            deadlines: VecDeque::new(),
            wanted: VecDeque::new(),
        }
    }
}

impl Application for Fake {
    type Token = Token;

    fn handle(&mut self, event: Event<'_>, now: Instant) {
        let ms = now.as_millis();
        let mut log = self.log.borrow_mut();
        match event {
            Event::Connected => {
                assert!(!self.online);
                self.online = true;
                self.next_alive = ms;
                self.again = true;
                log.connected.push(ms);
            }
            Event::Disconnected => {
                assert!(self.online);
                self.online = false;
                log.disconnected.push(ms);
            }
            Event::Message { topic, payload } => {
                log.messages.push((ms, topic.into(), payload.len()));
                if topic == START {
                    let id = String::from_utf8_lossy(payload).into_owned();
                    if !self.results.iter().any(|(known, ..)| *known == id) {
                        self.results.push((id, ms + 250, Phase::Waiting));
                    }
                }
            }
            Event::Oversized { topic, size } => log.oversized.push((ms, topic.into(), size)),
            Event::Tick => {
                log.ticks.push(ms);
                while self.deadlines.front().is_some_and(|at| *at <= ms) {
                    let due = self.deadlines.pop_front().unwrap();
                    assert_eq!(due, ms, "a deadline of a task was served late");
                    self.results
                        .push((format!("task-{due}"), due, Phase::Waiting));
                }
            }
            Event::Shutdown => {
                self.shutdown = true;
                for (_, due, _) in &mut self.results {
                    *due = ms;
                }
            }
            Event::NewSession => log.sessions.push(ms),
            Event::Published(..) => unreachable!(),
        }
    }

    fn published(&mut self, token: Token, delivery: Delivery, now: Instant) {
        self.log
            .borrow_mut()
            .settled
            .push((now.as_millis(), token, delivery));
        match token {
            Token::Create => {
                assert!(std::mem::take(&mut self.creating));
                self.created = delivery == Delivery::Done;
            }
            Token::Alive => {}
            Token::Result(i) => {
                assert_eq!(self.results[i].2, Phase::Given);
                self.results[i].2 = match delivery {
                    Delivery::Lost => Phase::Waiting,
                    other => Phase::Settled(other),
                };
            }
        }
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let now = now.as_millis();
        let alive = Some(self.next_alive).filter(|_| self.online);
        let results = self.results.iter().filter(|r| r.2 == Phase::Waiting);
        results
            .map(|r| r.1)
            .chain(alive)
            .chain(self.deadlines.iter().copied())
            .filter(|at| *at > now)
            .min()
            .map(Instant::from_millis)
    }

    fn poll_publish(&mut self, most: Qos, now: Instant) -> Option<(Token, Qos)> {
        let ms = now.as_millis();
        if !self.online {
            return None;
        }
        if !self.created && !self.creating && most == Qos::AtLeastOnce {
            self.creating = true;
            return Some((Token::Create, Qos::AtLeastOnce));
        }
        if self.next_alive <= ms {
            self.next_alive = ms + if self.again { 1000 } else { 4000 };
            self.again = false;
            self.log.borrow_mut().alive.push(ms);
            return Some((Token::Alive, Qos::AtMostOnce));
        }
        let due = |(_, due, phase): &(_, u64, Phase)| *phase == Phase::Waiting && *due <= ms;
        let next = self.results.iter().position(due)?;
        if most == Qos::AtMostOnce {
            return None;
        }
        self.results[next].2 = Phase::Given;
        Some((Token::Result(next), Qos::AtLeastOnce))
    }

    fn topic(&self, token: Token) -> TopicName {
        let topic = match token {
            Token::Create => CREATE,
            Token::Alive => ALIVE,
            Token::Result(_) => RESULTS,
        };
        topic.try_into().unwrap()
    }

    fn write(&self, token: Token, buf: &mut [u8], now: Instant) -> Option<usize> {
        let text = match token {
            Token::Create => "create".into(),
            Token::Alive => format!("alive {}", now.as_millis()),
            Token::Result(i) => format!("{:1$}", self.results[i].0, self.padding),
        };
        buf.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(text.len())
    }

    fn subscription(&self, index: usize) -> Option<TopicName> {
        let topics = [START, STOP, INVOKE, CHUNKS];
        topics.get(index).map(|topic| (*topic).try_into().unwrap())
    }

    fn poll_subscribe(&mut self) -> Option<Subscription> {
        let is_due = |(at, _): &(u64, TopicName)| *at <= now();
        if !self.online || !self.wanted.front().is_some_and(is_due) {
            return None;
        }
        self.wanted.pop_front().map(|(_, f)| Subscription::Add(f))
    }

    fn will(&self, buf: &mut [u8]) -> Option<(TopicName, usize)> {
        buf.get_mut(..7)?.copy_from_slice(b"offline");
        Some((ALIVE.try_into().unwrap(), 7))
    }

    fn is_drained(&self) -> bool {
        self.shutdown
            && self
                .results
                .iter()
                .all(|r| matches!(r.2, Phase::Settled(_)))
    }
}

static ID: &str = "7f4d8a3c-proplet";

const SETTINGS: Settings<'static> = Settings {
    host: "broker.test",
    port: 1884,
    proplet_id: "7f4d8a3c-proplet",
    api_key: "secret",
    seed: 7,
    ..Settings::DEFAULT
};

struct World {
    net: Net,
    log: Rc<RefCell<Log>>,
    signals: Signals,
    status: &'static Status,
}

/// Runs the link while `script` does.
struct Setup {
    settings: Settings<'static>,
    app: Fake,
    rx: usize,
    tx: usize,
    world: World,
}

impl Setup {
    fn new() -> Self {
        let log = Rc::<RefCell<Log>>::default();
        Self {
            settings: SETTINGS,
            app: Fake::new(&log),
            rx: 1024,
            tx: 2048,
            world: World {
                net: Net::new(),
                log,
                signals: Signals::default(),
                status: Box::leak(Box::default()),
            },
        }
    }

    /// Runs until the script ends, or the link does; whether it was the link.
    fn run<F: Future<Output = ()>>(mut self, script: impl FnOnce(World) -> F) -> bool {
        let world = &self.world;
        let (net, signals, status) = (world.net.clone(), world.signals.clone(), world.status);
        let (mut rx, mut tx, mut will) = (vec![0; self.rx], vec![0; self.tx], [0; 128]);
        let buffers = Buffers {
            rx: &mut rx,
            tx: &mut tx,
            will: &mut will,
            http: [],
        };
        let settings = self.settings;
        let signal = async || signals.next().await;
        let script = script(self.world);
        simulate(async {
            let link = run(&net, &mut self.app, &settings, buffers, signal, status);
            match select(script, link).await {
                Either::First(()) => false,
                Either::Second(result) => {
                    assert_eq!(result, Ok(()));
                    assert_eq!(status.state(), State::Ended);
                    true
                }
            }
        })
    }
}

/// The results that have come, without what was sent again under the same identifier.
fn results(net: &Net) -> Vec<String> {
    let published = net.published(RESULTS);
    published
        .into_iter()
        .map(|(_, text)| text.trim_end().into())
        .collect()
}

/// The results that have come, with repetitions.
fn all_results(net: &Net) -> Vec<String> {
    net.with(|w| {
        let seen = w.seen.iter().filter_map(|(_, seen)| match seen {
            Seen::Publish { topic, payload, .. } if topic == RESULTS => {
                Some(payload.trim_end().to_owned())
            }
            _ => None,
        });
        seen.collect()
    })
}

/// At once, after one more second, then every four seconds, while connected.
fn heartbeats(log: &Log, end: u64) -> Vec<u64> {
    let mut expected = Vec::new();
    for (i, &from) in log.connected.iter().enumerate() {
        let to = log.disconnected.get(i).copied().unwrap_or(end);
        expected.push(from);
        expected.extend((from + 1000..to).step_by(4000));
    }
    expected
}

#[test]
fn an_hour_with_every_kind_of_fault() {
    let started = std::time::Instant::now();
    let mut setup = Setup::new();
    setup.world.net.with(|w| {
        w.write_most = 7;
        w.read_most = 5;
        w.lazy = true;
    });
    setup.app.deadlines = (60_500..3_600_000).step_by(60_000).collect();
    let net = setup.world.net.clone();
    let log = setup.world.log.clone();
    setup.run(async |world| {
        let net = &world.net;
        net.dials(&[
            Dial::Refuse,
            Dial::Never,
            Dial::Mute,
            Dial::MuteAfterConnack,
        ]);
        let mut started = 0;
        for minute in 1..60 {
            at(minute * 60_000).await;
            for _ in 0..3 {
                started += 1;
                net.publish(START, format!("start-{started}").as_bytes());
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
    assert_eq!(log.alive, heartbeats(&log, 3_600_000));
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
    let mut expected = log.alive.clone();
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
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    setup.run(async |world| {
        let net = &world.net;
        at(10_000).await;
        net.with(|w| w.hold_acks = true);
        net.publish(START, b"a");
        at(10_500).await;
        assert_eq!(results(net), ["a"]);
        net.cut(Cut::Reset);
        // A command in the time without a connection.
        net.publish(START, b"b");
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
    let lost = |log: &Log| log.settled.iter().filter(|s| s.2 == Delivery::Lost).count();
    assert_eq!(lost(&log.borrow()), 0);
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
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    setup.run(async |world| {
        let net = &world.net;
        at(10_000).await;
        net.with(|w| w.hold_acks = true);
        net.publish(START, b"a");
        at(10_500).await;
        net.cut(Cut::Reset);
        net.forget();
        net.with(|w| w.hold_acks = false);
        at(15_000).await;
        net.publish(START, b"b");
        at(20_000).await;
    });
    // The broker had the first "a"; only it can know.
    assert_eq!(results(&net), ["a", "a", "b"]);
    assert_eq!(net.times(|s| matches!(s, Seen::Subscribe(_))).len(), 8);
    let log = log.borrow();
    let fate = |token| {
        let of = log.settled.iter().filter(move |s| s.1 == token);
        of.map(|s| s.2).collect::<Vec<_>>()
    };
    assert_eq!(fate(Token::Result(0)), [Delivery::Lost, Delivery::Done]);
    assert_eq!(fate(Token::Result(1)), [Delivery::Done]);
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
        let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
        setup.run(async |world| {
            let net = &world.net;
            at(10_000).await;
            net.publish(START, b"a");
            at(10_249).await;
            after(1).await;
            for _ in 0..point {
                embassy_futures::yield_now().await;
            }
            net.cut(Cut::Reset);
            at(20_000).await;
        });
        let log = log.borrow();
        let done = (Token::Result(0), Delivery::Done);
        let fates = log.settled.iter().filter(|s| (s.1, s.2) == done);
        assert_eq!(fates.count(), 1, "point {point}");
        assert!(!all_results(&net).is_empty(), "point {point}");
        // Whatever comes more than once is marked as a repetition.
        assert_eq!(results(&net), ["a"], "point {point}");
        cuts.insert((all_results(&net).len(), results(&net).len()));
    }
    println!("{cuts:?}");
}

#[test]
fn messages_too_large_are_skipped() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    let status = setup.world.status;
    setup.run(async |world| {
        at(10_000).await;
        world.net.publish(CHUNKS, &vec![b'x'; 10_000_000]);
        world.net.publish(START, b"a");
        world.net.publish(START, b"");
        at(20_000).await;
    });
    let log = log.borrow();
    assert_eq!(log.connected.len(), 1);
    assert_eq!(log.oversized.len(), 1);
    let size = 10_000_000 + 2 + CHUNKS.len() + 2 + 1 + 5;
    assert_eq!(log.oversized[0], (10_000, CHUNKS.into(), size));
    assert_eq!(
        log.messages,
        [(10_000, START.into(), 1), (10_000, START.into(), 0)]
    );
    assert!(results(&net).contains(&"a".into()));
    assert_eq!(net.times(|s| *s == Seen::Acked).len(), 3);
    assert_eq!(status.oversized(), 1);
    assert_eq!(log.alive, heartbeats(&log, 20_000));
}

#[test]
fn an_oversized_message_with_too_long_a_topic_ends_the_connection() {
    let setup = Setup::new();
    let log = setup.world.log.clone();
    let status = setup.world.status;
    setup.run(async |world| {
        at(10_000).await;
        let topic = "t".repeat(TOPIC_MAX + 1);
        world
            .net
            .inject(&support::publish_packet(0x30, &topic, None, &[0; 2000]));
        at(20_000).await;
    });
    assert_eq!(log.borrow().connected.len(), 2);
    assert_eq!(status.last_trouble(), Some(Trouble::Protocol));
}

#[test]
fn refused_credentials_are_tried_again_at_growing_intervals() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    let status = setup.world.status;
    setup.run(async |world| {
        world.net.dials(&[Dial::Login(0x86); 8]);
        world.net.with(|w| w.seen.clear());
        at(100_000).await;
        assert_eq!(world.status.last_trouble(), Some(Trouble::Refused(0x86)));
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
        largest_packet: 1024,
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
        assert_eq!(world.status.state(), State::Waiting);
        world.net.with(|w| w.up = true);
        at(80_000).await;
        assert_eq!(world.status.state(), State::Connected);
        world.net.with(|w| w.up = false);
        world.net.cut(Cut::Eof);
        at(200_000).await;
        world.net.with(|w| w.up = true);
        at(200_010).await;
        assert_eq!(world.status.state(), State::Connected);
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
        let trouble = status.last_trouble().unwrap();
        assert_eq!(trouble, Trouble::Refused(answer[3]));
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
        let log = setup.world.log.clone();
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
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    let status = setup.world.status;
    setup.run(async |world| {
        world.net.with(|w| w.refuse_subscribe = Some(0x87));
        at(10_000).await;
        assert_eq!(
            world.status.last_trouble(),
            Some(Trouble::Subscription(0x87))
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
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    setup.run(async |world| {
        world.net.dials(&[Dial::MuteAfterConnack; 12]);
        at(1_200_000).await;
        world.net.publish(START, b"a");
        after(1_000).await;
    });
    assert_eq!(log.borrow().connected.len(), 1);
    assert_eq!(results(&net), ["a"]);
}

#[test]
fn shutdown_drains_results_and_says_goodbye() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    let ended = setup.run(async |world| {
        at(10_000).await;
        for i in 0..12 {
            world.net.publish(START, format!("{i}").as_bytes());
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
    let log = log.borrow();
    assert_eq!(
        log.settled.iter().filter(|s| s.2 != Delivery::Done).count(),
        0
    );
}

#[test]
fn shutdown_ends_after_the_grace_period_or_the_second_signal() {
    for (second, end) in [(None, 12_000), (Some(500), 10_500)] {
        let setup = Setup::new();
        let net = setup.world.net.clone();
        let ended = setup.run(async |world| {
            at(9_000).await;
            world.net.with(|w| w.hold_acks = true);
            world.net.publish(START, b"a");
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
    let mut setup = Setup::new();
    setup.app.deadlines = (10_100..30_000).step_by(100).collect();
    let log = setup.world.log.clone();
    let status = setup.world.status;
    setup.run(async |world| {
        at(10_000).await;
        world.net.jam();
        at(30_000).await;
    });
    let log = log.borrow();
    // The next write was at 10.1 s; task deadlines were served all along.
    assert_eq!(log.disconnected, [20_100]);
    assert_eq!(status.last_trouble(), Some(Trouble::Stalled));
    assert_eq!(log.connected.len(), 2);
}

#[test]
fn an_acknowledgement_that_hangs_is_not_forgotten_over_ticks() {
    let setup = Setup::new();
    let log = setup.world.log.clone();
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
    assert_eq!(log.borrow().disconnected, [21_000]);
}

#[test]
fn a_broker_gone_silent_is_dropped() {
    let setup = Setup::new();
    let log = setup.world.log.clone();
    let status = setup.world.status;
    setup.run(async |world| {
        at(100_000).await;
        assert_eq!(world.status.connects(), 1);
        world.net.mute();
        at(150_000).await;
    });
    let log = log.borrow();
    assert_eq!(status.last_trouble(), Some(Trouble::Silent));
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
        let log = setup.world.log.clone();
        setup.run(async |world| {
            world.net.with(|w| w.maximum_qos = maximum);
            at(3_600_000).await;
        });
        let log = log.borrow();
        assert_eq!(log.connected.len(), 1);
        assert_eq!(log.disconnected.len(), 0);
        let arrived = net.sent(ALIVE);
        assert_eq!(arrived, log.alive);
    }
}

#[test]
fn a_full_window_holds_back_no_heartbeat() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    setup.run(async |world| {
        at(10_000).await;
        world.net.with(|w| w.hold_acks = true);
        for i in 0..20 {
            world.net.publish(START, format!("{i}").as_bytes());
        }
        at(24_000).await;
        assert_eq!(results(&world.net).len(), 8);
        world.net.cut(Cut::Reset);
        world.net.with(|w| w.hold_acks = false);
        at(40_000).await;
    });
    let log = log.borrow();
    assert_eq!(log.alive, heartbeats(&log, 40_000));
    let mut texts = results(&net);
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 20);
    assert_eq!(results(&net).len(), 20);
}

#[test]
fn a_full_send_buffer_delays_and_only_a_result_too_large_is_refused() {
    let mut setup = Setup::new();
    setup.app.padding = 700;
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    setup.run(async |world| {
        at(10_000).await;
        for i in 0..10 {
            world.net.publish(START, format!("{i}").as_bytes());
        }
        world.net.publish(START, &[b'x'; 980]);
        at(20_000).await;
    });
    assert_eq!(results(&net).len(), 11);
    assert_eq!(log.borrow().disconnected.len(), 0);

    let mut setup = Setup::new();
    setup.app.padding = 3000;
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    setup.run(async |world| {
        at(10_000).await;
        world.net.publish(START, b"a");
        at(20_000).await;
    });
    assert_eq!(results(&net).len(), 0);
    let log = log.borrow();
    assert_eq!(log.settled.last().map(|s| s.1), Some(Token::Alive));
    assert!(
        log.settled
            .contains(&(10_250, Token::Result(0), Delivery::TooLarge))
    );
    assert_eq!(log.alive, heartbeats(&log, 20_000));
}

#[test]
fn a_publication_that_the_broker_ends_connections_for_is_given_up_and_no_other() {
    let setup = Setup::new();
    let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
    setup.run(async |world| {
        let net = &world.net;
        net.with(|w| w.poison = Some("b"));
        at(10_000).await;
        for id in [b"a", b"b", b"c", b"d"] {
            net.publish(START, id);
        }
        at(100_000).await;
        net.publish(START, b"e");
        at(110_000).await;
    });
    let log = log.borrow();
    let refused: Vec<_> = log
        .settled
        .iter()
        .filter(|s| s.2 == Delivery::Refused)
        .collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].1, Token::Result(1));
    let came = results(&net);
    for id in ["a", "c", "d", "e"] {
        assert_eq!(came.iter().filter(|r| *r == id).count(), 1, "{came:?}");
    }
    assert_eq!(log.disconnected.len(), 3);
    assert_eq!(log.sessions.len(), 2, "the first, and the one after that");
}

#[test]
fn a_guests_subscription_waits_for_room_in_the_send_buffer() {
    let filter = format!("m/t/c/c/{}", "x".repeat(110));
    for padding in (300..900).step_by(50) {
        let mut setup = Setup::new();
        setup.app.padding = padding;
        let topic = TopicName::try_from(filter.as_str()).unwrap();
        setup.app.wanted.push_back((12_000, topic));
        let net = setup.world.net.clone();
        setup.run(async |world| {
            let net = &world.net;
            at(10_000).await;
            net.with(|w| w.hold_acks = true);
            for id in [b"a", b"b", b"c", b"d", b"e", b"f"] {
                net.publish(START, id);
            }
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
        let mut setup = Setup::new();
        setup.world.net.with(|w| {
            w.write_most = 1;
            w.lazy = true;
        });
        let topic = TopicName::try_from("m/t/c/c/guest").unwrap();
        setup.app.wanted.push_back((12_000, topic));
        let net = setup.world.net.clone();
        setup.run(async |world| {
            at(12_000).await;
            world.net.publish(START, b"a");
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
fn a_refused_publication_is_told_as_refused() {
    let setup = Setup::new();
    let log = setup.world.log.clone();
    setup.run(async |world| {
        at(10_000).await;
        world
            .net
            .with(|w| w.refuse_publish = Some(("results", 0x97)));
        world.net.publish(START, b"a");
        at(10_500).await;
        world.net.with(|w| w.refuse_publish = None);
        world.net.publish(START, b"b");
        at(20_000).await;
    });
    let log = log.borrow();
    assert_eq!(log.connected.len(), 1);
    assert!(
        log.settled
            .contains(&(10_250, Token::Result(0), Delivery::Refused))
    );
    assert!(
        log.settled
            .contains(&(10_750, Token::Result(1), Delivery::Done))
    );
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
        setup.settings.host = host;
        let status = setup.world.status;
        setup.run(async |world| {
            world.net.with(|w| w.resolves = resolves);
            at(100).await;
        });
        assert_eq!(status.connects() == 1, connected, "{host}");
        if !connected {
            assert_eq!(status.last_trouble(), Some(Trouble::Resolve));
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
        setup.settings.host = host;
        setup.settings.tls = tls;
        let (status, net) = (setup.world.status, setup.world.net.clone());
        net.with(|w| w.has_tls = true);
        setup.run(async |_| at(100).await);
        assert_eq!(status.connects(), 1, "{host}");
        let hosts = net.with(|w| w.tls_hosts.clone());
        assert_eq!(hosts, Vec::from_iter(name), "{host}");
    }
    let mut setup = Setup::new();
    setup.settings.tls = true;
    let (status, net) = (setup.world.status, setup.world.net.clone());
    net.with(|w| w.has_tls = true);
    net.dials(&[Dial::Impostor]);
    setup.run(async |world| {
        at(100).await;
        assert_eq!(world.status.last_trouble(), Some(Trouble::Tls));
        // It tries again.
        at(5_000).await;
    });
    assert_eq!(status.connects(), 1);
}

#[test]
fn no_key_no_user_and_no_will() {
    let mut setup = Setup::new();
    setup.settings.api_key = "";
    setup.settings.will = false;
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
    for (host, tls, id, error) in [
        ("", false, "id", SetupError::Host),
        ("h", true, "id", SetupError::Tls),
        ("h", false, "", SetupError::PropletId),
        ("h", false, LONG, SetupError::PropletId),
    ] {
        let settings = Settings {
            host,
            tls,
            proplet_id: id,
            ..SETTINGS
        };
        let mut app = Fake::new(&Rc::default());
        let (net, signals, status) = (Net::new(), Signals::default(), Status::new());
        let (mut rx, mut tx, mut will) = ([0; 64], [0; 64], [0; 64]);
        let buffers = Buffers {
            rx: &mut rx,
            tx: &mut tx,
            will: &mut will,
            http: [],
        };
        let result = simulate(run(
            &net,
            &mut app,
            &settings,
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
    assert_eq!(status.last_trouble(), Some(Trouble::Buffer));
}

#[test]
fn a_worker_is_served_at_once_whatever_the_link_does() {
    for dial in [Dial::Accept, Dial::Refuse, Dial::Never, Dial::Mute] {
        let setup = Setup::new();
        let log = setup.world.log.clone();
        setup.run(async |world| {
            world.net.dials(&[dial]);
            at(321).await;
            world.signals.send(Signal::Work);
            at(400).await;
        });
        assert!(log.borrow().ticks.contains(&321), "{dial:?}");
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
    Oversized,
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
        1 => Just(Fault::Oversized),
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
        let (net, log) = (setup.world.net.clone(), setup.world.log.clone());
        let forgets = faults.iter().any(|(_, fault)| matches!(fault, Fault::Forget));
        // A fault that finds no connection does nothing; what was started without a session is
        // nobody's.
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
                        net.publish(START, format!("{started}").as_bytes());
                    },
                    Fault::Oversized => net.publish(CHUNKS, &[0; 5_000]),
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
        let mut alive = log.alive.clone();
        let mut expected = heartbeats(&log, now() + 1);
        alive.retain(|at| !unsure(at));
        expected.retain(|at| !unsure(at));
        prop_assert_eq!(alive, expected);
        // Each result was told as delivered exactly once, and has arrived.
        let done = |token| log.settled.iter().filter(|s| (s.1, s.2) == (token, Delivery::Done)).count();
        let mut arrived = all_results(&net);
        arrived.sort();
        arrived.dedup();
        for i in 0..arrived.len() {
            prop_assert_eq!(done(Token::Result(i)), 1, "result {}", i);
        }
        prop_assert_eq!(done(Token::Result(arrived.len())), 0);
        // New to the broker only once each, unless it has forgotten something.
        let mut new = results(&net);
        let count = new.len();
        new.sort();
        new.dedup();
        prop_assert!(forgets || count == new.len(), "{:?}", new);
    }
}
