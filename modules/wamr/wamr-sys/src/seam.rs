//! Comparison of this crate's declarations with `hook/shim.h`: sizes, offsets and numbers by way of
//! `hook/seam.c`, on 64 and on 32 bits; functions by the texts of both.

extern crate std;

use super::*;
use core::mem::offset_of;
use std::{
    borrow::ToOwned as _,
    collections::BTreeMap,
    format, fs,
    path::Path,
    string::{String, ToString as _},
    vec::Vec,
};

/// An offset and a size, or 0 and a size or a number.
type Entries = BTreeMap<String, (u32, u32)>;

#[repr(C)]
struct Entry {
    name: *const c_char,
    offset: u32,
    value: u32,
}

unsafe extern "C" {
    static wamr_seam: [Entry; 0];
    static wamr_seam_len: u32;
}

fn of_c() -> Entries {
    // SAFETY: C has as many entries there, whose names end with a NUL.
    let entries = unsafe {
        core::slice::from_raw_parts(
            (&raw const wamr_seam).cast::<Entry>(),
            wamr_seam_len as usize,
        )
    };
    let name = |entry: &Entry| {
        // SAFETY: as above.
        let name = unsafe { CStr::from_ptr(entry.name) };
        name.to_str().expect("UTF-8").to_owned()
    };
    entries
        .iter()
        .map(|entry| (name(entry), (entry.offset, entry.value)))
        .collect()
}

fn size_of_field<S, F>(_: fn(&S) -> &F) -> u32 {
    size_of::<F>() as u32
}

/// Adds a struct of Rust under its name in C; its fields, all of them, have one name in both, if none is
/// given.
macro_rules! add {
    ($to:ident, $c:literal, $rust:ident { $($field:ident $(= $name:literal)?),* $(,)? }) => {
        // Does not compile where a field is missing.
        let _ = |all: $rust| {
            let $rust { $($field: _),* } = all;
        };
        $to.insert($c.to_owned(), (0, size_of::<$rust>() as u32));
        $(
            let name = [$($name,)? stringify!($field)][0];
            let size = size_of_field(|all: &$rust| &all.$field);
            $to.insert(format!("{}.{name}", $c), (offset_of!($rust, $field) as u32, size));
        )*
    };
}

fn of_rust() -> Entries {
    let mut to = Entries::new();
    add!(to, "wamr_account", Account { held, peak });
    add!(
        to,
        "wamr_memory_info",
        MemoryInfo {
            total,
            free,
            min_free,
            largest_free,
            spare,
            pages,
        }
    );
    add!(to, "wamr_memory_need", MemoryNeed { made, committed });
    add!(
        to,
        "wamr_module_info",
        ModuleInfo {
            start,
            constructors,
            post_instantiate,
            memories,
            initial_pages,
            maximum_pages,
            stack_need,
            credit_per_unit,
            imports,
        }
    );
    add!(
        to,
        "wamr_tables",
        Tables {
            users,
            functions,
            imports,
            exports,
            globals
        }
    );
    add!(
        to,
        "wamr_function_type",
        FunctionType {
            types,
            params,
            results
        }
    );
    add!(
        to,
        "wamr_sizes",
        Sizes {
            pointer,
            module,
            function_type,
            import,
            function,
            table,
            memory,
            global,
            export,
            element_segment,
            element,
            data_segment,
            instance,
            instance_extra,
            memory_instance,
            table_instance,
            table_slot,
            table_slots_default,
            bitmap,
            global_instance,
            function_instance,
            export_function,
            small_page,
        }
    );
    add!(
        to,
        "wamr_call",
        Call {
            instance,
            kept,
            waiting,
            base,
            top,
            beyond,
            frame,
            function,
            stack_max,
            per_unit,
            debt,
            phase,
            tail,
            entered,
            work,
            work_left,
        }
    );
    add!(to, "NativeSymbol", NativeSymbol {
        symbol, function = "func_ptr", signature, attachment,
    });
    for (name, number) in [
        ("WAMR_NO_FUNCTION", NO_FUNCTION),
        ("WAMR_BLOCKING_ARGS", BLOCKING_ARGS as u32),
        ("WAMR_NO_CALL", NO_CALL.into()),
        ("WAMR_BLOCK_HEADER", BLOCK_HEADER),
        ("WAMR_BLOCK_ALIGN", BLOCK_ALIGN),
        ("WAMR_INIT_OK", INIT_OK),
        ("WAMR_INIT_AGAIN", INIT_AGAIN),
        ("WAMR_INIT_NO_ROOM", INIT_NO_ROOM),
        ("WAMR_FINISHED", FINISHED),
        ("WAMR_OUT_OF_FUEL", OUT_OF_FUEL),
        ("WAMR_BLOCKED", BLOCKED),
        ("WAMR_TRAPPED", TRAPPED),
    ] {
        to.insert(name.to_owned(), (0, number));
    }
    to
}

#[test]
fn layouts_and_numbers_are_those_of_c() {
    let (c, rust) = (of_c(), of_rust());
    for (name, value) in &rust {
        assert_eq!(c.get(name), Some(value), "{name}: C's, Rust's");
    }
    for name in c.keys() {
        assert!(
            rust.contains_key(name),
            "{name} of hook/seam.c is not in src/seam.rs"
        );
    }
}

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    without_comments(&text)
}

/// Without comments, attributes and lines of the preprocessor.
fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, comment)) = rest.split_once("/*") {
        kept += before;
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    kept += rest;
    let is_code = |line: &&str| !line.trim_start().starts_with(['#', '/']);
    let lines: Vec<&str> = kept.lines().filter(is_code).collect();
    lines.join(" ")
}

#[test]
fn each_field_and_number_of_the_header_is_compared() {
    let c = of_c();
    let header = text("../hook/shim.h");
    let mut fields = 0;
    for body in header.split("typedef struct ").skip(1) {
        let (name, rest) = body.split_once('{').expect("a struct");
        let (body, _) = rest.split_once('}').expect("its end");
        for field in body.split(';').filter(|field| !field.trim().is_empty()) {
            let field = field.rsplit([' ', '*']).next().expect("a name");
            let entry = format!("{}.{field}", name.trim());
            assert!(c.contains_key(&entry), "{entry} is not in hook/seam.c");
            fields += 1;
        }
    }
    assert!(fields > 60, "the header's structs are read");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hook/shim.h");
    let lines = fs::read_to_string(path).expect("the header");
    for line in lines.lines() {
        let word = line.trim().trim_start_matches("#define ");
        let name = word.split([' ', ',']).next().unwrap_or_default();
        let is_number = name.starts_with("WAMR_") && name == name.to_uppercase();
        if is_number && !word.contains('"') {
            assert!(c.contains_key(name), "{name} is not in hook/seam.c");
        }
    }
}

/// A type of C as this crate names it.
fn rust_type(c: &str) -> String {
    let c = c.trim();
    if let Some(to) = c.strip_suffix('*') {
        let to = to.trim();
        return match to.strip_prefix("const ") {
            Some(to) => format!("*const {}", rust_type(&format!("in {to}"))),
            None => format!("*mut {}", rust_type(&format!("in {to}"))),
        };
    }
    // `void` is c_void behind a pointer alone.
    let (c, is_behind) = c.strip_prefix("in ").map_or((c, false), |c| (c, true));
    match c.trim_start_matches("struct ") {
        "void" if is_behind => "c_void".to_owned(),
        "void" => String::new(),
        "bool" => "bool".to_owned(),
        "char" => "c_char".to_owned(),
        "uint8_t" => "u8".to_owned(),
        "uint32_t" => "u32".to_owned(),
        "uint64_t" => "u64".to_owned(),
        "WASMModule" => "Module".to_owned(),
        "WASMModuleInstance" => "Instance".to_owned(),
        "WASMExecEnv" => "ExecEnv".to_owned(),
        name => name
            .trim_start_matches("wamr_")
            .split('_')
            .map(|word| word[..1].to_uppercase() + &word[1..])
            .collect(),
    }
}

fn functions_of_c() -> BTreeMap<String, String> {
    let header = text("../hook/shim.h");
    let mut functions = BTreeMap::new();
    // Of the last statement, what comes behind a struct's end.
    for statement in header.split([';', '{', '}']) {
        let Some((head, args)) = statement.split_once('(') else {
            continue;
        };
        let head = head.trim();
        let at = head.rfind([' ', '*']).expect("a result") + 1;
        let (result, name) = head.split_at(at);
        let args = args.trim().trim_end_matches(')');
        let arg = |arg: &str| {
            let arg = arg.trim();
            let at = arg.rfind([' ', '*']).map_or(0, |at| at + 1);
            match at {
                0 => rust_type(arg),
                at => rust_type(&arg[..at]),
            }
        };
        let args: Vec<String> = args.split(',').map(arg).collect();
        functions.insert(
            name.to_owned(),
            format!("{} -> {}", args.join(", "), rust_type(result)),
        );
    }
    functions
}

fn functions_of_rust() -> BTreeMap<String, String> {
    let source = text("src/lib.rs");
    let (_, block) = source.split_once("unsafe extern \"C\" {").expect("a block");
    let (block, _) = block.split_once('}').expect("its end");
    let mut functions = BTreeMap::new();
    for statement in block.split(';') {
        let Some((name, rest)) = statement.trim().split_once('(') else {
            continue;
        };
        let (args, result) = rest.rsplit_once(')').expect("the arguments' end");
        let args = args
            .split(',')
            .filter_map(|arg| Some(arg.split_once(':')?.1.trim()));
        let args: Vec<&str> = args.collect();
        let result = result.trim().trim_start_matches("->").trim();
        functions.insert(
            name.trim_start_matches("pub fn ").to_owned(),
            format!("{} -> {result}", args.join(", ")),
        );
    }
    functions
}

#[test]
fn functions_are_those_of_c() {
    let (c, rust) = (functions_of_c(), functions_of_rust());
    assert!(c.len() > 40, "the header's functions are read");
    for (name, types) in &rust {
        // WAMR's own are compared in hook/seam.c.
        if name.starts_with("wamr_") {
            assert_eq!(c.get(name), Some(types), "{name}: C's, Rust's");
        }
    }
    for name in c.keys() {
        assert!(
            rust.contains_key(name),
            "{name} of hook/shim.h is not declared"
        );
    }
    assert_eq!(
        rust_type("const wamr_memory_info *").to_string(),
        "*const MemoryInfo"
    );
}
