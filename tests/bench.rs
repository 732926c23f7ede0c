//! `proplet bench` as a user meets it: its figures agree with each other, and its exit code with
//! them.

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// So that the arena is the wall, and not the slots.
const ARENA: [&str; 2] = ["--arena-bytes", "131072"];

/// Runs the binary to its end, which its own patience bounds.
fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_proplet"))
        .arg("bench")
        .args(args)
        .env_clear()
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is UTF-8")
}

/// The figures of a run that ends with `code`.
fn figures(args: &[&str], code: i32) -> Value {
    let output = bench(&[args, &["--json"]].concat());
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {stdout}{stderr}"
    );
    serde_json::from_str(stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {stdout}"))
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("expected a number, not {value}"))
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("expected a list, not {value}"))
}

fn sum(values: &Value, field: &str) -> u64 {
    list(values).iter().map(|value| number(&value[field])).sum()
}

fn ladder(bench: &Value) -> Vec<u64> {
    let steps = list(&bench["steps"]).iter();
    steps.map(|step| number(&step["instances"])).collect()
}

/// Sets of instances that wait at the wall, at most, for an arena in pieces.
const IN_PIECES: u64 = 4;

/// Checks the ladder of whole sets of modules, and returns how many instances it reached.
fn check_ladder(bench: &Value) -> u64 {
    let set = list(&bench["modules"]).len() as u64;
    let set_bytes = number(&bench["set_bytes"]);
    assert_eq!(set_bytes, sum(&bench["modules"], "instance_bytes"));
    let arena = &bench["arena"];
    let loaded = number(&arena["free_loaded_bytes"]);
    assert_eq!(
        loaded + sum(&bench["modules"], "loaded_bytes"),
        number(&arena["free_before_bytes"])
    );
    for step in list(&bench["steps"]) {
        let held = number(&step["instances"]) / set * set_bytes;
        assert_eq!(number(&step["said_bytes"]), held, "{step}");
        let (measured, free) = (&step["measured_bytes"], &step["free_bytes"]);
        let (measured, free) = (number(measured), number(free));
        assert_eq!(measured + free, loaded, "{step}");
        // With less than a tenth left the arena may be in pieces, and a few wait to be made again.
        let in_pieces = match loaded - held < loaded / 10 {
            true => IN_PIECES * set_bytes,
            false => 0,
        };
        assert!((held - in_pieces..=held).contains(&measured), "{step}");
        assert_eq!(step["agrees"], measured == held, "{step}");
        assert!(number(&step["wall_ns"]) >= 100_000_000, "{step}");
        // On a busy machine none may have ended.
        if number(&step["iterations"]) > 0 {
            assert_eq!(step["latency_ns"]["count"], step["iterations"], "{step}");
            let latency = ["least", "mean", "most"].map(|of| number(&step["latency_ns"][of]));
            assert!(latency[0] > 0 && latency.is_sorted(), "{step}");
        }
    }
    let instances = number(&bench["instances"]);
    assert_eq!(ladder(bench).last(), Some(&instances));
    let slots = &bench["slots"];
    assert_eq!(list(slots).len() as u64, instances);
    assert_eq!(
        sum(slots, "iterations"),
        sum(&bench["steps"], "iterations"),
        "{bench:#}"
    );
    assert_eq!(bench["errors"], 0, "{}", bench["first_error"]);
    assert_eq!(arena["free_after_bytes"], arena["free_before_bytes"]);
    assert_eq!(arena["exact"], true);
    instances
}

/// Checks that the wall is the arena's, where it must be to the byte.
fn check_arena_wall(bench: &Value) {
    let sets = check_ladder(bench) / list(&bench["modules"]).len() as u64;
    let set_bytes = number(&bench["set_bytes"]);
    let arena = &bench["arena"];
    let loaded = number(&arena["free_loaded_bytes"]) - number(&arena["reserve_bytes"]);
    assert_eq!(sets, loaded / set_bytes);
    assert_eq!(bench["wall"]["kind"], "arena");
    assert_eq!(number(&bench["wall"]["need_bytes"]), set_bytes);
    assert_eq!(number(&bench["wall"]["free_bytes"]), loaded % set_bytes);
}

#[test]
fn shared_reaches_exactly_what_the_arena_holds() {
    let document = figures(&["--step-ms", "100", ARENA[0], ARENA[1]], 0);
    assert_eq!(document["mode"], "shared");
    assert_eq!(document["good"], true);
    assert_eq!(document["clock"]["name"], "CLOCK_MONOTONIC");
    assert_eq!(document["settings"]["slots"], 4096);
    let [cpu] = list(&document["benches"]) else {
        panic!("expected one bench: {document:#}");
    };
    assert_eq!(cpu["name"], "cpu");
    assert_eq!(ladder(cpu)[..5], [1, 2, 4, 8, 16]);
    check_arena_wall(cpu);
    // One was there, and never more than all.
    let steps = list(&cpu["steps"]);
    let [first, last] =
        [&steps[0], &steps[steps.len() - 1]].map(|step| number(&step["free_bytes"]));
    let least = number(&steps[steps.len() - 1]["free_min_bytes"]);
    let in_pieces = IN_PIECES * number(&cpu["set_bytes"]);
    assert!(least <= first && last <= least + in_pieces, "{cpu:#}");
}

#[test]
fn slots_and_a_maximum_are_walls_too() {
    for (args, kind, steps) in [
        (["--instances", "3"], "slots", &[1, 2, 3][..]),
        (["--max", "4"], "asked", &[1, 2, 4]),
    ] {
        let document = figures(&[&args[..], &["--step-ms", "100"]].concat(), 0);
        let bench = &document["benches"][0];
        check_ladder(bench);
        assert_eq!(ladder(bench), steps);
        assert_eq!(bench["wall"]["kind"], kind);
        assert_eq!(bench["wall"]["count"], *steps.last().expect("there are"));
    }
}

#[test]
fn diverse_grows_in_sets_of_five() {
    let args = ["diverse", "--step-ms", "1000", "--memory-bytes", "4096"];
    let document = figures(&[&args[..], &["--arena-bytes", "131072"]].concat(), 0);
    let bench = &document["benches"][0];
    assert_eq!(bench["name"], "diverse");
    assert_eq!(ladder(bench)[..2], [5, 10]);
    check_arena_wall(bench);
    let tasks = list(&bench["slots"])[5..10].iter().map(|row| &row["task"]);
    assert!(tasks.eq(["add", "mul", "fib", "checksum", "popcount"]));
}

#[test]
fn like_a_board_it_has_the_boards_limits() {
    let document = figures(
        &["--like", "esp32c3", "--max", "2", "--step-ms", "100ms"],
        0,
    );
    let settings = &document["settings"];
    for (name, value) in [
        ("arena_bytes", 65_550),
        ("slots", 64),
        ("workers", 1),
        ("slice", 2000),
    ] {
        assert_eq!(settings[name], value, "{name}");
    }
    let usual = figures(&["--max", "1", "--step-ms", "100", "--memory", "4KiB"], 0);
    assert_eq!(usual["settings"]["arena_bytes"], 192 << 10);
    assert_eq!(usual["settings"]["memory_bytes"], 4096);
}

/// A file that goes with its owner.
struct Plot(PathBuf);

impl Plot {
    fn new() -> Self {
        let name = format!("bench-{}.svg", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for Plot {
    fn drop(&mut self) {
        // A file that is left lies in Cargo's own directory.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn all_is_a_ladder_for_each_a_summary_and_a_plot() {
    let plot = Plot::new();
    let path = plot.0.to_str().expect("the path is UTF-8");
    let document = figures(
        &[
            "all",
            "--step-ms",
            "200",
            "--plot",
            path,
            ARENA[0],
            ARENA[1],
        ],
        0,
    );
    let benches = list(&document["benches"]);
    let names = ["cpu", "mem", "msg"];
    assert!(benches.iter().map(|bench| &bench["name"]).eq(names));
    benches.iter().for_each(check_arena_wall);
    let svg = fs::read_to_string(path).expect("the plot is there");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for bench in benches {
        let name = bench["name"].as_str().expect("a name");
        assert!(
            svg.lines().any(|line| line.trim() == name),
            "no {name}: {svg}"
        );
        // From no instance, by all steps.
        let points = list(&bench["steps"]).len() + 1;
        let is_line = |line: &&str| line.starts_with("<polyline") && commas(line) == points;
        assert!(svg.lines().any(|line| is_line(&line)), "{name}: {svg}");
    }
    let thick = svg.matches("stroke-width=\"2\"").count();
    assert_eq!(thick, benches.len(), "{svg}");
}

fn commas(line: &str) -> usize {
    line.matches(',').count()
}

#[test]
fn text_fits_a_serial_console_and_ends_with_the_summary() {
    let output = bench(&["all", "--step-ms", "20", ARENA[0], ARENA[1]]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.lines().all(|line| line.len() <= 80), "{stdout}");
    for words in [
        "clock CLOCK_MONOTONIC",
        "wall at ",
        "as before",
        "arena\nmem ",
    ] {
        assert!(stdout.contains(words), "no '{words}' in:\n{stdout}");
    }
}

#[test]
fn fuel_shares_by_weight_and_stops_soon() {
    for weights in ["10", "1:2:4:8"] {
        let args = ["fairness", "--preemption", "fuel", "--max", "8"];
        let more = ["--step-ms", "500", "--weight", weights];
        let document = figures(&[&args[..], &more].concat(), 0);
        let bench = &document["benches"][0];
        let work = &bench["fairness"]["work"];
        assert!(work["jain"].as_f64() >= Some(0.99), "{bench:#}");
        assert!(work["largest_error"].as_f64() <= Some(0.1), "{bench:#}");
        let shares = list(&bench["shares"]);
        for share in shares {
            let [had, due] = ["work_share", "due"].map(|of| share[of].as_f64().expect(of));
            assert!((had / due - 1.0).abs() <= 0.1, "{share}");
            assert!(number(&share["cpu_ns"]) > 0, "{share}");
        }
        assert_eq!(shares.len(), 8);
        assert_eq!(bench["fairness"]["stop_ns"]["count"], 8);
        assert_eq!(bench["arena"]["exact"], true);
    }
}

#[test]
fn the_system_preempts_too() {
    let time = ["--preemption", "time", "--max", "6", "--step-ms", "100"];
    let document = figures(&[&["fairness"], &time[..]].concat(), 0);
    let fairness = &document["benches"][0]["fairness"];
    for shared in ["work", "cpu"] {
        assert!(fairness[shared]["jain"].as_f64() > Some(0.0), "{fairness}");
    }
    assert_eq!(fairness["stop_ns"]["count"], 6);
    let document = figures(&time, 0);
    check_ladder(&document["benches"][0]);
    assert_eq!(document["settings"]["preemption"], "time");
}

#[test]
fn runs_that_fail_are_errors_and_the_exit_code_says_so() {
    for (workload, limit, bytes, words) in [
        ("mem", "--stack-bytes", "512", "wasm operand stack overflow"),
        (
            "mem64k",
            "--memory-max-bytes",
            "4096",
            "4 taken, the task may hold 4",
        ),
    ] {
        let args = [
            "--workload",
            workload,
            limit,
            bytes,
            "--max",
            "2",
            "--step-ms",
            "20",
        ];
        let document = figures(&args, 1);
        assert_eq!(document["good"], false);
        let bench = &document["benches"][0];
        assert!(number(&bench["errors"]) > 0, "{bench:#}");
        assert!(sum(&bench["slots"], "errors") > 0, "{bench:#}");
        assert_eq!(bench["arena"]["exact"], true);
        let first = bench["first_error"].as_str().expect("a text");
        assert!(first.contains(words), "{first}");
    }
}

#[test]
fn what_can_t_be_measured_is_refused() {
    for (args, code, words) in [
        (
            &["--workload", "gpu"][..],
            2,
            &[
                "'gpu'",
                "cpu, mem, msg, mem64k, add, mul, fib, checksum, popcount",
            ][..],
        ),
        (&["sideways"], 2, &["shared, diverse, all, fairness"]),
        (&["--weight", "1:0"], 2, &["'0'", "1 to 100"]),
        (
            &["diverse", "--workload", "cpu"],
            1,
            &["--workload is for the mode shared"],
        ),
        (&["fairness", "--plot", "x.svg"], 1, &["fairness has none"]),
        (
            &["--plot", "no-such-folder/x.svg"],
            1,
            &["plot no-such-folder/x.svg"],
        ),
    ] {
        let output = bench(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{args:?}: no '{word}' in: {stderr}");
        }
        assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    }
}
