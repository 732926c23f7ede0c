//! Publications on their way to the broker, until their fates are known.

use crate::{dial::LiveConnection, error::ConnectionError, gate::PeerActivity, time::agent_time};
use core::cell::{Cell, RefCell};
use embassy_time::Instant;
use log::error;
use minimq::{Error, Op, PubError, QoS, ResourceError, Session};
use proplet::{
    agent::{Agent, Delivery, Publication, Qos, Token},
    engine::Engine,
};

/// Publications that may wait for their acknowledgement: minimq's bound.
const IN_FLIGHT: usize = 8;

/// Connections in a row that the broker ends because of a packet, until the packet is given up.
const BAD_PACKETS_MAX: u8 = 3;

/// Publications at QoS 1 that were given out and have no fate yet.
pub(crate) struct Publishing {
    /// Publications that the broker has not acknowledged. They outlive a connection: minimq
    /// sends them again when the session is resumed.
    in_flight: heapless::Vec<(Op, Token), IN_FLIGHT>,
    next: Next,
    /// Connections in a row that the broker has ended because of a packet.
    bad_packets: u8,
}

/// Claim to be the next publication at QoS 1.
enum Next {
    /// The agent's choice.
    Any,
    /// This one, which found no room in the send buffer. An acknowledgement makes room.
    Blocked(Token),
    /// This one, for which room may have been made.
    Retry(Token),
    /// None: the connection broke while this one was first sent. minimq keeps it and has named no
    /// operation for it, so it is complete when minimq has nothing left to send.
    Unnamed(Token),
}

impl Publishing {
    pub(crate) const fn new() -> Self {
        Self {
            in_flight: heapless::Vec::new(),
            next: Next::Any,
            bad_packets: 0,
        }
    }

    /// Whether another operation that is acknowledged may begin, where minimq has room for one.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.next, Next::Unnamed(_))
    }

    /// The next publication to send: the one that claims to be next, or what `poll` gives of a quality.
    /// `has_room` tells whether an operation that is acknowledged may begin.
    pub(crate) fn next(
        &mut self,
        has_room: bool,
        poll: impl FnOnce(Qos) -> Option<Publication>,
    ) -> Option<Publication> {
        match self.next {
            Next::Retry(token) if has_room => {
                self.next = Next::Any;
                let qos = Qos::AtLeastOnce;
                Some(Publication { token, qos })
            }
            Next::Any if has_room => poll(Qos::AtLeastOnce),
            Next::Any | Next::Blocked(_) | Next::Retry(_) | Next::Unnamed(_) => {
                poll(Qos::AtMostOnce)
            }
        }
    }

    /// Takes the outcome of an attempt, and returns the publication's fate unless it is kept.
    pub(crate) fn attempted(
        &mut self,
        publication: Publication,
        attempt: &Attempt,
    ) -> Option<Delivery> {
        let Publication { token, qos } = publication;
        let keeps = qos == Qos::AtLeastOnce;
        match *attempt {
            // minimq has no more of them than there is room for.
            Attempt::InFlight(op) if keeps => {
                let kept = self.in_flight.push((op, token));
                kept.err().map(|_| Delivery::Lost)
            }
            Attempt::InFlight(_) | Attempt::Written => Some(Delivery::Done),
            Attempt::Failed(delivery) => Some(delivery),
            Attempt::NoRoom if keeps => {
                self.next = Next::Blocked(token);
                None
            }
            Attempt::Broken { encoded: true, .. } if keeps => {
                self.next = Next::Unnamed(token);
                None
            }
            Attempt::NoRoom | Attempt::Broken { .. } => Some(Delivery::Lost),
        }
    }

    /// Takes the publication that has to leave with the connection on which it found no room.
    pub(crate) fn disconnect(&mut self) -> Option<Token> {
        match self.next {
            Next::Blocked(token) | Next::Retry(token) => {
                self.next = Next::Any;
                Some(token)
            }
            Next::Any | Next::Unnamed(_) => None,
        }
    }

    /// Tells the fate of publications that are complete, which is `delivery`.
    pub(crate) fn settle(
        &mut self,
        session: &Session<'_>,
        delivery: Delivery,
        mut tell: impl FnMut(Token, Delivery),
    ) {
        let mut at = 0;
        while let Some(&(op, token)) = self.in_flight.get(at) {
            if session.is_pending(&op) {
                at += 1;
                continue;
            }
            self.in_flight.remove(at);
            self.bad_packets = 0;
            self.unblock();
            tell(token, delivery);
        }
        if session.is_publish_quiescent() {
            self.unblock();
            if let Next::Unnamed(token) = self.next {
                self.next = Next::Any;
                tell(token, delivery);
            }
        }
    }

    fn unblock(&mut self) {
        if let Next::Blocked(token) = self.next {
            self.next = Next::Retry(token);
        }
    }

    /// Notes that the broker has ended a connection because of a packet.
    pub(crate) fn count_bad_packet(&mut self) {
        self.bad_packets = self.bad_packets.saturating_add(1);
    }

    /// Whether the session would repeat a publication without end, for which the broker ends each
    /// connection.
    pub(crate) fn is_stuck(&self) -> bool {
        let repeats = !self.in_flight.is_empty() || !self.is_open();
        self.bad_packets >= BAD_PACKETS_MAX && repeats
    }

    /// Gives up the publication that is stuck: the oldest, for the broker takes them in turn. The
    /// others are lost with the session.
    pub(crate) fn give_up(&mut self, tell: impl FnMut(Token, Delivery)) {
        self.bad_packets = 0;
        self.clear(Delivery::Refused, tell);
    }

    /// Loses all of them with the session.
    pub(crate) fn lose(&mut self, tell: impl FnMut(Token, Delivery)) {
        self.clear(Delivery::Lost, tell);
    }

    fn clear(&mut self, mut oldest: Delivery, mut tell: impl FnMut(Token, Delivery)) {
        let in_flight = core::mem::take(&mut self.in_flight);
        let next = match core::mem::replace(&mut self.next, Next::Any) {
            Next::Blocked(token) | Next::Retry(token) | Next::Unnamed(token) => Some(token),
            Next::Any => None,
        };
        for token in in_flight.into_iter().map(|(_, token)| token).chain(next) {
            tell(token, core::mem::replace(&mut oldest, Delivery::Lost));
        }
    }
}

/// Outcome of an attempt to publish.
pub(crate) enum Attempt {
    /// It was written out, and its acknowledgement is awaited.
    InFlight(Op),
    /// It was written out, and no acknowledgement will come.
    Written,
    /// It can't be sent.
    Failed(Delivery),
    /// It does not fit the send buffer now.
    NoRoom,
    /// The connection broke. At QoS 1 minimq keeps it if it was `encoded`.
    Broken {
        encoded: bool,
        error: ConnectionError,
    },
}

/// Publishes what the agent calls `token`, at `qos`, which may be more than the agent asks for.
pub(crate) async fn publish<E: Engine, IO: minimq::Io>(
    agent: &RefCell<Agent<'_, E>>,
    connection: &mut LiveConnection<'_, '_, '_, IO>,
    activity: &PeerActivity,
    token: Token,
    qos: QoS,
) -> Attempt {
    let topic = agent.borrow().topic(token);
    let encoded = Cell::new(false);
    // Serialised on the first poll; the agent is free again while that is sent.
    let message = minimq::Publication::new(&topic, |buf: &mut [u8]| {
        let now = agent_time(Instant::now());
        let written = agent.borrow().write(token, buf, now);
        encoded.set(written.is_ok());
        written.map_err(|_| ())
    })
    .qos(qos);
    match connection.publish(message).await {
        Ok(Some(op)) => Attempt::InFlight(op),
        Ok(None) => Attempt::Written,
        Err(PubError::Session(err)) if !connection.is_connected() => Attempt::Broken {
            encoded: encoded.get(),
            error: ConnectionError::new(&err, activity),
        },
        Err(PubError::Session(Error::NotReady))
        | Err(PubError::Session(Error::Resource(ResourceError::InflightExhausted))) => {
            Attempt::NoRoom
        }
        Err(PubError::Payload(()))
        | Err(PubError::Session(Error::Resource(ResourceError::BufferTooSmall))) => {
            if !connection.session().is_publish_quiescent() {
                return Attempt::NoRoom;
            }
            error!(
                "{topic}: a message is too large for the send buffer of {} bytes",
                connection.session().max_tx_packet_size()
            );
            Attempt::Failed(Delivery::TooLarge)
        }
        Err(PubError::Session(Error::Resource(_))) => {
            error!("{topic}: a message is larger than the broker's maximum packet size");
            Attempt::Failed(Delivery::TooLarge)
        }
        Err(PubError::Session(_)) => {
            error!("{topic}: a message can't be published");
            Attempt::Failed(Delivery::Refused)
        }
    }
}
