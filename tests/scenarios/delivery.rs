//! What the broker keeps, and what it sends again.

use crate::{
    subject::Home,
    support::{ADD, Broker, LOOP, Peer, QUIET, SOON, is_alive, is_results, start, stop},
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
