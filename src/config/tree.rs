//! `Node`: a YAML document in which every key and every value knows where it stands.
//!
//! Knows nothing about what the keys mean.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

pub(super) struct Node {
    pub(super) value: Value,
    pub(super) span: Span,
    /// This node and all below it.
    pub(super) size: u32,
    /// Levels below it.
    pub(super) height: u32,
}

pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(Rc<str>),
    List(Vec<Rc<Node>>),
    Mapping(Mapping),
}

/// The entries in the order of the file. A key that is given twice is in it twice; the first one counts.
pub(super) struct Mapping {
    pub(super) entries: Vec<Entry>,
    index: OnceCell<HashMap<Rc<str>, usize>>,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: Rc<str>,
    pub(super) key_span: Span,
    pub(super) value: Rc<Node>,
}

impl Node {
    pub(super) fn new(value: Value, span: Span) -> Rc<Self> {
        let (mut size, mut height) = (1_u32, 0_u32);
        let mut add = |child: &Node| {
            size = size.saturating_add(child.size);
            height = height.max(child.height.saturating_add(1));
        };
        match &value {
            Value::List(items) => items.iter().for_each(|item| add(item)),
            Value::Mapping(mapping) => mapping.entries.iter().for_each(|entry| add(&entry.value)),
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => {}
        }
        Rc::new(Node { value, span, size, height })
    }

    pub(super) fn as_mapping(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&[Rc<Node>]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_container(&self) -> bool {
        matches!(self.value, Value::List(_) | Value::Mapping(_))
    }

    /// The same tree for `serde`.
    pub(super) fn to_serde(&self) -> serde_yaml::Value {
        use serde_yaml::Value as Serde;
        match &self.value {
            Value::Null => Serde::Null,
            Value::Bool(value) => Serde::Bool(*value),
            Value::Integer(number) => match (u64::try_from(*number), i64::try_from(*number)) {
                (Ok(number), _) => Serde::from(number),
                (_, Ok(number)) => Serde::from(number),
                #[expect(clippy::cast_precision_loss, reason = "a number this large is refused by every key")]
                _ => Serde::from(*number as f64),
            },
            Value::Float(number) => Serde::from(*number),
            Value::Text(text) => Serde::from(&**text),
            Value::List(items) => Serde::Sequence(items.iter().map(|item| item.to_serde()).collect()),
            Value::Mapping(mapping) => {
                let mut out = serde_yaml::Mapping::with_capacity(mapping.entries.len());
                for Entry { key, value, .. } in &mapping.entries {
                    out.entry(Serde::from(&**key)).or_insert_with(|| value.to_serde());
                }
                Serde::Mapping(out)
            }
        }
    }
}

impl Mapping {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Mapping { entries, index: OnceCell::new() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        if self.entries.len() <= FEW_ENTRIES {
            return self.entries.iter().find(|entry| *entry.key == *key);
        }
        let index = self.index.get_or_init(|| {
            let mut index = HashMap::with_capacity(self.entries.len());
            for (i, entry) in self.entries.iter().enumerate() {
                index.entry(Rc::clone(&entry.key)).or_insert(i);
            }
            index
        });
        index.get(key).map(|i| &self.entries[*i])
    }
}

/// Up to here, comparing is quicker than hashing.
const FEW_ENTRIES: usize = 16;

impl Value {
    /// What a scalar without quotes is, by the core schema of YAML 1.2: `yes`, `on` and `0b1` are text.
    pub(super) fn of_plain(text: &str) -> Value {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Value::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => Value::Float(f64::NEG_INFINITY),
            ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
            _ => number(text).unwrap_or_else(|| Value::Text(Rc::from(text))),
        }
    }

    /// For messages: `a number`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "`true` or `false`",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// Whether a text may be a key, if a misspelt one, rather than a secret that stands where a key belongs.
pub(super) fn looks_like_a_key(text: &str) -> bool {
    let is_plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    (1..=LONGEST_KEY).contains(&text.len()) && digits <= MOST_DIGITS && text.bytes().all(is_plain)
}

/// Beyond those of the keys there are.
const LONGEST_KEY: usize = 24;
const MOST_DIGITS: usize = 3;

fn number(text: &str) -> Option<Value> {
    let radix = |digits: &str, radix| i128::from_str_radix(digits, radix).ok().map(Value::Integer);
    let is_plain = |digits: &str| !digits.starts_with(['+', '-']);
    if let Some(digits) = text.strip_prefix("0o").filter(|digits| is_plain(digits)) {
        return radix(digits, 8);
    }
    if let Some(digits) = text.strip_prefix("0x").filter(|digits| is_plain(digits)) {
        return radix(digits, 16);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Ok(number) = text.parse() {
        return Some(Value::Integer(number));
    }
    // Rust's own forms are these and words, which were ruled out by their first letter.
    text.parse().ok().map(Value::Float)
}
