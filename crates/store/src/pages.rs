//! The flash as `sequential-storage` sees it: pages that are two words shorter, whose erasure
//! survives a loss of power.
//!
//! `sequential-storage` fills pages in a circle and keeps one erased ahead. To gain the next one,
//! it copies what is alive in the oldest page to the page in use, then erases the oldest. Cut off,
//! it can't tell a copy that is incomplete (the old page is needed, the copy must go) from an
//! erasure that is (the copy is needed, the old page holds anything at all). So each page ends in
//! two words of ours, written once in its life: that the page after it is about to be erased, and
//! that it has been.

use core::{fmt, ops::Range};
use embedded_storage::nor_flash::NorFlash;
use embedded_storage_async::nor_flash as nor_async;

/// State that [`Pages::recover`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    /// All is erased.
    Blank,
    /// As it was left.
    Whole,
    /// Something was cut off: pages were erased that had to be, or the next write copies a page
    /// again.
    Repaired,
    /// No cut leaves pages like that.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Erased.
    Open,
    /// In use.
    Partial,
    /// Full.
    Closed,
}

/// Pages of `F` without their last two words.
pub(crate) struct Pages<F>(F);

impl<F> fmt::Debug for Pages<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl<F> Pages<F> {
    pub(crate) const fn new(flash: F) -> Self {
        Self(flash)
    }
}

impl<F: NorFlash> Pages<F> {
    /// Bytes that are read and written at once.
    pub(crate) const WORD: usize = if F::READ_SIZE > F::WRITE_SIZE {
        F::READ_SIZE
    } else {
        F::WRITE_SIZE
    };
    /// Bytes of a page without our words.
    pub(crate) const SIZE: usize = F::ERASE_SIZE - 2 * Self::WORD;
    const FIRST_MARK: usize = 0;
    const LAST_MARK: usize = Self::SIZE - Self::WORD;
    const ERASING: usize = Self::SIZE;
    const ERASED: usize = Self::SIZE + Self::WORD;

    /// Whole pages of the flash.
    pub(crate) fn count(&self) -> usize {
        self.0.capacity() / F::ERASE_SIZE
    }

    /// The addresses that `sequential-storage` is to use.
    pub(crate) fn range(&self) -> Range<u32> {
        0..(self.count() * Self::SIZE) as u32
    }

    fn previous(&self, page: usize) -> usize {
        page.checked_sub(1).unwrap_or(self.count() - 1)
    }

    fn address(page: usize, offset: usize) -> u32 {
        (page * F::ERASE_SIZE + offset) as u32
    }

    /// Address in the flash of an address in [`range`](Self::range).
    fn translate(virtual_address: u32) -> u32 {
        let at = virtual_address as usize;
        Self::address(at / Self::SIZE, at % Self::SIZE)
    }

    /// Bits of the word at `offset` that are not erased.
    fn written_bits(&mut self, page: usize, offset: usize) -> Result<u32, F::Error> {
        let mut word = [0; WORD_MAX];
        let word = &mut word[..Self::WORD];
        self.0.read(Self::address(page, offset), word)?;
        Ok(word.iter().map(|byte| byte.count_zeros()).sum())
    }

    fn mark(&mut self, page: usize, offset: usize) -> Result<(), F::Error> {
        let zeros = Zeros([0; WORD_MAX]);
        self.0
            .write(Self::address(page, offset), &zeros.0[..Self::WORD])
    }

    /// As `sequential-storage` sees it through [`read`](nor_async::ReadNorFlash::read).
    fn state(&mut self, page: usize) -> Result<State, F::Error> {
        let first = self.written_bits(page, Self::FIRST_MARK)? >= MARK_BITS;
        let last = self.written_bits(page, Self::LAST_MARK)? > 0;
        Ok(match (first, last) {
            (false, _) => State::Open,
            (true, false) => State::Partial,
            (true, true) => State::Closed,
        })
    }

    /// Whether all bytes of `page`, our words too, are `byte`.
    fn is_all(&mut self, page: usize, byte: u8, buffer: &mut [u8]) -> Result<bool, F::Error> {
        let mut offset = 0;
        while offset < F::ERASE_SIZE {
            let len = (buffer.len() / Self::WORD * Self::WORD).min(F::ERASE_SIZE - offset);
            self.0
                .read(Self::address(page, offset), &mut buffer[..len])?;
            if buffer[..len].iter().any(|other| *other != byte) {
                return Ok(false);
            }
            offset += len;
        }
        Ok(true)
    }

    /// Whether `page` is what a write or an erasure has left that was cut off: begun, and not in use;
    /// or all zeros, which some chips write before they erase. No page in use is: it has an item. What
    /// else an erasure leaves that was not noted may look like a page in use.
    fn is_torn(&mut self, page: usize, buffer: &mut [u8]) -> Result<bool, F::Error> {
        match self.state(page)? {
            State::Open => Ok(!self.is_all(page, 0xff, buffer)?),
            State::Partial => Ok(false),
            State::Closed => self.is_all(page, 0, buffer),
        }
    }

    /// Whether the erasure of the page after this one began and did not come to its end. The page
    /// in use alone can say so: it is closed only after that.
    fn is_erasing_next(&mut self, page: usize) -> Result<bool, F::Error> {
        Ok(self.state(page)? == State::Partial
            && self.written_bits(page, Self::ERASING)? >= MARK_BITS
            && self.written_bits(page, Self::ERASED)? == 0)
    }

    fn erase_page(&mut self, page: usize) -> Result<(), F::Error> {
        self.0
            .erase(Self::address(page, 0), Self::address(page + 1, 0))
    }

    /// Erases `page`, of which nothing is needed: `sequential-storage` has copied what it needs of
    /// it, if anything, to the page before. That is noted there, if it is the page in use.
    fn reclaim(&mut self, page: usize) -> Result<(), F::Error> {
        let before = self.previous(page);
        let noted = self.state(before)? == State::Partial
            && self.written_bits(before, Self::ERASING)? == 0
            && self.written_bits(before, Self::ERASED)? == 0;
        if noted {
            self.mark(before, Self::ERASING)?;
        }
        self.erase_page(page)?;
        if noted {
            self.mark(before, Self::ERASED)?;
        }
        Ok(())
    }

    /// Erases all.
    pub(crate) fn erase_all(&mut self) -> Result<(), F::Error> {
        (0..self.count()).try_for_each(|page| self.erase_page(page))
    }

    /// Completes what was cut off, so that every page that seems to be erased is, and the pages
    /// are such as `sequential-storage` can go on with. Reads all pages that are not in use, and the
    /// beginning of the others.
    pub(crate) fn recover(&mut self, buffer: &mut [u8]) -> Result<Log, F::Error> {
        let mut repaired = false;
        let mut blank = true;
        for page in 0..self.count() {
            let before = self.previous(page);
            if self.is_erasing_next(before)? {
                self.erase_page(page)?;
                self.mark(before, Self::ERASED)?;
                repaired = true;
            } else if self.is_torn(page, buffer)? {
                self.reclaim(page)?;
                repaired = true;
            }
            blank &= self.state(page)? == State::Open;
        }
        Ok(match self.order()? {
            _ if blank && !repaired => Log::Blank,
            Some(whole) if whole && !repaired => Log::Whole,
            Some(_) => Log::Repaired,
            None => Log::Broken,
        })
    }

    /// Whether the next page is erased already; `None` if the pages are in no order that
    /// `sequential-storage` makes: in a circle, closed ones, at most one in use, erased ones. Only
    /// in the midst of a copy none is erased.
    fn order(&mut self) -> Result<Option<bool>, F::Error> {
        let (mut open, mut partial, mut starts, mut copying) = (0, 0, 0, false);
        let mut before = self.state(self.count() - 1)?;
        for page in 0..self.count() {
            let state = self.state(page)?;
            open += usize::from(state == State::Open);
            partial += usize::from(state == State::Partial);
            starts += usize::from(before == State::Open && state != State::Open);
            copying |= before == State::Partial && state == State::Closed;
            before = state;
        }
        let in_order = partial <= 1 && starts <= 1 && if copying { open == 0 } else { open > 0 };
        Ok(in_order.then_some(!copying))
    }
}

/// Longest word that `sequential-storage` supports.
pub(crate) const WORD_MAX: usize = 32;
/// Number of bits that are not erased from which on a word is a mark: `sequential-storage`'s.
const MARK_BITS: u32 = 4;

/// Some flash is written only from aligned memory.
#[repr(align(4))]
struct Zeros([u8; WORD_MAX]);

impl<F: NorFlash> nor_async::ErrorType for Pages<F> {
    type Error = F::Error;
}

impl<F: NorFlash> nor_async::ReadNorFlash for Pages<F> {
    const READ_SIZE: usize = Self::WORD;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), F::Error> {
        self.0.read(Self::translate(offset), bytes)?;
        // A mark at the end that was cut off can't be written again: it counts.
        if offset as usize % Self::SIZE == Self::LAST_MARK && bytes.iter().any(|b| *b != 0xff) {
            bytes.fill(0);
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.count() * Self::SIZE
    }
}

impl<F: NorFlash> nor_async::NorFlash for Pages<F> {
    const WRITE_SIZE: usize = Self::WORD;
    const ERASE_SIZE: usize = Self::SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), F::Error> {
        (from as usize / Self::SIZE..to as usize / Self::SIZE)
            .try_for_each(|page| self.reclaim(page))
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), F::Error> {
        self.0.write(Self::translate(offset), bytes)
    }
}
