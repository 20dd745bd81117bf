//! The event of an API Gateway's REST API, payload format 1.0: each name with its last value, and once more with all of them.

use std::borrow::Cow;

use indexmap::IndexMap;
use serde::Serialize;

use super::request::{Arguments, Asked, last_values};
use crate::error::GatewayError;

/// What is not there is `null`, as functions for this form expect.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    version: &'static str,
    resource: &'a str,
    path: &'a str,
    http_method: &'a str,
    headers: IndexMap<&'a str, Cow<'a, str>>,
    multi_value_headers: &'a IndexMap<&'a str, Vec<Cow<'a, str>>>,
    query_string_parameters: Option<IndexMap<Cow<'a, str>, Cow<'a, str>>>,
    multi_value_query_string_parameters: Option<Arguments<'a>>,
    request_context: Context<'a>,
    path_parameters: Option<&'a IndexMap<&'a str, Cow<'a, str>>>,
    stage_variables: Option<()>,
    body: Option<&'a str>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    api_id: &'static str,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http_method: &'a str,
    identity: Identity<'a>,
    path: &'a str,
    protocol: &'static str,
    request_id: &'a str,
    request_time: &'a str,
    request_time_epoch: i64,
    resource_path: &'a str,
    stage: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    source_ip: &'a str,
    user_agent: &'a str,
}

pub(super) fn event<'a>(asked: &'a Asked<'_>) -> Result<Event<'a>, GatewayError> {
    let arguments = Some(asked.arguments()?).filter(|arguments| !arguments.is_empty());
    Ok(Event {
        version: "1.0",
        resource: &asked.resource,
        path: asked.path,
        http_method: asked.method,
        headers: last_values(&asked.headers),
        multi_value_headers: &asked.headers,
        query_string_parameters: arguments.as_ref().map(last_values),
        multi_value_query_string_parameters: arguments,
        request_context: Context {
            api_id: "fngate",
            domain_name: asked.host,
            domain_prefix: asked.domain_prefix(),
            http_method: asked.method,
            identity: Identity { source_ip: &asked.source_ip, user_agent: &asked.user_agent },
            path: asked.path,
            protocol: asked.protocol,
            request_id: asked.request_id,
            request_time: &asked.time,
            request_time_epoch: asked.epoch_millis,
            resource_path: &asked.resource,
            stage: "$default",
        },
        path_parameters: asked.path_parameters.as_ref(),
        stage_variables: None,
        body: asked.body.text(),
        is_base64_encoded: asked.body.is_base64,
    })
}
