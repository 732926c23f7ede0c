//! The shared-module instance table: one parse for any number of instances.

use crate::{engine::ModuleId, wire::decode_chunks};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a module's bytes, taken before it is parsed: parsing rewrites the bytes.
pub type Digest = [u8; 32];

/// Digest of `bytes`.
pub fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Digest of what `text` is in base64, without a buffer for it.
///
/// # Errors
/// If `text` is not base64.
pub fn digest_base64(text: &str) -> Result<Digest, crate::wire::Error> {
    let mut hasher = Sha256::new();
    decode_chunks(text, |bytes| hasher.update(bytes))?;
    Ok(hasher.finalize().into())
}

/// Storage of one entry of the table.
#[derive(Debug, Clone, Copy)]
pub struct Entry(State);

impl Entry {
    /// A vacant entry.
    pub const VACANT: Self = Self(State::Vacant);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Vacant,
    Loaded {
        digest: Digest,
        /// Runs and latent deployments.
        users: u16,
    },
}

/// Which modules are loaded, and how many use each. Says nothing of where their bytes are:
/// the engine knows that by the same [`ModuleId`].
#[derive(Debug)]
pub(crate) struct Table<'a> {
    entries: &'a mut [Entry],
    /// Modules parsed since boot.
    parses: u32,
}

impl<'a> Table<'a> {
    /// `entries` is at most 256 long; what is beyond is not used.
    pub(crate) fn new(entries: &'a mut [Entry]) -> Self {
        entries.fill(Entry::VACANT);
        Self { entries, parses: 0 }
    }

    fn ids(&self) -> impl Iterator<Item = (ModuleId, State)> {
        (0..u16::MAX)
            .zip(self.entries.iter())
            .map(|(index, entry)| (ModuleId(index), entry.0))
    }

    fn state(&mut self, id: ModuleId) -> &mut State {
        &mut self.entries[usize::from(id.0)].0
    }

    pub(crate) fn capacity(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn parses(&self) -> u32 {
        self.parses
    }

    /// Modules that are loaded, and how many use each.
    pub(crate) fn users(&self) -> impl Iterator<Item = (ModuleId, Digest, u16)> {
        self.ids().filter_map(|(id, state)| match state {
            State::Loaded { digest, users } => Some((id, digest, users)),
            _ => None,
        })
    }

    /// Modules that are loaded.
    pub(crate) fn loaded(&self) -> usize {
        self.users().count()
    }

    /// Digest of a loaded module.
    pub(crate) fn digest(&self, id: ModuleId) -> Option<Digest> {
        match self.entries.get(usize::from(id.0))?.0 {
            State::Loaded { digest, .. } => Some(digest),
            State::Vacant => None,
        }
    }

    /// The loaded module with this digest.
    pub(crate) fn find(&self, digest: &Digest) -> Option<ModuleId> {
        self.ids().find_map(|(id, state)| match state {
            State::Loaded { digest: known, .. } if known == *digest => Some(id),
            _ => None,
        })
    }

    /// A vacant entry.
    pub(crate) fn vacant(&self) -> Option<ModuleId> {
        let (id, _) = self.ids().find(|(_, state)| *state == State::Vacant)?;
        Some(id)
    }

    /// Marks a vacant entry as parsed, with no users yet.
    pub(crate) fn loaded_as(&mut self, id: ModuleId, digest: Digest) {
        debug_assert_eq!(*self.state(id), State::Vacant);
        *self.state(id) = State::Loaded { digest, users: 0 };
        self.parses = self.parses.saturating_add(1);
    }

    /// Counts one more user of a loaded module.
    pub(crate) fn acquire(&mut self, id: ModuleId) {
        match self.state(id) {
            State::Loaded { users, .. } => *users += 1,
            state => debug_assert!(false, "acquired a module that is {state:?}"),
        }
    }

    /// Counts one user less and frees the entry if none is left; the caller unloads the module
    /// when told so. Also frees a loaded module that nobody has acquired.
    #[must_use = "a freed module must be unloaded"]
    pub(crate) fn release(&mut self, id: ModuleId) -> bool {
        let state = self.state(id);
        match state {
            State::Loaded { users, .. } if *users > 1 => {
                *users -= 1;
                false
            }
            State::Loaded { .. } => {
                *state = State::Vacant;
                true
            }
            State::Vacant => {
                debug_assert!(false, "released a module that is {state:?}");
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
        let mut entries = [Entry::VACANT; 2];
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
        let mut entries = [Entry::VACANT; 1];
        let mut table = Table::new(&mut entries);
        let id = table.vacant().unwrap();
        table.loaded_as(id, digest(b"module"));
        assert_eq!(table.vacant(), None);
        assert!(table.release(id));
        assert_eq!(table.vacant(), Some(id));
    }
}
