//! Credentials, and how a file may name them.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::OnceLock;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

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
                { "type": "object", "properties": { "file": { "type": "string", "description": "the path of a file; a byte order mark and one final line break are cut" } },
                  "required": ["file"], "additionalProperties": false },
                { "type": "object", "properties": { "credential": { "type": "string", "description": "a name in systemd's credentials directory" } },
                  "required": ["credential"], "additionalProperties": false },
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert!(!format!("{:?}", RawSecret::Literal(SecretString::from("hunter2"))).contains("hunter2"));
    }
}
