//! How many guests 192 KiB hold, what a page of linear memory is best, and what the lines of the block
//! address cache are worth, with pointers of 32 bits and of this machine's width.
//! `cargo bench -p wamr-sys --bench capacity`

use std::fs;
use std::path::PathBuf;
use std::thread;

use proplet_testing::capacity::{
    self, ARENA, CHECKSUM, CPU, MEM, MEM_64K, MSG, PAGE_BYTES, Program, Width,
};
use proplet_testing::compilers;

/// The operand stack, one for all guests.
const STACK: u32 = 4096;
const STACKS: [u32; 5] = [512, 1536, STACK, 8192, 16_384];
/// The last is what the others' times are relative to.
const LINES: [u32; 5] = [16, 32, 64, 128, 256];
const PAGES: [u32; 4] = [512, PAGE_BYTES, 2048, 4096];
/// Turns of each; odd, so that the median is one of them.
const TURNS: usize = 5;
/// Layouts of each switch that are timed together: which blocks contend for a line is a matter of
/// where a compiler happens to put them.
const LAYOUTS: u32 = 5;

/// Modules of which `run(n)` is timed.
struct Workload {
    name: String,
    wats: Vec<String>,
    n: u32,
}

fn main() {
    let build_text = capacity::build_text().expect("there is a C compiler");
    println!("`cargo bench -p wamr-sys --bench capacity`: {build_text}, with the slice hook");
    let mut widths = vec![Width::Own];
    match capacity::no_32_bits() {
        Ok(()) => widths.insert(0, Width::Bits32),
        Err(why) => println!("skipped: {why}"),
    }
    let builds: Vec<_> = widths.into_iter().map(build).collect();
    // All are there before the first is timed.
    let builds = builds.into_iter().map(thread::JoinHandle::join);
    let builds: Vec<_> = builds.collect::<Result<_, _>>().expect("they compile");
    let guests = guests();
    for programs in builds {
        let bits = 8 * measure(&programs[0], STACK, &guests[0])["pointer"];
        counts(&programs, &guests, bits);
        times(&programs, bits);
    }
}

/// One program for each number of lines, then one for each size of page.
fn build(width: Width) -> thread::JoinHandle<Vec<Program>> {
    let settings = LINES.map(|lines| (lines, PAGE_BYTES)).into_iter();
    let settings = settings.chain(PAGES.map(|page| (64, page)));
    let build = move |(lines, page)| Program::build(width, lines, page).expect("it compiles");
    thread::spawn(move || settings.map(build).collect())
}

fn assemble(name: &str, wat: &str) -> PathBuf {
    capacity::assemble(&format!("bench-{name}"), wat)
}

/// A module that runs `main(argument)`.
struct Guest {
    name: &'static str,
    module: PathBuf,
    argument: u32,
}

fn guests() -> Vec<Guest> {
    let workloads = [
        ("cpu", CPU),
        ("mem", MEM),
        ("msg", MSG),
        ("checksum", CHECKSUM),
        ("mem64k", MEM_64K),
    ];
    let workloads = workloads.map(|(name, wat)| Guest {
        name,
        module: assemble(name, wat),
        argument: 0,
    });
    let (c, rust) = (
        compilers::guests().join("c/filter.c"),
        compilers::guests().join("rust/src/lib.rs"),
    );
    let compiled = [
        ("C, default flags", compilers::compile_plainly(&c)),
        ("C, small stack", compilers::compile(&c)),
        (
            "Rust, default flags",
            compilers::compile_rust_plainly(&rust),
        ),
        ("Rust, small stack", compilers::build_crate("filter")),
    ];
    let compiled = compiled.into_iter().filter_map(|(name, wasm)| {
        let module = compilers::built().join(format!("{name}.wasm"));
        fs::write(&module, wasm?).expect("the module can be written");
        Some(Guest {
            name,
            module,
            argument: 100,
        })
    });
    workloads.into_iter().chain(compiled).collect()
}

type Fields = std::collections::HashMap<String, u64>;

fn try_measure(program: &Program, stack: u32, guest: &Guest) -> Result<Fields, String> {
    let mode = format!("count={}", guest.argument);
    program.run(ARENA, stack, &guest.module, &mode)
}

fn measure(program: &Program, stack: u32, guest: &Guest) -> Fields {
    try_measure(program, stack, guest).expect("it runs")
}

/// How many fit; none where the stack is too small for it.
fn fit(program: &Program, stack: u32, guest: &Guest) -> String {
    match try_measure(program, stack, guest) {
        Ok(fields) => fields["count"].to_string(),
        Err(text) if text.contains("stack") => "–".to_owned(),
        Err(text) => panic!("{}: {text}", guest.name),
    }
}

fn counts(programs: &[Program], guests: &[Guest], bits: u64) {
    let (by_lines, by_page) = programs.split_at(LINES.len());
    println!("\n{bits} bits, bytes of the arena, and how many fit {ARENA} beside a worker of");
    println!("{STACK} bytes of stack and 64 lines of cache\n");
    println!(
        "| | bytes of Wasm | load | tables | instance | kept of its call | linear memory | fit |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for guest in guests {
        let fields = measure(&by_lines[2], STACK, guest);
        let keys = ["load", "tables", "instance", "kept", "linear", "count"];
        let wasm = fs::metadata(&guest.module).expect("it is there").len();
        println!(
            "| {} | {wasm} | {} |",
            guest.name,
            join(keys.iter().map(|key| fields[*key].to_string()))
        );
    }
    let names = join(guests.iter().map(|guest| guest.name.to_owned()));
    let rule = "---|".repeat(guests.len() + 1);
    println!("\n{bits} bits, how many fit, by the operand stack\n");
    println!("| | {names} |\n|{rule}");
    for stack in STACKS {
        let fits = guests.iter().map(|guest| fit(&by_lines[2], stack, guest));
        println!("| {stack} | {} |", join(fits));
    }
    println!("\n{bits} bits, how many fit beside {STACK} bytes of stack, by the page\n");
    println!("| | {names} |\n|{rule}");
    for (page, program) in PAGES.iter().zip(by_page) {
        let fits = guests.iter().map(|guest| fit(program, STACK, guest));
        println!("| {page} | {} |", join(fits));
    }
    let lines = join(LINES.iter().map(|l| format!("{l} lines")));
    println!("\n{bits} bits, a worker beside its stack\n");
    println!("| {lines} |\n|{}", "---|".repeat(LINES.len()));
    let worker = |p| measure(p, STACK, &guests[0])["worker"] - u64::from(STACK);
    println!(
        "| {} |",
        join(by_lines.iter().map(|p| worker(p).to_string()))
    );
}

fn times(programs: &[Program], bits: u64) {
    let (last, rest) = LINES.split_last().expect("there are some");
    let lines = join(rest.iter().map(|l| format!("{l} lines")));
    println!("\n{bits} bits, processor time relative to {last} lines");
    println!("({TURNS} turns, all sizes in each; medians of the turns' ratios)\n");
    println!(
        "| | {last} lines, ms | {lines} |\n|---|---|{}",
        "---|".repeat(rest.len())
    );
    for Workload { name, wats, n } in workloads() {
        let modules = wats.iter().enumerate();
        let modules = modules.map(|(i, wat)| assemble(&format!("time-{i}"), wat));
        let modules: Vec<_> = modules.collect();
        let mode = format!("time={n}");
        let time = |program: &Program| {
            let time = |module: &PathBuf| {
                let fields = program.run(ARENA, 8192, module, &mode);
                fields.expect("it runs")["best_ns"]
            };
            modules.iter().map(time).sum::<u64>() as f64
        };
        let turn = |_| programs[..LINES.len()].iter().map(time).collect::<Vec<_>>();
        let turns: Vec<Vec<f64>> = (0..TURNS).map(turn).collect();
        let base = median(turns.iter().map(|t| t[rest.len()]));
        let ratio = |i| median(turns.iter().map(|t| t[i] / t[rest.len()]));
        let ratios = join((0..rest.len()).map(|i| format!("{:.2}", ratio(i))));
        println!("| {name} | {:.1} | {ratios} |", base / 1e6);
    }
}

fn workloads() -> Vec<Workload> {
    let switches = [48, 32, 16, 8].map(|arms| Workload {
        name: format!("{arms} nested blocks, {LAYOUTS} layouts"),
        wats: (0..LAYOUTS).map(|layout| switch(arms, layout)).collect(),
        n: 10_000,
    });
    let file = |name: &str, wat: &str, n| Workload {
        name: name.to_owned(),
        wats: vec![wat.to_owned()],
        n,
    };
    let branchy = include_str!("../../../../wat/branchy.wat");
    let fib = include_str!("../../../../wat/fib.wat");
    let files = [file("branchy", branchy, 200_000), file("fib", fib, 22)];
    switches.into_iter().chain(files).collect()
}

/// The code that a compiler makes of a loop around a switch of `arms` cases: as many nested blocks,
/// entered together at each of the `n` rounds and left by a `br_table` in pseudorandom order. The cases
/// take turns at leaving by br, after an if or a block of their own, and by br_if or else falling
/// into the next. A layout is a choice of how long each case's code is.
fn switch(arms: u32, layout: u32) -> String {
    let mut random = layout;
    let mut text = String::from(
        "(module (func (export \"run\") (param $n i32) (result i32)
            (local $random i32) (local $sum i32)
            (loop $next (block $done",
    );
    let mut emit = |part: &str| text.push_str(part);
    (0..arms)
        .rev()
        .for_each(|arm| emit(&format!("(block $case{arm}\n")));
    emit("(br_table");
    (0..arms).for_each(|arm| emit(&format!(" $case{arm}")));
    emit(&format!(
        " (i32.rem_u (i32.shr_u (local.get $random) (i32.const 8)) (i32.const {arms})))"
    ));
    for arm in 0..arms {
        // The code before this belongs to the block that this case's label ends.
        let add = |n| format!("(local.set $sum (i32.add (local.get $sum) (i32.const {n})))");
        let bit = "(i32.and (local.get $sum) (i32.const 1))";
        emit(")");
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // 7 or 8 bytes each, by the constant's length.
        (0..1 + (random >> 24) % 4).for_each(|i| emit(&add(arm + 16 * i)));
        match arm % 4 {
            0 => emit("(br $done)"),
            1 => emit(&format!(
                "(if {bit} (then {}) (else {})) (br $done)",
                add(3),
                add(5)
            )),
            2 => emit(&format!("(br_if $done {bit})")),
            _ => emit(&format!(
                "(block $own (br_if $own {bit}) {}) (br $done)",
                add(7)
            )),
        }
    }
    emit(")");
    emit(
        "(local.set $random (i32.add (i32.mul (local.get $random) (i32.const 1103515245))
            (i32.const 12345)))
        (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $sum)))",
    );
    text
}

fn join(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(" | ")
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
