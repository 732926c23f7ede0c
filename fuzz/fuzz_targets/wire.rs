//! Any bytes as a command. The first byte picks the command, the next two the room for it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proplet::wire::{
    Chunk, Error, ID_MAX, Invoke, List, NAME_MAX, Pairs, Rejected, Scratch, Start, Stop, URL_MAX,
    decode_chunks, decode_into, decoded_len,
};
use std::time::Duration;

fuzz_target!(|data: &[u8]| {
    let [command, packed, unescaped, payload @ ..] = data else {
        return;
    };
    let (mut packed, mut unescaped) = (room(*packed), room(*unescaped));
    let scratch = Scratch {
        packed: &mut packed,
        unescaped: &mut unescaped,
    };
    match command % 4 {
        0 => taken(payload, Start::parse(payload, scratch), check_start),
        1 => taken(payload, Stop::parse(payload, scratch), check_stop),
        2 => taken(payload, Invoke::parse(payload, scratch), check_invoke),
        _ => taken(payload, Chunk::parse(payload, scratch), check_chunk),
    }
});

/// Letters and digits, as in a corpus of text, give from nothing to a few hundred bytes.
fn room(byte: u8) -> Vec<u8> {
    vec![0xaa; usize::from(byte.saturating_sub(b'0')) * 8]
}

fn taken<T>(payload: &[u8], parsed: Result<T, Rejected<'_>>, check: fn(&T)) {
    match parsed {
        Ok(command) => {
            assert!(is_json(payload), "accepted what is no JSON");
            check(&command);
        }
        Err(rejected) => check_rejected(payload, &rejected),
    }
}

/// Whether `payload` is an object, but for numbers that only serde_json finds out of range.
fn is_json(payload: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(payload) {
        Ok(_) => true,
        Err(error) => error.to_string().contains("out of range"),
    }
}

fn check_rejected(payload: &[u8], rejected: &Rejected<'_>) {
    assert!(!rejected.error.to_string().is_empty());
    assert!(
        rejected
            .id
            .is_none_or(|id| (1..=URL_MAX).contains(&id.len()))
    );
    check_id(rejected.invocation_id);
    check_id(rejected.proplet_id);
    let malformed = matches!(
        rejected.error,
        Error::Utf8 { .. } | Error::Surrogate { .. } | Error::Syntax { .. } | Error::NotObject
    );
    if malformed {
        let json = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(payload);
        assert!(json.is_err(), "refused JSON as malformed");
    }
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

fn check_base64(text: &str) {
    let mut pieces = Vec::new();
    let streamed = decode_chunks(text, |piece| pieces.extend_from_slice(piece));
    let at_once = decoded_len(text).and_then(|len| {
        let mut buf = vec![0; len];
        assert_eq!(decode_into(text, &mut buf)?, len);
        Ok(buf)
    });
    assert_eq!(streamed.map(|()| pieces), at_once);
}

fn check_start(start: &Start<'_>) {
    check_id(Some(start.id));
    check_id(start.proplet_id);
    assert!((1..=NAME_MAX).contains(&start.name.len()));
    assert!(
        start
            .image_url
            .is_none_or(|url| (1..=URL_MAX).contains(&url.len()))
    );
    assert!(start.image_url.is_some() || start.file.is_some());
    assert!(start.entry().is_none_or(|entry| entry == start.name));
    let interval = start.monitoring_profile.interval;
    assert!((Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&interval));
    check_packed(start.inputs, start.env);
    check_base64(start.file.unwrap_or_default());
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
    check_base64(chunk.data);
}
