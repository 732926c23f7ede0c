//! HTTP exchanges over the Linux port's sockets, with servers of the test's own, and Python's.

mod support;

use support::host as subject;

use proplet::http::{Accept, Method, Part, Request, Url};
use proplet_host::{
    net::{self, Network},
    platform::WakeFd,
    tls::{Files, Tls},
};
use proplet_link::http::exchange;
use proplet_testing::is_missing;
use rustix::net::sockopt::set_socket_linger;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use std::{
    convert::Infallible,
    fs,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};
use support::{Authority, Dir, Identity, SOON, free_port, program};

const LIMIT: usize = 1 << 20;

/// A receiver that keeps all.
#[derive(Debug, Default)]
struct Got {
    length: Option<usize>,
    body: Vec<u8>,
    pieces: usize,
}

impl Got {
    fn receive(&mut self, part: Part<'_>) {
        match part {
            Part::Begin(length) => self.length = length,
            Part::Bytes(bytes) => {
                self.body.extend(bytes);
                self.pieces += 1;
            }
            Part::End | Part::Failed(_) => panic!("the end is what the exchange returns"),
        }
    }
}

/// A process has one task and one alarm for it.
static TASK: Mutex<()> = Mutex::new(());

fn carry_out(
    files: Files,
    request: &Request,
    sends: &[u8],
    timeout: Duration,
) -> Result<Got, String> {
    let _one = TASK.lock().unwrap_or_else(PoisonError::into_inner);
    let wake: &'static WakeFd = Box::leak(Box::new(WakeFd::new().expect("descriptors are left")));
    let network = Network::new(wake, Tls::new(files));
    let mut got = Got::default();
    let body = |offset: usize, to: &mut [u8]| {
        let rest = &sends[offset..];
        let n = rest.len().min(to.len());
        to[..n].copy_from_slice(&rest[..n]);
        n
    };
    let receive = |part: Part<'_>| {
        got.receive(part);
        Ok::<(), Infallible>(())
    };
    let mut buf = [0; 2048];
    let exchange = exchange(&network, request, body, receive, &mut buf, timeout);
    let result = net::run(exchange, wake).map_err(|e| e.to_string());
    result.map(|()| got)
}

fn request(url: &str) -> Request {
    Request {
        method: Method::Get,
        url: Url::try_from(url).expect("a URL"),
        accept: Accept::Module,
        limit: LIMIT,
    }
}

fn get(url: &str) -> Result<Got, String> {
    carry_out(Files::default(), &request(url), &[], SOON)
}

#[track_caller]
fn assert_error(result: Result<Got, String>, words: &str) {
    let error = result.expect_err("an error");
    assert!(error.contains(words), "{error}");
}

/// Serves one connection after the other, each by the next of `scripts` once a request's head has
/// come in. Returns the port, and what the requests were.
fn serve<F>(scripts: Vec<F>) -> (u16, thread::JoinHandle<Vec<String>>)
where
    F: FnOnce(TcpStream) -> io::Result<()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let server = thread::spawn(move || {
        let serve = |script: F| {
            let (stream, _) = listener.accept().expect("a client");
            stream.set_nodelay(true).expect("an option of TCP");
            let head = head(&stream);
            // The client may have gone.
            let _ = script(stream);
            head
        };
        scripts.into_iter().map(serve).collect()
    });
    (port, server)
}

/// The head of a request, and nothing of what is behind it.
fn head(mut stream: impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head of text")
}

type Script = Box<dyn FnOnce(TcpStream) -> io::Result<()> + Send>;

fn says(text: impl Into<Vec<u8>>) -> Script {
    let text = text.into();
    Box::new(move |mut stream| stream.write_all(&text))
}

/// Outcome of a GET from a server that says this.
fn answer(text: impl Into<Vec<u8>>) -> Result<Got, String> {
    let (port, server) = serve(vec![says(text)]);
    let result = get(&format!("http://127.0.0.1:{port}/"));
    server.join().expect("the server");
    result
}

fn module() -> Vec<u8> {
    (0..700_001_u32)
        .map(|n| (n.wrapping_mul(n) >> 3) as u8)
        .collect()
}

#[test]
fn a_large_body_goes_through_a_small_buffer() {
    let mut text =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/wasm\r\nContent-Length: 700001\r\n\r\n"
            .to_vec();
    text.extend(module());
    let got = answer(text).expect("it is fine");
    assert_eq!(got.length, Some(700_001));
    assert!(got.body == module(), "{} bytes", got.body.len());
    assert!(got.pieces >= 700_001 / 4096, "{} pieces", got.pieces);
}

#[test]
fn chunks_come_in_odd_pieces() {
    let (port, server) = serve(vec![move |mut stream: TcpStream| {
        let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let module = &module()[..50_000];
        let (mut at, mut size) = (0, 1);
        while at < module.len() {
            let chunk = &module[at..module.len().min(at + size)];
            text.extend(format!("{:X};n={at}\r\n", chunk.len()).bytes());
            text.extend(chunk);
            text.extend(b"\r\n");
            at += chunk.len();
            size = size * 3 % 8191 + 1;
        }
        text.extend(b"0\r\nExpires: never\r\n\r\n");
        for (n, piece) in text.chunks(1237).enumerate() {
            stream.write_all(piece)?;
            if n % 8 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }]);
    let got = get(&format!("http://localhost:{port}/")).expect("it is fine");
    assert!(got.body == module()[..50_000], "{} bytes", got.body.len());
    let requests = server.join().expect("the server");
    assert!(requests[0].contains(&format!("\r\nHost: localhost:{port}\r\n")));
}

/// Says `text` byte by byte.
fn drip(text: &'static str, every: Duration) -> Script {
    Box::new(move |mut stream| {
        for byte in text.bytes() {
            stream.write_all(&[byte])?;
            thread::sleep(every);
        }
        Ok(())
    })
}

const SLOW: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n0123456789012345678901234567890123456789";

#[test]
fn a_slow_server_has_the_time_that_it_is_given() {
    let (port, server) = serve(vec![
        drip(SLOW, Duration::from_millis(5)),
        drip(SLOW, Duration::from_millis(15)),
        drip(SLOW, Duration::from_millis(50)),
        Box::new(|stream| {
            head(stream)
                .is_empty()
                .then_some(())
                .ok_or(io::ErrorKind::Other.into())
        }),
    ]);
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(get(&url).expect("it is fine").body.len(), 40);
    let soon = Duration::from_millis(900);
    for words in [
        " of 40 bytes within 900 ms",
        "no answer within 900 ms",
        "no answer within 900 ms",
    ] {
        let began = Instant::now();
        assert_error(
            carry_out(Files::default(), &request(&url), &[], soon),
            words,
        );
        let took = began.elapsed();
        assert!((soon..soon * 3).contains(&took), "{took:?}");
    }
    server
        .join()
        .expect("the server notices that the client has gone");
}

#[test]
fn a_server_that_never_stops_is_left_in_time() {
    let endless = |text: &'static str, again: &'static str| -> Script {
        Box::new(move |mut stream| {
            stream.write_all(text.as_bytes())?;
            let many = again.repeat(1000);
            loop {
                stream.write_all(many.as_bytes())?;
            }
        })
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    let (port, server) = serve(vec![
        endless("", "HTTP/1.1 100 Continue\r\n\r\n"),
        endless(chunked, "A: b\r\n"),
        endless("HTTP/1.1 200 OK\r\n\r\n", "0123456789"),
        endless("HTTP/1.1 200 OK\r\n", "A: b\r\n"),
    ]);
    let url = format!("http://127.0.0.1:{port}/");
    let soon = Duration::from_millis(500);
    for words in [
        "no answer within 500 ms",
        "the server sent 0 bytes within 500 ms, and no end of them",
        "the body is larger than the limit of 1048576 bytes",
        "headers",
    ] {
        let began = Instant::now();
        assert_error(
            carry_out(Files::default(), &request(&url), &[], soon),
            words,
        );
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
    server.join().expect("the server");
}

#[test]
fn a_response_that_is_cut_off_is_no_response() {
    let reset = |text: &'static str| -> Script {
        Box::new(move |mut stream| {
            stream.write_all(text.as_bytes())?;
            thread::sleep(Duration::from_millis(50));
            Ok(set_socket_linger(&stream, Some(Duration::ZERO))?)
        })
    };
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56";
    assert_error(answer(length), "the server sent 10 of 1000 bytes");
    assert_error(answer(chunked), "cut the chunked body off after 7 bytes");
    assert_error(answer(""), "closed the connection before its answer");
    assert_error(
        answer("HTTP/1.1 200 OK\r\n"),
        "closed the connection within the head",
    );
    let (port, server) = serve(vec![
        reset(length),
        reset("HTTP/1.1 200 OK\r\n\r\n0123456789"),
    ]);
    for _ in 0..2 {
        assert_error(
            get(&format!("http://127.0.0.1:{port}/")),
            "broke: Connection reset",
        );
    }
    server.join().expect("the server");
    assert_eq!(
        answer("HTTP/1.1 200 OK\r\n\r\n0123456789")
            .expect("it is fine")
            .body,
        b"0123456789"
    );
    let longer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0123456789";
    assert_eq!(answer(longer).expect("it is fine").body, b"01234");
}

#[test]
fn what_is_no_module_is_told() {
    assert_error(
        answer("HTTP/1.1 404 Not Found\r\n\r\nnot here"),
        "HTTP 404 from 127.0.0.1:",
    );
    assert_error(
        answer("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"),
        "HTTP 500 from 127.0.0.1:",
    );
    let html = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello";
    assert_error(answer(html), "content type text/html is no module");
    let large = "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n";
    assert_error(
        answer(large),
        "the body of 1048577 bytes is larger than the limit of 1048576",
    );
    let garbage: Vec<u8> = module().into_iter().skip(99).take(5000).collect();
    assert_error(answer(garbage), "is no HTTP response");
    let field = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(3000));
    assert_error(answer(field), "response headers are larger than 2048 bytes");
    let port = free_port();
    let refused = format!("localhost:{port} refused the connection");
    assert_error(get(&format!("http://localhost:{port}/")), &refused);
    assert_error(
        get("http://no-such-host.invalid/"),
        "the name of no-such-host.invalid:80 can't be resolved",
    );
}

#[test]
fn redirects_lead_from_server_to_server() {
    let moved = |to: String| says(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\n\r\nthere"));
    let (last, second) = serve(vec![says("HTTP/1.1 200 OK\r\n\r\nfound")]);
    let (port, first) = serve(vec![
        moved("next?x#y".into()),
        moved("/root/".into()),
        moved(format!("http://localhost:{last}/end")),
    ]);
    let got = get(&format!("http://127.0.0.1:{port}/a/b")).expect("it is fine");
    assert_eq!(got.body, b"found");
    let requests = [first, second].map(|server| server.join().expect("the server"));
    let lines = requests.iter().flatten().map(|head| head.lines().next());
    let lines: Vec<_> = lines.map(Option::unwrap_or_default).collect();
    let expected =
        ["/a/b", "/a/next?x", "/root/", "/end"].map(|path| format!("GET {path} HTTP/1.1"));
    assert_eq!(lines, expected);

    let round = (0..11).map(|_| moved("/again".into())).collect();
    let (port, server) = serve(round);
    assert_error(
        get(&format!("http://127.0.0.1:{port}/")),
        "too many redirects (10)",
    );
    server.join().expect("the server");
}

#[test]
fn a_large_body_is_sent() {
    let json = format!("\"{}\"", "0123456789".repeat(150_000));
    let length = json.len();
    let (got, digits) = mpsc::channel();
    let (port, server) = serve(vec![move |mut stream: TcpStream| {
        let mut body = vec![0; length];
        for piece in body.chunks_mut(200_000) {
            thread::sleep(Duration::from_millis(5));
            stream.read_exact(piece)?;
        }
        let digits = body.iter().filter(|byte| byte.is_ascii_digit()).count();
        got.send(digits).expect("the test waits for it");
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\n\r\nmerci")
    }]);
    let url = format!("http://127.0.0.1:{port}/results");
    let post = Request {
        method: Method::Post { len: length },
        accept: Accept::Any,
        ..request(&url)
    };
    carry_out(Files::default(), &post, json.as_bytes(), SOON).expect("it is fine");
    assert_eq!(digits.recv(), Ok(1_500_000));
    let requests = server.join().expect("the server");
    let line = format!("\r\nContent-Length: {length}\r\n");
    assert!(requests[0].starts_with("POST /results HTTP/1.1\r\n") && requests[0].contains(&line));
}

/// A server of TLS: what it sends is `says`; it takes leave unless it is `rude`.
fn serve_tls(
    config: ServerConfig,
    says: Vec<u8>,
    rude: bool,
) -> (u16, thread::JoinHandle<Vec<String>>) {
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let session = ServerConnection::new(config).expect("a session");
        let mut stream = StreamOwned::new(session, stream);
        let head = head(&mut stream);
        // The client may have gone.
        if !head.is_empty() && stream.write_all(&says).is_ok() && !rude {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        vec![head]
    });
    (port, server)
}

fn server_config(identity: &Identity, clients: Option<&Authority>) -> ServerConfig {
    server_config_of(identity, clients, rustls::ALL_VERSIONS)
}

fn server_config_of(
    identity: &Identity,
    clients: Option<&Authority>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = |path| CertificateDer::from_pem_file(path).expect("a certificate");
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate(authority.ca())).expect("a CA");
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
    builder
        .with_single_cert(vec![certificate(identity.cert.clone())], key)
        .expect("they fit")
}

fn trusts(authority: &Authority) -> Files {
    Files {
        ca: Some(authority.ca()),
        identity: None,
    }
}

fn get_tls(files: Files, port: u16) -> Result<Got, String> {
    let url = format!("https://localhost:{port}/m.wasm");
    carry_out(files, &request(&url), &[], SOON)
}

#[test]
fn https_gets_a_module() {
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = server_config_of(&identity, None, &[version]);
        let mut says = b"HTTP/1.1 200 OK\r\nContent-Length: 700001\r\n\r\n".to_vec();
        says.extend(module());
        let (port, server) = serve_tls(config, says, true);
        let got = get_tls(trusts(&authority), port).expect("it is fine");
        assert!(got.body == module(), "{} bytes", got.body.len());
        let requests = server.join().expect("the server");
        assert!(requests[0].starts_with("GET /m.wasm HTTP/1.1\r\n"));
        assert!(requests[0].contains(&format!("\r\nHost: localhost:{port}\r\n")));
    }
}

#[test]
fn a_body_without_a_length_needs_an_announced_end() {
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    for rude in [false, true] {
        let says = b"HTTP/1.1 200 OK\r\n\r\n0123456789".to_vec();
        let (port, server) = serve_tls(server_config(&identity, None), says, rude);
        let result = get_tls(trusts(&authority), port);
        server.join().expect("the server");
        match rude {
            false => assert_eq!(result.expect("it is fine").body, b"0123456789"),
            true => assert_error(result, "broke: "),
        }
    }
}

#[test]
fn servers_that_are_not_who_they_should_be_get_no_request() {
    let authority = Authority::new();
    let check = |identity: &Identity, files: Files, words: &str| {
        let (port, server) = serve_tls(server_config(identity, None), b"x".to_vec(), false);
        assert_error(get_tls(files, port), words);
        assert_eq!(server.join().expect("the server"), [""]);
    };
    let good = authority.issue("localhost");
    check(
        &good,
        trusts(&Authority::new()),
        "no CA that is trusted here has signed it",
    );
    // The system's.
    check(&good, Files::default(), "no TLS with localhost:");
    let other = authority.issue("another.example");
    check(
        &other,
        trusts(&authority),
        "certificate not valid for name \"localhost\"",
    );
    let expired = authority.issue_expired("localhost");
    check(&expired, trusts(&authority), "certificate expired");
}

#[test]
fn a_server_may_ask_who_we_are() {
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    let own = authority.issue("proplet.example");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = || server_config_of(&identity, Some(&authority), &[version]);
        let says = || b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec();
        let (port, server) = serve_tls(config(), says(), false);
        assert_error(get_tls(trusts(&authority), port), "received fatal alert");
        assert_eq!(server.join().expect("the server"), [""]);
        let files = Files {
            identity: Some((own.cert.clone(), own.key.clone())),
            ..trusts(&authority)
        };
        let (port, server) = serve_tls(config(), says(), false);
        assert_eq!(get_tls(files, port).expect("it is fine").body, b"hi");
        server.join().expect("the server");
    }
}

#[test]
fn a_port_without_tls_is_told() {
    let authority = Authority::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        let (stream, _) = listener.accept()?;
        drop(stream);
        io::Result::Ok(())
    });
    for _ in 0..2 {
        let result = get_tls(trusts(&authority), port);
        assert_error(result, "check that the port speaks TLS");
    }
    server.join().expect("the server").expect("connections");
}

#[test]
fn https_leads_to_http_never() {
    let authority = Authority::new();
    let says = b"HTTP/1.1 302 Found\r\nLocation: http://localhost:1/x\r\n\r\n".to_vec();
    let config = server_config(&authority.issue("localhost"), None);
    let (port, server) = serve_tls(config, says, false);
    let error = "a redirect from https to http, at localhost:1, is not followed";
    assert_error(get_tls(trusts(&authority), port), error);
    server.join().expect("the server");
}

/// Python's own HTTP server.
struct Python(Child);

impl Python {
    /// Runs `script` and waits for the line that it prints when it is ready.
    fn start(script: &str) -> Option<Self> {
        let remedy = "install the Debian package python3";
        if is_missing(program("python3").is_some(), "python3", remedy) {
            return None;
        }
        let mut child = Command::new("python3")
            .args(["-u", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts");
        let out = child.stdout.take().expect("it is piped");
        let line = BufReader::new(out).lines().next();
        assert!(line.is_some_and(|line| line.is_ok()), "python3 has ended");
        Some(Self(child))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It may have ended by itself; either way it's gone after this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pythons_server_is_understood() {
    let (dir, port) = (Dir::new(), free_port());
    fs::create_dir(dir.path("modules")).expect("a directory");
    fs::write(dir.path("modules/m.wasm"), module()).expect("a file");
    fs::write(dir.path("modules/index.html"), "<p>").expect("a file");
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    let path = |path: std::path::PathBuf| format!("{:?}", path.to_str().expect("text"));
    for tls in [false, true] {
        let wrap = match tls {
            false => String::new(),
            true => format!(
                "c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
                 c.load_cert_chain({}, {})\n\
                 s.socket = c.wrap_socket(s.socket, server_side=True)\n",
                path(identity.cert.clone()),
                path(identity.key.clone())
            ),
        };
        let script = format!(
            "import http.server, functools, ssl\n\
             h = functools.partial(http.server.SimpleHTTPRequestHandler, directory={})\n\
             s = http.server.ThreadingHTTPServer(('127.0.0.1', {port}), h)\n\
             {wrap}print('ready')\ns.serve_forever()\n",
            path(dir.path(""))
        );
        let Some(_server) = Python::start(&script) else {
            return;
        };
        let scheme = if tls { "https" } else { "http" };
        let get = |path: &str| {
            let url = format!("{scheme}://localhost:{port}{path}");
            carry_out(trusts(&authority), &request(&url), &[], SOON)
        };
        let got = get("/modules/m.wasm").expect("it is fine");
        assert!(got.body == module(), "{} bytes", got.body.len());
        assert_eq!(got.length, Some(700_001));
        assert_error(get("/modules/no.wasm"), "HTTP 404 from localhost:");
        // It redirects to the directory's own URL.
        assert_error(get("/modules"), "content type text/html");
    }
}
