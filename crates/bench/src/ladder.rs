//! More and more instances, until there can't be more.

use crate::{
    Port, Report, Row, Step, Table, Tally, Wall,
    bench::{Bench, Verdict},
    report::Event,
};
use proplet::{engine::Engine, time::Duration};

/// Least samples of free bytes after a step.
const SAMPLES: u32 = 16;

/// The step after that of `sets` sets of `len` modules.
fn next(sets: usize, len: usize) -> usize {
    match sets {
        0 => 1,
        _ if len > 1 => sets + 1,
        1..8 => sets * 2,
        _ => sets + 8,
    }
}

impl<E: Engine, P: Port> Bench<'_, E, P> {
    /// Climbs to the wall; the last step is what can just be held.
    pub(crate) fn ladder(&mut self, report: &mut impl Report) -> Wall {
        report.report(&Event::Table(Table::Steps));
        let mut sets = 0;
        let wall = loop {
            let before = self.held;
            sets = next(sets, self.set.len());
            let wall = self.grow(sets);
            if self.held > before {
                let step = self.step();
                report.report(&Event::Step(&step));
            }
            if let Some(wall) = wall {
                break wall;
            }
        };
        report.report(&Event::Wall(self.held, &wall));
        report.report(&Event::Table(Table::Rows));
        for (id, lane) in (0..).zip(&self.lanes[..self.held]) {
            report.report(&Event::Row(&Row {
                id,
                task: self.set[usize::from(id) % self.set.len()].name,
                tally: lane.tally,
            }));
        }
        wall
    }

    fn step(&mut self) -> Step {
        self.revive();
        let (began, used) = (self.port.now(), self.cpu());
        let until = began + self.options.step;
        let (mut tally, mut strays) = (Tally::NONE, 0);
        let mut now = began;
        while now < until {
            self.start_refused();
            strays += self.turn_over(&mut tally, until);
            self.port.wait(until);
            now = self.port.now();
        }
        let cpu = self.cpu().saturating_sub(used);
        let free = self.least_free();
        Step {
            instances: self.held,
            free,
            free_min: self.engine.arena().free_min,
            said: self.said(),
            measured: self.room.saturating_sub(free),
            strays,
            cpu,
            wall: now - began,
            tally,
        }
    }

    /// Counts what has ended, and starts it again; no more of it after `until`. Returns how many
    /// had not the bytes that the engine said.
    fn turn_over(&mut self, tally: &mut Tally, until: Duration) -> u64 {
        let mut strays = 0;
        while self.port.now() < until
            && let Some((exit, latency)) = self.poll()
        {
            let slot = exit.slot.index();
            let verdict = self.judge(&exit);
            strays += u64::from(verdict == Verdict::Right && !self.is_as_said(&exit));
            for tally in [&mut *tally, &mut self.lanes[slot].tally] {
                match verdict {
                    Verdict::Right => tally.latency.add(latency),
                    Verdict::Starved => {}
                    Verdict::Wrong => tally.errors += 1,
                }
            }
            self.start(slot);
        }
        strays
    }

    /// Starts again the runs that ended between two polls: the moment of their end is not known. Each slot once at
    /// most: short runs may end as fast as they are started.
    fn revive(&mut self) {
        for _ in 0..self.held {
            let Some((exit, _)) = self.poll() else {
                return;
            };
            self.judge(&exit);
            self.start(exit.slot.index());
        }
    }

    /// Bytes that all instances leave free: the least of some samples, and of more while all have more
    /// than the engine said.
    fn least_free(&mut self) -> usize {
        let said = self.room - self.said();
        let (mut samples, mut least) = (0, self.room);
        self.wait_until(|bench| {
            bench.revive();
            bench.start_refused();
            samples += 1;
            least = least.min(bench.engine.arena().free);
            samples >= SAMPLES && least <= said
        });
        self.note_refused();
        least
    }

    fn cpu(&self) -> Duration {
        let process = self.engine.process();
        process.user + process.system
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn one_module_doubles_to_eight_and_then_grows_by_eight() {
        let steps = core::iter::successors(Some(1), |sets| Some(next(*sets, 1)));
        assert!(steps.take(8).eq([1, 2, 4, 8, 16, 24, 32, 40]));
        assert_eq!(next(0, 1), 1);
    }

    #[test]
    fn sets_grow_by_one() {
        let steps = core::iter::successors(Some(next(0, 5)), |sets| Some(next(*sets, 5)));
        assert!(steps.take(5).eq([1, 2, 3, 4, 5]));
    }
}
