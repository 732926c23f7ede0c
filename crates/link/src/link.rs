//! The MQTT session of one proplet, from the first attempt to the shutdown.

use crate::{
    Application, Buffers, Settings, SetupError, Stack, State, Status, TlsError, Trouble,
    bounded::{self, Bounded, Watch},
    courier::Courier,
    ticks,
};
use core::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    task::Poll,
};
use embassy_futures::{
    join::join_array,
    select::{Either, Either3, select, select3},
};
use embassy_time::{Duration, Instant, Timer, with_deadline, with_timeout};
use embedded_io_async::{Error as _, ErrorKind};
use embedded_nal_async::AddrType;
use log::{debug, error, info, warn};
use minimq::{
    ConfigBuilder, ConnectEvent, Connection, Error, InboundPublish, Op, PeerError, PubError, QoS,
    ReasonCode, ResourceError, Session, SubscriptionOptions, TopicFilter, Will,
};
use proplet::{
    agent::{Delivery, Event, Qos, Subscription},
    retry::Retry,
    time::Instant as Stamp,
};

/// Publications that may wait for their acknowledgement: minimq's bound.
const IN_FLIGHT: usize = 8;

/// A connection that was served for so long makes the next delay the first again.
const STABLE: Duration = Duration::from_secs(10);

/// Least time between two ticks for the same deadline, of an application that does not move it.
const PACE: Duration = Duration::from_millis(5);

/// Longest wait for a timer: an early tick does no harm.
const LONGEST: Duration = Duration::from_secs(3600);

/// Connections in a row that the broker ends because of what we sent, until it is given up.
const BLAMED: u8 = 3;

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// DISCONNECT, reason 0, with a session expiry interval of 0: the broker is to forget the session
/// and not to publish the will. minimq has no room to encode that property.
const DISCONNECT: [u8; 9] = [0xe0, 7, 0x00, 5, 0x11, 0, 0, 0, 0];

/// What the port has to say to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A worker has something to say: the application gets a tick.
    Work,
    /// Shut down: drain the application and end. A second one ends without waiting.
    Shutdown,
}

/// The link is over.
struct Leave;

/// Why an attempt, or a connection, ended.
enum End {
    Leave,
    Trouble(Trouble),
}

impl From<Leave> for End {
    fn from(_: Leave) -> Self {
        Self::Leave
    }
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Keeps the proplet `app` connected to its broker, over connections of `stack`, until `signal`
/// says [`Signal::Shutdown`] and the application is drained or the grace period has passed.
///
/// `signal` is called again and again and its future dropped before it is ready, so it must not
/// lose a signal then; each signal is to be returned once. Whatever the link waits for, the
/// application gets its ticks: at its deadline and on each signal. The futures of `stack` must be
/// safe to drop: a connection attempt is given up then, and a read or write has not happened.
///
/// # Errors
/// Only before anything was tried: the settings can't work. Whatever happens on the network is
/// logged, told in `status`, and tried again.
pub async fn run<S, A, const N: usize>(
    stack: &S,
    app: &mut A,
    settings: &Settings<'_>,
    buffers: Buffers<'_, N>,
    mut signal: impl AsyncFnMut() -> Signal,
    status: &Status,
) -> Result<(), SetupError>
where
    S: Stack,
    A: Application,
{
    if settings.host.is_empty() {
        return Err(SetupError::Host);
    }
    if settings.tls && !stack.has_tls() {
        return Err(SetupError::Tls);
    }
    if settings.proplet_id.is_empty() {
        return Err(SetupError::PropletId);
    }
    let Buffers { rx, tx, will, http } = buffers;
    let limit = rx.len();
    let app = RefCell::new(app);
    let stirred = Cell::new(false);
    let courier = Courier {
        stack,
        app: &app,
        stirred: &stirred,
        timeout: settings.http_timeout,
    };
    let couriers = async {
        join_array(http.map(|buf| courier.work(buf))).await;
        // There are none.
        core::future::pending().await
    };
    let signal = async || {
        let stir = poll_fn(|_| match stirred.take() {
            true => Poll::Ready(Signal::Work),
            false => Poll::Pending,
        });
        match select(signal(), stir).await {
            Either::First(signal) | Either::Second(signal) => signal,
        }
    };
    let watch = Watch::default();
    let mut link = Link {
        app: &app,
        desk: Desk {
            app: &app,
            signal,
            online: false,
            leave: None,
            grace: ticks(settings.grace),
            ticked: Instant::MIN,
        },
        settings,
        status,
        watch: &watch,
        limit,
        subscribed: false,
        change: None,
        changing: None,
        in_flight: heapless::Vec::new(),
        orphan: None,
        held: None,
        full: false,
        probe: None,
        probes: true,
        owed_since: None,
        blamed: 0,
    };
    let mut couriers = pin!(couriers);
    loop {
        let mut session = new_session(&**app.borrow(), settings, rx, tx, will)?;
        // The session first: what it brings begins an exchange in the same poll.
        match select(link.stay(stack, &mut session), couriers.as_mut()).await {
            Either::First(Ok(())) => link.start_over(),
            Either::First(Err(Leave)) => break,
            Either::Second(never) => {
                let never: Infallible = never;
                match never {}
            }
        }
    }
    status.set_state(State::Ended);
    info!("the link has ended");
    Ok(())
}

/// A session of which the broker knows nothing yet.
fn new_session<'b>(
    app: &impl Application,
    settings: &Settings<'b>,
    rx: &'b mut [u8],
    tx: &'b mut [u8],
    will: &'b mut [u8],
) -> Result<Session<'b>, SetupError> {
    let mut config = ConfigBuilder::new(minimq::Buffers::new(rx, tx))
        .client_id(settings.proplet_id)
        .map_err(|_| SetupError::PropletId)?
        .keepalive_interval(settings.keep_alive)
        .session_expiry_interval(settings.session_expiry)
        .autodowngrade_qos();
    if !settings.api_key.is_empty() {
        config = config
            .auth(settings.proplet_id, settings.api_key.as_bytes())
            .map_err(|_| SetupError::PropletId)?;
    }
    if settings.will {
        let (topic, len) = app.will(will).ok_or(SetupError::Will)?;
        let payload = will.get(..len).ok_or(SetupError::Will)?;
        let will = Will::new(&topic, payload, &[])
            .map_err(|_| SetupError::Will)?
            .qos(QoS::AtLeastOnce);
        config = config.will(will).map_err(|_| SetupError::Will)?;
    }
    Ok(Session::new(config))
}

/// Serves the application while something else is awaited.
struct Desk<'r, 'a, A, N> {
    app: &'r RefCell<&'a mut A>,
    signal: N,
    /// Whether the application holds itself for connected.
    online: bool,
    /// When to end at the latest, once a shutdown is asked for.
    leave: Option<Instant>,
    grace: Duration,
    /// When the last tick was.
    ticked: Instant,
}

impl<A: Application, N: AsyncFnMut() -> Signal> Desk<'_, '_, A, N> {
    fn tick(&mut self) {
        let now = Instant::now();
        self.ticked = now;
        self.app.borrow_mut().handle(Event::Tick, stamp(now));
    }

    fn take(&mut self, signal: Signal) {
        if signal == Signal::Shutdown {
            let now = Instant::now();
            if self.leave.is_some() {
                info!("shutting down now");
                self.leave = Some(now);
            } else {
                info!("shutting down");
                self.leave = Some(now.saturating_add(self.grace));
                self.app.borrow_mut().handle(Event::Shutdown, stamp(now));
            }
        }
    }

    /// Whether the grace period has passed.
    fn late(&self) -> bool {
        self.leave.is_some_and(|at| Instant::now() >= at)
    }

    /// Whether a shutdown is asked for and the application has nothing left to do.
    fn drained(&self) -> bool {
        self.leave.is_some() && self.app.borrow().is_drained()
    }

    /// When the application must be served at the latest.
    fn deadline(&self) -> Instant {
        let ticked = self.ticked;
        let mut at = ticked.saturating_add(LONGEST);
        // What has become due since the last tick counts: no deadline is passed over.
        if let Some(due) = self.app.borrow().next_deadline(stamp(ticked)) {
            let due = Instant::try_from_millis(due.as_millis()).unwrap_or(Instant::MAX);
            at = at.min(if due > ticked {
                due
            } else {
                // It was told, and still asks for that moment.
                ticked.saturating_add(PACE)
            });
        }
        self.leave.map_or(at, |leave| at.min(leave))
    }

    /// Awaits `work` while the application gets its ticks. Not by value: a future holds what it was
    /// given and pins twice.
    async fn attend<T>(&mut self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Leave> {
        loop {
            self.tick();
            // What is being sent may be what the application is to be drained of.
            if self.late() || (!self.online && self.drained()) {
                return Err(Leave);
            }
            let at = self.deadline();
            match select3((self.signal)(), work.as_mut(), Timer::at(at)).await {
                Either3::First(signal) => self.take(signal),
                Either3::Second(output) => return Ok(output),
                Either3::Third(()) => {}
            }
        }
    }
}

/// What became of an attempt to publish.
enum Sent {
    /// The link is done with it, this way.
    Settled(Delivery),
    /// It waits for its acknowledgement.
    InFlight(Op),
    /// There is no room for it now.
    NoRoom,
    /// The connection broke, and minimq keeps it or does not.
    Broken { kept: bool, trouble: Trouble },
}

struct Link<'r, 'a, A: Application, N> {
    app: &'r RefCell<&'a mut A>,
    desk: Desk<'r, 'a, A, N>,
    settings: &'r Settings<'r>,
    status: &'r Status,
    watch: &'r Watch,
    /// Bytes of the receive buffer.
    limit: usize,
    /// Whether the broker's session has all our subscriptions.
    subscribed: bool,
    /// A change of what the application is subscribed to besides, until it is acknowledged; and what
    /// minimq calls it, once it keeps it.
    change: Option<Subscription>,
    changing: Option<Op>,
    /// Publications that the broker has not acknowledged. They outlive a connection: minimq
    /// sends them again when the session is resumed.
    in_flight: heapless::Vec<(Op, A::Token), IN_FLIGHT>,
    /// One that minimq keeps but has named no operation for, since the connection broke while it
    /// was first sent. It is done when minimq has nothing left to send; until then no other
    /// joins it.
    orphan: Option<A::Token>,
    /// One that has found no room, and whether there is still none.
    held: Option<(A::Token, Qos)>,
    full: bool,
    /// A publication at QoS 0 that was sent at QoS 1 to hear from the broker.
    probe: Option<Op>,
    /// Whether the broker takes QoS 1 at all.
    probes: bool,
    /// Since when the broker owes us an acknowledgement.
    owed_since: Option<Instant>,
    /// Connections in a row that the broker has ended because of what we sent.
    blamed: u8,
}

type Live<'s, 'b, 'w, IO> = Connection<'s, 'b, Bounded<'w, IO>>;

impl<'r, A: Application, N: AsyncFnMut() -> Signal> Link<'r, '_, A, N> {
    fn tell(&self, event: Event<'_>) {
        self.app.borrow_mut().handle(event, stamp(Instant::now()));
    }

    fn report(&self, token: A::Token, delivery: Delivery) {
        let now = stamp(Instant::now());
        self.app.borrow_mut().published(token, delivery, now);
    }

    /// One connection after the other, until the link is over, or the session is of no use.
    async fn stay<S: Stack>(&mut self, stack: &S, session: &mut Session<'_>) -> Result<(), Leave> {
        let Settings {
            retry_first,
            retry_most,
            seed,
            ..
        } = *self.settings;
        let mut retry = Retry::new(retry_first, retry_most, seed);
        loop {
            if !stack.is_up() {
                info!("waiting for the network");
                // Nothing that failed before says anything of this network.
                retry.reset();
            }
            let up = poll_fn(|_| match stack.is_up() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            self.desk.attend(pin!(up)).await?;
            self.status.set_state(State::Connecting);
            let trouble = match self.attempt(stack, session, &mut retry).await {
                End::Leave => return Err(Leave),
                End::Trouble(trouble) => trouble,
            };
            if trouble.is_our_packet() {
                self.blamed = self.blamed.saturating_add(1);
            }
            self.status.set_state(State::Waiting);
            if !stack.is_up() {
                warn!("{trouble}; the network is down");
                continue;
            }
            let delay = retry.delay();
            warn!("{trouble}; next attempt in {} ms", delay.as_millis());
            self.desk.attend(pin!(Timer::after(ticks(delay)))).await?;
            let owes = !self.in_flight.is_empty() || self.orphan.is_some();
            if self.blamed >= BLAMED && owes {
                return Ok(());
            }
        }
    }

    /// Gives up the publication for which the broker ends the connections, and which the session
    /// would repeat for ever: the oldest that is not acknowledged, for it takes them in turn. The
    /// others are sent again.
    fn start_over(&mut self) {
        error!("the broker ends each connection because of a publication: it is given up");
        self.blamed = 0;
        let mut delivery = Delivery::Refused;
        let in_flight = core::mem::take(&mut self.in_flight);
        let tokens = in_flight.into_iter().map(|(_, token)| token);
        for token in tokens.chain(self.orphan.take()) {
            self.report(token, core::mem::replace(&mut delivery, Delivery::Lost));
        }
    }

    /// One connection, from the address to the loss.
    async fn attempt<S: Stack>(
        &mut self,
        stack: &S,
        session: &mut Session<'_>,
        retry: &mut Retry,
    ) -> End {
        let mut connection = match self.connect(stack, session).await {
            Ok(connection) => connection,
            Err(end) => return self.failed(end),
        };
        let end = match self.subscribe(&mut connection).await {
            Ok(()) => self.stay_online(&mut connection, retry).await,
            Err(end) => self.failed(end),
        };
        if let End::Leave = end
            && with_timeout(GOODBYE, goodbye(connection)).await.is_err()
        {
            warn!("the broker did not take our goodbye");
        }
        end
    }

    /// Notes the trouble, if any, of an attempt that did not get online.
    fn failed(&self, end: End) -> End {
        if let End::Trouble(trouble) = end {
            self.status.failed(trouble);
        }
        end
    }

    /// Serves a connection that has all its subscriptions, until it is lost or the link is over.
    async fn stay_online<IO: minimq::Io>(
        &mut self,
        connection: &mut Live<'_, '_, '_, IO>,
        retry: &mut Retry,
    ) -> End {
        self.status.connected();
        self.desk.online = true;
        let since = Instant::now();
        self.tell(Event::Connected);
        let end = self.serve(connection).await;
        if let Some((token, _)) = self.held.take() {
            self.report(token, Delivery::Lost);
        }
        self.desk.online = false;
        self.tell(Event::Disconnected);
        if let End::Trouble(trouble) = end {
            self.status.lost(trouble);
            if since.elapsed() >= STABLE {
                retry.reset();
            }
        }
        end
    }

    /// Establishes the session.
    async fn connect<'s, 'b, S: Stack>(
        &mut self,
        stack: &'s S,
        session: &'s mut Session<'b>,
    ) -> Result<Live<'s, 'b, 'r, S::Connection<'s>>, End> {
        let timeout = ticks(self.settings.timeout);
        let host = self.settings.host;
        // An address literal of IPv6 may come in the brackets that it has in a URL.
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let ip = match literal.parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) => {
                let lookup = stack.get_host_by_name(host, AddrType::Either);
                match self
                    .desk
                    .attend(pin!(with_timeout(timeout, lookup)))
                    .await?
                {
                    Ok(Ok(ip)) => ip,
                    Ok(Err(err)) => {
                        warn!("{host}: {err:?}");
                        return Err(Trouble::Resolve.into());
                    }
                    Err(_) => return Err(Trouble::Resolve.into()),
                }
            }
        };
        let address = SocketAddr::new(ip, self.settings.port);

        info!("connecting to {address}");
        let dial = async {
            match self.settings.tls {
                true => stack.connect_tls(address, literal).await,
                false => stack.connect(address).await.map_err(TlsError::Failed),
            }
        };
        let io = match self.desk.attend(pin!(with_timeout(timeout, dial))).await? {
            Ok(Ok(io)) => io,
            Ok(Err(err)) if err.kind() == ErrorKind::InvalidData => {
                warn!("{host}: {err}");
                return Err(Trouble::Tls.into());
            }
            Ok(Err(err)) => {
                warn!("{address}: {:?}", err.kind());
                return Err(Trouble::Dial.into());
            }
            Err(_) => {
                warn!("{address}: no answer within {} s", timeout.as_secs());
                return Err(Trouble::Dial.into());
            }
        };

        self.watch.reset();
        let patience = ticks(self.settings.write_timeout);
        let io = Bounded::new(io, self.watch, self.limit, patience);
        let handshake = session.connect(io);
        let connection = match self
            .desk
            .attend(pin!(with_timeout(timeout, handshake)))
            .await?
        {
            Ok(Ok(connection)) => connection,
            Ok(Err(err)) => {
                // minimq does not know every code, nor what a 3.1.1 broker answers.
                return Err(match (err, self.watch.reason.get()) {
                    (Error::Peer(_), Some(code)) if code != 0 => Trouble::Refused(code),
                    (err, _) => self.trouble(&err),
                }
                .into());
            }
            Err(_) => return Err(Trouble::Timeout.into()),
        };
        self.watch.reason.set(None);
        self.watch.heard.set(Instant::now());
        self.owed_since = None;
        self.probe = None;
        self.probes = true;
        self.full = false;

        match connection.connect_event() {
            ConnectEvent::Connected => {
                info!("connected to {address}, with a new session");
                self.subscribed = false;
                (self.change, self.changing) = (None, None);
                self.tell(Event::NewSession);
                // The broker knows nothing of what was in flight.
                for (_, token) in core::mem::take(&mut self.in_flight) {
                    self.report(token, Delivery::Lost);
                }
                if let Some(token) = self.orphan.take() {
                    self.report(token, Delivery::Lost);
                }
            }
            ConnectEvent::Reconnected => info!("connected to {address}, session resumed"),
        }
        Ok(connection)
    }

    /// Makes all subscriptions, unless the broker's session has them.
    async fn subscribe<IO: minimq::Io>(
        &mut self,
        connection: &mut Live<'_, '_, '_, IO>,
    ) -> Result<(), End> {
        if self.subscribed {
            return Ok(());
        }
        let deadline = Instant::now().saturating_add(ticks(self.settings.timeout));
        // Subscriptions of an earlier connection that nobody has acknowledged are sent again by
        // minimq, and take up its room until then.
        while !connection.session().is_publish_quiescent() {
            self.await_progress(connection, deadline).await?;
        }
        for index in 0.. {
            let next = self.app.borrow().subscription(index);
            let Some(filter) = next else { break };
            let options = SubscriptionOptions::default().maximum_qos(QoS::AtLeastOnce);
            let topics = [TopicFilter::new(&filter).options(options)];
            let subscribe = with_deadline(deadline, connection.subscribe(&topics, &[]));
            let op = match self.desk.attend(pin!(subscribe)).await? {
                Ok(Ok(op)) => op,
                Ok(Err(err)) => return Err(self.trouble(&err).into()),
                Err(_) => return Err(Trouble::Timeout.into()),
            };
            while connection.is_pending(&op) {
                let refused = self.await_progress(connection, deadline).await?;
                if let (Some(code), false) = (refused, connection.is_pending(&op)) {
                    error!("the broker refuses the subscription to {filter}");
                    return Err(Trouble::Subscription(code.into()).into());
                }
            }
        }
        self.subscribed = true;
        Ok(())
    }

    /// Lets the connection progress; what the broker has refused, if it did.
    async fn await_progress<IO: minimq::Io>(
        &mut self,
        connection: &mut Live<'_, '_, '_, IO>,
        deadline: Instant,
    ) -> Result<Option<ReasonCode>, End> {
        let poll = with_deadline(deadline, connection.poll());
        let refused = match self.desk.attend(pin!(poll)).await? {
            Ok(Ok(Some(message))) => {
                self.deliver(&message);
                None
            }
            Ok(Ok(None)) => None,
            Ok(Err(Error::Peer(PeerError::Rejected(code)))) => Some(code),
            Ok(Err(err)) => return Err(self.trouble(&err).into()),
            Err(_) => return Err(Trouble::Timeout.into()),
        };
        self.settle(connection.session(), refused);
        Ok(refused)
    }

    /// Serves a connection until it is lost or the link is over.
    async fn serve<IO: minimq::Io>(&mut self, connection: &mut Live<'_, '_, '_, IO>) -> End {
        loop {
            self.settle(connection.session(), None);
            self.desk.tick();
            if let Err(end) = self.publish_all(connection).await {
                return end;
            }
            if let Err(end) = self.change_subscriptions(connection).await {
                return end;
            }
            if self.desk.late() || self.desk.drained() {
                return End::Leave;
            }
            let silence = self.silence(connection.session());
            if silence.is_some_and(|at| Instant::now() >= at) {
                return Trouble::Silent.into();
            }

            let at = self.desk.deadline();
            let at = silence.map_or(at, |silence| at.min(silence));
            // Signals come first: messages could keep them waiting for ever, they can't do that
            // to messages.
            match select3((self.desk.signal)(), connection.poll(), Timer::at(at)).await {
                Either3::First(signal) => self.desk.take(signal),
                Either3::Second(Ok(Some(message))) => self.deliver(&message),
                Either3::Second(Ok(None)) | Either3::Third(()) => {}
                Either3::Second(Err(Error::Peer(PeerError::Rejected(code)))) => {
                    if self.is_changed(connection) {
                        (self.change, self.changing) = (None, None);
                        warn!("the broker refuses a guest's subscription: {code:?}");
                    }
                    self.settle(connection.session(), Some(code));
                }
                Either3::Second(Err(err)) => return self.trouble(&err).into(),
            }
        }
    }

    fn deliver(&self, message: &InboundPublish<'_>) {
        let topic = message.topic();
        match self.watch.skipped.take() {
            Some(size) if message.payload().is_empty() => {
                warn!(
                    "{topic}: skipped a message of {size} bytes, the limit is {}",
                    self.limit
                );
                self.status.skipped();
                self.tell(Event::Oversized { topic, size });
            }
            _ => self.tell(Event::Message {
                topic,
                payload: message.payload(),
            }),
        }
    }

    /// Tells the application what became of its publications. What the broker refuses comes out
    /// of the very poll that completes the operation, so with `refused` the one that has become
    /// complete is the refused one.
    fn settle(&mut self, session: &Session<'_>, refused: Option<ReasonCode>) {
        let delivery = match refused {
            None => Delivery::Done,
            Some(code) => {
                warn!("the broker refuses a publication: {code:?}");
                Delivery::Refused
            }
        };
        let mut at = 0;
        while let Some(&(op, token)) = self.in_flight.get(at) {
            if session.is_pending(&op) {
                at += 1;
                continue;
            }
            self.in_flight.remove(at);
            self.full = false;
            self.blamed = 0;
            self.report(token, delivery);
        }
        if session.is_publish_quiescent() {
            self.full = false;
            if let Some(token) = self.orphan.take() {
                self.report(token, delivery);
            }
        }
        if self.probe.is_some_and(|op| !session.is_pending(&op)) {
            self.probe = None;
        }
    }

    /// When a broker that owes us an acknowledgement, and says nothing at all, counts as gone.
    ///
    /// minimq's own keep-alive does not see that: each publication, of heartbeats too, puts its
    /// ping off, so on a proplet it never sends one.
    fn silence(&mut self, session: &Session<'_>) -> Option<Instant> {
        if session.is_publish_quiescent() {
            self.owed_since = None;
            return None;
        }
        let since = *self.owed_since.get_or_insert_with(Instant::now);
        let since = since.max(self.watch.heard.get());
        Some(since.saturating_add(self.patience()?))
    }

    /// How long a silent broker is left alone; for ever without a keep-alive.
    fn patience(&self) -> Option<Duration> {
        let keep_alive = self.settings.keep_alive;
        (keep_alive != 0).then(|| Duration::from_secs(keep_alive.into()) / 2)
    }

    /// Whether the broker has answered the change of subscriptions that it was sent.
    fn is_changed<IO: minimq::Io>(&self, connection: &Live<'_, '_, '_, IO>) -> bool {
        self.changing.is_some_and(|op| !connection.is_pending(&op))
    }

    /// Subscribes and unsubscribes as the application wants, one after the other. To repeat a change
    /// that may have arrived does no harm.
    async fn change_subscriptions<IO: minimq::Io>(
        &mut self,
        connection: &mut Live<'_, '_, '_, IO>,
    ) -> Result<(), End> {
        loop {
            if self.is_changed(connection) {
                (self.change, self.changing) = (None, None);
            }
            let room = self.orphan.is_none() && connection.can_publish(QoS::AtLeastOnce);
            if self.changing.is_some() || !room {
                return Ok(());
            }
            if self.change.is_none() {
                self.change = self.app.borrow_mut().poll_subscribe();
            }
            let changed = match &self.change {
                None => return Ok(()),
                Some(Subscription::Add(filter)) => {
                    let options = SubscriptionOptions::default().maximum_qos(QoS::AtLeastOnce);
                    let topics = [TopicFilter::new(filter).options(options)];
                    self.desk
                        .attend(pin!(connection.subscribe(&topics, &[])))
                        .await?
                }
                Some(Subscription::Remove(filter)) => {
                    let topics = [filter.as_str()];
                    self.desk
                        .attend(pin!(connection.unsubscribe(&topics, &[])))
                        .await?
                }
            };
            match changed {
                Ok(op) => self.changing = Some(op),
                Err(err) if !connection.is_connected() => return Err(self.trouble(&err).into()),
                // Acknowledgements make room.
                Err(_) if !connection.session().is_publish_quiescent() => return Ok(()),
                Err(_) => {
                    error!("{:?} does not fit the send buffer", self.change);
                    self.change = None;
                }
            }
        }
    }

    /// Publishes what the application has to say, as far as there is room.
    async fn publish_all<IO: minimq::Io>(
        &mut self,
        connection: &mut Live<'_, '_, '_, IO>,
    ) -> Result<(), End> {
        loop {
            let room = self.orphan.is_none() && connection.can_publish(QoS::AtLeastOnce);
            let again = if room && !self.full {
                self.held.take()
            } else {
                None
            };
            let (token, wanted) = match again {
                Some(publication) => publication,
                None => {
                    if !connection.can_publish(QoS::AtMostOnce) {
                        return Ok(());
                    }
                    let most = if room && self.held.is_none() {
                        Qos::AtLeastOnce
                    } else {
                        Qos::AtMostOnce
                    };
                    let now = stamp(Instant::now());
                    let next = self.app.borrow_mut().poll_publish(most, now);
                    match next {
                        Some(publication) => publication,
                        None => return Ok(()),
                    }
                }
            };

            let delivery = match self.publish(connection, token, wanted).await {
                Sent::Settled(delivery) => delivery,
                Sent::InFlight(op) => {
                    // minimq has no more of them than this has room for.
                    if self.in_flight.push((op, token)).is_ok() {
                        continue;
                    }
                    Delivery::Lost
                }
                Sent::NoRoom if wanted == Qos::AtLeastOnce && self.held.is_none() => {
                    self.held = Some((token, wanted));
                    self.full = true;
                    continue;
                }
                Sent::NoRoom => {
                    // It may be given out again at once: let something be acknowledged first.
                    self.report(token, Delivery::Lost);
                    return Ok(());
                }
                Sent::Broken { kept, trouble } => {
                    if kept {
                        self.orphan = Some(token);
                    } else {
                        self.report(token, Delivery::Lost);
                    }
                    return Err(trouble.into());
                }
            };
            self.report(token, delivery);
        }
    }

    async fn publish<IO: minimq::Io>(
        &mut self,
        connection: &mut Live<'_, '_, '_, IO>,
        token: A::Token,
        wanted: Qos,
    ) -> Sent {
        let topic = self.app.borrow().topic(token);
        let heard = self.watch.heard.get();
        let probe = wanted == Qos::AtMostOnce
            && self.probes
            && self.probe.is_none()
            && self.orphan.is_none()
            && connection.can_publish(QoS::AtLeastOnce)
            && self
                .patience()
                .is_some_and(|after| heard.elapsed() >= after);
        let qos = match wanted {
            Qos::AtMostOnce if !probe => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        };
        let encoded = Cell::new(false);
        let app = self.app;
        // Serialised on the first poll; the application is free again while that is sent.
        let message = minimq::Publication::new(&topic, |buf: &mut [u8]| {
            let len = app.borrow().write(token, buf, stamp(Instant::now()));
            encoded.set(len.is_some());
            len.ok_or(())
        })
        .qos(qos);
        let Ok(result) = self.desk.attend(pin!(connection.publish(message))).await else {
            // The grace period is over, and the stream may be inside a packet: no goodbye.
            return Sent::Broken {
                kept: false,
                trouble: Trouble::Stalled,
            };
        };

        match result {
            Ok(Some(op)) if probe => {
                self.probe = Some(op);
                Sent::Settled(Delivery::Done)
            }
            Ok(Some(op)) => Sent::InFlight(op),
            Ok(None) => {
                // The broker's maximum is QoS 0.
                self.probes &= qos == QoS::AtMostOnce;
                Sent::Settled(Delivery::Done)
            }
            Err(PubError::Session(err)) if !connection.is_connected() => Sent::Broken {
                kept: qos == QoS::AtLeastOnce && !probe && encoded.get(),
                trouble: self.trouble(&err),
            },
            Err(PubError::Session(Error::NotReady))
            | Err(PubError::Session(Error::Resource(ResourceError::InflightExhausted))) => {
                Sent::NoRoom
            }
            Err(PubError::Payload(()))
            | Err(PubError::Session(Error::Resource(ResourceError::BufferTooSmall))) => {
                if connection.session().is_publish_quiescent() {
                    error!(
                        "{topic}: a message is too large for the send buffer of {} bytes",
                        connection.session().max_tx_packet_size()
                    );
                    Sent::Settled(Delivery::TooLarge)
                } else {
                    Sent::NoRoom
                }
            }
            Err(PubError::Session(Error::Resource(_))) => {
                error!("{topic}: a message is larger than the broker's maximum packet size");
                Sent::Settled(Delivery::TooLarge)
            }
            Err(PubError::Session(_)) => {
                error!("{topic}: a message can't be published");
                Sent::Settled(Delivery::Refused)
            }
        }
    }

    /// What an error that ends a connection means.
    fn trouble<E: embedded_io_async::Error>(&self, err: &Error<bounded::Error<E>>) -> Trouble {
        match err {
            Error::Disconnected => match self.watch.reason.get() {
                // minimq gave up waiting for the answer to its ping.
                None if !self.watch.ended.get() => Trouble::Silent,
                reason => Trouble::Closed(reason),
            },
            Error::Transport(bounded::Error::Stalled) => Trouble::Stalled,
            Error::Transport(bounded::Error::Oversized) => Trouble::Protocol,
            // With TLS 1.3 a refusal of our certificate comes after the handshake.
            Error::Transport(bounded::Error::Transport(err))
                if err.kind() == ErrorKind::InvalidData =>
            {
                warn!("{err}");
                Trouble::Tls
            }
            Error::Transport(bounded::Error::Transport(err)) => {
                debug!("{:?}: {err:?}", err.kind());
                Trouble::Transport
            }
            Error::Peer(PeerError::Rejected(code)) => Trouble::Refused((*code).into()),
            Error::Peer(_) => Trouble::Protocol,
            Error::Resource(_) => Trouble::Buffer,
            _ => Trouble::Transport,
        }
    }
}

/// Takes leave of the broker, and of the session that it keeps.
async fn goodbye<IO: minimq::Io>(mut connection: Live<'_, '_, '_, IO>) {
    // What has begun to be written must be whole; what comes in no longer matters.
    while let Ok(Some(_)) = connection.drive().await {}
    if connection.is_connected() {
        let mut io = connection.into_inner();
        // The broker notices the end of the connection in any case.
        if write_all(&mut io, &DISCONNECT).await.is_err() {
            debug!("the connection broke during the goodbye");
        }
    }
}

async fn write_all<IO: minimq::Io>(io: &mut IO, mut bytes: &[u8]) -> Result<(), IO::Error> {
    while !bytes.is_empty() {
        match io.write(bytes).await? {
            0 => break,
            n => bytes = &bytes[n..],
        }
    }
    io.flush().await
}

/// The moment as the application counts it.
pub(crate) fn stamp(now: Instant) -> Stamp {
    Stamp::from_millis(now.as_millis())
}
