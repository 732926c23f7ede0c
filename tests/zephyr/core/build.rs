//! Copies the core's sources to OUT_DIR, so that its unit tests run without `cargo test`'s harness
//! and without std. The changes:
//!
//! - `#[cfg(test)]` and `#[cfg(any(test, …))]` go, and `#[test]` with them;
//! - each module with tests ends in a list of them, and modules are visible where the lists are
//!   joined;
//! - `extern crate std` becomes `use crate::std`, which src/lib.rs makes of core and alloc;
//! - what only a crate's first lines may say goes from lib.rs.
//!
//! Tests that can't be built without std go too, and the run names them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the core's sources are, from this package's folder.
const CORE: &str = "../../../src";

/// Properties of strings: proptest makes those with regex-syntax, which it takes with std only. And
/// what is held against the host's clock.
const EXCLUDED: &[&str] = &[
    "agent::tests::histories::an_id_that_is_stopped_and_started_again_many_times",
    "agent::tests::histories::invocations_without_an_id_cost_as_much_as_those_with_one",
    "agent::tests::histories::whatever_happens_each_start_is_answered_once_and_the_arena_is_empty_at_the_end",
    "agent::tests::tasks::no_event_costs_more_where_there_are_more_slots",
    "module::signature::tests::any_text_is_keys_or_an_error",
    "task::args::tests::no_input_panics",
    "wire::base64::tests::as_another_decoder",
    "wire::command::tests::any_start_is_read_as_serde_json_does",
    "wire::command::tests::any_start_with_little_room",
    "wire::command::tests::any_string_is_read_escaped",
    "wire::pack::tests::round_trip",
    "wire::report::tests::any_text_is_escaped",
    "wire::topic::tests::what_is_taken_stays_in_the_channel",
];

/// Items that only they use, and that can't be built either.
const EXCLUDED_HELPERS: &[&str] = &[
    "agent::tests::processor_time",
    "wire::command::tests::any_json",
    "wire::command::tests::any_start",
];

fn main() {
    zephyr_build::export_kconfig_bool_options();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={CORE}");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("core");
    let mut copy = Copy::default();
    copy.folder(Path::new(CORE), &out, "crate");
    assert!(copy.lists.len() > 10, "the core has tests in more modules");
    let gone = EXCLUDED.len() + EXCLUDED_HELPERS.len();
    assert_eq!(copy.excluded, gone, "a function in EXCLUDED is not there");
    let mut all = String::from("const TESTS: &[&[(&str, fn())]] = &[\n");
    for list in &copy.lists {
        writeln!(all, "    {list}::LIST,").expect("a String takes all");
    }
    all.push_str("];\n");
    writeln!(all, "const EXCLUDED: &[&str] = &{EXCLUDED:?};").expect("a String takes all");
    writeln!(all, "const COUNT: usize = {};", copy.tests).expect("a String takes all");
    fs::write(out.join("all.rs"), all).expect("OUT_DIR can be written");
}

#[derive(Default)]
struct Copy {
    /// Paths of the modules with a list.
    lists: Vec<String>,
    tests: usize,
    /// Functions that were left out.
    excluded: usize,
}

impl Copy {
    /// Copies `from` to `to`; `module` is the module that the folder's files are in.
    fn folder(&mut self, from: &Path, to: &Path, module: &str) {
        fs::create_dir_all(to).expect("OUT_DIR can be written");
        let entries = fs::read_dir(from).expect("the core's sources are there");
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.expect("the folder can be read").path())
            .collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().expect("an entry has a name");
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let stem = stem.expect("names are UTF-8");
            let inner = match stem {
                "lib" | "mod" => module.to_owned(),
                _ => format!("{module}::{stem}"),
            };
            if path.is_dir() {
                self.folder(&path, &to.join(name), &inner);
            } else {
                let source = fs::read_to_string(&path).expect("the file can be read");
                let text = self.file(&source, &inner, stem == "lib");
                fs::write(to.join(name), text).expect("OUT_DIR can be written");
            }
        }
    }

    /// The copy of one file, which is the module `module`.
    fn file(&mut self, source: &str, module: &str, is_root: bool) -> String {
        let mut text = String::new();
        let mut tests: Vec<String> = Vec::new();
        // Inline, the module `tests` is the file's last item.
        let mut inline = false;
        let mut due = false;
        // Where the comments and attributes of the item that follows begin.
        let mut item = None;
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            let word = line.trim_start();
            let indent = &line[..line.len() - word.len()];
            if let Some(name) = function_name(word) {
                if is_excluded(module, inline, name) {
                    text.truncate(item.take().unwrap_or(text.len()));
                    let end = format!("{indent}}}");
                    assert!(lines.any(|line| line == end), "{name} does not end");
                    self.excluded += 1;
                    due = false;
                    continue;
                }
                if due {
                    tests.push(name.to_owned());
                    due = false;
                }
            }
            if word.starts_with("///") || word.starts_with("#[") {
                item.get_or_insert(text.len());
            } else {
                item = None;
            }
            match word {
                "#[cfg(test)]" | "#[cfg(any(test, feature = \"testing\"))]" => continue,
                "#[test]" => {
                    assert!(!due, "{module}: a test without a function");
                    due = true;
                    continue;
                }
                _ if is_root && (word.starts_with("//!") || word.starts_with("#![")) => continue,
                "mod tests {" => inline = true,
                _ => {}
            }
            if word == "extern crate std;" {
                writeln!(text, "{indent}use crate::std;")
            } else if let Some(rest) = word.strip_prefix("mod ") {
                writeln!(text, "{indent}pub(crate) mod {rest}")
            } else {
                writeln!(text, "{line}")
            }
            .expect("a String takes all");
        }
        assert!(!due, "{module}: a test without a function");
        if !tests.is_empty() {
            self.list(&mut text, &tests, module, inline);
        }
        text
    }

    fn list(&mut self, text: &mut String, tests: &[String], module: &str, inline: bool) {
        let path = if inline {
            let end = text.trim_end().strip_suffix('}');
            let len = end.expect("the module `tests` is the last item").len();
            text.truncate(len);
            format!("{module}::tests")
        } else {
            module.to_owned()
        };
        let shown = path.trim_start_matches("crate::");
        text.push_str("pub(crate) const LIST: &[(&str, fn())] = &[\n");
        for test in tests {
            writeln!(text, "    (\"{shown}::{test}\", {test}),").expect("a String takes all");
        }
        text.push_str("];\n");
        if inline {
            text.push_str("}\n");
        }
        self.tests += tests.len();
        self.lists.push(path);
    }
}

fn is_excluded(module: &str, inline: bool, name: &str) -> bool {
    let tests = if inline { "::tests" } else { "" };
    let path = format!("{module}{tests}::{name}");
    let path = path.trim_start_matches("crate::");
    EXCLUDED.contains(&path) || EXCLUDED_HELPERS.contains(&path)
}

/// The name in `fn name(`.
fn function_name(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("fn ")?.split_once('(')?;
    Some(name)
}
