//! Guests that compilers made of `guests/`: they are as small as their flags say, and compute what
//! plain Rust does. Needs clang and wasm-ld, and rustup's target wasm32-unknown-unknown; without
//! them the tests say that they skip, and `PROPLET_REQUIRE_PEERS=1` forbids that.

mod common;

use std::collections::VecDeque;
use std::fs;
use std::sync::OnceLock;

use common::{Budget, Guest, alone, load_bytes, runtime_in};
use proplet_testing::compilers::{build_crate, built, compile, guests};
use wamr::{InstanceConfig, Memory, Runtime, Trap, TrapKind, Value};

fn rt() -> Runtime {
    runtime_in(4 << 20, &[])
}

const CONFIG: InstanceConfig = InstanceConfig {
    stack_bytes: 1024,
    memory_bytes_max: None,
    memory_commit: false,
};

fn c() -> Option<&'static [u8]> {
    static WASM: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    WASM.get_or_init(|| compile(&guests().join("c/filter.c")))
        .as_deref()
}

fn rust() -> Option<&'static [u8]> {
    static WASM: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    WASM.get_or_init(|| build_crate("filter")).as_deref()
}

/// Calls a function of i32s.
fn call(instance: &mut Guest, name: &str, args: &[i32]) -> Result<i32, Trap> {
    let args: Vec<_> = args.iter().copied().map(Value::I32).collect();
    let mut out = [Value::I64(0)];
    let supervisor = Budget::new(10_000, 10_000_000);
    assert_eq!(instance.call(name, &args, &mut out, &supervisor)?, 1);
    match out {
        [Value::I32(result)] => Ok(result),
        [other] => panic!("{name} returned {other:?}"),
    }
}

/// The same filter, in plain Rust.
#[derive(Clone, Default)]
struct Filter(VecDeque<i32>);

impl Filter {
    fn push(&mut self, sample: i32) -> i32 {
        self.0.push_back(sample);
        if self.0.len() > 64 {
            self.0.pop_front();
        }
        let mut sorted: Vec<_> = self.0.iter().copied().map(i64::from).collect();
        sorted.sort_unstable();
        let cut = sorted.len() / 4;
        let middle = &sorted[cut..sorted.len() - cut];
        let mean = middle.iter().sum::<i64>() / middle.len() as i64;
        mean.try_into().unwrap()
    }

    fn main(samples: i32) -> i32 {
        let mut filter = Self::default();
        let mut noise = 1_u32;
        let mut hash = 2_166_136_261_u32;
        for i in 0..samples {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let spike = if i % 16 == 15 { 1_000_000 } else { 0 };
            let sample = 8 * (i % 256) + i32::from(noise.to_be_bytes()[0]) - 128 + spike;
            let filtered = filter.push(sample);
            // The spikes are gone.
            assert!(
                (-128..=8 * 255 + 127).contains(&filtered),
                "{i}: {filtered}"
            );
            hash = (hash ^ filtered.cast_unsigned()).wrapping_mul(16_777_619);
        }
        hash.cast_signed()
    }
}

/// Samples of all sizes, the same every time.
fn samples() -> impl Iterator<Item = i32> {
    let mut state = 12_345_u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        state.cast_signed() >> (state >> 8 & 31)
    })
}

fn is_a_small_filter(wasm: &[u8]) {
    let _one = alone();
    let module = load_bytes(rt(), wasm).unwrap();
    let declared = Memory {
        initial_pages: 1,
        maximum_pages: 1,
    };
    assert_eq!(module.memory(), Some(declared));
    let new = || Guest::new(&module, &CONFIG).unwrap();

    let mut instance = new();
    assert_eq!(instance.memory_len(), 65_536);
    let got = call(&mut instance, "main", &[600]).unwrap();
    assert_eq!(got, Filter::main(600));

    // Several at once, each with its own samples, past the point where the window is full.
    let mut pairs: Vec<_> = (0..12).map(|_| (new(), Filter::default())).collect();
    let mut samples = samples();
    for extreme in [i32::MIN, i32::MAX] {
        for _ in 0..100 {
            for (instance, filter) in &mut pairs {
                let sample = samples.next().unwrap();
                let got = call(instance, "push", &[sample]).unwrap();
                assert_eq!(got, filter.push(sample));
            }
        }
        // Sums of 32 of these are beyond 32 bits.
        let (instance, filter) = &mut pairs[0];
        let mut got = 0;
        for _ in 0..64 {
            got = call(instance, "push", &[extreme]).unwrap();
            assert_eq!(got, filter.push(extreme));
        }
        assert_eq!(got, extreme);
    }
}

#[test]
fn the_c_guest_is_a_small_filter() {
    if let Some(wasm) = c() {
        is_a_small_filter(wasm);
    }
}

#[test]
fn the_rust_guest_is_a_small_filter() {
    if let Some(wasm) = rust() {
        is_a_small_filter(wasm);
    }
}

/// Looks for the walls of what the same flags make.
const PROBE: &str = r#"
#define EXPORT(name) __attribute__((export_name(name)))

static unsigned char data[16] = { 1, 2, 3, 4 };

EXPORT("peek") int peek(int at) { return *(volatile unsigned char *)at; }

EXPORT("poke") int poke(int at) { return *(volatile unsigned char *)at = 0xff; }

EXPORT("sum") int sum(void)
{
    int sum = 0;
    for (int i = 0; i < 16; i++)
        sum += *(volatile unsigned char *)&data[i];
    return sum;
}

/* It calls nothing, so LLVM does not move the stack pointer for its frame, and WAMR sees none. */
__attribute__((noinline)) static int leaf(int at)
{
    volatile unsigned char frame[96];
    for (int i = 0; i < 96; i++)
        frame[i] = 0xff;
    return frame[at & 63];
}

/* Fills `depth` frames of 64 bytes and some, then the leaf's. */
EXPORT("deep") int deep(int depth)
{
    volatile unsigned char frame[64];
    for (int i = 0; i < 64; i++)
        frame[i] = 0xff;
    return (depth > 1 ? deep(depth - 1) : leaf(depth)) + frame[depth & 63];
}
"#;

#[test]
fn a_guest_with_these_flags_stays_between_its_walls() {
    let source = built().join("probe.c");
    fs::write(&source, PROBE).unwrap();
    let Some(wasm) = compile(&source) else {
        return;
    };
    let _one = alone();
    let module = load_bytes(rt(), &wasm).unwrap();
    let config = InstanceConfig {
        stack_bytes: 8192,
        memory_bytes_max: None,
        memory_commit: false,
    };
    let mut instance = Guest::new(&module, &config).unwrap();
    let mut other = Guest::new(&module, &config).unwrap();
    assert_eq!(instance.memory_len(), 65_536);

    call(&mut instance, "poke", &[65_535]).unwrap();
    assert_eq!(call(&mut instance, "peek", &[65_535]).unwrap(), 0xff);
    assert_eq!(call(&mut other, "peek", &[65_535]).unwrap(), 0);
    for name in ["peek", "poke"] {
        for at in [65_536, 65_537, i32::MIN, -1] {
            let trap = call(&mut instance, name, &[at]).unwrap_err();
            assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds, "{name}({at})");
        }
    }

    // 1 KiB holds 8 frames of up to 100 bytes with the leaf's, and no 16.
    for depth in (1..=20).chain([1000, i32::MAX]) {
        let mut instance = Guest::new(&module, &config).unwrap();
        match call(&mut instance, "deep", &[depth]) {
            Ok(sum) => {
                assert!(depth < 16, "{depth}");
                assert_eq!(sum, (depth + 1) * 0xff);
            }
            Err(trap) => {
                assert!(depth > 8, "{depth}: {trap}");
                let by_pointer = trap.to_string().starts_with("wasm auxiliary stack");
                let by_store = trap.kind() == TrapKind::MemoryOutOfBounds;
                assert!(by_pointer || by_store, "{depth}: {trap}");
            }
        }
        assert_eq!(call(&mut instance, "sum", &[]).unwrap(), 10, "{depth}");
    }
}
