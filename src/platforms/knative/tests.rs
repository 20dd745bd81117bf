use super::*;
use crate::diag::Diagnostics;
use crate::platforms::template::Parameters;
use crate::platforms::tests::{call, head};

const ROUTE: Route<'static> = Route { parameters: &["name", "ns"], has_suffix: true };

/// What the keys compile to, or the faults in them.
fn compiled(yaml: &str) -> Result<Compiled, Vec<String>> {
    let book = Diagnostics::default();
    let raw: Raw = serde_yaml::from_str(yaml).expect("the keys are right");
    let compiled = compile(raw, ROUTE, &Scope::root(&book, 0));
    compiled.ok_or_else(|| book.into_inner().into_iter().map(|fault| fault.message).collect())
}

fn target(yaml: &str) -> Knative {
    match compiled(yaml).expect("it compiles").target {
        Target::Streamed(StreamedTarget::Knative(target)) => target,
        other => panic!("{other:?}"),
    }
}

/// The request that a call with these path parameters becomes.
fn sent(yaml: &str, name: &str, ns: &str, fields: &[(&'static str, &str)]) -> Result<Parts, GatewayError> {
    let mut req = head("GET", "/fn/x/y/World?u=1", fields);
    let path = format!("{name}{ns}");
    let places = [0..name.len(), name.len()..path.len()];
    let parameters = Parameters::new(&path, &places);
    let call = Call { parameters, suffix: Some("World"), query: Some("u=1"), ..call() };
    let target = target(yaml);
    let admitted = target.admit(&Sought { head: &req, suffix: call.suffix, parameters });
    let rewritten = target.rewrite_request(&call, &mut req);
    assert_eq!(admitted, rewritten, "what is refused is refused at once");
    rewritten.map(|()| req)
}

#[track_caller]
fn host(yaml: &str, expected: &str) {
    let req = sent(yaml, "hello", "prod", &[("host", "api.example.com")]).unwrap();
    assert_eq!(req.headers["host"], expected, "{yaml}");
}

#[test]
fn the_host_names_the_service() {
    host("{service: hello, domain: example.com}", "hello.default.example.com");
    host("{service: hello, namespace: prod, domain: Example.com}", "hello.prod.example.com");
    host("{service: hello, tag: v2, domain: example.com}", "v2-hello.default.example.com");
    host("{host: 'Hello.example.com', namespace: prod, domain: x.com}", "hello.example.com");
    host("{host: 'hello.example.com:8080'}", "hello.example.com:8080");
    host("{host: 'hello.example.com', scheme: https}", "hello.example.com");

    let ingress = "domain: example.com, address: '10.0.0.7:80'";
    host(&format!("{{service: '{{name}}', {ingress}}}"), "hello.default.example.com");
    host(
        &format!("{{service: 'fn-{{name}}', namespace: '{{ns}}', tag: v2, {ingress}}}"),
        "v2-fn-hello.prod.example.com",
    );
    host("{host: '{name}.{ns}.ofn.io', address: '10.0.0.7:80'}", "hello.prod.ofn.io");
}

#[test]
fn path_and_query_follow_the_services_own() {
    let at = |path: &str| {
        let yaml = format!("{{service: hello, domain: example.com{path}}}");
        sent(&yaml, "hello", "prod", &[]).unwrap().uri.to_string()
    };
    assert_eq!(at(""), "/World?u=1");
    assert_eq!(at(", path: /api/"), "/api/World?u=1");
    assert_eq!(at(", path: '/{ns}'"), "/prod/World?u=1");
}

#[test]
fn address_host_and_sni_are_three_things() {
    let reached = |more: &str| {
        let compiled =
            compiled(&format!("{{service: hello, domain: example.com, scheme: https{more}}}")).unwrap();
        (compiled.terms.endpoints[0].address.to_string(), compiled.terms.sni)
    };
    let own = "hello.default.example.com";
    assert_eq!(reached(""), (format!("{own}:443"), own.to_owned()));
    assert_eq!(reached(", address: '10.0.0.7:8443'"), ("10.0.0.7:8443".to_owned(), own.to_owned()));
    assert_eq!(
        reached(", address: '10.0.0.7:8443', sni: kourier.example.com"),
        ("10.0.0.7:8443".to_owned(), "kourier.example.com".to_owned())
    );
    let host_with_port = compiled("{host: 'hello.example.com:8080'}").unwrap();
    assert_eq!(host_with_port.terms.endpoints[0].address.to_string(), "hello.example.com:8080");
}

#[test]
fn a_revision_has_time_to_start() {
    let terms = compiled("{service: hello, domain: example.com}").unwrap().terms;
    assert_eq!((terms.timeout.as_secs(), terms.connect_timeout.as_secs()), (305, 5));
}

#[test]
fn a_name_from_the_path_stays_one_label() {
    let yaml = "{service: '{name}', namespace: '{ns}', domain: example.com, address: '10.0.0.7:80'}";
    for name in
        ["hello.kube-system", "a%2Eb", "Hello", "1st", "-a", "a-", "a_b", "a%20b", "a:80", "caf%C3%A9"]
    {
        assert_eq!(sent(yaml, name, "prod", &[]).unwrap_err(), GatewayError::BadPath, "{name}");
    }
    assert_eq!(sent(yaml, "a", "prod.svc", &[]).unwrap_err(), GatewayError::BadPath);
    assert!(sent(yaml, "a", "2nd", &[]).is_ok(), "a namespace may begin with a digit");
    let long = "a".repeat(61);
    assert!(sent(yaml, &long, "prod", &[]).is_ok());
    let tagged = yaml.replace("service: '{name}'", "service: '{name}', tag: v2");
    assert_eq!(sent(&tagged, &long, "prod", &[]).unwrap_err(), GatewayError::BadPath, "64 with its tag");

    let bounded = yaml.replace("domain", "allow: [ 'img-*', prod ], domain");
    assert!(sent(&bounded, "img-a", "prod", &[]).is_ok());
    assert_eq!(sent(&bounded, "other", "prod", &[]).unwrap_err(), GatewayError::NoRoute);
}

#[test]
fn what_steers_knative_is_not_the_clients_to_say() {
    let fields = [
        ("k-network-probe", "queue"),
        ("k-original-host", "evil.example.com"),
        ("k-original-host", "worse.example.com"),
        ("K-Anything", "1"),
        ("knative-serving-revision", "hello-00001"),
        ("Knative-Serving-Tag", "v2"),
        ("kept", "1"),
        ("user-agent", "curl/8"),
    ];
    let req = sent("{service: hello, domain: example.com}", "a", "b", &fields).unwrap();
    let mut names: Vec<_> = req.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "kept", "user-agent"]);

    for agents in [&["kube-probe/1.32"][..], &["curl/8", "kube-probe/1.32"]] {
        let fields: Vec<_> = agents.iter().map(|agent| ("user-agent", *agent)).collect();
        let req = sent("{service: hello, domain: example.com}", "a", "b", &fields).unwrap();
        assert!(!req.headers.contains_key("user-agent"), "{agents:?}");
    }
}

#[track_caller]
fn faults(yaml: &str, expected: &str) {
    assert_eq!(compiled(yaml).expect_err("it is refused"), [expected], "{yaml}");
}

#[test]
fn faults_say_what_is_wrong() {
    faults("{domain: example.com}", "give either `service` or `host`");
    faults("{service: a, host: a.example.com, domain: example.com}", "give either `service` or `host`");
    faults("{service: a}", "`service` needs a `domain`");
    faults("{service: a, domain: 'a b'}", "`a b` is not a domain");
    faults("{tag: v2, host: a.example.com}", "`tag` belongs to `service`");
    faults("{service: A, domain: example.com}", "`A` is not a name in Knative");
    faults("{service: 1st, domain: example.com}", "`1st` is not a name in Knative: it begins with a digit");
    faults(
        "{service: '{name}', domain: example.com}",
        "the host differs from call to call, so it cannot be connected to",
    );
    faults(
        "{service: '{name}', domain: example.com, scheme: https, address: 'a:443'}",
        "the host differs from call to call, but the name for SNI cannot",
    );
    faults("{service: a, domain: example.com, path: x}", "`x` is not a path to start from");
}

#[test]
fn all_faults_are_found_in_one_run() {
    let found = compiled("{service: A, tag: -x, namespace: 'b c', domain: '', path: x, timeout: 1}").err();
    assert_eq!(found.map(|faults| faults.len()), Some(6));
}

#[track_caller]
fn says(status: u16, fields: &[(&'static str, &str)], body: &str, expected: Option<Reported>) {
    let target = target("{service: hello, domain: example.com}");
    let mut resp = ResponseHeader::build(status, None).unwrap();
    for (name, value) in fields {
        resp.insert_header(*name, *value).unwrap();
    }
    let said = match target.map_response(call, &mut resp).unwrap() {
        Verdict::InBody => target.read_body(resp.status, body.as_bytes()),
        Verdict::Failed(reported) => Some(reported),
        _ => None,
    };
    assert_eq!(said, expected, "{status} {body}");
}

#[test]
fn answers_from_the_way_are_told_from_the_functions() {
    let text = &[("content-type", "text/plain; charset=utf-8")];
    let lost = Some(Reported::NotReached);
    says(503, text, "pending request queue full\n", lost);
    says(503, text, "context deadline exceeded\n", lost);
    says(404, text, "Error getting active endpoint: revision.serving.knative.dev \"x\" not found\n", lost);
    says(500, text, "Error getting active endpoint: no lister\n", lost);
    says(502, text, "dial tcp 10.1.2.3:8012: connect: connection refused\n", lost);

    says(502, text, "EOF\n", None);
    says(503, text, "my own queue is full\n", None);
    says(503, text, "the pending request queue full\n", None);
    says(404, text, "not here\n", None);
    says(504, text, "activator request timeout\n", None);
    says(503, &[("content-type", "application/json")], "pending request queue full", None);
    says(200, text, "context deadline exceeded", None);
    says(500, &[("x-openfunction-status", "crash")], "oops", Some(Reported::FunctionError));
}
