//! What a port shows of the agent's records.

use super::{
    Agent,
    records::{Phase, Purpose},
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
    pub users: u16,
}

fn module_of(phase: Phase) -> Option<ModuleId> {
    match phase {
        Phase::Ready { module } | Phase::Gathering { module, .. } => Some(module),
        _ => None,
    }
}

impl<E: Engine> Agent<'_, E> {
    /// What runs or waits for its module, by slot, and then what is deployed.
    pub fn tasks(&self) -> impl Iterator<Item = TaskView<'_>> {
        let slots = self.slots().map(|slot| (slot, self.run(slot)));
        let runs = slots.filter_map(|(slot, run)| {
            let stage = match run.phase {
                Phase::Vacant => return None,
                Phase::Fetching { .. } => Stage::Fetching,
                Phase::Gathering { .. } => Stage::Gathering,
                Phase::Failed | Phase::Posting | Phase::Posted { .. } => Stage::Reporting,
                Phase::Ready { .. } if run.exit.is_some() => Stage::Reporting,
                Phase::Ready { .. } if run.ending.is_some() => Stage::Stopping,
                Phase::Ready { .. } => Stage::Running,
            };
            Some(TaskView {
                slot: Some(slot),
                id: &run.id,
                invocation: match &run.purpose {
                    Purpose::Invocation(id) => Some(id),
                    Purpose::Task | Purpose::Round | Purpose::Daemon => None,
                },
                name: &run.name,
                stage,
                received: run.received,
                module: module_of(run.phase),
                usage: self.engine.usage(slot),
            })
        });
        let deployments = self.deployments.iter().filter_map(|deployment| {
            let stage = match deployment.phase {
                Phase::Ready { .. } => Stage::Deployed,
                Phase::Fetching { .. } => Stage::Fetching,
                Phase::Failed => Stage::Failed,
                // A deployment neither gathers nor posts.
                _ => return None,
            };
            Some(TaskView {
                slot: None,
                id: &deployment.id,
                invocation: None,
                name: &deployment.name,
                stage,
                received: deployment.received,
                module: module_of(deployment.phase),
                usage: RunUsage::default(),
            })
        });
        runs.chain(deployments)
    }

    /// The modules that are loaded.
    pub fn modules(&self) -> impl Iterator<Item = ModuleView> {
        self.table
            .users()
            .map(|(id, digest, users)| ModuleView { id, digest, users })
    }
}
