//! Workers: the means of a thread to run guests.

use core::any::Any;
use core::cell::Cell;
use core::ffi::{CStr, c_void};
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::task::Poll;

use wamr_sys as sys;

use crate::arena::{self, Booking};
use crate::error::{Error, ErrorKind, Trap, TrapKind};
use crate::host;
use crate::instance::{Instance, bad_call};
use crate::runtime::ThreadEnv;

/// A thread's operand stack, on which all its guests run in turn, and what it knows of their code.
pub struct Worker<'t> {
    raw: NonNull<sys::Worker>,
    stack_bytes: u32,
    /// Keeps it on its thread, and the thread prepared.
    _thread: PhantomData<&'t ThreadEnv>,
}

/// How a step of a call ended, where it did not trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ResumableCall {
    /// The function has returned: [`Instance::results`] has what.
    Finished,
    /// The step's fuel is used. The call goes on in the next step, on any worker.
    OutOfFuel,
    /// A host function waits. It is asked again in the next step.
    Blocked,
}

impl<'t> Worker<'t> {
    /// A worker whose operand stack has `stack_bytes`, which the frames of all nested calls of a
    /// guest share. A guest takes none of it while another runs.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub fn new(_: &'t ThreadEnv, stack_bytes: u32) -> Result<Self, Error> {
        let _none = Booking::to_none();
        // SAFETY: the runtime is started, and this thread prepared: `ThreadEnv` proves it.
        let raw = NonNull::new(unsafe { sys::wamr_worker_new(stack_bytes) });
        let raw = raw.ok_or_else(|| no_stack(stack_bytes))?;
        Ok(Self {
            raw,
            stack_bytes,
            _thread: PhantomData,
        })
    }

    /// Arena bytes of a worker with such a stack.
    #[must_use]
    pub fn needs(stack_bytes: u32) -> u32 {
        // SAFETY: the function only computes.
        unsafe { sys::wamr_worker_bytes(stack_bytes) }
    }

    /// Puts the call of `instance` on the stack, for as many steps as its place is kept.
    ///
    /// # Errors
    /// [`TrapKind::BadCall`] where there is no call, or its [`Active`] was forgotten, and it with
    /// that; [`TrapKind::OperandStackOverflow`] where the stack is too small for what it has on it.
    /// The call is as before.
    pub fn enter<'a>(&'a mut self, instance: &'a mut Instance) -> Result<Active<'a>, Trap> {
        let call = instance.call_mut();
        if !call.is_some() {
            return Err(bad_call(format_args!("no call to go on with")));
        }
        if call.is_entered() {
            return Err(bad_call(format_args!("the call was forgotten on a stack")));
        }
        // SAFETY: nothing on the worker's stack is needed: an `Active` borrows the worker until it
        // has left, and the call of one that was forgotten is never gone on with. The call outlives
        // the `Active`, which borrows it.
        if !unsafe { sys::wamr_enter(self.raw.as_ptr(), call) } {
            let text = format_args!("wasm operand stack overflow");
            return Err(Trap::new(TrapKind::OperandStackOverflow, text));
        }
        Ok(Active {
            worker: self.raw,
            instance,
        })
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        let _none = Booking::to_none();
        // SAFETY: it came from wamr_worker_new, and no `Active` borrows it any more.
        unsafe { sys::wamr_worker_delete(self.raw.as_ptr()) };
    }
}

impl core::fmt::Debug for Worker<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Worker")
            .field("stack_bytes", &self.stack_bytes)
            .finish_non_exhaustive()
    }
}

#[cold]
#[inline(never)]
fn no_stack(stack: u32) -> Error {
    let free = arena::memory().free;
    let text = format_args!("no room for a stack of {stack} bytes: {free} free");
    Error::new(ErrorKind::OutOfMemory, text)
}

/// A call on its worker's stack. Dropped, the call is taken off it: what it has there moves to the
/// arena, if it goes on.
pub struct Active<'a> {
    worker: NonNull<sys::Worker>,
    instance: &'a mut Instance,
}

impl Active<'_> {
    /// Goes on with the call until it ends, or has used `fuel`, or a host function waits. With
    /// `context`, host functions know what they are called for.
    ///
    /// A unit of fuel pays for a unit of work, and for what is no work but takes time, such as finding
    /// the end of a block for the first time. It is bounded, but what can't be cut is done whole: the
    /// excess is a debt of the next steps. Without fuel a step does nothing.
    ///
    /// # Errors
    /// The trap that stopped the guest; the call has ended. [`TrapKind::BadCall`] without a call.
    pub fn step(&mut self, fuel: u32, context: &dyn Any) -> Result<ResumableCall, Trap> {
        if !self.instance.call_mut().is_some() {
            return Err(bad_call(format_args!("no call to go on with")));
        }
        let run = Run {
            context,
            refused: Cell::new(false),
        };
        // SAFETY: the account outlives the booking, and is not read while guest code runs: the
        // instance is borrowed mutably.
        let booking = unsafe { Booking::to(self.instance.account_mut()) };
        let outcome = self.outcome(fuel, &run);
        drop(booking);
        match outcome {
            sys::FINISHED => {
                self.instance.finished();
                Ok(ResumableCall::Finished)
            }
            sys::OUT_OF_FUEL => Ok(ResumableCall::OutOfFuel),
            sys::BLOCKED => Ok(ResumableCall::Blocked),
            _ => {
                self.instance.failed();
                Err(trap(self.instance, &run))
            }
        }
    }

    /// Whose call it is.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        self.instance
    }

    fn outcome(&mut self, fuel: u32, run: &Run<'_>) -> u32 {
        let worker = self.worker.as_ptr();
        let user = (&raw const *run).cast::<c_void>().cast_mut();
        // SAFETY: the call is on the worker's stack, on this thread: neither is `Send`. `run`
        // outlives all that is done here, and wamr_run and wamr_wait forget it.
        unsafe {
            if !sys::wamr_fuel(worker, fuel, user) {
                return sys::OUT_OF_FUEL;
            }
            let waiting = self.instance.call_mut().waiting;
            if !waiting.is_null() && poll(worker, waiting, run).is_pending() {
                return sys::BLOCKED;
            }
            sys::wamr_run(worker)
        }
    }

    /// Takes the call off the stack.
    ///
    /// # Errors
    /// [`TrapKind::OutOfMemory`] where the arena has no room for what it has there: it has ended.
    pub fn leave(self) -> Result<(), Trap> {
        let mut this = core::mem::ManuallyDrop::new(self);
        if this.take_off() {
            return Ok(());
        }
        Err(no_room_to_leave())
    }

    fn take_off(&mut self) -> bool {
        // SAFETY: as in `step`.
        let _booking = unsafe { Booking::to(self.instance.account_mut()) };
        // SAFETY: the call is on the worker's stack, and is taken off it just once: by `leave`,
        // which forgets `self`, or by `drop`.
        let has_room = unsafe { sys::wamr_leave(self.worker.as_ptr()) };
        if !has_room {
            self.instance.failed();
        }
        has_room
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let _ = self.take_off();
    }
}

#[cold]
#[inline(never)]
pub(crate) fn no_room_to_leave() -> Trap {
    let free = arena::memory().free;
    Trap::new(
        TrapKind::OutOfMemory,
        format_args!(
            "out of memory: no room for what the guest has on the stack, {free} bytes free"
        ),
    )
}

/// Asks a host function that waited. Pending where it waits on; else it has given its result, raised
/// an exception, or used the work up: what there is to be done is `wamr_run`'s.
///
/// # Safety
/// The call on the worker's stack waits for `waiting`, which [`host::trampoline`] noted.
unsafe fn poll(worker: *mut sys::Worker, waiting: *const c_void, run: &Run<'_>) -> Poll<()> {
    let mut args = [0; sys::BLOCKING_ARGS];
    // SAFETY: the caller's promise; there is room for the arguments. What is waited for is a static
    // `HostFunction`.
    let (function, count, env) = unsafe {
        let count = sys::wamr_blocked_args(worker, args.as_mut_ptr());
        let function = &*waiting.cast::<host::HostFunction>();
        (function, count, sys::wamr_worker_env(worker))
    };
    let args = args.get_mut(..count as usize).unwrap_or_default();
    match host::poll(function, env, run, args) {
        Poll::Pending => {
            // SAFETY: the caller's promise, and as many arguments as there were.
            match unsafe { sys::wamr_wait(worker, args.as_ptr(), count) } {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        }
        Poll::Ready(true) => {
            let result = args.first().copied().unwrap_or_default();
            // SAFETY: the guest's frame has room for the result, which its call left a place for.
            unsafe { sys::wamr_unblock(worker, result, host::result_cells(function.signature)) };
            Poll::Ready(())
        }
        Poll::Ready(false) => Poll::Ready(()),
    }
}

/// A step in progress. WAMR's user data points to it.
pub(crate) struct Run<'a> {
    context: &'a dyn Any,
    /// A host function raised the exception.
    refused: Cell<bool>,
}

impl<'a> Run<'a> {
    pub(crate) fn context(&self) -> &'a dyn Any {
        self.context
    }

    pub(crate) fn host_refused(&self) {
        self.refused.set(true);
    }
}

#[cold]
#[inline(never)]
fn trap(instance: &Instance, run: &Run<'_>) -> Trap {
    // SAFETY: the instance lives; the text, if there is one, is its own and NUL-terminated, and
    // nothing writes it before it is copied below.
    let text = unsafe {
        let text = sys::wamr_exception(instance.handle());
        if text.is_null() {
            c""
        } else {
            CStr::from_ptr(text)
        }
    };
    let fallback = match run.refused.get() {
        true => TrapKind::Host,
        false => TrapKind::Other,
    };
    Trap::from_exception(sys::error_text(text.to_bytes()), fallback)
}
