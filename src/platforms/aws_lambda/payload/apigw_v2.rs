//! The event of an API Gateway's HTTP API and of a function URL, payload format 2.0: one value per name, repeated ones joined by
//! commas, cookies apart.

use std::borrow::Cow;

use indexmap::IndexMap;
use serde::Serialize;

use super::request::Asked;
use crate::error::GatewayError;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    version: &'static str,
    route_key: &'static str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<&'a str>,
    headers: IndexMap<&'a str, String>,
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    query_string_parameters: IndexMap<Cow<'a, str>, String>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_parameters: Option<&'a IndexMap<&'a str, Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    account_id: &'static str,
    api_id: &'static str,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: Http<'a>,
    request_id: &'a str,
    route_key: &'static str,
    stage: &'static str,
    time: &'a str,
    time_epoch: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Http<'a> {
    method: &'a str,
    path: &'a str,
    protocol: &'static str,
    source_ip: &'a str,
    user_agent: &'a str,
}

pub(super) fn event<'a>(asked: &'a Asked<'_>) -> Result<Event<'a>, GatewayError> {
    let joined = |values: &[Cow<'_, str>]| values.join(",");
    let is_cookie = |name: &str| name == "cookie";
    let cookies = asked.headers.get("cookie").into_iter().flatten().flat_map(|line| line.split(';'));
    Ok(Event {
        version: "2.0",
        route_key: DEFAULT,
        raw_path: asked.path,
        raw_query_string: asked.query,
        cookies: cookies.map(str::trim).filter(|cookie| !cookie.is_empty()).collect(),
        headers: asked
            .headers
            .iter()
            .filter(|(name, _)| !is_cookie(name))
            .map(|(name, values)| (*name, joined(values)))
            .collect(),
        query_string_parameters: asked
            .arguments()?
            .into_iter()
            .map(|(name, values)| (name, joined(&values)))
            .collect(),
        request_context: Context {
            account_id: "anonymous",
            api_id: "fngate",
            domain_name: asked.host,
            domain_prefix: asked.domain_prefix(),
            http: Http {
                method: asked.method,
                path: asked.path,
                protocol: asked.protocol,
                source_ip: &asked.source_ip,
                user_agent: &asked.user_agent,
            },
            request_id: asked.request_id,
            route_key: DEFAULT,
            stage: DEFAULT,
            time: &asked.time,
            time_epoch: asked.epoch_millis,
        },
        path_parameters: asked.path_parameters.as_ref(),
        body: asked.body.text(),
        is_base64_encoded: asked.body.is_base64,
    })
}

const DEFAULT: &str = "$default";
