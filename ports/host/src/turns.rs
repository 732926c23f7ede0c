//! Guests take turns on as many cores as a setting says.
//!
//! The kernel would share the cores out as well, but in slices of several milliseconds: with two
//! dozen loops, one that is to stop would see its flag only after all the others' slices. Here
//! `cores` guests run and the others wait in line. A guest's first turn is free, beside the others:
//! most invocations end within it and never wait. While one that is to stop comes to its end, all
//! others pause after their slices, also those that the kernel preempts.

use proplet::engine::Slot;
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Turns of the guests.
#[derive(Debug)]
pub struct Turns {
    cores: usize,
    state: Mutex<State>,
    /// A slot's guest waits here for its turn.
    granted: Box<[Condvar]>,
    /// Guests that gave way wait here until none is hurried.
    calm: Condvar,
}

#[derive(Debug)]
struct State {
    /// Guests that have a turn; more than `cores` while some have one out of line.
    running: usize,
    line: VecDeque<Slot>,
    has_turn: Box<[bool]>,
    /// Slots with a run, from [`Turns::begin`] to [`Turns::end`].
    has_run: Box<[bool]>,
    /// Those of them that are to stop.
    hurried: Box<[bool]>,
}

impl Turns {
    /// Turns for `slots` guests on `cores` cores, at least one.
    pub fn new(slots: usize, cores: usize) -> Self {
        Self {
            cores: cores.max(1),
            state: Mutex::new(State {
                running: 0,
                line: VecDeque::with_capacity(slots),
                has_turn: vec![false; slots].into(),
                has_run: vec![false; slots].into(),
                hurried: vec![false; slots].into(),
            }),
            calm: Condvar::new(),
            granted: (0..slots).map(|_| Condvar::new()).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves the state as consistent as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(&self, state: &mut State, slot: Slot) {
        state.running += 1;
        state.has_turn[usize::from(slot.0)] = true;
        self.granted[usize::from(slot.0)].notify_one();
    }

    fn give_up(&self, state: &mut State, slot: Slot) {
        state.has_turn[usize::from(slot.0)] = false;
        state.running -= 1;
        if state.running < self.cores
            && let Some(next) = state.line.pop_front()
        {
            self.grant(state, next);
        }
    }

    /// Waits for the turn of `slot`, which ends if it has one and others wait. The first comes at
    /// once, and an interrupted guest keeps the one it has: it only ends.
    pub fn take(&self, slot: Slot, interrupted: bool) {
        let index = usize::from(slot.0);
        let mut state = self.lock();
        if !state.has_turn[index] {
            return self.grant(&mut state, slot);
        }
        let alone = state.line.is_empty() && state.running <= self.cores;
        if interrupted || alone {
            return;
        }
        state.line.push_back(slot);
        self.give_up(&mut state, slot);
        self.wait_for_turn(state, slot);
    }

    /// Gives the turn of `slot` up, in the middle of its run. Returns whether it had one.
    pub fn pause(&self, slot: Slot) -> bool {
        let mut state = self.lock();
        let has_turn = state.has_turn[usize::from(slot.0)];
        if has_turn {
            self.give_up(&mut state, slot);
        }
        has_turn
    }

    /// Waits in line for a turn of `slot`, which has paused; one that is to stop has it at once.
    pub fn resume(&self, slot: Slot) {
        let index = usize::from(slot.0);
        let mut state = self.lock();
        if state.running < self.cores || state.hurried[index] {
            return self.grant(&mut state, slot);
        }
        state.line.push_back(slot);
        self.wait_for_turn(state, slot);
    }

    fn wait_for_turn(&self, mut state: MutexGuard<'_, State>, slot: Slot) {
        let index = usize::from(slot.0);
        while !state.has_turn[index] {
            state = self.granted[index]
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A run begins in `slot`.
    pub fn begin(&self, slot: Slot) {
        self.lock().has_run[usize::from(slot.0)] = true;
    }

    /// Waits while others are hurried.
    pub fn give_way(&self, slot: Slot) {
        let mut state = self.lock();
        while !state.hurried[usize::from(slot.0)] && state.hurried.contains(&true) {
            state = self
                .calm
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The run of `slot` has ended.
    pub fn end(&self, slot: Slot) {
        let index = usize::from(slot.0);
        let mut state = self.lock();
        if state.has_turn[index] {
            self.give_up(&mut state, slot);
        }
        state.has_run[index] = false;
        if std::mem::take(&mut state.hurried[index]) {
            self.calm.notify_all();
        }
    }

    /// Lets the run of `slot`, if there is one, come to its end before others go on. Takes it out of
    /// the line.
    pub fn hurry(&self, slot: Slot) {
        let index = usize::from(slot.0);
        let mut state = self.lock();
        if !state.has_run[index] {
            return;
        }
        state.hurried[index] = true;
        if let Some(at) = state.line.iter().position(|waiting| *waiting == slot) {
            state.line.remove(at);
            self.grant(&mut state, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicU32, AtomicUsize, Ordering},
        },
        thread,
    };

    #[test]
    fn never_more_than_the_cores_and_all_alike() {
        const SLOTS: u8 = 8;
        let turns = Turns::new(SLOTS.into(), 2);
        let running = AtomicUsize::new(0);
        let rounds: Vec<AtomicU32> = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
        let total = AtomicU32::new(0);
        let all_are_up = Barrier::new(SLOTS.into());
        thread::scope(|scope| {
            for slot in 0..SLOTS {
                let (turns, running, rounds, total) = (&turns, &running, &rounds, &total);
                let all_are_up = &all_are_up;
                scope.spawn(move || {
                    turns.take(Slot(slot), false);
                    all_are_up.wait();
                    while total.fetch_add(1, Ordering::Relaxed) < 8_000 {
                        turns.take(Slot(slot), false);
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                        rounds[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
                        running.fetch_sub(1, Ordering::SeqCst);
                    }
                    turns.end(Slot(slot));
                });
            }
        });
        let state = turns.lock();
        assert_eq!((state.running, state.line.len()), (0, 0));
        // While the last are ending, some have more turns.
        let rounds: Vec<u32> = rounds.iter().map(|r| r.load(Ordering::Relaxed)).collect();
        assert!(rounds.iter().all(|r| *r > 100), "{rounds:?}");
    }

    #[test]
    fn who_runs_gives_way_to_who_is_to_stop_and_then_goes_on() {
        let turns = Turns::new(2, 1);
        turns.begin(Slot(0));
        turns.take(Slot(0), false);
        turns.give_way(Slot(0));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                turns.begin(Slot(1));
                turns.take(Slot(1), false);
                turns.take(Slot(1), false);
                turns.give_way(Slot(1));
                turns.end(Slot(1));
            });
            while turns.lock().line.is_empty() {
                thread::yield_now();
            }
            turns.hurry(Slot(1));
            turns.give_way(Slot(0));
            assert!(!turns.lock().has_run[1], "it has ended first");
            assert!(turns.lock().has_turn[0], "the other has kept its turn");
            waiting.join().expect("it has had its turn");
        });
        // One that has ended hurries nobody.
        turns.hurry(Slot(1));
        turns.give_way(Slot(0));
    }

    #[test]
    fn who_pauses_has_no_turn_and_comes_back_in_line() {
        let turns = Turns::new(2, 1);
        turns.begin(Slot(0));
        assert!(
            !turns.pause(Slot(0)),
            "a guest that the kernel preempts has none"
        );
        turns.take(Slot(0), false);
        assert!(turns.pause(Slot(0)));
        assert_eq!(turns.lock().running, 0);
        turns.resume(Slot(0));
        assert!(turns.lock().has_turn[0]);
        assert!(turns.pause(Slot(0)));

        turns.begin(Slot(1));
        turns.take(Slot(1), false);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.resume(Slot(0)));
            while turns.lock().line.is_empty() {
                thread::yield_now();
            }
            assert!(!turns.lock().has_turn[0]);
            // The other's turn is over now.
            let other = scope.spawn(|| turns.take(Slot(1), false));
            waiting.join().expect("it has its turn");
            turns.end(Slot(0));
            other.join().expect("it has its turn");
        });
        assert!(turns.lock().has_turn[1]);
        // One that is to stop does not wait for it.
        turns.begin(Slot(0));
        turns.hurry(Slot(0));
        turns.resume(Slot(0));
        turns.end(Slot(0));
        turns.end(Slot(1));
        let state = turns.lock();
        assert_eq!((state.running, state.line.len()), (0, 0));
    }

    #[test]
    fn who_is_to_stop_need_not_wait() {
        let turns = Turns::new(3, 1);
        turns.take(Slot(0), false);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                turns.begin(Slot(1));
                turns.take(Slot(1), false);
                turns.take(Slot(1), false);
                turns.end(Slot(1));
            });
            while turns.lock().line.is_empty() {
                thread::yield_now();
            }
            turns.hurry(Slot(1));
            waiting.join().expect("it has had its turn");
        });
        turns.take(Slot(2), true);
        turns.end(Slot(2));
        assert_eq!(turns.lock().running, 1, "slot 0 has kept its turn");
    }
}
