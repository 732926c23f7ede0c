//! Modules on their way: from the registry in chunks, or over HTTP.

use super::reason::{Reason, Refusal};
use crate::{
    engine::Engine,
    http::RequestId,
    module::{
        chunks::Chunks,
        reference::Reference,
        stream::{Content, Stream},
        table::Digest,
    },
    time::Instant,
    wire::{Chunk, URL_MAX},
};
use core::ops::DerefMut;
use heapless::String;

/// Storage of one module on its way.
#[derive(Debug)]
pub struct Fetch<B>(Option<Pending<B>>);

impl<B> Fetch<B> {
    /// A vacant one.
    pub const VACANT: Self = Self(None);

    pub(super) const fn pending(&self) -> Option<&Pending<B>> {
        self.0.as_ref()
    }

    pub(super) const fn pending_mut(&mut self) -> Option<&mut Pending<B>> {
        self.0.as_mut()
    }

    pub(super) fn begin(&mut self, pending: Pending<B>) {
        self.0 = Some(pending);
    }

    /// Takes the fetch out.
    pub(super) const fn take(&mut self) -> Option<Pending<B>> {
        self.0.take()
    }
}

/// A module on its way.
#[derive(Debug)]
pub(super) struct Pending<B> {
    /// The image reference, as the starts have it.
    reference: String<URL_MAX>,
    /// Bytes of the reference that are its location.
    location: usize,
    digest: Option<Digest>,
    pub(super) began: Instant,
    /// Tasks and deployments that wait for it.
    pub(super) waiters: u16,
    state: FetchState<B>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "it lies in storage that has room for either"
)]
#[derive(Debug)]
enum FetchState<B> {
    Registry {
        /// Whether the registry is to be asked, first or again.
        is_due: bool,
        chunks: Chunks<B>,
    },
    Http {
        request: Request,
        stream: Stream<B>,
    },
    Arrived(Result<B, Reason<B>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Due,
    Sent(RequestId),
}

impl<B: DerefMut<Target = [u8]>> Pending<B> {
    /// Begins to fetch the module of `image`, of at most `limit` bytes.
    ///
    /// # Errors
    /// The reference is longer than [`URL_MAX`].
    pub(super) fn new(
        image: &str,
        reference: &Reference<'_>,
        limit: usize,
        now: Instant,
    ) -> Result<Self, Reason<B>> {
        Ok(Self {
            location: reference.location.len(),
            digest: reference.digest,
            began: now,
            waiters: 0,
            state: match reference.is_http() {
                true => FetchState::Http {
                    request: Request::Due,
                    stream: Stream::new(Content::Module, limit),
                },
                false => FetchState::Registry {
                    is_due: true,
                    chunks: Chunks::new(limit),
                },
            },
            reference: String::try_from(image)
                .map_err(|_| Refusal::ReferenceTooLong(image.len()))?,
        })
    }

    /// The image reference.
    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    /// The reference without its digest.
    pub(super) fn location(&self) -> &str {
        &self.reference[..self.location]
    }

    /// Digest that the module must have.
    pub(super) const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    pub(super) const fn is_http(&self) -> bool {
        matches!(self.state, FetchState::Http { .. })
    }

    /// Whether chunks of `app` are for it.
    pub(super) fn takes_chunks_of(&self, app: &str) -> bool {
        matches!(self.state, FetchState::Registry { .. }) && self.location() == app
    }

    /// Chunks that have come, and how many there are; 0 of 0 before the first.
    pub(super) const fn progress(&self) -> (u32, u32) {
        match &self.state {
            FetchState::Registry { chunks, .. } => chunks.progress(),
            _ => (0, 0),
        }
    }

    /// Has the registry asked again: the missing chunks may never have been sent.
    pub(super) const fn renew(&mut self) {
        if let FetchState::Registry { is_due, .. } = &mut self.state {
            *is_due = true;
        }
    }

    /// Whether the registry is to be asked; given out once.
    pub(super) const fn take_registry_request(&mut self) -> bool {
        match &mut self.state {
            FetchState::Registry { is_due, .. } => core::mem::replace(is_due, false),
            _ => false,
        }
    }

    /// Whether a server is to be asked.
    pub(super) const fn has_http_request(&self) -> bool {
        matches!(
            self.state,
            FetchState::Http {
                request: Request::Due,
                ..
            }
        )
    }

    /// Notes that the request was given out as `id`.
    pub(super) const fn set_request(&mut self, id: RequestId) {
        if let FetchState::Http { request, .. } = &mut self.state {
            *request = Request::Sent(id);
        }
    }

    /// Whether its request is under way.
    pub(super) const fn is_requested(&self) -> bool {
        matches!(
            self.state,
            FetchState::Http {
                request: Request::Sent(_),
                ..
            }
        )
    }

    /// Whether this request is its own.
    pub(super) fn has_request(&self, id: RequestId) -> bool {
        matches!(&self.state, FetchState::Http { request, .. } if *request == Request::Sent(id))
    }

    /// Bytes of the arena that a chunk takes, at most.
    pub(super) fn chunk_growth(&self, chunk: &Chunk<'_>) -> usize {
        match &self.state {
            FetchState::Registry { chunks, .. } => chunks.growth(chunk),
            _ => 0,
        }
    }

    /// Takes a chunk.
    pub(super) fn chunk<E: Engine<Buffer = B>>(&mut self, chunk: &Chunk<'_>, engine: &E) {
        let FetchState::Registry { chunks, .. } = &mut self.state else {
            return;
        };
        match chunks.accept(chunk, engine) {
            Ok(None) => {}
            Ok(Some(bytes)) => self.arrive(Ok(bytes)),
            Err(error) => self.arrive(Err(error.into())),
        }
    }

    /// The response; `None` if it is not fetched over HTTP, or has arrived.
    pub(super) const fn stream(&mut self) -> Option<&mut Stream<B>> {
        match &mut self.state {
            FetchState::Http { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// Ends the fetch, with all bytes of the module or without.
    pub(super) fn arrive(&mut self, result: Result<B, Reason<B>>) {
        self.state = FetchState::Arrived(result);
    }

    pub(super) const fn has_arrived(&self) -> bool {
        matches!(self.state, FetchState::Arrived(_))
    }

    /// The bytes of the module, not verified, or the reason for which they did not come.
    pub(super) fn into_result(self) -> Result<B, Reason<B>> {
        match self.state {
            FetchState::Arrived(result) => result,
            _ => Err(Refusal::Unwanted.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::testing::{FakeBuffer, FakeEngine};
    use ::base64::{Engine as _, prelude::BASE64_STANDARD};

    const MODULE: &[u8] = b"the bytes of a module";

    fn fetch(image: &str) -> Pending<FakeBuffer> {
        let reference = Reference::parse(image).unwrap();
        Pending::new(image, &reference, 1000, Instant::BOOT).unwrap()
    }

    #[test]
    fn every_source_gives_the_same_bytes() {
        let engine = FakeEngine::new(4096);
        let mut from_registry = fetch("registry/app");
        for (index, part) in MODULE.chunks(10).enumerate() {
            assert!(!from_registry.has_arrived());
            let chunk = Chunk {
                app_name: "registry/app",
                chunk_idx: index as u32,
                total_chunks: 3,
                data: &BASE64_STANDARD.encode(part),
            };
            from_registry.chunk(&chunk, &engine);
        }
        assert_eq!(&*from_registry.into_result().unwrap(), MODULE);

        for length in [Some(MODULE.len()), None] {
            let mut fetch = fetch("http://host/app");
            let stream = fetch.stream().unwrap();
            stream.begin(length, &engine).unwrap();
            for part in MODULE.chunks(4) {
                stream.append(part, &engine).unwrap();
            }
            let body = stream.end(&engine).unwrap();
            assert!(!fetch.has_arrived());
            fetch.arrive(Ok(body));
            assert_eq!(&*fetch.into_result().unwrap(), MODULE);
        }
        assert_eq!(engine.arena().free, 4096, "and nothing is left behind");
    }

    #[test]
    fn a_part_of_another_source_is_refused() {
        let engine = FakeEngine::new(4096);
        let mut from_registry = fetch("registry/app");
        assert!(from_registry.stream().is_none());
        let mut over_http = fetch("http://host/app");
        let chunk = Chunk {
            app_name: "http://host/app",
            chunk_idx: 0,
            total_chunks: 1,
            data: "",
        };
        over_http.chunk(&chunk, &engine);
        assert!(!over_http.has_arrived());
        over_http.arrive(Err(Refusal::Unwanted.into()));
        assert!(over_http.stream().is_none());
    }
}
