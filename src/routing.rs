//! `RouteTable<T>`: host + path + method → `T`; knows nothing of functions.
//!
//! Compiled once. A lookup costs one hash look-up per label of the host and per segment of the path, however many routes there are.
//! The most specific host wins (exact, then longest wildcard, then any); within it the exact path, then the longest prefix, a
//! literal segment before a parameter; then the higher `priority`; then a route that names its methods. Paths are compared as the
//! bytes the client sent.

mod pattern;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use http::Method;
use smallvec::SmallVec;

pub use self::pattern::{HostPattern, PathPattern};
use self::pattern::{normal_host, parameter_name};

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

impl Matcher {
    fn takes(&self, method: &Method) -> bool {
        !UNSERVED.contains(method) && self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }

    /// The methods that a request for it may have, as far as they can be named.
    fn allowed(&self) -> impl Iterator<Item = Method> {
        let methods = self.methods.as_deref().unwrap_or(&COMMON).iter();
        methods.filter(|method| !UNSERVED.contains(method)).cloned()
    }
}

/// What no route takes: the one would show a function's credential to the client, the other asks for a tunnel to anywhere.
pub const UNSERVED: [Method; 2] = [Method::TRACE, Method::CONNECT];

const COMMON: [Method; 7] =
    [Method::DELETE, Method::GET, Method::HEAD, Method::OPTIONS, Method::PATCH, Method::POST, Method::PUT];

/// What a request matched.
#[derive(Debug)]
pub enum Outcome<'t, 'p, T> {
    Found {
        id: RouteId,
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

/// A route's place in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteId(usize);

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
        // Without routes for some hosts only, it is nobody's concern.
        let has_hosts = !(self.exact_hosts.is_empty() && self.hosts_below.is_empty());
        let host = if has_hosts { normal_host(host) } else { Cow::Borrowed("") };
        for tree in self.trees_for(&host) {
            for Candidate { indices, suffix_at, captures } in tree.candidates(path) {
                let takes = |index: &&usize| {
                    let matcher = &self.entries[**index].matcher;
                    let takes = matcher.takes(method);
                    if !takes {
                        allow.extend(matcher.allowed());
                    }
                    takes
                };
                if let Some(index) = indices.iter().find(takes) {
                    let suffix = suffix_at.map(|at| &path[at..]);
                    let value = &self.entries[*index].value;
                    return Outcome::Found { id: RouteId(*index), value, suffix, captures };
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

    /// The route that was found under this id, in this table.
    pub fn get(&self, id: RouteId) -> Option<&T> {
        self.entries.get(id.0).map(|entry| &entry.value)
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    pub fn matchers(&self) -> impl Iterator<Item = (&Matcher, &T)> {
        self.entries.iter().map(|entry| (&entry.matcher, &entry.value))
    }

    /// Tells of each route why it does or does not serve the request, in the order of insertion.
    pub fn explain(&self, host: &str, method: &Method, path: &str) -> Vec<Standing> {
        let winner = match self.find(host, method, path) {
            Outcome::Found { value, .. } => {
                self.entries.iter().position(|entry| std::ptr::eq(&entry.value, value))
            }
            _ => None,
        };
        let host = normal_host(host);
        let below = format!("{path}/");
        let standing = |(index, entry): (usize, &Entry<T>)| {
            let matcher = &entry.matcher;
            if Some(index) == winner {
                Standing::Wins
            } else if !matcher.hosts.is_empty() && !matcher.hosts.iter().any(|pattern| pattern.matches(&host))
            {
                Standing::OtherHost
            } else if !matcher.path.matches(path) {
                if matcher.path.matches(&below) { Standing::BeginsBelow } else { Standing::OtherPath }
            } else if !matcher.takes(method) {
                Standing::OtherMethod
            } else {
                Standing::Outranked
            }
        };
        self.entries.iter().enumerate().map(standing).collect()
    }
}

/// Why a route does or does not serve a request; the nearer to serving it, the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Wins,
    /// It matches, but another one is more specific or has the higher priority.
    Outranked,
    OtherMethod,
    /// It would match with a `/` at the end.
    BeginsBelow,
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

#[cfg(test)]
mod tests;
