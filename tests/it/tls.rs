//! TLS on both sides: which certificate a client is shown and when it changes, and which functions are believed to be
//! who they say they are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::*;

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_asked_for() {
    let (one, two) = (Ca::new(), Ca::new());
    let origin = Origin::echo().await;
    let (site, other) = (one.leaf(&["site.test"]), two.leaf(&["other.test", "*.wild.test"]));
    let gateway = Gateway::builder()
        .file("site.pem", &site.cert)
        .file("site.key", &site.key)
        .file("other.pem", &other.cert)
        .file("other.key", &other.key)
        .start(&format!(
            "listeners:
  - address: 127.0.0.1:$PORT
  - address: 127.0.0.1:$TLS_PORT
    tls:
      - {{ cert: $DIR/site.pem, key: $DIR/site.key }}
      - {{ cert: $DIR/other.pem, key: $DIR/other.key }}
{}",
            to(&origin, "")
        ))
        .await;

    // Each client trusts one authority only, so that a handshake tells which certificate it was shown.
    for (ca, name) in [(&one, "site.test"), (&two, "other.test"), (&two, "any.wild.test")] {
        let mut client = Client::tls(gateway.tls_addr(), ca.client(&[]), name).await;
        assert_eq!(client.call(&Request::get("/fn")).await.status(), 200, "{name}");
    }
    assert!(Client::try_tls(gateway.tls_addr(), one.client(&[]), "other.test").await.is_err());
}

#[tokio::test]
async fn the_protocol_is_agreed_on() {
    let ca = Ca::new();
    let origin = Origin::echo().await;
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &to(&origin, "")).await;

    let http2 = Http2::connect(gateway.tls_addr(), ca.client(&["h2", "http/1.1"]), "localhost").await;
    let answer = http2.call(Http2::get("https://localhost/fn")).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
    gateway.access_log(1).await;

    for alpn in [&["http/1.1"][..], &[]] {
        let mut http1 = Client::tls(gateway.tls_addr(), ca.client(alpn), "localhost").await;
        let echo = http1.call(&Request::get("/fn")).await.json::<Echo>();
        assert_eq!(echo.header("x-forwarded-proto"), Some("https"), "{alpn:?}");
    }
    let log = gateway.access_log(3).await;
    let protocols: Vec<_> = log.iter().map(|line| line["protocol"].as_str().unwrap()).collect();
    assert_ne!(protocols[0], protocols[1]);
    assert_eq!(protocols[1], protocols[2]);
}

#[tokio::test]
async fn a_client_without_tls_is_turned_away_and_nobody_else_suffers() {
    let ca = Ca::new();
    let origin = Origin::echo().await;
    let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &to(&origin, "")).await;

    let mut plain = Client::connect(gateway.tls_addr()).await;
    plain.send("GET /fn HTTP/1.1\r\nHost: h\r\n\r\n").await;
    plain.rest().await;

    let mut client = Client::tls(gateway.tls_addr(), ca.client(&[]), "localhost").await;
    assert_eq!(client.call(&Request::get("/fn")).await.status(), 200);
    assert_eq!(origin.requests().len(), 1);
    gateway.counts("fngate_tls_handshakes_failed_total", &[], 1.0).await;
}

#[tokio::test]
async fn a_changed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let (old, new) = (Ca::new(), Ca::new());
    let origin = Origin::echo().await;
    let gateway = Gateway::start_tls(&old.leaf(&["localhost"]), &to(&origin, "")).await;
    let mut before = Client::tls(gateway.tls_addr(), old.client(&[]), "localhost").await;

    let leaf = new.leaf(&["localhost"]);
    gateway.write_file("site.key", &leaf.key);
    gateway.write_file("site.pem", &leaf.cert);
    shows(&gateway, &new).await;
    assert_eq!(before.call(&Request::get("/fn")).await.status(), 200, "an open connection lives on");

    gateway.write_file("site.pem", "not a certificate");
    gateway.says("site.pem").await;
    assert!(Client::try_tls(gateway.tls_addr(), new.client(&[]), "localhost").await.is_ok());
}

#[tokio::test]
async fn the_end_of_a_certificate_is_measured() {
    let ca = Ca::new();
    let gateway =
        Gateway::start_tls(&ca.leaf(&["localhost"]), &route("/fn", "http: { url: 'http://127.0.0.1:1/' }"))
            .await;

    let end = gateway.metrics().await.counter("fngate_tls_certificate_not_after_seconds", &[]);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(end > now, "{end}");
}

#[tokio::test]
async fn check_refuses_what_cannot_serve() {
    let ca = Ca::new();
    let (leaf, other, expired) = (ca.leaf(&["a.test"]), ca.leaf(&["a.test"]), ca.expired_leaf(&["a.test"]));
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cert = file("good.pem", &leaf.cert);
    let key = file("good.key", &leaf.key);
    let listeners = |cert: &str, key: &str| {
        let route = route("/fn", "http: { url: 'http://127.0.0.1:1/' }");
        format!(
            "listeners: [ {{ address: '127.0.0.1:$PORT', tls: {{ cert: '{cert}', key: '{key}' }} }} ]\n{route}"
        )
    };

    check(&listeners(&cert, &key)).await.accepts();
    check(&listeners(&cert, &file("other.key", &other.key))).await.refuses(&["key"]);
    // Reported, whether or not it is a fault: a gateway with an old certificate is better than none.
    let old = check(&listeners(&file("old.pem", &expired.cert), &file("old.key", &expired.key))).await;
    assert!(old.said().contains("old.pem") && old.said().contains("expired"), "{old:#?}");
    check(&listeners("/nowhere.pem", &key)).await.refuses(&["/nowhere.pem"]);
    check(&listeners(&file("empty.pem", ""), &key)).await.refuses(&["empty.pem"]);
}

#[tokio::test]
async fn a_function_is_verified_against_its_own_authority() {
    let ca = Ca::new();
    let origin = secure(&ca.leaf(&["fn.test"])).await;
    let gateway = Gateway::builder().file("ca.pem", ca.pem()).start(&to(&origin, "ca: $DIR/ca.pem")).await;

    let echo = gateway.get("/fn").await.json::<Echo>();

    assert_eq!(origin.greeting(0).server_name.as_deref(), Some("fn.test"));
    assert_eq!(echo.header("host"), Some("fn.test"));
}

#[tokio::test]
async fn a_function_that_is_somebody_else_gets_nothing() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    for (why, leaf) in [
        ("another authority", stranger.leaf(&["fn.test"])),
        ("another name", ca.leaf(&["other.test"])),
        ("expired", ca.expired_leaf(&["fn.test"])),
    ] {
        let origin = secure(&leaf).await;
        let gateway =
            Gateway::builder().file("ca.pem", ca.pem()).start(&to(&origin, "ca: $DIR/ca.pem")).await;

        let answer = gateway.get("/fn").await;

        assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_tls"), "{why}");
        assert_eq!(origin.requests().len(), 0, "{why}");
        assert!(gateway.admin_get("/readyz").await.status() == 200);
    }
}

#[tokio::test]
async fn without_verification_any_certificate_will_do() {
    let origin = secure(&Ca::new().leaf(&["other.test"])).await;
    let gateway = Gateway::start(&to(&origin, "ssl_verify: false")).await;

    assert_eq!(gateway.get("/fn").await.status(), 200);
}

#[tokio::test]
async fn routes_of_different_trust_never_share_a_connection() {
    let ca = Ca::new();
    let origin = secure(&ca.leaf(&["fn.test"])).await;
    let target =
        |more: &str| format!("http: {{ url: 'https://fn.test/', address: '{}', {more} }}", origin.addr());
    let gateway = Gateway::builder()
        .file("ca.pem", ca.pem())
        .start(&routes(&[
            ("lax", "/lax", &target("ssl_verify: false")),
            ("strict", "/strict", &target("")),
            ("own", "/own", &target("ca: $DIR/ca.pem")),
        ]))
        .await;

    assert_eq!(gateway.get("/lax").await.status(), 200);
    assert_eq!(gateway.get("/strict").await.code(), "upstream_tls");
    assert_eq!(gateway.get("/own").await.status(), 200);
    assert_eq!(origin.requests().iter().map(|r| r.connection).collect::<Vec<_>>(), [0, 2]);
}

#[tokio::test]
async fn an_authority_that_is_no_longer_trusted_ends_the_reuse() {
    let ca = Ca::new();
    let origin = secure(&ca.leaf(&["fn.test"])).await;
    let gateway = Gateway::builder()
        .file("ca.pem", ca.pem())
        .file("other.pem", Ca::new().pem())
        .start(&to(&origin, "ca: $DIR/ca.pem"))
        .await;
    assert_eq!(gateway.get("/fn").await.status(), 200);

    assert!(gateway.reload(&to(&origin, "ca: $DIR/other.pem")).await);

    assert_eq!(gateway.get("/fn").await.code(), "upstream_tls");
}

#[tokio::test]
async fn the_name_shown_to_a_function_can_be_chosen() {
    let ca = Ca::new();
    let origin = secure(&ca.leaf(&["chosen.test"])).await;
    let gateway = Gateway::builder()
        .file("ca.pem", ca.pem())
        .start(&to(&origin, "ca: $DIR/ca.pem, host: chosen.test"))
        .await;

    let echo = gateway.get("/fn").await.json::<Echo>();

    assert_eq!(origin.greeting(0).server_name.as_deref(), Some("chosen.test"));
    assert_eq!(echo.header("host"), Some("chosen.test"));
}

#[tokio::test]
async fn http2_to_the_function_when_asked_for() {
    let ca = Ca::new();
    let leaf = ca.leaf(&["fn.test"]);
    let secure = Origin::http2().echo().tls(leaf.server(&["h2"])).start().await;
    let clear = Origin::http2().echo().start().await;
    let old = Origin::http1().echo().tls(leaf.server(&["http/1.1"])).start().await;
    let tls = |origin: &Origin, http2: &str| {
        format!(
            "http: {{ url: 'https://fn.test/x', address: '{}', ca: $DIR/ca.pem, http2: '{http2}' }}",
            origin.addr()
        )
    };
    let gateway = Gateway::builder()
        .file("ca.pem", ca.pem())
        .start(&routes(&[
            ("tls", "/tls", &tls(&secure, "on")),
            ("clear", "/clear", &format!("http: {{ url: '{}/x', http2: 'on' }}", clear.url())),
            ("old", "/old", &tls(&old, "on")),
            ("off", "/off", &tls(&old, "off")),
        ]))
        .await;

    for (path, origin) in [("/tls", &secure), ("/clear", &clear)] {
        let answer = gateway.post(path, "body").await;
        assert_eq!((answer.status(), answer.json::<Echo>().body.as_str()), (200, "body"), "{path}");
        let seen = origin.only_request();
        assert_eq!((seen.target(), seen.head.word(2)), ("/x", "HTTP/2.0"));
        assert!(
            seen.header(":authority").is_some_and(|authority| !authority.is_empty()),
            "{path}: {seen:#?}"
        );
    }
    assert_eq!(secure.greeting(0).alpn.as_deref(), Some("h2"));
    for path in ["/old", "/off"] {
        assert_eq!(gateway.get(path).await.json::<Echo>().target, "/x", "{path}");
    }
}

#[tokio::test]
async fn http2_without_keepalive_is_a_connection_per_request() {
    let origin = Origin::http2().echo().start().await;
    let target = format!("http: {{ url: '{}/', http2: 'on', keepalive: false }}", origin.url());
    let gateway = Gateway::start(&route("/fn", &target)).await;

    for _ in 0..3 {
        assert_eq!(gateway.get("/fn").await.status(), 200);
    }
    assert_eq!(origin.accepted(), 3);
}

/// Waits until new clients are shown a certificate of this authority.
async fn shows(gateway: &Gateway, ca: &Ca) {
    eventually("the new certificate", Duration::from_secs(30), async || {
        Client::try_tls(gateway.tls_addr(), ca.client(&[]), "localhost").await.ok().map(drop)
    })
    .await;
}

async fn secure(leaf: &Leaf) -> Origin {
    Origin::http1().echo().tls(leaf.server(&["http/1.1"])).start().await
}

/// A route to an origin that is called `fn.test` where TLS is spoken.
fn to(origin: &Origin, more: &str) -> String {
    match more {
        "" => route("/fn", &format!("http: {{ url: '{}/' }}", origin.url())),
        _ => route(
            "/fn",
            &format!("http: {{ url: 'https://fn.test/', address: '{}', {more} }}", origin.addr()),
        ),
    }
}
