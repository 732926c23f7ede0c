//! Values of the host's own in the arena.

use core::fmt;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, align_of, size_of};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::slice;

use wamr_sys as sys;

use crate::arena::{self, Booking};
use crate::error::Error;
use crate::estimate;
use crate::runtime::Runtime;

/// A value in a block of the arena, given back when it is dropped.
pub struct Boxed<T> {
    block: NonNull<T>,
    _owns: PhantomData<T>,
}

// SAFETY: a `Boxed` owns its value alone, as `Box` does, and the arena takes and gives blocks on any
// thread.
unsafe impl<T: Send> Send for Boxed<T> {}
// SAFETY: `&Boxed<T>` gives `&T` and nothing else.
unsafe impl<T: Sync> Sync for Boxed<T> {}

impl Runtime {
    /// `value` in a block of the arena.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) when no piece of the arena is large
    /// enough; the value is dropped.
    pub fn boxed<T>(&self, value: T) -> Result<Boxed<T>, Error> {
        const { assert!(align_of::<T>() <= 8, "the arena aligns to 8") };
        let _none = Booking::to_none();
        let block = arena::allocate(size_of::<T>().max(1))?.cast::<T>();
        // SAFETY: the block is new, large enough, and aligned as asserted above.
        unsafe { block.write(value) };
        Ok(Boxed {
            block,
            _owns: PhantomData,
        })
    }

    /// `value` in a block of the arena, with `len` bytes of 0 behind it.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) when no piece of the arena is large
    /// enough; the value is dropped.
    pub fn record<T>(&self, value: T, len: usize) -> Result<Record<T>, Error> {
        Record::new(value, len)
    }
}

impl<T> Boxed<T> {
    /// Arena bytes that it takes.
    pub const BYTES: usize = estimate::block(size_of::<T>() as u64) as usize;

    /// Leaks the value: its block is never given back.
    #[must_use]
    pub fn leak(self) -> &'static mut T
    where
        T: 'static,
    {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: the value was initialised by `boxed`; `this`, its one owner, is never dropped nor
        // used again. The arena is static.
        unsafe { this.block.as_mut() }
    }

    /// The value; its block is given back.
    #[must_use]
    pub fn into_inner(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: the value was initialised by `boxed`. It is moved out this once: `this` is
        // never dropped.
        let value = unsafe { this.block.read() };
        // SAFETY: the block came from the arena, and nothing is in it any more.
        unsafe { free(this.block.cast()) };
        value
    }
}

/// Gives a block back.
///
/// # Safety
/// `block` came from the arena, and is not used after this.
unsafe fn free(block: NonNull<u8>) {
    let _none = Booking::to_none();
    // SAFETY: the caller's promise.
    unsafe { sys::wamr_free(block.as_ptr().cast()) };
}

impl<T> Deref for Boxed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value was initialised by `boxed`, and lives while `self`, its one owner.
        unsafe { self.block.as_ref() }
    }
}

impl<T> DerefMut for Boxed<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { self.block.as_mut() }
    }
}

impl<T> Drop for Boxed<T> {
    fn drop(&mut self) {
        // SAFETY: the value was initialised by `boxed`, and its one owner goes: nothing reads it
        // after this. The block came from the arena.
        unsafe {
            self.block.drop_in_place();
            free(self.block.cast());
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Boxed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Head of a record's block; the value and the bytes follow.
#[repr(C)]
struct Head {
    /// Of the record and its readers. Once there is a reader, `wamr_count_up` and `wamr_count_down`
    /// alone touch it.
    count: u32,
    /// Length of the bytes, and [`SHARED`]. Not written any more once that is set, which is before
    /// the first reader is made.
    len: u32,
}

/// There is a reader, or was.
const SHARED: u32 = 1 << 31;

impl Head {
    /// Length of the bytes of a record.
    ///
    /// # Safety
    /// `head` is a record's whose block has not been given back, and that is shared.
    unsafe fn len(head: NonNull<Self>) -> usize {
        // SAFETY: the caller's promise: the word is initialised, and not written once it is shared.
        (unsafe { (*head.as_ptr()).len } & !SHARED) as usize
    }

    /// Ends one reference, and gives the block back if it was the last.
    ///
    /// # Safety
    /// The caller holds one reference, and does not use the block after this. The value is dropped
    /// where this may be the last reference.
    unsafe fn release(head: NonNull<Self>) {
        // SAFETY: the block lives while the caller's reference is counted; the function locks.
        let left = unsafe { sys::wamr_count_down(&raw mut (*head.as_ptr()).count) };
        if left == 0 {
            // SAFETY: this was the last reference, and the lock inside wamr_count_down orders all
            // uses of the others before this. The block came from the arena.
            unsafe { free(head.cast()) };
        }
    }
}

/// A value with bytes behind it, in one block of the arena. The handle is one pointer.
pub struct Record<T> {
    head: NonNull<Head>,
    _owns: PhantomData<T>,
}

// SAFETY: a record owns its value alone. Its bytes are its own, too, until they are shared; from then
// on they are only read. The count is atomic, and the length is written only before it is shared.
unsafe impl<T: Send> Send for Record<T> {}
// SAFETY: `&Record<T>` gives `&T` and `&[u8]`, and writes nothing: to share takes `&mut`.
unsafe impl<T: Sync> Sync for Record<T> {}

impl<T> Record<T> {
    /// From the start of the block to the value, and to the bytes. The value's size is a multiple of
    /// its alignment, so it lies right behind the head.
    const VALUE: usize = size_of::<Head>();
    const START: usize = Self::VALUE + size_of::<T>();

    fn new(value: T, len: usize) -> Result<Self, Error> {
        const { assert!(align_of::<T>() <= 8, "the arena aligns to 8") };
        let _none = Booking::to_none();
        let size = Self::START.saturating_add(len);
        let short = u32::try_from(len).ok().filter(|len| len & SHARED == 0);
        let Some(len) = short else {
            return Err(arena::no_room(size));
        };
        let head = arena::allocate(size)?.cast::<Head>();
        let this = Self {
            head,
            _owns: PhantomData,
        };
        // SAFETY: the block is new and has room for the head, the value and `len` bytes. The head is
        // aligned to 8 as the block is, and so is the value behind its 8 bytes.
        unsafe {
            head.write(Head { count: 1, len });
            this.value_start().write(value);
            this.start().write_bytes(0, len as usize);
        }
        Ok(this)
    }

    /// Arena bytes of a record with `len` bytes.
    #[must_use]
    pub const fn block_bytes(len: usize) -> usize {
        estimate::block(Self::START.saturating_add(len) as u64) as usize
    }

    fn value_start(&self) -> NonNull<T> {
        // SAFETY: the block has at least START bytes.
        unsafe { self.head.byte_add(Self::VALUE).cast() }
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: as above.
        unsafe { self.head.byte_add(Self::START).cast() }
    }

    fn head_len(&self) -> u32 {
        // SAFETY: the block lives while `self`; only `share` writes the length, which takes
        // `&mut self`.
        unsafe { (*self.head.as_ptr()).len }
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &T {
        // SAFETY: the value was initialised by `new`, and lives while `self`, its one owner.
        unsafe { self.value_start().as_ref() }
    }

    /// The value, to be changed.
    #[must_use]
    pub fn value_mut(&mut self) -> &mut T {
        // SAFETY: as in `value`, and `self` is borrowed mutably.
        unsafe { self.value_start().as_mut() }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let len = (self.head_len() & !SHARED) as usize;
        // SAFETY: `new` initialised `len` bytes there, which live while `self`. They are written
        // through `&mut self` alone.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), len) }
    }

    /// The bytes, to be written; none once they are [shared](Self::share).
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = match self.head_len() {
            shared if shared & SHARED != 0 => 0,
            len => len as usize,
        };
        // SAFETY: as in `bytes`, and `self` is borrowed mutably; where there may be readers the slice
        // is empty.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), len) }
    }

    /// A reader of the bytes.
    #[must_use]
    pub fn share(&mut self) -> Bytes {
        let len = self.head_len();
        if len & SHARED == 0 {
            // SAFETY: the block lives while `self`, which is borrowed mutably; there is no reader yet,
            // so no other code has the length.
            unsafe { (*self.head.as_ptr()).len = len | SHARED };
        }
        // SAFETY: the block lives while `self`; nothing else than the two count functions, which
        // lock, touches the count.
        unsafe { sys::wamr_count_up(&raw mut (*self.head.as_ptr()).count) };
        Bytes {
            head: self.head,
            start: self.start(),
        }
    }
}

impl<T> Drop for Record<T> {
    fn drop(&mut self) {
        // SAFETY: the value was initialised by `new`, and its one owner goes; readers know of the
        // bytes alone. The record's reference ends this once, with the value dropped.
        unsafe {
            self.value_start().drop_in_place();
            Head::release(self.head);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Record<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("value", self.value())
            .field("len", &self.bytes().len())
            .finish()
    }
}

/// A reader of a [`Record`]'s bytes. It keeps the block, not the value.
pub struct Bytes {
    head: NonNull<Head>,
    start: NonNull<u8>,
}

// SAFETY: the bytes are only read from the time that a reader is made on. Its end counts atomically,
// and frees, which any thread may.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the block lives while this reader is counted. The length was written for the last
        // time before this reader was made, and so were the bytes.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), Head::len(self.head)) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: this reader's reference ends this once. Where it is the last the record has gone
        // before, and has dropped the value.
        unsafe { Head::release(self.head) };
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// A handle is a pointer that is never null.
const _: () = {
    assert!(size_of::<Option<Boxed<u64>>>() == size_of::<usize>());
    assert!(size_of::<Option<Record<u64>>>() == size_of::<usize>());
    assert!(size_of::<Head>() == 8 && align_of::<Head>() <= 8);
};
