//! The tutorial of the page, carried out in a shell as a reader would.

use super::page::text;
use crate::support::{Dir, SOON, command, free_port, program};
use proplet_testing::is_missing;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// Time for which nothing may come that the page does not show.
const QUIET: Duration = Duration::from_millis(500);

/// Commands, and what they show.
struct Step {
    commands: String,
    shown: Vec<String>,
}

fn steps() -> Vec<Step> {
    let text = text();
    let (_, tutorial) = text.split_once("<!-- tutorial -->").expect("a tutorial");
    let (tutorial, _) = tutorial
        .split_once("<!-- end of tutorial -->")
        .expect("its end");
    let mut steps: Vec<Step> = Vec::new();
    let mut fences = tutorial.split("```");
    // Prose, a block, prose, …
    while let (Some(_), Some(block)) = (fences.next(), fences.next()) {
        let (kind, body) = block.split_once('\n').expect("a block has lines");
        match (kind, steps.last_mut()) {
            ("sh", _) => steps.push(Step {
                commands: body.to_owned(),
                shown: Vec::new(),
            }),
            ("text", Some(step)) => step.shown.extend(body.lines().map(str::to_owned)),
            _ => panic!("a block of '{kind}' in the tutorial"),
        }
    }
    assert!(steps.len() > 7, "the tutorial has {} steps", steps.len());
    steps
}

/// A shell, all of whose output is kept.
struct Terminal {
    shell: Child,
    input: ChildStdin,
    output: Receiver<String>,
    lines: Vec<String>,
}

impl Terminal {
    fn open(dir: &Dir) -> Self {
        let mut shell = command("bash")
            .env("TMPDIR", dir.path(""))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("bash starts");
        let (sender, output) = channel();
        let source = shell.stdout.take().expect("it is piped");
        thread::spawn(move || {
            let lines = BufReader::new(source).lines().map_while(Result::ok);
            for line in lines {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let input = shell.stdin.take().expect("it is piped");
        let mut terminal = Self {
            shell,
            input,
            output,
            lines: Vec::new(),
        };
        terminal.type_in("exec 2>&1\n");
        terminal
    }

    fn type_in(&mut self, commands: &str) {
        let typed = self.input.write_all(commands.as_bytes());
        typed.expect("bash reads");
    }

    /// Waits for the next line of its output.
    fn line(&mut self, timeout: Duration) -> Option<String> {
        match self.output.recv_timeout(timeout) {
            Ok(line) => {
                self.lines.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                panic!("bash has ended; it showed\n{}", self.lines.join("\n"))
            }
        }
    }

    /// Waits for these lines, in any order, and fails at another one.
    fn expect(&mut self, step: &Step, mut shown: Vec<String>) {
        while !shown.is_empty() {
            let line = self.line(SOON).unwrap_or_else(|| {
                panic!(
                    "after\n{}\nthese lines are missing: {shown:#?}",
                    step.commands
                )
            });
            let found = shown.iter().position(|pattern| fits(pattern, &line));
            let found = found.unwrap_or_else(|| {
                panic!(
                    "after\n{}\nthere is a line more:\n{line}\nof what is shown these are missing: {shown:#?}",
                    step.commands
                )
            });
            shown.remove(found);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Those that the tutorial has ended are gone.
        let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
        let _ = self.shell.wait();
    }
}

/// Whether `line` is as `pattern` says, in which `…` stands for any text.
fn fits(pattern: &str, line: &str) -> bool {
    let Some((first, others)) = pattern.split_once('…') else {
        return pattern == line;
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = others.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        rest = behind;
    }
    rest.ends_with(last)
}

fn is_peer_missing() -> bool {
    [
        ("mosquitto", "mosquitto"),
        ("mosquitto_pub", "mosquitto-clients"),
        ("mosquitto_sub", "mosquitto-clients"),
        ("python3", "python3"),
        ("bash", "bash"),
    ]
    .into_iter()
    .any(|(name, package)| {
        let remedy = format!("install the Debian package {package}");
        is_missing(program(name).is_some(), name, &remedy)
    })
}

#[test]
fn the_tutorial_shows_what_the_page_shows() {
    if is_peer_missing() {
        return;
    }
    let (port, http) = (free_port(), free_port());
    let of_tests = |text: &str| {
        text.replace("1899", &port.to_string())
            .replace("8099", &http.to_string())
            .replace("$PWD/target/debug/proplet", env!("CARGO_BIN_EXE_proplet"))
    };
    let steps = steps();
    let commands: String = steps.iter().map(|step| step.commands.as_str()).collect();
    for word in ["PORT=1899", "HTTP_PORT=8099", "$PWD/target/debug/proplet"] {
        assert!(commands.contains(word), "the tutorial has no {word}");
    }
    let dir = Dir::new();
    let mut terminal = Terminal::open(&dir);
    for step in &steps {
        terminal.type_in(&of_tests(&step.commands));
        let shown = step.shown.iter().map(|line| of_tests(line)).collect();
        terminal.expect(step, shown);
        let more = terminal.line(QUIET);
        let is_last = std::ptr::eq(step, steps.last().expect("there are steps"));
        assert!(
            is_last || more.is_none(),
            "after\n{}\nthere is a line more: {more:?}",
            step.commands
        );
    }
    // It leaves nothing behind.
    let deadline = Instant::now() + SOON;
    for port in [port, http] {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            assert!(Instant::now() < deadline, "port {port} is still served");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn patterns() {
    for (pattern, line, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a…", "ab", true),
        ("…b", "ab", true),
        ("a…c…", "abcd", true),
        ("a…c", "abcd", false),
        ("a…d", "abc", false),
        ("a,…}", "a,{b:{}}", true),
    ] {
        assert_eq!(fits(pattern, line), expected, "{pattern} and {line}");
    }
}
