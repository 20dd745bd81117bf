//! `load`: from a file to a [`Plan`], or to everything that is wrong with it.
//!
//! ```text
//! bytes ─ source → tree ─ document (defaults merged) ─ shape (all structural faults) → raw ─ settings, routes → Plan
//! ```
//!
//! A load never stops at the first fault and never changes anything. What is shown of a file is decided in `report`, so that no
//! secret is.

mod document;
mod hints;
mod parse;
mod raw;
mod report;
mod routes;
mod schema;
mod settings;
mod shape;
mod source;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use serde::de::DeserializeOwned;

use self::document::Document;
use self::parse::{Parsed, Refusal};
use self::report::Found;
pub use self::report::{Finding, Report, Style};
use self::routes::Routes;
use self::shape::{Seen, Shape};
use self::source::{Exposure, Source};
use self::tree::{Entry, Node, Span, looks_like_a_key};
use crate::diag::{Diagnostic, Diagnostics, Holds, Invalid, Part, Place, Scope, Severity, Step};
use crate::snapshot::{Plan, Route, Settings};

/// What came of a file.
#[derive(Debug)]
pub struct Loaded {
    /// Missing when there is a fault.
    pub plan: Option<Plan>,
    pub report: Report,
    /// All whose change can change the plan: the files, those they name, and the directories of `include`'s patterns.
    pub files: Vec<PathBuf>,
}

/// Reads and compiles a configuration, to serve it.
pub fn load(path: &Path) -> Loaded {
    load_source(path, Source::read(path), book(path))
}

/// The same from outside of the service, where systemd's credentials cannot be seen, and other files may be closed: that is no fault.
pub fn check(path: &Path) -> Loaded {
    load_source(path, Source::read(path), book(path).from_outside())
}

/// Compiles a configuration that is not in a file. `path` is what it is called, and where relative paths start.
pub fn load_text(path: &Path, text: String) -> Loaded {
    let source = Source::checked(path, text.into_bytes(), Exposure::Private, source::THE_FILE);
    load_source(path, source, book(path))
}

/// Relative paths start where the file is.
fn book(path: &Path) -> Diagnostics {
    Diagnostics::new(path.parent().map(Path::to_owned).unwrap_or_default())
}

fn load_source(path: &Path, source: Result<Source, Invalid>, book: Diagnostics) -> Loaded {
    let mut loader = Loader::new(&book);
    let compiled = loader.load(path, source);
    let Loader { mut files, sources, documents, mut found, seen, .. } = loader;

    let named = book.files();
    let hash = digest(&sources, &named);
    files.extend(named.into_keys());
    found.extend(book.into_all().into_iter().filter_map(|d| locate(d, &documents, &sources)));
    let is_faultless = found.iter().all(|found| found.severity != Severity::Fault);
    let plan = compiled.filter(|_| is_faultless).map(|(settings, routes)| Plan { settings, routes, hash });
    let report = Report::new(found, &sources, seen.secrets);
    Loaded { plan, report, files: files.into_iter().collect() }
}

/// The JSON Schema (draft-07) of a configuration, for editors.
pub fn schema() -> serde_json::Value {
    schema::for_editors()
}

/// The shapes of both kinds of files. They are the same for every load.
struct Shapes {
    main: Shape,
    included: Shape,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let main = schema::schema();
    Shapes { main: Shape::of(&main), included: Shape::of(&schema::included(&main)) }
});

struct Loader<'b> {
    book: &'b Diagnostics,
    files: BTreeSet<PathBuf>,
    sources: Vec<Source>,
    /// By the number of the source; nothing for what could not be read.
    documents: Vec<Option<Document>>,
    found: Vec<Found>,
    seen: Seen,
}

impl<'b> Loader<'b> {
    fn new(book: &'b Diagnostics) -> Self {
        Loader {
            book,
            files: BTreeSet::new(),
            sources: Vec::new(),
            documents: Vec::new(),
            found: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn load(&mut self, path: &Path, source: Result<Source, Invalid>) -> Option<(Settings, Vec<Route>)> {
        let root = self.take_in(path, source, None)?;
        let defaults =
            root.as_mapping().and_then(|root| root.get("defaults")).map(|entry| Rc::clone(&entry.value));
        let document = Document::new(root, Self::target_shape(), defaults.as_deref());
        let scope = Scope::root(self.book, MAIN);
        SHAPES.main.check(&document.root, &scope, &mut self.seen);
        let included = self.expand_includes(path, &document, &scope.key("include"));
        self.documents.push(Some(document));
        for (path, named_at) in included {
            let root = self.take_in(&path, Source::read_included(&path), Some(&named_at));
            let document = root.map(|root| Document::new(root, Self::target_shape(), defaults.as_deref()));
            if let Some(document) = &document {
                let scope = Scope::root(self.book, self.documents.len());
                SHAPES.included.check(&document.root, &scope, &mut self.seen);
            }
            self.documents.push(document);
        }
        self.compile()
    }

    fn target_shape() -> Option<&'static Shape> {
        SHAPES.main.key("routes")?.item()?.key("target")
    }

    /// Gives a file the next number and parses it. `named_at` is where another file includes it.
    fn take_in(
        &mut self,
        path: &Path,
        source: Result<Source, Invalid>,
        named_at: Option<&Scope<'_>>,
    ) -> Option<Rc<Node>> {
        let file = self.sources.len();
        self.files.insert(path.to_owned());
        let source = match source {
            Ok(source) => source,
            Err(invalid) => {
                self.sources.push(Source::missing(path));
                match named_at {
                    Some(scope) => drop(scope.accept::<()>(Err(invalid))),
                    None => self.found.push(Found::of_file(file, invalid.message, invalid.hint)),
                }
                return None;
            }
        };
        let Parsed { root, refusals, dropped } = parse::parse(&source.text, file);
        if root.is_none() && refusals.is_empty() {
            let hint = "a file without routes says `routes: []`";
            self.found.push(Found::of_file(file, "the file is empty".to_owned(), Some(hint.to_owned())));
        }
        self.seen.secrets.extend(dropped);
        for Refusal { span, path, message, hint } in refusals {
            if root.is_none() {
                self.seen.secrets.extend(secret_near(&source, span));
            }
            let severity = Severity::Fault;
            self.found.push(Found { severity, file, span: Some(span), path, message, hint });
        }
        self.sources.push(source);
        root
    }

    /// The files, each with the place that names it.
    fn expand_includes<'s>(
        &mut self,
        main: &Path,
        document: &Document,
        scope: &Scope<'s>,
    ) -> Vec<(PathBuf, Scope<'s>)> {
        let base = main.parent().unwrap_or(Path::new(""));
        let patterns = document.top("include").and_then(|patterns| patterns.as_list()).unwrap_or_default();
        let mut paths = Vec::new();
        for (i, pattern) in patterns.iter().enumerate() {
            let (scope, Some(pattern)) = (scope.index(i), pattern.as_text()) else { continue };
            if let Some(directory) = base.join(pattern).parent() {
                let is_here = directory.as_os_str().is_empty();
                self.files.insert(if is_here { PathBuf::from(".") } else { directory.to_owned() });
            }
            let Some(hits) = scope.accept(source::expand(base, pattern)) else { continue };
            if hits.is_empty() {
                scope.warn(
                    format!("`{pattern}` matches no file"),
                    "relative paths start at this file's directory",
                );
            }
            // `*.yaml` beside the main file means the others.
            let main = fs::canonicalize(main).ok();
            let hits = hits.into_iter().filter(|path| main.is_none() || fs::canonicalize(path).ok() != main);
            paths.extend(hits.map(|path| (path, scope.clone())));
        }
        let mut seen = HashSet::new();
        paths.retain(|(path, _)| seen.insert(path.clone()));
        paths
    }

    /// Compiles what has the right shape; the rest has its faults already.
    fn compile(&self) -> Option<(Settings, Vec<Route>)> {
        let faults = [self.book.faulty_places(), self.seen.lacking.clone()].concat();
        let settings = self.compile_settings(&faults);
        let routes = self.compile_routes(settings.as_ref(), &faults);
        settings.zip(routes)
    }

    fn compile_settings(&self, faults: &[Place]) -> Option<Settings> {
        let scope = Scope::root(self.book, MAIN);
        let document = self.documents.first()?.as_ref()?;
        let mut values = serde_yaml::Mapping::new();
        for Entry { key, value, .. } in &document.root.as_mapping()?.entries {
            if !matches!(&**key, "routes" | "defaults" | "include") {
                values.entry((&**key).into()).or_insert_with(|| value.to_serde());
            }
        }
        let mut values = serde_yaml::Value::Mapping(values);
        let mut settings = None;
        let pruned = prune(&mut values, scope.place(), faults);
        self.book.filtered(
            |place| !is_around(place, &pruned),
            || settings = scope.accept(read_raw(values)).and_then(|raw| settings::compile(raw, &scope)),
        );
        settings
    }

    fn compile_routes(&self, settings: Option<&Settings>, faults: &[Place]) -> Option<Vec<Route>> {
        let root = Scope::root(self.book, MAIN);
        let mut credentials: HashMap<(usize, &[Step]), Vec<Scope<'_>>> = HashMap::new();
        for place in &self.seen.credentials {
            if let Some(route) = place.steps.get(..2) {
                credentials.entry((place.file, route)).or_default().push(root.at(place.clone()));
            }
        }
        let mut routes = Routes::new(settings);
        for (file, document) in self.documents.iter().enumerate() {
            let list = Scope::root(self.book, file).key("routes");
            for (i, route) in document.iter().flat_map(Document::routes).enumerate() {
                let scope = list.index(i);
                let mut values = route.to_serde();
                let pruned = prune(&mut values, scope.place(), faults);
                if !pruned.is_empty() {
                    // Without what it lacks, it may not even be read; that has been said already.
                    if let Ok(raw) = read_raw(values) {
                        let look = || routes.inspect(raw, &scope);
                        self.book.filtered(|place| !is_around(place, &pruned), look);
                    }
                    continue;
                }
                let own = credentials.get(&(file, scope.place().steps.as_slice()));
                if let Some(raw) = scope.accept(read_raw(values)) {
                    routes.add(raw, own.map_or(&[], Vec::as_slice), &scope);
                }
            }
        }
        let has_routes = self.documents.iter().flatten().any(|document| !document.routes().is_empty());
        if !has_routes && !self.book.has_faults() {
            root.key("routes").warn("there are no routes", "every request will be answered with 404");
        }
        routes.finish(&root)
    }
}

/// Takes the faulty parts below `root` out of its value, so that the rest can be looked at. A list goes as a whole: the places of
/// its items would change. Gives the places of what is gone.
fn prune(value: &mut serde_yaml::Value, root: &Place, faults: &[Place]) -> Vec<Place> {
    let mut pruned = Vec::new();
    for fault in faults.iter().filter(|fault| fault.file == root.file) {
        let Some(below) = fault.steps.strip_prefix(root.steps.as_slice()) else { continue };
        let keys: Vec<&str> = below
            .iter()
            .map_while(|step| match step {
                Step::Key(key) => Some(&**key),
                Step::Index(_) => None,
            })
            .collect();
        if let Some((last, parents)) = keys.split_last()
            && let Some(parent) = parents.iter().try_fold(&mut *value, |value, key| value.get_mut(*key))
            && let Some(parent) = parent.as_mapping_mut()
        {
            parent.remove(*last);
        }
        let steps = fault.steps[..root.steps.len() + keys.len()].to_vec();
        pruned.push(Place { file: fault.file, steps });
    }
    pruned
}

/// Whether something is missing at or below this place, so that what is said of it may not hold.
fn is_around(place: &Place, pruned: &[Place]) -> bool {
    pruned.iter().any(|gone| gone.file == place.file && gone.steps.starts_with(&place.steps))
}

/// What of a line that was not understood may be a secret, by the keys that stand in it, above it and beside it.
fn secret_near(source: &Source, fault: Span) -> Option<Span> {
    let mut secret_keys = Vec::new();
    SHAPES.main.secret_keys(&mut secret_keys);
    let number = source.line_of(fault.start);
    let line = source.line(number);
    let text = &source.text[line.clone()];
    let from = |start: usize| Span { file: fault.file, start: line.start + start, end: line.end };
    let behind_colon = |start: usize| {
        let value = text[start..].find(':').map_or(start, |colon| start + colon + 1);
        from(value + text[value..].len() - text[value..].trim_start().len())
    };
    let after_key = |key: &String| Some(text.find(key.as_str())? + key.len());
    if let Some(start) = secret_keys.iter().filter_map(after_key).min() {
        return Some(behind_colon(start));
    }
    let mut indent = indent_of(text);
    for number in (0..number).rev() {
        let above = &source.text[source.line(number)];
        // What stands further to the left begins an outer mapping; what is inside of others is none of this line's business.
        if above.trim().is_empty() || indent_of(above) > indent {
            continue;
        }
        indent = indent_of(above);
        if secret_keys.iter().any(|secret| above.contains(secret.as_str())) {
            let key = text.trim_start().split(':').next().unwrap_or_default();
            return Some(if looks_like_a_key(key) { behind_colon(0) } else { from(indent_of(text)) });
        }
    }
    None
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The number of the file that was asked for.
const MAIN: usize = 0;

/// What passed its shape can be read; a difference between schema and `serde` would show here.
fn read_raw<T: DeserializeOwned>(value: serde_yaml::Value) -> Result<T, Invalid> {
    serde_yaml::from_value(value).map_err(|e| Invalid::new(format!("this cannot be read: {e}")))
}

impl Found {
    fn of_file(file: usize, message: String, hint: Option<String>) -> Self {
        Found { severity: Severity::Fault, file, span: None, path: String::new(), message, hint }
    }
}

/// Puts a diagnostic where its value really stands, which for an inherited one is not where it was found.
fn locate(diagnostic: Diagnostic, documents: &[Option<Document>], sources: &[Source]) -> Option<Found> {
    let Diagnostic { severity, holds, mut place, part, message, hint, first } = diagnostic;
    let span = |place: &Place, part| documents.get(place.file)?.as_ref()?.locate(place, part);
    let marked = span(&place, part);
    let file = marked.map_or(place.file, |span| span.file);
    if holds == Holds::InExposedFiles && sources[file].exposure == Exposure::Private {
        return None;
    }
    let first = first.and_then(|first| span(&first, part)).map(|first| {
        let line = sources[first.file].line_of(first.start) + 1;
        match first.file == file {
            true => format!("the first one is in line {line}"),
            false => format!("the first one is in {}, line {line}", sources[first.file].path.display()),
        }
    });
    let hint = match (first, hint) {
        (Some(first), Some(hint)) => Some(format!("{first}; {hint}")),
        (first, hint) => first.or(hint),
    };
    if part == Part::UnnamedKey {
        place.steps.pop();
    }
    Some(Found { severity, file, span: marked, path: place.to_string(), message, hint })
}

/// Equal files give equal digests: of the configuration's own and of those it names, as they were when they were compiled.
fn digest(sources: &[Source], named: &BTreeMap<PathBuf, u64>) -> String {
    let mut hasher = DefaultHasher::new();
    sources.iter().for_each(|source| source.text.hash(&mut hasher));
    named.values().for_each(|digest| digest.hash(&mut hasher));
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests;
