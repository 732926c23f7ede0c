//! A broker of one kind, and a stand-in for the manager.

use super::kinds::{Kind, MANAGER, Setup};
use crate::support::{
    ADD, Authority, Dir, Peer, Proplet, SOON, Server, free_port, host::join_at, invoke, is_alive,
    start,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A Java machine may take that long on a busy machine.
const STARTED: Duration = Duration::from_secs(40);

/// The broker as a child.
pub(super) struct Broker {
    kind: Kind,
    v3: u16,
    pub(super) v5: u16,
    command: Command,
    child: Option<Child>,
    dir: Dir,
    _companion: Option<Server>,
}

impl Broker {
    pub(super) fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path("broker.log"))
            .expect("a log");
        let mut child = self
            .command
            // rumqttd ends with it.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the broker starts");
        let deadline = Instant::now() + STARTED;
        for port in [self.v3, self.v5] {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                let name = self.kind.name();
                let ended = child.try_wait().expect("its state");
                assert!(ended.is_none(), "{name} ended: {}", self.log());
                assert!(
                    Instant::now() < deadline,
                    "{name} does not listen: {}",
                    self.log()
                );
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.child = Some(child);
    }

    /// As `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it's gone after this.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// As an administrator ends it.
    pub(super) fn terminate(&mut self) {
        let child = self.child.as_mut().expect("it runs");
        kill_process(Pid::from_child(child), Signal::TERM).expect("it runs");
        let deadline = Instant::now() + SOON;
        while child.try_wait().expect("its state").is_none() {
            if Instant::now() > deadline {
                // Some wait for their clients for ever.
                return self.kill();
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child = None;
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path("broker.log")).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() && std::env::var_os("PROPLET_TEST_BROKER_LOG").is_some() {
            println!("---- {}\n{}", self.kind.name(), self.log());
        }
    }
}

pub(super) struct Stage {
    // Dropped in this order.
    pub(super) peer: Peer,
    pub(super) broker: Broker,
    tls: u16,
    authority: Authority,
}

impl Stage {
    /// Starts the broker, which lets in everybody, or only the users; `None` where it is missing.
    pub(super) fn new(kind: Kind, has_users: bool) -> Option<Self> {
        let program = kind.find()?;
        let (dir, authority) = (Dir::new(), Authority::new());
        let (v5, tls) = (free_port(), free_port());
        let v3 = match kind.has_two_listeners() {
            true => free_port(),
            false => v5,
        };
        let setup = Setup {
            folder: &dir.path(""),
            v3,
            v5,
            tls,
            identity: &authority.issue("localhost"),
            has_users,
        };
        let (command, companion) = kind.command(&program, &setup);
        let mut broker = Broker {
            kind,
            v3,
            v5,
            command,
            child: None,
            dir,
            _companion: companion,
        };
        broker.start();
        let peer = Peer::connect_with(v3, MANAGER.0, has_users.then_some(MANAGER), kind.qos());
        Some(Self {
            peer,
            broker,
            tls,
            authority,
        })
    }

    /// Has the manager's stand-in come back: it knows nothing of what came before.
    pub(super) fn reconnect(&mut self) {
        self.peer = Peer::connect_with(self.broker.v3, MANAGER.0, None, self.broker.kind.qos());
    }

    /// A client that publishes, and is subscribed to nothing.
    pub(super) fn deaf_peer(&self) -> Peer {
        Peer::connect_deaf(self.broker.v3, "deaf")
    }

    /// Lets a proplet join, and waits for its heartbeat.
    pub(super) fn join(&self, args: &[&str]) -> Proplet {
        self.join_at(&format!("mqtt://127.0.0.1:{}", self.broker.v5), args)
    }

    pub(super) fn join_tls(&self, args: &[&str]) -> Proplet {
        let ca = self.authority.ca();
        let ca: &Path = &ca;
        let args = [&["--tls-ca", ca.to_str().expect("text")], args].concat();
        self.join_at(&format!("mqtts://localhost:{}", self.tls), &args)
    }

    pub(super) fn join_at(&self, url: &str, args: &[&str]) -> Proplet {
        let since = Instant::now();
        let proplet = join_at(url, args);
        self.peer
            .expect(SOON, "a heartbeat", |m| is_alive(m) && m.at > since);
        proplet
    }

    pub(super) fn publish(&self, topic: &str, body: &serde_json::Value) {
        self.peer.publish(&format!("control/manager/{topic}"), body);
    }

    /// Deploys a latent task that adds.
    pub(super) fn deploy(&self, proplet: &Proplet, id: &str) {
        let body = start(id, "main", ADD, &json!({"latent": true}));
        self.publish("start", &body);
        proplet.expect_log(&format!("latent task {id} is ready to be invoked"));
    }

    /// Asks for the sum of `number` and 1.
    pub(super) fn invoke(&self, id: &str, number: usize) {
        let inputs = json!({"inputs": [number.to_string(), "1"]});
        self.publish("invoke", &invoke(id, &invocation(number), &inputs));
    }
}

pub(super) fn invocation(number: usize) -> String {
    format!("call-{number}")
}
