//! Commands against what Go and serde_json write.

extern crate std;

use super::*;
use crate::wire::json::tests::{any_object, pieces};
use ::base64::{Engine as _, prelude::BASE64_STANDARD};
use proptest::{collection, option, prelude::*, sample::select, test_runner::TestCaseError};
use serde_json::{Map, Value, json};
use std::{
    borrow::ToOwned, boxed::Box, collections::BTreeMap, format, string::String, string::ToString,
    vec, vec::Vec,
};

/// As the manager's `encoding/json` writes a start: fields in the struct's order, null `cli_args`.
const GO_START: &str = r#"{"id":"6c1f0a52-7a1d-4d1b-9a53-0f2b7c9d3e11","name":"add","state":0,"file":"AGFzbQEAAAA=","inputs":["1","-2"],"cli_args":null,"broadcast":false,"daemon":false,"latent":false,"env":{"A":"x\u003cy","B":"{\"lr\":0.1}"},"encrypted":false,"monitoring_profile":{"enabled":true,"interval":5000000000,"collect_cpu":true,"collect_memory":true,"collect_disk_io":false,"collect_threads":true,"collect_file_descriptors":false,"export_to_mqtt":true,"retain_history":false,"history_size":50},"proplet_id":"p1","parent_results":{"t0":"3","t1":{"x":[1.5,1e400,null,99999999999999999999]}}}"#;

const GO_STOP: &str = r#"{"broadcast":false,"id":"t1","proplet_id":"p1"}"#;

const GO_INVOKE: &str =
    r#"{"broadcast":false,"id":"t1","inputs":null,"invocation_id":"i1","proplet_id":"p1"}"#;

const GO_CHUNK: &str =
    r#"{"app_name":"reg.local/app:v1","chunk_idx":1,"total_chunks":2,"data":"AGFzbQ=="}"#;

/// Names that commands have a use for.
const FIELDS: &[&str] = &[
    "id",
    "id",
    "name",
    "name",
    "file",
    "data",
    "image_url",
    "app_name",
    "proplet_id",
    "invocation_id",
    "broadcast",
    "latent",
    "chunk_idx",
    "total_chunks",
    "inputs",
    "env",
    "monitoring_profile",
];

/// A command that was read, and the data that came with it.
#[derive(Debug)]
struct Read {
    parser: Parser,
    packed: Vec<u8>,
    data: Option<Vec<u8>>,
}

impl Read {
    /// Reads a command in these pieces.
    fn new<'p>(kind: Inbound, pieces: impl IntoIterator<Item = &'p [u8]>, room: usize) -> Self {
        let mut read = Self {
            parser: Parser::new(kind),
            packed: vec![0xaa; room],
            data: None,
        };
        for piece in pieces {
            let (packed, data) = (&mut read.packed, &mut read.data);
            read.parser.feed(piece, packed, &mut |part| match part {
                Data::Begin(_) => *data = Some(Vec::new()),
                Data::Bytes(bytes) => data.as_mut().unwrap().extend_from_slice(bytes),
            });
        }
        read.parser.end();
        read
    }

    /// All that it says.
    fn shown(&self, kind: Inbound) -> String {
        let command = match kind {
            Inbound::Start => format!("{:?}", self.parser.start(&self.packed)),
            Inbound::Stop => format!("{:?}", self.parser.stop()),
            Inbound::Invoke => format!("{:?}", self.parser.invoke(&self.packed)),
            Inbound::Chunk => format!("{:?}", self.parser.chunk()),
        };
        format!("{command} {:?}", self.data)
    }
}

/// Reads a command in pieces of `size` bytes.
fn read(kind: Inbound, payload: &[u8], room: usize, size: usize) -> &'static Read {
    Box::leak(Box::new(Read::new(kind, payload.chunks(size), room)))
}

/// The registry's proxy writes `data` last: so a piece can go where it belongs as it comes.
#[test]
fn the_place_of_a_piece_is_told_if_it_comes_before_the_data() {
    let place = Place {
        app_name: "app",
        chunk_idx: 1,
        total_chunks: 3,
    };
    for (payload, expected) in [
        (
            r#"{"app_name":"app","chunk_idx":1,"total_chunks":3,"data":"YQ=="}"#,
            Some(place),
        ),
        (
            r#"{"total_chunks":3,"x":[1],"chunk_idx":1,"app_name":"app","data":"YQ=="}"#,
            Some(place),
        ),
        (
            r#"{"app_name":"app","chunk_idx":1,"data":"YQ==","total_chunks":3}"#,
            None,
        ),
        (
            r#"{"data":"YQ==","app_name":"app","chunk_idx":1,"total_chunks":3}"#,
            None,
        ),
        (
            r#"{"app_name":"","chunk_idx":1,"total_chunks":3,"data":"YQ=="}"#,
            None,
        ),
        (
            r#"{"app_name":"app","chunk_idx":1,"total_chunks":3,"chunk_idx":null,"data":"YQ=="}"#,
            None,
        ),
    ] {
        for size in 1..payload.len() {
            let mut parser = Parser::new(Inbound::Chunk);
            let mut begun = 0;
            for piece in payload.as_bytes().chunks(size) {
                parser.feed(piece, &mut [], &mut |part| {
                    if let Data::Begin(place) = part {
                        assert_eq!(place, expected, "{payload}");
                        begun += 1;
                    }
                });
            }
            assert_eq!(begun, 1);
        }
    }
}

/// Reads a command at once and cut into pieces, which gives the same.
fn both(kind: Inbound, payload: &[u8], room: usize) -> &'static Read {
    let whole = read(kind, payload, room, payload.len().max(1));
    let size = 1 + payload.len() % 7;
    let cut = read(kind, payload, room, size);
    assert_eq!(whole.shown(kind), cut.shown(kind));
    whole
}

fn start_in(payload: &[u8], room: usize) -> Result<Start<'static>, Rejected<'static>> {
    let read = both(Inbound::Start, payload, room);
    read.parser.start(&read.packed)
}

/// Reading of a start, with room enough.
fn start<R>(
    payload: impl AsRef<[u8]>,
    look: impl FnOnce(Result<Start<'_>, Rejected<'_>>) -> R,
) -> R {
    look(start_in(payload.as_ref(), 4096))
}

fn read_stop(payload: impl AsRef<[u8]>) -> Result<Stop<'static>, Rejected<'static>> {
    both(Inbound::Stop, payload.as_ref(), 0).parser.stop()
}

fn read_invoke(payload: impl AsRef<[u8]>) -> Result<Invoke<'static>, Rejected<'static>> {
    let read = both(Inbound::Invoke, payload.as_ref(), 64);
    read.parser.invoke(&read.packed)
}

fn read_chunk(payload: impl AsRef<[u8]>) -> Result<Chunk<'static>, Rejected<'static>> {
    both(Inbound::Chunk, payload.as_ref(), 0).parser.chunk()
}

/// The decoded module of a start.
fn file(payload: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    both(Inbound::Start, payload.as_ref(), 4096).data.clone()
}

fn start_error(payload: impl AsRef<[u8]>) -> String {
    start(payload, |start| start.unwrap_err().error.to_string())
}

/// The least start, with one more member.
fn with(member: &str) -> String {
    format!(r#"{{"id":"t","name":"f","file":"AA==",{member}}}"#)
}

fn texts(list: List<'_>) -> Vec<&str> {
    list.iter().collect()
}

#[test]
fn start_as_go_writes_it() {
    start(GO_START, |start| {
        let start = start.unwrap();
        assert_eq!(start.id, "6c1f0a52-7a1d-4d1b-9a53-0f2b7c9d3e11");
        assert_eq!(start.name, "add");
        assert_eq!(start.entry(), Some("add"));
        assert_eq!(start.file, Some(Ok(8)));
        assert_eq!(file(GO_START).unwrap(), b"\0asm\x01\0\0\0");
        assert_eq!(start.image_url, None);
        assert_eq!(texts(start.inputs), ["1", "-2"]);
        assert_eq!(start.env.get("A"), Some("x<y"));
        assert_eq!(start.env.get("B"), Some(r#"{"lr":0.1}"#));
        assert!(!(start.broadcast || start.daemon || start.latent || start.encrypted));
        assert!(start.is_for("p1") && !start.is_for("p2"));
        assert_eq!(
            start.monitoring_profile,
            MonitoringProfile {
                interval: Duration::from_secs(5),
                collect_disk_io: false,
                collect_file_descriptors: false,
                retain_history: false,
                history_size: 50,
                ..MonitoringProfile::STANDARD
            }
        );
    });
}

#[test]
fn start_of_a_broadcast_latent_task() {
    let payload = r#"{"id":"t","name":"_start","state":0,"image_url":"reg.local/app:v1","cli_args":["--x"],"broadcast":true,"daemon":false,"latent":true,"encrypted":true}"#;
    start(payload, |start| {
        let start = start.unwrap();
        assert_eq!(start.image_url, Some("reg.local/app:v1"));
        assert!(start.file.is_none() && start.inputs.is_empty() && start.env.is_empty());
        assert!(start.broadcast && start.latent && start.encrypted && !start.daemon);
        assert!(start.is_for("anyone"));
        assert_eq!(start.entry(), Some("_start"));
        assert_eq!(start.monitoring_profile, MonitoringProfile::STANDARD);
    });
}

#[test]
fn default_entries() {
    for (name, entry) in [
        ("_start", Some("_start")),
        ("fl-round-7-p1", None),
        ("fl-round-", None),
        ("main", Some("main")),
        ("fl-rounds", Some("fl-rounds")),
    ] {
        let payload = format!(r#"{{"id":"t","name":"{name}","file":"AA=="}}"#);
        start(payload, |start| assert_eq!(start.unwrap().entry(), entry));
    }
}

#[test]
fn stop_as_go_writes_it() {
    let stop = read_stop(GO_STOP).unwrap();
    assert_eq!((stop.id, stop.proplet_id), ("t1", Some("p1")));
    assert!(stop.is_for("p1") && !stop.is_for("p2"));

    for (payload, mine) in [
        (r#"{"id":"t1"}"#, true),
        (r#"{"id":"t1","proplet_id":null,"broadcast":null}"#, true),
        (r#"{"id":"t1","proplet_id":""}"#, true),
        (r#"{"broadcast":true,"id":"t1","proplet_id":"p2"}"#, true),
        (r#"{"id":"t1","proplet_id":"p2"}"#, false),
        // Fields of other commands are as unknown as any.
        (r#"{"id":"t1","name":7,"inputs":{},"env":[]}"#, true),
    ] {
        let stop = read_stop(payload).unwrap();
        assert_eq!(stop.is_for("p1"), mine, "{payload}");
    }
    let rejected = read_stop(br#"{"id":""}"#).unwrap_err();
    assert_eq!(rejected.error, Error::Missing("id"));
}

#[test]
fn invoke_as_go_writes_it() {
    let invoke = read_invoke(GO_INVOKE).unwrap();
    assert_eq!((invoke.id, invoke.invocation_id), ("t1", Some("i1")));
    assert!(invoke.inputs.is_empty() && invoke.env.is_empty());
    assert!(invoke.is_for("p1") && !invoke.is_for("p2"));

    let payload = br#"{"broadcast":false,"env":{"K":"v"},"id":"t1","inputs":["1",2,3.5e1],"proplet_id":"p1"}"#;
    let invoke = read_invoke(payload).unwrap();
    assert_eq!(invoke.invocation_id, None);
    assert_eq!(texts(invoke.inputs), ["1", "2", "3.5e1"]);
    assert_eq!(invoke.env.get("K"), Some("v"));
}

#[test]
fn rejected_invoke_names_the_invocation() {
    let payload = br#"{"env":7,"id":"t1","invocation_id":"i1","proplet_id":"p1"}"#;
    let rejected = read_invoke(payload).unwrap_err();
    assert_eq!(
        (rejected.id, rejected.invocation_id),
        (Some("t1"), Some("i1"))
    );
    assert!(rejected.is_for("p1") && !rejected.is_for("p2"));
    assert_eq!(
        rejected.error.to_string(),
        r#"field "env": expected an object of strings, found a number"#
    );
}

#[test]
fn chunk_as_go_writes_it() {
    let chunk = read_chunk(GO_CHUNK).unwrap();
    let Chunk {
        app_name,
        chunk_idx,
        total_chunks,
        data,
    } = chunk;
    assert_eq!(
        (app_name, chunk_idx, total_chunks, data),
        ("reg.local/app:v1", 1, 2, Ok(4))
    );
}

#[test]
fn chunk_numbers_are_in_range() {
    for (chunk_idx, total, error) in [
        ("2", "2", "chunk_idx 2 is not below total_chunks 2"),
        ("0", "0", "chunk_idx 0 is not below total_chunks 0"),
        ("null", "1", "chunk_idx is missing"),
        ("0", "null", "total_chunks is missing"),
        (
            "-1",
            "1",
            r#"field "chunk_idx": expected an integer from 0 to 4294967295, found another number"#,
        ),
        (
            "0",
            "4294967296",
            r#"field "total_chunks": expected an integer from 0 to 4294967295, found another number"#,
        ),
        (
            "0.0",
            "1",
            r#"field "chunk_idx": expected an integer from 0 to 4294967295, found another number"#,
        ),
        (
            "\"0\"",
            "1",
            r#"field "chunk_idx": expected an integer from 0 to 4294967295, found a string"#,
        ),
    ] {
        let payload = format!(
            r#"{{"app_name":"a","chunk_idx":{chunk_idx},"total_chunks":{total},"data":""}}"#
        );
        let rejected = read_chunk(payload).unwrap_err();
        assert_eq!(rejected.error.to_string(), error);
        assert_eq!(rejected.id, Some("a"));
    }
}

#[test]
fn chunk_without_data_is_empty() {
    for data in [r#","data":null"#, "", r#","data":"""#] {
        let payload = format!(r#"{{"app_name":"a","chunk_idx":0,"total_chunks":1{data}}}"#);
        let chunk = read_chunk(payload).unwrap();
        assert_eq!(chunk.data, Ok(0));
    }
}

#[test]
fn null_is_absent() {
    for field in Start::FIELDS {
        let members: Vec<_> = [("id", "\"t\""), ("name", "\"f\""), ("file", "\"AA==\"")]
            .iter()
            .filter(|(name, _)| *name != field.name())
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .chain([format!("\"{}\":null", field.name())])
            .collect();
        let payload = format!("{{{}}}", members.join(","));
        start(&payload, |start| match field {
            Field::Id => assert_eq!(start.unwrap_err().error, Error::Missing("id")),
            Field::Name => assert_eq!(start.unwrap_err().error, Error::Missing("name")),
            Field::File => assert_eq!(start.unwrap_err().error, Error::NoModule),
            _ => assert!(start.is_ok(), "{payload}"),
        });
    }
}

#[test]
fn every_wrong_type_is_told_and_the_rest_is_read() {
    let values = [
        ("\"s\"", "a string"),
        ("1.5", "a number"),
        ("true", "a boolean"),
        (r#"{"a":[{}]}"#, "an object"),
        (r#"[[{"id":"no"}]]"#, "an array"),
    ];
    for field in Start::FIELDS {
        let right = match field.kind() {
            Kind::Text | Kind::Data => 0,
            Kind::Flag(_) => 2,
            Kind::Env | Kind::Profile => 3,
            _ => 4,
        };
        for (index, (value, found)) in values.iter().enumerate() {
            if index == right {
                continue;
            }
            let name = field.name();
            let payload =
                format!(r#"{{"{name}":{value},"x":{value},"id":"t","name":"f","proplet_id":"p"}}"#);
            start(&payload, |start| {
                let rejected = start.unwrap_err();
                assert_eq!(
                    rejected.error.to_string(),
                    format!(
                        r#"field "{name}": expected {}, found {found}"#,
                        field.kind().describe()
                    )
                );
                assert_eq!(rejected.id, Some("t"), "{payload}");
                assert!(rejected.is_for("p"));
                assert!(!rejected.is_for("q"));
            });
        }
    }
}

#[test]
fn wrong_types_inside() {
    for (member, error) in [
        (
            r#""inputs":["1",{"a":[]},[],"2"]"#,
            r#"field "inputs": expected strings in its array, found an object"#,
        ),
        (
            r#""inputs":[null]"#,
            r#"field "inputs": expected strings in its array, found null"#,
        ),
        (
            r#""inputs":[true]"#,
            r#"field "inputs": expected strings in its array, found a boolean"#,
        ),
        (
            r#""env":{"a":["b"],"c":"d"}"#,
            r#"field "env": expected strings as its values, found an array"#,
        ),
        (
            r#""monitoring_profile":{"enabled":1}"#,
            r#"field "monitoring_profile": expected a boolean for each of its switches, found a number"#,
        ),
        (
            r#""monitoring_profile":{"interval":"10s"}"#,
            r#"field "monitoring_profile": expected an integer as its interval, found a string"#,
        ),
        (
            r#""monitoring_profile":{"interval":1.5}"#,
            r#"field "monitoring_profile": expected an integer as its interval, found a number"#,
        ),
        (
            r#""monitoring_profile":{"history_size":[{}]}"#,
            r#"field "monitoring_profile": expected an integer from 0 as its history_size, found an array"#,
        ),
    ] {
        assert_eq!(start_error(with(member)), error);
    }
}

#[test]
fn scalars_in_env_are_kept_as_text() {
    let payload = with(r#""env":{"n":-1.50e3,"b":true,"c":false,"z":null,"s":"","n2":1e400}"#);
    start(payload, |start| {
        let env = start.unwrap().env;
        let pairs: Vec<_> = env.iter().collect();
        assert_eq!(
            pairs,
            [
                ("n", "-1.50e3"),
                ("b", "true"),
                ("c", "false"),
                ("s", ""),
                ("n2", "1e400")
            ]
        );
    });
}

#[test]
fn required_fields() {
    for (payload, error) in [
        ("{}", "id is missing"),
        (r#"{"id":"t"}"#, "name is missing"),
        (r#"{"id":"t","name":""}"#, "name is missing"),
        (
            r#"{"id":"t","name":"f"}"#,
            "file and image_url are both missing",
        ),
        (
            r#"{"id":"t","name":"f","file":"","image_url":""}"#,
            "file and image_url are both missing",
        ),
    ] {
        assert_eq!(start_error(payload), error);
    }
}

#[test]
fn texts_are_bounded() {
    for (field, limit) in [
        ("id", ID_MAX),
        ("proplet_id", ID_MAX),
        ("image_url", URL_MAX),
        ("name", TASK_NAME_MAX),
    ] {
        let fits = with(&format!(r#""{field}":"{}""#, "x".repeat(limit)));
        start(fits, |start| assert!(start.is_ok()));
        let long = with(&format!(r#""{field}":"{}x""#, "x".repeat(limit)));
        start(long, |start| {
            let rejected = start.unwrap_err();
            assert_eq!(
                rejected.error.to_string(),
                format!("{field} is longer than {limit} bytes")
            );
            // An id that was cut would be another's.
            assert_eq!(rejected.id, (field != "id").then_some("t"));
            // Nor is the message everyone's because its addressee can't be read.
            assert_eq!(rejected.is_for("p"), field != "proplet_id");
        });
    }
}

#[test]
fn the_last_of_equal_keys_counts() {
    let payload = with(
        r#""id":"u","inputs":["1"],"inputs":["2","3"],"env":{"a":"1","a":"2"},"daemon":true,"daemon":false,"proplet_id":"p","proplet_id":null"#,
    );
    start(payload, |start| {
        let start = start.unwrap();
        assert_eq!(start.id, "u");
        assert_eq!(texts(start.inputs), ["2", "3"]);
        assert_eq!(start.env.get("a"), Some("2"));
        assert!(!start.daemon);
        assert_eq!(start.proplet_id, None);
    });
}

#[test]
fn intervals() {
    let interval = |text: &str, daemon: bool| {
        let payload = with(&format!(
            r#""daemon":{daemon},"monitoring_profile":{{"interval":{text}}}"#
        ));
        start(payload, |start| start.unwrap().monitoring_profile.interval)
    };
    for (text, expected) in [
        ("10000000000", Duration::from_secs(10)),
        ("2500000000", Duration::from_millis(2500)),
        ("1000000", Duration::from_secs(1)),
        ("999999", Duration::from_secs(3600)),
        ("30", Duration::from_secs(30)),
        ("1", Duration::from_secs(1)),
        ("9223372036854775807", Duration::from_secs(3600)),
        ("0", Duration::from_secs(10)),
        ("-5", Duration::from_secs(10)),
        ("null", Duration::from_secs(10)),
    ] {
        assert_eq!(interval(text, false), expected, "{text}");
    }
    assert_eq!(interval("0", true), Duration::from_secs(120));
}

#[test]
fn profiles_are_filled_up() {
    let profile = |members: &str| start(with(members), |start| start.unwrap().monitoring_profile);
    assert_eq!(profile(r#""x":1"#), MonitoringProfile::STANDARD);
    assert_eq!(profile(r#""daemon":true"#), MonitoringProfile::DAEMON);
    assert_eq!(
        profile(
            r#""monitoring_profile":{"enabled":false,"x":{"enabled":[]},"y":[]},"daemon":true"#
        ),
        MonitoringProfile {
            enabled: false,
            ..MonitoringProfile::DAEMON
        }
    );
    assert_eq!(
        profile(r#""monitoring_profile":{"history_size":99999999999}"#).history_size,
        u32::MAX
    );
}

#[test]
fn numbers_of_any_size_may_be_ignored() {
    for number in [
        "1e400",
        "-1E-400",
        "99999999999999999999",
        "-0",
        "-0.0e+0",
        "1.5",
        &"9".repeat(2000),
    ] {
        let payload = with(&format!(
            r#""x":{number},"state":{number},"y":[{number},{{"z":{number}}}]"#
        ));
        start(payload, |start| assert!(start.is_ok(), "{number}"));
    }
}

#[test]
fn escapes_are_resolved() {
    let payload = r#"{"i\u0064":"\u0074\"\\\/\b\f\n\r\t","name":"f\ud83d\ude00\u00e4\u20ac","file":"\/\/\/\/","inputs":["\ud834\udd1e","\\u0041"],"env":{"\"k\"":"\n"}}"#;
    start(payload, |start| {
        let start = start.unwrap();
        assert_eq!(start.id, "t\"\\/\u{8}\u{c}\n\r\t");
        assert_eq!(start.name, "f😀ä€");
        assert_eq!(start.file, Some(Ok(3)));
        assert_eq!(texts(start.inputs), ["𝄞", "\\u0041"]);
        assert_eq!(start.env.get("\"k\""), Some("\n"));
    });
}

#[test]
fn lone_surrogates_are_refused_where_they_are() {
    for text in [
        r"\ud800",
        r"\udc00",
        r"\ud800\ud800",
        r"\ud800x\udc00",
        r"\ud800\n\udc00",
        r"\ud800\\udc00",
        r"\uDBFF\uE000",
        r"\ud83d\ude00\ude00",
    ] {
        let payload = format!(r#"{{"id":"t","broadcast":true,"x":"{text}","name":"f"}}"#);
        start(&payload, |start| {
            let rejected = start.unwrap_err();
            assert!(matches!(rejected.error, Error::Surrogate { .. }), "{text}");
            assert_eq!(rejected.id, Some("t"));
            assert!(rejected.broadcast);
        });
    }
    // An escaped backslash begins no escape.
    start(with(r#""x":"\\ud800""#), |start| assert!(start.is_ok()));
}

#[test]
fn bad_encoding_is_refused_where_it_is() {
    start(b"{\"id\":\"t\",\"name\":\"\xff\"}", |start| {
        let rejected = start.unwrap_err();
        assert_eq!(rejected.error, Error::Utf8 { at: 18 });
        assert_eq!(rejected.id, Some("t"));
    });
    start(b"{\"id\":\"t\"}\xff", |start| {
        assert_eq!(start.unwrap_err().error, Error::Utf8 { at: 10 });
    });
}

#[test]
fn only_whole_objects_are_taken() {
    for payload in ["[]", "\"t\"", "1", "-1.5 ", "true", "null", " [1] "] {
        assert_eq!(start_error(payload), "expected a JSON object");
    }
    let whole = with(r#""x":[]"#);
    start(format!(" \t\r\n{whole} \t\r\n"), |start| {
        assert!(start.is_ok())
    });
    for payload in [
        format!("{whole}x"),
        format!("{whole}{{}}"),
        format!("{whole},"),
        format!("{whole}\0"),
        format!("\u{feff}{whole}"),
        String::new(),
        " ".to_owned(),
    ] {
        assert!(
            start_error(&payload).starts_with("JSON is malformed or cut short"),
            "{payload}"
        );
    }
}

#[test]
fn malformed_documents() {
    for member in [
        r#""x":"#,
        r#""x""#,
        r#""x":,"#,
        r#""x" 1"#,
        r#""x":1,"#,
        r#""x":[1,]"#,
        r#""x":[,]"#,
        r#""x":{,}"#,
        r#""x":{"y":1,}"#,
        r#""x":01"#,
        r#""x":1."#,
        r#""x":.5"#,
        r#""x":+1"#,
        r#""x":1e"#,
        r#""x":-"#,
        r#""x":NaN"#,
        r#""x":tru"#,
        r#""x":True"#,
        r#""x":nul"#,
        r#""x":'y'"#,
        r#"x:1"#,
        r#""x":"\x41""#,
        r#""x":"\u12g4""#,
        r#""x":"\u+123""#,
        "\"x\":\"a\nb\"",
        r#""x":1 2"#,
        r#""x":[1 2]"#,
        r#""x":[1}"#,
        r#""x":{"y":1]"#,
        r#""x":[{]}"#,
        r#""x":1]"#,
        r#""x":["a"}"#,
        r#""x":[true}"#,
        r#""x":{"y":null]"#,
        r#""x":0x10"#,
        r#""x":1]["#,
        "//\n\"x\":1",
    ] {
        let error = start_error(with(member));
        assert!(error.starts_with("JSON is malformed"), "{member}: {error}");
    }
}

/// The image reference lies where a chunk has what it is known by.
#[test]
fn a_start_is_known_by_its_id_alone() {
    let long = "i".repeat(ID_MAX + 1);
    for payload in [
        r#"{"name":"f","image_url":"x"}"#.to_owned(),
        format!(r#"{{"id":"{long}","name":"f","image_url":"x"}}"#),
        r#"{"id":5,"name":"f","image_url":"x"}"#.to_owned(),
    ] {
        start(payload, |start| assert_eq!(start.unwrap_err().id, None));
    }
    let rejected = read_chunk(r#"{"app_name":"x","chunk_idx":1,"total_chunks":1}"#);
    assert_eq!(rejected.unwrap_err().id, Some("x"));
}

#[test]
fn errors_of_syntax_tell_what_was_read() {
    start(r#"{"id":"t","name":7,"proplet_id":"p","x":}"#, |start| {
        let rejected = start.unwrap_err();
        assert_eq!(rejected.error, Error::Syntax { after: 38 });
        assert!(rejected.is_for("p") && !rejected.is_for("q"));
    });
    start(r#"{"id":"t","latent":true,"x":}"#, |start| {
        let rejected = start.unwrap_err();
        assert_eq!((rejected.id, rejected.latent), (Some("t"), true));
        // The part that may name another proplet wasn't read.
        assert!(!rejected.is_for("p"));
    });
}

#[test]
fn depth_is_bounded() {
    let nested = |open: &str, close: &str, levels: usize| {
        with(&format!(
            "\"x\":{}1{}",
            open.repeat(levels),
            close.repeat(levels)
        ))
    };
    // The document itself is a level.
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        start(nested(open, close, 31), |start| assert!(start.is_ok()));
        for levels in [32, 33, 64, 254, 255, 256, 257, 100_000] {
            assert_eq!(
                start_error(nested(open, close, levels)),
                "JSON is nested deeper than 32 levels"
            );
        }
    }
    start(nested("{\"a\":[", "]}", 15), |start| assert!(start.is_ok()));
    assert_eq!(
        start_error(with(&format!("\"x\":{}", "{\"a\":[".repeat(100_000)))),
        "JSON is nested deeper than 32 levels"
    );
}

#[test]
fn brackets_match_at_any_depth() {
    for levels in 1..=40 {
        for wrong in 0..levels {
            let mut close = vec!["]"; levels];
            close[wrong] = "}";
            let payload = with(&format!(
                "\"x\":{}\"\"{}",
                "[".repeat(levels),
                close.concat()
            ));
            start(payload, |start| assert!(start.is_err()));
            let mut close = vec!["}"; levels];
            close[wrong] = "]";
            let payload = with(&format!(
                "\"x\":{}0{}",
                "{\"a\":".repeat(levels),
                close.concat()
            ));
            start(payload, |start| assert!(start.is_err()));
        }
    }
}

#[test]
fn no_part_of_a_start_is_a_start() {
    for len in 0..GO_START.len() {
        start(&GO_START[..len], |start| {
            let rejected = start.unwrap_err();
            assert!(matches!(rejected.error, Error::Syntax { after } if after <= len));
            assert!(rejected.id.is_none_or(|id| GO_START.contains(id)));
            assert!(!rejected.is_for("q"));
        });
    }
}

#[test]
fn packed_is_bounded() {
    let payload = with(r#""inputs":["12","34"],"env":{"k":"v"}"#);
    for size in 0..14 {
        let rejected = start_in(payload.as_bytes(), size).unwrap_err();
        assert_eq!(
            rejected.error.to_string(),
            format!("inputs and env take more than {size} bytes")
        );
        assert_eq!(rejected.id, Some("t"));
    }
    assert!(start_in(payload.as_bytes(), 14).is_ok());
}

/// Members of no use take no room, whatever their length.
#[test]
fn texts_of_no_use_are_passed_over() {
    let long = r"\n\ud83d\ude00".repeat(20_000);
    for member in [
        format!(r#""x":"{long}""#),
        format!(r#""x":["{long}","{long}",{{"{long}":"{long}"}}]"#),
        format!(r#""x":{{"{long}":{{"{long}":1}}}}"#),
        format!(r#""monitoring_profile":{{"x":"{long}","y":1,"{long}":[]}}"#),
        format!(r#""{long}":1"#),
        format!(r#""{long}":[{{"id":"no"}}]"#),
    ] {
        assert!(start_in(with(&member).as_bytes(), 0).is_ok());
    }
    for member in [
        format!(r#""name":"{long}""#),
        format!(r#""proplet_id":"{long}""#),
        format!(r#""inputs":["{long}"]"#),
        format!(r#""env":{{"k":"{long}","l":"m"}}"#),
        format!(r#""env":{{"{long}":"v"}}"#),
        format!(r#""daemon":"{long}""#),
    ] {
        let rejected = start_in(with(&member).as_bytes(), 16).unwrap_err();
        assert_eq!(rejected.id, Some("t"));
    }
}

#[test]
fn a_hundred_thousand_keys() {
    let keys: Vec<_> = (0..100_000).map(|n| format!("\"k{n}\":{n}")).collect();
    let same = vec![r#""inputs":["a","b"],"name":"g""#; 50_000];
    for members in [keys.join(","), same.join(",")] {
        start(with(&members), |start| assert!(start.is_ok()));
    }
}

#[test]
fn modules_are_decoded_as_they_come() {
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n / 7) as u8).collect();
    let text = BASE64_STANDARD.encode(&bytes);
    let escaped = text.replace('/', r"\/").replace("AAAA", r"\u0041AAA");
    let lines: Vec<_> = text.as_bytes().chunks(76).collect();
    let lines: Vec<_> = lines
        .iter()
        .map(|line| core::str::from_utf8(line).unwrap())
        .collect();
    for file_text in [&text, &escaped, &lines.join(r"\n"), &lines.join(r"\r\n")] {
        let payload = format!(r#"{{"id":"t","name":"f","file":"AAAA","file":"{file_text}"}}"#);
        start(&payload, |start| {
            assert_eq!(start.unwrap().file, Some(Ok(bytes.len())));
        });
        assert!(file(&payload).unwrap() == bytes, "{}", file_text.len());
    }
}

#[test]
fn base64_that_is_none_is_told_and_the_rest_is_read() {
    let long = "QUJD".repeat(1000);
    for text in [
        "QQ",
        "QQ=",
        "QQ===",
        "QR==",
        "Q===",
        "====",
        "=",
        "QUJ_",
        "QU JD",
        "QQ==QUJD",
        &format!("{long}QQ==QUJD"),
        &format!("{long}Q"),
        &format!("{long}="),
        r"\u00c4===",
    ] {
        let payload = format!(r#"{{"file":"{text}","id":"t","name":"f"}}"#);
        start(payload, |start| {
            let start = start.unwrap();
            assert_eq!(
                (start.id, start.file),
                ("t", Some(Err(Error::Base64))),
                "{text}"
            );
        });
    }
    // As for any other, null makes it absent.
    start(
        r#"{"file":"Q","id":"t","name":"f","file":null,"image_url":"u"}"#,
        |start| {
            assert_eq!(start.unwrap().file, None);
        },
    );
}

#[test]
fn rejections_are_small() {
    // They are moved up the stack by value.
    assert!(size_of::<Rejected<'_>>() <= 128);
}

/// JSON of any kind, with the edges of each.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A start that is to be accepted, with fields that are to be ignored.
fn any_start() -> impl Strategy<Value = Value> {
    let fields = (
        ".{1,16}",
        ".{1,16}",
        option::of(".{1,64}"),
        "[A-Za-z0-9+/]{1,64}",
        collection::vec(any::<String>(), 0..5),
        collection::btree_map(any::<String>(), any::<String>(), 0..5),
        any::<[bool; 4]>(),
        collection::btree_map("x.{0,8}", any_json(), 0..4),
    );
    fields.prop_map(|(id, name, image_url, file, inputs, env, flags, others)| {
        let mut start: Map<String, Value> = others.into_iter().collect();
        let [broadcast, daemon, latent, encrypted] = flags;
        let known = json!({
            "id": id, "name": name, "image_url": image_url, "file": file, "inputs": inputs,
            "env": env, "broadcast": broadcast, "daemon": daemon, "latent": latent,
            "encrypted": encrypted, "proplet_id": "p",
        });
        start.extend(known.as_object().unwrap().clone());
        Value::Object(start)
    })
}

/// Whether `start` says what `value` does.
fn assert_says(start: &Start<'_>, value: &Value) -> Result<(), TestCaseError> {
    prop_assert_eq!(Some(start.id), value["id"].as_str());
    prop_assert_eq!(Some(start.name), value["name"].as_str());
    prop_assert_eq!(start.image_url, value["image_url"].as_str());
    prop_assert_eq!(json!(texts(start.inputs)), value["inputs"].clone());
    let env: BTreeMap<_, _> = start.env.iter().collect();
    prop_assert_eq!(json!(env), value["env"].clone());
    for (flag, name) in [
        (start.broadcast, "broadcast"),
        (start.daemon, "daemon"),
        (start.latent, "latent"),
        (start.encrypted, "encrypted"),
    ] {
        prop_assert_eq!(Some(flag), value[name].as_bool());
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes(payload: Vec<u8>, size in 0usize..64) {
        let _ = start_in(&payload, size);
        let _ = read_chunk(&payload);
    }

    /// A message that is taken is JSON to serde_json, too, and one that is malformed is not.
    #[test]
    fn any_text_of_json_s_alphabet(
        tokens in collection::vec(
            select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "d83d", "de00", "\"id\"", "\"x\"",
                "1", "-", ".", "e", "0", "true", "null", " ", "\"\"", "\"x\":", "\"id\":\"t\"",
            ]),
            0..24,
        ),
        closed: bool,
    ) {
        let mut payload = tokens.concat();
        if closed {
            payload = format!("{{{payload}}}");
        }
        let stop = read_stop(&payload);
        let oracle = match serde_json::from_str::<Map<String, Value>>(&payload) {
            // It has read no further.
            Err(error) if error.to_string().contains("out of range") => return Ok(()),
            oracle => oracle.is_ok(),
        };
        let malformed = matches!(
            stop.map_err(|rejected| rejected.error),
            Err(Error::Syntax { .. } | Error::Surrogate { .. } | Error::NotObject)
        );
        prop_assert_eq!(malformed, !oracle, "{}", payload);
    }

    #[test]
    fn any_start_is_read_as_serde_json_does(value in any_start(), pretty: bool) {
        let payload = if pretty {
            serde_json::to_string_pretty(&value).unwrap()
        } else {
            value.to_string()
        };
        start(&payload, |start| assert_says(&start.unwrap(), &value))?;
    }

    /// Whatever is in it, and in whatever pieces it comes: all that is read of an object is what is read of the
    /// whole, and of a start that is taken it is what serde_json reads.
    #[test]
    fn any_object_in_any_pieces_is_the_same_command(
        document in any_object(FIELDS),
        style: Vec<u8>,
        sizes in collection::vec(1usize..9, 1..6),
        room in select(vec![0, 16, 4096]),
    ) {
        let bytes = document.write(&style);
        for kind in [Inbound::Start, Inbound::Stop, Inbound::Invoke, Inbound::Chunk] {
            let whole = Read::new(kind, [&bytes[..]], room).shown(kind);
            for at in 0..=bytes.len() {
                let (head, tail) = bytes.split_at(at);
                let cut = Read::new(kind, [head, tail], room).shown(kind);
                prop_assert_eq!(&cut, &whole, "cut at {}", at);
            }
            prop_assert_eq!(&Read::new(kind, bytes.chunks(1), room).shown(kind), &whole);
            let cut = Read::new(kind, pieces(&bytes, &sizes), room).shown(kind);
            prop_assert_eq!(&cut, &whole);
        }
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let read = Read::new(Inbound::Start, [&bytes[..]], room);
        if let Ok(start) = read.parser.start(&read.packed) {
            prop_assert_eq!(Some(start.id), value["id"].as_str());
            prop_assert_eq!(Some(start.name), value["name"].as_str());
            let file = value["file"].as_str().filter(|file| !file.is_empty());
            prop_assert_eq!(start.file.is_some(), file.is_some());
            if let Some(Ok(len)) = start.file {
                let file = BASE64_STANDARD.decode(file.unwrap_or_default().replace(['\r', '\n'], ""));
                prop_assert_eq!(read.data.as_ref(), file.as_ref().ok());
                prop_assert_eq!(read.data.map(|data| data.len()), Some(len));
            }
        }
    }

    /// Escapes that serde_json wouldn't write.
    #[test]
    fn any_string_is_read_escaped(text in ".{1,16}") {
        let mut escaped = String::new();
        for unit in text.encode_utf16() {
            escaped += &format!("\\u{unit:04X}");
        }
        start(with(&format!(r#""name":"{escaped}""#)), |start| {
            prop_assert_eq!(start.unwrap().name, text);
            Ok(())
        })?;
    }

    /// With little room, a message is read right or refused, never read wrong.
    #[test]
    fn any_start_with_little_room(value in any_start(), room in 0usize..64) {
        match start_in(value.to_string().as_bytes(), room) {
            Ok(start) => assert_says(&start, &value)?,
            Err(rejected) => {
                prop_assert!(matches!(rejected.error, Error::Packed { .. }), "{}", rejected.error);
                prop_assert!(rejected.id.is_none_or(|id| Some(id) == value["id"].as_str()));
            }
        }
    }
}
