//! docs/messages.md against the proplet: its messages are sent and compared with those that come, its tables
//! with what the core reads and writes, its bounds with the constants, and its tutorial is carried out.

mod support;

use support::host as subject;

/// What the page says, piece by piece.
mod messages {
    mod page;
    mod tables;
    mod traffic;
    mod tutorial;
}
