//! Placeholder of the agent: the API that the link drives.
use crate::{engine::Engine, time::Instant};

/// Most bytes of a topic.
pub const TOPIC_MAX: usize = 192;

/// A topic, complete with its prefix.
pub type TopicName = heapless::String<TOPIC_MAX>;

/// Something that happened.
#[derive(Debug)]
pub enum Event<'m> {
    /// The broker accepted a connection and all of [`Agent::subscriptions`].
    Connected,
    /// The connection is gone.
    Disconnected,
    /// A message arrived.
    Message {
        /// Its topic.
        topic: &'m str,
        /// Its payload.
        payload: &'m [u8],
    },
    /// What became of a publication that [`Agent::poll_publish`] gave out.
    Published(Token, Delivery),
    /// Time passed, or a worker has something to say.
    Tick,
    /// Stop every task, report, and take no more.
    Shutdown,
}

/// Names one publication until its [`Event::Published`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(pub(crate) u16);

/// Fate of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has acknowledged it (QoS 1), or it was written out (QoS 0).
    Done,
    /// The connection went before that; it may or may not have arrived.
    Lost,
    /// The broker refused it.
    Refused,
}

/// Quality of service of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// At most once: superseded by the next one.
    AtMostOnce,
    /// At least once.
    AtLeastOnce,
}

/// A message to publish.
#[derive(Debug, Clone, Copy)]
pub struct Publication {
    /// To be handed back in [`Event::Published`].
    pub token: Token,
    /// How to publish it.
    pub qos: Qos,
}

/// The proplet.
pub struct Agent<E> {
    engine: E,
}

impl<E: Engine> Agent<E> {
    /// Takes an event. Call [`poll_publish`](Self::poll_publish) afterwards.
    pub fn handle(&mut self, _event: Event<'_>, _now: Instant) {
        let _ = &self.engine;
    }
    /// When [`Event::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
    /// The next message to publish; `None` while not connected. It is given out once;
    /// its fate must be told by [`Event::Published`].
    pub fn poll_publish(&mut self, _now: Instant) -> Option<Publication> {
        None
    }
    /// Topic of a publication, complete with prefix.
    pub fn topic(&self, _token: Token) -> TopicName {
        TopicName::new()
    }
    /// Serialises a publication's payload (JSON) into `buf` and returns its length.
    ///
    /// # Errors
    /// `buf` is too small.
    pub fn write(&self, _token: Token, _buf: &mut [u8], _now: Instant) -> Result<usize, ()> {
        Err(())
    }
    /// Topic filters to subscribe to, at QoS 1, on each new session.
    pub fn subscriptions(&self) -> [TopicName; 4] {
        Default::default()
    }
    /// Topic and payload of the last will: the alive topic, status "offline".
    ///
    /// # Errors
    /// `buf` is too small.
    pub fn will(&self, _buf: &mut [u8]) -> Result<(TopicName, usize), ()> {
        Err(())
    }
    /// Whether a shutdown is complete: all tasks have ended and their results are delivered.
    pub fn is_drained(&self) -> bool {
        true
    }
}
