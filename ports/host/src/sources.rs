//! Where a setting's value comes from: a flag, the environment, a file or the profile of a board, the first that
//! has it; else it is the default.

use crate::{
    cli::{self, Cli},
    config_file::{self, Problem},
};
use clap::{
    Arg, ArgMatches, Command, CommandFactory as _, Error, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use log::Level;
use proplet::settings::{
    boards::{self, Board},
    table::{Kind, Section, Setting},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
};
use toml::{Table, Value};

/// Beginning of the variables that are a proplet's.
const PREFIX: &str = "PROPLET_";

/// A variable that is read before the settings are.
const LOG_LEVEL: &str = "PROPLET_LOG_LEVEL";

/// Variables of the environment. One that is empty is as good as none.
#[derive(Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Those of `variables` that have a value.
    pub fn new<K: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let entries = variables.into_iter().filter_map(|(name, value)| {
            let (name, value) = (name.into().into_string().ok()?, value.into());
            (!value.is_empty()).then_some((name, value))
        });
        Self(entries.collect())
    }

    /// Value of the variable of this name, if it is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str()
    }
}

/// A line for the log, which is not there yet when settings are read.
pub type Note = (Level, String);

/// Values from other sources than flags, each from the best that has it.
#[derive(Debug, Default)]
struct Found {
    /// By the argument's id.
    values: BTreeMap<String, FoundValue>,
    notes: Vec<Note>,
}

#[derive(Debug)]
struct FoundValue {
    text: String,
    /// Its source, in words.
    source: String,
}

impl Found {
    /// Keeps a value unless there is one from a better source.
    fn add(&mut self, arg: &Arg, text: String, source: String) {
        let id = arg.get_id().to_string();
        let value = FoundValue { text, source };
        self.values.entry(id).or_insert(value);
    }

    fn get(&self, id: &str) -> Option<&FoundValue> {
        self.values.get(id)
    }

    fn has(&self, arg: &Arg) -> bool {
        self.get(arg.get_id().as_str()).is_some()
    }
}

/// Reads a command line, and what it leaves open from the other sources.
///
/// # Errors
/// Wrong words on the command line, a value that is wrong, with its source, or a file that can't be read. Help and
/// version are errors, too, as clap has it.
pub fn parse(args: &[OsString], environment: &Environment) -> Result<(Cli, Vec<Note>), Error> {
    let open = all_args(Cli::command(), |arg| arg.env(None::<&str>).required(false));
    let given = open.try_get_matches_from(args).map_err(|error| {
        // In the whole command's words, which name variables and what is required.
        let whole = Cli::command().try_get_matches_from(args);
        whole.err().unwrap_or(error)
    })?;
    let mut whole = Cli::command();
    whole.build();
    let subcommand = given.subcommand().and_then(|(name, given)| {
        let command = whole.find_subcommand_mut(name)?;
        Some((command, given))
    });
    let Some((command, given)) = subcommand else {
        return Ok((flags(args)?, vec![]));
    };
    let found = find(command, given, environment)
        .map_err(|words| command.error(ErrorKind::ValueValidation, words))?;
    let cli = complete(args, &found).map_err(|error| explain(error, command, &found))?;
    Ok((cli, found.notes))
}

/// Reads a command line alone.
///
/// # Errors
/// Wrong words on the command line, or missing ones.
pub fn flags<T: Into<OsString> + Clone>(args: &[T]) -> Result<Cli, Error> {
    complete(args, &Found::default())
}

fn complete<T: Into<OsString> + Clone>(args: &[T], found: &Found) -> Result<Cli, Error> {
    let command = all_args(Cli::command(), |arg| {
        let arg = arg.env(None::<&str>);
        match found.get(arg.get_id().as_str()) {
            Some(value) => arg.required(false).default_value(value.text.clone()),
            None => arg,
        }
    });
    Cli::from_arg_matches(&command.try_get_matches_from(args.iter().cloned())?)
}

/// `command`, with each argument of its subcommands changed.
fn all_args(command: Command, change: impl Fn(Arg) -> Arg) -> Command {
    command.mut_subcommands(|subcommand| subcommand.mut_args(&change))
}

/// Looks for what has no flag, from the best source to the weakest.
fn find(command: &Command, given: &ArgMatches, environment: &Environment) -> Result<Found, String> {
    let has_variable = |arg: &&Arg| arg.get_env().is_some();
    let is_open = |arg: &&Arg| {
        let source = given.value_source(arg.get_id().as_str());
        source != Some(ValueSource::CommandLine)
    };
    let args: Vec<&Arg> = command.get_arguments().filter(has_variable).collect();
    let open: Vec<&Arg> = args.iter().copied().filter(is_open).collect();
    let mut found = Found::default();
    add_environment(&mut found, &open, environment)?;
    if command.get_name() == "join" {
        let known: BTreeSet<&str> = args.into_iter().flat_map(variables).collect();
        found.notes.extend(ignored_variables(&known, environment));
        let place = Place::new(given, &found);
        if let Some(section) = read(&place, &open, &mut found)? {
            add_section(&mut found, &open, &place.words(), &section)?;
            found.notes.extend(ignored_keys(&known, &place, &section));
        }
        check_required(&found, &open, &place)?;
    }
    let like = given.try_get_one::<&Board>("like").ok().flatten().copied();
    if let Some(board) = like.or_else(|| boards::find(&found.get("like")?.text)) {
        add_board(&mut found, &open, board);
    }
    Ok(found)
}

/// The variables that an argument has: its own, and the one that Propeller 0.5 has for it, if any.
fn variables(arg: &Arg) -> impl Iterator<Item = &str> {
    let own = arg.get_env().and_then(|name| name.to_str());
    let linux = cli::setting(arg).and_then(|setting| setting.linux);
    let older = linux.map(|linux| linux.older_variable);
    own.into_iter().chain(older).filter(|name| !name.is_empty())
}

fn add_environment(
    found: &mut Found,
    open: &[&Arg],
    environment: &Environment,
) -> Result<(), String> {
    for arg in open {
        for name in variables(arg) {
            let Some(value) = environment.0.get(name) else {
                continue;
            };
            let value = value.to_str();
            let value = value.ok_or_else(|| format!("{name} is not UTF-8, expected a text"))?;
            found.add(arg, value.into(), name.into());
        }
    }
    Ok(())
}

fn ignored_variables(known: &BTreeSet<&str>, environment: &Environment) -> Option<Note> {
    let names = environment.0.keys().map(String::as_str);
    let names = names
        .filter(|name| name.starts_with(PREFIX) && *name != LOG_LEVEL && !known.contains(name));
    ignored("the environment", names)
}

fn ignored_keys(known: &BTreeSet<&str>, place: &Place, section: &Table) -> Option<Note> {
    let keys: BTreeSet<String> = known.iter().map(|variable| key(variable)).collect();
    let names = section.keys().map(String::as_str);
    ignored(&place.words(), names.filter(|name| !keys.contains(*name)))
}

fn ignored<'n>(place: &str, names: impl Iterator<Item = &'n str>) -> Option<Note> {
    let names: Vec<&str> = names.collect();
    let words = || {
        let names = names.join(", ");
        format!("{place} has names that are no settings of this proplet, and are ignored: {names}")
    };
    (!names.is_empty()).then(|| (Level::Debug, words()))
}

/// Key of a setting in a file: its variable in small letters, without the prefix.
fn key(variable: &str) -> String {
    let name = variable.strip_prefix(PREFIX).unwrap_or(variable);
    name.to_ascii_lowercase()
}

/// A section of a file.
struct Place {
    file: PathBuf,
    section: String,
    named_by: NamedBy,
}

/// Who names a file or its section, from the weakest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum NamedBy {
    Default,
    Variable,
    Flag,
}

impl Place {
    fn new(given: &ArgMatches, found: &Found) -> Self {
        let of_variable = |id: &str| found.get(id).map(|value| value.text.clone());
        let named_by = |id: &str| match given.value_source(id) {
            Some(ValueSource::CommandLine) => NamedBy::Flag,
            _ if found.get(id).is_some() => NamedBy::Variable,
            _ => NamedBy::Default,
        };
        let file = of_variable("config").map(PathBuf::from);
        let section = of_variable("config_section");
        Self {
            file: file
                .or_else(|| given.get_one("config").cloned())
                .unwrap_or_default(),
            section: section
                .or_else(|| given.get_one("config_section").cloned())
                .unwrap_or_default(),
            named_by: named_by("config").max(named_by("config_section")),
        }
    }

    fn words(&self) -> String {
        format!("{} [{}]", self.file.display(), self.section)
    }
}

/// Reads the section, if it is there.
///
/// One that is not there is an error where a flag names it, or where the identity is not complete without it. As
/// for the Linux proplet, the environment may name a file that is not needed: its compose file always does.
fn read(place: &Place, open: &[&Arg], found: &mut Found) -> Result<Option<Table>, String> {
    let problem = match config_file::section(&place.file, &place.section) {
        Ok(section) => return Ok(Some(section)),
        Err(Problem::Unusable(words)) => return Err(words),
        Err(Problem::NotThere(_)) if place.named_by == NamedBy::Default => return Ok(None),
        Err(Problem::NotThere(words) | Problem::NoSection(words)) => words,
    };
    let is_open = |arg: &&Arg| is_identity(arg) && !found.has(arg);
    let is_needed = open.iter().any(is_open);
    let level = match place.named_by {
        NamedBy::Flag => return Err(problem),
        _ if is_needed => {
            check_required(found, open, place).map_err(|words| format!("{problem}; {words}"))?;
            return Err(problem);
        }
        NamedBy::Variable => Level::Warn,
        NamedBy::Default => Level::Debug,
    };
    found.notes.push((level, problem));
    Ok(None)
}

/// Whether a proplet can't join without it, or can't prove who it is.
fn is_identity(arg: &Arg) -> bool {
    let setting = cli::setting(arg);
    arg.is_required_set() || setting.is_some_and(|setting| setting.name == "api_key")
}

fn add_section(
    found: &mut Found,
    open: &[&Arg],
    place: &str,
    section: &Table,
) -> Result<(), String> {
    for arg in open {
        let Some(setting) = cli::setting(arg) else {
            continue;
        };
        for key in variables(arg).map(key) {
            let Some(value) = section.get(&key) else {
                continue;
            };
            let source = format!("{key} in {place}");
            let text = text(value, setting.kind).map_err(|words| format!("{source}: {words}"))?;
            if !text.is_empty() {
                found.add(arg, text, source);
            }
        }
    }
    Ok(())
}

/// A value of TOML as a variable would have it.
fn text(value: &Value, kind: Kind) -> Result<String, String> {
    let expected = match (value, kind) {
        (Value::String(text), _) => return Ok(text.clone()),
        (Value::Integer(number), Kind::Number(..)) => return Ok(number.to_string()),
        (Value::Boolean(on), Kind::Switch) => return Ok(on.to_string()),
        (_, Kind::Number(..)) => "an integer or a string",
        (_, Kind::Switch) => "a boolean or a string",
        _ => "a string",
    };
    let found = value.type_str();
    Err(format!("expected {expected}, not a value of type {found}"))
}

/// Names the settings that are required and have no value, each with its sources.
fn check_required(found: &Found, open: &[&Arg], place: &Place) -> Result<(), String> {
    let is_missing = |arg: &&&Arg| arg.is_required_set() && !found.has(arg);
    let missing = open.iter().filter(is_missing).map(|arg| {
        let flag = arg.get_long().unwrap_or_default();
        let variable = variables(arg).next().unwrap_or_default();
        let (key, place) = (key(variable), place.words());
        format!("\n  --{flag}, {variable}, or {key} in {place}")
    });
    let missing: String = missing.collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("these settings have no value:{missing}")),
    }
}

/// Adds the limits that a board has.
fn add_board(found: &mut Found, open: &[&Arg], board: &Board) {
    for arg in open {
        let limit = cli::setting(arg).filter(|setting| setting.section == Section::Limits);
        if let Some(value) = limit.and_then(|setting| limit_on(board, setting)) {
            found.add(arg, value, format!("--like {}", board.name));
        }
    }
}

fn limit_on(board: &Board, setting: &Setting) -> Option<String> {
    match setting.name {
        "arena_bytes" => Some(board.arena_bytes.to_string()),
        "instances" => Some(board.slots.to_string()),
        "deployments" => Some(board.deployments.to_string()),
        _ => setting.device.map(|device| device.default.into()),
    }
}

/// Says of a wrong value that was no flag's where it is from.
fn explain(error: Error, command: &mut Command, found: &Found) -> Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let arg = command
        .get_arguments()
        .find(|arg| arg.to_string() == *shown);
    let value = arg.and_then(|arg| Some((arg, found.get(arg.get_id().as_str())?)));
    let Some((arg, FoundValue { text, source })) = value else {
        return error;
    };
    let reason = std::error::Error::source(&error);
    let reason = match (error.get(ContextKind::ValidValue), reason) {
        (Some(ContextValue::Strings(words)), _) => format!("expected {}", words.join(", ")),
        (_, Some(reason)) => reason.to_string(),
        _ => return error,
    };
    // A URL may have credentials.
    let is_secret = |setting: &Setting| match setting.kind {
        Kind::Broker | Kind::Url => text.contains('@'),
        _ => setting.secret,
    };
    let words = match cli::setting(arg).is_some_and(is_secret) {
        true => format!("{source}: {reason}"),
        false => format!("{source} is '{text}': {reason}"),
    };
    command.error(ErrorKind::ValueValidation, words)
}
