//! Settings by name, as a device keeps them: text in, checked values out.
//!
//! A device has the same few settings from three places: the build's defaults, what is stored,
//! and, on a simulator, the command line. All go through [`Settings::set`], so all are checked
//! and named alike. [`table`] has what both ports share.

pub mod boards;
mod quantity;
pub mod table;

pub use quantity::quantity;

use crate::{
    config::{Config, TaskLimits},
    engine::GuestLimits,
    module::signature::{self, PublicKey},
    task::{caps::Caps, learning::Services},
    text::{Text, clip, text},
    time::Duration,
    wire::{ID_MAX, check_level},
};
use heapless::{String, string::StringView};
use table::{HOST_MAX, Kind, PSK_MAX, SECRET_MAX, SPECS, SSID_MAX, Spec, WORDS_MAX};

/// Keys that may be trusted.
pub const KEYS_MAX: usize = 4;

/// Certificates and keys, in PEM: too large to be kept here. The port keeps them and checks them by
/// [`check_credential`].
pub const CREDENTIALS: [&str; 3] = ["mqtt_tls_ca", "mqtt_tls_cert", "mqtt_tls_key"];

/// Settings of a device.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the table describes each")]
pub struct Settings {
    /// Whether the firmware has TLS at all; not a setting.
    pub has_tls: bool,
    /// Whether the firmware checks signatures at all; not a setting.
    pub has_signatures: bool,
    /// Bytes of a page of linear memory: the least that `memory_max_bytes` may be, beside 0. The port says it.
    pub page: u32,
    /// A setting that protects the proplet and has a value that can't be taken; not a setting.
    pub unusable: Option<&'static str>,
    pub wifi_ssid: String<SSID_MAX>,
    pub wifi_psk: String<PSK_MAX>,
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
    /// Bytes of the largest packet that the broker may send; 0 is no limit.
    pub max_packet_size: u32,
    pub will: bool,
    pub heartbeat: u32,
    pub metrics_interval: u32,
    pub result_delay_ms: u32,
    /// Seconds for which results that nobody is subscribed to are kept.
    pub listener_wait: u32,
    pub note_after_ms: u32,
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
    pub deadline_max_ms: u64,
    pub work_max: u64,
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

/// Place of a setting's value.
#[derive(Debug)]
enum Field<'a> {
    Text(&'a mut StringView),
    U16(&'a mut u16),
    U32(&'a mut u32),
    U64(&'a mut u64),
    Switch(&'a mut bool),
    Caps(&'a mut Caps),
    Keys(&'a mut heapless::Vec<PublicKey, KEYS_MAX>),
}

impl Settings {
    /// Nothing set, not even a default: all bytes are zero, so a static of it takes no flash.
    pub const EMPTY: Self = Self {
        has_tls: false,
        has_signatures: false,
        page: 0,
        unusable: None,
        wifi_ssid: String::new(),
        wifi_psk: String::new(),
        proplet_id: String::new(),
        api_key: String::new(),
        tenant_id: String::new(),
        channel_id: String::new(),
        mqtt_broker_host: String::new(),
        mqtt_broker_port: 0,
        mqtt_tls_enabled: false,
        keep_alive: 0,
        timeout: 0,
        session_expiry: 0,
        max_packet_size: 0,
        will: false,
        heartbeat: 0,
        metrics_interval: 0,
        result_delay_ms: 0,
        listener_wait: 0,
        note_after_ms: 0,
        description: String::new(),
        tags: String::new(),
        location: String::new(),
        instances: 0,
        deployments: 0,
        slice: 0,
        slice_ms: 0,
        stack_bytes: 0,
        stack_max_bytes: 0,
        memory_max_bytes: 0,
        deadline_max_ms: 0,
        work_max: 0,
        module_max_bytes: 0,
        data_max_bytes: 0,
        caps: Caps::NONE,
        log_bytes: 0,
        messages: 0,
        message_max_bytes: 0,
        result_max_bytes: 0,
        model_registry_url: String::new(),
        data_store_url: String::new(),
        coordinator_url: String::new(),
        trusted_keys: heapless::Vec::new(),
    };

    /// Gives every setting the table's default. A device's build replaces those that Kconfig has.
    ///
    /// # Errors
    /// If a default can't be taken, with its name; tests rule that out.
    pub fn set_defaults(&mut self) -> Result<(), Text> {
        for spec in SPECS.iter().filter(|spec| spec.kind != Kind::Pem) {
            self.set(spec.name, spec.default)?;
        }
        Ok(())
    }

    /// Place of the value of this name; `None` if it is not kept here.
    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        Some(match name {
            "wifi_ssid" => Field::Text(&mut self.wifi_ssid),
            "wifi_psk" => Field::Text(&mut self.wifi_psk),
            "proplet_id" => Field::Text(&mut self.proplet_id),
            "api_key" => Field::Text(&mut self.api_key),
            "tenant_id" => Field::Text(&mut self.tenant_id),
            "channel_id" => Field::Text(&mut self.channel_id),
            "mqtt_broker_host" => Field::Text(&mut self.mqtt_broker_host),
            "mqtt_broker_port" => Field::U16(&mut self.mqtt_broker_port),
            "mqtt_tls_enabled" => Field::Switch(&mut self.mqtt_tls_enabled),
            "keep_alive" => Field::U16(&mut self.keep_alive),
            "timeout" => Field::U16(&mut self.timeout),
            "session_expiry" => Field::U32(&mut self.session_expiry),
            "max_packet_size" => Field::U32(&mut self.max_packet_size),
            "will" => Field::Switch(&mut self.will),
            "heartbeat" => Field::U32(&mut self.heartbeat),
            "metrics_interval" => Field::U32(&mut self.metrics_interval),
            "result_delay_ms" => Field::U32(&mut self.result_delay_ms),
            "listener_wait" => Field::U32(&mut self.listener_wait),
            "note_after_ms" => Field::U32(&mut self.note_after_ms),
            "description" => Field::Text(&mut self.description),
            "tags" => Field::Text(&mut self.tags),
            "location" => Field::Text(&mut self.location),
            "instances" => Field::U16(&mut self.instances),
            "deployments" => Field::U16(&mut self.deployments),
            "slice" => Field::U32(&mut self.slice),
            "slice_ms" => Field::U32(&mut self.slice_ms),
            "stack_bytes" => Field::U32(&mut self.stack_bytes),
            "stack_max_bytes" => Field::U32(&mut self.stack_max_bytes),
            "memory_max_bytes" => Field::U32(&mut self.memory_max_bytes),
            "deadline_max_ms" => Field::U64(&mut self.deadline_max_ms),
            "work_max" => Field::U64(&mut self.work_max),
            "module_max_bytes" => Field::U32(&mut self.module_max_bytes),
            "data_max_bytes" => Field::U32(&mut self.data_max_bytes),
            "caps" => Field::Caps(&mut self.caps),
            "log_bytes" => Field::U32(&mut self.log_bytes),
            "messages" => Field::U32(&mut self.messages),
            "message_max_bytes" => Field::U32(&mut self.message_max_bytes),
            "result_max_bytes" => Field::U32(&mut self.result_max_bytes),
            "model_registry_url" => Field::Text(&mut self.model_registry_url),
            "data_store_url" => Field::Text(&mut self.data_store_url),
            "coordinator_url" => Field::Text(&mut self.coordinator_url),
            "trusted_keys" => Field::Keys(&mut self.trusted_keys),
            _ => return None,
        })
    }

    /// Takes one setting over, if `value` is right.
    ///
    /// # Errors
    /// The expected values, with the name, and without the value of a secret. The setting keeps
    /// the value that it had.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Text> {
        let spec = SPECS.iter().find(|spec| spec.name == name);
        let Some((spec, secret)) = spec.map(|spec| (spec, spec.secret)) else {
            return Err(text(format_args!("there is no setting '{name}'")));
        };
        let mut taken = self.take(spec, value);
        // In place: a move would be a second text on the stack.
        if let Err(reason) = &mut taken {
            let shown = clip(value, 40);
            *reason = match secret || value.len() > WORDS_MAX {
                true => text(format_args!("{name}: {reason}")),
                false => text(format_args!("{name} '{shown}': {reason}")),
            };
        }
        taken
    }

    fn take(&mut self, spec: &Spec, value: &str) -> Result<(), Text> {
        check(spec.kind, value)?;
        if spec.name == "memory_max_bytes" {
            return memory_max(&mut self.memory_max_bytes, value, spec, self.page);
        }
        let (has_tls, has_signatures) = (self.has_tls, self.has_signatures);
        match self.field(spec.name) {
            Some(Field::Text(field)) => assign(field, value),
            Some(Field::U16(field)) => number(field, value, spec),
            Some(Field::U32(field)) => number(field, value, spec),
            Some(Field::U64(field)) => number(field, value, spec),
            Some(Field::Switch(field)) => {
                let on = switch(value)?;
                if on && spec.name == "mqtt_tls_enabled" && !has_tls {
                    return Err(text(format_args!(
                        "this firmware has no TLS: build it with -DEXTRA_CONF_FILE=tls.conf"
                    )));
                }
                *field = on;
                Ok(())
            }
            Some(Field::Caps(field)) => {
                *field = Caps::parse(value).map_err(|e| text(format_args!("{e}")))?;
                Ok(())
            }
            Some(Field::Keys(field)) => {
                let keys = signature::parse_keys(value)?;
                if !keys.is_empty() && !has_signatures {
                    return Err(text(format_args!(
                        "this firmware checks no signatures: build it with CONFIG_PROPLET_SIGNATURES"
                    )));
                }
                *field = keys;
                Ok(())
            }
            None => Err(text(format_args!("it is kept by the port"))),
        }
    }

    /// Takes over a setting as it is stored. If it is one that [protects](Spec::protects) and its value
    /// can't be taken, it is [`unusable`](Self::unusable) from then on, until one comes that can.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn load(&mut self, name: &str, value: &str) -> Result<(), Text> {
        let taken = self.set(name, value);
        let mut protective = SPECS.iter().filter(|spec| spec.protects);
        if let Some(spec) = protective.find(|spec| spec.name == name) {
            match &taken {
                Ok(()) if self.unusable == Some(spec.name) => self.unusable = None,
                Ok(()) => {}
                Err(_) => self.unusable = Some(spec.name),
            }
        }
        taken
    }

    /// Returns the first setting that has no value and without which a proplet can't join a network.
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
        let bound = |value: u64| Some(value).filter(|v| *v > 0);
        TaskLimits {
            deadline: bound(self.deadline_max_ms).map(Duration::from_millis),
            work: bound(self.work_max),
            stack: self.stack_bytes,
            stack_max: self.stack_max_bytes.max(self.stack_bytes),
            memory: bound(self.memory_max_bytes.into()),
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

/// Checks what a text must be to be a value of this kind. Numbers, switches, capabilities and keys are read by
/// parsers of their own, which check them.
///
/// # Errors
/// The expected form.
pub fn check(kind: Kind, value: &str) -> Result<(), Text> {
    match kind {
        Kind::Password if (1..8).contains(&value.len()) => {
            return Err(text(format_args!(
                "expected 8 to 64 characters, or none for an open network"
            )));
        }
        Kind::Host if value.contains([':', '/']) && value.parse::<core::net::IpAddr>().is_err() => {
            return Err(text(format_args!(
                "expected a name or an address alone: the port is mqtt_broker_port"
            )));
        }
        Kind::Url
            if !(value.is_empty()
                || value.starts_with("http://")
                || value.starts_with("https://")) =>
        {
            return Err(text(format_args!("expected http://… or https://…")));
        }
        // Empty is as good as not set.
        Kind::Id if !value.is_empty() && check_level("id", value).is_err() => {
            return Err(text(format_args!(
                "expected an id: it becomes a level of a topic, without '/', '+' and '#'"
            )));
        }
        Kind::Line(_) | Kind::Password | Kind::Host | Kind::Url => {}
        _ => return Ok(()),
    }
    match value.chars().find(|c| c.is_control()) {
        Some(found) => Err(text(format_args!("{found:?} is not possible here"))),
        None => Ok(()),
    }
}

/// Checks whether `value` can be kept as one of [`CREDENTIALS`] in `max` bytes.
///
/// # Errors
/// The expected form, with the name.
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

fn assign(field: &mut StringView, value: &str) -> Result<(), Text> {
    let max = field.capacity();
    if value.len() > max {
        return Err(text(format_args!(
            "it has {} bytes, at most {max} are kept",
            value.len()
        )));
    }
    field.clear();
    // It fits.
    let _ = field.push_str(value);
    Ok(())
}

fn number<T: TryFrom<u64>>(field: &mut T, value: &str, spec: &Spec) -> Result<(), Text> {
    let Kind::Number(min, max) = spec.kind else {
        return Err(text(format_args!("expected no number")));
    };
    let found = quantity(value, spec.unit).filter(|n| (min..=max).contains(n));
    match found.and_then(|n| T::try_from(n).ok()) {
        Some(n) => {
            *field = n;
            Ok(())
        }
        None => Err(text(format_args!("expected a number from {min} to {max}"))),
    }
}

/// Takes `memory_max_bytes`: 0, or a page at least.
fn memory_max(field: &mut u32, value: &str, spec: &Spec, page: u32) -> Result<(), Text> {
    let mut bytes = 0;
    number(&mut bytes, value, spec)?;
    if (1..page).contains(&bytes) {
        return Err(text(format_args!(
            "expected 0, or {page} bytes at least, which is a page"
        )));
    }
    *field = bytes;
    Ok(())
}

fn switch(value: &str) -> Result<bool, Text> {
    match value {
        "1" | "true" | "y" | "yes" | "on" => Ok(true),
        "0" | "false" | "n" | "no" | "off" | "" => Ok(false),
        _ => Err(text(format_args!("expected true or false"))),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString as _;

    fn fresh() -> Settings {
        let mut settings = Settings {
            has_tls: true,
            has_signatures: true,
            ..Settings::EMPTY
        };
        settings.set_defaults().unwrap();
        settings
    }

    /// Whether a field is of a kind's type, and has room for its largest number or longest text.
    fn has_room_for(field: &Field<'_>, kind: Kind) -> bool {
        match (field, kind) {
            (Field::Text(text), _) => kind.text_max() == Some(text.capacity()),
            (Field::U16(_), Kind::Number(_, max)) => max <= u16::MAX.into(),
            (Field::U32(_), Kind::Number(_, max)) => max <= u32::MAX.into(),
            (Field::U64(_), Kind::Number(..))
            | (Field::Switch(_), Kind::Switch)
            | (Field::Caps(_), Kind::Caps)
            | (Field::Keys(_), Kind::Keys) => true,
            _ => false,
        }
    }

    #[test]
    fn each_setting_of_a_device_has_a_field_with_room_for_its_values() {
        let mut settings = Settings::EMPTY;
        for spec in SPECS.iter().filter(|spec| spec.kind != Kind::Pem) {
            let name = spec.name;
            let field = settings.field(name).unwrap_or_else(|| {
                panic!("{name} is a device's in SETTINGS: give Settings a field, and Settings::field its name")
            });
            assert!(
                has_room_for(&field, spec.kind),
                "{name}: the field of Settings has no room for {:?} of SETTINGS",
                spec.kind
            );
        }
    }

    #[test]
    fn names_flags_variables_and_options_are_unique_and_each_setting_is_of_a_port() {
        let unique = |what: &str, mut words: std::vec::Vec<&str>| {
            let len = words.len();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), len, "{what} of SETTINGS");
        };
        let all = table::SETTINGS;
        unique("names", all.iter().map(|s| s.name).collect());
        let linux = || all.iter().filter_map(|s| s.linux);
        unique("flags", linux().map(|s| s.flag).collect());
        unique("variables", linux().map(|s| s.variable).collect());
        let options = all.iter().filter_map(|s| s.device?.kconfig);
        unique("options", options.collect());
        let older = linux().flat_map(|s| [s.older_flag, s.older_variable]);
        let all_of_linux = linux().flat_map(|s| [s.flag, s.variable]).chain(older);
        let given = all_of_linux.filter(|name| !name.is_empty());
        unique("older names", given.collect());
        for setting in all {
            let name = setting.name;
            assert!(
                setting.linux.is_some() || setting.device.is_some(),
                "{name}"
            );
            assert!(!setting.summary.is_empty(), "{name} needs help");
            assert!(!setting.summary.ends_with('.'), "{name}: a phrase");
            assert!(
                setting.more.is_empty() || setting.more.ends_with('.'),
                "{name}"
            );
        }
    }

    #[test]
    fn credentials_are_those_of_the_table() {
        let pem = SPECS.iter().filter(|spec| spec.kind == Kind::Pem);
        assert!(pem.map(|spec| spec.name).eq(CREDENTIALS));
        assert!(fresh().set("mqtt_tls_ca", "").is_err());
    }

    #[test]
    fn other_defaults_are_the_tables() {
        let settings = fresh();
        let limits = settings.guest_limits();
        assert_eq!(
            std::format!("{limits:?}"),
            std::format!("{:?}", GuestLimits::DEFAULT)
        );
        assert_eq!(settings.caps, Caps::HARMLESS);
        assert_eq!(
            u64::from(settings.heartbeat),
            table::device_number("heartbeat")
        );
    }

    #[test]
    fn each_setting_is_refused_what_no_setting_takes() {
        for spec in SPECS {
            assert!(fresh().set(spec.name, "\0").is_err(), "{}", spec.name);
        }
    }

    #[test]
    fn the_ends_of_a_range_are_taken_and_what_is_beyond_is_not() {
        for spec in SPECS {
            let Kind::Number(min, max) = spec.kind else {
                continue;
            };
            for good in [min, max] {
                fresh().set(spec.name, &std::format!("{good}")).unwrap();
            }
            for bad in [min.checked_sub(1), max.checked_add(1)]
                .into_iter()
                .flatten()
            {
                let error = fresh().set(spec.name, &std::format!("{bad}")).unwrap_err();
                assert!(
                    error.contains(&std::format!("from {min} to {max}")),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn numbers_may_have_units() {
        let mut settings = fresh();
        for (name, value) in [
            ("stack_bytes", "4KiB"),
            ("timeout", "1m"),
            ("slice_ms", "1s"),
        ] {
            settings.set(name, value).unwrap();
        }
        assert_eq!(settings.stack_bytes, 4096);
        assert_eq!(settings.timeout, 60);
        assert_eq!(settings.slice_ms, 1000);
        settings.set("slice", "4K").unwrap_err();
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
        let mut settings = Settings::EMPTY;
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
        let mut settings = Settings::EMPTY;
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
    fn a_bound_on_memory_is_a_page_at_least() {
        let mut settings = fresh();
        settings.page = 1024;
        for taken in ["0", "1024", "4294967295"] {
            settings.set("memory_max_bytes", taken).unwrap();
        }
        for refused in ["1", "1023"] {
            assert_eq!(
                settings
                    .set("memory_max_bytes", refused)
                    .unwrap_err()
                    .as_str(),
                std::format!(
                    "memory_max_bytes '{refused}': expected 0, or 1024 bytes at least, which is a page"
                )
            );
        }
        assert_eq!(settings.memory_max_bytes, u32::MAX);
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
            "slice 'x': expected a number from 1 to 4294967295"
        );
    }
}
