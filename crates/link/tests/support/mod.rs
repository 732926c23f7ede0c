//! A virtual clock, a network in memory with faults on demand, and a model of an MQTT 5 broker.
//!
//! Each test runs in a thread of its own, and so has a clock of its own.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test files of which none uses it all"
)]

pub mod proplet;
pub mod setup;

use ::proplet::agent::RECEIVE_MAXIMUM;
use embassy_time::{Duration, Instant, Timer};
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use embedded_nal_async::{AddrType, Dns, TcpConnect};
use proplet_link::{
    Signal, Stack, TlsError,
    reactor::{Alarm, block_on},
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, pending, poll_fn},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Poll, Wake, Waker},
};

thread_local! {
    static WARNINGS: RefCell<Vec<(u64, String)>> = const { RefCell::new(Vec::new()) };
    static NOW: Cell<u64> = const { Cell::new(0) };
    static PARKS: Cell<u64> = const { Cell::new(0) };
    static ALARM: Alarm = const { Alarm::new() };
}

struct Clock;

impl embassy_time_driver::Driver for Clock {
    fn now(&self) -> u64 {
        NOW.get()
    }

    fn schedule_wake(&self, at: u64, _: &Waker) {
        ALARM.with(|alarm| alarm.schedule(at));
    }
}

embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock);

/// Keeps the warnings of each thread.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            WARNINGS.with_borrow_mut(|w| w.push((now(), record.args().to_string())));
        }
    }

    fn flush(&self) {}
}

/// Warnings and errors of the simulation, with their milliseconds.
pub fn warnings() -> Vec<(u64, String)> {
    WARNINGS.with_borrow(Clone::clone)
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// Runs `future` from the moment of boot; whenever it is pending and nothing has woken it, time jumps to its next timer.
pub fn simulate<F: Future>(future: F) -> F::Output {
    NOW.set(0);
    PARKS.set(0);
    WARNINGS.take();
    // Another test may have set it.
    let _ = log::set_logger(&Logger);
    log::set_max_level(log::LevelFilter::Warn);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    ALARM.with(|alarm| {
        block_on(alarm, &waker, future, |deadline| {
            PARKS.set(PARKS.get() + 1);
            assert!(PARKS.get() < 5_000_000, "it spins at {} ms", now());
            if !woken.0.swap(false, Relaxed) {
                let at = deadline.expect("nothing will ever happen again");
                NOW.set(NOW.get().max(at.as_ticks()));
            }
        })
    })
}

/// How often the task has been pending.
pub fn parks() -> u64 {
    PARKS.get()
}

/// Milliseconds of virtual time.
pub fn now() -> u64 {
    Instant::now().as_millis()
}

/// Lets time pass without a turn for others.
pub fn spend(ms: u64) {
    NOW.set(NOW.get() + Duration::from_millis(ms).as_ticks());
}

pub async fn at(ms: u64) {
    Timer::at(Instant::from_millis(ms)).await;
}

pub async fn after(ms: u64) {
    Timer::after(Duration::from_millis(ms)).await;
}

/// Outcome of a connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    Accept,
    /// Connection refused.
    Refuse,
    /// No answer.
    Never,
    /// A connection on which nothing is said.
    Mute,
    /// A CONNACK with this code, then the end.
    Login(u8),
    /// These bytes in answer to the CONNECT.
    Say(&'static [u8]),
    /// A CONNACK, and then nothing.
    MuteAfterConnack,
    /// A session is said to be present, whether it is or not.
    Present,
    /// The connection breaks behind the CONNECT.
    Break,
    /// It breaks before the CONNACK, when the session has begun or was taken up.
    Lose,
    /// A TCP connection, and no TLS on it.
    Impostor,
}

/// An event that the broker has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Dial,
    Connect {
        clean: bool,
        present: bool,
    },
    Subscribe(String),
    Unsubscribe(String),
    Publish {
        topic: String,
        payload: String,
        qos: u8,
        dup: bool,
        /// Packet identifier; 0 at QoS 0.
        id: u16,
    },
    /// The acknowledgement of a message of the broker's.
    Acked,
    Ping,
    /// With its session expiry interval.
    Disconnect(Option<u32>),
    Will(String),
    Closed,
}

#[derive(Debug)]
pub struct Fault(pub ErrorKind);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Fault {}

impl embedded_io_async::Error for Fault {
    fn kind(&self) -> ErrorKind {
        self.0
    }
}

/// The end of the connection as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Eof,
    Reset,
}

#[derive(Default)]
struct Pipe {
    id: u64,
    dial: Option<Dial>,
    to_client: VecDeque<u8>,
    to_broker: Vec<u8>,
    cut: Option<Cut>,
    /// Bytes that are written vanish, and none come.
    mute: bool,
    /// Nothing more can be written.
    jammed: bool,
    waker: Option<Waker>,
    /// The will of the CONNECT.
    will: Option<(String, Vec<u8>)>,
    connected: bool,
}

#[derive(Default)]
struct Session {
    filters: Vec<String>,
    /// Messages not acknowledged, with their identifiers and whether they were sent before.
    unacked: VecDeque<(u16, String, Vec<u8>, bool)>,
    next: u16,
    expiry: u32,
    /// When the connection was lost, in milliseconds.
    lost: Option<u64>,
}

/// Contents of the last CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub client: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub session_expiry: u32,
    pub largest_packet: u32,
    /// Quality of service of the will, if there is one.
    pub will: Option<u8>,
}

pub struct World {
    pub dials: VecDeque<Dial>,
    pub seen: Vec<(u64, Seen)>,
    /// Most bytes that one write takes, and one read gives.
    pub write_most: usize,
    pub read_most: usize,
    /// Each read and write is pending once before it is ready.
    pub lazy: bool,
    /// More messages are sent at once than the Receive Maximum allows.
    pub floods: bool,
    /// Subscriptions and QoS 1 publications are taken but not acknowledged.
    pub hold_acks: bool,
    /// The code with which publications to a topic are refused.
    pub refuse_publish: Option<(&'static str, u8)>,
    /// Nobody is subscribed to publications on topics that end so.
    pub deserted: Option<&'static str>,
    /// A CONNECT that asks for a session that is not there is answered by the end of the connection.
    pub hates_strangers: bool,
    /// A part of a payload for which the broker ends the connection.
    pub poison: Option<&'static str>,
    /// The code with which subscriptions are refused.
    pub refuse_subscribe: Option<u8>,
    /// The broker's Maximum QoS, if it says one.
    pub maximum_qos: Option<u8>,
    pub resolves: bool,
    /// Whether there is a network.
    pub up: bool,
    /// Whether the network has TLS, and the names that were asked for by it.
    pub has_tls: bool,
    pub tls_hosts: Vec<String>,
    /// When connections have gone mute.
    pub mutes: Vec<u64>,
    /// Publications that were written to a mute connection: times and topics.
    pub vanished: Vec<(u64, String)>,
    /// Identifiers of the broker's messages that were acknowledged, in order.
    pub acked: Vec<u16>,
    /// Publications that were acknowledged: times and topics.
    pub acknowledged: Vec<(u64, String)>,
    pub login: Option<Login>,
    pipe: Option<Pipe>,
    session: Option<Session>,
    ids: u64,
}

/// The network, and the broker at its end. Clones are the same.
#[derive(Clone)]
pub struct Net(pub Rc<RefCell<World>>);

impl Net {
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(World {
            dials: VecDeque::new(),
            seen: Vec::new(),
            write_most: usize::MAX,
            read_most: usize::MAX,
            lazy: false,
            floods: false,
            hold_acks: false,
            refuse_publish: None,
            deserted: None,
            hates_strangers: false,
            poison: None,
            refuse_subscribe: None,
            maximum_qos: None,
            resolves: true,
            up: true,
            has_tls: false,
            tls_hosts: Vec::new(),
            mutes: Vec::new(),
            vanished: Vec::new(),
            acked: Vec::new(),
            acknowledged: Vec::new(),
            login: None,
            pipe: None,
            session: None,
            ids: 0,
        })))
    }

    pub fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        f(&mut self.0.borrow_mut())
    }

    /// Outcomes of the next attempts; those after them are accepted.
    pub fn dials(&self, dials: &[Dial]) {
        self.with(|w| w.dials.extend(dials));
    }

    /// Ends the connection.
    pub fn cut(&self, cut: Cut) {
        self.with(|w| {
            w.closed(false);
            if let Some(pipe) = &mut w.pipe {
                pipe.cut = Some(cut);
                pipe.wake();
            }
        });
    }

    /// The link goes dead without anyone being told.
    pub fn mute(&self) {
        self.with(|w| {
            w.mutes.push(now());
            let pipe = w.pipe.as_mut().unwrap();
            pipe.mute = true;
            pipe.to_client.clear();
        });
    }

    /// The broker stops reading.
    pub fn jam(&self) {
        self.with(|w| w.pipe.as_mut().unwrap().jammed = true);
    }

    /// The broker forgets its session.
    pub fn forget(&self) {
        self.with(|w| w.session = None);
    }

    /// The broker closes the connection with a reason.
    pub fn kick(&self, code: u8) {
        self.with(|w| w.send(&[0xe0, 1, code]));
        self.cut(Cut::Eof);
    }

    /// Sends raw bytes to the client.
    pub fn inject(&self, bytes: &[u8]) {
        self.with(|w| w.send(bytes));
    }

    /// A message for all that have subscribed, at QoS 1.
    pub fn publish(&self, topic: &str, payload: &[u8]) {
        self.with(|w| {
            let Some(session) = &mut w.session else {
                return;
            };
            if !session.filters.iter().any(|filter| filter == topic) {
                return;
            }
            session.next += 1;
            let id = session.next;
            session
                .unacked
                .push_back((id, topic.into(), payload.into(), false));
            w.deliver();
        });
    }

    pub fn is_connected(&self) -> bool {
        self.with(|w| {
            w.pipe
                .as_ref()
                .is_some_and(|p| p.connected && p.cut.is_none())
        })
    }

    /// Times of publications to a topic that were written as they were first sent.
    pub fn written(&self, topic: &str) -> Vec<u64> {
        let mut times = self.sent(topic);
        self.with(|w| {
            let vanished = w.vanished.iter().filter(|(_, t)| t == topic);
            times.extend(vanished.map(|(at, _)| *at));
        });
        times.sort_unstable();
        times
    }

    /// Times and contents of publications to a topic, without those that were sent again for the same
    /// packet identifier.
    pub fn published(&self, topic: &str) -> Vec<(u64, String)> {
        let mut known = Vec::new();
        self.with(|w| {
            let seen = w.seen.iter().filter_map(|(at, seen)| match seen {
                Seen::Publish {
                    topic: t,
                    payload,
                    id,
                    ..
                } if t == topic => {
                    let key = (payload.clone(), *id);
                    let new = *id == 0 || !known.contains(&key);
                    known.push(key);
                    new.then(|| (*at, payload.clone()))
                }
                _ => None,
            });
            seen.collect()
        })
    }

    /// Times of publications to a topic that came as they were first sent.
    pub fn sent(&self, topic: &str) -> Vec<u64> {
        self.times(|seen| matches!(seen, Seen::Publish { topic: t, dup: false, .. } if t == topic))
    }

    pub fn times(&self, what: impl Fn(&Seen) -> bool) -> Vec<u64> {
        self.with(|w| {
            w.seen
                .iter()
                .filter(|(_, seen)| what(seen))
                .map(|(at, _)| *at)
                .collect()
        })
    }
}

pub fn publish_packet(first: u8, topic: &str, id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend((topic.len() as u16).to_be_bytes());
    body.extend(topic.as_bytes());
    if let Some(id) = id {
        body.extend(id.to_be_bytes());
    }
    body.push(0);
    body.extend(payload);
    packet(first, &body)
}

pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut n = body.len();
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        packet.push(if n > 0 { byte | 0x80 } else { byte });
        if n == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// Takes a length as MQTT writes it.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn bytes(&mut self) -> &'a [u8] {
        let n = self.u16();
        self.take(n.into())
    }

    fn string(&mut self) -> String {
        String::from_utf8(self.bytes().into()).unwrap()
    }

    fn properties(&mut self) -> Reader<'a> {
        let (n, used) = varint(self.0).unwrap();
        self.take(used);
        Reader(self.take(n))
    }
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl World {
    fn see(&mut self, seen: Seen) {
        self.seen.push((now(), seen));
    }

    fn send(&mut self, bytes: &[u8]) {
        if let Some(pipe) = &mut self.pipe
            && !pipe.mute
        {
            pipe.to_client.extend(bytes);
            pipe.wake();
        }
    }

    /// Sends what has not been sent on this connection.
    fn deliver(&mut self) {
        if !self
            .pipe
            .as_ref()
            .is_some_and(|p| p.connected && p.cut.is_none())
        {
            return;
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let window = match self.floods {
            true => usize::MAX,
            false => RECEIVE_MAXIMUM,
        };
        let mut bytes = Vec::new();
        for (id, topic, payload, sent) in session.unacked.iter_mut().take(window) {
            if !*sent {
                *sent = true;
                bytes.extend(publish_packet(0x32, topic, Some(*id), payload));
            }
        }
        self.send(&bytes);
    }

    /// The end of a connection, as the broker sees it.
    fn closed(&mut self, graceful: bool) {
        let Some(pipe) = &mut self.pipe else { return };
        if !pipe.connected {
            return;
        }
        pipe.connected = false;
        let will = pipe.will.take();
        if let Some(session) = &mut self.session {
            session.lost = Some(now());
            if session.expiry == 0 {
                self.session = None;
            }
        }
        if !graceful {
            self.see(Seen::Closed);
            if let Some((topic, _)) = will {
                self.see(Seen::Will(topic));
            }
        }
    }

    /// Takes what the client has written.
    fn receive(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            let bytes = &pipe.to_broker;
            let Some((len, used)) = bytes.get(1..).and_then(varint) else {
                return;
            };
            let size = 1 + used + len;
            if bytes.len() < size {
                return;
            }
            let packet: Vec<u8> = pipe.to_broker.drain(..size).collect();
            self.packet(packet[0], &packet[1 + used..]);
        }
    }

    fn packet(&mut self, first: u8, body: &[u8]) {
        let mut r = Reader(body);
        if self.pipe.as_ref().is_some_and(|pipe| pipe.mute) {
            if first >> 4 == 3 && first & 8 == 0 {
                self.vanished.push((now(), r.string()));
            }
            return;
        }
        match first >> 4 {
            1 => self.connect(r),
            3 => {
                let qos = (first >> 1) & 3;
                let topic = r.string();
                let id = (qos > 0).then(|| r.u16());
                r.properties();
                let payload = String::from_utf8(r.0.into()).unwrap();
                let is_poison = self.poison.is_some_and(|poison| payload.contains(poison));
                let refused = self
                    .refuse_publish
                    .filter(|(suffix, _)| topic.ends_with(suffix));
                let name = topic.clone();
                self.see(Seen::Publish {
                    topic,
                    payload,
                    qos,
                    dup: first & 8 != 0,
                    id: id.unwrap_or(0),
                });
                if is_poison {
                    self.send(&[0xe0, 1, 0x82]);
                    self.closed(false);
                    // Packets behind it are not answered.
                    self.pipe.as_mut().unwrap().mute = true;
                } else if let Some(id) = id
                    && !self.hold_acks
                {
                    let [high, low] = id.to_be_bytes();
                    match refused {
                        Some((_, code)) => self.send(&[0x40, 3, high, low, code]),
                        None if self.deserted.is_some_and(|end| name.ends_with(end)) => {
                            self.send(&[0x40, 3, high, low, 0x10]);
                        }
                        None => {
                            self.acknowledged.push((now(), name));
                            self.send(&[0x40, 2, high, low]);
                        }
                    }
                }
            }
            4 => {
                let id = r.u16();
                self.see(Seen::Acked);
                self.acked.push(id);
                if let Some(session) = &mut self.session {
                    session.unacked.retain(|m| m.0 != id);
                }
                self.deliver();
            }
            8 => {
                let id = r.u16();
                r.properties();
                let mut codes = Vec::new();
                while !r.0.is_empty() {
                    let filter = r.string();
                    let options = r.u8();
                    self.see(Seen::Subscribe(filter.clone()));
                    codes.push(self.refuse_subscribe.unwrap_or(options & 3));
                    if self.refuse_subscribe.is_none() {
                        let session = self.session.as_mut().unwrap();
                        if !session.filters.contains(&filter) {
                            session.filters.push(filter);
                        }
                    }
                }
                let mut ack = id.to_be_bytes().to_vec();
                ack.push(0);
                ack.extend(codes);
                let ack = packet(0x90, &ack);
                if !self.hold_acks {
                    self.send(&ack);
                }
            }
            10 => {
                let id = r.take(2).to_vec();
                r.properties();
                let mut ack = [&id[..], &[0]].concat();
                while !r.0.is_empty() {
                    let filter = r.string();
                    let session = self.session.as_mut().unwrap();
                    session.filters.retain(|known| *known != filter);
                    self.see(Seen::Unsubscribe(filter));
                    ack.push(0);
                }
                self.send(&packet(0xb0, &ack));
            }
            12 => {
                self.see(Seen::Ping);
                self.send(&[0xd0, 0]);
            }
            14 => {
                let mut expiry = None;
                if r.0.len() > 2 {
                    r.u8();
                    let mut p = r.properties();
                    while !p.0.is_empty() {
                        assert_eq!(p.u8(), 0x11);
                        expiry = Some(p.u32());
                    }
                }
                if let (Some(expiry), Some(session)) = (expiry, &mut self.session) {
                    session.expiry = expiry;
                }
                self.see(Seen::Disconnect(expiry));
                self.closed(true);
            }
            other => panic!("the client sent a packet of type {other}"),
        }
    }

    fn connect(&mut self, mut r: Reader<'_>) {
        assert_eq!(r.string(), "MQTT");
        assert_eq!(r.u8(), 5);
        let flags = r.u8();
        let _keep_alive = r.u16();
        let (mut expiry, mut largest) = (0, 0);
        let mut p = r.properties();
        while !p.0.is_empty() {
            match p.u8() {
                0x11 => expiry = p.u32(),
                0x27 => largest = p.u32(),
                // The places of the ring of messages that await their acknowledgement.
                0x21 => assert_eq!(p.u16(), 8),
                other => panic!("property {other:#x}"),
            }
        }
        let client = r.string();
        let will_qos = (flags & 4 != 0).then_some((flags >> 3) & 3);
        assert_eq!(flags & 0x20, 0, "the will is not retained");
        let will = (flags & 4 != 0).then(|| {
            r.properties();
            (r.string(), r.bytes().to_vec())
        });
        let user = (flags & 0x80 != 0).then(|| r.string());
        let password = (flags & 0x40 != 0).then(|| r.string());
        assert!(r.0.is_empty());
        self.login = Some(Login {
            client,
            user,
            password,
            session_expiry: expiry,
            largest_packet: largest,
            will: will_qos,
        });

        let clean = flags & 2 != 0;
        let dial = self.pipe.as_ref().and_then(|p| p.dial).unwrap();
        match dial {
            Dial::Login(code) => {
                self.see(Seen::Connect {
                    clean,
                    present: false,
                });
                self.send(&[0x20, 3, 0, code, 0]);
                self.pipe.as_mut().unwrap().cut = Some(Cut::Eof);
                return;
            }
            Dial::Say(bytes) => {
                self.send(bytes);
                self.pipe.as_mut().unwrap().cut = Some(Cut::Eof);
                return;
            }
            Dial::Mute => return,
            _ => {}
        }
        let expired = |s: &Session| {
            s.lost
                .is_some_and(|lost| now() >= lost + u64::from(s.expiry) * 1000)
        };
        if clean || self.session.as_ref().is_some_and(expired) {
            self.session = None;
        }
        let refusal = match (dial, self.maximum_qos) {
            (Dial::Break, _) => Some(Cut::Reset),
            _ if self.hates_strangers && !clean && self.session.is_none() => Some(Cut::Eof),
            (_, Some(qos)) if will_qos > Some(qos) => {
                self.send(&[0x20, 3, 0, 0x9b, 0]);
                Some(Cut::Eof)
            }
            _ => None,
        };
        let present = self.session.is_some() || dial == Dial::Present;
        if refusal.is_some() {
            self.see(Seen::Connect { clean, present });
            self.pipe.as_mut().unwrap().cut = refusal;
            return;
        }
        let session = self.session.get_or_insert_default();
        session.expiry = expiry;
        if dial == Dial::Lose {
            session.lost = Some(now());
            self.see(Seen::Connect { clean, present });
            self.pipe.as_mut().unwrap().cut = Some(Cut::Reset);
            return;
        }
        session.lost = None;
        for message in &mut session.unacked {
            message.3 = false;
        }
        let pipe = self.pipe.as_mut().unwrap();
        pipe.will = will;
        pipe.connected = true;
        self.see(Seen::Connect { clean, present });
        let mut properties = vec![];
        if let Some(qos) = self.maximum_qos {
            properties.extend([0x24, qos]);
        }
        let mut ack = vec![u8::from(present), 0, properties.len() as u8];
        ack.extend(properties);
        let ack = packet(0x20, &ack);
        self.send(&ack);
        if dial == Dial::MuteAfterConnack {
            self.mutes.push(now());
            self.pipe.as_mut().unwrap().mute = true;
        }
        self.deliver();
    }
}

pub struct Stream {
    net: Net,
    id: u64,
    waited: bool,
}

impl Stream {
    /// Runs `f` on the pipe of this connection until it gives something.
    async fn with<T>(
        &mut self,
        mut f: impl FnMut(&mut World) -> Option<Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let waited = &mut self.waited;
        let id = self.id;
        let net = &self.net;
        poll_fn(move |cx| {
            let mut w = net.0.borrow_mut();
            let lazy = w.lazy;
            let Some(pipe) = w.pipe.as_mut().filter(|p| p.id == id) else {
                return Poll::Ready(Err(Fault(ErrorKind::NotConnected)));
            };
            pipe.waker = Some(cx.waker().clone());
            if lazy && !*waited {
                *waited = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match f(&mut w) {
                Some(result) => {
                    *waited = false;
                    Poll::Ready(result)
                }
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.net.with(|w| {
            if w.pipe.as_ref().is_some_and(|p| p.id == self.id) {
                w.closed(false);
                w.pipe = None;
            }
        });
    }
}

impl ErrorType for Stream {
    type Error = Fault;
}

impl Read for Stream {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
        self.with(|w| {
            let most = w.read_most.min(buf.len());
            let pipe = w.pipe.as_mut()?;
            if pipe.to_client.is_empty() {
                return match pipe.cut? {
                    Cut::Eof => Some(Ok(0)),
                    Cut::Reset => Some(Err(Fault(ErrorKind::ConnectionReset))),
                };
            }
            let n = most.min(pipe.to_client.len());
            for (to, from) in buf.iter_mut().zip(pipe.to_client.drain(..n)) {
                *to = from;
            }
            Some(Ok(n))
        })
        .await
    }
}

impl Write for Stream {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Fault> {
        self.with(|w| {
            let n = w.write_most.min(buf.len());
            let pipe = w.pipe.as_mut()?;
            if pipe.cut.is_some() {
                return Some(Err(Fault(ErrorKind::BrokenPipe)));
            }
            if pipe.jammed {
                return None;
            }
            pipe.to_broker.extend(&buf[..n]);
            w.receive();
            Some(Ok(n))
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

impl TcpConnect for Net {
    type Error = Fault;
    type Connection<'a> = Stream;

    async fn connect(&self, _: SocketAddr) -> Result<Stream, Fault> {
        let dial = self.with(|w| {
            w.see(Seen::Dial);
            w.dials.pop_front().unwrap_or(Dial::Accept)
        });
        match dial {
            Dial::Refuse => return Err(Fault(ErrorKind::ConnectionRefused)),
            Dial::Impostor => return Err(Fault(ErrorKind::InvalidData)),
            Dial::Never => pending().await,
            _ => {}
        }
        self.with(|w| {
            w.closed(false);
            w.ids += 1;
            w.pipe = Some(Pipe {
                id: w.ids,
                dial: Some(dial),
                ..Pipe::default()
            });
            Ok(Stream {
                net: self.clone(),
                id: w.ids,
                waited: false,
            })
        })
    }
}

impl Stack for Net {
    fn is_up(&self) -> bool {
        self.with(|w| w.up)
    }

    fn has_tls(&self) -> bool {
        self.with(|w| w.has_tls)
    }

    async fn connect_tls(&self, remote: SocketAddr, host: &str) -> Result<Stream, TlsError<Fault>> {
        self.with(|w| w.tls_hosts.push(host.into()));
        Ok(self.connect(remote).await?)
    }
}

impl Dns for Net {
    type Error = Fault;

    async fn get_host_by_name(&self, _: &str, _: AddrType) -> Result<IpAddr, Fault> {
        if self.with(|w| w.resolves) {
            Ok(IpAddr::from([192, 0, 2, 1]))
        } else {
            Err(Fault(ErrorKind::NotFound))
        }
    }

    async fn get_host_by_address(&self, _: IpAddr, _: &mut [u8]) -> Result<usize, Fault> {
        Err(Fault(ErrorKind::Unsupported))
    }
}

/// Signals from a script to the link.
#[derive(Clone, Default)]
pub struct Signals(Rc<Pending>);

#[derive(Default)]
struct Pending {
    signals: RefCell<VecDeque<Signal>>,
    waker: Cell<Option<Waker>>,
}

impl Signals {
    pub fn send(&self, signal: Signal) {
        self.0.signals.borrow_mut().push_back(signal);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    pub async fn next(&self) -> Signal {
        poll_fn(|cx| match self.0.signals.borrow_mut().pop_front() {
            Some(signal) => Poll::Ready(signal),
            None => {
                self.0.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}
