//! The main scenarios against a broker in this process: they need no peer to be installed.

mod support;

use proplet_host::demo::broker::{self, Ports};
use serde_json::json;
use std::{
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};
use support::{
    ADD, ID, LOOP, Peer, Proplet, QUIET, SIZES_ARGS, SOON, assert_all_sizes_are_answered,
    assert_heartbeats, base64, host as subject, invoke, is_alive, is_results, start, stop, wasm,
};

/// One broker for all: it can't be ended. Tests take turns, since they share the channel.
fn ports() -> Ports {
    static PORTS: OnceLock<Ports> = OnceLock::new();
    *PORTS.get_or_init(|| broker::start().expect("the broker starts"))
}

fn stage(name: &str, args: &[&str]) -> (Proplet, Peer) {
    let ports = ports();
    let peer = Peer::connect(ports.v4, name, None);
    let proplet = Proplet::join(ports.v5, args);
    peer.expect(SOON, "the first heartbeat", is_alive);
    (proplet, peer)
}

/// In one test, one after the other: a second client of the same id would end the first.
#[test]
fn the_main_scenarios() {
    presence_tasks_and_latent_tasks();
    messages_of_any_size_are_answered();
    let (mut proplet, peer) = stage("manager-3", SIZES_ARGS);
    assert_all_sizes_are_answered(&mut proplet, &peer);
}

fn presence_tasks_and_latent_tasks() {
    let (mut proplet, peer) = stage("manager-1", &["--instances", "24"]);
    let since = Instant::now();
    let create = peer.expect(SOON, "discovery", |m| m.topic == "control/proplet/create");
    assert_eq!(create.body["proplet_id"], ID);
    assert_eq!(create.body["metadata"]["wasm_runtime"], "wamr");
    peer.expect_count(SOON, "a second heartbeat", 2, is_alive);

    let publish = |topic: &str, body| peer.publish(&format!("control/manager/{topic}"), &body);
    let sent = Instant::now();
    publish(
        "start",
        start("sum", "add", ADD, &json!({"inputs": ["20", "22"]})),
    );
    let results = peer.results("sum");
    assert_eq!(results.body["results"], "42", "{}", results.body);
    assert!(results.at - sent >= Duration::from_millis(250));
    publish(
        "start",
        start(
            "trap",
            "main",
            "(module (func (export \"main\") unreachable))",
            &json!({}),
        ),
    );
    assert_eq!(peer.results("trap").body["error"], "unreachable");
    let deadline = json!({"env": {"PROPLET_DEADLINE_MS": "300"}});
    publish("start", start("late", "main", LOOP, &deadline));
    assert_eq!(
        peer.results("late").body["error"],
        "deadline of 300 ms exceeded"
    );

    publish(
        "start",
        start(
            "adder",
            "main",
            ADD,
            &json!({"latent": true, "inputs": ["1", "2"]}),
        ),
    );
    publish("invoke", invoke("adder", "call-1", &json!({})));
    assert_eq!(peer.invoke_results("call-1")["results"], "3");
    publish(
        "invoke",
        invoke("adder", "call-2", &json!({"inputs": ["4", "5"]})),
    );
    assert_eq!(peer.invoke_results("call-2")["results"], "9");
    publish("invoke", invoke("nobody", "call-3", &json!({})));
    let error = peer.invoke_results("call-3")["error"].to_string();
    assert!(error.contains("has not been precompiled"), "{error}");

    let image = support::start_image("image", "adder:1", &json!({"inputs": ["3", "4"]}));
    publish("start", image);
    let wanted = peer.expect(SOON, "a request", |m| m.topic == "registry/proplet");
    assert_eq!(wanted.body, json!({"app_name": "adder:1"}));
    for chunk in support::chunks("adder:1", &wasm(ADD), 20) {
        peer.publish("registry/server", &chunk);
    }
    assert_eq!(peer.results("image").body["results"], "7");

    let ids: Vec<String> = (0..24).map(|n| format!("loop-{n}")).collect();
    for id in &ids {
        publish("start", start(id, "main", LOOP, &json!({})));
    }
    proplet.expect_logs(SOON, "task loop-", 24);
    publish("start", start("no-slot", "main", LOOP, &json!({})));
    assert_eq!(
        peer.results("no-slot").body["error"],
        "no free slot: all 24 are taken"
    );
    for id in &ids {
        publish("stop", stop(id));
    }
    for id in &ids {
        assert_eq!(peer.results(id).body["error"], "task stopped", "{id}");
    }
    thread::sleep(QUIET);
    assert_eq!(
        peer.all(is_results).len(),
        5 + 24,
        "each start has one result"
    );
    assert_heartbeats(&peer, since, Duration::from_secs(5));
    proplet.ctrl_c();
    assert_eq!(proplet.wait(SOON).code(), Some(0));
    let will = peer.all(|m| is_alive(m) && m.body["status"] != "alive");
    assert!(will.is_empty(), "{will:?}");
}

fn messages_of_any_size_are_answered() {
    let (mut proplet, peer) = stage("manager-2", &["--arena", "192KiB"]);
    let since = Instant::now();
    peer.publish(
        "control/manager/start",
        &start("neighbour", "main", LOOP, &json!({})),
    );
    proplet.expect_log("task neighbour runs in slot");
    for size in [70_000, 1_000_000, 10_000_000] {
        let id = format!("large-{size}");
        let bytes = size * 3 / 4;
        let file = json!({"file": base64(&vec![0; bytes])});
        peer.publish("control/manager/start", &start(&id, "main", ADD, &file));
        let error = peer.results(&id).body["error"].to_string();
        let reason = format!("the module's bytes need {bytes} bytes");
        assert!(size == 70_000 || error.contains(&reason), "{error}");
        let next = format!("next-{size}");
        let inputs = json!({"inputs": ["20", "22"]});
        peer.publish("control/manager/start", &start(&next, "main", ADD, &inputs));
        let body = peer.results(&next).body;
        assert_eq!(body["results"], "42", "after {size} bytes: {body}");
    }
    assert!(
        peer.all_results("neighbour").is_empty(),
        "the neighbour has ended"
    );
    assert_heartbeats(&peer, since, Duration::from_secs(5));
    peer.publish("control/manager/stop", &stop("neighbour"));
    assert_eq!(peer.results("neighbour").body["error"], "task stopped");
    assert!(proplet.is_running());
}
