//! The real agent on the link, with a fake engine, in virtual time.

mod support;

use embassy_futures::select::select;
use proplet::{
    agent::{Agent, DeploymentSlot, Letter, Storage, TaskSlot},
    config::Config,
    engine::{
        ArenaUsage, Call, Engine, Exit, Failure, InstanceNeeds, Limits, Message, ModuleId, Needs,
        Params, ProcessUsage, Record, RunUsage, Slot, TaskData, Text, Value,
    },
    module::{source::Fetch, table::Entry},
    time::Duration,
};
use proplet_link::{Buffers, Settings, Signal, Status, run};
use std::{cell::RefCell, collections::VecDeque, rc::Rc};
use support::{Cut, Dial, Net, Seen, Signals, after, at, now, parks, simulate};

const ID: &str = "3fe95a65-74f1-4ede-bf20-ef565f04cecb";

/// Runs in slots; each ends when the script says so.
#[derive(Default)]
struct Runs {
    running: Vec<Slot>,
    exits: VecDeque<Exit<Vec<u8>>>,
}

impl Runs {
    fn end(&mut self, result: &Result<Option<Value>, Failure>) {
        for slot in std::mem::take(&mut self.running) {
            self.exits.push_back(Exit {
                slot,
                result: result.clone(),
                output: None,
                usage: RunUsage::default(),
            });
        }
    }
}

/// An engine to which all bytes are a module whose every export takes nothing.
struct Fake {
    runs: Rc<RefCell<Runs>>,
    signals: Signals,
}

struct Block<T> {
    value: T,
    bytes: Rc<[u8]>,
}

impl<T> Record<T> for Block<T> {
    type Bytes = Rc<[u8]>;

    fn value(&self) -> &T {
        &self.value
    }

    fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        Rc::get_mut(&mut self.bytes).unwrap_or_default()
    }

    fn share(&mut self) -> Rc<[u8]> {
        Rc::clone(&self.bytes)
    }
}

impl Engine for Fake {
    type Buffer = Vec<u8>;
    type Bytes = Rc<[u8]>;
    type Record<T> = Block<T>;

    fn record<T>(&mut self, value: T, len: usize) -> Result<Block<T>, Text> {
        let bytes = vec![0; len].into();
        Ok(Block { value, bytes })
    }

    fn record_bytes<T>(len: usize) -> usize {
        len
    }

    fn arena(&self) -> ArenaUsage {
        ArenaUsage {
            total: 100_000,
            free: 50_000,
            free_min: 50_000,
            reserve: 0,
            pages: 0,
            page_bytes: 0,
        }
    }

    fn allocate(&mut self, len: usize) -> Result<Vec<u8>, Text> {
        Ok(vec![0; len])
    }

    fn resize(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<(), Text> {
        buffer.resize(len, 0);
        Ok(())
    }

    fn estimate(&self, _: &[u8], _: &Limits) -> Result<Needs, Text> {
        Ok(Needs {
            load: 10,
            instance: 10,
        })
    }

    fn load(&mut self, _: ModuleId, _: Vec<u8>) -> Result<(), Text> {
        Ok(())
    }

    fn unload(&mut self, _: ModuleId) {}

    fn instance_needs(&self, _: ModuleId, _: &Limits) -> Result<InstanceNeeds, Text> {
        Ok(InstanceNeeds {
            own: 1000,
            memory: 0,
            shared: 0,
        })
    }

    fn params(&self, _: ModuleId, _: &str) -> Result<Option<Params>, Text> {
        Ok(Some(Params::new()))
    }

    fn spawn(
        &mut self,
        slot: Slot,
        _: &Call<'_>,
        _: TaskData<Vec<u8>, Rc<[u8]>>,
    ) -> Result<(), Text> {
        self.runs.borrow_mut().running.push(slot);
        Ok(())
    }

    fn interrupt(&mut self, slot: Slot) {
        let mut runs = self.runs.borrow_mut();
        if let Some(i) = runs.running.iter().position(|s| *s == slot) {
            runs.running.remove(i);
            runs.exits.push_back(Exit {
                slot,
                result: Err(Failure::Interrupted),
                output: None,
                usage: RunUsage::default(),
            });
            self.signals.send(Signal::Work);
        }
    }

    fn usage(&self, _: Slot) -> RunUsage {
        RunUsage::default()
    }

    fn process(&self) -> ProcessUsage {
        ProcessUsage::default()
    }

    fn exited(&mut self) -> Option<Slot> {
        self.runs.borrow().exits.front().map(|exit| exit.slot)
    }

    fn has_exited(&self, slot: Slot) -> bool {
        let runs = self.runs.borrow();
        runs.exits.iter().any(|exit| exit.slot == slot)
    }

    fn take_exit(&mut self, slot: Slot) -> Option<Exit<Vec<u8>>> {
        let exits = &mut self.runs.borrow_mut().exits;
        let index = exits.iter().position(|exit| exit.slot == slot)?;
        exits.remove(index)
    }

    fn poll_message(&mut self) -> Option<(Slot, Message<Vec<u8>>)> {
        None
    }

    fn take_message(&mut self, _: Slot) -> Option<Message<Vec<u8>>> {
        None
    }

    fn deliver(&mut self, _: Slot, _: &str, _: &[u8]) {}
}

fn topic(suffix: &str) -> String {
    format!("m/t/c/c/{suffix}")
}

fn start(net: &Net, id: &str) {
    let json = format!(
        r#"{{"id":"{id}","name":"main","state":0,"file":"AGFzbQEAAAA=","cli_args":null,"broadcast":false,"daemon":false,"latent":false,"encrypted":false,"proplet_id":"{ID}"}}"#
    );
    net.publish(&topic("control/manager/start"), json.as_bytes());
}

/// Ids of the results that came, without repetitions.
fn results(net: &Net) -> Vec<String> {
    let mut ids: Vec<_> = net.with(|w| {
        let seen = w.seen.iter().filter_map(|(_, seen)| match seen {
            Seen::Publish { topic, payload, .. } if topic.ends_with("proplet/results") => {
                let (_, id) = payload.split_once(r#""task_id":""#).unwrap();
                Some(id.split_once('"').unwrap().0.to_owned())
            }
            _ => None,
        });
        seen.collect()
    });
    ids.sort();
    ids
}

#[test]
fn an_hour_of_the_agent_with_losses() {
    let (net, signals) = (Net::new(), Signals::default());
    net.with(|w| w.write_most = 7);
    let runs = Rc::<RefCell<Runs>>::default();
    let engine = Fake {
        runs: runs.clone(),
        signals: signals.clone(),
    };
    let config = Config {
        proplet_id: ID,
        tenant: "t",
        channel: "c",
        metrics_interval: Duration::ZERO,
        ..Config::DEFAULT
    };
    let storage = Storage {
        slots: &mut [const { TaskSlot::FREE }; 8],
        deployments: &mut [const { DeploymentSlot::FREE }; 2],
        modules: &mut [Entry::VACANT; 2],
        fetches: &mut [const { Fetch::VACANT }; 2],
        outbox: &mut [const { Letter::VACANT }; 16],
        packed: &mut [0; 512],
        unescaped: &mut [0; 512],
        store: None,
    };
    let mut agent = Agent::new(config, storage, engine).unwrap();
    let settings = Settings {
        host: "192.0.2.1",
        proplet_id: ID,
        seed: 3,
        ..Settings::DEFAULT
    };
    let (mut rx, mut tx, mut will) = (vec![0; 2048], vec![0; 4096], [0; 256]);
    let buffers = Buffers {
        rx: &mut rx,
        tx: &mut tx,
        will: &mut will,
        http: [],
    };
    let status = Status::new();
    let script = async {
        net.dials(&[Dial::Refuse, Dial::Never, Dial::Mute]);
        let mut started = 0;
        for minute in 1..60 {
            at(minute * 60_000).await;
            for _ in 0..3 {
                started += 1;
                start(&net, &format!("task-{started}"));
            }
            match minute % 5 {
                1 => {
                    // Results are in flight when the connection goes.
                    net.with(|w| w.hold_acks = true);
                    after(300).await;
                    net.cut(Cut::Reset);
                    net.with(|w| w.hold_acks = false);
                }
                2 => {
                    net.dials(&[Dial::Refuse, Dial::MuteAfterConnack]);
                    after(50).await;
                    net.cut(Cut::Eof);
                }
                3 => {
                    after(200).await;
                    net.mute();
                }
                4 => net.publish(&topic("registry/server"), &[b'x'; 10_000]),
                _ => {}
            }
            after(100).await;
            runs.borrow_mut().end(&Ok(Some(Value::I32(42))));
            signals.send(Signal::Work);
        }
        at(3_600_000).await;
        start(&net, "endless");
        after(1_000).await;
        signals.send(Signal::Shutdown);
        after(60_000).await;
        panic!("it did not end");
    };
    let started = std::time::Instant::now();
    simulate(async {
        let signal = async || signals.next().await;
        select(
            run(&net, &mut agent, &settings, buffers, signal, &status),
            script,
        )
        .await;
    });
    assert!(now() < 3_602_000, "{}", now());
    println!("{} parks in {:?}", parks(), started.elapsed());

    let mut expected: Vec<_> = (1..=177).map(|i| format!("task-{i}")).collect();
    expected.push("endless".into());
    expected.sort();
    let mut ids = results(&net);
    ids.dedup();
    assert_eq!(ids, expected);
    let new: Vec<_> = net.published(&topic("control/proplet/results"));
    assert!(new.len() <= 178, "none came twice as if new");
    assert_eq!(net.published(&topic("control/proplet/create")).len(), 1);
    assert_eq!(net.times(|s| matches!(s, Seen::Subscribe(_))).len(), 4);
    assert!(matches!(
        net.with(|w| w.seen.last().cloned()),
        Some((_, Seen::Disconnect(Some(0))))
    ));

    // Heartbeats: at once on each connection, then every four seconds; on the first, one more
    // after the first second.
    let alive = net.sent(&topic("control/proplet/alive"));
    let connects = net.times(|s| matches!(s, Seen::Connect { .. }));
    let losses = net.times(|s| matches!(s, Seen::Closed));
    let gaps: Vec<_> = alive.windows(2).map(|w| (w[0], w[1] - w[0])).collect();
    assert_eq!(gaps[0].1, 1_000);
    for (from, gap) in &gaps[1..] {
        let interrupted = losses
            .iter()
            .any(|loss| (*from..from + gap + 1).contains(loss));
        assert!(*gap == 4_000 || interrupted, "{gap} ms after {from}");
    }
    // One connection in twelve minutes is mute from its CONNACK on.
    let greeted = connects.iter().filter(|at| alive.contains(at)).count();
    assert_eq!(greeted + 12, connects.len());
    assert_eq!(status.oversized(), 12);
}
