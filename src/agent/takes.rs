//! What the proplet takes at once: for the discovery message and the log.

use super::supervisor::Supervisor;
use crate::{engine::Engine, task::budget::Budget};
use core::fmt;

/// The smallest module that can be run: `(module (func (export "main")))`.
const LEAST_MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x08\x01\x04main\0\0\x0a\x04\x01\x02\0\x0b";

/// Bytes of the arena that a start takes beside its module and its instance: its record, what the engine keeps
/// of the run, and the heads of blocks.
const BESIDE: usize = 768;

/// What the proplet takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Takes {
    /// Maximum number of bytes of a module in a start, before base64, as far as the arena is free now: with the
    /// least that a module and its run take beside. Code takes more than its bytes when it is parsed.
    pub(super) max_inline_bytes: usize,
    pub(super) slots: usize,
    pub(super) deployments: usize,
    pub(super) arena_bytes: usize,
    /// Of linear memory; 0 where the engine has none.
    pub(super) page_bytes: u32,
}

impl Takes {
    pub(super) fn now<E: Engine>(of: &Supervisor<'_, E>) -> Self {
        let arena = of.engine.arena();
        Self {
            max_inline_bytes: inline(of).min(of.config.limits.module_bytes),
            slots: of.tasks.capacity(),
            deployments: of.tasks.deployments_max(),
            arena_bytes: arena.total,
            page_bytes: arena.page_bytes,
        }
    }
}

/// Bytes of a module for which the arena has room.
fn inline<E: Engine>(of: &Supervisor<'_, E>) -> usize {
    let limits = Budget::of_device(&of.config.limits).limits;
    let least = match of.engine.estimate(LEAST_MODULE, &limits) {
        Ok(needs) => needs.load.saturating_add(needs.instance),
        Err(_) => 0,
    };
    let available = of.engine.arena().available();
    available.saturating_sub(least.saturating_add(BESIDE))
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            max_inline_bytes,
            slots,
            deployments,
            arena_bytes,
            ..
        } = self;
        write!(
            f,
            "takes modules of up to {max_inline_bytes} bytes in a message, {slots} tasks and {deployments} deployments, in an arena of {arena_bytes} bytes"
        )
    }
}
