//! The Zephyr port as a subject: its firmware for native_sim, a process like any other.

use super::{
    CHANNEL, Dir, ID, TENANT,
    proplet::{Proplet, command},
    zephyr,
};
use proplet::settings::{
    quantity,
    table::{Linux, SETTINGS, Unit},
};
use serde_json::{Value, json};
use std::{path::PathBuf, process::Command};

pub(crate) const NAME: &str = "the firmware";

/// Tests that it can't meet, and why.
pub(crate) const NOT_FOR_IT: &[(&str, &str)] = &[
    (
        "ctrl_c_stops_tasks_reports_them_and_leaves_without_a_will",
        NO_CTRL_C,
    ),
    ("ctrl_c_ends_a_proplet_that_has_no_broker", NO_CTRL_C),
];

const NO_CTRL_C: &str = "a device has no Ctrl-C, and native_sim ends at once on it";

/// `CONFIG_PROPLET_ARENA_SIZE` in tests/zephyr/proplet/tests.conf.
const ARENA_BYTES: u64 = 1 << 20;

/// Whether it knows the date.
pub(crate) const HAS_CLOCK: bool = false;

/// Whether it is missing; says so.
pub(crate) fn is_missing() -> bool {
    zephyr::is_missing()
}

/// Metadata of its discovery; null is left out.
pub(crate) fn metadata() -> Vec<(&'static str, Value)> {
    vec![
        ("environment", json!("embedded")),
        ("os", json!("zephyr")),
        ("cpu_arch", json!(std::env::consts::ARCH)),
        ("hostname", Value::Null),
    ]
}

/// Tags of its discovery beside those that are set.
pub(crate) const TAGS: &[&str] = &["reset:power-on"];

/// Lets it join the broker at `port`.
pub(crate) fn join(port: u16, args: &[&str]) -> Proplet {
    let device = Device::new();
    let command = device.command(&device.settings_of(port, args));
    Proplet::spawn(command, Some(device.dir))
}

/// A device whose flash outlives its power.
pub(crate) struct Home {
    device: Device,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            device: Device::new(),
        }
    }

    /// Lets it join the broker at `port`, with what its flash has.
    pub(crate) fn join(&self, port: u16, args: &[&str]) -> Proplet {
        self.device.boot(&self.device.settings_of(port, args))
    }

    /// Writes garbage over the module store.
    pub(crate) fn spoil_store(&self) {
        /// Of modules_partition in boards/native_sim_native_64.overlay.
        const STORE: std::ops::Range<usize> = 0x10_0000..0x14_0000;
        let mut flash = std::fs::read(self.device.flash()).expect("it has a flash");
        for (i, byte) in flash[STORE].iter_mut().enumerate() {
            *byte = (i * 31 % 251) as u8;
        }
        std::fs::write(self.device.flash(), flash).expect("it can be written");
    }
}

/// The device's name of the setting that a flag of `proplet join` is of.
fn setting_of(flag: &str) -> &'static str {
    let name = flag.trim_start_matches('-');
    let is_its = |linux: Linux| [linux.flag, linux.older_flag].contains(&name);
    let setting = SETTINGS.iter().find(|s| s.linux.is_some_and(is_its));
    setting.unwrap_or_else(|| panic!("{flag}: no flag")).name
}

/// Name and value of a setting.
pub(crate) type Setting = (String, String);

/// A device: what it keeps in flash outlives its reset.
pub(crate) struct Device {
    dir: Dir,
}

impl Device {
    pub(crate) fn new() -> Self {
        Self { dir: Dir::new() }
    }

    /// The content of its flash.
    pub(crate) fn flash(&self) -> PathBuf {
        self.dir.path("flash.bin")
    }

    /// A file beside it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }

    /// Settings for a broker on loopback.
    pub(crate) fn settings(&self, port: u16) -> Vec<Setting> {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            setting("proplet_id", ID),
            setting("tenant_id", TENANT),
            setting("channel_id", CHANNEL),
            setting("api_key", "secret"),
            setting("mqtt_broker_host", "127.0.0.1"),
            setting("mqtt_broker_port", &port.to_string()),
        ]
    }

    /// Those, and what flags of `proplet join` say.
    fn settings_of(&self, port: u16, args: &[&str]) -> Vec<Setting> {
        let mut settings = self.settings(port);
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let mut value = || *args.next().unwrap_or_else(|| panic!("{flag}: no value"));
            match *flag {
                "--key" => settings.push(("api_key".into(), value().into())),
                "--no-will" => settings.push(("will".into(), "0".into())),
                // It has one.
                "--guest-cores" | "--workers" => assert_eq!(value(), "1"),
                "--arena" | "--arena-bytes" => {
                    let bytes = quantity(value(), Unit::Bytes).expect("a size");
                    assert!(
                        bytes <= ARENA_BYTES,
                        "{bytes} bytes: the firmware's arena has {ARENA_BYTES}"
                    );
                }
                flag => settings.push((setting_of(flag).into(), value().into())),
            }
        }
        settings
    }

    /// The command that starts it with these settings.
    fn command(&self, settings: &[Setting]) -> Command {
        let mut command = command(zephyr::executable());
        command.arg("-rt");
        command.arg(format!("--flash={}", self.flash().display()));
        for (name, value) in settings {
            command.arg(format!("--set={name}={value}"));
        }
        command
    }

    /// As [`boot`](Self::boot), and keeps the settings in flash.
    pub(crate) fn boot_and_save(&self, settings: &[Setting]) -> Proplet {
        let mut command = self.command(settings);
        command.arg("--save");
        Proplet::spawn(command, None)
    }

    /// Starts it with these settings, and what its flash has.
    pub(crate) fn boot(&self, settings: &[Setting]) -> Proplet {
        Proplet::spawn(self.command(settings), None)
    }
}
