//! The proplet: events in, publications out.
//!
//! The link feeds an [`Agent`] with [`Event`]s and the present time, publishes what
//! [`Agent::poll_publish`] gives out and tells each publication's fate. The agent keeps no
//! clock, does no IO and waits for nothing; guests run behind its [`Engine`].
//!
//! Every start that is addressed to this proplet ends in exactly one results message. Results
//! stay in the outbox until the broker has acknowledged them.

mod outbox;
mod run;

pub use outbox::Letter;
pub use run::{Deployment, Run};

use crate::{
    config::Config,
    engine::{Call, Engine, Exit, Failure, Limits, ModuleId, Slot, Text, clip, text},
    module::{
        assembly::Assembly,
        table::{Entry, Table, digest, digest_base64},
    },
    task::{args, budget::Budget, monitor::Monitor},
    time::{Duration, Instant},
    wire::{
        Chunk, ID_MAX, Inbound, Invoke, NAME_MAX, Outbound, Rejected, Scratch, Start, Stop,
        TopicError, TopicName, Topics, decode_into, decoded_len,
        report::{self, BufferTooSmall},
    },
};
use outbox::{Body, Outbox, Outcome};
use run::{Ending, Packed, Phase, Purpose, vacant};

/// A task's, an invocation's or a proplet's id.
pub type Id = heapless::String<ID_MAX>;

/// Name of the export that a task calls.
pub type Name = heapless::String<NAME_MAX>;

/// Exports that are called if there is none of the task's name, in this order.
const FALLBACKS: [&str; 3] = ["main", "run", "_start"];

/// From the first heartbeat after discovery to the second: the first one may only have
/// introduced the proplet to the manager.
const SECOND_HEARTBEAT: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Debug)]
pub enum Event<'m> {
    /// The broker accepted the connection and [`Agent::subscriptions`] are in force.
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
    Letter(u8),
}

/// Fate of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has acknowledged it (QoS 1), or it was written out (QoS 0).
    Done,
    /// The session went before that; it may or may not have arrived.
    Lost,
    /// The broker refused it, or it exceeds the link's send buffer.
    Refused,
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
pub struct Storage<'a> {
    /// A record for each slot: how many guests run at once, at most 256.
    pub runs: &'a mut [Run],
    /// A record for each latent deployment, at most 256.
    pub deployments: &'a mut [Deployment],
    /// The module table, at most 256 entries.
    pub modules: &'a mut [Entry],
    /// Modules that may be on their way from the registry at once, at most 256.
    pub assemblies: &'a mut [Assembly],
    /// Results that await their acknowledgement, at most 256.
    pub outbox: &'a mut [Letter],
    /// Inputs and environments, shared evenly by all runs and deployments.
    pub text: &'a mut [u8],
    /// Inputs and environment of the message at hand; more than a share of `text` is of no use.
    pub packed: &'a mut [u8],
    /// Strings with escapes of the message at hand.
    pub unescaped: &'a mut [u8],
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
    /// Starts that wait for their module.
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
pub struct Agent<'a, E> {
    config: Config<'a>,
    topics: Topics,
    engine: E,
    table: Table<'a>,
    runs: &'a mut [Run],
    deployments: &'a mut [Deployment],
    fetches: &'a mut [Assembly],
    outbox: Outbox<'a>,
    text: &'a mut [u8],
    /// Bytes of `text` for each run and deployment.
    share: usize,
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
    /// If tenant and channel make no topics.
    pub fn new(config: Config<'a>, storage: Storage<'a>, engine: E) -> Result<Self, TopicError> {
        let Storage {
            runs,
            deployments,
            modules,
            assemblies,
            outbox,
            text,
            packed,
            unescaped,
        } = storage;
        runs.fill(Run::VACANT);
        deployments.fill(Deployment::VACANT);
        assemblies.fill(Assembly::VACANT);
        let share = text.len() / (runs.len() + deployments.len()).max(1);
        Ok(Self {
            topics: Topics::new(config.tenant, config.channel)?,
            config,
            engine,
            table: Table::new(modules),
            runs,
            deployments,
            fetches: assemblies,
            outbox: Outbox::new(outbox),
            text,
            share,
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
        let fetching = |phase: Phase| matches!(phase, Phase::Fetching { .. });
        let ready = |phase: Phase| matches!(phase, Phase::Ready { .. });
        let runs = self.runs.iter().map(|run| run.phase);
        let deployments = self.deployments.iter().map(|d| d.phase);
        Status {
            connected: self.connected,
            running: runs.clone().filter(|p| ready(*p)).count(),
            slots: self.runs.len(),
            fetching: runs
                .chain(deployments.clone())
                .filter(|p| fetching(*p))
                .count(),
            deployed: deployments.filter(|p| ready(*p)).count(),
            modules: self.table.loaded(),
            parses: self.table.parses(),
        }
    }

    /// Topic filters to subscribe to, at QoS 1, on each new session.
    pub fn subscriptions(&self) -> [TopicName; 4] {
        self.topics.subscriptions()
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
        self.runs.iter().all(|run| run.phase == Phase::Vacant) && self.outbox.is_empty()
    }

    /// Takes an event. [`poll_publish`](Self::poll_publish) and
    /// [`next_deadline`](Self::next_deadline) are to be asked again afterwards.
    pub fn handle(&mut self, event: Event<'_>, now: Instant) {
        match event {
            Event::Connected => self.connect(now),
            Event::Disconnected => {
                self.connected = false;
                self.outbox.forget_samples();
            }
            Event::Message { topic, payload } => self.message(topic, payload, now),
            Event::Oversized { topic, size } => {
                log::warn!(
                    "skipped a message of {size} bytes on {topic}: larger than the receive buffer"
                );
            }
            Event::Published(token, delivery) => self.published(token, delivery, now),
            Event::Tick => {}
            Event::Shutdown => self.shut_down(now),
        }
        self.collect(now);
        self.expire(now);
    }

    /// When [`Event::Tick`] or [`poll_publish`](Self::poll_publish) is due next; after `now`.
    /// Without a connection only tasks have deadlines.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let until = |phase: Phase| match phase {
            Phase::Fetching { until, .. } => Some(until),
            _ => None,
        };
        let runs = self
            .runs
            .iter()
            .flat_map(|run| [run.expires, until(run.phase)]);
        let deployments = self.deployments.iter().map(|d| until(d.phase));
        let fetches = self
            .fetches
            .iter()
            .map(|f| f.module().map(|_| f.began() + self.config.assembly_ttl));
        let samples = self
            .runs
            .iter()
            .map(|run| run.monitor.next().filter(|_| is_running(run)));
        let presence = [
            Some(self.heartbeat.0),
            Some(self.metrics).filter(|_| !self.config.metrics_interval.is_zero()),
            self.outbox.next(now),
        ];
        let publications = samples.chain(presence).filter(|_| self.connected);
        runs.chain(deployments)
            .chain(fetches)
            .chain(publications)
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// The next message to publish, of quality `most` or less; `None` without a connection.
    ///
    /// It is given out once, and its fate must be told by [`Event::Published`].
    pub fn poll_publish(&mut self, most: Qos, now: Instant) -> Option<Publication> {
        if !self.connected {
            return None;
        }
        let (subject, qos) = self.next_subject(most, now)?;
        Some(Publication {
            token: Token(subject),
            qos,
        })
    }

    fn next_subject(&mut self, most: Qos, now: Instant) -> Option<(Subject, Qos)> {
        let acknowledged = most >= Qos::AtLeastOnce;
        if self.discovery == Discovery::Due && acknowledged {
            self.discovery = Discovery::Sent;
            return Some((Subject::Create, Qos::AtLeastOnce));
        }
        let (due, again) = self.heartbeat;
        if due <= now && self.discovery != Discovery::Due {
            let pause = if again {
                SECOND_HEARTBEAT.min(self.config.heartbeat)
            } else {
                self.config.heartbeat
            };
            self.heartbeat = (now + pause, false);
            return Some((Subject::Alive, Qos::AtMostOnce));
        }
        if let Some((index, qos)) = self.outbox.take(most, now) {
            return Some((Subject::Letter(index), qos));
        }
        if acknowledged && let Some(index) = self.next_request() {
            return Some((Subject::Request(index), Qos::AtLeastOnce));
        }
        if self.metrics <= now && !self.config.metrics_interval.is_zero() {
            self.metrics = now + self.config.metrics_interval;
            self.measure(now);
            return Some((Subject::Metrics, Qos::AtMostOnce));
        }
        let slot = self.next_sample(now)?;
        Some((Subject::Sample(slot), Qos::AtMostOnce))
    }

    fn next_request(&mut self) -> Option<u8> {
        let index = (0..=u8::MAX)
            .zip(self.fetches.iter())
            .find_map(|(index, f)| (f.request_due).then_some(index))?;
        self.fetches[usize::from(index)].request_due = false;
        Some(index)
    }

    fn next_sample(&mut self, now: Instant) -> Option<Slot> {
        let slot = self.slots().find(|slot| {
            let run = self.run(*slot);
            is_running(run) && run.monitor.next().is_some_and(|at| at <= now)
        })?;
        let (usage, arena) = (self.engine.usage(slot), self.engine.arena().total);
        self.runs[usize::from(slot.0)]
            .monitor
            .sample(&usage, arena, now);
        Some(slot)
    }

    /// Topic of a publication.
    pub fn topic(&self, token: Token) -> TopicName {
        self.topics.name(match token.0 {
            Subject::Create => Outbound::Create,
            Subject::Alive => Outbound::Alive,
            Subject::Metrics => Outbound::Metrics,
            Subject::Sample(_) => Outbound::TaskMetrics,
            Subject::Request(_) => Outbound::ModuleRequest,
            Subject::Letter(index) => match self.outbox.get(index).body {
                Body::Sample(_) => Outbound::TaskMetrics,
                Body::Results(_) => Outbound::Results,
                Body::InvokeResults { .. } => Outbound::InvokeResults,
            },
        })
    }

    /// Serialises a publication's payload, JSON, into `buf` and returns its length.
    ///
    /// # Errors
    /// `buf` is too small.
    pub fn write(
        &self,
        token: Token,
        buf: &mut [u8],
        now: Instant,
    ) -> Result<usize, BufferTooSmall> {
        let proplet_id = self.config.proplet_id;
        match token.0 {
            Subject::Create => {
                let discovery = report::Discovery {
                    proplet_id,
                    namespace: self.config.namespace,
                    metadata: self.config.metadata,
                };
                report::write(&discovery, buf)
            }
            Subject::Alive => report::write(&self.alive(report::Status::Alive), buf),
            Subject::Metrics => report::write(&self.metrics(now), buf),
            Subject::Sample(slot) => {
                let run = self.run(slot);
                report::write(&self.sample(&run.id, &run.monitor), buf)
            }
            Subject::Request(index) => {
                let app_name = self.fetches[usize::from(index)].app();
                report::write(&report::ModuleRequest { app_name }, buf)
            }
            Subject::Letter(index) => self.write_letter(self.outbox.get(index), buf),
        }
    }

    fn write_letter(&self, letter: &Letter, buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let (task_id, proplet_id) = (&*letter.task, self.config.proplet_id);
        match &letter.body {
            Body::Sample(monitor) => report::write(&self.sample(task_id, monitor), buf),
            Body::Results(outcome) => {
                let (results, error) = parts(outcome);
                let results = report::Results {
                    task_id,
                    proplet_id,
                    results,
                    error,
                };
                report::write(&results, buf)
            }
            Body::InvokeResults {
                invocation: invocation_id,
                outcome,
            } => {
                let (results, error) = parts(outcome);
                let results = report::InvokeResults {
                    task_id,
                    invocation_id,
                    proplet_id,
                    results,
                    error,
                };
                report::write(&results, buf)
            }
        }
    }

    fn alive(&self, status: report::Status) -> report::Alive<'_> {
        report::Alive {
            proplet_id: self.config.proplet_id,
            status,
            namespace: self.config.namespace,
        }
    }

    /// `at` on the wall clock, if that is known.
    fn timestamp(&self, at: Instant) -> Option<report::Timestamp> {
        report::Timestamp::from_unix_millis(self.boot?.checked_add(at.as_millis())?)
    }

    fn metrics(&self, now: Instant) -> report::Metrics<'_> {
        let (process, arena) = (self.engine.process(), self.engine.arena());
        let in_use = (arena.total - arena.free) as u64;
        report::Metrics {
            proplet_id: self.config.proplet_id,
            namespace: self.config.namespace,
            timestamp: self.timestamp(now),
            cpu_metrics: report::CpuMetrics {
                user_seconds: process.user.as_secs_f64(),
                system_seconds: process.system.as_secs_f64(),
                percent: self.cpu_percent,
            },
            memory_metrics: report::MemoryMetrics {
                rss_bytes: process.rss,
                heap_alloc_bytes: in_use,
                heap_sys_bytes: arena.total as u64,
                heap_inuse_bytes: in_use,
                container_usage_bytes: None,
                container_limit_bytes: None,
            },
        }
    }

    /// Takes the processor's share since the metrics before.
    fn measure(&mut self, now: Instant) {
        let process = self.engine.process();
        let (cpu, (before, at)) = (process.user + process.system, self.cpu_before);
        let wall = now.since(at).as_secs_f64();
        let busy = cpu.saturating_sub(before).as_secs_f64();
        self.cpu_percent = if wall > 0.0 { 100.0 * busy / wall } else { 0.0 };
        self.cpu_before = (cpu, now);
    }

    fn sample<'s>(&'s self, task_id: &'s str, monitor: &Monitor) -> report::TaskMetrics<'s> {
        let (sample, profile) = (monitor.latest(), &monitor.profile);
        let (cpu, memory) = (profile.collect_cpu, profile.collect_memory);
        let aggregate = &sample.aggregate;
        report::TaskMetrics {
            task_id,
            proplet_id: self.config.proplet_id,
            timestamp: self.timestamp(sample.at),
            metrics: report::Sample {
                cpu_percent: cpu.then_some(sample.cpu_percent),
                memory_bytes: memory.then_some(sample.memory_bytes),
                memory_percent: memory.then_some(sample.memory_percent),
                uptime_seconds: Some(sample.uptime.as_secs()),
                thread_count: profile.collect_threads.then_some(1),
                work: Some(sample.work),
                ..report::Sample::default()
            },
            aggregated: profile.retain_history.then(|| report::Aggregate {
                avg_cpu_usage: cpu.then(|| aggregate.cpu_mean()),
                max_cpu_usage: cpu.then_some(aggregate.cpu_max),
                avg_memory_usage: memory.then(|| aggregate.memory_mean() as u64),
                max_memory_usage: memory.then_some(aggregate.memory_max),
                sample_count: aggregate.count,
                ..report::Aggregate::default()
            }),
        }
    }

    // ---- the link ----

    fn connect(&mut self, now: Instant) {
        self.connected = true;
        self.heartbeat = (now, self.discovery != Discovery::Done);
        self.metrics = now + self.config.metrics_interval;
        self.measure(now);
        // Chunks that came while the link was down are gone with the session.
        for index in 0..self.fetches.len() {
            let waited_for = self.has_waiters(index as u8);
            let fetch = &mut self.fetches[index];
            fetch.request_due |= fetch.module().is_some() && waited_for;
        }
    }

    fn published(&mut self, token: Token, delivery: Delivery, now: Instant) {
        match token.0 {
            Subject::Create => {
                self.discovery = match delivery {
                    Delivery::Lost => Discovery::Due,
                    Delivery::Done => Discovery::Done,
                    Delivery::Refused => {
                        log::error!(
                            "the broker refused the discovery message: the manager learns of this proplet by its heartbeats only"
                        );
                        Discovery::Done
                    }
                };
            }
            Subject::Request(index) => {
                let waited_for = self.has_waiters(index);
                let fetch = &mut self.fetches[usize::from(index)];
                fetch.request_due |= delivery == Delivery::Lost && waited_for;
            }
            Subject::Letter(index) => self.outbox.delivered(index, delivery, now),
            Subject::Alive | Subject::Metrics | Subject::Sample(_) => {}
        }
    }

    fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        for slot in self.slots() {
            self.end(slot, Ending::Shutdown, now);
        }
    }

    // ---- commands ----

    fn message(&mut self, topic: &str, payload: &[u8], now: Instant) {
        let Some(kind) = self.topics.classify(topic) else {
            log::debug!("ignored a message on {topic}");
            return;
        };
        // The command borrows the buffers while the agent acts on it.
        let (packed, unescaped) = (
            core::mem::take(&mut self.packed),
            core::mem::take(&mut self.unescaped),
        );
        let scratch = Scratch {
            packed: &mut *packed,
            unescaped: &mut *unescaped,
        };
        match kind {
            Inbound::Start => match Start::parse(payload, scratch) {
                Ok(start) => self.start(&start, now),
                Err(rejected) => self.rejected_start(&rejected, now),
            },
            Inbound::Stop => match Stop::parse(payload, scratch) {
                Ok(stop) => self.stop(&stop, now),
                Err(rejected) => log::warn!("stop refused: {}", rejected.error),
            },
            Inbound::Invoke => match Invoke::parse(payload, scratch) {
                Ok(invoke) => self.invoke(&invoke, now),
                Err(rejected) => self.rejected_invoke(&rejected, now),
            },
            Inbound::Chunk => self.chunk_message(payload, scratch, now),
        }
        (self.packed, self.unescaped) = (packed, unescaped);
    }

    fn rejected_start(&mut self, rejected: &Rejected<'_>, now: Instant) {
        match rejected.id {
            Some(id) if rejected.is_for(self.config.proplet_id) => {
                self.refuse(id, text(format_args!("{}", rejected.error)), now);
            }
            _ => log::warn!("start refused: {}", rejected.error),
        }
    }

    fn rejected_invoke(&mut self, rejected: &Rejected<'_>, now: Instant) {
        match (rejected.id, rejected.invocation_id) {
            (Some(id), Some(invocation)) if rejected.is_for(self.config.proplet_id) => {
                self.refuse_invocation(
                    id,
                    invocation,
                    text(format_args!("{}", rejected.error)),
                    now,
                );
            }
            _ => log::warn!("invoke refused: {}", rejected.error),
        }
    }

    fn start(&mut self, start: &Start<'_>, now: Instant) {
        if !start.is_for(self.config.proplet_id) {
            log::debug!("start of {} is for another proplet", start.id);
            return;
        }
        if self.is_known(start.id) {
            log::info!("start of {} ignored: it has been started already", start.id);
            return;
        }
        let accepted = if start.latent {
            self.deploy(start, now)
        } else {
            self.start_run(start, now)
        };
        if let Err(reason) = accepted {
            self.refuse(start.id, reason, now);
        }
    }

    /// Whether a start of this id has been taken and its results, if any, are not delivered yet.
    fn is_known(&self, id: &str) -> bool {
        self.find_task(id).is_some()
            || self.find_deployment(id).is_some()
            || self.outbox.holds_results(id)
    }

    fn find_task(&self, id: &str) -> Option<Slot> {
        self.slots().find(|slot| {
            let run = self.run(*slot);
            run.phase != Phase::Vacant
                && run.id == id
                && !matches!(run.purpose, Purpose::Invocation(_))
        })
    }

    fn find_deployment(&self, id: &str) -> Option<u8> {
        (0..=u8::MAX)
            .zip(self.deployments.iter())
            .find_map(|(index, d)| (d.phase != Phase::Vacant && d.id == id).then_some(index))
    }

    fn start_run(&mut self, start: &Start<'_>, now: Instant) -> Result<(), Text> {
        self.accepts(start.encrypted)?;
        let slot = self.vacant_slot()?;
        let budget = Budget::from_env(|key| start.env.get(key), &self.config.limits)?;
        let packed = Packed::store(self.run_text(slot), start.inputs, &[start.env])?;
        self.runs[usize::from(slot.0)] = Run {
            purpose: if start.daemon {
                Purpose::Daemon
            } else {
                Purpose::Task
            },
            id: bounded(start.id)?,
            name: bounded(start.name)?,
            packed,
            budget,
            received: now,
            monitor: Monitor::new(start.monitoring_profile, now),
            ..Run::VACANT
        };
        match self.source(start, &budget, now)? {
            Phase::Ready { module } => self.launch(slot, module, now),
            phase => {
                self.runs[usize::from(slot.0)].phase = phase;
                Ok(())
            }
        }
    }

    fn deploy(&mut self, start: &Start<'_>, now: Instant) -> Result<(), Text> {
        self.accepts(start.encrypted)?;
        let index = vacant(self.deployments.iter().map(|d| d.phase)).ok_or_else(|| {
            text(format_args!(
                "no room for a deployment: all {} are taken",
                self.deployments.len()
            ))
        })?;
        let budget = Budget::from_env(|key| start.env.get(key), &self.config.limits)?;
        let packed = Packed::store(self.deployment_text(index), start.inputs, &[start.env])?;
        self.deployments[usize::from(index)] = Deployment {
            phase: Phase::Vacant,
            id: bounded(start.id)?,
            name: bounded(start.name)?,
            packed,
            received: now,
            profile: start.monitoring_profile,
        };
        match self.source(start, &budget, now)? {
            Phase::Ready { module } => self.deployed(index, module),
            phase => {
                self.deployments[usize::from(index)].phase = phase;
                Ok(())
            }
        }
    }

    fn accepts(&self, encrypted: bool) -> Result<(), Text> {
        if self.shutting_down {
            return Err(Ending::Shutdown.reason());
        }
        if encrypted {
            return Err(text(format_args!("TEE runtime not available")));
        }
        Ok(())
    }

    fn vacant_slot(&self) -> Result<Slot, Text> {
        vacant(self.runs.iter().map(|run| run.phase))
            .map(Slot)
            .ok_or_else(|| {
                text(format_args!(
                    "no free slot: all {} are taken",
                    self.runs.len()
                ))
            })
    }

    fn stop(&mut self, stop: &Stop<'_>, now: Instant) {
        if !stop.is_for(self.config.proplet_id) {
            return;
        }
        if let Some(index) = self.find_deployment(stop.id) {
            self.undeploy(index, now);
        } else if let Some(slot) = self.find_task(stop.id) {
            self.end(slot, Ending::Stopped, now);
        } else {
            log::info!("stop of {} ignored: no such task", stop.id);
        }
    }

    fn undeploy(&mut self, index: u8, now: Instant) {
        let deployment = core::mem::replace(
            &mut self.deployments[usize::from(index)],
            Deployment::VACANT,
        );
        log::info!("latent task {} stopped", deployment.id);
        for slot in self.slots() {
            let run = self.run(slot);
            if matches!(run.purpose, Purpose::Invocation(_)) && run.id == deployment.id {
                self.end(slot, Ending::Stopped, now);
            }
        }
        if let Phase::Ready { module } = deployment.phase {
            self.release(module);
        }
        let due = (deployment.received + self.config.result_delay).max(now);
        self.post(
            &deployment.id,
            Body::Results(Err(Ending::Stopped.reason())),
            due,
        );
    }

    /// Ends a run from outside. Its exit follows, or comes at once if it has not begun.
    fn end(&mut self, slot: Slot, ending: Ending, now: Instant) {
        let run = &mut self.runs[usize::from(slot.0)];
        match run.phase {
            Phase::Vacant => {}
            Phase::Fetching { .. } => self.fail(slot, ending.reason(), now),
            Phase::Ready { .. } => {
                // The first reason is the one that is told.
                if run.ending.is_none() && run.exit.is_none() {
                    run.ending = Some(ending);
                    run.expires = None;
                    self.engine.interrupt(slot);
                }
            }
        }
    }

    fn invoke(&mut self, invoke: &Invoke<'_>, now: Instant) {
        if !invoke.is_for(self.config.proplet_id) {
            return;
        }
        let invocation = invoke.invocation_id.unwrap_or_default();
        if self.is_invoked(invocation) {
            log::info!("invocation {invocation} ignored: it has been started already");
            return;
        }
        if let Err(reason) = self.start_invocation(invoke, invocation, now) {
            self.refuse_invocation(invoke.id, invocation, reason, now);
        }
    }

    fn is_invoked(&self, invocation: &str) -> bool {
        !invocation.is_empty()
            && (self.outbox.holds_invocation(invocation)
                || self.runs.iter().any(|run| {
                    run.phase != Phase::Vacant
                        && matches!(&run.purpose, Purpose::Invocation(id) if id == invocation)
                }))
    }

    fn start_invocation(
        &mut self,
        invoke: &Invoke<'_>,
        invocation: &str,
        now: Instant,
    ) -> Result<(), Text> {
        self.accepts(false)?;
        // The manager looks for these words to deploy the task again.
        let index = self.find_deployment(invoke.id).ok_or_else(|| {
            text(format_args!(
                "task {} has not been precompiled; deploy it as a latent task first",
                invoke.id
            ))
        })?;
        let Phase::Ready { module } = self.deployments[usize::from(index)].phase else {
            return Err(text(format_args!(
                "task {} still waits for its module",
                invoke.id
            )));
        };
        let slot = self.vacant_slot()?;
        // Records of deployments have their text behind that of the runs.
        let (run_text, deployment_text) = {
            let (runs, deployments) = self.text.split_at_mut(self.runs.len() * self.share);
            (
                &mut runs[usize::from(slot.0) * self.share..][..self.share],
                &deployments[usize::from(index) * self.share..][..self.share],
            )
        };
        let deployment = &self.deployments[usize::from(index)];
        let inputs = if invoke.inputs.is_empty() {
            deployment.packed.inputs(deployment_text)
        } else {
            invoke.inputs
        };
        let env = deployment.packed.env(deployment_text);
        let packed = Packed::store(run_text, inputs, &[env, invoke.env])?;
        let merged = packed.env(run_text);
        let budget = Budget::from_env(|key| merged.get(key), &self.config.limits)?;
        self.runs[usize::from(slot.0)] = Run {
            purpose: Purpose::Invocation(bounded(invocation)?),
            id: deployment.id.clone(),
            name: deployment.name.clone(),
            packed,
            budget,
            received: now,
            monitor: Monitor::new(deployment.profile, now),
            ..Run::VACANT
        };
        self.launch(slot, module, now)
    }

    // ---- modules ----

    /// Finds a start's module, or begins to fetch it.
    fn source(&mut self, start: &Start<'_>, budget: &Budget, now: Instant) -> Result<Phase, Text> {
        if let Some(file) = start.file {
            let budget = (!start.latent).then_some(budget);
            let module = self.inline_module(file, budget)?;
            return Ok(Phase::Ready { module });
        }
        let image = start.image_url.unwrap_or_default();
        if image.starts_with("http://") || image.starts_with("https://") {
            return Err(text(format_args!(
                "image_url {}: this proplet fetches from the registry only, not over HTTP",
                clip(image, 64)
            )));
        }
        Ok(Phase::Fetching {
            assembly: self.fetch(image, now)?,
            until: now + self.config.fetch_timeout,
        })
    }

    /// The module whose bytes are `file` in base64: a known one, or this one, newly parsed.
    fn inline_module(&mut self, file: &str, budget: Option<&Budget>) -> Result<ModuleId, Text> {
        let bad = |e| text(format_args!("field \"file\": {e}"));
        let digest = digest_base64(file).map_err(bad)?;
        if let Some(known) = self.table.find(&digest) {
            return Ok(known);
        }
        let len = decoded_len(file).map_err(bad)?;
        self.make_room(len, "the module's bytes")?;
        let module = self.reserve()?;
        let copied = self
            .engine
            .reserve(module, len)
            .and_then(|()| decode_into(file, &mut self.engine.buffer(module)[..len]).map_err(bad));
        if let Err(reason) = copied {
            self.abandon(module);
            return Err(reason);
        }
        self.load(module, len, budget)
    }

    fn reserve(&mut self) -> Result<ModuleId, Text> {
        if let Some(module) = self.table.reserve() {
            return Ok(module);
        }
        self.evict_idle_fetch();
        self.table.reserve().ok_or_else(|| {
            text(format_args!(
                "the module table is full: all {} entries are in use",
                self.table.capacity()
            ))
        })
    }

    fn abandon(&mut self, module: ModuleId) {
        self.engine.unload(module);
        self.table.cancel(module);
    }

    /// Makes a module of the bytes in a reserved buffer, or finds that it is loaded already.
    /// `budget` is that of a run that follows at once.
    fn load(
        &mut self,
        module: ModuleId,
        len: usize,
        budget: Option<&Budget>,
    ) -> Result<ModuleId, Text> {
        let digest = digest(&self.engine.buffer(module)[..len]);
        if let Some(known) = self.table.find(&digest) {
            self.abandon(module);
            return Ok(known);
        }
        if let Err(reason) = self.parse(module, len, budget) {
            self.abandon(module);
            return Err(reason);
        }
        self.table.loaded_as(module, digest);
        Ok(module)
    }

    fn parse(&mut self, module: ModuleId, len: usize, budget: Option<&Budget>) -> Result<(), Text> {
        let limits = budget.map_or(self.device_limits(), |budget| budget.limits);
        let needs = self.engine.estimate(module, len, &limits)?;
        if budget.is_some() {
            let bytes = needs.load.saturating_add(needs.instance);
            self.make_room(bytes, "parsing the module and one instance")?;
        } else {
            self.make_room(needs.load, "parsing the module")?;
        }
        self.engine.load(module, len)
    }

    fn device_limits(&self) -> Limits {
        let device = &self.config.limits;
        Limits {
            stack: device.stack,
            memory_cap: None,
            memory_max: device.memory,
            work: device.work,
        }
    }

    /// Refuses what does not fit the arena, even without the modules that nobody waits for.
    fn make_room(&mut self, need: usize, what: &str) -> Result<(), Text> {
        while need > self.engine.arena().free && self.evict_idle_fetch() {}
        fits(need, self.engine.arena().free, what)
    }

    fn release(&mut self, module: ModuleId) {
        if self.table.release(module) {
            self.engine.unload(module);
        }
    }

    /// Waits for `image` together with whoever does already, or asks the registry for it.
    fn fetch(&mut self, image: &str, now: Instant) -> Result<u8, Text> {
        let known = self
            .fetches
            .iter()
            .position(|f| f.module().is_some() && f.app() == image);
        if let Some(index) = known {
            let index = index as u8;
            // Idle ones are asked for again: what is missing may never have been sent.
            self.fetches[usize::from(index)].request_due |= !self.has_waiters(index);
            return Ok(index);
        }
        if self.fetches.iter().all(|f| f.module().is_some()) {
            self.evict_idle_fetch();
        }
        let index = self
            .fetches
            .iter()
            .position(|f| f.module().is_none())
            .ok_or_else(|| {
                text(format_args!(
                    "too many modules on their way: all {} assemblies are taken",
                    self.fetches.len()
                ))
            })?;
        let module = self.reserve()?;
        match Assembly::begin(image, module, now) {
            Ok(assembly) => {
                self.fetches[index] = assembly;
                Ok(index as u8)
            }
            Err(reason) => {
                self.table.cancel(module);
                Err(reason)
            }
        }
    }

    fn has_waiters(&self, index: u8) -> bool {
        let waits =
            |phase: Phase| matches!(phase, Phase::Fetching { assembly, .. } if assembly == index);
        self.runs.iter().any(|run| waits(run.phase))
            || self.deployments.iter().any(|d| waits(d.phase))
    }

    /// Frees the assembly that nobody waits for and that began first; false if there is none.
    fn evict_idle_fetch(&mut self) -> bool {
        let idle = (0..self.fetches.len())
            .filter(|&i| self.fetches[i].module().is_some() && !self.has_waiters(i as u8))
            .min_by_key(|&i| self.fetches[i].began());
        if let Some(index) = idle {
            self.drop_fetch(index);
        }
        idle.is_some()
    }

    fn drop_fetch(&mut self, index: usize) {
        let fetch = core::mem::replace(&mut self.fetches[index], Assembly::VACANT);
        if let Some(module) = fetch.module() {
            self.abandon(module);
        }
    }

    fn chunk_message(&mut self, payload: &[u8], scratch: Scratch<'_>, now: Instant) {
        // Most chunks of a channel are for others: don't read their data.
        if let Some(app) = Chunk::app_name_of(payload)
            && self.fetch_of(app).is_none()
        {
            log::trace!("skipped a chunk of {app}");
            return;
        }
        match Chunk::parse(payload, scratch) {
            Ok(chunk) => {
                if let Some(index) = self.fetch_of(chunk.app_name) {
                    self.chunk(index, &chunk, now);
                }
            }
            Err(rejected) => match rejected.id.and_then(|app| self.fetch_of(app)) {
                Some(index) => {
                    self.fetch_failed(index, text(format_args!("{}", rejected.error)), now)
                }
                None => log::warn!("chunk refused: {}", rejected.error),
            },
        }
    }

    fn fetch_of(&self, app: &str) -> Option<usize> {
        self.fetches
            .iter()
            .position(|f| f.module().is_some() && f.app() == app)
    }

    fn chunk(&mut self, index: usize, chunk: &Chunk<'_>, now: Instant) {
        match self.fetches[index].accept(chunk, &mut self.engine) {
            Ok(None) => {}
            Ok(Some(len)) => self.fetched(index, len, now),
            Err(reason) => self.fetch_failed(index, reason, now),
        }
    }

    /// Serves everybody who waits for an assembly that is complete.
    fn fetched(&mut self, index: usize, len: usize, now: Instant) {
        let fetch = core::mem::replace(&mut self.fetches[index], Assembly::VACANT);
        let Some(module) = fetch.module() else { return };
        let waits = |phase: Phase| matches!(phase, Phase::Fetching { assembly, .. } if usize::from(assembly) == index);
        let mut runs = self.runs.iter().filter(|run| waits(run.phase));
        let budget = runs.next().map(|run| run.budget);
        match self.load(module, len, budget.as_ref()) {
            Ok(module) => {
                // Holds the module while some of those who wait for it may fail.
                self.table.acquire(module);
                self.serve(index, module, now);
                self.release(module);
            }
            Err(reason) => self.fail_waiters(index, fetch.app(), &reason, now),
        }
    }

    fn serve(&mut self, index: usize, module: ModuleId, now: Instant) {
        let waits = |phase: Phase| matches!(phase, Phase::Fetching { assembly, .. } if usize::from(assembly) == index);
        for slot in self.slots() {
            if waits(self.run(slot).phase)
                && let Err(reason) = self.launch(slot, module, now)
            {
                self.fail(slot, reason, now);
            }
        }
        for d in 0..self.deployments.len() {
            if waits(self.deployments[d].phase)
                && let Err(reason) = self.deployed(d as u8, module)
            {
                self.fail_deployment(d, reason, now);
            }
        }
    }

    fn fetch_failed(&mut self, index: usize, reason: Text, now: Instant) {
        let app: heapless::String<64> =
            bounded(clip(self.fetches[index].app(), 64)).unwrap_or_default();
        self.drop_fetch(index);
        self.fail_waiters(index, &app, &reason, now);
    }

    fn fail_waiters(&mut self, index: usize, app: &str, reason: &Text, now: Instant) {
        let waits = |phase: Phase| matches!(phase, Phase::Fetching { assembly, .. } if usize::from(assembly) == index);
        let reason = text(format_args!("module {}: {reason}", clip(app, 64)));
        for slot in self.slots() {
            if waits(self.run(slot).phase) {
                self.fail(slot, reason.clone(), now);
            }
        }
        for d in 0..self.deployments.len() {
            if waits(self.deployments[d].phase) {
                self.fail_deployment(d, reason.clone(), now);
            }
        }
    }

    // ---- runs ----

    fn slots(&self) -> impl Iterator<Item = Slot> + use<E> {
        let len = self.runs.len().min(usize::from(u8::MAX) + 1);
        (0..len).map(|index| Slot(index as u8))
    }

    fn run(&self, slot: Slot) -> &Run {
        &self.runs[usize::from(slot.0)]
    }

    fn run_text(&mut self, slot: Slot) -> &mut [u8] {
        &mut self.text[usize::from(slot.0) * self.share..][..self.share]
    }

    fn deployment_text(&mut self, index: u8) -> &mut [u8] {
        let at = self.runs.len() + usize::from(index);
        &mut self.text[at * self.share..][..self.share]
    }

    /// Calls a run's function in a fresh instance of its module.
    fn launch(&mut self, slot: Slot, module: ModuleId, now: Instant) -> Result<(), Text> {
        self.table.acquire(module);
        if let Err(reason) = self.spawn(slot, module) {
            self.release(module);
            return Err(reason);
        }
        let run = &mut self.runs[usize::from(slot.0)];
        log::info!("task {} runs in slot {}", run.id, slot.0);
        run.phase = Phase::Ready { module };
        run.expires = run.budget.deadline.map(|limit| now + limit);
        run.monitor = Monitor::new(run.monitor.profile, now);
        if run.purpose == Purpose::Daemon {
            let (id, due) = (run.id.clone(), run.received + self.config.result_delay);
            self.post(&id, Body::Results(Ok(Text::new())), due.max(now));
        }
        Ok(())
    }

    fn spawn(&mut self, slot: Slot, module: ModuleId) -> Result<(), Text> {
        let at = usize::from(slot.0);
        let run = &self.runs[at];
        let (export, params) = entry(&self.engine, module, &run.name)?;
        let inputs = run.packed.inputs(&self.text[at * self.share..]);
        let args = args::parse(&params, inputs.iter())
            .map_err(|e| text(format_args!("function '{export}': {e}")))?;
        let need = self.engine.instance_bytes(module, &run.budget.limits)?;
        // Not make_room: inputs and arguments are borrowed from the run.
        fits(need, self.engine.arena().free, "one more instance")?;
        self.engine.spawn(
            slot,
            &Call {
                module,
                export,
                args: &args,
                limits: run.budget.limits,
            },
        );
        Ok(())
    }

    fn deployed(&mut self, index: u8, module: ModuleId) -> Result<(), Text> {
        self.table.acquire(module);
        let deployment = &mut self.deployments[usize::from(index)];
        if let Err(reason) = entry(&self.engine, module, &deployment.name) {
            self.release(module);
            return Err(reason);
        }
        deployment.phase = Phase::Ready { module };
        log::info!("latent task {} is ready to be invoked", deployment.id);
        Ok(())
    }

    fn collect(&mut self, now: Instant) {
        while let Some(exit) = self.engine.poll_exit() {
            let slot = exit.slot;
            self.runs[usize::from(slot.0)].exit = Some(exit);
        }
        for slot in self.slots() {
            if self.run(slot).exit.is_some() {
                self.finish(slot, now);
            }
        }
    }

    /// Reports a run that has ended and frees its slot; later, if the outbox is full.
    fn finish(&mut self, slot: Slot, now: Instant) {
        let run = self.run(slot);
        let Phase::Ready { module } = run.phase else {
            debug_assert!(false, "slot {} exited without having run", slot.0);
            return;
        };
        if run.purpose != Purpose::Daemon && self.outbox.room() == 0 {
            return;
        }
        let run = &mut self.runs[usize::from(slot.0)];
        let Some(Exit { result, usage, .. }) = run.exit.take() else {
            return;
        };
        let outcome = match result {
            Ok(value) => Ok(args::format(value)),
            Err(Failure::Trap(reason)) => Err(reason),
            Err(Failure::Interrupted) => Err(run.ending.unwrap_or(Ending::Stopped).reason()),
        };
        run.monitor.sample(&usage, self.engine.arena().total, now);
        let run = core::mem::replace(run, Run::VACANT);
        self.release(module);
        self.report(&run, outcome, now);
    }

    /// Ends a run that has not begun.
    fn fail(&mut self, slot: Slot, reason: Text, now: Instant) {
        let run = core::mem::replace(&mut self.runs[usize::from(slot.0)], Run::VACANT);
        let purpose = match run.purpose {
            // Its success has not been told yet.
            Purpose::Daemon => Purpose::Task,
            other => other,
        };
        self.report(
            &Run {
                purpose,
                monitor: Monitor::OFF,
                ..run
            },
            Err(reason),
            now,
        );
    }

    fn fail_deployment(&mut self, index: usize, reason: Text, now: Instant) {
        let deployment = core::mem::replace(&mut self.deployments[index], Deployment::VACANT);
        let due = (deployment.received + self.config.result_delay).max(now);
        log::warn!("latent task {} failed: {reason}", deployment.id);
        self.post(&deployment.id, Body::Results(Err(reason)), due);
    }

    fn report(&mut self, run: &Run, outcome: Outcome, now: Instant) {
        match &outcome {
            Ok(result) => log::info!("task {} completed: '{result}'", run.id),
            Err(reason) => log::warn!("task {} failed: {reason}", run.id),
        }
        let body = match &run.purpose {
            Purpose::Task => Some(Body::Results(outcome)),
            Purpose::Daemon => None,
            Purpose::Invocation(id) => Some(Body::InvokeResults {
                invocation: id.clone(),
                outcome,
            }),
        };
        let due = match body {
            Some(Body::Results(_)) => (run.received + self.config.result_delay).max(now),
            _ => now,
        };
        // A sample is worth sending, but not worth a place that results need.
        if run.monitor.exports() && self.connected && self.outbox.room() > 1 {
            self.post(&run.id, Body::Sample(run.monitor), now);
        }
        if let Some(body) = body {
            self.post(&run.id, body, due);
        }
    }

    fn refuse(&mut self, id: &str, reason: Text, now: Instant) {
        if self.is_known(id) {
            log::info!("start of {id} ignored: it has been started already");
            return;
        }
        log::warn!("start of {id} refused: {reason}");
        match Id::try_from(id) {
            Ok(id) => self.post(
                &id,
                Body::Results(Err(reason)),
                now + self.config.result_delay,
            ),
            Err(_) => debug_assert!(false, "ids are bounded when they are read"),
        }
    }

    fn refuse_invocation(&mut self, id: &str, invocation: &str, reason: Text, now: Instant) {
        log::warn!("invocation {invocation} of {id} refused: {reason}");
        let (Ok(id), Ok(invocation)) = (Id::try_from(id), Id::try_from(invocation)) else {
            debug_assert!(false, "ids are bounded when they are read");
            return;
        };
        let outcome = Err(reason);
        self.post(
            &id,
            Body::InvokeResults {
                invocation,
                outcome,
            },
            now,
        );
    }

    fn post(&mut self, id: &Id, body: Body, due: Instant) {
        if !self.outbox.post(id, body, due) {
            log::error!("the outbox is full: a message about task {id} is lost");
        }
    }

    /// Acts on deadlines that have passed.
    fn expire(&mut self, now: Instant) {
        for slot in self.slots() {
            let run = self.run(slot);
            if run.expires.is_some_and(|at| at <= now)
                && let Some(limit) = run.budget.deadline
            {
                self.end(slot, Ending::Deadline(limit), now);
            }
            if let Phase::Fetching { assembly, until } = self.run(slot).phase
                && until <= now
            {
                self.fail(slot, self.late(assembly), now);
            }
        }
        for d in 0..self.deployments.len() {
            if let Phase::Fetching { assembly, until } = self.deployments[d].phase
                && until <= now
            {
                self.fail_deployment(d, self.late(assembly), now);
            }
        }
        for index in 0..self.fetches.len() {
            let fetch = &self.fetches[index];
            if fetch.module().is_some()
                && fetch.began() + self.config.assembly_ttl <= now
                && !self.has_waiters(index as u8)
            {
                log::warn!("incomplete module {} dropped", fetch.app());
                self.drop_fetch(index);
            }
        }
    }

    fn late(&self, assembly: u8) -> Text {
        let fetch = &self.fetches[usize::from(assembly)];
        let (count, total) = fetch.progress();
        let seconds = self.config.fetch_timeout.as_secs();
        let app = clip(fetch.app(), 64);
        text(format_args!(
            "timeout waiting for binary chunks: module {app} has {count} of {total} after {seconds} s"
        ))
    }
}

fn is_running(run: &Run) -> bool {
    matches!(run.phase, Phase::Ready { .. }) && run.usage_at_exit().is_none()
}

/// The export that a task of this name calls.
fn entry<'n, E: Engine>(
    engine: &E,
    module: ModuleId,
    name: &'n str,
) -> Result<(&'n str, crate::engine::Params), Text> {
    for export in core::iter::once(name).chain(FALLBACKS) {
        if let Some(params) = engine.params(module, export)? {
            return Ok((export, params));
        }
    }
    Err(text(format_args!(
        "function '{name}' not found, and fallbacks main, run and _start neither"
    )))
}

/// A string of the wire in the core's storage; the wire has the same bounds.
fn bounded<const N: usize>(s: &str) -> Result<heapless::String<N>, Text> {
    heapless::String::try_from(s)
        .map_err(|_| text(format_args!("'{}…' is longer than {N} bytes", clip(s, 16))))
}

fn parts(outcome: &Outcome) -> (&str, Option<&str>) {
    match outcome {
        Ok(results) => (results, None),
        Err(error) => ("", Some(error)),
    }
}

#[cfg(test)]
mod tests;
