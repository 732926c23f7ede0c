//! What a module will take of the arena, before anything is allocated for it.

use wamr_sys as sys;

use crate::error::{Error, ErrorKind};
use crate::module;

/// Arena bytes that a module and one instance of it take, block headers and rounding included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The module, loaded, with its buffer; once, however many instances.
    pub load: u64,
    /// What all its instances share, as long as there is one.
    pub tables: u64,
    /// The instance, without its linear memory.
    pub instance: u64,
    /// Of the tables, what an instance that is not the first has a copy of while it is made.
    pub copy: u64,
    /// What a call keeps when it is left, as far as it is known beforehand.
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
/// It is an upper bound, and exceeds the truth by little, but for data segments that are not in the
/// order of their addresses; what the module really takes is known after loading, by
/// [`Module::needs`](crate::Module::needs). Two things are not in it. While loading, WAMR takes about 1 KiB more for the time being, some 100 bytes for each level of
/// nesting and up to 16 bytes for each function. And a `br_table` in more than 255 nested blocks
/// keeps 4 bytes for each label.
///
/// # Errors
/// [`ErrorKind::BadModule`] where the sections can't be followed; loading would refuse it too.
pub fn estimate(wasm: &[u8]) -> Result<Needs, Error> {
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
        memory: tally.memory(&sizes),
    })
}

const WASM_PAGE: u64 = 65_536;

/// Types of values, as modules write them.
const I32: u8 = 0x7f;
const I64: u8 = 0x7e;
const F64: u8 = 0x7c;

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
        (len + 4).next_multiple_of(8)
    }
}

/// What is kept of a call that has so many bytes on the stack.
pub(crate) fn call(stack_bytes: u32) -> u64 {
    block(u64::from(stack_bytes))
}

/// An array of `count` things of `size` bytes each.
fn array(count: u64, size: u32) -> u64 {
    block(count * u64::from(size))
}

/// What the sections say.
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
    memory_pages: u64,
    globals: u64,
    global_bytes: u64,
    exports: u64,
    exported_functions: u64,
    element_segments: u64,
    element_bytes: u64,
    data_segments: u64,
    /// By active data segments.
    written: Written,
    /// Where the guest's own stack begins, if the first global is what compilers keep that in.
    stack_pointer: Option<u64>,
}

/// Bytes of memory whose pages are in one leaf.
fn leaf_bytes(sizes: &sys::Sizes) -> u64 {
    u64::from(sizes.leaf_pages) * u64::from(sizes.small_page)
}

/// The pages of linear memory that are written to, with what they are found by.
#[derive(Clone, Copy, Default)]
struct Written {
    branches: Touched,
    leaves: Touched,
    pages: Touched,
}

impl Written {
    fn write(&mut self, at: u64, len: u64, sizes: &sys::Sizes) {
        self.branches.write(at, len, WASM_PAGE);
        self.leaves.write(at, len, leaf_bytes(sizes));
        self.pages.write(at, len, sizes.small_page.into());
    }
}

/// Pages of one size that are written to, those of each segment after the other. A page counts once
/// where it was the last one of the segment before.
#[derive(Clone, Copy, Default)]
struct Touched {
    count: u64,
    /// The last one's number, plus 1.
    last: u64,
}

impl Touched {
    fn write(&mut self, at: u64, len: u64, page: u64) {
        if len == 0 {
            return;
        }
        let (first, last) = (at / page, (at + len - 1) / page);
        self.count += last - first + u64::from(first + 1 != self.last);
        self.last = last + 1;
    }

    /// No more than all, in a memory of `len` bytes.
    fn of(&self, len: u64, page: u64) -> u64 {
        self.count.min(len / page)
    }
}

impl Tally {
    /// As `wamr_memory_needs`.
    fn memory(&self, sizes: &sys::Sizes) -> MemoryNeeds {
        let len = self.memory_pages * WASM_PAGE;
        let small = u64::from(sizes.small_page);
        if small == 0 {
            let all = block(len);
            return MemoryNeeds {
                made: all,
                committed: all,
            };
        }
        if self.memories == 0 {
            return MemoryNeeds::default();
        }
        let (pointer, leaf) = (u64::from(sizes.pointer), leaf_bytes(sizes));
        let head = block(u64::from(sizes.pages_head) + self.memory_pages * pointer);
        let with = |written: &Written| {
            head + written.branches.of(len, WASM_PAGE) * block(WASM_PAGE / leaf * pointer)
                + written.leaves.of(len, leaf) * array(sizes.leaf_pages.into(), sizes.pointer)
                + written.pages.of(len, small) * block(small)
        };
        let mut written = self.written;
        if let Some(stack) = self.stack_pointer.filter(|at| *at <= len) {
            written.write(stack - 1, 1, sizes);
        }
        let made = with(&written);
        written.write(0, len, sizes);
        MemoryNeeds {
            made,
            committed: with(&written),
        }
    }

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
        let mut rest = Reader(wasm.strip_prefix(b"\0asm\x01\0\0\0")?);
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
                5 => self.memory_pages += section.limits()?.0,
                6 => self.global(section)?,
                7 => self.export(section)?,
                9 => self.element_segment(section, sizes)?,
                10 => self.body(section, sizes)?,
                11 if sizes.small_page > 0 => self.data_segment(section, sizes)?,
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
        let ty = section.byte()?;
        let is_mutable = section.byte()? != 0;
        let is_first = self.global_bytes == 0;
        match section.offset()? {
            at if is_first && ty == I32 && is_mutable && at > 0 && at % 16 == 0 => {
                self.stack_pointer = Some(at);
            }
            _ => {}
        }
        self.global_bytes += if matches!(ty, I64 | F64) { 8 } else { 4 };
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

    fn data_segment(&mut self, section: &mut Reader<'_>, sizes: &sys::Sizes) -> Option<()> {
        let flags = section.leb()?;
        if flags == 2 {
            section.leb()?;
        }
        let at = match flags {
            1 => None,
            _ => Some(section.offset()?),
        };
        let len = section.leb()?;
        section.take(len)?;
        if let Some(at) = at {
            self.written.write(at, len, sizes);
        }
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

    /// A segment's offset, with its `end`; 0 where it is no constant.
    fn offset(&mut self) -> Option<u64> {
        let Some((0x41, mut number)) = self.0.split_first().map(|(op, rest)| (*op, Self(rest)))
        else {
            return self.const_expr().map(|()| 0);
        };
        let (mut value, mut bits) = (0_u64, 0);
        loop {
            let byte = number.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(bits).unwrap_or(0);
            bits += 7;
            if byte & 0x80 == 0 {
                // The sign goes on in what a number of 32 bits has not written.
                if byte & 0x40 != 0 && bits < 32 {
                    value |= u64::MAX << bits;
                }
                self.const_expr()?;
                return Some(value & u64::from(u32::MAX));
            }
        }
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
