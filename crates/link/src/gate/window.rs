//! Bytes that have come in and were not taken, and the packet that they begin.

use super::error::Fault;

/// Bytes that were read from the transport and not taken yet, in a buffer that is borrowed.
#[derive(Debug)]
pub(super) struct Window<'w> {
    buf: &'w mut [u8],
    start: usize,
    end: usize,
}

impl<'w> Window<'w> {
    pub(super) const fn new(buf: &'w mut [u8]) -> Self {
        Self {
            buf,
            start: 0,
            end: 0,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// The first bytes, at most `most`.
    pub(super) fn first(&self, most: usize) -> &[u8] {
        let bytes = self.bytes();
        &bytes[..most.min(bytes.len())]
    }

    /// Takes the first `n` bytes, which are there.
    pub(super) fn take(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
    }

    /// Room for more: all of the buffer that holds nothing.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buf[self.end..]
    }

    /// Keeps the first `n` bytes that were read into the room.
    pub(super) fn fill(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buf.len());
    }
}

/// Reason for which the beginning of a packet can't be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Some of it has not come in yet.
    Incomplete,
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The beginning of a packet, behind its fixed header.
pub(super) struct Header<'a> {
    bytes: &'a [u8],
    /// First byte of the packet.
    pub(super) first: u8,
    /// Bytes that were taken, with the fixed header.
    pub(super) len: usize,
    /// Bytes of the packet that were not taken, whether they have come in or not.
    pub(super) left: usize,
}

impl<'a> Header<'a> {
    /// Takes the fixed header of the packet that `bytes` begin with.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Stop> {
        let mut head = Self::within(bytes, usize::MAX);
        head.first = head.byte()?;
        head.left = head.varint()?;
        Ok(head)
    }

    /// The bytes of a packet of which `left` were not taken.
    pub(super) const fn within(bytes: &'a [u8], left: usize) -> Self {
        Self {
            bytes,
            first: 0,
            len: 0,
            left,
        }
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Stop> {
        let left = self.left.checked_sub(n).ok_or(Fault::Malformed)?;
        let taken = self.bytes[self.len..].get(..n).ok_or(Stop::Incomplete)?;
        self.left = left;
        self.len += n;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        self.take(1).map(|byte| byte[0])
    }

    pub(super) fn u16(&mut self) -> Result<usize, Stop> {
        let bytes = self.take(2)?;
        Ok(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
    }

    /// A packet identifier.
    pub(super) fn id(&mut self) -> Result<u16, Stop> {
        match self.u16()? {
            0 => Err(Fault::Malformed.into()),
            id => Ok(id as u16),
        }
    }

    /// A length of one to four bytes, and of no more than it needs.
    pub(super) fn varint(&mut self) -> Result<usize, Stop> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let is_longer_than_needed = byte == 0 && shift > 0;
                return match is_longer_than_needed {
                    true => Err(Fault::Malformed.into()),
                    false => Ok(value),
                };
            }
        }
        Err(Fault::Malformed.into())
    }
}
