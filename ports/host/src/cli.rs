//! The command line and its environment.

use crate::tls::Files;
use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};
use proplet::{engine, task::caps::Caps};
use proplet_bench::Workload;
use std::{path::PathBuf, time::Duration};

/// Most seconds between two heartbeats.
const HEARTBEAT_MAX: u64 = 5;

/// A Propeller proplet: runs WebAssembly tasks that a manager hands out over MQTT.
///
/// Without a command it shows the main job: a broker, a proplet and a small manager in this
/// process, for a few seconds.
#[derive(Debug, Parser)]
#[command(version, name = "proplet")]
pub struct Cli {
    #[command(subcommand)]
    /// What to do.
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the main job, without a network (the default).
    Demo,
    /// Joins a Propeller network and works until Ctrl-C.
    Join(Box<Join>),
    /// Runs one module, without a broker, and prints its result.
    Run(Run),
    /// Measures how many instances fit, what they cost, how fast and how fair they are.
    Bench(Bench),
    /// Makes a key pair for signing modules, and prints the public key.
    Keygen(Keygen),
    /// Signs a module, and prints the name of the signed one.
    Sign(Sign),
    /// Tells whether a trusted key has signed a module.
    Verify(Verify),
}

/// What ends a guest's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(
    missing_docs,
    reason = "the option that has these values explains them"
)]
pub enum Preemption {
    Fuel,
    Time,
}

impl From<Preemption> for engine::Preemption {
    fn from(preemption: Preemption) -> Self {
        match preemption {
            Preemption::Fuel => Self::Fuel,
            Preemption::Time => Self::Time,
        }
    }
}

/// Capacities and limits.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Tasks that there may be at once, 1 to 65534: slots, of some 70 bytes each.
    #[arg(long, env = "PROPLET_INSTANCES", default_value_t = 4096, value_parser = clap::value_parser!(u16).range(1..=65_534))]
    pub instances: u16,
    /// Latent deployments, 1 to 256.
    #[arg(long, env = "PROPLET_DEPLOYMENTS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub deployments: u16,
    /// Bytes of the arena in which modules, instances and their memories lie.
    #[arg(long, env = "PROPLET_ARENA_BYTES", default_value_t = 192 * 1024, value_parser = clap::value_parser!(u32).range(32 * 1024..=1 << 30))]
    pub arena_bytes: u32,
    /// Operand stack in bytes of a task that asks for none.
    #[arg(long, env = "PROPLET_STACK_DEFAULT_BYTES", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(512..=1 << 24))]
    pub stack_bytes: u32,
    /// Operand stack in bytes of each worker: the largest that a task may ask for. All guests use it in
    /// turn.
    #[arg(long, env = "PROPLET_STACK_MAX_BYTES", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(512..=1 << 24))]
    pub stack_max_bytes: u32,
    /// Most bytes of linear memory that a task may write to, in whole pages; a quarter of the arena if not
    /// given, all of it where there is one task (run, bench).
    #[arg(long, env = "PROPLET_MEMORY_MAX_BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub memory_max_bytes: Option<u64>,
    /// Take all of a task's linear memory at its start and when it grows, rather than page by page: then no
    /// task is ever without a page, and fewer fit.
    #[arg(long, env = "PROPLET_MEMORY_COMMIT", value_parser = clap::builder::BoolishValueParser::new())]
    pub memory_commit: bool,
    /// Longest run in milliseconds; none if not given: a task may run for days.
    #[arg(long, env = "PROPLET_DEADLINE_MAX_MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_max_ms: Option<u64>,
    /// Most work of a task, in branches and calls; none if not given.
    #[arg(long, env = "PROPLET_WORK_MAX", value_parser = clap::value_parser!(u64).range(1..))]
    pub work_max: Option<u64>,
    /// What ends a task's turn: "fuel", its work (--slice), or "time", its processor time
    /// (--slice-ms). A task's share against the others' is its PROPLET_WEIGHT, 1 to 100, 10 if not
    /// given.
    #[arg(long, env = "PROPLET_PREEMPTION", default_value = "fuel")]
    pub preemption: Preemption,
    /// Units of work, branches and calls, that a guest of weight 10 does before it's the next one's turn;
    /// it is to stop within as many.
    #[arg(long, env = "PROPLET_SLICE", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub slice: u32,
    /// Milliseconds of processor time that a guest of weight 10 has before it's the next one's turn,
    /// where that is by time.
    #[arg(long, env = "PROPLET_SLICE_MS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub slice_ms: u32,
    /// Most bytes of a module; only the arena bounds it if not given.
    #[arg(long, env = "PROPLET_MODULE_MAX_BYTES")]
    pub module_max_bytes: Option<u32>,
    /// Capabilities that a task may ask for by PROPLET_CAPS, separated by commas: time, random,
    /// timer, publish, subscribe, gpio, sensor.
    #[arg(long, env = "PROPLET_ALLOWED_CAPS", value_name = "NAMES", default_value = "time,random,timer", value_parser = caps)]
    pub caps: Caps,
    /// Bytes of log that a guest may write in a second; more is dropped and counted.
    #[arg(long, env = "PROPLET_LOG_BYTES", default_value_t = 16 * 1024)]
    pub log_bytes: u32,
    /// Messages that a guest may publish in a second; more are dropped and counted.
    #[arg(long, env = "PROPLET_MESSAGES", default_value_t = 100)]
    pub messages: u32,
    /// Most bytes of a guest's message, topic and payload, in and out.
    #[arg(long, env = "PROPLET_MESSAGE_MAX_BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub message_max_bytes: u32,
    /// Most bytes of a result that a guest publishes.
    #[arg(long, env = "PROPLET_RESULT_MAX_BYTES", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub result_max_bytes: u32,
    /// Threads that run guests, on as many cores, the last of those that the process may use; one for
    /// each core if not given, as far as their stacks take a quarter of the arena.
    #[arg(long, alias = "guest-cores", env = "PROPLET_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
}

/// Settings of `proplet join`. Their variables are named as the Linux proplet names them, where
/// it has them.
#[derive(Debug, Clone, Args)]
pub struct Join {
    /// The broker's listener for MQTT 5, as `mqtt://HOST[:PORT]`, or `mqtts://HOST[:PORT]` for TLS.
    #[arg(
        long,
        env = "PROPLET_MQTT_ADDRESS",
        default_value = "mqtt://localhost:1883",
        value_name = "URL"
    )]
    pub broker: String,
    /// CA certificates (PEM) that servers must be signed by: the broker, and those of modules by
    /// https. The system's if not given.
    #[arg(long, env = "PROPLET_MQTT_TLS_CA_CERT", value_name = "FILE")]
    pub tls_ca: Option<String>,
    /// Certificate (PEM) to show to servers that ask for one.
    #[arg(long, env = "PROPLET_MQTT_TLS_CLIENT_CERT", value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// The key (PEM) of --tls-cert.
    #[arg(long, env = "PROPLET_MQTT_TLS_CLIENT_KEY", value_name = "FILE")]
    pub tls_key: Option<String>,
    /// The tenant's id.
    #[arg(long, env = "PROPLET_TENANT_ID", value_name = "ID")]
    pub tenant: String,
    /// The channel's id.
    #[arg(long, env = "PROPLET_CHANNEL_ID", value_name = "ID")]
    pub channel: String,
    /// This proplet's entity id.
    #[arg(long, env = "PROPLET_ENTITY_ID", value_name = "ID")]
    pub id: String,
    /// The entity's key; no user name and password are sent if empty.
    #[arg(
        long,
        env = "PROPLET_API_KEY",
        default_value = "",
        hide_env_values = true
    )]
    pub key: String,
    /// Seconds of MQTT keep-alive.
    #[arg(long, env = "PROPLET_MQTT_KEEP_ALIVE", default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
    pub keep_alive: u16,
    /// Seconds to wait for each of: the address, the connection, the broker's answers.
    #[arg(long, env = "PROPLET_MQTT_TIMEOUT", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
    pub timeout: u16,
    /// Seconds for which the broker keeps commands while the connection is lost.
    #[arg(
        long,
        env = "PROPLET_MQTT_SESSION_EXPIRY",
        default_value_t = 300,
        value_name = "SECONDS"
    )]
    pub session_expiry: u32,
    /// Bytes of the receive buffer: the largest message, and so the largest module in one.
    #[arg(long, env = "PROPLET_MQTT_MAX_PACKET_SIZE", default_value_t = 1 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1024..=1 << 28))]
    pub receive_buffer: u32,
    /// Leave no last will. The manager takes the will, "offline", for a heartbeat.
    #[arg(long, env = "PROPLET_NO_WILL")]
    pub no_will: bool,
    /// Seconds between heartbeats, at most 5: the manager holds a proplet for dead after 10.
    #[arg(long, env = "PROPLET_LIVELINESS_INTERVAL", default_value_t = 4, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub heartbeat: u64,
    /// Seconds between the proplet's own metrics; 0 turns them off.
    #[arg(
        long,
        env = "PROPLET_METRICS_INTERVAL",
        default_value_t = 10,
        value_name = "SECONDS"
    )]
    pub metrics_interval: u64,
    /// Least milliseconds from a start to its result. The manager overwrites a result that it
    /// gets before it has noted that the task runs.
    #[arg(
        long,
        env = "PROPLET_RESULT_DELAY_MS",
        default_value_t = 250,
        value_name = "MS"
    )]
    pub result_delay_ms: u64,
    /// What the manager is told of this proplet.
    #[arg(long, env = "PROPLET_DESCRIPTION")]
    pub description: Option<String>,
    /// Tags of this proplet, separated by commas.
    #[arg(long, env = "PROPLET_TAGS", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Where this proplet is.
    #[arg(long, env = "PROPLET_LOCATION")]
    pub location: Option<String>,
    /// A folder for what is to survive a restart: latent deployments, and modules that a start names
    /// by their digest. Made if it is not there. Nothing is kept if not given.
    #[arg(long, env = "PROPLET_STORE", value_name = "FOLDER")]
    pub store: Option<PathBuf>,
    /// Most bytes of all modules in the store; those least recently used have to go.
    #[arg(
        long,
        env = "PROPLET_STORE_BYTES",
        value_name = "BYTES",
        default_value_t = 16 << 20
    )]
    pub store_bytes: u64,
    /// Ed25519 public keys, or files of them, separated by commas: modules that none of them has
    /// signed are refused. All are taken if not given, or empty.
    #[arg(
        long,
        env = "PROPLET_TRUSTED_KEYS",
        value_name = "KEYS",
        default_value = ""
    )]
    pub trusted_keys: String,
    /// Most bytes of a model or a data set of a federated round.
    #[arg(long, env = "PROPLET_DATA_MAX_BYTES", default_value_t = 65536)]
    pub data_max_bytes: u32,
    /// Where federated rounds get their models, if a task doesn't say.
    #[arg(
        long,
        env = "MODEL_REGISTRY_URL",
        value_name = "URL",
        default_value = ""
    )]
    pub model_registry_url: String,
    /// Where federated rounds get their data sets, if a task doesn't say.
    #[arg(long, env = "DATA_STORE_URL", value_name = "URL", default_value = "")]
    pub data_store_url: String,
    /// Where federated rounds send their updates, if a task doesn't say.
    #[arg(
        long,
        env = "MANAGER_COORDINATOR_URL",
        value_name = "URL",
        default_value = ""
    )]
    pub coordinator_url: String,
    /// Capacities and limits.
    #[command(flatten)]
    pub limits: Limits,
}

impl Join {
    /// Where the broker is.
    ///
    /// # Errors
    /// If the URL is none, or of a scheme that the host port doesn't speak.
    pub fn address(&self) -> Result<Address> {
        address(&self.broker)
    }

    /// The files of certificates.
    ///
    /// # Errors
    /// If one of a certificate and its key is missing.
    pub fn tls_files(&self) -> Result<Files> {
        // A variable that is set to nothing is as good as none.
        let path = |file: &Option<String>| {
            let file = file.as_ref().filter(|file| !file.is_empty());
            file.map(PathBuf::from)
        };
        let identity = match (path(&self.tls_cert), path(&self.tls_key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => bail!("--tls-cert and --tls-key go together: one of them is missing"),
        };
        Ok(Files {
            ca: path(&self.tls_ca),
            identity,
        })
    }

    /// The heartbeat's interval. With the Linux proplet's default of 10 s, the manager takes a live
    /// proplet for dead now and then.
    pub fn heartbeat(&self) -> Duration {
        if self.heartbeat > HEARTBEAT_MAX {
            log::warn!(
                "heartbeats every {} s are too rare for the manager: sending them every {HEARTBEAT_MAX} s",
                self.heartbeat
            );
        }
        Duration::from_secs(self.heartbeat.min(HEARTBEAT_MAX))
    }
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS is spoken there.
    pub tls: bool,
}

fn address(url: &str) -> Result<Address> {
    let (tls, rest) = match url.split_once("://") {
        None => (false, url),
        Some(("mqtt" | "tcp", rest)) => (false, rest),
        Some(("mqtts" | "ssl" | "tls", rest)) => (true, rest),
        Some((scheme, _)) => {
            bail!("broker {url}: expected mqtt:// or mqtts://HOST[:PORT], not {scheme}://")
        }
    };
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .with_context(|| format!("broker {url}: the bracket is not closed"))?;
            (host, port.strip_prefix(':'))
        }
        None => match rest.split_once(':') {
            // More than one colon, and no brackets: an IPv6 address without a port.
            Some((_, port)) if port.contains(':') => (rest, None),
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    if host.is_empty() {
        bail!("broker {url}: the host is missing, expected mqtt:// or mqtts://HOST[:PORT]");
    }
    let default = if tls { 8883 } else { 1883 };
    let port = port.map_or(Ok(default), |port| {
        port.parse::<u16>()
            .with_context(|| format!("broker {url}: port '{port}' is none, expected 1 to 65535"))
    })?;
    Ok(Address {
        host: host.into(),
        port,
        tls,
    })
}

/// Settings of `proplet run`.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// A module, as text (.wat) or binary (.wasm).
    pub file: PathBuf,
    /// Arguments of the function.
    #[arg(allow_negative_numbers = true)]
    pub inputs: Vec<String>,
    /// The exported function to call. If there is none of that name: main, run or _start.
    #[arg(long, default_value = "main")]
    pub export: String,
    /// Environment of the task, such as PROPLET_DEADLINE_MS=500.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Also print what the task used, on stderr.
    #[arg(long)]
    pub stats: bool,
    /// Capacities and limits.
    #[command(flatten)]
    pub limits: Limits,
}

fn caps(names: &str) -> Result<Caps> {
    Caps::parse(names).map_err(|e| anyhow!("{e}"))
}

fn pair(text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').context("expected KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

/// What `proplet bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchMode {
    /// Instances of one module: 1, 2, 4, 8, 16, 24 and so on by 8, until there can't be more.
    Shared,
    /// Instances of five modules, in sets of five: 1 set, 2, 3 and so on.
    Diverse,
    /// As shared, with cpu, mem and msg one after the other, and a summary.
    All,
    /// Endless loops: what each has of the processor, and how soon one is stopped.
    Fairness,
}

/// Settings of `proplet bench`.
#[derive(Debug, Clone, Args)]
#[command(
    mut_arg("workers", |arg| arg.default_value("1")),
    // So that no workload ends within its first slice, which is beside the turns.
    mut_arg("slice", |arg| arg.default_value("10000")),
    mut_arg("deployments", |arg| arg.hide(true)),
    mut_arg("stack_max_bytes", |arg| arg.hide(true)),
    mut_arg("deadline_max_ms", |arg| arg.hide(true)),
    mut_arg("module_max_bytes", |arg| arg.hide(true)),
    mut_arg("caps", |arg| arg.hide(true)),
    mut_arg("log_bytes", |arg| arg.hide(true)),
    mut_arg("messages", |arg| arg.hide(true)),
    mut_arg("message_max_bytes", |arg| arg.hide(true)),
    mut_arg("result_max_bytes", |arg| arg.hide(true)),
)]
pub struct Bench {
    /// What to measure.
    #[arg(default_value = "shared")]
    pub mode: BenchMode,
    /// The workload of the mode shared; cpu if not given.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Workload::all().map(|w| w.name)))]
    pub workload: Option<String>,
    /// Most instances. If not given, as many as slots (--instances) and arena allow; 24 loops for
    /// fairness.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=65_534))]
    pub max: Option<u16>,
    /// Milliseconds of each step, and for which loops share the processor.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub step_ms: u64,
    /// Most bytes of linear memory that an instance may write to, as PROPLET_MEMORY_BYTES bounds a task's.
    #[arg(long, value_name = "BYTES")]
    pub memory_bytes: Option<u64>,
    /// Weights of the instances, separated by colons or commas and repeated, as 1:2:4:8.
    #[arg(long, value_name = "WEIGHTS", value_parser = weights, default_value = "10")]
    pub weight: Weights,
    /// Print the figures as one JSON document instead.
    #[arg(long)]
    pub json: bool,
    /// Write a plot of the arena's bytes in use over the instances to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Capacities and limits.
    #[command(flatten)]
    pub limits: Limits,
}

/// Weights of slots, over and over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights(pub Vec<u8>);

fn weights(text: &str) -> Result<Weights> {
    const MAX: u8 = engine::Weight::MAX.0;
    let weight = |word: &str| match word.parse() {
        Ok(weight @ 1..=MAX) => Ok(weight),
        _ => bail!("weight '{word}': expected 1 to {MAX}"),
    };
    let weights = text.split([':', ',']).map(weight);
    Ok(Weights(weights.collect::<Result<_>>()?))
}

/// Settings of `proplet keygen`.
#[derive(Debug, Clone, Args)]
pub struct Keygen {
    /// The file of the secret key; one that exists is not overwritten.
    #[arg(long, value_name = "FILE", default_value = "signing.key")]
    pub output: PathBuf,
}

/// Settings of `proplet sign`.
#[derive(Debug, Clone, Args)]
pub struct Sign {
    /// A module, as text (.wat) or binary (.wasm). Signatures that it has stay, if they are of its
    /// present bytes.
    #[arg(value_name = "MODULE")]
    pub file: PathBuf,
    /// The file of the secret key, by `proplet keygen` or `wasmsign2 keygen`.
    #[arg(long, value_name = "KEYFILE")]
    pub key: PathBuf,
    /// The file of the signed module; MODULE with the extension .signed.wasm if not given.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Settings of `proplet verify`.
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// A signed module.
    #[arg(value_name = "MODULE")]
    pub file: PathBuf,
    /// Public keys of which one must have signed it, separated by commas or spaces: each in
    /// hexadecimal or base64, or the name of a file that has keys so or in wasmsign2's format.
    #[arg(long, env = "PROPLET_TRUSTED_KEYS", value_name = "KEYS")]
    pub trusted_keys: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn weights_are_a_list() {
        assert_eq!(weights("1:2:4:8").unwrap(), Weights(vec![1, 2, 4, 8]));
        assert_eq!(weights("100,1").unwrap(), Weights(vec![100, 1]));
        for bad in ["", "0", "101", "1:x", "1:", "-1"] {
            let error = weights(bad).unwrap_err().to_string();
            assert!(error.contains("expected 1 to 100"), "{bad}: {error}");
        }
    }

    #[test]
    fn brokers_are_urls_or_hosts() {
        for (url, host, port, tls) in [
            ("mqtt://broker:1884", "broker", 1884, false),
            ("tcp://10.0.0.1", "10.0.0.1", 1883, false),
            ("broker", "broker", 1883, false),
            ("mqtt://broker/", "broker", 1883, false),
            ("[::1]:1884", "::1", 1884, false),
            ("mqtt://[fe80::1]", "fe80::1", 1883, false),
            ("::1", "::1", 1883, false),
            ("mqtts://broker", "broker", 8883, true),
            ("ssl://[::1]/", "::1", 8883, true),
            ("tls://broker:1883", "broker", 1883, true),
        ] {
            let host = host.into();
            assert_eq!(address(url).unwrap(), Address { host, port, tls }, "{url}");
        }
        for bad in [
            "http://broker",
            "mqtts://",
            "mqtt://",
            "broker:x",
            "broker:70000",
            "[::1",
        ] {
            let error = address(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }
}
