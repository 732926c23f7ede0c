//! CONNECT on its way out: what the MQTT client does not let its owner choose.
//!
//! As Maximum Packet Size it announces its receive buffer, of which a message needs nothing; it begins
//! anew with each process, and it does not know of a broker that refuses the will's quality of service.

use super::{
    error::Fault,
    properties::{Byte, MAXIMUM_PACKET_SIZE, Properties},
};

const CONNECT: u8 = 1;

/// Bytes of the name and version of the protocol, the flags and the keep-alive.
const HEAD: u8 = 2 + 4 + 1 + 1 + 2;

/// Value of [`Connect::Head`] at the flags.
const FLAGS: u8 = 1 + 2;
const CLEAN_START: u8 = 0x02;
const WILL_QOS: u8 = 0x18;

/// What a CONNECT says, whatever the client has written.
#[derive(Debug, Clone, Copy)]
pub struct Edits {
    /// Maximum number of bytes of a packet, which the broker is told.
    pub max_packet: u32,
    /// Whether the broker is to forget an earlier session.
    pub clean_start: bool,
    /// Whether the will goes at QoS 0.
    pub will_at_most_once: bool,
}

impl Edits {
    const fn flags(&self, flags: u8) -> u8 {
        let flags = match self.clean_start {
            true => flags | CLEAN_START,
            false => flags & !CLEAN_START,
        };
        match self.will_at_most_once {
            true => flags & !WILL_QOS,
            false => flags,
        }
    }
}

/// Position in a CONNECT, up to the end of its properties.
#[derive(Debug, Clone, Copy)]
pub(super) enum Connect {
    /// Before its first byte.
    Kind,
    /// In its length.
    Length,
    /// That many bytes before its properties.
    Head(u8),
    /// In the length of its properties, of which `value` was read.
    PropertiesLength { value: usize, shift: u8 },
    /// In its properties, with that many bytes to come. `index` counts bytes of the value.
    Properties {
        left: usize,
        properties: Properties,
        index: u8,
    },
    /// Behind them, or in another packet.
    Done,
}

impl Connect {
    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Copies as much of `bytes` to `edited` as fits, edited. They remain to be [passed](Self::pass).
    pub(super) fn edit<'e>(&self, bytes: &[u8], edited: &'e mut [u8], edits: &Edits) -> &'e [u8] {
        let mut position = *self;
        let len = bytes.len().min(edited.len());
        for (to, from) in edited.iter_mut().zip(bytes) {
            *to = position.next(*from, Some(edits));
        }
        &edited[..len]
    }

    /// Goes on behind `bytes`.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.next(*byte, None);
        }
    }

    /// Goes on behind `byte`, and returns what should be written for it.
    fn next(&mut self, byte: u8, edits: Option<&Edits>) -> u8 {
        let mut edited = byte;
        *self = match *self {
            Self::Kind if byte >> 4 == CONNECT => Self::Length,
            Self::Length if byte & 0x80 != 0 => Self::Length,
            Self::Length => Self::Head(HEAD),
            Self::Head(left @ 2..) => {
                if let (FLAGS, Some(edits)) = (left, edits) {
                    edited = edits.flags(byte);
                }
                Self::Head(left - 1)
            }
            Self::Head(_) => Self::PropertiesLength { value: 0, shift: 0 },
            Self::PropertiesLength { value, shift } => {
                let value = value | usize::from(byte & 0x7f) << shift;
                match (byte & 0x80 != 0, shift) {
                    (true, 0..21) => Self::PropertiesLength {
                        value,
                        shift: shift + 7,
                    },
                    (true, _) => Self::Done,
                    (false, _) => Self::properties(value, Properties::new(), 0),
                }
            }
            Self::Properties {
                left,
                mut properties,
                index,
            } => match properties.take(byte) {
                Ok(Byte::Value(MAXIMUM_PACKET_SIZE)) => {
                    if let Some(edits) = edits {
                        edited = edits.max_packet.to_be_bytes()[usize::from(index & 3)];
                    }
                    Self::properties(left - 1, properties, index + 1)
                }
                Ok(_) => Self::properties(left - 1, properties, 0),
                Err(Fault::Malformed) => Self::Done,
            },
            Self::Kind | Self::Done => Self::Done,
        };
        edited
    }

    fn properties(left: usize, properties: Properties, index: u8) -> Self {
        match left {
            0 => Self::Done,
            left => Self::Properties {
                left,
                properties,
                index,
            },
        }
    }
}
