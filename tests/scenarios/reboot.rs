//! Tasks and modules of a proplet whose power was gone.

use crate::{
    subject::Home,
    support::{
        ADD, Broker, LOOP, Message, Peer, Proplet, SOON, Server, invoke, is_alive, is_results,
        reply_module, start, start_image, stop, wasm, with,
    },
};
use proplet::module::{hex::to_hex, table::digest};
use serde_json::{Value, json};
use std::{thread, time::Duration};

struct Scene {
    home: Home,
    peer: Peer,
    broker: Broker,
}

impl Scene {
    fn new() -> Option<Self> {
        let broker = Broker::start(None)?;
        let peer = Peer::connect(broker.port, "manager", None);
        Some(Self {
            home: Home::new(),
            peer,
            broker,
        })
    }

    fn boot(&self) -> Proplet {
        // Not the will of the one before.
        let lives = |m: &Message| is_alive(m) && m.body["status"] == "alive";
        let heartbeats = self.peer.all(lives).len();
        let proplet = self.home.join(self.broker.port, &[]);
        self.peer
            .expect_count(SOON, "the first heartbeat", heartbeats + 1, lives);
        proplet
    }

    fn deploy(&self, proplet: &Proplet, id: &str, extra: &Value) {
        let extra = with(json!({"latent": true, "inputs": ["20", "22"]}), extra);
        self.peer
            .publish("control/manager/start", &start(id, "add", ADD, &extra));
        proplet.expect_log(&format!("latent task {id} is ready"));
    }

    fn invoke(&self, id: &str, invocation: &str) -> Value {
        let command = invoke(id, invocation, &json!({}));
        self.peer.publish("control/manager/invoke", &command);
        self.peer.invoke_results(invocation)
    }
}

#[test]
fn a_deployment_answers_after_a_kill_without_the_manager() {
    let Some(scene) = Scene::new() else { return };
    let mut proplet = scene.boot();
    scene.deploy(
        &proplet,
        "sum",
        &json!({"env": {"PROPLET_STACK_BYTES": "2048"}}),
    );
    assert_eq!(scene.invoke("sum", "before")["results"], "42");
    for boot in ["first", "second"] {
        proplet.kill();
        drop(proplet);
        proplet = scene.boot();
        let answer = scene.invoke("sum", boot);
        assert_eq!(answer["results"], "42", "{answer}");
    }
    scene.peer.publish("control/manager/stop", &stop("sum"));
    scene.peer.results("sum");
    drop(proplet);
    let _proplet = scene.boot();
    let answer = scene.invoke("sum", "stopped");
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.contains("has not been precompiled"), "{answer}");
}

#[test]
fn a_pinned_module_is_fetched_once_in_all_boots() {
    let Some(scene) = Scene::new() else { return };
    let server = Server::start(|_, stream| reply_module(stream, &wasm(ADD)));
    let hex = to_hex(&digest(&wasm(ADD)));
    let url = server.url(&format!("/add@sha256:{hex}"));
    for id in ["a", "b", "c"] {
        let _proplet = scene.boot();
        let extra = json!({"name": "add", "inputs": ["1", "2"]});
        scene
            .peer
            .publish("control/manager/start", &start_image(id, &url, &extra));
        assert_eq!(scene.peer.results(id).body["results"], "3");
    }
    assert_eq!(server.asked("/add").len(), 1);
}

#[test]
fn a_store_of_garbage_is_noticed_and_the_proplet_works_on() {
    let Some(scene) = Scene::new() else { return };
    let proplet = scene.boot();
    scene.deploy(&proplet, "sum", &json!({}));
    // Its start is acknowledged then, and does not come again.
    assert_eq!(scene.invoke("sum", "before")["results"], "42");
    drop(proplet);
    scene.home.spoil_store();
    let proplet = scene.boot();
    let answer = scene.invoke("sum", "spoilt");
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.contains("has not been precompiled"), "{answer}");
    // Of the store, or that something is not restored. The firmware's log may come later.
    proplet.expect_log("store");
    scene.deploy(&proplet, "again", &json!({}));
    assert_eq!(scene.invoke("again", "new")["results"], "42");
}

/// The broker keeps what comes while the proplet is off, for a kill and for an orderly end alike.
#[test]
fn commands_that_are_published_during_a_reboot_are_answered_after_it() {
    let Some(scene) = Scene::new() else { return };
    let mut proplet = scene.boot();
    for (boot, is_killed) in [("kill", true), ("end", false)] {
        // The session is noted when it begins.
        proplet.expect_log("connected to");
        match is_killed {
            true => proplet.kill(),
            false => {
                proplet.ctrl_c();
                proplet.wait(SOON);
            }
        }
        drop(proplet);
        let ids: Vec<String> = (0..60).map(|n| format!("{boot}-{n}")).collect();
        for id in &ids {
            let body = start(id, "add", ADD, &json!({"inputs": ["20", "22"]}));
            scene.peer.publish("control/manager/start", &body);
        }
        proplet = scene.boot();
        for id in &ids {
            assert_eq!(scene.peer.results(id).body["results"], "42");
        }
        proplet.expect_log("session resumed");
    }
}

/// Each is reported, and none in two boots.
#[test]
fn tasks_that_a_kill_interrupts_are_reported_after_it() {
    let Some(scene) = Scene::new() else { return };
    let mut proplet = scene.boot();
    let ids: Vec<_> = (0..20).map(|n| format!("loop{n:032}")).collect();
    for id in &ids {
        let command = start(id, "loop", LOOP, &json!({}));
        scene.peer.publish("control/manager/start", &command);
    }
    proplet.expect_logs(SOON, " runs in slot ", ids.len());
    // The last of them is noted a second after its start.
    thread::sleep(Duration::from_millis(2500));
    for boot in ["first", "second"] {
        proplet.kill();
        drop(proplet);
        proplet = scene.boot();
        for id in &ids {
            let error = &scene.peer.results(id).body["error"];
            assert_eq!(error, "interrupted by a restart of the proplet");
        }
        // The acknowledgements of the reports come before this start, which ends too soon to be noted.
        let sum = start(boot, "add", ADD, &json!({"inputs": ["1", "2"]}));
        scene.peer.publish("control/manager/start", &sum);
        assert_eq!(scene.peer.results(boot).body["results"], "3");
    }
    assert_eq!(scene.peer.all(is_results).len(), ids.len() + 2);

    // What was reported may be started anew.
    let sum = start(&ids[0], "add", ADD, &json!({"inputs": ["1", "2"]}));
    scene.peer.publish("control/manager/start", &sum);
    scene
        .peer
        .expect_count(SOON, "the sum", ids.len() + 3, is_results);
}
