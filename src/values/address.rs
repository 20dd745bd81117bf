//! Where something is: scheme, host and port, URI.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::diag::Invalid;

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// A name or address and a port: where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
}

impl HostPort {
    /// Parses `host:port`; the port may be missing where `default_port` is given.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, Invalid> {
        let invalid = |why: &str| {
            Invalid::new(format!("`{text}` is not an address: {why}")).hint("`name:port` or `ip:port`")
        };
        if text.contains('@') {
            return Err(
                Invalid::new("credentials do not belong into an address").hint("`name:port` or `ip:port`")
            );
        }
        let authority = http::uri::Authority::from_str(text)
            .map_err(|_| invalid("it has characters that do not belong there"))?;
        let port = match (authority.port_u16(), default_port) {
            (Some(0), _) => return Err(invalid("port 0 cannot be connected to")),
            (Some(port), _) => port,
            (None, _) if text.len() > authority.host().len() => {
                return Err(invalid("the port is not a number up to 65535"));
            }
            (None, Some(port)) => port,
            (None, None) => return Err(invalid("the port is missing")),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let bracketed = authority.host().starts_with('[');
        if bracketed != host.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(invalid("an IPv6 address stands in brackets"));
        }
        if !bracketed && !is_host_name(&host) {
            return Err(invalid("the name is not a host name"));
        }
        Ok(HostPort { host, port })
    }

    /// Whether what is sent there stays on this machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The host as it stands in a Host header, without port.
    pub fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// The authority for a Host header: the port only when it is not the scheme's own.
    pub fn authority(&self, scheme: Scheme) -> String {
        let host = self.bracketed_host();
        if self.port == scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bracketed_host(), self.port)
    }
}

/// Letters, digits, `-` and (as names inside clusters have them) `_` in labels of 1 to 63, 253 in all; also covers IPv4.
pub fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// An absolute `http` or `https` URI as a target names it: where to connect, and what path and query are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetUri {
    pub scheme: Scheme,
    pub origin: HostPort,
    /// Starts with `/`; `/` when the URI has none.
    pub path: String,
    pub query: Option<String>,
}

impl TargetUri {
    /// The URI of an API, like `example`: it may have a path, but no query.
    pub fn of_api(text: &str, example: &str) -> Result<Self, Invalid> {
        let hint = format!("like `{example}`");
        let uri: TargetUri = text.parse().map_err(|invalid: Invalid| invalid.hint(hint.clone()))?;
        match uri.query {
            None => Ok(uri),
            Some(_) => Err(TargetUri::unusable(text, "it has a query").hint(hint)),
        }
    }

    /// Says so without the query, which may be a key.
    fn unusable(text: &str, why: &str) -> Invalid {
        let shown = text.split(['?', '#']).next().unwrap_or_default();
        Invalid::new(format!("`{shown}` is not a usable URI: {why}"))
    }
}

impl FromStr for TargetUri {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| {
            TargetUri::unusable(text, why).hint("like `https://functions.example.com/default/hello`")
        };
        let authority = text.split_once("://").map_or(text, |(_, rest)| rest).split(['/', '?', '#']).next();
        if authority.is_some_and(|authority| authority.contains('@')) {
            // Not repeated in the fault: there may be a password in it.
            return Err(
                Invalid::new("credentials do not belong into a URI").hint("they have keys of their own")
            );
        }
        if text.contains('#') {
            return Err(invalid("a fragment is never sent"));
        }
        let why = if text.contains(":/") { "it cannot be parsed" } else { "the scheme is missing" };
        let uri: http::Uri = text.parse().map_err(|_| invalid(why))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) => return Err(invalid("the scheme is neither `http` nor `https`")),
            None => return Err(invalid("the scheme is missing")),
        };
        let Some(authority) = uri.authority() else { return Err(invalid("the host is missing")) };
        let origin = HostPort::parse(authority.as_str(), Some(scheme.default_port()))?;
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        crate::uri::check_path(path)
            .map_err(|_| invalid("its path has dot segments, control characters or broken escapes"))?;
        Ok(TargetUri {
            scheme,
            origin,
            path: path.to_owned(),
            query: uri.query().filter(|q| !q.is_empty()).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn uri(text: &str, expected: Result<(&str, &str, Option<&str>), ()>) {
        let parsed = text.parse::<TargetUri>();
        let got = parsed
            .as_ref()
            .map(|u| (u.origin.authority(u.scheme), u.path.clone(), u.query.clone()))
            .map_err(|_| ());
        let expected = expected.map(|(a, p, q)| (a.to_owned(), p.to_owned(), q.map(str::to_owned)));
        assert_eq!(got, expected, "{text}: {parsed:?}");
    }

    #[test]
    fn target_uris() {
        uri("http://127.0.0.1:30583/default/fn", Ok(("127.0.0.1:30583", "/default/fn", None)));
        uri("https://Example.COM", Ok(("example.com", "/", None)));
        uri("https://example.com:443/a?code=k", Ok(("example.com", "/a", Some("code=k"))));
        uri("http://[::1]:8080/x?", Ok(("[::1]:8080", "/x", None)));
        uri("ftp://example.com/", Err(()));
        uri("example.com/x", Err(()));
        uri("http://user:pw@example.com/", Err(()));
        uri("http://example.com/#x", Err(()));
        uri("http://example.com/a/../b", Err(()));
        uri("http://example.com:99999/", Err(()));
        uri("http://", Err(()));
    }
}
