//! Instances, and their calls.

use core::ffi::c_char;

use wamr_sys as sys;

use crate::arena::Booking;
use crate::error::{C_TEXT, Error, ErrorKind, Name, Trap, TrapKind};
use crate::module::Module;
use crate::value::{MAX_CELLS, MAX_RESULTS, Signature, ValType, Value};
use crate::worker::{self, ResumableCall, Worker};

/// Limits of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceConfig {
    /// Bytes of a worker's operand stack that its calls may use. Where that is smaller, so much.
    pub stack_bytes: u32,
    /// Bytes of pages of linear memory that it may hold, rounded down to whole pages, of which it may have
    /// one at least. A guest that writes to more traps. Where memories are flat, bytes of all of the memory.
    pub memory_bytes_max: Option<u64>,
    /// All pages of its linear memory are taken when it is made, and when it grows: then it never lacks
    /// one.
    pub memory_commit: bool,
}

impl Default for InstanceConfig {
    /// All of the stack, and the memory that the module says.
    fn default() -> Self {
        Self {
            stack_bytes: u32::MAX,
            memory_bytes_max: None,
            memory_commit: false,
        }
    }
}

/// Arena bytes of one instance: itself, its linear memory, what is kept of its call, with all that
/// its calls allocated. The module and what it shares is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Held now.
    pub held: u32,
    /// The most at any time.
    pub peak: u32,
}

/// A module's instance, and its call, if it has one. It is data: it may go from thread to thread, and
/// runs while a [`Worker`] steps it.
pub struct Instance {
    /// Its `instance` is this one's handle.
    call: sys::Call,
    account: sys::Account,
    start: Start,
    results: Results,
    /// Dropped after the instance's own `drop`: the instance reads the module until then.
    module: Module,
}

// SAFETY: WAMR's instance knows of no thread, and the worker that runs it only while it does. It, the
// account and what is kept of the call are reached through this value alone; the module is Send.
unsafe impl Send for Instance {}

/// Functions that the module has run first: those at these places of the list that
/// [`Instance::initialise`] begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Due(u8),
    Running(u8),
    Done,
    Failed,
}

/// Types of the results of the last call, from the low bits on: [`BITS`](Self::BITS) for each.
#[derive(Clone, Copy, Debug)]
struct Results(u16);

impl Results {
    /// No type is 0.
    const BITS: usize = 3;
    const NONE: Self = Self(0);

    fn new(signature: &Signature) -> Self {
        const { assert!(MAX_RESULTS * Self::BITS <= u16::BITS as usize) };
        let types = signature.results().iter().rev();
        Self(types.fold(0, |all, ty| all << Self::BITS | (*ty as u16 + 1)))
    }

    fn types(self) -> impl Iterator<Item = ValType> {
        let of = move |place| match self.0 >> (place * Self::BITS) & 7 {
            1 => Some(ValType::I32),
            2 => Some(ValType::I64),
            3 => Some(ValType::F32),
            4 => Some(ValType::F64),
            _ => None,
        };
        (0..MAX_RESULTS).map_while(of)
    }
}

impl Instance {
    /// Instantiates `module`. Runs none of its code.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`], also where the linear memory begins with more pages than it may hold, or
    /// [`ErrorKind::BadInstance`] when a segment doesn't fit.
    pub fn new(module: &Module, config: &InstanceConfig) -> Result<Self, Error> {
        let mut account = sys::Account::default();
        // SAFETY: `account` outlives the booking, and is read only after it.
        let booking = unsafe { Booking::to(&raw mut account) };
        let made = make(module, config);
        drop(booking);
        let per_unit = module.info().credit_per_unit;
        Ok(Self {
            call: sys::Call::new(made?, per_unit, config.stack_bytes),
            account,
            start: Start::Due(0),
            results: Results::NONE,
            module: module.clone(),
        })
    }

    /// Begins the next of what the module wants run first: its start function; `_initialize`, or
    /// else `__wasm_call_ctors`; `__post_instantiate`. False where all have run. To be repeated
    /// whenever one has finished.
    ///
    /// # Errors
    /// [`TrapKind::BadCall`] where one is on its way, or has failed: the instance can't be called
    /// then. [`TrapKind::OutOfMemory`].
    pub fn initialise(&mut self) -> Result<bool, Trap> {
        match self.start {
            Start::Done => return Ok(false),
            Start::Failed => return Err(bad_call(format_args!("{START_FAILED}"))),
            Start::Running(_) => return Err(bad_call(format_args!("{BUSY}"))),
            Start::Due(_) => {}
        }
        let Some((place, index)) = self.next_initialiser() else {
            self.start = Start::Done;
            return Ok(false);
        };
        self.begin(index, &[])?;
        self.start = Start::Running(place);
        Ok(true)
    }

    /// The next function that is run first: its place in the list, and the function.
    fn next_initialiser(&self) -> Option<(u8, u32)> {
        let Start::Due(first) = self.start else {
            return None;
        };
        let all = self.module.info().initialisers();
        let mut due = (0..).zip(all).skip(first.into());
        due.find(|(_, index)| *index != sys::NO_FUNCTION)
    }

    /// Begins a call of an exported function, without running anything. What is known of the
    /// stack that it will use is kept free for it in the arena.
    ///
    /// # Errors
    /// [`TrapKind::BadCall`] when there is no such function, the arguments are not what it takes,
    /// another call is on its way, or [`initialise`](Self::initialise) has not come to its end.
    /// [`TrapKind::OutOfMemory`].
    pub fn call(&mut self, name: &str, args: &[Value]) -> Result<(), Trap> {
        let (index, signature) = self.module.find(name)?;
        let mut cells = [0; MAX_CELLS];
        let argc = lay_out(name, &signature, args, &mut cells)?;
        if self.call.is_some() {
            return Err(bad_call(format_args!("{BUSY}")));
        }
        if self.start == Start::Failed {
            return Err(bad_call(format_args!("{START_FAILED}")));
        }
        if self.next_initialiser().is_some() {
            return Err(bad_call(format_args!("the module is not initialised yet")));
        }
        self.begin(index, cells.get(..argc).unwrap_or_default())?;
        self.results = Results::new(&signature);
        Ok(())
    }

    /// Whether a call is on its way.
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.call.is_some()
    }

    /// Goes on with the call on `worker`: [`enter`](Worker::enter), one
    /// [`step`](crate::Active::step), [`leave`](crate::Active::leave).
    ///
    /// # Errors
    /// As theirs.
    pub fn resume(
        &mut self,
        worker: &mut Worker<'_>,
        fuel: u32,
        context: &dyn core::any::Any,
    ) -> Result<ResumableCall, Trap> {
        let mut active = worker.enter(self)?;
        let outcome = active.step(fuel, context)?;
        active.leave()?;
        Ok(outcome)
    }

    /// Fills `results` as far as it reaches, with those of the call that has finished. Returns how
    /// many the function has.
    pub fn results(&self, results: &mut [Value]) -> usize {
        let mut cells = [0; 2 * MAX_RESULTS];
        let (types, count) = (self.results.types(), self.results.types().count());
        if count > 0 && !self.call.is_some() {
            // SAFETY: no call is on its way, and the last one has finished, or there would be no
            // types: its first frame is kept, which has room for its results.
            unsafe {
                let cells_used = self.results.types().map(|ty| ty.cells()).sum();
                sys::wamr_results(&raw const self.call, cells.as_mut_ptr(), cells_used);
            }
        }
        let mut cells = cells.iter().copied();
        for (result, ty) in results.iter_mut().zip(types) {
            *result = Value::from_cells(ty, &mut cells);
        }
        count
    }

    /// Units of work that all calls so far did. It depends on the guest alone: not on the length of
    /// its steps, nor on who ran between them.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.call.work
    }

    /// Sets how many units of work its calls may do from now on; without it, there is no bound. A
    /// guest that would do more traps with [`TrapKind::OutOfWork`], at the same place whatever the
    /// length of its steps.
    pub fn set_work_left(&mut self, units: u64) {
        self.call.work_left = units;
    }

    /// Bytes of a worker's operand stack that its calls may use.
    #[must_use]
    pub fn stack_bytes(&self) -> u32 {
        self.call.stack_max
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

    /// Arena bytes of [`usage`](Self::usage) in which a call is kept.
    #[must_use]
    pub fn kept_bytes(&self) -> u32 {
        self.call.kept_bytes()
    }

    /// Bytes of linear memory now.
    #[must_use]
    pub fn memory_len(&self) -> u64 {
        // SAFETY: the instance lives while `self`.
        unsafe { sys::wamr_guest_memory_len(self.handle()) }
    }

    /// Pages of linear memory that it holds, of [`page_bytes`](crate::page_bytes) each.
    #[must_use]
    pub fn pages(&self) -> u32 {
        // SAFETY: the instance lives while `self`.
        unsafe { sys::wamr_guest_pages(self.handle()) }
    }

    pub(crate) fn handle(&self) -> *mut sys::Instance {
        self.call.instance
    }

    pub(crate) fn call_mut(&mut self) -> &mut sys::Call {
        &mut self.call
    }

    pub(crate) fn account_mut(&mut self) -> *mut sys::Account {
        &raw mut self.account
    }

    /// The call has finished.
    pub(crate) fn finished(&mut self) {
        if let Start::Running(place) = self.start {
            self.start = Start::Due(place + 1);
        }
    }

    /// The call has trapped, or could not be kept.
    pub(crate) fn failed(&mut self) {
        self.results = Results::NONE;
        if let Start::Running(_) = self.start {
            self.start = Start::Failed;
        }
    }

    fn begin(&mut self, index: u32, cells: &[u32]) -> Result<(), Trap> {
        let keep = self.module.keep();
        // Those of the call before are not kept any more, whether this one begins or not.
        self.results = Results::NONE;
        // SAFETY: no other code reads the account meanwhile.
        let _booking = unsafe { Booking::to(&raw mut self.account) };
        // SAFETY: the call's instance lives, no call is on its way, and `index` is a function of
        // the module that takes as many cells: `find` and `lay_out` have seen to it, and what is
        // run first takes none.
        let has_room = unsafe {
            let argc = cells.len() as u32;
            sys::wamr_begin(&raw mut self.call, index, argc, cells.as_ptr(), keep)
        };
        match has_room {
            true => Ok(()),
            false => Err(worker::no_room_to_leave()),
        }
    }
}

/// A task keeps one for its whole life.
#[cfg(target_pointer_width = "32")]
const _: () = assert!(size_of::<Instance>() == 80);

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: no code reads the account any more.
        let _booking = unsafe { Booking::to(&raw mut self.account) };
        // SAFETY: the call is on no worker's stack, unless it was forgotten there and is not gone on
        // with: an `Active` would borrow the instance. The
        // instance came from `make`, and the module's tables with it.
        unsafe {
            sys::wamr_drop(&raw mut self.call);
            sys::wamr_deinstantiate(self.handle(), self.module.tables());
        }
    }
}

impl core::fmt::Debug for Instance {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Instance")
            .field("module", &self.module)
            .field("usage", &self.usage())
            .field("work", &self.work())
            .finish_non_exhaustive()
    }
}

const START_FAILED: &str = "the module's start function failed before";
const BUSY: &str = "another call is on its way";

#[cold]
#[inline(never)]
pub(crate) fn bad_call(text: core::fmt::Arguments<'_>) -> Trap {
    Trap::new(TrapKind::BadCall, text)
}

// In a frame of its own, since it is not needed while a guest runs: a guest's thread has a small stack.
#[inline(never)]
fn make(module: &Module, config: &InstanceConfig) -> Result<*mut sys::Instance, Error> {
    let mut text = [0u8; C_TEXT];
    let max = config.memory_bytes_max.unwrap_or(u64::MAX);
    // SAFETY: the module is loaded, its tables are its own, and `text` is valid for writing. The
    // start function and the like were taken out of the module when it was loaded, so no guest code
    // runs.
    let handle = unsafe {
        let error = text.as_mut_ptr().cast::<c_char>();
        sys::wamr_instantiate(
            module.handle(),
            module.tables(),
            max,
            config.memory_commit,
            error,
            text.len() as u32,
        )
    };
    if handle.is_null() {
        return Err(Error::from_wamr(
            ErrorKind::BadInstance,
            sys::error_text(&text),
        ));
    }
    Ok(handle)
}

/// Writes the arguments' cells; returns how many.
#[inline(never)]
fn lay_out(
    name: &str,
    signature: &Signature,
    args: &[Value],
    cells: &mut [u32; MAX_CELLS],
) -> Result<usize, Trap> {
    let params = signature.params();
    if args.len() != params.len() {
        let (takes, given) = (params.len(), args.len());
        return Err(bad_call(format_args!(
            "`{}` takes {takes} arguments, {given} given",
            Name(name)
        )));
    }
    let mut free = cells.iter_mut();
    let mut argc = 0;
    for (i, (arg, param)) in args.iter().zip(params).enumerate() {
        if arg.ty() != *param {
            let (n, name, given) = (i + 1, Name(name), arg.ty());
            return Err(bad_call(format_args!(
                "argument {n} of `{name}` is {param:?}, {given:?} given"
            )));
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
