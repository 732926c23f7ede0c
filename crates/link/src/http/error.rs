//! Errors of an exchange, and their words.

use super::url::ParsedUrl;
use core::{fmt, ops::Range, time::Duration};
use embedded_io_async::ErrorKind as IoErrorKind;
use httparse::Error as SyntaxError;

/// Maximum number of redirects of an exchange.
pub(super) const REDIRECTS_MAX: usize = 10;

/// Maximum number of fields in a response's head. Each takes four words of the stack while a head is
/// read.
pub(super) const FIELDS_MAX: usize = 48;

/// Characters of a header's value that are shown.
const SHOWN: usize = 64;

/// Failure of an exchange, displayed for the person who wants the response: a receiver that fails with
/// `R`, a network that fails with `N`.
pub struct Error<'e, R, N> {
    pub(super) kind: ErrorKind<R, N>,
    /// URL that was asked for last.
    pub(super) url: &'e str,
    /// The buffer that the response was read through: a [`Quote`] is a part of it.
    pub(super) buf: &'e [u8],
}

/// Kind of an exchange's failure.
#[derive(Debug)]
pub enum ErrorKind<R, N> {
    /// The URL, the request's or a redirect's, can't be used.
    Url,
    /// A redirect leads from https to http.
    Downgrade,
    /// There are more than ten redirects.
    TooManyRedirects,
    /// The URL of a redirect has `len` bytes.
    RedirectLength {
        /// Its length.
        len: usize,
        /// Maximum length.
        limit: usize,
    },
    /// https is asked for, and the stack has no TLS.
    NoTls,
    /// The server's name has no address.
    Resolve,
    /// There is no connection to the server.
    Connect(N),
    /// The connection failed.
    Transport(N),
    /// The head of the request exceeds the buffer, which has `room` bytes.
    RequestHead {
        /// Bytes of the buffer.
        room: usize,
    },
    /// The source of the request's body ended early.
    RequestBody {
        /// Bytes that it gave.
        given: usize,
        /// Bytes that were announced.
        len: usize,
    },
    /// The response is not what it must be.
    Response(ResponseError),
    /// The time limit has passed.
    Timeout {
        /// The limit.
        limit: Duration,
        /// Part of the response that was awaited then.
        awaited: Awaited,
    },
    /// The receiver of the response's parts failed.
    Receiver(R),
}

/// Fault of a response.
#[derive(Debug)]
pub enum ResponseError {
    /// The connection was closed before the end of the head.
    Closed {
        /// Whether the head had begun.
        in_head: bool,
    },
    /// It is not HTTP.
    Syntax(SyntaxError),
    /// It has more than 48 headers.
    TooManyHeaders,
    /// Its head exceeds the buffer, which has `room` bytes.
    Head {
        /// Bytes of the buffer.
        room: usize,
    },
    /// It is no success.
    Status(u16),
    /// It redirects a POST by a status that does not ask for the same POST elsewhere.
    PostRedirect(u16),
    /// It redirects without saying where to.
    NoLocation(u16),
    /// Content-Length has this value.
    ContentLength(Quote),
    /// Two values of Content-Length contradict each other.
    TwoLengths(usize, usize),
    /// The body has this transfer coding.
    TransferCoding(Quote),
    /// The body has this content coding.
    ContentCoding(Quote),
    /// The body has this type, and a module is expected.
    ContentType(Quote),
    /// It has both Content-Length and Transfer-Encoding.
    LengthAndCoding,
    /// The body ends with a connection whose end can't be told from a cut.
    NoEnd,
    /// The body is announced to exceed the limit.
    BodyLength {
        /// Its length in bytes.
        len: usize,
        /// The request's limit.
        limit: usize,
    },
    /// The body has more bytes than the limit.
    BodyTooLarge {
        /// The request's limit.
        limit: usize,
    },
    /// The connection was closed before the end of the body.
    Truncated {
        /// Bytes that came.
        received: usize,
        /// Bytes that were announced.
        len: usize,
    },
    /// A chunk has no size.
    ChunkSize,
    /// A chunk goes on behind its size.
    ChunkLength {
        /// Its size in bytes.
        size: usize,
    },
    /// A line between the chunks exceeds the buffer, which has `room` bytes.
    ChunkLine {
        /// Bytes of the buffer.
        room: usize,
    },
    /// The connection was closed before the last chunk.
    ChunksTruncated {
        /// Bytes of the body that came.
        received: usize,
    },
}

/// Part of a response that an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The head of a good one.
    Head,
    /// The body.
    Body {
        /// Bytes that have come.
        received: usize,
        /// Bytes that were announced, if they were.
        len: Option<usize>,
    },
}

/// A header's value, by its place in the buffer that the response was read through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    start: u32,
    end: u32,
}

impl Quote {
    /// `part` of the buffer that begins at the address `origin`.
    pub(super) fn new(part: &[u8], origin: usize) -> Self {
        // An empty one may lie anywhere.
        let start = match part {
            [] => 0,
            _ => part.as_ptr() as usize - origin,
        };
        Self {
            start: start as u32,
            end: (start + part.len()) as u32,
        }
    }

    /// Its place in a buffer of which the quoted one is the part from `offset` on.
    pub(super) fn range(self, offset: usize) -> Range<usize> {
        offset + self.start as usize..offset + self.end as usize
    }

    fn of(self, buf: &[u8]) -> &str {
        let bytes = buf.get(self.range(0)).unwrap_or_default();
        str::from_utf8(bytes).unwrap_or("?")
    }
}

impl<R, N> From<ResponseError> for ErrorKind<R, N> {
    fn from(error: ResponseError) -> Self {
        Self::Response(error)
    }
}

impl<R, N> Error<'_, R, N> {
    /// Its kind.
    pub fn kind(&self) -> &ErrorKind<R, N> {
        &self.kind
    }
}

impl<R: fmt::Debug, N: fmt::Debug> fmt::Debug for Error<'_, R, N> {
    /// Without the buffer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Host and port of a URL; of one that can't be parsed, the reason.
struct ShownUrl<'u>(&'u str);

impl fmt::Display for ShownUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ParsedUrl::parse(self.0) {
            Ok(url) => url.fmt(f),
            Err(error) => error.fmt(f),
        }
    }
}

impl<R: fmt::Display, N: embedded_io_async::Error> fmt::Display for Error<'_, R, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = ShownUrl(self.url);
        match &self.kind {
            ErrorKind::Url => url.fmt(f),
            ErrorKind::Downgrade => {
                write!(
                    f,
                    "a redirect from https to http, at {url}, is not followed"
                )
            }
            ErrorKind::TooManyRedirects => write!(f, "too many redirects ({REDIRECTS_MAX})"),
            ErrorKind::RedirectLength { len, limit } => write!(
                f,
                "the redirect leads to a URL of {len} bytes, the limit is {limit}"
            ),
            ErrorKind::NoTls => f.write_str("https needs TLS, which this proplet does not have"),
            ErrorKind::Resolve => write!(f, "the name of {url} can't be resolved"),
            ErrorKind::Connect(err) => match err.kind() {
                IoErrorKind::ConnectionRefused => write!(f, "{url} refused the connection"),
                IoErrorKind::TimedOut => write!(f, "{url} does not answer"),
                IoErrorKind::InvalidData => write!(f, "no TLS with {url}: {err}"),
                _ => write!(f, "no connection to {url}: {err}"),
            },
            ErrorKind::Transport(err) => write!(f, "the connection to {url} broke: {err}"),
            ErrorKind::RequestHead { room } => write!(
                f,
                "the URL is too long: the request's head has more than {room} bytes"
            ),
            ErrorKind::RequestBody { given, len } => {
                write!(f, "the request's body has {given} of {len} bytes")
            }
            ErrorKind::Response(error) => error.fmt(&url, self.buf, f),
            ErrorKind::Timeout { limit, awaited } => late(*awaited, *limit, f),
            ErrorKind::Receiver(error) => error.fmt(f),
        }
    }
}

impl<R, N> core::error::Error for Error<'_, R, N>
where
    R: fmt::Debug + fmt::Display,
    N: embedded_io_async::Error,
{
}

impl ResponseError {
    fn fmt(&self, url: &ShownUrl<'_>, buf: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Closed { in_head } => {
                let place = match in_head {
                    false => "before its answer",
                    true => "within the head of its answer",
                };
                write!(f, "{url} closed the connection {place}")
            }
            Self::Syntax(err) => write!(f, "what {url} answers is no HTTP response: {err}"),
            Self::TooManyHeaders => {
                write!(
                    f,
                    "the response of {url} has more than {FIELDS_MAX} headers"
                )
            }
            Self::Head { room } => write!(f, "response headers are larger than {room} bytes"),
            Self::Status(status) => write!(f, "HTTP {status} from {url}"),
            Self::PostRedirect(status) => write!(
                f,
                "HTTP {status} from {url}: a POST is redirected by 307 and 308 only"
            ),
            Self::NoLocation(status) => {
                write!(f, "HTTP {status} from {url} without a Location")
            }
            Self::ContentLength(value) => {
                write!(f, "Content-Length '{:.SHOWN$}' is no number", value.of(buf))
            }
            Self::TwoLengths(old, new) => {
                write!(f, "the response has two lengths, {old} and {new}")
            }
            Self::TransferCoding(value) => write!(
                f,
                "transfer coding {:.SHOWN$}: expected chunked, once",
                value.of(buf)
            ),
            Self::ContentCoding(value) => {
                write!(f, "content coding {:.SHOWN$}: expected none", value.of(buf))
            }
            Self::ContentType(value) => write!(
                f,
                "content type {:.SHOWN$} is no module: expected application/wasm or application/octet-stream",
                value.of(buf)
            ),
            Self::LengthAndCoding => {
                f.write_str("the response has both Content-Length and Transfer-Encoding")
            }
            Self::NoEnd => write!(
                f,
                "{url} does not say where its body ends: over https this proplet needs Content-Length or chunks"
            ),
            Self::BodyLength { len, limit } => write!(
                f,
                "the body of {len} bytes is larger than the limit of {limit}"
            ),
            Self::BodyTooLarge { limit } => {
                write!(f, "the body is larger than the limit of {limit} bytes")
            }
            Self::Truncated { received, len } => {
                write!(f, "the server sent {received} of {len} bytes")
            }
            Self::ChunkSize => f.write_str("the chunked body has a chunk without a size"),
            Self::ChunkLength { size } => {
                write!(f, "a chunk is longer than its size of {size} bytes")
            }
            Self::ChunkLine { room } => {
                write!(f, "a line of the chunked body is larger than {room} bytes")
            }
            Self::ChunksTruncated { received } => write!(
                f,
                "the server cut the chunked body off after {received} bytes"
            ),
        }
    }
}

fn late(awaited: Awaited, limit: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let within = Seconds(limit);
    match awaited {
        Awaited::Head => write!(f, "no answer within {within}"),
        Awaited::Body {
            received,
            len: Some(len),
        } => {
            write!(
                f,
                "the server sent {received} of {len} bytes within {within}"
            )
        }
        Awaited::Body {
            received,
            len: None,
        } => write!(
            f,
            "the server sent {received} bytes within {within}, and no end of them"
        ),
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{} s", self.0.as_secs()),
            _ => write!(f, "{} ms", self.0.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::convert::Infallible;

    /// It is returned through each future of an exchange.
    #[test]
    fn an_error_is_small() {
        let words = size_of::<Error<'_, Infallible, Infallible>>() / size_of::<usize>();
        assert!(words <= 10, "{words} words");
    }
}
