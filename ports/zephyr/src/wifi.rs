//! Wi-Fi: the core's state machine on net_mgmt.

use crate::{
    clock,
    ffi::{self, WifiEvent},
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
        proplet::wifi::Settings {
            has_credentials,
            seed: ffi::random().into(),
            ..proplet::wifi::Settings::DEFAULT
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
            let ssid = c_string::<33>(&settings.wifi_ssid).ok_or(invalid)?;
            let psk = c_string::<65>(&settings.wifi_psk).ok_or(invalid)?;
            ffi::wifi::connect(&ssid, &psk)
        }
        Action::Disconnect => ffi::wifi::disconnect(),
        Action::StartDhcp => ffi::wifi::dhcp(),
        Action::StartAccessPoint => ffi::wifi::access_point(),
    }
}

/// By `PROPLET_WIFI_*`, and by Zephyr's `wifi_conn_status`.
fn translate(event: &WifiEvent) -> Event {
    let status = event.status;
    match event.kind {
        0 => Event::Associated,
        1 => Event::ConnectFailed(match status {
            2 => Reason::WrongPassword,
            3 => Reason::Timeout,
            4 => Reason::NoNetwork,
            _ => Reason::Unknown(status),
        }),
        2 => Event::LinkLost(Reason::Unknown(status)),
        3 => Event::AddressBound(IpAddr::from(event.address)),
        4 => Event::AddressLost,
        5 => Event::AccessPointUp,
        6 => Event::AccessPointFailed(status),
        _ => Event::Refused(status),
    }
}
