use super::*;
use crate::diag::Diagnostics;
use crate::platforms::tests::{call, head};

fn compiled(yaml: &str) -> Option<Compiled> {
    let book = Diagnostics::default();
    let raw: Raw = serde_yaml::from_str(yaml).expect("the keys are right");
    compile(raw, Route { parameters: &[], has_suffix: true }, &Scope::root(&book, 0))
}

fn function(authorization: &str) -> AzureFunctions {
    let yaml =
        format!("{{function_uri: 'https://app.azurewebsites.net/api', authorization: {authorization}}}");
    match compiled(&yaml).expect("it compiles").target {
        Target::Streamed(StreamedTarget::AzureFunctions(target)) => target,
        other => panic!("{other:?}"),
    }
}

fn request(fields: &[(&'static str, &str)]) -> Parts {
    head("GET", "/fn/x", fields)
}

fn sent(authorization: &str, fields: &[(&'static str, &str)]) -> Parts {
    let mut req = request(fields);
    let call = Call { suffix: Some("x/y"), path: "/fn/x/y", query: Some("a=1"), ..call() };
    function(authorization).rewrite_request(&call, &mut req).unwrap();
    req
}

#[track_caller]
fn keys(authorization: &str, client: &[(&'static str, &str)], expected: [Option<&str>; 2]) {
    let req = sent(authorization, client);
    for (name, expected) in CLIENTS_KEY.iter().zip(expected) {
        let values: Vec<_> = req.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, expected.into_iter().collect::<Vec<_>>(), "{authorization} {client:?} {name}");
    }
}

const NONE: &str = "{}";
const KEY_ONLY: &str = "{apikey: own}";
const BOTH: &str = "{apikey: own, clientid: me}";
const CLIENT_FIRST: &str = "{apikey: own, clientid: me, prefer: client}";

#[test]
fn suffix_query_and_host_are_the_apps() {
    let req = sent(NONE, &[("host", "api.example.com"), ("authorization", "Bearer mine")]);
    assert_eq!(req.uri.to_string(), "/api/x/y?a=1");
    assert_eq!(
        (&req.headers["host"], &req.headers["authorization"]),
        (&HeaderValue::from_static("app.azurewebsites.net"), &HeaderValue::from_static("Bearer mine"))
    );
}

#[test]
fn the_routes_key_replaces_the_clients() {
    keys(KEY_ONLY, &[], [Some("own"), None]);
    keys(BOTH, &[], [Some("own"), Some("me")]);
    keys(BOTH, &[("x-functions-key", "a"), ("X-Functions-Key", "b")], [Some("own"), Some("me")]);
    keys(KEY_ONLY, &[("x-functions-clientid", "forged")], [Some("own"), None]);
    keys("{apikey: own, prefer: route}", &[("x-functions-key", "a")], [Some("own"), None]);
}

#[test]
fn the_clients_key_passes_when_there_is_none_or_it_goes_first() {
    keys(NONE, &[], [None, None]);
    keys(NONE, &[("x-functions-key", "a"), ("x-functions-clientid", "b")], [Some("a"), Some("b")]);
    keys(CLIENT_FIRST, &[], [Some("own"), Some("me")]);
    keys(CLIENT_FIRST, &[("x-functions-key", "a")], [Some("a"), None]);
    keys(CLIENT_FIRST, &[("x-functions-clientid", "b")], [None, Some("b")]);
}

#[test]
fn what_azures_front_ends_say_cannot_come_from_a_client() {
    let forged = [
        "X-MS-CLIENT-PRINCIPAL",
        "X-MS-CLIENT-PRINCIPAL-ID",
        "X-MS-CLIENT-PRINCIPAL-NAME",
        "X-MS-TOKEN-AAD-ACCESS-TOKEN",
        "DISGUISED-HOST",
        "X-Original-URL",
        "X-ARR-SSL",
        "X-ARR-LOG-ID",
        "X-AppService-Proto",
        "X-WAWS-Unencoded-URL",
        "WAS-DEFAULT-HOSTNAME",
        "CLIENT-IP",
        "X-Client-IP",
        "X-Functions-Invocation",
    ];
    for authorization in [NONE, BOTH, CLIENT_FIRST] {
        for name in forged {
            let req = sent(authorization, &[(name, "forged"), ("x-custom", "1")]);
            assert!(!req.headers.contains_key(name), "{authorization} {name}");
            assert!(req.headers.contains_key("x-custom"));
        }
    }
}

#[track_caller]
fn codings(client: &[&str], expected: Option<&str>) {
    let fields: Vec<_> = client.iter().map(|value| ("accept-encoding", *value)).collect();
    let req = sent(NONE, &fields);
    let sent: Vec<_> = req.headers.get_all(ACCEPT_ENCODING).iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(sent, expected.into_iter().collect::<Vec<_>>(), "{client:?}");
}

#[test]
fn only_a_coding_that_can_be_read_is_asked_for() {
    codings(&[], None);
    codings(&["gzip, deflate, br, zstd"], Some("gzip"));
    codings(&["br", "deflate, GZIP;q=0.5"], Some("gzip"));
    codings(&["br"], None);
    codings(&["gzip;q=0, br"], None);
    codings(&["gzip; q=0.0"], None);
    codings(&["*"], None);
}

#[test]
fn a_request_for_an_orchestration_carries_the_sealed_key_and_no_other() {
    let function = function(CLIENT_FIRST);
    let start = Call { path: "/fn/start", suffix: Some("start"), ..call() };
    let mut resp = ResponseHeader::build(202, None).unwrap();
    let own = "/runtime/webhooks/durabletask/instances/1?taskHub=h&code=system";
    resp.insert_header(LOCATION, format!("https://app.azurewebsites.net{own}")).unwrap();
    assert_eq!(function.map_response(|| start, &mut resp), Ok(Verdict::Answered));
    let location = resp.headers[LOCATION].to_str().unwrap();

    let target = location.strip_prefix("http://api.example.com").unwrap();
    let (path, query) = target.split_once('?').unwrap();
    let poll = Call { path, suffix: path.strip_prefix("/fn/"), query: Some(query), ..call() };
    let mut req = request(&[("x-functions-key", "mine"), ("x-functions-clientid", "me")]);
    function.rewrite_request(&poll, &mut req).unwrap();

    assert_eq!(req.uri.to_string(), own);
    assert_eq!(req.headers["host"], "app.azurewebsites.net");
    assert!(CLIENTS_KEY.iter().all(|name| !req.headers.contains_key(name)));

    let forged = Call { query: Some("code=system"), ..poll };
    let refused = function.rewrite_request(&forged, &mut request(&[]));
    assert!(matches!(refused, Err(GatewayError::BadRequest(_))), "{refused:?}");
}

#[track_caller]
fn verdict(status: u16, fields: &[(&'static str, &str)], expected: Result<Verdict, GatewayError>) {
    let mut resp = ResponseHeader::build(status, None).unwrap();
    for (name, value) in fields {
        resp.append_header(*name, *value).unwrap();
    }
    assert_eq!(function(NONE).map_response(call, &mut resp), expected, "{status} {fields:?}");
    assert!(
        expected.is_err()
            || !matches!(expected, Ok(Verdict::Rewritten { .. }))
            || !resp.headers.contains_key(CONTENT_ENCODING)
    );
}

#[test]
fn only_bodies_that_may_hold_urls_are_held() {
    let rewritten = Ok(Verdict::Rewritten { limit: LARGEST_BODY });
    verdict(202, &[("content-type", "application/json; charset=utf-8")], rewritten.clone());
    verdict(202, &[("content-type", "application/problem+json")], rewritten.clone());
    verdict(202, &[("content-type", "application/json"), ("content-encoding", "gzip")], rewritten);
    verdict(202, &[("content-type", "application/json"), ("content-encoding", "br")], Err(UNREADABLE));
    let twice =
        [("content-type", "application/json"), ("content-encoding", "gzip"), ("content-encoding", "br")];
    verdict(202, &twice, Err(UNREADABLE));
    verdict(202, &[("content-type", "text/plain")], Ok(Verdict::Answered));
    verdict(202, &[], Ok(Verdict::Answered));
    verdict(200, &[("content-type", "application/json"), ("content-encoding", "br")], Ok(Verdict::Answered));
    verdict(500, &[("content-type", "application/json")], Ok(Verdict::Answered));
    verdict(503, &[], Ok(Verdict::InBody));
}

#[test]
fn a_host_that_does_not_run_was_not_reached() {
    let function = function(NONE);
    let says = |status, text: &str| function.read_body(status, text.as_bytes());
    assert_eq!(
        says(StatusCode::SERVICE_UNAVAILABLE, "Function host is not running."),
        Some(Reported::NotReached)
    );
    assert_eq!(says(StatusCode::SERVICE_UNAVAILABLE, "The function's own words"), None);
    assert_eq!(says(StatusCode::INTERNAL_SERVER_ERROR, ""), None);
}

#[test]
fn a_packed_body_is_unpacked_as_far_as_the_bound() {
    use std::io::Write;
    let pack = |plain: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(plain).unwrap();
        Bytes::from(packed.finish().unwrap())
    };
    let function = function(NONE);
    let map = |body: Bytes| function.map_body(&call(), body);

    assert_eq!(map(pack(b"{\"a\": 1}")).unwrap(), &b"{\"a\": 1}"[..]);
    assert_eq!(map(Bytes::new()).unwrap(), Bytes::new());
    assert_eq!(map(pack(&vec![b' '; LARGEST_BODY])).map(|body| body.len()), Ok(LARGEST_BODY));
    assert_eq!(map(pack(&vec![b' '; LARGEST_BODY + 1])), Err(UNREADABLE));
    let packed = pack(b"{\"a\": 1}");
    assert_eq!(map(packed.slice(..packed.len() - 1)), Err(UNREADABLE));
}

#[test]
fn what_belongs_to_a_key_is_a_fault_without_one() {
    for authorization in
        ["{clientid: me}", "{prefer: client}", "{apikey: own, clientid: ''}", "{apikey: 'é'}"]
    {
        let yaml =
            format!("{{function_uri: 'https://app.azurewebsites.net/api', authorization: {authorization}}}");
        assert!(compiled(&yaml).is_none(), "{authorization}");
    }
}
