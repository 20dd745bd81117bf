//! The URLs of an orchestration: whatever stands around them in an answer, no client gets the app's key; each leads back to what the app
//! meant; and the code in it opens nothing else.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use fngate::platforms::{Call, Streamed, StreamedTarget, Target};
use fngate::uri::check_path;
use fngate_fuzz::{call, function};
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use pingora_http::{RequestHeader, ResponseHeader};
use serde_json::Value;

// One to a line: an instance, another one, arguments before and after the code, and a JSON text in which U+0001 stands for the URL.
fuzz_target!(|text: &str| {
    let mut lines = text.splitn(5, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (instance, other, before, after, around) = (line(), line(), line(), line(), line());
    let is_sendable =
        |text: &str, but: &str| text.bytes().all(|b| b.is_ascii_graphic() && !but.as_bytes().contains(&b));
    let can_be_asked = is_sendable(instance, "?#")
        && is_sendable(other, "?#")
        && is_sendable(before, "#")
        && is_sendable(after, "#");
    if !can_be_asked || text.contains(KEY) {
        return;
    }
    let arguments: Vec<_> = [before, &format!("code={KEY}"), after]
        .into_iter()
        .filter(|a| !a.is_empty())
        .map(str::to_owned)
        .collect();
    let own = format!("/{API}{instance}?{}", arguments.join("&"));
    let url = format!("https://{HOST}{own}");

    let token = announced(&url, around);
    // Who knows the key alone, or no key, gets nowhere.
    for query in [after.to_owned(), format!("code={KEY}"), own.split_once('?').unwrap().1.to_owned()] {
        assert_eq!(sent(&format!("{API}{other}"), &query), None);
    }
    let Some(token) = token else { return };
    let query = |before: &str, after: &str| {
        let parts = [before, &format!("code={token}"), after];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&")
    };
    if let Some(target) = sent(&format!("{API}{instance}"), &query(before, after)) {
        assert_eq!(target, own);
    } else {
        let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_~=&".contains(&b));
        let is_plain = [instance, before, after].into_iter().all(is_plain);
        let has_one_code = [before, after].into_iter().all(|arguments| codes(arguments) == 0);
        assert!(!(is_plain && has_one_code), "it leads back");
    }
    // Another instance, or the same in another task hub.
    if sent(&format!("{API}{other}"), &query(before, after)).is_some() {
        assert_eq!(name_of(other), name_of(instance));
    }
    if sent(&format!("{API}{instance}"), &query(after, "")).is_some() {
        assert_eq!(hub(after), hub(&format!("{before}&{after}")));
    }
});

/// What a client makes of an answer that names this URL: the code in it. Nothing of the app's key is anywhere.
fn announced(url: &str, around: &str) -> Option<String> {
    let asked = RequestHeader::build("POST", b"/fn/start", None).unwrap();
    let call = call(&asked);
    let mut resp = ResponseHeader::build(202, None).unwrap();
    resp.insert_header(CONTENT_TYPE, "application/json").unwrap();
    resp.insert_header(LOCATION, url).ok()?;
    APP.map_response(|| fngate_fuzz::call(&asked), &mut resp).unwrap();
    let location = resp.headers[LOCATION].to_str().unwrap();
    assert!(location.starts_with("http://api.example.com/fn/") && !location.contains(KEY), "{location}");

    let text = serde_json::to_string(url).unwrap();
    for text in [&text, &text.replace('/', "\\/"), &text.replace('d', "\\u0064")] {
        let body = around.replace('\u{1}', text);
        // What is no JSON names no URL.
        if serde_json::from_str::<Value>(&body).is_ok() {
            let changed = APP.map_body(&call, Bytes::from(body)).unwrap();
            holds_no_key(&serde_json::from_slice(&changed).expect("it still is JSON"));
        }
    }
    let (_, query) = location.split_once('?').expect("it has a code");
    let mut codes = query.split('&').filter(|argument| codes(argument) > 0);
    match (codes.next(), codes.next()) {
        (Some(code), None) => code.split_once('=').map(|(_, token)| token.to_owned()),
        _ => None,
    }
}

fn holds_no_key(value: &Value) {
    match value {
        Value::String(text) => assert!(!text.contains(KEY), "{text}"),
        Value::Array(items) => items.iter().for_each(holds_no_key),
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            assert!(!name.contains(KEY), "{name}");
            holds_no_key(value);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What the app gets for this request, if it gets it at its own API.
fn sent(suffix: &str, query: &str) -> Option<String> {
    check_path(suffix).ok()?;
    let target = format!("/fn/{suffix}?{query}");
    let asked = RequestHeader::build("GET", target.as_bytes(), None).ok()?;
    let mut req = Parts::from(asked.clone());
    let call = Call { query: Some(query), ..call(&asked) };
    APP.rewrite_request(&call, &mut req).ok()?;
    assert!(req.headers.get("x-functions-key").is_none(), "the route's key does not go there");
    Some(req.uri.to_string())
}

fn codes(arguments: &str) -> usize {
    arguments.split('&').filter(|argument| named(argument, "code").is_some()).count()
}

/// The value of this argument, if that is its name for an app.
fn named(argument: &str, name: &str) -> Option<Vec<u8>> {
    let (written, value) = argument.split_once('=').unwrap_or((argument, ""));
    let written = percent_decode_str(written).collect::<Vec<_>>();
    written.eq_ignore_ascii_case(name.as_bytes()).then(|| percent_decode_str(value).collect())
}

fn name_of(path: &str) -> Vec<u8> {
    percent_decode_str(path.split('/').next().unwrap_or_default()).collect()
}

fn hub(arguments: &str) -> Vec<Vec<u8>> {
    let arguments = arguments.split('&');
    arguments.filter_map(|argument| named(argument, "taskHub").or(named(argument, "connection"))).collect()
}

static APP: LazyLock<StreamedTarget> = LazyLock::new(|| {
    let app = format!(
        "azure_functions: {{ function_uri: 'https://{HOST}/api', authorization: {{ apikey: route_key }} }}"
    );
    match function(&app) {
        Target::Streamed(target) => target,
        Target::Buffered(_) => panic!("it is streamed"),
    }
});

const HOST: &str = "app.azurewebsites.net";
const API: &str = "runtime/webhooks/durabletask/instances/";
const KEY: &str = "OeBzKjHaccsvy9ygXILmd4JofNl9zuFZahHTZBfWoir3KAWTMyz0Q==";
