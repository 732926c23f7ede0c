//! The order of slots: to run, to wake, to be measured for, to be heard, to have their exits taken.
//!
//! A slot is in one state. Those that can run are in line; one that is to end is in a line of its own,
//! which goes first; those that wait for a time are in a heap by that time. Lines are linked both ways
//! through the places, so nothing but the heap, by its logarithm, depends on how many slots there are.

use proplet::{
    engine::Slot,
    heap::{ABSENT, Heap},
};

/// Memory of one slot's place.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Asleep: until when, in microseconds since boot.
    until: u64,
    /// In the line that the state names.
    link: Link,
    /// In the line of those that have something to say.
    speaker: Link,
    /// Asleep: position in the heap.
    at: u16,
    /// An entry of the heap: a slot. It has nothing to do with this place's.
    sleeper: u16,
    state: State,
    /// Woken while it ran: it does not wait then.
    is_woken: bool,
}

const _: () = assert!(size_of::<Place>() == 24);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no task.
    Free,
    /// A worker has it.
    Running,
    /// Until it is woken.
    Waiting,
    Asleep,
    In(Kind),
}

/// The lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Those that are to end.
    Urgent,
    /// Those that can run.
    Ready,
    /// Those that wait for a measurement that is not begun.
    Measuring,
    /// Those that have ended.
    Ended,
    /// Those that have something to say; each is in a state beside.
    Speaking,
}

/// Stands for no slot.
const NONE: u16 = u16::MAX;

/// Neighbours in a line, or [`NONE`].
#[derive(Debug, Clone, Copy)]
struct Link {
    before: u16,
    behind: u16,
}

impl Place {
    /// Of a free slot.
    pub const AWAY: Self = Self {
        until: 0,
        link: Link {
            before: NONE,
            behind: NONE,
        },
        speaker: Link {
            before: NONE,
            behind: NONE,
        },
        at: ABSENT,
        sleeper: NONE,
        state: State::Free,
        is_woken: false,
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

/// Lines and a heap over the places.
#[derive(Debug)]
pub(crate) struct Queue {
    places: &'static mut [Place],
    lines: [Line; 5],
    asleep: u16,
    /// Workers that found nothing to run, and wait.
    idle: u16,
}

/// Where a slot goes after a worker has had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// To the end of the line.
    Again,
    /// To the beginning of the line: its turn was cut short for one that is to end.
    First,
    /// Waits until it is woken.
    Wake,
    /// Waits until a time in microseconds since boot, or until it is woken.
    Sleep(u64),
    /// Waits for a measurement.
    Measure,
}

impl Queue {
    /// As many slots as places, all free; 65,534 at most.
    pub(crate) const fn new(places: &'static mut [Place]) -> Self {
        Self {
            places,
            lines: [Line::EMPTY; 5],
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

    fn state(&self, slot: Slot) -> State {
        self.places[slot.index()].state
    }

    const fn line(&self, kind: Kind) -> &Line {
        &self.lines[kind as usize]
    }

    fn link(&mut self, slot: u16, kind: Kind) -> &mut Link {
        let place = self.place(slot);
        match kind {
            Kind::Speaking => &mut place.speaker,
            _ => &mut place.link,
        }
    }

    /// Puts a slot between two neighbours of a line.
    fn insert(&mut self, slot: u16, kind: Kind, link: Link) {
        *self.link(slot, kind) = link;
        self.join(link, kind, slot, slot);
    }

    /// Takes a slot out of a line that it is in.
    fn remove(&mut self, slot: u16, kind: Kind) {
        let link = *self.link(slot, kind);
        self.join(link, kind, link.before, link.behind);
    }

    /// Has the neighbours see `first` behind the one and `last` before the other.
    fn join(&mut self, link: Link, kind: Kind, last: u16, first: u16) {
        match link.before {
            NONE => self.lines[kind as usize].first = first,
            before => self.link(before, kind).behind = first,
        }
        match link.behind {
            NONE => self.lines[kind as usize].last = last,
            behind => self.link(behind, kind).before = last,
        }
    }

    /// Puts a slot that is in no line into one, as the last.
    fn append(&mut self, slot: u16, kind: Kind) {
        let link = Link {
            before: self.line(kind).last,
            behind: NONE,
        };
        self.insert(slot, kind, link);
        if kind != Kind::Speaking {
            self.place(slot).state = State::In(kind);
        }
    }

    /// Takes a slot out of where it is, into a state.
    fn move_to(&mut self, slot: u16, state: State) {
        match self.place(slot).state {
            State::Asleep => Heap::remove(self, slot),
            State::In(kind) => self.remove(slot, kind),
            State::Free | State::Running | State::Waiting => {}
        }
        self.place(slot).state = state;
    }

    /// Whether a slot can run.
    pub(crate) const fn has_any(&self) -> bool {
        self.has_urgent() || self.line(Kind::Ready).first != NONE
    }

    /// Whether a slot is to end.
    pub(crate) const fn has_urgent(&self) -> bool {
        self.line(Kind::Urgent).first != NONE
    }

    /// Whether a slot has no task.
    pub(crate) fn is_free(&self, slot: Slot) -> bool {
        self.state(slot) == State::Free
    }

    /// A task in a free slot can run.
    pub(crate) fn begin(&mut self, slot: Slot) {
        debug_assert!(self.is_free(slot));
        self.place(slot.0).is_woken = false;
        self.append(slot.0, Kind::Ready);
    }

    /// The next to run, which runs then.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let slot = match self.line(Kind::Urgent).first {
            NONE => self.line(Kind::Ready).first,
            urgent => urgent,
        };
        (slot != NONE).then(|| {
            self.move_to(slot, State::Running);
            Slot(slot)
        })
    }

    /// Puts a slot that runs where it waits for its next turn; what came while it ran goes before.
    pub(crate) fn park(&mut self, slot: Slot, after: After, is_interrupted: bool) {
        let Slot(slot) = slot;
        debug_assert_eq!(self.place(slot).state, State::Running);
        let is_woken = core::mem::take(&mut self.place(slot).is_woken);
        match after {
            _ if is_interrupted => self.append(slot, Kind::Urgent),
            After::First => self.push_first(slot),
            After::Again => self.append(slot, Kind::Ready),
            _ if is_woken => self.append(slot, Kind::Ready),
            After::Wake => self.place(slot).state = State::Waiting,
            After::Measure => self.append(slot, Kind::Measuring),
            After::Sleep(until) => {
                let place = self.place(slot);
                (place.state, place.until) = (State::Asleep, until);
                Heap::insert(self, slot);
            }
        }
    }

    fn push_first(&mut self, slot: u16) {
        let link = Link {
            before: NONE,
            behind: self.line(Kind::Ready).first,
        };
        self.insert(slot, Kind::Ready, link);
        self.place(slot).state = State::In(Kind::Ready);
    }

    /// Puts a slot that is to end into that line, unless a worker has it or it has ended.
    pub(crate) fn hurry(&mut self, slot: Slot) {
        match self.state(slot) {
            State::Free | State::Running | State::In(Kind::Urgent | Kind::Ended) => {}
            _ => {
                self.move_to(slot.0, State::Running);
                self.append(slot.0, Kind::Urgent);
            }
        }
    }

    /// Puts a slot in line that waits, for a time or for something else.
    pub(crate) fn wake(&mut self, slot: Slot) {
        match self.state(slot) {
            State::Running => self.place(slot.0).is_woken = true,
            State::Waiting | State::Asleep => {
                self.move_to(slot.0, State::Waiting);
                self.append(slot.0, Kind::Ready);
            }
            State::Free | State::In(_) => {}
        }
    }

    /// Puts all in line whose time has come, in its order. Returns the time of the next.
    pub(crate) fn wake_due(&mut self, now: u64) -> Option<u64> {
        loop {
            let slot = self.first()?;
            let until = self.key(slot);
            if until > now {
                return Some(until);
            }
            self.wake(Slot(slot));
        }
    }

    /// The next that waits for a measurement, which waits to be woken then.
    pub(crate) fn pop_measuring(&mut self) -> Option<Slot> {
        let slot = some(self.line(Kind::Measuring).first)?;
        self.move_to(slot.0, State::Waiting);
        Some(slot)
    }

    /// A slot that runs has ended.
    pub(crate) fn end(&mut self, slot: Slot) {
        self.move_to(slot.0, State::Running);
        self.append(slot.0, Kind::Ended);
    }

    /// The slot that ended first of those that are not free.
    pub(crate) fn ended(&self) -> Option<Slot> {
        some(self.line(Kind::Ended).first)
    }

    /// Whether a slot has ended, and is not free.
    pub(crate) fn has_ended(&self, slot: Slot) -> bool {
        self.state(slot) == State::In(Kind::Ended)
    }

    /// Frees a slot that has ended.
    pub(crate) fn free(&mut self, slot: Slot) {
        self.move_to(slot.0, State::Free);
    }

    /// A slot has something to say.
    pub(crate) fn speak(&mut self, slot: Slot) {
        self.append(slot.0, Kind::Speaking);
    }

    /// The slot that has had something to say for the longest time.
    pub(crate) fn speaker(&self) -> Option<Slot> {
        some(self.line(Kind::Speaking).first)
    }

    /// A slot that had something to say has nothing any more.
    pub(crate) fn hush(&mut self, slot: Slot) {
        self.remove(slot.0, Kind::Speaking);
    }
}

fn some(slot: u16) -> Option<Slot> {
    (slot != NONE).then_some(Slot(slot))
}

/// The sleepers, by the time until when they sleep.
impl Heap for Queue {
    fn key(&self, item: u16) -> u64 {
        self.places[usize::from(item)].until
    }

    fn position(&self, item: u16) -> u16 {
        self.places[usize::from(item)].at
    }

    fn set_position(&mut self, item: u16, position: u16) {
        self.place(item).at = position;
    }

    fn entry(&self, position: u16) -> u16 {
        self.places[usize::from(position)].sleeper
    }

    fn set_entry(&mut self, position: u16, item: u16) {
        self.place(position).sleeper = item;
    }

    fn count(&self) -> u16 {
        self.asleep
    }

    fn set_count(&mut self, count: u16) {
        self.asleep = count;
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

    fn order(queue: &mut Queue) -> Vec<u16> {
        std::iter::from_fn(|| queue.pop())
            .map(|slot| slot.0)
            .collect()
    }

    /// Has a slot run and go elsewhere; no other slot can run.
    fn run(queue: &mut Queue, slot: u16, after: After) {
        queue.begin(Slot(slot));
        assert_eq!(queue.pop(), Some(Slot(slot)));
        queue.park(Slot(slot), after, false);
    }

    #[test]
    fn first_come_first_run() {
        let mut queue = queue(4);
        assert!(!queue.has_any());
        for slot in [1, 2, 0, 3] {
            queue.begin(Slot(slot));
        }
        assert_eq!(queue.pop(), Some(Slot(1)));
        queue.park(Slot(1), After::First, false);
        assert!(queue.has_any() && !queue.has_urgent());
        assert_eq!(queue.pop(), Some(Slot(1)));
        queue.park(Slot(1), After::Again, false);
        assert_eq!(order(&mut queue), [2, 0, 3, 1]);
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_slot_that_is_to_end_goes_before_all() {
        let mut queue = queue(8);
        run(&mut queue, 4, After::Sleep(100));
        run(&mut queue, 5, After::Wake);
        run(&mut queue, 6, After::Measure);
        for slot in 0..4 {
            queue.begin(Slot(slot));
        }
        // In the middle, at the end, asleep, waiting, to be measured, one twice, and a free one.
        for slot in [2, 3, 4, 5, 6, 2, 7] {
            queue.hurry(Slot(slot));
        }
        assert!(queue.has_urgent());
        assert_eq!((queue.wake_due(1000), queue.pop_measuring()), (None, None));
        assert_eq!(order(&mut queue), [2, 3, 4, 5, 6, 0, 1]);
        // All run: the worker sees that they are to end.
        queue.hurry(Slot(0));
        assert!(!queue.has_urgent());
        queue.park(Slot(0), After::Sleep(7), true);
        assert_eq!(order(&mut queue), [0]);
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_times() {
        let mut queue = queue(8);
        for (slot, until) in [(0, 70), (1, 30), (2, 50), (3, 10), (4, 30), (5, 90)] {
            run(&mut queue, slot, After::Sleep(until));
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

    #[test]
    fn what_comes_while_it_runs_is_not_lost() {
        let mut queue = queue(1);
        queue.begin(Slot(0));
        for after in [After::Wake, After::Sleep(u64::MAX), After::Measure] {
            assert_eq!(queue.pop(), Some(Slot(0)));
            queue.wake(Slot(0));
            queue.park(Slot(0), after, false);
        }
        assert_eq!(queue.pop(), Some(Slot(0)));
        queue.park(Slot(0), After::Wake, false);
        assert_eq!(queue.pop(), None, "it was woken once");
    }

    #[test]
    fn the_ended_and_the_speakers_are_in_lines_of_their_own() {
        let mut queue = queue(4);
        for slot in [3, 1, 2] {
            queue.begin(Slot(slot));
            queue.speak(Slot(slot));
        }
        assert_eq!(queue.speaker(), Some(Slot(3)));
        queue.hush(Slot(1));
        queue.hush(Slot(3));
        assert_eq!(queue.speaker(), Some(Slot(2)));
        for slot in order(&mut queue) {
            queue.end(Slot(slot));
        }
        queue.hurry(Slot(1));
        queue.wake(Slot(1));
        assert!(!queue.has_any());
        assert!(queue.has_ended(Slot(1)) && !queue.has_ended(Slot(0)));
        queue.free(Slot(1));
        let order: Vec<Slot> = std::iter::from_fn(|| {
            let slot = queue.ended()?;
            queue.free(slot);
            Some(slot)
        })
        .collect();
        assert_eq!(order, [Slot(3), Slot(2)]);
        assert!(queue.is_free(Slot(1)));
        queue.hush(Slot(2));
        assert_eq!(queue.speaker(), None);
    }

    /// Against lists that are searched.
    #[test]
    fn random_comings_and_goings() {
        const SLOTS: u16 = 40;
        let mut queue = queue(SLOTS.into());
        let (mut urgent, mut ready) = (VecDeque::new(), VecDeque::new());
        let (mut running, mut ended) = (Vec::new(), VecDeque::new());
        let mut asleep: Vec<(u64, u16)> = Vec::new();
        let mut random = 0x9e37_79b9_u32;
        let mut next = |below: u32| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            random % below
        };
        for now in 0..40_000_u64 {
            let slot = next(SLOTS.into()) as u16;
            let runs = running.iter().position(|s| *s == slot);
            // No two at one time: the order of equal keys is any.
            let until = (now + u64::from(next(300))) * 64 + u64::from(slot);
            match (next(8), runs) {
                (0, None) if queue.is_free(Slot(slot)) => {
                    queue.begin(Slot(slot));
                    ready.push_back(slot);
                }
                (kind @ 0..4, Some(at)) => {
                    running.swap_remove(at);
                    match kind {
                        0 => ready.push_back(slot),
                        1 => ready.push_front(slot),
                        2 => asleep.push((until, slot)),
                        _ => ended.push_back(slot),
                    }
                    match kind {
                        0 => queue.park(Slot(slot), After::Again, false),
                        1 => queue.park(Slot(slot), After::First, false),
                        2 => queue.park(Slot(slot), After::Sleep(until), false),
                        _ => queue.end(Slot(slot)),
                    }
                }
                (4, None) if next(4) == 0 => {
                    queue.hurry(Slot(slot));
                    let parked = ready.len() + asleep.len();
                    ready.retain(|s| *s != slot);
                    asleep.retain(|(_, s)| *s != slot);
                    if ready.len() + asleep.len() < parked {
                        urgent.push_back(slot);
                    }
                }
                (5, _) => {
                    assert_eq!(queue.ended(), ended.front().copied().map(Slot));
                    if let Some(slot) = ended.pop_front() {
                        queue.free(Slot(slot));
                    }
                }
                (6, _) => {
                    let expected = urgent.pop_front().or_else(|| ready.pop_front());
                    assert_eq!(queue.pop().map(|slot| slot.0), expected);
                    running.extend(expected);
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
