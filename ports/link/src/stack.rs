//! What a link stands on.

use embedded_nal_async::{Dns, TcpConnect};

/// A port's network. A connection that fails above TCP, at TLS, fails with
/// [`ErrorKind::InvalidData`](embedded_io_async::ErrorKind::InvalidData).
pub trait Stack: TcpConnect + Dns {
    /// Whether there is a network to dial in. While there is none, the link waits and does not
    /// try; a change must poll the link's task. A port that can't tell says yes.
    fn is_up(&self) -> bool {
        true
    }
}
