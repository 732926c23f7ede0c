//! MQTT over TLS, to a broker with certificates made for the test.

use crate::{
    scenarios::cuts::{self, Line},
    support::{
        ADD, Authority, Broker, Dir, ID, Identity, Peer, Proplet, Proxy, SIZES_ARGS, SOON,
        assert_all_sizes_are_answered, base64, free_port, host::join_at, is_alive, start,
    },
};
use serde_json::json;
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// A broker with one port for TLS, and one without for the stand-in of the manager.
struct Stage {
    peer: Peer,
    broker: Broker,
    port: u16,
    authority: Authority,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

impl Stage {
    /// The broker has the certificate that `issue` makes, and these further lines.
    fn new(issue: impl FnOnce(&Authority) -> Identity, lines: &str) -> Option<Self> {
        let (authority, port) = (Authority::new(), free_port());
        let server = issue(&authority);
        let lines = format!(
            "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n{lines}\n",
            text(&authority.ca()),
            text(&server.cert),
            text(&server.key)
        );
        let broker = Broker::start_with(None, lines)?;
        let peer = Peer::connect(broker.port, "manager", None);
        Some(Self {
            peer,
            broker,
            port,
            authority,
        })
    }

    fn join(&self, args: &[&str]) -> Proplet {
        join_at(&format!("mqtts://localhost:{}", self.port), args)
    }

    fn assert_joined(&self) {
        self.peer.expect(SOON, "a heartbeat over TLS", is_alive);
    }

    /// It says why, tries again, and has sent nothing.
    fn assert_refused(&self, proplet: &mut Proplet, words: &str) {
        proplet.expect_log(words);
        proplet.expect_logs(Duration::from_secs(20), "next attempt in", 2);
        assert!(proplet.is_running(), "the proplet has ended");
        let alive = self.peer.all(is_alive);
        assert!(alive.is_empty(), "it has joined: {alive:?}");
    }
}

#[test]
fn a_broker_with_the_right_certificate_is_joined_and_works() {
    let Some(mut stage) = Stage::new(|a| a.issue("localhost"), "") else {
        return;
    };
    let ca = stage.authority.ca();
    let proplet = stage.join(&["--tls-ca", text(&ca), "--arena-bytes", "2000000"]);
    stage.assert_joined();
    let run = |id: &str, body| {
        stage.peer.publish("control/manager/start", &body);
        assert_eq!(stage.peer.results(id).body["results"], json!("42"));
    };
    run(
        "small",
        start("small", "add", ADD, &json!({"inputs": [40, 2]})),
    );
    // Many records of TLS.
    let waste = "x".repeat(300_000);
    let large = format!("{} (data \"{waste}\") (memory 5))", &ADD[..ADD.len() - 1]);
    let module = wat::parse_str(large).expect("a module");
    let body = json!({"inputs": [40, 2], "file": base64(&module)});
    run("large", start("large", "add", ADD, &body));

    stage.broker.restart();
    proplet.expect_log("the connection broke");
    proplet.expect_logs(SOON, "with a new session", 2);
    proplet.ctrl_c();
    proplet.expect_log("the link has ended");
    // Not lost: its goodbye has arrived.
    let left = format!("Client {ID} disconnected.");
    let deadline = Instant::now() + SOON;
    while !stage.broker.log().contains(&left) {
        assert!(Instant::now() < deadline, "{}", stage.broker.log());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn messages_of_a_byte_to_8_mib_are_answered_over_tls() {
    let Some(stage) = Stage::new(|a| a.issue("localhost"), "") else {
        return;
    };
    let ca = stage.authority.ca();
    let args = [&["--tls-ca", text(&ca)], SIZES_ARGS].concat();
    let mut proplet = stage.join(&args);
    stage.assert_joined();
    assert_all_sizes_are_answered(&mut proplet, &stage.peer);
}

/// Records of TLS are cut as well.
#[test]
fn a_start_whose_connection_is_cut_anywhere_runs_once_over_tls() {
    let Some(stage) = Stage::new(|a| a.issue("localhost"), "") else {
        return;
    };
    let proxy = Proxy::start(stage.port);
    let ca = stage.authority.ca();
    let url = format!("mqtts://localhost:{}", proxy.port);
    let proplet = join_at(&url, &[&["--tls-ca", text(&ca)], cuts::ARGS].concat());
    let mut line = Line::with(stage.broker, stage.peer, proxy, proplet);
    line.assert_cut_starts_run(&[3, 200, 500_000, 1_000_000]);
}

#[test]
fn an_address_may_be_the_name() {
    let Some(stage) = Stage::new(|a| a.issue("127.0.0.1"), "") else {
        return;
    };
    let url = format!("ssl://127.0.0.1:{}", stage.port);
    let _proplet = join_at(&url, &["--tls-ca", text(&stage.authority.ca())]);
    stage.assert_joined();
}

#[test]
fn a_broker_of_another_authority_is_refused() {
    let Some(stage) = Stage::new(|a| a.issue("localhost"), "") else {
        return;
    };
    let another = Authority::new();
    let mut proplet = stage.join(&["--tls-ca", text(&another.ca())]);
    stage.assert_refused(&mut proplet, "no CA that is trusted here has signed it");
}

#[test]
fn a_broker_of_another_name_is_refused() {
    let Some(stage) = Stage::new(|a| a.issue("another.example"), "") else {
        return;
    };
    let mut proplet = stage.join(&["--tls-ca", text(&stage.authority.ca())]);
    stage.assert_refused(&mut proplet, "certificate not valid for name \"localhost\"");
}

#[test]
fn a_broker_whose_certificate_has_expired_is_refused() {
    let Some(stage) = Stage::new(|a| a.issue_expired("localhost"), "") else {
        return;
    };
    let mut proplet = stage.join(&["--tls-ca", text(&stage.authority.ca())]);
    stage.assert_refused(&mut proplet, "certificate expired");
}

#[test]
fn a_broker_that_asks_for_a_certificate_is_given_ours() {
    for version in ["tlsv1.2", "tlsv1.3"] {
        let lines = format!("require_certificate true\ntls_version {version}");
        let Some(stage) = Stage::new(|a| a.issue("localhost"), &lines) else {
            return;
        };
        let ca = stage.authority.ca();
        let mut without = stage.join(&["--tls-ca", text(&ca)]);
        stage.assert_refused(&mut without, "no TLS with the broker");
        without.kill();
        without.wait(SOON);
        let own = stage.authority.issue("proplet.example");
        let args = [
            "--tls-ca",
            text(&ca),
            "--tls-cert",
            text(&own.cert),
            "--tls-key",
            text(&own.key),
        ];
        let _proplet = stage.join(&args);
        stage.assert_joined();
    }
}

#[test]
fn a_port_without_tls_is_told() {
    let Some(stage) = Stage::new(|a| a.issue("localhost"), "") else {
        return;
    };
    let url = format!("mqtts://localhost:{}", stage.broker.port);
    let mut proplet = join_at(&url, &["--tls-ca", text(&stage.authority.ca())]);
    stage.assert_refused(&mut proplet, "check that the port speaks TLS");
}

#[test]
fn files_that_are_no_certificates_are_told_at_the_start() {
    let dir = Dir::new();
    let (none, empty) = (dir.path("none"), dir.path("empty"));
    fs::write(&empty, "no PEM in here\n").expect("a file");
    for (args, words) in [
        (&["--tls-ca", text(&none)][..], "No such file"),
        (&["--tls-ca", text(&empty)], "there is no certificate in"),
        (
            &["--tls-cert", text(&empty)],
            "--tls-cert and --tls-key go together",
        ),
    ] {
        let mut proplet = join_at("mqtts://localhost", args);
        assert!(!proplet.wait(SOON).success());
        proplet.expect_log(words);
    }
}
