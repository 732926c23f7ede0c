//! What the process gives its workers.

use crate::{
    board::{self, Board},
    clock,
    turns::Turns,
};
use proplet::{
    engine::{ProcessUsage, Schedule, Slot},
    time::Duration,
};
use proplet_engine::{BoardError, Channel, PinMode, Platform};
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
    rand::{GetRandomFlags, getrandom},
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
    /// Told when a run has ended or a guest has a message.
    exits: WakeFd,
    board: Board,
    /// Where the board's thread waits for what is to be measured.
    board_door: Door,
}

/// Where a worker waits for work, and sleeps.
#[derive(Debug, Default)]
struct Door {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Door {
    fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_one();
    }

    /// Until it is open. It is shut behind who waited.
    fn wait(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.opened.wait_while(open, |open| !*open);
        *waited.unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// As [`wait`](Self::wait), but no longer than `time`.
    fn wait_for(&self, time: Duration) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.opened.wait_timeout_while(open, time, |open| !*open);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
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
            board: Board::new(),
            board_door: Door::default(),
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

    /// Waits until something is to be measured. Called on the board's thread.
    pub fn wait_board(&self) {
        self.board_door.wait();
    }

    /// Readable when a run has ended or a guest has a message.
    pub fn exits(&self) -> &WakeFd {
        &self.exits
    }
}

impl Platform for Linux {
    fn wait(&self, slot: Slot) {
        self.doors[usize::from(slot.0)].wait();
    }

    fn wake(&self, slot: Slot) {
        self.doors[usize::from(slot.0)].open();
    }

    fn sleep(&self, slot: Slot, time: Duration) {
        let has_turn = self.turns.pause(slot);
        self.doors[usize::from(slot.0)].wait_for(time);
        if has_turn {
            self.turns.resume(slot);
        }
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

    fn notify(&self) {
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

    fn now(&self) -> Duration {
        clock::uptime()
    }

    /// From the kernel, whose generator is ready long before a process of this kind begins.
    fn random(&self, mut to: &mut [u8]) {
        while !to.is_empty() {
            // Fails only when it is interrupted by a signal.
            let filled = getrandom(&mut *to, GetRandomFlags::empty()).unwrap_or(0);
            to = &mut to[filled..];
        }
    }

    fn gpio_configure(&self, pin: u32, mode: PinMode) -> Result<(), BoardError> {
        self.board.configure(pin, mode)
    }

    fn gpio_write(&self, pin: u32, is_high: bool) -> Result<(), BoardError> {
        self.board.write(pin, is_high)
    }

    fn gpio_read(&self, pin: u32) -> Result<bool, BoardError> {
        self.board.read(pin)
    }

    fn wake_board(&self) -> bool {
        self.board_door.open();
        true
    }

    fn sensor_read(&self, sensor: u32, channel: Channel) -> Result<i64, BoardError> {
        board::measure(sensor, channel, clock::uptime())
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

    /// Seven guests sleep on one core, and an eighth has it for itself.
    #[test]
    fn who_sleeps_leaves_the_core_to_others() {
        let linux = Linux::new(8, 1).expect("descriptors are left");
        let done = AtomicI32::new(0);
        std::thread::scope(|scope| {
            for slot in (1..8).map(Slot) {
                let (linux, done) = (&linux, &done);
                scope.spawn(move || {
                    linux.turns.begin(slot);
                    linux.take_turn(slot, false);
                    linux.sleep(slot, Duration::from_secs(60));
                    linux.end_turn(slot);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            let began = clock::uptime();
            linux.turns.begin(Slot(0));
            for _ in 0..1000 {
                linux.take_turn(Slot(0), false);
            }
            assert_eq!(done.load(Ordering::SeqCst), 0);
            // Woken, each has its turn again in line with this one.
            for slot in (1..8).map(Slot) {
                linux.wake(slot);
            }
            while done.load(Ordering::SeqCst) < 7 {
                linux.take_turn(Slot(0), false);
            }
            linux.end_turn(Slot(0));
            let took = clock::uptime() - began;
            assert!(took < Duration::from_secs(30), "{took:?}");
        });
    }

    #[test]
    fn who_sleeps_wakes_by_itself() {
        let linux = Linux::new(1, 1).expect("descriptors are left");
        let began = clock::uptime();
        linux.sleep(Slot(0), Duration::from_millis(20));
        assert!(clock::uptime() - began >= Duration::from_millis(20));
        // A wake-up that came before counts.
        linux.wake(Slot(0));
        linux.sleep(Slot(0), Duration::from_secs(60));
        assert!(clock::uptime() - began < Duration::from_secs(30));
    }

    #[test]
    fn the_generator_fills_everything() {
        let linux = Linux::new(1, 1).expect("descriptors are left");
        let mut bytes = [0; 4096];
        linux.random(&mut bytes);
        assert!(bytes.iter().filter(|b| **b == 0).count() < 100);
        let first = bytes;
        linux.random(&mut bytes);
        assert_ne!(first, bytes);
        linux.random(&mut []);
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
