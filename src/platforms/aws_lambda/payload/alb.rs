//! The event of an Application Load Balancer. A load balancer gives either one value per name or all of them, as its target group
//! says; here both are given, so that a function written for either finds what it looks for. Arguments keep their escapes.

use std::borrow::Cow;

use indexmap::IndexMap;
use serde::Serialize;

use super::request::{Arguments, Asked, last_values};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    request_context: Context,
    http_method: &'a str,
    path: &'a str,
    query_string_parameters: IndexMap<Cow<'a, str>, Cow<'a, str>>,
    multi_value_query_string_parameters: Arguments<'a>,
    headers: IndexMap<&'a str, Cow<'a, str>>,
    multi_value_headers: &'a IndexMap<&'a str, Vec<Cow<'a, str>>>,
    body: &'a str,
    is_base64_encoded: bool,
}

/// By `elb` in it, functions and frameworks know the form.
#[derive(Serialize)]
struct Context {
    elb: Elb,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Elb {
    target_group_arn: &'static str,
}

pub(super) fn event<'a>(asked: &'a Asked<'_>) -> Event<'a> {
    let arguments = asked.arguments_as_sent();
    Event {
        request_context: Context { elb: Elb { target_group_arn: "" } },
        http_method: asked.method,
        path: asked.path,
        query_string_parameters: last_values(&arguments),
        multi_value_query_string_parameters: arguments,
        headers: last_values(&asked.headers),
        multi_value_headers: &asked.headers,
        body: &asked.body.text,
        is_base64_encoded: asked.body.is_base64,
    }
}
