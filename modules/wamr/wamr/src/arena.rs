//! Blocks of the arena, and the books on them.

use core::mem::{align_of, size_of};
use core::ops::Deref;
use core::ptr::{self, NonNull};

use wamr_sys as sys;

use crate::error::{Error, ErrorKind};

/// Allocates `size` bytes, 8-aligned.
pub(crate) fn allocate(size: usize) -> Result<NonNull<u8>, Error> {
    try_allocate(size).ok_or_else(|| no_room(size))
}

/// As [`allocate`], without the reason.
pub(crate) fn try_allocate(size: usize) -> Option<NonNull<u8>> {
    let wanted = u32::try_from(size).ok().filter(|&s| s > 0);
    // SAFETY: wamr_alloc takes any size. It needs the runtime started, which every caller of this
    // function has proof of: a `Runtime`, or a value that was made with one.
    let block = wanted.map_or(ptr::null_mut(), |size| unsafe { sys::wamr_alloc(size) });
    NonNull::new(block.cast())
}

/// Makes room for `size` bytes in a block; it may move. What is new has any value.
///
/// # Safety
/// `block` came from [`allocate`] and is its caller's alone; after success only what is returned
/// is valid.
pub(crate) unsafe fn reallocate(block: NonNull<u8>, size: usize) -> Result<NonNull<u8>, Error> {
    let wanted = u32::try_from(size).ok().filter(|&s| s > 0);
    // SAFETY: the caller's promise; wamr_realloc takes any size.
    let moved = wanted.map_or(ptr::null_mut(), |size| unsafe {
        sys::wamr_realloc(block.as_ptr().cast(), size)
    });
    NonNull::new(moved.cast()).ok_or_else(|| no_room(size))
}

#[inline(never)]
pub(crate) fn no_room(size: usize) -> Error {
    let free = memory().free;
    Error::new(
        ErrorKind::OutOfMemory,
        format_args!("{size} bytes asked, {free} free"),
    )
}

/// The state of the arena.
pub(crate) fn memory() -> sys::MemoryInfo {
    let mut info = sys::MemoryInfo::default();
    // SAFETY: `info` is valid for writing, and the runtime is started as for `allocate`.
    unsafe { sys::wamr_memory(&raw mut info) };
    info
}

/// Books the thread's allocations to an account until it is dropped, then to the one before.
pub(crate) struct Booking(*mut sys::Account);

impl Booking {
    /// To `account`.
    ///
    /// # Safety
    /// `account` stays valid for writing, and unread, until the booking is dropped.
    pub(crate) unsafe fn to(account: *mut sys::Account) -> Self {
        // SAFETY: the caller keeps `account` valid; the C side writes to it on this thread alone.
        Self(unsafe { sys::wamr_account_swap(account) })
    }

    /// To no account: the allocation is not the running guest's.
    pub(crate) fn to_none() -> Self {
        // SAFETY: null stands for no account.
        Self(unsafe { sys::wamr_account_swap(ptr::null_mut()) })
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        // SAFETY: bookings end in the reverse order of their beginning, so the account before is
        // still under the promise that its own booking was made with.
        unsafe { sys::wamr_account_swap(self.0) };
    }
}

/// A value in the arena, shared and counted.
pub(crate) struct Shared<T> {
    block: NonNull<Counted<T>>,
}

struct Counted<T> {
    /// Written by `wamr_count_up` and `wamr_count_down` alone.
    count: u32,
    value: T,
}

// SAFETY: a `Shared` gives out `&T` alone, and drops the `T` on whichever thread is last: it needs
// of T what `Arc` does. The count is atomic.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Result<Self, Error> {
        const { assert!(align_of::<Counted<T>>() <= 8, "the arena aligns to 8") };
        let _none = Booking::to_none();
        let block = allocate(size_of::<Counted<T>>())?.cast::<Counted<T>>();
        // SAFETY: the block is new, large enough, and aligned as asserted above.
        unsafe { block.write(Counted { count: 1, value }) };
        Ok(Self { block })
    }

    /// Whether there are other references. Others may come and go meanwhile.
    pub(crate) fn has_others(&self) -> bool {
        // SAFETY: as in `clone`; it is one word, and any value that it has at the time will do.
        unsafe { (&raw const (*self.block.as_ptr()).count).read_volatile() > 1 }
    }

    /// Bytes that are asked of the arena for it.
    pub(crate) const SIZE: u64 = size_of::<Counted<T>>() as u64;
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // SAFETY: the block lives while `self` does; nothing else than the two count functions,
        // which lock, touches the count.
        unsafe { sys::wamr_count_up(&raw mut (*self.block.as_ptr()).count) };
        Self { block: self.block }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: as in `clone`; this is the one drop of this reference.
        let left = unsafe { sys::wamr_count_down(&raw mut (*self.block.as_ptr()).count) };
        if left == 0 {
            let _none = Booking::to_none();
            // SAFETY: the count fell to 0, so this is the last reference, and the lock inside
            // wamr_count_down orders all uses of the others before this. The value was initialised
            // by `new`, and the block came from `allocate`.
            unsafe {
                ptr::drop_in_place(&raw mut (*self.block.as_ptr()).value);
                sys::wamr_free(self.block.as_ptr().cast());
            }
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value was initialised by `new` and lives while any reference does; no other code
        // has it mutably before the last drop.
        unsafe { &(*self.block.as_ptr()).value }
    }
}
