//! Messages of QoS 1 that were read and not acknowledged, in their order.

use heapless::Vec;
use proplet::agent::RECEIVE_MAXIMUM;

/// Packet identifiers whose acknowledgements are withheld, the oldest first: they go in the order of
/// their messages (MQTT-4.6.0-2).
#[derive(Debug)]
pub(super) struct Withheld(Vec<Message, RECEIVE_MAXIMUM, u8>);

#[derive(Debug, Clone, Copy)]
struct Message {
    id: u16,
    owner: Owner,
}

/// Who decides when a message is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The inbox got it.
    Inbox,
    /// Nobody did: it was skipped.
    Nobody,
}

/// Answer to a message that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    New,
    /// It has the identifier of one that awaits its acknowledgement.
    Repeated,
    /// It is one more than may await their acknowledgement: the broker was told so, and keeps it until the next
    /// connection.
    Excess,
}

impl Withheld {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Admits a message with this identifier.
    ///
    /// Until it is acknowledged, an identifier names one message: what comes under it again is taken for
    /// that message delivered again (FluxMQ does so after 20 s, on a live connection), whatever its
    /// content. The broker takes one acknowledgement for both, so the second could not be kept waiting,
    /// and a task would be started twice if it were handed on; an end of the connection would bring both
    /// back, for ever. A broker that uses an identifier twice loses the second message, and the log says
    /// so.
    pub(super) fn admit(&self, id: u16) -> Admission {
        match self.0.iter().any(|message| message.id == id) {
            true => Admission::Repeated,
            false if self.0.is_full() => Admission::Excess,
            false => Admission::New,
        }
    }

    /// Keeps the identifier of an admitted message.
    pub(super) fn push(&mut self, id: u16, owner: Owner) {
        let kept = self.0.push(Message { id, owner });
        debug_assert!(kept.is_ok(), "it was admitted");
    }

    /// Takes the oldest if it may be acknowledged; `may_go` knows that of the inbox's oldest.
    pub(super) fn take(&mut self, may_go: impl FnOnce() -> bool) -> Option<u16> {
        let Message { id, owner } = *self.0.first()?;
        if owner == Owner::Inbox && !may_go() {
            return None;
        }
        self.0.remove(0);
        Some(id)
    }
}
