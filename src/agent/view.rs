//! Records of the agent, as a port shows them.

use crate::{
    engine::{ModuleId, RunUsage, Slot},
    module::table::Digest,
    time::Instant,
};

/// Figures of a proplet at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentStatus {
    /// Whether the broker is connected.
    pub connected: bool,
    /// Slots that run a guest.
    pub running: usize,
    /// Slots in all.
    pub slots: usize,
    /// Starts that wait for their module or their round's data.
    pub fetching: usize,
    /// Latent deployments that can be invoked.
    pub deployed: usize,
    /// Modules that are loaded.
    pub modules: usize,
    /// Modules parsed since boot.
    pub parses: u32,
}

/// Stage of a task or a deployment.
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
    /// The slot; `None` for a deployment.
    pub slot: Option<Slot>,
    /// The task's id.
    pub id: &'a str,
    /// The invocation's id, for an invocation.
    pub invocation: Option<&'a str>,
    /// Name of the export.
    pub name: &'a str,
    /// Its stage.
    pub stage: Stage,
    /// When its start came.
    pub received: Instant,
    /// Its module, as soon as it has it.
    pub module: Option<ModuleId>,
    /// Resources that its run has used.
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
