//! The binary as a user meets it: the demo, `run`, and the help.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Kills what has not ended in time.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself; either way it's gone after this.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs the binary to its end, at most `limit` long.
fn proplet(args: &[&str], limit: Duration) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proplet"));
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name == "RUST_LOG" || name.starts_with("PROPLET_") {
            command.env_remove(&key);
        }
    }
    let child = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut guard = Guard(Some(child));
    let deadline = Instant::now() + limit;
    // Its output fits a pipe's buffer.
    while let Some(child) = &mut guard.0 {
        if child.try_wait().expect("its state").is_some() {
            break;
        }
        let late = Instant::now() >= deadline;
        assert!(!late, "proplet {args:?} has not ended after {limit:?}");
        thread::sleep(Duration::from_millis(10));
    }
    let child = guard.0.take().expect("it was put there");
    child.wait_with_output().expect("its output")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is UTF-8")
}

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn without_arguments_it_shows_the_main_job() {
    let output = proplet(&[], LIMIT);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    for words in [
        "expected",
        "found",
        "addition: 20 + 22",
        "24 instances: at once",
        "latent deployment, invoked five times",
        "endless loop, ended by a stop",
        "10 of 10 as expected",
    ] {
        assert!(stdout.contains(words), "no '{words}' in:\n{stdout}");
    }
    assert!(!stdout.contains("DIFFERS"), "{stdout}");
    assert!(stderr.is_empty(), "{stderr}");
}

/// A file that goes with its owner.
struct Module(PathBuf);

impl Module {
    fn new(content: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("demo-{}-{number}.wat", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, content).expect("the target directory can be written");
        Self(path)
    }

    fn run(&self, args: &[&str]) -> Output {
        let path = self.0.to_str().expect("the path is UTF-8");
        let mut all = vec!["run", path];
        all.extend(args);
        proplet(&all, LIMIT)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // Files that are left lie in Cargo's own directory.
        let _ = fs::remove_file(&self.0);
    }
}

const ADD: &str = r#"(module (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))"#;

fn assert_result(output: &Output, expected: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(text(&output.stdout), format!("{expected}\n"), "{stderr}");
}

fn assert_error(output: &Output, words: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(stderr.contains(words), "no '{words}' in: {stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[test]
fn run_prints_the_result() {
    let module = Module::new(ADD.as_bytes());
    assert_result(&module.run(&["--export", "add", "20", "22"]), "42");
    assert_result(
        &module.run(&["--export", "add", "--", "-20", "-0x16"]),
        "-42",
    );
    assert_result(&module.run(&["--export", "add", "-20", "-22"]), "-42");
    // Binary, and of a function without a result.
    let wasm = wat::parse_str(r#"(module (func (export "main")))"#).expect("a module");
    assert_result(&Module::new(&wasm).run(&[]), "");
}

/// Modules as toolchains make them: they declare more memory than the arena has, and write to little of it.
#[test]
fn run_takes_large_memories() {
    let rust = r#"(module (memory 17) (global $sp (mut i32) (i32.const 1048576))
        (func (export "run") (result i32)
            (i32.store (i32.sub (global.get $sp) (i32.const 16)) (i32.const 42))
            (i32.load (i32.const 1048560))))"#;
    let module = Module::new(rust.as_bytes());
    assert_result(&module.run(&["--export", "run"]), "42");
    let output = module.run(&["--export", "run", "--memory-commit"]);
    assert_result(&output, "42");
    // As on a board.
    let commit = ["--export", "run", "--memory-commit", "--arena", "192KiB"];
    let words = "memory of 1114112 bytes is taken at the start, the task may have 196608 of it";
    assert_error(&module.run(&commit), words);
    assert_result(&module.run(&["--export", "run", "--like", "esp32c3"]), "42");

    let grows = |memory: &str| {
        let wat = format!(
            r#"(module (memory {memory}) (func (export "run") (result i32)
            (if (i32.eq (memory.grow (i32.const 3)) (i32.const -1)) (then unreachable))
            (i32.const 42)))"#
        );
        Module::new(wat.as_bytes()).run(&["--export", "run"])
    };
    assert_result(&grows("1"), "42");
    let words = "unreachable, after memory.grow from 1 by 3 pages failed: its maximum is 1";
    assert_error(&grows("1 1"), words);

    // All at the start, or not at all.
    let two = Module::new(
        br#"(module (memory 2) (func (export "main") (result i32) (memory.grow (i32.const 1))))"#,
    );
    let small = ["--workers", "1", "--arena", "192KiB"];
    let commit = [&small[..], &["--memory-commit"]].concat();
    assert_result(&two.run(&commit), "-1");
    let output = two.run(&[&commit[..], &["--memory-max-bytes", "131071"]].concat());
    let words =
        "the module's memory of 131072 bytes is taken at the start, the task may have 131071 of it";
    assert_error(&output, words);
    assert_result(&two.run(&[]), "2");

    // The arena is the one task's, but a quarter of it on a board.
    let fills = br#"(module (memory 256) (func (export "main") (param i32)
        (memory.fill (i32.const 0) (i32.const 1) (local.get 0))))"#;
    let fills = Module::new(fills);
    assert_result(&fills.run(&["15000000"]), "");
    assert_error(&fills.run(&["16777216"]), "out of memory: page ");
    assert_result(&fills.run(&[&small[..], &["150000"]].concat()), "");
    let output = fills.run(&[&small[..], &["196608"]].concat());
    assert_error(&output, "out of memory: page ");
    let board = ["--like", "esp32s3"];
    assert_result(&fills.run(&[&board[..], &["36000"]].concat()), "");
    let output = fills.run(&[&board[..], &["41000"]].concat());
    assert_error(&output, "the task may hold 39");
}

#[test]
fn run_tells_failures() {
    let module = Module::new(ADD.as_bytes());
    assert_error(
        &module.run(&["--export", "add", "1"]),
        "expected 2 arguments but got 1",
    );
    assert_error(&module.run(&["1", "2"]), "function 'main' not found");
    let trap = Module::new(br#"(module (func (export "main") unreachable))"#);
    assert_error(&trap.run(&[]), "unreachable");
    let endless = Module::new(br#"(module (func (export "main") (loop $l (br $l))))"#);
    assert_error(
        &endless.run(&["--env", "PROPLET_DEADLINE_MS=300"]),
        "deadline of 300 ms exceeded",
    );
    for deadline in ["300", "300ms"] {
        assert_error(
            &endless.run(&["--deadline-max-ms", deadline]),
            "deadline of 300 ms exceeded",
        );
    }
    assert_error(&endless.run(&["--work-max", "5000"]), "work budget of 5000");
    assert_error(
        &endless.run(&["--env", "PROPLET_MEMORY_BYTES=100"]),
        "PROPLET_MEMORY_BYTES=100: expected a number of bytes from 1024 to ",
    );
    assert_error(&Module::new(b"nonsense").run(&[]), "is no module");
    for (bytes, words) in [
        (&b"\x1f\x8b\x08\0"[..], "gzip-compressed"),
        (b"\0asm\x0d\0\x01\0", "a WebAssembly component"),
        (b"<html>", "an HTML or XML page"),
    ] {
        assert_error(&Module::new(bytes).run(&[]), words);
    }
    assert_error(&Module::new(b"\0asm\x01\0\0\0garbage").run(&[]), "");
    assert_error(
        &proplet(&["run", "no-such-file.wasm"], LIMIT),
        "no-such-file.wasm",
    );
}

#[test]
fn run_does_not_care_what_a_guest_publishes_beside_its_result() {
    let says = |topic: &str| {
        let topic_len = topic.len();
        let module = format!(
            r#"(module
                (import "env" "publish" (func $publish (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1)
                (data (i32.const 0) "{topic}")
                (data (i32.const 100) "\00plain {{text")
                (func (export "main") (result i32)
                    (call $publish (i32.const 0) (i32.const {topic_len}) (i32.const 100) (i32.const 12))))"#
        );
        Module::new(module.as_bytes())
    };
    let args = [
        "--env",
        "PROPLET_CAPS=publish",
        "--caps",
        "publish",
        "--stats",
    ];
    for topic in ["a/b", "a/task_metrics", "a/control/proplet/results"] {
        assert_result(&says(topic).run(&args), "1");
    }
}

#[test]
fn run_prints_results_as_large_as_they_may_be() {
    // Of bytes that take six in JSON.
    for (limit, len) in [("8192", 6000), ("8192", 8192), ("60000", 60_000)] {
        let module = format!(
            r#"(module
                (import "env" "publish_result" (func $result (param i32 i32)))
                (memory (export "memory") 1)
                (data (i32.const 0) "{}")
                (func (export "main") (call $result (i32.const 0) (i32.const {len}))))"#,
            "\\01".repeat(len)
        );
        let output = Module::new(module.as_bytes()).run(&[
            "--result-max-bytes",
            limit,
            "--arena-bytes",
            "1000000",
        ]);
        assert_result(&output, &"\u{1}".repeat(len));
    }
}

#[test]
fn run_shows_what_was_used_if_asked() {
    let module = Module::new(ADD.as_bytes());
    let output = module.run(&["--stats", "--export", "add", "20", "22"]);
    assert_result(&output, "42");
    assert!(
        text(&output.stderr).contains("memory_bytes"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn help_names_the_commands_and_bad_arguments_are_refused() {
    for (args, words) in [
        (&["--help"][..], &["demo", "join", "run"][..]),
        (
            &["join", "--help"],
            &["--broker", "--tenant", "PROPLET_API_KEY"],
        ),
        (
            &["run", "--help"],
            &["--export", "--env", "--arena <", "--like"],
        ),
        (&["--version"], &[env!("CARGO_PKG_VERSION")]),
    ] {
        let output = proplet(args, LIMIT);
        let stdout = text(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{args:?}: {}",
            text(&output.stderr)
        );
        for word in words {
            assert!(stdout.contains(word), "{args:?}: no '{word}' in:\n{stdout}");
        }
    }
    for (args, words) in [
        (&["join"][..], "--tenant"),
        (&["fly"], "fly"),
        (&["run", "x.wasm", "--instances", "0"], "--instances"),
        (&["run", "x.wasm", "--env", "novalue"], "KEY=VALUE"),
        (&["run", "x.wasm", "--like", "toaster"], "esp32c3, esp32s3"),
        (
            &["run", "x.wasm", "--memory-max-bytes", "100"],
            "'100' for '--memory-max <BYTES>': expected 0, or 1024 bytes at least, which is a page",
        ),
    ] {
        let output = proplet(args, LIMIT);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(
            stderr.contains(words),
            "{args:?}: no '{words}' in: {stderr}"
        );
    }
    let join = ["join", "--tenant", "t", "--channel", "c", "--id", "i"];
    for (option, value, words) in [
        ("--broker", "mqtts://", "the host is missing"),
        ("--broker", "http://h", "http://h"),
        // An option given by mistake does not mean to trust everybody.
        ("--trusted-keys", ",", "': ',' has no keys"),
        ("--trusted-keys", "/dev/null", "': /dev/null has no keys"),
    ] {
        let args: Vec<&str> = join.iter().copied().chain([option, value]).collect();
        let output = proplet(&args, LIMIT);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "no '{words}' in: {stderr}");
        assert!(stderr.contains(&format!("'{option} <")), "{stderr}");
    }
}
