//! Begin and end of an MQTT session.

use crate::{
    config::{LinkConfig, SetupError},
    dial::LiveConnection,
};
use embassy_time::Duration;
use log::debug;
use minimq::{ConfigBuilder, QoS, Session, Will};
use proplet::{agent::Agent, engine::Engine};

/// Longest time of the goodbye.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);

/// DISCONNECT, reason 0: the broker keeps the session, and does not publish the will.
pub(crate) const PAUSE: &[u8] = &[0xe0, 0];

/// DISCONNECT, reason 0, with a session expiry interval of 0: the broker is to forget the session
/// and not to publish the will. minimq has no room to encode that property.
pub(crate) const END: &[u8] = &[0xe0, 7, 0x00, 5, 0x11, 0, 0, 0, 0];

/// A session of which the broker knows nothing yet.
pub(crate) fn new_session<'b, E: Engine>(
    agent: &Agent<'_, E>,
    config: &LinkConfig<'b>,
    rx: &'b mut [u8],
    tx: &'b mut [u8],
    will: &'b mut [u8],
) -> Result<Session<'b>, SetupError> {
    let mut builder = ConfigBuilder::new(minimq::Buffers::new(rx, tx))
        .client_id(config.proplet_id)
        .map_err(|_| SetupError::PropletId)?
        .keepalive_interval(config.keep_alive)
        .session_expiry_interval(config.session_expiry)
        .autodowngrade_qos();
    if !config.api_key.is_empty() {
        builder = builder
            .auth(config.proplet_id, config.api_key.as_bytes())
            .map_err(|_| SetupError::PropletId)?;
    }
    if config.will {
        let (topic, len) = agent.will(will).map_err(|_| SetupError::Will)?;
        let payload = will.get(..len).ok_or(SetupError::Will)?;
        let will = Will::new(&topic, payload, &[])
            .map_err(|_| SetupError::Will)?
            .qos(QoS::AtLeastOnce);
        builder = builder.will(will).map_err(|_| SetupError::Will)?;
    }
    Ok(Session::new(builder))
}

/// Takes leave of the broker by this DISCONNECT.
pub(crate) async fn goodbye<IO: minimq::Io>(
    mut connection: LiveConnection<'_, '_, '_, IO>,
    disconnect: &[u8],
) {
    // A packet that has begun to be written must be whole; incoming ones no longer matter.
    while let Ok(Some(_)) = connection.drive().await {}
    if connection.is_connected() {
        let mut io = connection.into_inner();
        // The broker notices the end of the connection in any case.
        if write_all(&mut io, disconnect).await.is_err() || io.drain().await.is_err() {
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
