//! The proplet under test, as a child.

use super::{Dir, SOON};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Lines of its log that a failed test shows.
const SHOWN: usize = 40;

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Log {
    /// Adds what comes from `source`, until it ends.
    fn follow(self: Arc<Self>, source: impl Read + Send + 'static) {
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                let lines = self.lines.lock();
                lines.unwrap_or_else(PoisonError::into_inner).push(line);
                self.grown.notify_all();
            }
        });
    }
}

/// A running proplet.
pub(crate) struct Proplet {
    child: Child,
    log: Arc<Log>,
    _dir: Option<Dir>,
}

/// `program`, without what the environment would set.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name == "RUST_LOG" || name.starts_with("PROPLET_") {
            command.env_remove(&key);
        }
    }
    command
}

impl Proplet {
    /// Lets the test's subject join the broker at `port`; its MQTT password is "secret" unless
    /// `args`, flags of `proplet join`, say otherwise.
    pub(crate) fn join(port: u16, args: &[&str]) -> Self {
        crate::subject::join(port, args)
    }

    /// Starts `command`, which logs to stdout or stderr, and keeps `dir` as long as it runs.
    pub(crate) fn spawn(mut command: Command, dir: Option<Dir>) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the proplet starts");
        let log = Arc::new(Log::default());
        Arc::clone(&log).follow(child.stdout.take().expect("it is piped"));
        Arc::clone(&log).follow(child.stderr.take().expect("it is piped"));
        Self {
            child,
            log,
            _dir: dir,
        }
    }

    /// Lines that it has logged.
    pub(crate) fn log(&self) -> Vec<String> {
        let lines = self.log.lines.lock();
        lines.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lines of its log so far that contain `words`.
    pub(crate) fn logged(&self, words: &str) -> usize {
        self.log().iter().filter(|l| l.contains(words)).count()
    }

    /// Waits for a line with `words` in its log, past ones included.
    pub(crate) fn expect_log(&self, words: &str) {
        self.expect_logs(SOON, words, 1);
    }

    /// Waits for `count` lines with `words` in its log.
    pub(crate) fn expect_logs(&self, timeout: Duration, words: &str, count: usize) {
        let deadline = Instant::now() + timeout;
        let mut lines = self
            .log
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let found = lines.iter().filter(|l| l.contains(words)).count();
            if found >= count {
                return;
            }
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| {
                panic!("'{words}' is {found} times in the log, not {count}, after {timeout:?}")
            });
            lines = match self.log.grown.wait_timeout(lines, left) {
                Ok((lines, _)) => lines,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// As Ctrl-C.
    pub(crate) fn ctrl_c(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
    }

    /// As `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the proplet has not ended after {timeout:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Proplet {
    fn drop(&mut self) {
        // It may have ended by itself; either way it's gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let lines = self.log();
            let from = lines.len().saturating_sub(SHOWN);
            println!("---- the proplet's log, from line {}", from + 1);
            for line in &lines[from..] {
                // A line about a large message is as large.
                println!("{}", line.chars().take(300).collect::<String>());
            }
        }
    }
}
