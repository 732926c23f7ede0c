//! Ends of tasks, on their way to the outbox.

use super::Supervisor;
use crate::{
    agent::{
        outbox::{Body, Outcome, Update},
        reason::Reason,
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
        let stopped = task.stopped;
        let body = match task.kind {
            TaskKind::Task => Some(Body::Results { outcome, stopped }),
            TaskKind::Round => {
                // Its environment names one.
                Round::of(record.env(), self.config.services).map(|round| {
                    let update = Update::new(&round, outcome, fallback);
                    Body::Update { update, stopped }
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

    pub(in crate::agent) fn refuse(&mut self, id: &str, reason: Reason<E::Buffer>, now: Instant) {
        log::warn!("start of {id} refused: {}", reason.of(id));
        let due = self.due(now, now);
        self.outbox.post(id, Body::results(Err(reason)), due);
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
        let stopped = false;
        let due = self.due(now, now);
        self.outbox.post(id, Body::Update { update, stopped }, due);
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
        self.outbox.post(id, body, now);
    }

    pub(super) fn fail_deployment(&mut self, index: u8, reason: Reason<E::Buffer>, now: Instant) {
        let Some(deployment) = self.tasks.undeploy(index) else {
            return;
        };
        if let Deployed::Fetching { fetch, .. } = deployment.state() {
            self.modules.leave(fetch);
        }
        let (id, due) = (deployment.id(), self.due(deployment.head().received, now));
        log::warn!("latent task {id} failed: {}", reason.of(id));
        self.outbox.post(id, Body::results(Err(reason)), due);
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
