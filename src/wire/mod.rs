//! The Propeller wire protocol: topics, commands in, reports out.
//!
//! Commands borrow from the receive buffer and from a [`Scratch`]; nothing here allocates, recurses
//! or keeps state between messages. The stack that a message takes doesn't depend on the message.

pub(crate) mod base64;
pub(crate) mod command;
pub(crate) mod error;
pub(crate) mod json;
pub(crate) mod pack;
pub mod report;
pub(crate) mod topic;

pub use base64::{decode_chunks, decode_into, decoded_len};
pub use command::{
    Chunk, ID_MAX, Id, Invoke, MonitoringProfile, NAME_MAX, Rejected, Scratch, Start, Stop, URL_MAX,
};
pub use error::{DEPTH_MAX, Error};
pub use json::is_object;
#[cfg(test)]
pub(crate) use pack::Packer;
pub use pack::{List, Pairs};
pub use topic::{
    GUEST_TOPIC_MAX, Inbound, Outbound, TOPIC_MAX, TopicError, TopicName, Topics,
    check_guest_filter, check_guest_topic, check_guest_topic_len, check_level, matches, topic,
    update_topic,
};
