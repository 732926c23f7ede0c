//! Lists of tasks, linked through their records: first in, first out, and out from anywhere.

use crate::chain::END as NONE;
#[cfg(test)]
extern crate std;

/// Neighbours of a task in the one list that it may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Links {
    before: u16,
    behind: u16,
}

impl Links {
    pub(super) const NONE: Self = Self {
        before: NONE,
        behind: NONE,
    };
}

#[cfg(test)]
impl LinkedList {
    /// All of them in order, after a look that the links back are those of the links on.
    pub(super) fn all(&self, links: impl Fn(u16) -> Links) -> std::vec::Vec<u16> {
        let (mut all, mut at, mut before) = (std::vec::Vec::new(), self.first, NONE);
        while at != NONE {
            assert_eq!(links(at).before, before);
            assert!(all.len() < usize::from(NONE), "it leads in a circle");
            all.push(at);
            (before, at) = (at, links(at).behind);
        }
        assert_eq!(self.last, before);
        all
    }
}

/// Storage of the links.
pub(super) trait Linked {
    fn links(&mut self, slot: u16) -> &mut Links;
}

/// A list of tasks. Every operation is O(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkedList {
    first: u16,
    last: u16,
}

impl LinkedList {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };

    /// The first task in it.
    pub(super) const fn first(&self) -> Option<u16> {
        match self.first {
            NONE => None,
            slot => Some(slot),
        }
    }

    /// Appends a task that is in no list.
    pub(super) fn push(&mut self, tasks: &mut impl Linked, slot: u16) {
        let last = core::mem::replace(&mut self.last, slot);
        *tasks.links(slot) = Links {
            before: last,
            behind: NONE,
        };
        match last {
            NONE => self.first = slot,
            other => tasks.links(other).behind = slot,
        }
    }

    /// Takes out a task of this list.
    pub(super) fn remove(&mut self, tasks: &mut impl Linked, slot: u16) {
        let Links { before, behind } = core::mem::replace(tasks.links(slot), Links::NONE);
        match before {
            NONE => self.first = behind,
            other => tasks.links(other).behind = behind,
        }
        match behind {
            NONE => self.last = before,
            other => tasks.links(other).before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::VecDeque, vec, vec::Vec};

    impl Linked for Vec<Links> {
        fn links(&mut self, slot: u16) -> &mut Links {
            &mut self[usize::from(slot)]
        }
    }

    proptest! {
        #[test]
        fn a_list_is_a_queue_that_any_may_leave(moves in prop::collection::vec(0..16_u16, 0..200)) {
            let (mut tasks, mut list) = (vec![Links::NONE; 16], LinkedList::EMPTY);
            let mut model = VecDeque::new();
            for slot in moves {
                match model.iter().position(|other| *other == slot) {
                    Some(at) => {
                        model.remove(at);
                        list.remove(&mut tasks, slot);
                    }
                    None => {
                        model.push_back(slot);
                        list.push(&mut tasks, slot);
                    }
                }
                prop_assert_eq!(list.first(), model.front().copied());
            }
            while let Some(slot) = list.first() {
                prop_assert_eq!(Some(slot), model.pop_front());
                list.remove(&mut tasks, slot);
            }
            prop_assert!(model.is_empty() && tasks.iter().all(|links| *links == Links::NONE));
        }
    }
}
