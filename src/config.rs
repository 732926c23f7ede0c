//! Settings of a proplet, loaded by the port.

use crate::{
    engine::Preemption,
    settings::table::device_number,
    task::{caps::Caps, learning::Services},
    time::Duration,
    wire::report::Metadata,
};

/// Most modules that may be on their way at once.
pub const FETCHES_MAX: usize = 16;

/// Most topics that guests and rounds may be subscribed to at once, all together.
pub const SUBSCRIPTIONS_MAX: usize = 8;

/// Bounds of the device on any task. A task's own, from its environment, must lie within.
#[derive(Debug, Clone, Copy)]
pub struct TaskLimits {
    /// Longest run, and the deadline of a task that names none; `None` is no deadline.
    pub deadline: Option<Duration>,
    /// Most work in branches and calls; `None` is no bound.
    pub work: Option<u64>,
    /// Operand stack in bytes of a task that asks for none.
    pub stack: u32,
    /// Largest operand stack in bytes that a task may ask for.
    pub stack_max: u32,
    /// Most bytes of pages of linear memory that a task may hold; `None` leaves only the arena as bound.
    pub memory: Option<u64>,
    /// Bytes of such a page: the least that a task may ask for.
    pub page: u32,
    /// End of a task's turn: by work or by time.
    pub preemption: Preemption,
    /// Capabilities that a task may ask for by its environment.
    pub caps: Caps,
    /// Most bytes of a module.
    pub module_bytes: usize,
}

/// Settings of the agent.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a> {
    /// The entity's id, 1 to 64 bytes.
    pub proplet_id: &'a str,
    /// Name or address of the broker, by which a session is known after a reboot.
    pub broker_host: &'a str,
    /// Its port.
    pub broker_port: u16,
    /// Tenant of the topics.
    pub tenant: &'a str,
    /// Channel of the topics.
    pub channel: &'a str,
    /// Namespace named in presence and metrics.
    pub namespace: &'a str,
    /// Discovery metadata.
    pub metadata: Metadata<'a>,
    /// Time between heartbeats. The manager holds a proplet for dead after 10 s.
    pub heartbeat: Duration,
    /// Time between metrics of the proplet; zero turns them off.
    pub metrics_interval: Duration,
    /// Least time from a start's receipt to its result. The manager marks a task as running
    /// after it has sent the start, and a result that it reads before that is overwritten.
    pub result_delay: Duration,
    /// Time for which results that nobody is subscribed to are kept and sent again; zero takes them for delivered.
    pub listener_wait: Duration,
    /// Time from a start's receipt to the moment at which its task is noted in the store, to be reported if the
    /// proplet restarts before its results are delivered; zero turns that off.
    pub note_after: Duration,
    /// Time for which a start waits for its module, and then a task of a federated round for its model.
    pub fetch_timeout: Duration,
    /// Bounds on tasks.
    pub limits: TaskLimits,
    /// Services of federated learning that a task doesn't name.
    pub services: Services<'a>,
    /// Most bytes of a model or a data set.
    pub data_bytes: usize,
    /// Most bytes of a message for a guest.
    pub message_bytes: usize,
}

impl Config<'_> {
    /// The defaults that the protocol suggests, without an identity.
    pub const DEFAULT: Self = Self {
        proplet_id: "",
        broker_host: "",
        broker_port: 0,
        tenant: "",
        channel: "",
        namespace: "default",
        metadata: Metadata::EMPTY,
        heartbeat: Duration::from_secs(device_number("heartbeat")),
        metrics_interval: Duration::from_secs(device_number("metrics_interval")),
        result_delay: Duration::from_millis(device_number("result_delay_ms")),
        listener_wait: Duration::from_secs(device_number("listener_wait")),
        note_after: Duration::from_millis(device_number("note_after_ms")),
        fetch_timeout: Duration::from_secs(60),
        limits: TaskLimits {
            deadline: None,
            work: None,
            stack: device_number("stack_bytes") as u32,
            stack_max: device_number("stack_max_bytes") as u32,
            memory: None,
            page: 1,
            preemption: Preemption::Fuel,
            caps: Caps::HARMLESS,
            module_bytes: usize::MAX,
        },
        services: Services {
            models: "",
            data: "",
            coordinator: "",
        },
        data_bytes: device_number("data_max_bytes") as usize,
        message_bytes: device_number("message_max_bytes") as usize,
    };
}
