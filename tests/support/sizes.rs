//! Messages of one byte to 8 MiB: starts that run and such that are refused, those of others, and guests'.

use super::{
    ADD, ID, LOOP, Message, Peer, Proplet, QUIET, SOON, assert_heartbeats, base64, is_results,
    start, start_bytes, stop, wasm, with,
};
use serde_json::{Value, json};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Bytes of the payloads.
const SIZES: [usize; 7] = [1, 2, 100, 4 << 10, 64 << 10, 1 << 20, 8 << 20];

/// Payloads of fewer bytes can't be starts.
const START_LEAST: usize = 1000;

/// Flags of the proplet.
pub(crate) const SIZES_ARGS: &[&str] = &[
    "--arena-bytes",
    "1048576",
    "--heartbeat",
    "1",
    "--caps",
    "time,publish,subscribe",
    "--message-max-bytes",
    "8192",
];

/// Time for all answers: an unoptimised build on a busy machine reads some 20 MB a second.
const WAIT: Duration = Duration::from_secs(60);

/// Counts the messages on `news/a` until one on `news/last` comes, and says `ready` on any other.
const COUNTER: &str = r#"(module
    (import "env" "subscribe" (func $subscribe (param i32 i32) (result i32)))
    (import "env" "receive" (func $receive (param i32 i32 i32) (result i32)))
    (import "env" "publish" (func $publish (param i32 i32 i32 i32) (result i32)))
    (import "env" "sleep_ms" (func $sleep (param i32)))
    (memory 1 1)
    (data (i32.const 0) "news/+")
    (data (i32.const 16) "ready")
    (func (export "main") (result i32) (local $count i32) (local $topic i32)
        (drop (call $subscribe (i32.const 0) (i32.const 6)))
        (loop $again
            (if (i32.lt_s (call $receive (i32.const 128) (i32.const 8192) (i32.const 64)) (i32.const 0))
                (then (call $sleep (i32.const 5)) (br $again)))
            (local.set $topic (i32.load (i32.const 64)))
            (if (i32.eq (local.get $topic) (i32.const 6))
                (then (local.set $count (i32.add (local.get $count) (i32.const 1))) (br $again)))
            (if (i32.ne (local.get $topic) (i32.const 9))
                (then (drop (call $publish (i32.const 16) (i32.const 5) (i32.const 16) (i32.const 5)))
                    (br $again))))
        (local.get $count)))"#;

/// Messages that the counter counts: those of which topic and payload have no more than 8192 bytes.
const COUNTED: usize = 4;

/// Expected answer to a start.
enum Answer {
    Sum,
    /// The bytes that its module needs are more than there are.
    Refused(usize),
    /// Either.
    Any(usize),
}

/// Adds an ignored field, so that the message has `size` bytes.
pub(crate) fn padded(body: &Value, size: usize) -> Vec<u8> {
    let bare = with(body.clone(), &json!({"padding": ""}))
        .to_string()
        .len();
    let padding = size.checked_sub(bare);
    let padding = padding.unwrap_or_else(|| panic!("{size} bytes are not enough: {bare}"));
    let padded = with(body.clone(), &json!({"padding": "x".repeat(padding)}));
    padded.to_string().into_bytes()
}

/// Adds a custom section of `len` bytes, its head included.
pub(crate) fn with_custom_section(mut module: Vec<u8>, len: usize) -> Vec<u8> {
    // Identifier, a length of five bytes, and a name of one.
    let body = len - 6;
    let byte = |shift: u32| (body >> shift) as u8 & 0x7f | 0x80;
    module.extend([0, byte(0), byte(7), byte(14), byte(21), (body >> 28) as u8]);
    module.extend([1, b'c']);
    module.resize(module.len() + body - 2, b'x');
    module
}

/// The addition, with a data segment of `len` bytes, which is kept. It has no custom sections.
pub(crate) fn with_data(len: usize) -> Vec<u8> {
    let data = "x".repeat(len);
    wasm(&format!(
        r#"(module (func (export "main") (param i32 i32) (result i32)
            (i32.add (local.get 0) (local.get 1))) (data "{data}"))"#
    ))
}

/// Bytes of a module in base64 that leave some of `size` to the rest of a start.
const fn module_len(size: usize) -> usize {
    (size - START_LEAST) / 4 * 3
}

struct Run<'r> {
    peer: &'r Peer,
    expected: Vec<(String, Answer)>,
}

impl Run<'_> {
    fn publish(&self, topic: &str, payload: Vec<u8>) {
        self.peer.publish_bytes(topic, payload);
    }

    fn start(&mut self, id: String, module: &[u8], size: usize, answer: Answer) {
        let body = start_bytes(&id, "main", module, &json!({"inputs": ["20", "22"]}));
        let payload = padded(&body, size);
        assert_eq!(payload.len(), size);
        self.publish("control/manager/start", payload);
        self.expected.push((id, answer));
        self.small();
    }

    /// One of the small ones between the others.
    fn small(&mut self) {
        let id = format!("small-{}", self.expected.len());
        let body = start(&id, "main", ADD, &json!({"inputs": ["20", "22"]}));
        self.peer.publish("control/manager/start", &body);
        self.expected.push((id, Answer::Sum));
    }

    /// Messages that are no JSON, on all topics.
    fn garbage(&self, size: usize) {
        for topic in ["manager/start", "manager/stop", "manager/invoke"] {
            self.publish(&format!("control/{topic}"), vec![b'{'; size]);
        }
        self.publish("registry/server", vec![b'{'; size]);
    }

    fn foreign(&self, size: usize) {
        let module = vec![0; module_len(size)];
        let body = start_bytes(
            "foreign",
            "main",
            &module,
            &json!({"proplet_id": "another"}),
        );
        self.publish("control/manager/start", padded(&body, size));
        let chunk = json!({"app_name": "another", "chunk_idx": 0, "total_chunks": 1,
            "data": base64(&module)});
        self.publish("registry/server", padded(&chunk, size));
    }

    fn ours(&mut self, size: usize) {
        let len = module_len(size);
        let (add, custom) = (wasm(ADD), with_custom_section(wasm(ADD), len - 200));
        self.start(format!("padded-{size}"), &add, size, Answer::Sum);
        self.start(format!("custom-{size}"), &custom, size, Answer::Sum);
        let kept = with_data(len - 200);
        let answer = match size {
            ..=65_536 => Answer::Sum,
            65_537..=1_048_576 => Answer::Any(kept.len()),
            _ => Answer::Refused(kept.len()),
        };
        self.start(format!("kept-{size}"), &kept, size, answer);
        let none = vec![0; len];
        let body = start_bytes(&format!("none-{size}"), "main", &none, &json!({}));
        self.publish("control/manager/start", padded(&body, size));
        self.expected
            .push((format!("none-{size}"), Answer::Any(len)));
        self.small();
    }

    fn assert_answered(&self, id: &str, answer: &Answer) {
        let is_it = |m: &Message| is_results(m) && m.body["task_id"] == id;
        let body = self.peer.expect(WAIT, id, is_it).body;
        let error = body["error"].as_str().unwrap_or_default();
        let is_refused = |len: &usize| error.contains(&format!(" need {len} bytes, "));
        match answer {
            Answer::Sum => assert_eq!(body["results"], "42", "{body}"),
            Answer::Refused(len) => assert!(is_refused(len), "{len} bytes: {body}"),
            Answer::Any(len) => assert!(
                body["results"] == "42" || is_refused(len) || error.contains("not a WebAssembly"),
                "{len} bytes: {body}"
            ),
        }
    }
}

/// Lets the counter subscribe.
fn count_messages(peer: &Peer) {
    let caps = json!({"env": {"PROPLET_CAPS": "time,publish,subscribe"}});
    let body = start("counter", "main", COUNTER, &caps);
    peer.publish("control/manager/start", &body);
    for _ in 0..100 {
        peer.publish_bytes("news/first", b"-".to_vec());
        let is_ready = |m: &Message| m.topic == "ready";
        if peer.find(Duration::from_millis(100), is_ready).is_some() {
            return;
        }
    }
    panic!("the counter hears nothing");
}

/// Sends them all, one behind the other, to a proplet with [`SIZES_ARGS`]; each of its own is answered once, and all
/// else goes on.
pub(crate) fn assert_all_sizes_are_answered(proplet: &mut Proplet, peer: &Peer) {
    let since = Instant::now();
    let body = start("neighbour", "main", LOOP, &json!({}));
    peer.publish("control/manager/start", &body);
    proplet.expect_log("task neighbour runs in slot");
    count_messages(peer);
    let expected = Vec::new();
    let mut run = Run { peer, expected };
    for size in SIZES {
        run.garbage(size);
        run.publish("news/a", vec![b'n'; size]);
        if size >= START_LEAST {
            run.foreign(size);
            run.ours(size);
        }
        run.small();
    }
    run.publish("news/last", Vec::new());
    for (id, answer) in &run.expected {
        run.assert_answered(id, answer);
    }
    let counter = peer.results("counter").body;
    assert_eq!(counter["results"], COUNTED.to_string(), "{counter}");
    assert!(
        peer.all_results("neighbour").is_empty(),
        "the neighbour has ended"
    );
    peer.publish("control/manager/stop", &stop("neighbour"));
    assert_eq!(peer.results("neighbour").body["error"], "task stopped");
    thread::sleep(QUIET);
    let others = ["neighbour", "counter"].map(String::from);
    let ids = run.expected.iter().map(|(id, _)| id).chain(&others);
    let count = ids.clone().count();
    for id in ids {
        assert_eq!(peer.all_results(id).len(), 1, "results of {id}");
    }
    let ours = |m: &Message| is_results(m) && m.body["proplet_id"] == ID && m.at >= since;
    assert_eq!(
        peer.all(ours).len(),
        count,
        "results of what was not started"
    );
    assert_heartbeats(peer, since, SOON / 3);
    assert_eq!(proplet.logged("next attempt in"), 0, "the link broke");
    assert_eq!(proplet.logged("panicked"), 0);
    assert!(proplet.is_running());
}
