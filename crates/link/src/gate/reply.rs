//! Packets for the MQTT client, each as short as it can be.

use super::error::Fault;
use heapless::Vec;

/// Maximum number of bytes of a packet for the MQTT client: a SUBACK with codes for as many filters as
/// fit. A CONNACK needs 18.
pub const PACKET_MAX: usize = 24;

// Its length has one byte.
const _: () = assert!(PACKET_MAX < 0x80);

/// Bytes before the body of a packet.
const FIXED: usize = 2;

/// First byte of a PUBACK.
const PUBACK: u8 = 0x40;

/// A packet for the MQTT client, of which some may have been read.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    bytes: Vec<u8, PACKET_MAX, u8>,
    sent: u8,
}

impl Reply {
    /// A packet that begins with `first` and has this body.
    pub(super) fn new(first: u8, body: &[u8]) -> Result<Self, Fault> {
        let mut reply = Self::default();
        reply.push(&[first, 0])?;
        reply.push(body)?;
        Ok(reply)
    }

    /// A PUBLISH of QoS 1 without properties and payload, for the client to acknowledge.
    pub(super) fn stub(id: u16) -> Self {
        let [high, low] = id.to_be_bytes();
        let body = [0, 1, b'a', high, low, 0];
        Self::new(0x32, &body).unwrap_or_default()
    }

    /// Adds to the body.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.bytes
            .extend_from_slice(bytes)
            .map_err(|_| Fault::Malformed)?;
        self.bytes[1] = self.bytes.len().saturating_sub(FIXED) as u8;
        Ok(())
    }

    /// Adds to the properties, whose length is the third byte of the body.
    pub(super) fn push_property(&mut self, byte: u8) -> Result<(), Fault> {
        self.push(&[byte])?;
        self.bytes[FIXED + 2] += 1;
        Ok(())
    }

    /// The reason code of a PUBACK.
    pub(super) fn puback(&self) -> Option<u8> {
        match *self.bytes {
            [PUBACK, _, _, _] => Some(0),
            [PUBACK, _, _, _, code] => Some(code),
            _ => None,
        }
    }

    pub(super) fn is_read(&self) -> bool {
        usize::from(self.sent) == self.bytes.len()
    }

    /// Reads what is left, as far as it fits.
    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let rest = &self.bytes[usize::from(self.sent)..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.sent += n as u8;
        n
    }
}
