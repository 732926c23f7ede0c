//! The firmware for native_sim: the scenarios of the host's proplet, and some of its own.
//!
//! It is built with the Zephyr that `ZEPHYR_BASE` names or `west zephyr-export` has registered, or
//! ready-built and named by `PROPLET_FIRMWARE`.

mod scenarios;
mod support;

use support::firmware as subject;

/// Scenarios of the firmware alone.
mod firmware {
    mod build;
    mod loops;
    mod settings;
    mod shell;
    mod tls;
}
