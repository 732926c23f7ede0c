//! Reasons for which a task has no result, or is refused.

use crate::{
    engine::{EngineError, NO_WORDS, TRAPPED},
    memory::Shortage,
    module::{
        chunks::{ChunkError, TooLarge},
        format::Format,
        reference::DigestMismatch,
        signature,
        stream::StreamError,
    },
    wire::{self, URL_MAX},
};
use core::{fmt, ops::Deref, time::Duration};

/// A reason with its numbers. Its words are made where it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A stop command came.
    Stopped,
    /// The task's time is over.
    Deadline(Milliseconds),
    /// The proplet shuts down.
    ShuttingDown,
    /// The proplet has been restarted.
    Interrupted,
    /// The module is encrypted.
    Encrypted,
    /// All slots are taken; their number.
    NoSlot(u16),
    /// All places for latent deployments are taken; their number.
    NoDeployment(u16),
    /// All places for modules on their way are taken; their number.
    NoFetch(u8),
    /// All entries of the module table are taken; their number.
    NoEntry(u16),
    /// No latent deployment has the task's id.
    NotDeployed,
    /// The deployment's module could not be loaded after a restart.
    NotRestored,
    /// The deployment waits for its module.
    NotReady,
    /// The message can't be read.
    Message(wire::Error),
    /// The module in the message can't be read.
    File(wire::Error),
    /// The image reference is too long; its length in bytes.
    ReferenceTooLong(usize),
    /// The module is another one.
    Digest(DigestMismatch),
    /// A chunk of the module is refused.
    Chunk(ChunkError),
    /// The body of a response is refused.
    Stream(StreamError),
    /// The bytes are no module.
    Format(Format),
    /// The module is larger than the limit.
    ModuleTooLarge(TooLarge),
    /// The module is not signed as it must be.
    Signature(signature::Refusal),
    /// The arena lacks room.
    Memory(Shortage),
    /// The model on the round's topic is too large.
    ModelTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// No model came in time.
    NoModel {
        /// Whether it was also waited for on its topic.
        has_topic: bool,
        /// Seconds of the wait.
        seconds: u32,
    },
    /// The result does not fit the link or the broker; its length in bytes.
    ResultTooLarge(usize),
    /// The broker refused the result; its length in bytes.
    ResultRefused(usize),
    /// As many connections have ended within the message.
    CutOff(u8),
    /// The response, or the part of it, is of no use any more.
    Unwanted,
    /// The guest trapped; the arena had no room for the words.
    Trapped,
    /// Words that the arena had no room for. They are in the log.
    NoWords,
    /// It failed while neither the outbox had room for a report nor the arena for the reason, which is in the
    /// log.
    NotKept,
}

/// The reason for which a task has no result, or is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Reason<B> {
    /// One that has numbers only.
    Refusal(Refusal),
    /// One that names or quotes a part of the task or of its module: words in the arena, UTF-8, made
    /// while that was at hand.
    Words(B),
}

/// Milliseconds, in words of 32 bits: a [`Refusal`] is no larger for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds([u32; 2]);

impl From<Duration> for Milliseconds {
    fn from(duration: Duration) -> Self {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self([(ms >> 32) as u32, ms as u32])
    }
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [high, low] = self.0;
        write!(f, "{} ms", u64::from(high) << 32 | u64::from(low))
    }
}

impl<B> Reason<B> {
    /// The reason in words, for the task of this id.
    pub(super) const fn of<'r>(&'r self, task: &'r str) -> Shown<'r, B> {
        Shown { reason: self, task }
    }
}

impl<B: Deref<Target = [u8]>> Reason<B> {
    /// The words that are made already.
    pub(super) fn words(&self) -> Option<&str> {
        match self {
            Self::Refusal(_) => None,
            Self::Words(words) => Some(core::str::from_utf8(words).unwrap_or(NO_WORDS)),
        }
    }
}

impl<B: Deref<Target = [u8]>> fmt::Display for Reason<B> {
    /// In words, without the task's id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of("").fmt(f)
    }
}

/// A reason and the task that it is about.
pub(super) struct Shown<'r, B> {
    reason: &'r Reason<B>,
    task: &'r str,
}

impl<B: Deref<Target = [u8]>> fmt::Display for Shown<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::Refusal(refusal) => refusal.show(self.task, f),
            Reason::Words(_) => f.write_str(self.reason.words().unwrap_or(NO_WORDS)),
        }
    }
}

impl Refusal {
    fn show(&self, task: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("task stopped"),
            Self::Deadline(limit) => write!(f, "deadline of {limit} exceeded"),
            Self::ShuttingDown => f.write_str("proplet is shutting down"),
            Self::Interrupted => f.write_str("interrupted by a restart of the proplet"),
            Self::Encrypted => f.write_str("TEE runtime not available"),
            Self::NoSlot(slots) => write!(f, "no free slot: all {slots} are taken"),
            Self::NoDeployment(count) => {
                write!(f, "no room for a deployment: all {count} are taken")
            }
            Self::NoFetch(count) => write!(
                f,
                "too many modules on their way: all {count} places are taken"
            ),
            Self::NoEntry(count) => write!(
                f,
                "the module table is full: all {count} entries are in use"
            ),
            // The manager looks for these words to deploy the task again.
            Self::NotDeployed => write!(
                f,
                "task {task} has not been precompiled; deploy it as a latent task first"
            ),
            Self::NotRestored => write!(
                f,
                "task {task} could not be restored after a restart: deploy it again, or see the log"
            ),
            Self::NotReady => write!(f, "task {task} still waits for its module"),
            Self::Message(error) => write!(f, "{error}"),
            Self::File(error) => write!(f, "field \"file\": {error}"),
            Self::ReferenceTooLong(len) => {
                write!(f, "image reference of {len} bytes is longer than {URL_MAX}")
            }
            Self::Digest(mismatch) => write!(f, "{mismatch}"),
            Self::Chunk(error) => write!(f, "{error}"),
            Self::Stream(error) => write!(f, "{error}"),
            Self::Format(format) => write!(f, "{format}"),
            Self::ModuleTooLarge(error) => write!(f, "{error}"),
            Self::Signature(refusal) => write!(f, "{refusal}"),
            Self::Memory(shortage) => write!(f, "{shortage}"),
            Self::ModelTooLarge { len, limit } => {
                write!(f, "model: it has {len} bytes, this proplet takes {limit}")
            }
            Self::NoModel { has_topic, seconds } => {
                let topic = if *has_topic { ", nor on its topic" } else { "" };
                write!(
                    f,
                    "model: none came from its registry{topic} within {seconds} s"
                )
            }
            Self::ResultTooLarge(len) => write!(
                f,
                "the result of {len} bytes is too large for the link or the broker"
            ),
            Self::ResultRefused(len) => {
                write!(f, "the result of {len} bytes was refused by the broker")
            }
            Self::CutOff(times) => write!(
                f,
                "the message was given up: {times} connections have ended while it came in"
            ),
            Self::Unwanted => f.write_str("nobody waits for it any more"),
            Self::Trapped => f.write_str(TRAPPED),
            Self::NoWords => f.write_str(NO_WORDS),
            Self::NotKept => {
                f.write_str("it failed before it began, while the arena was full: the log says why")
            }
        }
    }
}

impl<B> From<Refusal> for Reason<B> {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl<B> From<EngineError<B>> for Reason<B> {
    fn from(error: EngineError<B>) -> Self {
        match error {
            EngineError::Memory(shortage) => shortage.into(),
            EngineError::Words(words) => Self::Words(words),
            EngineError::NoWords => Refusal::NoWords.into(),
        }
    }
}

/// Lets `?` make a reason of an operation's own error.
macro_rules! refusals {
    ($($variant:ident($error:ty),)*) => {$(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }

        impl<B> From<$error> for Reason<B> {
            fn from(error: $error) -> Self {
                Self::Refusal(Refusal::$variant(error))
            }
        }
    )*};
}

refusals! {
    Memory(Shortage),
    Message(wire::Error),
    Digest(DigestMismatch),
    Chunk(ChunkError),
    Stream(StreamError),
    Format(Format),
    Signature(signature::Refusal),
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::{memory::Purpose, text::TEXT_MAX, wire::ID_MAX};
    use std::{format, vec};

    /// A record of a task that has failed keeps its reason.
    #[test]
    fn a_reason_is_small() {
        assert!(size_of::<Refusal>() <= 10 * size_of::<usize>());
        assert!(size_of::<Reason<(usize, usize)>>() <= 10 * size_of::<usize>());
    }

    /// None is cut where its words are made, for a task with the longest id, in an arena of 4 GiB.
    #[test]
    fn the_words_of_a_refusal_are_whole() {
        const MOST: usize = u32::MAX as usize;
        let memory = |purpose| Shortage::Pieces {
            purpose,
            need: MOST,
            free: MOST,
            largest: MOST,
        };
        let instance = |makes_shared| Purpose::Instance {
            memory: MOST,
            makes_shared,
        };
        let refusals = vec![
            Refusal::NotDeployed,
            Refusal::NotRestored,
            Refusal::NotReady,
            Refusal::NotKept,
            Refusal::Deadline(Milliseconds([u32::MAX; 2])),
            Refusal::ReferenceTooLong(usize::MAX),
            Refusal::ResultTooLarge(usize::MAX),
            Refusal::ResultRefused(usize::MAX),
            Refusal::File(wire::Error::Type {
                field: "monitoring_profile.collect_file_descriptors",
                expected: "an object of strings",
                found: "a number",
            }),
            Refusal::Chunk(ChunkError::Short {
                index: u32::MAX,
                total: u32::MAX,
                len: MOST,
                last: MOST,
            }),
            Refusal::Stream(StreamError::CutShort {
                content: crate::module::stream::Content::Dataset,
                len: usize::MAX,
                announced: usize::MAX,
            }),
            Refusal::ModuleTooLarge(TooLarge {
                len: usize::MAX,
                limit: usize::MAX,
            }),
            Refusal::ModelTooLarge {
                len: usize::MAX,
                limit: usize::MAX,
            },
            Refusal::NoModel {
                has_topic: true,
                seconds: u32::MAX,
            },
            Refusal::Format(Format::Json),
            Refusal::Memory(memory(Purpose::Record)),
            Refusal::Memory(memory(Purpose::ModuleAndInstance)),
            Refusal::Memory(memory(instance(false))),
            Refusal::Memory(memory(instance(true))),
        ];
        for refusal in refusals {
            let reason = Reason::<&[u8]>::Refusal(refusal);
            let words = format!("{}", reason.of(&"i".repeat(ID_MAX)));
            assert!(words.len() <= TEXT_MAX, "{} bytes: {words}", words.len());
        }
    }
}
