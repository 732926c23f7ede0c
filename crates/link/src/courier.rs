//! HTTP exchanges, for the application.

use crate::{
    Application, Stack,
    http::{self, Accept, Exchange, Method},
    link::stamp,
};
use core::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::Poll,
    time::Duration,
};
use embassy_futures::select::{Either, select};
use embassy_time::Instant;
use log::debug;
use proplet::{
    agent::{Progress, RequestKind, Ticket},
    engine::{Text, text},
};

/// Carries out one exchange of the application after the other.
pub(crate) struct Courier<'c, 'a, S, A> {
    pub(crate) stack: &'c S,
    pub(crate) app: &'c RefCell<&'a mut A>,
    /// Set when the application has learned something that the link has not seen.
    pub(crate) stirred: &'c Cell<bool>,
    /// Longest time of an exchange.
    pub(crate) timeout: Duration,
}

// Not derived: that would ask the same of what is referred to.
impl<S, A> Clone for Courier<'_, '_, S, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S, A> Copy for Courier<'_, '_, S, A> {}

impl<S: Stack, A: Application> Courier<'_, '_, S, A> {
    /// Works for ever. `buf` is for the heads of requests and responses.
    pub(crate) async fn work(self, buf: &mut [u8]) {
        loop {
            let ticket = self.next().await;
            let result = match select(self.carry_out(ticket, buf), self.unwanted(ticket)).await {
                Either::First(result) => result,
                Either::Second(()) => {
                    debug!("an exchange is given up: nobody waits for it");
                    continue;
                }
            };
            // Whoever waited may have gone just now.
            let _ = self.tell(ticket, Progress::End(result));
            self.stirred.set(true);
            // The link was polled before: let it be again.
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::Ready(())
            })
            .await;
        }
    }

    /// Waits for an exchange to begin, and for a network to do so in.
    async fn next(self) -> Ticket {
        poll_fn(|_| {
            let next = match self.stack.is_up() {
                true => self.app.borrow_mut().poll_exchange(),
                false => None,
            };
            next.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    async fn unwanted(self, ticket: Ticket) {
        poll_fn(|_| match self.app.borrow().wants(ticket) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    async fn carry_out(self, ticket: Ticket, buf: &mut [u8]) -> Result<(), Text> {
        let request = self.app.borrow().request(ticket);
        let request = request.ok_or_else(|| text(format_args!("there is nothing to ask for")))?;
        debug!("{:?} {}", request.kind, request.url);
        let (method, accept) = match request.kind {
            RequestKind::Module => (Method::Get, Accept::Module),
            RequestKind::Data => (Method::Get, Accept::Any),
            RequestKind::Update => (Method::Post, Accept::Any),
        };
        let request = http::Request {
            method,
            url: &request.url,
            body_len: request.body_len,
            accept,
            limit: request.limit,
        };
        let mut parts = Parts {
            courier: self,
            ticket,
        };
        http::exchange(self.stack, &request, &mut parts, buf, self.timeout).await
    }

    fn tell(self, ticket: Ticket, progress: Progress<'_>) -> Result<(), Text> {
        let now = stamp(Instant::now());
        self.app.borrow_mut().exchange(ticket, progress, now)
    }
}

/// The application's end of an exchange.
struct Parts<'c, 'a, S, A> {
    courier: Courier<'c, 'a, S, A>,
    ticket: Ticket,
}

impl<S: Stack, A: Application> Exchange for Parts<'_, '_, S, A> {
    fn body(&mut self, offset: usize, to: &mut [u8]) -> usize {
        self.courier
            .app
            .borrow()
            .request_body(self.ticket, offset, to)
    }

    fn begin(&mut self, length: Option<usize>) -> Result<(), Text> {
        self.courier.tell(self.ticket, Progress::Begin(length))
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Text> {
        self.courier.tell(self.ticket, Progress::Bytes(bytes))
    }
}
