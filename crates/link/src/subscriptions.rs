//! Subscriptions of the broker's session.

use crate::dial::LiveConnection;
use minimq::{Error, Op, QoS, RetainHandling, SubscriptionOptions, TopicFilter};
use proplet::agent::Subscription;

/// Subscriptions that the session has. They outlive a connection.
#[expect(
    clippy::large_enum_variant,
    reason = "there is no heap, and one of them in all"
)]
pub(crate) enum Subscriptions {
    /// It lacks some that the agent requires.
    Incomplete,
    /// It has those.
    Complete,
    /// It has those, and this change has not been sent whole.
    Due(Subscription),
    /// It has those, and a change was sent that the broker has not answered.
    Sent(Op),
}

impl Subscriptions {
    pub(crate) fn is_complete(&self) -> bool {
        !matches!(self, Self::Incomplete)
    }

    /// Whether the broker has answered the change that it was sent; the next one may begin then.
    pub(crate) fn take_answer(&mut self, is_pending: impl Fn(&Op) -> bool) -> bool {
        let is_answered = matches!(self, Self::Sent(op) if !is_pending(op));
        if is_answered {
            *self = Self::Complete;
        }
        is_answered
    }

    /// The change to send, which is `next` if none is due; none while an answer is awaited.
    pub(crate) fn due(
        &mut self,
        next: impl FnOnce() -> Option<Subscription>,
    ) -> Option<&Subscription> {
        if let Self::Complete = self
            && let Some(change) = next()
        {
            *self = Self::Due(change);
        }
        match self {
            Self::Due(change) => Some(change),
            Self::Incomplete | Self::Complete | Self::Sent(_) => None,
        }
    }
}

/// Asks for a subscription at QoS 1, or for its end. To repeat one that may have arrived does no harm.
pub(crate) async fn change<IO: minimq::Io>(
    connection: &mut LiveConnection<'_, '_, '_, IO>,
    change: &Subscription,
) -> Result<Op, Error<crate::gate::Error<IO::Error>>> {
    match change {
        Subscription::Add(filter) => {
            let topics = topics(filter, RetainHandling::Immediately);
            connection.subscribe(&topics, &[]).await
        }
        Subscription::Remove(filter) => connection.unsubscribe(&[filter.as_str()], &[]).await,
    }
}

/// The topics of a request for a subscription at QoS 1 to commands: retained ones would be acted upon in
/// each new session.
pub(crate) fn commands(filter: &str) -> [TopicFilter<'_>; 1] {
    topics(filter, RetainHandling::Never)
}

fn topics(filter: &str, retained: RetainHandling) -> [TopicFilter<'_>; 1] {
    let options = SubscriptionOptions::default()
        .maximum_qos(QoS::AtLeastOnce)
        .retain_behavior(retained);
    [TopicFilter::new(filter).options(options)]
}
