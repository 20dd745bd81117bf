//! What a function is sent is below its own path, and reads back as the name, the rest and the query that the client meant.
#![no_main]

use std::net::Ipv4Addr;

use fngate::platforms::head::TargetPath;
use fngate::platforms::template::{Names, Parameters, Route};
use fngate::platforms::{Call, Origin};
use fngate::uri::check_path;
use fngate::values::Scheme;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;

// Name, rest and query, one to a line.
fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let (name, suffix) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let query = lines.next();
    let path = format!("/fn/{name}/{suffix}");
    let can_arrive =
        |text: &str, but: &str| text.bytes().all(|b| b.is_ascii_graphic() && !but.as_bytes().contains(&b));
    if name.contains('/') || !can_arrive(&path, "?#") || !can_arrive(query.unwrap_or_default(), "#") {
        return;
    }
    // As the gateway does before it asks a platform.
    if check_path(suffix).is_err() {
        return;
    }
    let places = [4..4 + name.len()];
    let call = Call {
        method: &http::Method::GET,
        suffix: Some(suffix),
        parameters: Parameters::new(&path, &places),
        query,
        path: &path,
        origin: Origin { scheme: Scheme::Http, authority: "" },
        request_id: "",
        client: Ipv4Addr::LOCALHOST.into(),
    };
    let names = Names { route: Route { parameters: &["name"], has_suffix: true }, allow: Default::default() };
    let target = TargetPath::compile("/base/{name}/run", Some("code=k".to_owned()), &names).unwrap();
    let (mut req, ()) = http::Request::new(()).into_parts();
    if target.apply(&call, &mut req).is_err() {
        return;
    }
    let sent = req.uri.to_string();
    assert!(sent.bytes().all(|b| b.is_ascii_graphic()), "{sent:?}");
    let (path, sent_query) = sent.split_once('?').expect("the target's own query");
    let mut segments = path.splitn(5, '/').skip(1);
    assert_eq!(segments.next(), Some("base"), "{sent}");
    let sent_name = segments.next().map(|name| percent_decode_str(name).collect::<Vec<_>>());
    assert_eq!(sent_name, Some(percent_decode_str(name).collect()), "{sent}");
    assert_eq!(segments.next(), Some("run"), "{sent}");
    assert_eq!(segments.next(), Some(suffix), "{sent}");
    match query {
        None | Some("") => assert_eq!(sent_query, "code=k"),
        Some(query) => assert_eq!(sent_query, format!("code=k&{query}")),
    }
});
