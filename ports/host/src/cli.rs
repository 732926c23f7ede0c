//! The command line; [`sources`](crate::sources) adds what it leaves open.

use crate::{sign::trusted_keys, tls::Files};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::{
    Arg, ArgAction, Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser, ValueParser},
};
use proplet::{
    engine,
    settings::{
        boards::{self, Board},
        check, quantity,
        table::{self, Kind, LinuxDefault, SETTINGS, Setting, Unit},
    },
    task::caps::Caps,
    wire::ID_MAX,
};
use proplet_bench::Workload;
use proplet_engine::memory_least;
use std::{any::TypeId, path::PathBuf, time::Duration};

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
    #[arg(long, value_parser = board())]
    pub like: Option<&'static Board>,
    #[arg(long)]
    pub instances: u16,
    #[arg(long)]
    pub deployments: u16,
    #[arg(long = "arena")]
    pub arena_bytes: u32,
    #[arg(long = "stack")]
    pub stack_bytes: u32,
    #[arg(long = "stack-max")]
    pub stack_max_bytes: u32,
    #[arg(long = "memory-max")]
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
    #[arg(long = "module-max")]
    pub module_max_bytes: u32,
    #[arg(long, value_parser = caps)]
    pub caps: Caps,
    #[arg(long = "log-max")]
    pub log_bytes: u32,
    #[arg(long)]
    pub messages: u32,
    #[arg(long = "message-max")]
    pub message_max_bytes: u32,
    #[arg(long = "result-max")]
    pub result_max_bytes: u32,
    #[arg(long)]
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
    pub config: PathBuf,
    #[arg(long)]
    pub config_section: String,
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
    pub listener_wait: u64,
    #[arg(long)]
    pub note_after_ms: u64,
    #[arg(long)]
    pub description: Option<String>,
    #[arg(long, value_delimiter = ',')]
    pub tags: Vec<String>,
    #[arg(long)]
    pub location: Option<String>,
    #[arg(long)]
    pub store: Option<PathBuf>,
    #[arg(long = "store-max")]
    pub store_bytes: u64,
    #[arg(long)]
    pub trusted_keys: String,
    #[arg(long = "data-max")]
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

/// The setting that an argument is of.
pub(crate) fn setting(arg: &Arg) -> Option<&'static Setting> {
    let is_its = |setting: &&Setting| {
        let flag = setting.linux.map(|linux| linux.flag);
        flag.is_some() && arg.get_long() == flag
    };
    SETTINGS.iter().find(is_its)
}

/// Gives an argument what the table of settings has of it: variable, help, range and default.
fn configured(arg: Arg) -> Arg {
    let Some((setting, linux)) = setting(&arg).and_then(|s| Some((s, s.linux?))) else {
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
    // The arguments of Limits come here again with those of Join.
    let has_older = arg.get_all_aliases().is_some_and(|all| !all.is_empty());
    let arg = match linux.older_flag {
        "" => arg,
        _ if has_older => arg,
        flag => arg.alias(flag),
    };
    match setting.kind {
        Kind::Number(..) => numeric(arg, setting),
        Kind::Id | Kind::Url => arg.value_parser(move |value: &str| checked(setting, value)),
        Kind::Broker => arg.value_parser(|value: &str| address(value).map(|_| value.to_owned())),
        Kind::Keys => arg.value_parser(|value: &str| match trusted_keys(value) {
            Ok(_) => Ok(value.to_owned()),
            Err(reason) => Err(format!("{reason:#}")),
        }),
        _ => arg,
    }
}

/// A text that is right for its setting.
fn checked(setting: &Setting, value: &str) -> Result<String> {
    check(setting.kind, value).map_err(|e| anyhow!("{e}"))?;
    let len = value.len();
    if setting.kind == Kind::Id && !(1..=ID_MAX).contains(&len) {
        bail!("expected an id of 1 to {ID_MAX} bytes, not of {len}");
    }
    Ok(value.into())
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
        (Kind::Pem | Kind::File, _) => "FILE",
        (Kind::Folder, _) => "FOLDER",
        _ => return None,
    })
}

/// Lets a number have a unit, and bounds it, in the type that the field has.
fn numeric(arg: Arg, setting: &'static Setting) -> Arg {
    let is = |id: TypeId| arg.get_value_parser().type_id() == id;
    let parser = if is(TypeId::of::<u16>()) {
        ValueParser::new(move |value: &str| number::<u16>(setting, value))
    } else if is(TypeId::of::<u32>()) {
        ValueParser::new(move |value: &str| number::<u32>(setting, value))
    } else {
        ValueParser::new(move |value: &str| number::<u64>(setting, value))
    };
    arg.value_parser(parser)
}

fn number<T: TryFrom<u64>>(setting: &Setting, value: &str) -> Result<T> {
    let Kind::Number(min, max) = setting.kind else {
        bail!("expected no number");
    };
    let max = match setting.linux {
        Some(linux) if linux.cuts => u64::MAX,
        _ => max,
    };
    let found = quantity(value, setting.unit).filter(|number| (min..=max).contains(number));
    let Some(number) = found else {
        let (range, examples) = (setting.range(), setting.unit.examples());
        bail!("expected {range}{examples}");
    };
    let least = memory_least();
    if setting.name == "memory_max_bytes" && (1..u64::from(least)).contains(&number) {
        bail!("expected 0, or {least} bytes at least, which is a page");
    }
    T::try_from(number).map_err(|_| anyhow!("it is too large"))
}

/// A number of bytes that is no setting.
fn size(value: &str) -> Result<u64> {
    let examples = Unit::Bytes.examples();
    quantity(value, Unit::Bytes).with_context(|| format!("expected a number of bytes{examples}"))
}

/// Milliseconds of a step of the bench.
fn step(value: &str) -> Result<u64> {
    let ms = quantity(value, Unit::Milliseconds);
    ms.filter(|ms| (1..=3_600_000).contains(ms))
        .with_context(|| {
            let examples = Unit::Milliseconds.examples();
            format!("expected 1 to 3600000 ms{examples}")
        })
}

fn board() -> impl TypedValueParser<Value = &'static Board> {
    PossibleValuesParser::new(boards::NAMES)
        .try_map(|name| boards::find(&name).context("there is no such board"))
}

impl Join {
    /// Where the broker is.
    ///
    /// # Errors
    /// If the URL can't be read, or is of a scheme that the host port doesn't speak.
    pub fn address(&self) -> Result<Address> {
        address(&self.broker).with_context(|| format!("broker {}", self.broker))
    }

    /// The files of certificates.
    ///
    /// # Errors
    /// If one of a certificate and its key is missing.
    pub fn tls_files(&self) -> Result<Files> {
        // A flag that is given nothing is as good as none.
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

/// Where the broker of a URL is. As for the Linux proplet, a path and credentials in it are of no meaning.
fn address(url: &str) -> Result<Address> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("mqtt", url));
    let tls = match &*scheme.to_ascii_lowercase() {
        "mqtt" | "tcp" => false,
        "mqtts" | "ssl" | "tls" => true,
        _ => bail!("expected mqtt:// or mqtts://HOST[:PORT], not {scheme}://"),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (_, authority) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').context("the bracket is not closed")?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            // More than one colon, and no brackets: an IPv6 address without a port.
            Some((_, port)) if port.contains(':') => (authority, None),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        bail!("the host is missing, expected mqtt:// or mqtts://HOST[:PORT]");
    }
    let port = match port {
        None if tls => 8883,
        None => 1883,
        Some(port) => match port.parse() {
            Ok(port @ 1..) => port,
            _ => bail!("port '{port}': expected 1 to 65535"),
        },
    };
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
    // A device's: in 16 MiB a ladder takes hours.
    mut_arg("arena_bytes", |arg| arg.default_value("192KiB")),
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
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = step)]
    pub step_ms: u64,
    /// Most bytes of linear memory that an instance may write to, as PROPLET_MEMORY_BYTES bounds a task's.
    #[arg(long = "memory", alias = "memory-bytes", value_name = "BYTES", value_parser = size)]
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
            ("TCP://broker:1884", "broker", 1884, false),
            ("tcp://broker:1884/mqtt?x#y", "broker", 1884, false),
            ("mqtt://name:secret@broker:1884", "broker", 1884, false),
        ] {
            let host = host.into();
            assert_eq!(address(url).unwrap(), Address { host, port, tls }, "{url}");
        }
        for (bad, words) in [
            ("http://broker", "not http://"),
            ("mqtts://", "the host is missing"),
            ("mqtt://", "the host is missing"),
            ("", "the host is missing"),
            ("broker:x", "port 'x'"),
            ("broker:70000", "expected 1 to 65535"),
            ("broker:0", "expected 1 to 65535"),
            ("[::1", "the bracket is not closed"),
        ] {
            let error = address(bad).unwrap_err().to_string();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }
}
