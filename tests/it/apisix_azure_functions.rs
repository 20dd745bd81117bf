//! The acceptance cases of APISIX's `azure-functions` plugin: its attributes copied over, its answers the same or better.
//!
//! The upstream cases that only store a route (41, 52, and half of 45) are the first step of the case that calls it.

use http_body_util::BodyExt;

use crate::harness::*;

#[tokio::test]
async fn case_39_function_uri_alone_is_enough() {
    check(&route("/azure", "azure_functions: { function_uri: 'http://127.0.0.1:8765/httptrigger' }"))
        .await
        .accepts();
}

#[tokio::test]
async fn case_40_function_uri_is_required() {
    check(&route("/azure", "azure_functions: {}")).await.refuses(&["azure_functions", "function_uri"]);
}

#[tokio::test]
async fn case_41_and_42_a_function_is_called() {
    let function = faas().await;
    let gateway = Gateway::start(&route("/azure", &azure(&function, "/httptrigger", ""))).await;

    let answer = gateway.get("/azure").await;

    assert_eq!((answer.status(), answer.text().as_str()), (200, "faas invoked\n"));
    assert_eq!(answer.all("content-length"), ["13"]);
    assert_eq!(answer.header("x-extra-header"), Some("MUST"));
}

#[tokio::test]
async fn case_43_and_44_over_http2_nothing_of_the_functions_connection_is_left() {
    let ca = Ca::new();
    let function = faas().await;
    let yaml = route("/azure", &azure(&function, "/httptrigger", ""));
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
    let client = Http2::connect(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await;

    let answer = client.call(Http2::get("https://localhost/azure")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "faas invoked\n");

    let mut request = Http2::get("https://localhost/azure");
    *request.method_mut() = hyper::Method::HEAD;
    let answer = client.call(request).await.unwrap();
    for name in ["connection", "upgrade", "keep-alive"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    for (name, value) in
        [("content-type", "text/plain"), ("x-extra-header", "MUST"), ("content-length", "13")]
    {
        assert_eq!(answer.headers()[name], value, "{name}");
    }
}

#[tokio::test]
async fn case_45_the_api_key_is_added() {
    let function = faas().await;
    let keys = "authorization: { apikey: test_key }";
    let gateway = Gateway::start(&route("/azure", &azure(&function, "/azure-demo", keys))).await;

    assert_eq!(gateway.get("/azure").await.text(), "test_key");
    assert_eq!(function.only_request().all("x-functions-clientid"), [""; 0]);
}

/// There, the client's key is always the one that counts. Here it is so on request: whoever gives the route a key wants
/// it to be used, and not to be replaced by anybody who calls.
#[tokio::test]
async fn case_46_the_clients_own_key_arrives_where_it_is_preferred() {
    let function = faas().await;
    let key =
        |more: &str| azure(&function, "/azure-demo", &format!("authorization: {{ apikey: test_key{more} }}"));
    let gateway = Gateway::start(&routes(&[
        ("route", "/route", &key("")),
        ("client", "/client", &key(", prefer: client")),
        ("none", "/none", &azure(&function, "/azure-demo", "")),
    ]))
    .await;

    for (path, seen) in [("/route", "test_key"), ("/client", "clients_key"), ("/none", "clients_key")] {
        let answer = gateway.send(&Request::get(path).header("X-Functions-Key", "clients_key")).await;
        assert_eq!(answer.text(), seen, "{path}");
    }
    assert_eq!(gateway.get("/client").await.text(), "test_key");
}

/// The plugin's metadata `master_apikey` and `master_clientid`.
#[tokio::test]
async fn case_47_the_master_key_is_for_routes_without_a_key_of_their_own() {
    let function = faas().await;
    let yaml = routes(&[
        ("master", "/master", &azure(&function, "/azure-demo", "")),
        ("own", "/own", &azure(&function, "/azure-demo", "authorization: { apikey: own_key }")),
        ("empty", "/empty", &azure(&function, "/azure-demo", "authorization: {}")),
    ]);
    let master =
        "defaults:\n  azure_functions: { authorization: { apikey: master_key, clientid: master } }\n";
    let gateway = Gateway::start(&format!("{master}{yaml}")).await;

    assert_eq!(gateway.get("/master").await.text(), "master_key");
    assert_eq!(gateway.get("/own").await.text(), "own_key");
    assert_eq!(gateway.get("/empty").await.text(), "", "nothing is inherited by an authorization of its own");

    let ids: Vec<_> = function
        .requests()
        .iter()
        .map(|request| request.header("x-functions-clientid").map(str::to_owned))
        .collect();
    assert_eq!(ids, [Some("master".to_owned()), None, None], "no key gets another one's client id");
}

#[tokio::test]
async fn case_48_and_49_the_rest_of_the_path_is_forwarded() {
    let function = faas().await;
    let gateway = Gateway::start(&route("/azure/*", &azure(&function, "/api", ""))).await;

    assert_eq!(gateway.get("/azure/httptrigger").await.text(), "/api/httptrigger");
    assert_eq!(gateway.get("/azure/http/trigger").await.text(), "/api/http/trigger");
}

/// There, slashes are merged. Here the function gets what was sent: what they mean is its own affair.
#[tokio::test]
async fn case_50_repeated_slashes_arrive_as_sent() {
    let function = faas().await;
    let gateway = Gateway::start(&route("/azure/*", &azure(&function, "/api", ""))).await;

    assert_eq!(gateway.get("/azure///http////trigger").await.text(), "/api///http////trigger");
}

#[tokio::test]
async fn case_51_an_empty_rest_is_a_final_slash() {
    let function = faas().await;
    let gateway = Gateway::start(&route("/azure/*", &azure(&function, "/api", ""))).await;

    assert_eq!(gateway.get("/azure/").await.text(), "/api/");
}

#[tokio::test]
async fn case_52_a_route_is_set_anew() {
    let function = faas().await;
    let gateway = Gateway::start(&route("/azure/*", &azure(&function, "/api", ""))).await;

    assert!(gateway.reload(&route("/azure", &azure(&function, "/httptrigger", ""))).await);

    assert_eq!(gateway.get("/azure").await.text(), "faas invoked\n");
}

/// There, the key is encrypted in the store that holds it. Here nothing is stored; it can stay out of the file, and is
/// shown nowhere.
#[tokio::test]
async fn case_64_the_master_key_is_never_shown() {
    let function = faas().await;
    let yaml = route("/azure", &azure(&function, "/azure-demo", ""));
    let master = "defaults:\n  azure_functions: { authorization: { apikey: { file: master.key } } }\n";
    let gateway =
        Gateway::builder().file("master.key", "master_key\n").start(&format!("{master}{yaml}")).await;

    assert_eq!(gateway.get("/azure").await.text(), "master_key");

    let line = gateway.access_log(1).await.remove(0).to_string();
    for shown in [line, gateway.admin_get("/routes").await.text(), gateway.admin_get("/metrics").await.text()]
    {
        assert!(!shown.contains("master_key"), "{shown}");
    }
    assert!(!gateway.stderr().contains("master_key"), "{}", gateway.stderr());
}

fn azure(function: &Origin, path: &str, more: &str) -> String {
    format!("azure_functions: {{ function_uri: '{}{path}', {more} }}", function.url())
}

/// The stub of the upstream suite: `/httptrigger` says so, `/azure-demo` the key it got, all else its own path.
async fn faas() -> Origin {
    let answer = |request: &Recorded| match request.target() {
        "/httptrigger" => Reply::text(200, "faas invoked\n")
            .header("X-Extra-Header", "MUST")
            .header("Connection", "Keep-Alive")
            .header("Keep-Alive", "timeout=5"),
        "/azure-demo" => Reply::text(200, request.header("x-functions-key").unwrap_or_default()),
        path => Reply::text(200, path),
    };
    Origin::http1().reply(answer).start().await
}
