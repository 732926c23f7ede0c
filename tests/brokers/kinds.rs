//! The brokers: where each is found, how it is configured and started.

use super::rumqttd;
use crate::support::{ID, Identity, Server, free_port, program, reply};
use proplet_testing::is_missing;
use rumqttc::QoS;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The name and the password of the manager's stand-in.
pub(super) const MANAGER: (&str, &str) = ("manager", "manages");

/// Who is let in where not everybody is.
pub(super) const USERS: &[(&str, &str)] = &[MANAGER, (ID, "secret")];

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Mosquitto,
    Rumqttd,
    FluxMq,
    /// A cluster of one node.
    FluxMqCluster,
    Mochi,
    /// Without the hook of tests/brokers/mochi that other runs have.
    MochiAsItIs,
    HiveMq,
}

/// What a broker is started with.
pub(super) struct Setup<'a> {
    /// For its configuration, its data and its log.
    pub(super) folder: &'a Path,
    /// For MQTT 3.1.1.
    pub(super) v3: u16,
    /// For MQTT 5; the same where one listener speaks both.
    pub(super) v5: u16,
    pub(super) tls: u16,
    pub(super) identity: &'a Identity,
    /// Only [`USERS`] are let in.
    pub(super) has_users: bool,
}

/// A file or a folder of `target/peers`, where `.ci/run` puts what it builds.
fn peer(name: &str) -> Option<PathBuf> {
    let found = [
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers"),
    ];
    found.map(|f| f.join(name)).into_iter().find(|f| f.exists())
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
            Self::FluxMq => "FluxMQ",
            Self::FluxMqCluster => "FluxMQ, a cluster of one",
            Self::Mochi | Self::MochiAsItIs => "mochi-mqtt",
            Self::HiveMq => "HiveMQ CE",
        }
    }

    /// Whether MQTT 3.1.1 has a listener of its own.
    pub(super) const fn has_two_listeners(self) -> bool {
        matches!(self, Self::Rumqttd | Self::FluxMq | Self::FluxMqCluster)
    }

    /// The quality of service of the manager's stand-in.
    pub(super) const fn qos(self) -> QoS {
        match self {
            // At QoS 2 it loses messages of a client that sends and gets at the same time: it keeps
            // both directions' packet identifiers in one table.
            Self::FluxMq | Self::FluxMqCluster => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    /// Whether it keeps a session of which the last connection was a clean start.
    pub(super) const fn keeps_first_session(self) -> bool {
        !matches!(self, Self::Rumqttd)
    }

    /// Whether it says of a publication at QoS 1 that nobody is subscribed to it.
    pub(super) const fn says_that_nobody_listens(self) -> bool {
        matches!(self, Self::Mosquitto | Self::HiveMq)
    }

    /// Why it has no TLS here.
    pub(super) const fn lacks_tls(self) -> Option<&'static str> {
        match self {
            Self::Rumqttd => {
                Some("it is built without TLS: its rustls-webpki 0.102 is out of date")
            }
            _ => None,
        }
    }

    /// How long it may serve on after SIGTERM.
    pub(super) const fn ends_within(self) -> Duration {
        match self {
            Self::FluxMq | Self::FluxMqCluster | Self::HiveMq => Duration::from_secs(6),
            _ => Duration::from_millis(1500),
        }
    }

    /// What the proplet says of a wrong key.
    pub(super) const fn refusals(self) -> &'static [&'static str] {
        const PASSWORD: &str = "bad user name or password: check the proplet id and the API key";
        const CLOSED: &str = "the broker closed the connection behind our CONNECT";
        match self {
            Self::Mosquitto => &["not authorised: check the proplet id, the API key"],
            // It closes without an answer.
            Self::Rumqttd => &[CLOSED],
            // It answers, and closes at once: the answer is mostly lost.
            Self::FluxMq | Self::FluxMqCluster => &[CLOSED, PASSWORD],
            Self::Mochi | Self::MochiAsItIs | Self::HiveMq => &[PASSWORD],
        }
    }

    /// The program; `None` where it is missing, which is said.
    pub(super) fn find(self) -> Option<PathBuf> {
        let build = "build it into target/peers, see tests/brokers/go.mod";
        let (found, remedy) = match self {
            Self::Mosquitto => (program("mosquitto"), "install the Debian package mosquitto"),
            Self::Rumqttd => (std::env::current_exe().ok(), "it is this program"),
            Self::FluxMq | Self::FluxMqCluster => (peer("fluxmq"), build),
            Self::Mochi | Self::MochiAsItIs => (peer("mochi"), build),
            Self::HiveMq => (
                peer("hivemq").and_then(|_| program("java")),
                "install a JDK of 17 or newer, and see tests/brokers/hivemq/pom.xml",
            ),
        };
        let missing = is_missing(found.is_some(), self.name(), remedy);
        found.filter(|_| !missing)
    }

    /// The command that starts it, and what has to live as long as it.
    pub(super) fn command(self, program: &Path, setup: &Setup<'_>) -> (Command, Option<Server>) {
        let mut command = Command::new(program);
        command.current_dir(setup.folder);
        let mut companion = None;
        match self {
            Self::Mosquitto => {
                command.arg("-c").arg(mosquitto(setup));
            }
            Self::Rumqttd => rumqttd::configure(&mut command, setup),
            Self::FluxMq | Self::FluxMqCluster => {
                let access = setup.has_users.then(authenticate);
                let cluster = match self {
                    Self::FluxMqCluster => cluster_of_one(setup),
                    _ => "cluster: {enabled: false}".into(),
                };
                let config = fluxmq(setup, access.as_ref(), &cluster);
                command.arg("-config").arg(config);
                companion = access;
            }
            Self::Mochi => mochi(&mut command, setup),
            Self::MochiAsItIs => {
                mochi(&mut command, setup);
                command.arg("-receive-maximum");
            }
            Self::HiveMq => hivemq(&mut command, setup),
        }
        (command, companion)
    }
}

fn write(setup: &Setup<'_>, name: &str, text: &str) -> PathBuf {
    let file = setup.folder.join(name);
    fs::write(&file, text).expect("a file of the broker's configuration");
    file
}

fn mosquitto(setup: &Setup<'_>) -> PathBuf {
    let access = if setup.has_users {
        let passwords = write(setup, "passwords", "");
        let tool = program("mosquitto_passwd").expect("mosquitto brings mosquitto_passwd");
        for (name, password) in USERS {
            let mut command = Command::new(&tool);
            command.arg("-b").arg(&passwords).args([name, password]);
            let output = command.output().expect("mosquitto_passwd starts");
            assert!(output.status.success(), "{output:?}");
        }
        format!(
            "allow_anonymous false\npassword_file {}",
            passwords.display()
        )
    } else {
        "allow_anonymous true".into()
    };
    let text = format!(
        "user root\nlog_dest stderr\nset_tcp_nodelay true\n{access}\n\
         listener {} 127.0.0.1\n\
         listener {} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
        setup.v5,
        setup.tls,
        setup.identity.cert.display(),
        setup.identity.key.display()
    );
    write(setup, "mosquitto.conf", &text)
}

fn cluster_of_one(setup: &Setup<'_>) -> String {
    let (peers, clients, transport) = (free_port(), free_port(), free_port());
    format!(
        r#"cluster:
  enabled: true
  node_id: "node1"
  etcd:
    data_dir: "{}"
    bind_addr: "127.0.0.1:{peers}"
    client_addr: "127.0.0.1:{clients}"
    initial_cluster: "node1=http://127.0.0.1:{peers}"
    bootstrap: true
  transport: {{bind_addr: "127.0.0.1:{transport}"}}"#,
        setup.folder.join("etcd").display()
    )
}

fn fluxmq(setup: &Setup<'_>, access: Option<&Server>, cluster: &str) -> PathBuf {
    let auth = access.map_or_else(String::new, |server| {
        format!(
            "auth:\n  url: \"{}\"\n  transport: \"http\"\n  timeout: 5s\n",
            server.url("")
        )
    });
    let text = format!(
        r#"
server:
  tcp:
    v3: {{addr: "127.0.0.1:{}", protocol: "v3"}}
    v5: {{addr: "127.0.0.1:{}", protocol: "v5"}}
    tls: {{addr: "127.0.0.1:{}", protocol: "v5", cert_file: "{}", key_file: "{}"}}
  websocket: {{v3: {{addr: ""}}, v5: {{addr: ""}}}}
  amqp: {{plain: {{addr: ""}}}}
  amqp091: {{plain: {{addr: ""}}}}
  health_enabled: false
  admin_api_addr: ""
  shutdown_timeout: 2s
broker: {{max_message_size: 1048576, retry_interval: 20s, max_retries: 0, max_qos: 2}}
session:
  max_sessions: 10000
  default_expiry_interval: 300
  max_offline_queue_size: 10000
  max_inflight_messages: 1000
  max_send_queue_size: 1000
  offline_queue_policy: "evict"
  inflight_overflow: 1
  pending_queue_size: 1000
storage: {{type: "badger", badger_dir: "{}"}}
{cluster}
log: {{level: "debug", format: "text"}}
{auth}"#,
        setup.v3,
        setup.v5,
        setup.tls,
        setup.identity.cert.display(),
        setup.identity.key.display(),
        setup.folder.join("data").display(),
    );
    write(setup, "fluxmq.yaml", &text)
}

/// The service that FluxMQ asks whom to let in; who is in may publish and subscribe.
fn authenticate() -> Server {
    Server::start(|request, stream| {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let name = body["username"].as_str().unwrap_or_default();
        let password = body["password"].as_str().unwrap_or_default();
        let answer = match request.path.as_str() {
            "/auth/authenticate" => {
                json!({"authenticated": USERS.contains(&(name, password)), "id": name})
            }
            _ => json!({"authorized": true}),
        };
        let bytes = answer.to_string().into_bytes();
        reply(stream, 200, "application/json", &bytes);
    })
}

fn mochi(command: &mut Command, setup: &Setup<'_>) {
    command
        .args(["-tcp", &format!("127.0.0.1:{}", setup.v5)])
        .args(["-tls", &format!("127.0.0.1:{}", setup.tls)])
        .arg("-cert")
        .arg(&setup.identity.cert)
        .arg("-key")
        .arg(&setup.identity.key);
    if setup.has_users {
        let users = USERS.iter();
        let lines = users.map(|(name, password)| {
            format!("  - username: {name}\n    password: {password}\n    allow: true\n")
        });
        let text: String = std::iter::once("auth:\n".into()).chain(lines).collect();
        command.arg("-users").arg(write(setup, "users.yaml", &text));
    }
}

fn hivemq(command: &mut Command, setup: &Setup<'_>) {
    for (from, to) in [
        (&setup.identity.cert, "cert.pem"),
        (&setup.identity.key, "key.pem"),
    ] {
        fs::copy(from, setup.folder.join(to)).expect("a copy");
    }
    if setup.has_users {
        let lines = USERS
            .iter()
            .map(|(name, password)| format!("{name} {password}\n"));
        write(setup, "users", &lines.collect::<String>());
    }
    let text = format!(
        "<hivemq>
  <listeners>
    <tcp-listener><port>{}</port><bind-address>127.0.0.1</bind-address></tcp-listener>
    <tls-tcp-listener>
      <port>{}</port><bind-address>127.0.0.1</bind-address>
      <tls><keystore>
        <path>{}</path><password>changeit</password>
        <private-key-password>changeit</private-key-password>
      </keystore></tls>
    </tls-tcp-listener>
  </listeners>
  <persistence><mode>in-memory</mode></persistence>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
</hivemq>
",
        setup.v5,
        setup.tls,
        setup.folder.join("keys.jks").display()
    );
    write(setup, "config.xml", &text);
    let jars = peer("hivemq").expect("it was found");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/brokers/hivemq");
    command
        .args(["-Xmx512m", "-cp"])
        .arg(jars.join("*"))
        .arg(source.join("HiveMq.java"))
        .arg(setup.folder);
}
