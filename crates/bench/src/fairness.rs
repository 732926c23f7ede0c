//! Endless loops: what each has of the processor, and how soon one is stopped.

use crate::{
    Evenness, Fairness, Port, Report, Share, Spread, Table, Wall, bench::Bench, evenness,
    report::Event,
};
use proplet::{
    engine::{Engine, Failure, RunUsage, Slot},
    text::{Text, text},
    time::Duration,
};

fn work(usage: &RunUsage) -> u64 {
    usage.work
}

/// In nanoseconds: enough for 584 years.
fn cpu(usage: &RunUsage) -> u64 {
    usage.cpu.as_nanos() as u64
}

/// `amount` as a fraction of `all`; 0 of nothing.
fn part(amount: u64, all: u64) -> f64 {
    amount as f64 / all.max(1) as f64
}

impl<E: Engine, P: Port> Bench<'_, E, P> {
    /// Runs as many of `loops` loops as can be held.
    pub(crate) fn fairness(
        &mut self,
        loops: usize,
        report: &mut impl Report,
    ) -> Result<Option<Wall>, Text> {
        let wall = self.grow(loops);
        self.note_refused();
        if let Some(wall) = &wall {
            report.report(&Event::Wall(self.held, wall));
        }
        let shared = self.share();
        report.report(&Event::Table(Table::Shares));
        for slot in 0..self.held {
            report.report(&Event::Share(&self.share_of(slot)));
        }
        let fairness = Fairness {
            instances: self.held,
            wall: shared,
            work: self.evenness_of(work),
            cpu: self.evenness_of(cpu),
            stops: self.stops()?,
        };
        report.report(&Event::Fairness(&fairness));
        Ok(wall)
    }

    /// Lets the loops share the processor for a step, and notes what each used in it. Returns how
    /// long that was.
    fn share(&mut self) -> Duration {
        for (slot, lane) in (0..).map(Slot::at).zip(&mut self.lanes[..self.held]) {
            lane.used = self.engine.usage(slot);
        }
        let began = self.port.now();
        let until = began + self.options.step;
        let mut now = began;
        while now < until {
            self.port.wait(until);
            now = self.port.now();
        }
        for (slot, lane) in (0..).map(Slot::at).zip(&mut self.lanes[..self.held]) {
            let usage = self.engine.usage(slot);
            lane.used.work = usage.work.saturating_sub(lane.used.work);
            lane.used.cpu = usage.cpu.saturating_sub(lane.used.cpu);
        }
        now - began
    }

    fn used(&self, amount: fn(&RunUsage) -> u64) -> impl Iterator<Item = u64> + Clone {
        self.lanes[..self.held]
            .iter()
            .map(move |lane| amount(&lane.used))
    }

    fn share_of(&self, slot: usize) -> Share {
        let (used, weight) = (self.lanes[slot].used, self.weight(slot));
        let weights = (0..self.held)
            .map(|slot| u64::from(self.weight(slot)))
            .sum();
        Share {
            id: slot as u16,
            weight,
            due: part(weight.into(), weights),
            work: used.work,
            work_share: part(used.work, self.used(work).sum()),
            cpu: used.cpu,
            cpu_share: part(cpu(&used), self.used(cpu).sum()),
        }
    }

    fn evenness_of(&self, amount: fn(&RunUsage) -> u64) -> Option<Evenness> {
        let weights = (0..self.held).map(|slot| self.weight(slot));
        evenness(self.used(amount).zip(weights))
    }

    /// Stops each loop once, and starts it again before the next is stopped.
    fn stops(&mut self) -> Result<Spread, Text> {
        let mut stops = Spread::NONE;
        for slot in 0..self.held {
            stops.add(self.stop(slot)?);
        }
        Ok(stops)
    }

    /// Stops a loop and starts it again. Returns how long it took to stop.
    fn stop(&mut self, slot: usize) -> Result<Duration, Text> {
        let asked = self.port.now();
        self.engine.interrupt(Slot::at(slot));
        let mut took = None;
        let stopped = self.wait_until(|bench| {
            for _ in 0..bench.held {
                let Some((exit, _)) = bench.poll() else {
                    break;
                };
                let ended = exit.slot.index();
                if ended == slot {
                    took = Some(bench.port.now() - asked);
                }
                let is_interrupted = matches!(exit.result, Err(Failure::Interrupted));
                if ended != slot || !is_interrupted {
                    bench.note(&exit);
                }
                bench.start(ended);
            }
            took.is_some()
        });
        match took {
            Some(took) if stopped => Ok(took),
            _ => Err(text(format_args!(
                "the loop in slot {slot} does not end when it is interrupted"
            ))),
        }
    }
}
