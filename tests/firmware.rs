//! The firmware for native_sim: the scenarios of the host's proplet, and some of its own.
//!
//! It is built with the Zephyr that `ZEPHYR_BASE` names or `west zephyr-export` has registered, or
//! ready-built and named by `PROPLET_FIRMWARE`.

mod support;

use support::firmware as subject;

#[path = "mosquitto/bad_input.rs"]
mod bad_input;
#[path = "mosquitto/guests.rs"]
mod guests;
#[path = "mosquitto/http.rs"]
mod http;
#[path = "mosquitto/latent.rs"]
mod latent;
#[path = "mosquitto/limits.rs"]
mod limits;
#[path = "mosquitto/link.rs"]
mod link;
#[path = "mosquitto/presence.rs"]
mod presence;
#[path = "mosquitto/reboot.rs"]
mod reboot;
#[path = "mosquitto/registry.rs"]
mod registry;
#[path = "mosquitto/rounds.rs"]
mod rounds;
#[path = "mosquitto/shares.rs"]
mod shares;
#[path = "mosquitto/tasks.rs"]
mod tasks;

#[path = "firmware/build.rs"]
mod build;
#[path = "firmware/loops.rs"]
mod loops;
#[path = "firmware/settings.rs"]
mod settings;
#[path = "firmware/shell.rs"]
mod shell;
#[path = "firmware/tls.rs"]
mod tls;
