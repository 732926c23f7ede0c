//! The module store on the flash partition `modules_partition`.

use crate::{ffi, header, sizes};
use core::fmt;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use proplet::{store::Store, text::text};
use proplet_store::{FlashStore, Opened};
use static_cell::ConstStaticCell;

/// The partition. Its length is devicetree's, and [`ffi::store_len`] knows it.
pub struct Partition;

/// Failure of the flash driver.
pub struct Error(ffi::Errno);

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl NorFlashError for Error {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl ErrorType for Partition {
    type Error = Error;
}

impl ReadNorFlash for Partition {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Error> {
        ffi::store_read(offset, bytes).map_err(Error)
    }

    fn capacity(&self) -> usize {
        ffi::store_len()
    }
}

impl NorFlash for Partition {
    const WRITE_SIZE: usize = header::PROPLET_STORE_WORD as usize;
    const ERASE_SIZE: usize = sizes::STORE_PAGE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Error> {
        // A page may take long on a worn flash, and a module has many.
        ffi::watchdog_feed();
        ffi::store_erase(from, to.saturating_sub(from)).map_err(Error)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        ffi::store_write(offset, bytes).map_err(Error)
    }
}

type Modules = FlashStore<
    Partition,
    { sizes::STORE_MODULES },
    { sizes::DEPLOYMENTS },
    { sizes::STORE_NOTES },
    { sizes::STORE_PIECES },
>;

static STORE: ConstStaticCell<Modules> = ConstStaticCell::new(FlashStore::new(Partition));

/// The store as it was left, or a new one; `None` if the flash fails.
#[inline(never)]
pub fn open() -> Option<&'static mut dyn Store> {
    let opened = ffi::store_open().map_err(|e| text(format_args!("{e}")));
    let store = STORE.take();
    match opened.and_then(|()| store.open()) {
        Ok(Opened::Empty) => log::info!("the module store is empty"),
        Ok(Opened::Found { modules, records }) => {
            log::info!("the module store has {modules} modules and {records} deployments");
        }
        Ok(Opened::Repaired { modules, records }) => log::warn!(
            "the module store was cut off while it wrote, and is repaired: {modules} modules and {records} deployments"
        ),
        Ok(Opened::Rebuilt) => log::error!(
            "the module store was corrupt, or of another layout: it is rebuilt and empty"
        ),
        Err(reason) => {
            log::error!("no module store: {reason}; deployments will not survive a reboot");
            return None;
        }
    }
    Some(store)
}
