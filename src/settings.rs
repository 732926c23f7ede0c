//! Settings by name, as a device keeps them: text in, checked values out.
//!
//! A device has the same few settings from three places: the build's defaults, what is stored,
//! and, on a simulator, the command line. All go through [`Settings::set`], so all are checked
//! and named alike.

use crate::{
    config::{Config, TaskLimits},
    engine::GuestLimits,
    module::signature::{self, PublicKey},
    task::{caps::Caps, learning::Services},
    text::{Text, clip, text},
    time::Duration,
    wire::{ID_MAX, check_level},
};
use core::ops::RangeInclusive;
use heapless::String;

/// Most bytes of a name or a secret other than a certificate's key.
const SECRET_MAX: usize = 128;

/// Most bytes of a broker's name.
const HOST_MAX: usize = 128;

/// Most bytes of what describes the proplet.
const WORDS_MAX: usize = 64;

/// Most milliseconds of a deadline, 49 days, and most work that a setting can bound.
const COUNT: RangeInclusive<u64> = 0..=u32::MAX as u64;

/// Bytes of a message that a setting can allow.
const MESSAGE: RangeInclusive<u64> = 0..=1 << 20;

/// Keys that may be trusted.
pub const KEYS_MAX: usize = 4;

/// Certificates and keys, in PEM: too large to be kept here. The port keeps them and checks them by
/// [`check_credential`].
pub const CREDENTIALS: [&str; 3] = ["mqtt_tls_ca", "mqtt_tls_cert", "mqtt_tls_key"];

/// Settings that protect the proplet: without its value for one of them it must not go online, as if
/// that had not been asked for.
pub const PROTECTIVE: [&str; 2] = ["mqtt_tls_enabled", "trusted_keys"];

/// The settings of a device.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "SPECS describes each")]
pub struct Settings {
    /// Whether the firmware has TLS at all; no setting.
    pub has_tls: bool,
    /// Whether the firmware checks signatures at all; no setting.
    pub has_signatures: bool,
    /// One of the [`PROTECTIVE`] settings that has a value which can't be taken; no setting.
    pub unusable: Option<&'static str>,
    pub wifi_ssid: String<32>,
    pub wifi_psk: String<64>,
    pub proplet_id: String<ID_MAX>,
    pub api_key: String<SECRET_MAX>,
    pub tenant_id: String<ID_MAX>,
    pub channel_id: String<ID_MAX>,
    pub mqtt_broker_host: String<HOST_MAX>,
    pub mqtt_broker_port: u16,
    pub mqtt_tls_enabled: bool,
    pub keep_alive: u16,
    pub timeout: u16,
    pub session_expiry: u32,
    pub will: bool,
    pub heartbeat: u32,
    pub metrics_interval: u32,
    pub result_delay_ms: u32,
    pub description: String<WORDS_MAX>,
    pub tags: String<WORDS_MAX>,
    pub location: String<WORDS_MAX>,
    pub instances: u16,
    pub deployments: u16,
    pub slice: u32,
    pub slice_ms: u32,
    pub stack_bytes: u32,
    pub stack_max_bytes: u32,
    pub memory_max_bytes: u32,
    pub deadline_max_ms: u32,
    pub work_max: u32,
    pub module_max_bytes: u32,
    pub data_max_bytes: u32,
    pub caps: Caps,
    pub log_bytes: u32,
    pub messages: u32,
    pub message_max_bytes: u32,
    pub result_max_bytes: u32,
    pub model_registry_url: String<HOST_MAX>,
    pub data_store_url: String<HOST_MAX>,
    pub coordinator_url: String<HOST_MAX>,
    pub trusted_keys: heapless::Vec<PublicKey, KEYS_MAX>,
}

/// One setting.
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// Whether its value must not be shown.
    pub secret: bool,
    set: fn(&mut Settings, &str) -> Result<(), Text>,
}

const fn spec(name: &'static str, set: fn(&mut Settings, &str) -> Result<(), Text>) -> Spec {
    Spec {
        name,
        secret: false,
        set,
    }
}

const fn secret(name: &'static str, set: fn(&mut Settings, &str) -> Result<(), Text>) -> Spec {
    Spec {
        name,
        secret: true,
        set,
    }
}

impl Settings {
    /// The defaults of the protocol, without an identity, a broker and a network.
    pub const DEFAULT: Self = Self {
        has_tls: false,
        has_signatures: false,
        unusable: None,
        wifi_ssid: String::new(),
        wifi_psk: String::new(),
        proplet_id: String::new(),
        api_key: String::new(),
        tenant_id: String::new(),
        channel_id: String::new(),
        mqtt_broker_host: String::new(),
        mqtt_broker_port: 1884,
        mqtt_tls_enabled: false,
        keep_alive: 30,
        timeout: 10,
        session_expiry: 300,
        will: true,
        heartbeat: 4,
        metrics_interval: 10,
        result_delay_ms: 250,
        description: String::new(),
        tags: String::new(),
        location: String::new(),
        instances: 65_534,
        deployments: 256,
        slice: 2000,
        slice_ms: 10,
        stack_bytes: 4096,
        stack_max_bytes: 65536,
        memory_max_bytes: 0,
        deadline_max_ms: 0,
        work_max: 0,
        module_max_bytes: 0,
        data_max_bytes: 16384,
        caps: Caps::HARMLESS,
        log_bytes: GuestLimits::DEFAULT.log_bytes,
        messages: GuestLimits::DEFAULT.messages,
        message_max_bytes: GuestLimits::DEFAULT.message_bytes,
        result_max_bytes: GuestLimits::DEFAULT.result_bytes,
        model_registry_url: String::new(),
        data_store_url: String::new(),
        coordinator_url: String::new(),
        trusted_keys: heapless::Vec::new(),
    };

    /// All settings, in the order in which they are shown.
    pub const SPECS: &'static [Spec] = &[
        spec("wifi_ssid", |s, v| words(&mut s.wifi_ssid, v)),
        secret("wifi_psk", |s, v| {
            if (1..8).contains(&v.len()) {
                return Err(text(format_args!(
                    "expected 8 to 64 characters, or none for an open network"
                )));
            }
            words(&mut s.wifi_psk, v)
        }),
        spec("proplet_id", |s, v| level(&mut s.proplet_id, v)),
        secret("api_key", |s, v| words(&mut s.api_key, v)),
        spec("tenant_id", |s, v| level(&mut s.tenant_id, v)),
        spec("channel_id", |s, v| level(&mut s.channel_id, v)),
        spec("mqtt_broker_host", |s, v| {
            if v.contains([':', '/']) && v.parse::<core::net::IpAddr>().is_err() {
                return Err(text(format_args!(
                    "expected a name or an address alone: the port is mqtt_broker_port"
                )));
            }
            words(&mut s.mqtt_broker_host, v)
        }),
        spec("mqtt_broker_port", |s, v| {
            number(&mut s.mqtt_broker_port, v, 1..=65535)
        }),
        spec("mqtt_tls_enabled", |s, v| {
            switch(&mut s.mqtt_tls_enabled, v)?;
            if s.mqtt_tls_enabled && !s.has_tls {
                s.mqtt_tls_enabled = false;
                return Err(text(format_args!(
                    "this firmware has no TLS: build it with -DEXTRA_CONF_FILE=tls.conf"
                )));
            }
            Ok(())
        }),
        spec("keep_alive", |s, v| number(&mut s.keep_alive, v, 1..=65535)),
        spec("timeout", |s, v| number(&mut s.timeout, v, 1..=300)),
        spec("session_expiry", |s, v| {
            number(&mut s.session_expiry, v, COUNT)
        }),
        spec("will", |s, v| switch(&mut s.will, v)),
        spec("heartbeat", |s, v| number(&mut s.heartbeat, v, 1..=5)),
        spec("metrics_interval", |s, v| {
            number(&mut s.metrics_interval, v, 0..=3600)
        }),
        spec("result_delay_ms", |s, v| {
            number(&mut s.result_delay_ms, v, 0..=10_000)
        }),
        spec("description", |s, v| words(&mut s.description, v)),
        spec("tags", |s, v| words(&mut s.tags, v)),
        spec("location", |s, v| words(&mut s.location, v)),
        spec("instances", |s, v| number(&mut s.instances, v, 1..=65_534)),
        spec("deployments", |s, v| number(&mut s.deployments, v, 1..=256)),
        spec("slice", |s, v| number(&mut s.slice, v, 1..=1_000_000_000)),
        spec("slice_ms", |s, v| number(&mut s.slice_ms, v, 1..=1000)),
        spec("stack_bytes", |s, v| {
            number(&mut s.stack_bytes, v, 512..=1 << 20)
        }),
        spec("stack_max_bytes", |s, v| {
            number(&mut s.stack_max_bytes, v, 512..=1 << 20)
        }),
        spec("memory_max_bytes", |s, v| {
            number(&mut s.memory_max_bytes, v, COUNT)
        }),
        spec("deadline_max_ms", |s, v| {
            number(&mut s.deadline_max_ms, v, COUNT)
        }),
        spec("work_max", |s, v| number(&mut s.work_max, v, COUNT)),
        spec("module_max_bytes", |s, v| {
            number(&mut s.module_max_bytes, v, COUNT)
        }),
        spec("data_max_bytes", |s, v| {
            number(&mut s.data_max_bytes, v, COUNT)
        }),
        spec("caps", |s, v| {
            s.caps = Caps::parse(v).map_err(|e| text(format_args!("{e}")))?;
            Ok(())
        }),
        spec("log_bytes", |s, v| number(&mut s.log_bytes, v, COUNT)),
        spec("messages", |s, v| number(&mut s.messages, v, COUNT)),
        spec("message_max_bytes", |s, v| {
            number(&mut s.message_max_bytes, v, MESSAGE)
        }),
        spec("result_max_bytes", |s, v| {
            number(&mut s.result_max_bytes, v, MESSAGE)
        }),
        spec("model_registry_url", |s, v| {
            url(&mut s.model_registry_url, v)
        }),
        spec("data_store_url", |s, v| url(&mut s.data_store_url, v)),
        spec("coordinator_url", |s, v| url(&mut s.coordinator_url, v)),
        spec("trusted_keys", |s, v| {
            let keys = signature::parse_keys(v)?;
            if !keys.is_empty() && !s.has_signatures {
                return Err(text(format_args!(
                    "this firmware checks no signatures: build it with CONFIG_PROPLET_SIGNATURES"
                )));
            }
            s.trusted_keys = keys;
            Ok(())
        }),
    ];

    /// Takes one setting over, if `value` is right.
    ///
    /// # Errors
    /// What was expected, with the name, and without the value of a secret. The setting keeps
    /// the value that it had.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Text> {
        let Some(spec) = Self::SPECS.iter().find(|spec| spec.name == name) else {
            return Err(text(format_args!("there is no setting '{name}'")));
        };
        let mut taken = (spec.set)(self, value);
        // In place: a move would be a second text on the stack.
        if let Err(reason) = &mut taken {
            let shown = clip(value, 40);
            *reason = match spec.secret || value.len() > WORDS_MAX {
                true => text(format_args!("{name}: {reason}")),
                false => text(format_args!("{name} '{shown}': {reason}")),
            };
        }
        taken
    }

    /// Takes over a setting as it is stored. If it is one that [protects](PROTECTIVE) and its value can't
    /// be taken, it is [`unusable`](Self::unusable) from then on, until one comes that can.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn load(&mut self, name: &str, value: &str) -> Result<(), Text> {
        let taken = self.set(name, value);
        if let Some(name) = PROTECTIVE.into_iter().find(|protects| *protects == name) {
            match &taken {
                Ok(()) if self.unusable == Some(name) => self.unusable = None,
                Ok(()) => {}
                Err(_) => self.unusable = Some(name),
            }
        }
        taken
    }

    /// The first setting without which there is no proplet to join a network, and no value.
    pub fn missing(&self) -> Option<&'static str> {
        [
            ("proplet_id", self.proplet_id.is_empty()),
            ("tenant_id", self.tenant_id.is_empty()),
            ("channel_id", self.channel_id.is_empty()),
            ("mqtt_broker_host", self.mqtt_broker_host.is_empty()),
        ]
        .into_iter()
        .find_map(|(name, missing)| missing.then_some(name))
    }

    /// Bounds on tasks, as the agent takes them.
    pub fn limits(&self) -> TaskLimits {
        let bound = |value: u32| Some(u64::from(value)).filter(|v| *v > 0);
        TaskLimits {
            deadline: bound(self.deadline_max_ms).map(Duration::from_millis),
            work: bound(self.work_max),
            stack: self.stack_bytes,
            stack_max: self.stack_max_bytes.max(self.stack_bytes),
            memory: bound(self.memory_max_bytes),
            caps: self.caps,
            module_bytes: match self.module_max_bytes {
                0 => usize::MAX,
                bytes => bytes as usize,
            },
            ..Config::DEFAULT.limits
        }
    }

    /// Bounds on guests, as the engine takes them.
    pub fn guest_limits(&self) -> GuestLimits {
        GuestLimits {
            log_bytes: self.log_bytes,
            messages: self.messages,
            message_bytes: self.message_max_bytes,
            result_bytes: self.result_max_bytes,
        }
    }

    /// Services of federated learning, as the agent takes them.
    pub fn services(&self) -> Services<'_> {
        Services {
            models: &self.model_registry_url,
            data: &self.data_store_url,
            coordinator: &self.coordinator_url,
        }
    }
}

/// A base URL, or none.
fn url<const N: usize>(field: &mut String<N>, value: &str) -> Result<(), Text> {
    let is_url = value.starts_with("http://") || value.starts_with("https://");
    if !value.is_empty() && !is_url {
        return Err(text(format_args!("expected http://… or https://…")));
    }
    words(field, value)
}

/// Text on one line.
fn words<const N: usize>(field: &mut String<N>, value: &str) -> Result<(), Text> {
    if let Some(found) = value.chars().find(|c| c.is_control()) {
        return Err(text(format_args!("{found:?} is not possible here")));
    }
    assign(field, value)
}

/// One level of a topic; empty is as good as not set.
fn level<const N: usize>(field: &mut String<N>, value: &str) -> Result<(), Text> {
    if !value.is_empty() && check_level("id", value).is_err() {
        return Err(text(format_args!(
            "expected an id: it becomes a level of a topic, without '/', '+' and '#'"
        )));
    }
    assign(field, value)
}

/// Whether `value` can be kept as one of [`CREDENTIALS`] in `max` bytes.
///
/// # Errors
/// What was expected, with the name.
pub fn check_credential(name: &str, value: &str, max: usize) -> Result<(), Text> {
    if !value.is_empty() && !value.trim_start().starts_with("-----BEGIN ") {
        return Err(text(format_args!(
            "{name}: expected PEM, '-----BEGIN …', with \\n for each line break"
        )));
    }
    if value.len() > max {
        return Err(text(format_args!(
            "{name}: it has {} bytes, at most {max} are kept",
            value.len()
        )));
    }
    Ok(())
}

fn assign<const N: usize>(field: &mut String<N>, value: &str) -> Result<(), Text> {
    let Ok(taken) = String::try_from(value) else {
        return Err(text(format_args!(
            "it has {} bytes, at most {N} are kept",
            value.len()
        )));
    };
    *field = taken;
    Ok(())
}

fn number<T: TryFrom<u64>>(
    field: &mut T,
    value: &str,
    range: RangeInclusive<u64>,
) -> Result<(), Text> {
    let found = value.parse().ok().filter(|n| range.contains(n));
    match found.and_then(|n| T::try_from(n).ok()) {
        Some(n) => {
            *field = n;
            Ok(())
        }
        None => Err(text(format_args!(
            "expected a number from {} to {}",
            range.start(),
            range.end()
        ))),
    }
}

fn switch(field: &mut bool, value: &str) -> Result<(), Text> {
    *field = match value {
        "1" | "true" | "y" | "yes" | "on" => true,
        "0" | "false" | "n" | "no" | "off" | "" => false,
        _ => return Err(text(format_args!("expected true or false"))),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString as _;

    fn fresh() -> Settings {
        Settings {
            has_tls: true,
            has_signatures: true,
            ..Settings::DEFAULT
        }
    }

    #[test]
    fn names_are_unique_and_settable() {
        for (index, spec) in Settings::SPECS.iter().enumerate() {
            let before = &Settings::SPECS[..index];
            assert!(before.iter().all(|other| other.name != spec.name));
            assert!(fresh().set(spec.name, "\0").is_err(), "{}", spec.name);
        }
    }

    #[test]
    fn values_out_of_range_leave_the_setting_as_it_was() {
        for (name, bad) in [
            ("mqtt_broker_port", "99999"),
            ("mqtt_broker_port", "0"),
            ("mqtt_broker_port", "18 84"),
            ("heartbeat", "6"),
            ("heartbeat", "-1"),
            ("slice", "0"),
            ("slice_ms", "1001"),
            ("will", "maybe"),
            ("tenant_id", "a/b"),
            ("channel_id", "#"),
            ("mqtt_broker_host", "mqtt://broker"),
            ("mqtt_broker_host", "broker:1883"),
            ("wifi_psk", "short"),
            ("caps", "time,everything"),
            ("coordinator_url", "coordinator:8080"),
            ("result_max_bytes", "1048577"),
            ("trusted_keys", "abc"),
            ("wifi_ssid", "a name with a \n line break"),
            ("proplet_id", &"x".repeat(ID_MAX + 1)),
            ("no_such_setting", "1"),
        ] {
            let mut settings = fresh();
            let error = settings.set(name, bad).unwrap_err();
            assert!(error.contains(name), "{error}");
            assert_eq!(
                std::format!("{settings:?}"),
                std::format!("{:?}", fresh()),
                "{name} = {bad}"
            );
        }
    }

    #[test]
    fn a_value_that_protects_and_can_not_be_taken_is_not_as_if_it_were_not_set() {
        let key = "0".repeat(64);
        for (name, bad, good) in [
            ("trusted_keys", "abc", &*key),
            ("trusted_keys", ",", ""),
            ("trusted_keys", "\0", &*key),
            ("mqtt_tls_enabled", "maybe", "true"),
        ] {
            let mut settings = fresh();
            settings.load(name, bad).unwrap_err();
            assert_eq!(settings.unusable, Some(name));
            settings.load("description", "x").unwrap();
            assert_eq!(settings.unusable, Some(name));
            settings.load(name, good).unwrap();
            assert_eq!(settings.unusable, None);
        }
        let mut settings = Settings::DEFAULT;
        for (name, value) in [("trusted_keys", &*key), ("mqtt_tls_enabled", "true")] {
            let error = settings.load(name, value).unwrap_err();
            assert!(error.contains("this firmware"), "{error}");
            assert_eq!(settings.unusable, Some(name));
        }
        settings.load("will", "maybe").unwrap_err();
        assert_eq!(settings.unusable, Some("mqtt_tls_enabled"));
    }

    #[test]
    fn a_secret_is_in_no_error() {
        let secret = "x".repeat(SECRET_MAX + 1);
        for name in ["api_key", "wifi_psk"] {
            let error = fresh().set(name, &secret).unwrap_err();
            assert!(!error.contains("xx"), "{error}");
        }
    }

    #[test]
    fn addresses_and_names_are_hosts() {
        for host in ["broker", "10.0.0.1", "fe80::1", "broker.example.org", ""] {
            fresh().set("mqtt_broker_host", host).unwrap();
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut settings = fresh();
        for name in ["proplet_id", "tenant_id", "channel_id", "mqtt_broker_host"] {
            assert_eq!(settings.missing(), Some(name));
            settings.set(name, "here").unwrap();
        }
        assert_eq!(settings.missing(), None);
    }

    #[test]
    fn a_firmware_without_tls_says_so() {
        let mut settings = Settings::DEFAULT;
        let error = settings.set("mqtt_tls_enabled", "1").unwrap_err();
        assert!(error.contains("tls.conf"), "{error}");
        assert!(!settings.mqtt_tls_enabled);
        settings.set("mqtt_tls_enabled", "0").unwrap();
    }

    #[test]
    fn credentials_are_pem_and_fit() {
        let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        check_credential("mqtt_tls_ca", pem, 64).unwrap();
        check_credential("mqtt_tls_ca", "", 0).unwrap();
        for (value, max) in [("MIIB", 64), (pem, 20)] {
            let error = check_credential("mqtt_tls_key", value, max).unwrap_err();
            assert!(error.starts_with("mqtt_tls_key: "), "{error}");
            assert!(!error.contains("MIIB"), "{error}");
        }
    }

    #[test]
    fn zero_bounds_nothing() {
        let mut settings = fresh();
        let limits = settings.limits();
        assert_eq!(
            (limits.deadline, limits.work, limits.memory),
            (None, None, None)
        );
        settings.set("deadline_max_ms", "700").unwrap();
        settings.set("stack_bytes", "8192").unwrap();
        settings.set("stack_max_bytes", "512").unwrap();
        let limits = settings.limits();
        assert_eq!(limits.deadline, Some(Duration::from_millis(700)));
        assert_eq!((limits.stack, limits.stack_max), (8192, 8192));
        assert_eq!(
            settings.set("slice", "x").unwrap_err().to_string(),
            "slice 'x': expected a number from 1 to 1000000000"
        );
    }
}
