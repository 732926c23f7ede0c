//! Messages that must reach the manager or the channel, kept until the broker has acknowledged them.

use super::{
    event::{Delivery, Qos},
    noting::{NoteSet, Noted, Noting},
    probing::Probing,
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
    text::{Text, clip, text},
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
    stage: Stage,
    /// Whether it has been sent and nobody was subscribed to its topic.
    is_unheard: bool,
    /// Whether it refuses a command.
    is_refusal: bool,
    /// Whether its command is not acknowledged, because the outbox is full without it.
    is_withheld: bool,
    refusals: u8,
    /// Order of posting; wraps after 4 billion messages.
    seq: u32,
    /// Earliest moment of sending; for one that is unheard, when it became that.
    due: Instant,
    pub(super) task: Id,
    pub(super) body: Body<B>,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To be sent when it is due.
    Waiting,
    /// With the link, which has not reported its fate yet.
    Sent,
    /// It reached nobody, and waits for a listener. It gives way to any other.
    Parked,
}

/// What an entry counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A withheld answer.
    Withheld,
    /// A message that waits for a listener.
    Parked,
    /// A refusal among the entries for all.
    Refusal,
    /// Any other message among them.
    Other,
}

const CLASSES: usize = 4;

/// Content of a message.
#[derive(Debug)]
pub(super) enum Body<B> {
    /// The last sample of a run: sent once, not repeated.
    Sample(Monitor),
    Results {
        outcome: Outcome<B>,
        /// Whether a stop command came since the start: the task may be started anew at once.
        stopped: bool,
        /// Where the task is noted until they are delivered, if it is.
        noting: Noting,
    },
    InvokeResults {
        invocation: Id,
        outcome: Outcome<B>,
    },
    Update {
        update: Update<B>,
        /// As in results.
        stopped: bool,
        /// As in results.
        noting: Noting,
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
            noting: Noting::NEVER,
        }
    }

    /// The note that has its task, if one has.
    const fn note(&self) -> Option<u8> {
        match self {
            Self::Results { noting, .. } | Self::Update { noting, .. } => noting.note(),
            Self::InvokeResults { .. } | Self::Sample(_) | Self::Message { .. } => None,
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

    /// Bytes of the arena that the outcome takes.
    fn text_bytes(&self) -> usize {
        let outcome = match self {
            Self::Results { outcome, .. } | Self::InvokeResults { outcome, .. } => outcome,
            Self::Update { update, .. } => &update.outcome,
            Self::Sample(_) | Self::Message { .. } => return 0,
        };
        match outcome {
            Ok(Output::Bytes(bytes)) => bytes.len(),
            Ok(Output::Value(_)) => 0,
            Err(reason) => reason.words().map_or(0, str::len),
        }
    }

    fn message_bytes(&self) -> usize {
        match self {
            Self::Message { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// Whether it is kept until somebody is subscribed to its topic. A guest's message is as delivered without
    /// a subscriber as that of any other client.
    const fn needs_listener(&self) -> bool {
        match self {
            Self::Results { .. } | Self::InvokeResults { .. } => true,
            Self::Update { update, .. } => !update.fallback,
            Self::Sample(_) | Self::Message { .. } => false,
        }
    }

    /// Whether it goes to the topic of the invocations' results, rather than that of the tasks'.
    const fn is_of_invocation(&self) -> bool {
        matches!(self, Self::InvokeResults { .. })
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
    /// Entries of each class.
    counts: [usize; CLASSES],
    /// Attempts to find a listener, while a message waits for one.
    probing: Option<Probing>,
    /// Longest wait for a listener.
    listener_wait: Duration,
    /// Bytes of the arena in messages that wait for one.
    parked_bytes: usize,
    /// Notes that have tasks whose results were given up for want of a listener.
    given_up: NoteSet,
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
    pub(super) fn new(
        entries: &'a mut [OutboxEntry<B>],
        message_bytes_max: usize,
        listener_wait: Duration,
    ) -> Self {
        entries.fill_with(|| OutboxEntry::VACANT);
        Self {
            entries,
            top: 0,
            counts: [0; CLASSES],
            probing: None,
            listener_wait,
            parked_bytes: 0,
            given_up: NoteSet::default(),
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

    /// Vacates an entry, and returns its task if that is noted.
    fn free(&mut self, index: u16) -> Option<Noted> {
        let posted = self.entries[usize::from(index)].0.take()?;
        self.message_bytes -= posted.body.message_bytes();
        self.counts[posted.class() as usize] -= 1;
        self.parked_bytes -= posted.parked_bytes();
        if self.probing.is_some() && !self.posted().any(|(_, e)| e.is_unheard) {
            self.probing = None;
        }
        while self.top > 0 && self.entries[self.top - 1].0.is_none() {
            self.top -= 1;
        }
        let note = posted.body.note()?;
        let task = posted.task;
        Some(Noted { note, task })
    }

    /// Changes a message, and counts it as what it becomes.
    fn change(&mut self, index: u16, change: impl FnOnce(&mut Posted<B>)) {
        if let Some(posted) = &mut self.entries[usize::from(index)].0 {
            self.counts[posted.class() as usize] -= 1;
            self.parked_bytes -= posted.parked_bytes();
            change(posted);
            self.parked_bytes += posted.parked_bytes();
            self.counts[posted.class() as usize] += 1;
        }
    }

    const fn count(&self, class: Class) -> usize {
        self.counts[class as usize]
    }

    /// Entries that are taken and do not give way, but for withheld answers.
    const fn taken(&self) -> usize {
        self.count(Class::Refusal) + self.count(Class::Other)
    }

    /// The message that was [given out](Self::poll) as `index`, until its fate is told.
    pub(super) fn get(&self, index: u16) -> Option<&Posted<B>> {
        self.entries.get(usize::from(index))?.0.as_ref()
    }

    /// Entries for all but withheld answers.
    const fn capacity(&self) -> usize {
        self.entries.len().saturating_sub(RECEIVE_MAXIMUM)
    }

    /// Entries for more messages: vacant ones, and those of messages that give way.
    pub(super) const fn room(&self) -> usize {
        self.capacity().saturating_sub(self.taken())
    }

    /// Whether one more answer may be kept among the entries for all. Refusals of a flood leave half of them
    /// to results.
    const fn takes_answer(&self, is_refusal: bool) -> bool {
        self.room() > 0 && (!is_refusal || self.count(Class::Refusal) * 2 < self.capacity())
    }

    /// Whether a guest's message is taken: guests may fill half of the entries and, in them, a bounded
    /// number of bytes. The rest is for results, and for the messages of others.
    pub(super) fn takes_messages(&self) -> bool {
        self.room() > self.capacity() / 2 && self.message_bytes < self.message_bytes_max
    }

    /// Whether a last sample is taken; it must not take an entry that results need, or have.
    pub(super) fn takes_sample(&self) -> bool {
        self.takes_samples && self.room() > 1 + self.count(Class::Parked)
    }

    pub(super) const fn connect(&mut self) {
        self.takes_samples = true;
    }

    /// Drops the samples that were not sent.
    pub(super) fn disconnect(&mut self) {
        self.takes_samples = false;
        let is_sample =
            |e: &Posted<B>| e.stage == Stage::Waiting && e.body.qos() == Qos::AtMostOnce;
        for index in (0..=u16::MAX).take(self.top) {
            if self.get(index).is_some_and(is_sample) {
                self.free(index);
            }
        }
    }

    /// Whether everything posted was delivered, or waits for a listener.
    pub(super) const fn is_drained(&self) -> bool {
        self.taken() + self.count(Class::Withheld) == 0
    }

    /// Keeps a message about a task until it is delivered; if there is no room it is lost, and that is
    /// logged.
    pub(super) fn post(&mut self, task: &str, body: Body<B>, due: Instant) {
        debug_assert!(self.room() > 0, "the caller has looked for room");
        self.put(task, body, due, false, false);
    }

    /// Keeps the report of a task that was interrupted by a restart; false if it has to wait for room. They leave
    /// half of the entries to results.
    pub(super) fn post_interrupted(&mut self, task: &str, note: u8, now: Instant) -> bool {
        let is_taken = self.takes_interrupted();
        if is_taken {
            let body = Body::Results {
                outcome: Err(Refusal::Interrupted.into()),
                stopped: false,
                noting: Noting::in_note(note),
            };
            self.put(task, body, now, true, false);
        }
        is_taken
    }

    /// Whether one more of these reports is taken.
    pub(super) const fn takes_interrupted(&self) -> bool {
        self.takes_answer(true)
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
        if !is_withheld {
            self.make_room();
        }
        let vacant = |entry: &OutboxEntry<B>| entry.0.is_none();
        let Some(index) = self.entries.iter().position(vacant) else {
            log::error!("the outbox is full: a message about task {task} is lost");
            return;
        };
        self.top = self.top.max(index + 1);
        self.message_bytes += body.message_bytes();
        let posted = Posted {
            stage: Stage::Waiting,
            is_unheard: false,
            is_refusal,
            is_withheld,
            refusals: 0,
            seq: self.seq,
            due,
            task,
            body,
        };
        self.counts[posted.class() as usize] += 1;
        self.entries[index].0 = Some(posted);
        self.seq = self.seq.wrapping_add(1);
    }

    /// Has the oldest messages that wait for a listener give way to one more, where entries lack.
    fn make_room(&mut self) {
        self.evict_while(|of| of.taken() + of.count(Class::Parked) >= of.capacity());
    }

    /// Has the oldest messages that wait for a listener give way as long as room lacks.
    fn evict_while(&mut self, lacks_room: impl Fn(&Self) -> bool) {
        while lacks_room(self)
            && let Some(index) = self.oldest(|e| e.stage == Stage::Parked)
        {
            self.give_up_unheard(index, "others need their place");
        }
    }

    fn give_up_unheard(&mut self, index: u16, why: &str) {
        if let Some(posted) = self.get(index) {
            log::error!(
                "the {} given up: nobody is subscribed to them, and {why}",
                posted.title()
            );
        }
        let noted = self.end(index);
        self.give_up(noted);
    }

    fn give_up(&mut self, noted: Option<Noted>) {
        if let Some(noted) = noted {
            self.given_up.set(noted.note, true);
        }
    }

    /// Takes a note that may have a task whose results were given up for want of a listener.
    pub(super) fn take_given_up(&mut self) -> Option<u8> {
        self.given_up.take_first()
    }

    /// Whether results of this task are posted that are in this note.
    pub(super) fn is_noted(&self, task: &str, note: u8) -> bool {
        let mut all = self.posted();
        all.any(|(_, e)| e.task == task && e.body.note() == Some(note))
    }

    /// Forgets a message whose fate is known, and notes what it ended.
    fn end(&mut self, index: u16) -> Option<Noted> {
        if let Some(OutboxEntry(Some(posted))) = self.entries.get(usize::from(index)) {
            match &posted.body {
                Body::Results { .. } | Body::Update { .. } => self.ended.push(&posted.task),
                Body::InvokeResults { invocation, .. } => self.ended.push(invocation),
                Body::Sample(_) | Body::Message { .. } => {}
            }
        }
        self.free(index)
    }

    /// The oldest of these messages.
    fn oldest(&self, is_one: impl Fn(&Posted<B>) -> bool) -> Option<u16> {
        let newest = self.seq;
        let all = self.posted().filter(|(_, e)| is_one(e));
        let oldest = all.max_by_key(|(_, e)| newest.wrapping_sub(e.seq));
        oldest.map(|(index, _)| index)
    }

    /// Whether a message awaits its acknowledgement, or the next refusal would be withheld.
    pub(super) fn is_behind(&self) -> bool {
        self.count(Class::Withheld) > 0
            || !self.unacknowledged.is_empty()
            || !self.takes_answer(true)
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
        let may_go = may_go && self.count(Class::Withheld) < self.unacknowledged.len();
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
        self.make_room();
        self.change(index, |posted| posted.is_withheld = false);
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

    /// Takes note of a sign that somebody listens: a command, or a connection.
    pub(super) fn hint(&mut self, now: Instant) {
        if let Some(probing) = &mut self.probing {
            probing.hint(now);
        }
    }

    /// Gives out the oldest entry that is due and needs no more than `most`.
    pub(super) fn poll(&mut self, most: Qos, now: Instant) -> Option<(u16, Qos)> {
        if most >= Qos::AtLeastOnce {
            self.probe(now);
        }
        let is_due =
            |e: &Posted<B>| e.stage == Stage::Waiting && e.due <= now && e.body.qos() <= most;
        let index = self.oldest(is_due)?;
        let qos = self.get(index)?.body.qos();
        self.change(index, |posted| posted.stage = Stage::Sent);
        Some((index, qos))
    }

    /// Has one message tried of those that wait for a listener, for each topic that they have, when that is due, and
    /// gives up those that have waited too long.
    fn probe(&mut self, now: Instant) {
        if self.count(Class::Parked) == 0 {
            return;
        }
        let wait = self.listener_wait;
        let is_late = |e: &Posted<B>| e.expiry(wait).is_some_and(|at| at <= now);
        while let Some(index) = self.oldest(is_late) {
            self.give_up_unheard(index, "nobody has been for as long as they are kept");
        }
        let probing = self.probing.as_mut();
        if !probing.is_some_and(|probing| probing.take(now)) {
            return;
        }
        for is_of_invocation in [false, true] {
            if let Some(index) = self.oldest(|e| e.is_parked(is_of_invocation)) {
                self.unpark(index);
            }
        }
    }

    /// Has a message that waits for a listener sent again.
    fn unpark(&mut self, index: u16) {
        self.change(index, |posted| posted.stage = Stage::Waiting);
    }

    /// Has all messages sent again that wait for a listener to the same topic as a message that was heard.
    fn heard(&mut self, is_of_invocation: bool) {
        let mut count = 0;
        for index in (0..=u16::MAX).take(self.top) {
            if self
                .get(index)
                .is_some_and(|e| e.is_parked(is_of_invocation))
            {
                self.unpark(index);
                count += 1;
            }
        }
        if count > 0 {
            log::info!("somebody is subscribed to results again: {count} that waited are sent");
        }
        if self.count(Class::Parked) == 0 {
            self.probing = None;
        }
    }

    /// Has a message wait for a listener that nobody was subscribed to.
    fn park(&mut self, index: u16, now: Instant) {
        if self.probing.is_none() {
            log::warn!(
                "nobody is subscribed to results: they are kept for {} s, and sent again when somebody may be",
                self.listener_wait.as_secs()
            );
            self.probing = Some(Probing::new(now));
        }
        self.change(index, |posted| {
            posted.stage = Stage::Parked;
            if !core::mem::replace(&mut posted.is_unheard, true) {
                posted.due = now;
            }
            posted.is_withheld = false;
        });
        self.evict_while(|of| {
            let parked = of.count(Class::Parked);
            of.taken() + parked > of.capacity()
                || (of.parked_bytes > of.message_bytes_max / 2 && parked > 1)
        });
    }

    /// Has the oldest message with bytes in the arena that waits for a listener give way, if `lack` bytes can be had
    /// so; false if not, or without one.
    pub(super) fn free_bytes(&mut self, lack: usize) -> bool {
        if lack > self.parked_bytes {
            return false;
        }
        let oldest = self.oldest(|e| e.parked_bytes() > 0);
        if let Some(index) = oldest {
            self.give_up_unheard(index, "others need their memory");
        }
        oldest.is_some()
    }

    /// The earliest moment after `now` at which an entry falls due.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadline = |e: &Posted<B>| match e.stage {
            Stage::Waiting => Some(e.due),
            Stage::Sent => None,
            Stage::Parked => e.expiry(self.listener_wait),
        };
        let of_entries = self.posted().filter_map(|(_, e)| deadline(e));
        let probe = self.probing.map(|probing| probing.next());
        of_entries.chain(probe).filter(|at| *at > now).min()
    }

    /// Takes an entry's fate. Returns its task if that is noted, and its results are delivered or given up.
    pub(super) fn delivered(
        &mut self,
        index: u16,
        delivery: Delivery,
        now: Instant,
    ) -> Option<Noted> {
        let entry = self.entries.get_mut(usize::from(index));
        let Some(posted) = entry.and_then(|e| e.0.as_mut()) else {
            debug_assert!(false, "a fate is told once");
            return None;
        };
        debug_assert!(posted.stage == Stage::Sent, "a fate is told once");
        posted.stage = Stage::Waiting;
        let is_kept = posted.body.needs_listener() && !self.listener_wait.is_zero();
        match delivery {
            Delivery::Unheard if is_kept => self.park(index, now),
            Delivery::Done | Delivery::Unheard if posted.body.next() => {}
            Delivery::Done | Delivery::Unheard => {
                let of = posted
                    .body
                    .needs_listener()
                    .then(|| posted.body.is_of_invocation());
                let noted = self.end(index);
                if let (Some(is_of_invocation), true) = (of, self.probing.is_some()) {
                    self.heard(is_of_invocation);
                }
                return noted;
            }
            Delivery::Lost if posted.body.qos() == Qos::AtMostOnce => return self.free(index),
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
                    return self.free(index);
                }
            }
        }
        None
    }

    /// Drops results of this task, or of this invocation, that wait for a listener: it begins anew.
    pub(super) fn forget_unheard(&mut self, id: &str) {
        let is_of = |e: &Posted<B>| {
            e.is_unheard
                && e.stage != Stage::Sent
                && match &e.body {
                    Body::InvokeResults { invocation, .. } => invocation == id,
                    _ => e.task == id,
                }
        };
        while let Some(index) = self.oldest(is_of) {
            log::warn!("results of {id} that reached nobody are dropped: it is started anew");
            let noted = self.free(index);
            self.give_up(noted);
        }
    }
}

impl<B> Posted<B> {
    const fn class(&self) -> Class {
        match (self.is_withheld, self.stage, self.is_refusal) {
            (true, ..) => Class::Withheld,
            (false, Stage::Parked, _) => Class::Parked,
            (false, _, true) => Class::Refusal,
            (false, _, false) => Class::Other,
        }
    }

    /// Bytes of the arena that it takes while it waits for a listener.
    fn parked_bytes(&self) -> usize
    where
        B: Deref<Target = [u8]>,
    {
        match self.stage {
            Stage::Parked => self.body.text_bytes(),
            Stage::Waiting | Stage::Sent => 0,
        }
    }

    /// When it is given up for want of a listener.
    fn expiry(&self, wait: Duration) -> Option<Instant> {
        (self.stage == Stage::Parked).then(|| self.due + wait)
    }
}

impl<B: Deref<Target = [u8]>> Posted<B> {
    /// Whether it waits for a listener to that topic.
    fn is_parked(&self, is_of_invocation: bool) -> bool {
        self.stage == Stage::Parked && self.body.is_of_invocation() == is_of_invocation
    }

    /// What it tells, for the log.
    fn title(&self) -> Text {
        match &self.body {
            Body::InvokeResults { invocation, .. } => {
                text(format_args!("results of invocation {invocation} are"))
            }
            _ => text(format_args!("results of task {} are", self.task)),
        }
    }

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

    const WAIT: Duration = Duration::from_secs(3600);

    fn results() -> Body<std::vec::Vec<u8>> {
        Body::Results {
            outcome: Ok(Output::Value(None)),
            stopped: false,
            noting: Noting::NEVER,
        }
    }

    #[test]
    fn entries_go_in_order_as_they_fall_due() {
        let mut entries = [const { OutboxEntry::VACANT }; 3 + RECEIVE_MAXIMUM];
        let mut outbox = Outbox::new(&mut entries, 1000, WAIT);
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
        let mut outbox = Outbox::new(&mut entries, 1000, WAIT);
        outbox.post("a", results(), at(0));
        for _ in 0..10 {
            let (index, _) = outbox.poll(Qos::AtLeastOnce, at(0)).unwrap();
            assert!(outbox.poll(Qos::AtLeastOnce, at(0)).is_none());
            assert!(outbox.holds_results("a"));
            outbox.delivered(index, Delivery::Lost, at(0));
        }
        let (index, _) = outbox.poll(Qos::AtLeastOnce, at(0)).unwrap();
        outbox.delivered(index, Delivery::Done, at(0));
        assert!(outbox.is_drained() && !outbox.holds_results("a"));
    }

    #[test]
    fn a_refused_entry_is_given_up_after_three_attempts() {
        let mut entries = [const { OutboxEntry::VACANT }; 1 + RECEIVE_MAXIMUM];
        let mut outbox = Outbox::new(&mut entries, 1000, WAIT);
        outbox.post("a", results(), at(0));
        for attempt in 0..3 {
            let now = at(attempt * 5000);
            let (index, _) = outbox.poll(Qos::AtLeastOnce, now).unwrap();
            outbox.delivered(index, Delivery::Refused, now);
        }
        assert!(outbox.is_drained());
    }

    #[test]
    fn only_what_the_link_has_room_for_is_given_out() {
        let mut entries = [const { OutboxEntry::VACANT }; 2 + RECEIVE_MAXIMUM];
        let mut outbox = Outbox::new(&mut entries, 1000, WAIT);
        let monitor = Monitor::new(crate::wire::MonitoringProfile::STANDARD, at(0));
        outbox.post("a", results(), at(0));
        outbox.post("a", Body::Sample(monitor), at(0));
        assert_eq!(
            outbox.poll(Qos::AtMostOnce, at(0)),
            Some((1, Qos::AtMostOnce))
        );
        assert_eq!(outbox.poll(Qos::AtMostOnce, at(0)), None);
    }

    /// An outbox for that many messages, and what the tests do with it.
    struct Bench<'e>(Outbox<'e, std::vec::Vec<u8>>);

    impl Bench<'_> {
        fn post<const N: usize>(&mut self, tasks: [&str; N]) {
            for task in tasks {
                self.0.post(task, results(), at(0));
            }
        }

        /// Tasks whose messages are given out now, each with this fate.
        fn send(&mut self, fate: Delivery, ms: u64) -> std::vec::Vec<std::string::String> {
            let mut sent = std::vec::Vec::new();
            while let Some((index, _)) = self.0.poll(Qos::AtLeastOnce, at(ms)) {
                sent.push(self.0.get(index).unwrap().task.as_str().into());
                self.0.delivered(index, fate, at(ms));
            }
            sent
        }
    }

    #[test]
    fn results_that_nobody_is_subscribed_to_are_tried_one_at_a_time_and_all_told_to_the_first_listener()
     {
        let mut entries = [const { OutboxEntry::VACANT }; 3 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        bench.post(["a", "b", "c"]);
        assert_eq!(bench.send(Delivery::Unheard, 0), ["a", "b", "c"]);
        assert!(bench.0.is_drained() && bench.0.holds_results("b"));

        assert_eq!(bench.send(Delivery::Unheard, 1_999), [""; 0]);
        assert_eq!(bench.0.next_deadline(at(1_999)), Some(at(2_000)));
        assert_eq!(bench.send(Delivery::Unheard, 2_000), ["a"]);
        assert_eq!(bench.0.next_deadline(at(2_000)), Some(at(6_000)));
        bench.0.hint(at(4_000));
        assert_eq!(bench.send(Delivery::Done, 4_000), ["a", "b", "c"]);
        assert_eq!(bench.0.next_deadline(at(4_000)), None);
        assert!(!bench.0.holds_results("b") && bench.0.has_ended("b"));
    }

    #[test]
    fn results_without_a_listener_give_way_the_oldest_first() {
        let mut entries = [const { OutboxEntry::VACANT }; 3 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        bench.post(["a", "b", "c"]);
        bench.send(Delivery::Unheard, 0);
        assert_eq!(bench.0.room(), 3);
        bench.post(["d", "e"]);
        assert!(!bench.0.holds_results("a") && !bench.0.holds_results("b"));
        assert_eq!(bench.0.room(), 1);
        assert_eq!(bench.send(Delivery::Done, 1), ["d", "c", "e"]);
    }

    #[test]
    fn results_are_tried_beside_those_of_invocations_that_nobody_is_subscribed_to() {
        let mut entries = [const { OutboxEntry::VACANT }; 3 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        let of_invocation = Body::InvokeResults {
            invocation: id("i"),
            outcome: Ok(Output::Value(None)),
        };
        bench.0.post("deployed", of_invocation, at(0));
        bench.post(["a", "b"]);
        bench.send(Delivery::Unheard, 0);
        let mut heard = std::vec::Vec::new();
        while let Some((index, _)) = bench.0.poll(Qos::AtLeastOnce, at(2_000)) {
            let posted = bench.0.get(index).unwrap();
            let fate = match posted.body.is_of_invocation() {
                true => Delivery::Unheard,
                false => Delivery::Done,
            };
            if fate == Delivery::Done {
                heard.push(posted.task.clone());
            }
            bench.0.delivered(index, fate, at(2_000));
        }
        assert_eq!(heard, [id("a"), id("b")]);
        assert!(bench.0.holds_invocation("i"));
    }

    #[test]
    fn nothing_is_tried_once_nothing_waits() {
        let mut entries = [const { OutboxEntry::VACANT }; 1 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        bench.post(["a"]);
        bench.send(Delivery::Unheard, 0);
        for attempt in 0..3 {
            bench.send(Delivery::Refused, 2_000 + attempt * 5_000);
        }
        assert!(!bench.0.holds_results("a"));
        assert_eq!(bench.0.next_deadline(at(20_000)), None);
    }

    #[test]
    fn a_message_on_its_way_does_not_give_way() {
        let mut entries = [const { OutboxEntry::VACANT }; 1 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        bench.post(["a"]);
        bench.send(Delivery::Unheard, 0);
        let (index, _) = bench.0.poll(Qos::AtLeastOnce, at(2_000)).unwrap();
        assert_eq!(bench.0.room(), 0);
        bench.0.delivered(index, Delivery::Unheard, at(2_000));
        assert_eq!(bench.0.room(), 1);
    }

    #[test]
    fn results_without_a_listener_are_given_up_in_the_end() {
        let mut entries = [const { OutboxEntry::VACANT }; 2 + RECEIVE_MAXIMUM];
        let wait = Duration::from_secs(10);
        let mut bench = Bench(Outbox::new(&mut entries, 1000, wait));
        bench.post(["a"]);
        // The third attempt, at 14 s, would be too late.
        for (ms, sent) in [(0, 1), (2_000, 1), (6_000, 1), (9_999, 0)] {
            assert_eq!(bench.send(Delivery::Unheard, ms).len(), sent, "{ms}");
        }
        assert_eq!(bench.0.next_deadline(at(9_999)), Some(at(10_000)));
        assert!(bench.0.holds_results("a"));
        assert_eq!(bench.send(Delivery::Done, 10_000), [""; 0]);
        assert!(!bench.0.holds_results("a"));
        assert_eq!(bench.0.next_deadline(at(10_000)), None);

        let mut entries = [const { OutboxEntry::VACANT }; 2 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, Duration::ZERO));
        bench.post(["a"]);
        bench.send(Delivery::Unheard, 0);
        assert!(!bench.0.holds_results("a"), "zero takes it for delivered");
    }

    #[test]
    fn a_listener_to_one_topic_is_none_to_another() {
        let mut entries = [const { OutboxEntry::VACANT }; 4 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        let invocation = Body::InvokeResults {
            invocation: id("i"),
            outcome: Ok(Output::Value(None)),
        };
        bench.0.post("invoked", invocation, at(0));
        bench.post(["a"]);
        bench.send(Delivery::Unheard, 0);
        bench.post(["b"]);
        assert_eq!(bench.send(Delivery::Done, 10), ["b", "a"]);
        assert!(bench.0.holds_invocation("i"));
        assert_eq!(bench.send(Delivery::Done, 2_000), ["invoked"]);
    }

    #[test]
    fn a_withheld_answer_that_reaches_nobody_holds_no_command_back() {
        let mut entries = [const { OutboxEntry::VACANT }; 1 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        let refusal = || Body::results(Err(Refusal::ShuttingDown.into()));
        for task in ["a", "b", "c"] {
            bench.0.begin_command(Qos::AtLeastOnce);
            bench.0.answer(task, refusal(), at(0));
            bench.0.end_command();
        }
        assert!(bench.0.take_acknowledgement());
        assert!(!bench.0.take_acknowledgement(), "b has no place");
        bench.send(Delivery::Unheard, 0);
        assert!(bench.0.take_acknowledgement() && bench.0.take_acknowledgement());
        // The newest has the only place.
        assert!(!bench.0.holds_results("b") && bench.0.holds_results("c"));
        assert!(!bench.0.is_behind());
    }

    #[test]
    fn a_task_that_is_started_anew_has_no_results_of_before() {
        let mut entries = [const { OutboxEntry::VACANT }; 2 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        bench.post(["a", "b"]);
        bench.0.forget_unheard("a");
        assert!(bench.0.holds_results("a"), "they may reach somebody yet");
        bench.send(Delivery::Unheard, 0);
        bench.0.forget_unheard("a");
        assert!(!bench.0.holds_results("a") && bench.0.holds_results("b"));
    }

    #[test]
    fn what_waits_for_a_listener_holds_an_eighth_of_the_arena_at_most() {
        let mut entries = [const { OutboxEntry::VACANT }; 8 + RECEIVE_MAXIMUM];
        let mut bench = Bench(Outbox::new(&mut entries, 1000, WAIT));
        let post = |bench: &mut Bench<'_>, task: &str, len: usize| {
            let outcome = Ok(Output::Bytes(std::vec![b'x'; len]));
            bench.0.post(task, Body::results(outcome), at(0));
            bench.send(Delivery::Unheard, 0);
        };
        post(&mut bench, "large", 600);
        assert!(bench.0.holds_results("large"), "one is kept, of any size");
        for task in ["a", "b", "c"] {
            post(&mut bench, task, 200);
        }
        assert_eq!(
            ["large", "a", "b", "c"].map(|t| bench.0.holds_results(t)),
            [false, false, true, true]
        );
        bench.post(["value"]);
        bench.send(Delivery::Unheard, 0);
        // Those with bytes give way to what needs memory.
        assert!(!bench.0.free_bytes(401), "in vain");
        assert!(bench.0.free_bytes(400) && bench.0.free_bytes(1) && !bench.0.free_bytes(0));
        assert!(bench.0.holds_results("value"));
        assert_eq!(bench.0.parked_bytes, 0);
    }

    /// Whatever the broker says, in any order: only messages without a listener are lost, and the oldest of them;
    /// each class is counted as what it is.
    #[test]
    fn random_fates_lose_nothing_but_what_waits_for_a_listener() {
        let mut state = 1_u64;
        let mut below = |end: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % end
        };
        let mut entries = [const { OutboxEntry::VACANT }; 4 + RECEIVE_MAXIMUM];
        let mut outbox = Outbox::new(&mut entries, 1000, Duration::from_secs(100));
        let (mut given, mut owed) = (std::vec::Vec::new(), std::vec::Vec::new());
        let (mut ms, mut heard, mut lost) = (0, 0, 0);
        for n in 0..20_000 {
            ms += below(300);
            let name = std::format!("{n}");
            match below(4) {
                0 if outbox.room() > 0 => {
                    let text = std::vec![b'x'; below(100) as usize];
                    outbox.post(&name, Body::results(Ok(Output::Bytes(text))), at(ms));
                    owed.push(name);
                }
                1 => {
                    outbox.begin_command(Qos::AtLeastOnce);
                    if outbox.unacknowledged.len() < RECEIVE_MAXIMUM {
                        let body = Body::results(Err(Refusal::ShuttingDown.into()));
                        outbox.answer(&name, body, at(ms));
                        owed.push(name);
                        outbox.end_command();
                    }
                    outbox.hint(at(ms));
                }
                2 => given.extend(
                    outbox
                        .poll(Qos::AtLeastOnce, at(ms))
                        .map(|(index, _)| index),
                ),
                _ if !given.is_empty() => {
                    let index = given.swap_remove(below(given.len() as u64) as usize);
                    let task = outbox.get(index).unwrap().task.clone();
                    // A listener comes and goes.
                    let fate = match (below(10), n / 1000 % 2) {
                        (0, _) => Delivery::Lost,
                        (_, 0) => Delivery::Unheard,
                        _ => Delivery::Done,
                    };
                    outbox.delivered(index, fate, at(ms));
                    if fate == Delivery::Done {
                        owed.retain(|owed| **owed != *task);
                        heard += 1;
                    }
                }
                _ => {}
            }
            outbox.take_acknowledgement();
            let mut counts = [0; CLASSES];
            outbox
                .posted()
                .for_each(|(_, e)| counts[e.class() as usize] += 1);
            assert_eq!(outbox.counts, counts);
            let bytes: usize = outbox.posted().map(|(_, e)| e.parked_bytes()).sum();
            assert_eq!(outbox.parked_bytes, bytes);
            let is_any_parked = counts[Class::Parked as usize] > 0;
            let is_any_unheard = outbox.posted().any(|(_, e)| e.is_unheard);
            assert!(outbox.probing.is_some() || !is_any_parked);
            assert!(outbox.probing.is_none() || is_any_unheard);
            let held = |task: &std::string::String| outbox.holds_results(task);
            lost += owed.iter().filter(|task| !held(task)).count();
            owed.retain(held);
            assert_eq!(owed.len(), counts.iter().sum::<usize>());
        }
        assert!(heard > 1000 && lost > 100, "heard {heard}, given up {lost}");
    }
}
