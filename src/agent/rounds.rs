//! Exchanges of federated rounds with their services.

use super::{
    gathering::Service,
    reason::{Reason, Refusal},
};
use crate::{
    engine::Engine,
    http::{Part, RequestId},
    module::stream::{Content, Stream},
};
use core::ops::DerefMut;
use heapless::Vec;

/// An exchange with a service, for a task in a slot.
#[derive(Debug)]
struct Exchange<B, S> {
    id: RequestId,
    slot: S,
    service: Service,
    /// The body of the response; nothing is kept of the coordinator's.
    stream: Option<Stream<B>>,
}

/// Most exchanges that may be under way at once.
pub const EXCHANGES_MAX: usize = 4;

/// The end of an exchange.
#[derive(Debug)]
pub(super) struct Ended<B, S> {
    pub(super) slot: S,
    pub(super) service: Service,
    /// The body; `None` of the coordinator's response.
    pub(super) result: Result<Option<B>, Reason<B>>,
}

/// Owner of the exchanges with services. `S` identifies a task.
#[derive(Debug)]
pub(super) struct Rounds<B, S> {
    exchanges: Vec<Exchange<B, S>, EXCHANGES_MAX>,
}

impl<B: DerefMut<Target = [u8]>, S: Copy + PartialEq> Rounds<B, S> {
    pub(super) const fn new() -> Self {
        Self {
            exchanges: Vec::new(),
        }
    }

    /// Exchanges under way.
    pub(super) fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// Begins an exchange, whose response may have a body of `limit` bytes. There must be fewer than
    /// [`EXCHANGES_MAX`].
    pub(super) fn begin(&mut self, id: RequestId, slot: S, service: Service, limit: usize) {
        let content = match service {
            Service::Model => Some(Content::Model),
            Service::Dataset => Some(Content::Dataset),
            Service::Coordinator => None,
        };
        let exchange = Exchange {
            id,
            slot,
            service,
            stream: content.map(|content| Stream::new(content, limit)),
        };
        if self.exchanges.push(exchange).is_err() {
            debug_assert!(false, "the caller counts them");
        }
    }

    fn find(&self, id: RequestId) -> Option<&Exchange<B, S>> {
        self.exchanges.iter().find(|e| e.id == id)
    }

    /// Whether an exchange is under way.
    pub(super) fn has(&self, id: RequestId) -> bool {
        self.find(id).is_some()
    }

    /// The task that sends the body of this request.
    pub(super) fn sender(&self, id: RequestId) -> Option<S> {
        let exchange = self.find(id)?;
        (exchange.service == Service::Coordinator).then_some(exchange.slot)
    }

    /// Bytes of the arena that `part` of a response takes.
    pub(super) fn growth(&self, id: RequestId, part: &Part<'_>) -> usize {
        let stream = self.find(id).and_then(|e| e.stream.as_ref());
        stream.map_or(0, |stream| stream.growth(part))
    }

    /// Takes a part of a response; the end of the exchange with its last.
    ///
    /// # Errors
    /// The exchange is over already, or its body is refused.
    pub(super) fn part<E: Engine<Buffer = B>>(
        &mut self,
        id: RequestId,
        part: Part<'_>,
        engine: &E,
    ) -> Result<Option<Ended<B, S>>, Reason<B>> {
        let index = self.exchanges.iter().position(|e| e.id == id);
        let index = index.ok_or(Refusal::Unwanted)?;
        let stream = self.exchanges[index].stream.as_mut();
        match (part, stream) {
            (Part::Begin(length), Some(stream)) => stream.begin(length, engine)?,
            (Part::Bytes(bytes), Some(stream)) => stream.append(bytes, engine)?,
            (Part::Begin(_) | Part::Bytes(_), None) => {}
            (Part::End | Part::Failed(_), _) => {
                let exchange = self.exchanges.swap_remove(index);
                return Ok(Some(exchange.end(part, engine)));
            }
        }
        Ok(None)
    }

    /// Gives up the exchanges of a task.
    pub(super) fn cancel(&mut self, slot: S) {
        self.exchanges.retain(|e| e.slot != slot);
    }
}

impl<B: DerefMut<Target = [u8]>, S> Exchange<B, S> {
    fn end<E: Engine<Buffer = B>>(self, part: Part<'_>, engine: &E) -> Ended<B, S> {
        let mut stream = self.stream;
        let result = match part {
            Part::Failed(reason) => Err(match stream.as_mut().map_or(Ok(()), Stream::give_up) {
                Ok(()) => engine.words(format_args!("{reason}")).into(),
                Err(refused) => refused.into(),
            }),
            _ => {
                let body = stream.as_mut().map(|stream| stream.end(engine));
                body.transpose().map_err(Into::into)
            }
        };
        Ended {
            slot: self.slot,
            service: self.service,
            result,
        }
    }
}
