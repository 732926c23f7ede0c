//! The proplet against a real mosquitto.

mod support;

use support::host as subject;

#[path = "mosquitto/bad_input.rs"]
mod bad_input;
#[path = "mosquitto/latent.rs"]
mod latent;
#[path = "mosquitto/limits.rs"]
mod limits;
#[path = "mosquitto/link.rs"]
mod link;
#[path = "mosquitto/presence.rs"]
mod presence;
#[path = "mosquitto/registry.rs"]
mod registry;
#[path = "mosquitto/shares.rs"]
mod shares;
#[path = "mosquitto/tasks.rs"]
mod tasks;
#[path = "mosquitto/tls.rs"]
mod tls;
