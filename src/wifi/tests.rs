//! Tests of the bring-up: each event at its millisecond, and what must follow exactly.

extern crate std;
use super::*;
use core::net::Ipv4Addr;
use proptest::prelude::*;
use std::string::ToString;

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 8));

/// The delays, in milliseconds, of the seed 1: 1 s, 2 s, 4 s to 60 s with their jitter.
const DELAYS: [u64; 9] = [
    1048, 2102, 4412, 7704, 14_192, 36_640, 52_800, 54_420, 66_180,
];

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn waiting(until: u64, reason: Reason) -> State {
    State::Waiting {
        until: at(until),
        reason,
    }
}

fn station() -> Wifi {
    let settings = WifiConfig {
        has_credentials: true,
        seed: 1,
        ..WifiConfig::DEFAULT
    };
    let mut wifi = Wifi::new(settings, at(0));
    check(&mut wifi, Some(Action::Connect), State::Connecting, 20_000);
    wifi
}

fn access_point() -> Wifi {
    let settings = WifiConfig {
        seed: 1,
        ..WifiConfig::DEFAULT
    };
    let mut wifi = Wifi::new(settings, at(0));
    let state = State::AccessPoint { up: false };
    check(&mut wifi, Some(Action::StartAccessPoint), state, None);
    wifi
}

fn check(wifi: &mut Wifi, action: Option<Action>, state: State, deadline: impl Into<Option<u64>>) {
    assert_eq!(wifi.poll_action(), action);
    assert_eq!(wifi.poll_action(), None);
    assert_eq!(wifi.state(), state);
    assert_eq!(wifi.next_deadline(), deadline.into().map(at));
    assert_eq!(wifi.is_online(), matches!(state, State::Online(_)));
}

/// Hands in `event` at `ms`; what follows is to be just this.
fn step(
    wifi: &mut Wifi,
    (ms, event): (u64, Event),
    action: impl Into<Option<Action>>,
    state: State,
    deadline: impl Into<Option<u64>>,
) {
    wifi.handle(event, at(ms));
    check(wifi, action.into(), state, deadline);
}

/// Hands in an event that is to change nothing.
fn idle(wifi: &mut Wifi, ms: u64, event: Event) {
    let (state, deadline) = (wifi.state(), wifi.next_deadline());
    step(
        wifi,
        (ms, event),
        None,
        state,
        deadline.map(Instant::as_millis),
    );
}

/// Fails at `ms`, for the `nth` time since the delays began.
fn fail(wifi: &mut Wifi, ms: u64, event: Event, reason: Reason, nth: usize) -> u64 {
    let until = ms + DELAYS[nth];
    step(
        wifi,
        (ms, event),
        Action::Disconnect,
        waiting(until, reason),
        until,
    );
    until
}

/// From the end of a wait at `ms` to the address, 3 s later.
fn come_up(wifi: &mut Wifi, ms: u64) -> u64 {
    step(
        wifi,
        (ms, Event::Tick),
        Action::Connect,
        State::Connecting,
        ms + 20_000,
    );
    associate(wifi, ms)
}

fn associate(wifi: &mut Wifi, ms: u64) -> u64 {
    let state = State::AwaitingAddress;
    step(
        wifi,
        (ms + 1000, Event::Associated),
        Action::StartDhcp,
        state,
        ms + 21_000,
    );
    step(
        wifi,
        (ms + 3000, Event::AddressBound(IP)),
        None,
        State::Online(IP),
        None,
    );
    ms + 3000
}

#[test]
fn connects_gets_an_address_and_stays() {
    let mut wifi = station();
    idle(&mut wifi, 999, Event::Tick);
    associate(&mut wifi, 0);
    idle(&mut wifi, 1_000_000, Event::Tick);
}

#[test]
fn every_way_to_fail_backs_off_and_tries_again_for_ever() {
    let mut wifi = station();
    let mut begun = 0;
    for (nth, event, reason) in [
        (
            0,
            Event::ConnectFailed(Reason::WrongPassword),
            Reason::WrongPassword,
        ),
        (
            1,
            Event::ConnectFailed(Reason::NoNetwork),
            Reason::NoNetwork,
        ),
        (2, Event::LinkLost(Reason::Unknown(-1)), Reason::Unknown(-1)),
        (3, Event::Refused(-11), Reason::Refused(-11)),
        (
            4,
            Event::ConnectFailed(Reason::WrongPassword),
            Reason::WrongPassword,
        ),
        (
            5,
            Event::ConnectFailed(Reason::WrongPassword),
            Reason::WrongPassword,
        ),
        (
            6,
            Event::ConnectFailed(Reason::WrongPassword),
            Reason::WrongPassword,
        ),
        (
            7,
            Event::ConnectFailed(Reason::WrongPassword),
            Reason::WrongPassword,
        ),
        (
            8,
            Event::ConnectFailed(Reason::WrongPassword),
            Reason::WrongPassword,
        ),
    ] {
        let until = fail(&mut wifi, begun + 500, event, reason, nth);
        idle(&mut wifi, until - 1, Event::Tick);
        begun = until;
        let state = State::Connecting;
        step(
            &mut wifi,
            (begun, Event::Tick),
            Action::Connect,
            state,
            begun + 20_000,
        );
    }
}

#[test]
fn no_association_in_time() {
    let mut wifi = station();
    let until = fail(&mut wifi, 20_000, Event::Tick, Reason::Timeout, 0);
    come_up(&mut wifi, until);
}

#[test]
fn no_address_in_time() {
    let mut wifi = station();
    let state = State::AwaitingAddress;
    step(
        &mut wifi,
        (700, Event::Associated),
        Action::StartDhcp,
        state,
        20_700,
    );
    idle(&mut wifi, 20_699, Event::Tick);
    let until = fail(&mut wifi, 20_700, Event::Tick, Reason::NoAddress, 0);
    come_up(&mut wifi, until);
}

#[test]
fn dhcp_refused() {
    let mut wifi = station();
    let state = State::AwaitingAddress;
    step(
        &mut wifi,
        (700, Event::Associated),
        Action::StartDhcp,
        state,
        20_700,
    );
    fail(&mut wifi, 701, Event::Refused(-5), Reason::Refused(-5), 0);
}

#[test]
fn only_a_stable_network_makes_the_next_delay_the_first() {
    let lost = Event::LinkLost(Reason::Unknown(0));
    for (up, second) in [(9_999, 2102), (10_000, 1051)] {
        let mut wifi = station();
        let failed = Event::ConnectFailed(Reason::NoNetwork);
        let until = fail(&mut wifi, 5, failed, Reason::NoNetwork, 0);
        let online = come_up(&mut wifi, until);
        wifi.handle(lost, at(online + up));
        let until = online + up + second;
        check(
            &mut wifi,
            Some(Action::Disconnect),
            waiting(until, Reason::Lost(0)),
            until,
        );
    }
}

#[test]
fn the_address_may_change_go_and_come_back() {
    let mut wifi = station();
    let online = associate(&mut wifi, 0);
    idle(&mut wifi, online + 10, Event::AddressBound(IP));
    let renewed = (online + 20, Event::AddressBound(OTHER));
    step(&mut wifi, renewed, None, State::Online(OTHER), None);
    let lost = (50_000, Event::AddressLost);
    step(
        &mut wifi,
        lost,
        Action::StartDhcp,
        State::AwaitingAddress,
        70_000,
    );
    // Of the lease that StartDhcp has dropped.
    idle(&mut wifi, 50_001, Event::AddressLost);
    let bound = (53_000, Event::AddressBound(IP));
    step(&mut wifi, bound, None, State::Online(IP), None);
}

#[test]
fn late_and_double_events_change_nothing() {
    let mut wifi = station();
    // An address is no association.
    for event in [
        Event::AddressBound(IP),
        Event::AddressLost,
        Event::AccessPointUp,
    ] {
        idle(&mut wifi, 10, event);
    }
    let until = fail(&mut wifi, 20_000, Event::Tick, Reason::Timeout, 0);
    for event in [
        Event::LinkLost(Reason::Unknown(0)),
        Event::ConnectFailed(Reason::Timeout),
        Event::AddressBound(IP),
        Event::AddressLost,
        Event::Refused(-120),
        Event::AccessPointUp,
        Event::AccessPointFailed(1),
    ] {
        idle(&mut wifi, 20_010, event);
    }
    let online = come_up(&mut wifi, until);
    for event in [
        Event::Associated,
        Event::ConnectFailed(Reason::NoNetwork),
        Event::Refused(-120),
        Event::AccessPointFailed(1),
    ] {
        idle(&mut wifi, online + 1, event);
    }
}

#[test]
fn a_late_association_is_left_again() {
    let mut wifi = station();
    let until = fail(&mut wifi, 20_000, Event::Tick, Reason::Timeout, 0);
    let state = waiting(until, Reason::Timeout);
    let late = (20_001, Event::Associated);
    step(&mut wifi, late, Action::Disconnect, state, until);
    idle(&mut wifi, 20_050, Event::LinkLost(Reason::Unknown(0)));
    come_up(&mut wifi, until);
}

#[test]
fn any_event_is_a_tick() {
    let mut wifi = station();
    fail(&mut wifi, 20_000, Event::AddressLost, Reason::Timeout, 0);
    // What it waited for counts, though, until the time-out is taken.
    let mut wifi = station();
    let late = (20_001, Event::Associated);
    step(
        &mut wifi,
        late,
        Action::StartDhcp,
        State::AwaitingAddress,
        40_001,
    );
}

#[test]
fn an_action_not_polled_gives_way_to_the_next() {
    let mut wifi = station();
    wifi.handle(Event::Associated, at(10));
    wifi.handle(Event::LinkLost(Reason::Unknown(4)), at(20));
    let until = 20 + DELAYS[0];
    let state = waiting(until, Reason::Lost(4));
    check(&mut wifi, Some(Action::Disconnect), state, until);
}

#[test]
fn without_credentials_there_is_an_access_point() {
    let up = State::AccessPoint { up: true };
    let mut wifi = access_point();
    idle(&mut wifi, 1_000_000, Event::Tick);
    step(&mut wifi, (1_000_001, Event::AccessPointUp), None, up, None);
    for event in [
        Event::AccessPointUp,
        Event::Associated,
        Event::AddressBound(IP),
        Event::Refused(-5),
        Event::LinkLost(Reason::Unknown(0)),
    ] {
        idle(&mut wifi, 1_000_002, event);
    }
}

#[test]
fn an_access_point_that_fails_is_tried_again() {
    let asked = State::AccessPoint { up: false };
    let mut wifi = access_point();
    let state = waiting(1058, Reason::AccessPoint(-22));
    step(&mut wifi, (10, Event::Refused(-22)), None, state, 1058);
    idle(&mut wifi, 1057, Event::Tick);
    idle(&mut wifi, 1057, Event::Associated);
    step(
        &mut wifi,
        (1058, Event::Tick),
        Action::StartAccessPoint,
        asked,
        None,
    );
    let state = waiting(3202, Reason::AccessPoint(1));
    step(
        &mut wifi,
        (1100, Event::AccessPointFailed(1)),
        None,
        state,
        3202,
    );
    step(
        &mut wifi,
        (3202, Event::Tick),
        Action::StartAccessPoint,
        asked,
        None,
    );
    let up = State::AccessPoint { up: true };
    step(&mut wifi, (3300, Event::AccessPointUp), None, up, None);
    let state = waiting(21_103, Reason::AccessPoint(2));
    step(
        &mut wifi,
        (20_000, Event::AccessPointFailed(2)),
        None,
        state,
        21_103,
    );
    // It has come up after all, or by itself.
    step(&mut wifi, (20_500, Event::AccessPointUp), None, up, None);
}

#[test]
fn says_what_is_wrong_and_what_to_do() {
    for (reason, words) in [
        (Reason::WrongPassword, "check wifi_psk"),
        (Reason::NoNetwork, "check wifi_ssid"),
        (Reason::Timeout, "check wifi_ssid"),
        (Reason::NoAddress, "check its DHCP server"),
        (Reason::Lost(3), "(status 3)"),
        (Reason::Refused(-16), "(errno -16)"),
        (Reason::AccessPoint(-22), "(status -22)"),
        (Reason::Unknown(-1), "check wifi_ssid and wifi_psk"),
    ] {
        let said = reason.to_string();
        assert!(said.contains(words) && said.contains(": check "), "{said}");
    }
    assert_eq!(State::Online(IP).to_string(), "online as 10.0.0.7");
    assert_eq!(
        waiting(7, Reason::WrongPassword).to_string(),
        "waiting to try again: wrong password: check wifi_psk"
    );
}

fn event(index: u8) -> Event {
    match index {
        0 => Event::Associated,
        1 => Event::ConnectFailed(Reason::Unknown(1)),
        2 => Event::LinkLost(Reason::Unknown(0)),
        3 => Event::AddressBound(IP),
        4 => Event::AddressBound(OTHER),
        5 => Event::AddressLost,
        6 => Event::AccessPointUp,
        7 => Event::AccessPointFailed(1),
        8 => Event::Refused(-120),
        _ => Event::Tick,
    }
}

proptest! {
    /// Whatever happens, in whatever order: a driver that works from then on brings it up.
    #[test]
    fn no_events_leave_it_stuck(
        has_credentials: bool,
        steps in proptest::collection::vec((0u8..10, 0u64..30_000), 0..60),
    ) {
        let settings = WifiConfig { has_credentials, ..WifiConfig::DEFAULT };
        let mut now = 0;
        let mut wifi = Wifi::new(settings, at(now));
        let mut asked = None;
        for (index, ms) in steps {
            now += ms;
            asked = wifi.poll_action().or(asked);
            wifi.handle(event(index), at(now));
            let lasts = matches!(wifi.state(), State::Online(_) | State::AccessPoint { .. });
            prop_assert_eq!(wifi.next_deadline().is_none(), lasts);
        }
        for _ in 0..8 {
            asked = wifi.poll_action().or(asked);
            let answer = match asked.take() {
                Some(Action::Connect) => Event::Associated,
                Some(Action::StartDhcp) => Event::AddressBound(IP),
                Some(Action::StartAccessPoint) => Event::AccessPointUp,
                Some(Action::Disconnect) => Event::LinkLost(Reason::Unknown(0)),
                None => {
                    now = wifi.next_deadline().map_or(now, Instant::as_millis);
                    Event::Tick
                }
            };
            wifi.handle(answer, at(now));
        }
        prop_assert_eq!(wifi.is_online(), has_credentials);
        let access_point = matches!(wifi.state(), State::AccessPoint { .. });
        prop_assert_eq!(access_point, !has_credentials);
    }
}
