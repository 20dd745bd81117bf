use super::*;
use crate::diag::Diagnostics;
use crate::platforms::template::Parameters;
use crate::platforms::tests::{call, head};

fn compiled(yaml: &str, route: Route<'_>) -> Result<OpenFaas, Vec<String>> {
    let book = Diagnostics::default();
    let yaml = format!("{{gateway_uri: 'http://gw.example:8080', {yaml}}}");
    let raw: Raw = serde_yaml::from_str(&yaml).expect("the keys are right");
    match compile(raw, route, &Scope::root(&book, 0)) {
        Some(Compiled { target: Target::Streamed(StreamedTarget::OpenFaas(target)), .. }) => Ok(target),
        Some(other) => panic!("{other:?}"),
        None => Err(book.into_inner().into_iter().map(|fault| fault.message).collect()),
    }
}

const ROUTE: Route<'static> = Route { parameters: &["name", "ns"], has_suffix: true };

fn function(yaml: &str) -> OpenFaas {
    compiled(yaml, ROUTE).expect("it compiles")
}

/// What a call with these path parameters and this suffix asks for.
fn asked(yaml: &str, name: &str, ns: &str, suffix: Option<&str>) -> Result<String, GatewayError> {
    let path = format!("{name}{ns}");
    let places = [0..name.len(), name.len()..path.len()];
    let call = Call { parameters: Parameters::new(&path, &places), suffix, query: Some("u=1"), ..call() };
    let mut req = head("POST", "/x", &[]);
    let function = function(yaml);
    let admitted = function.admit(&Sought { head: &req, suffix, parameters: call.parameters });
    let rewritten = function.rewrite_request(&call, &mut req);
    assert_eq!(admitted, rewritten, "what is refused is refused at once");
    rewritten.map(|()| req.uri.to_string())
}

#[track_caller]
fn asks(yaml: &str, suffix: Option<&str>, expected: &str) {
    assert_eq!(asked(yaml, "hello", "dev", suffix).as_deref(), Ok(expected), "{yaml} {suffix:?}");
}

#[test]
fn the_function_is_named_by_the_file_a_parameter_or_the_suffix() {
    asks("function: hello", None, "/function/hello?u=1");
    asks("function: hello", Some("a%2Fb"), "/function/hello/a%2Fb?u=1");
    asks("function: hello", Some(""), "/function/hello/?u=1");
    asks("function: hello.dev", None, "/function/hello.dev?u=1");
    asks("function: hello, namespace: dev", Some("x"), "/function/hello.dev/x?u=1");
    asks("function: '{name}', namespace: '{ns}'", Some("x"), "/function/hello.dev/x?u=1");
    asks("function: 'img-{name}'", None, "/function/img-hello?u=1");
    asks("mode: sync", Some("hello"), "/function/hello?u=1");
    asks("mode: sync", Some("hello/"), "/function/hello/?u=1");
    asks("namespace: dev", Some("%68ello/a%2Fb/c"), "/function/hello.dev/a%2Fb/c?u=1");
    asks("mode: async, function: hello", Some("x"), "/async-function/hello/x?u=1");
    asks("function: hello, host: faas.example.com", None, "/function/hello?u=1");
}

#[test]
fn a_gateway_may_stand_below_a_path() {
    let book = Diagnostics::default();
    let yaml = "{gateway_uri: 'https://example.com/faas/', function: hello}";
    let compiled =
        compile(serde_yaml::from_str(yaml).unwrap(), ROUTE, &Scope::root(&book, 0)).expect("it compiles");
    let Target::Streamed(target) = compiled.target else { panic!("it is streamed") };
    let mut req = head("GET", "/x", &[]);
    target.rewrite_request(&call(), &mut req).unwrap();
    assert_eq!(
        (req.uri.to_string().as_str(), &req.headers["host"]),
        ("/faas/function/hello", &"example.com".parse().unwrap())
    );
    assert_eq!((compiled.terms.timeout.as_secs(), compiled.terms.connect_timeout.as_secs()), (165, 5));
}

#[test]
fn a_name_from_the_path_stays_in_its_namespace() {
    let wrong = ["a.other", "a%2Eother", ".", "..", "%2e%2e", "a%2Fb", "a%20b", "caf%C3%A9", "a@b"];
    for namespace in ["", ", namespace: dev"] {
        for name in wrong {
            let named = asked(&format!("function: '{{name}}'{namespace}"), name, "dev", None);
            assert_eq!(named, Err(GatewayError::BadPath), "{name}");
            let first = asked(&format!("mode: sync{namespace}"), "", "", Some(&format!("{name}/x")));
            assert_eq!(first, Err(GatewayError::BadPath), "{name}");
        }
    }
    assert_eq!(asked("function: a, namespace: '{ns}'", "a", "x.y", None), Err(GatewayError::BadPath));
    assert_eq!(asked("mode: sync", "", "", Some("")), Err(GatewayError::NoRoute));
    assert_eq!(asked("mode: sync", "", "", Some("/x")), Err(GatewayError::NoRoute));

    let bounded = "allow: [ 'img-*' ]";
    assert!(asked(bounded, "", "", Some("img-a/x")).is_ok());
    assert_eq!(asked(bounded, "", "", Some("other/x")), Err(GatewayError::NoRoute));
}

#[test]
fn what_the_gateway_names_is_not_the_clients_to_say() {
    let fields = [
        ("x-openfaas-internal", "gateway"),
        ("X-OpenFaaS-Anything", "1"),
        ("x-call-id", "forged"),
        ("x-start-time", "0"),
        ("authorization", "Bearer mine"),
        ("x-kept", "1"),
    ];
    let sent = |yaml: &str| {
        let mut req = head("GET", "/x", &fields);
        function(yaml).rewrite_request(&call(), &mut req).unwrap();
        let mut names: Vec<_> = req.headers.keys().map(|name| name.to_string()).collect();
        names.sort_unstable();
        (names, req.headers["authorization"].to_str().unwrap().to_owned())
    };
    let kept = ["authorization", "host", "x-kept"].map(str::to_owned).to_vec();
    assert_eq!(sent("function: hello"), (kept.clone(), "Bearer mine".to_owned()));
    assert_eq!(
        sent("function: hello, authorization: {token: t0ken}"),
        (kept.clone(), "Bearer t0ken".to_owned())
    );
    assert_eq!(
        sent("function: hello, authorization: {service_token: 'a:b'}"),
        (kept, "Basic YTpi".to_owned())
    );
}

#[track_caller]
fn queues(yaml: &str, method: &str, urls: &[&str], expected: Result<(), GatewayError>) {
    let fields: Vec<_> = urls.iter().map(|url| ("x-callback-url", *url)).collect();
    let req = head(method, "/x", &fields);
    let sought = Sought { head: &req, suffix: None, parameters: Parameters::default() };
    let queued = function(&format!("mode: async, function: hello{yaml}")).admit(&sought);
    assert_eq!(queued, expected, "{yaml} {method} {urls:?}");
}

#[test]
fn results_are_sent_to_allowed_hosts_only() {
    let refused = || Err(GatewayError::BadRequest("X-Callback-Url is not one that this route allows"));
    queues("", "POST", &[], Ok(()));
    queues("", "POST", &["http://example.com/"], refused());
    let hosts = ", callback_hosts: [ 'Hooks.example.com', '*.example.org' ]";
    queues(hosts, "POST", &["http://hooks.example.com/done?x=1"], Ok(()));
    queues(hosts, "POST", &["https://Hooks.Example.com:8443"], Ok(()));
    queues(hosts, "POST", &["http://a.b.example.org/"], Ok(()));
    for url in [
        "http://example.org/",
        "http://hooks.example.com.evil.test/",
        "http://hooks.example.com@evil.test/",
        "http://evil.test/#hooks.example.com",
        "http://evil.test\\@hooks.example.com/",
        "ftp://hooks.example.com/",
        "//hooks.example.com/",
        "hooks.example.com",
        "http://169.254.169.254/",
        "",
    ] {
        queues(hosts, "POST", &[url], refused());
    }
    let good = "http://hooks.example.com/";
    queues(hosts, "POST", &[good, "http://evil.test/"], refused());
    queues(hosts, "POST", &[good, good], refused());
}

#[test]
fn only_posts_are_queued() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        queues("", method, &[], Err(GatewayError::MethodNotAllowed("POST".into())));
    }
}

#[track_caller]
fn answers(
    yaml: &str,
    method: Method,
    status: u16,
    fields: &[(&'static str, &str)],
    body: &str,
    expected: Result<Option<Reported>, GatewayError>,
) {
    let target = function(&format!("function: hello{yaml}"));
    let mut resp = ResponseHeader::build(status, None).unwrap();
    for (name, value) in fields {
        resp.insert_header(*name, *value).unwrap();
    }
    let said =
        target.map_response(|| Call { method: &method, ..call() }, &mut resp).map(|verdict| match verdict {
            Verdict::InBody => target.read_body(resp.status, body.as_bytes()),
            Verdict::Failed(reported) => Some(reported),
            _ => None,
        });
    assert_eq!(said, expected, "{yaml} {method} {status} {fields:?} {body}");
}

#[test]
fn an_empty_200_that_no_watchdog_timed_is_a_timeout() {
    let empty = &[("content-length", "0"), ("x-call-id", "1")];
    let timed = &[("content-length", "0"), ("x-duration-seconds", "0.001")];
    answers("", Method::GET, 200, empty, "", Err(GatewayError::UpstreamTimeout));
    answers("", Method::POST, 200, empty, "", Err(GatewayError::UpstreamTimeout));
    answers("", Method::HEAD, 200, empty, "", Ok(None));
    answers("", Method::GET, 200, timed, "", Ok(None));
    answers("", Method::GET, 200, &[("content-length", "1")], "x", Ok(None));
    answers("", Method::GET, 200, &[], "", Ok(None));
    answers("", Method::GET, 204, &[], "", Ok(None));
    answers("", Method::GET, 201, empty, "", Ok(None));
    answers(", empty_200: pass", Method::GET, 200, empty, "", Ok(None));
    answers(", mode: async", Method::POST, 200, empty, "", Ok(None));
    answers(", mode: async", Method::POST, 202, empty, "", Ok(None));
}

#[test]
fn answers_from_the_way_are_told_from_the_functions() {
    let lost = || Ok(Some(Reported::NotReached));
    let timed = &[("x-duration-seconds", "0.001")];
    let missing = "error finding function hello: server returned non-200 status code (404)";
    answers("", Method::GET, 404, &[], missing, lost());
    answers("", Method::GET, 500, &[], missing, lost());
    answers("", Method::GET, 503, &[], "No endpoints available for: hello.", lost());
    answers("", Method::GET, 404, timed, missing, Ok(None));
    answers("", Method::GET, 404, &[], "no such page", Ok(None));
    answers("", Method::GET, 500, &[], "Can't reach service for: hello.", Ok(None));
    answers("", Method::GET, 502, &[], "", Ok(None));
    answers(", mode: async", Method::POST, 500, &[], "nats: timeout", lost());
    answers(", mode: async", Method::POST, 400, &[], "parse error", Ok(None));
}

#[track_caller]
fn faults(yaml: &str, route: Route<'_>, expected: &str) {
    assert_eq!(compiled(yaml, route).expect_err("it is refused"), [expected], "{yaml}");
}

#[test]
fn faults_say_what_is_wrong() {
    let exact = Route { has_suffix: false, ..ROUTE };
    faults("mode: sync", exact, "`function` is missing, and the route has no suffix to take it from");
    faults("function: a b", ROUTE, "`a b` is not a name in OpenFaaS");
    faults("function: ..", ROUTE, "`..` is not a name in OpenFaaS");
    faults("function: a.b, namespace: dev", ROUTE, "`a.b` is not a name in OpenFaaS");
    faults("function: a, namespace: d.ev", ROUTE, "`d.ev` is not a name in OpenFaaS");
    faults(
        "function: '{name}.dev'",
        ROUTE,
        "`{name}.dev` holds a `.`, behind which the gateway looks for a namespace",
    );
    faults(
        "function: a, authorization: {token: a, service_token: 'a:b'}",
        ROUTE,
        "give either `token` or `service_token`: a request has one Authorization",
    );
    faults(
        "function: a, callback_hosts: [ 'https://hooks.example.com' ]",
        ROUTE,
        "`https://hooks.example.com` fits no host",
    );
    let book = Diagnostics::default();
    let raw = serde_yaml::from_str("{gateway_uri: 'http://gw/?x=1', function: a}").unwrap();
    assert!(compile(raw, ROUTE, &Scope::root(&book, 0)).is_none());
}
