//! Settings in the flash of the device, and bad ones.

use crate::support::{
    Broker, Message, Peer, Proplet, QUIET, SOON,
    firmware::{Device, Setting},
    is_alive,
};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

fn is_heartbeat(message: &Message) -> bool {
    is_alive(message) && message.body["status"] == "alive"
}

fn expect_heartbeat(peer: &Peer, since: Instant) {
    peer.expect(SOON, "a heartbeat", |m| is_heartbeat(m) && m.at > since);
}

fn set(settings: &mut Vec<Setting>, name: &str, value: &str) {
    settings.retain(|(n, _)| n != name);
    settings.push((name.into(), value.into()));
}

/// It has begun once, and has not been reset since.
fn assert_one_boot(proplet: &mut Proplet) {
    assert!(proplet.is_running(), "the firmware has ended");
    assert_eq!(proplet.logged("Booting Zephyr"), 1, "boots");
    for words in ["panicked", "FATAL ERROR"] {
        assert_eq!(proplet.logged(words), 0, "'{words}' in the log");
    }
}

/// Resets it, and fails if what its flash has does not suffice to join.
fn assert_joins_after_a_reset(mut proplet: Proplet, device: &Device, peer: &Peer) {
    proplet.kill();
    proplet.wait(SOON);
    let reset = Instant::now();
    let mut proplet = device.boot(&[]);
    expect_heartbeat(peer, reset);
    assert_one_boot(&mut proplet);
}

#[test]
fn saved_settings_outlive_a_reset_and_others_do_not() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    let device = Device::new();
    let mut settings = device.settings(broker.port);
    let mut proplet = device.boot_and_save(&settings);
    expect_heartbeat(&peer, Instant::now());
    proplet.kill();
    proplet.wait(SOON);

    let reset = Instant::now();
    set(&mut settings, "description", "for this run");
    let mut proplet = device.boot(&[settings.last().expect("it was set").clone()]);
    expect_heartbeat(&peer, reset);
    let create = |since: Instant| {
        peer.expect(SOON, "discovery", |m| {
            m.topic == "control/proplet/create" && m.at > since
        })
    };
    let metadata = &create(reset).body["metadata"];
    assert_eq!(metadata["description"], "for this run", "{metadata}");
    proplet.kill();
    proplet.wait(SOON);

    let reset = Instant::now();
    let mut proplet = device.boot(&[]);
    expect_heartbeat(&peer, reset);
    let metadata = &create(reset).body["metadata"];
    assert_ne!(metadata["description"], "for this run", "{metadata}");
    assert_one_boot(&mut proplet);
}

/// As erased flash that was written by something else: the same bytes in each test.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn a_corrupt_flash_is_started_over() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    let device = Device::new();
    fs::write(device.flash(), noise(2 << 20)).expect("a flash");
    let mut proplet = device.boot(&[]);
    proplet.expect_log("the settings' store is corrupt");
    proplet.expect_log("proplet_id is not set");
    thread::sleep(QUIET);
    assert_one_boot(&mut proplet);
    proplet.kill();
    proplet.wait(SOON);

    // And it can be written again.
    fs::write(device.flash(), noise(2 << 20)).expect("a flash");
    let mut proplet = device.boot_and_save(&device.settings(broker.port));
    expect_heartbeat(&peer, Instant::now());
    assert_one_boot(&mut proplet);
    assert_joins_after_a_reset(proplet, &device, &peer);
}

#[test]
fn what_a_full_flash_has_no_room_for_is_refused_and_the_rest_stays() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    let peer = Peer::connect(broker.port, "manager", None);
    let device = Device::new();
    let mut settings = device.settings(broker.port);
    // Three of the largest: each takes one of the four sectors, and one is to be left free.
    for name in ["mqtt_tls_ca", "mqtt_tls_cert", "mqtt_tls_key"] {
        let file = device.path(name);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}", "A".repeat(3800));
        fs::write(&file, pem).expect("a file");
        set(&mut settings, name, &format!("@{}", file.display()));
    }
    let mut proplet = device.boot_and_save(&settings);
    proplet.expect_log("the flash is full");
    expect_heartbeat(&peer, Instant::now());
    assert_one_boot(&mut proplet);
    assert_joins_after_a_reset(proplet, &device, &peer);
}

#[test]
fn settings_that_are_none_are_named_and_it_keeps_running() {
    let Some(broker) = Broker::start(None) else {
        return;
    };
    for (name, value, words) in [
        (
            "mqtt_broker_port",
            "99999",
            "mqtt_broker_port '99999': expected a number from 1 to 65535",
        ),
        (
            "mqtt_broker_port",
            "0",
            "mqtt_broker_port '0': expected a number from 1 to 65535",
        ),
        ("proplet_id", "", "proplet_id is not set"),
        ("channel_id", "a/b", "channel_id 'a/b': expected an id"),
        (
            "heartbeat",
            "soon",
            "heartbeat 'soon': expected a number from 1 to 5",
        ),
        (
            "memory_max_bytes",
            "100",
            "memory_max_bytes '100': expected 0, or 1024 bytes at least",
        ),
        ("mqtt_tls_ca", "nonsense", "mqtt_tls_ca: expected PEM"),
        ("nonsense", "1", "there is no setting 'nonsense'"),
        (
            "trusted_keys",
            "nonsense",
            "trusted_keys has a value that can't be used",
        ),
        (
            "trusted_keys",
            ",",
            "trusted_keys has a value that can't be used",
        ),
        (
            "mqtt_tls_enabled",
            "maybe",
            "mqtt_tls_enabled has a value that can't be used",
        ),
    ] {
        let device = Device::new();
        let mut settings = device.settings(broker.port);
        set(&mut settings, name, value);
        let mut proplet = device.boot(&settings);
        proplet.expect_log(words);
        thread::sleep(QUIET);
        assert_one_boot(&mut proplet);
    }
}

#[test]
fn a_brokers_name_without_an_address_is_named_and_tried_again() {
    if crate::subject::is_missing() {
        return;
    }
    let device = Device::new();
    let mut settings = device.settings(1883);
    set(&mut settings, "mqtt_broker_host", "no-such-host.invalid");
    let mut proplet = device.boot(&settings);
    proplet.expect_log("the broker's name can't be resolved");
    proplet.expect_logs(Duration::from_secs(20), "next attempt in", 2);
    assert_one_boot(&mut proplet);
}
