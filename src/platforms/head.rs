//! What several platforms do to a request's head: set its target, replace a header, make basic credentials.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;
use pingora::http::{IntoCaseHeaderName, RequestHeader};

use super::Call;
use crate::error::GatewayError;
use crate::uri;
use crate::values::{Secret, TargetUri};

/// The path and query a target starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPath {
    path: String,
    query: Option<String>,
}

impl TargetPath {
    pub fn new(path: String, query: Option<String>) -> Self {
        TargetPath { path, query }
    }

    pub fn from_uri(uri: TargetUri) -> Self {
        TargetPath { path: uri.path, query: uri.query }
    }

    /// Sets the request's target: this path, then the call's suffix; this query, then the client's.
    pub fn apply(&self, call: &Call<'_>, req: &mut RequestHeader) -> Result<(), GatewayError> {
        let room = self.path.len() + call.suffix.map_or(0, str::len) + call.query.map_or(0, str::len);
        let mut target = String::with_capacity(room + self.query.as_ref().map_or(0, String::len) + 3);
        match call.suffix {
            Some(suffix) => uri::join_path(&self.path, suffix, &mut target),
            None => target.push_str(&self.path),
        }
        uri::push_query(self.query.as_deref(), call.query, &mut target);
        set_target(req, target)
    }
}

/// Sets the request line's target, in origin form.
pub fn set_target(req: &mut RequestHeader, target: String) -> Result<(), GatewayError> {
    // What the client sent has passed the checks of the wire, so this only fails for what they let through and `http` does not know.
    let target = PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| GatewayError::BadPath)?;
    req.set_uri(target.into());
    Ok(())
}

/// Puts one value in place of all that the client may have sent under this name.
pub fn set_header(
    req: &mut RequestHeader,
    name: impl IntoCaseHeaderName,
    value: &HeaderValue,
) -> Result<(), GatewayError> {
    req.insert_header(name, value.clone()).map_err(|_| GatewayError::Internal)
}

/// `Basic …` for `user:password`, marked as sensitive.
pub fn basic_authorization(token: &Secret) -> HeaderValue {
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(token.expose())))
        .expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}
