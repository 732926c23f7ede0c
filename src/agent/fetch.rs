//! Modules on their way: from the registry in chunks, or over HTTP.

use super::reason::{Reason, Refusal};
use crate::{
    engine::Engine,
    http::RequestId,
    module::{
        chunks::Chunks, image::ImageStream, reference::Reference, strip::Image, table::Digest,
    },
    time::{Duration, Instant},
    wire::URL_MAX,
};
use core::ops::DerefMut;
use heapless::String;

/// Time without a chunk after which a module is taken that is whole, but may be of two versions: what the registry
/// sends of another follows at once.
const QUIET: Duration = Duration::from_secs(2);

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
    is_http: bool,
    /// Maximum number of bytes that are kept of the module.
    limit: usize,
    /// Tasks and deployments that wait for it.
    pub(super) waiters: u16,
    state: FetchState<B>,
}

/// State of a fetch. Of those with one location, which differ in their digests, one brings the bytes.
#[derive(Debug)]
enum FetchState<B> {
    Registry {
        /// Whether the registry is to be asked, first or again.
        is_due: bool,
        chunks: Chunks<B>,
        /// When a module that is held is taken.
        held_until: Option<Instant>,
    },
    Http {
        request: Request,
        stream: ImageStream<B>,
    },
    Follows {
        /// The fetch that brings the bytes.
        leader: u8,
        /// Whether some had come before this one began: they may be of an older version.
        is_late: bool,
    },
    Arrived(Result<Image<B>, Reason<B>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Due,
    Sent(RequestId),
}

impl<B: DerefMut<Target = [u8]>> FetchState<B> {
    fn begin(is_http: bool, limit: usize) -> Self {
        match is_http {
            true => Self::Http {
                request: Request::Due,
                stream: ImageStream::new(limit),
            },
            false => Self::Registry {
                is_due: true,
                chunks: Chunks::new(limit),
                held_until: None,
            },
        }
    }
}

impl<B: DerefMut<Target = [u8]>> Pending<B> {
    /// Begins to fetch the module of `image`, of which at most `limit` bytes are kept.
    ///
    /// # Errors
    /// The reference is longer than [`URL_MAX`].
    pub(super) fn new(
        image: &str,
        reference: &Reference<'_>,
        limit: usize,
    ) -> Result<Self, Reason<B>> {
        let is_http = reference.is_http();
        Ok(Self {
            location: reference.location.len(),
            digest: reference.digest,
            is_http,
            limit,
            waiters: 0,
            state: FetchState::begin(is_http, limit),
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

    /// Whether a module of this digest is the one.
    pub(super) fn wants(&self, digest: &Digest) -> bool {
        self.digest.is_none_or(|wanted| wanted == *digest)
    }

    pub(super) const fn is_http(&self) -> bool {
        self.is_http
    }

    /// Whether it brings bytes, for others of its location too.
    pub(super) const fn leads(&self) -> bool {
        matches!(
            self.state,
            FetchState::Registry { .. } | FetchState::Http { .. }
        )
    }

    /// Whether some bytes have come.
    pub(super) const fn has_begun(&self) -> bool {
        match &self.state {
            FetchState::Registry { chunks, .. } => !chunks.is_empty(),
            FetchState::Http { stream, .. } => !stream.is_empty(),
            _ => false,
        }
    }

    /// The fetch whose bytes it waits for.
    pub(super) const fn leader(&self) -> Option<u8> {
        match self.state {
            FetchState::Follows { leader, .. } => Some(leader),
            _ => None,
        }
    }

    /// Waits for the bytes of another fetch, in whatever state it was.
    pub(super) fn follow(&mut self, leader: u8, is_late: bool) {
        self.state = FetchState::Follows { leader, is_late };
    }

    /// Takes over what another fetch of its location has, which is dropped.
    pub(super) fn succeed(&mut self, other: Self) {
        self.state = other.state;
    }

    /// Begins anew, if the bytes that came may be of another version than those that would come now; `is_straight`
    /// says whether they came one after the other.
    pub(super) fn retry(&mut self, is_straight: bool) -> bool {
        match &mut self.state {
            FetchState::Registry { chunks, .. } => !is_straight && chunks.retry(),
            FetchState::Follows { is_late, .. } if *is_late || !is_straight => {
                self.state = FetchState::begin(self.is_http, self.limit);
                true
            }
            _ => false,
        }
    }

    /// Chunks that have come, and how many there are; 0 of 0 before the first.
    pub(super) const fn progress(&self) -> (u32, u32) {
        match &self.state {
            FetchState::Registry { chunks, .. } => chunks.progress(),
            _ => (0, 0),
        }
    }

    /// Has the registry asked again: the missing chunks may never have been sent.
    pub(super) fn renew(&mut self) {
        self.note_gap();
        if let FetchState::Registry { is_due, .. } = &mut self.state {
            *is_due = true;
        }
    }

    /// Notes that the chunk that has begun does not end, and that chunks may have been lost.
    pub(super) fn note_gap(&mut self) {
        if let FetchState::Registry {
            chunks, held_until, ..
        } = &mut self.state
        {
            *held_until = None;
            chunks.note_gap();
        }
    }

    /// Asks again for a module that was held, if its chunks came in more than one session. One that was asked for too
    /// often stays until its chunks have come one after the other.
    pub(super) fn drop_over_gap(&mut self) -> bool {
        let chunks = self.chunks().filter(|chunks| chunks.spans_gap());
        let spans_gap = chunks.map(Chunks::retry).is_some();
        if spans_gap {
            self.note_gap();
        }
        spans_gap
    }

    /// Holds a module that is whole, until no chunk of it has come for a while.
    pub(super) fn hold(&mut self, now: Instant) {
        if let FetchState::Registry { held_until, .. } = &mut self.state {
            *held_until = Some(now + QUIET);
        }
    }

    /// When the module that is held is taken.
    pub(super) fn held_until(&self) -> Option<Instant> {
        match &self.state {
            FetchState::Registry {
                chunks, held_until, ..
            } if chunks.is_complete() && !chunks.is_receiving() => *held_until,
            _ => None,
        }
    }

    /// Whether the registry is to be asked; given out once.
    pub(super) const fn take_registry_request(&mut self) -> bool {
        match &mut self.state {
            FetchState::Registry { is_due, chunks, .. } => {
                let must_ask = chunks.must_ask();
                core::mem::replace(is_due, false) || must_ask
            }
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

    /// The server is asked.
    pub(super) const fn set_request(&mut self, id: RequestId) {
        if let FetchState::Http { request, .. } = &mut self.state {
            *request = Request::Sent(id);
        }
    }

    /// Whether a request is under way.
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
        matches!(self.state, FetchState::Http { request: Request::Sent(sent), .. } if sent == id)
    }

    /// The chunks that have come; `None` if they do not come from the registry, or not to it.
    pub(super) const fn chunks(&mut self) -> Option<&mut Chunks<B>> {
        match &mut self.state {
            FetchState::Registry { chunks, .. } => Some(chunks),
            _ => None,
        }
    }

    /// The response; `None` if it is not fetched over HTTP, or has arrived.
    pub(super) const fn stream(&mut self) -> Option<&mut ImageStream<B>> {
        match &mut self.state {
            FetchState::Http { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// Begins a response, of `announced` bytes if the server says. Bytes of an earlier one are dropped.
    pub(super) fn begin_response(&mut self, announced: Option<usize>) {
        let limit = self.limit;
        if let Some(stream) = self.stream() {
            *stream = ImageStream::new(limit);
            stream.announce(announced);
        }
    }

    /// The end of a response.
    pub(super) fn end_response<E: Engine<Buffer = B>>(
        &mut self,
        engine: &E,
    ) -> Result<Image<B>, Reason<B>> {
        let limit = self.limit;
        let stream = self.stream().ok_or(Refusal::Unwanted)?;
        let stream = core::mem::replace(stream, ImageStream::new(limit));
        Ok(stream.end(engine)?)
    }

    /// Ends the fetch, with the module or without.
    pub(super) fn arrive(&mut self, result: Result<Image<B>, Reason<B>>) {
        self.state = FetchState::Arrived(result);
    }

    pub(super) const fn has_arrived(&self) -> bool {
        matches!(self.state, FetchState::Arrived(_))
    }

    /// The module, with nothing verified, or the reason for which it did not come.
    pub(super) fn into_result(self) -> Result<Image<B>, Reason<B>> {
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

    const MODULE: &[u8] = b"the bytes of a module";

    fn fetch(image: &str) -> Pending<FakeBuffer> {
        let reference = Reference::parse(image).unwrap();
        Pending::new(image, &reference, 1000).unwrap()
    }

    #[test]
    fn every_source_gives_the_same_bytes() {
        let engine = FakeEngine::new(4096);
        let mut from_registry = fetch("registry/app");
        for (index, part) in (0..).zip(MODULE.chunks(10)) {
            assert!(!from_registry.has_arrived());
            let chunks = from_registry.chunks().unwrap();
            let make_room = &mut |_: usize| {};
            let accepted = chunks.accept((index, 3), part, &engine, make_room);
            accepted.unwrap();
            if chunks.is_straight() {
                let image = chunks.finish(&engine, make_room).unwrap();
                from_registry.arrive(Ok(image));
            }
        }
        assert_eq!(&*from_registry.into_result().unwrap().bytes, MODULE);

        for length in [Some(MODULE.len()), None] {
            let mut fetch = fetch("http://host/app");
            fetch.begin_response(length);
            for part in MODULE.chunks(4) {
                let stream = fetch.stream().unwrap();
                stream.append(part, &engine, |_| {}).unwrap();
            }
            let body = fetch.end_response(&engine);
            assert!(!fetch.has_arrived());
            fetch.arrive(body);
            assert_eq!(&*fetch.into_result().unwrap().bytes, MODULE);
        }
        assert_eq!(engine.arena().free, 4096, "and nothing is left behind");
    }

    #[test]
    fn a_part_of_another_source_is_refused() {
        assert!(fetch("registry/app").stream().is_none());
        let mut over_http = fetch("http://host/app");
        assert!(over_http.chunks().is_none());
        over_http.arrive(Err(Refusal::Unwanted.into()));
        assert!(over_http.stream().is_none());
    }
}
