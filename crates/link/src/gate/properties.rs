//! Lists of properties, byte by byte.

use super::error::Fault;

/// Maximum number of bytes of a packet: a property of CONNECT and of CONNACK.
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(super) const MAXIMUM_QOS: u8 = 0x24;

/// Position in a list of properties. It knows no more of a value than where that ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Properties {
    id: u8,
    part: Part,
}

/// Part of a property whose byte comes next.
#[derive(Debug, Clone, Copy)]
enum Part {
    Id,
    /// A number with that many bytes to come.
    Number(u8),
    /// A number that says itself how long it is, with at most that many bytes to come.
    Varint(u8),
    /// The length of a string, with that many strings behind it.
    Length {
        strings: u8,
    },
    /// Its second byte.
    LengthLow {
        high: u8,
        strings: u8,
    },
    /// A string with that many bytes to come.
    String {
        left: u16,
        strings: u8,
    },
}

/// Meaning of a byte, with the property that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Byte {
    Id(u8),
    Value(u8),
}

impl Properties {
    pub(super) const fn new() -> Self {
        Self {
            id: 0,
            part: Part::Id,
        }
    }

    /// Whether the list may end here.
    pub(super) const fn is_between(&self) -> bool {
        matches!(self.part, Part::Id)
    }

    /// Takes the next byte.
    pub(super) fn take(&mut self, byte: u8) -> Result<Byte, Fault> {
        if self.is_between() {
            self.part = Self::first_part(byte)?;
            self.id = byte;
            return Ok(Byte::Id(byte));
        }
        self.part = self.part.after(byte)?;
        Ok(Byte::Value(self.id))
    }

    fn first_part(id: u8) -> Result<Part, Fault> {
        Ok(match id {
            0x01 | 0x17 | 0x19 | MAXIMUM_QOS | 0x25 | 0x28 | 0x29 | 0x2a => Part::Number(1),
            SERVER_KEEP_ALIVE | RECEIVE_MAXIMUM | 0x22 | 0x23 => Part::Number(2),
            0x02 | 0x11 | 0x18 | MAXIMUM_PACKET_SIZE => Part::Number(4),
            0x0b => Part::Varint(4),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                Part::Length { strings: 0 }
            }
            0x26 => Part::Length { strings: 1 },
            _ => return Err(Fault::Malformed),
        })
    }
}

impl Part {
    /// The part after a byte of this one.
    fn after(self, byte: u8) -> Result<Self, Fault> {
        Ok(match self {
            Self::Number(left @ 2..) => Self::Number(left - 1),
            Self::Varint(1) if byte & 0x80 != 0 => return Err(Fault::Malformed),
            Self::Varint(left) if byte & 0x80 != 0 => Self::Varint(left - 1),
            Self::Length { strings } => Self::LengthLow {
                high: byte,
                strings,
            },
            Self::LengthLow { high, strings } => {
                Self::string(u16::from_be_bytes([high, byte]), strings)
            }
            Self::String { left, strings } => Self::string(left - 1, strings),
            Self::Id | Self::Number(_) | Self::Varint(_) => Self::Id,
        })
    }

    fn string(left: u16, strings: u8) -> Self {
        match (left, strings) {
            (0, 0) => Self::Id,
            (0, strings) => Self::Length {
                strings: strings - 1,
            },
            (left, strings) => Self::String { left, strings },
        }
    }
}
