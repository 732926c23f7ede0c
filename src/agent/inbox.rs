//! The message that is being read, of which there is one at a time.

use super::{
    event::{MessageHead, Qos},
    reason::Refusal,
    supervisor::Supervisor,
};
use crate::{
    collections::hash::hash,
    engine::Engine,
    module::{incoming::Body, stream::Content},
    time::Instant,
    wire::{Data, Inbound, Parser, Rejected, TopicName},
};

/// Ends of connections within one message after which it is given up.
const CUTS_MAX: u8 = 3;

/// Owner of the message that is being read. Its bytes are with the modules: they give way to others.
#[derive(Debug)]
pub(super) struct Inbox<'a> {
    reading: Reading,
    qos: Qos,
    is_duplicate: bool,
    cuts: Cuts,
    parser: Parser,
    packed: &'a mut [u8],
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is no heap, and one of them in all"
)]
enum Reading {
    /// No message.
    Nothing,
    /// A message of no use.
    Ignored,
    /// The parser reads it.
    Command(Inbound),
    /// On a topic that is not the manager's.
    Other(TopicName),
}

/// Ends of connections within one message: a broker that keeps it would send it for ever.
#[derive(Debug, Default)]
struct Cuts {
    /// Hash of the topic and the length of the message that comes in.
    message: u32,
    /// That of the message that was cut off last, and how often it was.
    cut: u32,
    count: u8,
}

impl Cuts {
    fn begin(&mut self, head: &MessageHead<'_>) {
        self.message = hash(&[head.topic.as_bytes(), &head.len.to_le_bytes()]);
    }

    /// Whether the message that comes in is given up.
    const fn is_given_up(&self) -> bool {
        self.cut == self.message && self.count >= CUTS_MAX
    }

    fn cut_off(&mut self) {
        self.count = match self.cut == self.message {
            true => self.count.saturating_add(1),
            false => 1,
        };
        self.cut = self.message;
    }

    fn end(&mut self) {
        if self.cut == self.message {
            self.count = 0;
        }
    }
}

impl<'a> Inbox<'a> {
    /// Without a message. `packed` is for the inputs and the environment of one.
    pub(super) fn new(packed: &'a mut [u8]) -> Self {
        Self {
            reading: Reading::Nothing,
            qos: Qos::AtMostOnce,
            is_duplicate: false,
            cuts: Cuts::default(),
            parser: Parser::new(Inbound::Stop),
            packed,
        }
    }

    /// Begins to read a message. One before it that has not ended is dropped.
    pub(super) fn begin<E: Engine>(
        &mut self,
        head: &MessageHead<'_>,
        supervisor: &mut Supervisor<'_, E>,
    ) {
        (self.qos, self.is_duplicate) = (head.qos, head.is_duplicate);
        self.cuts.begin(head);
        self.reading = self.reading_of(head, supervisor);
        if self.cuts.is_given_up() && self.qos == Qos::AtLeastOnce {
            // Its end may not come this time either.
            self.qos = Qos::AtMostOnce;
            supervisor.outbox.acknowledge(None);
        }
    }

    fn reading_of<E: Engine>(
        &mut self,
        head: &MessageHead<'_>,
        supervisor: &mut Supervisor<'_, E>,
    ) -> Reading {
        let topic = head.topic;
        match supervisor.topics.classify(topic) {
            Some(_) if head.is_retained => {
                log::warn!("{topic}: ignored a retained command, which would come again and again");
                Reading::Ignored
            }
            Some(kind) => {
                supervisor.modules.begin_module();
                self.parser = Parser::new(kind);
                Reading::Command(kind)
            }
            None => match (supervisor.other_limit(topic), TopicName::try_from(topic)) {
                (Some(limit), Ok(topic)) => {
                    supervisor.modules.begin_body(Content::Message, limit);
                    Reading::Other(topic)
                }
                _ => {
                    log::debug!("ignored a message on {topic}");
                    Reading::Ignored
                }
            },
        }
    }

    /// Reads on.
    pub(super) fn payload<E: Engine>(&mut self, bytes: &[u8], supervisor: &mut Supervisor<'_, E>) {
        match &self.reading {
            Reading::Nothing | Reading::Ignored => {}
            Reading::Other(_) => supervisor.modules.body(bytes, &supervisor.engine),
            Reading::Command(kind) => {
                let Supervisor {
                    modules, engine, ..
                } = supervisor;
                let mut data = |part: Data<'_>| match (part, kind) {
                    (Data::Begin(place), Inbound::Chunk) => modules.begin_chunk(place, engine),
                    (Data::Begin(_), _) => modules.begin_module(),
                    (Data::Bytes(bytes), _) => modules.body(bytes, engine),
                };
                self.parser.feed(bytes, self.packed, &mut data);
                // Most chunks of a channel are for others: the rest of them is not read.
                if *kind == Inbound::Chunk
                    && let Some(app) = self.parser.app_name()
                    && modules.taker(app).is_none()
                {
                    log::trace!("skipped a chunk of {app}");
                    supervisor.modules.drop_body();
                    self.reading = Reading::Ignored;
                }
            }
        }
    }

    /// Takes note that the message does not go on, if there is one, and drops the bytes that it has brought.
    pub(super) fn cut<E: Engine>(&mut self, supervisor: &mut Supervisor<'_, E>, now: Instant) {
        let reading = core::mem::replace(&mut self.reading, Reading::Nothing);
        if let Reading::Nothing = reading {
            return;
        }
        supervisor.modules.drop_body();
        if self.cuts.is_given_up()
            && let Reading::Command(kind) = reading
        {
            self.give_up(kind, supervisor, now);
        }
        self.cuts.cut_off();
    }

    /// Acts on the message, of which all has been read. Returns whether a manager has sent it.
    pub(super) fn end<E: Engine>(
        &mut self,
        supervisor: &mut Supervisor<'_, E>,
        now: Instant,
    ) -> bool {
        let reading = core::mem::replace(&mut self.reading, Reading::Nothing);
        let is_of_manager = matches!(
            reading,
            Reading::Command(Inbound::Start | Inbound::Stop | Inbound::Invoke)
        );
        supervisor.outbox.begin_command(self.qos);
        match reading {
            Reading::Nothing | Reading::Ignored => {}
            Reading::Other(topic) => {
                let body = supervisor.modules.take_body(&supervisor.engine);
                supervisor.other_message(&topic, &body, now);
            }
            Reading::Command(kind) => {
                let body = supervisor.modules.take_body(&supervisor.engine);
                self.parser.end();
                match self.cuts.is_given_up() {
                    true => self.give_up(kind, supervisor, now),
                    false => self.command(kind, body, supervisor, now),
                }
            }
        }
        supervisor.outbox.end_command();
        self.cuts.end();
        is_of_manager
    }

    /// Refuses a message at which connections have ended, as far as it was read.
    fn give_up<E: Engine>(&self, kind: Inbound, supervisor: &mut Supervisor<'_, E>, now: Instant) {
        log::error!("gave up a message at which {CUTS_MAX} connections have ended");
        let proplet = supervisor.config.proplet_id;
        match kind {
            Inbound::Start => {
                let id = match self.parser.start(self.packed) {
                    Ok(start) => start.is_for(proplet).then_some(start.id),
                    Err(rejected) => rejected.id.filter(|_| rejected.is_for(proplet)),
                };
                if let Some(id) = id
                    && !supervisor.is_known(id)
                {
                    supervisor.refuse(id, Refusal::CutOff(CUTS_MAX).into(), now);
                }
            }
            Inbound::Invoke => {
                let ids = match self.parser.invoke(self.packed) {
                    Ok(invoke) if invoke.is_for(proplet) => Some((invoke.id, invoke.invocation_id)),
                    Err(rejected) if rejected.is_for(proplet) => {
                        rejected.id.map(|id| (id, rejected.invocation_id))
                    }
                    _ => None,
                };
                if let Some((id, invocation)) = ids {
                    let invocation = invocation.unwrap_or_default();
                    let reason = Refusal::CutOff(CUTS_MAX).into();
                    supervisor.refuse_invocation(id, invocation, reason, now);
                }
            }
            Inbound::Stop | Inbound::Chunk => {}
        }
    }

    fn command<E: Engine>(
        &self,
        kind: Inbound,
        body: Body<E::Buffer>,
        supervisor: &mut Supervisor<'_, E>,
        now: Instant,
    ) {
        let proplet = supervisor.config.proplet_id;
        match kind {
            Inbound::Start => match self.parser.start(self.packed) {
                Ok(start) if !start.is_for(proplet) => {
                    log::debug!("start of {} is for another proplet", start.id);
                }
                Ok(start) if self.has_ended(start.id, supervisor) => {}
                Ok(start) => {
                    if !self.is_duplicate {
                        supervisor.outbox.forget_unheard(start.id);
                    }
                    let mut body = body;
                    supervisor.modules.shed(&mut body, start.latent);
                    let file = start.file.map(|file| file.map(|_| body));
                    supervisor.start(&start, file, now);
                }
                Err(rejected) => reject_start(supervisor, &rejected, now),
            },
            Inbound::Stop => match self.parser.stop() {
                Ok(stop) if stop.is_for(proplet) => supervisor.stop(stop.id, now),
                Ok(_) => {}
                Err(rejected) => log::warn!("stop refused: {}", rejected.error),
            },
            Inbound::Invoke => match self.parser.invoke(self.packed) {
                Ok(invoke) if !invoke.is_for(proplet) => {}
                Ok(invoke)
                    if self.has_ended(invoke.invocation_id.unwrap_or_default(), supervisor) => {}
                Ok(invoke) => supervisor.invoke(&invoke, now),
                Err(rejected) => reject_invoke(supervisor, &rejected, now),
            },
            Inbound::Chunk => self.chunk(body, supervisor, now),
        }
    }

    /// Whether the message has come before, and what it began has ended: its results have been delivered.
    fn has_ended<E: Engine>(&self, id: &str, supervisor: &Supervisor<'_, E>) -> bool {
        let has_ended = self.is_duplicate && supervisor.outbox.has_ended(id);
        if has_ended {
            log::warn!("{id} came again after its results were delivered: ignored");
        }
        has_ended
    }

    fn chunk<E: Engine>(
        &self,
        body: Body<E::Buffer>,
        supervisor: &mut Supervisor<'_, E>,
        now: Instant,
    ) {
        let (app, error) = match self.parser.chunk() {
            Ok(chunk) => match chunk.data {
                Ok(_) => return supervisor.chunk(&chunk.place(), body, now),
                Err(error) => (Some(chunk.app_name), error),
            },
            Err(rejected) => (rejected.id, rejected.error),
        };
        if !app.is_some_and(|app| supervisor.bad_chunk(app, error, now)) {
            log::warn!("chunk refused: {error}");
        }
    }
}

fn reject_start<E: Engine>(
    supervisor: &mut Supervisor<'_, E>,
    rejected: &Rejected<'_>,
    now: Instant,
) {
    match rejected.id {
        Some(id) if rejected.is_for(supervisor.config.proplet_id) => {
            if !supervisor.is_known(id) {
                supervisor.refuse(id, rejected.error.into(), now);
            }
        }
        _ => log::warn!("start refused: {}", rejected.error),
    }
}

fn reject_invoke<E: Engine>(
    supervisor: &mut Supervisor<'_, E>,
    rejected: &Rejected<'_>,
    now: Instant,
) {
    match (rejected.id, rejected.invocation_id) {
        (Some(id), Some(invocation)) if rejected.is_for(supervisor.config.proplet_id) => {
            supervisor.refuse_invocation(id, invocation, rejected.error.into(), now);
        }
        _ => log::warn!("invoke refused: {}", rejected.error),
    }
}
