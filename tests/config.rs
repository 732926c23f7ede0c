//! Where settings come from: flags, the environment as Propeller's compose file has it, config.toml as its
//! provisioning writes it, and the profile of a board.

mod support;

use log::Level;
use proplet::settings::{
    boards::BOARDS,
    table::{Kind, Linux, LinuxDefault, SETTINGS, Setting, Unit},
};
use proplet_host::{
    cli::{Command, Join},
    demo::broker::{self, Ports},
    sources::{self, Environment, Note},
};
use serde_json::json;
use std::{ffi::OsString, fs, path::Path, process, sync::OnceLock, time::Duration};
use support::{
    ADD, CHANNEL, Dir, ID, Message, Peer, Proplet, SOON, TENANT, command, host as subject,
    is_alive, start,
};

const IDENTITY: [(&str, &str); 4] = [
    ("PROPLET_TENANT_ID", TENANT),
    ("PROPLET_CHANNEL_ID", CHANNEL),
    ("PROPLET_ENTITY_ID", ID),
    ("PROPLET_API_KEY", "a secret"),
];

fn parse(args: &[&str], environment: &[(&str, &str)]) -> Result<(Join, Vec<Note>), String> {
    let environment = Environment::new(environment.iter().copied());
    parse_in(args, &environment)
}

fn parse_in(args: &[&str], environment: &Environment) -> Result<(Join, Vec<Note>), String> {
    let args = ["proplet", "join"].iter().chain(args);
    let args: Vec<OsString> = args.map(Into::into).collect();
    let (cli, notes) = sources::parse(&args, environment).map_err(|error| error.to_string())?;
    match cli.command {
        Some(Command::Join(join)) => Ok((*join, notes)),
        other => panic!("{other:?}"),
    }
}

/// With an identity.
fn join(args: &[&str], environment: &[(&str, &str)]) -> Join {
    parse(args, &[&IDENTITY[..], environment].concat())
        .unwrap_or_else(|error| panic!("{args:?}, {environment:?}: {error}"))
        .0
}

fn refused(args: &[&str], environment: &[(&str, &str)]) -> String {
    match parse(args, environment) {
        Ok(taken) => panic!("{args:?}, {environment:?} is taken: {taken:?}"),
        Err(error) => error,
    }
}

fn file(dir: &Dir, content: impl AsRef<[u8]>) -> String {
    let path = dir.path("config.toml");
    fs::write(&path, content).expect("it can be written");
    name(&path)
}

fn name(path: &Path) -> String {
    path.to_str().expect("the name is text").into()
}

/// Settings of the Linux port, with what is the Linux port's of each.
fn linux() -> impl Iterator<Item = (&'static Setting, Linux)> {
    SETTINGS.iter().filter_map(|s| Some((s, s.linux?)))
}

// The environment

/// One broker for all: it can't be ended.
fn ports() -> Ports {
    static PORTS: OnceLock<Ports> = OnceLock::new();
    *PORTS.get_or_init(|| broker::start().expect("the broker starts"))
}

/// The environment that Propeller's compose file gives its proplet, with the values of its .env: no identity, which
/// is in config.toml.
fn compose(broker: u16) -> Vec<(&'static str, String)> {
    let address = format!("tcp://127.0.0.1:{broker}");
    [
        ("PROPLET_LOG_LEVEL", "info"),
        ("PROPLET_INSTANCE_ID", ""),
        ("PROPLET_MQTT_ADDRESS", &*address),
        ("PROPLET_MQTT_QOS", "2"),
        ("PROPLET_MQTT_TIMEOUT", "30s"),
        ("PROPLET_LIVELINESS_INTERVAL", "10s"),
        ("PROPLET_TENANT_ID", ""),
        ("PROPLET_CHANNEL_ID", ""),
        ("PROPLET_ENTITY_ID", ""),
        ("PROPLET_API_KEY", ""),
        ("PROPLET_HAL_ENABLED", "false"),
        ("PROPLET_HTTP_ENABLED", "false"),
        ("PROPLET_EXTERNAL_WASM_RUNTIME", "wasmtime"),
        ("PROPLET_METRICS_PORT", "9092"),
        ("PROPLET_METRICS_ENABLED", "true"),
        ("PROPLET_OTEL_URL", "http://jaeger:4318/v1/traces"),
        ("PROPLET_TRACE_RATIO", "1.0"),
        ("PROPLET_MANAGER_K8S_NAMESPACE", "default"),
        ("PROPLET_CONFIG_FILE", "config.toml"),
        ("PROPLET_CONFIG_SECTION", "proplet"),
        ("MANAGER_COORDINATOR_URL", "http://coordinator-http:8080"),
        ("MODEL_REGISTRY_URL", "http://model-registry:8081"),
        ("DATA_STORE_URL", "http://local-data-store:8083"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

/// A file as Propeller's provisioning writes it.
fn provisioned(proplet: &str) -> String {
    let section = |name: &str, id: &str| {
        format!(
            "\n[{name}]\ntenant_id = \"{TENANT}\"\nentity_id = \"{id}\"\napi_key = \"key of {id}\"\n\
             channel_id = \"{CHANNEL}\"\n"
        )
    };
    ["# Propeller Configuration\n".to_owned()]
        .into_iter()
        .chain([("manager", "m"), (proplet, ID), ("proxy", "p")].map(|(n, id)| section(n, id)))
        .collect()
}

#[test]
fn the_environment_of_propellers_compose_file_starts_it() {
    let ports = ports();
    let dir = Dir::new();
    file(&dir, provisioned("proplet"));
    let peer = Peer::connect(ports.v4, "manager", None);
    let mut command = command(env!("CARGO_BIN_EXE_proplet"));
    command.arg("join").current_dir(dir.path("."));
    command.envs(compose(ports.v5));
    // Of no meaning, and so that what is said at debug is seen.
    command.env("PROPLET_LOG_LEVEL", "debug");
    let mut proplet = Proplet::spawn(command, Some(dir));
    let is_its = |m: &Message| is_alive(m) && m.body["proplet_id"] == ID;
    peer.expect(SOON, "the first heartbeat", is_its);
    proplet
        .expect_log("heartbeats every 10 s are too rare for the manager: sending them every 5 s");
    for name in [
        "PROPLET_EXTERNAL_WASM_RUNTIME, ",
        "PROPLET_HAL_ENABLED, ",
        "PROPLET_HTTP_ENABLED, ",
        "PROPLET_MQTT_QOS, ",
    ] {
        proplet.expect_log(name);
        assert_eq!(proplet.logged(name), 1, "{name}");
    }
    for name in [
        "PROPLET_INSTANCE_ID",
        "PROPLET_CONFIG_FILE",
        "MODEL_REGISTRY_URL",
    ] {
        assert_eq!(proplet.logged(name), 0, "{name}");
    }
    assert!(proplet.is_running());
}

#[test]
fn the_names_of_propeller_0_5_are_taken() {
    let older = [
        ("PROPLET_DOMAIN_ID", "d"),
        ("PROPLET_CHANNEL_ID", "c"),
        ("PROPLET_CLIENT_ID", "i"),
        ("PROPLET_CLIENT_KEY", "k"),
    ];
    let (join, notes) = parse(&[], &older).unwrap();
    assert_eq!(
        [join.tenant, join.channel, join.id, join.key],
        ["d", "c", "i", "k"]
    );
    assert!(notes.is_empty(), "{notes:?}");
    let both = [&older[..], &[("PROPLET_TENANT_ID", "t")]].concat();
    assert_eq!(parse(&[], &both).unwrap().0.tenant, "t");

    let dir = Dir::new();
    let path = file(
        &dir,
        "[proplet]\ndomain_id = \"d\"\nclient_id = \"i\"\nclient_key = \"k\"\nchannel_id = \"c\"\n",
    );
    let (join, notes) = parse(&["--config", &path], &[]).unwrap();
    assert_eq!(
        [join.tenant, join.channel, join.id, join.key],
        ["d", "c", "i", "k"]
    );
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let log_level = Environment::new([("PROPLET_LOG_LEVEL", "")]);
    assert_eq!(log_level.text("PROPLET_LOG_LEVEL"), None);
    let usual = format!(
        "{:?}",
        parse(&["--tenant=t", "--channel=c", "--id=i"], &[]).unwrap()
    );
    for (_, linux) in linux() {
        for name in [linux.variable, linux.older_variable] {
            let args = ["--tenant=t", "--channel=c", "--id=i"];
            let given = parse(&args, &[(name, "")]).unwrap();
            assert_eq!(format!("{given:?}"), usual, "{name}");
        }
    }
    let error = refused(&["--channel=c", "--id=i"], &[("PROPLET_TENANT_ID", "")]);
    assert!(
        error.contains("--tenant, PROPLET_TENANT_ID, or tenant_id in config.toml"),
        "{error}"
    );
    assert!(!error.contains("PROPLET_CHANNEL_ID"), "{error}");
}

#[test]
fn sizes_and_times_take_units_as_flags_variables_and_in_a_file() {
    let dir = Dir::new();
    for (setting, linux) in linux() {
        let (with_unit, plain) = match (setting.kind, setting.unit) {
            (Kind::Number(..), Unit::Bytes) => ("32KiB", "32768"),
            (Kind::Number(..), Unit::Seconds) => ("2s", "2"),
            (Kind::Number(..), Unit::Milliseconds) => ("500ms", "500"),
            _ => continue,
        };
        let flag =
            |name: &str, value: &str| format!("{:?}", join(&[&format!("--{name}={value}")], &[]));
        let expected = flag(linux.flag, plain);
        assert_ne!(
            expected,
            format!("{:?}", join(&[], &[])),
            "--{}",
            linux.flag
        );
        assert_eq!(flag(linux.flag, with_unit), expected, "--{}", linux.flag);
        if !linux.older_flag.is_empty() {
            assert_eq!(
                flag(linux.older_flag, with_unit),
                expected,
                "--{}",
                linux.older_flag
            );
        }
        for value in [plain, with_unit] {
            let of_variable = join(&[], &[(linux.variable, value)]);
            assert_eq!(format!("{of_variable:?}"), expected, "{}", linux.variable);
        }
        let key = linux.variable.trim_start_matches("PROPLET_").to_lowercase();
        for value in [plain.to_owned(), format!("\"{with_unit}\"")] {
            let path = file(&dir, format!("[proplet]\n{key} = {value}\n"));
            let mut of_file = join(&["--config", &path], &[]);
            of_file.config = "config.toml".into();
            assert_eq!(format!("{of_file:?}"), expected, "{key}");
        }
    }
    let timeout = |value: &str| join(&[], &[("PROPLET_MQTT_TIMEOUT", value)]).timeout;
    assert_eq!(
        ["30", "30s", "1m", "1m30s", "500ms"].map(timeout),
        [30, 30, 60, 90, 1]
    );
}

/// Its .env has "10s", which makes the manager take the proplet for dead again and again.
#[test]
fn a_heartbeat_that_is_too_rare_is_brought_to_five_seconds() {
    for (value, expected) in [
        ("10", 5),
        ("10s", 5),
        ("1h", 5),
        ("5s", 5),
        ("3s", 3),
        ("2", 2),
    ] {
        let join = join(&[], &[("PROPLET_LIVELINESS_INTERVAL", value)]);
        assert_eq!(join.heartbeat(), Duration::from_secs(expected), "{value}");
    }
}

// The file

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_a_board_over_the_default() {
    let dir = Dir::new();
    let path = file(&dir, "[proplet]\narena_bytes = \"2MiB\"\ninstances = 7\n");
    let arena =
        |args: &[&str], environment: &[(&str, &str)]| join(args, environment).limits.arena_bytes;
    let (board, of_file) = (["--like", "esp32c3"], ["--config", &*path]);
    let variable = [("PROPLET_ARENA_BYTES", "3MiB")];
    assert_eq!(arena(&[], &[]), 16 << 20);
    assert_eq!(arena(&board, &[]), 65_550);
    let both = [board, of_file].concat();
    assert_eq!(arena(&both, &[]), 2 << 20);
    assert_eq!(arena(&both, &variable), 3 << 20);
    let all = [&both[..], &["--arena", "4MiB"]].concat();
    assert_eq!(arena(&all, &variable), 4 << 20);
    // Each setting for itself.
    let join = join(&all, &variable);
    assert_eq!((join.limits.instances, join.limits.deployments), (7, 8));
}

#[test]
fn a_file_may_have_all_settings_and_names_that_are_none() {
    let dir = Dir::new();
    let path = file(
        &dir,
        "mqtt_qos = 1\n[proplet]\nmqtt_address = \"ssl://broker\"\nno_will = true\nmqtt_qos = 2\n\
         tags = \"a,b\"\nlike = \"nrf7002dk\"\nmodel_registry_url = \"http://models\"\n\
         description = \"\"\n[other]\nx = 1\n",
    );
    let (join, notes) = parse(&["--config", &path], &IDENTITY).unwrap();
    assert_eq!(join.address().unwrap().port, 8883);
    assert!(join.no_will);
    assert_eq!(join.tags, ["a", "b"]);
    assert_eq!(join.limits.arena_bytes, 57_344);
    assert_eq!(join.model_registry_url, "http://models");
    assert_eq!(join.description, None);
    let [(Level::Debug, note)] = &notes[..] else {
        panic!("{notes:?}");
    };
    assert!(note.contains("[proplet] has names"), "{note}");
    assert!(note.ends_with(": mqtt_qos"), "{note}");
}

#[test]
fn the_example_of_the_docs_is_taken_whole() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let docs = fs::read_to_string(docs).expect("the docs are there");
    let (_, example) = docs
        .split_once("<!-- example: config.toml -->\n```toml\n")
        .expect("the docs have an example");
    let (example, _) = example.split_once("```").expect("it ends");
    let dir = Dir::new();
    let path = file(&dir, example);
    let (join, notes) = parse(&["--config", &path], &[]).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(join.address().unwrap().port, 1884);
    assert_eq!((join.timeout, join.no_will), (30, true));
    assert_eq!(join.limits.arena_bytes, 64 << 20);
    assert_eq!(join.limits.instances, 1000);
}

#[test]
fn a_section_is_named_by_flag_or_variable() {
    let dir = Dir::new();
    let path = file(&dir, provisioned("proplet2"));
    let named = ["--config", &*path, "--config-section", "proplet2"];
    assert_eq!(parse(&named, &[]).unwrap().0.id, ID);
    let variables = [
        ("PROPLET_CONFIG_FILE", &*path),
        ("PROPLET_CONFIG_SECTION", "proplet2"),
    ];
    assert_eq!(parse(&[], &variables).unwrap().0.id, ID);
    let flag = ["--config-section", "manager"];
    assert_eq!(parse(&flag, &variables).unwrap().0.id, "m");

    for error in [
        refused(&["--config", &path], &[]),
        refused(&["--config", &path], &IDENTITY),
        refused(&[], &variables[..1]),
    ] {
        assert!(
            error.contains("has no section [proplet], but [manager], [proplet2], [proxy]"),
            "{error}"
        );
        assert!(error.contains("PROPLET_CONFIG_SECTION"), "{error}");
    }
}

/// The Linux proplet reads its file for an identity that is not complete, and its compose file names one always. Where
/// there is none, Docker has made a directory of that name.
#[test]
fn a_file_that_is_not_there_is_an_error_where_it_is_needed_or_a_flag_names_it() {
    let dir = Dir::new();
    let (absent, folder) = (name(&dir.path("absent.toml")), name(&dir.path(".")));
    for (path, words) in [(absent, "is not there"), (folder, "is a directory")] {
        let variable = ("PROPLET_CONFIG_FILE", &*path);
        let (_, notes) = parse(&[], &[&IDENTITY[..], &[variable]].concat()).unwrap();
        let [(Level::Warn, note)] = &notes[..] else {
            panic!("{notes:?}");
        };
        assert!(note.contains(&*path) && note.contains(words), "{note}");
        for error in [
            refused(&["--config", &path], &IDENTITY),
            refused(&[], &[&IDENTITY[..3], &[variable]].concat()),
        ] {
            assert!(error.contains(&*path) && error.contains(words), "{error}");
        }
    }
    // The default one need not be there.
    let (_, notes) = parse(&[], &IDENTITY).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn the_default_file_is_read_if_it_is_there() {
    let dir = Dir::new();
    file(
        &dir,
        provisioned("proplet").replace("api_key", "mqtt_timeout = \"x\"\napi_key"),
    );
    let mut command = command(env!("CARGO_BIN_EXE_proplet"));
    let output = command.arg("join").current_dir(dir.path(".")).output();
    let output = output.expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("mqtt_timeout in config.toml [proplet] is 'x': expected 1 to 65535 s"),
        "{stderr}"
    );
}

#[test]
fn a_file_that_is_no_configuration_is_refused_with_words() {
    let dir = Dir::new();
    let large = format!("[proplet]\n# {}\n", "x".repeat(10_000_000));
    for (content, words) in [
        (large.as_bytes(), "it has more than 1048576 bytes"),
        (b"[proplet]\ntenant_id = \"\xff\"", "byte 23 is not UTF-8"),
        (b"[proplet]\ntenant_id = t\n", "line 2: no TOML"),
        (b"[proplet]\napi_key = \"hush\n\"", "line 2: no TOML"),
        (
            b"[proplet]\napi_key = \"hush\"\napi_key = \"hush\"\n",
            "no TOML",
        ),
        (b"\x7fELF", "no TOML"),
        (
            b"proplet = \"hush\"",
            "'proplet' has a value of type string, expected a section",
        ),
        (b"[[proplet]]\n", "type array, expected a section"),
        (b"[proplet]\ntenant_id = 5\n", "tenant_id in "),
        (
            b"[proplet]\napi_key = 5\n",
            "[proplet]: expected a string, not a value of type integer",
        ),
        (
            b"[proplet]\ninstances = 1.5\n",
            "expected an integer or a string, not a value of type float",
        ),
        (
            b"[proplet]\nno_will = 1\n",
            "expected a boolean or a string, not a value of type integer",
        ),
        (
            b"[proplet]\ntags = [\"a\"]\n",
            "expected a string, not a value of type array",
        ),
        (
            b"[proplet]\nchannel_id = \"c\"\ninstances = -1\n",
            "is '-1': expected 1 to 65534",
        ),
        (b"[proplet]\nchannel_id = \"a/b\"\n", "channel_id in "),
        (b"", "has no section [proplet], but no other either"),
    ] {
        let path = file(&dir, content);
        let rest = [IDENTITY[0], IDENTITY[2], IDENTITY[3]];
        for error in [
            refused(&["--config", &path], &rest),
            refused(
                &[],
                &[&rest[..], &[("PROPLET_CONFIG_FILE", &path)]].concat(),
            ),
        ] {
            let shown = error.replace(&path, "FILE");
            assert!(shown.contains("FILE"), "{error}");
            assert!(shown.contains(words), "no '{words}' in {shown}");
            assert!(!shown.contains("hush"), "a secret in {shown}");
        }
    }
    // Endless.
    let error = refused(&["--config", "/dev/zero"], &[]);
    assert!(error.contains("/dev/zero: it has more than"), "{error}");
    let pipe = dir.path("pipe");
    let made = process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()));
    let error = refused(&["--config", &name(&pipe)], &[]);
    assert!(error.contains("it is a pipe, expected a file"), "{error}");
    for nested in [
        format!("[proplet]\na = {}", "[".repeat(500_000)),
        format!("[proplet]\na{} = 1", ".a".repeat(500_000)),
        format!("[proplet{}]\n", ".a".repeat(500_000)),
        format!("[proplet]\na = {}", "{a=".repeat(300_000)),
    ] {
        let path = file(&dir, nested);
        let error = refused(&["--config", &path], &[]);
        assert!(error.contains("no TOML"), "{error}");
    }
}

// Wrong values

const LONG_ID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn a_wrong_value_is_named_with_its_source_and_what_is_expected() {
    for (variable, value, words) in [
        (
            "PROPLET_MQTT_TIMEOUT",
            "30x",
            "expected 1 to 65535 s, such as 30, 30s or 1m",
        ),
        ("PROPLET_MQTT_TIMEOUT", "0", "expected 1 to 65535 s"),
        ("PROPLET_LIVELINESS_INTERVAL", "0s", "expected 1 to 5 s"),
        (
            "PROPLET_ARENA_BYTES",
            "2GiB",
            "expected 8192 to 1073741824 bytes, such as 65536, 64KiB or 16MiB",
        ),
        ("PROPLET_ARENA_BYTES", "16MiBs", "expected 8192 to"),
        (
            "PROPLET_RESULT_DELAY_MS",
            "2m",
            "expected 0 to 60000 ms, such as 500, 500ms",
        ),
        ("PROPLET_INSTANCES", "4K", "expected 1 to 65534"),
        (
            "PROPLET_MEMORY_MAX_BYTES",
            "100",
            "expected 0, or 1024 bytes at least, which is a page",
        ),
        ("PROPLET_MQTT_ADDRESS", "http://broker", "not http://"),
        ("PROPLET_TENANT_ID", "a/b", "expected an id"),
        (
            "PROPLET_TENANT_ID",
            LONG_ID,
            "expected an id of 1 to 64 bytes, not of 65",
        ),
        ("MODEL_REGISTRY_URL", "models:8081", "expected http://"),
        ("PROPLET_PREEMPTION", "luck", "expected fuel, time"),
        ("PROPLET_NO_WILL", "maybe", "boolean"),
        ("PROPLET_ALLOWED_CAPS", "everything", "everything"),
        ("PROPLET_TRUSTED_KEYS", ",", "',' has no keys"),
        (
            "PROPLET_LIKE",
            "esp8266",
            "expected esp32c3, esp32s3, mps2_an521, native_sim, nrf5340dk, nrf7002dk",
        ),
    ] {
        let error = refused(&[], &[&IDENTITY[..], &[(variable, value)]].concat());
        let source = format!("error: {variable} is '{value}': ");
        assert!(error.starts_with(&source), "{error}");
        assert!(error.contains(words), "no '{words}' in {error}");
        // What a flag has is not read.
        if variable != "PROPLET_TENANT_ID" {
            continue;
        }
        parse(
            &["--tenant=t"],
            &[&IDENTITY[..], &[(variable, value)]].concat(),
        )
        .unwrap();
    }
    for (variable, value) in [
        ("PROPLET_MQTT_ADDRESS", "mqtt://name:hush@broker:x"),
        ("MODEL_REGISTRY_URL", "ftp://name:hush@models"),
    ] {
        let error = refused(&[], &[&IDENTITY[..], &[(variable, value)]].concat());
        assert!(
            error.starts_with(&format!("error: {variable}: ")),
            "{error}"
        );
        assert!(!error.contains("hush"), "a secret in {error}");
    }
    let error = refused(&["--timeout=30x"], &IDENTITY);
    assert!(
        error.contains("'30x' for '--timeout <SECONDS>': expected 1 to"),
        "{error}"
    );
    let error = refused(&["--like=esp8266"], &IDENTITY);
    assert!(
        error.contains("[possible values: esp32c3, esp32s3, "),
        "{error}"
    );
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStringExt as _;
    let bad = OsString::from_vec(vec![b'a', 0xff]);
    let variables = IDENTITY.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let key = ("PROPLET_DESCRIPTION".into(), bad);
    let environment = Environment::new(variables.into_iter().chain([key]));
    let error = parse_in(&[], &environment).unwrap_err();
    assert!(
        error.contains("PROPLET_DESCRIPTION is not UTF-8"),
        "{error}"
    );
}

#[test]
fn required_settings_are_those_of_the_table() {
    let error = refused(&["--config=a.toml"], &[]);
    assert!(error.contains("a.toml is not there"), "{error}");
    let error = refused(&[], &[("PROPLET_CONFIG_SECTION", "p2")]);
    assert!(
        error.contains("\n  --id, PROPLET_ENTITY_ID, or entity_id in config.toml [p2]\n"),
        "{error}"
    );
    for (setting, linux) in linux() {
        let is_named = error.contains(&format!("--{}, {}, or ", linux.flag, linux.variable));
        let is_required = linux.default == LinuxDefault::Required;
        assert_eq!(is_named, is_required, "{}: {error}", setting.name);
    }
}

// Boards

#[test]
fn like_gives_the_limits_of_a_board() {
    for board in &BOARDS {
        let limits = join(&["--like", board.name], &[]).limits;
        assert_eq!(limits.like, Some(board));
        assert_eq!(limits.arena_bytes, board.arena_bytes);
        assert_eq!(limits.instances, board.slots);
        assert_eq!(limits.deployments, board.deployments);
        assert_eq!(limits.workers, Some(1));
        for (name, is) in [
            ("stack_bytes", limits.stack_bytes.to_string()),
            ("stack_max_bytes", limits.stack_max_bytes.to_string()),
            ("memory_max_bytes", limits.memory_max_bytes.to_string()),
            ("memory_commit", limits.memory_commit.to_string()),
            ("module_max_bytes", limits.module_max_bytes.to_string()),
            ("slice", limits.slice.to_string()),
            ("slice_ms", limits.slice_ms.to_string()),
            ("log_bytes", limits.log_bytes.to_string()),
            ("messages", limits.messages.to_string()),
            ("message_max_bytes", limits.message_max_bytes.to_string()),
            ("result_max_bytes", limits.result_max_bytes.to_string()),
        ] {
            let setting = SETTINGS.iter().find(|s| s.name == name).expect(name);
            assert_eq!(setting.device.expect(name).default, is, "{name}");
        }
        assert_eq!(join(&["--like", board.name], &[]).data_max_bytes, 16_384);
    }
    let changed = join(
        &["--like=esp32s3", "--workers=2"],
        &[("PROPLET_SLICE", "5")],
    )
    .limits;
    assert_eq!(
        (changed.workers, changed.slice, changed.instances),
        (Some(2), 5, 128)
    );
    assert_eq!(
        join(&[], &[("PROPLET_LIKE", "esp32c3")]).limits.instances,
        64
    );
}

/// Starts it without a broker that could answer.
fn alone(args: &[&str]) -> Proplet {
    let mut command = command(env!("CARGO_BIN_EXE_proplet"));
    command.args(["join", "--broker", "127.0.0.1:1"]).args(args);
    command.envs(IDENTITY);
    Proplet::spawn(command, None)
}

#[test]
fn like_a_board_it_takes_what_the_board_takes() {
    let ports = ports();
    let mut command = command(env!("CARGO_BIN_EXE_proplet"));
    command.args(["join", "--like", "esp32c3", "--id", "board"]);
    command.envs(IDENTITY);
    command.env("PROPLET_MQTT_ADDRESS", format!("127.0.0.1:{}", ports.v5));
    let peer = Peer::connect(ports.v4, "manager of the board", None);
    let proplet = Proplet::spawn(command, None);
    proplet.expect_log("limits as on esp32c3");
    let is_its = |m: &Message| m.body["proplet_id"] == "board";
    let is_create = |m: &Message| m.topic == "control/proplet/create" && is_its(m);
    let metadata = &peer.expect(SOON, "discovery", is_create).body["metadata"];
    assert_eq!(metadata["slots"], 64);
    assert_eq!(metadata["deployments"], 8);
    assert_eq!(metadata["total_memory_bytes"], 65_550);
    // CONFIG_PROPLET_TEXT_SIZE, which is no setting.
    for (id, len, result) in [("short", 500, Some("42")), ("long", 1000, None)] {
        let inputs = json!({"inputs": ["20", "22"], "env": {"PADDING": "x".repeat(len)}, "proplet_id": "board"});
        peer.publish("control/manager/start", &start(id, "main", ADD, &inputs));
        let body = peer.results(id).body;
        assert_eq!(
            body["results"].as_str().filter(|r| !r.is_empty()),
            result,
            "{body}"
        );
    }
}

/// What of it is not used takes no memory of the system's.
#[test]
fn a_large_arena_takes_what_is_used_of_it() {
    let proplet = alone(&["--arena", "1GiB"]);
    proplet.expect_log("connecting to 127.0.0.1:1");
    let status = fs::read_to_string(format!("/proc/{}/status", proplet.id()));
    let status = status.expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.trim().strip_suffix(" kB"));
    let kib: u64 = peak
        .expect("Linux says it")
        .trim()
        .parse()
        .expect("a number");
    assert!(kib < 100_000, "{kib} KiB");
}
