//! Functions that the host offers to guests.

use core::any::Any;
use core::ffi::{CStr, c_void};
use core::fmt::{self, Write as _};
use core::mem::size_of;
use core::ptr::NonNull;
use core::task::Poll;

use wamr_sys as sys;

use crate::arena;
use crate::error::{Error, Text};
use crate::runtime::Runtime;
use crate::worker::Run;

/// A host function. It gets one `u64` for each parameter, and at least one; 32-bit values are in its low half,
/// above which the bits are 0. A result goes into the first.
///
/// It must not wait: where it has to, it is pending, and its guest is left. It is asked again
/// when the guest's next step begins, with the arguments as it left them; it has 8 at most.
pub type HostCall = fn(&mut Caller<'_>, &mut [u64]) -> Poll<Result<(), HostError>>;

/// A function that guests can import.
#[derive(Debug)]
pub struct HostFunction {
    /// The module that guests name in the import, such as `env`.
    pub module: &'static CStr,
    /// The name.
    pub name: &'static CStr,
    /// Parameters in parentheses and at most one result after: `i` is i32, `I` i64, `f` f32, `F`
    /// f64, as in `(iI)i`. Guest pointers are `i`.
    pub signature: &'static CStr,
    /// Its implementation.
    pub call: HostCall,
}

/// Why a host function refused; the guest traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError {
    text: &'static CStr,
}

impl HostError {
    /// With a text for the trap.
    #[must_use]
    pub const fn new(text: &'static CStr) -> Self {
        Self { text }
    }
}

/// The text of what WAMR has already raised: raising it again changes nothing.
const PENDING: HostError = HostError::new(c"");

/// The guest that called a host function. Its memory is copied in and out; no reference into it is given
/// out, so it need not be in one piece.
pub struct Caller<'a> {
    exec_env: NonNull<sys::ExecEnv>,
    run: &'a Run<'a>,
    again: bool,
}

impl<'a> Caller<'a> {
    /// The runtime that runs it.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        Runtime::of_caller()
    }

    /// The context of the step, if it is a `T`.
    #[must_use]
    pub fn context<T: Any>(&self) -> Option<&'a T> {
        self.run.context().downcast_ref()
    }

    /// Whether the function was pending before, and is asked again.
    #[must_use]
    pub fn is_asked_again(&self) -> bool {
        self.again
    }

    /// Whether `len` bytes at `offset` are the guest's memory; reads and writes none of it. No bytes are
    /// nowhere: any offset will do.
    ///
    /// # Errors
    /// When a byte of it lies outside the guest's memory.
    pub fn check(&self, offset: u32, len: u32) -> Result<(), HostError> {
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the execution environment is the one that called this host function; any offset and
        // length will do.
        copied(unsafe {
            let instance = sys::wamr_instance_of(self.exec_env.as_ptr());
            sys::wamr_guest_check(instance, offset, len)
        })
    }

    /// Copies guest memory at `offset` into `to`.
    ///
    /// # Errors
    /// When a byte of it lies outside the guest's memory; then `to` is as it was.
    pub fn read(&self, offset: u32, to: &mut [u8]) -> Result<(), HostError> {
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: the execution environment is the one that called this host function. The guest waits
        // for it, and its memory is its own thread's alone; `to` is the host's, and has room for
        // as many bytes as are copied, or fewer where it has 4 GiB, which no guest has.
        copied(unsafe {
            let len = u32::try_from(to.len()).unwrap_or(u32::MAX);
            let instance = sys::wamr_instance_of(self.exec_env.as_ptr());
            sys::wamr_guest_read(instance, offset, to.as_mut_ptr(), len)
        })
    }

    /// Copies `from` into guest memory at `offset`.
    ///
    /// # Errors
    /// When a byte of it lies outside the guest's memory; then nothing is written.
    pub fn write(&mut self, offset: u32, from: &[u8]) -> Result<(), HostError> {
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: as in `read`, with the directions exchanged.
        copied(unsafe {
            let len = u32::try_from(from.len()).unwrap_or(u32::MAX);
            sys::wamr_guest_write(self.exec_env.as_ptr(), offset, from.as_ptr(), len)
        })
    }

    /// Allocates by the guest's own exported `malloc` (with `free` exported too), and gives the
    /// offset. It runs guest code, which can't be left: 65,536 units of work at most, which count as
    /// the guest's.
    ///
    /// # Errors
    /// When the guest exports none, has no room, does more or traps.
    pub fn alloc_in_guest(&mut self, len: u32) -> Result<u32, HostError> {
        // SAFETY: the execution environment is the one that called this host function.
        let offset = unsafe { sys::wamr_guest_malloc(self.exec_env.as_ptr(), len) };
        if offset == 0 {
            return Err(HostError::new(c"the guest's malloc failed"));
        }
        Ok(offset)
    }

    /// Counts `units` of work for what this function does, beside the one of its call. Where the step
    /// has no fuel for them it ends before the guest's next instruction, and they are a debt of the
    /// next.
    pub fn charge(&self, units: u32) {
        // SAFETY: the execution environment is the one that called this host function.
        unsafe { sys::wamr_host_charge(self.exec_env.as_ptr(), units) };
    }

    /// The refusal with a text that is made now, cut at the 116 bytes that WAMR keeps of an
    /// exception; to be returned. The guest traps in any case.
    #[cold]
    #[inline(never)]
    pub fn refuse(&self, text: fmt::Arguments<'_>) -> HostError {
        // Not `new`, which would have the text on this stack twice.
        let mut bounded = Text::EMPTY;
        // It cuts, and never fails.
        let _ = bounded.write_fmt(text);
        raise(self.exec_env, self.run, bounded.as_c_str());
        PENDING
    }
}

/// WAMR has raised what it means that a copy was not made.
fn copied(made: bool) -> Result<(), HostError> {
    if made { Ok(()) } else { Err(PENDING) }
}

/// Registers the functions, in as many groups as they have modules next to each other.
pub(crate) fn register(_: Runtime, functions: &'static [HostFunction]) -> Result<(), Error> {
    for group in functions.chunk_by(|a, b| a.module == b.module) {
        let symbols = arena::allocate(size_of::<sys::NativeSymbol>() * group.len())?.cast();
        for (i, function) in group.iter().enumerate() {
            let symbol = sys::NativeSymbol {
                symbol: function.name.as_ptr(),
                function: trampoline as *const c_void,
                signature: function.signature.as_ptr(),
                attachment: (&raw const *function).cast(),
            };
            // SAFETY: the block is new and has room for the group; its alignment of 8 is enough.
            unsafe { symbols.add(i).write(symbol) };
        }
        let Some(first) = group.first() else { continue };
        // SAFETY: the array has `group.len()` symbols, whose texts and attachments are static, and
        // is never given back. The function is a `RawFunction`, as this way of registering asks.
        let ok = unsafe {
            sys::wamr_register(first.module.as_ptr(), symbols.as_ptr(), group.len() as u32)
        };
        if !ok {
            return Err(Error::from_wamr(
                crate::ErrorKind::OutOfMemory,
                "allocate memory failed",
            ));
        }
    }
    Ok(())
}

/// Entry of every host function, called by WAMR.
unsafe extern "C" fn trampoline(exec_env: *mut sys::ExecEnv, args: *mut u64) {
    // SAFETY: WAMR passes the guest's execution environment, inside `Active::step`, which set a run
    // as user data and keeps it until the step ends; and the attachment is one that `register` gave,
    // a static `HostFunction`.
    let (function, run) = unsafe {
        let function = sys::wasm_runtime_get_function_attachment(exec_env);
        let run = sys::wasm_runtime_get_user_data(exec_env);
        (
            function.cast::<HostFunction>().as_ref(),
            run.cast::<Run<'_>>().as_ref(),
        )
    };
    let (Some(function), Some(run), Some(exec_env)) = (function, run, NonNull::new(exec_env))
    else {
        return;
    };
    let count = params(function.signature).max(1);
    // SAFETY: WAMR passes an array with room for 16 arguments, or for all where they are more; the
    // import has as many parameters as the signature says: loading refuses any other.
    let args = unsafe { core::slice::from_raw_parts_mut(args, count) };
    if call(function, exec_env, run, args, false).is_pending() {
        // SAFETY: as above; the function is static.
        let blocked = unsafe {
            let waiting = (&raw const *function).cast();
            sys::wamr_block(exec_env.as_ptr(), waiting, args.as_ptr(), count as u32)
        };
        if !blocked {
            raise(exec_env, run, c"a host function can't wait here");
        }
    }
}

/// Asks a function again that was pending. Ready with true where it has left its result in the first
/// argument, with false where it has raised an exception.
pub(crate) fn poll(
    function: &HostFunction,
    exec_env: *mut sys::ExecEnv,
    run: &Run<'_>,
    args: &mut [u64],
) -> Poll<bool> {
    match NonNull::new(exec_env) {
        Some(exec_env) => call(function, exec_env, run, args, true),
        None => Poll::Ready(false),
    }
}

fn call(
    function: &HostFunction,
    exec_env: NonNull<sys::ExecEnv>,
    run: &Run<'_>,
    args: &mut [u64],
    again: bool,
) -> Poll<bool> {
    let mut caller = Caller {
        exec_env,
        run,
        again,
    };
    (function.call)(&mut caller, args).map(|result| match result {
        Ok(()) => true,
        Err(error) => {
            raise(exec_env, run, error.text);
            false
        }
    })
}

/// Raises an exception, unless WAMR has raised one, such as for a bad pointer: that is the better
/// text.
fn raise(exec_env: NonNull<sys::ExecEnv>, run: &Run<'_>, text: &CStr) {
    // SAFETY: the execution environment is the running guest's, and the text is NUL-terminated.
    unsafe {
        let instance = sys::wamr_instance_of(exec_env.as_ptr());
        if sys::wamr_exception(instance).is_null() {
            run.host_refused();
            sys::wamr_throw(instance, text.as_ptr());
        }
    }
}

/// The parameters in a signature.
fn params(signature: &CStr) -> usize {
    signature
        .to_bytes()
        .iter()
        .skip(1)
        .take_while(|&&c| c != b')')
        .count()
}

/// Cells of the result in a signature.
pub(crate) fn result_cells(signature: &CStr) -> u32 {
    match signature.to_bytes().last() {
        Some(b'i' | b'f') => 1,
        Some(b'I' | b'F') => 2,
        _ => 0,
    }
}
