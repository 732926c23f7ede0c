//! Messages of guests.

use super::Supervisor;
use crate::{
    agent::{
        outbox::Body,
        subscriptions::{Receiver, SubscribeError},
    },
    engine::{Engine, Message, Slot},
    text::clip,
    time::Instant,
    wire::TopicName,
};

impl<E: Engine> Supervisor<'_, E> {
    /// Takes messages of guests, as far as the outbox does.
    pub(in crate::agent) fn listen(&mut self, now: Instant) {
        while self.outbox.takes_messages()
            && let Some((slot, message)) = self.engine.poll_message()
        {
            self.guest_message(slot, message, now);
        }
    }

    pub(super) fn guest_message(&mut self, slot: Slot, message: Message<E::Buffer>, now: Instant) {
        let id = self.tasks.id(slot);
        match message {
            Message::Publish { bytes, topic_len } => {
                let body = Body::Message { bytes, topic_len };
                self.outbox.post(id, body, now);
            }
            Message::Subscribe { filter } => {
                let below = core::str::from_utf8(&filter).unwrap_or_default();
                let filter = self.topics.below(below).ok_or(SubscribeError::TooLong);
                let receiver = Receiver::Guest(slot);
                let add =
                    |filter: TopicName| self.subscriptions.add(receiver, &filter, &self.engine);
                if let Err(reason) = filter.and_then(add) {
                    let below = clip(below, 64);
                    log::warn!("task {id} is not subscribed to {below}: {reason}");
                }
            }
        }
    }
}
