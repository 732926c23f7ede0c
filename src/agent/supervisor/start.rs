//! Commands of the manager.

use super::{File, Supervisor, texts_of, wanted};
use crate::{
    agent::{
        modules::{Obtained, Usage},
        reason::{Reason, Refusal},
        tasks::{
            Deployed, DeploymentRecord, StopReason, TaskKind, TaskRecord, TaskState, Tasks, Texts,
        },
    },
    engine::{Engine, ModuleId, Slot},
    memory::Purpose,
    task::{budget::Budget, learning::Round},
    time::Instant,
    wire::{Invoke, MonitoringProfile, Start},
};

impl<E: Engine> Supervisor<'_, E> {
    /// Starts or deploys a task, whose module is `file` if it came with it, or refuses it.
    pub(in crate::agent) fn start(
        &mut self,
        start: &Start<'_>,
        file: File<E::Buffer>,
        now: Instant,
    ) {
        if self.is_known(start.id) {
            return;
        }
        let accepted = match start.latent {
            true => self.deploy(start, file, now),
            false => self.start_task(start, file, now),
        };
        let Err(reason) = accepted else { return };
        match Round::of(start.env, self.config.services) {
            Some(round) if !start.latent && !start.daemon => {
                self.refuse_round(start.id, &round, reason, now);
            }
            _ => self.refuse(start.id, reason, now),
        }
    }

    /// Whether a start of this id has been taken and its results, if any, are not delivered yet:
    /// another one is the same start again. After a stop it is a new one, however soon it comes. One that a
    /// restart has interrupted is known until its report is delivered.
    pub(in crate::agent) fn is_known(&mut self, id: &str) -> bool {
        let deployment = self.tasks.find_deployment(id);
        let deployment = deployment.and_then(|index| self.tasks.deployment(index));
        let known = self.tasks.find_task(id).is_some()
            || deployment.is_some_and(|d| d.state() != Deployed::WithoutModule)
            || self.outbox.holds_results(id)
            || self.is_owed(id);
        if known {
            log::info!("start of {id} ignored: it has been started already");
        }
        known
    }

    #[inline(never)]
    pub(super) fn start_task(
        &mut self,
        start: &Start<'_>,
        file: File<E::Buffer>,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        self.check_admission(start.encrypted)?;
        self.tasks.check_vacancy()?;
        let budget = self.parse_budget(|key| start.env.get(key))?;
        let round = Round::of(start.env, self.config.services).filter(|_| !start.daemon);
        if let Some(round) = &round {
            let checked = round.check(self.config.proplet_id);
            checked.map_err(|e| self.words(format_args!("{e}")))?;
        }
        let kind = match round {
            _ if start.daemon => TaskKind::Daemon,
            Some(_) => TaskKind::Round,
            None => TaskKind::Task,
        };
        let texts = texts_of(start);
        let record = self.record(&texts, kind, start.monitoring_profile, now)?;
        let wanted = wanted(start, file, Usage::Run(budget.limits));
        let spare = &mut |lack| self.outbox.free_bytes(lack);
        match self.modules.obtain(wanted, &mut self.engine, spare)? {
            Obtained::Ready(module) => self.admit(record, module, &budget, now),
            Obtained::Waiting(fetch) => {
                let until = now + self.config.fetch_timeout;
                match self.tasks.insert(record) {
                    Ok(slot) => drop(
                        self.tasks
                            .set_state(slot, TaskState::Fetching { fetch, until }),
                    ),
                    Err(_) => self.modules.leave(fetch),
                }
                Ok(())
            }
        }
    }

    /// Makes a task's record, if the arena has room.
    pub(super) fn record(
        &mut self,
        texts: &Texts<'_>,
        kind: TaskKind,
        profile: MonitoringProfile,
        now: Instant,
    ) -> Result<TaskRecord<E>, Reason<E::Buffer>> {
        let need = Tasks::<E>::record_bytes(texts, &profile)?;
        self.make_room(need, Purpose::Record)?;
        Tasks::record(&self.engine, texts, kind, profile, now)
    }

    /// Gives a task a slot and begins it. The use of its module is the task's from then on.
    pub(super) fn admit(
        &mut self,
        record: TaskRecord<E>,
        module: ModuleId,
        budget: &Budget,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        let Ok(slot) = self.tasks.insert(record) else {
            self.release(module);
            return Ok(self.tasks.check_vacancy()?);
        };
        let launched = self.launch(slot, module, budget, now);
        launched.inspect_err(|_| drop(self.tasks.remove(slot)))
    }

    /// Calls a latent deployment, or refuses that.
    pub(in crate::agent) fn invoke(&mut self, invoke: &Invoke<'_>, now: Instant) {
        let invocation = invoke.invocation_id.unwrap_or_default();
        if !invocation.is_empty()
            && (self.outbox.holds_invocation(invocation)
                || self.tasks.find_invocation(invocation).is_some())
        {
            log::info!("invocation {invocation} ignored: it has been started already");
            return;
        }
        if let Err(reason) = self.start_invocation(invoke, now) {
            self.refuse_invocation(invoke.id, invocation, reason, now);
        }
    }

    #[inline(never)]
    pub(super) fn start_invocation(
        &mut self,
        invoke: &Invoke<'_>,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        self.check_admission(false)?;
        let index = self.tasks.find_deployment(invoke.id);
        let index = index.ok_or(Refusal::NotDeployed)?;
        let deployment = self.tasks.deployment(index).ok_or(Refusal::NotDeployed)?;
        let module = match deployment.state() {
            Deployed::Ready { module } => module,
            Deployed::WithoutModule => return Err(Refusal::NotRestored.into()),
            Deployed::Failed => return Err(Refusal::NotDeployed.into()),
            Deployed::Fetching { .. } => return Err(Refusal::NotReady.into()),
        };
        self.tasks.check_vacancy()?;
        let profile = deployment.head().profile;
        let texts = texts_of_invocation(deployment, invoke);
        let variable = |key: &str| invoke.env.get(key).or_else(|| texts.env[0].get(key));
        let budget = self.parse_budget(variable)?;
        let need = Tasks::<E>::record_bytes(&texts, &profile)?;
        self.make_room(need, Purpose::Record)?;
        let deployment = self.tasks.deployment(index).ok_or(Refusal::NotDeployed)?;
        let texts = texts_of_invocation(deployment, invoke);
        let kind = TaskKind::Invocation(Some(index));
        let record = Tasks::record(&self.engine, &texts, kind, profile, now)?;
        self.modules.acquire(module);
        self.admit(record, module, &budget, now)
    }

    /// Stops a task or a deployment with its invocations.
    pub(in crate::agent) fn stop(&mut self, id: &str, now: Instant) {
        if let Some(index) = self.tasks.find_deployment(id) {
            self.undeploy(index, now);
        } else if let Some(slot) = self.tasks.find_task(id) {
            self.stop_task(slot, StopReason::Command, now);
        } else if !self.outbox.stop(id) {
            log::info!("stop of {id} ignored: no such task");
        }
    }

    /// Stops every task, and takes no more.
    pub(in crate::agent) fn shut_down(&mut self, now: Instant) {
        self.is_shutting_down = true;
        for index in 0..self.tasks.capacity() {
            self.stop_task(Slot::at(index), StopReason::Shutdown, now);
        }
    }
}

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
