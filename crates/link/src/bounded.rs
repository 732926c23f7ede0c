//! A transport that never hands up a packet larger than the receive buffer, and bounds each wait to
//! write.
//!
//! All proplets of a channel receive all its messages, so most of the large ones are for others;
//! and a broker may ignore the Maximum Packet Size that it was told. An MQTT client that closes
//! the connection on such a message gets it again after each reconnect. So [`Bounded`]
//! follows the framing of what comes in. A PUBLISH that is too large is skipped as it arrives, of
//! any size and without being stored, and the client reads the same PUBLISH (topic, packet
//! identifier, flags) without properties and payload in its place, and acknowledges it.

use core::{cell::Cell, fmt, future::Future};
use embassy_time::{Duration, Instant, Timer, with_deadline};
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use proplet::wire::TOPIC_MAX;

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const DISCONNECT: u8 = 14;

/// Bytes kept free in front of the part of a PUBLISH that is kept, for its new fixed header.
const FRONT: usize = 3;
/// Room for that, the topic and its length, a packet identifier, and no properties.
const HEAD: usize = FRONT + 2 + TOPIC_MAX + 2 + 1;

/// Bytes that are skipped between two rests in which others get their turn.
const SKIP_BURST: usize = 64 * 1024;

/// Activity of the peer of a [`Bounded`] transport. It outlives the transport, and has for the owner of
/// the MQTT client facts that the client does not tell.
#[derive(Debug)]
pub struct PeerActivity {
    /// Moment at which the last byte came in.
    pub last_heard: Cell<Instant>,
    /// Size in bytes of the packet whose stub has just been read; taken by the one who handles it,
    /// and cleared when the next packet begins.
    pub skipped: Cell<Option<usize>>,
    /// Reason code of the last CONNACK or DISCONNECT, if it had one.
    pub reason_code: Cell<Option<u8>>,
    /// Whether the peer has closed the stream.
    pub closed: Cell<bool>,
}

impl PeerActivity {
    /// Forgets all, for a new transport.
    pub fn reset(&self) {
        self.last_heard.set(Instant::now());
        self.skipped.set(None);
        self.reason_code.set(None);
        self.closed.set(false);
    }

    fn note(&self, bytes: usize) {
        if bytes == 0 {
            self.closed.set(true);
        } else {
            self.last_heard.set(Instant::now());
        }
    }
}

impl Default for PeerActivity {
    fn default() -> Self {
        Self {
            last_heard: Cell::new(Instant::MIN),
            skipped: Cell::new(None),
            reason_code: Cell::new(None),
            closed: Cell::new(false),
        }
    }
}

/// Failure of a [`Bounded`] transport. Each of these ends the connection.
#[derive(Debug)]
pub enum Error<E> {
    /// The transport below failed.
    Transport(E),
    /// Nothing could be written for as long as the owner waits.
    Stalled,
    /// A packet is too large and can't be replaced: it is not a PUBLISH, or it has too long a topic
    /// or none.
    Oversized,
}

impl<E: fmt::Debug> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(err) => write!(f, "{err:?}"),
            Self::Stalled => f.write_str("the peer has stopped reading"),
            Self::Oversized => f.write_str("an oversized packet that can't be skipped"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}

impl<E: embedded_io_async::Error> embedded_io_async::Error for Error<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Transport(err) => err.kind(),
            Self::Stalled => ErrorKind::TimedOut,
            Self::Oversized => ErrorKind::InvalidData,
        }
    }
}

/// Position in the inbound stream. Every read that was dropped before it was ready leaves it
/// unchanged.
#[derive(Debug, Clone, Copy)]
enum Position {
    /// In a fixed header, of which `head[..len]` has come in.
    Fixed,
    /// The first bytes of the body of a CONNACK or DISCONNECT: wanted up to `end` in `head`,
    /// with `rest` bytes to follow.
    Reason { end: usize, rest: usize },
    /// The variable header of an oversized PUBLISH of `size` bytes, of which `left` have not
    /// come in yet: wanted up to `end` in `head`.
    Keep {
        size: usize,
        left: usize,
        end: usize,
    },
    /// The rest of it.
    Skip { size: usize, left: usize },
    /// `head[sent..len]` is to be read, then `body` bytes from the transport.
    Emit { body: usize },
    /// That many bytes of the packet are to be read straight from the transport.
    Body(usize),
}

/// A transport for an MQTT 5 client that bounds the size of a packet and the time of a write.
///
/// Reads and writes are as safe to cancel as those of the transport below.
#[derive(Debug)]
pub struct Bounded<'w, IO> {
    io: IO,
    activity: &'w PeerActivity,
    /// Largest packet in bytes that is handed up.
    limit: usize,
    /// Longest wait to write a byte.
    patience: Duration,
    /// Since when writes have been tried in vain, over cancellations.
    stalled: Option<Instant>,
    position: Position,
    head: [u8; HEAD],
    len: usize,
    sent: usize,
    /// First byte of the oversized PUBLISH.
    first: u8,
}

impl<'w, IO> Bounded<'w, IO> {
    /// Bounds packets from `io` to `limit` bytes and each wait for a write to `patience`.
    pub const fn new(io: IO, activity: &'w PeerActivity, limit: usize, patience: Duration) -> Self {
        Self {
            io,
            activity,
            limit,
            patience,
            stalled: None,
            position: Position::Fixed,
            head: [0; HEAD],
            len: 0,
            sent: 0,
            first: 0,
        }
    }

    /// The position after `head[..len]`, which has grown by a byte or two of a fixed header.
    fn fixed<E>(&mut self) -> Result<Position, Error<E>> {
        let first = self.head[0];
        let Some(&last) = self.head[1..self.len].last() else {
            return Ok(Position::Fixed);
        };
        if last & 0x80 != 0 {
            return Ok(if self.len < 5 {
                Position::Fixed
            } else {
                // No length ends after four bytes: the client's to refuse.
                Position::Emit { body: 0 }
            });
        }
        let body = self.head[1..self.len]
            .iter()
            .rev()
            .fold(0, |length, &byte| length << 7 | usize::from(byte & 0x7f));
        let size = self.len + body;
        Ok(match first >> 4 {
            PUBLISH if size > self.limit => {
                self.first = first;
                self.len = FRONT;
                Position::Keep {
                    size,
                    left: body,
                    end: FRONT + 2,
                }
            }
            _ if size > self.limit => return Err(Error::Oversized),
            CONNACK if body >= 2 => Position::Reason {
                end: self.len + 2,
                rest: body - 2,
            },
            DISCONNECT if body >= 1 => Position::Reason {
                end: self.len + 1,
                rest: body - 1,
            },
            _ => Position::Emit { body },
        })
    }

    /// The position after `head[FRONT..len]`, the beginning of an oversized PUBLISH's variable
    /// header.
    fn keep<E>(&self, size: usize, left: usize, end: usize) -> Result<Position, Error<E>> {
        if self.len < end {
            return Ok(Position::Keep { size, left, end });
        }
        let topic = usize::from(u16::from_be_bytes([self.head[FRONT], self.head[FRONT + 1]]));
        let identifier = match (self.first >> 1) & 3 {
            0 => 0,
            1 | 2 => 2,
            _ => return Err(Error::Oversized),
        };
        let whole = FRONT + 2 + topic + identifier;
        if topic == 0 || topic > TOPIC_MAX || whole - self.len > left {
            return Err(Error::Oversized);
        }
        Ok(if self.len < whole {
            Position::Keep {
                size,
                left,
                end: whole,
            }
        } else {
            Position::Skip { size, left }
        })
    }

    /// Makes a PUBLISH without payload of the head that was kept.
    fn stub(&mut self) {
        self.head[self.len] = 0; // no properties
        self.len += 1;
        let body = self.len - FRONT; // at most 197
        self.sent = if body < 0x80 {
            self.head[2] = body as u8;
            1
        } else {
            self.head[1] = body as u8 | 0x80;
            self.head[2] = (body >> 7) as u8;
            0
        };
        self.head[self.sent] = self.first;
    }
}

impl<IO: Read> Bounded<'_, IO> {
    /// Reads up to `most` bytes behind `head[..len]`. Zero is the end of the stream.
    async fn fill(&mut self, most: usize) -> Result<usize, Error<IO::Error>> {
        let room = &mut self.head[self.len..][..most];
        let n = self.io.read(room).await.map_err(Error::Transport)?;
        self.len += n;
        self.activity.note(n);
        Ok(n)
    }
}

impl<IO: ErrorType> ErrorType for Bounded<'_, IO> {
    type Error = Error<IO::Error>;
}

impl<IO: Read> Read for Bounded<'_, IO> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Self::Error> {
        if out.is_empty() {
            return Ok(0);
        }
        let mut burst = 0;
        loop {
            match self.position {
                Position::Fixed => {
                    // Every packet has two bytes at least.
                    let begins = self.len == 0;
                    if self.fill(if begins { 2 } else { 1 }).await? == 0 {
                        return Ok(0);
                    }
                    if begins {
                        self.activity.skipped.set(None);
                    }
                    self.position = self.fixed()?;
                }
                Position::Reason { end, rest } => {
                    if self.fill(end - self.len).await? == 0 {
                        return Ok(0);
                    }
                    if self.len == end {
                        self.activity.reason_code.set(Some(self.head[end - 1]));
                        self.position = Position::Emit { body: rest };
                    }
                }
                Position::Keep { left: 0, .. } => return Err(Error::Oversized),
                Position::Keep { size, left, end } => {
                    let n = self.fill((end - self.len).min(left)).await?;
                    if n == 0 {
                        return Ok(0);
                    }
                    self.position = self.keep(size, left - n, end)?;
                }
                Position::Skip { size, left: 0 } => {
                    self.stub();
                    self.activity.skipped.set(Some(size));
                    self.position = Position::Emit { body: 0 };
                }
                Position::Skip { size, left } => {
                    if burst >= SKIP_BURST {
                        burst = 0;
                        Timer::after_ticks(0).await;
                    }
                    let mut waste = [0; 512];
                    let most = left.min(waste.len());
                    let n = self
                        .io
                        .read(&mut waste[..most])
                        .await
                        .map_err(Error::Transport)?;
                    self.activity.note(n);
                    if n == 0 {
                        return Ok(0);
                    }
                    burst += n;
                    self.position = Position::Skip {
                        size,
                        left: left - n,
                    };
                }
                Position::Emit { body } if self.sent == self.len => {
                    self.len = 0;
                    self.sent = 0;
                    self.position = if body == 0 {
                        Position::Fixed
                    } else {
                        Position::Body(body)
                    };
                }
                Position::Emit { .. } => {
                    let rest = &self.head[self.sent..self.len];
                    let n = rest.len().min(out.len());
                    out[..n].copy_from_slice(&rest[..n]);
                    self.sent += n;
                    return Ok(n);
                }
                Position::Body(left) => {
                    let most = left.min(out.len());
                    let n = self
                        .io
                        .read(&mut out[..most])
                        .await
                        .map_err(Error::Transport)?;
                    self.activity.note(n);
                    self.position = if n == left {
                        Position::Fixed
                    } else {
                        Position::Body(left - n)
                    };
                    return Ok(n);
                }
            }
        }
    }
}

/// Waits for `io` until the peer has accepted nothing for `patience`, counted over waits that
/// were given up.
async fn patiently<T, E>(
    stalled: &mut Option<Instant>,
    patience: Duration,
    io: impl Future<Output = Result<T, E>>,
) -> Result<T, Error<E>> {
    let since = *stalled.get_or_insert_with(Instant::now);
    match with_deadline(since.saturating_add(patience), io).await {
        Ok(result) => {
            *stalled = None;
            result.map_err(Error::Transport)
        }
        Err(_) => Err(Error::Stalled),
    }
}

impl<IO: Write> Write for Bounded<'_, IO> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Self::Error> {
        patiently(&mut self.stalled, self.patience, self.io.write(buf)).await
    }

    async fn flush(&mut self) -> Result<(), Self::Error> {
        patiently(&mut self.stalled, self.patience, self.io.flush()).await
    }
}
