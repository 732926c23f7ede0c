//! Runs the core's unit tests, one after the other. A test that fails panics, and the kernel stops
//! there: then the last line, which twister waits for, never comes.
#![no_std]
// The sources are linted where they live.
#![allow(warnings, clippy::all)]

extern crate alloc;

/// Items of std that the tests use.
pub(crate) mod std {
    pub(crate) use ::alloc::*;
    pub(crate) use core::{cell, iter, mem, ops};

    pub(crate) mod sync {
        pub(crate) use ::alloc::sync::Arc;
        use core::cell::{RefCell, RefMut};

        #[derive(Debug, Default)]
        pub(crate) struct Mutex<T>(RefCell<T>);

        pub(crate) type MutexGuard<'m, T> = RefMut<'m, T>;

        // SAFETY: the suite has one thread.
        unsafe impl<T> Send for Mutex<T> {}
        // SAFETY: as above.
        unsafe impl<T> Sync for Mutex<T> {}

        impl<T> Mutex<T> {
            pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>, core::cell::BorrowMutError> {
                self.0.try_borrow_mut()
            }
        }
    }
}

include!(concat!(env!("OUT_DIR"), "/core/lib.rs"));
include!(concat!(env!("OUT_DIR"), "/core/all.rs"));

#[unsafe(no_mangle)]
extern "C" fn rust_main() {
    let mut passed = 0;
    for (name, test) in TESTS.iter().copied().flatten() {
        zephyr::printkln!("START - {name}");
        test();
        zephyr::printkln!("PASS - {name}");
        passed += 1;
    }
    assert_eq!(passed, COUNT);
    for name in EXCLUDED {
        zephyr::printkln!("EXCLUDED - {name}");
    }
    zephyr::printkln!("core: all of {passed} tests passed");
}
