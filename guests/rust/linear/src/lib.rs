//! Trains `y = w[0] + w[1] x` in federated rounds, by gradient descent on the proplet's own data.
//!
//! In: the model `{"w": [w0, w1]}`, the data set `{"data": [[x, y], …]}` and, if the task has it, the
//! environment's HYPERPARAMS, `{"rate": 0.1, "steps": 20}`. Out: the difference to the model, with
//! the mean squared error before the training and after it. `cars.json` has samples.
#![no_std]

use core::{fmt, str};
use heapless::{String, Vec};
use proplet_guest::ReadError;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json_core::{de, from_slice, to_slice};

/// Most samples of a data set.
const SAMPLES_MAX: usize = 64;

/// Most bytes of what is read at once: a data set of so many samples.
const TEXT_MAX: usize = 1536;

/// What is wrong. The proplet's error quotes 64 bytes of it.
type Refusal = String<64>;

fn refusal(what: &str, why: &str) -> Refusal {
    let mut text = Refusal::new();
    for part in [what, ": ", why] {
        // They fit, and what did not would be left out.
        let _ = text.push_str(part);
    }
    text
}

#[derive(Deserialize)]
struct Model {
    w: [f32; 2],
}

#[derive(Deserialize)]
struct Hyperparams {
    rate: f32,
    steps: u32,
}

type Samples = Vec<[f32; 2], SAMPLES_MAX>;

/// Reads a data set into its place: every move of one would take its size of the stack.
struct Dataset<'s>(&'s mut Samples);

impl<'de> DeserializeSeed<'de> for Dataset<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Dataset<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a data set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<&str>()? {
            if key == "data" {
                map.next_value_seed(Data(&mut *self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Reads the samples of a data set.
struct Data<'s>(&'s mut Samples);

impl<'de> DeserializeSeed<'de> for Data<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Data<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("samples")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(sample) = seq.next_element()? {
            let pushed = self.0.push(sample);
            pushed.map_err(|_| A::Error::custom("too many samples"))?;
        }
        Ok(())
    }
}

/// What the coordinator gets.
#[derive(Serialize)]
struct Update<'a> {
    round_id: &'a str,
    proplet_id: &'a str,
    base_model_uri: &'a str,
    num_samples: usize,
    metrics: Metrics,
    update: Delta,
}

#[derive(Serialize)]
struct Metrics {
    loss_before: f32,
    loss: f32,
}

#[derive(Serialize)]
struct Delta {
    w: [f32; 2],
}

/// Mean squared error, and its gradient.
fn loss(w: [f32; 2], samples: &[[f32; 2]]) -> (f32, [f32; 2]) {
    let (mut sum, mut gradient) = (0.0, [0.0; 2]);
    for &[x, y] in samples {
        let error = w[0] + w[1] * x - y;
        sum += error * error;
        gradient[0] += 2.0 * error;
        gradient[1] += 2.0 * error * x;
    }
    let count = samples.len().max(1) as f32;
    (sum / count, gradient.map(|g| g / count))
}

fn train(mut w: [f32; 2], samples: &[[f32; 2]], hyperparams: &Hyperparams) -> [f32; 2] {
    for _ in 0..hyperparams.steps {
        let (_, gradient) = loss(w, samples);
        w[0] -= hyperparams.rate * gradient[0];
        w[1] -= hyperparams.rate * gradient[1];
    }
    w
}

/// A variable of the environment, which must be set.
fn read<'b>(key: &str, buf: &'b mut [u8]) -> Result<&'b [u8], Refusal> {
    proplet_guest::env(key, buf).map_err(|error| match error {
        ReadError::Absent => refusal(key, "there is none"),
        ReadError::TooLong(_) => refusal(key, "longer than 1536 bytes"),
    })
}

// These are functions of their own because what is inlined takes its stack all the time.

#[inline(never)]
fn hyperparams(buf: &mut [u8]) -> Result<Hyperparams, Refusal> {
    const HYPERPARAMS: &str = "HYPERPARAMS";
    let json = match proplet_guest::env(HYPERPARAMS, buf) {
        Err(ReadError::Absent) => br#"{"rate":0.1,"steps":20}"#,
        _ => read(HYPERPARAMS, buf)?,
    };
    let found = from_slice(json).map(|(hyperparams, _)| hyperparams);
    found.map_err(|_| refusal(HYPERPARAMS, r#"expected {"rate":0.1,"steps":20}"#))
}

#[inline(never)]
fn model(buf: &mut [u8]) -> Result<Model, Refusal> {
    const MODEL: &str = "MODEL_DATA";
    let found = from_slice(read(MODEL, buf)?).map(|(model, _)| model);
    found.map_err(|_| refusal(MODEL, r#"expected {"w":[w0,w1]}"#))
}

#[inline(never)]
fn dataset(samples: &mut Samples, buf: &mut [u8]) -> Result<(), Refusal> {
    const DATASET: &str = "DATASET_DATA";
    let mut from = de::Deserializer::new(read(DATASET, buf)?, None);
    match Dataset(samples).deserialize(&mut from) {
        Ok(()) if !samples.is_empty() => Ok(()),
        _ => {
            let expected = r#"expected {"data":[[x,y],...]}, 1 to 64 samples"#;
            Err(refusal(DATASET, expected))
        }
    }
}

/// A variable of the environment; empty if it is not set.
fn text<'b>(key: &str, buf: &'b mut [u8]) -> &'b str {
    let bytes = proplet_guest::env(key, buf).unwrap_or_default();
    str::from_utf8(bytes).unwrap_or_default()
}

fn round(buf: &mut [u8]) -> Result<(), Refusal> {
    let hyperparams = hyperparams(buf)?;
    let Model { w: before } = model(buf)?;
    let mut samples = Samples::new();
    dataset(&mut samples, buf)?;
    let w = train(before, &samples, &hyperparams);
    let metrics = Metrics {
        loss_before: loss(before, &samples).0,
        loss: loss(w, &samples).0,
    };
    if !metrics.loss.is_finite() {
        return Err(refusal(
            "HYPERPARAMS",
            "the loss is infinite: a smaller rate",
        ));
    }
    let (mut round, mut proplet, mut uri) = ([0; 64], [0; 64], [0; 128]);
    let update = Update {
        round_id: text("ROUND_ID", &mut round),
        proplet_id: text("PROPLET_ID", &mut proplet),
        base_model_uri: text("MODEL_URI", &mut uri),
        num_samples: samples.len(),
        metrics,
        update: Delta {
            w: [w[0] - before[0], w[1] - before[1]],
        },
    };
    say(&update, buf)
}

#[inline(never)]
fn say(update: &Update<'_>, buf: &mut [u8]) -> Result<(), Refusal> {
    let too_long = |_| refusal("update", "longer than 1536 bytes");
    let len = to_slice(update, buf).map_err(too_long)?;
    // JSON is UTF-8.
    proplet_guest::set_result(str::from_utf8(&buf[..len]).unwrap_or_default());
    Ok(())
}

/// The task: 0 if all is well. If not, its result is what is wrong, which no coordinator gets: it is
/// no JSON object.
#[unsafe(export_name = "run")]
extern "C" fn run() -> i32 {
    match round(&mut [0; TEXT_MAX]) {
        Ok(()) => 0,
        Err(refusal) => {
            proplet_guest::set_result(&refusal);
            1
        }
    }
}
