//! Heads: a request's as it is written, a response's as it is read.

use super::{
    error::{FIELDS_MAX, Quote, ResponseError},
    url::ParsedUrl,
};
use core::fmt::{self, Write as _};
use proplet::http::{Accept, Method, Request};

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length in bytes.
    Length(usize),
    /// By a last chunk.
    Chunked,
    /// By the connection's end.
    Close,
}

/// Outcome of a request, by the head of its response.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The response to a GET is good, and its body follows.
    Body(Framing),
    /// The POST is done, whatever else the response says.
    Taken,
    /// The request must go to the URL at this place of the buffer.
    Redirect(Quote),
}

/// Writes the head of a request into `buf` and returns its length; `None` if it does not fit.
pub(super) fn write(request: &Request, url: &ParsedUrl<'_>, buf: &mut [u8]) -> Option<usize> {
    let mut head = Cursor { buf, len: 0 };
    head.request(request, url).ok()?;
    Some(head.len)
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

impl Cursor<'_> {
    fn request(&mut self, request: &Request, url: &ParsedUrl<'_>) -> fmt::Result {
        let method = match request.method {
            Method::Get => "GET",
            Method::Post { .. } => "POST",
        };
        let slash = if url.target.starts_with('/') { "" } else { "/" };
        let accept = match request.accept {
            Accept::Module => "application/wasm, application/octet-stream",
            Accept::Any => "*/*",
        };
        write!(
            self,
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
        if let Method::Post { len } = request.method {
            write!(
                self,
                "Content-Type: application/json\r\nContent-Length: {len}\r\n"
            )?;
        }
        self.write_str("\r\n")
    }
}

/// Reads a head at the beginning of `bytes`, a part of the buffer at the address `origin`, and returns
/// its length; `None` in place of the outcome if the response follows after this head, and of both if
/// it is not complete.
///
/// Never inlined: its table of fields is not to be part of the stack of all that waits.
#[inline(never)]
pub(super) fn read(
    bytes: &[u8],
    origin: usize,
    request: &Request,
) -> Result<Option<(usize, Option<Outcome>)>, ResponseError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooManyHeaders),
        Err(err) => return Err(ResponseError::Syntax(err)),
    };
    let status = response.code.unwrap_or_default();
    let outcome = match (status, request.method) {
        (200..=299, Method::Get) => {
            Outcome::Body(framing(status, response.headers, origin, request)?)
        }
        (200..=299, Method::Post { .. }) => Outcome::Taken,
        // 101 is the end of HTTP, and was not asked for.
        (100 | 102..=199, _) => return Ok(Some((len, None))),
        (301..=303, Method::Post { .. }) => return Err(ResponseError::PostRedirect(status)),
        (301..=303 | 307 | 308, _) => {
            let mut fields = response.headers.iter();
            let location = fields.find(|field| is(field, "location"));
            let location = location.ok_or(ResponseError::NoLocation(status))?;
            Outcome::Redirect(Quote::new(location.value, origin))
        }
        _ => return Err(ResponseError::Status(status)),
    };
    Ok(Some((len, Some(outcome))))
}

fn is(field: &httparse::Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

fn framing(
    status: u16,
    fields: &[httparse::Header<'_>],
    origin: usize,
    request: &Request,
) -> Result<Framing, ResponseError> {
    let mut length = None;
    let mut chunked = false;
    for field in fields {
        let value = field.value.trim_ascii();
        let quote = Quote::new(value, origin);
        if is(field, "content-length") {
            let new = parse_length(value).ok_or(ResponseError::ContentLength(quote))?;
            let old = *length.get_or_insert(new);
            if old != new {
                return Err(ResponseError::TwoLengths(old, new));
            }
        } else if is(field, "transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(ResponseError::TransferCoding(quote));
            }
            chunked = true;
        } else if is(field, "content-encoding") && !value.eq_ignore_ascii_case(b"identity") {
            return Err(ResponseError::ContentCoding(quote));
        } else if is(field, "content-type")
            && request.accept == Accept::Module
            && !str::from_utf8(value).is_ok_and(is_module)
        {
            return Err(ResponseError::ContentType(quote));
        }
    }
    match length {
        // RFC 9110: neither has a body.
        _ if status == 204 || status == 205 => Ok(Framing::Length(0)),
        Some(_) if chunked => Err(ResponseError::LengthAndCoding),
        Some(len) if len > request.limit => Err(ResponseError::BodyLength {
            len,
            limit: request.limit,
        }),
        Some(length) => Ok(Framing::Length(length)),
        None if chunked => Ok(Framing::Chunked),
        None => Ok(Framing::Close),
    }
}

/// A number without a sign; one too large for `usize` is too large for any limit.
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
