//! A mosquitto of the test's own.

use proplet_testing::is_missing;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A directory that goes with its owner.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("proplet-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Files that are left lie in Cargo's own directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
    listener.local_addr().expect("its address").port()
}

/// Debian keeps brokers where only root's PATH leads.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A mosquitto that speaks MQTT 3.1.1 and 5 on one port.
pub(crate) struct Broker {
    pub(crate) port: u16,
    program: PathBuf,
    child: Option<Child>,
    dir: Dir,
    /// Further lines of its configuration.
    lines: String,
}

impl Broker {
    /// Starts one that lets everybody in, or only these users; `None` without a mosquitto, or without
    /// a proplet to meet it.
    pub(crate) fn start(users: Option<&[(&str, &str)]>) -> Option<Self> {
        Self::start_with(users, String::new())
    }

    /// As [`start`](Self::start), with further lines of configuration.
    pub(crate) fn start_with(users: Option<&[(&str, &str)]>, lines: String) -> Option<Self> {
        if crate::subject::is_missing() {
            return None;
        }
        let program = program("mosquitto");
        let remedy = "install the Debian package mosquitto";
        if is_missing(program.is_some(), "mosquitto", remedy) {
            return None;
        }
        let mut broker = Self {
            port: free_port(),
            program: program?,
            child: None,
            dir: Dir::new(),
            lines,
        };
        broker.configure(users);
        broker.restart();
        Some(broker)
    }

    /// Whom the broker lets in from its next start on.
    pub(crate) fn configure(&self, users: Option<&[(&str, &str)]>) {
        let passwords = self.dir.path("passwords");
        let access = match users {
            None => "allow_anonymous true".into(),
            Some(users) => {
                let tool = program("mosquitto_passwd").expect("mosquitto brings mosquitto_passwd");
                File::create(&passwords).expect("a password file");
                for (user, password) in users {
                    let done = Command::new(&tool)
                        .arg("-b")
                        .arg(&passwords)
                        .args([user, password])
                        .stderr(Stdio::null())
                        .status();
                    assert!(done.is_ok_and(|s| s.success()), "mosquitto_passwd failed");
                }
                format!(
                    "allow_anonymous false\npassword_file {}",
                    passwords.display()
                )
            }
        };
        // Started by root it would give up root's rights, and then read no file of ours.
        let config = format!(
            "listener {} 127.0.0.1\n{access}\nset_tcp_nodelay true\nuser root\nlog_dest stderr\n\
             log_type all\nconnection_messages true\n{}",
            self.port, self.lines
        );
        fs::write(self.dir.path("mosquitto.conf"), config).expect("a configuration");
    }

    /// Ends the broker: sessions, queues and connections are gone.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it's gone after this.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it anew on the same port.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path("mosquitto.log"))
            .expect("a log");
        let mut child = Command::new(&self.program)
            .arg("-c")
            .arg(self.dir.path("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mosquitto starts");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = child.try_wait().expect("its state");
            assert!(ended.is_none(), "mosquitto ended: {}", self.log());
            assert!(
                Instant::now() < deadline,
                "mosquitto does not listen after 10 s: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
    }

    /// Stops it in its tracks: connections stay, and are not answered; or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it runs");
    }

    /// Its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path("mosquitto.log")).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() && std::env::var_os("PROPLET_TEST_BROKER_LOG").is_some() {
            println!("---- mosquitto\n{}", self.log());
        }
    }
}
