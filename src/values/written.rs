//! Amounts: what a file may write as a number or with a unit.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::diag::{Invalid, Scope};

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
            .hint("milliseconds as a bare number, or a whole number with `ms`, `s`, `m` or `h`")
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

/// The duration of a key that no plugin of APISIX has. A bare number is milliseconds, as theirs are, but a small one looks like
/// seconds, and gets a warning.
pub fn compile_duration(written: &Written, scope: &Scope<'_>) -> Option<Duration> {
    let duration = scope.accept(parse_duration(written))?;
    let text = written.to_string();
    let is_bare = text.trim().bytes().all(|byte| byte.is_ascii_digit());
    if is_bare && duration < Duration::from_secs(1) && !duration.is_zero() {
        scope.warn(
            format!("`{text}` is {} ms", duration.as_millis()),
            format!(
                "a number without a unit is milliseconds; `{0}s` is seconds, `{0}ms` is the same as now",
                text.trim()
            ),
        );
    }
    Some(duration)
}

/// Bytes as a bare number, or with `B`, `KiB`, `MiB`, `GiB`, or the decimal `KB`, `MB`, `GB`.
pub fn parse_size(written: &Written) -> Result<ByteSize, Invalid> {
    let invalid = || {
        Invalid::new(format!("`{written}` is not a size")).hint(
            "bytes as a bare number, or a whole number with `KiB`, `MiB`, `GiB`, `KB`, `MB`, `GB` or `B`",
        )
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
}
