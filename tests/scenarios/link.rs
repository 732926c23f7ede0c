//! A proplet on a bad network.

use crate::support::{
    ADD, Broker, ID, LOOP, Message, Peer, Proplet, Proxy, QUIET, SOON, assert_heartbeats, is_alive,
    is_not_for_subject, is_results, start,
};
use serde_json::json;
use std::{
    thread,
    time::{Duration, Instant},
};

/// A proplet that reaches its broker through a proxy.
struct Route {
    proplet: Proplet,
    peer: Peer,
    proxy: Proxy,
    broker: Broker,
}

impl Route {
    fn new(args: &[&str]) -> Option<Self> {
        let broker = Broker::start(None)?;
        let peer = Peer::connect(broker.port, "manager", None);
        let proxy = Proxy::start(broker.port);
        let proplet = Proplet::join(proxy.port, args);
        peer.expect(SOON, "the first heartbeat", is_alive);
        Some(Self {
            proplet,
            peer,
            proxy,
            broker,
        })
    }

    fn start(&self, id: &str, text: &str, extra: serde_json::Value) {
        let body = start(id, "main", text, &extra);
        self.peer.publish("control/manager/start", &body);
    }

    fn assert_once(&self, id: &str) {
        let found = self.peer.all_results(id);
        assert_eq!(found.len(), 1, "results of {id}: {found:?}");
    }

    /// Heartbeats after `since`.
    fn expect_alive(&self, since: Instant) -> Message {
        self.peer
            .expect(SOON, "a heartbeat after the reconnect", |m| {
                is_alive(m) && m.body["status"] == "alive" && m.at > since
            })
    }
}

fn work(message: &Message) -> u64 {
    let work = &message.body["metrics"]["work"];
    work.as_u64()
        .unwrap_or_else(|| panic!("work is no number: {message:?}"))
}

#[test]
fn workers_go_on_and_results_arrive_once_when_the_broker_was_restarted() {
    let Some(mut route) = Route::new(&[]) else {
        return;
    };
    let began = Instant::now();
    let profile = json!({"monitoring_profile": {"interval": 1}});
    route.start("endless", LOOP, profile);
    for n in 0..12 {
        // Ends while the broker is down: more than the link may have in flight.
        let env = json!({"env": {"PROPLET_DEADLINE_MS": "2000"}});
        route.start(&format!("late-{n}"), LOOP, env);
    }
    route.proplet.expect_logs(SOON, "runs in slot", 13);
    let before = work(&route.peer.sample(SOON, "endless", began));
    route.proxy.close();
    route.broker.stop();
    // All of them have ended, and the manager can't be told.
    let down = "failed: deadline of 2000 ms exceeded";
    route.proplet.expect_logs(SOON, down, 12);
    route.broker.restart();
    // The results must not come before there is somebody to count them.
    route.peer.await_subscription(2);
    assert!(
        route.peer.all(is_results).is_empty(),
        "{:?}",
        route.peer.all(is_results)
    );
    let back = Instant::now();
    route.proxy.open();

    let alive = route.expect_alive(back);
    route.proplet.expect_logs(SOON, "connected to", 2);
    for n in 0..12 {
        let body = route.peer.results(&format!("late-{n}")).body;
        assert_eq!(body["error"], "deadline of 2000 ms exceeded", "{body}");
    }
    let first = route.peer.results("late-0");
    let gap = alive.at.saturating_duration_since(first.at);
    assert!(
        gap < Duration::from_secs(1),
        "heartbeats resume {gap:?} after results"
    );
    let after = work(
        &route
            .peer
            .sample(SOON, "endless", back + Duration::from_secs(1)),
    );
    assert!(after > before, "the endless task stands still at {before}");
    let create = route.peer.all(|m| m.topic == "control/proplet/create");
    assert_eq!(create.len(), 1, "discovery is not repeated: {create:?}");
    thread::sleep(QUIET);
    for n in 0..12 {
        route.assert_once(&format!("late-{n}"));
    }
    route.start("after", ADD, json!({"inputs": ["20", "22"]}));
    assert_eq!(route.peer.results("after").body["results"], "42");
    assert!(
        route.peer.all_results("endless").is_empty(),
        "it still runs"
    );
    assert!(route.proplet.is_running());
}

#[test]
fn commands_that_were_sent_while_the_link_was_down_arrive() {
    let Some(route) = Route::new(&[]) else { return };
    route.start("stopped", LOOP, json!({}));
    route.proplet.expect_log("task stopped runs in slot");
    route.proxy.close();
    route.proplet.expect_log("next attempt in");
    for n in 0..10 {
        route.start(
            &format!("sum-{n}"),
            ADD,
            json!({"inputs": [n.to_string(), "100"]}),
        );
    }
    route
        .peer
        .publish("control/manager/stop", &json!({"id": "stopped"}));
    thread::sleep(QUIET);
    assert!(route.peer.all(is_results).is_empty(), "the link is down");
    let back = Instant::now();
    route.proxy.open();
    for n in 0..10 {
        let body = route.peer.results(&format!("sum-{n}")).body;
        assert_eq!(body["results"], (n + 100).to_string(), "{body}");
    }
    let body = route.peer.results("stopped").body;
    assert_eq!(body["error"], "task stopped", "{body}");
    route.proplet.expect_log("session resumed");
    route.expect_alive(back);
    thread::sleep(QUIET);
    for n in 0..10 {
        route.assert_once(&format!("sum-{n}"));
    }
    route.assert_once("stopped");
}

#[test]
fn a_start_that_the_broker_repeats_is_not_run_twice() {
    let Some(route) = Route::new(&[]) else { return };
    // Neither acknowledgements nor results get through.
    route.proxy.mute();
    route.start(
        "loop",
        LOOP,
        json!({"env": {"PROPLET_DEADLINE_MS": "4000"}}),
    );
    route.start("sum", ADD, json!({"inputs": ["20", "22"]}));
    route.proplet.expect_log("task loop runs in slot");
    route.proplet.expect_log("task sum completed: '42'");
    // Its results are on their way, and lost.
    thread::sleep(QUIET);
    assert!(route.peer.all(is_results).is_empty());
    route.proxy.close();
    route.proxy.open();
    route.proplet.expect_log("session resumed");
    route.proplet.expect_log("start of loop ignored");
    assert_eq!(route.peer.results("sum").body["results"], "42");
    let body = route.peer.results("loop").body;
    assert_eq!(body["error"], "deadline of 4000 ms exceeded", "{body}");
    thread::sleep(QUIET);
    route.assert_once("sum");
    route.assert_once("loop");
    for id in ["loop", "sum"] {
        let runs = route.proplet.logged(&format!("task {id} runs in slot"));
        assert_eq!(runs, 1, "runs of {id}");
    }
}

#[test]
fn a_link_that_breaks_often_loses_nothing() {
    let Some(mut route) = Route::new(&["--heartbeat", "1"]) else {
        return;
    };
    let began = Instant::now();
    for n in 0..20 {
        route.start(
            &format!("sum-{n}"),
            ADD,
            json!({"inputs": [n.to_string(), "1000"]}),
        );
        thread::sleep(Duration::from_millis(120));
        if n % 5 == 4 {
            route.proxy.cut();
        }
    }
    let wait = Duration::from_secs(40);
    let is_sum = |m: &Message| is_results(m);
    route
        .peer
        .expect_count(wait, "results of all starts", 20, is_sum);
    thread::sleep(QUIET);
    for n in 0..20 {
        let body = route.peer.results(&format!("sum-{n}")).body;
        assert_eq!(body["results"], (n + 1000).to_string(), "{body}");
        route.assert_once(&format!("sum-{n}"));
    }
    // A delay is 2 s or less, unless several connections broke soon after they were made.
    assert_heartbeats(&route.peer, began, Duration::from_secs(10));
    assert!(route.proplet.is_running());
}

#[test]
fn a_wrong_password_is_named_and_tried_again() {
    let right = [("manager", "m"), (ID, "right")];
    let Some(mut broker) = Broker::start(Some(&right)) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", Some(("manager", "m")));
    let mut proplet = Proplet::join(broker.port, &["--key", "wrong"]);
    proplet.expect_log("the API key");
    proplet.expect_logs(SOON, "next attempt in", 2);
    assert!(proplet.is_running(), "it tries again, without end");
    assert!(
        !proplet.log().iter().any(|l| l.contains("wrong")),
        "the log tells the key"
    );
    assert!(peer.all(is_alive).is_empty());

    // The administrator has set that password.
    broker.configure(Some(&[("manager", "m"), (ID, "wrong")]));
    broker.restart();
    peer.await_subscription(2);
    peer.expect(Duration::from_secs(20), "a heartbeat", is_alive);
}

#[test]
fn ctrl_c_ends_a_proplet_that_has_no_broker() {
    if is_not_for_subject("ctrl_c_ends_a_proplet_that_has_no_broker") {
        return;
    }
    let mut proplet = Proplet::join(crate::support::free_port(), &[]);
    proplet.expect_log("no TCP connection to the broker");
    proplet.ctrl_c();
    assert_eq!(proplet.wait(SOON).code(), Some(0));
}

#[test]
fn a_broker_that_falls_silent_is_noticed_and_found_again() {
    let args = ["--keep-alive", "3", "--timeout", "2", "--heartbeat", "1"];
    let Some(mut route) = Route::new(&args) else {
        return;
    };
    route.start(
        "endless",
        LOOP,
        json!({"monitoring_profile": {"interval": 1}}),
    );
    route.proplet.expect_log("task endless runs in slot");
    let before = work(&route.peer.sample(SOON, "endless", Instant::now()));
    route.broker.freeze(true);
    let wait = Duration::from_secs(15);
    route.proplet.expect_logs(wait, "next attempt in", 2);
    let back = Instant::now();
    route.broker.freeze(false);
    route.expect_alive(back);
    route.start("sum", ADD, json!({"inputs": ["20", "22"]}));
    assert_eq!(route.peer.results("sum").body["results"], "42");
    let after = work(&route.peer.sample(SOON, "endless", Instant::now()));
    assert!(after > before, "the endless task stands still at {before}");
    thread::sleep(QUIET);
    route.assert_once("sum");
    assert!(
        route.peer.all_results("endless").is_empty(),
        "it still runs"
    );
    assert!(route.proplet.is_running());
}
