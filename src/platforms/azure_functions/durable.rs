//! Durable Functions: the URLs under which an app lets its orchestrations be watched and steered, and what clients get in their place.
//!
//! ```text
//! https://app.azurewebsites.net/runtime/webhooks/durabletask/instances/4711?taskHub=h&connection=c&code=SYSTEM-KEY
//!                             ↓ in answers                    ↑ in requests
//! https://api.example.com/fn/runtime/webhooks/durabletask/instances/4711?taskHub=h&connection=c&code=TOKEN
//! ```
//!
//! The token is the app's system key, sealed for this one instance. The key itself must never reach a client, and no request may
//! reach these paths with any key but the one in its token.

use std::borrow::Cow;
use std::fmt::Write;

use percent_encoding::percent_decode_str;

use super::seal::Seal;
use crate::error::GatewayError;
use crate::platforms::Call;

#[derive(Debug)]
pub(super) struct Durable {
    seal: Seal,
}

/// The names under which the app of one call writes of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct App<'a> {
    /// What it gets as its Host; what is given out for one host cannot be used for another.
    pub(super) host: &'a str,
    /// The authority of `function_uri`.
    pub(super) origin: &'a str,
}

impl Durable {
    pub(super) fn new(seal: Seal) -> Self {
        Durable { seal }
    }

    /// The app's own path and query for a request that [`claims`] spoke for, the key put back in the token's place.
    pub(super) fn target(&self, app: App<'_>, call: &Call<'_>) -> Result<String, GatewayError> {
        let suffix = call.suffix.unwrap_or_default();
        let resource = suffix.strip_prefix(&API[1..]).ok_or(NOT_GIVEN_OUT)?;
        let query = call.query.unwrap_or_default();
        let place = place(app, resource, query);
        let mut target = format!("/{suffix}");
        let mut key = None;
        let mut separator = '?';
        for argument in query.split('&') {
            let code = value_of(argument, CODE);
            let argument = match code {
                None => Cow::Borrowed(argument),
                // The app would take the first of two, another server the last.
                Some(_) if key.is_some() => return Err(NOT_GIVEN_OUT),
                Some(token) => {
                    let code = self.seal.open(token, &place).filter(|code| is_sendable(code));
                    let code = &*key.insert(code.ok_or(NOT_GIVEN_OUT)?);
                    if code.is_empty() {
                        continue;
                    }
                    Cow::Owned(format!("{CODE}={code}"))
                }
            };
            target.push(separator);
            target.push_str(&argument);
            separator = '&';
        }
        if key.is_some() { Ok(target) } else { Err(NOT_GIVEN_OUT) }
    }

    /// The client's URL for one of the app's; `None` for whatever is not the URL of an orchestration of this app.
    pub(super) fn url(
        &self,
        app: App<'_>,
        call: &Call<'_>,
        text: &str,
    ) -> Result<Option<String>, GatewayError> {
        let Some((resource, query)) = app.resource(call, text) else { return Ok(None) };
        let place = place(app, resource, query);
        let mut url = String::with_capacity(text.len() + ROOM);
        if !call.origin.authority.is_empty() {
            // Without it, the rest is a reference that the client resolves by itself.
            let _ = write!(url, "{}://{}", call.origin.scheme.as_str(), call.origin.authority);
        }
        url.push_str(call.base().trim_end_matches('/'));
        url.push_str(API);
        url.push_str(resource);
        let mut separator = '?';
        let mut has_code = false;
        for argument in query.split('&').filter(|argument| !argument.is_empty()) {
            url.push(separator);
            separator = '&';
            match value_of(argument, CODE) {
                None => url.push_str(argument),
                Some(code) => {
                    has_code = true;
                    // On a route for everything, the function may repeat a URL that was given out before.
                    let is_ours = self.seal.open(code, &place).is_some();
                    let token = if is_ours { code.to_owned() } else { self.seal.close(code, &place)? };
                    let _ = write!(url, "{CODE}={token}");
                }
            }
        }
        if !has_code {
            // An app without keys: the token says that there is none.
            let _ = write!(url, "{separator}{CODE}={}", self.seal.close("", &place)?);
        }
        Ok(Some(url))
    }

    /// Replaces the URLs among the strings of a JSON text. Everything else stays as it is, byte for byte.
    pub(super) fn body(
        &self,
        app: App<'_>,
        call: &Call<'_>,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, GatewayError> {
        let mut out = Vec::new();
        let mut copied = 0;
        let mut at = 0;
        while let Some(start) = find_quote(body, at) {
            let Some(end) = find_quote(body, start + 1) else { break };
            at = end + 1;
            let Ok(text) = serde_json::from_slice::<String>(&body[start..at]) else { continue };
            let Some(url) = self.url(app, call, &text)? else { continue };
            out.extend_from_slice(&body[copied..start]);
            serde_json::to_writer(&mut out, &url).map_err(|_| GatewayError::Internal)?;
            copied = at;
        }
        if copied == 0 {
            return Ok(None);
        }
        out.extend_from_slice(&body[copied..]);
        Ok(Some(out))
    }
}

impl App<'_> {
    /// What follows the API's prefix in the URL of an orchestration of this app, and its query.
    fn resource<'t>(self, call: &Call<'_>, text: &'t str) -> Option<(&'t str, &'t str)> {
        let (scheme, rest) = text.split_once("://")?;
        if !["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            return None;
        }
        let (authority, rest) = rest.split_at(rest.find('/')?);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let resource = path.strip_prefix(API)?;
        self.is_named(call, authority).then_some((resource, query))
    }

    fn is_named(self, call: &Call<'_>, authority: &str) -> bool {
        let authority = without_default_port(authority);
        let is = |name: &str| without_default_port(name).eq_ignore_ascii_case(authority);
        // Apps that believe X-Forwarded-Host write with the client's words, though not with the route's path.
        if is(self.host) || is(self.origin) || is(call.origin.authority) {
            return true;
        }
        // Some write with the name that Azure gave them, also when they were called by a domain of their own.
        is_default_name(authority) && !is_default_name(without_default_port(self.host))
    }
}

/// Whether this suffix is the API's, in any spelling in which a server behind may take it for that.
pub(super) fn claims(suffix: &str) -> bool {
    let once = percent_decode_str(suffix).decode_utf8_lossy();
    let twice = percent_decode_str(&once).decode_utf8_lossy();
    let mut segments = twice.split(['/', '\\']).filter(|segment| !segment.is_empty());
    API.trim_matches('/')
        .split('/')
        .all(|wanted| segments.next().is_some_and(|segment| segment.eq_ignore_ascii_case(wanted)))
}

/// What a token is for: the app, its task hub, and the instance, or the whole path when it is of something else.
fn place(app: App<'_>, resource: &str, query: &str) -> Vec<u8> {
    let path = match resource.split_once('/') {
        Some((INSTANCES, rest)) => &resource[..INSTANCES.len() + 1 + rest.find('/').unwrap_or(rest.len())],
        _ => resource,
    };
    let mut place = Vec::with_capacity(app.host.len() + resource.len() + ROOM);
    // With its length, so that no two places are written alike.
    let mut push = |part: &[u8]| {
        place.extend_from_slice(&part.len().to_le_bytes());
        place.extend_from_slice(part);
    };
    push(app.host.to_ascii_lowercase().as_bytes());
    push(&decoded(path));
    for argument in query.split('&') {
        for name in ["taskHub", "connection"] {
            if let Some(value) = value_of(argument, name) {
                push(name.as_bytes());
                push(&decoded(value));
            }
        }
    }
    place
}

/// The value of the argument, as written, if this is its name for the app: in any case and with any escapes.
fn value_of<'q>(argument: &'q str, name: &str) -> Option<&'q str> {
    let (written, value) = argument.split_once('=').unwrap_or((argument, ""));
    decoded(written).eq_ignore_ascii_case(name.as_bytes()).then_some(value)
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    percent_decode_str(text).into()
}

/// Whoever can make a function repeat a URL can have any text sealed. It is of no use to them, and must not become more of a target.
fn is_sendable(code: &str) -> bool {
    code.bytes().all(|b| b.is_ascii_graphic())
}

/// The scheme's own port may or may not be written.
fn without_default_port(authority: &str) -> &str {
    [":443", ":80"].iter().find_map(|port| authority.strip_suffix(port)).unwrap_or(authority)
}

/// Whether this is a name as Azure gives it to an app.
fn is_default_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    AZURE.iter().any(|domain| host.ends_with(domain))
}

/// The next quote that no backslash stands before.
fn find_quote(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match json.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

const API: &str = "/runtime/webhooks/durabletask/";
const INSTANCES: &str = "instances";
const CODE: &str = "code";
/// Of the public cloud, the one of the US government, and the one in China.
const AZURE: [&str; 3] = [".azurewebsites.net", ".azurewebsites.us", ".chinacloudsites.cn"];

const NOT_GIVEN_OUT: GatewayError =
    GatewayError::BadRequest("the URL of an orchestration needs the code that was given out with it");

/// A token is about so much longer than the key, and so are a client's host and path than the app's.
const ROOM: usize = 128;

#[cfg(test)]
mod tests;
