use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::platforms::Origin;
use crate::platforms::tests::call;
use crate::values::{Scheme, Secret};

const KEY: &str = "OeBzKjHaccsvy9ygXILmd4JofNl9zuFZahHTZBf/Woir3KAWTMyz0Q==";
const APP: App<'static> = App { host: "app.azurewebsites.net", origin: "app.azurewebsites.net" };

fn durable() -> Durable {
    Durable::new(Seal::from_secret(&Secret::new("the route's key".to_owned())))
}

fn starter() -> Call<'static> {
    Call { path: "/fn/orchestrators/x", suffix: Some("orchestrators/x"), ..call() }
}

fn url(text: &str) -> Option<String> {
    durable().url(APP, &starter(), text).unwrap()
}

/// A request for a URL that was given out, as the gateway sees it on the route `/fn/*`.
fn request_for(url: &str) -> Call<'_> {
    let target = url.strip_prefix("http://api.example.com").expect("it leads to the gateway");
    let (path, query) = target.split_once('?').expect("it has a code");
    let suffix = path.strip_prefix("/fn/").expect("it leads to the route");
    Call { path, suffix: Some(suffix), query: Some(query), ..call() }
}

fn target(url: &str) -> Result<String, GatewayError> {
    durable().target(APP, &request_for(url))
}

fn instance(id: &str) -> String {
    format!(
        "https://app.azurewebsites.net/runtime/webhooks/durabletask/instances/{id}?taskHub=hub&connection=Storage&code={KEY}"
    )
}

#[track_caller]
fn goes_there_and_back(text: &str) {
    let url = url(text).unwrap_or_else(|| panic!("{text} is the app's"));
    assert!(!url.contains(KEY) && !url.contains("azurewebsites"), "{url}");
    let (_, own) = text.split_once(".net").unwrap();
    assert_eq!(target(&url).as_deref(), Ok(own), "{url}");
}

#[test]
fn a_url_leads_to_the_route_and_from_there_to_the_app() {
    goes_there_and_back(&instance("4711"));
    goes_there_and_back(&instance("4711/raiseEvent/approved"));
    goes_there_and_back(&instance("a%20b%2Fc"));
    goes_there_and_back(&instance("4711").replace("code=", "showInput=false&code="));
    goes_there_and_back(&format!("{}&reason=done", instance("4711/terminate")));
    goes_there_and_back(&format!(
        "https://app.azurewebsites.net/runtime/webhooks/durabletask/entities/Counter/1?op=add&code={KEY}"
    ));
}

#[test]
fn everything_but_the_code_stays_as_it_is() {
    let url = url(&instance("4711/raiseEvent/{eventName}")).unwrap();
    let begin = "http://api.example.com/fn/runtime/webhooks/durabletask/instances/4711/raiseEvent/{eventName}\
                 ?taskHub=hub&connection=Storage&code=";
    assert!(url.starts_with(begin), "{url}");
}

#[test]
fn an_app_without_keys_gets_none() {
    let text = "https://app.azurewebsites.net/runtime/webhooks/durabletask/instances/1?taskHub=h";
    let url = url(text).unwrap();
    assert!(url.contains("?taskHub=h&code="), "{url}");
    assert_eq!(target(&url).unwrap(), "/runtime/webhooks/durabletask/instances/1?taskHub=h");
}

#[test]
fn a_url_leads_back_the_way_the_client_came() {
    let origin = Origin { scheme: Scheme::Https, authority: "api.example.org:8443" };
    let call = Call { origin, path: "/team-a/run/", suffix: Some(""), ..call() };
    let url = durable().url(APP, &call, &instance("1")).unwrap().unwrap();
    assert!(url.starts_with("https://api.example.org:8443/team-a/run/runtime/webhooks/"), "{url}");

    let nameless = Call { origin: Origin { authority: "", ..origin }, path: "/run", suffix: None, ..call };
    let url = durable().url(APP, &nameless, &instance("1")).unwrap().unwrap();
    assert!(url.starts_with("/run/runtime/webhooks/durabletask/instances/1?"), "{url}");
}

#[test]
fn a_url_that_was_given_out_is_not_sealed_twice() {
    let everything = Call { path: "/x", suffix: Some("x"), ..call() };
    let url = durable().url(APP, &everything, &instance("1")).unwrap().unwrap();
    assert_eq!(durable().url(APP, &everything, &url), Ok(Some(url)));
}

#[test]
fn every_name_of_the_app_is_known() {
    let named = |authority: &str| instance("1").replace("app.azurewebsites.net", authority);
    for authority in ["APP.azurewebsites.NET", "app.azurewebsites.net:443", "api.example.com"] {
        assert!(url(&named(authority)).is_some(), "{authority}");
    }
    for authority in
        ["other.azurewebsites.net", "example.com", "app.azurewebsites.net:8080", "x@app.azurewebsites.net"]
    {
        assert_eq!(url(&named(authority)), None, "{authority}");
    }
    let custom = App { host: "functions.example.org", origin: "10.0.0.7" };
    let at_custom = |authority: &str| durable().url(custom, &starter(), &named(authority)).unwrap();
    for authority in ["functions.example.org", "10.0.0.7", "app-1a2b.westeurope-01.azurewebsites.net"] {
        assert!(at_custom(authority).is_some(), "{authority}");
    }
    assert_eq!(at_custom("app.example.org"), None);
}

#[test]
fn what_is_no_url_of_an_orchestration_is_left_alone() {
    for text in [
        "",
        "/runtime/webhooks/durabletask/instances/1",
        "https://app.azurewebsites.net",
        "https://app.azurewebsites.net/api/status/1?code=k",
        "https://app.azurewebsites.net/runtime/webhooks/eventgrid?code=k",
        "ftp://app.azurewebsites.net/runtime/webhooks/durabletask/instances/1",
        "see https://app.azurewebsites.net/runtime/webhooks/durabletask/instances/1",
    ] {
        assert_eq!(url(text), None, "{text}");
    }
}

#[test]
fn a_code_is_good_for_its_own_instance_only() {
    let good = url(&instance("4711")).unwrap();
    for (from, to) in [
        ("4711", "4712"),
        ("4711", "4711%2F..."),
        ("instances/4711", "instances"),
        ("instances/4711", "entities/4711"),
        ("taskHub=hub", "taskHub=other"),
        ("taskHub=hub", "taskHub=hub&taskhub=other"),
        ("taskHub=hub&", ""),
        ("connection=Storage", "connection=Other"),
    ] {
        assert_eq!(target(&good.replace(from, to)), Err(NOT_GIVEN_OUT), "{from} → {to}");
    }
    for (from, to) in
        [("4711", "4711/raiseEvent/go"), ("4711", "%34711"), ("Storage", "Storage&showHistory=true")]
    {
        assert!(target(&good.replace(from, to)).is_ok(), "{from} → {to}");
    }
    let other = App { host: "other.azurewebsites.net", ..APP };
    assert_eq!(durable().target(other, &request_for(&good)), Err(NOT_GIVEN_OUT));
    let other = Durable::new(Seal::from_secret(&Secret::new("another key".to_owned())));
    assert_eq!(other.target(APP, &request_for(&good)), Err(NOT_GIVEN_OUT));
}

#[test]
fn nothing_is_sent_without_exactly_one_good_code() {
    let good = url(&instance("1")).unwrap();
    let (begin, token) = good.rsplit_once("code=").unwrap();
    for query in [
        String::new(),
        "code=".to_owned(),
        format!("code={KEY}"),
        format!("x{token}"),
        format!("code={token}&code={token}"),
        format!("code={token}&Code={KEY}"),
        format!("c%6Fde={KEY}&code={token}"),
        format!("code={token}A"),
        format!("code=%41{token}"),
    ] {
        assert_eq!(target(&format!("{begin}{query}")), Err(NOT_GIVEN_OUT), "{query}");
    }
    let bare = Call { path: "/fn/x", suffix: Some("runtime/webhooks/durabletask/instances/1"), ..call() };
    assert_eq!(durable().target(APP, &bare), Err(NOT_GIVEN_OUT));
}

#[test]
fn a_text_that_no_request_line_can_hold_is_not_sent() {
    for text in ["a b", "a\r\nX: 1", "é", "\0"] {
        let url = url(&instance("1").replace(KEY, text)).unwrap();
        assert_eq!(target(&url), Err(NOT_GIVEN_OUT), "{text:?}");
    }
}

#[test]
fn no_spelling_of_the_path_goes_around_the_code() {
    for suffix in [
        "runtime/webhooks/durabletask/instances/1",
        "runtime/webhooks/durabletask",
        "Runtime/WebHooks/DurableTask/instances/1",
        "runtime//webhooks/durabletask/instances/1",
        "/runtime/webhooks/durabletask/instances/1",
        "%72untime/webhooks/durabletask/instances/1",
        "%2572untime/webhooks/durabletask/instances/1",
        "runtime%2Fwebhooks%5Cdurabletask/instances/1",
    ] {
        assert!(claims(suffix), "{suffix}");
    }
    let good = url(&instance("1")).unwrap();
    for (from, to) in [("runtime", "Runtime"), ("/webhooks", "//webhooks"), ("durabletask", "durablet%61sk")]
    {
        assert_eq!(target(&good.replace(from, to)), Err(NOT_GIVEN_OUT), "{from} → {to}");
    }
    for suffix in [
        "",
        "runtime",
        "runtime/webhooks/eventgrid",
        "x/runtime/webhooks/durabletask",
        "runtime/webhooks/durabletasks",
    ] {
        assert!(!claims(suffix), "{suffix}");
    }
}

#[test]
fn the_urls_in_a_body_are_replaced_and_nothing_else() {
    let body = format!(
        "{{ \"id\": \"4711\",\n \"n\": 1.50,  \"big\": 12345678901234567890123, \"a\\\"b\": \"\\u00e9\\\\\",\n\
         \"statusQueryGetUri\": \"{}\", \"nested\": [ {{ \"deep\": \"{}\" }} ], \"other\": \"https://x.example/\" }}",
        instance("4711"),
        instance("4711").replace('/', "\\/"),
    );
    let changed = durable().body(APP, &starter(), body.as_bytes()).unwrap().expect("it has URLs");
    let changed = String::from_utf8(changed).unwrap();

    assert!(!changed.contains(KEY) && !changed.contains("azurewebsites"), "{changed}");
    let value: Value = serde_json::from_str(&changed).unwrap();
    for text in [&value["statusQueryGetUri"], &value["nested"][0]["deep"]] {
        assert!(target(text.as_str().unwrap()).unwrap().ends_with(&format!("code={KEY}")));
    }
    let (begin, _) = changed.split_once("\"http://api").unwrap();
    assert!(body.starts_with(begin), "{begin}");
    assert!(changed.ends_with("\" } ], \"other\": \"https://x.example/\" }"), "{changed}");
}

#[test]
fn a_body_without_urls_stays_as_it_is() {
    for body in [
        "",
        "{}",
        "\"",
        "\"\\",
        "\\",
        "[\"\\ud800\"]",
        "not json",
        "{\"a\":\"https://app.azurewebsites.net/api\"}",
    ] {
        assert_eq!(durable().body(APP, &starter(), body.as_bytes()), Ok(None), "{body}");
    }
}

proptest! {
    #[test]
    fn neither_key_nor_host_gets_out(
        key in "[A-Za-z0-9_/+-]{20,60}={0,2}",
        id in "[A-Za-z0-9@:._-]{1,40}",
        operation in "(/raiseEvent/[a-z]{1,8}|/terminate|/restart)?",
        host in "[a-z]{6,12}\\.(azurewebsites\\.net|example)",
        before in "([A-Za-z]{1,9}=[A-Za-z0-9%{}]{0,9}&){0,3}",
        after in "(&[A-Za-z]{1,9}=[A-Za-z0-9{}]{0,9}){0,3}",
        code in "(code|Code|CODE|c%6fde)",
    ) {
        let app = App { host: &host, origin: &host };
        let text = format!(
            "https://{host}/runtime/webhooks/durabletask/instances/{id}{operation}?{before}{code}={key}{after}"
        );
        let durable = durable();
        let body = json!({ "id": id, "uri": text, "list": [ text, { "x": text } ] }).to_string();

        let url = durable.url(app, &starter(), &text).unwrap().expect("it is the app's");
        let body = durable.body(app, &starter(), body.as_bytes()).unwrap().expect("it has URLs");

        for out in [url.clone(), String::from_utf8(body).unwrap()] {
            prop_assert!(!out.contains(&key), "{}", out);
            prop_assert!(!out.contains(&host), "{}", out);
        }
        if code == "code" {
            let own = durable.target(app, &request_for(&url)).unwrap();
            prop_assert_eq!(text, format!("https://{host}{own}"));
        }
    }

    #[test]
    fn nothing_that_a_client_sends_panics(suffix in "\\PC{0,60}", query in "\\PC{0,60}") {
        let suffix = format!("runtime/webhooks/durabletask/{suffix}");
        let call = Call { suffix: Some(&suffix), query: Some(&query), ..call() };
        prop_assert_eq!(durable().target(APP, &call), Err(NOT_GIVEN_OUT));
    }

    #[test]
    fn nothing_that_a_function_sends_panics(body in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
        prop_assert!(durable().body(APP, &starter(), &body).is_ok());
        prop_assert!(durable().url(APP, &starter(), &text).is_ok());
    }
}
