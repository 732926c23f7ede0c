//! Sizes of the boards that the firmware is configured for, so that another port can have their limits.
//!
//! tests/boards.rs compares them with Kconfig, the boards' files and docs/boards.md.

/// Sizes that a board's build has, beside the defaults that all boards share ([`SETTINGS`](super::table::SETTINGS)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Board {
    /// Short name.
    pub name: &'static str,
    /// Name of its files in `boards/`, without the extension.
    pub file: &'static str,
    /// Bytes of the arena; where it is all RAM that is left, the figure of docs/memory.md.
    pub arena_bytes: u32,
    /// Tasks that there may be at once.
    pub slots: u16,
    /// Latent deployments.
    pub deployments: u16,
    /// Sizes of the agent's and the link's tables and buffers.
    pub capacities: Capacities,
}

/// Sizes of tables and buffers that are no settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacities {
    /// Modules that may be loaded at once.
    pub modules: usize,
    /// Modules that may be on their way at once.
    pub fetches: usize,
    /// Messages about tasks that wait for the broker's acknowledgement.
    pub outbox: usize,
    /// Bytes of inputs and environment in one message.
    pub text_bytes: usize,
    /// Bytes of messages on their way to the broker.
    pub send_bytes: usize,
    /// Bytes of the head of an HTTP request or response.
    pub http_bytes: usize,
}

/// Kconfig's defaults.
const DEFAULTS: Capacities = Capacities {
    modules: 16,
    fetches: 2,
    outbox: 48,
    text_bytes: 768,
    send_bytes: 4096,
    http_bytes: 1536,
};

/// The boards, by name.
pub const BOARDS: [Board; 6] = [
    Board {
        name: "esp32c3",
        file: "esp32c3_devkitm",
        arena_bytes: 65_550,
        slots: 64,
        deployments: 8,
        capacities: Capacities {
            outbox: 12,
            http_bytes: 1024,
            ..DEFAULTS
        },
    },
    Board {
        name: "esp32s3",
        file: "esp32s3_devkitc_procpu",
        arena_bytes: 162_946,
        slots: 128,
        deployments: 8,
        capacities: Capacities {
            modules: 32,
            outbox: 12,
            http_bytes: 1024,
            ..DEFAULTS
        },
    },
    Board {
        name: "mps2_an521",
        file: "mps2_an521_cpu0",
        arena_bytes: 131_072,
        slots: 64,
        deployments: 8,
        capacities: DEFAULTS,
    },
    Board {
        name: "native_sim",
        file: "native_sim_native_64",
        arena_bytes: 196_608,
        slots: 256,
        deployments: 8,
        capacities: Capacities {
            modules: 64,
            ..DEFAULTS
        },
    },
    Board {
        name: "nrf5340dk",
        file: "nrf5340dk_nrf5340_cpuapp",
        arena_bytes: 131_072,
        slots: 64,
        deployments: 8,
        capacities: DEFAULTS,
    },
    Board {
        name: "nrf7002dk",
        file: "nrf7002dk_nrf5340_cpuapp",
        arena_bytes: 57_344,
        slots: 64,
        deployments: 8,
        capacities: Capacities {
            outbox: 12,
            ..DEFAULTS
        },
    },
];

/// Their names.
pub const NAMES: [&str; BOARDS.len()] = names();

const fn names() -> [&'static str; BOARDS.len()] {
    let mut names = [""; BOARDS.len()];
    let mut i = 0;
    while i < BOARDS.len() {
        names[i] = BOARDS[i].name;
        i += 1;
    }
    names
}

/// The board of this name.
pub fn find(name: &str) -> Option<&'static Board> {
    BOARDS.iter().find(|board| board.name == name)
}
