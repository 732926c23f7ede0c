//! What the process gives its workers.

use crate::turns::Turns;
use proplet::{
    engine::{ProcessUsage, Schedule, Slot},
    time::Duration,
};
use proplet_engine::Platform;
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use std::{
    fs, io,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

/// A wake-up descriptor: readable from the first [`set`](Self::set) to the next
/// [`clear`](Self::clear).
#[derive(Debug)]
pub struct WakeFd(OwnedFd);

impl WakeFd {
    /// A descriptor that is not set.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    /// Makes it readable.
    pub fn set(&self) {
        // Fails only if it has been set 2^64 times, and then it is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable; returns whether it was readable.
    pub fn clear(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The process.
#[derive(Debug)]
pub struct Linux {
    doors: Box<[Door]>,
    turns: Turns,
    /// The cores of guests, if not all.
    cores: Option<CpuSet>,
    /// The kernel's id of the thread that runs, or ran, a slot's guest.
    threads: Box<[AtomicI32]>,
    /// Told when a run has ended.
    exits: WakeFd,
}

/// Where a worker waits for work.
#[derive(Debug, Default)]
struct Door {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Linux {
    /// For `slots` workers whose guests share `cores` cores.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new(slots: usize, cores: usize) -> io::Result<Self> {
        Ok(Self {
            doors: (0..slots).map(|_| Door::default()).collect(),
            turns: Turns::new(slots, cores),
            cores: last_cores(cores),
            threads: (0..slots).map(|_| AtomicI32::new(0)).collect(),
            exits: WakeFd::new()?,
        })
    }

    /// Keeps the calling thread, and those that it starts, on the cores of guests. A turn that goes
    /// from one core to another costs many times what it costs on the same.
    pub fn stay_on_cores(&self) {
        if let Some(cores) = &self.cores
            && let Err(e) = sched_setaffinity(None, cores)
        {
            log::warn!("guests are not kept on their cores: {e}");
        }
    }

    /// Readable when a run has ended.
    pub fn exits(&self) -> &WakeFd {
        &self.exits
    }
}

impl Platform for Linux {
    fn wait(&self, slot: Slot) {
        let door = &self.doors[usize::from(slot.0)];
        let mut open = door.open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            open = door
                .opened
                .wait(open)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *open = false;
    }

    fn wake(&self, slot: Slot) {
        let door = &self.doors[usize::from(slot.0)];
        *door.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        door.opened.notify_one();
    }

    fn schedule(&self, slot: Slot, _: Schedule) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.threads[usize::from(slot.0)].store(thread, Ordering::Release);
        self.turns.begin(slot);
    }

    fn take_turn(&self, slot: Slot, interrupted: bool) {
        self.turns.take(slot, interrupted);
    }

    fn give_way(&self, slot: Slot) {
        self.turns.give_way(slot);
    }

    fn end_turn(&self, slot: Slot) {
        self.turns.end(slot);
    }

    fn hurry(&self, slot: Slot) {
        self.turns.hurry(slot);
    }

    fn exited(&self) {
        self.exits.set();
    }

    fn thread_time(&self, slot: Slot) -> Duration {
        let thread = self.threads[usize::from(slot.0)].load(Ordering::Acquire);
        // As pthread_getcpuclockid(3) makes it: this is the kernel's interface, for any thread.
        let clock = nix::time::ClockId::from_raw(!thread << 3 | 6);
        // A thread that is no more has no clock.
        clock.now().map_or(Duration::ZERO, Into::into)
    }

    fn process(&self) -> ProcessUsage {
        process_usage().unwrap_or_else(|| ProcessUsage {
            user: duration(clock_gettime(ClockId::ProcessCPUTime)),
            ..ProcessUsage::default()
        })
    }
}

/// The last `count` cores of those that the process may use; `None` if that is all.
fn last_cores(count: usize) -> Option<CpuSet> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cores = CpuSet::new();
    let all = (0..CpuSet::MAX_CPU)
        .rev()
        .filter(|cpu| allowed.is_set(*cpu));
    all.take(count.max(1)).for_each(|cpu| cores.set(cpu));
    (cores.count() < allowed.count()).then_some(cores)
}

/// Makes the calling thread as nice as its weight says. A nice value more is a fifth less of the
/// processor, so the weights from 1 to 100 become the values from 19 to 0 above the process's own.
///
/// # Errors
/// If the system refuses.
pub fn nice(weight: u8) -> io::Result<()> {
    let steps = (100.0 / f64::from(weight.max(1))).ln() / 1.25_f64.ln();
    let own = rustix::process::getpriority_process(None)?;
    // 0 is the calling thread. What is beyond 19 is cut by the kernel.
    Ok(rustix::process::setpriority_process(
        None,
        own + steps.round() as i32,
    )?)
}

fn duration(time: rustix::time::Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

/// From `/proc/self/stat`, as proc(5) describes it.
fn process_usage() -> Option<ProcessUsage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses, with any characters in it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let field = |number: usize| fields.split(' ').nth(number - 3)?.parse::<u64>().ok();
    let ticks = rustix::param::clock_ticks_per_second();
    let time = |ticks_used: u64| Duration::from_millis(ticks_used * 1000 / ticks.max(1));
    Some(ProcessUsage {
        user: time(field(14)?),
        system: time(field(15)?),
        rss: field(24)? * rustix::param::page_size() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_uses_time_and_memory() {
        let before = process_usage().expect("Linux has /proc/self/stat");
        assert!(before.rss > 100_000);
        let mut n = 0_u64;
        while process_usage()
            .is_some_and(|now| now.user + now.system == before.user + before.system)
        {
            n = std::hint::black_box(n.wrapping_add(1));
        }
    }

    #[test]
    fn guests_have_cores_of_the_process() {
        let allowed = sched_getaffinity(None).expect("Linux says");
        assert_eq!(last_cores(allowed.count() as usize), None);
        if allowed.count() > 1 {
            let one = last_cores(1).expect("one is not all");
            assert_eq!(one.count(), 1);
            assert!((0..CpuSet::MAX_CPU).all(|cpu| !one.is_set(cpu) || allowed.is_set(cpu)));
        }
    }

    #[test]
    fn a_wake_up_stays_until_it_is_cleared() {
        let wake = WakeFd::new().expect("descriptors are left");
        assert!(!wake.clear());
        wake.set();
        wake.set();
        assert!(wake.clear());
        assert!(!wake.clear());
    }
}
