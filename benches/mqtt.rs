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
    net::TcpListener,
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

/// Answers each invocation as a proplet that has nothing to run would.
fn echo(port: u16) {
    let (client, inbox) = client("echo", port, &format!("{PREFIX}/echo/invoke"));
    thread::spawn(move || {
        for (_, _, body) in inbox {
            let answer = json!({"task_id": body["id"], "invocation_id": body["invocation_id"],
                "proplet_id": body["proplet_id"], "results": "42"});
            let topic = format!("{PREFIX}/echo/invoke_results");
            client
                .publish(topic, QoS::AtLeastOnce, false, answer.to_string())
                .expect("a client");
        }
    });
}

struct Driver {
    /// The channel, and the id of the one proplet on it.
    id: String,
    client: Client,
    inbox: Receiver<(Instant, String, Value)>,
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
        let file = BASE64_STANDARD.encode(wat::parse_str(ADDITION).expect("it assembles"));
        self.publish(
            "control/manager/start",
            &json!({"id": id, "name": "main", "file": file, "latent": true,
                "proplet_id": self.id, "monitoring_profile": {"enabled": false}}),
        );
    }

    /// Starts `at_once` tasks, and as many again when all are done; returns each one's time.
    fn starts(&self, rounds: usize, at_once: usize) -> Vec<Duration> {
        let file = BASE64_STANDARD.encode(wat::parse_str(ADDITION).expect("it assembles"));
        let mut times = Vec::new();
        for round in 0..rounds {
            let mut sent = HashMap::new();
            for n in 0..at_once {
                let id = format!("start-{at_once}-{round}-{n}");
                sent.insert(id.clone(), Instant::now());
                self.publish(
                    "control/manager/start",
                    &json!({"id": id, "name": "main", "file": file, "inputs": ["20", "22"],
                        "proplet_id": self.id, "monitoring_profile": {"enabled": false}}),
                );
            }
            while !sent.is_empty() {
                let (at, body) = self.next("control/proplet/results");
                assert_eq!(body["results"], "42", "{body}");
                let id = body["task_id"].as_str().unwrap_or_default();
                times.push(at - sent.remove(id).expect("one result a task"));
            }
        }
        times
    }

    /// Calls until `calls` are answered, `at_once` under way; returns each one's time, and the
    /// calls a second.
    fn calls(&self, to: &str, from: &str, calls: usize, at_once: usize) -> (Vec<Duration>, f64) {
        let began = Instant::now();
        let (mut sent, mut times) = (HashMap::new(), Vec::new());
        let mut next = 0;
        while times.len() < calls {
            while sent.len() < at_once && next < calls {
                let id = format!("{to}-{at_once}-{next}");
                sent.insert(id.clone(), Instant::now());
                self.publish(
                    to,
                    &json!({"id": "deployed", "broadcast": false, "proplet_id": self.id,
                        "invocation_id": id, "inputs": ["20", "22"]}),
                );
                next += 1;
            }
            let (at, body) = self.next(from);
            assert_eq!(body["results"], "42", "{body}");
            let id = body["invocation_id"].as_str().unwrap_or_default();
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
    let (v4, v5, name, _broker) = broker();
    echo(v4);
    let driver = Driver::new(v4, "bench");
    let _proplet = proplet(v5, "bench", &[]);
    driver.next("control/proplet/alive");
    driver.deploy("deployed");

    println!("Broker: {name}. Times in ms; QoS 1 on every hop.\n");
    println!("| what | at once | p50 | p99 | a second | against the echo |");
    println!("|---|---|---|---|---|---|");
    let (echo_to, echo_from) = ("echo/invoke", "echo/invoke_results");
    let (to, from) = ("control/manager/invoke", "control/proplet/invoke_results");
    driver.calls(to, from, 500, 4);
    driver.calls(echo_to, echo_from, 500, 4);
    for at_once in [1, 8, 24] {
        // Turn by turn, so that both meet the same machine.
        let (mut echoes, mut calls) = ((Vec::new(), 0.0), (Vec::new(), 0.0));
        const TURNS: usize = 5;
        for _ in 0..TURNS {
            let (times, rate) = driver.calls(echo_to, echo_from, 1000, at_once);
            echoes.0.extend(times);
            echoes.1 += rate / TURNS as f64;
            let (times, rate) = driver.calls(to, from, 1000, at_once);
            calls.0.extend(times);
            calls.1 += rate / TURNS as f64;
        }
        let (echo, call) = (quantiles(echoes.0), quantiles(calls.0));
        println!("| echo | {at_once} | {echo} | {:.0} | 1 |", echoes.1);
        let ratio = calls.1 / echoes.1;
        println!(
            "| latent invocation | {at_once} | {call} | {:.0} | {ratio:.2} |",
            calls.1
        );
    }
    for (rounds, at_once) in [(1000, 1), (100, 24)] {
        let times = quantiles(driver.starts(rounds, at_once));
        println!("| start to result | {at_once} | {times} | | |");
    }
    sizes(v4, v5);
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
    let (to, from) = ("control/manager/invoke", "control/proplet/invoke_results");
    let (large, _large) = of("large", "4096", 256);
    for (slots, all_at_once) in [("64", &[1, 24, 60][..]), ("256", &[200])] {
        let (small, _small) = of(&format!("small-{slots}"), slots, 20);
        for &at_once in all_at_once {
            let calls = if at_once == 1 { 1000 } else { 3000 };
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..TURNS {
                for (rates, driver) in rates.iter_mut().zip([&small, &large]) {
                    rates.push(driver.calls(to, from, calls, at_once).1);
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
