//! What the agent wants of HTTP servers: modules, and the services of federated rounds.

use super::{
    Agent,
    tasks::{Gathered, Purpose, Service, State, TaskRecord},
};
use crate::{
    engine::{Engine, ModuleId, Slot, Text, text},
    http::{Accept, Method, Part, Request, RequestId, Url},
    module::{source::Piece, stream::Stream},
    task::learning::Round,
    time::Instant,
};

/// An exchange under way.
#[derive(Debug)]
pub(super) struct Exchange<B> {
    id: RequestId,
    errand: Errand<B>,
}

#[derive(Debug)]
enum Errand<B> {
    /// For a fetch.
    Module(u8),
    /// For a run.
    Data(Slot, Service, Stream<B>),
    /// Of a run.
    Update(Slot),
}

impl<E: Engine> Agent<'_, E> {
    /// The next HTTP request to send, if any, given out once. Its exchange ends with [`Part::End`] or
    /// [`Part::Failed`], or when it is no longer [wanted](Self::is_wanted).
    pub fn poll_request(&mut self) -> Option<(RequestId, Request)> {
        if self.exchanges.is_full() {
            return None;
        }
        let errand = self.next_errand()?;
        self.ticket = self.ticket.wrapping_add(1);
        let id = RequestId(self.ticket);
        let exchange = Exchange { id, errand };
        self.exchanges.push(exchange).ok()?;
        Some((id, self.request(id)?))
    }

    fn next_errand(&mut self) -> Option<Errand<E::Buffer>> {
        let mut fetches = (0..=u8::MAX).zip(self.fetches.iter_mut());
        if let Some((index, fetch)) = fetches.find(|(_, f)| f.request_due && f.is_http()) {
            fetch.request_due = false;
            return Some(Errand::Module(index));
        }
        let (slot, due) = self.tasks.take_due()?;
        let stream = |what| Stream::new(what, self.config.data_bytes);
        Some(match due {
            Service::Model => Errand::Data(slot, due, stream("model")),
            Service::Dataset => Errand::Data(slot, due, stream("data set")),
            Service::Update => Errand::Update(slot),
        })
    }

    fn errand(&self, id: RequestId) -> Option<&Errand<E::Buffer>> {
        let mut exchanges = self.exchanges.iter();
        exchanges.find(|e| e.id == id).map(|e| &e.errand)
    }

    /// Whether the response of this request is still of use.
    pub fn is_wanted(&self, id: RequestId) -> bool {
        self.errand(id).is_some()
    }

    fn request(&self, id: RequestId) -> Option<Request> {
        let (slot, service) = match self.errand(id)? {
            Errand::Module(index) => {
                let location = self.fetches[usize::from(*index)].location();
                return Some(Request {
                    url: Url::try_from(location).ok()?,
                    method: Method::Get,
                    accept: Accept::Module,
                    limit: self.config.limits.module_bytes,
                });
            }
            Errand::Data(slot, service, _) => (*slot, *service),
            Errand::Update(slot) => (*slot, Service::Update),
        };
        let round = self.round(slot)?;
        // The run was refused if one of them were wrong.
        let url = match service {
            Service::Model => round.model_url().ok()??,
            Service::Dataset => round.dataset_url(self.config.proplet_id).ok()??,
            Service::Update => round.update_url().ok()?,
        };
        Some(Request {
            url,
            method: match service {
                Service::Update => Method::Post {
                    len: self.update(slot).len(),
                },
                Service::Model | Service::Dataset => Method::Get,
            },
            accept: Accept::Any,
            limit: self.config.data_bytes,
        })
    }

    fn update(&self, slot: Slot) -> &[u8] {
        match self.tasks.get(slot).map(TaskRecord::state) {
            Some(State::Posting { update, .. }) => update,
            _ => &[],
        }
    }

    /// Copies the request's body from `offset` on into `to`, as much as there is; how much.
    pub fn request_body(&self, id: RequestId, offset: usize, to: &mut [u8]) -> usize {
        let Some(Errand::Update(slot)) = self.errand(id) else {
            return 0;
        };
        let rest = self.update(*slot).get(offset..).unwrap_or_default();
        let len = rest.len().min(to.len());
        to[..len].copy_from_slice(&rest[..len]);
        len
    }

    /// Takes a part of a response.
    ///
    /// # Errors
    /// The reason for which the exchange must be given up: its end is [`Part::Failed`] then.
    pub fn respond(&mut self, id: RequestId, part: Part<'_>, now: Instant) -> Result<(), Text> {
        let piece = match part {
            Part::Begin(length) => Piece::Length(length),
            Part::Bytes(bytes) => Piece::Bytes(bytes),
            Part::End => {
                self.end_exchange(id, Ok(()), now);
                return Ok(());
            }
            Part::Failed(reason) => {
                self.end_exchange(id, Err(text(format_args!("{reason}"))), now);
                return Ok(());
            }
        };
        // This may end other exchanges.
        self.evict_for(match self.errand(id) {
            Some(Errand::Module(fetch)) => self.fetches[usize::from(*fetch)].growth(&piece),
            Some(Errand::Data(_, _, stream)) => stream.growth(&piece),
            Some(Errand::Update(_)) | None => 0,
        });
        let index = self.position(id)?;
        self.piece(index, piece)
    }

    fn end_exchange(&mut self, id: RequestId, result: Result<(), Text>, now: Instant) {
        // Whoever waited may be gone.
        if let Ok(index) = self.position(id) {
            let Exchange { errand, .. } = self.exchanges.swap_remove(index);
            self.end_errand(errand, result, now);
            self.collect(now);
        }
    }

    fn position(&self, id: RequestId) -> Result<usize, Text> {
        let index = self.exchanges.iter().position(|e| e.id == id);
        index.ok_or_else(|| text(format_args!("nobody waits for it any more")))
    }

    fn piece(&mut self, index: usize, piece: Piece<'_>) -> Result<(), Text> {
        match &mut self.exchanges[index].errand {
            Errand::Module(fetch) => {
                let fetch = usize::from(*fetch);
                self.fetches[fetch].accept(piece, &mut self.engine)?;
                Ok(())
            }
            Errand::Data(_, _, stream) => match piece {
                Piece::Length(length) => stream.begin(length, &mut self.engine),
                Piece::Bytes(bytes) => stream.bytes(bytes, &mut self.engine),
                _ => Ok(()),
            },
            // What the coordinator says beyond its status is not read.
            Errand::Update(_) => Ok(()),
        }
    }

    fn end_errand(&mut self, errand: Errand<E::Buffer>, result: Result<(), Text>, now: Instant) {
        match errand {
            Errand::Module(index) => {
                let index = usize::from(index);
                let end = |()| self.fetches[index].accept(Piece::End, &mut self.engine);
                match result.and_then(end) {
                    Ok(Some(bytes)) => self.fetched(index, bytes, now),
                    Ok(None) => {}
                    Err(reason) => self.fetch_failed(index, reason, now),
                }
            }
            Errand::Data(slot, service, mut stream) => {
                let bytes = result.and_then(|()| stream.end(&mut self.engine));
                self.gathered(slot, service, bytes, now);
            }
            Errand::Update(slot) => self.posted(slot, result, now),
        }
    }

    /// Gives up the exchanges of a fetch.
    pub(super) fn cancel_fetch_exchange(&mut self, index: usize) {
        self.exchanges
            .retain(|e| !matches!(e.errand, Errand::Module(i) if usize::from(i) == index));
    }

    /// Gives up the exchanges of a run.
    pub(super) fn cancel_run_exchange(&mut self, slot: Slot) {
        self.exchanges.retain(|e| match &e.errand {
            Errand::Module(_) => true,
            Errand::Data(of, _, _) | Errand::Update(of) => *of != slot,
        });
    }

    /// The round that a task's environment names.
    pub(super) fn round(&self, slot: Slot) -> Option<Round<'_>> {
        Round::of(self.tasks.get(slot)?.env(), self.config.services)
    }

    /// Begins to gather what a task's round needs before it; false if that is nothing.
    ///
    /// # Errors
    /// The reason, if the arena has no room to note it.
    pub(super) fn gather(
        &mut self,
        slot: Slot,
        module: ModuleId,
        now: Instant,
    ) -> Result<bool, Text> {
        let is_round = |task: &TaskRecord<E>| task.task().purpose == Purpose::Round;
        if !self.tasks.get(slot).is_some_and(is_round) {
            return Ok(false);
        }
        let Some(round) = self.round(slot) else {
            return Ok(false);
        };
        let has = |url: Result<Option<Url>, Text>| url.is_ok_and(|url| url.is_some());
        let due = if has(round.model_url()) {
            Service::Model
        } else if has(round.dataset_url(self.config.proplet_id)) {
            Service::Dataset
        } else {
            return Ok(false);
        };
        let gathered = Gathered {
            due: Some(due),
            model: None,
            dataset: None,
        };
        self.make_room(
            E::record_bytes::<Gathered<E::Buffer>>(0),
            "the round's data",
        )?;
        let state = State::Gathering {
            module,
            until: now + self.config.fetch_timeout,
            data: self.engine.record(gathered, 0)?,
        };
        self.tasks.set_state(slot, state);
        log::info!("task {} gathers the data of its round", self.tasks.id(slot));
        Ok(true)
    }

    fn gathered(
        &mut self,
        slot: Slot,
        service: Service,
        bytes: Result<E::Buffer, Text>,
        now: Instant,
    ) {
        match (service, bytes) {
            (Service::Model, Err(reason)) => {
                log::warn!("task {}: model: {reason}", self.tasks.id(slot));
                if let Err(reason) = self.await_model(slot, &reason, now) {
                    self.fail(slot, reason, now);
                }
            }
            (Service::Model, Ok(bytes)) => self.has_model(slot, bytes, now),
            (_, Ok(bytes)) => {
                if let Some(gathered) = self.tasks.gathered(slot) {
                    gathered.dataset = Some(bytes);
                }
                self.has_gathered(slot, now);
            }
            (_, Err(reason)) => {
                log::warn!("task {}: data set: {reason}", self.tasks.id(slot));
                self.has_gathered(slot, now);
            }
        }
    }

    /// A task has its model: the data set is next.
    pub(super) fn has_model(&mut self, slot: Slot, bytes: E::Buffer, now: Instant) {
        let dataset = self.round(slot).and_then(|round| {
            let url = round.dataset_url(self.config.proplet_id);
            url.ok().flatten()
        });
        if let Some(gathered) = self.tasks.gathered(slot) {
            gathered.model = Some(bytes);
        }
        if dataset.is_some() {
            self.tasks.set_due(slot, Some(Service::Dataset));
            let until = now + self.config.fetch_timeout;
            self.tasks.set_until(slot, Some(until));
        } else {
            self.has_gathered(slot, now);
        }
    }

    /// Data of a round have not come in time. Without its model it can't be done.
    pub(super) fn gathers_late(&mut self, slot: Slot, now: Instant) {
        let seconds = self.config.fetch_timeout.as_secs();
        let needs_model = self.round(slot).is_some_and(|r| r.model_uri.is_some());
        let has_model = self.tasks.gathered(slot).is_some_and(|g| g.model.is_some());
        if needs_model && !has_model {
            let from = match self.awaits_model(slot) {
                true => "from its registry, nor on its topic",
                false => "from its registry",
            };
            let reason = text(format_args!("model: none came {from} within {seconds} s"));
            self.fail(slot, reason, now);
            return;
        }
        let id = self.tasks.id(slot);
        log::warn!("task {id}: data set: none came within {seconds} s");
        self.tasks.set_due(slot, None);
        self.cancel_run_exchange(slot);
        self.has_gathered(slot, now);
    }

    fn has_gathered(&mut self, slot: Slot, now: Instant) {
        let module = self.tasks.get(slot).and_then(|task| match task.state() {
            State::Gathering { module, .. } => Some(*module),
            _ => None,
        });
        let budget = self.budget(slot);
        if let Some(module) = module
            && let Err(reason) = self.begin(slot, module, &budget, now)
        {
            self.fail(slot, reason, now);
        }
    }

    /// The coordinator has taken an update, or has not.
    pub(super) fn posted(&mut self, slot: Slot, result: Result<(), Text>, now: Instant) {
        let fallback = result.is_err();
        if let Err(reason) = result {
            log::warn!(
                "task {}: coordinator: {reason}; its update goes to the round's topic",
                self.tasks.id(slot)
            );
        }
        if let State::Posting { update, .. } = self.tasks.set_state(slot, State::Accepted) {
            self.tasks
                .set_state(slot, State::Posted { update, fallback });
        }
        self.collect(now);
    }
}
