//! The bounded transport: whatever the fragments and the cancellations, the same comes out.

mod support;

use embassy_futures::select::{Either, select};
use embassy_time::Duration;
use embedded_io_async::{ErrorType, Read, Write};
use proplet_link::bounded::{Bounded, PeerActivity};
use proptest::prelude::*;
use std::{collections::VecDeque, future::poll_fn, task::Poll};
use support::{Fault, packet, publish_packet, simulate};

const LIMIT: usize = 300;

/// Gives `bytes` in pieces of these sizes, again and again; a piece of 0 is a pause.
struct Pieces {
    bytes: VecDeque<u8>,
    sizes: Vec<usize>,
    turn: usize,
}

impl ErrorType for Pieces {
    type Error = Fault;
}

impl Read for Pieces {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
        poll_fn(|cx| {
            self.turn += 1;
            match self.sizes[self.turn % self.sizes.len()] {
                0 if !self.turn.is_multiple_of(self.sizes.len() + 1) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                size => {
                    let n = size.max(1).min(buf.len()).min(self.bytes.len());
                    for (to, from) in buf.iter_mut().zip(self.bytes.drain(..n)) {
                        *to = from;
                    }
                    Poll::Ready(Ok(n))
                }
            }
        })
        .await
    }
}

impl Write for Pieces {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Fault> {
        Ok(buf.len())
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

/// Reads all, with buffers of these sizes, giving a read up whenever it is pending.
fn read_all(bytes: &[u8], sizes: Vec<usize>, buffers: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let activity = PeerActivity::default();
    let pieces = Pieces {
        bytes: bytes.iter().copied().collect(),
        sizes,
        turn: 0,
    };
    let mut bounded = Bounded::new(pieces, &activity, LIMIT, Duration::from_secs(1));
    let (mut out, mut skipped) = (Vec::new(), Vec::new());
    simulate(async {
        for turn in 0.. {
            let mut buf = vec![0; buffers[turn % buffers.len()]];
            let mut first = true;
            let pause = poll_fn(|_| {
                if std::mem::take(&mut first) {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            });
            match select(bounded.read(&mut buf), pause).await {
                Either::First(n) => match n.unwrap() {
                    0 => break,
                    n => out.extend(&buf[..n]),
                },
                Either::Second(()) => {}
            }
            skipped.extend(activity.skipped.take());
        }
    });
    assert!(activity.closed.get());
    (out, skipped)
}

fn any_packet() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Option<usize>)> {
    let publish = (0u8..16, 1usize..=192, any::<u16>(), 0usize..3000);
    let publish = publish.prop_filter_map("QoS 3", |(flags, topic, id, payload)| {
        let id = match (flags >> 1) & 3 {
            0 => None,
            3 => return None,
            _ => Some(id),
        };
        let topic = "t".repeat(topic);
        let whole = publish_packet(0x30 | flags, &topic, id, &vec![0x55; payload]);
        Some(if whole.len() > LIMIT {
            let size = whole.len();
            (
                whole,
                publish_packet(0x30 | flags, &topic, id, &[]),
                Some(size),
            )
        } else {
            (whole.clone(), whole, None)
        })
    });
    let other = (
        prop_oneof![Just(2u8), Just(4), Just(9), Just(13), Just(14)],
        0usize..200,
    );
    let other = other.prop_map(|(kind, len)| {
        let whole = packet(kind << 4, &vec![0; len]);
        (whole.clone(), whole, None)
    });
    prop_oneof![publish, other]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_split_of_any_packets_gives_the_same(
        packets in proptest::collection::vec(any_packet(), 0..8),
        sizes in proptest::collection::vec(0usize..40, 1..10),
        buffers in proptest::collection::vec(1usize..300, 1..5),
    ) {
        let input: Vec<u8> = packets.iter().flat_map(|p| p.0.clone()).collect();
        let expected: Vec<u8> = packets.iter().flat_map(|p| p.1.clone()).collect();
        let (out, skipped) = read_all(&input, sizes, &buffers);
        prop_assert_eq!(out, expected);
        let sizes: Vec<usize> = packets.iter().filter_map(|p| p.2).collect();
        prop_assert_eq!(skipped, sizes);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        size in 1usize..20,
    ) {
        let activity = PeerActivity::default();
        let pieces = Pieces { bytes: bytes.into(), sizes: vec![size], turn: 0 };
        let mut bounded = Bounded::new(pieces, &activity, LIMIT, Duration::from_secs(1));
        simulate(async {
            let mut buf = [0; 16];
            while let Ok(1..) = bounded.read(&mut buf).await {}
        });
    }
}

#[test]
fn reason_codes_are_noted() {
    for (bytes, reason) in [
        (&[0x20, 3, 0, 0x86, 0][..], Some(0x86)),
        (&[0xe0, 1, 0x8e], Some(0x8e)),
        (&[0xe0, 0], None),
        (&[0xd0, 0], None),
    ] {
        let activity = PeerActivity::default();
        let pieces = Pieces {
            bytes: bytes.iter().copied().collect(),
            sizes: vec![1],
            turn: 0,
        };
        let mut bounded = Bounded::new(pieces, &activity, LIMIT, Duration::from_secs(1));
        simulate(async {
            let mut buf = [0; 16];
            while bounded.read(&mut buf).await.unwrap() > 0 {}
        });
        assert_eq!(activity.reason_code.get(), reason, "{bytes:x?}");
    }
}

#[test]
fn a_quarter_of_a_gigabyte_is_skipped_without_keeping_others_waiting() {
    /// The largest PUBLISH there is, made as it is read.
    struct Huge(usize, Vec<u8>);
    impl ErrorType for Huge {
        type Error = Fault;
    }
    impl Read for Huge {
        async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
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
    let head = vec![0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, b't', 0, 9, 0];
    let payload = 268_435_455 - (head.len() - 5);
    let activity = PeerActivity::default();
    let mut bounded = Bounded::new(
        Huge(payload, head),
        &activity,
        LIMIT,
        Duration::from_secs(1),
    );
    let (mut out, mut turns) = (Vec::<u8>::new(), 0);
    simulate(async {
        loop {
            let mut buf = [0; 16];
            let turn = poll_fn(|_| {
                turns += 1;
                Poll::<()>::Pending
            });
            match select(bounded.read(&mut buf), turn).await {
                Either::First(Ok(n)) if n > 0 => out.extend(&buf[..n]),
                _ => break,
            }
        }
    });
    assert_eq!(out, publish_packet(0x32, "t", Some(9), &[]));
    assert_eq!(activity.skipped.get(), Some(268_435_460));
    assert!(turns > 1000);
}
