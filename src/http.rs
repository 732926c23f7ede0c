//! The vocabulary of HTTP exchanges: requests of the proplet, and the parts of a response.
//!
//! [`Agent::poll_request`](crate::agent::Agent::poll_request) gives out a request, a link carries it
//! out and hands each part of the response to [`Agent::respond`](crate::agent::Agent::respond).

use crate::wire::URL_MAX;
use core::fmt;
use heapless::String;

/// A URL.
pub type Url = String<URL_MAX>;

/// Identifies one exchange, from the moment at which it is given out to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(pub(crate) u32);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `http://` or `https://`.
    pub url: Url,
    /// The method.
    pub method: Method,
    /// Content that the response to a [`Method::Get`] may have.
    pub accept: Accept,
    /// Maximum number of bytes of that response's body.
    pub limit: usize,
}

/// Method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET, without a body.
    Get,
    /// POST of JSON. The body of the response is not read.
    Post {
        /// Bytes of the request's body.
        len: usize,
    },
}

/// Content that a response may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// A module: application/wasm, application/octet-stream, or content without a type.
    Module,
    /// Content of any type.
    Any,
}

/// A part of a response, in the order of arrival: `Begin`, any number of `Bytes`, then `End`; or
/// `Failed` at any time. A POST has `End` or `Failed` alone.
#[derive(Clone, Copy)]
pub enum Part<'p> {
    /// A good response begins. Length of its body in bytes, where the server announces one.
    Begin(Option<usize>),
    /// The next bytes of the body.
    Bytes(&'p [u8]),
    /// The response is complete.
    End,
    /// The exchange failed, for this reason.
    Failed(&'p dyn fmt::Display),
}
