//! What the demo is configured with and what it tells people to type.
//!
//! Pure text: it never starts anything. A path stands both in a route and in a sample; a test holds them together.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{Functions, OPENWHISK_TOKEN};

/// One thing to try.
#[derive(Debug)]
pub struct Sample {
    /// Which feature it shows.
    pub shows: &'static str,
    /// A command line for a POSIX shell.
    pub command: String,
    /// Text that its output contains.
    pub answer: &'static str,
}

/// The configuration file of the demo.
pub fn config(functions: &Functions, listen: SocketAddr, admin: SocketAddr) -> String {
    let Functions { openfunction, openwhisk, plain, .. } = functions;
    format!(
        r#"listeners:
  - address: {listen}
admin:
  address: {admin}
defaults:
  openwhisk:
    api_host: http://{openwhisk}
    service_token: "{OPENWHISK_TOKEN}"
    namespace: guest
routes:
  - name: hello
    match: {{ path: "/hello/*" }}
    target:
      openfunction: {{ function_uri: "http://{openfunction}/default/function-sample" }}
  - name: echo
    match: {{ path: /echo }}
    target:
      openfunction: {{ function_uri: "http://{openfunction}/echo" }}
  - name: token
    match: {{ path: /token }}
    target:
      openfunction:
        function_uri: http://{openfunction}/header
        authorization: {{ service_token: "test:test" }}
  - name: slow
    match: {{ path: /slow }}
    target:
      openfunction: {{ function_uri: "http://{openfunction}/slow", timeout: 3000 }}
  - name: events
    match: {{ path: /events }}
    target:
      openfunction: {{ function_uri: "http://{openfunction}/events" }}
  - name: whisk-hello
    match: {{ path: /whisk/hello }}
    target:
      openwhisk: {{ action: hello }}
  - name: whisk-web
    match: {{ path: "/whisk/web/*" }}
    target:
      openwhisk: {{ action: web, input: web }}
  - name: whisk-binary
    match: {{ path: /whisk/binary }}
    target:
      openwhisk: {{ action: binary }}
  - name: whisk-slow
    match: {{ path: /whisk/slow }}
    target:
      openwhisk: {{ action: slow, timeout: 1000 }}
  - name: whisk-fail
    match: {{ path: /whisk/fail }}
    target:
      openwhisk: {{ action: fail }}
  - name: plain
    match: {{ path: "/plain/*" }}
    target:
      http: {{ url: "http://{plain}", headers: {{ x-added-by: fngate }} }}
  - name: down
    match: {{ path: /down }}
    target:
      http: {{ url: "http://127.0.0.1:1" }}
"#
    )
}

/// What to type, in the order in which it is told.
pub fn samples(listen: SocketAddr, admin: SocketAddr) -> Vec<Sample> {
    let gateway = format!("http://{listen}");
    let sample = |shows, command: &str, answer| Sample {
        shows,
        command: command.replace("GATEWAY", &gateway).replace("ADMIN", &format!("http://{admin}")),
        answer,
    };
    vec![
        sample("OpenFunction: the rest of the path is the suffix", "curl GATEWAY/hello/Ada", "Hello, Ada!"),
        sample("OpenFunction: the body goes through", "curl -d gateway GATEWAY/echo", "Hello, gateway!"),
        sample(
            "OpenFunction: the service token replaces the client's credentials",
            "curl -H 'Authorization: Bearer mine' GATEWAY/token",
            "[Basic dGVzdDp0ZXN0]",
        ),
        sample("OpenFunction: one event every half second", "curl -N GATEWAY/events", "data: event 1 of 5"),
        sample(
            "OpenFunction: an answer that takes its time",
            "curl 'GATEWAY/slow?ms=1500'",
            "Answered after 1500 ms.",
        ),
        sample("OpenFunction: slower than its timeout", "curl 'GATEWAY/slow?ms=5000'", "upstream_timeout"),
        sample(
            "OpenWhisk: a JSON object is the action's input",
            r#"curl --json '{"name":"Ada"}' GATEWAY/whisk/hello"#,
            r#"{"hello":"Ada"}"#,
        ),
        sample(
            "OpenWhisk: the action sees method, path, query and headers",
            "curl -X PUT 'GATEWAY/whisk/web/a/b?x=1'",
            r#""__ow_path":"/a/b""#,
        ),
        sample(
            "OpenWhisk: Base64 becomes an image",
            "curl -s -o /dev/null -w '%{http_code} %{content_type}\\n' GATEWAY/whisk/binary",
            "200 image/png",
        ),
        sample(
            "OpenWhisk: not finished after one second, so 202 and its activation id",
            "curl GATEWAY/whisk/slow",
            "activationId",
        ),
        sample(
            "OpenWhisk: an action that reports an error",
            "curl GATEWAY/whisk/fail",
            "This action always fails.",
        ),
        sample(
            "HTTP: the request as a plain server sees it",
            "curl 'GATEWAY/plain/a%20b?x=1'",
            "GET /a%20b?x=1",
        ),
        sample("A function that is not there", "curl GATEWAY/down", "upstream_connect"),
        sample("A path without a route", "curl GATEWAY/nowhere", "no_route"),
        sample("The numbers", "curl -s ADMIN/metrics", "fngate_http_requests_total"),
    ]
}

/// What the demo prints once it serves.
pub fn banner(listen: SocketAddr, admin: SocketAddr) -> String {
    let mut text = format!("fngate demo: gateway on http://{listen}, admin on http://{admin}\n");
    for Sample { shows, command, answer } in samples(listen, admin) {
        let _ = write!(text, "\n# {shows}\n{command}\n    {answer}\n");
    }
    text.push_str("\nCtrl-C ends it.\n");
    text
}
