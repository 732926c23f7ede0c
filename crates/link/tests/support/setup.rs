//! A link with its agent, its broker and its clock, beside a script.

use super::{
    Net, Signals,
    proplet::{CONFIG, Guests, ID, Log, TestAgent, agent, start_json, task_id},
    simulate,
};
use ::proplet::config::Config;
use embassy_futures::select::{Either3, select3};
use proplet_link::{Buffers, LinkConfig, LinkState, LinkStatus, gate::BUFFER_MIN, run};
use std::{cell::RefCell, future::Future, rc::Rc};

pub const ALIVE: &str = "m/t/c/c/control/proplet/alive";
pub const CREATE: &str = "m/t/c/c/control/proplet/create";
pub const RESULTS: &str = "m/t/c/c/control/proplet/results";
pub const START: &str = "m/t/c/c/control/manager/start";
pub const STOP: &str = "m/t/c/c/control/manager/stop";
pub const CHUNKS: &str = "m/t/c/c/registry/server";

pub const LINK: LinkConfig<'static> = LinkConfig {
    host: "broker.test",
    port: 1884,
    proplet_id: ID,
    api_key: "secret",
    seed: 7,
    ..LinkConfig::DEFAULT
};

pub struct World {
    pub net: Net,
    pub guests: Guests,
    pub signals: Signals,
    pub status: &'static LinkStatus,
}

impl World {
    pub fn log(&self) -> Rc<RefCell<Log>> {
        Rc::clone(&self.guests.log)
    }

    pub fn agent(&self) -> Rc<RefCell<TestAgent>> {
        Rc::clone(&self.guests.agent)
    }

    /// Starts a task that ends at once. Its result is due after 250 ms.
    pub fn start(&self, id: &str) {
        start(&self.net, id);
    }

    /// Starts a task that ends when it must.
    pub fn start_endless(&self, id: &str, deadline_ms: Option<u64>) {
        let json = start_json(id, "endless", deadline_ms);
        self.net.publish(START, json.as_bytes());
    }
}

pub fn start(net: &Net, id: &str) {
    net.publish(START, start_json(id, "main", None).as_bytes());
}

/// Runs the link while `script` does.
pub struct Setup {
    pub config: LinkConfig<'static>,
    pub rx: usize,
    pub tx: usize,
    pub world: World,
}

impl Setup {
    pub fn new() -> Self {
        Self::with(CONFIG)
    }

    pub fn with(config: Config<'static>) -> Self {
        Self::of(agent(config))
    }

    pub fn of(agent: Rc<RefCell<TestAgent>>) -> Self {
        let signals = Signals::default();
        Self {
            config: LINK,
            rx: BUFFER_MIN,
            tx: 2048,
            world: World {
                net: Net::new(),
                guests: Guests::new(agent, &signals),
                signals,
                status: Box::leak(Box::default()),
            },
        }
    }

    /// Runs until the script ends, or the link does; whether it was the link.
    pub fn run<F: Future<Output = ()>>(self, script: impl FnOnce(World) -> F) -> bool {
        let world = &self.world;
        let (net, signals, status) = (world.net.clone(), world.signals.clone(), world.status);
        let guests = world.guests.clone();
        let mut rx = vec![0; self.rx];
        let (mut tx, mut will) = (vec![0; self.tx], [0; 128]);
        let buffers = Buffers {
            rx: &mut rx,
            output: &mut [0; 64],
            tx: &mut tx,
            will: &mut will,
            http: [],
        };
        let config = self.config;
        // A connection may be made and lost in one poll, but for waits that ask for signals.
        let signal = async || {
            guests.observe();
            signals.next().await
        };
        let script = script(self.world);
        let ended = simulate(async {
            let link = run(&net, &guests.agent, &config, buffers, signal, status);
            match select3(script, link, guests.run()).await {
                Either3::First(()) => false,
                Either3::Second(result) => {
                    assert_eq!(result, Ok(()));
                    assert_eq!(status.state(), LinkState::Ended);
                    true
                }
                Either3::Third(never) => match never {},
            }
        });
        guests.observe();
        let log = guests.log.borrow();
        let (connected, lost) = (log.connected.len(), log.disconnected.len());
        assert_eq!(
            connected,
            status.connects() as usize,
            "a connection was missed"
        );
        let losses = status.losses() as usize;
        assert!((losses..=losses + usize::from(ended)).contains(&lost));
        ended
    }
}

/// Whether each task has ended, and each result has been told as delivered.
pub fn is_drained(agent: &Rc<RefCell<TestAgent>>) -> bool {
    agent.borrow().is_drained()
}

/// Tasks of the results that have come, without what was sent again under the same identifier.
pub fn results(net: &Net) -> Vec<String> {
    let published = net.published(RESULTS);
    let ids = published.iter().map(|(_, payload)| task_id(payload).into());
    ids.collect()
}
