//! Federated rounds: the data before the run, and the exchanges with services.

use super::Supervisor;
use crate::{
    agent::{
        gathering::{Gathering, Next, RoundData, Service},
        reason::{Reason, Refusal},
        rounds::Ended,
        subscriptions::Receiver,
        tasks::{TaskKind, TaskRecord, TaskState},
    },
    engine::{Engine, ModuleId, Slot},
    http::{Accept, Method, Request, RequestId},
    memory::Purpose,
    module::incoming::Body,
    task::{budget::Budget, learning::Round},
    time::Instant,
    wire::topic,
};

impl<E: Engine> Supervisor<'_, E> {
    /// Calls a task's function in a fresh instance of its module, or has its round's data gathered
    /// first. The use of the module is the task's from then on, or is given back.
    pub(super) fn launch(
        &mut self,
        slot: Slot,
        module: ModuleId,
        budget: &Budget,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        let launched = match self.first_gathering(slot) {
            Some(first) => self.gather(slot, module, first, now),
            None => self.begin(slot, module, budget, RoundData::NONE, now),
        };
        launched.inspect_err(|_| self.release(module))
    }

    /// Has the data of a task's round gathered.
    fn gather(
        &mut self,
        slot: Slot,
        module: ModuleId,
        first: Gathering<E::Buffer>,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        let need = E::record_bytes::<Gathering<E::Buffer>>(0);
        self.make_room(need, Purpose::Round)?;
        let state = TaskState::Gathering {
            module,
            until: now + self.config.fetch_timeout,
            gathering: self.engine.record(first, 0)?,
        };
        self.tasks.set_state(slot, state);
        log::info!("task {} gathers the data of its round", self.tasks.id(slot));
        Ok(())
    }

    /// The round that a task's environment names.
    pub(super) fn round(&self, slot: Slot) -> Option<Round<'_>> {
        Round::of(self.tasks.get(slot)?.env(), self.config.services)
    }

    /// The first step of a task of a round; `None` if it needs no data.
    pub(super) fn first_gathering(&self, slot: Slot) -> Option<Gathering<E::Buffer>> {
        let task = self.tasks.get(slot)?;
        (task.task().kind == TaskKind::Round).then_some(())?;
        Gathering::first(&self.round(slot)?, self.config.proplet_id)
    }

    /// The next request to a service, as `id`, given out once.
    pub(in crate::agent) fn poll_round_request(&mut self, id: RequestId) -> Option<Request> {
        let (slot, service) = self.tasks.take_due()?;
        let round = self.round(slot)?;
        // The task was refused if one of them were wrong.
        let (url, method) = match service {
            Service::Model => (round.model_url().ok()??, Method::Get),
            Service::Dataset => {
                let url = round.dataset_url(self.config.proplet_id).ok()??;
                (url, Method::Get)
            }
            Service::Coordinator => {
                let len = self.update(slot).len();
                (round.update_url().ok()?, Method::Post { len })
            }
        };
        let limit = self.config.data_bytes;
        self.rounds.begin(id, slot, service, limit);
        Some(Request {
            url,
            method,
            accept: Accept::Any,
            limit,
        })
    }

    /// The update that a task posts.
    pub(in crate::agent) fn update(&self, slot: Slot) -> &[u8] {
        match self.tasks.get(slot).map(TaskRecord::state) {
            Some(TaskState::Posting { update, .. }) => update,
            _ => &[],
        }
    }

    /// An exchange with a service has ended.
    pub(in crate::agent) fn round_ended(&mut self, ended: Ended<E::Buffer, Slot>, now: Instant) {
        let Ended {
            slot,
            service,
            result,
        } = ended;
        match (service, result) {
            (Service::Model, Ok(model)) => self.has_model(slot, model, now),
            (Service::Model, Err(reason)) => {
                log::warn!("task {}: model: {reason}", self.tasks.id(slot));
                if let Err(reason) = self.await_model(slot, &reason, now) {
                    self.fail(slot, reason, now);
                }
            }
            (Service::Dataset, Ok(dataset)) => self.has_dataset(slot, dataset, now),
            (Service::Dataset, Err(reason)) => {
                log::warn!("task {}: data set: {reason}", self.tasks.id(slot));
                self.has_dataset(slot, None, now);
            }
            (Service::Coordinator, result) => self.posted(slot, result.map(drop), now),
        }
    }

    /// Waits for the model on the topic that names it, since its registry has failed.
    pub(super) fn await_model(
        &mut self,
        slot: Slot,
        reason: &Reason<E::Buffer>,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        let uri = self.round(slot).and_then(|round| round.model_uri);
        let topic = uri.filter(|uri| !uri.contains("://")).and_then(topic);
        // To unsubscribe from the manager's topics would make the proplet deaf.
        let topic = topic.filter(|topic| self.topics.classify(topic).is_none());
        let Some(topic) = topic else {
            return Err(self.words(format_args!(
                "model: {reason}; MODEL_URI is no topic of a model either"
            )));
        };
        let receiver = Receiver::Model(slot);
        let added = self.subscriptions.add(receiver, &topic, &self.engine);
        added.map_err(|why| self.words(format_args!("model: {reason}; topic {topic}: {why}")))?;
        self.set_gathering(slot, Gathering::Topic, now);
        Ok(())
    }

    pub(super) fn set_gathering(&mut self, slot: Slot, next: Gathering<E::Buffer>, now: Instant) {
        let until = now + self.config.fetch_timeout;
        self.tasks.set_gathering(slot, next, until);
    }

    /// A model arrived on its topic.
    pub(super) fn model_message(&mut self, slot: Slot, body: &Body<E::Buffer>, now: Instant) {
        let (len, limit) = (body.len, self.config.data_bytes);
        let copy = match &body.bytes {
            Ok(bytes) if len <= limit => self
                .make_room(len, Purpose::Model)
                .and_then(|()| Ok((bytes, self.engine.allocate(len)?))),
            Err(error) if len <= limit => Err((*error).into()),
            _ => Err(Refusal::ModelTooLarge { len, limit }.into()),
        };
        match copy {
            Ok((bytes, mut copy)) => {
                copy.copy_from_slice(bytes);
                self.has_model(slot, Some(copy), now);
            }
            Err(reason) => self.fail(slot, reason, now),
        }
    }

    pub(super) fn has_model(&mut self, slot: Slot, model: Option<E::Buffer>, now: Instant) {
        let Some(round) = self.round(slot) else {
            return;
        };
        match Gathering::model(model, &round, self.config.proplet_id) {
            Next::Gather(next) => self.set_gathering(slot, next, now),
            Next::Run(data) => {
                if let Some((module, _)) = self.tasks.take_gathering(slot) {
                    self.begin_round(slot, module, data, now);
                }
            }
        }
    }

    pub(super) fn has_dataset(&mut self, slot: Slot, dataset: Option<E::Buffer>, now: Instant) {
        if let Some((module, gathering)) = self.tasks.take_gathering(slot) {
            self.begin_round(slot, module, gathering.dataset(dataset), now);
        }
    }

    pub(super) fn begin_round(
        &mut self,
        slot: Slot,
        module: ModuleId,
        data: RoundData<E::Buffer>,
        now: Instant,
    ) {
        let budget = self.budget(slot);
        if let Err(reason) = self.begin(slot, module, &budget, data, now) {
            self.release(module);
            self.fail(slot, reason, now);
        }
    }

    /// Data of a round have not come in time. Without its model it can't be done.
    pub(super) fn gathers_late(&mut self, slot: Slot, now: Instant) {
        let seconds = self.config.fetch_timeout.as_secs();
        let has_topic = match self.tasks.gathering(slot) {
            Some(Gathering::Model { .. }) => false,
            Some(Gathering::Topic) => true,
            Some(Gathering::Dataset { .. }) => {
                let id = self.tasks.id(slot);
                log::warn!("task {id}: data set: none came within {seconds} s");
                self.rounds.cancel(slot);
                return self.has_dataset(slot, None, now);
            }
            None => return,
        };
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.fail(slot, Refusal::NoModel { has_topic, seconds }.into(), now);
    }
}
