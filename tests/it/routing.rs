//! Which request reaches which function, and what of its path and query arrives there.

use crate::harness::*;

#[tokio::test]
async fn the_most_specific_host_and_path_win() {
    let origin = Origin::echo().await;
    let table = [
        ("any", "[]", "/*"),
        ("any-deep", "[]", "/deep/er/*"),
        ("exact-host", "[ api.example.com ]", "/*"),
        ("wild-short", "['*.example.org']", "/*"),
        ("wild-long", "['*.eu.example.org']", "/*"),
        ("exact-path", "[ api.example.com ]", "/fn"),
        ("long-prefix", "[ api.example.com ]", "/fn/a/*"),
        ("short-prefix", "[ api.example.com ]", "/fn/*"),
    ];
    let yaml = table.iter().fold("routes:\n".to_owned(), |text, (name, hosts, path)| {
        let hosts = if *hosts == "[]" { String::new() } else { format!(", hosts: {hosts}") };
        text + &format!("  - name: {name}\n    match: {{ path: '{path}'{hosts} }}\n    target: {{ http: {{ url: '{}/{name}' }} }}\n", origin.url())
    });
    let gateway = Gateway::start(&yaml).await;

    for (host, path, winner) in [
        ("api.example.com", "/fn", "exact-path"),
        ("API.Example.COM:8080", "/fn", "exact-path"),
        ("api.example.com", "/fn/a/b", "long-prefix"),
        ("api.example.com", "/fn/b", "short-prefix"),
        ("api.example.com", "/fn/", "short-prefix"),
        ("api.example.com", "/fnord", "exact-host"),
        ("api.example.com", "/deep/er/x", "exact-host"),
        ("x.example.org", "/", "wild-short"),
        ("a.b.example.org", "/", "wild-short"),
        ("x.eu.example.org", "/", "wild-long"),
        ("example.org", "/", "any"),
        ("other", "/deep/er/x", "any-deep"),
        ("other", "/deep/er", "any"),
    ] {
        let answer = gateway.send(&Request::get(path).header("Host", host)).await;
        assert_eq!(answer.status(), 200, "{host} {path}: {}", answer.text());
        let target = answer.json::<Echo>().target;
        assert_eq!(target.split('/').nth(1), Some(winner), "{host} {path} went to {target}");
    }
}

#[tokio::test]
async fn a_prefix_does_not_match_its_own_name() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/hello/*", &http(&origin, "/fn"))).await;

    let without = gateway.get("/hello").await;
    assert_eq!((without.status(), without.code().as_str()), (404, "no_route"));
    assert_eq!(gateway.get("/helloworld").await.status(), 404);
    assert_eq!(gateway.get("/hello/").await.json::<Echo>().target, "/fn/");
}

#[tokio::test]
async fn another_method_is_405_with_allow() {
    let origin = Origin::echo().await;
    let yaml = format!(
        "routes:
  - name: read
    match: {{ path: /x, methods: [ GET, HEAD ] }}
    target: {{ http: {{ url: '{0}/read' }} }}
  - name: write
    match: {{ path: /x, methods: [ POST ] }}
    target: {{ http: {{ url: '{0}/write' }} }}
",
        origin.url()
    );
    let gateway = Gateway::start(&yaml).await;

    assert_eq!(gateway.get("/x").await.json::<Echo>().target, "/read");
    assert_eq!(gateway.post("/x", "").await.json::<Echo>().target, "/write");
    let answer = gateway.send(&Request::new("DELETE", "/x")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (405, "method_not_allowed"));
    let mut allowed: Vec<&str> = answer.header("allow").unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn priority_breaks_a_tie() {
    let origin = Origin::echo().await;
    let yaml = format!(
        "routes:
  - name: low
    match: {{ path: '/x/*' }}
    target: {{ http: {{ url: '{0}/low' }} }}
  - name: high
    match: {{ path: '/x/*' }}
    priority: 10
    target: {{ http: {{ url: '{0}/high' }} }}
",
        origin.url()
    );
    let gateway = Gateway::start(&yaml).await;

    assert_eq!(gateway.get("/x/y").await.json::<Echo>().target, "/high/y");
}

#[tokio::test]
async fn routes_that_can_never_be_told_apart_are_a_fault() {
    let target = "http: { url: 'http://127.0.0.1:1/' }";
    check(&routes(&[("one", "/x/*", target), ("two", "/x/*", target)]))
        .await
        .refuses(&["`one`", "routes[1]"]);
    check(&routes(&[("one", "/x", target), ("one", "/y", target)])).await.refuses(&["`one`"]);
}

#[tokio::test]
async fn what_is_harmless_in_a_suffix_arrives_as_sent() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&route("/fn/*", &http(&origin, "/base"))).await;
    let mut client = gateway.client().await;

    for suffix in [
        "",
        "a",
        "a/b/",
        "a%20b",
        "a%3Fb",
        "a%23b",
        "a%2Fb",
        "a%2fb",
        "100%25",
        "a%25zz",
        "caf%C3%A9",
        "a//b",
        "/a",
        "a//",
        "...",
        "..a",
        ".hidden",
        "a.",
        "a;p=1",
        "a;..",
        "a%5Cb",
        "a+b",
        "a:b@c",
        "!$&'()*,=~_-",
        "%41",
    ] {
        let path = format!("/fn/{suffix}");
        let answer = client.call(&Request::get(&path)).await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        assert_eq!(answer.json::<Echo>().target, format!("/base/{suffix}"), "{path}");
    }
}

#[tokio::test]
async fn what_could_leave_the_function_is_refused() {
    let origin = Origin::echo().await;
    let target = format!(
        "openfunction: {{ function_uri: '{}/base', authorization: {{ service_token: 'a:b' }} }}",
        origin.url()
    );
    let gateway = Gateway::start(&route("/fn/*", &target)).await;
    let mut wrong = Vec::new();

    for suffix in [
        "..",
        ".",
        "../x",
        "./x",
        "a/../b",
        "a/./b",
        "a/..",
        "%2e%2e/x",
        "%2E%2E",
        ".%2e",
        "%2e",
        "a/%2e%2e/b",
        "..;/x",
        "..;a=b",
        ".;",
        "%2e%2e;/x",
        "..%3b/x",
        "..%2fx",
        "..%2Fx",
        "a%2f..%2fb",
        "%2f%2e%2e",
        "..%5cx",
        "%5c..",
        "%5C%2e%2e%5C",
        "a\\b",
        "..\\x",
        "a%00b",
        "%00",
        "..%00",
        "a%0d%0aX:%201",
        "a%0ab",
        "a%1fb",
        "a%7fb",
        "%",
        "a%",
        "a%2",
        "a%zz",
        "a%2g/b",
        "%252e%252e/x",
        "%252e%252e%252fx",
        "a%252f..",
        "%255c..",
        "..%253b",
        "a%2500",
        "a%250ab",
    ] {
        let path = format!("/fn/{suffix}");
        let answer = gateway.get(&path).await;
        if (answer.status(), answer.code().as_str()) != (400, "bad_path") {
            wrong.push(format!("{path}: {} {}", answer.status(), answer.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(origin.requests().len(), 0, "{:#?}", origin.requests());
}

#[tokio::test]
async fn the_join_has_exactly_one_slash() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&routes(&[
        ("bare", "/bare/*", &http(&origin, "")),
        ("slash", "/slash/*", &http(&origin, "/base/")),
        ("plain", "/plain/*", &http(&origin, "/base")),
        ("exact", "/exact", &http(&origin, "/base")),
        ("exact-bare", "/exact-bare", &http(&origin, "")),
    ]))
    .await;

    for (path, target) in [
        ("/bare/a/b", "/a/b"),
        ("/bare/", "/"),
        ("/slash/a", "/base/a"),
        ("/slash/", "/base/"),
        ("/plain/a", "/base/a"),
        ("/plain/", "/base/"),
        ("/exact", "/base"),
        ("/exact-bare", "/"),
    ] {
        assert_eq!(gateway.get(path).await.json::<Echo>().target, target, "{path}");
    }
}

#[tokio::test]
async fn the_query_arrives_as_sent_after_the_targets_own() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&routes(&[
        ("own", "/own/*", &http(&origin, "/base?code=k%20k")),
        ("none", "/none", &http(&origin, "/base")),
    ]))
    .await;

    for (path, target) in [
        ("/own/x?b=2&a=1&b=3&flag&e=", "/base/x?code=k%20k&b=2&a=1&b=3&flag&e="),
        ("/own/x", "/base/x?code=k%20k"),
        ("/none", "/base"),
        ("/none?a%5B%5D=1&a[]=2&s=a+b&=v&u=caf%C3%A9", "/base?a%5B%5D=1&a[]=2&s=a+b&=v&u=caf%C3%A9"),
        ("/none?broken=%zz&dots=../..", "/base?broken=%zz&dots=../.."),
        ("/none?next=http://h/?x", "/base?next=http://h/?x"),
    ] {
        assert_eq!(gateway.get(path).await.json::<Echo>().target, target, "{path}");
    }
}

#[tokio::test]
async fn the_host_is_the_functions_unless_said_otherwise() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&routes(&[
        ("own", "/own", &http(&origin, "/")),
        ("set", "/set", &format!("http: {{ url: '{}/', host: fn.default.example.com }}", origin.url())),
        (
            "addressed",
            "/addressed",
            &format!("http: {{ url: 'http://fn.example.com/x', address: '{}' }}", origin.addr()),
        ),
    ]))
    .await;

    for (path, host) in [
        ("/own", origin.addr().to_string()),
        ("/set", "fn.default.example.com".to_owned()),
        ("/addressed", "fn.example.com".to_owned()),
    ] {
        let echo = gateway.get(path).await.json::<Echo>();
        assert_eq!(echo.header("host"), Some(host.as_str()), "{path}");
    }
}

fn http(origin: &Origin, path: &str) -> String {
    format!("http: {{ url: '{}{path}' }}", origin.url())
}

#[tokio::test]
async fn a_path_parameter_names_the_function() {
    let origin = Origin::echo().await;
    let target = format!("openfunction: {{ function_uri: '{}/{{space}}/fn-{{name}}' }}", origin.url());
    let gateway = Gateway::start(&route("/{space}/call/{name}/*", &target)).await;

    for (path, arrives) in [
        ("/ns/call/resize/a%2Fb?x=1", "/ns/fn-resize/a%2Fb?x=1"),
        ("/ns/call/a%20b/", "/ns/fn-a%20b/"),
        ("/ns/call/caf%C3%A9/x", "/ns/fn-caf%C3%A9/x"),
        ("/ns/call/a@b;c/x", "/ns/fn-a%40b%3Bc/x"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        assert_eq!(answer.json::<Echo>().target, arrives, "{path}");
    }
    let reached = origin.requests().len();
    for path in [
        "/ns/call/%2e%2e/x",
        "/ns/call/../x",
        "/ns/call/a%2Fb/x",
        "/ns/call/a%5Cb/x",
        "/%2e%2e/call/a/x",
        "/ns/call/%252e%252e/x",
        "/ns/call/a%00/x",
        "/ns/call/%FF/x",
        "/ns/call/a%2/x",
    ] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_path"), "{path}");
    }
    assert_eq!(gateway.get("/ns/call//x").await.code(), "no_route");
    assert_eq!(origin.requests().len(), reached, "nothing of what was refused arrived");
}

#[tokio::test]
async fn a_path_parameter_is_one_label_of_the_host() {
    let origin = Origin::echo().await;
    let target = format!(
        "openfunction: {{ function_uri: '{}/', host: '{{name}}.default.ofn.io', allow: [ 'img-*', hello ] }}",
        origin.url()
    );
    let gateway = Gateway::start(&route("/fn/{name}/*", &target)).await;

    for (name, host) in [("hello", "hello.default.ofn.io"), ("img-resize", "img-resize.default.ofn.io")] {
        let echo: Echo = gateway.get(&format!("/fn/{name}/x")).await.json();
        assert_eq!((echo.header("host"), echo.target.as_str()), (Some(host), "/x"));
    }
    for (name, status, code) in [
        ("other", 404, "no_route"),
        ("img-x.kube-system", 400, "bad_path"),
        ("img-x%2Ekube-system", 400, "bad_path"),
        ("img-x:80", 400, "bad_path"),
        ("img-x%0d%0aX", 400, "bad_path"),
    ] {
        let answer = gateway.get(&format!("/fn/{name}/x")).await;
        assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{name}");
    }
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn a_name_that_is_refused_goes_nowhere() {
    let refusing = Refusing::new();
    let at = refusing.addr();
    let iam = "authorization: { iam: { accesskey: AK, secretkey: sk } }";
    let targets = [
        ("http", format!("http: {{ url: 'http://{at}/{{name}}', allow: [ 'img-*' ] }}")),
        ("ofn", format!("openfunction: {{ function_uri: 'http://{at}/{{name}}', allow: [ 'img-*' ] }}")),
        ("host", format!("http: {{ url: 'http://{at}/', host: '{{name}}.ofn.io', allow: [ 'img-*' ] }}")),
        ("azure", format!("azure_functions: {{ function_uri: 'http://{at}/{{name}}', allow: [ 'img-*' ] }}")),
        (
            "knative",
            format!("knative: {{ service: '{{name}}', domain: x.io, address: '{at}', allow: [ 'img-*' ] }}"),
        ),
        (
            "openfaas",
            format!("openfaas: {{ gateway_uri: 'http://{at}', function: '{{name}}', allow: [ 'img-*' ] }}"),
        ),
        ("url", format!("aws_lambda: {{ function_uri: 'http://{at}/{{name}}', allow: [ 'img-*' ] }}")),
        (
            "signed",
            format!("aws_lambda: {{ function_uri: 'http://{at}/{{name}}', allow: [ 'img-*' ], {iam} }}"),
        ),
        (
            "invoke",
            format!(
                "aws_lambda: {{ function: '{{name}}', region: us-east-1, endpoint: 'http://{at}', allow: [ 'img-*' ], {iam} }}"
            ),
        ),
        (
            "whisk",
            format!(
                "openwhisk: {{ api_host: 'http://{at}', service_token: 'u:k', namespace: g, action: '{{name}}', allow: [ 'img-*' ] }}"
            ),
        ),
    ];
    let patience = "\n    cold_start: { hold: 30s }\n    retry: { on: [ connect ] }";
    let yaml = targets.iter().fold("routes:\n".to_owned(), |yaml, (name, target)| {
        let patience = if ["signed", "invoke", "whisk"].contains(name) { "" } else { patience };
        yaml + &format!(
            "  - name: {name}\n    match: {{ path: '/{name}/{{name}}' }}\n    target: {{ {target} }}{patience}\n"
        )
    });
    let suffix = format!("openfaas: {{ gateway_uri: 'http://{at}', allow: [ 'img-*' ] }}");
    let yaml = yaml
        + &format!(
            "  - name: suffix\n    match: {{ path: '/suffix/*' }}\n    target: {{ {suffix} }}{patience}\n"
        );
    let gateway = Gateway::start(&yaml).await;

    for name in targets.iter().map(|(name, _)| *name).chain(["suffix"]) {
        for (asked, status, code) in [("other", 404, "no_route"), ("img-%2Fx", 400, "bad_path")] {
            let answer = gateway.post(&format!("/{name}/{asked}"), "{}").await;
            assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{name} {asked}");
            let line = gateway.line_of(&answer).await;
            assert_eq!((&line["attempts"], &line["route"]), (&0.into(), &name.into()), "{line}");
        }
    }
}

#[tokio::test]
async fn a_path_parameter_names_an_action() {
    let origin = Origin::http1().reply(|_| Reply::json(&serde_json::json!({ "ok": true }))).start().await;
    let target = format!(
        "openwhisk: {{ api_host: '{}', service_token: 'u:k', namespace: guest, package: '{{pkg}}', action: '{{name}}' }}",
        origin.url()
    );
    let gateway = Gateway::start(&route("/act/{pkg}/{name}", &target)).await;

    assert_eq!(gateway.get("/act/utils/my%20action@1").await.status(), 200);
    let called = origin.only_request().target().to_owned();
    let path = called.split('?').next().unwrap();
    assert_eq!(path, "/api/v1/namespaces/guest/actions/utils/my%20action%401");

    for name in ["-x", "a%2Fb", "..", "%2e%2e", "x%20"] {
        let answer = gateway.get(&format!("/act/utils/{name}")).await;
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_path"), "{name}");
    }
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_parameter_in_the_host_needs_a_name_for_tls() {
    let yaml = |more: &str| {
        let target =
            format!("openfunction: {{ function_uri: 'https://10.0.0.7/', host: '{{name}}.ofn.io'{more} }}");
        route("/fn/{name}/*", &target)
    };
    check(&yaml("")).await.refuses(&["the name for SNI cannot", "give `sni`"]);
    check(&yaml(", sni: 'any.ofn.io'")).await.accepts();
}
