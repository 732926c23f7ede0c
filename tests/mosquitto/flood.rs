//! Ten thousand starts at once.

use crate::support::{
    ADD, Broker, Peer, Proplet, SOON, assert_heartbeats, is_alive, is_results, start,
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const STARTS: usize = 10_000;

/// Goal for the last answer.
const WAIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "takes up to a minute: cargo test -p proplet-host --test mosquitto ten_thousand -- --ignored --nocapture"]
fn ten_thousand_starts_at_once_are_answered_once_each() {
    let lines = "max_queued_messages 0".into();
    let Some(broker) = Broker::start_with(None, lines) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    let mut proplet = Proplet::join(broker.port, &["--result-delay-ms", "0", "--heartbeat", "1"]);
    peer.expect(SOON, "the first heartbeat", is_alive);
    let began = Instant::now();
    for n in 0..STARTS {
        let body = start(
            &n.to_string(),
            "main",
            ADD,
            &json!({"inputs": [n.to_string(), "1"]}),
        );
        peer.publish("control/manager/start", &body);
    }
    let sent = began.elapsed();
    let results = peer.expect_count(WAIT, "answers", STARTS, is_results);
    let took = results[STARTS - 1].at - began;
    // mosquitto 2.0.11 sends them all at once, whatever the Receive Maximum: they come again on some connections.
    let connections = proplet.logged("connected to");
    println!(
        "{STARTS} starts: sent in {sent:?}, answered in {took:?}, on {connections} connections"
    );
    assert_eq!(results.len(), STARTS);
    let ids: BTreeSet<&str> = results
        .iter()
        .filter_map(|m| m.body["task_id"].as_str())
        .collect();
    assert_eq!(ids.len(), STARTS, "each is answered once");
    for result in &results {
        let n: usize = result.body["task_id"].as_str().unwrap().parse().unwrap();
        let sum = (n + 1).to_string();
        let is_refused = result.body["error"].as_str().is_some_and(|e| !e.is_empty());
        assert!(is_refused || result.body["results"] == sum);
    }
    assert_heartbeats(&peer, began, SOON / 2);
    assert!(proplet.is_running());
}
