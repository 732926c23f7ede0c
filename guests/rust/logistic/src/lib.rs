//! Takes part in Propeller's demo of federated learning (`examples/fl-demo`): logistic regression with
//! three weights and a bias, by stochastic gradient descent on the proplet's own data.
//!
//! In: the model `{"w": [w0, w1, w2], "b": b}`, zeros if there is none; the data set
//! `{"data": [{"x": [x0, x1, x2], "y": y}, …]}`; and, if the task has them, the environment's
//! HYPERPARAMS, `{"epochs": 1, "lr": 0.01}`. The demo's `batch_size` is taken and has no effect, as in
//! the demo's own client, which steps at each sample too. Out: the model after the training, whole, as
//! the demo's aggregator averages models, with the logistic loss before and after.
//!
//! The samples are read from their text each time, in their order: they take no memory beside it, and
//! the same round gives the same update. `linear` is the same for a model of our own, with serde.
#![no_std]

mod json;

use json::{Reader, Writer};
use proplet_guest::ReadError;

/// Most bytes of what is read at once. A data set of the demo, 64 samples, has half as many.
const TEXT_MAX: usize = 4096;

/// Most bytes of an id, which the proplet sees to.
const ID_MAX: usize = 64;

/// Most bytes of the model's URI.
const URI_MAX: usize = 128;

/// Weights of the model.
const WEIGHTS: usize = 3;

/// The logistic function's argument counts for no more than this, either way, as in the demo.
const ARGUMENT_MAX: f64 = 20.0;

/// What is wrong. The proplet's error quotes 64 bytes of both.
struct Refusal {
    key: &'static str,
    why: &'static str,
}

const fn refusal(key: &'static str, why: &'static str) -> Refusal {
    Refusal { key, why }
}

#[derive(Clone, Copy)]
struct Model {
    w: [f64; WEIGHTS],
    b: f64,
}

struct Hyperparams {
    epochs: u32,
    lr: f64,
}

/// What a pass over the samples tells.
struct Pass {
    samples: u32,
    /// The mean of each sample's loss, taken before its step.
    loss: f64,
}

/// e to the power of `x`, which is at most [`ARGUMENT_MAX`] from 0, to twelve digits.
fn exp(x: f64) -> f64 {
    // Of a 32nd of x, the series; then five squares.
    let part = x / 32.0;
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..16 {
        term *= part / f64::from(n);
        sum += term;
    }
    for _ in 0..5 {
        sum *= sum;
    }
    sum
}

/// The logarithm of 1 + `x`, for 0 to 1.
fn ln_1p(x: f64) -> f64 {
    // Twice the inverse hyperbolic tangent, whose series has powers of a third at most.
    let t = x / (2.0 + x);
    let (mut power, mut sum) = (t, 0.0);
    for n in 0..17 {
        sum += power / f64::from(2 * n + 1);
        power *= t * t;
    }
    2.0 * sum
}

impl Model {
    /// What the model says of `x`, before the logistic function.
    fn argument(&self, x: &[f64; WEIGHTS]) -> f64 {
        let products = self.w.iter().zip(x).map(|(w, x)| w * x);
        products.sum::<f64>() + self.b
    }

    /// Steps along the gradient of the loss at one sample, and returns that loss.
    fn step(&mut self, x: &[f64; WEIGHTS], y: f64, lr: f64) -> f64 {
        let z = self.argument(x);
        let small = exp(-z.abs().min(ARGUMENT_MAX));
        let loss = ln_1p(small) + if z > 0.0 { z } else { 0.0 } - y * z;
        let error = (if z > 0.0 { 1.0 } else { small }) / (1.0 + small) - y;
        for (w, x) in self.w.iter_mut().zip(x) {
            *w -= lr * error * x;
        }
        self.b -= lr * error;
        loss
    }
}

/// Steps at each sample of a data set; with an `lr` of 0 nothing changes.
#[inline(never)]
fn pass(dataset: &[u8], model: &mut Model, lr: f64) -> Option<Pass> {
    let (mut samples, mut sum) = (0, 0.0);
    Reader::new(dataset).object(|key, reader| match key {
        b"data" => reader.array(|reader| {
            let (mut x, mut y) = (None, None);
            reader.object(|key, reader| {
                match key {
                    b"x" => x = Some(reader.numbers()?),
                    b"y" => y = Some(reader.number()?),
                    _ => reader.skip()?,
                }
                Some(())
            })?;
            samples += 1;
            sum += model.step(&x?, y?, lr);
            Some(())
        }),
        _ => reader.skip(),
    })?;
    (samples > 0).then(|| Pass {
        samples,
        loss: sum / f64::from(samples),
    })
}

/// A variable of the environment; empty if it is not set.
fn read<'b>(key: &'static str, buf: &'b mut [u8]) -> Result<&'b [u8], Refusal> {
    let cap = buf.len();
    match proplet_guest::env(key, buf) {
        Ok(text) => Ok(text),
        Err(ReadError::Absent) => Ok(&[]),
        Err(ReadError::TooLong(_)) => Err(refusal(
            key,
            match cap {
                ID_MAX => "longer than 64 bytes",
                URI_MAX => "longer than 128 bytes",
                _ => "longer than 4096 bytes",
            },
        )),
    }
}

fn hyperparams(buf: &mut [u8]) -> Result<Hyperparams, Refusal> {
    const HYPERPARAMS: &str = "HYPERPARAMS";
    let mut found = Hyperparams {
        epochs: 1,
        lr: 0.01,
    };
    let text = read(HYPERPARAMS, buf)?;
    let read = Reader::new(text).object(|key, reader| {
        match key {
            // Saturates, and cuts off decimals, as in the demo.
            b"epochs" => found.epochs = reader.number()? as u32,
            b"lr" => found.lr = reader.number()?,
            _ => reader.skip()?,
        }
        Some(())
    });
    match read {
        None if !text.is_empty() => Err(refusal(HYPERPARAMS, r#"expected {"epochs":1,"lr":0.01}"#)),
        _ => Ok(found),
    }
}

fn model(buf: &mut [u8]) -> Result<Model, Refusal> {
    const MODEL: &str = "MODEL_DATA";
    let text = read(MODEL, buf)?;
    let zeros = Model {
        w: [0.0; WEIGHTS],
        b: 0.0,
    };
    if text.is_empty() {
        return Ok(zeros);
    }
    let (mut w, mut b) = (None, None);
    let read = Reader::new(text).object(|key, reader| {
        match key {
            b"w" => w = Some(reader.numbers()?),
            b"b" => b = Some(reader.number()?),
            _ => reader.skip()?,
        }
        Some(())
    });
    match (read, w, b) {
        (Some(()), Some(w), Some(b)) => Ok(Model { w, b }),
        _ => Err(refusal(MODEL, r#"expected {"w":[w0,w1,w2],"b":b}"#)),
    }
}

struct Update {
    samples: u32,
    loss_before: f64,
    loss: f64,
    model: Model,
}

fn train(buf: &mut [u8]) -> Result<Update, Refusal> {
    const DATASET: &str = "DATASET_DATA";
    let Hyperparams { epochs, lr } = hyperparams(buf)?;
    let mut model = model(buf)?;
    let dataset = read(DATASET, buf)?;
    if dataset.is_empty() {
        return Err(refusal(DATASET, "there is none"));
    }
    let expected = || refusal(DATASET, r#"expected {"data":[{"x":[x0,x1,x2],"y":y},...]}"#);
    let before = pass(dataset, &mut model, 0.0).ok_or_else(expected)?;
    for _ in 0..epochs {
        pass(dataset, &mut model, lr).ok_or_else(expected)?;
    }
    let after = pass(dataset, &mut model, 0.0).ok_or_else(expected)?;
    Ok(Update {
        samples: before.samples,
        loss_before: before.loss,
        loss: after.loss,
        model,
    })
}

/// The update as JSON; `None` if one of its numbers is too large.
fn say(update: &Update, to: &mut Writer<'_>) -> Option<()> {
    to.text(r#","num_samples":"#);
    to.integer(update.samples.into());
    to.text(r#","metrics":{"loss_before":"#);
    to.number(update.loss_before)?;
    to.text(r#","loss":"#);
    to.number(update.loss)?;
    to.text(r#"},"update":{"w":"#);
    for (i, &w) in update.model.w.iter().enumerate() {
        to.text(if i == 0 { "[" } else { "," });
        to.number(w)?;
    }
    to.text(r#"],"b":"#);
    to.number(update.model.b)?;
    to.text("}}");
    Some(())
}

fn round(buf: &mut [u8]) -> Result<(), Refusal> {
    const ROUND: &str = "ROUND_ID";
    let update = train(buf)?;
    let mut to = Writer::new(buf);
    let mut id = [0; ID_MAX];
    let round = read(ROUND, &mut id)?;
    if round.is_empty() {
        return Err(refusal(ROUND, "there is none"));
    }
    to.text(r#"{"round_id":"#);
    to.string(round);
    to.text(r#","proplet_id":"#);
    to.string(read("PROPLET_ID", &mut id)?);
    to.text(r#","base_model_uri":"#);
    to.string(read("MODEL_URI", &mut [0; URI_MAX])?);
    let said = say(&update, &mut to);
    said.ok_or_else(|| refusal("HYPERPARAMS", "the model is too large: a smaller lr"))?;
    // The longest has less than half of the buffer, and text of the environment is UTF-8.
    proplet_guest::set_result(to.finish().unwrap_or_default());
    Ok(())
}

/// The task: 0 if all is well. If not, its result is what is wrong, which no coordinator gets: it is
/// no JSON object.
#[unsafe(export_name = "run")]
extern "C" fn run() -> i32 {
    let mut buf = [0; TEXT_MAX];
    let Err(Refusal { key, why }) = round(&mut buf) else {
        return 0;
    };
    let mut to = Writer::new(&mut buf);
    to.text(key);
    to.text(": ");
    to.text(why);
    proplet_guest::set_result(to.finish().unwrap_or_default());
    1
}
