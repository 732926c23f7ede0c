//! Wi-Fi bring-up: what the driver reports goes in, what it is to do comes out.
//!
//! ```text
//! credentials:  Connecting ─▶ AwaitingAddress ─▶ Online
//!                   ▲ └──────────────┴─────────────┴─▶ Waiting
//!                   └──────────────────────────────────────┘
//! none:         AccessPoint ◀─▶ Waiting
//! ```
//!
//! It never gives up and never restarts the device: a wrong password, too, is tried again, as it
//! may be the network that is set right. The credentials stay with the port.

use crate::{
    retry::Retry,
    time::{Duration, Instant},
};
use core::{fmt, net::IpAddr};

/// Time of a connection after which the next delay is the first again.
const STABLE: Duration = Duration::from_secs(10);

/// Time limits and delays.
#[derive(Debug, Clone, Copy)]
pub struct WifiConfig {
    /// Whether there is a network to join. Without one, an access point is brought up.
    pub has_credentials: bool,
    /// Longest wait for the association.
    pub connect_timeout: Duration,
    /// Longest wait for an address. A DHCP client may lose 10 s of it before its first packet
    /// (RFC 2131, 4.4.1).
    pub address_timeout: Duration,
    /// Delay after the first failure, doubled for each further one.
    pub retry_first: Duration,
    /// Most that the delay grows to.
    pub retry_most: Duration,
    /// Seed of the delays' jitter; different on each device.
    pub seed: u64,
}

impl WifiConfig {
    /// The defaults, without credentials.
    pub const DEFAULT: Self = Self {
        has_credentials: false,
        connect_timeout: Duration::from_secs(20),
        address_timeout: Duration::from_secs(20),
        retry_first: Duration::from_secs(1),
        retry_most: Duration::from_secs(60),
        seed: 0,
    };
}

/// Something that happened. One that is late or comes twice does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The network let us in.
    Associated,
    /// It did not, or was not found.
    ConnectFailed(Reason),
    /// There is no association, or none any more. For some drivers this is also how an attempt
    /// fails.
    LinkLost(Reason),
    /// There is an address; also another one, when the lease is renewed.
    AddressBound(IpAddr),
    /// There is no address any more.
    AddressLost,
    /// The access point is up.
    AccessPointUp,
    /// It can't be brought up, or has gone down; the driver's status.
    AccessPointFailed(i32),
    /// The driver refused the action given out last; its errno.
    Refused(i32),
    /// Time passed.
    Tick,
}

/// Reason for which the network, or our access point, is not up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The network does not take the password.
    WrongPassword,
    /// No network of this name is in reach.
    NoNetwork,
    /// There was no association in time.
    Timeout,
    /// There was no address in time.
    NoAddress,
    /// The association was lost; the driver's status.
    Lost(i32),
    /// The driver refused a request; its errno.
    Refused(i32),
    /// Our access point failed; the driver's status, or its errno.
    AccessPoint(i32),
    /// The driver does not say more than this status.
    Unknown(i32),
}

impl fmt::Display for Reason {
    /// The cause, and what to do about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongPassword => f.write_str("wrong password: check wifi_psk"),
            Self::NoNetwork => f.write_str(
                "the network is not found: check wifi_ssid, and that it is on a band that this radio has (often 2.4 GHz only)",
            ),
            Self::Timeout => f.write_str(
                "the network does not answer: check wifi_ssid, and that the access point is near",
            ),
            Self::NoAddress => {
                f.write_str("the network gives no address: check its DHCP server")
            }
            Self::Lost(status) => write!(
                f,
                "the network is lost: check that its access point is up and near (status {status})"
            ),
            Self::Refused(errno) => write!(
                f,
                "the driver refuses a request: check wifi_ssid and wifi_psk, and the driver's log (errno {errno})"
            ),
            Self::AccessPoint(status) => write!(
                f,
                "no access point: check its name and password in the build's configuration, and the driver's log (status {status})"
            ),
            Self::Unknown(status) => write!(
                f,
                "no connection: check wifi_ssid and wifi_psk, and that the access point is up and near (status {status})"
            ),
        }
    }
}

/// Command to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Join the network.
    Connect,
    /// Leave it, or end the attempt. A driver may have nothing to leave; its refusal is ignored.
    Disconnect,
    /// Get an address, afresh: a lease from before is dropped, and [`Event::AddressBound`] is to
    /// follow even if the address is the same.
    StartDhcp,
    /// Bring the access point up.
    StartAccessPoint,
}

/// Where the bring-up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waiting for the association.
    Connecting,
    /// Associated; waiting for an address.
    AwaitingAddress,
    /// Of use, with this address.
    Online(IpAddr),
    /// Something failed; the next attempt is still to come.
    Waiting {
        /// When it is due.
        until: Instant,
        /// The step that failed.
        reason: Reason,
    },
    /// There are no credentials.
    AccessPoint {
        /// Whether the access point is up, not only asked for.
        up: bool,
    },
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::AwaitingAddress => f.write_str("associated, waiting for an address"),
            Self::Online(ip) => write!(f, "online as {ip}"),
            Self::Waiting { reason, .. } => write!(f, "waiting to try again: {reason}"),
            Self::AccessPoint { up: false } => {
                f.write_str("no wifi_ssid is set: starting an access point")
            }
            Self::AccessPoint { up: true } => f.write_str("the access point is up"),
        }
    }
}

/// The bring-up of one radio.
#[derive(Debug)]
pub struct Wifi {
    settings: WifiConfig,
    retry: Retry,
    state: State,
    /// When `state` is over; only `Online` and `AccessPoint` have no end.
    deadline: Option<Instant>,
    /// Since when there has been an address or an access point.
    up_since: Option<Instant>,
    /// One is enough: what a state asks for makes void what the one before asked for.
    action: Option<Action>,
}

impl Wifi {
    /// Begins at once: the first action is there to be polled.
    pub fn new(settings: WifiConfig, now: Instant) -> Self {
        let mut wifi = Self {
            retry: Retry::new(settings.retry_first, settings.retry_most, settings.seed),
            settings,
            state: State::Connecting,
            deadline: None,
            up_since: None,
            action: None,
        };
        wifi.begin(now);
        wifi
    }

    /// Takes an event. [`poll_action`](Self::poll_action) and
    /// [`next_deadline`](Self::next_deadline) are to be asked again after each.
    pub fn handle(&mut self, event: Event, now: Instant) {
        use State::{AccessPoint, AwaitingAddress, Connecting, Online, Waiting};
        match (self.state, event) {
            (Connecting, Event::Associated) | (Online(_), Event::AddressLost) => {
                self.await_address(now);
            }
            (AwaitingAddress, Event::AddressBound(ip)) => {
                self.up_since = Some(now);
                self.enter(Online(ip), None, None);
            }
            (Online(before), Event::AddressBound(ip)) if before != ip => {
                self.enter(Online(ip), None, None);
            }
            (AccessPoint { up: false } | Waiting { .. }, Event::AccessPointUp)
                if !self.settings.has_credentials =>
            {
                self.up_since = Some(now);
                self.enter(AccessPoint { up: true }, None, None);
            }
            // "Disconnected" is all that the ESP32's driver says of a failed attempt.
            (Connecting, Event::ConnectFailed(reason) | Event::LinkLost(reason)) => {
                self.back_off(reason, now);
            }
            (AwaitingAddress | Online(_), Event::LinkLost(Reason::Unknown(status))) => {
                self.back_off(Reason::Lost(status), now);
            }
            (AwaitingAddress | Online(_), Event::LinkLost(reason)) => self.back_off(reason, now),
            (Connecting | AwaitingAddress, Event::Refused(errno)) => {
                self.back_off(Reason::Refused(errno), now);
            }
            (AccessPoint { .. }, Event::AccessPointFailed(status))
            | (AccessPoint { up: false }, Event::Refused(status)) => {
                self.back_off(Reason::AccessPoint(status), now);
            }
            // It connected after the attempt was given up, or by itself, and would refuse the
            // next attempt.
            (Waiting { .. }, Event::Associated) if self.settings.has_credentials => {
                self.action = Some(Action::Disconnect);
            }
            // Late, or known already: worth no more than a tick.
            _ => self.expire(now),
        }
    }

    /// The next thing to do; each is given once.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.action.take()
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Where the bring-up is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the network is of use.
    pub fn is_online(&self) -> bool {
        matches!(self.state, State::Online(_))
    }

    fn begin(&mut self, now: Instant) {
        if self.settings.has_credentials {
            let deadline = now + self.settings.connect_timeout;
            self.enter(State::Connecting, Some(deadline), Some(Action::Connect));
        } else {
            // Without a deadline: not every driver says that it is up, and to ask again would
            // throw its stations out.
            let state = State::AccessPoint { up: false };
            self.enter(state, None, Some(Action::StartAccessPoint));
        }
    }

    fn await_address(&mut self, now: Instant) {
        self.settle(now);
        let deadline = now + self.settings.address_timeout;
        let action = Some(Action::StartDhcp);
        self.enter(State::AwaitingAddress, Some(deadline), action);
    }

    fn expire(&mut self, now: Instant) {
        if self.deadline.is_none_or(|at| now < at) {
            return;
        }
        match self.state {
            State::Connecting => self.back_off(Reason::Timeout, now),
            State::AwaitingAddress => self.back_off(Reason::NoAddress, now),
            State::Waiting { .. } => self.begin(now),
            State::Online(_) | State::AccessPoint { .. } => {}
        }
    }

    /// Each failure disconnects, whatever the driver said: some go on trying by themselves, as
    /// wpa_supplicant does, and refuse to connect meanwhile.
    fn back_off(&mut self, reason: Reason, now: Instant) {
        self.settle(now);
        let until = now + self.retry.delay();
        let action = self.settings.has_credentials.then_some(Action::Disconnect);
        self.enter(State::Waiting { until, reason }, Some(until), action);
        log::warn!(
            "Wi-Fi: {reason}; next attempt in {} ms",
            until.since(now).as_millis()
        );
    }

    /// Ends what was up, if anything was.
    fn settle(&mut self, now: Instant) {
        if self
            .up_since
            .take()
            .is_some_and(|since| now.since(since) >= STABLE)
        {
            self.retry.reset();
        }
    }

    fn enter(&mut self, state: State, deadline: Option<Instant>, action: Option<Action>) {
        self.state = state;
        self.deadline = deadline;
        self.action = action;
        if !matches!(state, State::Waiting { .. }) {
            log::info!("Wi-Fi: {state}");
        }
    }
}

#[cfg(test)]
mod tests;
