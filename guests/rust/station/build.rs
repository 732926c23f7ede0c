//! What makes the module small in WAMR. A module that says where its data end and never grows its
//! memory is cut to that, in steps of 4,096 bytes, in place of pages of 65,536. rustc already
//! exports `__data_end` and `__heap_base`, and puts the stack below the data, where an overflow
//! traps and has overwritten nothing; but it makes the stack 1 MiB.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-zstack-size=1024");
}
