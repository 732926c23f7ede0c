//! Topics that guests and rounds are subscribed to, beside the manager's.

use super::event::Subscription;
use crate::{
    config::SUBSCRIPTIONS_MAX,
    engine::{Engine, Slot},
    memory::{Purpose, Shortage},
    wire::{TopicName, matches},
};
use core::ops::{Deref, DerefMut};
use heapless::Vec;

/// Receiver of a subscription's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiver {
    /// The guest of a task.
    Guest(Slot),
    /// The round of a task, which waits for its model.
    Model(Slot),
}

impl Receiver {
    const fn slot(self) -> Slot {
        match self {
            Self::Guest(slot) | Self::Model(slot) => slot,
        }
    }
}

#[derive(Debug)]
struct Entry<B> {
    /// Without one the broker is to be told of its end.
    receiver: Option<Receiver>,
    /// Whether the broker is to be told of its begin, or may not know of it.
    is_due: bool,
    /// The filter, complete with the channel's prefix if it has that.
    filter: B,
}

impl<B: Deref<Target = [u8]>> Entry<B> {
    fn filter(&self) -> &str {
        core::str::from_utf8(&self.filter).unwrap_or_default()
    }

    fn is_removed(&self) -> bool {
        self.receiver.is_none()
    }

    fn is_of(&self, slot: Slot) -> bool {
        self.receiver
            .is_some_and(|receiver| receiver.slot() == slot)
    }

    fn receives(&self, topic: &str) -> bool {
        !self.is_removed() && matches(self.filter(), topic)
    }
}

/// Refusal of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubscribeError {
    /// The topic, with the channel's prefix, is too long.
    TooLong,
    /// All subscriptions are taken.
    Full,
    /// The arena lacks room.
    Memory(Shortage),
}

impl From<Shortage> for SubscribeError {
    fn from(shortage: Shortage) -> Self {
        Self::Memory(shortage)
    }
}

impl core::fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong => f.write_str("the topic is too long"),
            Self::Full => write!(f, "all {SUBSCRIPTIONS_MAX} subscriptions are taken"),
            Self::Memory(shortage) => shortage.fmt(f),
        }
    }
}

/// Owner of the subscriptions.
#[derive(Debug)]
pub(super) struct Subscriptions<B> {
    entries: Vec<Entry<B>, SUBSCRIPTIONS_MAX>,
}

impl<B: DerefMut<Target = [u8]>> Subscriptions<B> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Adds a subscription; nothing if the task has it already.
    ///
    /// # Errors
    /// There is no room for one more.
    pub(super) fn add<E: Engine<Buffer = B>>(
        &mut self,
        receiver: Receiver,
        filter: &str,
        engine: &E,
    ) -> Result<(), SubscribeError> {
        let same = |e: &Entry<B>| *e.filter == *filter.as_bytes();
        let mut of_task = self.entries.iter().filter(|e| !e.is_removed());
        if of_task.any(|e| e.is_of(receiver.slot()) && same(e)) {
            return Ok(());
        }
        let mut entries = self.entries.iter();
        let is_active = entries.any(|e| !e.is_due && same(e));
        if self.entries.is_full() {
            // The broker goes on to send what nobody receives.
            let stale = self.entries.iter().position(Entry::is_removed);
            self.entries.swap_remove(stale.ok_or(SubscribeError::Full)?);
        }
        Shortage::check(Purpose::Subscription, filter.len(), engine.arena().free)?;
        let mut copy = engine.allocate(filter.len())?;
        copy.copy_from_slice(filter.as_bytes());
        // The broker has not been told of its removal yet.
        self.entries
            .retain(|e| !e.is_removed() || *e.filter != *copy);
        let entry = Entry {
            receiver: Some(receiver),
            is_due: !is_active,
            filter: copy,
        };
        self.entries.push(entry).map_err(|_| SubscribeError::Full)
    }

    /// Adds a subscription of an earlier boot, of which the broker is to be told the end; that boot may have told
    /// it, too. It is left as it is without room: nobody receives its messages.
    pub(super) fn add_stale<E: Engine<Buffer = B>>(&mut self, filter: &str, engine: &E) {
        let Ok(mut copy) = engine.allocate(filter.len()) else {
            return;
        };
        copy.copy_from_slice(filter.as_bytes());
        let entry = Entry {
            receiver: None,
            is_due: true,
            filter: copy,
        };
        let _ = self.entries.push(entry);
    }

    /// The filters with a receiver.
    pub(super) fn filters(&self) -> impl Iterator<Item = &str> {
        let entries = self.entries.iter().filter(|e| !e.is_removed());
        entries.map(Entry::filter)
    }

    /// Removes the subscriptions of a task.
    pub(super) fn remove(&mut self, slot: Slot) {
        for index in (0..self.entries.len()).rev() {
            let entry = &self.entries[index];
            if !entry.is_of(slot) {
                continue;
            }
            let mut others = self.entries.iter().enumerate();
            let is_shared = others
                .any(|(other, e)| other != index && !e.is_removed() && *e.filter == *entry.filter);
            if is_shared || entry.is_due {
                self.entries.swap_remove(index);
            } else {
                self.entries[index].receiver = None;
            }
        }
    }

    /// The next change that the broker is to be told of, given out once a session.
    pub(super) fn poll(&mut self) -> Option<Subscription> {
        let mut entries = self.entries.iter();
        let index = entries.position(|e| e.is_due || e.is_removed())?;
        let filter = |e: &Entry<B>| TopicName::try_from(e.filter()).unwrap_or_default();
        if self.entries[index].is_removed() {
            let removed = self.entries.swap_remove(index);
            return Some(Subscription::Remove(filter(&removed)));
        }
        let filter = filter(&self.entries[index]);
        for entry in &mut self.entries {
            if *entry.filter == *filter.as_bytes() {
                entry.is_due = false;
            }
        }
        Some(Subscription::Add(filter))
    }

    /// Has the broker told of all subscriptions again, and of the end of those that are to end.
    pub(super) fn repeat(&mut self) {
        for entry in self.entries.iter_mut().filter(|e| !e.is_removed()) {
            entry.is_due = true;
        }
    }

    /// Has the broker, which has none of them, told of all subscriptions again.
    pub(super) fn renew(&mut self) {
        self.entries.retain(|e| !e.is_removed());
        for entry in &mut self.entries {
            entry.is_due = true;
        }
    }

    /// Number of entries, for [`receiver`](Self::receiver).
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The receiver of a message by the entry at `index`, if it is for that. A guest receives a message
    /// by the first entry of those that match. From the last entry to the first each is asked once, also
    /// where a receiver's subscriptions are [removed](Self::remove) meanwhile.
    pub(super) fn receiver(&self, index: usize, topic: &str) -> Option<Receiver> {
        let entry = self.entries.get(index).filter(|e| e.receives(topic))?;
        let receiver = entry.receiver?;
        let is_guest = matches!(receiver, Receiver::Guest(_));
        let mut before = self.entries[..index].iter();
        let is_same = |e: &Entry<B>| e.receiver == Some(receiver);
        let is_repeated = is_guest && before.any(|e| is_same(e) && e.receives(topic));
        (!is_repeated).then_some(receiver)
    }
}
