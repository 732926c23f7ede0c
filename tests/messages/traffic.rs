//! The messages of the page, sent to a proplet and compared with its own.

use super::page::{Blocks, code, shape, table, text_of_tests};
use crate::support::{
    CHANNEL, ECHO, ID, LISTEN, LOOP, Message, QUIET, SOON, Server, Stage, TELL, TENANT, reply,
};
use serde_json::{Value, json};
use std::{thread, time::Duration};

/// Takes a page of linear memory, and runs on.
const BUSY: &str = r#"(module (memory 1)
    (func (export "main") (i32.store (i32.const 0) (i32.const 1)) (loop $l (br $l))))"#;

impl Stage {
    /// Sends the message of `mark`, as it is written.
    fn send(&self, blocks: &mut Blocks, mark: &str) {
        let topic = mark.trim_start_matches("in: ");
        let topic = topic.split(':').next().unwrap_or_default();
        let text = blocks.text(mark);
        self.peer.publish_bytes(topic, text.into_bytes());
    }

    /// Waits for a message with the fields of that of `mark`, of the same types, on its topic.
    fn receive(&self, blocks: &mut Blocks, mark: &str) {
        let expected = shape(&blocks.body(mark));
        self.receive_as(mark, |body| shape(body) == expected);
    }

    /// Waits for exactly the message of `mark`.
    fn receive_exactly(&self, blocks: &mut Blocks, mark: &str) {
        let expected = blocks.body(mark);
        self.receive_as(mark, |body| *body == expected);
    }

    fn receive_as(&self, mark: &str, is_expected: impl Fn(&Value) -> bool) {
        let topic = mark.trim_start_matches("out: ");
        let topic = topic.split(':').next().unwrap_or_default();
        let wanted = |m: &Message| m.topic == topic && is_expected(&m.body);
        let found = self.peer.find(SOON, wanted).unwrap_or_else(|| {
            let others = self.peer.all(|m| m.topic == topic);
            let last = others.last().map(|m| m.body.to_string());
            let count = others.len();
            panic!("<!-- {mark} -->: none of {count} messages is as the page has it; the last is {last:?}")
        });
        let qos = found.qos.to_string();
        assert_eq!(qos, qos_of(mark, topic), "the quality of service of {mark}");
        assert!(!found.is_retained, "{mark} is retained");
    }

    /// Publishes `text` until `id` has results: its subscription takes a moment.
    fn publish_until_results(&self, id: &str, mut publish: impl FnMut()) -> Value {
        for _ in 0..100 {
            publish();
            thread::sleep(Duration::from_millis(100));
            if let Some(results) = self.peer.all_results(id).pop() {
                return results;
            }
        }
        panic!("{id} hears nothing");
    }
}

/// The quality of service in the row of a message out.
fn qos_of(mark: &str, topic: &str) -> String {
    let start = match topic.split('/').next() {
        Some("control" | "registry") => format!("`{topic}`"),
        Some("fl") => "`fl/rounds/".to_owned(),
        _ => "what a guest publishes on".to_owned(),
    };
    let is_will = mark.contains("last will");
    let rows = table(&text_of_tests(), "topics: out").into_iter();
    let mut rows =
        rows.filter(|row| row[0].starts_with(&start) && row[2].contains("last will") == is_will);
    let row = rows.next().unwrap_or_else(|| panic!("no row of {mark}"));
    assert!(rows.next().is_none(), "{mark} has two rows");
    row[3].clone()
}

/// Whether the proplet has subscribed as the rows of the messages in say.
fn assert_subscriptions(stage: &Stage) {
    let log = stage.broker.log();
    for row in table(&text_of_tests(), "topics: in") {
        let [topic, _, content, qos] = &row[..] else {
            panic!("a row of four cells: {row:?}")
        };
        let filter = match content {
            content if content.contains("for a guest") => "news/+",
            content if content.contains("model") => "fl/models/global_model_v0",
            _ => code(topic),
        };
        let full = match filter.starts_with("fl/") {
            true => filter.to_owned(),
            false => format!("m/{TENANT}/c/{CHANNEL}/{filter}"),
        };
        let line = format!("{full} (QoS {qos})");
        assert!(log.contains(&line), "the broker's log has no '{line}'");
    }
}

#[test]
fn every_message_of_the_page_is_sent_or_received() {
    let mut blocks = Blocks::read();
    let Some(mut stage) = Stage::new(&[
        "--caps",
        "time,publish,subscribe",
        "--metrics-interval",
        "1",
        "--description",
        "a demonstration",
        "--tags",
        "demo,bench",
        "--location",
        "desk 3",
    ]) else {
        return;
    };
    let blocks = &mut blocks;
    stage.receive(blocks, "out: control/proplet/create");
    stage.receive(blocks, "out: control/proplet/alive: heartbeat");
    tasks(&stage, blocks);
    deployments(&stage, blocks);
    modules_of_the_registry(&stage, blocks);
    guests(&stage, blocks);
    rounds(&stage, blocks);
    measurements(&stage, blocks);
    assert_subscriptions(&stage);
    stage.proplet.kill();
    stage.receive_exactly(blocks, "out: control/proplet/alive: last will");
    blocks.assert_all_used();
}

fn tasks(stage: &Stage, blocks: &mut Blocks) {
    stage.send(blocks, "in: control/manager/start: least");
    stage.receive_exactly(blocks, "out: control/proplet/results: a result");

    let complete = "in: control/manager/start: complete";
    stage.send(blocks, complete);
    let start = blocks.body(complete);
    let id = start["id"].as_str().expect("it has an id");
    assert_eq!(stage.peer.results(id).body["results"], "42");

    let daemon = "in: control/manager/start: daemon";
    stage.send(blocks, daemon);
    let results = stage.peer.results("daemon-1").body;
    let success = json!({"task_id": "daemon-1", "proplet_id": ID, "results": ""});
    assert_eq!(results, success, "a daemon's success");
    stage.stop("daemon-1");
    stage
        .proplet
        .expect_log("task daemon-1 failed: task stopped");
    thread::sleep(QUIET);
    assert_eq!(stage.peer.all_results("daemon-1").len(), 1);

    stage.start("spin-1", "main", LOOP, &json!({}));
    stage.runs("spin-1");
    stage.send(blocks, "in: control/manager/stop: a task");
    stage.receive_exactly(blocks, "out: control/proplet/results: an error");
}

fn deployments(stage: &Stage, blocks: &mut Blocks) {
    stage.send(blocks, "in: control/manager/start: latent");
    stage.proplet.expect_log("latent task latent-1 is ready");
    stage.send(blocks, "in: control/manager/invoke: complete");
    stage.receive_exactly(blocks, "out: control/proplet/invoke_results: a result");
    let unknown = json!({"id": "nobody", "invocation_id": "call-1", "proplet_id": ID});
    stage.peer.publish("control/manager/invoke", &unknown);
    stage.receive_exactly(blocks, "out: control/proplet/invoke_results: an error");
}

fn modules_of_the_registry(stage: &Stage, blocks: &mut Blocks) {
    stage.send(blocks, "in: control/manager/start: image");
    stage.receive_exactly(blocks, "out: registry/proplet");
    stage.send(blocks, "in: registry/server: first");
    stage.send(blocks, "in: registry/server: second");
    assert_eq!(stage.peer.results("image-1").body["results"], "42");
}

fn guests(stage: &Stage, blocks: &mut Blocks) {
    let caps = json!({"PROPLET_CAPS": "time,publish,subscribe"});
    stage.start("ear", "main", LISTEN, &json!({ "env": caps }));
    stage.runs("ear");
    let heard = "in: news/today: to a guest of news/+";
    let text = blocks.text(heard);
    let results = stage.publish_until_results("ear", || stage.send(blocks, heard));
    assert_eq!(results["results"], format!("news/today{text}"));

    let told = "out: room/kitchen: of a guest";
    let inputs = json!({"inputs": ["room/kitchen", blocks.text(told)], "env": caps});
    stage.start("mouth", "main", TELL, &inputs);
    stage.receive_exactly(blocks, told);
}

fn rounds(stage: &Stage, blocks: &mut Blocks) {
    let dead = Server::start(|_, stream| reply(stream, 503, "text/plain", b"not now"));
    let env = json!({"ROUND_ID": "r1", "MODEL_URI": "fl/models/global_model_v0", "FL_NUM_SAMPLES": "25",
        "MODEL_REGISTRY_URL": dead.url(""), "MANAGER_COORDINATOR_URL": dead.url("")});
    let name = format!("fl-round-r1-{ID}");
    stage.start("round-1", &name, ECHO, &json!({ "env": env }));
    dead.expect("/models/0", 1);
    let model = "in: fl/models/global_model_v0: the model of a round";
    let text = blocks.text(model);
    stage.publish_until_results("round-1", || {
        let topic = "fl/models/global_model_v0";
        stage.peer.publish_raw(topic, text.clone().into_bytes());
    });
    stage.receive_exactly(blocks, "out: control/proplet/results: a round");
    stage.receive_exactly(blocks, &format!("out: fl/rounds/r1/updates/{ID}"));
}

fn measurements(stage: &Stage, blocks: &mut Blocks) {
    let profile = json!({"monitoring_profile": {"interval": 1}});
    stage.start("monitored-1", "main", BUSY, &profile);
    stage.receive(blocks, "out: control/proplet/metrics");
    stage.receive(blocks, "out: control/proplet/task_metrics");
    stage.stop("monitored-1");
    stage.assert_error("monitored-1", "task stopped");
}

#[test]
fn wrong_messages_are_answered_as_the_page_says() {
    let Some(stage) = Stage::new(&[]) else { return };
    let rows = table(&text_of_tests(), "refusals");
    assert!(rows.len() > 20, "the page has {} refusals", rows.len());
    let is_answer = |m: &Message| m.topic.ends_with("/results") || m.topic.ends_with("_results");
    let mut answers = 0;
    for row in &rows {
        let [topic, message, answer, log] = &row[..] else {
            panic!("a row of four cells: {row:?}")
        };
        let message = code(message).replace("$ID", ID);
        stage
            .peer
            .publish_bytes(code(topic), message.clone().into_bytes());
        if !log.is_empty() {
            stage.proplet.expect_log(code(log));
        }
        if !answer.starts_with("nothing") {
            answers += 1;
            // It may be broken behind its id.
            let field = match topic.contains("invoke") {
                true => "invocation_id",
                false => "id",
            };
            let id = message.split(&format!("\"{field}\": \"")).nth(1);
            let id = id.and_then(|rest| rest.split('"').next()).expect("an id");
            let body = match topic.contains("invoke") {
                true => stage.peer.invoke_results(id),
                false => stage.peer.results(id).body,
            };
            assert_eq!(body["error"], code(answer), "{message}");
            assert_eq!(body["results"], "", "{message}");
        }
    }
    thread::sleep(QUIET);
    let all = stage.peer.all(is_answer);
    assert_eq!(
        all.len(),
        answers,
        "answers that the page does not have: {all:?}"
    );
}
