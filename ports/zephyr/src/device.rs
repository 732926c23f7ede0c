//! The agent of this port, and what it says to the shell.

use crate::platform::ZephyrAgent;
use proplet::{
    agent::{Delivery, Event, Progress, Qos, Request, Subscription, Ticket, Token},
    engine::Text,
    time::Instant,
    wire::TopicName,
};
use proplet_link::{Application, Status};

/// The agent, and a page for the shell after each event.
pub struct Device<'a> {
    pub agent: ZephyrAgent,
    pub status: &'a Status,
}

impl Device<'_> {
    // The page is not to be part of every event's frame.
    #[cfg(CONFIG_SHELL)]
    #[inline(never)]
    fn answer(&self, now: Instant) {
        use crate::{header, report};
        let Some((which, page)) = report::take() else {
            return;
        };
        let mut text = heapless::String::<{ report::PAGE }>::new();
        // What does not fit is cut.
        let _ = match which {
            header::PROPLET_PAGE_STATUS => report::status(&mut text, &self.agent, self.status, now),
            header::PROPLET_PAGE_TASKS => report::tasks(&mut text, &self.agent, now),
            _ => report::modules(&mut text, &self.agent),
        };
        page.done(&text);
    }

    #[cfg(not(CONFIG_SHELL))]
    fn answer(&self, _: Instant) {
        let _ = self.status;
    }
}

impl Application for Device<'_> {
    type Token = Token;

    fn handle(&mut self, event: Event<'_>, now: Instant) {
        self.agent.handle(event, now);
        self.answer(now);
    }

    fn published(&mut self, token: Token, delivery: Delivery, now: Instant) {
        Application::published(&mut self.agent, token, delivery, now);
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        Application::next_deadline(&self.agent, now)
    }

    fn poll_publish(&mut self, most: Qos, now: Instant) -> Option<(Token, Qos)> {
        Application::poll_publish(&mut self.agent, most, now)
    }

    fn topic(&self, token: Token) -> TopicName {
        Application::topic(&self.agent, token)
    }

    fn write(&self, token: Token, buf: &mut [u8], now: Instant) -> Option<usize> {
        Application::write(&self.agent, token, buf, now)
    }

    fn subscription(&self, index: usize) -> Option<TopicName> {
        Application::subscription(&self.agent, index)
    }

    fn poll_subscribe(&mut self) -> Option<Subscription> {
        Application::poll_subscribe(&mut self.agent)
    }

    fn poll_exchange(&mut self) -> Option<Ticket> {
        Application::poll_exchange(&mut self.agent)
    }

    fn wants(&self, ticket: Ticket) -> bool {
        Application::wants(&self.agent, ticket)
    }

    fn request(&self, ticket: Ticket) -> Option<Request> {
        Application::request(&self.agent, ticket)
    }

    fn request_body(&self, ticket: Ticket, offset: usize, to: &mut [u8]) -> usize {
        Application::request_body(&self.agent, ticket, offset, to)
    }

    fn exchange(
        &mut self,
        ticket: Ticket,
        progress: Progress<'_>,
        now: Instant,
    ) -> Result<(), Text> {
        Application::exchange(&mut self.agent, ticket, progress, now)
    }

    fn will(&self, buf: &mut [u8]) -> Option<(TopicName, usize)> {
        Application::will(&self.agent, buf)
    }

    fn is_drained(&self) -> bool {
        Application::is_drained(&self.agent)
    }
}
