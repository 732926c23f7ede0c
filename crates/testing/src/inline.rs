//! The largest inline module of a proplet, by arithmetic: a test of the engine holds it to what is announced, and
//! the table in docs/boards.md to it.

/// Width of a device's pointers, which decides what things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointers {
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
}

/// This program's.
pub const OWN: Pointers = match cfg!(target_pointer_width = "32") {
    true => Pointers::Bits32,
    false => Pointers::Bits64,
};

/// `max_inline_bytes` of an idle proplet with an arena of `arena` bytes and one worker, whose operand stack has
/// `stack`.
#[must_use]
pub fn max_inline_bytes(arena: usize, stack: usize, pointers: Pointers) -> usize {
    // A worker beside its stack; the runtime and the host functions' names; and what a module can't have: the
    // least of its parsed form, its instance and its task.
    let [worker, runtime, beside] = match pointers {
        Pointers::Bits32 => [2344, 528, 1534],
        Pointers::Bits64 => [7648, 1024, 1862],
    };
    // The arena begins and ends on multiples of 8, with a header.
    let total = (arena - 8) / 8 * 8;
    let reserve = (total / 128).max(1024);
    total - worker - stack - runtime - reserve - beside
}
