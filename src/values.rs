//! Validated scalars, and the forms in which a file may write them.
//!
//! A value of a type from here is valid by construction. The `Raw…` forms mirror what stands in the file and are turned into
//! values by `parse` functions whose error is the text for the operator.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::diag::Invalid;

/// A credential. Its `Debug` shows nothing, its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    pub fn new(text: String) -> Self {
        Secret(SecretString::from(text))
    }

    pub fn identity(&self) -> u64 {
        credential_identity([self.expose().as_bytes()])
    }

    /// The text itself; for the header value or signature that is made from it, never for output.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A number that is the same for equal credentials in this process, and says nothing about them outside of it.
pub fn credential_identity<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = KEYS.get_or_init(RandomState::new).build_hasher();
    parts.into_iter().for_each(|part| part.hash(&mut hasher));
    hasher.finish()
}

/// Where a file says a secret is: in place, or by reference.
#[derive(Clone)]
pub enum RawSecret {
    Literal(SecretString),
    Env(String),
    File(String),
    /// A name in systemd's credentials directory.
    Credential(String),
}

impl fmt::Debug for RawSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RawSecret::Literal(_) => f.write_str("Literal(…)"),
            RawSecret::Env(name) => write!(f, "Env({name})"),
            RawSecret::File(path) => write!(f, "File({path})"),
            RawSecret::Credential(name) => write!(f, "Credential({name})"),
        }
    }
}

impl<'de> Deserialize<'de> for RawSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = RawSecret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret, or one of `env`, `file`, `credential`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawSecret, E> {
                Ok(RawSecret::Literal(SecretString::from(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawSecret, A::Error> {
                let Some((kind, value)) = map.next_entry::<String, String>()? else {
                    return Err(de::Error::custom("an empty secret"));
                };
                match kind.as_str() {
                    "env" => Ok(RawSecret::Env(value)),
                    "file" => Ok(RawSecret::File(value)),
                    "credential" => Ok(RawSecret::Credential(value)),
                    other => Err(de::Error::unknown_field(other, &["env", "file", "credential"])),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for RawSecret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret: the text itself, or where it is found",
            "oneOf": [
                { "type": "string" },
                { "type": "object", "properties": { "env": { "type": "string", "description": "the name of an environment variable" } },
                  "required": ["env"], "additionalProperties": false },
                { "type": "object", "properties": { "file": { "type": "string", "description": "the path of a file; one final line break is cut" } },
                  "required": ["file"], "additionalProperties": false },
                { "type": "object", "properties": { "credential": { "type": "string", "description": "a name in systemd's credentials directory" } },
                  "required": ["credential"], "additionalProperties": false },
            ]
        })
    }
}

/// A scalar that a file may write as a number or as text: `3000`, `"3s"`, `64MiB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    Number(u64),
    Text(String),
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Written::Number(number) => write!(f, "{number}"),
            Written::Text(text) => f.write_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or text with a unit")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Written, E> {
                Ok(Written::Number(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Written, E> {
                u64::try_from(number).map(Written::Number).map_err(|_| E::custom("must not be negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Written, E> {
                Ok(Written::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for Written {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NumberWithUnit".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 0 })
    }
}

/// Milliseconds as a bare number, or `250ms`, `3s`, `5m`, `1h`.
pub fn parse_duration(written: &Written) -> Result<Duration, Invalid> {
    let invalid = || {
        Invalid::new(format!("`{written}` is not a duration"))
            .hint("milliseconds as a bare number, or a number with `ms`, `s`, `m` or `h`")
    };
    let text = match written {
        Written::Number(millis) => return Ok(Duration::from_millis(*millis)),
        Written::Text(text) => text.trim(),
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let unit_millis = match unit.trim_start() {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(invalid()),
    };
    number.checked_mul(unit_millis).map(Duration::from_millis).ok_or_else(invalid)
}

/// Bytes as a bare number, or with `KiB`, `MiB`, `GiB`, `KB`, `MB`, `GB`.
pub fn parse_size(written: &Written) -> Result<ByteSize, Invalid> {
    let invalid = || {
        Invalid::new(format!("`{written}` is not a size"))
            .hint("bytes as a bare number, or a number with `KiB`, `MiB` or `GiB`")
    };
    let text = match written {
        Written::Number(bytes) => return Ok(ByteSize(*bytes)),
        Written::Text(text) => text.trim(),
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let unit_bytes: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(invalid()),
    };
    number.checked_mul(unit_bytes).map(ByteSize).ok_or_else(invalid)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

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
        let uri: http::Uri = text.parse().map_err(|_| invalid("it cannot be parsed"))?;
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

/// A text in which `*` stands for any characters and `?` for any one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard(String);

impl Wildcard {
    pub fn new(pattern: String) -> Self {
        Wildcard(pattern)
    }

    pub fn matches(&self, text: &str) -> bool {
        matches(self.0.as_bytes(), text.as_bytes())
    }
}

/// Goes back only to the last `*`, so that no pattern takes more than the product of both lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, taken)) = retry else { return false };
                retry = Some((after_star, taken + 1));
                (p, n) = (after_star, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn duration(text: &str, expected: Option<u64>) {
        let parsed = parse_duration(&Written::Text(text.into())).ok();
        assert_eq!(parsed, expected.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn durations_have_units_or_are_milliseconds() {
        assert_eq!(parse_duration(&Written::Number(3000)), Ok(Duration::from_secs(3)));
        duration("3s", Some(3_000));
        duration("250ms", Some(250));
        duration("3000", Some(3_000));
        duration("2 m", Some(120_000));
        duration("1h", Some(3_600_000));
        duration("3 sec", None);
        duration("-3s", None);
        duration("", None);
        duration("99999999999999999999s", None);
    }

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

    #[track_caller]
    fn wildcard(pattern: &str, name: &str, expected: bool) {
        assert_eq!(Wildcard::new(pattern.to_owned()).matches(name), expected, "{pattern} {name}");
    }

    #[test]
    fn wildcards_match_whole_texts() {
        wildcard("*.yaml", "a.yaml", true);
        wildcard("*.yaml", "a.yaml~", false);
        wildcard("*.yaml", ".yaml", true);
        wildcard("a?.yaml", "ab.yaml", true);
        wildcard("a?.yaml", "a.yaml", false);
        wildcard("*a*b", "xaxbxb", true);
        wildcard("*a*b", "xaxbx", false);
        wildcard("*", "", true);
    }

    #[test]
    fn a_secret_never_shows() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert!(!format!("{:?}", RawSecret::Literal(SecretString::from("hunter2"))).contains("hunter2"));
    }
}
