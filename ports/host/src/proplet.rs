//! Puts a proplet together: arena, workers, agent, and the link that drives it.

use crate::{
    cli::{Address, Join, Limits},
    clock,
    net::{self, Network},
    platform::Linux,
    sign,
    store::FolderStore,
    tls::Tls,
};
use anyhow::{Context as _, Result};
use embassy_futures::select::{Either, select};
use proplet::{
    agent::{
        Agent, DeploymentSlot, EXCHANGES_MAX, Fetch, OutboxEntry, RECEIVE_MAXIMUM, Storage,
        TaskSlot,
    },
    config::{Config, TaskLimits},
    engine::GuestLimits,
    module::{signature::Trust, table::ModuleEntry},
    settings::boards::Capacities,
    store::Store,
    task::learning::Services,
    wire::report::Metadata,
};
use proplet_engine::{
    DeviceConfig, ModuleState, QueueEntry, SlotState, WamrEngine, Workers, host_functions,
    with_memory,
};
use proplet_link::{Buffers, LinkConfig, LinkStatus, Signal};
use std::{
    array,
    cell::RefCell,
    convert::Infallible,
    future::{Future, pending},
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use wamr::Runtime;

/// The agent of this port.
pub type HostAgent = Agent<'static, WamrEngine<Linux>>;

/// Sizes that have no setting, unless they are a board's.
const CAPACITIES: Capacities = Capacities {
    // As many as tasks and deployments.
    modules: 65_534,
    fetches: 8,
    // As many as starts may come in a burst, since one that is refused has its answer kept for a moment, too.
    outbox: 4096,
    text_bytes: 4096,
    send_bytes: 64 * 1024,
    http_bytes: 16 * 1024,
};

/// Bytes that are read at once of the broker's packets.
const RECEIVE_BYTES: usize = 16 * 1024;

/// Bytes of packets that go to the broker in one write.
const OUTPUT_BYTES: usize = 16 * 1024;

/// Native stack of a worker: the interpreter needs some 1 KiB, a host function little more.
const WORKER_STACK: usize = 256 * 1024;

/// A proplet that is not connected to anything.
#[derive(Debug)]
pub struct Proplet {
    /// Its agent.
    pub agent: HostAgent,
    /// Its workers.
    pub workers: &'static Workers<Linux>,
}

/// Memory for the life of the process.
fn forever<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

fn slice<T>(len: usize, value: impl FnMut() -> T) -> &'static mut [T] {
    Box::leak(std::iter::repeat_with(value).take(len).collect())
}

/// Starts the runtime and the workers, and returns the engine, with a table of `modules`
/// entries.
/// Only one fits a process: WAMR is one.
///
/// # Errors
/// If the runtime is started already or the system lacks memory, threads or descriptors.
pub fn start_engine(
    limits: &Limits,
    modules: usize,
    proplet_id: &'static str,
) -> Result<(WamrEngine<Linux>, &'static Workers<Linux>)> {
    let slots = usize::from(limits.instances);
    let stack_max = task_limits(limits).stack_max;
    let count = limits.workers.map(usize::from).unwrap_or_else(|| {
        let cores = thread::available_parallelism().map_or(1, Into::into);
        default_workers(cores, limits.arena_bytes, stack_max)
    });
    let arena = Box::leak(Box::new_uninit_slice(limits.arena_bytes as usize));
    let natives = forever(host_functions::<Linux>());
    let runtime = Runtime::init(arena, natives).context("WAMR")?;
    let platform = Linux::new(count).context("eventfd")?;
    let states = slice(slots, SlotState::new);
    let workers = forever(Workers::new(
        runtime,
        platform,
        states,
        slice(slots, || QueueEntry::FREE),
        (limits.slice, limits.slice_ms),
        DeviceConfig {
            proplet_id,
            limits: guest_limits(limits),
            stack_bytes: stack_max,
            preemption: limits.preemption.into(),
            memory_commit: limits.memory_commit,
        },
    ));
    start_workers(workers, count, runtime.memory().total)?;
    spawn_board(workers).context("the board")?;
    let engine = WamrEngine::new(workers, slice(modules, ModuleState::default));
    Ok((engine, workers))
}

impl Proplet {
    /// As [`start_engine`], and an agent with it.
    ///
    /// # Errors
    /// As [`start_engine`]; or if tenant and channel make no topics.
    pub fn new(
        limits: &Limits,
        config: Config<'static>,
        store: Option<&'static mut dyn Store>,
    ) -> Result<Self> {
        let slots = usize::from(limits.instances);
        let deployments = usize::from(limits.deployments);
        let sizes = capacities(limits);
        let modules = (slots + deployments).min(sizes.modules);
        let (engine, workers) = start_engine(limits, modules, config.proplet_id)?;
        let storage = Storage {
            slots: slice(slots, || TaskSlot::FREE),
            deployments: slice(deployments, || DeploymentSlot::FREE),
            modules: slice(modules, || ModuleEntry::VACANT),
            fetches: slice(sizes.fetches, || Fetch::VACANT),
            outbox: slice(sizes.outbox + RECEIVE_MAXIMUM, || OutboxEntry::VACANT),
            packed: slice(sizes.text_bytes, || 0),
            store,
        };
        let config = Config {
            limits: task_limits(limits),
            ..config
        };
        let mut agent = Agent::new(config, storage, engine)?;
        agent.set_wall_clock(clock::unix_ms(), clock::now());
        Ok(Self { agent, workers })
    }
}

fn capacities(limits: &Limits) -> Capacities {
    limits.like.map_or(CAPACITIES, |board| board.capacities)
}

/// A worker for each core, but no more than leave guests three quarters of the arena.
fn default_workers(cores: usize, arena_bytes: u32, stack_max: u32) -> usize {
    let fit = arena_bytes / 4 / wamr::Worker::needs(stack_max);
    cores.min(fit as usize).max(1)
}

/// The thread on which sensors are read, while their guests wait.
fn spawn_board(workers: &'static Workers<Linux>) -> Result<()> {
    let serve = || loop {
        while workers.measure() {}
        workers.platform().wait_board();
    };
    thread::Builder::new().name("board".into()).spawn(serve)?;
    Ok(())
}

/// Starts the workers, and waits until they have taken their stacks off the arena: what is free then
/// is the guests'.
fn start_workers(workers: &'static Workers<Linux>, count: usize, total: u32) -> Result<()> {
    let (has_begun, begun) = std::sync::mpsc::channel();
    for index in 0..count {
        let has_begun = has_begun.clone();
        let work = move || {
            workers.platform().stay_on_cores();
            workers.run(|made| {
                let _ = has_begun.send(made);
            });
        };
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .stack_size(WORKER_STACK)
            .spawn(work)
            .with_context(|| format!("worker {index}"))?;
    }
    for index in 0..count {
        let made = begun.recv().context("a worker has ended")?;
        made.map_err(|e| {
            anyhow::anyhow!("worker {index} of {count} in an arena of {total} bytes: {e}")
        })?;
    }
    Ok(())
}

fn guest_limits(limits: &Limits) -> GuestLimits {
    GuestLimits {
        log_bytes: limits.log_bytes,
        messages: limits.messages,
        message_bytes: limits.message_max_bytes,
        result_bytes: limits.result_max_bytes,
    }
}

fn task_limits(limits: &Limits) -> TaskLimits {
    let own = TaskLimits {
        deadline: limits.deadline(),
        work: limits.work(),
        stack: limits.stack_bytes,
        stack_max: limits.stack_max_bytes.max(limits.stack_bytes),
        memory: limits.memory(),
        caps: limits.caps,
        module_bytes: limits.module_bytes(),
        preemption: limits.preemption.into(),
        ..Config::DEFAULT.limits
    };
    with_memory(own, limits.arena_bytes.into())
}

/// The agent's settings from the command line's.
pub fn config(join: &Join) -> Config<'static> {
    let leak = |text: &String| -> &'static str { Box::leak(text.clone().into_boxed_str()) };
    let broker = join.address().ok();
    let tags: Vec<&'static str> = join.tags.iter().map(leak).collect();
    Config {
        proplet_id: leak(&join.id),
        broker_host: broker.as_ref().map_or("", |broker| leak(&broker.host)),
        broker_port: broker.as_ref().map_or(0, |broker| broker.port),
        tenant: leak(&join.tenant),
        channel: leak(&join.channel),
        heartbeat: join.heartbeat(),
        metrics_interval: Duration::from_secs(join.metrics_interval),
        result_delay: Duration::from_millis(join.result_delay_ms),
        listener_wait: Duration::from_secs(join.listener_wait),
        note_after: Duration::from_millis(join.note_after_ms),
        services: Services {
            models: leak(&join.model_registry_url),
            data: leak(&join.data_store_url),
            coordinator: leak(&join.coordinator_url),
        },
        data_bytes: join.data_max_bytes as usize,
        message_bytes: join.limits.message_max_bytes as usize,
        metadata: Metadata {
            description: join.description.as_ref().map(leak),
            tags: Vec::leak(tags),
            location: join.location.as_ref().map(leak),
            environment: Some("binary"),
            os: Some(std::env::consts::OS),
            hostname: hostname().map(|name| leak(&name)),
            cpu_arch: Some(std::env::consts::ARCH),
            total_memory_bytes: Some(join.limits.arena_bytes.into()),
            proplet_version: Some(env!("CARGO_PKG_VERSION")),
            wasm_runtime: Some("wamr"),
            wasm_proposals: &wamr::PROPOSALS,
            ..Metadata::EMPTY
        },
        ..Config::DEFAULT
    }
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

/// Asked for by a signal handler or another thread.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Not asked for.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Asks the link on its own thread to shut down; asked twice, it leaves at once.
    pub fn ask(&self, workers: &Workers<Linux>) {
        self.0.store(true, Ordering::Release);
        workers.platform().exits().set();
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// Connects the agent to the broker and works until it is asked to stop. `beside` is polled after the
/// link, whenever that is.
///
/// # Errors
/// Settings with which no link can run, or certificates that can't be read.
pub fn work(
    join: &Join,
    agent: &RefCell<HostAgent>,
    workers: &'static Workers<Linux>,
    stop: &Stop,
    beside: impl Future<Output = Infallible>,
) -> Result<()> {
    let Address { host, port, tls } = join.address()?;
    let files = join.tls_files()?;
    let is_given = files.ca.is_some() || files.identity.is_some();
    let certificates = Tls::new(files);
    if tls || is_given {
        certificates.config()?;
    }
    let wake = workers.platform().exits();
    let timeout = Duration::from_secs(join.timeout.into());
    let config = LinkConfig {
        host: &host,
        port,
        tls,
        proplet_id: &join.id,
        api_key: &join.key,
        keep_alive: join.keep_alive,
        session_expiry: join.session_expiry,
        will: !join.no_will,
        max_packet: Some(join.max_packet_size).filter(|size| *size > 0),
        lull: Duration::from_millis(5),
        timeout,
        write_timeout: timeout,
        seed: RandomState::new().hash_one(clock::unix_ms()),
        ..LinkConfig::DEFAULT
    };
    let sizes = capacities(&join.limits);
    let mut heads: [Vec<u8>; EXCHANGES_MAX] = array::from_fn(|_| vec![0; sizes.http_bytes]);
    let buffers = Buffers {
        rx: &mut vec![0; RECEIVE_BYTES],
        output: &mut vec![0; OUTPUT_BYTES],
        tx: &mut vec![0; sizes.send_bytes],
        will: &mut [0; 256],
        http: heads.each_mut().map(Vec::as_mut_slice),
    };
    let signal = async || {
        net::woken().await;
        if stop.take() {
            Signal::Shutdown
        } else {
            Signal::Work
        }
    };
    let network = Network::new(wake, certificates);
    let status = LinkStatus::new();
    let link = proplet_link::run(&network, agent, &config, buffers, signal, &status);
    match net::run(select(link, beside), wake) {
        Either::First(ended) => Ok(ended?),
        Either::Second(never) => match never {},
    }
}

/// `proplet join`.
///
/// # Errors
/// As [`Proplet::new`] and [`work`].
pub fn join(join: &Join) -> Result<()> {
    static STOP: Stop = Stop::new();
    let Address { host, port, .. } = join.address()?;
    let store = join.store.as_ref().map(|folder| {
        let store = FolderStore::open(folder, join.store_bytes)?;
        anyhow::Ok(forever(store) as &mut dyn Store)
    });
    let keys = sign::trusted_keys(&join.trusted_keys).context("--trusted-keys")?;
    let Proplet { mut agent, workers } =
        Proplet::new(&join.limits, config(join), store.transpose()?)?;
    if !keys.is_empty() {
        agent.set_trust(Trust::new(keys.leak()));
    }
    agent.restore(clock::now());
    ctrlc::set_handler(|| STOP.ask(workers)).context("signal handler")?;
    if let Some(board) = join.limits.like {
        log::info!("limits as on {}, but for what is set", board.name);
    }
    log::info!(
        "proplet {} joins channel {} at {host}:{port}",
        join.id,
        join.channel,
    );
    let agent = RefCell::new(agent);
    work(join, &agent, workers, &STOP, pending())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many cores a machine has, it starts with the arena that it has by default.
    #[test]
    fn workers_leave_guests_room() {
        let worker = wamr::Worker::needs(8192);
        for (cores, arena, expected) in [
            (1, 196_608, 1),
            (2, 196_608, 2),
            (4, 196_608, 3),
            (64, 196_608, 3),
            (64, 1 << 30, 64),
            (64, 32_768, 1),
        ] {
            let workers = default_workers(cores, arena, 8192);
            assert_eq!(workers, expected, "{cores} cores, {arena} bytes");
            assert!(workers == 1 || workers as u32 * worker <= arena / 4);
        }
    }
}
