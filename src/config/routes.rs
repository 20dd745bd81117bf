//! Raw routes to compiled ones, and what is wrong between them: two of one name, two that match the same requests.
//!
//! Every fault is recorded at its place and the rest goes on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use ipnet::IpNet;

use super::raw;
use crate::diag::{Invalid, Place, Scope, did_you_mean, given};
use crate::platforms::{self, Target};
use crate::policy;
use crate::routing::{self, HostPattern, Matcher, PathPattern};
use crate::snapshot::{Route, Settings};
use crate::upstream::{Terms, is_denied};

/// Routes compiled so far, of all files.
#[derive(Default)]
pub(super) struct Routes {
    compiled: Vec<Option<Route>>,
    /// Of every route whose `match` is right, whatever its target is.
    matched: Vec<Matched>,
    names: HashMap<String, Place>,
    denied: Arc<[IpNet]>,
}

struct Matched {
    matcher: Matcher,
    name: String,
    place: Place,
}

impl Routes {
    /// `settings` are those of the same file, when they are right.
    pub(super) fn new(settings: Option<&Settings>) -> Self {
        Routes {
            denied: settings.map(|settings| Arc::clone(&settings.deny_addresses)).unwrap_or_default(),
            ..Routes::default()
        }
    }

    /// `credentials` are the scopes of the route's secrets.
    pub(super) fn add(&mut self, raw: raw::Route, credentials: &[Scope<'_>], scope: &Scope<'_>) {
        let raw::Route { name, matcher, priority, retry, cold_start, limits, target } = raw;
        let matcher = compile_matcher(matcher, priority.unwrap_or(0), &scope.key("match"));
        if let Some(matcher) = matcher.clone() {
            let place = scope.key("match").key("path").place().clone();
            self.matched.push(Matched { matcher, name: name.clone(), place });
        }
        let name = self.compile_name(name, &scope.key("name"));
        let function = compile_target(target, matcher.as_ref(), &scope.key("target"));
        let function = function.filter(|function| self.may_be_there(&function.terms, &scope.key("target")));
        // A platform with a credential of its own warns in its own words.
        if let Some(platforms::Compiled { target: Target::Streamed(_), terms, .. }) = &function {
            warn_of_plain_credentials(terms, credentials);
        }
        let policy = policy::compile(retry, cold_start, limits, scope);
        let route = || Some(Route { name: name?, matcher: matcher?, policy: policy?, function: function? });
        self.compiled.push(route());
    }

    /// Looks for faults in what is left of a route that cannot serve.
    pub(super) fn inspect(&mut self, raw: raw::Route, scope: &Scope<'_>) {
        let raw::Route { name, matcher, priority, retry, cold_start, limits, target } = raw;
        policy::compile(retry, cold_start, limits, scope);
        let matcher = compile_matcher(matcher, priority.unwrap_or(0), &scope.key("match"));
        self.compile_name(name, &scope.key("name"));
        compile_target(target, matcher.as_ref(), &scope.key("target"));
        self.compiled.push(None);
    }

    /// Whether no address that the file itself gives is one where functions cannot be.
    fn may_be_there(&self, terms: &Terms, scope: &Scope<'_>) -> bool {
        let literals = terms.endpoints.iter().filter_map(|e| e.address.host.parse::<IpAddr>().ok());
        let denied = literals.into_iter().find(|address| is_denied(*address, &self.denied));
        if let Some(address) = denied {
            scope.reject_with(
                format!("no function may be at {address}"),
                "`deny_addresses` has a network with it: that of the clouds' metadata services, unless the file says otherwise",
            );
        }
        denied.is_none()
    }

    fn compile_name(&mut self, name: String, scope: &Scope<'_>) -> Option<String> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            scope.reject_with(
                format!("`{name}` cannot be a route's name"),
                format!("1 to {LONGEST_NAME} letters, digits, `_`, `.` and `-`"),
            );
            return None;
        }
        if let Some(first) = self.names.get(&name) {
            scope.reject_second(format!("another route is named `{name}`"), None, first.clone());
            return None;
        }
        self.names.insert(name.clone(), scope.place().clone());
        Some(name)
    }

    /// The routes, when every one of them compiled. `scope` is any of the same book.
    pub(super) fn finish(self, scope: &Scope<'_>) -> Option<Vec<Route>> {
        let matchers: Vec<_> = self.matched.iter().map(|matched| &matched.matcher).collect();
        for routing::Ambiguity { first, second } in routing::ambiguities(&matchers) {
            let (first, second) = (&self.matched[first], &self.matched[second]);
            scope.at(second.place.clone()).reject_second(
                format!("the route `{}` matches the same requests", first.name),
                Some("give one of them a `priority`, or other hosts or methods"),
                first.place.clone(),
            );
        }
        self.compiled.into_iter().collect()
    }
}

fn compile_target(
    raw: platforms::Raw,
    matcher: Option<&Matcher>,
    scope: &Scope<'_>,
) -> Option<platforms::Compiled> {
    let path = matcher.map(|matcher| &matcher.path);
    let parameters: Vec<_> = path.into_iter().flat_map(PathPattern::parameters).collect();
    let has_suffix = matches!(path, Some(PathPattern::Below(_)));
    platforms::compile(raw, platforms::template::Route { parameters: &parameters, has_suffix }, scope)
}

fn compile_matcher(raw: raw::Match, priority: i32, scope: &Scope<'_>) -> Option<Matcher> {
    let raw::Match { path, hosts, methods } = raw;
    let path = compile_path(&path, &scope.key("path"));
    let hosts_scope = scope.key("hosts");
    let hosts: Vec<_> = hosts
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(i, host)| hosts_scope.index(i).accept(host.parse::<HostPattern>()))
        .collect();
    let methods_scope = scope.key("methods");
    let methods = given(methods, |methods| {
        let methods: Vec<_> = methods
            .iter()
            .enumerate()
            .map(|(i, method)| {
                let scope = methods_scope.index(i);
                let method = scope.accept(parse_method(method))?;
                if routing::UNSERVED.contains(&method) {
                    scope.warn(
                        format!("`{method}` never reaches a function"),
                        "the gateway answers it with 405",
                    );
                }
                Some(method)
            })
            .collect();
        methods.into_iter().collect::<Option<Vec<_>>>()
    });
    Some(Matcher {
        hosts: hosts.into_iter().collect::<Option<_>>()?,
        path: path?,
        methods: methods?,
        priority,
    })
}

fn compile_path(text: &str, scope: &Scope<'_>) -> Option<PathPattern> {
    let path = scope.accept(text.parse())?;
    // Other gateways write parameters in this way.
    for name in
        text.split('/').filter_map(|segment| segment.strip_prefix(':')).filter(|name| !name.is_empty())
    {
        scope.warn(
            format!("`:{name}` stands for itself only"),
            format!("a parameter is written `{{{name}}}`"),
        );
    }
    Some(path)
}

/// Any method in upper case; the known ones help to find a slip.
fn parse_method(text: &str) -> Result<Method, Invalid> {
    let invalid = || Invalid::new(format!("`{text}` is not a method"));
    let upper = text.to_ascii_uppercase();
    if matches!(upper.as_str(), "ANY" | "ALL" | "*") {
        return Err(invalid().hint("leave `methods` out for any"));
    }
    if upper != text || !text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_') {
        return Err(match did_you_mean(&upper, METHODS) {
            Some(known) => invalid().hint(format!("did you mean `{known}`?")),
            None => invalid().hint("methods are written in upper case, like `GET`"),
        });
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| invalid())
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

fn warn_of_plain_credentials(terms: &Terms, credentials: &[Scope<'_>]) {
    let Some(address) = terms.exposed() else { return };
    for scope in credentials {
        scope.warn(
            format!("the credential is sent to `{address}` without TLS"),
            "whoever is on the way can read it; use `https`",
        );
    }
}

/// A name is a label of every metric of its route.
const LONGEST_NAME: usize = 64;
