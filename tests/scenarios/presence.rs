//! Discovery, heartbeats, metrics, the will and the goodbye.

use crate::{
    subject,
    support::{
        ADD, Broker, ID, LOOP, Message, Peer, Proplet, QUIET, SOON, Stage, assert_heartbeats,
        is_alive, is_not_for_subject, is_results,
    },
};
use serde_json::{Value, json};
use std::{
    thread,
    time::{Duration, Instant},
};

fn is_create(message: &Message) -> bool {
    message.topic == "control/proplet/create"
}

#[test]
fn discovery_comes_once_then_heartbeats_at_once_after_1_s_and_within_5_s() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    // The heartbeat's default interval.
    let args = [
        "--description",
        "a test",
        "--tags",
        "red,blue",
        "--location",
        "here",
    ];
    let _proplet = Proplet::join(broker.port, &args);
    let alive = peer.expect_count(Duration::from_secs(20), "4 heartbeats", 4, is_alive);
    let create = peer.all(is_create);
    assert_eq!(create.len(), 1, "discovery messages: {create:?}");

    let body = &create[0].body;
    assert_eq!(body["proplet_id"], ID);
    assert!(body["namespace"].is_string(), "{body}");
    let metadata = &body["metadata"];
    for (key, value) in [
        ("description", "a test"),
        ("location", "here"),
        ("wasm_runtime", "wamr"),
    ] {
        assert_eq!(metadata[key], value, "metadata.{key}");
    }
    for (key, value) in subject::metadata() {
        assert_eq!(metadata[key], value, "metadata.{key}");
    }
    let tags = [&["red", "blue"], subject::TAGS].concat();
    assert_eq!(metadata["tags"], json!(tags));
    assert!(metadata["proplet_version"].is_string(), "{metadata}");
    let arena = metadata["total_memory_bytes"].as_u64().unwrap_or_default();
    let inline = metadata["max_inline_bytes"].as_u64().unwrap_or_default();
    assert!(inline > arena / 2 && inline < arena, "{metadata}");
    for count in ["slots", "deployments", "memory_page_bytes"] {
        assert!(metadata[count].as_u64() > Some(0), "{metadata}");
    }
    assert_eq!(metadata["wasm_proposals"], json!(wamr::PROPOSALS));

    // What the manager reads of the metadata is in each heartbeat.
    let mut known = metadata.clone();
    let fields = known.as_object_mut().expect("an object");
    for beyond in [
        "wasm_proposals",
        "max_inline_bytes",
        "slots",
        "deployments",
        "memory_page_bytes",
    ] {
        fields.remove(beyond);
    }
    for message in &alive {
        let expected = json!({"proplet_id": ID, "status": "alive",
            "namespace": body["namespace"], "metadata": known});
        assert_eq!(message.body, expected);
    }
    let gap = |n: usize| alive[n].at - alive[n - 1].at;
    let first = alive[0].at.checked_duration_since(create[0].at);
    let first = first.expect("the first heartbeat follows discovery");
    assert!(
        first < Duration::from_millis(500),
        "first heartbeat after {first:?}"
    );
    let second = gap(1).as_secs_f64();
    assert!(
        (0.7..2.0).contains(&second),
        "second heartbeat after {second} s"
    );
    for n in [2, 3] {
        let gap = gap(n).as_secs_f64();
        assert!((3.0..5.0).contains(&gap), "heartbeat {n} after {gap} s");
    }
}

#[test]
fn proplet_metrics_are_numbers_with_a_time() {
    let Some(stage) = Stage::new(&["--metrics-interval", "1"]) else {
        return;
    };
    stage.start("busy", "main", LOOP, &json!({}));
    let is_metrics = |m: &Message| m.topic == "control/proplet/metrics";
    let metrics = stage.peer.expect_count(SOON, "metrics", 3, is_metrics);
    for Message { body, .. } in &metrics {
        assert_eq!(body["proplet_id"], ID);
        assert_timestamp(&body["timestamp"]);
        for key in ["user_seconds", "system_seconds", "percent"] {
            assert!(
                body["cpu_metrics"][key].is_f64(),
                "cpu_metrics.{key}: {body}"
            );
        }
        let memory = &body["memory_metrics"];
        for key in [
            "rss_bytes",
            "heap_alloc_bytes",
            "heap_sys_bytes",
            "heap_inuse_bytes",
        ] {
            assert!(memory[key].is_u64(), "memory_metrics.{key}: {body}");
        }
        assert!(memory["heap_inuse_bytes"].as_u64() <= memory["heap_sys_bytes"].as_u64());
    }
    let percent = metrics[2].body["cpu_metrics"]["percent"].as_f64();
    assert!(
        percent > Some(1.0),
        "an endless loop takes {percent:?} % of a core"
    );
}

/// RFC 3339 with a year of this century, where there is a clock to tell it.
pub(crate) fn assert_timestamp(value: &Value) {
    if !subject::HAS_CLOCK {
        assert!(value.is_null(), "a time without a clock: {value}");
        return;
    }
    let text = value.as_str().unwrap_or_default();
    let right = text.len() >= 20
        && text.starts_with("20")
        && text.as_bytes()[10] == b'T'
        && text.ends_with('Z');
    assert!(
        right,
        "expected a time such as 2026-01-02T03:04:05Z, found {value}"
    );
}

#[test]
fn kill_leaves_the_will() {
    let Some(mut stage) = Stage::new(&[]) else {
        return;
    };
    stage.proplet.kill();
    let will = stage.peer.expect(SOON, "the will", |m| {
        is_alive(m) && m.body["status"] != "alive"
    });
    assert_eq!(will.body["status"], "offline");
    assert_eq!(will.body["proplet_id"], ID);
}

#[test]
fn no_will_leaves_none() {
    let Some(mut stage) = Stage::new(&["--no-will"]) else {
        return;
    };
    stage.proplet.kill();
    thread::sleep(QUIET);
    let will = stage
        .peer
        .all(|m| is_alive(m) && m.body["status"] != "alive");
    assert!(will.is_empty(), "{will:?}");
}

#[test]
fn ctrl_c_stops_tasks_reports_them_and_leaves_without_a_will() {
    if is_not_for_subject("ctrl_c_stops_tasks_reports_them_and_leaves_without_a_will") {
        return;
    }
    let Some(mut stage) = Stage::new(&["--instances", "4"]) else {
        return;
    };
    for id in ["one", "two", "three"] {
        stage.start(id, "main", LOOP, &json!({}));
        stage.runs(id);
    }
    stage.start("late", "main", ADD, &json!({"inputs": ["1", "2"]}));
    // It has ended, but its results are held back for their 250 ms.
    stage.proplet.expect_log("task late completed");
    let asked = Instant::now();
    stage.proplet.ctrl_c();
    let status = stage.proplet.wait(SOON);
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "exit: {status}");
    assert!(took < Duration::from_secs(3), "it took {took:?} to leave");
    for id in ["one", "two", "three"] {
        stage.assert_error(id, "proplet is shutting down");
    }
    assert_eq!(stage.peer.results("late").body["results"], "3");
    thread::sleep(QUIET);
    for id in ["one", "two", "three", "late"] {
        assert_eq!(stage.peer.all_results(id).len(), 1, "results of {id}");
    }
    let will = stage
        .peer
        .all(|m| is_alive(m) && m.body["status"] != "alive");
    assert!(will.is_empty(), "a goodbye leaves no will: {will:?}");
    let log = stage.broker.log();
    assert!(
        log.contains(&format!("Received DISCONNECT from {ID}")),
        "it left without a DISCONNECT"
    );
}

#[test]
fn heartbeats_go_on_while_every_slot_is_busy() {
    let Some(stage) = Stage::new(&["--instances", "8", "--slice", "1000000"]) else {
        return;
    };
    let since = Instant::now();
    for n in 0..8 {
        stage.start(&format!("busy-{n}"), "main", LOOP, &json!({}));
    }
    thread::sleep(Duration::from_secs(9));
    assert_heartbeats(&stage.peer, since, Duration::from_secs(5));
    assert!(stage.peer.all(is_results).is_empty(), "nothing has ended");
}
