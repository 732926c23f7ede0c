//! A link, from its setup to its shutdown.

use crate::{
    config::{Buffers, LinkConfig, SetupError},
    driver::{AgentDriver, Signal},
    error::Stopped,
    gate::{self, BUFFER_MIN, PACKET_MAX, PeerActivity},
    http_client::HttpClient,
    link::Link,
    session::new_session,
    stack::Stack,
    status::{LinkState, LinkStatus},
    time::ticks,
};
use core::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};
use embassy_futures::{
    join::join_array,
    select::{Either, select},
};
use log::info;
use proplet::{agent::Agent, engine::Engine};

/// Keeps `agent` connected to its broker, over connections of `stack`, until `signal` says
/// [`Signal::Shutdown`] and the agent is drained or the grace period has passed.
///
/// The agent is never borrowed while the link is pending: what else the port does with it runs beside
/// the link, as a future of the same task.
///
/// `signal` is called again and again and its future dropped before it is ready, so it must not
/// lose a signal then; each signal must be returned once. Whatever the link waits for, the agent gets
/// its ticks: at its deadline and on each signal. The futures of `stack` must be safe to drop: a
/// connection attempt is given up then, and a read or write has not happened.
///
/// # Errors
/// Only before anything was tried: the configuration can't work. Failures of the network are logged,
/// told in `status`, and tried again.
pub async fn run<S, E, const N: usize>(
    stack: &S,
    agent: &RefCell<Agent<'_, E>>,
    config: &LinkConfig<'_>,
    buffers: Buffers<'_, N>,
    mut signal: impl AsyncFnMut() -> Signal,
    status: &LinkStatus,
) -> Result<(), SetupError>
where
    S: Stack,
    E: Engine,
{
    config.check(stack.has_tls())?;
    let Buffers {
        rx: input,
        output,
        tx,
        will,
        http,
    } = buffers;
    let mut buffers = gate::Buffers { input, output };
    if buffers.input.len() < BUFFER_MIN {
        return Err(SetupError::ReceiveBuffer);
    }
    let has_ended = Cell::new(false);
    let http_client = HttpClient {
        stack,
        agent,
        has_ended: &has_ended,
        timeout: config.http_timeout,
    };
    let exchanges = async {
        join_array(http.map(|buf| http_client.run(buf))).await;
        // Without a buffer there is no client.
        pending().await
    };
    let signal = async || {
        let exchange_end = poll_fn(|_| match has_ended.take() {
            true => Poll::Ready(Signal::Work),
            false => Poll::Pending,
        });
        match select(signal(), exchange_end).await {
            Either::First(signal) | Either::Second(signal) => signal,
        }
    };
    let activity = PeerActivity::default();
    let driver = AgentDriver::new(agent, signal, ticks(config.grace));
    let mut link = Link::new(agent, driver, config, status, &activity);
    let mut packet = [0; PACKET_MAX];
    let mut exchanges = pin!(exchanges);
    loop {
        let mut session = new_session(&agent.borrow(), config, &mut packet, tx, will)?;
        // The session first: a request that it brings begins in the same poll.
        let exchanges = poll_fn(|cx| poll_apart(exchanges.as_mut(), cx));
        match select(
            link.run_session(stack, &mut session, &mut buffers),
            exchanges,
        )
        .await
        {
            Either::First(Ok(())) => link.give_up(),
            Either::First(Err(Stopped)) => break,
            Either::Second(never) => {
                let never: Infallible = never;
                match never {}
            }
        }
    }
    status.set_state(LinkState::Ended);
    info!("the link has ended");
    Ok(())
}

/// Polls a future in a frame of its own, which is not part of the stack while others are polled.
#[inline(never)]
fn poll_apart<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    future.poll(cx)
}
