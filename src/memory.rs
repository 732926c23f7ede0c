//! Admission to the arena: who asks for room, and the refusal of what does not fit.

use core::fmt;

/// Purpose of an allocation; the subject of its refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The record of a task or a deployment.
    Record,
    /// The bytes of a module.
    ModuleBytes,
    /// A module's parsed form.
    Module,
    /// A module's parsed form, and the instance that follows at once.
    ModuleAndInstance,
    /// One more instance of a module.
    Instance {
        /// Bytes of linear memory that it begins with.
        memory: usize,
        /// Whether it also makes the parts that all instances of the module share.
        makes_shared: bool,
    },
    /// The body of an HTTP response.
    Body,
    /// The data of a federated round, while they are gathered.
    Round,
    /// The model of a federated round, from its topic.
    Model,
    /// A guest's subscription.
    Subscription,
}

impl fmt::Display for Purpose {
    /// The subject, with the verb "need".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "the task's id, name, inputs and env",
            Self::ModuleBytes => "the module's bytes",
            Self::Module => "parsing the module",
            Self::ModuleAndInstance => "parsing the module and one instance",
            Self::Instance {
                makes_shared: false,
                ..
            } => "one more instance and its call",
            Self::Instance {
                makes_shared: true, ..
            } => "an instance, its call and what instances share",
            Self::Body => "its bytes",
            Self::Round => "the round's data",
            Self::Model => "the model",
            Self::Subscription => "a subscription",
        })?;
        match self {
            Self::Instance { memory, .. } if *memory > 0 => {
                write!(f, ", with {memory} bytes of linear memory at first,")?
            }
            _ => {}
        }
        f.write_str(" need")
    }
}

/// A lack of room in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// More bytes than are free.
    Bytes {
        /// Purpose of the allocation.
        purpose: Purpose,
        /// Bytes that it takes.
        need: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// Enough bytes are free, in pieces that are too small.
    Pieces {
        /// Purpose of the allocation.
        purpose: Purpose,
        /// Bytes that it takes.
        need: usize,
        /// Bytes that are free.
        free: usize,
        /// Bytes of the largest piece.
        largest: usize,
    },
    /// No piece is as large as a single block.
    Block {
        /// Bytes of the block.
        len: usize,
        /// Bytes that are free.
        free: usize,
    },
}

impl Shortage {
    /// Refuses an allocation of more than is free.
    ///
    /// # Errors
    /// [`Shortage::Bytes`].
    pub const fn check(purpose: Purpose, need: usize, free: usize) -> Result<(), Self> {
        if need <= free {
            return Ok(());
        }
        Err(Self::Bytes {
            purpose,
            need,
            free,
        })
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bytes {
                purpose,
                need,
                free,
            } => write!(f, "out of memory: {purpose} {need} bytes, {free} are free"),
            Self::Pieces {
                purpose,
                need,
                free,
                largest,
            } => write!(
                f,
                "out of memory: {purpose} {need} bytes, {free} are free, at most {largest} in one piece"
            ),
            Self::Block { len, free } => write!(f, "{len} bytes asked, {free} free"),
        }
    }
}

impl core::error::Error for Shortage {}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString as _;

    #[test]
    fn a_refusal_names_its_purpose_and_both_numbers() {
        let error = Shortage::check(Purpose::Record, 101, 100).unwrap_err();
        assert_eq!(
            error.to_string(),
            "out of memory: the task's id, name, inputs and env need 101 bytes, 100 are free"
        );
        assert_eq!(Shortage::check(Purpose::Record, 100, 100), Ok(()));
        let purpose = Purpose::Instance {
            memory: 2048,
            makes_shared: false,
        };
        let error = Shortage::Pieces {
            purpose,
            need: 3000,
            free: 4000,
            largest: 1000,
        };
        assert_eq!(
            error.to_string(),
            "out of memory: one more instance and its call, with 2048 bytes of linear memory at first, need 3000 bytes, 4000 are free, at most 1000 in one piece"
        );
    }
}
