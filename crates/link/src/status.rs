//! State and counters of the link, for the port to show.

use crate::error::ConnectionError;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::Relaxed};

/// State of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LinkState {
    /// Waiting before the next attempt, or not begun.
    Waiting = 0,
    /// Resolving, dialling, shaking hands or subscribing.
    Connecting = 1,
    /// Serving.
    Connected = 2,
    /// Over: shut down.
    Ended = 3,
}

/// State and counters of a link, to be read from any thread. Only the link writes.
#[derive(Debug)]
pub struct LinkStatus {
    state: AtomicU8,
    error: AtomicU16,
    connects: AtomicU32,
    losses: AtomicU32,
    failures: AtomicU32,
}

impl Default for LinkStatus {
    fn default() -> Self {
        Self::new()
    }
}

impl LinkStatus {
    /// The status of a link that has not begun.
    pub const fn new() -> Self {
        Self {
            state: AtomicU8::new(0),
            error: AtomicU16::new(0),
            connects: AtomicU32::new(0),
            losses: AtomicU32::new(0),
            failures: AtomicU32::new(0),
        }
    }

    /// State of the link.
    pub fn state(&self) -> LinkState {
        match self.state.load(Relaxed) {
            1 => LinkState::Connecting,
            2 => LinkState::Connected,
            3 => LinkState::Ended,
            _ => LinkState::Waiting,
        }
    }

    /// The last error, also after a connection was made since.
    pub fn last_error(&self) -> Option<ConnectionError> {
        ConnectionError::unpack(self.error.load(Relaxed))
    }

    /// Connections made, up to the last subscription.
    pub fn connects(&self) -> u32 {
        self.connects.load(Relaxed)
    }

    /// Connections lost.
    pub fn losses(&self) -> u32 {
        self.losses.load(Relaxed)
    }

    /// Attempts that led to no connection.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    pub(crate) fn set_state(&self, state: LinkState) {
        self.state.store(state as u8, Relaxed);
    }

    pub(crate) fn connected(&self) {
        count(&self.connects);
        self.set_state(LinkState::Connected);
    }

    pub(crate) fn lost(&self, error: ConnectionError) {
        count(&self.losses);
        self.error.store(error.pack(), Relaxed);
    }

    pub(crate) fn failed(&self, error: ConnectionError) {
        count(&self.failures);
        self.error.store(error.pack(), Relaxed);
    }
}

/// There is one writer, so this needs no compare-and-swap, which not every target has.
fn count(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_has_not_begun_has_no_error() {
        let status = LinkStatus::new();
        assert_eq!(status.last_error(), None);
        assert_eq!(status.state(), LinkState::Waiting);
    }

    #[test]
    fn the_last_error_is_shown() {
        let status = LinkStatus::new();
        status.failed(ConnectionError::Refused(0x86));
        status.connected();
        assert_eq!(status.last_error(), Some(ConnectionError::Refused(0x86)));
        status.lost(ConnectionError::Closed(None));
        assert_eq!(status.last_error(), Some(ConnectionError::Closed(None)));
        assert_eq!(
            (status.connects(), status.failures(), status.losses()),
            (1, 1, 1)
        );
    }
}
