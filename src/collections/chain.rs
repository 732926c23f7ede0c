//! Chains of numbered items whose hashes share a bucket, linked through the memory of their user.

/// Ends a chain.
pub(crate) const END: u16 = u16::MAX;

/// The memory of some chains. To add an item is O(1), to take one out O(n) of those of its bucket.
pub(crate) trait Chains {
    /// The first item of a bucket; [`END`] at first.
    fn first(&mut self, bucket: usize) -> &mut u16;

    /// The item behind an item.
    fn next(&mut self, item: u16) -> &mut u16;

    /// Adds an item that is in no chain.
    fn add(&mut self, bucket: usize, item: u16) {
        let next = core::mem::replace(self.first(bucket), item);
        *self.next(item) = next;
    }

    /// Takes an item out of the chain that it is in; nothing if it is in another.
    fn take_out(&mut self, bucket: usize, item: u16) {
        let next = *self.next(item);
        let mut link = self.first(bucket);
        while *link != item && *link != END {
            let other = *link;
            link = self.next(other);
        }
        if *link == item {
            *link = next;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::{vec, vec::Vec};

    impl Chains for (Vec<u16>, Vec<u16>) {
        fn first(&mut self, bucket: usize) -> &mut u16 {
            &mut self.0[bucket]
        }

        fn next(&mut self, item: u16) -> &mut u16 {
            &mut self.1[usize::from(item)]
        }
    }

    #[test]
    fn items_leave_from_anywhere() {
        for out in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            let mut chains = (vec![END; 2], vec![END; 4]);
            chains.add(1, 3);
            (0..3).for_each(|item| chains.add(0, item));
            for (left, item) in [2, 1, 0].into_iter().zip(out) {
                chains.take_out(0, item);
                let mut at = *chains.first(0);
                let mut count = 0;
                while at != END {
                    assert_ne!(at, item);
                    at = *chains.next(at);
                    count += 1;
                }
                assert_eq!(count, left);
            }
            assert_eq!(*chains.first(1), 3);
        }
    }
}
