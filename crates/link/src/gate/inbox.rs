//! The seam to whoever takes messages.

use proplet::agent::MessageHead;

/// The receiver of messages.
///
/// It is called while a read is polled, and never keeps a read waiting: what it can't take it drops.
pub trait Inbox {
    /// Begins a message, on a topic of at most [`TOPIC_MAX`](proplet::wire::TOPIC_MAX) bytes: its payload
    /// of `head.len` bytes follows in pieces, then its end, unless the connection ends before that.
    fn begin(&self, head: &MessageHead<'_>);

    /// Takes the next piece of the payload, which has a byte at least.
    fn payload(&self, bytes: &[u8]);

    /// Ends the message.
    fn end(&self);

    /// Takes note of the end of a connection: a message that has begun does not end, and those that were
    /// not acknowledged come again, or never, and can't be acknowledged any more.
    fn closed(&self);

    /// Whether the oldest message of QoS 1 that has begun, and of which this was not told yet, may be
    /// acknowledged. It is asked on each poll of a read, so a change must poll the task.
    fn take_acknowledgement(&self) -> bool;
}
