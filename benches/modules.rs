//! How soon a module that is fetched over HTTP runs, how much memory fetching takes, and how soon a
//! latent deployment answers after a reboot. `cargo bench --bench modules`
//!
//! WAMR is one for a process, and an arena's low-water mark never rises: each measurement has a
//! process of its own, this program again with a role as its first argument.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Parser as _;
use proplet::{
    agent::{Delivery, Event, Qos},
    config::Config,
    engine::Engine as _,
    http::{Accept, Method, Part},
    module::{hex::to_hex, table::digest},
    store::Store,
};
use proplet_engine::Workers;
use proplet_host::{
    cli::{Cli, Command as Role, Limits},
    clock,
    net::{self, Network},
    platform::Linux,
    proplet::{HostAgent, Proplet},
    store::FolderStore,
    tls::Tls,
};
use proplet_link::http;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Bytes of the module.
const MODULE: usize = 64 * 1024;
/// Its functions. Half of one is code enough for the padding to be less than a function.
const FUNCTIONS: usize = 64;
/// Fetches whose times are measured.
const FETCHES: usize = 200;
/// Reboots.
const BOOTS: usize = 20;
/// Invocations after each.
const CALLS: usize = 50;
/// Bytes of the buffer for heads, as on a device that is not told otherwise.
const HEAD: usize = 1536;
/// Bytes that fetching may take beyond the module.
const GOAL: usize = 4096;
/// Bytes that the store may have.
const STORE: u64 = 1 << 20;

/// A module of exactly [`MODULE`] bytes, nearly all of them code.
fn module() -> Vec<u8> {
    let body = "(drop (i32.const 1000000))".repeat(200);
    let functions = format!("(func (result i32) {body} (i32.const 42))").repeat(FUNCTIONS - 1);
    let text = format!(r#"(module (func (export "main") (result i32) (call 1)) {functions})"#);
    let mut module = wat::parse_str(text).expect("it assembles");
    // A custom section fills it up: its id, a length in two bytes, and an empty name.
    let len = MODULE - module.len() - 3;
    assert!((128..1 << 14).contains(&len), "padding of {len} bytes");
    module.extend([0, (len & 0x7f) as u8 | 0x80, (len >> 7) as u8]);
    module.resize(MODULE, 0);
    module
}

fn limits() -> Limits {
    let cli = Cli::parse_from(["proplet", "run", "none", "--arena", "192KiB"]);
    match cli.command {
        Some(Role::Run(run)) => run.limits,
        _ => unreachable!("the words above say run"),
    }
}

/// Answers each request on loopback with the module; the port.
fn serve(module: Vec<u8>, says_length: bool) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let length = match says_length {
        true => format!("Content-Length: {}\r\n", module.len()),
        false => String::new(),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/wasm\r\n{length}\r\n");
    let response = [head.as_bytes(), &module].concat();
    let answer = move |mut stream: TcpStream| {
        let lines = BufReader::new(&stream).lines().map_while(Result::ok);
        // The head of a GET ends with an empty line.
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        stream.write_all(&response).expect("the module goes out");
    };
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.expect("a connection"));
        }
    });
    port
}

struct Bench {
    agent: HostAgent,
    workers: &'static Workers<Linux>,
}

/// A fetched module's way.
struct Fetched {
    fetch: Duration,
    verify: Duration,
    run: Duration,
    /// Bytes of the exchange's future.
    future: usize,
    /// Most bytes of the arena that were taken until the module was complete.
    taken: usize,
}

impl Bench {
    fn new(store: Option<&'static mut dyn Store>) -> Self {
        let config = Config {
            proplet_id: "bench",
            tenant: "b",
            channel: "b",
            result_delay: Duration::ZERO,
            metrics_interval: Duration::ZERO,
            ..Config::DEFAULT
        };
        let Proplet { agent, workers } = Proplet::new(&limits(), config, store).expect("a proplet");
        Self { agent, workers }
    }

    fn send(&mut self, topic: &str, body: &Value) {
        let topic = format!("m/b/c/b/control/manager/{topic}");
        let payload = body.to_string();
        let event = Event::Message {
            topic: &topic,
            payload: payload.as_bytes(),
        };
        self.agent.handle(event, clock::now());
    }

    /// Publishes whatever there is, until a message says results; returns those.
    fn results(&mut self) -> Value {
        let mut buf = [0; 4096];
        loop {
            while let Some(publication) = self.agent.poll_publish(Qos::AtLeastOnce, clock::now()) {
                let len = self.agent.write(publication.token, &mut buf, clock::now());
                let message = &buf[..len.expect("a message fits")];
                let message: Value = serde_json::from_slice(message).expect("messages are JSON");
                let done = Event::Published(publication.token, Delivery::Done);
                self.agent.handle(done, clock::now());
                assert!(message["error"].is_null(), "{message}");
                if !message["results"].is_null() {
                    return message["results"].clone();
                }
            }
            let exits = self.workers.platform().exits();
            poll(&mut [PollFd::new(exits, PollFlags::IN)], None).expect("poll");
            exits.clear();
            self.agent.handle(Event::Tick, clock::now());
        }
    }

    fn free(&self) -> usize {
        self.agent.engine().arena().free
    }

    /// From the start message to the results.
    fn fetch(&mut self, url: &str) -> Fetched {
        let free = self.free();
        let began = Instant::now();
        self.send(
            "start",
            &json!({"id": "fetched", "name": "main", "image_url": url}),
        );
        let (id, request) = self.agent.poll_request().expect("the module is asked for");
        assert_eq!(
            (request.method, request.accept),
            (Method::Get, Accept::Module)
        );
        let wake = self.workers.platform().exits();
        let network = Network::new(wake, Tls::default());
        let (mut head, timeout) = ([0; HEAD], Duration::from_secs(10));
        let mut least = free;
        let body = |_, _: &mut [u8]| 0;
        let receive = |part: Part<'_>| {
            let taken = self.agent.respond(id, part, clock::now());
            least = least.min(self.agent.engine().arena().free);
            taken
        };
        let exchange = http::exchange(&network, &request, body, receive, &mut head, timeout);
        let future = size_of_val(&exchange);
        net::run(exchange, wake).expect("the module comes");
        let fetched = Instant::now();
        // In the first fetch, also what was taken while a buffer grew.
        let taken = free - least.min(self.agent.engine().arena().free_min);
        let taken_on = self.agent.respond(id, Part::End, clock::now());
        taken_on.expect("the module is good");
        let verified = Instant::now();
        assert_eq!(self.results(), "42");
        let run = verified.elapsed();
        assert_eq!(self.free(), free, "the arena is as before");
        Fetched {
            fetch: fetched - began,
            verify: verified - fetched,
            run,
            future,
            taken,
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The role `fetch`: a line for each fetch, in milliseconds and bytes.
fn fetches(says_length: bool) {
    let module = module();
    let hex = to_hex(&digest(&module));
    let port = serve(module, says_length);
    let mut bench = Bench::new(None);
    bench.agent.handle(Event::Connected, clock::now());
    for _ in 0..FETCHES {
        let it = bench.fetch(&format!("http://127.0.0.1:{port}/module@sha256:{hex}"));
        println!(
            "{} {} {} {} {}",
            ms(it.fetch),
            ms(it.verify),
            ms(it.run),
            it.future,
            it.taken
        );
    }
}

fn store(folder: &Path) -> &'static mut FolderStore {
    Box::leak(Box::new(FolderStore::open(folder, STORE).expect("a store")))
}

/// The role `deploy`: a line once the module is deployed, and then nothing until the end.
fn deploy(folder: &Path) {
    let mut bench = Bench::new(Some(store(folder)));
    bench.agent.handle(Event::Connected, clock::now());
    let file = BASE64_STANDARD.encode(module());
    bench.send(
        "start",
        &json!({"id": "deployed", "name": "main", "file": file, "latent": true}),
    );
    assert_eq!(bench.agent.status().deployed, 1, "it is deployed");
    println!("deployed");
    loop {
        thread::park();
    }
}

/// The role `boot`: a line of milliseconds, for opening the store, the proplet, what is restored,
/// and each invocation.
fn boot(folder: &Path) {
    let began = Instant::now();
    let store = store(folder);
    let opened = began.elapsed();
    let began = Instant::now();
    let mut bench = Bench::new(Some(store));
    let made = began.elapsed();
    let began = Instant::now();
    bench.agent.restore(clock::now());
    let restored = began.elapsed();
    print!("{} {} {}", ms(opened), ms(made), ms(restored));
    bench.agent.handle(Event::Connected, clock::now());
    for call in 0..CALLS {
        let began = Instant::now();
        bench.send(
            "invoke",
            &json!({"id": "deployed", "invocation_id": call.to_string()}),
        );
        assert_eq!(bench.results(), "42");
        print!(" {}", ms(began.elapsed()));
    }
    println!();
}

/// This program in a role; it ends when dropped.
struct Process(Child, BufReader<ChildStdout>);

impl Process {
    fn start(role: &[&str]) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(role)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let out = child.stdout.take().expect("it is piped");
        Self(child, BufReader::new(out))
    }

    /// Its next line.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = self.1.read_line(&mut line).expect("text");
        (len > 0).then(|| line.trim_end().to_owned())
    }

    /// The numbers of its next line.
    fn numbers(&mut self) -> Option<Vec<f64>> {
        let number = |word: &str| word.parse().expect("a number");
        Some(self.line()?.split(' ').map(number).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it's gone after this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Median and 99th percentile of `values`.
fn quantiles(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |percent: usize| values[(values.len() * percent / 100).min(values.len() - 1)];
    format!("{:.3} | {:.3}", at(50), at(99))
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["fetch", length] => fetches(length == "length"),
        ["deploy", folder] => deploy(folder.as_ref()),
        ["boot", folder] => boot(folder.as_ref()),
        _ => report(),
    }
}

fn report() {
    println!(
        "A module of {MODULE} bytes, from the start message to the results ({FETCHES} times)\n"
    );
    println!("| | p50, ms | p99, ms |\n|---|---|---|");
    let mut memory = Vec::new();
    for (role, what) in [
        ("length", "with Content-Length"),
        ("none", "without Content-Length"),
    ] {
        let mut process = Process::start(&["fetch", role]);
        let rows: Vec<Vec<f64>> = std::iter::from_fn(|| process.numbers()).collect();
        assert_eq!(rows.len(), FETCHES, "the fetches have ended well");
        let parts = ["fetch", "verify and parse", "run"];
        for (i, part) in parts.into_iter().enumerate() {
            println!(
                "| {what}: {part} | {} |",
                quantiles(rows.iter().map(|r| r[i]))
            );
        }
        let all = quantiles(rows.iter().map(|r| r[..3].iter().sum()));
        println!("| {what}: all | {all} |");
        memory.push((what, rows[0][3] as usize, rows[0][4] as usize));
    }

    println!("\nMost bytes while fetching it\n");
    println!("| | arena | head's buffer | future | all, beyond the module | goal | met |");
    println!("|---|---|---|---|---|---|---|");
    for (what, future, arena) in memory {
        let beyond = (arena + HEAD + future).saturating_sub(MODULE);
        let met = if beyond <= GOAL { "yes" } else { "**no**" };
        println!("| {what} | {arena} | {HEAD} | {future} | {beyond} | ≤ {GOAL} | {met} |");
    }

    let folder = env::temp_dir().join(format!("proplet-bench-{}", std::process::id()));
    let path = folder
        .to_str()
        .expect("the temporary folder's name is text");
    let mut process = Process::start(&["deploy", path]);
    assert_eq!(process.line().as_deref(), Some("deployed"));
    // Killed, as by a loss of power.
    drop(process);
    let boots: Vec<Vec<f64>> = (0..BOOTS)
        .map(|_| Process::start(&["boot", path]).numbers())
        .map(|row| row.expect("the deployment answers"))
        .collect();
    // Only this program has used it.
    let _ = std::fs::remove_dir_all(&folder);
    println!("\nA latent deployment of it, killed and booted {BOOTS} times\n");
    println!("| | p50, ms | p99, ms |\n|---|---|---|");
    for (i, what) in [
        "open the store",
        "engine and agent",
        "restore",
        "first invocation",
    ]
    .into_iter()
    .enumerate()
    {
        println!("| {what} | {} |", quantiles(boots.iter().map(|row| row[i])));
    }
    let calls = boots.iter().flat_map(|row| row[4..].iter().copied());
    println!("| later invocations | {} |", quantiles(calls));
}
