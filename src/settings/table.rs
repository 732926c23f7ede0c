//! The settings of a proplet, each once: name, unit, range, default and help for both ports.
//!
//! [`SETTINGS`] is the source of the device's checks ([`Settings::set`](super::Settings::set)), of the Linux
//! port's flags, variables, defaults and help, and of the tables in docs/configuration.md; Kconfig is tested
//! against it. A new setting takes an entry here, a field of `Settings` with its place in `EMPTY` and
//! `Settings::field`, a field of `Join` or `Limits` in ports/host/src/cli.rs, its option in Kconfig if it has
//! one, and the code that reads it. The tests here and in tests/settings.rs name those that are missing.
//!
//! A firmware links [`SPECS`] alone: the help is read only when this crate is compiled, and by hosts.

use super::boards;
use crate::wire::ID_MAX;
use core::{fmt, ops::RangeInclusive};

/// Longest secret in bytes, other than a certificate's key.
pub const SECRET_MAX: usize = 128;

/// Longest host name or base URL in bytes.
pub const HOST_MAX: usize = 128;

/// Longest text in bytes that describes the proplet.
pub const WORDS_MAX: usize = 64;

/// Longest name in bytes of a Wi-Fi network.
pub const SSID_MAX: usize = 32;

/// Longest password in bytes of a Wi-Fi network.
pub const PSK_MAX: usize = 64;

/// Largest number that a Kconfig option can have: Rust sees it as an `isize` of 32 bits.
pub const KCONFIG_MAX: u64 = i32::MAX as u64;

const COUNT: RangeInclusive<u64> = 0..=u32::MAX as u64;
/// Bytes of a message that a setting can allow.
const MESSAGE: RangeInclusive<u64> = 0..=1 << 20;
/// Bytes of an operand stack.
const STACK: RangeInclusive<u64> = 512..=1 << 24;

/// Values of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number from the first to the second.
    Number(u64, u64),
    /// On or off.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Text on one line; the number bounds its bytes where a device keeps it.
    Line(usize),
    /// One level of a topic.
    Id,
    /// Password of a Wi-Fi network.
    Password,
    /// Name or address of a host, without a port.
    Host,
    /// Base URL of an HTTP service.
    Url,
    /// URL of a broker.
    Broker,
    /// Names of capabilities.
    Caps,
    /// Public keys.
    Keys,
    /// Certificates or a key in PEM: the text itself on a device, the name of a file on Linux.
    Pem,
    /// Name of a file.
    File,
    /// Name of a folder.
    Folder,
}

impl Kind {
    /// Bytes of the longest text that a device keeps; `None` where it keeps no text.
    pub const fn text_max(self) -> Option<usize> {
        match self {
            Self::Line(max) => Some(max),
            Self::Id => Some(ID_MAX),
            Self::Password => Some(PSK_MAX),
            Self::Host | Self::Url => Some(HOST_MAX),
            _ => None,
        }
    }
}

/// Unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things, which the help names.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    /// Its sign behind a number, with the space before it; empty for a count.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Bytes => " bytes",
            Self::Seconds => " s",
            Self::Milliseconds => " ms",
        }
    }

    /// Forms of a number of it, for those who got it wrong; empty for a count.
    pub const fn examples(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Bytes => ", such as 65536, 64KiB or 16MiB",
            Self::Seconds => ", such as 30, 30s or 1m",
            Self::Milliseconds => ", such as 500, 500ms or 30s",
        }
    }
}

/// Part of docs/configuration.md's description of the Linux port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Broker, identity and network.
    Connection,
    /// Presence and reports.
    Reports,
    /// Capacities and limits.
    Limits,
    /// Modules and federated rounds.
    Modules,
}

/// Default of a setting of the Linux port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinuxDefault {
    /// This value.
    Is(&'static str),
    /// No value, which has this meaning.
    Unset(&'static str),
    /// Must be given.
    Required,
}

/// A setting on Linux.
#[derive(Debug, Clone, Copy)]
pub struct Linux {
    /// Flag, without its dashes.
    pub flag: &'static str,
    /// Environment variable.
    pub variable: &'static str,
    /// Default.
    pub default: LinuxDefault,
    /// Summary, where that of both ports does not hold; else empty.
    pub summary: &'static str,
    /// Whether a number above the range is cut to it, with a warning, rather than refused.
    pub cuts: bool,
    /// Name that the flag had, which is taken, too; or empty.
    pub older_flag: &'static str,
    /// Name that the variable has in Propeller 0.5, which is taken, too; or empty.
    pub older_variable: &'static str,
}

/// A setting of a firmware.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// Default: of the Kconfig option, or without one of the setting.
    pub default: &'static str,
    /// Whether the running device takes it, under its name; else the build alone has it.
    pub shell: bool,
    /// Symbol of the Kconfig option, without CONFIG_.
    pub kconfig: Option<&'static str>,
    /// Sentences that follow the setting's own; may be empty.
    pub more: &'static str,
    /// Largest value that Kconfig takes, where RAM bounds it below the range.
    pub kconfig_max: u64,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name, which is that in the device's shell.
    pub name: &'static str,
    /// Values.
    pub kind: Kind,
    /// Unit, if it is a number.
    pub unit: Unit,
    /// Place in the documentation.
    pub section: Section,
    /// Meaning in a phrase, beginning with a small letter.
    pub summary: &'static str,
    /// Sentences that follow the summary; may be empty.
    pub more: &'static str,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// Whether it protects the proplet: without its value for it, a device must not go online as if that
    /// had not been asked for.
    pub protects: bool,
    /// On Linux; `None` where the Linux port does not have it.
    pub linux: Option<Linux>,
    /// In a firmware; `None` where it does not have it.
    pub device: Option<Device>,
}

impl Setting {
    const fn new(section: Section, name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            unit: Unit::Count,
            section,
            summary: "",
            more: "",
            secret: false,
            protects: false,
            linux: None,
            device: None,
        }
    }

    const fn number(
        section: Section,
        name: &'static str,
        unit: Unit,
        range: RangeInclusive<u64>,
    ) -> Self {
        let kind = Kind::Number(*range.start(), *range.end());
        let mut setting = Self::new(section, name, kind);
        setting.unit = unit;
        setting
    }

    const fn help(mut self, summary: &'static str, more: &'static str) -> Self {
        self.summary = summary;
        self.more = more;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn protects(mut self) -> Self {
        self.protects = true;
        self
    }

    const fn linux(
        mut self,
        flag: &'static str,
        variable: &'static str,
        default: LinuxDefault,
    ) -> Self {
        self.linux = Some(Linux {
            flag,
            variable,
            default,
            summary: "",
            cuts: false,
            older_flag: "",
            older_variable: "",
        });
        self
    }

    const fn linux_mut(&mut self) -> &mut Linux {
        match &mut self.linux {
            Some(linux) => linux,
            None => panic!("no setting of the Linux port"),
        }
    }

    const fn device_mut(&mut self) -> &mut Device {
        match &mut self.device {
            Some(device) => device,
            None => panic!("no setting of a device"),
        }
    }

    /// Gives the Linux port a summary of its own.
    const fn linux_summary(mut self, summary: &'static str) -> Self {
        self.linux_mut().summary = summary;
        self
    }

    const fn older_flag(mut self, flag: &'static str) -> Self {
        self.linux_mut().older_flag = flag;
        self
    }

    const fn older_variable(mut self, variable: &'static str) -> Self {
        self.linux_mut().older_variable = variable;
        self
    }

    const fn linux_cuts(mut self) -> Self {
        self.linux_mut().cuts = true;
        self
    }

    /// A setting of the running device.
    const fn shell(mut self, default: &'static str) -> Self {
        self.device = Some(Device {
            default,
            shell: true,
            kconfig: None,
            more: "",
            kconfig_max: KCONFIG_MAX,
        });
        self
    }

    /// A setting of the firmware's build alone.
    const fn build(self, default: &'static str, kconfig: &'static str) -> Self {
        let mut setting = self.shell(default).kconfig(kconfig);
        if let Some(device) = &mut setting.device {
            device.shell = false;
        }
        setting
    }

    const fn kconfig(mut self, symbol: &'static str) -> Self {
        self.device_mut().kconfig = Some(symbol);
        self
    }

    const fn device_more(mut self, more: &'static str) -> Self {
        self.device_mut().more = more;
        self
    }

    const fn kconfig_max(mut self, max: u64) -> Self {
        self.device_mut().kconfig_max = max;
        self
    }

    /// Summary on Linux.
    pub fn linux_help(&self) -> &'static str {
        match self.linux {
            Some(linux) if !linux.summary.is_empty() => linux.summary,
            _ => self.summary,
        }
    }

    /// Range of a number, with its unit; empty for other kinds.
    pub const fn range(&self) -> Range {
        Range(self.kind, self.unit)
    }
}

/// Range of a setting in words.
#[derive(Debug, Clone, Copy)]
pub struct Range(Kind, Unit);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Number(0, u64::MAX) => f.write_str("any number"),
            Kind::Number(min, u64::MAX) => write!(f, "at least {min}{}", self.1.sign()),
            Kind::Number(min, max) => write!(f, "{min} to {max}{}", self.1.sign()),
            _ => Ok(()),
        }
    }
}

use LinuxDefault::{Is, Required, Unset};
use Section::{Connection, Limits, Modules, Reports};
use Unit::{Bytes, Count, Milliseconds, Seconds};

/// All settings, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    Setting::new(Connection, "config", Kind::File)
        .help(
            "a file of settings in TOML, as Propeller's provisioning writes it",
            "The default is read if it is there.",
        )
        .linux("config", "PROPLET_CONFIG_FILE", Is("config.toml")),
    Setting::new(Connection, "config_section", Kind::Line(WORDS_MAX))
        .help("the section of that file", "")
        .linux("config-section", "PROPLET_CONFIG_SECTION", Is("proplet")),
    Setting::new(Connection, "broker", Kind::Broker)
        .help(
            "the broker's listener for MQTT 5, mqtt://HOST[:PORT], or mqtts://HOST[:PORT] for TLS",
            "tcp:// is the same as mqtt://, ssl:// and tls:// as mqtts://. The port is 1883 if not given, 8883 with TLS.",
        )
        .linux("broker", "PROPLET_MQTT_ADDRESS", Is("mqtt://localhost:1883")),
    Setting::new(Connection, "wifi_ssid", Kind::Line(SSID_MAX))
        .help(
            "name of the Wi-Fi network",
            "If it is empty, the device opens an access point, CONFIG_PROPLET_WIFI_AP_SSID, with a DHCP server.",
        )
        .shell("")
        .kconfig("PROPLET_WIFI_SSID"),
    Setting::new(Connection, "wifi_psk", Kind::Password)
        .help("password of the Wi-Fi network", "Empty for an open network.")
        .secret()
        .shell("")
        .kconfig("PROPLET_WIFI_PSK"),
    Setting::new(Connection, "proplet_id", Kind::Id)
        .help(
            "the proplet's entity id, as the manager's network gave it",
            "Also the MQTT client id and user name.",
        )
        .linux("id", "PROPLET_ENTITY_ID", Required)
        .older_variable("PROPLET_CLIENT_ID")
        .shell("")
        .kconfig("PROPLET_ID"),
    Setting::new(Connection, "api_key", Kind::Line(SECRET_MAX))
        .help(
            "the entity's key, which is the MQTT password",
            "No user name and password are sent if it is empty.",
        )
        .secret()
        .linux("key", "PROPLET_API_KEY", Is(""))
        .older_variable("PROPLET_CLIENT_KEY")
        .shell("")
        .kconfig("PROPLET_API_KEY"),
    Setting::new(Connection, "tenant_id", Kind::Id)
        .help("the tenant's id, in the topics m/TENANT/c/CHANNEL", "")
        .linux("tenant", "PROPLET_TENANT_ID", Required)
        .older_variable("PROPLET_DOMAIN_ID")
        .shell("")
        .kconfig("PROPLET_TENANT_ID"),
    Setting::new(Connection, "channel_id", Kind::Id)
        .help("the channel's id, in the topics m/TENANT/c/CHANNEL", "")
        .linux("channel", "PROPLET_CHANNEL_ID", Required)
        .shell("")
        .kconfig("PROPLET_CHANNEL_ID"),
    Setting::new(Connection, "mqtt_broker_host", Kind::Host)
        .help("the broker's name or address, without a port", "")
        .shell("")
        .kconfig("PROPLET_MQTT_BROKER_HOST"),
    Setting::number(Connection, "mqtt_broker_port", Count, 1..=65535)
        .help(
            "the broker's port for MQTT 5",
            "FluxMQ's is 1884, mosquitto's 1883; with TLS 8883 is usual.",
        )
        .shell("1884")
        .kconfig("PROPLET_MQTT_BROKER_PORT"),
    Setting::new(Connection, "mqtt_tls_enabled", Kind::Switch)
        .help("TLS to the broker", "Needs tls.conf in the build.")
        .protects()
        .shell("false")
        .kconfig("PROPLET_MQTT_TLS_ENABLED"),
    Setting::new(Connection, "mqtt_tls_ca", Kind::Pem)
        .help(
            "CA certificates (PEM) that servers must be signed by: the broker, and those of https URLs",
            "",
        )
        .linux("tls-ca", "PROPLET_MQTT_TLS_CA_CERT", Unset("the system's"))
        .shell(""),
    Setting::new(Connection, "mqtt_tls_cert", Kind::Pem)
        .help("certificate (PEM) to show to servers that ask for one", "")
        .linux("tls-cert", "PROPLET_MQTT_TLS_CLIENT_CERT", Unset("none"))
        .shell(""),
    Setting::new(Connection, "mqtt_tls_key", Kind::Pem)
        .help("key (PEM) of that certificate", "")
        .secret()
        .linux("tls-key", "PROPLET_MQTT_TLS_CLIENT_KEY", Unset("none"))
        .shell(""),
    Setting::number(Connection, "keep_alive", Seconds, 1..=65535)
        .help("seconds of MQTT keep-alive", "")
        .linux("keep-alive", "PROPLET_MQTT_KEEP_ALIVE", Is("30"))
        .shell("30"),
    Setting::number(Connection, "timeout", Seconds, 1..=65535)
        .help(
            "seconds to wait for each of: address, connection, the broker's answers, a write",
            "",
        )
        .linux("timeout", "PROPLET_MQTT_TIMEOUT", Is("10"))
        .shell("10"),
    Setting::number(Connection, "session_expiry", Seconds, COUNT)
        .help(
            "seconds for which the broker keeps commands while the connection is lost, or the proplet restarts with a store",
            "",
        )
        .linux("session-expiry", "PROPLET_MQTT_SESSION_EXPIRY", Is("300"))
        .shell("300"),
    Setting::number(Connection, "max_packet_size", Bytes, 0..=268_435_455)
        .help(
            "bytes of the largest packet that the broker may send; 0 is no limit",
            "The broker drops larger ones and tells nobody: a start that is dropped has no result. Without a limit each is answered.",
        )
        .linux("max-packet-size", "PROPLET_MQTT_MAX_PACKET_SIZE", Is("0"))
        .shell("0"),
    Setting::new(Connection, "will", Kind::Switch)
        .help("leave a last will, \"offline\", on the alive topic", "")
        .linux("no-will", "PROPLET_NO_WILL", Unset("off"))
        .linux_summary(
            "leave no last will. The manager takes the will, \"offline\", for a heartbeat",
        )
        .shell("true"),
    Setting::number(Reports, "heartbeat", Seconds, 1..=5)
        .help(
            "seconds between heartbeats",
            "The manager holds a proplet for dead after 10 s.",
        )
        .linux("heartbeat", "PROPLET_LIVELINESS_INTERVAL", Is("4"))
        // Propeller's Linux proplet has a default of 10 s for this variable.
        .linux_cuts()
        .shell("4")
        .kconfig("PROPLET_HEARTBEAT"),
    Setting::number(Reports, "metrics_interval", Seconds, COUNT)
        .help("seconds between the proplet's metrics; 0 turns them off", "")
        .linux("metrics-interval", "PROPLET_METRICS_INTERVAL", Is("10"))
        .shell("10")
        .kconfig("PROPLET_METRICS_INTERVAL"),
    Setting::number(Reports, "result_delay_ms", Milliseconds, 0..=60_000)
        .help(
            "least milliseconds from a start to its result",
            "The manager overwrites a result that it gets before it has noted that the task runs.",
        )
        .linux("result-delay-ms", "PROPLET_RESULT_DELAY_MS", Is("250"))
        .shell("250")
        .kconfig("PROPLET_RESULT_DELAY_MS"),
    Setting::number(Reports, "listener_wait", Seconds, 0..=30 * 86_400)
        .help(
            "seconds for which results that nobody is subscribed to are kept and sent again; 0 takes them for delivered",
            "They give way to others if the outbox is full.",
        )
        .linux("listener-wait", "PROPLET_LISTENER_WAIT", Is("3600"))
        .shell("3600")
        .kconfig("PROPLET_LISTENER_WAIT"),
    Setting::number(Reports, "note_after_ms", Milliseconds, 0..=3_600_000)
        .help(
            "milliseconds after which a task is noted in the store; 0 is never",
            "A noted task is reported if the proplet restarts before its results are delivered. Notes wear the flash.",
        )
        .linux("note-after-ms", "PROPLET_NOTE_AFTER_MS", Is("1000"))
        .shell("1000")
        .kconfig("PROPLET_NOTE_AFTER_MS"),
    Setting::new(Reports, "description", Kind::Line(WORDS_MAX))
        .help("description of this proplet for the manager", "")
        .linux("description", "PROPLET_DESCRIPTION", Unset("none"))
        .shell(""),
    Setting::new(Reports, "tags", Kind::Line(WORDS_MAX))
        .help(
            "tags of this proplet, separated by commas",
            "",
        )
        .linux("tags", "PROPLET_TAGS", Unset("none"))
        .shell("")
        .device_more("Eight at most."),
    Setting::new(Reports, "location", Kind::Line(WORDS_MAX))
        .help("place of this proplet", "")
        .linux("location", "PROPLET_LOCATION", Unset("none"))
        .shell(""),
    Setting::new(Limits, "like", Kind::Choice(&boards::NAMES))
        .help(
            "the board whose limits are the defaults, with one worker",
            "Memory is counted with this processor's pointers: what fits here fits there.",
        )
        .linux("like", "PROPLET_LIKE", Unset("none")),
    Setting::number(Limits, "instances", Count, 1..=65_534)
        .help(
            "tasks that there may be at once",
            "Each takes a slot of some 70 bytes.",
        )
        .linux("instances", "PROPLET_INSTANCES", Is("4096"))
        .shell("65534")
        .device_more("CONFIG_PROPLET_SLOTS at most."),
    Setting::number(Limits, "deployments", Count, 1..=256)
        .help("latent deployments", "")
        .linux("deployments", "PROPLET_DEPLOYMENTS", Is("16"))
        .shell("256")
        .device_more("CONFIG_PROPLET_DEPLOYMENTS at most."),
    Setting::number(Limits, "arena_bytes", Bytes, 8192..=1 << 30)
        .help(
            "bytes of the arena for modules, instances, stacks and linear memories",
            "",
        )
        .linux("arena", "PROPLET_ARENA_BYTES", Is("16MiB"))
        .older_flag("arena-bytes")
        .build("131072", "PROPLET_ARENA_SIZE"),
    Setting::new(Limits, "preemption", Kind::Choice(&["fuel", "time"]))
        .help(
            "what ends a task's turn: fuel, its work (slice), or time, its processor time (slice_ms)",
            "A task's share against the others' is its PROPLET_WEIGHT, 1 to 100, 10 if not given.",
        )
        .linux("preemption", "PROPLET_PREEMPTION", Is("fuel"))
        .linux_summary(
            "what ends a task's turn: fuel, its work (--slice), or time, its processor time (--slice-ms)",
        )
        .build("fuel", "PROPLET_PREEMPTION"),
    Setting::number(Limits, "slice", Count, 1..=u32::MAX as u64)
        .help(
            "units of work, branches and calls, of a turn of a guest of weight 10",
            "A guest that is to stop does so within as many.",
        )
        .linux("slice", "PROPLET_SLICE", Is("100000"))
        .shell("2000")
        .device_more("In force at once.")
        .kconfig("PROPLET_SLICE"),
    Setting::number(Limits, "slice_ms", Milliseconds, 1..=1000)
        .help(
            "milliseconds of processor time of a turn of a guest of weight 10, where time ends turns",
            "",
        )
        .linux("slice-ms", "PROPLET_SLICE_MS", Is("10"))
        .shell("10")
        .device_more("In force at once.")
        .kconfig("PROPLET_SLICE_MS"),
    Setting::number(Limits, "stack_bytes", Bytes, STACK)
        .help("operand stack in bytes of a task that asks for none", "")
        .linux("stack", "PROPLET_STACK_DEFAULT_BYTES", Is("8KiB"))
        .older_flag("stack-bytes")
        .shell("8192")
        .kconfig("PROPLET_GUEST_STACK_SIZE"),
    Setting::number(Limits, "stack_max_bytes", Bytes, STACK)
        .help(
            "operand stack in bytes of each worker: the largest that a task may ask for",
            "From the arena; all guests use it in turn.",
        )
        .linux("stack-max", "PROPLET_STACK_MAX_BYTES", Is("8KiB"))
        .older_flag("stack-max-bytes")
        .shell("8192")
        .kconfig("PROPLET_GUEST_STACK_SIZE_MAX"),
    Setting::number(Limits, "memory_max_bytes", Bytes, COUNT)
        .help(
            "most bytes of linear memory that a task may write to, in whole pages",
            "",
        )
        .linux("memory-max", "PROPLET_MEMORY_MAX_BYTES", Is("0"))
        .older_flag("memory-max-bytes")
        .linux_summary(
            "most bytes of linear memory that a task may write to, in whole pages; 0 is a quarter of the arena, or all of it for run and bench",
        )
        .shell("0")
        .device_more("0 is a quarter of the arena."),
    Setting::new(Limits, "memory_commit", Kind::Switch)
        .help(
            "take all of a task's linear memory at its start and when it grows, rather than page by page",
            "Then no task is ever without a page, and fewer fit.",
        )
        .linux("memory-commit", "PROPLET_MEMORY_COMMIT", Unset("off"))
        .build("false", "PROPLET_MEMORY_COMMIT"),
    Setting::number(Limits, "deadline_max_ms", Milliseconds, 0..=u64::MAX)
        .help(
            "longest run in milliseconds; 0 is no bound",
            "Also the deadline of a task that names none.",
        )
        .linux("deadline-max-ms", "PROPLET_DEADLINE_MAX_MS", Is("0"))
        .shell("0")
        .kconfig("PROPLET_DEADLINE_MAX_MS"),
    Setting::number(Limits, "work_max", Count, 0..=u64::MAX)
        .help(
            "most units of work of a task, branches and calls; 0 is no bound",
            "Also the budget of a task that names none.",
        )
        .linux("work-max", "PROPLET_WORK_MAX", Is("0"))
        .shell("0"),
    Setting::number(Limits, "module_max_bytes", Bytes, COUNT)
        .help(
            "most bytes of a module without its custom sections; 0 leaves only the arena as bound",
            "",
        )
        .linux("module-max", "PROPLET_MODULE_MAX_BYTES", Is("0"))
        .older_flag("module-max-bytes")
        .shell("0")
        .kconfig("PROPLET_MODULE_MAX_BYTES"),
    Setting::number(Limits, "data_max_bytes", Bytes, COUNT)
        .help("most bytes of a model or a data set of a federated round", "")
        .linux("data-max", "PROPLET_DATA_MAX_BYTES", Is("64KiB"))
        .older_flag("data-max-bytes")
        .shell("16384")
        .kconfig("PROPLET_DATA_MAX_BYTES"),
    Setting::new(Limits, "caps", Kind::Caps)
        .help(
            "capabilities that a task may ask for by PROPLET_CAPS, separated by commas",
            "Of time, random, timer, publish, subscribe, gpio and sensor.",
        )
        .linux("caps", "PROPLET_ALLOWED_CAPS", Is("time,random,timer"))
        .shell("time,random,timer")
        .kconfig("PROPLET_CAPS"),
    Setting::number(Limits, "log_bytes", Bytes, COUNT)
        .help(
            "bytes of log that a guest may write in a second",
            "More is dropped and counted.",
        )
        .linux("log-max", "PROPLET_LOG_BYTES", Is("16KiB"))
        .older_flag("log-bytes")
        .shell("1024")
        .kconfig("PROPLET_LOG_BYTES"),
    Setting::number(Limits, "messages", Count, COUNT)
        .help(
            "messages that a guest may publish in a second",
            "More are dropped and counted.",
        )
        .linux("messages", "PROPLET_MESSAGES", Is("100"))
        .shell("10")
        .kconfig("PROPLET_MESSAGES"),
    Setting::number(Limits, "message_max_bytes", Bytes, MESSAGE)
        .help(
            "most bytes of a guest's message, topic and payload, in and out",
            "A larger one traps.",
        )
        .linux("message-max", "PROPLET_MESSAGE_MAX_BYTES", Is("4KiB"))
        .older_flag("message-max-bytes")
        .shell("512")
        .kconfig("PROPLET_MESSAGE_MAX_BYTES"),
    Setting::number(Limits, "result_max_bytes", Bytes, MESSAGE)
        .help(
            "most bytes of a result that a guest publishes",
            "A larger one traps.",
        )
        .linux("result-max", "PROPLET_RESULT_MAX_BYTES", Is("8KiB"))
        .older_flag("result-max-bytes")
        .shell("1024")
        .kconfig("PROPLET_RESULT_MAX_BYTES"),
    Setting::number(Limits, "workers", Count, 1..=1024)
        .help("threads that run guests", "")
        .linux(
            "workers",
            "PROPLET_WORKERS",
            Unset("one for each core that the process may use, as far as their stacks take a quarter of the arena"),
        )
        .older_flag("guest-cores")
        .linux_summary(
            "threads that run guests, on as many cores, the last of those that the process may use",
        )
        .build("1", "PROPLET_WORKERS")
        // Each has a native stack.
        .kconfig_max(16),
    Setting::new(Modules, "store", Kind::Folder)
        .help(
            "a folder for what survives a restart: latent deployments, modules that a start names by their digest, the session with the broker, and the ids of tasks that run",
            "Made if it is not there.",
        )
        .linux("store", "PROPLET_STORE", Unset("nothing is kept")),
    Setting::number(Modules, "store_bytes", Bytes, 0..=u64::MAX)
        .help(
            "most bytes of all modules in the store",
            "Those least recently used have to go.",
        )
        .linux("store-max", "PROPLET_STORE_BYTES", Is("16MiB"))
        .older_flag("store-bytes"),
    Setting::new(Modules, "model_registry_url", Kind::Url)
        .help(
            "URL where federated rounds get their models, if a task doesn't say",
            "",
        )
        .linux("model-registry-url", "MODEL_REGISTRY_URL", Is(""))
        .shell("")
        .kconfig("PROPLET_MODEL_REGISTRY_URL"),
    Setting::new(Modules, "data_store_url", Kind::Url)
        .help(
            "URL where federated rounds get their data sets, if a task doesn't say",
            "",
        )
        .linux("data-store-url", "DATA_STORE_URL", Is(""))
        .shell("")
        .kconfig("PROPLET_DATA_STORE_URL"),
    Setting::new(Modules, "coordinator_url", Kind::Url)
        .help(
            "URL where federated rounds send their updates, if a task doesn't say",
            "",
        )
        .linux("coordinator-url", "MANAGER_COORDINATOR_URL", Is(""))
        .shell("")
        .kconfig("PROPLET_COORDINATOR_URL"),
    Setting::new(Modules, "trusted_keys", Kind::Keys)
        .help(
            "Ed25519 public keys, separated by commas; modules that none has signed are refused",
            "Four at most. Every module is taken if it is empty.",
        )
        .protects()
        .linux("trusted-keys", "PROPLET_TRUSTED_KEYS", Is(""))
        .linux_summary(
            "Ed25519 public keys, or files of them, separated by commas; modules that none has signed are refused",
        )
        .shell("")
        .kconfig("PROPLET_TRUSTED_KEYS"),
];

/// A setting of the running device: the columns of the table that a firmware links.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Name.
    pub name: &'static str,
    /// Values.
    pub kind: Kind,
    /// Unit, if it is a number.
    pub unit: Unit,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// Whether it protects the proplet.
    pub protects: bool,
    /// Default.
    pub default: &'static str,
}

/// Settings of the running device, in the table's order.
pub const SPECS: &[Spec] = &specs::<{ spec_count() }>();

const fn spec_count() -> usize {
    let (mut count, mut i) = (0, 0);
    while i < SETTINGS.len() {
        count += matches!(SETTINGS[i].device, Some(Device { shell: true, .. })) as usize;
        i += 1;
    }
    count
}

const fn specs<const N: usize>() -> [Spec; N] {
    const UNUSED: Spec = Spec {
        name: "",
        kind: Kind::Switch,
        unit: Unit::Count,
        secret: false,
        protects: false,
        default: "",
    };
    let mut specs = [UNUSED; N];
    let (mut count, mut i) = (0, 0);
    while i < SETTINGS.len() {
        let setting = &SETTINGS[i];
        if let Some(Device {
            shell: true,
            default,
            ..
        }) = setting.device
        {
            specs[count] = Spec {
                name: setting.name,
                kind: setting.kind,
                unit: setting.unit,
                secret: setting.secret,
                protects: setting.protects,
                default,
            };
            count += 1;
        }
        i += 1;
    }
    specs
}

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The device's default of a number.
///
/// # Panics
/// If the device has no such setting, or it is no number: at compile time, where it is a constant.
pub const fn device_number(name: &str) -> u64 {
    let mut i = 0;
    while i < SPECS.len() {
        if is_same(SPECS[i].name.as_bytes(), name.as_bytes()) {
            return parse(SPECS[i].default.as_bytes());
        }
        i += 1;
    }
    panic!("no such setting of the device")
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn parse(digits: &[u8]) -> u64 {
    assert!(!digits.is_empty());
    let (mut number, mut i) = (0, 0);
    while i < digits.len() {
        assert!(digits[i].is_ascii_digit());
        number = number * 10 + (digits[i] - b'0') as u64;
        i += 1;
    }
    number
}
