//! Instances, and calls into them.

use core::cell::Cell;
use core::ffi::{CStr, c_char, c_void};
use core::marker::PhantomData;

use wamr_sys as sys;

use crate::arena::{self, Booking};
use crate::error::{Error, ErrorKind, Trap, TrapKind};
use crate::module::Module;
use crate::runtime::ThreadEnv;
use crate::supervisor::{InterruptHandle, Supervisor, Verdict};
use crate::value::{MAX_CELLS, Signature, Value};

/// What an instance may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceConfig {
    /// Bytes of the operand stack, which the frames of all nested calls share.
    pub stack_bytes: u32,
    /// A bound on the linear memory, in bytes, that only makes it smaller. At or above the initial
    /// size it bounds growth. Below, the guest gets that many bytes, rounded down to a multiple of
    /// 4,096, can't grow, and traps beyond: that is not WebAssembly any more, so it is only for
    /// tasks that ask for it.
    pub memory_bytes_max: Option<u64>,
}

impl Default for InstanceConfig {
    /// 4,096 bytes of stack; the memory that the module says.
    fn default() -> Self {
        Self {
            stack_bytes: 4096,
            memory_bytes_max: None,
        }
    }
}

/// Arena bytes of one instance: instance, execution environment and linear memory, with all that
/// its calls allocated. The module is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Held now.
    pub held: u32,
    /// The most at any time.
    pub peak: u32,
}

/// A module's instance, with the stack that its calls run on.
pub struct Instance<'t> {
    handle: *mut sys::Instance,
    exec_env: *mut sys::ExecEnv,
    account: sys::Account,
    work: u64,
    start: Start,
    interrupt: Option<InterruptHandle>,
    /// Dropped after the instance's own `drop`: the instance reads the module until then.
    module: Module,
    /// Keeps the instance on its thread, and the thread prepared.
    _thread: PhantomData<&'t ThreadEnv>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Due,
    Done,
    Failed,
}

impl<'t> Instance<'t> {
    /// Instantiates `module`. Runs none of its code.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`], or [`ErrorKind::BadInstance`] when a segment doesn't fit.
    pub fn new(_: &'t ThreadEnv, module: &Module, config: &InstanceConfig) -> Result<Self, Error> {
        let mut account = sys::Account::default();
        // SAFETY: `account` outlives the booking, and is read only after it.
        let booking = unsafe { Booking::to(&raw mut account) };
        let made = make(module, config);
        drop(booking);
        let (handle, exec_env) = made?;
        Ok(Self {
            handle,
            exec_env,
            account,
            work: 0,
            start: Start::Due,
            interrupt: None,
            module: module.clone(),
            _thread: PhantomData,
        })
    }

    /// Runs what the module wants run first, once: its start function; `_initialize`, or else
    /// `__wasm_call_ctors`; `__post_instantiate`. [`call`](Self::call) does so by itself.
    ///
    /// # Errors
    /// A trap of any of them. The instance can't be called then.
    #[inline(never)]
    pub fn start(&mut self, supervisor: &dyn Supervisor) -> Result<(), Trap> {
        match self.start {
            Start::Done => return Ok(()),
            Start::Failed => {
                let text = format_args!("the module's start function failed before");
                return Err(Trap::new(TrapKind::BadCall, text));
            }
            Start::Due => self.start = Start::Failed,
        }
        let info = self.module.info();
        for index in [info.start, info.constructors, info.post_instantiate] {
            if index != sys::NO_FUNCTION {
                self.run(index, 0, &mut [0; MAX_CELLS], supervisor)?;
            }
        }
        self.start = Start::Done;
        Ok(())
    }

    /// Calls an exported function, and fills `results` as far as it reaches. Returns how many
    /// results the function has.
    ///
    /// # Errors
    /// [`TrapKind::BadCall`] without running anything when there is no such function, or the
    /// arguments are not what it takes; otherwise what stopped the guest.
    pub fn call(
        &mut self,
        name: &str,
        args: &[Value],
        results: &mut [Value],
        supervisor: &dyn Supervisor,
    ) -> Result<usize, Trap> {
        let (index, signature) = self.module.find(name)?;
        let mut cells = [0; MAX_CELLS];
        let argc = lay_out(name, &signature, args, &mut cells)?;
        self.start(supervisor)?;
        self.run(index, argc, &mut cells, supervisor)?;
        let mut cells = cells.iter().copied();
        for (result, &ty) in results.iter_mut().zip(signature.results()) {
            *result = Value::from_cells(ty, &mut cells);
        }
        Ok(signature.results().len())
    }

    /// Units of work that all calls so far did.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.work
    }

    /// The instance's memory in the arena.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let bytes = |n: isize| u32::try_from(n).unwrap_or(0);
        Usage {
            held: bytes(self.account.held),
            peak: bytes(self.account.peak),
        }
    }

    /// Bytes of linear memory now.
    #[must_use]
    pub fn memory_len(&self) -> u64 {
        // SAFETY: the instance lives while `self`.
        unsafe { sys::wamr_guest_memory_len(self.handle) }
    }

    /// A handle that interrupts this instance from any thread.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`]: it takes a few bytes of the arena, once for each instance.
    pub fn interrupt_handle(&mut self) -> Result<InterruptHandle, Error> {
        if let Some(handle) = &self.interrupt {
            return Ok(handle.clone());
        }
        let handle = InterruptHandle::new()?;
        self.interrupt = Some(handle.clone());
        Ok(handle)
    }

    fn run(
        &mut self,
        index: u32,
        argc: u32,
        cells: &mut [u32; MAX_CELLS],
        supervisor: &dyn Supervisor,
    ) -> Result<(), Trap> {
        let account = &raw mut self.account;
        let run = Run {
            supervisor,
            account,
            interrupt: self.interrupt.as_ref(),
            slice: Cell::new(0),
            work: Cell::new(0),
            end: Cell::new(End::Guest),
        };
        let first = run.next_slice();
        if first == 0 {
            return Err(Trap::new(
                TrapKind::Interrupted,
                format_args!("interrupted"),
            ));
        }
        // SAFETY: while the guest runs, only this thread reads the account, and not while it is
        // being written: `self` is borrowed mutably, and `run` stays here.
        let booking = unsafe { Booking::to(account) };
        // SAFETY: the execution environment belongs to `self.handle`, on this thread, and runs
        // nothing now, since `self` is borrowed mutably. `index` is a function of the module.
        // `cells` has room for MAX_PARAMS wide arguments and MAX_RESULTS wide results, which
        // `Signature` bounds (start functions have neither). `run` outlives the call.
        let ok = unsafe {
            let user = (&raw const run).cast::<c_void>().cast_mut();
            sys::wamr_call(self.exec_env, index, argc, cells.as_mut_ptr(), first, user)
        };
        drop(booking);
        // SAFETY: the execution environment lives while `self`.
        run.finish(unsafe { sys::wamr_slice_left(self.exec_env) });
        self.work += run.work.get();
        if ok { Ok(()) } else { Err(self.trap(&run)) }
    }

    #[inline(never)]
    fn trap(&self, run: &Run<'_>) -> Trap {
        // SAFETY: the instance lives while `self`; the text, if there is one, is its own and
        // NUL-terminated, and nothing writes it before it is copied below.
        let text = unsafe {
            let text = sys::wamr_exception(self.handle);
            if text.is_null() {
                c""
            } else {
                CStr::from_ptr(text)
            }
        };
        let text = sys::error_text(text.to_bytes());
        match run.end.get() {
            End::Interrupted => Trap::new(TrapKind::Interrupted, format_args!("interrupted")),
            End::HostRefused => Trap::from_exception(text, TrapKind::Host),
            End::Guest => Trap::from_exception(text, TrapKind::Other),
        }
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody reads the account any more.
        let booking = unsafe { Booking::to(&raw mut self.account) };
        // SAFETY: both came from `make`, on this thread, and nothing runs on them.
        unsafe {
            sys::wamr_exec_env_delete(self.exec_env);
            sys::wamr_deinstantiate(self.handle);
        }
        drop(booking);
    }
}

impl core::fmt::Debug for Instance<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Instance")
            .field("module", &self.module)
            .field("usage", &self.usage())
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

// What is not needed while a guest runs has a frame of its own: a guest's thread has a small stack.
#[inline(never)]
fn make(
    module: &Module,
    config: &InstanceConfig,
) -> Result<(*mut sys::Instance, *mut sys::ExecEnv), Error> {
    let mut text = [0u8; 128];
    let max = config.memory_bytes_max.unwrap_or(u64::MAX);
    // SAFETY: the module is loaded, and `text` valid for writing. The start function and the like
    // were taken out of the module when it was loaded, so no guest code runs.
    let handle = unsafe {
        let error = text.as_mut_ptr().cast::<c_char>();
        sys::wamr_instantiate(module.handle(), max, error, text.len() as u32)
    };
    if handle.is_null() {
        return Err(Error::from_wamr(
            ErrorKind::BadInstance,
            sys::error_text(&text),
        ));
    }
    // SAFETY: the instance was just made.
    let exec_env = unsafe { sys::wamr_exec_env_new(handle, config.stack_bytes) };
    if exec_env.is_null() {
        // SAFETY: the instance was just made, and has no execution environment.
        unsafe { sys::wamr_deinstantiate(handle) };
        let (stack, free) = (config.stack_bytes, arena::memory().free);
        let text = format_args!("no room for a stack of {stack} bytes: {free} free");
        return Err(Error::new(ErrorKind::OutOfMemory, text));
    }
    Ok((handle, exec_env))
}

/// Writes the arguments' cells; returns how many.
#[inline(never)]
fn lay_out(
    name: &str,
    signature: &Signature,
    args: &[Value],
    cells: &mut [u32; MAX_CELLS],
) -> Result<u32, Trap> {
    let params = signature.params();
    if args.len() != params.len() {
        let (takes, given) = (params.len(), args.len());
        let text = format_args!("`{name}` takes {takes} arguments, {given} given");
        return Err(Trap::new(TrapKind::BadCall, text));
    }
    let mut free = cells.iter_mut();
    let mut argc = 0;
    for (i, (arg, param)) in args.iter().zip(params).enumerate() {
        if arg.ty() != *param {
            let (n, given) = (i + 1, arg.ty());
            let text = format_args!("argument {n} of `{name}` is {param:?}, {given:?} given");
            return Err(Trap::new(TrapKind::BadCall, text));
        }
        let (low, high) = arg.cells();
        for cell in [Some(low), high].into_iter().flatten() {
            if let Some(place) = free.next() {
                *place = cell;
                argc += 1;
            }
        }
    }
    Ok(argc)
}

/// A call in progress. WAMR's user data points to it.
pub(crate) struct Run<'a> {
    supervisor: &'a dyn Supervisor,
    /// The instance's account, which outlives the call.
    account: *const sys::Account,
    interrupt: Option<&'a InterruptHandle>,
    /// The length of the slice that is running; 0 before the first and after the last.
    slice: Cell<u32>,
    /// The units of all slices before.
    work: Cell<u64>,
    end: Cell<End>,
}

/// Who ended the call, where it trapped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Guest,
    HostRefused,
    Interrupted,
}

impl<'a> Run<'a> {
    pub(crate) fn supervisor(&self) -> &'a dyn Supervisor {
        self.supervisor
    }

    pub(crate) fn host_refused(&self) {
        self.end.set(End::HostRefused);
    }

    pub(crate) fn interrupted(&self) {
        self.end.set(End::Interrupted);
    }

    /// The slice is spent. The next one's length; 0 to stop.
    fn next_slice(&self) -> u32 {
        let done = self.slice.get();
        self.work.set(self.work.get() + u64::from(done));
        // SAFETY: the account outlives the call. The arena writes it on this thread alone, and
        // doesn't call back while it does.
        let held = unsafe { (*self.account).held };
        let held = u32::try_from(held).unwrap_or(0);
        let verdict = self.supervisor.slice(done, held);
        let next = match verdict {
            _ if self.interrupt.is_some_and(InterruptHandle::take) => 0,
            Verdict::Continue(units) => units.max(1),
            Verdict::Interrupt => 0,
        };
        if next == 0 {
            self.end.set(End::Interrupted);
        }
        self.slice.set(next);
        next
    }

    /// Counts what was done of a slice of which `left` was left, the last unit not counted.
    fn finish(&self, left: u32) {
        let done = self.slice.replace(0).saturating_sub(1).saturating_sub(left);
        self.work.set(self.work.get() + u64::from(done));
    }
}

/// What the slice hook calls.
///
/// # Safety
/// `run` is what [`Instance::run`] gave to `wamr_call`, which has not returned.
pub(crate) unsafe extern "C" fn on_slice(run: *mut c_void) -> u32 {
    // SAFETY: the caller's promise. The run is on the stack of `Instance::run`, on this thread,
    // and only shared: all that changes in it are cells.
    unsafe { run.cast::<Run<'_>>().as_ref() }.map_or(0, Run::next_slice)
}
