//! The proplet: events in, publications out.
//!
//! A link feeds an [`Agent`] with [`Event`]s and the present time, publishes the messages that
//! [`Agent::poll_publish`] gives out and reports each one's fate. The agent keeps no clock, does no IO
//! and waits for nothing; guests run behind its [`Engine`].
//!
//! Every start that is addressed to this proplet ends in exactly one results message. Results
//! stay in the outbox until the broker has acknowledged them.

mod event;
mod fetch;
mod gathering;
mod inbox;
mod modules;
mod notes;
mod noting;
mod outbox;
mod persist;
mod presence;
mod probing;
mod publish;
mod reason;
mod rounds;
mod session;
mod subscriptions;
mod supervisor;
mod takes;
mod tasks;
mod view;

pub use crate::config::{FETCHES_MAX, SUBSCRIPTIONS_MAX};
pub use event::{Delivery, Event, MessageHead, Publication, Qos, Subscription, Token, Unwritten};
pub use fetch::Fetch;
pub use outbox::{OutboxEntry, RECEIVE_MAXIMUM};
pub use reason::{Reason, Refusal};
pub use rounds::EXCHANGES_MAX;
pub use tasks::{DeploymentSlot, TaskSlot};
pub use view::{AgentStatus, ModuleView, Stage, TaskView};

use crate::{
    config::Config,
    engine::Engine,
    http::{Part, Request, RequestId},
    module::{signature::Trust, table::ModuleEntry},
    store::Store,
    task::budget::Budget,
    time::Instant,
    wire::{Outbound, TopicError, TopicName, Topics, check_level, report::BufferTooSmall},
};
use event::Subject;
use inbox::Inbox;
use modules::{ModuleLimits, Modules};
use notes::Notes;
use outbox::Outbox;
use presence::{Intervals, Presence};
use publish::Writer;
use rounds::Rounds;
use session::Session;
use subscriptions::Subscriptions;
use supervisor::Supervisor;
use takes::Takes;
use tasks::Tasks;

/// Memory of an [`Agent`], owned by the port: its sizes are the proplet's capacities.
#[derive(Debug)]
pub struct Storage<'a, E: Engine> {
    /// A slot for each task that there may be at once, at most 65,534.
    pub slots: &'a mut [TaskSlot<E>],
    /// A slot for each latent deployment, at most 256.
    pub deployments: &'a mut [DeploymentSlot<E>],
    /// The module table, at most 65,534 entries.
    pub modules: &'a mut [ModuleEntry],
    /// Modules that may be on their way at once, at most [`FETCHES_MAX`].
    pub fetches: &'a mut [Fetch<E::Buffer>],
    /// Messages about tasks that await their acknowledgement, at most 65,536. The last
    /// [`RECEIVE_MAXIMUM`] hold answers to commands that are not acknowledged before there is room among
    /// the others; a task whose results find no room keeps its slot until there is some.
    pub outbox: &'a mut [OutboxEntry<E::Buffer>],
    /// Inputs and environment of the message at hand.
    pub packed: &'a mut [u8],
    /// Storage that survives a reboot, if there is any.
    pub store: Option<&'a mut dyn Store>,
}

/// The proplet.
#[derive(Debug)]
pub struct Agent<'a, E: Engine> {
    supervisor: Supervisor<'a, E>,
    presence: Presence,
    inbox: Inbox<'a>,
    /// Number of the last HTTP request.
    requests: u32,
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
            store,
        } = storage;
        check_level("proplet_id", config.proplet_id)?;
        let limits = ModuleLimits {
            bytes: config.limits.module_bytes,
            run: Budget::of_device(&config.limits).limits,
        };
        let intervals = Intervals {
            heartbeat: config.heartbeat,
            metrics: config.metrics_interval,
        };
        let notes = Notes::new(store.as_deref());
        let note_after =
            Some(config.note_after).filter(|after| notes.has_room() && !after.is_zero());
        Ok(Self {
            supervisor: Supervisor {
                topics: Topics::new(config.tenant, config.channel)?,
                config,
                tasks: Tasks::new(slots, deployments, note_after),
                modules: Modules::new(modules, fetches, store, limits),
                notes,
                rounds: Rounds::new(),
                subscriptions: Subscriptions::new(),
                session: Session::new(),
                outbox: Outbox::new(outbox, engine.arena().total / 4, config.listener_wait),
                engine,
                is_shutting_down: false,
            },
            presence: Presence::new(intervals),
            inbox: Inbox::new(packed),
            requests: 0,
        })
    }

    /// Sets the wall clock, in milliseconds since 1970. Until then messages have no timestamp.
    pub fn set_wall_clock(&mut self, unix_ms: u64, now: Instant) {
        self.presence.set_wall_clock(unix_ms, now);
    }

    /// Takes only modules that one of these keys has signed.
    pub fn set_trust(&mut self, trust: Trust<'a>) {
        self.supervisor.modules.set_trust(trust);
    }

    /// Brings back the latent deployments of the store, and what it knows of the broker's session; once,
    /// before the first event. What is damaged is logged and removed. A deployment whose module can't be
    /// loaded is kept, for a restart after which it can. The tasks that the store has noted are reported from
    /// the first event on.
    pub fn restore(&mut self, now: Instant) {
        self.supervisor.restore(now);
        self.supervisor.restore_session();
    }

    /// Whether the broker's session outlives a reboot of the proplet: the store knows of it.
    pub fn has_session(&self) -> bool {
        self.supervisor.session.is_noted()
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.supervisor.engine
    }

    /// The engine, for facts that only the port knows.
    pub fn engine_mut(&mut self) -> &mut E {
        &mut self.supervisor.engine
    }

    /// Figures of the proplet.
    pub fn status(&self) -> AgentStatus {
        let (tasks, modules) = (&self.supervisor.tasks, &self.supervisor.modules);
        AgentStatus {
            connected: self.presence.is_connected(),
            running: tasks.running(),
            slots: tasks.capacity(),
            fetching: tasks.waiting(),
            deployed: tasks.ready(),
            modules: modules.loaded(),
            parses: modules.parses(),
        }
    }

    /// The tasks that run or wait for their module, by slot, and then the deployments.
    pub fn tasks(&self) -> impl Iterator<Item = TaskView<'_>> {
        self.supervisor.views()
    }

    /// The modules that are loaded.
    pub fn modules(&self) -> impl Iterator<Item = ModuleView> {
        let users = self.supervisor.modules.users();
        users.map(|(id, digest, users)| ModuleView { id, digest, users })
    }

    /// Topic filters to subscribe to, at QoS 1, on each new session: one after the other from 0 on,
    /// `None` after the last.
    pub fn subscription(&self, index: usize) -> Option<TopicName> {
        self.supervisor.topics.subscription(index)
    }

    /// Topic and payload of the last will: the alive topic, with status "offline". Returns the
    /// payload's length in `buf`.
    ///
    /// # Errors
    /// `buf` is too small.
    pub fn will(&self, buf: &mut [u8]) -> Result<(TopicName, usize), BufferTooSmall> {
        let len = self.writer().offline(buf)?;
        Ok((self.supervisor.topics.name(Outbound::Alive), len))
    }

    /// Whether nothing is left to do after [`Event::Shutdown`]: all runs have ended, and their
    /// results are delivered.
    pub fn is_drained(&self) -> bool {
        self.supervisor.tasks.taken() == 0 && self.supervisor.outbox.is_drained()
    }

    /// Takes an event. [`poll_publish`](Self::poll_publish) and
    /// [`next_deadline`](Self::next_deadline) must be asked again afterwards.
    pub fn handle(&mut self, event: Event<'_>, now: Instant) {
        match event {
            Event::NewSession => self.supervisor.begin_session(),
            Event::Resubscribe => self.supervisor.subscriptions.repeat(),
            Event::Connected => {
                self.hint(now);
                self.presence
                    .connect(&self.supervisor.engine.process(), now);
                self.supervisor.outbox.connect();
                self.supervisor.modules.renew();
                let id = self.supervisor.config.proplet_id;
                log::info!("proplet {id} {}", Takes::now(&self.supervisor));
            }
            Event::Disconnected => {
                self.presence.disconnect();
                self.supervisor.outbox.disconnect();
                self.supervisor.modules.renew();
            }
            Event::MessageBegin(head) => return self.inbox.begin(&head, &mut self.supervisor),
            Event::MessageBytes(bytes) => return self.inbox.payload(bytes, &mut self.supervisor),
            Event::MessagesCut => {
                self.inbox.cut(&mut self.supervisor, now);
                self.supervisor.outbox.forget_unacknowledged();
            }
            Event::MessageEnd => {
                if self.inbox.end(&mut self.supervisor, now) {
                    self.hint(now);
                }
            }
            Event::Message { topic, payload } => {
                let head = MessageHead {
                    topic,
                    len: payload.len(),
                    qos: Qos::AtMostOnce,
                    is_retained: false,
                    is_duplicate: false,
                };
                self.inbox.begin(&head, &mut self.supervisor);
                self.inbox.payload(payload, &mut self.supervisor);
                self.inbox.end(&mut self.supervisor, now);
            }
            Event::Tick => {}
            Event::Published(Token(subject), delivery) => self.published(subject, delivery, now),
            Event::Shutdown => self.supervisor.shut_down(now),
        }
        self.supervisor.listen(now);
        self.supervisor.collect(now);
        self.supervisor.expire(now);
        self.supervisor.report_interrupted(now);
        self.supervisor.sweep_notes();
    }

    /// Takes note of a sign that somebody listens.
    fn hint(&mut self, now: Instant) {
        self.presence.hint(now);
        self.supervisor.outbox.hint(now);
    }

    /// Whether the oldest message of QoS 1 that has begun, and of which this was not told yet, may be
    /// acknowledged: it was accepted, or its refusal has a place in the outbox.
    pub fn take_acknowledgement(&mut self) -> bool {
        self.supervisor.outbox.take_acknowledgement()
    }

    /// Whether a message awaits its acknowledgement, or the next refusal would be withheld.
    pub fn is_behind(&self) -> bool {
        self.supervisor.outbox.is_behind()
    }

    /// When [`Event::Tick`] or [`poll_publish`](Self::poll_publish) is due next; after `now`.
    /// Without a connection only tasks have deadlines.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let Supervisor {
            tasks,
            modules,
            outbox,
            ..
        } = &self.supervisor;
        // A deadline that has passed was acted on, or waits for room in the outbox.
        let of_tasks = [
            tasks.next_deadline().map(|(_, at)| at),
            tasks.next_late_deployment().map(|(_, at)| at),
            modules.next_deadline(),
        ];
        let of_publications = [
            outbox.next_deadline(now),
            tasks.next_sample().map(|(_, at)| at),
        ];
        let is_connected = self.presence.is_connected();
        let of_publications = of_publications.into_iter().filter(|_| is_connected);
        let of_presence = self.presence.next_deadline().into_iter();
        let all = of_tasks.into_iter().chain(of_publications);
        all.chain(of_presence)
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    fn published(&mut self, subject: Subject, delivery: Delivery, now: Instant) {
        match subject {
            Subject::Discovery => self.presence.discovered(delivery, now),
            Subject::ModuleRequest(fetch) if delivery == Delivery::Lost => {
                self.supervisor.modules.registry_request_lost(fetch);
            }
            Subject::Entry(index) => {
                let noted = self.supervisor.outbox.delivered(index, delivery, now);
                if let Some(noted) = noted {
                    self.supervisor.forget_note(&noted);
                }
            }
            Subject::Heartbeat
            | Subject::Metrics
            | Subject::Sample(_)
            | Subject::ModuleRequest(_) => {}
        }
    }

    /// The next message to publish, of quality `most` or less; `None` without a connection.
    ///
    /// It is given out once, and its fate must be reported by [`Event::Published`].
    pub fn poll_publish(&mut self, most: Qos, now: Instant) -> Option<Publication> {
        if !self.presence.is_connected() {
            return None;
        }
        let (subject, qos) = self.next_subject(most, now)?;
        Some(Publication {
            token: Token(subject),
            qos,
        })
    }

    fn next_subject(&mut self, most: Qos, now: Instant) -> Option<(Subject, Qos)> {
        let Supervisor {
            outbox,
            modules,
            engine,
            ..
        } = &mut self.supervisor;
        if let Some(due) = self.presence.poll(most, now) {
            return Some(due);
        }
        if let Some((index, qos)) = outbox.poll(most, now) {
            return Some((Subject::Entry(index), qos));
        }
        if most >= Qos::AtLeastOnce
            && let Some(fetch) = modules.poll_registry_request()
        {
            return Some((Subject::ModuleRequest(fetch), Qos::AtLeastOnce));
        }
        if self.presence.poll_metrics(now) {
            self.presence.measure(&engine.process(), now);
            return Some((Subject::Metrics, Qos::AtMostOnce));
        }
        let slot = self.supervisor.poll_sample(now)?;
        Some((Subject::Sample(slot), Qos::AtMostOnce))
    }

    fn writer(&self) -> Writer<'_> {
        let arena = self.supervisor.engine.arena();
        Writer::new(&self.supervisor.config, &self.presence, arena)
    }

    /// Topic of a publication.
    pub fn topic(&self, token: Token) -> TopicName {
        publish::topic(token.0, &self.supervisor)
    }

    /// Serialises a publication's payload, JSON, into `buf` and returns its length.
    ///
    /// # Errors
    /// `buf` is too small, or it is a sample of a task that has gone since it was given out.
    pub fn write(&self, token: Token, buf: &mut [u8], now: Instant) -> Result<usize, Unwritten> {
        self.writer().write(token.0, &self.supervisor, buf, now)
    }

    /// The next change of subscriptions, beside those of the manager's topics, given out once a
    /// session.
    pub fn poll_subscribe(&mut self) -> Option<Subscription> {
        let is_connected = self.presence.is_connected();
        is_connected
            .then(|| self.supervisor.poll_subscribe())
            .flatten()
    }

    /// The next HTTP request to send, if any, given out once. Its exchange ends with [`Part::End`] or
    /// [`Part::Failed`], or when it is no longer [wanted](Self::is_wanted).
    pub fn poll_request(&mut self) -> Option<(RequestId, Request)> {
        let under_way = self.supervisor.modules.requests() + self.supervisor.rounds.len();
        if under_way >= EXCHANGES_MAX {
            return None;
        }
        let id = RequestId(self.requests.wrapping_add(1));
        let request = self.supervisor.modules.poll_request(id);
        let request = request.or_else(|| self.supervisor.poll_round_request(id))?;
        self.requests = id.0;
        Some((id, request))
    }

    /// Whether the response of this request is still of use.
    pub fn is_wanted(&self, id: RequestId) -> bool {
        self.supervisor.modules.request(id).is_some() || self.supervisor.rounds.has(id)
    }

    /// Copies the request's body from `offset` on into `to`, as much as there is; how much.
    pub fn request_body(&self, id: RequestId, offset: usize, to: &mut [u8]) -> usize {
        let Some(slot) = self.supervisor.rounds.sender(id) else {
            return 0;
        };
        let update = self.supervisor.update(slot);
        let rest = update.get(offset..).unwrap_or_default();
        let len = rest.len().min(to.len());
        to[..len].copy_from_slice(&rest[..len]);
        len
    }

    /// Takes a part of a response.
    ///
    /// # Errors
    /// The reason for which the exchange must be given up: its end is [`Part::Failed`] then.
    pub fn respond(
        &mut self,
        id: RequestId,
        part: Part<'_>,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        let is_end = matches!(part, Part::End | Part::Failed(_));
        let Supervisor {
            modules,
            rounds,
            engine,
            ..
        } = &mut self.supervisor;
        let taken = match modules.request(id) {
            Some(fetch) => modules.part(fetch, part, engine).map(|()| None),
            None => {
                modules.evict_for(rounds.growth(id, &part), engine);
                rounds.part(id, part, engine)
            }
        };
        if !is_end {
            return taken.map(drop);
        }
        // An error says that no task waits for it any more.
        if let Ok(Some(ended)) = taken {
            self.supervisor.round_ended(ended, now);
        }
        self.supervisor.settle_modules(now);
        self.supervisor.collect(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
