//! A binary min-heap of items that are numbered from 0, over memory of its user.
//!
//! The user keeps for each item its key, its position in the heap and one entry of the heap, 4 bytes
//! beside the key. Nothing is allocated. [`first`](Heap::first) is O(1), everything else O(log n) of
//! the items that are in the heap.

/// Position of an item that is in no heap.
pub const ABSENT: u16 = u16::MAX;

/// The memory of a heap, and the operations on it. Items are below [`ABSENT`]; the order of equal
/// keys is any.
pub trait Heap {
    /// The key of an item. It changes only while the item is absent, or before
    /// [`update`](Self::update).
    fn key(&self, item: u16) -> u64;

    /// Position of an item as last [set](Self::set_position); [`ABSENT`] at first.
    fn position(&self, item: u16) -> u16;

    /// Keeps the position of an item.
    fn set_position(&mut self, item: u16, position: u16);

    /// The item of an entry as last [set](Self::set_entry); entries are numbered as items are.
    fn entry(&self, position: u16) -> u16;

    /// Keeps the item of an entry.
    fn set_entry(&mut self, position: u16, item: u16);

    /// Number of items in the heap as last [set](Self::set_count); 0 at first.
    fn count(&self) -> u16;

    /// Keeps the number of items in the heap.
    fn set_count(&mut self, count: u16);

    /// The item of the least key.
    fn first(&self) -> Option<u16> {
        (self.count() > 0).then(|| self.entry(0))
    }

    /// Whether an item is in the heap.
    fn contains(&self, item: u16) -> bool {
        self.position(item) != ABSENT
    }

    /// Adds an absent item.
    fn insert(&mut self, item: u16) {
        debug_assert!(!self.contains(item));
        let last = self.count();
        self.set_count(last + 1);
        rise(self, last, item);
    }

    /// Takes an item out; nothing if it is absent.
    fn remove(&mut self, item: u16) {
        let position = self.position(item);
        if position == ABSENT {
            return;
        }
        self.set_position(item, ABSENT);
        let last = self.count() - 1;
        self.set_count(last);
        if position != last {
            settle(self, position, self.entry(last));
        }
    }

    /// Moves an item whose key has changed to its place; nothing if it is absent.
    fn update(&mut self, item: u16) {
        let position = self.position(item);
        if position != ABSENT {
            settle(self, position, item);
        }
    }
}

fn put<H: Heap + ?Sized>(heap: &mut H, position: u16, item: u16) {
    heap.set_entry(position, item);
    heap.set_position(item, position);
}

/// Puts an item in an entry that is free, or in one above or below it.
fn settle<H: Heap + ?Sized>(heap: &mut H, position: u16, item: u16) {
    let position = sink(heap, position, item);
    rise(heap, position, item);
}

/// Puts an item in an entry that is free, or in one above it.
fn rise<H: Heap + ?Sized>(heap: &mut H, mut position: u16, item: u16) {
    let key = heap.key(item);
    while position > 0 {
        let above = (position - 1) / 2;
        let parent = heap.entry(above);
        if heap.key(parent) <= key {
            break;
        }
        put(heap, position, parent);
        position = above;
    }
    put(heap, position, item);
}

/// Moves smaller items up from below a free entry; returns the entry that is free then.
fn sink<H: Heap + ?Sized>(heap: &mut H, mut position: u16, item: u16) -> u16 {
    let (key, count) = (heap.key(item), u32::from(heap.count()));
    loop {
        let below = 2 * u32::from(position) + 1;
        // Below `count`, a u16.
        let children = (below..count.min(below + 2)).map(|child| child as u16);
        let Some(child) = children.min_by_key(|child| heap.key(heap.entry(*child))) else {
            return position;
        };
        let least = heap.entry(child);
        if key <= heap.key(least) {
            return position;
        }
        put(heap, position, least);
        position = child;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, vec, vec::Vec};

    struct Items {
        keys: Vec<u64>,
        positions: Vec<u16>,
        entries: Vec<u16>,
        count: u16,
    }

    impl Items {
        fn new(items: u16) -> Self {
            Self {
                keys: vec![0; items.into()],
                positions: vec![ABSENT; items.into()],
                entries: vec![ABSENT; items.into()],
                count: 0,
            }
        }

        fn add(&mut self, item: u16, key: u64) {
            self.keys[usize::from(item)] = key;
            self.insert(item);
        }

        fn check(&self) {
            for position in 0..self.count {
                let item = self.entry(position);
                assert_eq!(self.position(item), position);
                let above = self.entry(position.saturating_sub(1) / 2);
                assert!(self.key(above) <= self.key(item));
            }
            let present = self.positions.iter().filter(|p| **p != ABSENT).count();
            assert_eq!(present, usize::from(self.count));
        }
    }

    impl Heap for Items {
        fn key(&self, item: u16) -> u64 {
            self.keys[usize::from(item)]
        }

        fn position(&self, item: u16) -> u16 {
            self.positions[usize::from(item)]
        }

        fn set_position(&mut self, item: u16, position: u16) {
            self.positions[usize::from(item)] = position;
        }

        fn entry(&self, position: u16) -> u16 {
            self.entries[usize::from(position)]
        }

        fn set_entry(&mut self, position: u16, item: u16) {
            self.entries[usize::from(position)] = item;
        }

        fn count(&self) -> u16 {
            self.count
        }

        fn set_count(&mut self, count: u16) {
            self.count = count;
        }
    }

    #[test]
    fn an_empty_heap_has_nothing() {
        let mut heap = Items::new(2);
        assert_eq!(heap.first(), None);
        assert!(!heap.contains(1));
        heap.remove(1);
        heap.update(1);
        heap.check();
    }

    #[test]
    fn items_come_in_the_order_of_their_keys() {
        let mut heap = Items::new(6);
        for (item, key) in [(3, 70), (1, 30), (5, 50), (0, 10), (4, 90)] {
            heap.add(item, key);
        }
        heap.keys[4] = 20;
        heap.update(4);
        heap.keys[0] = 60;
        heap.update(0);
        heap.remove(1);
        let order: Vec<u16> = std::iter::from_fn(|| {
            let first = heap.first()?;
            heap.remove(first);
            Some(first)
        })
        .collect();
        assert_eq!(order, [4, 5, 0, 3]);
    }

    #[test]
    fn as_many_items_as_a_u16_numbers() {
        let mut heap = Items::new(ABSENT);
        for item in 0..ABSENT {
            heap.add(item, u64::from(item.wrapping_mul(40_503)));
        }
        heap.check();
        let mut before = 0;
        for _ in 0..ABSENT {
            let first = heap.first().expect("an item is left");
            assert!(heap.key(first) >= before);
            before = heap.key(first);
            heap.remove(first);
        }
        assert_eq!((heap.first(), heap.count), (None, 0));
    }

    proptest! {
        /// Against a map, with few distinct keys and with many.
        #[test]
        fn the_first_is_the_least(
            steps in prop::collection::vec((0..24_u16, 0..3_u8, 0..40_u64), 0..400),
        ) {
            let mut heap = Items::new(24);
            let mut expected = BTreeMap::new();
            for (item, step, key) in steps {
                match (step, heap.contains(item)) {
                    (0 | 1, false) => {
                        heap.add(item, key);
                        expected.insert(item, key);
                    }
                    (1, true) => {
                        heap.keys[usize::from(item)] = key;
                        heap.update(item);
                        expected.insert(item, key);
                    }
                    _ => {
                        heap.remove(item);
                        expected.remove(&item);
                    }
                }
                heap.check();
                prop_assert_eq!(heap.contains(item), expected.contains_key(&item));
                let least = expected.values().min().copied();
                prop_assert_eq!(heap.first().map(|first| heap.key(first)), least);
            }
        }
    }
}
