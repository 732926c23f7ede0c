//! The URLs of servers, and of redirects.

use core::{fmt, net::Ipv6Addr, ops::Range};

/// Characters of a host that are shown.
const SHOWN: usize = 64;

/// A URL of http or https, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParsedUrl<'a> {
    pub(super) tls: bool,
    /// A name or an address, without brackets.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Path and query without the fragment: empty, or from a '/' or '?' on.
    pub(super) target: &'a str,
    /// Bytes of the URL in front of that.
    origin: usize,
}

impl<'a> ParsedUrl<'a> {
    pub(super) fn parse(url: &'a str) -> Result<Self, UrlError<'a>> {
        if url.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(UrlError::Character);
        }
        let (tls, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            _ => return Err(UrlError::Scheme),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(UrlError::User);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').unwrap_or(("", "")),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let is_host = match authority.starts_with('[') {
            true => host.parse::<Ipv6Addr>().is_ok(),
            false => !host.is_empty() && host.bytes().all(is_name),
        };
        if !is_host {
            return Err(UrlError::Host(authority));
        }
        let port = match (port, tls) {
            ("" | ":", true) => Some(443),
            ("" | ":", false) => Some(80),
            // parse() takes a sign, too.
            (port, _) => port
                .strip_prefix(':')
                .filter(|digits| !digits.starts_with('+'))
                .and_then(|digits| digits.parse().ok())
                .filter(|port| *port != 0),
        };
        let port = port.ok_or(UrlError::Port(authority))?;
        Ok(Self {
            tls,
            host,
            port,
            target: target.split('#').next().unwrap_or_default(),
            origin: url.len() - target.len(),
        })
    }

    /// The value of the Host header.
    pub(super) fn authority(&self) -> impl fmt::Display {
        let default = if self.tls { 443 } else { 80 };
        Authority {
            host: self.host,
            port: (self.port != default).then_some(self.port),
        }
    }
}

/// Fault of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UrlError<'a> {
    /// It has a character that must be encoded.
    Character,
    /// Its scheme is another one.
    Scheme,
    /// It names a user.
    User,
    /// The host in this authority is not one.
    Host(&'a str),
    /// The port in this authority is not one.
    Port(&'a str),
}

impl fmt::Display for UrlError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character => f.write_str(
                "the URL has a space, a control character or one beyond ASCII: percent-encode it",
            ),
            Self::Scheme => f.write_str("the URL does not begin with http:// or https://"),
            Self::User => {
                f.write_str("the URL has a user name or password, which is not supported")
            }
            Self::Host(authority) => write!(
                f,
                "the URL has the host '{authority:.SHOWN$}', expected a name or an address, and then :PORT or nothing"
            ),
            Self::Port(authority) => write!(
                f,
                "the URL has the port of '{authority:.SHOWN$}', expected 1 to 65535"
            ),
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(&byte)
}

struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        let shown = f.precision().unwrap_or(host.len());
        match host.contains(':') {
            true => write!(f, "[{host}]")?,
            false => write!(f, "{host:.shown$}")?,
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// The server, for a person.
impl fmt::Display for ParsedUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = Authority {
            host: self.host,
            port: Some(self.port),
        };
        write!(f, "{authority:.SHOWN$}")
    }
}

/// Puts the URL that a redirect leads to into the beginning of `buf`, and returns its length. The
/// Location lies at `location` in `buf`; `base` is the URL that was asked for, which can be parsed, or
/// `None` if that is the first `len` bytes of `buf`.
///
/// # Errors
/// Its length, if that is more than `limit`; `buf` is as before.
pub(super) fn redirect(
    buf: &mut [u8],
    base: Option<&str>,
    len: usize,
    location: Range<usize>,
    limit: usize,
) -> Result<usize, usize> {
    let old = match base {
        Some(base) => base.as_bytes(),
        None => &buf[..len],
    };
    let old = str::from_utf8(old).unwrap_or_default();
    let origin = ParsedUrl::parse(old).map_or(0, |url| url.origin);
    let (keep, slash) = kept(old, origin, &buf[location.clone()]);
    let to = keep + usize::from(slash);
    let len = to + location.len();
    if len > limit {
        return Err(len);
    }
    // A base outside is copied after the Location, which may lie in its place.
    buf.copy_within(location, to);
    if let Some(base) = base {
        buf[..keep].copy_from_slice(&base.as_bytes()[..keep]);
    }
    if slash {
        buf[keep] = b'/';
    }
    let origin = if keep < origin { len } else { origin };
    Ok(origin + without_dots(&mut buf[origin..len]))
}

/// Bytes of the URL `base`, whose path begins at `origin`, stays in front of `location`, and
/// whether a slash comes between.
fn kept(base: &str, origin: usize, location: &[u8]) -> (usize, bool) {
    let path = &base[origin..];
    let path = path.split(['?', '#']).next().unwrap_or_default();
    match location {
        // Another fragment of the same.
        [] | [b'#', ..] => (base.split('#').next().unwrap_or_default().len(), false),
        [b'/', b'/', ..] => (base.find("//").unwrap_or(0), false),
        [b'/', ..] => (origin, false),
        [b'?', ..] => (origin + path.len(), false),
        _ if has_scheme(location) => (0, false),
        _ => match path.rfind('/') {
            Some(last) => (origin + last + 1, false),
            None => (origin, true),
        },
    }
}

fn has_scheme(location: &[u8]) -> bool {
    let end = location.iter().position(|byte| b":/?#".contains(byte));
    end.is_some_and(|end| location[end] == b':')
}

/// Removes the segments '.' and '..' from a path, which a query or fragment may follow, and
/// returns the length of what is left.
fn without_dots(target: &mut [u8]) -> usize {
    let is_end = |byte: &u8| b"?#".contains(byte);
    let path = target.iter().position(is_end).unwrap_or(target.len());
    let (mut from, mut to) = (0, 0);
    while from < path {
        // A segment with the slash in front of it.
        let next = target[from + 1..path].iter().position(|b| *b == b'/');
        let end = next.map_or(path, |n| from + 1 + n);
        let back = match &target[from..end] {
            b"/." => Some(to),
            b"/.." => Some(target[..to].iter().rposition(|b| *b == b'/').unwrap_or(0)),
            _ => None,
        };
        match back {
            Some(back) => {
                to = back;
                if end == path {
                    target[to] = b'/';
                    to += 1;
                }
            }
            None => {
                target.copy_within(from..end, to);
                to += end - from;
            }
        }
        from = end;
    }
    let len = target.len();
    target.copy_within(path..len, to);
    to + len - path
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::{String, ToString as _};

    #[test]
    fn urls_have_parts() {
        let cases = [
            ("http://a.example", false, "a.example", 80, "", "a.example"),
            ("HTTPS://a-b_c/", true, "a-b_c", 443, "/", "a-b_c"),
            (
                "http://h:8080/x?y=z#f",
                false,
                "h",
                8080,
                "/x?y=z",
                "h:8080",
            ),
            ("https://h:443?q", true, "h", 443, "?q", "h"),
            ("https://h:80#f", true, "h", 80, "", "h:80"),
            ("http://h:/x", false, "h", 80, "/x", "h"),
            ("http://[::1]:81/", false, "::1", 81, "/", "[::1]:81"),
            ("http://[::1]", false, "::1", 80, "", "[::1]"),
            (
                "http://10.0.0.1/a@b",
                false,
                "10.0.0.1",
                80,
                "/a@b",
                "10.0.0.1",
            ),
        ];
        for (url, tls, host, port, target, authority) in cases {
            let got = ParsedUrl::parse(url).unwrap();
            assert_eq!((got.tls, got.host, got.port), (tls, host, port), "{url}");
            assert_eq!(got.target, target, "{url}");
            assert_eq!(got.authority().to_string(), authority, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_a_reason() {
        for (url, words) in [
            ("", "http://"),
            ("ftp://h/", "http://"),
            ("h/x", "http://"),
            ("mailto:a@b", "http://"),
            ("http://", "host ''"),
            ("http:///x", "host ''"),
            ("http://:80/", "host ':80'"),
            ("http://user@h/", "user name"),
            ("http://user:secret@h/", "user name"),
            ("http://h:0/", "1 to 65535"),
            ("http://h:65536/", "1 to 65535"),
            ("http://h:+80/", "1 to 65535"),
            ("http://h:80:80/", "1 to 65535"),
            ("http://::1/", "host '::1'"),
            ("http://[::1/", "host '[::1'"),
            ("http://[::1]80/", "1 to 65535"),
            ("http://[h]/", "host '[h]'"),
            ("http://a%41/", "host"),
            ("http://a\\b/", "host"),
            ("http://h/a b", "space"),
            ("http://h/\r\nHost: x", "space"),
            ("http://h/\u{e4}", "ASCII"),
            ("http://h/\0", "control"),
        ] {
            let reason = ParsedUrl::parse(url).unwrap_err().to_string();
            assert!(reason.contains(words), "{url}: {reason}");
            assert!(!reason.contains("secret"), "{url}: {reason}");
        }
    }

    /// `base` is once beside the buffer, and once in it.
    fn resolve(base: &str, location: &str) -> String {
        let front = base.len() + 20;
        let mut buf = std::vec![b'~'; front];
        buf.extend(location.as_bytes());
        let at = front..buf.len();
        let mut other = buf.clone();
        let len = redirect(&mut buf, Some(base), 0, at.clone(), 300).unwrap();
        other[..base.len()].copy_from_slice(base.as_bytes());
        let again = redirect(&mut other, None, base.len(), at, 300).unwrap();
        assert_eq!(buf[..len], other[..again]);
        String::from_utf8(buf[..len].into()).unwrap()
    }

    #[test]
    fn locations_are_relative_to_what_was_asked_for() {
        let base = "http://h:1/a/b/c?q=/x/y#f/g";
        for (location, expected) in [
            ("https://o/x", "https://o/x"),
            ("HTTP://o", "HTTP://o"),
            ("ftp:x", "ftp:x"),
            ("//o/x?y", "http://o/x?y"),
            ("/x/y", "http://h:1/x/y"),
            ("/", "http://h:1/"),
            ("x", "http://h:1/a/b/x"),
            ("x/y?z#f", "http://h:1/a/b/x/y?z#f"),
            ("./x", "http://h:1/a/b/x"),
            ("../x", "http://h:1/a/x"),
            ("../../../../x", "http://h:1/x"),
            ("..", "http://h:1/a/"),
            (".", "http://h:1/a/b/"),
            ("/x/./y/../z/.", "http://h:1/x/z/"),
            ("/x/..?../y", "http://h:1/?../y"),
            ("/..x/.y", "http://h:1/..x/.y"),
            ("?z", "http://h:1/a/b/c?z"),
            ("#z", "http://h:1/a/b/c?q=/x/y#z"),
            ("", "http://h:1/a/b/c?q=/x/y"),
            ("a:b", "a:b"),
            ("./a:b", "http://h:1/a/b/a:b"),
        ] {
            assert_eq!(resolve(base, location), expected, "{location}");
        }
        assert_eq!(resolve("http://h", "x"), "http://h/x");
        assert_eq!(resolve("http://h?q", "x"), "http://h/x");
        assert_eq!(resolve("http://h", "/x"), "http://h/x");
        assert_eq!(resolve("http://h", "?x"), "http://h?x");
    }

    #[test]
    fn a_redirect_is_as_long_as_there_is_room_for() {
        let mut buf = *b"....................................../12345";
        let at = buf.len() - 6..buf.len();
        let len = redirect(&mut buf, Some("http://h/"), 0, at.clone(), 14).unwrap();
        assert_eq!(&buf[..len], b"http://h/12345");
        let mut buf = *b"....................................../12345";
        assert_eq!(redirect(&mut buf, Some("http://h/"), 0, at, 13), Err(14));
    }

    proptest! {
        #[test]
        fn no_url_and_no_location_panics(url in "(http://[a/?#.:@]{0,9}|.{0,20})", location in "[a:/.?#]{0,12}") {
            let _ = ParsedUrl::parse(&url);
            let mut buf = std::vec![b' '; 100];
            buf.extend(location.as_bytes());
            let at = 100..buf.len();
            if let Ok(len) = redirect(&mut buf, Some(&url), 0, at, 60) {
                prop_assert!(len <= 60);
            }
        }
    }
}
