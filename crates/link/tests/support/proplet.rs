//! The agent of a proplet on the core's fake engine, with guests that are a line of Rust.

use super::{Seen, Signals, now};
use proplet::{
    agent::{Agent, DeploymentSlot, Fetch, OutboxEntry, RECEIVE_MAXIMUM, Storage, TaskSlot},
    config::Config,
    engine::Slot,
    module::table::ModuleEntry,
    store::Store,
    testing::{FakeEngine, FakeStore},
    time::{Duration, Instant},
};
use proplet_link::Signal;
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::poll_fn,
    rc::Rc,
    task::Poll,
};

pub type TestAgent = Agent<'static, FakeEngine>;

/// The proplet's id.
pub const ID: &str = "7f4d8a3c-proplet";

pub const CONFIG: Config<'static> = Config {
    proplet_id: ID,
    tenant: "t",
    channel: "c",
    metrics_interval: Duration::ZERO,
    ..Config::DEFAULT
};

/// A topic of the channel.
pub fn topic(suffix: &str) -> String {
    format!("m/t/c/c/{suffix}")
}

fn leak<T>(value: impl Fn() -> T, len: usize) -> &'static mut [T] {
    Box::leak(std::iter::repeat_with(value).take(len).collect())
}

/// An agent with room for all that a test starts.
pub fn agent(config: Config<'static>) -> Rc<RefCell<TestAgent>> {
    agent_with(config, 512)
}

/// An agent with an outbox for as many messages, beside answers that are withheld.
pub fn agent_with(config: Config<'static>, outbox: usize) -> Rc<RefCell<TestAgent>> {
    boot(config, outbox, None)
}

/// An agent that has begun with this store.
pub fn agent_of(config: Config<'static>, store: &FakeStore) -> Rc<RefCell<TestAgent>> {
    let store = Box::leak(Box::new(store.clone()));
    let agent = boot(config, 512, Some(store));
    agent.borrow_mut().restore(Instant::BOOT);
    agent
}

fn boot(
    config: Config<'static>,
    outbox: usize,
    store: Option<&'static mut dyn Store>,
) -> Rc<RefCell<TestAgent>> {
    let storage = Storage {
        slots: leak(|| TaskSlot::FREE, 256),
        deployments: leak(|| DeploymentSlot::FREE, 2),
        modules: leak(|| ModuleEntry::VACANT, 2),
        fetches: leak(|| Fetch::VACANT, 4),
        outbox: leak(|| OutboxEntry::VACANT, outbox + RECEIVE_MAXIMUM),
        packed: leak(|| 0, 256),
        store,
    };
    let agent = Agent::new(config, storage, FakeEngine::new(10_000_000));
    Rc::new(RefCell::new(agent.unwrap()))
}

/// A start message for `export` of a module that has two: `main`, whose guests end at once, and
/// `endless`. Without samples.
pub fn start_json(id: &str, export: &str, deadline_ms: Option<u64>) -> String {
    let env = deadline_ms.map(|ms| format!(r#""env":{{"PROPLET_DEADLINE_MS":"{ms}"}},"#));
    format!(
        r#"{{"id":"{id}","name":"{export}","file":"bWFpbigpCmVuZGxlc3MoKQ==",{}"monitoring_profile":{{"enabled":false}},"proplet_id":"{ID}"}}"#,
        env.unwrap_or_default()
    )
}

/// Id and payload of a message with results.
pub fn result_of(seen: &Seen) -> Option<(&str, &str)> {
    match seen {
        Seen::Publish { topic, payload, .. } if topic.ends_with("proplet/results") => {
            Some((task_id(payload), payload))
        }
        _ => None,
    }
}

pub fn task_id(payload: &str) -> &str {
    let (_, id) = payload.split_once(r#""task_id":""#).unwrap();
    id.split_once('"').unwrap().0
}

/// Changes that were seen of the agent, with their milliseconds.
#[derive(Debug, Default)]
pub struct Log {
    pub connected: Vec<u64>,
    pub disconnected: Vec<u64>,
    /// Guests that were interrupted.
    pub interrupted: Vec<u64>,
    /// Changes of the number of runs.
    pub running: Vec<(u64, usize)>,
    /// Guests that have ended.
    pub ended: usize,
}

/// The guests of an agent, and an observer of it, beside the link.
#[derive(Clone)]
pub struct Guests {
    pub agent: Rc<RefCell<TestAgent>>,
    pub log: Rc<RefCell<Log>>,
    /// Bytes of the result that each guest of `main` publishes; without any it returns nothing.
    pub output: Rc<Cell<usize>>,
    signals: Signals,
}

impl Guests {
    pub fn new(agent: Rc<RefCell<TestAgent>>, signals: &Signals) -> Self {
        Self {
            agent,
            log: Rc::default(),
            output: Rc::default(),
            signals: signals.clone(),
        }
    }

    /// Looks at the agent each time that the link has been polled, and lets its guests go on.
    pub async fn run(&self) -> Infallible {
        poll_fn(|_| {
            self.observe();
            if self.end_some() > 0 {
                self.signals.send(Signal::Work);
            }
            Poll::Pending
        })
        .await
    }

    /// Notes what has changed.
    pub fn observe(&self) {
        let (agent, mut log) = (self.agent.borrow(), self.log.borrow_mut());
        let status = agent.status();
        match status.connected {
            true if log.connected.len() == log.disconnected.len() => log.connected.push(now()),
            false if log.connected.len() > log.disconnected.len() => log.disconnected.push(now()),
            _ => {}
        }
        let before = log.running.last().map_or(0, |(_, running)| *running);
        if before != status.running {
            log.running.push((now(), status.running));
        }
    }

    fn end_some(&self) -> usize {
        let (mut agent, mut log) = (self.agent.borrow_mut(), self.log.borrow_mut());
        let engine = agent.engine_mut();
        let interrupted = engine.interrupted.len();
        log.interrupted.extend(vec![now(); interrupted]);
        engine.exit_interrupted();
        let runs = engine.running.iter();
        let done: Vec<Slot> = runs
            .filter(|r| r.export == "main")
            .map(|r| r.slot)
            .collect();
        let output = Some("x".repeat(self.output.get())).filter(|text| !text.is_empty());
        for slot in &done {
            engine.exit_with(*slot, Ok(None), output.as_deref());
        }
        log.ended += interrupted + done.len();
        interrupted + done.len()
    }
}
