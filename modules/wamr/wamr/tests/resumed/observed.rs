//! Makes the state of a module's instances visible: for each global and each table an exported function
//! that tells about it, and an import, exported again, by which the host reads the memory.

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    BlockType, CodeSection, DataCountSection, DataSection, ElementSection, EntityType, ExportKind,
    ExportSection, Function, FunctionSection, GlobalSection, ImportSection, Instruction,
    MemorySection, Module, StartSection, TableSection, TypeSection, ValType,
};
use wasmparser::{Parser, Payload, TypeRef, Validator, WasmFeatures};

/// The export by which the host reads the memory; not in a module without one.
pub(crate) const MEMORY: &str = "~memory";
/// The memory's export, for the other engine.
pub(crate) const MEMORY_ITSELF: &str = "~";
/// The host function behind [`MEMORY`]: module and name.
pub(crate) const IMPORT: (&str, &str) = ("env", "~memory");

/// Features that this WAMR takes.
pub(crate) fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::CALL_INDIRECT_OVERLONG
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::BULK_MEMORY_OPT
        | WasmFeatures::FLOATS
        | WasmFeatures::GC_TYPES
}

/// The module with its observers, and their names; `None` for what is no valid module.
pub(crate) fn observed(wasm: &[u8]) -> Option<(Vec<u8>, Vec<String>)> {
    Validator::new_with_features(features())
        .validate_all(wasm)
        .ok()?;
    Observer::read(wasm).ok().map(Observer::finish)
}

/// Copies a module. The import comes behind all others, so the module's own functions move by one.
#[derive(Default)]
struct Observer {
    types: TypeSection,
    imports: ImportSection,
    functions: FunctionSection,
    tables: TableSection,
    memories: MemorySection,
    globals: GlobalSection,
    exports: ExportSection,
    start: Option<u32>,
    elements: ElementSection,
    data_count: Option<u32>,
    code: CodeSection,
    data: DataSection,
    imported: u32,
    own: u32,
    has_memory: bool,
    global_types: Vec<wasmparser::ValType>,
    table_count: u32,
}

impl Reencode for Observer {
    type Error = core::convert::Infallible;

    fn function_index(&mut self, index: u32) -> Result<u32, Error<Self::Error>> {
        Ok(index + u32::from(index >= self.imported))
    }
}

impl Observer {
    fn read(wasm: &[u8]) -> Result<Self, Error<core::convert::Infallible>> {
        let mut observer = Self::default();
        for payload in Parser::new(0).parse_all(wasm) {
            observer.copy(payload?)?;
        }
        Ok(observer)
    }

    /// Each section is taken out of `self` meanwhile, which is what it is copied by.
    fn copy(&mut self, payload: Payload<'_>) -> Result<(), Error<core::convert::Infallible>> {
        macro_rules! copy {
            ($section:ident, $parse:ident, $reader:expr) => {{
                let mut section = core::mem::take(&mut self.$section);
                self.$parse(&mut section, $reader)?;
                self.$section = section;
            }};
        }
        match payload {
            Payload::TypeSection(s) => copy!(types, parse_type_section, s),
            Payload::ImportSection(s) => {
                for import in s.clone().into_imports() {
                    self.imported += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                }
                copy!(imports, parse_import_section, s);
            }
            Payload::FunctionSection(s) => {
                self.own = s.count();
                copy!(functions, parse_function_section, s);
            }
            Payload::TableSection(s) => {
                self.table_count = s.count();
                copy!(tables, parse_table_section, s);
            }
            Payload::MemorySection(s) => {
                self.has_memory = s.count() > 0;
                copy!(memories, parse_memory_section, s);
            }
            Payload::GlobalSection(s) => {
                for global in s.clone() {
                    self.global_types.push(global?.ty.content_type);
                }
                copy!(globals, parse_global_section, s);
            }
            Payload::ExportSection(s) => copy!(exports, parse_export_section, s),
            Payload::StartSection { func, .. } => self.start = Some(self.function_index(func)?),
            Payload::ElementSection(s) => copy!(elements, parse_element_section, s),
            Payload::DataCountSection { count, .. } => self.data_count = Some(count),
            Payload::CodeSectionEntry(body) => {
                let mut section = core::mem::take(&mut self.code);
                self.parse_function_body(&mut section, body)?;
                self.code = section;
            }
            Payload::DataSection(s) => copy!(data, parse_data_section, s),
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, name: String, result: ValType, function: &Function) -> String {
        let (types, index) = (self.types.len(), self.imported + 1 + self.functions.len());
        self.types.ty().function([], [result]);
        self.functions.function(types);
        self.code.function(function);
        self.exports.export(&name, ExportKind::Func, index);
        name
    }

    fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        let mut names = Vec::new();
        let ty = self.types.len();
        self.types.ty().function([], []);
        self.imports
            .import(IMPORT.0, IMPORT.1, EntityType::Function(ty));
        if self.has_memory {
            self.exports
                .export(MEMORY_ITSELF, ExportKind::Memory, 0)
                .export(MEMORY, ExportKind::Func, self.imported);
        }
        for (i, ty) in (0..).zip(core::mem::take(&mut self.global_types)) {
            let (result, function) = global_observer(i, ty);
            names.push(self.add(format!("~g{i}"), result, &function));
        }
        for i in 0..self.table_count {
            names.push(self.add(format!("~t{i}"), ValType::I64, &table_observer(i)));
        }
        (self.encode(), names)
    }

    fn encode(self) -> Vec<u8> {
        let mut module = Module::new();
        module
            .section(&self.types)
            .section(&self.imports)
            .section(&self.functions)
            .section(&self.tables)
            .section(&self.memories)
            .section(&self.globals)
            .section(&self.exports);
        if let Some(function_index) = self.start {
            module.section(&StartSection { function_index });
        }
        module.section(&self.elements);
        if let Some(count) = self.data_count {
            module.section(&DataCountSection { count });
        }
        module.section(&self.code).section(&self.data);
        module.finish()
    }
}

/// The value of a number; of a reference, whether it is null.
fn global_observer(index: u32, ty: wasmparser::ValType) -> (ValType, Function) {
    let mut function = Function::new([]);
    function.instruction(&Instruction::GlobalGet(index));
    let result = match ty {
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::Ref(_) => {
            function.instruction(&Instruction::RefIsNull);
            ValType::I32
        }
        _ => ValType::I32,
    };
    function.instruction(&Instruction::End);
    (result, function)
}

/// A number made of which elements are null, and how many there are.
fn table_observer(table: u32) -> Function {
    let (i, sum) = (0, 1);
    let mut function = Function::new([(1, ValType::I32), (1, ValType::I64)]);
    for instruction in [
        Instruction::I64Const(1),
        Instruction::LocalSet(sum),
        Instruction::Block(BlockType::Empty),
        Instruction::Loop(BlockType::Empty),
        Instruction::LocalGet(i),
        Instruction::TableSize(table),
        Instruction::I32GeU,
        Instruction::BrIf(1),
        Instruction::LocalGet(sum),
        Instruction::I64Const(3),
        Instruction::I64Mul,
        Instruction::LocalGet(i),
        Instruction::TableGet(table),
        Instruction::RefIsNull,
        Instruction::I64ExtendI32U,
        Instruction::I64Add,
        Instruction::LocalSet(sum),
        Instruction::LocalGet(i),
        Instruction::I32Const(1),
        Instruction::I32Add,
        Instruction::LocalSet(i),
        Instruction::Br(0),
        Instruction::End,
        Instruction::End,
        Instruction::LocalGet(sum),
        Instruction::End,
    ] {
        function.instruction(&instruction);
    }
    function
}
