//! What must reach the manager, kept until the broker has acknowledged it.

use super::{Delivery, Id, Qos};
use crate::{
    engine::{Text, clip, text},
    task::{
        learning::{FORMAT_MAX, Round},
        monitor::Monitor,
    },
    time::{Duration, Instant},
    wire::ID_MAX,
};
use core::ops::Deref;

/// A letter that the broker refuses this often is given up.
const REFUSALS_MAX: u8 = 3;

/// Time from a refusal to the next attempt.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// A result, or an error's text.
pub(super) type Outcome<B> = Result<Output<B>, Text>;

/// A result.
#[derive(Debug)]
pub(super) enum Output<B> {
    /// A value in decimal; empty if there is none.
    Value(Text),
    /// What the guest said, UTF-8.
    Bytes(B),
}

impl<B: Deref<Target = [u8]>> Output<B> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Value(text) => text,
            Self::Bytes(bytes) => core::str::from_utf8(bytes).unwrap_or_default(),
        }
    }
}

/// The end of a task of a federated round.
#[derive(Debug)]
pub(super) struct Update<B> {
    pub(super) round: Id,
    pub(super) format: heapless::String<FORMAT_MAX>,
    pub(super) samples: u64,
    pub(super) outcome: Outcome<B>,
    /// Whether the coordinator did not take it: it goes to the round's topic first.
    pub(super) fallback: bool,
}

/// Storage of one letter: a message about a task.
#[derive(Debug)]
pub struct Letter<B> {
    state: State,
    /// Order of posting; wraps after 4 billion letters.
    seq: u32,
    /// Not to be sent before.
    due: Instant,
    refusals: u8,
    pub(super) task: Id,
    pub(super) body: Body<B>,
}

impl<B> Letter<B> {
    /// A vacant letter.
    pub const VACANT: Self = Self {
        state: State::Vacant,
        seq: 0,
        due: Instant::BOOT,
        refusals: 0,
        task: Id::new(),
        body: Body::Results {
            outcome: Ok(Output::Value(Text::new())),
            stopped: false,
        },
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Vacant,
    Posted,
    /// Given to the link, which has not told its fate yet.
    Sent,
}

/// What a letter says of its task.
#[derive(Debug)]
pub(super) enum Body<B> {
    /// The last sample of a run: worth sending once, not worth repeating.
    Sample(Monitor),
    Results {
        outcome: Outcome<B>,
        /// Whether a stop command came since the start: the task may be started anew at once.
        stopped: bool,
    },
    InvokeResults {
        invocation: Id,
        outcome: Outcome<B>,
    },
    Update {
        update: Update<B>,
        /// As in results.
        stopped: bool,
    },
    /// What a guest publishes: its topic below the channel, and then the payload.
    Message {
        bytes: B,
        topic_len: usize,
    },
}

impl<B> Update<B> {
    pub(super) fn new(round: &Round<'_>, outcome: Outcome<B>, fallback: bool) -> Self {
        Self {
            round: Id::try_from(clip(round.id, ID_MAX)).unwrap_or_default(),
            // The round has it bounded.
            format: heapless::String::try_from(round.format).unwrap_or_default(),
            samples: round.samples,
            outcome,
            fallback,
        }
    }
}

impl<B: Deref<Target = [u8]>> Body<B> {
    /// Whether there is more to be said, now that the first is delivered.
    fn next(&mut self) -> bool {
        match self {
            Self::Update { update, .. } => core::mem::take(&mut update.fallback),
            _ => false,
        }
    }

    /// Says less, where the whole does not get through: a task must not end in silence.
    fn shrink(&mut self, why: &str) {
        let outcome = match self {
            Self::Results { outcome, .. } | Self::InvokeResults { outcome, .. } => outcome,
            Self::Update { update, .. } => &mut update.outcome,
            Self::Sample(_) | Self::Message { .. } => return,
        };
        if let Ok(Output::Bytes(bytes)) = outcome {
            let len = bytes.len();
            *outcome = Err(text(format_args!("the result of {len} bytes {why}")));
        }
    }

    fn message_bytes(&self) -> usize {
        match self {
            Self::Message { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    fn qos(&self) -> Qos {
        match self {
            Self::Sample(_) => Qos::AtMostOnce,
            _ => Qos::AtLeastOnce,
        }
    }
}

/// Letters, sent in the order of posting as they fall due.
#[derive(Debug)]
pub(super) struct Outbox<'a, B> {
    letters: &'a mut [Letter<B>],
    /// All letters from here on are vacant: a large outbox costs no time while it is not full.
    top: usize,
    /// Letters that are not vacant.
    count: usize,
    /// Bytes of guests' messages in them.
    message_bytes: usize,
    seq: u32,
}

impl<'a, B: Deref<Target = [u8]>> Outbox<'a, B> {
    pub(super) fn new(letters: &'a mut [Letter<B>]) -> Self {
        letters.fill_with(|| Letter::VACANT);
        Self {
            letters,
            top: 0,
            count: 0,
            message_bytes: 0,
            seq: 0,
        }
    }

    fn posted(&self) -> impl Iterator<Item = &Letter<B>> {
        let letters = self.letters[..self.top].iter();
        letters.filter(|l| l.state != State::Vacant)
    }

    fn free(&mut self, index: usize) {
        self.message_bytes -= self.letters[index].body.message_bytes();
        self.count -= 1;
        self.letters[index] = Letter::VACANT;
        while self.top > 0 && self.letters[self.top - 1].state == State::Vacant {
            self.top -= 1;
        }
    }

    pub(super) fn get(&self, index: u16) -> &Letter<B> {
        &self.letters[usize::from(index)]
    }

    /// Letters that it holds at most.
    pub(super) fn capacity(&self) -> usize {
        self.letters.len()
    }

    /// Letters that can still be posted.
    pub(super) fn room(&self) -> usize {
        self.letters.len() - self.count
    }

    /// Bytes of guests' messages that it holds.
    pub(super) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Drops the samples that were not sent: they'd be served late.
    pub(super) fn forget_samples(&mut self) {
        for index in 0..self.top {
            let letter = &self.letters[index];
            if letter.state == State::Posted && letter.body.qos() == Qos::AtMostOnce {
                self.free(index);
            }
        }
    }

    /// Whether everything posted was delivered.
    pub(super) fn is_empty(&self) -> bool {
        self.top == 0
    }

    /// Keeps a letter until it is delivered; returns false if there is no room.
    #[must_use]
    pub(super) fn post(&mut self, task: &Id, body: Body<B>, due: Instant) -> bool {
        let vacant = |l: &Letter<B>| l.state == State::Vacant;
        let Some(index) = self.letters.iter().position(vacant) else {
            return false;
        };
        self.top = self.top.max(index + 1);
        self.count += 1;
        self.message_bytes += body.message_bytes();
        self.letters[index] = Letter {
            state: State::Posted,
            seq: self.seq,
            due,
            refusals: 0,
            task: task.clone(),
            body,
        };
        self.seq = self.seq.wrapping_add(1);
        true
    }

    /// Whether results of this task are posted and not yet delivered, and no stop has come since.
    pub(super) fn holds_results(&self, task: &str) -> bool {
        self.posted().any(|l| {
            l.task == task
                && matches!(
                    l.body,
                    Body::Results { stopped: false, .. } | Body::Update { stopped: false, .. }
                )
        })
    }

    /// Notes that the manager has stopped a task whose results are still to be delivered; returns
    /// false if there are none.
    pub(super) fn stop(&mut self, task: &str) -> bool {
        let mut found = false;
        for letter in &mut self.letters[..self.top] {
            if letter.state != State::Vacant
                && letter.task == task
                && let Body::Results { stopped, .. } | Body::Update { stopped, .. } =
                    &mut letter.body
            {
                *stopped = true;
                found = true;
            }
        }
        found
    }

    /// Whether results of this invocation are posted and not yet delivered.
    pub(super) fn holds_invocation(&self, id: &str) -> bool {
        self.posted()
            .any(|l| matches!(&l.body, Body::InvokeResults { invocation, .. } if invocation == id))
    }

    /// Gives out the oldest letter that is due and needs no more than `most`.
    pub(super) fn take(&mut self, most: Qos, now: Instant) -> Option<(u16, Qos)> {
        let newest = self.seq;
        let (index, letter) = (0..=u16::MAX)
            .zip(self.letters[..self.top].iter_mut())
            .filter(|(_, l)| l.state == State::Posted && l.due <= now && l.body.qos() <= most)
            .max_by_key(|(_, l)| newest.wrapping_sub(l.seq))?;
        letter.state = State::Sent;
        Some((index, letter.body.qos()))
    }

    /// The earliest moment after `now` at which a letter falls due.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.posted()
            .filter(|l| l.state == State::Posted && l.due > now)
            .map(|l| l.due)
            .min()
    }

    /// Told of a letter's fate.
    pub(super) fn delivered(&mut self, index: u16, delivery: Delivery, now: Instant) {
        let index = usize::from(index);
        let letter = &mut self.letters[index];
        debug_assert_eq!(letter.state, State::Sent, "a fate is told once");
        match delivery {
            Delivery::Done if letter.body.next() => letter.state = State::Posted,
            Delivery::Done => self.free(index),
            Delivery::Lost if letter.body.qos() == Qos::AtMostOnce => self.free(index),
            Delivery::Lost => letter.state = State::Posted,
            // The round's topic is not ours; the manager's envelope is what counts.
            Delivery::Refused | Delivery::TooLarge if letter.body.next() => {
                log::warn!(
                    "task {}: the broker refuses its update on the round's topic",
                    letter.task
                );
                letter.state = State::Posted;
            }
            Delivery::Refused | Delivery::TooLarge => {
                letter.refusals += 1;
                if delivery == Delivery::TooLarge {
                    letter
                        .body
                        .shrink("is too large for the link or the broker");
                } else if letter.refusals + 1 == REFUSALS_MAX {
                    letter.body.shrink("was refused by the broker");
                }
                if letter.refusals < REFUSALS_MAX {
                    letter.state = State::Posted;
                    letter.due = now + REFUSED_PAUSE;
                } else {
                    log::error!(
                        "a message about task {} given up: it was refused {REFUSALS_MAX} times",
                        letter.task
                    );
                    self.free(index);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn id(s: &str) -> Id {
        Id::try_from(s).unwrap()
    }

    fn results() -> Body<std::vec::Vec<u8>> {
        Body::Results {
            outcome: Ok(Output::Value(Text::new())),
            stopped: false,
        }
    }

    #[test]
    fn letters_go_in_order_as_they_fall_due() {
        let mut letters = [const { Letter::VACANT }; 3];
        let mut outbox = Outbox::new(&mut letters);
        assert!(outbox.post(&id("a"), results(), at(250)));
        assert!(outbox.post(&id("b"), results(), at(0)));
        assert!(outbox.post(&id("c"), results(), at(0)));
        assert!(!outbox.post(&id("d"), results(), at(0)), "no room");

        let take = |outbox: &mut Outbox<'_, _>, ms| {
            outbox
                .take(Qos::AtLeastOnce, at(ms))
                .map(|(index, _)| outbox.get(index).task.clone())
        };
        assert_eq!(take(&mut outbox, 0), Some(id("b")));
        assert_eq!(take(&mut outbox, 0), Some(id("c")));
        assert_eq!(take(&mut outbox, 249), None);
        assert_eq!(outbox.next(at(0)), Some(at(250)));
        assert_eq!(take(&mut outbox, 250), Some(id("a")));
        assert_eq!(outbox.next(at(250)), None);
    }

    #[test]
    fn a_lost_letter_is_sent_again_until_it_is_acknowledged() {
        let mut letters = [const { Letter::VACANT }; 1];
        let mut outbox = Outbox::new(&mut letters);
        assert!(outbox.post(&id("a"), results(), at(0)));
        for _ in 0..10 {
            let (index, _) = outbox.take(Qos::AtLeastOnce, at(0)).unwrap();
            assert!(outbox.take(Qos::AtLeastOnce, at(0)).is_none());
            assert!(outbox.holds_results("a"));
            outbox.delivered(index, Delivery::Lost, at(0));
        }
        let (index, _) = outbox.take(Qos::AtLeastOnce, at(0)).unwrap();
        outbox.delivered(index, Delivery::Done, at(0));
        assert!(outbox.is_empty() && !outbox.holds_results("a"));
    }

    #[test]
    fn a_refused_letter_is_given_up_after_three_attempts() {
        let mut letters = [const { Letter::VACANT }; 1];
        let mut outbox = Outbox::new(&mut letters);
        assert!(outbox.post(&id("a"), results(), at(0)));
        for attempt in 0..3 {
            let now = at(attempt * 5000);
            let (index, _) = outbox.take(Qos::AtLeastOnce, now).unwrap();
            outbox.delivered(index, Delivery::Refused, now);
        }
        assert!(outbox.is_empty());
    }

    #[test]
    fn only_what_the_link_has_room_for_is_given_out() {
        let mut letters = [const { Letter::VACANT }; 2];
        let mut outbox = Outbox::new(&mut letters);
        let monitor = Monitor::new(crate::wire::MonitoringProfile::STANDARD, at(0));
        assert!(outbox.post(&id("a"), results(), at(0)));
        assert!(outbox.post(&id("a"), Body::Sample(monitor), at(0)));
        assert_eq!(
            outbox.take(Qos::AtMostOnce, at(0)),
            Some((1, Qos::AtMostOnce))
        );
        assert_eq!(outbox.take(Qos::AtMostOnce, at(0)), None);
    }
}
