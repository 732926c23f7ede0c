//! The real proxy of the registry, with its default chunks, and a registry of the test's own.

use crate::{
    binary,
    support::{
        Authority, Broker, CHANNEL, Dir, Identity, Message, Peer, Proplet, SOON, TENANT, free_port,
        is_alive, is_results, start_image, with_custom_section, with_data,
    },
};
use proplet::module::{hex::to_hex, table::digest};
use proplet_testing::is_missing;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Bytes of a chunk, by default.
const CHUNK: usize = 512_000;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image in the registry: a manifest with one layer.
struct Image {
    name: &'static str,
    manifest: String,
    module: Vec<u8>,
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    let digest = format!("sha256:{}", to_hex(&digest(bytes)));
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

impl Image {
    fn new(name: &'static str, module: Vec<u8>) -> Self {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [descriptor("application/wasm", &module)]});
        Self {
            name,
            manifest: manifest.to_string(),
            module,
        }
    }
}

/// Serves these images over HTTPS, for as long as the process lives; returns the port.
fn registry(identity: &Identity, images: Vec<Image>) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_file(&identity.cert).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they fit");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let (config, images) = (Arc::new(config), Arc::new(images));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            let images = Arc::clone(&images);
            // The proxy may have gone.
            thread::spawn(move || answer(StreamOwned::new(session, stream), &images));
        }
    });
    port
}

fn answer(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    images: &[Image],
) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(&mut stream as &mut dyn Read);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let mut words = head.split(' ');
    let (method, path) = (words.next(), words.next().unwrap_or_default());
    let image = images.iter().find(|image| path.contains(image.name));
    let found = image.map(|image| match path.contains("/manifests/") {
        true => (MANIFEST, image.manifest.as_bytes()),
        false => ("application/octet-stream", &image.module[..]),
    });
    let Some((media_type, body)) = found else {
        return stream
            .write_all(b"HTTP/1.1 404 -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let head = format!(
        "HTTP/1.1 200 -\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\
         Docker-Content-Digest: sha256:{}\r\nConnection: close\r\n\r\n",
        body.len(),
        to_hex(&digest(body))
    );
    stream.write_all(head.as_bytes())?;
    if method != Some("HEAD") {
        stream.write_all(body)?;
    }
    stream.conn.send_close_notify();
    stream.flush()
}

/// The proxy as a child.
struct RegistryProxy {
    child: Child,
    dir: Dir,
}

impl RegistryProxy {
    /// Starts one that trusts `authority`; `None` without its binary.
    fn start(broker: u16, authority: &Authority) -> Option<Self> {
        let binary = binary("PROPELLER_PROXY", "proxy");
        let remedy = "see tests/manager, and set PROPELLER_PROXY to the binary";
        if is_missing(binary.is_some(), "Propeller proxy", remedy) {
            return None;
        }
        let dir = Dir::new();
        let log = File::create(dir.path("proxy.log")).expect("a log");
        let child = Command::new(binary?)
            .env("PROXY_MQTT_ADDRESS", format!("tcp://127.0.0.1:{broker}"))
            .env("PROXY_DOMAIN_ID", TENANT)
            .env("PROXY_CHANNEL_ID", CHANNEL)
            .env("PROXY_CLIENT_ID", "proxy")
            .env("PROXY_CLIENT_KEY", "secret")
            .env("PROXY_HTTP_PORT", free_port().to_string())
            .env("PROXY_REGISTRY_URL", "localhost")
            .env("SSL_CERT_FILE", authority.ca())
            .current_dir(dir.path(""))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the proxy starts");
        let proxy = Self { child, dir };
        let deadline = Instant::now() + SOON;
        while !proxy.log().contains("successfully subscribed") {
            assert!(Instant::now() < deadline, "{}", proxy.log());
            thread::sleep(Duration::from_millis(20));
        }
        Some(proxy)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path("proxy.log")).unwrap_or_default()
    }
}

impl Drop for RegistryProxy {
    fn drop(&mut self) {
        // It may have ended by itself; either way it's gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("---- the proxy's log\n{}", self.log());
        }
    }
}

/// Modules in three chunks: one that is kept, one of which little is, and one that finds no room.
#[test]
fn the_default_chunks_of_the_real_proxy_are_taken() {
    const LEN: usize = 2 * CHUNK + 100_000;
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    let authority = Authority::new();
    let Some(_proxy) = RegistryProxy::start(broker.port, &authority) else {
        return;
    };
    let images = vec![
        Image::new("tests/kept", with_data(LEN)),
        Image::new("tests/custom", with_custom_section(with_data(10), LEN)),
        Image::new("tests/large", with_data(3 * LEN)),
    ];
    let registry = registry(&authority.issue("localhost"), images);
    let run = |id: &str| {
        let image = format!("localhost:{registry}/tests/{id}");
        let body = start_image(id, &image, &json!({"inputs": ["20", "22"]}));
        peer.publish("control/manager/start", &body);
        let is_it = |m: &Message| is_results(m) && m.body["task_id"] == id;
        peer.expect(3 * SOON, id, is_it).body
    };
    let args = ["--arena-bytes", "2097152"];
    let proplet = Proplet::join(broker.port, &args);
    peer.expect(SOON, "a heartbeat", is_alive);
    for id in ["kept", "custom"] {
        let body = run(id);
        assert_eq!(body["results"], "42", "{body}");
    }
    let body = run("large");
    // Of what has come, before the rest is read.
    let need = body["error"]
        .as_str()
        .and_then(|e| e.split("bytes need ").nth(1));
    let need = need.and_then(|words| words.split(' ').next()?.parse().ok());
    assert!(need > Some(2_000_000), "{body}");
    let is_chunk = |m: &Message| m.topic == "registry/server" && m.body["chunk_idx"] == 0;
    let chunk = peer.expect(SOON, "a chunk", is_chunk).body;
    let data = chunk["data"].as_str().map(str::len);
    assert_eq!(
        data,
        Some(CHUNK.div_ceil(3) * 4),
        "bytes of a chunk in base64"
    );
    drop(proplet);

    // Of a module that is custom sections mostly, a board's arena has to hold the rest.
    let heartbeats = peer.all(is_alive).len();
    let _proplet = Proplet::join(broker.port, &["--arena-bytes", "131072"]);
    peer.expect_count(SOON, "a heartbeat", heartbeats + 2, is_alive);
    let before = peer.all_results("custom").len();
    let image = format!("localhost:{registry}/tests/custom");
    let body = start_image("custom", &image, &json!({"inputs": ["20", "22"]}));
    peer.publish("control/manager/start", &body);
    let is_it = |m: &Message| is_results(m) && m.body["task_id"] == "custom";
    let results = peer.expect_count(3 * SOON, "a result", before + 1, is_it);
    assert_eq!(results[before].body["results"], "42");
}
