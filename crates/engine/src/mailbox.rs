//! Messages between a task's guest and the control thread, and the rates that the guest has used of its
//! limits. Only a module that imports functions has it.

use crate::platform::BoardError;
use core::{mem, num::NonZeroU32};
use proplet::{engine::Message, time::Duration};
use wamr::Buffer;

/// Messages that wait for a guest.
const INBOX: usize = 4;

/// Bytes before a message in the inbox: how many of it are its topic, little-endian.
const HEAD: usize = 2;

/// A message for a guest, in the arena: [`HEAD`], topic, payload.
#[derive(Debug)]
pub(crate) struct Incoming(Buffer);

impl Incoming {
    /// Arena bytes of a message; `None` if the topic is too long for one.
    pub(crate) fn size(topic: &str, payload: &[u8]) -> Option<usize> {
        u16::try_from(topic.len()).ok()?;
        Some(HEAD + topic.len() + payload.len())
    }

    /// In `buffer`, which has exactly the [`size`](Self::size).
    pub(crate) fn new(mut buffer: Buffer, topic: &str, payload: &[u8]) -> Self {
        let (head, rest) = buffer.split_at_mut(HEAD);
        head.copy_from_slice(&(topic.len() as u16).to_le_bytes());
        let (into, rest) = rest.split_at_mut(topic.len());
        into.copy_from_slice(topic.as_bytes());
        rest.copy_from_slice(payload);
        Self(buffer)
    }

    /// Bytes of its topic.
    pub(crate) fn topic_len(&self) -> u16 {
        let head = self.0.first_chunk::<HEAD>();
        u16::from_le_bytes(head.copied().unwrap_or_default())
    }

    /// The topic, and then the payload.
    pub(crate) fn text(&self) -> &[u8] {
        self.0.get(HEAD..).unwrap_or_default()
    }
}

/// The mailbox of one task; it is touched in critical sections only. There no arena bytes are taken
/// or given back, which may have to wait: they are moved in and out.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// The guest's next message; the slot is in the line of the speakers while there is something.
    pub(crate) message: Option<Message<Buffer>>,
    inbox: heapless::Vec<Incoming, INBOX, u8>,
    /// The result that it published last.
    pub(crate) output: Option<Buffer>,
    logged: Rate,
    said: Rate,
    pub(crate) timer: Option<Timer>,
    pub(crate) measurement: Measurement,
    /// Messages and log lines that exceeded a limit.
    pub(crate) dropped: u32,
}

/// A guest's question to a sensor. The board's thread measures, while the guest waits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measurement {
    None,
    Wanted(Wanted),
    /// The board's thread is about it.
    Made,
    Done(Result<i64, BoardError>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) sensor: u32,
    /// As the guest says it.
    pub(crate) channel: u32,
}

impl Mailbox {
    pub(crate) const NEW: Self = Self {
        message: None,
        inbox: heapless::Vec::new(),
        output: None,
        logged: Rate::NONE,
        said: Rate::NONE,
        timer: None,
        measurement: Measurement::None,
        dropped: 0,
    };

    /// Counts something that was dropped.
    pub(crate) const fn count_dropped(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    /// Takes the inbox out at the end of a run, for the caller to drop; and the output, unless the run
    /// has a result.
    pub(crate) fn close(&mut self, has_result: bool) -> impl Sized + use<> {
        let output = self.output.take_if(|_| !has_result);
        (mem::take(&mut self.inbox), output)
    }

    /// Whether there is room for a message in the inbox.
    pub(crate) fn has_room(&self) -> bool {
        self.inbox.len() < INBOX
    }

    /// Puts a message into the inbox.
    ///
    /// # Errors
    /// The message, where the inbox is full.
    pub(crate) fn deliver(&mut self, message: Incoming) -> Result<(), Incoming> {
        self.inbox.push(message)
    }

    /// Of the next message in the inbox: the bytes of its topic, and of topic and payload. Only the
    /// guest takes messages out.
    pub(crate) fn next_len(&self) -> Option<(u16, usize)> {
        let next = self.inbox.first()?;
        Some((next.topic_len(), next.text().len()))
    }

    pub(crate) fn receive(&mut self) -> Option<Incoming> {
        (!self.inbox.is_empty()).then(|| self.inbox.remove(0))
    }

    /// Whether `bytes` more of log are within `limit` bytes a second. If so, they count.
    pub(crate) fn may_log(&mut self, now: Duration, bytes: u32, limit: u32) -> bool {
        self.logged.take(now, bytes, limit)
    }

    /// Whether one more message is within `limit` a second. If so, it counts.
    pub(crate) fn may_say(&mut self, now: Duration, limit: u32) -> bool {
        self.said.take(now, 1, limit)
    }

    /// Takes the measurement that is wanted; the board's thread is about it then.
    pub(crate) fn begin_measurement(&mut self) -> Option<Wanted> {
        let Measurement::Wanted(wanted) = self.measurement else {
            return None;
        };
        self.measurement = Measurement::Made;
        Some(wanted)
    }

    /// Keeps what was measured. Returns whether it was for this guest: the one before it in its slot
    /// may have ended meanwhile.
    pub(crate) fn end_measurement(&mut self, result: Result<i64, BoardError>) -> bool {
        let is_made = matches!(self.measurement, Measurement::Made);
        if is_made {
            self.measurement = Measurement::Done(result);
        }
        is_made
    }

    /// The measurement, once it is made.
    pub(crate) fn measured(&mut self) -> Option<Result<i64, BoardError>> {
        let Measurement::Done(result) = self.measurement else {
            return None;
        };
        self.measurement = Measurement::None;
        Some(result)
    }
}

/// The use in the present second, which begins with the first use after the one before.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// In milliseconds since boot, modulo 2^32: after a silence of that many, 50 days, a second may
    /// count as the one before.
    began: u32,
    used: u32,
}

impl Rate {
    const NONE: Self = Self { began: 0, used: 0 };

    fn take(&mut self, now: Duration, amount: u32, limit: u32) -> bool {
        const WINDOW: u32 = 1000;
        let now = millis(now) as u32;
        if now.wrapping_sub(self.began) >= WINDOW {
            *self = Self {
                began: now,
                used: 0,
            };
        }
        match self.used.checked_add(amount) {
            Some(used) if used <= limit => {
                self.used = used;
                true
            }
            _ => false,
        }
    }
}

/// Milliseconds of a time since boot.
pub(crate) const fn millis(time: Duration) -> u64 {
    time.as_secs() * 1000 + time.subsec_millis() as u64
}

/// Microseconds of a time since boot: 2^64 of them take longer than any device lives.
pub(crate) const fn micros(time: Duration) -> u64 {
    time.as_secs() * 1_000_000 + time.subsec_micros() as u64
}

/// A guest's periodic timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer {
    /// When it expires next, in microseconds since boot.
    next: u64,
    /// Milliseconds.
    period: NonZeroU32,
}

impl Timer {
    /// Expires each `period` milliseconds, counted from `now`; `None` for a period of 0.
    pub(crate) fn new(now: Duration, period: u32) -> Option<Self> {
        Some(Self {
            next: micros(now) + u64::from(period) * 1000,
            period: NonZeroU32::new(period)?,
        })
    }

    /// When it expires next.
    pub(crate) const fn next(&self) -> Duration {
        Duration::from_micros(self.next)
    }

    /// Number of expirations up to `now`, and the timer after that.
    pub(crate) fn expired(self, now: Duration) -> (u32, Self) {
        let Some(late) = micros(now).checked_sub(self.next) else {
            return (0, self);
        };
        let period = u64::from(self.period.get()) * 1000;
        let times = late / period + 1;
        let next = self.next + times * period;
        (
            u32::try_from(times).unwrap_or(u32::MAX),
            Self { next, ..self },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_rate_is_one_of_each_second() {
        let mut rate = Rate::NONE;
        assert!(rate.take(ms(5000), 60, 100));
        assert!(!rate.take(ms(5001), 41, 100));
        assert!(rate.take(ms(5999), 40, 100));
        assert!(!rate.take(ms(5999), 1, 100));
        // An amount of 0 is always there.
        assert!(rate.take(ms(5999), 0, 100));
        assert!(rate.take(ms(6000), 100, 100));
        assert!(!rate.take(ms(6000), u32::MAX, 100));
        assert!(!rate.take(ms(9000), 1, 0));
        // A clock that stands still gives no more.
        assert!(rate.take(ms(9000), 1, 1));
        assert!(!rate.take(ms(9000), 1, 1));
    }

    #[test]
    fn a_timer_counts_what_it_missed_and_keeps_its_phase() {
        assert_eq!(Timer::new(ms(100), 0), None);
        let timer = Timer::new(ms(100), 10).expect("a period");
        assert_eq!(timer.next(), ms(110));
        assert_eq!(timer.expired(ms(109)), (0, timer));
        let (times, timer) = timer.expired(ms(110));
        assert_eq!((times, timer.next()), (1, ms(120)));
        let (times, timer) = timer.expired(ms(139) + Duration::from_micros(999));
        assert_eq!((times, timer.next()), (2, ms(140)));
        let (times, timer) = timer.expired(ms(1_000_000));
        assert_eq!((times, timer.next()), (99_987, ms(1_000_010)));
        let slow = Timer::new(ms(0), u32::MAX).expect("a period");
        assert_eq!(slow.expired(ms(u32::MAX.into())).0, 1);
    }
}
