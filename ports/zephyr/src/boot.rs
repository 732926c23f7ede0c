//! Puts the proplet together, and keeps the control thread busy.

use crate::{
    ffi, logger,
    net::{self, Network},
    platform::{self, Zephyr, ZephyrAgent},
    settings, sizes,
};
use core::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
};
use critical_section::Mutex;
use embassy_futures::select::{Either, select};
use embassy_time::{Duration, Timer};
use proplet::{
    agent::{Agent, Fetch, OutboxEntry, Storage},
    config::{Config, TaskLimits},
    engine::{Engine as _, Preemption},
    module::table::ModuleEntry,
    settings::Settings,
    store::Store,
    text::{Text, text},
    time,
    wire::report::Metadata,
};
use proplet_engine::{
    DeviceConfig, HOST_FUNCTIONS, ModuleState, Platform as _, QueueEntry, SlotState, WamrEngine,
    Workers, host_functions, with_memory,
};
use proplet_link::{Buffers, LinkConfig, LinkStatus, Signal};
use static_cell::{ConstStaticCell, StaticCell};
use wamr::{Buffer, HostFunction, Runtime, Worker};
use zephyr::kconfig as k;

/// Between two complaints about a setting that is missing.
const COMPLAINT: Duration = Duration::from_secs(60);

/// As Rust names it: Zephyr calls a simulated one posix.
const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "x86_64"
} else if cfg!(target_arch = "aarch64") {
    "aarch64"
} else {
    k::CONFIG_ARCH
};

/// The end of a task's turn.
const PREEMPTION: Preemption = match cfg!(CONFIG_PROPLET_PREEMPTION_TIME) {
    false => Preemption::Fuel,
    true => Preemption::Time,
};

/// Bytes of the arena beside the workers' stacks with which a small task can run.
const ARENA_LEAST: usize = 4096;

/// Tags of the discovery message.
const TAGS: usize = 9;

/// Bounds a slot's static RAM, with its share of the module table as Kconfig has it by default.
#[cfg(target_pointer_width = "32")]
const _: () = {
    let module = size_of::<ModuleEntry>() + size_of::<ModuleState>();
    let slot = size_of::<TaskSlot>() + size_of::<SlotState<Zephyr>>() + size_of::<QueueEntry>();
    assert!(
        slot + module.div_ceil(4) <= 64,
        "a slot takes more than 64 bytes"
    );
};

/// An array that is filled at boot: it starts in .bss, where an initialised one would take its size
/// of flash too.
type Filled<T, const N: usize> = ConstStaticCell<heapless::Vec<T, N>>;

type TaskSlot = proplet::agent::TaskSlot<WamrEngine<Zephyr>>;
type DeploymentSlot = proplet::agent::DeploymentSlot<WamrEngine<Zephyr>>;

static STATES: Filled<SlotState<Zephyr>, { sizes::SLOTS }> =
    ConstStaticCell::new(heapless::Vec::new());
static QUEUE: Filled<QueueEntry, { sizes::SLOTS }> = ConstStaticCell::new(heapless::Vec::new());
static NATIVES: ConstStaticCell<[HostFunction; HOST_FUNCTIONS]> =
    ConstStaticCell::new(host_functions::<Zephyr>());
static SLOTS: Filled<TaskSlot, { sizes::SLOTS }> = ConstStaticCell::new(heapless::Vec::new());
static DEPLOYMENTS: Filled<DeploymentSlot, { sizes::DEPLOYMENTS }> =
    ConstStaticCell::new(heapless::Vec::new());
static MODULES: Filled<ModuleEntry, { sizes::MODULES }> =
    ConstStaticCell::new(heapless::Vec::new());
static LOADED: Filled<ModuleState, { sizes::MODULES }> = ConstStaticCell::new(heapless::Vec::new());
static FETCHES: Filled<Fetch<Buffer>, { sizes::FETCHES }> =
    ConstStaticCell::new(heapless::Vec::new());
static OUTBOX: Filled<OutboxEntry<Buffer>, { sizes::OUTBOX }> =
    ConstStaticCell::new(heapless::Vec::new());
static PACKED: ConstStaticCell<[u8; sizes::TEXT]> = ConstStaticCell::new([0; sizes::TEXT]);
static RX: ConstStaticCell<[u8; sizes::RX]> = ConstStaticCell::new([0; sizes::RX]);
static OUTPUT: ConstStaticCell<[u8; sizes::OUTPUT]> = ConstStaticCell::new([0; sizes::OUTPUT]);
static TX: ConstStaticCell<[u8; sizes::TX]> = ConstStaticCell::new([0; sizes::TX]);
static HTTP: ConstStaticCell<[u8; sizes::HTTP]> = ConstStaticCell::new([0; sizes::HTTP]);
static WILL: ConstStaticCell<[u8; sizes::WILL]> = ConstStaticCell::new([0; sizes::WILL]);
static TAG_LIST: StaticCell<heapless::Vec<&'static str, TAGS>> = StaticCell::new();
static RESET_TAG: StaticCell<heapless::String<24>> = StaticCell::new();
static WORKERS: StaticCell<Workers<Zephyr>> = StaticCell::new();
static AGENT: StaticCell<RefCell<ZephyrAgent>> = StaticCell::new();
static LINK: LinkStatus = LinkStatus::new();

/// The workers, for threads that begin.
static CREW: Mutex<Cell<Option<&'static Workers<Zephyr>>>> = Mutex::new(Cell::new(None));

/// `len` values, at most as many as there is room for.
fn fill<T, const N: usize>(
    cell: &'static Filled<T, N>,
    len: usize,
    value: impl Fn() -> T,
) -> &'static mut [T] {
    let values = cell.take();
    while values.len() < len && values.push(value()).is_ok() {}
    values
}

extern "C" fn worker(index: u32) {
    let Some(workers) = critical_section::with(|cs| CREW.borrow(cs).get()) else {
        return log::error!("worker {index} began before the runtime");
    };
    workers.run(|begun| match begun {
        Ok(()) => ffi::worker_begun(),
        // `engine` has seen that there is room for all of them.
        Err(e) => log::error!("worker {index}: {e}"),
    });
}

/// Makes the measurements that guests wait for, on the board's thread.
extern "C" fn measure() {
    if let Some(workers) = critical_section::with(|cs| CREW.borrow(cs).get()) {
        while workers.measure() {}
    }
}

/// Whether all workers come back from their steps. One that does not is a defect, which only a restart
/// ends: the watchdog is not fed then.
fn is_alive() -> bool {
    let Some(workers) = critical_section::with(|cs| CREW.borrow(cs).get()) else {
        return true;
    };
    workers.longest_step(workers.platform().now()) < sizes::WATCHDOG
}

/// Changes the slices of present and future runs. `false` before there are workers.
#[cfg(CONFIG_SHELL)]
pub fn set_slices(slice: Option<u32>, slice_ms: Option<u32>) -> bool {
    let Some(workers) = critical_section::with(|cs| CREW.borrow(cs).get()) else {
        return false;
    };
    if let Some(slice) = slice {
        workers.set_slice(slice);
    }
    if let Some(slice_ms) = slice_ms {
        workers.set_slice_ms(slice_ms);
    }
    true
}

/// The life of the control thread; it comes back only where the device can't be restarted.
pub fn run() {
    logger::start();
    let reset = ffi::reset_cause();
    log::info!(
        "proplet {} on {}: {} slots; last reset: {reset}",
        env!("CARGO_PKG_VERSION"),
        k::CONFIG_BOARD_TARGET,
        sizes::SLOTS
    );
    ffi::watchdog_start();
    let settings = settings::load();
    if let Err(e) = ffi::net_start() {
        log::error!("no descriptor for wake-ups ({e}): raise CONFIG_ZVFS_EVENTFD_MAX");
        return;
    }
    let engine = engine(settings);
    #[cfg(CONFIG_PROPLET_BENCH)]
    let engine = engine.map(|mut engine| {
        crate::bench::run(&mut engine, settings, PREEMPTION, |preemption| {
            if let Some(workers) = critical_section::with(|cs| CREW.borrow(cs).get()) {
                workers.set_preemption(preemption);
            }
        });
        engine
    });
    drive(pin!(work(settings, reset, engine)), pin!(wifi(settings)));
    log::info!("restarting");
    ffi::reboot();
}

/// Runs both on the control thread until one has ended; Wi-Fi never does. They come pinned: each has
/// one place on the stack, where a future that is given them by value holds them twice.
fn drive<W: Future, F: Future>(work: Pin<&mut W>, wifi: Pin<&mut F>) {
    const {
        // On a simulator, threads run on the host's stacks.
        assert!(
            cfg!(CONFIG_ARCH_POSIX)
                || size_of::<W>() + size_of::<F>() + sizes::CONTROL_FRAMES <= sizes::CONTROL_STACK,
            "CONFIG_MAIN_STACK_SIZE is too small for what the control thread waits with"
        );
    }
    net::run(pin!(select(work, wifi)), is_alive);
}

#[cfg(CONFIG_PROPLET_WIFI)]
use crate::wifi::run as wifi;

#[cfg(not(CONFIG_PROPLET_WIFI))]
async fn wifi(_: &'static Settings) {
    core::future::pending().await
}

/// Works until a restart is asked for.
async fn work(
    settings: &'static Settings,
    reset: &'static str,
    engine: Result<WamrEngine<Zephyr>, Text>,
) {
    let has_tls = settings::credentials::register();
    if let Some(missing) = missing(settings, has_tls) {
        return wait_for_settings(&missing).await;
    }
    let agent = match engine.and_then(|engine| assemble(settings, reset, engine)) {
        Ok(agent) => agent,
        Err(reason) => return wait_for_settings(&reason).await,
    };
    let timeout = time::Duration::from_secs(settings.timeout.into());
    let config = LinkConfig {
        host: &settings.mqtt_broker_host,
        port: settings.mqtt_broker_port,
        tls: settings.mqtt_tls_enabled,
        proplet_id: &settings.proplet_id,
        api_key: &settings.api_key,
        keep_alive: settings.keep_alive,
        session_expiry: settings.session_expiry,
        will: settings.will,
        max_packet: Some(settings.max_packet_size).filter(|size| *size > 0),
        timeout,
        write_timeout: timeout,
        seed: u64::from(ffi::random()) << 32 | u64::from(ffi::random()),
        ..LinkConfig::DEFAULT
    };
    let buffers = Buffers {
        rx: RX.take(),
        output: OUTPUT.take(),
        tx: TX.take(),
        will: WILL.take(),
        http: [HTTP.take()],
    };
    let network = Network { has_tls };
    log::info!(
        "proplet {} joins channel {} at {}:{}",
        settings.proplet_id,
        settings.channel_id,
        settings.mqtt_broker_host,
        settings.mqtt_broker_port
    );
    let link = proplet_link::run(&network, agent, &config, buffers, signal, &LINK);
    if let Either::First(Err(e)) = select(link, answer_shell(agent)).await {
        wait_for_settings(&text(format_args!("{e}"))).await;
    }
}

/// Answers the shell beside the link; its question wakes the control thread.
#[cfg(CONFIG_SHELL)]
async fn answer_shell(agent: &RefCell<ZephyrAgent>) {
    poll_fn(|_| {
        crate::report::answer(&agent.borrow(), &LINK, crate::clock::now());
        Poll::Pending
    })
    .await
}

#[cfg(not(CONFIG_SHELL))]
async fn answer_shell(_: &RefCell<ZephyrAgent>) {
    core::future::pending().await
}

async fn signal() -> Signal {
    poll_fn(|_| {
        if platform::take_shutdown() {
            Poll::Ready(Signal::Shutdown)
        } else if platform::take_notified() {
            Poll::Ready(Signal::Work)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// The first setting that is missing to join a network, or unusable.
fn missing(settings: &Settings, has_tls: bool) -> Option<Text> {
    if settings.mqtt_tls_enabled && !has_tls {
        return Some(text(format_args!(
            "mqtt_tls_ca is not set, and mqtt_tls_enabled needs it"
        )));
    }
    if let Some(name) = settings.unusable {
        return Some(text(format_args!("{name} has a value that can't be used")));
    }
    let name = settings.missing()?;
    Some(text(format_args!("{name} is not set")))
}

/// Logs the reason again and again, while the shell and the network go on.
async fn wait_for_settings(reason: &str) {
    loop {
        log::error!(
            "{reason}: 'proplet config set NAME VALUE' in the shell, then 'proplet reboot'"
        );
        let shutdown = poll_fn(|_| {
            answer_without_agent(reason);
            match platform::take_shutdown() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        if let Either::First(()) = select(shutdown, Timer::after(COMPLAINT)).await {
            return;
        }
    }
}

#[cfg(CONFIG_SHELL)]
fn answer_without_agent(reason: &str) {
    if let Some((_, page)) = crate::report::take() {
        let mut text = heapless::String::<512>::new();
        // A text that does not fit is cut.
        let _ = crate::report::network(&mut text);
        let _ = writeln!(text, "proplet   not working: {reason}");
        page.done(&text);
    }
}

#[cfg(not(CONFIG_SHELL))]
fn answer_without_agent(_: &str) {}

/// Starts the runtime and the workers; once. Its frame is not to be part of the task's.
#[inline(never)]
fn engine(settings: &'static Settings) -> Result<WamrEngine<Zephyr>, Text> {
    let arena = ffi::arena();
    let arena_len = arena.len();
    let limits = settings.limits();
    let needed = sizes::WORKERS * Worker::needs(limits.stack_max) as usize;
    if arena_len < needed + ARENA_LEAST {
        return Err(text(format_args!(
            "the arena has {arena_len} bytes, and the operand stacks take {needed}: lower stack_max_bytes"
        )));
    }
    log::info!("the arena has {arena_len} bytes");
    let runtime =
        Runtime::init(arena, NATIVES.take()).map_err(|e| text(format_args!("WAMR: {e}")))?;
    let workers: &'static Workers<Zephyr> = WORKERS.init(Workers::new(
        runtime,
        Zephyr,
        fill(&STATES, sizes::SLOTS, SlotState::new),
        fill(&QUEUE, sizes::SLOTS, || QueueEntry::FREE),
        (settings.slice, settings.slice_ms),
        DeviceConfig {
            proplet_id: &settings.proplet_id,
            limits: settings.guest_limits(),
            stack_bytes: limits.stack_max,
            preemption: PREEMPTION,
            memory_commit: cfg!(CONFIG_PROPLET_MEMORY_COMMIT),
        },
    ));
    critical_section::with(|cs| CREW.borrow(cs).set(Some(workers)));
    // They have taken their stacks off the arena then: what is free is the guests'.
    if !ffi::workers_start(worker) {
        return Err(text(format_args!(
            "a worker could not begin: the log says why"
        )));
    }
    ffi::board_start(measure);
    let modules = fill(&LOADED, sizes::MODULES, ModuleState::default);
    Ok(WamrEngine::new(workers, modules))
}

/// Puts the agent on the engine; once.
#[inline(never)]
fn assemble(
    settings: &'static Settings,
    reset: &'static str,
    engine: WamrEngine<Zephyr>,
) -> Result<&'static RefCell<ZephyrAgent>, Text> {
    let arena_len = engine.arena().total;
    let slots = sizes::SLOTS.min(settings.instances.into());
    let deployments = sizes::DEPLOYMENTS.min(settings.deployments.into());
    let storage = Storage {
        slots: fill(&SLOTS, slots, || TaskSlot::FREE),
        deployments: fill(&DEPLOYMENTS, deployments, || DeploymentSlot::FREE),
        modules: fill(&MODULES, sizes::MODULES, || ModuleEntry::VACANT),
        fetches: fill(&FETCHES, sizes::FETCHES, || Fetch::VACANT),
        outbox: fill(&OUTBOX, sizes::OUTBOX, || OutboxEntry::VACANT),
        packed: &mut PACKED.take()[..],
        store: store(),
    };
    let mut agent = Agent::new(config(settings, reset, arena_len), storage, engine)
        .map_err(|e| text(format_args!("{e}")))?;
    trust(&mut agent, settings);
    agent.restore(crate::clock::now());
    Ok(AGENT.init(RefCell::new(agent)))
}

#[cfg(CONFIG_PROPLET_STORE)]
fn store() -> Option<&'static mut dyn Store> {
    crate::store::open()
}

#[cfg(not(CONFIG_PROPLET_STORE))]
fn store() -> Option<&'static mut dyn Store> {
    None
}

#[cfg(CONFIG_PROPLET_SIGNATURES)]
fn trust(agent: &mut ZephyrAgent, settings: &'static Settings) {
    if !settings.trusted_keys.is_empty() {
        agent.set_trust(proplet::module::signature::Trust::new(
            &settings.trusted_keys,
        ));
    }
}

#[cfg(not(CONFIG_PROPLET_SIGNATURES))]
fn trust(_: &mut ZephyrAgent, _: &'static Settings) {}

fn config(settings: &'static Settings, reset: &str, arena: usize) -> Config<'static> {
    let some = |text: &'static str| Some(text).filter(|text| !text.is_empty());
    let limits = TaskLimits {
        preemption: PREEMPTION,
        ..settings.limits()
    };
    Config {
        proplet_id: &settings.proplet_id,
        broker_host: &settings.mqtt_broker_host,
        broker_port: settings.mqtt_broker_port,
        tenant: &settings.tenant_id,
        channel: &settings.channel_id,
        heartbeat: time::Duration::from_secs(settings.heartbeat.into()),
        metrics_interval: time::Duration::from_secs(settings.metrics_interval.into()),
        result_delay: time::Duration::from_millis(settings.result_delay_ms.into()),
        listener_wait: time::Duration::from_secs(settings.listener_wait.into()),
        note_after: time::Duration::from_millis(settings.note_after_ms.into()),
        limits: with_memory(limits, arena as u64),
        services: settings.services(),
        data_bytes: settings.data_max_bytes as usize,
        message_bytes: settings.message_max_bytes as usize,
        metadata: Metadata {
            description: some(&settings.description),
            tags: tags(settings, reset),
            location: some(&settings.location),
            environment: Some("embedded"),
            os: Some("zephyr"),
            cpu_arch: Some(ARCH),
            total_memory_bytes: Some(arena as u64),
            proplet_version: Some(env!("CARGO_PKG_VERSION")),
            wasm_runtime: Some("wamr"),
            wasm_proposals: &wamr::PROPOSALS,
            ..Metadata::EMPTY
        },
        ..Config::DEFAULT
    }
}

/// The tags that are set, and the cause of the last reset as one more.
fn tags(settings: &'static Settings, reset: &str) -> &'static [&'static str] {
    let tags = TAG_LIST.init(heapless::Vec::new());
    let given = settings.tags.split(',').map(str::trim);
    for tag in given.filter(|tag| !tag.is_empty()) {
        if tags.len() == TAGS - 1 || tags.push(tag).is_err() {
            log::warn!(
                "tag '{tag}' and what follows is left out: {} are kept",
                TAGS - 1
            );
            break;
        }
    }
    let cause = RESET_TAG.init(heapless::String::new());
    if write!(cause, "reset:{reset}").is_ok() {
        // There is room: one less than that is taken.
        let _ = tags.push(cause);
    }
    tags
}
