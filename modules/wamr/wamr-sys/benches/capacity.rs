//! How many guests 192 KiB hold, and what the lines of the block address cache are worth, with
//! pointers of 32 bits and of this machine's width. `cargo bench -p wamr-sys --bench capacity`

use std::path::{Path, PathBuf};
use std::thread;

#[path = "../capacity/mod.rs"]
mod capacity;

use capacity::{ARENA, CPU, LOOP, PAGE, Program, SHRUNK, Width};

/// The operand stack, one for all guests.
const STACK: u32 = 4096;
/// The last is what the others' times are relative to.
const LINES: [u32; 5] = [16, 32, 64, 128, 256];
/// Turns of each; odd, so that the median is one of them.
const TURNS: usize = 5;
/// Which blocks contend for a line is a matter of where a compiler happens to put them: so many
/// layouts of each switch are timed together.
const LAYOUTS: u32 = 5;

/// What `run(n)` of a module is timed with.
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
    for programs in builds {
        let bits = 8 * measure(&programs[0], 0, &assemble("loop", LOOP))["pointer"];
        counts(&programs, bits);
        times(&programs, bits);
    }
}

/// One program for each number of lines.
fn build(width: Width) -> thread::JoinHandle<Vec<Program>> {
    let build = move |lines| Program::build(width, lines).expect("the program compiles");
    thread::spawn(move || LINES.map(build).into())
}

fn assemble(name: &str, wat: &str) -> PathBuf {
    capacity::assemble(&format!("bench-{name}"), wat)
}

type Fields = std::collections::HashMap<String, u64>;

fn measure(program: &Program, cap: u32, module: &Path) -> Fields {
    program
        .run(ARENA, STACK, cap, module, None)
        .expect("it runs")
}

fn counts(programs: &[Program], bits: u64) {
    let guests = [
        ("cpu", assemble("cpu", CPU), 0),
        ("endless loop", assemble("loop", LOOP), 0),
        ("`(memory 1 1)`", assemble("page", PAGE), 0),
        ("capped to 4096", assemble("page", PAGE), 4096),
        ("shrunk", assemble("shrunk", SHRUNK), 0),
    ];
    println!("\n{bits} bits, bytes of the arena, and how many fit {ARENA} beside a worker of");
    println!("{STACK} bytes of stack and 64 lines of cache\n");
    println!("| | load | tables | instance | kept of its call | linear memory | fit |");
    println!("|---|---|---|---|---|---|---|");
    for (name, module, cap) in &guests {
        let fields = measure(&programs[2], *cap, module);
        let keys = ["load", "tables", "instance", "kept", "linear", "count"];
        println!(
            "| {name} | {} |",
            join(keys.iter().map(|key| fields[*key].to_string()))
        );
    }
    let lines = join(LINES.iter().map(|l| format!("{l} lines")));
    println!("\n{bits} bits, a worker beside its stack\n");
    println!("| {lines} |\n|{}", "---|".repeat(LINES.len()));
    let worker = |p| measure(p, 0, &guests[0].1)["worker"] - u64::from(STACK);
    println!(
        "| {} |",
        join(programs.iter().map(|p| worker(p).to_string()))
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
                let fields = program.run(ARENA, 8192, 0, module, Some(&mode));
                fields.expect("it runs")["best_ns"]
            };
            modules.iter().map(time).sum::<u64>() as f64
        };
        let turn = |_| programs.iter().map(time).collect::<Vec<_>>();
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

/// What a compiler makes of a loop around a switch of `arms` cases: as many nested blocks, entered
/// together at each of the `n` rounds and left by a `br_table` in pseudorandom order. The cases
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
        // What precedes belongs to the block that this case's label ends.
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
