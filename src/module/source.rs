//! Where a module's bytes come from: inline, in chunks from the registry, or over HTTP.
//!
//! All end in one buffer of the arena, in which the module is verified and then parsed.

use crate::{
    engine::{Engine, Text, clip, text},
    module::{
        chunks::Chunks,
        hex::{from_hex, to_hex},
        stream::Stream,
        table::Digest,
    },
    time::Instant,
    wire::{Chunk, URL_MAX, decode_into, decoded_len},
};
use core::ops::DerefMut;
use heapless::String;

/// Digits of a digest that an error shows.
const SHOWN: usize = 16;

/// An image reference: where the module is, and which it must be.
///
/// `location`, or `location@sha256:<hex>`, or `location#sha256=<hex>`. The digest is that of the
/// module's bytes, which for an OCI image is that of its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// A URL, or what the registry's proxy is asked for.
    pub location: &'a str,
    /// SHA-256 of the module.
    pub digest: Option<Digest>,
}

impl<'a> Reference<'a> {
    /// Takes a reference apart.
    ///
    /// # Errors
    /// What is wrong with its digest.
    pub fn parse(reference: &'a str) -> Result<Self, Text> {
        for mark in ["@sha256:", "#sha256="] {
            if let Some((location, hex)) = reference.rsplit_once(mark) {
                let digest = from_hex(hex).ok_or_else(|| {
                    text(format_args!(
                        "digest '{}': expected 64 hexadecimal digits behind {mark}",
                        clip(hex, 72)
                    ))
                })?;
                return Ok(Self {
                    location,
                    digest: Some(digest),
                });
            }
        }
        Ok(Self {
            location: reference,
            digest: None,
        })
    }

    /// Whether the location is to be fetched over HTTP.
    pub fn is_http(&self) -> bool {
        is_http(self.location)
    }
}

fn is_http(location: &str) -> bool {
    let scheme = location.split_once("://").map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// Refuses a module that is not the one that was asked for.
///
/// # Errors
/// The start of both digests.
pub fn check(expected: Option<&Digest>, found: &Digest) -> Result<(), Text> {
    match expected {
        Some(expected) if expected != found => Err(text(format_args!(
            "digest mismatch: expected sha256:{}…, found sha256:{}…",
            &to_hex(expected)[..SHOWN],
            &to_hex(found)[..SHOWN]
        ))),
        _ => Ok(()),
    }
}

/// A piece of a module, as its source delivers it.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    /// One of the registry's chunks.
    Chunk(&'a Chunk<'a>),
    /// A response begins; its length, if the server says.
    Length(Option<usize>),
    /// The next bytes of a response.
    Bytes(&'a [u8]),
    /// The response is complete.
    End,
}

/// A module that is on its way, by its source.
#[expect(
    clippy::large_enum_variant,
    reason = "it lies in storage that has room for either"
)]
#[derive(Debug)]
enum Source<B> {
    Registry(Chunks<B>),
    Http(Stream<B>),
}

/// Storage of one module that is on its way.
#[derive(Debug)]
pub struct Fetch<B> {
    /// What the starts said.
    reference: String<URL_MAX>,
    /// Bytes of the reference that are its location.
    location: usize,
    source: Option<Source<B>>,
    digest: Option<Digest>,
    began: Instant,
    /// Whether the registry or the server is to be asked for it, first or again.
    pub(crate) request_due: bool,
}

impl<B: DerefMut<Target = [u8]>> Fetch<B> {
    /// A vacant one.
    pub const VACANT: Self = Self {
        reference: String::new(),
        location: 0,
        source: None,
        digest: None,
        began: Instant::BOOT,
        request_due: false,
    };

    /// Begins to wait for the module of `reference`, of at most `limit` bytes.
    ///
    /// # Errors
    /// The limit, if the reference is longer than [`URL_MAX`]; what is wrong with its digest.
    pub fn begin(reference: &str, limit: usize, now: Instant) -> Result<Self, Text> {
        let parts = Reference::parse(reference)?;
        Ok(Self {
            reference: String::try_from(reference).map_err(|_| {
                text(format_args!(
                    "image reference of {} bytes is longer than {URL_MAX}",
                    reference.len()
                ))
            })?,
            location: parts.location.len(),
            source: Some(match parts.is_http() {
                true => Source::Http(Stream::new("module", limit)),
                false => Source::Registry(Chunks::new(limit)),
            }),
            digest: parts.digest,
            began: now,
            request_due: true,
        })
    }

    /// Whether it is vacant.
    pub const fn is_vacant(&self) -> bool {
        self.source.is_none()
    }

    /// The reference as the starts said it.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The reference without its digest.
    pub fn location(&self) -> &str {
        &self.reference[..self.location]
    }

    /// What the module must be.
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// When it began.
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// Whether it comes in chunks from the registry.
    pub const fn is_registry(&self) -> bool {
        matches!(self.source, Some(Source::Registry(_)))
    }

    /// Whether chunks of `app` are for it.
    pub(crate) fn takes_chunks_of(&self, app: &str) -> bool {
        self.is_registry() && self.location() == app
    }

    /// Whether it comes over HTTP.
    pub const fn is_http(&self) -> bool {
        matches!(self.source, Some(Source::Http(_)))
    }

    /// Chunks that have come, and how many there are; 0 of 0 before the first.
    pub const fn progress(&self) -> (u32, u32) {
        match &self.source {
            Some(Source::Registry(chunks)) => chunks.progress(),
            _ => (0, 0),
        }
    }

    /// Bytes of the arena that it needs for `piece`, at most, besides those it has.
    pub(crate) fn growth(&self, piece: &Piece<'_>) -> usize {
        match (&self.source, piece) {
            (Some(Source::Registry(chunks)), Piece::Chunk(chunk)) => chunks.growth(chunk),
            (Some(Source::Http(stream)), piece) => stream.growth(piece),
            _ => 0,
        }
    }

    /// Takes a piece. Returns the module's bytes once they are complete; not verified.
    ///
    /// # Errors
    /// What contradicts the pieces before, or doesn't fit. The bytes so far are of no use then.
    pub fn accept<E: Engine<Buffer = B>>(
        &mut self,
        piece: Piece<'_>,
        engine: &mut E,
    ) -> Result<Option<B>, Text> {
        match (&mut self.source, piece) {
            (Some(Source::Registry(chunks)), Piece::Chunk(chunk)) => chunks.accept(chunk, engine),
            (Some(Source::Http(stream)), Piece::Length(length)) => {
                stream.begin(length, engine).map(|()| None)
            }
            (Some(Source::Http(stream)), Piece::Bytes(bytes)) => {
                stream.bytes(bytes, engine).map(|()| None)
            }
            (Some(Source::Http(stream)), Piece::End) => stream.end(engine).map(Some),
            _ => Err(text(format_args!(
                "nobody waits for this piece of a module"
            ))),
        }
    }
}

/// The bytes of a module that came inline, in base64.
///
/// # Errors
/// What is wrong with the text, or doesn't fit.
pub fn inline<E: Engine>(file: &str, limit: usize, engine: &mut E) -> Result<E::Buffer, Text> {
    let bad = |e| text(format_args!("field \"file\": {e}"));
    let len = decoded_len(file).map_err(bad)?;
    let mut bytes = None;
    grow(&mut bytes, len, limit, engine)?;
    let Some(mut bytes) = bytes else {
        return engine.allocate(0);
    };
    decode_into(file, &mut bytes).map_err(bad)?;
    Ok(bytes)
}

/// Makes `buffer` at least `len` bytes long, of which a module may have `limit`.
pub(crate) fn grow<E: Engine>(
    buffer: &mut Option<E::Buffer>,
    len: usize,
    limit: usize,
    engine: &mut E,
) -> Result<(), Text> {
    let have = buffer.as_deref().map_or(0, <[u8]>::len);
    if len <= have {
        return Ok(());
    }
    if len > limit {
        return Err(text(format_args!(
            "the module has {len} bytes, this proplet takes {limit}"
        )));
    }
    extend(buffer, len, "the module's bytes", engine)
}

/// Makes `buffer` `len` bytes long, which is no less than it has. `what` names them in errors.
pub(crate) fn extend<E: Engine>(
    buffer: &mut Option<E::Buffer>,
    len: usize,
    what: &str,
    engine: &mut E,
) -> Result<(), Text> {
    let have = buffer.as_deref().map_or(0, <[u8]>::len);
    crate::agent::fits(len - have, engine.arena().available(), what)?;
    match buffer {
        Some(buffer) => engine.resize(buffer, len),
        None => {
            *buffer = Some(engine.allocate(len)?);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::{module::table::digest, testing::FakeEngine};
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use std::format;

    const LIMIT: usize = 1000;

    #[test]
    fn a_reference_says_where_and_which() {
        let hex = to_hex(&digest(b"module"));
        for location in ["http://host/a.wasm", "registry/app:1", "a@b"] {
            assert_eq!(
                Reference::parse(location),
                Ok(Reference {
                    location,
                    digest: None
                })
            );
            for mark in ["@sha256:", "#sha256="] {
                for hex in [hex.as_str(), &hex.to_uppercase()] {
                    let reference = format!("{location}{mark}{hex}");
                    let parsed = Reference::parse(&reference).unwrap();
                    assert_eq!(parsed.location, location);
                    assert_eq!(parsed.digest, Some(digest(b"module")));
                }
            }
        }
        for bad in [
            "",
            "12",
            &hex[1..],
            &format!("{hex}0"),
            &hex.replace('a', "g"),
        ] {
            if bad == hex {
                continue;
            }
            let reference = format!("app@sha256:{bad}");
            let error = Reference::parse(&reference).unwrap_err();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn schemes_choose_the_source() {
        for (reference, http) in [
            ("http://host/a", true),
            ("HTTPS://host/a", true),
            ("docker.io/org/app:1", false),
            ("oci://host/app", false),
            ("httpx", false),
        ] {
            let fetch = Fetch::<std::vec::Vec<u8>>::begin(reference, LIMIT, Instant::BOOT).unwrap();
            assert_eq!((fetch.is_http(), fetch.is_registry()), (http, !http));
        }
    }

    #[test]
    fn a_mismatch_names_both_digests() {
        let (a, b) = (digest(b"a"), digest(b"b"));
        assert_eq!(check(None, &a), Ok(()));
        assert_eq!(check(Some(&a), &a), Ok(()));
        let error = check(Some(&a), &b).unwrap_err();
        for digest in [a, b] {
            assert!(error.contains(&to_hex(&digest)[..SHOWN]), "{error}");
        }
    }

    #[test]
    fn every_source_gives_the_same_bytes() {
        let module = b"the bytes of a module";
        let mut engine = FakeEngine::new(4096);
        let file = BASE64_STANDARD.encode(module);
        assert_eq!(&*inline(&file, LIMIT, &mut engine).unwrap(), module);

        let mut fetch = Fetch::begin("registry/app", LIMIT, Instant::BOOT).unwrap();
        let mut whole = None;
        for (index, part) in module.chunks(10).enumerate() {
            let chunk = Chunk {
                app_name: "registry/app",
                chunk_idx: index as u32,
                total_chunks: 3,
                data: &BASE64_STANDARD.encode(part),
            };
            whole = fetch.accept(Piece::Chunk(&chunk), &mut engine).unwrap();
        }
        assert_eq!(&*whole.unwrap(), module);

        for length in [Some(module.len()), None] {
            let mut fetch = Fetch::begin("http://host/app", LIMIT, Instant::BOOT).unwrap();
            assert!(
                fetch
                    .accept(Piece::Length(length), &mut engine)
                    .unwrap()
                    .is_none()
            );
            for part in module.chunks(4) {
                assert!(
                    fetch
                        .accept(Piece::Bytes(part), &mut engine)
                        .unwrap()
                        .is_none()
                );
            }
            let whole = fetch.accept(Piece::End, &mut engine).unwrap();
            assert_eq!(&*whole.unwrap(), module);
        }
        assert_eq!(engine.arena().free, 4096, "and nothing is left behind");
    }

    #[test]
    fn a_piece_of_another_source_is_refused() {
        let mut engine = FakeEngine::new(4096);
        let mut fetch = Fetch::begin("registry/app", LIMIT, Instant::BOOT).unwrap();
        assert!(fetch.accept(Piece::Bytes(b"x"), &mut engine).is_err());
        let mut vacant = Fetch::VACANT;
        assert!(vacant.accept(Piece::End, &mut engine).is_err());
    }
}
