//! The table of settings against all that repeats it: the command line, Kconfig, the firmware's defaults
//! and docs/configuration.md, whose tables `UPDATE_DOCS=1` writes anew.

use clap::{Command, CommandFactory as _, Parser as _};
use proplet::settings::table::{Device, Kind, Linux, LinuxDefault, SETTINGS, Section, Setting};
use proplet_host::cli::Cli;
use std::{fmt::Write as _, fs, path::PathBuf};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn linux() -> impl Iterator<Item = (&'static Setting, Linux)> {
    SETTINGS.iter().filter_map(|s| Some((s, s.linux?)))
}

/// Settings that have an option of Kconfig, with its symbol.
fn options() -> impl Iterator<Item = (&'static Setting, Device, &'static str)> {
    SETTINGS
        .iter()
        .filter_map(|s| Some((s, s.device?, s.device?.kconfig?)))
}

fn capital(phrase: &str) -> String {
    phrase[..1].to_uppercase() + &phrase[1..]
}

// The command line

fn join() -> Command {
    let cli = Cli::command();
    cli.find_subcommand("join").expect("join").clone()
}

#[test]
fn each_setting_of_linux_is_a_flag_of_join_and_the_other_way_round() {
    let join = join();
    for (setting, linux) in linux() {
        let arg = join
            .get_arguments()
            .find(|arg| arg.get_long() == Some(linux.flag));
        let arg = arg.unwrap_or_else(|| {
            panic!(
                "{}: give Join or Limits of ports/host/src/cli.rs a field whose flag is --{}",
                setting.name, linux.flag
            )
        });
        assert_eq!(arg.get_env().and_then(|v| v.to_str()), Some(linux.variable));
        let older = Some(linux.older_flag).filter(|flag| !flag.is_empty());
        assert!(
            arg.get_all_aliases()
                .unwrap_or_default()
                .into_iter()
                .eq(older),
            "--{}: its older flag",
            linux.flag
        );
        let help = arg.get_help().expect("help").to_string();
        assert!(help.starts_with(&capital(setting.linux_help())), "{help}");
        let defaults = arg.get_default_values();
        match linux.default {
            LinuxDefault::Is(value) => assert_eq!(defaults, [value], "--{}", linux.flag),
            LinuxDefault::Unset(_) => assert!(!arg.is_required_set(), "--{}", linux.flag),
            LinuxDefault::Required => assert!(arg.is_required_set(), "--{}", linux.flag),
        }
        assert_eq!(arg.is_hide_env_values_set(), setting.secret);
        if let Kind::Choice(words) = setting.kind {
            let values = arg.get_possible_values();
            assert!(
                values
                    .iter()
                    .map(|v| v.get_name())
                    .eq(words.iter().copied())
            );
        }
    }
    for arg in join.get_arguments() {
        let flag = arg.get_long().expect("a flag");
        assert!(
            flag == "help" || linux().any(|(_, linux)| linux.flag == flag),
            "--{flag}: give it an entry of SETTINGS in src/settings/table.rs"
        );
    }
}

#[test]
fn flags_take_the_range_of_their_setting_and_no_more() {
    let takes = |flag: &str, value: u64| {
        let args = ["proplet", "join", "--tenant=t", "--channel=c", "--id=i"];
        let args = args.map(str::to_owned).into_iter();
        Cli::try_parse_from(args.chain([format!("--{flag}={value}")])).is_ok()
    };
    for (setting, linux) in linux() {
        let Kind::Number(min, max) = setting.kind else {
            continue;
        };
        let flag = linux.flag;
        assert!(takes(flag, min), "--{flag} {min}");
        assert!(
            takes(flag, max),
            "--{flag} {max}: the field in ports/host/src/cli.rs is too small for the range"
        );
        if let Some(below) = min.checked_sub(1) {
            assert!(!takes(flag, below), "--{flag} {below}");
        }
        if let Some(above) = max.checked_add(1) {
            assert_eq!(takes(flag, above), linux.cuts, "--{flag} {above}");
        }
    }
}

// Kconfig

/// An option of Kconfig, or a choice.
#[derive(Debug, Default)]
struct Entry {
    symbol: String,
    kind: String,
    prompt: String,
    range: Option<(u64, u64)>,
    /// Default without a condition.
    default: Option<String>,
    has_help: bool,
    menu: String,
}

fn unquoted(text: &str) -> String {
    let text = text.trim();
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.unwrap_or(text).replace("\\\"", "\"")
}

fn entries(kconfig: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut menus = Vec::new();
    let mut in_entry = false;
    for line in kconfig.lines() {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        if !line.starts_with(['\t', ' ']) && !line.is_empty() {
            in_entry = matches!(word, "config" | "choice");
            match word {
                "menu" => menus.push(unquoted(rest)),
                "endmenu" => drop(menus.pop()),
                "config" | "choice" => entries.push(Entry {
                    symbol: rest.into(),
                    menu: menus.last().cloned().unwrap_or_default(),
                    ..Entry::default()
                }),
                _ => {}
            }
            continue;
        }
        let Some(entry) = entries.last_mut().filter(|e| in_entry && !e.has_help) else {
            continue;
        };
        match word {
            "int" | "string" | "bool" | "prompt" => {
                entry.kind = word.into();
                entry.prompt = unquoted(rest);
            }
            "range" => {
                let (min, max) = rest.split_once(' ').expect("two ends of a range");
                let end = |text: &str| text.parse().expect("a number");
                entry.range = Some((end(min), end(max)));
            }
            "default" if !rest.contains(" if ") => entry.default = Some(unquoted(rest)),
            "help" => entry.has_help = true,
            _ => {}
        }
    }
    entries
}

#[test]
fn kconfig_agrees_with_the_table() {
    let entries = entries(&text("Kconfig"));
    for (setting, device, symbol) in options() {
        let entry = entries.iter().find(|entry| entry.symbol == symbol);
        let entry = entry.unwrap_or_else(|| {
            panic!("{}: Kconfig needs an option {symbol}", setting.name);
        });
        let default = entry.default.as_deref();
        let (kind, default) = match setting.kind {
            Kind::Number(min, max) => {
                let range = (min, max.min(device.kconfig_max));
                assert_eq!(entry.range, Some(range), "range of {symbol} in Kconfig");
                ("int", default)
            }
            Kind::Switch => {
                let on = default == Some("y");
                ("bool", Some(if on { "true" } else { "false" }))
            }
            // The options of a choice have its name and theirs.
            Kind::Choice(words) => {
                let chosen = default.and_then(|d| d.strip_prefix(symbol)?.strip_prefix('_'));
                let chosen = words
                    .iter()
                    .find(|word| chosen.is_some_and(|c| c.eq_ignore_ascii_case(word)));
                ("prompt", chosen.copied())
            }
            _ => ("string", default),
        };
        assert_eq!(entry.kind, kind, "type of {symbol} in Kconfig");
        assert_eq!(
            default,
            Some(device.default),
            "default of {symbol} in Kconfig"
        );
        let prompt = match device.shell {
            true => format!("{}: {}", setting.name, setting.summary),
            false => capital(setting.summary),
        };
        assert_eq!(entry.prompt, prompt, "prompt of {symbol} in Kconfig");
        assert!(
            entry.has_help || setting.more.is_empty() && device.more.is_empty(),
            "{symbol} in Kconfig needs a help: \"{}\"",
            setting.more
        );
    }
}

#[test]
fn each_option_that_is_a_default_is_a_setting() {
    let entries = entries(&text("Kconfig"));
    let menu = |e: &&Entry| e.menu == "Defaults of the settings" && e.kind != "bool";
    assert!(
        entries.iter().filter(menu).count() > 20,
        "the menu is there"
    );
    for entry in entries.iter().filter(menu) {
        assert!(
            options().any(|(_, _, symbol)| symbol == entry.symbol),
            "{}: give it an entry of SETTINGS in src/settings/table.rs",
            entry.symbol
        );
    }
}

#[test]
fn the_firmware_takes_over_each_default_of_kconfig() {
    let source = text("ports/zephyr/src/settings.rs");
    for (setting, device, symbol) in options() {
        // So that one that is another's beginning is not taken for it.
        let ends = [",", ")", " ", ";", "\n"];
        let named = ends
            .iter()
            .any(|end| source.contains(&format!("CONFIG_{symbol}{end}")));
        assert!(
            named || !device.shell,
            "{}: build_defaults of ports/zephyr/src/settings.rs must take CONFIG_{symbol}",
            setting.name
        );
    }
}

/// The source in a folder, but for one file.
fn sources(folder: &str, except: &str) -> String {
    let files = fs::read_dir(path(folder)).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|e| e == "rs"));
    let files = files.filter(|file| !file.ends_with(except));
    files
        .map(|file| fs::read_to_string(file).unwrap())
        .collect()
}

#[test]
fn each_setting_is_read() {
    let reads = |source: &str, field: &str| {
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        source.split(&format!(".{field}")).skip(1).any(ends)
    };
    // `Settings::field` borrows each to set it, and tests read what they like.
    let core = text("src/settings/mod.rs").replace("&mut self.", "");
    let core = core.split("#[cfg(test)]").next().unwrap();
    let device = sources("ports/zephyr/src", "settings.rs") + core;
    for setting in SETTINGS {
        let name = setting.name;
        // Credentials are no field: the stack has them.
        let is_field = setting.device.is_some_and(|d| d.shell) && setting.kind != Kind::Pem;
        assert!(
            !is_field || reads(&device, name),
            "{name}: neither ports/zephyr/src nor src/settings/mod.rs reads this field of Settings"
        );
    }
    let host = sources("ports/host/src", "lib.rs");
    // The file is read before there is a Join.
    let before = ["help", "config", "config_section"];
    for arg in join().get_arguments() {
        let name = arg.get_id().as_str();
        if before.contains(&name) {
            continue;
        }
        assert!(
            reads(&host, name),
            "{name}: no file of ports/host/src reads this field of Join or Limits"
        );
    }
}

/// The link has defaults of its own for those who use it without settings.
#[test]
fn the_links_defaults_are_those_of_the_table() {
    let link = proplet_link::LinkConfig::DEFAULT;
    for (name, value) in [
        ("keep_alive", u64::from(link.keep_alive)),
        ("session_expiry", link.session_expiry.into()),
        ("timeout", link.timeout.as_secs()),
    ] {
        let setting = SETTINGS.iter().find(|s| s.name == name).expect(name);
        assert_eq!(
            setting.device.expect(name).default,
            value.to_string(),
            "{name}"
        );
    }
}

// Documentation

const DOCS: &str = "docs/configuration.md";

fn meaning(summary: &str, more: &[&str]) -> String {
    let more: Vec<&str> = more.iter().copied().filter(|m| !m.is_empty()).collect();
    match more.is_empty() {
        true => summary.to_owned(),
        false => format!("{summary}. {}", more.join(" ")),
    }
}

/// Values of a setting in words.
fn values(setting: &Setting, on_linux: bool) -> String {
    match setting.kind {
        Kind::Number(..) => setting.range().to_string(),
        Kind::Switch if on_linux => "given or not; of the variable, `true` or `false`".into(),
        Kind::Switch => "`true` or `false`".into(),
        Kind::Choice(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            let (last, first) = words.split_last().expect("a choice has words");
            format!("{} or {last}", first.join(", "))
        }
        Kind::Line(_) if on_linux => "text".into(),
        Kind::Line(max) => format!("up to {max} bytes"),
        Kind::Id => "1 to 64 bytes, without `/`, `+` and `#`".into(),
        Kind::Password => "8 to 64 characters, or none".into(),
        Kind::Host => "name or address".into(),
        Kind::Url => "`http://…` or `https://…`, or none".into(),
        Kind::Broker => "URL".into(),
        Kind::Caps => "names".into(),
        Kind::Keys if on_linux => "keys, or files of them".into(),
        Kind::Keys => "keys".into(),
        Kind::Pem if on_linux => "file".into(),
        Kind::Pem => "PEM, on one line with `\\n` for each line break".into(),
        Kind::File => "file".into(),
        Kind::Folder => "folder".into(),
    }
}

fn code(value: &str) -> String {
    match value {
        "" => "empty".into(),
        value => format!("`{value}`"),
    }
}

fn linux_table(section: Section) -> String {
    let mut table =
        String::from("| flag | variable | default | value | meaning |\n|---|---|---|---|---|\n");
    for (setting, linux) in linux().filter(|(s, _)| s.section == section) {
        let default = match linux.default {
            LinuxDefault::Is(value) => code(value),
            LinuxDefault::Unset(meaning) => meaning.into(),
            LinuxDefault::Required => "required".into(),
        };
        let mut values = values(setting, true);
        if linux.cuts {
            values += "; a larger one is cut to it, with a warning";
        }
        let names = |dashes: &str, names: [&str; 2]| {
            let names = names.into_iter().filter(|name| !name.is_empty());
            let names: Vec<String> = names.map(|name| format!("`{dashes}{name}`")).collect();
            names.join(", ")
        };
        let flag = names("--", [linux.flag, linux.older_flag]);
        let variable = names("", [linux.variable, linux.older_variable]);
        let meaning = meaning(setting.linux_help(), &[setting.more]);
        writeln!(
            table,
            "| {flag} | {variable} | {default} | {values} | {meaning} |"
        )
        .expect("a string takes it");
    }
    table
}

fn shell_table() -> String {
    let mut table =
        String::from("| name | option | default | value | meaning |\n|---|---|---|---|---|\n");
    for (setting, device) in SETTINGS.iter().filter_map(|s| Some((s, s.device?))) {
        if !device.shell {
            continue;
        }
        let option = device.kconfig.map(|symbol| format!("CONFIG_{symbol}"));
        let meaning = meaning(setting.summary, &[setting.more, device.more]);
        writeln!(
            table,
            "| `{}` | {} | {} | {} | {meaning} |",
            setting.name,
            option.unwrap_or_default(),
            code(device.default),
            values(setting, false)
        )
        .expect("a string takes it");
    }
    table
}

fn build_table() -> String {
    let mut table = String::from("| option | default | value | meaning |\n|---|---|---|---|\n");
    for (setting, device, symbol) in options().filter(|(_, device, _)| !device.shell) {
        let meaning = meaning(setting.summary, &[setting.more, device.more]);
        let values = match setting.kind {
            Kind::Number(min, max) => {
                let max = max.min(device.kconfig_max);
                format!("{min} to {max}{}", setting.unit.sign())
            }
            _ => values(setting, false),
        };
        writeln!(
            table,
            "| CONFIG_{symbol} | {} | {values} | {meaning} |",
            code(device.default)
        )
        .expect("a string takes it");
    }
    table
}

/// `docs` with `table` between the two comments that name it.
fn with_table(docs: &str, name: &str, table: &str) -> String {
    let begin = format!("<!-- settings: {name} -->\n");
    let end = "<!-- end of settings -->\n";
    let missing = || panic!("{DOCS}: '{begin}' and '{end}' must be around a table");
    let (before, rest) = docs.split_once(&begin).unwrap_or_else(missing);
    let (_, after) = rest.split_once(end).unwrap_or_else(missing);
    format!("{before}{begin}\n{table}\n{end}{after}")
}

#[test]
fn the_documentation_has_the_table() {
    let docs = text(DOCS);
    let mut expected = docs.clone();
    for (name, table) in [
        ("connection", linux_table(Section::Connection)),
        ("reports", linux_table(Section::Reports)),
        ("limits", linux_table(Section::Limits)),
        ("modules", linux_table(Section::Modules)),
        ("device", shell_table()),
        ("build", build_table()),
    ] {
        expected = with_table(&expected, name, &table);
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path(DOCS), &expected).expect("the documentation");
        return;
    }
    let differs = docs.lines().zip(expected.lines()).find(|(a, b)| a != b);
    assert!(
        docs == expected,
        "{DOCS} is not as SETTINGS says, first at {differs:?}: \
         run `UPDATE_DOCS=1 cargo test -p proplet-host --test settings`"
    );
}
