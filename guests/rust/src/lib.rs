//! A filter for a noisy sensor, as a guest that keeps state: the mean of the middle half of the
//! last 64 samples, which no spike moves. `guests/c` computes the same.
//!
//! ```sh
//! cargo build --release --target wasm32-unknown-unknown --manifest-path guests/rust/Cargo.toml
//! ```
#![no_std]

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

const LENGTH: usize = 64;

// State that is safe to change is atomic; on wasm32, which has one thread, that is plain loads and
// stores.

/// A ring: the next sample goes to `WINDOW[NEXT]`. Only the first `COUNT` are samples.
static WINDOW: [AtomicI32; LENGTH] = [const { AtomicI32::new(0) }; LENGTH];
static NEXT: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Takes a sample; returns the mean, towards zero, of those that are left of the last 64 (or fewer,
/// at the start) without the lowest and the highest quarter.
#[unsafe(no_mangle)]
extern "C" fn push(sample: i32) -> i32 {
    let next = NEXT.load(Relaxed) % LENGTH;
    WINDOW[next].store(sample, Relaxed);
    NEXT.store(next + 1, Relaxed);
    let count = LENGTH.min(COUNT.load(Relaxed) + 1);
    COUNT.store(count, Relaxed);

    let mut sorted = [0; LENGTH];
    for (i, sample) in WINDOW[..count].iter().enumerate() {
        let sample = sample.load(Relaxed);
        let mut place = i;
        while place > 0 && sorted[place - 1] > sample {
            sorted[place] = sorted[place - 1];
            place -= 1;
        }
        sorted[place] = sample;
    }

    let cut = count / 4;
    let middle = &sorted[cut..count - cut];
    let sum: i64 = middle.iter().copied().map(i64::from).sum();
    (sum / middle.len() as i64) as i32
}

/// Pushes that many samples of a sawtooth with noise and a spike in every 16th; returns FNV-1a over
/// what comes out, taken as words.
///
/// A `main` without parameters would not stay so: LLVM gives it C's two.
#[unsafe(export_name = "main")]
extern "C" fn run(samples: i32) -> i32 {
    let (mut noise, mut hash) = (1_u32, 0x811c_9dc5_u32);
    for i in 0..samples {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut sample = 8 * (i % 256) + (noise >> 24) as i32 - 128;
        if i % 16 == 15 {
            sample += 1_000_000;
        }
        hash = (hash ^ push(sample).cast_unsigned()).wrapping_mul(0x0100_0193);
    }
    hash.cast_signed()
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}
