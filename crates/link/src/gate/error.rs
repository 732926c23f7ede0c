//! Failures of a gate.

use core::fmt;
use embedded_io_async::ErrorKind;

/// Failure of a [`Gate`](super::Gate). Each of these ends the connection.
#[derive(Debug)]
pub enum Error<E> {
    /// The transport below failed.
    Transport(E),
    /// Nothing could be written for as long as the owner waits.
    Stalled,
    /// The peer has broken the protocol.
    Fault(Fault),
}

/// Breach of the protocol by the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A packet is malformed, or has no place where it came.
    Malformed,
}

impl<E> From<Fault> for Error<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<E: fmt::Debug> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(err) => write!(f, "{err:?}"),
            Self::Stalled => f.write_str("the peer has stopped reading"),
            Self::Fault(Fault::Malformed) => f.write_str("a malformed packet"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}

impl<E: embedded_io_async::Error> embedded_io_async::Error for Error<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Transport(err) => err.kind(),
            Self::Stalled => ErrorKind::TimedOut,
            Self::Fault(_) => ErrorKind::InvalidData,
        }
    }
}
