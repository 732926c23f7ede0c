//! The run queue: which slot runs next, which waits and for what, which has a message or has ended.
//!
//! A slot is in one state. Slots that can run are in a list; slots that are to end are in a list of
//! their own, which goes first; sleeping slots are in a heap by the time at which they wake. Nothing but
//! the heap, by its logarithm, depends on the number of slots.

use proplet::{
    collections::{
        heap::{ABSENT, Heap},
        list::{Linked, Links, List},
    },
    engine::Slot,
};

/// Memory of one slot in the run queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueEntry {
    /// Of a sleeping slot: the time at which it wakes, in microseconds since boot.
    until: u64,
    /// Links of the list that the state names.
    links: Links,
    /// Links of the list of slots with a message.
    message: Links,
    /// Of a sleeping slot: its position in the heap.
    position: u16,
    /// An entry of the heap: a slot, which need not be this one.
    sleeper: u16,
    state: State,
    /// Woken while it ran: it does not block then.
    is_woken: bool,
}

const _: () = assert!(size_of::<QueueEntry>() == 24);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no task.
    Free,
    /// A worker has it.
    Running,
    /// Until it is woken.
    Blocked,
    Asleep,
    In(Kind),
}

/// The lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Slots that are to end.
    Urgent,
    /// Slots that can run.
    Ready,
    /// Slots that wait for a measurement that is not begun.
    Measuring,
    /// Slots that have ended.
    Ended,
    /// Slots with a message; each is in another state or list beside.
    Message,
}

impl QueueEntry {
    /// A free slot.
    pub const FREE: Self = Self {
        until: 0,
        links: Links::NONE,
        message: Links::NONE,
        position: ABSENT,
        sleeper: ABSENT,
        state: State::Free,
        is_woken: false,
    };
}

/// Lists and a heap over the entries.
#[derive(Debug)]
pub(crate) struct RunQueue {
    entries: &'static mut [QueueEntry],
    lists: [List; 5],
    asleep: u16,
    /// Workers that found nothing to run, and wait.
    idle: u16,
    /// Workers that wait and have been called.
    called: u16,
}

/// The place of a slot after a worker has had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Yield {
    /// Ready, behind all others.
    Last,
    /// Ready, before all others: its turn was cut short for a slot that is to end.
    First,
    /// Blocked until it is woken.
    Block,
    /// Asleep until a time in microseconds since boot, or until it is woken.
    Sleep(u64),
    /// Blocked until it is measured for.
    Measure,
}

/// The links of one list.
struct EntriesOf<'q>(&'q mut [QueueEntry], Kind);

impl Linked for EntriesOf<'_> {
    fn links(&mut self, item: u16) -> &mut Links {
        let entry = &mut self.0[usize::from(item)];
        match self.1 {
            Kind::Message => &mut entry.message,
            _ => &mut entry.links,
        }
    }
}

impl RunQueue {
    /// As many slots as entries, all free; 65,534 at most.
    pub(crate) const fn new(entries: &'static mut [QueueEntry]) -> Self {
        Self {
            entries,
            lists: [List::EMPTY; 5],
            asleep: 0,
            idle: 0,
            called: 0,
        }
    }

    /// A worker waits from now on.
    pub(crate) const fn begin_idle(&mut self) {
        self.idle += 1;
    }

    /// A worker waits no longer.
    pub(crate) const fn end_idle(&mut self) {
        match self.called.checked_sub(1) {
            Some(called) => self.called = called,
            // Its time has come, and nobody has called it.
            None => self.idle -= 1,
        }
    }

    /// Picks one of the workers that wait; false if all of them have been called. The caller wakes it.
    pub(crate) const fn take_idle(&mut self) -> bool {
        let has_idle = self.idle > 0;
        if has_idle {
            self.idle -= 1;
            self.called += 1;
        }
        has_idle
    }

    fn entry_mut(&mut self, slot: u16) -> &mut QueueEntry {
        &mut self.entries[usize::from(slot)]
    }

    fn state(&self, slot: Slot) -> State {
        self.entries[slot.index()].state
    }

    const fn first_of(&self, kind: Kind) -> Option<u16> {
        self.lists[kind as usize].first()
    }

    /// Removes a slot from a list that it is in.
    fn unlink(&mut self, slot: u16, kind: Kind) {
        self.lists[kind as usize].remove(&mut EntriesOf(self.entries, kind), slot);
    }

    /// Appends a slot to a list; it is in none that has the same links.
    fn append(&mut self, slot: u16, kind: Kind) {
        self.lists[kind as usize].push_back(&mut EntriesOf(self.entries, kind), slot);
        if kind != Kind::Message {
            self.entry_mut(slot).state = State::In(kind);
        }
    }

    /// Takes a slot out of its list or the heap, into a state.
    fn move_to(&mut self, slot: u16, state: State) {
        match self.entry_mut(slot).state {
            State::Asleep => Heap::remove(self, slot),
            State::In(kind) => self.unlink(slot, kind),
            State::Free | State::Running | State::Blocked => {}
        }
        self.entry_mut(slot).state = state;
    }

    /// Whether a slot can run.
    pub(crate) const fn has_any(&self) -> bool {
        self.has_urgent() || self.first_of(Kind::Ready).is_some()
    }

    /// Whether a slot is to end.
    pub(crate) const fn has_urgent(&self) -> bool {
        self.first_of(Kind::Urgent).is_some()
    }

    /// Whether a slot has no task.
    pub(crate) fn is_free(&self, slot: Slot) -> bool {
        self.state(slot) == State::Free
    }

    /// Makes a free slot ready.
    pub(crate) fn begin(&mut self, slot: Slot) {
        debug_assert!(self.is_free(slot));
        self.entry_mut(slot.0).is_woken = false;
        self.append(slot.0, Kind::Ready);
    }

    /// The next slot to run, which runs then.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let urgent = self.first_of(Kind::Urgent);
        let slot = urgent.or(self.first_of(Kind::Ready))?;
        self.move_to(slot, State::Running);
        Some(Slot(slot))
    }

    /// Takes a running slot back. An interrupt or a wake-up that came while it ran counts first.
    pub(crate) fn park(&mut self, slot: Slot, place: Yield, is_interrupted: bool) {
        let Slot(slot) = slot;
        debug_assert_eq!(self.entry_mut(slot).state, State::Running);
        let is_woken = core::mem::take(&mut self.entry_mut(slot).is_woken);
        match place {
            _ if is_interrupted => self.append(slot, Kind::Urgent),
            Yield::First => self.prepend(slot),
            Yield::Last => self.append(slot, Kind::Ready),
            _ if is_woken => self.append(slot, Kind::Ready),
            Yield::Block => self.entry_mut(slot).state = State::Blocked,
            Yield::Measure => self.append(slot, Kind::Measuring),
            Yield::Sleep(until) => {
                let entry = self.entry_mut(slot);
                (entry.state, entry.until) = (State::Asleep, until);
                Heap::insert(self, slot);
            }
        }
    }

    fn prepend(&mut self, slot: u16) {
        let kind = Kind::Ready;
        self.lists[kind as usize].push_front(&mut EntriesOf(self.entries, kind), slot);
        self.entry_mut(slot).state = State::In(kind);
    }

    /// Has a slot run before all others, since it is to end; nothing if a worker has it or it has ended.
    pub(crate) fn make_urgent(&mut self, slot: Slot) {
        match self.state(slot) {
            State::Free | State::Running | State::In(Kind::Urgent | Kind::Ended) => {}
            _ => {
                self.move_to(slot.0, State::Running);
                self.append(slot.0, Kind::Urgent);
            }
        }
    }

    /// Makes a blocked or a sleeping slot ready.
    pub(crate) fn wake(&mut self, slot: Slot) {
        match self.state(slot) {
            State::Running => self.entry_mut(slot.0).is_woken = true,
            State::Blocked | State::Asleep => {
                self.move_to(slot.0, State::Blocked);
                self.append(slot.0, Kind::Ready);
            }
            State::Free | State::In(_) => {}
        }
    }

    /// Makes the sleeping slots ready whose time has come, in its order. Returns the time of the next.
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

    /// The next slot that waits for a measurement, which is blocked until it is woken.
    pub(crate) fn pop_measuring(&mut self) -> Option<Slot> {
        let slot = self.first_of(Kind::Measuring)?;
        self.move_to(slot, State::Blocked);
        Some(Slot(slot))
    }

    /// A running slot has ended.
    pub(crate) fn end(&mut self, slot: Slot) {
        self.move_to(slot.0, State::Running);
        self.append(slot.0, Kind::Ended);
    }

    /// The slot that ended first of those that are not free.
    pub(crate) fn ended(&self) -> Option<Slot> {
        self.first_of(Kind::Ended).map(Slot)
    }

    /// Whether a slot has ended, and is not free.
    pub(crate) fn has_ended(&self, slot: Slot) -> bool {
        self.state(slot) == State::In(Kind::Ended)
    }

    /// Frees a slot that has ended.
    pub(crate) fn free(&mut self, slot: Slot) {
        self.move_to(slot.0, State::Free);
    }

    /// Notes that a slot has a message.
    pub(crate) fn set_message(&mut self, slot: Slot) {
        self.append(slot.0, Kind::Message);
    }

    /// The slot that has had a message for the longest time.
    pub(crate) fn next_message(&self) -> Option<Slot> {
        self.first_of(Kind::Message).map(Slot)
    }

    /// Notes that the message of a slot is taken.
    pub(crate) fn clear_message(&mut self, slot: Slot) {
        self.unlink(slot.0, Kind::Message);
    }
}

/// The sleeping slots, by the time at which they wake.
impl Heap for RunQueue {
    fn key(&self, item: u16) -> u64 {
        self.entries[usize::from(item)].until
    }

    fn position(&self, item: u16) -> u16 {
        self.entries[usize::from(item)].position
    }

    fn set_position(&mut self, item: u16, position: u16) {
        self.entry_mut(item).position = position;
    }

    fn entry(&self, position: u16) -> u16 {
        self.entries[usize::from(position)].sleeper
    }

    fn set_entry(&mut self, position: u16, item: u16) {
        self.entry_mut(position).sleeper = item;
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

    fn queue(slots: usize) -> RunQueue {
        RunQueue::new(Box::leak(vec![QueueEntry::FREE; slots].into_boxed_slice()))
    }

    fn order(queue: &mut RunQueue) -> Vec<u16> {
        std::iter::from_fn(|| queue.pop())
            .map(|slot| slot.0)
            .collect()
    }

    /// Has a slot run and go elsewhere; no other slot can run.
    fn run(queue: &mut RunQueue, slot: u16, place: Yield) {
        queue.begin(Slot(slot));
        assert_eq!(queue.pop(), Some(Slot(slot)));
        queue.park(Slot(slot), place, false);
    }

    #[test]
    fn first_come_first_run() {
        let mut queue = queue(4);
        assert!(!queue.has_any());
        for slot in [1, 2, 0, 3] {
            queue.begin(Slot(slot));
        }
        assert_eq!(queue.pop(), Some(Slot(1)));
        queue.park(Slot(1), Yield::First, false);
        assert!(queue.has_any() && !queue.has_urgent());
        assert_eq!(queue.pop(), Some(Slot(1)));
        queue.park(Slot(1), Yield::Last, false);
        assert_eq!(order(&mut queue), [2, 0, 3, 1]);
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_slot_that_is_to_end_goes_before_all() {
        let mut queue = queue(8);
        run(&mut queue, 4, Yield::Sleep(100));
        run(&mut queue, 5, Yield::Block);
        run(&mut queue, 6, Yield::Measure);
        for slot in 0..4 {
            queue.begin(Slot(slot));
        }
        // In the middle, at the end, asleep, waiting, to be measured, one twice, and a free one.
        for slot in [2, 3, 4, 5, 6, 2, 7] {
            queue.make_urgent(Slot(slot));
        }
        assert!(queue.has_urgent());
        assert_eq!((queue.wake_due(1000), queue.pop_measuring()), (None, None));
        assert_eq!(order(&mut queue), [2, 3, 4, 5, 6, 0, 1]);
        // All run: the worker sees that they are to end.
        queue.make_urgent(Slot(0));
        assert!(!queue.has_urgent());
        queue.park(Slot(0), Yield::Sleep(7), true);
        assert_eq!(order(&mut queue), [0]);
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_times() {
        let mut queue = queue(8);
        for (slot, until) in [(0, 70), (1, 30), (2, 50), (3, 10), (4, 30), (5, 90)] {
            run(&mut queue, slot, Yield::Sleep(until));
        }
        assert_eq!(queue.wake_due(9), Some(10));
        assert_eq!(queue.wake_due(10), Some(30));
        queue.wake(Slot(2));
        // One that is ready is not made so twice.
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
        for place in [Yield::Block, Yield::Sleep(u64::MAX), Yield::Measure] {
            assert_eq!(queue.pop(), Some(Slot(0)));
            queue.wake(Slot(0));
            queue.park(Slot(0), place, false);
        }
        assert_eq!(queue.pop(), Some(Slot(0)));
        queue.park(Slot(0), Yield::Block, false);
        assert_eq!(queue.pop(), None, "it was woken once");
    }

    #[test]
    fn slots_that_ended_or_have_a_message_are_in_lists_of_their_own() {
        let mut queue = queue(4);
        for slot in [3, 1, 2] {
            queue.begin(Slot(slot));
            queue.set_message(Slot(slot));
        }
        assert_eq!(queue.next_message(), Some(Slot(3)));
        queue.clear_message(Slot(1));
        queue.clear_message(Slot(3));
        assert_eq!(queue.next_message(), Some(Slot(2)));
        for slot in order(&mut queue) {
            queue.end(Slot(slot));
        }
        queue.make_urgent(Slot(1));
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
        queue.clear_message(Slot(2));
        assert_eq!(queue.next_message(), None);
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
                        0 => queue.park(Slot(slot), Yield::Last, false),
                        1 => queue.park(Slot(slot), Yield::First, false),
                        2 => queue.park(Slot(slot), Yield::Sleep(until), false),
                        _ => queue.end(Slot(slot)),
                    }
                }
                (4, None) if next(4) == 0 => {
                    queue.make_urgent(Slot(slot));
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
