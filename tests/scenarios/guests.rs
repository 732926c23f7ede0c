//! Guests that talk: results, logs, messages, and what they may not.

use crate::support::{LISTEN, SOON, Stage, TELL};
use serde_json::json;

/// Says its environment's NAME as its result.
const GREET: &str = r#"(module
    (import "env" "get_env" (func $env (param i32 i32 i32 i32) (result i32)))
    (import "env" "get_input" (func $input (param i32 i32 i32) (result i32)))
    (import "env" "publish_result" (func $say (param i32 i32)))
    (import "env" "log" (func $log (param i32 i32 i32)))
    (memory 1 1)
    (data (i32.const 0) "NAMEhello, ")
    (func (export "main") (local $len i32)
        (local.set $len (call $env (i32.const 0) (i32.const 4) (i32.const 11) (i32.const 100)))
        (call $log (i32.const 2) (i32.const 4) (i32.add (i32.const 7) (local.get $len)))
        (call $say (i32.const 4) (i32.add (i32.const 7) (local.get $len)))))"#;

#[test]
fn a_guest_says_its_result_and_logs() {
    let Some(stage) = Stage::new(&[]) else { return };
    let name = "a \"quoted\" name, žluťoučký";
    let body = stage.run("greet", GREET, &json!({"env": {"NAME": name}}));
    assert_eq!(body["results"], format!("hello, {name}"));
    stage.proplet.expect_log("hello, a \"quoted\" name");
}

#[test]
fn a_call_that_is_not_granted_traps_with_its_name() {
    let Some(stage) = Stage::new(&["--caps", "time,publish"]) else {
        return;
    };
    let inputs = json!({"inputs": ["room/1", "20.5"]});
    stage.start("silent", "main", TELL, &inputs);
    stage.assert_error("silent", "capability 'publish' is not granted");
    let asks = json!({"inputs": ["room/1", "20.5"], "env": {"PROPLET_CAPS": "publish,gpio"}});
    stage.start("greedy", "main", TELL, &asks);
    stage.assert_error("greedy", "does not allow 'gpio'");
    let asks = json!({"inputs": ["room/1", "20.5"], "env": {"PROPLET_CAPS": "publish"}});
    let body = stage.run("loud", TELL, &asks);
    assert_eq!(body["results"], "1", "{body}");
    let told = stage
        .peer
        .expect(SOON, "what it says", |m| m.topic == "room/1");
    assert_eq!(told.body, json!(20.5));
}

#[test]
fn the_networks_own_topics_are_not_for_guests() {
    let Some(stage) = Stage::new(&["--caps", "publish"]) else {
        return;
    };
    for (id, topic) in [
        ("control", "control/manager/start"),
        ("registry", "registry/server"),
        ("fl", "fl/rounds/start"),
        ("wild", "room/+"),
        ("empty", ""),
    ] {
        let asks = json!({"inputs": [topic, "{}"], "env": {"PROPLET_CAPS": "publish"}});
        stage.start(id, "main", TELL, &asks);
        stage.assert_error(id, "");
        assert!(
            stage
                .peer
                .all(|m| m.topic == topic && m.body == json!({}))
                .is_empty()
        );
    }
}

#[test]
fn a_guest_hears_what_it_subscribes_to() {
    let Some(stage) = Stage::new(&["--caps", "time,subscribe"]) else {
        return;
    };
    let asks = json!({"env": {"PROPLET_CAPS": "time,subscribe"}});
    stage.start("ear", "main", LISTEN, &asks);
    stage.runs("ear");
    // The subscription takes a moment; what comes before it is for others.
    let mut tries = 0;
    while stage.peer.all_results("ear").is_empty() {
        assert!(tries < 100, "nothing is heard");
        stage.peer.publish("news/today", &json!("sun"));
        stage.peer.publish("olds/today", &json!("rain"));
        std::thread::sleep(std::time::Duration::from_millis(100));
        tries += 1;
    }
    assert_eq!(
        stage.peer.results("ear").body["results"],
        "news/today\"sun\""
    );
}

#[test]
fn a_sleeping_guest_is_stopped_at_once() {
    let Some(stage) = Stage::new(&["--caps", "time"]) else {
        return;
    };
    let sleeper = r#"(module (import "env" "sleep_ms" (func $sleep (param i32)))
        (func (export "main") (call $sleep (i32.const 3600000))))"#;
    let asks = json!({"env": {"PROPLET_CAPS": "time"}});
    stage.start("sleeper", "main", sleeper, &asks);
    stage.runs("sleeper");
    stage.stop("sleeper");
    stage.assert_error("sleeper", "task stopped");
    let asks = json!({"env": {"PROPLET_CAPS": "time", "PROPLET_DEADLINE_MS": "200"}});
    stage.start("late", "main", sleeper, &asks);
    stage.assert_error("late", "deadline of 200 ms exceeded");
}

#[test]
fn a_guest_that_floods_disturbs_nobody() {
    let Some(stage) = Stage::new(&["--caps", "publish", "--messages", "5"]) else {
        return;
    };
    let flood = r#"(module
        (import "env" "log" (func $log (param i32 i32 i32)))
        (import "env" "publish" (func $publish (param i32 i32 i32 i32) (result i32)))
        (memory 1 1)
        (data (i32.const 0) "flood")
        (func (export "main")
            (loop $l
                (call $log (i32.const 2) (i32.const 0) (i32.const 5))
                (drop (call $publish (i32.const 0) (i32.const 5) (i32.const 0) (i32.const 0)))
                (br $l))))"#;
    let asks = json!({"env": {"PROPLET_CAPS": "publish", "PROPLET_DEADLINE_MS": "2000"}});
    stage.start("flood", "main", flood, &asks);
    stage.runs("flood");
    let body = stage.run("calm", crate::support::ADD, &json!({"inputs": ["1", "2"]}));
    assert_eq!(body["results"], "3");
    stage.assert_error("flood", "deadline of 2000 ms exceeded");
    let count = stage.peer.all(|m| m.topic == "flood").len();
    assert!(
        (1..=15).contains(&count),
        "{count} messages in 2 s at 5 a second"
    );
    let sample = stage.peer.expect(SOON, "its last sample", |m| {
        m.topic.ends_with("task_metrics")
            && m.body["task_id"] == "flood"
            && m.body["metrics"]["dropped"].as_u64() > Some(0)
    });
    assert!(
        sample.body["metrics"]["dropped"].as_u64() > Some(100),
        "{}",
        sample.body
    );
}
