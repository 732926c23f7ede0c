//! The Propeller wire protocol: topics, commands in, reports out.
//!
//! Commands borrow from the receive buffer and from a [`Scratch`]; nothing here allocates, recurses
//! or keeps state between messages. The stack that a message takes doesn't depend on the message.

mod base64;
mod command;
mod error;
mod json;
mod pack;
pub mod report;
mod topic;

pub use base64::{decode_chunks, decode_into, decoded_len};
pub use command::{
    Chunk, ID_MAX, Invoke, MonitoringProfile, NAME_MAX, Rejected, Scratch, Start, Stop, URL_MAX,
};
pub use error::Error;
pub use json::{DEPTH_MAX, is_object};
#[cfg(test)]
pub(crate) use pack::Packer;
pub use pack::{List, Pairs};
pub use topic::{
    GUEST_TOPIC_MAX, Inbound, Outbound, TOPIC_MAX, TopicError, TopicName, Topics,
    check_guest_filter, check_guest_topic, check_guest_topic_len, check_level, matches, topic,
    update_topic,
};
