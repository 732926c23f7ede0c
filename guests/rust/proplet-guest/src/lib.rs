//! What a proplet offers its guests, as safe functions: no std, no allocator, no dependencies.
//!
//! A task asks for the capabilities that its guest needs by `PROPLET_CAPS`. A call that breaks a
//! rule traps and does not return: a capability that is not granted, a limit, a pin or a sensor that
//! the board doesn't have. The task's error says which. Only functions that are called are imported.
//! docs/host-api.md has all limits.
#![no_std]

pub mod raw;

use core::{num::NonZeroU32, slice};

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// There is none.
    Absent,
    /// It has this many bytes, more than the buffer. As many as fit are in it, except of a message:
    /// that waits where it is.
    TooLong(usize),
}

fn read(len: i32, buf: &[u8]) -> Result<&[u8], ReadError> {
    let len = usize::try_from(len).map_err(|_| ReadError::Absent)?;
    buf.get(..len).ok_or(ReadError::TooLong(len))
}

/// A variable of the task's environment, in `buf`. There are three more, unless the task sets them:
/// `PROPLET_ID`, and a federated round's `MODEL_DATA` and `DATASET_DATA`.
///
/// # Errors
/// It is not set, or longer than `buf`.
pub fn env<'b>(key: &str, buf: &'b mut [u8]) -> Result<&'b [u8], ReadError> {
    // SAFETY: both are slices.
    let len = unsafe {
        let (buf, cap) = (buf.as_mut_ptr(), buf.len() as u32);
        raw::get_env(key.as_ptr(), key.len() as u32, buf, cap)
    };
    read(len, buf)
}

/// The task's input of that index from 0, as text, in `buf`.
///
/// # Errors
/// There is none, or it is longer than `buf`.
pub fn input(index: u32, buf: &mut [u8]) -> Result<&[u8], ReadError> {
    // SAFETY: a slice.
    let len = unsafe { raw::get_input(index, buf.as_mut_ptr(), buf.len() as u32) };
    read(len, buf)
}

/// The proplet's id, in memory of the guest's exported `malloc`, which is not given back. `None` if
/// there is no malloc or no memory. [`env`] needs neither.
pub fn proplet_id() -> Option<&'static [u8]> {
    copy(raw::get_proplet_id)
}

/// A federated round's model, as [`proplet_id`]; empty if there is none.
pub fn model_data() -> Option<&'static [u8]> {
    copy(raw::get_model_data)
}

/// A federated round's data set, as [`proplet_id`]; empty if there is none.
pub fn dataset_data() -> Option<&'static [u8]> {
    copy(raw::get_dataset_data)
}

type Copy = unsafe extern "C" fn(*mut *mut u8, *mut u32) -> i32;

fn copy(get: Copy) -> Option<&'static [u8]> {
    let (mut start, mut len) = (core::ptr::null_mut(), 0);
    // SAFETY: both can be written to. What is written is a block that malloc gave to this call
    // alone, and that nobody frees.
    unsafe {
        let found = get(&mut start, &mut len) == 1;
        found.then(|| slice::from_raw_parts(start, len as usize))
    }
}

/// Makes `text` the task's result, in place of its function's value. The last one counts.
pub fn set_result(text: &str) {
    // SAFETY: a slice.
    unsafe { raw::publish_result(text.as_ptr(), text.len() as u32) }
}

/// How much a line of log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something may fail.
    Warn,
    /// What the task does.
    Info,
    /// How it does it.
    Debug,
    /// All of it.
    Trace,
}

/// A line for the proplet's log.
pub fn log(level: Level, text: &str) {
    // SAFETY: a slice.
    unsafe { raw::log(level as u32, text.as_ptr(), text.len() as u32) }
}

/// Milliseconds since the proplet's boot. Capability `time`.
pub fn now_ms() -> i64 {
    // SAFETY: no pointers.
    unsafe { raw::now_ms() }
}

/// Sleeps. Capability `time`.
pub fn sleep_ms(ms: u32) {
    // SAFETY: no pointers.
    unsafe { raw::sleep_ms(ms) }
}

/// The task's periodic timer, until it is dropped. There is one for each task: who starts another
/// has it in place of the one before.
#[derive(Debug)]
pub struct Timer(());

impl Timer {
    /// Expires each `period_ms` from now on. Capability `timer`.
    pub fn start(period_ms: NonZeroU32) -> Self {
        // SAFETY: no pointers.
        unsafe { raw::timer_start(period_ms.get()) }
        Self(())
    }

    /// Sleeps until it has expired since the last wait, and returns how often it has.
    pub fn wait(&mut self) -> u32 {
        // SAFETY: no pointers.
        unsafe { raw::timer_wait() }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { raw::timer_stop() }
    }
}

/// Fills `buf` from the proplet's generator. Capability `random`.
pub fn random(buf: &mut [u8]) {
    // SAFETY: a slice.
    unsafe { raw::random(buf.as_mut_ptr(), buf.len() as u32) }
}

/// Publishes on a topic below the channel. Returns whether the message is taken: the one before may
/// still be on its way, or the rate may be exceeded. Capability `publish`.
#[must_use]
pub fn publish(topic: &str, payload: &[u8]) -> bool {
    // SAFETY: two slices.
    let taken = unsafe {
        let (topic, topic_len) = (topic.as_ptr(), topic.len() as u32);
        raw::publish(topic, topic_len, payload.as_ptr(), payload.len() as u32)
    };
    taken != 0
}

/// Asks for the messages of a topic filter below the channel. Returns whether that is taken, as
/// [`publish`] does. Capability `subscribe`.
#[must_use]
pub fn subscribe(filter: &str) -> bool {
    // SAFETY: a slice.
    unsafe { raw::subscribe(filter.as_ptr(), filter.len() as u32) != 0 }
}

/// A message that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'b> {
    /// Its topic below the channel.
    pub topic: &'b str,
    /// Its payload.
    pub payload: &'b [u8],
}

/// The next message, in `buf`. Capability `subscribe`.
///
/// # Errors
/// There is none; or it is longer than `buf`, and stays.
pub fn receive(buf: &mut [u8]) -> Result<Message<'_>, ReadError> {
    let mut topic_len = 0;
    // SAFETY: a slice, and a pointer to what can be written.
    let len = unsafe { raw::receive(buf.as_mut_ptr(), buf.len() as u32, &mut topic_len) };
    let (topic, payload) = read(len, buf)?.split_at(topic_len as usize);
    Ok(Message {
        // A topic is UTF-8: the broker sees to it.
        topic: str::from_utf8(topic).unwrap_or_default(),
        payload,
    })
}

/// How a pin is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinMode {
    /// An input.
    Input,
    /// An input that is high unless somebody drives it.
    InputPullUp,
    /// An input that is low unless somebody drives it.
    InputPullDown,
    /// An output, low at first.
    Output,
}

/// A pin of the board. It stays as it is when the task ends.
#[derive(Debug)]
pub struct Pin(u32);

impl Pin {
    /// Prepares a pin. Capability `gpio`.
    pub fn configure(number: u32, mode: PinMode) -> Self {
        // SAFETY: no pointers.
        unsafe { raw::gpio_configure(number, mode as u32) }
        Self(number)
    }

    /// Sets an output's level.
    pub fn write(&mut self, is_high: bool) {
        // SAFETY: no pointers.
        unsafe { raw::gpio_write(self.0, is_high.into()) }
    }

    /// Whether it is high.
    pub fn read(&self) -> bool {
        // SAFETY: no pointers.
        unsafe { raw::gpio_read(self.0) != 0 }
    }
}

/// What a sensor measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Degrees Celsius.
    AmbientTemperature,
    /// Relative humidity in percent.
    Humidity,
    /// Pascals.
    Pressure,
    /// Lux.
    Light,
    /// Metres per second squared.
    AccelerationX,
    /// Metres per second squared.
    AccelerationY,
    /// Metres per second squared.
    AccelerationZ,
    /// Volts.
    Voltage,
}

/// Measures, in millionths of the channel's unit; `None` if that can't be done now. Capability
/// `sensor`.
pub fn sensor_read(sensor: u32, channel: Channel) -> Option<i64> {
    let mut micro = 0;
    // SAFETY: `micro` can be written to.
    let found = unsafe { raw::sensor_read(sensor, channel as u32, &mut micro) };
    (found != 0).then_some(micro)
}

#[cfg(all(target_arch = "wasm32", feature = "panic-handler"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}
