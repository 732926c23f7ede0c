//! Modules, records and notes of a proplet on NOR flash.
//!
//! ```text
//! FlashStore ─ a module is pieces and, written last, a head; a record or a note is one item
//!   └ sequential-storage ─ a log of items by key, over all pages in a circle
//!       └ pages ─ erasures that survive a loss of power
//!           └ embedded_storage::nor_flash::NorFlash, the port's
//! ```
//!
//! Nothing here allocates or keeps global state. Calls block as long as the flash does.

#![no_std]
#![forbid(unsafe_code)]

mod flash_store;
mod pages;

pub use flash_store::{FlashStore, Opened};
