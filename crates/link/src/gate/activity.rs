//! Facts of a connection that the MQTT client does not tell.

use core::cell::Cell;
use embassy_time::Instant;

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
}

impl PeerActivity {
    /// Forgets all, for a new transport.
    pub fn reset(&self) {
        self.last_heard.set(Instant::now());
        self.delivered.set(false);
        self.reason_code.set(None);
        self.closed.set(false);
    }

    /// Takes note of a read.
    pub(super) fn note(&self, bytes: usize) {
        if bytes == 0 {
            self.closed.set(true);
        } else {
            self.last_heard.set(Instant::now());
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
        }
    }
}
