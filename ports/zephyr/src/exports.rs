//! The functions that C calls: by zephyr-lang-rust's `main`, and by `c/shell.c` on the shell's thread.
#![allow(unsafe_code)]

use crate::boot;

/// The entry point, on the control thread.
// SAFETY: no other item of this name is linked.
#[unsafe(no_mangle)]
extern "C" fn rust_main() {
    boot::run();
}

#[cfg(CONFIG_SHELL)]
mod shell {
    use crate::{
        boot,
        ffi::{self, Page, bytes, write_c_string},
        header, platform, report, settings,
    };
    use core::{
        ffi::{CStr, c_char},
        ptr,
    };

    // The exported functions have the types that c/proplet.h declares.
    const _: () = {
        const fn of_one_type<F: Copy>(_: [F; 2]) {}
        of_one_type([header::proplet_report_ask, proplet_report_ask]);
        of_one_type([header::proplet_report_retract, proplet_report_retract]);
        of_one_type([header::proplet_ask_reboot, proplet_ask_reboot]);
        of_one_type([header::proplet_setting_name, proplet_setting_name]);
        of_one_type([header::proplet_setting_apply, proplet_setting_apply]);
        of_one_type([header::proplet_setting_check, proplet_setting_check]);
    };

    /// Asks the control thread for a page. The caller waits for `proplet_report_done` then.
    // SAFETY: no other item of this name is linked; the same holds for those that follow.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn proplet_report_ask(page: u32, out: *mut c_char, out_len: u32) {
        // SAFETY: the shell's thread waits, and does not touch the buffer, until `done` or a retraction.
        report::ask(page, unsafe { Page::new(out, out_len) });
        ffi::net_wake();
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn proplet_report_retract() -> bool {
        report::retract()
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn proplet_ask_reboot() {
        platform::ask_shutdown();
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn proplet_setting_name(index: u32, secret: *mut bool) -> *const c_char {
        let Some((name, is_secret)) = settings::name(index as usize) else {
            return ptr::null();
        };
        // SAFETY: C passes a place for it.
        unsafe { secret.write(is_secret) };
        name.as_ptr()
    }

    /// Changes what can change while guests run; the value has been checked.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn proplet_setting_apply(
        name: *const c_char,
        value: *const c_char,
        value_len: u32,
    ) -> bool {
        // SAFETY: the name ends with a NUL; the value has `value_len` bytes.
        let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, value_len)) };
        let number = || str::from_utf8(value).ok()?.parse().ok();
        match name.to_str() {
            Ok("slice") => boot::set_slices(number(), None),
            Ok("slice_ms") => boot::set_slices(None, number()),
            _ => false,
        }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn proplet_setting_check(
        name: *const c_char,
        value: *const c_char,
        value_len: u32,
        out: *mut c_char,
        out_len: u32,
    ) -> bool {
        // SAFETY: the name ends with a NUL; the value has `value_len` bytes.
        let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, value_len)) };
        let name = name.to_str().unwrap_or_default();
        // By reference: a move would be a second text on the stack.
        let checked = settings::check(name, str::from_utf8(value).unwrap_or("\0"));
        let Err(error) = &checked else {
            return true;
        };
        // SAFETY: `out` has `out_len` bytes.
        unsafe { write_c_string(error, out, out_len as usize) };
        false
    }
}
