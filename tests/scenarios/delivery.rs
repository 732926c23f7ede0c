//! What the broker keeps, and what it sends again.

use crate::{
    subject::Home,
    support::{ADD, Broker, LOOP, Peer, Proplet, QUIET, SOON, is_alive, is_results, start, stop},
};
use serde_json::json;
use std::thread;

#[test]
fn a_retained_start_is_run_at_no_boot() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    let body = start("kept", "main", LOOP, &json!({}));
    peer.publish_retained("control/manager/start", &body);
    let home = Home::new();
    for boot in 1..=3 {
        let since = std::time::Instant::now();
        let proplet = home.join(broker.port, &[]);
        peer.expect(SOON, "a heartbeat", |m| {
            is_alive(m) && m.body["status"] == "alive" && m.at > since
        });
        // What comes behind it runs.
        let id = format!("boot-{boot}");
        let body = start(&id, "main", ADD, &json!({"inputs": ["20", "22"]}));
        peer.publish("control/manager/start", &body);
        assert_eq!(peer.results(&id).body["results"], "42");
        thread::sleep(QUIET);
        assert_eq!(proplet.logged("task kept runs"), 0, "boot {boot}");
        peer.publish("control/manager/stop", &stop("kept"));
    }
    let kept = peer.all(|m| is_results(m) && m.body["task_id"] == "kept");
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn results_that_end_while_nobody_listens_are_told_to_who_comes() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    let proplet = Proplet::join(broker.port, &[]);
    peer.expect(SOON, "the first heartbeat", is_alive);
    let ids: Vec<String> = (0..5).map(|n| format!("alone-{n}")).collect();
    for id in &ids {
        peer.publish(
            "control/manager/start",
            &start(id, "main", LOOP, &json!({})),
        );
        proplet.expect_log(&format!("task {id} runs in slot"));
    }
    drop(peer);
    let deaf = Peer::connect_deaf(broker.port, "deaf");
    for id in &ids {
        deaf.publish("control/manager/stop", &stop(id));
    }
    proplet.expect_log("nobody is subscribed to results");
    thread::sleep(QUIET);
    let peer = Peer::connect(broker.port, "manager", None);
    // A command says that somebody may listen.
    deaf.publish("control/manager/stop", &stop("unknown"));
    for id in &ids {
        assert_eq!(peer.results(id).body["error"], "task stopped", "{id}");
    }
    thread::sleep(QUIET);
    assert_eq!(peer.all(is_results).len(), ids.len());
}

#[test]
fn a_manager_that_comes_later_is_told_of_the_proplet() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let proplet = Proplet::join(broker.port, &[]);
    proplet.expect_log("no manager is there");
    let peer = Peer::connect(broker.port, "manager", None);
    let create = peer.expect(SOON, "the discovery message", |m| {
        m.topic == "control/proplet/create"
    });
    let alive = peer.expect(SOON, "a heartbeat", is_alive);
    for key in ["os", "total_memory_bytes", "wasm_runtime"] {
        let value = &create.body["metadata"][key];
        assert!(!value.is_null(), "{key}");
        assert_eq!(alive.body["metadata"][key], *value, "{key}");
    }
}
