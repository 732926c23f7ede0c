//! MQTT over TLS, to a broker with certificates made for the test.

use crate::support::{
    ADD, Broker, Dir, Peer, Proplet, SOON, firmware::Device, free_port, is_alive, program,
    start_image, wasm,
};
use proplet_testing::is_missing;
use serde_json::json;
use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A certificate and its key, in PEM.
struct Identity {
    cert: PathBuf,
    key: PathBuf,
}

/// Issues certificates.
struct Authority {
    dir: Dir,
    own: Identity,
}

fn openssl(args: &[&str], files: &[(&str, &Path)]) {
    let mut command = Command::new("openssl");
    command.args(args);
    for (flag, file) in files {
        command.arg(flag).arg(file);
    }
    let output = command.output().expect("openssl starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

const EC: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

impl Authority {
    fn new() -> Self {
        let dir = Dir::new();
        let own = Identity {
            cert: dir.path("ca.pem"),
            key: dir.path("ca.key"),
        };
        let mut args = vec!["req", "-x509", "-days", "2", "-subj", "/CN=Test authority"];
        args.extend(EC);
        openssl(&args, &[("-keyout", &own.key), ("-out", &own.cert)]);
        Self { dir, own }
    }

    /// Issues a certificate for the host `name`.
    fn issue(&self, name: &str) -> Identity {
        let path = |suffix: &str| self.dir.path(&format!("{name}.{suffix}"));
        let (request, extensions) = (path("csr"), path("ext"));
        let issued = Identity {
            cert: path("pem"),
            key: path("key"),
        };
        let subject = format!("/CN={name}");
        let mut args = vec!["req", "-subj", &subject];
        args.extend(EC);
        openssl(&args, &[("-keyout", &issued.key), ("-out", &request)]);
        fs::write(&extensions, format!("subjectAltName=DNS:{name}\n")).expect("a file");
        openssl(
            &["x509", "-req", "-days", "2", "-CAcreateserial"],
            &[
                ("-in", &request),
                ("-CA", &self.own.cert),
                ("-CAkey", &self.own.key),
                ("-extfile", &extensions),
                ("-out", &issued.cert),
            ],
        );
        issued
    }
}

/// A broker with one port for TLS, and one without for the stand-in of the manager.
struct Stage {
    peer: Peer,
    _broker: Broker,
    port: u16,
    authority: Authority,
    device: Device,
}

impl Stage {
    /// The broker's certificate is for `name`; it may ask for the client's.
    fn new(name: &str, asks: bool) -> Option<Self> {
        let remedy = "install the Debian package openssl";
        if is_missing(program("openssl").is_some(), "openssl", remedy) {
            return None;
        }
        let (authority, port) = (Authority::new(), free_port());
        let server = authority.issue(name);
        let lines = format!(
            "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n\
             require_certificate {asks}\n",
            authority.own.cert.display(),
            server.cert.display(),
            server.key.display()
        );
        let broker = Broker::start_with(None, lines)?;
        let peer = Peer::connect(broker.port, "manager", None);
        Some(Self {
            peer,
            _broker: broker,
            port,
            authority,
            device: Device::new(),
        })
    }

    /// Lets the firmware join `host`, which it is to know by the certificate of `ca`.
    fn join(&self, host: &str, ca: &Authority, own: Option<&Identity>) -> Proplet {
        let mut settings = self.device.settings(self.port);
        let mut set = |name: &str, value: &str| {
            settings.retain(|(n, _)| n != name);
            settings.push((name.into(), value.into()));
        };
        set("mqtt_broker_host", host);
        set("mqtt_tls_enabled", "1");
        let file = |path: &Path| format!("@{}", path.display());
        set("mqtt_tls_ca", &file(&ca.own.cert));
        if let Some(own) = own {
            set("mqtt_tls_cert", &file(&own.cert));
            set("mqtt_tls_key", &file(&own.key));
        }
        self.device.boot(&settings)
    }

    fn assert_joined(&self) {
        self.peer.expect(SOON, "a heartbeat over TLS", is_alive);
    }

    /// It says why, tries again, and has sent nothing.
    fn assert_refused(&self, proplet: &mut Proplet, words: &str) {
        proplet.expect_log(words);
        proplet.expect_logs(Duration::from_secs(20), "next attempt in", 2);
        assert!(proplet.is_running(), "the firmware has ended");
        let alive = self.peer.all(is_alive);
        assert!(alive.is_empty(), "it has joined: {alive:?}");
    }
}

#[test]
fn a_broker_with_the_right_certificate_is_joined() {
    let Some(stage) = Stage::new("localhost", false) else {
        return;
    };
    let _proplet = stage.join("localhost", &stage.authority, None);
    stage.assert_joined();
}

#[test]
fn a_broker_of_another_authority_is_refused() {
    let Some(stage) = Stage::new("localhost", false) else {
        return;
    };
    let another = Authority::new();
    let mut proplet = stage.join("localhost", &another, None);
    let words = "certificate is refused: no CA of mqtt_tls_ca has signed it";
    stage.assert_refused(&mut proplet, words);
}

#[test]
fn a_broker_of_another_name_is_refused() {
    let Some(stage) = Stage::new("another.example", false) else {
        return;
    };
    let mut proplet = stage.join("localhost", &stage.authority, None);
    let words = "certificate is refused: it is for another name";
    stage.assert_refused(&mut proplet, words);
}

#[test]
fn a_broker_that_asks_for_a_certificate_is_given_ours() {
    let Some(stage) = Stage::new("localhost", true) else {
        return;
    };
    let mut without = stage.join("localhost", &stage.authority, None);
    stage.assert_refused(&mut without, "the server wants a certificate");
    without.kill();
    without.wait(SOON);
    let own = stage.authority.issue("proplet.example");
    let _proplet = stage.join("localhost", &stage.authority, Some(&own));
    stage.assert_joined();
}

/// `openssl s_server` over files that are whole responses; it ends when dropped.
struct Https {
    child: Child,
    port: u16,
}

impl Https {
    fn start(dir: &Dir, identity: &Identity) -> Self {
        let port = free_port();
        let child = Command::new("openssl")
            .args(["s_server", "-HTTP", "-quiet", "-accept", &port.to_string()])
            .arg("-cert")
            .arg(&identity.cert)
            .arg("-key")
            .arg(&identity.key)
            .current_dir(dir.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let server = Self { child, port };
        let deadline = Instant::now() + SOON;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "openssl s_server does not listen"
            );
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        // It may have ended by itself; either way it's gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_module_comes_over_https_beside_a_broker_with_tls() {
    let Some(stage) = Stage::new("localhost", false) else {
        return;
    };
    let files = Dir::new();
    let module = wasm(ADD);
    let length = format!("Content-Length: {}\r\n", module.len());
    for (name, length) in [("add.wasm", &*length), ("endless.wasm", "")] {
        let head = format!("HTTP/1.0 200 ok\r\nContent-Type: application/wasm\r\n{length}\r\n");
        fs::write(files.path(name), [head.as_bytes(), &module].concat()).expect("a file");
    }
    let good = Https::start(&files, &stage.authority.issue("localhost"));
    let stranger = Https::start(&files, &Authority::new().issue("localhost"));
    let proplet = stage.join("localhost", &stage.authority, None);
    stage.assert_joined();
    for (id, server, name) in [
        ("good", &good, "add"),
        ("endless", &good, "endless"),
        ("stranger", &stranger, "add"),
    ] {
        let url = format!("https://localhost:{}/{name}.wasm", server.port);
        let start = start_image(id, &url, &json!({"name": "add", "inputs": ["20", "22"]}));
        stage.peer.publish("control/manager/start", &start);
    }
    assert_eq!(stage.peer.results("good").body["results"], "42");
    // Mbed TLS does not tell its end from a cut.
    let error = stage.peer.results("endless").body;
    let words = "over https this proplet needs Content-Length or chunks";
    assert!(
        error["error"].as_str().is_some_and(|e| e.contains(words)),
        "{error}"
    );
    let refused = stage.peer.results("stranger").body;
    assert!(refused["error"].is_string(), "{refused}");
    proplet.expect_log("certificate is refused: no CA of mqtt_tls_ca has signed it");
}
