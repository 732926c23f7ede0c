//! The page, taken apart.

use crate::support::ID;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// The proplet's id on the page.
const PAGE_ID: &str = "3fe95a65-74f1-4ede-bf20-ef565f04cecb";

/// A file of the repository.
pub(super) fn file(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The page as it is.
pub(super) fn text() -> String {
    file("docs/messages.md")
}

/// The page, about the tests' proplet.
pub(super) fn text_of_tests() -> String {
    text().replace(PAGE_ID, ID)
}

/// Cells of the table behind `<!-- <mark> -->`, without its head; code without its backticks.
pub(super) fn table(text: &str, mark: &str) -> Vec<Vec<String>> {
    let mark = format!("<!-- {mark} -->");
    let (_, rest) = text
        .split_once(&mark)
        .unwrap_or_else(|| panic!("the page has no {mark}"));
    let rows = rest.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    let cell = |cell: &str| cell.trim().to_owned();
    let rows = rows.map(|row| row.trim_matches('|').split(" |").map(cell).collect());
    rows.collect()
}

/// The text between the first backtick and the last, or all of it without any.
pub(super) fn code(cell: &str) -> &str {
    match (cell.find('`'), cell.rfind('`')) {
        (Some(first), Some(last)) if first < last => &cell[first + 1..last],
        _ => cell,
    }
}

/// Type of a value, as the tables name it.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Fields and types of a message; those of an object in it are named behind its own name.
pub(super) fn shape(value: &Value) -> BTreeMap<String, &'static str> {
    fn visit(value: &Value, name: &str, to: &mut BTreeMap<String, &'static str>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (field, value) in fields {
                    let dot = if name.is_empty() { "" } else { "." };
                    visit(value, &format!("{name}{dot}{field}"), to);
                }
            }
            _ => {
                to.insert(name.into(), type_of(value));
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(value, "", &mut found);
    found
}

/// The messages of the page, by their marks: `in: <topic>: <which>`, or `out: …`.
pub(super) struct Blocks {
    texts: BTreeMap<String, String>,
    unused: Vec<String>,
}

impl Blocks {
    pub(super) fn read() -> Self {
        let text = text_of_tests();
        let lines: Vec<&str> = text.lines().collect();
        let mut texts = BTreeMap::new();
        for (at, line) in lines.iter().enumerate() {
            if *line != "```json" {
                continue;
            }
            let mark = lines[at - 1].strip_prefix("<!-- ");
            let mark = mark.and_then(|mark| mark.strip_suffix(" -->"));
            let mark = mark.unwrap_or_else(|| {
                panic!("line {at} of docs/messages.md: a message needs <!-- in: … --> or <!-- out: … --> above it")
            });
            let body = lines[at + 1..].iter().take_while(|line| **line != "```");
            let body: Vec<&str> = body.copied().collect();
            let before = texts.insert(mark.to_owned(), body.join("\n"));
            assert!(before.is_none(), "the page has <!-- {mark} --> twice");
        }
        assert!(texts.len() > 20, "the page has {} messages", texts.len());
        let unused = texts.keys().cloned().collect();
        Self { texts, unused }
    }

    /// A message, as it is written.
    pub(super) fn text(&mut self, mark: &str) -> String {
        self.unused.retain(|unused| unused != mark);
        let text = self.texts.get(mark);
        text.unwrap_or_else(|| panic!("docs/messages.md has no <!-- {mark} -->"))
            .clone()
    }

    /// A message, read.
    pub(super) fn body(&mut self, mark: &str) -> Value {
        let text = self.text(mark);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("<!-- {mark} -->: {e}: {text}"))
    }

    /// Fails if a message was neither sent nor compared.
    pub(super) fn assert_all_used(&self) {
        assert!(
            self.unused.is_empty(),
            "messages of docs/messages.md that no test sends or compares: {:?}",
            self.unused
        );
    }
}
