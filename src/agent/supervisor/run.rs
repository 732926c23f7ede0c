//! Runs, from the instance to the exit.

use super::Supervisor;
use crate::{
    agent::{
        gathering::RoundData,
        outbox::Output,
        reason::{Reason, Refusal},
        tasks::{NEVER, Stop, StopReason, TaskKind, TaskState, take_reason},
    },
    engine::{Call, Engine, Exit, Failure, ModuleId, Params, Slot, TaskData, Values},
    task::{args, budget::Budget},
    text::{Text, clip, text},
    time::{Duration, Instant},
    wire::is_object,
};

/// Exports that are called where the module has none of the task's name, in this order.
const FALLBACKS: [&str; 3] = ["main", "run", "_start"];

/// Time from the moment at which a guest is stopped to the first complaint that it runs on: it sees
/// that it is to end within a slice.
const LATE: Duration = Duration::from_secs(2);

impl<E: Engine> Supervisor<'_, E> {
    /// Begins the run of a task that has all it needs.
    #[inline(never)]
    pub(super) fn begin(
        &mut self,
        slot: Slot,
        module: ModuleId,
        budget: &Budget,
        data: RoundData<E::Buffer>,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        let needs = self.engine.instance_needs(module, &budget.limits)?;
        self.make_room(needs.total(), needs.purpose())?;
        self.spawn(slot, module, budget, data)?;
        log::info!("task {} runs in slot {}", self.tasks.id(slot), slot.0);
        self.tasks.begin_samples(slot, now);
        let kind = self.tasks.get(slot).map(|task| task.task().kind);
        let state = TaskState::Running {
            module,
            until: budget.deadline.map_or(NEVER, |limit| now + limit),
            stop: None,
            owes_success: kind == Some(TaskKind::Daemon),
        };
        self.tasks.set_state(slot, state);
        Ok(())
    }

    #[inline(never)]
    pub(super) fn spawn(
        &mut self,
        slot: Slot,
        module: ModuleId,
        budget: &Budget,
        round: RoundData<E::Buffer>,
    ) -> Result<(), Reason<E::Buffer>> {
        let mut data = TaskData::NONE;
        data.caps = budget.caps;
        (data.model, data.dataset) = (round.model, round.dataset);
        if let Some((texts, (inputs, env))) = self.tasks.share(slot)
            && inputs + env > 0
        {
            data = data.with_text(texts, inputs, env);
        }
        let Some(task) = self.tasks.get(slot) else {
            return Ok(());
        };
        let (export, params) = entry(&self.engine, module, task.name())?;
        // A guest may read its inputs itself; one that takes no arguments does so or ignores them.
        let args = match params.is_empty() {
            true => Values::new(),
            false => args::parse(&params, task.inputs().iter())
                .map_err(|e| self.words(format_args!("function '{export}': {e}")))?,
        };
        let call = Call {
            module,
            export,
            args: &args,
            limits: budget.limits,
        };
        Ok(self.engine.spawn(slot, &call, data)?)
    }

    /// Stops a task. Its exit follows, or comes at once if it has not begun.
    pub(super) fn stop_task(&mut self, slot: Slot, reason: StopReason, now: Instant) {
        if reason == StopReason::Command {
            self.tasks.set_stopped(slot);
        }
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        match task.state() {
            TaskState::Fetching { .. } | TaskState::Gathering { .. } => {
                self.fail(slot, reason.refusal(None).into(), now);
            }
            TaskState::Posting { .. } => {
                self.rounds.cancel(slot);
                self.posted(slot, Err(reason.refusal(None).into()), now);
            }
            // Only its report is left, if anything.
            TaskState::Accepted | TaskState::Failed { .. } | TaskState::Posted { .. } => {}
            // The first reason is the one that is reported.
            TaskState::Running { stop: None, .. } => {
                let stop = Stop {
                    reason,
                    is_overdue: false,
                };
                self.tasks.set_stop(slot, Some(stop), Some(now + LATE));
                self.engine.interrupt(slot);
            }
            TaskState::Running { .. } => {}
        }
    }

    /// Reports what has ended, as far as the outbox has room.
    pub(in crate::agent) fn collect(&mut self, now: Instant) {
        while let Some(slot) = self.engine.exited() {
            // Its last messages go before its results.
            while self.outbox.room() > 0
                && let Some(message) = self.engine.take_message(slot)
            {
                self.guest_message(slot, message, now);
            }
            if self.outbox.room() == 0 {
                return;
            }
            match self.engine.take_exit(slot) {
                Some(exit) => self.finish(slot, exit, now),
                None => return,
            }
        }
        while self.outbox.room() > 0
            && let Some(slot) = self.tasks.next_report()
        {
            if self.tasks.take_success(slot) {
                self.report_success(slot, now);
                continue;
            }
            match self.tasks.set_state(slot, TaskState::Accepted) {
                TaskState::Failed { reason } => {
                    let reason = reason.map_or(Refusal::NotKept.into(), take_reason::<E>);
                    self.report(slot, Err(reason), false, now);
                }
                TaskState::Posted { update, fallback } => {
                    self.report(slot, Ok(Output::Bytes(update)), fallback, now);
                }
                // Only those wait for the outbox.
                _ => return,
            }
        }
        while self.outbox.room() > 0
            && let Some(index) = self.tasks.next_failed_deployment()
        {
            self.report_deployment(index, None, now);
        }
    }

    /// Reports a run that has ended and frees its slot, or sends its round's update on its way.
    #[inline(never)]
    pub(super) fn finish(&mut self, slot: Slot, exit: Exit<E::Buffer>, now: Instant) {
        if self.tasks.take_success(slot) {
            self.report_success(slot, now);
        }
        let state = self.tasks.set_state(slot, TaskState::Accepted);
        let TaskState::Running { module, stop, .. } = state else {
            return;
        };
        let outcome = match exit.result {
            Ok(value) => Ok(match exit.output {
                Some(bytes) => Output::Bytes(bytes),
                None => Output::Value(value),
            }),
            Err(Failure::Trap(words)) => Err(words.map_or(Refusal::Trapped.into(), Reason::Words)),
            Err(Failure::Interrupted) => {
                let deadline = self.budget(slot).deadline;
                let reason = stop.map_or(StopReason::Command, |stop| stop.reason);
                Err(reason.refusal(deadline).into())
            }
        };
        self.tasks.sample(slot, &exit.usage, now);
        self.subscriptions.remove(slot);
        self.release(module);
        let kind = self.tasks.get(slot).map(|task| task.task().kind);
        let outcome = match (kind, outcome) {
            (Some(TaskKind::Round), Ok(Output::Bytes(update))) if is_object(&update) => {
                let is_due = true;
                self.tasks
                    .set_state(slot, TaskState::Posting { update, is_due });
                return;
            }
            (Some(TaskKind::Round), Ok(output)) => {
                let mut text = Text::new();
                let shown = clip(output.as_str(&mut text), 64);
                Err(self.words(format_args!("the update is no JSON object: '{shown}'")))
            }
            (_, outcome) => outcome,
        };
        self.report(slot, outcome, false, now);
    }

    /// Ends a task that has not begun. It is reported at once, or when the outbox has room.
    pub(super) fn fail(&mut self, slot: Slot, reason: Reason<E::Buffer>, now: Instant) {
        self.rounds.cancel(slot);
        self.subscriptions.remove(slot);
        match self.tasks.set_state(slot, TaskState::Accepted) {
            TaskState::Fetching { fetch, .. } => self.modules.leave(fetch),
            TaskState::Gathering { module, .. } => self.release(module),
            _ => {}
        }
        // A daemon's success has not been reported yet.
        self.tasks.report_daemon(slot);
        if self.outbox.room() > 0 {
            self.report(slot, Err(reason), false, now);
        } else {
            let words = text(format_args!("{reason}"));
            let reason = self.engine.record(reason, 0).ok();
            if reason.is_none() {
                log::warn!("task {} failed: {words}", self.tasks.id(slot));
            }
            self.tasks.set_state(slot, TaskState::Failed { reason });
        }
    }

    /// The coordinator has taken an update, or has not.
    pub(super) fn posted(
        &mut self,
        slot: Slot,
        result: Result<(), Reason<E::Buffer>>,
        now: Instant,
    ) {
        let fallback = result.is_err();
        if let Err(reason) = result {
            log::warn!(
                "task {}: coordinator: {reason}; its update goes to the round's topic",
                self.tasks.id(slot)
            );
        }
        if let TaskState::Posting { update, .. } = self.tasks.set_state(slot, TaskState::Accepted) {
            self.tasks
                .set_state(slot, TaskState::Posted { update, fallback });
        }
        self.collect(now);
    }

    /// The task whose sample is due, which is taken.
    pub(in crate::agent) fn poll_sample(&mut self, now: Instant) -> Option<Slot> {
        let (slot, _) = self.tasks.next_sample().filter(|(_, at)| *at <= now)?;
        let usage = self.engine.usage(slot);
        self.tasks.sample(slot, &usage, now);
        Some(slot)
    }
}

/// The export that a task of this name calls; without a name the default one.
pub(super) fn entry<'n, E: Engine>(
    engine: &E,
    module: ModuleId,
    name: &'n str,
) -> Result<(&'n str, Params), Reason<E::Buffer>> {
    let named = Some(name).filter(|name| !name.is_empty());
    for export in named.into_iter().chain(FALLBACKS) {
        if let Some(params) = engine.params(module, export)? {
            return Ok((export, params));
        }
    }
    let words = match name {
        "" => engine.words(format_args!(
            "functions main, run and _start not found: a task needs one of them"
        )),
        _ => engine.words(format_args!(
            "function '{name}' not found, and fallbacks main, run and _start neither"
        )),
    };
    Err(words.into())
}
