//! As in `filter`, with a larger stack: the text that is read lies there.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-zstack-size=5120");
    // The profile's strip does not reach a package with a level of its own.
    println!("cargo::rustc-link-arg-cdylib=--strip-all");
}
