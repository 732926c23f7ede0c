//! The way to the broker: resolve, connect, TLS, CONNECT.

use crate::{
    ConnectionError, LinkConfig, Stack, TlsError,
    bounded::{Bounded, PeerActivity},
    time::ticks,
};
use core::net::{IpAddr, SocketAddr};
use embassy_time::{Instant, with_timeout};
use embedded_io_async::{Error as _, ErrorKind};
use embedded_nal_async::AddrType;
use log::{info, warn};
use minimq::{ConnectEvent, Connection, Error, Session};

/// A connection of the session, after its CONNACK.
pub(crate) type LiveConnection<'s, 'b, 'w, IO> = Connection<'s, 'b, Bounded<'w, IO>>;

/// Establishes the session on a new connection. `rx_len` is the length of the receive buffer. Each of
/// the steps is bounded by the timeout of `config`.
///
/// # Errors
/// The step that failed.
pub(crate) async fn dial<'s, 'b, 'w, S: Stack>(
    stack: &'s S,
    session: &'s mut Session<'b>,
    config: &LinkConfig<'_>,
    activity: &'w PeerActivity,
    rx_len: usize,
) -> Result<LiveConnection<'s, 'b, 'w, S::Connection<'s>>, ConnectionError> {
    // An address literal of IPv6 may come in the brackets that it has in a URL.
    let host = config.host.trim_start_matches('[').trim_end_matches(']');
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => resolve(stack, config).await?,
    };
    let address = SocketAddr::new(ip, config.port);
    info!("connecting to {address}");
    let io = connect(stack, address, host, config).await?;
    activity.reset();
    let io = Bounded::new(io, activity, rx_len, ticks(config.write_timeout));
    let connection = match with_timeout(ticks(config.timeout), session.connect(io)).await {
        Ok(Ok(connection)) => connection,
        // minimq does not know every code, nor the answer of a 3.1.1 broker.
        Ok(Err(err)) => {
            return Err(match (err, activity.reason_code.get()) {
                (Error::Peer(_), Some(code)) if code != 0 => ConnectionError::Refused(code),
                (err, _) => ConnectionError::new(&err, activity),
            });
        }
        Err(_) => return Err(ConnectionError::Timeout),
    };
    activity.reason_code.set(None);
    activity.last_heard.set(Instant::now());
    match connection.connect_event() {
        ConnectEvent::Connected => info!("connected to {address}, with a new session"),
        ConnectEvent::Reconnected => info!("connected to {address}, session resumed"),
    }
    Ok(connection)
}

async fn resolve<S: Stack>(stack: &S, config: &LinkConfig<'_>) -> Result<IpAddr, ConnectionError> {
    let host = config.host;
    let lookup = stack.get_host_by_name(host, AddrType::Either);
    match with_timeout(ticks(config.timeout), lookup).await {
        Ok(Ok(ip)) => Ok(ip),
        Ok(Err(err)) => {
            warn!("{host}: {err:?}");
            Err(ConnectionError::Resolve)
        }
        Err(_) => Err(ConnectionError::Resolve),
    }
}

async fn connect<'s, S: Stack>(
    stack: &'s S,
    address: SocketAddr,
    host: &str,
    config: &LinkConfig<'_>,
) -> Result<S::Connection<'s>, ConnectionError> {
    let timeout = ticks(config.timeout);
    let connect = async {
        match config.tls {
            true => stack.connect_tls(address, host).await,
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
