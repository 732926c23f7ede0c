//! The Propeller wire protocol: topics, commands in, reports out.
//!
//! Commands are read as they come, in pieces; nothing here allocates or recurses, and neither the stack nor
//! the state that a message takes depends on the message.

pub(crate) mod base64;
pub(crate) mod command;
pub(crate) mod error;
pub(crate) mod json;
pub(crate) mod pack;
pub mod report;
pub(crate) mod topic;

pub use command::{
    Chunk, Data, ID_MAX, Id, Invoke, MonitoringProfile, NAME_MAX, Parser, Place, Rejected, Start,
    Stop, TASK_NAME_MAX, URL_MAX,
};
pub use error::{DEPTH_MAX, Error};
pub use json::is_object;
pub(crate) use pack::Packer;
pub use pack::{List, Pairs};
pub use topic::{
    GUEST_TOPIC_MAX, Inbound, Outbound, TOPIC_MAX, TopicError, TopicName, Topics,
    check_guest_filter, check_guest_topic, check_guest_topic_len, check_level, matches, topic,
    update_topic,
};
