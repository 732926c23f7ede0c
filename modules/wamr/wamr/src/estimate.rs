//! Arena bytes of a module, before anything is allocated for it.

use wamr_sys as sys;

use crate::error::{Error, ErrorKind};
use crate::module;

/// Arena bytes that a module and one instance of it take, block headers and rounding included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The module, loaded, with its buffer; once, however many instances.
    pub load: u64,
    /// Bytes that all its instances share, as long as there is one.
    pub tables: u64,
    /// The instance, without its linear memory.
    pub instance: u64,
    /// Of the tables, what an instance that is not the first has a copy of while it is made.
    pub copy: u64,
    /// Bytes that a call keeps when it is left, as far as they are known beforehand.
    pub call: u64,
    /// The linear memory.
    pub memory: MemoryNeeds,
}

/// Arena bytes that a linear memory takes. Where memories are flat, all are the same: the memory, in one
/// piece of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeeds {
    /// When the instance is made: its tables, the pages that data segments write to, and the first page of the
    /// guest's own stack, where the module has one. The guest takes more as it writes.
    pub made: u64,
    /// With all pages that it declares, which an instance takes that is committed.
    pub committed: u64,
}

impl From<sys::MemoryNeed> for MemoryNeeds {
    fn from(need: sys::MemoryNeed) -> Self {
        Self {
            made: need.made.into(),
            committed: need.committed.into(),
        }
    }
}

impl Needs {
    /// All of it, as it is when an instance has been made.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.load + self.tables + self.instance + self.call + self.memory.made
    }
}

/// Estimates what the module in `wasm` takes from its sections' counts alone: nothing is allocated,
/// and no code is read. What a call keeps is not in it.
///
/// It is an upper bound, and exceeds the truth by little; what the module really takes is known after
/// loading, by [`Module::needs`](crate::Module::needs), and only then what its linear memory does. Two more
/// things are not in it. While loading, WAMR takes about 1 KiB more for the time being, some 100 bytes
/// for each level of nesting and up to 16 bytes for each function. And a `br_table` in more than 255 nested
/// blocks keeps 4 bytes for each label.
///
/// # Errors
/// [`ErrorKind::BadModule`] where the sections can't be followed; loading would refuse it too.
pub fn estimate(wasm: &[u8]) -> Result<Needs, Error> {
    if !wasm.starts_with(MAGIC) {
        return Err(no_module(wasm));
    }
    let sizes = sizes();
    let mut tally = Tally::default();
    if tally.module(wasm, &sizes).is_none() {
        let text = format_args!("the module's sections can't be followed");
        return Err(Error::new(ErrorKind::BadModule, text));
    }
    Ok(Needs {
        load: block(wasm.len() as u64) + module::inner_bytes() + tally.load(&sizes),
        tables: tally.tables(&sizes),
        instance: tally.instance(&sizes),
        copy: tally.copy(&sizes),
        call: 0,
        memory: MemoryNeeds::default(),
    })
}

/// Begins each module, with the version that WAMR loads.
const MAGIC: &[u8] = b"\0asm\x01\0\0\0";

#[cold]
fn no_module(bytes: &[u8]) -> Error {
    let (start, _) = bytes.split_at(bytes.len().min(MAGIC.len()));
    let text =
        format_args!("not a WebAssembly module: it begins with {start:02x?}, not {MAGIC:02x?}");
    Error::new(ErrorKind::BadModule, text)
}

/// Bytes of the pages that linear memories are made of, in this build; 0 where a memory is one block.
#[must_use]
pub fn page_bytes() -> u32 {
    sizes().small_page
}

pub(crate) fn sizes() -> sys::Sizes {
    let mut sizes = sys::Sizes::default();
    // SAFETY: `sizes` is valid for writing; the function only writes constants.
    unsafe { sys::wamr_get_sizes(&raw mut sizes) };
    sizes
}

/// A block for `len` bytes.
pub(crate) const fn block(len: u64) -> u64 {
    if len == 0 {
        0
    } else {
        (len + sys::BLOCK_HEADER as u64).next_multiple_of(sys::BLOCK_ALIGN as u64)
    }
}

/// Bytes that are kept of a call with `bytes` on the stack.
pub(crate) fn call(stack_bytes: u32) -> u64 {
    block(u64::from(stack_bytes))
}

/// An array of `count` things of `size` bytes each.
fn array(count: u64, size: u32) -> u64 {
    block(count * u64::from(size))
}

/// Content of the sections.
#[derive(Default)]
struct Tally {
    types: u64,
    type_bytes: u64,
    /// The most parameters of any type: a function's own type is not looked up.
    most_params: u64,
    imports: u64,
    imported_functions: u64,
    functions: u64,
    function_bytes: u64,
    tables: u64,
    table_slots_least: u64,
    table_slots_most: u64,
    table_grow: bool,
    memories: u64,
    globals: u64,
    global_bytes: u64,
    exports: u64,
    exported_functions: u64,
    element_segments: u64,
    element_bytes: u64,
    data_segments: u64,
}

impl Tally {
    fn load(&self, sizes: &sys::Sizes) -> u64 {
        block(u64::from(sizes.module))
            + array(self.types, sizes.pointer)
            + self.type_bytes
            + array(self.imports, sizes.import)
            + array(self.functions, sizes.pointer)
            + self.function_bytes
            + array(self.tables, sizes.table)
            + array(self.memories, sizes.memory)
            + array(self.globals, sizes.global)
            + array(self.exports, sizes.export)
            + array(self.element_segments, sizes.element_segment)
            + self.element_bytes
            + array(self.data_segments, sizes.pointer)
            + self.data_segments * block(u64::from(sizes.data_segment))
    }

    /// As `wamr_instance_needs`, from counts instead of a loaded module.
    fn instance(&self, sizes: &sys::Sizes) -> u64 {
        let slots = if self.table_grow {
            self.table_slots_most
        } else {
            self.table_slots_least
        };
        let body = u64::from(sizes.instance)
            + self.memories * u64::from(sizes.memory_instance)
            + self.global_bytes
            + self.tables * u64::from(sizes.table_instance)
            + slots * u64::from(sizes.table_slot);
        let bitmap = |bits: u64| match bits {
            0 => 0,
            bits => block(u64::from(sizes.bitmap) + bits.div_ceil(8)),
        };
        block(body.next_multiple_of(8) + u64::from(sizes.instance_extra))
            + bitmap(self.data_segments)
            + bitmap(self.element_segments)
            + array(self.memories, sizes.pointer)
            + array(self.tables, sizes.pointer)
    }

    /// As `wamr_tables_need`.
    fn tables(&self, sizes: &sys::Sizes) -> u64 {
        let functions = self.imported_functions + self.functions;
        array(functions, sizes.function_instance)
            + array(self.imported_functions, sizes.pointer)
            + array(self.exported_functions, sizes.export_function)
            + self.copy(sizes)
    }

    /// As `wamr_copy_needs`.
    fn copy(&self, sizes: &sys::Sizes) -> u64 {
        array(self.globals, sizes.global_instance)
    }

    /// `None` where the bytes are no sections.
    fn module(&mut self, wasm: &[u8], sizes: &sys::Sizes) -> Option<()> {
        let mut rest = Reader(wasm.strip_prefix(MAGIC)?);
        while !rest.0.is_empty() {
            let id = rest.byte()?;
            let len = rest.leb()?;
            let mut section = Reader(rest.take(len)?);
            // The custom section is the only one that doesn't begin with a count.
            if id != 0 {
                self.section(id, &mut section, sizes)?;
            }
        }
        Some(())
    }

    fn section(&mut self, id: u8, section: &mut Reader<'_>, sizes: &sys::Sizes) -> Option<()> {
        let count = section.leb()?;
        match id {
            1 => self.types = count,
            2 => self.imports = count,
            3 => self.functions = count,
            4 => self.tables = count,
            5 => self.memories = count,
            6 => self.globals = count,
            7 => self.exports = count,
            9 => self.element_segments = count,
            10 => self.table_grow = section.0.windows(2).any(|pair| pair == TABLE_GROW),
            11 => self.data_segments = count,
            _ => return Some(()),
        }
        for _ in 0..count {
            match id {
                1 => self.function_type(section, sizes)?,
                2 => self.import(section)?,
                4 => self.table(section, sizes)?,
                6 => self.global(section)?,
                7 => self.export(section)?,
                9 => self.element_segment(section, sizes)?,
                10 => self.body(section, sizes)?,
                _ => break,
            }
        }
        Some(())
    }

    fn function_type(&mut self, section: &mut Reader<'_>, sizes: &sys::Sizes) -> Option<()> {
        section.byte()?;
        let params = section.leb()?;
        section.take(params)?;
        let results = section.leb()?;
        section.take(results)?;
        self.most_params = self.most_params.max(params);
        self.type_bytes += block(u64::from(sizes.function_type) + params + results);
        Some(())
    }

    fn import(&mut self, section: &mut Reader<'_>) -> Option<()> {
        section.name()?;
        section.name()?;
        match section.byte()? {
            0 => {
                section.leb()?;
                self.imported_functions += 1;
            }
            1 => {
                section.byte()?;
                section.limits()?;
            }
            2 => {
                section.limits()?;
            }
            _ => {
                section.take(2)?;
            }
        }
        Some(())
    }

    fn table(&mut self, section: &mut Reader<'_>, sizes: &sys::Sizes) -> Option<()> {
        section.byte()?;
        let (least, most) = section.limits()?;
        let bound = (2 * least).max(u64::from(sizes.table_slots_default));
        self.table_slots_least += least;
        self.table_slots_most += most.unwrap_or(bound).min(bound).max(least);
        Some(())
    }

    fn global(&mut self, section: &mut Reader<'_>) -> Option<()> {
        let wide = matches!(section.byte()?, 0x7e | 0x7c);
        section.byte()?;
        section.const_expr()?;
        self.global_bytes += if wide { 8 } else { 4 };
        Some(())
    }

    fn export(&mut self, section: &mut Reader<'_>) -> Option<()> {
        section.name()?;
        self.exported_functions += u64::from(section.byte()? == 0);
        section.leb()?;
        Some(())
    }

    fn element_segment(&mut self, section: &mut Reader<'_>, sizes: &sys::Sizes) -> Option<()> {
        let flags = section.leb()?;
        let (passive, explicit, expressions) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        if !passive {
            if explicit {
                section.leb()?;
            }
            section.const_expr()?;
        }
        if passive || explicit {
            section.byte()?;
        }
        let count = section.leb()?;
        for _ in 0..count {
            if expressions {
                section.const_expr()?;
            } else {
                section.leb()?;
            }
        }
        self.element_bytes += array(count, sizes.element);
        Some(())
    }

    fn body(&mut self, section: &mut Reader<'_>, sizes: &sys::Sizes) -> Option<()> {
        let len = section.leb()?;
        let mut body = Reader(section.take(len)?);
        let mut locals = 0u64;
        for _ in 0..body.leb()? {
            locals += body.leb()?;
            body.byte()?;
        }
        self.function_bytes +=
            block(u64::from(sizes.function) + locals) + block(2 * (self.most_params + locals));
        Some(())
    }
}

/// The opcode `table.grow`. Its bytes may stand for something else: then the estimate is higher.
const TABLE_GROW: [u8; 2] = [0xfc, 0x0f];

/// Reads a module's bytes; `None` where they end too soon.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// An unsigned number of at most 32 bits.
    fn leb(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok().map(u64::from);
            }
        }
        None
    }

    /// The bytes of a number of any width.
    fn skip_leb(&mut self) -> Option<()> {
        while self.byte()? & 0x80 != 0 {}
        Some(())
    }

    fn name(&mut self) -> Option<()> {
        let len = self.leb()?;
        self.take(len).map(drop)
    }

    /// Minimum and maximum.
    fn limits(&mut self) -> Option<(u64, Option<u64>)> {
        let flags = self.byte()?;
        let least = self.leb()?;
        Some((
            least,
            if flags & 1 != 0 {
                Some(self.leb()?)
            } else {
                None
            },
        ))
    }

    /// Up to and with its `end`.
    fn const_expr(&mut self) -> Option<()> {
        loop {
            match self.byte()? {
                0x0b => return Some(()),
                // i32.const, i64.const, global.get, ref.func
                0x41 | 0x42 | 0x23 | 0xd2 => self.skip_leb()?,
                0x43 => self.take(4).map(drop)?,
                0x44 => self.take(8).map(drop)?,
                // ref.null
                0xd0 => self.byte().map(drop)?,
                _ => return None,
            }
        }
    }
}
