//! Messages for the agent as it takes them today: whole.

use crate::{
    gate::{Head, Inbox},
    status::LinkStatus,
    time::agent_time,
};
use core::cell::{Cell, RefCell};
use embassy_time::Instant;
use log::warn;
use proplet::{
    agent::{Agent, Event, Qos},
    engine::Engine,
    wire::TopicName,
};

/// An inbox that keeps one message until it is whole, and hands it to the agent. One that is too large
/// is skipped. All are acknowledged at once.
pub(crate) struct Gather<'r, 'a, 'b, E: Engine> {
    agent: &'r RefCell<Agent<'a, E>>,
    status: &'r LinkStatus,
    message: RefCell<Message<'b>>,
    /// Messages that have ended and were not acknowledged.
    ended: Cell<u8>,
}

/// The message that comes in.
struct Message<'b> {
    topic: TopicName,
    qos: Qos,
    /// Bytes of its payload, of which `got` have come in.
    len: usize,
    got: usize,
    buf: &'b mut [u8],
}

impl<'r, 'a, 'b, E: Engine> Gather<'r, 'a, 'b, E> {
    /// Keeps a payload in `buf`: larger ones are skipped.
    pub(crate) const fn new(
        agent: &'r RefCell<Agent<'a, E>>,
        status: &'r LinkStatus,
        buf: &'b mut [u8],
    ) -> Self {
        Self {
            agent,
            status,
            message: RefCell::new(Message {
                topic: TopicName::new(),
                qos: Qos::AtMostOnce,
                len: 0,
                got: 0,
                buf,
            }),
            ended: Cell::new(0),
        }
    }

    fn tell(&self, event: Event<'_>) {
        let now = agent_time(Instant::now());
        self.agent.borrow_mut().handle(event, now);
    }
}

impl<E: Engine> Inbox for Gather<'_, '_, '_, E> {
    fn begin(&self, head: &Head<'_>) {
        let mut message = self.message.borrow_mut();
        message.topic.clear();
        let fits = message.topic.push_str(head.topic);
        debug_assert!(fits.is_ok(), "the gate bounds topics");
        message.qos = head.qos;
        message.len = head.len;
        message.got = 0;
    }

    fn payload(&self, bytes: &[u8]) {
        let mut message = self.message.borrow_mut();
        let got = message.got;
        message.got += bytes.len();
        // Nothing is kept of a payload that does not fit.
        if message.len <= message.buf.len() {
            message.buf[got..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    fn end(&self) {
        let message = self.message.borrow();
        let Message {
            topic, len, buf, ..
        } = &*message;
        match buf.get(..*len) {
            Some(payload) => self.tell(Event::Message { topic, payload }),
            None => {
                let limit = buf.len();
                warn!("{topic}: skipped a message of {len} bytes, the limit is {limit}");
                self.status.skipped();
                self.tell(Event::Oversized { topic, size: *len });
            }
        }
        if message.qos == Qos::AtLeastOnce {
            self.ended.set(self.ended.get() + 1);
        }
    }

    fn cut(&self) {}

    fn closed(&self) {
        self.ended.set(0);
    }

    fn take_acknowledgement(&self) -> bool {
        let ended = self.ended.get();
        self.ended.set(ended.saturating_sub(1));
        ended > 0
    }
}
