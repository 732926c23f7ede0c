//! What the link drives.

use proplet::{
    agent::{
        Agent, Delivery, Event, Progress, Publication, Qos, Request, Subscription, Ticket, Token,
    },
    engine::{Engine, Text},
    time::Instant,
    wire::TopicName,
};

/// The proplet as the link sees it: events in, publications out.
///
/// [`Agent`] is the one that runs; tests bring their own.
pub trait Application {
    /// Names a publication from [`poll_publish`](Self::poll_publish) to
    /// [`published`](Self::published).
    type Token: Copy;

    /// Takes an event other than [`Event::Published`].
    fn handle(&mut self, event: Event<'_>, now: Instant);

    /// Takes the fate of a publication; each that was given out has exactly one.
    fn published(&mut self, token: Self::Token, delivery: Delivery, now: Instant);

    /// When [`Event::Tick`] is due at the latest.
    fn next_deadline(&self, now: Instant) -> Option<Instant>;

    /// The next message to publish, of quality `most` or less, given out once. With `most` at
    /// [`Qos::AtMostOnce`] there is no room for one that waits for an acknowledgement.
    fn poll_publish(&mut self, most: Qos, now: Instant) -> Option<(Self::Token, Qos)>;

    /// Topic of a publication, complete with its prefix.
    fn topic(&self, token: Self::Token) -> TopicName;

    /// Serialises a publication's payload into `buf` and returns its length; `None` if `buf` is
    /// too small, or it is not worth being sent any more. It may be asked for more than once.
    fn write(&self, token: Self::Token, buf: &mut [u8], now: Instant) -> Option<usize>;

    /// Topic filters to subscribe to, at QoS 1, on each new session: one after the other from 0 on,
    /// `None` after the last.
    fn subscription(&self, index: usize) -> Option<TopicName>;

    /// The next change of what it is subscribed to besides, if any, given out once a session.
    fn poll_subscribe(&mut self) -> Option<Subscription> {
        None
    }

    /// The next HTTP exchange to begin, if any, given out once. Its end is to be told by
    /// [`exchange`](Self::exchange), unless nobody [`wants`](Self::wants) it any more.
    fn poll_exchange(&mut self) -> Option<Ticket> {
        None
    }

    /// Whether an exchange is still to be carried out.
    fn wants(&self, _: Ticket) -> bool {
        false
    }

    /// What to ask of the server; `None` if it is no longer wanted.
    fn request(&self, _: Ticket) -> Option<Request> {
        None
    }

    /// Copies the request's body from `offset` on into `to`, as much as there is; how much.
    fn request_body(&self, _: Ticket, _offset: usize, _to: &mut [u8]) -> usize {
        0
    }

    /// Takes what happened in an exchange.
    ///
    /// # Errors
    /// Why it is to be given up, which is its end.
    fn exchange(&mut self, _: Ticket, _: Progress<'_>, _now: Instant) -> Result<(), Text> {
        Ok(())
    }

    /// Topic, and length of the payload put into `buf`, of the last will; `None` if `buf` is too
    /// small.
    fn will(&self, buf: &mut [u8]) -> Option<(TopicName, usize)>;

    /// Whether nothing is left to do after [`Event::Shutdown`].
    fn is_drained(&self) -> bool;
}

impl<E: Engine> Application for Agent<'_, E> {
    type Token = Token;

    fn handle(&mut self, event: Event<'_>, now: Instant) {
        Agent::handle(self, event, now);
    }

    fn published(&mut self, token: Token, delivery: Delivery, now: Instant) {
        Agent::handle(self, Event::Published(token, delivery), now);
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        Agent::next_deadline(self, now)
    }

    fn poll_publish(&mut self, most: Qos, now: Instant) -> Option<(Token, Qos)> {
        let Publication { token, qos } = Agent::poll_publish(self, most, now)?;
        Some((token, qos))
    }

    fn topic(&self, token: Token) -> TopicName {
        Agent::topic(self, token)
    }

    fn write(&self, token: Token, buf: &mut [u8], now: Instant) -> Option<usize> {
        Agent::write(self, token, buf, now).ok()
    }

    fn subscription(&self, index: usize) -> Option<TopicName> {
        Agent::subscription(self, index)
    }

    fn poll_subscribe(&mut self) -> Option<Subscription> {
        Agent::poll_subscribe(self)
    }

    fn poll_exchange(&mut self) -> Option<Ticket> {
        Agent::poll_exchange(self)
    }

    fn wants(&self, ticket: Ticket) -> bool {
        Agent::wants(self, ticket)
    }

    fn request(&self, ticket: Ticket) -> Option<Request> {
        Agent::request(self, ticket)
    }

    fn request_body(&self, ticket: Ticket, offset: usize, to: &mut [u8]) -> usize {
        Agent::request_body(self, ticket, offset, to)
    }

    fn exchange(
        &mut self,
        ticket: Ticket,
        progress: Progress<'_>,
        now: Instant,
    ) -> Result<(), Text> {
        Agent::exchange(self, ticket, progress, now)
    }

    fn will(&self, buf: &mut [u8]) -> Option<(TopicName, usize)> {
        Agent::will(self, buf).ok()
    }

    fn is_drained(&self) -> bool {
        Agent::is_drained(self)
    }
}
