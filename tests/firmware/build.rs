//! How Zephyr is found.

use crate::support::{Dir, zephyr::find};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A folder that looks like Zephyr.
fn zephyr(dir: &Dir, name: &str) -> PathBuf {
    let base = dir.path(name);
    fs::create_dir_all(base.join("share/zephyr-package/cmake")).expect("a folder");
    base
}

/// Writes a note as `west zephyr-export` does.
fn register(home: &Path, note: &str, base: &Path) {
    let registry = home.join(".cmake/packages/Zephyr");
    fs::create_dir_all(&registry).expect("a folder");
    let package = base.join("share/zephyr-package/cmake");
    fs::write(registry.join(note), format!("{}\n", package.display())).expect("a note");
}

#[test]
fn zephyr_base_goes_before_the_registry() {
    let dir = Dir::new();
    let (named, registered) = (zephyr(&dir, "named"), zephyr(&dir, "registered"));
    let home = dir.path("home");
    register(&home, "0123", &registered);
    let found = |base: &Path| find(Some(base.as_os_str()), Some(home.as_os_str()));
    assert_eq!(found(&named), Some(named));
    assert_eq!(found(Path::new("")), Some(registered));
    // A wrong ZEPHYR_BASE must not lead to another Zephyr.
    assert_eq!(found(&dir.path("nowhere")), None);
}

#[test]
fn the_registry_may_name_what_is_gone() {
    let dir = Dir::new();
    let home = dir.path("home");
    let found = || find(None, Some(home.as_os_str()));
    assert_eq!(found(), None, "no home");
    register(&home, "0123", &dir.path("gone"));
    fs::write(home.join(".cmake/packages/Zephyr/4567"), "x").expect("a note");
    assert_eq!(found(), None);
    let registered = zephyr(&dir, "registered");
    register(&home, "89ab", &registered);
    assert_eq!(found(), Some(registered));
    assert_eq!(find(None, None), None);
}
