//! The agent, to the millisecond: messages in, publications out, runs that end when told.

extern crate std;

use super::*;
use crate::{
    config::TaskLimits,
    engine::{Failure, Limits, Slot, Value, Weight},
    http::{Accept, Method, Part, Request, RequestId},
    module::chunks::RESTARTS_MAX,
    settings::table::WORDS_MAX,
    testing::*,
    time::Duration,
    wire::{ID_MAX, NAME_MAX, TOPIC_MAX, report::Metadata},
};
use ::base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value as Json, json};
use std::{
    boxed::Box,
    collections::VecDeque,
    format,
    string::{String, ToString},
    vec::Vec,
};

/// This thread's, whatever else the machine does.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a time since the thread began")
}

mod flow;
mod guests;
mod histories;
mod http;
mod modules;
mod notes;
mod persist;
mod rounds;
mod tasks;

const ID: &str = "3fe95a65-74f1-4ede-bf20-ef565f04cecb";
const ADD: &str = "add(i32 i32)\nmain()";

struct Bench {
    agent: Agent<'static, FakeEngine>,
    now: Instant,
    /// The last HTTP request.
    request: Option<Request>,
    broker: Broker,
}

/// Commands of QoS 1 on their way: the broker sends as many as may be unacknowledged.
#[derive(Default)]
struct Broker {
    queued: VecDeque<Command>,
    unacknowledged: VecDeque<Command>,
    is_gone: bool,
    /// Whether nobody is subscribed to what is published.
    is_deserted: bool,
    /// Ids of starts that came again and may run again: they were stopped, or not accepted at all.
    again: Vec<String>,
}

#[derive(Clone)]
struct Command {
    topic: String,
    payload: Vec<u8>,
    is_duplicate: bool,
}

fn leak<T>(value: impl Fn() -> T, len: usize) -> &'static mut [T] {
    Box::leak(std::iter::repeat_with(value).take(len).collect())
}

/// Sizes of a proplet.
#[derive(Clone, Copy)]
struct Room {
    slots: usize,
    deployments: usize,
    modules: usize,
    outbox: usize,
    arena: usize,
}

impl Room {
    const SMALL: Self = Self {
        slots: 4,
        deployments: 2,
        modules: 2,
        outbox: 8,
        arena: 10_000,
    };
}

impl Bench {
    /// Four slots, two deployments, two modules and two assemblies; not connected.
    fn offline() -> Self {
        Self::with_config(config())
    }

    fn with_config(config: Config<'static>) -> Self {
        Self::with_store(config, None)
    }

    fn with_store(config: Config<'static>, store: Option<&'static mut dyn Store>) -> Self {
        Self::with_room(config, store, Room::SMALL)
    }

    fn with_room(
        config: Config<'static>,
        store: Option<&'static mut dyn Store>,
        room: Room,
    ) -> Self {
        let storage = Storage {
            slots: leak(|| TaskSlot::FREE, room.slots),
            deployments: leak(|| DeploymentSlot::FREE, room.deployments),
            modules: leak(|| ModuleEntry::VACANT, room.modules),
            fetches: leak(|| Fetch::VACANT, 2),
            outbox: leak(|| OutboxEntry::VACANT, room.outbox + RECEIVE_MAXIMUM),
            packed: leak(|| 0, 256),
            store,
        };
        Self {
            agent: Agent::new(config, storage, FakeEngine::new(room.arena)).unwrap(),
            now: Instant::BOOT,
            request: None,
            broker: Broker::default(),
        }
    }

    /// Connected, with discovery done and both first heartbeats sent.
    fn online() -> Self {
        online(config(), Room::SMALL)
    }

    fn handle(&mut self, event: Event<'_>) {
        self.agent.handle(event, self.now);
        self.pump();
    }

    /// Whether the agent has read all commands, and the next is read at once.
    fn is_idle(&self) -> bool {
        self.broker.unacknowledged.len() < RECEIVE_MAXIMUM && self.broker.queued.is_empty()
    }

    /// Lets the broker send what it may.
    fn pump(&mut self) {
        loop {
            while self.agent.take_acknowledgement() {
                self.broker.unacknowledged.pop_front().unwrap();
            }
            if self.broker.unacknowledged.len() == RECEIVE_MAXIMUM || self.broker.is_gone {
                return;
            }
            let Some(command) = self.broker.queued.pop_front() else {
                return;
            };
            if command.is_duplicate
                && let Ok(start) = serde_json::from_slice::<Json>(&command.payload)
                && let Some(id) = start["id"].as_str()
                && !self.agent.supervisor.outbox.has_ended(id)
                && !self.agent.supervisor.is_known(id)
            {
                self.broker.again.push(id.into());
            }
            self.broker.unacknowledged.push_back(command.clone());
            self.deliver(&command, command.payload.len());
            self.agent.handle(Event::MessageEnd, self.now);
        }
    }

    /// Begins a command, and delivers the first bytes of it.
    fn deliver(&mut self, command: &Command, len: usize) {
        let head = MessageHead {
            topic: &command.topic,
            len: command.payload.len(),
            qos: Qos::AtLeastOnce,
            is_retained: false,
            is_duplicate: command.is_duplicate,
        };
        self.agent.handle(Event::MessageBegin(head), self.now);
        for piece in command.payload[..len].chunks(100) {
            self.agent.handle(Event::MessageBytes(piece), self.now);
        }
    }

    /// Loses the broker, in the middle of a command if one waits. It will send again what was not
    /// acknowledged.
    fn lose_broker(&mut self) {
        if self.broker.unacknowledged.len() < RECEIVE_MAXIMUM
            && let Some(command) = self.broker.queued.pop_front()
        {
            self.deliver(&command, command.payload.len() / 2);
            self.broker.unacknowledged.push_back(command);
        }
        self.broker.is_gone = true;
        self.handle(Event::MessagesCut);
        while let Some(mut command) = self.broker.unacknowledged.pop_back() {
            command.is_duplicate = true;
            self.broker.queued.push_front(command);
        }
    }

    fn find_broker(&mut self) {
        self.broker.is_gone = false;
        self.pump();
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = Instant::from_millis(ms);
        self.handle(Event::Tick);
        self
    }

    /// Lets time pass as the agent asks to be woken, up to `ms`.
    fn run_until(&mut self, ms: u64) -> Vec<(u64, String, Json)> {
        let mut out = Vec::new();
        let end = Instant::from_millis(ms);
        loop {
            for (topic, body) in self.drain() {
                out.push((self.now.as_millis(), topic, body));
            }
            match self.agent.next_deadline(self.now) {
                Some(at) if at <= end => self.at(at.as_millis()),
                _ => break,
            };
        }
        self.at(ms);
        out
    }

    fn poll(&mut self) -> Option<(Publication, String, Json)> {
        let publication = self.agent.poll_publish(Qos::AtLeastOnce, self.now)?;
        let topic = self.agent.topic(publication.token);
        let topic = topic.strip_prefix("m/t/c/c/").unwrap_or(&topic).into();
        let mut buf = [0; 1024];
        let len = self
            .agent
            .write(publication.token, &mut buf, self.now)
            .unwrap();
        let body = serde_json::from_slice(&buf[..len]).unwrap();
        Some((publication, topic, body))
    }

    /// All that is to be published now, each acknowledged at once.
    fn drain(&mut self) -> Vec<(String, Json)> {
        let mut out = Vec::new();
        while let Some((publication, topic, body)) = self.poll() {
            let fate = match publication.qos {
                Qos::AtLeastOnce if self.broker.is_deserted => Delivery::Unheard,
                _ => Delivery::Done,
            };
            self.handle(Event::Published(publication.token, fate));
            out.push((topic, body));
        }
        out
    }

    fn send(&mut self, topic: &str, body: Json) {
        let topic = format!("m/t/c/c/{topic}");
        self.broker.queued.push_back(Command {
            topic,
            payload: body.to_string().into_bytes(),
            is_duplicate: false,
        });
        self.pump();
    }

    fn start(&mut self, body: Json) {
        self.send("control/manager/start", body);
    }

    fn chunk(&mut self, app: &str, index: u32, total: u32, bytes: &[u8]) {
        let data = BASE64_STANDARD.encode(bytes);
        self.send(
            "registry/server",
            json!({"app_name": app, "chunk_idx": index, "total_chunks": total, "data": data}),
        );
    }

    fn exit(&mut self, slot: u16, result: Result<Option<Value>, Failure<FakeBuffer>>) {
        self.agent.engine_mut().exit(Slot(slot), result);
        self.handle(Event::Tick);
    }

    fn trap(&mut self, slot: u16) {
        let trap = self.agent.engine().trap("unreachable");
        self.exit(slot, Err(trap));
    }

    fn exit_interrupted(&mut self) {
        self.agent.engine_mut().exit_interrupted();
        self.handle(Event::Tick);
    }

    /// Messages on the results topic up to `ms`.
    fn results_until(&mut self, ms: u64) -> Vec<Json> {
        let out = self.run_until(ms);
        let results = out.into_iter().filter(|(_, t, _)| t.ends_with("/results"));
        results.map(|(_, _, body)| body).collect()
    }

    /// The next HTTP request, which must be of this URL.
    fn exchange(&mut self, url: &str) -> RequestId {
        let (id, request) = self.agent.poll_request().expect("a request is due");
        assert_eq!(request.url, url);
        self.request = Some(request);
        id
    }

    /// Answers a request with a body whose length is announced.
    fn respond(&mut self, id: RequestId, body: &[u8]) {
        let now = self.now;
        let mut respond = |part| self.agent.respond(id, part, now);
        respond(Part::Begin(Some(body.len()))).unwrap();
        for piece in body.chunks(7) {
            respond(Part::Bytes(piece)).unwrap();
        }
        respond(Part::End).unwrap();
    }

    fn break_off(&mut self, id: RequestId, reason: &str) {
        let now = self.now;
        self.agent.respond(id, Part::Failed(&reason), now).unwrap();
    }

    fn arena_is_free(&self) -> bool {
        let arena = self.agent.engine().arena();
        arena.free == arena.total
    }
}

fn config() -> Config<'static> {
    Config {
        proplet_id: ID,
        tenant: "t",
        channel: "c",
        ..Config::DEFAULT
    }
}

/// Connected, with discovery done and both first heartbeats sent.
fn online(config: Config<'static>, room: Room) -> Bench {
    let mut bench = Bench::with_room(config, None, room);
    bench.handle(Event::Connected);
    bench.at(1000);
    bench.drain();
    bench
}

/// A task without samples.
fn quiet(id: &str) -> Json {
    with(task(id), json!({"monitoring_profile": {"enabled": false}}))
}

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn file(module: &str) -> String {
    BASE64_STANDARD.encode(module)
}

fn task(id: &str) -> Json {
    json!({"id": id, "name": "add", "state": 0, "file": file(ADD), "inputs": ["20", "22"],
        "cli_args": null, "broadcast": false, "daemon": false, "latent": false,
        "encrypted": false, "proplet_id": ID})
}

fn with(mut base: Json, extra: Json) -> Json {
    for (key, value) in extra.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn result(id: &str, results: &str) -> Json {
    json!({"task_id": id, "proplet_id": ID, "results": results})
}

fn failure(id: &str, error: &str) -> Json {
    json!({"task_id": id, "proplet_id": ID, "results": "", "error": error})
}

#[test]
fn presence_is_discovery_then_heartbeats_at_once_after_1_s_and_every_4_s() {
    let mut bench = Bench::with_config(Config {
        metadata: Metadata {
            os: Some("zephyr"),
            tags: &["red"],
            wasm_proposals: &["sign-ext"],
            ..Metadata::EMPTY
        },
        ..config()
    });
    assert!(bench.drain().is_empty(), "nothing before it is connected");
    assert_eq!(bench.agent.next_deadline(bench.now), None);
    bench.at(5000).handle(Event::Connected);
    let out = bench.run_until(20_000);
    let seen: Vec<_> = out.iter().map(|(ms, topic, _)| (*ms, &**topic)).collect();
    let alive = "control/proplet/alive";
    assert_eq!(
        seen,
        [
            (5000, "control/proplet/create"),
            (5000, alive),
            (6000, alive),
            (10_000, alive),
            (14_000, alive),
            (15_000, "control/proplet/metrics"),
            (18_000, alive),
        ]
    );
    // Each heartbeat may be the first that a manager gets.
    for (_, topic, body) in &out {
        if topic == alive {
            assert_eq!(
                *body,
                json!({"proplet_id": ID, "status": "alive", "namespace": "default",
                    "metadata": {"os": "zephyr", "tags": ["red"]}})
            );
        }
    }
}

#[test]
fn discovery_says_what_the_proplet_takes() {
    let config = Config {
        metadata: Metadata {
            os: Some("zephyr"),
            wasm_proposals: &["sign-ext"],
            ..Metadata::EMPTY
        },
        ..config()
    };
    for (limit, max) in [(usize::MAX, None), (5000, Some(5000))] {
        let mut bench = Bench::with_config(Config {
            limits: TaskLimits {
                module_bytes: limit,
                ..config.limits
            },
            ..config
        });
        bench.handle(Event::Connected);
        let (_, _, body) = bench.poll().unwrap();
        let arena = bench.agent.engine().arena().total;
        // Less an instance of the least module, its parsed form, and what a start takes beside.
        let max = max.unwrap_or(arena - LOAD - INSTANCE - 768);
        assert_eq!(
            body["metadata"],
            json!({
                "os": "zephyr", "wasm_proposals": ["sign-ext"], "max_inline_bytes": max,
                "slots": Room::SMALL.slots, "deployments": Room::SMALL.deployments,
                "memory_page_bytes": 1024,
            })
        );
    }
}

/// With the longest texts that a device's settings take, each character of which is escaped, it fits the
/// smallest send buffer beside the longest topic.
#[test]
fn the_longest_discovery_fits_the_smallest_send_buffer() {
    const LEAST: usize = 2048;
    let words: &str = Box::leak("\"".repeat(WORDS_MAX).into_boxed_str());
    let id: &str = Box::leak("\"".repeat(ID_MAX).into_boxed_str());
    let tags: Vec<&str> = (0..9).map(|n| if n == 0 { words } else { "," }).collect();
    let config = Config {
        proplet_id: id,
        metadata: Metadata {
            description: Some(words),
            tags: tags.leak(),
            location: Some(words),
            ip: Some("2001:0db8:0000:0000:0000:ffff:192.168.100.228"),
            environment: Some("embedded"),
            os: Some("zephyr"),
            hostname: Some(words),
            cpu_arch: Some("aarch64"),
            total_memory_bytes: Some(u64::MAX),
            proplet_version: Some("100.100.100"),
            wasm_runtime: Some("wamr"),
            wasm_proposals: &["a-proposal-with-a-long-name"; 8],
            ..Metadata::EMPTY
        },
        ..config()
    };
    let mut bench = Bench::with_config(config);
    bench.handle(Event::Connected);
    let next = bench.agent.poll_publish(Qos::AtLeastOnce, bench.now);
    let mut buf = [0; LEAST];
    let written = bench
        .agent
        .write(next.unwrap().token, &mut buf, bench.now)
        .unwrap();
    let numbers = 3 * usize::MAX.to_string().len();
    let len = written + numbers;
    assert!(len + TOPIC_MAX + 16 <= LEAST, "{len} bytes");
}

#[test]
fn no_heartbeat_is_served_late_and_discovery_not_twice() {
    let mut bench = Bench::online();
    bench.handle(Event::Disconnected);
    assert!(bench.run_until(60_000).is_empty());
    bench.handle(Event::Connected);
    let seen: Vec<_> = bench
        .run_until(66_000)
        .into_iter()
        .map(|(ms, topic, _)| (ms, topic))
        .collect();
    let alive = String::from("control/proplet/alive");
    assert_eq!(seen, [(60_000, alive.clone()), (64_000, alive)]);
}

#[test]
fn discovery_is_repeated_until_it_is_acknowledged() {
    let mut bench = Bench::offline();
    bench.handle(Event::Connected);
    let (create, topic, _) = bench.poll().unwrap();
    assert_eq!(topic, "control/proplet/create");
    bench.handle(Event::Disconnected);
    bench.handle(Event::Published(create.token, Delivery::Lost));
    bench.handle(Event::Connected);
    assert_eq!(bench.drain()[0].0, "control/proplet/create");
}

#[test]
fn a_task_runs_and_its_result_comes_no_sooner_than_250_ms_after_the_start() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    let run = &bench.agent.engine().running[0];
    assert_eq!(
        (run.slot, &*run.export, &*run.args),
        (Slot(0), "add", &[Value::I32(20), Value::I32(22)][..])
    );
    assert!(
        run.data.inputs().iter().eq(["20", "22"]),
        "its guest can read them"
    );
    bench.at(1010).exit(0, Ok(Some(Value::I32(42))));
    assert!(bench.arena_is_free(), "the module goes with its last run");
    let out = bench.run_until(1249);
    assert_eq!(out.len(), 1, "only the sample: {out:?}");
    assert_eq!(out[0].1, "control/proplet/task_metrics");
    assert_eq!(out[0].2["metrics"]["memory_bytes"], INSTANCE);
    assert_eq!(out[0].2["metrics"]["work"], 7);
    assert_eq!(out[0].2["aggregated"]["sample_count"], 1);
    assert_eq!(bench.results_until(1250), [result("a", "42")]);
    assert!(bench.results_until(100_000).is_empty());
}

#[test]
fn starts_for_others_are_ignored_and_those_for_nobody_or_all_accepted() {
    let mut bench = Bench::online();
    bench.start(with(task("a"), json!({"proplet_id": "another"})));
    assert!(bench.agent.engine().running.is_empty());
    bench.start(with(
        task("b"),
        json!({"proplet_id": "another", "broadcast": true}),
    ));
    let mut unaddressed = task("c");
    unaddressed.as_object_mut().unwrap().remove("proplet_id");
    bench.start(unaddressed);
    assert_eq!(bench.agent.status().running, 2);
    assert!(bench.results_until(2000).is_empty());
}

#[test]
fn one_parse_serves_all_instances() {
    let mut bench = Bench::online();
    for id in ["a", "b", "c", "d"] {
        bench.start(task(id));
    }
    let status = bench.agent.status();
    assert_eq!((status.running, status.parses, status.modules), (4, 1, 1));
    assert_eq!(bench.agent.engine().loads, 1);
    bench.start(task("e"));
    assert_eq!(
        bench.results_until(1250),
        [failure("e", "no free slot: all 4 are taken")]
    );
    for slot in [2, 0, 3, 1] {
        assert!(!bench.arena_is_free());
        bench.exit(slot, Ok(None));
    }
    assert!(bench.arena_is_free());
    assert_eq!(bench.agent.status().modules, 0);
    assert_eq!(bench.results_until(2000).len(), 4);
}

#[test]
fn admission_refuses_with_the_bytes_needed_and_free() {
    // Of the arena's 10,000 bytes the task's record has 12: its texts.
    let mut bench = Bench::online();
    let long = format!("add(i32 i32)\n{}", "x".repeat(9_900));
    bench.start(with(task("a"), json!({"file": file(&long)})));
    bench.start(with(task("b"), json!({"file": file(&"x".repeat(10_001))})));
    assert_eq!(
        bench.results_until(1250),
        [
            failure(
                "a",
                "out of memory: parsing the module and one instance need 110 bytes, 75 are free"
            ),
            failure(
                "b",
                "out of memory: the module's bytes need 10001 bytes, 9988 are free"
            ),
        ]
    );
    assert!(bench.arena_is_free());
    let one_fits = with(
        task("c"),
        json!({"file": file(&format!("add(i32 i32)\n{}", "x".repeat(9_790)))}),
    );
    bench.start(one_fits.clone());
    bench.start(with(one_fits, json!({"id": "d"})));
    let refused = "out of memory: one more instance and its call need 100 bytes, 63 are free";
    assert_eq!(bench.results_until(3000), [failure("d", refused)]);
}

#[test]
fn what_can_be_refused_is_told_in_the_results() {
    let many: Vec<_> = (0..100).map(|n| format!("{n:03}")).collect();
    let cases = [
        (json!({"file": "@@@@"}), "base64"),
        (json!({"file": file("trap")}), "magic header not detected"),
        (
            json!({"file": BASE64_STANDARD.encode(b"\x1f\x8b\x08\0")}),
            "the module is gzip-compressed: send it unpacked",
        ),
        (json!({"file": file("(module)")}), "WebAssembly text"),
        (
            json!({"inputs": ["1"]}),
            "function 'add': expected 2 arguments but got 1",
        ),
        (
            json!({"inputs": ["1", "x"]}),
            "function 'add': failed to parse input 1 'x' as i32: expected a decimal or 0x number of 32 bits",
        ),
        (
            json!({"name": "sub", "file": file("add()")}),
            "function 'sub' not found, and fallbacks main, run and _start neither",
        ),
        (json!({"encrypted": true}), "TEE runtime not available"),
        (
            json!({"file": null, "image_url": "app@sha256:12"}),
            "digest '12': expected 64 hexadecimal digits behind @sha256:",
        ),
        (
            json!({"image_url": format!("app#sha256={}", "0".repeat(64))}),
            "digest mismatch: expected sha256:0000000000000000…, found sha256:",
        ),
        (
            json!({"env": {"PROPLET_CAPS": "time,gpio"}}),
            "PROPLET_CAPS: this proplet's setting caps does not allow 'gpio'",
        ),
        (
            json!({"env": {"PROPLET_DEADLINE_MS": "soon"}}),
            "PROPLET_DEADLINE_MS=soon: expected a number of milliseconds from 1",
        ),
        (json!({"inputs": many}), "256 bytes"),
        (json!({"name": ""}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"file": null}), "image_url"),
        (json!({"inputs": "1"}), "inputs"),
    ];
    for (extra, reason) in cases {
        let mut bench = Bench::online();
        bench.start(with(task("a"), extra.clone()));
        let results = bench.results_until(1250);
        assert_eq!(results.len(), 1, "{extra}");
        let error = results[0]["error"].as_str().unwrap();
        assert!(error.contains(reason), "{extra}: {error}");
        assert!(bench.arena_is_free() && bench.agent.engine().running.is_empty());
        // The slot, the module's entry and the id are free again.
        bench.start(task("a"));
        assert_eq!(bench.agent.status().running, 1, "{extra}");
    }
}

#[test]
fn what_is_no_module_is_named_whatever_its_source() {
    const PACKED: &[u8] = b"\x28\xb5\x2f\xfd\x04\0";
    let words = "the module is zstd-compressed: send it unpacked";
    let mut bench = Bench::online();
    bench.start(with(
        task("inline"),
        json!({"file": BASE64_STANDARD.encode(PACKED)}),
    ));
    let image = |image: &str| json!({"file": null, "image_url": image});
    bench.start(with(task("chunks"), image("reg/app")));
    bench.chunk("reg/app", 0, 2, &PACKED[..3]);
    bench.chunk("reg/app", 1, 2, &PACKED[3..]);
    bench.start(with(task("http"), image("http://h/a")));
    let id = bench.exchange("http://h/a");
    bench.respond(id, PACKED);
    let errors: Vec<_> = bench.results_until(2000);
    let errors: Vec<_> = errors.iter().map(|body| &body["error"]).collect();
    assert_eq!(
        errors,
        [
            words,
            &format!("module reg/app: {words}"),
            &format!("module http://h/a: {words}")
        ]
    );
    assert!(bench.arena_is_free());
}

#[test]
fn reasons_reach_the_manager_whole() {
    let mut bench = Bench::online();
    let name = format!("{}#9", "n".repeat(NAME_MAX - 2));
    bench.start(with(
        task("a"),
        json!({"name": name, "file": file("add()")}),
    ));
    let results = bench.results_until(1250);
    assert_eq!(
        results[0]["error"],
        format!("function '{name}' not found, and fallbacks main, run and _start neither")
    );

    // A location of any length is shown by its ends, before a reason of any length.
    let url = format!("http://h/{}/v2.wasm", "p".repeat(230));
    bench.start(with(task("b"), json!({"file": null, "image_url": url})));
    let id = bench.exchange(&url);
    let reason = format!("{}: 42 of 43", "no TLS with it".repeat(25));
    bench.break_off(id, &reason);
    let results = bench.results_until(2500);
    let error = results[0]["error"].as_str().unwrap();
    assert!(error.starts_with("module http://h/ppp"), "{error}");
    assert!(
        error.ends_with(&format!("ppp/v2.wasm: {reason}")),
        "{error}"
    );
}

#[test]
fn a_default_entry_falls_back_to_main() {
    let mut bench = Bench::online();
    bench.start(with(
        task("a"),
        json!({"name": "fl-round-1-x", "inputs": null}),
    ));
    assert_eq!(bench.agent.engine().running[0].export, "main");
}

#[test]
fn what_cannot_be_read_is_logged_and_harms_nobody() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    for topic in ["manager/start", "manager/stop", "manager/invoke"] {
        for bad in ["", "[]", "nonsense", "{\"id\":", "{\"id\":7}", "{}"] {
            let topic = format!("m/t/c/c/control/{topic}");
            let payload = bad.as_bytes();
            bench.handle(Event::Message {
                topic: &topic,
                payload,
            });
        }
    }
    bench.handle(Event::Message {
        topic: "m/t/c/c/registry/server",
        payload: b"{\"app_name\":\"x\"",
    });
    bench.handle(Event::Message {
        topic: "elsewhere",
        payload: b"",
    });
    bench.broker.queued.push_back(Command {
        topic: "m/t/c/c/control/manager/start".into(),
        payload: std::vec![b'['; 1_000_000],
        is_duplicate: false,
    });
    bench.pump();
    assert!(bench.broker.unacknowledged.is_empty());
    assert!(bench.results_until(2000).is_empty());
    assert_eq!(bench.agent.status().running, 1);
}

#[test]
fn a_start_is_idempotent_until_its_results_are_delivered() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench.start(task("a"));
    bench.start(with(task("a"), json!({"file": "@@@@"})));
    assert_eq!(bench.agent.status().running, 1);
    bench.exit(0, Ok(Some(Value::I32(42))));
    bench.start(task("a"));
    assert_eq!(bench.agent.status().running, 0, "its results are under way");
    assert_eq!(bench.results_until(2000), [result("a", "42")]);
    bench.start(task("a"));
    assert_eq!(bench.agent.status().running, 1, "it may run again");
}

#[test]
fn results_wait_for_the_link_and_are_told_once() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench.handle(Event::Disconnected);
    bench.at(5000).exit(0, Ok(Some(Value::I32(42))));
    assert!(bench.run_until(3_600_000).is_empty());
    bench.handle(Event::Connected);
    let (alive, ..) = bench.poll().unwrap();
    bench.handle(Event::Published(alive.token, Delivery::Done));
    let (results, topic, body) = bench.poll().unwrap();
    assert_eq!(
        (&*topic, body),
        ("control/proplet/results", result("a", "42"))
    );
    bench.handle(Event::Disconnected);
    assert!(bench.poll().is_none());
    bench.handle(Event::Published(results.token, Delivery::Lost));
    bench.handle(Event::Connected);
    assert_eq!(bench.results_until(3_601_000), [result("a", "42")]);
    assert!(bench.results_until(3_700_000).is_empty());
}

#[test]
fn a_full_outbox_keeps_results_in_their_slots() {
    let mut bench = Bench::online();
    bench.handle(Event::Disconnected);
    for round in 0..3 {
        for n in 0..4 {
            bench.start(task(&format!("{round}{n}")));
        }
        for slot in 0..4 {
            if bench
                .agent
                .engine()
                .running
                .iter()
                .any(|r| r.slot == Slot(slot))
            {
                bench.exit(slot, Ok(Some(Value::I32(slot.into()))));
            }
        }
    }
    assert_eq!(bench.agent.supervisor.outbox.room(), 0);
    bench.at(60_000).handle(Event::Connected);
    let results = bench.results_until(61_000);
    let mut ids: Vec<_> = results
        .iter()
        .map(|r| r["task_id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), results.len()), (12, 12), "{results:?}");
    assert!(bench.arena_is_free());
}

#[test]
fn a_stop_ends_a_task_with_one_result() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench.start(task("b"));
    for stop in [
        json!({"id": "a", "proplet_id": "another", "broadcast": false}),
        json!({"id": "unknown", "broadcast": false, "proplet_id": ID}),
    ] {
        bench.send("control/manager/stop", stop);
    }
    assert!(bench.agent.engine().interrupted.is_empty());
    for _ in 0..3 {
        bench.send("control/manager/stop", json!({"id": "a"}));
    }
    assert_eq!(bench.agent.engine().interrupted, [Slot(0)]);
    bench.exit_interrupted();
    assert_eq!(bench.results_until(2000), [failure("a", "task stopped")]);
    assert_eq!(bench.agent.status().running, 1, "its neighbour goes on");
}

#[test]
fn a_task_that_was_stopped_may_be_started_at_once() {
    let stop = json!({"id": "a"});
    // While it is still ending, and while its results are held back.
    for soon in [true, false] {
        let mut bench = Bench::online();
        bench.start(task("a"));
        bench.send("control/manager/stop", stop.clone());
        if !soon {
            bench.exit_interrupted();
        }
        bench.start(task("a"));
        bench.start(task("a"));
        bench.exit_interrupted();
        assert_eq!(bench.agent.status().running, 1, "the new one, once");
        let slot = bench.agent.engine().running[0].slot.0;
        bench.exit(slot, Ok(Some(Value::I32(42))));
        let results = bench.results_until(2000);
        assert_eq!(results, [failure("a", "task stopped"), result("a", "42")]);
    }
    let mut bench = Bench::with_deployment();
    bench.send("control/manager/stop", stop.clone());
    bench.start(with(task("a"), json!({"latent": true})));
    assert_eq!(bench.agent.status().deployed, 1);
    // It had completed, which was not known yet.
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench.exit(0, Ok(Some(Value::I32(42))));
    bench.send("control/manager/stop", stop);
    bench.start(task("a"));
    assert_eq!(bench.agent.status().running, 1);
    assert_eq!(bench.results_until(2000), [result("a", "42")]);
}

#[test]
fn a_run_that_completes_before_it_sees_the_stop_has_completed() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench.send("control/manager/stop", json!({"id": "a"}));
    bench.exit(0, Ok(Some(Value::I32(42))));
    assert_eq!(bench.results_until(2000), [result("a", "42")]);
}

#[test]
fn a_deadline_ends_a_task() {
    let mut bench = Bench::online();
    bench.start(with(
        task("a"),
        json!({"env": {"PROPLET_DEADLINE_MS": "500"}}),
    ));
    bench.run_until(1499);
    assert!(bench.agent.engine().interrupted.is_empty());
    assert_eq!(
        bench.agent.next_deadline(bench.now),
        Some(Instant::from_millis(1500))
    );
    bench.at(1500);
    bench.exit_interrupted();
    assert_eq!(
        bench.results_until(1600),
        [failure("a", "deadline of 500 ms exceeded")]
    );
}

#[test]
fn deadlines_act_without_a_link() {
    let mut bench = Bench::online();
    bench.start(with(
        task("a"),
        json!({"env": {"PROPLET_DEADLINE_MS": "500"}}),
    ));
    bench.handle(Event::Disconnected);
    assert_eq!(
        bench.agent.next_deadline(bench.now),
        Some(Instant::from_millis(1500))
    );
    bench.at(1500);
    assert_eq!(bench.agent.engine().interrupted, [Slot(0)]);
}

#[test]
fn limits_reach_the_engine() {
    let mut bench = Bench::online();
    let env = json!({"PROPLET_WORK": "1000", "PROPLET_STACK_BYTES": "2048",
        "PROPLET_MEMORY_BYTES": "65536", "PROPLET_WEIGHT": "40", "OTHER": "x"});
    bench.start(with(task("a"), json!({"env": env})));
    let expected = Limits {
        stack: 2048,
        memory_max: Some(65536),
        work: Some(1000),
        weight: Weight(40),
    };
    assert_eq!(bench.agent.engine().running[0].limits, expected);
}

#[test]
fn a_trap_is_an_error() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench.trap(0);
    assert_eq!(bench.results_until(2000), [failure("a", "unreachable")]);
}

/// Fills the outbox, without a connection.
fn fill_outbox(bench: &mut Bench) {
    bench.handle(Event::Disconnected);
    for n in 0..4 {
        bench.start(json!({"id": format!("bad{n}"), "name": "x", "proplet_id": ID}));
        bench.start(task(&format!("good{n}")));
        let slot = bench.agent.engine().running.last().unwrap().slot;
        bench.exit(slot.0, Ok(None));
    }
    assert_eq!(bench.agent.supervisor.outbox.room(), 0);
}

#[test]
fn a_stop_of_what_waits_for_room_lets_it_start_anew() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    fill_outbox(&mut bench);
    bench.exit(0, Ok(Some(Value::I32(1))));
    bench.send("control/manager/stop", json!({"id": "a"}));
    bench.start(task("a"));
    assert_eq!(bench.agent.status().running, 2, "one waits for room");
}

#[test]
fn what_fails_while_the_outbox_is_full_is_told_once_it_has_room() {
    let mut bench = Bench::online();
    for id in ["late", "wrong"] {
        let image = json!({"file": null, "image_url": format!("app/{id}")});
        bench.start(with(task(id), image));
    }
    fill_outbox(&mut bench);
    bench.chunk("app/wrong", 1, 1, b"x");
    bench.run_until(70_000);
    bench.handle(Event::Connected);
    let results = bench.results_until(80_000);
    for id in ["late", "wrong"] {
        let of: Vec<_> = results.iter().filter(|r| r["task_id"] == id).collect();
        assert!(of.len() == 1 && of[0]["error"].is_string(), "{results:?}");
    }
    assert_eq!(bench.agent.status().fetching, 0);
    assert!(bench.arena_is_free());
}

#[test]
fn a_daemon_succeeds_at_once_and_can_be_stopped() {
    let mut bench = Bench::online();
    bench.start(with(task("a"), json!({"daemon": true})));
    assert_eq!(bench.results_until(1250), [result("a", "")]);
    bench.start(with(task("a"), json!({"daemon": true})));
    assert_eq!(bench.agent.status().running, 1, "it runs on");
    bench.send("control/manager/stop", json!({"id": "a"}));
    bench.exit_interrupted();
    assert!(bench.results_until(3000).is_empty(), "one result a start");
    assert_eq!(bench.agent.status().running, 0);
}

#[test]
fn a_daemon_that_cannot_start_fails() {
    let mut bench = Bench::online();
    bench.start(with(task("a"), json!({"daemon": true, "inputs": []})));
    let results = bench.results_until(2000);
    assert_eq!(results.len(), 1);
    assert!(results[0]["error"].is_string());
}

// ---- latent tasks ----

fn invoke(invocation: &str, extra: Json) -> Json {
    let base = json!({"id": "a", "proplet_id": ID, "invocation_id": invocation, "inputs": null,
        "broadcast": false});
    with(base, extra)
}

impl Bench {
    fn with_deployment() -> Self {
        let mut bench = Self::online();
        bench.start(with(
            task("a"),
            json!({"latent": true, "env": {"PROPLET_WORK": "5", "PROPLET_STACK_BYTES": "1024"}}),
        ));
        assert_eq!(bench.agent.status().deployed, 1);
        assert!(
            bench.results_until(1500).is_empty(),
            "no message on success"
        );
        bench
    }

    fn invoke(&mut self, invocation: &str, extra: Json) {
        self.send("control/manager/invoke", invoke(invocation, extra));
    }

    fn invoke_results(&mut self) -> Vec<Json> {
        let out = self.drain().into_iter();
        out.filter(|(topic, _)| topic == "control/proplet/invoke_results")
            .map(|(_, body)| body)
            .collect()
    }
}

#[test]
fn an_invocation_has_the_weight_of_its_deployment_or_its_own() {
    let mut bench = Bench::online();
    let env = json!({"PROPLET_WEIGHT": "40"});
    bench.start(with(task("a"), json!({"latent": true, "env": env})));
    bench.invoke("1", json!({}));
    bench.invoke("2", json!({"env": {"PROPLET_WEIGHT": "5"}}));
    let running = &bench.agent.engine().running;
    let weights: Vec<u8> = running.iter().map(|r| r.limits.weight.0).collect();
    assert_eq!(weights, [40, 5]);
}

#[test]
fn a_deployment_is_invoked_any_number_of_times_at_once() {
    let mut bench = Bench::with_deployment();
    bench.invoke("1", json!({}));
    bench.invoke(
        "2",
        json!({"inputs": ["1", "2"], "env": {"PROPLET_WORK": "9"}}),
    );
    bench.invoke("2", json!({}));
    let running = &bench.agent.engine().running;
    assert_eq!(running.len(), 2, "a repeated invocation is ignored");
    assert_eq!(running[0].args, [Value::I32(20), Value::I32(22)]);
    assert_eq!(
        (running[0].limits.work, running[0].limits.stack),
        (Some(5), 1024)
    );
    assert_eq!(running[1].args, [Value::I32(1), Value::I32(2)]);
    assert_eq!(
        (running[1].limits.work, running[1].limits.stack),
        (Some(9), 1024)
    );
    bench.exit(1, Ok(Some(Value::I32(3))));
    bench.trap(0);
    assert_eq!(
        bench.invoke_results(),
        [
            json!({"task_id": "a", "invocation_id": "2", "proplet_id": ID, "results": "3"}),
            json!({"task_id": "a", "invocation_id": "1", "proplet_id": ID, "results": "",
                "error": "unreachable"}),
        ]
    );
    assert_eq!(bench.agent.status().parses, 1);
}

#[test]
fn only_a_long_invocation_has_samples() {
    let mut bench = Bench::with_deployment();
    let samples = |out: Vec<(u64, String, Json)>| {
        let samples = out.iter().filter(|(_, t, _)| t.ends_with("task_metrics"));
        samples.count()
    };
    bench.invoke("1", json!({}));
    bench.exit(0, Ok(None));
    assert_eq!(samples(bench.run_until(1600)), 0);
    bench.invoke("2", json!({}));
    let while_it_runs = samples(bench.run_until(1800));
    bench.exit(0, Ok(None));
    assert_eq!((while_it_runs, samples(bench.run_until(1900))), (1, 1));
}

#[test]
fn the_words_that_ask_for_a_deployment_are_used_only_when_there_is_none() {
    let mut bench = Bench::online();
    bench.invoke("1", json!({}));
    let error = bench.invoke_results()[0]["error"].clone();
    assert_eq!(
        error,
        "task a has not been precompiled; deploy it as a latent task first"
    );
    let mut bench = Bench::with_deployment();
    for invocation in ["1", "2", "3", "4", "5"] {
        bench.invoke(invocation, json!({}));
    }
    assert_eq!(
        bench.invoke_results()[0]["error"],
        "no free slot: all 4 are taken"
    );
    bench.invoke("6", json!({"proplet_id": "another"}));
    assert!(bench.invoke_results().is_empty());
}

#[test]
fn deploying_again_is_harmless() {
    let mut bench = Bench::with_deployment();
    bench.start(with(task("a"), json!({"latent": true})));
    bench.start(task("a"));
    assert_eq!(
        (bench.agent.status().deployed, bench.agent.status().running),
        (1, 0)
    );
    assert!(bench.results_until(3000).is_empty());
}

#[test]
fn stopping_a_deployment_ends_its_invocations() {
    let mut bench = Bench::with_deployment();
    bench.invoke("1", json!({}));
    bench.send("control/manager/stop", json!({"id": "a"}));
    bench.exit_interrupted();
    let out = bench.run_until(3000);
    let errors: Vec<_> = out
        .iter()
        .filter(|(_, topic, _)| topic.ends_with("results"))
        .map(|(_, topic, body)| (&**topic, body["error"].as_str().unwrap()))
        .collect();
    assert_eq!(
        errors,
        [
            ("control/proplet/results", "task stopped"),
            ("control/proplet/invoke_results", "task stopped"),
        ]
    );
    assert!(bench.arena_is_free());
    bench.invoke("2", json!({}));
    let error = bench.invoke_results()[0]["error"].clone();
    assert!(error.as_str().unwrap().contains("has not been precompiled"));
}

#[test]
fn a_deployment_that_fails_says_so() {
    let mut bench = Bench::online();
    bench.start(with(
        task("a"),
        json!({"latent": true, "file": file("trap")}),
    ));
    bench.start(with(
        task("b"),
        json!({"latent": true, "name": "x", "file": file("y()")}),
    ));
    assert_eq!(bench.results_until(2000).len(), 2);
    assert!(bench.arena_is_free());
}

// ---- the registry ----

fn image(id: &str, app: &str) -> Json {
    with(task(id), json!({"file": null, "image_url": app}))
}

impl Bench {
    fn requests(&mut self) -> Vec<Json> {
        let out = self.drain().into_iter();
        out.filter(|(topic, _)| topic == "registry/proplet")
            .map(|(_, body)| body)
            .collect()
    }
}

#[test]
fn a_module_comes_in_chunks_for_all_who_wait() {
    let mut bench = Bench::online();
    bench.start(image("a", "reg/app:v1"));
    bench.start(image("b", "reg/app:v1"));
    bench.start(with(image("c", "reg/app:v1"), json!({"latent": true})));
    bench.start(image("d", "reg/other"));
    assert_eq!(
        bench.requests(),
        [
            json!({"app_name": "reg/app:v1"}),
            json!({"app_name": "reg/other"})
        ]
    );
    let (first, last) = ADD.as_bytes().split_at(12);
    assert!(last.len() <= first.len());
    bench.chunk("reg/foreign", 0, 1, b"x");
    bench.chunk("reg/app:v1", 0, 2, first);
    bench.chunk("reg/other", 0, 1, b"add(i32 i32)");
    bench.chunk("reg/app:v1", 0, 2, first);
    bench.chunk("reg/app:v1", 1, 2, last);
    let status = bench.agent.status();
    assert_eq!(
        (status.running, status.deployed, status.fetching),
        (3, 1, 0)
    );
    assert_eq!((status.parses, status.modules), (2, 2));
    assert!(bench.results_until(2000).is_empty());
}

#[test]
fn a_module_that_does_not_come_is_an_error_after_60_s() {
    let mut bench = Bench::online();
    bench.start(image("a", "app"));
    bench.chunk("app", 0, 2, b"xy");
    assert!(bench.results_until(60_999).is_empty());
    assert_eq!(
        bench.results_until(61_000),
        [failure(
            "a",
            "timeout waiting for binary chunks: module app has 1 of 2 after 60 s"
        )]
    );
    assert!(bench.arena_is_free(), "nothing is kept of it");
}

#[test]
fn an_incomplete_module_gives_way_to_others() {
    let mut bench = Bench::online();
    for id in ["a", "b"] {
        bench.start(image(id, id));
    }
    bench.start(image("c", "c"));
    let results = bench.results_until(1250);
    assert_eq!(
        results,
        [failure(
            "c",
            "too many modules on their way: all 2 places are taken"
        )]
    );
    bench.run_until(62_000);
    bench.start(image("d", "d"));
    bench.start(task("e"));
    let status = bench.agent.status();
    assert_eq!((status.fetching, status.running), (1, 1));
}

#[test]
fn chunks_that_lie_fail_those_who_wait() {
    for (index, total, reason) in [
        (3, 3, "module app: chunk_idx 3 is not below total_chunks 3"),
        (1, 3, " chunks, earlier ones said "),
    ] {
        let mut bench = Bench::online();
        bench.start(image("a", "app"));
        bench.start(with(image("b", "app"), json!({"latent": true})));
        // A chunk may be of another version, so often.
        for _ in 0..2 * RESTARTS_MAX {
            bench.chunk("app", 0, 2, b"xy");
            bench.chunk("app", index, total, b"z");
        }
        let results = bench.results_until(1250);
        assert_eq!(results.len(), 2);
        for result in results {
            let error = result["error"].as_str().unwrap();
            assert!(error.contains(reason), "{error}");
        }
        assert!(bench.arena_is_free());
    }
}

#[test]
fn a_module_that_arrives_broken_fails_those_who_wait() {
    let mut bench = Bench::online();
    bench.start(image("a", "app"));
    bench.chunk("app", 0, 1, b"trap");
    assert_eq!(
        bench.results_until(1250),
        [failure("a", "module app: magic header not detected")]
    );
    assert!(bench.arena_is_free());
}

#[test]
fn the_registry_is_asked_again_after_a_link_loss() {
    let mut bench = Bench::online();
    bench.start(image("a", "app"));
    assert_eq!(bench.requests().len(), 1);
    bench.handle(Event::Disconnected);
    bench.handle(Event::Connected);
    assert_eq!(bench.requests().len(), 1);
}

#[test]
fn a_task_can_be_stopped_while_it_waits() {
    let mut bench = Bench::online();
    bench.start(image("a", "app"));
    bench.send("control/manager/stop", json!({"id": "a"}));
    assert_eq!(bench.results_until(2000), [failure("a", "task stopped")]);
    bench.chunk("app", 0, 1, ADD.as_bytes());
    assert_eq!(bench.agent.status().running, 0);
    assert!(bench.arena_is_free());
}

#[test]
fn a_known_module_is_shared_however_it_came() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench.start(image("b", "app"));
    bench.chunk("app", 0, 1, ADD.as_bytes());
    let status = bench.agent.status();
    assert_eq!((status.running, status.parses, status.modules), (2, 1, 1));
}

// ---- the monitor ----

#[test]
fn samples_follow_the_profile() {
    let mut bench = Bench::online();
    let profile = json!({"enabled": true, "interval": 2_000_000_000_u64, "collect_cpu": false,
        "collect_memory": true, "collect_disk_io": false, "collect_threads": true,
        "collect_file_descriptors": false, "export_to_mqtt": true, "retain_history": false,
        "history_size": 0});
    bench.start(with(task("a"), json!({"monitoring_profile": profile})));
    bench.agent.engine_mut().usage.memory = 5000;
    let out = bench.run_until(6000);
    let samples: Vec<_> = out
        .iter()
        .filter(|(_, t, _)| t.ends_with("task_metrics"))
        .collect();
    let times: Vec<_> = samples.iter().map(|(ms, ..)| *ms).collect();
    assert_eq!(times, [1100, 3100, 5100]);
    assert_eq!(
        samples[1].2,
        json!({"task_id": "a", "proplet_id": ID, "metrics": {"memory_bytes": 5000,
            "memory_percent": 50.0, "uptime_seconds": 2, "thread_count": 1, "work": 0}})
    );
    let off = json!({"monitoring_profile": {"enabled": false}});
    bench.start(with(task("b"), off));
    bench.exit(1, Ok(None));
    let out = bench.run_until(6500);
    assert!(
        out.iter()
            .all(|(_, _, body)| body["task_id"] != "b" || body["results"].is_string())
    );
}

#[test]
fn timestamps_need_a_wall_clock() {
    let mut bench = Bench::online();
    bench.agent.set_wall_clock(1_767_225_600_000, bench.now);
    bench.start(task("a"));
    let out = bench.run_until(1100);
    assert_eq!(out[0].2["timestamp"], "2026-01-01T00:00:00.100Z");
}

// ---- the end ----

#[test]
fn a_shutdown_stops_reports_and_drains() {
    let mut bench = Bench::with_deployment();
    bench.start(task("b"));
    bench.start(image("c", "app"));
    bench.invoke("1", json!({}));
    bench.handle(Event::Shutdown);
    assert!(!bench.agent.is_drained());
    bench.start(task("d"));
    bench.exit_interrupted();
    let out = bench.run_until(3000);
    let told: Vec<_> = out
        .iter()
        .filter(|(_, topic, _)| topic.ends_with("results"))
        .map(|(_, _, body)| body["error"].as_str().unwrap())
        .collect();
    assert_eq!(told, ["proplet is shutting down"; 4]);
    assert!(bench.agent.is_drained());
}

#[test]
fn any_history_leaves_nothing_behind() {
    use proptest::prelude::*;
    proptest!(|(steps in proptest::collection::vec((0u8..12, 0u8..6), 0..60))| {
        let mut bench = Bench::online();
        for (step, n) in steps {
            let id = format!("{n}");
            match step {
                0 | 1 => bench.start(task(&id)),
                2 => bench.start(image(&id, if n < 3 { "x" } else { "y" })),
                3 => bench.start(with(task(&id), json!({"latent": true}))),
                4 => bench.send("control/manager/invoke",
                    json!({"id": id, "invocation_id": format!("i{n}")})),
                5 => bench.send("control/manager/stop", json!({"id": id})),
                6 => bench.chunk(if n < 3 { "x" } else { "y" }, u32::from(n) % 2, 2, b"main()\n"),
                7 => {
                    let slots: Vec<_> =
                        bench.agent.engine().running.iter().map(|r| r.slot.0).collect();
                    if let Some(&slot) = slots.get(usize::from(n) % slots.len().max(1)) {
                        bench.agent.engine_mut().interrupted.retain(|s| s.0 != slot);
                        bench.exit(slot, Ok(None));
                    }
                }
                8 => { let ms = bench.now.as_millis() + 10_000; bench.at(ms); }
                9 => bench.handle(Event::Disconnected),
                10 => bench.handle(Event::Connected),
                _ => { bench.drain(); }
            }
        }
        bench.handle(Event::Connected);
        for n in 0..6 {
            bench.send("control/manager/stop", json!({"id": format!("{n}")}));
        }
        bench.handle(Event::Shutdown);
        bench.exit_interrupted();
        let end = bench.now.as_millis() + 400_000;
        bench.run_until(end);
        prop_assert!(bench.agent.is_drained());
        prop_assert!(bench.arena_is_free());
        prop_assert_eq!(bench.agent.status().modules, 0);
    });
}

#[test]
fn the_will_is_an_offline_heartbeat() {
    let bench = Bench::offline();
    let mut buf = [0; 256];
    let (topic, len) = bench.agent.will(&mut buf).unwrap();
    assert_eq!(topic, "m/t/c/c/control/proplet/alive");
    let body: Json = serde_json::from_slice(&buf[..len]).unwrap();
    assert_eq!(body["status"], "offline");
}
