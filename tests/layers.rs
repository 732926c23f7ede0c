//! Files use only what lies below them: each folder's order is declared here, from the bottom to the top.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The core: the agent is at the top, and below it the supervisor, the owners and the types that they hand
/// each other.
const CORE: &[&str] = &[
    "time",
    "text",
    "memory",
    "collections/chain",
    "collections/hash",
    "collections/heap",
    "collections/list",
    "collections",
    "wire/error",
    "wire/base64",
    "wire/pack",
    "wire/json",
    "wire/topic",
    "wire/command",
    "wire/report",
    "wire",
    "http",
    "task/caps",
    "engine",
    "module/table",
    "module/format",
    "module/hex",
    "module/buffer",
    "module/reference",
    "module/signature",
    "module/strip",
    "module/seal",
    "module/stream",
    "module/image",
    "module/incoming",
    "module/chunks",
    "module",
    "store",
    "task/args",
    "task/monitor",
    "task/learning",
    "settings/boards",
    "settings/table",
    "settings/quantity",
    "config",
    "task/budget",
    "task",
    "settings",
    "retry",
    "wifi",
    "agent/event",
    "agent/view",
    "agent/reason",
    "agent/noting",
    "agent/gathering",
    "agent/fetch",
    "agent/probing",
    "agent/presence",
    "agent/outbox",
    "agent/subscriptions",
    "agent/session",
    "agent/rounds",
    "agent/modules",
    "agent/notes",
    "agent/tasks/record",
    "agent/tasks",
    "agent/persist",
    "agent/supervisor",
    "agent/supervisor/broker",
    "agent/supervisor/guest",
    "agent/supervisor/note",
    "agent/supervisor/report",
    "agent/supervisor/run",
    "agent/supervisor/round",
    "agent/supervisor/deploy",
    "agent/supervisor/start",
    "agent/supervisor/arrival",
    "agent/inbox",
    "agent/takes",
    "agent/publish",
    "agent",
];

/// Owners of the agent's state, which call none of each other: the files of each.
const OWNERS: [&[&str]; 8] = [
    &["agent/presence"],
    &["agent/tasks"],
    &["agent/modules", "agent/fetch"],
    &["agent/notes"],
    &["agent/rounds"],
    &["agent/subscriptions"],
    &["agent/session"],
    &["agent/outbox"],
];

/// The link: the conductor is near the top, and below it the machines that it conducts.
const LINK: &[&str] = &[
    "time",
    "config",
    "stack",
    "reactor",
    "gate/activity",
    "gate/inbox",
    "gate/error",
    "gate/properties",
    "gate/connect",
    "gate/withheld",
    "gate/reply",
    "gate/window",
    "gate/inbound",
    "gate",
    "error",
    "status",
    "resumption",
    "inbox",
    "dial",
    "driver",
    "liveness",
    "publishing",
    "subscriptions",
    "session",
    "http/url",
    "http/error",
    "http/head",
    "http/body",
    "http",
    "http_client",
    "link",
    "run",
];

/// The firmware: what C calls, and the entry point, are at the top.
const ZEPHYR: &[&str] = &[
    "header", "sizes", "ffi", "clock", "logger", "net", "platform", "store", "settings", "wifi",
    "bench", "report", "boot", "exports",
];

#[test]
fn the_core_has_no_circle() {
    assert_layers("src", CORE);
}

#[test]
fn owners_do_not_use_each_other() {
    let root = folder("src");
    let mut files = Vec::new();
    collect(&root.join("agent"), &mut files);
    let owner = |path: &[String]| {
        let mut owners = OWNERS.iter();
        let owner = owners.find(|files| layer(files, path).is_some());
        owner.map(|files| files[0])
    };
    let mut seen = BTreeSet::new();
    for file in &files {
        let module = module_of(file.strip_prefix(&root).expect("it is in the folder"));
        let Some(own) = owner(&module) else { continue };
        seen.insert(own);
        let source = fs::read_to_string(file).expect("a source");
        for other in uses(&source, &module).iter().filter_map(|path| owner(path)) {
            assert_eq!(own, other, "{own} uses {other}: the supervisor is to do so");
        }
    }
    assert_eq!(seen.len(), OWNERS.len(), "{seen:?}");
}

/// Methods of one type, in files: no import shows who calls whom.
#[test]
fn the_supervisors_files_call_those_below_them() {
    const FOLDER: &str = "agent/supervisor";
    let files: Vec<_> = CORE
        .iter()
        .filter(|name| name.starts_with(FOLDER))
        .collect();
    let source = |name: &str| {
        let file = match name {
            FOLDER => format!("{FOLDER}/mod.rs"),
            name => format!("{name}.rs"),
        };
        fs::read_to_string(folder("src").join(file)).expect("a source")
    };
    let mut above: Vec<(String, &str)> = Vec::new();
    for name in files.iter().rev() {
        let source = source(name);
        let code = tokens(&without_tests(&source)).concat();
        for (method, owner) in &above {
            let calls = ["self.", "supervisor.", "Self::", "Supervisor::"]
                .iter()
                .any(|receiver| code.contains(&format!("{receiver}{method}(")));
            assert!(
                !calls,
                "{name} calls {method} of {owner}, which is above it"
            );
        }
        assert!(
            !code.contains("mutSupervisor<"),
            "{name} takes a supervisor by another name than self"
        );
        let methods = source.split("fn ").skip(1).map(|rest| {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            rest[..end.unwrap_or(rest.len())].to_owned()
        });
        above.extend(methods.map(|method| (method, **name)));
    }
    assert!(above.len() > 50, "{above:?}");
}

#[test]
fn the_link_has_no_circle() {
    assert_layers("crates/link/src", LINK);
}

#[test]
fn the_firmware_has_no_circle() {
    assert_layers("ports/zephyr/src", ZEPHYR);
}

#[test]
fn the_architecture_names_files_that_are_there() {
    let page = fs::read_to_string(folder("ARCHITECTURE.md")).unwrap();
    let code = page.split("```").step_by(2).collect::<String>();
    let names = code.split('`').skip(1).step_by(2);
    let is_path = |name: &&str| name.ends_with(".rs") || name.ends_with(".h") || name.contains('/');
    // Some are named from the agent's folder, or from that of the one before.
    let bases = [
        "",
        "src/agent",
        "crates/engine/src/guest",
        "crates/engine/tests",
    ];
    let bases = bases.map(folder);
    let more = folder("guests/rust/proplet-guest/src");
    let paths: Vec<&str> = names.filter(is_path).collect();
    assert!(paths.len() > 30, "{paths:?}");
    for path in paths {
        let is_there = bases
            .iter()
            .chain([&more])
            .any(|base| base.join(path).exists());
        assert!(
            is_there,
            "ARCHITECTURE.md names `{path}`, which is not there"
        );
    }
}

/// Fails if a file in `folder` uses a module of the crate that comes later in `order`. A module's name is
/// its path, as `agent/tasks`; one of a folder, as `agent`, stands for all files in it that have no entry.
/// Modules of tests are left out.
fn assert_layers(folder: &str, order: &[&str]) {
    let root = self::folder(folder);
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(!files.is_empty(), "{folder} has no sources");
    let mut found = BTreeSet::new();
    let mut faults = Vec::new();
    for file in &files {
        let module = module_of(file.strip_prefix(&root).expect("it is in the folder"));
        // The root declares modules.
        if module.is_empty() || module.iter().any(|m| m == "tests" || m == "testing") {
            continue;
        }
        let shown = module.join("/");
        let Some(own) = layer(order, &module) else {
            faults.push(format!(
                "{shown} has no place in the order of tests/layers.rs"
            ));
            continue;
        };
        found.insert(order[own]);
        let source = fs::read_to_string(file).expect("a source");
        for used in uses(&source, &module) {
            if let Some(other) = layer(order, &used).filter(|other| *other > own) {
                faults.push(format!("{shown} uses {}, which is above it", order[other]));
            }
        }
    }
    let gone: Vec<_> = order.iter().filter(|name| !found.contains(*name)).collect();
    assert!(gone.is_empty(), "{folder} has no {gone:?}");
    faults.dedup();
    assert!(faults.is_empty(), "{folder}:\n{}", faults.join("\n"));
}

/// A folder of the repository.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The module of a file, from the crate's root.
fn module_of(file: &Path) -> Vec<String> {
    let path = file.with_extension("");
    let mut module: Vec<String> = path
        .iter()
        .map(|part| part.to_str().expect("UTF-8").to_owned())
        .collect();
    if module
        .last()
        .is_some_and(|name| matches!(&**name, "lib" | "main" | "mod"))
    {
        module.pop();
    }
    module
}

/// The place in the order of a path: that of the longest entry that it begins with.
fn layer(order: &[&str], path: &[String]) -> Option<usize> {
    let begins = |entry: &str| {
        let parts: Vec<&str> = entry.split('/').collect();
        parts.len() <= path.len() && parts.iter().zip(path).all(|(a, b)| a == b)
    };
    let matching = order.iter().enumerate().filter(|(_, entry)| begins(entry));
    let longest = matching.max_by_key(|(_, entry)| entry.len());
    longest.map(|(place, _)| place)
}

/// Paths from the crate's root that a module's source names, by `crate::` or by `super::`.
fn uses(source: &str, module: &[String]) -> Vec<Vec<String>> {
    let tokens = tokens(&without_tests(source));
    let mut paths = Vec::new();
    // For each open brace, whether it is an inline module's.
    let mut braces = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match &**token {
            "{" => braces.push(at >= 2 && tokens[at - 2] == "mod"),
            "}" => drop(braces.pop()),
            "crate" | "super" => {
                // `$crate`, `pub(super)`, `pub(in crate::a)` and later parts of a path begin none.
                let before = at.checked_sub(1).map_or("", |at| &tokens[at]);
                let is_visibility = at >= 2 && tokens[at - 2] == "pub" && before == "(";
                if is_visibility || matches!(before, "::" | "$" | "in") {
                    continue;
                }
                let inline = braces.iter().filter(|is_module| **is_module).count();
                let mut base = module.to_vec();
                base.extend(std::iter::repeat_n("inline".to_owned(), inline));
                if token == "crate" {
                    base.clear();
                } else {
                    base.pop();
                }
                tree(&tokens, at + 1, base, &mut paths);
            }
            _ => {}
        }
    }
    paths
}

/// Reads what follows a path, `::name…` or `::{…}`, and adds all paths of it. Returns where it ends.
fn tree(
    tokens: &[String],
    mut at: usize,
    mut path: Vec<String>,
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let token = |at: usize| tokens.get(at).map_or("", String::as_str);
    while token(at) == "::" {
        at += 1;
        match token(at) {
            "{" => {
                at += 1;
                while !matches!(token(at), "}" | "") {
                    if token(at) == "," {
                        at += 1;
                        continue;
                    }
                    let mut inner = path.clone();
                    if !matches!(token(at), "*" | "self") {
                        inner.push(token(at).to_owned());
                    }
                    at = tree(tokens, at + 1, inner, paths);
                    if token(at) == "as" {
                        at += 2;
                    }
                }
                return at + 1;
            }
            "super" => drop(path.pop()),
            name if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(name.to_owned());
            }
            // `*`, or the arguments of a generic.
            _ => {
                at += usize::from(token(at) == "*");
                break;
            }
        }
        at += 1;
    }
    paths.push(path);
    at
}

/// The source up to its module of tests, which is its last item.
fn without_tests(source: &str) -> String {
    let end = source.find("#[cfg(test)]\nmod tests");
    source[..end.unwrap_or(source.len())].to_owned()
}

/// Words, `::` and other signs; neither comments nor strings.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            string_len(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") {
            3
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else if is_word(first) {
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(rest[..len].to_owned());
            len
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    tokens
}

/// Bytes of the string that `text` begins with, its quotes included.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn paths_are_found_wherever_they_are() {
    let source = r#"
        //! crate::comment
        use crate::{a, b::{self as B, c::D as d}, e::*};
        use super::near;
        pub(super) fn f() { crate::g::h(None); "crate::text" }
        mod inline { use super::*; use super::super::far; use crate::i; }
        #[cfg(test)]
mod tests { use crate::j; }
    "#;
    let found: Vec<String> = uses(source, &["m".into(), "n".into()])
        .iter()
        .map(|path| path.join("/"))
        .collect();
    let expected = ["a", "b", "b/c/D", "e", "m/near", "g/h", "m/n", "m/far", "i"];
    assert_eq!(found, expected);
}

#[test]
fn a_path_is_of_the_longest_entry() {
    let order = ["wire", "agent/tasks", "agent"];
    let at = |path: &str| {
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        layer(&order, &path)
    };
    assert_eq!(at("agent/tasks/Run"), Some(1));
    assert_eq!(at("agent/other"), Some(2));
    assert_eq!(at("wires"), None);
}
