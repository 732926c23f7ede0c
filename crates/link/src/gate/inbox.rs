//! The seam to whoever takes messages.

use proplet::agent::Qos;

/// The receiver of messages.
///
/// It is called while a read is polled, and never keeps a read waiting: what it can't take it drops.
pub trait Inbox {
    /// Begins a message: its payload of `head.len` bytes follows in pieces, then its end, unless the
    /// connection ends before that.
    fn begin(&self, head: &Head<'_>);

    /// Takes the next piece of the payload, which has a byte at least.
    fn payload(&self, bytes: &[u8]);

    /// Ends the message.
    fn end(&self);

    /// Drops the message that has begun: the connection ended within it.
    fn cut(&self);

    /// Takes note of the end of a connection, after [`cut`](Self::cut) if there was one: messages that
    /// were not acknowledged come again, or never, and can't be acknowledged any more.
    fn closed(&self);

    /// Whether the oldest message of QoS 1 that has ended, and of which this was not told yet, may be
    /// acknowledged. It is asked on each poll of a read, so a change must poll the task.
    fn take_acknowledgement(&self) -> bool;
}

/// The beginning of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// Its topic, of at most [`TOPIC_MAX`](proplet::wire::TOPIC_MAX) bytes.
    pub topic: &'a str,
    /// Bytes of its payload.
    pub len: usize,
    /// Its quality of service.
    pub qos: Qos,
    /// Whether it was retained: sent because of a new subscription.
    pub retained: bool,
    /// Whether it may have been delivered before.
    pub dup: bool,
}
