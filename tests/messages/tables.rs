//! The tables of the page against what the core reads and writes, and against its constants.

use super::page::{Blocks, code, file, shape, table, text, type_of};
use proplet::{
    agent::{EXCHANGES_MAX, RECEIVE_MAXIMUM, SUBSCRIPTIONS_MAX},
    config::Config,
    module::chunks::{CHUNKS_MAX, RESTARTS_MAX},
    task::learning::FORMAT_MAX,
    wire::{
        DEPTH_MAX, GUEST_TOPIC_MAX, ID_MAX, Inbound, MonitoringProfile, NAME_MAX, Outbound,
        TASK_NAME_MAX, TOPIC_MAX, Topics, URL_MAX,
        report::{
            Aggregate, Alive, CpuMetrics, Discovery, Empty, InvokeResults, MemoryMetrics, Metadata,
            Metrics, ModuleRequest, Results, RoundResults, RoundUpdate, Sample, Status,
            TaskMetrics, Timestamp, write,
        },
    },
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const COMMANDS: [(Inbound, &str); 4] = [
    (Inbound::Start, "control/manager/start"),
    (Inbound::Stop, "control/manager/stop"),
    (Inbound::Invoke, "control/manager/invoke"),
    (Inbound::Chunk, "registry/server"),
];

const REPORTS: [(Outbound, &str); 7] = [
    (Outbound::Create, "control/proplet/create"),
    (Outbound::Alive, "control/proplet/alive"),
    (Outbound::Results, "control/proplet/results"),
    (Outbound::InvokeResults, "control/proplet/invoke_results"),
    (Outbound::Metrics, "control/proplet/metrics"),
    (Outbound::TaskMetrics, "control/proplet/task_metrics"),
    (Outbound::ModuleRequest, "registry/proplet"),
];

/// Fields of a table of the page, and the first words of their types.
fn fields(mark: &str) -> BTreeMap<String, String> {
    let rows = table(&text(), &format!("fields: {mark}"));
    let count = rows.len();
    let fields: BTreeMap<String, String> = rows
        .iter()
        .map(|row| {
            let word = row[1].split([' ', ',']).next().unwrap_or_default();
            (code(&row[0]).to_owned(), word.to_owned())
        })
        .collect();
    assert_eq!(fields.len(), count, "{mark}: a field is there twice");
    fields
}

#[test]
fn each_topic_has_its_row() {
    let text = text();
    let topics = Topics::new("t", "c").expect("topics");
    let row = |topic: &str| {
        let found = text
            .lines()
            .any(|line| line.starts_with(&format!("| `{topic}` | ")));
        assert!(found, "the page has no row of {topic}");
    };
    for (index, (inbound, topic)) in COMMANDS.into_iter().enumerate() {
        let full = format!("m/t/c/c/{topic}");
        assert_eq!(topics.subscription(index).as_deref(), Some(&*full));
        assert_eq!(topics.classify(&full), Some(inbound));
        row(topic);
    }
    assert_eq!(topics.subscription(COMMANDS.len()), None);
    for (outbound, topic) in REPORTS {
        assert_eq!(topics.name(outbound).as_str(), format!("m/t/c/c/{topic}"));
        row(topic);
    }
}

#[test]
fn the_fields_that_are_read_are_on_the_page_and_no_others() {
    let names = |mark: &str| -> BTreeSet<String> { fields(mark).into_keys().collect() };
    for (inbound, topic) in COMMANDS {
        let read: BTreeSet<String> = inbound.fields().map(str::to_owned).collect();
        assert_eq!(names(topic), read, "{topic}");
    }
    let read: BTreeSet<String> = MonitoringProfile::fields().map(str::to_owned).collect();
    assert_eq!(names("monitoring_profile"), read);
}

#[test]
fn the_messages_in_have_every_field_of_its_type() {
    let mut blocks = Blocks::read();
    for (topic, which) in [
        ("control/manager/start", ": complete"),
        ("control/manager/stop", ": a task"),
        ("control/manager/invoke", ": complete"),
        ("registry/server", ": first"),
    ] {
        let message = blocks.body(&format!("in: {topic}{which}"));
        for (field, kind) in fields(topic) {
            assert_eq!(type_of(&message[&field]), kind, "{topic}: {field}");
        }
        if topic.ends_with("start") {
            for (field, kind) in fields("monitoring_profile") {
                let value = &message["monitoring_profile"][&field];
                assert_eq!(type_of(value), kind, "monitoring_profile: {field}");
            }
        }
    }
}

fn written(message: &impl serde::Serialize) -> BTreeMap<String, String> {
    let mut buf = [0; 4096];
    let len = write(message, &mut buf).expect("it is short");
    let value: Value = serde_json::from_slice(&buf[..len]).expect("it is JSON");
    let shape = shape(&value).into_iter();
    shape
        .map(|(field, kind)| (field, kind.to_owned()))
        .collect()
}

/// With every field that this proplet may send. `Metadata` is held to what it does send, by the messages.
#[test]
fn the_fields_that_are_written_are_on_the_page_and_no_others() {
    let (text, timestamp) = (Some("x"), Timestamp::from_unix_millis(0));
    let metadata = Metadata {
        description: text,
        tags: &["x"],
        location: text,
        environment: text,
        os: text,
        hostname: text,
        cpu_arch: text,
        total_memory_bytes: Some(1),
        proplet_version: text,
        wasm_runtime: text,
        wasm_proposals: &["x"],
        max_inline_bytes: Some(1),
        slots: Some(1),
        deployments: Some(1),
        memory_page_bytes: Some(1),
        // No port knows its address.
        ..Metadata::default()
    };
    let discovery = Discovery {
        proplet_id: "x",
        namespace: "x",
        metadata,
    };
    assert_eq!(fields("control/proplet/create"), written(&discovery));
    let alive = Alive {
        proplet_id: "x",
        status: Status::Alive,
        namespace: "x",
        metadata: Some(Metadata {
            wasm_proposals: &[],
            max_inline_bytes: None,
            slots: None,
            deployments: None,
            memory_page_bytes: None,
            ..metadata
        }),
    };
    assert_eq!(fields("control/proplet/alive"), written(&alive));
    let results = Results {
        task_id: "x",
        proplet_id: "x",
        results: "x",
        error: text,
    };
    assert_eq!(fields("control/proplet/results"), written(&results));
    let invoked = InvokeResults {
        task_id: "x",
        invocation_id: "x",
        proplet_id: "x",
        results: "x",
        error: text,
    };
    assert_eq!(fields("control/proplet/invoke_results"), written(&invoked));
    let round = RoundResults {
        task_id: "x",
        proplet_id: "x",
        results: RoundUpdate {
            task_id: "x",
            round_id: "x",
            proplet_id: "x",
            num_samples: 1,
            update_b64: b"x",
            format: "x",
            metrics: Empty {},
        },
        error: text,
    };
    assert_eq!(fields("round"), written(&round));
    let request = ModuleRequest { app_name: "x" };
    assert_eq!(fields("registry/proplet"), written(&request));
    let metrics = Metrics {
        proplet_id: "x",
        namespace: "x",
        timestamp,
        cpu_metrics: CpuMetrics::default(),
        memory_metrics: MemoryMetrics {
            // A proplet is in no container that it knows of.
            container_usage_bytes: None,
            container_limit_bytes: None,
            ..MemoryMetrics::default()
        },
        memory_pages: Some(1),
        memory_page_bytes: Some(1),
        overdue_tasks: Some(1),
        slow_steps: Some(1),
    };
    assert_eq!(fields("control/proplet/metrics"), written(&metrics));
    let (half, one) = (Some(0.5), Some(1));
    let task = TaskMetrics {
        task_id: "x",
        proplet_id: "x",
        timestamp,
        metrics: Sample {
            cpu_percent: half,
            memory_bytes: one,
            memory_percent: half,
            // Guests have no disk and no files.
            disk_read_bytes: None,
            disk_write_bytes: None,
            file_descriptor_count: None,
            uptime_seconds: one,
            thread_count: Some(1),
            memory_pages: Some(1),
            work: one,
            dropped: Some(1),
        },
        aggregated: Some(Aggregate {
            avg_cpu_usage: half,
            max_cpu_usage: half,
            avg_memory_usage: one,
            max_memory_usage: one,
            total_disk_read: None,
            total_disk_write: None,
            sample_count: 1,
        }),
    };
    assert_eq!(fields("control/proplet/task_metrics"), written(&task));
}

/// The value of a constant that the core keeps to itself, or an option's default: the number behind `words`.
fn in_source(name: &str, words: &str) -> u64 {
    let source = file(name);
    let (_, rest) = source
        .split_once(words)
        .unwrap_or_else(|| panic!("{name} has no '{words}'"));
    last_number(rest.lines().next().unwrap_or_default())
        .unwrap_or_else(|| panic!("{name}: no number behind '{words}'"))
}

/// The default of an option of Kconfig.
fn option(symbol: &str) -> u64 {
    let kconfig = file("Kconfig");
    let entry = kconfig.split_once(&format!("config {symbol}\n"));
    let (_, entry) = entry.unwrap_or_else(|| panic!("Kconfig has no {symbol}"));
    let default = entry
        .lines()
        .find_map(|l| l.trim().strip_prefix("default "));
    let default = default.unwrap_or_else(|| panic!("{symbol} has no default"));
    default.parse().expect("a number")
}

/// The last number of a text, in digits of which commas and underscores may make groups.
fn last_number(text: &str) -> Option<u64> {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, ',' | '_');
    let words = text.split(|c: char| !is_part(c));
    let plain = |word: &str| word.replace([',', '_'], "").parse().ok();
    words.filter_map(plain).next_back()
}

fn bounds() -> BTreeMap<&'static str, u64> {
    let config = Config::DEFAULT;
    let outbox = "src/agent/outbox.rs";
    [
        ("ID_MAX", ID_MAX as u64),
        ("NAME_MAX", NAME_MAX as u64),
        ("TASK_NAME_MAX", TASK_NAME_MAX as u64),
        ("URL_MAX", URL_MAX as u64),
        ("TOPIC_MAX", TOPIC_MAX as u64),
        ("GUEST_TOPIC_MAX", GUEST_TOPIC_MAX as u64),
        ("DEPTH_MAX", DEPTH_MAX.into()),
        ("CHUNKS_MAX", CHUNKS_MAX as u64),
        ("EXCHANGES_MAX", EXCHANGES_MAX as u64),
        ("SUBSCRIPTIONS_MAX", SUBSCRIPTIONS_MAX as u64),
        ("FORMAT_MAX", FORMAT_MAX as u64),
        ("RECEIVE_MAXIMUM", RECEIVE_MAXIMUM as u64),
        ("ENDED", in_source(outbox, "const ENDED: usize =")),
        (
            "CUTS_MAX",
            in_source("src/agent/inbox.rs", "const CUTS_MAX: u8 ="),
        ),
        (
            "NANOSECONDS_FROM",
            in_source("src/wire/command.rs", "const NANOSECONDS_FROM: i64 ="),
        ),
        (
            "TEXT_BYTES",
            in_source("ports/host/src/proplet.rs", "    text_bytes: "),
        ),
        (
            "FETCHES",
            in_source("ports/host/src/proplet.rs", "    fetches: "),
        ),
        (
            "OUTBOX",
            in_source("ports/host/src/proplet.rs", "    outbox: "),
        ),
        ("fetch_timeout", config.fetch_timeout.as_secs()),
        ("RESTARTS_MAX", RESTARTS_MAX.into()),
        (
            "QUIET",
            in_source(
                "src/agent/fetch.rs",
                "const QUIET: Duration = Duration::from_secs(",
            ),
        ),
        ("CONFIG_PROPLET_OUTBOX", option("PROPLET_OUTBOX")),
        ("CONFIG_PROPLET_FETCHES", option("PROPLET_FETCHES")),
        ("CONFIG_PROPLET_TEXT_SIZE", option("PROPLET_TEXT_SIZE")),
    ]
    .into()
}

#[test]
fn bounds_are_those_of_the_source() {
    let (text, bounds) = (text(), bounds());
    let rows = table(&text, "bounds");
    let told: BTreeMap<&str, Option<u64>> = rows
        .iter()
        .map(|row| {
            (
                code(&row[1]),
                row[0].rsplit(": ").next().and_then(last_number),
            )
        })
        .collect();
    for (name, value) in &bounds {
        assert_eq!(told.get(name), Some(&Some(*value)), "the bound {name}");
    }
    assert_eq!(told.len(), bounds.len(), "bounds without a constant");
    // In the text a bound's name follows its number.
    for (name, value) in &bounds {
        for (at, _) in text.match_indices(&format!("(`{name}`)")) {
            let line = text[..at].lines().count();
            let found = last_number(&text[..at]);
            assert_eq!(
                found,
                Some(*value),
                "line {line}: the number before (`{name}`)"
            );
        }
    }
}

/// Sizes that the page repeats from settings.
#[test]
fn the_settings_that_the_page_repeats_are_those_of_the_proplet() {
    use proplet::settings::table::{LinuxDefault, SETTINGS};
    let text = text();
    for (name, linux, device) in [
        ("message_max_bytes", "4KiB", "512"),
        ("heartbeat", "4", "4"),
        ("metrics_interval", "10", "10"),
    ] {
        let setting = SETTINGS.iter().find(|s| s.name == name).expect("a setting");
        let LinuxDefault::Is(default) = setting.linux.expect("of Linux").default else {
            panic!("{name} has no default")
        };
        assert_eq!(default, linux, "{name} on Linux");
        let default = setting.device.expect("of the firmware").default;
        assert_eq!(default, device, "{name} of the firmware");
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}
