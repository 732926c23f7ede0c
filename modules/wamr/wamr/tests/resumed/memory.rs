//! Samples that do little else than access their memory, near the ends of small pages, of Wasm pages
//! and of the memory. Most accesses are in bounds: a trap ends a call, and what it would have done.

use core::mem::discriminant;

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataCountSection, DataSection, EntityType, ExportKind,
    ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection,
    Instruction, MemArg, MemArgTarget, MemorySection, MemoryType, Module, TypeSection, ValType,
};
use wasm_smith::{Config, InstructionKind, InstructionKinds};

use super::generate;
use crate::samples::Random;

type Access = (fn(MemArg) -> Instruction<'static>, ValType, u32);

const LOADS: [Access; 14] = [
    (Instruction::I32Load, ValType::I32, 4),
    (Instruction::I64Load, ValType::I64, 8),
    (Instruction::F32Load, ValType::F32, 4),
    (Instruction::F64Load, ValType::F64, 8),
    (Instruction::I32Load8S, ValType::I32, 1),
    (Instruction::I32Load8U, ValType::I32, 1),
    (Instruction::I32Load16S, ValType::I32, 2),
    (Instruction::I32Load16U, ValType::I32, 2),
    (Instruction::I64Load8S, ValType::I64, 1),
    (Instruction::I64Load8U, ValType::I64, 1),
    (Instruction::I64Load16S, ValType::I64, 2),
    (Instruction::I64Load16U, ValType::I64, 2),
    (Instruction::I64Load32S, ValType::I64, 4),
    (Instruction::I64Load32U, ValType::I64, 4),
];

const STORES: [Access; 9] = [
    (Instruction::I32Store, ValType::I32, 4),
    (Instruction::I64Store, ValType::I64, 8),
    (Instruction::F32Store, ValType::F32, 4),
    (Instruction::F64Store, ValType::F64, 8),
    (Instruction::I32Store8, ValType::I32, 1),
    (Instruction::I32Store16, ValType::I32, 2),
    (Instruction::I64Store8, ValType::I64, 1),
    (Instruction::I64Store16, ValType::I64, 2),
    (Instruction::I64Store32, ValType::I64, 4),
];

/// Imports of the samples, in this order: name, parameters, results.
const IMPORTED: [(&str, &[ValType], &[ValType]); 4] = [
    ("read", &[ValType::I32, ValType::I32], &[ValType::I32]),
    ("poke", &[ValType::I32, ValType::I32], &[]),
    ("hold", &[ValType::I64, ValType::I32], &[]),
    ("wait", &[ValType::I32], &[ValType::I32]),
];
const READ: u32 = 0;
const POKE: u32 = 1;
const HOLD: u32 = 2;
const WAIT: u32 = 3;
const FUNCTIONS: u32 = 3;

const GRAINS: [u32; 5] = [512, 1024, 2048, 4096, 65_536];

/// A module whose calls and memory are as in the other engine, or one of us is wrong.
pub(crate) fn generated(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => of_smith(random),
        _ => of_accesses(random),
    }
}

fn one_of<T: Copy>(random: &mut Random, all: &[T]) -> T {
    all[random.below(all.len())]
}

/// A multiple of a page's size, within `wasm_pages`, or up to nine bytes beside it.
fn near(random: &mut Random, wasm_pages: u32) -> u32 {
    let grain = one_of(random, &GRAINS);
    let at = random.below((wasm_pages * 65_536 / grain) as usize) as u32 * grain;
    (at + random.below(19) as u32).saturating_sub(9)
}

fn arg(offset: u64, align: u32) -> MemArg {
    MemArg {
        offset,
        align,
        target: MemArgTarget::Memory(0),
        ordering: None,
    }
}

/// A function's body, with its first argument in local 0 and a counter in local 1. What is loaded
/// goes into global 0, so that it is seen even if a trap follows.
struct Body<'r> {
    random: &'r mut Random,
    function: Function,
    /// Wasm pages that there are at least.
    pages: u32,
    max: u32,
    /// To come back to what was written.
    places: &'r [u32],
    segments: &'r [(Option<u32>, Vec<u8>)],
    /// Factor of the counter of a loop, and the maximum of the product; 0 outside of one.
    stride: u32,
    span: u32,
}

impl Body<'_> {
    fn add(&mut self, all: &[Instruction<'_>]) {
        for instruction in all {
            self.function.instruction(instruction);
        }
    }

    fn number(&mut self, n: u32) {
        self.add(&[Instruction::I32Const(n.cast_signed())]);
    }

    /// A place in bounds for eight bytes and a loop's way, nearly always.
    fn place(&mut self) -> u32 {
        let place = match self.random.below(2) {
            0 => near(self.random, self.pages),
            _ => one_of(self.random, self.places) + self.random.below(9) as u32,
        };
        let room = (self.span + 15) * u32::from(self.random.below(100) > 0);
        place.min((self.pages * 65_536).saturating_sub(room))
    }

    /// An address; returns the static offset that goes with it.
    fn address(&mut self, width: u32) -> u64 {
        if self.random.below(12) == 0 {
            let beyond = u32::from(self.random.below(40) == 0);
            let bytes = width - beyond + self.random.below(2) as u32;
            self.number_from_end(bytes);
            return 0;
        }
        let place = self.place();
        let offset = match self.random.below(300) {
            0..40 => self.random.below(9) as u32,
            40..80 => near(self.random, self.pages),
            // The sum is beyond 4 GiB.
            80 => u32::MAX - self.random.below(9) as u32,
            _ => 0,
        };
        let offset = if offset >> 31 > 0 {
            self.number(place);
            offset
        } else {
            self.number(place.saturating_sub(offset));
            offset.min(place)
        };
        if self.span > 0 {
            self.add(&[
                Instruction::LocalGet(1),
                Instruction::I32Const(self.stride.cast_signed()),
                Instruction::I32Mul,
                Instruction::I32Add,
            ]);
        } else if self.random.below(4) == 0 {
            self.add(&[
                Instruction::LocalGet(0),
                Instruction::I32Const(7),
                Instruction::I32And,
                Instruction::I32Add,
            ]);
        }
        offset.into()
    }

    /// The address `bytes` before the memory's end, wherever that is.
    fn number_from_end(&mut self, bytes: u32) {
        self.add(&[
            Instruction::MemorySize(0),
            Instruction::I32Const(16),
            Instruction::I32Shl,
            Instruction::I32Const(bytes.cast_signed()),
            Instruction::I32Sub,
        ]);
    }

    fn arg(&mut self, width: u32, offset: u64) -> MemArg {
        arg(offset, self.random.below(width.ilog2() as usize + 1) as u32)
    }

    /// Notes the topmost operand.
    fn note(&mut self, ty: ValType) {
        match ty {
            ValType::I32 => self.add(&[Instruction::I64ExtendI32U]),
            ValType::F32 => {
                self.add(&[Instruction::I32ReinterpretF32, Instruction::I64ExtendI32U]);
            }
            ValType::F64 => self.add(&[Instruction::I64ReinterpretF64]),
            _ => {}
        }
        self.add(&[
            Instruction::GlobalGet(0),
            Instruction::I64Const(7),
            Instruction::I64Rotl,
            Instruction::I64Xor,
            Instruction::GlobalSet(0),
        ]);
    }

    fn load(&mut self) {
        let (load, ty, width) = one_of(self.random, &LOADS);
        let offset = self.address(width);
        let arg = self.arg(width, offset);
        self.add(&[load(arg)]);
        self.note(ty);
    }

    fn store(&mut self) {
        let (store, ty, width) = one_of(self.random, &STORES);
        let offset = self.address(width);
        match self.random.below(3) {
            0 => self.add(&[Instruction::GlobalGet(0)]),
            _ => {
                let value = self.random.next().cast_signed();
                self.add(&[Instruction::I64Const(value)]);
            }
        }
        match ty {
            ValType::I32 => self.add(&[Instruction::I32WrapI64]),
            ValType::F32 => self.add(&[Instruction::I32WrapI64, Instruction::F32ReinterpretI32]),
            ValType::F64 => self.add(&[Instruction::F64ReinterpretI64]),
            _ => {}
        }
        let arg = self.arg(width, offset);
        self.add(&[store(arg)]);
    }

    /// Bytes that fit behind both places, nearly always.
    fn len(&mut self, at: u32, other: u32) -> u32 {
        let most = one_of(self.random, &[20, 3000, 90_000]);
        let len = self.random.below(most) as u32;
        match self.random.below(60) {
            0 => len,
            _ => len.min(self.pages * 65_536 - at.max(other)),
        }
    }

    fn fill(&mut self) {
        let at = self.place();
        let (value, len) = (self.random.below(3) as u32 * 0x155, self.len(at, at));
        for n in [at, value, len] {
            self.number(n);
        }
        self.add(&[Instruction::MemoryFill(0)]);
    }

    fn copy(&mut self) {
        let to = self.place();
        let beside = match self.random.below(3) {
            0 => self.random.below(40) as u32,
            1 => one_of(self.random, &GRAINS) + self.random.below(5) as u32 - 2,
            _ => 0,
        };
        let from = match self.random.below(2) {
            _ if beside == 0 => self.place(),
            0 => to.saturating_sub(beside),
            _ => (to + beside).min(self.pages * 65_536),
        };
        let len = self.len(to, from);
        for n in [to, from, len] {
            self.number(n);
        }
        self.add(&[Instruction::MemoryCopy {
            src_mem: 0,
            dst_mem: 0,
        }]);
    }

    fn init(&mut self) {
        let segment = self.random.below(self.segments.len());
        let all = self.segments[segment].1.len();
        let to = self.place();
        let from = self.random.below(all + 1);
        // Dropped ones have nothing, active ones neither.
        let rest = match self.segments[segment].0 {
            Some(_) if self.random.below(40) > 0 => 0,
            _ => all - from + usize::from(self.random.below(60) == 0),
        };
        let from = if rest == 0 { 0 } else { from };
        let len = (self.random.below(rest + 1) as u32).min(self.pages * 65_536 - to);
        for n in [to, from as u32, len] {
            self.number(n);
        }
        let segment = segment as u32;
        self.add(&[Instruction::MemoryInit {
            mem: 0,
            data_index: segment,
        }]);
        if self.random.below(20) == 0 {
            self.add(&[Instruction::DataDrop(segment)]);
        }
    }

    fn grow(&mut self, pages: u32) {
        self.number(pages);
        self.add(&[Instruction::MemoryGrow(0)]);
        self.note(ValType::I32);
        if self.pages + pages <= self.max {
            self.pages += pages;
        }
    }

    fn call_host(&mut self) {
        match self.random.below(4) {
            0 => {
                let offset = self.address(8);
                let len = if offset > 0 { 0 } else { 8 };
                self.number(len);
                self.add(&[Instruction::Call(READ)]);
                self.note(ValType::I32);
            }
            1 => {
                let _ = self.address(4);
                self.add(&[Instruction::I32Const(0x1234_5678), Instruction::Call(POKE)]);
            }
            2 => {
                self.add(&[Instruction::GlobalGet(0)]);
                let _ = self.address(8);
                self.add(&[Instruction::Call(HOLD)]);
            }
            _ => self.add(&[
                Instruction::I32Const(7),
                Instruction::Call(WAIT),
                Instruction::Drop,
            ]),
        }
    }

    /// A place where the call can be left: a line without a branch has no such place.
    fn branch(&mut self) {
        self.add(&[
            Instruction::Block(BlockType::Empty),
            Instruction::Br(0),
            Instruction::End,
        ]);
    }

    /// A few operations, again and again at addresses that grow.
    fn looped(&mut self) {
        let grain = one_of(self.random, &GRAINS[..4]);
        let stride = match self.random.below(4) {
            0 => grain,
            1 => grain * 16 % 65_536,
            2 => grain - 1,
            _ => 1 + self.random.below(600) as u32,
        };
        let most = (self.pages * 65_536 / stride.max(1)).min(60) as usize;
        let rounds = 1 + self.random.below(most) as i32;
        (self.stride, self.span) = (stride, stride * rounds.cast_unsigned());
        self.add(&[
            Instruction::I32Const(0),
            Instruction::LocalSet(1),
            Instruction::Loop(BlockType::Empty),
        ]);
        for _ in 0..=self.random.below(3) {
            match self.random.below(2) {
                0 => self.load(),
                _ => self.store(),
            }
        }
        self.add(&[
            Instruction::LocalGet(1),
            Instruction::I32Const(1),
            Instruction::I32Add,
            Instruction::LocalTee(1),
            Instruction::I32Const(rounds),
            Instruction::I32LtU,
            Instruction::BrIf(0),
            Instruction::End,
        ]);
        self.span = 0;
    }

    fn operation(&mut self) {
        match self.random.below(100) {
            0..25 => self.load(),
            25..55 => self.store(),
            55..65 => self.copy(),
            65..72 => self.fill(),
            72..77 => self.init(),
            77..80 => {
                let pages = self.random.below(3) as u32;
                self.grow(pages);
            }
            80..83 => {
                self.add(&[Instruction::MemorySize(0)]);
                self.note(ValType::I32);
            }
            83..90 => self.call_host(),
            _ => self.looped(),
        }
        if self.random.below(3) == 0 {
            self.branch();
        }
    }
}

/// Segments of all sizes up to some pages: where each is written, or `None` for a passive one.
fn segments(random: &mut Random, pages: u32) -> Vec<(Option<u32>, Vec<u8>)> {
    let one = |random: &mut Random| {
        let most = one_of(random, &[1, 40, 6000]);
        let bytes: Vec<u8> = (0..random.below(most))
            .map(|_| random.next() as u8 | 1)
            .collect();
        let beyond = u32::from(random.below(60) == 0);
        let last = (pages * 65_536 + beyond).saturating_sub(bytes.len() as u32);
        let at = (pages > 0 && random.below(2) > 0).then(|| near(random, pages).min(last));
        (at.map(|at| at.max(last * beyond)), bytes)
    };
    (0..=random.below(4)).map(|_| one(random)).collect()
}

fn of_accesses(random: &mut Random) -> Vec<u8> {
    let pages = one_of(random, &[0, 1, 1, 1, 2, 3]);
    let max = pages + random.below(4) as u32;
    let segments = segments(random, pages);
    let places: Vec<u32> = (0..4).map(|_| near(random, pages.max(1))).collect();
    let (mut types, mut imports) = (TypeSection::new(), ImportSection::new());
    for (ty, (name, params, results)) in (0..).zip(IMPORTED) {
        types.ty().function(params.to_vec(), results.to_vec());
        imports.import("env", name, EntityType::Function(ty));
    }
    types.ty().function([ValType::I32], [ValType::I64]);
    let (mut functions, mut exports) = (FunctionSection::new(), ExportSection::new());
    let mut code = CodeSection::new();
    for i in 0..FUNCTIONS {
        functions.function(IMPORTED.len() as u32);
        let index = IMPORTED.len() as u32 + i;
        exports.export(&format!("f{i}"), ExportKind::Func, index);
        code.function(&body(random, (pages, max), &places, &segments));
    }
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: pages.into(),
        maximum: (random.below(8) > 0).then_some(max.into()),
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut globals = GlobalSection::new();
    let ty = GlobalType {
        val_type: ValType::I64,
        mutable: true,
        shared: false,
    };
    globals.global(ty, &ConstExpr::i64_const(1));
    let mut data = DataSection::new();
    for (at, bytes) in segments {
        match at {
            Some(at) => data.active(0, &ConstExpr::i32_const(at.cast_signed()), bytes),
            None => data.passive(bytes),
        };
    }
    let mut module = Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&memories)
        .section(&globals)
        .section(&exports)
        .section(&DataCountSection { count: data.len() })
        .section(&code)
        .section(&data);
    module.finish()
}

fn body(
    random: &mut Random,
    (pages, max): (u32, u32),
    places: &[u32],
    segments: &[(Option<u32>, Vec<u8>)],
) -> Function {
    let operations = 1 + random.below(60);
    let mut body = Body {
        random,
        function: Function::new([(1, ValType::I32)]),
        pages,
        max,
        places,
        segments,
        stride: 0,
        span: 0,
    };
    if pages == 0 {
        body.grow(1);
        // Nothing is in bounds if it may not grow: the first access traps.
        body.pages = 1;
    }
    for _ in 0..operations {
        body.operation();
    }
    body.add(&[Instruction::GlobalGet(0), Instruction::End]);
    body.function
}

/// One of wasm-smith's, which may trap, with what it has for addresses made such as are in bounds.
fn of_smith(random: &mut Random) -> Vec<u8> {
    let config = Config {
        disallow_traps: false,
        min_memories: 1,
        min_data_segments: 1,
        max_data_segments: 4,
        allowed_instructions: InstructionKinds::new(&[
            InstructionKind::Control,
            InstructionKind::Variable,
            InstructionKind::MemoryInt,
            InstructionKind::Memory,
        ]),
        ..generate::config(random)
    };
    let wasm = generate::of(random, &config);
    let mut module = Module::new();
    let mut near = Near(random);
    near.parse_core_module(&mut module, wasmparser::Parser::new(0), &wasm)
        .expect("what wasm-smith makes can be read");
    module.finish()
}

struct Near<'r>(&'r mut Random);

impl Reencode for Near<'_> {
    type Error = core::convert::Infallible;

    fn mem_arg(&mut self, arg: wasmparser::MemArg) -> Result<MemArg, Error<Self::Error>> {
        let mut arg = utils::mem_arg(self, arg)?;
        if self.0.below(20) > 0 {
            arg.offset %= 4099;
        }
        Ok(arg)
    }

    /// Numbers become addresses near a page's end. What is loaded from is the topmost operand, so that
    /// it can be cut to two pages.
    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: wasmparser::FunctionBody<'_>,
    ) -> Result<(), Error<Self::Error>> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let mut instruction = self.parse_instruction(&mut reader)?;
            if let Instruction::I32Const(n) = &mut instruction {
                *n = near(self.0, 2).cast_signed();
            }
            let kind = discriminant(&instruction);
            if LOADS
                .iter()
                .any(|(load, ..)| discriminant(&load(arg(0, 0))) == kind)
            {
                function.instruction(&Instruction::I32Const(0x1_ffff));
                function.instruction(&Instruction::I32And);
            }
            function.instruction(&instruction);
        }
        code.function(&function);
        Ok(())
    }
}
