//! The arena's allocator against a model: blocks keep their bytes, don't overlap, are where they may
//! be, and all come back as one piece.

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wamr_sys as sys;

const LINEAR: u32 = 1;
const ARENA: usize = 100_000;

unsafe extern "C" {
    fn wamr_arena_malloc(usage: u32, len: u32) -> *mut c_void;
    fn wamr_arena_realloc(usage: u32, whole: bool, block: *mut c_void, len: u32) -> *mut c_void;
    fn wamr_arena_free(usage: u32, block: *mut c_void);
    fn wamr_arena_init(start: *mut c_void, len: u32) -> bool;
}

struct Block {
    start: *mut u8,
    len: usize,
    pattern: u8,
    usage: u32,
}

impl Block {
    /// The bytes, while the block is held.
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the allocator gave `len` bytes, initialised by `new` and `grow` below.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    fn new(usage: u32, len: usize, pattern: u8) -> Option<Self> {
        // SAFETY: the arena is initialised; any length may be asked.
        let start = unsafe { wamr_arena_malloc(usage, len as u32) }.cast::<u8>();
        (!start.is_null()).then(|| Self::fill(start, 0, len, pattern, usage))
    }

    /// Checks that a linear memory's bytes from `old` on are 0, then writes the pattern there.
    fn fill(start: *mut u8, old: usize, len: usize, pattern: u8, usage: u32) -> Self {
        if usage == LINEAR {
            // SAFETY: the allocator initialises linear memories.
            let new = unsafe { std::slice::from_raw_parts(start.add(old), len - old) };
            assert!(new.iter().all(|&b| b == 0));
        }
        // SAFETY: the block has `len` bytes.
        unsafe { start.add(old).write_bytes(pattern, len - old) };
        Self {
            start,
            len,
            pattern,
            usage,
        }
    }

    fn grow(&mut self, len: usize) -> bool {
        let block = self.start.cast();
        // SAFETY: the block is held; on success the new one takes its place below.
        let start = unsafe { wamr_arena_realloc(self.usage, false, block, len as u32) };
        if start.is_null() {
            return false;
        }
        *self = Self::fill(start.cast(), self.len, len, self.pattern, self.usage);
        true
    }

    fn check(&mut self) {
        let pattern = self.pattern;
        assert_eq!(self.start.addr() % 8, 0);
        assert!(self.bytes().iter().all(|&b| b == pattern));
    }

    fn free(mut self) {
        self.check();
        // SAFETY: the block is held, and given up here.
        unsafe { wamr_arena_free(self.usage, self.start.cast()) };
    }

    /// Arena bytes.
    fn taken(&self) -> u32 {
        (self.len as u32 + 4).next_multiple_of(8)
    }
}

fn info() -> sys::MemoryInfo {
    let mut info = sys::MemoryInfo::default();
    // SAFETY: `info` is valid for writing, and the arena is initialised.
    unsafe { sys::wamr_memory(&raw mut info) };
    info
}

/// xorshift64*
fn random(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
}

/// There is one arena in a process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn agrees_with_a_model() {
    let _one = alone();
    let whole = vec![0xa5u8; ARENA].leak();
    let range = whole.as_ptr_range();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for round in 0..12 {
        let arena = &mut whole[round..];
        // SAFETY: nothing of the arena is held, and it is leaked.
        assert!(unsafe { wamr_arena_init(arena.as_mut_ptr().cast(), arena.len() as u32) });
        let mut account = sys::Account::default();
        // SAFETY: the account outlives its use: it is swapped out below.
        unsafe { sys::wamr_account_swap(&raw mut account) };
        let total = info().total;
        let mut blocks: Vec<Block> = Vec::new();
        let (mut grown, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let pick = random(&mut state) % 100;
            if pick < blocks.len() {
                let at = random(&mut state) % blocks.len();
                if random(&mut state).is_multiple_of(3) {
                    let len = blocks[at].len + random(&mut state) % 3000;
                    match blocks[at].grow(len) {
                        true => grown += 1,
                        false => refused += 1,
                    }
                    blocks[at].check();
                } else {
                    blocks.swap_remove(at).free();
                }
            } else {
                let len = match random(&mut state) % 8 {
                    0 => 1 + random(&mut state) % 12_000,
                    _ => 1 + random(&mut state) % 300,
                };
                let usage = random(&mut state).is_multiple_of(4).into();
                match Block::new(usage, len, random(&mut state) as u8) {
                    Some(block) => blocks.push(block),
                    None => refused += 1,
                }
            }
            let taken: u32 = blocks.iter().map(Block::taken).sum();
            // A block that did not need to grow keeps its size: the two differ by nothing.
            assert_eq!(total - info().free, taken);
        }
        assert!(grown > 1000 && refused > 100, "{grown} {refused}");
        for block in &mut blocks {
            assert!(range.contains(&block.start.cast_const()));
            block.check();
        }
        blocks.into_iter().for_each(Block::free);
        let end = info();
        assert_eq!((end.free, end.largest_free), (total, total));
        // SAFETY: null stands for no account.
        unsafe { sys::wamr_account_swap(std::ptr::null_mut()) };
        assert_eq!(account.held, 0);
        assert_eq!(account.peak, (total - end.min_free) as isize);
    }
}

/// A block may exactly swallow the free one behind it, the third one then being freed: what WAMR's
/// own pool gets wrong.
#[test]
fn an_exact_fit_leaves_its_neighbour_sound() {
    let _one = alone();
    let arena = vec![0u8; 4096].leak();
    // SAFETY: nothing of an earlier arena is held, and this one is leaked.
    assert!(unsafe { wamr_arena_init(arena.as_mut_ptr().cast(), 4096) });
    let total = info().total;
    let mut first = Block::new(0, 100, 0xff).unwrap();
    let second = Block::new(0, 60, 2).unwrap();
    let third = Block::new(0, 100, 3).unwrap();
    second.free();
    let place = first.start;
    assert!(first.grow(104 + 64 - 4));
    assert_eq!(first.start, place);
    third.free();
    first.check();
    first.free();
    assert_eq!(info().largest_free, total);
}
