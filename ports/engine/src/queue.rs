//! Who runs next.
//!
//! Guests that can run are in line; one that is to end is in a line of its own, which goes first.
//! Guests that wait for a time are in a heap by that time, and all others are in neither. No operation
//! depends on how many there are, but for the heap's, by the logarithm.

use proplet::engine::Slot;

/// Memory of one slot's place.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    state: State,
    /// In a line: the neighbours, or [`NONE`].
    before: u16,
    behind: u16,
    /// Asleep: until when, in microseconds since boot, and where in the heap.
    until: u64,
    at: u16,
    /// An entry of the heap: a slot. It has nothing to do with this place's.
    sleeper: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Away,
    InLine,
    Urgent,
    Asleep,
}

/// Stands for no slot.
const NONE: u16 = u16::MAX;

impl Place {
    /// Of a slot that is in no line.
    pub const AWAY: Self = Self {
        state: State::Away,
        before: NONE,
        behind: NONE,
        until: 0,
        at: NONE,
        sleeper: NONE,
    };
}

/// The first and the last of a line.
#[derive(Debug, Clone, Copy)]
struct Line {
    first: u16,
    last: u16,
}

impl Line {
    const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };
}

/// Two lines and a heap over the places.
#[derive(Debug)]
pub(crate) struct Queue {
    places: &'static mut [Place],
    urgent: Line,
    ready: Line,
    asleep: u16,
    /// Workers that found nobody to run, and wait.
    idle: u16,
}

impl Queue {
    /// As many slots as places, all away; 65,534 at most are used.
    pub(crate) const fn new(places: &'static mut [Place]) -> Self {
        Self {
            places,
            urgent: Line::EMPTY,
            ready: Line::EMPTY,
            asleep: 0,
            idle: 0,
        }
    }

    /// A worker waits from now on.
    pub(crate) const fn begin_idle(&mut self) {
        self.idle += 1;
    }

    /// A worker waits no longer.
    pub(crate) const fn end_idle(&mut self) {
        self.idle -= 1;
    }

    /// Whether a worker waits.
    pub(crate) const fn has_idle(&self) -> bool {
        self.idle > 0
    }

    fn place(&mut self, slot: u16) -> &mut Place {
        &mut self.places[usize::from(slot)]
    }

    fn line(&mut self, state: State) -> &mut Line {
        match state {
            State::Urgent => &mut self.urgent,
            _ => &mut self.ready,
        }
    }

    /// Whether somebody can run.
    pub(crate) const fn has_any(&self) -> bool {
        self.has_urgent() || self.ready.first != NONE
    }

    /// Whether somebody is to end.
    pub(crate) const fn has_urgent(&self) -> bool {
        self.urgent.first != NONE
    }

    /// Puts a slot that is away at the end of the line.
    pub(crate) fn push(&mut self, slot: Slot) {
        self.append(slot.0.into(), State::InLine);
    }

    /// Puts a slot that is to end, wherever it is, at the end of that line.
    pub(crate) fn push_urgent(&mut self, slot: Slot) {
        let slot = slot.0.into();
        if self.place(slot).state != State::Urgent {
            self.take_out(slot);
            self.append(slot, State::Urgent);
        }
    }

    /// Puts a slot that is away before all others that are not to end: it goes on with its turn.
    pub(crate) fn push_first(&mut self, slot: Slot) {
        let slot = slot.0.into();
        let first = self.ready.first;
        *self.place(slot) = Place {
            state: State::InLine,
            before: NONE,
            behind: first,
            ..*self.place(slot)
        };
        self.ready.first = slot;
        match first {
            NONE => self.ready.last = slot,
            other => self.place(other).before = slot,
        }
    }

    fn append(&mut self, slot: u16, state: State) {
        debug_assert_eq!(self.place(slot).state, State::Away);
        let last = core::mem::replace(&mut self.line(state).last, slot);
        *self.place(slot) = Place {
            state,
            before: last,
            behind: NONE,
            ..*self.place(slot)
        };
        match last {
            NONE => self.line(state).first = slot,
            other => self.place(other).behind = slot,
        }
    }

    /// The next to run, who is away then.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let slot = match self.urgent.first {
            NONE => self.ready.first,
            urgent => urgent,
        };
        if slot == NONE {
            return None;
        }
        self.take_out(slot);
        Some(Slot(slot as u8))
    }

    /// Takes a slot out of where it is.
    fn take_out(&mut self, slot: u16) {
        let Place {
            state,
            before,
            behind,
            at,
            ..
        } = *self.place(slot);
        match state {
            State::Away => return,
            State::Asleep => self.wake_at(at),
            State::InLine | State::Urgent => {
                match before {
                    NONE => self.line(state).first = behind,
                    other => self.place(other).behind = behind,
                }
                match behind {
                    NONE => self.line(state).last = before,
                    other => self.place(other).before = before,
                }
            }
        }
        self.place(slot).state = State::Away;
    }

    /// Puts a slot to sleep that is away.
    pub(crate) fn sleep(&mut self, slot: Slot, until: u64) {
        let slot = slot.0.into();
        let at = self.asleep;
        self.asleep += 1;
        let place = self.place(slot);
        place.state = State::Asleep;
        place.until = until;
        self.set_sleeper(at, slot);
        self.rise(at);
    }

    /// Puts a slot in line that waits, for a time or for something else.
    pub(crate) fn wake(&mut self, slot: Slot) {
        let slot = slot.0.into();
        if matches!(self.place(slot).state, State::Away | State::Asleep) {
            self.take_out(slot);
            self.append(slot, State::InLine);
        }
    }

    /// Puts all in line whose time has come, in its order. Returns the time of the next.
    pub(crate) fn wake_due(&mut self, now: u64) -> Option<u64> {
        loop {
            let until = self.first_wake()?;
            if until > now {
                return Some(until);
            }
            let slot = self.sleeper(0);
            self.take_out(slot);
            self.append(slot, State::InLine);
        }
    }

    fn first_wake(&self) -> Option<u64> {
        (self.asleep > 0).then(|| self.until(0))
    }

    fn sleeper(&self, at: u16) -> u16 {
        self.places[usize::from(at)].sleeper
    }

    fn until(&self, at: u16) -> u64 {
        self.places[usize::from(self.sleeper(at))].until
    }

    fn set_sleeper(&mut self, at: u16, slot: u16) {
        self.place(at).sleeper = slot;
        self.place(slot).at = at;
    }

    /// Takes the entry at a place out of the heap.
    fn wake_at(&mut self, at: u16) {
        self.asleep -= 1;
        let last = self.sleeper(self.asleep);
        if at == self.asleep {
            return;
        }
        self.set_sleeper(at, last);
        self.rise(at);
        self.sink(at);
    }

    fn rise(&mut self, mut at: u16) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.until(parent) <= self.until(at) {
                return;
            }
            self.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: u16) {
        loop {
            let children = [2 * at + 1, 2 * at + 2];
            let of_heap = children.into_iter().filter(|child| *child < self.asleep);
            let Some(least) = of_heap.min_by_key(|child| self.until(*child)) else {
                return;
            };
            if self.until(at) <= self.until(least) {
                return;
            }
            self.swap(at, least);
            at = least;
        }
    }

    fn swap(&mut self, a: u16, b: u16) {
        let (of_a, of_b) = (self.sleeper(a), self.sleeper(b));
        self.set_sleeper(a, of_b);
        self.set_sleeper(b, of_a);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::{boxed::Box, collections::VecDeque, vec, vec::Vec};

    fn queue(slots: usize) -> Queue {
        Queue::new(Box::leak(vec![Place::AWAY; slots].into_boxed_slice()))
    }

    fn order(queue: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop())
            .map(|slot| slot.0)
            .collect()
    }

    #[test]
    fn who_comes_first_runs_first() {
        let mut queue = queue(4);
        assert!(!queue.has_any());
        for slot in [2, 0, 3] {
            queue.push(Slot(slot));
        }
        queue.push_first(Slot(1));
        assert!(queue.has_any() && !queue.has_urgent());
        assert_eq!(order(&mut queue), [1, 2, 0, 3]);
        assert_eq!(queue.pop(), None);
        queue.push_first(Slot(1));
        queue.push(Slot(2));
        assert_eq!(order(&mut queue), [1, 2]);
    }

    #[test]
    fn who_is_to_end_goes_before_all_wherever_it_is() {
        let mut queue = queue(6);
        for slot in 0..4 {
            queue.push(Slot(slot));
        }
        queue.sleep(Slot(4), 100);
        // In the middle, at the end, asleep, away, and one twice.
        for slot in [2, 3, 4, 5, 2] {
            queue.push_urgent(Slot(slot));
        }
        assert!(queue.has_urgent());
        assert_eq!(queue.wake_due(1000), None);
        assert_eq!(order(&mut queue), [2, 3, 4, 5, 0, 1]);
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_times() {
        let mut queue = queue(8);
        for (slot, until) in [(0, 70), (1, 30), (2, 50), (3, 10), (4, 30), (5, 90)] {
            queue.sleep(Slot(slot), until);
        }
        assert_eq!(queue.wake_due(9), Some(10));
        assert_eq!(queue.wake_due(10), Some(30));
        queue.wake(Slot(2));
        // One that is in line is not put there twice.
        queue.wake(Slot(2));
        assert_eq!(order(&mut queue), [3, 2]);
        assert_eq!(queue.wake_due(70), Some(90));
        let woken = order(&mut queue);
        assert_eq!(woken.len(), 3);
        assert_eq!(woken[2], 0);
        assert_eq!(queue.wake_due(u64::MAX), None);
        assert_eq!(order(&mut queue), [5]);
    }

    /// Against lists that are searched.
    #[test]
    fn random_comings_and_goings() {
        const SLOTS: u8 = 40;
        let mut queue = queue(SLOTS.into());
        let (mut urgent, mut ready) = (VecDeque::new(), VecDeque::new());
        let mut asleep: Vec<(u64, u8)> = Vec::new();
        let mut random = 0x9e37_79b9_u32;
        let mut next = |below: u32| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            random % below
        };
        for now in 0..20_000_u64 {
            let slot = next(SLOTS.into()) as u8;
            let is_away = !urgent.contains(&slot)
                && !ready.contains(&slot)
                && !asleep.iter().any(|(_, s)| *s == slot);
            match next(6) {
                0 if is_away => {
                    queue.push(Slot(slot));
                    ready.push_back(slot);
                }
                1 if is_away => {
                    queue.push_first(Slot(slot));
                    ready.push_front(slot);
                }
                2 if is_away => {
                    // No two at one time: their order would be anybody's.
                    let until = (now + u64::from(next(300))) * 64 + u64::from(slot);
                    queue.sleep(Slot(slot), until);
                    asleep.push((until, slot));
                }
                3 if next(4) == 0 => {
                    queue.push_urgent(Slot(slot));
                    ready.retain(|s| *s != slot);
                    asleep.retain(|(_, s)| *s != slot);
                    if !urgent.contains(&slot) {
                        urgent.push_back(slot);
                    }
                }
                4 => {
                    let expected = urgent.pop_front().or_else(|| ready.pop_front());
                    assert_eq!(queue.pop().map(|slot| slot.0), expected);
                }
                _ => {
                    asleep.sort_unstable();
                    let due = asleep.partition_point(|(until, _)| *until <= now * 64);
                    ready.extend(asleep.drain(..due).map(|(_, slot)| slot));
                    let then = asleep.first().map(|(until, _)| *until);
                    assert_eq!(queue.wake_due(now * 64), then);
                }
            }
            assert_eq!(queue.has_urgent(), !urgent.is_empty());
            assert_eq!(queue.has_any(), !(urgent.is_empty() && ready.is_empty()));
        }
    }
}
