//! What a port shows of the agent's records.

use super::{
    Agent,
    tasks::{Deployed, State},
};
use crate::{
    engine::{Engine, ModuleId, RunUsage, Slot},
    module::table::Digest,
    time::Instant,
};

/// What a slot or a deployment is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waits for its module.
    Fetching,
    /// Waits for the data of its round.
    Gathering,
    /// A guest runs.
    Running,
    /// Its guest is to end.
    Stopping,
    /// Its results wait for room in the outbox, or its update is on its way.
    Reporting,
    /// A deployment that can be invoked.
    Deployed,
    /// A deployment that could not be restored.
    Failed,
}

/// A task that runs or waits for its module, or a latent deployment.
#[derive(Debug, Clone, Copy)]
pub struct TaskView<'a> {
    /// The slot; none for a deployment.
    pub slot: Option<Slot>,
    /// The task's id.
    pub id: &'a str,
    /// The invocation's id, if it is one.
    pub invocation: Option<&'a str>,
    /// Name of the export.
    pub name: &'a str,
    /// What it is busy with.
    pub stage: Stage,
    /// When its start came.
    pub received: Instant,
    /// Its module, as soon as it has it.
    pub module: Option<ModuleId>,
    /// What its run has used.
    pub usage: RunUsage,
}

/// A module that is loaded.
#[derive(Debug, Clone, Copy)]
pub struct ModuleView {
    /// Its entry.
    pub id: ModuleId,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Runs and deployments that share it.
    pub users: u32,
}

impl<E: Engine> Agent<'_, E> {
    /// What runs or waits for its module, by slot, and then what is deployed.
    pub fn tasks(&self) -> impl Iterator<Item = TaskView<'_>> {
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
        let deployments = self.tasks.deployments().map(|(_, deployment)| TaskView {
            slot: None,
            id: deployment.id(),
            invocation: None,
            name: deployment.name(),
            stage: match deployment.state() {
                Deployed::Ready { .. } => Stage::Deployed,
                Deployed::Fetching { .. } => Stage::Fetching,
                Deployed::Failed => Stage::Failed,
            },
            received: deployment.head().received,
            module: match deployment.state() {
                Deployed::Ready { module } => Some(module),
                _ => None,
            },
            usage: RunUsage::default(),
        });
        tasks.chain(deployments)
    }

    fn stage(&self, slot: Slot, state: &State<E>) -> Stage {
        match state {
            State::Accepted | State::Fetching { .. } => Stage::Fetching,
            State::Gathering { .. } => Stage::Gathering,
            State::Running { .. } if self.engine.has_exited(slot) => Stage::Reporting,
            State::Running { ending: None, .. } => Stage::Running,
            State::Running { .. } => Stage::Stopping,
            State::Failed { .. } | State::Posting { .. } | State::Posted { .. } => Stage::Reporting,
        }
    }

    /// The modules that are loaded.
    pub fn modules(&self) -> impl Iterator<Item = ModuleView> {
        self.table
            .users()
            .map(|(id, digest, users)| ModuleView { id, digest, users })
    }
}
