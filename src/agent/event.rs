//! The conversation with a link: events in, publications and subscriptions out.

use crate::{
    engine::Slot,
    wire::{TopicName, report::BufferTooSmall},
};
use core::fmt;

/// An event.
#[derive(Debug)]
pub enum Event<'m> {
    /// The broker has no earlier session: every subscription that
    /// [`Agent::poll_subscribe`](super::Agent::poll_subscribe) gave out is needed again.
    NewSession,
    /// The session may be another than the one that had what
    /// [`Agent::poll_subscribe`](super::Agent::poll_subscribe) gave out: all of it is needed again.
    Resubscribe,
    /// The broker accepted the connection, and each
    /// [`Agent::subscription`](super::Agent::subscription) is in force.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// A message begins. Its payload follows, in pieces that are cut anywhere, and then its end.
    MessageBegin(MessageHead<'m>),
    /// Bytes of its payload.
    MessageBytes(&'m [u8]),
    /// All of its payload has come.
    MessageEnd,
    /// The transport of messages has ended: one that has begun does not end, and those that were not
    /// acknowledged come again, or never.
    MessagesCut,
    /// A message, whole, that needs no acknowledgement.
    Message {
        /// Its topic.
        topic: &'m str,
        /// Its payload.
        payload: &'m [u8],
    },
    /// The fate of a publication that [`Agent::poll_publish`](super::Agent::poll_publish) gave out.
    Published(Token, Delivery),
    /// Time passed, or a worker has news.
    Tick,
    /// Stop every task, report, and take no more.
    Shutdown,
}

/// The beginning of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHead<'m> {
    /// Its topic.
    pub topic: &'m str,
    /// Bytes of its payload.
    pub len: usize,
    /// Its quality of service. One of QoS 1 is acknowledged when
    /// [`Agent::take_acknowledgement`](super::Agent::take_acknowledgement) says so.
    pub qos: Qos,
    /// Whether it was retained: sent because of a new subscription.
    pub is_retained: bool,
    /// Whether it may have been delivered before.
    pub is_duplicate: bool,
}

/// Identifies one publication until its [`Event::Published`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(pub(super) Subject);

/// Subject of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Discovery,
    Heartbeat,
    Metrics,
    /// A sample of the task in a slot.
    Sample(Slot),
    /// A request to the registry, for a module on its way.
    ModuleRequest(u8),
    /// An entry of the outbox.
    Entry(u16),
}

/// Fate of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has acknowledged it (QoS 1), or it was written out (QoS 0).
    Done,
    /// The broker has acknowledged it, and nobody was subscribed to its topic.
    Unheard,
    /// The session ended before that; it may or may not have arrived.
    Lost,
    /// The broker refused it.
    Refused,
    /// It exceeds the link's send buffer, or the broker's maximum packet size.
    TooLarge,
}

/// Reason for which a publication can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// The buffer is too small.
    TooLarge(BufferTooSmall),
    /// It is a sample of a task that has ended since.
    Gone,
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(error) => error.fmt(f),
            Self::Gone => f.write_str("the task of this sample has ended"),
        }
    }
}

impl core::error::Error for Unwritten {}

impl From<BufferTooSmall> for Unwritten {
    fn from(error: BufferTooSmall) -> Self {
        Self::TooLarge(error)
    }
}

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// At most once: superseded by the next one.
    AtMostOnce,
    /// At least once.
    AtLeastOnce,
}

/// A message to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication {
    /// Comes back in [`Event::Published`].
    pub token: Token,
    /// Quality of service.
    pub qos: Qos,
}

/// A change of the proplet's subscriptions, beside those of the manager's topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// Subscribe to this filter, at QoS 1.
    Add(TopicName),
    /// Unsubscribe from this filter.
    Remove(TopicName),
}
