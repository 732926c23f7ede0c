//! Bytes per instance, and how soon a run that is stopped is dead, with 24 loops running.
//! `cargo bench --bench engine`

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Parser as _;
use proplet::{
    agent::{Delivery, Event, Qos},
    config::Config,
    engine::Engine as _,
};
use proplet_engine::Workers;
use proplet_host::{
    cli::{Cli, Command, Limits},
    clock,
    proplet::{HostAgent, Proplet},
};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LOOPS: usize = 24;
const STOPS: usize = 1000;

struct Bench {
    agent: HostAgent,
    workers: &'static Workers<proplet_host::platform::Linux>,
}

fn limits() -> Limits {
    let cli = Cli::parse_from(["proplet", "run", "none", "--arena", "192KiB"]);
    match cli.command {
        Some(Command::Run(run)) => run.limits,
        _ => unreachable!("the words above say run"),
    }
}

impl Bench {
    fn send(&mut self, topic: &str, body: &Value) {
        let topic = format!("m/b/c/b/control/manager/{topic}");
        let payload = body.to_string();
        let event = Event::Message {
            topic: &topic,
            payload: payload.as_bytes(),
        };
        self.agent.handle(event, clock::now());
    }

    fn start(&mut self, id: &str, wat: &str, extra: Value) {
        let module = wat::parse_str(wat).expect("the module assembles");
        let mut body = json!({"id": id, "name": "main", "file": BASE64_STANDARD.encode(module)});
        if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
            body.extend(extra);
        }
        self.send("start", &body);
    }

    /// Publishes whatever there is, and returns the messages.
    fn drain(&mut self) -> Vec<Value> {
        let (mut buf, mut out) = ([0; 4096], Vec::new());
        while let Some(publication) = self.agent.poll_publish(Qos::AtLeastOnce, clock::now()) {
            let len = self.agent.write(publication.token, &mut buf, clock::now());
            let len = len.expect("a message fits");
            out.push(serde_json::from_slice(&buf[..len]).expect("messages are JSON"));
            let done = Event::Published(publication.token, Delivery::Done);
            self.agent.handle(done, clock::now());
        }
        out
    }

    /// Waits until a run has ended and lets the agent know.
    fn wait(&mut self) {
        let exits = self.workers.platform().exits();
        poll(&mut [PollFd::new(exits, PollFlags::IN)], None).expect("poll");
        exits.clear();
        self.agent.handle(Event::Tick, clock::now());
    }

    fn used(&self) -> usize {
        let arena = self.agent.engine().arena();
        arena.total - arena.free
    }

    fn running(&self) -> usize {
        self.agent.status().running
    }
}

fn main() {
    let limits = limits();
    let config = Config {
        proplet_id: "bench",
        tenant: "b",
        channel: "b",
        result_delay: Duration::ZERO,
        metrics_interval: Duration::ZERO,
        ..Config::DEFAULT
    };
    let Proplet { agent, workers } = Proplet::new(&limits, config, None).expect("a proplet");
    let mut bench = Bench { agent, workers };
    bench.agent.handle(Event::Connected, clock::now());
    bytes(&mut bench);
    stops(&mut bench);
}

fn bytes(bench: &mut Bench) {
    println!("Arena bytes, {}-bit:\n", usize::BITS);
    println!(
        "| module | bytes of Wasm | load (buffer included) | tables | instance | records, what is kept of its call, and linear memory | the first run, measured |"
    );
    println!("|---|---|---|---|---|---|---|");
    let memory = r#"(module (memory 1 1) (func (export "main") (loop (br 0))))"#;
    let addition = format!(
        "(module (func (export \"add\") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))) {}",
        r#"(func (export "main") (loop (br 0))))"#
    );
    for (name, wat) in [
        (
            "endless loop",
            r#"(module (func (export "main") (loop (br 0))))"#,
        ),
        ("addition and a loop", &addition),
        ("loop with (memory 1 1)", memory),
    ] {
        let before = bench.used();
        bench.start("deployed", wat, json!({"latent": true}));
        let load = bench.used() - before;
        bench.start("first", wat, json!({}));
        // A run has taken what was promised to it when it does work.
        std::thread::sleep(Duration::from_millis(50));
        let run = bench.used() - before - load;
        let wasm = wat::parse_str(wat).expect("the module assembles");
        let needs = wamr::estimate(&wasm).expect("a module");
        println!(
            "| {name} | {} | {load} | {} | {} | {} | {run} |",
            wasm.len(),
            needs.tables,
            needs.instance,
            run as u64 - needs.tables - needs.instance
        );
        bench.send("stop", &json!({"id": "first"}));
        bench.wait();
        bench.send("stop", &json!({"id": "deployed"}));
        bench.drain();
        assert_eq!(bench.used(), before, "the arena is as before, to the byte");
    }
}

fn stops(bench: &mut Bench) {
    let endless = r#"(module (func (export "main") (loop (br 0))))"#;
    for n in 0..LOOPS {
        bench.start(&format!("loop-{n}"), endless, json!({}));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(bench.running(), LOOPS, "{:?}", bench.drain());
    let mut times = Vec::with_capacity(STOPS);
    for n in 0..STOPS {
        let id = format!("loop-{}", n % LOOPS);
        let asked = Instant::now();
        bench.send("stop", &json!({"id": id}));
        while bench.running() == LOOPS {
            bench.wait();
        }
        times.push(asked.elapsed());
        bench.drain();
        bench.start(&id, endless, json!({}));
        // Let it come to run, and not always at the same place in the line.
        std::thread::sleep(Duration::from_micros(500 + (n as u64 * 7919) % 3000));
    }
    times.sort_unstable();
    let at = |percent: usize| times[(STOPS * percent / 100).min(STOPS - 1)].as_secs_f64() * 1e3;
    println!(
        "\nFrom a stop command to the run's death, {LOOPS} endless loops running, {STOPS} stops:\n"
    );
    println!("| p50 | p99 | most |");
    println!("|---|---|---|");
    println!(
        "| {:.3} ms | {:.3} ms | {:.3} ms |",
        at(50),
        at(99),
        at(100)
    );
}
