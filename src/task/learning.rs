//! Tasks of a federated round: what they fetch, and where their update goes.
//!
//! A task is one if its environment has [`ROUND_ID`]. The manager names model and round there; the
//! addresses of the services come from the environment too or else from the device's settings.

use crate::{
    http::Url,
    text::clip,
    wire::{Id, Pairs, TopicError, URL_MAX, check_level},
};
use core::fmt::{self, Write as _};

/// The round's id; makes a task one of a federated round.
pub const ROUND_ID: &str = "ROUND_ID";
/// Names the model to train; also the MQTT topic that has it, should the registry fail.
pub const MODEL_URI: &str = "MODEL_URI";
/// Base URL of the models: `<url>/models/<version>`.
pub const MODEL_REGISTRY_URL: &str = "MODEL_REGISTRY_URL";
/// Base URL of the data sets: `<url>/datasets/<proplet>`.
pub const DATA_STORE_URL: &str = "DATA_STORE_URL";
/// Base URL of the coordinator: `<url>/update`.
pub const MANAGER_COORDINATOR_URL: &str = "MANAGER_COORDINATOR_URL";
/// Samples that the update stands for; 1 if not given.
pub const NUM_SAMPLES: &str = "FL_NUM_SAMPLES";
/// Format of the update; `f32-delta` if not given.
pub const FORMAT: &str = "FL_FORMAT";

/// Most bytes of an update's format.
pub const FORMAT_MAX: usize = 24;

/// Base URLs of the services of federated learning; empty for a service that does not exist.
#[derive(Debug, Clone, Copy, Default)]
pub struct Services<'a> {
    /// Of [`MODEL_REGISTRY_URL`].
    pub models: &'a str,
    /// Of [`DATA_STORE_URL`].
    pub data: &'a str,
    /// Of [`MANAGER_COORDINATOR_URL`].
    pub coordinator: &'a str,
}

/// Refusal of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoundError<'a> {
    /// The round's id is no level of a topic.
    Id(TopicError),
    /// The round's id is too long to be kept; its length in bytes.
    IdTooLong(usize),
    /// The URL of a service that the round needs is not set.
    Unset(&'static str),
    /// The URL of a service is not one of HTTP.
    NoUrl {
        /// The variable.
        key: &'static str,
        /// Its value.
        base: &'a str,
    },
    /// The URL of a service makes one of more than [`URL_MAX`] bytes.
    UrlTooLong(&'static str),
}

impl fmt::Display for RoundError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Id(error) => error.fmt(f),
            Self::IdTooLong(len) => write!(
                f,
                "{ROUND_ID} has {len} bytes, at most {} are kept",
                Id::new().capacity()
            ),
            Self::Unset(key) => write!(
                f,
                "{key} is not set: a task with {ROUND_ID} needs it in its env or the proplet's settings"
            ),
            Self::NoUrl { key, base } => write!(
                f,
                "{key}={}: expected http://… or https://…",
                clip(base, 48)
            ),
            Self::UrlTooLong(key) => {
                write!(f, "{key} makes a URL of more than {URL_MAX} bytes")
            }
        }
    }
}

impl core::error::Error for RoundError<'_> {}

/// A round, as a task's environment describes it.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    /// The round's id.
    pub id: &'a str,
    /// The model, if there is one to begin with.
    pub model_uri: Option<&'a str>,
    /// Format of the update.
    pub format: &'a str,
    /// Samples that the update stands for.
    pub samples: u64,
    services: Services<'a>,
}

impl<'a> Round<'a> {
    /// The round that `env` names, if it does; its services from `env`, or else from `device`.
    pub fn of(env: Pairs<'a>, device: Services<'a>) -> Option<Self> {
        let some = |key| env.get(key).filter(|value| !value.is_empty());
        let id = some(ROUND_ID)?;
        let number = some(NUM_SAMPLES).and_then(|n| n.parse().ok());
        Some(Self {
            id,
            model_uri: some(MODEL_URI),
            format: clip(some(FORMAT).unwrap_or("f32-delta"), FORMAT_MAX),
            samples: number.unwrap_or(1),
            services: Services {
                models: some(MODEL_REGISTRY_URL).unwrap_or(device.models),
                data: some(DATA_STORE_URL).unwrap_or(device.data),
                coordinator: some(MANAGER_COORDINATOR_URL).unwrap_or(device.coordinator),
            },
        })
    }

    /// Whether the round can be done at all.
    ///
    /// # Errors
    /// The first service that is needed and has no URL, or an id that is too long to be kept or no
    /// level of a topic.
    pub fn check(&self, proplet: &str) -> Result<(), RoundError<'a>> {
        check_level(ROUND_ID, self.id).map_err(RoundError::Id)?;
        if Id::try_from(self.id).is_err() {
            return Err(RoundError::IdTooLong(self.id.len()));
        }
        self.model_url()?;
        self.dataset_url(proplet)?;
        self.update_url().map(drop)
    }

    /// Where the model is; `None` without one to begin with.
    ///
    /// # Errors
    /// The registry has no URL, or one that is malformed or too long.
    pub fn model_url(&self) -> Result<Option<Url>, RoundError<'a>> {
        let Some(uri) = self.model_uri else {
            return Ok(None);
        };
        let base = needed(MODEL_REGISTRY_URL, self.services.models)?;
        url(MODEL_REGISTRY_URL, base, "models", version(uri)).map(Some)
    }

    /// Where the data set of `proplet` is; `None` without a store.
    ///
    /// # Errors
    /// The store's URL is malformed or too long.
    pub fn dataset_url(&self, proplet: &str) -> Result<Option<Url>, RoundError<'a>> {
        let base = self.services.data;
        (!base.is_empty())
            .then(|| url(DATA_STORE_URL, base, "datasets", proplet))
            .transpose()
    }

    /// Where the update goes.
    ///
    /// # Errors
    /// The coordinator has no URL, or one that is malformed or too long.
    pub fn update_url(&self) -> Result<Url, RoundError<'a>> {
        let key = MANAGER_COORDINATOR_URL;
        url(key, needed(key, self.services.coordinator)?, "update", "")
    }
}

fn needed<'a>(key: &'static str, base: &'a str) -> Result<&'a str, RoundError<'a>> {
    match base {
        "" => Err(RoundError::Unset(key)),
        base => Ok(base),
    }
}

/// `<base>/<service>`, or `<base>/<service>/<item>`.
fn url<'a>(
    key: &'static str,
    base: &'a str,
    service: &str,
    item: &str,
) -> Result<Url, RoundError<'a>> {
    if !base.starts_with("http://") && !base.starts_with("https://") {
        return Err(RoundError::NoUrl { key, base });
    }
    let mut url = Url::new();
    let slash = if item.is_empty() { "" } else { "/" };
    write!(url, "{}/{service}{slash}{item}", base.trim_end_matches('/'))
        .map_err(|_| RoundError::UrlTooLong(key))?;
    Ok(url)
}

/// The model's version that `uri` names: the digits behind `global_model_v` in its last part, or
/// else those at its end, or else 0.
fn version(uri: &str) -> &str {
    let last = uri.rsplit('/').next().unwrap_or_default();
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let named = last.strip_prefix("global_model_v").unwrap_or_default();
    let found = match digits(named) {
        0 => {
            let start = last.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            &last[start..]
        }
        len => &named[..len],
    };
    match found.trim_start_matches('0') {
        "" => "0",
        number => number,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::wire::Packer;
    use std::{
        string::{String as StdString, ToString as _},
        vec,
        vec::Vec,
    };

    fn pack(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut buf = vec![0; 4096];
        let mut packer = Packer::new(&mut buf);
        for (key, value) in pairs {
            packer.push(key).unwrap();
            packer.push(value).unwrap();
        }
        let len = packer.len();
        buf.truncate(len);
        buf
    }

    const DEVICE: Services<'_> = Services {
        models: "http://models:8084/",
        data: "",
        coordinator: "http://coordinator",
    };

    #[test]
    fn versions() {
        for (uri, expected) in [
            ("fl/models/global_model_v3", "3"),
            ("fl/models/global_model_v12_best", "12"),
            ("http://host/models/model-7", "7"),
            ("models/007", "7"),
            ("global_model_v", "0"),
            ("global_model_v0", "0"),
            ("", "0"),
            ("v5/model", "0"),
        ] {
            assert_eq!(version(uri), expected, "{uri}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_settings() {
        let env = pack(&[
            (ROUND_ID, "r1"),
            (MODEL_URI, "fl/models/global_model_v2"),
            (DATA_STORE_URL, "https://data/api"),
            (MANAGER_COORDINATOR_URL, "http://other:8080"),
            (NUM_SAMPLES, "30"),
        ]);
        let round = Round::of(Pairs::from_bytes(&env).unwrap(), DEVICE).unwrap();
        round.check("p1").unwrap();
        let some = |url: Result<Option<Url>, RoundError<'_>>| -> StdString {
            url.unwrap().unwrap().as_str().into()
        };
        assert_eq!(some(round.model_url()), "http://models:8084/models/2");
        assert_eq!(
            some(round.dataset_url("p1")),
            "https://data/api/datasets/p1"
        );
        assert_eq!(round.update_url().unwrap(), "http://other:8080/update");
        assert_eq!((round.samples, round.format), (30, "f32-delta"));
    }

    #[test]
    fn a_task_without_a_round_is_none() {
        for env in [pack(&[(MODEL_URI, "m")]), pack(&[(ROUND_ID, "")])] {
            assert!(Round::of(Pairs::from_bytes(&env).unwrap(), DEVICE).is_none());
        }
    }

    #[test]
    fn a_url_that_is_missing_or_none_is_named() {
        let env = pack(&[(ROUND_ID, "r1"), (MODEL_URI, "m1")]);
        let env = Pairs::from_bytes(&env).unwrap();
        let error = |services| {
            let refused = Round::of(env, services).unwrap().check("p");
            refused.unwrap_err().to_string()
        };
        for (services, key) in [
            (
                Services {
                    models: "",
                    ..DEVICE
                },
                MODEL_REGISTRY_URL,
            ),
            (
                Services {
                    models: "mqtt://m",
                    ..DEVICE
                },
                MODEL_REGISTRY_URL,
            ),
            (
                Services {
                    data: "file:///etc",
                    ..DEVICE
                },
                DATA_STORE_URL,
            ),
            (
                Services {
                    coordinator: "",
                    ..DEVICE
                },
                MANAGER_COORDINATOR_URL,
            ),
            (
                Services {
                    coordinator: "c:80",
                    ..DEVICE
                },
                MANAGER_COORDINATOR_URL,
            ),
        ] {
            let error = error(services);
            assert!(error.starts_with(key), "{error}");
        }
        let long = std::format!("http://{}", "x".repeat(URL_MAX));
        assert!(
            error(Services {
                models: &long,
                ..DEVICE
            })
            .contains("256")
        );
        // No model to begin with, no registry.
        let env = pack(&[(ROUND_ID, "r1")]);
        let services = Services {
            models: "",
            ..DEVICE
        };
        Round::of(Pairs::from_bytes(&env).unwrap(), services)
            .unwrap()
            .check("p")
            .unwrap();
    }
}
