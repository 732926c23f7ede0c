//! Topics of a channel.

use core::fmt;
use heapless::String;

/// Most bytes of a topic: a guest's, below a tenant and a channel of 64 bytes each.
pub const TOPIC_MAX: usize = 232;

/// A topic, complete with its prefix.
pub type TopicName = String<TOPIC_MAX>;

/// Messages of the manager and the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// A task to start.
    Start,
    /// A task to stop.
    Stop,
    /// A latent task to run.
    Invoke,
    /// A piece of a module.
    Chunk,
}

impl Inbound {
    const ALL: [Self; 4] = [Self::Start, Self::Stop, Self::Invoke, Self::Chunk];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Start => "control/manager/start",
            Self::Stop => "control/manager/stop",
            Self::Invoke => "control/manager/invoke",
            Self::Chunk => "registry/server",
        }
    }
}

/// Messages of the proplet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound {
    /// Discovery.
    Create,
    /// Heartbeat.
    Alive,
    /// End of a task.
    Results,
    /// End of an invocation.
    InvokeResults,
    /// Use of resources by the proplet.
    Metrics,
    /// Use of resources by a task.
    TaskMetrics,
    /// A module wanted from the registry.
    ModuleRequest,
}

impl Outbound {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Create => "control/proplet/create",
            Self::Alive => "control/proplet/alive",
            Self::Results => "control/proplet/results",
            Self::InvokeResults => "control/proplet/invoke_results",
            Self::Metrics => "control/proplet/metrics",
            Self::TaskMetrics => "control/proplet/task_metrics",
            Self::ModuleRequest => "registry/proplet",
        }
    }
}

/// Refusal of an id as a part of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// A part is empty.
    Empty {
        /// `tenant`, `channel` or another id.
        part: &'static str,
    },
    /// A part has a character that a level of a topic can't have.
    Character {
        /// `tenant`, `channel` or another id.
        part: &'static str,
        /// The character.
        found: char,
    },
    /// The topics of guests would exceed [`TOPIC_MAX`].
    TooLong {
        /// Bytes of the longest of them.
        len: usize,
    },
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty { part } => write!(f, "{part} is empty"),
            Self::Character { part, found } => {
                write!(f, "{part} has {found:?}, which a topic's level can't hold")
            }
            Self::TooLong { len } => write!(
                f,
                "tenant and channel make topics of {len} bytes for guests, more than {TOPIC_MAX}"
            ),
        }
    }
}

impl core::error::Error for TopicError {}

/// The topics of one channel: `m/<tenant>/c/<channel>/…`.
#[derive(Debug, Clone)]
pub struct Topics {
    /// With the slash at its end. Any suffix fits behind it.
    prefix: TopicName,
}

impl Topics {
    /// Topics of `channel` of `tenant`.
    ///
    /// # Errors
    /// A part is no level of a topic, or a guest's topic would exceed [`TOPIC_MAX`].
    pub fn new(tenant: &str, channel: &str) -> Result<Self, TopicError> {
        check_level("tenant", tenant)?;
        check_level("channel", channel)?;
        let len = "m//c//".len() + tenant.len() + channel.len() + GUEST_TOPIC_MAX;
        let too_long = TopicError::TooLong { len };
        if len > TOPIC_MAX {
            return Err(too_long);
        }
        let prefix = concat(&["m/", tenant, "/c/", channel, "/"]).ok_or(too_long)?;
        Ok(Self { prefix })
    }

    /// Kind of a message on `topic`; `None` for a topic of no concern.
    pub fn classify(&self, topic: &str) -> Option<Inbound> {
        let suffix = topic.strip_prefix(self.prefix.as_str())?;
        Inbound::ALL
            .into_iter()
            .find(|inbound| inbound.suffix() == suffix)
    }

    /// Where to publish.
    pub fn name(&self, outbound: Outbound) -> TopicName {
        self.with(outbound.suffix())
    }

    /// Topics to subscribe to, one after the other from 0 on; `None` after the last.
    pub fn subscription(&self, index: usize) -> Option<TopicName> {
        let inbound = Inbound::ALL.get(index)?;
        Some(self.with(inbound.suffix()))
    }

    /// A topic or filter below the channel, complete with its prefix; `None` if it is longer than
    /// [`GUEST_TOPIC_MAX`] and does not fit.
    pub fn below(&self, topic: &str) -> Option<TopicName> {
        concat(&[&self.prefix, topic])
    }

    /// The part of a topic below the channel; `None` for a topic elsewhere.
    pub fn strip<'t>(&self, topic: &'t str) -> Option<&'t str> {
        topic.strip_prefix(self.prefix.as_str())
    }

    fn with(&self, suffix: &str) -> TopicName {
        // `new` leaves room for longer ones.
        concat(&[&self.prefix, suffix]).unwrap_or_default()
    }
}

/// Most bytes of a topic or a topic filter of a guest.
pub const GUEST_TOPIC_MAX: usize = 96;

/// First levels that are the manager's and the proplet's own.
const RESERVED: [&str; 3] = ["control", "registry", "fl"];

/// Whether a guest may publish on `topic`, which is relative to the channel.
///
/// # Errors
/// The rule that it breaks, in words.
pub fn check_guest_topic(topic: &str) -> Result<(), &'static str> {
    check_guest_levels(topic)?;
    match topic.contains(['+', '#']) {
        true => Err("a topic to publish on has no wildcards"),
        false => Ok(()),
    }
}

/// Whether a guest may subscribe to `filter`, which is relative to the channel.
///
/// # Errors
/// The rule that it breaks, in words.
pub fn check_guest_filter(filter: &str) -> Result<(), &'static str> {
    check_guest_levels(filter)?;
    let mut levels = filter.split('/');
    if levels
        .next()
        .is_some_and(|first| first.contains(['+', '#']))
    {
        return Err("a filter's first level has no wildcards");
    }
    while let Some(level) = levels.next() {
        let is_wildcard = level.contains(['+', '#']);
        if is_wildcard && level.len() > 1 {
            return Err("a wildcard is a level of its own");
        }
        if level == "#" && levels.next().is_some() {
            return Err("'#' is the last level");
        }
    }
    Ok(())
}

/// Whether a guest's topic or filter may have `len` bytes. It is the first of the rules: who has to copy
/// a topic to check the others needs room for [`GUEST_TOPIC_MAX`] bytes.
///
/// # Errors
/// The rule that it breaks, in words.
pub fn check_guest_topic_len(len: usize) -> Result<(), &'static str> {
    match len {
        0 => Err("the topic is empty"),
        1..=GUEST_TOPIC_MAX => Ok(()),
        _ => Err("the topic has more than 96 bytes"),
    }
}

/// Rules that topics and filters have in common.
fn check_guest_levels(topic: &str) -> Result<(), &'static str> {
    check_guest_topic_len(topic.len())?;
    if topic.starts_with(['/', '$']) {
        return Err("a topic does not begin with '/' or '$'");
    }
    if !topic.chars().all(is_topic_char) {
        return Err("a topic has no control characters and no non-characters");
    }
    let first = topic.split('/').next().unwrap_or_default();
    match RESERVED.contains(&first) {
        true => Err("topics in control, registry and fl are not a guest's"),
        false => Ok(()),
    }
}

/// Whether a message on `topic` is one for `filter`, by MQTT's rules. The filter is well-formed.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether a topic may have this character. Brokers may close the connection on one with control
/// characters or what Unicode calls non-characters, and a session would repeat it without end.
fn is_topic_char(c: char) -> bool {
    let is_non_character = matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    !c.is_control() && !is_non_character
}

/// Whether `text` can be one level of a topic; `part` names it in the error.
///
/// # Errors
/// It is empty, or has a character that a level can't have: `/`, a wildcard, a control character
/// or a non-character.
pub fn check_level(part: &'static str, text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty { part });
    }
    let is_bad = |c: &char| matches!(c, '+' | '#' | '/') || !is_topic_char(*c);
    match text.chars().find(is_bad) {
        Some(found) => Err(TopicError::Character { part, found }),
        None => Ok(()),
    }
}

/// `text` as a topic that any broker takes, if it is one: no wildcards, nothing of the broker's own,
/// and at most [`TOPIC_MAX`] bytes.
pub fn topic(text: &str) -> Option<TopicName> {
    let is_good = |c| is_topic_char(c) && !matches!(c, '+' | '#');
    let is_topic = !text.is_empty() && !text.starts_with('$') && text.chars().all(is_good);
    is_topic.then(|| TopicName::try_from(text).ok()).flatten()
}

/// Where a round's updates go that the coordinator does not take.
pub fn update_topic(round: &str, proplet_id: &str) -> TopicName {
    // Two ids, each of them a level and bounded, and 20 bytes.
    concat(&["fl/rounds/", round, "/updates/", proplet_id]).unwrap_or_default()
}

fn concat(parts: &[&str]) -> Option<TopicName> {
    let mut name = TopicName::new();
    for part in parts {
        name.push_str(part).ok()?;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    const OUTBOUND: [Outbound; 7] = [
        Outbound::Create,
        Outbound::Alive,
        Outbound::Results,
        Outbound::InvokeResults,
        Outbound::Metrics,
        Outbound::TaskMetrics,
        Outbound::ModuleRequest,
    ];

    #[test]
    fn inbound_is_matched_by_equality() {
        let topics = Topics::new("t", "c").unwrap();
        for (index, inbound) in Inbound::ALL.into_iter().enumerate() {
            let topic = topics.subscription(index).unwrap();
            assert_eq!(topics.classify(&topic), Some(inbound));
        }
        assert_eq!(topics.subscription(4), None);
        for topic in [
            "",
            "m/t/c/c/",
            "m/t/c/c/control/manager/start/",
            "m/t/c/c/control/manager/startx",
            "x/m/t/c/c/control/manager/start",
            "m/t/c/d/control/manager/start",
            "control/manager/start",
            "m/t/c/c/control/proplet/results",
            "m/t/c/c/fl/rounds/start",
        ] {
            assert_eq!(topics.classify(topic), None, "{topic}");
        }
    }

    #[test]
    fn outbound_names() {
        let topics = Topics::new("t", "c").unwrap();
        assert_eq!(
            topics.name(Outbound::InvokeResults),
            "m/t/c/c/control/proplet/invoke_results"
        );
        assert_eq!(
            topics.name(Outbound::ModuleRequest),
            "m/t/c/c/registry/proplet"
        );
        for outbound in OUTBOUND {
            assert_eq!(topics.classify(&topics.name(outbound)), None);
        }
    }

    #[test]
    fn a_guests_topic_is_the_longest() {
        let inbound = Inbound::ALL.map(Inbound::suffix);
        let outbound = OUTBOUND.map(Outbound::suffix);
        for suffix in inbound.iter().chain(&outbound) {
            assert!(suffix.len() <= GUEST_TOPIC_MAX);
        }
    }

    #[test]
    fn parts_are_bounded() {
        let tenant = "t".repeat(TOPIC_MAX - "m//c//".len() - GUEST_TOPIC_MAX - 1);
        let topics = Topics::new(&tenant, "c").unwrap();
        let longest = topics.below(&"g".repeat(GUEST_TOPIC_MAX)).unwrap();
        assert_eq!(longest.len(), TOPIC_MAX);
        assert_eq!(
            Topics::new(&tenant, "cc").unwrap_err().to_string(),
            "tenant and channel make topics of 233 bytes for guests, more than 232"
        );
        let (id, round) = ("i".repeat(64), "r".repeat(64));
        assert!(Topics::new(&id, &id).is_ok());
        assert!(update_topic(&round, &id).ends_with(&id));
    }

    #[test]
    fn what_brokers_refuse_is_no_topic() {
        for good in ["a", "fl/models/v3", "/a", "a//b", "Grüße"] {
            assert_eq!(topic(good).as_deref(), Some(good));
        }
        let long = "t".repeat(TOPIC_MAX + 1);
        for bad in [
            "",
            "$SYS/x",
            "a/+",
            "#",
            "a\u{1}",
            "a\u{ffff}",
            "\u{fdd0}",
            &long,
        ] {
            assert_eq!(topic(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn parts_are_one_level() {
        assert_eq!(
            Topics::new("", "c").unwrap_err().to_string(),
            "tenant is empty"
        );
        assert_eq!(
            Topics::new("t", "").unwrap_err().to_string(),
            "channel is empty"
        );
        for found in [
            '+',
            '#',
            '/',
            '\0',
            '\n',
            '\u{85}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{fdd0}',
        ] {
            let channel = std::format!("a{found}b");
            assert_eq!(
                Topics::new("t", &channel).unwrap_err(),
                TopicError::Character {
                    part: "channel",
                    found
                }
            );
        }
    }

    #[test]
    fn guests_publish_below_the_channel_and_beside_its_own_topics() {
        let longest = "t".repeat(GUEST_TOPIC_MAX);
        for topic in [
            "a",
            "sensors/kitchen/temperature",
            "a//b",
            "a/",
            "a/$b",
            "a/control",
            "controls/x",
            "flow",
            "Grüße/é",
            &longest,
        ] {
            assert_eq!(check_guest_topic(topic), Ok(()), "{topic}");
            assert_eq!(check_guest_filter(topic), Ok(()), "{topic}");
        }
        let too_long = "t".repeat(GUEST_TOPIC_MAX + 1);
        for (topic, word) in [
            ("", "empty"),
            ("/a", "begin"),
            ("/", "begin"),
            ("$SYS/x", "begin"),
            ("control", "control, registry and fl"),
            ("control/manager/stop", "control, registry and fl"),
            ("registry/server", "control, registry and fl"),
            ("fl/rounds/next", "control, registry and fl"),
            ("a\0b", "control characters"),
            ("a/\n", "control characters"),
            ("a\u{7f}", "control characters"),
            ("a\u{ffff}", "non-characters"),
            ("\u{10fffe}", "non-characters"),
            (&too_long, "96 bytes"),
        ] {
            assert!(
                check_guest_topic(topic).unwrap_err().contains(word),
                "{topic}"
            );
            assert!(
                check_guest_filter(topic).unwrap_err().contains(word),
                "{topic}"
            );
        }
        for topic in ["+", "#", "a/+", "a/#", "a/b+", "a/#b"] {
            assert!(
                check_guest_topic(topic).unwrap_err().contains("wildcards"),
                "{topic}"
            );
        }
    }

    #[test]
    fn a_filter_has_whole_wildcards_from_the_second_level_on() {
        for filter in ["a/+", "a/#", "a/+/b/+/#", "a//#", "a/+/"] {
            assert_eq!(check_guest_filter(filter), Ok(()), "{filter}");
        }
        for (filter, word) in [
            ("+", "first level"),
            ("#", "first level"),
            ("+/a", "first level"),
            ("contro+/manager", "first level"),
            ("a+/b", "first level"),
            ("a/b+", "level of its own"),
            ("a/+b/c", "level of its own"),
            ("a/##", "level of its own"),
            ("a/#/b", "last level"),
            ("a/#/", "last level"),
        ] {
            assert!(
                check_guest_filter(filter).unwrap_err().contains(word),
                "{filter}"
            );
        }
    }

    #[test]
    fn filters_match_as_in_mqtt() {
        for (filter, topic, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a/b", false),
            ("a", "a/", false),
            ("a/b", "a", false),
            ("a/+", "a/b", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a//c", true),
            ("a/+/c", "a/b/d", false),
            ("a/#", "a", true),
            ("a/#", "a/", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("a/b/#", "a", false),
            ("#", "a/b", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} and {topic}");
        }
    }

    proptest! {
        /// A topic that is taken is one level or more that no other party uses, whatever it holds.
        #[test]
        fn what_is_taken_stays_in_the_channel(topic in "[a$/+#\u{0}cl]{0,9}|control.{0,5}|fl.{0,3}") {
            if check_guest_topic(&topic).is_ok() {
                prop_assert_eq!(check_guest_filter(&topic), Ok(()));
                prop_assert!(matches(&topic, &topic));
                let below = std::format!("m/t/c/c/{topic}");
                prop_assert_eq!(Topics::new("t", "c").unwrap().classify(&below), None);
            }
            if check_guest_filter(&topic).is_ok() {
                for own in ["control/manager/start", "registry/server", "fl/x"] {
                    prop_assert!(!matches(&topic, own));
                }
            }
        }
    }
}
