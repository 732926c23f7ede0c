//! Trains `y = w[0] + w[1] x` in federated rounds, by gradient descent on the proplet's own data.
//!
//! In: the model `{"w": [w0, w1]}`, the data set `{"data": [[x, y], …]}` and, if the task has it, the
//! environment's HYPERPARAMS, `{"rate": 0.1, "steps": 20}`. Out: the difference to the model, with
//! the mean squared error before the training and after it.
#![no_std]

use core::str;
use heapless::Vec;
use proplet_guest::{Level, ReadError};
use serde::{Deserialize, Serialize};

/// Most samples of a data set.
const SAMPLES_MAX: usize = 128;

/// Most bytes of what is read at once: a data set of so many samples.
const TEXT_MAX: usize = 3072;

#[derive(Deserialize)]
struct Model {
    w: [f32; 2],
}

#[derive(Deserialize)]
struct Dataset {
    data: Vec<[f32; 2], SAMPLES_MAX>,
}

#[derive(Deserialize)]
struct Hyperparams {
    rate: f32,
    steps: u32,
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

/// A variable of the environment as JSON; `None` if it is not set.
fn read<'b, T: Deserialize<'b>>(
    key: &'static str,
    buf: &'b mut [u8],
) -> Result<Option<T>, &'static str> {
    match proplet_guest::env(key, buf) {
        Ok(json) => match serde_json_core::from_slice(json) {
            Ok((value, _)) => Ok(Some(value)),
            Err(_) => Err(key),
        },
        Err(ReadError::Absent) => Ok(None),
        Err(ReadError::TooLong(_)) => Err(key),
    }
}

/// A variable of the environment; empty if it is not set.
fn text<'b>(key: &str, buf: &'b mut [u8]) -> &'b str {
    let bytes = proplet_guest::env(key, buf).unwrap_or_default();
    str::from_utf8(bytes).unwrap_or_default()
}

/// What is missing or wrong is named.
fn round(buf: &mut [u8]) -> Result<(), &'static str> {
    let model: Model = read("MODEL_DATA", buf)?.ok_or("MODEL_DATA")?;
    let dataset: Dataset = read("DATASET_DATA", buf)?.ok_or("DATASET_DATA")?;
    let hyperparams = read("HYPERPARAMS", buf)?.unwrap_or(Hyperparams {
        rate: 0.1,
        steps: 20,
    });
    let samples = &dataset.data;
    let w = train(model.w, samples, &hyperparams);
    let (mut round, mut proplet, mut uri) = ([0; 64], [0; 64], [0; 128]);
    let update = Update {
        round_id: text("ROUND_ID", &mut round),
        proplet_id: text("PROPLET_ID", &mut proplet),
        base_model_uri: text("MODEL_URI", &mut uri),
        num_samples: samples.len(),
        metrics: Metrics {
            loss_before: loss(model.w, samples).0,
            loss: loss(w, samples).0,
        },
        update: Delta {
            w: [w[0] - model.w[0], w[1] - model.w[1]],
        },
    };
    let len = serde_json_core::to_slice(&update, buf).map_err(|_| "update")?;
    proplet_guest::set_result(str::from_utf8(&buf[..len]).map_err(|_| "update")?);
    Ok(())
}

/// The task: 0 if all is well; what is wrong is in the log, and there is no update then.
#[unsafe(export_name = "run")]
extern "C" fn run() -> i32 {
    match round(&mut [0; TEXT_MAX]) {
        Ok(()) => 0,
        Err(what) => {
            proplet_guest::log(Level::Error, what);
            1
        }
    }
}
