//! Commands in: start, stop and invoke from the manager, chunks from the registry.

use super::{
    error::Error,
    json::{Place, Reader, Token},
    pack::{List, Packer, Pairs},
};
use crate::time::Duration;
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// Most bytes of a task's, an invocation's or a proplet's id.
pub const ID_MAX: usize = 64;

/// Id of a task, an invocation or a proplet.
pub type Id = heapless::String<ID_MAX>;

/// Most bytes of an export's name.
pub const NAME_MAX: usize = 64;

/// Most bytes of an image reference.
pub const URL_MAX: usize = 256;

/// Buffers for what can't stay in the payload, overwritten by each message.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// Takes inputs and environment, as [`List`] and [`Pairs`].
    pub packed: &'a mut [u8],
    /// Takes each string of the document that has escapes, ignored ones included.
    pub unescaped: &'a mut [u8],
}

/// A task to start, or to deploy if it is latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    /// The task's id, 1 to [`ID_MAX`] bytes.
    pub id: &'a str,
    /// Name of the task, not empty; see [`entry`](Self::entry).
    pub name: &'a str,
    /// Where to get the module, 1 to [`URL_MAX`] bytes. Present if `file` is not.
    pub image_url: Option<&'a str>,
    /// The module in base64, not empty and not checked; it wins over `image_url`.
    pub file: Option<&'a str>,
    /// Arguments as text.
    pub inputs: List<'a>,
    /// The environment.
    pub env: Pairs<'a>,
    /// Whether every proplet is meant.
    pub broadcast: bool,
    /// Whether success is reported at once, and the task runs on.
    pub daemon: bool,
    /// Whether the task is only deployed, to be invoked later.
    pub latent: bool,
    /// Whether the module is encrypted and needs a trusted execution environment.
    pub encrypted: bool,
    /// Monitoring of the task; settings that the message leaves open are as usual for its kind.
    pub monitoring_profile: MonitoringProfile,
    /// The proplet that is meant, 1 to [`ID_MAX`] bytes.
    pub proplet_id: Option<&'a str>,
}

impl<'a> Start<'a> {
    const FIELDS: &'static [Field] = &[
        Field::Id,
        Field::Name,
        Field::ImageUrl,
        Field::File,
        Field::Inputs,
        Field::Env,
        Field::Broadcast,
        Field::Daemon,
        Field::Latent,
        Field::Encrypted,
        Field::MonitoringProfile,
        Field::PropletId,
    ];

    /// Reads a start command.
    ///
    /// # Errors
    /// [`Rejected`], with what could be read.
    pub fn parse(payload: &'a [u8], scratch: Scratch<'a>) -> Result<Self, Rejected<'a>> {
        let message = Message::read(payload, scratch, Self::FIELDS);
        message.check()?;
        let start = Self {
            id: message.require(Field::Id)?,
            name: message.require(Field::Name)?,
            image_url: message.text(Field::ImageUrl),
            file: message.text(Field::File),
            inputs: message.inputs(),
            env: message.env(),
            broadcast: message.flag(Field::Broadcast),
            daemon: message.flag(Field::Daemon),
            latent: message.flag(Field::Latent),
            encrypted: message.flag(Field::Encrypted),
            monitoring_profile: message.monitoring_profile(),
            proplet_id: message.text(Field::PropletId),
        };
        if start.file.is_none() && start.image_url.is_none() {
            return Err(message.reject(Error::NoModule));
        }
        Ok(start)
    }

    /// The export that `name` asks for, of whatever length; `None` asks for the module's default
    /// entry. The manager names a round's tasks, by two ids.
    pub fn entry(&self) -> Option<&'a str> {
        (!self.name.starts_with("fl-round-")).then_some(self.name)
    }

    /// Whether the proplet `my_id` is meant.
    pub fn is_for(&self, my_id: &str) -> bool {
        is_for(self.broadcast, self.proplet_id, my_id)
    }
}

/// A task to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop<'a> {
    /// The task's id, 1 to [`ID_MAX`] bytes.
    pub id: &'a str,
    /// The proplet that is meant, 1 to [`ID_MAX`] bytes.
    pub proplet_id: Option<&'a str>,
    /// Whether every proplet is meant.
    pub broadcast: bool,
}

impl<'a> Stop<'a> {
    const FIELDS: &'static [Field] = &[Field::Id, Field::PropletId, Field::Broadcast];

    /// Reads a stop command.
    ///
    /// # Errors
    /// [`Rejected`], with what could be read.
    pub fn parse(payload: &'a [u8], scratch: Scratch<'a>) -> Result<Self, Rejected<'a>> {
        let message = Message::read(payload, scratch, Self::FIELDS);
        message.check()?;
        Ok(Self {
            id: message.require(Field::Id)?,
            proplet_id: message.text(Field::PropletId),
            broadcast: message.flag(Field::Broadcast),
        })
    }

    /// Whether the proplet `my_id` is meant.
    pub fn is_for(&self, my_id: &str) -> bool {
        is_for(self.broadcast, self.proplet_id, my_id)
    }
}

/// A latent task to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invoke<'a> {
    /// The task's id, 1 to [`ID_MAX`] bytes.
    pub id: &'a str,
    /// The invocation's id, 1 to [`ID_MAX`] bytes. The manager drops results without one.
    pub invocation_id: Option<&'a str>,
    /// The proplet that is meant, 1 to [`ID_MAX`] bytes.
    pub proplet_id: Option<&'a str>,
    /// Whether every proplet is meant.
    pub broadcast: bool,
    /// Arguments as text; if there are any, they replace those of the start.
    pub inputs: List<'a>,
    /// Environment to add to that of the start; it wins.
    pub env: Pairs<'a>,
}

impl<'a> Invoke<'a> {
    const FIELDS: &'static [Field] = &[
        Field::Id,
        Field::InvocationId,
        Field::PropletId,
        Field::Broadcast,
        Field::Inputs,
        Field::Env,
    ];

    /// Reads an invoke command.
    ///
    /// # Errors
    /// [`Rejected`], with what could be read.
    pub fn parse(payload: &'a [u8], scratch: Scratch<'a>) -> Result<Self, Rejected<'a>> {
        let message = Message::read(payload, scratch, Self::FIELDS);
        message.check()?;
        Ok(Self {
            id: message.require(Field::Id)?,
            invocation_id: message.text(Field::InvocationId),
            proplet_id: message.text(Field::PropletId),
            broadcast: message.flag(Field::Broadcast),
            inputs: message.inputs(),
            env: message.env(),
        })
    }

    /// Whether the proplet `my_id` is meant.
    pub fn is_for(&self, my_id: &str) -> bool {
        is_for(self.broadcast, self.proplet_id, my_id)
    }
}

/// A piece of a module. All proplets of the channel get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The image reference that was asked for, 1 to [`URL_MAX`] bytes.
    pub app_name: &'a str,
    /// The piece's index, below `total_chunks`.
    pub chunk_idx: u32,
    /// Number of pieces, at least 1.
    pub total_chunks: u32,
    /// The piece in base64, not checked; may be empty.
    pub data: &'a str,
}

impl<'a> Chunk<'a> {
    const FIELDS: &'static [Field] = &[
        Field::AppName,
        Field::ChunkIdx,
        Field::TotalChunks,
        Field::Data,
    ];

    /// Reads a chunk.
    ///
    /// # Errors
    /// [`Rejected`], with `app_name` as its `id` if that could be read.
    pub fn parse(payload: &'a [u8], scratch: Scratch<'a>) -> Result<Self, Rejected<'a>> {
        let message = Message::read(payload, scratch, Self::FIELDS);
        message.check()?;
        let chunk = Self {
            app_name: message.require(Field::AppName)?,
            chunk_idx: message.number(Field::ChunkIdx)?,
            total_chunks: message.number(Field::TotalChunks)?,
            data: message.text(Field::Data).unwrap_or_default(),
        };
        if chunk.chunk_idx >= chunk.total_chunks {
            return Err(message.reject(Error::Index {
                index: chunk.chunk_idx,
                total: chunk.total_chunks,
            }));
        }
        Ok(chunk)
    }

    /// The `app_name` of a chunk as Go writes it, first and without escapes; `None` if the start
    /// of `payload` doesn't show it. The rest is neither read nor checked: this is to drop the
    /// chunks of others at little cost.
    pub fn app_name_of(payload: &'a [u8]) -> Option<&'a str> {
        let rest = payload.strip_prefix(br#"{"app_name":""#)?;
        let near = rest.get(..rest.len().min(URL_MAX + 1))?;
        let end = near.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        let (name, end) = near.split_at_checked(end)?;
        let name = core::str::from_utf8(name).ok()?;
        (end.first() == Some(&b'"')).then_some(name)
    }
}

/// A message that is refused, with what could be read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected<'a> {
    /// The task's id, or the `app_name` of a chunk, if it was read and is within its limit.
    pub id: Option<&'a str>,
    /// The invocation's id, likewise.
    pub invocation_id: Option<&'a str>,
    /// The proplet that is meant, likewise.
    pub proplet_id: Option<&'a str>,
    /// Whether every proplet is meant.
    pub broadcast: bool,
    /// Whether the task was to be deployed only.
    pub latent: bool,
    /// Its fault: the error that ended the reading, or else that of the first wrong field.
    pub error: Error,
    /// Whether all that says who is meant has been read and is well-formed.
    addressed: bool,
}

impl Rejected<'_> {
    /// Whether the proplet `my_id` is meant for certain, and so has to answer.
    pub fn is_for(&self, my_id: &str) -> bool {
        let named = self.addressed || self.proplet_id.is_some();
        self.broadcast || named && is_for(false, self.proplet_id, my_id)
    }
}

fn is_for(broadcast: bool, proplet_id: Option<&str>, my_id: &str) -> bool {
    broadcast || proplet_id.is_none_or(|id| id == my_id)
}

/// Monitoring of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the protocol's field names")]
pub struct MonitoringProfile {
    pub enabled: bool,
    /// Time between samples, 1 s to 3600 s.
    pub interval: Duration,
    pub collect_cpu: bool,
    pub collect_memory: bool,
    pub collect_disk_io: bool,
    pub collect_threads: bool,
    pub collect_file_descriptors: bool,
    pub export_to_mqtt: bool,
    pub retain_history: bool,
    /// Samples to keep.
    pub history_size: u32,
}

impl MonitoringProfile {
    /// Whether samples are wanted at all.
    pub const fn exports(&self) -> bool {
        self.enabled && self.export_to_mqtt
    }

    /// For a task that ends by itself.
    pub const STANDARD: Self = Self {
        enabled: true,
        interval: Duration::from_secs(10),
        collect_cpu: true,
        collect_memory: true,
        collect_disk_io: true,
        collect_threads: true,
        collect_file_descriptors: true,
        export_to_mqtt: true,
        retain_history: true,
        history_size: 100,
    };

    /// For a daemon.
    pub const DAEMON: Self = Self {
        interval: Duration::from_secs(120),
        history_size: 500,
        ..Self::STANDARD
    };

    /// The default of a daemon, or of any other task.
    const fn of(daemon: bool) -> Self {
        if daemon { Self::DAEMON } else { Self::STANDARD }
    }
}

/// From this on, an interval is taken for nanoseconds, as Go writes it; below, for seconds.
const NANOSECONDS_FROM: i64 = 1_000_000;

/// The interval that `value` stands for; zero and less leave the default.
fn interval(value: i64) -> Option<Duration> {
    let count = u64::try_from(value).ok().filter(|count| *count > 0)?;
    let interval = if value < NANOSECONDS_FROM {
        Duration::from_secs(count)
    } else {
        Duration::from_nanos(count)
    };
    Some(interval.clamp(Duration::from_secs(1), Duration::from_secs(3600)))
}

/// Fields of all commands. A command knows only its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    // The texts come first, then the flags, then the numbers: their place is their index.
    Id,
    InvocationId,
    PropletId,
    Name,
    ImageUrl,
    AppName,
    File,
    Data,
    Broadcast,
    Daemon,
    Latent,
    Encrypted,
    ChunkIdx,
    TotalChunks,
    Inputs,
    Env,
    MonitoringProfile,
}

const TEXTS: usize = Field::Broadcast as usize;
const FLAGS: usize = Field::ChunkIdx as usize - TEXTS;
const NUMBERS: usize = Field::Inputs as usize - TEXTS - FLAGS;

impl Field {
    const fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::InvocationId => "invocation_id",
            Self::PropletId => "proplet_id",
            Self::Name => "name",
            Self::ImageUrl => "image_url",
            Self::AppName => "app_name",
            Self::File => "file",
            Self::Data => "data",
            Self::Broadcast => "broadcast",
            Self::Daemon => "daemon",
            Self::Latent => "latent",
            Self::Encrypted => "encrypted",
            Self::ChunkIdx => "chunk_idx",
            Self::TotalChunks => "total_chunks",
            Self::Inputs => "inputs",
            Self::Env => "env",
            Self::MonitoringProfile => "monitoring_profile",
        }
    }

    /// Most bytes of a text.
    const fn limit(self) -> Option<usize> {
        match self {
            Self::Id | Self::InvocationId | Self::PropletId => Some(ID_MAX),
            Self::ImageUrl | Self::AppName => Some(URL_MAX),
            _ => None,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Inputs => Kind::Inputs,
            Self::Env => Kind::Env,
            Self::MonitoringProfile => Kind::Profile,
            _ => match self as usize {
                text @ ..TEXTS => Kind::Text(text),
                other if other < TEXTS + FLAGS => Kind::Flag(other - TEXTS),
                other => Kind::Number(other - TEXTS - FLAGS),
            },
        }
    }
}

/// Type of a field, and its index among those of the same.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text(usize),
    Flag(usize),
    Number(usize),
    Inputs,
    Env,
    Profile,
}

impl Kind {
    /// For errors.
    const fn describe(self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Flag(_) => "a boolean",
            Self::Number(_) => "an integer from 0 to 4294967295",
            Self::Inputs => "an array of strings",
            Self::Env => "an object of strings",
            Self::Profile => "an object",
        }
    }
}

/// The fields of a message, as far as they have been read.
#[derive(Debug, Default)]
struct Found {
    texts: [Option<Place>; TEXTS],
    flags: [bool; FLAGS],
    numbers: [Option<u32>; NUMBERS],
    inputs: Range<usize>,
    env: Range<usize>,
    profile: Profile,
    error: Option<Error>,
    /// Whether the document has been read to its end.
    whole: bool,
    /// Whether a field that says who is meant is wrong.
    misaddressed: bool,
}

impl Found {
    /// Keeps the first error.
    fn note(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// Notes the error, if `result` is one.
    fn check(&mut self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.note(error);
        }
    }

    /// Notes that the value of `field` can't be used.
    fn refuse(&mut self, field: Field, error: Error) {
        self.misaddressed |= matches!(field, Field::PropletId | Field::Broadcast);
        self.clear(field);
        self.note(error);
    }

    /// Makes `field` absent.
    fn clear(&mut self, field: Field) {
        match field.kind() {
            Kind::Text(index) => self.set_text(index, None),
            Kind::Flag(index) => self.set_flag(index, false),
            Kind::Number(index) => self.set_number(index, None),
            Kind::Inputs => self.inputs = 0..0,
            Kind::Env => self.env = 0..0,
            Kind::Profile => self.profile = Profile::default(),
        }
    }

    fn set_text(&mut self, index: usize, place: Option<Place>) {
        if let Some(text) = self.texts.get_mut(index) {
            *text = place;
        }
    }

    fn set_flag(&mut self, index: usize, value: bool) {
        if let Some(flag) = self.flags.get_mut(index) {
            *flag = value;
        }
    }

    fn set_number(&mut self, index: usize, value: Option<u32>) {
        if let Some(number) = self.numbers.get_mut(index) {
            *number = value;
        }
    }
}

/// A monitoring profile in which the defaults that depend on the task are open.
#[derive(Debug)]
struct Profile {
    set: MonitoringProfile,
    interval: Option<Duration>,
    history_size: Option<u32>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            set: MonitoringProfile::STANDARD,
            interval: None,
            history_size: None,
        }
    }
}

/// A field of a monitoring profile.
enum Setting {
    Flag(fn(&mut MonitoringProfile) -> &mut bool),
    Interval,
    HistorySize,
}

impl Setting {
    /// For errors.
    const fn describe(&self) -> &'static str {
        match self {
            Self::Flag(_) => "a boolean for each of its switches",
            Self::Interval => "an integer as its interval",
            Self::HistorySize => "an integer from 0 as its history_size",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "enabled" => Self::Flag(|p| &mut p.enabled),
            "collect_cpu" => Self::Flag(|p| &mut p.collect_cpu),
            "collect_memory" => Self::Flag(|p| &mut p.collect_memory),
            "collect_disk_io" => Self::Flag(|p| &mut p.collect_disk_io),
            "collect_threads" => Self::Flag(|p| &mut p.collect_threads),
            "collect_file_descriptors" => Self::Flag(|p| &mut p.collect_file_descriptors),
            "export_to_mqtt" => Self::Flag(|p| &mut p.export_to_mqtt),
            "retain_history" => Self::Flag(|p| &mut p.retain_history),
            "interval" => Self::Interval,
            "history_size" => Self::HistorySize,
            _ => return None,
        })
    }
}

impl Profile {
    /// Takes a value; `None` if it is of the wrong type.
    fn set(&mut self, setting: &Setting, value: &Token<'_>) -> Option<()> {
        match (setting, value) {
            (_, Token::Null) => {}
            (Setting::Flag(flag), Token::Bool(value)) => *flag(&mut self.set) = *value,
            (Setting::Interval, Token::Number(number)) => {
                self.interval = interval(number.str.parse().ok()?);
            }
            (Setting::HistorySize, Token::Number(number)) => {
                let size: u64 = number.str.parse().ok()?;
                self.history_size = Some(size.try_into().unwrap_or(u32::MAX));
            }
            _ => return None,
        }
        Some(())
    }

    /// The profile of a task, a daemon or not.
    fn resolve(&self, daemon: bool) -> MonitoringProfile {
        let default = MonitoringProfile::of(daemon);
        MonitoringProfile {
            interval: self.interval.unwrap_or(default.interval),
            history_size: self.history_size.unwrap_or(default.history_size),
            ..self.set
        }
    }
}

/// Levels that are open within a command, and within one of its fields.
const COMMAND: u32 = 1;
const FIELD: u32 = 2;

/// A walk over a message. Each method returns an error of syntax, which ends the walk; others are
/// noted, and the walk goes on to learn whom to answer.
struct Scan<'a, 's> {
    reader: Reader<'a, 's>,
    packer: Packer<'s>,
    /// The error of a string that was omitted.
    omitted: Error,
    found: Found,
}

impl Scan<'_, '_> {
    fn document(&mut self, known: &[Field]) -> Result<(), Error> {
        if !matches!(self.reader.next()?, Token::OpenObject) {
            return Err(Error::NotObject);
        }
        // An omitted text behind an omitted value may be more of the same.
        let mut excused = false;
        while self.reader.depth() >= COMMAND {
            match self.reader.next()? {
                Token::Key(key) => {
                    let field = known.iter().find(|field| field.name() == key.str);
                    excused = match field {
                        Some(field) => self.field(*field)?,
                        None => self.unknown()?,
                    };
                }
                // This may be the key of a field that matters.
                Token::Omitted if !excused => self.found.note(self.omitted),
                // The value of an omitted key.
                Token::OpenObject | Token::OpenArray => self.reader.skip_to(COMMAND)?,
                _ => {}
            }
        }
        // Only an error or the end can follow.
        self.reader.next()?;
        self.found.whole = true;
        Ok(())
    }

    /// Passes over a value, and tells whether it was omitted.
    fn unknown(&mut self) -> Result<bool, Error> {
        let omitted = matches!(self.reader.next()?, Token::Omitted);
        self.reader.skip_to(COMMAND)?;
        Ok(omitted)
    }

    /// Reads the value of `field`, and tells whether it was omitted.
    fn field(&mut self, field: Field) -> Result<bool, Error> {
        let found = &mut self.found;
        let token = self.reader.next()?;
        match (field.kind(), token) {
            (_, Token::Omitted) => {
                found.refuse(field, self.omitted);
                return Ok(true);
            }
            (_, Token::Null) => found.clear(field),
            (Kind::Text(index), Token::String(text)) => match field.limit() {
                Some(limit) if text.str.len() > limit => {
                    found.refuse(field, too_long(field, limit));
                }
                _ => found.set_text(index, Some(text.place)),
            },
            (Kind::Flag(index), Token::Bool(value)) => found.set_flag(index, value),
            (Kind::Number(index), Token::Number(number)) => match number.str.parse() {
                Ok(value) => found.set_number(index, Some(value)),
                Err(_) => found.refuse(field, wrong(field, "another number")),
            },
            (Kind::Inputs, Token::OpenArray) => self.inputs()?,
            (Kind::Env, Token::OpenObject) => self.env()?,
            (Kind::Profile, Token::OpenObject) => self.profile()?,
            (_, token) => {
                found.refuse(field, wrong(field, token.describe()));
                self.reader.skip_to(COMMAND)?;
            }
        }
        Ok(false)
    }

    /// Packs the rest of an array.
    fn inputs(&mut self) -> Result<(), Error> {
        let start = self.packer.len();
        while self.reader.depth() >= FIELD {
            match self.reader.next()? {
                Token::String(text) | Token::Number(text) => {
                    self.found.check(self.packer.push(text.str));
                }
                Token::Close => {}
                Token::Omitted => self.found.note(self.omitted),
                other => {
                    self.found.note(Error::Type {
                        field: Field::Inputs.name(),
                        expected: "strings in its array",
                        found: other.describe(),
                    });
                    self.reader.skip_to(FIELD)?;
                }
            }
        }
        self.found.inputs = start..self.packer.len();
        Ok(())
    }

    /// Packs the rest of an object. A null value drops its key.
    fn env(&mut self) -> Result<(), Error> {
        let start = self.packer.len();
        let mut pair = start;
        while self.reader.depth() >= FIELD {
            match self.reader.next()? {
                Token::Key(key) => {
                    pair = self.packer.len();
                    self.found.check(self.packer.push(key.str));
                }
                Token::String(text) | Token::Number(text) => {
                    self.found.check(self.packer.push(text.str));
                }
                Token::Bool(true) => self.found.check(self.packer.push("true")),
                Token::Bool(false) => self.found.check(self.packer.push("false")),
                Token::Null => self.packer.truncate(pair),
                Token::Close => {}
                Token::Omitted => self.found.note(self.omitted),
                other => {
                    self.found.note(Error::Type {
                        field: Field::Env.name(),
                        expected: "strings as its values",
                        found: other.describe(),
                    });
                    self.reader.skip_to(FIELD)?;
                }
            }
        }
        self.found.env = start..self.packer.len();
        Ok(())
    }

    /// Reads the rest of an object.
    fn profile(&mut self) -> Result<(), Error> {
        let mut profile = Profile::default();
        while self.reader.depth() >= FIELD {
            let setting = match self.reader.next()? {
                Token::Key(key) => Setting::named(key.str),
                // The value of an omitted key, which is no setting's.
                _ => None,
            };
            let Some(setting) = setting else {
                self.reader.skip_to(FIELD)?;
                continue;
            };
            let value = self.reader.next()?;
            if profile.set(&setting, &value).is_none() {
                self.found.note(Error::Type {
                    field: Field::MonitoringProfile.name(),
                    expected: setting.describe(),
                    found: value.describe(),
                });
            }
            self.reader.skip_to(FIELD)?;
        }
        self.found.profile = profile;
        Ok(())
    }
}

fn wrong(field: Field, found: &'static str) -> Error {
    Error::Type {
        field: field.name(),
        expected: field.kind().describe(),
        found,
    }
}

fn too_long(field: Field, limit: usize) -> Error {
    Error::TooLong {
        field: field.name(),
        limit,
    }
}

/// A message with the buffers that its texts are in.
struct Message<'a> {
    payload: &'a [u8],
    unescaped: &'a [u8],
    packed: &'a [u8],
    found: Found,
}

impl<'a> Message<'a> {
    fn read(payload: &'a [u8], scratch: Scratch<'a>, known: &[Field]) -> Self {
        let Scratch { packed, unescaped } = scratch;
        let mut scan = Scan {
            omitted: Error::Unescaped {
                limit: unescaped.len(),
            },
            reader: Reader::new(payload, unescaped),
            packer: Packer::new(packed),
            found: Found::default(),
        };
        if let Err(error) = scan.document(known) {
            scan.found.error = Some(error);
        }
        Self {
            found: scan.found,
            payload,
            unescaped,
            packed,
        }
    }

    fn check(&self) -> Result<(), Rejected<'a>> {
        self.found
            .error
            .map_or(Ok(()), |error| Err(self.reject(error)))
    }

    fn reject(&self, error: Error) -> Rejected<'a> {
        Rejected {
            id: self.text(Field::Id).or(self.text(Field::AppName)),
            invocation_id: self.text(Field::InvocationId),
            proplet_id: self.text(Field::PropletId),
            broadcast: self.flag(Field::Broadcast),
            latent: self.flag(Field::Latent),
            error,
            addressed: self.found.whole && !self.found.misaddressed,
        }
    }

    /// A text that is present and not empty.
    fn text(&self, field: Field) -> Option<&'a str> {
        let place = (*self.found.texts.get(field as usize)?)?;
        let bytes = match place {
            Place::Payload { start, len } => self.payload.get(start..start + len)?,
            Place::Unescaped { start, len } => self.unescaped.get(start..start + len)?,
        };
        core::str::from_utf8(bytes)
            .ok()
            .filter(|text| !text.is_empty())
    }

    fn require(&self, field: Field) -> Result<&'a str, Rejected<'a>> {
        let missing = || self.reject(Error::Missing(field.name()));
        self.text(field).ok_or_else(missing)
    }

    fn flag(&self, field: Field) -> bool {
        match field.kind() {
            Kind::Flag(index) => self.found.flags.get(index) == Some(&true),
            _ => false,
        }
    }

    fn number(&self, field: Field) -> Result<u32, Rejected<'a>> {
        let number = match field.kind() {
            Kind::Number(index) => self.found.numbers.get(index).copied().flatten(),
            _ => None,
        };
        number.ok_or_else(|| self.reject(Error::Missing(field.name())))
    }

    fn inputs(&self) -> List<'a> {
        let bytes = self.packed.get(self.found.inputs.clone());
        bytes.and_then(List::from_bytes).unwrap_or_default()
    }

    fn env(&self) -> Pairs<'a> {
        let bytes = self.packed.get(self.found.env.clone());
        bytes.and_then(Pairs::from_bytes).unwrap_or_default()
    }

    fn monitoring_profile(&self) -> MonitoringProfile {
        self.found.profile.resolve(self.flag(Field::Daemon))
    }
}

#[cfg(test)]
mod tests;
