//! Patterns of hosts and paths: how they are written, and what fits them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::diag::Invalid;
use crate::uri;

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

/// Lower case, without port and without the final dot of a full name.
pub(super) fn normal_host(host: &str) -> Cow<'_, str> {
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
    pub(super) fn matches(&self, host: &str) -> bool {
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
    pub(super) fn shape(&self) -> PathPattern {
        let anonymous = |segment| if parameter_name(segment).is_some() { "{}" } else { segment };
        let text = self.segments().map(anonymous).collect::<Vec<_>>().join("/");
        match self {
            PathPattern::Exact(_) => PathPattern::Exact(text),
            PathPattern::Below(_) => PathPattern::Below(text),
        }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
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
pub(super) fn parameter_name(segment: &str) -> Option<&str> {
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
