//! The same calls in another engine.

use wamr::{TrapKind, Value};
use wasmi::errors::HostError;
use wasmi::{
    Caller, Config, Engine, Error, Instance, Linker, Memory, Module, Store, StoreLimits,
    StoreLimitsBuilder, TrapCode, Val,
};

use super::host;
use super::observed::{IMPORT, MEMORY_ITSELF};
use crate::MEMORY;

/// Maximum to which WAMR lets a table grow, whatever it declares. Larger ones are not compared.
const ELEMENTS: usize = 1024;
/// Maximum of instructions in a call; more is not compared.
const FUEL: u64 = 3_000_000;

/// How a call ended there.
pub(crate) enum End {
    Results(Vec<u64>),
    Trap(TrapKind),
    /// Not to be compared: out of fuel, or of stack.
    Unknown,
}

/// A host function that refuses, or finds no memory where it is to write.
#[derive(Debug)]
struct Refused(TrapKind);

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl HostError for Refused {}

pub(crate) struct Oracle {
    engine: Engine,
    linker: Linker<StoreLimits>,
}

/// An instance there.
pub(crate) struct Other {
    store: Store<StoreLimits>,
    instance: Instance,
}

impl Oracle {
    pub(crate) fn new() -> Self {
        let mut config = Config::default();
        config
            .consume_fuel(true)
            .wasm_tail_call(false)
            .wasm_extended_const(false)
            .wasm_multi_memory(false)
            .wasm_custom_page_sizes(false)
            .wasm_wide_arithmetic(false);
        let engine = Engine::new(&config);
        let linker = link(&engine).expect("the host functions are linked");
        Self { engine, linker }
    }

    /// Instantiates, and runs the start function; `Err` with how that ended, `None` where the module
    /// is not taken.
    pub(crate) fn instantiate(&self, wasm: &[u8]) -> Option<Result<Other, End>> {
        let module = Module::new(&self.engine, wasm).ok()?;
        let limits = StoreLimitsBuilder::new()
            .memory_size(MEMORY as usize)
            .table_elements(ELEMENTS)
            .build();
        let mut store = Store::new(&self.engine, limits);
        store.limiter(|limits| limits);
        store.set_fuel(FUEL).ok()?;
        let made = self.linker.instantiate_and_start(&mut store, &module);
        Some(match made {
            Ok(instance) => Ok(Other { store, instance }),
            Err(error) => Err(end(&error)),
        })
    }
}

impl Other {
    pub(crate) fn call(&mut self, name: &str, args: &[Value]) -> Option<End> {
        let function = self.instance.get_func(&self.store, name)?;
        let count = function.ty(&self.store).results().len();
        let args: Vec<Val> = args.iter().map(value).collect();
        let mut results = vec![Val::I32(0); count];
        self.store.set_fuel(FUEL).ok()?;
        Some(match function.call(&mut self.store, &args, &mut results) {
            Ok(()) => End::Results(results.iter().map(bits).collect()),
            Err(error) => end(&error),
        })
    }

    /// The memory's length, and a number made of what is in it.
    pub(crate) fn memory(&self) -> Option<(u32, u64)> {
        let memory = self.instance.get_memory(&self.store, MEMORY_ITSELF)?;
        let bytes = memory.data(&self.store);
        Some((bytes.len() as u32, host::sum(bytes)))
    }
}

fn end(error: &Error) -> End {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return End::Trap(refused.0);
    }
    let Some(code) = error.as_trap_code() else {
        return End::Unknown;
    };
    End::Trap(match code {
        TrapCode::UnreachableCodeReached => TrapKind::Unreachable,
        TrapCode::MemoryOutOfBounds => TrapKind::MemoryOutOfBounds,
        TrapCode::TableOutOfBounds => TrapKind::TableOutOfBounds,
        TrapCode::IndirectCallToNull => TrapKind::UndefinedElement,
        TrapCode::IntegerDivisionByZero => TrapKind::IntegerDivideByZero,
        TrapCode::IntegerOverflow => TrapKind::IntegerOverflow,
        TrapCode::BadConversionToInteger => TrapKind::InvalidConversion,
        TrapCode::BadSignature => TrapKind::IndirectCallMismatch,
        _ => return End::Unknown,
    })
}

fn value(value: &Value) -> Val {
    match *value {
        Value::I32(n) => Val::I32(n),
        Value::I64(n) => Val::I64(n),
        Value::F32(n) => Val::F32(wasmi::F32::from_bits(n.to_bits())),
        Value::F64(n) => Val::F64(wasmi::F64::from_bits(n.to_bits())),
    }
}

fn bits(value: &Val) -> u64 {
    match value {
        Val::I32(n) => u64::from(*n as u32),
        Val::I64(n) => *n as u64,
        Val::F32(n) => n.to_bits().into(),
        Val::F64(n) => n.to_bits(),
        _ => u64::MAX,
    }
}

fn refused(kind: TrapKind) -> Error {
    Error::host(Refused(kind))
}

/// The memory that observed modules export.
fn memory(caller: &Caller<'_, StoreLimits>) -> Option<Memory> {
    caller.get_export(MEMORY_ITSELF)?.into_memory()
}

fn read(caller: Caller<'_, StoreLimits>, at: u32, len: u32) -> Result<u32, Error> {
    let len = len.min(64) as usize;
    let bytes = memory(&caller).map(|memory| memory.data(&caller).to_vec());
    let bytes = bytes.unwrap_or_default();
    if len == 0 {
        return Ok(0);
    }
    let end = at as usize + len;
    let bytes = bytes.get(at as usize..end);
    let bytes = bytes.ok_or_else(|| refused(TrapKind::MemoryOutOfBounds))?;
    Ok(bytes.iter().map(|byte| u32::from(*byte)).sum())
}

fn write(caller: &mut Caller<'_, StoreLimits>, at: u32, bytes: &[u8]) -> Result<(), Error> {
    let to = memory(caller).map(|memory| memory.data_mut(&mut *caller));
    let to = to.and_then(|data| data.get_mut(at as usize..at as usize + bytes.len()));
    to.ok_or_else(|| refused(TrapKind::MemoryOutOfBounds))?
        .copy_from_slice(bytes);
    Ok(())
}

fn link(engine: &Engine) -> Result<Linker<StoreLimits>, wasmi::errors::LinkerError> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("env", "read", read)?;
    linker.func_wrap(
        "env",
        "poke",
        |mut caller: Caller<'_, StoreLimits>, at: u32, word: u32| {
            write(&mut caller, at, &word.to_le_bytes())
        },
    )?;
    linker.func_wrap("env", "wait", |n: u32| n >> 2)?;
    linker.func_wrap(
        "env",
        "hold",
        |mut caller: Caller<'_, StoreLimits>, word: u64, at: u32| {
            write(&mut caller, at, &word.to_le_bytes())
        },
    )?;
    linker.func_wrap("env", "work", |n: u32| n)?;
    linker.func_wrap("env", "mix", |a: u64, b: wasmi::F32, c: wasmi::F64| {
        a ^ u64::from(b.to_bits()).rotate_left(7) ^ c.to_bits().rotate_left(19)
    })?;
    linker.func_wrap(IMPORT.0, IMPORT.1, || ())?;
    Ok(linker)
}
