//! The agent as the receiver of messages.

use crate::{gate::Inbox, time::agent_time};
use core::cell::RefCell;
use embassy_time::Instant;
use proplet::{
    agent::{Agent, Event, MessageHead},
    engine::Engine,
};

impl<E: Engine> Inbox for RefCell<Agent<'_, E>> {
    fn begin(&self, head: &MessageHead<'_>) {
        tell(self, Event::MessageBegin(*head));
    }

    fn payload(&self, bytes: &[u8]) {
        tell(self, Event::MessageBytes(bytes));
    }

    fn end(&self) {
        tell(self, Event::MessageEnd);
    }

    fn closed(&self) {
        tell(self, Event::MessagesCut);
    }

    fn take_acknowledgement(&self) -> bool {
        self.borrow_mut().take_acknowledgement()
    }
}

fn tell<E: Engine>(agent: &RefCell<Agent<'_, E>>, event: Event<'_>) {
    let now = agent_time(Instant::now());
    agent.borrow_mut().handle(event, now);
}
