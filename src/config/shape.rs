//! `Shape`: what a value may look like, and the walk that finds everything that does not.
//!
//! A shape is read from the JSON Schema, so that the file's checks and the schema for editors cannot differ. The walk knows no key
//! by name; what a well-formed value means is checked by `settings`, by `routes` and by the platforms.

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::hints::Meant;
use super::schema::{SECRET, WHOLE};
use super::tree::{Entry, Mapping, Node, Span, Value, looks_like_a_key};
use crate::diag::{Place, Scope, did_you_mean};

/// What a value may be; several at once where a file may write it in several ways.
#[derive(Debug, Default)]
pub(super) struct Shape {
    text: Option<Choices>,
    number: Option<Number>,
    boolean: bool,
    list: Option<Box<List>>,
    keys: Option<Keys>,
    /// The value, or what it refers to, must never be shown.
    is_secret: bool,
    /// Given anew, it replaces what is inherited, whatever it is.
    is_whole: bool,
    /// Shown where something else stands in place of a text of a certain form.
    example: Option<String>,
}

/// The words a text is chosen from; empty: any text.
#[derive(Debug, Default)]
struct Choices(Vec<String>);

#[derive(Debug)]
struct Number {
    must_be_whole: bool,
    min: f64,
    /// What the file may say, or else what the type can hold.
    max: f64,
    has_max: bool,
}

#[derive(Debug)]
struct List {
    item: Shape,
    min_items: usize,
}

pub(super) type Known = IndexMap<String, Shape>;

#[derive(Debug)]
enum Keys {
    /// Known keys, some of them required.
    Record { known: Known, required: Vec<String> },
    /// Exactly one of the known keys.
    OneOf(Known),
    /// Any key.
    Map(Box<Shape>),
}

/// What the walk met besides faults.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What must not be shown when its line is.
    pub(super) secrets: Vec<Span>,
    /// Secrets under a key of their own. A literal among others, such as a header's value, is hidden but need not be one.
    pub(super) credentials: Vec<Place>,
    /// Mappings with a key under a wrong name, which is the fault.
    pub(super) lacking: Vec<Place>,
}

impl Shape {
    pub(super) fn of(schema: &Json) -> Shape {
        if schema["$ref"] == SECRET {
            let references = ["env", "file", "credential"];
            let text = || Shape { text: Some(Choices::default()), ..Shape::default() };
            let known = references.into_iter().map(|key| (key.to_owned(), text())).collect();
            let keys = Some(Keys::OneOf(known));
            return Shape { keys, is_secret: true, ..text() };
        }
        let example = schema["examples"][0].as_str().map(str::to_owned);
        let mut shape = Shape { is_whole: schema[WHOLE] == true, example, ..Shape::default() };
        for alternative in
            ["anyOf", "oneOf", "allOf"].iter().filter_map(|word| schema[*word].as_array()).flatten()
        {
            shape.allow(Shape::of(alternative));
        }
        if let Some(word) = schema["const"].as_str() {
            shape.text.get_or_insert_default().0.push(word.to_owned());
        }
        let types = match &schema["type"] {
            Json::Array(types) => types.iter().filter_map(Json::as_str).collect(),
            Json::String(only) => vec![only.as_str()],
            _ => Vec::new(),
        };
        for kind in types {
            match kind {
                "string" if schema["const"].is_null() => {
                    let words = schema["enum"].as_array().into_iter().flatten();
                    let words = words.filter_map(Json::as_str).map(str::to_owned);
                    shape.text = Some(Choices(words.collect()));
                }
                "integer" | "number" => shape.number = Some(Number::of(schema, kind == "integer")),
                "boolean" => shape.boolean = true,
                "array" => {
                    let min_items = schema["minItems"].as_u64().and_then(|n| usize::try_from(n).ok());
                    let item = Shape::of(&schema["items"]);
                    shape.list = Some(Box::new(List { item, min_items: min_items.unwrap_or(0) }));
                }
                "object" => shape.keys = Some(Keys::of(schema)),
                _ => {}
            }
        }
        shape
    }

    /// Takes in another way to write the value.
    fn allow(&mut self, other: Shape) {
        let Shape { text, number, boolean, list, keys, is_secret, is_whole, example } = other;
        match (&mut self.text, text) {
            (Some(own), Some(other)) => own.0.extend(other.0),
            (own, other) => *own = own.take().or(other),
        }
        self.number = self.number.take().or(number);
        self.boolean |= boolean;
        self.list = self.list.take().or(list);
        self.keys = self.keys.take().or(keys);
        self.is_secret |= is_secret;
        self.is_whole |= is_whole;
        self.example = self.example.take().or(example);
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, &Shape)> {
        let known = match &self.keys {
            Some(Keys::Record { known, .. } | Keys::OneOf(known)) => Some(known),
            Some(Keys::Map(_)) | None => None,
        };
        known.into_iter().flatten().map(|(key, shape)| (key.as_str(), shape))
    }

    pub(super) fn key(&self, key: &str) -> Option<&Shape> {
        match self.keys.as_ref()? {
            Keys::Record { known, .. } | Keys::OneOf(known) => known.get(key),
            Keys::Map(shape) => Some(shape),
        }
    }

    pub(super) fn item(&self) -> Option<&Shape> {
        self.list.as_ref().map(|list| &list.item)
    }

    /// Whether two values of this shape are merged key by key; otherwise the one replaces the other.
    pub(super) fn is_merged(&self) -> bool {
        !self.is_whole && matches!(self.keys, Some(Keys::Record { .. } | Keys::Map(_)))
    }

    /// Keys that hold secrets, and keys of mappings of which any value may be one.
    pub(super) fn secret_keys(&self, found: &mut Vec<String>) {
        for (key, shape) in self.keys() {
            if shape.is_secret || shape.is_map_of_secrets() {
                found.push(key.to_owned());
            }
            shape.secret_keys(found);
        }
        self.item().into_iter().for_each(|item| item.secret_keys(found));
    }

    pub(super) fn holds_secrets(&self) -> bool {
        let mut found = Vec::new();
        self.secret_keys(&mut found);
        self.is_secret || self.is_map_of_secrets() || !found.is_empty()
    }

    fn is_map_of_secrets(&self) -> bool {
        matches!(&self.keys, Some(Keys::Map(value)) if value.is_secret)
    }

    /// Records every fault of the value and of all below it.
    pub(super) fn check(&self, node: &Node, scope: &Scope<'_>, seen: &mut Seen) {
        self.check_in(None, node, scope, seen);
    }

    /// `outer` are the keys of the mapping in which the value stands.
    fn check_in(&self, outer: Option<&Known>, node: &Node, scope: &Scope<'_>, seen: &mut Seen) {
        if self.is_secret {
            hide(node, seen);
            seen.credentials.push(scope.place().clone());
            if node.as_text().is_some_and(is_reference_of_apisix) {
                scope.reject_with(
                    "a reference as APISIX writes it, which is not followed here",
                    "`{ env: NAME }`, `{ file: path }` or `{ credential: name }`",
                );
            }
        }
        match (&node.value, &self.text, &self.number, &self.list, &self.keys) {
            (Value::Text(text), Some(choices), ..) => self.check_choice(text, choices, scope),
            (Value::Integer(_) | Value::Float(_), _, Some(number), ..) => number.check(&node.value, scope),
            (Value::Bool(_), ..) if self.boolean => {}
            (Value::List(items), _, _, Some(list), _) => list.check(items, scope, seen),
            (Value::Mapping(mapping), .., Some(keys)) => {
                keys.check(outer, self.is_secret, mapping, scope, seen);
            }
            _ => self.reject_kind(node, scope, seen),
        }
    }

    fn check_choice(&self, text: &str, choices: &Choices, scope: &Scope<'_>) {
        let Choices(words) = choices;
        if words.is_empty() || words.iter().any(|word| word == text) {
            return;
        }
        let near = || did_you_mean(text, words.iter().map(String::as_str));
        let hint = switch(text)
            .and_then(|is_on| choices.switched(is_on))
            .or_else(|| Some(format!("did you mean `{}`?", near()?)))
            .unwrap_or_else(|| format!("expected {}", self.expected()));
        scope.reject_with(format!("`{text}` is not a choice here"), hint);
    }

    fn reject_kind(&self, node: &Node, scope: &Scope<'_>, seen: &mut Seen) {
        if self.holds_secrets() {
            hide_text(node, seen);
        }
        let message = format!("expected {}, found {}", self.expected(), node.value.kind());
        let hint = match &node.value {
            Value::Null => Some("give it a value, or leave the key out".to_owned()),
            Value::Integer(_) | Value::Float(_) | Value::Bool(_)
                if self.text.is_some() && !self.is_secret =>
            {
                match (&self.example, &self.text, &node.value) {
                    (Some(example), ..) => Some(format!("like `{example}`")),
                    (_, Some(Choices(words)), _) if words.is_empty() => {
                        Some("in quotes it is text".to_owned())
                    }
                    (_, Some(choices), Value::Bool(is_on)) => choices.switched(*is_on),
                    _ => None,
                }
            }
            Value::Text(text) if self.boolean => switch(text).map(|is_on| format!("write `{is_on}`")),
            Value::Text(text) if self.number.is_some() && text.parse::<f64>().is_ok() => {
                Some("without quotes it is a number".to_owned())
            }
            _ if self.list.as_ref().is_some_and(|list| list.item.takes(&node.value)) => {
                Some("begin each item with `- `, or put them in `[ ]`".to_owned())
            }
            value => match &self.list {
                Some(list) => list.item.under_its_key(value).map(|entry| format!("like `- {entry}`")),
                None => self.under_its_key(value).map(|entry| format!("like `{{ {entry} }}`")),
            },
        };
        match hint {
            Some(hint) => scope.reject_with(message, hint),
            None => scope.reject(message),
        }
    }

    /// A value that stands where a mapping with it belongs, under the key that it is meant for: `path: /hello`.
    fn under_its_key(&self, value: &Value) -> Option<String> {
        let Some(Keys::Record { known, required }) = &self.keys else { return None };
        let key = match required.as_slice() {
            [only] => only,
            [] => known.first()?.0,
            _ => return None,
        };
        if !known.get(key)?.takes(value) {
            return None;
        }
        let shown = match value {
            Value::Text(_) if self.holds_secrets() => "…".to_owned(),
            Value::Text(text) if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)) => {
                text.to_string()
            }
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            _ => return None,
        };
        Some(format!("{key}: {shown}"))
    }

    fn takes(&self, value: &Value) -> bool {
        match value {
            Value::Text(_) => self.text.is_some(),
            Value::Integer(_) | Value::Float(_) => self.number.is_some(),
            Value::Bool(_) => self.boolean,
            Value::List(_) => self.list.is_some(),
            Value::Mapping(_) => self.keys.is_some(),
            Value::Null => false,
        }
    }

    /// `a number or text`
    fn expected(&self) -> String {
        let mut kinds = Vec::new();
        if let Some(number) = &self.number {
            kinds.push(if number.must_be_whole {
                "a whole number".to_owned()
            } else {
                "a number".to_owned()
            });
        }
        match &self.text {
            Some(Choices(words)) if words.is_empty() => kinds.push("text".to_owned()),
            Some(Choices(words)) => kinds.extend(words.iter().map(|word| format!("`{word}`"))),
            None => {}
        }
        if self.boolean {
            kinds.push("`true` or `false`".to_owned());
        }
        if self.list.is_some() {
            kinds.push("a list".to_owned());
        }
        match &self.keys {
            Some(Keys::OneOf(known)) => kinds.push(format!("one of {}", quoted(known.keys()))),
            Some(Keys::Record { .. } | Keys::Map(_)) => kinds.push("a mapping".to_owned()),
            None => {}
        }
        match kinds.pop() {
            Some(last) if !kinds.is_empty() => format!("{} or {last}", kinds.join(", ")),
            last => last.unwrap_or_default(),
        }
    }
}

impl Choices {
    /// What to write for a switch, where one is among the words.
    fn switched(&self, is_on: bool) -> Option<String> {
        let Choices(words) = self;
        let word = if is_on { "on" } else { "off" };
        words.iter().any(|known| known == word).then(|| format!("write `{word}`"))
    }
}

impl Number {
    fn of(schema: &Json, must_be_whole: bool) -> Self {
        let (min, max) = match schema["format"].as_str() {
            Some("uint8") => (0.0, f64::from(u8::MAX)),
            Some("uint16") => (0.0, f64::from(u16::MAX)),
            Some("uint32") => (0.0, f64::from(u32::MAX)),
            Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
            // Beyond 2^53 a JSON number is no longer exact.
            _ => (-LARGEST_EXACT, LARGEST_EXACT),
        };
        Number {
            must_be_whole,
            min: schema["minimum"].as_f64().unwrap_or(min).max(min),
            max: schema["maximum"].as_f64().unwrap_or(max).min(max),
            has_max: schema["maximum"].is_number() || !schema["minimum"].is_number(),
        }
    }

    fn check(&self, value: &Value, scope: &Scope<'_>) {
        #[expect(clippy::cast_precision_loss, reason = "only compared with bounds that are exact")]
        let number = match value {
            Value::Integer(number) => *number as f64,
            Value::Float(number) => *number,
            _ => return,
        };
        if self.must_be_whole && matches!(value, Value::Float(_)) {
            match number.fract() == 0.0 && number.abs() <= LARGEST_EXACT {
                true => scope.reject_with(
                    "a whole number has neither a point nor an exponent",
                    format!("write `{number}`"),
                ),
                false => scope.reject(format!("expected a whole number, found {number}")),
            }
        } else if !(self.min..=self.max).contains(&number) {
            let Number { min, max, .. } = self;
            let names_both = self.has_max || number > self.max;
            let bounds = if names_both { format!("{min} to {max}") } else { format!("at least {min}") };
            scope.reject_with(format!("{number} is out of range"), bounds);
        }
    }
}

/// What a word for a switch means, in any spelling.
fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => Some(true),
        "no" | "off" | "false" => Some(false),
        _ => None,
    }
}

const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

impl List {
    fn check(&self, items: &[std::rc::Rc<Node>], scope: &Scope<'_>, seen: &mut Seen) {
        if items.len() < self.min_items {
            scope.reject_with("the list is empty", "give it an item, or leave the key out");
        }
        for (i, item) in items.iter().enumerate() {
            self.item.check(item, &scope.index(i), seen);
        }
    }
}

impl Keys {
    fn of(schema: &Json) -> Self {
        let Some(properties) = schema["properties"].as_object() else {
            return Keys::Map(Box::new(Shape::of(&schema["additionalProperties"])));
        };
        let required = schema["required"].as_array().into_iter().flatten();
        Keys::Record {
            known: properties.iter().map(|(key, schema)| (key.clone(), Shape::of(schema))).collect(),
            required: required.filter_map(Json::as_str).map(str::to_owned).collect(),
        }
    }

    /// `is_secret` says that the mapping tells where a secret is found.
    fn check(
        &self,
        outer: Option<&Known>,
        is_secret: bool,
        mapping: &Mapping,
        scope: &Scope<'_>,
        seen: &mut Seen,
    ) {
        let known = match self {
            Keys::Record { known, .. } | Keys::OneOf(known) => known,
            Keys::Map(shape) => {
                for Entry { key, key_span, value } in &mapping.entries {
                    let scope = scope.key(key);
                    if shape.is_secret && key.contains(char::is_whitespace) {
                        seen.secrets.push(*key_span);
                        hide_text(value, seen);
                        let hint = "write `name: value`; a name has no blank".to_owned();
                        scope.reject_unnamed_key("a key with a blank in it", Some(hint));
                    } else {
                        check_map_value(shape, value, &scope, seen);
                    }
                }
                return;
            }
        };
        let holds_secrets = is_secret || known.values().any(|shape| shape.is_secret);
        let mut misspelt = Vec::new();
        for Entry { key, key_span, value } in &mapping.entries {
            let scope = scope.key(key);
            match known.get(&**key) {
                Some(shape) => shape.check_in(Some(known), value, &scope, seen),
                None => {
                    let Meant { key: meant, shape, hint } = Meant::by(key, known, outer);
                    misspelt.extend(meant);
                    // What nobody understands may be a secret.
                    if shape.is_none_or(Shape::holds_secrets) {
                        hide_text(value, seen);
                    }
                    if holds_secrets && !looks_like_a_key(key) {
                        seen.secrets.push(*key_span);
                        scope.reject_unnamed_key("an unknown key", Some(hint));
                    } else {
                        scope.reject_key(format!("unknown key `{key}`"), Some(hint));
                    }
                }
            }
        }
        let is_given = |key: &str| mapping.get(key).is_some();
        let is_misspelt = |key: &str| !is_given(key) && misspelt.contains(&key);
        let mut lacks = |key: &str| match is_misspelt(key) {
            true => seen.lacking.push(scope.place().clone()),
            false => scope.reject(format!("the key `{key}` is missing")),
        };
        match self {
            Keys::Record { required, .. } => {
                required.iter().filter(|key| !is_given(key)).for_each(|key| lacks(key));
            }
            Keys::OneOf(known) => {
                match known.keys().filter(|key| is_given(key) || is_misspelt(key)).count() {
                    1 => known.keys().filter(|key| is_misspelt(key)).for_each(|key| lacks(key)),
                    _ => scope.reject(format!("give exactly one of {}", quoted(known.keys()))),
                }
            }
            Keys::Map(_) => {}
        }
    }
}

/// A literal in a mapping of secrets, such as one header of many, is hidden but not counted as a credential.
fn check_map_value(shape: &Shape, node: &Node, scope: &Scope<'_>, seen: &mut Seen) {
    let credentials = seen.credentials.len();
    shape.check(node, scope, seen);
    if shape.is_secret && !node.is_container() {
        seen.credentials.truncate(credentials);
    }
}

pub(super) fn quoted<'k>(words: impl IntoIterator<Item = &'k String>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// `$env://NAME` and `$secret://…` stand for a whole value, `${{NAME}}` for any part of one.
fn is_reference_of_apisix(text: &str) -> bool {
    let lower = text.trim_start().to_ascii_lowercase();
    lower.starts_with("$env://") || lower.starts_with("$secret://") || lower.contains("${{")
}

/// Hides the scalars of a value that should be a secret; what a reference names may be shown.
fn hide(node: &Node, seen: &mut Seen) {
    match &node.value {
        Value::Mapping(mapping) => {
            for entry in &mapping.entries {
                if !matches!(&*entry.key, "env" | "file" | "credential") || entry.value.is_container() {
                    hide_key(entry, seen);
                    hide(&entry.value, seen);
                }
            }
        }
        Value::List(items) => items.iter().for_each(|item| hide(item, seen)),
        _ => seen.secrets.push(node.span),
    }
}

/// Hides texts only: a number or a switch under a misspelt key tells more than it could give away.
fn hide_text(node: &Node, seen: &mut Seen) {
    match &node.value {
        Value::Text(_) => seen.secrets.push(node.span),
        Value::Mapping(mapping) => {
            for entry in &mapping.entries {
                hide_key(entry, seen);
                hide_text(&entry.value, seen);
            }
        }
        Value::List(items) => items.iter().for_each(|item| hide_text(item, seen)),
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {}
    }
}

fn hide_key(entry: &Entry, seen: &mut Seen) {
    if !looks_like_a_key(&entry.key) {
        seen.secrets.push(entry.key_span);
    }
}
