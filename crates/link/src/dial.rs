//! The way to the broker: resolve, connect, TLS, CONNECT, each bounded by the timeout.
//!
//! They are steps of the conductor, not one future: a connection is large, and each future that hands
//! it on has it on the stack once more.

use crate::{
    config::LinkConfig,
    error::ConnectionError,
    gate::{self, Buffers, Edits, Gate, Inbox, Limits, PeerActivity},
    resumption::Resumption,
    stack::{Stack, TlsError},
    time::ticks,
};
use core::net::{IpAddr, SocketAddr};
use embassy_time::{Instant, with_timeout};
use embedded_io_async::{Error as _, ErrorKind};
use embedded_nal_async::AddrType;
use log::{info, warn};
use minimq::{ConnectEvent, Connection, Error};

/// A connection of the session, after its CONNACK.
pub(crate) type LiveConnection<'s, 'b, 'w, IO> = Connection<'s, 'b, Gate<'w, IO>>;

/// Finds the address of the broker.
pub(crate) async fn resolve<S: Stack>(
    stack: &S,
    config: &LinkConfig<'_>,
) -> Result<SocketAddr, ConnectionError> {
    let host = config.host;
    let ip = match literal(host).parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => {
            let lookup = stack.get_host_by_name(host, AddrType::Either);
            match with_timeout(ticks(config.timeout), lookup).await {
                Ok(Ok(ip)) => ip,
                Ok(Err(err)) => {
                    warn!("{host}: {err:?}");
                    return Err(ConnectionError::Resolve);
                }
                Err(_) => return Err(ConnectionError::Resolve),
            }
        }
    };
    Ok(SocketAddr::new(ip, config.port))
}

/// An address literal of IPv6 may come in the brackets that it has in a URL.
fn literal(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Connects to the broker, with TLS if that is configured.
pub(crate) async fn connect<'s, S: Stack>(
    stack: &'s S,
    address: SocketAddr,
    config: &LinkConfig<'_>,
) -> Result<S::Connection<'s>, ConnectionError> {
    info!("connecting to {address}");
    let timeout = ticks(config.timeout);
    let connect = async {
        match config.tls {
            true => stack.connect_tls(address, literal(config.host)).await,
            false => stack.connect(address).await.map_err(TlsError::Failed),
        }
    };
    match with_timeout(timeout, connect).await {
        Ok(Ok(io)) => Ok(io),
        Ok(Err(err)) if err.kind() == ErrorKind::InvalidData => {
            warn!("{}: {err}", config.host);
            Err(ConnectionError::Tls)
        }
        Ok(Err(err)) => {
            warn!("{address}: {:?}", err.kind());
            Err(ConnectionError::Dial)
        }
        Err(_) => {
            warn!("{address}: no answer within {} s", timeout.as_secs());
            Err(ConnectionError::Dial)
        }
    }
}

/// The largest length that MQTT can tell: no maximum.
const NO_MAXIMUM: u32 = 268_435_455;

/// Puts a gate into a new connection, with these buffers.
pub(crate) fn gate<'w, IO>(
    io: IO,
    inbox: &'w dyn Inbox,
    activity: &'w PeerActivity,
    buffers: Buffers<'w>,
    config: &LinkConfig<'_>,
    resumption: &Resumption,
) -> Gate<'w, IO> {
    activity.reset();
    let limits = Limits {
        connect: Edits {
            max_packet: config.max_packet.unwrap_or(NO_MAXIMUM),
            clean_start: resumption.clean_start(),
            will_at_most_once: resumption.will_at_most_once(),
        },
        patience: ticks(config.write_timeout),
    };
    Gate::new(io, inbox, activity, buffers, limits)
}

/// Takes note of the CONNACK.
pub(crate) fn greeted<IO: minimq::Io>(
    connection: &LiveConnection<'_, '_, '_, IO>,
    activity: &PeerActivity,
    address: SocketAddr,
) {
    activity.reason_code.set(None);
    activity.last_heard.set(Instant::now());
    match connection.connect_event() {
        ConnectEvent::Connected => info!("connected to {address}, with a new session"),
        ConnectEvent::Reconnected => info!("connected to {address}, session resumed"),
    }
}

/// Failure of the CONNECT.
pub(crate) fn refusal<E: embedded_io_async::Error>(
    error: &Error<gate::Error<E>>,
    activity: &PeerActivity,
) -> ConnectionError {
    // minimq does not know every code, nor the answer of a 3.1.1 broker.
    match (error, activity.reason_code.get()) {
        (Error::Peer(_), Some(code)) if code != 0 => ConnectionError::Refused(code),
        (error, _) => ConnectionError::new(error, activity),
    }
}
