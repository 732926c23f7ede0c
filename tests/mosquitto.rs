//! The proplet against a real mosquitto.

mod scenarios;
mod support;

use support::host as subject;

/// Scenarios of the Linux port alone.
mod mosquitto {
    mod flood;
    mod memory;
    mod time;
    mod tls;
}
