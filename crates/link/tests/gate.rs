//! The gate: whatever the fragments and the cancellations, the same comes out, in pieces or as a packet.

mod support;

use embassy_futures::select::{Either, select};
use embassy_time::Duration;
use embedded_io_async::{ErrorType, Read, Write};
use embedded_nal_async::TcpConnect;
use minimq::{ConfigBuilder, QoS, Session, SubscriptionOptions, TopicFilter};
use proplet::{
    agent::{MessageHead, Qos},
    wire::TOPIC_MAX,
};
use proplet_link::gate::{
    BUFFER_MIN, Buffers, Edits, Error, Fault, Gate, Inbox, Limits, PACKET_MAX, PeerActivity,
};
use proptest::{collection::vec, prelude::*};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    task::Poll,
};
use support::{Fault as IoFault, Net, Stream, after, packet, publish_packet, simulate};

const LIMITS: Limits = Limits {
    connect: Edits {
        max_packet: 0x0a0b_0c0d,
        clean_start: true,
        will_at_most_once: false,
    },
    patience: Duration::from_secs(1),
};

/// CONNACK: success, without properties.
const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];

/// Gives `bytes` in pieces of these sizes, again and again; a piece of 0 is a pause. Keeps what is
/// written, in pieces of the same sizes.
struct Pieces<'p> {
    bytes: VecDeque<u8>,
    sizes: Vec<usize>,
    turn: usize,
    written: &'p RefCell<Vec<u8>>,
    /// Whether more may come at the end, which then is a pause.
    is_open: bool,
}

impl<'p> Pieces<'p> {
    fn new(bytes: &[u8], sizes: Vec<usize>, written: &'p RefCell<Vec<u8>>) -> Self {
        Self {
            bytes: bytes.iter().copied().collect(),
            sizes,
            turn: 0,
            written,
            is_open: false,
        }
    }

    fn open(self) -> Self {
        Self {
            is_open: true,
            ..self
        }
    }

    fn next(&mut self) -> Option<usize> {
        self.turn += 1;
        match self.sizes[self.turn % self.sizes.len()] {
            0 if !self.turn.is_multiple_of(self.sizes.len() + 1) => None,
            size => Some(size.max(1)),
        }
    }
}

impl ErrorType for Pieces<'_> {
    type Error = IoFault;
}

impl Read for Pieces<'_> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, IoFault> {
        poll_fn(|cx| match self.next() {
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(_) if self.is_open && self.bytes.is_empty() => Poll::Pending,
            Some(size) => {
                let n = size.min(buf.len()).min(self.bytes.len());
                for (to, from) in buf.iter_mut().zip(self.bytes.drain(..n)) {
                    *to = from;
                }
                Poll::Ready(Ok(n))
            }
        })
        .await
    }
}

impl Write for Pieces<'_> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, IoFault> {
        poll_fn(|cx| match self.next() {
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(size) => {
                let n = size.min(buf.len());
                self.written.borrow_mut().extend(&buf[..n]);
                Poll::Ready(Ok(n))
            }
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), IoFault> {
        Ok(())
    }
}

/// What an inbox was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Begin {
        topic: String,
        len: usize,
        qos: Qos,
        retained: bool,
        dup: bool,
    },
    Payload(Vec<u8>),
    End,
    Closed,
}

/// Keeps all that it is told, joins pieces, and releases acknowledgements as a test wants.
#[derive(Default)]
struct Recorder {
    told: RefCell<Vec<Told>>,
    /// Messages of QoS 1 that have ended and were not acknowledged.
    ended: Cell<usize>,
    /// Acknowledgements that may go.
    released: Cell<usize>,
    pieces: Cell<usize>,
}

impl Recorder {
    fn releasing(released: usize) -> Self {
        Self {
            released: Cell::new(released),
            ..Self::default()
        }
    }

    fn tell(&self, told: Told) {
        self.told.borrow_mut().push(told);
    }
}

impl Inbox for Recorder {
    fn begin(&self, head: &MessageHead<'_>) {
        self.tell(Told::Begin {
            topic: head.topic.into(),
            len: head.len,
            qos: head.qos,
            retained: head.is_retained,
            dup: head.is_duplicate,
        });
    }

    fn payload(&self, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.pieces.set(self.pieces.get() + 1);
        let mut told = self.told.borrow_mut();
        match told.last_mut() {
            Some(Told::Payload(payload)) => payload.extend(bytes),
            _ => told.push(Told::Payload(bytes.into())),
        }
    }

    fn end(&self) {
        let told = self.told.borrow();
        let begun = told.iter().rev().find_map(|told| match told {
            Told::Begin { qos, .. } => Some(*qos),
            _ => None,
        });
        drop(told);
        let is_acknowledged = begun == Some(Qos::AtLeastOnce);
        self.ended
            .set(self.ended.get() + usize::from(is_acknowledged));
        self.tell(Told::End);
    }

    fn closed(&self) {
        self.tell(Told::Closed);
    }

    fn take_acknowledgement(&self) -> bool {
        let may_go = self.ended.get() > 0 && self.released.get() > 0;
        if may_go {
            self.ended.set(self.ended.get() - 1);
            self.released.set(self.released.get() - 1);
        }
        may_go
    }
}

/// Outcome of reading all of a stream.
struct Outcome {
    /// What the client has read.
    out: Vec<u8>,
    told: Vec<Told>,
    failure: Option<Fault>,
    reason_code: Option<u8>,
    has_excess: bool,
}

/// Reads until the end, with buffers of these sizes, giving a read up whenever it is pending.
async fn read_on(
    gate: &mut Gate<'_, Pieces<'_>>,
    buffers: &[usize],
    mut until: impl FnMut(&[u8]) -> bool,
) -> (Vec<u8>, Option<Fault>) {
    let mut out = Vec::new();
    for turn in 0.. {
        if until(&out) {
            break;
        }
        let mut buf = vec![0; buffers[turn % buffers.len()]];
        let mut polls = 0;
        let pause = poll_fn(|_| {
            polls += 1;
            if polls > 1 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        match select(gate.read(&mut buf), pause).await {
            Either::First(Ok(0)) => break,
            Either::First(Ok(n)) => out.extend(&buf[..n]),
            Either::First(Err(Error::Fault(fault))) => return (out, Some(fault)),
            Either::First(Err(err)) => panic!("{err}"),
            Either::Second(()) => {}
        }
    }
    (out, None)
}

fn read_all(bytes: &[u8], sizes: Vec<usize>, buffers: &[usize], inbox: Recorder) -> Outcome {
    let activity = PeerActivity::default();
    let written = RefCell::default();
    let pieces = Pieces::new(bytes, sizes, &written);
    let mut rx = vec![0; BUFFER_MIN + bytes.len() % 7 * 100];
    let mut gate = Gate::new(pieces, &inbox, &activity, unbuffered(&mut rx), LIMITS);
    let (out, failure) = simulate(read_on(&mut gate, buffers, |_| false));
    assert_eq!(activity.closed.get(), failure.is_none());
    drop(gate);
    Outcome {
        out,
        told: inbox.told.take(),
        failure,
        reason_code: activity.reason_code.get(),
        has_excess: activity.has_excess.get(),
    }
}

/// The same with whole reads.
fn read_whole(bytes: &[u8], inbox: Recorder) -> Outcome {
    read_all(bytes, vec![usize::MAX], &[64], inbox)
}

/// User properties and a reason string, of this many bytes with the length that precedes them.
fn properties(len: usize) -> Vec<u8> {
    let mut list = Vec::new();
    let mut left = len;
    while left >= 5 {
        let text = (left - 5).min(60_000);
        // What is left must be another property, or nothing.
        let text = if matches!(left - 5 - text, 1..=4) {
            text - 4
        } else {
            text
        };
        list.extend([0x26, 0, 0]);
        list.extend((text as u16).to_be_bytes());
        list.extend(vec![b'x'; text]);
        left -= 5 + text;
    }
    match left {
        4 => list.extend([0x1f, 0, 1, b'y']),
        3 => list.extend([0x1f, 0, 0]),
        _ => {}
    }
    let mut sized = packet(0, &list);
    sized.remove(0);
    sized
}

/// What one packet is, what the client gets of it, and what the inbox is told.
#[derive(Debug, Clone)]
struct Case {
    bytes: Vec<u8>,
    client: Vec<u8>,
    told: Vec<Told>,
}

fn stub(id: u16) -> Vec<u8> {
    publish_packet(0x32, "a", Some(id), &[])
}

/// A PUBLISH with `properties`, and all that it does when its acknowledgement is not withheld.
fn message(flags: u8, topic: &str, id: u16, properties: &[u8], payload: &[u8]) -> Case {
    let id = (flags & 2 != 0).then_some(id);
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(id.iter().flat_map(|id| id.to_be_bytes()));
    body.extend(properties);
    body.extend(payload);
    let begin = Told::Begin {
        topic: topic.into(),
        len: payload.len(),
        qos: id.map_or(Qos::AtMostOnce, |_| Qos::AtLeastOnce),
        retained: flags & 1 != 0,
        dup: flags & 8 != 0,
    };
    let piece = (!payload.is_empty()).then(|| Told::Payload(payload.into()));
    let told = [Some(begin), piece, Some(Told::End)];
    let is_wanted = topic.len() <= TOPIC_MAX;
    Case {
        bytes: packet(0x30 | flags, &body),
        client: id.map_or(vec![], stub),
        told: if is_wanted {
            told.into_iter().flatten().collect()
        } else {
            vec![]
        },
    }
}

fn reply(first: u8, body: &[&[u8]], short: &[u8]) -> Case {
    Case {
        bytes: packet(first, &body.concat()),
        client: packet(first, short),
        told: vec![],
    }
}

fn any_len() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0usize), Just(3), 4usize..300, 300usize..70_000].prop_map(|len| match len {
        1 | 2 => 3,
        len => len,
    })
}

fn any_message() -> impl Strategy<Value = Case> {
    let payload = prop_oneof![Just(0usize), 1usize..600, 60_000usize..200_000];
    let topic = prop_oneof![4 => 1usize..=TOPIC_MAX, 1 => TOPIC_MAX + 1..2_000usize];
    let lists = prop_oneof![3 => Just(0usize), 1 => any_len()];
    let flags = prop_oneof![0u8..4, 8u8..12];
    (flags, topic, 1u16.., lists, payload).prop_map(|(flags, topic, id, list, len)| {
        let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
        message(flags, &"t".repeat(topic), id, &properties(list), &payload)
    })
}

fn any_reply() -> impl Strategy<Value = Case> {
    let ack = prop_oneof![Just(0x40u8), Just(0x50), Just(0x62), Just(0x70)];
    let suback = prop_oneof![Just(0x90u8), Just(0xb0)];
    prop_oneof![
        (ack.clone(), any::<[u8; 2]>()).prop_map(|(first, id)| reply(first, &[&id], &id)),
        (ack, any::<[u8; 3]>(), any_len()).prop_map(|(first, body, len)| reply(
            first,
            &[&body, &properties(len)],
            &body
        )),
        (suback, any::<[u8; 2]>(), any_len(), vec(any::<u8>(), 1..10)).prop_map(
            |(first, id, len, codes)| {
                let short = [&id[..], &[0], &codes].concat();
                reply(first, &[&id, &properties(len), &codes], &short)
            }
        ),
        Just(reply(0xd0, &[], &[])),
    ]
}

fn any_connack() -> impl Strategy<Value = Case> {
    let used: [&[u8]; 4] = [
        &[0x27, 0, 0, 1, 0],
        &[0x13, 0, 60],
        &[0x21, 0, 20],
        &[0x24, 1],
    ];
    let unused: [&[u8]; 4] = [
        &[0x11, 0, 0, 0, 9],
        &[0x12, 0, 2, b'i', b'd'],
        &[0x25, 1],
        &[0x22, 0, 10],
    ];
    let used = proptest::sample::subsequence(used.to_vec(), 0..=4);
    let unused = proptest::sample::subsequence(unused.to_vec(), 0..=4);
    (used, unused, any_len(), 0u8..2).prop_map(|(used, unused, len, present)| {
        let text = properties(len);
        let prefix = text.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let mut list = Vec::new();
        for at in 0..4 {
            list.extend(unused.get(at).copied().unwrap_or_default());
            list.extend(used.get(at).copied().unwrap_or_default());
        }
        list.extend(&text[prefix..]);
        let mut sized = packet(0, &list);
        sized.remove(0);
        let kept = used.concat();
        let short = [&[present, 0, kept.len() as u8][..], &kept].concat();
        reply(0x20, &[&[present, 0], &sized], &short)
    })
}

/// A connection, which may end with a DISCONNECT.
fn any_connection() -> impl Strategy<Value = Vec<Case>> {
    let packets = vec(prop_oneof![any_message(), any_reply()], 0..8);
    let disconnect = (any::<u8>(), any_len())
        .prop_map(|(code, len)| reply(0xe0, &[&[code], &properties(len)], &[code]));
    let end = prop_oneof![
        Just(None),
        Just(Some(reply(0xe0, &[], &[]))),
        disconnect.prop_map(Some)
    ];
    (any_connack(), packets, end).prop_map(|(connack, mut packets, end)| {
        packets.insert(0, connack);
        packets.extend(end);
        packets
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn any_split_of_any_packets_gives_the_same(
        cases in any_connection(),
        sizes in vec(prop_oneof![3 => 0usize..40, 1 => 40usize..5_000], 1..10),
        buffers in vec(1usize..PACKET_MAX + 1, 1..5),
    ) {
        let input = cases.iter().flat_map(|case| case.bytes.clone()).collect::<Vec<u8>>();
        let client = cases.iter().flat_map(|case| case.client.clone()).collect::<Vec<u8>>();
        let mut told: Vec<Told> = cases.iter().flat_map(|case| case.told.clone()).collect();
        told.push(Told::Closed);
        prop_assert!(cases.iter().all(|case| case.client.len() <= PACKET_MAX));
        let outcome = read_all(&input, sizes, &buffers, Recorder::releasing(100));
        prop_assert_eq!(outcome.failure, None);
        prop_assert_eq!(outcome.out, client);
        prop_assert!(outcome.told == told);
    }

    #[test]
    fn a_connection_cut_anywhere_is_told_once(
        cases in vec(any_message(), 1..4),
        at in any::<proptest::sample::Index>(),
        sizes in vec(1usize..2_000, 1..5),
    ) {
        let input = cases.iter().flat_map(|case| case.bytes.clone()).collect::<Vec<u8>>();
        let at = at.index(input.len());
        let input = [&CONNACK[..], &input[..at]].concat();
        let outcome = read_all(&input, sizes, &[PACKET_MAX], Recorder::releasing(100));
        prop_assert_eq!(outcome.failure, None);
        let count = |what: fn(&Told) -> bool| outcome.told.iter().filter(|told| what(told)).count();
        let begun = count(|told| matches!(told, Told::Begin { .. }));
        let ended = count(|told| *told == Told::End);
        prop_assert!((ended..=ended + 1).contains(&begun));
        prop_assert_eq!(outcome.told.last(), Some(&Told::Closed));
        prop_assert_eq!(count(|told| *told == Told::Closed), 1);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in vec(any::<u8>(), 0..600),
        greeted in any::<bool>(),
        sizes in vec(1usize..20, 1..3),
    ) {
        let bytes = if greeted { [&CONNACK[..], &bytes].concat() } else { bytes };
        let outcome = read_all(&bytes, sizes, &[16], Recorder::releasing(3));
        let closed = outcome.told.iter().filter(|told| **told == Told::Closed);
        prop_assert_eq!(closed.count(), 1);
    }

    /// Acknowledgements are released some at a time, between messages and other packets.
    #[test]
    fn withheld_acknowledgements_keep_their_order_and_others_pass(
        steps in vec((0usize..3, 0usize..4, any::<bool>()), 1..40),
        sizes in vec(1usize..30, 1..4),
    ) {
        let written = RefCell::default();
        let activity = PeerActivity::default();
        let inbox = Recorder::default();
        let pieces = Pieces {
            bytes: CONNACK.into(), sizes, turn: 0, written: &written, is_open: true,
        };
        let mut rx = [0; BUFFER_MIN];
        let (mut sent, mut withheld) = (0u16, VecDeque::new());
        // What comes and what is released is told to the one that holds the bytes.
        let feed = RefCell::new(VecDeque::new());
        let mut expected = CONNACK.to_vec();
        let mut out = Vec::new();
        let fed = Fed { pieces, feed: &feed };
        let mut gate = Gate::new(fed, &inbox, &activity, unbuffered(&mut rx), LIMITS);
        simulate(async {
            for (messages, releases, ping) in steps {
                for _ in 0..messages.min(8 - withheld.len()) {
                    sent += 1;
                    withheld.push_back(sent);
                    feed.borrow_mut().extend(publish_packet(0x32, "t", Some(sent), &[7; 40]));
                }
                if ping {
                    feed.borrow_mut().extend([0xd0, 0]);
                    expected.extend([0xd0, 0]);
                }
                drain(&mut gate, &mut out).await;
                assert_eq!(out, expected, "others pass");
                let releases = releases.min(withheld.len());
                inbox.released.set(releases);
                for id in withheld.drain(..releases) {
                    expected.extend(stub(id));
                }
                drain(&mut gate, &mut out).await;
                assert_eq!(out, expected, "in order, as many as were released");
            }
        });
    }

    #[test]
    fn a_connect_is_edited_however_it_is_written(
        before in any::<bool>(),
        writes in vec(1usize..60, 1..5),
        sizes in vec(0usize..40, 1..5),
        has_it in any::<bool>(),
        text in any_len(),
    ) {
        let list = |value: &[u8]| {
            let text = properties(text);
            let prefix = text.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
            let it = if has_it { [&[0x27], value].concat() } else { vec![] };
            let rest = [&[0x11, 0, 0, 1, 0x27][..], &[0x21, 0, 8], &text[prefix..]].concat();
            let list = if before { [it, rest] } else { [rest, it] };
            let mut sized = packet(0, &list.concat());
            sized.remove(0);
            sized
        };
        let connect = |value: &[u8]| packet(0x10, &[
            &[0, 4][..], b"MQTT", &[5, 0xc2, 0x27, 0x27], &list(value), &[0, 2, 0x27, 0x27],
            &[0x27, 0, 0, 0, 0, 0x27],
        ].concat());
        let (given, wanted) = (connect(&[0, 0, 4, 0]), connect(&[0x0a, 0x0b, 0x0c, 0x0d]));
        // A later packet is not touched, whatever it looks like.
        let input = [&given[..], &given].concat();
        let written = RefCell::default();
        write_all(&input, &writes, sizes, &written);
        prop_assert!(written.into_inner() == [wanted, given].concat());
    }

    #[test]
    fn what_is_no_connect_is_written_as_it_is(
        bytes in vec(any::<u8>(), 1..200),
        first in 0x20u8..,
        sizes in vec(0usize..40, 1..5),
    ) {
        let input = [&[first][..], &bytes].concat();
        let written = RefCell::default();
        write_all(&input, &[50], sizes, &written);
        prop_assert_eq!(written.into_inner(), input);
    }
}

/// Pieces of bytes that a test adds to.
struct Fed<'p> {
    pieces: Pieces<'p>,
    feed: &'p RefCell<VecDeque<u8>>,
}

impl ErrorType for Fed<'_> {
    type Error = IoFault;
}

impl Read for Fed<'_> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, IoFault> {
        self.pieces.bytes.append(&mut self.feed.borrow_mut());
        self.pieces.read(buf).await
    }
}

impl Write for Fed<'_> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, IoFault> {
        self.pieces.write(buf).await
    }

    async fn flush(&mut self) -> Result<(), IoFault> {
        Ok(())
    }
}

/// Reads until there is nothing more.
async fn drain(gate: &mut Gate<'_, Fed<'_>>, out: &mut Vec<u8>) {
    let mut idle = 0;
    while idle < 100 {
        let mut buf = [0; 5];
        let mut polls = 0;
        let pause = poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls > 1 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        match select(gate.read(&mut buf), pause).await {
            Either::First(n) => {
                out.extend(&buf[..n.unwrap()]);
                idle = 0;
            }
            Either::Second(()) => idle += 1,
        }
    }
}

/// Writes `bytes` by writes of these sizes, giving each up when it is pending, to a transport that takes
/// pieces of `sizes`.
fn write_all(bytes: &[u8], writes: &[usize], sizes: Vec<usize>, written: &RefCell<Vec<u8>>) {
    let activity = PeerActivity::default();
    let inbox = Recorder::default();
    let pieces = Pieces::new(&[], sizes, written);
    let mut rx = [0; BUFFER_MIN];
    let mut gate = Gate::new(pieces, &inbox, &activity, unbuffered(&mut rx), LIMITS);
    simulate(async {
        let mut at = 0;
        for turn in 0.. {
            let rest = &bytes[at..];
            if rest.is_empty() {
                break;
            }
            let rest = &rest[..writes[turn % writes.len()].min(rest.len())];
            let mut polls = 0;
            let pause = poll_fn(|_| {
                polls += 1;
                if polls > 1 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            match select(gate.write(rest), pause).await {
                Either::First(n) => at += n.unwrap(),
                Either::Second(()) => {}
            }
        }
    });
}

#[test]
fn a_payload_of_megabytes_is_handed_on_in_pieces() {
    let payload: Vec<u8> = (0..3_000_000u32).map(|at| (at >> 8) as u8).collect();
    // The longest head that there is fills the smallest buffer.
    let topic = "t".repeat(TOPIC_MAX);
    for list in [70_000, 2_200_000] {
        let case = message(2, &topic, 9, &properties(list), &payload);
        let mut input = [&CONNACK[..], &case.bytes].concat();
        while input.len() % 7 != 0 {
            input.extend([0xd0, 0]);
        }
        let outcome = read_whole(&input, Recorder::releasing(1));
        assert_eq!(outcome.failure, None);
        assert!(
            outcome
                .out
                .starts_with(&[&CONNACK[..], &case.client].concat())
        );
        assert!(outcome.told[..3] == case.told);
    }
}

#[test]
fn one_message_more_than_the_receive_maximum_is_left_to_the_next_connection() {
    let mut input = CONNACK.to_vec();
    for id in 1..=9 {
        input.extend(publish_packet(0x32, "t", Some(id), b"x"));
    }
    let outcome = read_whole(&input, Recorder::default());
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.out, CONNACK);
    assert_eq!(outcome.told.len(), 8 * 3 + 1);
    assert!(outcome.has_excess);
    // Each acknowledgement makes a place.
    let outcome = read_whole(&input, Recorder::releasing(1));
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.out, [&CONNACK[..], &stub(1)].concat());
    // Messages of QoS 0 and repetitions need none.
    let more = [
        publish_packet(0x30, "t", None, b"x"),
        publish_packet(0x3a, "t", Some(8), b"x"),
    ];
    let full = input.len() - publish_packet(0x32, "t", Some(9), b"x").len();
    let input = [&input[..full], &more.concat()].concat();
    let outcome = read_whole(&input, Recorder::default());
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.told.len(), 9 * 3 + 1);
}

#[test]
fn a_repeated_identifier_is_skipped_while_it_is_withheld_and_acknowledged_once() {
    let mut input = CONNACK.to_vec();
    for (first, payload) in [(0x32, &b"one"[..]), (0x3a, b"one"), (0x32, b"another")] {
        input.extend(publish_packet(first, "t", Some(5), payload));
    }
    input.extend([0xd0, 0]);
    let outcome = read_whole(&input, Recorder::default());
    assert_eq!(outcome.out, [&CONNACK[..], &[0xd0, 0]].concat());
    assert_eq!(outcome.told, told_of(&[b"one"]));
    let warnings = support::warnings();
    let [(_, warning)] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(warning.contains("identifier 5 twice"), "{warning}");
    // Acknowledged, it is another message's.
    let outcome = read_whole(&input, Recorder::releasing(9));
    let three = [stub(5), stub(5), stub(5)].concat();
    assert_eq!(outcome.out, [&CONNACK[..], &three, &[0xd0, 0]].concat());
    // So is a message with too long a topic.
    let long = "t".repeat(TOPIC_MAX + 1);
    let mut input = CONNACK.to_vec();
    input.extend(publish_packet(0x32, "t", Some(5), b"one"));
    input.extend(publish_packet(0x32, &long, Some(6), b"x"));
    input.extend(publish_packet(0x3a, &long, Some(6), b"x"));
    input.extend(publish_packet(0x3a, &long, Some(5), b"x"));
    let outcome = read_whole(&input, Recorder::default());
    assert_eq!(outcome.out, CONNACK, "it waits for those before it");
    let outcome = read_whole(&input, Recorder::releasing(1));
    assert_eq!(outcome.told, told_of(&[b"one"]));
    let acknowledged = [stub(5), stub(6), stub(6), stub(5)].concat();
    assert_eq!(outcome.out, [&CONNACK[..], &acknowledged].concat());
}

/// Messages of QoS 1 on "t", and the end.
fn told_of(payloads: &[&[u8]]) -> Vec<Told> {
    let messages = payloads.iter();
    let mut told: Vec<Told> = messages
        .flat_map(|payload| message(2, "t", 1, &[0], payload).told)
        .collect();
    told.push(Told::Closed);
    told
}

#[test]
fn an_acknowledgement_ends_a_read_that_waits() {
    let activity = PeerActivity::default();
    let inbox = Recorder::default();
    let written = RefCell::default();
    // It waits within the payload of another message.
    let message = publish_packet(0x32, "t", Some(1), b"x");
    let next = &publish_packet(0x32, "t", Some(2), &[0; 100])[..50];
    let bytes = [&CONNACK, &message[..], next].concat();
    let pieces = Pieces::new(&bytes, vec![usize::MAX], &written).open();
    let mut rx = [0; BUFFER_MIN];
    let mut gate = Gate::new(pieces, &inbox, &activity, unbuffered(&mut rx), LIMITS);
    simulate(async {
        let mut out = [0; PACKET_MAX];
        let n = gate.read(&mut out).await.unwrap();
        assert_eq!(out[..n], CONNACK);
        let mut polls = 0;
        let release = poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 5 {
                inbox.released.set(1);
            }
            Poll::<()>::Pending
        });
        match select(gate.read(&mut out), release).await {
            Either::First(Ok(n)) => assert_eq!(out[..n], stub(1)),
            _ => panic!("no stub"),
        }
    });
    drop(gate);
    assert_eq!(
        inbox.told.take()[4..],
        [Told::Payload(vec![0; 42]), Told::Closed]
    );
}

/// For a gate of which each write goes by itself.
fn unbuffered(rx: &mut [u8]) -> Buffers<'_> {
    Buffers {
        input: rx,
        output: &mut [],
    }
}

/// Writes packets behind a CONNECT, then reads for some milliseconds; what has gone out before the read, and after
/// it.
fn gathered(packets: &[&[u8]], room: usize, ms: u64) -> (Vec<u8>, Vec<u8>) {
    let (activity, inbox, written) = (
        PeerActivity::default(),
        Recorder::default(),
        RefCell::default(),
    );
    let pieces = Pieces::new(&[], vec![usize::MAX], &written).open();
    let (mut rx, mut output) = ([0; BUFFER_MIN], vec![0; room]);
    let buffers = Buffers {
        input: &mut rx,
        output: &mut output,
    };
    let mut gate = Gate::new(pieces, &inbox, &activity, buffers, LIMITS);
    let before = simulate(async {
        // Stands for the CONNECT.
        gate.write(&PING).await.unwrap();
        for packet in packets {
            assert_eq!(gate.write(packet).await.unwrap(), packet.len());
            gate.flush().await.unwrap();
        }
        let before = written.borrow().clone();
        let mut out = [0; PACKET_MAX];
        match select(gate.read(&mut out), after(ms)).await {
            Either::First(read) => panic!("{read:?}"),
            Either::Second(()) => before,
        }
    });
    let skip = |all: Vec<u8>| all[PING.len()..].to_vec();
    (skip(before), skip(written.take()))
}

const PING: [u8; 2] = [0xc0, 0];

#[test]
fn an_acknowledgement_goes_with_what_its_message_brought_about() {
    let puback = |id: u8| [0x40, 2, 0, id];
    let result = publish_packet(0x32, "r", Some(9), b"42");
    let both = [&puback(1)[..], &result].concat();
    // Nothing goes before the read, and then both do, at once.
    assert_eq!(
        gathered(&[&puback(1), &result], 64, 0),
        (vec![], both.clone())
    );
    // Alone it waits for a millisecond, and four do not.
    assert_eq!(gathered(&[&puback(1)], 64, 0), (vec![], vec![]));
    assert_eq!(gathered(&[&puback(1)], 64, 2), (vec![], puback(1).to_vec()));
    let four = [1, 2, 3, 4].map(puback);
    let all: Vec<&[u8]> = four.iter().map(|ack| &ack[..]).collect();
    assert_eq!(gathered(&all, 64, 0), (vec![], four.concat()));
    // What finds no room sends what is before it, and goes by itself.
    assert_eq!(gathered(&[&puback(1), &result], 6, 0), (both.clone(), both));
}

/// Polls until nothing has happened for a while. Returns the first failure.
async fn progress(connection: &mut TestConnection<'_>) -> Result<(), TestError> {
    loop {
        match select(connection.poll(), after(10)).await {
            Either::First(progress) => progress.map(|_| ())?,
            Either::Second(()) => return Ok(()),
        }
    }
}

type TestConnection<'c> = minimq::Connection<'c, 'c, Gate<'c, Stream>>;
type TestError = minimq::Error<Error<IoFault>>;

#[test]
fn withheld_messages_hold_back_no_publication_under_minimq() {
    let (net, inbox, activity) = (Net::new(), Recorder::default(), PeerActivity::default());
    let (mut packet, mut tx, mut rx) = ([0; PACKET_MAX], [0; 512], [0; BUFFER_MIN]);
    simulate(async {
        let address = "192.0.2.1:1883".parse().unwrap();
        let stream = net.connect(address).await.unwrap();
        let gate = Gate::new(stream, &inbox, &activity, unbuffered(&mut rx), LIMITS);
        let buffers = minimq::Buffers::new(&mut packet, &mut tx);
        let config = ConfigBuilder::new(buffers).client_id("id").unwrap();
        let mut session = Session::new(config);
        let mut connection = session.connect(gate).await.unwrap();
        let largest = net.with(|w| w.login.as_ref().map(|login| login.largest_packet));
        assert_eq!(largest, Some(LIMITS.connect.max_packet));
        let options = SubscriptionOptions::default().maximum_qos(QoS::AtLeastOnce);
        let filters = [TopicFilter::new("t").options(options)];
        connection.subscribe(&filters, &[]).await.unwrap();
        progress(&mut connection).await.unwrap();

        for _ in 0..8 {
            net.publish("t", &[b'x'; 5_000]);
        }
        for sent in 1..=20 {
            let publication = minimq::Publication::new("p", &b"x"[..]).qos(QoS::AtLeastOnce);
            let sent_one = connection.publish(publication).await.unwrap();
            progress(&mut connection).await.unwrap();
            assert!(connection.session().is_complete(&sent_one.unwrap()));
            assert_eq!(net.with(|w| w.acknowledged.len()), sent);
        }
        assert_eq!(inbox.ended.get(), 8);
        assert_eq!(net.with(|w| w.acked.clone()), []);

        for released in [1, 5, 2] {
            inbox.released.set(released);
            progress(&mut connection).await.unwrap();
        }
        assert_eq!(net.with(|w| w.acked.clone()), [1, 2, 3, 4, 5, 6, 7, 8]);

        net.with(|w| w.floods = true);
        for _ in 0..9 {
            net.publish("t", b"x");
        }
        progress(&mut connection).await.unwrap();
        assert!(activity.has_excess.get());
        assert_eq!(inbox.ended.get(), 8);
    });
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let long = vec![b't'; 300];
    for (bytes, why) in [
        (
            &[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f][..],
            "a length of five bytes",
        ),
        (
            &[0x30, 0x84, 0x00, 0, 1, b't', 0],
            "a length of more bytes than it needs",
        ),
        (&[0x30, 3, 0, 0, 0], "an empty topic"),
        (&[0x30, 4, 0, 1, 0xff, 0], "a topic that is not UTF-8"),
        (&[0x30, 4, 0, 9, b't', 0], "a topic longer than the packet"),
        (&[0x30, 1, 0], "half of a topic's length"),
        (
            &[0x30, 4, 0, 1, b't', 5],
            "properties longer than the packet",
        ),
        (&[0x30, 3, 0, 1, b't'], "no properties"),
        (
            &[0x30, 8, 0, 1, b't', 0xff, 0xff, 0xff, 0xff, 0],
            "no length of properties",
        ),
        (&[0x32, 6, 0, 1, b't', 0, 0, 0], "identifier 0"),
        (&[0x32, 4, 0, 1, b't', 0], "half of an identifier"),
        (&[0x34, 6, 0, 1, b't', 0, 1, 0], "QoS 2"),
        (&[0x36, 6, 0, 1, b't', 0, 1, 0], "QoS 3"),
        (&[0x40, 1, 0], "half of an identifier"),
        (&[0x90, 2, 0, 1], "no properties"),
        (&[0x90, 4, 0, 1, 7, 0], "properties longer than the packet"),
        (&[0x20, 1, 0], "no reason code"),
        (&[0x20, 4, 0, 0, 0, 0], "bytes behind the properties"),
        (&[0x20, 5, 0, 0, 2, 0x21, 0], "half of a property"),
        (&[0x20, 5, 0, 0, 2, 0x7f, 0], "an unknown property"),
        (&[0xf0, 2, 0, 0], "AUTH"),
        (&[0x00, 0], "no packet"),
        (&[0x10, 0], "a client's packet"),
        (
            &packet(0x32, &[&[1, 44][..], &long, &[0]].concat()),
            "half of an identifier",
        ),
        (
            &packet(0x90, &[0; 60]),
            "codes for more filters than were sent",
        ),
    ] {
        let outcome = read_whole(&[&CONNACK[..], bytes].concat(), Recorder::default());
        assert_eq!(outcome.failure, Some(Fault::Malformed), "{why}");
        assert_eq!(outcome.told, [Told::Closed], "{why}");
    }
    // No message comes before the CONNACK.
    let outcome = read_whole(&publish_packet(0x30, "t", None, b"x"), Recorder::default());
    assert_eq!(outcome.failure, Some(Fault::Malformed));
    assert_eq!(outcome.told, [Told::Closed]);
}

#[test]
fn reason_codes_are_noted() {
    let refused = [&[0, 0x86][..], &properties(70_000)].concat();
    for (bytes, reason, client) in [
        (
            &[0x20, 3, 0, 0x86, 0][..],
            Some(0x86),
            &[0x20, 3, 0, 0x86, 0][..],
        ),
        (&packet(0x20, &refused), Some(0x86), &[0x20, 3, 0, 0x86, 0]),
        (&[0x20, 2, 0, 5], Some(5), &[0x20, 2, 0, 5]),
        (&[0xe0, 1, 0x8e], Some(0x8e), &[0xe0, 1, 0x8e]),
        (&[0xe0, 0], None, &[0xe0, 0]),
    ] {
        let outcome = read_whole(bytes, Recorder::default());
        assert_eq!(outcome.failure, None, "{bytes:x?}");
        assert_eq!(outcome.reason_code, reason, "{bytes:x?}");
        assert_eq!(outcome.out, client, "{bytes:x?}");
    }
}

#[test]
fn a_quarter_of_a_gigabyte_passes_without_keeping_others_waiting() {
    /// The largest PUBLISH there is, made as it is read.
    struct Huge(usize, Vec<u8>);
    impl ErrorType for Huge {
        type Error = IoFault;
    }
    impl Read for Huge {
        async fn read(&mut self, buf: &mut [u8]) -> Result<usize, IoFault> {
            if self.1.is_empty() {
                let n = buf.len().min(self.0);
                self.0 -= n;
                return Ok(n);
            }
            let n = buf.len().min(self.1.len());
            buf[..n].copy_from_slice(&self.1[..n]);
            self.1.drain(..n);
            Ok(n)
        }
    }
    impl Write for Huge {
        async fn write(&mut self, buf: &[u8]) -> Result<usize, IoFault> {
            Ok(buf.len())
        }
        async fn flush(&mut self) -> Result<(), IoFault> {
            Ok(())
        }
    }
    #[derive(Default)]
    struct Counter(Cell<usize>, Recorder);
    impl Inbox for Counter {
        fn begin(&self, head: &MessageHead<'_>) {
            self.1.begin(head);
        }
        fn payload(&self, bytes: &[u8]) {
            self.0.set(self.0.get() + bytes.len());
        }
        fn end(&self) {
            self.1.end();
        }
        fn closed(&self) {}
        fn take_acknowledgement(&self) -> bool {
            true
        }
    }
    let head = [0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, b't', 0, 9, 0];
    let payload = 268_435_455 - (head.len() - 5);
    let head = [&CONNACK[..], &head].concat();
    let activity = PeerActivity::default();
    let inbox = Counter::default();
    let mut rx = [0; 4096];
    let mut gate = Gate::new(
        Huge(payload, head),
        &inbox,
        &activity,
        unbuffered(&mut rx),
        LIMITS,
    );
    let (mut out, mut turns) = (Vec::<u8>::new(), 0);
    simulate(async {
        loop {
            let mut buf = [0; 16];
            let turn = poll_fn(|_| {
                turns += 1;
                Poll::<()>::Pending
            });
            match select(gate.read(&mut buf), turn).await {
                Either::First(Ok(n)) if n > 0 => out.extend(&buf[..n]),
                _ => break,
            }
        }
    });
    assert_eq!(out, [&CONNACK[..], &stub(9)].concat());
    assert_eq!(inbox.0.get(), payload);
    assert!(turns > 1000);
}

/// It lies in the link's future more than once, while the session is connected.
#[test]
fn a_gate_is_small() {
    let bytes = size_of::<Gate<'static, ()>>();
    println!("{bytes} bytes");
    let most = if cfg!(target_pointer_width = "64") {
        280
    } else {
        200
    };
    assert!(bytes <= most, "{bytes} bytes");
}
