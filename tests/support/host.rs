//! The Linux port as a subject.

use super::{
    CHANNEL, Dir, ID, TENANT,
    proplet::{Proplet, command},
};
use serde_json::{Value, json};
use std::fs;

pub(crate) const NAME: &str = "the host";

/// Tests that it can't meet, and why.
pub(crate) const NOT_FOR_IT: &[(&str, &str)] = &[];

/// Whether it knows the date.
pub(crate) const HAS_CLOCK: bool = true;

/// Whether it is missing; says so.
pub(crate) fn is_missing() -> bool {
    false
}

/// Metadata of its discovery; null is left out.
pub(crate) fn metadata() -> Vec<(&'static str, Value)> {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux has a name");
    vec![
        ("environment", json!("binary")),
        ("os", json!(std::env::consts::OS)),
        ("cpu_arch", json!(std::env::consts::ARCH)),
        ("hostname", json!(hostname.trim())),
    ]
}

/// Tags of its discovery beside those that are set.
pub(crate) const TAGS: &[&str] = &[];

/// Lets it join the broker at `port`.
pub(crate) fn join(port: u16, args: &[&str]) -> Proplet {
    join_at(&format!("mqtt://127.0.0.1:{port}"), args)
}

/// Lets it join the broker at `url`.
pub(crate) fn join_at(url: &str, args: &[&str]) -> Proplet {
    let mut command = command(env!("CARGO_BIN_EXE_proplet"));
    command.args(["join", "--broker", url]);
    command.args(["--tenant", TENANT, "--channel", CHANNEL, "--id", ID]);
    if !args.contains(&"--key") {
        command.args(["--key", "secret"]);
    }
    command.args(args);
    Proplet::spawn(command, None)
}

/// A proplet whose store outlives it.
pub(crate) struct Home {
    dir: Dir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: Dir::new() }
    }

    /// Lets it join the broker at `port`, with what its store has.
    pub(crate) fn join(&self, port: u16, args: &[&str]) -> Proplet {
        let store = self.dir.path("store");
        let store = store.to_str().expect("the folder's name is text");
        join(port, &[args, &["--store", store]].concat())
    }

    /// Writes garbage over all that is in the store.
    pub(crate) fn spoil_store(&self) {
        for folder in ["modules", "records", "notes"] {
            let files = fs::read_dir(self.dir.path("store").join(folder)).expect("a store");
            for file in files {
                fs::write(file.expect("a file").path(), [0xa5; 100]).expect("it can be written");
            }
        }
    }
}
