//! rumqttd as a process of its own, so that it can be ended: it is this test's program once more.

use super::kinds::{Setup, USERS};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::{
    collections::HashMap,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    thread,
};

/// Its ports for MQTT 3.1.1 and 5, and whether only users are let in.
const SETUP: &str = "PROPLET_TEST_RUMQTTD";

pub(super) fn configure(command: &mut Command, setup: &Setup<'_>) {
    let Setup { v3, v5, .. } = setup;
    command
        .args(["--exact", "brokers::rumqttd::serve"])
        .args(["--ignored", "--nocapture"])
        .env(SETUP, format!("{v3} {v5} {}", setup.has_users));
}

/// Serves until the test that has started it goes.
#[test]
#[ignore = "the broker of the other tests"]
fn serve() {
    let Ok(setup) = std::env::var(SETUP) else {
        return;
    };
    let words: Vec<&str> = setup.split(' ').collect();
    let [v3, v5, has_users] = words[..] else {
        panic!("{SETUP}={setup}");
    };
    let has_users = has_users == "true";
    let listen = |name: &str, port: &str| {
        let port = port.parse().expect("a port");
        HashMap::from([(name.into(), server(name, port, has_users))])
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 64,
            max_outgoing_packet_count: 200,
            max_segment_size: 16 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v4: Some(listen("v4", v3)),
        v5: Some(listen("v5", v5)),
        ..Config::default()
    };
    thread::spawn(move || {
        let ended = Broker::new(config).start();
        eprintln!("the broker has ended: {ended:?}");
        std::process::exit(1);
    });
    // It ends when the owner does.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn server(name: &str, port: u16, has_users: bool) -> ServerSettings {
    let users = USERS
        .iter()
        .map(|(name, password)| ((*name).into(), (*password).into()));
    ServerSettings {
        name: name.into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: 16 << 20,
            max_inflight_count: 100,
            auth: has_users.then(|| users.collect()),
            external_auth: None,
            dynamic_filters: true,
        },
    }
}
