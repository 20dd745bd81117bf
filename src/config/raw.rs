//! The file, key for key. What the keys may hold is in `settings` and `routes`; their descriptions become the schema's.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::platforms;
use crate::policy::{bulkhead, cold_start, retry};
use crate::values::Written;

/// A configuration of fngate.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read for its schema: the parts of a file are deserialized one by one")]
pub(super) struct File {
    #[serde(flatten)]
    pub(super) settings: Settings,
    /// What is merged under each target of a platform
    pub(super) defaults: Option<platforms::Raw>,
    /// Further files with `routes` and nothing else; `*` and `?` stand for any in a file's name
    pub(super) include: Option<Vec<String>>,
    /// Which request goes to which function
    pub(super) routes: Option<Vec<Route>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Where clients connect (default: 0.0.0.0:9080 without TLS)
    #[schemars(length(min = 1))]
    pub(super) listeners: Option<Vec<Listener>>,
    /// Worker threads: a number up to 1024, or `auto` for one per CPU (the default)
    pub(super) threads: Option<Threads>,
    /// The administrative listener
    pub(super) admin: Option<Admin>,
    /// How long new connections are still accepted when the gateway is told to stop, while `/readyz` says that it does (default 0s)
    pub(super) drain_delay: Option<Written>,
    /// How long requests in flight may take when the gateway stops (default 30s)
    pub(super) shutdown_grace: Option<Written>,
    /// Networks whose X-Forwarded-* is believed (default: none)
    pub(super) trusted_proxies: Option<Vec<String>>,
    /// Networks in which no function is, whatever its name resolves to (default: those of the clouds' metadata services)
    pub(super) deny_addresses: Option<Vec<String>>,
    /// One line of JSON per request (default: to stdout)
    pub(super) access_log: Option<AccessLog>,
    /// What is refused because it is too much
    pub(super) limits: Option<Limits>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// `ip:port`
    pub(super) address: String,
    /// A certificate and its key, or a list of them of which SNI chooses; HTTP/2 by ALPN
    pub(super) tls: Option<Tls>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Tls {
    One(KeyPair),
    Several(#[schemars(length(min = 1))] Vec<KeyPair>),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPair {
    /// PEM file with the certificate and those that issued it
    pub(super) cert: String,
    /// PEM file with the private key
    pub(super) key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    Auto,
    Number(u16),
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// `ip:port` of /healthz, /readyz, /metrics and /routes (default 127.0.0.1:9180)
    pub(super) address: Option<String>,
    /// Names under which it is asked, besides addresses and `localhost` (default: none)
    pub(super) hosts: Option<Vec<String>>,
}

/// `off`, or where the lines go
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum AccessLog {
    Word(AccessLogWord),
    To(AccessLogTarget),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AccessLogWord {
    Off,
    Stdout,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessLogTarget {
    /// `stdout`, `off`, or a file, which has a `/` or a `.` in its name and is opened anew on SIGUSR1
    pub(super) path: String,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// The largest request body; bytes, or with a unit like `KiB` or `KB` (default 64MiB)
    pub(super) body: Option<Written>,
    /// The longest time for a request's head to arrive (default 10s)
    pub(super) header_timeout: Option<Written>,
    /// How long a client may be silent: between requests, in a body, in taking an answer (default 75s)
    pub(super) idle_timeout: Option<Written>,
    /// The most client connections at once (default 20000)
    #[schemars(range(min = 1))]
    pub(super) connections: Option<u32>,
    /// The most requests in flight at once (default 10000)
    #[schemars(range(min = 1))]
    pub(super) in_flight: Option<u32>,
    /// The most fields of a request's head (default 200)
    #[schemars(range(min = 10, max = 250))]
    pub(super) header_count: Option<u16>,
    /// The largest head of a request, up to 256KiB (default 64KiB)
    pub(super) header_size: Option<Written>,
    /// The most requests on one connection of a client, which ends after them (default 10000)
    #[schemars(range(min = 1))]
    pub(super) requests_per_connection: Option<u32>,
    /// The least that a client sends or takes per second while it is waited for; 0 for any pace (default 500)
    pub(super) min_rate: Option<Written>,
    /// The most requests at once on one connection of HTTP/2 (default 100)
    #[schemars(range(min = 1))]
    pub(super) http2_streams: Option<u32>,
    /// The most PING, SETTINGS and other frames that carry nothing, per second of an HTTP/2 connection (default 1000)
    #[schemars(range(min = 10))]
    pub(super) http2_control_frames: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Unique; the label in logs and metrics
    pub(super) name: String,
    /// Which requests it is for
    #[serde(rename = "match")]
    pub(super) matcher: Match,
    /// Between routes that match alike, the higher one wins (default 0)
    pub(super) priority: Option<i32>,
    /// When a call that failed is tried again, beyond the one resend that is always safe (default: never)
    pub(super) retry: Option<retry::Raw>,
    /// How long requests wait for a function that is not there yet (default: not at all)
    pub(super) cold_start: Option<cold_start::Raw>,
    /// How many of its requests may be under way or wait at once (default: as many as the gateway takes)
    pub(super) limits: Option<bulkhead::Raw>,
    /// The function: exactly one platform
    pub(super) target: platforms::Raw,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    /// `/hello` exactly, or `/hello/*` for everything below, whose rest is the suffix
    pub(super) path: String,
    /// Names, `*.example.org` for every name below, `*` for any (default: any)
    #[schemars(length(min = 1))]
    pub(super) hosts: Option<Vec<String>>,
    /// The methods in upper case (default: any)
    #[schemars(length(min = 1))]
    pub(super) methods: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for Threads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Threads;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or `auto`")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Threads, E> {
                u16::try_from(number).map(Threads::Number).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Threads, E> {
                match text {
                    "auto" => Ok(Threads::Auto),
                    other => Err(E::unknown_variant(other, &["auto"])),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for Threads {
    fn schema_name() -> Cow<'static, str> {
        "Threads".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [
            { "type": "integer", "minimum": 1, "maximum": MOST_THREADS },
            { "type": "string", "enum": ["auto"] },
        ] })
    }
}

const MOST_THREADS: u16 = 1024;
