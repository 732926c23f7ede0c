//! Messages that must reach the manager or the channel, kept until the broker has acknowledged them.

use super::{
    event::{Delivery, Qos},
    reason::{Reason, Refusal},
};
use crate::{
    collections::hash::hash,
    engine::Value,
    task::{
        args,
        learning::{FORMAT_MAX, Round},
        monitor::Monitor,
    },
    text::{Text, clip},
    time::{Duration, Instant},
    wire::{ID_MAX, Id},
};
use core::ops::Deref;
use heapless::Vec;

/// Refusals by the broker after which an entry is given up.
const REFUSALS_MAX: u8 = 3;

/// Time from a refusal to the next attempt.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// The end of a task: a result, or the reason for which it has none.
pub(super) type Outcome<B> = Result<Output<B>, Reason<B>>;

/// A result.
#[derive(Debug)]
pub(super) enum Output<B> {
    /// The function's value, shown in decimal; nothing for a function without one.
    Value(Option<Value>),
    /// Text that the guest published, UTF-8.
    Bytes(B),
}

impl<B: Deref<Target = [u8]>> Output<B> {
    /// The result as text; that of a value is made in `text`.
    pub(super) fn as_str<'o>(&'o self, text: &'o mut Text) -> &'o str {
        match self {
            Self::Value(value) => {
                *text = args::format(*value);
                text
            }
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

/// Most messages of QoS 1 that may await their acknowledgement at once: the Receive Maximum that the link
/// announces.
pub const RECEIVE_MAXIMUM: usize = 8;

/// Ids of tasks and invocations that have ended, of which a command that comes again is known.
const ENDED: usize = 64;

/// Storage of one message about a task.
#[derive(Debug)]
pub struct OutboxEntry<B>(Option<Posted<B>>);

impl<B> OutboxEntry<B> {
    /// A vacant entry.
    pub const VACANT: Self = Self(None);
}

/// A message that is kept.
#[derive(Debug)]
pub(super) struct Posted<B> {
    /// Whether the link has it, and has not reported its fate yet.
    is_sent: bool,
    /// Whether it refuses a command.
    is_refusal: bool,
    /// Whether its command is not acknowledged, because the outbox is full without it.
    is_withheld: bool,
    refusals: u8,
    /// Order of posting; wraps after 4 billion messages.
    seq: u32,
    /// Earliest moment of sending.
    due: Instant,
    pub(super) task: Id,
    pub(super) body: Body<B>,
}

/// Content of a message.
#[derive(Debug)]
pub(super) enum Body<B> {
    /// The last sample of a run: sent once, not repeated.
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
    /// A message of a guest: its topic below the channel, and then the payload.
    Message {
        bytes: B,
        topic_len: usize,
    },
}

impl<B: Deref<Target = [u8]>> Body<B> {
    /// Results that no stop command brought about.
    pub(super) const fn results(outcome: Outcome<B>) -> Self {
        Self::Results {
            outcome,
            stopped: false,
        }
    }

    /// Whether a second message follows, now that the first is delivered.
    fn next(&mut self) -> bool {
        match self {
            Self::Update { update, .. } => core::mem::take(&mut update.fallback),
            _ => false,
        }
    }

    /// Puts a short reason in the place of a result that does not get through: a task must not end in
    /// silence.
    fn shorten(&mut self, reason: impl FnOnce(usize) -> Refusal) {
        let outcome = match self {
            Self::Results { outcome, .. } | Self::InvokeResults { outcome, .. } => outcome,
            Self::Update { update, .. } => &mut update.outcome,
            Self::Sample(_) | Self::Message { .. } => return,
        };
        if let Ok(Output::Bytes(bytes)) = outcome {
            *outcome = Err(reason(bytes.len()).into());
        }
    }

    /// Whether it tells a failure, of whatever kind.
    const fn is_refusal(&self) -> bool {
        match self {
            Self::Results { outcome, .. } | Self::InvokeResults { outcome, .. } => outcome.is_err(),
            Self::Update { update, .. } => update.outcome.is_err(),
            Self::Sample(_) | Self::Message { .. } => false,
        }
    }

    fn message_bytes(&self) -> usize {
        match self {
            Self::Message { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    const fn qos(&self) -> Qos {
        match self {
            Self::Sample(_) => Qos::AtMostOnce,
            _ => Qos::AtLeastOnce,
        }
    }
}

/// The command that is acted upon.
#[derive(Debug)]
struct Command {
    qos: Qos,
    /// Number of its answer, if that is withheld.
    answer: Option<u32>,
}

/// Hashes of the last ids whose results were delivered.
#[derive(Debug)]
struct Ended {
    ids: [u32; ENDED],
    next: usize,
}

impl Default for Ended {
    fn default() -> Self {
        Self {
            // That of an id is never 0.
            ids: [0; ENDED],
            next: 0,
        }
    }
}

impl Ended {
    fn has(&self, id: &str) -> bool {
        self.ids.contains(&Self::hash(id))
    }

    fn push(&mut self, id: &str) {
        if !self.has(id) {
            self.ids[self.next] = Self::hash(id);
            self.next = (self.next + 1) % ENDED;
        }
    }

    fn hash(id: &str) -> u32 {
        hash(&[id.as_bytes()]) | 1
    }
}

/// Owner of the entries, which are sent in the order of posting as they fall due.
#[derive(Debug)]
pub(super) struct Outbox<'a, B> {
    entries: &'a mut [OutboxEntry<B>],
    /// All entries from here on are vacant: a large outbox costs no time while it is not full.
    top: usize,
    /// Entries that are not vacant.
    count: usize,
    /// Those of them that are withheld.
    withheld: usize,
    /// Those that are refusals and not withheld.
    refusals: usize,
    /// The command that is acted upon.
    command: Option<Command>,
    /// Messages of QoS 1 that were read and not acknowledged, in their order; each with the number of its
    /// withheld answer, if it has one.
    unacknowledged: Vec<Option<u32>, RECEIVE_MAXIMUM>,
    ended: Ended,
    /// Bytes of guests' messages in them.
    message_bytes: usize,
    /// Bytes of guests' messages from which on no more are taken.
    message_bytes_max: usize,
    seq: u32,
    /// Whether samples are taken: with a connection only, for they would be late after it.
    takes_samples: bool,
}

impl<'a, B: Deref<Target = [u8]>> Outbox<'a, B> {
    pub(super) fn new(entries: &'a mut [OutboxEntry<B>], message_bytes_max: usize) -> Self {
        entries.fill_with(|| OutboxEntry::VACANT);
        Self {
            entries,
            top: 0,
            count: 0,
            withheld: 0,
            refusals: 0,
            command: None,
            unacknowledged: Vec::new(),
            ended: Ended::default(),
            message_bytes: 0,
            message_bytes_max,
            seq: 0,
            takes_samples: false,
        }
    }

    /// The messages, with their indices.
    fn posted(&self) -> impl Iterator<Item = (u16, &Posted<B>)> {
        let entries = (0..=u16::MAX).zip(&self.entries[..self.top]);
        entries.filter_map(|(index, entry)| Some((index, entry.0.as_ref()?)))
    }

    fn posted_mut(&mut self) -> impl Iterator<Item = (u16, &mut Posted<B>)> {
        let entries = (0..=u16::MAX).zip(&mut self.entries[..self.top]);
        entries.filter_map(|(index, entry)| Some((index, entry.0.as_mut()?)))
    }

    fn free(&mut self, index: u16) {
        let Some(posted) = self.entries[usize::from(index)].0.take() else {
            return;
        };
        self.message_bytes -= posted.body.message_bytes();
        self.count -= 1;
        if let Some(count) = self.count_of(posted.is_withheld, posted.is_refusal) {
            *count -= 1;
        }
        while self.top > 0 && self.entries[self.top - 1].0.is_none() {
            self.top -= 1;
        }
    }

    /// The count of such answers, if they have one.
    const fn count_of(&mut self, is_withheld: bool, is_refusal: bool) -> Option<&mut usize> {
        match (is_withheld, is_refusal) {
            (true, _) => Some(&mut self.withheld),
            (false, true) => Some(&mut self.refusals),
            (false, false) => None,
        }
    }

    /// The message that was [given out](Self::poll) as `index`, until its fate is told.
    pub(super) fn get(&self, index: u16) -> Option<&Posted<B>> {
        self.entries.get(usize::from(index))?.0.as_ref()
    }

    /// Entries for all but withheld answers.
    const fn capacity(&self) -> usize {
        self.entries.len().saturating_sub(RECEIVE_MAXIMUM)
    }

    /// Vacant entries.
    pub(super) const fn room(&self) -> usize {
        let taken = self.count - self.withheld;
        self.capacity().saturating_sub(taken)
    }

    /// Whether one more answer may be kept among the entries for all. Refusals of a flood leave half of them
    /// to results.
    const fn takes_answer(&self, is_refusal: bool) -> bool {
        self.room() > 0 && (!is_refusal || self.refusals * 2 < self.capacity())
    }

    /// Whether a guest's message is taken: guests may fill half of the entries and, in them, a bounded
    /// number of bytes. The rest is for results, and for the messages of others.
    pub(super) fn takes_messages(&self) -> bool {
        self.room() > self.capacity() / 2 && self.message_bytes < self.message_bytes_max
    }

    /// Whether a last sample is taken; it must not take an entry that results need.
    pub(super) fn takes_sample(&self) -> bool {
        self.takes_samples && self.room() > 1
    }

    pub(super) const fn connect(&mut self) {
        self.takes_samples = true;
    }

    /// Drops the samples that were not sent.
    pub(super) fn disconnect(&mut self) {
        self.takes_samples = false;
        let is_sample = |e: &Posted<B>| !e.is_sent && e.body.qos() == Qos::AtMostOnce;
        for index in (0..=u16::MAX).take(self.top) {
            if self.get(index).is_some_and(is_sample) {
                self.free(index);
            }
        }
    }

    /// Whether everything posted was delivered.
    pub(super) const fn is_empty(&self) -> bool {
        self.top == 0
    }

    /// Keeps a message about a task until it is delivered; if there is no room it is lost, and that is
    /// logged.
    pub(super) fn post(&mut self, task: &str, body: Body<B>, due: Instant) {
        debug_assert!(self.room() > 0, "the caller has looked for room");
        self.put(task, body, due, false, false);
    }

    /// Keeps the answer to the command that is acted upon until it is delivered. Without room that command's
    /// acknowledgement is withheld, so that the broker holds others back; at QoS 0 it can't be, and the
    /// answer is lost, which is logged.
    pub(super) fn answer(&mut self, task: &str, body: Body<B>, due: Instant) {
        let is_refusal = body.is_refusal();
        if self.takes_answer(is_refusal) {
            return self.put(task, body, due, is_refusal, false);
        }
        match &mut self.command {
            Some(Command {
                qos: Qos::AtLeastOnce,
                answer,
            }) => {
                *answer = Some(self.seq);
                self.put(task, body, due, is_refusal, true);
            }
            _ => log::error!(
                "the outbox is full: the answer to a command about task {task} is lost; a command of QoS 1 would have waited"
            ),
        }
    }

    fn put(
        &mut self,
        task: &str,
        body: Body<B>,
        due: Instant,
        is_refusal: bool,
        is_withheld: bool,
    ) {
        let Ok(task) = Id::try_from(task) else {
            debug_assert!(false, "ids are bounded when they are read");
            return;
        };
        let vacant = |entry: &OutboxEntry<B>| entry.0.is_none();
        let Some(index) = self.entries.iter().position(vacant) else {
            log::error!("the outbox is full: a message about task {task} is lost");
            return;
        };
        self.top = self.top.max(index + 1);
        self.count += 1;
        if let Some(count) = self.count_of(is_withheld, is_refusal) {
            *count += 1;
        }
        self.message_bytes += body.message_bytes();
        self.entries[index].0 = Some(Posted {
            is_sent: false,
            is_refusal,
            is_withheld,
            refusals: 0,
            seq: self.seq,
            due,
            task,
            body,
        });
        self.seq = self.seq.wrapping_add(1);
    }

    /// Whether a message awaits its acknowledgement, or the next refusal would be withheld.
    pub(super) fn is_behind(&self) -> bool {
        self.withheld > 0 || !self.unacknowledged.is_empty() || !self.takes_answer(true)
    }

    /// Begins to act upon a command that came at this quality.
    pub(super) fn begin_command(&mut self, qos: Qos) {
        self.command = Some(Command { qos, answer: None });
    }

    /// Ends that: its acknowledgement is due, unless it was answered without room.
    pub(super) fn end_command(&mut self) {
        if let Some(Command {
            qos: Qos::AtLeastOnce,
            answer,
        }) = self.command.take()
        {
            self.acknowledge(answer);
        }
    }

    /// Has a message of QoS 1 acknowledged after those before it, and after the delivery of `answer`.
    pub(super) fn acknowledge(&mut self, answer: Option<u32>) {
        let kept = self.unacknowledged.push(answer);
        debug_assert!(
            kept.is_ok(),
            "the link holds the peer to the Receive Maximum"
        );
    }

    /// Whether the oldest message of QoS 1 that was not acknowledged may be, which is told once.
    pub(super) fn take_acknowledgement(&mut self) -> bool {
        let Some(first) = self.unacknowledged.first() else {
            return false;
        };
        let may_go = match *first {
            Some(answer) => self.release(answer),
            None => true,
        };
        // Answers of an earlier connection may be withheld still: each of those to come needs an entry, too.
        let may_go = may_go && self.withheld < self.unacknowledged.len();
        if may_go {
            self.unacknowledged.remove(0);
        }
        may_go
    }

    /// Gives a withheld answer a place among the others; false without room.
    fn release(&mut self, answer: u32) -> bool {
        let withheld = |e: &Posted<B>| e.is_withheld && e.seq == answer;
        let found = self.posted().find(|(_, e)| withheld(e));
        let Some((index, is_refusal)) = found.map(|(index, e)| (index, e.is_refusal)) else {
            // It is delivered.
            return true;
        };
        if !self.takes_answer(is_refusal) {
            return false;
        }
        if let Some(posted) = &mut self.entries[usize::from(index)].0 {
            posted.is_withheld = false;
            self.withheld -= 1;
            self.refusals += usize::from(is_refusal);
        }
        true
    }

    /// Forgets which messages were not acknowledged: their connection is gone.
    pub(super) fn forget_unacknowledged(&mut self) {
        self.unacknowledged.clear();
    }

    /// Whether a task or an invocation of this id is among the last that have ended and whose results were
    /// delivered.
    pub(super) fn has_ended(&self, id: &str) -> bool {
        self.ended.has(id)
    }

    /// Whether results of this task are posted and not yet delivered, and no stop has come since.
    pub(super) fn holds_results(&self, task: &str) -> bool {
        self.posted().any(|(_, e)| {
            e.task == task
                && matches!(
                    e.body,
                    Body::Results { stopped: false, .. } | Body::Update { stopped: false, .. }
                )
        })
    }

    /// Notes that the manager has stopped a task whose results are still to be delivered; returns
    /// false without such results.
    pub(super) fn stop(&mut self, task: &str) -> bool {
        let mut found = false;
        for (_, posted) in self.posted_mut().filter(|(_, e)| e.task == task) {
            if let Body::Results { stopped, .. } | Body::Update { stopped, .. } = &mut posted.body {
                *stopped = true;
                found = true;
            }
        }
        found
    }

    /// Whether results of this invocation are posted and not yet delivered.
    pub(super) fn holds_invocation(&self, id: &str) -> bool {
        self.posted().any(
            |(_, e)| matches!(&e.body, Body::InvokeResults { invocation, .. } if invocation == id),
        )
    }

    /// Gives out the oldest entry that is due and needs no more than `most`.
    pub(super) fn poll(&mut self, most: Qos, now: Instant) -> Option<(u16, Qos)> {
        let newest = self.seq;
        let due = |e: &Posted<B>| !e.is_sent && e.due <= now && e.body.qos() <= most;
        let (index, posted) = self
            .posted_mut()
            .filter(|(_, e)| due(e))
            .max_by_key(|(_, e)| newest.wrapping_sub(e.seq))?;
        posted.is_sent = true;
        Some((index, posted.body.qos()))
    }

    /// The earliest moment after `now` at which an entry falls due.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.posted()
            .filter(|(_, e)| !e.is_sent && e.due > now)
            .map(|(_, e)| e.due)
            .min()
    }

    /// Takes an entry's fate.
    pub(super) fn delivered(&mut self, index: u16, delivery: Delivery, now: Instant) {
        let entry = self.entries.get_mut(usize::from(index));
        let Some(posted) = entry.and_then(|e| e.0.as_mut()) else {
            debug_assert!(false, "a fate is told once");
            return;
        };
        debug_assert!(posted.is_sent, "a fate is told once");
        posted.is_sent = false;
        match delivery {
            Delivery::Done if posted.body.next() => {}
            Delivery::Done => {
                match &posted.body {
                    Body::Results { .. } | Body::Update { .. } => self.ended.push(&posted.task),
                    Body::InvokeResults { invocation, .. } => self.ended.push(invocation),
                    Body::Sample(_) | Body::Message { .. } => {}
                }
                self.free(index);
            }
            Delivery::Lost if posted.body.qos() == Qos::AtMostOnce => self.free(index),
            Delivery::Lost => {}
            // The round's topic is not ours; the manager's envelope is what counts.
            Delivery::Refused | Delivery::TooLarge if posted.body.next() => {
                log::warn!(
                    "task {}: the broker refuses its update on the round's topic",
                    posted.task
                );
            }
            Delivery::Refused | Delivery::TooLarge => {
                if posted.refused(delivery, now) {
                    self.free(index);
                }
            }
        }
    }
}

impl<B: Deref<Target = [u8]>> Posted<B> {
    /// Notes a refusal, after which it is tried again; true if it is given up.
    fn refused(&mut self, delivery: Delivery, now: Instant) -> bool {
        self.refusals += 1;
        if delivery == Delivery::TooLarge {
            self.body.shorten(Refusal::ResultTooLarge);
        } else if self.refusals + 1 == REFUSALS_MAX {
            self.body.shorten(Refusal::ResultRefused);
        }
        self.due = now + REFUSED_PAUSE;
        let is_last = self.refusals == REFUSALS_MAX;
        if is_last {
            log::error!(
                "a message about task {} given up: it was refused {REFUSALS_MAX} times",
                self.task
            );
        }
        is_last
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
            outcome: Ok(Output::Value(None)),
            stopped: false,
        }
    }

    #[test]
    fn entries_go_in_order_as_they_fall_due() {
        let mut entries = [const { OutboxEntry::VACANT }; 3 + RECEIVE_MAXIMUM];
        let mut outbox = Outbox::new(&mut entries, 1000);
        outbox.post("a", results(), at(250));
        outbox.post("b", results(), at(0));
        outbox.post("c", results(), at(0));
        assert_eq!(outbox.room(), 0);

        let take = |outbox: &mut Outbox<'_, _>, ms| {
            outbox
                .poll(Qos::AtLeastOnce, at(ms))
                .map(|(index, _)| outbox.get(index).unwrap().task.clone())
        };
        assert_eq!(take(&mut outbox, 0), Some(id("b")));
        assert_eq!(take(&mut outbox, 0), Some(id("c")));
        assert_eq!(take(&mut outbox, 249), None);
        assert_eq!(outbox.next_deadline(at(0)), Some(at(250)));
        assert_eq!(take(&mut outbox, 250), Some(id("a")));
        assert_eq!(outbox.next_deadline(at(250)), None);
    }

    #[test]
    fn a_lost_entry_is_sent_again_until_it_is_acknowledged() {
        let mut entries = [const { OutboxEntry::VACANT }; 1 + RECEIVE_MAXIMUM];
        let mut outbox = Outbox::new(&mut entries, 1000);
        outbox.post("a", results(), at(0));
        for _ in 0..10 {
            let (index, _) = outbox.poll(Qos::AtLeastOnce, at(0)).unwrap();
            assert!(outbox.poll(Qos::AtLeastOnce, at(0)).is_none());
            assert!(outbox.holds_results("a"));
            outbox.delivered(index, Delivery::Lost, at(0));
        }
        let (index, _) = outbox.poll(Qos::AtLeastOnce, at(0)).unwrap();
        outbox.delivered(index, Delivery::Done, at(0));
        assert!(outbox.is_empty() && !outbox.holds_results("a"));
    }

    #[test]
    fn a_refused_entry_is_given_up_after_three_attempts() {
        let mut entries = [const { OutboxEntry::VACANT }; 1 + RECEIVE_MAXIMUM];
        let mut outbox = Outbox::new(&mut entries, 1000);
        outbox.post("a", results(), at(0));
        for attempt in 0..3 {
            let now = at(attempt * 5000);
            let (index, _) = outbox.poll(Qos::AtLeastOnce, now).unwrap();
            outbox.delivered(index, Delivery::Refused, now);
        }
        assert!(outbox.is_empty());
    }

    #[test]
    fn only_what_the_link_has_room_for_is_given_out() {
        let mut entries = [const { OutboxEntry::VACANT }; 2 + RECEIVE_MAXIMUM];
        let mut outbox = Outbox::new(&mut entries, 1000);
        let monitor = Monitor::new(crate::wire::MonitoringProfile::STANDARD, at(0));
        outbox.post("a", results(), at(0));
        outbox.post("a", Body::Sample(monitor), at(0));
        assert_eq!(
            outbox.poll(Qos::AtMostOnce, at(0)),
            Some((1, Qos::AtMostOnce))
        );
        assert_eq!(outbox.poll(Qos::AtMostOnce, at(0)), None);
    }
}
