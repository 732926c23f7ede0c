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
    time::{Duration, Instant},
    wire::{Chunk, Error},
};

/// Time from a complaint that a guest runs on to the next.
const LATE_AGAIN: Duration = Duration::from_secs(10);

impl<E: Engine> Supervisor<'_, E> {
    /// Takes a chunk of `app`, or the reason for which it can't be read. False if it is of no use.
    pub(in crate::agent) fn chunk(
        &mut self,
        app: &str,
        chunk: Result<&Chunk<'_>, Error>,
        now: Instant,
    ) -> bool {
        let mut is_taken = false;
        // Two fetches may differ in their digest alone. The bytes of one are gone before the next takes
        // its own.
        for fetch in self.modules.places() {
            is_taken |= self.modules.chunk(fetch, app, chunk, &self.engine);
            self.settle_modules(now);
        }
        is_taken
    }

    /// Serves all who wait for modules that have arrived.
    pub(in crate::agent) fn settle_modules(&mut self, now: Instant) {
        while let Some(fetch) = self.modules.arrived() {
            self.settle(fetch, now);
        }
    }

    #[inline(never)]
    pub(super) fn settle(&mut self, fetch: u8, now: Instant) {
        let usage = match self.tasks.next_fetching(fetch.into()) {
            Some(slot) => Usage::Run(self.budget(slot).limits),
            None => Usage::Deployment,
        };
        let is_deployed = self.tasks.next_deploying(fetch.into()).is_some();
        let arrival = self
            .modules
            .take(fetch, usage, is_deployed, &mut self.engine);
        match arrival.result {
            Ok(module) => {
                self.serve(fetch, module, now);
                self.release(module);
            }
            Err(reason) => self.fail_waiters(fetch, &arrival.location, reason, now),
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
        reason: Reason<E::Buffer>,
        now: Instant,
    ) {
        let words = |engine: &E| -> Reason<E::Buffer> {
            match (
                engine.words(format_args!("module {app}: {reason}")),
                &reason,
            ) {
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

    /// Takes a message on a topic that is not the manager's: for guests, or a model.
    pub(in crate::agent) fn other_message(&mut self, topic: &str, payload: &[u8], now: Instant) {
        let mut is_received = false;
        for index in (0..self.subscriptions.len()).rev() {
            let Some(receiver) = self.subscriptions.receiver(index, topic) else {
                continue;
            };
            is_received = true;
            match receiver {
                Receiver::Guest(slot) => {
                    let below = self.topics.strip(topic).unwrap_or(topic);
                    self.engine.deliver(slot, below, payload);
                }
                Receiver::Model(slot) => {
                    self.subscriptions.remove(slot);
                    self.model_message(slot, payload, now);
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
            self.task_is_late(slot, now);
        }
        while let Some((index, at)) = self.tasks.next_late_deployment()
            && at <= now
            && self.outbox.room() > 0
            && let Some(Deployed::Fetching { fetch, .. }) =
                self.tasks.deployment(index).map(DeploymentRecord::state)
        {
            self.fail_deployment(index, self.late(fetch), now);
        }
        self.modules.expire(now);
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
