//! Arrivals of modules and data, and deadlines.

use super::Supervisor;
use crate::{
    agent::{
        modules::Usage,
        reason::Reason,
        subscriptions::Receiver,
        tasks::{Deployed, DeploymentRecord, Stop, StopReason, TaskState},
    },
    engine::{Engine, EngineError, ModuleId, Slot},
    module::incoming::Body,
    time::{Duration, Instant},
    wire::{Error, Place},
};

/// Time from a complaint that a guest runs on to the next.
const LATE_AGAIN: Duration = Duration::from_secs(10);

impl<E: Engine> Supervisor<'_, E> {
    /// Takes a chunk, with its data.
    pub(in crate::agent) fn chunk(
        &mut self,
        place: &Place<'_>,
        body: Body<E::Buffer>,
        now: Instant,
    ) {
        self.modules.chunk(place, body, &self.engine, now);
        self.settle_modules(now);
    }

    /// Ends the fetches of `app`, of which a chunk can't be read. False if none takes chunks of it.
    pub(in crate::agent) fn bad_chunk(&mut self, app: &str, error: Error, now: Instant) -> bool {
        let Some(fetch) = self.modules.taker(app) else {
            return false;
        };
        self.modules.fail(fetch, error.into());
        self.settle_modules(now);
        true
    }

    /// Serves all who wait for modules that have arrived.
    pub(in crate::agent) fn settle_modules(&mut self, now: Instant) {
        while let Some(fetch) = self.modules.arrived() {
            self.settle(fetch, now);
        }
    }

    #[inline(never)]
    pub(super) fn settle(&mut self, fetch: u8, now: Instant) {
        let group = self.modules.group(fetch);
        let mut slots = group
            .iter()
            .filter_map(|f| self.tasks.next_fetching((*f).into()));
        let usage = match slots.next() {
            Some(slot) => Usage::Run(self.budget(slot).limits),
            None => Usage::Deployment,
        };
        drop(slots);
        let mut deployed = group.iter();
        let is_deployed = deployed.any(|f| self.tasks.next_deploying((*f).into()).is_some());
        let spare = &mut |lack| self.outbox.free_bytes(lack);
        let arrival = self
            .modules
            .take(&group, usage, is_deployed, &mut self.engine, spare);
        match arrival.result {
            Ok(module) => {
                for fetch in group {
                    self.serve(fetch, module, now);
                }
                self.release(module);
            }
            Err(reason) => {
                for fetch in group {
                    self.fail_waiters(fetch, &arrival.location, &reason, now);
                }
            }
        }
    }

    pub(super) fn serve(&mut self, fetch: u8, module: ModuleId, now: Instant) {
        while let Some(slot) = self.tasks.next_fetching(fetch.into()) {
            let budget = self.budget(slot);
            self.modules.acquire(module);
            if let Err(reason) = self.launch(slot, module, &budget, now) {
                self.fail(slot, reason, now);
            }
        }
        while let Some(deployment) = self.tasks.next_deploying(fetch.into()) {
            self.modules.acquire(module);
            if let Err(reason) = self.deployed(deployment, module) {
                self.fail_deployment(deployment, reason, now);
            }
        }
    }

    pub(super) fn fail_waiters(
        &mut self,
        fetch: u8,
        app: &str,
        reason: &Reason<E::Buffer>,
        now: Instant,
    ) {
        let words = |engine: &E| -> Reason<E::Buffer> {
            match (engine.words(format_args!("module {app}: {reason}")), reason) {
                // Its numbers alone are better than nothing.
                (EngineError::NoWords, Reason::Refusal(refusal)) => (*refusal).into(),
                (words, _) => words.into(),
            }
        };
        while let Some(slot) = self.tasks.next_fetching(fetch.into()) {
            let words = words(&self.engine);
            self.fail(slot, words, now);
        }
        while let Some(deployment) = self.tasks.next_deploying(fetch.into()) {
            let words = words(&self.engine);
            self.fail_deployment(deployment, words, now);
        }
    }

    /// Most bytes of a message on a topic that is not the manager's; `None` if it is for no one.
    pub(in crate::agent) fn other_limit(&self, topic: &str) -> Option<usize> {
        let receivers = (0..self.subscriptions.len())
            .filter_map(|index| self.subscriptions.receiver(index, topic));
        let limits = receivers.map(|receiver| match receiver {
            Receiver::Guest(_) => self.config.message_bytes,
            Receiver::Model(_) => self.config.data_bytes,
        });
        limits.max()
    }

    /// Takes a message on a topic that is not the manager's: for guests, or a model.
    pub(in crate::agent) fn other_message(
        &mut self,
        topic: &str,
        body: &Body<E::Buffer>,
        now: Instant,
    ) {
        let mut is_received = false;
        for index in (0..self.subscriptions.len()).rev() {
            let Some(receiver) = self.subscriptions.receiver(index, topic) else {
                continue;
            };
            is_received = true;
            match (receiver, &body.bytes) {
                (Receiver::Guest(slot), Ok(payload)) => {
                    let below = self.topics.strip(topic).unwrap_or(topic);
                    self.engine.deliver(slot, below, payload);
                }
                (Receiver::Guest(slot), Err(_)) => self.engine.drop_message(slot),
                (Receiver::Model(slot), _) => {
                    self.subscriptions.remove(slot);
                    self.model_message(slot, body, now);
                }
            }
        }
        if !is_received {
            log::debug!("ignored a message on {topic}");
        }
    }

    /// Acts on deadlines that have passed.
    pub(in crate::agent) fn expire(&mut self, now: Instant) {
        while let Some((slot, at)) = self.tasks.next_deadline()
            && at <= now
        {
            match self.tasks.next_to_note(now) {
                Some(_) => self.note_tasks(now),
                None => self.task_is_late(slot, now),
            }
        }
        while let Some((index, at)) = self.tasks.next_late_deployment()
            && at <= now
            && self.outbox.room() > 0
            && let Some(Deployed::Fetching { fetch, .. }) =
                self.tasks.deployment(index).map(DeploymentRecord::state)
        {
            self.fail_deployment(index, self.late(fetch), now);
        }
        self.modules.expire(now, &self.engine);
        self.settle_modules(now);
    }

    /// Acts on the deadline of a task. Its next one is later, if it has any.
    pub(super) fn task_is_late(&mut self, slot: Slot, now: Instant) {
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        match task.state() {
            TaskState::Fetching { fetch, .. } => self.fail(slot, self.late(*fetch), now),
            TaskState::Gathering { .. } => self.gathers_late(slot, now),
            // Its report waits for room in the outbox.
            TaskState::Running { stop, .. } if self.engine.has_exited(slot) => {
                let stop = stop.map(|stop| Stop {
                    is_overdue: false,
                    ..stop
                });
                self.tasks.set_stop(slot, stop, None);
            }
            TaskState::Running { stop: None, .. } => {
                self.stop_task(slot, StopReason::Deadline, now);
            }
            TaskState::Running {
                stop: Some(stop), ..
            } => {
                log::error!(
                    "task {} in slot {} was to end and still runs: its guest does not come back from a step",
                    task.id(),
                    slot.0
                );
                let stop = Stop {
                    is_overdue: true,
                    ..*stop
                };
                self.tasks
                    .set_stop(slot, Some(stop), Some(now + LATE_AGAIN));
            }
            // They have no deadline.
            TaskState::Accepted
            | TaskState::Failed { .. }
            | TaskState::Posting { .. }
            | TaskState::Posted { .. } => {}
        }
    }

    pub(super) fn late(&self, fetch: u8) -> Reason<E::Buffer> {
        let seconds = self.config.fetch_timeout.as_secs();
        self.modules.late(fetch, seconds, &self.engine)
    }
}
