//! `proplet bench`: the bench that all ports share, on this process's engine.

use crate::{
    cli::{self, BenchMode},
    platform::Linux,
    proplet::start_engine,
};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum as _;
use plotters::prelude::*;
use proplet::{
    engine::{ArenaUsage, Limits, Weight},
    time::Duration,
};
use proplet_bench::{
    Clock, Console, Evenness, Event, Fairness, Lane, Mode, Options, Part, Port, Report, Row,
    SET_MAX, Share, Spread, Start, Step, Summary, Wall, Workload,
};
use proplet_engine::Workers;
use rustix::{
    event::Timespec,
    time::{ClockId, clock_getres, clock_gettime},
};
use serde_json::{Value, json};
use std::{
    fmt,
    fs::File,
    io::{self, Write as _},
    process::ExitCode,
};

/// The workload of the mode shared that names none.
const WORKLOAD: &str = "cpu";

/// Width and height of the plot, in pixels.
const PLOT_SIZE: (u32, u32) = (800, 500);

/// Colours of the plot's ladders, of which there are at most three.
const COLORS: [RGBColor; 3] = [
    RGBColor(0, 90, 180),
    RGBColor(200, 70, 0),
    RGBColor(0, 130, 70),
];

/// Services of the process for the bench.
#[derive(Debug)]
pub struct Process(pub &'static Workers<Linux>);

impl Port for Process {
    fn clock(&self) -> Clock {
        Clock {
            name: "CLOCK_MONOTONIC",
            resolution: duration(clock_getres(ClockId::Monotonic)),
        }
    }

    fn now(&self) -> Duration {
        duration(clock_gettime(ClockId::Monotonic))
    }

    fn wait(&mut self, until: Duration) {
        let exits = self.0.platform().exits();
        let left = until.saturating_sub(self.now());
        let timeout = Timespec::try_from(left).ok();
        // An early return is as good as any.
        exits.wait(timeout.as_ref());
        exits.clear();
    }
}

fn duration(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

/// The process's output. What can't be written is lost: the exit code says how it went.
struct Stdout;

impl fmt::Write for Stdout {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        io::stdout().write_all(s.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// Keeps all figures, and writes them as text unless they are to be JSON.
struct Output {
    console: Option<Console<Stdout>>,
    benches: Vec<Bench>,
}

/// All that a set of modules showed.
struct Bench {
    clock: Clock,
    before: ArenaUsage,
    loaded: ArenaUsage,
    parts: Vec<Part>,
    steps: Vec<Step>,
    rows: Vec<Row>,
    shares: Vec<Share>,
    fairness: Option<Fairness>,
    summary: Option<Summary>,
}

impl Bench {
    fn new(start: &Start<'_>) -> Self {
        Self {
            clock: start.clock,
            before: start.before,
            loaded: start.loaded,
            parts: start.parts.to_vec(),
            steps: Vec::new(),
            rows: Vec::new(),
            shares: Vec::new(),
            fairness: None,
            summary: None,
        }
    }

    fn keep(&mut self, event: &Event<'_>) {
        match event {
            Event::Step(step) => self.steps.push(**step),
            Event::Row(row) => self.rows.push(**row),
            Event::Share(share) => self.shares.push(**share),
            Event::Fairness(fairness) => self.fairness = Some(**fairness),
            Event::End(summary) => self.summary = Some((*summary).clone()),
            // The summary has the wall.
            Event::Start(_) | Event::Table(_) | Event::Wall(..) | Event::All(_) => {}
        }
    }

    fn name(&self) -> &'static str {
        self.summary.as_ref().map_or("", |summary| summary.name)
    }

    /// Arena bytes in use by instances held: none, and those of each step.
    fn in_use(&self) -> impl Iterator<Item = (usize, usize)> {
        let free = self.steps.iter().map(|step| (step.instances, step.free));
        std::iter::once((0, self.loaded.free))
            .chain(free)
            .map(|(instances, free)| (instances, self.before.total - free))
    }
}

impl Report for Output {
    fn report(&mut self, event: &Event<'_>) {
        if let Some(console) = &mut self.console {
            console.report(event);
        }
        match event {
            Event::Start(start) => self.benches.push(Bench::new(start)),
            event => {
                if let Some(bench) = self.benches.last_mut() {
                    bench.keep(event);
                }
            }
        }
    }
}

/// `proplet bench`. The code says whether every run ended as it should and the arena was as before.
///
/// # Errors
/// Options that don't go together, a proplet that can't be started, modules that don't fit it, or
/// a plot that can't be written.
pub fn bench(options: &cli::Bench) -> Result<ExitCode> {
    let mode = mode(options)?;
    let plot = match &options.plot {
        Some(path) => Some(File::create(path).with_context(|| format!("plot {}", path.display()))?),
        None => None,
    };
    let (mut engine, workers) = start_engine(&options.limits, SET_MAX, "bench")?;
    let mut lanes = vec![Lane::VACANT; options.limits.instances.into()];
    let mut output = Output {
        console: (!options.json).then_some(Console(Stdout)),
        benches: Vec::new(),
    };
    let is_good = proplet_bench::run(
        &mut engine,
        &mut Process(workers),
        &mut lanes,
        mode,
        &how(options),
        &mut output,
    )
    .map_err(|e| anyhow!("{e}"))?;
    if options.json {
        println!("{:#}", document(options, &output.benches, is_good));
    }
    if let Some(mut file) = plot {
        file.write_all(draw(&output.benches)?.as_bytes())
            .context("the plot can't be written")?;
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn mode(options: &cli::Bench) -> Result<Mode> {
    if options.workload.is_some() && options.mode != BenchMode::Shared {
        bail!("--workload is for the mode shared; the others have workloads of their own");
    }
    if options.plot.is_some() && options.mode == BenchMode::Fairness {
        bail!("--plot is of a ladder: fairness has none");
    }
    let name = options.workload.as_deref().unwrap_or(WORKLOAD);
    Ok(match options.mode {
        BenchMode::Shared => Mode::Shared(Workload::named(name).map_err(|e| anyhow!("{e}"))?),
        BenchMode::Diverse => Mode::Diverse,
        BenchMode::All => Mode::All,
        BenchMode::Fairness => Mode::Fairness,
    })
}

fn how(options: &cli::Bench) -> Options<'_> {
    let limits = &options.limits;
    Options {
        limits: Limits {
            stack: limits.stack_bytes,
            memory_max: options.memory_bytes.or(limits.memory()),
            work: limits.work(),
            weight: Weight::DEFAULT,
        },
        preemption: limits.preemption.into(),
        weights: &options.weight.0,
        max: options.max.map(Into::into),
        step: Duration::from_millis(options.step_ms),
    }
}

fn document(options: &cli::Bench, benches: &[Bench], is_good: bool) -> Value {
    let limits = &options.limits;
    let mode = options.mode.to_possible_value();
    json!({
        "mode": mode.as_ref().map(|mode| mode.get_name()),
        "settings": {
            "slots": limits.instances,
            "arena_bytes": limits.arena_bytes,
            "stack_bytes": limits.stack_bytes,
            "memory_bytes": options.memory_bytes,
            "memory_max_bytes": limits.memory(),
            "work_max": limits.work(),
            "preemption": how(options).preemption.name(),
            "slice": limits.slice,
            "workers": limits.workers,
            "weights": options.weight.0,
            "max": options.max,
            "step_ms": options.step_ms,
        },
        "clock": benches.first().map(|bench| json!({
            "name": bench.clock.name,
            "resolution_ns": nanos(bench.clock.resolution),
        })),
        "benches": benches.iter().map(bench_value).collect::<Value>(),
        "good": is_good,
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn bench_value(bench: &Bench) -> Value {
    let summary = bench.summary.as_ref();
    json!({
        "name": bench.name(),
        "modules": bench.parts.iter().map(|part| json!({
            "name": part.workload.name,
            "wasm_bytes": part.workload.wasm.len(),
            "loaded_bytes": part.loaded,
            "instance_bytes": part.instance,
        })).collect::<Value>(),
        "arena": {
            "total_bytes": bench.before.total,
            "free_before_bytes": bench.before.free,
            "free_loaded_bytes": bench.loaded.free,
            "reserve_bytes": bench.loaded.reserve,
            "free_after_bytes": summary.map(|summary| summary.free_after),
            "exact": summary.map(Summary::is_exact),
        },
        "instances": summary.map(|summary| summary.instances),
        "set_bytes": summary.map(|summary| summary.set_bytes),
        "steps": bench.steps.iter().map(step_value).collect::<Value>(),
        "wall": summary.and_then(|summary| summary.wall.as_ref()).map(wall_value),
        "slots": bench.rows.iter().map(|row| json!({
            "id": row.id,
            "task": row.task,
            "iterations": row.tally.iterations(),
            "errors": row.tally.errors,
            "latency_ns": spread_value(&row.tally.latency),
        })).collect::<Value>(),
        "shares": bench.shares.iter().map(share_value).collect::<Value>(),
        "fairness": bench.fairness.as_ref().map(fairness_value),
        "errors": summary.map(|summary| summary.errors),
        "first_error": summary.and_then(|summary| summary.first_error.as_deref()),
    })
}

fn spread_value(spread: &Spread) -> Value {
    if spread.count == 0 {
        return Value::Null;
    }
    json!({
        "count": spread.count,
        "least": nanos(spread.least),
        "mean": nanos(spread.mean()),
        "most": nanos(spread.most),
    })
}

fn step_value(step: &Step) -> Value {
    json!({
        "instances": step.instances,
        "free_bytes": step.free,
        "free_min_bytes": step.free_min,
        "said_bytes": step.said,
        "measured_bytes": step.measured,
        "strays": step.strays,
        "agrees": step.agrees(),
        "cpu_ns": nanos(step.cpu),
        "wall_ns": nanos(step.wall),
        "iterations": step.tally.iterations(),
        "errors": step.tally.errors,
        "latency_ns": spread_value(&step.tally.latency),
    })
}

fn wall_value(wall: &Wall) -> Value {
    match wall {
        Wall::Arena { need, free } => {
            json!({"kind": wall.name(), "need_bytes": need, "free_bytes": free})
        }
        Wall::Slots(count) | Wall::Asked(count) => json!({"kind": wall.name(), "count": count}),
    }
}

fn share_value(share: &Share) -> Value {
    json!({
        "id": share.id,
        "weight": share.weight,
        "due": share.due,
        "work": share.work,
        "work_share": share.work_share,
        "cpu_ns": nanos(share.cpu),
        "cpu_share": share.cpu_share,
    })
}

fn fairness_value(fairness: &Fairness) -> Value {
    let evenness = |evenness: Option<Evenness>| {
        evenness.map(|Evenness { jain, error }| json!({"jain": jain, "largest_error": error}))
    };
    json!({
        "instances": fairness.instances,
        "wall_ns": nanos(fairness.wall),
        "work": evenness(fairness.work),
        "cpu": evenness(fairness.cpu),
        "stop_ns": spread_value(&fairness.stops),
    })
}

/// Arena bytes in use over instances, a line for each bench, and one at the arena's size.
fn draw(benches: &[Bench]) -> Result<String> {
    let mut svg = String::new();
    let last = |bench: &Bench| bench.in_use().last().map_or(0, |(instances, _)| instances);
    let most = benches.iter().map(last).max().unwrap_or(0).max(1);
    let total = benches.first().map_or(1, |bench| bench.before.total);
    let root = SVGBackend::with_string(&mut svg, PLOT_SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0..most, 0..total + total / 10)?;
    chart
        .configure_mesh()
        .x_desc("instances")
        .y_desc("arena bytes in use")
        .draw()?;
    chart
        .draw_series(LineSeries::new([(0, total), (most, total)], BLACK))?
        .label(format!("arena, {total} bytes"))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK));
    for (bench, color) in benches.iter().zip(COLORS) {
        chart
            .draw_series(LineSeries::new(bench.in_use(), color.stroke_width(2)))?
            .label(bench.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(svg)
}
