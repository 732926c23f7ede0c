//! Modules from the registry, in chunks that the whole channel gets.

use crate::support::{
    ADD, LOOP, Message, QUIET, SOON, Stage, base64, chunks, start_image, wasm, with,
};
use proplet::module::{chunks::RESTARTS_MAX, hex::to_hex, table::digest};
use serde_json::{Value, json};
use std::thread;

const IMAGE: &str = "registry.example/embedded/adder:1";

impl Stage {
    fn start_image(&self, id: &str, image: &str, extra: &Value) {
        let extra = with(json!({"inputs": ["20", "22"]}), extra);
        self.peer
            .publish("control/manager/start", &start_image(id, image, &extra));
    }

    fn chunk(&self, chunk: &Value) {
        self.peer.publish("registry/server", chunk);
    }

    fn requests(&self, image: &str) -> Vec<Message> {
        self.peer
            .all(|m| m.topic == "registry/proplet" && m.body["app_name"] == image)
    }

    fn expect_request(&self, image: &str) {
        let request = self
            .peer
            .expect(SOON, &format!("the request for {image}"), |m| {
                m.topic == "registry/proplet" && m.body["app_name"] == image
            });
        assert_eq!(request.body, json!({"app_name": image}));
    }
}

#[test]
fn a_module_is_requested_once_and_put_together() {
    let Some(stage) = Stage::new(&[]) else { return };
    stage.start_image("sum", IMAGE, &json!({}));
    stage.start_image("sum-2", IMAGE, &json!({"inputs": ["1", "2"]}));
    stage.start_image("deployed", IMAGE, &json!({"latent": true}));
    stage.expect_request(IMAGE);
    for chunk in chunks(IMAGE, &wasm(ADD), 16) {
        stage.chunk(&chunk);
    }
    assert_eq!(stage.peer.results("sum").body["results"], "42");
    assert_eq!(stage.peer.results("sum-2").body["results"], "3");
    stage.proplet.expect_log("latent task deployed is ready");
    assert_eq!(
        stage.requests(IMAGE).len(),
        1,
        "who waits for the same image waits together"
    );

    // One chunk that is the whole module.
    stage.start_image("whole", "whole", &json!({}));
    stage.expect_request("whole");
    stage.chunk(&chunks("whole", &wasm(ADD), 4096)[0]);
    assert_eq!(stage.peer.results("whole").body["results"], "42");
}

#[test]
fn chunks_come_in_any_order_more_than_once_and_among_others() {
    let Some(stage) = Stage::new(&[]) else { return };
    let subtract = ADD.replace("i32.add", "i32.sub");
    stage.start_image("sum", "adder", &json!({}));
    stage.start_image("difference", "subtracter", &json!({}));
    stage.expect_request("adder");
    stage.expect_request("subtracter");
    let mut adder = chunks("adder", &wasm(ADD), 10);
    let subtracter = chunks("subtracter", &wasm(&subtract), 7);
    // The last one, which may be shorter, comes first.
    adder.reverse();
    let others = chunks("another", &[0xff; 100], 10);
    for n in 0..adder.len().max(subtracter.len()) {
        for chunks in [&adder, &subtracter, &others] {
            for chunk in [chunks.get(n), chunks.get(n), chunks.get(n / 2)]
                .into_iter()
                .flatten()
            {
                stage.chunk(chunk);
            }
        }
    }
    assert_eq!(stage.peer.results("sum").body["results"], "42");
    assert_eq!(stage.peer.results("difference").body["results"], "-2");

    // Not in Go's order of keys, with an escape in the name, and with an unknown field.
    stage.start_image("escaped", "a/b", &json!({}));
    stage.expect_request("a/b");
    let data = base64(&wasm(ADD));
    let chunk =
        format!(r#"{{"data":"{data}","x":[1],"total_chunks":1,"chunk_idx":0,"app_name":"a\/b"}}"#);
    stage
        .peer
        .publish_bytes("registry/server", chunk.into_bytes());
    assert_eq!(stage.peer.results("escaped").body["results"], "42");
}

#[test]
fn chunks_that_lie_fail_the_tasks_that_wait_for_them() {
    let Some(stage) = Stage::new(&["--arena", "1MiB"]) else {
        return;
    };
    let chunk = |app: &str, index: Value, total: Value, data: &str| json!({"app_name": app, "chunk_idx": index, "total_chunks": total, "data": data});
    // Once or twice it is taken for another version of the module.
    let always = |chunks: [Value; 2]| {
        (0..=RESTARTS_MAX)
            .flat_map(|_| chunks.clone())
            .collect::<Vec<_>>()
    };
    let good = base64(&[0, 1, 2, 3]);
    let long = base64(&[0; 8]);
    let cases: &[(&str, Vec<Value>, &str)] = &[
        (
            "index",
            vec![chunk("index", json!(3), json!(3), &good)],
            "chunk_idx 3 is not below total_chunks 3",
        ),
        (
            "negative",
            vec![chunk("negative", json!(-1), json!(3), &good)],
            "chunk_idx",
        ),
        (
            "none",
            vec![chunk("none", json!(0), json!(0), &good)],
            "chunk_idx 0 is not below total_chunks 0",
        ),
        (
            "total",
            always([
                chunk("total", json!(0), json!(3), &good),
                chunk("total", json!(1), json!(4), &good),
            ]),
            "chunks, earlier ones said",
        ),
        (
            "length",
            always([
                chunk("length", json!(0), json!(3), &good),
                chunk("length", json!(1), json!(3), &long),
            ]),
            "bytes, earlier ones had",
        ),
        (
            "again",
            always(["AAECAw==", "AAECBA=="].map(|data| chunk("again", json!(0), json!(2), data))),
            "chunk 0 of 2 came again with other bytes",
        ),
        (
            "base64",
            vec![chunk("base64", json!(0), json!(2), "@@@@")],
            "base64",
        ),
        (
            "padding",
            vec![chunk("padding", json!(0), json!(2), "AAE")],
            "base64",
        ),
        (
            "huge",
            (0..300)
                .map(|index| chunk("huge", json!(index), json!(2000), &base64(&[0; 4096])))
                .collect(),
            "out of memory",
        ),
        (
            "many",
            vec![chunk("many", json!(0), json!(4_000_000_000_u32), &good)],
            "chunks are more than",
        ),
        (
            "type",
            vec![chunk("type", json!("0"), json!(1), &good)],
            "field \"chunk_idx\"",
        ),
        (
            "garbage",
            vec![chunk("garbage", json!(0), json!(1), &base64(&[0x55; 64]))],
            "",
        ),
    ];
    for (app, chunks, words) in cases {
        stage.start_image(app, app, &json!({}));
        stage.expect_request(app);
        for chunk in chunks {
            stage.chunk(chunk);
        }
        stage.assert_error(app, words);
    }
    thread::sleep(QUIET);
    for (app, ..) in cases {
        assert_eq!(stage.peer.all_results(app).len(), 1, "results of {app}");
    }
    // A module that failed is asked for anew.
    stage.start_image("anew", "total", &json!({}));
    let is_request = |m: &Message| m.topic == "registry/proplet" && m.body["app_name"] == "total";
    stage
        .peer
        .expect_count(SOON, "a second request", 2, is_request);
    for chunk in chunks("total", &wasm(ADD), 16) {
        stage.chunk(&chunk);
    }
    assert_eq!(stage.peer.results("anew").body["results"], "42");
}

#[test]
fn a_task_that_waits_for_its_module_can_be_stopped() {
    let Some(stage) = Stage::new(&["--instances", "1"]) else {
        return;
    };
    stage.start_image("waits", IMAGE, &json!({}));
    stage.expect_request(IMAGE);
    stage.stop("waits");
    stage.assert_error("waits", "task stopped");
    // Its slot is free, and its chunks come too late.
    stage.start(
        "next",
        "main",
        LOOP,
        &json!({"env": {"PROPLET_DEADLINE_MS": "300"}}),
    );
    for chunk in chunks(IMAGE, &wasm(ADD), 16) {
        stage.chunk(&chunk);
    }
    stage.assert_error("next", "deadline of 300 ms exceeded");
    thread::sleep(QUIET);
    assert_eq!(stage.peer.all_results("waits").len(), 1);
}

#[test]
fn a_digest_is_held_to_and_not_asked_for() {
    let Some(stage) = Stage::new(&[]) else { return };
    let hex = to_hex(&digest(&wasm(ADD)));
    stage.start_image("right", &format!("{IMAGE}@sha256:{hex}"), &json!({}));
    stage.start_image(
        "wrong",
        &format!("{IMAGE}#sha256={}", "0".repeat(64)),
        &json!({}),
    );
    stage.expect_request(IMAGE);
    for chunk in chunks(IMAGE, &wasm(ADD), 16) {
        stage.chunk(&chunk);
    }
    assert_eq!(stage.peer.results("right").body["results"], "42");
    stage.assert_error(
        "wrong",
        "digest mismatch: expected sha256:0000000000000000…",
    );
}

#[test]
fn an_encrypted_image_is_refused_in_clear_words() {
    let Some(stage) = Stage::new(&[]) else { return };
    stage.start_image("encrypted", IMAGE, &json!({"encrypted": true}));
    stage.assert_error("encrypted", "TEE runtime not available");
    assert!(stage.requests(IMAGE).is_empty());
}
