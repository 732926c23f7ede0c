//! Doubly linked lists of numbered items, linked through memory of their user: first in, first out, and
//! out from anywhere. Every operation is O(1).

use super::chain::END;

/// Neighbours of an item in the one list that it may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links {
    previous: u16,
    next: u16,
}

impl Links {
    /// Links of an item that is in no list.
    pub const NONE: Self = Self {
        previous: END,
        next: END,
    };
}

/// Storage of the items' links.
pub trait Linked {
    /// The links of an item; [`Links::NONE`] at first.
    fn links(&mut self, item: u16) -> &mut Links;
}

/// A list of items below 65,535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List {
    first: u16,
    last: u16,
}

impl List {
    /// A list without items.
    pub const EMPTY: Self = Self {
        first: END,
        last: END,
    };

    /// The first item.
    pub const fn first(&self) -> Option<u16> {
        match self.first {
            END => None,
            item => Some(item),
        }
    }

    /// Appends an item that is in no list.
    pub fn push_back(&mut self, storage: &mut impl Linked, item: u16) {
        let previous = self.last;
        self.insert(storage, item, previous, END);
    }

    /// Prepends an item that is in no list.
    pub fn push_front(&mut self, storage: &mut impl Linked, item: u16) {
        let next = self.first;
        self.insert(storage, item, END, next);
    }

    fn insert(&mut self, storage: &mut impl Linked, item: u16, previous: u16, next: u16) {
        *storage.links(item) = Links { previous, next };
        *self.link_after(storage, previous) = item;
        *self.link_before(storage, next) = item;
    }

    /// Removes an item of this list.
    pub fn remove(&mut self, storage: &mut impl Linked, item: u16) {
        let Links { previous, next } = core::mem::replace(storage.links(item), Links::NONE);
        *self.link_after(storage, previous) = next;
        *self.link_before(storage, next) = previous;
    }

    /// The link that leads from `item` to the next; from the end of the list to its first.
    fn link_after<'l>(&'l mut self, storage: &'l mut impl Linked, item: u16) -> &'l mut u16 {
        match item {
            END => &mut self.first,
            item => &mut storage.links(item).next,
        }
    }

    /// The link that leads from `item` to the one before; from the end of the list to its last.
    fn link_before<'l>(&'l mut self, storage: &'l mut impl Linked, item: u16) -> &'l mut u16 {
        match item {
            END => &mut self.last,
            item => &mut storage.links(item).previous,
        }
    }

    /// All items in order, after a check that the links lead back as they lead on.
    #[cfg(test)]
    pub(crate) fn all(&self, links: impl Fn(u16) -> Links) -> std::vec::Vec<u16> {
        let (mut all, mut at, mut previous) = (std::vec::Vec::new(), self.first, END);
        while at != END {
            assert_eq!(links(at).previous, previous);
            assert!(all.len() < usize::from(END), "the list leads in a circle");
            all.push(at);
            (previous, at) = (at, links(at).next);
        }
        assert_eq!(self.last, previous);
        all
    }
}

#[cfg(test)]
extern crate std;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::VecDeque, vec, vec::Vec};

    impl Linked for Vec<Links> {
        fn links(&mut self, item: u16) -> &mut Links {
            &mut self[usize::from(item)]
        }
    }

    proptest! {
        #[test]
        fn a_list_is_a_queue_that_any_item_may_leave(
            moves in prop::collection::vec((0..16_u16, any::<bool>()), 0..200),
        ) {
            let (mut links, mut list) = (vec![Links::NONE; 16], List::EMPTY);
            let mut model = VecDeque::new();
            for (item, at_front) in moves {
                match (model.iter().position(|other| *other == item), at_front) {
                    (Some(at), _) => {
                        model.remove(at);
                        list.remove(&mut links, item);
                    }
                    (None, true) => {
                        model.push_front(item);
                        list.push_front(&mut links, item);
                    }
                    (None, false) => {
                        model.push_back(item);
                        list.push_back(&mut links, item);
                    }
                }
                prop_assert_eq!(list.first(), model.front().copied());
                let all = list.all(|item| links[usize::from(item)]);
                prop_assert!(all.iter().eq(&model));
            }
            while let Some(item) = list.first() {
                prop_assert_eq!(Some(item), model.pop_front());
                list.remove(&mut links, item);
            }
            prop_assert!(model.is_empty() && links.iter().all(|links| *links == Links::NONE));
        }
    }
}
