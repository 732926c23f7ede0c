//! What each board takes, in docs/boards.md and in the profiles of `--like`, against Kconfig and the boards' files.

use proplet::settings::{
    boards::BOARDS,
    table::{SETTINGS, Section},
};
use proplet_testing::inline::{Pointers, max_inline_bytes};
use std::{fs, path::PathBuf};

/// The boards' files, with the conditions of Kconfig that hold for them.
const FILES: [(&str, &str, Pointers); 6] = [
    ("esp32c3_devkitm", "", Pointers::Bits32),
    (
        "esp32s3_devkitc_procpu",
        "SOC_SERIES_ESP32S3",
        Pointers::Bits32,
    ),
    ("nrf7002dk_nrf5340_cpuapp", "", Pointers::Bits32),
    ("nrf5340dk_nrf5340_cpuapp", "", Pointers::Bits32),
    ("mps2_an521_cpu0", "", Pointers::Bits32),
    ("native_sim_native_64", "ARCH_POSIX", Pointers::Bits64),
];

fn text(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name);
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// An option's number: the board's, or else Kconfig's default for it.
fn option(name: &str, board: &str, condition: &str) -> usize {
    let conf = text(&format!("boards/{board}.conf"));
    let assigned = |line: &str| {
        let value = line.strip_prefix(&format!("CONFIG_{name}="))?;
        value.parse().ok()
    };
    let own = conf.lines().find_map(assigned);
    own.unwrap_or_else(|| default(name, condition))
}

fn default(name: &str, condition: &str) -> usize {
    let kconfig = text("Kconfig");
    let (_, entry) = kconfig
        .split_once(&format!("\nconfig {name}\n"))
        .unwrap_or_else(|| panic!("{name} is no option"));
    let (entry, _) = entry.split_once("\n\n").expect("another follows");
    let defaults = entry
        .lines()
        .filter_map(|line| line.trim().strip_prefix("default "));
    let mut values = defaults.filter_map(|rest| match rest.split_once(" if ") {
        None => rest.parse().ok(),
        Some((value, only)) if only == condition => value.parse().ok(),
        Some(_) => None,
    });
    values
        .next()
        .unwrap_or_else(|| panic!("{name}: no default"))
}

/// Numbers of a table's cell: `62,286`.
fn number(cell: &str) -> usize {
    let digits: String = cell.chars().filter(char::is_ascii_digit).collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{cell}: no number"))
}

/// Cells of the row of `table` that begins with `name`.
fn row<'t>(table: &'t str, name: &str) -> Vec<&'t str> {
    let start = format!("| {name} |");
    let line = table.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("no row of {name}"));
    line.trim_matches('|').split('|').map(str::trim).collect()
}

/// The arena that docs/memory.md counts for a board which gives it all RAM that is left.
fn left(board: &str) -> Option<usize> {
    let column = match board {
        "esp32c3_devkitm" => 1,
        "esp32s3_devkitc_procpu" => 2,
        _ => return None,
    };
    let memory = text("docs/memory.md");
    Some(number(row(&memory, "**arena at boot**")[column]))
}

/// The arena of a board: what is configured, or the figure of docs/memory.md where it is what is left.
fn arena(board: &str, condition: &str) -> usize {
    let configured = option("PROPLET_ARENA_SIZE", board, condition);
    let arena = left(board).unwrap_or(configured);
    assert!(arena <= configured, "{board}");
    arena
}

#[test]
fn the_profiles_are_as_the_boards_are_configured() {
    assert_eq!(BOARDS.len(), FILES.len());
    for (file, condition, _) in FILES {
        let board = BOARDS.iter().find(|board| board.file == file);
        let board = board.unwrap_or_else(|| panic!("{file}: give it an entry of BOARDS"));
        let count = |name| option(name, file, condition);
        assert!(file.starts_with(board.name), "{file}: {}", board.name);
        assert_eq!(board.arena_bytes as usize, arena(file, condition), "{file}");
        let sizes = board.capacities;
        for (is, name) in [
            (board.slots.into(), "PROPLET_SLOTS"),
            (board.deployments.into(), "PROPLET_DEPLOYMENTS"),
            (sizes.modules, "PROPLET_MODULES"),
            (sizes.fetches, "PROPLET_FETCHES"),
            (sizes.outbox, "PROPLET_OUTBOX"),
            (sizes.text_bytes, "PROPLET_TEXT_SIZE"),
            (sizes.send_bytes, "PROPLET_TX_BUFFER_SIZE"),
            (sizes.http_bytes, "PROPLET_HTTP_BUFFER_SIZE"),
        ] {
            assert_eq!(is, count(name), "{file}: {name}");
        }
        // All other limits are the defaults of the table, which are Kconfig's.
        let conf = text(&format!("boards/{file}.conf"));
        let others = SETTINGS.iter().filter(|s| s.section == Section::Limits);
        for symbol in others.filter_map(|setting| setting.device?.kconfig) {
            assert!(
                symbol == "PROPLET_ARENA_SIZE" || !conf.contains(&format!("CONFIG_{symbol}=")),
                "{file}: --like {} does not know of CONFIG_{symbol}",
                board.name
            );
        }
    }
    // Nor does what all boards share change one.
    let shared = text("prj.conf");
    let ours = shared
        .lines()
        .filter(|line| line.starts_with("CONFIG_PROPLET_"));
    assert!(ours.eq(["CONFIG_PROPLET_WAMR=y"]), "prj.conf");
}

#[test]
fn each_boards_file_is_in_the_table() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../boards");
    let files = fs::read_dir(folder).expect("the folder of boards");
    for file in files.map(|file| file.expect("a file").path()) {
        let name = file
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name");
        assert!(FILES.iter().any(|(file, ..)| *file == name), "{name}");
    }
}

#[test]
fn the_docs_say_what_each_board_takes() {
    let docs = text("docs/boards.md");
    let (_, table) = docs
        .split_once("\n## What each takes\n")
        .expect("the chapter is there");
    for (board, condition, pointers) in FILES {
        let [_, arena, inline, slots, deployments] = row(table, board)[..] else {
            panic!("{board}: not five cells");
        };
        let expected = self::arena(board, condition);
        assert_eq!(number(arena), expected, "{board}: arena");
        let stack = option("PROPLET_GUEST_STACK_SIZE_MAX", board, condition);
        assert_eq!(option("PROPLET_WORKERS", board, condition), 1, "{board}");
        assert_eq!(
            number(inline),
            max_inline_bytes(expected, stack, pointers),
            "{board}: max_inline_bytes"
        );
        let count = |name| option(name, board, condition);
        assert_eq!(number(slots), count("PROPLET_SLOTS"), "{board}: slots");
        assert_eq!(
            number(deployments),
            count("PROPLET_DEPLOYMENTS"),
            "{board}: deployments"
        );
    }
}
