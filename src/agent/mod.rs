//! The proplet: events in, publications out.
//!
//! The link feeds an [`Agent`] with [`Event`]s and the present time, publishes what
//! [`Agent::poll_publish`] gives out and tells each publication's fate. The agent keeps no
//! clock, does no IO and waits for nothing; guests run behind its [`Engine`].
//!
//! Every start that is addressed to this proplet ends in exactly one results message. Results
//! stay in the outbox until the broker has acknowledged them.

mod commands;
mod exchange;
mod guests;
mod modules;
mod outbox;
mod persist;
mod publish;
mod runs;
mod tasks;
mod view;

pub use guests::Subscription;
pub use outbox::Letter;
pub use tasks::{DeploymentSlot, FETCHES_MAX, TaskSlot};
pub use view::{ModuleView, Stage, TaskView};

use crate::{
    config::Config,
    engine::{Engine, Slot, Text, text},
    module::{
        signature::Trust,
        source::Fetch,
        table::{Entry, Table},
    },
    store::Store,
    time::{Duration, Instant},
    wire::{
        ID_MAX, NAME_MAX, Outbound, TopicError, TopicName, Topics, check_level,
        report::{self, BufferTooSmall},
    },
};
use exchange::Exchange;
use guests::Interest;
use heapless::Vec;
use outbox::Outbox;
use tasks::{Ending, Tasks};

/// A task's, an invocation's or a proplet's id.
pub type Id = heapless::String<ID_MAX>;

/// Name of the export that a task calls.
pub type Name = heapless::String<NAME_MAX>;

/// Exports that are called if there is none of the task's name, in this order.
const FALLBACKS: [&str; 3] = ["main", "run", "_start"];

/// From the first heartbeat after discovery to the second: the first one may only have
/// introduced the proplet to the manager.
const SECOND_HEARTBEAT: Duration = Duration::from_secs(1);

/// From the moment at which a guest is to end to the first complaint that it runs on, and from there
/// to the next: it sees that it is to end within a slice.
const LATE: Duration = Duration::from_secs(2);
const LATE_AGAIN: Duration = Duration::from_secs(10);

/// HTTP exchanges that may be under way at once; a link may do fewer.
pub const EXCHANGES_MAX: usize = 4;

/// Topics that guests may be subscribed to at once, all together.
pub const INTERESTS_MAX: usize = 8;

/// Something that happened.
#[derive(Debug)]
pub enum Event<'m> {
    /// The broker knows nothing of an earlier session: what [`Agent::poll_subscribe`] has given out
    /// is to be asked for again.
    NewSession,
    /// The broker accepted the connection, and each [`Agent::subscription`] is in force.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// A message arrived.
    Message {
        /// Its topic.
        topic: &'m str,
        /// Its payload.
        payload: &'m [u8],
    },
    /// A message arrived that was larger than the receive buffer; its payload was skipped.
    Oversized {
        /// Its topic.
        topic: &'m str,
        /// Bytes of the whole packet.
        size: usize,
    },
    /// What became of a publication that [`Agent::poll_publish`] gave out.
    Published(Token, Delivery),
    /// Time passed, or a worker has something to say.
    Tick,
    /// Stop every task, report, and take no more.
    Shutdown,
}

/// Names one publication until its [`Event::Published`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(Subject);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Create,
    Alive,
    Metrics,
    Sample(Slot),
    Request(u8),
    Letter(u16),
}

/// Fate of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has acknowledged it (QoS 1), or it was written out (QoS 0).
    Done,
    /// The session went before that; it may or may not have arrived.
    Lost,
    /// The broker refused it.
    Refused,
    /// It exceeds the link's send buffer, or what the broker takes.
    TooLarge,
}

/// Why a publication can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// The buffer is too small.
    TooLarge(BufferTooSmall),
    /// It is a sample of a task that has ended since.
    Gone,
}

impl core::fmt::Display for Unwritten {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLarge(error) => error.fmt(f),
            Self::Gone => f.write_str("the task of this sample has ended"),
        }
    }
}

impl core::error::Error for Unwritten {}

impl From<BufferTooSmall> for Unwritten {
    fn from(error: BufferTooSmall) -> Self {
        Self::TooLarge(error)
    }
}

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// At most once: superseded by the next one.
    AtMostOnce,
    /// At least once.
    AtLeastOnce,
}

/// A message to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication {
    /// To be handed back in [`Event::Published`].
    pub token: Token,
    /// How to publish it.
    pub qos: Qos,
}

/// Memory of an [`Agent`], owned by the port: its sizes are the proplet's capacities.
#[derive(Debug)]
pub struct Storage<'a, E: Engine> {
    /// A slot for each task that there may be at once, at most 65,534.
    pub slots: &'a mut [TaskSlot<E>],
    /// A slot for each latent deployment, at most 256.
    pub deployments: &'a mut [DeploymentSlot<E>],
    /// The module table, at most 65,534 entries.
    pub modules: &'a mut [Entry],
    /// Modules that may be on their way at once, at most [`FETCHES_MAX`].
    pub fetches: &'a mut [Fetch<E::Buffer>],
    /// Messages about tasks that await their acknowledgement, at most 65,536. A task whose results
    /// find no room keeps its slot until there is some; a refusal is lost then.
    pub outbox: &'a mut [Letter<E::Buffer>],
    /// Inputs and environment of the message at hand.
    pub packed: &'a mut [u8],
    /// Strings with escapes of the message at hand.
    pub unescaped: &'a mut [u8],
    /// What survives a reboot, if anything does.
    pub store: Option<&'a mut dyn Store>,
}

/// What a proplet does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Whether the broker is connected.
    pub connected: bool,
    /// Slots that run a guest.
    pub running: usize,
    /// Slots in all.
    pub slots: usize,
    /// Starts that wait for their module or their round's data.
    pub fetching: usize,
    /// Latent deployments that can be invoked.
    pub deployed: usize,
    /// Modules that are loaded.
    pub modules: usize,
    /// Modules parsed since boot.
    pub parses: u32,
}

/// The discovery message is sent once a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discovery {
    Due,
    Sent,
    Done,
}

/// The proplet.
#[derive(Debug)]
pub struct Agent<'a, E: Engine> {
    config: Config<'a>,
    topics: Topics,
    engine: E,
    table: Table<'a>,
    tasks: Tasks<'a, E>,
    fetches: &'a mut [Fetch<E::Buffer>],
    exchanges: Vec<Exchange<E::Buffer>, EXCHANGES_MAX>,
    /// Id of the last exchange.
    ticket: u32,
    interests: Vec<Interest<E::Buffer>, INTERESTS_MAX>,
    outbox: Outbox<'a, E::Buffer>,
    /// From how many bytes of guests' messages in the outbox on no more are taken.
    messages_max: usize,
    store: Option<&'a mut dyn Store>,
    trust: Option<Trust<'a>>,
    packed: &'a mut [u8],
    unescaped: &'a mut [u8],
    /// Unix time in milliseconds at boot, if known.
    boot: Option<u64>,
    connected: bool,
    shutting_down: bool,
    discovery: Discovery,
    /// When the next heartbeat is due, and whether a second one follows it after a second.
    heartbeat: (Instant, bool),
    metrics: Instant,
    /// Processor time and moment of the metrics before.
    cpu_before: (Duration, Instant),
    cpu_percent: f64,
}

/// Refuses what needs more than is free.
pub(crate) fn fits(need: usize, free: usize, what: &str) -> Result<(), Text> {
    if need <= free {
        return Ok(());
    }
    Err(text(format_args!(
        "out of memory: {what} need {need} bytes, {free} are free"
    )))
}

impl<'a, E: Engine> Agent<'a, E> {
    /// An agent that is not connected yet.
    ///
    /// # Errors
    /// If tenant, channel and proplet id make no topics.
    pub fn new(config: Config<'a>, storage: Storage<'a, E>, engine: E) -> Result<Self, TopicError> {
        let Storage {
            slots,
            deployments,
            modules,
            fetches,
            outbox,
            packed,
            unescaped,
            store,
        } = storage;
        check_level("proplet_id", config.proplet_id)?;
        let fetches_max = fetches.len().min(FETCHES_MAX);
        let fetches = &mut fetches[..fetches_max];
        fetches.fill_with(|| Fetch::VACANT);
        let messages_max = engine.arena().total / 4;
        Ok(Self {
            topics: Topics::new(config.tenant, config.channel)?,
            config,
            engine,
            table: Table::new(modules),
            tasks: Tasks::new(slots, deployments),
            fetches,
            exchanges: Vec::new(),
            ticket: 0,
            interests: Vec::new(),
            outbox: Outbox::new(outbox),
            messages_max,
            store,
            trust: None,
            packed,
            unescaped,
            boot: None,
            connected: false,
            shutting_down: false,
            discovery: Discovery::Due,
            heartbeat: (Instant::BOOT, false),
            metrics: Instant::BOOT,
            cpu_before: (Duration::ZERO, Instant::BOOT),
            cpu_percent: 0.0,
        })
    }

    /// Tells the wall clock, in milliseconds since 1970. Until then messages have no timestamp.
    pub fn set_wall_clock(&mut self, unix_ms: u64, now: Instant) {
        self.boot = unix_ms.checked_sub(now.as_millis());
    }

    /// Takes only modules that these have signed.
    pub fn set_trust(&mut self, trust: Trust<'a>) {
        self.trust = Some(trust);
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// The engine, to be told what only the port knows.
    pub fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// What the proplet does at the moment.
    pub fn status(&self) -> Status {
        Status {
            connected: self.connected,
            running: self.tasks.running(),
            slots: self.tasks.capacity(),
            fetching: self.tasks.waiting(),
            deployed: self.tasks.ready(),
            modules: self.table.loaded(),
            parses: self.table.parses(),
        }
    }

    /// Topic filters to subscribe to, at QoS 1, on each new session: one after the other from 0 on,
    /// `None` after the last.
    pub fn subscription(&self, index: usize) -> Option<TopicName> {
        self.topics.subscription(index)
    }

    /// Topic and payload of the last will: the alive topic, with status "offline". Returns the
    /// payload's length in `buf`.
    ///
    /// # Errors
    /// `buf` is too small.
    pub fn will(&self, buf: &mut [u8]) -> Result<(TopicName, usize), BufferTooSmall> {
        let len = report::write(&self.alive(report::Status::Offline), buf)?;
        Ok((self.topics.name(Outbound::Alive), len))
    }

    /// Whether nothing is left to do after [`Event::Shutdown`]: all runs have ended, and their
    /// results are delivered.
    pub fn is_drained(&self) -> bool {
        self.tasks.taken() == 0 && self.outbox.is_empty()
    }

    /// Takes an event. [`poll_publish`](Self::poll_publish) and
    /// [`next_deadline`](Self::next_deadline) are to be asked again afterwards.
    pub fn handle(&mut self, event: Event<'_>, now: Instant) {
        match event {
            Event::NewSession => self.forget_subscriptions(),
            Event::Connected => self.connect(now),
            Event::Disconnected => {
                self.connected = false;
                self.outbox.forget_samples();
            }
            Event::Message { topic, payload } => self.message(topic, payload, now),
            // The link has said so, with its limit; nothing of it can be answered.
            Event::Oversized { .. } | Event::Tick => {}
            Event::Published(token, delivery) => self.published(token, delivery, now),
            Event::Shutdown => self.shut_down(now),
        }
        self.listen(now);
        self.collect(now);
        self.expire(now);
    }

    /// When [`Event::Tick`] or [`poll_publish`](Self::poll_publish) is due next; after `now`.
    /// Without a connection only tasks have deadlines.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        // What is late already is acted on at the next event, or waits for room in the outbox.
        let tasks = self.tasks.next_deadline().map(|(_, at)| at);
        let deployments = self.tasks.next_late_deployment().map(|(_, at)| at);
        let fetches = self
            .fetches
            .iter()
            .map(|f| (!f.is_vacant()).then(|| f.began() + self.config.assembly_ttl));
        let sample = self.tasks.next_sample().map(|(_, at)| at);
        let presence = [
            Some(self.heartbeat.0),
            Some(self.metrics).filter(|_| !self.config.metrics_interval.is_zero()),
            self.outbox.next(now),
        ];
        let publications = presence.into_iter().chain([sample]);
        let publications = publications.filter(|_| self.connected);
        [tasks, deployments]
            .into_iter()
            .chain(fetches)
            .chain(publications)
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    fn connect(&mut self, now: Instant) {
        self.connected = true;
        self.heartbeat = (now, self.discovery != Discovery::Done);
        self.metrics = now + self.config.metrics_interval;
        self.measure(now);
        // Chunks that came while the link was down are gone with the session.
        for index in 0..self.fetches.len() {
            let waited_for = self.tasks.has_waiters(index);
            let fetch = &mut self.fetches[index];
            fetch.request_due |= fetch.is_registry() && waited_for;
        }
    }

    fn published(&mut self, token: Token, delivery: Delivery, now: Instant) {
        match token.0 {
            Subject::Create => {
                self.discovery = match delivery {
                    Delivery::Lost => Discovery::Due,
                    Delivery::Done => Discovery::Done,
                    Delivery::Refused | Delivery::TooLarge => {
                        log::error!(
                            "the broker refused the discovery message: the manager learns of this proplet by its heartbeats only"
                        );
                        Discovery::Done
                    }
                };
            }
            Subject::Request(index) => {
                let index = usize::from(index);
                let waited_for = self.tasks.has_waiters(index);
                let fetch = &mut self.fetches[index];
                fetch.request_due |= delivery == Delivery::Lost && waited_for;
            }
            Subject::Letter(index) => self.outbox.delivered(index, delivery, now),
            Subject::Alive | Subject::Metrics | Subject::Sample(_) => {}
        }
    }

    fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        for index in 0..self.tasks.capacity() {
            self.end(Slot::at(index), Ending::Shutdown, now);
        }
    }
}

#[cfg(test)]
mod tests;
