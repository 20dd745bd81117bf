//! `Diagnostics` and `Scope`: where in the file, what is wrong, what would be right.
//!
//! Compiling a configuration never stops at the first fault. A [`Scope`] knows its place in the tree (`routes[2].target.lambda`),
//! records what it is told and goes on; the places become lines and columns when the faults are drawn.

mod files;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use self::files::{NamedFile, open_regular, read};

/// One step from the root of a file to a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    Key(Rc<str>),
    Index(usize),
}

/// Where a value stands: the steps from the root of the file numbered `file`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Place {
    pub file: usize,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Fault,
    /// The file works, but an operator should look.
    Warning,
}

impl Severity {
    /// As operators and editors know it.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Fault => "error",
            Severity::Warning => "warning",
        }
    }
}

/// Which part of the entry at a place is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Key,
    /// The key, which is not to be shown.
    UnnamedKey,
    Value,
}

/// When a diagnostic holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    Always,
    /// Only when others than its owner can read the file in which the value stands.
    InExposedFiles,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub holds: Holds,
    pub place: Place,
    pub part: Part,
    /// What is wrong, without the place and without a final full stop.
    pub message: String,
    /// What would be right, when that can be said.
    pub hint: Option<String>,
    /// The one that stands first, where two cannot both stand.
    pub first: Option<Place>,
}

/// Everything that was found in one run, and which files were read for it. Shared by the scopes of one load.
#[derive(Debug, Default)]
pub struct Diagnostics {
    found: RefCell<Vec<Diagnostic>>,
    /// By path, a digest of what was read of them.
    files: RefCell<BTreeMap<PathBuf, u64>>,
    base: PathBuf,
    is_outside: bool,
}

impl Diagnostics {
    /// Relative paths in the configuration start at `base`.
    pub fn new(base: PathBuf) -> Self {
        Diagnostics { base, ..Diagnostics::default() }
    }

    /// This process is not the service: what systemd and the system show or allow to that one only cannot be known.
    pub fn from_outside(self) -> Self {
        Diagnostics { is_outside: true, ..self }
    }

    pub fn push(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    pub fn has_faults(&self) -> bool {
        self.found.borrow().iter().any(|d| d.severity == Severity::Fault)
    }

    /// The places of the faults found so far.
    pub fn faulty_places(&self) -> Vec<Place> {
        let found = self.found.borrow();
        found.iter().filter(|d| d.severity == Severity::Fault).map(|d| d.place.clone()).collect()
    }

    /// Keeps of the faults that `look` finds only those for which `holds` is true of their place.
    pub fn filtered(&self, holds: impl Fn(&Place) -> bool, look: impl FnOnce()) {
        let before = self.found.borrow().len();
        look();
        let mut found = self.found.borrow_mut();
        let new = found.split_off(before);
        found.extend(new.into_iter().filter(|d| d.severity == Severity::Warning || holds(&d.place)));
    }

    /// The files that values name and that were read, or should have been; each with a digest of what was read.
    pub fn files(&self) -> BTreeMap<PathBuf, u64> {
        self.files.borrow().clone()
    }

    /// What holds whoever can read the files.
    pub fn into_inner(self) -> Vec<Diagnostic> {
        self.into_all().into_iter().filter(|d| d.holds == Holds::Always).collect()
    }

    /// Also what depends on who can read them.
    pub fn into_all(self) -> Vec<Diagnostic> {
        self.found.into_inner()
    }
}

/// A place in the file, and the book into which faults found there are written.
#[derive(Clone)]
pub struct Scope<'a> {
    book: &'a Diagnostics,
    place: Place,
}

impl<'a> Scope<'a> {
    pub fn root(book: &'a Diagnostics, file: usize) -> Self {
        Scope { book, place: Place { file, steps: Vec::new() } }
    }

    /// Whether what the service alone can see or do is unknown here.
    pub fn is_outside(&self) -> bool {
        self.book.is_outside
    }

    /// The scope of the value under `key`.
    pub fn key(&self, key: &str) -> Scope<'a> {
        self.step(Step::Key(key.into()))
    }

    /// The scope of the item at `index`.
    pub fn index(&self, index: usize) -> Scope<'a> {
        self.step(Step::Index(index))
    }

    /// The scope of a place that another one of the same book had.
    pub fn at(&self, place: Place) -> Scope<'a> {
        Scope { book: self.book, place }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The path a value names.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.book.base.join(path)
    }

    /// The file a value names, for reading; its change is a change of the configuration.
    pub fn file(&self, path: impl AsRef<Path>) -> NamedFile<'a> {
        let path = self.path(path);
        self.book.files.borrow_mut().entry(path.clone()).or_default();
        NamedFile { book: self.book, path }
    }

    /// Records a fault at this place.
    pub fn reject(&self, message: impl Into<String>) {
        self.record(Severity::Fault, Part::Value, message.into(), None);
    }

    /// Records a fault at this place and what would be right.
    pub fn reject_with(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.record(Severity::Fault, Part::Value, message.into(), Some(hint.into()));
    }

    /// Records a fault of the key at this place, whatever its value.
    pub fn reject_key(&self, message: impl Into<String>, hint: Option<String>) {
        self.record(Severity::Fault, Part::Key, message.into(), hint);
    }

    /// Records a fault of the key at this place, which may be a secret.
    pub fn reject_unnamed_key(&self, message: impl Into<String>, hint: Option<String>) {
        self.record(Severity::Fault, Part::UnnamedKey, message.into(), hint);
    }

    /// Records that this and what stands at `first` cannot both stand.
    pub fn reject_second(&self, message: impl Into<String>, hint: Option<&str>, first: Place) {
        self.book.push(Diagnostic {
            severity: Severity::Fault,
            holds: Holds::Always,
            place: self.place.clone(),
            part: Part::Value,
            message: message.into(),
            hint: hint.map(str::to_owned),
            first: Some(first),
        });
    }

    /// Records something that works but deserves a look.
    pub fn warn(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.record(Severity::Warning, Part::Value, message.into(), Some(hint.into()));
    }

    /// Records a warning that holds only when others than its owner can read the file in which the value stands.
    pub fn warn_if_exposed(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.book.push(Diagnostic {
            severity: Severity::Warning,
            holds: Holds::InExposedFiles,
            place: self.place.clone(),
            part: Part::Value,
            message: message.into(),
            hint: Some(hint.into()),
            first: None,
        });
    }

    /// Unwraps a result whose error is the fault's text.
    pub fn accept<T>(&self, result: Result<T, Invalid>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Invalid { message, hint }) => {
                self.record(Severity::Fault, Part::Value, message, hint);
                None
            }
        }
    }

    fn step(&self, step: Step) -> Scope<'a> {
        let mut place = self.place.clone();
        place.steps.push(step);
        Scope { book: self.book, place }
    }

    fn record(&self, severity: Severity, part: Part, message: String, hint: Option<String>) {
        let (holds, place) = (Holds::Always, self.place.clone());
        self.book.push(Diagnostic { severity, holds, place, part, message, hint, first: None });
    }
}

/// Why a scalar is not what it should be. [`Scope::accept`] adds the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub message: String,
    pub hint: Option<String>,
}

impl Invalid {
    pub fn new(message: impl Into<String>) -> Self {
        Invalid { message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for Place {
    /// `routes[2].target.lambda.region`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The known word nearest to a misspelt one, when one is near enough to be meant. `no` is not near to `on`, nor `Async` to `sync`
/// where `async` is known.
pub fn did_you_mean<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let limit = word.chars().count() / 3;
    let word = word.to_lowercase();
    known
        .into_iter()
        // The distance is at least the difference in length, which costs nothing to know.
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= limit)
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A key that may be absent: `None` when what is given is faulty.
pub fn given<T, U>(raw: Option<T>, compile: impl FnOnce(T) -> Option<U>) -> Option<Option<U>> {
    raw.map_or(Some(None), |raw| compile(raw).map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_like_a_path() {
        let book = Diagnostics::default();
        Scope::root(&book, 0).key("routes").index(2).key("target").reject("wrong");
        let found = book.into_inner();
        assert_eq!(found[0].place.to_string(), "routes[2].target");
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["function_uri", "timeout", "ssl_verify"];
        assert_eq!(did_you_mean("functon_uri", known), Some("function_uri"));
        assert_eq!(did_you_mean("timout", known), Some("timeout"));
        assert_eq!(did_you_mean("banana", known), None);
        assert_eq!(did_you_mean("Async", ["sync", "async"]), Some("async"));
        assert_eq!(did_you_mean("IMDS", ["env", "imds"]), Some("imds"));
        assert_eq!(did_you_mean("no", ["on", "off"]), None);
    }
}
