//! Modules and deployments that survive a reboot.

use super::*;
use crate::{
    module::{
        hex::to_hex,
        seal::{SEAL_LEN, seal},
        signature::{DOMAIN, ED25519, FORMAT, HEADER, SECTION, Trust},
        strip::{Image, strip_in_place},
        table::digest,
    },
    task::caps::Caps,
};

/// A device that boots with what `store` holds.
fn boot(store: &FakeStore) -> Bench {
    boot_with(store, config(), None)
}

fn boot_with(store: &FakeStore, config: Config<'static>, trust: Option<Trust<'static>>) -> Bench {
    let store = Box::leak(Box::new(store.clone()));
    let mut bench = Bench::with_store(config, Some(store));
    if let Some(trust) = trust {
        bench.agent.set_trust(trust);
    }
    bench.agent.restore(bench.now);
    bench.handle(Event::Connected);
    bench.at(1000);
    bench.drain();
    bench
}

fn latent(id: &str) -> Json {
    with(
        task(id),
        json!({"latent": true, "inputs": ["3", "4"], "env": {"PROPLET_STACK_BYTES": "1024"}}),
    )
}

/// Stored form of a module without custom sections.
fn sealed(module: &str) -> Vec<u8> {
    let mut bytes = module.as_bytes().to_vec();
    let (_, provenance) = strip_in_place(&mut bytes);
    let image = Image { bytes, provenance };
    [&image.bytes[..], &seal(&image)].concat()
}

fn invoke(bench: &mut Bench, id: &str) {
    bench.send(
        "control/manager/invoke",
        json!({"id": id, "invocation_id": "i1", "proplet_id": ID, "inputs": null, "broadcast": false}),
    );
}

#[test]
fn a_deployment_answers_after_a_reboot_without_the_manager() {
    let store = FakeStore::default();
    boot(&store).start(latent("a"));
    assert_eq!(store.kept().modules.len(), 1);
    assert_eq!(store.kept().records.len(), 1);
    let mut bench = boot(&store);
    assert_eq!(bench.agent.status().deployed, 1);
    invoke(&mut bench, "a");
    let run = bench.agent.engine().run(Slot(0));
    assert_eq!(
        (&*run.export, &*run.args),
        ("add", &[Value::I32(3), Value::I32(4)][..])
    );
    assert_eq!(run.limits.stack, 1024);
    bench.exit(0, Ok(Some(Value::I32(7))));
    let out = bench.drain();
    let (_, answer) = out
        .iter()
        .find(|(t, _)| t.ends_with("invoke_results"))
        .unwrap();
    assert_eq!(
        (&answer["invocation_id"], &answer["results"]),
        (&json!("i1"), &json!("7"))
    );
    // A start of the same id, as the manager may send, is harmless.
    bench.start(latent("a"));
    assert_eq!(bench.agent.status().deployed, 1);
    assert!(bench.results_until(1500).is_empty());
}

#[test]
fn a_stopped_deployment_does_not_come_back() {
    let store = FakeStore::default();
    let mut bench = boot(&store);
    bench.start(latent("a"));
    bench.send("control/manager/stop", json!({"id": "a"}));
    assert_eq!(boot(&store).agent.status().deployed, 0);
    assert!(store.kept().records.is_empty());
}

#[test]
fn a_damaged_module_is_removed_and_its_deployment_with_it() {
    let store = FakeStore::default();
    boot(&store).start(latent("a"));
    store.kept().modules[0].1[3] ^= 1;
    let mut bench = boot(&store);
    assert_eq!(bench.agent.status().deployed, 0);
    assert!(bench.arena_is_free());
    assert!(store.kept().modules.is_empty() && store.kept().records.is_empty());
    invoke(&mut bench, "a");
    let out = bench.drain();
    let (_, answer) = out
        .iter()
        .find(|(t, _)| t.ends_with("invoke_results"))
        .unwrap();
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("has not been precompiled"), "{error}");
}

#[test]
fn a_damaged_record_is_removed_and_the_others_are_restored() {
    let store = FakeStore::default();
    let mut bench = boot(&store);
    bench.start(latent("a"));
    bench.start(with(latent("b"), json!({"file": file("add(i32 i32)")})));
    for damage in [
        |bytes: &mut Vec<u8>| bytes.truncate(40),
        |bytes: &mut Vec<u8>| bytes[32] = 99,
        |bytes: &mut Vec<u8>| bytes[0] ^= 1,
    ] {
        let before = store.kept().records.clone();
        damage(&mut store.kept().records[0].1);
        let bench = boot(&store);
        let deployed: Vec<_> = bench.agent.tasks().map(|t| String::from(t.id)).collect();
        assert_eq!(deployed, ["b"]);
        assert_eq!(store.kept().records.len(), 1);
        store.kept().records = before;
    }
}

#[test]
fn a_pinned_module_is_fetched_once_for_all_boots() {
    let store = FakeStore::default();
    let url = format!("http://host/add@sha256:{}", to_hex(&digest(ADD.as_bytes())));
    let start = |id| with(task(id), json!({"file": null, "image_url": url}));
    let mut bench = boot(&store);
    bench.start(start("a"));
    let id = bench.exchange("http://host/add");
    bench.respond(id, ADD.as_bytes());
    let mut bench = boot(&store);
    bench.start(start("b"));
    assert_eq!(bench.agent.poll_request(), None);
    assert_eq!(bench.agent.engine().running.len(), 1);

    // Damaged, it is fetched again, and stored again.
    store.kept().modules[0].1[0] ^= 1;
    let mut bench = boot(&store);
    bench.start(start("c"));
    let id = bench.exchange("http://host/add");
    bench.respond(id, ADD.as_bytes());
    assert_eq!(bench.agent.engine().running.len(), 1);
    assert_eq!(
        store.kept().modules,
        [(digest(ADD.as_bytes()), sealed(ADD))]
    );
}

#[test]
fn only_what_can_be_used_again_is_written() {
    let store = FakeStore::default();
    let mut bench = boot(&store);
    bench.start(task("inline"));
    bench.start(with(
        task("b"),
        json!({"file": null, "image_url": "http://host/b"}),
    ));
    let id = bench.exchange("http://host/b");
    bench.respond(id, "add(i32 i32)".as_bytes());
    assert!(store.kept().modules.is_empty());
    // Its module is loaded already, and rewritten: what is stored is what came.
    bench.start(latent("c"));
    assert_eq!(
        store.kept().modules,
        [(digest(ADD.as_bytes()), sealed(ADD))]
    );
    assert_eq!(bench.agent.engine().loads, 2);
}

#[test]
fn a_full_store_costs_the_reboot_only() {
    let store = FakeStore::default();
    store.kept().is_full = true;
    let mut bench = boot(&store);
    bench.start(latent("a"));
    assert_eq!(bench.agent.status().deployed, 1);
    assert!(store.kept().records.is_empty());
    assert_eq!(boot(&store).agent.status().deployed, 0);
}

#[test]
fn what_is_no_module_does_not_stay_in_the_store() {
    let store = FakeStore::default();
    let mut bench = boot(&store);
    bench.start(with(latent("a"), json!({"file": file("trap")})));
    assert_eq!(bench.agent.status().deployed, 0);
    assert!(store.kept().modules.is_empty());
    // One that has no such function is one, but is not deployed.
    bench.start(with(
        latent("b"),
        json!({"file": file("other()"), "name": "x"}),
    ));
    assert!(store.kept().records.is_empty());
}

#[test]
fn a_restart_with_narrower_settings_keeps_the_deployment() {
    let store = FakeStore::default();
    let mut wide = config();
    wide.limits.caps = Caps::parse("gpio").unwrap();
    let start = with(latent("a"), json!({"env": {"PROPLET_CAPS": "gpio"}}));
    boot_with(&store, wide, None).start(start);

    let mut bench = boot(&store);
    invoke(&mut bench, "a");
    let out = bench.drain();
    let refused = out.iter().find(|(t, _)| t.ends_with("invoke_results"));
    let error = refused.unwrap().1["error"].as_str().unwrap();
    assert!(error.contains("PROPLET_CAPS"), "{error}");

    let mut bench = boot_with(&store, wide, None);
    invoke(&mut bench, "a");
    assert_eq!(bench.agent.status().running, 1);
}

#[test]
fn a_module_that_is_not_loaded_after_a_restart_is_one_restart_later() {
    let store = FakeStore::default();
    boot(&store).start(latent("a"));
    let nobody = || Some(Trust::new(&[]));

    let mut bench = boot_with(&store, config(), nobody());
    assert_eq!(bench.agent.status().deployed, 0);
    invoke(&mut bench, "a");
    let out = bench.drain();
    let refused = out.iter().find(|(t, _)| t.ends_with("invoke_results"));
    let error = refused.unwrap().1["error"].as_str().unwrap();
    assert!(error.contains("could not be restored"), "{error}");
    assert_eq!(boot(&store).agent.status().deployed, 1, "nothing is lost");

    // The manager may deploy it again in its place, or stop it.
    let mut bench = boot_with(&store, config(), nobody());
    bench.start(latent("a"));
    let results = bench.results_until(1300);
    assert!(results[0]["error"].is_string(), "{results:?}");
    assert_eq!(store.kept().records.len(), 0);

    boot(&store).start(latent("a"));
    let mut bench = boot_with(&store, config(), nobody());
    bench.send("control/manager/stop", json!({"id": "a", "proplet_id": ID}));
    assert_eq!(bench.results_until(1300).len(), 1);
    assert_eq!(store.kept().records.len(), 0);
    assert_eq!(boot(&store).agent.status().deployed, 0);
}

/// A section whose length takes one byte.
fn section(id: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 128);
    [&[id, payload.len() as u8][..], payload].concat()
}

/// A module with exports and custom sections, signed with the key of this seed.
fn signed(seed: u8) -> Vec<u8> {
    let debug = section(0, &[&[5][..], b"debug", &[7; 100]].concat()).repeat(20);
    let code = section(10, format!("\n{ADD}\n").as_bytes());
    let sections = [debug, code].concat();
    let hash = digest(&sections);
    let pair = ed25519_compact::KeyPair::from_seed([seed; 32].into());
    let signature = pair.sk.sign([&DOMAIN[..], &hash].concat(), None);
    let entry = [&[0, ED25519, 64][..], &signature[..]].concat();
    let set = [&[1][..], &hash, &[1, entry.len() as u8], &entry].concat();
    let name = [&[SECTION.len() as u8][..], SECTION.as_bytes()].concat();
    let payload = [&name[..], &FORMAT, &[1, set.len() as u8], &set].concat();
    [&HEADER[..], &section(0, &payload), &sections].concat()
}

fn trust(seeds: &[u8]) -> Trust<'static> {
    let key = |seed: &u8| *ed25519_compact::KeyPair::from_seed([*seed; 32].into()).pk;
    Trust::new(Vec::leak(seeds.iter().map(key).collect()))
}

fn deployed(store: &FakeStore, keys: Option<&[u8]>) -> usize {
    let bench = boot_with(store, config(), keys.map(trust));
    bench.agent.status().deployed
}

/// The signature and the digest that it signs are stored, the custom sections that it covers are not.
#[test]
fn a_stored_module_is_verified_with_the_keys_that_are_trusted_then() {
    let module = signed(1);
    let start = with(
        latent("a"),
        json!({"file": BASE64_STANDARD.encode(&module)}),
    );
    for first in [None, Some(trust(&[1]))] {
        let store = FakeStore::default();
        let mut bench = boot_with(&store, config(), first);
        bench.start(start.clone());
        assert_eq!(bench.agent.status().deployed, 1);
        let stored = store.kept().modules[0].1.len();
        assert!(stored < module.len() - 2000 && stored > 100 + SEAL_LEN);
        for (keys, expected) in [
            (None, 1),
            (Some(&[1][..]), 1),
            (Some(&[2, 1]), 1),
            (Some(&[2]), 0),
            (Some(&[]), 0),
        ] {
            assert_eq!(deployed(&store, keys), expected, "{keys:?}");
        }
        // A pin names the whole module.
        let mut bench = boot_with(&store, config(), Some(trust(&[1])));
        let image = format!("app@sha256:{}", to_hex(&digest(&module)));
        bench.start(with(task("b"), json!({"file": null, "image_url": image})));
        assert_eq!(bench.agent.engine().running.len(), 1);
    }
}

#[test]
fn a_stored_module_without_signature_is_refused_once_keys_are_trusted() {
    let store = FakeStore::default();
    boot(&store).start(latent("a"));
    assert_eq!(deployed(&store, Some(&[1])), 0);
    assert_eq!(deployed(&store, None), 1);
}

/// Modules as earlier versions stored them: whole, without a seal.
#[test]
fn whole_modules_in_the_store_are_read() {
    let module = signed(1);
    let store = FakeStore::default();
    let start = with(
        latent("a"),
        json!({"file": BASE64_STANDARD.encode(&module)}),
    );
    boot(&store).start(start);
    let sealed = core::mem::replace(&mut store.kept().modules[0].1, module.clone());
    for (keys, expected) in [(None, 1), (Some(&[1][..]), 1), (Some(&[2]), 0)] {
        assert_eq!(deployed(&store, keys), expected, "{keys:?}");
    }
    // Neither one nor the other.
    let records = store.kept().records.clone();
    for damaged in [&module[1..], &sealed[1..], &sealed[..sealed.len() - 1], &[]] {
        store.kept().modules = std::vec![(digest(&module), damaged.to_vec())];
        store.kept().records = records.clone();
        assert_eq!(deployed(&store, None), 0);
        assert!(store.kept().modules.is_empty(), "it is removed");
    }
}
