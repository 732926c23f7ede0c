//! One exchange of HTTP/1.1: a request, the redirects that it meets, and a response whose body is
//! handed on piece by piece as it comes in.
//!
//! ```text
//! exchange ─ the time limit
//!   └ follow ─ redirects
//!       └ hop ─ resolve ▸ connect, with TLS or without ▸ send ▸ head ▸ body, in pieces, to `receive`
//! ```
//!
//! httparse reads heads and the sizes of chunks. Their meaning is RFC 9112's, section 6: of lengths
//! that contradict each other none is believed, and no body is complete that was cut off. A body that
//! ends with the connection is one only where the end can be believed: with TLS, if the port can tell
//! it from a cut.
//!
//! A POST is done with the status of its response, whose body is not read.

mod body;
mod error;
mod head;
mod url;

pub use error::{Awaited, Error, ErrorKind, Quote, ResponseError};

use crate::stack::{Stack, TlsError};
use body::{Body, Incoming, pause};
use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use embassy_time::{Instant, with_deadline};
use embedded_io_async::Write;
use embedded_nal_async::{AddrType, TcpConnect};
use error::REDIRECTS_MAX;
use head::{Framing, Outcome};
use proplet::http::{Method, Part, Request};
use url::ParsedUrl;

/// Error of an exchange over the network `S`.
pub type ExchangeError<'e, R, S> = Error<'e, R, NetworkError<S>>;

type NetworkError<S> = <S as TcpConnect>::Error;

type Result<T, R, N> = core::result::Result<T, ErrorKind<R, N>>;

/// Carries out an exchange, over as many connections as there are redirects, each of which is closed
/// before the next one is made. Follows up to ten of 301, 302, 303, 307 and 308, but none from https
/// to http, and with a body only 307 and 308.
///
/// `body` copies the body of a POST from an offset on, as much as there is room for, and returns how
/// much; it is asked from the beginning again after a redirect. `receive` is given [`Part::Begin`] at
/// most once, and never with more than the request's limit, and then [`Part::Bytes`], which never are
/// more than the limit or than was announced; an error of it ends the exchange.
///
/// `timeout` bounds the whole of it. A request's head and a response's must fit into `buf` (1.5 to
/// 2 KiB on a device), beside the URL if that is a redirect's, which may have half of it; bodies pass
/// through it. Whatever the server does, the future pauses after each read and write. Dropping it
/// closes the connection.
///
/// # Errors
/// The failure, for the person who wants the response. The body was complete, or the POST was taken,
/// only if there is no error; `receive` may have been handed some of the body before.
pub async fn exchange<'e, S: Stack, R>(
    stack: &S,
    request: &'e Request,
    body: impl FnMut(usize, &mut [u8]) -> usize,
    receive: impl FnMut(Part<'_>) -> core::result::Result<(), R>,
    buf: &'e mut [u8],
    timeout: Duration,
) -> core::result::Result<(), ExchangeError<'e, R, S>> {
    let deadline = Instant::now().saturating_add(crate::time::ticks(timeout));
    let mut transfer = Transfer {
        stack,
        request,
        body,
        receive,
        redirect: 0,
        awaited: Awaited::Head,
    };
    let result = with_deadline(deadline, transfer.follow(buf)).await;
    let kind = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(kind)) => kind,
        Err(_) => ErrorKind::Timeout {
            limit: timeout,
            awaited: transfer.awaited,
        },
    };
    let (redirect, buf) = buf.split_at(transfer.redirect);
    let url = url_of(request, redirect);
    Err(Error { kind, url, buf })
}

/// The URL of a redirect, or without one the request's.
fn url_of<'u>(request: &'u Request, redirect: &'u [u8]) -> &'u str {
    match redirect {
        [] => &request.url,
        // Bytes that are not UTF-8 are not printable ASCII either.
        redirect => str::from_utf8(redirect).unwrap_or("\0"),
    }
}

/// An exchange under way.
struct Transfer<'a, S, B, F> {
    stack: &'a S,
    request: &'a Request,
    body: B,
    receive: F,
    /// Length of the URL that the last redirect has put into the beginning of the buffer; 0 before.
    redirect: usize,
    awaited: Awaited,
}

impl<S, B, F, R> Transfer<'_, S, B, F>
where
    S: Stack,
    B: FnMut(usize, &mut [u8]) -> usize,
    F: FnMut(Part<'_>) -> core::result::Result<(), R>,
{
    async fn follow(&mut self, buf: &mut [u8]) -> Result<(), R, NetworkError<S>> {
        let mut was_tls = false;
        for _ in 0..=REDIRECTS_MAX {
            let (front, rest) = buf.split_at_mut(self.redirect);
            let url = ParsedUrl::parse(url_of(self.request, front)).map_err(|_| ErrorKind::Url)?;
            if was_tls && !url.tls {
                return Err(ErrorKind::Downgrade);
            }
            was_tls = url.tls;
            let location = match self.hop(&url, rest).await? {
                Some(location) => location.range(self.redirect),
                None => return Ok(()),
            };
            let base = (self.redirect == 0).then_some(&*self.request.url);
            let limit = buf.len() / 2;
            let len = url::redirect(buf, base, self.redirect, location, limit);
            self.redirect = len.map_err(|len| ErrorKind::RedirectLength { len, limit })?;
        }
        Err(ErrorKind::TooManyRedirects)
    }

    /// Asks one server. Returns the place of the Location in `buf`, if the server redirects.
    async fn hop(
        &mut self,
        url: &ParsedUrl<'_>,
        buf: &mut [u8],
    ) -> Result<Option<Quote>, R, NetworkError<S>> {
        let mut io = connect(self.stack, url).await?;
        self.send(url, &mut io, buf).await?;
        let mut incoming = Incoming::new(&mut io, buf);
        let framing = match incoming.head(self.request).await? {
            Outcome::Redirect(location) => return Ok(Some(location)),
            Outcome::Taken => return Ok(None),
            Outcome::Body(framing) => framing,
        };
        if framing == Framing::Close && url.tls && !self.stack.has_authentic_end() {
            return Err(ResponseError::NoEnd.into());
        }
        let len = match framing {
            Framing::Length(len) => Some(len),
            Framing::Chunked | Framing::Close => None,
        };
        (self.receive)(Part::Begin(len)).map_err(ErrorKind::Receiver)?;
        let mut body = Body {
            receive: &mut self.receive,
            awaited: &mut self.awaited,
            limit: self.request.limit,
            len,
            received: 0,
        };
        body.count(0);
        match framing {
            Framing::Length(len) => incoming.fixed(&mut body, len).await?,
            Framing::Chunked => incoming.chunks(&mut body).await?,
            Framing::Close => incoming.rest(&mut body).await?,
        }
        Ok(None)
    }

    /// Sends the request, and as much as there is room for of its body in one write with the head.
    async fn send<IO: Write>(
        &mut self,
        url: &ParsedUrl<'_>,
        io: &mut IO,
        buf: &mut [u8],
    ) -> Result<(), R, IO::Error> {
        let body_len = match self.request.method {
            Method::Get => 0,
            Method::Post { len } => len,
        };
        let room = buf.len();
        let mut len = head::write(self.request, url, buf).ok_or(ErrorKind::RequestHead { room })?;
        let mut offset = 0;
        loop {
            let most = (body_len - offset).min(buf.len() - len);
            let put = match &mut buf[len..][..most] {
                [] => 0,
                room => (self.body)(offset, room).min(most),
            };
            offset += put;
            len += put;
            if len == 0 && offset < body_len {
                return Err(ErrorKind::RequestBody {
                    given: offset,
                    len: body_len,
                });
            }
            let sent = write_all(io, &buf[..len]).await;
            sent.map_err(ErrorKind::Transport)?;
            if offset == body_len {
                break;
            }
            len = 0;
        }
        io.flush().await.map_err(ErrorKind::Transport)
    }
}

/// Connects to the server of a URL.
async fn connect<'s, S: Stack, R>(
    stack: &'s S,
    url: &ParsedUrl<'_>,
) -> Result<S::Connection<'s>, R, NetworkError<S>> {
    if url.tls && !stack.has_tls() {
        return Err(ErrorKind::NoTls);
    }
    let ip = match url.host.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => {
            let found = stack.get_host_by_name(url.host, AddrType::Either).await;
            found.map_err(|_| ErrorKind::Resolve)?
        }
    };
    let remote = SocketAddr::new(ip, url.port);
    if url.tls {
        let connected = stack.connect_tls(remote, url.host).await;
        connected.map_err(|err| match err {
            TlsError::Unsupported => ErrorKind::NoTls,
            TlsError::Failed(err) => ErrorKind::Connect(err),
        })
    } else {
        let connected = stack.connect(remote).await;
        connected.map_err(ErrorKind::Connect)
    }
}

async fn write_all<IO: Write>(
    io: &mut IO,
    mut bytes: &[u8],
) -> core::result::Result<(), IO::Error> {
    while !bytes.is_empty() {
        let n = io.write(bytes).await?;
        bytes = &bytes[n..];
        pause().await;
    }
    Ok(())
}
