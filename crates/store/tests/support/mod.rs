//! A NOR flash in memory that insists on the rules, and can lose its power.

#![allow(dead_code, reason = "no test uses all of it")]

pub(crate) mod model;

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

/// Remains of the operation during which the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tear {
    /// It was not begun.
    Nothing,
    /// The first half is done.
    FirstHalf,
    /// The second half is done.
    SecondHalf,
    /// Some bits are done and others are not, all over it.
    Noise(u64),
    /// A single bit is done.
    Bit,
    /// An erasure has left zeros, which some chips write everywhere first. A write was not begun.
    Zeros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no power.
    Off,
    NotAligned,
    OutOfBounds,
    /// A word was to be written that is not erased.
    NotErased(u32),
}

impl NorFlashError for Fault {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::NotAligned => NorFlashErrorKind::NotAligned,
            Self::OutOfBounds => NorFlashErrorKind::OutOfBounds,
            Self::Off | Self::NotErased(_) => NorFlashErrorKind::Other,
        }
    }
}

/// Operations on a flash so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// Writes and erasures.
    pub(crate) operations: u64,
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) erased: u64,
}

/// `WORD` bytes are written at once, `PAGE` bytes erased.
#[derive(Debug, Clone)]
pub(crate) struct RamFlash<const WORD: usize, const PAGE: usize> {
    pub(crate) bytes: Vec<u8>,
    /// Whether each word was written since it was erased.
    written: Vec<bool>,
    /// Whether breaking a rule fails the test; else bits are and-ed as such flash does.
    pub(crate) strict: bool,
    /// Operations until the power goes, and how.
    cut: Option<(u64, Tear)>,
    off: bool,
    pub(crate) work: Work,
    pub(crate) erasures: Vec<u64>,
}

impl<const WORD: usize, const PAGE: usize> RamFlash<WORD, PAGE> {
    pub(crate) fn new(pages: usize) -> Self {
        Self {
            bytes: vec![0xff; pages * PAGE],
            written: vec![false; pages * PAGE / WORD],
            strict: true,
            cut: None,
            off: false,
            work: Work::default(),
            erasures: vec![0; pages],
        }
    }

    /// The power goes in the midst of the operation after the next `after`.
    pub(crate) fn cut(&mut self, after: u64, tear: Tear) {
        self.cut = Some((after, tear));
    }

    /// The power is there, and stays.
    pub(crate) fn power(&mut self) {
        self.cut = None;
        self.off = false;
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off
    }

    /// Whether the operation that is to begin is cut off, and how.
    fn begin(&mut self) -> Result<Option<Tear>, Fault> {
        if self.off {
            return Err(Fault::Off);
        }
        self.work.operations += 1;
        Ok(match &mut self.cut {
            Some((0, tear)) => {
                self.off = true;
                Some(*tear)
            }
            Some((after, _)) => {
                *after -= 1;
                None
            }
            None => None,
        })
    }

    /// Sets the bytes from `offset` on as far as `tear` lets it. Words that end up erased may be
    /// written.
    fn set(&mut self, offset: usize, to: &[u8], tear: Option<Tear>) {
        let half = to.len() / 2;
        let (mut random, mut bit) = (0, None);
        for (i, to) in to.iter().enumerate() {
            let mask = match tear {
                None => 0xff,
                Some(Tear::Nothing | Tear::Bit | Tear::Zeros) => 0,
                Some(Tear::FirstHalf) => u8::from(i < half) * 0xff,
                Some(Tear::SecondHalf) => u8::from(i >= half) * 0xff,
                Some(Tear::Noise(seed)) => {
                    random = mix(random ^ seed);
                    random as u8
                }
            };
            let byte = &mut self.bytes[offset + i];
            let mask = if tear == Some(Tear::Bit) && bit.is_none() {
                let change = *byte ^ to;
                let lowest = change & change.wrapping_neg();
                bit = (lowest != 0).then_some(());
                lowest
            } else {
                mask
            };
            *byte = *byte & !mask | to & mask;
        }
        for word in offset / WORD..(offset + to.len()) / WORD {
            let erased = self.bytes[word * WORD..][..WORD].iter().all(|b| *b == 0xff);
            self.written[word] = !erased;
        }
    }

    fn check(&self, offset: u32, len: usize, unit: usize) -> Result<usize, Fault> {
        let offset = offset as usize;
        if !offset.is_multiple_of(unit) || !len.is_multiple_of(unit) {
            assert!(
                !self.strict,
                "{len} bytes at {offset} are not aligned to {unit}"
            );
            return Err(Fault::NotAligned);
        }
        if offset + len > self.bytes.len() {
            assert!(!self.strict, "{len} bytes at {offset} are out of bounds");
            return Err(Fault::OutOfBounds);
        }
        Ok(offset)
    }
}

impl<const WORD: usize, const PAGE: usize> ErrorType for RamFlash<WORD, PAGE> {
    type Error = Fault;
}

impl<const WORD: usize, const PAGE: usize> ReadNorFlash for RamFlash<WORD, PAGE> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        let offset = self.check(offset, bytes.len(), 1)?;
        if self.off {
            return Err(Fault::Off);
        }
        self.work.read += bytes.len() as u64;
        bytes.copy_from_slice(&self.bytes[offset..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const WORD: usize, const PAGE: usize> NorFlash for RamFlash<WORD, PAGE> {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = PAGE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Fault> {
        let start = self.check(from, (to - from) as usize, PAGE)?;
        for page in start / PAGE..to as usize / PAGE {
            let tear = self.begin()?;
            self.erasures[page] += 1;
            self.work.erased += 1;
            match tear {
                Some(Tear::Zeros) => self.set(page * PAGE, &[0; PAGE], None),
                tear => self.set(page * PAGE, &[0xff; PAGE], tear),
            }
            if tear.is_some() {
                return Err(Fault::Off);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Fault> {
        assert!(
            bytes.as_ptr().addr().is_multiple_of(4),
            "memory not aligned"
        );
        let start = self.check(offset, bytes.len(), WORD)?;
        let words = start / WORD..(start + bytes.len()) / WORD;
        if let Some(word) = words.clone().find(|word| self.written[*word]) {
            assert!(!self.strict, "word {word} of {offset} is written twice");
        }
        let tear = self.begin()?;
        self.work.written += bytes.len() as u64;
        let old = &self.bytes[start..][..bytes.len()];
        let to: Vec<u8> = old.iter().zip(bytes).map(|(old, new)| old & new).collect();
        self.set(start, &to, tear);
        if tear.is_none() {
            self.written[words].fill(true);
        }
        if tear.is_some() {
            Err(Fault::Off)
        } else {
            Ok(())
        }
    }
}

/// A next number, as good as random.
pub(crate) fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// A module of `len` bytes and its digest, different for each `name`.
pub(crate) fn module(name: u64, len: usize) -> (proplet::module::table::Digest, Vec<u8>) {
    let mut n = name;
    let words = std::iter::repeat_with(|| {
        n = mix(n);
        n.to_le_bytes()
    });
    let bytes: Vec<u8> = words.flatten().take(len).collect();
    (proplet::module::table::digest(&bytes), bytes)
}

/// A record of `len` bytes that begins with `digest`.
pub(crate) fn record(digest: &[u8; 32], name: u64, len: usize) -> Vec<u8> {
    let mut record = module(name, len).1;
    record[..32].copy_from_slice(digest);
    record
}
