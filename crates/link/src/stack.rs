//! The network below a link.

use core::{fmt, future::Future, net::SocketAddr};
use embedded_io_async::ErrorKind;
use embedded_nal_async::{Dns, TcpConnect};

/// A port's network. A connection that fails above TCP, at TLS, fails with
/// [`ErrorKind::InvalidData`], and displays why.
pub trait Stack: TcpConnect + Dns {
    /// Whether there is a network. Without one, the link waits and does not
    /// try; a change must poll the link's task. A port that can't tell says yes.
    fn is_up(&self) -> bool {
        true
    }

    /// Whether [`connect_tls`](Self::connect_tls) is supported and has its certificates.
    fn has_tls(&self) -> bool {
        false
    }

    /// Whether the end of a connection with TLS on it is the peer's: it is read as an end only if the
    /// peer has announced it (close_notify), and one that is cut off fails. A port that can't tell
    /// says no; then no body over https may end with its connection.
    fn has_authentic_end(&self) -> bool {
        false
    }

    /// Connects to `remote`, and shakes hands with the owner of a certificate for `host`, a name
    /// or an address without brackets, that an authority has signed which this port trusts. As
    /// safe to drop as [`TcpConnect::connect`].
    ///
    /// # Errors
    /// [`TlsError::Unsupported`] of a port that has no TLS: this default.
    fn connect_tls(
        &self,
        remote: SocketAddr,
        host: &str,
    ) -> impl Future<Output = Result<Self::Connection<'_>, TlsError<<Self as TcpConnect>::Error>>>
    {
        let _ = (remote, host);
        core::future::ready(Err(TlsError::Unsupported))
    }
}

/// Failure to make a connection with TLS on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsError<E> {
    /// The port has no TLS.
    Unsupported,
    /// There is no connection, or no TLS on it.
    Failed(E),
}

impl<E: fmt::Display> fmt::Display for TlsError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("this proplet has no TLS"),
            Self::Failed(err) => err.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for TlsError<E> {}

impl<E: embedded_io_async::Error> embedded_io_async::Error for TlsError<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported => ErrorKind::Unsupported,
            Self::Failed(err) => err.kind(),
        }
    }
}

impl<E> From<E> for TlsError<E> {
    fn from(err: E) -> Self {
        Self::Failed(err)
    }
}
