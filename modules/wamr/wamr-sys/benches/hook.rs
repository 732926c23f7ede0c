//! Cost of the slice hook: the hooked interpreter against the plain one, in one process, turn by
//! turn. `cargo bench -p wamr-sys --features plain --bench hook`

use std::ptr;
use std::time::Instant;

use wamr_sys as sys;

/// Units in a slice: what a device would use.
const SLICE: u32 = 10_000;
/// Turns of each.
const TURNS: usize = 301;
/// Room for the cells of a workload's arguments, or of its result.
const CELLS: usize = 2;

struct Workload {
    name: &'static str,
    wat: &'static str,
    args: &'static [u32],
}

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "fib(23), recursive",
        wat: include_str!("../../../../wat/fib.wat"),
        args: &[23],
    },
    Workload {
        name: "dot product of two f64 vectors of 1,024, 100 times",
        wat: include_str!("../../../../wat/dot.wat"),
        args: &[1024, 100],
    },
    Workload {
        name: "product of two f64 matrices of 64 by 64",
        wat: include_str!("../../../../wat/matmul.wat"),
        args: &[64, 1],
    },
    Workload {
        name: "state machine of blocks, 100,000 steps",
        wat: include_str!("../../../../wat/branchy.wat"),
        args: &[100_000],
    },
];

struct Guest {
    worker: *mut sys::Worker,
    instance: *mut sys::Instance,
    info: sys::ModuleInfo,
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
            let tables = Box::leak(Box::new(sys::Tables::NONE));
            let instance = sys::wamr_instantiate(module, tables, u64::MAX, false, text, 128);
            assert!(!instance.is_null(), "{}", sys::error_text(&error));
            let worker = sys::wamr_worker_new(8192);
            assert!(!worker.is_null());
            let run = sys::wamr_find_function(module, c"run".as_ptr(), 3, &raw mut ty);
            assert_eq!((ty.params as usize, ty.results), (workload.args.len(), 1));
            Self {
                worker,
                instance,
                info,
                run,
                args: workload.args,
            }
        }
    }

    /// Milliseconds, and the result.
    fn time(&self, hooked: bool) -> (f64, u32) {
        let argc = self.args.len() as u32;
        let mut cells = [0; CELLS];
        cells[..self.args.len()].copy_from_slice(self.args);
        let start = Instant::now();
        // SAFETY: the handles are good (see `new`), and the function takes `argc` cells, for which
        // there is room, and gives one.
        let ok = unsafe {
            if hooked {
                self.steps(argc, &mut cells)
            } else {
                let (worker, argv) = (self.worker, cells.as_mut_ptr());
                sys::wamr_call_plain(worker, self.instance, self.run, argc, argv)
            }
        };
        assert!(ok, "trapped");
        (start.elapsed().as_secs_f64() * 1e3, cells[0])
    }

    /// The call in steps of [`SLICE`], alone on the stack.
    unsafe fn steps(&self, argc: u32, cells: &mut [u32; CELLS]) -> bool {
        let mut call = sys::Call::new(self.instance, self.info.credit_per_unit, u32::MAX);
        // SAFETY: the caller's promise; the call is off the stack before it is dropped.
        unsafe {
            let begun = sys::wamr_begin(&raw mut call, self.run, argc, cells.as_ptr(), 0);
            assert!(begun && sys::wamr_enter(self.worker, &raw mut call));
            let outcome = loop {
                if !sys::wamr_fuel(self.worker, SLICE, ptr::null_mut()) {
                    continue;
                }
                match sys::wamr_run(self.worker) {
                    sys::OUT_OF_FUEL => {}
                    outcome => break outcome,
                }
            };
            sys::wamr_leave(self.worker);
            sys::wamr_results(&raw const call, cells.as_mut_ptr(), 1);
            sys::wamr_drop(&raw mut call);
            outcome == sys::FINISHED
        }
    }

    /// The least milliseconds of the plain interpreter and of the hooked one, each first in every
    /// other turn: what else the machine does only adds to a time.
    fn least(&self) -> [f64; 2] {
        let expected = self.time(false).1;
        let mut least = [f64::INFINITY; 2];
        for turn in 0..TURNS {
            for hooked in [turn % 2 == 0, turn % 2 != 0] {
                let (ms, result) = self.time(hooked);
                assert_eq!(result, expected, "they compute the same");
                let least = &mut least[usize::from(hooked)];
                *least = least.min(ms);
            }
        }
        least
    }
}

fn main() {
    let arena = Box::leak(vec![0u8; 1 << 20].into_boxed_slice());
    // SAFETY: the arena is leaked.
    let started = unsafe { sys::wamr_init(arena.as_mut_ptr().cast(), 1 << 20) };
    assert_eq!(started, sys::INIT_OK);

    println!("slices of {SLICE}, the least of {TURNS} turns in ms\n");
    println!("| workload | plain | hook | ratio |");
    println!("|---|---|---|---|");
    let mut product = 1.0;
    for workload in &WORKLOADS {
        let [plain, hook] = Guest::new(workload).least();
        let ratio = hook / plain;
        println!(
            "| {} | {plain:.3} | {hook:.3} | {ratio:.3} |",
            workload.name
        );
        product *= ratio;
    }
    let mean = f64::powf(product, 1.0 / WORKLOADS.len() as f64);
    println!("| geometric mean | | | **{mean:.3}** |");
}
