//! From text to a tree, and what a file may be at all: one document, text keys, no tags, and not too much of anything.
//!
//! The bounds hold while the tree is built: what is too large is refused at once, and an alias costs what it stands for.

use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput};

use super::tree::{Entry, Mapping, Node, Span, Value, looks_like_a_key};

/// What a file cannot hold, whatever its keys mean.
pub(super) struct Refusal {
    pub(super) span: Span,
    /// Where in the tree: `routes[2].target`.
    pub(super) path: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// What became of a file's text.
pub(super) struct Parsed {
    /// Missing when the document is empty, or when it was given up.
    pub(super) root: Option<Rc<Node>>,
    pub(super) refusals: Vec<Refusal>,
    /// What is not in the tree: keys that were refused, and their values. Nobody knows whether they are secrets.
    pub(super) dropped: Vec<Span>,
}

pub(super) fn parse(text: &str, file: usize) -> Parsed {
    let mut builder = Builder {
        file,
        cursor: Cursor { text, char: 0, byte: 0 },
        frames: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        nodes: 0,
        aliases: 0,
        refusals: Vec::new(),
        dropped: Vec::new(),
    };
    let is_complete = builder.read(Parser::new_from_str(text)).is_ok();
    let Builder { root, refusals, dropped, .. } = builder;
    Parsed { root: root.filter(|root| is_complete && !matches!(root.value, Value::Null)), refusals, dropped }
}

struct Builder<'t> {
    file: usize,
    cursor: Cursor<'t>,
    frames: Vec<Frame>,
    /// Finished nodes only, so that an alias inside its own anchor finds nothing.
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    nodes: u32,
    aliases: u32,
    refusals: Vec<Refusal>,
    dropped: Vec<Span>,
}

/// A list or mapping that is not finished yet.
struct Frame {
    anchor: usize,
    start: usize,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Mapping { entries: Vec<Entry>, key: PendingKey },
}

enum PendingKey {
    /// The next node is a key.
    Expected,
    Read(Rc<str>, Span),
    /// It was no text. Its value is read and dropped.
    Refused,
}

/// Nothing more is read.
struct GivenUp;

impl<'t> Builder<'t> {
    fn read(&mut self, mut parser: Parser<'t, StrInput<'t>>) -> Result<(), GivenUp> {
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            match event {
                Ok((Event::DocumentStart(_), span)) => {
                    documents += 1;
                    if documents > 1 {
                        let span = self.span(span);
                        let hint = Some("a file holds one YAML document");
                        self.refuse(span, "a second document begins here", hint);
                        return Err(GivenUp);
                    }
                }
                Ok((event, span)) => self.take(event, span)?,
                Err(error) => {
                    let mut at = self.cursor.byte_of(error.marker());
                    let (message, mut hint) = in_plain_words(error.info());
                    if error.info() == TAB_BELOW_TEXT {
                        at += self.cursor.text[at..].find('\t').unwrap_or(0);
                    }
                    if self.has_brace_in_text(at) {
                        hint = Some("a text with `{` or `}` stands in quotes here, like `\"/b/{id}\"`");
                    }
                    self.refuse(self.at_text(at), message, hint);
                    return Err(GivenUp);
                }
            }
        }
        Ok(())
    }

    /// Whether a text without quotes meets a bracket there: `/b/{id}` within brackets, `{id}.example` anywhere.
    fn has_brace_in_text(&self, at: usize) -> bool {
        let (before, behind) = self.cursor.text.split_at(at);
        let is_text = |c: char| !c.is_whitespace() && !"{}[],:\"'".contains(c);
        (behind.starts_with('{') && before.ends_with(is_text))
            || (before.ends_with('}') && behind.starts_with(is_text))
    }

    /// What the parser notices only in a blank line below it is shown at the text above.
    fn at_text(&self, at: usize) -> Span {
        let text = self.cursor.text;
        let is_blank = text[at..].lines().next().is_none_or(|rest| rest.trim().is_empty());
        let above = text[..at].trim_end().char_indices().next_back().map_or(0, |(last, _)| last);
        let start = if is_blank { above } else { at };
        Span { file: self.file, start, end: start }
    }

    fn take(&mut self, event: Event<'t>, span: saphyr_parser::Span) -> Result<(), GivenUp> {
        let span = self.span(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                // The parser counts the blanks behind a quote to it, and puts what is empty where the next thing begins.
                let end = self.cursor.text[..span.end].trim_end().len().max(span.start);
                let span = if end == span.start { self.at_text(end) } else { Span { end, ..span } };
                self.refuse_tag(tag.is_some(), span);
                let value = match style {
                    ScalarStyle::Plain => Value::of_plain(&text),
                    _ => Value::Text(Rc::from(&*text)),
                };
                self.count(1, span)?;
                self.finish(Node::new(value, span), anchor);
                Ok(())
            }
            Event::Alias(anchor) => {
                self.aliases += 1;
                if self.aliases > MOST_ALIASES {
                    return self.give_up(span, format!("the file has more than {MOST_ALIASES} aliases"));
                }
                let Some(node) = self.anchors.get(&anchor).map(Rc::clone) else {
                    self.refuse(span, "the alias stands inside what it stands for", None);
                    return Err(GivenUp);
                };
                self.count(node.size, span)?;
                self.check_depth(node.height, span)?;
                self.finish(node, 0);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.open(anchor, span, Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let content = Content::Mapping { entries: Vec::new(), key: PendingKey::Expected };
                self.open(anchor, span, content)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close(span);
                Ok(())
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, anchor: usize, span: Span, content: Content) -> Result<(), GivenUp> {
        self.count(1, span)?;
        self.check_depth(0, span)?;
        self.frames.push(Frame { anchor, start: span.start, content });
        Ok(())
    }

    fn close(&mut self, end: Span) {
        // The parser ends only what it has begun.
        let Some(Frame { anchor, start, content }) = self.frames.pop() else { return };
        // A block ends where the next thing begins: what lies between is not its own.
        let end = self.cursor.text[..end.end].trim_end().len().max(start);
        let span = Span { file: self.file, start, end };
        let value = match content {
            Content::List(items) => Value::List(items),
            Content::Mapping { entries, .. } => {
                self.refuse_duplicates(&entries);
                Value::Mapping(Mapping::new(entries))
            }
        };
        self.finish(Node::new(value, span), anchor);
    }

    /// Hands a finished node to what it stands in.
    fn finish(&mut self, node: Rc<Node>, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut frame.content {
            Content::List(items) => items.push(node),
            Content::Mapping { entries, key } => match std::mem::replace(key, PendingKey::Expected) {
                PendingKey::Read(name, key_span) => {
                    entries.push(Entry { key: name, key_span, value: node });
                }
                PendingKey::Refused => self.dropped.push(node.span),
                PendingKey::Expected => match &node.value {
                    Value::Text(name) => *key = PendingKey::Read(Rc::clone(name), node.span),
                    other => {
                        *key = PendingKey::Refused;
                        let message = format!("a key is text, this is {}", other.kind());
                        if node.is_container() || node.span.end - node.span.start >= SHORTEST_SECRET {
                            self.dropped.push(node.span);
                        }
                        let is_written = !node.is_container() && !matches!(other, Value::Null);
                        let hint = is_written.then_some("in quotes it is text");
                        self.refuse(node.span, message, hint);
                    }
                },
            },
        }
    }

    fn refuse_duplicates(&mut self, entries: &[Entry]) {
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for Entry { key, key_span, .. } in entries {
            if let Some(first) = seen.get(&**key) {
                let line = self.cursor.text[..first.start].matches('\n').count() + 1;
                let message = match looks_like_a_key(key) {
                    true => format!("the key `{key}` is given twice"),
                    false => "this key is given twice".to_owned(),
                };
                self.refuse(*key_span, message, Some(&format!("the first one is in line {line}")));
            } else {
                seen.insert(key, *key_span);
            }
        }
    }

    fn refuse_tag(&mut self, has_tag: bool, span: Span) {
        if has_tag {
            self.refuse(span, "tags have no meaning here", Some("quotes make a value text"));
        }
    }

    fn count(&mut self, nodes: u32, span: Span) -> Result<(), GivenUp> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MOST_NODES {
            return self.give_up(span, format!("the file stands for more than {MOST_NODES} values"));
        }
        Ok(())
    }

    fn check_depth(&mut self, height: u32, span: Span) -> Result<(), GivenUp> {
        let depth = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        if depth.saturating_add(height) >= DEEPEST {
            return self.give_up(span, TOO_DEEP.to_owned());
        }
        Ok(())
    }

    fn give_up(&mut self, span: Span, message: String) -> Result<(), GivenUp> {
        self.refuse(span, message, Some("the rest of the file was not read"));
        Err(GivenUp)
    }

    fn refuse(&mut self, span: Span, message: impl Into<String>, hint: Option<&str>) {
        // More of these tell nobody anything.
        if self.refusals.len() < MOST_REFUSALS {
            let (path, message) = (self.path(), message.into());
            let hint = hint.map(str::to_owned);
            self.refusals.push(Refusal { span, path, message, hint });
        }
    }

    /// Where the reader is.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match &frame.content {
                Content::List(items) => {
                    let _ = write!(path, "[{}]", items.len());
                }
                Content::Mapping { key: PendingKey::Read(key, _), .. } => {
                    path.push_str(if path.is_empty() { "" } else { "." });
                    path.push_str(key);
                }
                Content::Mapping { .. } => {}
            }
        }
        path
    }

    fn span(&mut self, span: saphyr_parser::Span) -> Span {
        let start = self.cursor.byte_of(&span.start);
        let end = self.cursor.byte_of(&span.end);
        Span { file: self.file, start, end }
    }
}

/// Turns the parser's places, which count characters, into bytes. They come nearly in order, so each is a few steps away.
struct Cursor<'t> {
    text: &'t str,
    char: usize,
    byte: usize,
}

impl Cursor<'_> {
    fn byte_of(&mut self, marker: &Marker) -> usize {
        let wanted = marker.index();
        if wanted < self.char {
            let back = self.text[..self.byte].char_indices().rev().take(self.char - wanted);
            self.byte = back.last().map_or(self.byte, |(byte, _)| byte);
        } else {
            let ahead = self.text[self.byte..].chars().take(wanted - self.char);
            self.byte += ahead.map(char::len_utf8).sum::<usize>();
        }
        self.char = wanted;
        self.byte
    }
}

/// The parser's messages name its own states; these name what the operator did.
fn in_plain_words(info: &str) -> (&str, Option<&'static str>) {
    match info {
        "mapping values are not allowed in this context" => (
            "a `:` stands where no key can be",
            Some("check the indentation, or put the value in quotes when it holds `: `"),
        ),
        "simple key expected" | "simple key expect ':'" => {
            ("a key without its `:`, or a line with the wrong indentation", Some("write `key: value`"))
        }
        "':' must be followed by a valid YAML whitespace" => ("a `:` without a space behind it", None),
        "'-' must be followed by a valid YAML whitespace" => ("a `-` without a space behind it", None),
        "illegal placement of ':' indicator" => {
            ("a `:` stands where no key can be", Some("a `[` or `{` above may not be closed"))
        }
        "while parsing a block mapping, did not find expected key" | "invalid indentation" => (
            "the indentation does not fit what stands above",
            Some("the keys of one mapping begin in the same column"),
        ),
        "while parsing a block collection, did not find expected '-' indicator"
        | "block sequence entries are not allowed in this context" => (
            "the indentation does not fit the list above",
            Some("the items of one list begin with `-` in the same column"),
        ),
        "while scanning a quoted scalar, found unexpected end of stream"
        | "while scanning a quoted scalar, found unexpected document indicator" => {
            ("a quote is opened and never closed", None)
        }
        "invalid indentation in quoted scalar" => {
            ("a quote is not closed, or its text goes on with too little indentation", None)
        }
        "invalid trailing content after double-quoted scalar" => {
            ("more follows a text in quotes", Some("put all of it in quotes"))
        }
        "while parsing a flow mapping, did not find expected ',' or '}'" => {
            ("expected `,` or `}` here", Some("a `{` above may not be closed"))
        }
        "while parsing a flow sequence, expected ',' or ']'" => {
            ("expected `,` or `]` here", Some("a `[` above may not be closed"))
        }
        "invalid indentation in flow construct" => {
            ("a line in brackets begins too far left", Some("a `[` or `{` above may not be closed"))
        }
        "misplaced bracket" => ("a bracket is closed that was not opened", None),
        "while parsing node, found unknown anchor" => (
            "the alias names an anchor that is not above it",
            Some("a text that begins with `*` stands in quotes"),
        ),
        "while scanning an anchor or alias, did not find expected alphabetic or numeric character" => {
            ("a `*` or `&` without a name behind it", Some("a text that begins with it stands in quotes"))
        }
        other if other.starts_with("unexpected character: ") => {
            ("no text without quotes begins like this", Some("put it in quotes"))
        }
        "while parsing a node, did not find expected node content" => ("a value is missing here", None),
        "while parsing a quoted scalar, found unknown escape character" => {
            ("the escape is not known", Some("in single quotes, a `\\` is nothing special"))
        }
        "tabs disallowed within this context (block indentation)"
        | "tabs disallowed in this context"
        | "tab cannot be used as indentation"
        | TAB_BELOW_TEXT => ("a tab is used for indentation", Some("use spaces")),
        "found unprintable character" => ("a character that cannot stand in YAML", None),
        "recursion limit exceeded" => (TOO_DEEP, None),
        other => (other, None),
    }
}

/// Told at the beginning of the text above the tab.
const TAB_BELOW_TEXT: &str = "while scanning a plain scalar, found a tab";

/// The longest file that is read. 10 000 routes need a third of it.
pub(super) const LARGEST_FILE: usize = 8 << 20;
/// Far beyond what the keys need.
const DEEPEST: u32 = 64;
const TOO_DEEP: &str = "values are nested more than 64 levels deep";
/// Values in a document, each alias counted as all that it stands for.
const MOST_NODES: u32 = 1_000_000;
/// Every alias that is written.
const MOST_ALIASES: u32 = 10_000;
const MOST_REFUSALS: usize = 100;
/// A number of fewer characters may be shown where a key belongs.
const SHORTEST_SECRET: usize = 8;
