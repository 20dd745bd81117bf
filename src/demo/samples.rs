//! What the demo is configured with and what it tells people to type.
//!
//! Pure text: it never starts anything. A path stands both in a route and in a sample; a test holds them together.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{
    AWS_ACCESS_KEY, AWS_API_KEY, AWS_REGION, AWS_SECRET_KEY, AZURE_KEY, Functions, KNATIVE_DOMAIN,
    OPENWHISK_TOKEN,
};

/// What one platform shows.
#[derive(Debug)]
pub struct Group {
    /// The platform, and what there is to see.
    pub title: &'static str,
    pub samples: Vec<Sample>,
}

/// One thing to try.
#[derive(Debug)]
pub struct Sample {
    /// A command line for a POSIX shell.
    pub command: String,
    /// Pieces of text that its output contains in this order, with ` … ` between them. The first may be a status.
    pub answer: &'static str,
}

/// The configuration file of the demo.
pub fn config(functions: &Functions, listen: SocketAddr, admin: SocketAddr) -> String {
    let Functions { openfunction, openwhisk, knative, aws_lambda, azure_functions, openfaas, plain, .. } =
        functions;
    let api = format!(
        "endpoint: 'http://{aws_lambda}', region: {AWS_REGION}, \
         authorization: {{ iam: {{ accesskey: {AWS_ACCESS_KEY}, secretkey: {AWS_SECRET_KEY} }} }}"
    );
    format!(
        r#"listeners:
  - address: "{listen}"
admin:
  address: "{admin}"
defaults:
  openwhisk:
    api_host: http://{openwhisk}
    service_token: "{OPENWHISK_TOKEN}"
    namespace: guest
  knative: {{ domain: {KNATIVE_DOMAIN}, address: "{knative}" }}
  azure_functions: {{ authorization: {{ apikey: {AZURE_KEY} }} }}
  openfaas: {{ gateway_uri: "http://{openfaas}" }}
routes:
  - name: hello
    match: {{ path: "/hello/*" }}
    target:
      openfunction: {{ function_uri: "http://{openfunction}/default/function-sample" }}
  - name: token
    match: {{ path: /token }}
    target:
      openfunction:
        function_uri: http://{openfunction}/header
        authorization: {{ service_token: "test:test" }}
  - name: slow
    match: {{ path: /slow }}
    target:
      openfunction: {{ function_uri: "http://{openfunction}/slow", timeout: 2000 }}
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
  - name: whisk-fail
    match: {{ path: /whisk/fail }}
    target:
      openwhisk: {{ action: fail }}
  - name: knative-hello
    match: {{ path: "/knative/hello/*" }}
    target:
      knative: {{ service: hello }}
  - name: knative-cold
    match: {{ path: /knative/cold }}
    cold_start: {{ hold: 30s }}
    target:
      knative: {{ service: cold }}
  - name: knative-full
    match: {{ path: /knative/full }}
    target:
      knative: {{ service: full }}
  - name: lambda-hello
    match: {{ path: /lambda/hello }}
    target:
      aws_lambda: {{ {api}, function: hello }}
  - name: lambda-queue
    match: {{ path: /lambda/queue }}
    target:
      aws_lambda: {{ {api}, function: hello, invocation: event }}
  - name: lambda-stream
    match: {{ path: /lambda/stream }}
    target:
      aws_lambda: {{ {api}, function: stream, invocation: stream }}
  - name: lambda-fail
    match: {{ path: /lambda/fail }}
    target:
      aws_lambda: {{ {api}, function: fail }}
  - name: lambda-url
    match: {{ path: "/lambda/url/*" }}
    target:
      aws_lambda:
        function_uri: http://{aws_lambda}/prod/hello
        authorization: {{ apikey: {AWS_API_KEY} }}
  - name: azure
    match: {{ path: "/azure/*" }}
    target:
      azure_functions: {{ function_uri: "http://{azure_functions}/api" }}
  - name: faas-hello
    match: {{ path: "/faas/hello/*" }}
    target:
      openfaas: {{ function: hello }}
  - name: faas-queue
    match: {{ path: /faas/queue }}
    target:
      openfaas: {{ function: hello, mode: async }}
  - name: faas-asleep
    match: {{ path: /faas/asleep }}
    target:
      openfaas: {{ function: asleep }}
  - name: faas-images
    match: {{ path: "/fn/{{name}}/*" }}
    target:
      openfaas: {{ function: "{{name}}", allow: [ "img-*" ] }}
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
pub fn samples(listen: SocketAddr, admin: SocketAddr) -> Vec<Group> {
    let (listen, admin) = (listen.to_string(), admin.to_string());
    let sample = |&(command, answer): &(&str, &'static str)| Sample {
        command: command.replace("GATEWAY", &listen).replace("ADMIN", &admin),
        answer,
    };
    let group = |&(title, samples): &(&'static str, &[(&str, &'static str)])| Group {
        title,
        samples: samples.iter().map(sample).collect(),
    };
    SAMPLES.iter().map(group).collect()
}

/// What the demo prints once it serves.
pub fn banner(listen: SocketAddr, admin: SocketAddr) -> String {
    let mut text = format!("fngate demo: gateway on http://{listen}, admin on http://{admin}\n");
    let groups = samples(listen, admin);
    let commands = groups.iter().flat_map(|group| &group.samples).map(|sample| sample.command.len());
    let width = commands.max().unwrap_or_default();
    for Group { title, samples } in &groups {
        let _ = writeln!(text, "{title}");
        for Sample { command, answer } in samples {
            let _ = writeln!(text, "  {command:width$}  # {answer}");
        }
    }
    text.push_str("Ctrl-C ends it.\n");
    text
}

/// Per platform: a title, then commands and what they print.
#[rustfmt::skip]
const SAMPLES: &[(&str, &[(&str, &str)])] = &[
    ("OpenFunction: the rest of the path, the route's own token, events, a function slower than its timeout", &[
        ("curl GATEWAY/hello/Ada", "Hello, Ada!"),
        ("curl -H 'Authorization: Bearer mine' GATEWAY/token", "[Basic dGVzdDp0ZXN0]"),
        ("curl -N GATEWAY/events", "event 1 of 5 … event 5 of 5"),
        ("curl 'GATEWAY/slow?ms=5000'", "upstream_timeout"),
    ]),
    ("OpenWhisk: a JSON object as input, the whole request as input, an action that fails", &[
        (r#"curl --json '{"name":"Ada"}' GATEWAY/whisk/hello"#, r#"{"hello":"Ada"}"#),
        ("curl -X PUT 'GATEWAY/whisk/web/a/b?x=1'", r#""__ow_path":"/a/b""#),
        ("curl -i GATEWAY/whisk/fail", "502 … This action always fails."),
    ]),
    ("Knative: services behind one ingress, one that has to be started first, one that takes no more", &[
        ("curl GATEWAY/knative/hello/Ada", "Hello, Ada!"),
        ("curl GATEWAY/knative/cold", "Hello, World!"),
        ("curl -i GATEWAY/knative/full", "503 … pending request queue full"),
    ]),
    ("AWS Lambda: signed calls that are awaited, queued, streamed or fail; a URL that asks for a key", &[
        (r#"curl --json '{"name":"Ada"}' GATEWAY/lambda/hello"#, r#"{"hello":"Ada"}"#),
        ("curl -i --json '{}' GATEWAY/lambda/queue", "202 … x-amzn-requestid"),
        ("curl -N GATEWAY/lambda/stream", "piece 1 of 5 … piece 5 of 5"),
        ("curl -i GATEWAY/lambda/fail", "502 … function_error"),
        ("curl GATEWAY/lambda/url/Ada", "Hello, Ada!"),
    ]),
    ("Azure Functions: called with the app's key; an orchestration, whose location leads through the gateway", &[
        ("curl GATEWAY/azure/hello/Ada", "Hello, Ada!"),
        ("curl -i -X POST GATEWAY/azure/orchestrators/hello", "202 … /azure/runtime/webhooks/"),
    ]),
    ("OpenFaaS: called, queued, not scaled up in time; functions that the path names, as far as they are allowed", &[
        ("curl GATEWAY/faas/hello/Ada", "Hello, Ada!"),
        ("curl -i -d '' GATEWAY/faas/queue", "202 … x-call-id"),
        ("curl -i GATEWAY/faas/asleep", "504 … upstream_timeout"),
        ("curl GATEWAY/fn/img-resize/a.png", "Resized a.png."),
        ("curl GATEWAY/fn/billing/all", "no_route"),
    ]),
    ("Others: a plain server, a function that is not there, the numbers", &[
        ("curl 'GATEWAY/plain/a%20b?x=1'", "GET /a%20b?x=1"),
        ("curl GATEWAY/down", "upstream_connect"),
        ("curl -s ADMIN/metrics", "fngate_http_requests_total"),
    ]),
];
