//! What a function is sent, and what a client gets, reads back as what was meant: the fields of the other side as they were, but for
//! those that the gateway or the platform answers for, of which there is exactly what was meant.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use fngate::downstream::Ends;
use fngate::gateway::forward::{self, Asker, Trust};
use fngate::platforms::{Call, Origin, Streamed, StreamedTarget, Target};
use fngate::upstream::Use;
use fngate::values::Scheme;
use fngate_fuzz::{Sent, fields, function, is_of_the_hop, lower, read_request, values};
use http::request::Parts;
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use pingora_http::{RequestHeader, ResponseHeader};

// The first byte chooses function and direction, the second whether the peer is a trusted proxy; the rest is the head.
fuzz_target!(|input: &[u8]| {
    let [choice, trust, bytes @ ..] = input else { return };
    let known = &FUNCTIONS[usize::from(*choice) % FUNCTIONS.len()];
    match choice {
        0..128 => request(known, trust % 2 == 0, bytes),
        128.. => response(known, bytes),
    }
});

struct Known {
    target: StreamedTarget,
    /// Its own path and query.
    path: &'static str,
    query: Option<&'static str>,
    host: &'static str,
    credential: Option<(&'static str, &'static str)>,
    /// What no client may say to it.
    drops: fn(&str) -> bool,
    /// What is made of the client's.
    changes: &'static [&'static str],
}

static FUNCTIONS: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let known = |target: &str| {
        let Target::Streamed(target) = function(target) else { panic!("{target} is not streamed") };
        Known {
            target,
            path: "/base",
            query: Some("own=1"),
            host: "127.0.0.1:1",
            credential: None,
            drops: |_| false,
            changes: &[],
        }
    };
    vec![
        Known {
            credential: Some(("x-api-key", "k")),
            ..known("http: { url: 'http://127.0.0.1:1/base?own=1', headers: { x-api-key: k } }")
        },
        Known {
            credential: Some(("authorization", "Basic dTpw")),
            ..known(
                "openfunction: { function_uri: 'http://127.0.0.1:1/base?own=1', authorization: { service_token: 'u:p' } }",
            )
        },
        Known {
            query: None,
            host: "hello.default.example.com",
            drops: |name| name.starts_with("k-") || name.starts_with("knative-serving-"),
            changes: &["user-agent"],
            ..known("knative: { service: hello, domain: example.com, address: '127.0.0.1:1', path: /base }")
        },
        Known {
            credential: Some(("x-functions-key", "k")),
            drops: |name| {
                let reserved = ["x-functions-", "x-ms-client-principal", "x-ms-token-", "x-arr-", "x-waws-"];
                name != "x-functions-key" && reserved.iter().any(|prefix| name.starts_with(prefix))
                    || name.starts_with("x-appservice-")
                    || ["disguised-host", "x-original-url", "was-default-hostname"].contains(&name)
                    || ["client-ip", "x-client-ip", "x-client-port"].contains(&name)
            },
            changes: &["accept-encoding"],
            ..known(
                "azure_functions: { function_uri: 'http://127.0.0.1:1/base?own=1', authorization: { apikey: k } }",
            )
        },
        Known {
            path: "/function/hello",
            query: None,
            credential: Some(("authorization", "Bearer t")),
            drops: |name| name.starts_with("x-openfaas-") || ["x-call-id", "x-start-time"].contains(&name),
            ..known(
                "openfaas: { gateway_uri: 'http://127.0.0.1:1', function: hello, authorization: { token: t } }",
            )
        },
        Known {
            credential: Some(("x-api-key", "k")),
            drops: |name| name.starts_with("x-amz-") || name.starts_with("x-amzn-"),
            ..known(
                "aws_lambda: { function_uri: 'http://127.0.0.1:1/base?own=1', authorization: { apikey: k } }",
            )
        },
    ]
});

fn request(known: &Known, is_trusted: bool, bytes: &[u8]) {
    let Some((asked, _)) = read_request(bytes) else { return };
    let trusted: &[IpNet] = if is_trusted { &[PEER_NET.parse().unwrap()] } else { &[] };
    let (client, trust) = forward::client(PEER, &asked.headers, trusted);
    assert_eq!(trust, if is_trusted { Trust::Peer } else { Trust::Nobody });
    let adopted = forward::accepted_request_id(&asked.headers).filter(|_| is_trusted);
    let request_id = adopted.unwrap_or("own-id");
    let authority = asked.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let peers = Origin { scheme: Scheme::Http, authority };
    let origin = if is_trusted { forward::origin_before(&asked, peers) } else { peers };

    let mut req = asked.clone();
    forward::forget_case(&mut req);
    let mut req = Parts::from(req);
    req.version = http::Version::HTTP_11;
    let call = Call { origin, request_id, client, ..fngate_fuzz::call(&asked) };
    let ends = Ends::new(PEER, 9080);
    forward::leave_connection(&mut req.headers, Use::Exchange);
    let host = asked.headers.get("host").cloned();
    forward::announce(&mut req.headers, Asker { ends, is_tls: false, host, client, trust, request_id })
        .unwrap();
    if known.target.rewrite_request(&call, &mut req).is_err() {
        return;
    }
    let sent = Sent::parse(&req.into());

    assert_eq!(sent.method, asked.method.as_str());
    assert_eq!(sent.target, known.target_of(&call));
    assert_eq!(sent.values("host"), [known.host.as_bytes()]);
    assert_eq!(sent.values("x-request-id"), [request_id.as_bytes()]);
    assert_eq!(sent.values("x-real-ip"), [client.to_string().as_bytes()]);
    if let Some((name, value)) = known.credential {
        assert_eq!(sent.values(name), [value.as_bytes()]);
    }
    let was = fields(&asked.headers);
    forwarding(&sent, &was, is_trusted);

    let answered_for = |name: &str| {
        SET.contains(&name)
            || known.changes.contains(&name)
            || known.credential.is_some_and(|(n, _)| n == name)
    };
    for (name, _) in was.iter().chain(&sent.fields).filter(|(name, _)| !answered_for(name)) {
        let is_dropped = is_of_the_hop(&was, name)
            || (known.drops)(name)
            || !is_trusted && name.starts_with("x-forwarded-");
        let meant = if is_dropped { vec![] } else { values(&was, name) };
        assert_eq!(sent.values(name), meant, "{name}");
    }
    for name in known.changes {
        assert!(sent.values(name).len() <= values(&was, name).len(), "{name}");
    }
}

impl Known {
    fn target_of(&self, call: &Call<'_>) -> String {
        let client = call.query.filter(|query| !query.is_empty());
        let queries: Vec<_> = [self.query, client].into_iter().flatten().collect();
        let mark = if queries.is_empty() { "" } else { "?" };
        format!("{}/{}{mark}{}", self.path, call.suffix.expect("the route has one"), queries.join("&"))
    }
}

/// What a function is told of the way to it.
fn forwarding(sent: &Sent, was: &[(String, Vec<u8>)], is_trusted: bool) {
    let chain = sent.values("x-forwarded-for");
    assert_eq!(chain.len(), 1);
    let hops = std::str::from_utf8(chain[0]).expect("addresses and what a proxy wrote are ASCII");
    assert_eq!(hops.rsplit(',').next().map(str::trim), Some("10.0.0.1"));
    if !is_trusted {
        assert_eq!(hops, "10.0.0.1");
        assert_eq!(sent.values("x-forwarded-proto"), [b"http"]);
        assert_eq!(sent.values("x-forwarded-port"), [b"9080"]);
        assert_eq!(sent.values("x-forwarded-host"), values(was, "host"));
    }
    for (name, own) in
        [("x-forwarded-proto", &b"http"[..]), ("x-forwarded-port", b"9080"), ("forwarded", b"")]
    {
        let said = values(was, name);
        match (is_trusted && !said.is_empty(), own.is_empty()) {
            (true, _) => assert_eq!(sent.values(name), said, "{name}"),
            (false, true) => assert!(sent.values(name).is_empty(), "{name}"),
            (false, false) => assert_eq!(sent.values(name), [own], "{name}"),
        }
    }
}

fn response(known: &Known, bytes: &[u8]) {
    let Some(said) = read_response(bytes) else { return };
    let was = fields(&said.headers);
    let mut resp = said.clone();
    if forward::adopt(&mut resp, "own-id").is_err() {
        return;
    }
    let asked = RequestHeader::build("GET", b"/fn/x", None).unwrap();
    if known.target.map_response(|| fngate_fuzz::call(&asked), &mut resp).is_err() {
        return;
    }

    let mut out = format!("HTTP/1.1 {} ", resp.status.as_u16()).into_bytes();
    out.extend_from_slice(resp.get_reason_phrase().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    resp.header_to_h1_wire(&mut out);
    out.extend_from_slice(b"\r\n");
    let mut room = [httparse::EMPTY_HEADER; 512];
    let mut got = httparse::Response::new(&mut room);
    assert_eq!(got.parse(&out), Ok(httparse::Status::Complete(out.len())));

    assert_eq!(got.code, Some(said.status.as_u16()));
    assert_eq!(got.reason.unwrap_or_default(), said.get_reason_phrase().unwrap_or_default());
    let got = lower(got.headers);
    let is_interim = said.status.is_informational();
    let is_of_this_hop = |name: &str| {
        let is_pingoras = ["connection", "content-length", "date", "transfer-encoding"].contains(&name);
        !is_pingoras && is_of_the_hop(&was, name)
    };
    for (name, _) in was.iter().chain(&got) {
        let meant = values(&was, name);
        let now = values(&got, name);
        match name.as_str() {
            "x-request-id" if !is_interim => assert_eq!(now, [b"own-id"]),
            name if is_of_this_hop(name) => assert!(now.is_empty(), "{name}"),
            "content-length" | "transfer-encoding" if is_interim || said.status == 204 => {
                assert!(now.is_empty(), "{name}");
            }
            "connection" if is_interim => assert!(now.is_empty()),
            "content-length" => {
                let is_same = |said: &&[u8]| plain(said).starts_with(now[0]);
                assert!(now.len() == 1 && plain(now[0]) == now[0] && meant.iter().all(is_same));
                assert!(!now[0].contains(&b','));
            }
            // Of an orchestration, and of what is held to be changed.
            "location" | "content-encoding" if known.credential == Some(("x-functions-key", "k")) => {}
            _ => assert_eq!(now, meant, "{name}"),
        }
    }
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// A number without leading zeros.
fn plain(mut digits: &[u8]) -> &[u8] {
    while let [b'0', rest @ ..] = digits
        && rest.first().is_some_and(u8::is_ascii_digit)
    {
        digits = rest;
    }
    digits
}

/// An answer's head as Pingora makes one of what `httparse` reads.
fn read_response(bytes: &[u8]) -> Option<ResponseHeader> {
    let mut room = [httparse::EMPTY_HEADER; 64];
    let mut read = httparse::Response::new(&mut room);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    if !config.parse_response(&mut read, bytes).is_ok_and(|status| status.is_complete()) {
        return None;
    }
    let status = read.code.filter(|code| (200..=599).contains(code))?;
    // Pingora takes a length that is said twice, if it is the same, and nothing else than a number.
    let lengths = read.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("content-length"));
    let mut lengths =
        lengths.flat_map(|field| field.value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let first = lengths.next();
    if lengths.any(|length| Some(length) != first) || first.is_some_and(|length| !is_number(length)) {
        return None;
    }
    let mut resp = ResponseHeader::build(status, None).unwrap();
    resp.set_reason_phrase(read.reason).ok()?;
    for field in read.headers {
        resp.append_header(field.name.to_owned(), field.value).ok()?;
    }
    Some(resp)
}

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PEER_NET: &str = "10.0.0.0/8";

/// Looked at on their own.
const SET: [&str; 8] = [
    "host",
    "x-request-id",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-host",
    "forwarded",
];
