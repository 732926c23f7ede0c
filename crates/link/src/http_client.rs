//! The agent's HTTP requests.

use crate::{http, stack::Stack, time::agent_time};
use core::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::poll_fn,
    task::Poll,
    time::Duration,
};
use embassy_futures::select::{Either, select};
use embassy_time::Instant;
use log::debug;
use proplet::{
    agent::Agent,
    engine::Engine,
    http::{Part, Request, RequestId},
};

/// Carries out one request of the agent after the other.
pub(crate) struct HttpClient<'c, 'a, S, E: Engine> {
    pub(crate) stack: &'c S,
    pub(crate) agent: &'c RefCell<Agent<'a, E>>,
    /// Set at the end of an exchange: the agent may have more to say than at its last tick.
    pub(crate) has_ended: &'c Cell<bool>,
    /// Longest time of an exchange.
    pub(crate) timeout: Duration,
}

impl<S: Stack, E: Engine> HttpClient<'_, '_, S, E> {
    /// Never ends. `buf` is for the heads of requests and responses, and for pieces of their bodies.
    pub(crate) async fn run(&self, buf: &mut [u8]) -> Infallible {
        loop {
            let (id, request) = self.next_request().await;
            debug!("{:?} {}", request.method, request.url);
            let body = |offset, to: &mut [u8]| self.agent.borrow().request_body(id, offset, to);
            let receive = |part: Part<'_>| {
                let now = agent_time(Instant::now());
                self.agent.borrow_mut().respond(id, part, now)
            };
            let exchange = http::exchange(self.stack, &request, body, receive, buf, self.timeout);
            // The agent may have given the request up just now: its answer to the end is of no use.
            let _ = match select(exchange, self.unwanted(id)).await {
                Either::First(Ok(())) => receive(Part::End),
                Either::First(Err(error)) => receive(Part::Failed(&error)),
                Either::Second(()) => {
                    debug!("an exchange is given up: nobody waits for it");
                    continue;
                }
            };
            self.has_ended.set(true);
            // The link was polled before: let it be again.
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::Ready(())
            })
            .await;
        }
    }

    /// Waits for a request, and for a network to send it in.
    async fn next_request(&self) -> (RequestId, Request) {
        poll_fn(|_| {
            let next = match self.stack.is_up() {
                true => self.agent.borrow_mut().poll_request(),
                false => None,
            };
            next.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    async fn unwanted(&self, id: RequestId) {
        poll_fn(|_| match self.agent.borrow().is_wanted(id) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }
}
