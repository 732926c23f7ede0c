//! What the manager asks for.

use super::{
    Agent, LATE,
    outbox::Body,
    tasks::{Deployed, DeploymentRecord, Ending, Purpose, State, TaskRecord, Tasks, Texts},
};
use crate::{
    engine::{Engine, Slot, Text, text},
    task::{budget::Budget, learning::Round},
    time::Instant,
    wire::{Inbound, Invoke, MonitoringProfile, Pairs, Rejected, Scratch, Start, Stop},
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
        let deployment = self.tasks.find_deployment(id);
        let deployment = deployment.and_then(|index| self.tasks.deployment(index));
        let known = self.tasks.find_task(id).is_some()
            || deployment.is_some_and(|d| d.state() != Deployed::Failed)
            || self.outbox.holds_results(id);
        if known {
            log::info!("start of {id} ignored: it has been started already");
        }
        known
    }

    #[inline(never)]
    fn start_run(&mut self, start: &Start<'_>, now: Instant) -> Result<(), Text> {
        self.accepts(start.encrypted)?;
        self.tasks.check_vacancy()?;
        let budget = Budget::from_env(|key| start.env.get(key), &self.config.limits)?;
        let round = Round::of(start.env, self.config.services).filter(|_| !start.daemon);
        if let Some(round) = &round {
            round.check(self.config.proplet_id)?;
        }
        let purpose = match round {
            _ if start.daemon => Purpose::Daemon,
            Some(_) => Purpose::Round,
            None => Purpose::Task,
        };
        let record = self.record(&texts_of(start), purpose, start.monitoring_profile, now)?;
        let state = self.source(start, &budget, now)?;
        self.accept(record, state, &budget, now)
    }

    /// Makes a task's record, if the arena has room.
    fn record(
        &mut self,
        texts: &Texts<'_>,
        purpose: Purpose,
        profile: MonitoringProfile,
        now: Instant,
    ) -> Result<TaskRecord<E>, Text> {
        let need = Tasks::<E>::record_bytes(texts, &profile)?;
        self.make_room(need, RECORD)?;
        Tasks::record(&mut self.engine, texts, purpose, profile, now)
    }

    #[inline(never)]
    fn deploy(&mut self, start: &Start<'_>, now: Instant) -> Result<(), Text> {
        self.accepts(start.encrypted)?;
        // One of this id that could not be restored is replaced.
        if let Some(index) = self.tasks.find_deployment(start.id) {
            self.tasks.undeploy(index);
            self.forget_deployment(index);
        }
        let index = self.tasks.vacant_deployment()?;
        let budget = Budget::from_env(|key| start.env.get(key), &self.config.limits)?;
        let record = self.deployment_record(&texts_of(start), start.monitoring_profile, now)?;
        let state = self.source(start, &budget, now)?;
        self.tasks.deploy(index, record);
        match state {
            Deployed::Ready { module } => self
                .deployed(index, module)
                .inspect_err(|_| drop(self.tasks.undeploy(index))),
            state => {
                self.tasks.set_deployed(index, state);
                Ok(())
            }
        }
    }

    /// Makes a deployment's record, if the arena has room. Its module is next.
    pub(super) fn deployment_record(
        &mut self,
        texts: &Texts<'_>,
        profile: MonitoringProfile,
        received: Instant,
    ) -> Result<DeploymentRecord<E>, Text> {
        let need = DeploymentRecord::<E>::bytes(texts)?;
        self.make_room(need, RECORD)?;
        DeploymentRecord::new(&mut self.engine, texts, profile, received)
    }

    fn accepts(&self, encrypted: bool) -> Result<(), Text> {
        if self.shutting_down {
            return Err(Ending::Shutdown.reason(None));
        }
        if encrypted {
            return Err(text(format_args!("TEE runtime not available")));
        }
        Ok(())
    }

    fn stop(&mut self, stop: &Stop<'_>, now: Instant) {
        if !stop.is_for(self.config.proplet_id) {
            return;
        }
        if let Some(index) = self.tasks.find_deployment(stop.id) {
            self.undeploy(index, now);
        } else if let Some(slot) = self.tasks.find_task(stop.id) {
            self.end(slot, Ending::Stopped, now);
        } else if !self.outbox.stop(stop.id) {
            log::info!("stop of {} ignored: no such task", stop.id);
        }
    }

    #[inline(never)]
    fn undeploy(&mut self, index: u8, now: Instant) {
        while let Some(slot) = self.tasks.detach_invocation(index) {
            self.end(slot, Ending::Stopped, now);
        }
        let Some(deployment) = self.tasks.undeploy(index) else {
            return;
        };
        log::info!("latent task {} stopped", deployment.id());
        self.forget_deployment(index);
        if let Deployed::Ready { module } = deployment.state() {
            self.release(module);
        }
        let due = self.due(deployment.head().received, now);
        let body = Body::Results {
            outcome: Err(Ending::Stopped.reason(None)),
            stopped: true,
        };
        self.post(deployment.id(), body, due);
    }

    /// Ends a task from outside. Its exit follows, or comes at once if it has not begun.
    pub(super) fn end(&mut self, slot: Slot, ending: Ending, now: Instant) {
        if ending == Ending::Stopped {
            self.tasks.set_stopped(slot);
        }
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        match task.state() {
            State::Fetching { .. } | State::Gathering { .. } => {
                self.fail(slot, ending.reason(None), now);
            }
            State::Posting { .. } => {
                self.cancel_run_exchange(slot);
                self.posted(slot, Err(ending.reason(None)), now);
            }
            // Only its report is left, if anything.
            State::Accepted | State::Failed { .. } | State::Posted { .. } => {}
            // The first reason is the one that is told.
            State::Running { ending: None, .. } => {
                self.tasks.set_ending(slot, ending, now + LATE);
                self.engine.interrupt(slot);
            }
            State::Running { .. } => {}
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
        if let Err(reason) = self.start_invocation(invoke, now) {
            self.refuse_invocation(invoke.id, invocation, reason, now);
        }
    }

    fn is_invoked(&self, invocation: &str) -> bool {
        !invocation.is_empty()
            && (self.outbox.holds_invocation(invocation)
                || self.tasks.find_invocation(invocation).is_some())
    }

    #[inline(never)]
    fn start_invocation(&mut self, invoke: &Invoke<'_>, now: Instant) -> Result<(), Text> {
        self.accepts(false)?;
        // The manager looks for these words to deploy the task again.
        let unknown = || {
            text(format_args!(
                "task {} has not been precompiled; deploy it as a latent task first",
                invoke.id
            ))
        };
        let index = self.tasks.find_deployment(invoke.id).ok_or_else(unknown)?;
        let deployment = self.tasks.deployment(index).ok_or_else(unknown)?;
        let module = match deployment.state() {
            Deployed::Ready { module } => module,
            Deployed::Failed => {
                return Err(text(format_args!(
                    "task {} could not be restored after a restart: deploy it again, or see the log",
                    invoke.id
                )));
            }
            Deployed::Fetching { .. } => {
                return Err(text(format_args!(
                    "task {} still waits for its module",
                    invoke.id
                )));
            }
        };
        self.tasks.check_vacancy()?;
        let profile = deployment.head().profile;
        let texts = texts_of_invocation(deployment, invoke);
        let variable = |key: &str| invoke.env.get(key).or_else(|| texts.env[0].get(key));
        let budget = Budget::from_env(variable, &self.config.limits)?;
        let need = Tasks::<E>::record_bytes(&texts, &profile)?;
        self.make_room(need, RECORD)?;
        let deployment = self.tasks.deployment(index).ok_or_else(unknown)?;
        let texts = texts_of_invocation(deployment, invoke);
        let purpose = Purpose::Invocation(Some(index));
        let record = Tasks::record(&mut self.engine, &texts, purpose, profile, now)?;
        self.accept(record, Deployed::Ready { module }, &budget, now)
    }

    /// Gives a task a slot, and begins it if it has its module.
    fn accept(
        &mut self,
        record: TaskRecord<E>,
        state: Deployed,
        budget: &Budget,
        now: Instant,
    ) -> Result<(), Text> {
        let Ok(slot) = self.tasks.insert(record) else {
            return self.tasks.check_vacancy();
        };
        let begun = match state {
            Deployed::Ready { module } => self.launch(slot, module, budget, now),
            Deployed::Fetching { fetch, until } => {
                let state = State::Fetching { fetch, until };
                self.tasks.set_state(slot, state);
                Ok(())
            }
            Deployed::Failed => Ok(()),
        };
        begun.inspect_err(|_| drop(self.tasks.remove(slot)))
    }
}

/// What a record has, as errors name it.
const RECORD: &str = "the task's id, name, inputs and env";

fn texts_of_invocation<'t, E: Engine>(
    deployment: &'t DeploymentRecord<E>,
    invoke: &Invoke<'t>,
) -> Texts<'t> {
    Texts {
        id: deployment.id(),
        invocation: invoke.invocation_id.unwrap_or_default(),
        name: deployment.name(),
        inputs: match invoke.inputs.is_empty() {
            true => deployment.inputs(),
            false => invoke.inputs,
        },
        env: [deployment.env(), invoke.env],
    }
}

/// The texts of a start.
fn texts_of<'s>(start: &Start<'s>) -> Texts<'s> {
    Texts {
        id: start.id,
        invocation: "",
        name: start.entry().unwrap_or_default(),
        inputs: start.inputs,
        env: [start.env, Pairs::EMPTY],
    }
}
