//! Modules, records and notes in a folder.

use anyhow::{Context, bail};
use proplet::{
    module::{
        hex::{from_hex, to_hex},
        table::Digest,
    },
    store::{NOTE_MAX, RECORD_MAX, Store},
    text::{Text, text},
};
use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Least bytes of a record: its module's digest.
const RECORD_MIN: usize = size_of::<Digest>();

/// Notes that there is room for.
const NOTES: u8 = 255;

const MODULE_EXTENSION: &str = "wasm";
/// Of a file that is not whole yet.
const PARTIAL_EXTENSION: &str = "partial";

/// A [`Store`] in a folder: `modules/<digest in hex>.wasm`, which end with their seals,
/// `records/<index>` and `notes/<index>`. Other files are left alone.
///
/// A file is written under another name, and has its own once its bytes are on the disk. Modules
/// are known by their names, and their bytes not looked at. One that is used gets a new time of
/// modification: so the order of uses outlives the process.
///
/// The folder is locked as long as the store is there.
#[derive(Debug)]
pub struct FolderStore {
    disk: Box<dyn Disk>,
    modules: PathBuf,
    records: PathBuf,
    notes: PathBuf,
    /// Most bytes of modules.
    limit: u64,
    known: HashMap<Digest, Module>,
    /// First bytes of each record.
    pins: HashMap<u8, Digest>,
    /// Counts uses. Not below any [`Module::used`].
    clock: u64,
    _lock: File,
}

#[derive(Debug)]
struct Module {
    len: u64,
    /// Value of the clock when it was last used.
    used: u64,
}

/// Changes of a disk: each of these may be the last before the power goes.
trait Disk: fmt::Debug + Send {
    /// Makes or overwrites a file.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Returns once a file's bytes, or a folder's names, are on the disk.
    fn sync(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Debug)]
struct FileSystem;

impl Disk for FileSystem {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::write(path, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

impl FolderStore {
    /// The store in `folder`, which is made if it is not there, for at most `limit` bytes of
    /// modules. Records come on top: 256 of 1 KiB at most; and notes: 255 of 512 bytes. Removes what is left of writes that were
    /// cut off, and the modules least recently used if there are more than `limit` bytes.
    ///
    /// # Errors
    /// If the folder can't be made, read or written, or another process has it open.
    pub fn open(folder: impl AsRef<Path>, limit: u64) -> anyhow::Result<Self> {
        Self::open_on(Box::new(FileSystem), folder.as_ref(), limit)
    }

    fn open_on(disk: Box<dyn Disk>, folder: &Path, limit: u64) -> anyhow::Result<Self> {
        let [modules, records, notes] =
            ["modules", "records", "notes"].map(|name| folder.join(name));
        let at_folder = || folder.display().to_string();
        for folder in [&modules, &records, &notes] {
            make_folder(&*disk, folder).with_context(at_folder)?;
        }
        let lock = File::open(folder).with_context(at_folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{}: another process has this store open", at_folder())
            }
            Err(TryLockError::Error(err)) => return Err(err).with_context(at_folder),
        }
        let mut store = Self {
            disk,
            modules,
            records,
            notes,
            limit,
            known: HashMap::new(),
            pins: HashMap::new(),
            clock: 0,
            _lock: lock,
        };
        store.find_modules().with_context(at_folder)?;
        store.find_records().with_context(at_folder)?;
        store.remove_partial_notes().with_context(at_folder)?;
        store.make_room(0).with_context(at_folder)?;
        Ok(store)
    }

    fn find_modules(&mut self) -> io::Result<()> {
        let mut found: Vec<(SystemTime, Digest, u64)> = Vec::new();
        for file in self.files(&self.modules, |name| module_of(name).is_some())? {
            let metadata = fs::symlink_metadata(&file)?;
            if let Some(digest) = file.file_name().and_then(module_of) {
                found.push((metadata.modified()?, digest, metadata.len()));
            }
        }
        found.sort_unstable();
        for (_, digest, len) in found {
            let used = self.tick();
            self.known.insert(digest, Module { len, used });
        }
        Ok(())
    }

    fn find_records(&mut self) -> io::Result<()> {
        for file in self.files(&self.records, |name| index_of(name).is_some())? {
            let mut digest = Digest::default();
            let index = file.file_name().and_then(index_of);
            match (index, File::open(&file)?.read_exact(&mut digest)) {
                (Some(index), Ok(())) => {
                    self.pins.insert(index, digest);
                }
                // Too short: reading the record says so.
                (_, Err(err)) if err.kind() == io::ErrorKind::UnexpectedEof => {}
                (_, other) => other?,
            }
        }
        Ok(())
    }

    fn remove_partial_notes(&self) -> io::Result<()> {
        self.files(&self.notes, |name| index_of(name).is_some())
            .map(drop)
    }

    /// The files in `folder` with names that are `ours`, after those that are not whole are gone.
    fn files(&self, folder: &Path, ours: impl Fn(&OsStr) -> bool) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_file() {
                continue;
            }
            if ours(&entry.file_name()) {
                files.push(path);
            } else if path.extension() == Some(PARTIAL_EXTENSION.as_ref())
                && path.file_stem().is_some_and(&ours)
            {
                self.disk.remove(&path)?;
            }
        }
        Ok(files)
    }

    fn module_path(&self, digest: &Digest) -> PathBuf {
        self.modules.join(module_name(digest))
    }

    fn record_path(&self, index: u8) -> PathBuf {
        self.records.join(index.to_string())
    }

    fn note_path(&self, index: u8) -> PathBuf {
        self.notes.join(index.to_string())
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn touch(&mut self, digest: &Digest) {
        let used = self.tick();
        if let Some(module) = self.known.get_mut(digest) {
            module.used = used;
        }
        // Only the order after a restart depends on it.
        let _ = File::options()
            .append(true)
            .open(self.module_path(digest))
            .and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Writes a file whose name is not there until all its bytes are.
    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let partial = PathBuf::from(format!("{}.{PARTIAL_EXTENSION}", path.display()));
        let written = self
            .disk
            .write(&partial, bytes)
            .and_then(|()| self.disk.sync(&partial))
            .and_then(|()| self.disk.rename(&partial, path));
        if written.is_err() {
            // If that fails too, then the next start does it.
            let _ = self.disk.remove(&partial);
        }
        written.and_then(|()| sync_folder_of(&*self.disk, path))
    }

    /// Writes a record or a note, unless it is there with the same bytes.
    fn write_item(&self, path: &Path, kind: &Kind, bytes: &[u8]) -> Result<(), Text> {
        kind.check(bytes.len())?;
        if fs::read(path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        self.write_file(path, bytes)
            .map_err(|err| failure(path, &err))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        match self.disk.remove(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync_folder_of(&*self.disk, path)),
        }
    }

    fn is_pinned(&self, digest: &Digest) -> bool {
        self.pins.values().any(|pin| pin == digest)
    }

    fn bytes(&self) -> u64 {
        self.known.values().map(|module| module.len).sum()
    }

    /// Says why `len` bytes can't be stored, whatever else goes.
    fn admit(&self, len: u64) -> Result<(), Text> {
        let limit = self.limit;
        if len > limit {
            return Err(text(format_args!(
                "module of {len} bytes: the store holds at most {limit}"
            )));
        }
        let pinned =
            |(digest, module): (&Digest, &Module)| self.is_pinned(digest).then_some(module.len);
        let left = limit.saturating_sub(self.known.iter().filter_map(pinned).sum());
        if len > left {
            return Err(text(format_args!(
                "module of {len} bytes: {left} of {limit} are left beside modules with records"
            )));
        }
        Ok(())
    }

    /// Makes room for `len` bytes at the cost of the modules least recently used, as far as there
    /// are any without a record.
    fn make_room(&mut self, len: u64) -> io::Result<()> {
        while self.bytes() + len > self.limit {
            let oldest = self
                .known
                .iter()
                .filter(|(digest, _)| !self.is_pinned(digest))
                .min_by_key(|(_, module)| module.used);
            let Some((&digest, _)) = oldest else {
                break;
            };
            self.remove_file(&self.module_path(&digest))?;
            self.known.remove(&digest);
        }
        Ok(())
    }
}

impl Store for FolderStore {
    fn module_len(&mut self, digest: &Digest) -> Option<usize> {
        usize::try_from(self.known.get(digest)?.len).ok()
    }

    fn read_module(&mut self, digest: &Digest, into: &mut [u8]) -> Result<(), Text> {
        if !self.known.contains_key(digest) {
            return Err(text(format_args!("the store has no such module")));
        }
        let path = self.module_path(digest);
        match read_whole(&path, into) {
            Ok(len) if len == into.len() as u64 => {
                self.touch(digest);
                Ok(())
            }
            Ok(len) => Err(text(format_args!(
                "the stored module has {len} bytes, not {}",
                into.len()
            ))),
            Err(err) => Err(failure(&path, &err)),
        }
    }

    fn write_module(&mut self, digest: &Digest, bytes: &[u8], seal: &[u8]) -> Result<(), Text> {
        if self.known.contains_key(digest) {
            self.touch(digest);
            return Ok(());
        }
        let bytes = [bytes, seal].concat();
        let len = bytes.len() as u64;
        self.admit(len)?;
        let path = self.module_path(digest);
        self.make_room(len)
            .and_then(|()| self.write_file(&path, &bytes))
            .map_err(|err| failure(&path, &err))?;
        let used = self.tick();
        self.known.insert(*digest, Module { len, used });
        Ok(())
    }

    fn remove_module(&mut self, digest: &Digest) -> Result<(), Text> {
        if self.known.contains_key(digest) {
            let path = self.module_path(digest);
            self.remove_file(&path)
                .map_err(|err| failure(&path, &err))?;
            self.known.remove(digest);
        }
        Ok(())
    }

    fn read_record(&mut self, index: u8, into: &mut [u8]) -> Result<Option<usize>, Text> {
        read_item(&self.record_path(index), &RECORD, into)
    }

    fn write_record(&mut self, index: u8, bytes: &[u8]) -> Result<(), Text> {
        self.write_item(&self.record_path(index), &RECORD, bytes)?;
        if let Some(digest) = bytes.first_chunk() {
            self.pins.insert(index, *digest);
        }
        Ok(())
    }

    fn remove_record(&mut self, index: u8) -> Result<(), Text> {
        let path = self.record_path(index);
        self.remove_file(&path)
            .map_err(|err| failure(&path, &err))?;
        self.pins.remove(&index);
        Ok(())
    }

    fn notes(&self) -> u8 {
        NOTES
    }

    fn read_note(&mut self, index: u8, into: &mut [u8]) -> Result<Option<usize>, Text> {
        read_item(&self.note_path(index), &NOTE, into)
    }

    fn write_note(&mut self, index: u8, bytes: &[u8]) -> Result<(), Text> {
        if !(0..NOTES).contains(&index) {
            return Err(text(format_args!(
                "note {index}: the store has {NOTES}, from 0 on"
            )));
        }
        self.write_item(&self.note_path(index), &NOTE, bytes)
    }

    fn remove_note(&mut self, index: u8) -> Result<(), Text> {
        let path = self.note_path(index);
        self.remove_file(&path).map_err(|err| failure(&path, &err))
    }
}

/// Kind of a small file: its name, and the bytes that it may have.
struct Kind {
    name: &'static str,
    min: usize,
    max: usize,
}

const RECORD: Kind = Kind {
    name: "record",
    min: RECORD_MIN,
    max: RECORD_MAX,
};

const NOTE: Kind = Kind {
    name: "note",
    min: 1,
    max: NOTE_MAX,
};

impl Kind {
    fn check(&self, len: usize) -> Result<(), Text> {
        let Self { name, min, max } = self;
        if (*min..=*max).contains(&len) {
            return Ok(());
        }
        Err(text(format_args!(
            "{name} of {len} bytes: {min} to {max} are allowed"
        )))
    }
}

/// Reads a record or a note, if it is there, and returns its length.
fn read_item(path: &Path, kind: &Kind, into: &mut [u8]) -> Result<Option<usize>, Text> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failure(path, &err)),
    };
    let (len, room) = (bytes.len(), into.len());
    kind.check(len)?;
    let into = into.get_mut(..len).ok_or_else(|| {
        text(format_args!(
            "{} of {len} bytes: there is room for {room}",
            kind.name
        ))
    })?;
    into.copy_from_slice(&bytes);
    Ok(Some(len))
}

/// Reads a file, if it is as long as `into`, and returns its length.
fn read_whole(path: &Path, into: &mut [u8]) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    if len == into.len() as u64 {
        file.read_exact(into)?;
    }
    Ok(len)
}

/// Makes a folder and those above it, as far as they are not there.
fn make_folder(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    let missing = folder.ancestors().take_while(|folder| !folder.exists());
    let missing: Vec<_> = missing.collect();
    fs::create_dir_all(folder)?;
    missing
        .iter()
        .try_for_each(|folder| sync_folder_of(disk, folder))
}

fn sync_folder_of(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => disk.sync(Path::new(".")),
        Some(folder) => disk.sync(folder),
        None => Ok(()),
    }
}

fn failure(path: &Path, err: &io::Error) -> Text {
    text(format_args!("{}: {err}", path.display()))
}

fn module_name(digest: &Digest) -> String {
    format!("{}.{MODULE_EXTENSION}", to_hex(digest))
}

/// The digest in the name of a module's file.
fn module_of(name: &OsStr) -> Option<Digest> {
    let name = name.to_str()?;
    let digest = from_hex(name.get(..64)?)?;
    (name == module_name(&digest)).then_some(digest)
}

/// The index in the name of a record's or a note's file.
fn index_of(name: &OsStr) -> Option<u8> {
    let name = name.to_str()?;
    let index: u8 = name.parse().ok()?;
    (name == index.to_string()).then_some(index)
}

#[cfg(test)]
mod tests;
