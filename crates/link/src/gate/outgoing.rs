//! Bytes on their way out, gathered until the next read.

use embassy_time::{Duration, Instant};
use proplet::agent::RECEIVE_MAXIMUM;

/// Longest time for which acknowledgements wait for a publication to go with: mostly the result of what they
/// acknowledge, a moment later.
const DELAY: Duration = Duration::from_millis(1);

/// Acknowledgements that wait no longer: the broker waits for them.
const ACKNOWLEDGEMENTS: usize = RECEIVE_MAXIMUM / 2;

const PUBACK: u8 = 0x40;

/// Bytes of a PUBACK, at most.
const PUBACK_MAX: usize = 6;

/// Bytes that were written and have not been handed to the transport, in a buffer that is borrowed.
#[derive(Debug)]
pub(super) struct Outgoing<'w> {
    buf: &'w mut [u8],
    start: usize,
    end: usize,
    acknowledgements: usize,
    due: Instant,
}

impl<'w> Outgoing<'w> {
    pub(super) const fn new(buf: &'w mut [u8]) -> Self {
        Self {
            buf,
            start: 0,
            end: 0,
            acknowledgements: 0,
            due: Instant::MIN,
        }
    }

    /// When the bytes are to go; `None` without any.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.start < self.end).then_some(self.due)
    }

    /// Keeps `bytes`; false if they don't fit behind what is there.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let room = self.buf.get_mut(self.end..self.end + bytes.len());
        let fits = room.map(|room| room.copy_from_slice(bytes)).is_some();
        if fits {
            let is_acknowledgement = bytes.len() <= PUBACK_MAX && bytes.first() == Some(&PUBACK);
            self.acknowledgements += usize::from(is_acknowledgement);
            if !is_acknowledgement || self.acknowledgements >= ACKNOWLEDGEMENTS {
                self.due = Instant::MIN;
            } else if self.end == 0 {
                self.due = Instant::now().saturating_add(DELAY);
            }
            self.end += bytes.len();
        }
        fits
    }

    /// The bytes to hand to the transport.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Takes the first `n` of them.
    pub(super) fn take(&mut self, n: usize) {
        self.start += n.min(self.end - self.start);
        if self.start == self.end {
            (self.start, self.end, self.acknowledgements) = (0, 0, 0);
        }
    }
}
