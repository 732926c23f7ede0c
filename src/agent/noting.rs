//! The place of a task in the notes of the store, as the owners hand it to each other.

use crate::wire::Id;

/// The note of the session with the broker. All others are of tasks.
pub(super) const SESSION: u8 = 0;

/// State of a task with regard to the notes, in a byte: the note that has it, if one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noting(u8);

impl Noting {
    /// It is noted when its moment comes.
    pub(super) const AWAITED: Self = Self(SESSION);
    /// It is not noted. There are 255 notes at most, from 0 on.
    pub(super) const NEVER: Self = Self(u8::MAX);

    pub(super) const fn in_note(index: u8) -> Self {
        Self(index)
    }

    /// The note that has the task.
    pub(super) const fn note(self) -> Option<u8> {
        match self {
            Self::AWAITED | Self::NEVER => None,
            Self(index) => Some(index),
        }
    }
}

/// Notes: a bit for each.
#[derive(Debug, Default)]
pub(super) struct NoteSet([u32; 8]);

impl NoteSet {
    pub(super) fn has(&self, note: u8) -> bool {
        self.0[usize::from(note / 32)] >> (note % 32) & 1 == 1
    }

    pub(super) fn set(&mut self, note: u8, bit: bool) {
        let mask = 1 << (note % 32);
        let word = &mut self.0[usize::from(note / 32)];
        *word = if bit { *word | mask } else { *word & !mask };
    }

    /// Takes the first of them out.
    pub(super) fn take_first(&mut self) -> Option<u8> {
        let first = (0..=u8::MAX)
            .step_by(32)
            .zip(&mut self.0)
            .find(|(_, word)| **word != 0);
        let (begin, word) = first?;
        let bit = word.trailing_zeros() as u8;
        *word &= *word - 1;
        Some(begin + bit)
    }
}

/// A task in a note whose results need no longer be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) note: u8,
    pub(super) task: Id,
}
