//! What the manager asks for.

use super::{
    Agent, bounded,
    outbox::Body,
    records::{Deployment, Ending, Packed, Phase, Purpose, Run, vacant},
};
use crate::{
    engine::{Engine, Slot, Text, text},
    task::{budget::Budget, learning::Round, monitor::Monitor},
    time::Instant,
    wire::{Inbound, Invoke, List, MonitoringProfile, Pairs, Rejected, Scratch, Start, Stop},
};

impl<E: Engine> Agent<'_, E> {
    pub(super) fn message(&mut self, topic: &str, payload: &[u8], now: Instant) {
        let Some(kind) = self.topics.classify(topic) else {
            self.other_message(topic, payload, now);
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
                if self.ignores(id) {
                    return;
                }
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
        if self.ignores(start.id) {
            return;
        }
        let accepted = if start.latent {
            self.deploy(start, now)
        } else {
            self.start_run(start, now)
        };
        if let Err(reason) = accepted {
            match Round::of(start.env, self.config.services) {
                Some(round) if !start.latent && !start.daemon => {
                    self.refuse_round(start.id, &round, reason, now);
                }
                _ => self.refuse(start.id, reason, now),
            }
        }
    }

    /// Whether a start of this id has been taken and its results, if any, are not delivered yet:
    /// another one is the same start again. After a stop it is a new one, however soon it comes.
    fn ignores(&self, id: &str) -> bool {
        let deployment = self.find_deployment(id);
        let known = self.find_task(id).is_some()
            || deployment.is_some_and(|d| self.deployments[usize::from(d)].phase != Phase::Failed)
            || self.outbox.holds_results(id);
        if known {
            log::info!("start of {id} ignored: it has been started already");
        }
        known
    }

    fn find_task(&self, id: &str) -> Option<Slot> {
        self.slots().find(|slot| {
            let run = self.run(*slot);
            run.phase != Phase::Vacant
                && run.id == id
                && !run.stopped
                && !matches!(run.purpose, Purpose::Invocation(_))
        })
    }

    fn find_deployment(&self, id: &str) -> Option<u8> {
        (0..=u8::MAX)
            .zip(self.deployments.iter())
            .find_map(|(index, d)| (d.phase != Phase::Vacant && d.id == id).then_some(index))
    }

    #[inline(never)]
    fn start_run(&mut self, start: &Start<'_>, now: Instant) -> Result<(), Text> {
        self.accepts(start.encrypted)?;
        let slot = self.vacant_slot()?;
        let budget = Budget::from_env(|key| start.env.get(key), &self.config.limits)?;
        let round = Round::of(start.env, self.config.services).filter(|_| !start.daemon);
        if let Some(round) = &round {
            round.check(self.config.proplet_id)?;
        }
        let packed = Packed::store(self.run_text(slot), start.inputs, &[start.env])?;
        let purpose = match round {
            _ if start.daemon => Purpose::Daemon,
            Some(_) => Purpose::Round,
            None => Purpose::Task,
        };
        let (id, name) = (
            bounded("id", start.id)?,
            bounded("name", start.entry().unwrap_or_default())?,
        );
        // In place: a record is too large to be made on the stack.
        let run = &mut self.runs[slot.index()];
        *run = Run::VACANT;
        (run.id, run.name) = (id, name);
        (run.purpose, run.packed, run.budget) = (purpose, packed, budget);
        run.received = now;
        run.monitor = Monitor::new(start.monitoring_profile, now);
        match self.source(start, &budget, now)? {
            Phase::Ready { module } => self.launch(slot, module, now),
            phase => {
                self.runs[slot.index()].phase = phase;
                Ok(())
            }
        }
    }

    #[inline(never)]
    fn deploy(&mut self, start: &Start<'_>, now: Instant) -> Result<(), Text> {
        self.accepts(start.encrypted)?;
        // One of this id that could not be restored is replaced.
        if let Some(index) = self.find_deployment(start.id) {
            self.deployments[usize::from(index)] = Deployment::VACANT;
            self.forget_deployment(index);
        }
        let index = vacant(self.deployments.iter().map(|d| d.phase)).map(|i| i as u8).ok_or_else(|| {
            text(format_args!(
                "no room for a deployment: all {} are taken",
                self.deployments.len()
            ))
        })?;
        let budget = Budget::from_env(|key| start.env.get(key), &self.config.limits)?;
        let name = start.entry().unwrap_or_default();
        let (names, profile) = ((start.id, name), start.monitoring_profile);
        self.note_deployment(index, names, start.inputs, start.env, profile, now)?;
        match self.source(start, &budget, now)? {
            Phase::Ready { module } => self.deployed(index, module),
            phase => {
                self.deployments[usize::from(index)].phase = phase;
                Ok(())
            }
        }
    }

    /// Fills a deployment's record, of this id and name, which is vacant still. Its module is next.
    pub(super) fn note_deployment(
        &mut self,
        index: u8,
        (id, name): (&str, &str),
        inputs: List<'_>,
        env: Pairs<'_>,
        profile: MonitoringProfile,
        received: Instant,
    ) -> Result<(), Text> {
        let packed = Packed::store(self.deployment_text(index), inputs, &[env])?;
        self.deployments[usize::from(index)] = Deployment {
            phase: Phase::Vacant,
            id: bounded("id", id)?,
            name: bounded("name", name)?,
            packed,
            received,
            profile,
        };
        Ok(())
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
        } else if !self.outbox.stop(stop.id) {
            log::info!("stop of {} ignored: no such task", stop.id);
        }
    }

    #[inline(never)]
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
        self.forget_deployment(index);
        if let Phase::Ready { module } = deployment.phase {
            self.release(module);
        }
        let due = self.due(deployment.received, now);
        self.post(
            &deployment.id,
            Body::Results {
                outcome: Err(Ending::Stopped.reason()),
                stopped: true,
            },
            due,
        );
    }

    /// Ends a run from outside. Its exit follows, or comes at once if it has not begun.
    pub(super) fn end(&mut self, slot: Slot, ending: Ending, now: Instant) {
        let run = &mut self.runs[slot.index()];
        run.stopped |= ending == Ending::Stopped;
        match run.phase {
            Phase::Fetching { .. } | Phase::Gathering { .. } => {
                self.fail(slot, ending.reason(), now);
            }
            Phase::Posting => {
                self.cancel_run_exchange(slot);
                self.posted(slot, Err(ending.reason()), now);
            }
            // Only its report is left, if anything.
            Phase::Vacant | Phase::Failed | Phase::Posted { .. } => {}
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

    #[inline(never)]
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
        let module = match self.deployments[usize::from(index)].phase {
            Phase::Ready { module } => module,
            Phase::Failed => {
                return Err(text(format_args!(
                    "task {} could not be restored after a restart: deploy it again, or see the log",
                    invoke.id
                )));
            }
            _ => {
                return Err(text(format_args!(
                    "task {} still waits for its module",
                    invoke.id
                )));
            }
        };
        let slot = self.vacant_slot()?;
        // Records of deployments have their text behind that of the runs.
        let (run_text, deployment_text) = {
            let (runs, deployments) = self.text.split_at_mut(self.runs.len() * self.share);
            (
                &mut runs[slot.index() * self.share..][..self.share],
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
        self.runs[slot.index()] = Run {
            purpose: Purpose::Invocation(bounded("invocation_id", invocation)?),
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
}
