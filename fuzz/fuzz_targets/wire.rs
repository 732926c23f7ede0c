//! Any bytes as a command, whole and in pieces. The first byte picks the command, the next two the room for its
//! inputs and environment and the size of the pieces.
#![no_main]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use libfuzzer_sys::fuzz_target;
use proplet::wire::{
    Chunk, Data, Error, ID_MAX, Inbound, Invoke, List, Pairs, Parser, Rejected, Start, Stop,
    TASK_NAME_MAX, URL_MAX, is_object,
};
use serde_json::{Map, Value};
use std::time::Duration;

/// A command that was read, and the data that came with it.
struct Read {
    parser: Parser,
    packed: Vec<u8>,
    data: Option<Vec<u8>>,
}

fuzz_target!(|data: &[u8]| {
    let [command, room, size, payload @ ..] = data else {
        return;
    };
    let kind = match command % 4 {
        0 => Inbound::Start,
        1 => Inbound::Stop,
        2 => Inbound::Invoke,
        _ => Inbound::Chunk,
    };
    let room = letter(*room) * 8;
    let whole = Read::new(kind, payload, room, payload.len().max(1));
    let cut = Read::new(kind, payload, room, letter(*size).max(1));
    assert_eq!(
        whole.shown(kind),
        cut.shown(kind),
        "the pieces make a difference"
    );
    whole.check(kind, payload);
    if let Some(is_json) = is_json(payload) {
        // Deeper documents are refused that serde_json takes.
        assert!(is_json || !is_object(payload), "taken for an object");
    }
});

/// Letters and digits, as in a corpus of text, give small numbers.
fn letter(byte: u8) -> usize {
    usize::from(byte.saturating_sub(b'0'))
}

impl Read {
    fn new(kind: Inbound, payload: &[u8], room: usize, size: usize) -> Self {
        let mut read = Self {
            parser: Parser::new(kind),
            packed: vec![0xaa; room],
            data: None,
        };
        for piece in payload.chunks(size) {
            let (packed, data) = (&mut read.packed, &mut read.data);
            read.parser.feed(piece, packed, &mut |part| match part {
                Data::Begin(_) => *data = Some(Vec::new()),
                Data::Bytes(bytes) => data.as_mut().expect("they have begun").extend(bytes),
            });
        }
        read.parser.end();
        read
    }

    fn shown(&self, kind: Inbound) -> String {
        let command = match kind {
            Inbound::Start => format!("{:?}", self.parser.start(&self.packed)),
            Inbound::Stop => format!("{:?}", self.parser.stop()),
            Inbound::Invoke => format!("{:?}", self.parser.invoke(&self.packed)),
            Inbound::Chunk => format!("{:?}", self.parser.chunk()),
        };
        format!("{command} {:?}", self.data)
    }

    fn check(&self, kind: Inbound, payload: &[u8]) {
        match kind {
            Inbound::Start => {
                let start = self.parser.start(&self.packed);
                self.taken(payload, start, |start| {
                    check_start(start);
                    self.check_data(payload, "file", start.file.unwrap_or(Ok(0)));
                });
            }
            Inbound::Stop => self.taken(payload, self.parser.stop(), check_stop),
            Inbound::Invoke => {
                self.taken(payload, self.parser.invoke(&self.packed), check_invoke);
            }
            Inbound::Chunk => self.taken(payload, self.parser.chunk(), |chunk| {
                check_chunk(chunk);
                self.check_data(payload, "data", chunk.data);
            }),
        }
    }

    fn taken<T>(&self, payload: &[u8], read: Result<T, Rejected<'_>>, check: impl Fn(&T)) {
        match read {
            Ok(command) => {
                assert_ne!(is_json(payload), Some(false), "accepted what is no JSON");
                check(&command);
            }
            Err(rejected) => check_rejected(payload, &rejected),
        }
    }

    /// The data are those of the last field of this name.
    fn check_data(&self, payload: &[u8], name: &str, data: Result<usize, Error>) {
        let Ok(object) = serde_json::from_slice::<Map<String, Value>>(payload) else {
            return;
        };
        let text = object.get(name).and_then(Value::as_str).unwrap_or_default();
        let decoded = BASE64_STANDARD.decode(text.replace(['\r', '\n'], ""));
        assert_eq!(data.is_ok(), decoded.is_ok());
        if let (Ok(len @ 1..), Ok(decoded)) = (data, decoded) {
            assert_eq!((len, self.data.as_ref()), (decoded.len(), Some(&decoded)));
        }
    }
}

/// Whether `payload` is an object; `None` if it has a number that only serde_json finds out of range.
fn is_json(payload: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Map<String, Value>>(payload) {
        Err(error) if error.to_string().contains("out of range") => None,
        read => Some(read.is_ok()),
    }
}

fn check_rejected(payload: &[u8], rejected: &Rejected<'_>) {
    assert!(!rejected.error.to_string().is_empty());
    let id = rejected.id.map_or(1, str::len);
    assert!((1..=URL_MAX).contains(&id));
    check_id(rejected.invocation_id);
    check_id(rejected.proplet_id);
    let malformed = matches!(
        rejected.error,
        Error::Utf8 { .. } | Error::Surrogate { .. } | Error::Syntax { .. } | Error::NotObject
    );
    assert!(
        !malformed || is_json(payload) != Some(true),
        "refused JSON as malformed"
    );
}

fn check_id(id: Option<&str>) {
    assert!(id.is_none_or(|id| (1..=ID_MAX).contains(&id.len())));
}

fn check_packed(inputs: List<'_>, env: Pairs<'_>) {
    assert_eq!(List::from_bytes(inputs.as_bytes()), Some(inputs));
    assert_eq!(Pairs::from_bytes(env.as_bytes()), Some(env));
    for (key, _) in env.iter() {
        let last = env.iter().filter(|(other, _)| *other == key).last();
        assert_eq!(env.get(key), last.map(|(_, value)| value));
    }
}

fn check_start(start: &Start<'_>) {
    check_id(Some(start.id));
    check_id(start.proplet_id);
    assert!((1..=TASK_NAME_MAX).contains(&start.name.len()));
    let url = start.image_url.map_or(1, str::len);
    assert!((1..=URL_MAX).contains(&url));
    assert!(start.image_url.is_some() || start.file.is_some());
    assert!(start.entry().is_none_or(|entry| entry == start.name));
    let interval = start.monitoring_profile.interval;
    assert!((Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&interval));
    check_packed(start.inputs, start.env);
}

fn check_stop(stop: &Stop<'_>) {
    check_id(Some(stop.id));
    check_id(stop.proplet_id);
}

fn check_invoke(invoke: &Invoke<'_>) {
    check_id(Some(invoke.id));
    check_id(invoke.invocation_id);
    check_id(invoke.proplet_id);
    check_packed(invoke.inputs, invoke.env);
}

fn check_chunk(chunk: &Chunk<'_>) {
    assert!((1..=URL_MAX).contains(&chunk.app_name.len()));
    assert!(chunk.chunk_idx < chunk.total_chunks);
}
