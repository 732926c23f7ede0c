//! Modules over HTTP, and digests whatever the source.

use super::*;
use crate::module::{hex::to_hex, table::digest};

const URL: &str = "http://host/add.wasm";

fn fetched(id: &str, url: &str) -> Json {
    with(task(id), json!({"file": null, "image_url": url}))
}

fn pinned(url: &str, module: &str) -> String {
    format!("{url}@sha256:{}", to_hex(&digest(module.as_bytes())))
}

#[test]
fn a_module_is_fetched_once_for_all_who_wait() {
    let mut bench = Bench::online();
    bench.start(fetched("a", URL));
    bench.start(fetched("b", URL));
    assert_eq!(bench.agent.status().fetching, 2);
    let id = bench.exchange(URL);
    assert_eq!(bench.agent.poll_request(), None);
    let request = bench.request.clone().unwrap();
    assert_eq!(
        (request.method, request.accept),
        (Method::Get, Accept::Module)
    );
    bench.respond(id, ADD.as_bytes());
    assert!(!bench.agent.is_wanted(id));
    assert_eq!(bench.agent.engine().running.len(), 2);
    assert_eq!(bench.agent.engine().loads, 1);
    bench.exit(0, Ok(None));
    bench.exit(1, Ok(None));
    assert!(bench.arena_is_free());
}

#[test]
fn a_fetch_that_fails_fails_the_tasks_with_the_reason() {
    let mut bench = Bench::online();
    bench.start(fetched("a", URL));
    let id = bench.exchange(URL);
    bench.break_off(id, "HTTP 404 from host");
    let reason = format!("module {URL}: HTTP 404 from host");
    assert_eq!(bench.results_until(1250), [failure("a", &reason)]);
    assert!(bench.arena_is_free());

    bench.start(fetched("b", URL));
    let id = bench.exchange(URL);
    let now = bench.now;
    // How much is dropped shows as it comes.
    let mut respond = |part| bench.agent.respond(id, part, now);
    respond(Part::Begin(Some(10_001))).unwrap();
    let huge = respond(Part::Bytes(&[b'x'; 10_001]));
    let reason = huge.unwrap_err().to_string();
    assert_eq!(
        reason,
        "out of memory: its bytes need 10001 bytes, 9988 are free"
    );
    bench.break_off(id, &reason);
    let results = bench.results_until(1500);
    assert!(
        results[0]["error"].as_str().unwrap().ends_with(&*reason),
        "{results:?}"
    );
}

#[test]
fn a_fetch_that_never_ends_is_given_up_after_60_s() {
    let mut bench = Bench::online();
    bench.start(fetched("a", URL));
    let id = bench.exchange(URL);
    let results = bench.results_until(61_000);
    let reason = format!("timeout: module {URL} is not here after 60 s");
    assert_eq!(results, [failure("a", &reason)]);
    assert!(
        !bench.agent.is_wanted(id),
        "nor is the server heard any more"
    );
}

#[test]
fn a_stop_ends_the_exchange_and_a_new_start_begins_another() {
    let mut bench = Bench::online();
    bench.start(fetched("a", URL));
    let id = bench.exchange(URL);
    bench
        .agent
        .respond(id, Part::Begin(Some(100)), bench.now)
        .unwrap();
    bench.send("control/manager/stop", json!({"id": "a"}));
    assert!(!bench.agent.is_wanted(id));
    assert!(
        bench
            .agent
            .respond(id, Part::Bytes(b"x"), bench.now)
            .is_err()
    );
    assert!(bench.arena_is_free());
    assert_eq!(bench.results_until(1250), [failure("a", "task stopped")]);
    bench.start(fetched("a", URL));
    let id = bench.exchange(URL);
    bench.respond(id, ADD.as_bytes());
    assert_eq!(bench.agent.engine().running.len(), 1);
}

#[test]
fn a_lost_link_does_not_fetch_again() {
    let mut bench = Bench::online();
    bench.start(fetched("a", URL));
    bench.exchange(URL);
    bench.handle(Event::Disconnected);
    bench.handle(Event::Connected);
    assert_eq!(bench.agent.poll_request(), None);
    assert!(
        bench
            .drain()
            .iter()
            .all(|(topic, _)| topic != "registry/proplet")
    );
}

#[test]
fn a_digest_is_verified_before_anything_is_parsed() {
    let other = "other()\nmain()";
    let mut bench = Bench::online();
    bench.start(fetched("a", &pinned(URL, ADD)));
    let id = bench.exchange(URL);
    bench.respond(id, other.as_bytes());
    bench.start(fetched("b", &pinned("registry/app", ADD)));
    let out = bench.drain();
    let (_, request) = out.iter().find(|(t, _)| t == "registry/proplet").unwrap();
    assert_eq!(request["app_name"], "registry/app", "without the digest");
    bench.chunk("registry/app", 0, 1, other.as_bytes());
    bench.start(with(
        task("c"),
        json!({"file": file(other), "image_url": pinned("x", ADD)}),
    ));
    let results = bench.results_until(1250);
    assert_eq!(results.len(), 3);
    for result in results {
        let error = result["error"].as_str().unwrap();
        assert!(
            error.contains("digest mismatch: expected sha256:"),
            "{error}"
        );
    }
    assert_eq!(bench.agent.engine().loads, 0);
    assert!(bench.arena_is_free());
}

#[test]
fn what_is_in_the_table_is_not_fetched_again() {
    let mut bench = Bench::online();
    bench.start(task("a"));
    for (id, url) in [("b", pinned(URL, ADD)), ("c", pinned("registry/app", ADD))] {
        bench.start(fetched(id, &url));
    }
    assert_eq!(bench.agent.engine().running.len(), 3);
    assert_eq!(bench.agent.engine().loads, 1);
    assert_eq!(bench.agent.poll_request(), None);
}

#[test]
fn one_location_with_two_digests_serves_each_as_it_asked() {
    let other = "other()\nmain()";
    let mut bench = Bench::online();
    bench.start(fetched("a", &pinned("app", ADD)));
    bench.start(fetched("b", &pinned("app", other)));
    bench.drain();
    bench.chunk("app", 0, 1, ADD.as_bytes());
    assert_eq!(bench.agent.engine().running.len(), 1);
    let results = bench.results_until(1250);
    assert_eq!(results[0]["task_id"], "b");
    assert!(
        results[0]["error"]
            .as_str()
            .unwrap()
            .contains("digest mismatch")
    );
}

#[test]
fn exchanges_end_in_any_order() {
    let mut bench = Bench::online();
    bench.start(fetched("a", "http://one/"));
    bench.start(fetched("b", "http://two/"));
    let (one, two) = (bench.exchange("http://one/"), bench.exchange("http://two/"));
    assert_ne!(one, two);
    bench.respond(two, ADD.as_bytes());
    bench.respond(one, b"other()\nmain()");
    let exports = bench.agent.engine().running.iter();
    let exports: Vec<_> = exports.map(|r| (r.slot.0, &*r.export)).collect();
    assert_eq!(exports, [(1, "add"), (0, "main")]);
}

#[test]
fn with_trusted_keys_nothing_unsigned_is_parsed_whatever_its_source() {
    use crate::module::signature::Trust;
    let mut bench = Bench::online();
    bench.agent.set_trust(Trust::new(&[[7; 32]]));
    let wasm = "\0asm\u{1}\0\0\0";
    bench.start(with(task("inline"), json!({"file": file(wasm)})));
    bench.start(fetched("http", URL));
    let id = bench.exchange(URL);
    bench.respond(id, wasm.as_bytes());
    bench.start(fetched("chunks", "app"));
    bench.chunk("app", 0, 1, wasm.as_bytes());
    let results = bench.results_until(1250);
    assert_eq!(results.len(), 3);
    for result in results {
        let error = result["error"].as_str().unwrap();
        assert!(error.ends_with("module is not signed"), "{error}");
    }
    assert_eq!(bench.agent.engine().loads, 0);
    assert!(bench.arena_is_free());
}

#[test]
fn a_module_that_nobody_waits_for_is_dropped() {
    let mut bench = Bench::online();
    bench.start(with(task("a"), json!({"file": null, "image_url": "app/a"})));
    bench.chunk("app/a", 0, 3, &[b'x'; 3000]);
    assert!(bench.agent.engine().arena().free < 7000);
    assert_eq!(bench.results_until(70_000).len(), 1);
    assert!(bench.arena_is_free());

    bench.start(fetched("b", URL));
    let id = bench.exchange(URL);
    for part in [Part::Begin(None), Part::Bytes(&[b'x'; 2000])] {
        bench.agent.respond(id, part, bench.now).unwrap();
    }
    assert_eq!(bench.results_until(140_000).len(), 1);
    assert!(bench.arena_is_free());
    assert!(!bench.agent.is_wanted(id));
}

/// Two starts of one location, one of them with another digest: the bytes go to the one that they are for.
#[test]
fn two_fetches_of_one_location_have_the_bytes_once() {
    let mut bench = Bench::online();
    let module = format!("{ADD}{}", " ".repeat(6000));
    bench.start(fetched("other", &pinned("reg/c", "another")));
    bench.start(fetched("same", "reg/c"));
    assert_eq!(bench.requests().len(), 1);
    bench.chunk("reg/c", 0, 1, module.as_bytes());
    assert_eq!(bench.agent.status().running, 1);
    let results = bench.results_until(1250);
    let error = results[0]["error"].as_str().unwrap();
    assert!(error.contains("digest mismatch"), "{error}");
    bench.exit(1, Ok(None));
    assert!(bench.arena_is_free());
}

/// A body that takes the whole arena, and is refused or breaks off, leaves room for the reason.
#[test]
fn a_body_gives_its_bytes_back_before_the_reason_is_made() {
    let failed = |then: &dyn Fn(&mut Bench, RequestId)| {
        let mut bench = Bench::online();
        bench.start(fetched("a", URL));
        let id = bench.exchange(URL);
        let free = bench.agent.engine().arena().free;
        let len = free - 1;
        let bytes = std::vec![b'x'; len - 1];
        for part in [Part::Begin(Some(len)), Part::Bytes(&bytes)] {
            bench.agent.respond(id, part, bench.now).unwrap();
        }
        then(&mut bench, id);
        let results = bench.results_until(1250);
        assert!(bench.arena_is_free());
        results[0]["error"].as_str().unwrap().to_string()
    };
    let overrun = failed(&|bench, id| {
        let part = Part::Bytes(&[0; 10_000]);
        let refused = bench.agent.respond(id, part, bench.now).unwrap_err();
        bench.break_off(id, &refused.to_string());
    });
    let reason = "the module has more bytes than the server said";
    assert_eq!(overrun, format!("module {URL}: {reason}"));
    let cut = failed(&|bench, id| bench.break_off(id, "the connection broke"));
    assert_eq!(cut, format!("module {URL}: the connection broke"));
}
