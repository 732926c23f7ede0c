//! Reasons for which there is no connection to the broker.

use crate::gate::{self, Fault, PeerActivity};
use core::fmt;
use embedded_io_async::ErrorKind;
use log::{debug, warn};
use minimq::{Error, PeerError};

/// Failure to connect to the broker, or loss of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionError {
    /// The broker's name has no address.
    Resolve,
    /// There is no TCP connection to its address.
    Dial,
    /// There is a TCP connection, and no TLS on it.
    Tls,
    /// It did not answer in time.
    Timeout,
    /// It refused the connection, for this MQTT reason code.
    Refused(u8),
    /// It refused a subscription, for this MQTT reason code.
    Subscription(u8),
    /// It closed the connection behind the CONNECT, without a byte.
    Unanswered,
    /// It closed the connection, for this MQTT reason code if it named one.
    Closed(Option<u8>),
    /// It resumed a session, where a new one was asked for.
    SessionPresent,
    /// It has gone silent.
    Silent,
    /// It has stopped reading.
    Stalled,
    /// The transport failed.
    Transport,
    /// It broke the protocol.
    Protocol,
    /// It sent more messages before their acknowledgement than it was told to.
    ReceiveMaximum,
    /// The send buffer is too small for a packet that has to go.
    Buffer,
}

impl ConnectionError {
    /// The meaning of an error of minimq, over a transport with this activity.
    pub(crate) fn new<E: embedded_io_async::Error>(
        error: &Error<gate::Error<E>>,
        activity: &PeerActivity,
    ) -> Self {
        match error {
            Error::Disconnected => match activity.reason_code.get() {
                // minimq gave up waiting for the answer to its ping.
                None if !activity.closed.get() => Self::Silent,
                None if !activity.has_spoken.get() => Self::Unanswered,
                code => Self::Closed(code),
            },
            Error::Transport(gate::Error::Stalled) => Self::Stalled,
            Error::Transport(gate::Error::Fault(Fault::Malformed)) => Self::Protocol,
            // With TLS 1.3 a refusal of our certificate comes after the handshake.
            Error::Transport(gate::Error::Transport(error))
                if error.kind() == ErrorKind::InvalidData =>
            {
                warn!("{error}");
                Self::Tls
            }
            Error::Transport(gate::Error::Transport(error)) => {
                debug!("{:?}: {error:?}", error.kind());
                Self::Transport
            }
            Error::Peer(PeerError::Rejected(code)) => Self::Refused((*code).into()),
            Error::Peer(_) => Self::Protocol,
            Error::Resource(_) => Self::Buffer,
            _ => Self::Transport,
        }
    }

    /// Whether the broker has ended the connection because of a packet that it was sent.
    pub(crate) const fn is_bad_packet(self) -> bool {
        matches!(self, Self::Closed(Some(0x81 | 0x82 | 0x90 | 0x95 | 0x99)))
    }
}

/// An MQTT reason code: its meaning and a remedy, and itself.
pub(crate) struct Reason(pub(crate) u8);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#04x})", words(self.0), self.0)
    }
}

fn words(code: u8) -> &'static str {
    match code {
        0x10 => "nobody is subscribed to it",
        0x80 => "unspecified error",
        0x81 | 0x82 => "the broker holds our packet for malformed",
        0x83 => "implementation specific error",
        0x01 | 0x84 => "no MQTT 5 here: use the broker's MQTT 5 port",
        0x85 => "it does not like the client id, which is the proplet id",
        0x86 => "bad user name or password: check the proplet id and the API key",
        0x87 => "not authorised: check the proplet id, the API key and the channel's permissions",
        0x88 => "the server is unavailable",
        0x89 => "the server is busy",
        0x8a => "banned: ask the broker's administrator",
        0x8b => "the server is shutting down",
        0x8c => "bad authentication method",
        0x8d => "it missed our keep-alive",
        0x8e => "session taken over: another client uses the same proplet id",
        0x8f => "the topic filter is invalid: check tenant and channel",
        0x90 => "the topic is invalid: check tenant and channel",
        0x93 => "too many messages at once",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x9b => "the quality of service is not supported",
        0x9c | 0x9d => "use another server",
        0x9f => "connection rate exceeded",
        0xa0 => "the longest time for a connection has passed",
        // MQTT 3.1.1's return codes 2 to 5, from a broker that speaks nothing else.
        0x02..=0x05 => "refused by an MQTT 3.1.1 broker: use its MQTT 5 port",
        _ => "no known reason",
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Resolve => {
                f.write_str("the broker's name can't be resolved: check it and the name server")
            }
            Self::Dial => {
                f.write_str("no TCP connection to the broker: check its address and port")
            }
            Self::Tls => f.write_str(
                "no TLS with the broker: check the certificates, and that the port speaks TLS",
            ),
            Self::Timeout => f.write_str("the broker does not answer"),
            Self::Refused(code) => {
                write!(f, "the broker refuses us: {}", Reason(code))
            }
            Self::Subscription(code) => {
                write!(
                    f,
                    "the broker refuses a subscription: {}", Reason(code)
                )
            }
            Self::Closed(Some(code)) => {
                write!(
                    f,
                    "the broker closed the connection: {}", Reason(code)
                )
            }
            Self::Closed(None) => f.write_str("the broker closed the connection"),
            Self::Unanswered => f.write_str(
                "the broker closed the connection behind our CONNECT, without an answer: does its port speak MQTT 5 (FluxMQ: 1884, not 1883; RabbitMQ from 3.13 on)? Are the proplet id and the API key right?",
            ),
            Self::SessionPresent => {
                f.write_str("the broker breaks the protocol: it resumes a session where we asked for a new one")
            }
            Self::Silent => f.write_str("the broker has gone silent"),
            Self::Stalled => f.write_str("the broker has stopped reading"),
            Self::Transport => f.write_str("the connection broke"),
            Self::Protocol => f.write_str("the peer does not speak MQTT 5 as it should"),
            Self::ReceiveMaximum => {
                f.write_str("the broker is to send what was more than we take at once")
            }
            Self::Buffer => f.write_str("the send buffer is too small"),
        }
    }
}

impl ConnectionError {
    /// As a number other than 0.
    pub(crate) fn pack(self) -> u16 {
        let (kind, code) = match self {
            Self::Resolve => (1, 0),
            Self::Dial => (2, 0),
            Self::Timeout => (3, 0),
            Self::Refused(code) => (4, code),
            Self::Subscription(code) => (5, code),
            Self::Closed(Some(code)) => (6, code),
            Self::Closed(None) => (7, 0),
            Self::Silent => (8, 0),
            Self::Stalled => (9, 0),
            Self::Transport => (10, 0),
            Self::Protocol => (11, 0),
            Self::Buffer => (12, 0),
            Self::Tls => (13, 0),
            Self::ReceiveMaximum => (14, 0),
            Self::Unanswered => (15, 0),
            Self::SessionPresent => (16, 0),
        };
        u16::from_be_bytes([kind, code])
    }

    pub(crate) fn unpack(packed: u16) -> Option<Self> {
        let [kind, code] = packed.to_be_bytes();
        Some(match kind {
            1 => Self::Resolve,
            2 => Self::Dial,
            3 => Self::Timeout,
            4 => Self::Refused(code),
            5 => Self::Subscription(code),
            6 => Self::Closed(Some(code)),
            7 => Self::Closed(None),
            8 => Self::Silent,
            9 => Self::Stalled,
            10 => Self::Transport,
            11 => Self::Protocol,
            12 => Self::Buffer,
            13 => Self::Tls,
            14 => Self::ReceiveMaximum,
            15 => Self::Unanswered,
            16 => Self::SessionPresent,
            _ => return None,
        })
    }
}

/// The link has shut down.
pub(crate) struct Stopped;

/// Reason for the end of a connection, or of an attempt to make one.
pub(crate) enum CloseReason {
    Stopped,
    Failed(ConnectionError),
}

impl From<Stopped> for CloseReason {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<ConnectionError> for CloseReason {
    fn from(error: ConnectionError) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_packing() {
        for error in [
            ConnectionError::Resolve,
            ConnectionError::Refused(0x86),
            ConnectionError::Closed(None),
            ConnectionError::Closed(Some(0)),
            ConnectionError::Buffer,
            ConnectionError::Tls,
            ConnectionError::ReceiveMaximum,
            ConnectionError::Unanswered,
            ConnectionError::SessionPresent,
        ] {
            assert_eq!(ConnectionError::unpack(error.pack()), Some(error));
        }
    }
}
