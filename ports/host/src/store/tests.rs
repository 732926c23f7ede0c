use super::*;
use proplet::module::table::digest;
use std::{cell::Cell, sync::Mutex, time::Duration};
use tempfile::TempDir;

const LIMIT: u64 = 100;

fn module(name: u8, len: usize) -> (Digest, Vec<u8>) {
    let bytes = vec![name; len];
    (digest(&bytes), bytes)
}

fn record(name: u8, len: usize, value: u8) -> Vec<u8> {
    let mut record = module(name, len).0.to_vec();
    record.push(value);
    record
}

fn open(folder: &TempDir) -> FolderStore {
    FolderStore::open(folder.path().join("a/b"), LIMIT).unwrap()
}

fn write(store: &mut FolderStore, name: u8, len: usize) -> Result<(), String> {
    let (digest, bytes) = module(name, len);
    let (bytes, seal) = bytes.split_at(len / 2);
    let written = store.write_module(&digest, bytes, seal);
    written.map_err(|err| err.as_str().to_owned())
}

/// Names of the modules that are there with all their bytes, of those with these lengths.
fn modules(store: &mut FolderStore, of: &[(u8, usize)]) -> Vec<u8> {
    let whole = |(name, len)| {
        let (digest, bytes) = module(name, len);
        let mut read = vec![0; store.module_len(&digest)?];
        store.read_module(&digest, &mut read).unwrap();
        assert_eq!(read, bytes);
        Some(name)
    };
    of.iter().copied().filter_map(whole).collect()
}

fn read_record(store: &mut FolderStore, index: u8) -> Result<Option<Vec<u8>>, Text> {
    let mut record = [0; RECORD_MAX];
    let len = store.read_record(index, &mut record)?;
    Ok(len.map(|len| record[..len].to_vec()))
}

fn read_note(store: &mut FolderStore, index: u8) -> Result<Option<Vec<u8>>, Text> {
    let mut note = [0; NOTE_MAX];
    let len = store.read_note(index, &mut note)?;
    Ok(len.map(|len| note[..len].to_vec()))
}

#[test]
fn notes_are_there_after_a_restart_and_take_no_room_from_modules() {
    let folder = TempDir::new().unwrap();
    let mut store = open(&folder);
    store.write_note(0, &[1; NOTE_MAX]).unwrap();
    store.write_note(254, b"last").unwrap();
    write(&mut store, 1, LIMIT as usize).unwrap();
    drop(store);
    let mut store = open(&folder);
    assert_eq!(read_note(&mut store, 0).unwrap(), Some(vec![1; NOTE_MAX]));
    assert_eq!(read_note(&mut store, 254).unwrap(), Some(b"last".to_vec()));
    assert_eq!(read_note(&mut store, 1).unwrap(), None);
    // The same bytes are not written again.
    let path = store.note_path(254);
    let then = SystemTime::now() - Duration::from_secs(100);
    let file = File::options().append(true).open(&path).unwrap();
    file.set_modified(then).unwrap();
    store.write_note(254, b"last").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), then);
    store.remove_note(254).unwrap();
    store.remove_note(254).unwrap();
    assert_eq!(read_note(&mut store, 254).unwrap(), None);
    assert_eq!(store.notes(), 255);
    fs::write(store.note_path(1), []).unwrap();
    let errors = [
        store.write_note(255, &[1]).unwrap_err(),
        store.write_note(2, &[]).unwrap_err(),
        store.write_note(2, &[0; NOTE_MAX + 1]).unwrap_err(),
        read_note(&mut store, 1).unwrap_err(),
        store.read_note(0, &mut [0; 9]).unwrap_err(),
    ];
    assert_eq!(
        errors,
        [
            "note 255: the store has 255, from 0 on",
            "note of 0 bytes: 1 to 512 are allowed",
            "note of 513 bytes: 1 to 512 are allowed",
            "note of 0 bytes: 1 to 512 are allowed",
            "note of 512 bytes: there is room for 9",
        ]
    );
}

#[test]
fn what_was_stored_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut store = open(&folder);
    write(&mut store, 1, 40).unwrap();
    write(&mut store, 2, 0).unwrap();
    store.write_record(7, &record(1, 40, 5)).unwrap();
    drop(store);
    let mut store = open(&folder);
    assert_eq!(modules(&mut store, &[(1, 40), (2, 0), (3, 1)]), [1, 2]);
    assert_eq!(read_record(&mut store, 7).unwrap(), Some(record(1, 40, 5)));
    assert_eq!(read_record(&mut store, 8).unwrap(), None);
    store.remove_module(&module(1, 40).0).unwrap();
    store.remove_record(7).unwrap();
    store.remove_record(7).unwrap();
    drop(store);
    let mut store = open(&folder);
    assert_eq!(modules(&mut store, &[(1, 40), (2, 0)]), [2]);
    assert_eq!(read_record(&mut store, 7).unwrap(), None);
}

#[test]
fn the_least_recently_used_module_without_a_record_goes() {
    let folder = TempDir::new().unwrap();
    let mut store = open(&folder);
    let all = [(1, 25), (2, 26), (3, 27), (4, 20), (5, 26), (6, 100)];
    for (name, len) in &all[..3] {
        write(&mut store, *name, *len).unwrap();
    }
    store.write_record(0, &record(2, 26, 0)).unwrap();
    modules(&mut store, &all[..1]);
    write(&mut store, 4, 20).unwrap();
    write(&mut store, 5, 26).unwrap();
    assert_eq!(
        write(&mut store, 6, 100).unwrap_err(),
        "module of 100 bytes: 74 of 100 are left beside modules with records"
    );
    assert_eq!(
        write(&mut store, 6, 101).unwrap_err(),
        "module of 101 bytes: the store holds at most 100"
    );
    assert_eq!(modules(&mut store, &all), [1, 2, 4, 5]);
    store.remove_record(0).unwrap();
    write(&mut store, 6, 100).unwrap();
    assert_eq!(modules(&mut store, &all), [6]);
}

#[test]
fn the_order_of_uses_outlives_the_process() {
    let folder = TempDir::new().unwrap();
    let mut store = open(&folder);
    let all = [(1, 30), (2, 31), (3, 32), (4, 33)];
    for (name, len) in &all[..3] {
        write(&mut store, *name, *len).unwrap();
        // As if that had been a while ago.
        let path = store.module_path(&module(*name, *len).0);
        let then = SystemTime::now() - Duration::from_secs(100 - u64::from(*name));
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(then).unwrap();
    }
    modules(&mut store, &all[..1]);
    drop(store);
    let mut store = open(&folder);
    write(&mut store, 4, 33).unwrap();
    assert_eq!(modules(&mut store, &all), [1, 3, 4]);
    // A lower limit holds at once.
    drop(store);
    let mut store = FolderStore::open(folder.path().join("a/b"), 70).unwrap();
    assert_eq!(modules(&mut store, &all), [3, 4]);
}

#[test]
fn a_folder_is_one_stores() {
    let folder = TempDir::new().unwrap();
    let _store = open(&folder);
    let path = folder.path().join("a/b");
    assert_eq!(
        FolderStore::open(&path, LIMIT).unwrap_err().to_string(),
        format!("{}: another process has this store open", path.display())
    );
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(FolderStore::open(&file, LIMIT).is_err());
}

#[test]
fn other_files_are_left_alone_and_partial_ones_removed() {
    let folder = TempDir::new().unwrap();
    drop(open(&folder));
    let path = |name: &str| folder.path().join("a/b").join(name);
    let upper = module_name(&module(1, 30).0).to_uppercase();
    let others = [
        "README".to_owned(),
        "modules/notes.partial".to_owned(),
        "modules/00.wasm".to_owned(),
        format!("modules/{upper}"),
        "records/07".to_owned(),
        "records/256".to_owned(),
        "records/+1.partial".to_owned(),
        "notes/00".to_owned(),
    ];
    for name in &others {
        fs::write(path(name), [1; 60]).unwrap();
    }
    fs::create_dir(path("records/3.partial")).unwrap();
    let partial = format!("modules/{}.partial", module_name(&module(2, 30).0));
    fs::write(path(&partial), "").unwrap();
    fs::write(path("records/255.partial"), "").unwrap();
    fs::write(path("notes/7.partial"), "").unwrap();
    let mut store = open(&folder);
    write(&mut store, 3, 100).unwrap();
    for name in &others {
        assert!(path(name).exists(), "{name}");
    }
    assert!(path("records/3.partial").exists());
    assert!(!path(&partial).exists());
    assert!(!path("records/255.partial").exists());
    assert!(!path("notes/7.partial").exists());
}

#[test]
fn what_others_did_to_the_files_is_said() {
    let folder = TempDir::new().unwrap();
    let mut store = open(&folder);
    let (gone, _) = module(1, 30);
    let (cut, _) = module(2, 30);
    for name in 1..=2 {
        write(&mut store, name, 30).unwrap();
    }
    fs::remove_file(store.module_path(&gone)).unwrap();
    fs::write(store.module_path(&cut), "short").unwrap();
    fs::write(store.record_path(1), [0; 31]).unwrap();
    let gone_err = store.read_module(&gone, &mut [0; 30]).unwrap_err();
    assert!(gone_err.contains("No such file"), "{gone_err}");
    let errors = [
        store.read_module(&cut, &mut [0; 30]).unwrap_err(),
        read_record(&mut store, 1).unwrap_err(),
        store.write_record(2, &[0; 1025]).unwrap_err(),
        store.read_module(&[0; 32], &mut []).unwrap_err(),
    ];
    assert_eq!(
        errors,
        [
            "the stored module has 5 bytes, not 30",
            "record of 31 bytes: 32 to 1024 are allowed",
            "record of 1025 bytes: 32 to 1024 are allowed",
            "the store has no such module",
        ]
    );
    for digest in [gone, cut] {
        store.remove_module(&digest).unwrap();
    }
    for name in 1..=2 {
        write(&mut store, name, 30).unwrap();
    }
    assert_eq!(modules(&mut store, &[(1, 30), (2, 30)]), [1, 2]);
}

/// A disk whose power goes: then what was not synced is lost, or it is all there.
#[derive(Debug)]
struct CutDisk {
    /// Operations up to the one that is cut off.
    left: Cell<usize>,
    loses: bool,
    unsynced: Mutex<Vec<Unsynced>>,
}

/// Content of a file if a change to it is lost.
#[derive(Debug)]
struct Unsynced {
    path: PathBuf,
    before: Option<Vec<u8>>,
    /// Whether its folder has to be synced, not the file.
    is_name: bool,
}

impl CutDisk {
    fn check_power(&self) -> io::Result<()> {
        if self.left.get() == 1 && self.loses {
            for lost in self.unsynced.lock().unwrap().drain(..).rev() {
                let _ = match lost.before {
                    Some(bytes) => fs::write(lost.path, bytes),
                    None => fs::remove_file(lost.path),
                };
            }
        }
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            return Err(io::Error::other("no power"));
        }
        Ok(())
    }

    fn note(&self, path: &Path, before: Option<Vec<u8>>, is_name: bool) {
        let path = path.to_owned();
        self.unsynced.lock().unwrap().push(Unsynced {
            path,
            before,
            is_name,
        });
    }
}

impl Disk for CutDisk {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let is_cut = self.left.get() == 1;
        self.check_power().inspect_err(|_| {
            if is_cut {
                fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            }
        })?;
        // Its name may be on the disk before its bytes are.
        self.note(path, Some(Vec::new()), false);
        fs::write(path, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.check_power()?;
        self.unsynced.lock().unwrap().retain(|unsynced| {
            if unsynced.is_name {
                unsynced.path.parent() != Some(path)
            } else {
                unsynced.path != path
            }
        });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_power()?;
        let before = fs::read(to).ok();
        let mut unsynced = self.unsynced.lock().unwrap();
        // The new name may be on the disk before the bytes are.
        let bytes = unsynced.iter_mut().find(|unsynced| unsynced.path == from);
        match bytes {
            Some(bytes) => bytes.path = to.to_owned(),
            None => unsynced.push(Unsynced {
                path: to.to_owned(),
                before,
                is_name: true,
            }),
        }
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check_power()?;
        let before = fs::read(path).ok();
        fs::remove_file(path)?;
        self.note(path, before, true);
        Ok(())
    }
}

/// Modules that are there, the value of the record, and that of the note.
type Found = (&'static [u8], Option<u8>, Option<u8>);

/// A call and what is there after it; and if it makes room first, then what is there in between.
type Step = (
    fn(&mut FolderStore) -> Result<(), Text>,
    Option<Found>,
    Found,
);

fn put(store: &mut FolderStore, name: u8, len: usize) -> Result<(), Text> {
    let (digest, bytes) = module(name, len);
    store.write_module(&digest, &bytes, &[])
}

const OF: [(u8, usize); 4] = [(1, 40), (2, 41), (3, 50), (4, 49)];

const STEPS: [Step; 11] = [
    (|store| put(store, 1, 40), None, (&[1], None, None)),
    (
        |store| store.write_record(0, &record(1, 40, 8)),
        None,
        (&[1], Some(8), None),
    ),
    (
        |store| store.write_note(3, &[5]),
        None,
        (&[1], Some(8), Some(5)),
    ),
    (|store| put(store, 2, 41), None, (&[1, 2], Some(8), Some(5))),
    (
        |store| put(store, 3, 50),
        Some((&[1], Some(8), Some(5))),
        (&[1, 3], Some(8), Some(5)),
    ),
    (
        |store| store.write_note(3, &[6]),
        None,
        (&[1, 3], Some(8), Some(6)),
    ),
    (
        |store| store.write_record(0, &record(3, 50, 9)),
        None,
        (&[1, 3], Some(9), Some(6)),
    ),
    (
        |store| put(store, 4, 49),
        Some((&[3], Some(9), Some(6))),
        (&[3, 4], Some(9), Some(6)),
    ),
    (
        |store| store.remove_record(0),
        None,
        (&[3, 4], None, Some(6)),
    ),
    (
        |store| store.remove_module(&module(3, 50).0),
        None,
        (&[4], None, Some(6)),
    ),
    (|store| store.remove_note(3), None, (&[4], None, None)),
];

/// Whether the power went before all steps were done; what is there then must be right.
fn cut_after(operations: usize, loses: bool) -> bool {
    let folder = TempDir::new().unwrap();
    let disk = CutDisk {
        left: Cell::new(operations),
        loses,
        unsynced: Mutex::new(Vec::new()),
    };
    let path = folder.path().join("a/b");
    let mut allowed: Vec<Found> = vec![(&[], None, None)];
    let mut done = false;
    if let Ok(mut store) = FolderStore::open_on(Box::new(disk), &path, LIMIT) {
        done = STEPS.iter().all(|(call, between, after)| {
            allowed.extend(between);
            allowed.push(*after);
            let done = call(&mut store).is_ok();
            if done {
                allowed = vec![*after];
            }
            done
        });
    }
    let mut store = open(&folder);
    let record = read_record(&mut store, 0).unwrap();
    let found = (
        &*modules(&mut store, &OF),
        record.map(|record| record[record.len() - 1]),
        read_note(&mut store, 3).unwrap().map(|note| note[0]),
    );
    assert!(
        allowed.contains(&found),
        "{found:?} after {operations}, not one of {allowed:?}"
    );
    // No file is left that is not one of these.
    let files = fs::read_dir(path.join("modules")).unwrap().count();
    assert_eq!(files, found.0.len());
    write(&mut store, 5, 20).unwrap();
    !done
}

#[test]
fn a_cut_at_every_operation_leaves_all_or_nothing() {
    for loses in [false, true] {
        let cuts = (1..).take_while(|n| cut_after(*n, loses)).count();
        assert!(cuts > 25, "{cuts} cuts");
    }
}
