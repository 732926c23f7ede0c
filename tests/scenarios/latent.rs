//! Latent tasks and their invocations.

use crate::support::{ADD, LOOP, QUIET, SOON, Stage, invoke, is_results, with};
use serde_json::{Value, json};
use std::{
    thread,
    time::{Duration, Instant},
};

impl Stage {
    fn deploy(&self, id: &str, text: &str, extra: &Value) {
        let extra = with(json!({"latent": true}), extra);
        self.start(id, "main", text, &extra);
        self.proplet
            .expect_log(&format!("latent task {id} is ready"));
    }

    fn invoke(&self, id: &str, invocation: &str, extra: &Value) {
        self.peer
            .publish("control/manager/invoke", &invoke(id, invocation, extra));
    }

    fn invoked(&self, id: &str, invocation: &str, extra: &Value) -> Value {
        self.invoke(id, invocation, extra);
        self.peer.invoke_results(invocation)
    }
}

#[test]
fn a_latent_task_is_deployed_silently_and_invoked_at_will() {
    let Some(stage) = Stage::new(&[]) else { return };
    stage.deploy("adder", ADD, &json!({"inputs": ["1", "2"]}));
    for (n, extra, expected) in [
        (1, json!({}), "3"),
        (2, json!({"inputs": ["20", "22"]}), "42"),
        (3, json!({"inputs": []}), "3"),
    ] {
        let id = format!("call-{n}");
        let body = stage.invoked("adder", &id, &extra);
        let expected = json!({"task_id": "adder", "invocation_id": id, "results": expected,
            "proplet_id": crate::support::ID});
        assert_eq!(body, expected, "invoked with {extra}");
    }
    // Each invocation has a fresh instance.
    let counter = r#"(module (global $n (mut i32) (i32.const 0))
        (func (export "main") (result i32)
            (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n)))"#;
    stage.deploy("counter", counter, &json!({}));
    for n in 0..3 {
        let body = stage.invoked("counter", &format!("count-{n}"), &json!({}));
        assert_eq!(body["results"], "1", "{body}");
    }
    let body = stage.invoked("adder", "bad", &json!({"inputs": ["1"]}));
    assert_eq!(body["results"], "", "{body}");
    assert_eq!(
        body["error"], "function 'main': expected 2 arguments but got 1",
        "results must be a string beside an error"
    );
    thread::sleep(QUIET);
    let results = stage.peer.all(is_results);
    assert!(
        results.is_empty(),
        "a deployment has no results: {results:?}"
    );
}

#[test]
fn invocations_overlap() {
    let Some(stage) = Stage::new(&["--instances", "8"]) else {
        return;
    };
    let spin = r#"(module (func (export "main") (param i32) (result i32)
        (if (local.get 0) (then (loop $l (br $l)))) (i32.const 7)))"#;
    stage.deploy("spin", spin, &json!({"inputs": ["0"]}));
    for n in 0..6 {
        let env = json!({"inputs": ["1"], "env": {"PROPLET_DEADLINE_MS": "2500"}});
        stage.invoke("spin", &format!("long-{n}"), &env);
    }
    let began = Instant::now();
    let body = stage.invoked("spin", "short", &json!({}));
    assert_eq!(body["results"], "7", "{body}");
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "a short invocation beside long ones took {took:?}"
    );
    // The same id again, as when the broker repeats it.
    stage.invoke("spin", "long-0", &json!({}));
    for n in 0..6 {
        let body = stage.peer.invoke_results(&format!("long-{n}"));
        assert_eq!(body["error"], "deadline of 2500 ms exceeded", "{body}");
    }
    thread::sleep(QUIET);
    let again = stage
        .peer
        .all(|m| m.body["invocation_id"] == "long-0" && m.topic.contains("invoke_results"));
    assert_eq!(again.len(), 1, "{again:?}");
}

#[test]
fn an_invocations_environment_goes_before_the_deployments() {
    let Some(stage) = Stage::new(&[]) else { return };
    let env = json!({"env": {"PROPLET_DEADLINE_MS": "300", "OTHER": "x"}});
    stage.deploy("loop", LOOP, &env);
    let body = stage.invoked("loop", "own", &json!({}));
    assert_eq!(body["error"], "deadline of 300 ms exceeded", "{body}");
    let env = json!({"env": {"PROPLET_DEADLINE_MS": "400"}});
    let body = stage.invoked("loop", "overridden", &env);
    assert_eq!(body["error"], "deadline of 400 ms exceeded", "{body}");
    let env = json!({"env": {"PROPLET_WORK": "1000"}});
    let body = stage.invoked("loop", "added", &env);
    assert_eq!(
        body["error"], "work budget of 1000 branches and calls exhausted",
        "{body}"
    );
    let env = json!({"env": {"PROPLET_DEADLINE_MS": "soon"}});
    let body = stage.invoked("loop", "wrong", &env);
    let error = body["error"].as_str().unwrap_or_default();
    assert!(error.contains("PROPLET_DEADLINE_MS=soon"), "{body}");
}

#[test]
fn the_manager_is_told_what_is_not_deployed_in_the_words_that_it_looks_for() {
    let Some(stage) = Stage::new(&["--deployments", "1", "--instances", "2"]) else {
        return;
    };
    let words = "has not been precompiled";
    let body = stage.invoked("unknown", "call-1", &json!({}));
    assert!(
        body["error"].as_str().unwrap_or_default().contains(words),
        "{body}"
    );
    assert_eq!(body["results"], "", "{body}");

    stage.deploy("adder", ADD, &json!({"inputs": ["1", "2"]}));
    // Deployed again, as the manager does on these words.
    stage.start(
        "adder",
        "main",
        ADD,
        &json!({"latent": true, "inputs": ["1", "2"]}),
    );
    stage.proplet.expect_log("start of adder ignored");
    assert_eq!(stage.invoked("adder", "call-2", &json!({}))["results"], "3");
    stage.start("second", "main", LOOP, &json!({"latent": true}));
    stage.assert_error("second", "no room for a deployment: all 1 are taken");

    // Only what is not deployed may be told in these words: the manager deploys it again.
    for id in ["fill-1", "fill-2"] {
        stage.start(id, "main", LOOP, &json!({}));
        stage.runs(id);
    }
    let body = stage.invoked("adder", "call-3", &json!({}));
    assert_eq!(body["error"], "no free slot: all 2 are taken", "{body}");
    for id in ["fill-1", "fill-2"] {
        stage.stop(id);
        stage.assert_error(id, "task stopped");
    }

    stage.stop("adder");
    stage.assert_error("adder", "task stopped");
    let body = stage.invoked("adder", "call-4", &json!({}));
    assert!(
        body["error"].as_str().unwrap_or_default().contains(words),
        "{body}"
    );
    // And its place is free.
    stage.deploy("third", ADD, &json!({"inputs": ["3", "4"]}));
    assert_eq!(stage.invoked("third", "call-5", &json!({}))["results"], "7");
}

#[test]
fn a_stop_of_a_latent_task_ends_its_invocations() {
    let Some(stage) = Stage::new(&[]) else { return };
    stage.deploy("loop", LOOP, &json!({}));
    for n in 0..3 {
        stage.invoke("loop", &format!("call-{n}"), &json!({}));
    }
    stage.proplet.expect_logs(SOON, "task loop runs in slot", 3);
    stage.stop("loop");
    for n in 0..3 {
        let body = stage.peer.invoke_results(&format!("call-{n}"));
        assert_eq!(body["error"], "task stopped", "{body}");
        assert_eq!(body["results"], "", "{body}");
    }
    stage.assert_error("loop", "task stopped");
}

#[test]
fn a_module_that_cannot_be_deployed_is_reported() {
    let Some(stage) = Stage::new(&[]) else { return };
    let no_entry = r#"(module (func (export "other")))"#;
    stage.start("none", "main", no_entry, &json!({"latent": true}));
    stage.assert_error("none", "function 'main' not found");
    stage.start(
        "bad",
        "main",
        ADD,
        &json!({"latent": true, "file": "AGFzbQ=="}),
    );
    let body = stage.peer.results("bad").body;
    assert!(body["error"].is_string(), "{body}");
    let body = stage.invoked("none", "call", &json!({}));
    let error = body["error"].as_str().unwrap_or_default();
    assert!(error.contains("has not been precompiled"), "{body}");
}
