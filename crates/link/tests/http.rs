//! HTTP exchanges with servers in memory that say whatever a test wants, in virtual time.

mod support;

use embassy_futures::select::{Either, select};
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use embedded_nal_async::{AddrType, Dns, TcpConnect};
use proplet::{
    http::{Accept, Method, Part, Request, Url},
    wire::URL_MAX,
};
use proplet_link::{
    Stack, TlsError,
    http::{ExchangeError, exchange},
};
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::pending,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};
use support::{Fault, after, now, simulate, spend};

/// As on a device.
const BUF: usize = 1536;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A server's next step.
#[derive(Debug, Clone)]
enum Step {
    Say(Vec<u8>),
    Wait(u64),
    Reset,
    /// Nothing more.
    Hang,
    /// The same, again and again; it is always there, and each read takes a millisecond.
    Repeat(Vec<u8>),
}

use Step::{Hang, Repeat, Reset, Wait};

fn say(text: impl AsRef<[u8]>) -> Step {
    Step::Say(text.as_ref().into())
}

/// The servers, and the requests that they have seen.
#[derive(Default)]
struct World {
    /// A script for each connection; then the connection ends. Without one it is refused.
    servers: RefCell<VecDeque<Vec<Step>>>,
    requests: RefCell<Vec<String>>,
    dials: RefCell<Vec<String>>,
    open: Cell<usize>,
    /// Most bytes of a read and a write.
    piece: usize,
    has_tls: bool,
    has_authentic_end: bool,
}

struct Connection {
    world: Rc<World>,
    steps: VecDeque<Step>,
    index: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.world.open.set(self.world.open.get() - 1);
    }
}

impl ErrorType for Connection {
    type Error = Fault;
}

impl Read for Connection {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
        assert!(!buf.is_empty());
        loop {
            let most = self.world.piece.min(buf.len());
            match self.steps.front_mut() {
                None => return Ok(0),
                Some(Step::Say(bytes)) if bytes.is_empty() => drop(self.steps.pop_front()),
                Some(Step::Say(bytes)) => {
                    let n = most.min(bytes.len());
                    buf[..n].copy_from_slice(&bytes[..n]);
                    bytes.drain(..n);
                    return Ok(n);
                }
                Some(Step::Repeat(bytes)) => {
                    let n = most.min(bytes.len());
                    buf[..n].copy_from_slice(&bytes[..n]);
                    bytes.rotate_left(n);
                    spend(1);
                    return Ok(n);
                }
                Some(Step::Wait(ms)) => {
                    after(*ms).await;
                    self.steps.pop_front();
                }
                Some(Step::Reset) => return Err(Fault(ErrorKind::ConnectionReset)),
                Some(Step::Hang) => pending().await,
            }
        }
    }
}

impl Write for Connection {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Fault> {
        let n = buf.len().min(self.world.piece);
        let mut requests = self.world.requests.borrow_mut();
        requests[self.index].push_str(str::from_utf8(&buf[..n]).unwrap());
        Ok(n)
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

struct Net(Rc<World>);

impl Net {
    async fn dial(&self, what: String) -> Result<Connection, Fault> {
        assert_eq!(self.0.open.get(), 0, "two connections at once");
        self.0.dials.borrow_mut().push(what);
        let script = self.0.servers.borrow_mut().pop_front();
        let steps = script.ok_or(Fault(ErrorKind::ConnectionRefused))?;
        self.0.open.set(1);
        let mut requests = self.0.requests.borrow_mut();
        requests.push(String::new());
        Ok(Connection {
            world: self.0.clone(),
            steps: steps.into(),
            index: requests.len() - 1,
        })
    }
}

impl TcpConnect for Net {
    type Error = Fault;
    type Connection<'a> = Connection;

    async fn connect(&self, remote: SocketAddr) -> Result<Connection, Fault> {
        self.dial(remote.to_string()).await
    }
}

impl Dns for Net {
    type Error = Fault;

    async fn get_host_by_name(&self, host: &str, _: AddrType) -> Result<IpAddr, Fault> {
        match host {
            "nowhere" => Err(Fault(ErrorKind::NotFound)),
            "silence" => pending().await,
            _ => Ok(IpAddr::from([192, 0, 2, 1])),
        }
    }

    async fn get_host_by_address(&self, _: IpAddr, _: &mut [u8]) -> Result<usize, Fault> {
        Err(Fault(ErrorKind::Unsupported))
    }
}

impl Stack for Net {
    fn has_tls(&self) -> bool {
        self.0.has_tls
    }

    fn has_authentic_end(&self) -> bool {
        self.0.has_authentic_end
    }

    async fn connect_tls(
        &self,
        remote: SocketAddr,
        host: &str,
    ) -> Result<Connection, TlsError<Fault>> {
        if host == "impostor" {
            return Err(Fault(ErrorKind::InvalidData).into());
        }
        Ok(self.dial(format!("{remote} as {host}")).await?)
    }
}

/// A receiver that keeps all.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Got {
    length: Option<Option<usize>>,
    body: Vec<u8>,
    /// Takes no more than that.
    room: Option<usize>,
}

impl Got {
    fn receive(&mut self, part: Part<'_>) -> Result<(), &'static str> {
        match part {
            Part::Begin(length) => {
                assert_eq!(self.length.replace(length), None, "it begins twice");
                if self.room == Some(0) {
                    return Err("no room at all");
                }
            }
            Part::Bytes(bytes) => {
                assert!(self.length.is_some(), "it has not begun");
                assert!(!bytes.is_empty());
                let len = self.body.len() + bytes.len();
                if self.room.is_some_and(|room| len > room) {
                    return Err("no more room");
                }
                self.body.extend(bytes);
            }
            Part::End | Part::Failed(_) => panic!("the end is what the exchange returns"),
        }
        Ok(())
    }
}

/// Copies from a request's body.
fn copy(body: &[u8], offset: usize, to: &mut [u8]) -> usize {
    let rest = &body[offset.min(body.len())..];
    let n = rest.len().min(to.len());
    to[..n].copy_from_slice(&rest[..n]);
    n
}

/// Carries out an exchange on a device.
async fn send<'e>(
    net: &Net,
    request: &'e Request,
    sends: &[u8],
    got: &mut Got,
    buf: &'e mut [u8],
) -> Result<(), ExchangeError<'e, &'static str, Net>> {
    let body = |offset, to: &mut [u8]| copy(sends, offset, to);
    exchange(net, request, body, |part| got.receive(part), buf, TIMEOUT).await
}

/// Outcome of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    result: Result<(), String>,
    got: Got,
    requests: Vec<String>,
    dials: Vec<String>,
    /// Milliseconds that it took.
    took: u64,
}

impl Outcome {
    /// The body of a good response.
    #[track_caller]
    fn body(&self) -> &str {
        assert_eq!(self.result, Ok(()));
        str::from_utf8(&self.got.body).unwrap()
    }

    #[track_caller]
    fn error(&self) -> &str {
        self.result.as_ref().expect_err("an error")
    }
}

fn get_of(url: &str) -> Request {
    Request {
        url: Url::try_from(url).unwrap(),
        method: Method::Get,
        accept: Accept::Module,
        limit: 1000,
    }
}

fn get_example() -> Request {
    get_of("http://example.org:8080/a.wasm")
}

fn post_of(len: usize) -> Request {
    Request {
        method: Method::Post { len },
        accept: Accept::Any,
        ..get_example()
    }
}

fn carry_out(world: World, request: &Request, sends: &[u8], mut got: Got) -> Outcome {
    let world = Rc::new(world);
    let net = Net(world.clone());
    let (result, took) = simulate(async {
        let mut buf = [0; BUF];
        let result = send(&net, request, sends, &mut got, &mut buf).await;
        (result.map_err(|e| e.to_string()), now())
    });
    assert_eq!(world.open.get(), 0, "a connection is left open");
    Outcome {
        result,
        got,
        requests: world.requests.take(),
        dials: world.dials.take(),
        took,
    }
}

/// The same in pieces of any size, with the same outcome.
#[track_caller]
fn ask(request: &Request, servers: &[&[Step]]) -> Outcome {
    converse(request, &[], &Got::default(), servers)
}

/// The same with a body, for a receiver.
#[track_caller]
fn converse(request: &Request, sends: &[u8], got: &Got, servers: &[&[Step]]) -> Outcome {
    let outcomes = [usize::MAX, 1, 2, 3, 7, 100].map(|piece| {
        let world = World {
            servers: RefCell::new(servers.iter().map(|steps| steps.to_vec()).collect()),
            piece,
            has_tls: true,
            has_authentic_end: true,
            ..World::default()
        };
        carry_out(world, request, sends, got.clone())
    });
    for outcome in &outcomes {
        // It may differ how much was handed on of a body that fails.
        assert_eq!(outcome.result, outcomes[0].result);
        if outcome.result.is_ok() {
            assert_eq!(outcome, &outcomes[0]);
        }
    }
    outcomes[0].clone()
}

/// Asks one server, which says this.
#[track_caller]
fn get(says: impl AsRef<[u8]>) -> Outcome {
    ask(&get_example(), &[&[say(says)]])
}

#[test]
fn a_request_is_as_the_servers_expect_it() {
    let outcome = get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(outcome.body(), "hello");
    assert_eq!(outcome.got.length, Some(Some(5)));
    assert_eq!(outcome.dials, ["192.0.2.1:8080"]);
    let expected = format!(
        "GET /a.wasm HTTP/1.1\r\nHost: example.org:8080\r\nUser-Agent: proplet/{}\r\n\
         Accept: application/wasm, application/octet-stream\r\nAccept-Encoding: identity\r\n\
         Connection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(outcome.requests, [expected]);
}

#[test]
fn hosts_ports_and_targets_are_those_of_the_url() {
    for (url, dial, line, host) in [
        ("http://h", "192.0.2.1:80", "GET / HTTP", "Host: h\r\n"),
        (
            "http://h?a=b#c",
            "192.0.2.1:80",
            "GET /?a=b HTTP",
            "Host: h\r\n",
        ),
        (
            "http://h:81/x?y#z",
            "192.0.2.1:81",
            "GET /x?y HTTP",
            "Host: h:81\r\n",
        ),
        (
            "http://10.1.2.3/",
            "10.1.2.3:80",
            "GET / HTTP",
            "Host: 10.1.2.3\r\n",
        ),
        (
            "http://[::1]:81/",
            "[::1]:81",
            "GET / HTTP",
            "Host: [::1]:81\r\n",
        ),
        (
            "https://h/",
            "192.0.2.1:443 as h",
            "GET / HTTP",
            "Host: h\r\n",
        ),
        (
            "https://h:80/",
            "192.0.2.1:80 as h",
            "GET / HTTP",
            "Host: h:80\r\n",
        ),
        (
            "https://[::1]",
            "[::1]:443 as ::1",
            "GET / HTTP",
            "Host: [::1]\r\n",
        ),
    ] {
        let request = get_of(url);
        let outcome = ask(&request, &[&[say("HTTP/1.1 204 \r\n\r\n")]]);
        assert_eq!(outcome.body(), "", "{url}");
        assert_eq!(outcome.dials, [dial], "{url}");
        assert!(outcome.requests[0].starts_with(line), "{url}");
        assert!(outcome.requests[0].contains(host), "{url}");
    }
}

#[test]
fn urls_that_lead_nowhere_are_refused_before_a_connection() {
    for (url, words) in [
        ("http://h/ HTTP/1.1\r\nX: y", "space"),
        ("ftp://h/", "http:// or https://"),
        ("http://me:secret@h/", "user name or password"),
        (
            "http://nowhere/",
            "the name of nowhere:80 can't be resolved",
        ),
        ("https://impostor/", "no TLS with impostor:443: InvalidData"),
        ("http://gone:8080/", "gone:8080 refused the connection"),
    ] {
        let outcome = ask(&get_of(url), &[]);
        assert!(outcome.error().contains(words), "{url}: {outcome:?}");
        assert!(outcome.requests.is_empty(), "{url}");
    }
    // A longer one is not a request.
    let long = format!("http://h/{}", "x".repeat(URL_MAX - 8));
    assert!(Url::try_from(&*long).is_err());
    let request = get_of(&long[..URL_MAX]);
    let outcome = ask(&request, &[&[say("HTTP/1.1 204 \r\n\r\n")]]);
    assert_eq!(outcome.body(), "");
}

#[test]
fn https_needs_tls() {
    let request = get_of("https://h/");
    let outcome = carry_out(World::default(), &request, &[], Got::default());
    assert_eq!(
        outcome.error(),
        "https needs TLS, which this proplet does not have"
    );
}

#[test]
fn over_https_a_body_ends_with_its_connection_only_where_that_is_told_from_a_cut() {
    let (http, https) = (get_of("http://h:1/"), get_of("https://h:1/"));
    let close = "\r\nabc";
    let error = "h:1 does not say where its body ends: over https this proplet needs Content-Length or chunks";
    for (has_authentic_end, request, says, result) in [
        (true, &https, close, Ok(())),
        (false, &http, close, Ok(())),
        (false, &https, close, Err(error.into())),
        (false, &https, "Content-Length: 3\r\n\r\nabc", Ok(())),
        (
            false,
            &https,
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            Ok(()),
        ),
    ] {
        let world = World {
            servers: RefCell::new([vec![say(format!("HTTP/1.1 200 OK\r\n{says}"))]].into()),
            piece: 9,
            has_tls: true,
            has_authentic_end,
            ..World::default()
        };
        let outcome = carry_out(world, request, &[], Got::default());
        assert_eq!(outcome.result, result, "{says}");
        // Room was not made for a body that is refused.
        assert_eq!(outcome.got.length.is_some(), result.is_ok());
        assert_eq!(outcome.got.body == b"abc", result.is_ok());
    }
}

#[test]
fn bodies_end_where_they_should() {
    for (says, length, body) in [
        ("Content-Length: 0\r\n\r\n", Some(0), ""),
        ("Content-Length: 3\r\n\r\nabc", Some(3), "abc"),
        ("content-length: 003 \r\n\r\nabcdef", Some(3), "abc"),
        (
            "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            Some(3),
            "abc",
        ),
        ("\r\nabc", None, "abc"),
        ("\r\n", None, ""),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None, ""),
        (
            "Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nmore",
            None,
            "abc",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n00A \r\n0123456789\r\n000\r\n\r\n",
            None,
            "abc0123456789",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n2\r\n\r\n\r\n0\r\nX: y\r\nZ:\r\n\r\n",
            None,
            "\n\r\n",
        ),
        (
            "content-encoding: IDENTITY\r\nContent-Type: Application/WASM ; charset=x\r\n\r\nabc",
            None,
            "abc",
        ),
        (
            "Content-Type: application/octet-stream\r\nX-Odd: \u{e4}\r\n\r\nabc",
            None,
            "abc",
        ),
        (
            "Keep-Alive: what?\r\nContent-Length: 3\r\n\r\nabc",
            Some(3),
            "abc",
        ),
    ] {
        let outcome = get(format!("HTTP/1.1 200 OK\r\n{says}"));
        assert_eq!(outcome.body(), body, "{says}");
        assert_eq!(outcome.got.length, Some(length), "{says}");
    }
    for whole in [
        // Line ends, versions and reasons of old.
        "HTTP/1.0 200\nContent-Length: 3\n\nabc",
        "HTTP/1.1 200 \r\n\r\nabc",
        "HTTP/1.1 299 Fine\r\n\r\nabc",
        // Interim responses.
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nabc",
    ] {
        assert_eq!(get(whole).body(), "abc", "{whole}");
    }
    let none = get("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(none.body(), "");
}

#[test]
fn servers_that_lie_are_found_out() {
    for (says, error) in [
        (
            "Content-Length: 1000\r\n\r\nabc",
            "the server sent 3 of 1000 bytes",
        ),
        (
            "Content-Length: 1001\r\n\r\n",
            "the body of 1001 bytes is larger than the limit of 1000",
        ),
        (
            "Content-Length: 99999999999999999999999\r\n\r\n",
            "is larger than the limit of 1000",
        ),
        (
            "Content-Length: -1\r\n\r\nabc",
            "Content-Length '-1' is no number",
        ),
        (
            "Content-Length: +3\r\n\r\nabc",
            "Content-Length '+3' is no number",
        ),
        (
            "Content-Length: 0x3\r\n\r\nabc",
            "Content-Length '0x3' is no number",
        ),
        (
            "Content-Length: 3, 3\r\n\r\nabc",
            "Content-Length '3, 3' is no number",
        ),
        (
            "Content-Length:\r\n\r\nabc",
            "Content-Length '' is no number",
        ),
        (
            "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "two lengths, 3 and 4",
        ),
        (
            "Content-Length: 8\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "both Content-Length and Transfer-Encoding",
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            "transfer coding gzip, chunked: expected chunked",
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "expected chunked, once",
        ),
        (
            "Content-Encoding: gzip\r\n\r\nabc",
            "content coding gzip: expected none",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n",
            "cut the chunked body off after 0 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3",
            "cut the chunked body off after 0 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n9\r\nabc",
            "cut the chunked body off after 3 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc",
            "cut the chunked body off after 3 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "cut the chunked body off after 3 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            "cut the chunked body off after 3 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            "a chunk is longer than its size of 3 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n\r\n\r\n",
            "a chunk without a size",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "a chunk without a size",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n",
            "a chunk without a size",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
            "a chunk without a size",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n3e9\r\n",
            "the body is larger than the limit of 1000 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            "the body is larger than the limit of 1000 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nfffffffffffffff\r\nabc",
            "the body is larger than the limit of 1000 bytes",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nabc",
            "a chunk without a size",
        ),
    ] {
        let outcome = get(format!("HTTP/1.1 200 OK\r\n{says}"));
        assert!(outcome.error().contains(error), "{says}: {outcome:?}");
    }
    for (says, error) in [
        (
            "",
            "example.org:8080 closed the connection before its answer",
        ),
        (
            "HTTP/1.1 200 OK\r\nX: y\r\n",
            "closed the connection within the head of its answer",
        ),
        (
            "SSH-2.0-OpenSSH_9.6\r\n",
            "what example.org:8080 answers is no HTTP response",
        ),
        ("HTTP/2 200\r\n\r\n", "is no HTTP response"),
        ("HTTP/1.1 20 OK\r\n\r\n", "is no HTTP response"),
        ("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", "is no HTTP response"),
        (
            "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
            "is no HTTP response",
        ),
        ("\u{16}\u{3}\u{1}\u{2}", "is no HTTP response"),
        (
            "HTTP/1.1 100 Continue\r\n\r\n",
            "closed the connection before its answer",
        ),
        (
            "HTTP/1.1 101 Switching\r\n\r\nabc",
            "HTTP 101 from example.org:8080",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: x\r\n\r\n",
            "HTTP 404 from example.org:8080",
        ),
        (
            "HTTP/1.1 500 Oh\r\nContent-Type: text/html\r\n\r\n<p>",
            "HTTP 500 from example.org:8080",
        ),
        (
            "HTTP/1.1 304 Not Modified\r\n\r\n",
            "HTTP 304 from example.org:8080",
        ),
        ("HTTP/1.1 000 \r\n\r\n", "HTTP 0 from example.org:8080"),
    ] {
        let outcome = get(says);
        assert!(outcome.error().contains(error), "{says}: {outcome:?}");
        assert_eq!(outcome.got.length, None, "{says}");
    }
}

#[test]
fn the_limit_is_reached_and_not_passed() {
    let body = "x".repeat(1000);
    let chunked = format!("3e0\r\n{}\r\n8\r\n{}\r\n", &body[8..], &body[..8]);
    for (head, coded) in [
        ("Content-Length: 1000\r\n", &body),
        ("", &body),
        (
            "Transfer-Encoding: chunked\r\n",
            &format!("{chunked}0\r\n\r\n"),
        ),
    ] {
        let outcome = get(format!("HTTP/1.1 200 OK\r\n{head}\r\n{coded}"));
        assert_eq!(outcome.body(), body, "{head}");
    }
    for (head, coded) in [
        ("", &format!("{body}x")),
        (
            "Transfer-Encoding: chunked\r\n",
            &format!("{chunked}1\r\nx\r\n0\r\n\r\n"),
        ),
    ] {
        let outcome = get(format!("HTTP/1.1 200 OK\r\n{head}\r\n{coded}"));
        let error = "the body is larger than the limit of 1000 bytes";
        assert_eq!(outcome.error(), error, "{head}");
        assert_eq!(outcome.got.body.len(), 1000);
    }
    let none = Request {
        limit: 0,
        ..get_example()
    };
    let says = |s: &str| ask(&none, &[&[say(s)]]);
    assert_eq!(says("HTTP/1.1 200 OK\r\n\r\n").body(), "");
    assert_eq!(
        says("HTTP/1.1 200 OK\r\n\r\nx").error(),
        "the body is larger than the limit of 0 bytes"
    );
}

#[test]
fn a_module_has_a_type_of_modules_or_none() {
    let html = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\nabc";
    assert_eq!(
        get(html).error(),
        "content type text/html; charset=utf-8 is no module: expected application/wasm or \
         application/octet-stream"
    );
    let any = Request {
        accept: Accept::Any,
        ..get_example()
    };
    let outcome = ask(&any, &[&[say(html)]]);
    assert_eq!(outcome.body(), "abc");
    assert!(outcome.requests[0].contains("\r\nAccept: */*\r\n"));
}

#[test]
fn heads_have_room_in_the_buffer_or_are_refused() {
    let head = |fields: usize, len: usize| {
        let field = format!("X: {}\r\n", "y".repeat(len));
        format!("HTTP/1.1 200 OK\r\n{}\r\nabc", field.repeat(fields))
    };
    // 17 bytes of status line, 2 of the end.
    assert_eq!(get(head(1, BUF - 17 - 2 - 5)).body(), "abc");
    let larger = get(head(1, BUF - 17 - 2 - 5 + 1));
    assert_eq!(
        larger.error(),
        "response headers are larger than 1536 bytes"
    );
    let endless = ask(
        &get_example(),
        &[&[say("HTTP/1.1 200 OK\r\n"), Repeat(b"x: y\r\n".into())]],
    );
    assert!(endless.error().contains("headers"), "{endless:?}");
    assert_eq!(get(head(48, 1)).body(), "abc");
    let many = get(head(49, 1));
    assert_eq!(
        many.error(),
        "the response of example.org:8080 has more than 48 headers"
    );
    let chunk = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;{}\r\nabc",
        "x".repeat(BUF)
    );
    assert_eq!(
        get(chunk).error(),
        "a line of the chunked body is larger than 1536 bytes"
    );
}

fn moved(status: u16, location: &str) -> Step {
    say(format!(
        "HTTP/1.1 {status} Moved\r\nContent-Length: 7\r\nLocation: {location}\r\n\r\nthere\r\n"
    ))
}

fn fine() -> Step {
    say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
}

#[test]
fn redirects_are_followed() {
    let outcome = ask(
        &get_example(),
        &[
            &[moved(301, "http://other/x/y?z#f")],
            &[moved(302, "w?v")],
            &[moved(303, "/root/./a/../b")],
            &[moved(307, "//third:81")],
            &[moved(308, "https://fourth")],
            &[fine()],
        ],
    );
    assert_eq!(outcome.body(), "abc");
    assert_eq!(
        outcome.dials,
        [
            "192.0.2.1:8080",
            "192.0.2.1:80",
            "192.0.2.1:80",
            "192.0.2.1:80",
            "192.0.2.1:81",
            "192.0.2.1:443 as fourth"
        ]
    );
    let lines = outcome.requests.iter().map(|r| r.lines().next().unwrap());
    let paths: Vec<_> = lines.map(|l| l.split(' ').nth(1).unwrap()).collect();
    assert_eq!(paths, ["/a.wasm", "/x/y?z", "/x/w?v", "/root/b", "/", "/"]);
    let hosts = outcome.requests.iter().map(|r| r.lines().nth(1).unwrap());
    let hosts: Vec<_> = hosts.collect();
    assert_eq!(hosts[1], "Host: other");
    assert_eq!(hosts[4], "Host: third:81");
}

#[test]
fn redirects_have_an_end() {
    let hop = [moved(302, "/a.wasm")];
    let loops = vec![&hop[..]; 11];
    let outcome = ask(&get_example(), &loops);
    assert_eq!(outcome.error(), "too many redirects (10)");
    assert_eq!(outcome.dials.len(), 11);
    // Wherever the last of them leads to.
    let nowhere = [moved(302, "ftp://b/")];
    let mut loops = vec![&hop[..]; 10];
    loops.push(&nowhere);
    let outcome = ask(&get_example(), &loops);
    assert_eq!(outcome.error(), "too many redirects (10)");
    let fine = [fine()];
    let mut chain = vec![&hop[..]; 10];
    chain.push(&fine);
    assert_eq!(ask(&get_example(), &chain).body(), "abc");

    for (url, status, location, error) in [
        (
            "https://a/",
            302,
            "http://b/",
            "a redirect from https to http, at b:80, is not followed",
        ),
        (
            "http://a/",
            302,
            "ftp://b/",
            "does not begin with http:// or https://",
        ),
        ("http://a/", 302, "http://me@b/", "user name or password"),
        (
            "http://a/",
            302,
            "http://b/\tx",
            "a space, a control character",
        ),
        (
            "http://a/",
            302,
            "http://b/\u{e4}",
            "a space, a control character",
        ),
        ("http://a/", 300, "http://b/", "HTTP 300 from a:80"),
        ("http://a/", 305, "http://b/", "HTTP 305 from a:80"),
    ] {
        let request = get_of(url);
        let outcome = ask(&request, &[&[moved(status, location)], &fine]);
        assert!(outcome.error().contains(error), "{location}: {outcome:?}");
        assert_eq!(outcome.dials.len(), 1);
    }
    let nowhere = get("HTTP/1.1 302 Found\r\n\r\n");
    assert_eq!(
        nowhere.error(),
        "HTTP 302 from example.org:8080 without a Location"
    );

    // Half the buffer is for the URL.
    for (len, error) in [
        (BUF / 2, None),
        (BUF / 2 + 1, Some("a URL of 769 bytes, the limit is 768")),
    ] {
        let far = format!("http://b/{}", "x".repeat(len - 9 - 200));
        let mut far = far;
        far.push_str(&format!("#{}", "f".repeat(199)));
        let outcome = ask(&get_example(), &[&[moved(302, &far)], &fine]);
        match error {
            None => assert_eq!(outcome.body(), "abc"),
            Some(error) => assert!(outcome.error().contains(error), "{outcome:?}"),
        }
    }
    let far = format!("http://b/{}", "x".repeat(BUF / 2 - 9));
    let outcome = ask(&get_example(), &[&[moved(302, &far)], &fine]);
    assert_eq!(
        outcome.error(),
        "the URL is too long: the request's head has more than 768 bytes"
    );
}

#[test]
fn a_body_is_sent_whole_and_again_where_it_is_redirected() {
    let json = format!("{{\"x\":\"{}\"}}", "0123456789".repeat(500));
    let post = |post: &Request, servers: &[&[Step]]| {
        converse(post, json.as_bytes(), &Got::default(), servers)
    };
    let request = post_of(json.len());
    for status in [307, 308] {
        let outcome = post(&request, &[&[moved(status, "/b")], &[fine()]]);
        assert_eq!(outcome.result, Ok(()));
        assert_eq!(outcome.requests.len(), 2);
        for request in &outcome.requests {
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("POST /"), "{head}");
            let length = format!(
                "\r\nContent-Type: application/json\r\nContent-Length: {}",
                json.len()
            );
            assert!(head.ends_with(&length), "{head}");
            assert_eq!(body, json);
        }
    }
    for status in [301, 302, 303] {
        let outcome = post(&request, &[&[moved(status, "/b")], &[fine()]]);
        let error = format!(
            "HTTP {status} from example.org:8080: a POST is redirected by 307 and 308 only"
        );
        assert_eq!(outcome.error(), error);
    }
    let outcome = post(&post_of(json.len() + 1), &[&[fine()]]);
    assert_eq!(outcome.error(), "the request's body has 5008 of 5009 bytes");
}

#[test]
fn a_post_is_done_when_the_server_says_so() {
    let json = b"{\"x\":1}";
    let post = |servers: &[&[Step]]| converse(&post_of(json.len()), json, &Got::default(), servers);
    for says in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na",
        "HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nok",
    ] {
        for end in [Reset, Hang] {
            let outcome = post(&[&[say(says), end]]);
            assert_eq!(outcome.result, Ok(()), "{says}");
            assert_eq!(outcome.took, 0, "{says}");
            assert!(outcome.requests[0].ends_with("\r\n\r\n{\"x\":1}"));
            // The answer is not read.
            assert_eq!((outcome.got.length, &outcome.got.body), (None, &vec![]));
        }
    }
    let refused = post(&[&[say("HTTP/1.1 409 Conflict\r\n\r\n")]]);
    assert_eq!(refused.error(), "HTTP 409 from example.org:8080");
    let cut = post(&[&[say("HTTP/1.1 200 OK\r\nX: y")]]);
    let error = "example.org:8080 closed the connection within the head of its answer";
    assert_eq!(cut.error(), error);
}

#[test]
fn the_receiver_can_refuse() {
    let says = "HTTP/1.1 200 OK\r\n\r\nabcdefghijk";
    let room = |room| Got {
        room: Some(room),
        ..Got::default()
    };
    assert_eq!(
        converse(&get_example(), &[], &room(0), &[&[say(says)]]).error(),
        "no room at all"
    );
    assert_eq!(
        converse(&get_example(), &[], &room(10), &[&[say(says)]]).error(),
        "no more room"
    );
    let outcome = converse(&get_example(), &[], &room(11), &[&[say(says)]]);
    assert_eq!(outcome.body(), "abcdefghijk");
}

#[test]
fn a_connection_that_breaks_is_an_error() {
    let head = say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    for steps in [&[Reset][..], &[head, Reset]] {
        let outcome = ask(&get_example(), &[steps]);
        let error = "the connection to example.org:8080 broke: ConnectionReset";
        assert_eq!(outcome.error(), error);
    }
}

#[test]
fn the_timeout_bounds_the_whole() {
    let head = || say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
    // Slow, and within it.
    let slow = ask(
        &get_example(),
        &[&[Wait(9_000), head(), Wait(20_000), say("def")]],
    );
    assert_eq!(slow.body(), "abcdef");
    assert_eq!(slow.took, 29_000);
    for (steps, error) in [
        (&[Hang][..], "no answer within 30 s"),
        (&[head(), Hang], "the server sent 3 of 6 bytes within 30 s"),
        (
            &[say("HTTP/1.1 200 OK\r\n\r\nabc"), Hang],
            "the server sent 3 bytes within 30 s, and no end of them",
        ),
        // A server that never pauses must not keep the time from being seen.
        (
            &[Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".into())],
            "no answer within 30 s",
        ),
        (
            &[
                say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
                Repeat(b"X: y\r\n".into()),
            ],
            "the server sent 0 bytes within 30 s, and no end of them",
        ),
    ] {
        let outcome = ask(&get_example(), &[steps]);
        assert_eq!(outcome.error(), error);
        assert!((30_000..=30_001).contains(&outcome.took), "{outcome:?}");
    }
    let drip = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n".bytes();
    let drip = drip.flat_map(|byte| [say([byte]), Wait(2_000)]);
    let drip: Vec<_> = drip.collect();
    let outcome = ask(&get_example(), &[&drip]);
    assert_eq!(outcome.error(), "no answer within 30 s");
    assert_eq!(outcome.took, 30_000);
    let request = get_of("http://silence/");
    let outcome = ask(&request, &[]);
    assert_eq!(outcome.error(), "no answer within 30 s");
}

#[test]
fn who_drops_an_exchange_closes_its_connection() {
    let world = Rc::new(World {
        servers: RefCell::new([vec![Hang]].into()),
        piece: 9,
        ..World::default()
    });
    let net = Net(world.clone());
    simulate(async {
        let mut got = Got::default();
        let mut buf = [0; BUF];
        let request = get_example();
        let asked = send(&net, &request, &[], &mut got, &mut buf);
        assert!(matches!(select(asked, after(10)).await, Either::Second(())));
        assert_eq!(world.dials.borrow().len(), 1);
        assert_eq!(world.open.get(), 0);
    });
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 302 Found\r\n",
        "HTTP/1.1 100 C\r\n",
        "\r\n",
        "\n",
        "\r",
        ":",
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "Location: ",
        "/",
        "..",
        "http://",
        "Content-Type: application/wasm\r\n",
        "0",
        "3",
        "ff",
        "-1",
        "99999999999999999999",
        ";",
        " ",
        "\r\n\r\n",
        "abc",
        "0\r\n\r\n",
        "3\r\nabc\r\n",
    ]);
    let word = prop_oneof![
        8 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// It ends, within the limit, and not with success if the length is not right.
    #[test]
    fn whatever_servers_say_it_ends(
        says in prop::collection::vec((any::<bool>(), noise()), 1..4),
        piece in 1..40_usize,
        buf in 0..600_usize,
        post in any::<bool>(),
    ) {
        let heads = says.into_iter().map(|(fine, noise)| match fine {
            true => vec![say("HTTP/1.1 200 OK\r\n"), say(noise)],
            false => vec![say(noise)],
        });
        let world = Rc::new(World {
            servers: RefCell::new(heads.collect()),
            piece,
            has_tls: true,
            ..World::default()
        });
        let method = if post { Method::Post { len: 30 } } else { Method::Get };
        let request = Request { method, limit: 20, ..get_example() };
        let mut got = Got::default();
        let net = Net(world.clone());
        let mut buf = vec![0; buf];
        let result = simulate(send(&net, &request, &[b'x'; 30], &mut got, &mut buf));
        // Each error has words.
        prop_assert!(!result.as_ref().is_err_and(|e| e.to_string().is_empty()));
        prop_assert_eq!(world.open.get(), 0);
        prop_assert!(got.body.len() <= 20);
        match got.length {
            Some(length) if result.is_ok() => {
                prop_assert_eq!(length.unwrap_or(got.body.len()), got.body.len());
            }
            Some(_) => {}
            None => prop_assert!(post || result.is_err(), "it has not begun"),
        }
    }
}

/// It lies in the stack of the thread that polls it.
#[test]
fn the_future_of_an_exchange_is_small() {
    let net = Net(Rc::new(World::default()));
    let mut got = Got::default();
    let mut buf = [0; BUF];
    let request = get_example();
    let body = |offset, to: &mut [u8]| copy(&[], offset, to);
    let receive = |part: Part<'_>| got.receive(part);
    let future = exchange(&net, &request, body, receive, &mut buf, TIMEOUT);
    let size = size_of_val(&future);
    println!(
        "{size} bytes, of which a connection has {}",
        size_of::<Connection>()
    );
    assert!(size <= 800, "{size} bytes");
}
