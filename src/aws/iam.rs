//! The keys with which a target says how its requests are signed, and what they compile to.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Credentials, Lookup, Origin, SigningScope, Source};
use crate::diag::{Invalid, Scope, given};
use crate::secrets;
use crate::values::RawSecret;

/// `authorization.iam` of the APISIX plugin, and where to find credentials that are not in the file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The access key's ID (default: credentials are looked for as AWS's own tools do)
    pub accesskey: Option<RawSecret>,
    /// The secret access key
    pub secretkey: Option<RawSecret>,
    /// The token that belongs to temporary keys
    pub session_token: Option<RawSecret>,
    /// The region in which the signature is valid
    pub aws_region: Option<String>,
    /// The service for which the signature is valid
    pub service: Option<String>,
    /// Where credentials are found, instead of the first place that has any
    pub source: Option<RawSource>,
    /// The profile in AWS's shared files
    pub profile: Option<String>,
    /// Instead of `~/.aws/credentials`
    pub credentials_file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawSource {
    Environment,
    Profile,
    WebIdentity,
    Container,
    Imds,
}

/// Whose signature, and for where.
#[derive(Debug, Clone)]
pub struct Iam {
    pub scope: SigningScope,
    pub source: Source,
}

/// Compiles the keys; `defaults` hold where the file names no region or service. Nothing is fetched here.
pub fn compile(raw: Raw, defaults: SigningScope, scope: &Scope<'_>) -> Option<Iam> {
    let Raw { accesskey, secretkey, session_token, aws_region, service, source, profile, credentials_file } =
        raw;
    let region = name("aws_region", aws_region, defaults.region, "a region, like `eu-west-1`", scope);
    let service =
        name("service", service, defaults.service, "a service, like `lambda` or `execute-api`", scope);
    let source = match (accesskey, secretkey) {
        (Some(accesskey), Some(secretkey)) => {
            let elsewhere = [
                ("source", source.is_some()),
                ("profile", profile.is_some()),
                ("credentials_file", credentials_file.is_some()),
            ];
            for (key, _) in elsewhere.into_iter().filter(|(_, given)| *given) {
                scope.key(key).reject_with(
                    format!("`{key}` and `accesskey` exclude each other"),
                    "give the keys, or where they are found",
                );
            }
            keys(accesskey, secretkey, session_token, scope)
        }
        (None, None) if session_token.is_some() => {
            scope.key("session_token").reject_with(
                "`session_token` stands alone",
                "it belongs to the `accesskey` and the `secretkey` it was issued with",
            );
            None
        }
        (None, None) => origin(source, profile, credentials_file, scope)
            .zip(region.clone())
            .map(|(origin, region)| Source::Lookup(Lookup { origin, region })),
        (accesskey, _) => {
            let (given, missing) =
                if accesskey.is_some() { ("accesskey", "secretkey") } else { ("secretkey", "accesskey") };
            scope.reject_with(
                format!("`{given}` is given, `{missing}` is missing"),
                "give both, or neither to have credentials found as AWS's own tools do",
            );
            None
        }
    };
    Some(Iam { scope: SigningScope { region: region?, service: service? }, source: source? })
}

fn keys(
    accesskey: RawSecret,
    secretkey: RawSecret,
    session_token: Option<RawSecret>,
    scope: &Scope<'_>,
) -> Option<Source> {
    let accesskey = secrets::resolve(accesskey, &scope.key("accesskey"));
    let secretkey = secrets::resolve(secretkey, &scope.key("secretkey"));
    let session_token = given(session_token, |token| secrets::resolve(token, &scope.key("session_token")));
    Some(Source::Keys(Credentials::new(&accesskey?, &secretkey?, session_token?.as_ref())))
}

fn origin(
    source: Option<RawSource>,
    profile: Option<String>,
    credentials_file: Option<String>,
    scope: &Scope<'_>,
) -> Option<Origin> {
    let of_profile = [("profile", profile.is_some()), ("credentials_file", credentials_file.is_some())];
    let mut given = of_profile.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).peekable();
    let origin = match source {
        None if given.peek().is_none() => return Some(Origin::Default),
        None | Some(RawSource::Profile) => {
            let credentials_file = credentials_file.map(|file| scope.path(file));
            return Some(Origin::Profile { name: profile, credentials_file });
        }
        Some(RawSource::Environment) => Origin::Environment,
        Some(RawSource::WebIdentity) => Origin::WebIdentity,
        Some(RawSource::Container) => Origin::Container,
        Some(RawSource::Imds) => Origin::Imds,
    };
    let Some(key) = given.next() else { return Some(origin) };
    scope.key(key).reject_with(
        format!("`{key}` belongs to another source"),
        "`source: profile`, which may then be left out",
    );
    None
}

/// A part of the credential scope, which stands in a header between slashes.
fn name(key: &str, given: Option<String>, default: String, what: &str, scope: &Scope<'_>) -> Option<String> {
    let Some(text) = given else { return Some(default) };
    let is_name =
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let checked = if is_name { Ok(text) } else { Err(Invalid::new(format!("`{text}` is not {what}"))) };
    scope.key(key).accept(checked)
}

#[cfg(test)]
mod tests;
