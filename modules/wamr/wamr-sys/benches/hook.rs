//! What the slice hook costs: the hooked interpreter against the plain one, in one process, turn by
//! turn. `cargo bench -p wamr-sys --features plain --bench hook`

use std::ffi::c_void;
use std::ptr;
use std::time::Instant;

use wamr_sys as sys;

/// Units in a slice: what a device would use.
const SLICE: u32 = 10_000;
/// Turns of each; odd, so that the median is one of them.
const TURNS: usize = 31;
/// Room for the cells of a workload's arguments, or of its result.
const CELLS: usize = 2;

struct Workload {
    name: &'static str,
    wat: &'static str,
    args: &'static [u32],
}

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "fib",
        wat: include_str!("../../../../wat/fib.wat"),
        args: &[27],
    },
    Workload {
        name: "dot",
        wat: include_str!("../../../../wat/dot.wat"),
        args: &[1024, 1000],
    },
    Workload {
        name: "matmul",
        wat: include_str!("../../../../wat/matmul.wat"),
        args: &[64, 5],
    },
    Workload {
        name: "branchy",
        wat: include_str!("../../../../wat/branchy.wat"),
        args: &[1_000_000],
    },
];

unsafe extern "C" fn go_on(_: *mut c_void) -> u32 {
    SLICE
}

struct Guest {
    exec_env: *mut sys::ExecEnv,
    run: u32,
    args: &'static [u32],
}

impl Guest {
    fn new(workload: &Workload) -> Self {
        let wasm = wat::parse_str(workload.wat).expect("the workload assembles");
        // The module keeps its bytes, and lives as long as the process.
        let wasm = Box::leak(wasm.into_boxed_slice());
        let (mut info, mut error) = (sys::ModuleInfo::default(), [0u8; 128]);
        let mut ty = sys::FunctionType {
            types: ptr::null(),
            params: 0,
            results: 0,
        };
        // SAFETY: the runtime is started, all pointers are valid for what the declarations say, and
        // each handle is used only if it is not null.
        unsafe {
            let text = error.as_mut_ptr().cast();
            let module = sys::wamr_load(
                wasm.as_mut_ptr(),
                wasm.len() as u32,
                &raw mut info,
                text,
                128,
            );
            assert!(!module.is_null(), "{}", sys::error_text(&error));
            let instance = sys::wamr_instantiate(module, u64::MAX, text, 128);
            assert!(!instance.is_null(), "{}", sys::error_text(&error));
            let exec_env = sys::wamr_exec_env_new(instance, 8192);
            assert!(!exec_env.is_null());
            let run = sys::wamr_find_function(module, c"run".as_ptr(), 3, &raw mut ty);
            assert_eq!((ty.params as usize, ty.results), (workload.args.len(), 1));
            Self {
                exec_env,
                run,
                args: workload.args,
            }
        }
    }

    /// Milliseconds, and the result.
    fn time(&self, plain: bool) -> (f64, u32) {
        let argc = self.args.len();
        let mut argv = [0; CELLS];
        argv[..argc].copy_from_slice(self.args);
        let mut anything = 0u32;
        let start = Instant::now();
        // SAFETY: the handles are good (see `new`), and the function takes `argc` cells, for which
        // there is room, and gives one.
        let ok = unsafe {
            if plain {
                sys::wamr_call_plain(self.exec_env, self.run, argc as u32, argv.as_mut_ptr())
            } else {
                let run = (&raw mut anything).cast();
                sys::wamr_call(
                    self.exec_env,
                    self.run,
                    argc as u32,
                    argv.as_mut_ptr(),
                    SLICE,
                    run,
                )
            }
        };
        assert!(ok, "trapped");
        (start.elapsed().as_secs_f64() * 1e3, argv[0])
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn main() {
    let arena = Box::leak(vec![0u8; 1 << 20].into_boxed_slice());
    // SAFETY: the arena is leaked, and `go_on` takes any pointer.
    let started = unsafe { sys::wamr_init(arena.as_mut_ptr().cast(), 1 << 20, go_on) };
    assert_eq!(started, sys::INIT_OK);

    println!("slice {SLICE}, {TURNS} turns each, medians");
    println!(
        "{:10} {:>10} {:>10} {:>7}",
        "", "plain ms", "hook ms", "ratio"
    );
    let mut product = 1.0;
    for workload in &WORKLOADS {
        let guest = Guest::new(workload);
        assert_eq!(
            guest.time(true).1,
            guest.time(false).1,
            "they compute the same"
        );
        // The two of a turn run one after the other, each first in every other turn: what slows
        // the machine down for a while slows both.
        let turns: Vec<_> = (0..TURNS)
            .map(|turn| {
                let first = guest.time(turn % 2 == 0).0;
                let second = guest.time(turn % 2 != 0).0;
                if turn % 2 == 0 {
                    (first, second)
                } else {
                    (second, first)
                }
            })
            .collect();
        let plain = median(turns.iter().map(|t| t.0).collect());
        let hook = median(turns.iter().map(|t| t.1).collect());
        let ratio = median(turns.iter().map(|t| t.1 / t.0).collect());
        product *= ratio;
        println!("{:10} {plain:10.2} {hook:10.2} {ratio:7.3}", workload.name);
    }
    println!(
        "{:10} {:>29.3}",
        "geometric",
        f64::powf(product, 1.0 / WORKLOADS.len() as f64)
    );
}
