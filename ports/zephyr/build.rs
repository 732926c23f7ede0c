//! Makes Zephyr's boolean options known as `cfg`s.

fn main() {
    zephyr_build::export_kconfig_bool_options();
}
