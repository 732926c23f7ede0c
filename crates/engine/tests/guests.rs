//! Guests that compilers make with `guests/c/proplet.h` and `guests/rust/proplet-guest`: both find
//! every function. They need the compilers that the guests of `wamr`'s tests need, and say so where
//! these are missing.

use proplet::{
    engine::{Engine as _, Exit, Message, ModuleId, Slot, Value},
    time::Duration,
};
use proplet_testing::compilers::{build_crate, built, compile, guests};
use proplet_testing::engine::{Bench, ID, LIMITS, Threads, bench, output, trap};
use serde_json::{Value as Json, json};
use std::{fs, time::Instant};
use wamr::Buffer;

/// Runs a guest, and returns its exit and what it has published.
fn run(
    bench: &mut Bench,
    wasm: &[u8],
    args: &[Value],
    caps: &str,
    env: &[(&str, &str)],
) -> (Exit<Buffer>, Vec<String>) {
    bench.load_bytes(0, wasm).unwrap();
    let mut data = bench.data(caps, &["in", "put"], env);
    data.model = Some(bench.copy(b"the model"));
    bench.spawn_with(0, args, LIMITS, data);
    bench.engine.deliver(Slot(0), "to/guest", b"hello");
    let mut said = Vec::new();
    let exit = bench.exit_while(|engine| match engine.take_message(Slot(0)) {
        Some(Message::Publish { bytes, topic_len }) => {
            let (topic, payload) = bytes.split_at(topic_len);
            let text = [topic, b" ", payload].concat();
            said.push(String::from_utf8(text).unwrap());
        }
        Some(Message::Subscribe { filter }) => {
            said.push(format!("? {}", str::from_utf8(&filter).unwrap()));
        }
        None => {}
    });
    bench.engine.unload(ModuleId(0));
    (exit, said)
}

fn is_a_station(wasm: Option<Vec<u8>>) {
    let Some(wasm) = wasm else {
        return;
    };
    let mut bench = bench();
    let before = bench.free();
    let began = Instant::now();
    let caps = "timer,time,publish,sensor";
    let (exit, said) = run(
        &mut bench,
        &wasm,
        &[Value::I32(3)],
        caps,
        &[("PERIOD_MS", "5")],
    );
    assert_eq!(exit.result, Ok(Some(Value::I32(3))));
    assert_eq!(output(&exit), Some("-1.250001"));
    assert_eq!(said, vec!["station/temperature -1.250001"; 3]);
    assert!(began.elapsed() >= Duration::from_millis(15));
    // The memory of a small guest, and not a page.
    assert!(exit.usage.memory < 16_000, "{:?}", exit.usage);
    drop(exit);
    let env = [("TOPIC", "attic/north"), ("PERIOD_MS", "1")];
    let (exit, said) = run(&mut bench, &wasm, &[Value::I32(1)], caps, &env);
    assert_eq!(said, ["attic/north -1.250001"]);
    drop(exit);
    let env = [("TOPIC", "x".repeat(65))].map(|(key, value)| (key, value.leak() as &str));
    let (exit, _) = run(&mut bench, &wasm, &[Value::I32(1)], caps, &env);
    assert_eq!(
        (&exit.result, output(&exit)),
        (&Ok(Some(Value::I32(0))), None)
    );
    let (exit, _) = run(
        &mut bench,
        &wasm,
        &[Value::I32(1)],
        "timer,time,publish",
        &[("PERIOD_MS", "1")],
    );
    assert_eq!(
        trap(&exit),
        "capability 'sensor' is not granted: PROPLET_CAPS"
    );
    drop(exit);
    assert_eq!(bench.free(), before);
}

#[test]
fn the_c_guest_is_a_station() {
    is_a_station(compile(&guests().join("c/station.c")));
}

#[test]
fn the_rust_guest_is_a_station() {
    is_a_station(build_crate("station"));
}

/// Calls everything in the header once, and returns the line where something was not as expected.
const PROBE: &str = r#"
#include "proplet.h"

#define TEXT(literal) literal, sizeof(literal) - 1
#define EXPECT(condition) if (!(condition)) return __LINE__

static char heap[256];
static unsigned used;

PROPLET_EXPORT(malloc) void *give(unsigned len) { char *at = heap + used; used += len; return at; }
PROPLET_EXPORT(free) void take(void *at) { (void)at; }

PROPLET_EXPORT(main) int run(int unused)
{
    (void)unused;
    char *data;
    unsigned len, topic_len;
    char buf[32];
    int64_t micro = 0;

    EXPECT(proplet_get_proplet_id(&data, &len) == 1 && len == 36 && data[0] == '3' && !data[36]);
    EXPECT(proplet_get_model_data(&data, &len) == 1 && len == 9 && data[8] == 'l' && !data[9]);
    EXPECT(proplet_get_dataset_data(&data, &len) == 1 && len == 0 && !data[0]);
    EXPECT(proplet_get_env(TEXT("MODEL_DATA"), buf, sizeof(buf)) == 9 && buf[0] == 't');
    EXPECT(proplet_get_env(TEXT("OTHER"), buf, sizeof(buf)) == -1);
    EXPECT(proplet_get_input(1, buf, sizeof(buf)) == 3 && buf[0] == 'p');
    EXPECT(proplet_get_input(2, buf, sizeof(buf)) == -1);
    proplet_log(PROPLET_DEBUG, TEXT("a line"));
    int64_t before = proplet_now_ms();
    proplet_sleep_ms(3);
    EXPECT(proplet_now_ms() >= before + 3);
    proplet_timer_start(2);
    EXPECT(proplet_timer_wait() >= 1);
    proplet_timer_stop();
    proplet_random(buf, sizeof(buf));
    EXPECT(proplet_subscribe(TEXT("to/+")) == 1);
    while (!proplet_publish(TEXT("from/guest"), TEXT("hi")))
        proplet_sleep_ms(1);
    EXPECT(proplet_receive(buf, 4, &topic_len) == 13 && topic_len == 8);
    EXPECT(proplet_receive(buf, sizeof(buf), &topic_len) == 13 && topic_len == 8 && buf[12] == 'o');
    EXPECT(proplet_receive(buf, sizeof(buf), &topic_len) == -1);
    proplet_gpio_configure(1, PROPLET_INPUT_PULL_UP);
    EXPECT(proplet_gpio_read(1) == 1);
    proplet_gpio_configure(0, PROPLET_OUTPUT);
    EXPECT(proplet_gpio_read(0) == 0);
    proplet_gpio_write(0, 7);
    EXPECT(proplet_gpio_read(0) == 1);
    EXPECT(proplet_sensor_read(0, PROPLET_AMBIENT_TEMPERATURE, &micro) == 1 && micro == -1250001);
    EXPECT(proplet_sensor_read(1, PROPLET_VOLTAGE, &micro) == 0);
    proplet_publish_result(TEXT("done"));
    return 0;
}
"#;

const ALL_CAPS: &str = "time,random,timer,publish,subscribe,gpio,sensor";

#[test]
fn the_header_declares_what_the_proplet_offers() {
    let source = built().join("api.c");
    fs::write(&source, PROBE).unwrap();
    fs::copy(guests().join("c/proplet.h"), built().join("proplet.h")).unwrap();
    if let Some(wasm) = compile(&source) {
        is_as_expected(&wasm);
    }
}

#[test]
fn the_crate_wraps_what_the_proplet_offers() {
    if let Some(wasm) = build_crate("probe") {
        is_as_expected(&wasm);
    }
}

fn is_as_expected(wasm: &[u8]) {
    let mut bench = bench();
    let before = bench.free();
    // All of them: none is left out.
    let imports = proplet_engine::host_functions::<Threads>();
    for function in imports {
        let name = function.name.to_bytes();
        let found = wasm.windows(name.len()).any(|window| window == name);
        assert!(found, "{:?} is not imported", function.name);
    }
    let (exit, said) = run(&mut bench, wasm, &[Value::I32(0)], ALL_CAPS, &[]);
    assert_eq!(
        exit.result,
        Ok(Some(Value::I32(0))),
        "or the line that was not as expected"
    );
    assert_eq!(output(&exit), Some("done"));
    assert_eq!(said, ["? to/+", "from/guest hi"]);
    drop(exit);
    assert_eq!(bench.free(), before);
}

/// A round of `guests/rust/linear`: what `run` returns, what it says, and the memory it takes.
fn learn(
    bench: &mut Bench,
    model: Option<&str>,
    dataset: Option<&str>,
    env: &[(&str, &str)],
) -> (i32, String, usize) {
    let mut data = bench.data("", &[], env);
    data.model = model.map(|model| bench.copy(model.as_bytes()));
    data.dataset = dataset.map(|dataset| bench.copy(dataset.as_bytes()));
    // The operand stack that a task has on Linux if it asks for none.
    bench.call(0, "run", &[], LIMITS, data).unwrap();
    let exit = bench.exit();
    let Ok(Some(Value::I32(value))) = exit.result else {
        panic!("{exit:?}");
    };
    let said = output(&exit).expect("it says something");
    (value, said.into(), exit.usage.memory)
}

fn mean_squared_error([w0, w1]: [f64; 2], samples: &[[f64; 2]]) -> f64 {
    let squares = samples.iter().map(|[x, y]| (w0 + w1 * x - y).powi(2));
    squares.sum::<f64>() / samples.len() as f64
}

#[test]
fn the_linear_guest_learns_what_samples_have_in_common() {
    let Some(wasm) = build_crate("linear") else {
        return;
    };
    let mut bench = bench();
    let before = bench.free();
    bench.load_bytes(0, &wasm).unwrap();
    let cars = fs::read_to_string(guests().join("rust/linear/cars.json")).unwrap();
    let cars: Vec<[f64; 2]> = serde_json::from_str(&cars).unwrap();
    // As many as it takes.
    let line: Vec<[f64; 2]> = (0..64_i32)
        .map(|i| f64::from(i) / 64.0)
        .map(|x| [x, 3.0 - 1.5 * x])
        .collect();
    let env = [
        ("ROUND_ID", "r1"),
        ("MODEL_URI", "fl/models/global_model_v0"),
        ("HYPERPARAMS", r#"{"rate":0.2,"steps":40}"#),
    ];
    for (w, samples) in [([0.0, 0.0], cars), ([1.0, 1.0], line)] {
        let model = json!({"w": w, "version": 3}).to_string();
        let dataset = json!({"schema": "of nobody", "data": samples, "size": samples.len()});
        let (value, said, memory) =
            learn(&mut bench, Some(&model), Some(&dataset.to_string()), &env);
        let update: Json = serde_json::from_str(&said).unwrap();
        assert_eq!(value, 0, "{update}");
        assert_eq!(update["round_id"], "r1");
        assert_eq!(update["proplet_id"], ID);
        assert_eq!(update["base_model_uri"], "fl/models/global_model_v0");
        assert_eq!(update["num_samples"], samples.len());
        let number = |json: &Json| json.as_f64().expect("a number");
        let learnt = [0, 1].map(|i| w[i] + number(&update["update"]["w"][i]));
        for (key, w) in [("loss_before", w), ("loss", learnt)] {
            let (said, is) = (
                number(&update["metrics"][key]),
                mean_squared_error(w, &samples),
            );
            assert!((said - is).abs() < 1e-4 * is, "{key}: {said}, but is {is}");
        }
        let (from, to) = (
            &update["metrics"]["loss_before"],
            &update["metrics"]["loss"],
        );
        assert!(number(to) < number(from) / 5.0, "{update}");
        // 20 KiB of memory, and not a page.
        assert!(memory < 32_000, "{memory} bytes");
    }
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn the_linear_guest_says_what_is_wrong() {
    let Some(wasm) = build_crate("linear") else {
        return;
    };
    let mut bench = bench();
    bench.load_bytes(0, &wasm).unwrap();
    let (model, dataset) = (r#"{"w":[0,1]}"#, r#"{"data":[[1,2],[2,3]]}"#);
    let many = json!({"data": vec![[1, 2]; 65]}).to_string();
    let long = json!({"data": [[1, 2]], "note": "x".repeat(1536)}).to_string();
    let samples = r#"DATASET_DATA: expected {"data":[[x,y],...]}, 1 to 64 samples"#;
    let weights = r#"MODEL_DATA: expected {"w":[w0,w1]}"#;
    let hyperparams = r#"HYPERPARAMS: expected {"rate":0.1,"steps":20}"#;
    for (model, dataset, rate, words) in [
        (None, Some(dataset), "", "MODEL_DATA: there is none"),
        (Some(model), None, "", "DATASET_DATA: there is none"),
        (Some("no JSON"), Some(dataset), "", weights),
        (Some(r#"{"w":[1]}"#), Some(dataset), "", weights),
        (Some(r#"{"w":[1,"a"]}"#), Some(dataset), "", weights),
        (Some(r#"{"v":[1,2]}"#), Some(dataset), "", weights),
        (Some(model), Some(r#"{"data":[]}"#), "", samples),
        (Some(model), Some(r#"{"data":[[1]]}"#), "", samples),
        (Some(model), Some("{\"data\":[[1,2],[2"), "", samples),
        (Some(model), Some(&many), "", samples),
        (
            Some(model),
            Some(&long),
            "",
            "DATASET_DATA: longer than 1536 bytes",
        ),
        (Some(model), Some(dataset), "fast", hyperparams),
        (Some(model), Some(dataset), r#"{"rate":1}"#, hyperparams),
        (
            Some(model),
            Some(dataset),
            r#"{"rate":9.5,"steps":500}"#,
            "HYPERPARAMS: the loss is infinite: a smaller rate",
        ),
    ] {
        let env = [("ROUND_ID", "r1"), ("HYPERPARAMS", rate)];
        let env = if rate.is_empty() { &env[..1] } else { &env };
        let (value, said, _) = learn(&mut bench, model, dataset, env);
        assert_eq!((value, said.as_str()), (1, words), "{model:?}, {dataset:?}");
        // The proplet's error quotes no more.
        assert!(said.len() <= 64, "{said}");
    }
    bench.engine.unload(ModuleId(0));
}

/// Sample of Propeller's demo of federated learning.
type Labelled = ([f64; 3], f64);

/// Mean logistic loss of the model `w`, `b`.
fn logistic_loss(w: [f64; 3], b: f64, samples: &[Labelled]) -> f64 {
    let losses = samples.iter().map(|(x, y)| {
        let z = b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        z.exp().ln_1p() - y * z
    });
    losses.sum::<f64>() / samples.len() as f64
}

/// One epoch of stochastic gradient descent.
fn descend(w: &mut [f64; 3], b: &mut f64, samples: &[Labelled], lr: f64) {
    for (x, y) in samples {
        let z = *b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let error = 1.0 / (1.0 + (-z.clamp(-20.0, 20.0)).exp()) - y;
        for (w, x) in w.iter_mut().zip(x) {
            *w -= lr * error * x;
        }
        *b -= lr * error;
    }
}

/// The data set as the demo's store sends it.
fn dataset_of(samples: &[Labelled]) -> String {
    let data: Vec<Json> = samples
        .iter()
        .map(|(x, y)| json!({"x": x, "y": y}))
        .collect();
    json!({"schema": "fl-demo-dataset-v1", "proplet_id": ID, "entity_id": ID, "data": data,
        "size": samples.len()})
    .to_string()
}

#[test]
fn the_logistic_guest_trains_as_the_demos_client_does() {
    let Some(wasm) = build_crate("logistic") else {
        return;
    };
    assert!(wasm.len() < 8192, "{} bytes", wasm.len());
    let mut bench = bench();
    let before = bench.free();
    bench.load_bytes(0, &wasm).unwrap();
    let digit = |n: i32| f64::from(n % 10) / 10.0;
    let demo: Vec<Labelled> = (0..64)
        .map(|n| ([digit(n), digit(2 * n), digit(3 * n)], f64::from(n % 2)))
        .collect();
    // Numbers of the demo may be negative, labels too.
    let negative: Vec<Labelled> = demo
        .iter()
        .map(|(x, y)| (x.map(|x| -1e-3 * x), -y))
        .collect();
    let far: Vec<Labelled> = vec![([1.0, 2.0, -1.5], 1.0), ([-90.0, 70.5, 3.0], 0.0)];
    let zeros = json!({"w": [0, 0, 0], "b": 0, "version": 0}).to_string();
    // As Go writes them: with all digits, and small ones with an exponent.
    let learnt = r#" { "b" : -0.015953270595259434, "note": ["\"]}", {"a": [{}, []]}],
        "w": [0.06711160205313454, 12.5e-1, -1e-07] } "#;
    let demos = r#"{"batch_size":16,"epochs":1,"lr":0.01}"#;
    for (model, w, b, hyperparams, epochs, lr, samples) in [
        (&*zeros, [0.0; 3], 0.0, demos, 1, 0.01, &demo),
        ("", [0.0; 3], 0.0, "", 1, 0.01, &demo),
        (
            learnt,
            [0.067_111_602_053_134_54, 1.25, -1e-7],
            -0.015_953_270_595_259_434,
            r#"{"epochs": 5, "lr": 2.5E-2}"#,
            5,
            0.025,
            &demo,
        ),
        (&zeros, [0.0; 3], 0.0, demos, 1, 0.01, &negative),
        (&zeros, [0.0; 3], 0.0, r#"{"lr":0.1}"#, 1, 0.1, &far),
        (&zeros, [0.0; 3], 0.0, r#"{"epochs":0}"#, 0, 0.01, &demo),
    ] {
        let env = [
            ("ROUND_ID", "r \"1\"\\"),
            ("MODEL_URI", "fl/models/global_model_v0"),
            ("HYPERPARAMS", hyperparams),
        ];
        let model = Some(model).filter(|model| !model.is_empty());
        let dataset = dataset_of(samples);
        let (value, said, memory) = learn(&mut bench, model, Some(&dataset), &env);
        assert_eq!(value, 0, "{said}");
        let update: Json = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert_eq!(update["round_id"], "r \"1\"\\");
        assert_eq!(update["proplet_id"], ID);
        assert_eq!(update["base_model_uri"], "fl/models/global_model_v0");
        assert_eq!(update["num_samples"], samples.len());
        let (mut trained, mut bias) = (w, b);
        for _ in 0..epochs {
            descend(&mut trained, &mut bias, samples, lr);
        }
        let said = &update["update"];
        let weights = (0..3).map(|i| (&said["w"][i], trained[i]));
        let losses = [
            (
                &update["metrics"]["loss_before"],
                logistic_loss(w, b, samples),
            ),
            (
                &update["metrics"]["loss"],
                logistic_loss(trained, bias, samples),
            ),
        ];
        let weights = weights.chain([(&said["b"], bias)]).map(|w| (w, 2e-12));
        // As the demo does, it takes an argument beyond 20 for one of 20: e to the power of -20.
        for ((said, is), tolerance) in weights.chain(losses.map(|loss| (loss, 3e-9))) {
            let said = said.as_f64().unwrap_or_else(|| panic!("{update}"));
            let is_near = (said - is).abs() < tolerance;
            assert!(is_near, "{said}, but is {is}: {update}");
        }
        // Its stack of 5 KiB, its data and what a task takes, and not a page of 64 KiB.
        assert!(memory < 12_000, "{memory} bytes");
    }
    bench.engine.unload(ModuleId(0));
    assert_eq!(bench.free(), before);
}

#[test]
fn the_logistic_guest_says_what_is_wrong() {
    let Some(wasm) = build_crate("logistic") else {
        return;
    };
    let mut bench = bench();
    bench.load_bytes(0, &wasm).unwrap();
    let (model, dataset) = (
        r#"{"w":[0,1,2],"b":3}"#,
        r#"{"data":[{"x":[1,2,3],"y":1}]}"#,
    );
    let long = "x".repeat(4097);
    let model_words = r#"MODEL_DATA: expected {"w":[w0,w1,w2],"b":b}"#;
    let dataset_words = r#"DATASET_DATA: expected {"data":[{"x":[x0,x1,x2],"y":y},...]}"#;
    let words = r#"HYPERPARAMS: expected {"epochs":1,"lr":0.01}"#;
    let mut refuses = |key: &str, value: &str, words: &str| {
        let mut env = vec![("ROUND_ID", "r1"), ("MODEL_URI", "m"), ("HYPERPARAMS", "")];
        let (mut model, mut dataset) = (Some(model), Some(dataset));
        match key {
            "MODEL_DATA" => model = Some(value),
            "DATASET_DATA" => dataset = Some(value).filter(|value| !value.is_empty()),
            _ => {
                env.retain(|(k, _)| *k != key);
                env.push((key, value));
            }
        }
        let (code, said, _) = learn(&mut bench, model, dataset, &env);
        assert_eq!((code, said.as_str()), (1, words), "{key}={value}");
        // The proplet's error quotes no more.
        assert!(said.len() <= 64, "{said}");
    };
    for wrong in [
        "no JSON",
        "{",
        "[]",
        r#"{"w":[0,1,2]}"#,
        r#"{"b":1}"#,
        r#"{"w":[0,1],"b":1}"#,
        r#"{"w":[0,1,2,3],"b":1}"#,
        r#"{"w":[0,1,"2"],"b":1}"#,
        r#"{"w":[0,1,2],"b":null}"#,
        r#"{"w":[0,1,2],"b":1e999}"#,
        r#"{"w":[0,1,2],"b":-}"#,
        r#"{"w":[0,1,2],"b":.5}"#,
        r#"{"w":[0,1,2],"b":1e}"#,
        r#"{"w":[0,1,2],"b":1,"note":}}"#,
        r#"{"w":[0,1,2],"b":1,"note":"\"}"#,
    ] {
        refuses("MODEL_DATA", wrong, model_words);
    }
    for wrong in [
        r#"{"data":[]}"#,
        r#"{"data":{}}"#,
        r#"{"data":[[1,2,3]]}"#,
        r#"{"data":[{"x":[1,2],"y":1}]}"#,
        r#"{"data":[{"x":[1,2,3]}]}"#,
        r#"{"data":[{"y":1}]}"#,
        r#"{"data":[{"x":[1,2,3],"y":1},{"x":[1,2"#,
        r#"{"size":3}"#,
    ] {
        refuses("DATASET_DATA", wrong, dataset_words);
    }
    for wrong in ["fast", "[1]", r#"{"lr":"0.1"}"#, r#"{"epochs":true}"#] {
        refuses("HYPERPARAMS", wrong, words);
    }
    refuses("DATASET_DATA", "", "DATASET_DATA: there is none");
    for key in ["MODEL_DATA", "DATASET_DATA", "HYPERPARAMS"] {
        refuses(key, &long, &format!("{key}: longer than 4096 bytes"));
    }
    refuses(
        "MODEL_URI",
        &long[..129],
        "MODEL_URI: longer than 128 bytes",
    );
    refuses("ROUND_ID", &long[..65], "ROUND_ID: longer than 64 bytes");
    refuses("ROUND_ID", "", "ROUND_ID: there is none");
    let steep = r#"{"epochs":9,"lr":1e12}"#;
    let large = "HYPERPARAMS: the model is too large: a smaller lr";
    refuses("HYPERPARAMS", steep, large);
    bench.engine.unload(ModuleId(0));
}
