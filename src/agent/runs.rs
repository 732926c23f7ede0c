//! From the launch of a run to its report.

use super::{
    Agent, FALLBACKS, Id, LATE_AGAIN,
    outbox::{Body, Outbox, Outcome, Output, Update},
    tasks::{Deployed, DeploymentRecord, Ending, NEVER, Purpose, State, TaskRecord},
};
use crate::{
    engine::{
        Call, Engine, Exit, Failure, ModuleId, Params, Slot, TaskData, Text, Values, clip, text,
    },
    task::{args, budget::Budget, learning::Round, monitor::Monitor},
    time::Instant,
    wire::is_object,
};
use core::ops::Deref;

/// Most bytes of a result that the log shows.
const SHOWN: usize = 192;

impl<E: Engine> Agent<'_, E> {
    /// Limits of a task that was accepted with them.
    pub(super) fn budget(&self, slot: Slot) -> Budget {
        let limits = &self.config.limits;
        let env = self
            .tasks
            .get(slot)
            .map(TaskRecord::env)
            .unwrap_or_default();
        let budget = Budget::from_env(|key| env.get(key), limits);
        budget.unwrap_or_else(|_| Budget::of_device(limits))
    }

    /// Calls a task's function in a fresh instance of its module, or has its round's data gathered
    /// before.
    pub(super) fn launch(
        &mut self,
        slot: Slot,
        module: ModuleId,
        budget: &Budget,
        now: Instant,
    ) -> Result<(), Text> {
        self.table.acquire(module);
        let begun = match self.gather(slot, module, now) {
            Ok(true) => return Ok(()),
            Ok(false) => self.begin(slot, module, budget, now),
            Err(reason) => Err(reason),
        };
        begun.inspect_err(|_| self.release(module))
    }

    /// Begins the run of a module that it has acquired.
    #[inline(never)]
    pub(super) fn begin(
        &mut self,
        slot: Slot,
        module: ModuleId,
        budget: &Budget,
        now: Instant,
    ) -> Result<(), Text> {
        let needs = self.engine.instance_needs(module, &budget.limits)?;
        self.make_room(needs.total(), &needs.subject())?;
        self.spawn(slot, module, budget)?;
        log::info!("task {} runs in slot {}", self.tasks.id(slot), slot.0);
        self.tasks.begin_samples(slot, now);
        let state = State::Running {
            module,
            until: budget.deadline.map_or(NEVER, |limit| now + limit),
            ending: None,
        };
        self.tasks.set_state(slot, state);
        if let Some(task) = self.tasks.get(slot)
            && task.task().purpose == Purpose::Daemon
        {
            let due = self.due(task.task().received, now);
            let body = results(Ok(Output::Value(Text::new())));
            post(&mut self.outbox, task.id(), body, due);
        }
        Ok(())
    }

    #[inline(never)]
    fn spawn(&mut self, slot: Slot, module: ModuleId, budget: &Budget) -> Result<(), Text> {
        let mut data = TaskData::NONE;
        data.caps = budget.caps;
        if let Some(gathered) = self.tasks.gathered(slot) {
            (data.model, data.dataset) = (gathered.model.take(), gathered.dataset.take());
        }
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
                .map_err(|e| text(format_args!("function '{export}': {e}")))?,
        };
        let call = Call {
            module,
            export,
            args: &args,
            limits: budget.limits,
        };
        self.engine.spawn(slot, &call, data)
    }

    /// Puts a deployment in force whose module is loaded.
    pub(super) fn deployed(&mut self, index: u8, module: ModuleId) -> Result<(), Text> {
        let Some(deployment) = self.tasks.deployment(index) else {
            return Ok(());
        };
        self.table.acquire(module);
        if let Err(reason) = entry(&self.engine, module, deployment.name()) {
            self.release(module);
            return Err(reason);
        }
        self.tasks.set_deployed(index, Deployed::Ready { module });
        self.keep_deployment(index, module);
        if let Some(deployment) = self.tasks.deployment(index) {
            log::info!("latent task {} is ready to be invoked", deployment.id());
        }
        Ok(())
    }

    /// Reports what has ended, as far as the outbox has room.
    pub(super) fn collect(&mut self, now: Instant) {
        while let Some(slot) = self.engine.exited() {
            // What it said before it ended goes before its results.
            self.hear_out(slot, now);
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
            match self.tasks.set_state(slot, State::Accepted) {
                State::Failed { reason } => {
                    let reason = reason.as_deref().map(core::str::from_utf8);
                    let reason = reason.and_then(Result::ok).unwrap_or(NO_REASON);
                    self.report(slot, Err(text(format_args!("{reason}"))), false, now);
                }
                State::Posted { update, fallback } => {
                    self.report(slot, Ok(Output::Bytes(update)), fallback, now);
                }
                // Only those two wait for the outbox.
                _ => return,
            }
        }
    }

    /// Reports a run that has ended and frees its slot, or sends its round's update on its way.
    #[inline(never)]
    fn finish(&mut self, slot: Slot, exit: Exit<E::Buffer>, now: Instant) {
        let state = self.tasks.set_state(slot, State::Accepted);
        let State::Running { module, ending, .. } = state else {
            return;
        };
        let outcome = match exit.result {
            Ok(value) => Ok(match exit.output {
                Some(bytes) => Output::Bytes(bytes),
                None => Output::Value(args::format(value)),
            }),
            Err(Failure::Trap(reason)) => Err(reason),
            Err(Failure::Interrupted) => {
                let deadline = self.budget(slot).deadline;
                Err(ending.unwrap_or(Ending::Stopped).reason(deadline))
            }
        };
        self.tasks.sample(slot, &exit.usage, now);
        self.unsubscribe(slot);
        self.release(module);
        let purpose = self.tasks.get(slot).map(|task| task.task().purpose);
        let outcome = match (purpose, outcome) {
            (Some(Purpose::Round), Ok(output)) => match update_of(output) {
                Ok(update) => {
                    let is_due = true;
                    self.tasks
                        .set_state(slot, State::Posting { update, is_due });
                    return;
                }
                Err(reason) => Err(reason),
            },
            (_, outcome) => outcome,
        };
        self.report(slot, outcome, false, now);
    }

    /// Ends a task that has not begun. It is reported at once, or when the outbox has room.
    pub(super) fn fail(&mut self, slot: Slot, reason: Text, now: Instant) {
        self.cancel_run_exchange(slot);
        self.unsubscribe(slot);
        if let State::Gathering { module, .. } = self.tasks.set_state(slot, State::Accepted) {
            self.release(module);
        }
        // A daemon's success has not been told yet.
        self.tasks.is_daemon_no_more(slot);
        if self.outbox.room() > 0 {
            self.report(slot, Err(reason), false, now);
            return;
        }
        let copy = self.engine.allocate(reason.len()).ok().map(|mut copy| {
            copy.copy_from_slice(reason.as_bytes());
            copy
        });
        self.tasks.set_state(slot, State::Failed { reason: copy });
    }

    pub(super) fn fail_deployment(&mut self, index: u8, reason: Text, now: Instant) {
        let Some(deployment) = self.tasks.undeploy(index) else {
            return;
        };
        let due = self.due(deployment.head().received, now);
        log::warn!("latent task {} failed: {reason}", deployment.id());
        self.post(deployment.id(), results(Err(reason)), due);
    }

    /// Reports a task and frees its slot.
    #[inline(never)]
    fn report(&mut self, slot: Slot, outcome: Outcome<E::Buffer>, fallback: bool, now: Instant) {
        let Some(record) = self.tasks.remove(slot) else {
            return;
        };
        let id = record.id();
        match &outcome {
            Ok(result) => {
                let result = clip(result.as_str(), SHOWN);
                log::info!("task {id} completed: '{result}'");
            }
            Err(reason) => log::warn!("task {id} failed: {reason}"),
        }
        let task = record.task();
        let stopped = task.stopped;
        let body = match task.purpose {
            Purpose::Task => Some(Body::Results { outcome, stopped }),
            Purpose::Round => {
                // The task is none without a round.
                Round::of(record.env(), self.config.services).map(|round| {
                    let update = Update::new(&round, outcome, fallback);
                    Body::Update { update, stopped }
                })
            }
            Purpose::Daemon => None,
            Purpose::Invocation(_) => Some(Body::InvokeResults {
                invocation: Id::try_from(record.invocation().unwrap_or_default())
                    .unwrap_or_default(),
                outcome,
            }),
        };
        let due = match body {
            Some(Body::Results { .. } | Body::Update { .. }) => self.due(task.received, now),
            _ => now,
        };
        // A sample is worth sending, but not worth a place that results need.
        if let Some(monitor) = record.monitor()
            && is_worth_a_sample(&record, monitor)
            && self.connected
            && self.outbox.room() > 1
        {
            self.post(id, Body::Sample(*monitor), now);
        }
        if let Some(body) = body {
            self.post(id, body, due);
        }
    }

    pub(super) fn refuse(&mut self, id: &str, reason: Text, now: Instant) {
        log::warn!("start of {id} refused: {reason}");
        self.refuse_with(id, results(Err(reason)), now);
    }

    /// Refuses a task of a federated round.
    pub(super) fn refuse_round(&mut self, id: &str, round: &Round<'_>, reason: Text, now: Instant) {
        log::warn!("start of {id} refused: {reason}");
        let update = Update::new(round, Err(reason), false);
        let stopped = false;
        self.refuse_with(id, Body::Update { update, stopped }, now);
    }

    fn refuse_with(&mut self, id: &str, body: Body<E::Buffer>, now: Instant) {
        self.post(id, body, self.due(now, now));
    }

    pub(super) fn refuse_invocation(
        &mut self,
        id: &str,
        invocation: &str,
        reason: Text,
        now: Instant,
    ) {
        log::warn!("invocation {invocation} of {id} refused: {reason}");
        let Ok(invocation) = Id::try_from(invocation) else {
            debug_assert!(false, "ids are bounded when they are read");
            return;
        };
        let outcome = Err(reason);
        self.post(
            id,
            Body::InvokeResults {
                invocation,
                outcome,
            },
            now,
        );
    }

    /// When the results of a start are due that came at `received`: not so soon that the manager
    /// would overwrite them.
    pub(super) fn due(&self, received: Instant, now: Instant) -> Instant {
        (received + self.config.result_delay).max(now)
    }

    pub(super) fn post(&mut self, id: &str, body: Body<E::Buffer>, due: Instant) {
        post(&mut self.outbox, id, body, due);
    }

    /// Acts on deadlines that have passed.
    pub(super) fn expire(&mut self, now: Instant) {
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
        for index in 0..self.fetches.len() {
            let fetch = &self.fetches[index];
            // The registry sends on for whoever asks again; a server only for as long as it is heard.
            let is_over = fetch.is_http() || fetch.began() + self.config.assembly_ttl <= now;
            if !fetch.is_vacant() && is_over && !self.tasks.has_waiters(index) {
                log::warn!("incomplete module {} dropped", fetch.location());
                self.drop_fetch(index);
            }
        }
    }

    /// Acts on the deadline of a task. Its next one is later, if it has any.
    fn task_is_late(&mut self, slot: Slot, now: Instant) {
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        match task.state() {
            State::Fetching { fetch, .. } => self.fail(slot, self.late(*fetch), now),
            State::Gathering { .. } => self.gathers_late(slot, now),
            // Its report waits for room in the outbox.
            State::Running { .. } if self.engine.has_exited(slot) => {
                self.tasks.is_overdue_no_more(slot);
                self.tasks.set_until(slot, None);
            }
            State::Running { ending: None, .. } => self.end(slot, Ending::Deadline, now),
            State::Running { .. } => {
                log::error!(
                    "task {} in slot {} was to end and still runs: its guest does not come back from a step",
                    task.id(),
                    slot.0
                );
                self.tasks.set_overdue(slot, now + LATE_AGAIN);
            }
            State::Accepted
            | State::Failed { .. }
            | State::Posting { .. }
            | State::Posted { .. } => self.tasks.set_until(slot, None),
        }
    }

    fn late(&self, fetch: u8) -> Text {
        let fetch = &self.fetches[usize::from(fetch)];
        let (count, total) = fetch.progress();
        let seconds = self.config.fetch_timeout.as_secs();
        let app = clip(fetch.location(), 64);
        if fetch.is_http() {
            return text(format_args!(
                "timeout: module {app} is not here after {seconds} s"
            ));
        }
        text(format_args!(
            "timeout waiting for binary chunks: module {app} has {count} of {total} after {seconds} s"
        ))
    }
}

/// Stands for the reason of a failure that the arena had no room for.
const NO_REASON: &str = "it failed before it began, while the arena was full: the log says why";

/// Keeps a message about a task until it is delivered.
pub(super) fn post<B: Deref<Target = [u8]>>(
    outbox: &mut Outbox<'_, B>,
    id: &str,
    body: Body<B>,
    due: Instant,
) {
    let Ok(id) = Id::try_from(id) else {
        debug_assert!(false, "ids are bounded when they are read");
        return;
    };
    if !outbox.post(&id, body, due) {
        log::error!("the outbox is full: a message about task {id} is lost");
    }
}

/// Whether a task's last sample is sent. A short invocation would double its messages by it.
fn is_worth_a_sample<E: Engine>(record: &TaskRecord<E>, monitor: &Monitor) -> bool {
    let count = monitor.latest().aggregate.count;
    count > usize::from(record.invocation().is_some()) as u32
}

/// A result as a round's update.
///
/// # Errors
/// If it is no JSON object.
fn update_of<B: Deref<Target = [u8]>>(output: Output<B>) -> Result<B, Text> {
    match output {
        Output::Bytes(bytes) if is_object(&bytes) => Ok(bytes),
        output => Err(text(format_args!(
            "the update is no JSON object: '{}'",
            clip(output.as_str(), 64)
        ))),
    }
}

/// The export that a task of this name calls; without a name the default one.
fn entry<'n, E: Engine>(
    engine: &E,
    module: ModuleId,
    name: &'n str,
) -> Result<(&'n str, Params), Text> {
    let named = Some(name).filter(|name| !name.is_empty());
    for export in named.into_iter().chain(FALLBACKS) {
        if let Some(params) = engine.params(module, export)? {
            return Ok((export, params));
        }
    }
    Err(match name {
        "" => text(format_args!(
            "functions main, run and _start not found: a task needs one of them"
        )),
        _ => text(format_args!(
            "function '{name}' not found, and fallbacks main, run and _start neither"
        )),
    })
}

/// Results that no stop command brought about.
fn results<B>(outcome: Outcome<B>) -> Body<B> {
    Body::Results {
        outcome,
        stopped: false,
    }
}
