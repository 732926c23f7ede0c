//! Connections that end in the middle of a payload, whatever lies above TCP.

use crate::support::{
    ADD, Broker, ID, Limit, Peer, Proplet, Proxy, QUIET, SOON, is_alive, is_results, padded, start,
    start_bytes, with_data,
};
use serde_json::{Value, json};
use std::{thread, time::Duration};

/// Bytes of the payload that is cut.
const SIZE: usize = 1 << 20;

/// Time for some attempts to connect, which are seconds apart.
const ATTEMPTS: Duration = Duration::from_secs(40);

/// A proplet that reaches its broker through a proxy.
pub(crate) struct Line {
    // Dropped in this order: the proplet goes first.
    pub(crate) proplet: Proplet,
    pub(crate) peer: Peer,
    pub(crate) proxy: Proxy,
    _broker: Broker,
    /// Bytes of the arena in use while nothing runs.
    idle: u64,
}

impl Line {
    fn new(args: &[&str]) -> Option<Self> {
        let broker = Broker::start(None)?;
        let peer = Peer::connect(broker.port, "manager", None);
        let proxy = Proxy::start(broker.port);
        let args = [ARGS, args].concat();
        let proplet = Proplet::join(proxy.port, &args);
        Some(Self::with(broker, peer, proxy, proplet))
    }

    pub(crate) fn with(broker: Broker, peer: Peer, proxy: Proxy, proplet: Proplet) -> Self {
        peer.expect(SOON, "the first heartbeat", is_alive);
        let mut line = Self {
            proplet,
            peer,
            proxy,
            _broker: broker,
            idle: 0,
        };
        line.run("first");
        line.idle = line.peer.arena_in_use();
        line
    }

    /// Runs a small task.
    fn run(&self, id: &str) {
        let body = start(id, "main", ADD, &json!({"inputs": ["20", "22"]}));
        self.peer.publish("control/manager/start", &body);
        self.assert_sum(id);
    }

    fn send(&self, payload: Vec<u8>) {
        self.peer.publish_bytes("control/manager/start", payload);
    }

    fn results(&self, id: &str) -> Value {
        let is_it = |m: &_| is_results(m) && m.body["task_id"] == id;
        self.peer.expect(ATTEMPTS, id, is_it).body
    }

    fn assert_sum(&self, id: &str) {
        let body = self.results(id);
        assert_eq!(body["results"], "42", "{body}");
    }

    fn assert_given_up(&self, id: &str) {
        let body = self.results(id);
        let error = body["error"].as_str().unwrap_or_default();
        assert!(error.starts_with("the message was given up: 3 "), "{body}");
    }

    /// Nothing is left of what was cut, another task runs, and each has been answered once.
    fn assert_as_before(&mut self, ids: &[&str]) {
        self.run("after");
        thread::sleep(QUIET);
        assert_eq!(self.peer.arena_in_use(), self.idle, "bytes of the arena");
        for id in ids.iter().chain(&["after"]) {
            let found = self.peer.all_results(id);
            assert_eq!(found.len(), 1, "results of {id}: {found:?}");
        }
        assert!(self.proplet.is_running());
    }

    /// Cuts a start once at each of these places of its payload; it comes again and runs.
    pub(crate) fn assert_cut_starts_run(&mut self, places: &[usize]) {
        let ids: Vec<String> = places.iter().map(|at| format!("cut-{at}")).collect();
        let (mut connects, mut cuts) = (1, 0);
        for (id, at) in ids.iter().zip(places) {
            self.proxy.limit(Limit::Cut(*at));
            self.send(large(id));
            cuts += 1;
            self.proxy.await_limited(cuts);
            self.proxy.limit(Limit::None);
            self.assert_sum(id);
            connects += 1;
            self.proplet.expect_logs(SOON, "connected to", connects);
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        self.assert_as_before(&ids);
    }
}

/// Flags of the proplet.
pub(crate) const ARGS: &[&str] = &[
    "--arena-bytes",
    "1048576",
    "--metrics-interval",
    "1",
    "--heartbeat",
    "1",
];

/// A start of a large module, whose id comes behind that.
fn large(id: &str) -> Vec<u8> {
    let module = with_data(SIZE / 4 * 3 - 1000);
    let body = start_bytes(id, "main", &module, &json!({"inputs": ["20", "22"]}));
    padded(&body, SIZE)
}

/// The same with what says whose it is before the module.
fn large_with_ids_first(id: &str) -> Vec<u8> {
    let text = String::from_utf8(large(id)).expect("JSON is text");
    // Of equal keys the last counts.
    format!(r#"{{"id":"{id}","proplet_id":"{ID}",{}"#, &text[1..]).into_bytes()
}

#[test]
fn a_start_whose_connection_is_cut_anywhere_runs_once_and_nothing_leaks() {
    let Some(mut line) = Line::new(&[]) else {
        return;
    };
    // In its head, in the module, and just before its end.
    line.assert_cut_starts_run(&[3, 200, SIZE / 2, SIZE - 100]);
}

#[test]
fn a_start_that_comes_again_while_the_first_is_still_being_read_runs_once() {
    let args = ["--keep-alive", "3", "--timeout", "2"];
    let Some(mut line) = Line::new(&args) else {
        return;
    };
    line.proxy.limit(Limit::Stall(SIZE / 2));
    line.send(large("again"));
    line.proxy.await_limited(1);
    line.proxy.limit(Limit::None);
    // The proplet gives the silent connection up, or the broker lets the rest through: both may be.
    line.assert_sum("again");
    line.assert_as_before(&["again"]);
}

#[test]
fn a_start_at_which_three_connections_ended_is_refused_and_the_next_runs() {
    let Some(mut line) = Line::new(&[]) else {
        return;
    };
    line.proxy.limit(Limit::Cut(SIZE / 2));
    line.send(large("poison"));
    line.proxy.await_limited(3);
    // The fourth comes whole, with the id.
    line.proxy.limit(Limit::None);
    line.assert_given_up("poison");
    line.assert_as_before(&["poison"]);
}

#[test]
fn a_start_at_which_every_connection_ends_is_refused_if_whose_it_is_was_read() {
    let Some(mut line) = Line::new(&[]) else {
        return;
    };
    line.proxy.limit(Limit::Cut(SIZE / 2));
    line.send(large_with_ids_first("poison"));
    line.assert_given_up("poison");
    // It was acknowledged before its end: the fifth connection stays.
    line.proxy.await_limited(4);
    line.assert_as_before(&["poison"]);
}
