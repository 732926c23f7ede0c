//! Tasks that are noted in the store, and reports of those that a restart has interrupted.

use super::Supervisor;
use crate::{
    agent::noting::{Noted, Noting},
    engine::Engine,
    time::Instant,
};

impl<E: Engine> Supervisor<'_, E> {
    /// Notes the tasks whose moment has come, as many in one note as it has room for.
    #[inline(never)]
    pub(super) fn note_tasks(&mut self, now: Instant) {
        while let Some(slot) = self.tasks.next_to_note(now) {
            let id = self.tasks.id(slot);
            let note = match self.modules.store() {
                Some(store) => self.notes.open(store, id, now).map(|note| (store, note)),
                None => None,
            };
            let Some((store, mut note)) = note else {
                self.tasks.set_noting(slot, Noting::NEVER);
                continue;
            };
            while let Some(slot) = self.tasks.next_to_note(now)
                && note.push(self.tasks.id(slot))
            {
                self.tasks.set_noting(slot, Noting::in_note(note.index()));
            }
            if let Err(reason) = self.notes.write(store, &note) {
                log::error!("tasks that run now would not be reported after a restart: {reason}");
            }
        }
    }

    /// Takes a task out of its note, whose results have been delivered or given up.
    pub(in crate::agent) fn forget_note(&mut self, noted: &Noted) {
        if let Some(store) = self.modules.store() {
            self.notes.remove(store, noted);
        }
    }

    /// Takes tasks out of their notes whose results were given up because nobody was subscribed to them.
    pub(in crate::agent) fn sweep_notes(&mut self) {
        while let Some(note) = self.outbox.take_given_up() {
            let (tasks, outbox) = (&self.tasks, &self.outbox);
            let is_owed = |id: &str| tasks.is_noted(id, note) || outbox.is_noted(id, note);
            if let Some(store) = self.modules.store() {
                self.notes.sweep(store, note, is_owed);
            }
        }
    }

    /// Reports the tasks that a restart has interrupted, as far as the outbox has room.
    pub(in crate::agent) fn report_interrupted(&mut self, now: Instant) {
        if self.is_shutting_down || !self.notes.has_owed() || !self.outbox.takes_interrupted() {
            return;
        }
        let Some(store) = self.modules.store() else {
            return;
        };
        let outbox = &mut self.outbox;
        self.notes.post_owed(store, |note, id| {
            let is_posted = outbox.post_interrupted(id, note, now);
            if is_posted {
                log::warn!("task {id} was interrupted by the restart");
            }
            is_posted
        });
    }

    /// Whether a restart has interrupted a task of this id, and its report waits for room in the outbox.
    pub(super) fn is_owed(&mut self, id: &str) -> bool {
        if !self.notes.has_owed() {
            return false;
        }
        let store = self.modules.store();
        store.is_some_and(|store| self.notes.is_owed(store, id))
    }
}
