//! A stack of 1 KiB in place of rustc's 1 MiB: a recursion that runs away ends soon, and the pages of
//! stack and data are in the same tables. rustc puts the stack below the data, where an overflow traps
//! and has overwritten nothing, and exports `__data_end` and `__heap_base`, by which WAMR checks the
//! stack pointer.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-zstack-size=1024");
}
