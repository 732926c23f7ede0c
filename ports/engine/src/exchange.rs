//! What a slot's guest and the control thread hand each other, and what the guest has spent of its
//! limits.

use core::{
    cell::RefCell,
    sync::atomic::{AtomicBool, Ordering},
};
use critical_section::Mutex;
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

/// The exchange of one slot. What it holds of the arena is only moved while it is locked: to free
/// or to get arena bytes may have to wait.
#[derive(Debug)]
pub(crate) struct Exchange {
    shared: Mutex<RefCell<Shared>>,
    /// Whether there is a message: spares the control thread a lock for each slot.
    has_message: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    /// From the start of a run to its end.
    is_open: bool,
    /// What the guest has to say.
    message: Option<Message<Buffer>>,
    inbox: heapless::Deque<Incoming, INBOX>,
    output: Option<Buffer>,
    logged: Rate,
    said: Rate,
    timer: Option<Timer>,
}

impl Shared {
    const NEW: Self = Self {
        is_open: false,
        message: None,
        inbox: heapless::Deque::new(),
        output: None,
        logged: Rate::NONE,
        said: Rate::NONE,
        timer: None,
    };
}

impl Exchange {
    pub(crate) const fn new() -> Self {
        Self {
            shared: Mutex::new(RefCell::new(Shared::NEW)),
            has_message: AtomicBool::new(false),
        }
    }

    fn with<R>(&self, change: impl FnOnce(&mut Shared) -> R) -> R {
        critical_section::with(|cs| change(&mut self.shared.borrow_ref_mut(cs)))
    }

    /// A run begins.
    pub(crate) fn open(&self) {
        self.has_message.store(false, Ordering::Relaxed);
        let old = self.with(|shared| {
            let new = Shared {
                is_open: true,
                ..Shared::NEW
            };
            core::mem::replace(shared, new)
        });
        drop(old);
    }

    /// The run has ended. Returns its output; the guest's last message stays until it is
    /// [taken](Self::take_message).
    pub(crate) fn close(&self) -> Option<Buffer> {
        let (inbox, output) = self.with(|shared| {
            shared.is_open = false;
            (core::mem::take(&mut shared.inbox), shared.output.take())
        });
        drop(inbox);
        output
    }

    /// Whether the guest's last message has not been taken.
    pub(crate) fn has_message(&self) -> bool {
        self.has_message.load(Ordering::Acquire)
    }

    /// For the guest, if it [has none](Self::has_message) before.
    pub(crate) fn say(&self, message: Message<Buffer>) {
        let old = self.with(|shared| shared.message.replace(message));
        debug_assert!(old.is_none(), "the message before has been taken");
        self.has_message.store(true, Ordering::Release);
    }

    pub(crate) fn take_message(&self) -> Option<Message<Buffer>> {
        if !self.has_message() {
            return None;
        }
        let message = self.with(|shared| shared.message.take());
        self.has_message.store(false, Ordering::Release);
        message
    }

    /// Whether there is room for a message; `None` if there is no run to get it.
    pub(crate) fn has_room(&self) -> Option<bool> {
        self.with(|shared| shared.is_open.then(|| !shared.inbox.is_full()))
    }

    /// Puts a message into the inbox, unless it is full or the run has ended meanwhile.
    pub(crate) fn deliver(&self, message: Incoming) {
        let refused = self.with(|shared| match shared.is_open {
            true => shared.inbox.push_back(message),
            false => Err(message),
        });
        drop(refused);
    }

    /// Of the next message in the inbox: the bytes of its topic, and of topic and payload. Only the
    /// guest takes messages out.
    pub(crate) fn next_len(&self) -> Option<(u16, usize)> {
        self.with(|shared| {
            let next = shared.inbox.front()?;
            Some((next.topic_len(), next.text().len()))
        })
    }

    pub(crate) fn receive(&self) -> Option<Incoming> {
        self.with(|shared| shared.inbox.pop_front())
    }

    pub(crate) fn take_output(&self) -> Option<Buffer> {
        self.with(|shared| shared.output.take())
    }

    /// After [`take_output`](Self::take_output).
    pub(crate) fn set_output(&self, output: Buffer) {
        let old = self.with(|shared| shared.output.replace(output));
        drop(old);
    }

    /// Whether `bytes` more of log are within `limit` bytes a second. If so, they count.
    pub(crate) fn may_log(&self, now: Duration, bytes: u32, limit: u32) -> bool {
        self.with(|shared| shared.logged.take(now, bytes, limit))
    }

    /// Whether one more message is within `limit` a second. If so, it counts.
    pub(crate) fn may_say(&self, now: Duration, limit: u32) -> bool {
        self.with(|shared| shared.said.take(now, 1, limit))
    }

    pub(crate) fn timer(&self) -> Option<Timer> {
        self.with(|shared| shared.timer)
    }

    pub(crate) fn set_timer(&self, timer: Option<Timer>) {
        self.with(|shared| shared.timer = timer);
    }
}

/// What was used in the present second, which begins with the first use after the one before.
#[derive(Debug, Clone, Copy)]
struct Rate {
    began: Duration,
    used: u32,
}

impl Rate {
    const NONE: Self = Self {
        began: Duration::ZERO,
        used: 0,
    };

    fn take(&mut self, now: Duration, amount: u32, limit: u32) -> bool {
        const WINDOW: Duration = Duration::from_secs(1);
        if now.saturating_sub(self.began) >= WINDOW {
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

/// A guest's periodic timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer {
    /// When it expires next.
    next: Duration,
    /// Milliseconds, at least 1.
    period: u32,
}

impl Timer {
    /// Expires each `period` milliseconds, counted from `now`; `None` for a period of 0.
    pub(crate) fn new(now: Duration, period: u32) -> Option<Self> {
        (period > 0).then(|| Self {
            next: now + Duration::from_millis(period.into()),
            period,
        })
    }

    /// When it expires next.
    pub(crate) const fn next(&self) -> Duration {
        self.next
    }

    /// How often it has expired by `now`, and the timer after that.
    pub(crate) fn expired(self, now: Duration) -> (u32, Self) {
        let Some(late) = now.checked_sub(self.next) else {
            return (0, self);
        };
        let late = late.as_secs() * 1000 + u64::from(late.subsec_millis());
        let times = late / u64::from(self.period) + 1;
        let next = self.next + Duration::from_millis(times * u64::from(self.period));
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
