//! Peers for the integration tests: a broker, a proplet, a stand-in for the manager.
//!
//! Everything listens on loopback, on ports that were free, and ends with its owner. Each test
//! binary names its subject, the port of the proplet that its scenarios meet:
//! `use support::host as subject;`.

#![allow(dead_code, unused_imports, reason = "each test uses its share")]

mod broker;
mod certificates;
pub(crate) mod firmware;
pub(crate) mod host;
mod peer;
mod proplet;
mod proxy;
mod server;
mod sizes;
pub(crate) mod zephyr;

pub(crate) use broker::{Broker, Dir, free_port, program};
pub(crate) use certificates::{Authority, Identity};
pub(crate) use peer::{Message, Peer, is_alive, is_results};
pub(crate) use proplet::{Proplet, command};
pub(crate) use proxy::{Limit, Proxy};
pub(crate) use server::{Coordinator, Request, Server, reply, reply_module};
pub(crate) use sizes::{
    SIZES_ARGS, assert_all_sizes_are_answered, padded, with_custom_section, with_data,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use proplet_testing::say;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The proplet under test.
pub(crate) const ID: &str = "1b0f1a3c-7d24-4a8e-9f53-2f6f0f7a9a01";
pub(crate) const TENANT: &str = "tests";
pub(crate) const CHANNEL: &str = "embedded";

/// How long a message may take that is expected soon. The machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How long the tests listen for what should not come.
pub(crate) const QUIET: Duration = Duration::from_millis(800);

/// An endless loop.
pub(crate) const LOOP: &str = r#"(module (func (export "main") (loop $l (br $l))))"#;

/// `main` and `add` add two numbers.
pub(crate) const ADD: &str = r#"(module
    (func $add (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (export "add" (func $add)) (export "main" (func $add)))"#;

/// Publishes its second input on the topic of its first, until it is taken.
pub(crate) const TELL: &str = r#"(module
    (import "env" "get_input" (func $input (param i32 i32 i32) (result i32)))
    (import "env" "publish" (func $publish (param i32 i32 i32 i32) (result i32)))
    (memory 1 1)
    (func (export "main") (result i32) (local $t i32) (local $p i32)
        (local.set $t (call $input (i32.const 0) (i32.const 0) (i32.const 200)))
        (local.set $p (call $input (i32.const 1) (i32.const 256) (i32.const 500)))
        (call $publish (i32.const 0) (local.get $t) (i32.const 256) (local.get $p))))"#;

/// Says the first message on the topic `news/+` as its result.
pub(crate) const LISTEN: &str = r#"(module
    (import "env" "subscribe" (func $subscribe (param i32 i32) (result i32)))
    (import "env" "receive" (func $receive (param i32 i32 i32) (result i32)))
    (import "env" "sleep_ms" (func $sleep (param i32)))
    (import "env" "publish_result" (func $say (param i32 i32)))
    (memory 1 1)
    (data (i32.const 0) "news/+")
    (func (export "main") (local $len i32)
        (drop (call $subscribe (i32.const 0) (i32.const 6)))
        (loop $again
            (call $sleep (i32.const 20))
            (local.set $len (call $receive (i32.const 100) (i32.const 500) (i32.const 64)))
            (br_if $again (i32.lt_s (local.get $len) (i32.const 0))))
        (call $say (i32.const 100) (local.get $len))))"#;

/// Says its model as its update.
pub(crate) const ECHO: &str = r#"(module
    (import "env" "get_env" (func $env (param i32 i32 i32 i32) (result i32)))
    (import "env" "publish_result" (func $say (param i32 i32)))
    (memory 1 1)
    (data (i32.const 0) "MODEL_DATA")
    (func (export "run") (local $len i32)
        (call $say (i32.const 100)
            (call $env (i32.const 0) (i32.const 10) (i32.const 100) (i32.const 4000)))))"#;

/// Assembles a module.
pub(crate) fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|e| panic!("the test's module is wrong: {e}\n{text}"))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Adds the fields of `extra` to those of `base`, or replaces them; null removes one.
pub(crate) fn with(mut base: Value, extra: &Value) -> Value {
    let (Some(fields), Some(extra)) = (base.as_object_mut(), extra.as_object()) else {
        panic!("expected two objects: {base}, {extra}");
    };
    for (key, value) in extra {
        if value.is_null() {
            fields.remove(key);
        } else {
            fields.insert(key.clone(), value.clone());
        }
    }
    base
}

/// A start of the module `text`, as the manager sends it: what it omits is absent, what it leaves
/// unset is null.
pub(crate) fn start(id: &str, name: &str, text: &str, extra: &Value) -> Value {
    start_bytes(id, name, &wasm(text), extra)
}

pub(crate) fn start_bytes(id: &str, name: &str, module: &[u8], extra: &Value) -> Value {
    with(
        start_bare(id, name),
        &with(json!({"file": base64(module)}), extra),
    )
}

/// A start of an image from the registry.
pub(crate) fn start_image(id: &str, image: &str, extra: &Value) -> Value {
    with(
        start_bare(id, "main"),
        &with(json!({"image_url": image}), extra),
    )
}

fn start_bare(id: &str, name: &str) -> Value {
    json!({"id": id, "name": name, "state": 0, "cli_args": null, "broadcast": false,
        "daemon": false, "latent": false, "encrypted": false, "proplet_id": ID})
}

pub(crate) fn stop(id: &str) -> Value {
    json!({"id": id, "broadcast": false, "proplet_id": ID})
}

/// An invocation; without inputs they are null, as in the manager's.
pub(crate) fn invoke(id: &str, invocation: &str, extra: &Value) -> Value {
    let base = json!({"id": id, "proplet_id": ID, "invocation_id": invocation, "inputs": null,
        "broadcast": false});
    with(base, extra)
}

/// All chunks of an image, as the proxy sends them.
pub(crate) fn chunks(app: &str, module: &[u8], size: usize) -> Vec<Value> {
    let total = module.len().div_ceil(size);
    let chunk = |(index, data): (usize, &[u8])| json!({"app_name": app, "chunk_idx": index, "total_chunks": total, "data": base64(data)});
    module.chunks(size).enumerate().map(chunk).collect()
}

/// Whether `test` asks for what its subject is not made for; says so.
pub(crate) fn is_not_for_subject(test: &str) -> bool {
    let found = crate::subject::NOT_FOR_IT.iter().find(|(t, _)| *t == test);
    if let Some((_, why)) = found {
        say(&format!("not for {}: {test}: {why}", crate::subject::NAME));
    }
    found.is_some()
}

/// A broker, a proplet that has joined, and a stand-in for the manager.
pub(crate) struct Stage {
    // Dropped in this order: the proplet goes first.
    pub(crate) proplet: Proplet,
    pub(crate) peer: Peer,
    pub(crate) broker: Broker,
}

impl Stage {
    /// With further arguments for the proplet; `None` where there is no mosquitto.
    pub(crate) fn new(args: &[&str]) -> Option<Self> {
        let broker = Broker::start(None)?;
        let peer = Peer::connect(broker.port, "manager", None);
        let proplet = Proplet::join(broker.port, args);
        peer.expect(SOON, "the first heartbeat", is_alive);
        Some(Self {
            proplet,
            peer,
            broker,
        })
    }

    /// Starts the module `text`.
    pub(crate) fn start(&self, id: &str, name: &str, text: &str, extra: &Value) {
        self.peer
            .publish("control/manager/start", &start(id, name, text, extra));
    }

    pub(crate) fn stop(&self, id: &str) {
        self.peer.publish("control/manager/stop", &stop(id));
    }

    /// The results of `main` with these fields in the start.
    pub(crate) fn run(&self, id: &str, text: &str, extra: &Value) -> Value {
        self.start(id, "main", text, extra);
        self.peer.results(id).body
    }

    /// Waits until a task runs.
    pub(crate) fn runs(&self, id: &str) {
        self.proplet.expect_log(&format!("task {id} runs in slot"));
    }

    /// Fails if `id`'s start has not ended in one results message, with this error.
    pub(crate) fn assert_error(&self, id: &str, words: &str) {
        let body = self.peer.results(id).body;
        let error = body["error"].as_str().unwrap_or_default();
        assert!(
            error.contains(words),
            "task {id}: expected an error with '{words}', found {body}"
        );
        assert_eq!(body["results"], "", "task {id}: results beside an error");
    }
}

/// Fails if more than `most` passed between two heartbeats, or since the last one.
pub(crate) fn assert_heartbeats(peer: &Peer, since: Instant, most: Duration) {
    let beats: Vec<Instant> = peer
        .all(|m| is_alive(m) && m.body["status"] == "alive")
        .iter()
        .map(|m| m.at)
        .filter(|at| *at >= since)
        .collect();
    let ends = beats.iter().copied().chain([Instant::now()]);
    let mut before = since;
    for at in ends {
        let gap = at - before;
        assert!(
            gap <= most,
            "no heartbeat for {gap:?}, at most {most:?} expected; {} in all",
            beats.len()
        );
        before = at;
    }
}
