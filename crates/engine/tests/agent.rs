//! The agent on WAMR: what a task costs, everything counted, and how many there may be.

use proplet::{
    agent::{
        Agent, Delivery, DeploymentSlot, Event, Fetch, OutboxEntry, Qos, RECEIVE_MAXIMUM, Reason,
        Refusal, Storage, TaskSlot,
    },
    config::Config,
    engine::{Engine as _, Limits, ModuleId, Weight},
    module::table::ModuleEntry,
    time::Instant,
};
use proplet_engine::{ModuleState, QueueEntry, SlotState, WamrEngine, Workers};
use proplet_testing::{
    engine::{ARENA, Bench, ID, LIMITS, Threads, leaked},
    inline::{OWN, max_inline_bytes},
};
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, thread, time::Duration};
use wamr::Buffer;

type TestAgent = Agent<'static, WamrEngine<Threads>>;

const SLOTS: usize = 512;
const STACK: usize = LIMITS.stack as usize;
const CPU: &str = include_str!("../../../wat/bench/cpu.wat");
const MEM: &str = include_str!("../../../wat/bench/mem.wat");
const MSG: &str = include_str!("../../../wat/bench/msg.wat");
const LOOP: &str = r#"(module (func (export "main") (loop $next (br $next))))"#;

/// Modules, and the slots that share their table, as Kconfig has them by default.
const MODULES: usize = 16;
const SLOTS_OF_MODULES: usize = 64;

struct Proplet {
    agent: TestAgent,
    workers: &'static Workers<Threads>,
    now: Instant,
}

impl Proplet {
    fn new() -> Self {
        let storage = Storage {
            slots: leaked(SLOTS, || TaskSlot::FREE),
            deployments: leaked(2, || DeploymentSlot::FREE),
            modules: leaked(4, || ModuleEntry::VACANT),
            fetches: leaked(2, || Fetch::VACANT),
            outbox: leaked(SLOTS + RECEIVE_MAXIMUM, || OutboxEntry::VACANT),
            packed: leaked(1024, || 0),
            store: None,
        };
        let config = Config {
            proplet_id: ID,
            tenant: "t",
            channel: "c",
            ..Config::DEFAULT
        };
        let Bench { engine, workers } = Bench::new(SLOTS, ARENA);
        let mut proplet = Self {
            agent: Agent::new(config, storage, engine).unwrap(),
            workers,
            now: Instant::from_millis(1000),
        };
        proplet.handle(Event::Connected);
        proplet
    }

    fn handle(&mut self, event: Event<'_>) {
        self.agent.handle(event, self.now);
    }

    /// The metadata of its discovery message, which is the first.
    fn metadata(&mut self) -> Json {
        let next = self.agent.poll_publish(Qos::AtLeastOnce, self.now).unwrap();
        assert!(self.agent.topic(next.token).ends_with("/create"));
        let mut body = [0; 1024];
        let len = self.agent.write(next.token, &mut body, self.now).unwrap();
        self.handle(Event::Published(next.token, Delivery::Done));
        let body: Json = serde_json::from_slice(&body[..len]).unwrap();
        body["metadata"].clone()
    }

    /// The error of a module of `len` bytes that are data but for a function, or nothing if it ran.
    fn takes(&mut self, len: usize) -> Json {
        self.start_module("large", &data_module(len), &json!({}));
        let [result] = &self.all_results()[..] else {
            panic!("one task has one result");
        };
        result["error"].clone()
    }

    fn start(&mut self, id: &str, wat: &str, extra: &Json) {
        self.start_module(id, &wat::parse_str(wat).unwrap(), extra);
    }

    fn start_module(&mut self, id: &str, module: &[u8], extra: &Json) {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let file = BASE64_STANDARD.encode(module);
        let mut start = json!({"id": id, "name": "main", "file": file, "proplet_id": ID,
            "monitoring_profile": {"enabled": false}});
        for (key, value) in extra.as_object().unwrap() {
            start[key] = value.clone();
        }
        self.send("start", &start);
    }

    fn send(&mut self, command: &str, body: &Json) {
        self.handle(Event::Message {
            topic: &format!("m/t/c/c/control/manager/{command}"),
            payload: body.to_string().as_bytes(),
        });
    }

    /// Results that are due 250 ms from now.
    fn results(&mut self) -> Vec<Json> {
        self.now = Instant::from_millis(self.now.as_millis() + 250);
        self.handle(Event::Tick);
        let mut results = Vec::new();
        while let Some(next) = self.agent.poll_publish(Qos::AtLeastOnce, self.now) {
            let mut body = [0; 1024];
            let len = self.agent.write(next.token, &mut body, self.now).unwrap();
            if self.agent.topic(next.token).ends_with("/results") {
                results.push(serde_json::from_slice(&body[..len]).unwrap());
            }
            self.handle(Event::Published(next.token, Delivery::Done));
        }
        results
    }

    /// Waits until no task is left; what they said.
    fn all_results(&mut self) -> Vec<Json> {
        let mut results = Vec::new();
        for _ in 0..10_000 {
            results.extend(self.results());
            if self.agent.is_drained() {
                return results;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("tasks do not end");
    }

    /// The most tasks found that end with `result`, of all that are started before the first one runs. With
    /// too many, those that end for want of a page say how many fewer it may be.
    fn most(&mut self, wat: &str, result: &str) -> usize {
        let mut count = 160;
        loop {
            let held = self.workers.platform().hold();
            for n in 0..count {
                self.start(&format!("3fe95a65-74f1-4ede-bf20-{n:012}"), wat, &json!({}));
            }
            drop(held);
            let results = self.all_results();
            assert_eq!(results.len(), count);
            let is_right = |body: &&Json| body["results"] == result;
            let failed = count - results.iter().filter(is_right).count();
            if failed == 0 {
                return count;
            }
            count -= failed.div_ceil(2);
        }
    }

    fn free(&self) -> usize {
        self.agent.engine().arena().free
    }

    /// Arena bytes of one more task of the module that is loaded, and of its record alone.
    fn cost(&mut self, id: &str, wat: &str, extra: &Json) -> (usize, usize) {
        let limits = Limits {
            stack: 4096,
            memory_max: None,
            work: None,
            weight: Weight::DEFAULT,
        };
        let needs = self.agent.engine().instance_needs(ModuleId(0), &limits);
        let before = self.free();
        self.start(id, wat, extra);
        let all = before - self.free();
        (all, all - needs.unwrap().own)
    }
}

/// A module of `len` bytes, more than 1,000 of which are data that no memory has.
fn data_module(len: usize) -> Vec<u8> {
    let mut module = wat::parse_str(r#"(module (func (export "main")))"#).unwrap();
    let leb = |n: usize| [0, 7, 14].map(|shift| (n >> shift) as u8 & 0x7f | 0x80);
    let number = |n: usize| [&leb(n)[..], &[(n >> 21) as u8]].concat();
    // The section, one segment, passive.
    let data = len - module.len() - 11;
    module.push(11);
    module.extend(number(data + 6));
    module.extend([1, 1]);
    module.extend(number(data));
    module.resize(len, 7);
    module
}

/// The discovery message says which modules fit: the largest that do are those that are all data.
fn the_largest_inline_module_is_announced(proplet: &mut Proplet) {
    let metadata = proplet.metadata();
    let announced = metadata["max_inline_bytes"].as_u64().unwrap() as usize;
    let (mut fits, mut refused) = (1000, ARENA);
    while refused - fits > 1 {
        let len = usize::midpoint(fits, refused);
        match proplet.takes(len) {
            Json::Null => fits = len,
            error => {
                let error = error.as_str().unwrap();
                assert!(error.starts_with("out of memory: "), "{error}");
                refused = len;
            }
        }
    }
    println!("{announced} bytes of an inline module announced, {fits} fit");
    // The table in docs/boards.md has it.
    assert_eq!(announced, max_inline_bytes(ARENA, STACK, OWN));
    assert!(
        fits >= announced && fits - announced <= 512,
        "{fits} fit, {announced} were announced"
    );
    assert_eq!(metadata["slots"], SLOTS);
    assert_eq!(metadata["deployments"], 2);
    assert_eq!(metadata["memory_page_bytes"], wamr::page_bytes());
}

#[test]
fn a_slot_has_at_most_64_bytes_of_static_memory_on_32_bits() {
    let module = size_of::<ModuleEntry>() + size_of::<ModuleState>();
    let parts = [
        size_of::<TaskSlot<WamrEngine<Threads>>>(),
        size_of::<SlotState<Threads>>(),
        size_of::<QueueEntry>(),
        (module * MODULES).div_ceil(SLOTS_OF_MODULES),
    ];
    let all: usize = parts.iter().sum();
    println!("agent, engine, queue, share of the module table: {parts:?}, {all} bytes");
    let most = if cfg!(target_pointer_width = "32") {
        64
    } else {
        96
    };
    assert!(all <= most, "{all} bytes of at most {most}");
}

/// docs/memory.md has these figures.
#[test]
fn records_are_no_larger_than_the_docs_say() {
    let is_32_bit = cfg!(target_pointer_width = "32");
    let [reason, entry, fetch] = match is_32_bit {
        true => [32, 232, 676],
        false => [64, 288, 792],
    };
    assert_eq!(size_of::<Refusal>(), reason);
    assert_eq!(size_of::<Reason<Buffer>>(), reason);
    assert_eq!(size_of::<OutboxEntry<Buffer>>(), entry);
    assert_eq!(size_of::<Fetch<Buffer>>(), fetch);
}

/// A module of more bytes than the arena has runs in what is kept of it; one that is cut off in what is dropped is
/// refused by the engine.
fn custom_sections_cost_nothing(proplet: &mut Proplet) {
    let quiet = json!({});
    let bare = wat::parse_str(LOOP).unwrap();
    let names = [&[4][..], b"name", &vec![0; 2 * ARENA]].concat();
    let len = (0..5).map(|i| (names.len() >> (7 * i)) as u8 & 0x7f | if i < 4 { 0x80 } else { 0 });
    let custom = [&[0][..], &len.collect::<Vec<_>>(), &names].concat();
    let whole = [&bare[..8], &custom, &bare[8..], &custom].concat();
    let mut taken = [&bare, &whole].map(|module| {
        let before = proplet.free();
        proplet.start_module("a", module, &quiet);
        let taken = before - proplet.free();
        assert_eq!(proplet.agent.status().running, 1);
        proplet.send("stop", &json!({"id": "a", "proplet_id": ID}));
        proplet.all_results();
        taken
    });
    println!("{} bytes of a module take {}", whole.len(), taken[1]);
    taken.sort_unstable();
    assert_eq!(taken[0], taken[1]);

    proplet.start_module("a", &whole[..whole.len() - 1], &quiet);
    let results = proplet.all_results();
    let error = results[0]["error"].as_str().unwrap();
    assert!(error.contains("sections can't be followed"), "{error}");
}

/// All in one test: WAMR is one for a process.
#[test]
fn what_tasks_cost_is_what_they_hold() {
    let mut proplet = Proplet::new();
    the_largest_inline_module_is_announced(&mut proplet);
    let empty = proplet.free();
    let id = |n: usize| format!("3fe95a65-74f1-4ede-bf20-{n:012}");

    // The first is there for its module, and for what all its instances share.
    let quiet = json!({});
    proplet.start(&id(0), LOOP, &quiet);
    let (task, record) = proplet.cost(&id(1), LOOP, &quiet);
    println!("a task of a loop: {task} bytes, of which its record has {record}");
    assert!(record <= 150, "{record} bytes");
    let monitored = json!({"monitoring_profile": null});
    let (_, with_monitor) = proplet.cost(&id(2), LOOP, &monitored);
    println!("a record with a monitor: {with_monitor} bytes");
    assert!(with_monitor > record && with_monitor <= record + 160);
    // Records are as long as their texts, in multiples of 8.
    let (_, short) = proplet.cost("x", LOOP, &quiet);
    let (_, inputs) = proplet.cost("y", LOOP, &json!({"env": {"KEY": "v".repeat(200)}}));
    assert!((record - short).abs_diff(35) < 8 && (inputs - short).abs_diff(207) < 8);
    for id in [&id(0), &id(1), &id(2), "x", "y"] {
        proplet.send("stop", &json!({"id": id, "proplet_id": ID}));
    }
    assert_eq!(proplet.all_results().len(), 5);
    assert_eq!(proplet.free(), empty);
    custom_sections_cost_nothing(&mut proplet);

    // As many as the arena holds, each with its record and room to be left.
    let held = proplet.workers.platform().hold();
    let mut started = 0;
    loop {
        proplet.start(&id(started), CPU, &quiet);
        if proplet.agent.status().running == started {
            break;
        }
        started += 1;
    }
    drop(held);
    println!(
        "{started} tasks of the cpu workload in {ARENA} bytes, {} left",
        proplet.free()
    );
    let least = match size_of::<usize>() {
        4 => 270,
        _ => 185,
    };
    assert!(started >= least, "{started} of at least {least}");
    let results = proplet.all_results();
    let mut count = BTreeMap::<_, usize>::new();
    for result in &results {
        let error = result["error"].as_str().unwrap_or_default();
        let (end, _) = error.split_once(" need ").unwrap_or((error, ""));
        let outcome = (
            end.to_owned(),
            result["results"].as_str().unwrap().to_owned(),
        );
        *count.entry(outcome).or_default() += 1;
    }
    println!("{count:?}");
    assert_eq!(results.len(), started + 1);
    assert_eq!(
        count.values().max(),
        Some(&started),
        "all but one with one result"
    );
    assert_eq!(proplet.free(), empty);

    // The same with memories, of a page each: of those that write to one KiB, and to two.
    for (name, wat, result, least) in [
        ("mem", MEM, "841800133", [90, 66]),
        ("msg", MSG, "1791376005", [55, 44]),
    ] {
        let most = proplet.most(wat, result);
        println!("{most} tasks of the {name} workload");
        let least = least[usize::from(size_of::<usize>() == 8)];
        assert!(most >= least, "{name}: {most} of at least {least}");
        assert_eq!(proplet.free(), empty);
    }

    // Rounds of starts and stops leave nothing.
    for round in 0..500 {
        for n in 0..20 {
            let text = if n % 2 == 0 { LOOP } else { CPU };
            proplet.start(&id(n), text, &quiet);
        }
        for n in 0..20 {
            proplet.send("stop", &json!({"id": id(n), "proplet_id": ID}));
        }
        assert_eq!(proplet.all_results().len(), 20, "round {round}");
        assert_eq!(proplet.free(), empty, "round {round}");
    }
}
