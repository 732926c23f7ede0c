//! Records of tasks and of latent deployments, one block of the arena each: a head, and the texts
//! behind it.

use crate::{
    agent::{
        gathering::Gathering,
        noting::Noting,
        reason::{Reason, Refusal},
    },
    collections::{chain::END, heap, list},
    engine::{Engine, ModuleId, Record as _},
    task::monitor::Monitor,
    time::{Duration, Instant},
    wire::{Error, ID_MAX, List, MonitoringProfile, NAME_MAX, Pairs},
};

/// Texts of a task or a deployment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Texts<'t> {
    pub(crate) id: &'t str,
    /// The invocation's id; empty for a task.
    pub(crate) invocation: &'t str,
    /// The name of the export.
    pub(crate) name: &'t str,
    pub(crate) inputs: List<'t>,
    /// Of two environments, the second one's values win.
    pub(crate) env: [Pairs<'t>; 2],
}

impl Texts<'_> {
    /// Bytes of all of them.
    pub(super) fn len(&self) -> usize {
        let env: usize = self.env.iter().map(|env| env.as_bytes().len()).sum();
        self.inputs.as_bytes().len() + env + self.id.len() + self.name.len() + self.invocation.len()
    }
}

/// Where the texts lie in the bytes of a record: inputs, environment, id, name, invocation's id. The
/// environment has what the others leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    inputs: u32,
    id: u8,
    name: u8,
    invocation: u8,
}

const _: () = assert!(
    ID_MAX <= 255 && NAME_MAX <= 255,
    "lengths are kept in a byte"
);

impl Layout {
    /// Where `texts` are going to lie.
    ///
    /// # Errors
    /// An id or a name that is longer than the protocol allows.
    pub(super) fn of(texts: &Texts<'_>) -> Result<Self, Error> {
        let bounded = |field, text: &str, limit| match text.len() <= limit {
            true => Ok(text.len() as u8),
            false => Err(Error::TooLong { field, limit }),
        };
        Ok(Self {
            inputs: texts.inputs.as_bytes().len() as u32,
            id: bounded("id", texts.id, ID_MAX)?,
            name: bounded("name", texts.name, NAME_MAX)?,
            invocation: bounded("invocation_id", texts.invocation, ID_MAX)?,
        })
    }

    /// Bytes of the inputs, and of the environment behind them, of a record of `len` bytes.
    pub(super) const fn data(&self, len: usize) -> (usize, usize) {
        let inputs = self.inputs as usize;
        (inputs, len.saturating_sub(inputs + self.names()))
    }

    /// Bytes of the id, the name and the invocation's id.
    const fn names(&self) -> usize {
        self.id as usize + self.name as usize + self.invocation as usize
    }

    /// Copies `texts`, whose layout this is, into the bytes of a record.
    pub(super) fn write(&self, texts: &Texts<'_>, mut bytes: &mut [u8]) {
        let parts = [
            texts.inputs.as_bytes(),
            texts.env[0].as_bytes(),
            texts.env[1].as_bytes(),
            texts.id.as_bytes(),
            texts.name.as_bytes(),
            texts.invocation.as_bytes(),
        ];
        for part in parts {
            let (to, rest) = bytes.split_at_mut(part.len());
            to.copy_from_slice(part);
            bytes = rest;
        }
    }

    pub(super) fn inputs<'b>(&self, bytes: &'b [u8]) -> List<'b> {
        let (inputs, _) = self.data(bytes.len());
        // `write` copied a list there.
        bytes
            .get(..inputs)
            .and_then(List::from_bytes)
            .unwrap_or_default()
    }

    pub(super) fn env<'b>(&self, bytes: &'b [u8]) -> Pairs<'b> {
        let (inputs, env) = self.data(bytes.len());
        let pairs = bytes.get(inputs..inputs + env);
        pairs.and_then(Pairs::from_bytes).unwrap_or_default()
    }

    fn str<'b>(&self, bytes: &'b [u8], skip: usize, len: u8) -> &'b str {
        let at = bytes.len().saturating_sub(self.names()) + skip;
        let found = bytes.get(at..at + usize::from(len)).unwrap_or_default();
        core::str::from_utf8(found).unwrap_or_default()
    }

    pub(super) fn id<'b>(&self, bytes: &'b [u8]) -> &'b str {
        self.str(bytes, 0, self.id)
    }

    pub(super) fn name<'b>(&self, bytes: &'b [u8]) -> &'b str {
        self.str(bytes, self.id.into(), self.name)
    }

    pub(super) fn invocation<'b>(&self, bytes: &'b [u8]) -> &'b str {
        let skip = usize::from(self.id) + usize::from(self.name);
        self.str(bytes, skip, self.invocation)
    }
}

/// The kind of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// A started task.
    Task,
    /// A started task of a federated round.
    Round,
    /// A started task whose results were sent at once.
    Daemon,
    /// A call of a latent deployment; of none, once that is gone.
    Invocation(Option<u8>),
}

/// Reason for which a run is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    Command,
    Deadline,
    Shutdown,
}

/// A stop of a run that goes on until its guest comes back from its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) reason: StopReason,
    /// Whether it runs on, seconds later.
    pub(crate) is_overdue: bool,
}

impl StopReason {
    /// The reason of a task with this deadline.
    pub(crate) fn refusal(self, deadline: Option<Duration>) -> Refusal {
        match self {
            Self::Command => Refusal::Stopped,
            Self::Deadline => Refusal::Deadline(deadline.unwrap_or_default().into()),
            Self::Shutdown => Refusal::ShuttingDown,
        }
    }
}

/// A moment that does not come.
pub(crate) const NEVER: Instant = Instant::from_millis(u64::MAX);

/// TaskState of a task.
pub(crate) enum TaskState<E: Engine> {
    /// It has a slot; its module is looked for, or its end is being reported.
    Accepted,
    /// It waits for a module on its way, up to a moment.
    Fetching { fetch: u8, until: Instant },
    /// It has its module, and waits for the data of its round, up to a moment.
    Gathering {
        module: ModuleId,
        until: Instant,
        gathering: E::Record<Gathering<E::Buffer>>,
    },
    /// Its guest runs.
    Running {
        module: ModuleId,
        /// Its deadline; and once it is being stopped, when that is to be complained of. [`NEVER`]
        /// without a deadline.
        until: Instant,
        stop: Option<Stop>,
        /// Whether it is a daemon whose success waits for room in the outbox.
        owes_success: bool,
    },
    /// It failed before its guest began; the report waits for room in the outbox.
    Failed {
        /// `None` if the arena had no room for it.
        reason: Option<E::Record<Reason<E::Buffer>>>,
    },
    /// Its guest has ended; the update is on its way to the coordinator, or is going to be.
    Posting { update: E::Buffer, is_due: bool },
    /// The coordinator has its update, or else the round's topic is to have it.
    Posted { update: E::Buffer, fallback: bool },
}

impl<E: Engine> TaskState<E> {
    /// When it is to be looked at, if at all.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::Fetching { until, .. } | Self::Gathering { until, .. } => Some(*until),
            Self::Running { until, .. } => Some(*until).filter(|at| *at < NEVER),
            Self::Accepted | Self::Failed { .. } | Self::Posting { .. } | Self::Posted { .. } => {
                None
            }
        }
    }

    pub(crate) fn module(&self) -> Option<ModuleId> {
        match self {
            Self::Gathering { module, .. } | Self::Running { module, .. } => Some(*module),
            _ => None,
        }
    }
}

/// The head of a task's record.
pub(crate) struct Task<E: Engine> {
    pub(crate) received: Instant,
    pub(super) state: TaskState<E>,
    pub(crate) kind: TaskKind,
    /// Whether a stop command came, at whatever stage: the task may be started anew at once.
    pub(crate) stopped: bool,
    pub(crate) noting: Noting,
    pub(super) layout: Layout,
    /// In the line of tasks that wait for the same as it.
    pub(super) links: list::Links,
    /// The next task of the same hash.
    pub(super) chain: u16,
    /// Position in the heap of deadlines.
    pub(super) deadline: u16,
}

impl<E: Engine> Task<E> {
    pub(super) const fn new(
        received: Instant,
        state: TaskState<E>,
        kind: TaskKind,
        layout: Layout,
    ) -> Self {
        Self {
            received,
            state,
            kind,
            stopped: false,
            noting: match kind {
                TaskKind::Task | TaskKind::Round => Noting::AWAITED,
                TaskKind::Daemon | TaskKind::Invocation(_) => Noting::NEVER,
            },
            layout,
            links: list::Links::NONE,
            chain: END,
            deadline: heap::ABSENT,
        }
    }
}

/// The head of a monitored task's record.
pub(crate) struct Monitored<E: Engine> {
    pub(super) task: Task<E>,
    pub(super) monitor: Monitor,
    /// Position in the heap of samples.
    pub(super) sample: u16,
}

/// A task's record.
pub(crate) enum TaskRecord<E: Engine> {
    /// Of a task that takes no samples.
    Plain(E::Record<Task<E>>),
    Monitored(E::Record<Monitored<E>>),
}

impl<E: Engine> TaskRecord<E> {
    /// Makes a record, in the arena.
    pub(super) fn new(
        engine: &E,
        task: Task<E>,
        texts: &Texts<'_>,
        profile: MonitoringProfile,
    ) -> Result<Self, Reason<E::Buffer>> {
        let layout = task.layout;
        let monitor = Monitor::new(profile, task.received);
        let mut record = match monitor.exports() {
            false => Self::Plain(engine.record(task, texts.len())?),
            true => {
                let head = Monitored {
                    task,
                    monitor,
                    sample: heap::ABSENT,
                };
                Self::Monitored(engine.record(head, texts.len())?)
            }
        };
        let bytes = match &mut record {
            Self::Plain(record) => record.bytes_mut(),
            Self::Monitored(record) => record.bytes_mut(),
        };
        layout.write(texts, bytes);
        Ok(record)
    }

    pub(crate) fn task(&self) -> &Task<E> {
        match self {
            Self::Plain(record) => record.value(),
            Self::Monitored(record) => &record.value().task,
        }
    }

    pub(super) fn task_mut(&mut self) -> &mut Task<E> {
        match self {
            Self::Plain(record) => record.value_mut(),
            Self::Monitored(record) => &mut record.value_mut().task,
        }
    }

    pub(super) fn monitored(&self) -> Option<&Monitored<E>> {
        match self {
            Self::Plain(_) => None,
            Self::Monitored(record) => Some(record.value()),
        }
    }

    pub(super) fn monitored_mut(&mut self) -> Option<&mut Monitored<E>> {
        match self {
            Self::Plain(_) => None,
            Self::Monitored(record) => Some(record.value_mut()),
        }
    }

    /// Its monitor, unless it takes no samples.
    pub(crate) fn monitor(&self) -> Option<&Monitor> {
        self.monitored().map(|head| &head.monitor)
    }

    pub(crate) fn state(&self) -> &TaskState<E> {
        &self.task().state
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(record) => record.bytes(),
            Self::Monitored(record) => record.bytes(),
        }
    }

    /// Its texts, to be read by its guest, and the bytes of the inputs and of the environment, with
    /// which they begin.
    pub(crate) fn share(&mut self) -> (E::Bytes, (usize, usize)) {
        let data = self.task().layout.data(self.bytes().len());
        let bytes = match self {
            Self::Plain(record) => record.share(),
            Self::Monitored(record) => record.share(),
        };
        (bytes, data)
    }

    pub(crate) fn id(&self) -> &str {
        self.task().layout.id(self.bytes())
    }

    pub(crate) fn name(&self) -> &str {
        self.task().layout.name(self.bytes())
    }

    /// Id of the invocation, if it is one; it may be empty.
    pub(crate) fn invocation(&self) -> Option<&str> {
        let task = self.task();
        matches!(task.kind, TaskKind::Invocation(_)).then(|| task.layout.invocation(self.bytes()))
    }

    pub(crate) fn inputs(&self) -> List<'_> {
        self.task().layout.inputs(self.bytes())
    }

    pub(crate) fn env(&self) -> Pairs<'_> {
        self.task().layout.env(self.bytes())
    }

    /// Under which it is found: the invocation's id, or the task's. An invocation without an id is never
    /// looked for.
    pub(super) fn key(&self) -> Option<&str> {
        match self.invocation() {
            Some("") => None,
            Some(id) => Some(id),
            None => Some(self.id()),
        }
    }
}

/// Takes a reason out of its record.
pub(crate) fn take_reason<E: Engine>(mut kept: E::Record<Reason<E::Buffer>>) -> Reason<E::Buffer> {
    core::mem::replace(kept.value_mut(), Refusal::NotKept.into())
}

/// TaskState of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deployed {
    /// It waits for a module on its way, up to a moment.
    Fetching { fetch: u8, until: Instant },
    /// It can be invoked.
    Ready { module: ModuleId },
    /// It has no module: not yet, or it is stored and could not be loaded after a restart.
    WithoutModule,
    /// Its module did not come, or can't be used; the report waits for room in the outbox.
    Failed,
}

/// The head of a deployment's record.
pub(crate) struct Deployment<E: Engine> {
    pub(crate) received: Instant,
    pub(crate) profile: MonitoringProfile,
    pub(super) state: Deployed,
    /// Why it failed; `None` if the arena had no room for it.
    pub(super) reason: Option<E::Record<Reason<E::Buffer>>>,
    pub(super) layout: Layout,
    /// The next deployment of the same hash.
    pub(super) chain: u16,
    /// Its invocations.
    pub(super) invocations: list::List,
}

/// A deployment's record.
pub(crate) struct DeploymentRecord<E: Engine>(pub(super) E::Record<Deployment<E>>);

impl<E: Engine> DeploymentRecord<E> {
    /// Arena bytes of a record.
    ///
    /// # Errors
    /// An id or a name that is too long.
    pub(crate) fn bytes(texts: &Texts<'_>) -> Result<usize, Error> {
        Layout::of(texts)?;
        Ok(E::record_bytes::<Deployment<E>>(texts.len()))
    }

    /// Makes a record, in the arena, of a deployment without a module.
    pub(crate) fn new(
        engine: &E,
        texts: &Texts<'_>,
        profile: MonitoringProfile,
        received: Instant,
    ) -> Result<Self, Reason<E::Buffer>> {
        let layout = Layout::of(texts)?;
        let head = Deployment {
            received,
            profile,
            state: Deployed::WithoutModule,
            reason: None,
            layout,
            chain: END,
            invocations: list::List::EMPTY,
        };
        let mut record = engine.record(head, texts.len())?;
        layout.write(texts, record.bytes_mut());
        Ok(Self(record))
    }

    pub(crate) fn head(&self) -> &Deployment<E> {
        self.0.value()
    }

    /// Takes the reason for which it failed, if that was kept.
    pub(crate) fn take_reason(&mut self) -> Option<Reason<E::Buffer>> {
        self.0.value_mut().reason.take().map(take_reason::<E>)
    }

    pub(crate) fn state(&self) -> Deployed {
        self.head().state
    }

    pub(crate) fn id(&self) -> &str {
        self.head().layout.id(self.0.bytes())
    }

    pub(crate) fn name(&self) -> &str {
        self.head().layout.name(self.0.bytes())
    }

    pub(crate) fn inputs(&self) -> List<'_> {
        self.head().layout.inputs(self.0.bytes())
    }

    pub(crate) fn env(&self) -> Pairs<'_> {
        self.head().layout.env(self.0.bytes())
    }
}

/// The head's bound on 32 bits; texts and the engine's own bytes of a record come to it. The fake engine's blocks are
/// vectors, of 4 bytes more.
#[cfg(all(test, target_pointer_width = "32"))]
const _: () = assert!(size_of::<Task<crate::testing::FakeEngine>>() <= 64 + 4);
