//! The broker's session, and what it is subscribed to beside the manager's topics.

use super::Supervisor;
use crate::{agent::event::Subscription, engine::Engine, wire::TopicName};

impl<E: Engine> Supervisor<'_, E> {
    /// Takes up what the store knows of the broker's session: filters without a guest go.
    pub(in crate::agent) fn restore_session(&mut self) {
        if let Some(store) = self.modules.store() {
            let (subscriptions, engine) = (&mut self.subscriptions, &self.engine);
            let stale = |filter: &TopicName| subscriptions.add_stale(filter, engine);
            self.session
                .restore(store, &self.config, &self.topics, stale);
        }
    }

    /// Begins anew with a session without subscriptions.
    pub(in crate::agent) fn begin_session(&mut self) {
        self.subscriptions.renew();
        if let Some(store) = self.modules.store() {
            self.session.begin(store, &self.config);
        }
    }

    /// The next change of subscriptions, given out once a session.
    pub(in crate::agent) fn poll_subscribe(&mut self) -> Option<Subscription> {
        let change = self.subscriptions.poll()?;
        if let Subscription::Add(filter) = &change
            && let Some(store) = self.modules.store()
        {
            let active = self.subscriptions.filters();
            self.session
                .subscribe(store, &self.config, &self.topics, filter, active);
        }
        Some(change)
    }
}
