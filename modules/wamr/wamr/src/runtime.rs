//! The runtime and its arena.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::slice;

use wamr_sys as sys;

use crate::arena::{self, Booking};
use crate::error::{Error, ErrorKind};
use crate::host::{self, HostFunction};

/// Proof that the runtime is started. It never stops.
#[derive(Clone, Copy, Debug)]
pub struct Runtime(());

/// The arena, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Size.
    pub total: u32,
    /// Not allocated; not all of it need be in one piece.
    pub free: u32,
    /// The least that was ever free.
    pub min_free: u32,
    /// The largest piece that is free.
    pub largest_free: u32,
    /// Bytes that running guests may take: the free ones without the reserve and the promised ones.
    pub spare: u32,
    /// Pages of linear memory that all guests hold.
    pub pages: u32,
}

impl Runtime {
    /// Starts the runtime. Everything that it allocates from then on, linear memories included,
    /// comes from `arena`: a few hundred bytes at once, and about 40 bytes for each host function.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyStarted`] after the first time; [`ErrorKind::OutOfMemory`] when the
    /// arena is too small to start in.
    pub fn init(
        arena: &'static mut [MaybeUninit<u8>],
        host_functions: &'static [HostFunction],
    ) -> Result<Self, Error> {
        let len = u32::try_from(arena.len()).unwrap_or(u32::MAX);
        let start: *mut c_void = arena.as_mut_ptr().cast();
        // SAFETY: the arena is valid for `len` bytes, for the program's life, and has no other owner: it is moved in.
        match unsafe { sys::wamr_init(start, len) } {
            sys::INIT_OK => {}
            sys::INIT_AGAIN => {
                let text = format_args!("the runtime was started before");
                return Err(Error::new(ErrorKind::AlreadyStarted, text));
            }
            _ => {
                let text = format_args!("the runtime does not start in {len} bytes");
                return Err(Error::new(ErrorKind::OutOfMemory, text));
            }
        }
        let runtime = Self(());
        host::register(runtime, host_functions)?;
        Ok(runtime)
    }

    /// A guest runs, so it is started.
    pub(crate) const fn of_caller() -> Self {
        Self(())
    }

    /// How full the arena is.
    #[must_use]
    pub fn memory(&self) -> MemoryInfo {
        let sys::MemoryInfo {
            total,
            free,
            min_free,
            largest_free,
            spare,
            pages,
        } = arena::memory();
        MemoryInfo {
            total,
            free,
            min_free,
            largest_free,
            spare,
            pages,
        }
    }

    /// Bytes of the arena that guests and [promises](Self::promise) leave free: the host's own. 0 at first.
    pub fn set_reserve(&self, bytes: u32) {
        // SAFETY: it takes any number, and the runtime is started.
        unsafe { sys::wamr_set_reserve(bytes) };
    }

    /// Has guests that run leave `bytes` free beside the reserve, for what the calling thread is going to
    /// take, until the promise is dropped. A guest for whose pages that leaves no room waits so long. One
    /// thread at a time has a promise, and runs no guest while it has it: it would wait for itself. `None`
    /// where they are not free.
    #[must_use]
    pub fn promise(&self, bytes: u32) -> Option<Promise> {
        // SAFETY: it takes any number, and the runtime is started. `Promise` ends it, on this thread.
        let is_given = unsafe { sys::wamr_promise(bytes) };
        is_given.then_some(Promise { _here: PhantomData })
    }

    /// A block of `len` bytes in the arena, 8-aligned and zeroed.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when no piece of the arena is large enough.
    pub fn buffer(&self, len: usize) -> Result<Buffer, Error> {
        Buffer::new(len)
    }

    /// As [`buffer`](Self::buffer), for who does not ask why: an error's text takes native stack.
    #[must_use]
    pub fn try_buffer(&self, len: usize) -> Option<Buffer> {
        Buffer::try_new(len)
    }
}

/// Bytes that are kept free for who holds it.
#[derive(Debug)]
pub struct Promise {
    /// Neither `Send` nor `Sync`: a lock is held.
    _here: PhantomData<*const ()>,
}

impl Drop for Promise {
    fn drop(&mut self) {
        // SAFETY: this is the thread that was given it, and it is ended once.
        unsafe { sys::wamr_promise_end() };
    }
}

/// A writable block of the arena, given back when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a buffer owns its block alone, and the arena takes and gives blocks on any thread.
unsafe impl Send for Buffer {}
// SAFETY: a shared buffer is only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// With the runtime started, which every caller has proof of.
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        Self::try_new(len).ok_or_else(|| arena::no_room(len.max(1)))
    }

    fn try_new(len: usize) -> Option<Self> {
        let _none = Booking::to_none();
        // An empty buffer has a block too: so that there is one case, not two.
        let start = arena::try_allocate(len.max(1))?;
        // SAFETY: the block is new and has at least `len` bytes.
        unsafe { start.write_bytes(0, len) };
        Some(Self { start, len })
    }

    /// Where it starts. Writing through it, as WAMR does, is the owner's right alone.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Cuts the buffer to `len` bytes, if it is longer. Its block stays as it is.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes the buffer `len` bytes long, where it is if the arena has room behind it; else its
    /// bytes move, for which both blocks are held at once. What is new is zeroed. With a smaller `len`
    /// it stays, and gives back what it has above that.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when no piece of the arena is large enough; the buffer is as
    /// before.
    pub fn resize(&mut self, len: usize) -> Result<(), Error> {
        if len != self.len {
            let _none = Booking::to_none();
            // SAFETY: the block came from the arena, and `self` is its only owner.
            self.start = unsafe { arena::reallocate(self.start, len.max(1)) }?;
        }
        if len > self.len {
            // SAFETY: the block has at least `len` bytes, and `self.len` is below that.
            unsafe {
                let new = self.start.add(self.len);
                new.write_bytes(0, len - self.len);
            }
        }
        self.len = len;
        Ok(())
    }

    /// Arena bytes that it takes.
    pub(crate) fn block_bytes(&self) -> u32 {
        // SAFETY: the block came from the arena and is still held.
        unsafe { sys::wamr_block_bytes(self.start.as_ptr().cast()) }
    }
}

impl PartialEq for Buffer {
    /// Compares the bytes.
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Buffer {}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the block has `len` bytes, zeroed by `Runtime::buffer` and `resize`, and lives
        // while `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _none = Booking::to_none();
        // SAFETY: the block came from the arena and this is its only owner.
        unsafe { sys::wamr_free(self.start.as_ptr().cast()) };
    }
}

/// A thread's permission to run guests. Its workers borrow it, so it outlives them.
#[derive(Debug)]
pub struct ThreadEnv {
    /// Neither `Send` nor `Sync`.
    _here: PhantomData<*const ()>,
}

impl ThreadEnv {
    /// Prepares the calling thread. A thread that enters twice must leave in the reverse order.
    ///
    /// # Errors
    /// [`ErrorKind::Thread`] where the platform refuses.
    pub fn enter(_: Runtime) -> Result<Self, Error> {
        // SAFETY: the runtime is started; `Runtime` proves it.
        if unsafe { sys::wasm_runtime_init_thread_env() } {
            Ok(Self { _here: PhantomData })
        } else {
            Err(Error::new(
                ErrorKind::Thread,
                format_args!("the thread can't run guests"),
            ))
        }
    }
}

impl Drop for ThreadEnv {
    fn drop(&mut self) {
        // SAFETY: `enter` succeeded on this thread, which this value has not left.
        unsafe { sys::wasm_runtime_destroy_thread_env() };
    }
}
