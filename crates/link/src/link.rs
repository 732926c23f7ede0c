//! The conductor: sessions and connections, one after the other, and the state that they have.

use crate::{
    config::LinkConfig,
    dial::{self, LiveConnection},
    driver::{AgentDriver, Signal},
    error::{CloseReason, ConnectionError, Reason, Stopped},
    gate::{self, PeerActivity},
    liveness::Liveness,
    publishing::{Attempt, Publishing, publish},
    resumption::Resumption,
    session::{self, GOODBYE, goodbye},
    stack::Stack,
    status::{LinkState, LinkStatus},
    subscriptions::{self, Subscriptions},
    time::{agent_time, ticks},
};
use core::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};
use embassy_futures::select::Either3;
use embassy_time::{Duration, Instant, Timer, with_deadline, with_timeout};
use log::{error, info, warn};
use minimq::{ConnectEvent, Error, PeerError, QoS, ReasonCode, Session};
use proplet::{
    agent::{Agent, Delivery, Event, Qos, Token},
    engine::Engine,
    retry::Retry,
};

/// A connection that was served as long makes the next delay the first again.
const STABLE: Duration = Duration::from_secs(10);

/// The conductor: it alone knows the connection, the agent, and each part of the session's state.
pub(crate) struct Link<'r, 'a, E: Engine, N> {
    agent: &'r RefCell<Agent<'a, E>>,
    driver: AgentDriver<'r, 'a, E, N>,
    config: &'r LinkConfig<'r>,
    status: &'r LinkStatus,
    activity: &'r PeerActivity,
    resumption: Resumption,
    publishing: Publishing,
    subscriptions: Subscriptions,
    liveness: Liveness,
}

/// Tells the agent the fate of a publication.
fn tell_fate<E: Engine>(agent: &RefCell<Agent<'_, E>>, token: Token, delivery: Delivery) {
    let now = agent_time(Instant::now());
    agent
        .borrow_mut()
        .handle(Event::Published(token, delivery), now);
}

/// Whether the session outlives the process, here and at the broker.
fn keeps_session<E: Engine>(agent: &RefCell<Agent<'_, E>>, config: &LinkConfig<'_>) -> bool {
    config.session_expiry > 0 && agent.borrow().has_session()
}

/// Lets the connection progress until minimq has something new, or the inbox has a message of which
/// minimq may not know.
async fn poll<IO: minimq::Io>(
    connection: &mut LiveConnection<'_, '_, '_, IO>,
    activity: &PeerActivity,
) -> Result<(), Error<gate::Error<IO::Error>>> {
    activity.delivered.set(false);
    let mut progress = pin!(connection.poll());
    poll_fn(|cx| match progress.as_mut().poll(cx) {
        Poll::Pending if activity.delivered.get() => Poll::Ready(Ok(())),
        progress => progress.map_ok(drop),
    })
    .await
}

impl<'r, 'a, E: Engine, N: AsyncFnMut() -> Signal> Link<'r, 'a, E, N> {
    // In place: it is large.
    #[inline(always)]
    pub(crate) fn new(
        agent: &'r RefCell<Agent<'a, E>>,
        driver: AgentDriver<'r, 'a, E, N>,
        config: &'r LinkConfig<'r>,
        status: &'r LinkStatus,
        activity: &'r PeerActivity,
    ) -> Self {
        Self {
            agent,
            driver,
            config,
            status,
            activity,
            resumption: Resumption::new(keeps_session(agent, config)),
            publishing: Publishing::new(),
            subscriptions: Subscriptions::Incomplete,
            liveness: Liveness::new(config.keep_alive),
        }
    }

    fn tell(&self, event: Event<'_>) {
        let now = agent_time(Instant::now());
        self.agent.borrow_mut().handle(event, now);
    }

    /// One connection after the other, each with these buffers, until the link is over, or the session is of
    /// no use.
    pub(crate) async fn run_session<S: Stack>(
        &mut self,
        stack: &S,
        session: &mut Session<'_>,
        buffers: &mut gate::Buffers<'_>,
    ) -> Result<(), Stopped> {
        let LinkConfig {
            retry_first,
            retry_most,
            seed,
            ..
        } = *self.config;
        let mut retry = Retry::new(retry_first, retry_most, seed);
        loop {
            if !stack.is_up() {
                info!("waiting for the network");
                // Failures before say nothing of this network.
                retry.reset();
            }
            let up = poll_fn(|_| match stack.is_up() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            self.driver.run_until(pin!(up)).await?;
            self.status.set_state(LinkState::Connecting);
            let error = match self
                .run_connection(stack, session, buffers, &mut retry)
                .await
            {
                CloseReason::Stopped => return Err(Stopped),
                CloseReason::Failed(error) => error,
            };
            if error.is_bad_packet() {
                self.publishing.count_bad_packet();
            }
            self.status.set_state(LinkState::Waiting);
            if !stack.is_up() {
                warn!("{error}; the network is down");
                continue;
            }
            if error == ConnectionError::ReceiveMaximum {
                // Each connection takes some of what waits.
                retry.reset();
                info!("{error}: on a new connection");
                continue;
            }
            let delay = retry.delay();
            warn!("{error}; next attempt in {} ms", delay.as_millis());
            self.driver
                .run_until(pin!(Timer::after(ticks(delay))))
                .await?;
            if self.publishing.is_stuck() {
                return Ok(());
            }
        }
    }

    /// Gives up the publication for which the broker ends the connections, and with it what minimq knows of
    /// the session. The broker's stays.
    pub(crate) fn give_up(&mut self) {
        error!("the broker ends each connection because of a publication: it is given up");
        let agent = self.agent;
        self.publishing
            .give_up(|token, delivery| tell_fate(agent, token, delivery));
        self.subscribe_anew(Event::Resubscribe);
    }

    /// Has all subscriptions made again, for this reason.
    fn subscribe_anew(&mut self, reason: Event<'_>) {
        self.subscriptions = Subscriptions::Incomplete;
        self.tell(reason);
    }

    /// One connection, from the address to the loss.
    async fn run_connection<S: Stack>(
        &mut self,
        stack: &S,
        session: &mut Session<'_>,
        buffers: &mut gate::Buffers<'_>,
        retry: &mut Retry,
    ) -> CloseReason {
        let mut connection = match self.connect(stack, session, buffers, retry).await {
            Ok(connection) => connection,
            Err(reason) => return self.failed(reason),
        };
        let reason = match self.subscribe(&mut connection).await {
            Ok(()) => self.run_online(&mut connection, retry).await,
            Err(reason) => {
                if let CloseReason::Failed(_) = reason {
                    warn!(
                        "the subscriptions were not made: may this proplet id have them? Check tenant, channel and the broker's permissions"
                    );
                }
                self.failed(reason)
            }
        };
        let disconnect = match reason {
            CloseReason::Stopped if keeps_session(self.agent, self.config) => session::PAUSE,
            CloseReason::Stopped => session::END,
            CloseReason::Failed(ConnectionError::ReceiveMaximum) => session::PAUSE,
            CloseReason::Failed(_) => return reason,
        };
        let goodbye = goodbye(connection, disconnect);
        if with_timeout(GOODBYE, goodbye).await.is_err() {
            warn!("the broker did not take our goodbye");
        }
        reason
    }

    /// Notes the error, if any, of an attempt that did not get online.
    fn failed(&self, reason: CloseReason) -> CloseReason {
        if let CloseReason::Failed(error) = reason {
            self.status.failed(error);
        }
        reason
    }

    /// Makes a connection, and begins anew with it, and with the session if the broker does.
    async fn connect<'s, 'b, S: Stack>(
        &mut self,
        stack: &'s S,
        session: &'s mut Session<'b>,
        buffers: &'s mut gate::Buffers<'_>,
        retry: &mut Retry,
    ) -> Result<LiveConnection<'s, 'b, 's, S::Connection<'s>>, CloseReason>
    where
        'r: 's,
    {
        let (config, activity) = (self.config, self.activity);
        let address = {
            let resolve = pin!(dial::resolve(stack, config));
            self.driver.run_until(resolve).await??
        };
        let io = {
            let connect = pin!(dial::connect(stack, address, config));
            self.driver.run_until(connect).await??
        };
        let resumption = &self.resumption;
        let io = dial::gate(
            io,
            self.agent,
            activity,
            buffers.reborrow(),
            config,
            resumption,
        );
        let handshake = with_timeout(ticks(config.timeout), session.connect(io));
        let connection = match self.driver.run_until(pin!(handshake)).await? {
            Ok(Ok(connection)) => connection,
            Ok(Err(err)) => return Err(self.not_accepted(dial::refusal(&err, activity), retry)),
            Err(_) => return Err(self.not_accepted(ConnectionError::Timeout, retry)),
        };
        let is_new = matches!(connection.connect_event(), ConnectEvent::Connected);
        if !is_new && self.resumption.clean_start() {
            // MQTT-3.2.2-4.
            return Err(ConnectionError::SessionPresent.into());
        }
        dial::greeted(&connection, activity, address);
        self.resumption.accepted();
        self.liveness.reset();
        if is_new {
            self.subscribe_anew(Event::NewSession);
            // The broker knows nothing of the publications in flight.
            let agent = self.agent;
            self.publishing
                .lose(|token, delivery| tell_fate(agent, token, delivery));
        }
        Ok(connection)
    }

    /// Takes note of a connection that the broker did not accept.
    fn not_accepted(&mut self, error: ConnectionError, retry: &mut Retry) -> CloseReason {
        if self.resumption.clean_start() && self.subscriptions.is_complete() {
            // The broker may have begun it all the same, and the next connection would take it up.
            self.subscribe_anew(Event::Resubscribe);
        }
        if self.resumption.failed(error, self.config.will) {
            retry.reset();
        }
        error.into()
    }

    /// Makes all subscriptions that the agent requires, unless the broker's session has them.
    async fn subscribe<IO: minimq::Io>(
        &mut self,
        connection: &mut LiveConnection<'_, '_, '_, IO>,
    ) -> Result<(), CloseReason> {
        if self.subscriptions.is_complete() {
            return Ok(());
        }
        let deadline = Instant::now().saturating_add(ticks(self.config.timeout));
        // Subscriptions of an earlier connection that were not acknowledged are sent again by minimq,
        // and take up its room until then.
        while !connection.session().is_publish_quiescent() {
            self.progress(connection, deadline).await?;
        }
        for index in 0.. {
            let next = self.agent.borrow().subscription(index);
            let Some(filter) = next else { break };
            let topics = subscriptions::commands(&filter);
            let sent = {
                // Pinned before it is handed on: it would be there twice.
                let subscribe = pin!(connection.subscribe(&topics, &[]));
                let subscribe = pin!(with_deadline(deadline, subscribe));
                self.driver.run_until(subscribe).await?
            };
            let op = match sent {
                Ok(Ok(op)) => op,
                Ok(Err(err)) => return Err(ConnectionError::new(&err, self.activity).into()),
                Err(_) => return Err(ConnectionError::Timeout.into()),
            };
            while connection.is_pending(&op) {
                let refused = self.progress(connection, deadline).await?;
                if let (Some(code), false) = (refused, connection.is_pending(&op)) {
                    error!("the broker refuses the subscription to {filter}");
                    return Err(ConnectionError::Subscription(code.into()).into());
                }
            }
        }
        self.subscriptions = Subscriptions::Complete;
        Ok(())
    }

    /// Lets the connection progress, and returns the code with which the broker has refused an
    /// operation, if it did.
    async fn progress<IO: minimq::Io>(
        &mut self,
        connection: &mut LiveConnection<'_, '_, '_, IO>,
        deadline: Instant,
    ) -> Result<Option<ReasonCode>, CloseReason> {
        let progress = {
            let poll = pin!(with_deadline(deadline, poll(connection, self.activity)));
            self.driver.run_until(poll).await?
        };
        let refused = match progress {
            Ok(Ok(())) => None,
            Ok(Err(Error::Peer(PeerError::Rejected(code)))) => Some(code),
            Ok(Err(err)) => {
                self.settle(connection.session(), None);
                return Err(ConnectionError::new(&err, self.activity).into());
            }
            Err(_) => return Err(ConnectionError::Timeout.into()),
        };
        self.settle(connection.session(), refused);
        Ok(refused)
    }

    /// Serves a connection that has all its subscriptions, until it is lost or the link is over.
    async fn run_online<IO: minimq::Io>(
        &mut self,
        connection: &mut LiveConnection<'_, '_, '_, IO>,
        retry: &mut Retry,
    ) -> CloseReason {
        self.status.connected();
        let since = Instant::now();
        self.tell(Event::Connected);
        let reason = self.serve(connection).await;
        if let Some(token) = self.publishing.disconnect() {
            tell_fate(self.agent, token, Delivery::Lost);
        }
        self.tell(Event::Disconnected);
        if let CloseReason::Failed(error) = reason {
            self.status.lost(error);
            if since.elapsed() >= STABLE {
                retry.reset();
            }
        }
        reason
    }

    async fn serve<IO: minimq::Io>(
        &mut self,
        connection: &mut LiveConnection<'_, '_, '_, IO>,
    ) -> CloseReason {
        loop {
            self.settle(connection.session(), None);
            self.driver.tick();
            if let Err(reason) = self.publish_all(connection).await {
                return reason;
            }
            if let Err(reason) = self.change_subscriptions(connection).await {
                return reason;
            }
            if self.driver.is_over() {
                return CloseReason::Stopped;
            }
            let is_quiescent = || connection.session().is_publish_quiescent();
            if self.is_to_pause() && !self.activity.has_stub.get() && is_quiescent() {
                return ConnectionError::ReceiveMaximum.into();
            }
            let last_heard = self.activity.last_heard.get();
            let silent = self.liveness.deadline(connection.session(), last_heard);
            if silent.is_some_and(|at| Instant::now() >= at) {
                return ConnectionError::Silent.into();
            }
            let deadlines = [silent, self.pause_at().filter(|_| !self.is_to_pause())];
            let at = self.driver.deadline();
            let at = deadlines.into_iter().flatten().fold(at, Instant::min);
            let progress = {
                let poll = pin!(poll(connection, self.activity));
                self.driver.wait(poll, at).await
            };
            match progress {
                Either3::First(signal) => self.driver.accept(signal),
                Either3::Second(Ok(())) | Either3::Third(()) => {}
                Either3::Second(Err(Error::Peer(PeerError::Rejected(code)))) => {
                    if self
                        .subscriptions
                        .take_answer(|op| connection.is_pending(op))
                    {
                        let reason = Reason(code.into());
                        warn!("the broker refuses a guest's subscription: {reason}");
                    }
                    self.settle(connection.session(), Some(code));
                }
                Either3::Second(Err(err)) => {
                    // An acknowledgement may have come before it.
                    self.settle(connection.session(), None);
                    return ConnectionError::new(&err, self.activity).into();
                }
            }
        }
    }

    /// Tells the agent the fates of its publications. A refusal comes out of the very poll that
    /// completes the operation, so with `refused` the one that has become complete is the refused one.
    fn settle(&mut self, session: &Session<'_>, refused: Option<ReasonCode>) {
        let delivery = match refused {
            None if self.activity.is_unheard.get() => Delivery::Unheard,
            None => Delivery::Done,
            Some(_) => Delivery::Refused,
        };
        let agent = self.agent;
        let tell = |token, delivery| {
            if let Some(code) = refused {
                let (topic, reason) = (agent.borrow().topic(token), Reason(code.into()));
                warn!("the broker refuses a publication to {topic}: {reason}");
            }
            tell_fate(agent, token, delivery);
        };
        self.publishing.settle(session, delivery, tell);
        self.liveness.settle(session);
    }

    /// Whether another operation that is acknowledged may begin.
    fn has_room<IO: minimq::Io>(&self, connection: &LiveConnection<'_, '_, '_, IO>) -> bool {
        self.publishing.is_open() && !self.is_to_pause() && connection.can_publish(QoS::AtLeastOnce)
    }

    /// When the next connection is to bring the messages that were more than could be taken: all others are
    /// answered, and no more come.
    fn pause_at(&self) -> Option<Instant> {
        let is_due = self.activity.has_excess.get() && !self.agent.borrow().is_behind();
        is_due.then(|| self.activity.last_heard.get() + ticks(self.config.lull))
    }

    /// Whether that is now. What is on its way to the broker arrives first: it would go twice.
    fn is_to_pause(&self) -> bool {
        self.pause_at().is_some_and(|at| at <= Instant::now())
    }

    /// Subscribes and unsubscribes as the agent wants, one after the other.
    async fn change_subscriptions<IO: minimq::Io>(
        &mut self,
        connection: &mut LiveConnection<'_, '_, '_, IO>,
    ) -> Result<(), CloseReason> {
        loop {
            self.subscriptions
                .take_answer(|op| connection.is_pending(op));
            if !self.has_room(connection) {
                return Ok(());
            }
            let next = || self.agent.borrow_mut().poll_subscribe();
            let Some(change) = self.subscriptions.due(next) else {
                return Ok(());
            };
            let sent = {
                let change = pin!(subscriptions::change(connection, change));
                self.driver.finish(change).await?
            };
            self.subscriptions = match sent {
                Ok(op) => Subscriptions::Sent(op),
                Err(err) if !connection.is_connected() => {
                    return Err(ConnectionError::new(&err, self.activity).into());
                }
                // Acknowledgements make room.
                Err(_) if !connection.session().is_publish_quiescent() => return Ok(()),
                Err(_) => {
                    error!("{change:?} does not fit the send buffer");
                    Subscriptions::Complete
                }
            };
        }
    }

    /// Publishes what the agent has to say, as far as there is room.
    async fn publish_all<IO: minimq::Io>(
        &mut self,
        connection: &mut LiveConnection<'_, '_, '_, IO>,
    ) -> Result<(), CloseReason> {
        loop {
            let has_room = self.has_room(connection);
            let poll = |most| match connection.can_publish(QoS::AtMostOnce) {
                true => {
                    let now = agent_time(Instant::now());
                    self.agent.borrow_mut().poll_publish(most, now)
                }
                false => None,
            };
            let Some(publication) = self.publishing.next(has_room, poll) else {
                return Ok(());
            };
            let is_acknowledged = publication.qos == Qos::AtLeastOnce;
            let is_probe = !is_acknowledged
                && has_room
                && self.liveness.is_probe_due(self.activity.last_heard.get());
            let qos = match is_acknowledged || is_probe {
                true => QoS::AtLeastOnce,
                false => QoS::AtMostOnce,
            };
            let token = publication.token;
            let attempt = {
                let publish = pin!(publish(self.agent, connection, self.activity, token, qos));
                self.driver.finish(publish).await
            };
            // The stream may be inside a packet at the end of the grace period: no goodbye then.
            let attempt = attempt.unwrap_or(Attempt::Broken {
                encoded: false,
                error: ConnectionError::Stalled,
            });
            if let Some(fate) = self.publishing.attempted(publication, &attempt) {
                tell_fate(self.agent, token, fate);
            }
            match attempt {
                Attempt::InFlight(op) if is_probe => self.liveness.probe_sent(op),
                // The broker's maximum is QoS 0.
                Attempt::Written if qos == QoS::AtLeastOnce => self.liveness.disable_probes(),
                // It may be given out again at once: let something be acknowledged first.
                Attempt::NoRoom if !is_acknowledged => return Ok(()),
                Attempt::Broken { error, .. } => return Err(error.into()),
                Attempt::InFlight(_) | Attempt::Written | Attempt::Failed(_) | Attempt::NoRoom => {}
            }
        }
    }
}
