//! The agent on WAMR, in a small arena, with random commands: each is answered once, and nothing is left.

use proplet::{
    agent::{Agent, Delivery, DeploymentSlot, Event, Fetch, OutboxEntry, Qos, Storage, TaskSlot},
    config::Config,
    engine::Engine as _,
    module::table::ModuleEntry,
    task::caps::Caps,
    time::Instant,
};
use proplet_engine::WamrEngine;
use proplet_testing::engine::{Bench, ID, Threads, leaked};
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, thread, time::Duration};

const SLOTS: usize = 48;
const ARENA: usize = 160 * 1024;

const GUESTS: [&str; 7] = [
    r#"(module (func (export "main") (loop (br 0))))"#,
    r#"(module (func (export "main") (result i32) (i32.const 7)))"#,
    r#"(module (func (export "main") (unreachable)))"#,
    r#"(module (func $f (loop (br 0))) (start $f) (func (export "main")))"#,
    r#"(module (import "env" "sleep_ms" (func $s (param i32))) (func (export "main") (call $s (i32.const 2))))"#,
    r#"(module (import "env" "publish" (func $p (param i32 i32 i32 i32) (result i32)))
        (import "env" "publish_result" (func $r (param i32 i32)))
        (memory 1 1) (data (i32.const 0) "topic")
        (func (export "main") (loop
            (call $r (i32.const 0) (i32.const 5))
            (drop (call $p (i32.const 0) (i32.const 5) (i32.const 0) (i32.const 60)))
            (br 0))))"#,
    r#"(module (memory 1 1) (data (i32.const 70000) "x") (func (export "main")))"#,
];

struct Chaos {
    agent: Agent<'static, WamrEngine<Threads>>,
    now: Instant,
    random: u32,
    due: BTreeMap<(String, String), i64>,
    outcomes: BTreeMap<String, usize>,
}

impl Chaos {
    fn below(&mut self, end: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random % end
    }

    fn handle(&mut self, event: Event<'_>) {
        self.agent.handle(event, self.now);
    }

    fn send(&mut self, command: &str, body: &Json) {
        self.handle(Event::Message {
            topic: &format!("m/t/c/c/control/manager/{command}"),
            payload: body.to_string().as_bytes(),
        });
    }

    fn pass(&mut self, ms: u32) {
        self.now = Instant::from_millis(self.now.as_millis() + u64::from(ms));
        self.handle(Event::Tick);
    }

    fn publish(&mut self, most: u32) {
        for _ in 0..most {
            let Some(next) = self.agent.poll_publish(Qos::AtLeastOnce, self.now) else {
                return;
            };
            let mut body = [0; 2048];
            let len = self.agent.write(next.token, &mut body, self.now).unwrap();
            let topic = self.agent.topic(next.token);
            if topic.ends_with("results") {
                let body: Json = serde_json::from_slice(&body[..len]).unwrap();
                let text = |key: &str| body[key].as_str().unwrap_or_default().to_string();
                let key = (text("task_id"), text("invocation_id"));
                let left = self.due.entry(key.clone()).or_default();
                *left -= 1;
                assert!(*left >= 0, "{key:?} is answered again: {body}");
                let error = text("error");
                let kind: String = error.chars().take_while(|c| !c.is_ascii_digit()).collect();
                *self.outcomes.entry(kind).or_default() += 1;
            }
            self.handle(Event::Published(next.token, Delivery::Done));
        }
    }
}

#[test]
fn random_commands_in_a_small_arena() {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let storage = Storage {
        slots: leaked(SLOTS, || TaskSlot::FREE),
        deployments: leaked(4, || DeploymentSlot::FREE),
        modules: leaked(4, || ModuleEntry::VACANT),
        fetches: leaked(2, || Fetch::VACANT),
        outbox: leaked(400, || OutboxEntry::VACANT),
        packed: leaked(1024, || 0),
        store: None,
    };
    let mut config = Config {
        proplet_id: ID,
        tenant: "t",
        channel: "c",
        ..Config::DEFAULT
    };
    config.limits.caps = Caps::parse("time,timer,random,sensor,publish,subscribe").unwrap();
    let Bench { engine, workers } = Bench::new(SLOTS, ARENA);
    let mut chaos = Chaos {
        agent: Agent::new(config, storage, engine).unwrap(),
        now: Instant::from_millis(1000),
        random: 0x1234_5677,
        due: BTreeMap::new(),
        outcomes: BTreeMap::new(),
    };
    let empty = chaos.agent.engine().arena().free;
    let files = GUESTS.map(|wat| BASE64_STANDARD.encode(wat::parse_str(wat).unwrap()));
    chaos.handle(Event::Connected);
    let mut is_connected = true;
    let mut serial = 0;
    let mut deployed: Vec<String> = Vec::new();
    for step in 0..30_000 {
        match chaos.below(16) {
            0..=3 if chaos.agent.is_drained() || chaos.below(4) > 0 => {
                // A refusal is lost where the outbox is full.
                chaos.publish(20);
                if !is_connected {
                    continue;
                }
                serial += 1;
                let id = format!("t{serial}");
                let file = &files[chaos.below(GUESTS.len() as u32) as usize];
                let latent = chaos.below(8) == 0;
                let deadline = (1 + chaos.below(2000)).to_string();
                let mut body = json!({"id": id, "name": "main", "file": file, "proplet_id": ID,
                    "latent": latent, "env": {"PROPLET_CAPS": "time,publish", "PROPLET_DEADLINE_MS": deadline,
                        "X": "x".repeat(chaos.below(100) as usize)}});
                if chaos.below(2) == 0 {
                    body["monitoring_profile"] = json!({"enabled": false});
                }
                chaos.send("start", &body);
                *chaos.due.entry((id.clone(), String::new())).or_default() += 1;
                if latent {
                    deployed.push(id);
                }
            }
            4 | 5 if is_connected && !deployed.is_empty() => {
                chaos.publish(20);
                serial += 1;
                let index = chaos.below(deployed.len() as u32) as usize;
                let (id, invocation) = (deployed[index].clone(), format!("i{serial}"));
                chaos.send(
                    "invoke",
                    &json!({"id": id, "invocation_id": invocation, "proplet_id": ID}),
                );
                *chaos.due.entry((id, invocation)).or_default() += 1;
            }
            6 | 7 => {
                chaos.publish(20);
                if !is_connected {
                    continue;
                }
                let ids: Vec<String> = chaos
                    .agent
                    .tasks()
                    .map(|task| task.id.to_string())
                    .collect();
                if !ids.is_empty() {
                    let id = ids[chaos.below(ids.len() as u32) as usize].clone();
                    chaos.send("stop", &json!({"id": id, "proplet_id": ID}));
                    deployed.retain(|other| *other != id || chaos_has(&chaos.agent, other));
                }
            }
            8 if chaos.below(20) == 0 => {
                is_connected = !is_connected;
                chaos.handle(match is_connected {
                    true => Event::Connected,
                    false => Event::Disconnected,
                });
            }
            9..=11 => chaos.publish(4),
            12 => {
                let slice = [1, 50, 1000][chaos.below(3) as usize];
                workers.set_slice(slice);
            }
            _ => {
                let ms = chaos.below(100);
                chaos.pass(ms);
            }
        }
        if step % 16 == 0 {
            thread::sleep(Duration::from_micros(100));
        }
    }
    if !is_connected {
        chaos.handle(Event::Connected);
    }
    for id in deployed {
        chaos.publish(100);
        chaos.pass(300);
        chaos.publish(100);
        chaos.send("stop", &json!({"id": id, "proplet_id": ID}));
    }
    chaos.handle(Event::Shutdown);
    for _ in 0..2000 {
        chaos.publish(100);
        chaos.pass(50);
        thread::sleep(Duration::from_micros(500));
    }
    println!("{:#?}", chaos.outcomes);
    let left: Vec<_> = chaos.due.iter().filter(|(_, n)| **n != 0).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(chaos.agent.is_drained());
    assert_eq!(chaos.agent.engine().arena().free, empty);
}

fn chaos_has(agent: &Agent<'static, WamrEngine<Threads>>, id: &str) -> bool {
    agent
        .tasks()
        .any(|task| task.slot.is_none() && task.id == id)
}
