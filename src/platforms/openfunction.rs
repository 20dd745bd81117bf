//! OpenFunction: synchronous functions, called over plain HTTP.
//!
//! ```text
//! GET /hello/World?u=1 HTTP/1.1            GET /default/function-sample/World?u=1 HTTP/1.1
//! Host: api.example.com              →     Host: 127.0.0.1:30583
//!                                          Authorization: Basic dGVzdDp0ZXN0
//!
//! HTTP/1.1 200 OK                          HTTP/1.1 200 OK
//! Content-Length: 13                 ←     Content-Length: 13
//!
//! Hello, World!                            Hello, World!
//! ```

use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::connection::{self, Base, Defaults};
use super::head::{Host, TargetPath, basic_authorization, cold_marker, read_status};
use super::template::{Names, Route};
use super::{Call, Compiled, Readiness, Sought, Streamed, StreamedTarget, Target, Verdict};
use crate::diag::{Scope, given};
use crate::error::GatewayError;
use crate::secrets;
use crate::values::{RawSecret, TargetUri, credential_identity};

/// The attributes of the APISIX plugin of the same name, and the connection keys every target takes.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Raw {
    /// The function's URI; what follows the matched path is appended to it, `{name}` in its path is a path parameter
    pub function_uri: String,
    pub authorization: Option<RawAuthorization>,
    /// What a path parameter of this target may be, as patterns with `*` and `?` (default: any name)
    #[schemars(length(min = 1))]
    pub allow: Option<Vec<String>>,
    #[serde(flatten)]
    pub connection: connection::Raw,
}

/// Sent in place of the client's own, which passes without it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAuthorization {
    /// `user:password`, sent as basic authentication in place of the client's own
    pub service_token: Option<RawSecret>,
}

#[derive(Debug)]
pub struct OpenFunction {
    path: TargetPath,
    host: Host,
    /// Replaces the client's `Authorization`; without it the client's passes.
    authorization: Option<HeaderValue>,
}

impl Streamed for OpenFunction {
    fn admit(&self, sought: &Sought<'_>) -> Result<(), GatewayError> {
        self.path.admit(sought.parameters)?;
        self.host.admit(sought.parameters)
    }

    fn rewrite_request(&self, call: &Call<'_>, req: &mut Parts) -> Result<(), GatewayError> {
        self.path.apply(call, req)?;
        self.host.apply(call, req)?;
        if let Some(value) = &self.authorization {
            req.headers.insert(AUTHORIZATION, value.clone());
        }
        Ok(())
    }

    fn readiness(&self, resp: &ResponseHeader) -> Readiness {
        cold_marker(resp)
    }

    fn map_response<'c>(
        &self,
        _: impl FnOnce() -> Call<'c>,
        resp: &mut ResponseHeader,
    ) -> Result<Verdict, GatewayError> {
        Ok(read_status(resp))
    }
}

pub fn compile(raw: Raw, route: Route<'_>, scope: &Scope<'_>) -> Option<Compiled> {
    let Raw { function_uri, authorization, allow, connection } = raw;
    let names = Names::compile(route, allow, scope)?;
    let uri = scope.key("function_uri").accept(function_uri.parse::<TargetUri>());
    let token = authorization.and_then(|RawAuthorization { service_token }| service_token);
    let authorization = given(token, |token| {
        let scope = scope.key("authorization").key("service_token");
        let token = secrets::resolve(token, &scope)?;
        secrets::warn_without_colon(&token, "`user:password`", &scope);
        Some(basic_authorization(&token))
    });
    let base = uri.as_ref().map(|uri| Base::from_origin(uri.scheme, uri.origin.clone()));
    let connection = connection::compile(connection, base, DEFAULTS, &names, scope)?;
    let credential = authorization.as_ref()?.as_ref().map(|value| credential_identity([value.as_bytes()]));
    let connection = connection.with_credential(credential);
    let authorization = authorization?;
    let target = OpenFunction {
        path: scope.key("function_uri").accept(TargetPath::from_uri(uri?, &names))?,
        host: connection.host,
        authorization,
    };
    Some(Compiled {
        platform: "openfunction",
        target: Target::Streamed(StreamedTarget::OpenFunction(target)),
        terms: connection.terms,
        max_request: connection.max_request,
        credentials: None,
    })
}

const DEFAULTS: Defaults = Defaults {
    timeout: Duration::from_secs(3),
    timeout_range: (Duration::from_millis(100), Duration::MAX),
    patience: Duration::ZERO,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Diagnostics;
    use crate::platforms::tests::{call, head};

    fn function(yaml: &str) -> OpenFunction {
        let book = Diagnostics::default();
        let raw: Raw = serde_yaml::from_str(yaml).expect("the keys are right");
        let compiled = compile(raw, Route { parameters: &[], has_suffix: true }, &Scope::root(&book, 0))
            .expect("it compiles");
        match compiled.target {
            Target::Streamed(StreamedTarget::OpenFunction(target)) => target,
            other => panic!("{other:?}"),
        }
    }

    fn sent(yaml: &str, suffix: Option<&str>, query: Option<&str>, client: &[(&'static str, &str)]) -> Parts {
        let mut req = head("GET", "/hello/x", client);
        let call = Call { suffix, query, ..call() };
        function(yaml).rewrite_request(&call, &mut req).unwrap();
        req
    }

    #[track_caller]
    fn target(yaml: &str, suffix: Option<&str>, query: Option<&str>, expected: &str) {
        assert_eq!(sent(yaml, suffix, query, &[]).uri.to_string(), expected);
    }

    #[test]
    fn the_suffix_and_the_query_follow_the_functions_own() {
        target("function_uri: http://f.example", None, None, "/");
        target("function_uri: http://f.example", Some("World"), None, "/World");
        target("function_uri: http://f.example/default/fn", None, Some("a=1"), "/default/fn?a=1");
        target("function_uri: http://f.example/default/fn", Some(""), None, "/default/fn/");
        target(
            "function_uri: http://f.example/fn/?code=k",
            Some("a%2Fb"),
            Some("b=2&a"),
            "/fn/a%2Fb?code=k&b=2&a",
        );
    }

    #[test]
    fn the_service_token_replaces_every_client_authorization() {
        let client = [("authorization", "user-token-a"), ("authorization", "user-token-b")];
        let req = sent(
            "{function_uri: 'http://f.example', authorization: {service_token: 'test:test'}}",
            None,
            None,
            &client,
        );
        let values: Vec<_> = req.headers.get_all("authorization").iter().collect();
        assert_eq!(values, ["Basic dGVzdDp0ZXN0"]);
    }

    #[test]
    fn without_a_token_the_clients_authorization_passes() {
        let req = sent("function_uri: http://f.example", None, None, &[("authorization", "user-token-xxx")]);
        assert_eq!(req.headers["authorization"], "user-token-xxx");
    }

    #[test]
    fn host_is_the_uris_authority_unless_given() {
        assert_eq!(
            sent("function_uri: http://F.example:8080/x", None, None, &[]).headers["host"],
            "f.example:8080"
        );
        assert_eq!(
            sent("function_uri: https://f.example:443/x", None, None, &[]).headers["host"],
            "f.example"
        );
        assert_eq!(
            sent("{function_uri: 'http://10.0.0.1/x', host: fn.ofn.io}", None, None, &[]).headers["host"],
            "fn.ofn.io"
        );
    }
}
