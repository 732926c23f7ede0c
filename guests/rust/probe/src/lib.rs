//! Calls everything that a proplet offers once: the tests of `crates/engine` run it.
#![no_std]

use core::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
};
use proplet_guest::{Channel, Level, Pin, PinMode, ReadError, Timer};

/// Memory for what the proplet copies; in words, for its alignment.
static HEAP: [AtomicU32; 64] = [const { AtomicU32::new(0) }; 64];
static USED: AtomicUsize = AtomicUsize::new(0);

#[unsafe(no_mangle)]
extern "C" fn malloc(len: usize) -> *const AtomicU32 {
    let used = USED.load(Relaxed);
    let next = used + len.div_ceil(4);
    USED.store(next, Relaxed);
    if next > HEAP.len() {
        return core::ptr::null();
    }
    &raw const HEAP[used]
}

#[unsafe(no_mangle)]
extern "C" fn free(_: *const AtomicU32) {}

/// Returns the line where something was not as expected, or 0.
macro_rules! expect {
    ($condition:expr) => {
        if !$condition {
            return line!() as i32;
        }
    };
}

#[unsafe(export_name = "main")]
extern "C" fn run(_: i32) -> i32 {
    let mut buf = [0; 64];
    expect!(
        proplet_guest::proplet_id().is_some_and(|id| id.len() == 36 && id.starts_with(b"3fe9"))
    );
    expect!(proplet_guest::model_data() == Some(b"the model"));
    expect!(proplet_guest::dataset_data() == Some(b""));
    expect!(proplet_guest::env("MODEL_DATA", &mut buf).is_ok_and(|data| data == b"the model"));
    expect!(proplet_guest::env("OTHER", &mut buf) == Err(ReadError::Absent));
    expect!(proplet_guest::env("PROPLET_ID", &mut buf[..35]) == Err(ReadError::TooLong(36)));
    expect!(proplet_guest::input(1, &mut buf).is_ok_and(|input| input == b"put"));
    expect!(proplet_guest::input(2, &mut buf) == Err(ReadError::Absent));
    proplet_guest::log(Level::Debug, "a line");
    let before = proplet_guest::now_ms();
    proplet_guest::sleep_ms(3);
    expect!(proplet_guest::now_ms() >= before + 3);
    let mut timer = Timer::start(NonZeroU32::MIN);
    expect!(timer.wait() >= 1);
    drop(timer);
    proplet_guest::random(&mut buf);
    expect!(proplet_guest::subscribe("to/+"));
    while !proplet_guest::publish("from/guest", b"hi") {
        proplet_guest::sleep_ms(1);
    }
    expect!(proplet_guest::receive(&mut buf[..4]) == Err(ReadError::TooLong(13)));
    expect!(
        proplet_guest::receive(&mut buf)
            .is_ok_and(|message| message.topic == "to/guest" && message.payload == b"hello")
    );
    expect!(proplet_guest::receive(&mut buf) == Err(ReadError::Absent));
    expect!(Pin::configure(1, PinMode::InputPullUp).read());
    let mut pin = Pin::configure(0, PinMode::Output);
    expect!(!pin.read());
    pin.write(true);
    expect!(pin.read());
    expect!(proplet_guest::sensor_read(0, Channel::AmbientTemperature) == Some(-1_250_001));
    expect!(proplet_guest::sensor_read(1, Channel::Voltage).is_none());
    proplet_guest::set_result("done");
    0
}
