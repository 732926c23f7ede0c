//! One exchange of HTTP/1.1: a request, the redirects that it meets, and a response whose body is
//! handed on piece by piece as it comes in.
//!
//! ```text
//! exchange ─ the time limit
//!   └ follow ─ redirects
//!       └ hop ─ resolve ▸ dial, with TLS or without ▸ send ▸ head ▸ body, in pieces, to Exchange
//! ```
//!
//! httparse reads heads and the sizes of chunks. What it takes is judged by RFC 9112, section 6: of
//! lengths that contradict each other none is believed, and no body is complete that was cut off.
//! A body that ends with the connection is one only where the end can be believed: with TLS, if the
//! port can tell it from a cut.
//!
//! A POST is done with the status of its response, whose body is not read.

mod url;

use crate::{Stack, TlsError};
use core::{
    cell::Cell,
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Duration,
};
use embassy_time::{Instant, Timer, with_deadline};
use embedded_io_async::{ErrorKind, Read, Write};
use embedded_nal_async::AddrType;
use proplet::engine::{Text, text};
use url::Url;

/// Most bytes of a URL that is asked for. One that a redirect leads to may have half the buffer.
pub const URL_MAX: usize = 512;

/// Most redirects of an exchange.
const REDIRECTS_MAX: usize = 10;

/// Most fields in a response's head. Each takes four words of the stack while a head is read.
const FIELDS_MAX: usize = 48;

/// Method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Without a body.
    Get,
    /// With one of JSON.
    Post,
}

/// What a response may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// A module: application/wasm or application/octet-stream, or what has no type.
    Module,
    /// Whatever comes.
    Any,
}

/// What is asked of a server.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// `http://` or `https://`, at most [`URL_MAX`] bytes of printable ASCII, without a user name.
    pub url: &'a str,
    /// Bytes of the body of a [`Method::Post`].
    pub body_len: usize,
    /// What the response to a [`Method::Get`] may hold.
    pub accept: Accept,
    /// Most bytes of that response's body.
    pub limit: usize,
}

/// Where the parts of an exchange come from and go. What this returns as an error ends the exchange
/// and is its error.
pub trait Exchange {
    /// Copies the request's body from `offset` on into `to`, as much as there is; how much. It is
    /// asked from the beginning again after a redirect.
    fn body(&mut self, offset: usize, to: &mut [u8]) -> usize;

    /// The response to a GET is good, and its body of so many bytes, if the server says, begins. At
    /// most once, and never with more than the request's limit.
    ///
    /// # Errors
    /// Why nobody can take it.
    fn begin(&mut self, length: Option<usize>) -> Result<(), Text>;

    /// More of the body; all in all never more than the request's limit, or than was announced.
    ///
    /// # Errors
    /// Why nobody can take it.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Text>;
}

/// Carries out an exchange, over as many connections as there are redirects, each of which is closed
/// before the next one is made. Follows up to ten of 301, 302, 303, 307 and 308, but none from https
/// to http, and with a body only 307 and 308.
///
/// `timeout` bounds the whole of it. A request's head and a response's must fit into `buf` (1.5 to
/// 2 KiB on a device), beside the URL if that is a redirect's; bodies pass through it. Whatever the
/// server does, the future pauses after each read and write. Dropping it closes the connection.
///
/// # Errors
/// What failed, for the person who wants the response. The body was complete, or the POST was taken,
/// only if there is no error; [`Exchange`] may have been handed some of the body before.
pub async fn exchange<S: Stack>(
    stack: &S,
    request: &Request<'_>,
    exchange: &mut impl Exchange,
    buf: &mut [u8],
    timeout: Duration,
) -> Result<(), Text> {
    let deadline = Instant::now().saturating_add(crate::ticks(timeout));
    let progress = Cell::new(Progress::Request);
    let job = Job {
        stack,
        request,
        exchange,
        progress: &progress,
    };
    match with_deadline(deadline, job.follow(buf)).await {
        Ok(result) => result,
        Err(_) => Err(progress.get().late(timeout)),
    }
}

/// How far an exchange has come.
#[derive(Debug, Clone, Copy)]
enum Progress {
    /// There is no good response yet.
    Request,
    /// So many bytes of its body have come, of so many if the server has said.
    Body(usize, Option<usize>),
}

impl Progress {
    fn late(self, timeout: Duration) -> Text {
        let within = Seconds(timeout);
        match self {
            Self::Request => text(format_args!("no answer within {within}")),
            Self::Body(got, Some(of)) => text(format_args!(
                "the server sent {got} of {of} bytes within {within}"
            )),
            Self::Body(got, None) => text(format_args!(
                "the server sent {got} bytes within {within}, and no end of them"
            )),
        }
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

/// An exchange on its way.
struct Job<'a, S, E> {
    stack: &'a S,
    request: &'a Request<'a>,
    exchange: &'a mut E,
    progress: &'a Cell<Progress>,
}

impl<S: Stack, E: Exchange> Job<'_, S, E> {
    async fn follow(mut self, buf: &mut [u8]) -> Result<(), Text> {
        let mut base = Some(self.request.url);
        if self.request.url.len() > URL_MAX {
            let len = self.request.url.len();
            return Err(text(format_args!(
                "the URL has {len} bytes, the limit is {URL_MAX}"
            )));
        }
        // A redirect's URL has the beginning of the buffer.
        let mut len = 0;
        let mut was_tls = false;
        for _ in 0..=REDIRECTS_MAX {
            let (front, rest) = buf.split_at_mut(len);
            let url = match base {
                Some(url) => url,
                // What is no UTF-8 is not printable ASCII either.
                None => str::from_utf8(front).unwrap_or("\0"),
            };
            let url = Url::parse(url)?;
            if was_tls && !url.tls {
                return Err(text(format_args!(
                    "a redirect from https to http, at {url}, is not followed"
                )));
            }
            was_tls = url.tls;
            let Some(location) = self.hop(&url, rest).await? else {
                return Ok(());
            };
            let location = len + location.start..len + location.end;
            let most = buf.len() / 2;
            len = url::redirect(buf, base.take(), len, location, most)?;
        }
        Err(text(format_args!("too many redirects ({REDIRECTS_MAX})")))
    }

    /// Asks one server. If that sends us elsewhere, the Location is at this place of the buffer.
    async fn hop(&mut self, url: &Url<'_>, buf: &mut [u8]) -> Result<Option<Range<usize>>, Text> {
        let mut io = dial(self.stack, url).await?;
        self.send(url, &mut io, buf).await?;
        let mut incoming = Incoming {
            io: &mut io,
            url,
            buf,
            start: 0,
            end: 0,
        };
        let framing = match incoming.head(self.request).await? {
            Head::Redirect(location) => return Ok(Some(location)),
            Head::Taken => return Ok(None),
            Head::Good(framing) => framing,
        };
        if framing == Framing::Close && url.tls && !self.stack.has_authentic_end() {
            return Err(text(format_args!(
                "{url} does not say where its body ends: over https this proplet needs Content-Length or chunks"
            )));
        }
        let length = match framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::Close => None,
        };
        self.exchange.begin(length)?;
        let mut body = Body {
            exchange: self.exchange,
            progress: self.progress,
            limit: self.request.limit,
            length,
            got: 0,
        };
        body.count(0);
        match framing {
            Framing::Length(length) => incoming.fixed(&mut body, length).await?,
            Framing::Chunked => incoming.chunks(&mut body).await?,
            Framing::Close => incoming.rest(&mut body).await?,
        }
        Ok(None)
    }

    /// Sends the request, and as much as there is room for of its body in one write with the head.
    async fn send(
        &mut self,
        url: &Url<'_>,
        io: &mut impl Write,
        buf: &mut [u8],
    ) -> Result<(), Text> {
        let body_len = match self.request.method {
            Method::Get => 0,
            Method::Post => self.request.body_len,
        };
        let mut len = write_head(self.request, url, buf)?;
        let mut offset = 0;
        loop {
            let most = (body_len - offset).min(buf.len() - len);
            let put = match &mut buf[len..][..most] {
                [] => 0,
                room => self.exchange.body(offset, room).min(most),
            };
            offset += put;
            len += put;
            if len == 0 && offset < body_len {
                return Err(text(format_args!(
                    "the request's body has {offset} of {body_len} bytes"
                )));
            }
            let sent = write_all(io, &buf[..len]).await;
            sent.map_err(|err| broken(url, &err))?;
            if offset == body_len {
                break;
            }
            len = 0;
        }
        io.flush().await.map_err(|err| broken(url, &err))
    }
}

async fn dial<'s, S: Stack>(stack: &'s S, url: &Url<'_>) -> Result<S::Connection<'s>, Text> {
    const NO_TLS: &str = "https needs TLS, which this proplet does not have";
    if url.tls && !stack.has_tls() {
        return Err(text(format_args!("{NO_TLS}")));
    }
    let ip = match url.host.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => {
            let found = stack.get_host_by_name(url.host, AddrType::Either).await;
            found.map_err(|_| text(format_args!("the name of {url} can't be resolved")))?
        }
    };
    let remote = SocketAddr::new(ip, url.port);
    if url.tls {
        let connected = stack.connect_tls(remote, url.host).await;
        connected.map_err(|err| match err {
            TlsError::Unsupported => text(format_args!("{NO_TLS}")),
            TlsError::Failed(err) => undialled(url, &err),
        })
    } else {
        let connected = stack.connect(remote).await;
        connected.map_err(|err| undialled(url, &err))
    }
}

fn undialled(url: &Url<'_>, err: &impl embedded_io_async::Error) -> Text {
    match err.kind() {
        ErrorKind::ConnectionRefused => text(format_args!("{url} refused the connection")),
        ErrorKind::TimedOut => text(format_args!("{url} does not answer")),
        ErrorKind::InvalidData => text(format_args!("no TLS with {url}: {err}")),
        _ => text(format_args!("no connection to {url}: {err}")),
    }
}

fn broken(url: &Url<'_>, err: &impl embedded_io_async::Error) -> Text {
    text(format_args!("the connection to {url} broke: {err}"))
}

/// A part of a buffer that is written to by `write!`.
struct Cursor<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl fmt::Write for Cursor<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.buf.get_mut(self.len..).unwrap_or_default();
        let room = room.get_mut(..s.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}

/// Puts the head of a request into `buf`; its length.
fn write_head(request: &Request<'_>, url: &Url<'_>, buf: &mut [u8]) -> Result<usize, Text> {
    let room = buf.len();
    let mut head = Cursor { buf, len: 0 };
    let method = match request.method {
        Method::Get => "GET",
        Method::Post => "POST",
    };
    let slash = if url.target.starts_with('/') { "" } else { "/" };
    let accept = match request.accept {
        Accept::Module => "application/wasm, application/octet-stream",
        Accept::Any => "*/*",
    };
    let mut write = || {
        write!(
            head,
            "{method} {slash}{} HTTP/1.1\r\n\
             Host: {}\r\n\
             User-Agent: proplet/{}\r\n\
             Accept: {accept}\r\n\
             Accept-Encoding: identity\r\n\
             Connection: close\r\n",
            url.target,
            url.authority(),
            env!("CARGO_PKG_VERSION"),
        )?;
        if request.method == Method::Post {
            write!(
                head,
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                request.body_len
            )?;
        }
        head.write_str("\r\n")
    };
    match write() {
        Ok(()) => Ok(head.len),
        Err(fmt::Error) => Err(text(format_args!(
            "the URL is too long: the request's head has more than {room} bytes"
        ))),
    }
}

async fn write_all<IO: Write>(io: &mut IO, mut bytes: &[u8]) -> Result<(), IO::Error> {
    while !bytes.is_empty() {
        let n = io.write(bytes).await?;
        bytes = &bytes[n..];
        pause().await;
    }
    Ok(())
}

/// Lets others have their turn, and the time limit be seen, where the peer is always ready.
async fn pause() {
    Timer::after_ticks(0).await;
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    /// The connection ends.
    Close,
}

/// What the head of a response says.
#[derive(Debug)]
enum Head {
    /// The response is good, and its body is ours.
    Good(Framing),
    /// The POST is done, whatever else the response says.
    Taken,
    /// The request is to go elsewhere; the Location is at this place of what was read.
    Redirect(Range<usize>),
}

/// A head at the beginning of `bytes`, with its length; `None` in place of the head if the response
/// follows after this one, and of both if it is not complete.
///
/// Never inlined: its table of fields is not to be part of the stack of all that waits.
#[inline(never)]
fn read_head(
    bytes: &[u8],
    request: &Request<'_>,
    url: &Url<'_>,
) -> Result<Option<(usize, Option<Head>)>, Text> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(text(format_args!(
                "the response of {url} has more than {FIELDS_MAX} headers"
            )));
        }
        Err(err) => {
            return Err(text(format_args!(
                "what {url} answers is no HTTP response: {err}"
            )));
        }
    };
    let status = response.code.unwrap_or_default();
    let head = match (status, request.method) {
        (200..=299, Method::Get) => Head::Good(framing(status, response.headers, request)?),
        (200..=299, Method::Post) => Head::Taken,
        // 101 is the end of HTTP, and nobody asked for it.
        (100 | 102..=199, _) => return Ok(Some((len, None))),
        (301..=303, Method::Post) => {
            return Err(text(format_args!(
                "HTTP {status} from {url}: a POST is redirected by 307 and 308 only"
            )));
        }
        (301..=303 | 307 | 308, _) => {
            let mut fields = response.headers.iter();
            let location = fields
                .find(|field| is(field, "location"))
                .ok_or_else(|| text(format_args!("HTTP {status} from {url} without a Location")))?;
            let start = location.value.as_ptr() as usize - bytes.as_ptr() as usize;
            Head::Redirect(start..start + location.value.len())
        }
        _ => return Err(text(format_args!("HTTP {status} from {url}"))),
    };
    Ok(Some((len, Some(head))))
}

fn is(field: &httparse::Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

fn framing(
    status: u16,
    fields: &[httparse::Header<'_>],
    request: &Request<'_>,
) -> Result<Framing, Text> {
    let mut length = None;
    let mut chunked = false;
    for field in fields {
        let value = field.value.trim_ascii();
        let shown = str::from_utf8(value).unwrap_or("?");
        if is(field, "content-length") {
            let new = parse_length(value)
                .ok_or_else(|| text(format_args!("Content-Length '{shown:.64}' is no number")))?;
            let old = *length.get_or_insert(new);
            if old != new {
                return Err(text(format_args!(
                    "the response has two lengths, {old} and {new}"
                )));
            }
        } else if is(field, "transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(text(format_args!(
                    "transfer coding {shown:.64}: expected chunked, once"
                )));
            }
            chunked = true;
        } else if is(field, "content-encoding") && !value.eq_ignore_ascii_case(b"identity") {
            return Err(text(format_args!(
                "content coding {shown:.64}: expected none"
            )));
        } else if is(field, "content-type") && request.accept == Accept::Module && !is_module(shown)
        {
            return Err(text(format_args!(
                "content type {shown:.64} is no module: expected application/wasm or application/octet-stream"
            )));
        }
    }
    match length {
        // RFC 9110: neither has a body.
        _ if status == 204 || status == 205 => Ok(Framing::Length(0)),
        Some(_) if chunked => Err(text(format_args!(
            "the response has both Content-Length and Transfer-Encoding"
        ))),
        Some(length) if length > request.limit => {
            let limit = request.limit;
            Err(text(format_args!(
                "the body of {length} bytes is larger than the limit of {limit}"
            )))
        }
        Some(length) => Ok(Framing::Length(length)),
        None if chunked => Ok(Framing::Chunked),
        None => Ok(Framing::Close),
    }
}

/// A number without a sign; what is too large for us is too large for any limit.
fn parse_length(digits: &[u8]) -> Option<usize> {
    let digits = str::from_utf8(digits).ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(usize::MAX))
}

fn is_module(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim_ascii();
    ["application/wasm", "application/octet-stream"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

/// The body on its way to its receiver.
struct Body<'a, E> {
    exchange: &'a mut E,
    progress: &'a Cell<Progress>,
    limit: usize,
    length: Option<usize>,
    /// Bytes that were handed on.
    got: usize,
}

impl<E> Body<'_, E> {
    fn count(&mut self, bytes: usize) {
        self.got += bytes;
        self.progress.set(Progress::Body(self.got, self.length));
    }

    fn too_large(&self) -> Text {
        let limit = self.limit;
        text(format_args!(
            "the body is larger than the limit of {limit} bytes"
        ))
    }
}

/// What comes in over a connection.
struct Incoming<'a, IO> {
    io: &'a mut IO,
    url: &'a Url<'a>,
    buf: &'a mut [u8],
    /// What of the buffer is still to be used.
    start: usize,
    end: usize,
}

impl<IO: Read> Incoming<'_, IO> {
    fn unread(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Whether there is no room for more beside what is unread.
    fn is_full(&self) -> bool {
        self.end - self.start == self.buf.len()
    }

    /// Reads more; zero bytes are the end of the connection. Moves what is unread to the beginning.
    async fn fill(&mut self) -> Result<usize, Text> {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let read = self.io.read(&mut self.buf[self.end..]).await;
        let n = read.map_err(|err| broken(self.url, &err))?;
        self.end += n;
        pause().await;
        Ok(n)
    }

    async fn head(&mut self, request: &Request<'_>) -> Result<Head, Text> {
        loop {
            if let Some((len, head)) = read_head(self.unread(), request, self.url)? {
                let start = self.start;
                self.start += len;
                match head {
                    None => continue,
                    Some(Head::Redirect(at)) => {
                        return Ok(Head::Redirect(start + at.start..start + at.end));
                    }
                    Some(other) => return Ok(other),
                }
            }
            if self.is_full() {
                let room = self.buf.len();
                return Err(text(format_args!(
                    "response headers are larger than {room} bytes"
                )));
            }
            if self.fill().await? == 0 {
                let place = match self.unread() {
                    [] => "before its answer",
                    _ => "within the head of its answer",
                };
                let url = self.url;
                return Err(text(format_args!("{url} closed the connection {place}")));
            }
        }
    }

    /// Hands on the next `most` bytes, or as many as come before the connection ends; how many.
    async fn copy(
        &mut self,
        body: &mut Body<'_, impl Exchange>,
        most: usize,
    ) -> Result<usize, Text> {
        let mut left = most;
        while left > 0 {
            if self.unread().is_empty() && self.fill().await? == 0 {
                break;
            }
            let n = left.min(self.unread().len());
            body.exchange.bytes(&self.unread()[..n])?;
            self.start += n;
            left -= n;
            body.count(n);
        }
        Ok(most - left)
    }

    /// A body of known length. What comes behind it is nobody's.
    async fn fixed(
        &mut self,
        body: &mut Body<'_, impl Exchange>,
        length: usize,
    ) -> Result<(), Text> {
        match self.copy(body, length).await? {
            got if got < length => Err(text(format_args!(
                "the server sent {got} of {length} bytes"
            ))),
            _ => Ok(()),
        }
    }

    /// A body that ends with the connection.
    async fn rest(&mut self, body: &mut Body<'_, impl Exchange>) -> Result<(), Text> {
        let got = self.copy(body, body.limit).await?;
        let is_over = got < body.limit || (self.unread().is_empty() && self.fill().await? == 0);
        is_over.then_some(()).ok_or_else(|| body.too_large())
    }

    /// A body in chunks, with the trailer behind it.
    async fn chunks(&mut self, body: &mut Body<'_, impl Exchange>) -> Result<(), Text> {
        loop {
            let size = chunk_size(self.line(body.got).await?)?;
            if size == 0 {
                break;
            }
            if size > body.limit - body.got {
                return Err(body.too_large());
            }
            if self.copy(body, size).await? < size {
                return Err(cut_off(body.got));
            }
            if self.line(body.got).await? != b"\r\n" {
                return Err(text(format_args!(
                    "a chunk is longer than its size of {size} bytes"
                )));
            }
        }
        while self.line(body.got).await? != b"\r\n" {}
        Ok(())
    }

    /// The next line, with its end.
    async fn line(&mut self, got: usize) -> Result<&[u8], Text> {
        loop {
            let unread = self.unread();
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line = self.start..self.start + end + 1;
                self.start = line.end;
                return Ok(&self.buf[line]);
            }
            if self.is_full() {
                let room = self.buf.len();
                return Err(text(format_args!(
                    "a line of the chunked body is larger than {room} bytes"
                )));
            }
            if self.fill().await? == 0 {
                return Err(cut_off(got));
            }
        }
    }
}

fn cut_off(got: usize) -> Text {
    text(format_args!(
        "the server cut the chunked body off after {got} bytes"
    ))
}

/// The size in a chunk's first line; what is too large for us is too large for any limit.
fn chunk_size(line: &[u8]) -> Result<usize, Text> {
    // httparse takes no digits for zero.
    let begins = line.first().is_some_and(u8::is_ascii_hexdigit);
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((len, size))) if begins && len == line.len() => {
            Ok(usize::try_from(size).unwrap_or(usize::MAX))
        }
        _ => Err(text(format_args!(
            "the chunked body has a chunk without a size"
        ))),
    }
}
