//! Tasks and invocations over MQTT, beside an echo client on the same broker.
//! `cargo bench --bench mqtt`
//!
//! The proplet is a process of its own, as is the broker: mosquitto where it is installed, else
//! rumqttd in this process. The delay of results that the protocol asks for is off here.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use proplet_host::demo::broker;
use rumqttc::{Client, Event, MqttOptions, NetworkOptions, Packet, QoS};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

const PREFIX: &str = "m/bench/c/bench";
const ADDITION: &str = r#"(module (func (export "main") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))"#;

/// Ends its process when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ports for MQTT 3.1.1 and 5, what the broker is, and the process to end.
fn broker() -> (u16, u16, &'static str, Option<Process>) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let port = port.expect("a free port").port();
    let config = std::env::temp_dir().join(format!("proplet-bench-{port}.conf"));
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_inflight_messages 0\n"
    );
    std::fs::write(&config, text).expect("a file in the temporary folder");
    let child = Command::new("mosquitto")
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Ok(child) => {
            thread::sleep(Duration::from_millis(300));
            // It has read it.
            let _ = std::fs::remove_file(&config);
            (port, port, "mosquitto", Some(Process(child)))
        }
        Err(_) => {
            let ports = broker::start().expect("a broker");
            (
                ports.v4,
                ports.v5,
                "rumqttd (mosquitto is not installed)",
                None,
            )
        }
    }
}

fn client(name: &str, port: u16, topic: &str) -> (Client, Receiver<(Instant, String, Value)>) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options
        .set_inflight(200)
        .set_keep_alive(Duration::from_secs(30));
    let (client, mut connection) = Client::new(options, 1000);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    connection.eventloop.set_network_options(network);
    client.subscribe(topic, QoS::AtLeastOnce).expect("a client");
    let (sender, inbox) = channel();
    let (ready, subscribed) = channel();
    thread::spawn(move || {
        for event in connection.iter() {
            match event {
                Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.send(())),
                Ok(Event::Incoming(Packet::Publish(p))) => {
                    let body = serde_json::from_slice(&p.payload).unwrap_or_default();
                    if sender.send((Instant::now(), p.topic, body)).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    });
    let timeout = Duration::from_secs(10);
    subscribed
        .recv_timeout(timeout)
        .expect("the broker answers");
    (client, inbox)
}

/// A bare MQTT 5 client that answers each message of QoS 1 with one of the same size: no JSON is read, nothing
/// runs. It is this program, as a process of its own.
fn echo(port: u16) -> Process {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--echo", &port.to_string()])
        .spawn();
    Process(child.expect("the echo"))
}

/// The echo's process: one packet after the other, and one write for all that a read has brought.
fn run_echo(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let mut connect = vec![0, 4];
    connect.extend(b"MQTT\x05\x02\x00\x00\x00\x00\x04echo");
    stream.write_all(&packet(0x10, &connect))?;
    let filter = format!("{PREFIX}/echo/to/+");
    let mut subscribe = vec![0, 1, 0];
    subscribe.extend((filter.len() as u16).to_be_bytes());
    subscribe.extend(filter.as_bytes());
    subscribe.push(1);
    stream.write_all(&packet(0x82, &subscribe))?;
    let topic = format!("{PREFIX}/echo/from");
    let (mut input, mut read, mut answers, mut next) = (Vec::new(), [0; 65_536], Vec::new(), 0u16);
    loop {
        let n = stream.read(&mut read)?;
        if n == 0 {
            return Ok(());
        }
        input.extend_from_slice(&read[..n]);
        let mut rest = &input[..];
        while let Some((first, body, behind)) = split_packet(rest) {
            if first & 0xf6 == 0x32 {
                let topic_len = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (id, payload) = body[2 + topic_len..].split_at(2);
                answers.extend([0x40, 2, id[0], id[1]]);
                next = next.checked_add(1).unwrap_or(1);
                let mut publish = (topic.len() as u16).to_be_bytes().to_vec();
                publish.extend(topic.as_bytes());
                publish.extend(next.to_be_bytes());
                // Its properties, of which there are none, and the same payload.
                publish.extend(payload);
                answers.extend(packet(0x32, &publish));
            }
            rest = behind;
        }
        let left = rest.len();
        input.drain(..input.len() - left);
        if !answers.is_empty() {
            stream.write_all(&answers)?;
            answers.clear();
        }
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut len = body.len();
    while len > 0x7f {
        packet.push(len as u8 | 0x80);
        len >>= 7;
    }
    packet.push(len as u8);
    packet.extend(body);
    packet
}

/// First byte and body of the first packet, and what is behind it; `None` while it is not whole.
fn split_packet(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (mut len, mut at) = (0, 1);
    loop {
        let byte = *input.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = input.get(at..at + len)?;
    Some((input[0], body, &input[at + len..]))
}

struct Driver {
    /// The channel, and the id of the one proplet on it.
    id: String,
    client: Client,
    inbox: Receiver<(Instant, String, Value)>,
    /// The module of a start, in base64.
    file: String,
}

/// What is sent and answered.
#[derive(Clone, Copy)]
enum Kind {
    Start,
    Invocation,
    /// The same, to the echo.
    EchoedStart,
    EchoedInvocation,
}

impl Kind {
    const fn topics(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("control/manager/start", "control/proplet/results"),
            Self::Invocation => ("control/manager/invoke", "control/proplet/invoke_results"),
            Self::EchoedStart | Self::EchoedInvocation => ("echo/to/proplet", "echo/from"),
        }
    }

    const fn is_echo(self) -> bool {
        matches!(self, Self::EchoedStart | Self::EchoedInvocation)
    }

    /// Field that tells which message is answered.
    const fn key(self) -> &'static str {
        match self {
            Self::Start => "task_id",
            Self::EchoedStart => "id",
            Self::Invocation | Self::EchoedInvocation => "invocation_id",
        }
    }

    fn message(self, proplet: &str, id: &str, file: &str) -> Value {
        match self {
            Self::Start | Self::EchoedStart => json!({
                "id": id, "name": "main", "file": file, "inputs": ["20", "22"],
                "proplet_id": proplet, "monitoring_profile": {"enabled": false}
            }),
            Self::Invocation | Self::EchoedInvocation => json!({
                "id": "deployed", "broadcast": false, "proplet_id": proplet,
                "invocation_id": id, "inputs": ["20", "22"]
            }),
        }
    }
}

impl Driver {
    /// Of the proplet on this channel.
    fn new(port: u16, channel: &str) -> Self {
        let name = format!("driver-{channel}");
        let (client, inbox) = client(&name, port, &format!("m/bench/c/{channel}/#"));
        Self {
            id: channel.into(),
            client,
            inbox,
            file: BASE64_STANDARD.encode(wat::parse_str(ADDITION).expect("it assembles")),
        }
    }

    fn publish(&self, topic: &str, body: &Value) {
        self.client
            .publish(
                format!("m/bench/c/{}/{topic}", self.id),
                QoS::AtLeastOnce,
                false,
                body.to_string(),
            )
            .expect("a client");
    }

    fn next(&self, topic: &str) -> (Instant, Value) {
        loop {
            let message = self.inbox.recv_timeout(Duration::from_secs(20));
            let (at, found, body) = message.unwrap_or_else(|_| panic!("nothing on {topic}"));
            if found.ends_with(topic) {
                return (at, body);
            }
        }
    }

    /// Deploys the addition as a latent task.
    fn deploy(&self, id: &str) {
        self.publish(
            "control/manager/start",
            &json!({"id": id, "name": "main", "file": self.file, "latent": true,
                "proplet_id": self.id, "monitoring_profile": {"enabled": false}}),
        );
    }

    /// Sends messages of this kind until `calls` are answered, `at_once` under way; returns each one's time,
    /// and the answers a second.
    fn calls(&self, kind: Kind, calls: usize, at_once: usize) -> (Vec<Duration>, f64) {
        let (to, from) = kind.topics();
        let began = Instant::now();
        let (mut sent, mut times) = (HashMap::new(), Vec::new());
        let mut next = 0;
        while times.len() < calls {
            while sent.len() < at_once && next < calls {
                let id = format!("{to}-{at_once}-{next}");
                sent.insert(id.clone(), Instant::now());
                self.publish(to, &kind.message(&self.id, &id, &self.file));
                next += 1;
            }
            let (at, body) = self.next(from);
            assert!(kind.is_echo() || body["results"] == "42", "{body}");
            let id = body[kind.key()].as_str().unwrap_or_default();
            times.push(at - sent.remove(id).expect("one answer a call"));
        }
        let rate = calls as f64 / began.elapsed().as_secs_f64();
        (times, rate)
    }
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| {
        times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3
    };
    format!("{:.2} | {:.2}", at(50), at(99))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, option, port] = &args[..]
        && option == "--echo"
    {
        // It ends with the broker.
        let _ = run_echo(port.parse().expect("a port"));
        return;
    }
    let (v4, v5, name, _broker) = broker();
    let _echo = echo(v5);
    let driver = Driver::new(v4, "bench");
    let _proplet = proplet(v5, "bench", &[]);
    driver.next("control/proplet/alive");
    driver.deploy("deployed");

    println!("Broker: {name}. Times in ms; QoS 1 on every hop.\n");
    println!("| what | at once | p50 | p99 | a second | against the echo |");
    println!("|---|---|---|---|---|---|");
    for (kind, echoed, what) in [
        (Kind::Start, Kind::EchoedStart, "start to result"),
        (
            Kind::Invocation,
            Kind::EchoedInvocation,
            "latent invocation",
        ),
    ] {
        driver.calls(kind, 500, 4);
        driver.calls(echoed, 500, 4);
        for at_once in [1, 8, 24, 64] {
            compare(&driver, kind, echoed, what, at_once);
        }
    }
    sizes(v4, v5);
}

/// Turn by turn, so that both meet the same machine.
fn compare(driver: &Driver, kind: Kind, echoed: Kind, what: &str, at_once: usize) {
    const TURNS: usize = 5;
    let (mut echoes, mut calls) = ((Vec::new(), 0.0), (Vec::new(), 0.0));
    for _ in 0..TURNS {
        for (kind, sum) in [(echoed, &mut echoes), (kind, &mut calls)] {
            let (times, rate) = driver.calls(kind, 1000, at_once);
            sum.0.extend(times);
            sum.1 += rate / TURNS as f64;
        }
    }
    let (echo, call) = (quantiles(echoes.0), quantiles(calls.0));
    println!("| its echo | {at_once} | {echo} | {:.0} | 1 |", echoes.1);
    let ratio = calls.1 / echoes.1;
    println!(
        "| {what} | {at_once} | {call} | {:.0} | {ratio:.2} |",
        calls.1
    );
}

/// Invocations of a proplet with many slots and deployments, against those of one with few: of as many
/// as are to be under way at once.
fn sizes(v4: u16, v5: u16) {
    const TURNS: usize = 10;
    let of = |channel: &str, slots: &str, deployments: usize| {
        let driver = Driver::new(v4, channel);
        let count = deployments.to_string();
        let args = ["--instances", slots, "--deployments", &count];
        let process = proplet(
            v5,
            channel,
            &[&args[..], &["--arena-bytes", "2097152"]].concat(),
        );
        driver.next("control/proplet/alive");
        for n in 1..deployments {
            driver.deploy(&format!("other-{n}"));
        }
        driver.deploy("deployed");
        (driver, process)
    };
    println!("\nInvocations a second with 4,096 slots and 256 deployed, against 20 deployed:\n");
    println!("| at once | slots | few | 4,096 slots | ratio |");
    println!("|---|---|---|---|---|");
    let (large, _large) = of("large", "4096", 256);
    for (slots, all_at_once) in [("64", &[1, 24, 60][..]), ("256", &[200])] {
        let (small, _small) = of(&format!("small-{slots}"), slots, 20);
        for &at_once in all_at_once {
            let calls = if at_once == 1 { 1000 } else { 3000 };
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..TURNS {
                for (rates, driver) in rates.iter_mut().zip([&small, &large]) {
                    rates.push(driver.calls(Kind::Invocation, calls, at_once).1);
                }
            }
            let [small, large] = rates.map(|mut rates| {
                rates.sort_unstable_by(f64::total_cmp);
                rates[TURNS / 2]
            });
            let ratio = large / small;
            println!("| {at_once} | {slots} | {small:.0} | {large:.0} | {ratio:.2} |");
        }
    }
}

/// A proplet of its own process, on a channel.
fn proplet(port: u16, channel: &str, args: &[&str]) -> Process {
    let child = Command::new(env!("CARGO_BIN_EXE_proplet"))
        .args(["join", "--broker", &format!("mqtt://127.0.0.1:{port}")])
        .args(["--tenant", "bench", "--channel", channel, "--id", channel])
        .args(["--result-delay-ms", "0"])
        .args(args)
        .env("RUST_LOG", "warn")
        .spawn();
    Process(child.expect("the proplet"))
}
