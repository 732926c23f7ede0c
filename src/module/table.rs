//! The shared-module instance table: one parse for any number of instances.

use crate::{collections::chain::Chains, engine::ModuleId};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a module's bytes, taken before it is parsed: parsing rewrites the bytes.
pub type Digest = [u8; 32];

/// Digest of `bytes`.
pub fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Stands for no entry.
const NONE: u16 = crate::collections::chain::END;

/// Storage of one entry of the table.
#[derive(Debug, Clone, Copy)]
pub struct ModuleEntry {
    state: State,
    /// The first module of those whose bucket is this entry's.
    bucket: u16,
    /// The next module of the same bucket, or the next vacant entry.
    next: u16,
}

impl ModuleEntry {
    /// A vacant entry.
    pub const VACANT: Self = Self {
        state: State::Vacant,
        bucket: NONE,
        next: NONE,
    };
}

impl Chains for [ModuleEntry] {
    fn first(&mut self, bucket: usize) -> &mut u16 {
        &mut self[bucket].bucket
    }

    fn next(&mut self, item: u16) -> &mut u16 {
        &mut self[usize::from(item)].next
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Vacant,
    Loaded {
        digest: Digest,
        /// Runs and latent deployments.
        users: u32,
    },
}

/// Which modules are loaded, and how many use each. Says nothing of where their bytes are:
/// the engine knows that by the same [`ModuleId`]. No operation depends on the number of modules,
/// but for a walk of those whose digests share a bucket.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    entries: &'a mut [ModuleEntry],
    /// The first vacant entry.
    vacant: u16,
    loaded: u16,
    /// Modules parsed since boot.
    parses: u32,
}

impl<'a> Table<'a> {
    /// The first 65,534 of `entries` are used.
    pub(crate) fn new(entries: &'a mut [ModuleEntry]) -> Self {
        let count = entries.len().min(usize::from(NONE - 1));
        let entries = &mut entries[..count];
        // The last has no next; `count` is below NONE.
        for (index, entry) in entries.iter_mut().enumerate() {
            let next = if index + 1 < count {
                index as u16 + 1
            } else {
                NONE
            };
            *entry = ModuleEntry {
                next,
                ..ModuleEntry::VACANT
            };
        }
        Self {
            vacant: if count > 0 { 0 } else { NONE },
            entries,
            loaded: 0,
            parses: 0,
        }
    }

    fn entry(&mut self, id: ModuleId) -> &mut ModuleEntry {
        &mut self.entries[usize::from(id.0)]
    }

    /// The entry that has the bucket of a digest. Digests are evenly spread.
    fn bucket(&self, digest: &Digest) -> usize {
        let start = u16::from_le_bytes([digest[0], digest[1]]);
        usize::from(start) % self.entries.len().max(1)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn parses(&self) -> u32 {
        self.parses
    }

    /// Modules that are loaded, and how many use each. Looks at all entries.
    pub(crate) fn users(&self) -> impl Iterator<Item = (ModuleId, Digest, u32)> {
        let all = (0..).map(ModuleId).zip(self.entries.iter());
        all.filter_map(|(id, entry)| match entry.state {
            State::Loaded { digest, users } => Some((id, digest, users)),
            State::Vacant => None,
        })
    }

    /// Modules that are loaded.
    pub(crate) fn loaded(&self) -> usize {
        self.loaded.into()
    }

    /// Digest of a loaded module.
    pub(crate) fn digest(&self, id: ModuleId) -> Option<Digest> {
        match self.entries.get(usize::from(id.0))?.state {
            State::Loaded { digest, .. } => Some(digest),
            State::Vacant => None,
        }
    }

    /// The loaded module with this digest.
    pub(crate) fn find(&self, digest: &Digest) -> Option<ModuleId> {
        let mut at = self.entries.get(self.bucket(digest))?.bucket;
        loop {
            let entry = self.entries.get(usize::from(at))?;
            match entry.state {
                State::Loaded { digest: known, .. } if known == *digest => {
                    return Some(ModuleId(at));
                }
                _ => at = entry.next,
            }
        }
    }

    /// A vacant entry.
    pub(crate) fn vacant(&self) -> Option<ModuleId> {
        (self.vacant != NONE).then_some(ModuleId(self.vacant))
    }

    /// Marks the [vacant](Self::vacant) entry as parsed, with no users yet.
    pub(crate) fn loaded_as(&mut self, id: ModuleId, digest: Digest) {
        debug_assert_eq!(id.0, self.vacant);
        let bucket = self.bucket(&digest);
        self.vacant = self.entry(id).next;
        self.entry(id).state = State::Loaded { digest, users: 0 };
        self.entries.add(bucket, id.0);
        self.loaded += 1;
        self.parses = self.parses.saturating_add(1);
    }

    fn free(&mut self, id: ModuleId, digest: &Digest) {
        let bucket = self.bucket(digest);
        self.entries.take_out(bucket, id.0);
        let vacant = core::mem::replace(&mut self.vacant, id.0);
        let entry = self.entry(id);
        (entry.state, entry.next) = (State::Vacant, vacant);
        self.loaded -= 1;
    }

    /// Counts one more user of a loaded module.
    pub(crate) fn acquire(&mut self, id: ModuleId) {
        match &mut self.entry(id).state {
            State::Loaded { users, .. } => *users += 1,
            State::Vacant => debug_assert!(false, "acquired a module that is not loaded"),
        }
    }

    /// Counts one user less and frees the entry if none is left; the caller unloads the module
    /// when told so. Also frees a loaded module without users.
    #[must_use = "a freed module must be unloaded"]
    pub(crate) fn release(&mut self, id: ModuleId) -> bool {
        match &mut self.entry(id).state {
            State::Loaded { users, .. } if *users > 1 => {
                *users -= 1;
                false
            }
            State::Loaded { digest, .. } => {
                let digest = *digest;
                self.free(id, &digest);
                true
            }
            State::Vacant => {
                debug_assert!(false, "released a module that is not loaded");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_parse_serves_all_users_and_the_last_frees() {
        let mut entries = [ModuleEntry::VACANT; 2];
        let mut table = Table::new(&mut entries);
        let digest = digest(b"module");
        assert_eq!(table.find(&digest), None);

        let id = table.vacant().unwrap();
        table.loaded_as(id, digest);
        for _ in 0..24 {
            assert_eq!(table.find(&digest), Some(id));
            table.acquire(id);
        }
        assert_eq!((table.parses(), table.loaded()), (1, 1));
        for _ in 0..23 {
            assert!(!table.release(id));
        }
        assert!(table.release(id));
        assert_eq!(table.find(&digest), None);
        assert_eq!(table.loaded(), 0);
    }

    #[test]
    fn a_full_table_has_no_vacancy() {
        let mut entries = [ModuleEntry::VACANT; 1];
        let mut table = Table::new(&mut entries);
        let id = table.vacant().unwrap();
        table.loaded_as(id, digest(b"module"));
        assert_eq!(table.vacant(), None);
        assert!(table.release(id));
        assert_eq!(table.vacant(), Some(id));
    }

    #[test]
    fn modules_of_one_bucket_are_told_apart() {
        extern crate std;
        // All digests begin alike, so they share a bucket, and differ at the end.
        let digest = |n: u8| {
            let mut digest = [7; 32];
            digest[31] = n;
            digest
        };
        let mut entries = [ModuleEntry::VACANT; 8];
        let mut table = Table::new(&mut entries);
        let ids: std::vec::Vec<_> = (0..8)
            .map(|n| {
                let id = table.vacant().unwrap();
                table.loaded_as(id, digest(n));
                id
            })
            .collect();
        for out in [3, 0, 7, 5, 1, 6, 2, 4] {
            assert_eq!(table.find(&digest(out)), Some(ids[usize::from(out)]));
            assert!(table.release(ids[usize::from(out)]));
            assert_eq!(table.find(&digest(out)), None);
            let found = (0..8).filter(|n| table.find(&digest(*n)).is_some()).count();
            assert_eq!(found, table.loaded());
        }
        assert_eq!(table.loaded(), 0);
    }

    /// 65,534 tasks and 256 deployments may share one.
    #[test]
    fn a_module_has_as_many_users_as_there_may_be() {
        let mut entries = [ModuleEntry::VACANT; 2];
        let mut table = Table::new(&mut entries);
        let id = table.vacant().unwrap();
        table.loaded_as(id, digest(b"module"));
        let users = 65_534 + 256;
        for _ in 0..users {
            table.acquire(id);
        }
        for _ in 1..users {
            assert!(!table.release(id));
        }
        assert!(table.release(id));
    }
}
