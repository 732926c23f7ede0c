//! The functions of `c/proplet.h`, each behind a safe one: all unsafe code of this crate that calls C.
//! Those that C calls are in `exports`.
#![allow(unsafe_code)]

use crate::header::*;
use core::{
    ffi::{CStr, c_char, c_void},
    mem::MaybeUninit,
    ptr, slice,
    task::{RawWaker, RawWakerVTable, Waker},
};

/// An errno, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The operation would have to wait.
    pub const AGAIN: Self = Self(zephyr::raw::EAGAIN as i32);
    /// There is no such device.
    pub const NO_DEVICE: Self = Self(zephyr::raw::ENODEV as i32);
    /// A request is under way.
    pub const BUSY: Self = Self(zephyr::raw::EBUSY as i32);
    /// The request is not done yet.
    pub const IN_PROGRESS: Self = Self(zephyr::raw::EINPROGRESS as i32);
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

fn check(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno(result.wrapping_neg()))
}

/// A socket that the control thread waits for, with [`PROPLET_READ`] and [`PROPLET_WRITE`].
pub type Wait = proplet_wait;

/// An address and a port.
pub type Address = proplet_address;

/// An event of net_mgmt.
#[cfg(CONFIG_PROPLET_WIFI)]
pub type WifiEvent = proplet_wifi_event;

/// Writes one line to Zephyr's log; `level` is one of LOG_LEVEL_*.
pub fn log(level: u32, text: &CStr) {
    // SAFETY: the text ends with a NUL, and the log copies it.
    unsafe { proplet_log(level, text.as_ptr()) }
}

/// Text for the console, as it is.
#[cfg(CONFIG_PROPLET_BENCH)]
pub fn print(text: &CStr) {
    // SAFETY: the text ends with a NUL, and is written before this returns.
    unsafe { proplet_print(text.as_ptr()) }
}

/// Cycles of the hardware's clock, and how many a second has; for the control thread, which calls
/// it more often than every 2^32 cycles.
#[cfg(CONFIG_PROPLET_BENCH)]
pub fn cycles() -> (u64, u32) {
    let mut per_second = 0;
    // SAFETY: `per_second` can be written to.
    let cycles = unsafe { proplet_cycles(&mut per_second) };
    (cycles, per_second.max(1))
}

/// Starts the threads that run guests; each calls `run` with its number. Waits until each has called
/// [`worker_begun`] or come back; false if one came back.
pub fn workers_start(run: unsafe extern "C" fn(u32)) -> bool {
    // SAFETY: called once, by `boot`, so no thread object is started twice.
    unsafe { proplet_workers_start(Some(run)) }
}

/// This worker has what it needs.
pub fn worker_begun() {
    // SAFETY: counts, and gives a semaphore that is there from the start.
    unsafe { proplet_worker_begun() }
}

/// Waits until a worker is woken, but no longer than `us` microseconds, if those are given.
pub fn worker_wait(us: Option<u32>) {
    // SAFETY: takes a semaphore that is there from the start.
    unsafe { proplet_worker_wait(us.unwrap_or(PROPLET_FOREVER)) }
}

/// Lets one worker through.
pub fn worker_wake() {
    // SAFETY: gives a semaphore that is there from the start.
    unsafe { proplet_worker_wake() }
}

/// Lets the simulated time of `units` branches and calls pass.
#[cfg(CONFIG_ARCH_POSIX)]
pub fn worker_worked(units: u32) {
    // SAFETY: called on a worker, one at a time: the simulator has one processor.
    unsafe { proplet_worker_worked(units) }
}

/// Nanoseconds that this thread has run.
pub fn thread_time() -> u64 {
    // SAFETY: reads the kernel's books of the calling thread.
    unsafe { proplet_thread_time() }
}

/// The malloc arena's largest block; empty if malloc has no room.
pub fn arena() -> &'static mut [MaybeUninit<u8>] {
    let mut len = 0;
    // SAFETY: `len` can be written to.
    let start = unsafe { proplet_arena(&mut len) };
    if start.is_null() {
        return &mut [];
    }
    // SAFETY: malloc gave `len` bytes to this call alone, and they are never freed.
    unsafe { slice::from_raw_parts_mut(start.cast(), len as usize) }
}

/// Microseconds since boot.
pub fn uptime_us() -> u64 {
    // SAFETY: reads the kernel's clock.
    unsafe { proplet_uptime_us() }
}

/// Nanoseconds that all threads but the idle ones have run.
pub fn busy_time() -> u64 {
    // SAFETY: reads the kernel's statistics.
    unsafe { proplet_busy_time() }
}

/// Bytes of RAM that the image takes, and that the board has; 0 on a simulator.
pub fn ram() -> (u32, u32) {
    // SAFETY: both are constants of the image.
    unsafe { (proplet_static_ram(), proplet_ram_total()) }
}

pub fn random() -> u32 {
    // SAFETY: asks the kernel's generator.
    unsafe { proplet_random() }
}

/// Fills `to` from the kernel's generator.
pub fn random_fill(to: &mut [u8]) {
    // SAFETY: `to` can be written to, as long as is said.
    unsafe { proplet_random_fill(to.as_mut_ptr().cast(), to.len() as u32) }
}

/// # Errors
/// [`Errno::NO_DEVICE`] without such a pin; else the driver's.
pub fn gpio_configure(pin: u32, mode: u32) -> Result<(), Errno> {
    // SAFETY: takes any number.
    check(unsafe { proplet_gpio_configure(pin, mode) }).map(drop)
}

/// # Errors
/// As for [`gpio_configure`].
pub fn gpio_write(pin: u32, is_high: bool) -> Result<(), Errno> {
    // SAFETY: takes any number.
    check(unsafe { proplet_gpio_write(pin, is_high) }).map(drop)
}

/// # Errors
/// As for [`gpio_configure`].
pub fn gpio_read(pin: u32) -> Result<bool, Errno> {
    // SAFETY: takes any number.
    check(unsafe { proplet_gpio_read(pin) }).map(|level| level != 0)
}

/// Starts the board's thread, where the board has sensors; it calls `measure` after each
/// [`board_wake`].
pub fn board_start(measure: unsafe extern "C" fn()) {
    // SAFETY: called once, by `boot`, so the thread object is not started twice.
    unsafe { proplet_board_start(Some(measure)) }
}

/// False where the board has no sensors, and so no thread for them.
pub fn board_wake() -> bool {
    // SAFETY: gives a semaphore that is there from the start.
    unsafe { proplet_board_wake() }
}

/// Millionths of the channel's unit. On the board's thread.
///
/// # Errors
/// [`Errno::NO_DEVICE`] without such a sensor or channel; else the driver's.
pub fn sensor_read(sensor: u32, channel: u32) -> Result<i64, Errno> {
    let mut micro = 0;
    // SAFETY: takes any numbers, and `micro` can be written to.
    check(unsafe { proplet_sensor_read(sensor, channel, &mut micro) })?;
    Ok(micro)
}

/// A word for the cause of the last reset.
pub fn reset_cause() -> &'static str {
    // SAFETY: the function returns a string literal of C.
    unsafe { CStr::from_ptr(proplet_reset_cause()) }
        .to_str()
        .unwrap_or("unknown")
}

pub fn watchdog_start() {
    // SAFETY: called once, by `boot`.
    unsafe { proplet_watchdog_start() }
}

pub fn watchdog_feed() {
    // SAFETY: does nothing before the watchdog is started.
    unsafe { proplet_watchdog_feed() }
}

pub fn reboot() {
    // SAFETY: the kernel restarts; nothing of Rust is left to be unsound.
    unsafe { proplet_reboot() }
}

/// Bytes of the calling thread's stack that were never used.
pub fn stack_unused() -> u32 {
    // SAFETY: reads the calling thread's own stack.
    unsafe { proplet_stack_unused() }
}

/// Makes the wake-up descriptor and starts the dialer.
///
/// # Errors
/// If Zephyr has no descriptor left.
pub fn net_start() -> Result<(), Errno> {
    // SAFETY: called once, by `boot`, before anything else of the network.
    check(unsafe { proplet_net_start() }).map(drop)
}

/// Whether a wired interface has an address; true on boards without one.
pub fn net_is_up() -> bool {
    // SAFETY: reads the state of the kernel's interface.
    unsafe { proplet_net_is_up() }
}

/// Ends the control thread's sleep, the present one or the next.
pub fn net_wake() {
    // SAFETY: writes to an eventfd, from any thread.
    unsafe { proplet_net_wake() }
}

/// A waker for the one task of the control thread.
pub fn waker() -> Waker {
    const VTABLE: RawWakerVTable = RawWakerVTable::new(
        |_| RawWaker::new(ptr::null(), &VTABLE),
        |_| net_wake(),
        |_| net_wake(),
        |_| {},
    );
    // SAFETY: the table's functions use no data, so they hold for any number of copies, on any
    // thread.
    unsafe { Waker::from_raw(RawWaker::new(ptr::null(), &VTABLE)) }
}

/// Sleeps until a socket is ready, [`net_wake`] was called, or the time is over.
pub fn net_wait(waits: &[Wait], timeout_ms: i32) {
    // SAFETY: `waits` has as many entries as is said.
    unsafe { proplet_net_wait(waits.as_ptr(), waits.len() as u32, timeout_ms) }
}

/// A socket of the control thread; closed when it is dropped.
#[derive(Debug)]
pub struct Socket(i32);

impl Socket {
    pub const fn fd(&self) -> i32 {
        self.0
    }

    /// Reads what is there; 0 bytes are the end of the stream.
    pub fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let len = buf.len() as u32;
        // SAFETY: `buf` has `len` bytes, and the socket is open while `self` lives.
        check(unsafe { proplet_net_read(self.0, buf.as_mut_ptr().cast(), len) }).map(|n| n as usize)
    }

    /// Writes as much as there is room for.
    pub fn write(&self, buf: &[u8]) -> Result<usize, Errno> {
        let len = buf.len() as u32;
        // SAFETY: as in `read`.
        check(unsafe { proplet_net_write(self.0, buf.as_ptr().cast(), len) }).map(|n| n as usize)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: this is the socket's only owner.
        unsafe { proplet_net_close(self.0) }
    }
}

/// The dialer's one request; abandoned when it is dropped before it is done.
#[derive(Debug)]
pub struct Request {
    done: bool,
}

/// End of a [`Request`].
#[derive(Debug)]
pub enum Answer {
    Address(Address),
    Socket(Socket),
}

impl Request {
    /// Looks a name up.
    ///
    /// # Errors
    /// [`Errno::BUSY`] while there is a request.
    pub fn resolve(host: &CStr) -> Result<Self, Errno> {
        // SAFETY: the name ends with a NUL, and is copied.
        check(unsafe { proplet_net_resolve(host.as_ptr()) })?;
        Ok(Self { done: false })
    }

    /// Connects, and shakes hands with the owner of a certificate for `tls_host`, if given.
    ///
    /// # Errors
    /// [`Errno::BUSY`] while there is a request.
    pub fn connect(to: &Address, tls_host: Option<&CStr>) -> Result<Self, Errno> {
        let host = tls_host.map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: the address can be read, the name ends with a NUL or is null; both are copied.
        check(unsafe { proplet_net_connect(to, host) })?;
        Ok(Self { done: false })
    }

    /// Its end, with PROPLET_CERTIFICATE_* if the peer's certificate was refused; `None` while it is
    /// under way.
    pub fn poll(&mut self, dials: bool) -> Option<(Result<Answer, Errno>, u32)> {
        let (mut address, mut tls_flags) = (Address::default(), 0);
        // SAFETY: both can be written to.
        let result = check(unsafe { proplet_net_poll(&mut address, &mut tls_flags) });
        if result == Err(Errno::IN_PROGRESS) {
            return None;
        }
        self.done = true;
        let answer = result.map(|fd| match dials {
            true => Answer::Socket(Socket(fd as i32)),
            false => Answer::Address(address),
        });
        Some((answer, tls_flags))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.done {
            // SAFETY: the request is this one: there is only one at a time. Its socket, if there
            // is one, is closed there.
            unsafe { proplet_net_abandon() }
        }
    }
}

/// A receiver of settings: name and value.
type Each<'a> = &'a mut dyn FnMut(&str, &str);

unsafe extern "C" fn on_setting(
    context: *mut c_void,
    name: *const c_char,
    name_len: u32,
    value: *const c_char,
    value_len: u32,
) {
    // SAFETY: `with_each` passes its own argument, which outlives the call.
    let each = unsafe { &mut *context.cast::<Each<'_>>() };
    // SAFETY: C passes the lengths of both.
    let (name, value) = unsafe { (bytes(name, name_len), bytes(value, value_len)) };
    let name = str::from_utf8(name).unwrap_or_default();
    // A value that is not UTF-8 becomes one that no setting takes.
    each(name, str::from_utf8(value).unwrap_or("\0"));
}

/// Bytes at `start`; none if it is null.
///
/// # Safety
/// `start` must be valid for `len` bytes during `'a`.
pub unsafe fn bytes<'a>(start: *const c_char, len: u32) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(start.cast(), len as usize) }
}

/// Hands every stored setting to `each`.
///
/// # Errors
/// If nothing can be stored on this device.
pub fn settings_load(mut each: impl FnMut(&str, &str)) -> Result<(), Errno> {
    let mut each: Each<'_> = &mut each;
    let context: *mut Each<'_> = &mut each;
    // SAFETY: `on_setting` gets what it expects, and is not called after the return.
    check(unsafe { proplet_settings_load(Some(on_setting), context.cast()) }).map(drop)
}

/// Hands every setting of the command line to `each`.
#[cfg(CONFIG_ARCH_POSIX)]
pub fn native_settings(mut each: impl FnMut(&str, &str)) {
    let mut each: Each<'_> = &mut each;
    let context: *mut Each<'_> = &mut each;
    // SAFETY: as in `settings_load`.
    unsafe { proplet_native_settings(Some(on_setting), context.cast()) }
}

/// Gives a certificate or a key to Zephyr's TLS; `kind` is one of `PROPLET_TLS_*`.
///
/// # Errors
/// If Zephyr has no room for it, or can't read it.
#[cfg(CONFIG_PROPLET_TLS)]
pub fn tls_add(kind: u32, pem: &'static CStr) -> Result<(), Errno> {
    let len = pem.to_bytes_with_nul().len() as u32;
    // SAFETY: the text is static, and its length counts the NUL.
    check(unsafe { proplet_tls_add(kind, pem.as_ptr(), len) }).map(drop)
}

#[cfg(CONFIG_PROPLET_WIFI)]
pub mod wifi {
    //! net_mgmt's Wi-Fi.
    use super::*;

    /// Registers for the events.
    ///
    /// # Errors
    /// If there is no Wi-Fi interface.
    pub fn start() -> Result<(), Errno> {
        // SAFETY: called once, by `boot`, after `net_start`.
        check(unsafe { proplet_wifi_start() }).map(drop)
    }

    /// The next event, if any.
    pub fn next() -> Option<WifiEvent> {
        let mut event = WifiEvent::default();
        // SAFETY: `event` can be written to.
        unsafe { proplet_wifi_next(&mut event) }.then_some(event)
    }

    /// Asks for an association; its end is an event.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn connect(ssid: &CStr, psk: &CStr) -> Result<(), Errno> {
        // SAFETY: both end with a NUL, and are copied.
        check(unsafe { proplet_wifi_connect(ssid.as_ptr(), psk.as_ptr()) }).map(drop)
    }

    /// # Errors
    /// If the driver refuses.
    pub fn disconnect() -> Result<(), Errno> {
        // SAFETY: a request without arguments.
        check(unsafe { proplet_wifi_disconnect() }).map(drop)
    }

    /// # Errors
    /// If there is no interface for it.
    pub fn dhcp() -> Result<(), Errno> {
        // SAFETY: a request without arguments.
        check(unsafe { proplet_wifi_dhcp() }).map(drop)
    }

    /// # Errors
    /// If the driver refuses.
    pub fn access_point() -> Result<(), Errno> {
        // SAFETY: a request without arguments.
        check(unsafe { proplet_wifi_access_point() }).map(drop)
    }
}

/// A buffer of the shell's, lent to the control thread until [`Page::done`].
#[cfg(CONFIG_SHELL)]
#[derive(Debug)]
pub struct Page {
    start: *mut u8,
    len: usize,
}

// SAFETY: `new` has the promise that one thread at a time has the buffer.
#[cfg(CONFIG_SHELL)]
unsafe impl Send for Page {}

#[cfg(CONFIG_SHELL)]
impl Page {
    /// Takes the buffer of `len` bytes at `start`, at least one.
    ///
    /// # Safety
    /// The buffer must be valid, and untouched by others, until the page is dropped.
    pub unsafe fn new(start: *mut c_char, len: u32) -> Self {
        Self {
            start: start.cast(),
            len: len as usize,
        }
    }

    /// Writes `text`, cut to the room there is, and hands the buffer back.
    pub fn done(self, text: &str) {
        // SAFETY: by the promise of `new`.
        unsafe { write_c_string(text, self.start.cast(), self.len) };
        // SAFETY: gives a semaphore.
        unsafe { proplet_report_done() }
    }
}

/// Writes `text` with a NUL, cut to `len` bytes.
///
/// # Safety
/// `to` must be valid for `len` bytes, at least one.
#[cfg(CONFIG_SHELL)]
pub unsafe fn write_c_string(text: &str, to: *mut c_char, len: usize) {
    let cut = text.len().min(len - 1);
    // SAFETY: `to` has more than `cut` bytes, by the caller's promise.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), cut);
        to.add(cut).write(0);
    }
}

/// Bytes of the store's flash.
#[cfg(CONFIG_PROPLET_STORE)]
pub fn store_len() -> usize {
    // SAFETY: it returns a constant.
    unsafe { proplet_store_len() as usize }
}

/// Makes the store's flash usable.
#[cfg(CONFIG_PROPLET_STORE)]
pub fn store_open() -> Result<(), Errno> {
    // SAFETY: called on the control thread, once, before the functions that follow.
    check(unsafe { proplet_store_open() }).map(drop)
}

/// Reads the store's flash.
#[cfg(CONFIG_PROPLET_STORE)]
pub fn store_read(offset: u32, to: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: the buffer is valid for its length; the driver checks the range of the flash.
    check(unsafe { proplet_store_read(offset, to.as_mut_ptr().cast(), to.len() as u32) }).map(drop)
}

/// Writes to the store's flash, where it is erased.
#[cfg(CONFIG_PROPLET_STORE)]
pub fn store_write(offset: u32, from: &[u8]) -> Result<(), Errno> {
    // SAFETY: as in `store_read`.
    check(unsafe { proplet_store_write(offset, from.as_ptr().cast(), from.len() as u32) }).map(drop)
}

/// Erases pages of the store's flash.
#[cfg(CONFIG_PROPLET_STORE)]
pub fn store_erase(offset: u32, len: u32) -> Result<(), Errno> {
    // SAFETY: the driver checks the range, which is that of the partition alone.
    check(unsafe { proplet_store_erase(offset, len) }).map(drop)
}
