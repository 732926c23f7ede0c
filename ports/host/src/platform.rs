//! Services of the process for its workers.

use crate::{
    board::{self, Board},
    clock,
};
use proplet::{engine::ProcessUsage, time::Duration};
use proplet_engine::{BoardError, Channel, PinMode, Platform};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    rand::{GetRandomFlags, getrandom},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use std::{
    fs, io,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// A wake-up of one thread, by any other. The thread may wait for its descriptor beside others; while it
/// does not wait, a wake-up costs no system call.
#[derive(Debug)]
pub struct WakeFd {
    fd: OwnedFd,
    is_set: AtomicBool,
    /// Whether the thread waits, or is about to: it has to be told by the descriptor.
    is_awaited: AtomicBool,
}

impl WakeFd {
    /// A wake-up that is not set.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            fd: eventfd(0, flags)?,
            is_set: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
        })
    }

    /// Sets it.
    pub fn set(&self) {
        // Either this sees that the thread waits, or the thread that it is set.
        self.is_set.store(true, Ordering::SeqCst);
        if self.is_awaited.swap(false, Ordering::SeqCst) {
            // Fails only if it has been set 2^64 times, and then it is readable.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Unsets it; returns whether it was set.
    pub fn clear(&self) -> bool {
        self.is_set.swap(false, Ordering::SeqCst)
    }

    /// Waits until it is set, but no longer than `timeout`; it may return early.
    pub fn wait(&self, timeout: Option<&Timespec>) {
        self.while_unset(|| {
            let mut fds = [PollFd::new(self, PollFlags::IN)];
            let _ = poll(&mut fds, timeout);
            !fds[0].revents().is_empty()
        });
    }

    /// Calls `wait`, during which the descriptor becomes readable when this is set; not if it is set
    /// already. `wait` returns whether the descriptor is readable.
    pub fn while_unset(&self, wait: impl FnOnce() -> bool) {
        self.is_awaited.store(true, Ordering::SeqCst);
        let is_readable = !self.is_set.load(Ordering::SeqCst) && wait();
        let is_told = !self.is_awaited.swap(false, Ordering::SeqCst);
        if is_readable || is_told {
            // What comes after this makes a later wait short.
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        }
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The process.
#[derive(Debug)]
pub struct Linux {
    /// Where workers wait for a guest to run.
    workers: Door,
    /// The cores of guests, if not all.
    cores: Option<CpuSet>,
    /// Told when a run has ended or a guest has a message.
    exits: WakeFd,
    board: Board,
    /// Where the board's thread waits for what is to be measured.
    board_door: Door,
}

/// Where threads wait: each time that it is opened lets one through.
#[derive(Debug, Default)]
struct Door {
    passage: Mutex<Passage>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct Passage {
    open: usize,
    sleeping: usize,
}

impl Door {
    fn open(&self) {
        let mut passage = self.lock();
        passage.open += 1;
        if passage.sleeping > 0 {
            drop(passage);
            self.opened.notify_one();
        }
    }

    /// Until it is open, but no longer than `time`, if that is given.
    fn wait(&self, time: Option<Duration>) {
        let mut passage = self.lock();
        if passage.open == 0 {
            passage.sleeping += 1;
            passage = self.sleep(passage, time);
            passage.sleeping -= 1;
        }
        passage.open = passage.open.saturating_sub(1);
    }

    fn sleep<'d>(
        &self,
        passage: MutexGuard<'d, Passage>,
        time: Option<Duration>,
    ) -> MutexGuard<'d, Passage> {
        let is_closed = |passage: &mut Passage| passage.open == 0;
        match time {
            None => {
                let slept = self.opened.wait_while(passage, is_closed);
                slept.unwrap_or_else(PoisonError::into_inner)
            }
            Some(time) => {
                let slept = self.opened.wait_timeout_while(passage, time, is_closed);
                slept.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Passage> {
        self.passage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Linux {
    /// For `workers` workers.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new(workers: usize) -> io::Result<Self> {
        Ok(Self {
            workers: Door::default(),
            cores: last_cores(workers),
            exits: WakeFd::new()?,
            board: Board::new(),
            board_door: Door::default(),
        })
    }

    /// Keeps the calling thread on the cores of guests. A turn that goes from one core to another costs
    /// many times what it costs on the same.
    pub fn stay_on_cores(&self) {
        if let Some(cores) = &self.cores
            && let Err(e) = sched_setaffinity(None, cores)
        {
            log::warn!("guests are not kept on their cores: {e}");
        }
    }

    /// Waits until something is to be measured. Called on the board's thread.
    pub fn wait_board(&self) {
        self.board_door.wait(None);
    }

    /// Readable when a run has ended or a guest has a message.
    pub fn exits(&self) -> &WakeFd {
        &self.exits
    }
}

impl Platform for Linux {
    fn wait(&self, until: Option<Duration>) {
        self.workers
            .wait(until.map(|until| until.saturating_sub(clock::uptime())));
    }

    fn wake(&self) {
        self.workers.open();
    }

    fn notify(&self) {
        self.exits.set();
    }

    fn thread_time(&self) -> Duration {
        duration(clock_gettime(ClockId::ThreadCPUTime))
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
        ..ProcessUsage::default()
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
    fn a_wake_up_lets_one_worker_through() {
        let linux = Linux::new(2).expect("descriptors are left");
        let began = clock::uptime();
        linux.wait(Some(began + Duration::from_millis(20)));
        assert!(clock::uptime() - began >= Duration::from_millis(20));
        // A time that has passed is no time to wait; one that came before counts.
        linux.wait(Some(began));
        linux.wake();
        linux.wait(None);
        linux.wake();
        linux.wait(Some(began + Duration::from_secs(60)));
        let late = Some(clock::uptime() + Duration::from_millis(20));
        linux.wait(late);
        let took = clock::uptime() - began;
        assert!((40..30_000).contains(&took.as_millis()), "{took:?}");
    }

    #[test]
    fn the_generator_fills_everything() {
        let linux = Linux::new(1).expect("descriptors are left");
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

    /// Each waits for the other in turn: a wake-up that is lost is a wait of ten seconds.
    #[test]
    fn no_wake_up_is_lost() {
        const LOST: Timespec = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let (ping, pong) = (WakeFd::new().unwrap(), WakeFd::new().unwrap());
        let turns = |own: &WakeFd, other: &WakeFd| {
            for _ in 0..5_000 {
                while !own.clear() {
                    own.wait(Some(&LOST));
                }
                other.set();
            }
        };
        let began = std::time::Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| turns(&ping, &pong));
            ping.set();
            turns(&pong, &ping);
        });
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
    }
}
