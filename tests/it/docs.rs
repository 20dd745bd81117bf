//! The documentation keeps up: every key, code, metric and field of the log stands in the README, and what it calls a
//! whole file is one. ARCHITECTURE.md has every module, and its layers are those of the imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fngate::config;
use fngate::error::{GatewayError, Reported};
use fngate::telemetry::{AccessLog, End, Entry, Metrics, Retry, Sink};
use serde_json::Value;

use crate::harness::*;

const README: &str = include_str!("../../README.md");
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

#[test]
fn every_key_is_explained() {
    let mut keys = BTreeSet::new();
    collect_keys(&config::schema(), &mut keys);
    assert!(keys.len() > 50, "the schema has its keys elsewhere now: {keys:?}");
    demand(keys, &in_code(README));
}

#[test]
fn every_code_is_explained_with_its_status() {
    let mut codes: BTreeSet<_> = families("failures_total").filter_map(|line| label(line, "code")).collect();
    for error in ERRORS {
        let row = format!("\n| `{}` | {} |", error.code(), error.status().as_u16());
        assert!(README.contains(&row), "README.md has no row that begins with {row:?}");
        codes.remove(error.code());
    }
    for reported in Reported::ALL {
        assert!(in_code(README).contains(reported.code()), "{} is not explained", reported.code());
        codes.remove(reported.code());
    }
    assert!(codes.is_empty(), "not in the list of this test: {codes:?}");
}

#[test]
fn every_metric_is_explained_with_its_labels() {
    let mut missing = String::new();
    for line in exposed().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        let explained = match name.strip_prefix("process_") {
            Some(_) => "`process_*`".to_owned(),
            None => format!("`{name}`"),
        };
        let row = README.lines().find(|row| row.starts_with('|') && row.contains(&explained));
        let Some(row) = row else {
            let _ = writeln!(missing, "{name}");
            continue;
        };
        for label in labels_of(name) {
            if !row.contains(&format!("`{label}`")) {
                let _ = writeln!(missing, "{name}: {label}");
            }
        }
    }
    assert!(missing.is_empty(), "not in README.md:\n{missing}");
}

#[test]
fn every_field_of_the_log_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let log = AccessLog::start(&Sink::File(file.clone()), Metrics::new().access_log_dropped()).unwrap();
    log.record(&Entry {
        ts: SystemTime::now(),
        request_id: "1",
        route: None,
        platform: None,
        method: "GET",
        host: None,
        path: b"/",
        status: 200,
        reason: None,
        duration: Duration::ZERO,
        connect: None,
        first_byte: None,
        bytes_in: 0,
        bytes_out: 0,
        attempts: 0,
        reused: None,
        upstream: None,
        client: None,
        protocol: http::Version::HTTP_11,
        cold: Some(Duration::from_millis(1)),
        queued: Some(Duration::from_millis(1)),
        activation_id: Some(b"1"),
    });
    assert!(log.flush(Duration::from_secs(10)));

    let line: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let fields: BTreeSet<_> = line.as_object().unwrap().keys().cloned().collect();
    demand(fields, &in_code(section(README, "### Access log")));
}

#[tokio::test]
async fn whole_files_pass_the_check() {
    let files: Vec<_> = blocks(README, "yaml").filter(|text| text.starts_with("# fngate.yaml\n")).collect();
    assert!(files.len() >= 4, "README.md marks whole files in another way now");
    for text in files {
        check(text).await.accepts();
    }
}

#[test]
fn every_module_is_on_the_map() {
    let modules = include_str!("../../src/lib.rs").lines();
    let modules: BTreeSet<_> = modules
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert!(modules.len() > 15, "{modules:?}");
    demand(modules, &in_code(ARCHITECTURE));
}

#[test]
fn the_layers_are_those_of_the_imports() {
    let rows: Vec<_> = section(ARCHITECTURE, "## Layers").lines().filter_map(Row::parse).collect();
    let height_of: BTreeMap<&str, u32> =
        rows.iter().flat_map(|row| row.modules.iter().map(|module| (*module, row.height))).collect();
    let named: BTreeSet<_> = rows.iter().flat_map(|row| row.arrows.iter().copied()).collect();
    let mut unused = named.clone();

    let mut wrong = BTreeSet::new();
    for (&module, height) in &height_of {
        let imported = imports(module);
        for (&other, other_height) in height_of.iter().filter(|(other, _)| imported.contains(**other)) {
            let is_named = named.contains(&(module, other));
            unused.remove(&(module, other));
            if other != module && other_height >= height && !is_named {
                wrong.insert((module, other));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the layers of ARCHITECTURE.md: {wrong:?}");
    assert!(unused.is_empty(), "arrows in ARCHITECTURE.md that no import needs: {unused:?}");
    assert!(height_of.len() > 15, "the table of layers has another form now");
}

/// `| 3 | `snapshot`, `function` | `snapshot` → `function`: it holds them |`
struct Row<'a> {
    height: u32,
    modules: Vec<&'a str>,
    /// Within the row.
    arrows: Vec<(&'a str, &'a str)>,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let cells: Vec<_> = line.trim_matches('|').split('|').collect();
        let [height, modules, arrows] = cells.as_slice() else { return None };
        let height = height.trim().parse().ok()?;
        let parts: Vec<_> = arrows.split('→').collect();
        let arrows = parts.windows(2).flat_map(|pair| {
            let from = spans(pair[0]).last().unwrap();
            spans(pair[1].split([':', '.']).next().unwrap()).map(move |to| (from, to))
        });
        Some(Row { height, modules: spans(modules).collect(), arrows: arrows.collect() })
    }
}

/// The modules of this crate that a module names outside of its tests.
fn imports(module: &str) -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut ahead = vec![source.join(module), source.join(format!("{module}.rs"))];
    let mut found = BTreeSet::new();
    while let Some(path) = ahead.pop() {
        if let Ok(entries) = path.read_dir() {
            ahead.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("tests")));
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
            let Ok(text) = std::fs::read_to_string(path) else { continue };
            let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
            found.extend(code.split("crate::").skip(1).map(|rest| {
                rest.split(|char: char| !char.is_ascii_lowercase() && char != '_').next().unwrap().to_owned()
            }));
        }
    }
    found
}

/// What stands in backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[track_caller]
fn demand(wanted: BTreeSet<String>, words: &BTreeSet<&str>) {
    let missing: Vec<_> = wanted.iter().filter(|word| !words.contains(word.as_str())).collect();
    assert!(missing.is_empty(), "not explained: {missing:?}");
}

fn collect_keys(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            let properties = object.get("properties").and_then(Value::as_object);
            keys.extend(properties.into_iter().flat_map(|properties| properties.keys().cloned()));
            object.values().for_each(|value| collect_keys(value, keys));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}

/// The words that stand in code: in spans and in blocks.
fn in_code(text: &str) -> BTreeSet<&str> {
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    spans(text).flat_map(|code| code.split(move |char| !is_word(char))).collect()
}

/// The contents of the blocks in this language.
fn blocks<'a>(text: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let fence = format!("\n```{language}\n");
    let starts: Vec<_> = text.match_indices(&fence).map(|(at, fence)| at + fence.len()).collect();
    starts.into_iter().map(|start| &text[start..start + text[start..].find("\n```").unwrap() + 1])
}

/// From this heading to the next.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).unwrap();
    rest.split("\n#").next().unwrap()
}

/// All that there is to see when everything has happened once.
fn exposed() -> String {
    let metrics = Metrics::new();
    metrics.config_loaded("hash");
    metrics.set_certificates([("site.pem", 0)]);
    let route = metrics.unrouted();
    route.end(&End {
        method: "GET",
        status: 200,
        total: Duration::ZERO,
        overhead: Duration::ZERO,
        request_bytes: 0,
        response_bytes: 0,
    });
    route.retried(Retry::Connect);
    route.dialled(Duration::ZERO);
    route.first_byte(Duration::ZERO);
    route.held_cold(Duration::ZERO);
    metrics.render()
}

fn families(name: &str) -> impl Iterator<Item = String> {
    let start = format!("fngate_{name}{{");
    let lines: Vec<_> =
        exposed().lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect();
    lines.into_iter()
}

fn label(series: String, name: &str) -> Option<String> {
    let (_, rest) = series.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

/// Of a family, without the `le` of a histogram.
fn labels_of(family: &str) -> BTreeSet<String> {
    let of_line = |line: &str| -> Vec<String> {
        let Some((name, rest)) = line.split_once('{') else { return Vec::new() };
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        let Some((labels, _)) = rest.split_once('}').filter(|_| name == family) else { return Vec::new() };
        labels.split(',').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned())).collect()
    };
    let mut labels: BTreeSet<_> = exposed().lines().flat_map(of_line).collect();
    labels.remove("le");
    labels
}

const ERRORS: [GatewayError; 30] = [
    GatewayError::NoRoute,
    GatewayError::MethodNotAllowed(std::borrow::Cow::Borrowed("GET")),
    GatewayError::BadRequest(""),
    GatewayError::BadPath,
    GatewayError::BodyTooLarge,
    GatewayError::HeadersTooLarge,
    GatewayError::UnsupportedCoding,
    GatewayError::RequestTimeout,
    GatewayError::UpstreamConnect,
    GatewayError::UpstreamTls,
    GatewayError::UpstreamResolve,
    GatewayError::UpstreamTimeout,
    GatewayError::ConnectTimeout,
    GatewayError::Deadline,
    GatewayError::UpstreamReset,
    GatewayError::UpstreamProtocol,
    GatewayError::BadEnvelope(""),
    GatewayError::FunctionError,
    GatewayError::NoCredential,
    GatewayError::CredentialRefused,
    GatewayError::NoFunction,
    GatewayError::Throttled(None),
    GatewayError::PlatformError(""),
    GatewayError::ColdStart,
    GatewayError::Overloaded,
    GatewayError::Draining,
    GatewayError::ClientGone,
    GatewayError::ClientSlow,
    GatewayError::ClientFlood,
    GatewayError::Internal,
];
