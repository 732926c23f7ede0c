//! Commands in: start, stop and invoke from the manager, chunks from the registry.

use super::{
    base64::Decoder,
    error::Error,
    json::{Piece, Token, Tokenizer},
    pack::{List, Packed, Packer, Pairs},
    topic::Inbound,
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

/// Most bytes of a task's name. The manager's longest has two ids.
pub const TASK_NAME_MAX: usize = 2 * ID_MAX + 16;

/// A task to start, or to deploy if it is latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    /// The task's id, 1 to [`ID_MAX`] bytes.
    pub id: &'a str,
    /// Name of the task, not empty; see [`entry`](Self::entry).
    pub name: &'a str,
    /// Where to get the module, 1 to [`URL_MAX`] bytes. Present if `file` is not.
    pub image_url: Option<&'a str>,
    /// The module that came with it, which wins over `image_url`: its length, or its fault.
    pub file: Option<Result<usize, Error>>,
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

    fn of(message: &Message<'a>) -> Result<Self, Rejected<'a>> {
        let start = Self {
            id: message.require(Field::Id)?,
            name: message.require(Field::Name)?,
            image_url: message.text(Field::ImageUrl),
            file: message.data(),
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

    fn of(message: &Message<'a>) -> Result<Self, Rejected<'a>> {
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

    fn of(message: &Message<'a>) -> Result<Self, Rejected<'a>> {
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
    /// The piece's length in bytes, or its fault.
    pub data: Result<usize, Error>,
}

impl<'a> Chunk<'a> {
    /// The module that it is of, and its place in that.
    pub const fn place(&self) -> Place<'a> {
        Place {
            app_name: self.app_name,
            chunk_idx: self.chunk_idx,
            total_chunks: self.total_chunks,
        }
    }

    const FIELDS: &'static [Field] = &[
        Field::AppName,
        Field::ChunkIdx,
        Field::TotalChunks,
        Field::Data,
    ];

    fn of(message: &Message<'a>) -> Result<Self, Rejected<'a>> {
        let chunk = Self {
            app_name: message.require(Field::AppName)?,
            chunk_idx: message.number(Field::ChunkIdx)?,
            total_chunks: message.number(Field::TotalChunks)?,
            data: message.data().unwrap_or(Ok(0)),
        };
        if chunk.chunk_idx >= chunk.total_chunks {
            return Err(message.reject(Error::Index {
                index: chunk.chunk_idx,
                total: chunk.total_chunks,
            }));
        }
        Ok(chunk)
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
    /// Names of the fields that are read; all others are passed over.
    pub fn fields() -> impl Iterator<Item = &'static str> {
        Setting::ALL.iter().map(|(name, _)| *name)
    }

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
    // The flags and the numbers are consecutive: their place is their index.
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

const FLAGS: usize = Field::ChunkIdx as usize - Field::Broadcast as usize;
const NUMBERS: usize = Field::Inputs as usize - Field::ChunkIdx as usize;

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

    const fn kind(self) -> Kind {
        match self {
            Self::Id
            | Self::InvocationId
            | Self::PropletId
            | Self::Name
            | Self::ImageUrl
            | Self::AppName => Kind::Text,
            Self::File | Self::Data => Kind::Data,
            Self::Broadcast | Self::Daemon | Self::Latent | Self::Encrypted => {
                Kind::Flag(self as usize - Self::Broadcast as usize)
            }
            Self::ChunkIdx | Self::TotalChunks => {
                Kind::Number(self as usize - Self::ChunkIdx as usize)
            }
            Self::Inputs => Kind::Inputs,
            Self::Env => Kind::Env,
            Self::MonitoringProfile => Kind::Profile,
        }
    }
}

/// Type of a field, and its index among those of the same.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A text that is kept.
    Text,
    /// Base64 that is decoded.
    Data,
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
            Self::Text | Self::Data => "a string",
            Self::Flag(_) => "a boolean",
            Self::Number(_) => "an integer from 0 to 4294967295",
            Self::Inputs => "an array of strings",
            Self::Env => "an object of strings",
            Self::Profile => "an object",
        }
    }
}

/// The texts of a message, empty where they are absent. They are UTF-8 once they are whole.
#[derive(Debug, Default)]
struct Texts {
    ids: [heapless::Vec<u8, ID_MAX>; 3],
    name: heapless::Vec<u8, TASK_NAME_MAX>,
    /// The image reference. No command has two.
    location: heapless::Vec<u8, URL_MAX>,
}

impl Texts {
    fn get(&self, field: Field) -> &[u8] {
        match field {
            Field::Id => &self.ids[0],
            Field::InvocationId => &self.ids[1],
            Field::PropletId => &self.ids[2],
            Field::Name => &self.name,
            Field::ImageUrl | Field::AppName => &self.location,
            _ => &[],
        }
    }

    fn get_mut(&mut self, field: Field) -> Option<&mut heapless::VecView<u8>> {
        Some(match field {
            Field::Id => &mut self.ids[0],
            Field::InvocationId => &mut self.ids[1],
            Field::PropletId => &mut self.ids[2],
            Field::Name => &mut self.name,
            Field::ImageUrl | Field::AppName => &mut self.location,
            _ => return None,
        })
    }
}

/// The fields of a message, as far as they have been read.
#[derive(Debug, Default)]
struct Found {
    texts: Texts,
    /// Decoded length of the module or the piece, or its fault; `None` if it is absent.
    data: Option<Result<usize, Error>>,
    flags: [bool; FLAGS],
    numbers: [Option<u32>; NUMBERS],
    inputs: Range<usize>,
    env: Range<usize>,
    profile: Profile,
    error: Option<Error>,
    /// Whether the document has been read to its end.
    is_whole: bool,
    /// Whether a field that says who is meant is wrong.
    is_misaddressed: bool,
}

impl Found {
    /// Keeps the first error.
    fn note(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// Notes that the value of `field` can't be used.
    fn refuse(&mut self, field: Field, error: Error) {
        self.is_misaddressed |= matches!(field, Field::PropletId | Field::Broadcast);
        self.clear(field);
        self.note(error);
    }

    /// The place of a piece, if all of it has been read.
    fn place(&self) -> Option<Place<'_>> {
        let app_name = core::str::from_utf8(self.texts.get(Field::AppName)).ok()?;
        let number = |field: Field| match field.kind() {
            Kind::Number(index) => self.numbers.get(index).copied().flatten(),
            _ => None,
        };
        let place = Place {
            app_name,
            chunk_idx: number(Field::ChunkIdx)?,
            total_chunks: number(Field::TotalChunks)?,
        };
        (!app_name.is_empty()).then_some(place)
    }

    /// Makes `field` absent.
    fn clear(&mut self, field: Field) {
        match field.kind() {
            Kind::Text => {
                if let Some(text) = self.texts.get_mut(field) {
                    text.clear();
                }
            }
            Kind::Data => self.data = None,
            Kind::Flag(index) => self.flags[index] = false,
            Kind::Number(index) => self.numbers[index] = None,
            Kind::Inputs => self.inputs = 0..0,
            Kind::Env => self.env = 0..0,
            Kind::Profile => self.profile = Profile::default(),
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
#[derive(Debug, Clone, Copy)]
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

    const ALL: [(&'static str, Self); 10] = [
        ("enabled", Self::Flag(|p| &mut p.enabled)),
        ("interval", Self::Interval),
        ("collect_cpu", Self::Flag(|p| &mut p.collect_cpu)),
        ("collect_memory", Self::Flag(|p| &mut p.collect_memory)),
        ("collect_disk_io", Self::Flag(|p| &mut p.collect_disk_io)),
        ("collect_threads", Self::Flag(|p| &mut p.collect_threads)),
        (
            "collect_file_descriptors",
            Self::Flag(|p| &mut p.collect_file_descriptors),
        ),
        ("export_to_mqtt", Self::Flag(|p| &mut p.export_to_mqtt)),
        ("retain_history", Self::Flag(|p| &mut p.retain_history)),
        ("history_size", Self::HistorySize),
    ];

    fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(known, _)| *known == name)
            .map(|(_, setting)| *setting)
    }
}

impl Profile {
    /// Takes a number; `None` if it is of the wrong type.
    fn set_number(&mut self, setting: Setting, digits: &str) -> Option<()> {
        match setting {
            Setting::Flag(_) => return None,
            Setting::Interval => self.interval = interval(digits.parse().ok()?),
            Setting::HistorySize => {
                let size: u64 = digits.parse().ok()?;
                self.history_size = Some(size.try_into().unwrap_or(u32::MAX));
            }
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

/// A container of a command of which members are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Fields,
    Inputs,
    Env,
    Profile,
}

impl Level {
    /// Containers that are open in it.
    const fn depth(self) -> u32 {
        match self {
            Self::Fields => 1,
            Self::Inputs | Self::Env | Self::Profile => 2,
        }
    }
}

/// Destination of a value.
#[derive(Debug, Clone, Copy)]
enum Target {
    Field(Field),
    /// An element of the inputs.
    Input,
    /// A value of the environment, behind its key.
    Variable,
    Setting(Setting),
    /// A value of no use, in this container.
    Unknown(Level),
}

impl Target {
    const fn level(self) -> Level {
        match self {
            Self::Field(_) => Level::Fields,
            Self::Input => Level::Inputs,
            Self::Variable => Level::Env,
            Self::Setting(_) => Level::Profile,
            Self::Unknown(level) => level,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The command's brace is due.
    Begin,
    /// Between the members of a container.
    Members(Level),
    /// Within a key.
    Key(Level),
    /// A value is due.
    Value(Target),
    /// Within a text.
    Text(Target),
    /// Within a container of no use.
    Skip(Level),
    /// The command's brace is closed.
    Behind,
    /// Nothing more is read after an error of syntax.
    Failed,
}

/// Bytes of a key that may be a field's or a setting's, and one more.
const KEY_MAX: usize = 25;

/// Digits of a number that may be taken, its sign included, and one more.
const DIGITS_MAX: usize = 21;

/// A short text of which only the beginning matters, if it is longer.
type Short<const N: usize> = heapless::Vec<u8, N>;

/// The module and the place in it of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The image reference that was asked for.
    pub app_name: &'a str,
    /// The piece's index.
    pub chunk_idx: u32,
    /// Number of pieces.
    pub total_chunks: u32,
}

/// A part of the decoded module of a start, or of the decoded piece of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data<'d> {
    /// It begins, and what came before is not of it. The place of a piece, if that is known so far.
    Begin(Option<Place<'d>>),
    /// These bytes follow.
    Bytes(&'d [u8]),
}

/// Reads a command as it comes, in pieces that are cut anywhere.
///
/// Errors of syntax end the reading; others are noted, and it goes on to learn whom to answer.
#[derive(Debug)]
pub struct Parser {
    known: &'static [Field],
    tokens: Tokenizer,
    state: State,
    key: Short<KEY_MAX>,
    digits: Short<DIGITS_MAX>,
    base64: Decoder,
    /// Progress with inputs and environment.
    packed: Packed,
    /// Begin of the variable that is being packed.
    pair: usize,
    found: Found,
}

impl Inbound {
    const fn known(self) -> &'static [Field] {
        match self {
            Self::Start => Start::FIELDS,
            Self::Stop => Stop::FIELDS,
            Self::Invoke => Invoke::FIELDS,
            Self::Chunk => Chunk::FIELDS,
        }
    }

    /// Names of the fields that are read of such a message; all others are passed over.
    pub fn fields(self) -> impl Iterator<Item = &'static str> {
        self.known().iter().map(|field| field.name())
    }
}

impl Parser {
    /// A parser of one command.
    pub fn new(kind: Inbound) -> Self {
        Self {
            known: kind.known(),
            tokens: Tokenizer::new(),
            state: State::Begin,
            key: Short::new(),
            digits: Short::new(),
            base64: Decoder::new(),
            packed: Packed::default(),
            pair: 0,
            found: Found::default(),
        }
    }

    /// Reads on. Inputs and environment are kept in `packed`, the same for all of a command; decoded data
    /// go to `data` as they come.
    pub fn feed(&mut self, mut input: &[u8], packed: &mut [u8], data: &mut impl FnMut(Data<'_>)) {
        while !matches!(self.state, State::Failed) {
            match self.tokens.next(&mut input) {
                Ok(Some(token)) => {
                    let mut packer = Packer::resume(packed, self.packed);
                    self.state = self.token(token, &mut packer, data);
                    self.packed = packer.progress();
                }
                Ok(None) => return,
                Err(error) => self.fail(error),
            }
        }
    }

    /// Ends the command.
    pub fn end(&mut self) {
        match (self.state, self.tokens.end()) {
            (State::Failed, _) => {}
            (_, Ok(())) => self.found.is_whole = true,
            (_, Err(error)) => self.fail(error),
        }
    }

    fn fail(&mut self, error: Error) {
        self.found.error = Some(error);
        self.state = State::Failed;
    }

    fn token(
        &mut self,
        token: Token<'_>,
        packer: &mut Packer<'_>,
        data: &mut impl FnMut(Data<'_>),
    ) -> State {
        match (self.state, token) {
            (State::Begin, Token::OpenObject) => State::Members(Level::Fields),
            (State::Begin, _) => {
                self.found.error = Some(Error::NotObject);
                State::Failed
            }
            (State::Members(level), Token::Key) => {
                self.begin_key(level, packer);
                State::Key(level)
            }
            (State::Members(level), Token::Close) => self.close(level, packer),
            // Only an array has values without keys.
            (State::Members(_), token) => self.value(Target::Input, token, packer, data),
            (State::Key(level), Token::Piece(piece)) => {
                self.key_piece(level, piece, packer);
                self.state
            }
            (State::Key(level), _) => State::Value(self.target(level, packer)),
            (State::Value(target), token) => self.value(target, token, packer, data),
            (State::Text(target), Token::Piece(piece)) => {
                let mut buf = [0; 4];
                self.text_piece(target, piece.bytes(&mut buf), packer, data)
            }
            (State::Text(target), _) => {
                self.text_end(target, packer, data);
                State::Members(target.level())
            }
            (State::Skip(level), Token::Close) if self.tokens.depth() == level.depth() => {
                State::Members(level)
            }
            (State::Skip(_) | State::Behind | State::Failed, _) => self.state,
        }
    }

    fn begin_key(&mut self, level: Level, packer: &mut Packer<'_>) {
        self.key.clear();
        if level == Level::Env {
            self.pair = packer.len();
            packer.begin();
        }
    }

    fn key_piece(&mut self, level: Level, piece: Piece<'_>, packer: &mut Packer<'_>) {
        let mut buf = [0; 4];
        let bytes = piece.bytes(&mut buf);
        match level {
            Level::Env => packer.extend(bytes),
            _ => extend(&mut self.key, bytes),
        }
    }

    /// The target of the value behind the key that has just been read.
    fn target(&mut self, level: Level, packer: &mut Packer<'_>) -> Target {
        let key = core::str::from_utf8(&self.key).unwrap_or_default();
        let found = match level {
            Level::Fields => {
                let field = self.known.iter().find(|field| field.name() == key);
                field.map(|field| Target::Field(*field))
            }
            Level::Profile => Setting::named(key).map(Target::Setting),
            Level::Env => {
                self.pack_text(packer);
                Some(Target::Variable)
            }
            Level::Inputs => None,
        };
        found.unwrap_or(Target::Unknown(level))
    }

    /// Takes the first token of a value.
    fn value(
        &mut self,
        target: Target,
        token: Token<'_>,
        packer: &mut Packer<'_>,
        data: &mut impl FnMut(Data<'_>),
    ) -> State {
        match (target, token) {
            (Target::Field(field), token) => return self.field(field, token, packer, data),
            (Target::Input | Target::Variable, Token::String | Token::Number) => {
                packer.begin();
                return State::Text(target);
            }
            (Target::Variable, Token::Bool(value)) => {
                packer.begin();
                packer.extend(if value { b"true" } else { b"false" });
                self.pack_text(packer);
            }
            (Target::Variable, Token::Null) => packer.truncate(self.pair),
            (Target::Input, token) => self.found.note(Error::Type {
                field: Field::Inputs.name(),
                expected: "strings in its array",
                found: token.describe(),
            }),
            (Target::Variable, token) => {
                packer.truncate(self.pair);
                self.found.note(Error::Type {
                    field: Field::Env.name(),
                    expected: "strings as its values",
                    found: token.describe(),
                });
            }
            (Target::Setting(Setting::Flag(flag)), Token::Bool(value)) => {
                *flag(&mut self.found.profile.set) = value;
            }
            (Target::Setting(Setting::Interval | Setting::HistorySize), Token::Number) => {
                self.digits.clear();
                return State::Text(target);
            }
            (Target::Setting(_), Token::Null) | (Target::Unknown(_), _) => {}
            (Target::Setting(setting), token) => self.wrong_setting(setting, token.describe()),
        }
        skip(token, target.level())
    }

    fn wrong_setting(&mut self, setting: Setting, found: &'static str) {
        self.found.note(Error::Type {
            field: Field::MonitoringProfile.name(),
            expected: setting.describe(),
            found,
        });
    }

    /// Takes the first token of a field's value.
    fn field(
        &mut self,
        field: Field,
        token: Token<'_>,
        packer: &mut Packer<'_>,
        data: &mut impl FnMut(Data<'_>),
    ) -> State {
        let found = &mut self.found;
        // The last of equal keys counts.
        let before = (found.inputs.clone(), found.env.clone());
        found.clear(field);
        match (field.kind(), token) {
            (_, Token::Null) => State::Members(Level::Fields),
            (Kind::Text, Token::String) => State::Text(Target::Field(field)),
            (Kind::Data, Token::String) => {
                self.base64 = Decoder::new();
                found.data = Some(Ok(0));
                data(Data::Begin(found.place()));
                State::Text(Target::Field(field))
            }
            (Kind::Flag(index), Token::Bool(value)) => {
                found.flags[index] = value;
                State::Members(Level::Fields)
            }
            (Kind::Number(_), Token::Number) => {
                self.digits.clear();
                State::Text(Target::Field(field))
            }
            (Kind::Inputs, Token::OpenArray) => {
                found.inputs = reuse(packer, &before.0);
                State::Members(Level::Inputs)
            }
            (Kind::Env, Token::OpenObject) => {
                found.env = reuse(packer, &before.1);
                State::Members(Level::Env)
            }
            (Kind::Profile, Token::OpenObject) => State::Members(Level::Profile),
            (_, token) => {
                found.refuse(field, wrong(field, token.describe()));
                skip(token, Level::Fields)
            }
        }
    }

    fn close(&mut self, level: Level, packer: &Packer<'_>) -> State {
        match level {
            Level::Fields => return State::Behind,
            Level::Inputs => self.found.inputs.end = packer.len(),
            Level::Env => self.found.env.end = packer.len(),
            Level::Profile => {}
        }
        State::Members(Level::Fields)
    }

    /// Ends the text that is being packed.
    fn pack_text(&mut self, packer: &mut Packer<'_>) {
        if let Err(error) = packer.end() {
            self.found.note(error);
        }
    }

    fn text_piece(
        &mut self,
        target: Target,
        bytes: &[u8],
        packer: &mut Packer<'_>,
        data: &mut impl FnMut(Data<'_>),
    ) -> State {
        match target {
            Target::Input | Target::Variable => packer.extend(bytes),
            Target::Setting(_) => extend(&mut self.digits, bytes),
            Target::Field(field) => match field.kind() {
                Kind::Data => {
                    let decoded = self.decode(|base64, sink| base64.push(bytes, sink), data);
                    return self.decoded(decoded);
                }
                Kind::Text => {
                    if let Some(text) = self.found.texts.get_mut(field)
                        && text.extend_from_slice(bytes).is_err()
                    {
                        let limit = text.capacity();
                        self.found.refuse(field, too_long(field, limit));
                        return State::Text(Target::Unknown(Level::Fields));
                    }
                }
                _ => extend(&mut self.digits, bytes),
            },
            Target::Unknown(_) => {}
        }
        self.state
    }

    fn decode(
        &mut self,
        step: impl FnOnce(&mut Decoder, &mut dyn FnMut(&[u8])) -> Result<(), Error>,
        data: &mut impl FnMut(Data<'_>),
    ) -> Result<usize, Error> {
        let mut len = 0;
        let mut sink = |bytes: &[u8]| {
            len += bytes.len();
            data(Data::Bytes(bytes));
        };
        step(&mut self.base64, &mut sink)?;
        Ok(len)
    }

    /// Counts what was decoded, or notes the fault, after which the rest of the text is of no use.
    fn decoded(&mut self, decoded: Result<usize, Error>) -> State {
        match (&mut self.found.data, decoded) {
            (Some(Ok(len)), Ok(more)) => {
                *len += more;
                self.state
            }
            (found, decoded) => {
                *found = Some(decoded);
                State::Text(Target::Unknown(Level::Fields))
            }
        }
    }

    fn text_end(
        &mut self,
        target: Target,
        packer: &mut Packer<'_>,
        data: &mut impl FnMut(Data<'_>),
    ) {
        let digits = core::str::from_utf8(&self.digits).unwrap_or_default();
        match target {
            Target::Input | Target::Variable => self.pack_text(packer),
            Target::Setting(setting) => {
                if self.found.profile.set_number(setting, digits).is_none() {
                    self.wrong_setting(setting, Token::Number.describe());
                }
            }
            Target::Field(field) => match field.kind() {
                Kind::Number(index) => match digits.parse() {
                    Ok(number) => self.found.numbers[index] = Some(number),
                    Err(_) => self.found.refuse(field, wrong(field, "another number")),
                },
                Kind::Data => {
                    let decoded = self.decode(|base64, sink| base64.end(sink), data);
                    self.decoded(decoded);
                }
                _ => {}
            },
            Target::Unknown(_) => {}
        }
    }

    /// The `app_name` of a chunk, once it has been read.
    pub fn app_name(&self) -> Option<&str> {
        let is_whole = match self.state {
            State::Text(Target::Field(field)) => field != Field::AppName,
            _ => true,
        };
        let name = core::str::from_utf8(self.found.texts.get(Field::AppName)).ok()?;
        (is_whole && !name.is_empty()).then_some(name)
    }

    /// The start that has been read.
    ///
    /// # Errors
    /// [`Rejected`], with what could be read.
    pub fn start<'a>(&'a self, packed: &'a [u8]) -> Result<Start<'a>, Rejected<'a>> {
        Start::of(&self.message(packed)?)
    }

    /// The stop that has been read.
    ///
    /// # Errors
    /// [`Rejected`], with what could be read.
    pub fn stop(&self) -> Result<Stop<'_>, Rejected<'_>> {
        Stop::of(&self.message(&[])?)
    }

    /// The invocation that has been read.
    ///
    /// # Errors
    /// [`Rejected`], with what could be read.
    pub fn invoke<'a>(&'a self, packed: &'a [u8]) -> Result<Invoke<'a>, Rejected<'a>> {
        Invoke::of(&self.message(packed)?)
    }

    /// The chunk that has been read.
    ///
    /// # Errors
    /// [`Rejected`], with `app_name` as its `id` if that could be read.
    pub fn chunk(&self) -> Result<Chunk<'_>, Rejected<'_>> {
        Chunk::of(&self.message(&[])?)
    }

    fn message<'a>(&'a self, packed: &'a [u8]) -> Result<Message<'a>, Rejected<'a>> {
        // A chunk is known by its module, whose place in the texts is that of a start's image reference.
        let key = match self.known.contains(&Field::AppName) {
            true => Field::AppName,
            false => Field::Id,
        };
        let message = Message {
            key,
            packed,
            found: &self.found,
        };
        match self.found.error {
            Some(error) => Err(message.reject(error)),
            None => Ok(message),
        }
    }
}

/// Passes over the value that begins with `token`.
const fn skip(token: Token<'_>, level: Level) -> State {
    match token {
        Token::OpenObject | Token::OpenArray => State::Skip(level),
        Token::String | Token::Number => State::Text(Target::Unknown(level)),
        _ => State::Members(level),
    }
}

/// Begins a range of packed texts, in the place of `before` if that is the last.
fn reuse(packer: &mut Packer<'_>, before: &Range<usize>) -> Range<usize> {
    if before.end == packer.len() {
        packer.truncate(before.start);
    }
    packer.len()..packer.len()
}

/// Appends as much as there is room for: a longer text is none of those that are compared.
fn extend<const N: usize>(text: &mut Short<N>, bytes: &[u8]) {
    let len = bytes.len().min(N - text.len());
    let extended = text.extend_from_slice(&bytes[..len]);
    debug_assert!(extended.is_ok(), "there is room for it");
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

/// A message, with the buffer that its inputs and its environment are in.
struct Message<'a> {
    /// The field that it is known by.
    key: Field,
    packed: &'a [u8],
    found: &'a Found,
}

impl<'a> Message<'a> {
    fn reject(&self, error: Error) -> Rejected<'a> {
        Rejected {
            id: self.text(self.key),
            invocation_id: self.text(Field::InvocationId),
            proplet_id: self.text(Field::PropletId),
            broadcast: self.flag(Field::Broadcast),
            latent: self.flag(Field::Latent),
            error,
            addressed: self.found.is_whole && !self.found.is_misaddressed,
        }
    }

    /// A text that is present and not empty.
    fn text(&self, field: Field) -> Option<&'a str> {
        let text = core::str::from_utf8(self.found.texts.get(field)).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// The data, unless they are absent or empty.
    fn data(&self) -> Option<Result<usize, Error>> {
        self.found.data.filter(|data| *data != Ok(0))
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
