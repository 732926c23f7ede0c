//! The arena's allocator: blocks keep their bytes, don't overlap, are where they may be, and all come
//! back as one piece; and it takes no longer where there are many.

use std::ffi::c_void;
use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wamr_sys as sys;

use proplet_testing::capacity::{Program, Width, has_32_bits};

const LINEAR: u32 = 1;
/// Of arenas, and of blocks: in the one there is always too little room, in the other sometimes.
const SIZES: [(usize, usize); 2] = [(100_000, 12_000), (400_000, 65_536)];

/// Maximum of an operation of arena.c, in steps of its loops, in arenas of less than 1 GiB: seven ways
/// down a tree of 27.
const STEPS_MOST: u64 = 7 * 27;

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

    fn shrink(&mut self, len: usize) {
        let block = self.start.cast();
        // SAFETY: the block is held, and stays where it is.
        let start = unsafe { wamr_arena_realloc(self.usage, false, block, len as u32) };
        assert_eq!(start.cast(), self.start);
        self.len = len;
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
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for round in 0..12 {
        let (size, longest) = SIZES[round % 2];
        let whole = vec![0xa5u8; size].leak();
        let range = whole.as_ptr_range();
        let arena = &mut whole[round..];
        // SAFETY: nothing of the arena is held, and it is leaked.
        assert!(unsafe { wamr_arena_init(arena.as_mut_ptr().cast(), arena.len() as u32) });
        let mut account = sys::Account::default();
        // SAFETY: the account outlives its use: it is swapped out below.
        unsafe { sys::wamr_account_swap(&raw mut account) };
        let total = info().total;
        let mut blocks: Vec<Block> = Vec::new();
        let (mut grown, mut shrunk, mut refused) = (0, 0, 0);
        for _ in 0..20_000 {
            let pick = random(&mut state) % 100;
            if pick < blocks.len() {
                let at = random(&mut state) % blocks.len();
                let kind = random(&mut state) % 6;
                if kind == 0 && blocks[at].usage != LINEAR {
                    let len = 1 + random(&mut state) % blocks[at].len;
                    blocks[at].shrink(len);
                    blocks[at].check();
                    shrunk += 1;
                } else if kind < 3 {
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
                    0 => 1 + random(&mut state) % longest,
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
        assert!(
            grown > 1000 && shrunk > 500 && refused > 100,
            "{grown} {shrunk} {refused}"
        );
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

/// Runs a test on crates/testing/c/arena_model.c, on this process's width of pointers and on 32 bits.
fn on_both_widths(test: impl Fn(&Program)) {
    for width in [Width::Own, Width::Bits32] {
        if width == Width::Own || has_32_bits() {
            test(&Program::build_arena_model(width).expect("the program compiles"));
        }
    }
}

/// One test, for they are built in one place: what each mode of the program checks is said in its head.
#[test]
fn every_header_list_and_tree_is_as_it_must_be() {
    on_both_widths(|model| {
        for seed in 0..8 {
            let fields = model.run_model(&["random", &seed.to_string(), "30000"]);
            let fields = fields.expect("random");
            for way in ["in_place", "down", "moved", "grow_refused", "refused"] {
                assert!(fields[way] > 40, "{seed} {fields:?}");
            }
        }
        assert_eq!(model.run_model(&["holes"]).expect("holes")["blocks"], 2000);
        let deep = model.run_model(&["deep"]).expect("deep")["steps"];
        assert!((14..=STEPS_MOST).contains(&deep), "{deep}");
        model.run_model(&["large"]).expect("large");
        // With a hundred times the blocks there are more sizes, and nothing else.
        for blocks in ["10", "1000", "100000"] {
            let steps = model.run_model(&["steps", blocks]).expect("steps")["steps"];
            assert!(steps <= STEPS_MOST, "{blocks}: {steps}");
            println!("{blocks} blocks: at most {steps} steps");
        }
    });
}

/// An arena with blocks of 100 bytes held, and as many holes of other sizes between them.
struct Crowd {
    held: Vec<*mut c_void>,
    state: u64,
}

impl Crowd {
    const LEN: u32 = 100;

    fn new(count: usize) -> Self {
        let len = 1_000_000 + count * 300;
        let arena = vec![0u8; len].leak();
        // SAFETY: nothing of an earlier arena is held, and this one is leaked.
        assert!(unsafe { wamr_arena_init(arena.as_mut_ptr().cast(), len as u32) });
        let mut state = 1;
        let mut holes = Vec::new();
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(Self::alloc());
            // SAFETY: any length may be asked.
            holes.push(unsafe { sys::wamr_alloc(8 * (1 + random(&mut state) % 40) as u32) });
        }
        // SAFETY: each is held once.
        holes
            .into_iter()
            .for_each(|hole| unsafe { sys::wamr_free(hole) });
        Self { held, state }
    }

    fn alloc() -> *mut c_void {
        // SAFETY: the arena is initialised.
        let block = unsafe { sys::wamr_alloc(Self::LEN) };
        assert!(!black_box(block).is_null());
        block
    }

    /// Time to allocate a block and free it.
    fn pair(&mut self, turns: u32) -> Duration {
        let start = Instant::now();
        for _ in 0..turns {
            // SAFETY: the block is held, and given up here.
            unsafe { sys::wamr_free(Self::alloc()) };
        }
        start.elapsed() / turns
    }

    /// Time to free any one of those that are held and to allocate another.
    fn replace(&mut self, turns: u32) -> Duration {
        let start = Instant::now();
        for _ in 0..turns {
            let at = random(&mut self.state) % self.held.len();
            // SAFETY: the block is held, and given up here.
            unsafe { sys::wamr_free(self.held[at]) };
            self.held[at] = Self::alloc();
        }
        start.elapsed() / turns
    }
}

/// The least of several: other work on the machine only adds to it.
fn least(mut measure: impl FnMut() -> Duration) -> Duration {
    (0..20).map(|_| measure()).min().unwrap_or_default()
}

#[test]
fn it_takes_no_longer_beside_many_blocks() {
    let _one = alone();
    let [few, many] = [1000, 100_000].map(|count| {
        let mut crowd = Crowd::new(count);
        least(|| crowd.pair(500))
    });
    assert!(many < 4 * few, "{few:?} {many:?}");
}

/// `cargo test -p wamr-sys --test arena -- --ignored --nocapture`
#[test]
#[ignore = "prints figures, checks nothing"]
fn what_a_block_of_100_bytes_takes() {
    let _one = alone();
    for count in [10, 1000, 100_000] {
        let mut crowd = Crowd::new(count);
        let pair = least(|| crowd.pair(20_000));
        let replace = least(|| crowd.replace(20_000));
        println!("{count} held: allocate and free {pair:?}, replace any {replace:?}");
    }
}

#[cfg(arena_seals)]
mod seal {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};
    use std::{env, process, ptr, thread};

    use super::{alone, sys, wamr_arena_init};

    unsafe extern "C" {
        fn wamr_arena_seal(sealed: bool) -> bool;
    }

    const OPERATION: &str = "PROPLET_SEALED_OPERATION";
    const SIGABRT: i32 = 6;

    /// Set, it makes of this test a process that does something while the arena is sealed.
    fn run(operation: &str) -> Output {
        let name = "seal::a_sealed_thread_frees_and_does_not_allocate";
        Command::new(env::current_exe().expect("a test has a path"))
            .args(["--exact", name, "--nocapture"])
            .env(OPERATION, operation)
            .output()
            .expect("a test can be run again")
    }

    fn sealed(operation: &str) {
        let arena = vec![0u8; 4096].leak();
        // SAFETY: nothing of an earlier arena is held, and this one is leaked. The blocks are held when
        // they are freed or grown, and not used after.
        unsafe {
            assert!(wamr_arena_init(arena.as_mut_ptr().cast(), 4096));
            let block = sys::wamr_alloc(100);
            assert!(!wamr_arena_seal(true));
            let other = thread::spawn(|| !wamr_arena_seal(false) && !sys::wamr_alloc(8).is_null());
            assert!(other.join().expect("it does not panic"));
            match operation {
                "allocate" => drop(sys::wamr_alloc(8)),
                "fail" => drop(sys::wamr_alloc(1 << 20)),
                "grow" => drop(sys::wamr_realloc(block, 200)),
                "keep" => drop(sys::wamr_realloc(block, 100)),
                _ => {
                    sys::wamr_free(block);
                    sys::wamr_free(ptr::null_mut());
                    super::info();
                    assert!(wamr_arena_seal(false));
                    assert!(!sys::wamr_alloc(8).is_null());
                }
            }
        }
        process::exit(0);
    }

    #[test]
    fn a_sealed_thread_frees_and_does_not_allocate() {
        let _one = alone();
        if let Ok(operation) = env::var(OPERATION) {
            sealed(&operation);
        }
        for operation in ["allocate", "fail", "grow", "keep"] {
            let output = run(operation);
            assert_eq!(output.status.signal(), Some(SIGABRT), "{operation}");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(text.contains("a thread that has sealed it"), "{text}");
        }
        let output = run("free");
        assert!(output.status.success(), "{output:?}");
    }
}
