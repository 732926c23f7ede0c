//! Wi-Fi: the core's state machine on net_mgmt.

use crate::{
    clock,
    ffi::{self, WifiEvent},
    header,
    net::{self, c_string},
};
use core::{cell::Cell, future::poll_fn, net::IpAddr, task::Poll};
use critical_section::Mutex;
use embassy_futures::select::select;
use embassy_time::{Instant, Timer};
use proplet::{
    settings::Settings,
    wifi::{Action, Event, Reason, State, Wifi},
};

/// For the shell.
static STATE: Mutex<Cell<State>> = Mutex::new(Cell::new(State::Connecting));

/// Where the bring-up is.
pub fn state() -> State {
    critical_section::with(|cs| STATE.borrow(cs).get())
}

/// Keeps Wi-Fi up; without end.
pub async fn run(settings: &'static Settings) {
    let has_credentials = !settings.wifi_ssid.is_empty();
    if !has_credentials {
        log::warn!(
            "wifi_ssid is not set: bringing up the access point {}; set it and wifi_psk in the shell",
            zephyr::kconfig::CONFIG_PROPLET_WIFI_AP_SSID
        );
    }
    if let Err(e) = ffi::wifi::start() {
        log::error!("no Wi-Fi interface ({e}): check the board's devicetree and CONFIG_WIFI");
    }
    let mut wifi = Wifi::new(
        proplet::wifi::WifiConfig {
            has_credentials,
            seed: ffi::random().into(),
            ..proplet::wifi::WifiConfig::DEFAULT
        },
        clock::now(),
    );
    loop {
        while let Some(action) = wifi.poll_action() {
            if let Err(e) = perform(action, settings) {
                wifi.handle(Event::Refused(e.0), clock::now());
            }
        }
        net::set_up(wifi.is_online());
        critical_section::with(|cs| STATE.borrow(cs).set(wifi.state()));
        let deadline = match wifi.next_deadline() {
            Some(at) => Instant::from_millis(at.as_millis()),
            None => Instant::MAX,
        };
        // The event first: it may be what the deadline waits for.
        let event = poll_fn(|_| match ffi::wifi::next() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        });
        let event = match select(event, Timer::at(deadline)).await {
            embassy_futures::select::Either::First(event) => translate(&event),
            embassy_futures::select::Either::Second(()) => Event::Tick,
        };
        wifi.handle(event, clock::now());
    }
}

fn perform(action: Action, settings: &Settings) -> Result<(), ffi::Errno> {
    match action {
        Action::Connect => {
            let invalid = ffi::Errno(zephyr::raw::EINVAL as i32);
            let ssid =
                c_string::<{ header::PROPLET_WIFI_SSID_MAX as usize + 1 }>(&settings.wifi_ssid)
                    .ok_or(invalid)?;
            let psk = c_string::<{ header::PROPLET_WIFI_PSK_MAX as usize + 1 }>(&settings.wifi_psk)
                .ok_or(invalid)?;
            ffi::wifi::connect(&ssid, &psk)
        }
        Action::Disconnect => ffi::wifi::disconnect(),
        Action::StartDhcp => ffi::wifi::dhcp(),
        Action::StartAccessPoint => ffi::wifi::access_point(),
    }
}

/// The state machine's event for one of net_mgmt's.
fn translate(event: &WifiEvent) -> Event {
    let status = event.status;
    match event.kind {
        header::PROPLET_WIFI_ASSOCIATED => Event::Associated,
        header::PROPLET_WIFI_CONNECT_FAILED => Event::ConnectFailed(match status as u32 {
            header::PROPLET_WIFI_WRONG_PASSWORD => Reason::WrongPassword,
            header::PROPLET_WIFI_TIMEOUT => Reason::Timeout,
            header::PROPLET_WIFI_NO_NETWORK => Reason::NoNetwork,
            _ => Reason::Unknown(status),
        }),
        header::PROPLET_WIFI_LINK_LOST => Event::LinkLost(Reason::Unknown(status)),
        header::PROPLET_WIFI_ADDRESS => Event::AddressBound(IpAddr::from(event.address)),
        header::PROPLET_WIFI_ADDRESS_LOST => Event::AddressLost,
        header::PROPLET_WIFI_AP_UP => Event::AccessPointUp,
        header::PROPLET_WIFI_AP_FAILED => Event::AccessPointFailed(status),
        _ => Event::Refused(status),
    }
}
