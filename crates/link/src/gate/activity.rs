//! Facts of a connection that the MQTT client does not tell.

use core::cell::Cell;
use embassy_time::Instant;
use log::warn;
use proplet::agent::RECEIVE_MAXIMUM;

/// Activity of the peer of a [`Gate`](super::Gate). It outlives the transport, and has for the owner of
/// the MQTT client facts that the client does not tell.
#[derive(Debug)]
pub struct PeerActivity {
    /// Moment at which the last byte came in.
    pub last_heard: Cell<Instant>,
    /// Whether a message has ended since the owner cleared this: the client may not know of it.
    pub delivered: Cell<bool>,
    /// Reason code of the last CONNACK or DISCONNECT, if it had one.
    pub reason_code: Cell<Option<u8>>,
    /// Whether the peer has closed the stream.
    pub closed: Cell<bool>,
    /// Whether a byte has come in.
    pub has_spoken: Cell<bool>,
    /// Whether the last PUBACK that the client has read says that nobody is subscribed to the topic: for the
    /// client that is as good as any.
    pub is_unheard: Cell<bool>,
    /// Whether the client has not read the packet that it is to acknowledge.
    pub has_stub: Cell<bool>,
    /// Whether the peer has sent more messages at once than may await their acknowledgement. It has them
    /// still, and sends them again on the next connection.
    pub has_excess: Cell<bool>,
}

impl PeerActivity {
    /// Forgets all, for a new transport.
    pub fn reset(&self) {
        self.last_heard.set(Instant::now());
        self.delivered.set(false);
        self.reason_code.set(None);
        self.closed.set(false);
        self.has_spoken.set(false);
        self.is_unheard.set(false);
        self.has_stub.set(false);
        self.has_excess.set(false);
    }

    pub(super) fn note_excess(&self) {
        if !self.has_excess.replace(true) {
            warn!(
                "the broker sends more messages at once than the {RECEIVE_MAXIMUM} that it was told to: the others are taken on the next connection"
            );
        }
    }

    /// Takes note of a read.
    pub(super) fn note(&self, bytes: usize) {
        if bytes == 0 {
            self.closed.set(true);
        } else {
            self.last_heard.set(Instant::now());
            self.has_spoken.set(true);
        }
    }
}

impl Default for PeerActivity {
    fn default() -> Self {
        Self {
            last_heard: Cell::new(Instant::MIN),
            delivered: Cell::new(false),
            reason_code: Cell::new(None),
            closed: Cell::new(false),
            has_spoken: Cell::new(false),
            is_unheard: Cell::new(false),
            has_stub: Cell::new(false),
            has_excess: Cell::new(false),
        }
    }
}
