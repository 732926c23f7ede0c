//! MQTT over TLS, to a broker with certificates made for the test.

use crate::support::{
    Broker, Dir, Peer, Proplet, SOON, firmware::Device, free_port, is_alive, is_missing, program,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
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
