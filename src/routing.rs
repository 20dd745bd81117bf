//! `RouteTable<T>`: host + path + method → `T`; knows nothing of functions.
//!
//! Compiled once. A lookup costs one hash look-up per label of the host and per segment of the path, however many routes there are.
//! The most specific host wins (exact, then longest wildcard, then any); within it the exact path, then the longest prefix, a
//! literal segment before a parameter; then the higher `priority`; then a route that names its methods. Paths are compared as the
//! bytes the client sent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use http::Method;
use smallvec::SmallVec;

use crate::diag::Invalid;
use crate::uri;

/// What a route matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// `None`: any method.
    pub methods: Option<Vec<Method>>,
    pub priority: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.org`: every name below, at any depth; holds `example.org`.
    Below(String),
    /// `*`
    Any,
}

/// A segment `{name}` is a parameter: it stands for any one segment that is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathPattern {
    Exact(String),
    /// `/hello/*`: holds `/hello/`. What follows is the suffix.
    Below(String),
}

/// What a request matched.
#[derive(Debug)]
pub enum Outcome<'t, 'p, T> {
    Found {
        value: &'t T,
        /// What follows the matched prefix, without its leading `/`; `None` on exact routes.
        suffix: Option<&'p str>,
        /// Where in the path the parameters stand, in the pattern's order.
        captures: Captures,
    },
    /// The path is known, but not with this method.
    MethodNotAllowed {
        allow: Vec<Method>,
    },
    NotFound,
}

/// Most routes have no parameter, most others have one or two.
pub type Captures = SmallVec<[Range<usize>; 2]>;

#[derive(Debug)]
pub struct RouteTable<T> {
    entries: Vec<Entry<T>>,
    exact_hosts: HashMap<String, PathTree, Hash>,
    hosts_below: HashMap<String, PathTree, Hash>,
    any_host: PathTree,
}

/// Fast is enough: the keys are the configuration's, clients only look them up.
type Hash = ahash::RandomState;

#[derive(Debug)]
struct Entry<T> {
    matcher: Matcher,
    value: T,
}

/// Two routes of which a request could never say which one it means; the indices in the order of insertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambiguity {
    pub first: usize,
    pub second: usize,
}

impl<T> RouteTable<T> {
    pub fn build(routes: impl IntoIterator<Item = (Matcher, T)>) -> Self {
        let mut table = RouteTable {
            entries: Vec::new(),
            exact_hosts: HashMap::default(),
            hosts_below: HashMap::default(),
            any_host: PathTree::default(),
        };
        for (matcher, value) in routes {
            let index = table.entries.len();
            table.insert(&matcher, index);
            table.entries.push(Entry { matcher, value });
        }
        let entries = &table.entries;
        let trees = table.exact_hosts.values_mut().chain(table.hosts_below.values_mut());
        for tree in trees.chain([&mut table.any_host]) {
            tree.sort(|index| {
                let matcher = &entries[index].matcher;
                (std::cmp::Reverse(matcher.priority), matcher.methods.is_none())
            });
        }
        table
    }

    fn insert(&mut self, matcher: &Matcher, index: usize) {
        if matcher.hosts.is_empty() {
            self.any_host.insert(&matcher.path, index);
        }
        for host in &matcher.hosts {
            let tree = match host {
                HostPattern::Exact(name) => self.exact_hosts.entry(name.clone()).or_default(),
                HostPattern::Below(name) => self.hosts_below.entry(name.clone()).or_default(),
                HostPattern::Any => &mut self.any_host,
            };
            tree.insert(&matcher.path, index);
        }
    }

    /// `host` as it stands in the request, with or without port; `path` starts with `/`.
    pub fn find<'t, 'p>(&'t self, host: &str, method: &Method, path: &'p str) -> Outcome<'t, 'p, T> {
        let mut allow = Vec::new();
        let host = normal_host(host);
        for tree in self.trees_for(&host) {
            for Candidate { indices, suffix_at, captures } in tree.candidates(path) {
                let takes = |index: &&usize| match &self.entries[**index].matcher.methods {
                    Some(methods) if !methods.contains(method) => {
                        allow.extend_from_slice(methods);
                        false
                    }
                    _ => true,
                };
                if let Some(index) = indices.iter().find(takes) {
                    let suffix = suffix_at.map(|at| &path[at..]);
                    return Outcome::Found { value: &self.entries[*index].value, suffix, captures };
                }
            }
        }
        if allow.is_empty() {
            return Outcome::NotFound;
        }
        allow.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        allow.dedup();
        Outcome::MethodNotAllowed { allow }
    }

    /// The trees of the hosts that match, the most specific first.
    fn trees_for(&self, host: &str) -> impl Iterator<Item = &PathTree> {
        let asked = if self.hosts_below.is_empty() { "" } else { host };
        let parents = asked.match_indices('.').map(|(dot, _)| &asked[dot + 1..]);
        let below = parents.filter_map(|parent| self.hosts_below.get(parent));
        self.exact_hosts.get(host).into_iter().chain(below).chain([&self.any_host])
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    pub fn matchers(&self) -> impl Iterator<Item = (&Matcher, &T)> {
        self.entries.iter().map(|entry| (&entry.matcher, &entry.value))
    }

    /// Tells of each route why it does or does not serve the request, in the order of insertion.
    pub fn explain(&self, host: &str, method: &Method, path: &str) -> Vec<Verdict> {
        let winner = match self.find(host, method, path) {
            Outcome::Found { value, .. } => {
                self.entries.iter().position(|entry| std::ptr::eq(&entry.value, value))
            }
            _ => None,
        };
        let host = normal_host(host);
        let verdict = |(index, entry): (usize, &Entry<T>)| {
            let matcher = &entry.matcher;
            if Some(index) == winner {
                Verdict::Wins
            } else if !matcher.hosts.is_empty() && !matcher.hosts.iter().any(|pattern| pattern.matches(&host))
            {
                Verdict::OtherHost
            } else if !matcher.path.matches(path) {
                Verdict::OtherPath
            } else if matcher.methods.as_ref().is_some_and(|methods| !methods.contains(method)) {
                Verdict::OtherMethod
            } else {
                Verdict::Outranked
            }
        };
        self.entries.iter().enumerate().map(verdict).collect()
    }
}

/// Why a route does or does not serve a request; the nearer to serving it, the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Wins,
    /// It matches, but another one is more specific or has the higher priority.
    Outranked,
    OtherMethod,
    OtherPath,
    OtherHost,
}

/// Pairs of routes that can never be told apart: same host, path and priority, and a method that both take.
pub fn ambiguities(matchers: &[&Matcher]) -> Vec<Ambiguity> {
    let mut seen: HashMap<(&HostPattern, PathPattern, i32), Vec<usize>> = HashMap::new();
    let mut found = Vec::new();
    for (second, matcher) in matchers.iter().enumerate() {
        let hosts = if matcher.hosts.is_empty() { &ANY_HOST } else { matcher.hosts.as_slice() };
        let mut clash = None;
        for host in hosts {
            let alike = seen.entry((host, matcher.path.shape(), matcher.priority)).or_default();
            let other = alike.iter().find(|first| methods_overlap(matchers[**first], matcher));
            clash = clash.or(other.copied());
            alike.push(second);
        }
        found.extend(clash.filter(|first| *first != second).map(|first| Ambiguity { first, second }));
    }
    found
}

const ANY_HOST: [HostPattern; 1] = [HostPattern::Any];

fn methods_overlap(a: &Matcher, b: &Matcher) -> bool {
    match (&a.methods, &b.methods) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().any(|method| b.contains(method)),
        // The one that names its methods goes first.
        _ => false,
    }
}

/// Routes by the segments of their paths.
#[derive(Debug)]
struct PathTree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, usize, Hash>,
    /// The child for any segment.
    parameter: Option<usize>,
    /// Routes whose path ends here.
    exact: Vec<usize>,
    /// Routes that take everything below here.
    below: Vec<usize>,
}

/// Routes whose path matches.
struct Candidate<'t> {
    indices: &'t [usize],
    suffix_at: Option<usize>,
    captures: Captures,
}

/// A place in the tree, and what of the path led there.
struct Walk {
    node: usize,
    /// Where the next segment begins; beyond the path when there is none.
    at: usize,
    captures: Captures,
}

impl Default for PathTree {
    fn default() -> Self {
        PathTree { nodes: vec![Node::default()] }
    }
}

impl PathTree {
    fn insert(&mut self, pattern: &PathPattern, index: usize) {
        let (path, is_exact) = match pattern {
            PathPattern::Exact(path) => (&path[1..], true),
            PathPattern::Below(prefix) => (prefix[1..].trim_end_matches('/'), false),
        };
        let segments = if path.is_empty() && !is_exact { None } else { Some(path.split('/')) };
        let mut node = 0;
        for segment in segments.into_iter().flatten() {
            let next = self.nodes.len();
            let Node { children, parameter, .. } = &mut self.nodes[node];
            node = match parameter_name(segment) {
                Some(_) => *parameter.get_or_insert(next),
                None => *children.entry(segment.into()).or_insert(next),
            };
            if node == next {
                self.nodes.push(Node::default());
            }
        }
        let node = &mut self.nodes[node];
        if is_exact { node.exact.push(index) } else { node.below.push(index) }
    }

    fn sort<K: Ord>(&mut self, key: impl Fn(usize) -> K) {
        for node in &mut self.nodes {
            node.exact.sort_by_key(|index| key(*index));
            node.below.sort_by_key(|index| key(*index));
        }
    }

    /// The routes whose path matches, the most specific first: exact, then the longest prefix, a literal before a parameter.
    fn candidates<'t>(&'t self, path: &str) -> impl Iterator<Item = Candidate<'t>> {
        let mut exact: SmallVec<[_; 1]> = SmallVec::new();
        let mut prefixes: SmallVec<[_; 4]> = SmallVec::new();
        let begin = usize::from(path.starts_with('/'));
        let mut walks: SmallVec<[_; 2]> = SmallVec::new();
        walks.push(Walk { node: 0, at: begin, captures: Captures::new() });
        // Where a segment is both a literal and a parameter, the parameter's way is walked later.
        while let Some(Walk { node, mut at, mut captures }) = walks.pop() {
            let mut node = &self.nodes[node];
            loop {
                if at > path.len() {
                    exact.push(Candidate { indices: &node.exact, suffix_at: None, captures });
                    break;
                }
                if !node.below.is_empty() {
                    let captures = captures.clone();
                    prefixes.push(Candidate { indices: &node.below, suffix_at: Some(at), captures });
                }
                let rest = &path[at..];
                let end = rest.find('/').map_or(path.len(), |slash| at + slash);
                let segment = &path[at..end];
                let literal = node.children.get(segment).copied();
                let parameter = node.parameter.filter(|_| !segment.is_empty());
                let (Some(child), is_capture) = (literal.or(parameter), literal.is_none()) else { break };
                if let (false, Some(other)) = (is_capture, parameter) {
                    let captures = captures.iter().cloned().chain(std::iter::once(at..end)).collect();
                    walks.push(Walk { node: other, at: end + 1, captures });
                }
                if is_capture {
                    captures.push(at..end);
                }
                node = &self.nodes[child];
                at = end + 1;
            }
        }
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.suffix_at));
        exact.into_iter().chain(prefixes)
    }
}

/// Lower case, without port and without the final dot of a full name.
fn normal_host(host: &str) -> Cow<'_, str> {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or(host),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => host == name,
            HostPattern::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            HostPattern::Any => true,
        }
    }
}

impl PathPattern {
    /// The names of its parameters, in their order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments().filter_map(parameter_name)
    }

    fn segments(&self) -> std::str::Split<'_, char> {
        match self {
            PathPattern::Exact(text) | PathPattern::Below(text) => text.split('/'),
        }
    }

    /// The same for all patterns that match the same paths, whatever their parameters are called.
    fn shape(&self) -> PathPattern {
        let anonymous = |segment| if parameter_name(segment).is_some() { "{}" } else { segment };
        let text = self.segments().map(anonymous).collect::<Vec<_>>().join("/");
        match self {
            PathPattern::Exact(_) => PathPattern::Exact(text),
            PathPattern::Below(_) => PathPattern::Below(text),
        }
    }

    fn matches(&self, path: &str) -> bool {
        let fits = |(pattern, segment): (&str, &str)| match parameter_name(pattern) {
            Some(_) => !segment.is_empty(),
            None => pattern == segment,
        };
        let (mut pattern, mut path) = (self.segments(), path.split('/'));
        match self {
            PathPattern::Exact(_) => loop {
                match (pattern.next(), path.next()) {
                    (None, None) => return true,
                    (Some(pattern), Some(segment)) if fits((pattern, segment)) => {}
                    _ => return false,
                }
            },
            // What follows the last `/` of the prefix stands for the rest.
            PathPattern::Below(text) => {
                let depth = text.matches('/').count();
                pattern.by_ref().take(depth).all(|pattern| path.next().is_some_and(|s| fits((pattern, s))))
                    && path.next().is_some()
            }
        }
    }
}

/// The name in a segment `{name}`.
fn parameter_name(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

impl FromStr for HostPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |hint: &str| Invalid::new(format!("`{text}` is not a host pattern")).hint(hint);
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (name, is_wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(invalid("the wildcard stands for the leftmost labels only, as in `*.example.org`"));
        }
        let is_address = !is_wildcard && name.parse::<std::net::Ipv6Addr>().is_ok();
        if name.contains(':') && !is_address {
            return Err(invalid("a host pattern has no port and no scheme"));
        }
        let name = if is_address { name.to_ascii_lowercase() } else { normal_host(name).into_owned() };
        if !is_address && !crate::values::is_host_name(&name) {
            return Err(invalid("like `api.example.com` or `*.example.org`"));
        }
        Ok(if is_wildcard { HostPattern::Below(name) } else { HostPattern::Exact(name) })
    }
}

impl FromStr for PathPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |hint: &str| Invalid::new(format!("`{text}` is not a path pattern")).hint(hint);
        if !text.starts_with('/') {
            return Err(invalid("it starts with `/`"));
        }
        let (prefix, is_below) = match text.strip_suffix('*') {
            Some(prefix) if prefix.ends_with('/') => (prefix, true),
            Some(_) => return Err(invalid("the `*` stands alone behind a `/`, as in `/hello/*`")),
            None => (text, false),
        };
        if prefix.contains('*') {
            return Err(invalid("only one `*`, at the end"));
        }
        check_parameters(prefix).map_err(invalid)?;
        if prefix.contains(['?', '#', ' ']) || !prefix.is_ascii() {
            return Err(invalid("write it as it stands in a request: escaped, without query and fragment"));
        }
        if uri::check_path(prefix).is_err() {
            return Err(invalid(
                "it has dot segments, control characters or broken escapes, which are refused in requests",
            ));
        }
        Ok(if is_below {
            PathPattern::Below(prefix.to_owned())
        } else {
            PathPattern::Exact(prefix.to_owned())
        })
    }
}

fn check_parameters(path: &str) -> Result<(), &'static str> {
    let mut names = Vec::new();
    for segment in path.split('/').filter(|segment| segment.contains(['{', '}'])) {
        let name = parameter_name(segment).ok_or("a parameter is a whole segment, as in `/fn/{name}/*`")?;
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.bytes().all(is_plain) {
            return Err("a parameter's name is made of `a` to `z`, digits and `_`, as in `{name}`");
        }
        if names.contains(&name) {
            return Err("each parameter has a name of its own");
        }
        names.push(name);
    }
    if names.len() > MOST_PARAMETERS {
        return Err("at most 4 parameters");
    }
    Ok(())
}

/// Each of them may double the ways in which a path is looked up.
const MOST_PARAMETERS: usize = 4;

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Below(name) => write!(f, "*.{name}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Exact(path) => f.write_str(path),
            PathPattern::Below(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(text: &str) -> Matcher {
        // "[METHOD,…] [host]/path [priority]"
        let mut methods = None;
        let mut priority = 0;
        let mut place = "";
        for word in text.split(' ') {
            if word.contains('/') {
                place = word;
            } else if let Ok(number) = word.parse() {
                priority = number;
            } else {
                methods = Some(word.split(',').map(|m| m.parse().unwrap()).collect());
            }
        }
        let (hosts, path) = place.split_at(place.find('/').unwrap());
        let hosts = hosts.split(',').filter(|h| !h.is_empty()).map(|h| h.parse().unwrap()).collect();
        Matcher { hosts, path: path.parse().unwrap(), methods, priority }
    }

    fn table(routes: &[&'static str]) -> RouteTable<&'static str> {
        RouteTable::build(routes.iter().map(|text| (matcher(text), *text)))
    }

    #[track_caller]
    fn check(table: &RouteTable<&'static str>, request: &str, expected: &str) {
        let (method, url) = request.split_once(' ').unwrap();
        let (host, path) = url.split_at(url.find('/').unwrap());
        let got = match table.find(host, &method.parse().unwrap(), path) {
            Outcome::Found { value, suffix, captures } => {
                let captures = captures.iter().map(|at| format!(" {{{}}}", &path[at.clone()]));
                let suffix = suffix.map(|suffix| format!(" + {suffix}")).unwrap_or_default();
                format!("{value}{}{suffix}", captures.collect::<String>())
            }
            Outcome::MethodNotAllowed { allow } => {
                format!("allow {}", allow.iter().map(Method::as_str).collect::<Vec<_>>().join(","))
            }
            Outcome::NotFound => "none".into(),
        };
        assert_eq!(got, expected, "{request}");
    }

    #[test]
    fn exact_paths_go_before_prefixes_and_long_prefixes_before_short_ones() {
        let t = table(&["/*", "/hello", "/hello/*", "/hello/deep/*", "/hello/world"]);
        check(&t, "GET h/", "/* + ");
        check(&t, "GET h/other", "/* + other");
        check(&t, "GET h/hello", "/hello");
        check(&t, "GET h/hello/", "/hello/* + ");
        check(&t, "GET h/hello/world", "/hello/world");
        check(&t, "GET h/hello/world/", "/hello/* + world/");
        check(&t, "GET h/hello/deep", "/hello/* + deep");
        check(&t, "GET h/hello/deep/er", "/hello/deep/* + er");
        check(&t, "GET h/hello/a%2Fb//c", "/hello/* + a%2Fb//c");
    }

    #[test]
    fn a_prefix_does_not_match_its_own_name() {
        let t = table(&["/hello/*"]);
        check(&t, "GET h/hello", "none");
        check(&t, "GET h/hellos", "none");
        check(&t, "GET h//hello/x", "none");
    }

    #[test]
    fn a_parameter_is_any_one_segment() {
        let t = table(&["/fn/{name}/*", "/fn/{name}", "/{a}/x/{b}"]);
        check(&t, "GET h/fn/resize", "/fn/{name} {resize}");
        check(&t, "GET h/fn/resize/", "/fn/{name}/* {resize} + ");
        check(&t, "GET h/fn/a%2Fb/c/d", "/fn/{name}/* {a%2Fb} + c/d");
        check(&t, "GET h/q/x/r", "/{a}/x/{b} {q} {r}");
        check(&t, "GET h/fn/x/r", "/{a}/x/{b} {fn} {r}");
        check(&t, "GET h/fn", "none");
        check(&t, "GET h/fn/", "none");
        check(&t, "GET h/fn//x", "none");
        check(&t, "GET h/q/x/", "none");
    }

    #[test]
    fn a_literal_goes_before_a_parameter_and_does_not_hide_it() {
        let t = table(&["/fn/{name}/run", "/fn/admin/*", "/fn/{name}/*", "/fn/admin/{x}/y", "/{a}/admin/*"]);
        check(&t, "GET h/fn/admin/run", "/fn/{name}/run {admin}");
        check(&t, "GET h/fn/admin/other", "/fn/admin/* + other");
        check(&t, "GET h/fn/admin/z/y", "/fn/admin/{x}/y {z}");
        check(&t, "GET h/fn/admin/z/z", "/fn/admin/* + z/z");
        check(&t, "GET h/fn/other/z", "/fn/{name}/* {other} + z");
        check(&t, "GET h/gn/admin/z", "/{a}/admin/* {gn} + z");
    }

    #[test]
    fn a_parameters_route_stands_back_when_the_method_is_not_its_own() {
        let t = table(&["GET /fn/admin", "POST /fn/{name}"]);
        check(&t, "POST h/fn/admin", "POST /fn/{name} {admin}");
        check(&t, "PUT h/fn/admin", "allow GET,POST");
    }

    #[test]
    fn hosts_go_from_exact_to_wildcard_to_any() {
        let t = table(&["/x", "*.example.org/x", "*.b.example.org/x", "a.b.example.org/x", "only.example/y"]);
        check(&t, "GET a.b.example.org/x", "a.b.example.org/x");
        check(&t, "GET A.B.Example.ORG.:8080/x", "a.b.example.org/x");
        check(&t, "GET c.b.example.org/x", "*.b.example.org/x");
        check(&t, "GET d.c.b.example.org/x", "*.b.example.org/x");
        check(&t, "GET z.example.org/x", "*.example.org/x");
        check(&t, "GET example.org/x", "/x");
        check(&t, "GET only.example/x", "/x");
        check(&t, "GET other.example/y", "none");
    }

    #[test]
    fn a_bare_star_is_any_host() {
        let t = table(&["*/ext/*"]);
        check(&t, "GET api.example.com/ext/openfunction", "*/ext/* + openfunction");
    }

    #[test]
    fn addresses_are_hosts_too() {
        let t = table(&["127.0.0.1/x"]);
        check(&t, "GET 127.0.0.1:9080/x", "127.0.0.1/x");
        check(&t, "GET [::1]:9080/x", "none");
    }

    #[test]
    fn methods_narrow_and_405_names_all_of_them() {
        let t = table(&["GET,HEAD /x", "POST /x", "/y", "DELETE /y", "PUT h/*"]);
        check(&t, "GET h/x", "GET,HEAD /x");
        check(&t, "POST h/x", "POST /x");
        check(&t, "DELETE i/x", "allow GET,HEAD,POST");
        check(&t, "DELETE h/y", "DELETE /y");
        check(&t, "GET h/y", "/y");
        check(&t, "PUT h/x", "PUT h/* + x");
        check(&t, "PATCH h/z", "allow PUT");
    }

    #[test]
    fn priority_breaks_ties() {
        let t = table(&["/x", "/x 5", "GET /x 1"]);
        check(&t, "GET h/x", "/x 5");
    }

    #[track_caller]
    fn ambiguous(routes: &[&str], expected: Option<(usize, usize)>) {
        let matchers: Vec<_> = routes.iter().map(|text| matcher(text)).collect();
        let found = ambiguities(&matchers.iter().collect::<Vec<_>>());
        assert_eq!(found.first().map(|a| (a.first, a.second)), expected, "{routes:?}");
    }

    #[test]
    fn routes_that_can_never_be_told_apart_are_found() {
        ambiguous(&["/x", "/y", "/x"], Some((0, 2)));
        ambiguous(&["GET /x", "GET,POST /x"], Some((0, 1)));
        ambiguous(&["a.example,b.example/x", "b.example/x"], Some((0, 1)));
        ambiguous(&["/x", "*/x"], Some((0, 1)));
        ambiguous(&["/x", "/x 1"], None);
        ambiguous(&["GET /x", "POST /x", "/x"], None);
        ambiguous(&["/x", "/x/*"], None);
        ambiguous(&["/fn/{a}/*", "/fn/{b}/*"], Some((0, 1)));
        ambiguous(&["/fn/{a}", "/fn/a"], None);
        ambiguous(&["a.example/x", "/x"], None);
        ambiguous(&["a.example,a.example/x"], None);
    }

    #[test]
    fn the_losers_are_told_why() {
        let t = table(&["a.example/x", "/y", "POST /x", "/x", "/*", "/{p}", "/{p}/*"]);
        let verdicts = t.explain("b.example", &Method::GET, "/x");
        assert_eq!(
            verdicts,
            [
                Verdict::OtherHost,
                Verdict::OtherPath,
                Verdict::OtherMethod,
                Verdict::Wins,
                Verdict::Outranked,
                Verdict::Outranked,
                Verdict::OtherPath,
            ]
        );
    }

    #[test]
    fn patterns_are_checked() {
        for bad in
            ["x", "/x*", "/a/*/b", "/a b", "/a?b", "/../x", "/é", "/a%2", "/a{b}", "/{}", "/{A}", "/{a}/{a}"]
        {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
        for bad in ["http://x", "x:80", "*x.org", "a.*.org", "", "a..b", "-x"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert_eq!("*.Example.ORG".parse::<HostPattern>().unwrap(), HostPattern::Below("example.org".into()));
    }
}
