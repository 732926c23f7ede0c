//! Figures as text, for a serial line or a terminal: at most 80 columns.

use crate::{
    Evenness, Event, Fairness, Options, Report, Row, Share, Spread, Start, Step, Summary, Table,
    Wall,
};
use core::fmt::{self, Write};
use proplet::time::Duration;

/// Columns of a line, its end not counted.
const COLUMNS: usize = 80;

/// Writes text. What can't be written is lost: the bench goes on, and clears up.
#[derive(Debug)]
pub struct Console<W>(pub W);

impl<W: Write> Report for Console<W> {
    fn report(&mut self, event: &Event<'_>) {
        let _ = write_event(&mut self.0, event);
    }
}

fn write_event(out: &mut impl Write, event: &Event<'_>) -> fmt::Result {
    match event {
        Event::Start(start) => write_start(out, start),
        Event::Table(table) => write_head(out, *table),
        Event::Step(step) => write_step(out, step),
        Event::Wall(held, wall) => write_wall(out, *held, wall),
        Event::Row(row) => write_row(out, row),
        Event::Share(share) => write_share(out, share),
        Event::Fairness(fairness) => write_fairness(out, fairness),
        Event::End(summary) => write_end(out, summary),
        Event::All(all) => write_all(out, all),
    }
}

/// Milliseconds, with three places.
struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Room for the longest duration.
        let mut digits = heapless::String::<32>::new();
        let us = self.0.as_micros();
        write!(digits, "{}.{:03}", us / 1000, us % 1000)?;
        f.pad(&digits)
    }
}

/// Least, mean and most in milliseconds, in columns of 9.
struct Columns<'a>(&'a Spread);

impl fmt::Display for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(spread) = self;
        if spread.count == 0 {
            return write!(f, "{:>9}{:>9}{:>9}", "-", "-", "-");
        }
        let [least, mean, most] = [spread.least, spread.mean(), spread.most].map(Ms);
        write!(f, "{least:>9}{mean:>9}{most:>9}")
    }
}

/// `of` in a hundred of `all`, with one place.
struct Percent(Duration, Duration);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = heapless::String::<32>::new();
        let thousandths = self.0.as_micros() * 1000 / self.1.as_micros().max(1);
        write!(digits, "{}.{}", thousandths / 10, thousandths % 10)?;
        f.pad(&digits)
    }
}

fn write_start(out: &mut impl Write, start: &Start<'_>) -> fmt::Result {
    let Options {
        limits,
        preemption,
        step,
        ..
    } = start.options;
    let clock = &start.clock;
    writeln!(
        out,
        "clock {}, resolution {:?}; times in ms",
        clock.name, clock.resolution
    )?;
    writeln!(
        out,
        "{} slots, stack {} bytes, preemption {}, {} ms a step",
        start.slots,
        limits.stack,
        preemption.name(),
        step.as_millis()
    )?;
    if let Some(max) = limits.memory_max {
        writeln!(out, "linear memory of at most {max} bytes")?;
    }
    writeln!(
        out,
        "arena {} bytes, {} free, {} with the modules loaded",
        start.before.total, start.before.free, start.loaded.free
    )?;
    if start.loaded.reserve > 0 {
        writeln!(out, "of them {} are no guest's", start.loaded.reserve)?;
    }
    writeln!(out)?;
    writeln!(out, "module        Wasm   loaded  instance   (bytes)")?;
    for part in start.parts {
        writeln!(
            out,
            "{:<9}{:>9}{:>9}{:>10}",
            part.workload.name,
            part.workload.wasm.len(),
            part.loaded,
            part.instance
        )?;
    }
    Ok(())
}

fn write_head(out: &mut impl Write, table: Table) -> fmt::Result {
    out.write_str(match table {
        Table::Steps => {
            "\n  n     free min free  cpu%    each    runs  errs    least     mean     most\n"
        }
        Table::Rows => "\n id task          runs    errs    least     mean     most\n",
        Table::Shares => "\n id weight   due%          work  work%       cpu   cpu%\n",
    })
}

fn write_step(out: &mut impl Write, step: &Step) -> fmt::Result {
    writeln!(
        out,
        "{:>3}{:>9}{:>9}{:>6}{:>8}{:>8}{:>6}{}",
        step.instances,
        step.free,
        step.free_min,
        Percent(step.cpu, step.wall),
        step.measured / step.instances.max(1),
        step.tally.iterations(),
        step.tally.errors,
        Columns(&step.tally.latency)
    )?;
    if step.agrees() {
        return Ok(());
    }
    writeln!(
        out,
        "    differs: the engine said {} bytes, {} fewer are free;",
        step.said, step.measured
    )?;
    writeln!(
        out,
        "    {} runs held other bytes than it said",
        step.strays
    )
}

fn write_wall(out: &mut impl Write, held: usize, wall: &Wall) -> fmt::Result {
    write!(out, "wall at {held}: ")?;
    match wall {
        Wall::Arena { need, free } => {
            writeln!(out, "the next need {need} bytes, {free} are free")
        }
        Wall::Slots(slots) => writeln!(out, "there are {slots} slots"),
        Wall::Asked(max) => writeln!(out, "{max} were asked for"),
    }
}

fn write_row(out: &mut impl Write, row: &Row) -> fmt::Result {
    writeln!(
        out,
        "{:>3} {:<9}{:>9}{:>8}{}",
        row.id,
        row.task,
        row.tally.iterations(),
        row.tally.errors,
        Columns(&row.tally.latency)
    )
}

fn write_share(out: &mut impl Write, share: &Share) -> fmt::Result {
    writeln!(
        out,
        "{:>3}{:>7}{:>7.2}{:>14}{:>7.2}{:>10}{:>7.2}",
        share.id,
        share.weight,
        share.due * 100.0,
        share.work,
        share.work_share * 100.0,
        Ms(share.cpu),
        share.cpu_share * 100.0
    )
}

fn write_fairness(out: &mut impl Write, fairness: &Fairness) -> fmt::Result {
    writeln!(
        out,
        "\n{} loops for {} ms",
        fairness.instances,
        Ms(fairness.wall)
    )?;
    write_evenness(out, "work", fairness.work)?;
    write_evenness(out, "cpu", fairness.cpu)?;
    writeln!(out, "                 least     mean     most")?;
    writeln!(out, "stop, ms     {}", Columns(&fairness.stops))
}

fn write_evenness(out: &mut impl Write, what: &str, evenness: Option<Evenness>) -> fmt::Result {
    match evenness {
        Some(Evenness { jain, error }) => writeln!(
            out,
            "{what:<5} Jain's index {jain:.4}, largest error of a share {:.1} %",
            error * 100.0
        ),
        None => writeln!(out, "{what:<5} none"),
    }
}

fn write_end(out: &mut impl Write, summary: &Summary) -> fmt::Result {
    if let Some(error) = &summary.first_error {
        writeln!(out, "{} runs failed, the first:", summary.errors)?;
        write_folded(out, error)?;
    }
    let (before, after) = (summary.free_before, summary.free_after);
    if summary.is_exact() {
        writeln!(out, "after teardown {after} bytes are free, as before\n")
    } else {
        writeln!(
            out,
            "ERROR: after teardown {after} bytes are free, before it were {before}\n"
        )
    }
}

/// `text` in lines of the console, indented.
fn write_folded(out: &mut impl Write, text: &str) -> fmt::Result {
    const INDENT: &str = "  ";
    for (index, c) in text.chars().enumerate() {
        if index % (COLUMNS - INDENT.len()) == 0 {
            if index > 0 {
                out.write_char('\n')?;
            }
            out.write_str(INDENT)?;
        }
        out.write_char(c)?;
    }
    out.write_char('\n')
}

fn write_all(out: &mut impl Write, all: &[Summary]) -> fmt::Result {
    writeln!(out, "workload  instances     each  errors  wall")?;
    for summary in all {
        writeln!(
            out,
            "{:<9}{:>10}{:>9}{:>8}  {}",
            summary.name,
            summary.instances,
            summary.set_bytes,
            summary.errors,
            summary.wall.as_ref().map_or("none", Wall::name)
        )?;
    }
    Ok(())
}
