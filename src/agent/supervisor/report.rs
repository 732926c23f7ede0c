//! Ends of tasks, on their way to the outbox.

use super::Supervisor;
use crate::{
    agent::{
        noting::Noting,
        outbox::{Body, Outcome, Output, Update},
        reason::{Reason, Refusal},
        tasks::{Deployed, TaskKind, TaskRecord},
    },
    engine::{Engine, Slot},
    task::{learning::Round, monitor::Monitor},
    text::{Text, clip},
    time::Instant,
    wire::Id,
};
use core::ops::Deref;

/// Bytes of a result that the log shows.
const SHOWN: usize = 192;

impl<E: Engine> Supervisor<'_, E> {
    /// Reports a task and frees its slot.
    #[inline(never)]
    pub(super) fn report(
        &mut self,
        slot: Slot,
        outcome: Outcome<E::Buffer>,
        fallback: bool,
        now: Instant,
    ) {
        let Some(record) = self.tasks.remove(slot) else {
            return;
        };
        let id = record.id();
        log_outcome(id, &outcome);
        let task = record.task();
        let (stopped, noting) = (task.stopped, task.noting);
        let body = match task.kind {
            TaskKind::Task => Some(Body::Results {
                outcome,
                stopped,
                noting,
            }),
            TaskKind::Round => {
                // Its environment names one.
                Round::of(record.env(), self.config.services).map(|round| {
                    let update = Update::new(&round, outcome, fallback);
                    Body::Update {
                        update,
                        stopped,
                        noting,
                    }
                })
            }
            TaskKind::Daemon => None,
            TaskKind::Invocation(_) => Some(Body::InvokeResults {
                invocation: Id::try_from(record.invocation().unwrap_or_default())
                    .unwrap_or_default(),
                outcome,
            }),
        };
        let due = match body {
            Some(Body::Results { .. } | Body::Update { .. }) => self.due(task.received, now),
            _ => now,
        };
        if let Some(monitor) = record.monitor()
            && is_worth_a_sample(&record, monitor)
            && self.outbox.takes_sample()
        {
            self.outbox.post(id, Body::Sample(*monitor), now);
        }
        if let Some(body) = body {
            self.outbox.post(id, body, due);
        }
    }

    /// Reports a daemon's success: it runs.
    pub(super) fn report_success(&mut self, slot: Slot, now: Instant) {
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        let due = self.due(task.task().received, now);
        let body = Body::results(Ok(Output::Value(None)));
        self.outbox.post(task.id(), body, due);
    }

    pub(in crate::agent) fn refuse(&mut self, id: &str, reason: Reason<E::Buffer>, now: Instant) {
        log::warn!("start of {id} refused: {}", reason.of(id));
        let due = self.due(now, now);
        self.outbox.answer(id, Body::results(Err(reason)), due);
    }

    pub(super) fn refuse_round(
        &mut self,
        id: &str,
        round: &Round<'_>,
        reason: Reason<E::Buffer>,
        now: Instant,
    ) {
        log::warn!("start of {id} refused: {}", reason.of(id));
        let update = Update::new(round, Err(reason), false);
        let body = Body::Update {
            update,
            stopped: false,
            noting: Noting::NEVER,
        };
        let due = self.due(now, now);
        self.outbox.answer(id, body, due);
    }

    pub(in crate::agent) fn refuse_invocation(
        &mut self,
        id: &str,
        invocation: &str,
        reason: Reason<E::Buffer>,
        now: Instant,
    ) {
        log::warn!("invocation {invocation} of {id} refused: {}", reason.of(id));
        let Ok(invocation) = Id::try_from(invocation) else {
            debug_assert!(false, "ids are bounded when they are read");
            return;
        };
        let body = Body::InvokeResults {
            invocation,
            outcome: Err(reason),
        };
        self.outbox.answer(id, body, now);
    }

    /// Ends a deployment that waits for its module, or has just got it. It is reported at once, or when the
    /// outbox has room.
    pub(super) fn fail_deployment(&mut self, index: u8, reason: Reason<E::Buffer>, now: Instant) {
        let Some(deployment) = self.tasks.deployment(index) else {
            return;
        };
        let id = deployment.id();
        log::warn!("latent task {id} failed: {}", reason.of(id));
        if let Deployed::Fetching { fetch, .. } = deployment.state() {
            self.modules.leave(fetch);
        }
        if self.outbox.room() > 0 {
            return self.report_deployment(index, Some(reason), now);
        }
        let reason = self.engine.record(reason, 0).ok();
        self.tasks.fail_deployment(index, reason);
    }

    /// Reports the failure of a deployment, and frees its place.
    pub(super) fn report_deployment(
        &mut self,
        index: u8,
        reason: Option<Reason<E::Buffer>>,
        now: Instant,
    ) {
        let Some(mut deployment) = self.tasks.undeploy(index) else {
            return;
        };
        let reason = reason.or_else(|| deployment.take_reason());
        let due = self.due(deployment.head().received, now);
        let body = Body::results(Err(reason.unwrap_or(Refusal::NotKept.into())));
        self.outbox.post(deployment.id(), body, due);
    }

    /// When the results of a start that came at `received` are due: not so soon that the manager
    /// would overwrite them.
    pub(super) fn due(&self, received: Instant, now: Instant) -> Instant {
        (received + self.config.result_delay).max(now)
    }
}

#[inline(never)]
fn log_outcome<B: Deref<Target = [u8]>>(id: &str, outcome: &Outcome<B>) {
    match outcome {
        Ok(result) => {
            let mut text = Text::new();
            let result = clip(result.as_str(&mut text), SHOWN);
            log::info!("task {id} completed: '{result}'");
        }
        Err(reason) => log::warn!("task {id} failed: {}", reason.of(id)),
    }
}

/// Whether a task's last sample is sent. A short invocation would double its messages by it.
fn is_worth_a_sample<E: Engine>(record: &TaskRecord<E>, monitor: &Monitor) -> bool {
    let count = monitor.latest().aggregate.count;
    count > usize::from(record.invocation().is_some()) as u32
}
