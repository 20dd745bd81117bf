//! `Report`: everything found in one load, drawn for a terminal or written as JSON.
//!
//! It shows lines of the files, so it is the place where secrets are hidden.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::source::Source;
use super::tree::Span;
use crate::diag::Severity;

/// What a load found, sorted by file and line; the faults of one line in the order in which they were found.
#[derive(Default)]
pub struct Report {
    findings: Vec<Finding>,
    /// How many more there were than are kept.
    left_out: usize,
}

/// One fault or warning, without its drawing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: String,
    /// From 1. Both are missing when the file as a whole is meant.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    pub severity: Severity,
    /// `routes[2].target.http.url`; empty for the whole file.
    pub path: String,
    pub message: String,
    pub hint: Option<String>,
    excerpt: Option<Excerpt>,
}

/// A line as it may be shown, and which bytes of it are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    line: String,
    marked: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Coloured,
}

/// A finding before its line is cut out.
pub(super) struct Found {
    pub(super) severity: Severity,
    pub(super) file: usize,
    pub(super) span: Option<Span>,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// More than these are counted, not shown.
const MOST_FINDINGS: usize = 1_000;
/// Characters of a line that are shown.
const LONGEST_LINE: usize = 120;
const HIDDEN: &str = "***";

impl Report {
    /// `secrets` are the spans that must not be shown.
    pub(super) fn new(mut found: Vec<Found>, sources: &[Source], mut secrets: Vec<Span>) -> Self {
        secrets.sort();
        secrets.dedup();
        let place = |found: &Found| (found.file, found.span.map(|span| span.start));
        found.sort_by_key(|found| place(found));
        // One inherited fault is found again in every route that inherits it.
        let mut seen = HashSet::new();
        found.retain(|found| seen.insert((place(found), found.message.clone(), found.hint.clone())));
        let left_out = found.len().saturating_sub(MOST_FINDINGS);
        // Faults are worth more than warnings when not all can be kept.
        if left_out > 0 {
            found.sort_by_key(|found| found.severity);
            found.truncate(MOST_FINDINGS);
            found.sort_by_key(|found| place(found));
        }
        let findings = found.into_iter().map(|found| Finding::new(found, sources, &secrets)).collect();
        Report { findings, left_out }
    }

    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    pub fn faults(&self) -> usize {
        self.count(Severity::Fault)
    }

    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// All findings, each with its line, and a last line that counts them; empty when there are none.
    pub fn render(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        // Lines are cut already.
        let renderer = renderer.term_width(usize::from(u16::MAX));
        let mut out = String::new();
        for finding in &self.findings {
            finding.draw(&renderer, &mut out);
            out.push_str("\n\n");
        }
        if !self.findings.is_empty() {
            out.push_str(&self.summary());
            out.push('\n');
        }
        out
    }

    /// `2 errors, 1 warning`
    pub fn summary(&self) -> String {
        let counted = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let mut parts = Vec::new();
        if self.faults() > 0 {
            parts.push(counted(self.faults(), "error"));
        }
        if self.warnings() > 0 {
            parts.push(counted(self.warnings(), "warning"));
        }
        if self.left_out > 0 {
            parts.push(format!("{} more not shown", self.left_out));
        }
        if parts.is_empty() { "no errors".to_owned() } else { parts.join(", ") }
    }

    /// An array of findings: file, line, column, severity, path, message, hint.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Array(self.findings.iter().map(Finding::to_json).collect())
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report({})", self.summary())
    }
}

impl Finding {
    fn new(found: Found, sources: &[Source], secrets: &[Span]) -> Self {
        let Found { severity, file, span, path, message, hint } = found;
        let source = &sources[file];
        let place = span.map(|span| {
            let line = source.line_of(span.start);
            let column = source.text[source.line(line).start..span.start].chars().count();
            (line + 1, column + 1, excerpt(source, line, span, secrets))
        });
        Finding {
            file: shown_path(&source.path),
            line: place.as_ref().map(|(line, ..)| *line),
            column: place.as_ref().map(|(_, column, _)| *column),
            severity,
            path: shown(&path),
            message: shown(&message),
            hint: hint.as_deref().map(shown),
            excerpt: place.map(|(.., excerpt)| excerpt),
        }
    }

    fn draw(&self, renderer: &Renderer, out: &mut String) {
        let level = match self.severity {
            Severity::Fault => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = match self.path.as_str() {
            "" => self.message.clone(),
            path => format!("{path}: {}", self.message),
        };
        let mut group = level.primary_title(title).elements(None::<Origin<'_>>);
        match (self.line, &self.excerpt) {
            (Some(line), Some(Excerpt { line: text, marked })) => {
                let annotation = AnnotationKind::Primary.span(marked.clone());
                let snippet = Snippet::source(text).path(&self.file).line_start(line);
                group = group.element(snippet.annotation(annotation));
            }
            _ => group = group.element(Origin::path(&self.file)),
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint));
        }
        out.push_str(&self.with_column(renderer.render(&[group])));
    }

    /// The drawing names the column in the line as it is shown; the file's own is another one when something was hidden or cut.
    fn with_column(&self, drawn: String) -> String {
        let (Some(line), Some(column), Some(excerpt)) = (self.line, self.column, &self.excerpt) else {
            return drawn;
        };
        let shown = excerpt.line[..excerpt.marked.start].chars().count() + 1;
        if shown == column {
            return drawn;
        }
        let at = |column| format!("{}:{line}:{column}", self.file);
        drawn.replacen(&at(shown), &at(column), 1)
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "severity": self.severity.word(),
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
        })
    }
}

/// `file:line:column: path: message`, for logs.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Cuts out the line of a span: secrets hidden, control characters visible, and not longer than a terminal bears.
fn excerpt(source: &Source, line: usize, span: Span, secrets: &[Span]) -> Excerpt {
    let bounds = source.line(line);
    let marked = span.start.min(bounds.end)..span.end.clamp(span.start.min(bounds.end), bounds.end);
    let on_line =
        |secret: &&Span| secret.file == span.file && secret.start < bounds.end && secret.end > bounds.start;
    let text = &source.text[bounds.clone()];
    let in_text = hidden(text).into_iter().map(|at| Span {
        file: span.file,
        start: bounds.start + at.start,
        end: bounds.start + at.end,
    });
    let secrets: Vec<Span> = secrets.iter().filter(on_line).copied().chain(in_text).collect();
    let mut out = Excerpt { line: String::new(), marked: 0..0 };
    let first = bounds
        .start
        .max(cut_before(&source.text[bounds.clone()], marked.start - bounds.start) + bounds.start);
    if first > bounds.start {
        out.line.push('…');
    }
    let (mut at, mut shown) = (first, 0);
    let mut start = None;
    while at < bounds.end && shown < LONGEST_LINE {
        let secret = secrets.iter().find(|secret| (secret.start..secret.end).contains(&at));
        if start.is_none() && (at >= marked.start || secret.is_some_and(|secret| secret.end > marked.start)) {
            start = Some(out.line.len());
        }
        let before = out.line.len();
        match (secret, source.text[at..].chars().next()) {
            (Some(secret), _) => {
                out.line.push_str(HIDDEN);
                at = secret.end.min(bounds.end);
            }
            (None, Some(c)) => {
                out.line.push_str(&visible(c.encode_utf8(&mut [0; 4])));
                at += c.len_utf8();
            }
            (None, None) => break,
        }
        shown += out.line[before..].chars().count();
        if at <= marked.end || start == Some(before) {
            out.marked.end = out.line.len();
        }
    }
    let start = start.unwrap_or(out.line.len());
    out.marked = start..out.marked.end.max(start);
    if at < bounds.end {
        out.line.push('…');
    }
    out
}

/// What a text gives away by its form: passwords, queries, keys. In order, and no two touch.
fn hidden(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<_> = passwords(text).chain(queries(text)).chain(pasted_key(text)).collect();
    found.sort_by_key(|range| range.start);
    found.dedup_by(|next, kept| {
        let touches = next.start <= kept.end;
        if touches {
            kept.end = kept.end.max(next.end);
        }
        touches
    });
    found
}

/// What stands before an `@`, unless it can only be a path: it has no business there, but somebody will try.
fn passwords(text: &str) -> impl Iterator<Item = Range<usize>> {
    words(text).filter_map(|word| {
        let start = word.start + text[word.clone()].find("://").map_or(0, |at| at + "://".len());
        let end = start + text[start..word.end].rfind('@')?;
        let user = &text[start..end];
        let is_path = user.contains('/') && !user.contains(':');
        (!user.is_empty() && !is_path).then_some(start..end)
    })
}

/// What stands in quotes, or between blanks.
fn words(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut quote = None;
    let mut last = ' ';
    let mut start = 0;
    let end = text.len();
    text.char_indices().chain([(end, ' ')]).filter_map(move |(at, c)| {
        let opens = quote.is_none() && QUOTES.contains(&c) && !last.is_alphanumeric();
        let ends = opens || quote == Some(c) || (quote.is_none() && c.is_whitespace()) || at == end;
        last = c;
        if !ends {
            return None;
        }
        quote = opens.then_some(c);
        let word = start..at;
        start = (at + c.len_utf8()).min(end);
        (!word.is_empty()).then_some(word)
    })
}

/// What stands behind the `?` of the URIs in this text: for some functions it is their key.
fn queries(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut rest = 0;
    while let Some(question) = text[rest..].find('?').map(|at| rest + at) {
        let start = question + 1;
        let before = text[..question].rsplit(|c: char| c.is_whitespace() || QUOTES.contains(&c)).next();
        let before = before.unwrap_or_default();
        let quote = text[..question - before.len()].chars().next_back().filter(|c| QUOTES.contains(c));
        let ends = |c: char| quote.map_or(c.is_whitespace(), |quote| c == quote);
        let end = text[start..].find(ends).map_or(text.len(), |at| start + at);
        // What closes brackets around a URI without quotes.
        let closing: &[char] = if quote.is_none() { &[',', '}', ']'] } else { &[] };
        let query = text[start..end].trim_end_matches(closing);
        let is_query = before.contains("://") || query.contains('=');
        if is_query && !query.is_empty() {
            found.push(start..start + query.len());
        }
        rest = end;
    }
    found
}

/// A key that stands where its file's name belongs.
fn pasted_key(text: &str) -> Option<Range<usize>> {
    text.find("-----BEGIN").map(|start| start..text.len())
}

const QUOTES: [char; 3] = ['"', '\'', '`'];

/// Where a long line begins to be shown, so that what is meant is in sight.
fn cut_before(line: &str, marked: usize) -> usize {
    let before = line[..marked].chars().count();
    if before < LONGEST_LINE / 2 || line.chars().nth(LONGEST_LINE).is_none() {
        return 0;
    }
    line[..marked].char_indices().nth(before - LONGEST_LINE / 4).map_or(0, |(at, _)| at)
}

/// The text with control characters escaped, and those that turn its direction.
fn visible(text: &str) -> String {
    let is_treacherous = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_treacherous(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A text about the file, without what its form gives away.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for range in hidden(text) {
        out.push_str(&text[at..range.start]);
        out.push_str(HIDDEN);
        at = range.end;
    }
    out.push_str(&text[at..]);
    visible(&out)
}

fn shown_path(path: &Path) -> String {
    visible(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(shown(text), expected);
    }

    #[test]
    fn queries_are_hidden_and_other_question_marks_are_not() {
        check("`https://h/?a'b=c` is wrong", "`https://h/?***` is wrong");
        check("[http://h/?a, 'http://h/?b c', x?y=z]", "[http://h/?***, 'http://h/?***', x?***]");
        check("\"a\"? \"http://h/?ä\"", "\"a\"? \"http://h/?***\"");
        check("did you mean `body`?", "did you mean `body`?");
        check("`conf.d/a?.yaml` matches no file", "`conf.d/a?.yaml` matches no file");
        check("https://h/? x", "https://h/? x");
    }

    #[test]
    fn what_may_be_a_password_is_hidden_and_other_ats_are_not() {
        check("`http:/u:p@a` is wrong", "`***@a` is wrong");
        check("'u:p@a:80', u:p@b, 'u:p/p p@c'", "'***@a:80', ***@b, '***@c'");
        check("https://t@h/a, https://u:p/p@h", "https://***@h/a, https://***@h");
        check("https://h:80/?code=a@b", "https://***");
        check("`/users/@me` and https://h/@me don't `@x`", "`/users/@me` and https://h/@me don't `@x`");
    }

    #[test]
    fn a_line_of_marks_is_read_once() {
        for mark in ["?", "@", "'"] {
            assert!(hidden(&mark.repeat(1 << 20)).len() <= 1);
        }
    }
}
