//! Memory that a large inline start takes beside the module that is kept.

use crate::support::{Dir, Stage, start_bytes, with_data};
use serde_json::{Value, json};
use std::{fs, process::Command};

/// Bytes of the module, all of which are kept.
const MODULE: usize = 1 << 20;

/// The goal is 16 KiB.
const GOAL: u64 = 16 * 1024;

/// The process's high water, which includes the arena's pages from when they are first touched.
fn high_water(stage: &Stage) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.proplet.id()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("kilobytes");
    kib * 1024
}

impl Stage {
    fn run_large(&self, id: &str, module: &[u8]) -> Value {
        let body = start_bytes(id, "main", module, &json!({"inputs": ["20", "22"]}));
        self.peer.publish("control/manager/start", &body);
        self.peer.results(id).body
    }
}

/// A proplet in an arena of as many bytes, and those that are in use when nothing runs.
fn idle(arena: usize) -> Option<(Stage, u64)> {
    let arena = arena.to_string();
    let args = [
        "--workers",
        "1",
        "--metrics-interval",
        "1",
        "--arena-bytes",
        &arena,
    ];
    let stage = Stage::new(&args)?;
    let in_use = stage.peer.arena_in_use();
    Some((stage, in_use))
}

/// Least number of bytes beside the module with which it runs in an arena.
fn least(module: &[u8]) -> usize {
    let runs = |room: usize| {
        let arena = (module.len() + room).to_string();
        let stage = Stage::new(&["--workers", "1", "--arena-bytes", &arena]);
        let body = stage.expect("as before").run_large("fits", module);
        body["results"] == "42"
    };
    edge((0, 100_000), 64, runs)
}

/// A number near the edge between one that fails and one that holds, which holds.
fn edge(
    (mut fails, mut holds): (usize, usize),
    near: usize,
    is_it: impl Fn(usize) -> bool,
) -> usize {
    while fails.abs_diff(holds) > near {
        let middle = usize::midpoint(fails, holds);
        match is_it(middle) {
            true => holds = middle,
            false => fails = middle,
        }
    }
    holds
}

/// Whether `proplet run` takes a module in an arena of as many bytes.
fn run_takes(module: &[u8], arena: usize) -> bool {
    let dir = Dir::new();
    let path = dir.path("module.wasm");
    fs::write(&path, module).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_proplet"));
    command
        .arg("run")
        .arg(&path)
        .args(["20", "22", "--workers", "1"]);
    let output = command.args(["--arena-bytes", &arena.to_string()]).output();
    output.expect("it ends").stdout == b"42\n"
}

#[test]
fn a_start_takes_what_run_takes_in_512_bytes_less() {
    const ARENA: usize = 196_608;
    let Some(stage) = Stage::new(&["--workers", "1", "--arena-bytes", &ARENA.to_string()]) else {
        return;
    };
    let largest = edge((ARENA, 100), 1, |len| {
        run_takes(&with_data(len), ARENA - 512)
    });
    println!("run takes {largest} bytes of data in {} bytes", ARENA - 512);
    assert!(largest > ARENA / 2);
    assert_eq!(
        stage.run_large("large", &with_data(largest))["results"],
        "42"
    );
}

#[test]
fn a_start_of_a_mebibyte_takes_little_beside_its_module() {
    let module = with_data(MODULE);
    let Some((stage, in_use)) = idle(4 << 20) else {
        return;
    };
    let small = with_data(100);
    assert_eq!(stage.run_large("small", &small)["results"], "42");
    let before = high_water(&stage);
    assert_eq!(stage.run_large("large", &module)["results"], "42");
    // The pages of the block are touched for the first time.
    let process = (high_water(&stage) - before).saturating_sub(module.len() as u64);
    let arena = least(&module) as u64 - in_use;
    println!("beside the module: {arena} bytes of the arena, {process} bytes of the process");
    assert!(arena + process <= GOAL, "{arena} and {process} bytes");
}
