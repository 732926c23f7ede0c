//! Steps of a task of a federated round before its run: the model first, then the data set.

use crate::task::learning::Round;

/// A service of federated learning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Model,
    Dataset,
    /// The coordinator, which takes the update.
    Coordinator,
}

/// State of a task that gathers the data of its round: the model first, then the data set.
#[derive(Debug)]
pub(super) enum Gathering<B> {
    /// The model, from its registry.
    Model { is_due: bool },
    /// The model, from the topic that names it.
    Topic,
    /// The data set.
    Dataset { is_due: bool, model: Option<B> },
}

/// Data of a round, as far as there is any.
#[derive(Debug)]
pub(super) struct RoundData<B> {
    pub(super) model: Option<B>,
    pub(super) dataset: Option<B>,
}

impl<B> RoundData<B> {
    pub(super) const NONE: Self = Self {
        model: None,
        dataset: None,
    };
}

/// The next step of a task that gathers.
#[derive(Debug)]
pub(super) enum Next<B> {
    Gather(Gathering<B>),
    Run(RoundData<B>),
}

impl<B> Gathering<B> {
    /// The first step of `round`, which has passed [`Round::check`]; `None` if it needs no data.
    pub(super) fn first(round: &Round<'_>, proplet: &str) -> Option<Self> {
        match round.model_uri {
            Some(_) => Some(Self::Model { is_due: true }),
            None => match Self::model(None, round, proplet) {
                Next::Gather(gathering) => Some(gathering),
                Next::Run(_) => None,
            },
        }
    }

    /// The step after the model.
    pub(super) fn model(model: Option<B>, round: &Round<'_>, proplet: &str) -> Next<B> {
        match round.dataset_url(proplet) {
            Ok(Some(_)) => Next::Gather(Self::Dataset {
                is_due: true,
                model,
            }),
            _ => Next::Run(RoundData {
                model,
                dataset: None,
            }),
        }
    }

    /// The step after the data set, which may be missing.
    pub(super) fn dataset(self, dataset: Option<B>) -> RoundData<B> {
        match self {
            Self::Dataset { model, .. } => RoundData { model, dataset },
            Self::Model { .. } | Self::Topic => RoundData::NONE,
        }
    }

    /// The service whose exchange is to begin.
    pub(super) const fn due(&self) -> Option<Service> {
        match self {
            Self::Model { is_due: true } => Some(Service::Model),
            Self::Dataset { is_due: true, .. } => Some(Service::Dataset),
            _ => None,
        }
    }

    /// The service whose exchange is to begin, given out once.
    pub(super) const fn take_due(&mut self) -> Option<Service> {
        let due = self.due();
        if let Self::Model { is_due } | Self::Dataset { is_due, .. } = self {
            *is_due = false;
        }
        due
    }
}
