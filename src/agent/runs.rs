//! From the launch of a run to its report.

use super::{
    Agent, FALLBACKS, Id,
    outbox::{Body, Outcome, Output, Update},
    records::{Deployment, Ending, Phase, Purpose, Run},
};
use crate::{
    engine::{
        Call, Engine, Exit, Failure, ModuleId, Params, Record as _, RunUsage, Slot, TaskData, Text, Values,
        clip, text,
    },
    task::{args, learning::Round, monitor::Monitor},
    time::Instant,
};

/// Most bytes of a result that the log shows.
const SHOWN: usize = 192;

impl<E: Engine> Agent<'_, E> {
    /// Calls a run's function in a fresh instance of its module.
    pub(super) fn launch(
        &mut self,
        slot: Slot,
        module: ModuleId,
        now: Instant,
    ) -> Result<(), Text> {
        self.table.acquire(module);
        if self.gather(slot, module, now) {
            return Ok(());
        }
        self.begin(slot, module, now)
            .inspect_err(|_| self.release(module))
    }

    /// Begins the run of a module that it has acquired.
    #[inline(never)]
    pub(super) fn begin(&mut self, slot: Slot, module: ModuleId, now: Instant) -> Result<(), Text> {
        let run = self.run(slot);
        let needs = self.engine.instance_needs(module, &run.budget.limits)?;
        let need = needs.total().saturating_add(run.packed.len());
        let what = match needs.shared {
            0 => "one more instance and its call",
            _ => "an instance, its call and what the module's instances share",
        };
        self.make_room(need, what)?;
        self.spawn(slot, module)?;
        let run = &mut self.runs[slot.index()];
        log::info!("task {} runs in slot {}", run.id, slot.0);
        run.phase = Phase::Ready { module };
        run.expires = run.budget.deadline.map(|limit| now + limit);
        run.monitor = Monitor::new(run.monitor.profile, now);
        if run.purpose == Purpose::Daemon {
            let (id, received) = (run.id.clone(), run.received);
            let nothing = Output::Value(Text::new());
            self.post(&id, results(Ok(nothing)), self.due(received, now));
        }
        Ok(())
    }

    #[inline(never)]
    fn spawn(&mut self, slot: Slot, module: ModuleId) -> Result<(), Text> {
        let at = slot.index();
        // The text is the run's own share; its records are not touched before the worker has all.
        let share = &self.text[at * self.share..];
        let run = &mut self.runs[at];
        let (export, params) = entry(&self.engine, module, &run.name)?;
        let (inputs, env) = (run.packed.inputs(share), run.packed.env(share));
        // A guest may read its inputs itself; one that takes no arguments does so or ignores them.
        let args = match params.is_empty() {
            true => Values::new(),
            false => args::parse(&params, inputs.iter())
                .map_err(|e| text(format_args!("function '{export}': {e}")))?,
        };
        let len = run.packed.len();
        let mut data = TaskData::NONE;
        data.caps = run.budget.caps;
        if len > 0 {
            let mut record = self.engine.record((), len)?;
            let (a, b) = (inputs.as_bytes().len(), env.as_bytes().len());
            let (first, rest) = record.bytes_mut().split_at_mut(inputs.as_bytes().len());
            first.copy_from_slice(inputs.as_bytes());
            rest.copy_from_slice(env.as_bytes());
            data = data.with_text(record.share(), a, b);
        }
        let call = Call {
            module,
            export,
            args: &args,
            limits: run.budget.limits,
        };
        data.model = run.model.take();
        data.dataset = run.dataset.take();
        self.engine.spawn(slot, &call, data)
    }

    pub(super) fn deployed(&mut self, index: u8, module: ModuleId) -> Result<(), Text> {
        self.table.acquire(module);
        let deployment = &mut self.deployments[usize::from(index)];
        if let Err(reason) = entry(&self.engine, module, &deployment.name) {
            self.release(module);
            return Err(reason);
        }
        deployment.phase = Phase::Ready { module };
        self.keep_deployment(index, module);
        let id = &self.deployments[usize::from(index)].id;
        log::info!("latent task {id} is ready to be invoked");
        Ok(())
    }

    pub(super) fn collect(&mut self, now: Instant) {
        while let Some(slot) = self.engine.exited() {
            self.hear_out(slot, now);
            let exit = self.engine.take_exit(slot);
            self.runs[slot.index()].exit = exit;
        }
        for slot in self.slots() {
            if self.run(slot).exit.is_some() {
                self.finish(slot, now);
            }
            if let Phase::Posted { fallback } = self.run(slot).phase {
                self.finish_round(slot, fallback, now);
            }
        }
    }

    /// Reports a round's task whose update is delivered, or not; later, if the outbox is full.
    fn finish_round(&mut self, slot: Slot, fallback: bool, now: Instant) {
        if self.outbox.room() > 0
            && let Some(update) = self.runs[slot.index()].update.take()
        {
            self.report_round(slot, Ok(Output::Bytes(update)), fallback, now);
        }
    }

    /// Reports a run that has ended and frees its slot; later, if the outbox is full.
    #[inline(never)]
    fn finish(&mut self, slot: Slot, now: Instant) {
        // What it said before it ended goes before its results.
        self.hear_out(slot, now);
        if self.outbox.room() == 0 {
            return;
        }
        let run = &mut self.runs[slot.index()];
        let Some(Exit {
            result,
            output,
            usage,
            ..
        }) = run.exit.take()
        else {
            return;
        };
        let outcome = match result {
            Ok(value) => Ok(match output {
                Some(bytes) => Output::Bytes(bytes),
                None => Output::Value(args::format(value)),
            }),
            Err(Failure::Trap(reason)) => Err(reason),
            Err(Failure::Interrupted) => Err(run.ending.unwrap_or(Ending::Stopped).reason()),
        };
        run.monitor.sample(&usage, self.engine.arena().total, now);
        run.expires = None;
        let (phase, is_round) = (run.phase, run.purpose == Purpose::Round);
        self.unsubscribe(slot);
        if let Phase::Ready { module } = phase {
            self.release(module);
        }
        if is_round {
            self.end_round(slot, outcome, now);
        } else {
            self.report(slot, outcome, false, now);
        }
    }

    /// Sends a round's update on its way, and reports it afterwards; what failed is reported at
    /// once.
    fn end_round(&mut self, slot: Slot, outcome: Outcome<E::Buffer>, now: Instant) {
        if let Err(reason) = outcome.and_then(|output| self.post_update(slot, output)) {
            self.report_round(slot, Err(reason), false, now);
        }
    }

    /// Reports a round's task and frees its slot.
    pub(super) fn report_round(
        &mut self,
        slot: Slot,
        outcome: Outcome<E::Buffer>,
        fallback: bool,
        now: Instant,
    ) {
        self.cancel_run_exchange(slot);
        self.report(slot, outcome, fallback, now);
    }

    /// Ends a run that has not begun.
    pub(super) fn fail(&mut self, slot: Slot, reason: Text, now: Instant) {
        self.cancel_run_exchange(slot);
        self.unsubscribe(slot);
        if let Phase::Gathering { module, .. } = self.run(slot).phase {
            self.release(module);
        }
        let run = &mut self.runs[slot.index()];
        if run.purpose == Purpose::Daemon {
            // Its success has not been told yet.
            run.purpose = Purpose::Task;
        }
        run.monitor = Monitor::OFF;
        run.phase = Phase::Failed;
        run.exit = Some(Exit {
            slot,
            result: Err(Failure::Trap(reason)),
            output: None,
            usage: RunUsage::default(),
        });
        self.finish(slot, now);
    }

    pub(super) fn fail_deployment(&mut self, index: usize, reason: Text, now: Instant) {
        let deployment = core::mem::replace(&mut self.deployments[index], Deployment::VACANT);
        let due = self.due(deployment.received, now);
        log::warn!("latent task {} failed: {reason}", deployment.id);
        self.post(&deployment.id, results(Err(reason)), due);
    }

    /// Reports a run and frees its slot.
    #[inline(never)]
    fn report(&mut self, slot: Slot, outcome: Outcome<E::Buffer>, fallback: bool, now: Instant) {
        let run = core::mem::replace(&mut self.runs[slot.index()], Run::VACANT);
        match &outcome {
            Ok(result) => {
                let result = clip(result.as_str(), SHOWN);
                log::info!("task {} completed: '{result}'", run.id);
            }
            Err(reason) => log::warn!("task {} failed: {reason}", run.id),
        }
        let stopped = run.stopped;
        let env = run
            .packed
            .env(&self.text[slot.index() * self.share..]);
        let body = match &run.purpose {
            Purpose::Task => Some(Body::Results { outcome, stopped }),
            Purpose::Round => {
                // The run is none without a round.
                Round::of(env, self.config.services).map(|round| {
                    let update = Update::new(&round, outcome, fallback);
                    Body::Update { update, stopped }
                })
            }
            Purpose::Daemon => None,
            Purpose::Invocation(id) => Some(Body::InvokeResults {
                invocation: id.clone(),
                outcome,
            }),
        };
        let due = match body {
            Some(Body::Results { .. } | Body::Update { .. }) => self.due(run.received, now),
            _ => now,
        };
        // A short invocation would double its messages by a sample.
        let invoked = matches!(run.purpose, Purpose::Invocation(_));
        let worth = !invoked || run.monitor.latest().aggregate.count > 1;
        // A sample is worth sending, but not worth a place that results need.
        if worth && run.monitor.exports() && self.connected && self.outbox.room() > 1 {
            self.post(&run.id, Body::Sample(run.monitor), now);
        }
        if let Some(body) = body {
            self.post(&run.id, body, due);
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
        match Id::try_from(id) {
            Ok(id) => self.post(&id, body, self.due(now, now)),
            Err(_) => debug_assert!(false, "ids are bounded when they are read"),
        }
    }

    pub(super) fn refuse_invocation(
        &mut self,
        id: &str,
        invocation: &str,
        reason: Text,
        now: Instant,
    ) {
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

    /// When the results of a start are due that came at `received`: not so soon that the manager
    /// would overwrite them.
    pub(super) fn due(&self, received: Instant, now: Instant) -> Instant {
        (received + self.config.result_delay).max(now)
    }

    pub(super) fn post(&mut self, id: &Id, body: Body<E::Buffer>, due: Instant) {
        if !self.outbox.post(id, body, due) {
            log::error!("the outbox is full: a message about task {id} is lost");
        }
    }

    /// Acts on deadlines that have passed.
    pub(super) fn expire(&mut self, now: Instant) {
        for slot in self.slots() {
            let run = self.run(slot);
            if run.expires.is_some_and(|at| at <= now)
                && let Some(limit) = run.budget.deadline
            {
                self.end(slot, Ending::Deadline(limit), now);
            }
            match self.run(slot).phase {
                Phase::Fetching { fetch, until } if until <= now => {
                    self.fail(slot, self.late(fetch), now);
                }
                Phase::Gathering { until, .. } if until <= now => self.gathers_late(slot, now),
                _ => {}
            }
        }
        for d in 0..self.deployments.len() {
            if let Phase::Fetching { fetch, until } = self.deployments[d].phase
                && until <= now
                && self.outbox.room() > 0
            {
                self.fail_deployment(d, self.late(fetch), now);
            }
        }
        for index in 0..self.fetches.len() {
            let fetch = &self.fetches[index];
            // The registry sends on for whoever asks again; a server only for as long as it is heard.
            let is_over = fetch.is_http() || fetch.began() + self.config.assembly_ttl <= now;
            if !fetch.is_vacant() && is_over && !self.has_waiters(index) {
                log::warn!("incomplete module {} dropped", fetch.location());
                self.drop_fetch(index);
            }
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
