//! Tasks that are noted in the store until their results are delivered: what a restart interrupts is reported
//! after it. Nothing else knows how that is stored.
//!
//! A note has the ids of several tasks: a version, the number of those that an earlier boot has left, which come
//! first, and the ids as a [`List`]. That number holds once this boot has written the note; before that all of them
//! are an earlier boot's. So a task costs a write of a note when it is noted and one when its results are delivered,
//! and the memory beside is a bit or two for each note.

use super::noting::{NoteSet, Noted, SESSION};
use crate::{
    store::{NOTE_MAX, Store},
    text::{Text, text},
    time::{Duration, Instant},
    wire::{ID_MAX, List, Packer},
};

/// The first note of tasks.
const FIRST: u8 = SESSION + 1;

/// Version of the form.
const VERSION: u8 = 1;
const OWED_AT: usize = 1;
/// Bytes before the ids.
const HEAD: usize = 2;
/// Bytes before each id.
const LEN: usize = 2;

/// Time from a warning that the notes are full to the next.
const FULL_AGAIN: Duration = Duration::from_secs(60);

/// A note's content, while it is read or changed.
pub(super) struct Note {
    index: u8,
    len: usize,
    bytes: [u8; NOTE_MAX],
}

impl Note {
    const fn empty(index: u8) -> Self {
        let mut bytes = [0; NOTE_MAX];
        bytes[0] = VERSION;
        let len = HEAD;
        Self { index, len, bytes }
    }

    pub(super) const fn index(&self) -> u8 {
        self.index
    }

    fn ids(&self) -> List<'_> {
        List::from_bytes(&self.bytes[HEAD..self.len]).unwrap_or_default()
    }

    /// Whether it is a note, of this version.
    fn is_valid(&self) -> bool {
        let ids = self.bytes.get(HEAD..self.len).and_then(List::from_bytes);
        let is_id = |id: &str| (1..=ID_MAX).contains(&id.len());
        self.bytes[0] == VERSION && ids.is_some_and(|ids| ids.iter().all(is_id))
    }

    /// The ids that an earlier boot has left.
    fn owed(&self) -> impl Iterator<Item = &str> {
        self.ids().iter().take(self.bytes[OWED_AT].into())
    }

    /// Adds an id behind the others; false without room.
    pub(super) fn push(&mut self, id: &str) -> bool {
        let mut packer = Packer::new(&mut self.bytes[self.len..]);
        let pushed = packer.push(id);
        self.len += packer.len();
        pushed.is_ok()
    }

    /// Takes an id out, and returns how many were before it.
    fn remove(&mut self, id: &str) -> Option<u8> {
        let place = self.ids().iter().position(|other| other == id)?;
        // A note has room for fewer than 256.
        let place = place as u8;
        self.remove_at(place);
        Some(place)
    }

    fn remove_at(&mut self, place: u8) {
        let lens = || self.ids().iter().map(|id| LEN + id.len());
        let at = HEAD + lens().take(place.into()).sum::<usize>();
        let len = lens().nth(place.into()).unwrap_or_default();
        self.bytes.copy_within(at + len..self.len, at);
        self.len -= len;
        self.bytes[OWED_AT] -= u8::from(place < self.bytes[OWED_AT]);
    }
}

/// Knows which notes have what.
#[derive(Debug)]
pub(super) struct Notes {
    /// Notes of the store, the session's included.
    count: u8,
    /// Those that this boot has written.
    written: NoteSet,
    /// Those in which an id found no room.
    full: NoteSet,
    /// The first note with ids of an earlier boot that are not posted yet, if it is below `count`; and how many of
    /// it are.
    next: (u8, u8),
    /// Until when no more is said of full notes.
    silent_until: Instant,
}

impl Notes {
    /// With the notes that `store` has, which an earlier boot may have left.
    pub(super) fn new(store: Option<&dyn Store>) -> Self {
        Self {
            count: store.map_or(0, Store::notes),
            written: NoteSet::default(),
            full: NoteSet::default(),
            next: (FIRST, 0),
            silent_until: Instant::BOOT,
        }
    }

    /// Whether there are notes for tasks.
    pub(super) const fn has_room(&self) -> bool {
        self.count > FIRST
    }

    /// Whether ids that an earlier boot has left are not posted yet, as far as is known without reading.
    pub(super) const fn has_owed(&self) -> bool {
        self.next.0 < self.count
    }

    /// Posts, by `post`, what an earlier boot has left, until that returns false. A note that is damaged, or of
    /// another version, is logged and removed.
    pub(super) fn post_owed(
        &mut self,
        store: &mut dyn Store,
        mut post: impl FnMut(u8, &str) -> bool,
    ) {
        while self.has_owed() {
            let (index, posted) = &mut self.next;
            let note = load(&self.written, store, *index);
            let note = note.unwrap_or_else(|reason| {
                discard(store, *index, &reason);
                self.full.set(*index, false);
                Note::empty(*index)
            });
            for id in note.owed().skip((*posted).into()) {
                if !post(*index, id) {
                    return;
                }
                *posted += 1;
            }
            self.next = (*index + 1, 0);
        }
    }

    /// Whether an earlier boot has left this id, and it is not posted yet. Reads the notes of such ids.
    pub(super) fn is_owed(&self, store: &mut dyn Store, id: &str) -> bool {
        let (first, posted) = self.next;
        (first..self.count).any(|index| {
            let skipped = if index == first { posted } else { 0 };
            load(&self.written, store, index)
                .is_ok_and(|note| note.owed().skip(skipped.into()).any(|owed| owed == id))
        })
    }

    /// A note with room for `id`, which is to be added and [written](Self::write). `None` if all are full, of which
    /// the log has a warning now and then.
    pub(super) fn open(&mut self, store: &mut dyn Store, id: &str, now: Instant) -> Option<Note> {
        for index in FIRST..self.count {
            if self.full.has(index) {
                continue;
            }
            match load(&self.written, store, index) {
                Ok(note) if note.len + LEN + id.len() <= NOTE_MAX => return Some(note),
                Ok(_) => {}
                // It may be readable after a restart.
                Err(reason) => log::error!("note {index} gets no tasks: {reason}"),
            }
            self.full.set(index, true);
        }
        if now >= self.silent_until {
            self.silent_until = now + FULL_AGAIN;
            log::warn!(
                "task {id} would not be reported after a restart: the {} notes of the store for that are full",
                self.count - FIRST
            );
        }
        None
    }

    /// Writes a note, or removes it if it has no ids.
    ///
    /// # Errors
    /// The reason as text, if the medium fails; what was there is there still.
    pub(super) fn write(&mut self, store: &mut dyn Store, note: &Note) -> Result<(), Text> {
        match note.len {
            HEAD => store.remove_note(note.index)?,
            len => store.write_note(note.index, &note.bytes[..len])?,
        }
        self.written.set(note.index, true);
        Ok(())
    }

    /// Takes a task out of its note.
    pub(super) fn remove(&mut self, store: &mut dyn Store, noted: &Noted) {
        if let Err(reason) = self.try_remove(store, noted) {
            log::error!(
                "task {} will be reported as interrupted after a restart, though its results were delivered: {reason}",
                noted.task
            );
        }
    }

    /// Takes those tasks out of a note that `is_owed` does not tell of; ids that an earlier boot has left stay until
    /// they are posted.
    pub(super) fn sweep(
        &mut self,
        store: &mut dyn Store,
        index: u8,
        is_owed: impl Fn(&str) -> bool,
    ) {
        // One that can't be read has been complained of, or is at the next boot.
        let Ok(mut note) = load(&self.written, store, index) else {
            return;
        };
        let before = note.len;
        while let Some(place) = self.first_gone(&note, &is_owed) {
            note.remove_at(place);
            self.removed(index, place);
        }
        if note.len < before
            && let Err(reason) = self.write(store, &note)
        {
            log::error!(
                "tasks that have ended will be reported as interrupted after a restart: {reason}"
            );
        }
    }

    /// The place of the first task that is neither owed nor left by an earlier boot and not posted yet.
    fn first_gone(&self, note: &Note, is_owed: impl Fn(&str) -> bool) -> Option<u8> {
        let (next, posted) = self.next;
        let is_unposted = |place: u8| {
            let is_next = note.index == next && place >= posted;
            place < note.bytes[OWED_AT] && (note.index > next || is_next)
        };
        let mut ids = (0..=u8::MAX).zip(note.ids().iter());
        let gone = ids.find(|(place, id)| !is_unposted(*place) && !is_owed(id));
        gone.map(|(place, _)| place)
    }

    /// Takes note of a task that was taken out of a note.
    fn removed(&mut self, index: u8, place: u8) {
        self.full.set(index, false);
        let (next, posted) = &mut self.next;
        *posted -= u8::from(*next == index && place < *posted);
    }

    fn try_remove(&mut self, store: &mut dyn Store, noted: &Noted) -> Result<(), Text> {
        let mut note = load(&self.written, store, noted.note)?;
        let Some(place) = note.remove(&noted.task) else {
            return Ok(());
        };
        self.write(store, &note)?;
        self.removed(noted.note, place);
        Ok(())
    }
}

/// Reads a note, which is empty if it is not there.
///
/// # Errors
/// It can't be read, is damaged, or of another version.
fn load(written: &NoteSet, store: &mut dyn Store, index: u8) -> Result<Note, Text> {
    let mut note = Note::empty(index);
    let Some(len) = store.read_note(index, &mut note.bytes)? else {
        return Ok(note);
    };
    note.len = len;
    if !note.is_valid() {
        return Err(text(format_args!("it is damaged, or of another version")));
    }
    if !written.has(index) {
        // A note has room for fewer than 256.
        note.bytes[OWED_AT] = note.ids().len() as u8;
    }
    Ok(note)
}

/// Removes a note that is of no use.
fn discard(store: &mut dyn Store, index: u8, reason: &Text) {
    log::error!("note {index}, of tasks that ran before the restart, is removed: {reason}");
    if let Err(reason) = store.remove_note(index) {
        log::error!("note {index} stays in the store: {reason}");
    }
}

const _: () = assert!(
    (NOTE_MAX - HEAD) / (LEN + 1) < 256,
    "the ids of a note are counted in a byte"
);

#[cfg(test)]
mod tests;
