//! Means that tests and benches of several packages share. A dev-dependency only: it has `std`, and
//! its features bring the crates whose tests ask for them.

#[cfg(feature = "capacity")]
pub mod capacity;
pub mod compilers;
#[cfg(feature = "engine")]
pub mod engine;
pub mod inline;
mod skip;
pub mod worst;

use std::env;
use std::fs;
use std::path::PathBuf;

pub use skip::{is_missing, is_missing_unless, say, say_skipped, skip};

/// A folder for files of tests: `target/tmp`, as cargo names it to integration tests and benches,
/// but to no library.
///
/// # Panics
///
/// If this program is not where cargo puts tests and benches, or the folder can't be made.
pub fn scratch() -> PathBuf {
    let program = env::current_exe().expect("a program knows its file");
    // target/debug/deps/program
    let target = program.ancestors().nth(3).expect("cargo built it");
    let folder = target.join("tmp");
    fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    folder
}
