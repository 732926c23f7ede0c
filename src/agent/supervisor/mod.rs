//! The life of a task, from its start to its report: the owners' calls in their order.
//!
//! Each file calls those above it in this list alone:
//!
//! - this one: the owners, and small steps that all need;
//! - `broker`: the broker's session, and what it is subscribed to;
//! - `guest`: messages of guests;
//! - `note`: tasks that are noted in the store, and reports of those that a restart has interrupted;
//! - `report`: ends of tasks, on their way to the outbox;
//! - `run`: runs, from the instance to the exit;
//! - `round`: federated rounds, before and after the run;
//! - `deploy`: latent deployments;
//! - `start`: commands of the manager;
//! - `arrival`: arrivals of modules and data, and deadlines.

mod arrival;
mod broker;
mod deploy;
mod guest;
mod note;
mod report;
mod round;
mod run;
mod start;

use crate::{
    agent::{
        modules::{Modules, Usage, Wanted},
        notes::Notes,
        outbox::Outbox,
        reason::{Reason, Refusal},
        rounds::Rounds,
        session::Session,
        subscriptions::Subscriptions,
        tasks::{Deployed, TaskRecord, TaskState, Tasks, Texts},
        view::{Stage, TaskView},
    },
    config::Config,
    engine::{Engine, ModuleId, RunUsage, Slot},
    memory::Purpose,
    module::incoming::Body,
    task::budget::Budget,
    wire::{Error, Pairs, Start, Topics},
};
use core::fmt;

/// Conducts the owners of tasks, modules, notes, rounds, subscriptions and messages, and the engine.
#[derive(Debug)]
pub(super) struct Supervisor<'a, E: Engine> {
    pub(super) config: Config<'a>,
    pub(super) topics: Topics,
    pub(super) engine: E,
    pub(super) tasks: Tasks<'a, E>,
    pub(super) modules: Modules<'a, E>,
    pub(super) notes: Notes,
    pub(super) rounds: Rounds<E::Buffer, Slot>,
    pub(super) subscriptions: Subscriptions<E::Buffer>,
    pub(super) session: Session,
    pub(super) outbox: Outbox<'a, E::Buffer>,
    pub(super) is_shutting_down: bool,
}

impl<E: Engine> Supervisor<'_, E> {
    /// Words in the arena, for a reason.
    pub(super) fn words(&self, args: fmt::Arguments<'_>) -> Reason<E::Buffer> {
        self.engine.words(args).into()
    }

    pub(super) fn make_room(
        &mut self,
        need: usize,
        purpose: Purpose,
    ) -> Result<(), Reason<E::Buffer>> {
        let spare = &mut |lack| self.outbox.free_bytes(lack);
        Ok(self.modules.make_room(need, purpose, &self.engine, spare)?)
    }

    pub(super) fn release(&mut self, module: ModuleId) {
        self.modules.release(module, &mut self.engine);
    }

    pub(super) fn check_admission(&self, is_encrypted: bool) -> Result<(), Refusal> {
        match (self.is_shutting_down, is_encrypted) {
            (true, _) => Err(Refusal::ShuttingDown),
            (false, true) => Err(Refusal::Encrypted),
            (false, false) => Ok(()),
        }
    }

    pub(super) fn parse_budget<'t>(
        &self,
        get: impl Fn(&str) -> Option<&'t str>,
    ) -> Result<Budget, Reason<E::Buffer>> {
        let budget = Budget::from_env(get, &self.config.limits);
        budget.map_err(|e| self.words(format_args!("{e}")))
    }

    /// Limits of a task that was accepted with them.
    pub(super) fn budget(&self, slot: Slot) -> Budget {
        let limits = &self.config.limits;
        let env = self.tasks.get(slot).map(TaskRecord::env);
        let env = env.unwrap_or_default();
        let budget = Budget::from_env(|key| env.get(key), limits);
        budget.unwrap_or_else(|_| Budget::of_device(limits))
    }

    /// The tasks, by slot, and then the deployments.
    pub(in crate::agent) fn views(&self) -> impl Iterator<Item = TaskView<'_>> {
        let tasks = self.tasks.all().map(|(slot, task)| TaskView {
            slot: Some(slot),
            id: task.id(),
            invocation: task.invocation(),
            name: task.name(),
            stage: self.stage(slot, task.state()),
            received: task.task().received,
            module: task.state().module(),
            usage: self.engine.usage(slot),
        });
        let deployments = self.tasks.deployments().map(|(_, deployment)| {
            let (stage, module) = match deployment.state() {
                Deployed::Ready { module } => (Stage::Deployed, Some(module)),
                Deployed::Fetching { .. } => (Stage::Fetching, None),
                Deployed::WithoutModule | Deployed::Failed => (Stage::Failed, None),
            };
            TaskView {
                slot: None,
                id: deployment.id(),
                invocation: None,
                name: deployment.name(),
                stage,
                received: deployment.head().received,
                module,
                usage: RunUsage::default(),
            }
        });
        tasks.chain(deployments)
    }

    pub(super) fn stage(&self, slot: Slot, state: &TaskState<E>) -> Stage {
        match state {
            TaskState::Accepted | TaskState::Fetching { .. } => Stage::Fetching,
            TaskState::Gathering { .. } => Stage::Gathering,
            TaskState::Running { .. } if self.engine.has_exited(slot) => Stage::Reporting,
            TaskState::Running { stop: None, .. } => Stage::Running,
            TaskState::Running { .. } => Stage::Stopping,
            TaskState::Failed { .. } | TaskState::Posting { .. } | TaskState::Posted { .. } => {
                Stage::Reporting
            }
        }
    }
}

/// The module that came with a start, or its fault.
type File<B> = Option<Result<Body<B>, Error>>;

fn wanted<'s, B>(start: &Start<'s>, file: File<B>, usage: Usage) -> Wanted<'s, B> {
    Wanted {
        image: start.image_url.unwrap_or_default(),
        file,
        usage,
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
