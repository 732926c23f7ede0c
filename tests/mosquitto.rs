//! The proplet against a real mosquitto.

mod support;

use support::host as subject;

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
#[path = "mosquitto/time.rs"]
mod time;
#[path = "mosquitto/tls.rs"]
mod tls;
