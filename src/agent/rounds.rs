//! Federated rounds: what a task gathers before its run, and the exchanges with the services.

use super::reason::{Reason, Refusal};
use crate::{
    engine::Engine,
    http::{Part, RequestId},
    module::stream::{Content, Stream},
    task::learning::Round,
};
use core::ops::DerefMut;
use heapless::Vec;

/// A service of federated learning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Model,
    Dataset,
    /// The coordinator, which takes the update.
    Coordinator,
}

/// State of a task that gathers the data of its round: the model first, then the data set.
#[derive(Debug)]
pub(super) enum Gathering<B> {
    /// The model, from its registry.
    Model { is_due: bool },
    /// The model, from the topic that names it.
    Topic,
    /// The data set.
    Dataset { is_due: bool, model: Option<B> },
}

/// Data of a round, as far as there is any.
#[derive(Debug)]
pub(super) struct RoundData<B> {
    pub(super) model: Option<B>,
    pub(super) dataset: Option<B>,
}

impl<B> RoundData<B> {
    pub(super) const NONE: Self = Self {
        model: None,
        dataset: None,
    };
}

/// The next step of a task that gathers.
#[derive(Debug)]
pub(super) enum Next<B> {
    Gather(Gathering<B>),
    Run(RoundData<B>),
}

impl<B> Gathering<B> {
    /// The first step of `round`, which has passed [`Round::check`]; `None` if it needs no data.
    pub(super) fn first(round: &Round<'_>, proplet: &str) -> Option<Self> {
        match round.model_uri {
            Some(_) => Some(Self::Model { is_due: true }),
            None => match Self::model(None, round, proplet) {
                Next::Gather(gathering) => Some(gathering),
                Next::Run(_) => None,
            },
        }
    }

    /// The step after the model.
    pub(super) fn model(model: Option<B>, round: &Round<'_>, proplet: &str) -> Next<B> {
        match round.dataset_url(proplet) {
            Ok(Some(_)) => Next::Gather(Self::Dataset {
                is_due: true,
                model,
            }),
            _ => Next::Run(RoundData {
                model,
                dataset: None,
            }),
        }
    }

    /// The step after the data set, which may be missing.
    pub(super) fn dataset(self, dataset: Option<B>) -> RoundData<B> {
        match self {
            Self::Dataset { model, .. } => RoundData { model, dataset },
            Self::Model { .. } | Self::Topic => RoundData::NONE,
        }
    }

    /// The service whose exchange is to begin.
    pub(super) const fn due(&self) -> Option<Service> {
        match self {
            Self::Model { is_due: true } => Some(Service::Model),
            Self::Dataset { is_due: true, .. } => Some(Service::Dataset),
            _ => None,
        }
    }

    /// The service whose exchange is to begin, given out once.
    pub(super) const fn take_due(&mut self) -> Option<Service> {
        let due = self.due();
        if let Self::Model { is_due } | Self::Dataset { is_due, .. } = self {
            *is_due = false;
        }
        due
    }
}

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
        let body = |mut stream: Stream<B>| stream.end(engine);
        let result = match part {
            Part::Failed(reason) => Err(engine.words(format_args!("{reason}")).into()),
            _ => self.stream.map(body).transpose().map_err(Into::into),
        };
        Ended {
            slot: self.slot,
            service: self.service,
            result,
        }
    }
}
