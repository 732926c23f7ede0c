//! Workloads.

use proplet::text::{Text, text};

/// A module whose `main` takes nothing and returns an i32.
#[derive(Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name in options and reports.
    pub name: &'static str,
    /// The module.
    pub wasm: &'static [u8],
    /// Result of `main` in a fresh instance.
    pub result: i32,
}

macro_rules! workload {
    ($name:literal, $result:expr) => {
        Workload {
            name: $name,
            wasm: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm")),
            result: $result,
        }
    };
}

// A result that is not what the module computes is an error of every bench.
/// Those that are run one after the other: arithmetic, memory, messages through a ring.
pub static SINGLE: [Workload; 3] = [
    workload!("cpu", 1_657_779_477),
    workload!("mem", 841_800_133),
    workload!("msg", 1_791_376_005),
];

/// Those that are run alone, and only when they are named.
static NAMED: [Workload; 1] = [workload!("mem64k", 841_800_133)];

/// Those that are run together, in sets.
pub static DIVERSE: [Workload; 5] = [
    workload!("add", 1_249_975_000),
    workload!("mul", -622_186_879),
    workload!("fib", 416_020_000),
    workload!("checksum", -1_189_671_912),
    workload!("popcount", 382_512),
];

/// A loop without an end, and so without a result.
pub(crate) static ENDLESS: [Workload; 1] = [workload!("loop", 0)];

/// Most modules of a set.
pub const SET_MAX: usize = DIVERSE.len();

impl Workload {
    /// All that can be named.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        SINGLE.iter().chain(&NAMED).chain(&DIVERSE)
    }

    /// The workload of that name.
    ///
    /// # Errors
    /// There is no such workload: the text names those that there are.
    pub fn named(name: &str) -> Result<&'static Self, Text> {
        let mut named = Self::all().filter(|workload| workload.name == name);
        named.next().ok_or_else(|| {
            text(format_args!(
                "no workload '{name}': expected cpu, mem, msg, mem64k, add, mul, fib, checksum or popcount"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_workload_is_refused_with_all_that_there_are() {
        let error = Workload::named("gpu").unwrap_err();
        assert!(error.starts_with("no workload 'gpu'"), "{error}");
        for workload in Workload::all() {
            assert!(error.contains(workload.name), "{error}");
            assert_eq!(Workload::named(workload.name), Ok(workload));
        }
        assert_eq!(Workload::all().count(), 9);
    }
}
