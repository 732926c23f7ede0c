//! What guests say and hear on the channel.

use super::{Agent, outbox::Body};
use crate::{
    engine::{Engine, Message, Slot, Text, clip, text},
    time::Instant,
    wire::{TopicName, matches, topic},
};
use core::ops::Deref;

/// A change of what the proplet is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// Subscribe to this filter, at QoS 1.
    Add(TopicName),
    /// Unsubscribe from it.
    Remove(TopicName),
}

/// A topic filter that a run wants the messages of.
#[derive(Debug)]
pub(super) struct Interest<B> {
    state: State,
    slot: Slot,
    purpose: Purpose,
    /// The filter, complete with the channel's prefix if it has that.
    filter: B,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be subscribed to.
    Due,
    /// Given out.
    Known,
    /// To be unsubscribed from.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// For the run's guest.
    Guest,
    /// The model of the run's round.
    Model,
}

impl<B: Deref<Target = [u8]>> Interest<B> {
    fn filter(&self) -> &str {
        core::str::from_utf8(&self.filter).unwrap_or_default()
    }

    /// Whether a message on `topic` is for it.
    fn wants(&self, topic: &str) -> bool {
        self.state != State::Gone && matches(self.filter(), topic)
    }
}

impl<E: Engine> Agent<'_, E> {
    /// Takes what guests have to say. They may fill half of the outbox and, in it, a quarter of the
    /// arena: the rest is for results and for other tasks.
    pub(super) fn listen(&mut self, now: Instant) {
        let reserved = self.outbox.capacity() / 2;
        while self.outbox.room() > reserved
            && self.outbox.message_bytes() < self.messages_max
            && let Some((slot, message)) = self.engine.poll_message()
        {
            self.take(slot, message, now);
        }
    }

    /// Takes what a guest that has ended still had to say, as far as the outbox has room.
    pub(super) fn hear_out(&mut self, slot: Slot, now: Instant) {
        while self.outbox.room() > 0
            && let Some(message) = self.engine.take_message(slot)
        {
            self.take(slot, message, now);
        }
    }

    fn take(&mut self, slot: Slot, message: Message<E::Buffer>, now: Instant) {
        match message {
            Message::Publish { bytes, topic_len } => {
                let body = Body::Message { bytes, topic_len };
                super::runs::post(&mut self.outbox, self.tasks.id(slot), body, now);
            }
            Message::Subscribe { filter } => {
                let filter = core::str::from_utf8(&filter).unwrap_or_default();
                let added = match self.topics.below(filter) {
                    Some(filter) => self.subscribe(slot, Purpose::Guest, &filter),
                    None => Err(text(format_args!("the topic is too long"))),
                };
                if let Err(reason) = added {
                    let id = self.tasks.id(slot);
                    log::warn!(
                        "task {id} is not subscribed to {}: {reason}",
                        clip(filter, 64)
                    );
                }
            }
        }
    }

    fn subscribe(&mut self, slot: Slot, purpose: Purpose, filter: &str) -> Result<(), Text> {
        let same = |i: &Interest<E::Buffer>| *i.filter == *filter.as_bytes();
        if self
            .interests
            .iter()
            .any(|i| i.slot == slot && i.state != State::Gone && same(i))
        {
            return Ok(());
        }
        let known = self
            .interests
            .iter()
            .any(|i| i.state != State::Due && same(i));
        let full = || {
            text(format_args!(
                "all {} subscriptions are taken",
                super::INTERESTS_MAX
            ))
        };
        if self.interests.is_full() {
            return Err(full());
        }
        super::fits(filter.len(), self.engine.arena().free, "a subscription")?;
        let mut copy = self.engine.allocate(filter.len())?;
        copy.copy_from_slice(filter.as_bytes());
        // One that is to be unsubscribed from has not been yet.
        self.interests
            .retain(|i| i.state != State::Gone || *i.filter != *copy);
        let interest = Interest {
            state: if known { State::Known } else { State::Due },
            slot,
            purpose,
            filter: copy,
        };
        self.interests.push(interest).map_err(|_| full())
    }

    /// Ends the subscriptions of a run.
    pub(super) fn unsubscribe(&mut self, slot: Slot) {
        for index in (0..self.interests.len()).rev() {
            let interest = &self.interests[index];
            if interest.slot != slot || interest.state == State::Gone {
                continue;
            }
            let shared = self.interests.iter().enumerate().any(|(other, i)| {
                other != index && i.state != State::Gone && *i.filter == *interest.filter
            });
            if shared || interest.state == State::Due {
                self.interests.swap_remove(index);
            } else {
                self.interests[index].state = State::Gone;
            }
        }
    }

    /// The next subscription to change, if any, given out once a session.
    pub fn poll_subscribe(&mut self) -> Option<Subscription> {
        if !self.connected {
            return None;
        }
        let changed = |i: &Interest<E::Buffer>| i.state != State::Known;
        let index = self.interests.iter().position(changed)?;
        let filter = |i: &Interest<E::Buffer>| TopicName::try_from(i.filter()).unwrap_or_default();
        if self.interests[index].state == State::Gone {
            let gone = self.interests.swap_remove(index);
            return Some(Subscription::Remove(filter(&gone)));
        }
        let filter = filter(&self.interests[index]);
        // For all that wait for it.
        for interest in &mut self.interests {
            if *interest.filter == *filter.as_bytes() {
                interest.state = State::Known;
            }
        }
        Some(Subscription::Add(filter))
    }

    /// The broker has forgotten all subscriptions.
    pub(super) fn forget_subscriptions(&mut self) {
        self.interests.retain(|i| i.state != State::Gone);
        for interest in &mut self.interests {
            interest.state = State::Due;
        }
    }

    /// A message that is none of the manager's: for guests, or a model.
    pub(super) fn other_message(&mut self, topic: &str, payload: &[u8], now: Instant) {
        let mut heard = false;
        // From the end: one that has its model goes, and the last takes its place.
        for index in (0..self.interests.len()).rev() {
            let interest = &self.interests[index];
            if !interest.wants(topic) {
                continue;
            }
            heard = true;
            let slot = interest.slot;
            match interest.purpose {
                // Others of its filters may match too: it hears it once, by the first of them.
                Purpose::Guest if self.hears(slot, topic, index) => {}
                Purpose::Guest => {
                    let below = self.topics.strip(topic).unwrap_or(topic);
                    self.engine.deliver(slot, below, payload);
                }
                Purpose::Model => {
                    self.unsubscribe(slot);
                    self.model_message(slot, payload, now);
                }
            }
        }
        if !heard {
            log::debug!("ignored a message on {topic}");
        }
    }

    /// Whether one of the first `count` interests is the slot's guest's in `topic`.
    fn hears(&self, slot: Slot, topic: &str, count: usize) -> bool {
        self.interests[..count]
            .iter()
            .any(|i| i.slot == slot && i.purpose == Purpose::Guest && i.wants(topic))
    }

    /// Waits for the model on the topic that names it, since its registry has failed.
    pub(super) fn await_model(
        &mut self,
        slot: Slot,
        reason: &Text,
        now: Instant,
    ) -> Result<(), Text> {
        let uri = self.round(slot).and_then(|round| round.model_uri);
        let topic = uri.filter(|uri| !uri.contains("://")).and_then(topic);
        // To unsubscribe from the manager's topics would make the proplet deaf.
        let topic = topic.filter(|topic| self.topics.classify(topic).is_none());
        let failed = |why: &str| text(format_args!("model: {reason}{why}"));
        let Some(topic) = topic else {
            return Err(failed("; MODEL_URI is no topic of a model either"));
        };
        self.subscribe(slot, Purpose::Model, &topic)
            .map_err(|why| failed(&text(format_args!("; topic {topic}: {why}"))))?;
        let until = now + self.config.fetch_timeout;
        self.tasks.set_until(slot, Some(until));
        Ok(())
    }

    /// Whether a run waits for its model on a topic.
    pub(super) fn awaits_model(&self, slot: Slot) -> bool {
        self.interests
            .iter()
            .any(|i| i.slot == slot && i.purpose == Purpose::Model && i.state != State::Gone)
    }

    fn model_message(&mut self, slot: Slot, payload: &[u8], now: Instant) {
        let limit = self.config.data_bytes;
        let copy = if payload.len() > limit {
            Err(text(format_args!(
                "model: it has {} bytes, this proplet takes {limit}",
                payload.len()
            )))
        } else {
            self.make_room(payload.len(), "the model")
                .and_then(|()| self.engine.allocate(payload.len()))
        };
        match copy {
            Ok(mut copy) => {
                copy.copy_from_slice(payload);
                self.has_model(slot, copy, now);
            }
            Err(reason) => self.fail(slot, reason, now),
        }
    }
}
