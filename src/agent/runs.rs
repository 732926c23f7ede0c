//! From the launch of a run to its report.

use super::{
    Agent, FALLBACKS, Id, fits,
    outbox::{Body, Outcome},
    records::{Deployment, Ending, Phase, Purpose, Run},
};
use crate::{
    engine::{Call, Engine, Exit, Failure, ModuleId, Params, Slot, Text, clip, text},
    task::{args, monitor::Monitor},
    time::Instant,
};

impl<E: Engine> Agent<'_, E> {
    /// Calls a run's function in a fresh instance of its module.
    pub(super) fn launch(
        &mut self,
        slot: Slot,
        module: ModuleId,
        now: Instant,
    ) -> Result<(), Text> {
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
            let (id, received) = (run.id.clone(), run.received);
            self.post(&id, results(Ok(Text::new())), self.due(received, now));
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

    pub(super) fn deployed(&mut self, index: u8, module: ModuleId) -> Result<(), Text> {
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

    pub(super) fn collect(&mut self, now: Instant) {
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
    pub(super) fn fail(&mut self, slot: Slot, reason: Text, now: Instant) {
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

    pub(super) fn fail_deployment(&mut self, index: usize, reason: Text, now: Instant) {
        let deployment = core::mem::replace(&mut self.deployments[index], Deployment::VACANT);
        let due = self.due(deployment.received, now);
        log::warn!("latent task {} failed: {reason}", deployment.id);
        self.post(&deployment.id, results(Err(reason)), due);
    }

    fn report(&mut self, run: &Run, outcome: Outcome, now: Instant) {
        match &outcome {
            Ok(result) => log::info!("task {} completed: '{result}'", run.id),
            Err(reason) => log::warn!("task {} failed: {reason}", run.id),
        }
        let body = match &run.purpose {
            Purpose::Task => Some(Body::Results {
                outcome,
                stopped: run.ending == Some(Ending::Stopped),
            }),
            Purpose::Daemon => None,
            Purpose::Invocation(id) => Some(Body::InvokeResults {
                invocation: id.clone(),
                outcome,
            }),
        };
        let due = match body {
            Some(Body::Results { .. }) => self.due(run.received, now),
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
        match Id::try_from(id) {
            Ok(id) => self.post(&id, results(Err(reason)), self.due(now, now)),
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

    pub(super) fn post(&mut self, id: &Id, body: Body, due: Instant) {
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
                && !self.has_waiters(index)
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

/// The export that a task of this name calls.
fn entry<'n, E: Engine>(
    engine: &E,
    module: ModuleId,
    name: &'n str,
) -> Result<(&'n str, Params), Text> {
    for export in core::iter::once(name).chain(FALLBACKS) {
        if let Some(params) = engine.params(module, export)? {
            return Ok((export, params));
        }
    }
    Err(text(format_args!(
        "function '{name}' not found, and fallbacks main, run and _start neither"
    )))
}

/// Results that no stop command brought about.
fn results(outcome: Outcome) -> Body {
    Body::Results {
        outcome,
        stopped: false,
    }
}
