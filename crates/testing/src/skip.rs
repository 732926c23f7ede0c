//! Tests that are skipped, and say so.

use std::env;
use std::io::{self, Write as _};

/// Forbids to skip for want of anything but a Zephyr.
const REQUIRE_PEERS: &str = "PROPLET_REQUIRE_PEERS";

/// Whether a test that needs `peer` is to be skipped; says so, or fails where
/// `PROPLET_REQUIRE_PEERS=1` forbids it.
pub fn is_missing(found: bool, peer: &str, remedy: &str) -> bool {
    is_missing_unless(REQUIRE_PEERS, found, peer, remedy)
}

/// As [`is_missing`], where `variable` forbids to skip.
pub fn is_missing_unless(variable: &str, found: bool, peer: &str, remedy: &str) -> bool {
    if !found {
        skip_unless(variable, &format!("no {peer} ({remedy})"));
    }
    !found
}

/// Says that a test is skipped, or fails where `PROPLET_REQUIRE_PEERS=1` forbids it.
pub fn skip(why: &str) {
    skip_unless(REQUIRE_PEERS, why);
}

fn skip_unless(variable: &str, why: &str) {
    let required = env::var_os(variable).is_some_and(|v| v == "1");
    assert!(!required, "{variable}=1 forbids to skip: {why}");
    say_skipped(why);
}

/// Says that a test is skipped, in the words that `.ci/run` looks for.
pub fn say_skipped(why: &str) {
    say(&format!("skipped: {why}"));
}

/// Writes a line to stderr: a test that passes shows what it writes, but not what it prints.
///
/// # Panics
///
/// If stderr can't be written.
pub fn say(line: &str) {
    let line = format!("\n{line}\n");
    let written = io::stderr().write_all(line.as_bytes());
    written.expect("stderr can be written");
}
