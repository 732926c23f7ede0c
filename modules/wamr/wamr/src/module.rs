//! Loaded modules.

use core::cell::UnsafeCell;
use core::ffi::c_char;

use wamr_sys as sys;

use crate::arena::{Booking, Shared};
use crate::error::{C_TEXT, Error, ErrorKind, Name};
use crate::estimate::{self, Needs};
use crate::runtime::Buffer;
use crate::value::{MAX_RESULTS, Signature};

/// A module, loaded once and shared by all its instances. Clones share; with the last one, and the
/// last instance, the module and its buffer go.
#[derive(Clone)]
pub struct Module {
    inner: Shared<Inner>,
}

/// The linear memory that a module declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Wasm pages at the start, of 65,536 bytes.
    pub initial_pages: u32,
    /// Wasm pages that it can grow to: as many as at the start where no code grows it.
    pub maximum_pages: u32,
}

pub(crate) struct Inner {
    handle: *mut sys::Module,
    info: sys::ModuleInfo,
    /// The bytes, which WAMR rewrote and reads while the module lives.
    buffer: Buffer,
    /// Bytes that loading allocated, without the buffer and this.
    load_bytes: u64,
    /// Parts that the instances share.
    tables: UnsafeCell<sys::Tables>,
}

// SAFETY: after loading, WAMR only reads the module. The tables are C's alone, under its lock.
// Unloading, on any thread, is by the last owner.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the handle came from wamr_load. Every instance holds a `Module`, so none is
        // left. The buffer is dropped after this.
        unsafe { sys::wamr_unload(self.handle) };
    }
}

impl Module {
    /// Loads the module that `buffer` holds, from its first byte to its last. Runs none of its
    /// code.
    ///
    /// # Errors
    /// [`ErrorKind::BadModule`] with WAMR's text, [`ErrorKind::UnknownImport`] with the import's
    /// name, [`ErrorKind::OutOfMemory`]. The buffer is given back to the arena.
    pub fn load(buffer: Buffer) -> Result<Self, Error> {
        let mut account = sys::Account::default();
        let mut info = sys::ModuleInfo::default();
        // SAFETY: `account` outlives the booking, and is read only after it.
        let booking = unsafe { Booking::to(&raw mut account) };
        let handle = load(&buffer, &mut info);
        drop(booking);
        let load_bytes = account.held.unsigned_abs() as u64;
        let inner = Inner {
            handle: handle?,
            info,
            buffer,
            load_bytes,
            tables: UnsafeCell::new(sys::Tables::NONE),
        };
        Ok(Self {
            inner: Shared::new(inner)?,
        })
    }

    /// Arena bytes that the module takes, its buffer included.
    #[must_use]
    pub fn load_bytes(&self) -> u64 {
        let Inner {
            buffer, load_bytes, ..
        } = &*self.inner;
        load_bytes + u64::from(buffer.block_bytes()) + inner_bytes()
    }

    /// Arena bytes of the module, and of an instance of it with a call that is left anywhere: exactly,
    /// where what its calls keep is known.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let handle = &self.inner.handle;
        let mut memory = sys::MemoryNeed::default();
        // SAFETY: the handle is a loaded module, and `memory` is valid for writing.
        let (instance, tables, copy) = unsafe {
            sys::wamr_memory_needs(*handle, &raw mut memory);
            (
                sys::wamr_instance_needs(*handle),
                sys::wamr_tables_need(*handle),
                sys::wamr_copy_needs(*handle),
            )
        };
        Needs {
            load: self.load_bytes(),
            tables: u64::from(tables),
            instance: u64::from(instance),
            copy: u64::from(copy),
            call: estimate::call(self.keep()),
            memory: memory.into(),
        }
    }

    /// Whether it is shared: by clones, or by instances, the first of which makes what all share.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.inner.has_others()
    }

    /// Whether it imports a function: only then can its guests call the host.
    #[must_use]
    pub fn has_imports(&self) -> bool {
        self.info().imports > 0
    }

    /// Whether it wants something run before its functions are called: see
    /// [`Instance::initialise`](crate::Instance::initialise).
    #[must_use]
    pub fn has_initialisers(&self) -> bool {
        let initialisers = self.info().initialisers();
        initialisers.iter().any(|index| *index != sys::NO_FUNCTION)
    }

    /// The linear memory, if the module has one.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let sys::ModuleInfo {
            memories,
            initial_pages,
            maximum_pages,
            ..
        } = self.inner.info;
        (memories > 0).then_some(Memory {
            initial_pages,
            maximum_pages,
        })
    }

    /// The type of an exported function.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchFunction`], or [`ErrorKind::UnsupportedSignature`].
    pub fn function(&self, name: &str) -> Result<Signature, Error> {
        self.find(name).map(|(_, signature)| signature)
    }

    /// Bytes of the module's code and data as loaded.
    #[must_use]
    pub fn wasm_len(&self) -> usize {
        self.inner.buffer.len()
    }

    /// An exported function: its index and its type.
    pub(crate) fn find(&self, name: &str) -> Result<(u32, Signature), Error> {
        let mut ty = sys::FunctionType {
            types: core::ptr::null(),
            params: 0,
            results: 0,
        };
        let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let start = name.as_ptr().cast::<c_char>();
        // SAFETY: the handle is a loaded module, the name is valid for `len` bytes, `ty` for
        // writing.
        let index = unsafe { sys::wamr_find_function(self.inner.handle, start, len, &raw mut ty) };
        if index == sys::NO_FUNCTION {
            return Err(Error::new(
                ErrorKind::NoSuchFunction,
                format_args!("no exported function `{}`", Name(name)),
            ));
        }
        let (params, results) = (ty.params as usize, ty.results as usize);
        // SAFETY: the shim gave the type bytes of `params` and `results`, which the module owns
        // and never changes.
        let bytes = unsafe { core::slice::from_raw_parts(ty.types, params + results) };
        Ok((index, Signature::new(bytes, params, results)?))
    }

    /// Bytes that a call keeps, as far as it is known; with a first frame for the most results.
    pub(crate) fn keep(&self) -> u32 {
        // SAFETY: the function only computes.
        let first = unsafe { sys::wamr_first_frame_bytes(2 * MAX_RESULTS as u32) };
        self.inner.info.stack_need + first
    }

    /// For C's functions that make and drop an instance.
    pub(crate) fn tables(&self) -> *mut sys::Tables {
        self.inner.tables.get()
    }

    pub(crate) fn handle(&self) -> *mut sys::Module {
        self.inner.handle
    }

    pub(crate) fn info(&self) -> &sys::ModuleInfo {
        &self.inner.info
    }
}

impl core::fmt::Debug for Module {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Module")
            .field("load_bytes", &self.load_bytes())
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}

/// Bytes of sharing a module, beside the module.
pub(crate) const fn inner_bytes() -> u64 {
    estimate::block(Shared::<Inner>::SIZE)
}

fn load(buffer: &Buffer, info: &mut sys::ModuleInfo) -> Result<*mut sys::Module, Error> {
    let mut text = [0u8; C_TEXT];
    let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
    // SAFETY: the buffer's bytes are valid for writing and stay so, unread by Rust, until
    // wamr_unload: `Inner` keeps the buffer, and gives out only its length. `info` and `text` are
    // valid for writing.
    let handle = unsafe {
        let error = text.as_mut_ptr().cast::<c_char>();
        sys::wamr_load(buffer.start().as_ptr(), len, info, error, text.len() as u32)
    };
    if handle.is_null() {
        return Err(Error::from_wamr(
            ErrorKind::BadModule,
            sys::error_text(&text),
        ));
    }
    Ok(handle)
}
