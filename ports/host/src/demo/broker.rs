//! An MQTT broker in this process.

use anyhow::{Context as _, Result};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// A broker's listeners on loopback. It runs as long as the process.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// For MQTT 3.1.1, as the manager speaks it.
    pub v4: u16,
    /// For MQTT 5, as the proplet speaks it.
    pub v5: u16,
}

/// Starts a broker on free ports.
///
/// # Errors
/// If it can't listen.
pub fn start() -> Result<Ports> {
    let (v4, v5) = (free_port()?, free_port()?);
    let config = Config {
        router: RouterConfig {
            max_connections: 64,
            max_outgoing_packet_count: 200,
            max_segment_size: 16 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("v4".into(), server("v4", v4))])),
        v5: Some(HashMap::from([("v5".into(), server("v5", v5))])),
        ..Config::default()
    };
    thread::Builder::new()
        .name("broker".into())
        .spawn(move || {
            if let Err(error) = Broker::new(config).start() {
                eprintln!("error: broker: {error}");
            }
        })?;
    let deadline = Instant::now() + Duration::from_secs(5);
    for port in [v4, v5] {
        while let Err(error) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            if Instant::now() > deadline {
                return Err(error).context("the broker does not listen after 5 s");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(Ports { v4, v5 })
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

fn server(name: &str, port: u16) -> ServerSettings {
    ServerSettings {
        name: name.into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: 16 << 20,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    }
}
