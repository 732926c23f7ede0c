//! The `log` crate's records in Zephyr's log.

use crate::ffi;
use core::{cell::RefCell, ffi::CStr, fmt::Write as _};
use critical_section::Mutex;
use log::{Level, LevelFilter, Log, Metadata, Record};
use zephyr::raw;

/// Longest line in bytes, with its NUL; the rest is cut.
const LINE: usize = 256;

/// The line that is being made. Not on the stack of the thread that logs: a guest does so on a worker's.
static LINE_BUFFER: Mutex<RefCell<Line>> = Mutex::new(RefCell::new(Line {
    bytes: [0; LINE],
    len: 0,
}));

struct ZephyrLog;

impl Log for ZephyrLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => raw::LOG_LEVEL_ERR,
            Level::Warn => raw::LOG_LEVEL_WRN,
            Level::Info => raw::LOG_LEVEL_INF,
            Level::Debug | Level::Trace => raw::LOG_LEVEL_DBG,
        };
        critical_section::with(|cs| {
            let mut line = LINE_BUFFER.borrow_ref_mut(cs);
            line.bytes.fill(0);
            line.len = 0;
            // A line that is cut is an error to `write!`, and a line all the same.
            let _ = write!(line, "{}", record.args());
            if let Ok(text) = CStr::from_bytes_until_nul(&line.bytes) {
                ffi::log(level, text);
            }
        });
    }

    fn flush(&self) {}
}

/// The last byte stays NUL.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl core::fmt::Write for Line {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let room = LINE - 1 - self.len;
        let len = s.len().min(room);
        self.bytes[self.len..self.len + len].copy_from_slice(&s.as_bytes()[..len]);
        self.len += len;
        if len < s.len() {
            return Err(core::fmt::Error);
        }
        Ok(())
    }
}

/// Sends every record to Zephyr's log, which has its own levels.
#[allow(unsafe_code)]
pub fn start() {
    let level = match zephyr::kconfig::CONFIG_PROPLET_LOG_LEVEL as u32 {
        raw::LOG_LEVEL_NONE => LevelFilter::Off,
        raw::LOG_LEVEL_ERR => LevelFilter::Error,
        raw::LOG_LEVEL_WRN => LevelFilter::Warn,
        raw::LOG_LEVEL_INF => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    // SAFETY: the control thread is the only one of Rust's so far, and nothing has logged. The
    // targets without compare-and-swap have no other way. It can fail only the second time.
    unsafe {
        let _ = log::set_logger_racy(&ZephyrLog);
        log::set_max_level_racy(level);
    }
}
