//! What the proplet knows, after a reboot, of the session that the broker keeps for it.

use super::noting::SESSION;
use crate::{
    config::{Config, SUBSCRIPTIONS_MAX},
    store::{NOTE_MAX, Store},
    text::{Text, text},
    wire::{List, Packer, TopicName, Topics},
};
use sha2::{Digest as _, Sha256};

/// Version of the note's form.
const VERSION: u8 = 1;

/// Bytes of an identity.
const IDENTITY: usize = 16;

/// Stands for the channel's prefix in a filter: no topic may have it.
const PREFIX: &str = "\0";

type Identity = [u8; IDENTITY];

/// Owner of the note of the broker's session.
///
/// The note is the version, the identity of the session (its broker, client, tenant and channel), and the
/// filters of guests to which the session may be subscribed: all of those, and perhaps some of which the
/// broker has been told the end. So it is written when a session is new and when a filter is, and hardly ever.
#[derive(Debug)]
pub(super) struct Session {
    /// Whether there is a note, so that the session outlives a reboot.
    is_noted: bool,
}

/// A note.
struct Note {
    bytes: [u8; NOTE_MAX],
    len: usize,
}

impl Note {
    /// A note without filters.
    fn new(identity: &Identity) -> Self {
        let mut note = Self {
            bytes: [0; NOTE_MAX],
            len: 1 + IDENTITY,
        };
        note.bytes[0] = VERSION;
        note.bytes[1..][..IDENTITY].copy_from_slice(identity);
        note
    }

    /// The note in the store, if it is of this identity.
    fn read(store: &mut dyn Store, identity: &Identity) -> Result<Option<Self>, Text> {
        let mut note = Self::new(identity);
        let Some(len) = store.read_note(SESSION, &mut note.bytes)? else {
            return Ok(None);
        };
        note.len = len;
        let (head, filters) = note.parts();
        if head.first() != Some(&VERSION) || List::from_bytes(filters).is_none() {
            return Err(text(format_args!("damaged, or of another version")));
        }
        if head[1..] != *identity {
            return Err(text(format_args!(
                "of another broker, proplet id, tenant or channel"
            )));
        }
        Ok(Some(note))
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let bytes = &self.bytes[..self.len];
        bytes.split_at_checked(1 + IDENTITY).unwrap_or_default()
    }

    fn filters(&self) -> List<'_> {
        List::from_bytes(self.parts().1).unwrap_or_default()
    }

    /// Adds a filter, unless it has that; false without room.
    fn add(&mut self, filter: &str, topics: &Topics) -> bool {
        let below = topics.strip(filter);
        let is_same = |noted: &str| match below {
            Some(rest) => noted.strip_prefix(PREFIX) == Some(rest),
            None => noted == filter,
        };
        let filters = self.filters();
        if filters.iter().any(is_same) {
            return true;
        }
        if filters.len() == SUBSCRIPTIONS_MAX {
            return false;
        }
        let (mark, rest) = below.map_or(("", filter), |rest| (PREFIX, rest));
        let mut packer = Packer::new(&mut self.bytes[self.len..]);
        packer.begin();
        packer.extend(mark.as_bytes());
        packer.extend(rest.as_bytes());
        let added = packer.end();
        self.len += packer.len();
        added.is_ok()
    }

    fn write(&self, store: &mut dyn Store) -> Result<(), Text> {
        store.write_note(SESSION, &self.bytes[..self.len])
    }
}

/// The filter that is noted so.
fn filter(noted: &str, topics: &Topics) -> Option<TopicName> {
    match noted.strip_prefix(PREFIX) {
        Some(rest) => topics.below(rest),
        None => TopicName::try_from(noted).ok(),
    }
}

fn identity(config: &Config<'_>) -> Identity {
    let mut hash = Sha256::new();
    for part in [
        config.broker_host,
        config.proplet_id,
        config.tenant,
        config.channel,
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(config.broker_port.to_le_bytes());
    let mut identity = Identity::default();
    identity.copy_from_slice(&hash.finalize()[..IDENTITY]);
    identity
}

impl Session {
    pub(super) const fn new() -> Self {
        Self { is_noted: false }
    }

    /// Whether the session outlives a reboot.
    pub(super) const fn is_noted(&self) -> bool {
        self.is_noted
    }

    /// Reads the note; `stale` gets each filter to which the session may be subscribed still.
    pub(super) fn restore(
        &mut self,
        store: &mut dyn Store,
        config: &Config<'_>,
        topics: &Topics,
        mut stale: impl FnMut(&TopicName),
    ) {
        let note = match Note::read(store, &identity(config)) {
            Ok(Some(note)) => note,
            Ok(None) => return,
            Err(reason) => {
                log::warn!("the note of the session with the broker is of no use: it is {reason}");
                return self.forget(store);
            }
        };
        self.is_noted = true;
        let filters = note.filters();
        filters
            .iter()
            .filter_map(|noted| filter(noted, topics))
            .for_each(|filter| stale(&filter));
    }

    /// Notes a new session, without filters.
    pub(super) fn begin(&mut self, store: &mut dyn Store, config: &Config<'_>) {
        self.keep(store, &Note::new(&identity(config)));
    }

    /// Notes that the session may be subscribed to `filter`, before it is; `active` are all to which it is to be
    /// subscribed.
    pub(super) fn subscribe<'f>(
        &mut self,
        store: &mut dyn Store,
        config: &Config<'_>,
        topics: &Topics,
        filter: &str,
        mut active: impl Iterator<Item = &'f str>,
    ) {
        if !self.is_noted {
            return;
        }
        let identity = identity(config);
        if let Ok(Some(mut note)) = Note::read(store, &identity)
            && note.add(filter, topics)
        {
            return self.keep(store, &note);
        }
        // Those that are in force have room, unless they are long.
        let mut note = Note::new(&identity);
        if active.all(|filter| note.add(filter, topics)) {
            return self.keep(store, &note);
        }
        log::warn!(
            "the subscriptions of guests are too long to be noted: a reboot ends the session with the broker"
        );
        self.forget(store);
    }

    fn keep(&mut self, store: &mut dyn Store, note: &Note) {
        let written = note.write(store);
        if let Err(reason) = &written {
            log::warn!("the session with the broker does not outlive a reboot: {reason}");
        }
        self.is_noted = written.is_ok();
    }

    fn forget(&mut self, store: &mut dyn Store) {
        self.is_noted = false;
        if let Err(reason) = store.remove_note(SESSION) {
            log::warn!("the note of the session with the broker stays: {reason}");
        }
    }
}
