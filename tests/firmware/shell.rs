//! The shell, on the pseudo terminal that native_sim gives it.

use crate::support::{Broker, LOOP, Peer, Proplet, SOON, Stage, firmware::Device, is_alive, start};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use std::{
    fs::File,
    io::{Read as _, Write as _},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// The shell is ready for a command.
const PROMPT: &str = "uart:~$ ";

struct Shell {
    terminal: File,
    output: Receiver<Vec<u8>>,
}

impl Shell {
    /// Opens the terminal that the log has named last.
    fn open(proplet: &Proplet, boots: usize) -> Self {
        proplet.expect_logs(SOON, "connected to pseudotty", boots);
        let named = proplet.log();
        let line = named.iter().rfind(|line| line.contains("pseudotty"));
        let line = line.expect("it was waited for");
        let path = line.rsplit(' ').next().expect("a line has a last word");
        let terminal = File::options().read(true).write(true).open(path);
        let terminal = terminal.unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut modes = tcgetattr(&terminal).expect("it is a terminal");
        modes.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &modes).expect("it is a terminal");
        let (sender, output) = channel();
        let mut reader = terminal.try_clone().expect("descriptors are left");
        thread::spawn(move || {
            let mut buf = [0; 4096];
            // It ends with the firmware.
            while let Ok(len @ 1..) = reader.read(&mut buf) {
                if sender.send(buf[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { terminal, output }
    }

    fn write(&mut self, command: &str) {
        let line = format!("{command}\n");
        let written = self.terminal.write_all(line.as_bytes());
        written.expect("the terminal takes a line");
    }

    /// Runs a command, and returns its output, up to the next prompt.
    fn run(&mut self, command: &str) -> String {
        // Output since the last command is not this one's.
        while self.output.recv_timeout(Duration::from_millis(100)).is_ok() {}
        self.write(command);
        let deadline = Instant::now() + SOON;
        let mut shown = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                let shown = String::from_utf8_lossy(&shown);
                panic!("{command}: no prompt after {SOON:?}: {shown}");
            };
            shown.extend(bytes);
            let text = String::from_utf8_lossy(&shown);
            if let Some((_, rest)) = text.split_once(command)
                && rest.contains(PROMPT)
            {
                return rest.to_owned();
            }
        }
    }

    #[track_caller]
    fn assert_shows(&mut self, command: &str, words: &str) {
        let shown = self.run(command);
        assert!(shown.contains(words), "{command}: no '{words}' in {shown}");
    }
}

#[test]
fn a_page_says_how_many_tasks_it_does_not_show() {
    let Some(stage) = Stage::new(&[]) else { return };
    let mut shell = Shell::open(&stage.proplet, 1);
    stage.start("first", "main", LOOP, &json!({}));
    stage.proplet.expect_log("task first runs in slot 0");
    assert!(!shell.run("proplet tasks").contains(" more"));
    for n in 1..100 {
        stage.start(&format!("one-of-many-{n}"), "main", LOOP, &json!({}));
    }
    stage.proplet.expect_logs(SOON, "runs in slot", 100);
    let shown = shell.run("proplet tasks");
    let lines = shown
        .lines()
        .filter(|line| line.contains(" Running "))
        .count();
    assert!(
        shown.contains(&format!("and {} more", 100 - lines)),
        "{shown}"
    );
}

#[test]
fn what_the_shell_sets_is_in_force_after_its_reboot() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    let device = Device::new();
    let proplet = device.boot(&[]);
    let mut shell = Shell::open(&proplet, 1);
    shell.assert_shows("proplet status", "proplet_id is not set");
    shell.assert_shows("proplet config get", "nothing is set");
    shell.assert_shows(
        "proplet config set mqtt_broker_port 99999",
        "expected a number from 1 to 65535",
    );
    shell.assert_shows("proplet config set nonsense 1", "there is no setting");
    for (name, value) in device.settings(broker.port) {
        shell.assert_shows(&format!("proplet config set {name} {value}"), "stored");
    }
    let shown = shell.run("proplet config get");
    assert!(shown.contains("mqtt_broker_host = 127.0.0.1"), "{shown}");
    assert!(shown.contains("api_key = (set)"), "{shown}");
    assert!(!shown.contains("secret"), "a secret is shown: {shown}");

    shell.write("proplet reboot");
    proplet.expect_log("last reset: software");
    peer.expect(SOON, "a heartbeat", is_alive);
    let mut shell = Shell::open(&proplet, 2);
    shell.assert_shows("proplet status", "broker    connected");
    peer.publish(
        "control/manager/start",
        &start("endless", "main", LOOP, &json!({})),
    );
    proplet.expect_log("task endless runs in slot 0");
    shell.assert_shows("proplet tasks", "endless main");
    for (name, value) in [("slice", "500"), ("slice_ms", "5")] {
        let set = format!("proplet config set {name} {value}");
        shell.assert_shows(&set, "stored; in force now");
    }
    shell.assert_shows("proplet config set slice 0", "expected a number from 1");
    shell.assert_shows("proplet config set heartbeat 3", "after 'proplet reboot'");
    shell.assert_shows("proplet modules", "    0     1 ");
    shell.assert_shows("proplet config unset api_key", "its default is in force");
    shell.assert_shows("proplet config get api_key", "not set");
}
