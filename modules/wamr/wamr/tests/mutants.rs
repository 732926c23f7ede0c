//! Modules with a few bytes changed: whatever they are, they are refused, they trap, they run out of
//! their budget or they return. Nothing else happens, and the arena comes back to the byte.
//!
//! `MUTANTS` says how many, `MUTANT_SEED` from which seed; by default 2,000 from a fixed one.

mod common;
mod samples;

use common::{Budget, Guest, alone, load_bytes, runtime_in};
use samples::{BASES, Random, arguments, mutate, setting};
use wamr::{HostFunction, InstanceConfig, Runtime, Value, estimate};

static HOST: [HostFunction; 2] = [samples::READ, samples::GIVE];

fn rt() -> Runtime {
    runtime_in(1 << 20, &HOST)
}

/// Whether it got as far as running.
fn live(random: &mut Random, wasm: &[u8]) -> bool {
    let _ = estimate(wasm);
    let Ok(module) = load_bytes(rt(), wasm) else {
        return false;
    };
    let stack_bytes = [256, 1024, 4096][random.below(3)];
    let least = if wamr::page_bytes() > 0 {
        4096
    } else {
        1 << 20
    };
    let memory_bytes_max = [None, Some(least), Some(17 * least)][random.below(3)];
    let config = InstanceConfig {
        stack_bytes,
        memory_bytes_max,
        memory_commit: memory_bytes_max != Some(least) && random.below(4) == 0,
    };
    let Ok(mut instance) = Guest::new(&module, &config) else {
        return false;
    };
    let mut ran = false;
    for name in ["run", "malloc", "run"] {
        let Ok(signature) = module.function(name) else {
            continue;
        };
        let args = arguments(random, &signature);
        let mut out = [Value::I32(0); 4];
        let supervisor = Budget::new(1 + random.below(500) as u32, 20_000);
        let _ = instance.call(name, &args, &mut out, &supervisor);
        ran = true;
    }
    ran
}

#[test]
fn mutants_do_no_harm() {
    let _one = alone();
    let bases: Vec<_> = BASES
        .iter()
        .map(|wat| wat::parse_str(wat).unwrap())
        .collect();
    let free = rt().memory().free;
    let mut random = Random(setting("MUTANT_SEED", 0x9e37_79b9_7f4a_7c15) | 1);
    for base in &bases {
        assert!(live(&mut random, base));
    }
    let (mut ran, count) = (0, setting("MUTANTS", 2000));
    for _ in 0..count {
        let mut wasm = bases[random.below(bases.len())].clone();
        mutate(&mut random, &mut wasm);
        ran += u64::from(live(&mut random, &wasm));
        assert_eq!(rt().memory().free, free);
    }
    println!("{ran} of {count} ran");
    assert!(ran > count / 20, "only {ran} of {count} ran");
}

#[test]
fn what_is_cut_short_is_refused() {
    let _one = alone();
    let free = rt().memory().free;
    for base in BASES {
        let wasm = wat::parse_str(base).unwrap();
        for len in 0..wasm.len() {
            // A cut between two sections can leave a module: without the rest, an empty one.
            let _ = load_bytes(rt(), &wasm[..len]);
        }
        for len in 0..8 {
            assert!(load_bytes(rt(), &wasm[..len]).is_err());
        }
    }
    assert_eq!(rt().memory().free, free);
}
