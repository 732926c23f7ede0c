//! Runs and latent deployments: the records of the agent's two tables.

use super::{Id, Name};
use crate::{
    engine::{Exit, Limits, ModuleId, Text, Weight, text},
    task::{budget::Budget, caps::Caps, monitor::Monitor},
    time::{Duration, Instant},
    wire::{List, MonitoringProfile, Pairs},
};

/// Inputs and environment of a task, in its share of [`Storage::text`](super::Storage::text):
/// first the packed inputs, then the packed environment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Packed {
    inputs: usize,
    env: usize,
}

impl Packed {
    /// Copies inputs, and environments one after the other, so that the last one's values win.
    pub(super) fn store(
        share: &mut [u8],
        inputs: List<'_>,
        envs: &[Pairs<'_>],
    ) -> Result<Self, Text> {
        let env: usize = envs.iter().map(|env| env.as_bytes().len()).sum();
        let inputs = inputs.as_bytes();
        let (len, room) = (inputs.len() + env, share.len());
        if len > room {
            return Err(text(format_args!(
                "inputs and env take {len} bytes, this proplet keeps {room} a task"
            )));
        }
        let parts = core::iter::once(inputs).chain(envs.iter().map(|env| env.as_bytes()));
        let mut at = 0;
        for part in parts {
            share[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(Self {
            inputs: inputs.len(),
            env,
        })
    }

    /// Bytes of both.
    pub(super) const fn len(self) -> usize {
        self.inputs + self.env
    }

    pub(super) fn inputs(self, share: &[u8]) -> List<'_> {
        // What `store` copied was a list.
        List::from_bytes(&share[..self.inputs]).unwrap_or(List::EMPTY)
    }

    pub(super) fn env(self, share: &[u8]) -> Pairs<'_> {
        Pairs::from_bytes(&share[self.inputs..self.inputs + self.env]).unwrap_or(Pairs::EMPTY)
    }
}

/// Where a record's module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The record is free.
    Vacant,
    /// Waits for a module that is on its way, but not for ever.
    Fetching { fetch: u8, until: Instant },
    /// Has its module, and waits for the data of its round, but not for ever.
    Gathering { module: ModuleId, until: Instant },
    /// Has its module: a run's worker is busy, a deployment can be invoked.
    Ready { module: ModuleId },
    /// A run that failed before it began. A deployment whose module is stored, but could not be
    /// loaded after a restart.
    Failed,
    /// Has ended; its update is on its way to the coordinator.
    Posting,
    /// Has ended, and the coordinator has its update, or else the round's topic is to have it.
    Posted { fallback: bool },
}

impl Phase {
    /// Whether it waits for this fetch.
    pub(super) fn waits_for(self, index: usize) -> bool {
        matches!(self, Self::Fetching { fetch, .. } if usize::from(fetch) == index)
    }
}

/// Why a run is being ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Stopped,
    Deadline(Duration),
    Shutdown,
}

impl Ending {
    pub(super) fn reason(self) -> Text {
        match self {
            Self::Stopped => text(format_args!("task stopped")),
            Self::Deadline(limit) => text(format_args!(
                "deadline of {} ms exceeded",
                limit.as_millis()
            )),
            Self::Shutdown => text(format_args!("proplet is shutting down")),
        }
    }
}

/// An exchange with a service of federated learning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Model,
    Dataset,
    Update,
}

/// What a run is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A started task.
    Task,
    /// A started task of a federated round.
    Round,
    /// A started task whose results were sent at once.
    Daemon,
    /// A call of a latent deployment.
    Invocation(Id),
}

/// Storage of one run; its index is the slot of its worker.
#[derive(Debug)]
pub struct Run<B> {
    pub(super) phase: Phase,
    pub(super) purpose: Purpose,
    pub(super) id: Id,
    pub(super) name: Name,
    pub(super) packed: Packed,
    pub(super) budget: Budget,
    pub(super) received: Instant,
    pub(super) monitor: Monitor,
    pub(super) expires: Option<Instant>,
    pub(super) ending: Option<Ending>,
    /// Whether a stop command came, at whatever stage: the task may be started anew at once.
    pub(super) stopped: bool,
    /// Its end, while the outbox has no room for the results.
    pub(super) exit: Option<Exit<B>>,
    /// The exchange that its round needs next, until it is given out.
    pub(super) due: Option<Service>,
    /// The round's model and data set, until the run begins.
    pub(super) model: Option<B>,
    pub(super) dataset: Option<B>,
    /// The round's update, once the run has ended.
    pub(super) update: Option<B>,
}

impl<B> Run<B> {
    /// A free slot.
    pub const VACANT: Self = Self {
        phase: Phase::Vacant,
        purpose: Purpose::Task,
        id: Id::new(),
        name: Name::new(),
        packed: Packed { inputs: 0, env: 0 },
        budget: NO_BUDGET,
        received: Instant::BOOT,
        monitor: Monitor::OFF,
        expires: None,
        ending: None,
        stopped: false,
        exit: None,
        due: None,
        model: None,
        dataset: None,
        update: None,
    };
}

/// Storage of one latent deployment.
#[derive(Debug, Clone)]
pub struct Deployment {
    pub(super) phase: Phase,
    pub(super) id: Id,
    pub(super) name: Name,
    pub(super) packed: Packed,
    pub(super) received: Instant,
    pub(super) profile: MonitoringProfile,
}

impl Deployment {
    /// A free record.
    pub const VACANT: Self = Self {
        phase: Phase::Vacant,
        id: Id::new(),
        name: Name::new(),
        packed: Packed { inputs: 0, env: 0 },
        received: Instant::BOOT,
        profile: MonitoringProfile::STANDARD,
    };
}

const NO_BUDGET: Budget = Budget {
    limits: Limits {
        stack: 0,
        memory_cap: None,
        memory_max: None,
        work: None,
        weight: Weight::DEFAULT,
    },
    deadline: None,
    caps: Caps::NONE,
};

/// Index of the first vacant record.
pub(super) fn vacant(phases: impl Iterator<Item = Phase>) -> Option<u16> {
    (0..u16::MAX)
        .zip(phases)
        .find_map(|(index, phase)| (phase == Phase::Vacant).then_some(index))
}
