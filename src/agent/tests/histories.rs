//! Random histories, held against a model; the most of each kind, and ends that meet a full outbox.

use super::*;
use crate::{
    agent::tasks::{Deployed, TaskState},
    task::learning::Services,
};
use std::collections::{BTreeMap, BTreeSet};

const ROOM: Room = Room {
    slots: 4096,
    deployments: 256,
    modules: 64,
    outbox: 64,
    arena: 64 << 20,
};

#[test]
fn as_many_slots_as_are_promised() {
    let mut bench = online(
        config(),
        Room {
            slots: 65_534,
            ..ROOM
        },
    );
    bench.start(quiet("a"));
    assert_eq!(bench.agent.status().slots, 65_534);
    assert_eq!(bench.agent.tasks().count(), 1);
}

#[test]
fn more_slots_than_are_promised() {
    let bench = online(
        config(),
        Room {
            slots: 65_600,
            ..ROOM
        },
    );
    assert_eq!(bench.agent.status().slots, 65_534);
}

#[test]
fn as_many_modules_as_are_promised() {
    let mut bench = online(
        config(),
        Room {
            modules: 65_534,
            ..ROOM
        },
    );
    bench.start(quiet("a"));
    assert_eq!(bench.agent.modules().count(), 1);
}

/// Invocations without an id are told apart by nothing: none is ever looked for.
#[test]
fn invocations_without_an_id_cost_as_much_as_those_with_one() {
    let time = |has_id: bool, count: u16| {
        let room = Room {
            slots: 65_000,
            ..ROOM
        };
        let mut bench = online(config(), room);
        bench.start(with(quiet("d"), json!({"latent": true})));
        bench.drain();
        let invoke = |bench: &mut Bench, n: u16| match has_id {
            true => bench.invoke(&format!("i{n}"), json!({"id": "d"})),
            false => bench.send(
                "control/manager/invoke",
                json!({"id": "d", "proplet_id": ID}),
            ),
        };
        for n in 0..count {
            invoke(&mut bench, n);
        }
        assert_eq!(bench.agent.status().running, usize::from(count));
        bench.drain();
        // The engine's part is the fake's: only the agent is timed.
        let mut took = Duration::ZERO;
        for slot in 0..500 {
            bench.agent.engine_mut().exit(Slot(slot), Ok(None));
            let began = processor_time();
            bench.handle(Event::Tick);
            took += processor_time() - began;
            bench.drain();
        }
        took
    };
    let (with_id, without) = (time(true, 8000), time(false, 8000));
    assert!(without < 5 * with_id, "{without:?} against {with_id:?}");
}

/// The guest has ended: it runs on no longer, though its update is on its way still.
#[test]
fn a_round_whose_guest_has_ended_late_is_not_overdue_while_it_is_posted() {
    let services = Services {
        models: "",
        data: "",
        coordinator: "http://coordinator",
    };
    let mut bench = online(
        Config {
            services,
            ..config()
        },
        Room::SMALL,
    );
    bench.start(with(
        task("a"),
        json!({"name": format!("fl-round-r1-{ID}"), "inputs": null, "file": file("main()"),
            "env": {"ROUND_ID": "r1", "PROPLET_DEADLINE_MS": "500"}}),
    ));
    bench.at(1500);
    bench.at(60_000);
    assert_eq!(bench.agent.supervisor.tasks.overdue(), 1);
    // It had ended before it saw that it was to end.
    bench.agent.engine_mut().interrupted.clear();
    bench
        .agent
        .engine_mut()
        .exit_with(Slot(0), Ok(None), Some("{}"));
    bench.handle(Event::Tick);
    assert_eq!(bench.agent.status().running, 0);
    assert_eq!(bench.agent.supervisor.tasks.overdue(), 0, "no guest runs");
}

/// One that has ended, and whose report waits for room in the outbox, is not late either.
#[test]
fn one_that_was_late_and_has_ended_is_not_overdue_while_the_outbox_is_full() {
    let mut bench = online(
        config(),
        Room {
            outbox: 1,
            ..Room::SMALL
        },
    );
    for id in ["a", "b"] {
        bench.start(with(
            quiet(id),
            json!({"env": {"PROPLET_DEADLINE_MS": "500"}}),
        ));
    }
    bench.handle(Event::Disconnected);
    bench.at(1500);
    bench.at(60_000);
    assert_eq!(bench.agent.supervisor.tasks.overdue(), 2);
    bench.exit_interrupted();
    bench.at(80_000);
    assert_eq!(bench.agent.supervisor.tasks.overdue(), 0, "both have ended");
}

/// Random events against the agent, each followed by a look at all that it counts and links.
struct Chaos {
    bench: Bench,
    numbers: Numbers,
    /// Answers that are due, by task and invocation.
    due: BTreeMap<(String, String), i64>,
    given: Vec<Token>,
    requests: Vec<RequestId>,
    serial: u32,
    is_connected: bool,
    seen: BTreeMap<String, usize>,
}

const FILES: [&str; 3] = [ADD, "main()", "trap"];

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let services = Services {
            models: "http://models",
            data: ["", "http://data"][numbers.below(2) as usize],
            coordinator: ["", "http://coordinator"][numbers.below(2) as usize],
        };
        let config = Config {
            services,
            fetch_timeout: Duration::from_secs(3),
            data_bytes: 300,
            ..config()
        };
        let room = Room {
            slots: 1 + numbers.below(12) as usize,
            deployments: 1 + numbers.below(4) as usize,
            modules: 1 + numbers.below(4) as usize,
            outbox: 2 + numbers.below(10) as usize,
            arena: 600 + numbers.below(3000) as usize,
        };
        Self {
            bench: online(config, room),
            numbers,
            due: BTreeMap::new(),
            given: Vec::new(),
            requests: Vec::new(),
            serial: 0,
            is_connected: true,
            seen: BTreeMap::new(),
        }
    }

    /// Notes in which states tasks are.
    fn note(&mut self) {
        let agent = &self.bench.agent;
        let room = if agent.supervisor.outbox.room() == 0 {
            ", no room"
        } else {
            ""
        };
        for (slot, task) in agent.supervisor.tasks.all() {
            let state = match task.state() {
                TaskState::Accepted => "accepted",
                TaskState::Fetching { .. } => "fetching",
                TaskState::Gathering { .. } => "gathering",
                TaskState::Running { .. } if agent.engine().has_exited(slot) => "ended",
                TaskState::Running { stop: Some(_), .. } => "stopping",
                TaskState::Running { .. } => "running",
                TaskState::Failed { reason: None } => "failed without words",
                TaskState::Failed { .. } => "failed",
                TaskState::Posting { .. } => "posting",
                TaskState::Posted { .. } => "posted",
            };
            *self.seen.entry(format!("{state}{room}")).or_default() += 1;
        }
        if agent.supervisor.tasks.overdue() > 0 {
            *self.seen.entry("overdue".into()).or_default() += 1;
        }
    }

    fn pick(&mut self, count: usize) -> usize {
        self.numbers.below(count as u64) as usize
    }

    fn add(&mut self, id: &str, invocation: &str) {
        *self.due.entry((id.into(), invocation.into())).or_default() += 1;
    }

    fn is_known(&self, id: &str) -> bool {
        let tasks = &self.bench.agent.supervisor.tasks;
        let deployment = tasks.find_deployment(id).and_then(|d| tasks.deployment(d));
        tasks.find_task(id).is_some()
            || deployment.is_some_and(|d| d.state() != crate::agent::tasks::Deployed::WithoutModule)
            || self.bench.agent.supervisor.outbox.holds_results(id)
    }

    fn start(&mut self) {
        // Ids come again.
        let n = self.serial.saturating_sub(self.pick(4) as u32);
        self.serial += 1;
        let id = format!("t{n}");
        let mut body = task(&id);
        let image = ["registry/app", "http://host/a", "http://host/b"];
        match self.pick(5) {
            0 => body["image_url"] = json!("app"),
            1 => body["image_url"] = json!(image[1 + self.pick(2)]),
            _ => body["file"] = json!(file(FILES[self.pick(12).min(2) % 3])),
        }
        if body.get("image_url").is_some_and(|url| !url.is_null()) {
            body["file"] = Json::Null;
        }
        if self.pick(3) == 0 {
            body["monitoring_profile"] = json!({"enabled": false});
        }
        let mut env = json!({});
        if self.pick(2) == 0 {
            env["PROPLET_DEADLINE_MS"] = json!(format!("{}", 1 + self.pick(6000)));
        }
        if self.pick(5) == 0 {
            env["X"] = json!("y".repeat(self.pick(100)));
        }
        match self.pick(5) {
            0 | 1 => {
                body["name"] = json!(format!("fl-round-r1-{ID}"));
                env["ROUND_ID"] = json!("r1");
                env["MODEL_URI"] = json!("fl/models/m1");
                if body["file"] != Json::Null {
                    body["file"] = json!(file("main()"));
                }
                body["inputs"] = Json::Null;
            }
            _ => {}
        }
        body["env"] = env;
        // A deployment's failure is lost where the outbox is full, as a refusal is.
        let latent = self.pick(6) == 0 && body["file"] != Json::Null;
        if latent {
            body["latent"] = json!(true);
        }
        if self.is_known(&id) {
            self.bench.start(body);
            return;
        }
        self.bench.start(body);
        let is_deployed = self
            .bench
            .agent
            .supervisor
            .tasks
            .find_deployment(&id)
            .is_some();
        // A deployment is answered when it is stopped, or refused.
        let _ = is_deployed;
        self.add(&id, "");
    }

    fn invoke(&mut self) {
        let ids: Vec<String> = self
            .bench
            .agent
            .supervisor
            .tasks
            .deployments()
            .map(|(_, d)| d.id().to_string())
            .collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.pick(ids.len())].clone();
        let mut body = json!({"id": id, "proplet_id": ID});
        let invocation = match self.pick(4) {
            0 => String::new(),
            _ => format!("i{}", self.pick(20)),
        };
        if !invocation.is_empty() {
            body["invocation_id"] = json!(invocation);
            if self
                .bench
                .agent
                .supervisor
                .tasks
                .find_invocation(&invocation)
                .is_some()
                || self
                    .bench
                    .agent
                    .supervisor
                    .outbox
                    .holds_invocation(&invocation)
            {
                self.bench.send("control/manager/invoke", body);
                return;
            }
        }
        if self.pick(3) == 0 {
            body["env"] = json!({"PROPLET_DEADLINE_MS": format!("{}", 1 + self.pick(3000))});
        }
        self.bench.send("control/manager/invoke", body);
        self.add(&id, &format!("invocation {invocation}"));
    }

    fn stop(&mut self) {
        let mut ids: Vec<String> = self.bench.agent.tasks().map(|t| t.id.to_string()).collect();
        ids.push("nobody".into());
        let id = ids[self.pick(ids.len())].clone();
        self.bench
            .send("control/manager/stop", json!({"id": id, "proplet_id": ID}));
    }

    fn exit(&mut self) {
        let count = self.bench.agent.engine().running.len();
        if count == 0 {
            return;
        }
        let index = self.pick(count);
        let slot = self.bench.agent.engine().running[index].slot;
        self.bench
            .agent
            .engine_mut()
            .interrupted
            .retain(|of| *of != slot);
        let output = ["{}", "no object", "{\"a\":1}"][self.pick(3)];
        let free = self.bench.agent.engine().arena().free;
        match self.pick(3) {
            0 => self
                .bench
                .agent
                .engine_mut()
                .exit(slot, Ok(Some(Value::I32(1)))),
            1 if free > 20 => self
                .bench
                .agent
                .engine_mut()
                .exit_with(slot, Ok(None), Some(output)),
            _ => {
                let engine = self.bench.agent.engine_mut();
                engine.exit(slot, Err(engine.trap("unreachable")));
            }
        }
        if self.pick(2) == 0 {
            self.bench.handle(Event::Tick);
        }
    }

    fn exchange(&mut self) {
        if let Some((id, _)) = self.bench.agent.poll_request() {
            self.requests.push(id);
        }
        if self.requests.is_empty() {
            return;
        }
        let index = self.pick(self.requests.len());
        let id = self.requests[index];
        let now = self.bench.now;
        if !self.bench.agent.is_wanted(id) {
            self.requests.swap_remove(index);
            return;
        }
        let body = b"main()\nadd(i32 i32)";
        let agent = &mut self.bench.agent;
        let end = |chaos: &mut Self, part: Part<'_>| {
            chaos.requests.retain(|t| *t != id);
            chaos.bench.agent.respond(id, part, now).unwrap();
        };
        match self.numbers.below(4) {
            0 => {
                if let Err(reason) = agent.respond(id, Part::Begin(Some(body.len())), now) {
                    end(self, Part::Failed(&reason));
                }
            }
            1 => end(self, Part::Failed(&"HTTP 503")),
            _ => {
                let told = agent
                    .respond(id, Part::Begin(Some(body.len())), now)
                    .and_then(|()| agent.respond(id, Part::Bytes(body), now));
                match told {
                    Ok(()) => end(self, Part::End),
                    Err(reason) => end(self, Part::Failed(&reason)),
                }
            }
        }
    }

    fn chunk(&mut self) {
        let total = 2;
        let index = self.numbers.below(2) as u32;
        let module = [&b"main()\n"[..], b"add(i32 i32)"];
        self.bench
            .chunk("app", index, total, module[index as usize]);
    }

    fn model(&mut self) {
        let topic = "fl/models/m1";
        self.bench.handle(Event::Message {
            topic,
            payload: br#"{"w":[1]}"#,
        });
    }

    fn publish(&mut self, most: usize) {
        for _ in 0..most {
            let Some(publication) = self
                .bench
                .agent
                .poll_publish(Qos::AtLeastOnce, self.bench.now)
            else {
                return;
            };
            let token = publication.token;
            let topic = self.bench.agent.topic(token);
            let mut buf = [0; 2048];
            let len = self
                .bench
                .agent
                .write(token, &mut buf, self.bench.now)
                .unwrap();
            let body: Json = serde_json::from_slice(&buf[..len]).unwrap_or_default();
            let is_kept = publication.qos == Qos::AtLeastOnce && self.numbers.below(8) == 0;
            if is_kept {
                self.given.push(token);
                continue;
            }
            self.count(&topic, &body);
            self.bench.handle(Event::Published(token, Delivery::Done));
        }
    }

    fn count(&mut self, topic: &str, body: &Json) {
        let id = body["task_id"].as_str().unwrap_or_default().to_string();
        let key = if topic.ends_with("/invoke_results") {
            let invocation = body["invocation_id"].as_str().unwrap_or_default();
            (id, format!("invocation {invocation}"))
        } else if topic.ends_with("/results") {
            (id, String::new())
        } else {
            return;
        };
        let left = self.due.entry(key.clone()).or_default();
        if key.1 == "invocation " && *left == 0 {
            // It came twice, and nothing tells so.
            return;
        }
        *left -= 1;
        if *left < 0
            && let Some(at) = self.bench.broker.again.iter().position(|id| *id == key.0)
        {
            self.bench.broker.again.remove(at);
            *left += 1;
        }
        assert!(
            *left >= 0,
            "{key:?} is answered more often than it was asked: {body}"
        );
    }

    fn lose(&mut self) {
        if self.is_connected {
            self.bench.lose_broker();
            self.bench.handle(Event::Disconnected);
        } else {
            if self.pick(2) == 0 {
                self.bench.handle(Event::NewSession);
            }
            self.bench.handle(Event::Connected);
            self.bench.find_broker();
        }
        self.is_connected = !self.is_connected;
        for token in core::mem::take(&mut self.given) {
            self.bench.handle(Event::Published(token, Delivery::Lost));
        }
    }

    fn brute(&self) {
        let agent = &self.bench.agent;
        if let Some((_, next)) = agent.supervisor.tasks.next_deadline() {
            assert!(
                next > self.bench.now,
                "one that is late is acted on at once"
            );
            assert!(
                agent
                    .next_deadline(self.bench.now)
                    .is_some_and(|at| at <= next)
            );
        }
        let running = agent.engine().running.len();
        let with_exits = agent.supervisor.tasks.running();
        assert!(with_exits >= running);
        // Nothing is left in the arena without an owner.
        agent.supervisor.tasks.check();
        self.check_waiters();
    }

    /// Holds the waiters that the modules count against those that the tasks know.
    fn check_waiters(&self) {
        let Supervisor { tasks, modules, .. } = &self.bench.agent.supervisor;
        for index in 0..FETCHES_MAX as u8 {
            let fetching = tasks.all().filter(|(_, task)| {
                matches!(task.state(), TaskState::Fetching { fetch, .. } if *fetch == index)
            });
            let deploying = tasks.deployments().filter(|(_, deployment)| {
                matches!(deployment.state(), Deployed::Fetching { fetch, .. } if fetch == index)
            });
            let waiters = fetching.count() + deploying.count();
            assert_eq!(modules.waiters(index).unwrap_or(0), waiters);
        }
    }

    fn step(&mut self) {
        self.note();
        match self.numbers.below(20) {
            0..=3 if self.bench.is_idle() => self.start(),
            4 | 5 if self.bench.is_idle() => self.invoke(),
            6 if self.bench.is_idle() => self.stop(),
            7 | 8 => self.exit(),
            9 => self.bench.exit_interrupted(),
            10 | 11 => self.exchange(),
            12 => self.chunk(),
            13 => self.model(),
            14 if self.numbers.below(4) == 0 => self.lose(),
            15 | 16 => {
                let _ = self.bench.agent.poll_subscribe();
                let most = self.pick(6);
                self.publish(most);
            }
            _ => {
                let ms = self.bench.now.as_millis() + self.numbers.below(900);
                self.bench.at(ms);
            }
        }
        self.brute();
    }

    fn end(mut self, seed: u64) {
        if !self.is_connected {
            self.lose();
        }
        let deployments: Vec<String> = self
            .bench
            .agent
            .supervisor
            .tasks
            .deployments()
            .map(|(_, d)| d.id().to_string())
            .collect();
        for id in deployments {
            self.publish(100);
            self.lose();
            self.lose();
            self.publish(100);
            self.bench
                .send("control/manager/stop", json!({"id": id, "proplet_id": ID}));
            self.bench.exit_interrupted();
            self.brute();
        }
        self.bench.handle(Event::Shutdown);
        for _ in 0..200 {
            self.bench.exit_interrupted();
            self.exchange();
            self.publish(100);
            if !self.given.is_empty() {
                self.lose();
                self.lose();
            }
            let ms = self.bench.now.as_millis() + 100;
            self.bench.at(ms);
            self.brute();
        }
        let left: BTreeSet<_> = self.due.iter().filter(|(_, n)| **n != 0).collect();
        assert!(left.is_empty(), "seed {seed}: not answered: {left:?}");
        let stages: Vec<_> = self
            .bench
            .agent
            .tasks()
            .map(|t| (t.slot, t.id.to_string(), t.stage))
            .collect();
        assert!(
            self.bench.agent.is_drained(),
            "seed {seed}: {stages:?} outbox {}",
            self.bench.agent.supervisor.outbox.room()
        );
        let ms = self.bench.now.as_millis() + 10_000;
        self.bench.at(ms);
        while self.bench.agent.poll_subscribe().is_some() {}
        assert!(self.bench.arena_is_free(), "seed {seed}");
    }
}

#[test]
fn whatever_happens_each_start_is_answered_once_and_the_arena_is_empty_at_the_end() {
    let seeds = std::env::var("SEEDS").ok();
    let seeds = seeds.and_then(|s| s.parse().ok()).unwrap_or(300);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| {
            let mut chaos = Chaos::new(seed);
            for _ in 0..400 {
                chaos.step();
            }
            let seen = chaos.seen.clone();
            chaos.end(seed);
            seen
        });
        match result {
            Ok(of) => of
                .into_iter()
                .for_each(|(state, n)| *seen.entry(state).or_default() += n),
            Err(cause) => {
                std::println!("seed {seed} fails");
                std::panic::resume_unwind(cause);
            }
        }
    }
    std::println!("{seen:?}");
    for state in [
        "fetching",
        "gathering",
        "running",
        "stopping",
        "posting",
        "overdue",
        "ended, no room",
        "failed, no room",
    ] {
        assert!(seen.contains_key(state), "{state}: {seen:?}");
    }
}

/// Want of room is no reason to forget a deployment: after another restart there may be some.
#[test]
fn a_deployment_whose_record_finds_no_room_after_a_restart_is_kept() {
    let store = FakeStore::default();
    let boot = |arena: usize| {
        let store: &'static mut dyn Store = Box::leak(Box::new(store.clone()));
        let mut bench = Bench::with_room(
            config(),
            Some(store),
            Room {
                arena,
                ..Room::SMALL
            },
        );
        bench.agent.restore(Instant::BOOT);
        bench.handle(Event::Connected);
        bench
    };
    let mut bench = boot(10_000);
    bench.start(with(task("d1"), json!({"latent": true})));
    bench.start(with(
        task("d2"),
        json!({"latent": true, "env": {"X": "y".repeat(100)}}),
    ));
    assert_eq!(bench.agent.status().deployed, 2);
    // Other settings, and another arena: the record of the second has no room.
    let bench = boot(100);
    assert_eq!(bench.agent.status().deployed, 1);
    assert_eq!(
        store.kept().records.len(),
        2,
        "it is kept for a restart after which it can be loaded"
    );
    let bench = boot(10_000);
    assert_eq!(bench.agent.status().deployed, 2);
}

/// Tasks of one id that were stopped and do not end: each new start and stop of it is as cheap.
#[test]
fn an_id_that_is_stopped_and_started_again_many_times() {
    let time = |is_same: bool| {
        let mut bench = online(
            config(),
            Room {
                slots: 8000,
                outbox: 64,
                ..ROOM
            },
        );
        let began = processor_time();
        for n in 0..6400 {
            let id = if is_same {
                "same".into()
            } else {
                format!("task-{n}")
            };
            bench.start(quiet(&id));
            bench.send("control/manager/stop", json!({"id": id, "proplet_id": ID}));
        }
        assert_eq!(bench.agent.status().running, 6400);
        processor_time() - began
    };
    let (others, same) = (time(false), time(true));
    assert!(same < 3 * others, "{same:?} against {others:?}");
}

/// The link asks for the payload after it has ticked the agent: the task may have gone meanwhile.
#[test]
fn a_sample_of_a_task_that_has_gone_is_not_one_of_nobody() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    bench.at(1100);
    let mut sample = None;
    while let Some(publication) = bench.agent.poll_publish(Qos::AtLeastOnce, bench.now) {
        if matches!(publication.token, Token(Subject::Sample(_))) {
            sample = Some(publication.token);
            break;
        }
        bench.handle(Event::Published(publication.token, Delivery::Done));
    }
    bench.exit(0, Ok(None));
    let written = bench
        .agent
        .write(sample.unwrap(), &mut [0; 1024], bench.now);
    assert_eq!(written, Err(Unwritten::Gone));
}
