//! The command line and its environment.

use crate::tls::Files;
use anyhow::{Context as _, Result, anyhow, bail};
use clap::{
    Arg, ArgAction, Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, RangedU64ValueParser},
};
use proplet::{
    engine,
    settings::table::{self, Kind, LinuxDefault, SETTINGS, Setting, Unit},
    task::caps::Caps,
};
use proplet_bench::Workload;
use std::{any::TypeId, ops::RangeInclusive, path::PathBuf, time::Duration};

/// A Propeller proplet: runs WebAssembly tasks that a manager hands out over MQTT.
///
/// Without a command it shows the main job: a broker, a proplet and a small manager in this
/// process, for a few seconds.
#[derive(Debug, Parser)]
#[command(version, name = "proplet")]
pub struct Cli {
    #[command(subcommand)]
    /// Command; the demo if not given.
    pub command: Option<Command>,
}

/// A command.
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

/// End of a guest's turn: by work or by time.
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
#[command(mut_args = configured)]
#[expect(missing_docs, reason = "the table of settings describes each")]
pub struct Limits {
    #[arg(long)]
    pub instances: u16,
    #[arg(long)]
    pub deployments: u16,
    #[arg(long)]
    pub arena_bytes: u32,
    #[arg(long)]
    pub stack_bytes: u32,
    #[arg(long)]
    pub stack_max_bytes: u32,
    #[arg(long)]
    pub memory_max_bytes: u32,
    #[arg(long, value_parser = clap::builder::BoolishValueParser::new())]
    pub memory_commit: bool,
    #[arg(long)]
    pub deadline_max_ms: u64,
    #[arg(long)]
    pub work_max: u64,
    #[arg(long)]
    pub preemption: Preemption,
    #[arg(long)]
    pub slice: u32,
    #[arg(long)]
    pub slice_ms: u32,
    #[arg(long)]
    pub module_max_bytes: u32,
    #[arg(long, value_parser = caps)]
    pub caps: Caps,
    #[arg(long)]
    pub log_bytes: u32,
    #[arg(long)]
    pub messages: u32,
    #[arg(long)]
    pub message_max_bytes: u32,
    #[arg(long)]
    pub result_max_bytes: u32,
    #[arg(long, alias = "guest-cores")]
    pub workers: Option<u16>,
}

impl Limits {
    /// Bound on a task's linear memory in bytes, if there is one.
    pub fn memory(&self) -> Option<u64> {
        bound(self.memory_max_bytes.into())
    }

    /// Bound on a task's work, if there is one.
    pub fn work(&self) -> Option<u64> {
        bound(self.work_max)
    }

    /// Longest run of a task, if it is bounded.
    pub fn deadline(&self) -> Option<Duration> {
        bound(self.deadline_max_ms).map(Duration::from_millis)
    }

    /// Most bytes of a module.
    pub fn module_bytes(&self) -> usize {
        match self.module_max_bytes {
            0 => usize::MAX,
            bytes => bytes as usize,
        }
    }
}

/// 0 is no bound.
fn bound(value: u64) -> Option<u64> {
    Some(value).filter(|value| *value > 0)
}

/// Settings of `proplet join`. Their variables are named as the Linux proplet names them, where
/// it has them.
#[derive(Debug, Clone, Args)]
#[command(mut_args = configured, next_line_help = true)]
#[expect(missing_docs, reason = "the table of settings describes each")]
pub struct Join {
    #[arg(long)]
    pub broker: String,
    #[arg(long)]
    pub tls_ca: Option<String>,
    #[arg(long)]
    pub tls_cert: Option<String>,
    #[arg(long)]
    pub tls_key: Option<String>,
    #[arg(long)]
    pub tenant: String,
    #[arg(long)]
    pub channel: String,
    #[arg(long)]
    pub id: String,
    #[arg(long)]
    pub key: String,
    #[arg(long)]
    pub keep_alive: u16,
    #[arg(long)]
    pub timeout: u16,
    #[arg(long)]
    pub session_expiry: u32,
    #[arg(long)]
    pub max_packet_size: u32,
    #[arg(long, value_parser = clap::builder::BoolishValueParser::new())]
    pub no_will: bool,
    #[arg(long)]
    pub heartbeat: u64,
    #[arg(long)]
    pub metrics_interval: u64,
    #[arg(long)]
    pub result_delay_ms: u64,
    #[arg(long)]
    pub description: Option<String>,
    #[arg(long, value_delimiter = ',')]
    pub tags: Vec<String>,
    #[arg(long)]
    pub location: Option<String>,
    #[arg(long)]
    pub store: Option<PathBuf>,
    #[arg(long)]
    pub store_bytes: u64,
    #[arg(long)]
    pub trusted_keys: String,
    #[arg(long)]
    pub data_max_bytes: u32,
    #[arg(long)]
    pub model_registry_url: String,
    #[arg(long)]
    pub data_store_url: String,
    #[arg(long)]
    pub coordinator_url: String,
    /// Capacities and limits.
    #[command(flatten)]
    pub limits: Limits,
}

/// Gives an argument what the table of settings has of it: variable, help, range and default.
fn configured(arg: Arg) -> Arg {
    let of_flag = |setting: &&Setting| {
        setting
            .linux
            .is_some_and(|linux| arg.get_long() == Some(linux.flag))
    };
    let Some(setting) = SETTINGS.iter().find(of_flag) else {
        return arg;
    };
    let Some(linux) = setting.linux else {
        return arg;
    };
    let arg = arg
        .env(linux.variable)
        .hide_env_values(setting.secret)
        .help(help(setting));
    let arg = match linux.default {
        LinuxDefault::Is(value) => arg.required(false).default_value(value),
        LinuxDefault::Unset(_) | LinuxDefault::Required => arg,
    };
    let arg = match (value_name(setting), arg.get_action()) {
        (Some(name), ArgAction::Set) => arg.value_name(name),
        _ => arg,
    };
    match setting.kind {
        Kind::Number(min, _) if linux.cuts => ranged(arg, min..=u64::MAX),
        Kind::Number(min, max) => ranged(arg, min..=max),
        _ => arg,
    }
}

/// The help of a flag, as clap's own has it: without a full stop.
fn help(setting: &Setting) -> String {
    let summary = setting.linux_help();
    let mut help = summary[..1].to_uppercase() + &summary[1..];
    if !setting.more.is_empty() {
        help = help + ". " + setting.more.trim_end_matches('.');
    }
    if let Some(LinuxDefault::Unset(meaning)) = setting.linux.map(|linux| linux.default)
        && meaning != "none"
        && setting.kind != Kind::Switch
    {
        help = help + " [if not given: " + meaning + "]";
    }
    match (setting.kind, setting.linux) {
        (Kind::Number(..), Some(linux)) if linux.cuts => {
            format!(
                "{help} [range: {}; a larger one is cut to it]",
                setting.range()
            )
        }
        (Kind::Number(0, u64::MAX), _) => help,
        (Kind::Number(..), _) => format!("{help} [range: {}]", setting.range()),
        _ => help,
    }
}

fn value_name(setting: &Setting) -> Option<&'static str> {
    Some(match (setting.kind, setting.unit) {
        (Kind::Number(..), Unit::Seconds) => "SECONDS",
        (Kind::Number(..), Unit::Milliseconds) => "MS",
        (Kind::Number(..), Unit::Bytes) => "BYTES",
        (Kind::Broker | Kind::Url, _) => "URL",
        (Kind::Id, _) => "ID",
        (Kind::Caps, _) => "NAMES",
        (Kind::Keys, _) => "KEYS",
        (Kind::Pem, _) => "FILE",
        (Kind::Folder, _) => "FOLDER",
        _ => return None,
    })
}

/// Bounds a number of the type that the field has.
fn ranged(arg: Arg, range: RangeInclusive<u64>) -> Arg {
    let is = |id: TypeId| arg.get_value_parser().type_id() == id;
    if is(TypeId::of::<u16>()) {
        arg.value_parser(RangedU64ValueParser::<u16>::new().range(range))
    } else if is(TypeId::of::<u32>()) {
        arg.value_parser(RangedU64ValueParser::<u32>::new().range(range))
    } else {
        arg.value_parser(RangedU64ValueParser::<u64>::new().range(range))
    }
}

impl Join {
    /// Where the broker is.
    ///
    /// # Errors
    /// If the URL can't be read, or is of a scheme that the host port doesn't speak.
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

    /// Interval of the heartbeats: the table's most where a larger one is given, as Propeller's Linux proplet
    /// has it by default.
    pub fn heartbeat(&self) -> Duration {
        let most = match table::find("heartbeat").map(|setting| setting.kind) {
            Some(Kind::Number(_, most)) => most,
            _ => self.heartbeat,
        };
        if self.heartbeat > most {
            log::warn!(
                "heartbeats every {} s are too rare for the manager: sending them every {most} s",
                self.heartbeat
            );
        }
        Duration::from_secs(self.heartbeat.min(most))
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
#[command(next_line_help = true)]
pub struct Run {
    /// A module, as text (.wat) or binary (.wasm).
    pub file: PathBuf,
    /// Arguments of the function.
    #[arg(allow_negative_numbers = true)]
    pub inputs: Vec<String>,
    /// The exported function to call. Without one of that name: main, run or _start.
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

/// Subjects of `proplet bench`.
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
    /// Kind of bench.
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
