//! Messages of strangers: each is answered where it can be, and harms no other.

use crate::support::{
    ADD, ID, LOOP, QUIET, SOON, Stage, assert_heartbeats, base64, chunks, invoke, is_results, wasm,
    with,
};
use serde_json::{Value, json};
use std::{
    thread,
    time::{Duration, Instant},
};

/// A stage with an endless task that nothing of what follows may disturb.
struct Neighbour {
    stage: Stage,
    since: Instant,
}

impl Neighbour {
    fn new(args: &[&str]) -> Option<Self> {
        let stage = Stage::new(args)?;
        let profile = json!({"monitoring_profile": {"interval": 1}});
        stage.start("neighbour", "main", LOOP, &profile);
        stage.runs("neighbour");
        Some(Self {
            stage,
            since: Instant::now(),
        })
    }

    /// The neighbour, the heartbeats, the link and the process are as they were.
    fn assert_undisturbed(&mut self) {
        let Self { stage, since } = self;
        assert!(stage.proplet.is_running(), "the process is gone");
        stage.start("after", "main", ADD, &json!({"inputs": ["20", "22"]}));
        assert_eq!(stage.peer.results("after").body["results"], "42");
        let work = |since| {
            let sample = stage.peer.sample(SOON, "neighbour", since);
            sample.body["metrics"]["work"].as_u64()
        };
        let before = work(*since);
        let after = work(Instant::now());
        assert!(after > before, "the neighbour stands still at {before:?}");
        assert!(
            stage.peer.all_results("neighbour").is_empty(),
            "the neighbour has ended"
        );
        assert_eq!(stage.proplet.logged("next attempt in"), 0, "the link broke");
        assert_heartbeats(&stage.peer, *since, Duration::from_secs(5));
        stage.stop("neighbour");
        stage.assert_error("neighbour", "task stopped");
        thread::sleep(QUIET);
        for id in ["neighbour", "after"] {
            assert_eq!(stage.peer.all_results(id).len(), 1, "results of {id}");
        }
        assert!(!stage.proplet.log().iter().any(|l| l.contains("panicked")));
    }
}

/// A start that is ours, with the rest as it comes.
fn ours(id: &str, rest: &str) -> Vec<u8> {
    format!(r#"{{"id":"{id}","proplet_id":"{ID}"{rest}"#).into_bytes()
}

#[test]
fn messages_that_are_no_commands() {
    let Some(mut neighbour) = Neighbour::new(&[]) else {
        return;
    };
    let stage = &neighbour.stage;
    let start = |payload: Vec<u8>| stage.peer.publish_bytes("control/manager/start", payload);

    // These name no task that an answer could be for.
    let nested = |open: &str| open.repeat(100_000).into_bytes();
    for topic in ["start", "stop", "invoke"].map(|t| format!("control/manager/{t}")) {
        for payload in [
            b"".to_vec(),
            b"{".to_vec(),
            b"not JSON".to_vec(),
            b"[]".to_vec(),
            b"null".to_vec(),
            b"\"text\"".to_vec(),
            b"{}".to_vec(),
            b"{\"id\":".to_vec(),
            vec![0; 100],
            vec![0xff; 1000],
            nested("["),
            nested("{\"a\":"),
            nested("[{\"id\":"),
            b"{\"id\":\"cut".to_vec(),
            b"{\"id\":5}".to_vec(),
            b"{\"id\":null}".to_vec(),
            b"{\"id\":\"\"}".to_vec(),
            b"{\"id\":[]}".to_vec(),
            format!("{{\"id\":\"{}\"}}", "x".repeat(10_000)).into_bytes(),
            b"{\"name\":\"main\",\"file\":\"AA==\"}".to_vec(),
            b"{\"id\":\"\\ud800\"}".to_vec(),
            br#"{"id":"a","id":"b","proplet_id":"another"}"#.to_vec(),
        ] {
            stage.peer.publish_bytes(&topic, payload);
        }
    }
    for payload in [
        &b""[..],
        b"{}",
        b"[]",
        b"{\"app_name\":5}",
        b"{\"app_name\":\"x\"",
        b"\xff",
    ] {
        stage
            .peer
            .publish_bytes("registry/server", payload.to_vec());
    }

    // And these have somebody to tell.
    let deep = "[".repeat(100_000);
    let wide = (0..400)
        .map(|n| format!("\"{n:010}\""))
        .collect::<Vec<_>>()
        .join(",");
    let cases = [
        (
            "nested",
            format!(r#","x":{deep}"#),
            "JSON is nested deeper than",
        ),
        (
            "cut",
            r#","name":"main","file":"AAAA"#.to_owned(),
            "JSON is malformed or cut short",
        ),
        (
            "garbage",
            r#","name":"main" oops}"#.to_owned(),
            "JSON is malformed or cut short",
        ),
        (
            "no-name",
            r#","file":"AAAA"}"#.to_owned(),
            "name is missing",
        ),
        (
            "null-name",
            r#","name":null,"file":"AAAA"}"#.to_owned(),
            "name is missing",
        ),
        (
            "empty-name",
            r#","name":"","file":"AAAA"}"#.to_owned(),
            "name is missing",
        ),
        (
            "name-type",
            r#","name":5,"file":"AAAA"}"#.to_owned(),
            r#"field "name""#,
        ),
        (
            "file-type",
            r#","name":"main","file":[1,2]}"#.to_owned(),
            r#"field "file""#,
        ),
        (
            "inputs-type",
            r#","name":"m","file":"AA==","inputs":5}"#.to_owned(),
            r#"field "inputs""#,
        ),
        (
            "input-type",
            r#","name":"m","file":"AA==","inputs":[{}]}"#.to_owned(),
            r#"field "inputs""#,
        ),
        (
            "env-type",
            r#","name":"m","file":"AA==","env":["A"]}"#.to_owned(),
            r#"field "env""#,
        ),
        (
            "env-value",
            r#","name":"m","file":"AA==","env":{"A":[]}}"#.to_owned(),
            r#"field "env""#,
        ),
        (
            "flag-type",
            r#","name":"m","file":"AA==","daemon":"yes"}"#.to_owned(),
            r#"field "daemon""#,
        ),
        (
            "long-name",
            format!(r#","name":"{}","file":"AA=="}}"#, "n".repeat(65)),
            "name is longer",
        ),
        (
            "no-module",
            r#","name":"main"}"#.to_owned(),
            "file and image_url are both missing",
        ),
        (
            "long-image",
            format!(r#","name":"m","image_url":"{}"}}"#, "i".repeat(257)),
            "image_url",
        ),
        (
            "many-inputs",
            format!(r#","name":"m","file":"AA==","inputs":[{wide}]}}"#),
            "inputs and env",
        ),
    ];
    for (id, rest, _) in &cases {
        start(ours(id, rest));
    }
    for (id, _, words) in &cases {
        stage.assert_error(id, words);
    }
    // Who reads a bad invocation waits for its end, too.
    let bad = invoke("unknown", "bad-inputs", &json!({"inputs": 5}));
    stage.peer.publish("control/manager/invoke", &bad);
    let body = stage.peer.invoke_results("bad-inputs");
    let error = body["error"].as_str().unwrap_or_default();
    assert!(error.contains(r#"field "inputs""#), "{body}");
    assert_eq!(body["results"], "", "{body}");

    // Unknown stops and invocations.
    stage.stop("unknown");
    stage.peer.publish(
        "control/manager/invoke",
        &invoke("unknown", "unknown-1", &json!({})),
    );
    let body = stage.peer.invoke_results("unknown-1");
    assert!(
        body["error"]
            .as_str()
            .unwrap_or_default()
            .contains("has not been precompiled")
    );
    let nameless = with(
        invoke("unknown", "x", &json!({})),
        &json!({"invocation_id": null}),
    );
    stage.peer.publish("control/manager/invoke", &nameless);

    let known: Vec<&str> = cases.iter().map(|(id, ..)| *id).collect();
    let strangers = stage.peer.all(|m| {
        let id = m.body["task_id"].as_str().unwrap_or_default();
        is_results(m) && !known.contains(&id)
    });
    assert!(
        strangers.is_empty(),
        "results of nobody's tasks: {strangers:?}"
    );
    neighbour.assert_undisturbed();
}

#[test]
fn modules_that_are_none() {
    let Some(mut neighbour) = Neighbour::new(&["--instances", "4"]) else {
        return;
    };
    let stage = &neighbour.stage;
    let file = |id: &str, file: &str, words: &str| {
        stage.start(
            id,
            "main",
            ADD,
            &json!({"file": file, "inputs": ["1", "2"]}),
        );
        stage.assert_error(id, words);
    };
    let add = wasm(ADD);
    for (n, text) in [
        "@@@@", "AAA", "AAAA=", "A A=", "AG=zbQ", "AGFzbQ", "====", "ä",
    ]
    .into_iter()
    .enumerate()
    {
        file(&format!("base64-{n}"), text, "base64");
    }
    file("empty", "", "file and image_url are both missing");
    file(
        "text",
        &base64(b"(module)"),
        "the module is WebAssembly text",
    );
    file("magic", &base64(b"\0asm"), "not a WebAssembly module");
    file(
        "version",
        &base64(b"\0asm\x02\0\0\0"),
        "it begins with [00, 61, 73, 6d, 02",
    );
    file(
        "component",
        &base64(b"\0asm\x0d\0\x01\0"),
        "a WebAssembly component",
    );
    file(
        "gzip",
        &base64(b"\x1f\x8b\x08\0"),
        "gzip-compressed: send it unpacked",
    );
    file("twice", &base64(base64(&add).as_bytes()), "in base64 twice");
    file("nothing", &base64(&add[..8]), "function 'main' not found");
    file("zeros", &base64(&[0; 4096]), "not a WebAssembly module");

    // Without names: the section that holds them may be cut off.
    let bare = wasm(
        r#"(module (func (export "main") (param i32 i32) (result i32)
            (i32.add (local.get 0) (local.get 1))))"#,
    );
    // Cut anywhere, it is no module, or one without what is called.
    for len in (9..bare.len()).step_by(3) {
        let id = format!("cut-{len}");
        stage.start(
            &id,
            "main",
            ADD,
            &json!({"file": base64(&bare[..len]), "inputs": ["1", "2"]}),
        );
    }
    for len in (9..bare.len()).step_by(3) {
        let body = stage.peer.results(&format!("cut-{len}")).body;
        assert!(
            body["error"].is_string(),
            "a module cut at {len} bytes: {body}"
        );
    }
    // With a byte changed it may be another module; it ends in any case.
    for at in 0..bare.len() {
        let mut bytes = bare.clone();
        bytes[at] ^= 0x15;
        let extra = json!({"file": base64(&bytes), "inputs": ["1", "2"],
            "env": {"PROPLET_DEADLINE_MS": "500"}});
        stage.start(&format!("mutant-{at}"), "main", ADD, &extra);
    }
    for at in 0..bare.len() {
        stage.peer.results(&format!("mutant-{at}"));
    }

    for (id, text, words) in [
        (
            "import",
            r#"(module (import "env" "nobody" (func)) (func (export "main")))"#,
            "unknown import",
        ),
        (
            "wasi",
            r#"(module (import "wasi_snapshot_preview1" "fd_write"
                (func (param i32 i32 i32 i32) (result i32))) (func (export "main")))"#,
            "unknown import",
        ),
        (
            "imported-memory",
            r#"(module (import "env" "memory" (memory 1)) (func (export "main")))"#,
            "import",
        ),
        (
            "no-export",
            r#"(module (func (export "other")))"#,
            "function 'main' not found",
        ),
        (
            "no-function",
            r#"(module (memory (export "main") 0))"#,
            "function 'main' not found",
        ),
        (
            "data",
            r#"(module (memory 1) (data (i32.const 65535) "ab") (func (export "main")))"#,
            "",
        ),
        (
            "elements",
            r#"(module (table 1 funcref) (func $f (export "main"))
                (elem (i32.const 1) $f))"#,
            "",
        ),
    ] {
        stage.start(id, "main", text, &json!({}));
        stage.assert_error(id, words);
    }
    for (id, inputs, words) in [
        ("too-few", json!(["1"]), "expected 2 arguments but got 1"),
        (
            "too-many",
            json!(["1", "2", "3"]),
            "expected 2 arguments but got 3",
        ),
        ("none", Value::Null, "expected 2 arguments but got 0"),
        (
            "letters",
            json!(["1", "two"]),
            "failed to parse input 1 'two' as i32",
        ),
    ] {
        stage.start(id, "main", ADD, &json!({"inputs": inputs}));
        stage.assert_error(id, words);
    }
    neighbour.assert_undisturbed();
}

/// Starts of megabytes, each wrong in one place, or odd and right.
#[test]
fn large_starts_that_are_odd_or_wrong() {
    let args = ["--arena-bytes", "1048576"];
    let Some(mut neighbour) = Neighbour::new(&args) else {
        return;
    };
    let stage = &neighbour.stage;
    let add = base64(&wasm(ADD));
    let escaped: String = add.bytes().map(|c| format!("\\u{c:04x}")).collect();
    let long = "QUJD".repeat(300_000);
    let keys: Vec<String> = (0..100_000).map(|n| format!("\"key-{n}\":{n}")).collect();
    let keys = keys.join(",");
    // The rest of a start behind its `{`, which says neither whose it is nor its id.
    let call = r#""name":"main","inputs":["20","22"]"#;
    let right = [
        ("twice", format!(r#"{call},"file":"{long}","file":"{add}""#)),
        (
            "twice-wrong",
            format!(r#"{call},"file":"@@@@","file":"{add}""#),
        ),
        ("escaped", format!(r#"{call},"file":"{escaped}""#)),
        (
            "slashes",
            format!(r#""file":"{}",{call}"#, add.replace('/', "\\/")),
        ),
        ("keys", format!(r#"{keys},"file":"{add}",{keys},{call}"#)),
        (
            "inner-keys",
            format!(r#""x":{{{keys}}},"file":"{add}",{call}"#),
        ),
        (
            "null-before",
            format!(r#""file":null,{call},"file":"{add}""#),
        ),
    ];
    let wrong = [
        (
            "twice-other",
            format!(r#"{call},"file":"{add}","file":"{long}""#),
            "not a WebAssembly module",
        ),
        (
            "null-behind",
            format!(r#"{call},"file":"{add}","file":null"#),
            "are both missing",
        ),
        (
            "last-byte",
            format!(r#""file":"{long}QUJ!",{call}"#),
            r#"field "file": text is not padded"#,
        ),
        (
            "last-escape",
            format!(r#""file":"{long}QUJ\u0021",{call}"#),
            r#"field "file": text is not"#,
        ),
        (
            "cut-base64",
            format!(r#""file":"{long}QUJ",{call}"#),
            r#"field "file": text is not"#,
        ),
        (
            "variables",
            format!(r#""file":"{add}",{call},"env":{{{keys}}}"#),
            "inputs and env take more",
        ),
    ];
    let start = |payload: String| {
        let payload = payload.into_bytes();
        stage.peer.publish_bytes("control/manager/start", payload);
    };
    // Its id comes last.
    let of = |id: &str, rest: &str| format!(r#"{{{rest},"proplet_id":"{ID}","id":"{id}"}}"#);
    right.iter().for_each(|(id, rest)| start(of(id, rest)));
    wrong.iter().for_each(|(id, rest, _)| start(of(id, rest)));
    // Its id comes behind 8 MiB.
    let need = (8 << 20) / 4 * 3;
    start(of(
        "late-id",
        &format!(r#""file":"{}",{call}"#, "A".repeat(8 << 20)),
    ));
    // They do not end.
    for (id, rest) in [
        ("open-array", format!("\"x\":[{}1", "1,".repeat(4_000_000))),
        ("open-object", format!("\"x\":{{{keys},\"y\":[")),
        ("open-file", format!("\"file\":\"{long}")),
    ] {
        let head = format!(r#"{{"id":"{id}","proplet_id":"{ID}",{call},"#);
        start(head + &rest);
    }
    for (id, _) in &right {
        let body = stage.peer.results(id).body;
        assert_eq!(body["results"], "42", "{id}: {body}");
    }
    for (id, _, words) in &wrong {
        stage.assert_error(id, words);
    }
    stage.assert_error(
        "late-id",
        &format!("the module's bytes need {need} bytes, "),
    );
    for id in ["open-array", "open-object", "open-file"] {
        stage.assert_error(id, "JSON is malformed or cut short");
    }
    thread::sleep(QUIET);
    let ids = right
        .iter()
        .map(|(id, _)| id)
        .chain(wrong.iter().map(|(id, ..)| id));
    for id in ids.chain(&["late-id", "open-array", "open-object", "open-file"]) {
        assert_eq!(stage.peer.all_results(id).len(), 1, "results of {id}");
    }
    neighbour.assert_undisturbed();
}

#[test]
fn guests_that_fail() {
    let Some(mut neighbour) = Neighbour::new(&["--instances", "4", "--arena", "1MiB"]) else {
        return;
    };
    let stage = &neighbour.stage;
    let body = |code: &str| format!(r#"(module (memory 1) (func (export "main") {code}))"#);
    let traps: Vec<(&str, String, &str)> = vec![
        ("unreachable", body("unreachable"), "unreachable"),
        (
            "zero",
            body("(drop (i32.div_s (i32.const 1) (i32.const 0)))"),
            "integer divide by zero",
        ),
        (
            "remainder",
            body("(drop (i64.rem_u (i64.const 1) (i64.const 0)))"),
            "integer divide by zero",
        ),
        (
            "overflow",
            body("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))"),
            "integer overflow",
        ),
        (
            "nan",
            body("(drop (i32.trunc_f32_s (f32.const nan)))"),
            "invalid conversion to integer",
        ),
        (
            "too-large",
            body("(drop (i32.trunc_f64_s (f64.const 1e30)))"),
            "integer overflow",
        ),
        (
            "load",
            body("(drop (i32.load (i32.const 65533)))"),
            "out of bounds memory access",
        ),
        (
            "store",
            body("(i64.store offset=0xffffffff (i32.const -1) (i64.const 1))"),
            "out of bounds memory access",
        ),
        (
            "element",
            r#"(module (table 2 funcref) (type $t (func))
                (func (export "main") (call_indirect (type $t) (i32.const 7))))"#
                .into(),
            "undefined element",
        ),
        (
            "empty-element",
            r#"(module (table 2 funcref) (type $t (func))
                (func (export "main") (call_indirect (type $t) (i32.const 1))))"#
                .into(),
            "uninitialized element",
        ),
        (
            "mismatch",
            r#"(module (table 1 funcref) (type $t (func (result i32))) (func $f)
                (elem (i32.const 0) $f)
                (func (export "main") (drop (call_indirect (type $t) (i32.const 0)))))"#
                .into(),
            "indirect call type mismatch",
        ),
        (
            "recursion",
            r#"(module (func $f (export "main") (call $f)))"#.into(),
            "wasm operand stack overflow",
        ),
        (
            "recursion-in-start",
            r#"(module (func $f (call $f)) (start $f) (func (export "main")))"#.into(),
            "wasm operand stack overflow",
        ),
        (
            "trap-in-start",
            r#"(module (func $f unreachable) (start $f) (func (export "main")))"#.into(),
            "unreachable",
        ),
        (
            "trap-in-initialize",
            r#"(module (func (export "_initialize") unreachable) (func (export "main")))"#.into(),
            "unreachable",
        ),
        (
            "large",
            r#"(module (memory 16) (func (export "main") (memory.fill (i32.const 0) (i32.const 1)
                (i32.const 1048576))))"#
                .into(),
            "out of memory",
        ),
        (
            "largest",
            r#"(module (memory 65536) (func (export "main")))"#.into(),
            "",
        ),
        (
            "many-locals",
            format!(
                r#"(module (func (export "main") {}))"#,
                "(local i64) ".repeat(3000)
            ),
            "",
        ),
    ];
    for (id, text, words) in &traps {
        stage.start(id, "main", text, &json!({}));
        stage.assert_error(id, words);
    }
    let grow = r#"(module (memory 0) (func (export "main") (result i32)
        (memory.grow (i32.const 65536))))"#;
    assert_eq!(
        stage.run("grow", grow, &json!({}))["results"],
        "-1",
        "no such room"
    );

    // A table's bounds, where bulk operations are built in; refused as a whole elsewhere.
    let table = r#"(module (table 1 funcref) (func $f) (elem $e func $f)
        (func (export "main") (table.init $e (i32.const 5) (i32.const 0) (i32.const 1))))"#;
    let body = stage.run("table", table, &json!({}));
    assert!(body["error"].is_string(), "{body}");

    // Out of slots, beside the neighbour; and out of patience.
    for n in 0..3 {
        stage.start(&format!("fill-{n}"), "main", LOOP, &json!({}));
    }
    stage.start("no-slot", "main", ADD, &json!({"inputs": ["1", "2"]}));
    stage.assert_error("no-slot", "no free slot: all 4 are taken");
    // Known while it runs, so it's not started, and not refused either.
    stage.start("fill-0", "main", ADD, &json!({"inputs": ["1", "2"]}));
    stage.proplet.expect_log("start of fill-0 ignored");
    for n in 0..3 {
        let id = format!("fill-{n}");
        stage.stop(&id);
        stage.assert_error(&id, "task stopped");
    }
    for (id, text) in [
        ("loop", LOOP),
        (
            "loop-in-start",
            r#"(module (func $f (loop $l (br $l))) (start $f) (func (export "main")))"#,
        ),
    ] {
        stage.start(id, "main", text, &json!({}));
        stage.runs(id);
        stage.stop(id);
        stage.assert_error(id, "task stopped");
    }
    neighbour.assert_undisturbed();
}

#[test]
fn floods() {
    let Some(mut neighbour) = Neighbour::new(&[]) else {
        return;
    };
    let stage = &neighbour.stage;
    // 10 MB, of which the module is a small part.
    let padding = "x".repeat(10_000_000);
    let file = base64(&wasm(ADD));
    let large = ours(
        "large",
        &format!(r#","name":"main","x":"{padding}","file":"{file}","inputs":["20","22"]}}"#),
    );
    stage.peer.publish_bytes("control/manager/start", large);
    assert_eq!(stage.peer.results("large").body["results"], "42");
    // For another.
    let padding = "A".repeat(1_000_000);
    for n in 0..10 {
        let foreign = json!({"file": padding, "proplet_id": "another"});
        stage.start(&format!("foreign-{n}"), "main", ADD, &foreign);
    }
    let module = vec![0x5a; 200_000];
    for app in ["one", "two", "three"] {
        for chunk in chunks(app, &module, 1000) {
            stage.peer.publish("registry/server", &chunk);
        }
    }
    // A module of ours among them.
    let image = crate::support::start_image("sum", "ours", &json!({"inputs": ["20", "22"]}));
    stage.peer.publish("control/manager/start", &image);
    stage.peer.expect(SOON, "the request for our image", |m| {
        m.topic == "registry/proplet" && m.body["app_name"] == "ours"
    });
    for (ours, foreign) in chunks("ours", &wasm(ADD), 8)
        .iter()
        .zip(chunks("four", &module, 9000))
    {
        stage.peer.publish("registry/server", &foreign);
        stage.peer.publish("registry/server", ours);
    }
    assert_eq!(stage.peer.results("sum").body["results"], "42");
    neighbour.assert_undisturbed();
}

#[test]
fn five_hundred_starts_at_once_are_answered_one_by_one() {
    let Some(mut neighbour) = Neighbour::new(&[]) else {
        return;
    };
    let stage = &neighbour.stage;
    // Those that find no slot are told so; none is forgotten.
    for n in 0..500 {
        let inputs = json!({"inputs": [n.to_string(), "1"]});
        stage.start(&format!("burst-{n}"), "main", ADD, &inputs);
    }
    let is_burst = |m: &crate::support::Message| {
        let id = m.body["task_id"].as_str().unwrap_or_default();
        is_results(m) && id.starts_with("burst-")
    };
    let wait = Duration::from_secs(30);
    stage
        .peer
        .expect_count(wait, "results of all starts", 500, is_burst);
    for n in 0..500 {
        let found = stage.peer.all_results(&format!("burst-{n}"));
        assert_eq!(found.len(), 1, "results of burst-{n}: {found:?}");
        let sum = (n + 1).to_string();
        let right = found[0]["results"] == sum;
        let refused = found[0]["error"].as_str().is_some_and(|e| !e.is_empty());
        assert!(right || refused, "{}", found[0]);
    }
    neighbour.assert_undisturbed();
}
