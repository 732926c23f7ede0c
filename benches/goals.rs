//! Figures that upstream's benchmark and the study of preemption in Wasmtime published, and those of
//! this proplet, side by side. `cargo bench --bench goals`
//!
//! Capacity is that of a 32-bit build, as on the boards: a C program around the module build. The
//! rest is this process's engine, with guests on one core.

use clap::Parser as _;
use proplet::engine::{
    Call, Engine as _, Exit, Failure, Limits, ModuleId, Preemption, Slot, TaskData, Value, Weight,
};
use proplet_bench::{Event, Fairness, Lane, Mode, Options, Report};
use proplet_engine::{WamrEngine, Workers};
use proplet_host::{
    bench::Process,
    cli::{self, Cli, Command},
    platform::Linux,
    proplet::start_engine,
};
use proplet_testing::{
    capacity::{self, ARENA, PAGE_BYTES, Program, Width},
    compilers, worst,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use std::{
    fs,
    path::{Path, PathBuf},
    ptr, thread,
    time::{Duration, Instant},
};
use wamr::Buffer;
use wamr_sys as sys;

/// Lines of block-address cache on a device.
const DEVICE_CACHE: u32 = 64;
/// Rounds after which not a byte may be lost.
const ROUNDS: u32 = 10_000;
/// Loops that share the core.
const LOOPS: u16 = 24;
/// Loops that run while one is stopped.
const STOPPED: u16 = 200;
/// Stops that are measured.
const STOPS: u32 = 1000;
/// Guests of one process.
const CROWD: u16 = 10_000;
/// A slice that is long against what the machine's other work takes away.
const LONG_SLICE: u32 = 500_000;
/// When the worst guests are to end.
const DEADLINE: Duration = Duration::from_millis(200);
/// How long loops share the core.
const SHARE: Duration = Duration::from_secs(10);
const ENDLESS: &str = include_str!("../wat/loop.wat");

/// A row of the table.
struct Row {
    what: String,
    published: &'static str,
    /// By linear memories in one block.
    before: String,
    goal: &'static str,
    measured: String,
    met: bool,
}

struct Table(Vec<Row>);

impl Table {
    fn add(
        &mut self,
        what: &str,
        published: &'static str,
        goal: &'static str,
        measured: String,
        met: bool,
    ) {
        self.compare(what, published, "–".into(), goal, measured, met);
    }

    fn compare(
        &mut self,
        what: &str,
        published: &'static str,
        before: String,
        goal: &'static str,
        measured: String,
        met: bool,
    ) {
        eprintln!("{what}: {measured}");
        self.0.push(Row {
            what: what.into(),
            published,
            before,
            goal,
            measured,
            met,
        });
    }

    fn print(&self) {
        println!("| | upstream or study | flat memories | goal | measured | met |");
        println!("|---|---|---|---|---|---|");
        for row in &self.0 {
            let Row {
                what,
                published,
                before,
                goal,
                measured,
                met,
            } = row;
            let met = if *met { "yes" } else { "**no**" };
            println!("| {what} | {published} | {before} | {goal} | {measured} | {met} |");
        }
    }
}

/// The last core of `cores`: the guests'.
fn one_of(cores: &CpuSet) -> CpuSet {
    let mut one = CpuSet::new();
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| cores.is_set(*cpu));
    one.set(last.expect("we run somewhere"));
    one
}

fn main() {
    let mut table = Table(Vec::new());
    if let Err(why) = capacity::no_32_bits() {
        println!("skipped: the rows of 32 bits: {why}\n");
    } else {
        instances(&mut table);
        tasks(&mut table);
    }
    let mut bench = Bench::new();
    // Runs that are compared share one core.
    let cores = sched_getaffinity(None).expect("the kernel says where we may run");
    sched_setaffinity(None, &one_of(&cores)).expect("it is one of those");
    bench.overheads(&mut table);
    sched_setaffinity(None, &cores).expect("we were there before");
    bench.fairness(&mut table);
    bench.stops(&mut table);
    bench.deadlines(&mut table);
    bench.crowd(&mut table);
    bench.rounds(&mut table);
    table.print();
}

/// Tasks of the agent on 32 bits, as its test counts them: records, and all else that a task takes.
fn tasks(table: &mut Table) {
    let test = std::process::Command::new(env!("CARGO"))
        .args(["test", "-p", "proplet-engine", "--test", "agent"])
        .args(["--target", "i686-unknown-linux-gnu", "--", "--nocapture"])
        .output()
        .expect("cargo");
    let said = String::from_utf8_lossy(&test.stdout);
    let number = |words: &str| {
        let line = said.lines().find(|line| line.contains(words));
        let numbers = line
            .unwrap_or_default()
            .split(|c: char| !c.is_ascii_digit());
        numbers
            .filter_map(|n| n.parse::<usize>().ok())
            .collect::<Vec<_>>()
    };
    let (tasks, task, slot) = (
        number("tasks of the cpu workload"),
        number("a task of a loop"),
        number("agent, engine, queue"),
    );
    let ([tasks, ..], [task, record, ..], Some(slot)) = (&tasks[..], &task[..], slot.last()) else {
        println!(
            "skipped: tasks on 32 bits: {}\n",
            String::from_utf8_lossy(&test.stderr)
        );
        return;
    };
    table.add(
        "tasks of upstream's cpu workload in 192 KiB, 32-bit, started by messages, records and all",
        "24",
        "≥ 270",
        tasks.to_string(),
        *tasks >= 270,
    );
    table.add(
        "bytes of one of them / of it its record / static RAM of a slot",
        "– / – / 4,096",
        "– / ≤ 150 / ≤ 64",
        format!("{task} / {record} / {slot}"),
        *record <= 150 && *slot <= 64,
    );
}

fn instances(table: &mut Table) {
    let program = Program::build(Width::Bits32, DEVICE_CACHE, PAGE_BYTES);
    let program = program.expect("the program compiles");
    let cpu = capacity::assemble("goals-cpu", capacity::CPU);
    let run = |stack, module: &Path, mode: &str| {
        let fields = program.run(ARENA, stack, module, mode);
        fields.expect("it runs")
    };
    for (stack, published) in [(1536, "–"), (4096, "24")] {
        let fits = run(stack, &cpu, "count=0")["count"];
        table.add(
            &format!(
                "cpu guests in 192 KiB, 32-bit, all run to their end in turns, {stack} bytes of stack"
            ),
            published,
            "≥ 400",
            fits.to_string(),
            fits >= 400,
        );
    }
    let fields = run(4096, &cpu, "count=0");
    let one = fields["instance"] + fields["kept"] + fields["record"];
    table.add(
        "bytes of one of them: instance, kept of its call, record of the call",
        "–",
        "–",
        format!(
            "{} + {} + {} = {one}",
            fields["instance"], fields["kept"], fields["record"]
        ),
        true,
    );
    let functions: String = (0..50)
        .map(|n| format!("(func (export \"f{n}\") (result i32) (i32.const {n}))"))
        .collect();
    let code = capacity::CPU.replacen("(module", &format!("(module {functions}"), 1);
    let code = capacity::assemble("goals-code", &code);
    let instance = run(4096, &code, "count=0")["instance"];
    table.add(
        "an instance of a module of 51 functions, beside stack and memory, 32-bit, bytes",
        "–",
        "≤ 600",
        instance.to_string(),
        instance <= 600,
    );
    let switches = run(4096, &cpu_endless(), "switches=1000000");
    let ns = switches["apart_ns"].saturating_sub(switches["alone_ns"]) as f64 / 1e6;
    table.add(
        "a switch between 100 guests, 32-bit, the steps themselves apart",
        "–",
        "≤ 200 ns",
        format!("{ns:.0} ns"),
        ns <= 200.0,
    );
    let own = [0, PAGE_BYTES].map(|page_bytes| {
        let program = Program::build(Width::Own, 64, page_bytes);
        program.expect("the program compiles")
    });
    let [flat_own, own] = &own;
    hook(table, flat_own);
    let made = own.run(16 << 20, 4096, &cpu, "make=10000");
    let ms = made.expect("it runs")["made_ns"] as f64 / 1e6;
    table.add(
        "making 10,000 instances, 64-bit",
        "–",
        "≤ 100 ms",
        format!("{ms:.1} ms"),
        ms <= 100.0,
    );
    let flat = Program::build(Width::Bits32, DEVICE_CACHE, 0);
    let flat = flat.expect("the program compiles");
    paged_guests(table, &flat, &program);
    paged_instructions(table, "32-bit", &flat, &program);
    paged_instructions(table, "64-bit", flat_own, own);
    touches(table, &program);
    let page = capacity::assemble("goals-page", capacity::PAGE);
    let rounds = run(4096, &page, &format!("rounds={ROUNDS}"));
    let (before, after) = (rounds["free_before"], rounds["free_after"]);
    table.add(
        "arena after 10,000 rounds and teardown, 32-bit, bytes free",
        "191 of 192 KB",
        "as before",
        format!("{after} of {before}"),
        before == after,
    );
}

/// The filters of `guests/`, by their compilers' default flags, where there are compilers.
fn filters() -> [Option<PathBuf>; 2] {
    let guests = compilers::guests();
    let c = compilers::compile_plainly(&guests.join("c/filter.c"));
    let rust = compilers::compile_rust_plainly(&guests.join("rust/src/lib.rs"));
    [("c", c), ("rust", rust)].map(|(name, wasm)| {
        let module = compilers::built().join(format!("goals-{name}.wasm"));
        fs::write(&module, wasm?).expect("the module can be written");
        Some(module)
    })
}

/// Guests with linear memories as they declare them, against those of a build with flat memories.
fn paged_guests(table: &mut Table, flat: &Program, paged: &Program) {
    let [c, rust] = filters();
    let workload = |name: &str, wat| Some(capacity::assemble(&format!("goals-{name}"), wat));
    let mem = workload("mem", capacity::MEM);
    let msg = workload("msg", capacity::MSG);
    for (what, module, published, goal, least) in [
        ("upstream's mem, `(memory 1 1)`", mem, "2", "≥ 90", 90),
        ("upstream's msg, `(memory 1 1)`", msg, "2", "≥ 55", 55),
        ("C, clang's default flags, 2 pages", c, "–", "≥ 10", 10),
        (
            "Rust, rustc's default flags, 17 pages",
            rust,
            "–",
            "≥ 10",
            10,
        ),
    ] {
        let Some(module) = module else {
            println!("skipped: {what}: no compiler\n");
            continue;
        };
        let fit = |program: &Program| match program.run(ARENA, 4096, &module, "count=100") {
            Ok(fields) => fields["count"],
            Err(text) if text.contains("not one instance fits") => 0,
            Err(text) => panic!("{what}: {text}"),
        };
        let (before, fits) = (fit(flat), fit(paged));
        table.compare(
            &format!("{what}: guests in 192 KiB, 32-bit, all run to their end in turns"),
            published,
            before.to_string(),
            goal,
            fits.to_string(),
            fits >= least,
        );
    }
}

/// A module of the workload whose `run(n)` calls `main` as often.
fn repeated(wat: &str) -> String {
    let named = wat.replacen(
        "(func (export \"main\")",
        "(func $main (export \"main\")",
        1,
    );
    let module = named.trim_end().strip_suffix(')').expect("it is a module");
    format!(
        "{module} (func (export \"run\") (param $n i32) (result i32) (local $sum i32)
            (loop $next
                (local.set $sum (i32.add (local.get $sum) (call $main)))
                (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            (local.get $sum)))"
    )
}

/// Instructions with linear memories by the page, against flat ones.
fn paged_instructions(table: &mut Table, bits: &str, flat: &Program, paged: &Program) {
    let wat = |name: &str, wat: &str| Some(capacity::assemble(&format!("goals-paged-{name}"), wat));
    let [c, rust] = filters();
    let with_memory = [
        ("dot", wat("dot", include_str!("../wat/dot.wat")), 1, 4096),
        (
            "matmul",
            wat("matmul", include_str!("../wat/matmul.wat")),
            1,
            64,
        ),
        ("mem", wat("mem", &repeated(capacity::MEM)), 1, 3),
        (
            "checksum",
            wat("checksum", &repeated(capacity::CHECKSUM)),
            1,
            3,
        ),
        ("C", c, 100, 600),
        ("Rust", rust, 100, 600),
    ];
    let without = [
        ("fib", wat("fib", include_str!("../wat/fib.wat")), 2, 20),
        (
            "branchy",
            wat("branchy", include_str!("../wat/branchy.wat")),
            1,
            20_000,
        ),
    ];
    let ratio = |(name, module, least, n): (&'static str, Option<PathBuf>, u32, u32)| {
        let module = module?;
        let count = |program: &Program| program.instructions(true, &module, least, n);
        Some((name, count(paged)? as f64 / count(flat)? as f64))
    };
    let memory: Vec<_> = with_memory.into_iter().filter_map(ratio).collect();
    let none: Vec<_> = without.into_iter().filter_map(ratio).collect();
    if memory.is_empty() {
        println!("skipped: instructions of linear memory by the page: no valgrind\n");
        return;
    }
    let words = |ratios: &[(&str, f64)]| {
        let words = ratios
            .iter()
            .map(|(name, ratio)| format!("{name} {ratio:.3}"));
        words.collect::<Vec<_>>().join(", ")
    };
    let most = |ratios: &[(&str, f64)]| ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max);
    let product: f64 = memory.iter().map(|(_, ratio)| ratio).product();
    let mean = product.powf(1.0 / memory.len() as f64);
    table.compare(
        &format!(
            "instructions, pages against flat memories, {bits}: mean, of which none over 1.10"
        ),
        "–",
        "1".into(),
        "≤ 1.06",
        format!("{mean:.3} ({})", words(&memory)),
        mean <= 1.06 && most(&memory) <= 1.10,
    );
    // A column has a small page for each row or two: more than the interpreter has at hand on 32 bits.
    let matmul = wat("matmul", include_str!("../wat/matmul.wat"));
    if let Some((name, ratio)) = ratio(("matmul, 96 by 96", matmul, 1, 96)) {
        table.compare(
            &format!("the same where 74 pages are used in turn, {bits}"),
            "–",
            "1".into(),
            "≤ 1.10",
            format!("{name} {ratio:.3}"),
            ratio <= 1.10,
        );
    }
    table.compare(
        &format!("the same without a memory, {bits}"),
        "–",
        "1".into(),
        "≤ 1.02",
        words(&none),
        most(&none) <= 1.02,
    );
}

/// `run(n)` writes to `n` small pages.
const TOUCH: &str = "(module (memory 200)
    (func (export \"run\") (param $n i32) (result i32)
        (loop $next
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (i32.store8 (i32.mul (local.get $n) (i32.const 1024)) (i32.const 1))
            (br_if $next (local.get $n)))
        (i32.const 0)))";

/// Whether a page takes as long where there are many.
fn touches(table: &mut Table, program: &Program) {
    let module = capacity::assemble("goals-touch", TOUCH);
    let time = |n: u32| {
        let fields = program.run(16 << 20, 4096, &module, &format!("time={n}"));
        fields.expect("it runs")["best_ns"] as f64
    };
    let (few, many) = (time(1000), time(12_000));
    table.add(
        "1,000 first touches / 12,000, 32-bit / so many times as long, in time",
        "–",
        "≤ 10",
        format!(
            "{:.2} ms / {:.2} ms / {:.1}",
            few / 1e6,
            many / 1e6,
            many / few
        ),
        many / few <= 10.0,
    );
    let count = |n: u32| program.instructions(true, &module, 1, n + 1);
    let (Some(few), Some(many)) = (count(1000), count(12_000)) else {
        println!("skipped: the instructions of a first touch: no valgrind\n");
        return;
    };
    let (few, many) = (few as f64 / 1e3, many as f64 / 12e3);
    table.add(
        "instructions of a first touch, zeroing and giving back included, of 1,000 / of 12,000",
        "–",
        "equal to a hundredth",
        format!("{few:.0} / {many:.0}"),
        (many / few - 1.0).abs() <= 0.01,
    );
}

/// Instructions of the interpreter with its hook, against those without: the machine's load is not in
/// them.
fn hook(table: &mut Table, program: &Program) {
    let (mut product, mut words) = (1.0, Vec::new());
    for (name, wat, least, n) in [
        ("fib", include_str!("../wat/fib.wat"), 2, 20),
        ("dot", include_str!("../wat/dot.wat"), 1, 4096),
        ("matmul", include_str!("../wat/matmul.wat"), 1, 32),
        ("branchy", include_str!("../wat/branchy.wat"), 1, 20_000),
    ] {
        let module = capacity::assemble(&format!("goals-hook-{name}"), wat);
        let count = |hooked| program.instructions(hooked, &module, least, n);
        let (Some(hooked), Some(plain)) = (count(true), count(false)) else {
            println!("skipped: the slice hook's instructions: no valgrind\n");
            return;
        };
        let ratio = hooked as f64 / plain as f64;
        product *= ratio;
        words.push(format!("{name} {ratio:.3}"));
    }
    let mean = f64::powf(product, 1.0 / words.len() as f64);
    table.add(
        "the hook's instructions, against the plain interpreter's",
        "–",
        "≤ 1.05",
        format!("{mean:.3} ({})", words.join(", ")),
        mean <= 1.05,
    );
}

/// Its steps never end.
fn cpu_endless() -> std::path::PathBuf {
    capacity::assemble("goals-loop", capacity::LOOP)
}

/// A workload of the study, and what it published: fuel, time slices.
struct Study {
    name: &'static str,
    wat: &'static str,
    args: &'static [i32],
    turns: usize,
    fuel: &'static str,
    time: &'static str,
}

/// Cells of the operand stack in a cache line.
const PLACES: usize = 16;

impl Study {
    /// With exports `run0`, `run1`, … of its `run`, whose frames begin as many cells later.
    fn in_all_places(&self) -> String {
        let named = self
            .wat
            .replace("(func (export \"run\")", "(func $run (export \"run\")");
        let name = if named.contains("$run") {
            "$run"
        } else {
            "$fib"
        };
        let module = named.trim_end().strip_suffix(')').expect("it is a module");
        let params = "i32 ".repeat(self.args.len());
        let args: String = (0..self.args.len())
            .map(|arg| format!("(local.get {arg})"))
            .collect();
        let places = (0..PLACES).map(|place| {
            let locals = "i32 ".repeat(place);
            format!(
                "(func (export \"run{place}\") (param {params}) (result i32) (local {locals})
                    (call {name} {args}))"
            )
        });
        format!("{module}{})", places.collect::<String>())
    }
}

const STUDIES: [Study; 3] = [
    Study {
        name: "fib(32)",
        wat: include_str!("../wat/fib.wat"),
        args: &[32],
        turns: 48,
        fuel: "1.19",
        time: "0.97",
    },
    Study {
        name: "dot, 4,096 elements, 500 times",
        wat: include_str!("../wat/dot.wat"),
        args: &[4096, 500],
        turns: 96,
        fuel: "1.48",
        time: "1.49",
    },
    Study {
        // At the study's 512 a run takes 5 s, in which the machine's noise is more than this is.
        name: "matmul, 256 by 256",
        wat: include_str!("../wat/matmul.wat"),
        args: &[256, 1],
        turns: 16,
        fuel: "1.25",
        time: "1.51",
    },
];

/// The engine, and this thread as its control thread.
struct Bench {
    engine: WamrEngine<Linux>,
    workers: &'static Workers<Linux>,
    limits: cli::Limits,
}

impl Bench {
    fn new() -> Self {
        let arguments = [
            "proplet",
            "bench",
            "--arena-bytes",
            "67108864",
            "--stack-max-bytes",
            "1048576",
            "--instances",
            "10000",
            "--slice",
            "100000",
        ];
        let Some(Command::Bench(bench)) = Cli::parse_from(arguments).command else {
            unreachable!("the words above say bench");
        };
        let limits = bench.limits;
        let (engine, workers) = start_engine(&limits, 8, "bench").expect("the engine starts");
        Self {
            engine,
            workers,
            limits,
        }
    }

    fn load(&mut self, wat: &str) {
        self.load_bytes(&wat::parse_str(wat).expect("it assembles"));
    }

    fn load_bytes(&mut self, wasm: &[u8]) {
        let module = ModuleId(0);
        let mut bytes = self.engine.allocate(wasm.len()).expect("it fits");
        bytes.copy_from_slice(wasm);
        self.engine.load(module, bytes).expect("it loads");
    }

    fn spawn(&mut self, slot: u16, export: &str, args: &[i32]) {
        self.spawn_with(slot, export, args, self.run_limits());
    }

    fn spawn_with(&mut self, slot: u16, export: &str, args: &[i32], limits: Limits) {
        let args: Vec<Value> = args.iter().copied().map(Value::I32).collect();
        let call = Call {
            module: ModuleId(0),
            export,
            args: &args,
            limits,
        };
        let spawned = self.engine.spawn(Slot(slot), &call, TaskData::NONE);
        spawned.expect("there is room");
    }

    fn run_limits(&self) -> Limits {
        Limits {
            // fib(32) takes 5,096 bytes.
            stack: self.limits.stack_bytes.max(8192),
            memory_max: None,
            work: None,
            weight: Weight::DEFAULT,
        }
    }

    fn exit(&mut self) -> Exit<Buffer> {
        let exits = self.workers.platform().exits();
        loop {
            if let Some(slot) = self.engine.exited() {
                return self.engine.take_exit(slot).expect("it has ended");
            }
            poll(&mut [PollFd::new(exits, PollFlags::IN)], None).expect("poll");
            exits.clear();
        }
    }

    /// Processor seconds of each of `guests` at once, in the mean.
    fn time(&mut self, study: &Study, place: usize, preemption: Preemption, guests: u16) -> f64 {
        self.workers.set_preemption(preemption);
        for slot in 0..guests {
            self.spawn(slot, &format!("run{place}"), study.args);
        }
        let mut cpu = Duration::ZERO;
        for _ in 0..guests {
            let exit = self.exit();
            assert!(matches!(exit.result, Ok(Some(_))), "{exit:?}");
            cpu += exit.usage.cpu;
        }
        cpu.as_secs_f64() / f64::from(guests)
    }

    /// Each of the worst guests, for the deadline: how long until the last one has ended.
    fn deadlines(&mut self, table: &mut Table) {
        let (mut longest, mut of) = (Duration::ZERO, "");
        for guest in worst::guests() {
            self.load_bytes(&guest.wasm);
            let limits = Limits {
                stack: 1 << 20,
                ..self.run_limits()
            };
            self.spawn_with(0, "run", &[], limits);
            let begun = Instant::now();
            thread::sleep(DEADLINE);
            self.engine.interrupt(Slot(0));
            let exit = self.exit();
            let took = begun.elapsed();
            assert_eq!(exit.result, Err(Failure::Interrupted), "{}", guest.name);
            eprintln!("{:>30}: {took:.1?}", guest.name);
            if took > longest {
                (longest, of) = (took, guest.name);
            }
            self.engine.unload(ModuleId(0));
        }
        table.add(
            "a deadline of 200 ms, the worst of 19 guests, steps of 100,000",
            "–",
            "two slices, of 50 ms",
            format!("{:.0} ms ({of})", longest.as_secs_f64() * 1e3),
            longest <= DEADLINE + Duration::from_millis(100),
        );
    }

    fn overheads(&mut self, table: &mut Table) {
        let rows = STUDIES.map(|study| (self.overhead(&study), study));
        for ([fuel, fuel_of_two, _, _], study) in &rows {
            table.add(
                &format!("fuel overhead, {}, alone / two in turns", study.name),
                study.fuel,
                "≤ 1.10",
                format!("{fuel:.3} / {fuel_of_two:.3}"),
                fuel.max(*fuel_of_two) <= 1.10,
            );
        }
        for ([_, _, time, time_of_two], study) in &rows {
            table.add(
                &format!("time-slice overhead, {}, alone / two at once", study.name),
                study.time,
                "≤ 1.03",
                format!("{time:.3} / {time_of_two:.3}"),
                time.max(*time_of_two) <= 1.03,
            );
        }
    }

    /// Processor time against the interpreter without any hook: the least of each in turns in
    /// which each runs once, in rotating order. Other work of the machine only adds to a time. So
    /// does where in a cache line its frames begin, by a tenth and more: each turn has another place.
    fn overhead(&mut self, study: &Study) -> [f64; 4] {
        let wat = study.in_all_places();
        self.load(&wat);
        let mut least = [f64::INFINITY; 5];
        for turn in 0..study.turns {
            let place = turn % PLACES;
            let plain = Plain::new(&wat, study.args, place);
            for at in 0..least.len() {
                let which = (at + turn) % least.len();
                let time = match which {
                    0 => plain.time(),
                    1 => self.time(study, place, Preemption::Fuel, 1),
                    2 => self.time(study, place, Preemption::Fuel, 2),
                    3 => self.time(study, place, Preemption::Time, 1),
                    _ => self.time(study, place, Preemption::Time, 2),
                };
                least[which] = least[which].min(time);
            }
        }
        self.engine.unload(ModuleId(0));
        self.workers.set_preemption(Preemption::Fuel);
        let [plain, others @ ..] = least;
        others.map(|time| time / plain)
    }

    fn fairness(&mut self, table: &mut Table) {
        let equal = self.share(&[]);
        let (work, cpu) = (equal.work.expect("counted"), equal.cpu.expect("measured"));
        table.add(
            "24 equal loops, fuel, one core: Jain's index of work / of processor time",
            "–",
            "≥ 0.999",
            format!("{:.6} / {:.6}", work.jain, cpu.jain),
            work.jain.min(cpu.jain) >= 0.999,
        );
        let weighed = self.share(&[10, 20, 40, 80]);
        let (work, cpu) = (
            weighed.work.expect("counted"),
            weighed.cpu.expect("measured"),
        );
        table.add(
            "24 loops weighing 10:20:40:80, largest error of a share of work / of processor time",
            "–",
            "< 2 %",
            format!("{:.2} % / {:.2} %", work.error * 100.0, cpu.error * 100.0),
            work.error.max(cpu.error) < 0.02,
        );
        let light = self.share(&[1, 2, 4, 8]);
        let (work, cpu) = (light.work.expect("counted"), light.cpu.expect("measured"));
        table.add(
            "24 loops weighing 1:2:4:8, turns a tenth as long, of work / of processor time",
            "–",
            "≤ 0.1 % / ≤ 2 %",
            format!("{:.2} % / {:.2} %", work.error * 100.0, cpu.error * 100.0),
            work.error <= 0.001 && cpu.error <= 0.02,
        );
    }

    fn share(&mut self, weights: &[u8]) -> Fairness {
        struct Keep(Option<Fairness>);
        impl Report for Keep {
            fn report(&mut self, event: &Event<'_>) {
                if let Event::Fairness(fairness) = event {
                    self.0 = Some(**fairness);
                }
            }
        }
        let options = Options {
            limits: self.run_limits(),
            preemption: Preemption::Fuel,
            weights,
            max: Some(LOOPS.into()),
            step: SHARE,
        };
        let mut keep = Keep(None);
        let good = proplet_bench::run(
            &mut self.engine,
            &mut Process(self.workers),
            &mut [Lane::VACANT; 32],
            Mode::Fairness,
            &options,
            &mut keep,
        );
        assert_eq!(good, Ok(true), "all loops ran, and the arena is as before");
        keep.0.expect("there were loops")
    }

    /// Slices are counted by the work that all loops do from the interrupt of one until its end is
    /// known here; what they report lags by less than a slice.
    fn stops(&mut self, table: &mut Table) {
        self.workers.set_slice(LONG_SLICE);
        self.load(ENDLESS);
        for slot in 0..STOPPED {
            self.spawn(slot, "main", &[]);
        }
        std::thread::sleep(Duration::from_millis(200));
        let work = |bench: &Self, slots: &[u16]| -> u64 {
            slots
                .iter()
                .map(|s| bench.engine.usage(Slot(*s)).work)
                .sum()
        };
        let slots: Vec<u16> = (0..STOPPED).collect();
        let (mut took, mut slices) = (Vec::new(), Vec::new());
        for n in 0..STOPS {
            let slot = (n % u32::from(STOPPED)) as u16;
            let others: Vec<u16> = slots.iter().copied().filter(|s| *s != slot).collect();
            let (before, asked) = (work(self, &slots), Instant::now());
            self.engine.interrupt(Slot(slot));
            let exit = self.exit();
            took.push(asked.elapsed().as_secs_f64() * 1e3);
            let after = work(self, &others) + exit.usage.work;
            slices.push(after.saturating_sub(before) as f64 / f64::from(LONG_SLICE));
            assert_eq!(exit.slot, Slot(slot));
            self.spawn(slot, "main", &[]);
            // Not always at the same place of a slice.
            std::thread::sleep(Duration::from_micros(500 + u64::from(n) * 7919 % 3000));
        }
        for slot in slots {
            self.engine.interrupt(Slot(slot));
            self.exit();
        }
        self.engine.unload(ModuleId(0));
        self.workers.set_slice(self.limits.slice);
        let most = |numbers: &[f64]| numbers.iter().copied().fold(0.0, f64::max);
        let (most_slices, most_ms) = (most(&slices), most(&took));
        table.add(
            "a stop with 200 loops running, the longest of 1,000, in slices of 500,000 / in ms",
            "–",
            "≤ 2 slices",
            format!(
                "{most_slices:.2} / {most_ms:.2} (median {:.2} ms)",
                median(took)
            ),
            most_slices <= 2.0,
        );
    }

    /// All run at once, on one worker, and each is preempted again and again.
    fn crowd(&mut self, table: &mut Table) {
        self.workers.set_slice(2000);
        self.load(ENDLESS);
        let before = self.engine.arena().free;
        for slot in 0..CROWD {
            self.spawn(slot, "main", &[]);
        }
        let bytes = (before - self.engine.arena().free) / usize::from(CROWD);
        let began = Instant::now();
        let turns = |bench: &Self, slot| bench.engine.usage(Slot(slot)).work / 2000;
        let least = |bench: &Self| (0..CROWD).map(|slot| turns(bench, slot)).min();
        while least(self) < Some(10) {
            assert!(began.elapsed() < Duration::from_secs(60), "a guest waits");
            std::thread::sleep(Duration::from_millis(10));
        }
        let most = (0..CROWD).map(|slot| turns(self, slot)).max();
        let asked = Instant::now();
        for slot in 0..CROWD {
            self.engine.interrupt(Slot(slot));
        }
        for _ in 0..CROWD {
            assert_eq!(self.exit().result, Err(Failure::Interrupted));
        }
        let stopped = asked.elapsed().as_secs_f64() * 1e3;
        self.engine.unload(ModuleId(0));
        self.workers.set_slice(self.limits.slice);
        let spread = most.unwrap_or_default() - 10;
        table.add(
            "endless loops in one Linux process, one worker, each with 10 turns or more / bytes of each / turns between first and last / all stopped in ms",
            "–",
            "10,000",
            format!("{CROWD} / {bytes} / {spread} / {stopped:.0}"),
            true,
        );
    }

    fn rounds(&mut self, table: &mut Table) {
        let free = self.engine.arena().free;
        for _ in 0..ROUNDS {
            self.load(include_str!("../wat/addition.wat"));
            self.spawn(0, "add", &[20, 22]);
            assert_eq!(self.exit().result, Ok(Some(Value::I32(42))));
            self.engine.unload(ModuleId(0));
        }
        let after = self.engine.arena().free;
        table.add(
            "arena after all of this and 10,000 tasks, each with its own parse, bytes free",
            "–",
            "as before",
            format!("{after} of {free}"),
            after == free,
        );
    }
}

/// The same module in the interpreter without a hook.
struct Plain {
    module: *mut sys::Module,
    instance: *mut sys::Instance,
    worker: *mut sys::Worker,
    tables: *mut sys::Tables,
    run: u32,
    args: &'static [i32],
    /// The module's bytes, which WAMR rewrites and keeps.
    _wasm: Box<[u8]>,
}

impl Plain {
    fn new(wat: &str, args: &'static [i32], place: usize) -> Self {
        let mut wasm = wat::parse_str(wat)
            .expect("it assembles")
            .into_boxed_slice();
        let (mut info, mut error) = (sys::ModuleInfo::default(), [0u8; 128]);
        let mut ty = sys::FunctionType {
            types: ptr::null(),
            params: 0,
            results: 0,
        };
        // SAFETY: the runtime is started, all pointers are valid for what the declarations say,
        // `wasm` lives as long as the module, and each handle is used only if it is not null.
        unsafe {
            let (text, len) = (error.as_mut_ptr().cast(), wasm.len() as u32);
            let module = sys::wamr_load(wasm.as_mut_ptr(), len, &raw mut info, text, 128);
            assert!(!module.is_null(), "{}", sys::error_text(&error));
            let tables = Box::leak(Box::new(sys::Tables::NONE));
            let instance = sys::wamr_instantiate(module, tables, u64::MAX, false, text, 128);
            assert!(!instance.is_null(), "{}", sys::error_text(&error));
            let worker = sys::wamr_worker_new(8192);
            assert!(!worker.is_null());
            let name = format!("run{place}");
            let (name, len) = (name.as_ptr().cast(), name.len() as u32);
            let run = sys::wamr_find_function(module, name, len, &raw mut ty);
            assert_eq!((ty.params as usize, ty.results), (args.len(), 1));
            Self {
                module,
                instance,
                worker,
                tables,
                run,
                args,
                _wasm: wasm,
            }
        }
    }

    /// Processor seconds of one call.
    fn time(&self) -> f64 {
        let mut argv = [0u32; 4];
        for (cell, arg) in argv.iter_mut().zip(self.args) {
            *cell = arg.cast_unsigned();
        }
        let now = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            Duration::try_from(time)
                .expect("it is not negative")
                .as_secs_f64()
        };
        let began = now();
        let argc = self.args.len() as u32;
        // SAFETY: the handles are good (see `new`), and the function takes these cells and gives
        // one.
        let ok = unsafe {
            sys::wamr_call_plain(
                self.worker,
                self.instance,
                self.run,
                argc,
                argv.as_mut_ptr(),
            )
        };
        assert!(ok, "trapped");
        now() - began
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // SAFETY: the handles are good (see `new`), and nothing runs on them.
        unsafe {
            sys::wamr_worker_delete(self.worker);
            sys::wamr_deinstantiate(self.instance, self.tables);
            sys::wamr_unload(self.module);
        }
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
