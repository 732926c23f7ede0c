//! The bench at boot, on the workers that run tasks afterwards.

use crate::{ffi, net, platform::Zephyr, sizes};
use core::{fmt, time::Duration};
use proplet::engine::{Limits, Preemption, Weight};
use proplet::settings::Settings;
use proplet::text::Text;
use proplet_bench::{Clock, Console, Lane, Mode, Options, Port};
use proplet_engine::WamrEngine;
use static_cell::ConstStaticCell;
use zephyr::kconfig as k;

static LANES: ConstStaticCell<[Lane; sizes::SLOTS]> =
    ConstStaticCell::new([Lane::VACANT; sizes::SLOTS]);

/// Weights of the loops that do not share alike.
const WEIGHTS: [u8; 4] = [10, 20, 40, 80];

/// Of the ladder; loops share the processor for ten.
const STEP: Duration = Duration::from_millis(k::CONFIG_PROPLET_BENCH_STEP_MS as u64);

/// Loops that share.
const LOOPS: usize = 24;

/// Measures all that there is to measure, and prints it; once. `set` changes what ends a turn, which
/// is the `usual` before and after.
#[inline(never)]
pub fn run(
    engine: &mut WamrEngine<Zephyr>,
    settings: &Settings,
    usual: Preemption,
    set: impl Fn(Preemption),
) {
    let lanes = LANES.take();
    let limits = settings.limits();
    let mut good = true;
    let mut measure = |mode, preemption, weights| {
        let options = Options {
            limits: Limits {
                stack: limits.stack,
                memory_max: Some(k::CONFIG_PROPLET_BENCH_MEMORY_BYTES as u64)
                    .filter(|max| *max > 0),
                work: None,
                weight: Weight::DEFAULT,
            },
            preemption,
            weights,
            max: matches!(mode, Mode::Fairness).then_some(LOOPS.min(sizes::SLOTS)),
            step: STEP
                * if matches!(mode, Mode::Fairness) {
                    10
                } else {
                    1
                },
        };
        let report = &mut Console(Line::default());
        match proplet_bench::run(engine, &mut Kernel, lanes, mode, &options, report) {
            Ok(is_good) => good &= is_good,
            Err(reason) => {
                good = false;
                print(&reason);
            }
        }
    };
    for mode in [Mode::All, Mode::Diverse] {
        measure(mode, usual, &[][..]);
    }
    for each in [Preemption::Fuel, Preemption::Time] {
        set(each);
        measure(Mode::Fairness, each, &[]);
        measure(Mode::Fairness, each, &WEIGHTS);
    }
    set(usual);
    ffi::print(match good {
        true => c"bench: all as expected\n",
        false => c"bench: FAILED\n",
    });
}

/// The hardware's clock and the control thread's sleep.
struct Kernel;

impl Port for Kernel {
    fn clock(&self) -> Clock {
        let (_, per_second) = ffi::cycles();
        Clock {
            name: "cycle counter",
            resolution: Duration::from_nanos(1_000_000_000 / u64::from(per_second)),
        }
    }

    fn now(&self) -> Duration {
        let (cycles, per_second) = ffi::cycles();
        let per_second = u64::from(per_second);
        let part = cycles % per_second * 1_000_000_000 / per_second;
        Duration::from_secs(cycles / per_second) + Duration::from_nanos(part)
    }

    fn wait(&mut self, until: Duration) {
        net::sleep(until.saturating_sub(self.now()));
    }
}

/// Text for the console, a line at a time; what is beyond its length is cut.
#[derive(Default)]
struct Line(heapless::Vec<u8, 128>);

impl fmt::Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for piece in s.split_inclusive('\n') {
            let room = self.0.capacity() - 1 - self.0.len();
            // It fits: it is cut to the room.
            let _ = self
                .0
                .extend_from_slice(&piece.as_bytes()[..piece.len().min(room)]);
            if piece.ends_with('\n') {
                self.flush();
            }
        }
        Ok(())
    }
}

impl Line {
    fn flush(&mut self) {
        // The room of one byte was kept for it.
        let _ = self.0.push(0);
        if let Ok(text) = core::ffi::CStr::from_bytes_until_nul(&self.0) {
            ffi::print(text);
        }
        self.0.clear();
    }
}

fn print(text: &Text) {
    let mut line = Line::default();
    // A longer text is cut.
    let _ = fmt::Write::write_fmt(&mut line, format_args!("bench: {text}\n"));
}
